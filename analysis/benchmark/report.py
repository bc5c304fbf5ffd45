"""The report of a benchmark: leaderboard, tables, figures, sentences; two laid side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from rich.table import Table as ScreenTable

from analysis.benchmark import figures as bench_figures  # noqa: F401 - registers the figures
from analysis.benchmark import leaderboard as lb
from analysis.benchmark import tables as bench_tables  # noqa: F401 - registers the figures
from analysis.benchmark.results import Bench
from analysis.exhibits import shelf
from analysis.exhibits.figures import styled
from analysis.exhibits.report import write_html
from analysis.exhibits.tables import Table
from analysis.run.report import own_exhibits, plain_on_screen
from harness.artifacts import write_text
from harness.results import read_results


@dataclass(frozen=True)
class Written:
    """What a report left: its main table and sentences for the screen, the paths of all files."""

    summary: ScreenTable
    sentences: list[str]
    paths: list[Path]


def write_bench_report(folder: Path) -> Written:
    """Write leaderboard.csv, tables/, figures/ and report.html into the run's `bench/`.

    Raises:
        ArtifactError: the folder holds no finished benchmark, or one of another version.
    """
    bench = Bench(read_results(folder))
    out = bench.results.folder
    shelf.use("bench", own_exhibits(bench.results.run))
    tables = shelf.tables_of("bench", bench)
    main = tables["leaderboard"]
    for old in (out / "tables").glob("*.*"):
        old.unlink()
    for table in tables.values():
        table.write(out / "tables")
    write_text(out / "leaderboard.csv", main.csv())
    with styled():
        figures = shelf.figures_of("bench", bench)
        for figure in figures.values():
            figure.write(out / "figures")
        write_html(
            out / "report.html",
            "Which method finds the evolutions that matter?",
            _lead(bench),
            shelf.sections_of("bench", bench, tables, figures),
            f"Made by conceptevo-harness, seed {bench.results.about['seed']}, results' version "
            f"{bench.results.about['version']}; "
            + ", ".join(f"{k} {v}" for k, v in bench.results.run.manifest()["versions"].items()),
        )
    plt.close("all")
    return Written(
        _on_screen(bench, main),
        findings(bench, tables),
        [out / "leaderboard.csv", out / "report.html", out / "tables"],
    )


def _on_screen(bench: Bench, main: Table) -> ScreenTable:
    """The leaderboard in 80 columns; the rest is in the files."""
    frame = main.frame
    linear = frame["linearises"] == bench.main
    shown = pd.DataFrame(
        {
            "method (* linearises)": frame["method"] + np.where(linear, " *", ""),
            "gap": frame["gap"],
            "±": frame["high"] - frame["gap"],
            "group": frame["group"],
            "area": frame["area"],
            "random": frame["over random"],
            "matched": frame["over matched"],
            "class": frame["over other class"],
        }
    )
    return plain_on_screen(shown, main.title)


@shelf.sentences("bench", "leaderboard")
def findings(bench: Bench, tables: Mapping[str, Table]) -> list[str]:
    """What the leaderboard says, and what it does not; only from the data."""
    frame = tables["leaderboard"].frame
    known = frame[np.isfinite(frame["gap"].astype(float))]
    if known.empty:
        return ["No method has a value: nothing could be ranked."]
    best = known.iloc[0]
    text = f"{best['method']} has the largest gap, {_points(best)}"
    if not np.isfinite(best["low"]):
        told = [f"{text}; with fewer than two classes there is no interval, and no claim."]
        return told + _undefined(bench)
    told = [f"{text}{_beside(best, known.iloc[1:])}"]
    fair = known[known["linearises"] != bench.main]
    if len(fair) and best["linearises"] == bench.main:
        first = fair.iloc[0]
        told.append(
            f"Of the scores that do not linearise {bench.main}, {first['method']} has the largest: "
            f"{_points(first)}{_beside(first, fair.iloc[1:])}"
        )
    if "sign_t" in set(known["method"]):
        paper = known.set_index("method").loc["sign_t"]
        pairs = bench.separated
        ahead = pairs.loc[(pairs["second"] == "sign_t") & (pairs["p"] < 0.05), "first"]
        verb = "is" if len(ahead) == 1 else "are"
        better = f"{', '.join(ahead)} {verb}" if len(ahead) else "none is"
        told.append(
            f"The paper's score (sign_t) reaches {_points(paper)}; {better} better (p < .05, Holm "
            "over all pairs)."
        )
    if left := int(frame["left out"].max()):
        told.append(f"Up to {left} classes have no value and are left out of a mean.")
    return told + _undefined(bench)


def _beside(best: pd.Series, others: pd.DataFrame) -> str:
    """The end of a sentence on the best of some methods: which are not separated from it."""
    if others.empty:
        return "."
    letters = set(best["group"])
    alike = [row["method"] for _, row in others.iterrows() if letters & set(row["group"])]
    if alike:
        return f"; not separated from it: {', '.join(alike)}."
    return ", separated from the others."


def _points(row: pd.Series) -> str:
    gap, low, high = (100 * np.clip(float(row[name]), -1, 1) for name in ("gap", "low", "high"))
    interval = f" [{low:.0f}, {high:.0f}]" if np.isfinite(low) else ""
    return f"{gap:.0f} points of accuracy{interval}"


def _undefined(bench: Bench) -> list[str]:
    """Sentences on what could not be judged."""
    told = []
    before = lb.outcomes_before(bench.wide(bench.main))
    names = [bench.classes[c] for c in before.index[before == 0]]
    if names:
        told.append(
            f"No image of {', '.join(names)} is classified correctly before anything is undone: "
            "for these classes the share of right predictions lost is undefined, and undoing can "
            "only raise accuracy."
        )
    if (table := shelf.get("bench", "table", "by_layer")(bench)) is not None:
        frame = table.frame
        for row in frame[frame["left out"] > 0].itertuples():
            told.append(
                f"{row.series} {row.layer}: in {row[3]} of its classes and pairs no neuron "
                "changed, so nothing was ranked or undone there."
            )
    return told


def _lead(bench: Bench) -> str:
    about = bench.results.about
    return (
        f"{len(bench.methods)} ways to score how much a neuron's change between two epochs matters "
        f"to a class, on {len(about['pairs'])} pairs of epochs of {len(about['layers'])} training "
        f"runs and {len(about['classes'])} classes: the neurons that a method ranks high are "
        + ("put back to what they did before" if bench.main == "revert" else "ablated")
        + ", and the predictions tell whether it was right."
    )


shelf.section(
    "bench",
    "leaderboard",
    "The leaderboard",
    lambda bench: [
        "Importance is measured on a part of each class's images; ablations are judged on "
        f"{bench.shown}. A good method's most important quarter costs more than random sets, than "
        "neurons that changed as much, and than the quarter of another class; its least important "
        "quarter costs nothing, or helps."
    ],
)
shelf.section(
    "bench",
    "stability",
    "How stable is it?",
    ["The ranking over ablations, layers, networks, outcomes, and numbers of images."],
)
shelf.section(
    "bench",
    "spaces",
    "Spaces",
    lambda bench: (
        [
            "The second benchmark: which way to compare neurons finds those that share a "
            "concept, and a "
            "channel's later self?"
        ]
        * bool(bench.spaces)
    ),
)
shelf.section(
    "bench",
    "limits",
    "Limits",
    [
        "Classes are the sampled units; networks, seeds and pairs of epochs are taken as given: "
        "compare benchmarks of several seeds before you generalise. A score that linearises the "
        "ablation by which it is judged is expected to do well.",
        "Matched sets can only be as alike as a layer allows.",
    ],
)


@shelf.sentences("bench", "stability")
def agreement_of_rankings(bench: Bench, tables: Mapping[str, Table]) -> list[str]:
    """How far the ranking moves with each factor."""
    if (table := tables.get("stability")) is None:
        return []
    told = []
    for factor, rows in table.frame.groupby("factor", sort=False):
        others = rows[rows["tau"] < 1 - 1e-12]
        if len(rows) > 1 and len(others):
            told.append(
                f"By {factor}, Kendall's tau with the main ranking goes from "
                f"{rows['tau'].min():.2f} to {rows['tau'].max():.2f}."
            )
    return told


def compare(first: Path, second: Path) -> Table:
    """Two benchmarks' leaderboards side by side.

    Returns:
        method; gap, low, high and place in each; difference with interval (the two as
        independent, t with the smaller number of classes), its p-value, Holm over methods.

    Raises:
        ArtifactError: either is missing or of another version.
        ValueError: they have no method in common, or were run by different ablations.
    """
    benches = [Bench(read_results(folder)) for folder in (first, second)]
    a, b = benches
    common = [m for m in a.order if m in b.methods]
    if not common:
        raise ValueError(f"{first} and {second} have no method in common")
    if a.main != b.main or a.split != b.split:
        raise ValueError(
            f"{first} was judged by {a.main} on {a.shown}, {second} by {b.main} on {b.shown}"
        )
    bins = [bench.results.about["arms"]["bins"] for bench in benches]
    if bins[0] != bins[1]:
        raise ValueError(f"{first} cuts layers into {bins[0]} bins, {second} into {bins[1]}")
    frame = pd.DataFrame({"method": common})
    values, errors, classes = [], [], []
    for bench, name in zip(benches, "AB", strict=True):
        found = bench.resampled("gap")
        at = [bench.methods.index(m) for m in common]
        low, high = found.interval()
        frame[f"gap {name}"], frame[f"low {name}"] = found.value[at], low[at]
        frame[f"high {name}"] = high[at]
        frame[f"place {name}"] = [bench.order.index(m) + 1 for m in common]
        values.append(found.value[at])
        errors.append(found.error[at])
        classes.append(found.classes[at])
    value = values[1] - values[0]
    low, high, p = lb.t_test(value, np.hypot(*errors), np.minimum(*classes))
    frame = frame.assign(**{"B − A": value, "low": low, "high": high, "p": lb.holm(p)})
    tau, count = lb.agreement(a.ranking(), b.ranking())
    differs = [
        name
        for name in ("classes", "pairs", "layers", "images_per_class", "heldout_images")
        if a.results.about[name] != b.results.about[name]
    ]
    return Table(
        "compare",
        "Two benchmarks side by side",
        f"A: {first.name}, B: {second.name}. Gaps with 95 % intervals, places, and the difference, "
        "as of independent benchmarks, p-values corrected by Holm over methods. Kendall's tau of "
        f"the two rankings: {tau:.2f} over {count} methods."
        + (f" They differ in {', '.join(differs).replace('_', ' ')}." if differs else ""),
        frame,
        dict.fromkeys(
            [c for c in frame.columns if c.split()[0] in ("gap", "low", "high", "B")], "{:+.3f}"
        )
        | {"p": "{:.2g}"},
    )
