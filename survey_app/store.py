"""The SQL store: places leased, answers exactly once, every step one transaction.

The same code runs on SQLite (one process; WAL, one writer at a time) and PostgreSQL. Nothing about
a participant lives anywhere else, so any process can serve any of them, at any time.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.util import CommandError
from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Table,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    make_url,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from survey_app.flow import Progress
from survey_app.platforms import Arrival
from survey_app.schema import (
    identities,
    metadata,
    of,
    participants,
    people,
    places,
    recruitment_log,
    responses,
    studies,
)
from tasks.responses import Source
from tasks.study import Study

APP_VERSION = version("conceptevo-harness")
BUSY_SECONDS = 20
_PROGRESS = [f.name for f in fields(Progress) if f.name != "feedback"]


def now() -> datetime:
    return datetime.now(UTC)


def open_engine(url: str, durable: bool = True) -> Engine:
    """An engine for any SQLAlchemy URL, tuned for many small transactions.

    Raises:
        ValueError: not a URL, a password with @ in it, or a driver that is not installed.
    """
    private = {"hide_parameters": True}  # answers and ids never go into a log
    try:
        if "@" in (make_url(url).host or ""):
            raise ValueError("two @")
        if url.startswith("sqlite"):
            engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, **private)
            event.listen(engine, "connect", _sqlite_connect if durable else _sqlite_hasty)
            event.listen(engine, "begin", _sqlite_begin)
            return engine
        options = {"pool_size": 10, "max_overflow": 10, "pool_recycle": 1800, **private}
        return create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), **options)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ValueError(
            f"database {url.split('://')[0]!r} cannot be used ({error}); name an "
            f"SQLAlchemy URL such as sqlite:///answers.sqlite or postgresql://user@host/name"
        ) from error
    except ValueError:  # its text holds a part of the password
        raise ValueError(
            "the URL of the database cannot be read: in its password write @ as %40 and % as %25; "
            "its port is a number"
        ) from None


def _sqlite_connect(connection, record) -> None:
    record.info["file"] = _file_of(connection)
    connection.isolation_level = None  # transactions begin as said in _sqlite_begin
    # secure_delete: what is deleted is overwritten, not only unlinked.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_hasty(connection, record) -> None:
    _sqlite_connect(connection, record)
    connection.execute("PRAGMA synchronous=NORMAL")


def _file_of(connection: sqlite3.Connection) -> tuple[str, int] | None:
    """Path and inode of an open database; None for one in memory."""
    *_, path = connection.execute("PRAGMA database_list").fetchone()
    return (path, os.stat(path).st_ino) if path else None


def _still_there(file: tuple[str, int] | None) -> bool:
    """Whether the database that is open still has its name: else nobody would find the answers."""
    try:
        return file is None or os.stat(file[0]).st_ino == file[1]
    except FileNotFoundError:
        return False


def _sqlite_begin(connection: Connection) -> None:
    if not _still_there(connection.info["file"]):
        moved = sqlite3.OperationalError(
            f"{connection.info['file'][0]} was moved, deleted or replaced while it was in use; put "
            f"it back, or start the survey anew"
        )
        raise OperationalError("BEGIN", None, moved)
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


class Store:
    """One database.

    Args:
        url: any SQLAlchemy URL.
        clock: tells the time, in UTC.
        durable: False spares SQLite a disk flush per commit, for data that can be made again.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] = now, durable: bool = True) -> None:
        self.engine = open_engine(url, durable)
        self.clock = clock
        # SQLite has one writer; a fair queue in the process beats its busy-waiting.
        self._turn = threading.Lock() if self.engine.dialect.name == "sqlite" else nullcontext()

    def migrate(self) -> None:
        """Bring the database to the newest schema; creates it where it is empty.

        Raises:
            ValueError: it is of another version of this software, which knows other tables.
        """
        config = AlembicConfig()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.engine.connect() as connection:
            if connection.dialect.name == "postgresql":  # two processes starting at once
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(726031)")
            config.attributes["connection"] = connection
            try:
                if not inspect(connection).has_table("alembic_version"):
                    metadata.create_all(connection)
                    command.stamp(config, "head")
                command.upgrade(config, "head")
            except CommandError as error:
                raise ValueError(
                    f"the database is of another version of this software: {error}; use that "
                    f"version, or another database"
                ) from error
            connection.commit()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction; what it wrote is durable when the block ends."""
        with self._turn, self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One reading transaction, in which all is of one moment; never waits for a writer."""
        options: dict[str, Any] = {"reading": True}
        if self.engine.dialect.name == "postgresql":
            options["isolation_level"] = "REPEATABLE READ"
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def register(self, connection: Connection, study: Study) -> tuple[str, str]:
        """Make the study known; its salt and its secret."""
        row = {
            "hash": study.hash,
            "title": study.title,
            "salt": secrets.token_hex(32),
            "secret": secrets.token_hex(32),
            "created_at": self.clock(),
            "content": study.model_dump(mode="json"),
        }
        self.insert_new(connection, studies, row)
        own = connection.execute(
            select(studies.c.salt, studies.c.secret).where(studies.c.hash == study.hash)
        ).one()
        return own.salt, own.secret

    def insert_new(self, connection: Connection, table, rows) -> bool:
        """Insert unless it is there; whether a (first) row was new."""
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        statement = dialect.insert(table).on_conflict_do_nothing()
        if isinstance(rows, list):
            connection.execute(statement, rows)
            return True
        first = next(iter(table.primary_key.columns))
        return connection.execute(statement.values(rows).returning(first)).first() is not None

    def admit(
        self, connection: Connection, key: dict[str, str], arrival: Arrival, source: Source
    ) -> bool:
        """A new row of a visitor who has agreed; False where they are known already."""
        row = {
            **key,
            "source": source,
            "platform": arrival.platform,
            "arrived_at": self.clock(),
            "questionnaire": {},
            "attention_right": 0,
            **{name: getattr(Progress(), name) for name in _PROGRESS},
        }
        return self.insert_new(connection, participants, row)

    def erase(self, connection: Connection, table: Table, study: str, participant: str) -> None:
        """Delete a participant's rows in a table; with the row in `participants` all others go."""
        connection.execute(delete(table).where(of(table, study, participant)))

    def identify(self, connection: Connection, key: dict[str, str], arrival: Arrival) -> None:
        """Keep the platform's ids of a participant, apart from the answers."""
        if arrival.platform_id:
            identity = {"platform_id": arrival.platform_id, "details": arrival.details}
            connection.execute(insert(identities).values(**key, **identity))

    def renew_session(self, study: str, participant: str, details: dict[str, Any]) -> None:
        """Keep the platform's latest session of a participant: only that one can be paid."""
        with self.read() as connection:
            known = self.identity(connection, study, participant)
        if not known or all(known.get(name) == value for name, value in details.items()):
            return
        with self.write() as connection:
            self.row(connection, study, participant, lock=True)
            before = self.identity(connection, study, participant)
            sessions = before.pop("earlier", [])
            if before and before != details:
                connection.execute(
                    update(identities)
                    .where(of(identities, study, participant))
                    .values(details=details | {"earlier": [*sessions, before]})
                )

    def row(self, connection: Connection, study: str, participant: str, lock: bool = False):
        """The participant's row, or None."""
        query = select(participants).where(of(participants, study, participant))
        found = connection.execute(query.with_for_update() if lock else query).mappings().first()
        return None if found is None else dict(found)

    def identity(self, connection: Connection, study: str, participant: str) -> dict[str, Any]:
        """What the platform sent along; empty where it was deleted."""
        query = select(identities.c.details).where(of(identities, study, participant))
        return connection.scalar(query) or {}

    def update(self, connection: Connection, study: str, participant: str, **values) -> None:
        own = of(participants, study, participant)
        connection.execute(update(participants).where(own).values(**values))

    def save_progress(
        self,
        connection: Connection,
        row: dict[str, Any],
        progress: Progress,
        lease_minutes: float,
        **more,
    ) -> dict[str, Any]:
        """Write a step, renew the lease; the row as it is now."""
        moment = self.clock()
        lease = moment + timedelta(minutes=lease_minutes)
        values = asdict(progress) | {"feedback": None, "shown_at": moment, "lease_until": lease}
        values |= more
        if progress.status == "finished":
            values["finished_at"] = moment
        self.update(connection, row["study"], row["participant"], **values)
        return row | values

    def save_response(self, connection: Connection, values: dict[str, Any]) -> bool:
        """Store an answer unless the participant has one for this trial; whether it is new."""
        return self.insert_new(connection, responses, values | {"app_version": APP_VERSION})

    def known_as(self, connection: Connection, identifier: str) -> Sequence[Row]:
        """Study, source and participant of all who bear it.

        Args:
            identifier: a pseudonym, the platform's id of a person, or of one's latest session.
        """
        details = identities.c.details
        sessions = [details[name].as_string() for name in ("SESSION_ID", "assignmentId")]
        names = (participants.c.participant, identities.c.platform_id, *sessions)
        return connection.execute(
            select(participants.c.study, participants.c.source, participants.c.participant)
            .select_from(people)
            .where(or_(*(name == identifier for name in names)))
        ).all()

    def forget(self, identifier: str) -> int:
        """Delete a person everywhere; see known_as. Their place becomes free.

        Returns:
            how many participations were deleted.
        """
        with self.write() as connection:
            known = self.known_as(connection, identifier)
            for study, _, participant in known:
                held = of(places, study, participant)
                connection.execute(update(places).where(held).values(participant=None))
                self.erase(connection, participants, study, participant)
                named = recruitment_log.c.detail.contains(participant)
                connection.execute(
                    update(recruitment_log).where(named).values(detail="somebody since forgotten")
                )
            return len(known)

    def scrub(self) -> list[str]:
        """Clear what was deleted out of the database's own files; what this cannot reach."""
        beyond = ["exported files and backups made before"]
        if self.engine.dialect.name == "postgresql":
            own = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            with own as connection:
                for table in (participants, identities, responses, recruitment_log):
                    connection.exec_driver_sql(f"VACUUM {table.name}")
            return [*beyond, "PostgreSQL's write-ahead log and its archives"]
        with self._turn:
            raw = self.engine.raw_connection()
            try:
                busy, *_ = raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                raw.close()
        if busy:
            beyond.append(
                "the write-ahead log beside the database, which somebody is reading: run this "
                "again when the survey is idle"
            )
        return beyond


def progress_of(row: dict[str, Any]) -> Progress:
    own = {name: row[name] for name in _PROGRESS}
    return Progress(**own, feedback=row["feedback"] is not None)
