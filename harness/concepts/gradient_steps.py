"""The gradient steps of skip-gram, compiled."""

import numpy as np
from numba import njit

#: Number of pairs whose vectors are read before the first of them is used, so that the processor
#: waits for memory only once; results do not depend on it.
READ_AHEAD = 4


@njit(cache=True)
def ascend(
    vectors: np.ndarray,
    pairs: np.ndarray,
    negatives: np.ndarray,
    rate: float,
    frozen: np.ndarray,
    full: bool,
) -> float:
    """Take one gradient step on the objective of each pair in turn, in place.

    With `full`, all vectors in the objective are updated, otherwise only the two of the pair. The
    gradients of a pair are computed before any of its vectors is changed.

    Returns:
        The sum of what was read ahead; without it, the compiler would leave these reads out.
    """
    dimension = vectors.shape[1]
    count = negatives.shape[2]
    items = np.empty(2 + 2 * count, dtype=np.int64)
    gradient = np.empty((2 + 2 * count, dimension))
    sum_read = 0.0
    for p in range(len(pairs)):
        if p % READ_AHEAD == 0:
            for block in (pairs[p : p + READ_AHEAD].ravel(), negatives[p : p + READ_AHEAD].ravel()):
                for row in block:
                    for d in range(0, dimension, 8):  # one number of each line of the cache
                        sum_read += vectors[row, d]
        items[0], items[1] = pairs[p, 0], pairs[p, 1]
        gradient[:] = 0.0
        first, second = vectors[items[0]], vectors[items[1]]
        attraction = 1.0 / (1.0 + np.exp(np.dot(first, second)))
        for d in range(dimension):
            gradient[0, d] = attraction * second[d]
            gradient[1, d] = attraction * first[d]
        for side in range(2):
            own = vectors[items[side]]
            for r in range(count):
                slot = 2 + side * count + r
                items[slot] = negatives[p, side, r]
                other = vectors[items[slot]]
                repulsion = 1.0 / (1.0 + np.exp(-np.dot(own, other)))
                for d in range(dimension):
                    gradient[side, d] -= repulsion * other[d]
                    gradient[slot, d] = -repulsion * own[d]
        for slot in range(2 + 2 * count if full else 2):
            row = items[slot]
            if not frozen[row]:
                for d in range(dimension):
                    vectors[row, d] += rate * gradient[slot, d]
    return sum_read
