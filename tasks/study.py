"""The frozen study: what a participant can meet, hashed, refused if anything in it changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.section import Section
from tasks.base import CONFIDENCE, Field, Shown, Trial
from tasks.files import content_name
from tasks.kinds import all_tasks
from tasks.language import SOURCE, Words
from tasks.questionnaire import Check, Question, When
from tasks.settings import Analysis, Exclusion, Payment


class ShownExample(Shown):
    """An example as it is shown; `right` is the option it marks."""

    text: str
    right: str = ""


class TaskText(Section):
    """What participants read about a task."""

    name: str
    title: str
    prompt: str
    instructions: str
    controls: tuple[str, ...] = ()
    example: ShownExample | None = None


class Study(Section):
    """Everything a participant can meet, and the rules. The keys lie apart.

    `files`: of each of the researcher's texts, the pictures it names and the files that hold them.
    """

    hash: str
    language: str = SOURCE
    title: str
    consent: str
    instructions: str
    debrief: str
    tasks: tuple[TaskText, ...]
    trials: tuple[Trial, ...]
    practice: tuple[str, ...]
    forms: tuple[tuple[tuple[str, ...], ...], ...]
    seed: int
    practice_pass: float
    practice_attempts: int | None = None
    minutes: int | None = None
    questions: tuple[Question, ...]
    checks: tuple[Check, ...] = ()
    confidence: bool = False
    seconds_per_trial: float = 0
    min_width: int = 0
    files: Mapping[str, Mapping[str, str]] = {}
    exclusion: Exclusion
    analysis: Analysis | None = None
    payment: Payment
    evidence: dict[str, Any]

    @cached_property
    def by_id(self) -> dict[str, Trial]:
        return {trial.id: trial for trial in self.trials}

    @cached_property
    def task_texts(self) -> dict[str, TaskText]:
        return {t.name: t for t in self.tasks}

    def fields(self, trial: Trial) -> tuple[Field, ...]:
        """What a trial asks: the task's own fields, and confidence where study and task say so."""
        task = all_tasks().get(trial.task)
        extra = (CONFIDENCE,) if self.confidence and task.confidence else ()
        return tuple(f.translated(self.words) for f in (*task.fields(trial), *extra))

    @cached_property
    def words(self) -> Words:
        return Words(self.language)

    def images(self) -> tuple[str, ...]:
        """Names of all pictures of trials and examples, sorted."""
        shown = [*self.trials, *(t.example for t in self.tasks if t.example)]
        return tuple(sorted({name for each in shown for name in each.images}))

    def own_files(self) -> tuple[str, ...]:
        """Names of the pictures in texts and questions, sorted."""
        names = {name for kept in self.files.values() for name in kept.values()}
        return tuple(sorted(names | {q.picture for q in self.questions if q.picture}))

    def asked(self, when: When) -> tuple[Question, ...]:
        """The questions of one page."""
        return tuple(q for q in self.questions if q.when == when)


def digest(written: dict[str, Any], keys: dict[str, Any]) -> str:
    """Hash of all that the study is: texts, trials, design, rules, keys and, by name, pictures.

    Args:
        written: the content of study.json as it stands there, so that a study keeps its hash when
            a later version of this software knows more settings.
    """
    content = {name: value for name, value in written.items() if name != "hash"}
    plain = json.dumps([content, keys], sort_keys=True, ensure_ascii=False)
    return sha256(plain.encode()).hexdigest()[:16]


def load(folder: Path) -> tuple[Study, dict[str, Any]]:
    """A frozen study and its keys.

    Raises:
        ValueError: no study there, or one that was changed after it was frozen (which file).
    """
    try:
        written = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        study = Study.model_validate(written)
        keys = json.loads((folder / "keys.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no readable study ({error}); make one with `conceptevo study build`"
        ) from error
    if digest(written, keys) != study.hash:
        raise ValueError(
            f"{folder}: study.json or keys.json was changed after the study was frozen; restore "
            f"it, or build a new study into another folder"
        )
    for name in (*study.images(), *study.own_files()):
        path = folder / "images" / name
        if not path.exists() or content_name(path.read_bytes(), path.suffix) != name:
            raise ValueError(
                f"{path} is missing or was changed after the study was frozen; restore it"
            )
    return study, keys
