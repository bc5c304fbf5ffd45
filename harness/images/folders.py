"""A user's folders of images: which files are used, left out or converted."""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from harness.artifacts import Artifact, Run
from harness.files import cached_listing
from harness.images.sets import FileImages, explain_failure
from harness.images.shards import SHARDS, SUFFIXES, image_bytes, read_shards, shard_files
from harness.images.view import has_alpha, to_rgb
from harness.text import join_names, normalise_name

logger = logging.getLogger(__name__)

#: Usual names of the folders of splits, which hold one folder per class.
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "probe"}

ORIENTATION = 0x0112  # the number of this tag in EXIF

#: Last bytes of complete files.
JPEG_END, PNG_END, GIF_END = b"\xff\xd9", b"IEND\xaeB`\x82", b"\0;"


def folder_images(root: Path, classes: Sequence[str] | None = None) -> FileImages:
    """List a folder with one sub-folder of image files per class, as torchvision's ImageFolder
    does, or files of many images (see `shard_files`).

    Links to files and folders are followed. Hidden folders and files (whose names begin with a dot)
    are left out; `count_unused` counts them.

    Args:
        classes: the expected class names in label order; default: all sub-folders, sorted.

    Raises:
        ValueError: the folder does not exist, or class folders are missing, empty or unexpected.
    """
    key = (root, None if classes is None else tuple(classes))
    return cached_listing(("images", *key), lambda: _folder_images(*key))


def _folder_images(root: Path, classes: Sequence[str] | None) -> FileImages:
    if files := shard_files(root):
        return FileImages(*read_shards(root, files, classes))
    present = _class_folders(root)
    names = tuple(classes) if classes is not None else tuple(sorted(present))
    if classes is None and names != tuple(present):
        logger.warning(
            "image folder %s: the classes have the order %s, in which é is one character; in the "
            "names of the folders it is two, and torchvision's order is %s: if the network was "
            "trained with that, set class_outputs",
            root,
            ", ".join(names),
            ", ".join(present),
        )
    files_of_class = {
        name: [p for p in walk(root / present[name]) if p.suffix.lower() in SUFFIXES]
        for name in names
        if name in present
    }
    if problems := [*_compare(root, names, present), *_unusable(root, files_of_class)]:
        raise ValueError("; ".join(problems))
    paths = tuple(str(path) for files in files_of_class.values() for path in files)
    counts = [len(files_of_class[name]) for name in names]
    return FileImages(paths, np.repeat(np.arange(len(names)), counts), names)


def _class_folders(root: Path) -> dict[str, str]:
    """Return the names of the class folders in order, by the names of the classes.

    Raises:
        ValueError: there is no such folder, or it has no class folders, or two of one name.
    """
    if not root.is_dir():
        hint = "" if root.is_absolute() else f" (looked for in {Path.cwd()})"
        problem = f"is neither a folder nor a file of many images ({', '.join(SHARDS)})"
        raise ValueError(
            f"image folder {root} {problem if root.exists() else 'does not exist'}{hint}"
        )
    folders = [e.name for e in root.iterdir() if e.is_dir() and not e.name.startswith(".")]
    present = {normalise_name(name): name for name in sorted(folders)}
    if not present:
        raise ValueError(
            f"image folder {root} has no class folders: it must have one sub-folder of images per "
            f"class"
        )
    if {name.lower() for name in present} <= SPLITS:
        raise ValueError(
            f"image folder {root} has the sub-folders {', '.join(present)}, which are splits, not "
            f"classes: name one of them for each split, e.g. {root / min(present)}"
        )
    if len(present) < len(folders):
        raise ValueError(f"image folder {root} has two class folders whose names look the same")
    return present


def _compare(root: Path, names: Sequence[str], present: Mapping[str, str]) -> Iterator[str]:
    """Yield what differs between the expected classes and the class folders that are present."""
    if missing := sorted(set(names) - set(present)):
        yield f"image folder {root} lacks the class folders {', '.join(missing)}"
    if unexpected := sorted(set(present) - set(names)):
        yield (
            f"image folder {root} has the class folders {', '.join(unexpected)}, which the probe "
            f"images lack; a class's position among the folders is that of its output of the "
            f"network, so all splits must have the same ones: add them there, or remove them here"
        )


def _unusable(root: Path, files_of_class: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    """Yield what is wrong with the names of files and classes, and classes without images."""
    all_names = [
        *files_of_class,
        *(path.name for paths in files_of_class.values() for path in paths),
    ]
    # Python reads bytes beyond UTF-8 as surrogates
    if unreadable := [ascii(name) for name in all_names if re.search("[\ud800-\udfff]", name)]:
        yield f"image folder {root}: names that are not UTF-8: {join_names(unreadable, 4)}"
    if empty := [str(root / name) for name, files in files_of_class.items() if not files]:
        problem = "class folder" if len(empty) == 1 else "class folders"
        shards = [file for name in empty for file in shard_files(Path(name))]
        hint = f"; name the files of many images themselves, e.g. {shards[0]}" if shards else ""
        yield (
            f"{problem} {', '.join(empty)} {'holds' if len(empty) == 1 else 'hold'} no image; "
            f"allowed: {', '.join(sorted(SUFFIXES))}{hint}"
        )


def walk(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted, without hidden ones; links are followed, each once.

    Raises:
        OSError: a folder cannot be read.
    """
    return [Path(file) for file in _walk(str(folder), set())]


def _walk(folder: str, visited: set[str]) -> Iterator[str]:
    if (target := os.path.realpath(folder)) in visited:
        return
    visited.add(target)
    with os.scandir(folder) as entries:
        visible = [
            entry
            for entry in entries
            if not entry.name.startswith(".")
            and (not entry.is_symlink() or os.path.exists(entry.path))  # no link to itself
        ]
    for entry in sorted(visible, key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walk(entry.path, visited)
        elif entry.is_file():
            yield entry.path


def count_unused(root: Path) -> Counter[str]:
    """Count the unused files below an image folder by suffix, with hidden and broken ones."""
    counts: Counter[str] = Counter()
    used_files = set(shard_files(root))
    for directory, folders, names in os.walk(root, followlinks=False):
        hidden_folders = [name for name in folders if name.startswith(".")]
        counts["hidden folder"] += len(hidden_folders)
        folders[:] = [name for name in folders if name not in hidden_folders]
        for name in names:
            path = Path(directory, name)
            if path in used_files:
                continue
            if name.startswith("."):
                counts["hidden file"] += 1
            elif not path.is_file():
                counts["broken link" if path.is_symlink() else "no regular file"] += 1
            elif Path(directory) == root:
                counts["file outside the class folders"] += 1
            elif path.suffix.lower() not in SUFFIXES:
                counts[f"{path.suffix.lower() or 'no suffix'}"] += 1
    return +counts


def image_remarks(images: FileImages) -> pd.DataFrame:
    """Report what is converted or ignored in image files, and which cannot be read.

    Returns:
        One row per image file, also inside a file of many images: remarks (joined by "; "; "" for
        none), fault (why it cannot be opened; "" if it can), sha256 (of the file; "" if unread).
    """
    with ThreadPoolExecutor(max_workers=8) as readers:
        table = pd.DataFrame(
            readers.map(_inspect, map(Path, images.paths)), columns=["remarks", "fault", "sha256"]
        )
    first_labels = pd.Series(images.labels).groupby(table["sha256"]).transform("first")
    is_copy = table["sha256"].duplicated() & (table["sha256"] != "")
    same_class = first_labels == images.labels
    kinds = np.where(same_class, "copy of another image", "copy of an image of another class")
    table.loc[is_copy, "remarks"] = [
        "; ".join(filter(None, texts))
        for texts in zip(table["remarks"][is_copy], kinds[is_copy], strict=True)
    ]
    return table


def remark_counts(run: Run, split: str) -> dict[str, int]:
    """Count a split's images by remark and in other splits; empty for images in memory."""
    index = run.table(Artifact("image_index", (split,)))
    if "remarks" not in index:
        return {}
    remarks = index["remarks"].str.split("; ").explode()
    counts = remarks[remarks != ""].value_counts().to_dict()
    for other_split in ("train", "probe") if split == "test" else ():
        if run.path(artifact := Artifact("image_index", (other_split,))).exists():
            counts[f"also in images.{other_split}"] = int(
                index["sha256"].isin(run.table(artifact)["sha256"]).sum()
            )
    return {remark: count for remark, count in counts.items() if count}


def _inspect(path: Path) -> tuple[str, str, str]:
    """Return the remarks on a file, the reason why it cannot be opened, and its SHA-256."""
    try:
        file = image_bytes(path)
        with Image.open(stream := BytesIO(file)) as image:
            # Pillow, which has read the header, reads JPEG files that were cut off and filled up
            if image.format == "JPEG" and file.find(JPEG_END, stream.tell()) < 0:
                raise ValueError("it is cut off: the end of its image is missing")
            if image.format == "PNG":  # the only format with checksums
                Image.open(BytesIO(file)).verify()
            deep = image.mode.startswith(("I", "F"))
            profile = image.info.get("icc_profile", b"sRGB").replace(b"\0", b"")
            cut = re.search(";16[BLN]", str(image.tile))  # of RGB, Pillow keeps the high bytes
            checks = {
                "several frames or pages, only the first is used": getattr(image, "n_frames", 1)
                > 1,
                "16 bits or floating point, scaled to 8 bits": deep or cut,
                "transparent pixels, shown on white": has_alpha(image),
                f"{image.mode}, converted to RGB": image.mode in ("CMYK", "LAB", "HSV"),
                "turned upright by its EXIF data": image.getexif().get(ORIENTATION) in range(2, 9),
                "a colour profile other than sRGB, ignored": b"sRGB" not in profile,
            }
            if deep:  # raises an error if their range is unknown
                scaled = np.asarray(to_rgb(image))
                checks["nearly black once scaled, of fewer bits than its type"] = scaled.max() < 32
            elif not file.endswith((JPEG_END, PNG_END, GIF_END)):
                image.load()  # raises an error if the file is truncated
            remarks = "; ".join(text for text, applies in checks.items() if applies)
        return remarks, "", hashlib.sha256(file).hexdigest()
    except Exception as error:  # a damaged file can raise anything
        return "", f"{path}: {explain_failure(path, error)}", ""
