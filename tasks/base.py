"""The interface of a task: what a trial shows, which answers it takes, what is correct.

A new task is one file of `tasks/kinds` that defines a `Task` and registers it; nothing else has to
change: pages are drawn from a trial's panels and fields, answers are checked against the fields,
and the machine observer and the simulated participants answer through the task's own methods.
"""

import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import isfunction
from typing import Any, Literal, Protocol, Self

import numpy as np
from PIL import Image

from harness.records import Neuron
from harness.registry import Registry
from harness.section import Section
from harness.text import join_names
from tasks.evidence import Evidence
from tasks.language import N_, Refusal, Words
from tasks.responses import Role

#: Draws of neurons before a task says that it has no trial of a condition.
TRIES = 200

#: Characters of a free-text answer, unless a question asks for more than a few words.
TEXT_LIMIT = 120


class Panel(Section):
    """Pictures shown above the answer, with a heading ("" for the number of the panel) and image
    names."""

    heading: str
    images: tuple[str, ...]


class Option(Section):
    """A picture that can be chosen; its id does not reveal anything about it."""

    id: str
    image: str


class FormField(Section):
    """What a participant is asked, in a trial or beside the trials; `choices`: (value, label)."""

    kind: str
    name: str
    label: str
    choices: tuple[tuple[str, str], ...] = ()

    def translate(self, words: Words) -> Self:
        readable = ("label", "none_label", "low", "high")
        texts: dict[str, Any] = {name: words(text) for name, text in self if name in readable}
        texts["choices"] = tuple((value, words(label)) for value, label in self.choices)
        return self.model_copy(update=texts)


class Field(FormField):
    """One part of an answer.

    `pick`: one of the trial's options. `scale`: one of `choices`. `text`: a few words, or None
    through the checkbox `none_label`; `panel` places it under that panel.
    """

    kind: Literal["pick", "scale", "text"]
    none_label: str = ""
    panel: int | None = None


class Pictures(Section):
    """The pictures of a trial or example, as frozen."""

    panels: tuple[Panel, ...] = ()
    options: tuple[Option, ...] = ()

    @property
    def images(self) -> list[str]:
        panels = [image for panel in self.panels for image in panel.images]
        return panels + [option.image for option in self.options]

    @property
    def image_of(self) -> dict[str, str]:
        """Return option -> name of its picture."""
        return {option.id: option.image for option in self.options}


class Trial(Pictures):
    """One trial, as frozen, and the neurons it shows; no participant sees a neuron twice."""

    id: str
    task: str
    condition: str
    role: Role
    neurons: tuple[Neuron, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A trial before its pictures have file names. The key has the form that the task's `score`
    takes.

    Attributes:
        panels: heading and pictures.
        options: pictures to choose from, in an order that means nothing.
        key: index of the correct option, or another value with which the task's `score` compares
            the answer; None if no answer is correct or incorrect.
        neurons: all neurons shown.
        recipe: how it was drawn, for the researcher.
    """

    neurons: tuple[Neuron, ...]
    key: Any
    panels: tuple[tuple[str, tuple[Image.Image, ...]], ...] = ()
    options: tuple[Image.Image, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)


class InvalidAnswer(Refusal):
    """A field is empty or holds a value that is not allowed."""


class InvalidField(InvalidAnswer):
    """An answer to a field of a trial that is not allowed."""

    def __init__(self, text: str, field: Field) -> None:
        super().__init__(text, question=field.label, none=field.none_label)
        self.field = field


@dataclass(frozen=True)
class Example:
    """A trial of synthetic pictures that introduces a task, with its answer.

    Attributes:
        text: the answer and its reason, a text of the catalogue.
        panels, options: as in `Draft`.
        key: index of the correct option.
    """

    text: str
    panels: tuple[tuple[str, tuple[Image.Image, ...]], ...] = ()
    options: tuple[Image.Image, ...] = ()
    key: int | None = None


class NoTrial(ValueError):
    """The evidence does not contain a (further) trial of that condition; the message says why."""


class Task(Protocol):
    """The interface of a task.

    Attributes:
        title: heading for participants.
        instructions: text for participants, Markdown.
        prompt: the question of a trial.
        conditions: condition -> default number of trials per participant.
        control: the condition with an obvious answer, for practice and attention trials; None
            if the task has none.
        controls: the control conditions, which check whether the task works.
        questions: kinds of questions that the responses can answer, of
            `tasks.settings.QUESTIONS`; the main one first.
        confidence: whether confidence is asked in this task, if the study asks for it. False if
            the task's own fields ask how sure a participant is.

    Optional attributes: `order` (position among the tasks), `label` (name in reports), `design`
    (description in reports), `meanings` (condition -> definition in reports), `disclosed`
    (condition -> what participants are told about it at the end), `clear` (the machine observer's
    margin above which a trial is trivial) and `seconds` (approximate duration of a trial; 20 by
    default).
    """

    name: str
    title: str
    instructions: str
    prompt: str
    conditions: Mapping[str, int]
    control: str | None
    controls: tuple[str, ...]
    questions: tuple[str, ...]
    confidence: bool

    def draw(self, evidence: Evidence, condition: str, rng: np.random.Generator) -> Draft:
        """Draw a trial of a condition. Raises NoTrial if the evidence does not contain one."""
        ...

    def example(self) -> Example | None:
        """Return an example that introduces the task; None if its instructions are enough."""
        ...

    def fields(self, trial: Trial) -> tuple[Field, ...]:
        """Return the fields of a trial's answer."""
        ...

    def answer(self, values: dict[str, Any]) -> Any:
        """Make the recorded answer from the checked values of the fields."""
        ...

    def values(self, answer: Any) -> dict[str, Any]:
        """Return the values of the fields that give this answer: the inverse of `answer`."""
        ...

    def score(self, key: Any, answer: Any) -> bool | None:
        """Return whether the answer is correct; None if there is no key."""
        ...

    def observe(self, trial: Trial, statistics: dict[str, np.ndarray]) -> tuple[Any, float]:
        """Return the machine observer's answer from the pictures' statistics, and its margin."""
        ...

    def simulate(self, trial: Trial, key: Any, knows: bool, rng: np.random.Generator) -> Any:
        """Return a simulated answer of a person who recognises what is shown (`knows`) or not."""
        ...


class PickOne:
    """Base of tasks whose answer is one option with a key; `asked` is the question."""

    asked: str
    controls: tuple[str, ...] = ()
    questions: tuple[str, ...] = ("chance", "contrasts", "learning", "confidence", "associations")
    confidence = True

    def example(self) -> Example | None:
        return None

    def fields(self, trial: Trial) -> tuple[Field, ...]:
        return (Field(kind="pick", name="choice", label=self.asked),)

    def answer(self, values: dict[str, Any]) -> str:
        return values["choice"]

    def values(self, answer: Any) -> dict[str, Any]:
        return {"choice": answer}

    def score(self, key: Any, answer: Any) -> bool | None:
        return answer == key

    def simulate(self, trial: Trial, key: Any, knows: bool, rng: np.random.Generator) -> Any:
        return key if knows else str(rng.choice([o.id for o in trial.options]))


#: Asked below a task's own fields, the same for every trial of the task.
CONFIDENCE = Field(
    kind="scale", name="confidence", label=N_("How sure are you?"),
    choices=(("1", N_("Not at all (I guessed)")), ("2", N_("Not very")), ("3", N_("Fairly")),
             ("4", N_("Very"))),
)  # fmt: skip


#: What every task has; controls, questions and an example may be missing.
MEMBERS = tuple(
    name
    for name in (*Task.__annotations__, *(n for n, v in vars(Task).items() if isfunction(v)))
    if name[0] != "_" and name not in ("controls", "questions", "example")
)


class Tasks(Registry[Task]):
    """Tasks by name, in the order in which participants see them."""

    def get(self, name: str) -> Task:
        """Return the task of a name. Raises ValueError if it is unknown or not complete."""
        task = super().get(name)
        if isinstance(task, type):
            raise ValueError(f"task {name!r} is a class; name an instance of it")
        if missing := [member for member in MEMBERS if not hasattr(task, member)]:
            raise ValueError(
                f"task {name!r} ({type(task).__name__}) lacks {join_names(missing, 4)}; "
                f"tasks/base.py says what a task has"
            )
        return task

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(super().__iter__(), key=lambda name: (order_of(self.get(name)), name)))


def order_of(task: Task | None) -> float:
    """Return the position of a task among others; user-defined tasks come last."""
    return getattr(task, "order", math.inf)


TASKS = Tasks("task", accepts=(object,))


def check_values(fields: Sequence[Field], trial: Trial, raw: object) -> dict[str, Any]:
    """Check the values of a trial's fields that a browser has sent.

    Raises:
        InvalidAnswer: a field is missing or holds what it may not.
        ValueError: not an object, or a field that is unknown.
    """
    if not isinstance(raw, dict):
        raise ValueError("an answer must be an object of field names and values")
    if unknown := sorted(set(map(str, raw)) - {f.name for f in fields}):
        raise ValueError(f"unknown field {unknown[0]!r}")
    return {f.name: _check(f, trial, raw.get(f.name)) for f in fields}


def _check(field: Field, trial: Trial, value: object) -> Any:
    if field.kind == "text":
        if value is None and field.none_label:
            return None
        text = clean_text(value)
        if not text:
            raise InvalidField(
                N_("“{question}”: please write a few words, or tick “{none}”.")
                if field.none_label
                else N_("“{question}”: please write a few words."),
                field,
            )
        return text
    allowed = (
        [o.id for o in trial.options] if field.kind == "pick" else [v for v, _ in field.choices]
    )
    if not isinstance(value, str) or value not in allowed:
        raise InvalidField(N_("“{question}”: please choose one of the answers shown."), field)
    return value


def clean_text(value: object, limit: int = TEXT_LIMIT) -> str:
    """Normalise free text for storage: one line of at most `limit` characters without control
    characters.

    Characters that override the direction of writing are removed, too, as they would reorder what
    follows them in a table. A text without visible characters becomes empty.

    Raises:
        ValueError: the value is not a text.
    """
    if not isinstance(value, str):
        raise ValueError("a text was expected")
    text = unicodedata.normalize("NFC", value.encode("utf-8", "replace").decode())
    text = "".join(
        " " if unicodedata.category(c) in ("Cc", "Zl", "Zp") or c in _OVERRIDES else c for c in text
    )
    text = " ".join(text.split())[:limit].strip()
    return text if any(unicodedata.category(c)[0] in "LNPS" for c in text) else ""


#: Characters that embed, isolate or override a direction of writing.
_OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


CLARITY = (("1", N_("Not at all")), ("2", N_("Slightly")), ("3", N_("Fairly")), ("4", N_("Very")))
#: Labels that simulated participants give.
LABELS = ("red", "wheel", "stripes", "blue dots", "round shape", "window")
