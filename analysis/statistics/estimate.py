"""The form in which every claim leaves the analysis: a value, its interval, and how it was got."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan


@dataclass(frozen=True)
class Estimate:
    """One number with its uncertainty.

    Attributes:
        value: the estimate; NaN where undefined.
        low: lower end of the interval; NaN where undefined.
        high: upper end of the interval; NaN where undefined.
        n: what was counted (say of what in `clustered` or the table's caption).
        left_out: how many units could not be used, so that NaN never hides data.
        test: name of the test, "" where none was made.
        p: its p-value, uncorrected unless `test` says so; NaN where undefined.
        effect: effect size; NaN where none.
        effect_name: what the effect size is, e.g. "odds ratio".
        level: coverage aimed at by the interval.
        clustered: the units that were resampled or given random effects, e.g. ("participant",).
        reason: why there is no interval or no test, or what a reader must know of it; "" where
            nothing is to be said.

    An interval without width is none: its ends become NaN, and `reason` says so.
    """

    value: float
    low: float = nan
    high: float = nan
    n: int = 0
    left_out: int = 0
    test: str = ""
    p: float = nan
    effect: float = nan
    effect_name: str = ""
    level: float = 0.95
    clustered: tuple[str, ...] = field(default=())
    reason: str = ""

    def __post_init__(self) -> None:
        if self.low == self.high:
            object.__setattr__(self, "low", nan)
            object.__setattr__(self, "high", nan)
            said = self.reason or "nothing varies, so that no interval can be estimated"
            object.__setattr__(self, "reason", said)
