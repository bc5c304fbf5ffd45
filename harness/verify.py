"""Check that a run is unchanged: the content of every artifact against the hash in its sidecar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts import Run, read_sidecar
from harness.files import content_hash


@dataclass(frozen=True)
class Finding:
    """A fault of one file, or the fact that nothing is known about it.

    Attributes:
        path: below the run's folder.
        text: a sentence.
        is_damage: whether the file differs from what was written; otherwise nothing is known.
    """

    path: Path
    text: str
    is_damage: bool


def verify(run: Run) -> Iterator[tuple[Path, Finding | None]]:
    """Yield each artifact's file and its fault, if any, in the folder or in the run's store."""
    for path in run.files():
        yield path, _finding(path, path.relative_to(run.root))
    for name in run.damaged_elsewhere():
        text = "differs in the store from what was written: delete it there and run again"
        yield run.root / name, Finding(Path(name), text, True)


def _finding(path: Path, place: Path) -> Finding | None:
    about = read_sidecar(path)
    sidecar_is_there = path.with_name(path.name + ".json").exists()
    if not path.exists():
        return Finding(place, "is missing although its sidecar exists: run the command again", True)
    if about is None and sidecar_is_there:
        return Finding(place, "its sidecar cannot be read: delete it and run again", True)
    if about is None:
        return Finding(place, "was not finished, and will be made again", False)
    if "sha256" not in about:
        return Finding(
            place, "has no hash: it is being written, or is of an earlier version", False
        )
    if content_hash(path) != about["sha256"]:
        return Finding(place, "differs from what was written: delete it and run again", True)
    return None
