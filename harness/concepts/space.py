"""The semantic space as data: neurons, what represents each, and who is near whom. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import sparse

from harness.artifacts import Artifact, Run
from harness.records import NEURON

METRICS = ("cosine", "jaccard")


@dataclass(frozen=True)
class SemanticSpace:
    """Neurons of any checkpoint of any model, comparable with one another.

    Attributes:
        method: name of the space method that made it.
        neurons: a row a neuron: series, epoch, layer, channel, coverage (the share of its stimuli
            that have an image vector).
        vectors: float [neurons, dimension]; for `jaccard` 0/1 over the probe images. A row of NaN
            marks a neuron without a place (none of its stimuli has a vector).
        metric: how two rows compare: "cosine", or "jaccard" (overlap of the sets of ones).
    """

    method: str
    neurons: pd.DataFrame
    vectors: np.ndarray
    metric: str = "cosine"
    images: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")
        if len(self.neurons) != len(self.vectors):
            raise ValueError(f"{len(self.neurons)} neurons but {len(self.vectors)} vectors")

    @cached_property
    def placed(self) -> np.ndarray:
        """Whether each neuron has a place: bool [neurons]."""
        return ~np.isnan(self.vectors).any(axis=1)

    def rows(self, **wanted: object) -> np.ndarray:
        """Positions of the placed neurons whose columns equal `wanted`, e.g. series="vgg"."""
        chosen = self.placed.copy()
        for column, value in wanted.items():
            chosen &= (self.neurons[column] == value).to_numpy()
        return np.flatnonzero(chosen)

    def similarity(self, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Similarities [queries, candidates] between rows, in [-1, 1]; NaN for unplaced ones."""
        a, b = self.vectors[queries], self.vectors[candidates]
        if self.metric == "jaccard":
            left, right = sparse.csr_array(a), sparse.csr_array(b)
            shared = np.asarray((left @ right.T).todense(), dtype=float)
            union = a.sum(1)[:, None] + b.sum(1)[None, :] - shared
            return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        return _unit(a) @ _unit(b).T

    def nearest(
        self, queries: np.ndarray, candidates: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k most similar candidates of each query, itself left out.

        Args:
            queries: rows, int [q]. candidates: rows, int [c]. k: how many.

        Returns:
            rows [q, k] and similarities [q, k], most similar first, ties by row; where a query has
            fewer than k candidates the rest is -1 and NaN.
        """
        similarity = self.similarity(queries, candidates)
        similarity[queries[:, None] == candidates[None, :]] = np.nan
        k_found = min(k, len(candidates))
        order = np.argsort(np.where(np.isnan(similarity), np.inf, -similarity), kind="stable")
        order = order[:, :k_found]
        best = np.take_along_axis(similarity, order, axis=1)
        rows = np.full((len(queries), k), -1)
        values = np.full((len(queries), k), np.nan)
        rows[:, :k_found] = np.where(np.isnan(best), -1, candidates[order])
        values[:, :k_found] = best
        return rows, values

    def displacement(self, series: str, epoch_from: int, epoch_to: int) -> pd.DataFrame:
        """How far each channel of a series moved between two epochs: 1 - similarity.

        Returns:
            layer, channel, displacement; channels without a place at either epoch are left out.
        """
        epochs = [
            self.neurons.loc[self.rows(series=series, epoch=epoch), ["layer", "channel"]].assign(
                row=self.rows(series=series, epoch=epoch)
            )
            for epoch in (epoch_from, epoch_to)
        ]
        both = epochs[0].merge(epochs[1], on=["layer", "channel"], suffixes=("_from", "_to"))
        near = [
            self.similarity(np.array([a]), np.array([b]))[0, 0]
            for a, b in zip(both["row_from"], both["row_to"], strict=True)
        ]
        return both[["layer", "channel"]].assign(displacement=1.0 - np.array(near, dtype=float))

    def arrays(self) -> dict[str, np.ndarray]:
        """What, beside `neurons`, is saved of the space."""
        metric = np.array(METRICS.index(self.metric))
        return {"vectors": self.vectors, "images": self.images, "metric": metric}

    def save(self, run: Run, fingerprint: str) -> None:
        run.save(Artifact("space_neurons", (self.method,)), self.neurons, fingerprint)
        run.save(Artifact("space", (self.method,)), self.arrays(), fingerprint)

    @classmethod
    def load(cls, run: Run, method: str) -> SemanticSpace:
        arrays = run.arrays(Artifact("space", (method,)))
        neurons = run.table(Artifact("space_neurons", (method,)))
        metric = METRICS[int(arrays["metric"])]
        return cls(
            method, neurons[[*NEURON, "coverage"]], arrays["vectors"], metric, arrays["images"]
        )


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length one; a row of zeros stays zero (similar to nothing)."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0) + 0 * vectors
