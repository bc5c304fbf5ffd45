"""Stage: find the layers of every series, record every checkpoint, name what neurons detect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pandas as pd

from harness.artifacts import Artifact, Run
from harness.concepts.probing import ProbeParameters, image_bytes, probe_range, ranges
from harness.concepts.stimuli import ProbePart, merge, responsive_table, stimuli_table
from harness.config import Config
from harness.files import write_tables
from harness.images.batches import batch_of
from harness.images.sets import open_images, sample_digest
from harness.networks.architectures import takes_channels_last
from harness.networks.layers import find_layers, with_patches
from harness.networks.recorded_source import RecordedSource
from harness.networks.sources import RECORDED, Source
from harness.records import Checkpoint
from harness.stages.checkpoints import OfLayers, give_checkpoints, opened, prepared, read_layers
from harness.stages.naming import naming_steps
from harness.stages.stage import Advance, Plan, Step, Value, Work


@dataclass(frozen=True)
class FindLayers(Work):
    """Work that finds the probed layers of a series, on its last checkpoint."""

    source: Source

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return (Artifact("layers", (self.source.name,)),)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        last = (self.source.loadable() or self.source.epochs())[-1]
        return (Artifact("checkpoint", (self.source.name, last)),)

    depends = ()

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
class OfProbe(OfLayers):
    """A piece of work on one checkpoint and the probe images."""

    parameters: ProbeParameters

    split: ClassVar[str] = "probe"

    @property
    def depends(self) -> object:
        """All parameters but the batch size and the ranges of images, which change no result."""
        return self.parameters.model_dump(exclude={"batch_size", "range_images"})


@dataclass(frozen=True)
class ProbeRange(OfProbe):
    """Work that records one checkpoint on a range of the probe images."""

    images: range

    doing: ClassVar[str] = "probing"

    @property
    def makes(self) -> tuple[Artifact, ...]:
        kinds = ["activations"] * self.parameters.activations + ["probe_part", "responses_part"]
        place = (*self.place, self.images.start, self.images.stop)
        return tuple(Artifact(kind, place) for kind in kinds)

    @property
    def depends(self) -> object:
        return [super().depends, self.images.start, self.images.stop]

    @property
    def steps(self) -> int:
        return len(self.images)

    def left(self, plan: Plan) -> bool:
        """Return whether the artifacts that remain after the ranges are joined exist."""
        return all(plan.has(made) for made in self.makes if made.kind == "activations")

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        network, images = self.network(run), open_images(run, "probe")
        units = sum(layer.channels for layer in network.layers)
        size = self.pass_size(
            run,
            network,
            lambda few: probe_range(network, images, range(few), self.parameters),
            self.parameters.batch_size,
            image_bytes(units, self.parameters) * len(self.images),
        )
        parameters = self.parameters.model_copy(update={"batch_size": size})
        record = probe_range(network, images, self.images, parameters, advance)
        if record.activations is not None:
            yield record.activations
        yield record.part.arrays()
        yield record.responses


@dataclass(frozen=True)
class JoinRanges(OfProbe):
    """Work that joins one checkpoint's records on all ranges of images, and deletes the parts."""

    ranges: tuple[ProbeRange, ...]

    kinds = ("stimuli", "responsive")

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


@dataclass(frozen=True)
class TakeEvidence(OfProbe):
    """Work that copies what was recorded of a checkpoint during training."""

    ranges: tuple[range, ...]

    @property
    def makes(self) -> tuple[Artifact, ...]:
        parts = self.ranges if self.parameters.activations else ()
        activations = (Artifact("activations", (*self.place, r.start, r.stop)) for r in parts)
        return Artifact("stimuli", self.place), Artifact("responsive", self.place), *activations

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        source = self.source
        assert isinstance(source, RecordedSource)
        _check_evidence(run, source, self.parameters)
        evidence, epoch = source.evidence, self.epoch
        for kind in ("stimuli", "responsive"):
            yield evidence.table(Artifact(kind, (RECORDED, epoch))).assign(series=source.name)
        for part in self.makes[2:]:
            yield evidence.array(Artifact("activations", (RECORDED, *part.parts[1:])))


def check_settings(source: RecordedSource, parameters: ProbeParameters) -> None:
    """Raise ValueError if evidence was recorded with other settings; the message lists them."""
    if len(source.loadable()) == len(source.epochs()):
        return
    recorded, mine = source.evidence.manifest()["configuration"], source.model_dump(mode="json")
    settings = {
        f"probe.{name}": (recorded["probe"][name], value)
        for name, value in parameters.model_dump(mode="json", exclude={"batch_size"}).items()
    }
    for name in ("resize", "crop", "mean", "std"):
        settings[name] = recorded["series"][0][name], mine[name]
    if other := [
        f"{name} = {then}, and the configuration has {now}"
        for name, (then, now) in settings.items()
        if then != now
    ]:
        raise ValueError(
            f"series {source.name!r}: its evidence was recorded with {'; '.join(other)}; set the "
            f"configuration to the same"
        )


def _check_evidence(run: Run, source: RecordedSource, parameters: ProbeParameters) -> None:
    """Raise ValueError if evidence was recorded with other images, layers or parameters."""
    evidence = source.evidence
    check_settings(source, parameters)
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
    """Return the artifacts with the activations of one checkpoint, in the order of the images."""
    divided = _ranges(run, config.probe, series)
    return [Artifact("activations", (series, epoch, part.start, part.stop)) for part in divided]


def _ranges(run: Run, parameters: ProbeParameters, series: str) -> list[range]:
    neurons = sum(layer.channels for layer in read_layers(run, series))
    return ranges(len(open_images(run, "probe")), neurons, parameters)


def range_works(
    plan: Plan, source: Source, divided: Sequence[range]
) -> tuple[list[Work], list[Work]]:
    """Return the work that records the remaining ranges of a series, and the work that joins the
    ranges of each epoch or copies what was recorded during training."""
    parameters, waiting, joins = plan.config.probe, list[Work](), list[Work]()
    for epoch in source.epochs():
        if epoch not in source.loadable():
            joins.append(TakeEvidence(source, epoch, parameters, tuple(divided)))
            continue
        works = tuple(ProbeRange(source, epoch, parameters, part) for part in divided)
        join = JoinRanges(source, epoch, parameters, works)
        joins.append(join)
        plan.add([*works, join])
        # joining deletes the parts of a range and keeps its activations
        joined = plan.is_done(join)
        waiting += [work for work in works if not (joined and work.left(plan))]
    plan.add(joins)
    return waiting, joins


def probe_steps(plan: Plan) -> Iterator[Step]:
    """Record every checkpoint whose layers are known, range by range, and join the ranges."""
    works = [
        range_works(plan, source, _ranges(plan.run, plan.config.probe, source.name))
        for source in plan.config.series
    ]
    yield "probing", [work for waiting, _ in works for work in waiting]
    yield "stimuli", [work for _, joins in works for work in joins]


def steps(plan: Plan) -> Iterator[Step]:
    """Find the layers, record every checkpoint, name what neurons detect."""
    give_checkpoints(plan)
    config = plan.config
    yield "layers", [FindLayers(source) for source in config.series]
    yield from probe_steps(plan)
    yield from naming_steps(plan)
