"""Statistics: functions of data frames that return estimates; `STATISTICS` registers them."""

from analysis.statistics import (  # noqa: F401 - importing a module registers its statistics
    behaviour,
    components,
    contrasts,
    crossed_effects,
    equivalence,
    shares,
)
from analysis.statistics.statistic import STATISTICS, Estimate, Estimates, tabulate

__all__ = ["STATISTICS", "Estimate", "Estimates", "tabulate"]
