"""Records of one checkpoint, merged from ranges of images, and the tables made from them.

The tables do not depend on how the images are divided or on the order of merging.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from harness.concepts.stimuli import TopK
from harness.networks.layer import Layer
from harness.records import Checkpoint


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
    top: TopK | None = None
    lowest = torch.empty(0)
    spans: list[np.ndarray] = []
    for part in parts:
        if top is None:
            # a copy, so that the part is not changed
            top, lowest = TopK.from_arrays(part.top.arrays()), part.lowest
        else:
            top.merge(part.top)
            lowest = torch.minimum(lowest, part.lowest)
        spans.append(part.spans)
    if top is None:
        raise ValueError("no part of the probe images to merge")
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
    """Return the stimuli of a checkpoint, as in `Probe`.

    Args:
        part: the record of all images.
        layers: the probed layers.
        checkpoint: the recorded checkpoint.
        images: number of probe images.

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
    outside = position < 0  # of a class token: use the centre of the image
    row = np.where(outside, (heights[neuron] - 1) / 2, row)
    column = np.where(outside, (widths[neuron] - 1) / 2, column)
    return pd.DataFrame(
        {
            "series": checkpoint.series,
            "epoch": checkpoint.epoch,
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
    """Return the responsive neurons of some images, as in `Probe`, from those of a RangeRecord."""
    neurons = neurons_of(layers)
    neuron = responses["neuron"].to_numpy()
    named = {name: neurons[name].to_numpy()[neuron] for name in ("layer", "channel")}
    labels = {"series": checkpoint.series, "epoch": checkpoint.epoch}
    return responses.assign(**labels, **named)[
        [*labels, "image_id", "rank", "layer", "channel", "activation"]
    ]
