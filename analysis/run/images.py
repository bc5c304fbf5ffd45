"""The images of a run: their number, unused files, and conversions."""

from __future__ import annotations

import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.tables import Table
from harness.artifacts import Artifact, Run
from harness.images.folders import remark_counts

SPLITS = ("train", "probe", "test")


@shelf.table("run", "supplement")
def images(run: Run) -> Table | None:
    rows = []
    for split in SPLITS:
        artifact = Artifact("image_index", (split,))
        if not run.path(artifact).exists():
            continue
        index = run.table(artifact)
        counts = index["class_name"].value_counts()
        rows.append(
            {
                "split": split,
                "images": len(index),
                "classes": len(counts),
                "smallest class": int(counts.min()),
                "converted": _listed(remark_counts(run, split)),
                "left out": _listed(_left_out(run, split)),
            }
        )
    if not rows:
        return None
    return Table(
        "images",
        "Images",
        "Converted: number of images that were rotated, reduced to one frame or to 8 bits, etc.; "
        "images with the same bytes as another one are counted here, too. Left out: files that are "
        "not used, by suffix or reason.",
        pd.DataFrame(rows),
    )


def _left_out(run: Run, split: str) -> dict[str, int]:
    artifact = Artifact("left_out", (split,))
    if not run.path(artifact).exists():
        return {}
    table = run.table(artifact)
    return dict(zip(table["what"], table["files"], strict=True))


def _listed(counts: dict[str, int]) -> str:
    return "; ".join(f"{count} × {what}" for what, count in counts.items()) or "none"
