"""What the check found of each checkpoint."""

from __future__ import annotations

from analysis.exhibits import shelf
from analysis.exhibits.tables import Table
from analysis.run.audit import tables_of_series
from harness.artifacts import Run

#: What the terminal shows of the table.
NUMBERS = ["series", "epoch", "layers", "units", "outputs", "images", "accuracy"]


@shelf.table("run", "networks")
def checkpoints(run: Run) -> Table | None:
    audited = tables_of_series(run, "audit")
    if audited is None or not run.holds("check"):
        return None
    rows = audited[["series", "epoch"]].merge(run.tables("check"), on=["series", "epoch"])
    if not set(NUMBERS) <= set(rows.columns):  # none could be used
        return None
    notes = rows["notes"].str.replace("\n", "; ").replace("", "none")
    return Table(
        "checkpoints",
        "Checkpoints as they were read",
        "Layers that are probed and their units, the network's outputs, the accuracy on a few test "
        "images, and what was taken, converted or noticed.",
        rows[NUMBERS].assign(notes=notes),
        {"accuracy": "{:.2f}"},
    )
