"""The response table: where the survey and the analysis meet, and the source of its codebook.

Two files leave a survey: one row per (participant, trial), and one row per participant. Their
columns, types and meanings stand here once; the store fills them, the codebook prints them, the
analysis reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd

Task = Literal["odd_one_out", "evolution_labelling", "before_or_after", "concept_agreement"]
Source = Literal["human", "pilot", "simulated"]
Role = Literal["trial", "attention", "practice"]
Status = Literal[
    "arrived", "consented", "practising", "active", "finished", "screened_out", "expired"
]
SOURCES: tuple[Source, ...] = get_args(Source)
ROLES: tuple[Role, ...] = get_args(Role)
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Column:
    """One column: pandas type as read back by `read_table`, and what it means."""

    name: str
    type: str  # string, Int64, Float64, boolean, or UTC (datetime64[ns, UTC])
    meaning: str


RESPONSES = (
    Column("study", "string", "hash of the frozen study"),
    Column("participant", "string", "pseudonym: salted hash of the platform's id"),
    Column("source", "string", f"who answered: {', '.join(SOURCES)}; never to be mixed"),
    Column(
        "trial",
        "string",
        "id of the trial in study.json; practice trials carry the attempt, as in 'practice-1@2'",
    ),
    Column("task", "string", "odd_one_out, evolution_labelling, … (the task's registered name)"),
    Column("condition", "string", "experimental condition of the trial, named by its task"),
    Column("role", "string", f"{', '.join(ROLES)}; only 'trial' rows are data"),
    Column("position", "Int64", "place in the order shown to this participant, from 0"),
    Column("options", "string", "JSON list: option ids in the order in which they were shown"),
    Column(
        "answer",
        "string",
        "JSON: an option id (odd_one_out, before_or_after); for evolution_labelling "
        '{"labels": [3 texts, null = no clear concept], "changed": bool, "clarity": 1-4}; '
        'for concept_agreement {"rating": 1-4, "label": text or null}',
    ),
    Column("correct", "boolean", "whether the answer meets the key; empty where there is no key"),
    Column("confidence", "Float64", "the participant's confidence 1-4; empty where not asked"),
    Column("shown_at", "UTC", "when the server first served the trial"),
    Column("answered_at", "UTC", "when the server stored the answer"),
    Column("milliseconds", "Int64", "browser time from all images visible to the answer"),
    Column("app_version", "string", "version of the software that stored the answer"),
    Column("pastes", "Int64", "pastes into text fields of the trial"),
    Column("tab_leaves", "Int64", "how often the page was hidden or left during the trial"),
)

PARTICIPANTS = (
    Column("study", "string", "hash of the frozen study"),
    Column("participant", "string", "pseudonym, as in the response table"),
    Column("source", "string", f"{', '.join(SOURCES)}"),
    Column("platform", "string", "prolific, mturk, open, or simulation"),
    Column("status", "string", f"how far the person came: {', '.join(STATUSES)}"),
    Column("consented_at", "UTC", "when consent was stored; empty before"),
    Column("finished_at", "UTC", "when the last part was stored; empty before"),
    Column("practice_attempts", "Int64", "rounds of practice begun"),
    Column("instruction_seconds", "Float64", "browser time with the instructions visible"),
    Column("total_seconds", "Float64", "from consent to finish, by the server's clock"),
    Column("questionnaire", "string", "JSON object: question id to answer; {} where none"),
)


def as_table(rows: Sequence[dict], columns: Sequence[Column]) -> pd.DataFrame:
    """Rows as a frame with exactly the given columns, in order and of their types.

    Raises:
        ValueError: a row lacks a column.
    """
    frame = pd.DataFrame(list(rows), columns=None if rows else [c.name for c in columns])
    return _typed(frame, columns)


def read_table(path, columns: Sequence[Column] = RESPONSES) -> pd.DataFrame:
    """Read an exported CSV file with the types of its codebook.

    Raises:
        ValueError: the file lacks a column.
    """
    return _typed(pd.read_csv(path, dtype="string", keep_default_na=True), columns)


def _typed(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    if missing := [c.name for c in columns if c.name not in frame]:
        raise ValueError(
            f"column {missing[0]!r} is missing; "
            f"a response table has {', '.join(c.name for c in columns)}"
        )
    typed: dict[str, Any] = {}
    for column in columns:
        values = frame[column.name]
        if column.type == "UTC":
            moments = pd.to_datetime(values, utc=True, format="ISO8601")
            typed[column.name] = moments.astype("datetime64[ns, UTC]")
        elif column.type == "boolean":
            typed[column.name] = values.map(_BOOLEANS).astype("boolean")
        elif column.type in ("Int64", "Float64"):
            typed[column.name] = pd.to_numeric(values).astype(column.type)  # type: ignore[call-overload]
        else:
            typed[column.name] = values.astype("string")
    return pd.DataFrame(typed)


_BOOLEANS = {True: True, False: False, "True": True, "False": False, "true": True, "false": False}


def codebook() -> str:
    """The meaning of every column of both files, as Markdown."""
    parts = ["# Codebook\n"]
    for title, columns in (("responses", RESPONSES), ("participants", PARTICIPANTS)):
        parts.append(f"\n## {title}\n\n| column | type | meaning |\n|---|---|---|\n")
        parts += [f"| {c.name} | {c.type} | {c.meaning} |\n" for c in columns]
    return "".join(parts)
