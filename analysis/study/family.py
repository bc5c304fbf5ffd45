"""The family of tests that a frozen study plans, independent of its responses.

It follows from the study's trials, fields, controls and reference condition alone. A condition
without responses therefore keeps its tests and their weight, so that omitting responses makes no
other claim easier (`analysis.statistics.claims`). Each kind of question lists its planned tests in
`planned_tests`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import pandas as pd

from analysis.statistics.claims import CONTROL
from analysis.statistics.contrasts import condition_pairs
from analysis.statistics.statistic import FEWEST
from analysis.study.analysed_study import AnalysedStudy
from harness.registry import Registry

#: Beginning of the reason why the frozen design rules out a test, before anybody responds.
RULED_OUT = "ruled out by the design: "


def is_ruled_out(tests: pd.DataFrame) -> pd.Series:
    """Return which tests the frozen design rules out, by their column `reason`."""
    return tests["reason"].str.startswith(RULED_OUT)


@dataclass(frozen=True)
class PlannedTest:
    """A planned test.

    Attributes:
        what: the condition, pair or measure, as in column `what` of the kind's table.
        needs: the conditions whose responses the test needs.
        asked: the field of a rating, as in column `asked`; "" for other tests.
        control: whether the test only checks whether the task works.
        any_of_them: whether responses to one of the conditions suffice.
        ruled_out: why the frozen design has too few trials for the test; "" if it has enough.
    """

    what: str
    needs: tuple[str, ...]
    asked: str = ""
    control: bool = False
    any_of_them: bool = False
    ruled_out: str = ""


@dataclass(frozen=True)
class TaskDesign:
    """A frozen task: everything on which a plan of tests may depend."""

    results: AnalysedStudy
    task: str

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        return self.results.responses.study.conditions(self.task)

    @cached_property
    def controls(self) -> frozenset[str]:
        return frozenset(self.results.controls(self.task))

    @cached_property
    def of_interest(self) -> tuple[str, ...]:
        """Return the conditions that are not controls."""
        return tuple(c for c in self.conditions if c not in self.controls)

    @cached_property
    def fields(self) -> frozenset[str]:
        """Return the names of the fields of the task's trials."""
        return frozenset(self.results.responses.study.fields(self.task))

    @cached_property
    def trials(self) -> Counter[str]:
        """Return the number of trials of each condition in the whole study."""
        return Counter(self.results.responses.study.trials_of(self.task)["condition"])

    @property
    def choice(self) -> bool:
        """Return whether each trial has a correct option."""
        return self.task in self.results.responses.study.choice_tasks

    @property
    def confidence(self) -> bool:
        return self.results.responses.study.study.confidence

    def too_few(self, conditions: Iterable[str], fewest: int = FEWEST) -> str:
        """Explain why the study has too few trials for a test; "" if it has enough."""
        is_small = min(self.trials[condition] for condition in conditions) < fewest
        return f"{RULED_OUT}fewer than {fewest} trials of a condition" if is_small else ""

    def each(self, fewest: int = FEWEST) -> Iterator[PlannedTest]:
        for condition in self.conditions:
            yield PlannedTest(
                condition, (condition,), control=condition in self.controls,
                ruled_out=self.too_few([condition], fewest),
            )  # fmt: skip

    def pairs(self, asked: str = "") -> Iterator[PlannedTest]:
        """Yield one test per pair (with the reference, if any); a control is the second."""
        reference = self.results.reference
        for a, b in condition_pairs(
            self.conditions, reference if reference in self.conditions else None
        ):
            first, second = self.conditions[a], self.conditions[b]
            if first in self.controls and second not in self.controls:
                first, second = second, first
            both_controls = {first, second} <= self.controls
            yield PlannedTest(
                f"{first} − {second}", (first, second), asked, both_controls,
                ruled_out=self.too_few([first, second]),
            )  # fmt: skip

    def pooled_tests(self) -> Iterator[PlannedTest]:
        """Yield one test over all conditions of interest, within participants and conditions."""
        study = self.results.responses.study
        trials = study.trials_of(self.task)
        trials = trials[trials["condition"].isin(self.of_interest)]
        condition = dict(zip(trials["trial"], trials["condition"], strict=True))
        forms = [Counter(map(condition.get, chain(*form))) for form in study.study.forms]
        largest = max((form[c] for form in forms for c in self.of_interest), default=0)
        why = "" if largest > 1 else f"{RULED_OUT}no participant answers two trials of a condition"
        if self.of_interest:
            yield PlannedTest("all conditions", self.of_interest, any_of_them=True, ruled_out=why)


#: Kind of question -> function(a task's design) -> the tests that it plans.
PLANNED: Registry[Callable[[TaskDesign], Iterable[PlannedTest]]] = Registry("planned tests")


def planned_tests(results: AnalysedStudy, kind: str) -> Iterator[tuple[str, PlannedTest]]:
    """Yield tasks and the tests of a kind that their frozen designs plan."""
    if kind in PLANNED:
        for task in results.planned_tasks:
            for test in PLANNED.get(kind)(TaskDesign(results, task)):
                yield task, test


def add_missing(results: AnalysedStudy, kind: str, table: pd.DataFrame) -> pd.DataFrame:
    """Add the planned tests of a kind that could not be computed, each with a reason, to its table.

    The rows that are added come last; their value, interval and p are NaN.
    """
    planned = [
        {
            "question": f"{task}.{CONTROL if test.control else kind}", "task": results.name(task),
            "what": test.what, "asked": test.asked, "reason": _missing_reason(results, task, test),
            "n": 0, "left_out": 0,
            **dict.fromkeys(["value", "low", "high", "null", "p"], float("nan")),
        }
        for task, test in planned_tests(results, kind)
    ]  # fmt: skip
    computed = {_key(row) for row in table.to_dict("records")}
    missing = pd.DataFrame([row for row in planned if _key(row) not in computed])
    if missing.empty:
        return table
    return pd.concat([table, missing], ignore_index=True) if len(table) else missing


def _key(row: dict) -> tuple[str, ...]:
    """Return what distinguishes tests of one kind."""
    return tuple(str(row.get(key, "")) for key in ("question", "what", "asked"))


def _missing_reason(results: AnalysedStudy, task: str, test: PlannedTest) -> str:
    if test.ruled_out:
        return test.ruled_out
    missing = [c for c in test.needs if (task, c) not in results.answered_conditions]
    if missing and (len(missing) == len(test.needs) or not test.any_of_them):
        return f"no analysed responses of {', '.join(missing)}"
    return f"no analysed responses with a {test.asked}" if test.asked else "the responses lack it"
