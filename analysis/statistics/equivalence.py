"""Whether two conditions do not differ by as much as matters: two one-sided tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.statistics.clusters import CLUSTERED, crossed, two_way_jackknife
from analysis.statistics.estimate import Estimate
from analysis.statistics.shares import STATISTICS, Estimates, condition_pairs, contrast_weights


def two_one_sided(value: float, margin: float, p_low: float, p_high: float) -> float:
    """p-value of two one-sided tests (Schuirmann 1987): the larger of the two.

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
    """Differences of means (or shares) between conditions, tested for being smaller than `margin`.

    Null hypothesis: the difference is −margin or less, or margin or more. The two one-sided tests
    are Student's, with the two-way cluster variance and degrees of freedom of `cluster_contrasts`;
    p is the larger of the two, and it is below α exactly where the interval of level 1 − 2α lies
    between −margin and margin. So the interval given is that one (90 % for a level of 95 %).

    Attributes:
        margin: smallest difference of interest, in units of `value`.
        scale: lowest and highest possible value: no interval goes beyond their difference, and no
            margin may reach it, as every difference is smaller.
        value: the measured column. reference: compare all others with it; all pairs by default.
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
        """The largest difference that the scale has."""
        return self.scale[1] - self.scale[0]

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        kept = frame[frame[self.value].notna()]
        if kept.empty:
            return {}
        data = crossed(kept, value=self.value)
        pairs = np.array(condition_pairs(data.groups, self.reference), dtype=int).reshape(-1, 2)
        if not len(pairs):
            return {}

        def differences(total: np.ndarray, count: np.ndarray) -> np.ndarray:
            with np.errstate(divide="ignore", invalid="ignore"):
                means = total / count
                return means[..., pairs[:, 0]] - means[..., pairs[:, 1]]

        weights = contrast_weights(pairs[:, 0], pairs[:, 1], len(data.groups))
        result = two_way_jackknife(data, differences, weights)
        counts, level = np.bincount(data.group), 2 * self.level - 1
        found: Estimates = {}
        for k, (a, b) in enumerate(pairs):
            low, high, p_low = result.interval(k, level, -self.margin)
            *_, p_high = result.interval(k, level, self.margin)
            low, high = np.clip([low, high], -self.largest, self.largest).tolist()
            value, reason = float(result.point[k]), result.reasons[k]
            if not reason and np.isnan(low):
                reason = "nothing varies, so that no interval can be estimated"
            found[data.groups[a], data.groups[b]] = Estimate(
                value, low, high, n=int(counts[[a, b]].sum()), left_out=len(frame) - len(kept),
                test="two one-sided t, participants and items clustered",
                p=two_one_sided(value, self.margin, p_low, p_high),
                effect=self.margin, effect_name="smallest effect of interest",
                level=level, clustered=CLUSTERED, reason=reason,
            )  # fmt: skip
        return found
