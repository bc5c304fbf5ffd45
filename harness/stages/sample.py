"""Measure the cost of work on a series: two of its networks, one batch per kind of work."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from harness.concepts.naming import dissect
from harness.concepts.probing import ProbeParameters, probe_range, ranges
from harness.config import DrawnImagesSection
from harness.evolutions import arms
from harness.images import drawn
from harness.images.sets import ArrayImages
from harness.images.view import View
from harness.networks.budget import (
    FEWEST,
    BatchWork,
    Cost,
    measure_cost,
    measure_seconds,
    pass_memory,
    resources,
)
from harness.networks.execution import Change, execution, replace_channels
from harness.networks.layer import ModelPair, Network
from harness.networks.recording import borrow
from harness.networks.sources import Source, TrainedSource
from harness.records import CONTROLS, Checkpoint
from harness.stages.ablate import RunArms, ablation_work, arm_images, arm_works, set_works
from harness.stages.evolve import ScoreEvolutions, score_works, scoring_work, summaries
from harness.stages.naming import naming_bytes, naming_steps
from harness.stages.probe import range_works
from harness.stages.prototypes import sample_target
from harness.stages.series_images import SeriesImages
from harness.stages.stage import Plan, Work
from harness.stages.study import AblationStudy
from harness.stages.train import TrainSeries, training_cost

#: Maximum number of images for timing, and the maximum seconds of a forward pass on them.
SAMPLE = 8
FORWARD_SECONDS = 1.0
#: Approximate bytes per row of a long table on disk.
ROW_BYTES = {"stimuli": 20, "responsive": 10, "importance": 20, "records": 8}


@dataclass(frozen=True)
class Estimate:
    """An estimate of what is left of one stage, or of one series in it.

    Attributes:
        stage, series: names; the series is "" for all series together.
        pieces: number of pieces of work.
        seconds: computing time of one worker that does all pieces.
        memory: bytes per worker.
        disk: bytes.
    """

    stage: str
    series: str
    pieces: int
    seconds: float
    memory: float
    disk: float


class Sample:
    """Two networks of a series and a few images, to measure the cost of each kind of work.

    Args:
        plan: of the command; finished work is not estimated.
        models: two of its checkpoints, or networks like them.
        study: of all series; its work is estimated for this series.
    """

    def __init__(
        self, plan: Plan, source: Source, models: ModelPair, view: View, study: AblationStudy
    ) -> None:
        self.plan, self.source, self.models = plan, source, models
        self.images = SeriesImages(plan.test_images, view, plan.config)
        pairs = tuple(pair for pair in study.pairs if pair[0].name == source.name)
        self.study = replace(study, pairs=pairs)
        self.config = plan.config
        self.units = sum(layer.channels for layer in models.layers)
        one = self.batch(1)
        with borrow(models.newer), torch.no_grad(), resources().device.computing():
            limit = FORWARD_SECONDS / time_second_call(partial(models.newer, one))
        #: Number of images for timing; fewer for a large network.
        self.sample_size = int(np.clip(limit, 1, min(SAMPLE, len(plan.test_images))))

    def batch(self, count: int) -> Tensor:
        return self.images.batch(np.arange(count) % len(self.plan.test_images))

    def _estimate(
        self, stage: str, rest: Sequence[Work], seconds: float, memory: float, disk: float
    ) -> Estimate:
        return Estimate(stage, self.source.name, len(rest), seconds, memory, disk)

    def training(self, source: TrainedSource, images: int) -> Iterator[Estimate]:
        """Estimate training from one timed step."""
        parameters, classes = source.training, len(self.plan.test_images.classes)
        rest = self.plan.remaining([TrainSeries(source, images // parameters.batch_size)])
        if not rest:
            return
        batch = self.batch(min(parameters.batch_size, 4 * self.sample_size))
        cost, weights = training_cost(source, classes, batch)
        # decoded images are kept as far as they fit into a quarter of the memory
        kept = min(3 * math.prod(self.images.view.size) * images, resources().memory // 4)
        memory = cost.bytes * parameters.batch_size + weights + kept
        seconds = cost.seconds * parameters.batch_size * sum(work.steps for work in rest)
        yield self._estimate(
            "train", rest, seconds, memory, weights / 4 * (len(parameters.save) + 3)
        )

    def probing(self, images: int) -> Iterator[Estimate]:
        """Estimate probing from a few recorded images, including their decoding."""
        parameters = self.config.probe
        rest, _ = range_works(self.plan, self.source, ranges(images, self.units, parameters))
        if not rest:
            return
        size = np.dtype(parameters.activations_type).itemsize * self.units * parameters.activations
        total = sum(work.steps for work in rest)
        disk = (
            ROW_BYTES["stimuli"] * self.units * parameters.k / images
            + ROW_BYTES["responsive"] * parameters.responsive
            + size
        )
        longest = max(work.steps for work in rest)
        memory = self._probe_cost.bytes * parameters.batch_size + size * longest
        seconds = self._probe_cost.seconds * total
        yield self._estimate("probe", rest, seconds, memory, disk * total)

    @cached_property
    def _network(self) -> Network:
        models, device = self.models, resources().device
        return Network(Checkpoint("", 0), models.newer, models.layers, self.images.view, device)

    def _decode(self) -> ArrayImages:
        images, ids = self.plan.test_images, range(self.sample_size)
        pixels = np.stack([images.pixels(i, self.images.view) for i in ids])
        return ArrayImages(pixels, np.zeros(len(ids), dtype=np.int64), ("",))

    @cached_property
    def _probe_cost(self) -> Cost:
        """The cost per image of a probe without activations, including the image's decoding."""
        count, responsive = self.sample_size, self.config.probe.responsive
        minimal = ProbeParameters(k=1, responsive=responsive, activations=False)
        probe = partial(probe_range, self._network, self._decode(), range(count), minimal)
        cost = measure_cost(probe, count, self._network.device)
        return Cost(cost.bytes, cost.seconds + time_second_call(self._decode) / count)

    def naming(self) -> Iterator[Estimate]:
        """Estimate naming by masks from a few images, and by attributes as another probe."""
        works = [work for _, group in naming_steps(self.plan) for work in group]
        rest = self.plan.remaining([w for w in works if w.makes[0].parts[0] == self.source.name])
        if not rest:
            return
        seconds, images = self._probe_cost.seconds, len(self.plan.test_images)
        memory = self._probe_cost.bytes * self.config.probe.batch_size + 4.0 * self.units * images
        if isinstance(self.config.images, DrawnImagesSection):
            concepts, sample = [*drawn.PARTS, *drawn.COLOURS], self._decode()
            masks = torch.zeros(
                len(sample), len(concepts), drawn.SIZE, drawn.SIZE, dtype=torch.bool
            )
            name = partial(dissect, self._network, sample, masks, concepts)
            seconds = time_second_call(name) / len(sample) / 2  # a step is one of two passes
            memory = naming_bytes(self.models.layers, rest[0].steps // 2)
        seconds *= sum(work.steps for work in rest)
        yield self._estimate("probe: naming", rest, seconds, memory, 64 * self.units * len(rest))

    def evolutions(self) -> Iterator[Estimate]:
        """Estimate scoring of evolutions and ablation of sets."""
        if scores := self.plan.remaining(score_works(self.study)):
            yield self._importance(scores)
        sets = self.plan.remaining(set_works(self.study))
        if runs := self.plan.remaining(arm_works(self.study)):
            yield self._ablation(sets, runs)

    def _importance(self, rest: list[ScoreEvolutions]) -> Estimate:
        """Estimate importance from a few images scored by each method, and the time to summarise
        the sensitivities of one class."""
        batch = self.batch(min(self.sample_size, FEWEST))
        target = sample_target(self.source, self.models.newer, self.plan.test_images, batch)
        costs, memory = dict[str, Cost](), 0.0
        for name in dict.fromkeys(work.method for work in rest):
            scoring = scoring_work(self.source, self.models, batch, target, name, self.config)
            costs[name], batch_size = self._measure(scoring)
            memory = max(memory, costs[name].bytes * batch_size)
        images_scored = [
            (work.method, len(self.images.parts(class_id)["importance"]))
            for work in rest
            for class_id in work.classes
        ]
        seconds = sum(costs[method].seconds * count for method, count in images_scored)
        most_images = max(count for _, count in images_scored)
        seconds += self._summary_seconds(most_images) * len(images_scored)
        rows = self.units * len(images_scored)
        disk = ROW_BYTES["importance"] * rows
        return self._estimate("evolve", rest, seconds, memory, disk)

    def _summary_seconds(self, images: int) -> float:
        rng = np.random.default_rng(0)
        sensitivities = {
            layer.name: rng.standard_normal((images, layer.channels))
            for layer in self.models.layers
        }
        return time_second_call(partial(summaries, sensitivities, True, rng, rng))

    def _ablation(self, sets: Sequence[Work], rest: list[RunArms]) -> Estimate:
        """Estimate ablation from a batch of arms over all layers and in single layers."""
        cost, batch_size = self._measure(ablation_work(self.source, self.models, self.images))
        seconds = arm_seconds(self.models, self.batch(min(batch_size, self.sample_size)))
        names = self.study.layers.get(self.source.name) or [la.name for la in self.models.layers]
        total = rows = 0.0
        for work in rest:
            joint, single = count_arms(self.study, work.method, work.kind, len(names))
            images = sum(len(arm_images(self.images, c, work.split)) for c in work.classes)
            total += (joint * seconds["joint"] + single * seconds["layer"]) * images
            rows += (joint + single) * images
        disk = ROW_BYTES["records"] * rows
        return self._estimate("revert", [*sets, *rest], total, cost.bytes * batch_size, disk)

    def _measure(self, work: BatchWork) -> tuple[Cost, int]:
        """Return the cost of work on both networks, and the images per pass that fit the memory."""
        cost = measure_cost(work.do, work.images, resources().device)
        return cost, work.batch_size(cost.bytes, pass_memory(self.models.older, self.models.newer))


def count_arms(study: AblationStudy, method: str, kind: str, layers: int) -> tuple[int, int]:
    """Return a method's arms of one kind per class: over all layers at once, and in single ones."""
    config = study.config
    channels = np.arange(config.revert.bins)
    ranking = arms.Ranking(
        config.revert,
        config.bench,
        {"layer": channels},
        lambda _: pd.DataFrame({"layer": "layer", "channel": channels, "score": 1.0}),
        {"layer": channels},
        lambda *_: np.random.default_rng(0),
    )
    joint = single = 0
    for family in arms.families(method == CONTROLS, kind == "benchmark"):
        set_count = len(family.sets(ranking))
        joint += set_count
        single += set_count * layers * family.each_layer
    return joint, single


def arm_seconds(models: ModelPair, batch: Tensor) -> dict[str, float]:
    """Return an arm's seconds per image over all layers ("joint") and in one ("layer", mean).

    Arms are timed as they are run: half of a layer's channels are replaced.
    """
    newer, layers = models.newer, models.layers

    def rerun(arms_changes: Sequence[Mapping[str, Change]]) -> None:
        for logits in running.rerun_many(arms_changes):
            logits.sum().item()  # waits for a GPU

    with (
        resources().device.computing(),
        torch.no_grad(),
        execution(newer, layers) as running,
    ):
        running.start(batch)
        changes = {
            layer.name: replace_channels(
                layer, torch.arange(0, layer.channels, 2), running.output(layer.name)
            )
            for layer in layers
        }
        single = [{name: change} for name, change in changes.items()]
        joint_seconds = time_second_call(partial(rerun, [changes]))
        single_seconds = time_second_call(partial(rerun, single)) / len(single)
    return {"joint": joint_seconds / len(batch), "layer": single_seconds / len(batch)}


def time_second_call(work: Callable[[], object]) -> float:
    """Time calls of some work after the first, which compiles and loads."""
    work()
    return measure_seconds(work, resources().device)
