"""Re-execution and importance beside their plain forms, side by side in one run, as ratios.

python benchmarks/reexecution.py [--networks small_vgg,vgg16,…] [--images 4] [--cells 12]

For every probed layer one arm (half of its channels from another model): a full forward pass, the
re-run of what the change reaches, and the floor, the time that the operations behind the layer took
in a pass of the whole network. Then the gradients of all layers for a batch in one backward pass,
beside one backward pass an image and layer, through the graph of the whole batch (as the published
code does) and through that of the image alone; of these, `--cells` are run and scaled up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from harness.evolutions.sensitivity import maps_and_gradients
from harness.images.sets import View
from harness.networks.architectures import ARCHITECTURES, build, channels_last
from harness.networks.execution import _Traced, execution, replace_channels
from harness.networks.layers import Layer, find_layers
from harness.networks.recording import ActivationRecorder, borrowed
from harness.stages.engine import one_thread

SIZES = {"inception_v3": 299}


def drawn(name: str, images: int) -> tuple[nn.Module, list[Layer], torch.Tensor, str]:
    """A network with its probed layers, a batch of noise, and what both are called."""
    size = 64 if name in ARCHITECTURES else SIZES.get(name, 224)
    model = channels_last(build(name, 12, seed=0)).eval()
    batch = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0))
    batch = batch.contiguous(memory_format=torch.channels_last)
    return model, find_layers(model, View(size, size)), batch, f"{name}, {images} × {size} px"


def node_seconds(running: _Traced, batch: torch.Tensor, repeats: int) -> dict[Any, float]:
    """Node of the traced network -> its fastest time in a whole pass."""
    best: dict[Any, float] = {}
    for _ in range(repeats):
        values: dict[Any, Any] = {}
        inputs = iter([batch])
        for node in running._order:
            start = time.perf_counter()
            if node.op == "placeholder":
                values[node] = next(inputs, *node.args)
            else:
                values[node] = running._run(node, values)
            spent = time.perf_counter() - start
            best[node] = min(best.get(node, spent), spent)
    return best


def reexecution(name: str, images: int, repeats: int, table: Table) -> None:
    model, layers, batch, what = drawn(name, images)
    older = channels_last(build(name, 12, seed=1)).eval()
    full = ours = floor = 0.0
    equal = 0
    with torch.inference_mode(), execution(older, layers) as before:
        before.start(batch)
        old = {layer.name: before.output(layer.name) for layer in layers}
    with (
        torch.inference_mode(),
        execution(model, layers) as running,
        execution(model, layers, traced=False) as plain,
    ):
        assert isinstance(running, _Traced), f"{name} does not trace"
        running.start(batch)
        plain.start(batch)
        nodes = node_seconds(running, batch, repeats + 1)
        for layer in layers:
            change = replace_channels(layer, torch.arange(layer.channels // 2), old[layer.name])
            times: dict[Any, list[float]] = {plain: [], running: []}
            found = {}
            for _ in range(repeats):  # in turn, so that both meet the same load of the machine
                for way in times:
                    start = time.perf_counter()
                    found[way] = way.rerun({layer.name: change})
                    times[way].append(time.perf_counter() - start)
            full += min(times[plain])
            ours += min(times[running])
            floor += sum(nodes[node] for node in running._descendants[layer.name])
            equal += torch.equal(found[plain], found[running])
    table.add_row(
        what,
        str(len(layers)),
        f"{full:.2f}",
        f"{ours:.2f}",
        f"{floor:.2f}",
        f"{full / ours:.2f} ×",
        f"{ours / floor:.2f} ×",
        f"{equal} of {len(layers)}",
    )


def importance(name: str, images: int, cells: int, table: Table) -> None:
    model, layers, batch, what = drawn(name, images)
    rng = np.random.default_rng(0)
    count = min(cells, len(layers) * images)
    chosen = rng.choice(len(layers) * images, count, replace=False)
    start = time.perf_counter()
    _, ours = maps_and_gradients(model, layers, batch, 0)
    fast = time.perf_counter() - start
    alone, equal = 0.0, 0
    for cell in chosen:
        layer, image = layers[cell // images], int(cell % images)
        start = time.perf_counter()
        _, plain = maps_and_gradients(model, [layer], batch[image : image + 1], 0)
        alone += time.perf_counter() - start
        mine, theirs = ours[layer.name][image], plain[layer.name][0]
        # other kernels serve a batch of one, and can tip a unit that is all but silent
        equal += bool((mine - theirs).norm() <= 1e-2 * theirs.norm())
    graph = _through_the_batch(model, layers, batch, chosen)
    scale = len(layers) * images / count
    table.add_row(
        what,
        f"{len(layers)} × {images}",
        f"{graph * scale:.1f}",
        f"{alone * scale:.1f}",
        f"{fast:.2f}",
        f"{graph * scale / fast:.0f} ×",
        f"{alone * scale / fast:.0f} ×",
        f"{equal} of {count}",
    )


def _through_the_batch(
    model: nn.Module, layers: Sequence[Layer], batch: torch.Tensor, chosen: np.ndarray
) -> float:
    """Seconds of one backward pass an image and layer through the batch's graph, as published."""
    with (
        borrowed(model),
        ActivationRecorder(
            model, layers, lambda maps, _: maps, shares_memory=True, start_gradient=True
        ) as record,
    ):
        logits = model(batch)
        start = time.perf_counter()
        for cell in chosen:
            layer, image = layers[cell // len(batch)], int(cell % len(batch))
            torch.autograd.grad(logits[image, 0], record.kept[layer.name], retain_graph=True)
        return time.perf_counter() - start


def main(
    networks: Annotated[str, typer.Option()] = (
        "small_vgg,small_resnet,small_convnext,vgg16,resnet50,convnext_tiny,inception_v3"
    ),
    images: Annotated[int, typer.Option(min=1, help="images of a re-run")] = 4,
    gradients: Annotated[int, typer.Option(min=0, help="images of importance; 0: none")] = 32,
    cells: Annotated[int, typer.Option(min=1, help="plain passes that are really run")] = 12,
    repeats: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print two tables of seconds and ratios."""
    one_thread()
    again = Table("one arm a layer", "layers", "full, s", "ours, s", "floor, s", "faster",
                  "of the floor", "bit-equal")  # fmt: skip
    scores = Table("gradients of all layers", "layers × images", "backward each, s",
                   "pass each, s", "one pass, s", "faster", "faster", "equal")  # fmt: skip
    for name in networks.split(","):
        small = name in ARCHITECTURES
        reexecution(name, 32 if small else images, 5 if small else repeats, again)
        if gradients:
            importance(name, gradients, cells, scores)
    Console(width=130).print(again)
    if gradients:
        Console(width=130).print(scores)


if __name__ == "__main__":
    typer.run(main)
