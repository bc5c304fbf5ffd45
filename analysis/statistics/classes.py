"""Summaries and tests of ablation records: changes in predictions when evolutions are reverted.

The unit of inference is the class, because the images of a class share their sets of neurons.
Intervals are over classes, whose means contain the noise of their images; tests are paired over
classes.
"""

from __future__ import annotations

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


def by_class(records: pd.DataFrame, outcome: str = "accuracy") -> pd.DataFrame:
    """Average the signed change of an outcome (after minus before) for every class.

    Args:
        records: rows of an image and arm.
        outcome: in OUTCOMES.

    Returns:
        series, epoch_from, epoch_to, layer, method, split, class_id, arm, before, after, change;
        draws of a random arm are averaged.
    """
    column = OUTCOMES[outcome]
    keys = [*PAIR, "layer", "method", "split", "class_id", "arm"]
    means = (
        records.groupby(keys, observed=True, sort=False)[[f"{column}_before", f"{column}_after"]]
        .mean()
        .rename(columns={f"{column}_before": "before", f"{column}_after": "after"})
        .reset_index()
    )
    return means.assign(change=means["after"] - means["before"])


def wide(classes: pd.DataFrame, value: str = "change") -> pd.DataFrame:
    """Return `by_class` of one pair, layer, method and split as classes x arms."""
    return classes.pivot(index="class_id", columns="arm", values=value)


def quartiles(arms: list[str]) -> list[str]:
    """Return the bins among the arms, most important first."""
    bins = [arm for arm in arms if re.fullmatch(r"q\d+", arm)]
    return sorted(bins, key=lambda arm: int(arm[1:]))


def page_trend(changes: pd.DataFrame) -> tuple[float, int]:
    """Test by Page's (1963) trend test that accuracy after reversion increases from the first
    bin to the last.

    Args:
        changes: classes x arms.

    Returns:
        p-value and number of classes; NaN where there are fewer than two classes or three bins.
    """
    bins = changes[quartiles(list(changes.columns))].dropna()
    if len(bins) < 2 or bins.shape[1] < 3:
        return float("nan"), len(bins)
    return page_p(np.apply_along_axis(stats.rankdata, 1, bins.to_numpy().round(12))), len(bins)


def page_p(ranks: np.ndarray) -> float:
    """Compute the exact P(L ≥ observed) of Page's L = Σ_rows Σ_j j·r_ij for ranks [rows,
    columns].

    Under the null hypothesis every order of a row's own ranks is equally likely, middle ranks of
    ties included (scipy's exact p takes all ranks for distinct). The rows' distributions are
    convolved. p is 1 where all values of every row are tied.
    """
    places = np.arange(1, ranks.shape[1] + 1)
    twice = np.rint(2 * ranks).astype(int)  # middle ranks are halves
    total = np.ones(1)
    for row in twice:
        total = np.convolve(total, _row_distribution(tuple(sorted(row))))
    return float(total[int((twice @ places).sum()) :].sum().clip(0, 1))


@lru_cache(maxsize=4096)
def _row_distribution(ranks: tuple[int, ...]) -> np.ndarray:
    """Return the probability of each sum Σ j·r over all orders of a row's ranks: [largest sum +
    1]."""

    @cache
    def orders(left: tuple[int, ...]) -> np.ndarray:
        """Number of orders by their sum: by which rank stands last, over all orders of the rest."""
        place = len(left)
        counts = np.zeros(place * sum(left) + 1)
        for k in range(place):
            rest = orders(left[:k] + left[k + 1 :])
            counts[place * left[k] :][: len(rest)] += rest
        return np.trim_zeros(counts, "b") if place else np.ones(1)

    counts = orders(ranks)
    return counts / counts.sum()


def wilcoxon(first: pd.Series, second: pd.Series) -> float:
    """Compute the exact two-sided p-value of Wilcoxon's (1945) signed-rank test over classes.

    Classes without a difference are left out, ties have middle ranks. The null distribution is
    counted over all signs of the ranks met (scipy enumerates them in Python where there are ties,
    which takes seconds a test).

    Returns:
        P(|W - E W| >= |w - E W|); 1 where no class differs, NaN where there are none.
    """
    difference = (first - second).dropna().round(12).to_numpy()
    if not len(difference):
        return float("nan")
    difference = difference[difference != 0]
    if not len(difference):
        return 1.0
    ranks = np.rint(2 * stats.rankdata(np.abs(difference))).astype(int)  # middle ranks are halves
    ways = np.zeros(ranks.sum() + 1)  # signs that give each sum of positive ranks
    ways[0] = 1.0
    for rank in ranks:
        ways[rank:] += ways[:-rank].copy()
    centre = ranks.sum() / 2
    observed = abs(ranks[difference > 0].sum() - centre)
    extreme = np.abs(np.arange(len(ways)) - centre) >= observed - 1e-9
    return float(ways[extreme].sum() / ways.sum())


def class_interval(
    changes: pd.DataFrame, level: float = 0.95, largest: float = 1.0
) -> pd.DataFrame:
    """Average the change of each arm over classes, with Student's interval.

    Args:
        changes: classes x arms, see `wide`.
        largest: the largest change that is possible, 1 for shares: no interval goes beyond it.

    Returns:
        mean, low, high by arm; the interval of fewer than two classes is NaN, and that of classes
        which all change alike, as their standard deviation is then unknown, not 0.
    """
    number = changes.count()
    reach = stats.t.ppf(0.5 + level / 2, number - 1) * changes.sem().where(lambda e: e > 1e-12)
    mean = changes.mean()
    ends = {"low": mean - reach, "high": mean + reach}
    ends = {name: end.clip(-largest, largest) for name, end in ends.items()}
    return pd.DataFrame({"mean": mean, **ends})


def summary(records: pd.DataFrame, outcome: str = "accuracy") -> pd.DataFrame:
    """Return the paper's table with controls: one row per pair, method and split.

    Args:
        records: rows of one layer ("all" for the joint reversion).

    Returns:
        series, epoch_from, epoch_to, method, split, classes, before, three columns per arm (signed
        mean change over classes, low, high: `class_interval`), page (p), wilcoxon (q1 against
        random, p), matched (q1 against matched, p); the last three corrected by Holm over the rows
        of each split.
    """
    rows = []
    classes = by_class(records, outcome)
    for key, group in classes.groupby([*PAIR, "method", "split"], observed=True, sort=False):
        changes = wide(group)
        arms = [*quartiles(list(changes.columns)), "random", "matched", "all"]
        p_page, count = page_trend(changes)
        ends = class_interval(changes, largest=np.inf if outcome == "objective" else 1.0)
        rows.append(
            dict(zip([*PAIR, "method", "split"], key, strict=True))
            | {"classes": count, "before": wide(group, "before")["none"].mean()}
            | {
                f"{arm}{end}": ends.loc[arm, column]
                for arm in arms
                if arm in changes
                for end, column in (("", "mean"), (" low", "low"), (" high", "high"))
            }
            | {
                "page": p_page,
                "wilcoxon": wilcoxon(changes["q1"], changes["random"]),
                "matched_test": wilcoxon(changes["q1"], changes["matched"]),
            }
        )
    table = pd.DataFrame(rows)
    for test in ("page", "wilcoxon", "matched_test"):
        by_split = table.groupby("split")[test]
        table[test] = by_split.transform(lambda p: holm(p.to_numpy(dtype=float)))
    return table


def over_layers(classes: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Average changes of accuracy by pair, split and arm over layers, then over classes.

    Args:
        classes: as `by_class` gives them, of one method, one layer undone at a time.

    Returns:
        series, epoch_from, epoch_to, split, arm, classes (how many), before, change, low, high (t
        over classes).
    """
    keys = [*PAIR, "split", "arm", "class_id"]
    each = classes.groupby(keys, observed=True)[["before", "change"]].mean()
    frames = []
    for key, rows in each.groupby(keys[:-2], observed=True):
        changes = rows["change"].unstack("arm")
        table = class_interval(changes, level).rename(columns={"mean": "change"})
        table.insert(0, "classes", changes.count())
        table.insert(1, "before", rows["before"].unstack("arm").mean())
        names = dict(zip(keys[:-2], key, strict=True))
        frames.append(table.rename_axis("arm").reset_index().assign(**names))
    table = pd.concat(frames, ignore_index=True)
    return table[[*keys[:-1], "classes", "before", "change", "low", "high"]]


def closeness(sets: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """Measure how close matched sets are to q1 in size of change.

    Args:
        sets: one row per neuron of the arms q1, q2 and matched: pair, class_id, method, arm, layer,
            channel.
        sizes: pair, class_id, layer, channel, score (the size of the neuron's change).

    Returns:
        series, epoch_from, epoch_to, method, ratio (mean size in the matched set by that in q1),
        within 10 % and equal to q2 (shares of classes and layers), sets (how many classes and
        layers).
    """
    keys = [*PAIR, "method", "class_id", "layer"]
    neuron = [*PAIR, "class_id", "layer", "channel"]
    joined = sets.merge(sizes[[*neuron, "score"]], on=neuron)
    means = joined.groupby([*keys, "arm"], observed=True, sort=False)["score"].mean().unstack("arm")
    channels = sets.groupby([*keys, "arm"], observed=True)["channel"].agg(frozenset).unstack("arm")
    ratio = means["matched"] / means["q1"]
    each = pd.DataFrame(
        {"ratio": ratio, "within 10 %": ratio.between(0.9, 1.1),
         "equal to q2": (channels["matched"] == channels["q2"]).reindex(ratio.index)}
    )  # fmt: skip
    groups = each.groupby([*PAIR, "method"], observed=True, sort=False)
    return groups.mean().assign(sets=groups.size()).reset_index()
