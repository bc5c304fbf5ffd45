"""The source of torchvision's own models, with published or with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pydantic import Field
from torch import nn

from harness.artifacts import Run, fingerprint
from harness.images.sets import Side
from harness.networks.sources import SOURCES, ArchitectureSource
from harness.networks.state_dicts import CheckpointError, fill
from harness.torchvision_import import call_with_torchvision

#: Stands for random weights.
RANDOM = "random"


@SOURCES.add("torchvision")
class TorchvisionSource(ArchitectureSource):
    """A torchvision model with published weights or with random weights.

    Attributes:
        checkpoints: epoch -> "random" or the name of torchvision's weights, e.g.
            {0: "random", 90: "IMAGENET1K_V1"}.
    """

    resize: Side = 256
    crop: Side = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    outputs: int | None = Field(1000, ge=1)
    checkpoints: dict[int, str] = Field({0: RANDOM})
    seed: int = Field(0, ge=0)

    def epochs(self) -> tuple[int, ...]:
        return self._without_skipped(sorted(self.checkpoints))

    def remarks(self) -> Iterator[str]:
        yield from super().remarks()
        for weights in dict.fromkeys(self.checkpoints[epoch] for epoch in self.epochs()):
            if weights == RANDOM or (entry := self._published(weights)) is None:
                continue  # without an entry, they cannot be loaded, and the check says why
            view = entry.transforms()
            theirs = {"resize": view.resize_size[0], "crop": view.crop_size[0],
                      "mean": list(view.mean), "std": list(view.std)}  # fmt: skip
            if theirs != self.model_dump(mode="json", include=set(theirs)):
                values = ", ".join(f"{name} = {value}" for name, value in theirs.items())
                yield f"torchvision evaluates the weights {weights} with other settings: {values}"
            if (method := view.interpolation.value) != "bilinear":
                yield (
                    f"torchvision evaluates the weights {weights} on images resized by {method} "
                    f"interpolation; here they are resized bilinearly, which changes outputs a "
                    f"little"
                )

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        model = self.build(num_classes, self.seed)
        if (weights := self.checkpoints[epoch]) == RANDOM:
            return model
        if (entry := self._published(weights)) is None:
            raise CheckpointError(
                f"series {self.name!r}: torchvision has no weights {weights!r} "
                f"for {self.architecture}"
            )
        state = entry.get_state_dict(progress=False, check_hash=True)
        return fill(model, state, f"torchvision {self.architecture} {weights}")

    def _published(self, weights: str) -> Any:
        """Return torchvision's entry of the weights of this name; None if there is none."""
        models = call_with_torchvision(import_module, "torchvision.models")
        if self.architecture not in models.list_models():
            return None
        return models.get_model_weights(self.architecture).__members__.get(weights)

    def identity(self, epoch: int) -> str:
        return fingerprint(self.architecture, self.outputs, self.checkpoints[epoch], self.seed)
