"""Stage: find the layers of every series, record every checkpoint, name what neurons detect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from harness.artifacts import Artifact, Run, write_tables
from harness.concepts.naming import attribute_overlaps, dissect, label_masks, read_attributes
from harness.concepts.probing import ProbeParameters, probe, probe_range, ranges
from harness.concepts.recorded import (
    ProbePart,
    merge,
    neurons_of,
    responsive_table,
    stimuli_table,
)
from harness.config import Config, DrawnImagesSection, FolderImagesSection
from harness.images import drawn
from harness.images.batches import batch_of
from harness.images.sets import ArrayImages, FileImages, open_images, sample_digest
from harness.networks.architectures import takes_channels_last
from harness.networks.budget import resources
from harness.networks.layers import Layer, find_layers
from harness.networks.receptive_field import with_patches
from harness.networks.recorded_source import RecordedSource
from harness.networks.sources import RECORDED, Source
from harness.records import NEURON, Checkpoint
from harness.stages.checkpoints import (
    give_checkpoints,
    load,
    opened,
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
        last = (self.source.loadable() or self.source.epochs())[-1]
        return (Artifact("checkpoint", (self.source.name, last)),)

    @property
    def depends(self) -> object:
        return []

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        source = self.source
        if not source.loadable():
            assert isinstance(source, RecordedSource)
            yield source.evidence.table(Artifact("layers", (RECORDED,))).assign(series=source.name)
            return
        model = opened(run, source, source.loadable()[-1])
        two = batch_of(open_images(run, "test"), [0, 1], source.view)
        fits = takes_channels_last(model, two)
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
class ProbeRange(_OfCheckpoint):
    """Record one checkpoint on a range of the probe images."""

    parameters: ProbeParameters
    images: range

    @property
    def _range(self) -> tuple[str, int, int, int]:
        return (*self.place, self.images.start, self.images.stop)

    @property
    def makes(self) -> tuple[Artifact, ...]:
        kinds = ["activations"] * self.parameters.activations + ["probe_part", "responses_part"]
        return tuple(Artifact(kind, self._range) for kind in kinds)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return (*self.network, Artifact("image_index", ("probe",)))

    @property
    def depends(self) -> object:
        parameters = self.parameters.model_dump(exclude={"batch_size", "range_images"})
        return [parameters, self.images.start, self.images.stop]

    @property
    def steps(self) -> int:
        return len(self.images)

    def left(self, plan: Plan) -> bool:
        """Whether what stays after joining is there."""
        return all(plan.has(made) for made in self.makes if made.kind == "activations")

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        layers = read_layers(run, self.source.name)
        record = probe_range(
            load(run, self.source, self.epoch),
            layers,
            open_images(run, "probe"),
            view_of(run, self.source),
            self.images,
            self.parameters,
            advance,
            resources().device,
        )
        if record.activations is not None:
            neurons = neurons_of(layers)
            yield {
                "activations": record.activations,
                "layer": neurons["layer"].to_numpy(dtype=str),
                "channel": neurons["channel"].to_numpy(),
            }
        yield record.part.arrays()
        yield record.responses


@dataclass(frozen=True)
class JoinRanges(_OfCheckpoint):
    """Join what the ranges of images recorded of one checkpoint; their parts go."""

    ranges: tuple[ProbeRange, ...]

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return Artifact("stimuli", self.place), Artifact("responsive", self.place)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return self.ranges[0].reads  # how the images are divided changes no result

    @property
    def depends(self) -> object:
        return self.ranges[0].parameters.model_dump(exclude={"batch_size", "range_images"})

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        layers, checkpoint = read_layers(run, self.source.name), Checkpoint(*self.place)
        parts, responses = (
            [artifact for work in self.ranges for artifact in work.makes if artifact.kind == kind]
            for kind in ("probe_part", "responses_part")
        )
        joined = merge(ProbePart.from_arrays(run.arrays(part)) for part in parts)
        yield stimuli_table(joined, layers, checkpoint, self.ranges[-1].images.stop)
        write_tables(
            run.path(Artifact("responsive", self.place)),
            (responsive_table(run.table(part), layers, checkpoint) for part in responses),
        )
        yield None
        for part in (*parts, *responses):
            run.remove(part)
        advance(1)


@dataclass(frozen=True)
class TakeEvidence(_OfCheckpoint):
    """Take what was recorded of a checkpoint while the network trained."""

    parameters: ProbeParameters
    ranges: tuple[range, ...]

    @property
    def makes(self) -> tuple[Artifact, ...]:
        parts = self.ranges if self.parameters.activations else ()
        activations = (Artifact("activations", (*self.place, r.start, r.stop)) for r in parts)
        return Artifact("stimuli", self.place), Artifact("responsive", self.place), *activations

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return (*self.network, Artifact("image_index", ("probe",)))

    @property
    def depends(self) -> object:
        return self.parameters.model_dump(exclude={"batch_size", "range_images"})

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        source = self.source
        assert isinstance(source, RecordedSource)
        _check_evidence(run, source, self.parameters)
        evidence, epoch = source.evidence, self.epoch
        for kind in ("stimuli", "responsive"):
            yield evidence.table(Artifact(kind, (RECORDED, epoch))).assign(series=source.name)
        for part in self.makes[2:]:
            yield evidence.arrays(Artifact("activations", (RECORDED, *part.parts[1:])))
        advance(1)


def _check_evidence(run: Run, source: RecordedSource, parameters: ProbeParameters) -> None:
    """Raises ValueError where evidence was recorded with other images, layers or parameters."""
    evidence = source.evidence
    recorded = evidence.manifest()["configuration"]
    for name, mine in parameters.model_dump(mode="json", exclude={"batch_size"}).items():
        if mine != recorded["probe"][name]:
            raise ValueError(
                f"series {source.name!r}: its evidence was recorded with {name} = "
                f"{recorded['probe'][name]}, and the configuration has probe.{name} = {mine}; set "
                f"it to the same"
            )
    for name in ("resize", "crop", "mean", "std"):
        seen, mine = recorded["series"][0][name], source.model_dump(mode="json")[name]
        if seen != mine:
            raise ValueError(
                f"series {source.name!r}: its evidence was recorded with {name} = {seen}, and the "
                f"configuration has {mine}; set it to the same"
            )
    sets = (open_images(run, "probe"), open_images(evidence, "probe"))
    if len({sample_digest(images, source.view) for images in sets}) > 1:
        raise ValueError(
            f"series {source.name!r}: its evidence was recorded on other images than the run's "
            f"probe images, or in another order"
        )
    layers = [read_layers(one, n) for one, n in
              ((run, source.name), (evidence, RECORDED))]  # fmt: skip
    named = [[(la.name, la.channels, la.height, la.width) for la in some] for some in layers]
    if named[0] != named[1]:
        raise ValueError(
            f"series {source.name!r}: its evidence was recorded in other layers "
            f"({', '.join(la.name for la in layers[1])}) than those of the run "
            f"({', '.join(la.name for la in layers[0])}); name `layers` in both"
        )


def activation_parts(run: Run, config: Config, series: str, epoch: int) -> list[Artifact]:
    """The activations of one checkpoint, in the order of the images."""
    divided = _ranges(run, config.probe, series)
    return [Artifact("activations", (series, epoch, part.start, part.stop)) for part in divided]


def _ranges(run: Run, parameters: ProbeParameters, series: str) -> list[range]:
    neurons = sum(layer.channels for layer in read_layers(run, series))
    return ranges(len(open_images(run, "probe")), neurons, parameters)


def probe_steps(plan: Plan) -> Iterator[Step]:
    """Record every checkpoint whose layers are known: range by range, then joined."""
    parameters = plan.config.probe
    joins: list[JoinRanges] = []
    waiting: list[ProbeRange] = []
    taken: list[TakeEvidence] = []
    for source in plan.config.series:
        divided = _ranges(plan.run, parameters, source.name)
        for epoch in source.epochs():
            if epoch not in source.loadable():
                taken.append(TakeEvidence(source, epoch, parameters, tuple(divided)))
                continue
            works = tuple(ProbeRange(source, epoch, parameters, part) for part in divided)
            join = JoinRanges(source, epoch, works)
            plan.add([join, *works])
            joins.append(join)
            # once joined, the parts are gone, and the activations alone are there
            joined = plan.is_done(join)
            waiting += [work for work in works if not (joined and work.left(plan))]
    yield "probing", list[Work](waiting)
    yield "stimuli", list[Work]([*joins, *taken])


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
            memory=resources().memory,
            device=resources().device,
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
        model, layers = load(run, self.source, self.epoch), read_layers(run, self.source.name)
        tables = []
        for number, group in enumerate(_layer_groups(layers, len(images), resources().memory)):
            recorded = probe(
                model,
                group,
                images,
                view_of(run, self.source),
                Checkpoint(*self.place),
                ProbeParameters(k=1, responsive=1),
                advance if number == 0 else lambda count: None,
                resources().device,
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


def _steps(plan: Plan) -> Iterator[Step]:
    give_checkpoints(plan)
    config = plan.config
    yield "layers", [FindLayers(source) for source in config.series]
    checkpoints = [(source, epoch) for source in config.series for epoch in source.loadable()]
    yield from probe_steps(plan)
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


STAGE = Stage("probe", _steps)
