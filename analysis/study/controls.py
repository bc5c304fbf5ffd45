"""Outcomes of control tests, and the controls whose failure casts doubt on claims of their task."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import pandas as pd

from analysis.exhibits.phrases import as_words, p_text, percent, share_ci_text, with_sign
from analysis.statistics.claims import ALPHA, is_control, name_kind
from analysis.study.results import Results

#: Conditions without a correct response: accuracy above chance shows that the key leaked.
NEGATIVE_CONTROLS = ("random",)


def control_outcome(kind: str, row: Any, lowest: Mapping[str, float]) -> str:
    """Return the outcome of a control test: passed, failed, inconclusive, not tested, or "" if it
    has no criterion.

    Args:
        kind: kind of question, e.g. "chance".
        row: the test in `Results.claims` or `Results.tests_of`.
        lowest: lowest accuracy claimed in each task, see `lowest_claimed_accuracy`. The test of
            random neurons is inconclusive if its interval reaches this accuracy.
    """
    if pd.isna(row.p):
        return "not tested"
    if kind not in ("chance", "detection"):
        return ""
    is_above = row.value > row.null and row.p_alone < ALPHA
    if is_above == (negative := row.what in NEGATIVE_CONTROLS):
        return "failed"
    return "inconclusive" if negative and row.high >= lowest.get(row.task, inf) else "passed"


def lowest_claimed_accuracy(tests: pd.DataFrame) -> dict[str, float]:
    """Return the lowest accuracy that is claimed to be above chance, by task."""
    chance = tests["question"].str.endswith(".chance") & tests["claimed"]
    above = tests[chance & (tests["value"] > tests["null"])]
    return above.groupby("task")["value"].min().to_dict()


def count_outcomes(tests: pd.DataFrame) -> dict[str, int]:
    lowest = lowest_claimed_accuracy(tests)
    rows: Iterator[Any] = tests[is_control(tests)].itertuples()
    return Counter(control_outcome(row.Index[0], row, lowest) for row in rows)


@dataclass(frozen=True)
class FailedControl:
    """A control that does not show that its task works.

    Attributes:
        task: its name for readers.
        warning: a sentence that precedes all claims.
        note: a note beside every claim of the task.
    """

    task: str
    warning: str
    note: str = "a control condition of this task failed"


def failed_controls(results: Results) -> list[FailedControl]:
    """Return controls that failed, and untested ones of tasks in which an effect is claimed.

    If untested controls were left out, omitting the responses to a control would hide its failure.
    """
    return [*_failed_tests(results), *_untested_controls(results)]


def _untested_controls(results: Results) -> Iterator[FailedControl]:
    """Yield planned controls without a test, in tasks in which something is claimed."""
    tests, control = results.tests, is_control(results.tests)
    claimed_tasks = set(tests.loc[tests["claimed"] & ~control, "task"])
    missing = tests[control & tests["p"].isna() & tests["task"].isin(claimed_tasks)]
    expected = np.array([_lacks_labels(results, row) for row in missing.itertuples()], bool)
    missing = missing[~expected]
    for task, rows in missing.groupby("task", sort=False):
        texts = "; ".join(
            f"{name_kind(row.Index[0])}, {as_words(row.what)} ({as_words(str(row.reason))})"
            for row in rows.itertuples()
        )
        yield FailedControl(
            str(task),
            f"Caution: controls of {task} could not be tested: {texts}. The claims about this task "
            "assume that it works, which these controls would show.",
            "a control condition of this task could not be tested",
        )


def _lacks_labels(results: Results, row: Any) -> bool:
    """Return whether participants gave no labels to pictures that have nothing in common."""
    answers = results.responses.answers
    rows = (answers["task"].map(results.name) == row.task) & (answers["condition"] == row.what)
    return row.Index[0] == "labels" and row.what in NEGATIVE_CONTROLS and bool(rows.any())


def _failed_tests(results: Results) -> Iterator[FailedControl]:
    """Yield tasks in which stages of two neurons were not distinguished from unchanged stages,
    random trials were solved or may have been, or obvious ones were not."""
    lowest = lowest_claimed_accuracy(results.claims)
    controls = results.tests[is_control(results.tests)]
    kinds = controls.index.get_level_values(0)
    for kind in ("detection", "chance"):
        for row in controls[kinds == kind].itertuples():
            condition = "false_evolution" if kind == "detection" else row.what
            subject = f"Caution: the control condition {as_words(condition)} of {row.task}"
            accuracy = f"accuracy was {percent(row.value)} (chance {percent(row.null)})"
            if (outcome := control_outcome(kind, row, lowest)) == "inconclusive":
                yield FailedControl(
                    row.task,
                    f"{subject} is inconclusive: {accuracy}, "
                    f"{share_ci_text(row, f'unadjusted {results.level}')}. It may be as high as "
                    f"the lowest accuracy claimed in this task ({percent(lowest[row.task])}): the "
                    "key may be visible in the pictures or known to participants.",
                    "a control condition of this task is inconclusive",
                )
            if outcome != "failed":
                continue
            if kind == "detection":
                reason = (
                    "It combines stages of two neurons, but participants did not judge it changed "
                    "significantly more often than unchanged stages (d′ = "
                    f"{with_sign(row.value, '.2f')}, unadjusted {p_text(row.p_alone)}). They may "
                    "not have understood the task"
                )
            elif condition in NEGATIVE_CONTROLS:
                reason = (
                    f"It has no correct response to be found, but {accuracy}. The key may be "
                    "visible in the pictures or known to participants"
                )
            else:
                reason = (
                    f"Its concepts were chosen to be obvious, but {accuracy}, not significantly "
                    "above chance. Participants may not have understood the task"
                )
            warning = f"{subject} failed. {reason}; no claim about this task can be trusted."
            yield FailedControl(row.task, warning)
