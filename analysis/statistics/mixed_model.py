"""Logistic regression with crossed random effects of participant and item, by Laplace's method.

    logit P(y = 1) = x·β + u_participant + v_participant,condition + w_item,
    u ~ N(0, σ_u²),  v ~ N(0, σ_v²),  w ~ N(0, σ_w²)

This is the model of psycholinguistics for responses of many participants to many items (Baayen,
Davidson & Bates 2008; Jaeger 2008). statsmodels fits it only by variational Bayes, whose intervals
are too narrow. v lets the effect of a condition differ between participants: without it, intervals
of contrasts are too narrow if participants respond several times in a condition (Barr, Levy,
Scheepers & Tily 2013). It is a random slope for every condition, uncorrelated and with one
variance.

The integral over u, v and w is Laplace's approximation: the log of the joint density at its mode
minus half the log determinant of its curvature. With `reml` the fixed effects are integrated in the
same way (as by glmmTMB's REML=TRUE), which removes most of the downward bias of σ with ten to
twenty items. The sum u + v of a participant is a vector over the conditions with covariance
σ_u² 11ᵀ + σ_v² I = LL, L symmetric; these small blocks are eliminated first, so that one Newton
step costs O(n + participants·conditions·(items + k)²).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import linalg, optimize
from scipy.special import expit

#: Bounds of a variance on the logit scale; at the lower bound it counts as 0.
SMALLEST, LARGEST = 1e-6, 36.0


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    Attributes:
        beta: fixed effects [k]. covariance: their covariance, given the standard deviations [k, k].
        sd: standard deviations of the random effects on the logit scale: of participants, of
            participants within conditions, of items (σ_u, σ_v, σ_w); 0 if not in the model or at
            the lower bound.
        df: degrees of freedom of these variances, 1 / (2 Var log σ) by the curvature of the
            likelihood (about n − 1 for normal data); infinite if σ is 0.
        log_likelihood: Laplace's (restricted) log likelihood.
        converged: whether the optimisation of the standard deviations converged.
        estimated: which standard deviations are in the model.
    """

    beta: np.ndarray
    covariance: np.ndarray
    sd: np.ndarray
    df: np.ndarray
    log_likelihood: float
    converged: bool
    estimated: tuple[bool, bool, bool] = (True, True, True)

    @property
    def note(self) -> str:
        """A warning if a variance is at its bound or the fit did not converge; "" otherwise."""
        effects = np.array(["participants", "participants within conditions", "trials"])
        absent = effects[np.array(self.estimated) & (self.sd == 0)]
        largest = effects[self.sd**2 > 0.99 * LARGEST]
        notes = []
        if len(absent):
            notes.append(f"singular fit: variance of {', '.join(absent)} estimated as 0")
        if len(largest):
            notes.append(f"variance of {', '.join(largest)} at its upper bound of {LARGEST:g}")
        if not self.converged:
            notes.append("the fit did not converge")
        return "; ".join(notes)


class _Problem:
    """The data and the current mode, at which the next evaluation starts (which halves the time).

    The mode consists of the standardised effects of participants in conditions [P·C] and of items
    [I], and the fixed effects [k].
    """

    def __init__(
        self,
        y: np.ndarray,
        x: np.ndarray,
        participant: np.ndarray,
        item: np.ndarray,
        condition: np.ndarray,
    ) -> None:
        self.y, self.x, self.i = y, x, item
        self.P, self.I, self.C, self.k = (
            int(participant.max()) + 1, int(item.max()) + 1, int(condition.max()) + 1, x.shape[1],
        )  # fmt: skip
        self.own = participant * self.C + condition  # code of a participant in a condition
        self.heads = self.P * self.C
        self.mode = np.zeros(self.heads + self.I + self.k)

    def _root(self, sd: np.ndarray) -> np.ndarray:
        """Return L, the symmetric root of σ_u² 11ᵀ + σ_v² I: [C, C]."""
        common = (np.hypot(np.sqrt(self.C) * sd[0], sd[1]) - sd[1]) / self.C
        return common + sd[1] * np.eye(self.C)

    def _eta(self, mode: np.ndarray, sd: np.ndarray) -> np.ndarray:
        a, b, beta = np.split(mode, [self.heads, self.heads + self.I])
        own = (a.reshape(self.P, self.C) @ self._root(sd)).ravel()
        return own[self.own] + sd[2] * b[self.i] + self.x @ beta

    def _joint(self, mode: np.ndarray, sd: np.ndarray) -> float:
        """Return the log density of responses and standardised effects, without constants."""
        eta = self._eta(mode, sd)
        random = mode[: self.heads + self.I]
        return float(np.sum(self.y * eta - np.logaddexp(0, eta)) - 0.5 * random @ random)

    def _blocks(self, sd: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the gradient and the negative Hessian at the mode, in parts: participants' blocks
        [P, C, C], their border [P, C, I + k], and the rest [I + k, I + k]."""
        probability = expit(self._eta(self.mode, sd))
        residual = self.y - probability
        weight = probability * (1 - probability)
        P, I, C, k = self.P, self.I, self.C, self.k  # noqa: E741
        root = self._root(sd)

        def by_own(values: np.ndarray) -> np.ndarray:
            return np.bincount(self.own, values, P * C).reshape(P, C)

        gradient = -self.mode
        gradient[: self.heads] += (by_own(residual) @ root).ravel()
        gradient[self.heads : self.heads + I] += sd[2] * np.bincount(self.i, residual, I)
        gradient[self.heads + I :] = self.x.T @ residual

        weighted = self.x * weight[:, None]
        cells = np.bincount(self.own * I + self.i, weight, P * C * I).reshape(P, C, I)
        blocks = np.eye(C) + root @ (by_own(weight)[:, :, None] * root)
        border = np.empty((P, C, I + k))
        border[:, :, :I] = sd[2] * cells
        border[:, :, I:] = np.stack([by_own(column) for column in weighted.T], axis=2)
        rest = np.zeros((I + k, I + k))
        rest[np.arange(I), np.arange(I)] = 1 + sd[2] ** 2 * np.bincount(self.i, weight, I)
        rest[:I, I:] = sd[2] * np.stack([np.bincount(self.i, c, I) for c in weighted.T], axis=1)
        rest[I:, :I] = rest[:I, I:].T
        rest[I:, I:] = self.x.T @ weighted
        return gradient, blocks, root @ border, rest

    def solve(
        self, sd: np.ndarray, beta: np.ndarray | None = None
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Find the mode by Newton's method; only that of the random effects if `beta` is given.

        Returns:
            joint log density, blocks of participants [P, C, C], Schur complement of the rest.
        """
        if beta is not None:
            self.mode[self.heads + self.I :] = beta
        value = self._joint(self.mode, sd)
        for _ in range(100):
            gradient, blocks, border, rest = self._blocks(sd)
            if beta is not None:  # the fixed effects are kept constant
                gradient[self.heads + self.I :] = 0
                border = border[:, :, : self.I]
                rest = rest[: self.I, : self.I]
            head = gradient[: self.heads].reshape(self.P, self.C, 1)
            tail = gradient[self.heads : self.heads + len(rest)]
            solved = np.linalg.solve(blocks, np.concatenate([border, head], axis=2))
            flat = border.reshape(self.heads, -1)
            inner = flat.T @ solved.reshape(self.heads, -1)
            step_tail = linalg.solve(rest - inner[:, :-1], tail - inner[:, -1], assume_a="pos")
            step = np.zeros_like(self.mode)
            step[: self.heads] = (solved[:, :, -1] - solved[:, :, :-1] @ step_tail).ravel()
            step[self.heads : self.heads + len(rest)] = step_tail
            # Steps are limited, because weights p(1 − p) become 0 far from the mode.
            size = 3.0 / max(3.0, np.abs(step).max())
            while (new := self._joint(self.mode + size * step, sd)) < value - 1e-9 and size > 1e-6:
                size /= 2
            self.mode = self.mode + size * step
            value = new
            if gradient @ step < 1e-10:  # twice the remaining gain (squared Newton decrement)
                break
        _, blocks, border, rest = self._blocks(sd)
        flat, solved = border.reshape(self.heads, -1), np.linalg.solve(blocks, border)
        return value, blocks, rest - flat.T @ solved.reshape(self.heads, -1)

    def laplace(self, sd: np.ndarray, beta: np.ndarray) -> float:
        """Return Laplace's log likelihood at given parameters (minus half of lme4's deviance)."""
        value, blocks, schur = self.solve(sd, beta)
        return value - 0.5 * _log_determinants(blocks, schur[: self.I, : self.I])

    def refine(self, sd: np.ndarray, beta: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """Maximise the `laplace` likelihood over β by scoring steps, starting at the joint mode.

        The joint mode is biased towards zero, because the curvature also depends on β.
        """
        width = 0.05 * np.sqrt(np.diag(covariance))
        for _ in range(20):
            slope = np.empty_like(beta)
            for j, h in enumerate(width):
                shift = np.zeros_like(beta)
                shift[j] = h
                above, below = self.laplace(sd, beta + shift), self.laplace(sd, beta - shift)
                slope[j] = (above - below) / (2 * h)
            step = covariance @ slope
            beta = beta + step
            if np.abs(step / np.sqrt(np.diag(covariance))).max() < 1e-3:
                break
        return beta


def _log_determinants(blocks: np.ndarray, schur: np.ndarray) -> float:
    return float(np.linalg.slogdet(blocks)[1].sum() + np.linalg.slogdet(schur)[1])


def fit(
    y: np.ndarray,
    x: np.ndarray,
    participant: np.ndarray,
    item: np.ndarray,
    condition: np.ndarray | None = None,
    reml: bool = True,
) -> Fit:
    """Fit the model.

    Args:
        y: responses, 0 or 1: [n]. x: design matrix of the fixed effects, full column rank: [n, k].
        participant, item: codes from 0, without gaps: int [n].
        condition: codes of the conditions whose effects differ between participants: int [n]. σ_v
            is left out if it is None, or if σ_v cannot be estimated (`is_separable`).
        reml: integrate the fixed effects too; otherwise they are maximised jointly with the random
            effects, and only these are integrated (as by lme4's glmer with nAGQ = 0).

    Raises:
        ValueError: columns of `x` are linearly dependent, or a level of a factor in `x` has only
            correct or only incorrect responses, so that its effect is infinite.
    """
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError("the fixed effects depend linearly on one another; drop a column")
    for column in x.T:
        level = y[column == 1]
        if set(np.unique(column)) <= {0.0, 1.0} and len(level) and len(set(level)) == 1:
            raise ValueError(
                "a condition has only right or only wrong answers; the model has no estimate there"
            )
    conditions = np.zeros_like(participant) if condition is None else condition
    problem = _Problem(y.astype(float), x.astype(float), participant, item, conditions)
    estimated = np.array([True, is_separable(participant, conditions), True])

    def sds(variances: np.ndarray) -> np.ndarray:
        sd = np.zeros(3)
        sd[estimated] = np.sqrt(variances)
        return sd

    def deviance(variances: np.ndarray) -> float:
        value, blocks, schur = problem.solve(sds(variances))
        inner = schur if reml else schur[: problem.I, : problem.I]
        return -value + 0.5 * _log_determinants(blocks, inner)

    optimum = optimize.minimize(
        deviance,
        np.array([0.3, 0.1, 0.3])[estimated],
        method="L-BFGS-B",
        bounds=[(SMALLEST, LARGEST)] * int(estimated.sum()),
        options={"ftol": 1e-9, "gtol": 1e-4, "eps": 1e-4},
    )
    df = np.full(3, np.inf)
    df[estimated] = _degrees_of_freedom(deviance, optimum.x)
    sd = sds(optimum.x)
    _, _, schur = problem.solve(sd)
    covariance = linalg.inv(schur)[problem.I :, problem.I :]
    mode = problem.mode[problem.heads + problem.I :].copy()
    return Fit(
        beta=problem.refine(sd, mode, covariance),
        covariance=covariance,
        sd=np.where(sd**2 > 2 * SMALLEST, sd, 0.0),
        df=df,
        log_likelihood=-float(optimum.fun),
        converged=bool(optimum.success),
        estimated=(True, bool(estimated[1]), True),
    )


def is_separable(participant: np.ndarray, condition: np.ndarray) -> bool:
    """Return whether σ_v can be separated from σ_u and from the residual: some participant responds
    in several conditions, and some participant more than once in a condition."""
    cell_counts = pd.DataFrame({"p": participant, "c": condition}).value_counts()
    return bool((cell_counts.groupby("p").size() > 1).any() and (cell_counts > 1).any())


def _degrees_of_freedom(
    deviance: Callable[[np.ndarray], float], variances: np.ndarray, step: float = 0.05
) -> np.ndarray:
    """Return 1 / (2 Var log σ) of each variance, from second differences at the optimum; infinite
    for a variance at the lower bound, or if the curvature is not positive."""
    inner = np.flatnonzero(variances > 2 * SMALLEST)
    steps = 2 * step * np.eye(len(variances))[inner]  # of log σ², twice those of log σ
    curvature = np.empty((len(inner), len(inner)))
    for a, first in enumerate(steps):
        for b, second in enumerate(steps[: a + 1]):
            shifts = (first + second, first - second, second - first, -first - second)
            corners = [deviance(variances * np.exp(shift)) for shift in shifts]
            curvature[a, b] = (corners[0] - corners[1] - corners[2] + corners[3]) / (4 * step**2)
            curvature[b, a] = curvature[a, b]
    df = np.full(len(variances), np.inf)
    if len(inner) and np.linalg.eigvalsh(curvature)[0] > 0:
        df[inner] = 1 / (2 * np.diag(np.linalg.inv(curvature)))
    return df


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def marginal_share(beta: np.ndarray | float, sd: float) -> np.ndarray:
    """Return E expit(β + sd·z), z standard normal, by Gauss–Hermite quadrature (41 nodes)."""
    return expit(np.asarray(beta)[..., None] + sd * _NODES) @ _WEIGHTS


def mean_logit(probability: float, sd: float) -> float:
    """Return the β whose `marginal_share` probability equals `probability`."""
    return float(optimize.brentq(lambda b: float(marginal_share(b, sd)) - probability, -60.0, 60.0))
