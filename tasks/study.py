"""The frozen study: everything that participants can see, hashed; a changed study is refused."""

import json
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.section import Section
from tasks.base import CONFIDENCE, Field, Pictures, Trial
from tasks.files import content_name
from tasks.kinds import all_tasks
from tasks.language import SOURCE, Words
from tasks.questionnaire import Check, Question, When
from tasks.settings import Analysis, Exclusion, Payment


class FrozenExample(Pictures):
    """An example as shown; `right` is the option that it marks as correct."""

    text: str
    right: str = ""


class TaskText(Section):
    """The texts that introduce a task to participants."""

    name: str
    title: str
    prompt: str
    instructions: str
    controls: tuple[str, ...] = ()
    example: FrozenExample | None = None


class Study(Section):
    """Everything that participants can see, and the rules. Keys are stored apart.

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
    def form_of(self) -> dict[str, int]:
        """Return the number of the form that each trial belongs to; practice trials have none."""
        return {t: n for n, form in enumerate(self.forms) for block in form for t in block}

    @cached_property
    def task_texts(self) -> dict[str, TaskText]:
        return {t.name: t for t in self.tasks}

    def fields(self, trial: Trial) -> tuple[Field, ...]:
        """Return the fields of a trial: the task's, and confidence if study and task ask for it."""
        task = all_tasks().get(trial.task)
        confidence = (CONFIDENCE,) if self.confidence and task.confidence else ()
        return tuple(f.translate(self.words) for f in (*task.fields(trial), *confidence))

    @cached_property
    def words(self) -> Words:
        return Words(self.language)

    def images(self) -> tuple[str, ...]:
        """Return the names of all pictures of trials and examples, sorted."""
        trials_and_examples = [*self.trials, *(t.example for t in self.tasks if t.example)]
        return tuple(sorted({name for item in trials_and_examples for name in item.images}))

    def own_files(self) -> tuple[str, ...]:
        """Return the names of the pictures in texts and questions, sorted."""
        names = {name for files in self.files.values() for name in files.values()}
        return tuple(sorted(names | {q.picture for q in self.questions if q.picture}))

    def questions_at(self, when: When) -> tuple[Question, ...]:
        return tuple(q for q in self.questions if q.when == when)


def digest(content: dict[str, Any], keys: dict[str, Any]) -> str:
    """Hash the whole study: texts, trials, design, rules, keys and the names of pictures.

    Args:
        content: the content of study.json, unchanged, so that a study keeps its hash when
            a later version of this software knows more settings.
    """
    hashed_content = {name: value for name, value in content.items() if name != "hash"}
    text = json.dumps([hashed_content, keys], sort_keys=True, ensure_ascii=False)
    return sha256(text.encode()).hexdigest()[:16]


def load(folder: Path) -> tuple[Study, dict[str, Any]]:
    """Load a frozen study and its keys.

    Raises:
        ValueError: no study there, or one that was changed after it was frozen (which file).
    """
    try:
        content = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        study = Study.model_validate(content)
        keys = json.loads((folder / "keys.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no readable study ({error}); make one with `conceptevo study build`"
        ) from error
    if digest(content, keys) != study.hash:
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
