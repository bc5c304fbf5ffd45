"""Shares and their contrasts from a logistic model with crossed random effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.statistics import mixed_model
from analysis.statistics.clusters import CLUSTERED, crossed, t_interval, too_few
from analysis.statistics.contrasts import condition_pairs
from analysis.statistics.estimate import Estimate
from analysis.statistics.shares import chance_of
from analysis.statistics.statistic import STATISTICS, Estimates, answered


@dataclass(frozen=True)
class FittedConditions:
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


def fit_conditions(frame: pd.DataFrame) -> FittedConditions | None:
    """The model over the conditions that have right and wrong answers; None where none has."""
    kept, _ = answered(frame, "correct")
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
    return FittedConditions(fit, data.groups, counts, people / counts, items / counts)


@STATISTICS.add("crossed_effects")
@dataclass(frozen=True)
class CrossedEffects:
    """Share of right answers per condition from a logistic model with crossed random effects.

    Random intercepts of participants, of participants within conditions, and of items.
    value: the share averaged over participants and items, E expit(β + σz), which is
    comparable with the raw share; the interval carries the ends of β ± t_df·SE through the same
    average. p tests that the averaged share is chance. See `mixed_model.py`; fitted by
    Laplace's method, σ by REML, t with Satterthwaite's df.

    A condition with only right or only wrong answers has no finite effect: it is left out of the
    model, its estimate is NaN, and its answers are counted in `left_out`.
    """

    chance: float | Mapping[str, float]
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        return self.of(fit_conditions(frame), frame)

    def of(self, model: FittedConditions | None, frame: pd.DataFrame) -> Estimates:
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
            chance = chance_of(self.chance, name)
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


@STATISTICS.add("crossed_contrasts")
@dataclass(frozen=True)
class CrossedContrasts:
    """Odds ratios between conditions from the model with crossed random effects, p of each alone.

    exp(β₁ − β₂): how the odds of one person on one item of average difficulty change; further from
    1 than the ratio of averaged odds, as differences between people and items do not dilute it.
    People may differ in how much a condition helps them: the model has an effect of each
    participant in each condition.
    """

    reference: str | None = None
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        return self.of(fit_conditions(frame), frame)

    def of(self, model: FittedConditions | None, frame: pd.DataFrame) -> Estimates:
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
