"""The stages of a run in order, and the functions with which commands run them, estimate them and
show their progress."""

import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from harness.artifacts import Run
from harness.config import Config, parse_config, refuse
from harness.files import ArtifactError, cache_listings, lock_time
from harness.networks.budget import cores, use_resources
from harness.networks.devices import Device, devices
from harness.results import discard_mixed
from harness.stages import ablate, audit, check, evolve, images, probe, space, train
from harness.stages.benchmark import Coverage, bench_config, bench_steps, bench_study
from harness.stages.engine import Engine, WorkError
from harness.stages.estimate import estimate, estimate_study
from harness.stages.faults import faults, file_faults
from harness.stages.stage import Plan, Stage, Work
from harness.store import open_run
from harness.text import pluralise
from harness.versions import versions

logger = logging.getLogger(__name__)

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


#: The packages on which numbers may depend.
PACKAGES = ("conceptevo-harness", "torch", "torchvision", "numpy", "scipy", "pandas")


def write_manifest(config: Config, run: Run, outdated: Sequence[str] = ()) -> None:
    """Record with what the run was made: configuration and versions; and the stages whose results
    may be from another configuration or other inputs."""
    machine = {"workers", "memory", "device", "readers"}
    run.write_manifest(
        {
            "checkpoints": {source.name: source.series().epochs for source in config.series},
            "base": vars(config.base_checkpoint()),
            "space_methods": config.space.methods,
            "outdated": outdated,
            "importance_methods": config.evolve.methods,
            "configuration": config.model_dump(
                mode="json",
                serialize_as_any=True,
                exclude=machine if config.store else {*machine, "store"},
            ),
            "python": platform.python_version(),
            "versions": versions(PACKAGES),
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


def refuse_all(config: Config, known_faults: Sequence[str] = (), probes: bool = True) -> None:
    """Raise ConfigError with all faults of a configuration, if there are any, before work begins;
    those of its file may be known already. `probes`: whether the command probes images."""
    if texts := [*known_faults, *faults(config, probes)]:
        refuse([*texts, *file_faults(config)])


@cache_listings()
def run_until(
    last: str, config: Config, out: Path, console: Console, cluster: str | None = None
) -> Run:
    """Run every stage up to `last`, here or on a Ray cluster (by address); done work is reused."""
    run = open_run(out, config.store)
    plan = Plan(config, run)
    # a cluster's devices are those of its machines, not of this one
    plan.workers = workers = 1 if cluster else worker_count(config, plan.device)
    refuse_all(config, probes="check" in _stages_up_to(last))
    with run.locked(), Engine(plan, workers, console, cluster) as engine:
        write_manifest(config, run, list(STAGES))  # until it is known, also if this is stopped
        for name, stage in STAGES.items():
            try:
                engine.run(stage(plan))
            except WorkError:
                if name == "images":  # reports all faults of images and checkpoints together
                    refuse(file_faults(config))
                raise
            if name == last:
                break
        if last == "space":  # otherwise the stage `evolve` makes the map
            engine.step("map", [space.MapNeurons(config)])
        _leave_consistent(run, last)
    return run


def _stages_up_to(last: str) -> list[str]:
    return list(STAGES)[: list(STAGES).index(last) + 1]


def _leave_consistent(run: Run, last: str) -> None:
    """Record which stages are outdated after all up to `last` have been run; say whether these are,
    too, and which studies can no longer be used."""
    run.write_manifest({**run.manifest(), "outdated": (outdated := status(run).outdated)})
    if set(outdated).intersection(_stages_up_to(last)):
        logger.warning(
            "Checkpoints or images have changed since the command began, so that its results may "
            "not belong together (stages %s): run it again",
            ", ".join(outdated),
        )
    for message in discard_mixed(run):
        logger.warning("%s", message)


@cache_listings()
def show_estimate(config: Config, out: Path, console: Console) -> pd.DataFrame:
    """Print what is left of a run, by stage; nothing is written. See `estimate`."""
    refuse(faults(config))
    plan = Plan(config, Run(out), dry_run=True)
    plan.workers = worker_count(config, plan.device)
    with console.status("timing one batch of each kind of work"), use_resources(plan.resources):
        table = estimate(plan)
    _show(table, plan, console)
    return table


@cache_listings()
def bench(
    run: Run,
    console: Console,
    coverage: Coverage,
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
    config = bench_config(run, coverage).model_copy(update=machine)
    run = open_run(run.root, config.store)
    plan = Plan(config, run)
    plan.workers = count = worker_count(config, plan.device)
    with run.locked(), Engine(plan, count, console, cluster) as engine:
        run.write_manifest({**run.manifest(), "outdated": list(STAGES)})
        for name in takewhile(lambda name: name != "evolve", STAGES):
            engine.run(STAGES[name](plan))
        run.write_manifest({**run.manifest(), "outdated": status(run).outdated})
        study = bench_study(plan, coverage)
        with use_resources(plan.resources):
            table = estimate_study(study, plan)
        _show(table, plan, console)
        if not only_plan:
            engine.run(bench_steps(study, plan))
            _leave_consistent(run, "space")
    return run


def _show(table: pd.DataFrame, plan: Plan, console: Console) -> None:
    """Print what is left to do, and how long it will take."""
    if table.empty:
        console.print("Nothing is left to do.")
        return
    text = table.round({"hours": 3, "memory GiB": 2, "disk GiB": 3}).to_string(index=False)
    console.print(text, highlight=False, markup=False)
    count, hours = max(plan.workers, 1), table["hours"].sum()
    duration = f"{hours:.1f} hours" if hours >= 1 else f"{max(60 * hours, 1):.0f} min"
    console.print(
        f"Left to do: {table['pieces'].sum():,} pieces of work, about {duration} with "
        f"{pluralise(count, 'worker')} on {plan.device.name} that no other program uses (without "
        f"start, audit, checks and map), up to "
        f"{table['memory GiB'].max():.2f} GiB of memory per worker beside its libraries, "
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
        outdated: stages with results from another configuration or other inputs, and the unknown
            ones, which may have such results.
        since: when the command that is working in the run's folder began; None if there is none.
        workers: number of workers that share the remaining time.
    """

    steps: pd.DataFrame
    unknown: tuple[str, ...]
    outdated: tuple[str, ...]
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
            reason = f", as these steps have not been timed: {', '.join(untimed)}"
            return f"{state} The time left cannot be estimated yet{reason if untimed else ''}."
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
    rows, unknown, outdated = [], list[str](), dict[str, None]()
    for name, stage in STAGES.items():
        try:
            for title, works in stage(plan):
                if works:  # probing has none once all ranges are joined
                    rest = plan.remaining(works)
                    if any(run.sidecar(artifact) for work in rest for artifact in work.makes):
                        outdated[name] = None
                    counts = _count_states(plan, works, since)
                    rows.append({"stage": name, "step": title, **counts})
        except (ArtifactError, KeyError):  # a table or an input is yet to be made
            unknown.append(name)
            outdated[name] = None
    steps = pd.DataFrame(rows, columns=["stage", "step", *STATES, "seconds_left"])
    start = None if since is None else datetime.fromtimestamp(since)
    workers = int(steps["running"].sum()) or cores()
    return Status(steps, tuple(unknown), tuple(outdated), start, workers)


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
