"""The preparation of images for a network: colours, size, the part that is seen, normalisation."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from pydantic import Field, PlainSerializer, PlainValidator, TypeAdapter

#: Transparent pixels are shown on this colour.
BACKGROUND = (255, 255, 255)

#: A side of a network's input, pixels; at the largest, one image takes 0.8 GB.
Side = Annotated[int, Field(ge=1, le=8192)]
_SIDE, _HEIGHT_AND_WIDTH = TypeAdapter(Side), TypeAdapter(tuple[Side, Side])


def _check_size(value: Any) -> Any:
    kind = _HEIGHT_AND_WIDTH if isinstance(value, list | tuple) else _SIDE
    return kind.validate_python(value)


#: One side for both, or height and width; pixels.
Size = Annotated[
    int | tuple[int, int], PlainValidator(_check_size), PlainSerializer(lambda size: size)
]

#: Names of Pillow's filters for resizing.
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


@dataclass(frozen=True)
class View:
    """The preparation of images for a network: they are resized, then their centre is cut out.

    Attributes:
        resize: length of the shorter side, pixels; or height and width, which distorts images.
        crop: side of the central square, or height and width of the central part, pixels.
        interpolation: the filter by which images are resized.
        mean, std: for the normalisation of pixels in [0, 1]: one number per colour channel, or one
            for networks of greyscale images.
        channels_last: memory format of batches; False for networks that need the ordinary format.
    """

    resize: int | tuple[int, int]
    crop: int | tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)
    interpolation: Interpolation = "bilinear"
    channels_last: bool = True

    def __post_init__(self) -> None:
        if not all(0 < c <= r for c, r in zip(self.size, _both(self.resize), strict=True)):
            raise ValueError(
                f"crop must be positive and at most resize, got crop={_as_toml(self.crop)}, "
                f"resize={_as_toml(self.resize)}"
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(
                f"mean and std must both have 3 numbers, or 1 for greyscale images; got "
                f"{len(self.mean)} and {len(self.std)}"
            )
        if not min(self.std) > 0:
            raise ValueError(f"std must be positive, got {list(self.std)}")
        if not all(abs(number) <= 1 for number in (*self.mean, *self.std)):
            raise ValueError(
                f"mean and std must be those of pixels in [0, 1], got mean = {list(self.mean)}, "
                f"std = {list(self.std)}; if they are those of pixels in [0, 255], divide both by "
                f"255"
            )

    @property
    def channels(self) -> int:
        """Number of input channels of the network: 3 or 1."""
        return len(self.mean)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input, pixels."""
        return _both(self.crop)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width to which an image is resized before its centre is cut out."""
        if isinstance(self.resize, tuple):
            return self.resize
        shorter = min(height, width)
        return int(self.resize * height / shorter), int(self.resize * width / shorter)

    def keeps(self, height: int, width: int) -> bool:
        """Return whether an image of this size is neither resized nor cropped."""
        return (height, width) == self.size == self.resized(height, width)

    def apply(self, image: Image.Image) -> np.ndarray:
        """Return the image as uint8 [height, width, 3], rotated by its EXIF orientation.

        Its pixels are those of torchvision's Resize and CenterCrop, whose roundings are repeated.

        Raises:
            ValueError: the range of its pixels is unknown (see `to_rgb`).
        """
        image = to_rgb(ImageOps.exif_transpose(image))
        height, width = self.resized(image.height, image.width)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        top, left = (round((a - b) / 2) for a, b in zip((height, width), self.size, strict=True))
        return np.asarray(image.crop((left, top, left + self.size[1], top + self.size[0])))

    def enlarged(self, factor: float) -> View:
        """Return the view with more pixels per side; images are resized to whole pixels."""
        height, width = (round(side * factor) for side in self.size)
        if isinstance(self.resize, tuple):
            sides = (round(self.resize[0] * factor), round(self.resize[1] * factor))
            return replace(self, resize=sides, crop=(height, width))
        return replace(self, resize=round(self.resize * factor), crop=(height, width))

    def columns(self) -> dict[str, object]:
        """Return the columns of the table of layers that hold this view (see `with_views`)."""
        resize, crop = (np.atleast_1d(size).tolist() for size in (self.resize, self.crop))
        return {"resize": resize, "crop": crop, "interpolation": self.interpolation}

    def seen_part(self, pixels: np.ndarray) -> np.ndarray:
        """Return the part [images, height, width] of square images, of any size, that is seen, to
        the nearest pixel."""
        resized = self.resized(*pixels.shape[1:])
        sides = zip(pixels.shape[1:], self.size, resized, strict=True)
        height, width = (round(side * seen / of) for side, seen, of in sides)
        top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
        return pixels[:, top : top + height, left : left + width]


def _both(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _as_toml(size: int | tuple[int, int]) -> int | list[int]:
    return list(size) if isinstance(size, tuple) else size


#: The fields of a view that users set.
VIEW_SETTINGS = tuple(f.name for f in fields(View) if f.name != "channels_last")


def with_views(layers: pd.DataFrame) -> pd.DataFrame:
    """Return the table of layers with a column `view`: views without their normalisation.

    Runs of earlier versions have one number for `resize` and for `crop`, and no `interpolation`.
    """
    filters = layers.get("interpolation", ["bilinear"] * len(layers))
    rows = zip(layers["resize"], layers["crop"], filters, strict=True)
    views = [View(_one_or_both(r), _one_or_both(c), interpolation=name) for r, c, name in rows]
    return layers.assign(view=views)


def _one_or_both(sides: int | np.ndarray) -> int | tuple[int, int]:
    height, *width = np.atleast_1d(sides).tolist()
    return (height, *width) if width else height


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB.

    Integers in [0, 65535] are divided by 257, floating-point numbers in [0, 1] multiplied by 255.
    Transparent pixels are composited on BACKGROUND.

    Raises:
        ValueError: integers or floating-point numbers lie outside of these ranges.
    """
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        lowest, highest = float(values.min()), float(values.max())
        if image.mode == "F" and lowest >= 0 and highest <= 1:
            values = values * 255
        elif image.mode != "F" and lowest >= 0 and highest <= 65535:
            values = values / 257
        else:
            raise ValueError(
                f"its pixels (mode {image.mode}) range from {lowest:g} to {highest:g}; only "
                f"integers in [0, 65535] and floating point numbers in [0, 1] can be read: "
                f"convert it"
            )
        return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if has_alpha(image):
        picture = image.convert("RGBA")
        background = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, picture).convert("RGB")
    return image.convert("RGB")


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
