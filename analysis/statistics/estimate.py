"""The form of every estimate: a value, its interval, its test, and how they were computed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isclose, nan, sqrt

import numpy as np

#: Fewest participants, and fewest items, in each group that an estimate needs for an interval.
#: With three of 60 people in a condition the worst of the designs tried rejected 9 % of 200 null
#: studies (standard error 2); with four 6.8 % of 1,000 (0.8), see docs/analysis.md.
FEWEST = 4


#: Why there is no interval where all answers, or the means of all clusters, are alike.
ALIKE = "nothing varies, so that no interval can be estimated"


@dataclass(frozen=True)
class Estimate:
    """An estimate with its uncertainty.

    Attributes:
        value: the estimate; NaN where undefined.
        low: lower end of the interval; NaN where undefined.
        high: upper end of the interval; NaN where undefined.
        n: what was counted (say of what in `clustered` or the table's caption).
        left_out: how many units could not be used, so that NaN never hides data.
        test: name of the test, "" where none was made.
        p: its p-value, uncorrected unless `test` says so; NaN where undefined.
        effect: effect size; NaN where none.
        effect_name: what the effect size is, e.g. "odds ratio".
        level: coverage aimed at by the interval.
        clustered: the units that were resampled or given random effects, e.g. ("participant",).
        p_error: Monte Carlo standard error of p; NaN where p is no simulation.
        reason: why there is no interval or no test, or what a reader must know of it; "" where
            nothing is to be said.

    An interval without width is none: its ends become NaN, and `reason` says so.
    """

    value: float
    low: float = nan
    high: float = nan
    n: int = 0
    left_out: int = 0
    test: str = ""
    p: float = nan
    effect: float = nan
    effect_name: str = ""
    level: float = 0.95
    clustered: tuple[str, ...] = field(default=())
    p_error: float = nan
    reason: str = ""

    def __post_init__(self) -> None:
        if isclose(self.low, self.high, rel_tol=1e-12):  # what remains of rounding is no width
            object.__setattr__(self, "low", nan)
            object.__setattr__(self, "high", nan)
            object.__setattr__(self, "reason", self.reason or ALIKE)


def size(level: float) -> float:
    """Return the size α of a test at a confidence level; 1 − .95 in floating point is above .05."""
    return round(1 - level, 12)


def permuted(
    estimate: Estimate, reached: int, permutations: int, null: float, resampled: np.ndarray
) -> Estimate:
    """Return an estimate with a permutation test of `null` and a percentile interval that agree
    with each other.

    The two are computed in different ways, so that near the limit one can exclude the null and the
    other not; the more cautious one then decides. Where the interval holds the null, p is at least
    the two-sided p-value of the resamples, twice the smaller share of them on one side of the null;
    where p does not exclude the null, the interval is widened to it, and `reason` says so.

    Args:
        reached: permutations that are at least as extreme as what was observed; p = (reached + 1) /
            (permutations + 1) (Phipson & Smyth 2010).
        resampled: the estimate in each bootstrap replicate [replicates], NaN where undefined; none
            where too few units were resampled, which leaves the interval out.
    """
    p = (reached + 1) / (permutations + 1)
    estimate = replace(estimate, p=p, p_error=sqrt(p * (1 - p) / permutations))
    resampled = resampled[~np.isnan(resampled)]
    if not len(resampled):
        return estimate
    limit = size(estimate.level)
    low, high = map(float, np.quantile(resampled, [limit / 2, 1 - limit / 2]))
    inside = low <= null <= high
    if inside and p < limit:
        sides = min((resampled <= null).mean(), (resampled >= null).mean())
        shared = "the interval holds the tested value: p is that of the interval"
        return replace(estimate, low=low, high=high, p=max(2 * float(sides), limit), reason=shared)
    if not inside and p >= limit:
        low, high = min(low, null), max(high, null)
        wider = "interval widened to the tested value, which the permutations do not exclude"
        return replace(estimate, low=low, high=high, reason=wider)
    return replace(estimate, low=low, high=high)
