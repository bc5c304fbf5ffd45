"""The interface of statistics: a statistic is a record of parameters that is called on a frame of
responses and returns estimates.

A frame has one row per response, with participant, trial (the item), condition and the measured
value. Estimates are keyed by a tuple of names (condition, or pair and measure); `tabulate` makes
them a table. Rows without the measured value are left out and counted.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from math import isclose, nan, sqrt
from typing import Protocol

import numpy as np
import pandas as pd

from harness.registry import Registry

#: Smallest number of participants, and of items, per group for which an interval is computed.
#: If only three of 60 participants respond in a condition, the worst design that was simulated
#: rejected 9 % of 200 null studies (standard error 2 %); with four, 6.8 % of 1,000 (0.8 %). Both
#: are with Student's interval of differences; docs/simulations.md has the rates of the present one.
FEWEST = 4

#: Reason why there is no interval if all responses, or the means of all clusters, are equal.
ALIKE = "nothing varies, so that no interval can be estimated"


@dataclass(frozen=True)
class Estimate:
    """An estimate with its uncertainty.

    Attributes:
        value: the estimate; NaN if undefined.
        low, high: ends of the interval; NaN if undefined.
        n: number of observations; the table's caption names their kind.
        left_out: number of observations that could not be used.
        test: name of the test; "" if nothing was tested.
        p: p-value, unadjusted unless `test` says otherwise; NaN if undefined.
        effect: effect size, as the statistic defines it; NaN if there is none.
        level: nominal coverage of the interval.
        clustered: the units that were resampled or given random effects, e.g. ("participant",).
        p_error: Monte Carlo standard error of p; NaN if p is not simulated.
        reason: why there is no interval or no test, or what a reader must know about them; ""
            otherwise.

    The ends of an interval of width 0 are replaced by NaN, and `reason` says so.
    """

    value: float
    low: float = nan
    high: float = nan
    n: int = 0
    left_out: int = 0
    test: str = ""
    p: float = nan
    effect: float = nan
    level: float = 0.95
    clustered: tuple[str, ...] = field(default=())
    p_error: float = nan
    reason: str = ""

    def __post_init__(self) -> None:
        if isclose(self.low, self.high, rel_tol=1e-12):  # equal up to rounding errors
            object.__setattr__(self, "low", nan)
            object.__setattr__(self, "high", nan)
            object.__setattr__(self, "reason", self.reason or ALIKE)


Estimates = dict[tuple[str, ...], Estimate]


class Statistic(Protocol):
    """A registered statistic: a frozen dataclass of parameters that is called on a frame."""

    def __call__(self, frame: pd.DataFrame) -> Estimates: ...


STATISTICS: Registry[Callable[..., Statistic]] = Registry("statistic")


def tabulate(estimates: Estimates, names: list[str]) -> pd.DataFrame:
    """Return one row per estimate: its key under `names`, then the fields of Estimate."""
    rows = [
        dict(zip(names, key, strict=True)) | asdict(e) | {"clustered": " × ".join(e.clustered)}
        for key, e in estimates.items()
    ]
    return pd.DataFrame(rows)


def alpha_of(level: float) -> float:
    """Return the size α of a test at a confidence level, rounded: the float 1 − .95 exceeds .05."""
    return round(1 - level, 12)


def add_permutation_test(
    estimate: Estimate, extreme: int, permutations: int, null: float, resampled: np.ndarray
) -> Estimate:
    """Add a permutation test of `null` and a percentile interval that agree with each other.

    Because the two are computed differently, only one of them may exclude the null value; the more
    conservative one then decides. If only p excludes it, p is raised to the two-sided p-value of
    the resamples (twice the smaller share of them on one side of the null value; at least α); if
    only the interval excludes it, the interval is extended to it. `reason` says so.

    Args:
        extreme: number of permutations that are at least as extreme as the observed value; p =
            (extreme + 1) / (permutations + 1) (Phipson & Smyth 2010).
        resampled: the estimate in each bootstrap replicate, or quantiles of its distribution, NaN
            if undefined; empty if there are too few units for an interval.
    """
    p = (extreme + 1) / (permutations + 1)
    estimate = replace(estimate, p=p, p_error=sqrt(p * (1 - p) / permutations))
    resampled = resampled[~np.isnan(resampled)]
    if not len(resampled):
        return estimate
    limit = alpha_of(estimate.level)
    low, high = map(float, np.quantile(resampled, [limit / 2, 1 - limit / 2]))
    contains_null = low <= null <= high
    if contains_null and p < limit:
        tail = min((resampled <= null).mean(), (resampled >= null).mean())
        reason = "the interval contains the tested value: p is that of the interval"
        return replace(estimate, low=low, high=high, p=max(2 * float(tail), limit), reason=reason)
    if not contains_null and p >= limit:
        low, high = min(low, null), max(high, null)
        reason = "interval widened to the tested value, which the permutations do not exclude"
        return replace(estimate, low=low, high=high, reason=reason)
    return replace(estimate, low=low, high=high)
