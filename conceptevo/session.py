"""A run whose images are in memory, or in a folder, and what each function does with it first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from tempfile import TemporaryDirectory

from rich.console import Console

from conceptevo.inputs import Images
from harness.artifacts import Run
from harness.config import Config
from harness.stages import images as image_stage
from harness.stages.checkpoints import give_checkpoints
from harness.stages.engine import engine
from harness.stages.images import KeepImages
from harness.stages.probe import FindLayers
from harness.stages.run import write_manifest
from harness.stages.stage import Plan, Step, Work


@dataclass(frozen=True)
class Session:
    """A run that is computed in this process.

    Attributes:
        config: of the run.
        run: its folder.
        images: in memory; None where the configuration names a folder.
        keeper: a temporary folder, which goes with the last result that holds it.
    """

    config: Config
    run: Run
    images: Images | None
    keeper: TemporaryDirectory[str] | None = None

    @cached_property
    def plan(self) -> Plan:
        """With everything declared that `opening` makes."""
        plan = Plan(self.config, self.run)
        give_checkpoints(plan)
        plan.add([*self._kept_images(), *map(FindLayers, self.config.series)])
        return plan

    def _kept_images(self) -> list[Work]:
        if self.images is None:
            return []
        arrays = (self.images.pixels, self.images.labels, tuple(self.images.classes))
        return [KeepImages(split, *arrays) for split in ("probe", "test")]

    def opening(self, checks: Iterable[Step] = ()) -> Iterator[Step]:
        """Write or list the images, do the checks, find the layers."""
        if self.images is None:
            yield from image_stage.STAGE.steps(self.plan)
        yield "images", self._kept_images()
        yield from checks
        yield "layers", list(map(FindLayers, self.config.series))

    def do(self, steps: Iterable[Step], progress: bool) -> None:
        """Do the steps in order, with progress bars or without."""
        write_manifest(self.config, self.run)
        with engine(self.plan, 0, Console(quiet=not progress)) as working:
            working.run(steps)
