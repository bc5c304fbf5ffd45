"""The semantic space: neurons, their vectors and their neighbours. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import sparse

from harness.artifacts import Artifact, Run
from harness.concepts.neighbours import nearest_by_cosine, nearest_by_overlap
from harness.records import NEURON

METRICS = ("cosine", "jaccard")


@dataclass(frozen=True)
class SemanticSpace:
    """A space in which neurons of all checkpoints of all series can be compared.

    Attributes:
        method: name of the space method.
        neurons: series, epoch, layer, channel, coverage (the share of the neuron's stimuli that are
            also stimuli of a base neuron; 1 if the method does not use it); one row per neuron.
        vectors: float [neurons, dimension]; for `jaccard` 0/1 [neurons, probe images], which may be
            sparse. A row of NaN: the neuron has no vector, because none of its stimuli has one.
        metric: how rows are compared: "cosine", or "jaccard" (overlap of the sets of ones).
        images: float [images, dimension], vectors of the probe images; empty if there are none.
        error: measured root mean square error of a similarity if vectors are sketched (see
            `sketch.py`); 0 if they are exact.
    """

    method: str
    neurons: pd.DataFrame
    vectors: np.ndarray | sparse.csr_array
    metric: str = "cosine"
    images: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    error: float = 0.0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")
        if len(self.neurons) != self.vectors.shape[0]:
            raise ValueError(f"{len(self.neurons)} neurons but {self.vectors.shape[0]} vectors")

    @cached_property
    def has_vector(self) -> np.ndarray:
        """Whether each neuron has a vector: bool [neurons]."""
        if not isinstance(self.vectors, np.ndarray):
            return np.ones(len(self.neurons), dtype=bool)
        return np.asarray(~np.isnan(self.vectors).any(axis=1))

    def rows(self, **values: object) -> np.ndarray:
        """Return rows of neurons with a vector whose columns equal `values`, e.g. series="vgg"."""
        selected = self.has_vector.copy()
        for column, value in values.items():
            selected &= (self.neurons[column] == value).to_numpy()
        return np.flatnonzero(selected)

    def similarity(self, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Return similarities [queries, candidates] between rows, in [−1, 1]; NaN for rows
        without a vector."""
        a, b = self.vectors[queries], self.vectors[candidates]
        if self.metric == "jaccard":
            left, right = sparse.csr_array(a), sparse.csr_array(b)
            shared = np.asarray((left @ right.T).todense(), dtype=float)
            return _jaccard(shared, left.sum(axis=1)[:, None], right.sum(axis=1)[None, :])
        return unit_rows(a) @ unit_rows(b).T

    def pair_similarities(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the similarities [n] of pairs of rows."""
        a, b = self.vectors[first], self.vectors[second]
        if self.metric == "jaccard":
            left, right = sparse.csr_array(a), sparse.csr_array(b)
            shared = np.asarray(left.multiply(right).sum(axis=1), dtype=float).ravel()
            return _jaccard(shared, left.sum(axis=1), right.sum(axis=1))
        return np.einsum("nd,nd->n", unit_rows(a), unit_rows(b))

    def nearest(
        self, queries: np.ndarray, candidates: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the exact k most similar candidates of each query, other than the query itself.

        Args:
            queries, candidates: rows, int [q] and [c]; each candidate occurs once.
            k: number of neighbours.

        Returns:
            Rows [q, k] and similarities [q, k], most similar first, ties in the order of the
            candidates; -1 and NaN where a query has fewer than k candidates.
        """
        own = pd.Index(candidates).get_indexer(queries)  # -1 where it is not a candidate
        a, b = self.vectors[queries], self.vectors[candidates]
        if self.metric == "jaccard":
            columns, values = nearest_by_overlap(sparse.csr_array(a), sparse.csr_array(b), own, k)
        else:
            columns, values = nearest_by_cosine(unit_rows(a), unit_rows(b), own, k)
        return np.append(candidates, -1)[columns], values

    def displacement(self, series: str, epoch_from: int, epoch_to: int) -> pd.DataFrame:
        """Compute 1 − similarity between two epochs for each channel of a series.

        Returns:
            layer, channel, displacement; channels without a vector at either epoch are left out.
        """
        older, newer = (
            self.neurons.loc[rows, ["layer", "channel"]].assign(row=rows)
            for rows in (self.rows(series=series, epoch=epoch) for epoch in (epoch_from, epoch_to))
        )
        common = older.merge(newer, on=["layer", "channel"], suffixes=("_from", "_to"))
        rows = common["row_from"].to_numpy(), common["row_to"].to_numpy()
        similarity = self.pair_similarities(*rows)
        return common[["layer", "channel"]].assign(displacement=1.0 - similarity)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the space to save, apart from `neurons`."""
        common = {"images": self.images, "metric": np.array(METRICS.index(self.metric))}
        common["error"] = np.array(self.error)
        if isinstance(self.vectors, np.ndarray):
            return {"vectors": self.vectors, **common}
        parts = {name: getattr(self.vectors, name) for name in ("data", "indices", "indptr")}
        return {**parts, "shape": np.array(self.vectors.shape), **common}

    @classmethod
    def load(cls, run: Run, method: str) -> SemanticSpace:
        arrays = run.arrays(Artifact("space", (method,)))
        neurons = run.table(Artifact("space_neurons", (method,)))
        vectors: np.ndarray | sparse.csr_array
        if "vectors" in arrays:
            vectors = arrays["vectors"]
        else:
            parts = tuple(arrays[name] for name in ("data", "indices", "indptr"))
            vectors = sparse.csr_array(parts, shape=tuple(arrays["shape"]))
        return cls(
            method,
            neurons[[*NEURON, "coverage"]],
            vectors,
            METRICS[int(arrays["metric"])],
            arrays["images"],
            float(arrays.get("error", 0.0)),
        )


def _jaccard(shared: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the Jaccard similarity of sets from their sizes and the number of shared elements."""
    union = first + second - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length one; rows of zeros (similarity 0 to all) and of NaN are not changed."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)
