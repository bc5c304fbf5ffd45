"""One memory budget for all work that runs a network: how many images one pass can take.

What one image takes is measured on one batch; the budget is what the machine (or its container, or
its GPU) has left, shared by the workers. Where memory runs out all the same, the batch is halved.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from harness.images.batches import reading
from harness.networks.devices import CPU, Device

T = TypeVar("T")

#: Fewest images a pass: for one to three, other kernels are taken, with other last bits.
FEWEST = 4
#: Of the free memory, the share that is planned with; the rest is for what is not measured
#: (libraries' scratch space, tables).
SHARE = 0.7
#: Work that takes longer is not run once more for its time.
WARM_SECONDS = 1.0
#: A worker's own size before it loads a network: interpreter and libraries.
WORKER_BYTES = 450 * 2**20
#: cgroup files: limit and usage, of version 2 and 1.
_CGROUPS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
    (
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resources:
    """What a piece of work may use. Results do not depend on it, except for the last bits of other
    devices.

    Attributes:
        device: where networks compute, and how precisely.
        memory: bytes of it that networks and what is computed with them may take.
        readers: processes that read and decode images for it; 0 is a thread.
    """

    device: Device = CPU
    memory: int = 2**31
    readers: int = 0


#: Where nobody has granted any.
_LEAST = Resources()
_resources: ContextVar[Resources] = ContextVar("resources", default=_LEAST)


def resources() -> Resources:
    """Return the resources of the piece of work in progress."""
    return _resources.get()


@contextmanager
def using(granted: Resources) -> Iterator[None]:
    """Run a block with these resources."""
    token = _resources.set(granted)
    try:
        with reading(granted.readers):
            yield
    finally:
        _resources.reset(token)


def cores() -> int:
    """Return the number of cores that this process may use; a container may have fewer than its
    machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes(device: Device = CPU, root: Path = Path("/")) -> int:
    """Return the free memory of a GPU, or of this machine within the limit of its container.

    Args:
        device: where networks compute.
        root: of the file system in which the limits of containers stand.
    """
    if device.place.type == "cuda":
        return torch.cuda.mem_get_info(device.place)[0]
    free = psutil.virtual_memory().available
    for limit, usage in _CGROUPS:
        try:
            free = min(free, int((root / limit).read_text()) - int((root / usage).read_text()))
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
    return max(free, 0)


def worker_bytes(memory: float | None, workers: int, device: Device = CPU) -> int:
    """Return the bytes that one worker may use beside what it takes itself.

    Args:
        memory: GiB for all workers together; None works it out from what is free.
        workers: how many share it (0 and 1 are the same).
        device: a GPU's memory is shared by the workers likewise.
    """
    whole = SHARE * free_bytes(device) if memory is None else memory * 2**30
    each = whole / max(workers, 1)
    return int(each if device.name != "cpu" else max(each - WORKER_BYTES, 0))


def room(*models: nn.Module) -> int:
    """Return the bytes that passes may use beside the weights of the networks that are loaded."""
    values = (v for model in models for v in (*model.parameters(), *model.buffers()))
    return max(resources().memory - sum({v.data_ptr(): v.nbytes for v in values}.values()), 0)


@dataclass(frozen=True)
class Cost:
    """What one image costs in a pass: time, and memory at the moment at which most is allocated."""

    bytes: float
    seconds: float


def measure(work: Callable[[], object], images: int, device: Device = CPU) -> Cost:
    """Run a piece of work on a few images: for its time, the first run aside, and for its memory.

    Args:
        work: runs on `images` images; what it computes is thrown away.
        images: how many.
        device: where it computes. On the CPU torch's allocations are followed one by one, so that
            the same work always measures the same; elsewhere its allocator's peak is asked for.
    """
    on_gpu = device.place.type == "cuda"

    def seconds() -> float:
        start = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize(device.place)
        return (time.perf_counter() - start) / images

    each = seconds()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device.place)
        before = torch.cuda.memory_allocated(device.place)
        each = seconds()
        return Cost((torch.cuda.max_memory_allocated(device.place) - before) / images, each)
    if each * images < WARM_SECONDS:  # a longer one is not much longer for being the first
        each = seconds()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler prints when it starts
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    return Cost(_peak(record) / images, each)


def _peak(record: profile) -> int:
    """The most that was allocated at any moment beyond what was there at the start, in bytes."""
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()  # type: ignore[attr-defined]  # missing in torch's stubs
        most = max(most, held)
    return most


def fitting(cost: Cost, memory: int, most: int, what: str, fewest: int = FEWEST) -> int:
    """Return the number of images per pass that fits into the memory.

    Args:
        cost: of one image.
        memory: bytes.
        most: the largest batch wanted.
        what: what runs, for the message, e.g. "importance of series 'vgg'".
        fewest: images without which there is no point.

    Raises:
        ValueError: not even `fewest` images fit.
    """
    memory = max(memory, 0)
    fit = int(memory / max(cost.bytes, 1.0))
    if fit < min(fewest, most):
        raise ValueError(
            f"{what}: {min(fewest, most)} images need "
            f"{min(fewest, most) * cost.bytes / 2**30:.2f} GiB a worker, and there are "
            f"{memory / 2**30:.2f} beside its libraries and weights; raise `memory`, take fewer "
            f"workers, fewer layers or smaller images"
        )
    return min(fit, most)


def halving(work: Callable[[int], T], batch_size: int, what: str) -> T:
    """Do some work; if memory runs out, log it and repeat the work with half as many images per
    pass.

    Args:
        work: called with the images a pass; it must begin from nothing each time.
        batch_size: to start with.
        what: what runs, for the messages.

    Raises:
        MemoryError: not even one image a pass fits.
    """
    while True:
        try:
            return work(batch_size)
        except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise MemoryError(f"{what}: one image a pass does not fit the memory") from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch_size = (batch_size + 1) // 2
        _log.warning("%s: out of memory; going on with %d images a pass", what, batch_size)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out; torch's CPU allocator raises a plain
    RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
