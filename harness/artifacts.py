"""The artifacts of a run: the only module that knows where its files are.

A run is a folder. Every artifact in it is one file with a sidecar ``<file>.json`` that holds the
fingerprint of everything on which the file depends. A file without a matching sidecar counts as
absent, so interrupted work is done again. Tables are parquet, arrays are npz or npy. This module
does not import torch, because the survey server and the analysis use it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from harness.files import (
    WORKING,
    ArtifactError,
    content_hash,
    find_paths,
    lock,
    whole_file,
    write_text,
)

T = TypeVar("T")


def fingerprint(*parts: Any) -> str:
    """Hash plain values (numbers, strings, lists, dicts) shortly, whatever the order of dicts."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sidecar_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the contents of a file's sidecar; None if there is none or it cannot be read."""
    try:
        content = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) and "fingerprint" in content else None


@dataclass(frozen=True)
class Artifact:
    """One file of a run: its kind (a key of LAYOUT), and the values that tell it from others."""

    kind: str
    parts: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.kind, *map(str, self.parts)])


#: Where each kind of artifact lies; `{0}`, `{1}` are the artifact's parts.
LAYOUT = {
    "images": "images/{0}.npz",  # split -> pixels, and part and colour maps where drawn
    "image_index": "images/{0}.parquet",  # split -> image_id, class_id, class_name, path
    "left_out": "images/left-out/{0}.parquet",  # split -> what, files
    "weights": "training/{0}/epoch-{1:04d}.pt",  # series, epoch
    "training_state": "training/{0}/state.pt",  # series: from which interrupted training resumes
    "training_log": "training/{0}/log.parquet",  # series
    "audit_weights": "audit/{0}/weights-{1:04d}.npz",  # series, epoch: samples of each layer
    "audit_layers": "audit/{0}/sketch-{1:04d}.parquet",  # series, epoch
    "audit_distances": "audit/{0}/distances.npz",  # series: between all checkpoints
    "audit": "audit/{0}/checkpoints.parquet",  # series
    "audit_steps": "audit/{0}/layers.parquet",  # series: one row per layer and checkpoint
    "audit_findings": "audit/{0}/findings.parquet",  # series
    "check": "probe/{0}/check-{1:04d}.parquet",  # series, epoch
    "layers": "probe/{0}/layers.parquet",  # series
    "stimuli": "probe/{0}/stimuli-{1:04d}.parquet",  # series, epoch
    "responsive": "probe/{0}/responsive-{1:04d}.parquet",  # series, epoch
    # series, epoch, first image and the image after the last
    "activations": "probe/{0}/activations-{1:04d}/{2:08d}-{3:08d}.npy",
    "probe_part": "probe/{0}/parts-{1:04d}/{2:08d}-{3:08d}.npz",
    "responses_part": "probe/{0}/parts-{1:04d}/{2:08d}-{3:08d}.parquet",
    "concepts": "probe/{0}/concepts-{1:04d}.parquet",  # series, epoch
    "prototypes": "probe/{0}/prototypes-{1:04d}.npz",  # series, epoch
    "space": "space/{0}/vectors.npz",  # space method
    "space_neurons": "space/{0}/neurons.parquet",  # space method: neurons of the rows of `space`
    "map": "space/map.parquet",
    # series, epoch_from, epoch_to, importance method, classes
    "importance": "importance/{0}/{1:04d}-{2:04d}/{3}/scores-{4}.parquet",
    "reliability": "importance/{0}/{1:04d}-{2:04d}/{3}/reliability-{4}.parquet",
    # series, epoch_from, epoch_to, importance method, kind of arms, classes
    "sets": "ablation/{0}/{1:04d}-{2:04d}/sets/{3}-{4}-{5}.parquet",
    # series, epoch_from, epoch_to, ablation, importance method, kind of arms, split, classes
    "records": "ablation/{0}/{1:04d}-{2:04d}/{3}/{4}/{5}-{6}-{7}.parquet",
    "neighbours": "space/{0}/neighbours-{1:d}.parquet",  # space method, draw
}

#: A part of an artifact in LAYOUT: its place, and its format if it is a number.
_PART = re.compile(r"\{(\d)(:\d*d)?\}")


def _read_file(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except Exception as error:  # pyarrow, zipfile and numpy raise many types on damaged files
        raise ArtifactError(f"{path} is damaged ({error}); delete it and run again") from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


class Run:
    """Typed reading and writing of the files of one run."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, artifact: Artifact) -> Path:
        return self.root / LAYOUT[artifact.kind].format(*artifact.parts)

    def sidecar(self, artifact: Artifact) -> dict[str, Any] | None:
        """Return the sidecar's content (fingerprint, sha256, seconds); None if not complete."""
        path = self.path(artifact)
        return read_sidecar(path) if path.exists() else None

    def has(self, artifact: Artifact, fingerprint: str) -> bool:
        """Return whether the artifact is complete and was made from exactly these inputs."""
        sidecar = self.sidecar(artifact)
        return sidecar is not None and sidecar["fingerprint"] == fingerprint

    @contextmanager
    def working(self, artifact: Artifact) -> Iterator[None]:
        """Mark an artifact as in progress, for commands that show the status."""
        marker = self._marker(artifact)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        try:
            yield
        finally:
            marker.unlink(missing_ok=True)

    def is_working(self, artifact: Artifact) -> bool:
        """Return whether the command that has locked the run is making the artifact."""
        return self._marker(artifact).exists()

    def _marker(self, artifact: Artifact) -> Path:
        path = self.path(artifact)
        return path.with_name(f".{path.name}{WORKING}")

    def seconds(self) -> dict[str, list[float]]:
        """Return durations of pieces of work, in path order, by kind of their first artifact."""
        seconds = {}
        for kind in LAYOUT:
            sidecars = [read_sidecar(self.path(artifact)) or {} for artifact in self.stored(kind)]
            if times := [sidecar["seconds"] for sidecar in sidecars if "seconds" in sidecar]:
                seconds[kind] = times
        return seconds

    def seal(self, artifact: Artifact, fingerprint: str, seconds: float | None = None) -> None:
        """Declare a file that was written by other means (`whole_file`) to be the artifact.

        `fingerprint` is of all that it depends on; `seconds` is the duration of its piece of work.
        """
        content: dict[str, Any] = {"fingerprint": fingerprint}
        path = self.path(artifact)
        if path.exists():  # a state from which work resumes is sealed before it is written
            content["sha256"] = content_hash(path)
        if seconds is not None:
            content["seconds"] = round(seconds, 3)
        write_text(sidecar_path(path), json.dumps(content) + "\n")

    def unseal(self, artifact: Artifact) -> None:
        """Remove an artifact's sidecar before another file is written in its place."""
        sidecar_path(self.path(artifact)).unlink(missing_ok=True)

    def save(
        self,
        artifact: Artifact,
        value: pd.DataFrame | np.ndarray | dict[str, np.ndarray],
        fingerprint: str,
        seconds: float | None = None,
    ) -> None:
        """Write a table (parquet), an array (npy) or named arrays (npz), and `seal` it."""
        with whole_file(self.path(artifact)) as temporary:
            if isinstance(value, pd.DataFrame):
                value.to_parquet(temporary, index=False)
            elif isinstance(value, np.ndarray):
                np.save(temporary, value)
            else:
                np.savez(temporary, **value)
        self.seal(artifact, fingerprint, seconds)

    def _read(self, artifact: Artifact, read: Callable[[Path], T]) -> T:
        """Read an artifact. Raises ArtifactError if it is absent or damaged."""
        path = self.path(artifact)
        if not path.exists():
            raise ArtifactError(
                f"{self.root} holds no {artifact} (expected {path}); "
                f"make it with `conceptevo run` on the same configuration"
            )
        return _read_file(path, read)

    def table(self, artifact: Artifact, columns: list[str] | None = None) -> pd.DataFrame:
        """Read a table, or some of its columns. Raises ArtifactError if it is absent or damaged."""
        return self._read(artifact, partial(pd.read_parquet, columns=columns))

    def array(self, artifact: Artifact) -> np.ndarray:
        """Read one array as a read-only memory map. Raises ArtifactError as `table` does."""
        return self._read(artifact, partial(np.load, mmap_mode="r", allow_pickle=False))

    def arrays(self, artifact: Artifact) -> dict[str, np.ndarray]:
        """Read named arrays. Raises ArtifactError as `table` does."""
        return self._read(artifact, _arrays)

    def tables(self, kind: str) -> pd.DataFrame:
        """Read all tables of one kind (every series, epoch or pair), in path order.

        Rows of series and checkpoints that earlier configurations of the run had are left out.
        """
        paths = [self.path(artifact) for artifact in self.stored(kind)]
        if not paths:
            raise ArtifactError(
                f"{self.root} holds no {kind} tables; make them with `conceptevo run`"
            )
        tables = [_read_file(path, pd.read_parquet) for path in paths]
        table = pd.concat(tables, ignore_index=True)
        checkpoints = self.manifest().get("checkpoints")
        if checkpoints is None or "series" not in table:
            return table
        is_present = table["series"].isin(list(checkpoints))
        # where a file is of one checkpoint; the log of a training has epochs without one
        if "epoch" in table and "{1:04d}" in LAYOUT[kind]:
            keys = pd.MultiIndex.from_frame(table[["series", "epoch"]])
            is_present &= keys.isin(
                [(name, epoch) for name, epochs in checkpoints.items() for epoch in epochs]
            )
        return table[is_present].reset_index(drop=True)

    def stored(self, kind: str, *parts: str | int, suffix: str = "") -> list[Artifact]:
        """Return the artifacts of a kind for which there is a file of their path and a suffix, in
        path order; `parts`: their first parts, if only those are wanted that have them."""
        layout = LAYOUT[kind] + suffix  # the pattern of a kind matches no file of another kind

        def fill(text: Callable[[re.Match[str]], str]) -> str:
            """Return the layout with the parts that are given, and a text for each of the rest."""
            return _PART.sub(
                lambda p: p[0].format(*parts) if int(p[1]) < len(parts) else text(p), layout
            )

        name = re.compile(fill(lambda part: r"(\d+)" if part[2] else r"([^./][^/]*)"))
        types = [int if part[2] else str for part in _PART.finditer(layout)][len(parts) :]
        artifacts = []
        for path in sorted(find_paths(self.root, fill(lambda part: "*"))):
            if match := name.fullmatch(path.relative_to(self.root).as_posix()):
                others = (to(text) for to, text in zip(types, match.groups(), strict=True))
                artifacts.append(Artifact(kind, (*parts, *others)))
        return artifacts

    def holds(self, kind: str) -> bool:
        """Return whether the run has any artifact of a kind."""
        return bool(self.stored(kind))

    def remove(self, artifact: Artifact) -> None:
        """Delete an artifact, its sidecar first."""
        self.unseal(artifact)
        self.path(artifact).unlink(missing_ok=True)

    def files(self) -> list[Path]:
        """Return every artifact's file for which the file or its sidecar exists, in order."""
        suffixes = ("", ".json")
        found = (a for kind in LAYOUT for end in suffixes for a in self.stored(kind, suffix=end))
        return sorted({self.path(artifact) for artifact in found})

    def locked(self) -> AbstractContextManager[None]:
        """Lock the run for this command. Raises ArtifactError as `lock` does."""
        return lock(self.root)

    def worker_copy(self, makes: Iterable[Artifact]) -> AbstractContextManager[Run]:
        """Return the run for a worker on another machine that makes these artifacts."""
        return nullcontext(self)

    def pull(self) -> None:
        """Copy results of workers on other machines into the folder; here they already share it."""

    def publish(self) -> None:
        """Copy manifest and reports to the store of the artifacts; here there is none."""

    def damaged_in_store(self) -> Iterator[str]:
        """Yield the paths of artifacts that are damaged where they are kept; here that is the
        folder, which `verify` reads."""
        yield from ()

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Record what the run was made with."""
        write_text(self.root / "manifest.json", json.dumps(manifest, indent=2) + "\n")

    def manifest(self) -> dict[str, Any]:
        """Return what the run was made with: configuration, checkpoints (series -> epochs), base,
        space_methods, versions, outdated (stages, see `describe_outdated`)."""
        path = self.root / "manifest.json"
        if not path.exists():
            raise ArtifactError(
                f"{self.root} is not a run: it holds no manifest.json; "
                f"name the folder that `conceptevo run` wrote"
            )
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict):
            raise ArtifactError(f"{path} is damaged; `conceptevo run` writes it again")
        return manifest


def describe_outdated(run: Run) -> str:
    """Return a sentence on results that may not belong to the run's configuration; "" for none."""
    if not (stages := run.manifest().get("outdated")):
        return ""
    return (
        f"{run.root}: results of {', '.join(stages)} may be of an earlier configuration or other "
        f"checkpoints or images, because a command is working, was stopped, or did not compute all "
        f"of them again; complete them with `conceptevo run` before you use them"
    )


def verify(run: Run) -> Iterator[tuple[Path, str, str]]:
    """Yield each artifact's file, its state in the folder or in the run's store ("unchanged",
    "damaged", or "open" if this is not known), and its fault, which continues the file's name."""
    for path in run.files():
        yield path, *_examine(path)
    for name in run.damaged_in_store():
        text = "differs in the store from what was written: delete it there and run again"
        yield run.root / name, "damaged", text


def _examine(path: Path) -> tuple[str, str]:
    sidecar = read_sidecar(path)
    if not path.exists():
        if sidecar is not None and "sha256" not in sidecar:
            return "open", "is yet to be written by work that has begun"
        return "damaged", "is missing although its .json file exists: run the command again"
    if sidecar is None and sidecar_path(path).exists():
        return "damaged", "its .json file cannot be read: delete it and run again"
    if sidecar is None:
        return "open", "was not finished, and will be made again"
    if "sha256" not in sidecar:
        return "open", "has no hash: it is being written, or is of an earlier version"
    if content_hash(path) != sidecar["sha256"]:
        return "damaged", "differs from what was written: delete it and run again"
    return "unchanged", ""
