"""A 2-D map of the space, fitted on the base neurons and applied to all others unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from harness.concepts.space import SemanticSpace
from harness.records import NEURON, Checkpoint


def project(
    space: SemanticSpace, base: Checkpoint, seed: int, neighbours: int = 15
) -> pd.DataFrame:
    """Fit UMAP (McInnes et al., 2018) on the base neurons and map the others with it (METHOD
    step 5).

    Returns:
        series, epoch, layer, channel, x, y for every placed neuron.

    Raises:
        ValueError: the base has fewer than four placed neurons.
    """
    spanning = space.rows(series=base.series, epoch=base.epoch)
    if len(spanning) < 4:
        raise ValueError(f"a map needs four placed neurons of {base}, got {len(spanning)}")
    others = np.setdiff1d(space.rows(), spanning)
    mapper = umap()(
        n_neighbors=min(neighbours, len(spanning) - 1), metric="cosine", random_state=seed, n_jobs=1
    )
    places = np.full((len(space.neurons), 2), np.nan)
    vectors = space.vectors if isinstance(space.vectors, np.ndarray) else space.vectors.toarray()
    places[spanning] = mapper.fit_transform(vectors[spanning])
    if len(others):
        places[others] = mapper.transform(vectors[others])
    table = space.neurons[NEURON].assign(x=places[:, 0], y=places[:, 1])
    return table[space.placed].reset_index(drop=True)


def umap() -> Any:
    """Import UMAP when it is first used (its import takes seconds), with numba's compiled code
    cached on disk.

    Compilation takes several times as long as the map of a small run. UMAP itself asks for no
    cache, whereas pynndescent, which it uses, does.
    """
    from numba.core.dispatcher import Dispatcher
    from umap import UMAP, layouts, umap_

    for function in {**vars(umap_), **vars(layouts)}.values():
        if isinstance(function, Dispatcher):
            function.enable_caching()
    return UMAP
