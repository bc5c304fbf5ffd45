"""Image vectors whose means over the stimuli of base neurons approximate the neurons' vectors."""

from __future__ import annotations

import numpy as np
import scipy.sparse.linalg  # noqa: F401 - makes `sparse.linalg` available
from scipy import sparse

#: Upper bound of the rounding error of a sum, relative to the size of its terms.
ROUNDING = 64 * np.finfo(np.float64).eps


def mean_over_stimuli(incidence: sparse.csr_array) -> sparse.csr_array:
    """Divide each row of a 0/1 matrix [neurons, images] by its sum; rows of zeros remain zero."""
    counts = np.asarray(incidence.sum(axis=1), dtype=float).ravel()
    scale = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)
    return sparse.csr_array(sparse.diags_array(scale) @ incidence.astype(float))


def solve_image_vectors(
    incidence: sparse.csr_array,
    neuron_vectors: np.ndarray,
    tolerance: float = 1e-10,
    max_steps: int | None = None,
) -> np.ndarray:
    """Compute the image vectors v_x of smallest norm that minimise

        min sum_n || v_n - (1/|X_n|) sum_{x in X_n} v_x ||^2,

    where v_n is the vector of base neuron n and X_n the set of its stimuli (Park et al., 2023).

    The method is conjugate gradients on the normal equations (CGLS), for all dimensions at once,
    each with its own step length. The iterates start from zero and therefore stay in the row space,
    so the limit is the minimum-norm solution, even if no vectors reproduce all neurons exactly.

    Args:
        incidence: 0/1 [neurons, images]; 1 if the image is a stimulus of the neuron.
        neuron_vectors: float [neurons, dimension].
        tolerance: stop when the norm of the gradient has shrunk by this factor in every dimension.
        max_steps: largest number of steps; default: 10 x the number of neurons + 100.

    Returns:
        float64 [images, dimension]; 0 for images that are stimuli of no neuron.

    Raises:
        ArithmeticError: the solution has not converged after `max_steps` steps.
    """
    image_count, used_images = incidence.shape[1], np.unique(incidence.indices)
    incidence = sparse.csr_array(incidence[:, used_images])  # all other images keep 0
    means = mean_over_stimuli(incidence)
    transposed = sparse.csr_array(means.T)
    solution = np.zeros((means.shape[1], neuron_vectors.shape[1]))
    residual = np.array(neuron_vectors, dtype=np.float64)
    gradient = transposed @ residual
    direction = gradient.copy()
    squared_norm = (gradient**2).sum(axis=0)
    # Where the exact gradient is zero, rounding errors of at most this size remain; reducing them
    # further would fit noise.
    scale = np.linalg.norm(neuron_vectors, axis=0) * sparse.linalg.norm(means)
    limit = np.maximum(tolerance**2 * squared_norm, (ROUNDING * scale) ** 2)
    for _ in range(10 * means.shape[0] + 100 if max_steps is None else max_steps):
        if (squared_norm <= limit).all():
            vectors = np.zeros((image_count, solution.shape[1]))
            vectors[used_images] = solution
            return vectors
        projected = means @ direction
        curvature = (projected**2).sum(axis=0)
        active = (squared_norm > limit) & (curvature > 0)
        step = np.divide(squared_norm, curvature, out=np.zeros_like(squared_norm), where=active)
        solution += step * direction
        residual -= step * projected
        gradient = transposed @ residual
        new_norm = (gradient**2).sum(axis=0)
        ratio = np.divide(new_norm, squared_norm, out=np.zeros_like(squared_norm), where=active)
        direction = np.where(active, gradient + ratio * direction, 0.0)
        squared_norm = np.where(active, new_norm, squared_norm * (squared_norm <= limit))
    raise ArithmeticError(
        f"image vectors did not converge to tolerance={tolerance}; increase it or max_steps"
    )
