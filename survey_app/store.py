"""The SQL database: every step is one transaction, and every response is stored exactly once.

The same code runs on SQLite (one process; WAL, one writer at a time) and PostgreSQL. All data of a
participant are in the database, so any process can serve any participant at any time.
"""

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
    func,
    insert,
    inspect,
    make_url,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from survey_app.flow import UNFINISHED, Progress
from survey_app.platforms import LINK_ID, PARAMETERS, Visitor
from survey_app.schema import (
    identities,
    metadata,
    of_participant,
    participants,
    people,
    places,
    recruitment_log,
    responses,
    status_at,
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
    """Return an engine for any SQLAlchemy URL, tuned for many small transactions.

    Raises:
        ValueError: the URL is malformed (perhaps by @ in its password), or its driver is missing.
    """
    private = {"hide_parameters": True}  # keeps responses and ids out of logs
    try:
        if "@" in (make_url(url).host or ""):
            raise ValueError("two @")
        if url.startswith("sqlite"):
            engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, **private)
            event.listen(engine, "connect", _sqlite_connect if durable else _sqlite_connect_fast)
            event.listen(engine, "begin", _sqlite_begin)
            return engine
        # Otherwise connections that the network has dropped silently block for 15 minutes.
        limits = {"connect_timeout": 10, "tcp_user_timeout": 10_000, "keepalives_idle": 10}
        # A database without an encoding gives text as bytes to clients that name none.
        options = limits | {"client_encoding": "utf8"}
        pool = {"pool_size": 10, "max_overflow": 10, "pool_recycle": 1800}
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        return create_engine(url, connect_args=options, **pool, **private)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ValueError(
            f"database {url.split('://')[0]!r} cannot be used ({error}); name an "
            f"SQLAlchemy URL such as sqlite:///answers.sqlite or postgresql://user@host/name"
        ) from error
    except ValueError:  # its message holds a part of the password
        raise ValueError(
            "the URL of the database is malformed: in its password, write @ as %40 and % as %25; "
            "its port must be a number"
        ) from None


def _sqlite_connect(connection, record) -> None:
    record.info["file"] = _file_of(connection)
    connection.isolation_level = None  # _sqlite_begin begins transactions
    # secure_delete overwrites deleted data.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_connect_fast(connection, record) -> None:
    _sqlite_connect(connection, record)
    connection.execute("PRAGMA synchronous=NORMAL")


def _file_of(connection: sqlite3.Connection) -> tuple[str, int] | None:
    """Return path and inode of an open database, or None if it is in memory."""
    *_, path = connection.execute("PRAGMA database_list").fetchone()
    return (path, os.stat(path).st_ino) if path else None


def _is_in_place(file: tuple[str, int] | None) -> bool:
    """Return whether an open database still has its path: otherwise responses would be lost."""
    try:
        return file is None or os.stat(file[0]).st_ino == file[1]
    except FileNotFoundError:
        return False


def _sqlite_begin(connection: Connection) -> None:
    if not _is_in_place(connection.info["file"]):
        error = sqlite3.OperationalError(
            f"{connection.info['file'][0]} was moved, deleted or replaced while it was in use; put "
            f"it back, or start the survey again"
        )
        raise OperationalError("BEGIN", None, error)
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


class Store:
    """A database.

    Args:
        url: any SQLAlchemy URL.
        clock: returns the current time in UTC.
        durable: False saves SQLite a disk flush per commit, for data that can be reproduced.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] = now, durable: bool = True) -> None:
        self.engine = open_engine(url, durable)
        self.clock = clock
        # SQLite admits one writer; a lock in the process is faster than its busy-waiting.
        self._lock = threading.Lock() if self.engine.dialect.name == "sqlite" else nullcontext()

    def close(self) -> None:
        self.engine.dispose()

    def migrate(self) -> None:
        """Migrate the database to the newest schema; create the tables if it is empty.

        Raises:
            ValueError: another version of this software made the database, with other tables, or
                its encoding is not UTF-8.
        """
        config = AlembicConfig()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
                if encoding != "UTF8":  # of a server set up without a locale: SQL_ASCII
                    raise ValueError(
                        f"the database has the encoding {encoding}, in which not every response "
                        f"can be stored; make another one by `createdb --encoding UTF8 --locale C "
                        f"--template template0 NAME`"
                    )
                # two processes may start at once
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(726031)")
            config.attributes["connection"] = connection
            try:
                if not inspect(connection).has_table("alembic_version"):
                    metadata.create_all(connection)
                    command.stamp(config, "head")
                command.upgrade(config, "head")
            except CommandError as error:
                raise ValueError(
                    f"the database was made by another version of this software: {error}; use "
                    f"that version, or another database"
                ) from error
            connection.commit()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction, whose changes are durable when the block ends."""
        with self._lock, self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that reads a consistent snapshot and never waits for a writer."""
        options: dict[str, Any] = {"reading": True}
        if self.engine.dialect.name == "postgresql":
            options["isolation_level"] = "REPEATABLE READ"
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def register(self, connection: Connection, study: Study) -> tuple[str, str]:
        """Store the study if it is new; return its salt and its secret."""
        study_row = {
            "hash": study.hash,
            "title": study.title,
            "salt": secrets.token_hex(32),
            "secret": secrets.token_hex(32),
            "created_at": self.clock(),
            "content": study.model_dump(mode="json"),
        }
        self.insert_new(connection, studies, study_row)
        query = select(studies.c.salt, studies.c.secret).where(studies.c.hash == study.hash)
        return connection.execute(query).tuples().one()

    def insert_new(self, connection: Connection, table: Table, row: dict[str, Any]) -> bool:
        """Insert a row unless one with its key is present; return whether it was new."""
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        statement = dialect.insert(table).values(row).on_conflict_do_nothing()
        return connection.execute(statement.returning(*table.primary_key)).first() is not None

    def admit(
        self, connection: Connection, key: dict[str, str], visitor: Visitor, source: Source
    ) -> bool:
        """Insert a row for a visitor who has consented; return False if there is one already."""
        row = {
            **key,
            "source": source,
            "platform": visitor.platform,
            "arrived_at": self.clock(),
            "questionnaire": {},
            "attention_right": 0,
            **{name: getattr(Progress(), name) for name in _PROGRESS},
        }
        return self.insert_new(connection, participants, row)

    def erase(self, connection: Connection, table: Table, study: str, participant: str) -> None:
        """Delete a participant's rows in a table; deletion in `participants` cascades to others."""
        connection.execute(delete(table).where(of_participant(table, study, participant)))

    def store_identity(self, connection: Connection, key: dict[str, str], visitor: Visitor) -> None:
        """Store the platform's ids of a participant, apart from the responses."""
        identity = {"platform_id": visitor.platform_id, "details": visitor.details}
        connection.execute(insert(identities).values(**key, **identity))

    def renew_session(self, study: str, participant: str, details: dict[str, Any]) -> None:
        """Store a participant's new session on the platform, the only one that can be paid."""
        with self.read() as connection:
            latest = self.identity(connection, study, participant)
        if not latest or all(latest.get(name) == value for name, value in details.items()):
            return
        with self.write() as connection:
            self.row(connection, study, participant, lock=True)
            previous = self.identity(connection, study, participant)
            sessions = previous.pop("earlier", [])
            # An old tab that connects again does not bring back the session that it came from.
            if details not in (previous, *sessions):
                connection.execute(
                    update(identities)
                    .where(of_participant(identities, study, participant))
                    .values(details=details | {"earlier": [*sessions, previous]})
                )

    def row(self, connection: Connection, study: str, participant: str, lock: bool = False):
        """Return the participant's row, or None."""
        query = select(participants).where(of_participant(participants, study, participant))
        row = connection.execute(query.with_for_update() if lock else query).mappings().first()
        return None if row is None else dict(row)

    def identity(self, connection: Connection, study: str, participant: str) -> dict[str, Any]:
        """Return the parameters that the platform sent; {} if there are none or were deleted."""
        query = select(identities.c.details).where(of_participant(identities, study, participant))
        return connection.scalar(query) or {}

    def update(self, connection: Connection, study: str, participant: str, **values) -> None:
        is_own = of_participant(participants, study, participant)
        connection.execute(update(participants).where(is_own).values(**values))

    def time_after(self, row: dict[str, Any]) -> datetime:
        """Return the current time, or that of the participant's last step if the clock was set back
        since: times that contradict each other would be refused by the analysis."""
        return max(self.clock(), row["shown_at"] or datetime.min.replace(tzinfo=UTC))

    def save_progress(
        self,
        connection: Connection,
        row: dict[str, Any],
        progress: Progress,
        lease_minutes: float,
        columns: dict[str, Any],
    ) -> dict[str, Any]:
        """Store a step and renew the lease; return the new row."""
        moment = self.time_after(row)
        lease = self.clock() + timedelta(minutes=lease_minutes)
        values = asdict(progress) | {"feedback": None, "shown_at": moment, "lease_until": lease}
        values |= columns
        if progress.status == "finished":
            values["finished_at"] = max(self.clock(), row["consented_at"])
        self.update(connection, row["study"], row["participant"], **values)
        return row | values

    def save_response(self, connection: Connection, values: dict[str, Any]) -> bool:
        """Store a response unless there is one to this trial; return whether it was stored."""
        return self.insert_new(connection, responses, values | {"app_version": APP_VERSION})

    def find_participants(self, connection: Connection, identifier: str) -> Sequence[Row]:
        """Return (study, source, participant) of all participants with an identifier.

        Args:
            identifier: a pseudonym, the platform's id of a person or of the latest session, or what
                follows `p=` in the address of an open link (an id and a signature).
        """
        details, platform_id = identities.c.details, identities.c.platform_id
        sessions = [details[names.session].as_string() for names in PARAMETERS.values()]
        has_link = (participants.c.platform == "open") & (platform_id == identifier[:LINK_ID])
        names = (participants.c.participant, platform_id, *sessions)
        return connection.execute(
            select(participants.c.study, participants.c.source, participants.c.participant)
            .select_from(people)
            .where(or_(has_link, *(name == identifier for name in names)))
        ).all()

    def forget(self, identifier: str) -> int:
        """Delete a person's data, free the place; return the number of deleted participations."""
        with self.write() as connection:
            participations = self.find_participants(connection, identifier)
            for study, _, participant in participations:
                own_place = of_participant(places, study, participant)
                connection.execute(update(places).where(own_place).values(participant=None))
                self.erase(connection, participants, study, participant)
                has_name = recruitment_log.c.detail.contains(participant)
                connection.execute(
                    update(recruitment_log)
                    .where(has_name)
                    .values(detail="a participant now deleted")
                )
            return len(participations)

    def forget_ids(self, study: str) -> int:
        """Delete the platform's ids of a study's participants; return their number.

        Raises:
            ValueError: participants who are taking part could then not be paid.
        """
        with self.write() as connection:
            query = select(func.count()).where(
                participants.c.study == study, status_at(self.clock()).in_(UNFINISHED)
            )
            if count := connection.scalar(query):
                raise ValueError(
                    f"study {study}: ids are needed to pay the participants who are still taking "
                    f"part ({count}); close the study (`conceptevo study places STUDY close`) and "
                    f"wait"
                )
            deletion = delete(identities).where(identities.c.study == study)
            return connection.execute(deletion).rowcount

    def scrub(self) -> list[str]:
        """Remove deleted data from the database's files; return where copies may remain."""
        remaining_copies = ["exported files and backups made before"]
        if self.engine.dialect.name == "postgresql":
            autocommit = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            with autocommit as connection:
                for table in metadata.sorted_tables:
                    # Without FULL, deleted rows stay readable in the files of tables and indexes.
                    connection.exec_driver_sql(f"VACUUM FULL {table.name}")
            return [*remaining_copies, "PostgreSQL's write-ahead log and its archives"]
        with self._lock:
            raw = self.engine.raw_connection()
            try:
                busy, *_ = raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                raw.close()
        if busy:
            remaining_copies.append(
                "the write-ahead log beside the database, which is being read: run this command "
                "again when the survey is idle"
            )
        return remaining_copies


def progress_of(row: dict[str, Any]) -> Progress:
    values = {name: row[name] for name in _PROGRESS}
    return Progress(**values, feedback=row["feedback"] is not None)
