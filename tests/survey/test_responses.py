"""The response table keeps its types through a file, and explains itself."""

import json
from datetime import UTC, datetime

import pytest

from tasks.responses import (
    PARTICIPANTS,
    RESPONSES,
    as_table,
    codebook,
    find_inattentive,
    read_table,
)

ROW = {
    "study": "s",
    "participant": "p",
    "source": "human",
    "trial": "t1",
    "task": "odd_one_out",
    "condition": "base",
    "role": "trial",
    "position": 3,
    "options": json.dumps(["a", "b"]),
    "answer": json.dumps("a"),
    "correct": None,
    "confidence": None,
    "shown_at": datetime(2026, 1, 2, 3, 4, 5, 6000, UTC),
    "answered_at": datetime(2026, 1, 2, 3, 4, 9, tzinfo=UTC),
    "milliseconds": 4000,
    "app_version": "0.1",
    "pastes": 0,
    "tab_leaves": 1,
}


def test_a_table_survives_its_file(tmp_path):
    table = as_table([ROW, ROW | {"trial": "t2", "correct": True}], RESPONSES)
    table.to_csv(tmp_path / "r.csv", index=False)
    again = read_table(tmp_path / "r.csv")
    assert again.equals(table)
    assert list(again.dtypes) == list(table.dtypes)


def test_an_empty_table_has_all_columns(tmp_path):
    as_table([], PARTICIPANTS).to_csv(tmp_path / "p.csv", index=False)
    assert list(read_table(tmp_path / "p.csv", PARTICIPANTS)) == [c.name for c in PARTICIPANTS]


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="column 'answer' is missing; a response table has study"):
        as_table([{k: v for k, v in ROW.items() if k != "answer"}], RESPONSES)


PEOPLE = {  # responses: + correct, - incorrect, t time limit, p no picture; capital: no attention
    "four of five": "++++-", "three of five": "+++--", "two late": "+++tt", "one late": "++++t",
    "three of three": "+++pp", "no pictures, but answers": "pppX", "no pictures at all": "pppPP",
    "no pictures, late otherwise": "pT", "never asked": "PP", "none of one": "-",
}  # fmt: skip


def test_who_is_inattentive():
    """Whoever said that all pictures were missing got the code, but stood in no count."""
    meanings = {
        "+": (True, None), "-": (False, None), "t": (None, "time"), "p": (None, "picture"),
        "x": (True, None),
    }  # fmt: skip
    practice = ROW | {"participant": "no pictures at all", "trial": "t9", "role": "practice"}
    rows = [practice | {"correct": True}]
    for person, answers in PEOPLE.items():
        for number, answer in enumerate(answers):
            correct, missing = meanings[answer.lower()]
            rows.append(ROW | {
                "participant": person, "trial": f"t{number}", "correct": correct,
                "missing": missing, "role": "trial" if answer.isupper() else "attention",
            })  # fmt: skip
    table = as_table(rows, RESPONSES)
    silent = {"no pictures at all", "no pictures, late otherwise"}
    failed = {"three of five", "two late", "none of one"}
    assert set(find_inattentive(table, 0.8)) == silent | failed
    assert set(find_inattentive(table, 0)) == silent
    assert find_inattentive(table, None) == []
    assert find_inattentive(table.iloc[:0], 0.8) == []


def test_the_codebook_explains_every_column():
    text = codebook()
    for column in (*RESPONSES, *PARTICIPANTS):
        assert f"| {column.name} | {column.type} | {column.meaning} |" in text
