"""Metrics for a monitoring system, summed over the workers (Prometheus' multiprocess mode).

Each worker counts in its own memory-mapped file in the folder that the supervisor made
($PROMETHEUS_MULTIPROC_DIR; see serve.py), so the counts of a killed worker are kept.
"""

import os

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
ACTIONS = Counter(
    "conceptevo_actions",
    "Actions: done, repeat, refused (unfit) or failed (not stored)",
    ["outcome"],
)
SECONDS = Histogram("conceptevo_action_seconds", "From request to answer", buckets=BOUNDS)


def text() -> bytes:
    """Return all metrics in Prometheus' text format."""
    registry = REGISTRY
    if FOLDER in os.environ:
        MultiProcessCollector(registry := CollectorRegistry())
    return generate_latest(registry)
