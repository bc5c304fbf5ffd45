"""True concepts of neurons, from masks (the synthetic images have them) or attributes of images.

Masks as in Network Dissection (Bau et al., 2017): a neuron's maps of all images are thresholded at
its highest 0.5 % of activations; its concept is the one whose masks overlap most with the rest.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from harness.images.batches import batches
from harness.images.sets import FileImages, ImageSet
from harness.networks.budget import run_halving
from harness.networks.layer import Layer, Network
from harness.networks.recording import borrow, record_maps
from harness.networks.running import run_network
from harness.records import NEURON
from harness.text import join_names

R = TypeVar("R", "_Thresholds", "_Overlaps")

TOP_SHARE = 0.005
#: Version of `attribute_overlaps`; where it differs, neurons are named again.
OVERLAPS_VERSION = 2
#: Largest size in bytes of what is compared with attributes at a time.
RANK_BYTES = 2**25

logger = logging.getLogger(__name__)


def label_masks(labels: np.ndarray, count: int) -> Tensor:
    """Convert label maps uint8 [images, height, width] (0: none, i + 1: label i) to one mask per
    label: bool [images, count, height, width]."""
    values = torch.arange(1, count + 1, dtype=torch.uint8)
    return torch.from_numpy(labels)[:, None] == values[:, None, None]


def dissect(
    network: Network,
    images: ImageSet,
    masks: Tensor,
    concepts: Sequence[str],
    batch_size: int = 64,
    on_image: Callable[[int], None] = lambda count: None,
) -> pd.DataFrame:
    """Compute the true concept of every neuron whose activation varies.

    A first pass over the images finds each neuron's threshold, a second its overlaps with concepts.
    The only memory that grows with the number of images is what `threshold_bytes` returns.

    Args:
        network: the network; layers without positions in the image are left out.
        images: labelled images, disjoint from the probe images.
        masks: bool [images, concepts, height, width], for the whole view.
        batch_size: number of images per forward pass.
        on_image: called with the number of images just processed, in both passes.

    Returns:
        series, epoch, layer, channel, concept (the one of largest overlap), iou (intersection over
        union; each position of a map counts by the share of it that the concept covers); one row
        per neuron whose activation varies.
    """
    layers = _spatial_layers(network.layers)
    if not layers:
        logger.warning(
            "series %s: no probed layer has positions in the image, so masks name no neuron",
            network.checkpoint.series,
        )
        return pd.DataFrame(columns=[*NEURON, "concept", "iou"])

    def run_pass(make_recording: Callable[[], R], batch_size: int) -> R:
        recording = make_recording()
        keep = record_maps(network.model, layers, recording.keep)
        with borrow(network.model), torch.no_grad(), network.device.computing(), keep:
            for ids, batch in batches(images, np.arange(len(images)), network.view, batch_size):
                recording.start(ids)
                inputs = network.device.batch(batch)
                run_network(network.model, inputs, "to name what its neurons detect")
                on_image(len(ids))
        return recording

    top_counts = {layer.name: top_cells(layer, len(images)) for layer in layers}
    make_thresholds = partial(_Thresholds, top_counts)
    thresholds = run_halving(partial(run_pass, make_thresholds), batch_size, "naming neurons")
    make_overlaps = partial(_Overlaps, thresholds, masks)
    overlaps = run_halving(partial(run_pass, make_overlaps), batch_size, "naming neurons")
    frames = {}
    for layer in layers:
        iou, best = overlaps.overlaps(layer).max(dim=1)
        frame = pd.DataFrame({"concept": [concepts[i] for i in best], "iou": iou.numpy()})
        frames[layer.name] = frame[thresholds.varies(layer)]
    table = pd.concat(frames, names=["layer", "channel"]).reset_index()
    return table.assign(**vars(network.checkpoint))[[*NEURON, "concept", "iou"]]


def _spatial_layers(layers: Sequence[Layer]) -> list[Layer]:
    return [layer for layer in layers if layer.width > 1]


def top_cells(layer: Layer, images: int) -> int:
    """Return the number of positions that are the top 0.5 % of a neuron's maps of all images."""
    return max(1, round(TOP_SHARE * images * layer.height * layer.width))


def threshold_bytes(layers: Sequence[Layer], images: int) -> int:
    """Return the bytes that `dissect` holds in addition to a forward pass: the top activations
    of all neurons, and two copies of those of one layer while further ones are added."""
    sizes = [4 * layer.channels * top_cells(layer, images) for layer in _spatial_layers(layers)]
    return sum(sizes) + 2 * max(sizes, default=0)


def _neuron_activations(maps: Tensor, layer: Layer) -> Tensor:
    """Return the activations of each neuron in a batch without `extra` tokens, float32
    [channels, images x positions]; `maps` is a result of `channel_first`."""
    values = layer.strength(maps)[:, :, layer.extra :].transpose(0, 1)
    return values.to("cpu", torch.float32).flatten(1)


class _Thresholds:
    """Each neuron's threshold: its top activations (`top_counts`: layer name -> their number) and
    its lowest one, over the images so far."""

    def __init__(self, top_counts: Mapping[str, int]) -> None:
        self._top_counts = top_counts
        self._top: dict[str, Tensor] = {}  # [channels, up to their number]
        self._lowest: dict[str, Tensor] = {}  # [channels]

    def start(self, ids: Tensor) -> None:
        """Receive the ids of the next batch of images, of which `keep` gets each layer's maps."""

    def keep(self, maps: Tensor, layer: Layer) -> None:
        values = _neuron_activations(maps, layer)
        name, count = layer.name, self._top_counts[layer.name]
        lowest = values.amin(dim=1)
        lowest = torch.minimum(lowest, self._lowest.get(name, lowest))
        values = torch.cat([self._top.get(name, values[:, :0]), values], dim=1)
        if values.shape[1] > count:
            values = values.topk(count, dim=1, sorted=False).values
        self._top[name], self._lowest[name] = values, lowest

    def active(self, values: Tensor, layer: Layer) -> Tensor:
        """Return which activations are at or above the neuron's threshold: bool [channels,
        positions]. Its lowest value (such as the zeros of a sparse neuron) never is."""
        threshold, lowest = self._top[layer.name].amin(dim=1), self._lowest[layer.name]
        return (values >= threshold[:, None]) & (values > lowest[:, None])

    def varies(self, layer: Layer) -> np.ndarray:
        """Return whether the activation of each neuron varies: bool [channels]."""
        return (self._top[layer.name].amax(dim=1) > self._lowest[layer.name]).numpy()


class _Overlaps:
    """The overlap of each neuron's top positions (`thresholds`) with each concept (`masks`: bool
    [images, concepts, height, width]), summed in double precision, so independent of the batches.
    """

    def __init__(self, thresholds: _Thresholds, masks: Tensor) -> None:
        self._thresholds, self._masks = thresholds, masks
        self._sums: dict[str, tuple[np.ndarray, Tensor, Tensor]] = {}

    def start(self, ids: Tensor) -> None:
        self._batch_masks = self._masks[ids].float()
        self._coverages: dict[tuple[int, int], Tensor] = {}

    def keep(self, maps: Tensor, layer: Layer) -> None:
        size = (layer.height, layer.width)
        if size not in self._coverages:  # consecutive layers often have one size
            self._coverages = {size: _coverage(self._batch_masks, size)}
        coverage = self._coverages[size]
        active = self._thresholds.active(_neuron_activations(maps, layer), layer)
        active_cells = sparse.csr_array(active.numpy(), dtype=np.float64)
        sums = active_cells @ coverage.numpy(), active.sum(dim=1), coverage.sum(dim=0)
        if previous := self._sums.get(layer.name):
            sums = sums[0] + previous[0], sums[1] + previous[1], sums[2] + previous[2]
        self._sums[layer.name] = sums

    def overlaps(self, layer: Layer) -> Tensor:
        """Return the intersections over union with concepts: float32 [neurons, concepts]."""
        intersection, active_area, concept_area = self._sums[layer.name]
        shared_area = torch.from_numpy(intersection)
        union = active_area[:, None] + concept_area[None, :] - shared_area
        return torch.where(union > 0, shared_area / union, 0.0).float()


def _coverage(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return each concept's share of each position: float64 [images x positions, concepts]."""
    pooled = functional.adaptive_avg_pool2d(masks, size)
    return pooled.flatten(2).transpose(1, 2).flatten(0, 1).double()


def attribute_overlaps(activations: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of neurons' top images with the images of attributes,
    adjusted for chance.

    For an attribute of n images, the n images that activate the neuron most are taken. Of tied
    images, such as those on which a sparse neuron is 0, each counts by the share of them that is
    taken; otherwise the first images, which are of one class, would name every sparse neuron.
    Random ones among N images share n²/N with those of the attribute on average, which gives
    n / (2 N - n). This is subtracted, and divided out of the largest value: 1 is a perfect
    detector, 0 is chance. Without it, attributes of most images would name every neuron.

    Args:
        activations: float [images, neurons].
        attributes: bool [images, attributes], each of some images, but not of all. If no image has
            an attribute, its overlaps are 0.

    Returns:
        float [neurons, attributes].
    """
    images, neurons = activations.shape
    overlaps = np.zeros((neurons, attributes.shape[1]))
    counts = attributes.sum(axis=0)
    step = max(1, RANK_BYTES // (16 * images))
    for start in range(0, neurons, step):
        block = activations[:, start : start + step]
        ordered = np.sort(block, axis=0)[::-1]
        for index in np.flatnonzero(counts):
            least = ordered[counts[index] - 1]  # of the activations of the images that are taken
            larger, tied = block > least, block == least
            has = attributes[:, index]
            share = (counts[index] - larger.sum(axis=0)) / tied.sum(axis=0)
            shared = larger[has].sum(axis=0) + share * tied[has].sum(axis=0)
            overlap = shared / (2 * counts[index] - shared)
            chance = counts[index] / (2 * images - counts[index])
            overlaps[start : start + step, index] = (overlap - chance) / (1 - chance)
    return overlaps


def read_attributes(path: Path, images: FileImages) -> tuple[np.ndarray, list[str]]:
    """Read a CSV file of attributes: a column `path` (the end of an image's path, e.g. cat/12.jpg)
    and one column of 0 and 1 per attribute.

    Rows of other images, and attributes that no image or every image has (every neuron's overlap
    with the latter would be 1), are left out and reported.

    Returns:
        bool [images, attributes] in the order of `images`, and the attributes' names.

    Raises:
        ValueError: the file cannot be read, lacks a column, has two of one name or one without a
            name, or has values other than 0 and 1; an image has no row or several; a row fits
            several images; or no attribute is left.
    """
    try:
        header = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]
        table = pd.read_csv(path, dtype={"path": str})
    except (OSError, ValueError) as error:
        raise ValueError(f"attributes {path} cannot be read: {error}") from error
    if "path" not in table or len(table.columns) < 2:
        raise ValueError(f"attributes {path} need a column `path` and one per attribute")
    if header.isna().any() or header.duplicated().any():
        raise ValueError(
            f"attributes {path}: its columns must have different names, got "
            f"{join_names(map(repr, header.fillna('')), 12)}"
        )
    names = [str(name) for name in table.columns if name != "path"]
    values = table[names]
    if not values.isin([0, 1]).all(axis=None):
        name = next(name for name in names if not values[name].isin([0, 1]).all())
        raise ValueError(f"attributes {path}: column {name!r} holds something other than 0 and 1")
    paths = table["path"].fillna("").str.strip("/")
    if repeats := set(paths[paths.duplicated()]):
        raise ValueError(
            f"attributes {path} have several rows for {join_names(sorted(repeats), 4)}"
        )
    row_of_path = {text: number for number, text in enumerate(paths)}
    image_of_row: dict[int, Path] = {}
    for image in map(Path, images.paths):
        ends = ("/".join(image.parts[start:]) for start in range(len(image.parts)))
        row = next((row_of_path[end] for end in ends if end in row_of_path), None)
        if row is None:
            raise ValueError(f"attributes {path} have no row for {image}")
        if row in image_of_row:
            raise ValueError(
                f"attributes {path}: row {paths[row]} fits both {image_of_row[row]} and {image}: "
                f"write more of their paths"
            )
        image_of_row[row] = image
    chosen = values.to_numpy(dtype=bool)[list(image_of_row)]
    if others := len(table) - len(chosen):
        _note(f"attributes {path}: {others} of {len(table)} rows are of no test image")
    varies = chosen.any(axis=0) & ~chosen.all(axis=0)
    if not varies.any():
        raise ValueError(
            f"attributes {path}: no attribute differs between the {len(chosen)} test images"
        )
    if not varies.all():
        constant = join_names(name for name, keep in zip(names, varies, strict=True) if not keep)
        _note(f"attributes {path}: no test image, or every one, has {constant}: left out")
    return chosen[:, varies], [name for name, keep in zip(names, varies, strict=True) if keep]


@cache  # said once, though the file is read for every checkpoint
def _note(text: str) -> None:
    logger.warning("%s", text)
