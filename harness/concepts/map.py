"""A 2-D map of the space, fitted to the base neurons; all others are projected onto it."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from harness.concepts.space import SemanticSpace
from harness.records import NEURON, Checkpoint

#: UMAP compares fewer base neurons than this with all others, one pair in a call of Python, which
#: takes most of its time; their distances are therefore computed here, all at once.
SMALL_BASE = 4096
#: Number of neurons that are mapped at once, which bounds the memory for distances.
NEURONS_AT_ONCE = 4096


def project(space: SemanticSpace, base: Checkpoint, seed: int) -> pd.DataFrame:
    """Fit UMAP (McInnes et al., 2018) to the base neurons and map all other neurons with it.

    Args:
        base: the checkpoint to whose neurons UMAP is fitted.
        seed: seed of UMAP.

    Returns:
        One row per neuron that has a vector: series, epoch, layer, channel, x, y.

    Raises:
        ValueError: fewer than four base neurons have a vector.
    """
    from sklearn.metrics.pairwise import cosine_distances  # it changes the environment

    anchors = space.rows(series=base.series, epoch=base.epoch)
    if len(anchors) < 4:
        raise ValueError(
            f"a map needs at least four neurons of {base} that have a vector, got {len(anchors)}"
        )
    others = np.setdiff1d(space.rows(), anchors)
    base_vectors = _vectors_of(space, anchors)
    is_small = len(anchors) < SMALL_BASE
    mapper = import_umap()(
        n_neighbors=min(15, len(anchors) - 1),  # 15 is the default of UMAP
        metric="precomputed" if is_small else "cosine",
        random_state=seed,
        n_jobs=1,
    )

    def prepare(vectors: Any) -> Any:  # as the metric requires
        return cosine_distances(vectors, base_vectors) if is_small else vectors

    positions = np.full((len(space.neurons), 2), np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*precomputed metric", UserWarning)
        positions[anchors] = mapper.fit_transform(prepare(base_vectors))
        for start in range(0, len(others), NEURONS_AT_ONCE):
            rows = others[start : start + NEURONS_AT_ONCE]
            positions[rows] = mapper.transform(prepare(_vectors_of(space, rows)))
    table = space.neurons[NEURON].assign(x=positions[:, 0], y=positions[:, 1])
    return table[space.has_vector].reset_index(drop=True)


def _vectors_of(space: SemanticSpace, rows: np.ndarray) -> np.ndarray | sparse.csr_matrix:
    """Return vectors in a form that pynndescent takes: array, or sparse with 32-bit indices."""
    vectors = space.vectors[rows]
    if isinstance(vectors, np.ndarray):
        return vectors
    indices, indptr = (part.astype(np.int32) for part in (vectors.indices, vectors.indptr))
    return sparse.csr_matrix((vectors.data, indices, indptr), shape=vectors.shape)


def import_umap() -> Any:
    """Import UMAP when it is first used (this takes seconds) and cache its compiled code on disk.

    Compilation takes several times as long as the map of a small run. UMAP itself does not enable
    the cache; pynndescent, which it uses, does.
    """
    from numba.core.dispatcher import Dispatcher

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # it warns if TensorFlow is not installed
        from umap import UMAP, layouts, umap_

    for function in {**vars(umap_), **vars(layouts)}.values():
        if isinstance(function, Dispatcher):
            function.enable_caching()
    return UMAP
