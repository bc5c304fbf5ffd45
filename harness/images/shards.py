"""Images inside larger files: WebDataset, and Parquet and Arrow files of Hugging Face datasets.

The path of such an image continues below its file: `train-000.tar/cat12.jpg`, `train.parquet/17`.
A new kind of file is one function in SHARDS.
"""

import json
import logging
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from braceexpand import braceexpand

from harness.files import describe_format
from harness.registry import Registry
from harness.text import join_names, normalise_name, pluralise

logger = logging.getLogger(__name__)

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
        left_out: samples with a class but without an image.
    """

    members: Sequence[str]
    labels: Sequence[str]
    classes: tuple[str, ...]
    read: Callable[[str], bytes]
    left_out: Sequence[str] = ()


#: Suffix of a file -> function that opens it, which raises ValueError if the file is unsuitable.
SHARDS: Registry[Callable[[Path], Shard]] = Registry("kind of image file")


def open_shard(path: Path) -> Shard:
    """Open a file of many images; the last files are cached.

    Raises:
        ValueError: the file is damaged, or lacks images or classes.
    """
    return _open(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _open(path: Path, modified: int) -> Shard:
    try:
        return SHARDS.get(path.suffix)(path)
    except Exception as error:  # libraries raise several unrelated types on damaged files
        with path.open("rb") as file:
            reason = describe_format(file.read(512)) or error
        raise ValueError(f"{path} cannot be used as images: {reason}") from error


def shard_files(path: Path) -> list[Path]:
    """Return the files of many images that a path names: the file itself, those that match a
    pattern (`train-*.tar`, `train-{000..146}.tar`), or those in a folder without sub-folders.

    Raises:
        ValueError: a pattern with braces is malformed, or names files that do not exist.
    """
    if not path.exists() and (names := list(braceexpand(str(path)))) != [str(path)]:
        files = {name: shard_files(Path(name)) for name in names}
        if missing := [name for name, found in files.items() if not found]:
            raise ValueError(
                f"images {path}: of {len(names)} names, {len(missing)} are not files of many "
                f"images ({', '.join(SHARDS)}): {join_names(missing, 4)}"
            )
        return [file for found in files.values() for file in found]
    if path.is_dir():
        entries = sorted(path.iterdir())
        if any(entry.is_dir() and not entry.name.startswith(".") for entry in entries):
            return []
    elif path.is_file():
        entries = [path]
    else:
        entries = sorted(path.parent.glob(path.name)) if set(path.name) & set("*?[") else []
    return [e for e in entries if e.suffix in SHARDS and e.is_file() and e.name[0] != "."]


def read_shards(
    root: Path, files: Sequence[Path], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
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
    if left_out := [key for shard in shards for key in shard.left_out]:
        logger.warning(
            "%s: left out %s with a class but without an image (%s): %s",
            *(root, pluralise(len(left_out), "sample"), ", ".join(sorted(SUFFIXES))),
            join_names(left_out, 4),
        )
    labels = [normalise_name(label) for shard in shards for label in shard.labels]
    numbered = all(label.isdecimal() for label in labels)
    occurring = sorted(set(labels), key=lambda label: (int(label) if numbered else 0, label))
    class_names = next((shard.classes for shard in shards if shard.classes), occurring)
    own_classes = tuple(map(normalise_name, class_names))
    names = own_classes if classes is None else tuple(classes)
    if unknown := sorted(set(labels) - set(own_classes)):
        raise ValueError(
            f"images {root}: some files have the classes {join_names(unknown, 4)}, which are not "
            f"among those that another file states: {join_names(own_classes, 4)}"
        )
    if set(names) != set(own_classes):
        raise ValueError(
            f"images {root} have the classes {', '.join(own_classes)}, and the probe images "
            f"{', '.join(names)}: all splits must have the same ones"
        )
    if not labels:
        raise ValueError(f"images {root} hold no image; allowed: {', '.join(sorted(SUFFIXES))}")
    if empty := [name for name in names if name not in occurring]:
        raise ValueError(
            f"images {root} hold no image of the classes {', '.join(empty)}: add some, or leave "
            f"these classes out of the data set"
        )
    label_of = {name: label for label, name in enumerate(names)}
    paths = tuple(str(f / m) for f, shard in zip(files, shards, strict=True) for m in shard.members)
    return paths, np.array([label_of[label] for label in labels], dtype=np.int64), names


def containing_file(image: Path) -> Path:
    """Return the file on disk that contains an image: its own file, or a file of many images."""
    for parent in image.parents:
        if parent.suffix in SHARDS and parent.is_file():
            return parent
    return image


def image_bytes(image: Path) -> bytes:
    """Return the bytes of an image's file, or of its part of a file of many images."""
    file = containing_file(image)
    if file == image:
        return image.read_bytes()
    return open_shard(file).read(str(image.relative_to(file)))


@SHARDS.add(".tar")
def open_webdataset(path: Path) -> Shard:
    """Open a tar archive: its index and all classes are read at once, images when needed."""
    spans: dict[str, tuple[int, int]] = {}
    images: dict[str, list[str]] = {}
    classes: dict[str, str] = {}
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            member_path = PurePosixPath(member.name)
            stem, _, suffix = member_path.name.partition(".")
            key = str(member_path.with_name(stem)) if stem else ""
            is_image = PurePosixPath(f"x.{suffix.lower()}").suffix in SUFFIXES
            if key and (is_image or suffix == "cls") and (member.islnk() or member.issym()):
                raise ValueError(
                    f"its member {member.name} is a link, which is not read; write the archive "
                    f"with copies in place of links (tar --dereference --hard-dereference)"
                )
            if not member.isfile() or not key:
                continue
            if is_image:
                images.setdefault(key, []).append(str(member_path))
                spans[str(member_path)] = member.offset_data, member.size
            elif suffix == "cls" and (file := archive.extractfile(member)) is not None:
                classes[key] = file.read().decode().strip()
    if group := next((names for names in images.values() if len(names) > 1), None):
        raise ValueError(f"{', '.join(group)} belong to one sample, which must have one image")
    if keys := [key for key in images if not classes.get(key)]:
        raise ValueError(
            f"{len(keys)} of {len(images)} samples have no class, e.g. no "
            f"{keys[0]}.cls; write a `cls` file with each sample"
        )

    def read(member: str) -> bytes:
        start, size = spans[member]
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    members, labels = [n for (n,) in images.values()], [classes[key] for key in images]
    return Shard(members, labels, (), read, [key for key in classes if key not in images])


@SHARDS.add(".parquet")
def open_parquet(path: Path) -> Shard:
    """Open a file of `Dataset.to_parquet` or a downloaded one; row groups are read when needed."""
    file = pq.ParquetFile(path)
    image, label, names = _find_columns(file.schema_arrow)
    groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    starts = np.cumsum([0, *groups])

    def read(member: str) -> bytes:
        group = int(np.searchsorted(starts, int(member), side="right")) - 1
        return _file_bytes(_read_group(path, group, image)[int(member) - int(starts[group])])

    return _make_shard(file.read([label])[label], names, read)


@lru_cache(maxsize=4)
def _read_group(path: Path, group: int, column: str) -> pa.ChunkedArray:
    return pq.ParquetFile(path).read_row_group(group, [column])[column]


@SHARDS.add(".arrow")
def open_arrow(path: Path) -> Shard:
    """Open a file of `Dataset.save_to_disk` or of a cached dataset; it is mapped into memory."""
    file = pa.memory_map(str(path))
    try:
        table = pa.ipc.open_stream(file).read_all()
    except pa.ArrowInvalid:  # Arrow's file format instead of its stream format
        table = pa.ipc.open_file(file).read_all()
    image, label, names = _find_columns(table.schema)
    return _make_shard(table[label], names, lambda member: _file_bytes(table[image][int(member)]))


def _find_columns(schema: pa.Schema) -> tuple[str, str, tuple[str, ...]]:
    """Return the columns of images and of labels, and the names of the classes (() if unknown).

    The columns are those that the metadata of `datasets` marks, otherwise `image` and `label`.
    """
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    kinds = {name: f.get("_type") for name, f in features.items() if isinstance(f, dict)}
    columns = []
    for kind, default in (("Image", "image"), ("ClassLabel", "label")):
        candidates = [name for name, k in kinds.items() if k == kind] or [default]
        if len(candidates) > 1 or candidates[0] not in schema.names:
            raise ValueError(
                f"it needs one column of type {kind} or named {default!r}; it has "
                f"{', '.join(schema.names)}"
            )
        columns.append(candidates[0])
    return columns[0], columns[1], tuple(features.get(columns[1], {}).get("names", ()))


def _make_shard(
    labels: pa.ChunkedArray, names: tuple[str, ...], read: Callable[[str], bytes]
) -> Shard:
    values = labels.to_pylist()
    if unusable := [value for value in values if not isinstance(value, int | str | None)]:
        raise ValueError(f"labels must be integers or names; one is {unusable[0]!r}")
    count = len(names) or np.inf
    # -1 means "without a label" in Hugging Face's data sets
    labelled = [v if isinstance(v, str) else v is not None and 0 <= v < count for v in values]
    if rows := [row for row, label in enumerate(labelled) if not label]:
        raise ValueError(f"{len(rows)} of {len(values)} images have no label, e.g. row {rows[0]}")
    classes = [names[value] if names else str(value) for value in values]
    return Shard([str(row) for row in range(len(values))], classes, names, read)


def _file_bytes(value: pa.Scalar) -> bytes:
    content = value.as_py()
    content = content.get("bytes") if isinstance(content, dict) else content
    if isinstance(content, bytes):
        return content
    if isinstance(content, str) or isinstance(value.as_py(), dict):
        problem = "the file refers to an image elsewhere instead of containing it"
    else:
        problem = f"an image must be the bytes of an image file, got {type(content).__name__}"
    raise ValueError(f"{problem}; save the data set with its images (`Dataset.to_parquet` does)")
