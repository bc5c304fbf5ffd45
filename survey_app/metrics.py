"""Figures of this process for a monitoring system, in Prometheus' text format."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Counters and one latency histogram; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: Counter[str] = Counter()
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def action(self, outcome: str, seconds: float) -> None:
        """One action came to an end: done, repeat, refused or failed."""
        with self._lock:
            self._actions[outcome] += 1
            self._buckets[bisect_left(BOUNDS, seconds)] += 1
            self._seconds += seconds

    def text(self) -> str:
        with self._lock:
            lines = ["# TYPE conceptevo_actions_total counter"]
            lines += [
                f'conceptevo_actions_total{{outcome="{outcome}"}} {count}'
                for outcome, count in sorted(self._actions.items())
            ]
            lines.append("# TYPE conceptevo_action_seconds histogram")
            total = 0
            for bound, count in zip((*BOUNDS, "+Inf"), self._buckets, strict=True):
                total += count
                lines.append(f'conceptevo_action_seconds_bucket{{le="{bound}"}} {total}')
            lines += [
                f"conceptevo_action_seconds_sum {self._seconds:.6f}",
                f"conceptevo_action_seconds_count {total}",
            ]
        return "\n".join(lines) + "\n"
