"""Questions beside the trials: a researcher's own file, or a few built-in ones.

A file holds `[[question]]` tables, `[understanding]` (how many answers to questions with `right`
are needed, and how often one may try) and `[colour_check]` (plates that the product draws).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from tasks.base import Frozen, UnfitAnswer, clean_text
from tasks.drawings import plate
from tasks.files import OwnPicture, content_name, read_picture
from tasks.language import N_, Words
from tasks.pictures import encode
from tasks.settings import Section

When = Literal["before", "quiz", "after"]
NUMBERS = (-1e9, 1e9)  # of a question for a number that names no limits
PLATE_NUMBERS = (24, 25, 27, 42, 45, 47, 52, 54, 57, 72, 74, 75)  # no digits that look alike
UNDERSTANDING, COLOUR = "understanding", "colour"


class Condition(Frozen):
    """Of another question: one of these answers was given."""

    question: str
    answers: tuple[str, ...] = Field(min_length=1)


class Check(Frozen):
    """So many right answers to its questions are needed; after so many attempts the study ends."""

    name: str
    needed: int
    attempts: int = 1


class Question(Frozen):
    """One question.

    Attributes:
        kind: `choice`: one of `choices` (value, label). `several`: any of them. `scale`: one of
            them in a row, between the anchors `low` and `high`. `number`: within `limits`. `text`.
        when: before the instructions, after them (`quiz`: whoever does not pass reads them again),
            or after the trials.
        shown_if: what makes it appear. screen_out: answers that end the study. stay_within: of a
            number; others end the study.
        right: the right answers, any of them; check: the Check they count for.
        picture: name of a picture shown above the answers.
    """

    kind: Literal["choice", "several", "scale", "number", "text"]
    name: str
    label: str
    choices: tuple[tuple[str, str], ...] = ()
    when: When = "after"
    required: bool = False
    shown_if: Condition | None = None
    screen_out: tuple[str, ...] = ()
    stay_within: tuple[float, float] | None = None
    right: tuple[str, ...] = ()
    check: str = ""
    low: str = ""
    high: str = ""
    limits: tuple[float, float] = NUMBERS
    picture: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_older_studies(cls, given: Any) -> Any:
        """Version 0.1 froze questions as fields of a trial."""
        if isinstance(given, dict):
            return {k: v for k, v in given.items() if k not in ("none_label", "panel")}
        return given

    def translated(self, words: Words) -> Question:
        """The question as participants read it in a language."""
        choices = tuple((value, words(label)) for value, label in self.choices)
        shown = {name: words(getattr(self, name)) for name in ("label", "low", "high")}
        return self.model_copy(update={**shown, "choices": choices})


BUILT_IN = (
    Question(
        kind="choice",
        name="age",
        label=N_("How old are you?"),
        choices=(
            ("18 to 29", N_("18 to 29")),
            ("30 to 44", N_("30 to 44")),
            ("45 to 59", N_("45 to 59")),
            ("60 or older", N_("60 or older")),
        ),
    ),
    Question(
        kind="choice",
        name="colour_vision",
        label=N_("Do you have normal colour vision?"),
        choices=(("yes", N_("Yes")), ("no", N_("No")), ("unsure", N_("Not sure"))),
    ),
    Question(kind="text", name="comment", label=N_("Do you have any comments?")),
)


class Choice(Section):
    value: str
    label: str


class Entry(Section):
    """One `[[question]]` of the file."""

    kind: Literal["choice", "several", "scale", "number", "text"]
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    label: str = Field(min_length=1)
    choices: tuple[str | Choice, ...] = ()
    points: int = Field(default=0, ge=0, le=11)
    low: str = ""
    high: str = ""
    limits: tuple[float, float] = NUMBERS
    required: bool = False
    when: When = "after"
    shown_if: Condition | None = None
    screen_out: tuple[str, ...] = ()
    stay_within: tuple[float, float] | None = None
    right: tuple[str, ...] | str = ()
    picture: str = ""


class Understanding(Section):
    needed: int | None = Field(default=None, ge=0)
    attempts: int = Field(default=2, ge=1, le=10)


class ColourCheck(Section):
    plates: int = Field(default=4, ge=1, le=12)
    needed: int = Field(default=0, ge=0)


class File(Section):
    question: tuple[Entry, ...] = ()
    understanding: Understanding = Understanding()
    colour_check: ColourCheck | None = None


@dataclass(frozen=True)
class Questionnaire:
    """What is asked, the checks, and the pictures for it."""

    questions: tuple[Question, ...] = ()
    checks: tuple[Check, ...] = ()
    pictures: tuple[OwnPicture, ...] = field(default=(), repr=False)


def read_questionnaire(path: Path, words: Words, seed: int) -> Questionnaire:
    """The questions of a file, checked.

    Raises:
        ValueError: naming the file, the question, what is wrong and what is allowed.
    """
    try:
        file = File(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"questionnaire {path} cannot be read: {error}") from error
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}"
            for e in error.errors()
        ]
        raise ValueError("\n".join(lines)) from error
    questions: list[Question] = []
    pictures: list[OwnPicture] = []
    for entry in file.question:
        where = f"{path}: question {entry.name!r}"
        question = _question(entry, where)
        _fits(question, questions, where)
        if entry.picture:
            pictures.append(read_picture(entry.picture, path.parent, where))
            question = question.model_copy(update={"picture": pictures[-1].name})
        questions.append(question)
    keyed = [q for q in questions if q.check == UNDERSTANDING]
    checks = []
    if keyed:
        needed = len(keyed) if file.understanding.needed is None else file.understanding.needed
        _enough(needed, len(keyed), f"{path}: understanding.needed")
        checks.append(
            Check(name=UNDERSTANDING, needed=needed, attempts=file.understanding.attempts)
        )
    if file.colour_check:
        _enough(file.colour_check.needed, file.colour_check.plates, f"{path}: colour_check.needed")
        plates, drawn = _plates(file.colour_check.plates, words, seed)
        questions, pictures = [*plates, *questions], [*pictures, *drawn]
        checks.append(Check(name=COLOUR, needed=file.colour_check.needed))
    translated = tuple(q.translated(words) for q in questions)
    return Questionnaire(translated, tuple(checks), tuple(pictures))


def _enough(needed: int, count: int, where: str) -> None:
    if needed > count:
        raise ValueError(f"{where} = {needed}: there are {count} such questions")


def _question(entry: Entry, where: str) -> Question:
    choices = tuple(
        (c, c) if isinstance(c, str) else (c.value, c.label) for c in entry.choices
    ) or tuple((str(i), str(i)) for i in range(1, entry.points + 1))
    right = (entry.right,) if isinstance(entry.right, str) else entry.right
    if right and entry.when != "quiz":
        raise ValueError(f"{where}: right answers are for questions with when = 'quiz'")
    values = entry.model_dump(exclude={"choices", "points", "right", "picture"})
    check = UNDERSTANDING if right else ""
    return Question(**values, choices=choices, right=right, check=check)


def _fits(question: Question, earlier: Sequence[Question], where: str) -> None:
    """Raises ValueError where the parts of a question contradict each other or earlier ones."""
    values = [value for value, _ in question.choices]
    chosen = question.kind in ("choice", "several", "scale")
    if question.name in {q.name for q in earlier}:
        raise ValueError(f"{where}: the name is given twice")
    if chosen and (len(values) < 2 or len(set(values)) < len(values)):
        raise ValueError(
            f"{where}: a {question.kind} needs two or more different choices = [...]"
            f"{', or points = 7' if question.kind == 'scale' else ''}"
        )
    if not chosen and values:
        raise ValueError(f"{where}: a {question.kind} has no choices")
    if chosen and (unknown := {*question.right, *question.screen_out} - set(values)):
        raise ValueError(
            f"{where}: {sorted(unknown)[0]!r} is none of its answers: {', '.join(values)}"
        )
    if question.stay_within and question.kind != "number":
        raise ValueError(f"{where}: stay_within is for a number; a {question.kind} has screen_out")
    if question.kind in ("number", "text") and question.screen_out:
        raise ValueError(f"{where}: screen_out is for choices; a number has stay_within = [18, 99]")
    if question.shown_if is None:
        return
    order = ("before", "quiz", "after")
    before = [q for q in earlier if order.index(q.when) <= order.index(question.when)]
    other = next((q for q in before if q.name == question.shown_if.question), None)
    if other is None:
        raise ValueError(f"{where}: shown_if names {question.shown_if.question!r}, which is not "
                         f"asked before it: {', '.join(q.name for q in before)}")  # fmt: skip
    answers = [value for value, _ in other.choices]
    if unknown := set(question.shown_if.answers) - set(answers):
        raise ValueError(f"{where}: shown_if: {sorted(unknown)[0]!r} is no answer to "
                         f"{other.name!r}: {', '.join(answers)}")  # fmt: skip


def _plates(count: int, words: Words, seed: int) -> tuple[list[Question], list[OwnPicture]]:
    """Questions on drawn plates; the first one can be seen by everybody."""
    rng = np.random.default_rng([seed, count, 1917])
    text = N_("Which number do you see in picture {number}? Leave the field empty if you see none.")
    questions, pictures = [], []
    for i, number in enumerate(rng.choice(PLATE_NUMBERS, count, replace=False), 1):
        data = encode(plate(str(number), rng, plain=i == 1))
        pictures.append(OwnPicture(content_name(data, ".jpg"), data))
        questions.append(
            Question(
                kind="number",
                name=f"colour_{i}",
                label=words(text, number=i),
                when="before",
                right=(str(number),),
                check=COLOUR,
                limits=(0, 999),
                picture=pictures[-1].name,
            )
        )
    return questions, pictures


def shown(question: Question, answers: Mapping[str, Any]) -> bool:
    """Whether the answers make the question appear."""
    if question.shown_if is None:
        return True
    given = answers.get(question.shown_if.question)
    values = given if isinstance(given, list) else [given]
    return any(value in question.shown_if.answers for value in values)


def check_answers(
    questions: Sequence[Question], raw: Mapping[str, Any], earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """The answers of one page out of what a browser sent; empty and hidden ones are left out.

    Args:
        earlier: answers of earlier pages, which may make questions appear.

    Raises:
        UnfitAnswer: a required answer is missing, or one is not what may be answered.
    """
    answers: dict[str, Any] = {}
    for question in questions:
        if not shown(question, {**earlier, **answers}):
            continue
        value = raw.get(question.name)
        if value in (None, "", []):
            if question.required:
                text = N_("“{question}”: please answer this question.")
                raise UnfitAnswer(text, question=question.label)
            continue
        answers[question.name] = _checked(question, value)
    return answers


def _checked(question: Question, value: Any) -> Any:
    if question.kind == "text":
        try:
            return clean_text(value)
        except ValueError:
            pass
    elif question.kind == "number":
        return _number(question, value)
    elif question.kind == "several":
        given = value if isinstance(value, list) else [value]
        allowed = [v for v, _ in question.choices]
        if all(isinstance(v, str) and v in allowed for v in given):
            return [v for v in allowed if v in given]
    elif isinstance(value, str) and value in [v for v, _ in question.choices]:
        return value
    text = N_("“{question}”: please choose one of the answers shown.")
    raise UnfitAnswer(text, question=question.label)


def _number(question: Question, value: Any) -> float:
    least, most = question.limits
    try:
        number = float(str(value).strip().replace(",", "."))
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        if question.limits == NUMBERS:
            raise UnfitAnswer(N_("“{question}”: please enter a number."), question=question.label)
        text = N_("“{question}”: please enter a number from {least} to {most}.")
        raise UnfitAnswer(text, question=question.label, least=f"{least:g}", most=f"{most:g}")
    return int(number) if number.is_integer() else number


def screened(questions: Sequence[Question], answers: Mapping[str, Any]) -> bool:
    """Whether an answer ends the study."""
    for question in questions:
        if question.name not in answers:
            continue
        value = answers[question.name]
        if question.stay_within and not question.stay_within[0] <= value <= question.stay_within[1]:
            return True
        given = value if isinstance(value, list) else [value]
        if any(v in question.screen_out for v in given):
            return True
    return False


def count_right(questions: Sequence[Question], check: str, answers: Mapping[str, Any]) -> int:
    """Right answers among the questions of a check."""
    return sum(
        str(answers[q.name]) in q.right
        for q in questions
        if q.check == check and q.name in answers and not isinstance(answers[q.name], list)
    ) + sum(
        set(answers[q.name]) == set(q.right)
        for q in questions
        if q.check == check and isinstance(answers.get(q.name), list)
    )


def simulated_answers(
    questions: Sequence[Question], rng: np.random.Generator, earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """What a simulated person answers to one page: the right answer where there is one."""
    answers: dict[str, Any] = {}
    for question in questions:
        values = [v for v, _ in question.choices if v not in question.screen_out]
        if not shown(question, {**earlier, **answers}) or question.kind == "text":
            if question.kind == "text" and question.required:
                answers[question.name] = "—"
            continue
        if question.right:
            answers[question.name] = (
                list(question.right) if question.kind == "several" else question.right[0]
            )
        elif question.kind == "number":
            least, most = question.stay_within or question.limits
            answers[question.name] = round(rng.uniform(max(0, least), min(100, most)))
        elif values:
            value = str(rng.choice(values))
            answers[question.name] = [value] if question.kind == "several" else value
    return answers
