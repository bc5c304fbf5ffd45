"""Summaries and tests of ablation records: changes in predictions when evolutions are reverted.

The unit of inference is the class, because the images of a class share their sets of neurons.
Intervals are computed over the means of classes, which contain the variation of their images; tests
are paired over classes. An arm is a named set of neurons that is ablated.
"""

import re
from functools import cache, lru_cache

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.clusters import holm
from harness.records import PAIR

OUTCOMES = {
    "accuracy": "correct",
    "top-5": "top5",
    "probability": "probability",
    "objective": "objective",
}


def class_changes(means: pd.DataFrame) -> pd.DataFrame:
    """Compute the mean change of an outcome (after minus before) of every class.

    Args:
        means: of one outcome, see `harness.results.mean_by_class`.

    Returns:
        series, epoch_from, epoch_to, layer, method, split, class_id, arm, before, after, change,
        averaged over the draws of a random arm.
    """
    keys = [*PAIR, "layer", "method", "split", "class_id", "arm"]
    groups = means.groupby(keys, observed=True, sort=False)
    table = groups[["before", "after"]].mean().reset_index()
    return table.assign(change=table["after"] - table["before"])


def pivot_arms(classes: pd.DataFrame, value: str = "change") -> pd.DataFrame:
    """Return `class_changes` of one pair, layer, method and split as classes x arms."""
    return classes.pivot(index="class_id", columns="arm", values=value)


def find_bins(arms: list[str]) -> list[str]:
    """Return the quarters (or other bins q1, q2 …) among the arms, most important first."""
    bins = [arm for arm in arms if re.fullmatch(r"q\d+", arm)]
    return sorted(bins, key=lambda arm: int(arm[1:]))


def page_trend(changes: pd.DataFrame) -> tuple[float, int]:
    """Test by Page's (1963) trend test whether accuracy increases from the first bin to the last.

    Args:
        changes: classes x arms.

    Returns:
        the p-value (NaN with fewer than two classes or three bins) and the number of classes.
    """
    bins = changes[find_bins(list(changes.columns))].dropna()
    if len(bins) < 2 or bins.shape[1] < 3:
        return float("nan"), len(bins)
    return page_p(np.apply_along_axis(stats.rankdata, 1, bins.to_numpy().round(12))), len(bins)


def page_p(ranks: np.ndarray) -> float:
    """Compute the exact P(L ≥ observed) of Page's L = Σ_rows Σ_j j·r_ij for ranks [rows,
    columns].

    Under the null hypothesis every order of a row's own ranks is equally likely, including mean
    ranks of ties (scipy's exact p assumes that there are no ties). The distributions of the rows
    are convolved. p is 1 if all values of every row are tied.
    """
    positions = np.arange(1, ranks.shape[1] + 1)
    doubled_ranks = np.rint(2 * ranks).astype(int)  # mean ranks of ties are multiples of one half
    distribution = np.ones(1)
    for row in doubled_ranks:
        distribution = np.convolve(distribution, _row_distribution(tuple(sorted(row))))
    return float(distribution[int((doubled_ranks @ positions).sum()) :].sum().clip(0, 1))


@lru_cache(maxsize=4096)
def _row_distribution(ranks: tuple[int, ...]) -> np.ndarray:
    """Return the probability of each sum Σ j·r over all orders of ranks: [largest sum + 1]."""

    @cache
    def orders(remaining: tuple[int, ...]) -> np.ndarray:
        """Count the orders by their sum, by recursion over the rank in the last position."""
        position = len(remaining)
        counts = np.zeros(position * sum(remaining) + 1)
        for k in range(position):
            sums = orders(remaining[:k] + remaining[k + 1 :])
            counts[position * remaining[k] :][: len(sums)] += sums
        return np.trim_zeros(counts, "b") if position else np.ones(1)

    counts = orders(ranks)
    return counts / counts.sum()


def wilcoxon(first: pd.Series, second: pd.Series) -> float:
    """Compute the exact two-sided p-value of Wilcoxon's (1945) signed-rank test over classes.

    Classes without a difference are left out; ties have mean ranks. The null distribution counts
    all assignments of signs to the observed ranks (if there are ties, scipy enumerates them in
    Python, which takes seconds per test).

    Returns:
        P(|W - E W| >= |w - E W|); 1 if no class differs, NaN if there are no classes.
    """
    difference = (first - second).dropna().round(12).to_numpy()
    if not len(difference):
        return float("nan")
    difference = difference[difference != 0]
    if not len(difference):
        return 1.0
    ranks = np.rint(2 * stats.rankdata(np.abs(difference))).astype(int)  # twice, to be integers
    shares = np.zeros(ranks.sum() + 1)  # of all sign assignments, by the sum of positive ranks
    shares[0] = 1.0
    for rank in ranks:
        shares[rank:] += shares[:-rank].copy()
        shares /= 2  # numbers of assignments would be too large for more than 1,023 classes
    centre = ranks.sum() / 2
    observed = abs(ranks[difference > 0].sum() - centre)
    extreme = np.abs(np.arange(len(shares)) - centre) >= observed - 1e-9
    return float(shares[extreme].sum() / shares.sum())


def smallest_wilcoxon(classes: int, tests: int) -> float:
    """Return the smallest p-value that `wilcoxon` can have, Holm-adjusted over a number of tests:
    with n classes, two of 2^n patterns of signs are the most extreme."""
    return tests * 2.0 ** (1 - classes)


def class_intervals(
    changes: pd.DataFrame, level: float = 0.95, largest: float = 1.0
) -> pd.DataFrame:
    """Average the change of each arm over classes, with Student's interval.

    Args:
        changes: classes x arms, see `pivot_arms`.
        largest: the largest possible change (1 for shares), which limits the interval.

    Returns:
        one row per arm: mean, low, high. The interval is NaN with fewer than two classes, and if
        all classes change equally, because their standard deviation is then unknown, not 0.
    """
    n = changes.count()
    half = stats.t.ppf(0.5 + level / 2, n - 1) * changes.sem().where(lambda e: e > 1e-12)
    mean = changes.mean().round(12) + 0.0  # as equal means are compared; and 0 for −0
    low, high = ((mean + reach).clip(-largest, largest) for reach in (-half, half))
    return pd.DataFrame({"mean": mean, "low": low, "high": high})


def summary(means: pd.DataFrame, largest: float = 1.0) -> pd.DataFrame:
    """Return the paper's table with controls: one row per pair, method and split.

    Args:
        means: `harness.results.mean_by_class` of one layer, or of JOINT.
        largest: the largest possible change of the outcome.

    Returns:
        series, epoch_from, epoch_to, method, split, classes, before, three columns per arm (mean
        change over classes, low, high: `class_intervals`), and the p-values page, wilcoxon (q1
        against random) and matched_test (q1 against matched), each Holm-adjusted over the rows of
        a split.
    """
    rows = []
    classes = class_changes(means)
    for key, group in classes.groupby([*PAIR, "method", "split"], observed=True, sort=False):
        changes = pivot_arms(group)
        arms = [*find_bins(list(changes.columns)), "random", "matched", "all"]
        p_page, count = page_trend(changes)
        ends = class_intervals(changes, largest=largest)
        # a layer with fewer neurons than bins has no first one
        first, random, matched = (
            changes.get(arm, pd.Series(dtype=float)) for arm in ("q1", "random", "matched")
        )
        rows.append(
            dict(zip([*PAIR, "method", "split"], key, strict=True))
            | {"classes": count, "before": pivot_arms(group, "before")["none"].mean()}
            | {
                f"{arm}{end}": ends.loc[arm, column]
                for arm in arms
                if arm in changes
                for end, column in (("", "mean"), (" low", "low"), (" high", "high"))
            }
            | {
                "page": p_page,
                "wilcoxon": wilcoxon(first, random),
                "matched_test": wilcoxon(first, matched),
            }
        )
    table = pd.DataFrame(rows)
    for test in ("page", "wilcoxon", "matched_test"):
        by_split = table.groupby("split")[test]
        table[test] = by_split.transform(lambda p: holm(p.to_numpy(dtype=float)))
    return table


def mean_over_layers(classes: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Average changes of accuracy by pair, split and arm over layers, then over classes.

    Args:
        classes: the result of `class_changes` for one method, with one layer reverted at a time.

    Returns:
        series, epoch_from, epoch_to, split, arm, classes (their number), before, change, low, high
        (95 % CI, t over classes).
    """
    keys = [*PAIR, "split", "arm", "class_id"]
    means = classes.groupby(keys, observed=True)[["before", "change"]].mean()
    frames = []
    for key, rows in means.groupby(keys[:-2], observed=True):
        changes = rows["change"].unstack("arm")
        table = class_intervals(changes, level).rename(columns={"mean": "change"})
        table.insert(0, "classes", changes.count())
        table.insert(1, "before", rows["before"].unstack("arm").mean())
        names = dict(zip(keys[:-2], key, strict=True))
        frames.append(table.rename_axis("arm").reset_index().assign(**names))
    table = pd.concat(frames, ignore_index=True)
    return table[[*keys[:-1], "classes", "before", "change", "low", "high"]]


def closeness(sets: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """Measure how similar the matched sets are to q1 in the size of change of their neurons.

    Args:
        sets: one row per neuron of the arms q1, q2 and matched: pair, class_id, method, arm, layer,
            channel.
        sizes: pair, class_id, layer, channel, score (the size of the neuron's change).

    Returns:
        one row per class and layer: series, epoch_from, epoch_to, method, class_id, layer, ratio
        (mean size in the matched set divided by that in q1), within 10 % and equal to q2 (booleans;
        False without a matched set).
    """
    keys = [*PAIR, "method", "class_id", "layer"]
    neuron = [*PAIR, "class_id", "layer", "channel"]
    joined = sets.merge(sizes[[*neuron, "score"]], on=neuron)
    means = joined.groupby([*keys, "arm"], observed=True, sort=False)["score"].mean().unstack("arm")
    channels = sets.groupby([*keys, "arm"], observed=True)["channel"].agg(frozenset).unstack("arm")
    means, channels = (
        table.reindex(columns=["q1", "q2", "matched"]) for table in (means, channels)
    )
    means = means[means["q1"] > 0]  # a q1 that did not change has no ratio
    ratio = means["matched"] / means["q1"]
    equal = (channels["matched"] == channels["q2"]).reindex(ratio.index)
    table = {"ratio": ratio, "within 10 %": ratio.between(0.9, 1.1), "equal to q2": equal}
    return pd.DataFrame(table).reset_index()


def mean_closeness(rows: pd.DataFrame) -> pd.DataFrame:
    """Average `closeness` over classes and layers.

    Returns:
        series, epoch_from, epoch_to, method, ratio, within 10 % and equal to q2 (shares of the
        sets), sets (the number of sets: one per class and layer).
    """
    groups = rows.groupby([*PAIR, "method"], observed=True, sort=False)
    means = groups[["ratio", "within 10 %", "equal to q2"]].mean()
    return means.assign(sets=groups.size()).reset_index()
