"""The source of torchvision's own models, with published or with random weights."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pydantic import Field, model_validator
from torch import nn

from harness.artifacts import Run, fingerprint
from harness.images.view import VIEW_SETTINGS, Size
from harness.networks.sources import SOURCES, ArchitectureSource
from harness.networks.state_dicts import CheckpointError, fill
from harness.torchvision_import import call_with_torchvision

#: Stands for random weights.
RANDOM = "random"


@SOURCES.add("torchvision")
class TorchvisionSource(ArchitectureSource):
    """A torchvision model with published weights or with random weights.

    Images are prepared as torchvision prepares them for the last of the published weights, unless
    `resize` and `crop`, `mean`, `std` or `interpolation` are set.

    Attributes:
        checkpoints: epoch -> "random" or the name of torchvision's weights, e.g.
            {0: "random", 90: "IMAGENET1K_V1"}.
    """

    resize: Size = 256
    crop: Size = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    outputs: int | None = Field(1000, ge=1)
    checkpoints: dict[int, str] = Field({0: RANDOM}, min_length=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _take_view_of_weights(cls, section: Any) -> Any:
        """Fill in what is not set of the view; other validators refuse what is not possible."""
        if not isinstance(section, dict) or section.keys() >= {*VIEW_SETTINGS}:
            return section
        checkpoints = section.get("checkpoints")
        names = checkpoints.values() if isinstance(checkpoints, dict) else ()
        for weights in reversed([name for name in names if isinstance(name, str)]):
            if settings := _settings(_published(section.get("architecture"), weights)):
                if {"resize", "crop"} & section.keys():  # which must be set together
                    settings = {n: v for n, v in settings.items() if n not in ("resize", "crop")}
                return settings | section
        return section

    def epochs(self) -> tuple[int, ...]:
        return self._without_skipped(sorted(self.checkpoints))

    def remarks(self) -> Iterator[str]:
        yield from super().remarks()
        for weights in dict.fromkeys(self.checkpoints[epoch] for epoch in self.epochs()):
            theirs = _settings(_published(self.architecture, weights))
            if theirs != self.model_dump(mode="json", include=set(theirs)):
                values = ", ".join(f"{name} = {value}" for name, value in theirs.items())
                yield f"torchvision evaluates the weights {weights} with other settings: {values}"

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        model = self.build(num_classes, self.seed)
        if (weights := self.checkpoints[epoch]) == RANDOM:
            return model
        if (entry := _published(self.architecture, weights)) is None:
            raise CheckpointError(
                f"series {self.name!r}: torchvision has no weights {weights!r} "
                f"for {self.architecture}"
            )
        state = entry.get_state_dict(progress=False, check_hash=True)
        return fill(model, state, f"torchvision {self.architecture} {weights}")

    def identity(self, epoch: int) -> str:
        return fingerprint(self.architecture, self.outputs, self.checkpoints[epoch], self.seed)


def _published(architecture: Any, weights: Any) -> Any:
    """Return torchvision's entry of the weights of this name; None if there is none."""
    if weights == RANDOM:
        return None
    models = call_with_torchvision(import_module, "torchvision.models")
    if architecture not in models.list_models():
        return None
    return models.get_model_weights(architecture).__members__.get(weights)


def _settings(entry: Any) -> dict[str, Any]:
    """Return the fields of a view with which torchvision evaluates the weights of an entry; {} for
    no entry, and for networks that do not classify images."""
    preset: Any = None if entry is None else entry.transforms()
    if type(preset).__name__ != "ImageClassification":
        return {}
    return {
        "resize": preset.resize_size[0],
        "crop": preset.crop_size[0],
        "mean": list(preset.mean),
        "std": list(preset.std),
        "interpolation": preset.interpolation.value,
    }
