"""Stage: draw the synthetic images, or list the user's images."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from harness.artifacts import Artifact, Run
from harness.config import Config, DrawnImagesSection, FolderImagesSection
from harness.files import cached_listing
from harness.images import drawn
from harness.images.folders import count_unused, folder_images, image_remarks, remark_counts
from harness.images.sets import VIEW_VERSION, ArrayImages, FileImages, draw_arrays, image_index
from harness.images.shards import containing_file
from harness.stages.stage import Advance, Plan, Step, Value, Work

logger = logging.getLogger(__name__)

MAX_LISTED = 10  # maximum number of faulty images in a message

#: Random streams of the splits, so that no image is in two splits.
STREAMS = {"train": 0, "probe": 1, "test": 2}


@dataclass(frozen=True)
class SplitWork(Work):
    """A piece of work that makes the artifacts of some kinds for one split."""

    split: str

    kinds: ClassVar[tuple[str, ...]] = ("images", "image_index")

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return tuple(Artifact(kind, (self.split,)) for kind in self.kinds)


@dataclass(frozen=True)
class DrawImages(SplitWork):
    count: int
    seed: int

    @property
    def depends(self) -> object:
        return [self.split, self.count, self.seed]

    @property
    def steps(self) -> int:
        return self.count

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        stream = len(STREAMS) * self.seed + STREAMS[self.split]
        pieces = []
        for start in range(0, self.count, 100):
            pieces.append(draw_arrays(stream, start, min(start + 100, self.count)))
            advance(len(pieces[-1]["labels"]))
        arrays = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        images = ArrayImages(arrays["pixels"], arrays.pop("labels"), tuple(drawn.CLASSES))
        # only test images need their maps of parts and colours, by which neurons are named
        yield arrays if self.split == "test" else {"pixels": images.arrays}
        yield image_index(images)


@dataclass(frozen=True)
class ListImages(SplitWork):
    """Work that lists one split of the user's images."""

    section: FolderImagesSection

    kinds = ("image_index", "left_out")

    @cached_property
    def _files(self) -> FileImages:
        return folder_split(self.section, self.split)

    @property
    def depends(self) -> object:
        """The version of reading, the files with sizes and modification times, the numbers of
        unused files, and the classes, by which the labels of every split are numbered (those of
        the probe images)."""
        paths = dict.fromkeys(map(containing_file, map(Path, self._files.paths)))
        stats = ((path, path.stat()) for path in paths)
        files = [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        return VIEW_VERSION, files, self._left_out, self._files.classes

    @cached_property
    def _left_out(self) -> dict[str, int]:
        """The numbers of unused files of the folder, by suffix or reason."""
        root = getattr(self.section, self.split)
        counts = cached_listing(("unused", root), lambda: count_unused(root))
        return dict(sorted(counts.items()))

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        remarks = image_remarks(self._files)
        if text := describe_faults(remarks.pop("fault"), self.split):
            raise ValueError(text)
        yield image_index(self._files).join(remarks)
        yield pd.DataFrame(list(self._left_out.items()), columns=["what", "files"])


def describe_faults(faults: pd.Series, split: str) -> str:
    """Describe which images of a split cannot be read, and why; "" if all can."""
    texts = [fault for fault in faults if fault]
    if not texts:
        return ""
    summary = f"images.{split}: {len(texts)} of {len(faults)} images cannot be read; "
    rest = [f"and {len(texts) - MAX_LISTED} more"] * (len(texts) > MAX_LISTED)
    return "\n  ".join([f"{summary}replace or remove them:", *texts[:MAX_LISTED], *rest])


@dataclass(frozen=True, eq=False)
class KeepImages(SplitWork):
    """Work that saves images that are in memory as one split."""

    images: ArrayImages

    @cached_property
    def depends(self) -> object:
        arrays = (self.images.arrays, self.images.labels)
        return [hashlib.sha256(a.tobytes()).hexdigest() for a in arrays], self.images.classes

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        yield {"pixels": self.images.arrays}
        yield image_index(self.images)


def folder_split(section: FolderImagesSection, split: str) -> FileImages:
    """Return the files of a split; a label means the same class in every split."""
    classes = None if split == "probe" else folder_images(section.probe).classes
    return folder_images(getattr(section, split), classes)


def count_images(config: Config, split: str) -> int:
    section = config.images
    if isinstance(section, FolderImagesSection):
        return len(folder_split(section, split))
    return int(getattr(section, split))  # commands have no images in memory


def _report_images(run: Run, split: str) -> None:
    """Report which files of a folder are not used and which images were converted."""
    for row in run.table(Artifact("left_out", (split,))).itertuples():
        logger.warning("images.%s: left out %s × %s", split, row.files, row.what)
    images = len(run.table(Artifact("image_index", (split,))))
    for remark, count in remark_counts(run, split).items():
        logger.warning("images.%s: %s of %s images: %s", split, count, images, remark)


def image_works(config: Config) -> list[Work]:
    """Return the pieces of work that draw, list or keep the images of every split."""
    section = config.images
    if isinstance(section, DrawnImagesSection):
        return [DrawImages(split, getattr(section, split), config.seed) for split in STREAMS]
    if isinstance(section, FolderImagesSection):
        return [ListImages(split, section) for split in section.splits]
    return [KeepImages(split, section.images) for split in ("probe", "test")]


def steps(plan: Plan) -> Iterator[Step]:
    """Draw, list or keep the images of every split."""
    works = image_works(plan.config)
    kinds = ("images", "image_index", "left_out")
    made = {artifact for work in works for artifact in work.makes}
    plan.discard({Artifact(kind, (split,)) for split in STREAMS for kind in kinds} - made)
    yield "images", works
    folders = {} if plan.dry_run else _folders(plan.config)
    for splits in folders.values():
        _report_images(plan.run, splits[0])  # once for a folder that is two splits


def _folders(config: Config) -> dict[Path, list[str]]:
    """Return folder of images -> the splits that it is used for."""
    folders: dict[Path, list[str]] = {}
    for work in image_works(config):
        if isinstance(work, ListImages):
            folders.setdefault(getattr(work.section, work.split), []).append(work.split)
    return folders


def note_shared_images(config: Config) -> Iterator[str]:
    """Yield notes on splits that consist of the same images."""
    for splits in _folders(config).values():
        if len(splits) > 1:
            names = " and ".join(f"images.{split}" for split in splits)
            yield (
                f"{names} are the same images: results on the one are not independent of those "
                f"on the other"
            )
