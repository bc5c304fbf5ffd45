"""Every page of a study by name, for the researcher; nothing is stored by looking at one."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from survey_app import flow
from survey_app.endings import REASONS
from survey_app.flow import Progress, Stage
from survey_app.schema import participants
from survey_app.service import Service
from survey_app.standing import Standing
from survey_app.store import course_of, current_trials, plan_of, progress_of

LIST = "list"


def pages(service: Service) -> dict[str, dict[str, Any]]:
    """Name -> page, in the order in which a participant of the first place meets them."""
    codes = service.recruitment.codes
    found = {"consent": service.view.page(Standing(Stage.CONSENT))}
    found |= {name: service.still(row) for name, row in _walk(service)}
    found["finished, attention failed"] = service.view.page(
        Standing(Stage.FINISHED, code=codes.attention)
    )
    for name, reason in REASONS.items():
        found[f"screened out, {name}"] = service.view.page(
            Standing(Stage.SCREENED_OUT, reason=name, code=getattr(codes, reason.code))
        )
    found["withdrawn"] = service.view.page(Standing(Stage.WITHDRAWN, code=codes.withdrawn))
    found["expired"] = service.view.page(Standing(Stage.EXPIRED, code=codes.expired))
    return found


def page(service: Service, name: str) -> dict[str, Any]:
    """One page by name; the list of all where there is none of that name."""
    found = pages(service)
    still = {"version": -1, "token": "", "preload": []}
    if name in found:
        return found[name] | still
    links = "".join(f'<li><a href="?page={escape(n)}">{escape(n)}</a></li>' for n in found)
    html = f'<div class="page"><h1 tabindex="-1">{escape(service.study.title)}</h1>'
    html += f'<p><a class="primary" href="?">⏵</a></p><ol>{links}</ol></div>'
    return {"stage": "still", "html": html, **still}


def _walk(service: Service) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a person who goes from consent to the end and answers everything rightly."""
    row: dict[str, Any] = {column.name: None for column in participants.c}
    row |= vars(flow.consent(Progress(), True)) | {"participant": "preview", "platform": "open"}
    row |= {"plan": plan_of(service.study, 0), "questionnaire": {}, "attention_right": 10_000}
    row["feedback"] = None
    seen: dict[str, int] = {}
    while True:
        course = course_of(service.study, service.keys, row)
        progress = progress_of(row)
        stage = flow.stage(progress, course)
        seen[stage] = seen.get(stage, 0) + 1
        if stage in flow.ENDS:
            yield stage.value, row | {"code": service.recruitment.codes.completed}
            return
        several = stage in (Stage.TRIAL, Stage.PRACTICE, Stage.FEEDBACK, Stage.INTRODUCTION)
        yield f"{stage.value} {seen[stage]}" if several else stage.value, row
        row = row | _next(service, row, stage, progress, course)


def _next(service: Service, row, stage: Stage, progress: Progress, course) -> dict[str, Any]:
    """What changes in the row when its page was answered."""
    feedback = None
    match stage:
        case Stage.PRACTICE:
            trial = current_trials(service.study, row)[progress.practice_done]["trial"]
            key = service.keys[trial]
            shown = {"trial": trial, "answer": key, "missing": None}
            feedback = shown | {"right": None if key is None else True}
            after = flow.practise(progress, feedback["right"])
        case Stage.FEEDBACK:
            after = flow.acknowledge(progress, course)
        case Stage.TRIAL:
            after = flow.answer(progress, course)
        case Stage.QUESTIONS:
            after = flow.finish(progress)
        case Stage.INTRODUCTION:
            after = flow.introduce(progress, course)
        case _:
            after = flow.turn_page(progress, course)
    return vars(after) | {"feedback": feedback}
