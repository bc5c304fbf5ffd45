"""What of a run is there, is being made, is stale or missing; and when it will be done."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta

import pandas as pd

from harness.artifacts import ArtifactError, Run, working_since
from harness.config import Config, parse_config
from harness.networks.budget import cores
from harness.stages.run import STAGES
from harness.stages.stage import Plan, Work


@dataclass(frozen=True)
class StepStatus:
    """The pieces of work of one step.

    Attributes:
        stage, step: names.
        done: pieces whose artifacts are there, made from just what is configured.
        running: being made now.
        stale: there, but made from other settings or inputs; they will be made again.
        missing: not there.
        seconds_left: of computing, by how long the done ones took; NaN where none has been done.
    """

    stage: str
    step: str
    done: int
    running: int
    stale: int
    missing: int
    seconds_left: float


@dataclass(frozen=True)
class Status:
    """Of a run.

    Attributes:
        steps: in order.
        unknown: stages whose pieces cannot be listed before earlier ones are done.
        since: when the command that is working there began; None if none is.
        workers: that the remaining time is shared by.
    """

    steps: tuple[StepStatus, ...]
    unknown: tuple[str, ...]
    since: datetime | None
    workers: int

    @property
    def is_done(self) -> bool:
        """Whether every stage's work is there."""
        return not self.unknown and all(s.running + s.stale + s.missing == 0 for s in self.steps)

    @property
    def seconds_left(self) -> float:
        """Until all listed work is done, with these workers; NaN where no step tells."""
        left = [step.seconds_left for step in self.steps if step.seconds_left == step.seconds_left]
        return sum(left) / self.workers if left else float("nan")

    def table(self) -> pd.DataFrame:
        """One row per step."""
        names = [field.name for field in fields(StepStatus)]
        return pd.DataFrame([vars(step) for step in self.steps], columns=names)

    def sentence(self, now: datetime) -> str:
        """Where the run stands, in words."""
        if self.is_done:
            return "All work is done."
        doing = "No command is working here; the same `conceptevo run` continues it."
        if self.since:
            doing = f"A command has been working here since {self.since:%Y-%m-%d %H:%M}."
        untimed = [s.step for s in self.steps if s.seconds_left != s.seconds_left]
        more = [*untimed, *self.unknown]
        if not self.seconds_left > 0:
            of = f": nothing has been timed of {', '.join(more)}" if more else ""
            return f"{doing} How long the rest takes is not known yet{of}."
        several = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        span = timedelta(seconds=round(self.seconds_left))
        when = f", at {now + span:%Y-%m-%d %H:%M}" if self.since else ""
        without = f" (without {', '.join(more)}, of which nothing has been timed)" if more else ""
        return f"{doing} With {several} it takes about {span} more{when}{without}."


def status(run: Run) -> Status:
    """Where a run stands. It may be in progress; nothing is written.

    Raises:
        ArtifactError: the folder holds no run.
    """
    config: Config = parse_config(run.manifest()["configuration"], f"the run {run.root}")
    since = working_since(run.root)
    plan = Plan(config, run, looks_only=True)
    steps: list[StepStatus] = []
    unknown: list[str] = []
    for stage in STAGES:
        try:
            for title, works in stage.steps(plan):
                if not works:  # as probing, once all ranges are joined
                    continue
                steps.append(_step(plan, stage.name, title, plan.add(works), since))
        except (ArtifactError, KeyError):  # a table, or an input, that an earlier stage will make
            unknown.append(stage.name)
    running = sum(step.running for step in steps)
    began = None if since is None else datetime.fromtimestamp(since)
    return Status(tuple(steps), tuple(unknown), began, running or cores())


def _step(plan: Plan, stage: str, title: str, works: list[Work], since: float | None) -> StepStatus:
    counts = dict.fromkeys(("done", "running", "stale", "missing"), 0)
    seconds: dict[str, float] = {}  # kind of work -> of those done
    timed: dict[str, int] = {}  # kind of work -> their steps
    left: dict[str, int] = {}
    for work in works:
        kind, first = type(work).__name__, work.makes[0]
        about = plan.run.about(first)
        if plan.is_done(work):
            counts["done"] += 1
            if about is not None and "seconds" in about:
                seconds[kind] = seconds.get(kind, 0.0) + about["seconds"]
                timed[kind] = timed.get(kind, 0) + work.steps
            continue
        left[kind] = left.get(kind, 0) + work.steps
        if since is not None and plan.run.is_working(first, since):
            counts["running"] += 1
        else:
            counts["stale" if about is not None else "missing"] += 1
    each = {kind: seconds[kind] / timed[kind] for kind in timed}
    remaining = sum(count * each.get(kind, float("nan")) for kind, count in left.items())
    return StepStatus(stage, title, **counts, seconds_left=remaining)
