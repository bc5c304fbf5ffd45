"""Commands of recruitment: the places of a study, and the study at Prolific."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from harness.section import read_text
from harness.terminal import console
from harness.text import pluralise
from survey_app.commands import Database, check_codes, check_source, open_study
from tasks.commands import StudyFolder
from tasks.responses import SOURCES

if TYPE_CHECKING:
    from survey_app.places import Places
    from survey_app.prolific import Comparison, Prolific


AsSource = Annotated[str, typer.Option(help=f"one of {', '.join(SOURCES)}")]


def places(
    study: StudyFolder,
    change: Annotated[
        str | None,
        typer.Argument(
            help="+40 (adds places), release, pause, resume, close, open-at or block",
            show_default="show",
        ),
    ] = None,
    who: Annotated[
        list[str] | None,
        typer.Argument(
            help="release: ids of participants or sessions; block: files with one id per line; "
            "open-at: 2026-12-01T09:00+01:00"
        ),
    ] = None,
    database: Database = None,
    source: AsSource = "human",
) -> None:
    """Show, add, release, pause or close the places of participants; every change is logged."""
    from survey_app.places import Places

    check_source(source)
    frozen, store = open_study(study, database)
    study_places = Places(store, frozen.hash, next(s for s in SOURCES if s == source))
    if change is not None:
        _change_places(study_places, change, who or [])
    with store.read() as connection:
        state, opens = study_places.state(connection), study_places.opens(connection)
    for name, count in study_places.counts().items():
        console.print(f"{count:>6}  {name}")
    console.print(f"{state:>6}")
    if opens:
        console.print(f"  opens {opens:%Y-%m-%d %H:%M} UTC")
    for row in study_places.log():
        moment = f"{row['moment']:%Y-%m-%d %H:%M:%S} UTC"
        console.print(f"  {moment}  {row['event']}  {row['detail']}")


def _change_places(study_places: Places, change: str, who: list[str]) -> None:
    match [change, *who]:
        case ["pause"]:
            study_places.set_state("paused")
        case ["resume"]:
            study_places.set_state("open")
        case ["close"]:
            study_places.set_state("closed")
        case ["open-at", moment]:
            study_places.open_at(_parse_moment(moment))
        case ["release", _, *_]:
            study_places.release(*who)
        case ["block", _, *_]:
            lines = [read_text(Path(path), "list of ids").splitlines() for path in who]
            ids = filter(None, map(str.strip, chain(*lines)))
            console.print(f"ids newly blocked: {study_places.block(ids)}")
        case [number] if re.fullmatch(r"\+[1-9]\d{0,5}", number):
            study_places.add(int(number))
        case words:
            raise ValueError(
                f"{' '.join(words)!r} must be +NUMBER, release ID …, pause, resume, close, "
                f"open-at MOMENT, or block FILE …"
            )


def _parse_moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"open-at {text!r}: {_MOMENT_FORMS}") from error
    if moment.tzinfo is None:
        raise ValueError(f"open-at {text!r} has no time zone: {_MOMENT_FORMS}")
    return moment


_MOMENT_FORMS = "give date, time and zone, such as 2026-12-01T09:00+01:00 or 2026-12-01T08:00Z"


def _compare(study: Path, database: str | None) -> tuple[Prolific, Comparison, Places]:
    """Return the API client, the comparison of submissions with the database, and the places."""
    from survey_app.places import Places
    from survey_app.prolific import Prolific, compare
    from tasks.recruitment import load_recruitment
    from tasks.study import load

    load(study)  # refuses a folder that holds none
    recruitment = load_recruitment(study)
    if not recruitment.studies:
        raise ValueError(
            f"{study / 'recruitment.toml'}: studies is empty; set it to the study's id at "
            f"Prolific, or create a draft (`conceptevo prolific draft`)"
        )
    prolific = Prolific()
    frozen, store = open_study(study, database)
    comparison = compare(prolific, store, frozen.hash, recruitment.studies)
    return prolific, comparison, Places(store, frozen.hash, "human")


def prolific_draft(
    study: StudyFolder,
    address: Annotated[str, typer.Option(help="URL of the survey, https://…")],
    reward: Annotated[int, typer.Option(min=1, help="per participant, in pence or cents")],
    description: Annotated[str, typer.Option(help="shown to participants on Prolific")],
) -> None:
    """Create a draft on Prolific with the study's codes, duration and places, to publish there."""
    from survey_app.prolific import Prolific, draft
    from tasks.recruitment import load_recruitment, write_recruitment
    from tasks.study import load

    frozen, _ = load(study)
    recruitment = load_recruitment(study)
    if not address.startswith("https://"):
        raise ValueError(f"--address {address!r}: participants need an address with https://")
    if recruitment.signed and urlsplit(address).netloc != recruitment.audience:
        raise ValueError(
            f"--address {address!r} is not of the domain audience = {recruitment.audience!r} in "
            f"{study / 'recruitment.toml'}, so that every signed link would be refused; change one"
        )
    check_codes(study, recruitment)
    new_draft = Prolific().call(
        "POST", "/studies/", json=draft(frozen, recruitment, address, reward, description)
    )
    changes = {"studies": (*recruitment.studies, new_draft["id"])}
    changes |= {} if "prolific" in recruitment.platforms else {"platforms": ("prolific",)}
    write_recruitment(study, recruitment.model_copy(update=changes))
    console.print(
        f"draft {new_draft['id']} ({new_draft.get('status', 'UNPUBLISHED')}), added to "
        f"{study / 'recruitment.toml'}: restart the survey, check the draft, publish it there",
    )


def prolific_poll(study: StudyFolder, database: Database = None) -> None:
    """Compare the submissions at Prolific; free the places of those who returned or timed out."""
    from survey_app.prolific import release_gone

    _, comparison, study_places = _compare(study, database)
    for (their_status, own_status), count in sorted(comparison.counts.items()):
        console.print(f"{count:>6}  {their_status} there, {own_status} here")
    console.print(f"places freed: {release_gone(comparison, study_places)}")
    console.print(f"submissions that can be approved: {len(comparison.payable)}")
    for problem in comparison.problems:
        console.print(problem)


def prolific_approve(
    study: StudyFolder,
    database: Database = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask for confirmation")] = False,
) -> None:
    """Approve submissions of participants who finished here and submitted their own code."""
    prolific, comparison, _ = _compare(study, database)
    payable = comparison.payable
    for problem in comparison.problems:
        console.print(f"left out: {problem}")
    if payable and not yes and not typer.confirm(f"approve and pay {len(payable)} submissions?"):
        return
    for number, session in enumerate(payable):
        try:
            prolific.approve(session)
        except ValueError as error:
            raise ValueError(
                f"approved {number} of {len(payable)}, then stopped at {session}: {error}. Run the "
                f"same command again; approved submissions stay approved"
            ) from error
    console.print(f"approved {pluralise(len(payable), 'submission')}")
