"""The stages of a run in order, the functions with which commands run them, and their progress."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from harness.artifacts import Run
from harness.config import Config, parse_config, refuse
from harness.files import ArtifactError, working_since
from harness.images.folders import listed_once
from harness.networks.budget import cores, using
from harness.networks.devices import Device, devices
from harness.stages import ablate, audit, check, evolve, images, probe, space, train
from harness.stages.benchmark import Coverage, bench_config, bench_steps, bench_study
from harness.stages.engine import Engine, WorkError
from harness.stages.estimate import estimate, estimate_study
from harness.stages.faults import faults, faults_of_files
from harness.stages.stage import Plan, Stage, Work
from harness.store import open_run
from harness.text import counted

#: The stages in order, by their commands' names. A new stage needs one file and one line here.
STAGES: dict[str, Stage] = {
    "images": images.steps,
    "train": train.steps,
    "audit": audit.steps,
    "check": check.steps,
    "probe": probe.steps,
    "space": space.steps,
    "evolve": evolve.steps,
    "revert": ablate.steps,
}


def versions() -> dict[str, str]:
    """Return the versions of the packages on which numbers may depend."""
    packages = ("conceptevo-harness", "torch", "torchvision", "numpy", "scipy", "pandas")
    return {name: version(name) for name in packages}


def write_manifest(config: Config, run: Run) -> None:
    """Record with what the run was made: configuration and versions."""
    machine = {"workers", "memory", "device", "readers"}
    run.write_manifest(
        {
            "checkpoints": {source.name: source.epochs() for source in config.series},
            "base": vars(config.base_checkpoint()),
            "space_methods": config.space.methods,
            "importance_methods": config.evolve.methods,
            "configuration": config.model_dump(
                mode="json",
                serialize_as_any=True,
                exclude=machine if config.store else {*machine, "store"},
            ),
            "python": platform.python_version(),
            "versions": versions(),
        }
    )


def worker_count(config: Config, device: Device) -> int:
    """Return the number of processes: as configured, or one per core or, on GPUs, per GPU."""
    if config.workers is not None:
        return config.workers
    if device.name == "cpu":
        return cores()
    every_gpu = config.device in ("auto", "cuda") and device.place.type == "cuda"
    return len(devices()) - 1 if every_gpu else 1


def refuse_all(config: Config, known: Sequence[str] = ()) -> None:
    """Raise ConfigError with all faults of a configuration, if there are any, before work begins;
    those of its file may be known already."""
    if texts := [*known, *faults(config)]:
        refuse([*texts, *faults_of_files(config)])


@listed_once()
def run_until(
    last: str, config: Config, out: Path, console: Console, cluster: str | None = None
) -> Run:
    """Run every stage up to `last`, here or on a Ray cluster (by address); done work is reused."""
    run = open_run(out, config.store)
    plan = Plan(config, run)
    # a cluster's devices are those of its machines, not of this one
    plan.workers = workers = 1 if cluster else worker_count(config, plan.device)
    refuse_all(config)
    with run.locked(), Engine(plan, workers, console, cluster) as working:
        write_manifest(config, run)
        for name, stage in STAGES.items():
            try:
                working.run(stage(plan))
            except WorkError:
                if name == "images":  # reports all faults of images and checkpoints together
                    refuse(faults_of_files(config))
                raise
            if name == last:
                break
        if last == "space":  # otherwise the stage `evolve` makes the map
            working.step("map", [space.map_work(plan)])
    return run


@listed_once()
def show_estimate(config: Config, out: Path, console: Console) -> pd.DataFrame:
    """Print what is left of a run, by stage; nothing is written. See `estimate`."""
    refuse(faults(config))
    plan = Plan(config, Run(out), looks_only=True)
    plan.workers = worker_count(config, plan.device)
    with console.status("timing one batch of each kind of work"), using(plan.resources):
        table = estimate(plan)
    _show(table, plan, console)
    return table


@listed_once()
def bench(
    run: Run,
    console: Console,
    covered: Coverage,
    cluster: str | None = None,
    only_plan: bool = False,
    **machine: object,
) -> Run:
    """Print what is left of the benchmark and, unless `only_plan` is set, run it.

    Args:
        cluster: address of a Ray cluster, or None for this machine.
        machine: the configuration's `workers`, `memory` and `device`, on which no result depends;
            the precision is the run's.
    """
    config = bench_config(run, covered).model_copy(update=machine)
    run = open_run(run.root, config.store)
    plan = Plan(config, run)
    plan.workers = count = worker_count(config, plan.device)
    with run.locked(), Engine(plan, count, console, cluster) as working:
        for name in takewhile(lambda name: name != "evolve", STAGES):
            working.run(STAGES[name](plan))
        study = bench_study(plan, covered)
        with using(plan.resources):
            table = estimate_study(study, plan)
        _show(table, plan, console)
        if not only_plan:
            working.run(bench_steps(study, plan))
    return run


def _show(table: pd.DataFrame, plan: Plan, console: Console) -> None:
    """Print what is left to do, and how long it will take."""
    if table.empty:
        console.print("Nothing is left to do.")
        return
    shown = table.round({"hours": 3, "memory GiB": 2, "disk GiB": 3}).to_string(index=False)
    console.print(shown, highlight=False, markup=False)
    count, hours = max(plan.workers, 1), table["hours"].sum()
    time = f"{hours:.1f} hours" if hours >= 1 else f"{max(60 * hours, 1):.0f} min"
    console.print(
        f"Left to do: {table['pieces'].sum():,} pieces of work, about {time} with "
        f"{counted(count, 'worker')} on {plan.device.name}, up to "
        f"{table['memory GiB'].max():.2f} GiB of memory per worker, "
        f"{table['disk GiB'].sum():.2f} GiB of disk.",
        highlight=False,
    )


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
        several = counted(self.workers, "worker")
        return f"{doing} With {several} it takes about {span} more{when}{without}."


def status(run: Run) -> Status:
    """Return the progress of a run, which may be in progress; nothing is written.

    Raises:
        ArtifactError: the folder holds no run.
    """
    config = parse_config(run.manifest()["configuration"], f"the run {run.root}")
    since = working_since(run.root)
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
        about, kind = plan.run.about(work.makes[0]), type(work).__name__
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
