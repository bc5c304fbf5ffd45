"""Stage: find the layers of every series, record every checkpoint, name what neurons detect."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from harness.artifacts import Artifact, Run
from harness.concepts.probing import ProbeParameters, image_bytes, probe_range, ranges
from harness.concepts.stimuli import ProbePart, merge, responsive_table, stimuli_table
from harness.config import Config
from harness.files import ArtifactError, write_tables
from harness.images.sets import open_images, sample_digest
from harness.images.view import VIEW_SETTINGS
from harness.networks.default_layers import RULES_VERSION
from harness.networks.layers import find_layers, measure_patches
from harness.networks.recorded_source import RECORDED, RecordedSource, recorded_settings
from harness.networks.sources import Source
from harness.records import Checkpoint
from harness.stages.checkpoints import (
    LayersWork,
    declare_checkpoints,
    fit_view,
    open_checkpoint,
    prepare_model,
    read_layers,
)
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
        last = (self.source.loadable_epochs() or self.source.series().epochs)[-1]
        return (Artifact("checkpoint", (self.source.name, last)),)

    depends = (RULES_VERSION,)

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        source = self.source
        if not source.loadable_epochs():
            assert isinstance(source, RecordedSource)
            yield source.evidence.table(Artifact("layers", (RECORDED,))).assign(series=source.name)
            return
        model = open_checkpoint(run, source, source.loadable_epochs()[-1])
        view = fit_view(model, source, open_images(run, "test"))
        model = prepare_model(model, source, view.channels_last)
        layers = find_layers(model, view, source.layers, source.channels_last)
        layers = measure_patches(model, layers, view)
        table = pd.DataFrame([vars(layer) for layer in layers]).rename(columns={"name": "layer"})
        table.insert(0, "series", source.name)
        columns = {name: [value] * len(table) for name, value in view.columns().items()}
        yield table.assign(**columns, memory_channels_last=view.channels_last)


@dataclass(frozen=True)
class ProbeWork(LayersWork):
    parameters: ProbeParameters

    split: ClassVar[str] = "probe"
    #: The parameters that change no result.
    unused: ClassVar[set[str]] = {"batch_size", "range_images"}

    @property
    def depends(self) -> object:
        return self.parameters.model_dump(exclude=self.unused)

    def outdated(self, run: Run, activations: Sequence[Artifact]) -> list[Artifact]:
        """Return what nothing needs when all ranges are joined: all parts, also of other ranges
        that an earlier command had, and all activations but these."""
        kinds = ("probe_part", "responses_part", "activations")
        stored = [artifact for kind in kinds for artifact in run.stored(kind, *self.key)]
        return [artifact for artifact in stored if artifact not in activations]


@dataclass(frozen=True)
class ProbeRange(ProbeWork):
    """Work that records one checkpoint on a range of the probe images."""

    images: range

    activity: ClassVar[str] = "probing"

    @property
    def makes(self) -> tuple[Artifact, ...]:
        kinds = ["activations"] * self.parameters.activations + ["probe_part", "responses_part"]
        key = (*self.key, self.images.start, self.images.stop)
        return tuple(Artifact(kind, key) for kind in kinds)

    @property
    def depends(self) -> object:
        return [super().depends, self.images.start, self.images.stop]

    @property
    def steps(self) -> int:
        return len(self.images)

    def has_activations(self, plan: Plan) -> bool:
        """Return whether the artifacts that remain after the ranges are joined exist."""
        return all(plan.has(artifact) for artifact in self.makes if artifact.kind == "activations")

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        network, images = self.network(run), open_images(run, "probe")
        units = sum(layer.channels for layer in network.layers)
        batch_size = self.fit_batch_size(
            run,
            network,
            lambda count: probe_range(network, images, range(count), self.parameters),
            self.parameters.batch_size,
            image_bytes(units, self.parameters) * len(self.images),
        )
        parameters = self.parameters.model_copy(update={"batch_size": batch_size})
        record = probe_range(network, images, self.images, parameters, advance)
        if record.activations is not None:
            yield record.activations
        yield record.part.arrays()
        yield record.responses


@dataclass(frozen=True)
class JoinRanges(ProbeWork):
    """Work that joins one checkpoint's records on all ranges of images, and deletes the parts."""

    ranges: tuple[ProbeRange, ...]

    kinds = ("stimuli", "responsive")

    def _parts(self, kind: str) -> list[Artifact]:
        return [made for work in self.ranges for made in work.makes if made.kind == kind]

    def removes(self, run: Run) -> Sequence[Artifact]:
        return self.outdated(run, self._parts("activations"))

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        layers, checkpoint = read_layers(run, self.source.name), Checkpoint(*self.key)
        arrays = map(run.arrays, self._parts("probe_part"))
        record = merge(map(ProbePart.from_arrays, arrays))
        yield stimuli_table(record, layers, checkpoint, self.ranges[-1].images.stop)
        write_tables(
            run.path(Artifact("responsive", self.key)),
            (
                responsive_table(run.table(part), layers, checkpoint)
                for part in self._parts("responses_part")
            ),
        )
        yield None


@dataclass(frozen=True)
class TakeEvidence(ProbeWork):
    """Work that copies what was recorded of a checkpoint during training."""

    ranges: tuple[range, ...]

    @property
    def makes(self) -> tuple[Artifact, ...]:
        ranges = self.ranges if self.parameters.activations else ()
        activations = (Artifact("activations", (*self.key, r.start, r.stop)) for r in ranges)
        return Artifact("stimuli", self.key), Artifact("responsive", self.key), *activations

    def removes(self, run: Run) -> Sequence[Artifact]:
        return self.outdated(run, self.makes[2:])

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        source = self.source
        assert isinstance(source, RecordedSource)
        _check_evidence(run, source, self.parameters)
        evidence, epoch = source.evidence, self.epoch
        for kind in ("stimuli", "responsive"):
            yield evidence.table(Artifact(kind, (RECORDED, epoch))).assign(series=source.name)
        for part in self.makes[2:]:
            _, _, start, stop = part.parts
            yield recorded_activations(evidence, epoch, range(int(start), int(stop)))


def recorded_activations(evidence: Run, epoch: int, images: range) -> np.ndarray:
    """Return recorded activations [neurons, images] of a range, which may have been recorded in
    other ranges. Raises ArtifactError if some are missing."""
    slices, count = [], 0
    for artifact in evidence.stored("activations", RECORDED, epoch):
        first, after = (int(part) for part in artifact.parts[2:])
        start, stop = max(images.start, first), min(images.stop, after)
        if start < stop:
            slices.append(evidence.array(artifact)[:, start - first : stop - first])
            count += stop - start
    if count != len(images):
        raise ArtifactError(
            f"{evidence.root} lacks activations of epoch {epoch} on images {images.start} to "
            f"{images.stop - 1}: record the epoch again"
        )
    return slices[0] if len(slices) == 1 else np.concatenate(slices, axis=1)


def check_settings(source: RecordedSource, parameters: ProbeParameters) -> None:
    """Raise ValueError if evidence was recorded with other settings; the message lists them."""
    if len(source.loadable_epochs()) == len(source.series().epochs):
        return
    if not (recorded := recorded_settings(source.evidence)):
        raise ValueError(
            f"series {source.name!r}: the first record of its evidence was stopped, and it is "
            f"unknown with what it was recorded: delete {source.evidence.root}"
        )
    current = {
        "probe.": parameters.model_dump(mode="json", exclude=ProbeWork.unused),
        "": source.model_dump(mode="json", include=set(VIEW_SETTINGS)),
    }
    if differences := [
        f"{section}{name} = {recorded[name]}, and the configuration has {value}"
        for section, settings in current.items()
        for name, value in settings.items()
        if recorded[name] != value
    ]:
        raise ValueError(
            f"series {source.name!r}: its evidence was recorded with {'; '.join(differences)}; set "
            f"the configuration to the same"
        )


def _check_evidence(run: Run, source: RecordedSource, parameters: ProbeParameters) -> None:
    """Raise ValueError if evidence was recorded with other images, layers or parameters."""
    evidence = source.evidence
    check_settings(source, parameters)
    # not of the files from which it was recorded, which may have been replaced since
    recorded_images = recorded_settings(evidence)["images"]
    if sample_digest(open_images(run, "probe"), source.view) != recorded_images:
        raise ValueError(
            f"series {source.name!r}: its evidence was recorded on other images than the run's "
            f"probe images, or in another order"
        )
    layers = [read_layers(run, source.name), read_layers(evidence, RECORDED)]
    shapes = [[(la.name, la.channels, la.height, la.width) for la in group] for group in layers]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"series {source.name!r}: its evidence was recorded in other layers "
            f"({', '.join(la.name for la in layers[1])}) than those of the run "
            f"({', '.join(la.name for la in layers[0])}); name `layers` in both"
        )


def activation_parts(run: Run, config: Config, series: str, epoch: int) -> list[Artifact]:
    """Return the artifacts with the activations of one checkpoint, in the order of the images."""
    parts = _ranges(run, config.probe, series)
    return [Artifact("activations", (series, epoch, part.start, part.stop)) for part in parts]


def _ranges(run: Run, parameters: ProbeParameters, series: str) -> list[range]:
    neurons = sum(layer.channels for layer in read_layers(run, series))
    return ranges(len(open_images(run, "probe")), neurons, parameters)


def range_works(
    plan: Plan, source: Source, image_ranges: Sequence[range]
) -> tuple[list[Work], list[Work]]:
    """Return the work that records the remaining ranges of a series, and the work that joins the
    ranges of each epoch or copies what was recorded during training."""
    parameters, probing, joins = plan.config.probe, list[Work](), list[Work]()
    loadable_epochs = set(source.loadable_epochs())
    for epoch in source.series().epochs:
        if epoch not in loadable_epochs:
            joins.append(TakeEvidence(source, epoch, parameters, tuple(image_ranges)))
            continue
        works = tuple(ProbeRange(source, epoch, parameters, part) for part in image_ranges)
        join = JoinRanges(source, epoch, parameters, works)
        joins.append(join)
        plan.add([*works, join])
        # joining deletes the parts of a range and keeps its activations
        is_joined = plan.is_done(join)
        probing += [work for work in works if not (is_joined and work.has_activations(plan))]
    plan.add(joins)
    return probing, joins


def probe_steps(plan: Plan) -> Iterator[Step]:
    """Record every checkpoint whose layers are known, range by range, and join the ranges."""
    works = [
        range_works(plan, source, _ranges(plan.run, plan.config.probe, source.name))
        for source in plan.config.series
    ]
    yield "probing", [work for probing, _ in works for work in probing]
    yield "stimuli", [work for _, joins in works for work in joins]


def steps(plan: Plan) -> Iterator[Step]:
    """Find the layers, record every checkpoint, name what neurons detect."""
    declare_checkpoints(plan)
    config = plan.config
    yield "layers", [FindLayers(source) for source in config.series]
    yield from probe_steps(plan)
    yield from naming_steps(plan)
