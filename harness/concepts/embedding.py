"""Embeddings of items that occur together: skip-gram with negative sampling, and PPMI factors.

To embed base neurons (ConceptEvo, section 3.1), items are these neurons, and a group is the set of
neurons that have one image among their stimuli. To embed images that are stimuli of no base neuron,
the same objective is used with images as items.

An image's vector is one of those whose means over the stimuli of base neurons approximate the
neurons' vectors best.

The published code updates only the two items of a pair; the gradient of the objective stated in the
paper also updates the negatives. Both are implemented (`full`).
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg  # noqa: F401 - makes `sparse.linalg` available
from scipy import sparse

#: Upper bound of the rounding error of a sum, relative to the size of its terms.
ROUNDING = 64 * np.finfo(np.float64).eps
#: Vectors of images have converged when the norm of the gradient has shrunk by this factor.
TOLERANCE = 1e-10
#: Number of pairs whose negatives are drawn at once; results do not depend on it.
PAIRS_AT_ONCE = 2**18
#: Number of neurons above which co-activation is factorised as a sparse matrix.
DENSE_NEURONS = 1000
#: Number of neurons whose pairs are counted at once; results do not depend on it.
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class SkipGram:
    """Parameters of skip-gram.

    Attributes:
        epochs: number of passes over the groups.
        negatives: R, number of negatives per item of a pair.
        rate: learning rate.
        full: if True, an update also moves the negatives, as the gradient of the objective does;
            otherwise only the pair, as in the published code.
    """

    epochs: int = 30
    negatives: int = 3
    rate: float = 0.05
    full: bool = True


def skip_gram(
    groups: sparse.csr_array,
    vectors: np.ndarray,
    rng: np.random.Generator,
    parameters: SkipGram = SkipGram(),
    frozen: np.ndarray | None = None,
) -> np.ndarray:
    """Maximise, over pairs (n, m) of items of a group and uniformly drawn negatives r,

        log s(v_n.v_m) + sum_r log s(-v_n.v_r) + sum_r log s(-v_m.v_r),

    where s is the logistic function. In each epoch, the items of every group are shuffled, and
    consecutive items form the pairs. The method is stochastic gradient ascent, one pair at a time.

    Args:
        groups: [groups, items]; nonzero if the item belongs to the group.
        vectors: float [items, dimension], the initial vectors; not modified.
        rng: source of all randomness.
        parameters: see SkipGram.
        frozen: bool [items], items whose vectors do not change; pairs of two such items are
            skipped.

    Returns:
        float64 [items, dimension].
    """
    from harness.concepts.gradient_steps import ascend  # the compiler takes time to load

    vectors = np.array(vectors, dtype=np.float64)
    is_frozen = np.zeros(len(vectors), dtype=bool) if frozen is None else frozen
    for _ in range(parameters.epochs):
        pairs = consecutive_pairs(groups, rng)
        pairs = pairs[~(is_frozen[pairs[:, 0]] & is_frozen[pairs[:, 1]])]
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            chunk = pairs[start : start + PAIRS_AT_ONCE]
            negatives = rng.integers(0, len(vectors), (len(chunk), 2, parameters.negatives))
            ascend(vectors, chunk, negatives, parameters.rate, is_frozen, parameters.full)
    return vectors


def consecutive_pairs(groups: sparse.csr_array, rng: np.random.Generator) -> np.ndarray:
    """Shuffle each group's items and pair consecutive ones: int64 [pairs, 2] in random order."""
    count = groups.nnz
    index_type = sparse.get_index_dtype(maxval=max(count, *groups.shape))
    group = np.repeat(np.arange(groups.shape[0], dtype=index_type), np.diff(groups.indptr))
    order = np.argsort(rng.random(count), kind="stable")
    # Each column has one entry, and the conversion sorts by row in linear time, keeping the order.
    items = groups.indices.astype(index_type)[order]
    columns = (items, group[order], np.arange(count + 1, dtype=index_type))
    items = sparse.csc_array(columns, shape=(groups.shape[0], count)).tocsr().data
    same_group = group[:-1] == group[1:]
    pairs = np.stack([items[:-1][same_group], items[1:][same_group]], axis=1)
    return pairs.take(rng.permutation(len(pairs)), axis=0).astype(np.int64)


def ppmi_factors(incidence: sparse.csr_array, dimension: int) -> np.ndarray:
    """Factorise the positive pointwise mutual information of co-activation (Levy and Goldberg,
    2014).

    Args:
        incidence: 0/1 [neurons, images]; 1 if the image is a stimulus of the neuron.
        dimension: d; if there are fewer neurons, the remaining columns are 0.

    Returns:
        U_d sqrt(S_d) of the singular value decomposition: float64 [neurons, dimension].
    """
    neurons = incidence.shape[0]
    if neurons > max(DENSE_NEURONS, dimension):
        values, vectors = _sparse_eigenvectors(incidence, dimension)
    else:
        values, vectors = _eigenvectors(incidence)
    order = np.argsort(-np.abs(values), kind="stable")[:dimension]
    factors = np.zeros((neurons, dimension))
    factors[:, : len(order)] = vectors[:, order] * np.sqrt(np.abs(values[order]))
    # The sign of a singular vector is arbitrary; it is fixed, so that all machines agree.
    peaks = factors[np.abs(factors).argmax(axis=0), np.arange(dimension)]
    return factors * np.where(peaks < 0, -1.0, 1.0)


def _eigenvectors(incidence: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Decompose the PPMI matrix, computed in place because it is the largest array in memory."""
    matrix = np.asarray((incidence @ incidence.T).todense(), dtype=float)
    np.fill_diagonal(matrix, 0.0)
    sums = matrix.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        matrix /= np.outer(sums, sums) / max(sums.sum(), 1.0)
        np.log(matrix, out=matrix)
    return np.linalg.eigh(np.fmax(matrix, 0.0, out=matrix))  # NaN (0 / 0) -> 0


def _sparse_eigenvectors(
    incidence: sparse.csr_array, dimension: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the largest eigenvalues and their eigenvectors by Lanczos' method (sparse matrix)."""
    transposed = sparse.csr_array(incidence.T)
    # how many stimuli neurons share with all others, but themselves
    marginals = (incidence @ transposed.sum(axis=1) - incidence.sum(axis=1)).astype(float)

    def information(start: int) -> sparse.csr_array:
        block = incidence[start : start + ROWS_AT_ONCE]
        counts = sparse.coo_array(block @ transposed)
        pairs = counts.row + start != counts.col
        row, column, joint = counts.row[pairs], counts.col[pairs], counts.data[pairs].astype(float)
        values = np.log(joint * marginals.sum() / (marginals[row + start] * marginals[column]))
        positive = values > 0
        entries = values[positive], (row[positive], column[positive])
        return sparse.csr_array(entries, shape=counts.shape)

    # by blocks, as most of the pairs have no positive information
    starts = range(0, incidence.shape[0], ROWS_AT_ONCE)
    matrix = sparse.vstack([information(start) for start in starts], format="csr")
    start = np.full(matrix.shape[0], matrix.shape[0] ** -0.5)
    return sparse.linalg.eigsh(matrix, k=dimension, which="LM", v0=start)


def mean_over_stimuli(incidence: sparse.csr_array) -> sparse.csr_array:
    """Divide each row of a 0/1 matrix [neurons, images] by its sum; rows of zeros remain zero."""
    counts = np.asarray(incidence.sum(axis=1), dtype=float).ravel()
    scale = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)
    return sparse.csr_array(sparse.diags_array(scale) @ incidence.astype(float))


def solve_image_vectors(incidence: sparse.csr_array, neuron_vectors: np.ndarray) -> np.ndarray:
    """Compute the image vectors v_x of smallest norm that minimise

        min sum_n || v_n - (1/|X_n|) sum_{x in X_n} v_x ||^2,

    where v_n is the vector of base neuron n and X_n the set of its stimuli (Park et al., 2023).

    The method is conjugate gradients on the normal equations (CGLS), for all dimensions at once,
    each with its own step length. The iterates start from zero and therefore stay in the row space,
    so the limit is the minimum-norm solution, even if no vectors reproduce all neurons exactly.

    Args:
        incidence: 0/1 [neurons, images]; 1 if the image is a stimulus of the neuron.
        neuron_vectors: float [neurons, dimension].

    Returns:
        float64 [images, dimension]; 0 for images that are stimuli of no neuron.

    Raises:
        ValueError: the solution has not converged after 10 x the number of neurons + 100 steps.
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
    limit = np.maximum(TOLERANCE**2 * squared_norm, (ROUNDING * scale) ** 2)
    for _ in range(10 * means.shape[0] + 100):
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
    raise ValueError(
        "the vectors of the probe images, from which sgns and ppmi compute those of neurons, did "
        "not converge: choose other space.methods, or another probe.k"
    )
