"""Image sets: synthetic, in folders, in memory, without torch; pixels are uint8 arrays."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from pydantic import AfterValidator

from harness.artifacts import Artifact, Run
from harness.files import describe_format
from harness.images import drawn
from harness.images.shards import containing_file, image_bytes
from harness.images.view import View

# Large images and unusual tags are read or refused by name; warnings would disturb progress bars.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

UserPath = Annotated[
    Path, AfterValidator(lambda path: Path(os.path.expanduser(os.path.expandvars(path))))
]


#: Version of how image files are read and prepared; where it differs, they are listed again, and
#: all work on them is done again.
VIEW_VERSION = 2


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory: uint8 [images, height, width, 3].

    The labels, int64 [images], are indices into the names of the classes.
    """

    arrays: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int, view: View) -> np.ndarray:
        """Return image `index` as uint8 [height, width, 3]."""
        array = self.arrays[index]
        if view.keeps(*array.shape[:2]):
            return array
        return view.apply(Image.fromarray(array))


@dataclass(frozen=True)
class FileImages:
    """Images in files, which are read when needed; a million paths take less memory as text."""

    paths: Sequence[str]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, index: int, view: View) -> np.ndarray:
        """Decode an image. Raises ValueError with the file's name if that fails."""
        path = Path(self.paths[index])
        try:
            with Image.open(BytesIO(image_bytes(path))) as image:
                return view.apply(image)
        except Exception as error:  # a damaged file can raise anything
            raise ValueError(
                f"image {path} cannot be read ({explain_failure(path, error)}); replace or remove "
                f"the file"
            ) from error


#: Images with class labels; the id of an image is its index.
ImageSet: TypeAlias = ArrayImages | FileImages


def explain_failure(path: Path, error: Exception) -> str:
    """Explain why an image cannot be read."""
    if not containing_file(path).exists():
        return "it no longer exists" + f" in {Path.cwd()}" * (not path.is_absolute())
    if containing_file(path) == path:
        with path.open("rb") as file:
            if kind := describe_format(file.read(512)):
                return f"it is {kind}"
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged, or of a format that Pillow does not read"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: make it smaller"
    return str(error) or type(error).__name__


@dataclass(frozen=True)
class CachedImages(FileImages):
    """Images in files, kept in memory for one view after they are read, up to `limit` bytes."""

    limit: int = 0
    _kept: dict[int, np.ndarray] = field(default_factory=dict)

    def pixels(self, index: int, view: View) -> np.ndarray:
        if index in self._kept:
            return self._kept[index]
        pixels = super().pixels(index, view)
        if (len(self._kept) + 1) * pixels.nbytes <= self.limit:  # all have one size
            self._kept[index] = pixels
        return pixels


def draw_arrays(seed: int, start: int, stop: int) -> dict[str, np.ndarray]:
    """Return images `start` to `stop` of the stream `seed`: pixels, labels, parts, colours."""
    drawings = [drawn.draw(seed, index) for index in range(start, stop)]
    fields = {"pixels": "image", "labels": "label", "parts": "parts", "colours": "colours"}
    return {name: np.stack([getattr(d, key) for d in drawings]) for name, key in fields.items()}


def sample_digest(images: ImageSet, view: View) -> str:
    """Hash the labels and the pixels of up to 64 evenly spaced images; sets with equal hashes are
    treated as equal."""
    digest = hashlib.sha256(images.labels.astype(np.int64).tobytes())
    for index in np.linspace(0, len(images) - 1, min(64, len(images)), dtype=int):
        digest.update(images.pixels(int(index), view).tobytes())
    return digest.hexdigest()


def image_index(images: ImageSet) -> pd.DataFrame:
    """Return one row per image: image_id, class_id, class_name, path ("" for images in memory)."""
    return pd.DataFrame(
        {
            "image_id": np.arange(len(images)),
            "class_id": images.labels,
            "class_name": [images.classes[label] for label in images.labels],
            "path": images.paths if isinstance(images, FileImages) else [""] * len(images),
        }
    )


def open_images(run: Run, split: str) -> ImageSet:
    """Return the image set that a run used as `split` (train, probe or test)."""
    index = run.table(Artifact("image_index", (split,)), ["class_id", "class_name", "path"])
    names = index.drop_duplicates("class_id").sort_values("class_id")
    classes = tuple(names["class_name"])
    labels = index["class_id"].to_numpy()
    if index["path"].eq("").all():
        return ArrayImages(run.arrays(Artifact("images", (split,)))["pixels"], labels, classes)
    return FileImages(index["path"].array, labels, classes)
