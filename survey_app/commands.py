"""Commands of the survey; `conceptevo/groups.py` adds these functions to the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.terminal import console
from harness.text import pluralise
from tasks.commands import StudyFolder
from tasks.recruitment import PUBLIC_CODES
from tasks.responses import SOURCES, Source

if TYPE_CHECKING:
    from survey_app.places import Places
    from survey_app.store import Store
    from tasks.recruitment import Recruitment
    from tasks.study import Study

#: The database in a study's folder, and its name after it was moved to another database.
OWN, MOVED = "answers.sqlite", "answers-moved.sqlite"

Database = Annotated[
    str | None,
    typer.Option(help="URL of the database (SQLAlchemy)", show_default="STUDY/answers.sqlite"),
]


def database_url(study: Path, url: str | None) -> str:
    """Return the given URL, or that of an SQLite file in the study's folder."""
    if url in ("sqlite://", "sqlite:///:memory:"):
        raise ValueError(
            f"--database {url} is lost when the command ends, and no other process can use it; "
            f"name a file, such as sqlite:///answers.sqlite"
        )
    if url is None and (moved := study / MOVED).exists() and not (study / OWN).exists():
        raise ValueError(
            f"{moved}: this study was moved to another database; give its URL with --database, or, "
            f"if the move was interrupted, rename the file to {OWN}"
        )
    return url or file_url(study / OWN)


def file_url(path: Path) -> str:
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path.resolve())).render_as_string()


def open_database(url: str, durable: bool = True) -> Store:
    """Open the database and migrate it to the newest schema; its errors become ValueErrors."""
    store = _open_store(url, durable)
    store.migrate()
    return store


def _open_store(url: str, durable: bool = True) -> Store:
    """Open a database whose errors are raised as ValueErrors of one sentence without password."""
    from sqlalchemy import event, make_url

    from survey_app.store import Store

    store = Store(url, durable=durable)

    def explain(context) -> None:
        reason = " ".join(str(context.original_exception).split("\n")[0].split())
        visible_url = make_url(url).render_as_string(hide_password=True)
        if reason.startswith(("attempt to write a readonly", "unable to open")):
            reason += "; SQLite needs a folder that exists and can be written, and so the file"
        raise ValueError(
            f"database {visible_url} cannot be used: {reason}"
        ) from context.original_exception

    event.listen(store.engine, "handle_error", explain)
    return store


def check_codes(study: Path, recruitment: Recruitment) -> None:
    """Raise ValueError if a completion code is empty or public: anybody could claim payment."""
    public = [f"{n} = {c!r}" for n, c in recruitment.codes if not c or c in PUBLIC_CODES]
    if public:
        raise ValueError(
            f"{study / 'recruitment.toml'}: {', '.join(public)}: these codes are empty or public, "
            f"so that anybody could claim payment; choose others under [codes], register them at "
            f"the platform, and start again (--pilot does not check them)"
        )


def _announcements(recruitment: Recruitment, counts: dict[str, int]) -> Iterator[str]:
    """Yield the number of places, the platforms, and warnings of settings that may be wrong."""
    platforms = ", ".join(recruitment.platforms)
    yield f"{counts['places']} places, {counts['free']} free; participants from {platforms}"
    if counts["places"] != recruitment.places:
        yield (
            f"recruitment.toml says places = {recruitment.places}, which counts only when a study "
            f"is first served; it has {counts['places']}. `conceptevo study places` adds more."
        )
    id_platforms = [name for name in recruitment.platforms if name != "open"]
    if id_platforms and not recruitment.studies and not recruitment.signed:
        yield (
            f"anybody who invents an id of {' or '.join(id_platforms)} can take a place: in "
            f"recruitment.toml, set `studies` to the study's id there, or `signed = true`"
        )


def _cautions(study: Path, places: Places, recruitment: Recruitment) -> Iterator[str]:
    """Yield what would keep participants who have begun from continuing."""
    from sqlalchemy import inspect

    from survey_app.places import Places

    if count := places.count_locked_out(recruitment):
        yield (
            f"unfinished participants whose links {study / 'recruitment.toml'} now refuses: "
            f"{count} (platforms, studies, ids or signed was changed); they cannot continue. A "
            f"change of signed is reported only at this first start after it"
        )
    if not places.find_begun() and (count := places.count_elsewhere()):
        yield (
            f"this database holds {pluralise(count, 'unfinished participant')} of other studies. "
            f"If this study replaces theirs, they begin anew here: serve theirs until they have "
            f"finished, or block their ids in this one (`conceptevo study places STUDY block`)"
        )
    own = study / OWN
    if not own.exists():
        return
    try:
        with closing(_open_store(file_url(own))) as store:
            exists = inspect(store.engine).has_table("participants")
            begun = Places(store, places.study, places.source).find_begun() if exists else set()
    except ValueError as error:
        yield f"{error}, so that it is not known whether participants have begun in it"
        return
    if count := len(begun - places.find_begun()):
        yield (
            f"{own} holds {pluralise(count, 'participant')} of this study whom this database does "
            f"not hold: here they would begin anew. Start without --database, or move the study to "
            f"an empty database first: `conceptevo responses move {study} --to URL`"
        )


def survey(
    study: StudyFolder,
    database: Database = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on")] = 8501,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=64, help="more than 1 need PostgreSQL")] = 1,
    pilot: Annotated[bool, typer.Option(help="mark all responses as pilot data")] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="show every page by name; nothing is stored")
    ] = False,
) -> None:
    """Serve the study to participants until stopped."""
    from tempfile import TemporaryDirectory

    from survey_app.places import Places
    from survey_app.serve import listen, serve
    from survey_app.server import PREVIEW, environment
    from survey_app.service import Service
    from tasks.recruitment import PLATFORMS, load_recruitment
    from tasks.study import load

    frozen, keys = load(study)
    recruitment = load_recruitment(study)
    source: Source = "pilot" if pilot or preview else "human"
    # The database of a preview is deleted with this folder.
    with TemporaryDirectory(prefix="conceptevo-preview-") as folder:
        url = f"sqlite:///{folder}/preview.sqlite" if preview else database_url(study, database)
        if workers > 1 and url.startswith("sqlite"):
            raise ValueError(
                f"--workers {workers} needs PostgreSQL: SQLite has one writer and locks out other "
                f"processes; give --database postgresql://… or --workers 1"
            )
        if preview:
            # The study's own platform comes first: the preview shows its pages.
            platforms = tuple(dict.fromkeys((*recruitment.platforms, *PLATFORMS)))
            open_entry = {"platforms": platforms, "ids": ".*", "studies": (), "signed": False}
            recruitment = recruitment.model_copy(update=open_entry)
        elif source == "human":
            check_codes(study, recruitment)
        with closing(open_database(url)) as store:
            # A start that fails must not store the settings: a change of `signed` is reported once.
            listening = listen(host, port)
            cautions = list(_cautions(study, Places(store, frozen.hash, source), recruitment))
            counts = Service(store, frozen, keys, source, recruitment).places.counts()
        address = f"http://{host}:{listening.getsockname()[1]}"
        if preview:
            lines = [
                f"preview of study {frozen.hash} at {address}, list of its pages at "
                f"{address}/?page=list; nothing is stored; Ctrl-C stops"
            ]
        else:
            server = f"{pluralise(workers, 'worker')}, source {source}"
            lines = [f"study {frozen.hash} at {address} ({server}); Ctrl-C stops"]
            lines += [*_announcements(recruitment, counts), *cautions]
        for line in lines:
            console.print(line)
        preview_flag = {PREVIEW: "yes"} if preview else {}
        serve(listening, workers, environment(study, frozen.hash, url, source) | preview_flag)


def dashboard(
    study: StudyFolder,
    database: Database = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on")] = 8502,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
) -> None:
    """Serve the researcher's dashboard at a separate address, protected by a password."""
    import os

    from survey_app.passwords import OIDC, VARIABLE, is_password
    from survey_app.serve import listen, serve
    from survey_app.server import environment

    if password_hash := os.environ.get(VARIABLE):
        is_password("", password_hash)  # refuses what is not a hash
    elif not os.environ.get(OIDC):
        raise ValueError(
            f"the dashboard needs a password: set {VARIABLE} to a hash made by "
            f"`conceptevo survey-password` (or set {OIDC}, see docs/hosting.md)"
        )
    frozen, store = open_study(study, database)
    store.close()
    listening = listen(host, port)
    console.print(f"dashboard at http://{host}:{listening.getsockname()[1]}; Ctrl-C stops")
    url = database_url(study, database)
    serve(listening, 1, environment(study, frozen.hash, url), script="dashboard.py")


def password() -> None:
    """Ask for a dashboard password and print its hash for the environment."""
    from survey_app.passwords import VARIABLE, hash_password

    text = typer.prompt("password", hide_input=True, confirmation_prompt=True)
    typer.echo(f"export {VARIABLE}='{hash_password(text)}'")


def simulate(
    study: StudyFolder,
    database: Database = None,
    participants: Annotated[
        int | None,
        typer.Option(min=1, help="total, with earlier ones", show_default="the study's places"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of their responses")] = 0,
) -> None:
    """Add responses of simulated participants, marked as simulated."""
    from collections import Counter

    from survey_app.service import Service
    from survey_app.simulate import simulate as run
    from tasks.recruitment import load_recruitment
    from tasks.study import load

    frozen, keys = load(study)
    store = open_database(database_url(study, database), durable=False)
    recruitment = load_recruitment(study)
    participants = participants or recruitment.places
    ends: Counter[str] = Counter()
    with console.status("simulating") as status:
        for number, end in enumerate(
            run(Service(store, frozen, keys, "simulated", recruitment), participants, seed)
        ):
            ends[end] += 1
            status.update(f"simulating: {number + 1} of {participants}")
    counts = ", ".join(f"{count} {end.replace('_', ' ')}" for end, count in ends.most_common())
    console.print(f"{participants} simulated participants: {counts}")


AnyDatabase = Annotated[
    str | None,
    typer.Option(
        help="SQLAlchemy URL of the survey's database", show_default="that in the folder --study"
    ),
]


def open_existing(url: str | None, study: str | None = None) -> Store:
    """Open the existing database of a survey; by default the SQLite file in the study's folder."""
    from sqlalchemy import inspect, make_url

    if url is None:
        if study is None or not (Path(study) / "study.json").exists():
            reason = f"--study {study} is not the folder of a study, and " if study else ""
            raise ValueError(
                f"{reason}no database is named: give its URL (--database), or the folder of the "
                f"study (--study), in which it is by default"
            )
        url = database_url(Path(study), None)
    is_missing = url.startswith("sqlite:///") and not Path(make_url(url).database or "").exists()
    if is_missing or not inspect(_open_store(url).engine).has_table("responses"):
        raise ValueError(
            f"--database {url.split('@')[-1]} holds no survey; give the URL with which the survey "
            f"is served"
        )
    return open_database(url)


def open_study(study: Path, url: str | None) -> tuple[Study, Store]:
    """Load a frozen study and open the database from which it was served."""
    from tasks.study import load

    return load(study)[0], open_existing(database_url(study, url))


AnySource = Annotated[
    str | None, typer.Option(help="human, pilot or simulated", show_default="the only one")
]
AnyStudy = Annotated[
    str | None,
    typer.Option(help="hash or folder of one study", show_default="the only one"),
]
Excel = Annotated[
    bool, typer.Option("--excel", help="write for Excel, which would misread letters and ids")
]


def export(
    out: Annotated[
        Path, typer.Option(help="CSV file of responses; participants and codebook go beside it")
    ],
    database: AnyDatabase = None,
    source: AnySource = None,
    study: AnyStudy = None,
    excel: Excel = False,
) -> None:
    """Write the response table, the participant table and their codebook."""
    from survey_app.export import export as write

    check_source(source)
    paths, late = write(open_existing(database, study), out, source, _study_hash(study), excel)
    for path in paths:
        console.print(f"wrote {path}")
    if late:
        console.print(f"responses that came after the time limit (column `late`): {late}")


def submissions(
    out: Annotated[Path, typer.Option(help="CSV file with the platform's ids")],
    database: AnyDatabase = None,
    source: AnySource = None,
    study: AnyStudy = None,
    excel: Excel = False,
) -> None:
    """List participants by the platform's id with status, reason and code, for payment."""
    from survey_app import export

    check_source(source)
    store = open_existing(database, study)
    chosen = export.choose_study(store, source, _study_hash(study))
    export.write_files({out: export.submissions(store, *chosen)}, excel)
    console.print(f"wrote {out}: it identifies people; keep it apart from the responses")


def forget_ids(study: StudyFolder, database: Database = None) -> None:
    """Delete the platform's ids of all participants of a study; their responses stay."""
    frozen, store = open_study(study, database)
    count = store.forget_ids(frozen.hash)
    console.print(f"participants whose platform ids were deleted: {count}")
    _scrub(store)


def check_source(source: str | None) -> None:
    if source is not None and source not in SOURCES:
        raise ValueError(f"--source {source!r} must be one of {', '.join(SOURCES)}")


def _study_hash(study: str | None) -> str | None:
    """Return the hash of a study that is given by its hash or its folder."""
    from tasks.study import load

    return load(Path(study))[0].hash if study and (Path(study) / "study.json").exists() else study


def forget(
    identifier: Annotated[
        str,
        typer.Argument(help="pseudonym, platform's id of person or session, p=… of an open link"),
    ],
    database: Annotated[str, typer.Option(help="SQLAlchemy URL of the survey's database")],
) -> None:
    """Delete all data of one participant: responses, questionnaire and platform ids."""
    store = open_existing(database)
    count = store.forget(identifier)
    if not count:
        store.scrub()  # an earlier command may have been interrupted before it did
        raise ValueError(f"no participant has the id {identifier!r}; nothing was deleted")
    console.print(f"deleted {pluralise(count, 'participation')} of {identifier}")
    _scrub(store)


def _scrub(store: Store) -> None:
    """Remove deleted data from the database's files and print where copies may remain."""
    for remaining in store.scrub():
        console.print(f"deleted data may remain in: {remaining}")
