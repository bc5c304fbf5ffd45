"""Shares of correct responses by condition and their tests against chance, for independent and for
clustered responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit
from statsmodels.stats.proportion import proportion_confint

from analysis.statistics.clusters import (
    CLUSTERED,
    CrossedData,
    as_estimates,
    check_responses,
    code_responses,
    count_clusters,
    two_way_jackknife,
)
from analysis.statistics.statistic import STATISTICS, Estimate, Estimates, alpha_of

#: Reason given with an interval for which the variance cannot be estimated.
AS_TRIALS = "variance not estimable: Clopper–Pearson interval with clusters as trials"


def chance_of(chance: float | Mapping[str, float], condition: str) -> float:
    """Return a condition's chance level; raise ValueError if it is missing or outside (0, 1)."""
    level = chance if isinstance(chance, int | float) else chance.get(condition, np.nan)
    if not 0 < level < 1:
        raise ValueError(
            f"chance of condition {condition!r} must lie between 0 and 1, got {level}; "
            f"give one number, or one per condition"
        )
    return float(level)


def log_odds(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(total / (count - total))


def means(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return total / count


def by_condition(frame: pd.DataFrame, names: Sequence[str], results: list[Estimate]) -> Estimates:
    """Return estimates by condition, with `left_out` set to the responses that were not used."""
    counts = frame["condition"].astype(str).value_counts()
    return {
        (name,): replace(estimate, left_out=int(counts[name]) - estimate.n)
        for name, estimate in zip(names, results, strict=True)
    }


@STATISTICS.add("exact_binomial")
@dataclass(frozen=True)
class ExactBinomial:
    """Share of correct responses per condition, tested as if all responses were independent.

    It has Clopper & Pearson's (1934) interval and the exact two-sided test (as R's `binom.test`:
    the probability of all outcomes that are not more likely than the observed one). It is reported
    because readers expect it: if responses share participants and items, its interval is too narrow
    (see the coverage table in docs/simulations.md), so that no claim is based on it.
    """

    chance: float | Mapping[str, float]
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        check_responses(frame, "correct", "condition")
        results: Estimates = {}
        for condition, answers in frame.groupby("condition")["correct"]:
            name, correct = str(condition), answers.dropna()
            if len(correct):
                n, chance = len(correct), chance_of(self.chance, name)
                test = stats.binomtest(int(correct.sum()), n, chance)
                low, high = test.proportion_ci(self.level)
                results[(name,)] = Estimate(
                    test.statistic, low, high, n=n, left_out=len(answers) - n,
                    test="exact binomial, answers as if independent", p=float(test.pvalue),
                    level=self.level,
                )  # fmt: skip
        return results


@STATISTICS.add("cluster_bootstrap")
@dataclass(frozen=True)
class ClusteredShares:
    """Share of correct responses per condition, for other participants and items.

    The interval is logit p̂ ± t_df · √V, transformed back to shares, where V is the two-way cluster
    variance of `clusters.py` (Cameron, Gelbach & Miller 2011) and df is Satterthwaite's. The test
    against chance uses the same t, so that test and interval agree. No model of the responses is
    assumed.

    If all (or all but a few) responses of a condition are correct or incorrect, the variance cannot
    be estimated; the interval is then Clopper and Pearson's, where the number of trials is the
    effective number of participants or of items, whichever is smaller. This is conservative. With
    fewer than four participants or items in a condition there is no interval and no test.

    Attributes:
        chance: probability of a correct response by guessing: one number, or one per condition.
        replicates, seed: have no effect; kept for calls from the time when this statistic was a
            bootstrap.
    """

    chance: float | Mapping[str, float]
    level: float = 0.95
    replicates: int = 0
    seed: int = 0

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        data = code_responses(frame.dropna(subset=["correct"]))
        chances = np.array([chance_of(self.chance, name) for name in data.groups])
        return by_condition(frame, data.groups, clustered_shares(data, chances, self.level))


def clustered_shares(data: CrossedData, chances: np.ndarray | None, level: float) -> list[Estimate]:
    """Estimate the share of each group, with its interval from log odds and their variance.

    Args:
        chances: chance level of each group [groups]; None if nothing is tested.
    """
    result, counts = two_way_jackknife(data, log_odds), np.bincount(data.group)
    results = as_estimates(
        result, expit, None if chances is None else logit(chances), counts, level
    )
    not_estimable = ~(np.isfinite(result.variance) & (result.variance > 0))
    for g, share in enumerate(np.bincount(data.group, data.values) / counts):
        if not_estimable[g] and not result.reasons[g]:
            chance = None if chances is None else float(chances[g])
            results[g] = exact_by_clusters(data, g, float(share), chance, level)
        # Its way through log odds leaves rounding errors, which can show where a share ends in 5.
        results[g] = replace(results[g], value=float(share))
    return results


def exact_by_clusters(
    data: CrossedData, g: int, share: float, chance: float | None, level: float
) -> Estimate:
    """Compute Clopper and Pearson's interval with `clusters_as_trials` as the number of trials.

    The number of successes, share × trials, need not be an integer for the beta distributions of
    the interval. p is twice the smaller of their tails at chance, so that it agrees with the
    interval.
    """
    n = clusters_as_trials(data, g)
    k = share * n
    low, high = proportion_confint(k, n, alpha_of(level), "beta")
    p = np.nan
    if chance is not None and np.isclose(share, chance, rtol=0, atol=1e-12):
        p = 1.0
    elif chance is not None:
        upper = float(stats.beta.cdf(chance, k, n - k + 1)) if k > 0 else 1.0
        lower = float(stats.beta.sf(chance, k + 1, n - k)) if k < n else 1.0
        p = min(1.0, 2 * min(upper, lower))
    return Estimate(
        share, low, high, n=int((data.group == g).sum()),
        test=f"exact binomial, {n:.3g} clusters as trials", p=p, level=level, clustered=CLUSTERED,
        reason=AS_TRIALS,
    )  # fmt: skip


def clusters_as_trials(data: CrossedData, g: int) -> float:
    """Return the effective number of participants or items of a group, whichever is smaller."""
    in_group = data.group == g
    single_group = np.zeros(int(in_group.sum()), dtype=int)
    return min(
        float(count_clusters(codes[in_group], single_group, np.ones((1, 1))).effective[0])
        for codes in (data.participant, data.item)
    )
