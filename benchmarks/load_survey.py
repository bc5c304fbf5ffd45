"""Measure how many participants the survey serves at once, and check that it keeps every response.

    python benchmarks/load_survey.py STUDY --participants 260            # SQLite, one worker
    python benchmarks/load_survey.py STUDY --postgres --workers 2 --faults
    python benchmarks/load_survey.py STUDY --participants 40 --think 0 0 # maximum throughput

Starts a survey on 127.0.0.1 with an empty database and sends it simulated participants, some with
double clicks, refreshes and broken connections. With --faults, it also kills workers and
PostgreSQL, fills the database's disk and sets the clock, at times spread over the whole load. Then
it compares the database with the acknowledged responses. The exit status is 1 if a response was
lost, stored twice, or stored without acknowledgement.
"""

import argparse
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs
from urllib.request import urlopen

import numpy as np
import psutil
import survey_faults
from survey_client import Faults, Participant, Tally

from survey_app.store import Store
from tasks.assignment import plan
from tasks.recruitment import Codes, Recruitment, write_recruitment
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
    parser.add_argument(
        "--faults",
        nargs="*",
        choices=survey_faults.NAMES,
        help="what is to break meanwhile [all, if none is named]",
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def start(
    study: Path, url: str, workers: int, environment: Mapping[str, str]
) -> tuple[subprocess.Popen, int]:
    """Start the survey as a process; return it, and its port when it responds."""
    code = "from survey_app.commands import survey; from pathlib import Path; import sys; "
    code += "survey(Path(sys.argv[1]), database=sys.argv[2], port=0, host='127.0.0.1', "
    code += "workers=int(sys.argv[3]), pilot=False)"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(study), url, str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment, "COLUMNS": "200"},
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
    threading.Thread(target=_echo, args=(process.stdout,), daemon=True).start()
    return process, port


def served(study: Path, folder: Path, participants: int) -> Path:
    """Return a copy of the study for these participants, who are identified by platform ids."""
    copy = folder / "study"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("*.sqlite*", "results"))
    codes = Codes().with_random_codes()
    own = Recruitment(places=participants, platforms=("prolific",), codes=codes)
    write_recruitment(copy, own)
    return copy


def _echo(lines) -> None:
    for line in lines:
        print("  survey:", line.rstrip(), flush=True)


def practice_answers(folder: Path) -> dict[frozenset[str], str]:
    """Return the correct responses to practice trials, by their pictures; guessers may not pass."""
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
        query = f"PROLIFIC_PID={arguments.seed:012x}{number:012x}&STUDY_ID=s&SESSION_ID=t"
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


async def sabotage(faults: list[survey_faults.Fault], tally: Tally, clicks: int) -> None:
    """Cause one fault after another, evenly spread over the expected number of clicks."""
    for number, fault in enumerate(faults, 1):
        while len(tally.waits) < clicks * number / (len(faults) + 1):
            await asyncio.sleep(0.05)
        share = len(tally.waits) / clicks
        print(f"  {await fault()}, at {share:.0%} of the clicks", flush=True)


def verdict(study_folder: Path, url: str, tally: Tally) -> bool:
    """Compare the database with the acknowledged responses; return whether they are equal."""
    from sqlalchemy import select

    from survey_app.schema import identities, participants, responses

    study, _ = load(study_folder)
    store = Store(url)
    with store.read() as connection:
        who = dict(
            connection.execute(select(identities.c.participant, identities.c.platform_id)).all()
        )
        rows = connection.execute(
            select(
                responses.c.participant,
                responses.c.trial,
                responses.c.condition,
                responses.c.milliseconds,
                responses.c.answered_at,
            )
            .where(responses.c.role != "practice")
            .order_by(responses.c.position)
        ).all()
        done = connection.execute(
            select(participants.c.participant, participants.c.status, participants.c.plan)
        ).all()
    # Each action has its own number of milliseconds, the receipt by which it is looked up.
    stored: dict[str, Counter[int]] = {}
    for row in rows:
        stored.setdefault(who[row.participant], Counter())[row.milliseconds] += 1
    acknowledged = {
        parse_qs(query)["PROLIFIC_PID"][0]: Counter(receipts)
        for query, receipts in tally.acknowledged.items()
    }
    none: Counter[int] = Counter()
    everyone = stored.keys() | acknowledged.keys()
    lost = sum((acknowledged.get(p, none) - stored.get(p, none)).total() for p in everyone)
    silent = sum((stored.get(p, none) - acknowledged.get(p, none)).total() for p in everyone)
    plans = {row.participant: [placed["trial"] for placed in row.plan or ()] for row in done}
    doubled = len(rows) - len({(row.participant, row.trial) for row in rows})
    foreign = sum(row.trial not in plans[row.participant] for row in rows)
    design = Counter(study.by_id[t].condition for block in study.forms[0] for t in block)
    unbalanced = 0
    answered: dict[str, Counter] = {}
    back = 0
    last: dict[str, datetime] = {}
    for row in rows:
        answered.setdefault(row.participant, Counter())[row.condition] += 1
        back += row.answered_at < last.get(row.participant, row.answered_at)
        last[row.participant] = row.answered_at
    for row in done:
        if row.status == "finished" and answered[row.participant] != design:
            unbalanced += 1
    finished = sum(row.status == "finished" for row in done)
    print(
        f"database: {len(rows)} answers of {finished} finished participants; "
        f"lost {lost}, doubled {doubled}, stored without acknowledgement {silent}, "
        f"foreign {foreign}, unbalanced sets {unbalanced}"
    )
    if back:
        print(f"clock: {back} answers are dated before the answer that they followed")
    return not (lost or doubled or silent or foreign or unbalanced or back)


def percentiles(seconds: list[float]) -> str:
    values = [f"p{q} {np.percentile(seconds, q) * 1000:.0f} ms" for q in (50, 95, 99)]
    return ", ".join(values) if seconds else "none"


def processor_seconds(survey: subprocess.Popen) -> float:
    """Return the processor time that all workers have used."""
    times = [worker.cpu_times() for worker in psutil.Process(survey.pid).children()]
    return sum(t.user + t.system for t in times)


def main() -> int:
    arguments = parse()
    faults = (
        arguments.faults if arguments.faults is None else arguments.faults or survey_faults.NAMES
    )
    faults = list(faults or ())
    tally = Tally(people=arguments.participants)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="survey-load-")))
        disk = clock = postgres = None
        if "disk" in faults:
            disk = survey_faults.Disk(folder, 512 if arguments.postgres else 64)
            stack.callback(disk.close)
        if "clock" in faults:
            clock = survey_faults.Clock(folder)
        place = folder if disk is None else disk.folder
        if arguments.postgres:
            folder.chmod(0o755)
            postgres = survey_faults.Postgres(place)
            stack.callback(postgres.close)
        url = postgres.url if postgres else f"sqlite:///{place / 'answers.sqlite'}"
        environment = clock.environment if clock else {}
        study_folder = served(arguments.study, folder, arguments.participants)
        survey, port = start(study_folder, url, arguments.workers, environment)
        stack.callback(survey.wait)
        stack.callback(survey.send_signal, signal.SIGTERM)
        study, _ = load(arguments.study)
        pages = len(plan(study, 0)) + 2 * len(study.practice) + 3
        planned = survey_faults.plan(faults, survey, tally, postgres, disk, clock)
        spent = processor_seconds(survey)

        async def everything() -> None:
            harm = asyncio.ensure_future(sabotage(planned, tally, pages * arguments.participants))
            await crowd(arguments, port, tally)
            await asyncio.wait_for(harm, 5)  # fails if a fault has not occurred

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
        if not faults:
            own = psutil.Process().cpu_times()
            print(
                f"processor time per click: workers "
                f"{1000 * (processor_seconds(survey) - spent) / clicks:.2f} ms, "
                f"load generator {1000 * (own.user + own.system) / clicks:.2f} ms"
            )
        print(
            f"clients: {tally.doubled} double clicks, {tally.refreshed} refreshes, "
            f"{tally.dropped} cut connections, {tally.retries} retries, "
            f"{tally.refused} answers refused for a while"
        )
        print("ended:", dict(Counter(tally.ends)))
        counts = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read().decode()
        told = re.findall(r'actions_total{outcome="(\w+)"} (\d+)', counts)
        print("metrics of all workers:", ", ".join(f"{n} {outcome}" for outcome, n in told))
        fine = verdict(arguments.study, url, tally)
    return 0 if fine else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except survey_faults.Impossible as error:
        sys.exit(str(error))
