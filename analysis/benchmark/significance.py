"""Tests of the sets of each method: over classes, on which claims are based, and over images."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import cochrans_q, mcnemar

from analysis.benchmark.measures import arm_means, arms_of, by_method, class_means
from analysis.statistics.classes import find_bins, page_trend, wilcoxon
from analysis.statistics.clusters import holm
from harness.records import CONTROLS, PAIR

#: Arms with which q1 is compared over classes.
_AGAINST = ("random", "matched")


def permute_sets(outcomes: pd.DataFrame, methods: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Test whether the mean outcome over classes after ablating q1 differs from that of saved
    random sets of the same size.

    Returns:
        method -> (two-sided p, n): p = (b + 1) / (n + 1), where b of n random sets are at least as
        far from the mean of all sets as q1 is; p is NaN without random sets or q1.
    """

    def mean(columns: pd.DataFrame) -> pd.Series:
        return columns.groupby("class_id").mean().mean()

    controls = arms_of(outcomes, CONTROLS)
    if "random" not in controls:
        return {name: (float("nan"), 0) for name in methods}
    null = mean(controls["random"]).dropna().to_numpy()
    values = mean(by_method(arm_means(outcomes), "q1")).reindex(list(methods))
    p_values = {}
    for name, value in values.items():
        centre = np.append(null, value).mean()  # q1 is exchangeable with the random sets
        is_extreme = np.abs(null - centre) >= abs(value - centre) - 1e-12
        p = (int(is_extreme.sum()) + 1) / (len(null) + 1)
        p_values[str(name)] = p if len(null) and np.isfinite(value) else float("nan"), len(null)
    return p_values


def class_tests(outcomes: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Test the sets of each method over classes.

    Returns:
        method, the p-values page (the outcome increases from q1 to the last bin, one-sided), random
        and matched (q1 against the arm, two-sided Wilcoxon), each Holm-adjusted over the methods.
    """
    rows = []
    for method in methods:
        classes = class_means(outcomes, method)
        page, _ = page_trend(classes)
        q1, *other_arms = (classes.get(arm, pd.Series(dtype=float)) for arm in ("q1", *_AGAINST))
        tests = {arm: wilcoxon(q1, means) for arm, means in zip(_AGAINST, other_arms, strict=True)}
        rows.append({"method": method, "page": page, **tests})
    table = pd.DataFrame(rows)
    for test in ("page", *_AGAINST):
        table[test] = holm(table[test].to_numpy(float))
    return table


def image_tests(outcomes: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Test the sets of each method over the images of each pair of epochs.

    These paired tests assume that images are independent. The images of a class are not, because
    they share their sets; claims are therefore based on the tests over classes.

    Args:
        outcomes: outcomes `accuracy`, see `measures.pivot_outcomes`.

    Returns:
        series, epoch_from, epoch_to, method, images (their number) and unadjusted p-values: cochran
        (do the bins differ?), mcnemar_last (q1 against the last bin) and mcnemar_matched (q1
        against matched), both exact; 1 if no image differs, NaN without images.
    """
    rows = []
    for key, group in arm_means(outcomes).groupby(level=PAIR, sort=False):
        for method in methods:
            means = arms_of(group, method)
            bins = find_bins(list(means.columns))
            correct = means[bins].dropna().to_numpy() > 0.5
            count = len(correct) if bins else 0
            cochran = 1.0 if correct.size else float("nan")  # if no image varies between bins
            if (correct.any(axis=1) & ~correct.all(axis=1)).any():
                cochran = float(cochrans_q(correct.astype(int)).pvalue)
            tests = {
                "cochran": cochran,
                "mcnemar_last": _mcnemar(means, bins[-1] if bins else ""),
                "mcnemar_matched": _mcnemar(means, "matched"),
            }
            names = dict(zip(PAIR, key, strict=True)) | {"method": method}
            rows.append(names | {"images": count} | tests)
    return pd.DataFrame(rows)


def _mcnemar(means: pd.DataFrame, arm: str) -> float:
    """Return the p-value of the exact test of q1 against `arm`: a sign test over the images that
    differ, 1 if none does; NaN without images."""
    correct = means.reindex(columns=["q1", arm]).dropna() > 0.5
    table = pd.crosstab(correct["q1"], correct[arm]).reindex(
        index=[False, True], columns=[False, True], fill_value=0
    )
    return float(mcnemar(table, exact=True).pvalue) if len(correct) else float("nan")
