"""Uncertainty when answers share participants and items: two-way cluster resampling.

A table of answers is crossed: a participant answers many trials, a trial is answered by many
participants. An interval that is to hold for *other people and other trials* must let both vary.
For a statistic θ that is a smooth function of sums, the variance is put together by inclusion and
exclusion (Cameron, Gelbach & Miller 2011, eq. 2.3; Owen 2007 for why one joint resampling of both
would count the residual three times):

    V = V_participants + V_items − V_cells

Each part comes from leaving out one cluster at a time (delete-one jackknife, "CV3" in MacKinnon,
Nielsen & Webb 2023) or from a bootstrap that draws n − 1 of n clusters (Rao & Wu 1988), for which
the variance of a mean is unbiased however few the clusters. Student's t with Satterthwaite's
degrees of freedom stands for the normal, as designs have ten to twenty items a condition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.estimate import Estimate

#: A statistic: sums [..., groups] and counts [..., groups] -> values [..., k].
Function = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Crossed:
    """Answers as codes: everything that resampling needs, no labels.

    Attributes:
        values: what is averaged (1 and 0 for right and wrong): float [n].
        group, participant, item: codes from 0, int [n].
        groups: names of the groups, in code order.
        stratum: for each item, the pool it was drawn from: int [items]. Items that occur in one
            group each are drawn within that group; otherwise all items are one pool.
    """

    values: np.ndarray
    group: np.ndarray
    participant: np.ndarray
    item: np.ndarray
    groups: tuple[str, ...]
    stratum: np.ndarray

    @property
    def participants(self) -> int:
        return int(self.participant.max()) + 1

    @property
    def items(self) -> int:
        return len(self.stratum)

    def sums(self, cluster: np.ndarray, clusters: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums of values and counts of answers by cluster and group: two [clusters, groups]."""
        width = len(self.groups)
        cell = cluster * width + self.group
        shape = (clusters, width)
        total = np.bincount(cell, self.values, minlength=clusters * width).reshape(shape)
        count = np.bincount(cell, minlength=clusters * width).reshape(shape).astype(float)
        return total, count


def crossed(
    frame: pd.DataFrame,
    value: str = "correct",
    group: str = "condition",
    participant: str = "participant",
    item: str = "trial",
) -> Crossed:
    """Codes of a table; rows with a missing value must have been left out before.

    Raises:
        ValueError: the table is empty or the value is missing somewhere.
    """
    if frame.empty:
        raise ValueError("no answers to analyse: the table is empty")
    values = frame[value].to_numpy(dtype=float, na_value=np.nan)
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} rows without {value!r}: drop them first")
    group_codes, groups = pd.factorize(frame[group], sort=True)
    participants, _ = pd.factorize(frame[participant], sort=True)
    items, item_names = pd.factorize(frame[item], sort=True)
    owner = np.zeros(len(item_names), dtype=int)
    owner[items] = group_codes
    nested = (owner[items] == group_codes).all()
    stratum = owner if nested else np.zeros(len(item_names), dtype=int)
    return Crossed(values, group_codes, participants, items, tuple(map(str, groups)), stratum)


@dataclass(frozen=True)
class Variance:
    """Values of a statistic [k] with their variance [k] and degrees of freedom [k]."""

    point: np.ndarray
    variance: np.ndarray
    df: np.ndarray


def two_way_jackknife(data: Crossed, function: Function) -> Variance:
    """Two-way cluster variance by leaving out one participant, one item, one answer at a time.

    Deterministic, and exact for means: on one balanced group it is Cameron, Gelbach & Miller's
    estimator with the factor n/(n−1) in each way of clustering.
    """
    total, count = data.sums(np.zeros_like(data.participant), 1)
    point = function(total[0], count[0])

    def spread(total_without: np.ndarray, count_without: np.ndarray) -> np.ndarray:
        n = len(total_without)
        with np.errstate(invalid="ignore"):  # infinite log odds: the variance is then NaN
            deviations = function(total_without, count_without) - point
        return (n - 1) / n * np.square(deviations).sum(axis=0) if n > 1 else np.nan * point

    people_total, people_count = data.sums(data.participant, data.participants)
    people = spread(total - people_total, count - people_count)
    item_total, item_count = data.sums(data.item, data.items)
    width = np.eye(len(data.groups))
    cells = np.zeros_like(point)
    for g in range(len(data.groups)):
        values = data.values[data.group == g]
        # Answers of equal value leave equal sums behind: one evaluation a distinct value.
        distinct, times = np.unique(values, return_counts=True)
        with np.errstate(invalid="ignore"):
            without = function(total - distinct[:, None] * width[g], count - width[g]) - point
        n = len(values)
        cells = cells + (n - 1) / n * (times[:, None] * np.square(without)).sum(axis=0)
    strata = [
        spread(total - item_total[data.stratum == s], count - item_count[data.stratum == s])
        for s in np.unique(data.stratum)
    ]
    return _combine(data, point, people, strata, cells)


def two_way_bootstrap(
    data: Crossed, function: Function, replicates: int, rng: np.random.Generator
) -> Variance:
    """Two-way cluster variance by resampling participants, items (within pools) and answers.

    Replicates in which the statistic is undefined (a group without answers) are left out.
    """
    total, count = data.sums(np.zeros_like(data.participant), 1)
    point = function(total[0], count[0])

    def spread(cluster_total: np.ndarray, cluster_count: np.ndarray) -> np.ndarray:
        n = len(cluster_total)
        if n < 2:
            return np.nan * point
        weights = rng.multinomial(n - 1, np.full(n, 1 / n), size=replicates) * (n / (n - 1))
        rest_total = total - cluster_total.sum(0)  # groups that this pool does not touch
        rest_count = count - cluster_count.sum(0)
        values = function(
            rest_total + weights @ cluster_total, rest_count + weights @ cluster_count
        )
        with np.errstate(invalid="ignore"):
            return np.nanvar(values, axis=0, ddof=1)

    people = spread(*data.sums(data.participant, data.participants))
    item_total, item_count = data.sums(data.item, data.items)
    strata = [
        spread(item_total[data.stratum == s], item_count[data.stratum == s])
        for s in np.unique(data.stratum)
    ]
    resampled = np.empty((replicates, len(data.groups)))
    for g in range(len(data.groups)):
        values = data.values[data.group == g]
        distinct, times = np.unique(values, return_counts=True)
        draws = rng.multinomial(len(values), times / len(values), size=replicates)
        resampled[:, g] = draws @ distinct
    values = function(resampled, np.broadcast_to(count, resampled.shape))
    with np.errstate(invalid="ignore"):
        cells = np.nanvar(values, axis=0, ddof=1)
    return _combine(data, point, people, strata, cells)


def _combine(
    data: Crossed,
    point: np.ndarray,
    people: np.ndarray,
    strata: list[np.ndarray],
    cells: np.ndarray,
) -> Variance:
    """V_participants + V_items − V_cells and its degrees of freedom.

    Never below half of what independent answers would have: the difference of estimates can come
    out too small, or negative, where nobody differs from anybody. (A higher floor makes intervals
    too wide when all are guessing; a lower one changes nothing elsewhere.) The degrees of freedom
    take the variance for no less than that of independent answers: otherwise a variance that came
    out small would bring few degrees of freedom along, and the test would be timid, at 3.4 instead
    of 4.8 %, where all are guessing.
    """
    items = np.sum(strata, axis=0)
    with np.errstate(invalid="ignore"):  # infinite parts: the variance is then NaN
        variance = np.maximum(people + items - cells, cells / 2)
    sizes = [int((data.stratum == s).sum()) for s in np.unique(data.stratum)]
    spent = people**2 / max(data.participants - 1, 1)
    for part, size in zip(strata, sizes, strict=True):
        spent = spent + part**2 / max(size - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.maximum(np.maximum(variance, cells) ** 2 / spent, 1.0)
    return Variance(point, variance, df)


def t_interval(
    point: float, variance: float, df: float, level: float = 0.95, null: float | None = None
) -> tuple[float, float, float]:
    """Ends of Student's interval, and the two-sided p-value of `null`; NaN where undefined."""
    error = float(np.sqrt(variance))
    if not (np.isfinite(point) and error > 0):
        return np.nan, np.nan, np.nan
    reach = float(stats.t.ppf(0.5 + level / 2, df)) * error
    p = np.nan if null is None else float(2 * stats.t.sf(abs(point - null) / error, df))
    return point - reach, point + reach, p


def holm(p: np.ndarray, weights: np.ndarray | None = None, kept: float = 0.0) -> np.ndarray:
    """Holm's (1979) correction of the defined p-values [m]; undefined ones stay NaN.

    In ascending order of p/w, p̃₍ᵢ₎ = max over j ≤ i of min(1, p₍ⱼ₎ · Σ_{k ≥ j} w₍ₖ₎ / w₍ⱼ₎): with
    equal weights, the default, (m − j + 1) p₍ⱼ₎. In plain numpy, as the planner calls it for every
    simulated study and statsmodels' `multipletests`, which knows no weights, collects garbage each
    time.

    Args:
        kept: weight of tests that are never rejected, so that it is never handed on.
    """
    weights = np.ones(len(p)) if weights is None else weights
    corrected = np.full(len(p), np.nan)
    defined = np.flatnonzero(~np.isnan(p))
    order = defined[np.argsort(p[defined] / weights[defined], kind="stable")]
    left = np.cumsum(weights[order][::-1])[::-1] + kept
    steps = p[order] * (left / weights[order])
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected


CLUSTERED = ("participant", "item")


def estimates(
    result: Variance,
    back: Callable[[np.ndarray], np.ndarray],
    null: float | None,
    test: str,
    counts: np.ndarray,
    level: float = 0.95,
) -> list[Estimate]:
    """The k values of a result as Estimates, intervals carried `back` to the natural scale.

    Args:
        result: values on the scale on which the interval is symmetric.
        back: increasing function from that scale to the reported one.
        null: tested value, on the symmetric scale.
        test: name of the test. counts: answers behind each value: [k].
    """
    found = []
    for k, value in enumerate(result.point):
        low, high, p = t_interval(value, result.variance[k], result.df[k], level, null)
        ends = back(np.array([value, low, high]))
        found.append(
            Estimate(
                value=float(ends[0]),
                low=float(ends[1]),
                high=float(ends[2]),
                n=int(counts[k]),
                test=test if null is not None else "",
                p=p,
                level=level,
                clustered=CLUSTERED,
            )
        )
    return found
