"""Tables of the database: responses and participants for the analysis, submissions for payment."""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from glob import escape
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import ColumnElement, Connection, Select, Table, select

from harness.files import csv_text, hold, remove_leftovers, whole_file
from survey_app.platforms import PARAMETERS
from survey_app.schema import identities, participants, people, responses, status_at, studies
from survey_app.store import Store
from tasks.codebook import codebook
from tasks.responses import LATE_AFTER, PARTICIPANTS, RESPONSES, as_table
from tasks.study import Study

DEVICE = {
    "viewport_width": "width", "viewport_height": "height", "pixel_ratio": "pixel_ratio",
    "touch": "touch", "browser": "browser",
}  # fmt: skip

#: The beginning of a month's name in English, German or Spanish, as Excel knows it.
_MONTH = "(?:jan|ene|feb|mar|mrz|apr|abr|may|mai|jun|jul|aug|ago|sep|o[ck]t|nov|de[cz]|dic)[a-z]*"
#: Texts that Excel takes for formulas, numbers or dates.
MISREAD = (
    r"(?i)[=+\-@\t\r]|(?:\d{12,}|0\d+|\d+e\d+|\d+(?:-\d+)+"
    rf"|\d+-?{_MONTH}(?:-?\d+)?|{_MONTH}-?\d+(?:-\d+)?)$"
)
LONGEST_WAIT = 60.0  # seconds, for another export to the same files

#: Columns of the table for payment.
SUBMISSIONS = (
    "study", "participant", "platform", "platform_id", "platform_study", "session",
    "earlier_sessions", "status", "reason", "code", "attention_right", "consented_at",
    "finished_at", "minutes",
)  # fmt: skip


def sources(store: Store, study: str | None = None) -> list[str]:
    """Return the sources of participants that the database holds, of one study or all, sorted."""
    query = select(participants.c.source).distinct()
    if study is not None:
        query = query.where(participants.c.study == study)
    with store.read() as connection:
        return sorted(connection.scalars(query))


def tables(
    store: Store, source: str, study: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return responses and participants of one source, with the types of the codebook."""
    limit = studies.c.content["seconds_per_trial"].as_float()
    all_answers = select(responses).order_by(responses.c.participant, responses.c.answered_at)
    all_people = select(*_columns(store)).order_by(participants.c.arrived_at)
    # One transaction, so that no response arrives between reading one table and the other.
    with store.read() as connection:
        answers = _read_rows(connection, all_answers, responses, source, study)
        people = _read_rows(connection, all_people, participants, source, study)
        limits = {s: seconds for s, seconds in connection.execute(select(studies.c.hash, limit))}
    for row in answers:
        row["late"] = _is_late(row, limits[row["study"]])
        row["options"] = json.dumps(row["options"])
        row["answer"] = json.dumps(row["answer"], ensure_ascii=False)
    for row in people:
        device = row["device"] or {}
        row |= {column: device.get(name) for column, name in DEVICE.items()}
        row["total_seconds"] = _total_seconds(row)
        row["questionnaire"] = json.dumps(row["questionnaire"], ensure_ascii=False)
    return as_table(answers, RESPONSES), as_table(people, PARTICIPANTS)


def _columns(store: Store) -> list[ColumnElement]:
    """Return the columns of participants, with their status at present."""
    status = status_at(store.clock())
    return [status if column.name == "status" else column for column in participants.c]


def _read_rows(
    connection: Connection, query: Select, table: Table, source: str, study: str | None
) -> list[dict[str, Any]]:
    """Return those rows of a query that belong to a source and, unless it is None, to a study."""
    query = query.where(table.c.source == source)
    if study is not None:
        query = query.where(table.c.study == study)
    return [dict(row) for row in connection.execute(query).mappings()]


def _is_late(row: dict[str, Any], limit: float | None) -> bool | None:
    """Return whether a response was late by the server's clock; None if there is no time limit."""
    if not limit:
        return None
    seconds = (row["answered_at"] - row["shown_at"]).total_seconds()
    return row["missing"] is None and seconds > limit + LATE_AFTER


def _total_seconds(row: dict[str, Any]) -> float | None:
    """Return the time from consent to the end; None if there is no end."""
    if row["finished_at"] is None:
        return None
    # Negative if the server's clock was set back in between.
    return max(0.0, (row["finished_at"] - row["consented_at"]).total_seconds())


def submissions(store: Store, source: str, study: str | None = None) -> pd.DataFrame:
    """Return one row per participant, for approvals, bonuses and complaints.

    Returns:
        SUBMISSIONS: platform_study is STUDY_ID or hitId; session is the latest SESSION_ID or
        assignmentId ("" for an open link); minutes is the time from consent to the end (None: not
        finished).
    """
    query = select(*_columns(store), identities.c.platform_id, identities.c.details)
    query = query.select_from(people).order_by(participants.c.consented_at)
    with store.read() as connection:
        rows = _read_rows(connection, query, participants, source, study)
    for row in rows:
        details, names = row["details"] or {}, PARAMETERS.get(row["platform"])
        row["platform_study"] = details.get(names.study, "") if names else ""
        row["session"] = details.get(names.session, "") if names else ""
        row["earlier_sessions"] = len(details.get("earlier", ()))
        seconds = _total_seconds(row)
        row["minutes"] = None if seconds is None else round(seconds / 60, 1)
    return pd.DataFrame(rows, columns=list(SUBMISSIONS))


def choose_study(store: Store, source: str | None, study: str | None) -> tuple[str, str | None]:
    """Return the source and the study's hash to export; None for the study if there are none.

    Raises:
        ValueError: there are several and none was named, or there is no such study or source.
    """
    with store.read() as connection:
        titles = dict(connection.execute(select(studies.c.hash, studies.c.title)).all())
        pairs = connection.execute(select(participants.c.study, participants.c.source).distinct())
        held = sorted((key, name) for key, name in pairs if study in (None, key))
    titled = ", ".join(f"{key} ({title})" for key, title in sorted(titles.items()))
    if study is not None and study not in titles:
        raise ValueError(f"--study {study!r}: no such study; the database holds {titled or 'none'}")
    names = sorted({name for _, name in held})
    holder = "the database" if study is None else f"study {study}"
    if source is not None and names and source not in names:
        raise ValueError(
            f"--source {source}: {holder} holds no such responses, only {', '.join(names)}"
        )
    if source is None and len(names) > 1:
        raise ValueError(
            f"{holder} holds responses of {', '.join(names)}, which must not be mixed; "
            f"name one with --source"
        )
    source = source or (names[0] if names else "human")
    hashes = [key for key, name in held if name == source]
    if len(hashes) > 1:
        raise ValueError(
            f"the database holds several studies, which must not be mixed: {titled}; name one "
            f"with --study"
        )
    return source, study or (hashes[0] if hashes else None)


def export(
    store: Store, out: Path, source: str | None, study: str | None = None, excel: bool = False
) -> tuple[list[Path], int]:
    """Write responses, participants and codebook, all or none of them; return their paths and the
    number of late responses.

    Args:
        excel: begin the files with a byte order mark, without which Excel misreads UTF-8, and mark
            texts as `as_csv` does.

    Raises:
        ValueError: there are several sources or studies and none was named, or no such study.
    """
    source, study = choose_study(store, source, study)
    response_table, participant_table = tables(store, source, study)
    participants_path = out.with_name(f"{out.stem}-participants{out.suffix}")
    codebook_path = out.with_name(f"{out.stem}-codebook.md")
    write_files(
        {
            out: response_table,
            participants_path: participant_table,
            codebook_path: codebook(_served_study(store, study)),
        },
        excel,
    )
    return [out, participants_path, codebook_path], int(response_table["late"].sum())


def write_files(contents: Mapping[Path, pd.DataFrame | str], excel: bool = False) -> None:
    """Write tables in the form of `as_csv`, and texts, all or none of them.

    What an export that was killed left of the same files is deleted. Another export to the same
    files waits, so that all of them are of one export.

    Args:
        contents: path -> table or text; all paths are in one folder.

    Raises:
        ValueError: a table is not named .csv; other files, such as the database, would be replaced.
    """
    encoding = "utf-8-sig" if excel else "utf-8"
    encoded = {}
    for path, content in contents.items():
        if isinstance(content, str):
            encoded[path] = content.encode()
        elif path.suffix.lower() != ".csv":
            raise ValueError(f"--out {path}: the name of the file must end in .csv")
        else:
            encoded[path] = as_csv(content, excel).encode(encoding)
    first = next(iter(contents))
    lock = first.with_name(f".{first.name}.lock")
    with hold(lock, LONGEST_WAIT), ExitStack() as stack:
        # One that remains would keep other users out. On Windows, an open file cannot be deleted.
        if os.name == "posix":
            stack.callback(lock.unlink, missing_ok=True)
        for path, data in encoded.items():
            remove_leftovers(path.parent.glob(f".{escape(path.name)}*"))
            stack.enter_context(whole_file(path)).write_bytes(data)


def as_csv(frame: pd.DataFrame, excel: bool = False) -> str:
    """Return a table as CSV that R and Python read, or also Excel.

    Excel executes any text that begins like a formula. It rounds ids that read as large numbers,
    drops zeros at their beginning, and takes some for dates (12-05, 12-May, DEC1). With `excel`,
    such a text is preceded by an apostrophe, which is how Excel itself marks text.
    """
    cells = frame.copy()
    for name in frame if excel else ():
        if pd.api.types.is_string_dtype(frame[name]):
            is_misread = frame[name].str.match(MISREAD, na=False).astype(bool)
            cells[name] = frame[name].mask(is_misread, "'" + frame[name].astype("string"))
    return csv_text(cells)


def _served_study(store: Store, study: str | None) -> Study | None:
    """Return the study as it was served; None if the database holds none."""
    query = select(studies.c.content).where(studies.c.hash == study)
    with store.read() as connection:
        content = connection.scalar(query)
    return Study.model_validate(content) if content else None
