"""How long a semantic space takes and how much memory, before there are stimuli."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import sparse

from harness.concepts.space_methods import SPACES, Evidence
from harness.config import Config

#: Neurons of the spaces that are timed; others take longer in the proportion that two sizes show.
SPACE_NEURONS = 1000


def space_cost(method: str, config: Config, neurons: int, images: int) -> tuple[float, float]:
    """Seconds and bytes that a space takes: one of random stimuli is placed at two sizes, and grows
    as from one to the other."""
    k = min(config.probe.k, images)
    base = max(neurons // sum(len(source.epochs()) for source in config.series), 2)
    largest = min(SPACE_NEURONS, neurons)

    def place(count: int) -> Callable[[], object]:
        evidence = _evidence(config, count, max(2, round(count * base / neurons)), images, k)
        rng = np.random.default_rng
        return lambda: SPACES.get(method)(evidence, config.space, rng(0), method)

    place(max(largest // 4, 8))()  # compiles
    half, whole = (seconds_of(place(count)) for count in (max(largest // 2, 8), largest))
    tracemalloc.start()
    try:
        place(largest)()
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    power = float(np.clip(math.log2(max(whole / half, 1e-9)), 1, 2))
    growth = neurons / largest
    dense = 2 * config.space.dense * 2**30
    return whole * growth**power, min(memory * growth, max(memory, dense))


def _evidence(config: Config, neurons: int, base: int, images: int, k: int) -> Evidence:
    rng = np.random.default_rng(0)

    def marks(rows: int, each: int) -> sparse.csr_array:
        columns = rng.integers(0, images, rows * each)
        shape = (rows, images)
        made = sparse.coo_array((np.ones(rows * each), (np.repeat(np.arange(rows), each), columns)))
        full = sparse.csr_array((made.data, made.coords), shape=shape)
        full.data[:] = 1.0
        return full

    spanning = config.base_checkpoint()
    table = pd.DataFrame({"series": spanning.series, "layer": "layer", "channel": range(neurons)})
    table["epoch"] = np.where(np.arange(neurons) < base, spanning.epoch, spanning.epoch + 1)
    each = max(1, round(config.probe.responsive * images / max(base, 1)))
    return Evidence(
        spanning,
        table[["series", "epoch", "layer", "channel"]],
        marks(neurons, k),
        marks(base, min(each, images)),
        lambda rows: rng.standard_normal((len(rows), images)).astype(np.float32),
    )


def seconds_of(work: Callable[[], object]) -> float:
    """Of its second run: the first compiles and loads."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
