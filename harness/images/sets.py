"""Image sets: the embedded drawn one and a user's folders. No torch: pixels are uint8 arrays."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import AfterValidator

from harness.artifacts import Artifact, Run, file_hash
from harness.file_kinds import kind_of
from harness.images import drawn

#: Of the files that are read as images; those of torchvision's ImageFolder, and some more.
SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".pnm"),
    *(".tif", ".tiff", ".gif"),
}

ORIENTATION = 0x0112  # EXIF's number of it

# Large and oddly tagged images are read, or refused with their names; warnings would run over the
# progress bars.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

#: Transparent pixels are shown on this colour.
BACKGROUND = (255, 255, 255)

UserPath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expandvars(path)).expanduser())]


@dataclass(frozen=True)
class View:
    """How a network sees an image: shorter side to `resize` pixels, then the central `crop`.

    Attributes:
        resize, crop: pixels.
        mean, std: of each colour channel, by which pixels in [0, 1] are normalised; one number
            for a network that takes greyscale images.
        channels_last: memory format of batches; False for networks whose code needs the other.
    """

    resize: int
    crop: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)
    channels_last: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise ValueError(
                f"crop must be positive and at most resize, got crop={self.crop}, "
                f"resize={self.resize}"
            )

    @property
    def channels(self) -> int:
        """Of the network's input: 3 or 1."""
        return len(self.mean)

    def apply(self, image: Image.Image) -> np.ndarray:
        """The image as uint8 [crop, crop, 3], upright, in 8 bits, on BACKGROUND.

        Raises:
            ValueError: pixels whose range cannot be told.
        """
        image = as_rgb(ImageOps.exif_transpose(image))
        width, height = image.size
        if min(width, height) != self.resize:
            scale = self.resize / min(width, height)
            size = (max(self.resize, round(width * scale)), max(self.resize, round(height * scale)))
            image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
        return np.asarray(image.crop((left, top, left + self.crop, top + self.crop)))


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in 8-bit RGB.

    Greyscale of 16 bits is scaled by its full range (65535), numbers in [0, 1] by 255; transparent
    pixels are composited on BACKGROUND.

    Raises:
        ValueError: other ranges of integers or floating point numbers.
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
                f"its pixels (mode {image.mode}) lie from {lowest:g} to {highest:g}; integers in "
                f"[0, 65535] and floating point numbers in [0, 1] can be read: convert it"
            )
        return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if _has_alpha(image):
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


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
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return view.apply(image)
        except Exception as error:  # a damaged file can raise anything
            raise ValueError(
                f"image {path} cannot be read ({_reason(path, error)}); replace or remove the file"
            ) from error


def _reason(path: Path, error: Exception) -> str:
    """Why an image cannot be read."""
    if not path.exists():
        return "it is gone"
    with path.open("rb") as file:
        if what := kind_of(file.read(512)):
            return f"it is {what}"
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged, or of a format that Pillow does not read"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: make it smaller"
    return str(error) or type(error).__name__


def image_remarks(paths: Sequence[Path]) -> tuple[list[str], list[str]]:
    """What is converted or not used of image files, read from their first bytes alone.

    Returns:
        Of each file, its remarks, joined by "; " ("" for none); and why files cannot be opened.
    """
    with ThreadPoolExecutor(max_workers=8) as readers:
        opened = list(readers.map(_look, paths))
    remarks = [remark for remark, _ in opened]
    for number in _copies(paths):
        remarks[number] = "; ".join(filter(None, [remarks[number], "copy of another image"]))
    return remarks, [fault for _, fault in opened if fault]


def remark_counts(index: pd.DataFrame) -> dict[str, int]:
    """How many images of an index each remark was made on."""
    remarks = index["remarks"].str.split("; ").explode()
    return remarks[remarks != ""].value_counts().to_dict()


def _look(path: Path) -> tuple[str, str]:
    """The remarks on a file, or why it cannot be opened."""
    try:
        with Image.open(path) as image:
            kinds = {
                "several frames or pages, only the first is used": getattr(image, "n_frames", 1)
                > 1,
                "16 bits or floating point, scaled to 8 bits": image.mode.startswith(("I", "F")),
                "transparent pixels, shown on white": _has_alpha(image),
                "CMYK, converted to RGB": image.mode == "CMYK",
                "turned upright by its EXIF data": image.getexif().get(ORIENTATION, 1) > 1,
            }
            return "; ".join(kind for kind, holds in kinds.items() if holds), ""
    except Exception as error:  # a damaged file can raise anything
        return "", f"{path}: {_reason(path, error)}"


def _copies(paths: Sequence[Path]) -> list[int]:
    """Which files hold the same bytes as one before them."""
    by_size: dict[int, list[int]] = {}
    for number, path in enumerate(paths):
        by_size.setdefault(path.stat().st_size, []).append(number)
    copies, seen = [], set[str]()
    for number in (n for same in by_size.values() if len(same) > 1 for n in same):
        if (digest := file_hash(paths[number])) in seen:
            copies.append(number)
        seen.add(digest)
    return sorted(copies)


@dataclass
class KeptImages:
    """Another set's images as one view sees them, kept in memory once they are read while there is
    room; the others are read whenever they are asked for.

    Attributes:
        images: the set.
        limit: bytes that may be kept.
    """

    images: ImageSet
    limit: int
    _kept: dict[tuple[int, View], np.ndarray] = field(default_factory=dict)
    _bytes: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    @property
    def labels(self) -> np.ndarray:
        return self.images.labels

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, index: int, view: View) -> np.ndarray:
        if (index, view) in self._kept:
            return self._kept[index, view]
        pixels = self.images.pixels(index, view)
        if self._bytes + pixels.nbytes <= self.limit:
            self._kept[index, view] = pixels
            self._bytes += pixels.nbytes
        return pixels


#: What is listed while `listed_once` lasts.
_listings: ContextVar[dict[tuple[Path, Sequence[str] | None], FileImages] | None] = ContextVar(
    "listings", default=None
)


@contextmanager
def listed_once() -> Iterator[None]:
    """List each folder once while the block runs: half a million files take a while."""
    token = _listings.set({} if _listings.get() is None else _listings.get())
    try:
        yield
    finally:
        _listings.reset(token)


def folder_images(root: Path, classes: Sequence[str] | None = None) -> FileImages:
    """A folder with one sub-folder of image files a class, as torchvision's ImageFolder.

    Links to files and folders are followed. Hidden folders and files (whose names begin with a dot)
    are left out; `left_out` counts them.

    Args:
        root: the folder.
        classes: the expected class names in label order; all sub-folders, sorted, by default.

    Raises:
        ValueError: no such folder, no classes, class folders that are missing, empty, or not among
            the expected ones.
    """
    listings = _listings.get()
    key = (root, None if classes is None else tuple(classes))
    if listings is None:
        return _folder_images(*key)
    if key not in listings:
        listings[key] = _folder_images(*key)
    return listings[key]


def _folder_images(root: Path, classes: Sequence[str] | None) -> FileImages:
    if not root.is_dir():
        place = "" if root.is_absolute() else f" (looked for in {Path.cwd()})"
        what = "is no folder" if root.exists() else "does not exist"
        raise ValueError(f"image folder {root} {what}{place}")
    present = sorted(e.name for e in root.iterdir() if e.is_dir() and not e.name.startswith("."))
    names = tuple(classes) if classes is not None else tuple(present)
    if not names:
        raise ValueError(f"image folder {root} has no class folders (one sub-folder a class)")
    problems = []
    if missing := sorted(set(names) - set(present)):
        problems.append(f"image folder {root} lacks the class folders {', '.join(missing)}")
    if more := sorted(set(present) - set(names)):
        problems.append(
            f"image folder {root} has the class folders {', '.join(more)}, which the probe images "
            f"lack; a class's place among the folders is its output of the network, so all splits "
            f"must have the same ones: add them there, or remove them here"
        )
    paths: list[Path] = []
    labels: list[int] = []
    empty = []
    for label, name in enumerate(names):
        files = [path for path in walk(root / name) if path.suffix.lower() in SUFFIXES]
        if not files and name not in missing:
            empty.append(name)
        paths += files
        labels += [label] * len(files)
    if empty:
        what = "class folder" if len(empty) == 1 else "class folders"
        problems.append(
            f"{what} {', '.join(str(root / name) for name in empty)} "
            f"{'holds' if len(empty) == 1 else 'hold'} no image; allowed: "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    if problems:
        raise ValueError("; ".join(problems))
    return FileImages(tuple(paths), np.array(labels, dtype=np.int64), names)


def walk(folder: Path) -> list[Path]:
    """The files below a folder, sorted, hidden ones left out; links are followed, each once."""
    files: list[Path] = []
    visited: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in files if path.exists())


def left_out(root: Path) -> Counter[str]:
    """What below an image folder is not used: how many files by suffix, hidden and broken ones."""
    counts: Counter[str] = Counter()
    for place, folders, names in os.walk(root, followlinks=False):
        hidden = [name for name in folders if name.startswith(".")]
        counts["hidden folder"] += len(hidden)
        folders[:] = [name for name in folders if name not in hidden]
        for name in names:
            path = Path(place, name)
            if name.startswith("."):
                counts["hidden file"] += 1
            elif not path.exists():
                counts["broken link"] += 1
            elif Path(place) == root:
                counts["file outside the class folders"] += 1
            elif path.suffix.lower() not in SUFFIXES:
                counts[f"{path.suffix.lower() or 'no suffix'}"] += 1
    return +counts


def drawn_arrays(seed: int, start: int, stop: int) -> dict[str, np.ndarray]:
    """Drawings `start` to `stop` of the stream `seed`, stacked: pixels, labels, parts, colours."""
    drawings = [drawn.draw(seed, index) for index in range(start, stop)]
    return {
        "pixels": np.stack([d.image for d in drawings]),
        "labels": np.array([d.label for d in drawings], dtype=np.int64),
        "parts": np.stack([d.parts for d in drawings]),
        "colours": np.stack([d.colours for d in drawings]),
    }


def sample_digest(images: ImageSet, view: View, most: int = 64) -> str:
    """A hash of the labels and of the pixels of up to `most` images, at even distances: two sets
    that have the same one are taken for the same."""
    digest = hashlib.sha256(images.labels.astype(np.int64).tobytes())
    for index in np.linspace(0, len(images) - 1, min(most, len(images)), dtype=int):
        digest.update(images.pixels(int(index), view).tobytes())
    return digest.hexdigest()


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
