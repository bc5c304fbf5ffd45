"""Stage: find the layers of every series, record every checkpoint, name what neurons detect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from harness.artifacts import Artifact, Run
from harness.concepts.naming import attribute_overlaps, dissect, label_masks, read_attributes
from harness.concepts.probing import ProbeParameters, probe
from harness.config import DrawnImagesSection, FolderImagesSection
from harness.images import drawn
from harness.images.batches import batch_of
from harness.images.sets import ArrayImages, FileImages, open_images
from harness.networks.architectures import takes_channels_last
from harness.networks.layers import find_layers
from harness.networks.receptive_field import with_patches
from harness.networks.sources import Source
from harness.records import NEURON, Checkpoint
from harness.stages.checkpoints import (
    give_checkpoints,
    load,
    prepared,
    read_layers,
    view_of,
)
from harness.stages.stage import Advance, Plan, Stage, Step, Value, Work

MASKED_IMAGES = 600  # how many of the test images serve to name what neurons detect


@dataclass(frozen=True)
class FindLayers(Work):
    """Find the probed layers of a series, on its last checkpoint."""

    source: Source

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return (Artifact("layers", (self.source.name,)),)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return (Artifact("checkpoint", (self.source.name, self.source.epochs()[-1])),)

    @property
    def depends(self) -> object:
        return []

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        source = self.source
        classes = len(open_images(run, "test").classes)
        model = source.load(source.epochs()[-1], classes, run)
        fits = takes_channels_last(model, batch_of(open_images(run, "test"), [0, 1], source.view))
        model = prepared(model, source, fits)
        view = replace(source.view, channels_last=fits)
        layers = find_layers(model, view, source.layers, source.channels_last)
        layers = with_patches(model, layers, view)
        table = pd.DataFrame([vars(layer) for layer in layers]).rename(columns={"name": "layer"})
        table.insert(0, "series", source.name)
        yield table.assign(resize=source.resize, crop=source.crop, memory_channels_last=fits)


@dataclass(frozen=True)
class _OfCheckpoint(Work):
    """What is done with one checkpoint and its layers."""

    source: Source
    epoch: int

    @property
    def place(self) -> tuple[str, int]:
        return self.source.name, self.epoch

    @property
    def network(self) -> tuple[Artifact, ...]:
        return Artifact("checkpoint", self.place), Artifact("layers", (self.source.name,))


@dataclass(frozen=True)
class ProbeCheckpoint(_OfCheckpoint):
    """Record one checkpoint on the probe images."""

    parameters: ProbeParameters
    images: int

    @property
    def makes(self) -> tuple[Artifact, ...]:
        kinds = ["stimuli", "responsive"] + ["activations"] * self.parameters.activations
        return tuple(Artifact(kind, self.place) for kind in kinds)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return (*self.network, Artifact("image_index", ("probe",)))

    @property
    def depends(self) -> object:
        return self.parameters.model_dump(exclude={"batch_size", "range_images"})

    @property
    def steps(self) -> int:
        return self.images

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        result = probe(
            load(run, self.source, self.epoch),
            read_layers(run, self.source.name),
            open_images(run, "probe"),
            view_of(run, self.source),
            Checkpoint(*self.place),
            self.parameters,
            advance,
        )
        yield result.stimuli
        yield result.responsive
        if self.parameters.activations:
            yield {
                "activations": result.activations,
                "layer": result.neurons["layer"].to_numpy(dtype=str),
                "channel": result.neurons["channel"].to_numpy(),
            }


@dataclass(frozen=True)
class NameByMasks(_OfCheckpoint):
    """Name one checkpoint's neurons by the masks of the first `count` drawn test images."""

    count: int

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return (Artifact("concepts", self.place),)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return (*self.network, Artifact("image_index", ("test",)))

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
            load(run, self.source, self.epoch),
            read_layers(run, self.source.name),
            replace(images, arrays=images.arrays[: self.count], labels=images.labels[: self.count]),
            torch.cat(masks, dim=1),
            [*drawn.PARTS, *drawn.COLOURS],
            view_of(run, self.source),
            Checkpoint(*self.place),
            on_image=advance,
        )


@dataclass(frozen=True)
class NameByAttributes(_OfCheckpoint):
    """Name one checkpoint's neurons by the attributes of the user's test images."""

    path: Path
    known: tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return (Artifact("concepts", self.place),)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return (*self.network, Artifact("image_index", ("test",)))

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
        recorded = probe(
            load(run, self.source, self.epoch),
            read_layers(run, self.source.name),
            images,
            view_of(run, self.source),
            Checkpoint(*self.place),
            ProbeParameters(k=1, responsive=1),
            advance,
        )
        overlap = attribute_overlaps(recorded.activations, attributes)
        table = recorded.neurons.assign(
            series=self.source.name,
            epoch=self.epoch,
            concept=[names[best] for best in overlap.argmax(axis=1)],
            iou=overlap.max(axis=1),
        )
        living = ~table["dead"]
        yield table.loc[living, [*NEURON, "concept", "iou"]].reset_index(drop=True)


def _steps(plan: Plan) -> Iterator[Step]:
    give_checkpoints(plan)
    config, run = plan.config, plan.run
    yield "layers", [FindLayers(source) for source in config.series]
    images = len(open_images(run, "probe"))
    checkpoints = [(source, epoch) for source in config.series for epoch in source.epochs()]
    yield "probing", [ProbeCheckpoint(*one, config.probe, images) for one in checkpoints]
    # neurons are named by the drawn parts' masks or by the user's attributes, where there are any
    if isinstance(config.images, DrawnImagesSection):
        count = min(MASKED_IMAGES, config.images.test)
        yield "naming concepts", [NameByMasks(*one, count) for one in checkpoints]
    elif isinstance(config.images, FolderImagesSection) and config.images.attributes is not None:
        path = config.images.attributes
        assert isinstance(plan.test_images, FileImages)
        values, names = read_attributes(path, plan.test_images)
        known = (tuple(names), tuple(map(tuple, values.astype(int).tolist())))
        yield "naming concepts", [NameByAttributes(*one, path, known) for one in checkpoints]


STAGE = Stage("probe", "Record stimuli, peaks and activations of every checkpoint.", _steps)
