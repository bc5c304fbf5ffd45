"""Agreement and reliability: Krippendorff's α, Fleiss' κ, Dawid and Skene's model."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from scipy.special import xlogy

from analysis.statistics.clusters import CLUSTERED, as_estimates, code_responses, combine
from analysis.statistics.statistic import ALIKE, Estimate

#: A function that changes the scale of values.
Scale = Callable[[np.ndarray], np.ndarray]


def _ordinal(counts: np.ndarray) -> np.ndarray:
    middle = np.cumsum(counts) - counts / 2
    return np.square(middle[:, None] - middle)


#: Squared distances between sorted values: marginal counts [v] -> distances [v, v]. Nominal: 0 for
#: equal values, 1 for different ones. Ordinal, for c and k: the square of the sum of the counts
#: from c to k, where the counts of c and of k are halved.
METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nominal": lambda counts: 1.0 - np.eye(len(counts)),
    "ordinal": _ordinal,
}


def _alpha(counts: np.ndarray, metric: str) -> float:
    """Compute α from a count table [units, values]; units with fewer than two values carry no
    information. NaN if all values are equal."""
    ratings = counts.sum(axis=1, keepdims=True)
    weighted = np.where(ratings >= 2, counts / np.maximum(ratings - 1, 1), 0.0)
    coincidences = weighted.T @ counts - np.diag(weighted.sum(axis=0))
    totals = coincidences.sum(axis=1)
    distance = METRICS[metric](totals)
    observed, expected = (coincidences * distance).sum(), totals @ distance @ totals
    return float(1 - (totals.sum() - 1) * observed / expected) if expected > 0 else np.nan


@dataclass(frozen=True)
class KrippendorffAlpha:
    """Krippendorff's α, with participants and units clustered.

    α = 1 − D_observed / D_expected = 1 − (n − 1) Σ_ck o_ck δ²_ck / Σ_ck n_c n_k δ²_ck, where o is
    the matrix of coincidences of values within units, and a unit with m_u values has the weight
    1/(m_u − 1) (Krippendorff 2011, "Computing Krippendorff's alpha-reliability"). α is 1 for
    perfect agreement, 0 for agreement by chance, and negative for less; Krippendorff requires .8,
    or .667 for tentative conclusions. Cells may be missing; units with fewer than two values carry
    no information and are counted in `left_out`. The interval is that of `_estimate`.

    Example:
        >>> frame = pd.DataFrame(
        ...     {"participant": [1, 2, 1, 2], "trial": [1, 1, 2, 2], "answer": ["a", "a", "b", "b"]}
        ... )
        >>> KrippendorffAlpha()(frame).value
        1.0
    """

    metric: str = "nominal"
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame, value: str = "answer") -> Estimate:
        coefficient = partial(_alpha, metric=self.metric)
        return _estimate(frame, value, coefficient, self.level)


def _pair_agreement(counts: np.ndarray) -> float:
    """Compute the mean share of agreeing pairs of ratings within a unit from a count table [units,
    categories]; units with fewer than two ratings carry no information. NaN without any other."""
    ratings = counts.sum(axis=1)
    counts, ratings = counts[ratings >= 2], ratings[ratings >= 2]
    if not len(ratings):
        return np.nan
    return float(((counts * (counts - 1)).sum(axis=1) / (ratings * (ratings - 1))).mean())


def _kappa(counts: np.ndarray, chance: float) -> float:
    """Compute `_pair_agreement` beyond chance, as a share of the possible; NaN if chance is 1."""
    return (_pair_agreement(counts) - chance) / (1 - chance) if chance < 1 else np.nan


def _fleiss_kappa(counts: np.ndarray) -> float:
    return _kappa(counts, float(np.square(counts.sum(axis=0) / counts.sum()).sum()))


@dataclass(frozen=True)
class FleissKappa:
    """Fleiss' κ (1971), with participants and units clustered.

    κ = (P̄ − P̄_e) / (1 − P̄_e), where P̄ is the mean share of agreeing pairs of ratings within a unit,
    and P̄_e the share expected by chance from the overall shares of the categories. The interval is
    that of `_estimate`.

    Raises:
        ValueError: units differ in their number of ratings, or have only one.
    """

    level: float = 0.95

    def __call__(self, frame: pd.DataFrame, value: str = "answer") -> Estimate:
        ratings = frame.dropna(subset=[value])["trial"].value_counts()
        if ratings.nunique() > 1 or (ratings < 2).any():
            raise ValueError(
                f"Fleiss' kappa needs the same number of ratings, at least 2, in every trial; "
                f"found {ratings.min()} to {ratings.max()}: use Krippendorff's alpha"
            )
        return _estimate(frame, value, _fleiss_kappa, self.level)


@dataclass(frozen=True)
class FreeMarginalKappa:
    """κ with a known chance agreement, with participants and units clustered (Brennan and Prediger
    1981; for any number of raters, Randolph 2005).

    κ = (P̄ − chance) / (1 − chance), with P̄ as in FleissKappa. Unlike α and Fleiss' κ, it does not
    depend on the names of options where each unit has its own. Units with fewer than two ratings
    are counted in `left_out`. The interval is that of `_estimate`.

    Attributes:
        chance: agreement by guessing; 1 / number of options.
    """

    chance: float
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame, value: str = "answer") -> Estimate:
        return _estimate(frame, value, partial(_kappa, chance=self.chance), self.level)


def _estimate(
    frame: pd.DataFrame, value: str, coefficient: Callable[[np.ndarray], float], level: float
) -> Estimate:
    """Estimate a coefficient of agreement for other participants and other units, from the units
    with two ratings or more; those with one are counted in `left_out`.

    The interval is z ± t_df √V, where z is Fisher's transformation of the coefficient, and V and df
    are those of `clusters.combine`, from leaving out one participant, one unit and one rating at a
    time. If agreement would be perfect without one of them, z is infinite, and the coefficient
    itself is used, within [−1, 1]. (95 % intervals without the transformation contained the true
    value in 76 to 94 % of simulated studies; those over units alone excluded 0 in 10 to 20 % of
    studies with ratings at random.)

    Args:
        coefficient: count table [units, values] -> value; NaN if it is undefined.
    """
    answered = frame.dropna(subset=[value])
    ratings_of_unit = answered.groupby("trial")[value].transform("size")
    left_out = int(answered.loc[ratings_of_unit < 2, "trial"].nunique())
    answered = answered[ratings_of_unit >= 2]
    undefined = Estimate(np.nan, n=len(answered), left_out=left_out, level=level,
                         clustered=CLUSTERED, reason="no trial has two ratings")  # fmt: skip
    if answered.empty:
        return undefined
    codes, _ = pd.factorize(answered[value], sort=True)
    data = code_responses(answered.assign(code=codes, group=""), "code", "group")
    counts = np.zeros((data.items, int(codes.max()) + 1))
    np.add.at(counts, (data.item, codes), 1.0)
    point = coefficient(counts)
    if np.isnan(point):
        reason = "all ratings are alike, so that agreement by chance is certain"
        return replace(undefined, reason=reason)

    def leave_out(parts: Iterable[np.ndarray]) -> np.ndarray:
        """Return the coefficients without one part each: rows of responses."""
        values = []
        for rows in parts:
            reduced = counts.copy()
            np.subtract.at(reduced, (data.item[rows], codes[rows]), 1.0)
            values.append(coefficient(reduced))
        return np.array(values)

    def rows_of(cluster: np.ndarray) -> Iterable[np.ndarray]:
        return pd.Series(cluster).groupby(cluster).indices.values()

    # equal ratings of a unit leave equal tables
    _, first, repeats = np.unique(
        data.item * counts.shape[1] + codes, return_index=True, return_counts=True
    )
    parts = (
        (leave_out(rows_of(data.participant)), np.ones(data.participants)),
        (leave_out(rows_of(data.item)), np.ones(data.items)),
        (leave_out(first[:, None]), repeats),
    )

    def on_scale(scale: Scale, inverse: Scale) -> Estimate:
        with np.errstate(divide="ignore", invalid="ignore"):  # a part without disagreement
            centre = scale(np.array([point]))
            people, units, ratings = (
                (k.sum() - 1) / k.sum() * (k * np.square(scale(values) - centre)).sum(keepdims=True)
                for values, k in parts
            )
            result = combine(data, centre, people, [units], ratings)
            return as_estimates(result, inverse, None, np.array([len(codes)]), level)[0]

    estimate = on_scale(*_fisher(len(codes) / data.items))
    if np.isnan(estimate.low):
        estimate = on_scale(np.asarray, lambda ends: ends.clip(-1, 1))
    estimate = replace(estimate, value=point, left_out=left_out)
    if np.isnan(estimate.low) and estimate.reason == ALIKE and point < 1:
        reason = "without one participant or trial, all ratings would be alike"
        return replace(estimate, reason=reason)
    return estimate


def _fisher(ratings: float) -> tuple[Scale, Scale]:
    """Return Fisher's transformation of an intraclass correlation with a number of ratings per
    unit, z = ½ log((1 + (m − 1) r)/(1 − r)), and its inverse."""

    def scale(r: np.ndarray) -> np.ndarray:
        return np.log((1 + (ratings - 1) * r) / (1 - r)) / 2

    def inverse(z: np.ndarray) -> np.ndarray:
        return (np.exp(2 * z) - 1) / (np.exp(2 * z) + ratings - 1)

    return scale, inverse


@dataclass(frozen=True)
class DawidSkeneFit:
    """The result of `dawid_skene`.

    Attributes:
        classes: the sorted classes [c]. prior: their shares [c].
        confusion: probability of each response of a participant, given the true class:
            [participants, true classes, responses]; NaN for a class that a participant did not see.
        posterior: probability of each class for each unit: [units, c].
        majority: the most frequent response for each unit; "" if several are equally frequent.
        converged: whether EM converged.
        units, participants: names, in the order of the arrays.
    """

    classes: np.ndarray
    prior: np.ndarray
    confusion: np.ndarray
    posterior: np.ndarray
    majority: np.ndarray
    converged: bool
    units: np.ndarray
    participants: np.ndarray

    def quality(self) -> pd.DataFrame:
        """Return participant and accuracy: the expected share of correct responses, averaged over
        the prior of the classes that the participant saw."""
        correct_rates = np.diagonal(self.confusion, axis1=1, axis2=2)
        weight = np.where(np.isnan(correct_rates), 0.0, self.prior)
        accuracy = (weight * np.nan_to_num(correct_rates)).sum(axis=1) / weight.sum(axis=1)
        return pd.DataFrame({"participant": self.participants, "accuracy": accuracy})

    def answers(self) -> pd.DataFrame:
        """Return trial, label (the most probable class), its probability, and the majority."""
        return pd.DataFrame(
            {
                "trial": self.units,
                "label": self.classes[self.posterior.argmax(axis=1)],
                "probability": self.posterior.max(axis=1),
                "majority": self.majority,
            }
        )


def dawid_skene(
    frame: pd.DataFrame,
    value: str = "answer",
    tolerance: float = 1e-8,
    max_iterations: int = 10_000,
) -> DawidSkeneFit:
    """Estimate the true classes and each participant's errors by EM.

    Dawid & Skene (1979, Applied Statistics 28:20–28), eqs. 2.3–2.5: the M step computes the shares
    of classes and of errors, weighted by the posterior; the E step computes the posterior by Bayes'
    rule. There are no pseudo-counts. Repeated responses of a participant to a unit count each time,
    as in the paper. (The EM of crowd-kit stops before the maximum, at the first decrease of its
    loss, and depends on transformers, scikit-learn and nltk.)

    Args:
        tolerance: EM stops when the log likelihood changes by less than this.
        max_iterations: the maximum number of iterations.

    Raises:
        ValueError: the table has no responses.
    """
    answered = frame.dropna(subset=[value])
    if answered.empty:
        raise ValueError("Dawid-Skene needs at least one response; the table has none")
    items, units = pd.factorize(answered["trial"], sort=True)
    people, participants = pd.factorize(answered["participant"], sort=True)
    answers, classes = pd.factorize(answered[value], sort=True)
    c = len(classes)

    votes = np.zeros((len(units), c))
    np.add.at(votes, (items, answers), 1)
    posterior = votes / votes.sum(axis=1, keepdims=True)
    most_frequent = np.asarray(classes, dtype=object)[votes.argmax(axis=1)]
    tied = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1
    majority = np.where(tied, "", most_frequent)

    likelihood, converged, iterations = -np.inf, False, 0
    while not converged and iterations < max_iterations:
        iterations += 1
        prior = posterior.mean(axis=0)
        confusion = np.zeros((len(participants), c, c))
        np.add.at(confusion.transpose(0, 2, 1), (people, answers), posterior[items])
        total = confusion.sum(axis=2, keepdims=True)
        confusion = np.divide(confusion, total, out=np.zeros_like(confusion), where=total > 0)

        joint = np.tile(xlogy(1.0, prior), (len(units), 1))
        np.add.at(joint, items, xlogy(1.0, confusion[people, :, answers]))
        largest = joint.max(axis=1, keepdims=True)
        scaled = np.exp(joint - largest)
        posterior = scaled / scaled.sum(axis=1, keepdims=True)
        new_likelihood = float((largest[:, 0] + np.log(scaled.sum(axis=1))).sum())
        converged = abs(new_likelihood - likelihood) < tolerance
        likelihood = new_likelihood
    confusion = np.where(total > 0, confusion, np.nan)
    return DawidSkeneFit(
        np.asarray(classes), prior, confusion, posterior, majority, converged, np.asarray(units),
        np.asarray(participants),
    )  # fmt: skip
