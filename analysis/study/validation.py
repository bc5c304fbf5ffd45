"""Validate a survey's tables: every row against the frozen study and the other rows."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from analysis.study.frozen_study import FrozenStudy, task_of
from tasks.base import (
    CONFIDENCE,
    TEXT_LIMIT,
    Field,
    InvalidAnswer,
    InvalidField,
    Task,
    Trial,
    check_values,
    clean_text,
)
from tasks.questionnaire import Question, check_answers
from tasks.responses import MISSING, PARTICIPANTS, RESPONSES, SOURCES, STATUSES, Column, row_name

CONFIDENCES = tuple(float(value) for value, _ in CONFIDENCE.choices)
OTHER_STUDY = "study {study!r} is not this one, "


def find_problems(study: FrozenStudy, table: pd.DataFrame, people: pd.DataFrame) -> list[str]:
    """Return everything in the tables that is impossible, in words, by row."""
    participant_rows, answer_rows = _Rows(people, PARTICIPANTS), _Rows(table, RESPONSES)
    _check_participants(study, participant_rows)
    _check_trials(study, answer_rows)
    _check_measurements(answer_rows)
    _check_against_participants(answer_rows, people)
    _check_answers(study, answer_rows)
    return [*participant_rows.problems(), *answer_rows.problems()]


class _Rows:
    """A table and the problems of its rows."""

    def __init__(self, table: pd.DataFrame, columns: Sequence[Column]) -> None:
        self.table, self.columns = table, columns
        self._found: list[tuple[int, str]] = []

    def refuse(self, is_wrong: pd.Series | np.ndarray, text: str) -> None:
        """Record rows in which `is_wrong` is true or missing; {column} in a text is its value."""
        mask = pd.Series(is_wrong, self.table.index).astype("boolean").fillna(True)
        rows = np.flatnonzero(mask.to_numpy(dtype=bool))
        self._found += [(int(i), text.format_map(self.table.iloc[i])) for i in rows]

    def refuse_row(self, position: int, text: str) -> None:
        self._found.append((position, text))

    def refuse_below_zero(self, column: str) -> None:
        below = (self.table[column] < 0).fillna(False)
        self.refuse(below, f"{column} is {{{column}}}, below 0")

    def problems(self) -> list[str]:
        """Return the problems in the order of the rows."""
        file = self.table.attrs.get("file", "")
        numbers = self.table.index + 2
        return [
            f"{row_name(file, self.columns, int(numbers[position]))}: {text}"
            for position, text in sorted(self._found, key=lambda found: found[0])
        ]


def _check_participants(study: FrozenStudy, rows: _Rows) -> None:
    people = rows.table
    rows.refuse(people["study"] != study.study.hash, OTHER_STUDY + repr(study.study.hash))
    normalised_names = people["participant"].str.strip().str.casefold()
    rows.refuse(
        normalised_names.duplicated(keep=False) | normalised_names.isna(),
        "participant {participant!r} is missing or listed twice (spaces and case do not count)",
    )
    for column, allowed in (("source", SOURCES), ("status", STATUSES)):
        message = f"unknown {column} {{{column}!r}}; there are {', '.join(allowed)}"
        rows.refuse(~people[column].isin(allowed), message)
    for column in ("practice_attempts", "instruction_seconds", "total_seconds"):
        rows.refuse_below_zero(column)
    rows.refuse(
        people["finished_at"] < people["consented_at"],  # False where one is missing
        "finished_at {finished_at} lies before consented_at {consented_at}",
    )
    relaxed = {"required": False, "shown_if": None}
    questions = [question.model_copy(update=relaxed) for question in study.study.questions]
    for position, text in enumerate(people["questionnaire"]):
        for problem in _questionnaire_problems(text, questions):
            rows.refuse_row(position, problem)


def _questionnaire_problems(text: Any, questions: Sequence[Question]) -> list[str]:
    if pd.isna(text):
        return []
    try:
        answers = json.loads(text)
    except json.JSONDecodeError:
        answers = None
    if not isinstance(answers, dict):
        return [f"questionnaire {text!r} is not a JSON object"]
    problems = []
    for question in questions:
        try:
            check_answers([question], answers, {})
        except InvalidAnswer:
            problems.append(
                f"questionnaire: {question.name} is {answers[question.name]!r}, but must be "
                f"{_describe_answers(question)}"
            )
    return problems


def _describe_answers(question: Question) -> str:
    if question.kind == "number":
        return f"a number from {question.limits[0]:g} to {question.limits[1]:g}"
    values = ", ".join(value for value, _ in question.choices)
    return {"several": f"a list of {values}", "text": "a text"}.get(
        question.kind, f"one of {values}"
    )


def _check_trials(study: FrozenStudy, rows: _Rows) -> None:
    table = rows.table
    rows.refuse(table["study"] != study.study.hash, OTHER_STUDY + repr(study.study.hash))
    rows.refuse(
        table.duplicated(["participant", "trial"], keep=False),
        "participant {participant!r} answered trial {trial!r} more than once",
    )
    frozen = study.trials.set_index("trial")
    trial_ids = plain_trials(table)
    is_known = trial_ids.isin(frozen.index)
    rows.refuse(~is_known, f"unknown trial {{trial!r}}; the study has {len(frozen)}")
    for column in ("task", "condition", "role"):
        expected = trial_ids.map(frozen[column])
        rows.refuse(
            is_known & (expected != table[column]).fillna(True),
            f"{column} of trial {{trial!r}} is not {{{column}!r}}",
        )
    longest = max((sum(map(len, form)) for form in study.study.forms), default=0)
    rows.refuse(
        is_known & (table["role"] != "practice").fillna(True) & (table["position"] >= longest),
        f"position is {{position}}, but a form has {longest} trials, from 0",
    )
    rows.refuse(
        is_known & table.duplicated(["participant", "role", "position"], keep=False)
        & (table["role"] != "practice").fillna(True),
        "participant {participant!r} has position {position} twice",
    )  # fmt: skip


def plain_trials(table: pd.DataFrame) -> pd.Series:
    """Return trial ids as in the study; those of practice trials carry the attempt, t0012@2."""
    return table["trial"].str.replace(r"@\d+$", "", regex=True)


def _check_measurements(rows: _Rows) -> None:
    table = rows.table
    rows.refuse(table["position"].isna() | (table["position"] < 0), "no position, or below 0")
    rows.refuse((table["milliseconds"] < 0).fillna(False), "took {milliseconds} ms, below 0")
    for column in ("pastes", "tab_leaves"):
        rows.refuse_below_zero(column)
    for column in ("shown_at", "answered_at"):
        rows.refuse(table[column].isna(), f"{column} is empty")
    rows.refuse(
        table["missing"].notna() & ~table["missing"].isin(MISSING),
        f"missing is {{missing!r}}, but must be {' or '.join(MISSING)}, or empty",
    )
    rows.refuse(table["answered_at"] < table["shown_at"], "answered before it was shown")
    rows.refuse(
        table["confidence"].notna() & ~table["confidence"].isin(CONFIDENCES),
        "confidence is {confidence:g}, but must be one of "
        f"{', '.join(f'{value:g}' for value in CONFIDENCES)}, or empty",
    )


def _check_against_participants(rows: _Rows, people: pd.DataFrame) -> None:
    table = rows.table
    by_name = people.drop_duplicates("participant").set_index("participant")
    sources = table["participant"].map(by_name["source"])
    rows.refuse(~table["participant"].isin(by_name.index), "unknown participant {participant!r}")
    rows.refuse(
        sources.notna() & (sources != table["source"]).fillna(True),
        "source {source!r} is not that of participant {participant!r}",
    )
    consented = table["participant"].map(by_name["consented_at"])
    for column, event in (("shown_at", "shown"), ("answered_at", "answered")):
        message = f"{event} at {{{column}}}, before participant {{participant!r}} gave consent"
        rows.refuse(table[column] < consented, message)


def _check_answers(study: FrozenStudy, rows: _Rows) -> None:
    columns = ["options", "answer", "correct", "missing"]
    check = cache(lambda trial, *cells: _answer_problems(study, study.study.by_id[trial], *cells))
    pairs = zip(plain_trials(rows.table), rows.table[columns].itertuples(index=False), strict=True)
    for position, (trial, row) in enumerate(pairs):
        if isinstance(row.missing, str):
            if row.answer != "null":
                rows.refuse_row(position, f"answer {row.answer!r} of a trial without a response")
            if not pd.isna(row.correct):
                rows.refuse_row(position, f"correct is {row.correct} of a trial without a response")
        elif trial in study.study.by_id:
            correct = None if pd.isna(row.correct) else bool(row.correct)
            for text in check(trial, row.options, row.answer, correct):
                rows.refuse_row(position, text)


def _answer_problems(
    study: FrozenStudy, trial: Trial, options: Any, answer: Any, correct: bool | None
) -> list[str]:
    """Return the problems of options, answer and score of one row."""
    try:
        offered, response = (
            json.loads(x, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated_names)
            for x in (options, answer)
        )
    except (ValueError, TypeError):
        return [f"options {options!r} or answer {answer!r} are not JSON without repeated names"]
    ids = [option.id for option in trial.options]
    problems = []
    if not isinstance(offered, list) or sorted(map(str, offered)) != sorted(ids):
        problems.append(f"options {offered} are not those of trial {trial.id!r}, {', '.join(ids)}")
    task, key = task_of(trial.task), study.keys.get(trial.id)
    if task is None:
        unfit = _not_an_option(trial, ids, response) if key in ids else ""
        score = response == key if ids and key is not None else correct
    elif not (unfit := _explain_unfit(task, trial, ids, response)):
        score = task.score(key, response)
    if unfit:
        return [*problems, unfit]
    if correct != score:
        problems.append(f"correct is {correct}, against the key of trial {trial.id!r}: {score}")
    return problems


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_repeated_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(fields := dict(pairs)) < len(pairs):
        raise ValueError("a name occurs twice")
    return fields


def _not_an_option(trial: Trial, ids: list[str], response: Any) -> str:
    if response in ids:
        return ""
    return f"answer {response!r} was not an option of trial {trial.id!r}, {', '.join(ids)}"


def _explain_unfit(task: Task, trial: Trial, ids: list[str], response: Any) -> str:
    """Explain why the task's fields cannot give an answer; "" if they can."""
    fields = task.fields(trial)
    if [f.kind for f in fields] == ["pick"] and (unfit := _not_an_option(trial, ids, response)):
        return unfit
    subject = f"answer {json.dumps(response, ensure_ascii=False)} of trial {trial.id!r}"
    try:
        values = task.values(response)
    except Exception:  # a task's own code, on a value of any form
        return f"{subject} has not the form of {task.name}"
    try:
        again = task.answer(check_values(fields, trial, values))
    except InvalidField as error:
        allowed = _describe_allowed(error.field, ids)
        return f"{subject}: {allowed}, not {values.get(error.field.name)!r}"
    except Exception as error:
        return f"{subject} has not the form of {task.name} ({error})"
    return "" if _equal(again, response) else f"{subject}: it must be written {json.dumps(again)}"


def _describe_allowed(field: Field, ids: list[str]) -> str:
    if field.kind == "text":
        or_null = " or null" if field.none_label else ""
        return f"{field.name} must be a text of 1 to {TEXT_LIMIT} characters{or_null}"
    values = ids if field.kind == "pick" else [value for value, _ in field.choices]
    return f"{field.name} must be one of {', '.join(values)}"


def _equal(first: Any, second: Any) -> bool:
    """Return whether two answers are equal in value and type (texts as the survey stores them)."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(v, second[k]) for k, v in first.items())
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    return first == (clean_text(second) if isinstance(second, str) else second)
