"""Variance components: the shares of participants and of trials in the variance of responses.

If participants differ little, additional participants add little precision; if trials differ
much, more trials are needed (`analysis.planning.power` takes these standard deviations). The share
of a component is an intraclass correlation: the correlation of two responses of one condition that
have only this component in common.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.statistics.clusters import CrossedData, code_responses, why_too_few
from analysis.statistics.crossed_effects import fit_conditions
from analysis.statistics.mixed_model import is_separable
from analysis.statistics.statistic import STATISTICS, Estimate, Estimates

#: Residual variance on the logit scale: that of the standard logistic distribution.
LOGISTIC = np.pi**2 / 3
#: What responses of one condition can have in common, and the residual.
COMPONENTS = ("participants", "participants in conditions", "trials", "residual")
#: Note where "participants in conditions" is undefined.
INSEPARABLE = "participants in conditions cannot be separated from participants or the residual"


@STATISTICS.add("variance_components")
@dataclass(frozen=True)
class VarianceComponents:
    """Shares of the variance within conditions (intraclass correlations) by component.

    For correct and incorrect responses, they are computed on the logit scale by the logistic model
    with crossed random effects (`mixed_model.py`), with the residual π²/3 (Nakagawa, Johnson &
    Schielzeth 2017). For other values, they are computed on the scale of the values by MINQUE(0)
    (Rao 1971), which is unbiased, allows incomplete designs and equals the analysis of variance for
    complete ones; negative estimates are set to 0, and `reason` says so.

    In an estimate, `value` is the share and `effect` the variance. There are no intervals.
    """

    value: str = "correct"
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        answered = frame.dropna(subset=[self.value])
        if answered.empty:
            return {}
        data = code_responses(answered, value=self.value)
        n, shortage = len(answered), why_too_few(data.participants, data.items)
        if self.value == "correct":
            model = fit_conditions(frame)
            if model is None:
                return {}
            effects = np.where(model.fit.estimated, model.fit.sd**2, np.nan)
            variances, note = np.append(effects, LOGISTIC), model.fit.note
            n = int(model.counts.sum())  # without conditions that are all right or all wrong
        else:
            raw = minque(data)
            negative = [name for name, v in zip(COMPONENTS, raw, strict=True) if v < 0]
            note = f"estimated below 0, set to 0: {', '.join(negative)}" if negative else ""
            variances = np.maximum(raw, 0.0)
        if shortage:
            variances, note = np.full(len(COMPONENTS), np.nan), shortage
        total = np.nansum(variances)
        shares = variances / total if total > 0 else np.full(len(variances), np.nan)
        if not (total > 0 or note):
            note = "the answers of a condition do not vary"
        elif np.isnan(variances).any() and not shortage:
            note = "; ".join(filter(None, [note, INSEPARABLE]))
        return {
            (name,): Estimate(
                float(share), n=n, left_out=len(frame) - n, effect=float(variance),
                level=self.level, reason=note,
            )
            for name, share, variance in zip(COMPONENTS, shares, variances, strict=True)
        }  # fmt: skip


def minque(data: CrossedData) -> np.ndarray:
    """Estimate the variances of COMPONENTS by MINQUE(0).

    The quadratic forms |Zₖ′My|² and y′My (M centres within conditions) are set equal to their
    expectations, which are linear in the variances: E|Zₖ′My|² = Σₗ σₗ² ‖Zₖ′MZₗ‖² + σ² tr(Zₖ′MZₖ).
    "Participants in conditions" is NaN if it cannot be separated from the others (`is_separable`).
    """
    groups = len(data.groups)
    participant_cells = np.unique(data.participant * groups + data.group, return_inverse=True)[1]
    codes = [data.participant, participant_cells, data.item]
    centred = [_centre(np.eye(int(c.max()) + 1)[c], data.group) for c in codes]
    y = _centre(data.values[:, None], data.group)
    n = len(data.values)
    products = np.array([[np.square(a.T @ b).sum() for b in centred] for a in centred])
    traces = np.array([np.square(a).sum() for a in centred])
    matrix = np.block([[products, traces[:, None]], [traces[None], np.array([[n - groups]])]])
    vector = np.array(
        [*(float(np.square(z.T @ y).sum()) for z in centred), float(np.square(y).sum())]
    )
    free = np.array([True, is_separable(data.participant, data.group), True, True])
    variances = np.full(len(COMPONENTS), np.nan)
    variances[free] = np.linalg.lstsq(matrix[np.ix_(free, free)], vector[free], rcond=None)[0]
    return variances


def _centre(columns: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Subtract from columns [n, k] their means within each group [n]."""
    count = np.bincount(group)
    total = np.zeros((len(count), columns.shape[1]))
    np.add.at(total, group, columns)
    return columns - (total / count[:, None])[group]
