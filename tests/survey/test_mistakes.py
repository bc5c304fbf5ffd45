"""Mistakes of researchers in files and commands are reported before anybody takes part."""

import contextlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from command_line import say
from conftest import FEW
from people import arrive, fill, go, look, open_service
from PIL import Image
from prolific_double import TOKEN, Prolific
from sqlalchemy.exc import OperationalError

from harness.section import read_text
from survey_app import prolific, signed_links
from survey_app.flow import Stage
from survey_app.platforms import Visitor
from survey_app.service import Service
from survey_app.store import now
from tasks.build import build
from tasks.evidence import read_groups
from tasks.files import read_picture
from tasks.language import Words
from tasks.questionnaire_file import read_questionnaire
from tasks.reading import read_texts
from tasks.recruitment import load_recruitment, write_recruitment
from tasks.settings import StudySettings, Texts, load_settings


def settings(tmp_path: Path, text: str) -> StudySettings:
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    return load_settings(tmp_path / "study.toml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[trials.odd_one_out]\nbase = -3", "trials.odd_one_out.base = -3: .*at least 0"),
        ("[trials.odd_one_out]\nbase = '3'", "trials.odd_one_out.base = '3': .*a whole number"),
        ("[trials.odd_one_out]\nbase = true", "trials.odd_one_out.base = True: .*a whole number"),
        ("[trials.odd_one_out]\nbase = 0", "task 'odd_one_out' has no trials; give its conditions"),
        ("[trials.odd_one_out]", "task 'odd_one_out' has no trials"),
        ("trials = 3", "trials = 3: must be a table"),
        ("lease_minutes = 0.5", "lease_minutes = 0.5: must be at least 1"),
        ("lease_minutes = 2\nseconds_per_trial = 120", "toml: seconds_per_trial = 120, lease_min"),
        ("title = 'a\tb'", "in one line"),
        ("[recruitment]\nstudies = ['x', 'x']", "studies = .*'x' occurs 2 times"),
        ("[recruitment]\nplatforms = 'open'", "platforms = 'open': must be a list"),
        ("lease_minutes = inf", "lease_minutes = inf: must be a finite number"),
        ("seconds_per_trial = 0.5", "seconds_per_trial = 0.5: nobody can answer in time"),
        ('title = "a\\nb"', "in one line"),
        ("title = ' '", "participants see the title on every page"),
        ("participants = -3", "participants = -3: must be at least 1"),
        ("[evidence.eps]\nbase = -1", "evidence.eps.base = -1: must be greater than 0"),
        ("[evidence.eps]\nbsae = 0.3", "'bsae' is none of base, same_series, other_series"),
        ("[evidence.eps]\nbase = 0.3", "eps is for grouping = 'clusters', and has no effect with"),
        ("[recruitment.codes]\nfull = 'A B'", "recruitment.codes.full = 'A B': .*must match"),
        (f"[recruitment.codes]\nfull = '{'A' * 65}'", "recruitment.codes.full = .*must match"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path, text, told):
    with pytest.raises(ValueError, match=told):
        settings(tmp_path, text)


@pytest.mark.parametrize(
    ("trials", "told"),
    [
        ({"odd_one": {"base": 1}}, "unknown task 'odd_one'; known: odd_one_out"),
        ({"nosuch.module:TASK": {"base": 1}}, "nosuch.module:TASK"),
        ({"odd_one_out": {"bsae": 1}}, "trials.odd_one_out.bsae: no such condition"),
    ],
)
def test_an_unknown_task_or_condition_is_named(run, tmp_path, trials, told):
    with pytest.raises(ValueError, match=told):
        build(run, StudySettings(trials=trials), tmp_path / "study", say=lambda text: None)


def consent(path: Path) -> StudySettings:
    return StudySettings(texts=Texts(consent=str(path)))


READERS = {
    "study.toml": load_settings,
    "recruitment.toml": lambda path: load_recruitment(path.parent),
    "questions.toml": lambda path: read_questionnaire(path, Words(), 0),
    "groups.toml": read_groups,
    "consent.md": lambda path: read_texts(consent(path), {}),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_in_another_encoding_is_named_with_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes("title = 'Größe'".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name} cannot be read: byte 12 is not UTF-8; save"):
        READERS[name](tmp_path / name)
    (tmp_path / name).write_bytes("title = 'Size'".encode("utf-16-le"))
    with pytest.raises(ValueError, match=rf"{name} holds zero bytes, as files in UTF-16 do; save"):
        READERS[name](tmp_path / name)


def test_a_byte_order_mark_is_taken_as_windows_writes_it(tmp_path, service):
    assert settings(tmp_path, "\ufefftitle = 'Größe'").title == "Größe"
    (tmp_path / "ids.txt").write_text("\ufeff" + "a" * 24, encoding="utf-8")
    service.places.block(read_text(tmp_path / "ids.txt", "list").splitlines())
    assert "earlier study" in look(service, arrive(service, "a" * 24))["html"]


def test_a_name_in_braces_that_nothing_replaces_is_refused(tmp_path):
    (tmp_path / "own.md").write_text("It takes {minuts} minutes.")
    settings = StudySettings(texts={"consent": str(tmp_path / "own.md")})
    with pytest.raises(ValueError, match=r"consent: .*own.md contains \{minuts\}.* \{minutes\} \("):
        read_texts(settings, {"minutes": 7})


def test_an_empty_text_is_refused(tmp_path):
    (tmp_path / "consent.md").write_text(" \n")
    with pytest.raises(ValueError, match=r"texts.consent: .*consent.md is empty"):
        read_texts(consent(tmp_path / "consent.md"), {})


QUESTION = "[[question]]\nname = '{}'\nlabel = 'A'\nkind = {}\n"


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("withdraw", "'text'", "the survey itself uses this name"),  # an answer erased all answers
        ("consent", "'text'", "the survey itself uses this name"),
        ("colour_right", "'text'", "the survey itself uses this name"),
        ("colour_1", "'text'", "the survey itself uses this name"),
        ("a", "'choice'\nchoices = ['', 'y']", "one of its choices is empty"),
        ("a", "'choice'\nchoices = ['x', 'y']\nscreen_out = ['x', 'y']", "nobody could take part"),
        ("a", "'choice'\nwhen = 'quiz'\nchoices = ['x', 'y']\nright = ['x', 'y']", "every answer"),
        ("a", "'number'\nlimits = [9, 1]", r"limits = \[9.0, 1.0\]: the smaller number comes"),
        ("a", "'number'\nstay_within = [9, 1]", "stay_within = .*the smaller number comes first"),
        ("a", "'number'\nlimits = [0, 9]\nstay_within = [18, 99]", "nobody could take part"),
    ],
)
def test_a_question_that_nobody_can_answer_is_refused(tmp_path, name, kind, told):
    (tmp_path / "q.toml").write_text(QUESTION.format(name, kind))
    with pytest.raises(ValueError, match=told):
        read_questionnaire(tmp_path / "q.toml", Words(), 0)


def encoded(kind: str) -> bytes:
    data = io.BytesIO()
    Image.effect_noise((200, 200), 80).convert("RGB").save(data, kind)
    return data.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def huge() -> bytes:
    data = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (lambda: encoded("PNG")[:500], "truncated"),
        (lambda: flipped(encoded("PNG"), 60), "broken|checksum|corrupt"),
        (lambda: encoded("JPEG")[:5000], "truncated"),
        (huge, "exceeds limit"),
        (lambda: b"", "not a picture"),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "not a picture"),
    ],
)
def test_a_damaged_picture_is_one_sentence(tmp_path, picture, told):
    (tmp_path / "a.png").write_bytes(picture())
    with pytest.raises(ValueError, match=f"consent.md: picture .*a.png cannot be read .*({told})"):
        read_picture("a.png", tmp_path, "consent.md")
    with pytest.raises(ValueError, match="cannot be read"):
        read_picture("a\0.png", tmp_path, "consent.md")


# The database


def test_a_database_that_is_read_only_or_locked_is_one_sentence(
    study_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("survey_app.store.BUSY_SECONDS", 0.2)
    path = tmp_path / "a.sqlite"
    simulate = ("study", "simulate", str(study_folder), "--participants", "1", "--database")
    say(*simulate, f"sqlite:///{path}")
    told = say(*simulate, f"sqlite:///file:{path}?mode=ro&uri=true", error=ValueError)
    assert "cannot be used: attempt to write a readonly database; SQLite needs a folder" in told
    told = say(*simulate, f"sqlite:///{tmp_path / 'nowhere' / 'a.sqlite'}", error=ValueError)
    assert "unable to open database file; SQLite needs a folder that exists" in told
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        told = say(*simulate, f"sqlite:///{path}", error=ValueError)
        assert "cannot be used: database is locked" in told and "\n" not in told
    (tmp_path / "b.sqlite").write_bytes(b"not a database, but a file of some length" * 40)
    told = say(*simulate, f"sqlite:///{tmp_path / 'b.sqlite'}", error=ValueError)
    assert "file is not a database" in told


def test_nothing_is_acknowledged_into_a_database_that_was_moved_away(frozen, tmp_path):
    path = tmp_path / "a.sqlite"
    service = open_service(path, *frozen)
    page = go(service, arrive(service, "x"), Stage.TRIAL)
    path.rename(tmp_path / "b.sqlite")
    for _ in range(2):
        with pytest.raises(OperationalError, match=r"a.sqlite was moved, deleted or replaced"):
            service.act(page["token"], fill(page))
    shutil.copy(tmp_path / "b.sqlite", path)
    with pytest.raises(OperationalError, match="start the survey again"):
        service.act(page["token"], fill(page))
    (tmp_path / "b.sqlite").rename(path)
    assert service.act(page["token"], fill(page))[1] is True


def test_a_worker_serves_no_other_study_than_the_one_that_was_started(study_folder, tmp_path):
    """The folder is rebuilt and a worker dies: its successor must not mix the two studies."""
    environment = {
        "CONCEPTEVO_STUDY": str(study_folder),
        "CONCEPTEVO_DATABASE": f"sqlite:///{tmp_path / 'a.sqlite'}",
        "CONCEPTEVO_HASH": "0" * 16,
    }
    ended = subprocess.run(
        [sys.executable, "-m", "survey_app.worker", "0", "app.py"],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert ended.returncode and "two studies must not share participants" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_two_studies_share_a_database_and_nothing_else(service, frozen, few):
    renamed = frozen[0].model_copy(update={"hash": "1" * 16})
    other = Service(service.store, renamed, frozen[1], recruitment=few)
    person, again = arrive(service, "x"), arrive(other, "x")
    assert person != again, "one person's pseudonyms could be joined"
    page = go(service, person, Stage.TRIAL)
    go(other, again)
    with pytest.raises(ValueError, match="signature"):
        other.act(page["token"], fill(page))
    other.places.set_state("closed")
    assert service.act(page["token"], fill(page))[1] is True
    assert look(service, arrive(service, "new"))["stage"] == "consent"
    assert [s.places.counts()["free"] for s in (service, other)] == [FEW - 1, FEW - 1]
    assert [len(s.places.log()) for s in (service, other)] == [1, 2]
    assert service.store.forget("x") == 2  # whoever asks to be forgotten means everywhere


# Recruitment


def test_nobody_begins_before_the_opening(service):
    early = look(service, arrive(service, "reads consent"))
    service.places.set_state("paused")
    service.places.open_at(now() + timedelta(hours=2))
    page = look(service, arrive(service, "x"))
    assert "has not started yet" in page["html"] and "cc=FULL" in page["html"]
    assert "has not started yet" in service.act(early["token"], fill(early))[0]["html"]
    service.store.clock = lambda: now() + timedelta(hours=2, seconds=1)
    assert look(service, arrive(service, "x"))["stage"] == "consent"
    service.store.clock = now
    service.places.set_state("open")  # at once
    assert look(service, arrive(service, "x"))["stage"] == "consent"
    events = [row["event"] for row in service.places.log()]
    assert events == ["opened", "paused", "open-at", "open"]


def test_times_are_in_utc_in_every_zone_of_the_database(frozen, postgres, monkeypatch):
    """PostgreSQL's own times were shown with "UTC" behind them."""
    monkeypatch.setenv("PGTZ", "Asia/Kolkata")
    service = open_service(postgres(), *frozen)
    service.places.open_at(now() + timedelta(hours=2))
    with service.store.read() as connection:
        times = [service.places.opens(connection), *(r["moment"] for r in service.places.log())]
    assert [time.utcoffset() for time in times] == [timedelta(0)] * 3


def test_the_opening_is_set_by_command_and_mistakes_change_nothing(study_folder, tmp_path):
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    say("study", "simulate", str(study_folder), "--participants", "1", "--database", url)
    places = ("study", "places", "--database", url, "--source", "simulated", "--")
    places += (str(study_folder),)
    told = say(*places, "open-at", "2099-12-01T09:00+01:00")
    assert "opens 2099-12-01 08:00 UTC" in told
    for wrong in ("tomorrow", "2099-12-01T09:00"):
        assert "such as 2026-12-01T09:00+01:00" in say(*places, "open-at", wrong, error=ValueError)
    gone = say(*places, "open-at", "2019-12-01T09:00+01:00", error=ValueError)
    assert "open-at 2019-12-01 09:00:00+01:00: this time has passed" in gone
    for words in (("release",), ("pause", "x"), ("+0",), ("-1",), ("block", str(tmp_path))):
        say(*places, *words, error=ValueError)
    told = say(*places, "release", "nobody", error=ValueError)
    assert "no participant has the id 'nobody'" in told
    assert say(*places).count("UTC  ") == 2, "a mistake is in the log of changes"


# Prolific


@pytest.fixture
def busy(monkeypatch):
    """Return a double of Prolific, and the time for which it was waited."""
    double, waits = Prolific(), []
    monkeypatch.setenv(signed_links.API, double.address)
    monkeypatch.setenv(prolific.TOKEN, TOKEN)
    monkeypatch.setattr("survey_app.prolific.time.sleep", waits.append)
    return double, waits


def refuse(monkeypatch, statuses: list[int], text: str = "busy", **reply) -> list[str]:
    """Make the next calls fail with these statuses; return the calls."""
    calls, real = [], httpx.Client.request

    def request(client, method, path, **options):
        calls.append(f"{method} {path}")
        if statuses:
            return httpx.Response(statuses.pop(0), text=text, **reply)
        return real(client, method, path, **options)

    monkeypatch.setattr(httpx.Client, "request", request)
    return calls


def test_a_busy_prolific_is_asked_again_as_it_says(busy, monkeypatch):
    _, waits = busy
    calls = refuse(monkeypatch, [429, 429, 503], headers={"retry-after": "7"})
    assert list(prolific.Prolific().submissions("s")) == []
    assert len(calls) == 4 and waits == [7, 7, 7]
    refuse(monkeypatch, [429] * 9)
    with pytest.raises(ValueError, match=r"Prolific refused GET .* \(429\): busy"):
        list(prolific.Prolific().submissions("s"))


def test_what_may_have_been_done_is_not_done_twice(busy, monkeypatch):
    calls = refuse(monkeypatch, [500])
    with pytest.raises(ValueError, match=r"Prolific refused POST .* \(500\): busy"):
        prolific.Prolific().approve("s")
    assert len(calls) == 1
    refuse(monkeypatch, [200], text="<html>sign in</html>")
    with pytest.raises(ValueError, match="is not JSON"):
        list(prolific.Prolific().submissions("s"))


def test_approvals_that_stop_midway_say_how_many_were_done(
    busy, monkeypatch, frozen, study_folder, tmp_path
):
    double, _ = busy
    folder, study = tmp_path / "study", "6a" * 12
    shutil.copytree(study_folder, folder)
    known = load_recruitment(folder).model_copy(update={"studies": (study,)})
    write_recruitment(folder, known)
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    service = open_service(url, *frozen, recruitment=known)
    for number in range(3):
        pid, session = f"{number:024x}", f"5e{number:022x}"
        ids = {"PROLIFIC_PID": pid, "STUDY_ID": study, "SESSION_ID": session}
        person = arrive(service, Visitor("prolific", pid, details=ids))
        go(service, person)
        with service.store.write() as connection:
            service.store.update(connection, service.study.hash, person, code="DONE")
        double.submissions.append(
            {"id": session, "study": study, "status": "AWAITING REVIEW", "study_code": "DONE"}
        )
    real = prolific.Prolific.approve

    def stops(self, session):
        if session.endswith("1"):
            raise ValueError("Prolific refused")
        real(self, session)

    approve = ("prolific", "approve", str(folder), "--database", url, "--yes")
    with monkeypatch.context() as patched:
        patched.setattr(prolific.Prolific, "approve", stops)
        told = say(*approve, error=ValueError)
    assert (
        "approved 1 of 3, then stopped at" in told and "approved submissions stay approved" in told
    )
    assert "approved 2" in say(*approve)
    assert "approved 0" in say(*approve)  # nobody is paid twice
    assert [s["status"] for s in double.submissions] == ["APPROVED"] * 3
