"""Stimuli: the images that activate each neuron most, merged from ranges of images; their tables.

The tables do not depend on how the images are divided or on the order of merging.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
            ids = image_ids[values.isnan().any(dim=1)]
            raise ValueError(f"activations of images {ids.tolist()[:5]} are NaN: broken weights?")
        image_ids = image_ids.to(values.device)
        keys = (sort_keys(values) << _LOW_BITS) | (_LOW_MASK - image_ids[:, None])
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

    def kth_largest(self) -> Tensor:
        """Return each neuron's k-th largest value, float32 [n]; −∞ for fewer than k images."""
        smallest = self._values[:, -1]
        return torch.where(self._keys[:, -1] == _EMPTY, -torch.inf, smallest)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to save: keys int64, values float32, positions int32, each [n, k]."""
        tensors = {"keys": self._keys, "values": self._values, "positions": self._positions}
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

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
        self._keys, selection = keys.topk(self.k, dim=1)
        self._values = torch.cat([self._values, values], dim=1).gather(1, selection)
        self._positions = torch.cat([self._positions, positions], dim=1).gather(1, selection)

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return image ids int64 [n, k] (−1 where there are fewer than k images), values and
        positions, largest value first, on the CPU."""
        keys = self._keys.cpu()
        ids = _LOW_MASK - (keys & _LOW_MASK)
        return torch.where(keys == _EMPTY, -1, ids), self._values.cpu(), self._positions.cpu()


@dataclass(frozen=True, eq=False)
class ProbePart:
    """The part of a checkpoint's record that can be merged with those of other images.

    Attributes:
        spans: int64 [ranges, 2], the recorded ranges of image ids: first, one after the last.
        top: the top images of every neuron, with activations and positions.
        lowest: float32 [neurons], the smallest activation of each neuron.
    """

    spans: np.ndarray
    top: TopK
    lowest: Tensor

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to save; `from_arrays` reads them."""
        return {"spans": self.spans, "lowest": self.lowest.numpy(), **self.top.arrays()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ProbePart:
        """Rebuild a part from what `arrays` returned."""
        return cls(arrays["spans"], TopK.from_arrays(arrays), torch.from_numpy(arrays["lowest"]))


def merge(parts: Iterable[ProbePart]) -> ProbePart:
    """Merge records of the same neurons on several ranges of images, one at a time in memory.

    Raises:
        ValueError: there is no part, or the parts have different neurons or a different k.
    """
    rest = iter(parts)
    if (first := next(rest, None)) is None:
        raise ValueError("no part of the probe images to merge")
    # a copy, so that the first part is not changed
    top, lowest, spans = TopK.from_arrays(first.top.arrays()), first.lowest, [first.spans]
    for part in rest:
        top.merge(part.top)
        lowest = torch.minimum(lowest, part.lowest)
        spans.append(part.spans)
    return ProbePart(np.concatenate(spans), top, lowest)


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
    _, activations, _ = part.top.result()
    highest = activations[:, 0].numpy()
    return neurons_of(layers).assign(dead=(highest <= 0) | (highest == part.lowest.numpy()))


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
    ids, activations, places = (tensor.numpy() for tensor in part.top.result())
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
    neurons = neurons_of(layers)
    neuron = responses["neuron"].to_numpy()
    names = {name: neurons[name].to_numpy()[neuron] for name in ("layer", "channel")}
    columns = [*vars(checkpoint), "image_id", "rank", "layer", "channel", "activation"]
    return responses.assign(**vars(checkpoint), **names)[columns]
