"""From a table of answers to estimates. A statistic is a record of parameters called on a frame.

Frames hold a row an answer with participant, trial (the item), condition and what is measured.
Every statistic returns estimates by key, a tuple of names (condition, or pair and measure), which
`tabulate` turns into a table. Rows without the measured value are left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Protocol

import numpy as np
import pandas as pd
from scipy import optimize, stats
from scipy.special import expit, logit

from analysis.statistics import mixed_model
from analysis.statistics.clusters import (
    CLUSTERED,
    Crossed,
    Variance,
    crossed,
    estimates,
    informing,
    t_interval,
    too_few,
    two_way_bootstrap,
    two_way_jackknife,
)
from analysis.statistics.estimate import Estimate
from harness.registry import Registry

Estimates = dict[tuple[str, ...], Estimate]


class Statistic(Protocol):
    """What is registered: a frozen dataclass of parameters."""

    def __call__(self, frame: pd.DataFrame) -> Estimates: ...


STATISTICS: Registry[Callable[..., Statistic]] = Registry("statistic")


def tabulate(found: Estimates, names: list[str]) -> pd.DataFrame:
    """A row an estimate: its key under `names`, then the fields of Estimate."""
    rows = [
        dict(zip(names, key, strict=True)) | asdict(e) | {"clustered": " × ".join(e.clustered)}
        for key, e in found.items()
    ]
    return pd.DataFrame(rows)


def _answered(frame: pd.DataFrame, value: str) -> tuple[pd.DataFrame, int]:
    """The rows that have the value, and how many have not."""
    kept = frame[frame[value].notna()]
    return kept, len(frame) - len(kept)


def _chance(chance: float | Mapping[str, float], condition: str) -> float:
    """Raises ValueError for a condition without a chance level, or one outside (0, 1)."""
    level = chance if isinstance(chance, int | float) else chance.get(condition, np.nan)
    if not 0 < level < 1:
        raise ValueError(
            f"chance of condition {condition!r} must lie between 0 and 1, got {level}; "
            f"give one number, or one a condition"
        )
    return float(level)


def _log_odds(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(total / (count - total))


def _shares(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return total / count


def _two_way(
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
        kept, _ = _answered(frame, "correct")
        found: Estimates = {}
        for name, group in kept.groupby("condition"):
            right, n = int(group["correct"].sum()), len(group)
            test = stats.binomtest(right, n, _chance(self.chance, str(name)))
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
        kept, _ = _answered(frame, "correct")
        data = crossed(kept)
        chances = [_chance(self.chance, name) for name in data.groups]
        result = _two_way(data, _log_odds, self.replicates, self.seed)
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
    inside = data.group == g
    one = np.zeros(int(inside.sum()), dtype=int)
    n = min(
        float(informing(codes[inside], one, np.ones((1, 1))).effective[0])
        for codes in (data.participant, data.item)
    )
    low, high = clopper_pearson(share, n, level)
    p = np.nan
    if chance is not None:
        k = share * n
        over = float(stats.beta.cdf(chance, k, n - k + 1)) if k > 0 else 1.0
        under = float(stats.beta.sf(chance, k + 1, n - k)) if k < n else 1.0
        p = 1.0 if np.isclose(share, chance, rtol=0, atol=1e-12) else min(1.0, 2 * min(over, under))
    return Estimate(
        share, low, high, n=int(inside.sum()), test=f"exact binomial, {n:.3g} clusters as trials",
        p=p, level=level, clustered=CLUSTERED,
        reason="variance not estimable: Clopper–Pearson interval with clusters as trials",
    )  # fmt: skip


def clopper_pearson(share: float, n: float, level: float) -> tuple[float, float]:
    """Clopper & Pearson's (1934) interval of a share of n trials, which need not be whole."""
    k, tail = share * n, (1 - level) / 2
    low = float(stats.beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return low, high


@dataclass(frozen=True)
class _Conditions:
    """A mixed model with a fixed effect a condition, and the df of its linear combinations.

    people, items: what share of a condition's answers each gave or got: [P, conditions], [I, ...].
    """

    fit: mixed_model.Fit
    names: tuple[str, ...]
    counts: np.ndarray
    people: np.ndarray
    items: np.ndarray

    @property
    def spread(self) -> float:
        return float(np.linalg.norm(self.fit.sd))

    def reason(self, *conditions: int) -> str:
        """Why the conditions have no interval, or what is to be said of the fit; "" for nothing."""
        return self.too_few(*conditions) or self.fit.note

    def too_few(self, *conditions: int) -> str:
        """See `clusters.too_few`."""
        people = min(int((self.people[:, g] > 0).sum()) for g in conditions)
        items = min(int((self.items[:, g] > 0).sum()) for g in conditions)
        return too_few(people, items)

    def combination(self, weights: np.ndarray) -> tuple[float, float, float]:
        """Value, variance, and Satterthwaite's df of weights·β.

        The random effects enter a weighted sum of means with Σ_people (Σ_conditions weight·share)²
        and so on; these parts of the variance have the degrees of freedom of the fit, the rest is
        sampling of answers, without limit.
        """
        variance = float(weights @ self.fit.covariance @ weights)
        sums = (self.people @ weights, self.people * weights, self.items @ weights)
        parts = self.fit.sd**2 * np.array([np.square(s).sum() for s in sums])
        spent = float((parts**2 / self.fit.df).sum())
        df = variance**2 / spent if spent > 0 else np.inf
        return float(weights @ self.fit.beta), variance, max(df, 1.0)


def _fit_conditions(frame: pd.DataFrame) -> _Conditions | None:
    """The model over the conditions that have right and wrong answers; None where none has."""
    kept, _ = _answered(frame, "correct")
    share = kept.groupby("condition")["correct"].transform("mean")
    kept = kept[(share > 0) & (share < 1)]
    if kept.empty:
        return None
    data = crossed(kept)
    x = np.eye(len(data.groups))[data.group]
    fit = mixed_model.fit(data.values, x, data.participant, data.item, data.group)
    counts = np.bincount(data.group)
    _, people = data.sums(data.participant, data.participants)
    _, items = data.sums(data.item, data.items)
    return _Conditions(fit, data.groups, counts, people / counts, items / counts)


@STATISTICS.add("crossed_effects")
@dataclass(frozen=True)
class CrossedEffects:
    """Share of right answers per condition from a logistic model with crossed random effects.

    Random intercepts of participants, of participants within conditions, and of items.
    value: the share averaged over the spread of participants and items, E expit(β + σz), which is
    comparable with the raw share; the interval carries the ends of β ± t_df·SE through the same
    average. p tests that the averaged share is chance. See `mixed_model.py`; fitted by
    Laplace's method, σ by REML, t with Satterthwaite's df.

    A condition with only right or only wrong answers has no finite effect: it is left out of the
    model, its estimate is NaN, and its answers are counted in `left_out`.
    """

    chance: float | Mapping[str, float]
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        return self.of(_fit_conditions(frame), frame)

    def of(self, model: _Conditions | None, frame: pd.DataFrame) -> Estimates:
        """The estimates of a model fitted before."""
        every = frame["condition"].astype(str).value_counts().sort_index()
        found: Estimates = {
            (str(name),): Estimate(
                np.nan,
                left_out=int(n),
                level=self.level,
                reason="all answers are right, or all wrong: the model has no finite effect",
            )
            for name, n in every.items()
        }
        if model is None:
            return found
        for g, name in enumerate(model.names):
            chance = _chance(self.chance, name)
            beta, variance, df = model.combination(np.eye(len(model.names))[g])
            null = mixed_model.conditional(chance, model.spread)
            low, high, p = t_interval(beta, variance, df, self.level, null)
            if model.too_few(g):
                low = high = p = np.nan
            value, low, high = map(
                float, mixed_model.marginal(np.array([beta, low, high]), model.spread)
            )
            found[(name,)] = Estimate(
                value, low, high, n=int(model.counts[g]),
                left_out=int(every[name] - model.counts[g]),
                test="t, crossed random effects", p=p,
                effect=float(np.exp(beta - null)), effect_name="odds ratio to chance",
                level=self.level, clustered=CLUSTERED, reason=model.reason(g),
            )  # fmt: skip
        return found


def condition_pairs(names: tuple[str, ...], reference: str | None) -> list[tuple[int, int]]:
    """Pairs of conditions to compare: all, or each with the reference."""
    if reference is None:
        return list(combinations(range(len(names)), 2))
    if reference not in names:
        raise ValueError(f"reference condition {reference!r} is not among {', '.join(names)}")
    base = names.index(reference)
    return [(g, base) for g in range(len(names)) if g != base]


@STATISTICS.add("cluster_contrasts")
@dataclass(frozen=True)
class ClusterContrasts:
    """Differences of shares between conditions, participants and items clustered.

    Two estimates a pair (first − second): "risk difference", p̂₁ − p̂₂ ± t_df √V, with the p-value of
    this pair alone; "odds ratio", exp(logit p̂₁ − logit p̂₂ ± t_df √V), the same claim on the other
    scale, without a test of its own. Participants who answered both
    conditions enter both sides, so their general ability cancels.

    Attributes:
        reference: compare all others with this condition; all pairs by default.
        value: the measured column, 0 or 1.
    """

    reference: str | None = None
    replicates: int = 0
    seed: int = 0
    level: float = 0.95
    value: str = "correct"

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        kept, _ = _answered(frame, self.value)
        data = crossed(kept, value=self.value)
        pairs = condition_pairs(data.groups, self.reference)
        if not pairs:
            return {}
        first, second = np.array(pairs).T
        missing = len(frame) - len(kept)
        counts = np.bincount(data.group)[first] + np.bincount(data.group)[second]

        def difference(scale: Callable[[np.ndarray, np.ndarray], np.ndarray]):
            def function(total: np.ndarray, count: np.ndarray) -> np.ndarray:
                values = scale(total, count)
                with np.errstate(invalid="ignore"):
                    return values[..., first] - values[..., second]

            return function

        weights = contrast_weights(first, second, len(data.groups))
        risk = _two_way(data, difference(_shares), self.replicates, self.seed, weights)
        odds = _two_way(data, difference(_log_odds), self.replicates, self.seed, weights)
        test = "t, participants and items clustered"
        differences = estimates(risk, lambda d: d.clip(-1, 1), 0.0, test, counts, self.level)
        ratios = estimates(odds, np.exp, None, "", counts, self.level)
        names = [(data.groups[a], data.groups[b]) for a, b in pairs]
        differences = [
            _without_variation(data, pair, e, self.level) if not risk.reasons[i] else e
            for i, (pair, e) in enumerate(zip(pairs, differences, strict=True))
        ]
        found: Estimates = {
            (*pair, "risk difference"): replace(e, left_out=missing)
            for pair, e in zip(names, differences, strict=True)
        }
        for pair, e in zip(names, ratios, strict=True):
            found[(*pair, "odds ratio")] = replace(e, left_out=missing)
        return found


def contrast_weights(first: np.ndarray, second: np.ndarray, groups: int) -> np.ndarray:
    """1 and −1 for the two groups of each difference: [k, groups]."""
    weights = np.zeros((len(first), groups))
    weights[np.arange(len(first)), first] = 1.0
    weights[np.arange(len(first)), second] = -1.0
    return weights


def _without_variation(
    data: Crossed, pair: tuple[int, int], estimate: Estimate, level: float
) -> Estimate:
    """The difference of two shares one of which is 0 or 1, so that its variance comes out as 0.

    Newcombe's (1998) hybrid score interval (MOVER) from the two shares' own intervals:
    d − √((p₁ − l₁)² + (u₂ − p₂)²) and so on; p is the level at which it just leaves 0 out.
    """
    shares = [float(data.values[data.group == g].mean()) for g in pair]
    if all(0 < share < 1 for share in shares):
        return estimate
    only = [
        Crossed(data.values[m], np.zeros(int(m.sum()), dtype=int), _codes(data.participant[m]),
                _codes(data.item[m]), (str(g),), np.zeros(len(np.unique(data.item[m])), dtype=int))
        for g in pair
        for m in (data.group == g,)
    ]  # fmt: skip
    fits = [two_way_jackknife(one, _log_odds) for one in only]

    def ends(at: float) -> tuple[float, float]:
        (a,), (b,) = (clustered_shares(o, f, None, at) for o, f in zip(only, fits, strict=True))
        d = a.value - b.value
        return (
            d - float(np.hypot(a.value - a.low, b.high - b.value)),
            d + float(np.hypot(a.high - a.value, b.value - b.low)),
        )

    low, high = ends(level)
    d = shares[0] - shares[1]

    def gap(alpha: float) -> float:
        bottom, top = ends(1 - alpha)
        return bottom if d > 0 else -top

    p = 1.0
    if d != 0 and gap(0.999) > 0:
        p = float(optimize.brentq(gap, 1e-12, 0.999)) if gap(1e-12) < 0 else 1e-12
    return replace(
        estimate, low=max(low, -1.0), high=min(high, 1.0), p=p,
        test="Newcombe's hybrid of two intervals",
        reason="all answers of a condition are right, or all wrong: Newcombe's hybrid interval",
    )  # fmt: skip


def _codes(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1]


@STATISTICS.add("crossed_contrasts")
@dataclass(frozen=True)
class CrossedContrasts:
    """Odds ratios between conditions from the model with crossed random effects, p of each alone.

    exp(β₁ − β₂): how the odds of one person on one item of average difficulty change; further from
    1 than the ratio of averaged odds, as it is not diluted by their spread. People may differ in
    how much a condition helps them: the model has an effect of each participant in each condition.
    """

    reference: str | None = None
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        return self.of(_fit_conditions(frame), frame)

    def of(self, model: _Conditions | None, frame: pd.DataFrame) -> Estimates:
        """The estimates of a model fitted before."""
        if model is None or (self.reference is not None and self.reference not in model.names):
            return {}
        identity = np.eye(len(model.names))
        found: Estimates = {}
        for a, b in condition_pairs(model.names, self.reference):
            value, variance, df = model.combination(identity[a] - identity[b])
            low, high, p = t_interval(value, variance, df, self.level, 0.0)
            if model.too_few(a, b):
                low = high = p = np.nan
            value, low, high = map(float, np.exp([value, low, high]))
            found[(model.names[a], model.names[b], "odds ratio")] = Estimate(
                value, low, high, n=int(model.counts[[a, b]].sum()),
                left_out=int(frame["correct"].isna().sum()),
                test="t, crossed random effects", p=p, level=self.level, clustered=CLUSTERED,
                reason=model.reason(a, b),
            )  # fmt: skip
        return found
