"""Combine the benchmarks of several runs in one table.

Runs with several seeds or data sets show whether a ranking generalises to other networks. A network
is a series of a run. Networks and classes are crossed sampled units, because every network is
evaluated on every class: intervals generalise to other networks and other classes.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.benchmark import measures
from analysis.benchmark.results import Bench
from analysis.exhibits.phrases import join, number_text
from analysis.exhibits.tables import P_VALUE, Table
from analysis.run.published import SCORE
from analysis.statistics import comparisons
from analysis.statistics.clusters import as_estimates, code_responses, holm, two_way_jackknife
from analysis.statistics.shares import means
from analysis.statistics.statistic import ALIKE, FEWEST, Estimate
from harness.results import read_results
from harness.text import pluralise


def class_values(bench: Bench, run: str) -> pd.DataFrame:
    """Return the gap of every method by network and class, mean over pairs and images.

    Returns:
        run, network, class, method, gap (NaN if undefined).
    """
    gaps = measures.gap(measures.arm_means(bench.outcomes(bench.main)))
    keys = ["series", "class_id"]
    by_image = gaps.reindex(columns=bench.methods).groupby([*keys, "image_id"]).mean()
    table = by_image.groupby(keys).mean().reset_index()
    table = table.melt(keys, var_name="method", value_name="gap")
    table = table.assign(run=run, network=run + " " + table["series"].astype(str))
    table["class"] = table["class_id"].map(bench.classes)
    return table[["run", "network", "class", "method", "gap"]]


def summarise_runs(values: pd.DataFrame) -> pd.DataFrame:
    """Summarise every method over all runs.

    The value is the mean over cells (network and class). Its variance is that of networks plus that
    of classes minus that of cells (`two_way_jackknife`); for a balanced table it is the crossed
    random-effects variance of the mean. A difference is that of the cells that both methods have.

    Args:
        values: of `class_values`. Cells without a value are left out and counted.

    Returns:
        one row per method with a value, from best to worst: method, mean, low, high, sd over runs,
        lowest, highest (means of runs), networks, classes, cells, left out, difference (from that
        of `reference_of`), its low and high, p alone (unadjusted), p (Holm-adjusted over methods),
        reason (why there is no interval, "" if there is one).

    Raises:
        ValueError: no method has a value.
    """
    gaps_by_cell = values.pivot(index=["run", "network", "class"], columns="method", values="gap")
    gaps_by_cell = gaps_by_cell.dropna(axis=1, how="all")
    if gaps_by_cell.empty:
        raise ValueError("no method has a gap in any of the runs, so there is nothing to compare")
    reference = reference_of(values)
    runs = gaps_by_cell.groupby(level="run").mean()
    rows = []
    for method, method_gaps in gaps_by_cell.items():
        defined, mean = method_gaps.dropna().reset_index(), _estimate_mean(method_gaps, None, 1.0)
        contrast = Estimate(np.nan)
        if method != reference:
            contrast = _estimate_mean(method_gaps - gaps_by_cell[reference], 0.0, 2.0)
        is_other = contrast.reason not in ("", mean.reason)
        notes = [mean.reason, f"difference: {contrast.reason}" * is_other]
        rows.append({
            "method": method, "mean": mean.value, "low": mean.low, "high": mean.high,
            "sd over runs": runs[method].std(ddof=1), "lowest": runs[method].min(),
            "highest": runs[method].max(), "networks": defined["network"].nunique(),
            "classes": defined["class"].nunique(), "cells": len(defined),
            "left out": int((values["method"] == method).sum()) - len(defined),
            "difference": contrast.value, "difference low": contrast.low,
            "difference high": contrast.high, "p alone": contrast.p,
            "reason": "; ".join(filter(None, notes)),
        })  # fmt: skip
    table = pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable")
    is_other = table["method"] != reference  # the reference is not tested against itself
    adjusted = pd.Series(
        holm(table.loc[is_other, "p alone"].to_numpy(float)), table.index[is_other]
    )
    table.insert(len(table.columns) - 1, "p", adjusted.reindex(table.index))
    return table.reset_index(drop=True)


def reference_of(values: pd.DataFrame) -> str:
    """Return the paper's method if it has a value, otherwise the method with the highest mean."""
    methods = values.dropna(subset=["gap"]).groupby("method")["gap"].mean()
    return SCORE if SCORE in methods else str(methods.idxmax())


def _estimate_mean(cells: pd.Series, null: float | None, largest: float) -> Estimate:
    """Estimate the mean of `cells` over networks and classes; its interval is limited to
    ± `largest`. Values are rounded, so that rounding errors are no variation."""
    defined = cells.dropna().round(12).rename("value").reset_index().assign(method="")
    networks, classes = defined["network"].nunique(), defined["class"].nunique()
    mean = defined["value"].mean()
    if min(networks, classes) < FEWEST:
        numbers = f"{pluralise(networks, 'network')} and {pluralise(classes, 'class', 'classes')}"
        return Estimate(mean, reason=f"an interval needs {FEWEST} of each (here: {numbers})")
    if defined["value"].nunique() == 1:  # if all differences are 0, p is 1
        value = defined["value"].iloc[0]
        return Estimate(value, p=1.0 if value == null else np.nan, reason=ALIKE)
    data = code_responses(defined, "value", "method", "network", "class")
    result = two_way_jackknife(data, means)
    return as_estimates(result, lambda e: e.clip(-largest, largest), null, np.zeros(1))[0]


def compare_runs(folders: Sequence[Path]) -> Table:
    """Summarise the benchmarks of several runs in one table.

    Raises:
        ArtifactError, ValueError: see `read_comparable`; also if a run is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("the same run was given twice; a run counts once")
    benches, common = read_comparable(folders)
    labels = [folder.resolve().name for folder in folders]
    if len(set(labels)) < len(labels):
        labels = [f"{name} ({number})" for number, name in enumerate(labels, 1)]
    values = pd.concat(map(class_values, benches, labels), ignore_index=True)
    values = values[values["method"].isin(common)]
    frame = summarise_runs(values)
    rankings = [{m: v for m, v in b.ranking().items() if m in common} for b in benches]
    taus = [comparisons.rank_agreement(a, b)[0] for a, b in combinations(rankings, 2)]
    taus = [tau for tau in taus if np.isfinite(tau)]
    tau_text = "undefined"
    if taus:
        mean, least = (number_text(float(tau), ".2f") for tau in (np.mean(taus), min(taus)))
        tau_text = f"{mean} on average, {least} at least"
    absent = sorted({m for b in benches for m in b.methods} - set(frame["method"]))
    signed_columns = ["mean", "low", "high", "lowest", "highest", "difference", "difference low",
              "difference high"]  # fmt: skip
    return Table(
        "compare",
        f"Benchmarks of {len(folders)} runs",
        f"Runs: {', '.join(labels)}. Mean gap (accuracy after {benches[0].verb} the least "
        f"important {benches[0].parts[0]} minus after the most important one, "
        f"{benches[0].split_text}) over "
        "networks and classes, with its 95 % interval for other networks and other classes "
        "(two-way cluster variance, t); standard deviation, lowest and highest of the runs' own "
        f"means; difference from {reference_of(values)} with its unadjusted interval, p adjusted "
        "by Holm over the other methods. "
        f"Kendall's τ between rankings of two runs: {tau_text}."
        + f" Left out, as a run lacks them or their values: {', '.join(absent)}." * bool(absent)
        + differing_settings(benches, common),
        frame,
        dict.fromkeys(signed_columns, "{:+.3f}")
        | {"sd over runs": "{:.3f}", "p alone": P_VALUE, "p": P_VALUE},
    )


def read_comparable(folders: Sequence[Path]) -> tuple[list[Bench], list[str]]:
    """Read the benchmarks of runs; return them and their common methods, in the order of the first.

    Raises:
        ArtifactError: a benchmark is missing or of another version.
        ValueError: they have no method in common, or different ablations, images or numbers of
            bins in their main tables.
    """
    benches = [Bench(read_results(folder)) for folder in folders]
    first = benches[0]
    common = [m for m in first.order if all(m in b.methods for b in benches)]
    if not common:
        raise ValueError(f"{join(list(map(str, folders)))} have no method in common")
    for bench, folder in zip(benches[1:], folders[1:], strict=True):
        if first.main != bench.main or first.split != bench.split:
            raise ValueError(
                f"{folders[0]} was evaluated by {first.main} on {first.split_text}, {folder} by "
                f"{bench.main} on {bench.split_text}"
            )
        bins = [b.results.about["arms"]["bins"] for b in (first, bench)]
        if bins[0] != bins[1]:
            raise ValueError(f"arms.bins differ: {bins[0]} in {folders[0]}, {bins[1]} in {folder}")
    return benches, common


def differing_settings(benches: Sequence[Bench], methods: Sequence[str]) -> str:
    """Return sentences on the settings in which benchmarks differ, and on runs that are no
    independent evidence; "" if there is nothing to say."""
    abouts = [bench.results.about for bench in benches]
    names = ("classes", "pairs", "layers", "objectives", "images_per_class", "heldout_images")
    settings = [n.replace("_", " ") for n in names if any(a[n] != abouts[0][n] for a in abouts)]
    redefined = [
        m for m in methods if any(a["methods"][m] != abouts[0]["methods"][m] for a in abouts)
    ]
    if redefined:
        settings.append(f"the definition of {join(redefined)}")
    text = f" They differ in {join(settings)}." if settings else ""
    configurations = [bench.results.run.manifest()["configuration"] for bench in benches]
    if any(a == b for a, b in combinations(configurations, 2)):
        text += (
            " Runs of the same configuration and seed are among them: copies or repetitions of one "
            "run, which are not independent."
        )
    return text
