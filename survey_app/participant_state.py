"""The state of a participant that is needed to show a page or to take a step."""

from dataclasses import dataclass, field
from typing import Any

from survey_app import flow
from survey_app.flow import Course, Progress, Stage
from survey_app.store import progress_of
from tasks.assignment import PlannedTrial, practice_plan
from tasks.study import Study


@dataclass(frozen=True)
class ParticipantState:
    """The state of a participant, or of a visitor who may not begin.

    Attributes:
        position, total: index of the current trial (in practice or after it); number of trials.
        upcoming: the current trial and up to two that follow. answers: to questions, by name.
        part, parts: number of the current task from 1, and of tasks, in practice or in the trials.
        identity: what the platform sent. elapsed: seconds since the page was first served.
    """

    stage: Stage
    progress: Progress = field(default_factory=Progress)
    course: Course = field(default_factory=Course)
    position: int = 0
    total: int = 0
    upcoming: list[PlannedTrial] = field(default_factory=list)
    feedback: dict[str, Any] | None = None
    key: Any = None
    reason: str = ""
    platform: str = "open"
    identity: dict[str, Any] = field(default_factory=dict)
    code: str = ""  # completion code
    practising: bool = False
    part: int = 1
    parts: int = 1
    answers: dict[str, Any] = field(default_factory=dict)
    elapsed: float = 0


def derive_state(study: Study, keys: dict[str, Any], row: dict[str, Any]) -> ParticipantState:
    """Return the state that follows from a participant's row."""
    course, progress = _course(study, keys, row), progress_of(row)
    stage = flow.stage(progress, course)
    practising = progress.status == "practising"
    if practising:
        trials, starts = practice_plan(study, progress.practice_attempts), course.practice_begins
    else:
        trials, starts = row["plan"] or [], course.begins
    position = progress.practice_done if practising else progress.done
    if stage is Stage.FEEDBACK:
        position -= 1
    return ParticipantState(
        stage=stage,
        progress=progress,
        course=course,
        position=position,
        total=len(trials),
        upcoming=trials[position : position + 3],
        feedback=row["feedback"],
        key=keys.get(row["feedback"]["trial"]) if stage is Stage.FEEDBACK else None,
        reason=row["reason"] or "",
        platform=row["platform"],
        code=row["code"] or "",
        practising=practising,
        part=sum(begin <= position for begin in starts),
        parts=len(starts),
        answers=row["questionnaire"] or {},
    )


def _course(study: Study, keys: dict[str, Any], row: dict[str, Any]) -> Course:
    """Return what the state machine needs to know of the study for this participant."""
    before, quiz = (bool(study.questions_at(when)) for when in ("before", "quiz"))
    return Course(
        practice=len(study.practice),
        practice_pass=study.practice_pass,
        keyed=sum(keys[trial] is not None for trial in study.practice),
        trials=len(row["plan"] or ()),
        questions=bool(study.questions_at("after")),
        practice_begins=_task_starts(study, list(study.practice)),
        begins=_task_starts(study, [planned["trial"] for planned in row["plan"] or ()]),
        first_pages=(*[Stage.BEFORE] * before, Stage.INSTRUCTIONS, *[Stage.QUIZ] * quiz),
        attempts=study.practice_attempts,
    )


def _task_starts(study: Study, trials: list[str]) -> tuple[int, ...]:
    """Return the positions at which the task changes, including the first."""
    tasks = [study.by_id[trial].task for trial in trials]
    return tuple(i for i, task in enumerate(tasks) if i == 0 or task != tasks[i - 1])
