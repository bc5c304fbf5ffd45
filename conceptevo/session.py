"""A run that is computed in this process, and the stages with which every function begins."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from harness.artifacts import Run
from harness.config import Config
from harness.stages import images
from harness.stages.checkpoints import declare_checkpoints
from harness.stages.engine import Engine
from harness.stages.probe import FindLayers
from harness.stages.run import write_manifest
from harness.stages.stage import Plan, Step

#: Work borrows state of the whole process (torch's profiler, default type): a thread at a time.
_one_at_a_time = threading.RLock()


@contextmanager
def _as_in_command() -> Iterator[None]:
    """Compute with torch's own defaults, whatever the caller's device, type or autocast."""
    dtype = torch.get_default_dtype()
    with (
        _one_at_a_time,
        torch.device("cpu"),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


@dataclass(frozen=True)
class Session:
    """A run that is computed in this process.

    Its temporary folder, if any, is deleted with the last result that holds the `keeper`.
    """

    config: Config
    run: Run
    keeper: TemporaryDirectory[str] | None = None

    @classmethod
    def temporary(cls, config: Config, original: Run | None = None) -> Session:
        """Return a session whose run is in a new folder, which links to the files of the original.

        Files are replaced, not overwritten, so what is computed here leaves the original as it is.
        """
        folder = TemporaryDirectory(prefix="conceptevo-")
        if original is not None:
            shutil.copytree(original.root, folder.name, copy_function=os.link, dirs_exist_ok=True)
        return cls(config, Run(folder.name), folder)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the run, in which everything is declared that `opening` makes."""
        plan = Plan(self.config, self.run)
        declare_checkpoints(plan)
        plan.add([*images.image_works(self.config), *map(FindLayers, self.config.series)])
        return plan

    def opening(self, checks: Iterable[Step] = ()) -> Iterator[Step]:
        """Yield the steps that write or list the images, run the checks and find the layers."""
        yield from images.steps(self.plan)
        yield from checks
        yield "layers", list(map(FindLayers, self.config.series))

    def do(self, steps: Iterable[Step], progress: bool) -> None:
        """Run the steps in order, with or without progress bars."""
        write_manifest(self.config, self.run)
        with _as_in_command(), Engine(self.plan, 0, Console(quiet=not progress)) as engine:
            engine.run(steps)
