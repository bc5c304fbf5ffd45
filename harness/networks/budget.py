"""One memory budget for all work that runs a network: how many images one pass can take.

The memory per image is measured on one batch. The budget is the free memory of the machine (or its
container, or its GPU), shared by the workers. If memory runs out nevertheless, the batch is halved.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import nn
from torch.autograd.profiler import profile

from harness.images.batches import use_readers
from harness.networks.devices import CPU, Device
from harness.registry import UserCodeError
from harness.text import format_bytes

T = TypeVar("T")

#: Smallest number of images per pass: batches of one to three (on some processors, four) use
#: other kernels, whose results differ in the last bits.
FEWEST = 4
#: Share of the free memory that is planned for passes; the rest is for what is not measured
#: (workspace of libraries, tables).
SHARE = 0.7
#: The same share of a memory that the user gives, which no other program uses.
GIVEN_SHARE = 0.85
#: Bytes of a worker before it loads a network: interpreter and libraries.
WORKER_BYTES = 450 * 2**20
#: Seconds for which brief work is repeated to time it.
TIMING = 0.2
#: cgroup files: limit and usage, of version 2 and 1.
_CGROUPS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resources:
    """Resources of a piece of work, on which at most the last bits of results depend (the device).

    Attributes:
        device: where networks compute, and in which precision.
        memory: bytes on the device for networks and their computations.
        readers: number of processes that read and decode images; 0 means one thread.
    """

    device: Device = CPU
    memory: int = 2**31
    readers: int = 0


#: Used outside of `use_resources`.
_LEAST = Resources()
_resources: ContextVar[Resources] = ContextVar("resources", default=_LEAST)


def resources() -> Resources:
    """Return the resources of the piece of work in progress."""
    return _resources.get()


@contextmanager
def use_resources(grant: Resources) -> Iterator[None]:
    token = _resources.set(grant)
    try:
        with use_readers(grant.readers):
            yield
    finally:
        _resources.reset(token)


def cores() -> int:
    """Return the number of usable cores; a container may have fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes(device: Device = CPU, root: Path = Path("/")) -> int:
    """Return the free memory of a GPU, or of this machine within the limit of its container, which
    files below `root` state."""
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
    """Return the bytes that one worker may use in addition to its interpreter and libraries.

    Args:
        memory: GiB for all workers, of which GIVEN_SHARE is used; None: SHARE of what is free.
        workers: number of workers (0 and 1 mean the same).
        device: where networks compute; the workers share a GPU's memory in the same way.
    """
    total = SHARE * free_bytes(device) if memory is None else GIVEN_SHARE * memory * 2**30
    share = total / max(workers, 1)
    return int(share if device.name != "cpu" else max(share - WORKER_BYTES, 0))


def pass_memory(*models: nn.Module) -> int:
    """Return the bytes that passes may use beside the weights of the networks that are loaded."""
    tensors = (t for model in models for t in (*model.parameters(), *model.buffers()))
    return max(resources().memory - sum({t.data_ptr(): t.nbytes for t in tensors}.values()), 0)


@dataclass(frozen=True)
class Cost:
    """The time and the peak memory that a pass needs per image, in seconds and bytes."""

    bytes: float
    seconds: float


def measure_cost(work: Callable[[], object], images: int, device: Device = CPU) -> Cost:
    """Measure the memory (see `measure_bytes`) and then the time of a piece of work, so that the
    overhead of a first run is not in the time."""
    bytes_per_image = measure_bytes(work, images, device)
    return Cost(bytes_per_image, measure_seconds(work, device) / images)


def measure_seconds(work: Callable[[], object], device: Device = CPU) -> float:
    """Return the mean time of a call, of as many as begin within TIMING seconds.

    On a CPU it is the processor's time: other programs that use the cores at this moment would
    make the work several times as long.
    """
    clock = time.process_time if device.name == "cpu" else time.perf_counter
    _wait(device)
    start, end, calls = clock(), time.perf_counter() + TIMING, 0
    while not calls or time.perf_counter() < end:
        work()
        _wait(device)
        calls += 1
    return max(clock() - start, 1e-9) / calls  # a coarse clock may not have moved


def _wait(device: Device) -> None:
    """Wait until a GPU has done what was begun on it."""
    if device.place.type == "cuda":
        torch.cuda.synchronize(device.place)


def measure_bytes(work: Callable[[], object], images: int, device: Device = CPU) -> float:
    """Measure the peak memory that a piece of work needs per image.

    Args:
        work: runs on `images` images; its result is discarded.
        device: where it computes. On a CPU, torch's single allocations are added up, so that
            repeated measurements agree; on a GPU, the allocator reports its peak.
    """
    if device.place.type != "cuda":
        _, events = profile_events(work)
        return _peak_bytes(events) / images
    work()  # the first run also allocates what libraries keep
    torch.cuda.reset_peak_memory_stats(device.place)
    base = torch.cuda.memory_allocated(device.place)
    work()
    return (torch.cuda.max_memory_allocated(device.place) - base) / images


def profile_events(work: Callable[[], T]) -> tuple[T, list[Any]]:
    """Run work; return its result, and what torch's profiler records of it on the CPU."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler prints at its start
    # torch.profiler.profile would import torch's compiler, which takes seconds
    with profile(use_kineto=True, profile_memory=True) as record:
        result = work()
    assert record.kineto_results is not None
    return result, record.kineto_results.events()


def _peak_bytes(events: Iterable[Any]) -> int:
    """Return the largest number of bytes allocated at any moment beyond those at the start."""
    current = peak = 0
    memory = (event for event in events if event.name() == "[memory]")
    for event in sorted(memory, key=lambda event: event.start_ns()):
        current += event.nbytes()  # type: ignore[attr-defined]  # missing in torch's stubs
        peak = max(peak, current)
    return peak


@dataclass(frozen=True)
class BatchWork:
    """Work that is done batch by batch, and one batch on which its cost is measured.

    Attributes:
        label: the work, for messages, e.g. "importance of series 'vgg'".
        do: does the work on the batch to measure; the result is discarded.
        images: number of images in that batch.
        largest: largest number of images per pass that is wanted.
        smallest: smallest number of images per pass that is useful.
    """

    label: str
    do: Callable[[], object]
    images: int
    largest: int
    smallest: int = FEWEST

    def batch_size(self, bytes_per_image: float, memory: int) -> int:
        """Return the number of images per pass with which the work fits into `memory` bytes.

        Raises:
            ValueError: fewer than `smallest` (or `largest`, if smaller) images fit.
        """
        memory, smallest = max(memory, 0), min(self.smallest, self.largest)
        count = int(memory / max(bytes_per_image, 1.0))
        if count < smallest:
            raise ValueError(
                f"{self.label}: {smallest} images need {format_bytes(smallest * bytes_per_image)} "
                f"per worker, but only {format_bytes(memory)} are free beside its libraries and "
                f"weights; increase `memory`, or use fewer workers, fewer layers or smaller images"
            )
        return min(count, self.largest)


def run_halving(work: Callable[[int], T], batch_size: int, label: str) -> T:
    """Do some work; if memory runs out, log it and repeat with half as many images per pass.

    Args:
        work: function of the number of images per pass; it must start anew at each call.
        batch_size: number of images per pass at first.
        label: the work, for the messages.

    Raises:
        MemoryError: not even one image per pass fits.
    """
    while True:
        try:
            return work(batch_size)
        except (MemoryError, RuntimeError, UserCodeError) as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise MemoryError(
                    f"{label}: not even one image per pass fits the memory"
                ) from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch_size = (batch_size + 1) // 2
        _log.warning("%s: out of memory; continuing with %d images per pass", label, batch_size)


#: Messages of torch's allocators of the main memory (on Unix, on Windows) and of Apple's GPUs, and
#: of cuDNN and cuBLAS, which raise a plain RuntimeError if memory ran out.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "MPS backend out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, perhaps in the user's code."""
    if isinstance(error, UserCodeError) and error.__cause__ is not None:
        return is_out_of_memory(error.__cause__)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
    )
