"""The tables that a survey exports, as R, Excel and Python read them; payment lists."""

import csv
import io
import re
from datetime import timedelta
from errno import ENOSPC
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
from command_line import say
from people import arrive, fill, go, open_service
from sqlalchemy import select, update

import survey_app.export
from harness.files import ArtifactError, hold
from survey_app.export import SUBMISSIONS, as_csv, tables, write_files
from survey_app.flow import Stage
from survey_app.platforms import Visitor
from survey_app.schema import participants
from survey_app.service import Service
from survey_app.store import Store
from tasks.responses import PARTICIPANTS, read_table


@pytest.fixture
def database(frozen, recruitment, tmp_path) -> str:
    """One who finished, one midway."""
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    service = open_service(url, *frozen, recruitment=recruitment)
    for name, stage in (("1", None), ("2", Stage.TRIAL)):
        ids = {"PROLIFIC_PID": name * 24, "STUDY_ID": "6a" * 12, "SESSION_ID": f"{name}b" * 12}
        go(service, arrive(service, Visitor("prolific", name * 24, details=ids)), stage)
    return url


def test_true_and_false_are_as_r_has_them_and_excel_gets_its_mark(database, tmp_path):
    out = tmp_path / "r.csv"
    say("responses", "export", "--database", database, "--out", str(out))
    cells = {row["correct"] for row in csv.DictReader(out.open(encoding="utf-8"))}
    assert cells <= {"TRUE", "FALSE", ""} and cells & {"TRUE", "FALSE"}
    plain = read_table(out)
    assert not out.read_bytes().startswith(b"\xef\xbb\xbf")
    say("responses", "export", "--database", database, "--out", str(out), "--excel")
    assert out.read_bytes().startswith(b"\xef\xbb\xbf")
    assert read_table(out).equals(plain)


def test_an_export_is_written_whole_or_not_at_all(database, tmp_path, monkeypatch):
    """New responses stood beside old participants, of which some had none."""
    export = ("responses", "export", "--database", database, "--out", tmp_path / "r.csv")
    leftover = tmp_path / ".r.csv.half-written-x1.csv"  # of an export that was killed
    leftover.write_text("half")
    say(*export)
    names = {"r.csv", "r-participants.csv", "r-codebook.md"}
    old = {name: (tmp_path / name).read_bytes() for name in names}
    assert not leftover.exists()
    write = Path.write_bytes

    def fill_disk(path: Path, data: bytes) -> int:
        if "participants" in path.name:
            raise OSError(ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    text = say(*export, "--excel", error=ValueError)
    assert f"cannot write {tmp_path / 'r-participants.csv'}: No space left" in text
    files = {file.name: file.read_bytes() for file in tmp_path.glob("*r*") if file.is_file()}
    assert {name: data for name, data in files.items() if name in names or "half" in name} == old


def test_exports_to_the_same_files_wait_for_one_another(tmp_path, monkeypatch):
    """One deleted what the other was writing, which then failed."""
    out, write, others = tmp_path / "r.csv", Path.write_bytes, []

    def start_another(path: Path, data: bytes) -> int:
        count = write(path, data)
        if not others:
            others.append(Thread(target=write_files, args=({out: pd.DataFrame({"id": ["2"]})},)))
            others[0].start()
            others[0].join(0.3)
            assert others[0].is_alive()
        return count

    monkeypatch.setattr(Path, "write_bytes", start_another)
    write_files({out: pd.DataFrame({"id": ["1"]}), tmp_path / "r.md": "text"})
    others[0].join()
    assert out.read_text() == "id\n2\n"
    assert {file.name for file in tmp_path.iterdir()} == {"r.csv", "r.md"}
    monkeypatch.setattr(survey_app.export, "LONGEST_WAIT", 0)
    with hold(tmp_path / ".r.csv.lock"), pytest.raises(ArtifactError, match="another conceptevo"):
        write_files({out: pd.DataFrame()})
    assert out.read_text() == "id\n2\n"


def test_excel_carries_nothing_out_that_a_person_wrote(database):
    """Answers are JSON, which no spreadsheet takes for a formula; ids and codes may begin so."""
    marked = ["-A1", "=1+1", "@x", "\tx", "1" * 24, "12e34", "007", "12-05"]
    marked += ["12-May", "may-12", "1-dez-24", "DEC1", "2SEPT"]
    plain = ["12", "1" * 24 + "a", "plain", "s-12", "0.1.0", "May", "12-m", "mayor", "t-may-12"]
    frame = pd.DataFrame({"id": [*marked, *plain, None], "right": True})
    frame = frame.astype({"id": "string", "right": "boolean"})
    cells = [row["id"] for row in csv.DictReader(io.StringIO(as_csv(frame, excel=True)))]
    assert cells == [*(f"'{text}" for text in marked), *plain, ""]
    cells = [row["id"] for row in csv.DictReader(io.StringIO(as_csv(frame)))]
    assert cells == [*marked, *plain, ""]


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "😀 مرحبا", "<b>x"])
def test_free_text_comes_out_as_it_was_written_and_is_no_formula(frozen, tmp_path, text):
    service = open_service(tmp_path / "a.sqlite", *frozen)
    person = arrive(service, "x")
    page = go(service, person, Stage.TRIAL)
    while page["stage"] != "finished":
        action = fill(page)
        free = [name for name, value in action["values"].items() if value == "red wheel"]
        action["values"] |= dict.fromkeys(free, text)
        page, done = service.act(page["token"], action)
        assert done
    answers, people = tables(service.store, "human")
    written = 0
    for frame in (answers, people):
        for row in csv.DictReader(io.StringIO(as_csv(frame))):
            written += sum(text in cell.replace('\\"', '"') for cell in row.values())
            assert not any(re.match(r"[=+@\t]|-\D", cell) for cell in row.values()), row
    assert written > 2


def test_an_unknown_study_is_an_error_and_two_must_be_told_apart(database, frozen, tmp_path):
    export = ("responses", "export", "--database", database, "--out", str(tmp_path / "r.csv"))
    told = say(*export, "--study", "nosuch", error=ValueError)
    assert "--study 'nosuch': no such study; the database holds " + frozen[0].hash in told
    assert not (tmp_path / "r.csv").exists()
    store = Store(database)
    other = frozen[0].model_copy(update={"hash": "0" * 16, "title": "Another"})
    service = Service(store, other, frozen[1])
    go(service, arrive(service, "x"))
    told = say(*export, error=ValueError)
    assert "several studies" in told and "name one with --study" in told and "(Another)" in told
    told = say(*export, "--study", "0" * 16, "--source", "pilot", error=ValueError)
    assert told == f"--source pilot: study {'0' * 16} holds no such responses, only human"
    pilot = Service(store, *frozen, "pilot")
    go(pilot, arrive(pilot, "x"))  # of the other study: no reason to ask which source is meant
    say(*export, "--study", "0" * 16)
    assert set(read_table(tmp_path / "r.csv")["study"]) == {"0" * 16}


def test_the_table_for_payment_has_the_time_and_the_code_of_who_finished(
    database, frozen, tmp_path
):
    out = tmp_path / "ids.csv"
    store = Store(database)
    with store.write() as connection:  # a quarter of an hour from consent to the end
        table, minutes = participants, timedelta(minutes=14, seconds=56)
        begun = connection.scalar(select(table.c.consented_at).where(table.c.status == "finished"))
        change = update(table).where(table.c.status == "finished")
        connection.execute(change.values(finished_at=begun + minutes))
    service = Service(store, *frozen)
    go(service, arrive(service, Visitor("open", "o" * 22)), Stage.INSTRUCTIONS)
    say("responses", "submissions", "--database", database, "--out", out)
    finished, midway, by_link = csv.DictReader(out.open(encoding="utf-8"))
    assert tuple(finished) == SUBMISSIONS
    assert (finished["minutes"], finished["session"]) == ("14.9", "1b" * 12)
    assert (midway["minutes"], midway["status"], midway["code"]) == ("", "active", "")
    assert (by_link["platform"], by_link["platform_study"], by_link["session"]) == ("open", "", "")


@pytest.mark.parametrize("command", ["export", "submissions"])
def test_an_export_replaces_no_file_of_another_kind(database, tmp_path, command):
    """The database and the frozen study were replaced by a table if they were named."""
    before = (tmp_path / "a.sqlite").read_bytes()
    out = ("--out", tmp_path / "a.sqlite")
    told = say("responses", command, "--database", database, *out, error=ValueError)
    assert "a.sqlite: the name of the file must end in .csv" in told
    assert (tmp_path / "a.sqlite").read_bytes() == before


def test_a_study_may_be_named_by_its_folder(database, study_folder, frozen, tmp_path):
    out = tmp_path / "r.csv"
    say(
        "responses",
        "export",
        "--database",
        database,
        "--out",
        str(out),
        "--study",
        str(study_folder),
    )
    assert set(read_table(out)["study"]) == {frozen[0].hash}
    people = read_table(tmp_path / "r-participants.csv", PARTICIPANTS)
    assert people["code"].dropna().isin(["DONE", "DONE-A"]).all() and len(people) == 2


def test_the_codebook_says_what_was_asked_shown_and_excluded(database, frozen, tmp_path):
    say("responses", "export", "--database", database, "--out", str(tmp_path / "r.csv"))
    book = (tmp_path / "r-codebook.md").read_text()
    study, _ = frozen
    for part in (
        "| attention | obvious |", "How sure are you?", "1 = Not at all (I guessed)",
        "`colour_vision`",
        f"`attention_below`: {study.exclusion.attention_below}", "practice_attempts_above`: off",
        f"`{next(t.id for t in study.trials if t.task == 'odd_one_out')}@2`", "| code |",
    ):  # fmt: skip
        assert part in book, part


def test_submissions_are_listed_by_the_platforms_ids(database, tmp_path):
    out = tmp_path / "ids.csv"
    told = say("responses", "submissions", "--database", database, "--out", str(out))
    assert "keep it apart" in told
    table = pd.read_csv(out, dtype=str)
    assert table["platform_id"].tolist() == ["1" * 24, "2" * 24]
    assert table["session"].tolist() == ["1b" * 12, "2b" * 12]
    assert set(table["platform_study"]) == {"6a" * 12}
    assert table["status"].tolist() == ["finished", "active"]
    assert table["code"].notna().tolist() == [True, False]
