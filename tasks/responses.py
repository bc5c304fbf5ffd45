"""The response tables, which the survey writes and the analysis reads, and their codebook.

A survey exports two files: one row per participant and trial, and one row per participant. The
columns, their types and meanings are defined only here.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

Source = Literal["human", "pilot", "simulated"]
Role = Literal["trial", "attention", "practice"]
Status = Literal["arrived", "consented", "practising", "active", "finished", "screened_out",
                 "withdrawn", "expired"]  # fmt: skip
SOURCES: tuple[Source, ...] = get_args(Source)
MISSING = ("time", "picture")
ROLES: tuple[Role, ...] = get_args(Role)
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Column:
    """One column: its pandas type as read by `read_table`, and its meaning.

    `later`: earlier versions of the table lack it; it is then read as empty.
    """

    name: str
    type: str  # string, Int64, Float64, boolean, or UTC (datetime64[ns, UTC])
    meaning: str
    later: bool = False


#: Characters that a database holds of the names of tasks and of conditions.
LONGEST_TASK, LONGEST_CONDITION = 120, 40

#: Seconds that loading and sending may take beyond the time limit of a trial.
LATE_AFTER = 15

RESPONSES = (
    Column("study", "string", "hash of the frozen study"),
    Column("participant", "string", "pseudonym: salted hash of the platform's id"),
    Column("source", "string", f"who responded: {', '.join(SOURCES)}; never to be mixed"),
    Column("trial", "string",
           "id of the trial in study.json; practice trials carry the attempt, as in 't0007@2'"),
    Column("task", "string", "the task's registered name, as odd_one_out"),
    Column("condition", "string", "experimental condition of the trial, named by its task"),
    Column("role", "string", f"{', '.join(ROLES)}; only 'trial' rows are data"),
    Column("position", "Int64", "place in the order shown to this participant, from 0"),
    Column("options", "string", "JSON list: option ids in the order in which they were shown"),
    Column("answer", "string",
           "JSON: the id of the chosen option, or an object if the task asks several questions, "
           'for example {"labels": [3 texts, null = no clear concept], "changed": bool, "clarity": '
           '1-4} or {"rating": 1-4, "label": text or null}; null if there is no response'),
    Column("correct", "boolean",
           "whether the response is that of the answer key; empty without a key"),
    Column("missing", "string",
           "why there is no response: time (limit reached) or picture (one could not be loaded); "
           "empty where there is one", later=True),
    Column("late", "boolean",
           f"whether the response reached the server over {LATE_AFTER} s after the time limit of "
           "the trial (a slow line, or a browser that did not keep the limit); empty without a "
           "limit", later=True),
    Column("confidence", "Float64", "the participant's confidence 1-4; empty where not asked"),
    Column("shown_at", "UTC", "when the server first served the trial"),
    Column("answered_at", "UTC", "when the server stored the response"),
    Column("milliseconds", "Int64", "browser time from all images visible to the response"),
    Column("app_version", "string", "version of the software that stored the response"),
    Column("pastes", "Int64", "pastes into text fields of the trial"),
    Column("tab_leaves", "Int64", "how often the page was hidden or left during the trial"),
)  # fmt: skip

PARTICIPANTS = (
    Column("study", "string", "hash of the frozen study"),
    Column("participant", "string", "pseudonym, as in the response table"),
    Column("source", "string", f"{', '.join(SOURCES)}"),
    Column("platform", "string", "prolific, mturk, open, or simulation"),
    Column("status", "string", f"how far the participant came: {', '.join(STATUSES)}"),
    Column("reason", "string",
           "why participation ended early: practice, understanding or colour (not passed), answers "
           "(of screen_out or outside stay_within), withdrew, timed_out, released (by the "
           "researcher), or the platform's own word; empty if it did not", later=True),
    Column("code", "string", "completion code shown at the end; empty before", True),
    Column("consented_at", "UTC", "when consent was stored; empty before"),
    Column("finished_at", "UTC", "when the last part was stored; empty before"),
    Column("practice_attempts", "Int64", "rounds of practice begun"),
    Column("instruction_seconds", "Float64",
           "browser time on the instructions and on tasks' introductions"),
    Column("total_seconds", "Float64", "from consent to finish, by the server's clock"),
    Column("viewport_width", "Int64", "width of the browser's window at consent, CSS pixels",
           later=True),
    Column("viewport_height", "Int64", "its height", later=True),
    Column("pixel_ratio", "Float64", "pixels of the screen for each CSS pixel", later=True),
    Column("touch", "boolean", "whether the main pointer is a finger", later=True),
    Column("browser", "string", "family: chrome, firefox, safari, edge, opera, samsung, other",
           later=True),
    Column("questionnaire", "string", "JSON object: question id to answer; {} where none"),
)  # fmt: skip


class TableError(ValueError):
    """Tables whose contents are impossible.

    Attributes:
        problems: one text each; the message shows the first SHOWN of them, and one that ALIKE or
            more rows of a file share only once.
    """

    SHOWN, ALIKE = 50, 10

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        # A problem is "FILE, kind row NUMBER: text" (`row_name`): file and text say what is alike.
        alike = [re.sub(r" row \d+: ", " row: ", problem, count=1) for problem in self.problems]
        counts = Counter(alike)
        lines: list[str] = []
        named: set[str] = set()
        for problem, kind in zip(self.problems, alike, strict=True):
            if counts[kind] < self.ALIKE:
                lines.append(problem)
            elif kind not in named:
                named.add(kind)
                more = rf"\1 and {counts[kind] - 1} more rows"
                lines.append(re.sub(r"( row \d+)", more, problem, count=1))
        if len(lines) > self.SHOWN:
            lines[self.SHOWN :] = [f"… and {len(lines) - self.SHOWN} more"]
        text = "\n  ".join(lines)
        super().__init__(f"impossible rows ({len(self.problems)}):\n  {text}")


def as_table(rows: Sequence[dict], columns: Sequence[Column]) -> pd.DataFrame:
    """Return rows as a frame with exactly the given columns, in order and of their types.

    Raises:
        ValueError: a row lacks a column.
        TableError: cells that are not of their column's type.
    """
    frame = pd.DataFrame(list(rows), columns=None if rows else [c.name for c in columns])
    return _convert_columns(frame, columns, "")


def read_table(path: str | Path, columns: Sequence[Column] = RESPONSES) -> pd.DataFrame:
    """Read an exported CSV file with the types of its codebook.

    Columns may stand in any order; an empty cell is a missing value, as is `NA` where a number, a
    moment or True/False is expected. Nothing is guessed: what cannot be read is refused by row.

    Returns:
        a frame whose index is the row of the file less 2 (the header is row 1), with the file's
        name in `attrs["file"]`, and in `attrs["ignored"]` columns that the codebook does not know.

    Raises:
        ValueError: the file is empty, not UTF-8, not separated by commas, or lacks a column.
        TableError: rows with too many or too few cells, cells that are not of their column's type.
    """
    path = Path(path)
    header, rows = _read_records(path)
    if duplicates := sorted({name for name in header if header.count(name) > 1}):
        raise ValueError(f"{path}: column {duplicates[0]!r} occurs twice; remove one")
    names = {column.name for column in columns}
    for name in header:
        if name not in names and (lower := name.strip().lower()) in names:
            raise ValueError(f"{path}: column {name!r} must be written {lower!r}")
    counts = {n: len(row) for n, row in rows.items() if len(row) != len(header)}
    faults = {n: f"{count} cells, but the header has {len(header)}" for n, count in counts.items()}
    faults |= {n: "it repeats the header; delete it" for n, row in rows.items() if row == header}
    if faults:
        raise TableError([f"{row_name(path.name, columns, n)}: {t}" for n, t in faults.items()])
    frame = pd.DataFrame(list(rows.values()), columns=header, index=list(rows), dtype="string")
    frame.index = frame.index - 2
    table = _convert_columns(frame.replace("", pd.NA), columns, path.name)
    table.attrs = {"file": path.name, "ignored": [name for name in header if name not in names]}
    return table


def _read_records(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """Return the header of a CSV file, and its rows but blank ones by number (header: 1)."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        guess = " (it looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ValueError(
            f"{path} is not UTF-8{guess}: byte {error.start} is 0x{data[error.start]:02x}; save it "
            f"as CSV in UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(
            f"{path} is not text in UTF-8 (it holds zero bytes, like UTF-16 or a spreadsheet); "
            f"save it as CSV in UTF-8"
        )
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV file that can be read: {error}") from error
    if not rows or not any(rows[0]):
        raise ValueError(f"{path} is empty; its first row must name the columns")
    if len(rows[0]) == 1 and (separator := re.search(r"[;\t|]", rows[0][0])):
        name = {";": "semicolons", "\t": "tabs", "|": "bars"}[separator[0]]
        raise ValueError(
            f"{path} is separated by {name}; save it as CSV with commas between cells and points "
            f"in decimal numbers"
        )
    if rows[0][0].startswith("sep="):
        raise ValueError(f"{path}: row 1 is {','.join(rows[0])!r}, a hint for Excel; delete it")
    return rows[0], {number: row for number, row in enumerate(rows[1:], 2) if any(row)}


def is_lapse(table: pd.DataFrame) -> pd.Series:
    """Return which responses are of attention trials that were not answered in time."""
    return ((table["role"] == "attention") & (table["missing"] == "time")).fillna(False)


def score_lapses(table: pd.DataFrame) -> pd.DataFrame:
    """Return responses in which attention trials that were not answered in time are incorrect."""
    return table.assign(correct=table["correct"].mask(is_lapse(table), False))


def find_inattentive(table: pd.DataFrame, least: float | None) -> list[str]:
    """Return the participants of whose attention trials a share below `least` is correct; none if
    it is None.

    Attention trials whose pictures could not be loaded do not count; but who says so of all of
    them, and answered no other trial either, is inattentive.

    Args:
        table: responses with participant, role, correct and missing.
    """
    if least is None:
        return []
    table = score_lapses(table[table["role"] != "practice"])
    names = table["participant"]
    shares = table["correct"][table["role"] == "attention"].groupby(names).mean().astype(float)
    is_silent = table["missing"].notna().groupby(names).all()
    return list(shares.index[(shares < least) | (shares.isna() & is_silent[shares.index])])


def options_shown(table: pd.DataFrame) -> list[list[str]]:
    """Return the options of each response in the order in which they were shown."""
    return [json.loads(options) for options in table["options"]]


def row_name(file: str, columns: Sequence[Column], row: int) -> str:
    """Return the name of a row for messages: "responses.csv, response row 12"."""
    kind = "participant" if columns is PARTICIPANTS else "response"
    return f"{file}, {kind} row {row}" if file else f"{kind} row {row}"


def _convert_columns(frame: pd.DataFrame, columns: Sequence[Column], file: str) -> pd.DataFrame:
    empty = pd.Series(pd.NA, index=frame.index, dtype="string")
    frame = frame.assign(**{c.name: empty for c in columns if c.later and c.name not in frame})
    if absent := [c.name for c in columns if c.name not in frame]:
        names = ", ".join(map(repr, absent))
        subject = f"column {names} is" if len(absent) == 1 else f"columns {names} are"
        raise ValueError(
            f"{file}{': ' if file else ''}{subject} missing; "
            f"a {'participant' if columns is PARTICIPANTS else 'response'} table has "
            f"{', '.join(c.name for c in columns)}"
        )
    converted, problems = {}, []
    for column in columns:
        values = frame[column.name]
        if column.type != "string":
            values = values.mask((values == "NA").fillna(False).astype(bool))
        converted[column.name] = _CONVERT[column.type](values)
        invalid = values.notna() & converted[column.name].isna()
        problems += [
            (index, f"{column.name} is {values[index]!r}, but must be {_ALLOWED[column.type]}")
            for index in frame.index[invalid.to_numpy(dtype=bool)]
        ]
    if problems:
        problems.sort(key=lambda problem: problem[0])
        raise TableError([f"{row_name(file, columns, i + 2)}: {text}" for i, text in problems])
    return pd.DataFrame(converted)


#: Type -> what its cells may hold, as messages say it.
_ALLOWED = {
    "boolean": "True, False or empty",
    "Int64": "a whole number (no inf, no nan) or empty",
    "Float64": "a number with a decimal point (no inf, no nan) or empty",
    "UTC": "a moment with its time zone, as in 2026-03-01T09:00:00+00:00, or empty",
}

#: Nanoseconds since 1970 reach no further.
EARLIEST, LATEST = (t.tz_localize("UTC") for t in (pd.Timestamp.min, pd.Timestamp.max))


def _to_booleans(values: pd.Series) -> pd.Series:
    lower = values.astype("string").str.lower()
    return lower.map({"true": True, "false": False}).astype("boolean")


def _to_floats(values: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype("Float64")
    return numbers.mask(numbers.abs() == float("inf"))


def _to_integers(values: pd.Series) -> pd.Series:
    numbers = _to_floats(values)
    is_fractional = ((numbers % 1 != 0) | (numbers.abs() > 2**53)).fillna(False)
    return numbers.mask(is_fractional).astype("Int64")


def _to_moments(values: pd.Series) -> pd.Series:
    moments = pd.to_datetime(values, utc=True, format="ISO8601", errors="coerce")
    is_outside = (moments < EARLIEST) | (moments > LATEST)
    is_text = values.map(lambda value: isinstance(value, str)).astype(bool)
    texts = values.where(is_text).astype("string")
    has_zone = texts.str.contains(r"(?:Z|[+-]\d\d:?\d\d)$", regex=True)
    lacks_zone = is_text & ~has_zone.fillna(False).astype(bool)
    return moments.mask(is_outside | lacks_zone).astype("datetime64[ns, UTC]")


#: Type -> function that returns values as a column of it, missing where they are not of the type.
_CONVERT: dict[str, Callable[[pd.Series], pd.Series]] = {
    "string": lambda values: values.astype("string"), "boolean": _to_booleans,
    "Float64": _to_floats, "Int64": _to_integers, "UTC": _to_moments,
}  # fmt: skip


def codebook() -> str:
    """Return the meaning of every column of both files, in Markdown."""
    parts = ["# Codebook\n"]
    for title, columns in (("responses", RESPONSES), ("participants", PARTICIPANTS)):
        parts.append(f"\n## {title}\n\n| column | type | meaning |\n|---|---|---|\n")
        parts += [f"| {c.name} | {c.type} | {c.meaning} |\n" for c in columns]
    return "".join(parts)
