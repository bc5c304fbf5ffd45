"""Where checkpoints come from. A new source is one class, here or 'package.module:Class'."""

from __future__ import annotations

import hashlib
import pickle
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from torch import Tensor, nn

from harness.artifacts import Artifact, Run, fingerprint
from harness.images.sets import View
from harness.networks.architectures import build
from harness.networks.training import TrainingParameters
from harness.records import Series
from harness.registry import Registry, import_attribute

#: name in the configuration -> class
SOURCES: Registry[type[Source]] = Registry("source")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]

#: Under these keys other people's checkpoints keep their state dict.
STATE_DICT_KEYS = ("model_state_dict", "state_dict", "model")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, unsafe, or does not fit its architecture."""


class Source(BaseModel, ABC):
    """One series of checkpoints of the configuration: how to list and load them.

    Attributes:
        name: of the series; used in file names.
        source: which class this is: a name in SOURCES, or `package.module:attribute`.
        resize, crop: the network's view of an image (shorter side, central square; pixels).
        mean, std: of the normalisation of pixels in [0, 1].
        layers: module names or patterns to probe; every block's non-linearity by default.
        channels_last: by layer pattern, where the layout cannot be told from the shapes.
        outputs: size of the network's output, by default the number of classes.
        class_outputs: class name -> index in the output, where it is not the class's own index.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    source: str = "train"
    resize: int = Field(64, ge=1)
    crop: int = Field(64, ge=1)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    layers: tuple[str, ...] | None = None
    channels_last: dict[str, bool] = {}
    outputs: int | None = Field(None, ge=1)
    class_outputs: dict[str, int] = {}

    @property
    def view(self) -> View:
        return View(self.resize, self.crop, self.mean, self.std)

    @abstractmethod
    def epochs(self) -> tuple[int, ...]:
        """The epochs of which there are (or, for a training, will be) checkpoints."""

    @abstractmethod
    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        """The model of one epoch. Raises CheckpointError where that cannot be had."""

    @abstractmethod
    def identity(self, epoch: int) -> str:
        """A fingerprint of what `load` returns, without loading it."""

    def series(self) -> Series:
        return Series(self.name, self.epochs())


class ArchitectureSource(Source):
    """A source that builds an architecture by name (see `networks.build`)."""

    architecture: str


@SOURCES.add("train")
class TrainedSource(ArchitectureSource):
    """Networks that `conceptevo train` trains here."""

    architecture: str = "small_vgg"
    training: TrainingParameters = TrainingParameters()
    seed: int = Field(0, ge=0)

    def epochs(self) -> tuple[int, ...]:
        return self.training.save

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        path = run.path(Artifact("weights", (self.name, epoch)))
        return load_weights(build(self.architecture, num_classes), path)

    def identity(self, epoch: int) -> str:
        return fingerprint(self.architecture, self.training.model_dump(), self.seed, epoch)


@SOURCES.add("folder")
class FolderSource(ArchitectureSource):
    """A folder of checkpoint files whose names hold the epoch.

    Attributes:
        folder: where the files are.
        pattern: file name with `{epoch}` for the number, e.g. "model-{epoch}.pth".
        only: the epochs to use; all found by default.
    """

    folder: Path
    pattern: str = "model-{epoch}.pth"
    only: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _pattern_has_epoch(self) -> FolderSource:
        if self.pattern.count("{epoch}") != 1:
            raise ValueError(f"pattern must hold {{epoch}} once, got {self.pattern!r}")
        return self

    def files(self) -> dict[int, Path]:
        if not self.folder.is_dir():
            raise CheckpointError(f"series {self.name!r}: folder {self.folder} does not exist")
        before, after = map(re.escape, self.pattern.split("{epoch}"))
        expression = re.compile(f"{before}(\\d+){after}")
        found: dict[int, Path] = {}
        for path in sorted(self.folder.iterdir()):
            if match := expression.fullmatch(path.name):
                epoch = int(match.group(1))
                if epoch in found:
                    raise CheckpointError(
                        f"series {self.name!r}: {found[epoch].name} and {path.name} are both "
                        f"epoch {epoch}"
                    )
                found[epoch] = path
        if not found:
            raise CheckpointError(
                f"series {self.name!r}: no file in {self.folder} matches {self.pattern!r}"
            )
        if self.only is None:
            return dict(sorted(found.items()))
        if missing := sorted(set(self.only) - set(found)):
            raise CheckpointError(
                f"series {self.name!r}: no checkpoint of epochs {missing} in {self.folder}; "
                f"there are {sorted(found)}"
            )
        return {epoch: found[epoch] for epoch in sorted(self.only)}

    def epochs(self) -> tuple[int, ...]:
        return tuple(self.files())

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        model = build(self.architecture, self.outputs or num_classes)
        return load_weights(model, self.files()[epoch])

    def identity(self, epoch: int) -> str:
        path = self.files()[epoch]
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return fingerprint(self.architecture, self.outputs, content)


@SOURCES.add("torchvision")
class TorchvisionSource(ArchitectureSource):
    """A torchvision model with the weights that torchvision publishes, or random ones.

    Attributes:
        checkpoints: epoch -> "random" or the name of torchvision's weights, e.g.
            {0: "random", 90: "IMAGENET1K_V1"}.
    """

    resize: int = Field(256, ge=1)
    crop: int = Field(224, ge=1)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    outputs: int | None = Field(1000, ge=1)
    checkpoints: dict[int, str] = {0: "random"}
    seed: int = Field(0, ge=0)

    def epochs(self) -> tuple[int, ...]:
        return tuple(sorted(self.checkpoints))

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        model = build(self.architecture, self.outputs or num_classes, self.seed)
        weights = self.checkpoints[epoch]
        if weights == "random":
            return model
        from harness.networks.vision import torchvision_models

        try:
            chosen = torchvision_models().get_model_weights(self.architecture)[weights]
        except KeyError as error:
            raise CheckpointError(
                f"series {self.name!r}: torchvision has no weights {weights!r} "
                f"for {self.architecture}"
            ) from error
        state = chosen.get_state_dict(progress=False, check_hash=True)
        return _fill(model, state, f"torchvision {self.architecture} {weights}")

    def identity(self, epoch: int) -> str:
        return fingerprint(self.architecture, self.outputs, self.checkpoints[epoch], self.seed)


@SOURCES.add("function")
class FunctionSource(Source):
    """The user's own code: `function(epoch)` returns the model of that epoch.

    Attributes:
        function: "package.module:function".
        at: the epochs for which it can be called.
        version: change it when the function's result changes, so that old results are redone.
    """

    function: str
    at: tuple[int, ...]
    version: str = ""

    def epochs(self) -> tuple[int, ...]:
        return tuple(sorted(self.at))

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        model = import_attribute(self.function, "model function")(epoch)
        if not isinstance(model, nn.Module):
            raise CheckpointError(
                f"series {self.name!r}: {self.function}({epoch}) must return a torch module, "
                f"got {type(model).__name__}"
            )
        return model

    def identity(self, epoch: int) -> str:
        return fingerprint(self.function, self.version, epoch)


def parse_source(section: Mapping[str, Any]) -> Source:
    """A source from its section of the configuration; its `source` names the class."""
    return SOURCES.get(section.get("source", "train")).model_validate(dict(section))


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Fill a model with the weights of a file, strictly.

    Accepts a bare state dict, or one under `model_state_dict`, `state_dict` or `model`; a
    `module.` prefix (of DataParallel) is removed.

    Raises:
        CheckpointError: no such file, damaged, holding more than tensors and plain values, or
            weights that are missing, unexpected or of the wrong shape (all listed).
    """
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"checkpoint {path} holds more than weights, or is damaged, and is not loaded: loading "
            f"such a file could run code in it. Save `model.state_dict()` instead. ({reason})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged or cut off ({str(error).partition(chr(10))[0]})"
        ) from error
    return _fill(model, content, str(path))


def _fill(model: nn.Module, content: object, origin: str) -> nn.Module:
    """Load a state dict into the model; every misfit is listed in one error."""
    if isinstance(content, dict):
        for key in STATE_DICT_KEYS:
            if isinstance(content.get(key), dict):
                content = content[key]
                break
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(
            f"checkpoint {origin} holds no state dict; expected a dict of tensors, bare or under "
            f"{', '.join(STATE_DICT_KEYS)}"
        )
    state = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    wanted = model.state_dict()
    problems = [
        *(f"missing {name}" for name in wanted if name not in state),
        *(f"unexpected {name}" for name in state if name not in wanted),
        *(
            f"{name} is {tuple(state[name].shape)}, should be {tuple(wanted[name].shape)}"
            for name in wanted
            if name in state and state[name].shape != wanted[name].shape
        ),
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint {origin} does not fit the architecture: " + "; ".join(problems)
        )
    model.load_state_dict(state)
    return model
