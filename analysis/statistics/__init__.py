"""Estimates and tests: functions of data frames that return estimates. `STATISTICS` holds all
built-in ones."""

from analysis.statistics import (  # noqa: F401 - they register theirs
    behaviour,
    components,
    contrasts,
    crossed_effects,
    equivalence,
    shares,
)
from analysis.statistics.estimate import Estimate
from analysis.statistics.statistic import STATISTICS, Estimates, tabulate

__all__ = ["STATISTICS", "Estimate", "Estimates", "tabulate"]
