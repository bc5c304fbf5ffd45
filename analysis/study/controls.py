"""Control conditions of judged change that came out as they must not."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.statistics.claims import ALPHA, CONTROL
from analysis.study.results import Results


def failed_detection(results: Results) -> Iterator[str]:
    """A warning where stages of two different neurons were not told from one stage shown twice."""
    table = results.tested("detection")
    if table.empty:
        return
    tested = table[table["question"].str.endswith(f".{CONTROL}") & table["p_alone"].notna()]
    for row in tested.itertuples():
        if row.value > 0 and row.p_alone < ALPHA:
            continue
        value = f"{row.value:.2f}".replace("-", "−")
        yield (
            f"Caution: the control condition false evolution of {row.task} failed. It joins stages "
            "of two different neurons, yet participants did not judge it changed more often than "
            f"the same stage shown twice (d′ = {value}, unadjusted p = {row.p_alone:.3f}), "
            "so they may not have understood the task; no claim on this task can be trusted."
        )
