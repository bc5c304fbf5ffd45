"""Measures by which a benchmark evaluates methods: outcomes after ablating their sets of neurons.

The sampled units are classes; networks and pairs of epochs are fixed, and an image's outcome is its
mean over pairs. An arm is a named set of neurons that is ablated. Undefined values are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from analysis.statistics.classes import OUTCOMES, quartiles
from harness.records import CONTROLS, PAIR

UNIT = [*PAIR, "class_id", "image_id"]


def outcomes(records: pd.DataFrame, outcome: str = "accuracy") -> pd.DataFrame:
    """Return the records of one ablation, split and layer as units (pair, class, image) x arms.

    Returns:
        floats; columns (method, arm, draw), and (CONTROLS, "before", 0) for the unchanged network.
    """
    column = OUTCOMES[outcome]
    wide = records.pivot(index=UNIT, columns=["method", "arm", "draw"], values=f"{column}_after")
    return wide.astype(float).rename(columns={"none": "before"}, level="arm")


def of_method(wide: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the arms of one method with columns (arm, draw); no columns if none was run."""
    return wide.loc[:, wide.columns.get_level_values("method") == method].droplevel(
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


def gap(mine: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
    """Return the outcome after ablating the least important bin minus that after ablating q1."""
    bins = quartiles(list(mine.columns.get_level_values("arm").unique()))
    return mean_of_arm(mine, bins[-1] if bins else "") - mean_of_arm(mine, "q1")


def lost(mine: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
    """Return whether ablating q1 makes a correct prediction an error; NaN if it was an error."""
    before = mean_of_arm(controls, "before")
    return (before - mean_of_arm(mine, "q1")).where(before > 0)


def costs_more(than: str, arm: str = "q1") -> Measure:
    """Return the measure by how much `arm` reduces the outcome more than the arm `than` does."""

    def measure(mine: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
        others = controls if than == "random" else mine
        return mean_of_arm(others, than) - mean_of_arm(mine, arm)

    return measure


MEASURES: dict[str, Measure] = {
    "gap": gap,
    "area": costs_more("least", "most"),
    "over random": costs_more("random"),
    "over matched": costs_more("matched"),
    "over active": costs_more("matched_activation"),
    "over other class": costs_more("other_class"),
    "lost": lost,
}


def measured(wide: pd.DataFrame, measure: Measure, methods: Sequence[str]) -> pd.DataFrame:
    """Compute a measure of every method: (class, image) x methods, mean over pairs."""
    controls = of_method(wide, CONTROLS)
    columns = {name: measure(of_method(wide, name), controls) for name in methods}
    return pd.DataFrame(columns).groupby(["class_id", "image_id"]).mean()


def over_classes(wide: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the mean outcomes over pairs and images: classes x arms of one method, and the
    controls `random`, `all` and `before`."""
    mine = of_method(wide, method)
    controls = of_method(wide, CONTROLS)
    arms = {name: mean_of_arm(mine, name) for name in mine.columns.get_level_values("arm").unique()}
    arms |= {name: mean_of_arm(controls, name) for name in ("random", "before", "all")}
    units = pd.DataFrame(arms).groupby(["class_id", "image_id"]).mean()
    return units.groupby("class_id").mean()


def outcomes_before(wide: pd.DataFrame) -> pd.Series:
    """Return the mean outcome of the unchanged network by class."""
    return wide[CONTROLS, "before", 0].groupby("class_id").mean()


def curve(wide: pd.DataFrame, method: str, steps: int) -> pd.DataFrame:
    """Return the mean outcome over classes by the share of ablated neurons: columns share, most
    (most important first) and least (least important first)."""
    mine = of_method(wide, method)
    classes = over_classes(wide, method)
    ends = {0: classes["before"].mean(), steps: classes["all"].mean()}
    curves = pd.DataFrame({"most": ends, "least": ends}).reindex(range(steps + 1))
    for name in curves:
        for step in range(1, steps):
            if (name, step) in mine:
                curves.loc[step, name] = mine[name, step].groupby("class_id").mean().mean()
    curves.insert(0, "share", curves.index / steps)
    return curves
