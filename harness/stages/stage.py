"""The contract of a stage: pieces of work that say what they read, what they make, what decides.

A stage is a generator of steps; a step is a list of pieces of work that can be done at once. What a
piece's artifacts are known by (their fingerprint) follows from its declaration: the package's
version, the kind of work, the values it depends on, and the fingerprints of what it reads. A `Plan`
computes each fingerprint once a command.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TypeAlias, TypeVar

import numpy as np
import pandas as pd

from harness.artifacts import Artifact, Run, fingerprint
from harness.config import Config
from harness.images.sets import ImageSet, open_images
from harness.networks.budget import Resources, cores, worker_bytes
from harness.networks.devices import Device, choose_device

#: Called by a piece of work with the number of steps it has just done.
Advance = Callable[[int], None]

#: What is saved as an artifact: a table, an array, arrays by name, or None where the work wrote it.
Value: TypeAlias = pd.DataFrame | np.ndarray | dict[str, np.ndarray] | None


class Work(ABC):
    """One piece of work. A subclass is a frozen dataclass of plain values: it may be pickled."""

    @property
    @abstractmethod
    def makes(self) -> tuple[Artifact, ...]:
        """The artifacts that it leaves."""

    @property
    def reads(self) -> tuple[Artifact, ...]:
        """The artifacts that decide its result."""
        return ()

    @property
    def keeps(self) -> tuple[Artifact, ...]:
        """Files from which interrupted work resumes; removed when it is done, and where they
        belong to other results."""
        return ()

    @property
    @abstractmethod
    def depends(self) -> object:
        """The plain values that decide its result: settings, identities of plug-ins."""

    @property
    def steps(self) -> int:
        """How many steps it has, about in proportion to its duration; those that it does not report
        count as done at its end."""
        return 1

    @abstractmethod
    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        """Compute the values of `makes`, in their order; each is saved when it is yielded."""


W = TypeVar("W", bound=Work)


class Plan:
    """The pieces of work of a command, and the fingerprints of all that they make.

    Args:
        config: of the run.
        run: where the artifacts are.
        workers: processes that share the memory.
        looks_only: the steps are listed, not done: nothing may be read that they would make, and
            nothing said or written.
    """

    def __init__(
        self, config: Config, run: Run, workers: int = 1, looks_only: bool = False
    ) -> None:
        self.looks_only = looks_only
        self.config = config
        self.run = run
        self.workers = workers
        self._inputs: dict[Artifact, Callable[[], tuple[object, Iterable[Artifact]]]] = {}
        self._fingerprints: dict[Artifact, str] = {}

    def add(self, works: Iterable[Work]) -> None:
        """Declare pieces of work."""
        for work in works:
            for artifact in work.makes:
                self._inputs[artifact] = _inputs_of(work)

    def give(
        self, artifact: Artifact, depends: Callable[[], object], reads: Iterable[Artifact] = ()
    ) -> None:
        """Declare something that no work makes (a user's checkpoint) by what identifies it."""
        self._inputs[artifact] = lambda: (depends(), reads)

    def fingerprint(self, artifact: Artifact) -> str:
        """Of all that an artifact depends on; computed once."""
        if artifact not in self._fingerprints:
            depends, reads = self._inputs[artifact]()
            self._fingerprints[artifact] = fingerprint(
                version("conceptevo-harness"), depends, [self.fingerprint(r) for r in reads]
            )
        return self._fingerprints[artifact]

    def left(self, works: Sequence[W]) -> list[W]:
        """Declare pieces of work; those of them that are not done."""
        self.add(works)
        return [work for work in works if not self.is_done(work)]

    def is_done(self, work: Work) -> bool:
        """Whether all that a piece of work makes is there, made from just these inputs."""
        return all(self.has(made) for made in work.makes)

    def has(self, artifact: Artifact) -> bool:
        """Whether an artifact of a declared piece of work is there, made from just these inputs."""
        about = self.run.about(artifact)
        return about is not None and about["fingerprint"] == self.fingerprint(artifact)

    @cached_property
    def device(self) -> Device:
        """Where networks compute. Raises ValueError for one that is not there."""
        return choose_device(self.config.device, self.config.precision)

    @cached_property
    def resources(self) -> Resources:
        """What one worker may use."""
        memory = worker_bytes(self.config.memory, self.workers, self.device)
        return Resources(self.device, memory, self.readers)

    @property
    def readers(self) -> int:
        """Processes that decode images for each worker: by default none for a CPU, whose cores the
        workers use, and for a GPU, which would starve, its share of the cores, at most 16."""
        if self.config.readers is not None:
            return self.config.readers
        return 0 if self.device.name == "cpu" else min(16, cores() // max(self.workers, 1))

    @cached_property
    def test_images(self) -> ImageSet:
        """The images on which importance and ablation are measured."""
        return open_images(self.run, "test")


def _inputs_of(work: Work) -> Callable[[], tuple[object, Iterable[Artifact]]]:
    return lambda: ([type(work).__name__, work.depends], work.reads)


#: A title, and pieces of work that can be done at once.
Step = tuple[str, Sequence[Work]]

#: A part of a run: its steps, in order; a step may look at what those before it have made.
Stage = Callable[[Plan], Iterator[Step]]
