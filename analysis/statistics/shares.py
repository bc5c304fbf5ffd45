"""Shares of right answers by condition, against chance: as if independent, and clustered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit

from analysis.statistics.clusters import (
    CLUSTERED,
    Crossed,
    Variance,
    crossed,
    estimates,
    informing,
    two_way_bootstrap,
    two_way_jackknife,
)
from analysis.statistics.estimate import Estimate
from analysis.statistics.statistic import STATISTICS, Estimates, answered


def chance_of(chance: float | Mapping[str, float], condition: str) -> float:
    """Raises ValueError for a condition without a chance level, or one outside (0, 1)."""
    level = chance if isinstance(chance, int | float) else chance.get(condition, np.nan)
    if not 0 < level < 1:
        raise ValueError(
            f"chance of condition {condition!r} must lie between 0 and 1, got {level}; "
            f"give one number, or one a condition"
        )
    return float(level)


def log_odds(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(total / (count - total))


def means(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return total / count


def two_way(
    data: Crossed,
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    replicates: int,
    seed: int,
    weights: np.ndarray | None = None,
) -> Variance:
    """Bootstrap, or the jackknife where no replicates are asked for."""
    if replicates:
        rng = np.random.default_rng(seed)
        return two_way_bootstrap(data, function, replicates, rng, weights)
    return two_way_jackknife(data, function, weights)


@STATISTICS.add("exact_binomial")
@dataclass(frozen=True)
class ExactBinomial:
    """Share of right answers per condition against chance, as if all answers were independent.

    Clopper & Pearson's (1934) interval and the exact two-sided test (R's `binom.test`: the
    probability of all outcomes no likelier than the one seen). It is here because readers expect
    it: with answers shared by participants and items its interval is too narrow (the coverage
    table says by how much), so no claim rests on it.
    """

    chance: float | Mapping[str, float]
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        kept, _ = answered(frame, "correct")
        found: Estimates = {}
        for name, group in kept.groupby("condition"):
            right, n = int(group["correct"].sum()), len(group)
            test = stats.binomtest(right, n, chance_of(self.chance, str(name)))
            interval = test.proportion_ci(self.level)
            found[(str(name),)] = Estimate(
                right / n, interval.low, interval.high, n=n,
                left_out=int((frame["condition"] == name).sum()) - n,
                test="exact binomial, answers as if independent", p=float(test.pvalue),
                level=self.level,
            )  # fmt: skip
        return found


@STATISTICS.add("cluster_bootstrap")
@dataclass(frozen=True)
class ClusterBootstrap:
    """Share of right answers per condition against chance, for other people and other items.

    logit p̂ ± t_df · √V with V the two-way cluster variance of `clusters.py` (participants and
    items resampled; Cameron, Gelbach & Miller 2011) and Satterthwaite's df; the ends are carried
    back to shares, and the test of chance is the same t, so that test and interval agree. No model
    of the answers is assumed.

    Where all (or all but a few) answers of a condition are right or wrong, the variance cannot be
    estimated; the interval is then Clopper and Pearson's with as many trials as there are
    participants or items, whichever are effectively fewer, which is conservative. With fewer than
    four participants or items of a condition there is neither interval nor test.

    Attributes:
        chance: of a right answer by guessing, one number or one a condition.
        replicates: 0 takes the jackknife, a closed form, so that no seed decides a claim; more
            take the bootstrap, to lay beside it (the standard error of its standard errors is about
            1/√(2·replicates) of them).
    """

    chance: float | Mapping[str, float]
    replicates: int = 0
    seed: int = 0
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        kept, _ = answered(frame, "correct")
        data = crossed(kept)
        chances = [chance_of(self.chance, name) for name in data.groups]
        result = two_way(data, log_odds, self.replicates, self.seed)
        every = frame["condition"].astype(str).value_counts()
        return {
            (name,): replace(
                estimate, left_out=int(every[name]) - estimate.n,
                effect=estimate.value - chance, effect_name="above chance",
            )
            for name, chance, estimate in zip(
                data.groups, chances, clustered_shares(data, result, chances, self.level),
                strict=True,
            )
        }  # fmt: skip


def clustered_shares(
    data: Crossed, result: Variance, chances: list[float] | None, level: float
) -> list[Estimate]:
    """Share of each group with its interval, from log odds and their clustered variance.

    Args:
        chances: of each group, to be tested; none by default.
    """
    counts = np.bincount(data.group)
    shares = np.bincount(data.group, data.values) / counts
    found = []
    for g, share in enumerate(shares):
        chance = None if chances is None else chances[g]
        if result.reasons[g]:
            kept = Estimate(share, n=int(counts[g]), level=level, clustered=CLUSTERED,
                            reason=result.reasons[g])  # fmt: skip
            found.append(kept)
            continue
        if not (np.isfinite(result.variance[g]) and result.variance[g] > 0):
            found.append(_clusters_as_trials(data, g, float(share), chance, level))
            continue
        null = None if chance is None else float(logit(chance))
        one = Variance(
            result.point[[g]], result.variance[[g]], result.df[[g]], result.independent[[g]], ("",)
        )
        test = "t, participants and items clustered"
        found += estimates(one, expit, null, test, counts[[g]], level)
    return found


def _clusters_as_trials(
    data: Crossed, g: int, share: float, chance: float | None, level: float
) -> Estimate:
    """Clopper and Pearson's interval, the scarcer kind of cluster counting as trials.

    The number of successes, share × clusters, may be broken: the interval's beta distributions
    know no whole numbers, and p is twice the smaller of their tails at chance, so that both agree.
    """
    n = clusters_as_trials(data, g)
    low, high = clopper_pearson(share, n, level)
    p = np.nan
    if chance is not None:
        k = share * n
        over = float(stats.beta.cdf(chance, k, n - k + 1)) if k > 0 else 1.0
        under = float(stats.beta.sf(chance, k + 1, n - k)) if k < n else 1.0
        p = 1.0 if np.isclose(share, chance, rtol=0, atol=1e-12) else min(1.0, 2 * min(over, under))
    return Estimate(
        share, low, high, n=int((data.group == g).sum()),
        test=f"exact binomial, {n:.3g} clusters as trials", p=p, level=level, clustered=CLUSTERED,
        reason="variance not estimable: Clopper–Pearson interval with clusters as trials",
    )  # fmt: skip


def clusters_as_trials(data: Crossed, g: int) -> float:
    """The effective number of participants or items of a group, whichever are fewer."""
    inside = data.group == g
    one = np.zeros(int(inside.sum()), dtype=int)
    return min(
        float(informing(codes[inside], one, np.ones((1, 1))).effective[0])
        for codes in (data.participant, data.item)
    )


def clopper_pearson(share: float, n: float, level: float) -> tuple[float, float]:
    """Clopper & Pearson's (1934) interval of a share of n trials, which need not be whole."""
    k, tail = share * n, (1 - level) / 2
    low = float(stats.beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return low, high
