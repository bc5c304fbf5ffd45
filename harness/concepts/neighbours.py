"""Exact nearest neighbours of neurons, computed in blocks of bounded memory.

Ties are broken by the order of the candidates, so results do not depend on the blocks.
"""

import numpy as np
from scipy import sparse

#: Largest size in bytes of a block of similarities; at least BLOCK_ROWS rows, for speed.
BLOCK_BYTES = 2**22
BLOCK_ROWS = 32


def nearest_by_cosine(
    queries: np.ndarray, candidates: np.ndarray, own: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k candidates with the largest dot product for each query, exactly.

    Args:
        queries: float [q, dimension]; rows have length one, are zero, or are NaN (no vector).
        candidates: float [c, dimension], likewise; rows of NaN are never neighbours.
        own: int [q], index of the query itself among the candidates, which is left out; -1 if none.
        k: number of neighbours.

    Returns:
        Indices of candidates, int [q, k], most similar first, -1 where there are fewer than k; and
        similarities, float [q, k], NaN there.
    """
    shape = len(queries), k
    columns, similarities = np.full(shape, -1), np.full(shape, np.nan)
    step = max(BLOCK_ROWS, BLOCK_BYTES // (8 * max(len(candidates), 1)))
    has_no_vector = np.isnan(candidates).any(axis=1)
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        block = queries[rows] @ candidates.T
        with_own = np.flatnonzero(own[rows] >= 0)
        block[with_own, own[rows][with_own]] = -np.inf
        block[:, has_no_vector] = -np.inf
        block[np.isnan(queries[rows]).any(axis=1)] = -np.inf
        order = largest_columns(block, k)
        best = np.take_along_axis(block, order, axis=1)
        columns[rows, : order.shape[1]] = np.where(np.isneginf(best), -1, order)
        similarities[rows, : order.shape[1]] = np.where(np.isneginf(best), np.nan, best)
    return columns, similarities


def largest_columns(values: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the k largest values of each row, largest first; ties by column.

    Args:
        values: float [rows, columns], without NaN.
        k: number of values; if there are fewer columns, all are returned.

    Returns:
        int [rows, min(k, columns)].
    """
    count = min(k, values.shape[1])
    if count == 0:
        return np.empty((len(values), 0), dtype=int)
    # The k-th largest of the maxima of disjoint sets of columns is at most the k-th largest value.
    sets = max(256, 8 * count)
    folds = values.shape[1] // sets
    maxima = values
    if folds > 1:
        maxima = values[:, : folds * sets].reshape(len(values), folds, sets).max(axis=1)
    bounds = np.partition(maxima, -count, axis=1)[:, -count, None]
    rows, columns = np.divmod(np.flatnonzero(values >= bounds), values.shape[1])
    order = np.lexsort((columns, -values[rows, columns], rows))
    starts = np.searchsorted(rows, np.arange(len(values)))
    return columns[order][starts[:, None] + np.arange(count)]


def nearest_by_overlap(
    queries: sparse.csr_array, candidates: sparse.csr_array, own: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k candidates with the largest Jaccard similarity for each query, exactly.

    Similarities are computed only for candidates that share an item with the query.

    Args:
        queries, candidates: 0/1 [q, items] and [c, items].
        own, k: as in `nearest_by_cosine`, also the returned values.
    """
    shape = len(own), k
    columns, similarities = np.full(shape, -1), np.full(shape, np.nan)
    sizes = candidates.sum(axis=1)
    step = 1024
    for start in range(0, len(own), step):
        block = queries[start : start + step]
        # the double transposition orders each row by column, which the stable sort below preserves
        shared = sparse.csr_array((candidates @ sparse.csr_array(block.T)).T)
        rows = np.repeat(np.arange(block.shape[0]), np.diff(shared.indptr))
        union = block.sum(axis=1)[rows] + sizes[shared.indices] - shared.data
        all_values = shared.data / union
        all_values[shared.indices == own[start + rows]] = -1.0  # the query itself is last
        for row in range(block.shape[0]):
            span = slice(shared.indptr[row], shared.indptr[row + 1])
            neighbours, values = shared.indices[span], all_values[span]
            order = np.argsort(-values, kind="stable")[:k]
            order = order[values[order] >= 0]
            nearest = neighbours[order]
            if len(nearest) < k:  # candidates that share no item, by column
                first = np.arange(min(len(sizes), k + len(neighbours) + 1))
                fillers = first[~np.isin(first, neighbours) & (first != own[start + row])]
                nearest = np.concatenate([nearest, fillers[: k - len(nearest)]])
            columns[start + row, : len(nearest)] = nearest
            similarities[start + row, : len(nearest)] = 0.0
            similarities[start + row, : len(order)] = values[order]
    return columns, similarities
