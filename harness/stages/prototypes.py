"""The objective of a checkpoint, with prototypes of classes if these must be computed first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.artifacts import Artifact, Run
from harness.config import Config, FolderImagesSection, MemoryImagesSection
from harness.images.sets import ImageSet, open_images
from harness.networks.budget import BatchWork, pass_memory, resources, run_halving
from harness.networks.objectives import Target, choose_objective, read_embeddings
from harness.networks.recording import borrow
from harness.networks.running import run_logits
from harness.networks.sources import Source
from harness.randomness import generator
from harness.stages.checkpoints import CheckpointWork, fit_batch_size, load_model
from harness.stages.series_images import SeriesImages, series_images
from harness.stages.stage import Advance, Value, Work
from harness.stages.study import AblationStudy


@dataclass(frozen=True)
class MakePrototypes(CheckpointWork):
    """Work that computes the mean output of one checkpoint over images of each class."""

    config: Config

    kinds = ("prototypes",)

    @property
    def split(self) -> str:  # type: ignore[override]
        return _split(self.config)

    @property
    def depends(self) -> object:
        config = self.config
        heldout = config.revert.heldout_images if self.split == "test" else None
        return [self.split, config.evolve.images_per_class, config.seed, heldout]

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        images = series_images(run, self.source, self.config, self.split)
        ids_by_class = [self._select_images(images, c) for c in range(len(images.images.classes))]
        model = load_model(run, self.source, self.epoch)
        purpose = "for the prototypes of classes"

        def mean(ids: np.ndarray, batch_size: int) -> Tensor:
            with borrow(model), torch.no_grad(), resources().device.computing():
                answers = [
                    run_logits(model, batch, purpose).cpu()
                    for _, batch in images.batches(ids, batch_size)
                ]
            outputs = [functional.normalize(answer.double(), dim=1) for answer in answers]
            return functional.normalize(torch.cat(outputs).mean(dim=0), dim=0)

        label, count = f"prototypes of series {self.source.name!r}", len(images.sample_ids)
        do, largest = partial(mean, images.sample_ids, count), self.config.evolve.batch_size
        batch_size = fit_batch_size(run, BatchWork(label, do, count, largest), pass_memory(model))
        rows = [run_halving(partial(mean, ids), batch_size, label).float() for ids in ids_by_class]
        yield {
            "prototypes": torch.stack(rows).numpy(),
            "images": np.array([len(ids) for ids in ids_by_class]),
        }

    def _select_images(self, images: SeriesImages, class_id: int) -> np.ndarray:
        ids = np.flatnonzero(images.images.labels == class_id)
        if self.split == "test" and len(ids) > 1:  # a class with one image is not ablated
            return images.parts(class_id)["importance"]
        rng = generator(self.config.seed, "images of a prototype", class_id)
        return np.sort(rng.permutation(ids)[: self.config.evolve.images_per_class])


def _split(config: Config) -> str:
    """Return the split whose images make the prototypes; none of them is used for ablation.

    It is the training images if the run has them, otherwise the probe images; for images in memory,
    the importance part of the test images.
    """
    section = config.images
    if isinstance(section, MemoryImagesSection):
        return "test"
    return "probe" if isinstance(section, FolderImagesSection) and not section.train else "train"


def prototype_works(study: AblationStudy) -> list[Work]:
    needed = {
        (source.name, epoch): source
        for source, pair in study.pairs
        for epoch in (pair.epoch_from, pair.epoch_to)
        if choose_objective(source.objective).needs_images
    }
    return [MakePrototypes(s, epoch, study.config) for (_, epoch), s in needed.items()]


def prototype_artifacts(source: Source, *epochs: int) -> tuple[Artifact, ...]:
    """Return the artifacts that the objective of a series reads."""
    if not choose_objective(source.objective).needs_images:
        return ()
    return tuple(Artifact("prototypes", (source.name, epoch)) for epoch in epochs)


def load_targets(run: Run, source: Source, epoch: int) -> Callable[[int], Target]:
    """Return a function that gives the target of one checkpoint for a class id.

    Raises:
        ValueError: the class embeddings cannot be used.
    """
    objective, images = choose_objective(source.objective), open_images(run, "test")
    vectors: Tensor | None = None
    if objective.file is not None:
        vectors = torch.from_numpy(read_embeddings(objective.file, images.classes))
    elif objective.prototypes:
        (artifact,) = prototype_artifacts(source, epoch)
        vectors = torch.from_numpy(run.arrays(artifact)["prototypes"])

    return partial(_target, source, images, vectors)


def _target(source: Source, images: ImageSet, vectors: Tensor | None, class_id: int) -> Target:
    objective = choose_objective(source.objective)
    label = class_id
    if objective.classifies:  # index of the class's logit in the output
        label = source.class_outputs.get(images.classes[class_id], class_id)
    return Target(objective, label, len(images.classes), vectors)


def sample_target(source: Source, model: nn.Module, images: ImageSet, batch: Tensor) -> Target:
    """Return the target of the first class, with ones in place of prototypes, which may not be
    computed yet; time and memory are the same. The model is one of the checkpoints."""
    vectors: Tensor | None = None
    if choose_objective(source.objective).prototypes:
        with borrow(model), torch.no_grad():
            width = run_logits(model, batch).shape[1]
        vectors = torch.ones(len(images.classes), width)
    return _target(source, images, vectors, 0)


def objective_text(source: Source, config: Config) -> str:
    """Return on what the importance of a series is measured, as part of a sentence."""
    objective = choose_objective(source.objective)
    split = {"train": "training", "probe": "probe", "test": "importance"}[_split(config)]
    limit = config.evolve.images_per_class
    image_text = f" (at most {limit} {split} images each)" if objective.needs_images else ""
    prediction_text = "; a prediction is the class with the largest objective"
    return objective.description + image_text + prediction_text * (not objective.classifies)
