"""The interface of statistics: a statistic is a record of parameters that is called on a frame of
responses and returns estimates.

A frame has one row per response, with participant, trial (the item), condition and the measured
value. Estimates are keyed by a tuple of names (condition, or pair and measure); `tabulate` makes
them a table. Rows without the measured value are left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Protocol

import pandas as pd

from analysis.statistics.estimate import Estimate
from harness.registry import Registry

Estimates = dict[tuple[str, ...], Estimate]


class Statistic(Protocol):
    """A registered statistic: a frozen dataclass of parameters that is called on a frame."""

    def __call__(self, frame: pd.DataFrame) -> Estimates: ...


STATISTICS: Registry[Callable[..., Statistic]] = Registry("statistic")


def tabulate(estimates: Estimates, names: list[str]) -> pd.DataFrame:
    """Return one row per estimate: its key under `names`, then the fields of Estimate."""
    rows = [
        dict(zip(names, key, strict=True)) | asdict(e) | {"clustered": " × ".join(e.clustered)}
        for key, e in estimates.items()
    ]
    return pd.DataFrame(rows)
