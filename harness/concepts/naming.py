"""Name what neurons detect, where images come with pixel labels (the drawn ones) or attributes.

Network Dissection (Bau et al., 2017): a neuron's map is cut at its top 0.5 % over all images and
positions; its concept is the one whose pixels overlap most with what remains.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.images.batches import batches
from harness.images.sets import FileImages, ImageSet, View
from harness.networks.layers import Layer
from harness.networks.recording import ActivationRecorder, borrowed
from harness.records import NEURON, Checkpoint

TOP_SHARE = 0.005

logger = logging.getLogger(__name__)


def label_masks(labels: np.ndarray, count: int) -> Tensor:
    """Label maps uint8 [images, h, w] (0 none, i + 1 the i-th) -> bool [images, count, h, w]."""
    values = torch.arange(1, count + 1, dtype=torch.uint8)
    return torch.from_numpy(labels)[:, None] == values[:, None, None]


def dissect(
    model: nn.Module,
    layers: Sequence[Layer],
    images: ImageSet,
    masks: Tensor,
    concepts: Sequence[str],
    view: View,
    checkpoint: Checkpoint,
    batch_size: int = 64,
    on_image: Callable[[int], None] = lambda count: None,
) -> pd.DataFrame:
    """The concept of every living neuron.

    Args:
        model, layers: what is dissected; layers without a place in the image are passed over.
        images: labelled images, disjoint from the probe images.
        masks: bool [images, concepts, height, width] over the whole view.
        concepts: names.
        view: how the model sees an image.
        checkpoint: whose neurons these are.

    Returns:
        series, epoch, layer, channel, concept (of the largest overlap), iou (intersection over
        union, cells weighted by the share of them that the concept covers). Neurons that never
        vary are absent.
    """
    spatial = [layer for layer in layers if layer.width > 1]
    maps: dict[str, list[Tensor]] = {layer.name: [] for layer in spatial}
    with (
        borrowed(model),
        torch.inference_mode(),
        ActivationRecorder(model, spatial, lambda z, _: z.to(torch.float32, copy=True)) as record,
    ):
        for ids, batch in batches(images, np.arange(len(images)), view, batch_size):
            model(batch)
            for layer in spatial:
                maps[layer.name].append(record.kept[layer.name][:, :, layer.extra :])
            on_image(len(ids))
    covered: dict[tuple[int, int], Tensor] = {}
    frames = []
    for layer in spatial:
        size = (layer.height, layer.width)
        if size not in covered:
            pooled = [
                functional.adaptive_avg_pool2d(part.float(), size) for part in masks.split(64)
            ]
            covered[size] = torch.cat(pooled).flatten(2).transpose(1, 2).flatten(0, 1)
        activations = torch.cat(maps.pop(layer.name)).transpose(1, 2).flatten(0, 1)
        overlap = overlaps(activations, covered[size])
        best = overlap.max(dim=1)
        alive = (activations.amax(dim=0) > activations.amin(dim=0)).numpy()
        frame = pd.DataFrame(
            {
                "series": checkpoint.series,
                "epoch": checkpoint.epoch,
                "layer": layer.name,
                "channel": np.arange(layer.channels),
                "concept": [concepts[index] for index in best.indices],
                "iou": best.values.numpy(),
            }
        )
        frames.append(frame[alive])
    if not frames:
        logger.warning(
            "series %s: no probed layer has a place in the image: no neuron is named by masks",
            checkpoint.series,
        )  # fmt: skip
        return pd.DataFrame(columns=[*NEURON, "concept", "iou"])
    return pd.concat(frames, ignore_index=True)


def overlaps(activations: Tensor, covered: Tensor) -> Tensor:
    """Intersection over union of each neuron's top cells with each concept.

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
    """Intersection over union of each neuron's strongest images with those of each attribute.

    For an attribute of n images the neuron's n strongest are taken (ties by image); so 1 is a
    perfect detector, and n / (2 N - n) about what chance gives among N images.

    Args:
        activations: float [images, neurons].
        attributes: bool [images, attributes]. One that no image has overlaps with nothing.

    Returns:
        float [neurons, attributes].
    """
    order = np.argsort(-activations, axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(len(order))[:, None], axis=0)
    found = np.zeros((activations.shape[1], attributes.shape[1]))
    for index, has in enumerate(attributes.T):
        count = int(has.sum())
        if count:
            shared = (rank[has] < count).sum(axis=0)
            found[:, index] = shared / (2 * count - shared)
    return found


def read_attributes(path: Path, images: FileImages) -> tuple[np.ndarray, list[str]]:
    """A CSV of attributes: `path` (the end of an image's path, e.g. cat/12.jpg), then 0 or 1 each.

    Returns:
        bool [images, attributes] in the images' order, names.

    Raises:
        ValueError: no such file, no `path` column, values other than 0 and 1, images without a row.
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
    row = {text.strip("/"): number for number, text in enumerate(table["path"])}
    places = []
    for image in images.paths:
        ends = ("/".join(image.parts[start:]) for start in range(len(image.parts)))
        place = next((row[end] for end in ends if end in row), None)
        if place is None:
            raise ValueError(f"attributes {path} have no row for {image}")
        places.append(place)
    return values.to_numpy(dtype=bool)[places], names
