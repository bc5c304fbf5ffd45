"""Images inside larger files: WebDataset, and Parquet and Arrow files of Hugging Face datasets.

The path of such an image continues below its file: `train-000.tar/cat12.jpg`, `train.parquet/17`.
A new kind of file is one function in SHARDS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from harness.file_kinds import kind_of
from harness.registry import Registry
from harness.text import composed

#: Suffixes of image files, alone or inside others: those of torchvision's ImageFolder and others.
SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".pnm"),
    *(".tif", ".tiff", ".gif"),
}


@dataclass(frozen=True, eq=False)
class Shard:
    """The contents of a file of many images.

    Attributes:
        members: names of the images, in the file's order.
        labels: name of the class of each image.
        classes: all classes in label order; empty if the file does not state them.
        read: member -> bytes of the image's own file. Raises ValueError if there are none.
    """

    members: Sequence[str]
    labels: Sequence[str]
    classes: tuple[str, ...]
    read: Callable[[str], bytes]


#: Suffix of a file -> function that opens it, which raises ValueError if the file is unsuitable.
SHARDS: Registry[Callable[[Path], Shard]] = Registry("kind of image file")


def open_shard(path: Path) -> Shard:
    """Open a file of many images; the last files are cached.

    Raises:
        ValueError: the file is damaged, or lacks images or classes.
    """
    return _open(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _open(path: Path, changed: int) -> Shard:
    try:
        return SHARDS.get(path.suffix)(path)
    except Exception as error:  # libraries raise several unrelated types on damaged files
        with path.open("rb") as file:
            reason = kind_of(file.read(512)) or error
        raise ValueError(f"{path} cannot be used as images: {reason}") from error


def shard_files(place: Path) -> list[Path]:
    """Return the files of many images that a path names: the file itself, those that match a
    pattern (`train-*.tar`), or those in a folder without sub-folders."""
    if place.is_dir():
        entries = sorted(place.iterdir())
        if any(entry.is_dir() and not entry.name.startswith(".") for entry in entries):
            return []
    elif place.is_file():
        entries = [place]
    else:
        entries = sorted(place.parent.glob(place.name)) if set(place.name) & set("*?[") else []
    return [e for e in entries if e.suffix in SHARDS and e.is_file() and e.name[0] != "."]


def read_shards(
    root: Path, files: Sequence[Path], classes: Sequence[str] | None
) -> tuple[tuple[Path, ...], np.ndarray, tuple[str, ...]]:
    """List the images of several files, one file after the other.

    Args:
        root: the path that names the files, for messages.
        files: see `shard_files`.
        classes: the expected class names in label order; default: those that the files state, or
            else all that occur, sorted (numbers by their value).

    Returns:
        Paths, labels (int64), class names.

    Raises:
        ValueError: the classes differ from the expected ones, or a file is unsuitable.
    """
    shards = [open_shard(file) for file in files]
    labels = [composed(label) for shard in shards for label in shard.labels]
    numbered = all(label.isdecimal() for label in labels)
    occurring = sorted(set(labels), key=lambda label: (int(label) if numbered else 0, label))
    stated = next((shard.classes for shard in shards if shard.classes), occurring)
    present = tuple(map(composed, stated))
    names = present if classes is None else tuple(classes)
    if set(names) != set(present) or not set(labels) <= set(names):
        raise ValueError(
            f"images {root} have the classes {', '.join(present)}, and the probe images "
            f"{', '.join(names)}: all splits must have the same ones"
        )
    if not labels:
        raise ValueError(f"images {root} hold no image; allowed: {', '.join(sorted(SUFFIXES))}")
    if empty := [name for name in names if name not in occurring]:
        raise ValueError(
            f"images {root} hold no image of the classes {', '.join(empty)}: add some, or leave "
            f"these classes out of the data set"
        )
    number = {name: place for place, name in enumerate(names)}
    paths = tuple(f / m for f, shard in zip(files, shards, strict=True) for m in shard.members)
    return paths, np.array([number[label] for label in labels], dtype=np.int64), names


def file_of(image: Path) -> Path:
    """Return the file on disk that contains an image: its own file, or a file of many images."""
    for parent in image.parents:
        if parent.suffix in SHARDS and parent.is_file():
            return parent
    return image


def content(image: Path) -> bytes:
    """Return the bytes of an image's file, or of its part of a file of many images."""
    file = file_of(image)
    if file == image:
        return image.read_bytes()
    return open_shard(file).read(str(image.relative_to(file)))
