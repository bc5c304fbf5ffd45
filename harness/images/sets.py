"""Image sets: the embedded drawn one and a user's folders. No torch: pixels are uint8 arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from harness.artifacts import Artifact, Run
from harness.images import drawn

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm"}


@dataclass(frozen=True)
class View:
    """How a network sees an image: shorter side to `resize` pixels, then the central `crop`.

    Attributes:
        resize, crop: pixels.
        mean, std: of each colour channel, by which pixels in [0, 1] are normalised.
    """

    resize: int
    crop: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise ValueError(
                f"crop must be positive and at most resize, got crop={self.crop}, "
                f"resize={self.resize}"
            )

    def apply(self, image: Image.Image) -> np.ndarray:
        """The image as uint8 [crop, crop, 3]."""
        image = image.convert("RGB")
        width, height = image.size
        if min(width, height) != self.resize:
            scale = self.resize / min(width, height)
            size = (max(self.resize, round(width * scale)), max(self.resize, round(height * scale)))
            image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
        return np.asarray(image.crop((left, top, left + self.crop, top + self.crop)))


class ImageSet(Protocol):
    """Images with class labels; an image's id is its index."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label indexes them."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """int64 [images]."""
        ...

    def __len__(self) -> int: ...

    def pixels(self, index: int, view: View) -> np.ndarray:
        """Image `index` as uint8 [crop, crop, 3]."""
        ...


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory: uint8 [images, height, width, 3]."""

    arrays: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int, view: View) -> np.ndarray:
        array = self.arrays[index]
        if array.shape[:2] == (view.crop, view.crop) and view.resize == view.crop:
            return array
        return view.apply(Image.fromarray(array))


@dataclass(frozen=True)
class FileImages:
    """Images in files, read when asked for."""

    paths: tuple[Path, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, index: int, view: View) -> np.ndarray:
        """Raises ValueError naming the file when it cannot be decoded."""
        try:
            with Image.open(self.paths[index]) as image:
                return view.apply(image)
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise ValueError(
                f"image {self.paths[index]} cannot be read ({error}); replace or remove the file"
            ) from error


def folder_images(root: Path, classes: Sequence[str] | None = None) -> FileImages:
    """A folder with one sub-folder of image files a class, as torchvision's ImageFolder.

    Args:
        root: the folder.
        classes: the expected class names in label order; all sub-folders, sorted, by default.

    Raises:
        ValueError: no such folder, no classes, a missing or an empty class folder.
    """
    if not root.is_dir():
        raise ValueError(f"image folder {root} does not exist")
    found = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    names = tuple(classes) if classes is not None else tuple(found)
    if not names:
        raise ValueError(f"image folder {root} has no class folders (one sub-folder a class)")
    if missing := sorted(set(names) - set(found)):
        raise ValueError(f"image folder {root} lacks the class folders {', '.join(missing)}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = sorted(f for f in (root / name).rglob("*") if f.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(
                f"class folder {root / name} holds no image; allowed: {', '.join(sorted(SUFFIXES))}"
            )
        paths += files
        labels += [label] * len(files)
    return FileImages(tuple(paths), np.array(labels, dtype=np.int64), names)


def drawn_arrays(seed: int, start: int, stop: int) -> dict[str, np.ndarray]:
    """Drawings `start` to `stop` of the stream `seed`, stacked: pixels, labels, parts, colours."""
    drawings = [drawn.draw(seed, index) for index in range(start, stop)]
    return {
        "pixels": np.stack([d.image for d in drawings]),
        "labels": np.array([d.label for d in drawings], dtype=np.int64),
        "parts": np.stack([d.parts for d in drawings]),
        "colours": np.stack([d.colours for d in drawings]),
    }


def image_index(images: ImageSet) -> pd.DataFrame:
    """A row an image: image_id, class_id, class_name, path (empty where the image is in memory)."""
    paths = images.paths if isinstance(images, FileImages) else [""] * len(images)
    return pd.DataFrame(
        {
            "image_id": np.arange(len(images)),
            "class_id": images.labels,
            "class_name": [images.classes[label] for label in images.labels],
            "path": [str(path) for path in paths],
        }
    )


def open_images(run: Run, split: str) -> ImageSet:
    """The image set that a run used as `split` (train, probe or test)."""
    index = run.table(Artifact("image_index", (split,)))
    names = index.drop_duplicates("class_id").sort_values("class_id")
    classes = tuple(names["class_name"])
    labels = index["class_id"].to_numpy()
    if index["path"].eq("").all():
        return ArrayImages(run.arrays(Artifact("images", (split,)))["pixels"], labels, classes)
    return FileImages(tuple(map(Path, index["path"])), labels, classes)
