"""Preview of every page of a study by name, for the researcher; nothing is stored."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from survey_app.endings import REASONS
from survey_app.flow import Stage
from survey_app.participant_state import ParticipantState
from survey_app.platforms import Visitor
from survey_app.service import Service
from survey_app.simulate import Person, session
from survey_app.store import Store


@cache
def pages(service: Service) -> dict[str, dict[str, Any]]:
    """Return all pages by name, in the order in which the participant in place 0 sees them."""
    codes, platform = service.recruitment.codes, service.recruitment.platforms[0]
    states = {"finished, attention failed": ParticipantState(Stage.FINISHED, code=codes.attention)}
    for name, reason in REASONS.items():
        code = reason.code_for(platform, codes)
        state = ParticipantState(Stage.SCREENED_OUT, reason=name, code=code)
        states[f"screened out, {name}"] = state
    states["withdrawn"] = ParticipantState(Stage.WITHDRAWN, code=codes.withdrawn)
    states["expired"] = ParticipantState(Stage.EXPIRED, code=codes.expired)
    states["expired, returned"] = replace(states["expired"], reason="returned")
    end_pages = {
        name: service.view.page(replace(state, platform=platform)) for name, state in states.items()
    }
    return dict(_name_pages(_walk(service))) | end_pages


def page(service: Service, name: str) -> dict[str, Any]:
    """Return the page of this name, or a list of all pages if there is none."""
    all_pages = pages(service)
    shown = all_pages[name] if name in all_pages else service.view.contents(list(all_pages))
    return shown | {"version": -1, "token": "", "preload": []}


def _walk(service: Service) -> Iterator[dict[str, Any]]:
    """Yield the pages of a participant who answers everything correctly (database in memory)."""
    with closing(Store("sqlite://")) as store:
        store.migrate()
        copy = Service(store, service.study, service.keys, "simulated", service.recruitment)
        person = Person(np.random.default_rng(0), {}, able=True)
        yield from session(copy, Visitor(service.recruitment.platforms[0], "preview"), person)


def _name_pages(walk: Iterator[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    stage_counts: Counter[str] = Counter()
    for page in walk:
        stage = page["stage"]
        stage_counts[stage] += 1
        repeats = stage in (Stage.TRIAL, Stage.PRACTICE, Stage.FEEDBACK, Stage.INTRODUCTION)
        yield (f"{stage} {stage_counts[stage]}" if repeats else stage), page
