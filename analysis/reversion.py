"""From reversion records to claims: how predictions change when evolutions are undone.

The unit of inference is the class: images of one class share its sets of neurons. Intervals
resample classes, and images within them; tests are paired over classes.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from scipy import stats

from analysis.clusters import holm
from harness.records import PAIR

OUTCOMES = {"accuracy": "correct", "top-5": "top5", "probability": "probability"}


def by_class(records: pd.DataFrame, outcome: str = "accuracy") -> pd.DataFrame:
    """Mean signed change of an outcome (after minus before) for every class.

    Args:
        records: rows of an image and arm.
        outcome: "accuracy", "top-5" or "probability".

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
    """`by_class` of one pair, layer, method and split as classes x arms."""
    return classes.pivot(index="class_id", columns="arm", values=value)


def quartiles(arms: list[str]) -> list[str]:
    """The bins among the arms, most important first."""
    bins = [arm for arm in arms if re.fullmatch(r"q\d+", arm)]
    return sorted(bins, key=lambda arm: int(arm[1:]))


def page_trend(changes: pd.DataFrame) -> tuple[float, int]:
    """Page's (1963) test that accuracy after reversion rises from the first bin to the last.

    Args:
        changes: classes x arms.

    Returns:
        p-value and number of classes; NaN where there are fewer than two classes or three bins.
    """
    bins = changes[quartiles(list(changes.columns))].dropna()
    if len(bins) < 2 or bins.shape[1] < 3:
        return float("nan"), len(bins)
    return float(stats.page_trend_test(bins.to_numpy()).pvalue), len(bins)


def wilcoxon(first: pd.Series, second: pd.Series) -> float:
    """Exact two-sided p-value of Wilcoxon's (1945) signed-rank test over classes.

    Classes without a difference are left out, ties have middle ranks. The null distribution is
    counted over all signs of the ranks met (scipy enumerates them in Python where there are ties,
    which takes seconds a test).

    Returns:
        P(|W - E W| >= |w - E W|); NaN where no class differs.
    """
    difference = (first - second).dropna().round(12).to_numpy()
    difference = difference[difference != 0]
    if not len(difference):
        return float("nan")
    ranks = np.rint(2 * stats.rankdata(np.abs(difference))).astype(int)  # middle ranks are halves
    ways = np.zeros(ranks.sum() + 1)  # signs that give each sum of positive ranks
    ways[0] = 1.0
    for rank in ranks:
        ways[rank:] += ways[:-rank].copy()
    centre = ranks.sum() / 2
    observed = abs(ranks[difference > 0].sum() - centre)
    extreme = np.abs(np.arange(len(ways)) - centre) >= observed - 1e-9
    return float(ways[extreme].sum() / ways.sum())


def bootstrap_interval(
    records: pd.DataFrame,
    rng: np.random.Generator,
    outcome: str = "accuracy",
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean change over classes: classes and their images resampled.

    Args:
        records: rows of one pair, layer, method, split and arm.

    Returns:
        (low, high); NaN for fewer than two classes.
    """
    column = OUTCOMES[outcome]
    change = records[f"{column}_after"].astype(float) - records[f"{column}_before"].astype(float)
    images = change.groupby([records["class_id"], records["image_id"]]).mean()
    groups = [group.to_numpy() for _, group in images.groupby(level=0)]
    if len(groups) < 2:
        return float("nan"), float("nan")
    means = np.empty((resamples, len(groups)))
    for position, values in enumerate(groups):
        drawn = rng.integers(0, len(values), (resamples, len(values)))
        means[:, position] = values[drawn].mean(axis=1)
    classes = rng.integers(0, len(groups), (resamples, len(groups)))
    totals = np.take_along_axis(means, classes, axis=1).mean(axis=1)
    low, high = np.quantile(totals, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summary(records: pd.DataFrame, outcome: str = "accuracy") -> pd.DataFrame:
    """One row a pair, method and split: the paper's table, with controls.

    Args:
        records: rows of one layer ("all" for the joint reversion).

    Returns:
        series, epoch_from, epoch_to, method, split, classes, before, one column an arm (signed
        mean change over classes), page (p), wilcoxon (q1 against random, p), matched (q1 against
        matched, p); the last three corrected by Holm over the rows of each split.
    """
    rows = []
    classes = by_class(records, outcome)
    for key, group in classes.groupby([*PAIR, "method", "split"], observed=True, sort=False):
        changes = wide(group)
        arms = [*quartiles(list(changes.columns)), "random", "matched", "all"]
        p_page, count = page_trend(changes)
        rows.append(
            dict(zip([*PAIR, "method", "split"], key, strict=True))
            | {"classes": count, "before": wide(group, "before")["none"].mean()}
            | {arm: changes[arm].mean() for arm in arms if arm in changes}
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
    """Changes of accuracy by pair, split and arm: mean over layers, then over classes.

    Args:
        classes: as `by_class` gives them, of one method, one layer undone at a time.

    Returns:
        series, epoch_from, epoch_to, split, arm, classes (how many), before, change, low, high (t
        over classes).
    """
    keys = [*PAIR, "split", "arm"]
    each = classes.groupby([*keys, "class_id"], observed=True)[["before", "change"]].mean()
    grouped = each.groupby(keys, observed=True)
    table = grouped.mean()
    number = grouped["change"].count()
    reach = stats.t.ppf(0.5 + level / 2, number - 1) * grouped["change"].sem()
    table.insert(0, "classes", number)
    table = table.assign(low=table["change"] - reach, high=table["change"] + reach)
    return table.reset_index()
