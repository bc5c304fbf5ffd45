"""The exhibits of the checks of checkpoints (audit of their weights, loading) and of images."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.figures import Figure, panels
from analysis.exhibits.phrases import count_places, join
from analysis.exhibits.tables import Table
from analysis.run.tables import series_of, table_of_split
from harness.artifacts import Artifact, Run
from harness.images.folders import remark_counts
from harness.predictions import note_predictions


def tables_of_series(run: Run, kind: str) -> pd.DataFrame | None:
    """Return the concatenated tables of one kind of all series; None if one is missing."""
    artifacts = [Artifact(kind, (name,)) for name in series_of(run)]
    if not all(run.path(artifact).exists() for artifact in artifacts):
        return None
    return pd.concat([run.table(artifact) for artifact in artifacts], ignore_index=True)


@shelf.table("run", "supplement")
def audit(run: Run) -> Table | None:
    rows = tables_of_series(run, "audit")
    if rows is None:
        return None
    numbers = ("norm", "step", "from_first", "to_last", "detour")
    return Table(
        "audit",
        "Audit of the checkpoints' weights",
        "All layers with weights, probed or not. Euclidean distances between the weights of a "
        "checkpoint and those of the preceding (step), first and last checkpoint of its series, "
        "from a sample of each layer's weights. Detour: distance of the checkpoint from the nearer "
        "one of the preceding and the following checkpoint, divided by the distance between those "
        "two; about 0.5 in an ordinary training run, above 1.5 for an outlying checkpoint. "
        "Unchanged layers: weights identical to those of the preceding checkpoint. Dead units: "
        "units of any layer whose incoming weights are all zero (dead neurons are defined by "
        "activations, see Method). An exactly reversed series is recognised only by the batch "
        "counters of normalisation layers. Values by layer: audit/SERIES/layers.parquet.",
        rows,
        {name: f"{{:.{count_places(rows[name], 2)}f}}" for name in numbers},
    )


@shelf.table("run", "supplement")
def audit_findings(run: Run) -> Table | None:
    rows = tables_of_series(run, "audit_findings")
    if rows is None:
        return None
    return Table(
        "audit_findings",
        "Anomalies found by the audit",
        "One row per finding: the statistic on which it rests and, where only some layers are "
        "affected, their names.",
        rows[["series", "kind", "epochs", "value", "text", "layers"]],
        {"value": "{:.3g}"},
        ("layers",),
    )


@shelf.figure("run", "supplement")
def audit_distances(run: Run) -> Figure | None:
    if not run.holds("audit_distances"):
        return None
    arrays = {name: run.arrays(Artifact("audit_distances", (name,))) for name in series_of(run)}
    by_series = {name: array for name, array in arrays.items() if len(array["epochs"]) > 1}
    if not by_series:
        return None
    canvas, grid = panels(len(by_series), 3, (2.9, 2.7), layout="constrained")
    for axes, (name, array) in zip(grid.flat, by_series.items(), strict=False):
        axes.grid(False)
        picture = axes.imshow(array["distances"], cmap="cividis")
        ticks = np.unique(np.linspace(0, len(array["epochs"]) - 1, 8).round().astype(int))
        axes.set_xticks(ticks, array["epochs"][ticks])
        axes.set_yticks(ticks, array["epochs"][ticks])
        axes.set(title=name, xlabel="epoch", ylabel="epoch")
        canvas.colorbar(picture, ax=axes, shrink=0.8, label="Euclidean distance")
    return Figure(
        "audit_distances",
        "Distances between the checkpoints' weights",
        "Euclidean distances over all layers, from a sample of each layer's weights; scales differ "
        "between panels. In an ordinary training run distances grow with the distance in epochs. A "
        "row and column of large values indicates a checkpoint of another run; small values off "
        "the diagonal indicate duplicated or exchanged checkpoints.",
        canvas,
    )


@shelf.sentences("run", "networks")
def audit_sentences(run: Run, tables: Mapping[str, Table]) -> list[str]:
    """Return the anomalies of each series, the series without any, and doubtful predictions."""
    rows = tables_of_series(run, "audit_findings")
    if rows is None:
        return []
    counts, names = run.tables("audit")["series"].value_counts(), series_of(run)
    short = [name for name in names if counts.get(name, 0) < 2]
    clean = [name for name in names if name not in {*rows["series"], *short}]
    texts = [f"{row.series}: {row.text}" for row in rows.itertuples()]
    if short:
        texts.append(f"Not audited: {join(short)}, with fewer than two readable checkpoints.")
    rest = "frozen layers, dead units or non-finite weights."
    if long := [name for name in clean if counts[name] > 2]:
        texts.append(
            f"The audit of the weights found no anomaly in {join(long)}: no duplicated, "
            f"outlying or misordered checkpoints, jumps, {rest}"
        )
    if pairs := [name for name in clean if counts[name] == 2]:
        texts.append(
            f"The audit of the weights found no anomaly in {join(pairs)}: no duplicated "
            f"checkpoints, {rest} Whether checkpoints are outlying or misordered, and jumps, "
            "cannot be tested with two checkpoints."
        )
    return [*texts, *note_predictions(_checks(run))]


#: The columns of the table that the terminal shows.
NUMBERS = ["series", "epoch", "layers", "units", "outputs", "images", "accuracy"]


def _checks(run: Run) -> pd.DataFrame:
    """Return the checks of the checkpoints that are in use; no rows if there are none."""
    used = tables_of_series(run, "audit")
    if used is None or not run.holds("check"):
        return pd.DataFrame()
    return used[["series", "epoch"]].merge(run.tables("check"), on=["series", "epoch"])


@shelf.table("run", "supplement")
def checkpoints(run: Run) -> Table | None:
    rows = _checks(run)
    if not set(NUMBERS) <= set(rows.columns):  # no checkpoint could be used
        return None
    notes = rows["notes"].str.replace("\n", "; ").replace("", "none")
    return Table(
        "checkpoints",
        "Checkpoints: loading check",
        "Probed layers and their units, outputs of the network, accuracy on the given number of "
        "test images (it shows only whether loading failed, because the images are few), and notes "
        "on conversions.",
        # counts are floats if a checkpoint that is no longer used had a problem
        rows[NUMBERS].astype(dict.fromkeys(NUMBERS[2:6], "Int64")).assign(notes=notes),
        {"accuracy": "{:.2f}"},
    )


@shelf.table("run", "supplement")
def images(run: Run) -> Table:
    rows = []
    for split in ("train", "probe", "test"):
        if (index := table_of_split(run, "image_index", split)) is None:
            continue
        counts = index["class_name"].value_counts()
        left_out = table_of_split(run, "left_out", split)
        reasons = {} if left_out is None else left_out.set_index("what")["files"].to_dict()
        rows.append(
            {"split": split, "images": len(index), "classes": len(counts),
             "smallest class": int(counts.min()),
             "converted": _list_counts(remark_counts(run, split)),
             "left out": _list_counts(reasons)}
        )  # fmt: skip
    return Table(
        "images",
        "Images",
        "Converted: number of images that were rotated, reduced to one frame or to 8 bits, etc.; "
        "images with the same bytes as another one are counted here, too. Left out: files that are "
        "not used, by suffix or reason.",
        pd.DataFrame(rows),
    )


def _list_counts(counts: dict[str, int]) -> str:
    return "; ".join(f"{count} × {what}" for what, count in counts.items()) or "none"
