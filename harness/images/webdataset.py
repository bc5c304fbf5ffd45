"""WebDataset files: tar archives in which `key.jpg` and `key.cls` are an image and its class."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

from harness.images.shards import SHARDS, SUFFIXES, Shard


@SHARDS.add(".tar")
def webdataset(path: Path) -> Shard:
    """Open a tar archive: its index and all classes are read at once, images when needed."""
    places: dict[str, tuple[int, int]] = {}
    images: dict[str, list[str]] = {}
    classes: dict[str, str] = {}
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            place = PurePosixPath(member.name)
            stem, _, kind = place.name.partition(".")
            key = str(place.with_name(stem)) if stem else ""
            if not member.isfile() or not key:
                continue
            if PurePosixPath(f"x.{kind.lower()}").suffix in SUFFIXES:
                images.setdefault(key, []).append(str(place))
                places[str(place)] = member.offset_data, member.size
            elif kind == "cls" and (file := archive.extractfile(member)) is not None:
                classes[key] = file.read().decode().strip()
    if several := next((names for names in images.values() if len(names) > 1), None):
        raise ValueError(f"{', '.join(several)} belong to one sample, which must have one image")
    if missing := [key for key in images if not classes.get(key)]:
        raise ValueError(
            f"{len(missing)} of {len(images)} samples have no class, e.g. no {missing[0]}.cls; "
            f"write a `cls` file with each sample"
        )

    def read(member: str) -> bytes:
        start, size = places[member]
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    return Shard([n for (n,) in images.values()], [classes[key] for key in images], (), read)
