"""A 2-D map of the space, fitted on the base neurons and applied to all others unchanged."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.concepts.space import SemanticSpace
from harness.records import NEURON, Checkpoint


def project(
    space: SemanticSpace, base: Checkpoint, seed: int, neighbours: int = 15
) -> pd.DataFrame:
    """METHOD step 5: UMAP (McInnes et al., 2018) of the base neurons; the others are placed in it.

    Returns:
        series, epoch, layer, channel, x, y for every placed neuron.

    Raises:
        ValueError: the base has fewer than four placed neurons.
    """
    from umap import UMAP  # imported late: it compiles for seconds

    spanning = space.rows(series=base.series, epoch=base.epoch)
    if len(spanning) < 4:
        raise ValueError(f"a map needs four placed neurons of {base}, got {len(spanning)}")
    others = np.setdiff1d(space.rows(), spanning)
    mapper = UMAP(
        n_neighbors=min(neighbours, len(spanning) - 1), metric="cosine", random_state=seed, n_jobs=1
    )
    places = np.full((len(space.neurons), 2), np.nan)
    vectors = space.vectors if isinstance(space.vectors, np.ndarray) else space.vectors.toarray()
    places[spanning] = mapper.fit_transform(vectors[spanning])
    if len(others):
        places[others] = mapper.transform(vectors[others])
    table = space.neurons[NEURON].assign(x=places[:, 0], y=places[:, 1])
    return table[space.placed].reset_index(drop=True)
