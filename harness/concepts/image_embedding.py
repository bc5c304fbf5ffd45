"""Image vectors whose mean over a base neuron's stimuli equals the neuron's vector."""

from __future__ import annotations

import numpy as np
import scipy.sparse.linalg  # noqa: F401 - makes `sparse.linalg` available
from scipy import sparse

#: Errors of summation relative to the sizes of the summands, generously.
ROUNDING = 64 * np.finfo(np.float64).eps


def mean_over_stimuli(incidence: sparse.csr_array) -> sparse.csr_array:
    """Scale the rows of a 0/1 matrix [neurons, images] to sum to one; neurons without stimuli
    stay zero."""
    counts = np.asarray(incidence.sum(axis=1), dtype=float).ravel()
    scale = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)
    return sparse.csr_array(sparse.diags_array(scale) @ incidence.astype(float))


def solve_image_vectors(
    incidence: sparse.csr_array,
    neuron_vectors: np.ndarray,
    tolerance: float = 1e-10,
    max_steps: int | None = None,
) -> np.ndarray:
    """Compute the minimum-norm solution of METHOD step 2,

        min over v_x of  sum_n || v_n - (1/|X_n|) sum_{x in X_n} v_x ||^2.

    Conjugate gradients on the normal equations (CGLS), all dimensions at once and each with its
    own step length. Started from nought, the iterates stay in the row space, so the limit is the
    minimum-norm solution, also where neurons contradict each other.

    Args:
        incidence: 0/1 [neurons, images], which image stimulates which neuron.
        neuron_vectors: float [neurons, dimension].
        tolerance: stop when the gradient has shrunk by this factor in every dimension.
        max_steps: give up after so many steps; 10 x the number of neurons + 100 by default.

    Returns:
        float64 [images, dimension]; images that stimulate no neuron have 0.

    Raises:
        ArithmeticError: not converged after `max_steps`.
    """
    everything, used = incidence.shape[1], np.unique(incidence.indices)
    incidence = sparse.csr_array(incidence[:, used])  # an image of no neuron stays 0
    means = mean_over_stimuli(incidence)
    transposed = sparse.csr_array(means.T)
    solution = np.zeros((means.shape[1], neuron_vectors.shape[1]))
    residual = np.array(neuron_vectors, dtype=np.float64)
    gradient = transposed @ residual
    direction = gradient.copy()
    size = (gradient**2).sum(axis=0)
    # What is left of a dimension that no image can explain is rounding, at most this large; to
    # shrink that further would be to fit noise.
    length = np.linalg.norm(neuron_vectors, axis=0) * sparse.linalg.norm(means)
    goal = np.maximum(tolerance**2 * size, (ROUNDING * length) ** 2)
    for _ in range(max_steps or 10 * means.shape[0] + 100):
        if (size <= goal).all():
            vectors = np.zeros((everything, solution.shape[1]))
            vectors[used] = solution
            return vectors
        ahead = means @ direction
        curvature = (ahead**2).sum(axis=0)
        active = (size > goal) & (curvature > 0)
        step = np.divide(size, curvature, out=np.zeros_like(size), where=active)
        solution += step * direction
        residual -= step * ahead
        gradient = transposed @ residual
        new_size = (gradient**2).sum(axis=0)
        turn = np.divide(new_size, size, out=np.zeros_like(size), where=active)
        direction = np.where(active, gradient + turn * direction, 0.0)
        size = np.where(active, new_size, size * (size <= goal))
    raise ArithmeticError(
        f"image vectors did not converge to tolerance={tolerance}; raise it or max_steps"
    )
