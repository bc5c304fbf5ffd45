"""A 2-D map of the space, fitted to the base neurons; all others are projected onto it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from harness.concepts.space import SemanticSpace
from harness.records import NEURON, Checkpoint


def project(
    space: SemanticSpace, base: Checkpoint, seed: int, neighbours: int = 15
) -> pd.DataFrame:
    """Fit UMAP (McInnes et al., 2018) to the base neurons and map all other neurons with it.

    Returns:
        One row per neuron that has a vector: series, epoch, layer, channel, x, y.

    Raises:
        ValueError: fewer than four base neurons have a vector.
    """
    anchors = space.rows(series=base.series, epoch=base.epoch)
    if len(anchors) < 4:
        raise ValueError(f"a map needs four placed neurons of {base}, got {len(anchors)}")
    others = np.setdiff1d(space.rows(), anchors)
    mapper = import_umap()(
        n_neighbors=min(neighbours, len(anchors) - 1), metric="cosine", random_state=seed, n_jobs=1
    )
    positions = np.full((len(space.neurons), 2), np.nan)
    vectors = space.vectors if isinstance(space.vectors, np.ndarray) else space.vectors.toarray()
    positions[anchors] = mapper.fit_transform(vectors[anchors])
    if len(others):
        positions[others] = mapper.transform(vectors[others])
    table = space.neurons[NEURON].assign(x=positions[:, 0], y=positions[:, 1])
    return table[space.has_vector].reset_index(drop=True)


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
