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
from analysis.exhibits.phrases import percent, signed, span
from analysis.exhibits.report import write_html
from analysis.exhibits.tables import Table
from analysis.run import audit as run_audit  # noqa: F401 - registers its exhibits
from analysis.run import checkpoints as run_checkpoints  # noqa: F401 - registers its table
from analysis.run import figures as run_figures  # noqa: F401 - registers the figures
from analysis.run import images as run_images  # noqa: F401 - registers its table
from analysis.run import published as run_published  # noqa: F401 - registers its table
from analysis.run import tables as run_tables
from analysis.statistics.alignment import NAMED_OVERLAP
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
            {"../explore.html": "Interactive map of all neurons (written by `conceptevo explore`)"},
        )
        plt.close("all")
    main = tables.get("reversion")
    return Written(
        summary=reversion_on_screen(main) if main else "the run has no reversion study",
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
        f"{int(neurons['alive'].sum())} active neurons: which concepts they detect, how these "
        "concepts appear and change during training, and how the predictions change when their "
        "evolution is reverted."
    )


shelf.section("run", "summary", "Summary")
shelf.section(
    "run",
    "networks",
    "Networks",
    [
        "A checkpoint is the state of a network at one epoch; the checkpoints of one training run "
        "form a series. A neuron is one channel of one probed layer."
    ],
)
shelf.section(
    "run",
    "concepts",
    "Concepts and their evolution",
    [
        "The stimuli of a neuron are the probe images that activate it most. Neurons of the base "
        "checkpoint that share stimuli are embedded near each other in one semantic space; neurons "
        "of all other checkpoints are embedded in the same space through their stimuli."
    ],
)
shelf.section(
    "run",
    "space",
    "Validity of the semantic space",
    lambda run: (
        [
            "Part masks or attributes of the images define the true concept of a neuron without "
            "human judgement. The paper's skip-gram embedding (sgns) is compared with simpler "
            "methods on the same neurons; untrained networks are the baseline."
        ]
        * run.holds("concepts")
    ),
)
shelf.section(
    "run",
    "reversion",
    "Importance of evolutions to the predictions",
    [
        "For a class and two epochs, an importance score is computed for the change of every "
        "neuron. The activations of a set of neurons in the later checkpoint are then replaced by "
        "those of the earlier checkpoint for the same image, and the rest of the network is "
        "computed as usual. If the score is valid, reverting the most important quarter (q1) "
        "reduces accuracy more than reverting a random quarter, and reverting the least important "
        "quarter (q4) reduces it less; reverting neurons that changed as much as those of q1 but "
        "were not scored important (matched) also reduces it less."
    ],
)
shelf.section(
    "run",
    "limits",
    "Limits",
    [
        "Classes are the sampled units of intervals and tests, and the networks are fixed: one "
        "training run per series gives no information about other seeds. Sets can be matched only "
        "as closely as the neurons of a layer allow."
    ],
)


@shelf.sentences("run", "summary")
def main_results(run: Run, tables: Mapping[str, Table]) -> list[str]:
    """Sample, space, concepts, reversion and its limits in one sentence each, from the tables."""
    sentences = [_sample(tables["neurons"].frame)]
    if (alignment := tables.get("alignment")) is not None:
        sentences += _concepts(run, tables["neurons"].frame) + _neighbours(alignment.frame)
    if (reversion := tables.get("reversion")) is not None:
        sentences += _importance(reversion.frame)
    return sentences


def _sample(neurons: pd.DataFrame) -> str:
    dead, total = int(neurons["dead"].sum()), int(neurons["neurons"].sum())
    return (
        f"{total - dead:,} of {total:,} neurons in {len(neurons)} checkpoints of "
        f"{neurons['series'].nunique()} training runs are active on at least one probe image; "
        + (f"the {dead:,} others are excluded." if dead else "none is excluded.")
    )


def _concepts(run: Run, neurons: pd.DataFrame) -> list[str]:
    """How many neurons and concepts the first and the last checkpoint of each series have."""
    named = run.tables("concepts")
    named = named[named["iou"] >= NAMED_OVERLAP]
    parts = []
    for series, epochs in neurons.groupby("series", sort=False)["epoch"]:
        of = named[named["series"] == series].groupby("epoch")["concept"]
        ends = [int(epochs.min()), int(epochs.max())]
        count, kinds = (f.reindex(ends, fill_value=0).tolist() for f in (of.size(), of.nunique()))
        parts.append(
            f"{series} from {count[0]} neurons for {kinds[0]} concepts (epoch {ends[0]}) to "
            f"{count[1]} for {kinds[1]} (epoch {ends[1]})"
        )
    return [
        f"Neurons whose overlap with a true concept is at least {NAMED_OVERLAP}: "
        f"{'; '.join(parts)}."
    ]


def _neighbours(alignment: pd.DataFrame) -> list[str]:
    """The first space method on the other trained networks, or on what there is of them."""
    groups = [g for g in alignment["group"].unique() if "untrained" not in str(g).lower()]
    method = alignment["method"].iloc[0]
    return [
        f"Of the five nearest base neurons of a neuron ({group}; {method} space), "
        f"{percent(row.share)} have its true concept (95 % CI [{percent(row.low)}, "
        f"{percent(row.high)}]; chance {percent(row.chance)})."
        for group in groups[-1:]
        for row in alignment[
            (alignment["group"] == group) & (alignment["method"] == method)
        ].itertuples()
    ]


def _importance(reversion: pd.DataFrame) -> list[str]:
    """What the first method's quarters cost, over all pairs, and how sure that is."""
    method = reversion["method"].iloc[0]
    mine = reversion[reversion["method"] == method]
    last = [c for c in mine.columns if c.startswith("q") and c[1:].isdigit()][-1]
    arms = {"q1": "the most important quarter", "random": "random sets",
            last: "the least important quarter"}  # fmt: skip
    means = ", ".join(
        f"{signed(100 * mine[arm].mean(), '.1f')} for {name}" for arm, name in arms.items()
    )
    ordered = int(((mine["q1"] < mine["random"]) & (mine["random"] < mine[last])).sum())
    significant = int((mine["p (q1 vs random)"] < 0.05).sum())
    return [
        f"Reverting the evolutions of a set of neurons in all layers changes held-out accuracy by "
        f"(percentage points, mean over {len(mine)} pairs of epochs, importance by {method}) "
        f"{means}.",
        f"This order holds in {ordered} of {len(mine)} pairs, and the difference between the most "
        f"important quarter and random sets is significant in {significant} (Wilcoxon over "
        "classes, Holm-adjusted).",
    ]


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
        f"{', '.join(names)} {'approximates' if len(names) == 1 else 'approximate'} the "
        "intervention by which scores are evaluated here; high performance is therefore weaker "
        "evidence than for a score that uses only the earlier network's gradient."
    ]


@shelf.sentences("run", "reversion")
def measured_on(run: Run, tables: Mapping[str, Table]) -> list[str]:
    """What importance is measured on."""
    if not has_results(run, REVERSION):
        return []
    return read_results(run.root, REVERSION).measured_on


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
            f"{str(group).capitalize()}: {best['method']} has the highest share, "
            f"{best['share']:.3f} (95 % CI [{best['low']:.3f}, {best['high']:.3f}]; chance "
            f"{best['chance']:.3f})"
        )
        alike = [
            row.method
            for row in ranked.iloc[1:].itertuples()
            if row.high >= best["low"] and row.method != "random"
        ]
        if alike:
            sentence += f"; the CIs of {', '.join(alike)} overlap with it"
        findings.append(sentence + ".")
    return findings


@shelf.sentences("run", "reversion")
def changes_of_accuracy(run: Run, tables: Mapping[str, Table]) -> list[str]:
    """Change in accuracy by the first method when evolutions are reverted, a sentence a pair."""
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
            ("q1", "the most important quarter"),
            ("random", "a random quarter"),
            ("q4", "the least important quarter"),
            ("matched", "the matched quarter"),
        ):
            if arm in changes.index:
                change = changes.loc[arm]
                ends = "" if pd.isna(change.low) else f" {span(change, '.1f', 100)}"
                parts.append(f"{name} {signed(100 * change['mean'], '.1f')}{ends}")
        findings.append(
            f"{series}, epochs {start} → {end}, importance by {method}: change in accuracy in "
            f"percentage points (95 % CI) when reverting {', '.join(parts)}."
        )
    return findings
