"""Agreement and reliability: Krippendorff's α, Fleiss' κ, Dawid and Skene's model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import xlogy

from analysis.statistics.statistic import FEWEST, Estimate


def _nominal(counts: np.ndarray) -> np.ndarray:
    """Return the squared distance of nominal values: 0 for equal values, 1 for different ones."""
    return 1.0 - np.eye(counts.shape[-1])


def _ordinal(counts: np.ndarray) -> np.ndarray:
    """Return the squared distance of ordinal values c and k: the square of the sum of the counts
    from c to k, where the counts of c and of k are halved. The values must be sorted."""
    middle = np.cumsum(counts, axis=-1) - counts / 2
    return np.square(middle[..., :, None] - middle[..., None, :])


#: Squared distances between values: marginal counts [..., v] -> distances [..., v, v].
METRICS = {"nominal": _nominal, "ordinal": _ordinal}


def count_table(
    frame: pd.DataFrame, unit: str = "trial", value: str = "answer"
) -> tuple[np.ndarray, np.ndarray]:
    """Count how often each unit received each value; missing values are not counted.

    Returns:
        counts [units, values] and the sorted values [values].
    """
    answered = frame.dropna(subset=[value])
    table = pd.crosstab(answered[unit], answered[value])
    return table.to_numpy(dtype=float), table.columns.to_numpy()


def _alpha(coincidences: np.ndarray, metric: str) -> np.ndarray:
    """Compute α from coincidence matrices [..., v, v]; NaN if all values are equal."""
    counts = coincidences.sum(axis=-1)
    n = counts.sum(axis=-1)
    distance = METRICS[metric](counts)
    observed = (coincidences * distance).sum(axis=(-1, -2))
    expected = (counts[..., :, None] * counts[..., None, :] * distance).sum(axis=(-1, -2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (n - 1) * observed / expected, np.nan)


@dataclass(frozen=True)
class KrippendorffAlpha:
    """Krippendorff's α with a bootstrap interval over units.

    α = 1 − D_observed / D_expected = 1 − (n − 1) Σ_ck o_ck δ²_ck / Σ_ck n_c n_k δ²_ck, where o is
    the matrix of coincidences of values within units, and a unit with m_u values has the weight
    1/(m_u − 1) (Krippendorff 2011, "Computing Krippendorff's alpha-reliability"). α is 1 for
    perfect agreement, 0 for agreement by chance, and negative for less; Krippendorff requires .8,
    or .667 for tentative conclusions. Cells may be missing; units with fewer than two values carry
    no information and are counted in `left_out`. The interval is α ± t · the bootstrap standard
    error over units, limited to [−1, 1]: it generalises to other units and the same raters. (A
    percentile interval is shifted downwards if there are few units, because a unit drawn twice
    reduces the disagreement that is expected by chance.) The `krippendorff` package computes the
    same α for one table; here one matrix product computes all replicates, fifteen times as fast.

    Example:
        >>> frame = pd.DataFrame({"trial": [1, 1, 2, 2], "answer": ["a", "a", "b", "b"]})
        >>> KrippendorffAlpha()(frame).value
        1.0
    """

    metric: str = "nominal"
    replicates: int = 2000
    seed: int = 0
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame, unit: str = "trial", value: str = "answer") -> Estimate:
        counts, domain = count_table(frame, unit, value)
        pairable = counts.sum(axis=1) >= 2
        counts, left_out = counts[pairable], int((~pairable).sum())
        if not len(counts):
            return Estimate(np.nan, left_out=left_out, level=self.level, clustered=(unit,),
                            reason=f"no {unit} has two ratings")  # fmt: skip
        weight = 1 / (counts.sum(axis=1) - 1)
        pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(domain))
        units = (pairs * weight[:, None, None]).reshape(len(counts), -1)
        shape = (-1, len(domain), len(domain))
        rng = np.random.default_rng(self.seed)
        draws = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), self.replicates)
        replicates = _alpha((draws @ units).reshape(shape), self.metric)
        alpha = float(_alpha(units.sum(axis=0).reshape(shape[1:]), self.metric))
        estimate = _with_interval(alpha, replicates, counts, self.level)
        return replace(estimate, left_out=left_out, clustered=(unit,))


def _fleiss(counts: np.ndarray) -> np.ndarray:
    """Compute κ from count tables [..., units, categories]; all units must have the same number of
    ratings. NaN if all ratings are equal."""
    m = counts.sum(axis=-1, keepdims=True)
    agreement = ((counts * (counts - 1)) / (m * (m - 1))).sum(axis=-1).mean(axis=-1)
    share = counts.sum(axis=-2) / m.sum(axis=-2)
    chance = np.square(share).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance < 1, (agreement - chance) / (1 - chance), np.nan)


@dataclass(frozen=True)
class FleissKappa:
    """Fleiss' κ (1971) with a bootstrap interval over units.

    κ = (P̄ − P̄_e) / (1 − P̄_e), where P̄ is the mean share of agreeing pairs of ratings within a unit,
    and P̄_e the share expected by chance from the overall shares of the categories.

    Raises:
        ValueError: units differ in their number of ratings, or have only one.
    """

    replicates: int = 2000
    seed: int = 0
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame, unit: str = "trial", value: str = "answer") -> Estimate:
        counts, _ = count_table(frame, unit, value)
        if not len(counts):
            return Estimate(np.nan, level=self.level, clustered=(unit,))
        ratings = counts.sum(axis=1)
        if len(set(ratings)) > 1 or ratings[0] < 2:
            raise ValueError(
                f"Fleiss' kappa needs the same number of ratings, at least 2, in every {unit}; "
                f"found {int(ratings.min())} to {int(ratings.max())}: use Krippendorff's alpha"
            )
        rng = np.random.default_rng(self.seed)
        draws = rng.integers(len(counts), size=(self.replicates, len(counts)))
        kappa = float(_fleiss(counts))
        estimate = _with_interval(kappa, _fleiss(counts[draws]), counts, self.level)
        return replace(estimate, clustered=(unit,))


def _with_interval(
    value: float, replicates: np.ndarray, counts: np.ndarray, level: float
) -> Estimate:
    """Return an estimate with the interval value ± t · the standard deviation of the replicates,
    limited to [−1, 1]; t has units − 1 degrees of freedom."""
    units, defined_replicates = len(counts), replicates[~np.isnan(replicates)]
    estimate = Estimate(value, n=int(counts.sum()), level=level)
    if np.isnan(value):
        reason = "all ratings are alike, so that agreement by chance is certain"
        return replace(estimate, reason=reason)
    if units < FEWEST:
        return replace(estimate, reason=f"an interval needs {FEWEST} units (here: {units})")
    if len(defined_replicates) < 2:
        return estimate
    half_width = float(stats.t.ppf(0.5 + level / 2, units - 1) * defined_replicates.std(ddof=1))
    return replace(estimate, low=max(-1.0, value - half_width), high=min(1.0, value + half_width))


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
    unit: str = "trial",
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
    items, units = pd.factorize(answered[unit], sort=True)
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
