"""Where a participant is and where an action leads: a pure state machine without a store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from tasks.questionnaire import When


class Stage(StrEnum):
    """The page a participant is on."""

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


#: Pages of questions, and which of the study's questions they ask.
ASKED: dict[Stage, When] = {
    Stage.BEFORE: "before",
    Stage.QUIZ: "quiz",
    Stage.QUESTIONS: "after",
}
#: Pages that take no further action.
ENDS = {Stage.FINISHED, Stage.SCREENED_OUT, Stage.WITHDRAWN, Stage.EXPIRED}
#: Statuses of people who ended before the end by their own or the study's choice.
LEFT = ("screened_out", "withdrawn")


@dataclass(frozen=True)
class Course:
    """What the flow needs to know of a study.

    `practice_begins` and `begins` are the positions among the practice trials, and among the
    trials, at which another task begins: there it introduces itself. `before` and `quiz`: whether
    there are questions before the instructions, and on what was understood of them. `attempts` at
    practice are allowed (None: any).
    """

    practice: int = 0
    practice_pass: float = 0
    keyed: int = 0
    trials: int = 0
    questions: bool = False
    attempts: int | None = None
    practice_begins: tuple[int, ...] = ()
    begins: tuple[int, ...] = ()
    before: bool = False
    quiz: bool = False

    @property
    def first_pages(self) -> tuple[Stage, ...]:
        """Between consent and the first trial."""
        quiz = (Stage.QUIZ,) if self.quiz else ()
        return (*((Stage.BEFORE,) if self.before else ()), Stage.INSTRUCTIONS, *quiz)


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
    first_page: int = 0  # of the course's first pages
    quiz_attempts: int = 0
    introduced: int = 0  # tasks that have introduced themselves, in practice and in the trials


def stage(progress: Progress, course: Course) -> Stage:
    """The page that these figures call for."""
    match progress.status:
        case "arrived":
            return Stage.CONSENT
        case "consented":
            return course.first_pages[progress.first_page]
        case "practising" if progress.feedback:
            return Stage.FEEDBACK
        case "practising" | "active" if progress.introduced < _begun(progress, course):
            return Stage.INTRODUCTION
        case "practising":
            return Stage.PRACTICE
        case "active":
            return Stage.TRIAL if progress.done < course.trials else Stage.QUESTIONS
        case "finished" | "screened_out" | "withdrawn" | "expired":
            return Stage(progress.status)
    raise ValueError(f"unknown status {progress.status!r}")


def _begun(progress: Progress, course: Course) -> int:
    """How many tasks should have introduced themselves before the current trial."""
    if progress.status == "active":
        practised, at = len(course.practice_begins), progress.done
        return practised + sum(begin <= at for begin in course.begins)
    if progress.practice_attempts > 1:
        return 0  # they are known
    return sum(begin <= progress.practice_done for begin in course.practice_begins)


def _step(progress: Progress, **changes) -> Progress:
    return replace(progress, version=progress.version + 1, **changes)


def consent(progress: Progress) -> Progress:
    """Agreed; of who declines nothing is kept."""
    return _step(progress, status="consented")


def turn_page(progress: Progress, course: Course) -> Progress:
    """On to the next of the first pages, then to practice, or to the trials where there is none."""
    if progress.first_page + 1 < len(course.first_pages):
        return _step(progress, first_page=progress.first_page + 1)
    if not course.practice:
        return _step(progress, status="active")
    return _step(progress, status="practising", practice_attempts=1)


def read_again(progress: Progress, course: Course) -> Progress:
    """The quiz was not passed: back to the instructions."""
    page = course.first_pages.index(Stage.INSTRUCTIONS)
    return _step(progress, first_page=page, quiz_attempts=progress.quiz_attempts + 1)


def introduce(progress: Progress, course: Course) -> Progress:
    """A task's introduction was read."""
    return _step(progress, introduced=_begun(progress, course))


def practise(progress: Progress, right: bool | None) -> Progress:
    """A practice answer; its feedback shows until it is acknowledged. `right` None: no key."""
    return _step(
        progress,
        practice_done=progress.practice_done + 1,
        practice_right=progress.practice_right + (right is True),
        feedback=True,
    )


def acknowledge(progress: Progress, course: Course) -> Progress:
    """Feedback was read: the next practice trial, another round, the trials, or out."""
    if progress.practice_done < course.practice:
        return _step(progress, feedback=False)
    if progress.practice_right >= course.practice_pass * course.keyed:
        return _finish_if_done(_step(progress, feedback=False, status="active"), course)
    if course.attempts is not None and progress.practice_attempts >= course.attempts:
        return screen_out(replace(progress, feedback=False))
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


def screen_out(progress: Progress) -> Progress:
    """The study itself ends it early."""
    return _step(progress, status="screened_out")


def finish(progress: Progress) -> Progress:
    """The questions were answered or skipped."""
    return _step(progress, status="finished")


def withdraw(progress: Progress) -> Progress:
    """The person ends it early."""
    return _step(progress, status="withdrawn", feedback=False)


def _finish_if_done(progress: Progress, course: Course) -> Progress:
    if progress.done >= course.trials and not course.questions:
        return replace(progress, status="finished")
    return progress
