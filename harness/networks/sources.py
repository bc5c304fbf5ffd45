"""Sources of checkpoints. A new source is one class, here or 'package.module:Class'."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints, field_validator, model_validator
from torch import nn

from harness.artifacts import Artifact, Run, fingerprint
from harness.files import cached_listing, file_hash
from harness.images.sets import UserPath
from harness.images.view import VIEW_SETTINGS, Interpolation, Size, View
from harness.networks.architectures import build
from harness.networks.checkpoint_files import FOLDER_FILES, load_weights, match_epochs, weight_files
from harness.networks.objectives import choose_objective
from harness.networks.state_dicts import CheckpointError
from harness.networks.training import TrainingParameters
from harness.records import Series
from harness.registry import Registry, call_user_code, import_attribute, plugin_identity
from harness.section import ClassName, Section
from harness.text import join_names, pluralise

#: The fields of a view whose defaults are guesses where a network was trained elsewhere.
GUESSED = ("resize", "mean", "std")

#: Name in the configuration -> class.
SOURCES: Registry[type[Source]] = Registry("source", accepts=(object,))

#: A number in the name of a file.
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)*(e[-+]?\d+)?")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


class Source(Section, ABC):
    """A series of checkpoints in the configuration: how to list and load them.

    Attributes:
        name: of the series; used in file names.
        source: the class: a name in SOURCES, or `package.module:attribute`.
        resize: length of the shorter side to which images are resized, or height and width;
            pixels.
        crop: side of the central square that is cut out as the network's input, or height and
            width; pixels.
        mean, std: for the normalisation of pixels in [0, 1]: one number per colour channel, or one
            for networks of greyscale images.
        interpolation: the filter by which images are resized.
        layers: names or patterns of modules to probe; default: the non-linearity of every block.
        channels_last: layer pattern -> layout, for layers whose shape does not determine it.
        outputs: number of the network's outputs; default: the number of classes.
        class_outputs: class name -> index of its output, if it differs from the class's index.
        output: key, attribute or position of the logits, if the network returns several values.
        objective: the quantity on which importance is measured: a name in OBJECTIVES, a file of
            class embeddings, or `package.module:name` of a function (see `objectives.py`).
        skip: epochs to leave out.
    """

    #: Fields whose change changes no result, because `identity` depends on the content found there.
    places: ClassVar[frozenset[str]] = frozenset()
    #: Fields of the view whose defaults are only a guess: whoever does not set them is told.
    guessed: ClassVar[tuple[str, ...]] = ()

    name: Name
    source: str = "train"
    resize: Size = 64
    crop: Size = 64
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)
    interpolation: Interpolation = "bilinear"
    layers: tuple[str, ...] | None = Field(None, min_length=1)
    channels_last: dict[str, bool] = Field({})
    outputs: int | None = Field(None, ge=1)
    class_outputs: dict[ClassName, Annotated[int, Field(ge=0)]] = Field({})
    output: str | int | None = None
    objective: str = "logit"
    skip: tuple[int, ...] = ()

    @field_validator("objective")
    @classmethod
    def _objective_exists(cls, name: str) -> str:
        choose_objective(name)
        return name

    @model_validator(mode="after")
    def _view_is_possible(self) -> Source:
        if len({"resize", "crop"} & self.model_fields_set) == 1:
            raise ValueError(
                "resize and crop must be set together (the shorter side and the central square, in "
                "pixels); one of them is missing"
            )
        _ = self.view  # checks its values
        return self

    @property
    def view(self) -> View:
        return View(**{name: getattr(self, name) for name in VIEW_SETTINGS})

    @abstractmethod
    def epochs(self) -> tuple[int, ...]:
        """Return the epochs for which there are (or, for a training, will be) checkpoints."""

    def remarks(self) -> Iterator[str]:
        """Yield notes for the user on what does not prevent the run."""
        if unset := [name for name in self.guessed if name not in self.model_fields_set]:
            settings = self.model_dump(mode="json")
            values = ", ".join(f"{name} = {settings[name]}" for name in unset)
            yield f"not set, and therefore {values}; set what the network was trained with"

    def loadable_epochs(self) -> tuple[int, ...]:
        """Return the epochs that `load` can return: all but those recorded as evidence only."""
        return self.series().epochs

    @abstractmethod
    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        """Return the model of one epoch. Raises CheckpointError if it cannot be loaded."""

    @abstractmethod
    def identity(self, epoch: int) -> str:
        """Return a fingerprint of what `load` returns, without loading it."""

    def _without_skipped(self, epochs: Sequence[int]) -> tuple[int, ...]:
        if unknown := sorted(set(self.skip) - set(epochs)):
            raise ValueError(
                f"series {self.name!r}: skip names epochs {unknown}; there are {list(epochs)}"
            )
        if set() < set(epochs) <= set(self.skip):
            raise ValueError(f"series {self.name!r}: skip leaves out all epochs, {list(epochs)}")
        return tuple(epoch for epoch in epochs if epoch not in self.skip)

    def series(self) -> Series:
        """Return the name and the epochs, which a user's source may have wrong."""
        call = f"series {self.name!r}: epochs() of source {self.source!r}"
        return Series(self.name, call_user_code(call, lambda: tuple(self.epochs())))


class ArchitectureSource(Source):
    """A source that builds an architecture by name (see `architectures.build`)."""

    architecture: str

    def build(self, num_classes: int, seed: int | None = None) -> nn.Module:
        """Return the architecture with random weights."""
        return build(self.architecture, self.outputs or num_classes, seed)


@SOURCES.add("train")
class TrainedSource(ArchitectureSource):
    """Networks that `conceptevo train` trains."""

    architecture: str = "small_vgg"
    training: TrainingParameters = TrainingParameters()
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _outputs_are_classes(self) -> TrainedSource:
        if self.outputs is not None or self.class_outputs:
            raise ValueError(
                "a network that is trained here has one output for each class, in their order: "
                "outputs and class_outputs must not be set"
            )
        return self

    def epochs(self) -> tuple[int, ...]:
        return self._without_skipped(self.training.save)

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        path = run.path(Artifact("weights", (self.name, epoch)))
        return load_weights(build(self.architecture, num_classes), path)

    def identity(self, epoch: int) -> str:
        architecture = plugin_identity(self.architecture)
        return fingerprint(architecture, self.training.model_dump(), self.seed, epoch)


@SOURCES.add("folder")
class FolderSource(ArchitectureSource):
    """A folder of checkpoint files whose names contain the epoch.

    Attributes:
        folder: the folder; `~` and environment variables are resolved.
        pattern: path below the folder. `{epoch}` matches the number, `*` any text within a name,
            `**/` any folders, e.g. "model-{epoch}.pth", "epoch={epoch}-step=*.ckpt".
        only: the epochs to use; default: all.
        key: the state dict to use, if a file holds several, e.g. "state_dict_ema".
    """

    places = frozenset({"folder", "pattern"})
    guessed = GUESSED

    folder: UserPath
    pattern: str = "model-{epoch}.pth"
    only: tuple[int, ...] | None = Field(None, min_length=1)
    key: str | None = None

    @model_validator(mode="after")
    def _pattern_has_epoch(self) -> FolderSource:
        if self.pattern.count("{epoch}") != 1:
            raise ValueError(f"pattern must contain {{epoch}} once, got {self.pattern!r}")
        if Path(self.pattern).is_absolute() or ".." in Path(self.pattern).parts:
            raise ValueError(f"pattern must be a path below folder, got {self.pattern!r}")
        return self

    def files(self) -> dict[int, Path]:
        """Return the file or folder of each epoch that is used. Raises CheckpointError."""
        by_epoch: dict[int, Path] = {}
        for path, epoch in ((p, e) for p, e in self._match_files() if e is not None):
            if by_epoch.setdefault(epoch, path) != path:
                raise CheckpointError(
                    f"series {self.name!r}: {by_epoch[epoch]} and {path} are both epoch {epoch}; "
                    f"make `pattern` more specific, or each training run a series of its own"
                )
        if not by_epoch:
            held = join_names(sorted(p.name for p in self.folder.iterdir())) or "nothing"
            raise CheckpointError(
                f"series {self.name!r}: no file in {self.folder} matches pattern = "
                f"{self.pattern!r} ({{epoch}} stands for a whole number, * for anything); it holds "
                f"{held}"
            )
        requested = self.only or by_epoch
        if missing := sorted(set(requested) - set(by_epoch)):
            raise CheckpointError(
                f"series {self.name!r}: `only` names epochs {missing}, for which {self.folder} has "
                f"no checkpoint; there are {sorted(by_epoch)}"
            )
        return {epoch: by_epoch[epoch] for epoch in self._without_skipped(sorted(requested))}

    def file(self, epoch: int) -> Path:
        """Return the file or folder of one epoch. Raises CheckpointError."""
        if epoch not in (files := self.files()):
            raise CheckpointError(
                f"{self.folder} held a checkpoint of epoch {epoch} when the command began, but "
                f"does not any more: put it back, or run the command again without it"
            )
        return files[epoch]

    def files_without_epoch(self) -> list[str]:
        """Return files that would match with a whole number as epoch, or in other capitals."""
        return [str(p.relative_to(self.folder)) for p, e in self._match_files() if e is None]

    def remarks(self) -> Iterator[str]:
        yield from super().remarks()
        if names := self.files_without_epoch():
            yield (
                f"left out {pluralise(len(names), 'file')} that would match {self.pattern!r} if "
                f"its epoch were a whole number, or in other capitals: {join_names(names, 4)}"
            )
        files = [path.relative_to(self.folder).as_posix() for path in self.files().values()]
        if len(examples := {_NUMBER.sub("0", name): name for name in reversed(files)}) > 1:
            yield (
                f"the names of its files differ in more than numbers "
                f"({join_names(sorted(examples.values()), 4)}): if they are of several training "
                f"runs, make each run a series of its own"
            )
        if "epoch={epoch}" in self.pattern and 0 in self.series().epochs:
            yield (
                "Lightning saves as epoch=0 what was trained for one epoch; here, epoch 0 is the "
                "untrained network. If these files are Lightning's, leave it out (skip = [0]), or "
                "rename them all"
            )

    def _match_files(self) -> list[tuple[Path, int | None]]:
        """Return the paths that match the pattern, sorted, each with its epoch."""
        if not self.folder.is_dir():
            hint = "" if self.folder.is_absolute() else f" (looked for in {Path.cwd()})"
            problem = "is not a folder" if self.folder.exists() else "does not exist"
            raise CheckpointError(f"series {self.name!r}: folder {self.folder} {problem}{hint}")
        try:
            # a training that still runs may add checkpoints while a command lasts
            key = (self.folder, self.pattern)
            return cached_listing(key, lambda: match_epochs(*key))
        except ValueError as error:
            raise CheckpointError(f"series {self.name!r}: {error}") from error

    def epochs(self) -> tuple[int, ...]:
        return tuple(self.files())

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        return load_weights(self.build(num_classes), self.file(epoch), self.key)

    def identity(self, epoch: int) -> str:
        try:
            content = [file_hash(file) for file in weight_files(self.file(epoch))]
        except CheckpointError as error:  # `load` raises it, too
            content = [str(error)]
        return fingerprint(plugin_identity(self.architecture), self.outputs, self.key, content)


@SOURCES.add("hub")
class HubSource(ArchitectureSource):
    """Revisions of a repository of the Hugging Face Hub, in which some model suites publish their
    training steps.

    Attributes:
        repository: "owner/name".
        revisions: epoch -> branch, tag or commit, e.g. {0: "step0", 1000: "step1000"}.
        key: the state dict to use, if a file holds several.
        cache: folder of the downloads; default: that of the library.
    """

    guessed = GUESSED

    repository: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
    revisions: dict[int, str] = Field(min_length=1)
    key: str | None = None
    cache: UserPath | None = None

    def epochs(self) -> tuple[int, ...]:
        return self._without_skipped(sorted(self.revisions))

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        return load_weights(self.build(num_classes), self._download(epoch), self.key)

    def _download(self, epoch: int) -> Path:
        """Return the folder of a revision, downloaded once. Raises CheckpointError."""
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise CheckpointError(
                f'series {self.name!r}: source = "hub" needs the package huggingface_hub: '
                f"pip install huggingface_hub"
            ) from error
        revision = self.revisions[epoch]
        try:
            folder = snapshot_download(
                self.repository,
                revision=revision,
                cache_dir=self.cache,
                allow_patterns=[f"{Path(name).stem}*" for name in FOLDER_FILES],
            )
        except Exception as error:  # raised by the connection, the server or the library
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise CheckpointError(
                f"series {self.name!r}: revision {revision!r} of {self.repository} cannot be "
                f"downloaded ({reason})"
            ) from error
        return Path(folder)

    def identity(self, epoch: int) -> str:
        """Return the revision's name: a branch may move unnoticed; tags and commits do not move."""
        place = plugin_identity(self.architecture), self.outputs, self.key, self.repository
        return fingerprint(*place, self.revisions[epoch])


@SOURCES.add("function")
class FunctionSource(Source):
    """User code: `function(epoch)` returns the model of that epoch.

    Attributes:
        function: "package.module:function".
        at: the epochs for which it can be called.
        version: results are computed again if it changes, or if the source code of the function's
            module or of an imported module of the same package or folder changes. Change it if
            something else changes, such as a file that the function reads.
    """

    guessed = GUESSED

    function: str
    at: tuple[int, ...]
    version: str = ""
    outputs: None = None  # those of the model

    def epochs(self) -> tuple[int, ...]:
        return self._without_skipped(sorted(self.at))

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        call = f"series {self.name!r}, epoch {epoch}: {self.function}({epoch})"
        return call_user_code(call, import_attribute(self.function, "model function"), epoch)

    def identity(self, epoch: int) -> str:
        return fingerprint(plugin_identity(self.function), self.version, epoch)


def parse_source(section: Mapping[str, Any] | Source) -> Source:
    """Return the source of a section of the configuration, whose `source` names the class."""
    if isinstance(section, Source):
        return section
    kind: object = SOURCES.get(name := section.get("source", "train"))
    if not (isinstance(kind, type) and issubclass(kind, Source)):
        raise ValueError(
            f'source {name!r} must be a class derived from Source; a function: source = "function"'
        )
    if kind.__abstractmethods__:
        raise ValueError(f"source {name!r} lacks {', '.join(sorted(kind.__abstractmethods__))}")
    return kind.model_validate(dict(section))
