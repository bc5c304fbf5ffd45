"""Name what the neurons of every checkpoint detect, where images come with labels of parts or with
attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from harness.artifacts import Artifact, Run
from harness.concepts.naming import attribute_overlaps, dissect, label_masks, read_attributes
from harness.concepts.probing import ProbeParameters, probe
from harness.config import DrawnImagesSection, FolderImagesSection
from harness.images import drawn
from harness.images.sets import ArrayImages, FileImages, open_images
from harness.networks.budget import resources
from harness.networks.layer import Layer
from harness.records import NEURON
from harness.stages.checkpoints import OfLayers, loadable
from harness.stages.stage import Advance, Plan, Step, Value

MASKED_IMAGES = 600  # how many of the test images serve to name what neurons detect


@dataclass(frozen=True)
class NameByMasks(OfLayers):
    """Name one checkpoint's neurons by the masks of the first `count` drawn test images."""

    count: int

    kinds = ("concepts",)

    @property
    def depends(self) -> object:
        return self.count

    @property
    def steps(self) -> int:
        return self.count

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        arrays = run.arrays(Artifact("images", ("test",)))
        masks = [
            label_masks(arrays[name][: self.count], total)
            for name, total in (("parts", len(drawn.PARTS)), ("colours", len(drawn.COLOURS)))
        ]
        images = open_images(run, "test")
        assert isinstance(images, ArrayImages)
        yield dissect(
            self.network(run),
            replace(images, arrays=images.arrays[: self.count], labels=images.labels[: self.count]),
            torch.cat(masks, dim=1),
            [*drawn.PARTS, *drawn.COLOURS],
            on_image=advance,
            memory=resources().memory,
        )


@dataclass(frozen=True)
class NameByAttributes(OfLayers):
    """Name one checkpoint's neurons by the attributes of the user's test images."""

    path: Path
    known: tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]

    kinds = ("concepts",)

    @property
    def depends(self) -> object:
        return self.known

    @property
    def steps(self) -> int:
        return len(self.known[1])

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        images = open_images(run, "test")
        assert isinstance(images, FileImages)
        attributes, names = read_attributes(self.path, images)
        network, tables = self.network(run), []
        groups = _layer_groups(network.layers, len(images), resources().memory)
        for number, group in enumerate(groups):
            recorded = probe(
                replace(network, layers=group),
                images,
                ProbeParameters(k=1, responsive=1),
                advance if number == 0 else lambda count: None,
            )
            overlap = attribute_overlaps(recorded.activations, attributes)
            best = overlap.argmax(axis=1)
            named = recorded.neurons.assign(
                concept=[names[i] for i in best], iou=overlap.max(axis=1)
            )
            tables.append(named[~named["dead"]])
        table = pd.concat(tables, ignore_index=True)
        table = table.assign(series=self.source.name, epoch=self.epoch)
        yield table[[*NEURON, "concept", "iou"]]


def _layer_groups(layers: Sequence[Layer], images: int, memory: int) -> list[list[Layer]]:
    """The layers in groups, in order, whose activations fit the memory thrice; one at least."""
    groups: list[list[Layer]] = [[]]
    left = memory
    for layer in layers:
        needed = 3 * 4 * images * layer.channels
        if needed > left and groups[-1]:
            groups.append([])
            left = memory
        groups[-1].append(layer)
        left -= needed
    return groups


def naming_steps(plan: Plan) -> Iterator[Step]:
    """Name neurons by the drawn parts' masks or by the user's attributes, where there are any."""
    config, checkpoints = plan.config, loadable(plan.config)
    if isinstance(config.images, DrawnImagesSection):
        count = min(MASKED_IMAGES, config.images.test)
        yield "naming concepts", [NameByMasks(*one, count) for one in checkpoints]
    elif isinstance(config.images, FolderImagesSection) and config.images.attributes is not None:
        path = config.images.attributes
        assert isinstance(plan.test_images, FileImages)
        values, names = read_attributes(path, plan.test_images)
        known = (tuple(names), tuple(map(tuple, values.astype(int).tolist())))
        yield "naming concepts", [NameByAttributes(*one, path, known) for one in checkpoints]
