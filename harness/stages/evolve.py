"""Stage: compute the importance of each neuron's evolution for each class, by every method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from torch import Tensor

from harness.artifacts import Artifact, Run
from harness.config import Config
from harness.evolutions.arms import ranks
from harness.evolutions.importance import importance_method, sensitivities, split_half, summarise
from harness.networks.budget import FEWEST, BatchWork, pass_memory, resources, run_halving
from harness.networks.layer import ModelPair
from harness.networks.objectives import Target, objective_identity
from harness.networks.sources import Source
from harness.randomness import generator
from harness.records import PAIR, Pair
from harness.registry import plugin_identity
from harness.stages.checkpoints import fit_batch_size, open_pair
from harness.stages.prototypes import load_targets, prototype_artifacts, prototype_works
from harness.stages.series_images import series_images
from harness.stages.space import map_work
from harness.stages.stage import Advance, Plan, Step, Value, Work
from harness.stages.study import AblationStudy, pair_key, reversion_study

_SCORES = [*PAIR, "layer", "channel", "class_id", "method", "score", "stderr", "images", "rank"]
_RELIABILITY = [*PAIR, "layer", "method", "class_id", "images", "rho", "left_out"]


@dataclass(frozen=True)
class ScoreEvolutions(Work):
    """Work that scores and ranks all neurons of one pair by one method, for some classes."""

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
            *prototype_artifacts(self.source, *epochs),
        )

    @property
    def depends(self) -> object:
        evolve = self.config.evolve
        # in a small class, held-out images reduce the images for importance
        images = [evolve.images_per_class, self.config.revert.heldout_images]
        return [
            self.classes,
            images,
            self.config.seed,
            evolve.path_steps,
            plugin_identity(self.method),
            objective_identity(self.source.objective),
        ]

    @property
    def steps(self) -> int:
        return len(self.classes)

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        models = open_pair(run, self.source, self.pair)
        images = series_images(run, self.source, self.config)
        older = load_targets(run, self.source, self.pair.epoch_from)
        newer = load_targets(run, self.source, self.pair.epoch_to)
        batch = images.batch(np.arange(min(FEWEST, len(images.images))))
        scoring = scoring_work(
            self.source, models, batch, newer(self.classes[0]), self.method, self.config
        )
        batch_size = fit_batch_size(run, scoring, pass_memory(models.older, models.newer))
        method, path_steps = importance_method(self.method), self.config.evolve.path_steps

        def score(class_id: int, batch_size: int) -> dict[str, np.ndarray]:
            batches = images.importance_batches(class_id, batch_size)
            targets, rng = (
                (older(class_id), newer(class_id)),
                self._generator("importance", class_id),
            )
            others = partial(images.other_class_batches, class_id, batch_size)
            with resources().device.computing():
                return sensitivities(models, batches, targets, method, rng, path_steps, others)

        scores, reliability = [], []
        for class_id in self.classes:
            by_layer = run_halving(partial(score, class_id), batch_size, str(self.artifact))
            halves = self._generator("halves of the images", class_id)
            frames = []
            for layer, values in by_layer.items():
                means, stderr = summarise(values, method.share)
                columns = {"channel": np.arange(len(means)), "score": means, "stderr": stderr}
                frames.append(pd.DataFrame(columns).assign(layer=layer, images=len(values)))
                split = split_half(values, method.share, halves)
                reliability.append(split.assign(layer=layer, class_id=class_id))
            table = pd.concat(frames, ignore_index=True)
            rank = ranks(table, self._generator("ties of importance", class_id))
            scores.append(table.assign(rank=rank, class_id=class_id))
            advance(1)
        for tables, names in ((scores, _SCORES), (reliability, _RELIABILITY)):
            table = pd.concat(tables, ignore_index=True)
            yield table.assign(**vars(self.pair), method=self.method)[names]

    def _generator(self, purpose: str, class_id: int) -> np.random.Generator:
        return generator(self.config.seed, purpose, *pair_key(self.pair), class_id, self.method)


def scoring_work(
    source: Source, models: ModelPair, batch: Tensor, target: Target, method: str, config: Config
) -> BatchWork:
    """Return the scoring of a series by a method, with the batch on which its cost is measured."""
    rng, plugin = np.random.default_rng(0), importance_method(method)
    steps = config.evolve.path_steps
    do = partial(sensitivities, models, [batch], target, plugin, rng, steps, lambda: [batch])
    label = f"importance of series {source.name!r} by {method}"
    return BatchWork(label, do, len(batch), config.evolve.batch_size)


def score_works(study: AblationStudy) -> list[ScoreEvolutions]:
    """Return the pieces of work that score all methods of a study."""
    return [
        ScoreEvolutions(
            study.scores(pair, method, block), source, pair, method, block, study.config
        )
        for source, pair in study.pairs
        for block in study.blocks
        for method in study.scored_methods
    ]


def score_steps(study: AblationStudy) -> Iterator[Step]:
    """Make the prototypes that a study needs, then score all its methods."""
    yield "class prototypes", prototype_works(study)
    yield "importance", score_works(study)


def steps(plan: Plan) -> Iterator[Step]:
    """Score all evolutions and, at the same time, compute the map."""
    study = reversion_study(plan)
    yield "class prototypes", prototype_works(study)
    # the map does not depend on the scores
    yield "map and importance", [map_work(plan), *score_works(study)]
