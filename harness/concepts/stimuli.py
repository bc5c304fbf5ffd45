"""The k images that activate each neuron most, updated batch by batch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

#: Keys order entries by activation, then by image: the 32 low bits hold _LOW_MASK - image id.
_LOW_BITS = 32
_LOW_MASK = (1 << _LOW_BITS) - 1
_EMPTY = torch.iinfo(torch.int64).min


def sortable(values: Tensor) -> Tensor:
    """Map float32 to int64 in [−2^31, 2^31) with the same order; equal floats give equal
    integers."""
    bits = (values + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)


class TopK:
    """The exact k largest values of each neuron over all images; ties go to the lower image id.

    Every pair of a neuron and an image has one integer key, which orders by value and then by
    image. The result therefore does not depend on batch size, order or division of the images:
    `update` and `merge` commute.

    Args:
        neurons: n, the number of neurons.
        k: number of images to keep for each neuron.
        device: where the values to add are, and where the largest are kept.
    """

    def __init__(self, neurons: int, k: int, device: torch.device | str = "cpu") -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k
        self._keys = torch.full((neurons, k), _EMPTY, dtype=torch.int64, device=device)
        self._values = torch.full((neurons, k), float("nan"), device=device)
        self._positions = torch.zeros((neurons, k), dtype=torch.int32, device=device)

    def update(self, values: Tensor, positions: Tensor, image_ids: Tensor) -> None:
        """Add one batch.

        Args:
            values: float32 [batch, n], each image's activation of each neuron.
            positions: int [batch, n], position of the maximum in each map.
            image_ids: int64 [batch], each in [0, 2^32), in any order; no image may be added twice.

        Raises:
            ValueError: a value is NaN.
        """
        if values.isnan().any():
            bad = image_ids[values.isnan().any(dim=1)]
            raise ValueError(f"activations of images {bad.tolist()[:5]} are NaN: broken weights?")
        image_ids = image_ids.to(values.device)
        keys = (sortable(values) << _LOW_BITS) | (_LOW_MASK - image_ids[:, None])
        self._absorb(keys.T, values.T, positions.T.to(torch.int32))

    def merge(self, other: TopK) -> None:
        """Add the values of the same neurons for other images.

        Raises:
            ValueError: the number of neurons or k differs.
        """
        if other._keys.shape != self._keys.shape:
            raise ValueError(
                f"shards of {tuple(self._keys.shape)} and {tuple(other._keys.shape)} (neurons, k) "
                f"cannot be merged"
            )
        self._absorb(other._keys, other._values, other._positions)

    def least(self) -> Tensor:
        """Return each neuron's k-th largest value, float32 [n]; −∞ if fewer than k images were
        added."""
        last = self._values[:, -1]
        return torch.where(self._keys[:, -1] == _EMPTY, -torch.inf, last)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to save: keys int64, values float32, positions int32, each [n, k]."""
        kept = {"keys": self._keys, "values": self._values, "positions": self._positions}
        return {name: tensor.cpu().numpy() for name, tensor in kept.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> TopK:
        """Rebuild a TopK from what `arrays` returned."""
        top = cls(*arrays["keys"].shape)
        top._keys, top._values, top._positions = (
            torch.from_numpy(arrays[name]) for name in ("keys", "values", "positions")
        )
        return top

    def _absorb(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        keys = torch.cat([self._keys, keys], dim=1)
        self._keys, chosen = keys.topk(self.k, dim=1)
        self._values = torch.cat([self._values, values], dim=1).gather(1, chosen)
        self._positions = torch.cat([self._positions, positions], dim=1).gather(1, chosen)

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return image ids int64 [n, k] (−1 where there are fewer than k images), values and
        positions, largest value first, on the CPU."""
        keys = self._keys.cpu()
        ids = _LOW_MASK - (keys & _LOW_MASK)
        return torch.where(keys == _EMPTY, -1, ids), self._values.cpu(), self._positions.cpu()
