"""The contract of a stage: pieces of work that declare what they read, make and depend on.

A stage is a generator of steps; a step is a list of pieces of work that can be done at the same
time. The fingerprint of an artifact follows from the declaration of the work that makes it: the
package's version, the kind of work, the values on which it depends, and the fingerprints of what it
reads. A `Plan` computes each fingerprint once per command.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from typing import TypeAlias, TypeVar

import numpy as np
import pandas as pd

from harness.artifacts import Artifact, Run, fingerprint
from harness.config import Config, FolderImagesSection
from harness.files import file_hash
from harness.images.sets import ImageSet, open_images
from harness.networks.budget import Resources, cores, worker_bytes
from harness.networks.devices import Device, choose_device

#: Called by a piece of work with the number of steps that it has just done.
Advance = Callable[[int], None]

#: Content of an artifact: a table, an array, arrays by name, or None if the work wrote the file.
Value: TypeAlias = pd.DataFrame | np.ndarray | dict[str, np.ndarray] | None


class Work(ABC):
    """One piece of work. A subclass is a frozen dataclass of plain values, which can be pickled."""

    @property
    @abstractmethod
    def makes(self) -> tuple[Artifact, ...]:
        """The artifacts that it makes."""

    @property
    def reads(self) -> tuple[Artifact, ...]:
        """The artifacts on which its result depends."""
        return ()

    @property
    def keeps(self) -> tuple[Artifact, ...]:
        """Files from which interrupted work resumes. They are removed when the work is done, and
        before it begins if they were made from other inputs."""
        return ()

    def removes(self, run: Run) -> Sequence[Artifact]:
        """Return artifacts that nothing needs when the work is done, and that are then removed."""
        return self.keeps

    @property
    @abstractmethod
    def depends(self) -> object:
        """The plain values on which its result depends: settings, identities of plug-ins."""

    @property
    def steps(self) -> int:
        """The number of its steps, roughly proportional to its duration. Steps that it does not
        report count as done when it ends."""
        return 1

    @abstractmethod
    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        """Compute the values of `makes`, in the same order; each is saved when it is yielded."""


W = TypeVar("W", bound=Work)


class Plan:
    """The pieces of work of a command, and the fingerprints of all artifacts that they make.

    Args:
        workers: number of processes that share the memory.
        dry_run: the steps are listed, not done: a stage must not read what they would make, log
            messages or write files.
    """

    def __init__(self, config: Config, run: Run, workers: int = 1, dry_run: bool = False) -> None:
        self.dry_run = dry_run
        self.config = config
        self.run = run
        self.workers = workers
        self._inputs: dict[Artifact, Callable[[], tuple[object, Iterable[Artifact]]]] = {}
        self._fingerprints: dict[Artifact, str] = {}
        self._version = version("conceptevo-harness")

    def add(self, works: Iterable[Work]) -> None:
        """Declare pieces of work."""
        for work in works:
            for artifact in work.makes:
                self._inputs[artifact] = partial(_inputs, work)

    def declare(
        self, artifact: Artifact, depends: Callable[[], object], reads: Iterable[Artifact] = ()
    ) -> None:
        """Declare an artifact that no work makes (a user's checkpoint) by what identifies it."""
        self._inputs[artifact] = lambda: (depends(), reads)

    def fingerprint(self, artifact: Artifact) -> str:
        """Return the fingerprint, computed once, of everything on which an artifact depends."""
        if artifact not in self._fingerprints:
            depends, reads = self._inputs[artifact]()
            self._fingerprints[artifact] = fingerprint(
                self._version, depends, [self._input(read) for read in reads]
            )
        return self._fingerprints[artifact]

    def _input(self, artifact: Artifact) -> str:
        """Return the hash of an artifact on which what is made of it depends. Layers, which are
        found on the last checkpoint, mostly stay the same when a training adds another one: their
        content counts, not the checkpoint; and until they are found again, that of the last ones.
        """
        if artifact.kind == "layers" and self.run.path(artifact).exists():
            return file_hash(self.run.path(artifact))
        return self.fingerprint(artifact)

    def remaining(self, works: Sequence[W]) -> list[W]:
        """Declare pieces of work, and return those that are not done."""
        self.add(works)
        return [work for work in works if not self.is_done(work)]

    def is_done(self, work: Work) -> bool:
        """Return whether all artifacts of a piece of work were made from exactly these inputs."""
        return all(self.has(artifact) for artifact in work.makes)

    def has(self, artifact: Artifact) -> bool:
        """Return whether a declared artifact exists and was made from exactly these inputs."""
        sidecar = self.run.sidecar(artifact)
        return sidecar is not None and sidecar["fingerprint"] == self.fingerprint(artifact)

    def discard(self, artifacts: Iterable[Artifact]) -> None:
        """Remove artifacts that only an earlier configuration made, and that would be taken for
        results of this one."""
        for artifact in artifacts:
            if not self.dry_run and self.run.path(artifact).exists():
                self.run.remove(artifact)

    @cached_property
    def device(self) -> Device:
        """The device on which networks are run. Raises ValueError if it does not exist."""
        return choose_device(self.config.device, self.config.precision)

    @cached_property
    def resources(self) -> Resources:
        """The device, memory and readers of one worker."""
        workers = max(self.workers, 1)
        memory = worker_bytes(self.config.memory, workers, self.device)
        readers = self.readers(self.device.place.type, cores() // workers)
        return Resources(self.device, memory, readers)

    def readers(self, kind: str, worker_cores: int) -> int:
        """Return the number of processes that decode images for a worker.

        By default, a worker on a CUDA GPU has its share of the cores, at most 16, if images are in
        files. Others have none: workers on a CPU use the cores themselves.

        Args:
            kind: of the device, "cuda" for a CUDA GPU.
            worker_cores: the worker's number of cores.
        """
        if self.config.readers is not None:
            return self.config.readers
        in_files = isinstance(self.config.images, FolderImagesSection)
        return min(16, worker_cores) if kind == "cuda" and in_files else 0

    @cached_property
    def test_images(self) -> ImageSet:
        """The images on which importance and ablation are measured."""
        return open_images(self.run, "test")


def _inputs(work: Work) -> tuple[object, Iterable[Artifact]]:
    return [type(work).__name__, work.depends], work.reads


#: A title, and pieces of work that can be done at the same time.
Step = tuple[str, Sequence[Work]]

#: A part of a run: yields its steps in order; a step may read what earlier ones have made.
Stage = Callable[[Plan], Iterator[Step]]
