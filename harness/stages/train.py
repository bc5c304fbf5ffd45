"""Stage: train the series that are to be trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from harness.artifacts import Artifact, Run
from harness.images.batches import load_batch
from harness.images.sets import CachedImages, FileImages, open_images
from harness.networks.architectures import build
from harness.networks.budget import FEWEST, Cost, free_bytes, measure_cost, resources
from harness.networks.sources import Source, TrainedSource
from harness.networks.training import Examples, TrainingData, train
from harness.stages.check import check_untrained
from harness.stages.images import count_images
from harness.stages.stage import Advance, Plan, Step, Value, Work
from harness.text import format_bytes


@dataclass(frozen=True)
class TrainSeries(Work):
    """Work that trains one network, or resumes its interrupted training."""

    source: TrainedSource
    batches_an_epoch: int

    @property
    def makes(self) -> tuple[Artifact, ...]:
        name, epochs = self.source.name, self.source.series().epochs
        weights = (Artifact("weights", (name, epoch)) for epoch in epochs)
        return (*weights, Artifact("training_log", (name,)))

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return Artifact("image_index", ("train",)), Artifact("image_index", ("test",))

    @property
    def keeps(self) -> tuple[Artifact, ...]:
        return (Artifact("training_state", (self.source.name,)),)

    @property
    def depends(self) -> object:
        return [self.source.identity(-1), vars(self.source.view)]

    @property
    def steps(self) -> int:
        return self.source.training.epochs * self.batches_an_epoch

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        source = self.source
        check_untrained(source, run)
        _check_memory(source, run)
        data = TrainingData(
            _examples(run, "train", source),
            _examples(run, "test", source),
            len(open_images(run, "test").classes),
            lambda epoch: run.path(Artifact("weights", (source.name, epoch))),
            run.path(Artifact("training_state", (source.name,))),
        )
        log = train(
            source.architecture,
            data,
            source.training,
            source.seed,
            lambda: advance(1),
            resources().device,
        )
        for _ in source.series().epochs:
            yield None  # `train` has written the weights
        log.insert(0, "series", source.name)
        yield log


def training_cost(source: TrainedSource, classes: int, batch: Tensor) -> tuple[Cost, int]:
    """Return the cost of one image in a training step, and the bytes of the weights with their
    gradients and the optimizer's state."""
    device = resources().device
    model = device.model(build(source.architecture, classes, 0))
    labels = torch.zeros(len(batch), dtype=torch.int64, device=device.place)

    def step() -> None:
        functional.cross_entropy(model(batch), labels).backward()
        model.zero_grad()

    return measure_cost(step, len(batch), device), 4 * sum(p.nbytes for p in model.parameters())


def _check_memory(source: TrainedSource, run: Run) -> None:
    """Raise ValueError if a batch, on whose size results depend, does not fit the memory."""
    images = open_images(run, "test")
    batch = resources().device.batch(load_batch(images, range(FEWEST), source.view))
    cost, weights = training_cost(source, len(images.classes), batch)
    size = source.training.batch_size
    needed_bytes, free_memory = size * cost.bytes + weights, resources().memory
    if needed_bytes > free_memory:
        raise ValueError(
            f"training of series {source.name!r}: a batch of {size} images needs "
            f"{format_bytes(needed_bytes)} with the weights, but only {format_bytes(free_memory)} "
            f"are free beside the libraries; increase `memory`, use fewer workers or smaller "
            f"images, or lower training.batch_size, on which the result depends"
        )


def _examples(run: Run, split: str, source: Source) -> Examples:
    """Return a split whose images are read when needed. Decoded files are kept while they fit into
    the main memory, unless other processes read them, which end with each epoch."""
    images = open_images(run, split)
    if isinstance(images, FileImages) and resources().readers <= 1:
        limit = min(resources().memory, free_bytes()) // 4
        images = CachedImages(**vars(images), limit=limit)
    view = source.view
    return Examples(partial(load_batch, images, view=view), torch.tensor(images.labels))


def steps(plan: Plan) -> Iterator[Step]:
    """Train every series that is to be trained."""
    sources = [s for s in plan.config.series if isinstance(s, TrainedSource)]
    images = count_images(plan.config, "train") if sources else 0
    yield (
        "training",
        [TrainSeries(s, (s.training.images or images) // s.training.batch_size) for s in sources],
    )
