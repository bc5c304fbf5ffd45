"""A run that is computed in this process, and what each function does with it first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from tempfile import TemporaryDirectory

from rich.console import Console

from harness.artifacts import Run
from harness.config import Config
from harness.stages import images
from harness.stages.checkpoints import give_checkpoints
from harness.stages.engine import Engine
from harness.stages.probe import FindLayers
from harness.stages.run import write_manifest
from harness.stages.stage import Plan, Step


@dataclass(frozen=True)
class Session:
    """A run that is computed in this process.

    Attributes:
        config: of the run.
        run: its folder.
        keeper: a temporary folder, which goes with the last result that holds it.
    """

    config: Config
    run: Run
    keeper: TemporaryDirectory[str] | None = None

    @cached_property
    def plan(self) -> Plan:
        """With everything declared that `opening` makes."""
        plan = Plan(self.config, self.run)
        give_checkpoints(plan)
        plan.add([*images.image_works(self.config), *map(FindLayers, self.config.series)])
        return plan

    def opening(self, checks: Iterable[Step] = ()) -> Iterator[Step]:
        """Write or list the images, do the checks, find the layers."""
        yield from images.steps(self.plan)
        yield from checks
        yield "layers", list(map(FindLayers, self.config.series))

    def do(self, steps: Iterable[Step], progress: bool) -> None:
        """Do the steps in order, with progress bars or without."""
        write_manifest(self.config, self.run)
        with Engine(self.plan, 0, Console(quiet=not progress)) as working:
            working.run(steps)
