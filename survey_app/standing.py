"""Where a participant stands, as far as a page needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from survey_app import flow
from survey_app.flow import Stage
from survey_app.store import course_of, current_trials, progress_of
from tasks.assignment import Placed
from tasks.study import Study


@dataclass(frozen=True)
class Standing:
    """Of one participant, or of somebody who may not begin.

    `part` of `parts`: of the tasks in practice, or in the trials. `answers`: to questions.
    `elapsed`: seconds since the page was first served.
    """

    stage: Stage
    position: int = 0
    total: int = 0
    placed: list[Placed] = field(default_factory=list)
    feedback: dict[str, Any] | None = None
    key: Any = None
    attempt: int = 1
    reason: str = ""
    platform: str = "open"
    identity: dict[str, Any] = field(default_factory=dict)
    code: str = ""  # with which a person leaves
    practising: bool = False
    part: int = 1
    parts: int = 1
    quiz_attempts: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    elapsed: float = 0


def standing(study: Study, keys: dict[str, Any], row: dict[str, Any]) -> Standing:
    """Where the participant of a row stands, stored or not."""
    course, progress = course_of(study, keys, row), progress_of(row)
    stage = flow.stage(progress, course)
    placed = current_trials(study, row)
    practising = row["status"] == "practising"
    position = progress.practice_done if practising else progress.done
    if stage is Stage.FEEDBACK:
        position -= 1
    begins = course.practice_begins if practising else course.begins
    return Standing(
        stage=stage,
        position=position,
        total=len(placed),
        placed=placed[position : position + 3],
        feedback=row.get("feedback"),
        key=keys.get(row["feedback"]["trial"]) if stage is Stage.FEEDBACK else None,
        attempt=progress.practice_attempts,
        reason=row.get("reason") or "",
        platform=row["platform"],
        code=row.get("code") or "",
        practising=practising,
        part=sum(begin <= position for begin in begins),
        parts=len(begins),
        quiz_attempts=progress.quiz_attempts,
        answers=row["questionnaire"] or {},
    )
