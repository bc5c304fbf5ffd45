"""Files that are written whole or not at all, locks and listings of folders, hashes of files.

This module does not import torch, because the survey server and the analysis use it.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

T = TypeVar("T")


class ArtifactError(ValueError):
    """An artifact is missing, damaged or cannot be written; the message says what to do."""


#: Marks the name of a file that is being written.
_HALF = ".half-written-"
#: Ends the name of an empty file that marks another one as in progress.
WORKING = ".working"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it if the block ends without an error.

    Raises:
        ArtifactError: the file cannot be written (disk full, no permission); no part of it remains.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}{_HALF}"
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # torch raises a RuntimeError of its own after a write that failed
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise ArtifactError(f"cannot write {path}: {cause.strerror or cause}") from error


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Delete those paths that are incomplete files or marks of commands that were killed."""
    for path in list(paths):
        if _HALF in path.name or path.name.endswith(WORKING):
            path.unlink()


@contextmanager
def hold(file: Path, seconds: float = 0) -> Iterator[None]:
    """Hold a lock on an empty file, which remains. The lock ends with the process.

    Raises:
        ArtifactError: another command still holds it after this many seconds, or its folder cannot
            be created.
    """
    file_lock = filelock.FileLock(file, timeout=seconds)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file_lock.acquire()
    except filelock.Timeout:
        raise ArtifactError(
            f"another conceptevo command is working in {file.parent}; wait for it"
        ) from None
    except OSError as error:
        raise ArtifactError(f"folder {file.parent} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        file_lock.release()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Prevent a second command from working in the same folder, by `hold`.

    Incomplete files and marks of commands that were killed are deleted.
    """
    with hold(folder / ".lock"):
        os.utime(folder / ".lock")
        remove_leftovers(folder.rglob(".*"))
        yield


def lock_time(folder: Path) -> float | None:
    """Return when (seconds since 1970) the command working in a folder began; None if none."""
    file_lock = filelock.FileLock(folder / ".lock", timeout=0)
    if not (folder / ".lock").exists():
        return None
    try:
        with file_lock:
            return None
    except filelock.Timeout:
        return (folder / ".lock").stat().st_mtime
    except OSError:  # a folder that we may only read
        if sys.platform == "win32":  # only who may write to a file can see its lock
            return None
        import fcntl

        with (folder / ".lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return (folder / ".lock").stat().st_mtime
        return None


def find_paths(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the paths below a folder that match a pattern, in which * stands for part of a name.

    Raises:
        OSError: a folder on the way may not be read, which `Path.glob` takes for an empty one.
    """
    first, _, rest = pattern.partition("/")
    if "*" in first:
        paths = folder.iterdir() if folder.is_dir() else ()
        matches = [path for path in paths if fnmatchcase(path.name, first)]
    else:  # a folder of thousands of files need not be listed to find one of them
        matches = [folder / first] if rest or (folder / first).exists() else []
    for path in matches:
        yield from find_paths(path, rest) if rest else [path]


#: What was listed within `cache_listings`; None outside of it.
_listings: ContextVar[dict[Hashable, Any] | None] = ContextVar("listings", default=None)


@contextmanager
def cache_listings() -> Iterator[None]:
    """List each folder only once while the block runs: half a million images take long to list,
    and a training that still runs may add checkpoints meanwhile."""
    token = _listings.set({} if _listings.get() is None else _listings.get())
    try:
        yield
    finally:
        _listings.reset(token)


def cached_listing(key: Hashable, make_listing: Callable[[], T]) -> T:
    """Return a listing; within `cache_listings`, the first one that was made with this key."""
    listings = _listings.get()
    if listings is None:
        return make_listing()
    if key not in listings:
        listings[key] = make_listing()
    return listings[key]


#: Number of rows of a table that are written, and read, at a time.
ROW_GROUP = 2**17


def write_tables(path: Path, tables: Iterable[pd.DataFrame]) -> None:
    """Write tables with the same columns as one file in row groups of ROW_GROUP, one in memory.

    The bytes do not depend on how the rows are divided into tables.
    """
    pending: list[pa.Table] = []
    with whole_file(path) as temporary, ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for table in tables:
            pending.append(pa.Table.from_pandas(table, preserve_index=False))
            if writer is None:
                schema = pending[0].schema
                writer = stack.enter_context(pq.ParquetWriter(temporary, schema))
            unwritten = pa.concat_tables(pending)
            full_rows = len(unwritten) // ROW_GROUP * ROW_GROUP
            if full_rows:
                writer.write_table(unwritten.slice(0, full_rows), row_group_size=ROW_GROUP)
            pending = [unwritten.slice(full_rows)]
        if writer is not None and (len(pending[0]) or not full_rows):
            writer.write_table(pending[0])


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def csv_text(table: pd.DataFrame, **options: Any) -> str:
    """Return a table as CSV that R and Python read: TRUE and FALSE; empty if missing.

    Args:
        options: further options of `DataFrame.to_csv`.
    """
    cells = table.copy()
    for name in table.select_dtypes(["bool", "boolean", "object"]):
        cells[name] = table[name].map(lambda v: str(v).upper() if pd.api.types.is_bool(v) else v)
    return str(cells.to_csv(index=False, lineterminator="\n", **options))


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _cached_hash(path: Path, *times_and_size: int) -> str:
    return content_hash(path)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content, cached by path, size and times; that of the last
    change of the file's entry cannot be set by programs that copy times."""
    stat = path.stat()
    return _cached_hash(path.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


#: Beginnings of files, in lower case, and descriptions of their formats.
FORMATS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; `git lfs pull` gets it",
    b"<!doctype html": "a web page (HTML), not the file itself: the download went wrong",
    b"<html": "a web page (HTML), not the file itself: the download went wrong",
    b"\x93numpy": "a NumPy array",
    b"\x89hdf": "an HDF5 file (of Keras, perhaps)",
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"7z\xbc\xaf": "compressed (7z); unpack it first",
    b"\xfd7zxz": "compressed (xz); unpack it first",
    b"bzh": "compressed (bzip2); unpack it first",
    b"gguf": "a GGUF file, whose weights are quantised; the original weights are needed",
    b"%pdf": "a PDF document",
    b"{": "JSON or other text",
}


def describe_format(head: bytes) -> str:
    """Describe the format of a file from its first bytes; "" if it is not among FORMATS."""
    if not head:
        return "empty (0 bytes)"
    beginning = head.lstrip().lower()
    return next((text for start, text in FORMATS.items() if beginning.startswith(start)), "")
