"""The inputs of the Python interface: models and images in memory, and parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import ConfigDict, Field, field_validator
from torch import Tensor, nn

from conceptevo.arguments import check_fields
from harness.artifacts import Run, fingerprint
from harness.config import MemoryImagesSection
from harness.images.sets import ArrayImages
from harness.images.view import VIEW_SETTINGS, Interpolation, Side, Size, to_rgb
from harness.images.view import View as Preparation
from harness.networks.objectives import OBJECTIVES
from harness.networks.sources import Source
from harness.networks.wrappers import copy_network
from harness.registry import Registry
from harness.text import join_names, normalise_name


@check_fields
@dataclass(frozen=True)
class View:
    """The preprocessing of images for a network.

    Attributes:
        height, width: size of the network's input in pixels.
        resize: length of the shorter side to which images are resized before the centre is cut out,
            or height and width, in pixels; by default, the height of a square input, or else height
            and width of the input.
        interpolation: the filter by which images are resized.
        mean, std: for the normalisation of pixels in [0, 1]; one number, or one per colour channel.
        channels: 3, or 1 for a network that takes greyscale images.
    """

    height: Side
    width: Side
    mean: float | Sequence[float] | np.ndarray | Tensor = 0.5
    std: float | Sequence[float] | np.ndarray | Tensor = 0.25
    channels: Literal[1, 3] = 3
    resize: Size | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        try:
            _ = self.preparation
        except ValueError as error:
            raise ValueError(f"View: {error}") from None

    @property
    def preparation(self) -> Preparation:
        crop = self.height if self.height == self.width else (self.height, self.width)
        resize, mean, std = self.resize or crop, self.numbers("mean"), self.numbers("std")
        return Preparation(resize, crop, mean, std, self.interpolation)

    def numbers(self, name: str) -> tuple[float, ...]:
        value = getattr(self, name)
        array = np.asarray(_as_numpy(value), dtype=float)
        if array.shape not in ((), (self.channels,)):
            raise ValueError(
                f"{name} must be one number, or one for each of {self.channels} channels, got "
                f"{array.tolist()}"
            )
        return tuple(np.broadcast_to(array, self.channels).tolist())


def _as_numpy(value: Any) -> Any:
    """Return a tensor as an array, and anything else as it is.

    Raises:
        ValueError: NumPy has no such type, or numbers are masked, which would be used regardless.
    """
    if np.ma.is_masked(value):
        raise ValueError(
            f"{np.ma.count_masked(value)} numbers of an array of shape {value.shape} are masked: "
            f"give numbers in their place, x.filled(...), or leave them out"
        )
    if not isinstance(value, Tensor):
        return value
    try:
        return value.numpy(force=True)
    except TypeError as error:  # of a type or layout that NumPy lacks
        raise ValueError(
            f"a tensor of {value.dtype} and {value.layout} has no form in NumPy: {error}"
        ) from error


@check_fields
@dataclass(frozen=True)
class Series:
    """The models of one training run.

    Attributes:
        name: name of the series.
        models: epoch -> model that returns logits [batch, outputs]; copies of it are used.
        view: their preprocessing of images.
        layers: module names or patterns to probe; the output of every non-linearity by default.
        class_outputs: class name -> index of its output, if not the index of the class.
        output: key, attribute or position of the logits if a model returns several values.
        objective: the quantity for which importance is measured: a name in OBJECTIVES ("logit",
            "prototype", …), a file of class embeddings, or a function (output, labels) -> [batch].
    """

    name: str
    models: Mapping[int, nn.Module]
    view: View
    layers: str | Sequence[str] | None = None
    class_outputs: Mapping[str, int] = field(default_factory=dict)
    output: str | int | None = None
    objective: str | Callable = "logit"

    def source(self) -> MemorySource:
        layers = (self.layers,) if isinstance(self.layers, str) else self.layers
        view = self.view.preparation
        return MemorySource(
            name=self.name,
            models=dict(self.models),
            **{name: getattr(view, name) for name in VIEW_SETTINGS},
            layers=None if layers is None else tuple(layers),
            class_outputs=dict(self.class_outputs),
            output=self.output,
            objective=register_plugin(OBJECTIVES, self.objective),
        )


class Images:
    """Labelled images in memory.

    Attributes:
        pixels: uint8 [images, height, width, 3], or [images, height, width] for greyscale; or
            Pillow images of one size, which are rotated by their EXIF orientation.
        labels: int [images], indices into `classes`.
        classes: class names in the order of the labels; each has an image.
    """

    def __init__(
        self, pixels: np.ndarray | Sequence, labels: np.ndarray | Sequence, classes: Iterable[str]
    ) -> None:
        self.classes, self.pixels = _read_classes(classes), _read_pixels(pixels)
        self.labels = _read_labels(labels, len(self.pixels), self.classes)

    def section(self) -> MemoryImagesSection:
        return MemoryImagesSection(images=ArrayImages(self.pixels, self.labels, self.classes))


def _read_classes(classes: Any) -> tuple[str, ...]:
    is_list = isinstance(classes, Iterable)
    if not is_list or isinstance(classes, str | set | frozenset | Mapping):
        raise ValueError(
            f"Images: classes must be a list of names in the order of the labels, got a "
            f"{type(classes).__name__}"
        )
    names = tuple(normalise_name(str(name)) for name in classes)
    if not all(name.strip() for name in names) or len(set(names)) < len(names):
        raise ValueError(
            f"Images: the names of classes must differ and not be empty, got "
            f"{join_names(map(repr, names))}"
        )
    return names


def _read_pixels(pixels: Any) -> np.ndarray:
    """Return images as uint8 [images, height, width, 3]."""
    is_list = isinstance(pixels, Sequence) or hasattr(pixels, "__array__")
    if not is_list or isinstance(pixels, str):
        raise ValueError(
            f"Images: pixels must be an array or a list of images, got a "
            f"{type(pixels).__name__}; of a data set: [image for image, label in data]"
        )
    if isinstance(pixels, Sequence) and not isinstance(pixels, memoryview):
        pixels = [
            to_rgb(ImageOps.exif_transpose(p)) if isinstance(p, Image.Image) else _as_numpy(p)
            for p in pixels
        ]
        if pairs := [p for p in pixels if isinstance(p, tuple)]:
            raise ValueError(
                f"Images: an image must be an array or a Pillow image, got a tuple of "
                f"{join_names(type(part).__name__ for part in pairs[0])}"
            )
        if len(shapes := {np.shape(one) for one in pixels}) > 1:
            raise ValueError(
                f"Images: all images must have the same shape, got {join_names(sorted(shapes))}"
            )
    array = np.asarray(_as_numpy(pixels))
    if array.dtype != np.uint8:
        raise ValueError(
            f"Images: pixels must be uint8 (0 to 255), got {array.dtype}{_advise_on_type(array)}"
        )
    if array.ndim == 3:
        array = np.repeat(array[..., None], 3, axis=3)
    if array.ndim != 4 or array.shape[3] != 3 or not array.size:
        is_channels_first = array.ndim == 4 and array.shape[1] == 3
        hint = "; reorder by x.transpose(0, 2, 3, 1)" * is_channels_first
        hint += ", which has no pixels" * (not array.size)
        raise ValueError(
            f"Images: pixels must be [images, height, width, 3], or [images, height, width] for "
            f"greyscale images, got shape {array.shape}{hint}"
        )
    return array


def _advise_on_type(pixels: np.ndarray) -> str:
    """Return how these numbers become uint8, if their range says so."""
    if not pixels.size or not np.issubdtype(pixels.dtype, np.number):
        return ""
    low, high = pixels.min(), pixels.max()
    if pixels.dtype == np.uint16 and high > 255:
        return "; convert integers of 16 bits by (x / 257).round().astype('uint8')"
    if not (low >= 0 and high <= 255):  # also if a number is NaN
        return (
            f" between {low:.3g} and {high:.3g}; give the images before their normalisation, which "
            f"View does"
        )
    if np.issubdtype(pixels.dtype, np.integer):
        return "; convert integers in 0 to 255 by x.astype('uint8')"
    factor, scale = ("255 * ", "[0, 1]") if high <= 1 else ("", "[0, 255]")
    return f"; convert numbers in {scale} by ({factor}x).round().astype('uint8')"


def _read_labels(labels: Any, count: int, classes: Sequence[str]) -> np.ndarray:
    """Return the labels of `count` images as int64 [count]; every class must have an image."""
    array = np.asarray(_as_numpy(labels))
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
        hint = ""
        if array.shape == (count, len(classes)):
            hint = "; of one-hot labels, x.argmax(axis=1) gives the integers"
        elif array.shape == (count,) and array.dtype.kind in "UO":
            hint = "; number names by [classes.index(name) for name in labels]"
        elif array.ndim == 1 and array.dtype.kind == "f":
            hint = "; convert whole numbers by x.astype(int)"
        raise ValueError(
            f"Images: labels must be {count} integers, got {array.dtype} {array.shape}{hint}"
        )
    if not 0 <= array.min() <= array.max() < len(classes):
        raise ValueError(
            f"Images: labels must lie in 0 to {len(classes) - 1} ({len(classes)} "
            f"classes), got {array.min()} to {array.max()}"
        )
    if empty := [name for i, name in enumerate(classes) if i not in array]:
        raise ValueError(
            f"Images: there is no image of the classes {join_names(empty)}: leave them out, "
            f"number the labels from 0, and give Series class_outputs, the output of each class"
        )
    return array.astype(np.int64)


@check_fields
@dataclass(frozen=True)
class Arms:
    """The sizes and numbers of the sets of neurons that are ablated.

    Attributes:
        bins: number of equal parts into which each layer is divided by importance.
        random: number of random sets, each as large as the first part.
        steps: the cumulative sets hold 1/steps, 2/steps, … of every layer.
    """

    bins: int = 4
    random: int = 39
    steps: int = 8


def register_plugin(registry: Registry, plugin: str | Callable) -> str:
    """Return the name of a plug-in; register a function under its own name.

    If another plug-in has the name, a number is added, since earlier results may still use that.
    """
    if isinstance(plugin, str):
        return plugin
    stem = getattr(plugin, "__name__", type(plugin).__name__)
    name = next(
        name
        for name in chain([stem], map(f"{stem}-{{}}".format, count(2)))
        if name not in registry or registry.get(name) == plugin
    )
    registry.put(name, plugin)
    return name


class MemorySource(Source):
    """Models in memory, by epoch; copies of them are used."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    source: str = "memory"
    models: Mapping[int, nn.Module] = Field(exclude=True)  # `identity` represents them

    @field_validator("models")
    @classmethod
    def _copies(cls, models: Mapping[int, nn.Module]) -> Mapping[int, nn.Module]:
        """Copy the models, so that results stay the same when the originals are trained on."""
        first_epochs: dict[object, int] = {}
        for epoch, model in models.items():
            weights = frozenset(model.parameters()) or model
            if (first := first_epochs.setdefault(weights, epoch)) != epoch:
                is_same = models[first] is model
                problem = "are one and the same module" if is_same else "share all their weights"
                raise ValueError(
                    f"epochs {first} and {epoch} {problem}: keep a copy of each epoch, "
                    f"copy.deepcopy(model)"
                )
        return {epoch: copy_network(model) for epoch, model in models.items()}

    def epochs(self) -> tuple[int, ...]:
        return self._without_skipped(sorted(self.models))

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        return copy_network(self.models[epoch])

    def identity(self, epoch: int) -> str:
        """Return a hash of the weights, of all buffers and of the printed structure."""
        model = self.models[epoch]
        digest = hashlib.sha256(repr(model).encode())
        for name, value in (model.state_dict() | dict(model.named_buffers())).items():
            if not isinstance(value, Tensor) or value.is_meta or nn.parameter.is_lazy(value):
                digest.update(f"{name} {value!r}".encode())  # `unwrap` refuses missing values
                continue
            digest.update(f"{name} {value.dtype}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)  # NumPy has no bfloat16
        return fingerprint("memory", digest.hexdigest())
