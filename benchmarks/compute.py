"""How fast the kernels are beside their plain forms, side by side in one run, as ratios.

python benchmarks/compute.py [--network small_vgg] [--images 32]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy import sparse
from scipy.sparse.linalg import lsqr

from harness.concepts.image_embedding import mean_over_stimuli, solve_image_vectors
from harness.concepts.stimuli import TopK
from harness.evolutions.sensitivity import maps_and_gradients
from harness.images.sets import View
from harness.networks.architectures import build, channels_last
from harness.networks.execution import execution, replace_channels
from harness.networks.layers import find_layers
from harness.stages.engine import one_thread


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of a few runs after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main(
    network: Annotated[str, typer.Option(help="small_vgg, vgg16, …")] = "small_vgg",
    images: Annotated[int, typer.Option(help="images per batch")] = 32,
    size: Annotated[int, typer.Option(help="side of an image, pixels")] = 64,
) -> None:
    """Print a table: work, plain seconds, ours, ratio."""
    one_thread()
    rng = np.random.default_rng(0)
    table = Table("work", "plain, s", "ours, s", "ratio")

    def row(work: str, plain: Callable[[], object], ours: Callable[[], object]) -> None:
        slow, fast = seconds(plain, 1), seconds(ours)
        table.add_row(work, f"{slow:.4f}", f"{fast:.4f}", f"{slow / fast:.1f} ×")

    stimuli = np.zeros((200, 4000))
    for neuron in stimuli:
        neuron[rng.choice(4000, 20, replace=False)] = 1
    incidence, vectors = sparse.csr_array(stimuli), rng.normal(size=(200, 30))
    means = mean_over_stimuli(incidence)
    row(
        "image vectors, 200 neurons × 4,000 images (scipy lsqr, a column at a time)",
        lambda: [lsqr(means, column, atol=1e-10, btol=1e-10) for column in vectors.T],
        lambda: solve_image_vectors(incidence, vectors),
    )

    values = torch.rand(640, 4224)
    row(
        "top-20 of 640 images, 4,224 neurons (a full stable sort)",
        lambda: values.sort(dim=0, descending=True, stable=True),
        lambda: _stream(values, images),
    )

    model = channels_last(build(network, 12, seed=0)).eval()
    older = channels_last(build(network, 12, seed=1)).eval()
    layers = find_layers(model, View(size, size))
    batch = torch.randn(images, 3, size, size).contiguous(memory_format=torch.channels_last)
    row(
        f"gradients of {len(layers)} layers, {images} images, {network} (a pass for each)",
        lambda: [
            maps_and_gradients(model, [layer], batch[i : i + 1], 0)
            for layer in layers
            for i in range(images)
        ],
        lambda: maps_and_gradients(model, layers, batch, 0),
    )

    with torch.inference_mode(), execution(older, layers) as before:
        before.start(batch)
        old = {layer.name: before.output(layer.name) for layer in layers}

        def arms(traced: bool) -> Callable[[], object]:
            def work() -> None:
                with execution(model, layers, traced) as running:
                    running.start(batch)
                    for layer in layers:
                        half = torch.arange(layer.channels // 2)
                        for _ in range(8):
                            change = replace_channels(layer, half, old[layer.name])
                            running.rerun({layer.name: change})

            return work

        row(f"reversion, 8 arms a layer, {network} (a full pass an arm)", arms(False), arms(True))
    Console().print(table)


def _stream(values: torch.Tensor, size: int) -> None:
    top = TopK(values.shape[1], 20)
    positions = torch.zeros(values.shape, dtype=torch.int32)
    for start in range(0, len(values), size):
        ids = torch.arange(start, min(start + size, len(values)))
        top.update(values[ids], positions[ids], ids)


if __name__ == "__main__":
    typer.run(main)
