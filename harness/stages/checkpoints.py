"""What all stages that run networks share: the checkpoints, their layers and pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import ClassVar
from weakref import WeakKeyDictionary

from torch import nn

from harness.artifacts import Artifact, Run
from harness.config import Config
from harness.images.batches import load_batch, random_images
from harness.images.sets import ImageSet, open_images
from harness.images.view import View
from harness.networks.architectures import channels_last, takes_channels_last
from harness.networks.budget import FEWEST, BatchWork, measure_bytes, pass_memory, resources
from harness.networks.calls import expose_calls
from harness.networks.layer import Layer, ModelPair, Network
from harness.networks.parts import open_attention
from harness.networks.running import choose_output, name_network, network_name
from harness.networks.sources import Source, TrainedSource
from harness.networks.wrappers import copy_network, unwrap
from harness.records import Checkpoint, Pair
from harness.registry import call_user_code
from harness.stages.stage import Plan, Work

#: Fields of a source on which the outputs of a checkpoint do not depend.
_UNUSED = {
    *("name", "source", "training", "only", "skip", "checkpoints", "at", "objective"),
    *("revisions", "cache"),
}


def declare_checkpoints(plan: Plan) -> None:
    """Declare every checkpoint of the run: its weights and its view of images."""
    for source in plan.config.series:
        for epoch in source.series().epochs:
            weights = Artifact("weights", (source.name, epoch))
            plan.declare(
                Artifact("checkpoint", (source.name, epoch)),
                partial(_identity, source, epoch, plan.config.precision),
                [weights] * isinstance(source, TrainedSource),
            )


def _identity(source: Source, epoch: int, precision: str) -> list[object]:
    """Return what the outputs of a checkpoint depend on.

    Precision is included, because it can change ranks; the device is not, because float32 is full
    single precision on every device.
    """
    unused = _UNUSED | source.places
    call = f"series {source.name!r}: identity({epoch}) of source {source.source!r}"
    if not isinstance(identity := call_user_code(call, source.identity, epoch), str):
        raise ValueError(f"{call} must return a text, got {type(identity).__name__}")
    parts: list[object] = [identity, source.model_dump(mode="json", exclude=unused)]
    return parts if precision == "float32" else [*parts, precision]


@dataclass(frozen=True)
class CheckpointWork(Work):
    """A piece of work on one checkpoint and the images of one split."""

    source: Source
    epoch: int

    split: ClassVar[str] = "test"
    #: Kinds of the artifacts that it makes, one artifact of each kind.
    kinds: ClassVar[tuple[str, ...]] = ()

    @property
    def key(self) -> tuple[str, int]:
        return self.source.name, self.epoch

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return tuple(Artifact(kind, self.key) for kind in self.kinds)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return Artifact("checkpoint", self.key), Artifact("image_index", (self.split,))


@dataclass(frozen=True)
class LayersWork(CheckpointWork):
    """A piece of work that also uses the layers of the checkpoint."""

    #: What it does, for the message if a pass does not fit the memory, e.g. "probing".
    activity: ClassVar[str] = ""

    @property
    def reads(self) -> tuple[Artifact, ...]:
        checkpoint, images = super().reads
        return checkpoint, Artifact("layers", (self.source.name,)), images

    def network(self, run: Run) -> Network:
        """Return the checkpoint's network on the device in use."""
        return Network(
            Checkpoint(*self.key),
            load_model(run, self.source, self.epoch),
            read_layers(run, self.source.name),
            read_view(run, self.source),
            resources().device,
        )

    def fit_batch_size(
        self, run: Run, network: Network, do: Callable[[int], object], largest: int, kept: int
    ) -> int:
        """Return the number of images per pass with which the work fits the memory.

        Args:
            do: does the same work on a given number of images.
            largest: the largest number wanted.
            kept: bytes that are kept between passes.
        """
        count = min(FEWEST, len(open_images(run, self.split)))
        label = f"{self.activity} series {self.source.name!r}"
        work = BatchWork(label, partial(do, count), count, largest)
        return fit_batch_size(run, work, pass_memory(network.model) - kept)


def forget_failures(
    plan: Plan, works: Sequence[CheckpointWork], dependents: Sequence[Work] = ()
) -> None:
    """Remove results that hold a problem, and what dependents made of them, so that the work is
    done again: the cause may be none of its inputs, such as a package that is not installed yet."""
    run = plan.run
    finished = [w for w in works if not plan.dry_run and run.sidecar(w.makes[-1]) is not None]
    tables = ((work, run.table(work.makes[-1])) for work in finished)
    failed = [work for work, table in tables if "problem" in table and table["problem"].any()]
    failures = [artifact for work in failed for artifact in work.makes]
    outdated = [made for w in dependents if set(w.reads) & set(failures) for made in w.makes]
    for artifact in [*outdated, *failures]:  # after a stop in between, failures are found again
        run.remove(artifact)


def loadable_checkpoints(config: Config) -> list[tuple[Source, int]]:
    """Return series and epoch of every checkpoint with weights (perhaps after training)."""
    return [(source, epoch) for source in config.series for epoch in source.loadable_epochs()]


def load_model(run: Run, source: Source, epoch: int) -> nn.Module:
    """Return the model of one checkpoint on the device in use, in float32 and the memory format
    of its series, with calls exposed."""
    model = open_checkpoint(run, source, epoch)
    model = prepare_model(model, source, read_view(run, source).channels_last)
    return resources().device.model(model)


def load_epoch(source: Source, epoch: int, classes: int, run: Run) -> nn.Module:
    """Return the model that a source gives for one epoch.

    Raises:
        ValueError: it cannot be loaded, or a user's source fails or returns something else.
    """
    origin = getattr(source, "function", source.source)  # a user's function says more
    call = f"series {source.name!r}, epoch {epoch}: source {origin!r}"
    model = call_user_code(call, source.load, epoch, classes, run)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{call} must return a torch module, got {type(model).__name__}")
    return model


def open_checkpoint(run: Run, source: Source, epoch: int) -> nn.Module:
    """Return the model of one checkpoint without wrappers and with a name for messages.

    Raises:
        ValueError: it cannot be loaded, or its inner modules or weights cannot be accessed.
    """
    model = load_epoch(source, epoch, len(open_images(run, "test").classes), run)
    return name_network(unwrap(model), f"series {source.name!r}, epoch {epoch}")


def prepare_model(model: nn.Module, source: Source, in_channels_last: bool) -> nn.Module:
    """Return a loaded model in the form that all stages use."""
    name = network_name(model)
    model = open_attention(model.float(), source.layers)
    model = expose_calls(model, random_images(source.view, 2))
    name_network(choose_output(model, source.output), name)
    return channels_last(model) if in_channels_last else model


def fit_view(model: nn.Module, source: Source, images: ImageSet) -> View:
    """Return a series' view of images, in the memory format that suits a model of it."""
    batch = load_batch(images, [0, min(1, len(images) - 1)], source.view)
    return replace(source.view, channels_last=takes_channels_last(model, batch))


def read_view(run: Run, source: Source) -> View:
    """Return a series' view of images, in the memory format that suits its network."""
    artifact = Artifact("layers", (source.name,))
    if not run.path(artifact).exists():
        return source.view
    in_channels_last = bool(run.table(artifact)["memory_channels_last"].iloc[0])
    return replace(source.view, channels_last=in_channels_last)


def read_layers(run: Run, series: str) -> list[Layer]:
    """Return the probed layers of a series, as found by the stage `probe`."""
    table = run.table(Artifact("layers", (series,)))
    rows = table.rename(columns={"layer": "name"})[[field.name for field in fields(Layer)]]
    return [Layer(**row) for row in rows.to_dict("records")]


def layer_names(run: Run, series: str) -> list[str]:
    return [layer.name for layer in read_layers(run, series)]


_last_pair: list[tuple[Run, Source, Pair, ModelPair]] = []  # at most the last pair
#: The bytes that one image needs, by the label of the work.
_bytes_per_image: WeakKeyDictionary[Run, dict[str, float]] = WeakKeyDictionary()


def open_pair(run: Run, source: Source, pair: Pair) -> ModelPair:
    """Return the two models of a pair and their layers.

    The last pair is kept, because successive pieces of work use the same pair. It is kept for this
    `run` object only; each command makes its own, because weights may change between commands.
    """
    if _last_pair and _last_pair[0][0] is run and _last_pair[0][1:3] == (source, pair):
        return _last_pair[0][3]
    _last_pair.clear()
    load = partial(load_model, run, source)
    older, newer = load(pair.epoch_from), load(pair.epoch_to)
    if set(older.parameters()) & set(newer.parameters()):
        # the user's code loads all epochs into one module, which now has the newer weights
        older, newer = (copy_network(load(epoch)) for epoch in (pair.epoch_from, pair.epoch_to))
    models = ModelPair(older, newer, read_layers(run, source.name))
    _last_pair.append((run, source, pair, models))
    return models


def fit_batch_size(run: Run, work: BatchWork, memory: int) -> int:
    """Return the number of images per pass with which work on a series' networks fits into `memory`
    bytes (see `pass_memory`); what bears one label is measured once.

    Raises:
        ValueError: not even the smallest number of images fits.
    """
    measured = _bytes_per_image.setdefault(run, {})
    if work.label not in measured:
        measured[work.label] = measure_bytes(work.do, work.images, resources().device)
    return work.batch_size(measured[work.label], memory)
