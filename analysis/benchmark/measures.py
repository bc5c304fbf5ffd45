"""Measures by which a benchmark evaluates methods: outcomes after ablating their sets of neurons.

The sampled units are classes; networks and pairs of epochs are fixed, and an image's outcome is its
mean over pairs. An arm is a named set of neurons that is ablated. Undefined values are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from analysis.statistics.classes import OUTCOMES, find_bins
from harness.records import CONTROLS, PAIR

UNIT = [*PAIR, "class_id", "image_id"]


def pivot_outcomes(records: pd.DataFrame, outcome: str = "accuracy") -> pd.DataFrame:
    """Return the records of one ablation, split and layer as units (pair, class, image) x arms.

    Returns:
        floats; columns (method, arm, draw), and (CONTROLS, "before", 0) for the unchanged network.
    """
    column = OUTCOMES[outcome]
    by_arm = records.pivot(index=UNIT, columns=["method", "arm", "draw"], values=f"{column}_after")
    return by_arm.astype(float).rename(columns={"none": "before"}, level="arm")


def arms_of(outcomes: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the arms of one method with columns (arm, draw); no columns if none was run."""
    return outcomes.loc[:, outcomes.columns.get_level_values("method") == method].droplevel(
        "method", axis=1
    )


#: A measure by which a method is evaluated: function of its arms and the controls that returns one
#: value per unit. Larger values are better.
Measure = Callable[[pd.DataFrame, pd.DataFrame], pd.Series]


def mean_of_arm(arms: pd.DataFrame, name: str) -> pd.Series:
    """Return the mean outcome over an arm's draws; NaN if the arm was not run."""
    if name not in arms.columns.get_level_values("arm"):
        return pd.Series(np.nan, index=arms.index)
    return arms.xs(name, axis=1, level="arm").mean(axis=1)


def means_of_arms(arms: pd.DataFrame) -> dict[str, pd.Series]:
    return {name: mean_of_arm(arms, name) for name in arms.columns.get_level_values("arm").unique()}


def gap(arms: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
    """Return the outcome after ablating the least important bin minus that after ablating q1."""
    bin_names = find_bins(list(arms.columns.get_level_values("arm").unique()))
    return mean_of_arm(arms, bin_names[-1] if bin_names else "") - mean_of_arm(arms, "q1")


def lost_predictions(arms: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
    """Return whether ablating q1 makes a correct prediction an error; NaN if it was an error."""
    before = mean_of_arm(controls, "before")
    return (before - mean_of_arm(arms, "q1")).where(before > 0)


def excess_loss(than: str, arm: str = "q1") -> Measure:
    """Return the measure by how much `arm` reduces the outcome more than the arm `than` does."""

    def measure(arms: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
        compared_arms = controls if than == "random" else arms
        return mean_of_arm(compared_arms, than) - mean_of_arm(arms, arm)

    return measure


MEASURES: dict[str, Measure] = {
    "gap": gap,
    "area": excess_loss("least", "most"),
    "over random": excess_loss("random"),
    "over matched": excess_loss("matched"),
    "over active": excess_loss("matched_activation"),
    "over other class": excess_loss("other_class"),
    "lost": lost_predictions,
}


def evaluate(outcomes: pd.DataFrame, measure: Measure, methods: Sequence[str]) -> pd.DataFrame:
    """Compute a measure of every method: (class, image) x methods, mean over pairs."""
    controls = arms_of(outcomes, CONTROLS)
    columns = {name: measure(arms_of(outcomes, name), controls) for name in methods}
    return pd.DataFrame(columns).groupby(["class_id", "image_id"]).mean()


def class_means(outcomes: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the mean outcomes over pairs and images: classes x arms of one method, and the
    controls `random`, `all` and `before`."""
    arms = arms_of(outcomes, method)
    controls = arms_of(outcomes, CONTROLS)
    means = means_of_arms(arms)
    means |= {name: mean_of_arm(controls, name) for name in ("random", "before", "all")}
    units = pd.DataFrame(means).groupby(["class_id", "image_id"]).mean()
    return units.groupby("class_id").mean()


def ablation_curve(outcomes: pd.DataFrame, method: str, steps: int) -> pd.DataFrame:
    """Return the mean outcome over classes by the share of ablated neurons: columns share, most
    (most important first) and least (least important first)."""
    arms = arms_of(outcomes, method)
    classes = class_means(outcomes, method)
    ends = {0: classes["before"].mean(), steps: classes["all"].mean()}
    curves = pd.DataFrame({"most": ends, "least": ends}).reindex(range(steps + 1))
    for name in curves:
        for step in range(1, steps):
            if (name, step) in arms:
                curves.loc[step, name] = arms[name, step].groupby("class_id").mean().mean()
    curves.insert(0, "share", curves.index / steps)
    return curves
