"""Estimates and tests: data frames in, estimates out. `STATISTICS` holds every built-in one."""

from analysis.statistics import behaviour, shares  # noqa: F401 - they register their statistics
from analysis.statistics.estimate import Estimate
from analysis.statistics.shares import STATISTICS, Estimates, tabulate

__all__ = ["STATISTICS", "Estimate", "Estimates", "tabulate"]
