"""Name what the neurons of every checkpoint detect, by masks of parts or attributes of images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from harness.artifacts import Artifact, Run
from harness.concepts.naming import (
    OVERLAPS_VERSION,
    attribute_overlaps,
    dissect,
    label_masks,
    read_attributes,
    threshold_bytes,
)
from harness.concepts.probing import ProbeParameters, probe_range
from harness.concepts.stimuli import neurons_table
from harness.config import DrawnImagesSection, FolderImagesSection
from harness.images import drawn
from harness.images.sets import ArrayImages, FileImages, open_images
from harness.images.view import View
from harness.networks.budget import pass_memory
from harness.networks.layer import Layer
from harness.records import NEURON
from harness.stages.checkpoints import LayersWork, loadable_checkpoints
from harness.stages.stage import Advance, Plan, Step, Value, Work

MASKED_IMAGES = 600  # maximum number of test images by which neurons are named


@dataclass(frozen=True)
class NameByMasks(LayersWork):
    """Work that names one checkpoint's neurons by the masks of the first `count` test images."""

    count: int

    kinds = ("concepts",)
    activity: ClassVar[str] = "naming neurons of"

    @property
    def depends(self) -> object:
        return self.count

    @property
    def steps(self) -> int:
        return 2 * self.count  # `dissect` passes over them twice

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        masks, images = _read_masks(run, self.count, self.source.view), open_images(run, "test")
        assert isinstance(images, ArrayImages)
        network, concepts = self.network(run), [*drawn.PARTS, *drawn.COLOURS]

        def name_neurons(count: int, **options: Any) -> pd.DataFrame:
            subset = replace(images, arrays=images.arrays[:count], labels=images.labels[:count])
            return dissect(network, subset, masks[:count], concepts, **options)

        kept = masks.nbytes + threshold_bytes(network.layers, self.count)
        largest = ProbeParameters().batch_size
        batch_size = self.fit_batch_size(run, network, name_neurons, largest, kept)
        yield name_neurons(self.count, batch_size=batch_size, on_image=advance)


def _read_masks(run: Run, count: int, view: View) -> Tensor:
    """Return the masks of parts and colours of the first `count` test images, see `dissect`."""
    arrays = run.arrays(Artifact("images", ("test",)))
    parts, colours = (
        label_masks(view.seen_part(arrays[name][:count]), len(labels))
        for name, labels in (("parts", drawn.PARTS), ("colours", drawn.COLOURS))
    )
    return torch.cat([parts, colours], dim=1)


def naming_bytes(layers: Sequence[Layer], count: int) -> int:
    """Return about the largest number of bytes that naming by masks of `count` images needs: the
    masks (twice while they are read), those of a batch as numbers, its maps, and thresholds."""
    batch = ProbeParameters().batch_size
    maps = sum(4 * layer.channels * layer.height * layer.width for layer in layers)
    masks = (len(drawn.PARTS) + len(drawn.COLOURS)) * drawn.SIZE**2
    return 2 * count * masks + batch * (4 * masks + 2 * maps) + threshold_bytes(layers, count)


@dataclass(frozen=True)
class NameByAttributes(LayersWork):
    """Work that names one checkpoint's neurons by the attributes of the user's test images."""

    path: Path
    attributes: tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]

    kinds = ("concepts",)
    activity: ClassVar[str] = "naming neurons of"

    @property
    def depends(self) -> object:
        return OVERLAPS_VERSION, self.attributes

    @property
    def steps(self) -> int:
        return len(self.attributes[1])

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        images = open_images(run, "test")
        assert isinstance(images, FileImages)
        attributes, names = read_attributes(self.path, images)
        network, tables = self.network(run), []
        parameters = ProbeParameters(k=1, responsive=1)  # only the activations are needed
        layer_bytes = [4 * len(images) * layer.channels for layer in network.layers]
        limit = min(sum(layer_bytes), max(pass_memory(network.model) // 2, *layer_bytes))
        batch_size = self.fit_batch_size(
            run,
            network,
            lambda count: probe_range(network, images, range(count), parameters),
            parameters.batch_size,
            limit,
        )
        groups = layer_groups(network.layers, layer_bytes, limit)
        for number, group in enumerate(groups):
            record = probe_range(
                replace(network, layers=group),
                images,
                range(len(images)),
                parameters.model_copy(update={"batch_size": batch_size}),
                advance if number == 0 else lambda count: None,
            )
            assert record.activations is not None
            overlap = attribute_overlaps(record.activations.T, attributes)
            best = [names[i] for i in overlap.argmax(axis=1)]
            rows = neurons_table(record.part, group).assign(concept=best, iou=overlap.max(axis=1))
            tables.append(rows[~rows["dead"]])
        table = pd.concat(tables, ignore_index=True)
        table = table.assign(series=self.source.name, epoch=self.epoch)
        yield table[[*NEURON, "concept", "iou"]]


def layer_groups(layers: Sequence[Layer], sizes: Sequence[int], limit: int) -> list[list[Layer]]:
    """Divide layers into successive groups of at most `limit` bytes, each of at least one layer."""
    groups: list[list[Layer]] = [[]]
    free = limit
    for layer, size in zip(layers, sizes, strict=True):
        if size > free and groups[-1]:
            groups.append([])
            free = limit
        groups[-1].append(layer)
        free -= size
    return groups


def naming_steps(plan: Plan) -> Iterator[Step]:
    """Name neurons by the masks of synthetic images or the user's attributes, if any."""
    config, checkpoints = plan.config, loadable_checkpoints(plan.config)
    works: list[Work] = []
    if isinstance(config.images, DrawnImagesSection):
        count = min(MASKED_IMAGES, config.images.test)
        works = [NameByMasks(*checkpoint, count) for checkpoint in checkpoints]
    elif isinstance(config.images, FolderImagesSection) and config.images.attributes is not None:
        path = config.images.attributes
        assert isinstance(plan.test_images, FileImages)
        values, names = read_attributes(path, plan.test_images)
        attributes = (tuple(names), tuple(map(tuple, values.astype(int).tolist())))
        works = [NameByAttributes(*checkpoint, path, attributes) for checkpoint in checkpoints]
    made = {artifact for work in works for artifact in work.makes}
    keys = ((checkpoint.series, checkpoint.epoch) for checkpoint in config.checkpoints())
    plan.discard({Artifact("concepts", key) for key in keys} - made)
    if works:
        yield "naming concepts", works
