"""The report of a run: every registered table and figure, and what they say in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from rich import box
from rich.table import Table as ScreenTable

from analysis.exhibits import shelf
from analysis.exhibits.figures import styled
from analysis.exhibits.report import write_html
from analysis.exhibits.tables import Table
from analysis.run import audit as run_audit  # noqa: F401 - registers its exhibits
from analysis.run import figures as run_figures  # noqa: F401 - registers the figures
from analysis.run import tables as run_tables
from analysis.statistics.classes import by_class, class_interval, wide
from harness.artifacts import Run
from harness.records import JOINT, PAIR
from harness.results import REVERSION, has_results, read_results


@dataclass(frozen=True)
class Written:
    """What a report left: its main table for the screen, and the paths of all files."""

    summary: ScreenTable | str
    paths: list[Path]


def write_report(run: Run) -> Written:
    """Write tables (CSV, Markdown, LaTeX), figures (PNG, PDF) and report.html under `report/`."""
    folder = run.root / "report"
    shelf.use("run", own_exhibits(run))
    tables = shelf.tables_of("run", run)
    with styled():
        figures = shelf.figures_of("run", run)
        for table in tables.values():
            table.write(folder / "tables")
        for figure in figures.values():
            figure.write(folder / "figures")
        manifest = run.manifest()
        versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
        write_html(
            folder / "report.html",
            "How concepts evolve in training",
            _lead(run, tables),
            shelf.sections_of("run", run, tables, figures),
            f"Made by conceptevo-harness, seed {manifest['configuration']['seed']}; "
            f"Python {manifest['python']}, {versions}.",
        )
        plt.close("all")
    main = tables.get("reversion")
    return Written(
        summary=reversion_on_screen(main) if main else "no reversion was made",
        paths=[folder / "report.html", folder / "tables", folder / "figures"],
    )


def own_exhibits(run: Run) -> list[str]:
    """What the run's configuration adds to the reports."""
    return run.manifest()["configuration"].get("report", {}).get("exhibits", [])


def on_screen(table: Table) -> ScreenTable:
    """A table for the terminal."""
    screen = ScreenTable(title=table.title)
    shown = table.shown()
    for name in shown.columns:
        numeric = pd.api.types.is_numeric_dtype(table.frame[name])
        screen.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in shown.to_numpy().tolist():
        screen.add_row(*row)
    return screen


def plain_on_screen(frame: pd.DataFrame, title: str) -> ScreenTable:
    """A frame of words and numbers for the terminal."""
    screen = ScreenTable(title=title, padding=(0, 1, 0, 0), box=box.SIMPLE_HEAD)
    for name in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        screen.add_column(str(name), justify="right" if numeric else "left", no_wrap=True)
    for row in frame.itertuples(index=False):
        screen.add_row(
            *("–" if v != v else f"{v:.2f}" if isinstance(v, float) else str(v) for v in row)
        )
    return screen


def reversion_on_screen(table: Table) -> ScreenTable:
    """The reversion table in 80 columns: effects alone; tests are in the files."""
    frame = table.frame
    effects = [name for name in frame.columns[4:] if name != "all" and not name.startswith("p (")]
    screen = ScreenTable(title=table.title, padding=(0, 1, 0, 0), box=box.SIMPLE_HEAD)
    for name in ("epochs", "by", *effects):
        screen.add_column(name, justify="left" if name in ("epochs", "by") else "right")
    for _, row in frame.iterrows():
        numbers = [f"{row[name]:+.2f}".replace("0.", ".") for name in effects[1:]]
        before = f"{row[effects[0]]:.2f}".replace("0.", ".")
        screen.add_row(f"{row['series']} {row['epochs']}", row["method"], before, *numbers)
    return screen


def _lead(run: Run, tables: dict[str, Table]) -> str:
    neurons = tables["neurons"].frame
    return (
        f"{neurons['series'].nunique()} training runs with {len(neurons)} checkpoints, "
        f"{int(neurons['alive'].sum())} living neurons: which concepts they detect, how these "
        "appear and change while the networks train, and what happens to the predictions when "
        "the changes are undone."
    )


shelf.section(
    "run",
    "networks",
    "The networks",
    [
        "A checkpoint is a network's weights at one epoch; the checkpoints of one training run "
        "form "
        "a series. A neuron is one channel of one probed layer."
    ],
)
shelf.section(
    "run",
    "concepts",
    "What neurons detect, and when",
    [
        "For each neuron, the probe images that excite it most are its stimuli. Neurons that share "
        "stimuli are placed near each other in one semantic space, and neurons of all other "
        "checkpoints are placed in it through the images that excite them."
    ],
)
shelf.section(
    "run",
    "space",
    "How far the space can be trusted",
    lambda run: (
        [
            "What the images show is known, by masks of their parts or by attributes, so the "
            "concept of "
            "a neuron can be determined without looking. Simpler ways to compare neurons stand "
            "beside "
            "the paper's skip-gram (sgns), on the same neurons; the untrained networks are the "
            "baseline."
        ]
        * run.holds("concepts")
    ),
)
shelf.section(
    "run",
    "reversion",
    "Do the evolutions matter to the predictions?",
    [
        "For a class and two epochs, every neuron's change is scored by how much it matters to the "
        "class. In the newer network, a set of neurons is then set back to what it does in the "
        "older "
        "one on the same image, and the rest of the network runs on. If the score is meaningful, "
        "undoing the most important quarter (q1) must hurt more than undoing a random quarter, and "
        "the least important (q4) less; and neurons that changed as much as those of q1 but were "
        "not "
        "scored important must do less harm (matched)."
    ],
)
shelf.section(
    "run",
    "limits",
    "Limits",
    [
        "Intervals and tests treat classes as the sampled units and the networks as given: one "
        "training run a series says nothing about other seeds. Matched sets can only be as alike "
        "as "
        "the layer allows."
    ],
)


@shelf.sentences("run", "limits")
def linearising(run: Run, tables: Mapping[str, Table]) -> list[str]:
    """Which of the run's scores approximate the intervention by which they are judged."""
    if not has_results(run, REVERSION):
        return []
    methods = read_results(run.root, REVERSION).about["methods"]
    names = [name for name, about in methods.items() if about["linearises"] == "revert"]
    if not names:
        return []
    return [
        f"{', '.join(names)} {'approximates' if len(names) == 1 else 'approximate'} the very "
        "intervention by which scores are judged here, so that success says less than that of a "
        "score that knows the older network alone."
    ]


@shelf.sentences("run", "space")
def largest_shares(run: Run, tables: Mapping[str, Table]) -> list[str]:
    """The method with the largest share in each group of neurons; the table has all of them."""
    if (table := tables.get("alignment")) is None:
        return []
    findings = []
    for group, rows in table.frame.groupby("group", sort=False):
        ranked = rows.sort_values("share", ascending=False)
        best = ranked.iloc[0]
        sentence = (
            f"{str(group).capitalize()}: {best['method']} has the largest share, "
            f"{best['share']:.2f} [{best['low']:.2f}, {best['high']:.2f}] against a chance of "
            f"{best['chance']:.2f}"
        )
        alike = [
            row.method
            for row in ranked.iloc[1:].itertuples()
            if row.high >= best["low"] and row.method != "random"
        ]
        if alike:
            sentence += f"; its interval overlaps with {', '.join(alike)}"
        findings.append(sentence + ".")
    return findings


@shelf.sentences("run", "reversion")
def changes_of_accuracy(run: Run, tables: Mapping[str, Table]) -> list[str]:
    """What undoing does by the first method, pair by pair, with intervals; only from the data."""
    if not has_results(run, REVERSION):
        return []
    records = run_tables.reversion_records(run)
    method = run.manifest()["importance_methods"][0]
    chosen = records[
        (records["layer"] == JOINT)
        & (records["split"] == "heldout")
        & (records["method"] == method)
    ]
    findings = []
    for (series, start, end), rows in chosen.groupby(PAIR, observed=True):
        changes = class_interval(wide(by_class(rows)))
        parts = []
        for arm, name in (
            ("q1", "most important quarter"),
            ("random", "a random quarter"),
            ("q4", "least important quarter"),
            ("matched", "matched quarter"),
        ):
            if arm in changes.index:
                mean, low, high = 100 * changes.loc[arm]
                parts.append(f"{name} {mean:+.1f} [{low:+.1f}, {high:+.1f}]")
        findings.append(
            f"{series}, epochs {start} → {end}, scored by {method}: change of accuracy in points "
            "when undoing the " + ", ".join(parts) + "."
        )
    return findings
