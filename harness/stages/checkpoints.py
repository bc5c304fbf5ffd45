"""What all stages that run networks share: the checkpoints, their layers and pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar
from weakref import WeakKeyDictionary

from torch import nn

from harness.artifacts import Artifact, Run
from harness.config import Config
from harness.images.batches import random_images
from harness.images.sets import View, open_images
from harness.networks.architectures import channels_last
from harness.networks.budget import FEWEST, Cost, fitting, measure, resources, room
from harness.networks.calls import expose_calls
from harness.networks.layer import Layer, ModelPair, Network
from harness.networks.parts import open_attention
from harness.networks.running import choose_output, name_network, network_name, users_code
from harness.networks.sources import Source, TrainedSource
from harness.networks.wrappers import usable
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


def loaded(source: Source, epoch: int, classes: int, run: Run) -> nn.Module:
    """Return the model that a source gives for one epoch.

    Raises:
        ValueError: it cannot be loaded, or a user's source fails or returns something else.
    """
    what = f"series {source.name!r}, epoch {epoch}: source"
    with users_code(what, type(source)):
        model = source.load(epoch, classes, run)
    if not isinstance(model, nn.Module):
        name, got = type(source).__name__, type(model).__name__
        raise ValueError(f"{what} {name!r} must return a torch module, got {got}")
    return model


def opened(run: Run, source: Source, epoch: int) -> nn.Module:
    """Return the model of one checkpoint without wrappers and with a name for messages.

    Raises:
        ValueError: it cannot be loaded, or its inner modules or weights cannot be accessed.
    """
    model = loaded(source, epoch, len(open_images(run, "test").classes), run)
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
