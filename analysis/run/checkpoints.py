"""The table of the loading check of each checkpoint."""

from __future__ import annotations

from analysis.exhibits import shelf
from analysis.exhibits.tables import Table
from analysis.run.audit import tables_of_series
from harness.artifacts import Run

#: The columns of the table that the terminal shows.
NUMBERS = ["series", "epoch", "layers", "units", "outputs", "images", "accuracy"]


@shelf.table("run", "supplement")
def checkpoints(run: Run) -> Table | None:
    audited = tables_of_series(run, "audit")
    if audited is None or not run.holds("check"):
        return None
    rows = audited[["series", "epoch"]].merge(run.tables("check"), on=["series", "epoch"])
    if not set(NUMBERS) <= set(rows.columns):  # no checkpoint could be used
        return None
    notes = rows["notes"].str.replace("\n", "; ").replace("", "none")
    return Table(
        "checkpoints",
        "Checkpoints: loading check",
        "Probed layers and their units, outputs of the network, accuracy on the given number of "
        "test images (it shows only whether loading failed, because the images are few), and notes "
        "on conversions.",
        rows[NUMBERS].assign(notes=notes),
        {"accuracy": "{:.2f}"},
    )
