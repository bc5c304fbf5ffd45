"""Preview of every page of a study by name, for the researcher; nothing is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from survey_app.endings import REASONS
from survey_app.flow import Stage
from survey_app.platforms import Arrival
from survey_app.service import Service
from survey_app.simulate import Person, session
from survey_app.standing import Standing
from survey_app.store import Store


@cache
def pages(service: Service) -> dict[str, dict[str, Any]]:
    """Return all pages by name, in the order in which the participant in place 0 sees them."""
    codes = service.recruitment.codes
    ends = {"finished, attention failed": Standing(Stage.FINISHED, code=codes.attention)}
    for name, reason in REASONS.items():
        code = getattr(codes, reason.code)
        ends[f"screened out, {name}"] = Standing(Stage.SCREENED_OUT, reason=name, code=code)
    ends["withdrawn"] = Standing(Stage.WITHDRAWN, code=codes.withdrawn)
    ends["expired"] = Standing(Stage.EXPIRED, code=codes.expired)
    endings = {name: service.view.page(at) for name, at in ends.items()}
    return dict(_named(_walk(service))) | endings


def page(service: Service, name: str) -> dict[str, Any]:
    """Return the page of this name, or a list of all pages if there is none."""
    all_pages = pages(service)
    shown = all_pages[name] if name in all_pages else service.view.contents(list(all_pages))
    return shown | {"version": -1, "token": "", "preload": []}


def _walk(service: Service) -> Iterator[dict[str, Any]]:
    """Yield the pages of a participant who answers everything correctly (database in memory)."""
    store = Store("sqlite://")
    store.migrate()
    copy = Service(store, service.study, service.keys, "simulated", service.recruitment)
    yield from session(copy, Arrival("open", "preview"), Person(np.random.default_rng(0), {}, True))
    store.engine.dispose()


def _named(walk: Iterator[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    seen: Counter[str] = Counter()
    for page in walk:
        stage = page["stage"]
        seen[stage] += 1
        several = stage in (Stage.TRIAL, Stage.PRACTICE, Stage.FEEDBACK, Stage.INTRODUCTION)
        yield (f"{stage} {seen[stage]}" if several else stage), page
