"""Differences of shares between conditions, with participants and items clustered.

The interval of a difference is computed from the intervals of its two shares (Newcombe 1998; Zou &
Donner 2008, "MOVER"), which are symmetric in log odds: with a = p̂₁ − l₁ and b = u₂ − p̂₂,

    low = p̂₁ − p̂₂ − √(a² + b² − 2 ρ a b),

and the upper end likewise. ρ is the correlation of the two shares (due to participants and items
in both conditions); it is derived from the variance of the difference. Student's interval around
p̂₁ − p̂₂ rejected 7 to 9 % of true null hypotheses if a few participants of very different ability
responded to a difficult condition, because a small share then comes with a small variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import optimize, special
from statsmodels.stats.proportion import proportion_confint

from analysis.statistics.clusters import (
    CLUSTERED,
    CrossedData,
    Function,
    Variance,
    as_estimates,
    code_responses,
    two_way_jackknife,
)
from analysis.statistics.shares import AS_TRIALS, clusters_as_trials, log_odds, means
from analysis.statistics.statistic import STATISTICS, Estimate, Estimates, alpha_of

#: Lower limit of the p-values that are computed.
SMALLEST = 1e-12


def condition_pairs(names: tuple[str, ...], reference: str | None) -> list[tuple[int, int]]:
    """Return the pairs of conditions to compare: all, or each other one with the reference."""
    if reference is None:
        return list(combinations(range(len(names)), 2))
    if reference not in names:
        raise ValueError(f"reference condition {reference!r} is not among {', '.join(names)}")
    base = names.index(reference)
    return [(g, base) for g in range(len(names)) if g != base]


def contrast(data: CrossedData, pairs: Sequence[tuple[int, int]], scale: Function) -> Variance:
    """Return differences of pairs of groups on a scale such as `means`, with their variance."""
    first, second = np.array(pairs).T
    weights = np.eye(len(data.groups))[first] - np.eye(len(data.groups))[second]

    def difference(total: np.ndarray, count: np.ndarray) -> np.ndarray:
        values = scale(total, count)
        with np.errstate(invalid="ignore"):
            return values[..., first] - values[..., second]

    return two_way_jackknife(data, difference, weights)


@dataclass(frozen=True)
class _Share:
    """A share and the quantities for its interval: the variances of its log odds (clustered, and
    for independent responses), and the number of trials of the exact interval that is used if the
    variance cannot be estimated."""

    value: float
    variance: float
    independent: float
    trials: float

    @property
    def estimable(self) -> bool:
        return bool(np.isfinite(self.variance) and self.variance > 0)

    def ends(self, alpha: float, df: float) -> tuple[float, float]:
        if not self.estimable:
            return proportion_confint(self.value * self.trials, self.trials, alpha, "beta")
        reach = max(
            -special.stdtrit(df, alpha / 2) * np.sqrt(self.variance),
            -special.ndtri(alpha / 2) * np.sqrt(self.independent),
        )
        centre = special.logit(self.value)
        return float(special.expit(centre - reach)), float(special.expit(centre + reach))


@dataclass(frozen=True)
class Difference:
    """The difference of two shares, p̂₁ − p̂₂, with its interval and tests.

    Attributes:
        df: degrees of freedom of its variance. correlation: correlation of the two shares.
        reason: why it has no interval, or AS_TRIALS; "" otherwise.
    """

    first: _Share
    second: _Share
    df: float
    correlation: float
    reason: str

    @property
    def value(self) -> float:
        return self.first.value - self.second.value

    def ends(self, alpha: float) -> tuple[float, float]:
        """Return the ends of the interval of level 1 − alpha."""
        first_ends, second_ends = self.first.ends(alpha, self.df), self.second.ends(alpha, self.df)
        lower_parts = (self.first.value - first_ends[0], second_ends[1] - self.second.value)
        upper_parts = (first_ends[1] - self.first.value, self.second.value - second_ends[0])
        below, above = self._combine_errors(*lower_parts), self._combine_errors(*upper_parts)
        return self.value - below, self.value + above

    def _combine_errors(self, a: float, b: float) -> float:
        return float(np.sqrt(max(a**2 + b**2 - 2 * self.correlation * a * b, 0.0)))

    def interval(self, level: float, null: float) -> tuple[float, float, float]:
        """Return the ends, and the two-sided p-value of `null`: the alpha at which an end of the
        interval equals it. All are NaN if there is no interval."""
        if self.reason not in ("", AS_TRIALS):
            return np.nan, np.nan, np.nan
        low, high = self.ends(alpha_of(level))
        alpha, p = alpha_of(level), self._p(null)
        # Where the ends are not monotonic in alpha, the more conservative of the two decides.
        if low <= null <= high:
            p = max(p, alpha)
        elif p >= alpha:
            low, high = min(low, null), max(high, null)
        return low, high, p

    def _p(self, null: float) -> float:
        is_above = self.value > null

        def gap(log_alpha: float) -> float:
            low, high = self.ends(float(np.exp(log_alpha)))
            return low - null if is_above else null - high

        bounds = float(np.log(SMALLEST)), float(np.log(0.999))
        if np.isclose(self.value, null, rtol=0, atol=1e-12) or gap(bounds[1]) <= 0:
            return 1.0
        if gap(bounds[0]) >= 0:
            return SMALLEST
        return float(np.exp(optimize.brentq(gap, *bounds, xtol=1e-9)))


def differences(data: CrossedData, pairs: Sequence[tuple[int, int]]) -> list[Difference]:
    first, second = np.array(pairs).T
    odds, shares = two_way_jackknife(data, log_odds), two_way_jackknife(data, means)
    result = contrast(data, pairs, means)
    group_shares = [
        _Share(
            float(shares.point[g]), float(odds.variance[g]), float(odds.independent[g]),
            clusters_as_trials(data, g),
        )
        for g in range(len(data.groups))
    ]  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        shared = shares.variance[first] + shares.variance[second] - result.variance
        correlation = shared / (2 * np.sqrt(shares.variance[first] * shares.variance[second]))
    correlation = np.nan_to_num(correlation, nan=0.0, posinf=0.0, neginf=0.0).clip(-1, 1)
    results = []
    for k, (a, b) in enumerate(pairs):
        reason = result.reasons[k]
        if not reason and not (group_shares[a].estimable and group_shares[b].estimable):
            reason = AS_TRIALS
        results.append(
            Difference(
                group_shares[a], group_shares[b], float(result.df[k]), float(correlation[k]), reason
            )
        )
    return results


@STATISTICS.add("cluster_contrasts")
@dataclass(frozen=True)
class ClusterContrasts:
    """Differences of shares between conditions, with participants and items clustered.

    There are two estimates per pair (first, second): "risk difference", p̂₁ − p̂₂, with the interval
    described at the top of this module and the unadjusted p-value, which is the alpha at which an
    end of the interval is 0; and "odds ratio", exp(logit p̂₁ − logit p̂₂ ± t_df √V), without a test
    of its own. The general ability of participants who respond in both conditions cancels.

    Attributes:
        reference: the condition with which all others are compared; by default all pairs.
        replicates, seed: have no effect; kept for calls from the time when this statistic was a
            bootstrap.
    """

    reference: str | None = None
    level: float = 0.95
    replicates: int = 0
    seed: int = 0

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        answered = frame.dropna(subset=["correct"])
        data, left_out = code_responses(answered), len(frame) - len(answered)
        pairs = condition_pairs(data.groups, self.reference)
        if not pairs:
            return {}
        counts = np.bincount(data.group)[np.array(pairs)].sum(axis=1)
        ratios = as_estimates(contrast(data, pairs, log_odds), np.exp, None, counts, self.level)
        names = [(data.groups[a], data.groups[b]) for a, b in pairs]
        results: Estimates = {}
        for name, d, n in zip(names, differences(data, pairs), counts, strict=True):
            low, high, p = d.interval(self.level, 0.0)
            results[*name, "risk difference"] = Estimate(
                d.value, low, high, n=int(n), left_out=left_out,
                test="difference of two clustered shares", p=p, level=self.level,
                clustered=CLUSTERED, reason=d.reason,
            )  # fmt: skip
        for name, ratio in zip(names, ratios, strict=True):
            results[*name, "odds ratio"] = replace(ratio, left_out=left_out)
        return results
