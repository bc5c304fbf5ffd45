"""Questions beside the trials: their kinds, when they are shown, and how answers are checked."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field

from harness.section import Section
from tasks.base import TEXT_LIMIT, FormField, InvalidAnswer, clean_text
from tasks.files import OwnPicture
from tasks.language import N_

When = Literal["before", "quiz", "after"]
NUMBERS = (-1e9, 1e9)  # of a question for a number that names no limits
UNDERSTANDING, COLOUR = "understanding", "colour"
#: Characters of the longest text, and of all texts of one page together, which are sent at once.
LONG_TEXT, TEXTS_OF_PAGE = 2_000, 12_000


class Condition(Section):
    """A condition on another question: one of these answers was given."""

    question: str
    answers: tuple[str, ...] = Field(min_length=1)


class Check(Section):
    """A number of correct answers that is needed; the study ends after `attempts` attempts."""

    name: str
    needed: int
    attempts: int = 1


class QuestionSettings(FormField):
    """What a researcher writes about a question.

    Attributes:
        kind: `choice`: one of `choices`. `several`: any of them. `scale`: one of them in a row,
            between the anchors `low` and `high`. `number`: within `limits`. `text`: of at most
            `characters`, in a field of several lines if these are more than TEXT_LIMIT.
        when: before the instructions, after them (`quiz`: whoever does not pass reads them again),
            or after the trials.
        shown_if: what makes it appear. screen_out: answers that end the study. stay_within: of a
            number; others end the study.
        picture: name of a picture shown above the answers.
    """

    kind: Literal["choice", "several", "scale", "number", "text"]
    when: When = "after"
    required: bool = False
    shown_if: Condition | None = None
    screen_out: tuple[str, ...] = ()
    stay_within: tuple[float, float] | None = None
    low: str = ""
    high: str = ""
    limits: tuple[float, float] = NUMBERS
    characters: int = Field(default=TEXT_LIMIT, ge=1, le=LONG_TEXT)
    picture: str = ""


class Question(QuestionSettings):
    """A question as frozen; `right`: any of its right answers; `check`: what they count for."""

    right: tuple[str, ...] = ()
    check: str = ""


BUILT_IN = (
    Question(kind="choice", name="age", label=N_("How old are you?"),
             choices=(("18 to 29", N_("18 to 29")), ("30 to 44", N_("30 to 44")),
                      ("45 to 59", N_("45 to 59")), ("60 or older", N_("60 or older")))),
    Question(kind="choice", name="colour_vision", label=N_("Do you have normal colour vision?"),
             choices=(("yes", N_("Yes")), ("no", N_("No")), ("unsure", N_("Not sure")))),
    Question(kind="text", name="comment", label=N_("Do you have any comments?"), characters=1000),
)  # fmt: skip


@dataclass(frozen=True)
class Questionnaire:
    """All questions, their checks and their pictures."""

    questions: tuple[Question, ...] = ()
    checks: tuple[Check, ...] = ()
    pictures: tuple[OwnPicture, ...] = field(default=(), repr=False)


def is_shown(question: Question, answers: Mapping[str, Any]) -> bool:
    if question.shown_if is None:
        return True
    answer = answers.get(question.shown_if.question)
    values = answer if isinstance(answer, list) else [answer]
    return any(value in question.shown_if.answers for value in values)


def check_answers(
    questions: Sequence[Question],
    raw: Mapping[str, Any],
    earlier: Mapping[str, Any],
    decimal_mark: str = ".",
) -> dict[str, Any]:
    """Check the answers of one page that a browser has sent; empty and hidden ones are left out.

    Args:
        earlier: answers of earlier pages, which may make questions appear.
        decimal_mark: of the study's language; see `read_number`.

    Raises:
        InvalidAnswer: a required answer is missing, or one is not what may be answered.
    """
    answers: dict[str, Any] = {}
    for question in questions:
        if not is_shown(question, {**earlier, **answers}):
            continue
        value = raw.get(question.name)
        if question.kind == "text" and isinstance(value, str):
            value = clean_text(value, question.characters)
        if value in (None, "", []) or (isinstance(value, str) and not value.strip()):
            if question.required:
                text = N_("“{question}”: please answer this question.")
                raise InvalidAnswer(text, question=question.label)
            continue
        answers[question.name] = _check_answer(question, value, decimal_mark)
    return answers


def _check_answer(question: Question, value: Any, decimal_mark: str) -> Any:
    if question.kind == "text" and isinstance(value, str):
        return value
    elif question.kind == "number":
        return _number(question, value, decimal_mark)
    elif question.kind == "several":
        chosen = value if isinstance(value, list) else [value]
        allowed = [v for v, _ in question.choices]
        if all(isinstance(v, str) and v in allowed for v in chosen):
            return [v for v in allowed if v in chosen]
    elif isinstance(value, str) and value in [v for v, _ in question.choices]:
        return value
    text = N_("“{question}”: please choose one of the answers shown.")
    raise InvalidAnswer(text, question=question.label)


def read_number(text: str, decimal_mark: str = ".") -> float:
    """Return a number as people write it, in digits of any script; NaN if it is no number.

    Point and comma both stand before decimals. NaN if one of them may also separate thousands: the
    one that is not the language's own decimal mark, before exactly three digits (1,000).
    """
    text = re.sub(r"\d", lambda digit: str(int(digit[0])), text.strip())
    text = text.replace("\N{MINUS SIGN}", "-").replace("_", "?")
    thousands = re.fullmatch(r"[-+]?[1-9]\d{0,2}([.,])\d{3}", text)
    if thousands and thousands[1] != decimal_mark:
        return math.nan
    try:
        return float(re.sub("[,\N{ARABIC DECIMAL SEPARATOR}]", ".", text))
    except ValueError:
        return math.nan


def _number(question: Question, value: Any, decimal_mark: str) -> float:
    least, most = question.limits
    number = value if type(value) in (int, float) else read_number(str(value), decimal_mark)
    if not least <= number <= most:
        if question.limits == NUMBERS:
            raise InvalidAnswer(N_("“{question}”: please enter a number."), question=question.label)
        text = N_("“{question}”: please enter a number from {least} to {most}.")
        raise InvalidAnswer(text, question=question.label, least=least, most=most)
    return int(number) if number == int(number) else number


def is_screened_out(questions: Sequence[Question], answers: Mapping[str, Any]) -> bool:

    def ends(question: Question, value: Any) -> bool:
        if question.stay_within and not question.stay_within[0] <= value <= question.stay_within[1]:
            return True
        chosen = value if isinstance(value, list) else [value]
        return not set(chosen).isdisjoint(question.screen_out)

    return any(ends(q, answers[q.name]) for q in questions if q.name in answers)


def count_right(questions: Sequence[Question], check: str, answers: Mapping[str, Any]) -> int:
    """Count correct answers to a check's questions; `several` needs all correct choices."""

    def is_correct(q: Question, answer: Any) -> bool:
        return set(answer) == set(q.right) if isinstance(answer, list) else str(answer) in q.right

    keyed = [q for q in questions if q.check == check and q.name in answers]
    return sum(is_correct(q, answers[q.name]) for q in keyed)


def simulated_answers(
    questions: Sequence[Question], rng: np.random.Generator, earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a simulated participant's answers to one page."""
    answers: dict[str, Any] = {}
    for question in questions:
        if is_shown(question, {**earlier, **answers}):
            answers[question.name] = _simulated_answer(question, rng)
    return answers


def _simulated_answer(question: Question, rng: np.random.Generator) -> Any:
    """Return a correct answer if there is one, else one that does not end the study."""
    if question.kind == "text":
        return "—" if question.required else None
    if question.right:
        return list(question.right) if question.kind == "several" else question.right[0]
    if question.kind == "number":
        ranges = [question.limits, question.stay_within or question.limits]
        least, most = max(low for low, _ in ranges), min(high for _, high in ranges)
        # Of a wide range only the 100 numbers nearest to 0, as most answers are.
        most = min(most, max(least, 0) + 100)
        least = max(least, most - 100)
        return min(max(round(rng.uniform(least, most)), least), most)
    values = [value for value, _ in question.choices if value not in question.screen_out]
    if not values:
        return None
    value = str(rng.choice(values))
    return [value] if question.kind == "several" else value
