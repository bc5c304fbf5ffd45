"""Where a participant is and where an action leads: a pure state machine without a store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Stage(StrEnum):
    """The page a participant is on."""

    CONSENT = "consent"
    INSTRUCTIONS = "instructions"
    PRACTICE = "practice"
    FEEDBACK = "feedback"
    TRIAL = "trial"
    QUESTIONS = "questions"
    FINISHED = "finished"
    SCREENED_OUT = "screened_out"
    EXPIRED = "expired"


#: Pages that take no further action.
ENDS = {Stage.FINISHED, Stage.SCREENED_OUT, Stage.EXPIRED}


@dataclass(frozen=True)
class Course:
    """What the flow needs to know of a study."""

    practice: int
    practice_pass: float
    keyed: int
    trials: int
    questions: bool


@dataclass(frozen=True)
class Progress:
    """What the flow needs to know of a participant; each field is a column of the store."""

    status: str = "arrived"
    version: int = 0
    done: int = 0
    practice_attempts: int = 0
    practice_done: int = 0
    practice_right: int = 0
    feedback: bool = False


def stage(progress: Progress, course: Course) -> Stage:
    """The page that these figures call for."""
    match progress.status:
        case "arrived":
            return Stage.CONSENT
        case "consented":
            return Stage.INSTRUCTIONS
        case "practising":
            return Stage.FEEDBACK if progress.feedback else Stage.PRACTICE
        case "active":
            return Stage.TRIAL if progress.done < course.trials else Stage.QUESTIONS
        case "finished" | "screened_out" | "expired":
            return Stage(progress.status)
    raise ValueError(f"unknown status {progress.status!r}")


def _step(progress: Progress, **changes) -> Progress:
    return replace(progress, version=progress.version + 1, **changes)


def consent(progress: Progress, agreed: bool) -> Progress:
    """Agreed or declined."""
    return _step(progress, status="consented" if agreed else "screened_out")


def read_instructions(progress: Progress, course: Course) -> Progress:
    """On to practice, or to the trials where there is none."""
    if not course.practice:
        return _step(progress, status="active")
    return _step(progress, status="practising", practice_attempts=1)


def practise(progress: Progress, right: bool | None) -> Progress:
    """A practice answer; its feedback shows until it is acknowledged. `right` None: no key."""
    return _step(
        progress,
        practice_done=progress.practice_done + 1,
        practice_right=progress.practice_right + (right is True),
        feedback=True,
    )


def acknowledge(progress: Progress, course: Course) -> Progress:
    """Feedback was read: the next practice trial, another round, or the trials."""
    if progress.practice_done < course.practice:
        return _step(progress, feedback=False)
    if progress.practice_right >= course.practice_pass * course.keyed:
        return _finish_if_done(_step(progress, feedback=False, status="active"), course)
    return _step(
        progress,
        feedback=False,
        practice_attempts=progress.practice_attempts + 1,
        practice_done=0,
        practice_right=0,
    )


def answer(progress: Progress, course: Course) -> Progress:
    """A trial was answered."""
    return _finish_if_done(_step(progress, done=progress.done + 1), course)


def finish(progress: Progress) -> Progress:
    """The questions were answered or skipped."""
    return _step(progress, status="finished")


def _finish_if_done(progress: Progress, course: Course) -> Progress:
    if progress.done >= course.trials and not course.questions:
        return replace(progress, status="finished")
    return progress
