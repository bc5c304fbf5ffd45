"""The family of tests that a frozen study plans, whoever answers it.

It follows from the study's trials, fields, controls and reference condition alone. So a condition
that nobody answered keeps its tests and their weight, and leaving answers out makes no other claim
easier (`analysis.statistics.claims`).
"""

from __future__ import annotations

import pandas as pd

from analysis.statistics.claims import CONTROL
from analysis.statistics.shares import condition_pairs
from analysis.study.analysed import Analysed

#: What tells planned tests of one kind apart; `asked` is the field of a rating.
KEYS = ("question", "what", "asked")


def planned(results: Analysed) -> pd.DataFrame:
    """A row a planned test: kind, question, task, what, asked, conditions (all that it needs)."""
    rows = [
        dict(zip(("kind", "question", "task", "what", "asked", "conditions"), row, strict=True))
        for task in results.planned_tasks
        for row in _of_task(results, task)
    ]
    return pd.DataFrame(rows)


def _of_task(results: Analysed, task: str):
    study = results.responses.study
    conditions, controls = study.conditions(task), results.controls(task)
    fields, name = study.fields(task), results.name(task)
    of_interest = tuple(c for c in conditions if c not in controls)

    def row(kind: str, what: str, needs: tuple[str, ...], asked: str = ""):
        control = needs and set(needs) <= set(controls)
        return kind, f"{task}.{CONTROL if control else kind}", name, what, asked, needs

    compared = list(_pairs(conditions, controls, results.reference))
    if task in study.choice_tasks:
        for condition in conditions:
            yield row("chance", condition, (condition,))
        for first, second in compared:
            yield row("contrasts", f"{first} − {second}", (first, second))
        if of_interest:
            yield row("learning", "all conditions", of_interest)
            if study.study.confidence:
                yield row("confidence", "all conditions", of_interest)
    if "changed" in fields and "same_stage" in conditions:
        for signal, kind in (("evolution", "detection"), ("false_evolution", CONTROL)):
            if signal in conditions:
                needs = (signal, "same_stage")
                yield "detection", f"{task}.{kind}", name, f"d′, {signal}", "", needs
    for asked in {"rating", "clarity"} & set(fields):
        for first, second in compared:
            yield row("ratings", f"{first} − {second}", (first, second), asked)
    if any(field.startswith("label") for field in fields):
        for condition in conditions:
            yield row("labels", condition, (condition,))


def _pairs(conditions: tuple[str, ...], controls: tuple[str, ...], reference: str):
    """Pairs to compare, a control always second where the other is none."""
    chosen = reference if reference in conditions else None
    for a, b in condition_pairs(conditions, chosen):
        first, second = conditions[a], conditions[b]
        turned = first in controls and second not in controls
        yield (second, first) if turned else (first, second)


def complete(results: Analysed, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables of tests by kind, with the planned tests that could not be made, each with a reason.

    The rows that are added come last; their value, interval and p are NaN.
    """
    expected = planned(results)
    whole = {}
    for kind in dict.fromkeys([*tables, *(expected["kind"] if len(expected) else [])]):
        table = tables.get(kind, pd.DataFrame())
        have = {_key(row) for row in table.to_dict("records")}
        missing = [
            row | {"reason": _reason(results, row)}
            for row in expected.loc[expected["kind"] == kind].to_dict("records")
            if _key(row) not in have
        ]
        added = pd.DataFrame(missing, columns=[*expected.columns, "reason"])
        added = added.drop(columns=["kind", "conditions"])
        numbers = dict.fromkeys(["value", "low", "high", "null", "p"], float("nan"))
        if len(added):
            added = added.assign(n=0, left_out=0, **numbers)
            table = pd.concat([table, added], ignore_index=True) if len(table) else added
        whole[kind] = table
    return {kind: table for kind, table in whole.items() if len(table)}


def _key(row: dict) -> tuple[str, ...]:
    return tuple(str(row.get(key, "")) for key in KEYS)


def _reason(results: Analysed, row: dict) -> str:
    """Why a planned test is missing from its table."""
    task = row["question"].rpartition(".")[0]
    answers = results.of(task)
    lacking = [c for c in row["conditions"] if c not in set(answers["condition"])]
    if lacking and (len(lacking) == len(row["conditions"]) or row["what"] != "all conditions"):
        return f"no analysed answers of {', '.join(lacking)}"
    if row["kind"] == "confidence":
        return "no answer came with a confidence"
    return f"no analysed answers {('with a ' + row['asked']) if row['asked'] else 'that it needs'}"
