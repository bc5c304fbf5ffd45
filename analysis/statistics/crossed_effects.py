"""Shares and their contrasts from a logistic model with crossed random effects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.statistics import mixed_model
from analysis.statistics.clusters import (
    CLUSTERED,
    check_responses,
    code_responses,
    t_interval,
    why_too_few,
)
from analysis.statistics.contrasts import condition_pairs
from analysis.statistics.shares import chance_of
from analysis.statistics.statistic import STATISTICS, Estimate, Estimates


@dataclass(frozen=True)
class FittedConditions:
    """A mixed model with one fixed effect per condition, and the df of its linear combinations.

    people, items: the share of each participant [P, conditions] and item [I, conditions] in the
    responses of each condition.
    """

    fit: mixed_model.Fit
    names: tuple[str, ...]
    counts: np.ndarray
    people: np.ndarray
    items: np.ndarray

    @property
    def standard_deviation(self) -> float:
        """Standard deviation of the sum of all random effects, on the logit scale."""
        return float(np.linalg.norm(self.fit.sd))

    def combination(self, weights: np.ndarray) -> tuple[float, float, float]:
        """Return value, variance and Satterthwaite's degrees of freedom of weights·β.

        Each random effect contributes σ² times a sum of squares to the variance, for participants
        Σ_people (Σ_conditions weight·share)²; these parts have the degrees of freedom of the fit.
        The rest is the sampling variance of responses, with infinite degrees of freedom.
        """
        variance = float(weights @ self.fit.covariance @ weights)
        sums = (self.people @ weights, self.people * weights, self.items @ weights)
        parts = self.fit.sd**2 * np.array([np.square(s).sum() for s in sums])
        df_terms = float((parts**2 / self.fit.df).sum())
        df = variance**2 / df_terms if df_terms > 0 else np.inf
        return float(weights @ self.fit.beta), variance, max(df, 1.0)

    def estimate(
        self,
        weights: np.ndarray,
        inverse: Callable[[np.ndarray], np.ndarray],
        null: float,
        level: float,
    ) -> Estimate:
        """Estimate weights·β with its interval, transformed from the logit scale by `inverse`, and
        test `null`. Interval and p are NaN if a condition has too few participants or items."""
        has_weight = weights != 0
        value, variance, df = self.combination(weights)
        shares = (self.people[:, has_weight], self.items[:, has_weight])
        shortage = why_too_few(*((part > 0).sum(axis=0).min() for part in shares))
        ends = (np.nan,) * 3 if shortage else t_interval(value, variance, df, level, null)
        value, low, high = inverse(np.array([value, *ends[:2]])).tolist()
        return Estimate(
            value, low, high, n=int(self.counts[has_weight].sum()), p=ends[2],
            test="t, crossed random effects", level=level, clustered=CLUSTERED,
            reason=shortage or self.fit.note,
        )  # fmt: skip


def fit_conditions(frame: pd.DataFrame) -> FittedConditions | None:
    """Fit conditions with both correct and incorrect responses; return None if there are none."""
    answered = frame.dropna(subset=["correct"])
    check_responses(answered, "correct", "condition", "participant", "trial")
    share = answered.groupby("condition")["correct"].transform("mean")
    answered = answered[(share > 0) & (share < 1)]
    if answered.empty:
        return None
    data = code_responses(answered)
    x = np.eye(len(data.groups))[data.group]
    fit = mixed_model.fit(data.values, x, data.participant, data.item, data.group)
    counts = np.bincount(data.group)
    _, people = data.sums(data.participant, data.participants)
    _, items = data.sums(data.item, data.items)
    return FittedConditions(fit, data.groups, counts, people / counts, items / counts)


@STATISTICS.add("crossed_effects")
@dataclass(frozen=True)
class CrossedEffects:
    """Share of correct responses per condition from a logistic model with crossed random effects.

    The model (`mixed_model.py`) has random intercepts of participants, of participants within
    conditions, and of items; it is fitted by Laplace's method, with σ by REML. The value is the
    share averaged over participants and items, E expit(β + σz), which is comparable with the raw
    share; the ends of β ± t_df·SE (Satterthwaite's df) are averaged in the same way. The null
    hypothesis is that the averaged share equals chance.

    A condition with only correct or only incorrect responses has no finite effect: it is left out
    of the model, its estimate is NaN, and its responses are counted in `left_out`.
    """

    chance: float | Mapping[str, float]
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        return self.apply(fit_conditions(frame), frame)

    def apply(self, model: FittedConditions | None, frame: pd.DataFrame) -> Estimates:
        counts = frame["condition"].astype(str).value_counts().sort_index()
        reason = "all answers are right, or all wrong: the model has no finite effect"
        results: Estimates = {
            (str(name),): Estimate(np.nan, left_out=int(n), level=self.level, reason=reason)
            for name, n in counts.items()
        }
        if model is None:
            return results
        sd = model.standard_deviation
        for name, weights in zip(model.names, np.eye(len(model.names)), strict=True):
            null = mixed_model.mean_logit(chance_of(self.chance, name), sd)
            estimate = model.estimate(
                weights, lambda ends: mixed_model.marginal_share(ends, sd), null, self.level
            )
            results[(name,)] = replace(estimate, left_out=int(counts[name] - estimate.n))
        return results


@STATISTICS.add("crossed_contrasts")
@dataclass(frozen=True)
class CrossedContrasts:
    """Odds ratios between conditions from the model with crossed random effects, p unadjusted.

    exp(β₁ − β₂) is the ratio of the odds of one participant on one item; it is further from 1 than
    the ratio of averaged odds, because it does not average over participants and items. Effects of
    conditions may differ between participants: the model has an effect of each participant in each
    condition.
    """

    reference: str | None = None
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        return self.apply(fit_conditions(frame), frame)

    def apply(self, model: FittedConditions | None, frame: pd.DataFrame) -> Estimates:
        if model is None or (self.reference is not None and self.reference not in model.names):
            return {}
        identity = np.eye(len(model.names))
        results: Estimates = {}
        for a, b in condition_pairs(model.names, self.reference):
            estimate = model.estimate(identity[a] - identity[b], np.exp, 0.0, self.level)
            results[(model.names[a], model.names[b], "odds ratio")] = replace(
                estimate, left_out=int(frame["correct"].isna().sum())
            )
        return results
