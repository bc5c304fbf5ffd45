"""Commands of the survey: each a function that the front door adds to its Typer app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
    source = "pilot" if pilot else "human"
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
