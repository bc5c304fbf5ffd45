"""The progress of a run: the states of its pieces of work, and when it will be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from harness.artifacts import Run
from harness.config import parse_config
from harness.files import ArtifactError, lock_time
from harness.networks.budget import cores
from harness.stages.run import STAGES
from harness.stages.stage import Plan, Work
from harness.text import pluralise

#: States of a piece of work: its artifacts exist and match the configuration; are being made; were
#: made from other settings or inputs and will be made again; do not exist.
STATES = ["done", "running", "stale", "missing"]


@dataclass(frozen=True)
class Status:
    """The progress of a run.

    Attributes:
        steps: one row per step, in order: stage, step, the number of pieces of work in each of
            STATES, seconds_left (computing time, by that of the done pieces; NaN if none is done).
        unknown: stages whose pieces cannot be listed before earlier ones are done.
        since: when the command that is working in the run's folder began; None if there is none.
        workers: number of workers that share the remaining time.
    """

    steps: pd.DataFrame
    unknown: tuple[str, ...]
    since: datetime | None
    workers: int

    @property
    def is_done(self) -> bool:
        """Whether all work of every stage is done."""
        return not self.unknown and not self.steps[STATES[1:]].to_numpy().any()

    @property
    def seconds_left(self) -> float:
        """Seconds until these workers have done all listed work; NaN if no step has an estimate."""
        return float(self.steps["seconds_left"].sum(min_count=1)) / self.workers

    def sentence(self, now: datetime) -> str:
        """Return the progress in words."""
        if self.is_done:
            return "All work is done."
        doing = "No command is working here; the same `conceptevo run` continues it."
        if self.since:
            doing = f"A command has been working here since {self.since:%Y-%m-%d %H:%M}."
        more = [*self.steps.loc[self.steps["seconds_left"].isna(), "step"], *self.unknown]
        if not self.seconds_left > 0:
            of = f": no work of {', '.join(more)} has been timed" if more else ""
            return f"{doing} How long the rest takes is not known yet{of}."
        span = timedelta(seconds=round(self.seconds_left))
        when = f", at {now + span:%Y-%m-%d %H:%M}" if self.since else ""
        without = f" (without {', '.join(more)}, of which no work has been timed)" if more else ""
        several = pluralise(self.workers, "worker")
        return f"{doing} With {several} it takes about {span} more{when}{without}."


def status(run: Run) -> Status:
    """Return the progress of a run, which may be in progress; nothing is written.

    Raises:
        ArtifactError: the folder holds no run.
    """
    config = parse_config(run.manifest()["configuration"], f"the run {run.root}")
    since = lock_time(run.root)
    plan = Plan(config, run, looks_only=True)
    rows, unknown = [], []
    for name, stage in STAGES.items():
        try:
            for title, works in stage(plan):
                if works:  # probing has none once all ranges are joined
                    plan.add(works)
                    counted = _counted(plan, works, since)
                    rows.append({"stage": name, "step": title, **counted})
        except (ArtifactError, KeyError):  # a table or an input is yet to be made
            unknown.append(name)
    steps = pd.DataFrame(rows, columns=["stage", "step", *STATES, "seconds_left"])
    began = None if since is None else datetime.fromtimestamp(since)
    return Status(steps, tuple(unknown), began, int(steps["running"].sum()) or cores())


def _counted(plan: Plan, works: Sequence[Work], since: float | None) -> dict[str, float]:
    """Return the number of pieces of work in each state, and the seconds left."""

    def row(work: Work) -> tuple[str, str, int, float]:
        about, kind = plan.run.sidecar(work.makes[0]), type(work).__name__
        if plan.is_done(work):
            return kind, "done", work.steps, (about or {}).get("seconds", np.nan)
        if since is not None and plan.run.is_working(work.makes[0], since):
            return kind, "running", work.steps, np.nan
        return kind, "missing" if about is None else "stale", work.steps, np.nan

    table = pd.DataFrame(map(row, works), columns=["kind", "state", "steps", "seconds"])
    timed = table.dropna(subset="seconds").groupby("kind")[["seconds", "steps"]].sum()
    left = table[table["state"] != "done"]
    seconds = left["steps"] * left["kind"].map(timed["seconds"] / timed["steps"]).astype(float)
    counts = {state: int((table["state"] == state).sum()) for state in STATES}
    return {**counts, "seconds_left": float(seconds.sum(skipna=False))}
