"""What a statistic is: a record of parameters called on a frame of answers, giving estimates.

Frames hold one row per answer with participant, trial (the item), condition and what is measured.
Every statistic returns estimates by key, a tuple of names (condition, or pair and measure), which
`tabulate` turns into a table. Rows without the measured value are left out and counted.
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
    """What is registered: a frozen dataclass of parameters."""

    def __call__(self, frame: pd.DataFrame) -> Estimates: ...


STATISTICS: Registry[Callable[..., Statistic]] = Registry("statistic")


def tabulate(found: Estimates, names: list[str]) -> pd.DataFrame:
    """One row per estimate: its key under `names`, then the fields of Estimate."""
    rows = [
        dict(zip(names, key, strict=True)) | asdict(e) | {"clustered": " × ".join(e.clustered)}
        for key, e in found.items()
    ]
    return pd.DataFrame(rows)


def answered(frame: pd.DataFrame, value: str) -> tuple[pd.DataFrame, int]:
    """The rows that have the value, and how many have not."""
    kept = frame[frame[value].notna()]
    return kept, len(frame) - len(kept)
