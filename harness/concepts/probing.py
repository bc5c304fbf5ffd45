"""One pass over the probe images: stimuli, peaks, responsive neurons and activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from harness.concepts.stimuli import TopK
from harness.images.batches import batches
from harness.images.sets import ImageSet, View
from harness.networks.layers import Layer
from harness.networks.recording import ActivationRecorder, borrowed
from harness.records import Checkpoint


class ProbeParameters(BaseModel):
    """What is recorded of each checkpoint.

    Attributes:
        k: stimuli of a neuron.
        responsive: neurons noted for each image, those it excites most.
        activations: keep the whole [images, neurons] matrix (the `correlation` space needs it).
        batch_size: images a forward pass; no result depends on it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: int = Field(20, ge=1)
    responsive: int = Field(20, ge=1)
    activations: bool = True
    batch_size: int = Field(64, ge=1)


@dataclass(frozen=True)
class Probe:
    """What one checkpoint does on the probe images.

    Attributes:
        stimuli: series, epoch, layer, channel, rank, image_id, activation, peak_y, peak_x (the
            centre of the map's cell, as a fraction of the view). Dead neurons, active on no image,
            are absent; a neuron active on fewer than k images has fewer rows.
        responsive: series, epoch, image_id, rank, layer, channel, activation.
        activations: float32 [images, neurons], columns as the rows of `neurons`; empty if not kept.
        neurons: layer, channel, dead; a row a neuron.
    """

    stimuli: pd.DataFrame
    responsive: pd.DataFrame
    activations: np.ndarray
    neurons: pd.DataFrame


def peak(maps: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """Activation a[x, n] and its position: [batch, channels, positions] -> 2 x [batch, channels].

    Of equal maxima the first position counts.
    """
    values, positions = maps.max(dim=2)
    return values, positions


def probe(
    model: nn.Module,
    layers: Sequence[Layer],
    images: ImageSet,
    view: View,
    checkpoint: Checkpoint,
    parameters: ProbeParameters,
    on_image: Callable[[int], None] = lambda count: None,
) -> Probe:
    """Record what every neuron of the layers does on every image.

    Raises:
        ValueError: k larger than the image set, or a NaN activation.
    """
    if parameters.k > len(images):
        raise ValueError(
            f"k={parameters.k} stimuli cannot be found among {len(images)} probe images: "
            f"lower probe.k or add images"
        )
    channels = [layer.channels for layer in layers]
    neurons = pd.DataFrame(
        {
            "layer": np.repeat([layer.name for layer in layers], channels),
            "channel": np.concatenate([np.arange(count) for count in channels]),
        }
    )
    total = len(neurons)
    top = TopK(total, parameters.k)
    lowest = torch.full((total,), float("inf"))
    kept: list[Tensor] = []
    responsive = min(parameters.responsive, total)
    responses: list[tuple[Tensor, Tensor, Tensor]] = []
    everything = np.arange(len(images))
    with (
        borrowed(model),
        torch.inference_mode(),
        ActivationRecorder(model, layers, peak) as record,
    ):
        for ids, batch in batches(images, everything, view, parameters.batch_size):
            model(batch)
            peaks = [record.kept[layer.name] for layer in layers]
            values = torch.cat([value for value, _ in peaks], dim=1).float()
            top.update(values, torch.cat([place for _, place in peaks], dim=1), ids)
            lowest = torch.minimum(lowest, values.amin(dim=0))
            responses.append((ids, *values.topk(responsive, dim=1)))
            if parameters.activations:
                kept.append(values)
            on_image(len(ids))
    image_ids, activations, positions = (tensor.numpy() for tensor in top.result())
    highest = activations[:, 0]
    dead = (highest <= 0) | (highest == lowest.numpy())
    labels = {"series": checkpoint.series, "epoch": checkpoint.epoch}
    return Probe(
        stimuli=_stimuli(neurons, layers, dead, image_ids, activations, positions).assign(**labels)[
            [*labels, *_STIMULI]
        ],
        responsive=_responsive(neurons, responses).assign(**labels)[[*labels, *_RESPONSIVE]],
        activations=torch.cat(kept).numpy() if kept else np.empty((0, total), dtype=np.float32),
        neurons=neurons.assign(dead=dead),
    )


_STIMULI = ["layer", "channel", "rank", "image_id", "activation", "peak_y", "peak_x"]
_RESPONSIVE = ["image_id", "rank", "layer", "channel", "activation"]


def _stimuli(
    neurons: pd.DataFrame,
    layers: Sequence[Layer],
    dead: np.ndarray,
    image_ids: np.ndarray,
    activations: np.ndarray,
    positions: np.ndarray,
) -> pd.DataFrame:
    heights, widths, extras = (
        np.repeat([getattr(layer, side) for layer in layers], [layer.channels for layer in layers])
        for side in ("height", "width", "extra")
    )
    neuron, rank = np.nonzero((activations > 0) & ~dead[:, None])
    position = positions[neuron, rank] - extras[neuron]
    row, column = np.divmod(position, widths[neuron])
    placeless = position < 0  # a class token's: the centre stands for the whole image
    row = np.where(placeless, (heights[neuron] - 1) / 2, row)
    column = np.where(placeless, (widths[neuron] - 1) / 2, column)
    return pd.DataFrame(
        {
            "layer": neurons["layer"].to_numpy()[neuron],
            "channel": neurons["channel"].to_numpy()[neuron],
            "rank": rank,
            "image_id": image_ids[neuron, rank],
            "activation": activations[neuron, rank],
            "peak_y": (row + 0.5) / heights[neuron],
            "peak_x": (column + 0.5) / widths[neuron],
        }
    )


def _responsive(
    neurons: pd.DataFrame, responses: Sequence[tuple[Tensor, Tensor, Tensor]]
) -> pd.DataFrame:
    ids, values, chosen = (torch.cat(parts).numpy() for parts in zip(*responses, strict=True))
    image, rank = np.nonzero(values > 0)
    neuron = chosen[image, rank]
    return pd.DataFrame(
        {
            "image_id": ids[image],
            "rank": rank,
            "layer": neurons["layer"].to_numpy()[neuron],
            "channel": neurons["channel"].to_numpy()[neuron],
            "activation": values[image, rank],
        }
    )
