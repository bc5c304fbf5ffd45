"""Statistics of behaviour: learning, confidence, response time, sensitivity to change."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit

from analysis.statistics.clusters import (
    CrossedData,
    as_estimates,
    check_responses,
    code_responses,
    combine,
    t_interval,
    two_way_jackknife,
)
from analysis.statistics.contrasts import condition_pairs, contrast
from analysis.statistics.shares import (
    AS_TRIALS,
    by_condition,
    clustered_shares,
    exact_by_clusters,
    means,
)
from analysis.statistics.statistic import ALIKE, FEWEST, STATISTICS, Estimate, Estimates

#: Reasons why d′ has no interval: all or no trials of a condition were judged as changed, or would
#: have been without one participant or trial.
UNBOUNDED = "a rate is 0 or 1: no interval and no test of d′, whose true value can be large"
NEARLY_UNBOUNDED = (
    "without one participant or trial a rate would be 0 or 1: no interval and no test of d′"
)


@STATISTICS.add("learning")
@dataclass(frozen=True)
class Learning:
    """Change in the share of correct responses per ten trials of the session.

    The slope is within participants: correctness and position are deviations from the participant's
    means in the condition, β = Σ x̃ỹ / Σ x̃², so that neither ability nor the order of conditions
    enters. It equals least squares with a dummy variable for every participant × condition. The
    interval leaves out one participant at a time (CV3); t has the effective number of participants
    (Kish, by Σ x̃²) less one degrees of freedom. A slope above 0 indicates learning, below 0
    fatigue. Participants with one position per condition carry no information. The interval is
    limited to the steepest slope that is possible at these positions: incorrect responses in the
    earlier half of each participant's trials, correct responses in the later half.
    """

    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        answered = frame.dropna(subset=["correct"])
        if answered.empty:
            return {}
        check_responses(answered, "correct", "participant", "condition", "position")
        correct = answered["correct"].astype(float)
        position = answered["position"].astype(float) / 10
        cell = [answered["participant"], answered["condition"]]
        x = position - position.groupby(cell).transform("mean")
        y = correct - correct.groupby(cell).transform("mean")
        person = pd.factorize(answered["participant"], sort=True)[0]
        top = np.bincount(person, (x * y).to_numpy(dtype=float))
        bottom = np.bincount(person, (x * x).to_numpy(dtype=float))
        total, moving = bottom.sum(), int((bottom > 0).sum())
        value = float(top.sum() / total) if total > 0 else np.nan
        low = high = p = np.nan
        reason = f"a slope needs {FEWEST} participants with several positions (here: {moving})"
        if moving >= FEWEST:
            n, replicates = len(top), (top.sum() - top) / (total - bottom)
            variance = (n - 1) / n * float(np.square(replicates - value).sum())
            freedom = max(total**2 / np.square(bottom).sum() - 1, 1.0)
            low, high, p = t_interval(value, variance, freedom, self.level, 0.0)
            steepest = float(x.clip(lower=0).sum() / total)
            low, high = np.clip([low, high], -steepest, steepest).tolist()
            reason = ALIKE if np.isnan(p) else ""
        return {
            ("all conditions",): Estimate(
                value, low, high, n=len(answered), left_out=len(frame) - len(answered),
                test="t over participants", p=p, level=self.level, clustered=("participant",),
                reason=reason,
            )
        }  # fmt: skip


@STATISTICS.add("calibration")
@dataclass(frozen=True)
class Calibration:
    """Share of correct responses at each level of confidence, clustered by participants and items.

    If confidence is informative, the shares increase with it. `TypeTwo` summarises this in one
    number.
    """

    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        answered = frame.dropna(subset=["correct", "confidence"])
        if answered.empty:
            return {}
        data = code_responses(answered, group="confidence")
        results = clustered_shares(data, None, self.level)
        return {
            (f"{float(name):g}",): replace(estimate, left_out=len(frame) - len(answered))
            for name, estimate in zip(data.groups, results, strict=True)
        }


@STATISTICS.add("type_two")
@dataclass(frozen=True)
class TypeTwo:
    """Area under the type-2 ROC curve: does confidence distinguish correct from incorrect?

    The area is the probability that, of a correct and an incorrect response of one participant in
    one condition, the correct response was given with more confidence; ties count one half (Galvin
    et al. 2003; a Mann–Whitney U within participants and conditions, pooled over pairs). It is .5
    if confidence does not distinguish them. Items differ in confidence and in difficulty, so that
    participants and items are both clustered: each is left out in turn with all its pairs.
    Responses without a pair, such as all those of a participant who is always correct, carry no
    information and count for no cluster. The interval is logit ± t_df √V. If all pairs favour the
    same response, or would without one cluster, it is Clopper and Pearson's (`exact_by_clusters`).
    """

    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        if frame.empty:
            return {}
        check_responses(frame, "correct", "participant", "condition", "trial")
        answered = frame.dropna(subset=["correct", "confidence"]).reset_index(drop=True)
        wins, pairs = _compare_confidence(answered)
        # Each pair is counted at both of its responses: the number of pairs is half the sum.
        top, bottom = wins.sum() / 2, pairs.sum() / 2
        if bottom:
            paired = pairs > 0
            data = code_responses(answered[paired])
            estimate = self._estimate(data, wins[paired], pairs[paired])
            reason = estimate.reason.replace("in a", "with correct and incorrect responses in a")
            estimate = replace(estimate, value=float(top / bottom), reason=reason)
        else:
            reason = (
                "no participant has a right and a wrong answer with a confidence in one condition"
            )
            estimate = Estimate(np.nan, level=self.level, reason=reason)
        return {("all conditions",): replace(estimate, left_out=len(frame) - len(answered))}

    def _estimate(self, data: CrossedData, wins: np.ndarray, pairs: np.ndarray) -> Estimate:
        """Return the area with its interval, from pairs of which each response has at least one."""
        top, bottom, parts = wins.sum() / 2, pairs.sum() / 2, []
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.log(top) - np.log(bottom - top)
            # Both responses of a pair are of one participant, who therefore counts half.
            for cluster, share in (
                (data.participant, 0.5), (data.item, 1.0), (np.arange(len(wins)), 1.0)
            ):  # fmt: skip
                won = top - share * np.bincount(cluster, wins)
                of = bottom - share * np.bincount(cluster, pairs)
                parts.append(np.square(np.log(won) - np.log(of - won) - value))
        by_participant, by_item, by_response = parts
        by_stratum = [by_item[data.stratum == s] for s in np.unique(data.stratum)]
        people, *items, responses = (
            (len(p) - 1) / len(p) * p.sum(keepdims=True)
            for p in (by_participant, *by_stratum, by_response)
        )
        # The pairs of all conditions are pooled as one group.
        data = replace(data, group=np.zeros_like(data.group), groups=("all conditions",))
        result = combine(data, np.atleast_1d(value), people, items, responses)
        if np.isfinite(result.variance[0]) or result.reasons[0]:
            return as_estimates(result, expit, 0.0, np.array([int(bottom)]), self.level)[0]
        exact = exact_by_clusters(data, 0, float(top / bottom), 0.5, self.level)
        return replace(exact, n=int(bottom))


def _compare_confidence(answered: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each response [n], the pairs of a correct and an incorrect response of its
    participant and condition: how many the correct one wins by confidence, and their number."""
    confidence, correct = (answered[c].to_numpy(dtype=float) for c in ("confidence", "correct"))
    wins, pairs = np.zeros(len(answered)), np.zeros(len(answered))
    for rows in answered.groupby(["participant", "condition"]).indices.values():
        a, b = rows[correct[rows] > 0], rows[correct[rows] == 0]
        won = (np.sign(np.subtract.outer(confidence[a], confidence[b])) + 1) / 2
        wins[a], wins[b] = won.sum(axis=1), won.sum(axis=0)
        pairs[a], pairs[b] = len(b), len(a)
    return wins, pairs


@STATISTICS.add("detection")
@dataclass(frozen=True)
class Detection:
    """Sensitivity to real changes: hit and false-alarm rates, d′ and criterion.

    H is the share of trials judged as changed if there is a change (`signal`), F the share if there
    is none (`noise`, the same stage shown twice). d′ = z(H) − z(F), criterion c = −(z(H) + z(F))/2
    (Green & Swets 1966; Macmillan & Creelman 2005), with Hautus' (1995) log-linear rule
    H = (hits + ½)/(trials + 1), which keeps z finite for rates of 0 and 1. d′ = 0 means no
    sensitivity, 1 moderate sensitivity; c > 0 means a bias against responding "changed".
    Participants and items are clustered. Only d′ is tested. If H or F is 0 or 1, or would be
    without one participant or item, d′ and c have no interval and no test: the added half response
    hardly varies between participants, but z of the true rate can be large.

    Attributes:
        signal, noise: names of the conditions with and without a change.
    """

    signal: str
    noise: str
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        """Raise ValueError if one of the two conditions has no responses."""
        answered = frame.dropna(subset=["changed"])
        left_out = len(frame) - len(answered)
        answered = answered[answered["condition"].isin([self.signal, self.noise])]
        conditions = set(answered["condition"])
        if lacking := [name for name in (self.signal, self.noise) if name not in conditions]:
            raise ValueError(f"no responses in condition {', '.join(lacking)}: d' is undefined")
        data = code_responses(answered, value="changed")
        s, f = map(data.groups.index, (self.signal, self.noise))

        def function(total: np.ndarray, count: np.ndarray) -> np.ndarray:
            z = stats.norm.ppf((total + 0.5) / (count + 1))
            hit, alarm = z[..., s], z[..., f]
            return np.stack([hit, alarm, hit - alarm, -(hit + alarm) / 2], axis=-1)

        weights = np.zeros((4, len(data.groups)))
        weights[[0, 2, 3], s], weights[[1, 2, 3], f] = 1.0, 1.0
        result = two_way_jackknife(data, function, weights)
        counts = np.bincount(data.group)[[s, f]]
        n = np.array([*counts, counts.sum(), counts.sum()])
        scales = {"hit rate": (stats.norm.cdf, None), "false-alarm rate": (stats.norm.cdf, None),
                  "d′": (np.asarray, 0.0), "criterion": (np.asarray, None)}  # fmt: skip
        estimates = {
            name: as_estimates(result, inverse, null, n, self.level)[k]
            for k, (name, (inverse, null)) in enumerate(scales.items())
        }
        shares = clustered_shares(data, None, self.level)
        for name, share in zip(scales, (shares[s], shares[f]), strict=False):
            if share.reason == AS_TRIALS:  # the added half response gives no variance
                estimates[name] = replace(
                    estimates[name], low=share.low, high=share.high, reason=share.reason
                )
                reason = UNBOUNDED if share.value in (0, 1) else NEARLY_UNBOUNDED
                for unbounded in ("d′", "criterion"):
                    estimates[unbounded] = replace(
                        estimates[unbounded], low=np.nan, high=np.nan, p=np.nan, reason=reason
                    )
        return {(name,): replace(e, left_out=left_out) for name, e in estimates.items()}


@STATISTICS.add("changed")
@dataclass(frozen=True)
class Changed:
    """Share of responses “It changed” per condition, clustered by participants and items; it is not
    tested, as it has no chance level."""

    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        answered = frame.dropna(subset=["changed"])
        if answered.empty:
            return {}
        data = code_responses(answered, value="changed")
        return by_condition(frame, data.groups, clustered_shares(data, None, self.level))


@STATISTICS.add("ratings")
@dataclass(frozen=True)
class Ratings:
    """Mean rating per condition, and differences of means, clustered by participants and items.

    The interval is mean ± t_df √V; the steps of the scale are assumed to be equal. Keys are
    (condition, "") for a mean, which is not tested, and (first, second) for the difference first −
    second, which is tested against 0.

    Attributes:
        scale: lowest and highest step, the limits of the intervals; by default those in the data.
        value: the column of ratings.
        reference: the condition with which all others are compared; by default all pairs.
    """

    scale: tuple[float, float] | None = None
    value: str = "rating"
    reference: str | None = None
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        answered = frame.dropna(subset=[self.value])
        if answered.empty:
            return {}
        data = code_responses(answered, value=self.value)
        counts, left_out = np.bincount(data.group), len(frame) - len(answered)
        low, high = self.scale or (float(data.values.min()), float(data.values.max()))
        result = two_way_jackknife(data, means)
        names = [(name, "") for name in data.groups]
        results = as_estimates(result, lambda ends: ends.clip(low, high), None, counts, self.level)
        if pairs := condition_pairs(data.groups, self.reference):
            names += [(data.groups[a], data.groups[b]) for a, b in pairs]
            n_pairs, width = counts[np.array(pairs)].sum(axis=1), high - low
            gaps = contrast(data, pairs, means)
            results += as_estimates(gaps, lambda d: d.clip(-width, width), 0.0, n_pairs, self.level)
        return {k: replace(e, left_out=left_out) for k, e in zip(names, results, strict=True)}


@STATISTICS.add("time")
@dataclass(frozen=True)
class AnswerTime:
    """Geometric mean response time in seconds per condition, clustered by participants and items.

    The ends of the interval are exp(mean log time ± t_df √V), because times are skewed to the right
    and their logarithms hardly are.
    """

    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimates:
        usable = frame[frame["milliseconds"] > 0]
        if usable.empty:
            return {}
        seconds = usable["milliseconds"].astype(float) / 1000
        data = code_responses(usable.assign(log_seconds=np.log(seconds)), value="log_seconds")
        result, counts = two_way_jackknife(data, means), np.bincount(data.group)
        results = as_estimates(result, np.exp, None, counts, self.level)
        return by_condition(frame, data.groups, results)
