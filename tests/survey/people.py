"""Participants for tests, at the level of the service."""

from __future__ import annotations

import re
from typing import Any

from survey_app.flow import ENDS, Stage
from survey_app.platforms import Arrival
from survey_app.service import Service

RADIO = re.compile(r'<input type="radio" name="(\w+)" value="([^"]*)"')
NUMBER = re.compile(r'<input type="number" name="(\w+)"')
TEXT = re.compile(r'<input type="text" name="(\w+)"')


def arrive(service: Service, name: str, platform: str = "prolific") -> str:
    return service.arrive(Arrival(platform, name))


def fill(page: dict[str, Any], number: int = 0) -> dict[str, Any]:
    """An action with valid values for all fields of a page."""
    values: dict[str, Any] = {name: "red wheel" for name in TEXT.findall(page["html"])}
    values |= dict.fromkeys(NUMBER.findall(page["html"]), "30")
    choices: dict[str, list[str]] = {}
    for name, value in RADIO.findall(page["html"]):
        choices.setdefault(name, []).append(value)
    values |= {name: found[number % len(found)] for name, found in choices.items()}
    if page["stage"] == "consent":
        values = {"consent": "yes"}
    return {"values": values, "milliseconds": 4000}


def go(service: Service, participant: str, stage: Stage | None = None) -> dict[str, Any]:
    """Walk on until a stage is reached, or the end; the page there."""
    page = service.page(participant)
    number = 0
    while page["stage"] != stage and page["stage"] not in ENDS:
        number += 1
        page, done = service.act(page["token"], fill(page, number))
        assert done
    return page
