"""The main result under other rules of exclusion, one rule at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.exhibits.tables import spaced
from analysis.statistics.claims import judge
from analysis.study.association import OF_PEOPLE, join
from analysis.study.family import complete
from analysis.study.identical import SHARE
from analysis.study.planned_tests import STUDY_TESTS
from analysis.study.results import Results


def main_result(results: Results) -> pd.DataFrame:
    """The tests of the main question, as if no other test handed anything on to them.

    Where none was frozen: those of the first task with a key against chance.
    """
    plan, choice = results.plan, results.choice_tasks
    primary = plan.primary or (f"{choice[0]}.chance" if choice else "")
    kind = primary.rpartition(".")[2]
    table = STUDY_TESTS.get(kind)(results) if kind in STUDY_TESTS else pd.DataFrame()
    table = complete(results, {kind: table}).get(kind, pd.DataFrame())
    if table.empty:
        return table
    columns = ["question", "what", "value", "low", "high", "null", "p"]
    mine = table.loc[table["question"] == primary, columns]
    other = pd.DataFrame({"question": ["others"], "what": "", "p": 1.0})
    return judge(pd.concat([mine, other], ignore_index=True), primary, plan.primary_share).iloc[:-1]


def grid(results: Results) -> pd.DataFrame:
    """The main result over a grid of exclusion thresholds.

    Returns:
        rule, threshold (the frozen one is marked), participants, claimed ("2 of 3"; not where no
        main question was frozen), and a column of values a test of the main question.
    """
    frozen = dict(results.responses.study.exclusions)
    as_frozen = _outcome(results)
    return pd.DataFrame(
        {"rule": rule, "threshold": setting}
        | (as_frozen if rules == frozen else _outcome(_under(results, rules)))
        for rule, setting, rules in _rules(frozen, bool(len(results.responses.identical)))
    )


def _under(results: Results, rules: dict[str, Any]) -> Results:
    """The same study under other rules."""
    responses, joined = results.reload(rules), results.meeting
    if joined is not None and len(responses.answers):
        joined = join(responses, joined.drop(columns=OF_PEOPLE))
    return Results(responses, results.settings, results.reload, joined)


def _outcome(results: Results) -> dict[str, Any]:
    """What a row of the grid says besides its rule."""
    people = int((results.responses.everyone["excluded"] == "").sum())
    row: dict[str, Any] = {"participants": people}
    if not people or not len(found := main_result(results)):
        return row
    if results.plan.primary:
        row["claimed"] = f"{int(found['claimed'].sum())} of {len(found)}"
    return row | dict(zip(found["what"], found["value"], strict=True))


def _rules(frozen: dict[str, Any], identical: bool) -> list[tuple[str, str, dict[str, Any]]]:
    """Rules to try: as frozen, none, and each rule looser, stricter and off.

    Args:
        identical: whether to exclude one of each identical pair though no frozen rule does.
    """
    grid: list[tuple[str, str, dict[str, Any]]] = [
        ("all rules", "as frozen", frozen),
        ("no rule", "none", {}),
    ]
    tried: dict[str, list[Any]] = {
        "attention_below": [0.5, 0.67, 0.8, 1.0],
        "total_seconds_outside": [(60, 10_800), (135, 7200), (135, 2500), (300, 2500)],
        "instruction_seconds_below": [5, 15, 30],
        "practice_attempts_above": [1, 2, 3],
        "one_sided_above": [0.5, 0.8, 0.95],
        "identical_above": [SHARE],
    }
    for rule, thresholds in tried.items():
        if rule in frozen:
            without = {k: v for k, v in frozen.items() if k != rule}
            grid.append((spaced(rule), "off", without))
        elif not (identical and rule == "identical_above"):
            continue
        for value in thresholds:
            shown = " to ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
            same = np.array_equal(np.asarray(value, float), np.asarray(frozen.get(rule), float))
            label = f"{shown} (frozen)" if same else shown
            grid.append((spaced(rule), label, {**frozen, rule: value}))
    return grid
