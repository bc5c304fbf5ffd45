"""Clusters of the semantic space, from which ConceptEvo's published study drew its groups.

The five neurons of a group belong to one DBSCAN cluster. The published generator used eps .35 in
the base model, .5 and .47 within a series and .27 across series. Its metric is not known; here the
distance is one minus the cosine.
"""

import numpy as np

from tasks.evidence import Evidence

LARGEST_POOL = 20_000  # neurons; a larger pool is sampled (seeded)


def find_clusters(evidence: Evidence, pool: np.ndarray, eps: float, least: int) -> list[np.ndarray]:
    """Find clusters among rows of the space, with one row of each channel of a series, of a random
    checkpoint (the first one would mostly be the untrained network).

    Args:
        pool: rows of the space.
        eps: largest cosine distance of neighbours.
        least: smallest number of neurons of a cluster, of different channels.

    Raises:
        ValueError: the space has no vectors, or scikit-learn is missing.
    """
    vectors = evidence.space.vectors
    if not isinstance(vectors, np.ndarray):
        raise ValueError(
            f"evidence.grouping = 'clusters': the space {evidence.space.method!r} has no dense "
            f"vectors; choose another space, or grouping = 'neighbours'"
        )
    try:
        from sklearn.cluster import DBSCAN
    except ImportError as error:
        raise ValueError(
            "evidence.grouping = 'clusters' needs scikit-learn: pip install 'conceptevo-harness"
            "[compute]'"
        ) from error
    rng = np.random.default_rng(0)
    if len(pool) > LARGEST_POOL:
        pool = np.sort(rng.choice(pool, LARGEST_POOL, replace=False))
    labels = DBSCAN(eps=eps, min_samples=least, metric="cosine").fit_predict(vectors[pool])
    clusters = []
    for label in range(labels.max() + 1):
        rows = rng.permutation(pool[labels == label])
        neurons = evidence.space.neurons.iloc[rows]
        rows = rows[~neurons.duplicated(["series", "layer", "channel"]).to_numpy()]
        if len(rows) >= least:
            clusters.append(rows)
    return clusters
