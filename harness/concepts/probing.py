"""Record of a checkpoint on the probe images: stimuli, peaks, responsive neurons, activations.

The images can be divided into ranges that are recorded on any machine and in any order:
`probe_range` records one range, and `stimuli.py` merges the records of several and makes their
tables. Memory depends on the size of a range, not on the number of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from harness.concepts.stimuli import ProbePart
from harness.images.batches import batches
from harness.images.sets import ImageSet
from harness.networks.budget import FEWEST, run_halving
from harness.networks.devices import Device
from harness.networks.layer import Layer, Network
from harness.networks.recording import borrow, record_maps
from harness.networks.running import run_network
from harness.section import Section

#: Largest size in bytes of the activations of one range of images.
RANGE_BYTES = 2**28


class ProbeParameters(Section):
    """What is recorded of each checkpoint.

    Attributes:
        k: number of stimuli per neuron.
        responsive: number of neurons recorded per image, those that it activates most.
        activations: keep the whole [images, neurons] matrix (`correlation` and `profile` need it).
        activations_type: number type of the kept activations. "float16" halves their size; it
            rounds by at most one part in 2,048, and values beyond 65,504 are refused. Stimuli,
            peaks and responsive neurons are always computed in float32.
        batch_size: number of images per forward pass; some networks round differently with it.
        range_images: largest number of images per piece of work; interrupted work resumes after the
            last finished piece. Results do not depend on it.
    """

    k: int = Field(20, ge=1)
    responsive: int = Field(20, ge=1)
    activations: bool = True
    activations_type: Literal["float32", "float16"] = "float32"
    batch_size: int = Field(64, ge=1)
    range_images: int = Field(65536, ge=FEWEST)


def ranges(images: int, neurons: int, parameters: ProbeParameters) -> list[range]:
    """Divide images into ranges of nearly equal size, within `range_images` and, for the neurons of
    all probed layers, about RANGE_BYTES."""
    limit = parameters.range_images
    if parameters.activations:
        bytes_per_image = max(neurons, 1) * np.dtype(parameters.activations_type).itemsize
        limit = min(limit, max(RANGE_BYTES // bytes_per_image, FEWEST))
    count = max(1, -(-images // limit))
    edges = [images * number // count for number in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def image_bytes(neurons: int, parameters: ProbeParameters) -> int:
    """Return the bytes held per image until its range is finished: its activations, and its rows of
    `responses` with the arrays behind them."""
    activation = np.dtype(parameters.activations_type).itemsize * parameters.activations
    return neurons * activation + 64 * parameters.responsive


def probe_range(
    network: Network,
    images: ImageSet,
    image_range: range,
    parameters: ProbeParameters,
    on_image: Callable[[int], None] = lambda count: None,
) -> RangeRecord:
    """Record the activations of every neuron of the network's layers on a range of images.

    If memory runs out, the range is recorded again with half as many images per pass.

    Args:
        network: the network; top activations and positions stay on its device until the end.
        image_range: the consecutive ids of the images of this range.
        on_image: called with the number of images just processed.

    Raises:
        ValueError: k exceeds the number of images, or an activation is NaN or beyond float16.
    """
    if parameters.k > len(images):
        raise ValueError(
            f"k={parameters.k} stimuli cannot be found among {len(images)} probe images: "
            f"lower probe.k or add images"
        )
    ids = np.arange(image_range.start, image_range.stop)
    model, layers, device = network.model, network.layers, network.device

    def record(batch_size: int) -> RangeRecord:
        recording = RangeRecord(layers, image_range, parameters, device)
        with (
            borrow(model),
            torch.no_grad(),
            device.computing(),
            record_maps(model, layers, recording.keep) as kept,
        ):
            for batch_ids, batch in batches(images, ids, network.view, batch_size):
                run_network(model, device.batch(batch), "to record its neurons")
                recording.add(batch_ids, [kept[layer.name] for layer in layers])
                on_image(len(batch_ids))
        return recording

    return run_halving(record, parameters.batch_size, f"probing images {ids[0]} to {ids[-1]}")


class RangeRecord:
    """The record of one checkpoint on one range of the probe images, which grows batch by batch.

    Attributes:
        part: the part that is merged with those of other ranges.
        activations: [neurons, images of the range], of `activations_type`; None if not kept.
    """

    def __init__(
        self, layers: Sequence[Layer], images: range, parameters: ProbeParameters, device: Device
    ) -> None:
        edges = np.cumsum([0, *(layer.channels for layer in layers)])
        self._columns = {
            layer.name: slice(start, stop)
            for layer, (start, stop) in zip(layers, pairwise(edges), strict=True)
        }
        self._parameters = parameters
        total = int(edges[-1])
        self.part = ProbePart(total, parameters.k, images, device.place)
        self._thresholds = self.part.kth_largest()
        self._responses: list[tuple[Tensor, Tensor, Tensor]] = []
        self._recorded = 0
        self.activations: np.ndarray | None = None
        if parameters.activations:
            self.activations = np.empty((total, len(images)), dtype=parameters.activations_type)

    def keep(self, maps: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        """Return a layer's activations a[x, n] and, where they may be needed, the positions of
        the maxima; each [batch, channels]."""
        maps = layer.strength(maps)
        if maps.device.type != "cpu":
            return maps.max(dim=2)
        values = peaks(maps)
        # not where equal: ProbePart keeps the lower image ids, which come first
        is_needed = values.float() > self._thresholds[self._columns[layer.name]]
        return values, positions(maps, is_needed)

    def add(self, ids: Tensor, peaks: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Add a batch: image ids int64 [batch] and, per layer, the result of `keep`."""
        values = torch.cat([value for value, _ in peaks], dim=1).float()
        self.part.update(values, torch.cat([position for _, position in peaks], dim=1), ids)
        self._thresholds = self.part.kth_largest()
        self._responses.append((ids, *strongest(values, self._parameters.responsive)))
        if self.activations is not None:
            target = self.activations[:, self._recorded : self._recorded + len(ids)]
            with np.errstate(over="ignore"):
                target[:] = values.T.cpu().numpy()
            if target.dtype == np.float16 and np.isinf(target).any():
                raise ValueError(
                    f"an activation of images {ids.tolist()[:3]}… is beyond 65,504, the largest "
                    f'number of float16: set probe.activations_type = "float32"'
                )
        self._recorded += len(ids)

    @property
    def responses(self) -> pd.DataFrame:
        """image_id, rank, neuron (row of `neurons_of`), activation: the neurons that each image
        activates most, ties by row; those of all ranges, joined, equal those of one pass."""
        ids, values, neurons = (
            torch.cat([part.cpu() for part in parts]).numpy()
            for parts in zip(*self._responses, strict=True)
        )
        image, rank = np.nonzero(values > 0)
        return pd.DataFrame(
            {
                "image_id": ids[image],
                "rank": rank,
                "neuron": neurons[image, rank],
                "activation": values[image, rank],
            }
        )


def peaks(maps: Tensor) -> Tensor:
    """Return the maximum over the positions, [batch, channels].

    In channels-last maps, torch reduces 32 channels at once and the remaining ones one by one, many
    times slower. Therefore as many positions are put side by side as give a multiple of 32 values.
    """
    channels, count = maps.shape[1:]
    group = 32 // math.gcd(32, channels)
    if maps.stride(1) != 1 or group == 1 or count < group:
        return maps.amax(dim=2)
    rows = maps.transpose(1, 2)[:, : count - count % group]
    values = rows.reshape(len(maps), -1, group * channels).amax(dim=1)
    values = values.view(-1, group, channels).amax(dim=1)
    rest = maps[:, :, count - count % group :]
    return torch.maximum(values, rest.amax(dim=2)) if rest.shape[2] else values


def positions(maps: Tensor, needed: Tensor) -> Tensor:
    """Return the first position of each map's maximum, int64 [batch, channels], from maps [batch,
    channels, positions]; where it is not `needed` (bool [batch, channels]), it may be 0 instead.

    Finding a position costs more than finding a maximum, and few images are stimuli of any neuron.
    """
    image, channel = needed.nonzero(as_tuple=True)
    if 4 * len(image) > needed.numel():
        return maps.argmax(dim=2)
    result = torch.zeros(needed.shape, dtype=torch.int64, device=maps.device)
    result[image, channel] = maps[image, channel].argmax(dim=1)
    return result


def strongest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest values of each row, largest first; ties by column.

    Returns:
        Values and columns, each [rows, min(count, columns)].
    """
    count = min(count, values.shape[1])
    largest, columns = values.topk(min(count + 1, values.shape[1]), dim=1)
    # topk selects and orders equal values arbitrarily
    tied = (largest[:, 1:] == largest[:, :-1]).any(dim=1).nonzero().flatten()
    if len(tied):
        exact = values[tied].sort(dim=1, descending=True, stable=True)
        largest[tied], columns[tied] = (part[:, : largest.shape[1]] for part in exact)
    return largest[:, :count], columns[:, :count]
