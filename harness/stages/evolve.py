"""Stage: compute the importance of each neuron's evolution for each class, by every method."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from torch import Tensor

from harness.artifacts import Artifact, Run
from harness.config import Config
from harness.evolutions.arms import ranks
from harness.evolutions.importance import importance_method, sensitivities, split_half, summarise
from harness.evolutions.sensitivity import Case
from harness.networks.budget import BatchWork, pass_memory, resources, run_halving
from harness.networks.layer import ModelPair
from harness.networks.objectives import Target, objective_identity
from harness.networks.sources import Source
from harness.records import PAIR
from harness.registry import plugin_identity
from harness.stages.checkpoints import fit_batch_size, open_pair
from harness.stages.prototypes import load_targets, prototype_artifacts, prototype_works
from harness.stages.series_images import series_images
from harness.stages.space import MapNeurons
from harness.stages.stage import Advance, Plan, Step, Value
from harness.stages.study import AblationStudy, StudyWork, reversion_study

_SCORES = [*PAIR, "layer", "channel", "class_id", "method", "score", "stderr", "images", "rank"]
_RELIABILITY = [*PAIR, "layer", "method", "class_id", "images", "rho", "left_out"]


@dataclass(frozen=True)
class ScoreEvolutions(StudyWork):
    """Work that scores and ranks all neurons of one pair by one method, for some classes."""

    @property
    def makes(self) -> tuple[Artifact, ...]:
        scores = self.study.scores(self.pair, self.method, self.classes)
        return scores, Artifact("reliability", scores.parts)

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
        config = self.study.config
        # in a small class, held-out images reduce the images for importance
        images = [config.evolve.images_per_class, config.revert.heldout_images]
        return [
            self.classes,
            images,
            config.seed,
            config.evolve.path_steps,
            plugin_identity(self.method),
            objective_identity(self.source.objective),
        ]

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        models, config = open_pair(run, self.source, self.pair), self.study.config
        images = series_images(run, self.source, config)
        older = load_targets(run, self.source, self.pair.epoch_from)
        newer = load_targets(run, self.source, self.pair.epoch_to)
        batch = images.batch(images.sample_ids)
        scoring = scoring_work(
            self.source, models, batch, newer(self.classes[0]), self.method, config
        )
        batch_size = fit_batch_size(run, scoring, pass_memory(models.older, models.newer))
        method = importance_method(self.method)

        def score(class_id: int, batch_size: int) -> dict[str, np.ndarray]:
            case = Case(
                models,
                images.importance_batches(class_id, batch_size),
                (older(class_id), newer(class_id)),
                self.generator("importance", class_id, self.method),
                config.evolve.path_steps,
                partial(images.other_class_batches, class_id, batch_size),
            )
            with resources().device.computing():
                return sensitivities(case, method)

        scores, reliability = [], []
        for class_id in self.classes:
            by_layer = run_halving(partial(score, class_id), batch_size, str(self.makes[0]))
            halves = self.generator("halves of the images", class_id, self.method)
            ties = self.generator("ties of importance", class_id, self.method)
            class_scores, class_reliability = summaries(by_layer, method.share, halves, ties)
            scores.append(class_scores.assign(class_id=class_id))
            reliability.append(class_reliability.assign(class_id=class_id))
            advance(1)
        for tables, names in ((scores, _SCORES), (reliability, _RELIABILITY)):
            table = pd.concat(tables, ignore_index=True)
            yield table.assign(**vars(self.pair), method=self.method)[names]


def summaries(
    sensitivities: Mapping[str, np.ndarray],
    share: bool,
    halves: np.random.Generator,
    ties: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores and ranks of all neurons for one class, and the scores' reliability.

    Args:
        sensitivities: layer -> [images, channels].
        share: as in ImportanceMethod.
        halves, ties: draw the halves of the images, and break ties of ranks.
    """
    parts = {}
    for name, values in sensitivities.items():
        score, stderr = summarise(values, share)
        parts[name] = pd.DataFrame({"score": score, "stderr": stderr, "images": len(values)})
    scores = pd.concat(parts, names=["layer", "channel"]).reset_index()
    splits = {name: split_half(values, share, halves) for name, values in sensitivities.items()}
    reliability = pd.concat(splits, names=["layer", None]).reset_index("layer")
    return scores.assign(rank=ranks(scores, ties)), reliability


def scoring_work(
    source: Source, models: ModelPair, batch: Tensor, target: Target, method: str, config: Config
) -> BatchWork:
    """Return the scoring of a series by a method, with the batch on which its cost is measured."""
    plugin, evolve = importance_method(method), config.evolve

    def do() -> object:  # a new case each time, because a case keeps what it has drawn
        rng = np.random.default_rng(0)
        case = Case(models, [batch], target, rng, evolve.path_steps, others=lambda: [batch])
        return sensitivities(case, plugin)

    label = f"importance of series {source.name!r} by {method}"
    return BatchWork(label, do, len(batch), evolve.batch_size)


def score_works(study: AblationStudy) -> list[ScoreEvolutions]:
    return [
        ScoreEvolutions(study, source, pair, method, block)
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
    yield "map and importance", [MapNeurons(plan.config), *score_works(study)]
