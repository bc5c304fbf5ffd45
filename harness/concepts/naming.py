"""Name what neurons detect, by pixel labels (the synthetic images have them) or attributes of
images.

Network Dissection (Bau et al., 2017): a neuron's maps are thresholded at its highest 0.5 % of
activations over all images and positions; its concept is the one whose pixels overlap most with the
rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from harness.concepts.network import Network
from harness.images.batches import batches
from harness.images.sets import FileImages, ImageSet
from harness.networks.budget import halving
from harness.networks.layer import Layer
from harness.networks.recording import ActivationRecorder, borrowed
from harness.networks.running import run_network
from harness.records import NEURON
from harness.text import listed

TOP_SHARE = 0.005
#: Most bytes of the ranks that attributes are compared with at a time.
RANK_BYTES = 2**27

logger = logging.getLogger(__name__)


def label_masks(labels: np.ndarray, count: int) -> Tensor:
    """Label maps uint8 [images, h, w] (0 none, i + 1 the i-th) -> bool [images, count, h, w]."""
    values = torch.arange(1, count + 1, dtype=torch.uint8)
    return torch.from_numpy(labels)[:, None] == values[:, None, None]


def dissect(
    network: Network,
    images: ImageSet,
    masks: Tensor,
    concepts: Sequence[str],
    batch_size: int = 64,
    on_image: Callable[[int], None] = lambda count: None,
    memory: int = 2**31,
) -> pd.DataFrame:
    """Return the concept of every neuron that is not dead.

    The maps of all images are held for as many neurons at a time as fit the memory, at the price of
    a pass over the images for each such group.

    Args:
        network: what is dissected; layers without a position in the image are passed over.
        images: labelled images, disjoint from the probe images.
        masks: bool [images, concepts, height, width] over the whole view.
        concepts: names.
        batch_size: images a forward pass.
        on_image: called with the number of images just done, in the first pass.
        memory: bytes that the maps of a group may take, with what is computed from them.

    Returns:
        series, epoch, layer, channel, concept (of the largest overlap), iou (intersection over
        union, cells weighted by the share of them that the concept covers). Neurons that never
        vary are absent.
    """
    spatial = [layer for layer in network.layers if layer.width > 1]
    if not spatial:
        logger.warning(
            "series %s: no probed layer has a position in the image: no neuron is named by masks",
            network.checkpoint.series,
        )
        return pd.DataFrame(columns=[*NEURON, "concept", "iou"])
    frames = []
    covered: dict[tuple[int, int], Tensor] = {}
    for number, group in enumerate(channel_groups(spatial, len(images), memory)):
        report = on_image if number == 0 else lambda count: None
        maps = _maps(network, group, images, batch_size, report)
        for layer, channels in group:
            size = (layer.height, layer.width)
            if size not in covered:
                covered = {size: _covered(masks, size)}  # layers of one size follow one another
            activations = torch.cat(maps.pop((layer.name, channels.start)))
            activations = activations.transpose(1, 2).flatten(0, 1)
            best = overlaps(activations, covered[size]).max(dim=1)
            alive = (activations.amax(dim=0) > activations.amin(dim=0)).numpy()
            frame = pd.DataFrame(
                {
                    **vars(network.checkpoint),
                    "layer": layer.name,
                    "channel": np.arange(channels.start, channels.stop),
                    "concept": [concepts[index] for index in best.indices],
                    "iou": best.values.numpy(),
                }
            )
            frames.append(frame[alive])
    return pd.concat(frames, ignore_index=True)


#: Some neurons of a layer.
Channels = tuple[Layer, range]


def channel_groups(layers: Sequence[Layer], images: int, memory: int) -> list[list[Channels]]:
    """All neurons in groups, in order, such that a group's maps fit the memory three times: as they
    come, by neuron, and while they are sorted. A group has at least one neuron."""
    groups: list[list[Channels]] = [[]]
    left = memory
    for layer in layers:
        each = 3 * 4 * images * (layer.height * layer.width + layer.extra)
        start = 0
        while start < layer.channels:
            fit = min(left // each, layer.channels - start)
            if fit <= 0 and groups[-1]:
                groups.append([])
                left = memory
                continue
            stop = start + max(fit, 1)
            groups[-1].append((layer, range(start, stop)))
            left -= each * (stop - start)
            start = stop
    return groups


def _maps(
    network: Network,
    group: Sequence[Channels],
    images: ImageSet,
    batch_size: int,
    on_image: Callable[[int], None],
) -> dict[tuple[str, int], list[Tensor]]:
    """(layer, first channel) -> the maps of a group's neurons, float32 [batch, channels,
    positions] each."""
    wanted = {layer.name: channels for layer, channels in group}
    layers = [layer for layer, _ in group]
    maps: dict[tuple[str, int], list[Tensor]] = {(la.name, c.start): [] for la, c in group}

    def keep(output: Tensor, layer: Layer) -> Tensor:
        channels = wanted[layer.name]
        kept = layer.strength(output)[:, channels.start : channels.stop, layer.extra :]
        return kept.to("cpu", torch.float32, copy=True)

    def record(size: int) -> None:
        for parts in maps.values():
            parts.clear()
        with (
            borrowed(network.model),
            torch.inference_mode(),
            network.device.computing(),
            ActivationRecorder(network.model, layers, keep) as record,
        ):
            for ids, batch in batches(images, np.arange(len(images)), network.view, size):
                there = network.device.batch(batch)
                run_network(network.model, there, "to name what its neurons detect")
                for layer, channels in group:
                    maps[layer.name, channels.start].append(record.kept[layer.name])
                on_image(len(ids))

    halving(record, batch_size, "naming neurons")
    return maps


def _covered(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the share of each cell that each concept covers: float [cells, concepts]."""
    height, width = size
    covered = torch.empty(len(masks), height * width, masks.shape[1])
    for part, rows in zip(masks.split(64), covered.split(64), strict=True):
        pooled = functional.adaptive_avg_pool2d(part.float(), size)
        rows.copy_(pooled.flatten(2).transpose(1, 2))  # masks of large views leave no room for two
    return covered.flatten(0, 1)


def overlaps(activations: Tensor, covered: Tensor) -> Tensor:
    """Compute the intersection over union of each neuron's highest cells with each concept.

    Args:
        activations: float [cells, neurons], over all images and positions.
        covered: float [cells, concepts], the share of a cell that the concept covers.

    Returns:
        float [neurons, concepts].
    """
    kept = max(1, round(TOP_SHARE * len(activations)))
    threshold = activations.T.contiguous().topk(kept, dim=1, sorted=False).values.amin(dim=1)
    # ties at the threshold (a sparse neuron's zeros) must not count as active
    lowest = activations.amin(dim=0)
    active = ((activations >= threshold) & (activations > lowest)).float()
    shared = active.T @ covered
    union = active.sum(dim=0)[:, None] + covered.sum(dim=0)[None, :] - shared
    return torch.where(union > 0, shared / union.clamp(min=1e-12), 0.0)


def attribute_overlaps(activations: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of each neuron's strongest images with the images of
    each attribute.

    For an attribute of n images the neuron's n strongest are taken (ties by image); so 1 is a
    perfect detector, and n / (2 N - n) about what chance gives among N images.

    Args:
        activations: float [images, neurons].
        attributes: bool [images, attributes]. One that no image has overlaps with nothing.

    Returns:
        float [neurons, attributes].
    """
    images, neurons = activations.shape
    found = np.zeros((neurons, attributes.shape[1]))
    counts = attributes.sum(axis=0)
    step = max(1, RANK_BYTES // (16 * images))
    for start in range(0, neurons, step):
        block = activations[:, start : start + step]
        order = np.argsort(-block, axis=0, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(images)[:, None], axis=0)
        for index in np.flatnonzero(counts):
            shared = (rank[attributes[:, index]] < counts[index]).sum(axis=0)
            found[start : start + step, index] = shared / (2 * counts[index] - shared)
    return found


def read_attributes(path: Path, images: FileImages) -> tuple[np.ndarray, list[str]]:
    """Read a CSV file of attributes: `path` (the end of an image's path, e.g. cat/12.jpg), then
    columns of 0 and 1.

    Returns:
        bool [images, attributes] in the images' order, names.

    Raises:
        ValueError: no such file, no `path` column, values other than 0 and 1, images without a row
            or with several, rows of several images.
    """
    try:
        table = pd.read_csv(path, dtype={"path": str})
    except (OSError, ValueError) as error:
        raise ValueError(f"attributes {path} cannot be read: {error}") from error
    if "path" not in table or len(table.columns) < 2:
        raise ValueError(f"attributes {path} need a column `path` and one an attribute")
    names = [str(name) for name in table.columns if name != "path"]
    values = table[names]
    if not values.isin([0, 1]).all(axis=None):
        bad = next(name for name in names if not values[name].isin([0, 1]).all())
        raise ValueError(f"attributes {path}: column {bad!r} holds something other than 0 and 1")
    paths = table["path"].fillna("").str.strip("/")
    if twice := set(paths[paths.duplicated()]):
        raise ValueError(f"attributes {path} have several rows for {listed(sorted(twice), 4)}")
    row = {text: number for number, text in enumerate(paths)}
    taken: dict[int, Path] = {}
    for image in images.paths:
        ends = ("/".join(image.parts[start:]) for start in range(len(image.parts)))
        place = next((row[end] for end in ends if end in row), None)
        if place is None:
            raise ValueError(f"attributes {path} have no row for {image}")
        if place in taken:
            raise ValueError(
                f"attributes {path}: row {paths[place]} fits {taken[place]} and {image}: write "
                f"more of their paths"
            )
        taken[place] = image
    return values.to_numpy(dtype=bool)[list(taken)], names
