"""The report of a benchmark (tables, figures, sentences), and the comparison of two benchmarks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table as ScreenTable

from analysis.benchmark import figures as bench_figures  # noqa: F401 - registers the figures
from analysis.benchmark import measures
from analysis.benchmark import tables as bench_tables  # noqa: F401 - registers the tables
from analysis.benchmark.results import Bench
from analysis.benchmark.runs import differing_settings, read_comparable
from analysis.exhibits import shelf
from analysis.exhibits.phrases import join, number_text
from analysis.exhibits.tables import P_VALUE, Table
from analysis.run.published import SCORE
from analysis.run.report import WrittenReport, plain_on_screen, write_exhibits
from analysis.statistics import comparisons
from analysis.statistics.claims import ALPHA
from analysis.statistics.clusters import holm
from harness.files import write_text
from harness.records import CONTROLS
from harness.results import read_results
from harness.text import pluralise


def write_bench_report(folder: Path) -> WrittenReport:
    """Write leaderboard.csv, tables/, figures/ and report.html into the run's `bench/`.

    Raises:
        ArtifactError: the folder has no finished benchmark, or one of another version.
    """
    bench = Bench(read_results(folder))
    out = bench.results.folder
    title = "Benchmark of importance scores and semantic spaces"
    tables = write_exhibits("bench", bench, bench.results.run, out, title, _lead(bench))
    main = tables["leaderboard"]
    write_text(out / "leaderboard.csv", main.csv())
    return WrittenReport(
        _on_screen(bench, main),
        [out / "leaderboard.csv", out / "report.html", out / "tables"],
        findings(bench, tables),
    )


def _on_screen(bench: Bench, main: Table) -> ScreenTable:
    """Return the main columns of the leaderboard for a terminal of 80 characters."""
    frame = main.frame
    names = {"over random": "random", "over matched": "matched", "over other class": "class"}
    columns = frame[["gap", "group", "area", *names]].rename(columns=names)
    marks = np.where(frame["linearises"] == bench.main, " *", "")
    columns.insert(0, "method (* approximates)", frame["method"] + marks)
    columns.insert(2, "±", frame["high"] - frame["gap"])
    return plain_on_screen(columns, main.title)


@shelf.sentences("bench", "leaderboard")
def name_objectives(bench: Bench, tables: Mapping[str, Table]) -> list[str]:
    return bench.results.objective_sentences


@shelf.sentences("bench", "leaderboard")
def findings(bench: Bench, tables: Mapping[str, Table]) -> list[str]:
    """Return sentences on what the leaderboard shows and does not show."""
    frame = tables["leaderboard"].frame
    ranked = frame[np.isfinite(frame["gap"].astype(float))]
    if ranked.empty:
        return ["No method has a value: nothing could be ranked."]
    best = ranked.iloc[0]
    leaders = _find_leaders(ranked)
    text = f"{_largest_gap(leaders)}, {_gap_text(best)}"
    if not np.isfinite(best["low"]):
        reason = "all classes have the same gap" if best["classes"] > 1 else "one class has a value"
        text += f"; {reason}, so that there is no interval, and no claim is made."
        return [text, *_undefined_values(bench)]
    findings = [f"{text}{_others(ranked, len(leaders))}"]
    nonlinear = ranked[ranked["linearises"] != bench.main]
    if len(nonlinear) and best["linearises"] == bench.main:
        fair_leaders = _find_leaders(nonlinear)
        findings.append(
            f"Of the scores that do not approximate the ablation ({bench.main}), "
            f"{_largest_gap(fair_leaders)}, "
            f"{_gap_text(nonlinear.iloc[0])}{_others(nonlinear, len(fair_leaders))}"
        )
    if SCORE in set(ranked["method"]):
        paper = ranked.set_index("method").loc[SCORE]
        pairs = bench.gap_differences
        better_methods = pairs.loc[(pairs["second"] == SCORE) & (pairs["p"] < ALPHA), "first"]
        verb = "is" if len(better_methods) == 1 else "are"
        better_clause = f"{', '.join(better_methods)} {verb}" if len(better_methods) else "none is"
        untested = pairs.loc[pairs["p"].isna(), ["first", "second"]].eq(SCORE).any(axis=1).sum()
        findings.append(
            f"The gap of the paper's score ({SCORE}) is {_gap_text(paper)}; {better_clause} "
            "significantly better (p < .05, Holm-adjusted over all pairs)"
            + f"; {untested} could not be compared with it" * bool(untested)
            + "."
        )
    if missing := int(ranked["left out"].max()):
        noun = pluralise(missing, "class without a value is", "classes without a value are")
        findings.append(f"Up to {noun} left out of a mean.")
    return findings + _undefined_values(bench)


def _find_leaders(ranked: pd.DataFrame) -> list[str]:
    """Return the methods with the largest gap: several if it is equal."""
    return list(ranked.loc[measures.places(ranked["gap"]) == 1, "method"])


def _largest_gap(leaders: list[str]) -> str:
    return f"{join(leaders)} {'has' if len(leaders) == 1 else 'have'} the largest gap"


def _others(ranked: pd.DataFrame, leaders: int) -> str:
    """Return the end of a sentence: how the methods after the first ones, which have the largest
    gap, compare with them."""
    letters, followers = set("".join(ranked["group"].iloc[:leaders])), ranked.iloc[leaders:]
    if followers.empty:
        return "."
    compared = followers[followers["group"].map(lambda group: bool(letters and group))]
    not_different = [row["method"] for _, row in compared.iterrows() if letters & set(row["group"])]
    parts = [f"; not significantly different: {', '.join(not_different)}"] if not_different else []
    if untested := [name for name in followers["method"] if name not in set(compared["method"])]:
        parts.append(f"; not compared: {', '.join(untested)}")
    return f"{''.join(parts) or ', significantly larger than the others'}."


def _gap_text(row: pd.Series) -> str:
    gap, low, high = (number_text(row[name], ".0f", 100) for name in ("gap", "low", "high"))
    if not np.isfinite(row["low"]):
        return f"{gap} percentage points"
    return f"{gap} percentage points (95 % CI over {row['classes']:.0f} classes: [{low}, {high}])"


def _undefined_values(bench: Bench) -> list[str]:
    remarks, gaps = [], bench.ranking()
    if unranked := [name for name in bench.methods if np.isnan(gaps[name])]:
        remarks.append(f"No class has a value for {join(unranked)}, which could not be ranked.")
    before = bench.outcomes(bench.main)[CONTROLS, "before", 0].groupby("class_id").mean()
    names = [bench.classes[c] for c in before.index[before == 0]]
    if names:
        remarks.append(
            f"No image of {', '.join(names)} is classified correctly before ablation: for "
            f"{'this class' if len(names) == 1 else 'these classes'} the share of lost correct "
            "predictions is undefined, and ablation can only increase accuracy."
        )
    if (table := shelf.get("bench", "table", "by_layer")(bench)) is not None:
        frame = table.frame
        for row in frame[frame["left out"] > 0].itertuples():
            remarks.append(
                f"{row.series} {row.layer}: in {row[3]} of its classes and pairs no neuron "
                "changed, so nothing was ranked or ablated there."
            )
    return remarks


def _lead(bench: Bench) -> str:
    about = bench.results.about
    methods_text = pluralise(len(bench.methods), "method that scores", "methods that score")
    return (
        f"{methods_text} how important a neuron's change between two "
        f"epochs is to a class, compared on {pluralise(len(about['pairs']), 'pair')} of epochs of "
        f"{pluralise(len(about['layers']), 'training run')} and "
        f"{pluralise(len(about['classes']), 'class', 'classes')}: the neurons that a method ranks "
        "highest are "
        + ("reverted to the earlier checkpoint" if bench.main == "revert" else "ablated")
        + ", and a valid score is one whose neurons change the predictions most."
    )


shelf.section("bench", "leaderboard", "Leaderboard", lambda bench: [
    "Importance is estimated on a part of each class's images; ablations are evaluated on "
    f"{bench.split_text}. For a valid method, ablating the most important {bench.parts[0]} reduces "
    "accuracy more than ablating random sets, neurons that changed as much, or the most important "
    f"{bench.parts[0]} of another class; ablating the least important {bench.parts[0]} does not "
    "reduce it.",
])  # fmt: skip
shelf.section("bench", "stability", "Stability of the ranking", [
    "The ranking across ablations, layers, networks, outcomes, and numbers of images.",
])  # fmt: skip
shelf.section("bench", "spaces", "Semantic spaces", lambda bench: bool(bench.spaces) * [
    "Semantic spaces are compared by how often a neuron's nearest neighbours have its true "
    "concept, and by how well the same channel is retrieved at a later epoch.",
])  # fmt: skip
shelf.section("bench", "limits", "Limits", [
    "Classes are the sampled units; networks, seeds and pairs of epochs are fixed. Compare "
    "benchmarks of several seeds before you generalise. A score that approximates the ablation "
    "by which it is evaluated is expected to rank high.",
    "Matched sets agree with q1 in size of change only approximately, as q1 often holds the "
    "neurons that changed most.",
])  # fmt: skip


@shelf.sentences("bench", "stability")
def agreement_of_rankings(bench: Bench, tables: Mapping[str, Table]) -> list[str]:
    """Return one sentence per factor on how much the ranking changes with it. The leaderboard's own
    level, at which the ranking is the main one, is left out."""
    if (table := tables.get("stability")) is None:
        return []
    own = {"ablation": bench.main, "images": bench.split, "outcome": "accuracy", "measure": "gap"}
    others = table.frame[table.frame["level"] != table.frame["factor"].map(own)]
    texts = []
    for factor, rows in others.groupby("factor", sort=False):
        ends = [number_text(tau, ".2f") for tau in (rows["tau"].min(), rows["tau"].max())]
        if (rows["tau"] < 1 - 1e-12).any():
            texts.append(
                f"Across {'other ' * (factor in own)}levels of {factor}, Kendall's τ with the main "
                f"ranking is {' to '.join(dict.fromkeys(ends))}."
            )
    return texts


def compare(first: Path, second: Path) -> Table:
    """Compare the leaderboards of two benchmarks.

    Returns:
        method; gap, low, high and place (rank among the methods of both) in each; the difference
        with its interval (the benchmarks as independent, t with the smaller number of classes) and
        its p-value, Holm-adjusted over methods.

    Raises:
        ArtifactError, ValueError: see `read_comparable`.
    """
    benches, common = read_comparable([first, second])
    first_bench, second_bench = benches
    frame = pd.DataFrame({"method": common})
    values, errors, classes = [], [], []
    for bench, name in zip(benches, "AB", strict=True):
        gaps, indices = bench.clustered_measure("gap"), [bench.methods.index(m) for m in common]
        table = gaps.table(bench.methods).loc[common].reset_index(drop=True)
        frame[[f"gap {name}", f"low {name}", f"high {name}"]] = table[["value", "low", "high"]]
        frame[f"place {name}"] = measures.places(frame[f"gap {name}"]).astype("Int64")
        values.append(gaps.value[indices])
        errors.append(gaps.error[indices])
        classes.append(gaps.classes[indices])
    value = values[1] - values[0]
    low, high, p = comparisons.t_test(value, np.hypot(*errors), np.minimum(*classes))
    ends = {"low": low.clip(-2, 2), "high": high.clip(-2, 2)}  # a gap lies between −1 and 1
    frame = frame.assign(**{"B − A": value, **ends, "p": holm(p)})
    not_common = sorted({*first_bench.methods} ^ {*second_bench.methods})
    tau, count = comparisons.rank_agreement(first_bench.ranking(), second_bench.ranking())
    return Table(
        "compare",
        "Two benchmarks side by side",
        f"A: {first.name}, B: {second.name}. Gaps with 95 % CIs, ranks, and the difference, with "
        "the benchmarks as independent; p: Holm-adjusted over methods. Kendall's τ of the two "
        f"rankings: {number_text(tau, '.2f')} over "
        f"{pluralise(count, 'method')}.{differing_settings(benches, common)}"
        + f" Left out, as one of them lacks them: {', '.join(not_common)}."
        * bool(not_common),
        frame,
        dict.fromkeys(
            [c for c in frame.columns if c.split()[0] in ("gap", "low", "high", "B")], "{:+.3f}"
        )
        | {"p": P_VALUE},
    )
