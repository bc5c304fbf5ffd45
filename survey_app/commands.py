"""Commands of the survey: each a function that the front door adds to its Typer app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tasks.responses import Source

console = Console()

StudyFolder = Annotated[Path, typer.Argument(help="folder made by `conceptevo study build`")]
Database = Annotated[
    str | None,
    typer.Option(help="SQLAlchemy URL [default: an SQLite file answers.sqlite beside the study]"),
]


def database_url(study: Path, url: str | None) -> str:
    """The URL given, or an SQLite file beside the study."""
    return url or f"sqlite:///{(study / 'answers.sqlite').resolve()}"


def survey(
    study: StudyFolder,
    database: Database = None,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8501,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=64, help="processes (PostgreSQL only)")] = 1,
    pilot: Annotated[bool, typer.Option(help="mark all answers as pilot")] = False,
) -> None:
    """Serve the study to participants until stopped."""
    from survey_app.serve import listen, serve
    from survey_app.service import Service
    from survey_app.store import Store
    from tasks.study import load

    url = database_url(study, database)
    if workers > 1 and url.startswith("sqlite"):
        raise ValueError(
            f"--workers {workers} needs PostgreSQL: SQLite has one writer and locks out other "
            f"processes; give --database postgresql://… or --workers 1"
        )
    frozen, keys = load(study)
    store = Store(url)
    store.migrate()
    source: Source = "pilot" if pilot else "human"
    Service(store, frozen, keys, source)
    store.engine.dispose()
    listening = listen(host, port)
    console.print(
        f"study {frozen.hash} at http://{host}:{listening.getsockname()[1]} "
        f"({workers} worker{'s' if workers > 1 else ''}, source {source}); Ctrl-C stops",
        highlight=False,
    )
    environment = {
        "CONCEPTEVO_STUDY": str(study.resolve()),
        "CONCEPTEVO_DATABASE": url,
        "CONCEPTEVO_SOURCE": source,
    }
    serve(listening, workers, environment)


def dashboard(
    study: StudyFolder,
    database: Database = None,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8502,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
) -> None:
    """Serve the researcher's page, apart from the participants' address and behind a password."""
    import os

    from survey_app.passwords import OIDC, VARIABLE
    from survey_app.serve import listen, serve
    from survey_app.store import Store
    from tasks.study import load

    if not os.environ.get(VARIABLE) and not os.environ.get(OIDC):
        raise ValueError(
            f"the researcher's page needs a password: set {VARIABLE} to a hash made by "
            f"`conceptevo survey-password` (or {OIDC}, see docs/hosting.md)"
        )
    load(study)
    url = database_url(study, database)
    Store(url).migrate()
    listening = listen(host, port)
    console.print(f"researcher's page at http://{host}:{listening.getsockname()[1]}; Ctrl-C stops")
    environment = {"CONCEPTEVO_STUDY": str(study.resolve()), "CONCEPTEVO_DATABASE": url}
    serve(listening, 1, environment, script="dashboard.py")


def password() -> None:
    """Ask for a password and print the hash to put into the environment."""
    from survey_app.passwords import VARIABLE, hashed

    text = typer.prompt("password", hide_input=True, confirmation_prompt=True)
    typer.echo(f"export {VARIABLE}='{hashed(text)}'")


def simulate(
    study: StudyFolder,
    database: Database = None,
    participants: Annotated[int, typer.Option(min=1)] = 260,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Fill the study with simulated participants, marked as such."""
    from collections import Counter

    from survey_app.service import Service
    from survey_app.simulate import simulate as run
    from survey_app.store import Store
    from tasks.study import load

    frozen, keys = load(study)
    store = Store(database_url(study, database), durable=False)
    store.migrate()
    ends: Counter[str] = Counter()
    with console.status("simulating") as status:
        for number, end in enumerate(
            run(Service(store, frozen, keys, "simulated"), participants, seed)
        ):
            ends[end] += 1
            status.update(f"simulating: {number + 1} of {participants}")
    told = ", ".join(f"{count} {end}" for end, count in ends.most_common())
    console.print(f"{participants} simulated participants: {told}", highlight=False)


AnyDatabase = Annotated[str, typer.Option(help="SQLAlchemy URL of the survey's database")]


def _existing(url: str):
    from sqlalchemy import inspect

    from survey_app.store import Store

    missing = url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists()
    if missing or not inspect((store := Store(url)).engine).has_table("responses"):
        raise ValueError(
            f"--database {url.split('@')[-1]} holds no survey; give the survey's own URL"
        )
    return store


def export(
    database: AnyDatabase,
    out: Annotated[Path, typer.Option(help="CSV file; two more are written beside it")],
    source: Annotated[str | None, typer.Option(help="human, pilot or simulated")] = None,
    study: Annotated[str | None, typer.Option(help="hash of one study [default: all]")] = None,
) -> None:
    """Write the response table, the participant table and their codebook."""
    from survey_app.export import export as write
    from tasks.responses import SOURCES

    if source is not None and source not in SOURCES:
        raise ValueError(f"--source {source!r} must be one of {', '.join(SOURCES)}")
    for path in write(_existing(database), out, source, study):
        console.print(f"wrote {path}", highlight=False)


def forget(
    identifier: Annotated[str, typer.Argument(help="a pseudonym, or the platform's id")],
    database: AnyDatabase,
) -> None:
    """Delete a person: answers, questionnaire and platform ids."""
    count = _existing(database).forget(identifier)
    if not count:
        raise ValueError(f"nobody is known as {identifier!r}; nothing was deleted")
    console.print(f"deleted {count} participation{'s' if count > 1 else ''} of {identifier}")
