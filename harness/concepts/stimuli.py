"""Stimuli: the images that activate each neuron most, merged from ranges of images; their tables.

The tables do not depend on how the images are divided or on the order of merging.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from harness.networks.layer import Layer
from harness.records import Checkpoint

#: Keys order entries by activation, then by image: the 32 low bits hold _LOW_MASK - image id.
_LOW_BITS = 32
_LOW_MASK = (1 << _LOW_BITS) - 1
_EMPTY = torch.iinfo(torch.int64).min


def sort_keys(values: Tensor) -> Tensor:
    """Map float32 to int64 in [−2^31, 2^31) with the same order; equal floats stay equal."""
    bits = (values + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)


class ProbePart:
    """The part of a checkpoint's record that can be merged with those of other images: the exact k
    largest activations of each neuron (of equal ones, those of the lower image ids), and the
    smallest.

    Every pair of a neuron and an image has one integer key, which orders by value and then by
    image. The result therefore does not depend on batch size, order or division of the images:
    `update` and `merge` commute.

    Args:
        neurons: n, the number of neurons.
        k: number of images to keep for each neuron.
        images: the range of the ids of all images that will be added.
        device: where the values to add are, and where the largest are kept.

    Attributes:
        spans: int64 [ranges, 2], the ranges of image ids: first, one after the last.
        lowest: float32 [n], the smallest activation of each neuron.
    """

    def __init__(
        self, neurons: int, k: int, images: range, device: torch.device | str = "cpu"
    ) -> None:
        self.k = k
        self.spans = np.array([[images.start, images.stop]])
        self.lowest = torch.full((neurons,), float("inf"), device=device)
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
            ids = image_ids[values.isnan().any(dim=1)]
            raise ValueError(f"activations of images {ids.tolist()[:5]} are NaN: broken weights?")
        image_ids = image_ids.to(values.device)
        self.lowest = torch.minimum(self.lowest, values.amin(dim=0))
        keys = (sort_keys(values) << _LOW_BITS) | (_LOW_MASK - image_ids[:, None])
        self._absorb(keys.T, values.T, positions.T.to(torch.int32))

    def merge(self, other: ProbePart) -> None:
        """Add the values of the same neurons, with the same k, for other images."""
        self.spans = np.concatenate([self.spans, other.spans])
        self.lowest = torch.minimum(self.lowest, other.lowest)
        self._absorb(other._keys, other._values, other._positions)

    def kth_largest(self) -> Tensor:
        """Return each neuron's k-th largest value, float32 [n]; −∞ for fewer than k images."""
        smallest = self._values[:, -1]
        return torch.where(self._keys[:, -1] == _EMPTY, -torch.inf, smallest)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to save: spans, lowest, and keys int64, values float32, positions
        int32, each [n, k]."""
        tensors = {"lowest": self.lowest, "keys": self._keys, "values": self._values}
        tensors["positions"] = self._positions
        return {"spans": self.spans, **{name: t.cpu().numpy() for name, t in tensors.items()}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ProbePart:
        """Rebuild a part from what `arrays` returned."""
        neurons, k = arrays["keys"].shape
        part = cls(neurons, k, range(0))
        part.spans = arrays["spans"]
        part.lowest, part._keys, part._values, part._positions = (
            torch.from_numpy(arrays[name]) for name in ("lowest", "keys", "values", "positions")
        )
        return part

    def _absorb(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        keys = torch.cat([self._keys, keys], dim=1)
        self._keys, selection = keys.topk(self.k, dim=1)
        self._values = torch.cat([self._values, values], dim=1).gather(1, selection)
        self._positions = torch.cat([self._positions, positions], dim=1).gather(1, selection)

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return image ids int64 [n, k] (−1 where there are fewer than k images), values and
        positions, largest value first, on the CPU."""
        keys = self._keys.cpu()
        ids = _LOW_MASK - (keys & _LOW_MASK)
        return torch.where(keys == _EMPTY, -1, ids), self._values.cpu(), self._positions.cpu()


def merge(parts: Iterable[ProbePart]) -> ProbePart:
    """Merge records of the same neurons on several ranges of images, one at a time in memory."""
    rest = iter(parts)
    merged = ProbePart.from_arrays(next(rest).arrays())  # a copy, so that it is not changed
    for part in rest:
        merged.merge(part)
    return merged


def neurons_of(layers: Sequence[Layer]) -> pd.DataFrame:
    """Return layer and channel of the neurons, in the order of every array in this module."""
    channels = [layer.channels for layer in layers]
    return pd.DataFrame(
        {
            "layer": np.repeat([layer.name for layer in layers], channels),
            "channel": np.concatenate([np.arange(count) for count in channels]),
        }
    )


def neurons_table(part: ProbePart, layers: Sequence[Layer]) -> pd.DataFrame:
    """Return layer, channel, dead (activation never positive, or constant); one row per neuron."""
    _, activations, _ = part.result()
    highest = activations[:, 0]
    is_dead = (highest <= 0) | (highest == part.lowest.cpu())
    return neurons_of(layers).assign(dead=is_dead.numpy())


def stimuli_table(
    part: ProbePart, layers: Sequence[Layer], checkpoint: Checkpoint, images: int
) -> pd.DataFrame:
    """Return the stimuli of a checkpoint from its record of all `images` probe images.

    Returns:
        series, epoch, layer, channel, rank, image_id, activation, peak_y, peak_x (centre of the
        peak's position in the map, as a fraction of the view). Dead neurons are absent; a neuron
        that fewer than k images activate has fewer rows.

    Raises:
        ValueError: an image has not been recorded, or more than once.
    """
    spans = part.spans[np.argsort(part.spans[:, 0])]
    if not np.array_equal([*spans[:, 0], images], [0, *spans[:, 1]]):
        raise ValueError(
            f"stimuli need all {images} probe images, each once; recorded are "
            f"{', '.join(f'{start} to {stop - 1}' for start, stop in spans)}"
        )
    ids, activations, places = (tensor.numpy() for tensor in part.result())
    neurons = neurons_table(part, layers)
    sides = ("height", "width", "extra")
    channels = [layer.channels for layer in layers]
    heights, widths, extras = (
        np.repeat([getattr(layer, side) for layer in layers], channels) for side in sides
    )
    neuron, rank = np.nonzero((activations > 0) & ~neurons["dead"].to_numpy()[:, None])
    position = places[neuron, rank] - extras[neuron]
    row, column = np.divmod(position, widths[neuron])
    is_token = position < 0  # of a class token: use the centre of the image
    row = np.where(is_token, (heights[neuron] - 1) / 2, row)
    column = np.where(is_token, (widths[neuron] - 1) / 2, column)
    return pd.DataFrame(
        {
            **vars(checkpoint),
            "layer": neurons["layer"].to_numpy()[neuron],
            "channel": neurons["channel"].to_numpy()[neuron],
            "rank": rank,
            "image_id": ids[neuron, rank],
            "activation": activations[neuron, rank],
            "peak_y": (row + 0.5) / heights[neuron],
            "peak_x": (column + 0.5) / widths[neuron],
        }
    )


def responsive_table(
    responses: pd.DataFrame, layers: Sequence[Layer], checkpoint: Checkpoint
) -> pd.DataFrame:
    """Return the responsive neurons of some images from those of a RangeRecord: series, epoch,
    image_id, rank, layer, channel, activation."""
    columns = [*vars(checkpoint), "image_id", "rank", "layer", "channel", "activation"]
    rows = responses.join(neurons_of(layers), on="neuron")
    return rows.assign(**vars(checkpoint))[columns]
