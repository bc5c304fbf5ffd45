"""Equivalence of two conditions: two one-sided tests against a smallest difference of interest."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from analysis.statistics.clusters import CLUSTERED, CrossedData, code_responses
from analysis.statistics.contrasts import condition_pairs, contrast, differences
from analysis.statistics.shares import means
from analysis.statistics.statistic import ALIKE, STATISTICS, Estimate, Estimates

#: (level, tested value) -> the ends of an interval, and the two-sided p-value of the tested value.
Interval = Callable[[float, float], tuple[float, float, float]]


def two_one_sided_p(value: float, margin: float, p_low: float, p_high: float) -> float:
    """Return the p-value of two one-sided tests (Schuirmann 1987): the larger of their p-values.

    Args:
        value: the difference. margin: the smallest difference of interest, above 0.
        p_low, p_high: two-sided p-values of the difference against −margin and against +margin.
    """
    above = p_low / 2 if value > -margin else 1 - p_low / 2
    below = p_high / 2 if value < margin else 1 - p_high / 2
    return float(np.maximum(above, below))


@STATISTICS.add("equivalence")
@dataclass(frozen=True)
class Equivalence:
    """Test that differences of means (or shares) between conditions are smaller than `margin`.

    The null hypothesis is that the difference is at most −margin or at least margin. For shares,
    the two one-sided tests are those of `cluster_contrasts`; for other scales, t tests with the
    same variance and degrees of freedom. p is the larger of their p-values. It is below α exactly
    if the interval of level 1 − 2α lies between −margin and margin: this interval is returned (90 %
    for a level of 95 %).

    Attributes:
        margin: smallest difference of interest, in units of `value`; below the range of the scale.
        scale: lowest and highest possible value; their difference limits the interval.
        value: the column of measured values.
        reference: the condition with which all others are compared; by default all pairs.
        level: 1 − α of the test.
    """

    margin: float
    scale: tuple[float, float] = (0.0, 1.0)
    value: str = "correct"
    reference: str | None = None
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.margin < self.largest:
            raise ValueError(
                f"margin must lie between 0 and {self.largest:g}, the largest difference that the "
                f"scale has, got {self.margin:g}"
            )

    @property
    def largest(self) -> float:
        return self.scale[1] - self.scale[0]

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        answered = frame.dropna(subset=[self.value])
        if answered.empty:
            return {}
        data = code_responses(answered, value=self.value)
        pairs = condition_pairs(data.groups, self.reference)
        if not pairs:
            return {}
        counts, level = np.bincount(data.group), 2 * self.level - 1
        results: Estimates = {}
        for (a, b), (value, interval, reason) in zip(
            pairs, self._intervals(data, pairs), strict=True
        ):
            low, high, p_low = interval(level, -self.margin)
            *_, p_high = interval(level, self.margin)
            low, high = np.clip([low, high], -self.largest, self.largest).tolist()
            results[data.groups[a], data.groups[b]] = Estimate(
                value, low, high, n=int(counts[[a, b]].sum()), left_out=len(frame) - len(answered),
                test="two one-sided tests, participants and items clustered",
                p=two_one_sided_p(value, self.margin, p_low, p_high),
                level=level, clustered=CLUSTERED, reason=reason or (ALIKE if np.isnan(low) else ""),
            )  # fmt: skip
        return results

    def _intervals(
        self, data: CrossedData, pairs: list[tuple[int, int]]
    ) -> Iterator[tuple[float, Interval, str]]:
        """Yield the difference of each pair, its interval, and why it has none ("" if it has)."""
        if self.scale == (0, 1):
            for d in differences(data, pairs):
                yield d.value, d.interval, d.reason
        else:
            result = contrast(data, pairs, means)
            for k, value in enumerate(map(float, result.point)):
                yield value, partial(result.interval, k), result.reasons[k]
