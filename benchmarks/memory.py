"""Measure the peak memory of every stage of a run of vgg16 at 224 pixels, within a budget.

python benchmarks/memory.py [--memory 8] [--folder KEPT]   # an hour on one core; prints Markdown

Two checkpoints with random weights are written to files. The stages run one after another, each in
its own process, so that its peak is that of one worker. The neurons are named twice: by a CSV file
of attributes in a run on a folder of images, and by the masks of the synthetic images.
"""

import multiprocessing
import resource
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console

from harness.config import parse_config
from harness.images import drawn
from harness.images.sets import draw_arrays
from harness.networks.architectures import build
from harness.stages.run import STAGES, run_until

T = TypeVar("T")

#: Class of the own images -> numbers of probe and test images. The first class, on which
#: importance is measured, fills the default batch.
COUNTS = {"red": (22, 40), "green": (22, 4), "blue": (20, 4)}
SPLITS = ("probe", "test")
#: Number of synthetic images by which neurons are named.
MASKED = 64


def write_inputs(folder: Path) -> None:
    """Write two checkpoints, folders of images, and attributes of the test images."""
    (folder / "weights").mkdir(parents=True)
    for epoch in (1, 2):
        model = build("vgg16", len(drawn.CLASSES), epoch)
        torch.save(model.state_dict(), folder / "weights" / f"vgg16-{epoch}.pt")
    rows = ["path,odd"]
    for number, split in enumerate(SPLITS):
        names = np.repeat(list(COUNTS), [count[number] for count in COUNTS.values()])
        for index, image in enumerate(draw_arrays(number, 0, len(names))["pixels"]):
            path = folder / split / names[index] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((256, 256)).save(path)
            rows += [f"{path.parent.name}/{path.name},{index % 2}"] * (split == "test")
    (folder / "attributes.csv").write_text("\n".join(rows))


def configuration(folder: Path, images: dict[str, Any], memory: float) -> dict[str, Any]:
    """Return the configuration of a run of one worker with the default batch sizes."""
    own = images["source"] == "folder"
    outputs = {"class_outputs": {name: number for number, name in enumerate(COUNTS)}} if own else {}
    evolve: dict[str, Any] = {"methods": ["sign_t", "sign_path"], "images_per_class": 24}
    return {
        "workers": 0,
        "device": "cpu",
        "memory": memory,
        "images": images,
        "series": [
            {
                "name": "vgg16", "source": "folder", "architecture": "vgg16",
                "folder": str(folder / "weights"), "pattern": "vgg16-{epoch}.pt",
                "outputs": len(drawn.CLASSES), "resize": 256, "crop": 224, **outputs,
            }
        ],
        "evolve": evolve | ({"classes": list(COUNTS)[:1]} if own else {}),
        "revert": {"random_draws": 1, "importance_images": 2, "heldout_images": 4},
    }  # fmt: skip


def _measured(stage: str, values: dict[str, Any], out: Path) -> tuple[float, float]:
    """Run a stage; return its peak memory in GiB and its processor time in seconds."""
    run_until(stage, parse_config(values), out, Console(stderr=True))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_maxrss / 2**20, used.ru_utime + used.ru_stime


def _alone(work: Callable[..., T], *given: Any) -> T:
    """Call a function in a process of its own, and return its result."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(work, *given).result()


def main(
    memory: Annotated[float, typer.Option(help="GiB")] = 8.0,
    folder: Annotated[Path | None, typer.Option(help="for the files, which are kept")] = None,
) -> None:
    """Print a table of the peak memory and processor time of every stage."""
    with tempfile.TemporaryDirectory() as scratch:
        place = folder or Path(scratch)
        if not (place / "weights").exists():  # others would inherit its peak
            _alone(write_inputs, place)
        own = {"source": "folder", "attributes": str(place / "attributes.csv")}
        own |= {split: str(place / split) for split in SPLITS}
        masked = {"source": "drawn", "train": 12, "probe": 64, "test": MASKED}
        print(f"| stage | peak memory (`memory = {memory:g}`) | processor time |\n|---|---|---|")
        for title, images, stages in (
            ("own images", own, list(STAGES)),
            ("synthetic images", masked, ["probe"]),
        ):
            values = configuration(place, images, memory)
            for stage in stages:
                peak, seconds = _alone(_measured, stage, values, place / f"run-{images['source']}")
                print(f"| {title}: {stage} | {peak:.1f} GiB | {seconds:,.0f} s |", flush=True)


if __name__ == "__main__":
    typer.run(main)
