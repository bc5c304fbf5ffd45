"""Measures by which a benchmark evaluates methods: outcomes after ablating their sets of neurons.

The sampled units are classes; networks and pairs of epochs are fixed, and an image's outcome is its
mean over pairs. An arm is a named set of neurons that is ablated. Undefined values are NaN.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from analysis.statistics.classes import OUTCOMES, find_bins
from harness.records import CONTROLS, PAIR

#: Gaps that differ by no more are equal.
EQUAL = 1e-9


def places(gaps: pd.Series) -> pd.Series:
    """Return the place of each gap, the largest first; equal ones share it, NaN has none."""
    values = gaps.to_numpy(dtype=float)
    larger = (values > values[:, None] + EQUAL).sum(axis=1)
    return pd.Series(1.0 + larger, gaps.index).where(gaps.notna())


#: The columns of the records that identify rows and columns of `pivot_outcomes`.
UNIT, COLUMNS = [*PAIR, "class_id", "image_id"], ["method", "arm", "draw"]


def pivot_outcomes(records: pd.DataFrame, outcome: str = "accuracy") -> pd.DataFrame:
    """Return the records of one ablation, split and layer as units (pair, class, image) x arms.

    Returns:
        floats; columns (method, arm, draw), and (CONTROLS, "before", 0) for the unchanged network.
    """
    by_arm = records.pivot(index=UNIT, columns=COLUMNS, values=value_column(outcome))
    return by_arm.astype(float).rename(columns={"none": "before"}, level="arm")


def value_column(outcome: str) -> str:
    """Return the column of the records that holds an outcome (a key of OUTCOMES)."""
    return f"{OUTCOMES[outcome]}_after"


def arms_of(outcomes: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the columns of one method, without its name; none if it was not run."""
    is_of_method = outcomes.columns.get_level_values("method") == method
    return outcomes.loc[:, is_of_method].droplevel("method", axis=1)


def arm_means(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return the mean outcome over the draws of every arm: units x (arm, method)."""
    return outcomes.T.groupby(level=["arm", "method"], sort=False).mean().T


def by_method(means: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Return `arm_means` of one arm: units x methods; no columns if it was not run."""
    return means[arm] if arm in means else pd.DataFrame(index=means.index)


#: A measure by which methods are evaluated: function of `arm_means` that returns units x methods.
#: Larger values are better.
Measure = Callable[[pd.DataFrame], pd.DataFrame]


def gap(means: pd.DataFrame) -> pd.DataFrame:
    """Return the outcome after ablating the least important bin minus that after ablating q1."""
    last = find_bins(list(means.columns.unique("arm")))[-1:]
    return by_method(means, "".join(last)) - by_method(means, "q1")


def lost_predictions(means: pd.DataFrame) -> pd.DataFrame:
    """Return whether ablating q1 makes a correct prediction an error; NaN if it was an error."""
    before = means["before", CONTROLS]
    return by_method(means, "q1").rsub(before.where(before > 0), axis=0)


def excess_loss(than: str, arm: str = "q1") -> Measure:
    """Return the measure by how much `arm` reduces the outcome more than the arm `than` does."""

    def measure(means: pd.DataFrame) -> pd.DataFrame:
        compared = by_method(means, than)
        if than == "random":  # a control, the same for every method
            return by_method(means, arm).rsub(compared.get(CONTROLS, np.nan), axis=0)
        return compared - by_method(means, arm)

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
    values = measure(arm_means(outcomes)).reindex(columns=list(methods))
    return values.groupby(["class_id", "image_id"]).mean()


def class_means(outcomes: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the mean outcomes over pairs and images: classes x arms of one method, and the
    controls `random`, `all` and `before`."""
    is_of_method = outcomes.columns.get_level_values("method").isin([method, CONTROLS])
    means = arm_means(outcomes.loc[:, is_of_method])
    controls = arms_of(means, CONTROLS).reindex(columns=["random", "before", "all"])
    units = arms_of(means, method).join(controls).groupby(["class_id", "image_id"]).mean()
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
