"""The main result under other exclusion rules, one rule at a time."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.exhibits.phrases import as_words
from analysis.statistics.claims import judge
from analysis.study.analysed_study import AnalysedStudy
from analysis.study.association import OF_PEOPLE, join_measures
from analysis.study.family import add_missing
from analysis.study.identical import SHARE
from analysis.study.planned_tests import STUDY_TESTS

#: Name of the specification without any exclusion.
NO_RULE = "no rule"
#: Ends the threshold of a specification that repeats the frozen rules among those of one rule.
FROZEN = "(frozen)"


def primary_tests(results: AnalysedStudy) -> pd.DataFrame:
    """Return the tests of the primary hypothesis, without α passed on from other tests.

    If none was frozen: the tests against chance of the first task with a key.
    """
    plan, choice_tasks = results.plan, results.choice_tasks
    primary = plan.primary or (f"{choice_tasks[0]}.chance" if choice_tasks else "")
    kind = primary.rpartition(".")[2]
    table = STUDY_TESTS.get(kind)(results) if kind in STUDY_TESTS else pd.DataFrame()
    table = add_missing(results, kind, table)
    if table.empty:
        return table
    columns = ["question", "what", "value", "low", "high", "null", "p"]
    own = table.loc[table["question"] == primary, columns]
    other = pd.DataFrame({"question": ["others"], "what": "", "p": 1.0})
    return judge(pd.concat([own, other], ignore_index=True), primary, plan.primary_share).iloc[:-1]


def specifications(results: AnalysedStudy) -> pd.DataFrame:
    """Compute every test of the primary hypothesis under every exclusion rule that is tried.

    Returns:
        specification (its number; 0 is as frozen), rule, threshold (the frozen one is marked),
        participants, and of each test what, value, low, high, null, claimed; one row without a
        test where nobody is left or nothing can be tested.
    """
    frozen = dict(results.responses.study.exclusions)
    as_frozen = _test_with_count(results)
    frames: list[pd.DataFrame] = []
    for rule, threshold, rules in _rule_sets(frozen, len(results.responses.identical) > 0):
        tests = as_frozen if rules == frozen else _test_with_count(_apply_rules(results, rules))
        labels = {"specification": len(frames), "rule": rule, "threshold": threshold}
        frames.append(tests.assign(**labels))
    columns = ["specification", "rule", "threshold", "participants", "what", "value", "low", "high",
               "null", "claimed"]  # fmt: skip
    return pd.concat(frames, ignore_index=True).reindex(columns=columns)


def threshold_grid(results: AnalysedStudy, long: pd.DataFrame) -> pd.DataFrame:
    """Return the main result over a grid of exclusion thresholds.

    Args:
        long: of `specifications`.

    Returns:
        rule, threshold (the frozen one is marked), participants, claimed ("2 of 3"; absent without
        a primary hypothesis), and one column of values per test of the primary hypothesis.
    """
    rows = []
    for _, tests in long.groupby("specification"):
        row = tests.iloc[0][["rule", "threshold", "participants"]].to_dict()
        tests = tests.dropna(subset=["what"])
        if len(tests) and results.plan.primary:
            row["claimed"] = f"{int(tests['claimed'].sum())} of {len(tests)}"
        rows.append(row | dict(zip(tests["what"], tests["value"], strict=True)))
    return pd.DataFrame(rows)


def _apply_rules(results: AnalysedStudy, rules: dict[str, Any]) -> AnalysedStudy:
    responses = replace(results.responses, rules=rules)
    joined_trials = results.joined_trials
    if joined_trials is not None and len(responses.answers):
        joined_trials = join_measures(responses, joined_trials.drop(columns=OF_PEOPLE))
    return replace(results, responses=responses, joined_trials=joined_trials)


def _test_with_count(results: AnalysedStudy) -> pd.DataFrame:
    people = int((results.responses.everyone["excluded"] == "").sum())
    only_count = pd.DataFrame({"participants": [people]})
    if not people or not len(tests := primary_tests(results)):
        return only_count
    return tests.assign(participants=people)


def _rule_sets(frozen: dict[str, Any], identical: bool) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the rules to try, no set twice (but for thresholds marked FROZEN): as frozen, none,
    and each rule looser, stricter and off; also one of each `identical` pair excluded if there are
    any, though no frozen rule does."""
    rule_sets: list[tuple[str, str, dict[str, Any]]] = [("all rules", "as frozen", frozen)]
    if frozen:
        rule_sets.append((NO_RULE, "none", {}))
    other_thresholds: dict[str, list[Any]] = {
        "attention_below": [0.5, 0.67, 0.8, 1.0],
        "total_seconds_outside": [(60, 10_800), (135, 7200), (135, 2500), (300, 2500)],
        "instruction_seconds_below": [5, 15, 30],
        "practice_attempts_above": [1, 2, 3],
        "one_sided_above": [0.5, 0.8, 0.95],
        "identical_above": [SHARE],
    }
    for rule, thresholds in other_thresholds.items():
        if rule in frozen:
            if without := {k: v for k, v in frozen.items() if k != rule}:
                rule_sets.append((as_words(rule), "off", without))
        elif not (identical and rule == "identical_above"):
            continue
        for value in thresholds:
            text = " to ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
            same = np.array_equal(np.asarray(value, float), np.asarray(frozen.get(rule), float))
            label = f"{text} {FROZEN}" if same else text
            rule_sets.append((as_words(rule), label, {**frozen, rule: value}))
    return rule_sets
