"""A study moved to another database, and what a survey says before people are locked out."""

import shutil
import socket
import sqlite3
from contextlib import closing

import pytest
from command_line import say
from conftest import Survey
from people import arrive, fill, go, look, open_service
from sqlalchemy import String, func, select, type_coerce

from survey_app.commands import _cautions, file_url
from survey_app.export import tables
from survey_app.flow import Stage
from survey_app.move import copy_tables
from survey_app.places import Places
from survey_app.platforms import Visitor
from survey_app.schema import metadata
from survey_app.service import Service
from survey_app.store import Store
from tasks.recruitment import load_recruitment, write_recruitment

IDS = {"PROLIFIC_PID": "5f" * 12, "STUDY_ID": "6a" * 12, "SESSION_ID": "7b" * 12}
PERSON = Visitor("prolific", IDS["PROLIFIC_PID"], details=IDS)


@pytest.fixture
def folder(study_folder, tmp_path):
    """A study whose SQLite file has one person who finished, one midway and one who withdrew."""
    folder = tmp_path / "study"
    shutil.copytree(study_folder, folder, ignore=shutil.ignore_patterns("*.sqlite*"))
    return folder


@pytest.fixture
def service(folder, frozen):
    store = Store(file_url(folder / "answers.sqlite"))
    store.migrate()
    service = Service(store, *frozen, recruitment=load_recruitment(folder))
    go(service, arrive(service, "finished"))
    page = go(service, arrive(service, "withdrawn"), Stage.TRIAL)
    service.act(page["token"], {"values": {"withdraw": "yes"}})
    page = go(service, arrive(service, PERSON), Stage.TRIAL)
    service.act(page["token"], fill(page))
    service.places.add(2)
    yield service
    store.engine.dispose()


def contents(store: Store) -> dict:
    with store.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(
                select(table).order_by(*table.primary_key))]
            for table in metadata.sorted_tables
        }  # fmt: skip


def absent(store: Store) -> dict:
    """Count the SQL NULLs by column."""
    with store.read() as connection:
        return {
            (table.name, column.name): connection.scalar(
                select(func.count()).where(type_coerce(column, String).is_(None)))
            for table in metadata.sorted_tables for column in table.c
        }  # fmt: skip


def test_a_study_moves_to_postgresql_and_goes_on_there(folder, service, frozen, postgres):
    before, (answers, _) = contents(service.store), tables(service.store, "human")
    nulls = absent(service.store)
    assert nulls[("participants", "feedback")] == 3
    assert len(answers) > 20 and len(before["recruitment_log"]) == 2
    url, path = postgres(), folder / "answers.sqlite"
    service.store.read().__enter__()  # a connection of the survey, which is still running
    refused = say("responses", "move", folder, "--to", url, error=ValueError)
    assert "is in use" in refused and "stop the survey" in refused and path.exists()
    service.store.engine.dispose()
    assert "3  participants" in say("responses", "move", folder, "--to", url)
    store = Store(url)
    assert contents(store) == before and absent(store) == nulls
    moved = Service(store, *frozen, recruitment=load_recruitment(folder))
    page = look(moved, arrive(moved, PERSON))
    assert page["stage"] == "trial"
    assert go(moved, arrive(moved, PERSON))["stage"] == "finished"
    assert go(moved, arrive(moved, "new"))["stage"] == "finished"
    moved.places.add(1)  # numbered by the new database
    assert moved.places.counts()["places"] == 63
    assert [row["number"] for row in moved.places.log()] == [1, 2, 3]
    again = say("responses", "move", folder, "--to", url, error=ValueError)
    assert "answers.sqlite does not exist" in again
    assert "its move was interrupted, rename it to answers.sqlite" in again
    for command in ("places", "simulate"):
        told = say("study", command, folder, error=ValueError)
        assert "this study was moved to another database; give its URL with --database" in told
        assert "if the move was interrupted, rename the file to answers.sqlite" in told


def test_the_log_of_an_interrupted_move_is_not_applied(folder, service, tmp_path):
    """After the file was renamed and used again, its old pages would have replaced newer ones."""
    path, moved = folder / "answers.sqlite", folder / "answers-moved.sqlite"
    shutil.copy(f"{path}-wal", f"{moved}-wal")
    service.places.add(1)
    before = contents(service.store)
    service.store.engine.dispose()
    url = file_url(tmp_path / "new.sqlite")
    say("responses", "move", folder, "--to", url)
    assert contents(Store(url)) == before


def test_nothing_is_moved_if_it_cannot_be_moved_whole(folder, service, frozen, postgres):
    before, path = contents(service.store), folder / "answers.sqlite"
    filled = Store(postgres())
    filled.migrate()
    Service(filled, *frozen)
    service.store.engine.dispose()
    with pytest.raises(ValueError, match="the new database has rows in places; name an empty"):
        copy_tables(service.store, filled)
    service.store.engine.dispose()
    url = filled.engine.url.render_as_string(hide_password=False)
    say("responses", "move", folder, "--to", url, error=ValueError)
    with closing(sqlite3.connect(path, isolation_level=None)) as file:  # longer than the column
        file.execute("UPDATE participants SET platform = ? WHERE status = 'active'", ["x" * 99])
    empty = Store(postgres())
    empty.migrate()
    url = empty.engine.url.render_as_string(hide_password=False)
    assert "too long" in say("responses", "move", folder, "--to", url, error=ValueError)
    assert not any(contents(empty).values())
    service.store.engine.dispose()
    same = file_url(path)
    assert "is in use" in say("responses", "move", folder, "--to", same, error=ValueError)
    assert path.exists() and len(contents(service.store)["responses"]) == len(before["responses"])


@pytest.mark.parametrize(
    ("broken", "to", "told"),
    [
        ("answers.sqlite", "sqlite:///new.sqlite", "is in use or damaged (file is not a database)"),
        ("answers-moved.sqlite", "sqlite:///new.sqlite", "of an earlier move, would be replaced"),
        ("", "sqlite://", "is lost when the command ends"),
    ],
)
def test_a_move_that_would_lose_something_is_refused(folder, monkeypatch, broken, to, told):
    monkeypatch.chdir(folder)
    (folder / "answers.sqlite").touch()
    (folder / broken if broken else folder / "other").write_bytes(b"no database" * 100)
    files = {path: path.read_bytes() for path in folder.glob("answers*")}
    assert told in say("responses", "move", folder, "--to", to, error=ValueError)
    assert {path: path.read_bytes() for path in folder.glob("answers*")} == files


def served(folder, database) -> str:
    """Return what a survey says at its start."""
    survey = Survey(folder, database)
    survey.close()
    return " ".join(survey.process.stdout.read().split())


@pytest.mark.slow
def test_another_database_for_a_study_that_has_begun_is_told(folder, service, frozen, tmp_path):
    other, own = tmp_path / "other.sqlite", folder / "answers.sqlite"
    new = open_service(other, *frozen)
    go(new, arrive(new, "new"))
    for database, warned in ((file_url(other), True), (file_url(own), False)):
        told = served(folder, database)
        assert ("holds 3 participants of this study whom this database does not" in told) is warned
        assert ("`conceptevo responses move" in told) is warned


def test_a_study_that_replaces_one_that_has_begun_is_told(folder, service):
    new = Places(service.store, "0" * 16, "human")
    for places, warned in ((new, True), (service.places, False)):
        told = " ".join(_cautions(folder, places, load_recruitment(folder)))
        assert ("holds 1 unfinished participant of other studies" in told) is warned


def test_a_damaged_file_does_not_stop_a_survey_with_another_database(folder, tmp_path):
    (folder / "answers.sqlite").write_bytes(b"no database" * 100)
    told = served(folder, file_url(tmp_path / "other.sqlite"))
    assert "file is not a database, so that it is not known whether participants" in told


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"platforms": ("open",)}, 1),
        ({"ids": "[A-Z]+"}, 1),
        ({"studies": ("other",)}, 1),
        ({"signed": True, "platforms": ("prolific",), "audience": "survey.example.org"}, 1),
        ({"lease_minutes": 3.0, "studies": (IDS["STUDY_ID"], "other")}, 0),
    ],
)
def test_settings_that_lock_out_participants_who_have_begun_are_told(
    folder, service, change, count
):
    edited = load_recruitment(folder).model_copy(update=change)
    assert service.places.count_locked_out(edited) == count


def test_a_survey_says_whom_its_settings_lock_out(folder, service):
    """Also after a start that failed because another program uses the port."""
    signing = {"signed": True, "platforms": ("prolific",), "audience": "survey.example.org"}
    write_recruitment(folder, load_recruitment(folder).model_copy(update=signing))
    with closing(socket.create_server(("127.0.0.1", 0))) as busy:
        port = busy.getsockname()[1]
        assert "cannot listen" in say("survey", folder, "--port", port, error=ValueError)
    told = served(folder, file_url(folder / "answers.sqlite"))
    assert "now refuses: 1 (platforms, studies, ids or signed" in told
    assert "change of signed is reported only at this first start" in told
