"""Estimates and tests: data frames in, estimates out. `STATISTICS` holds every built-in one."""

from analysis.statistics import behaviour, equivalence, shares  # noqa: F401 - they register theirs
from analysis.statistics.estimate import Estimate
from analysis.statistics.shares import STATISTICS, Estimates, tabulate

__all__ = ["STATISTICS", "Estimate", "Estimates", "tabulate"]
