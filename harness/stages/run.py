"""The stages of a run in order, and the functions with which commands run them."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import pandas as pd
from rich.console import Console

from harness.artifacts import Run
from harness.config import Config, parse_config, refuse
from harness.files import ArtifactError, cache_listings
from harness.networks.budget import cores, use_resources
from harness.networks.devices import Device, devices
from harness.results import discard_mixed
from harness.stages import ablate, audit, check, evolve, images, probe, space, train
from harness.stages.benchmark import Coverage, bench_config, bench_steps, bench_study
from harness.stages.engine import Engine, WorkError
from harness.stages.estimate import estimate, estimate_study
from harness.stages.faults import faults, file_faults
from harness.stages.stage import Plan, Stage
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


def refuse_all(config: Config, known_faults: Sequence[str] = ()) -> None:
    """Raise ConfigError with all faults of a configuration, if there are any, before work begins;
    those of its file may be known already."""
    if texts := [*known_faults, *faults(config)]:
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
    refuse_all(config)
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
            engine.step("map", [space.map_work(plan)])
        _leave_consistent(run, last)
    return run


def _leave_consistent(run: Run, last: str) -> None:
    """Record which stages are outdated after all up to `last` have been run; say whether these are,
    too, and which studies can no longer be used."""
    run.write_manifest({**run.manifest(), "outdated": (outdated := _outdated(run))})
    if set(outdated).intersection(list(STAGES)[: list(STAGES).index(last) + 1]):
        logger.warning(
            "Checkpoints or images have changed since the command began, so that its results may "
            "not belong together (stages %s): run it again",
            ", ".join(outdated),
        )
    for message in discard_mixed(run):
        logger.warning("%s", message)


def _outdated(run: Run) -> list[str]:
    """Return the stages with results from another configuration or other inputs, or which may have
    such results, because what they would read is yet to be made."""
    config = parse_config(run.manifest()["configuration"], f"the run {run.root}")
    plan, names = Plan(config, run, dry_run=True), []
    for name, stage in STAGES.items():
        try:
            rest = [work for _, works in stage(plan) for work in plan.remaining(works)]
        except (ArtifactError, KeyError):  # a table or an input is yet to be made
            names.append(name)
            continue
        if any(run.sidecar(artifact) for work in rest for artifact in work.makes):
            names.append(name)
    return names


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
        run.write_manifest({**run.manifest(), "outdated": _outdated(run)})
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
