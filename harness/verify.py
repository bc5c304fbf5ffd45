"""Check that a run is unchanged: the content of every artifact against the hash in its sidecar."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from harness.artifacts import Run, read_sidecar
from harness.files import content_hash


class Finding(NamedTuple):
    """A fault of one file; unless it `is_damage`, nothing is known about the file.

    The text completes a sentence that begins with the file's name.
    """

    text: str
    is_damage: bool = True


def verify(run: Run) -> Iterator[tuple[Path, Finding | None]]:
    """Yield each artifact's file and its fault, if any, in the folder or in the run's store."""
    for path in run.files():
        yield path, _finding(path)
    for name in run.damaged_elsewhere():
        text = "differs in the store from what was written: delete it there and run again"
        yield run.root / name, Finding(text)


def _finding(path: Path) -> Finding | None:
    about = read_sidecar(path)
    if not path.exists():
        return Finding("is missing although its sidecar exists: run the command again")
    if about is None and path.with_name(path.name + ".json").exists():
        return Finding("its sidecar cannot be read: delete it and run again")
    if about is None:
        return Finding("was not finished, and will be made again", False)
    if "sha256" not in about:
        return Finding("has no hash: it is being written, or is of an earlier version", False)
    if content_hash(path) != about["sha256"]:
        return Finding("differs from what was written: delete it and run again")
    return None
