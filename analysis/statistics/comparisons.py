"""Pairwise comparisons of methods on the same clusters: t tests, letters, ranks.

All comparisons are paired: methods are evaluated on the same classes, or on the same neurons,
clustered by layer. Undefined values are NaN, and what is left out is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from string import ascii_letters

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.claims import ALPHA
from analysis.statistics.clusters import holm


@dataclass(frozen=True)
class Clustered:
    """Ratios Σ totals / Σ counts over clusters, with standard errors.

    For classes, a total is the mean of a class and its count is 1, so that the ratio is the mean
    over classes; for neurons, they are the sum and the number of neurons of a layer.

    Attributes:
        totals, counts: [C, k]; both are 0 if a cluster has no value.
        scale: lowest and highest possible ratio, the limits of the intervals.
    """

    totals: np.ndarray
    counts: np.ndarray
    scale: tuple[float, float]

    @property
    def value(self) -> np.ndarray:
        """The ratios [k]; NaN if no cluster has a value."""
        return _ratio(self.totals, self.counts)

    @property
    def classes(self) -> np.ndarray:
        """The number of clusters (classes or layers) with a value [k]."""
        return (self.counts > 0).sum(axis=0)

    @property
    def left_out(self) -> np.ndarray:
        """The number of clusters without a value [k]."""
        return (self.counts == 0).sum(axis=0)

    @property
    def error(self) -> np.ndarray:
        """The standard errors [k]; NaN with fewer than two clusters."""
        return ratio_error(self.totals, self.counts)

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Return value ± t_{C − 1} standard errors (95 %), limited to the scale; NaN with fewer
        than two clusters or if all clusters are equal."""
        low, high, _ = t_test(self.value, self.error, self.classes)
        return low.clip(*self.scale), high.clip(*self.scale)

    def table(self, names: Sequence[str]) -> pd.DataFrame:
        low, high = self.interval()
        columns = {"value": self.value, "low": low, "high": high, "classes": self.classes}
        return pd.DataFrame(columns | {"left out": self.left_out}, index=list(names))


def _ratio(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total, count = totals.sum(axis=-2), counts.sum(axis=-2)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def ratio_error(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute standard errors [k] of Σ totals / Σ counts over clusters (Cochran 1977, eq. 2.46).

    √(C/(C − 1) Σ (t − R n)²) / Σ n, which is s/√C if all counts are 1; NaN with fewer than two
    clusters.
    """
    clusters = (counts > 0).sum(axis=0)
    residual = totals - np.nan_to_num(_ratio(totals, counts)) * counts
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(clusters > 1, clusters / (clusters - 1.0), np.nan)
        error = np.sqrt(scale * np.square(residual).sum(axis=0)) / counts.sum(axis=0)
    # Rounding errors are no variation.
    return np.where(error < 1e-12 * np.abs(totals).max(initial=1.0), 0.0, error)


def t_test(
    value: np.ndarray, error: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the 95 % interval and the two-sided p-value against 0, by t with classes − 1 df.

    All are NaN with fewer than two classes, and if all classes are equal, because the standard
    error is then unknown, not 0.
    """
    freedom = np.where(classes > 1, classes - 1, np.nan)
    error = np.where(error > 0, error, np.nan)
    half = stats.t.ppf(1 - ALPHA / 2, freedom) * error
    p = 2 * stats.t.sf(np.abs(value) / error, freedom)
    return value - half, value + half, p


def clustered_by_class(values: pd.DataFrame) -> Clustered:
    """Average values within classes; the means contain the variation of the images of a class.

    Args:
        values: differences of shares: rows x k, with `class_id` as a level of the index; NaN if
            undefined.
    """
    means = values.groupby(level="class_id").mean().to_numpy(float)
    is_defined = np.isfinite(means)
    return Clustered(np.where(is_defined, means, 0.0), is_defined.astype(float), (-1.0, 1.0))


def clustered_by_layer(values: pd.DataFrame) -> Clustered:
    """Sum values of neurons within layers, because neurons of a layer are not independent.

    Args:
        values: shares: neurons x k, without NaN; `layer` is a level of the index, and `series` if
            there are several.
    """
    levels = [name for name in ("series", "layer") if name in values.index.names]
    groups = values.groupby(level=levels)
    totals = groups.sum().to_numpy(float)
    counts = np.broadcast_to(groups.size().to_numpy(float)[:, None], totals.shape)
    return Clustered(totals, counts, (0.0, 1.0))


def differences(clustered: Clustered, names: Sequence[str]) -> pd.DataFrame:
    """Test the paired difference of every pair of columns, over the clusters that both have.

    Returns:
        first, second (the first has the larger mean over all its clusters), classes (the number of
        common clusters), difference, low, high, p_alone (unadjusted; it agrees with the interval),
        p (Holm-adjusted over the pairs) and reason (why a comparison could not be computed; its p
        is then NaN, which means unknown, not "no difference").
    """
    columns = ["first", "second", "classes", "difference", "low", "high", "p_alone", "p", "reason"]
    order = np.argsort(-np.nan_to_num(clustered.value, nan=-np.inf), kind="stable")
    pairs = list(combinations(order, 2))
    if not pairs:
        return pd.DataFrame(columns=columns)
    a, b = np.array(pairs).T
    has_both = (clustered.counts[:, a] > 0) & (clustered.counts[:, b] > 0)
    counts = np.where(has_both, clustered.counts[:, a], 0.0)
    totals = np.where(has_both, clustered.totals[:, a] - clustered.totals[:, b], 0.0)
    value, classes = _ratio(totals, counts), has_both.sum(axis=0)
    low, high, p = t_test(value, ratio_error(totals, counts), classes)
    largest = clustered.scale[1] - clustered.scale[0]
    reason_equal = np.where(np.isnan(p), "the difference is the same in every cluster", "")
    # If the two are equal in every cluster, exchanging them changes nothing: p is 1.
    is_equal = (classes > 1) & (np.abs(totals).max(axis=0, initial=0.0) < 1e-12)
    p = np.where(is_equal, 1.0, p)
    reason = np.where(classes < 2, "fewer than two clusters have both", reason_equal)
    first, second = ([names[i] for i in side] for side in (a, b))
    low, high = low.clip(-largest, largest), high.clip(-largest, largest)
    adjusted = holm(p)  # a comparison that could not be computed keeps its weight
    values = (first, second, classes, value, low, high, p, adjusted, reason)
    return pd.DataFrame(dict(zip(columns, values, strict=True)))


def letters(names: Sequence[str], pairs: pd.DataFrame) -> dict[str, str]:
    """Return a compact letter display (Piepho, 2004): names that share a letter were compared
    and do not differ significantly. Names whose comparison could not be computed (p is NaN) do not
    share a letter; a name of which none could be computed has no letter.

    Args:
        names: all names, from best to worst.
        pairs: the result of `differences`.
    """
    groups = {frozenset(names)}
    is_different = pairs["p"].isna() | (pairs["p"] < ALPHA)
    for pair in pairs.loc[is_different, ["first", "second"]].to_numpy():
        for group in [g for g in groups if g.issuperset(pair)]:  # insert …
            groups = groups - {group} | {group - {name} for name in pair}
        groups = {g for g in groups if not any(g < other for other in groups)}  # … and absorb
    ordered = sorted(groups, key=lambda group: sorted(map(names.index, group)))
    compared_pairs = pairs.loc[pairs["p"].notna(), ["first", "second"]]
    compared = set(compared_pairs.to_numpy().ravel()) if len(pairs) else set(names)
    return {
        name: "".join(_letter(i) for i, group in enumerate(ordered) if name in group)
        * (name in compared)
        for name in names
    }


def _letter(number: int) -> str:
    """Return the letter of a number: a to z, A to Z, then Latin Extended."""
    return ascii_letters[number] if number < 52 else chr(0x100 + number - 52)


def ranks(names: Sequence[str], pairs: pd.DataFrame) -> dict[str, str]:
    """Return the simultaneous confidence interval of each rank (Al Mohamad, Goeman & van Zwet,
    2021): from 1 + the number of significantly better methods to the number of methods minus the
    significantly worse ones.

    Args:
        names: the names of all methods.
        pairs: the result of `differences`; a comparison that could not be computed (p is NaN)
            counts as not significant.

    Returns:
        name -> "first–last"; it never contradicts the letters, which follow from the same tests.
    """
    significant = pairs[pairs["p"] < ALPHA]
    better, worse = significant["second"].value_counts(), significant["first"].value_counts()
    return {n: f"{1 + better.get(n, 0)}–{len(names) - worse.get(n, 0)}" for n in names}


def rank_agreement(reference: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, int]:
    """Return Kendall's tau-b between the values of methods in two evaluations (NaN with fewer than
    two methods in common), and the number of methods in both."""
    common = [
        m for m in reference if m in other and np.isfinite(reference[m]) and np.isfinite(other[m])
    ]
    if len(common) < 2:
        return float("nan"), len(common)
    values = np.array([[of[m] for m in common] for of in (reference, other)])
    tau = stats.kendalltau(*values.round(12)).statistic  # gaps equal up to rounding are ties
    return float(tau), len(common)
