"""The progress of a run: the states of its pieces of work, and when it will be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from harness.artifacts import Run
from harness.config import parse_config
from harness.files import ArtifactError, cache_listings, lock_time
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
        state = "No command is working here; the same `conceptevo run` continues it."
        if self.since:
            state = f"A command has been working here since {self.since:%Y-%m-%d %H:%M}."
        untimed = [*self.steps.loc[self.steps["seconds_left"].isna(), "step"], *self.unknown]
        if not self.seconds_left > 0:
            reason = f": no work of {', '.join(untimed)} has been timed" if untimed else ""
            return f"{state} How long the rest takes is not known yet{reason}."
        duration = timedelta(seconds=round(self.seconds_left))
        end = f", at {now + duration:%Y-%m-%d %H:%M}" if self.since else ""
        caveat = (
            f" (without {', '.join(untimed)}, of which no work has been timed)" if untimed else ""
        )
        worker_text = pluralise(self.workers, "worker")
        return f"{state} With {worker_text} it takes about {duration} more{end}{caveat}."


@cache_listings()
def status(run: Run) -> Status:
    """Return the progress of a run, which may be in progress; nothing is written.

    Raises:
        ArtifactError: the folder holds no run.
    """
    config = parse_config(run.manifest()["configuration"], f"the run {run.root}")
    since = lock_time(run.root)
    plan = Plan(config, run, dry_run=True)
    rows, unknown = [], []
    for name, stage in STAGES.items():
        try:
            for title, works in stage(plan):
                if works:  # probing has none once all ranges are joined
                    plan.add(works)
                    counts = _count_states(plan, works, since)
                    rows.append({"stage": name, "step": title, **counts})
        except (ArtifactError, KeyError):  # a table or an input is yet to be made
            unknown.append(name)
    steps = pd.DataFrame(rows, columns=["stage", "step", *STATES, "seconds_left"])
    start = None if since is None else datetime.fromtimestamp(since)
    return Status(steps, tuple(unknown), start, int(steps["running"].sum()) or cores())


def _count_states(plan: Plan, works: Sequence[Work], since: float | None) -> dict[str, float]:
    """Return the number of pieces of work in each state, and the seconds left."""

    def row(work: Work) -> tuple[str, str, int, float]:
        sidecar, kind = plan.run.sidecar(work.makes[0]), type(work).__name__
        if plan.is_done(work):
            return kind, "done", work.steps, (sidecar or {}).get("seconds", np.nan)
        if since is not None and plan.run.is_working(work.makes[0]):
            return kind, "running", work.steps, np.nan
        return kind, "missing" if sidecar is None else "stale", work.steps, np.nan

    table = pd.DataFrame(map(row, works), columns=["kind", "state", "steps", "seconds"])
    totals = table.dropna(subset="seconds").groupby("kind")[["seconds", "steps"]].sum()
    rest = table[table["state"] != "done"]
    seconds = rest["steps"] * rest["kind"].map(totals["seconds"] / totals["steps"]).astype(float)
    counts = {state: int((table["state"] == state).sum()) for state in STATES}
    return {**counts, "seconds_left": float(seconds.sum(skipna=False))}
