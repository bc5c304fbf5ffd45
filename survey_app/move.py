"""Move a study from the SQLite file in its folder into another database, such as PostgreSQL."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.terminal import console
from survey_app.commands import MOVED, OWN, database_url, file_url, open_database
from tasks.commands import StudyFolder

if TYPE_CHECKING:
    from survey_app.store import Store


def move(
    study: StudyFolder,
    to: Annotated[str, typer.Option(help="URL of the new, empty database (SQLAlchemy)")],
) -> None:
    """Move a study from the SQLite file in its folder to an empty database; stop the survey first.

    Participants who have begun continue there.
    """
    path, moved = study / OWN, study / MOVED
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; only the database in a study's folder is moved. If there is "
            f"{moved} and its move was interrupted, rename it to {path.name} first"
        )
    if moved.exists():
        raise ValueError(f"{moved}, of an earlier move, would be replaced; rename it first")
    target = open_database(database_url(study, to))
    _close_log(path)
    for leftover in ("-wal", "-shm"):  # of an interrupted move: SQLite would apply it to this file
        moved.with_name(moved.name + leftover).unlink(missing_ok=True)
    path.rename(moved)  # first, so that a survey that is started now is refused
    try:
        with closing(open_database(file_url(moved))) as source:
            counts = copy_tables(source, target)
    except BaseException:
        moved.rename(path)
        raise
    for name, count in counts.items():
        console.print(f"{count:>6}  {name}")
    console.print(
        f"moved; {path} is now {moved}, which no command uses: keep it as a backup. From now on, "
        f"give this --database to every command of the study"
    )


def _close_log(path: Path) -> None:
    """Write the log of an SQLite database back into its file, which needs it to be unused.

    Raises:
        ValueError: another process has the file open, or it is no database that can be written.
    """
    try:
        with closing(sqlite3.connect(path, timeout=1)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"{path} is in use or damaged ({error}): stop the survey and dashboard"
        ) from error


def copy_tables(source: Store, target: Store) -> dict[str, int]:
    """Copy all rows into an empty database, in one transaction; return their numbers by table.

    Raises:
        ValueError: the target has rows, or not as many as the source afterwards.
    """
    from sqlalchemy import func, insert, select

    from survey_app.schema import metadata

    counts = {}
    with source.write() as old, target.write() as new:
        for table in metadata.sorted_tables:
            count = select(func.count()).select_from(table)
            if new.scalar(count):
                raise ValueError(f"the new database has rows in {table.name}; name an empty one")
            # The new database numbers its rows itself, and goes on from there.
            columns = [column for column in table.c if column is not table.autoincrement_column]
            rows = old.execute(select(*columns).order_by(*table.primary_key)).mappings()
            for part in rows.partitions(1000):
                new.execute(insert(table), [dict(row) for row in part])
            counts[table.name] = old.scalar(count) or 0
            if counts[table.name] != new.scalar(count):
                raise ValueError(f"{table.name} could not be copied completely; nothing was moved")
    return counts
