"""Stage: score how much each neuron's evolution matters to each class, by every method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from torch import Tensor

from harness.artifacts import Artifact, Run
from harness.config import Config
from harness.evolutions.arms import ranks
from harness.evolutions.importance import importance_method, sensitivities, split_half, summarise
from harness.evolutions.pair import ModelPair
from harness.images.sets import ImageSet, View, open_images
from harness.networks.budget import FEWEST, halving, resources
from harness.networks.objectives import Target, objective_identity
from harness.networks.sources import Source
from harness.randomness import generator
from harness.records import PAIR, Pair
from harness.registry import plugin_identity
from harness.stages.checkpoints import (
    batch_there,
    fitting_size,
    importance_batches,
    open_pair,
    other_batches,
    view_of,
)
from harness.stages.prototypes import prototype_works, prototypes_read, targets
from harness.stages.space import map_work
from harness.stages.stage import Advance, Plan, Stage, Step, Value, Work
from harness.stages.study import AblationStudy, place, reversion_study

_SCORES = [*PAIR, "layer", "channel", "class_id", "method", "score", "stderr", "images", "rank"]
_RELIABILITY = [*PAIR, "layer", "method", "class_id", "images", "rho", "left_out"]


@dataclass(frozen=True)
class ScoreEvolutions(Work):
    """Score and rank all neurons of one pair by one method, for some classes."""

    artifact: Artifact
    source: Source
    pair: Pair
    method: str
    classes: tuple[int, ...]
    config: Config

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return self.artifact, Artifact("reliability", self.artifact.parts)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        epochs = (self.pair.epoch_from, self.pair.epoch_to)
        return (
            *(Artifact("checkpoint", (self.source.name, epoch)) for epoch in epochs),
            Artifact("layers", (self.source.name,)),
            Artifact("image_index", ("test",)),
            *prototypes_read(self.source, *epochs),
        )

    @property
    def depends(self) -> object:
        evolve = self.config.evolve
        # what a small class sets aside for held-out images, importance lacks
        images = [evolve.images_per_class, self.config.revert.heldout_images]
        return [
            *(self.classes, images, self.config.seed, evolve.path_steps),
            plugin_identity(self.method),
            objective_identity(self.source.objective),
        ]

    @property
    def steps(self) -> int:
        return len(self.classes)

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        models = open_pair(run, self.source, self.pair)
        images, config = open_images(run, "test"), self.config
        view = view_of(run, self.source)
        method, scores, reliability = importance_method(self.method), [], []
        measured = [
            targets(run, self.source, epoch) for epoch in (self.pair.epoch_from, self.pair.epoch_to)
        ]
        target = measured[1](self.classes[0])
        batch_size = self._batch_size(models, images, view, target)
        for class_id in self.classes:
            purpose = (*place(self.pair), class_id, self.method)

            def scored(
                size: int, class_id: int = class_id, purpose: tuple[str | int, ...] = purpose
            ) -> dict[tuple[str, str], np.ndarray]:
                with resources().device.computing():
                    return sensitivities(
                        models,
                        importance_batches(images, config, view, class_id, size),
                        (measured[0](class_id), measured[1](class_id)),
                        {self.method: method},
                        generator(config.seed, "importance", *purpose),
                        config.evolve.path_steps,
                        other_batches(images, config, view, class_id, size),
                    )

            values_of = halving(scored, batch_size, str(self.artifact))
            halves = generator(config.seed, "halves of the images", *purpose)
            frames = []
            for (_, layer), values in values_of.items():
                score, stderr = summarise(values, method.share)
                columns = {"channel": np.arange(len(score)), "score": score, "stderr": stderr}
                frames.append(pd.DataFrame(columns).assign(layer=layer, images=len(values)))
                split = split_half(values, method.share, halves)
                reliability.append(split.assign(layer=layer, class_id=class_id))
            table = pd.concat(frames, ignore_index=True)
            ties = generator(config.seed, "ties of importance", *purpose)
            scores.append(table.assign(rank=ranks(table, ties), class_id=class_id))
            advance(1)
        for tables, names in ((scores, _SCORES), (reliability, _RELIABILITY)):
            table = pd.concat(tables, ignore_index=True)
            yield table.assign(**vars(self.pair), method=self.method)[names]

    def _batch_size(self, models: ModelPair, images: ImageSet, view: View, target: Target) -> int:
        """Images a pass, such that the method fits the memory of this worker."""
        batch = batch_there(images, np.arange(min(FEWEST, len(images))), view)
        score = scoring(models, batch, target, self.method, self.config.evolve.path_steps)
        what = f"importance of series {self.source.name!r} by {self.method}"
        return fitting_size(what, score, len(batch), self.config.evolve.batch_size, what)


def scoring(
    models: ModelPair, batch: Tensor, target: Target, method: str, path_steps: int
) -> Callable[[], object]:
    """Scores one batch when it is called, to measure what that takes."""
    rng, methods = np.random.default_rng(0), {method: importance_method(method)}
    others = partial(tuple, [batch])
    return partial(sensitivities, models, [batch], target, methods, rng, path_steps, others)


def score_works(study: AblationStudy) -> list[ScoreEvolutions]:
    """The pieces of work that score all methods of a study."""
    return [
        ScoreEvolutions(
            study.scores(pair, method, block), source, pair, method, block, study.config
        )
        for source, pair in study.pairs
        for block in study.blocks
        for method in study.scored
    ]


def score_steps(study: AblationStudy) -> Iterator[Step]:
    """Make the prototypes that a study needs, then score all its methods."""
    yield "class prototypes", prototype_works(study)
    yield "importance", list[Work](score_works(study))


def _steps(plan: Plan) -> Iterator[Step]:
    study = reversion_study(plan)
    yield "class prototypes", prototype_works(study)
    # beside the scores, as they are independent, the map is drawn
    yield "map and importance", [map_work(plan), *score_works(study)]


STAGE = Stage("evolve", _steps)
