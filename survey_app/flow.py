"""The state machine of participation: a participant's page, and the step that an action takes."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from tasks.questionnaire import When


class Stage(StrEnum):
    """The kind of page that a participant sees."""

    CONSENT = "consent"
    BEFORE = "before"
    INSTRUCTIONS = "instructions"
    QUIZ = "quiz"
    INTRODUCTION = "introduction"
    PRACTICE = "practice"
    FEEDBACK = "feedback"
    TRIAL = "trial"
    QUESTIONS = "questions"
    FINISHED = "finished"
    SCREENED_OUT = "screened_out"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


#: The pages of questions, and when (`Question.when`) their questions are asked.
QUESTION_TIMES: dict[Stage, When] = {
    Stage.BEFORE: "before",
    Stage.QUIZ: "quiz",
    Stage.QUESTIONS: "after",
}
#: Pages at which participation has ended.
ENDS = {Stage.FINISHED, Stage.SCREENED_OUT, Stage.WITHDRAWN, Stage.EXPIRED}
#: Statuses of participants who have begun and not ended.
UNFINISHED = ("consented", "practising", "active")
#: Statuses of participants who ended early by their own or the study's choice.
EARLY_ENDS = ("screened_out", "withdrawn")


@dataclass(frozen=True)
class Course:
    """What the state machine needs to know of a study.

    Attributes:
        practice, keyed, trials: numbers of practice trials, of those with a key, and of trials.
        practice_pass: share of keyed trials that must be correct. attempts: allowed; None: any.
        practice_begins, begins: positions in practice and in the trials at which a task begins.
        first_pages: the pages between consent and the first practice or other trial, in order.
        questions: whether there are questions at the end.
    """

    practice: int = 0
    practice_pass: float = 0
    keyed: int = 0
    trials: int = 0
    questions: bool = False
    attempts: int | None = None
    practice_begins: tuple[int, ...] = ()
    begins: tuple[int, ...] = ()
    first_pages: tuple[Stage, ...] = (Stage.INSTRUCTIONS,)


@dataclass(frozen=True)
class Progress:
    """What the state machine needs to know of a participant; each field is a database column."""

    status: str = "arrived"
    version: int = 0
    done: int = 0
    practice_attempts: int = 0
    practice_done: int = 0
    practice_right: int = 0
    feedback: bool = False
    first_page: int = 0  # index into Course.first_pages
    quiz_attempts: int = 0
    introduced: int = 0  # introductions of tasks that were read, in practice and in the trials


def stage(progress: Progress, course: Course) -> Stage:
    """Return the kind of page that a participant with this progress sees."""
    match progress.status:
        case "arrived":
            return Stage.CONSENT
        case "consented":
            return course.first_pages[progress.first_page]
        case "practising" if progress.feedback:
            return Stage.FEEDBACK
        case "practising" | "active" if progress.introduced < _introductions_due(progress, course):
            return Stage.INTRODUCTION
        case "practising":
            return Stage.PRACTICE
        case "active":
            return Stage.TRIAL if progress.done < course.trials else Stage.QUESTIONS
        case status if status in ENDS:
            return Stage(status)
    raise ValueError(f"unknown status {progress.status!r}")


def _introductions_due(progress: Progress, course: Course) -> int:
    """Return how many introductions of tasks precede the current trial."""
    if progress.status == "active":
        practice_introductions, position = len(course.practice_begins), progress.done
        return practice_introductions + sum(begin <= position for begin in course.begins)
    if progress.practice_attempts > 1:
        return 0  # they were read in the first attempt
    return sum(begin <= progress.practice_done for begin in course.practice_begins)


def _step(progress: Progress, **changes) -> Progress:
    return replace(progress, version=progress.version + 1, **changes)


def consent(progress: Progress) -> Progress:
    """Record that the participant agreed; nothing is stored about a person who declines."""
    return _step(progress, status="consented")


def turn_page(progress: Progress, course: Course) -> Progress:
    """Go to the next of the first pages; after the last, to practice or, without it, the trials."""
    if progress.first_page + 1 < len(course.first_pages):
        return _step(progress, first_page=progress.first_page + 1)
    if not course.practice:
        return _step(progress, status="active")
    return _step(progress, status="practising", practice_attempts=1)


def read_again(progress: Progress, course: Course) -> Progress:
    """Go back to the instructions after a failed quiz."""
    page = course.first_pages.index(Stage.INSTRUCTIONS)
    return _step(progress, first_page=page, quiz_attempts=progress.quiz_attempts + 1)


def introduce(progress: Progress, course: Course) -> Progress:
    return _step(progress, introduced=_introductions_due(progress, course))


def practise(progress: Progress, right: bool | None) -> Progress:
    """Record a practice response and show its feedback; `right` is None if the trial has no key."""
    return _step(
        progress,
        practice_done=progress.practice_done + 1,
        practice_right=progress.practice_right + (right is True),
        feedback=True,
    )


def acknowledge(progress: Progress, course: Course) -> Progress:
    """Go on after feedback: to the next practice trial, another attempt, the trials or the end."""
    if progress.practice_done < course.practice:
        return _step(progress, feedback=False)
    # 1e-9: .55 × 20 is 11.000000000000002 in floating point
    if progress.practice_right >= course.practice_pass * course.keyed - 1e-9:
        return _finish_if_done(_step(progress, feedback=False, status="active"), course)
    if course.attempts is not None and progress.practice_attempts >= course.attempts:
        return end(progress, "screened_out")
    return _step(
        progress,
        feedback=False,
        practice_attempts=progress.practice_attempts + 1,
        practice_done=0,
        practice_right=0,
    )


def answer(progress: Progress, course: Course) -> Progress:
    return _finish_if_done(_step(progress, done=progress.done + 1), course)


def end(progress: Progress, status: Literal["finished", "screened_out", "withdrawn"]) -> Progress:
    """End participation after the last questions, by a rule of the study or by own choice."""
    return _step(progress, status=status)


def _finish_if_done(progress: Progress, course: Course) -> Progress:
    if progress.done >= course.trials and not course.questions:
        return replace(progress, status="finished")
    return progress
