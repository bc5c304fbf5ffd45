"""Read and check a researcher's questionnaire from a TOML file.

A file holds `[[question]]` tables, `[understanding]` (how many answers to questions with `right`
are needed, and how often one may try) and `[colour_check]` (plates that the product draws).
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from pydantic import Field, field_validator, model_validator

from harness.section import Section
from tasks.base import TEXT_LIMIT, InvalidAnswer
from tasks.drawings import draw_plate
from tasks.files import OwnPicture, content_name, read_picture
from tasks.language import N_, Words
from tasks.pictures import encode
from tasks.questionnaire import (
    COLOUR,
    NUMBERS,
    TEXTS_OF_PAGE,
    UNDERSTANDING,
    Check,
    Condition,
    Question,
    Questionnaire,
    QuestionSettings,
    When,
    check_answers,
)

#: Digits that look alike in dots are left out, such as 5 and 6.
PLATE_NUMBERS = (12, 14, 17, 21, 24, 27, 41, 42, 47, 71, 72, 74)
#: Reserved names, which the survey itself uses for what it sends or stores.
RESERVED = {"withdraw", "consent", *(f"{check}_right" for check in (UNDERSTANDING, COLOUR))}


class Choice(Section):
    """A choice, written as {value = …, label = …}, or as one text that is both."""

    value: str
    label: str

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: object) -> object:
        if not isinstance(raw, str | dict):
            raise ValueError("must be text in quotes, or {value = …, label = …}")
        return {"value": raw, "label": raw} if isinstance(raw, str) else raw


class Entry(QuestionSettings):
    """One `[[question]]` of the file."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    label: str = Field(min_length=1)
    choices: tuple[Choice, ...] = ()  # type: ignore[assignment]
    points: int = Field(default=0, ge=0, le=11)
    right: tuple[str, ...] = ()

    @field_validator("right", mode="before")
    @classmethod
    def _read_one(cls, right: object) -> object:
        return (right,) if isinstance(right, str) else right


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


def read_questionnaire(path: Path, words: Words, seed: int) -> Questionnaire:
    """Read and check the questions of a file.

    Raises:
        ValueError: the file is invalid; the message names the question and what is allowed.
    """
    file = File.read(path, "questionnaire")
    questions: list[Question] = []
    pictures: list[OwnPicture] = []
    for entry in file.question:
        where = f"{path}: question {entry.name!r}"
        question = _question(entry, where)
        for problem in _problems(question, questions):
            raise ValueError(f"{where}: {problem}")
        if entry.picture:
            pictures.append(read_picture(entry.picture, path.parent, where))
            question = question.model_copy(update={"picture": pictures[-1].name})
        questions.append(question)
    for when in get_args(When):
        longest = sum(q.characters for q in questions if q.when == when and q.kind == "text")
        if longest > TEXTS_OF_PAGE:
            raise ValueError(
                f"{path}: the texts asked with when = {when!r} may have {longest:,} characters in "
                f"all, and one page can send {TEXTS_OF_PAGE:,}; lower their `characters`"
            )
    keyed = [q for q in questions if q.check == UNDERSTANDING]
    checks = []
    needed = len(keyed) if file.understanding.needed is None else file.understanding.needed
    hidden = [q.name for q in keyed if q.shown_if]
    which = f" that everybody sees, as {hidden[0]!r} has shown_if" if hidden else ""
    _check_needed(needed, len(keyed) - len(hidden), f"{path}: understanding.needed", which)
    if file.understanding.model_fields_set and not keyed:
        raise ValueError(
            f"{path}: [understanding] has nothing to count: no question has `right`; name right "
            f"answers, or leave the section out"
        )
    if not (file.question or file.colour_check):
        raise ValueError(f"{path} asks nothing; for no questions at all, set questions = false")
    if keyed:
        attempts = file.understanding.attempts
        checks.append(Check(name=UNDERSTANDING, needed=needed, attempts=attempts))
    if file.colour_check:
        count = file.colour_check.plates
        _check_needed(file.colour_check.needed, count, f"{path}: colour_check.needed")
        plates, plate_pictures = _plates(count, words, seed)
        questions, pictures = [*plates, *questions], [*pictures, *plate_pictures]
        checks.append(Check(name=COLOUR, needed=file.colour_check.needed))
    translated = tuple(q.translate(words) for q in questions)
    return Questionnaire(translated, tuple(checks), tuple(pictures))


def _check_needed(needed: int, count: int, parameter: str, which: str = "") -> None:
    if needed > count:
        raise ValueError(f"{parameter} = {needed}: there are {count} such questions{which}")


def _question(entry: Entry, where: str) -> Question:
    points = tuple((str(i), str(i)) for i in range(1, entry.points + 1))
    choices = tuple((c.value, c.label) for c in entry.choices) or points
    if entry.choices and entry.points:
        raise ValueError(f"{where}: give choices or points, not both")
    if entry.right and entry.when != "quiz":
        raise ValueError(f"{where}: right answers are for questions with when = 'quiz'")
    values = entry.model_dump(exclude={"choices", "points", "picture"})
    return Question(**values, choices=choices, check=UNDERSTANDING if entry.right else "")


def _problems(question: Question, earlier: Sequence[Question]) -> Iterator[str]:
    """Yield contradictions within a question, or with earlier ones."""
    kind, values = question.kind, [value for value, _ in question.choices]
    if question.name in RESERVED or re.fullmatch(r"colour_\d+", question.name):
        yield "the survey itself uses this name; choose another"
    if question.name in {q.name for q in earlier}:
        yield "the name is given twice"
    if kind in ("number", "text"):
        if values:
            yield f"a {kind} has no choices"
        if question.screen_out:
            yield "screen_out is for choices; a number has stay_within = [18, 99]"
    else:
        if len(values) < 2 or len(set(values)) < len(values):
            points = ", or points = 7" if kind == "scale" else ""
            yield f"a {kind} needs two or more different choices = [...]{points}"
        if unknown := {*question.right, *question.screen_out} - set(values):
            yield f"{sorted(unknown)[0]!r} is none of its answers: {', '.join(values)}"
        if "" in values:
            yield "one of its choices is empty; give it a text"
        if set(question.screen_out) == set(values):
            yield "screen_out has every answer, so nobody could take part"
        if ending := {*question.right} & {*question.screen_out}:
            yield f"{sorted(ending)[0]!r} is a right answer, but also in screen_out"
        if kind != "several" and set(question.right) == set(values):
            yield "every answer is right; leave right out, or name fewer"
    yield from _text_problems(question)
    yield from _right_problems(question)
    yield from _limit_problems(question)
    if question.stay_within and kind != "number":
        yield f"stay_within is for a number; a {kind} has screen_out"
    if question.shown_if:
        yield from _condition_problems(question, question.shown_if, earlier)
    if question.when == "after" and (question.screen_out or question.stay_within):
        yield (
            "screen_out and stay_within would turn away participants who have answered all trials; "
            "ask it before them (when = 'before')"
        )


def _condition_problems(
    question: Question, condition: Condition, earlier: Sequence[Question]
) -> Iterator[str]:
    order = ("before", "quiz", "after")
    latest = order.index(question.when)
    before = {q.name: q for q in earlier if order.index(q.when) <= latest}
    if condition.question not in before:
        yield (f"shown_if names {condition.question!r}, which is not asked before it: "
               f"{', '.join(before) or 'no question is'}")  # fmt: skip
        return
    asked = before[condition.question]
    answers = [value for value, _ in asked.choices]
    if not answers:
        yield (f"shown_if names {condition.question!r}, a {asked.kind}, which has no choices to "
               f"name as answers; name a question with choices")  # fmt: skip
    elif unknown := set(condition.answers) - set(answers):
        yield (f"shown_if: {sorted(unknown)[0]!r} is not an answer to {condition.question!r}: "
               f"{', '.join(answers)}")  # fmt: skip


def _text_problems(question: Question) -> Iterator[str]:
    """Yield texts that participants cannot read or tell apart, or would never see."""
    labels = [label.strip() for _, label in question.choices]
    if not question.label.strip():
        yield "its label is empty; give it a text"
    if "" in labels:
        yield "the label of one of its choices is empty; give it a text"
    elif len(set(labels)) < len(labels):
        yield "two of its choices have the same label; participants could not tell them apart"
    if question.kind not in ("choice", "scale") and (question.low or question.high):
        yield f"low and high are for a scale; a {question.kind} shows neither"


def _right_problems(question: Question) -> Iterator[str]:
    """Yield right answers to a number or a text that no answer equals."""
    if question.kind not in ("number", "text"):
        return
    shown = question.model_copy(update={"shown_if": None})
    for text in question.right:
        try:
            answer = check_answers([shown], {question.name: text}, {}).get(question.name)
        except InvalidAnswer as error:
            yield f"right = {text!r} cannot be answered: {error}"
            continue
        if str(answer) != text:
            yield f"right = {text!r} is stored as {answer!r} when it is answered; write that"


def _limit_problems(question: Question) -> Iterator[str]:
    """Yield limits that no answer satisfies, or that its kind does not have."""
    least, most = question.limits
    if question.kind != "number" and question.limits != NUMBERS:
        yield f"limits are for a number; a {question.kind} has none"
    if question.kind != "text" and question.characters != TEXT_LIMIT:
        yield f"characters are for a text; a {question.kind} has none"
    for name, bounds in (("limits", question.limits), ("stay_within", question.stay_within)):
        if bounds and not bounds[0] <= bounds[1]:
            yield f"{name} = {list(bounds)}: the smaller number comes first"
    if question.stay_within:
        low, high = question.stay_within
        if high < least or low > most:
            yield (f"stay_within = {[low, high]} lies outside limits = {[least, most]}, so nobody "
                   f"could take part")  # fmt: skip


def _plates(count: int, words: Words, seed: int) -> tuple[list[Question], list[OwnPicture]]:
    """Make questions on colour plates; everybody can see the number of the first."""
    rng = np.random.default_rng([seed, count, 1917])
    text = N_("Which number do you see in picture {number}? Leave the field empty if you see none.")
    questions, pictures = [], []
    for i, number in enumerate(rng.choice(PLATE_NUMBERS, count, replace=False), 1):
        data = encode(draw_plate(str(number), rng, plain=i == 1))
        pictures.append(OwnPicture(content_name(data), data))
        questions.append(
            Question(kind="number", name=f"colour_{i}", label=words(text, number=i), when="before",
                     right=(str(number),), check=COLOUR, limits=(0, 999), picture=pictures[-1].name)
        )  # fmt: skip
    return questions, pictures
