"""Compare the speed of every stage with plain code, run in turn with one thread, as ratios.

python benchmarks/speed.py [--networks small_vgg,vgg16,…] [--repeats 3]     # Markdown; 10 minutes

Per network, it measures (1) the time that recording adds to a forward pass; (2) one arm per layer
(half of the channels from another model), compared with calling the modules after the layer by hand
(sequential networks only), with a full pass, and with the floor: the time of the operations after
the layer in a full pass; (3) the gradients of all layers at once, compared with one backward pass
per image and layer through the graph of the batch, as in the published code, of which `--cells` are
run and extrapolated. Then it measures the map in a new process, and all stages of a small VGG and
their plain forms. Times are processor times, the smallest of the repeats.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from plain_stages import CLASS, by_hand, in_turn, stages
from torch import Tensor, nn

from harness.concepts.map import project
from harness.concepts.probing import ProbeParameters, RangeRecord
from harness.concepts.space import SemanticSpace
from harness.evolutions.importance import importance_method, sensitivities
from harness.evolutions.sensitivity import Case, maps_and_gradients
from harness.images.view import View
from harness.networks.architectures import ARCHITECTURES, build, channels_last
from harness.networks.devices import CPU
from harness.networks.execution import _Traced, execution, replace_channels
from harness.networks.layer import Layer, ModelPair
from harness.networks.layers import find_layers
from harness.networks.recording import borrow, record_maps
from harness.networks.running import run_network
from harness.records import Checkpoint
from harness.stages.engine import one_thread

SIDES = {"inception_v3": 299}
#: Networks that call their modules one after the other.
SEQUENCES = ("small_vgg", "vgg16")
#: Number of earlier images of a recording; it decides for how many images peaks must be found.
SEEN = 1200
MOST_LAYERS = 24


@dataclass(frozen=True, eq=False)
class Subject:
    """Two networks of one architecture with different weights, their layers, a batch of noise."""

    name: str
    older: nn.Module
    model: nn.Module
    layers: Sequence[Layer]
    batch: Tensor

    @property
    def size(self) -> str:
        return f"{self.name}, {len(self.batch)} × {self.batch.shape[-1]} px"


def subject(name: str, images: int) -> Subject:
    side = 64 if name in ARCHITECTURES else SIDES.get(name, 224)
    older, model = (channels_last(build(name, 12, seed=seed)).eval() for seed in (1, 0))
    batch = torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(0))
    layers = find_layers(model, View(side, side))
    return Subject(name, older, model, layers, channels_last_batch(batch))


def channels_last_batch(batch: Tensor) -> Tensor:
    return batch.contiguous(memory_format=torch.channels_last)


def recording(of: Subject, repeats: int) -> list[str]:
    """Compare recording a batch after SEEN earlier images with a bare forward pass."""
    model, layers, batch = of.model, of.layers, of.batch
    count = len(batch)
    images = range(SEEN + repeats * count)
    recorded = RangeRecord(layers, images, ProbeParameters(activations=False), CPU)
    ids = iter(range(SEEN, SEEN + repeats * count, count))
    with (
        borrow(model),
        torch.inference_mode(),
        record_maps(model, layers, lambda maps, layer: layer.strength(maps).amax(2)) as maps,
    ):
        run_network(model, batch)
        seen = torch.cat([maps[layer.name] for layer in layers], dim=1)
    draw = torch.Generator().manual_seed(0)
    rows = seen[torch.randint(count, (SEEN,), generator=draw)]
    rows += seen.std(dim=0) * torch.randn(rows.shape, generator=draw)
    recorded.add(torch.arange(SEEN), [(rows, torch.zeros_like(rows, dtype=torch.int64))])

    def ours() -> None:
        with record_maps(model, layers, recorded.keep) as kept:
            run_network(model, batch)
            first = next(ids)
            recorded.add(torch.arange(first, first + count), [kept[layer.name] for layer in layers])

    with borrow(model), torch.inference_mode():
        best, _ = in_turn(repeats, bare=lambda: model(batch), ours=ours)
    return [
        of.size,
        str(sum(layer.channels for layer in layers)),
        f"{best['bare']:.3f}",
        f"{best['ours']:.3f}",
        f"{best['ours'] / best['bare']:.3f}",
    ]


def node_seconds(running: _Traced, batch: Tensor) -> dict[Any, float]:
    """Return the time of each node of the traced network in a full pass."""
    spent, values = {}, dict[Any, Any]()
    inputs = iter([batch])
    for node in running._order:
        start = time.process_time()
        if node.op == "placeholder":
            values[node] = next(inputs, *node.args)
        else:
            values[node] = running._run(node, values)
        spent[node] = time.process_time() - start
    return spent


def reverting(of: Subject, repeats: int) -> list[str]:
    """Measure the re-run after each layer, of at most MOST_LAYERS evenly spaced layers."""
    step = -(-len(of.layers) // MOST_LAYERS)
    layers, batch = of.layers[::step], of.batch
    inplace: list[Any] = [m for m in of.model.modules() if getattr(m, "inplace", False) is True]
    total, equal = dict[str, float](), 0
    with torch.inference_mode(), execution(of.older, layers) as before:
        before.start(batch)
        old = {layer.name: before.output(layer.name).clone() for layer in layers}
    with (
        torch.inference_mode(),
        execution(of.model, layers) as running,
        execution(of.model, layers, traced=False) as plain,
    ):
        assert isinstance(running, _Traced), f"{of.name} does not trace"
        running.start(batch)
        plain.start(batch)
        passes = [node_seconds(running, batch) for _ in range(repeats + 1)]
        floor = {node: min(one[node] for one in passes) for node in passes[0]}
        for layer in layers:
            channels, source = torch.arange(layer.channels // 2), old[layer.name]
            change = {layer.name: replace_channels(layer, channels, source)}
            ways = {"ours": partial(running.rerun, change)}
            if of.name in SEQUENCES:
                maps = running.output(layer.name)
                behind = by_hand(of.model, layer)
                ways["hand"] = partial(_cut, maps, source, len(channels), behind, inplace)
            best, answers = in_turn(repeats, **ways)
            once, whole = in_turn(1, full=partial(plain.rerun, change))
            best |= once | {"floor": sum(floor[node] for node in running._descendants[layer.name])}
            for name, seconds in best.items():
                total[name] = total.get(name, 0.0) + seconds
            equal += all(torch.equal(answer, whole["full"]) for answer in answers.values())
    hand_ratio = f"{total['ours'] / total['hand']:.2f}" if "hand" in total else "–"
    return [
        of.size,
        str(len(layers)),
        f"{total['ours']:.2f}",
        hand_ratio,
        f"{total['ours'] / total['floor']:.2f}",
        f"{total['full'] / total['ours']:.2f}",
        f"{equal} of {len(layers)}",
    ]


def _cut(
    maps: Tensor,
    source: Tensor,
    channels: int,
    behind: Callable[[Tensor], Tensor],
    inplace: Sequence[Any],
) -> Tensor:
    """Replace the first channels of the maps by those of the source, and call the modules after
    them, with the network's own in-place operations."""
    maps = maps.clone()
    maps[:, :channels] = source[:, :channels]
    for module in inplace:
        module.inplace = True
    logits = behind(maps)
    for module in inplace:
        module.inplace = False
    return logits


def gradients(of: Subject, cells: int) -> list[str]:
    """Compare the gradients of a batch, and the score `sign_t`, with the published computation."""
    layers, batch = of.layers, of.batch
    images = len(batch)
    count = min(cells, len(layers) * images)
    chosen = np.random.default_rng(0).choice(len(layers) * images, count, replace=False)
    pair = ModelPair(of.older, of.model, layers)
    method, rng = importance_method("sign_t"), np.random.default_rng(0)
    best, answers = in_turn(
        2 if of.name in ARCHITECTURES else 1,
        published=lambda: published_gradients(of.model, layers, batch, chosen),
        once=lambda: maps_and_gradients(of.model, layers, batch, CLASS),
        score=lambda: sensitivities(Case(pair, [batch], CLASS, rng), method),
    )
    (forward, backward, plain), ours = answers["published"], answers["once"][1]
    equal = sum(
        # a backward pass of one image may use other kernels
        bool((ours[name][image] - cell).norm() <= 1e-3 * cell.norm())
        for (name, image), cell in plain.items()
    )
    each = backward * len(layers) * images / count
    return [
        of.size,
        f"{len(layers)} × {images}",
        f"{each:.1f}",
        f"{best['once']:.2f}",
        f"{each / best['once']:.0f}",
        f"{(each + 2 * forward) / best['score']:.0f}",
        f"{equal} of {count}",
    ]


def published_gradients(
    model: nn.Module, layers: Sequence[Layer], batch: Tensor, cells: Sequence[int]
) -> tuple[float, float, dict[tuple[str, int], Tensor]]:
    """Return the seconds of a forward pass, those of one backward pass through the whole batch's
    graph per cell (an image and layer), and the gradients of the cells."""
    found = {}
    with (
        borrow(model),
        record_maps(
            model,
            layers,
            lambda maps, _: maps,
            shares_memory=True,
            start_gradient=True,
        ) as kept,
    ):
        start = time.process_time()
        logits = model(batch)
        middle = time.process_time()
        for cell in cells:
            layer, image = layers[cell // len(batch)], int(cell % len(batch))
            (all_images,) = torch.autograd.grad(
                logits[image, CLASS], kept[layer.name], retain_graph=True
            )
            found[layer.name, image] = all_images[image].clone()
        return middle - start, time.process_time() - middle, found


def map_alone() -> None:
    """Compute the map of 3,000 neurons, 300 of them base neurons, twice; print both times (s)."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 30))
    vectors = centres[rng.integers(0, 20, 3000)] + 0.3 * rng.normal(size=(3000, 30))
    keys = {"series": "net", "epoch": np.repeat(np.arange(10), 300), "layer": "a"}
    neurons = pd.DataFrame({**keys, "channel": np.tile(np.arange(300), 10), "coverage": 1.0})
    space = SemanticSpace("sgns", neurons, vectors)
    for _ in range(2):
        best, _ = in_turn(1, map=lambda: project(space, Checkpoint("net", 0), 0))
        print(best["map"])


def mapping() -> list[str]:
    """Time the map in a process that must compile UMAP, and in one that finds it compiled."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        # compiles the functions that pynndescent caches itself
        subprocess.run([sys.executable, "-c", "import pynndescent"], env=environment, check=True)
        command = [sys.executable, __file__, "--map-alone"]
        shown = [
            subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            for _ in range(2)
        ]
    (first, _), (again, later) = (map(float, one.stdout.split()) for one in shown)
    return [f"{first:.1f}", f"{again:.1f}", f"{later:.1f}"]


def main(
    networks: Annotated[str, typer.Option()] = (
        "small_vgg,small_resnet,small_convnext,vgg16,resnet50,convnext_tiny,inception_v3,vit_b_16"
    ),
    cells: Annotated[int, typer.Option(min=1, help="published passes that are really run")] = 6,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    map_only: Annotated[bool, typer.Option("--map-alone", hidden=True)] = False,
) -> None:
    """Print tables of seconds and ratios."""
    if map_only:
        with one_thread():
            map_alone()
        return
    tables: dict[str, list[list[str]]] = {name: [] for name in COLUMNS}
    with one_thread():
        for name in networks.split(","):
            small = name in ARCHITECTURES
            more = 5 * repeats if small else repeats
            of = subject(name, 64 if small else 4)
            tables["recording"].append(recording(of, 2 * more))
            tables["reversion"].append(reverting(of, more))
            of = subject(name, 32 if small or name == "vgg16" else 8)
            tables["importance"].append(gradients(of, cells))
            print(*(rows[-1] for rows in tables.values() if rows), os.getloadavg(), file=sys.stderr)
        tables["stages"] = stages(repeats)
    tables["map"].append(mapping())
    for name, rows in tables.items():
        head = COLUMNS[name]
        print(
            "", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)), sep="\n"
        )


#: Name of a table -> its header.
COLUMNS = {
    "recording": ("recording", "units", "bare pass, s", "recorded, s", "÷ bare pass"),
    "reversion": ("one arm a layer", "layers", "ours, s", "÷ by hand", "÷ floor", "full ÷ ours",
                  "bit-equal"),
    "importance": ("gradients of all layers", "layers × images", "published, s", "ours, s",
                   "published ÷ ours", "`sign_t`: published ÷ ours", "equal"),
    "stages": ("stage of a small VGG", "plain, s", "ours, s", "plain ÷ ours", "same results"),
    "map": ("map: the first on a machine, s", "the first of a process, s", "later, s"),
}  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
