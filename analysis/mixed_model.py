"""Logistic regression with crossed random effects of participant and item, by Laplace's method.

    logit P(y = 1) = x·β + u_participant + w_item,   u ~ N(0, σ_u²),  w ~ N(0, σ_w²)

The model of psycholinguistics for answers of many people to many items (Baayen, Davidson & Bates
2008; Jaeger 2008), which statsmodels fits only by variational Bayes, whose intervals are too
narrow. The integral over u and w is Laplace's: the log of the joint density at its mode less half
the log determinant of its curvature. With `reml` the fixed effects are integrated in the same way
(as glmmTMB's REML=TRUE), which undoes most of the downward bias of σ with ten to twenty items.
Participants are eliminated first (their block is diagonal), so one Newton step costs
O(n + participants·(items + k)²).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize
from scipy.special import expit

#: Bounds of a standard deviation on the logit scale: at the lower one the effect is absent.
SMALLEST, LARGEST = 1e-3, 6.0


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    Attributes:
        beta: fixed effects [k]. covariance: theirs, given the standard deviations [k, k].
        sd_participant, sd_item: standard deviations of the random effects, logit scale.
        log_likelihood: Laplace's (restricted) log likelihood.
        participants, items: how many of each.
        converged: whether the search for the standard deviations ended well.
        df_participant, df_item: degrees of freedom of the two variances, 1 / (2 Var log σ) by the
            curvature of the likelihood (for normal data about n − 1); infinite where σ is 0.
    """

    beta: np.ndarray
    covariance: np.ndarray
    sd_participant: float
    sd_item: float
    log_likelihood: float
    participants: int
    items: int
    converged: bool
    df_participant: float
    df_item: float


class _Problem:
    """Data and the current mode (kept between evaluations: a warm start halves the work)."""

    def __init__(
        self, y: np.ndarray, x: np.ndarray, participant: np.ndarray, item: np.ndarray
    ) -> None:
        self.y, self.x, self.p, self.i = y, x, participant, item
        self.P, self.I = int(participant.max()) + 1, int(item.max()) + 1
        self.k = x.shape[1]
        self.cell = participant * self.I + item
        self.mode = np.zeros(self.P + self.I + self.k)

    def _eta(self, mode: np.ndarray, sd: np.ndarray) -> np.ndarray:
        a, b, beta = np.split(mode, [self.P, self.P + self.I])
        return sd[0] * a[self.p] + sd[1] * b[self.i] + self.x @ beta

    def _joint(self, mode: np.ndarray, sd: np.ndarray) -> float:
        """Log density of answers and (standardised) random effects, constants dropped."""
        eta = self._eta(mode, sd)
        random = mode[: self.P + self.I]
        return float(np.sum(self.y * eta - np.logaddexp(0, eta)) - 0.5 * random @ random)

    def _blocks(self, sd: np.ndarray) -> tuple[np.ndarray, ...]:
        """Gradient, diagonal of the participants' block, border [P, I + k], rest [I + k, I + k]."""
        probability = expit(self._eta(self.mode, sd))
        residual = self.y - probability
        weight = probability * (1 - probability)
        P, I, k = self.P, self.I, self.k  # noqa: E741
        gradient = np.concatenate(
            [
                sd[0] * np.bincount(self.p, residual, P) - self.mode[:P],
                sd[1] * np.bincount(self.i, residual, I) - self.mode[P : P + I],
                self.x.T @ residual,
            ]
        )
        diagonal = 1 + sd[0] ** 2 * np.bincount(self.p, weight, P)
        weighted = self.x * weight[:, None]
        by_participant = np.stack([np.bincount(self.p, c, P) for c in weighted.T], axis=1)
        by_item = np.stack([np.bincount(self.i, c, I) for c in weighted.T], axis=1)
        cells = np.bincount(self.cell, weight, P * I).reshape(P, I)
        border = np.hstack([sd[0] * sd[1] * cells, sd[0] * by_participant])
        rest = np.zeros((I + k, I + k))
        rest[np.arange(I), np.arange(I)] = 1 + sd[1] ** 2 * np.bincount(self.i, weight, I)
        rest[:I, I:] = sd[1] * by_item
        rest[I:, :I] = rest[:I, I:].T
        rest[I:, I:] = self.x.T @ weighted
        return gradient, diagonal, border, rest

    def solve(
        self, sd: np.ndarray, beta: np.ndarray | None = None
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Newton's method to the mode, of the random effects alone where `beta` is given.

        Returns:
            joint log density, participants' block [P], Schur complement of the rest.
        """
        if beta is not None:
            self.mode[self.P + self.I :] = beta
        value = self._joint(self.mode, sd)
        for _ in range(100):
            gradient, diagonal, border, rest = self._blocks(sd)
            if beta is not None:  # the fixed effects stand still
                gradient[self.P + self.I :] = 0
                border = border[:, : self.I]
                rest = rest[: self.I, : self.I]
            schur = rest - border.T @ (border / diagonal[:, None])
            head, tail = gradient[: self.P], gradient[self.P : self.P + len(schur)]
            step_tail = linalg.solve(schur, tail - border.T @ (head / diagonal), assume_a="pos")
            step = np.zeros_like(self.mode)
            step[: self.P] = (head - border @ step_tail) / diagonal
            step[self.P : self.P + len(schur)] = step_tail
            size = 3.0 / max(3.0, np.abs(step).max())  # far from the mode the weights vanish
            while (new := self._joint(self.mode + size * step, sd)) < value - 1e-9 and size > 1e-6:
                size /= 2
            self.mode = self.mode + size * step
            value = new
            if gradient @ step < 1e-10:  # Newton's decrement: twice the gain still to be had
                break
        _, diagonal, border, rest = self._blocks(sd)
        return value, diagonal, rest - border.T @ (border / diagonal[:, None])

    def laplace(self, sd: np.ndarray, beta: np.ndarray) -> float:
        """Laplace's log likelihood at given parameters (half lme4's deviance, with a minus)."""
        value, diagonal, schur = self.solve(sd, beta)
        inner = schur[: self.I, : self.I]
        return value - 0.5 * (np.log(diagonal).sum() + np.linalg.slogdet(inner)[1])

    def refine(self, sd: np.ndarray, beta: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """The β of largest `laplace` likelihood, from the joint mode, by scoring steps.

        The joint mode is biased towards zero, as the curvature depends on β too.
        """
        width = 0.05 * np.sqrt(np.diag(covariance))
        for _ in range(20):
            slope = np.empty_like(beta)
            for j, h in enumerate(width):
                shift = np.zeros_like(beta)
                shift[j] = h
                up, down = self.laplace(sd, beta + shift), self.laplace(sd, beta - shift)
                slope[j] = (up - down) / (2 * h)
            step = covariance @ slope
            beta = beta + step
            if np.abs(step / np.sqrt(np.diag(covariance))).max() < 1e-3:
                break
        return beta


def fit(
    y: np.ndarray,
    x: np.ndarray,
    participant: np.ndarray,
    item: np.ndarray,
    reml: bool = True,
) -> Fit:
    """Fit the model.

    Args:
        y: answers, 0 or 1: [n]. x: fixed effects, full column rank: [n, k].
        participant, item: codes from 0, without gaps: int [n].
        reml: integrate the fixed effects too; otherwise they are maximised jointly with the
            random effects and only those integrated (lme4's glmer with nAGQ = 0).

    Raises:
        ValueError: columns of `x` depend on one another, or a level of a factor in `x` has only
            right or only wrong answers, so that its effect is infinite.
    """
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError("the fixed effects depend linearly on one another; drop a column")
    for column in x.T:
        chosen = y[column == 1]
        if set(np.unique(column)) <= {0.0, 1.0} and len(chosen) and len(set(chosen)) == 1:
            raise ValueError(
                "a condition has only right or only wrong answers; the model has no estimate there"
            )
    problem = _Problem(y.astype(float), x.astype(float), participant, item)

    def deviance(log_sd: np.ndarray) -> float:
        value, diagonal, schur = problem.solve(np.exp(log_sd))
        inner = schur if reml else schur[: problem.I, : problem.I]
        return -value + 0.5 * (np.log(diagonal).sum() + np.linalg.slogdet(inner)[1])

    bounds = [(np.log(SMALLEST), np.log(LARGEST))] * 2
    found = optimize.minimize(
        deviance,
        np.log([0.5, 0.5]),
        method="L-BFGS-B",
        bounds=bounds,
        options={"ftol": 1e-10, "gtol": 1e-5, "eps": 1e-4},
    )
    sd = np.exp(found.x)
    df = _degrees_of_freedom(deviance, found.x)
    _, _, schur = problem.solve(sd)
    covariance = linalg.inv(schur)[problem.I :, problem.I :]
    mode = problem.mode[problem.P + problem.I :].copy()
    return Fit(
        beta=problem.refine(sd, mode, covariance),
        covariance=covariance,
        sd_participant=float(sd[0]) if sd[0] > 2 * SMALLEST else 0.0,
        sd_item=float(sd[1]) if sd[1] > 2 * SMALLEST else 0.0,
        log_likelihood=-float(found.fun),
        participants=problem.P,
        items=problem.I,
        converged=bool(found.success),
        df_participant=df[0],
        df_item=df[1],
    )


def _degrees_of_freedom(
    deviance: Callable[[np.ndarray], float], log_sd: np.ndarray, step: float = 0.05
) -> tuple[float, float]:
    """1 / (2 Var log σ) of each variance, from second differences at the optimum."""
    free = np.flatnonzero(log_sd > np.log(2 * SMALLEST))
    steps = np.eye(2)[free] * step
    curvature = np.empty((len(free), len(free)))
    for a, first in enumerate(steps):
        for b, second in enumerate(steps):
            corners = [
                deviance(log_sd + first + second),
                deviance(log_sd + first - second),
                deviance(log_sd - first + second),
                deviance(log_sd - first - second),
            ]
            curvature[a, b] = (corners[0] - corners[1] - corners[2] + corners[3]) / (4 * step**2)
    df = np.full(2, np.inf)
    if len(free) and np.linalg.eigvalsh(curvature)[0] > 0:
        df[free] = 1 / (2 * np.diag(np.linalg.inv(curvature)))
    return float(df[0]), float(df[1])


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def marginal(beta: np.ndarray | float, sd: float) -> np.ndarray:
    """Probability averaged over a normal spread: E expit(β + sd·z), by Gauss–Hermite, 41 nodes."""
    return expit(np.asarray(beta)[..., None] + sd * _NODES) @ _WEIGHTS


def conditional(probability: float, sd: float) -> float:
    """The β whose `marginal` probability is the given one."""
    return float(optimize.brentq(lambda b: float(marginal(b, sd)) - probability, -60.0, 60.0))
