"""Participants for tests, at the level of the service."""

import re
from pathlib import Path
from typing import Any

from survey_app.flow import ENDS, Stage
from survey_app.platforms import Visitor
from survey_app.service import Service
from survey_app.store import Store

RADIO = re.compile(r'<input type="radio" name="(\w+)" value="([^"]*)"')
NUMBER = re.compile(r'<input type="text" inputmode="\w+" dir="ltr" name="(\w+)"')
TEXT = re.compile(r'<input type="text" dir="auto" name="(\w+)"')


class Person(str):
    """A participant's pseudonym and identity."""

    visitor: Visitor


def open_service(place: Path | str, *arguments: Any, **more: Any) -> Service:
    """Return a study's service with an empty database: a file of SQLite, or a URL."""
    store = Store(f"sqlite:///{place}" if isinstance(place, Path) else place)
    store.migrate()
    return Service(store, *arguments, **more)


def arrive(service: Service, name: str | Visitor, platform: str = "prolific") -> Person:
    """Return a person who opens the survey; nothing is stored about them yet."""
    visitor = name if isinstance(name, Visitor) else Visitor(platform, name)
    person = Person(service.pseudonym(visitor))
    person.visitor = visitor
    return person


def look(service: Service, person: Person) -> dict[str, Any]:
    """Return the page that a person sees."""
    return service.welcome(person.visitor)


def fill(page: dict[str, Any], number: int = 0) -> dict[str, Any]:
    """Return an action with valid values for all fields of a page."""
    values: dict[str, Any] = {name: "red wheel" for name in TEXT.findall(page["html"])}
    values |= dict.fromkeys(NUMBER.findall(page["html"]), "30")
    choices: dict[str, list[str]] = {}
    for name, value in RADIO.findall(page["html"]):
        choices.setdefault(name, []).append(value)
    values |= {name: found[number % len(found)] for name, found in choices.items()}
    if page["stage"] == "consent":
        values = {"consent": "yes"}
    return {"values": values, "milliseconds": 4000}


def learned(service: Service, participant: Person) -> dict[str, Any]:
    """Return the correct choice of a practice trial, if there is one."""
    with service.store.read() as connection:
        row = service.store.row(connection, service.study.hash, participant)
    trial = service.study.by_id[service.study.practice[row["practice_done"]]]
    return {"choice": service.keys[trial.id]} if trial.options else {}


def go(service: Service, participant: Person, stage: Stage | None = None) -> dict[str, Any]:
    """Continue until a stage or the end is reached; return the page there."""
    page = look(service, participant)
    number = 0
    while page["stage"] != stage and page["stage"] not in ENDS:
        number += 1
        action = fill(page, number)
        if page["stage"] == "practice":
            action["values"] |= learned(service, participant)
        page, done = service.act(page["token"], action)
        assert done
    return page
