"""Uncertainty of statistics of responses that share participants and items: two-way jackknife.

Responses are crossed: a participant responds to many trials, and many participants respond to a
trial. An interval that generalises to *other participants and other trials* must let both vary.
For a statistic θ that is a smooth function of sums, the variance is computed by inclusion and
exclusion (Cameron, Gelbach & Miller 2011, eq. 2.3; Owen 2007 explains why one joint resampling of
both would count the residual three times):

    V = V_participants + V_items − V_cells

Each part is computed by leaving out one cluster at a time (delete-one jackknife, "CV3" in
MacKinnon, Nielsen & Webb 2023), which needs no random numbers. Student's t with Satterthwaite's
degrees of freedom replaces the normal distribution, because designs have ten to twenty items per
condition. They count the clusters that inform *this* estimate (`count_clusters`): if 4 of 60
participants respond to a condition, its difference from another condition has about three degrees
of freedom, not 59. With fewer than `FEWEST` participants or items in a group there is no interval
and no test, and a reason is given.
No interval is narrower than the one for independent responses (`t_interval`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.statistic import ALIKE, FEWEST, Estimate

#: A statistic: sums [..., groups] and counts [..., groups] -> values [..., k].
Function = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class CrossedData:
    """Responses with integer codes for their group, participant and item.

    Attributes:
        values: measured values (1 for correct and 0 for incorrect responses): float [n].
        group, participant, item: codes from 0: int [n].
        groups: names of the groups, in the order of their codes.
        stratum: stratum of each item: int [items]. If every item occurs in one group only, the
            groups are the strata; otherwise there is one stratum.
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
        """Return sums of values and counts of responses: two arrays [clusters, groups]."""
        width = len(self.groups)
        cell = cluster * width + self.group
        shape = (clusters, width)
        total = np.bincount(cell, self.values, minlength=clusters * width).reshape(shape)
        count = np.bincount(cell, minlength=clusters * width).reshape(shape).astype(float)
        return total, count


#: Columns whose values are truth values.
TRUTH_VALUES = ("correct", "changed")


def check_responses(frame: pd.DataFrame, value: str, *columns: str) -> None:
    """Check the rows of a table of responses.

    Args:
        value: the column of measured values, which may be missing.
        columns: columns that every row must have.

    Raises:
        ValueError: a row lacks one of `columns`, or a truth value is neither 0 nor 1.
    """
    for column in columns:
        if missing := int(frame[column].isna().sum()):
            raise ValueError(f"{missing} rows without {column!r}: every response must have one")
    if value in TRUTH_VALUES and not frame[value].dropna().isin([0, 1]).all():
        raise ValueError(f"{value!r} must be True or False (1 or 0) in every row, or missing")


def code_responses(
    frame: pd.DataFrame,
    value: str = "correct",
    group: str = "condition",
    participant: str = "participant",
    item: str = "trial",
) -> CrossedData:
    """Return the responses of a table as codes; there must be no missing values.

    Raises:
        ValueError: the table is empty, or a value is missing; see also `check_responses`.
    """
    if frame.empty:
        raise ValueError("no responses to analyse: the table is empty")
    check_responses(frame, value, group, participant, item)
    values = frame[value].to_numpy(dtype=float, na_value=np.nan)
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} rows without {value!r}: drop them first")
    group_codes, groups = pd.factorize(frame[group], sort=True)
    participants, _ = pd.factorize(frame[participant], sort=True)
    items, item_names = pd.factorize(frame[item], sort=True)
    item_group = np.zeros(len(item_names), dtype=int)
    item_group[items] = group_codes
    is_nested = (item_group[items] == group_codes).all()
    stratum = item_group if is_nested else np.zeros(len(item_names), dtype=int)
    return CrossedData(values, group_codes, participants, items, tuple(map(str, groups)), stratum)


@dataclass(frozen=True)
class Variance:
    """Values of a statistic [k] with their variance [k] and degrees of freedom [k].

    `independent` [k] is the variance if all responses were independent. Both variances are NaN if
    too few clusters inform the estimate; `reasons` [k] then says so, and is "" otherwise.
    """

    point: np.ndarray
    variance: np.ndarray
    df: np.ndarray
    independent: np.ndarray
    reasons: tuple[str, ...]

    def interval(
        self, k: int, level: float = 0.95, null: float | None = None
    ) -> tuple[float, float, float]:
        """Return the interval of the k-th value and the p-value of `null` (`t_interval`)."""
        return t_interval(
            self.point[k], self.variance[k], self.df[k], level, null, self.independent[k]
        )


@dataclass(frozen=True)
class ClusterCounts:
    """The number of clusters of one kind that inform each value of a statistic.

    Attributes:
        fewest: the number of clusters in the group that has the fewest: [k].
        effective: Kish's effective number (Σn)²/Σn² in the group where it is smallest: [k].
        df: Welch and Satterthwaite's degrees of freedom, if all groups vary equally: [k].
    """

    fewest: np.ndarray
    effective: np.ndarray
    df: np.ndarray


def count_clusters(cluster: np.ndarray, group: np.ndarray, weights: np.ndarray) -> ClusterCounts:
    """Count the clusters that inform each value of a statistic.

    A group g with m_g effective clusters contributes v_g = w_g²/m_g to the variance, with m_g − 1
    degrees of freedom: df = (Σ v)² / Σ v²/(m − 1). It is at most the number of distinct clusters in
    all groups of the value less one, because a cluster may occur in several groups.

    Args:
        cluster, group: codes of each response [n].
        weights: the weight of each group in each value [k, groups].
    """
    clusters, groups = int(cluster.max()) + 1, weights.shape[1]
    size = np.bincount(cluster * groups + group, minlength=clusters * groups)
    size = size.reshape(clusters, groups).astype(float)
    cluster_counts = (size > 0).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        kish = size.sum(axis=0) ** 2 / np.square(size).sum(axis=0)
        informs = (weights != 0) & (cluster_counts > 0)
        v = np.where(informs, weights**2 / kish, 0.0)
        df = v.sum(axis=1) ** 2 / np.where(informs, v**2 / (kish - 1), 0.0).sum(axis=1)
    value_clusters = (size @ informs.T > 0).sum(axis=0)
    df = np.nan_to_num(df, nan=1.0, posinf=1.0)  # no group of the value has clusters here
    return ClusterCounts(
        np.where(informs, cluster_counts, np.inf).min(axis=1),
        np.where(informs, kish, np.inf).min(axis=1),
        np.clip(df, 1.0, np.maximum(value_clusters - 1.0, 1.0)),
    )


def two_way_jackknife(
    data: CrossedData, function: Function, weights: np.ndarray | None = None
) -> Variance:
    """Estimate the variance by leaving out one participant, one item and one response at a time.

    For the mean of one balanced group it equals Cameron, Gelbach & Miller's estimator with the
    factor n/(n−1) for each kind of cluster.

    Args:
        weights: the weight of each group in each value [k, groups], see `count_clusters`; by
            default value k is that of group k.
    """
    total, count = data.sums(np.zeros_like(data.participant), 1)
    point = function(total[0], count[0])

    def leave_one_out(total_without: np.ndarray, count_without: np.ndarray) -> np.ndarray:
        n = len(total_without)
        with np.errstate(invalid="ignore"):  # infinite log odds: the variance is then NaN
            deviations = function(total_without, count_without) - point
        return (n - 1) / n * np.square(deviations).sum(axis=0)

    people_total, people_count = data.sums(data.participant, data.participants)
    people = leave_one_out(total - people_total, count - people_count)
    item_total, item_count = data.sums(data.item, data.items)
    identity = np.eye(len(data.groups))
    cells = np.zeros_like(point)
    for g in range(len(data.groups)):
        values = data.values[data.group == g]
        # Responses of equal value leave equal sums: one evaluation per distinct value suffices.
        distinct, repeats = np.unique(values, return_counts=True)
        with np.errstate(invalid="ignore"):
            changes = function(total - distinct[:, None] * identity[g], count - identity[g]) - point
        n = len(values)
        cells = cells + (n - 1) / n * (repeats[:, None] * np.square(changes)).sum(axis=0)
    strata = [
        leave_one_out(total - item_total[data.stratum == s], count - item_count[data.stratum == s])
        for s in np.unique(data.stratum)
    ]
    return combine(data, point, people, strata, cells, weights)


def combine(
    data: CrossedData,
    point: np.ndarray,
    people: np.ndarray,
    strata: list[np.ndarray],
    cells: np.ndarray,
    weights: np.ndarray | None = None,
) -> Variance:
    """Compute V_participants + V_items − V_cells and its degrees of freedom.

    If participants or items hardly differ, this difference of estimates can be too small or
    negative; it is therefore set to at least V_cells/2, and `t_interval` makes no interval narrower
    than that of independent responses. For the degrees of freedom, the variance is set to at least
    V_cells: otherwise a small variance would come with few degrees of freedom, and the intervals of
    guessing participants would contain the true value in 98 to 99 % of studies.
    """
    weights = np.eye(len(data.groups)) if weights is None else weights
    person = count_clusters(data.participant, data.group, weights)
    item = count_clusters(data.item, data.group, weights)
    items = np.sum(strata, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite parts: the variance is NaN
        variance = np.maximum(people + items - cells, cells / 2)
        terms = people**2 / person.df
        for stratum, part in zip(np.unique(data.stratum), strata, strict=True):
            inside = data.stratum[data.item] == stratum
            clusters = count_clusters(data.item[inside], data.group[inside], weights)
            terms = terms + part**2 / clusters.df
        df = np.maximum(np.maximum(variance, cells) ** 2 / terms, 1.0)
    reasons = tuple(why_too_few(p, i) for p, i in zip(person.fewest, item.fewest, strict=True))
    estimable = np.array([not reason for reason in reasons])
    variance, independent = (np.where(estimable, part, np.nan) for part in (variance, cells))
    return Variance(point, variance, df, independent, reasons)


def why_too_few(participants: float, items: float) -> str:
    """Return why the smallest group has too few clusters for an interval; "" if it has enough."""
    for count, plural_noun in ((participants, "participants"), (items, "trials")):
        if count < FEWEST:
            noun = plural_noun if count != 1 else plural_noun[:-1]
            return f"only {count:.0f} {noun} in a condition; at least {FEWEST} are needed"
    return ""


def t_interval(
    point: float,
    variance: float,
    df: float,
    level: float = 0.95,
    null: float | None = None,
    independent: float = 0.0,
) -> tuple[float, float, float]:
    """Return the ends of Student's interval and the two-sided p-value of `null`; NaN if undefined.

    Args:
        independent: variance if all responses were independent. The result is the wider of
            Student's interval and the normal interval with this variance, and the larger of the two
            p-values, so that the interval excludes `null` exactly if p is below 1 − level.
    """
    error, independent_error = float(np.sqrt(variance)), float(np.sqrt(independent))
    if not (np.isfinite(point) and error > 0):
        return np.nan, np.nan, np.nan
    half_width = float(max(stats.t.ppf(0.5 + level / 2, df) * error,
                      stats.norm.ppf(0.5 + level / 2) * independent_error))  # fmt: skip
    if null is None:
        return point - half_width, point + half_width, np.nan
    distance = abs(point - null)
    p = 2 * stats.t.sf(distance / error, df)
    if independent_error > 0:
        p = max(p, 2 * stats.norm.sf(distance / independent_error))
    return point - half_width, point + half_width, float(p)


def holm(p: np.ndarray, weights: np.ndarray | None = None, reserved: float = 0.0) -> np.ndarray:
    """Adjust p-values [m] by Holm's (1979) procedure, with optional weights [m].

    In ascending order of p/w, p̃₍ᵢ₎ = max over j ≤ i of min(1, p₍ⱼ₎ · Σ_{k ≥ j} w₍ₖ₎ / w₍ⱼ₎), which
    is (m − j + 1) p₍ⱼ₎ for equal weights, the default. An undefined p stays NaN and keeps its
    weight, like a test that is not rejected, so that a missing test makes no other test easier.
    (statsmodels' `multipletests` has no weights, and is too slow for the simulations of the
    planner, because it runs the garbage collector in each call.)

    Args:
        reserved: weight that is never redistributed, like that of tests that are never rejected.
    """
    weights = np.ones(len(p)) if weights is None else weights
    corrected = np.full(len(p), np.nan)
    defined = np.flatnonzero(~np.isnan(p))
    reserved = reserved + float(weights[np.isnan(p)].sum())
    order = defined[np.argsort(p[defined] / weights[defined], kind="stable")]
    remaining = np.cumsum(weights[order][::-1])[::-1] + reserved
    adjusted = p[order] * (remaining / weights[order])
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(adjusted))
    return corrected


CLUSTERED = ("participant", "item")
TEST = "t, participants and items clustered"


def as_estimates(
    result: Variance,
    inverse: Callable[[np.ndarray], np.ndarray],
    null: float | np.ndarray | None,
    counts: np.ndarray,
    level: float = 0.95,
) -> list[Estimate]:
    """Return the k values of a result as Estimates, transformed to the reported scale by `inverse`.

    Args:
        result: values on the scale on which the interval is symmetric.
        inverse: increasing function from that scale to the reported one.
        null: tested value, or values [k], on the symmetric scale; None if nothing is tested.
        counts: number of responses on which each value is based: [k].
    """
    nulls = [None] * len(counts) if null is None else np.broadcast_to(null, len(counts)).tolist()
    results = []
    for k, value in enumerate(result.point):
        low, high, p = result.interval(k, level, nulls[k])
        value, low, high = inverse(np.array([value, low, high])).tolist()
        reason = result.reasons[k] or (ALIKE if np.isnan(low) else "")
        results.append(
            Estimate(value, low, high, n=int(counts[k]), test=TEST * (null is not None), p=p,
                     level=level, clustered=CLUSTERED, reason=reason)
        )  # fmt: skip
    return results
