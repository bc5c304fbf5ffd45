"""Do pieces of work that make artifacts, in processes or on a cluster; finished work is skipped.

Each worker computes with one thread, so that results do not depend on the number of cores.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from multiprocessing.queues import SimpleQueue
from types import ModuleType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from harness.artifacts import Run
from harness.networks.budget import Resources, cores, is_out_of_memory, use_resources, worker_bytes
from harness.networks.devices import Precision, choose_device, devices
from harness.stages.stage import Advance, Plan, Step, Work

#: Message for a worker that was killed, on this machine or after all retries on a cluster.
_KILLED = (
    "{}: a worker was killed, probably for lack of memory; use a smaller batch_size or fewer "
    "workers, and run the same command again: finished work is kept"
)


@dataclass(frozen=True)
class Shard:
    """A piece of work for another process or machine, with the fingerprints of what it makes."""

    work: Work
    fingerprints: tuple[str, ...]


class Engine:
    """The executor of pieces of work. Its processes end with its `with` block, also after an error.

    Args:
        plan: declares the work, and has the run that receives the artifacts.
        workers: number of processes; 0 does the work in this process.
        cluster: address of a Ray cluster that does the work instead ("auto": the one of this
            machine); its machines must share the run's folder, or the run must be in a store.
    """

    def __init__(
        self, plan: Plan, workers: int, console: Console, cluster: str | None = None
    ) -> None:
        self._plan = plan
        self._run = plan.run
        self._cluster = cluster
        self._workers = workers
        self._console = console
        self._pool: ProcessPoolExecutor | None = None
        self._context = multiprocessing.get_context("spawn")
        self._steps: SimpleQueue[int] = self._context.SimpleQueue()

    def run(self, steps: Iterable[Step]) -> None:
        for title, works in steps:
            self.step(title, works)

    def step(self, title: str, works: Sequence[Work]) -> None:
        """Do all pieces of work that are not done yet, with a progress bar.

        Raises:
            WorkError: a piece of work failed, or its worker was killed; finished work is kept.
        """
        shards = [
            Shard(work, tuple(self._plan.fingerprint(made) for made in work.makes))
            for work in self._plan.remaining(works)
        ]
        for work in works:
            for artifact in work.removes(self._run):
                if self._run.path(artifact).exists() and self._plan.is_done(work):
                    self._run.remove(artifact)  # a command was killed, or had other ranges
        if count := len(works) - len(shards):
            self._console.print(f"{title}: {count} done before, reused", style="dim", markup=False)
        if not shards:
            return
        columns = (
            TextColumn("{task.description:<34}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        total = sum(shard.work.steps for shard in shards)
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task(title, total=total)
            advance = partial(progress.advance, bar)
            if self._cluster is not None:
                self._on_cluster(title, shards, advance)
            elif self._workers == 0:
                with use_resources(self._plan.resources):
                    for shard in shards:
                        _do(self._run, shard, advance)
            else:
                self._in_processes(title, shards, advance)
            progress.update(bar, completed=total)

    def _in_processes(self, title: str, shards: Sequence[Shard], advance: Advance) -> None:
        if self._pool is None:
            grants: SimpleQueue[Resources] = self._context.SimpleQueue()
            for resources in self._resources_of_workers():
                grants.put(resources)
            self._pool = ProcessPoolExecutor(
                self._workers,
                self._context,
                initializer=_start_worker,
                initargs=(self._run, grants, self._steps),
            )
        running: set[Future[None]] = {
            self._pool.submit(_do_in_process, shard) for shard in _sort_shards(shards)
        }
        while running:
            done, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            while not self._steps.empty():
                advance(self._steps.get())
            try:
                for future in done:
                    future.result()
            except BrokenProcessPool:
                raise WorkError(_KILLED.format(title)) from None

    def _resources_of_workers(self) -> list[Resources]:
        """Return the resources of each worker; several GPUs are assigned in turn."""
        resources, config = self._plan.resources, self._plan.config
        if config.device not in ("auto", "cuda") or resources.device.place.type != "cuda":
            return [resources] * self._workers
        names = [name for name in devices() if name.startswith("cuda")]
        per_device = -(-self._workers // len(names))
        return [
            Resources(device, worker_bytes(config.memory, per_device, device), resources.readers)
            for device in (replace(resources.device, name=name) for name in names * per_device)
        ][: self._workers]

    def _on_cluster(self, title: str, shards: Sequence[Shard], advance: Advance) -> None:
        """Run one Ray task per shard; a task whose worker is lost is repeated on another one."""
        assert self._cluster is not None
        ray = _connect(self._cluster)
        config, device = self._plan.config, self._cluster_device
        gpus, total = int(device == "cuda"), ray.cluster_resources()
        share = int(total.get("CPU", 1) / max(total.get("GPU", 0), 1))
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_do_on_cluster)
        run = copy(self._run)
        run.root = run.root.resolve()
        settings = (device, config.precision, config.memory, self._plan.readers(device, share))
        running = {task.remote(run, shard, *settings): shard for shard in _sort_shards(shards)}
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                shard = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    for unfinished in running:
                        ray.cancel(unfinished)
                    raise error.cause from None
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                    raise WorkError(_KILLED.format(title)) from None
                advance(shard.work.steps)
        self._run.pull()

    @cached_property
    def _cluster_device(self) -> str:
        """The kind of device on the cluster's machines: as configured, or GPUs if it has any."""
        assert self._cluster is not None
        name = self._plan.config.device
        gpu_count = _connect(self._cluster).cluster_resources().get("GPU", 0)
        if name == "auto":
            name = "cuda" if gpu_count else "cpu"
        elif name.startswith("cuda") and not gpu_count:
            note = "the cluster has no GPU now: the work waits for one (or set device = cpu)"
            self._console.print(note, style="yellow", markup=False)
        return name.partition(":")[0]

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        if error is not None:
            for process in multiprocessing.active_children():
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _sort_shards(shards: Sequence[Shard]) -> list[Shard]:
    """Sort shards by length, longest first, so that no long one remains at the end."""
    return sorted(shards, key=lambda shard: -shard.work.steps)


def _connect(cluster: str) -> ModuleType:
    """Connect Ray to a cluster.

    Raises:
        ValueError: it is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError:
        raise ValueError(
            "--cluster needs Ray: pip install 'conceptevo-harness[cluster]' on every machine"
        ) from None
    if not ray.is_initialized():
        # Ray would replace `print` by a function that numba cannot compile, as maps need.
        os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")
        try:
            if ":" in cluster:  # Ray itself would wait for minutes, then end the process
                host, _, port = cluster.removeprefix("ray://").rpartition(":")
                socket.create_connection((host, int(port)), timeout=5).close()
            ray.init(address=cluster, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"--cluster {cluster!r}: no Ray cluster there ({error}); start one with "
                f"`ray start --head`"
            ) from error
    return ray


# set once per worker: `open_pair` keeps the last pair only for the same `Run` object
_run: Run
_worker_resources: Resources
_report: Advance


def _start_worker(run: Run, grants: SimpleQueue[Resources], steps: SimpleQueue[int]) -> None:
    global _run, _worker_resources, _report
    _run, _worker_resources, _report = run, grants.get(), steps.put
    # for libraries that are loaded after `one_thread` has set its limits
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, so that the order of summation, and thus every bit, is fixed."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def _end_with_parent() -> None:
    """End a worker whose parent was killed, so that it does not go on writing into the run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do_in_process(shard: Shard) -> None:
    with use_resources(_worker_resources):
        _do(_run, shard, _report)


def _do_on_cluster(
    run: Run,
    shard: Shard,
    device_name: str,
    precision: Precision,
    memory: float | None,
    readers: int,
) -> None:
    """Do a piece of work on a machine of a cluster, with a share of its free resources."""
    device = choose_device(device_name, precision)
    limit = worker_bytes(memory, cores() if device_name == "cpu" else 1, device)
    with (
        use_resources(Resources(device, limit, readers)),
        run.worker_copy(shard.work.makes) as local_run,
    ):
        _do(local_run, shard, lambda steps: None)


@contextmanager
def _name_work_in_errors(work: Work) -> Iterator[None]:
    """Turn a work's error into one message that names it; `--debug` shows the traceback."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            text = "out of memory; decrease the batch_size of its section, or use fewer workers"
        elif isinstance(error, ValueError):
            text = str(error)
        else:
            lines = str(error).strip().splitlines() or [""]
            text = f"{type(error).__name__}: {lines[0]} (--debug shows where)"
        raise WorkError(f"{work.makes[0]}: {text}") from error


class WorkError(ValueError):
    """A piece of work failed; the message names the artifact that it should make."""


def _do(run: Run, shard: Shard, advance: Advance) -> None:
    """Do a piece of work, and save each artifact as soon as it is made."""
    start, work, remaining = time.perf_counter(), shard.work, shard.work.steps

    def report(steps: int) -> None:
        """Advance by at most the steps that are left, because work may report more than `steps`."""
        nonlocal remaining
        advance(min(steps, remaining))
        remaining -= min(steps, remaining)

    for state in work.keeps:
        if not run.has(state, shard.fingerprints[0]):  # made from other inputs
            run.path(state).unlink(missing_ok=True)
            run.seal(state, shard.fingerprints[0])
    for artifact in work.makes:  # an old sidecar must not match a new file
        run.unseal(artifact)
    with run.working(work.makes[0]), one_thread(), _name_work_in_errors(work):
        for artifact, fingerprint, value in zip(
            work.makes, shard.fingerprints, work.do(run, report), strict=True
        ):
            seconds = time.perf_counter() - start if artifact == work.makes[0] else None
            if value is None:
                run.seal(artifact, fingerprint, seconds)
            else:
                run.save(artifact, value, fingerprint, seconds)
    report(remaining)
    for artifact in work.removes(run):
        run.remove(artifact)
