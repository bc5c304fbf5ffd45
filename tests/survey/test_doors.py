"""What is shut: uploads, guessing of passwords, what was deleted; a preview keeps nothing."""

import logging
import sqlite3
import urllib.error
from pathlib import Path
from urllib.request import Request, urlopen

from conftest import Survey
from people import arrive, go
from test_commands import say

from survey_app import preview
from survey_app.passwords import Guard
from survey_app.platforms import Arrival
from survey_app.service import Service
from survey_app.store import Store
from tasks.recruitment import load_recruitment


def status(address: str, method: str = "GET", data: bytes | None = None) -> int:
    try:
        with urlopen(Request(address, data, method=method), timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_survey_takes_no_uploads_and_shows_no_more_than_it_needs(survey):
    upload = f"{survey.address}/_stcore/upload_file/session/file"
    for method in ("PUT", "POST", "DELETE", "OPTIONS", "PATCH"):
        assert status(upload, method, b"x" * 100_000) == 404, method
    for path in (
        "_stcore/metrics", "_stcore/agent/mcp", "_stcore/script-health-check", "media/x",
        "app/static/x", "component/x/y", "oauth2callback", "auth/login", "dashboard", "keys.json",
    ):  # fmt: skip
        assert status(f"{survey.address}/{path}") == 404, path
        assert status(f"{survey.address}/{path}", "POST", b"x") == 404, path
    for path in ("", "_stcore/health", "healthz"):
        assert status(f"{survey.address}/{path}") == 200, path
    assert status(f"{survey.address}/act", "POST", b"x") == 400


def test_wrong_passwords_lock_longer_each_time_and_are_logged(caplog):
    now = [0.0]
    guard = Guard(lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            guard.failed("1.2.3.4")
            assert guard.wait() == 0
        guard.failed("1.2.3.4")
    assert guard.wait() == 60
    assert "wrong password from 1.2.3.4, the 5th in a row" in caplog.text
    now[0] = 61
    assert guard.wait() == 0
    guard.failed("5.6.7.8")
    assert guard.wait() == 120
    for _ in range(20):
        guard.failed("5.6.7.8")
    assert guard.wait() == Guard.LONGEST
    now[0] += Guard.LONGEST
    guard.succeeded()
    guard.failed("1.2.3.4")
    assert guard.wait() == 0


def test_what_was_forgotten_is_in_no_file_of_the_database(frozen, recruitment, tmp_path):
    path = tmp_path / "a.sqlite"
    store = Store(f"sqlite:///{path}")
    store.migrate()
    service = Service(store, *frozen, recruitment=recruitment)
    pid = "deadbeef" * 3
    person = arrive(service, Arrival("prolific", pid, details={"SESSION_ID": "feed" * 6}))
    go(service, person)
    other = arrive(service, "stays")
    go(service, other)

    def files() -> bytes:
        return b"".join(file.read_bytes() for file in Path(tmp_path).glob("a.sqlite*"))

    assert pid.encode() in files() and person.encode() in files()
    told = say("responses", "forget", pid, "--database", f"sqlite:///{path}")
    assert "not reached: exported files and backups" in told
    assert not {pid.encode(), person.encode(), b"feed" * 6} & {
        needle for needle in (pid.encode(), person.encode(), b"feed" * 6) if needle in files()
    }
    assert other.encode() in files()


def test_a_reader_in_the_way_is_said(frozen, tmp_path):
    path = tmp_path / "a.sqlite"
    store = Store(f"sqlite:///{path}")
    store.migrate()
    service = Service(store, *frozen)
    reader = sqlite3.connect(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM studies").fetchone()
    go(service, arrive(service, "x"))
    assert any("write-ahead log" in place for place in store.scrub())
    reader.close()
    assert store.scrub() == ["exported files and backups made before"]


def test_a_person_forgotten_on_postgresql(frozen, postgres):
    store = Store(postgres())
    store.migrate()
    service = Service(store, *frozen)
    go(service, arrive(service, "x"))
    assert store.forget("x") == 1
    assert "PostgreSQL's write-ahead log and its archives" in store.scrub()


# Preview


def test_every_page_can_be_seen_by_name(frozen, study_folder, tmp_path):
    study, _ = frozen
    store = Store(f"sqlite:///{tmp_path / 'p.sqlite'}")
    store.migrate()
    service = Service(store, *frozen, "pilot", load_recruitment(study_folder))
    found = preview.pages(service)
    stages = {page["stage"] for page in found.values()}
    assert {"consent", "instructions", "introduction", "practice", "feedback", "trial",
            "questions", "finished", "screened_out", "withdrawn", "expired"} <= stages  # fmt: skip
    assert sum(page["stage"] == "trial" for page in found.values()) == sum(map(len, study.forms[0]))
    assert "cc=" not in found["finished"]["html"] and "DONE" in found["finished"]["html"]
    codes = service.recruitment.codes
    for reason, code in (("declined", codes.declined), ("full", codes.full),
                         ("closed", codes.full), ("practice", codes.screened_out)):  # fmt: skip
        assert code and code in found[f"screened out, {reason}"]["html"]  # as participants get it
    listed = preview.page(service, "list")["html"]
    assert all(f"?page={name.split()[0]}" in listed for name in found)
    assert preview.page(service, "trial 2")["html"] == found["trial 2"]["html"]
    assert service.places.counts() == {"places": 60, "free": 60}


class Preview(Survey):
    command = "survey(Path(sys.argv[1]), None, 0, '127.0.0.1', 1, False, True)"


def test_a_preview_stores_nothing(study_folder):
    before = {p: p.stat().st_mtime_ns for p in study_folder.rglob("*")}
    served = Preview(study_folder, "unused")
    try:
        assert status(served.address) == 200
    finally:
        served.close()
    assert {p: p.stat().st_mtime_ns for p in study_folder.rglob("*")} == before
