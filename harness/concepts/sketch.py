"""Sparse random projections of long vectors that preserve inner products, with their error.

Each entry is added, with a random sign, to one of d buckets (the count sketch; Charikar et al.,
2002). The inner product of two sketches estimates that of the vectors without bias; its standard
deviation is at most sqrt(2 / d) times the product of their lengths.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import sparse

from harness.concepts.space import unit_rows
from harness.randomness import generator

#: Function of rows that returns their vectors, float [rows, length].
Vectors = Callable[[np.ndarray], np.ndarray]

#: Largest size in bytes of a block of rows in double precision.
BLOCK_BYTES = 2**25
#: Number of rows on whose pairs the error is measured.
ERROR_ROWS = 32


def row_blocks(rows: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Divide rows into blocks of nearly equal size and bounded memory.

    Args:
        rows: int [n].
        length: number of entries per row.
    """
    block_rows = max(1, min(1024, BLOCK_BYTES // (8 * max(length, 1))))
    yield from np.array_split(rows, max(1, -(-len(rows) // block_rows)))


def projection(length: int, dimension: int, seed: int) -> sparse.csr_array:
    """Return the random projection, float32 [length, dimension]: one entry per row, 1 or −1."""
    rng = generator(seed, "sketch", length, dimension)
    signs = rng.choice(np.array([-1, 1], dtype=np.float32), length)
    buckets = rng.integers(0, dimension, length)
    return sparse.csr_array((signs, (np.arange(length), buckets)), shape=(length, dimension))


def sketch_vectors(
    vectors: Vectors, rows: np.ndarray, length: int, dimension: int, seed: int
) -> tuple[Vectors, float]:
    """Wrap a function of rows so that it returns sketches of their vectors, and measure the error.

    Args:
        vectors: function of rows that returns float [rows, length].
        rows: int [n], all rows.
        length: number of entries per row.
        dimension: d, length of a sketch.
        seed: seed of the projection.

    Returns:
        A function of rows that returns float [rows, d]; and the root mean square error of the
        cosines between ERROR_ROWS evenly spaced rows.
    """
    transposed = sparse.csr_array(projection(length, dimension, seed).T)

    def sketch_rows(rows: np.ndarray) -> np.ndarray:
        return (transposed @ vectors(rows).T).T

    sample = rows[np.linspace(0, len(rows) - 1, min(ERROR_ROWS, len(rows))).astype(int)]
    pairs = np.triu_indices(len(sample), 1)
    exact, rough = (_cosines(stack_rows(f, sample, length))[pairs] for f in (vectors, sketch_rows))
    return sketch_rows, float(np.sqrt(np.mean((exact - rough) ** 2))) if len(exact) else 0.0


def stack_rows(vectors: Vectors, rows: np.ndarray, length: int) -> np.ndarray:
    """Return the vectors of all rows, computed in blocks of bounded memory."""
    return np.concatenate([vectors(block) for block in row_blocks(rows, length)])


def _cosines(vectors: np.ndarray) -> np.ndarray:
    unit = unit_rows(vectors)
    return unit @ unit.T
