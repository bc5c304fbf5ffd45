"""Shares and their contrasts from a logistic model with crossed random effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

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
    def standard_deviation(self) -> float:
        """Return the standard deviation of a response's logit around that of its condition, over
        all random effects."""
        return float(np.linalg.norm(self.fit.sd))

    def combination(self, weights: np.ndarray) -> tuple[float, float, float]:
        """Return value, variance and Satterthwaite's degrees of freedom of weights·β.

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

    def estimate(
        self,
        weights: np.ndarray,
        back: Callable[[np.ndarray], np.ndarray],
        null: float,
        level: float,
    ) -> Estimate:
        """Estimate weights·β with its interval, transformed from the logit scale by `back`, and
        test `null`; there is neither if a condition has too few participants or items."""
        used = weights != 0
        value, variance, df = self.combination(weights)
        shares = (self.people[:, used], self.items[:, used])
        few = too_few(*((part > 0).sum(axis=0).min() for part in shares))
        ends = (np.nan,) * 3 if few else t_interval(value, variance, df, level, null)
        value, low, high = back(np.array([value, *ends[:2]])).tolist()
        return Estimate(
            value, low, high, n=int(self.counts[used].sum()), test="t, crossed random effects",
            p=ends[2], level=level, clustered=CLUSTERED, reason=few or self.fit.note,
        )  # fmt: skip


def fit_conditions(frame: pd.DataFrame) -> FittedConditions | None:
    """Fit the model to the conditions with correct and incorrect responses; None if there is
    none."""
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
        """Return the estimates of a fitted model."""
        every = frame["condition"].astype(str).value_counts().sort_index()
        none = "all answers are right, or all wrong: the model has no finite effect"
        found: Estimates = {
            (str(name),): Estimate(np.nan, left_out=int(n), level=self.level, reason=none)
            for name, n in every.items()
        }
        if model is None:
            return found
        sd = model.standard_deviation
        for name, beta, weights in zip(
            model.names, model.fit.beta, np.eye(len(model.names)), strict=True
        ):
            null = mixed_model.conditional(chance_of(self.chance, name), sd)
            estimate = model.estimate(
                weights, lambda ends: mixed_model.marginal(ends, sd), null, self.level
            )
            found[(name,)] = replace(
                estimate, left_out=int(every[name] - estimate.n),
                effect=float(np.exp(beta - null)), effect_name="odds ratio to chance",
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
        """Return the estimates of a fitted model."""
        if model is None or (self.reference is not None and self.reference not in model.names):
            return {}
        identity = np.eye(len(model.names))
        found: Estimates = {}
        for a, b in condition_pairs(model.names, self.reference):
            estimate = model.estimate(identity[a] - identity[b], np.exp, 0.0, self.level)
            found[(model.names[a], model.names[b], "odds ratio")] = replace(
                estimate, left_out=int(frame["correct"].isna().sum())
            )
        return found
