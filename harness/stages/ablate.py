"""Stage: choose sets of neurons, ablate them, and record the effect on each image's prediction."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from functools import cache, partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from harness.artifacts import Artifact, Run
from harness.config import refuse
from harness.evolutions import arms
from harness.evolutions.ablation import OUTCOMES, OUTCOMES_VERSION, Arm, Images, ablate
from harness.images.sets import ImageSet
from harness.networks.budget import BatchWork, pass_memory, resources, run_halving
from harness.networks.layer import ModelPair
from harness.networks.objectives import objective_identity
from harness.networks.sources import Source
from harness.randomness import generator
from harness.records import ARM, CONTROLS, JOINT, PAIR
from harness.registry import plugin_identity
from harness.results import write_about
from harness.stages.checkpoints import fit_batch_size, layer_names, open_pair, read_layers
from harness.stages.evolve import score_works
from harness.stages.prototypes import load_targets, objective_text, prototype_artifacts
from harness.stages.series_images import SeriesImages, series_images
from harness.stages.stage import Advance, Plan, Step, Value
from harness.stages.study import (
    AblationStudy,
    StudyWork,
    describe_small_layers,
    reversion_study,
    scope,
    slug,
)

_SETS = [*PAIR, "class_id", "method", "arm", "draw", "each_layer", "layer", "channel"]
_RECORDS = [
    *PAIR,
    "ablation",
    *ARM,
    *("class_id", "image_id", "split"),
    *(f"{name}_{when}" for name in OUTCOMES for when in ("before", "after")),
]
_LABELS = ["series", "ablation", "layer", "method", "arm", "split"]


@dataclass(frozen=True)
class SetsWork(StudyWork):
    """A piece of work on the sets of one kind: those of the reversion study or the benchmark."""

    kind: str

    @property
    def _other_classes(self) -> tuple[int, ...]:
        """All classes of the study if the sets depend on them: one of them is the "other class"."""
        return self.study.classes if self.kind == "benchmark" and self.method != CONTROLS else ()

    @property
    def sets(self) -> Artifact:
        suffix = scope(self.classes, self._other_classes)
        return Artifact("sets", (*astuple(self.pair), slug(self.method), self.kind, suffix))


@dataclass(frozen=True)
class ChooseSets(SetsWork):
    @property
    def _families(self) -> list[arms.Family]:
        return arms.families(self.method == CONTROLS, self.kind == "benchmark")

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return (self.sets,)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        matched_on = (name for family in self._families for name in family.matched_on)
        methods = dict.fromkeys(["change", *matched_on])
        blocks = [self.classes]
        if self.method != CONTROLS:
            methods[self.method] = None
            if any(family.other_class for family in self._families):
                others = (self.study.other_class(class_id) for class_id in self.classes)
                blocks += [self.study.block_of(c) for c in others if c is not None]
        return tuple(
            self.study.scores(self.pair, method, block)
            for method in methods
            for block in dict.fromkeys(blocks)
        )

    @property
    def depends(self) -> object:
        config, bench = self.study.config, self.study.config.bench
        numbers = [config.revert.bins, config.revert.random_draws]
        numbers += [bench.steps, bench.random_draws] * (self.kind == "benchmark")
        return [self.kind, self.method, config.seed, *numbers]

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        study, pair = self.study, self.pair

        @cache
        def scores(class_id: int, method: str) -> pd.DataFrame:
            table = run.table(study.scores(pair, method, study.block_of(class_id)))
            return table[table["class_id"] == class_id]

        tables = []
        for class_id in self.classes:
            order = channels = arms.changed_layers(scores(class_id, "change"))
            other_class, other_order = study.other_class(class_id), None
            if self.method != CONTROLS:
                order = arms.by_rank(scores(class_id, self.method), channels)
                if other_class is not None and any(family.other_class for family in self._families):
                    other_order = arms.by_rank(scores(other_class, self.method), channels)
            ranking = arms.Ranking(
                study.config.revert,
                study.config.bench,
                order,
                partial(scores, class_id),
                other_order,
                lambda purpose, draw, class_id=class_id: self.generator(purpose, class_id, draw),
            )
            for family in self._families:
                table = arms.to_table(family.sets(ranking), family.each_layer)
                tables.append(table.assign(class_id=class_id))
        table = pd.concat(tables, ignore_index=True).assign(**vars(pair), method=self.method)
        yield table[_SETS].astype({"draw": "int16", "each_layer": bool, "channel": int})


@dataclass(frozen=True)
class RunArms(SetsWork):
    """Work that runs the arms of the sets by one ablation: a row per image and arm."""

    ablation: str
    split: str

    @property
    def makes(self) -> tuple[Artifact, ...]:
        layers = self.study.layers.get(self.source.name, ())
        suffix = scope(self.classes, self._other_classes, layers)
        parts = (slug(self.ablation), slug(self.method), self.kind, self.split, suffix)
        return (Artifact("records", (*astuple(self.pair), *parts)),)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        # the sets depend on the checkpoints, layers and test images through their scores
        return self.sets, *prototype_artifacts(self.source, self.pair.epoch_to)

    @property
    def depends(self) -> object:
        names = self.study.layers.get(self.source.name)
        revert = self.study.config.revert
        images = [revert.importance_images] if self.split == "importance" else []
        plugins = [plugin_identity(self.ablation), objective_identity(self.source.objective)]
        return [OUTCOMES_VERSION, self.split, names, images, *plugins]

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        models, config = open_pair(run, self.source, self.pair), self.study.config
        images = series_images(run, self.source, config)
        names = self.study.layers.get(self.source.name)
        layers = [layer for layer in models.layers if names is None or layer.name in names]
        all_sets = run.table(self.sets)
        untouched = self.method == CONTROLS and self.kind == "reversion"
        target_of = load_targets(run, self.source, self.pair.epoch_to)
        memory = pass_memory(models.older, models.newer)
        batch_size = fit_batch_size(run, ablation_work(self.source, models, images), memory)

        def run_arms(class_id: int, class_arms: list[Arm], batch_size: int) -> pd.DataFrame:
            class_images = Images(
                images.batches(arm_images(images, class_id, self.split), batch_size),
                partial(images.importance_batches, class_id, batch_size),
                lambda ids: images.batch(choose_donors(images.images, ids, config.seed)),
            )
            target = target_of(class_id)
            with resources().device.computing():
                return ablate(models, class_arms, class_images, target, self.ablation, batch_size)

        frames = []
        for class_id in self.classes:
            table = all_sets[all_sets["class_id"] == class_id]
            each_layer = set(table.loc[table["each_layer"], "arm"])
            sets = arms.from_table(table)
            class_arms = arms.make_arms(sets, self.method, each_layer, layers, untouched)
            work = partial(run_arms, class_id, class_arms)
            rows = run_halving(work, batch_size, str(self.makes[0]))
            frames.append(rows.assign(class_id=class_id))
            advance(1)
        table = pd.concat(frames, ignore_index=True)
        table = table.assign(**vars(self.pair), ablation=self.ablation, split=self.split)[_RECORDS]
        yield table.astype(dict.fromkeys(_LABELS, "category") | {"draw": "int16"})


def arm_images(images: SeriesImages, class_id: int, split: str) -> np.ndarray:
    """Return the ids of the images of a class on which arms are run in one split."""
    limit = images.config.revert.importance_images if split == "importance" else None
    return images.parts(class_id)[split][:limit]


def choose_donors(images: ImageSet, ids: Tensor, seed: int) -> np.ndarray:
    """Return one image of another class per image; the choice does not depend on the batches."""
    donors = []
    for image_id in ids.tolist():
        others = np.flatnonzero(images.labels != images.labels[image_id])
        if not len(others):
            raise ValueError(
                "an ablation uses maps for images of another class (`Maps.donor`), and all images "
                "are of one class: add images of another, and mark the ablation by `reads_donors`, "
                "so that this is found before the work"
            )
        donors.append(generator(seed, "donor of maps", image_id).choice(others))
    return np.array(donors)


def set_works(study: AblationStudy) -> list[ChooseSets]:
    return [
        ChooseSets(study, source, pair, method, block, kind)
        for source, pair in study.pairs
        for block in study.blocks
        for method in (CONTROLS, *study.methods)
        for kind in study.arm_kinds
    ]


def arm_works(study: AblationStudy) -> list[RunArms]:
    return [
        RunArms(study, source, pair, method, block, kind, ablation, split)
        for source, pair in study.pairs
        for block in study.blocks
        for ablation in study.ablations
        for method in (CONTROLS, *study.methods)
        for kind in study.arm_kinds
        for split in study.splits
    ]


def ablation_work(source: Source, models: ModelPair, images: SeriesImages) -> BatchWork:
    """Return the ablation of a series by its most expensive batch, the reversion of all neurons: no
    other ablation keeps more than the maps of two models."""
    channels = {layer.name: torch.arange(layer.channels) for layer in models.layers}
    arms_of_all = [Arm(JOINT, channels, [("", "", 0)])]

    def do() -> None:
        batches = Images([(torch.from_numpy(images.sample_ids), images.batch(images.sample_ids))])
        with resources().device.computing():
            ablate(models, arms_of_all, batches, 0)

    label = f"ablation of series {source.name!r}"
    return BatchWork(label, do, len(images.sample_ids), images.config.revert.batch_size)


def study_steps(
    study: AblationStudy, plan: Plan, extra_contents: Mapping[str, list[Artifact]] | None = None
) -> Iterator[Step]:
    """Choose sets of scored neurons, ablate them, and record which artifacts hold the results;
    `extra_contents` has further ones, by kind. The plan declares the scores of the study.

    Raises:
        ConfigError: a series has no layer that can be divided into the bins.
    """
    if not plan.dry_run:
        _check_bins(study, plan.run)
        (plan.run.root / study.name / "about.json").unlink(missing_ok=True)
    yield "sets of neurons", set_works(study)
    yield "ablation", arm_works(study)
    if plan.dry_run:
        return
    layers = {
        source.name: list(study.layers.get(source.name) or layer_names(plan.run, source.name))
        for source, _ in study.pairs
    }
    objectives = {source.name: objective_text(source, study.config) for source, _ in study.pairs}
    about = {**study.about(layers), "objectives": objectives}
    write_about(plan.run, study.name, about, {**contents(study), **(extra_contents or {})})


def _check_bins(study: AblationStudy, run: Run) -> None:
    """Raise ConfigError if no set of a series would hold the most important neurons; the check has
    found this for all layers, but a benchmark may be of few."""
    for name in dict.fromkeys(source.name for source, _ in study.pairs):
        names = study.layers.get(name)
        layers = [layer for layer in read_layers(run, name) if not names or layer.name in names]
        largest = max(layer.channels for layer in layers)
        refuse(describe_small_layers(name, largest, study.config.revert.bins))


def contents(study: AblationStudy) -> dict[str, list[Artifact]]:
    """Return the artifacts that a study's results consist of, by kind."""
    works = score_works(study)
    scores = [work for work in works if work.method in study.methods]
    return {
        "sizes": [work.makes[0] for work in works if work.method == "change"],
        "importance": [work.makes[0] for work in scores],
        "reliability": [work.makes[1] for work in scores],
        "sets": [artifact for work in set_works(study) for artifact in work.makes],
        "records": [artifact for work in arm_works(study) for artifact in work.makes],
    }


def steps(plan: Plan) -> Iterator[Step]:
    """Run the reversion study."""
    if (study := reversion_study(plan)).pairs:
        yield from study_steps(study, plan)
