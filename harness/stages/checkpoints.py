"""What all stages that run networks share: the checkpoints, their layers, pairs and images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor, nn

from harness.artifacts import Artifact, Run
from harness.config import Config
from harness.images.batches import batch_of, batches, random_images
from harness.images.sets import ImageSet, View, open_images
from harness.networks.architectures import channels_last
from harness.networks.budget import FEWEST, Cost, fitting, measure, resources, room
from harness.networks.calls import expose_calls
from harness.networks.layer import Layer, ModelPair, Network
from harness.networks.parts import open_attention
from harness.networks.running import choose_output, name_network, network_name
from harness.networks.sources import Source, TrainedSource
from harness.networks.wrappers import usable
from harness.randomness import generator
from harness.records import Checkpoint, Pair
from harness.stages.stage import Plan, Work

#: Fields of a source on which the outputs of a checkpoint do not depend.
_UNSEEN = {
    *("name", "source", "training", "only", "skip", "checkpoints", "at", "objective"),
    *("revisions", "cache"),
}


def give_checkpoints(plan: Plan) -> None:
    """Declare every checkpoint of the run: its weights and its view of images."""
    for source in plan.config.series:
        for epoch in source.epochs():
            weights = Artifact("weights", (source.name, epoch))
            plan.give(
                Artifact("checkpoint", (source.name, epoch)),
                partial(_identity, source, epoch, plan.config.precision),
                [weights] * isinstance(source, TrainedSource),
            )


def _identity(source: Source, epoch: int, precision: str) -> list[object]:
    """Return what the outputs of a checkpoint depend on.

    Precision is included, because it can change ranks; the device is not, because float32 is full
    single precision on every device.
    """
    seen: list[object] = [source.identity(epoch), source.model_dump(mode="json", exclude=_UNSEEN)]
    return seen if precision == "float32" else [*seen, precision]


@dataclass(frozen=True)
class OfCheckpoint(Work):
    """A piece of work on one checkpoint and the images of one split."""

    source: Source
    epoch: int

    split: ClassVar[str] = "test"
    #: Kinds of the artifacts that it makes, one artifact of each kind.
    kinds: ClassVar[tuple[str, ...]] = ()

    @property
    def place(self) -> tuple[str, int]:
        return self.source.name, self.epoch

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return tuple(Artifact(kind, self.place) for kind in self.kinds)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return Artifact("checkpoint", self.place), Artifact("image_index", (self.split,))


@dataclass(frozen=True)
class OfLayers(OfCheckpoint):
    """A piece of work that also uses the layers of the checkpoint."""

    #: What it does, for the message if a pass does not fit the memory, e.g. "probing".
    doing: ClassVar[str] = ""

    @property
    def reads(self) -> tuple[Artifact, ...]:
        checkpoint, images = super().reads
        return checkpoint, Artifact("layers", (self.source.name,)), images

    def network(self, run: Run) -> Network:
        """Return the checkpoint's network on the device in use."""
        return Network(
            Checkpoint(*self.place),
            load(run, self.source, self.epoch),
            read_layers(run, self.source.name),
            view_of(run, self.source),
            resources().device,
        )

    def pass_size(
        self, run: Run, network: Network, work: Callable[[int], object], most: int, held: int
    ) -> int:
        """Return the number of images per pass with which the work fits the memory.

        Args:
            work: does the same work on a given number of images.
            most: the largest batch wanted.
            held: bytes that are kept between passes.
        """
        few = min(FEWEST, len(open_images(run, self.split)))
        what = f"{self.doing} series {self.source.name!r}"
        memory = room(network.model) - held
        return fitting_size(run, what, partial(work, few), few, most, memory)


def loadable(config: Config) -> list[tuple[Source, int]]:
    """Return series and epoch of every checkpoint with weights (perhaps after training)."""
    return [(source, epoch) for source in config.series for epoch in source.loadable()]


def load(run: Run, source: Source, epoch: int) -> nn.Module:
    """Return the model of one checkpoint on the device in use, in float32 and the memory format
    of its series, with calls exposed."""
    fits = view_of(run, source).channels_last
    return resources().device.model(prepared(opened(run, source, epoch), source, fits))


def opened(run: Run, source: Source, epoch: int) -> nn.Module:
    """Return the model of one checkpoint without wrappers and with a name for messages.

    Raises:
        ValueError: it cannot be loaded, or its inner modules or weights cannot be accessed.
    """
    model = source.load(epoch, len(open_images(run, "test").classes), run)
    return name_network(usable(model), f"series {source.name!r}, epoch {epoch}")


def prepared(model: nn.Module, source: Source, in_channels_last: bool) -> nn.Module:
    """Return a loaded model in the form that all stages use."""
    name = network_name(model)
    model = open_attention(model.float(), source.layers)
    model = expose_calls(model, random_images(source.view, 2))
    name_network(choose_output(model, source.output), name)
    return channels_last(model) if in_channels_last else model


def view_of(run: Run, source: Source) -> View:
    """Return a series' view of images, in the memory format that suits its network."""
    artifact = Artifact("layers", (source.name,))
    if not run.path(artifact).exists():
        return source.view
    fits = bool(run.table(artifact)["memory_channels_last"].iloc[0])
    return replace(source.view, channels_last=fits)


def read_layers(run: Run, series: str) -> list[Layer]:
    """Return the probed layers of a series, as found by the stage `probe`."""
    table = run.table(Artifact("layers", (series,)))
    names = ["series", "resize", "crop", "memory_channels_last"]
    rows = table.drop(columns=names).rename(columns={"layer": "name"})
    return [Layer(**row) for row in rows.to_dict("records")]


def layer_names(run: Run, series: str) -> list[str]:
    """Return the names of the probed layers of a series."""
    return [layer.name for layer in read_layers(run, series)]


_opened: list[tuple[Run, Source, Pair, ModelPair]] = []  # at most the last pair
#: The cost of one image, by kind of work.
_costs: WeakKeyDictionary[Run, dict[str, Cost]] = WeakKeyDictionary()


def open_pair(run: Run, source: Source, pair: Pair) -> ModelPair:
    """Return the two models of a pair and their layers.

    The last pair is kept, because successive pieces of work use the same pair. It is kept for this
    `run` object only; each command makes its own, because weights may change between commands.
    """
    if _opened and _opened[0][0] is run and _opened[0][1:3] == (source, pair):
        return _opened[0][3]
    _opened.clear()
    older, newer = (load(run, source, epoch) for epoch in (pair.epoch_from, pair.epoch_to))
    models = ModelPair(older, newer, read_layers(run, source.name))
    _opened.append((run, source, pair, models))
    return models


def fitting_size(
    run: Run,
    what: str,
    work: Callable[[], object],
    images: int,
    most: int,
    memory: int,
    fewest: int = FEWEST,
) -> int:
    """Return the number of images per pass with which work on a series' networks fits the memory.

    Args:
        what: the work, for the message ("importance of series 'vgg'"); each cost is measured once.
        work: runs on `images` images.
        images: number of images on which the cost is measured.
        most: the largest batch wanted.
        memory: bytes that a pass may take; see `room`.
        fewest: the smallest useful number of images.

    Raises:
        ValueError: not even the fewest images fit.
    """
    costs = _costs.setdefault(run, {})
    if what not in costs:
        costs[what] = measure(work, images, resources().device)
    return fitting(costs[what], memory, most, what, fewest)


@dataclass(frozen=True, eq=False)
class SeriesImages:
    """The images of one split, in batches for the networks of one series, whose view they have.

    The run's configuration decides how a class's test images are divided.
    """

    images: ImageSet
    view: View
    config: Config

    def batch(self, ids: Sequence[int] | np.ndarray) -> Tensor:
        """Return the images with these ids, [images, channels, height, width]."""
        return resources().device.batch(batch_of(self.images, ids, self.view))

    def few(self) -> Tensor:
        """Return the smallest batch that is run, for measuring the cost of one image."""
        return self.batch(np.arange(min(FEWEST, len(self.images))))

    def batches(self, ids: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ids and images, `size` at a time."""
        for some, batch in batches(self.images, ids, self.view, size):
            yield some, resources().device.batch(batch)

    @cached_property
    def parts(self) -> Callable[[int], dict[str, np.ndarray]]:
        """A function from a class id to the ids of the class's test images in the parts
        `importance` and `heldout`; see `split_images`."""
        return cache(
            partial(
                split_images,
                self.images.labels,
                importance=self.config.evolve.images_per_class,
                heldout=self.config.revert.heldout_images,
                seed=self.config.seed,
            )
        )

    def of_importance(self, class_id: int, size: int) -> list[Tensor]:
        """Return batches of the images of a class on which importance is measured."""
        ids = self.parts(class_id)["importance"]
        return [batch for _, batch in self.batches(ids, size)]

    def of_others(self, class_id: int, size: int) -> list[Tensor]:
        """Return batches of random importance images of other classes, at most twice as many as
        the importance images of this class."""
        counts = np.bincount(self.images.labels, minlength=len(self.images.classes))
        pool = [
            self.parts(other)["importance"]
            for other in range(len(self.images.classes))
            if other != class_id and counts[other] > 1
        ]
        if not pool:
            return []
        every = np.concatenate(pool)
        most = 2 * len(self.parts(class_id)["importance"])
        rng = generator(self.config.seed, "images of other classes", class_id)
        chosen = np.sort(rng.choice(every, min(most, len(every)), replace=False))
        return [batch for _, batch in self.batches(chosen, size)]


def series_images(run: Run, source: Source, config: Config, split: str = "test") -> SeriesImages:
    """Return the images of one split of a run for the networks of a series."""
    return SeriesImages(open_images(run, split), view_of(run, source), config)


def split_images(
    labels: np.ndarray, class_id: int, importance: int, heldout: int, seed: int
) -> dict[str, np.ndarray]:
    """Draw two disjoint random parts of a class's images, of the requested sizes.

    If there are fewer images than requested, they are divided in the same proportion.

    Returns:
        "importance" and "heldout" -> image ids, int64, increasing.

    Raises:
        ValueError: the class has fewer than two images.
    """
    mine = np.flatnonzero(labels == class_id)
    if len(mine) < 2:
        raise ValueError(
            f"class {class_id} has {len(mine)} images; importance and reversion need at least one "
            f"each"
        )
    mine = generator(seed, "split of a class's images", class_id).permutation(mine)
    if len(mine) < importance + heldout:
        share = importance / (importance + heldout)
        importance = int(np.clip(round(share * len(mine)), 1, len(mine) - 1))
        heldout = len(mine) - importance
    return {
        "importance": np.sort(mine[:importance]),
        "heldout": np.sort(mine[importance : importance + heldout]),
    }
