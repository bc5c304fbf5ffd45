"""The images that excite each neuron most, kept while images stream by."""

from __future__ import annotations

import torch
from torch import Tensor

#: Keys order entries by activation, then by image: the 32 low bits hold the reversed image id.
_LOW_BITS = 32
_LOW_MASK = (1 << _LOW_BITS) - 1
_EMPTY = torch.iinfo(torch.int64).min


def sortable(values: Tensor) -> Tensor:
    """float32 -> int64 in [-2^31, 2^31) with the same order, equal floats to equal ints."""
    bits = (values + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)


class TopK:
    """The k largest values of each of n neurons over all images seen, exactly.

    Ties go to the lower image id. Every (neuron, image) has one key, an integer that orders by
    value and then by image, so the result does not depend on batch size, order or sharding:
    `update` and `merge` commute.

    Args:
        neurons: n.
        k: how many images to keep for each neuron.
    """

    def __init__(self, neurons: int, k: int) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k
        self._keys = torch.full((neurons, k), _EMPTY, dtype=torch.int64)
        self._values = torch.full((neurons, k), float("nan"))
        self._positions = torch.zeros((neurons, k), dtype=torch.int32)

    def update(self, values: Tensor, positions: Tensor, image_ids: Tensor) -> None:
        """Add one batch.

        Args:
            values: float32 [batch, n], each image's activation of each neuron.
            positions: int [batch, n], where in the map the activation peaks.
            image_ids: int64 [batch], each in [0, 2^32), never the same image twice.

        Raises:
            ValueError: a value is NaN.
        """
        if values.isnan().any():
            bad = image_ids[values.isnan().any(dim=1)]
            raise ValueError(f"activations of images {bad.tolist()[:5]} are NaN: broken weights?")
        keys = (sortable(values) << _LOW_BITS) | (_LOW_MASK - image_ids[:, None])
        self._absorb(keys.T, values.T, positions.T.to(torch.int32))

    def merge(self, other: TopK) -> None:
        """Add what another shard of the same neurons has seen."""
        self._absorb(other._keys, other._values, other._positions)

    def _absorb(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        keys = torch.cat([self._keys, keys], dim=1)
        self._keys, chosen = keys.topk(self.k, dim=1)
        self._values = torch.cat([self._values, values], dim=1).gather(1, chosen)
        self._positions = torch.cat([self._positions, positions], dim=1).gather(1, chosen)

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Image ids int64 [n, k] (-1 where fewer than k images came), values and positions,
        strongest first."""
        ids = _LOW_MASK - (self._keys & _LOW_MASK)
        return torch.where(self._keys == _EMPTY, -1, ids), self._values, self._positions
