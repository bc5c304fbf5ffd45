"""Benchmarks of several runs as one table: mean, SD over runs, networks and classes crossed.

Runs of several seeds or data sets answer what one run cannot: whether a ranking holds for other
networks. A network is a series of a run. The sampled units are networks and classes, crossed: every
network is judged on every class. So an interval is to hold for other networks and other classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.benchmark import measures
from analysis.benchmark.results import Bench
from analysis.exhibits.phrases import joined
from analysis.exhibits.tables import P_VALUE, Table
from analysis.run.published import SCORE
from analysis.statistics import comparisons
from analysis.statistics.clusters import Variance, crossed, estimates, holm, two_way_jackknife
from analysis.statistics.contrasts import between
from analysis.statistics.shares import means
from harness.records import CONTROLS
from harness.results import read_results


def class_values(bench: Bench, run: str) -> pd.DataFrame:
    """The gap of every method by network and class, mean over pairs and images.

    Returns:
        run, network, class, method, gap; NaN where a method has none.
    """
    wide = bench.wide(bench.main)
    controls = measures.of_method(wide, CONTROLS)
    columns = {m: measures.gap(measures.of_method(wide, m), controls) for m in bench.methods}
    keys = ["series", "class_id"]
    by_image = pd.DataFrame(columns).groupby([*keys, "image_id"]).mean()
    by_class = by_image.groupby(keys).mean().reset_index().melt(
        keys, var_name="method", value_name="gap"
    )  # fmt: skip
    return pd.DataFrame(
        {
            "run": run,
            "network": run + " " + by_class["series"].astype(str),
            "class": by_class["class_id"].map(bench.classes),
            "method": by_class["method"],
            "gap": by_class["gap"],
        }
    )


def over_runs(values: pd.DataFrame) -> pd.DataFrame:
    """Every method over all runs.

    The value is the mean over networks and classes. Its variance is that of networks plus that of
    classes less that of their cells (`two_way_jackknife`), which on a balanced table is the crossed
    random-effects variance of the mean.

    Args:
        values: run, network, class, method, gap. Methods that a run lacks are left out, as are
            cells without a value.

    Returns:
        one row per method, from best to worst: method, mean, low, high, sd over runs, lowest,
        highest (run's mean), networks, classes, cells, left out, difference (from the reference,
        see `reference_of`), difference low, difference high, p alone, p (Holm over methods), reason
        (why there is no interval, "" where there is one).
    """
    kept = values.dropna(subset=["gap"])
    data = crossed(kept, "gap", "method", "network", "class")
    names = list(data.groups)
    reference = names.index(reference_of(kept))
    table = _intervals(two_way_jackknife(data, means), names, None, 1.0)
    runs = kept.groupby(["method", "run"])["gap"].mean().unstack()
    by_method = kept.groupby("method")
    cells = by_method.size()
    table = table.assign(
        **{"sd over runs": runs.std(axis=1, ddof=1), "lowest": runs.min(axis=1),
           "highest": runs.max(axis=1), "networks": by_method["network"].nunique(),
           "classes": by_method["class"].nunique(), "cells": cells,
           "left out": values.groupby("method").size() - cells}
    )  # fmt: skip
    if pairs := [(k, reference) for k in range(len(names)) if k != reference]:
        others = [names[k] for k, _ in pairs]
        theirs = _intervals(between(data, pairs, means), others, 0.0, 2.0)
        theirs = theirs.assign(adjusted=holm(theirs["p"].to_numpy(float))).drop(columns="reason")
        renamed = {"mean": "difference", "low": "difference low", "high": "difference high",
                   "p": "p alone", "adjusted": "p"}  # fmt: skip
        table = table.drop(columns="p").join(theirs.rename(columns=renamed))
    columns = ["mean", "low", "high", "sd over runs", "lowest", "highest", "networks", "classes",
               "cells", "left out", "difference", "difference low", "difference high", "p alone",
               "p", "reason"]  # fmt: skip
    table = table.reindex(columns=columns).sort_values("mean", ascending=False, kind="stable")
    return table.reset_index(names="method")


def reference_of(values: pd.DataFrame) -> str:
    """The paper's method where it was run, else the one with the highest mean."""
    methods = values.groupby("method")["gap"].mean()
    return SCORE if SCORE in methods else str(methods.idxmax())


def _intervals(
    result: Variance, names: Sequence[str], null: float | None, largest: float
) -> pd.DataFrame:
    """mean, low, high (within ± `largest`), p and reason of each value, by name."""

    def within(ends: np.ndarray) -> np.ndarray:
        return ends.clip(-largest, largest)

    made = estimates(result, within, null, np.zeros(len(names)))
    rows = [(e.value, e.low, e.high, e.p, e.reason) for e in made]
    return pd.DataFrame(rows, index=list(names), columns=["mean", "low", "high", "p", "reason"])


def compare_runs(folders: Sequence[Path]) -> Table:
    """Three or more benchmarks as one table.

    Raises:
        ArtifactError: one is missing or of another version.
        ValueError: they have no method in common, or were not judged alike.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("the same run was given twice; a run counts once")
    benches, common = comparable(folders)
    labels = _labels(folders)
    values = pd.concat(
        [class_values(b, name) for b, name in zip(benches, labels, strict=True)], ignore_index=True
    )
    values = values[values["method"].isin(common)]
    frame = over_runs(values)
    taus = [
        comparisons.agreement(
            {m: a.ranking()[m] for m in common}, {m: b.ranking()[m] for m in common}
        )[0]
        for a, b in combinations(benches, 2)
    ]
    left = sorted({m for b in benches for m in b.methods} - set(common))
    signed = ["mean", "low", "high", "lowest", "highest", "difference", "difference low",
              "difference high"]  # fmt: skip
    return Table(
        "compare",
        f"Benchmarks of {len(folders)} runs",
        f"Runs: {', '.join(labels)}. Mean gap (accuracy after {benches[0].verb} the least "
        f"important quarter minus after the most important one, {benches[0].shown}) over networks "
        "and classes, with its 95 % interval for other networks and other classes (two-way cluster "
        "variance, t); standard deviation, lowest and highest of the runs' own means; difference "
        f"from {reference_of(values)} with its unadjusted interval, p adjusted by Holm over "
        "methods. "
        f"Kendall's τ between rankings of two runs: {np.nanmean(taus):.2f} on average, "
        f"{np.nanmin(taus):.2f} at least."
        + (f" Left out, as a run lacks them: {', '.join(left)}." if left else ""),
        frame,
        dict.fromkeys(signed, "{:+.3f}")
        | {"sd over runs": "{:.3f}", "p alone": P_VALUE, "p": P_VALUE},
    )


def comparable(folders: Sequence[Path]) -> tuple[list[Bench], list[str]]:
    """The benchmarks of some runs, and the methods that all have, in the order of the first's.

    Raises:
        ArtifactError: one is missing or of another version.
        ValueError: they have no method in common, or were not judged by the same ablation, images
            and bins.
    """
    benches = [Bench(read_results(folder)) for folder in folders]
    first = benches[0]
    common = [m for m in first.order if all(m in b.methods for b in benches)]
    if not common:
        raise ValueError(f"{joined([str(folder) for folder in folders])} have no method in common")
    for bench, folder in zip(benches[1:], folders[1:], strict=True):
        if first.main != bench.main or first.split != bench.split:
            raise ValueError(
                f"{folders[0]} was judged by {first.main} on {first.shown}, {folder} by "
                f"{bench.main} on {bench.shown}"
            )
        bins = [b.results.about["arms"]["bins"] for b in (first, bench)]
        if bins[0] != bins[1]:
            raise ValueError(
                f"{folders[0]} cuts layers into {bins[0]} bins, {folder} into {bins[1]}"
            )
    return benches, common


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names of folders, numbered where they are alike."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({k})" for k, name in enumerate(names, 1)]
