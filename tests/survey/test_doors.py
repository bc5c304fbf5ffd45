"""What is closed: uploads, guessing of passwords, deleted data; a preview stores nothing."""

import contextlib
import logging
import re
import sqlite3
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from command_line import say
from conftest import FEW, Survey
from people import arrive, go, look, open_service

from survey_app import preview
from survey_app.allowed_requests import DASHBOARD, SURVEY
from survey_app.flow import Stage
from survey_app.passwords import Guard, LockedOut
from survey_app.platforms import Visitor
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
    for path in ("component/x/y", "dashboard", "keys.json"):
        assert status(f"{survey.address}/{path}") == 404, path
        assert status(f"{survey.address}/{path}", "POST", b"x") == 404, path
    for path in ("", "_stcore/health", "healthz"):
        assert status(f"{survey.address}/{path}") == 200, path
    assert status(f"{survey.address}/act", "POST", b"x") == 400


#: Of all that the installed Streamlit answers, what a survey needs.
NEEDED = {
    ("GET", "/_stcore/health"), ("HEAD", "/_stcore/health"), ("GET", "/_stcore/host-config"),
    ("HEAD", "/_stcore/host-config"), ("GET", "/_stcore/bidi-components/{path:path}"),
    ("HEAD", "/_stcore/bidi-components/{path:path}"), ("WEBSOCKET", "/_stcore/stream"),
}  # fmt: skip


def test_every_route_of_streamlit_that_a_survey_does_not_need_is_shut():
    """Read from the installed version: a route that a new version brings is shut too."""
    from unittest.mock import MagicMock

    from starlette.routing import Mount, Route, WebSocketRoute
    from streamlit.web.server.starlette import starlette_app, starlette_auth_routes

    routes = starlette_app.create_streamlit_routes(MagicMock())
    routes += starlette_auth_routes.create_auth_routes("")
    offered = set()
    for route in routes:
        if isinstance(route, WebSocketRoute):
            offered.add(("WEBSOCKET", route.path))
        elif isinstance(route, Route):
            offered |= {(method, route.path) for method in route.methods or ()}
        else:
            assert isinstance(route, Mount) and route.path == "", route  # the page and its files
    assert len(offered) > 30 and any("agent" in path for _, path in offered)

    def opened(method: str, path: str) -> bool:
        path = re.sub(r"\{.*?\}", "x", path)
        kind = "websocket" if method == "WEBSOCKET" else "http"
        return SURVEY.allow({"type": kind, "path": path, "method": method})

    assert {(method, path) for method, path in offered if opened(method, path)} == NEEDED


@pytest.mark.parametrize(
    ("origin", "opened"),
    [
        (b"https://survey.example.org", True), (b"https://survey.example.org:8443", True),
        (None, True), (b"https://evil.example", False), (b"null", False), (b"http://[", False),
    ],
)  # fmt: skip
def test_a_page_of_another_host_reaches_no_socket(origin, opened):
    """Streamlit answered it after two requests to a server elsewhere, and nobody else meanwhile."""
    headers = [(b"host", b"survey.example.org"), *[(b"origin", origin)] * (origin is not None)]
    scope = {"type": "websocket", "path": "/_stcore/stream", "headers": headers}
    assert SURVEY.allow(scope) is DASHBOARD.allow(scope) is opened


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def wrong(guard: Guard, address: str, times: int = 1) -> None:
    for _ in range(times):
        assert guard.admits(address, lambda: False) is False


def test_wrong_passwords_lock_their_address_longer_each_time_and_are_logged(caplog):
    clock = Clock()
    guard = Guard(clock)
    with caplog.at_level(logging.WARNING):
        wrong(guard, "1.2.3.4", 4)
        assert guard.lock_seconds("1.2.3.4") == 0
        wrong(guard, "1.2.3.4")
    assert guard.lock_seconds("1.2.3.4") == 60
    assert "wrong password from 1.2.3.4, the 5th in a row" in caplog.text
    with pytest.raises(LockedOut, match="60 s"):
        guard.admits("1.2.3.4", lambda: pytest.fail("a guess was looked at"))
    clock.now = 61
    wrong(guard, "1.2.3.4")
    assert guard.lock_seconds("1.2.3.4") == 120
    for _ in range(20):
        clock.now += Guard.LONGEST
        wrong(guard, "1.2.3.4")
    assert guard.lock_seconds("1.2.3.4") == Guard.LONGEST
    clock.now += Guard.LONGEST
    assert guard.admits("1.2.3.4", lambda: True)
    wrong(guard, "1.2.3.4")
    assert guard.lock_seconds("1.2.3.4") == 0


def test_whoever_guesses_locks_nobody_else_out():
    clock = Clock()
    guard = Guard(clock)
    wrong(guard, "6.6.6.6", 5)
    assert guard.lock_seconds("6.6.6.6") and not guard.lock_seconds("7.7.7.7")
    assert guard.admits("7.7.7.7", lambda: True)
    wrong(guard, "2001:db8::1", 5)
    assert guard.lock_seconds("2001:db8::2"), "one person has a whole /64 network"
    assert not guard.lock_seconds("2001:db8:0:1::2")
    wrong(guard, "::ffff:9.9.9.9", 5)
    assert guard.lock_seconds("9.9.9.9")
    for number in range(400):  # many addresses: slower for all, shut for none
        wrong(guard, f"10.0.{number // 250}.{number % 250}")
    assert guard.delay() == Guard.SLOWEST
    assert guard.admits("7.7.7.7", lambda: True)
    clock.now += Guard.WINDOW + 1
    assert guard.delay() == 0


def test_guesses_at_the_same_moment_are_counted_one_by_one():
    guard, looked = Guard(), []

    def slow() -> bool:
        looked.append(1)
        time.sleep(0.01)
        return False

    def guess(_) -> None:
        with contextlib.suppress(LockedOut):
            guard.admits("6.6.6.6", slow)

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(guess, range(60)))
    assert len(looked) == Guard.FREE


def test_what_was_forgotten_is_in_no_file_of_the_database(frozen, recruitment, tmp_path):
    path = tmp_path / "a.sqlite"
    service = open_service(path, *frozen, recruitment=recruitment)
    pid = "deadbeef" * 3
    person = arrive(service, Visitor("prolific", pid, details={"SESSION_ID": "feed" * 6}))
    go(service, person)
    other = arrive(service, "stays")
    go(service, other)

    def files() -> bytes:
        return b"".join(file.read_bytes() for file in Path(tmp_path).glob("a.sqlite*"))

    assert pid.encode() in files() and person.encode() in files()
    told = say("responses", "forget", pid, "--database", f"sqlite:///{path}")
    assert "deleted data may remain in: exported files and backups" in told
    assert not {pid.encode(), person.encode(), b"feed" * 6} & {
        needle for needle in (pid.encode(), person.encode(), b"feed" * 6) if needle in files()
    }
    assert other.encode() in files()
    assert service.store.forget("stays") == 1  # a command that was interrupted here
    assert other.encode() in files()
    forget = ("responses", "forget", "stays", "--database", f"sqlite:///{path}")
    assert "nothing was deleted" in say(*forget, error=ValueError)
    assert other.encode() not in files()


def test_all_platform_ids_are_forgotten_and_responses_stay(
    study_folder, frozen, recruitment, tmp_path
):
    path = tmp_path / "a.sqlite"
    url = f"sqlite:///{path}"
    service = open_service(url, *frozen, recruitment=recruitment)
    pid, session = "deadbeef" * 3, "feed" * 6
    person = arrive(service, Visitor("prolific", pid, details={"SESSION_ID": session}))
    go(service, person, Stage.TRIAL)
    words = ("responses", "forget-ids", str(study_folder), "--database", url)
    assert "participants who are still taking part (1)" in say(*words, error=ValueError)
    go(service, person)
    assert "ids were deleted: 1" in say(*words)
    files = b"".join(file.read_bytes() for file in tmp_path.glob("a.sqlite*"))
    assert pid.encode() not in files and session.encode() not in files
    assert person.encode() in files
    assert "ids were deleted: 0" in say(*words)


def test_a_reader_in_the_way_is_said(frozen, tmp_path, monkeypatch):
    monkeypatch.setattr("survey_app.store.BUSY_SECONDS", 0.2)
    path = tmp_path / "a.sqlite"
    service = open_service(path, *frozen)
    reader = sqlite3.connect(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM studies").fetchone()
    go(service, arrive(service, "x"))
    assert any("write-ahead log" in place for place in service.store.scrub())
    reader.close()
    assert service.store.scrub() == ["exported files and backups made before"]


def test_a_person_forgotten_on_postgresql(frozen, postgres):
    """After a plain VACUUM, the files of tables and indexes still held responses and ids."""
    service = open_service(postgres(), *frozen)
    person, other = arrive(service, "deadbeef" * 3), arrive(service, "stays")
    go(service, person)
    go(service, other)
    with service.store.engine.connect() as connection:
        folder = connection.exec_driver_sql("SHOW data_directory").scalar()
        query = "SELECT oid FROM pg_database WHERE datname = current_database()"
        oid = connection.exec_driver_sql(query).scalar()

    def files() -> bytes:
        with service.store.engine.connect() as connection:
            connection.exec_driver_sql("CHECKPOINT")
        return b"".join(path.read_bytes() for path in Path(folder, "base", str(oid)).iterdir())

    assert all(name.encode() in files() for name in (person, other, "deadbeef" * 3))
    assert service.store.forget("deadbeef" * 3) == 1
    for _ in range(20):  # a transaction under way, such as autovacuum's, keeps deleted rows
        assert "PostgreSQL's write-ahead log and its archives" in service.store.scrub()
        if person.encode() not in (remaining := files()):
            break
        time.sleep(0.5)
    assert person.encode() not in remaining and b"deadbeef" * 3 not in remaining
    assert other.encode() in remaining


# Preview


def test_every_page_can_be_seen_by_name(frozen, study_folder, tmp_path):
    study, _ = frozen
    service = open_service(tmp_path / "p.sqlite", *frozen, "pilot", load_recruitment(study_folder))
    found = preview.pages(service)
    stages = {page["stage"] for page in found.values()}
    assert {"consent", "instructions", "introduction", "practice", "feedback", "trial",
            "questions", "finished", "screened_out", "withdrawn", "expired"} <= stages  # fmt: skip
    assert sum(page["stage"] == "trial" for page in found.values()) == sum(map(len, study.forms[0]))
    assert service.recruitment.platforms[0] == "prolific"
    for name, code in (("finished", "DONE"), ("finished, attention failed", "DONE-A")):
        assert f"cc={code}" in found[name]["html"]  # an open link's page has its code alone
    assert not any("address of this page" in page["html"] for page in found.values())
    codes = service.recruitment.codes
    for reason, code in (("declined", codes.declined), ("full", codes.full),
                         ("closed", codes.full), ("practice", codes.screened_out)):  # fmt: skip
        assert code and code in found[f"screened out, {reason}"]["html"]  # as participants get it
    listed = preview.page(service, "list")["html"]
    assert all(f"?page={name.split()[0]}" in listed for name in found)
    assert preview.page(service, "trial 2")["html"] == found["trial 2"]["html"]
    assert service.places.counts() == {"places": 60, "free": 60}


@pytest.mark.parametrize("platform", ["open", "prolific"])
def test_only_a_visitor_of_a_platform_is_turned_away_with_a_code(service, platform):
    """A visitor of the open link has no account to which a code could be given."""
    codes = service.recruitment.codes

    def turn_away(name, **values):
        page = look(service, arrive(service, name, platform))
        page, _ = service.act(page["token"], {"values": values}) if values else (page, None)
        assert page["stage"] == "screened_out"
        return page["html"]

    pages = {codes.declined: turn_away("a", consent="no")}
    pages[codes.screened_out] = turn_away("b", consent="screen")
    for number in range(FEW):
        go(service, arrive(service, f"place {number}", platform), Stage.TRIAL)
    pages[codes.full] = turn_away("c", consent="yes")
    service.recruitment = service.recruitment.model_copy(update={"platforms": (platform,)})
    previews = preview.pages(service)
    pages[codes.full] += previews["screened out, closed"]["html"]
    for code, html in pages.items():
        assert (f">{code}</code>" in html) is (platform == "prolific")
        assert ("completion code" in html) is (platform == "prolific")
    assert f">{codes.screened_out}</code>" in previews["screened out, practice"]["html"]


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
