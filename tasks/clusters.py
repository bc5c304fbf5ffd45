"""Clusters of the semantic space, as ConceptEvo's published study drew its sets from them.

The five neurons of a set are of one DBSCAN cluster. The published generator used eps .35 in the
base model, .5 and .47 within a series and .27 across series; its metric is not known, and the
distance here is one minus the cosine.
"""

from __future__ import annotations

import numpy as np

from tasks.evidence import Evidence, channel_of

LARGEST_POOL = 20_000  # neurons; of more, a seeded sample is clustered


def clusters(evidence: Evidence, pool: np.ndarray, eps: float, least: int) -> list[np.ndarray]:
    """Clusters of a pool of rows, each row of another channel of a series.

    Args:
        pool: rows of the space. eps: largest cosine distance of neighbours. least: neurons of a
            cluster, of different channels.

    Raises:
        ValueError: the space has no vectors to measure distances between, or scikit-learn is
            missing.
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
    if len(pool) > LARGEST_POOL:
        pool = np.sort(np.random.default_rng(0).choice(pool, LARGEST_POOL, replace=False))
    labels = DBSCAN(eps=eps, min_samples=least, metric="cosine").fit_predict(vectors[pool])
    found = []
    for label in range(labels.max() + 1):
        rows = pool[labels == label]
        channels = [channel_of(evidence.neurons[row]) for row in rows]
        first = sorted({channel: i for i, channel in reversed(list(enumerate(channels)))}.values())
        if len(first) >= least:
            found.append(rows[first])
    return found
