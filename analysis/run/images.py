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
        if (index := _read_table(run, "image_index", split)) is None:
            continue
        counts = index["class_name"].value_counts()
        left_out = _read_table(run, "left_out", split)
        reasons = {} if left_out is None else left_out.set_index("what")["files"].to_dict()
        rows.append(
            {"split": split, "images": len(index), "classes": len(counts),
             "smallest class": int(counts.min()),
             "converted": _list_counts(remark_counts(run, split)),
             "left out": _list_counts(reasons)}
        )  # fmt: skip
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


def _read_table(run: Run, kind: str, split: str) -> pd.DataFrame | None:
    artifact = Artifact(kind, (split,))
    return run.table(artifact) if run.path(artifact).exists() else None


def _list_counts(counts: dict[str, int]) -> str:
    return "; ".join(f"{count} × {what}" for what, count in counts.items()) or "none"
