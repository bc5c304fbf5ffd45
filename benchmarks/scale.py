"""Measure the peak memory and time of every stage at two sizes, each in its own process.

python benchmarks/scale.py [--factor 1] [--only space]   # half an hour on two idle cores; Markdown
"""

import math
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from scipy import sparse

from analysis.statistics.classes import summary
from harness.artifacts import Artifact, Run
from harness.concepts.probing import ProbeParameters, probe_range, ranges
from harness.concepts.space_methods import SPACES, Evidence, SpaceParameters
from harness.concepts.stimuli import ProbePart, merge, responsive_table, stimuli_table
from harness.evolutions.ablation import Arm, Images, ablate
from harness.evolutions.importance import importance_method, sensitivities
from harness.evolutions.sensitivity import Case
from harness.files import write_tables
from harness.images.batches import batches
from harness.images.folders import folder_images
from harness.images.view import View
from harness.networks.architectures import build
from harness.networks.layer import ModelPair, Network
from harness.networks.layers import find_layers
from harness.records import CONTROLS, JOINT, Checkpoint
from harness.results import REVERSION, read_results, write_about
from harness.stages.engine import one_thread

SIDE = 32
VIEW = View(SIDE, SIDE)


@dataclass(frozen=True)
class Noise:
    """Images of noise, generated when they are read."""

    count: int
    classes: tuple[str, ...] = ("noise",)

    @property
    def labels(self) -> np.ndarray:
        return np.zeros(self.count, dtype=np.int64)

    def __len__(self) -> int:
        return self.count

    def pixels(self, index: int, view: View) -> np.ndarray:
        rng = np.random.default_rng(index)
        return rng.integers(0, 256, (*view.size, 3), dtype=np.uint8)


#: Work of one size, ready to be measured. For a space, it returns the processor time (s) of finding
#: the neighbours.
Ready = Callable[[], float | None]


def probing(images: int) -> Ready:
    """Probe images in ranges; join and write the records (small VGG, 312 neurons, 32 px)."""
    return partial(_probed, images)


def _probed(images: int) -> None:
    model = build("small_vgg", 12, 0)
    layers = find_layers(model, VIEW)
    parameters = ProbeParameters(range_images=1000)
    checkpoint = Checkpoint("net", 1)
    network = Network(checkpoint, model, layers, VIEW)
    with tempfile.TemporaryDirectory() as folder:
        run, parts = Run(folder), []
        for part in ranges(images, sum(layer.channels for layer in layers), parameters):
            record = probe_range(network, Noise(images), part, parameters)
            place = ("net", 1, part.start, part.stop)
            assert record.activations is not None
            run.save(Artifact("activations", place), record.activations, "")
            run.save(Artifact("probe_part", place), record.part.arrays(), "")
            run.save(Artifact("responses_part", place), record.responses, "")
            parts.append(place)
            del record
        joined = merge(ProbePart.from_arrays(run.arrays(Artifact("probe_part", p))) for p in parts)
        stimuli_table(joined, layers, checkpoint, images)
        responses = (run.table(Artifact("responses_part", p)) for p in parts)
        tables = (responsive_table(table, layers, checkpoint) for table in responses)
        write_tables(Path(folder) / "responsive.parquet", tables)


def scoring(classes: int) -> Ready:
    """Score importance by two methods, eight images per class."""
    return partial(_scored, classes)


def _scored(classes: int) -> None:
    older, newer = build("small_vgg", 12, 0), build("small_vgg", 12, 1)
    layers = find_layers(newer, VIEW)
    for class_id in range(classes):
        parts = [b for _, b in batches(Noise(8), np.arange(8), VIEW, 8)]
        for name in ("sign_t", "sign_path"):
            method, rng = importance_method(name), np.random.default_rng(class_id)
            case = Case(ModelPair(older, newer, layers), parts, class_id % 12, rng)
            sensitivities(case, method)


def undoing(classes: int) -> Ready:
    """Ablate eight arms over all layers, eight images per class."""
    return partial(_undone, classes)


def _undone(classes: int) -> None:
    older, newer = build("small_vgg", 12, 0), build("small_vgg", 12, 1)
    layers = find_layers(newer, VIEW)
    arms = [
        Arm(JOINT, {la.name: torch.arange(n, la.channels, 8) for la in layers}, [("m", "q", n)])
        for n in range(8)
    ]
    for class_id in range(classes):
        shown = Images(batches(Noise(8), np.arange(8), VIEW, 8))
        ablate(ModelPair(older, newer, layers), arms, shown, class_id % 12)


def placing(method: str, images: int, neurons: int) -> Ready:
    """Compute a space of random stimuli with ten checkpoints, and neighbours of the neurons."""
    rng = np.random.default_rng(0)
    base, k = neurons // 10, 20
    keys = {"series": "net", "epoch": np.arange(neurons) // base, "layer": "a"}
    table = pd.DataFrame({**keys, "channel": np.arange(neurons) % base})

    def marks(rows: int, each: int) -> sparse.csr_array:
        columns = rng.integers(0, images, rows * each)
        made = sparse.csr_array(
            (np.ones(rows * each), columns, np.arange(0, rows * each + 1, each)), (rows, images)
        )
        made.sum_duplicates()
        made.data[:] = 1.0
        return made

    incidence, responsive = marks(neurons, k), marks(base, max(1, 5 * images // base))

    noise = rng.standard_normal(images + neurons).astype(np.float32)

    def activations(rows: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(noise, images)[rows]

    evidence = Evidence(Checkpoint("net", 0), table, incidence, responsive, activations)
    parameters = SpaceParameters(epochs=5, dense=0.125, sketch=256)

    def place() -> float:
        space = SPACES.get(method)(evidence, parameters, np.random.default_rng(0), method)
        start = time.process_time()
        space.nearest(np.arange(base), np.arange(neurons), 5)
        return time.process_time() - start

    return place


#: Records of the reversion of a network of 13 layers, as in the published study.
_LAYERS = [*(f"layer{number}" for number in range(13)), JOINT]
_ARMS = {
    CONTROLS: [("none", 0), ("all", 0), *(("random", draw) for draw in range(5))],
    "sign_t": [("q1", 0), ("q2", 0), ("q3", 0), ("q4", 0), ("matched", 0)],
}


def averaging(classes: int) -> Ready:
    """Average the records of 250 held-out images per class for the tables of reversion."""
    folder = tempfile.TemporaryDirectory()
    run, rng, artifacts = Run(folder.name), np.random.default_rng(0), []
    labels = ["series", "ablation", "layer", "method", "arm", "split"]
    for class_id in range(classes):
        for method, arms in _ARMS.items():
            keys = [(*arm, layer) for layer in _LAYERS for arm in arms]
            table = pd.DataFrame(keys, columns=["arm", "draw", "layer"]).loc[
                np.repeat(np.arange(len(keys)), 250)
            ]
            pair = {"series": "net", "epoch_from": 1, "epoch_to": 2, "ablation": "revert"}
            table = table.assign(**pair, method=method, class_id=class_id, split="heldout")
            table["image_id"] = np.tile(np.arange(250), len(keys))
            for name in ("correct_before", "correct_after"):
                table[name] = rng.random(len(table)) < 0.5
            artifacts.append(Artifact("records", ("net", 1, 2, "revert", method, "reversion",
                                                  "heldout", class_id)))  # fmt: skip
            run.save(artifacts[-1], table.astype(dict.fromkeys(labels, "category")), "")
    about = {"methods": {"sign_t": {}}, "pairs": []}
    write_about(run, REVERSION, about, {"records": artifacts})

    def average() -> None:
        means = read_results(Path(folder.name), REVERSION).class_means("correct", True)
        for _, rows in means.groupby("layer"):
            summary(rows)

    return average


def listing(images: int) -> Ready:
    """List a folder of images."""
    folder = tempfile.TemporaryDirectory()
    for number in range(images):
        place = Path(folder.name) / f"class{number % 10}"
        place.mkdir(exist_ok=True)
        (place / f"{number}.png").touch()

    def listed() -> None:
        folder_images(Path(folder.name))  # keeps `folder` until the work is done

    return listed


def _measured(
    work: Callable[[int], Ready], warm: int, size: int, answer: multiprocessing.Queue
) -> None:
    with one_thread():
        work(warm)()  # compiles functions and loads libraries
        ready = work(size)
        before = resource.getrusage(resource.RUSAGE_SELF)
        neighbours = ready()
    after = resource.getrusage(resource.RUSAGE_SELF)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer.put((computed, after.ru_maxrss / 1024, neighbours))


#: Name of the work -> smallest and largest size, unit, work.
MEASURES: dict[str, tuple[int, int, str, Callable[[int], Ready]]] = {
    "probing": (4_000, 256_000, "images", probing),
    "importance": (10, 200, "classes", scoring),
    "ablation": (10, 200, "classes", undoing),
    **{
        f"space and neighbours: {method}": (
            2_000,
            100_000,
            "neurons",
            partial(placing, method, 20_000),
        )
        for method in ("sgns", "ppmi", "jaccard", "correlation", "profile", "random")
    },
    **{
        f"space: {method}": (20_000, 1_000_000, "images", partial(placing, method, neurons=2_000))
        for method in ("sgns", "ppmi", "jaccard", "correlation", "profile")
    },
    "tables of reversion": (10, 200, "classes", averaging),
    "listing a folder": (5_000, 256_000, "images", listing),
}


def main(
    factor: Annotated[float, typer.Option(help="of all sizes")] = 1.0,
    only: Annotated[str, typer.Option(help="rows whose names hold this")] = "",
) -> None:
    """Print a table of each stage at two sizes, with the exponents of its growth between them."""
    print("| what | size | processor time | of it neighbours | peak memory | exponent | memory |")
    print("|---|---|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for name, (small, large, unit, work) in MEASURES.items():
        if only not in name:
            continue
        rows = []
        for size in (int(small * factor), int(large * factor)):
            answer = context.Queue()
            process = context.Process(target=_measured, args=(work, small // 4 or 1, size, answer))
            process.start()
            computed, peak, neighbours = answer.get()
            process.join()
            rows.append((size, computed, peak, (neighbours or 0.0) / max(computed, 1e-9)))
        growth = math.log(rows[1][0] / rows[0][0])
        power = math.log(max(rows[1][1], 1e-3) / max(rows[0][1], 1e-3)) / growth
        sizes, times, peaks, shares = (
            " → ".join(form.format(row[column]) for row in rows)
            for column, form in enumerate(("{:,}", "{:.2f} s", "{:,.0f} MiB", "{:.0%}"))
        )
        change = f"× {rows[1][2] / rows[0][2]:.2f}"
        shares = shares if "space" in name else ""
        cells = (name, f"{sizes} {unit}", times, shares, peaks, f"{power:.2f}", change)
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
