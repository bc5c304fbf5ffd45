"""The frozen study: built once, hashed, refused if anything in it changed afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from harness.artifacts import Run, whole_file, write_text
from harness.records import Neuron
from tasks.base import (
    CONFIDENCE,
    Draft,
    Example,
    Field,
    Frozen,
    NoTrial,
    Option,
    Panel,
    Task,
    Trial,
)
from tasks.clusters import EPS
from tasks.evidence import Evidence, read_groups
from tasks.false_exclusion import checked_rules
from tasks.files import content_name
from tasks.kinds import all_tasks
from tasks.language import N_, SOURCE, Words
from tasks.pictures import equal_files, name_of
from tasks.questionnaire import Check, Question, When
from tasks.reading import read_texts
from tasks.recruitment import Recruitment, write_recruitment
from tasks.responses import Role
from tasks.settings import Analysis, Exclusion, Payment, StudySettings
from tasks.sizing import size

TRIES = 200  # draws of one trial before its form is declared impossible


class ShownExample(Frozen):
    """An example as it is shown; `right` is the option it marks."""

    text: str
    panels: tuple[Panel, ...] = ()
    options: tuple[Option, ...] = ()
    right: str = ""


class TaskText(Frozen):
    """What participants read about a task."""

    name: str
    title: str
    prompt: str
    instructions: str
    controls: tuple[str, ...] = ()
    example: ShownExample | None = None


class Study(Frozen):
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
        examples = [t.example for t in self.tasks if t.example]
        shown: list[Trial | ShownExample] = [*self.trials, *examples]
        names = {o.image for t in shown for o in t.options}
        names |= {image for t in shown for p in t.panels for image in p.images}
        return tuple(sorted(names))

    def own_files(self) -> tuple[str, ...]:
        """Names of the pictures in texts and questions, sorted."""
        names = {name for kept in self.files.values() for name in kept.values()}
        return tuple(sorted(names | {q.picture for q in self.questions if q.picture}))

    def asked(self, when: When) -> tuple[Question, ...]:
        """The questions of one page."""
        return tuple(q for q in self.questions if q.when == when)


def build(
    run: Run,
    settings: StudySettings,
    out: Path,
    say: Callable[[str], None] = print,
    note: Callable[[str], None] = print,
) -> Study:
    """Draw all trials, write the study's folder and freeze it.

    Args:
        say: receives progress messages. note: receives departures from the settings.

    Raises:
        ValueError: the folder holds a study already, or the run cannot fill the design.
    """
    if (out / "study.json").exists():
        raise ValueError(f"{out} holds a frozen study; build into another folder")
    chosen = settings.evidence
    groups = chosen.groups
    evidence = Evidence(
        run,
        settings.evidence.space,
        settings.evidence.base,
        settings.evidence.min_depth,
        read_groups(Path(groups)) if groups else None,
        eps={**EPS, **chosen.eps} if chosen.grouping == "clusters" else None,
    )
    design: Mapping[str, Mapping[str, int]] = settings.trials or {
        name: all_tasks().get(name).conditions for name in all_tasks()
    }
    settings = settings.model_copy(update={"analysis": _planned(settings, design)})
    sized = size(design, settings)
    told = {"minutes": sized.minutes, "disclosed": _disclosed(design, sized.attention, settings)}
    texts = read_texts(settings, told)
    drawing = _Drawing(evidence, np.random.default_rng(settings.seed))
    practice = drawing.practice(list(design), settings.practice.trials)
    forms = []
    for number in range(settings.forms):
        forms.append(drawing.form(design, sized.attention))
        say(f"form {number + 1} of {settings.forms}: {sum(map(len, forms[-1]))} trials")
        if number == 0:  # all forms are of one design: refuse before the others are drawn
            rules = checked_rules(settings.exclusion, drawing.choices(forms[0]), note)
            settings = settings.model_copy(update={"exclusion": rules})
    names = list(design)
    return _freeze(out, settings, evidence, drawing, practice, forms, names, texts, sized)


#: Told at the end wherever attention trials are mixed in.
OBVIOUS = N_(
    "A few trials had an obvious answer: they show whether a participant looked at the pictures."
)


def _disclosed(
    design: Mapping[str, Mapping[str, int]], attention: int, settings: StudySettings
) -> str:
    """What participants are told at the end about trials that were not what they seemed."""
    words = Words(settings.language)
    told = [
        text
        for name, conditions in design.items()
        for condition, text in getattr(all_tasks().get(name), "disclosed", {}).items()
        if conditions.get(condition)
    ]
    return " ".join(map(words, [*told, *[OBVIOUS] * bool(attention)]))


def _planned(settings: StudySettings, design: Mapping[str, Mapping[str, int]]) -> Analysis:
    """The plan of the analysis with its main question named, as it is frozen.

    Raises:
        ValueError: the design has no such task or condition, or cannot answer the question.
    """
    plan = settings.analysis
    can = [f"{name}.{kind}" for name in design for kind in _askable(name, design[name], settings)]
    primary = plan.primary or (can[0] if can else "")
    if plan.primary and primary not in can:
        raise ValueError(
            f"analysis.primary = {primary!r}: this design can answer {', '.join(can) or 'nothing'}"
        )
    conditions = {name for condition in design.values() for name in condition}
    if plan.reference and plan.reference not in conditions:
        raise ValueError(
            f"analysis.reference = {plan.reference!r}: no condition of the design; it has "
            f"{', '.join(sorted(conditions))}"
        )
    return plan.model_copy(update={"primary": primary})


def _askable(name: str, conditions: Mapping[str, int], settings: StudySettings) -> list[str]:
    """Kinds of questions that the answers to a task can answer, given its conditions."""
    task = all_tasks().get(name)
    of_interest = set(conditions) - set(getattr(task, "controls", ()))
    lacking = set()
    if not of_interest:
        lacking |= {"chance", "labels", "learning", "confidence", "associations"}
    if len(conditions) < 2:
        lacking |= {"contrasts", "ratings"}
    if not {"evolution", "same_stage"} <= set(conditions):
        lacking.add("detection")
    if not (settings.confidence and task.confidence):
        lacking.add("confidence")
    kinds = [kind for kind in getattr(task, "questions", ()) if kind not in lacking]
    plan = settings.analysis
    smallest = {"contrasts": plan.smallest_effect, "ratings": plan.smallest_rating}
    if len(of_interest) > 1 and any(smallest.get(kind, 0) > 0 for kind in kinds):
        kinds.append("equivalence")
    return kinds


class _Drawing:
    """Draws trials so that no two that one participant can see share a neuron."""

    def __init__(self, evidence: Evidence, rng: np.random.Generator) -> None:
        self.evidence = evidence
        self.rng = rng
        self.drafts: list[tuple[str, str, Role, Draft]] = []
        self.shared: set[Neuron] = set()  # neurons of practice trials, which everyone sees
        self.drawn: set[frozenset[Neuron]] = set()

    def trial(self, name: str, condition: str, role: Role, used: set[Neuron]) -> int:
        """Index of a new draft that shows none of the `used` neurons, which it joins."""
        task = all_tasks().get(name)
        for _ in range(TRIES):
            draft = task.draw(self.evidence, condition, self.rng)
            if used.isdisjoint(draft.neurons) and frozenset(draft.neurons) not in self.drawn:
                used.update(draft.neurons)
                self.drawn.add(frozenset(draft.neurons))
                self.drafts.append((name, condition, role, draft))
                return len(self.drafts) - 1
        raise NoTrial(
            f"{name} {condition}: no further trial whose neurons the same participant does not "
            f"meet elsewhere; ask for fewer trials or forms in study.toml, "
            f"or lower evidence.min_depth"
        )

    def choices(self, form: list[list[int]]) -> list[int]:
        """Number of options of each trial of a form that has a right option."""
        drafts = [self.drafts[i] for block in form for i in block]
        return [
            len(draft.options)
            for *_, role, draft in drafts
            if role == "trial" and draft.options and draft.key is not None
        ]

    def practice(self, names: list[str], count: int) -> list[int]:
        chosen = []
        for name in names:
            task = all_tasks().get(name)
            if task.control is not None:
                chosen += [
                    self.trial(name, task.control, "practice", self.shared) for _ in range(count)
                ]
            elif count:
                chosen.append(
                    self.trial(name, next(iter(task.conditions)), "practice", self.shared)
                )
        return chosen

    def form(self, design: Mapping[str, Mapping[str, int]], attention: int) -> list[list[int]]:
        """One form: a block of trials a task, attention trials in those that have a control."""
        used = set(self.shared)
        blocks = []
        keyed = [name for name in design if all_tasks().get(name).control is not None]
        for name, conditions in design.items():
            task: Task = all_tasks().get(name)
            if unknown := sorted(set(conditions) - set(task.conditions)):
                raise ValueError(
                    f"trials.{name}.{unknown[0]}: no such condition; "
                    f"{name} has {', '.join(task.conditions)}"
                )
            block = [
                self.trial(name, condition, "trial", used)
                for condition, count in conditions.items()
                for _ in range(count)
            ]
            if name in keyed and task.control is not None:
                share = len(range(keyed.index(name), attention, len(keyed)))
                block += [self.trial(name, task.control, "attention", used) for _ in range(share)]
            blocks.append(block)
        return blocks


def _freeze(out, settings, evidence, drawing, practice, forms, names, texts, sized) -> Study:
    words = Words(settings.language)
    examples = {name: _example(name) for name in names}
    pictures = [picture for *_, draft in drawing.drafts for picture in _pictures(draft)]
    pictures += [picture for e in examples.values() if e for picture in _pictures(e)]
    files = iter(equal_files(pictures))
    # Ids follow a shuffled order: neither condition nor role can be read from them.
    numbers = drawing.rng.permutation(len(drawing.drafts))
    ids = [f"t{number:04d}" for number in numbers]
    trials, keys, recipes = [], {}, {}
    for identifier, (name, condition, role, draft) in zip(ids, drawing.drafts, strict=True):
        panels, options = _saved(out, draft, files, words)
        trials.append(
            Trial(
                id=identifier,
                task=name,
                condition=condition,
                role=role,
                panels=panels,
                options=options,
                neurons=draft.neurons,
            )
        )
        keys[identifier] = options[draft.key].id if options and draft.key is not None else draft.key
        recipes[identifier] = draft.recipe
    tasks = tuple(
        _task_text(name, _shown(out, examples[name], files, words), words) for name in names
    )
    own = [p for kept in texts.pictures.values() for p in kept.values()]
    for picture in (*own, *texts.questionnaire.pictures):
        _save(out, picture.name, picture.data)
    study = Study(
        hash="",
        language=settings.language,
        title=words(settings.title),
        **texts.texts,
        files={
            name: {source: picture.name for source, picture in kept.items()}
            for name, kept in texts.pictures.items()
            if kept
        },
        tasks=tasks,
        trials=tuple(sorted(trials, key=lambda t: t.id)),
        practice=tuple(ids[i] for i in practice),
        forms=tuple(tuple(tuple(ids[i] for i in block) for block in form) for form in forms),
        seed=settings.seed,
        practice_pass=settings.practice.pass_share,
        practice_attempts=settings.practice.attempts,
        minutes=sized.minutes,
        questions=texts.questionnaire.questions,
        checks=texts.questionnaire.checks,
        seconds_per_trial=settings.seconds_per_trial,
        min_width=settings.min_width,
        confidence=settings.confidence,
        exclusion=settings.exclusion,
        analysis=settings.analysis,
        payment=settings.payment.model_copy(update={"text": words(settings.payment.text)}),
        evidence={
            "space": evidence.space.method,
            "base": evidence.base_series,
            "groups": [asdict(group) for group in evidence.groups],
        },
    )
    study = study.model_copy(update={"hash": digest(study.model_dump(mode="json"), keys)})
    write_text(out / "recipes.json", json.dumps(recipes, indent=1))
    write_text(out / "keys.json", json.dumps(keys, indent=1, sort_keys=True))
    entry = settings.recruitment
    recruitment = Recruitment(
        **entry.model_dump(exclude={"codes"}),
        codes=entry.codes.drawn(),
        places=settings.participants,
        lease_minutes=settings.lease_minutes,
    )
    write_recruitment(out, recruitment)
    write_text(out / "study.json", study.model_dump_json(indent=1))
    return study


def _pictures(draft: Draft | Example) -> list[Image.Image]:
    return [image for _, images in draft.panels for image in images] + list(draft.options)


def _saved(
    out: Path, draft: Draft | Example, files: Iterator[bytes], words: Words
) -> tuple[tuple[Panel, ...], tuple[Option, ...]]:
    """Panels and options of a draft, whose pictures are the next of the files."""
    names = []
    for _ in _pictures(draft):
        data = next(files)
        names.append(_save(out, name_of(data), data))
    saved = iter(names)
    panels = tuple(
        Panel(heading=words(heading), images=tuple(next(saved) for _ in images))
        for heading, images in draft.panels
    )
    options = tuple(
        Option(id="abcdefghijkl"[i], image=next(saved)) for i in range(len(draft.options))
    )
    return panels, options


def _example(name: str) -> Example | None:
    """A task's example; a task of one's own need not have one."""
    draw = getattr(all_tasks().get(name), "example", None)
    return draw() if draw else None


def _shown(
    out: Path, example: Example | None, files: Iterator[bytes], words: Words
) -> ShownExample | None:
    if example is None:
        return None
    panels, options = _saved(out, example, files, words)
    right = "" if example.key is None else options[example.key].id
    return ShownExample(text=words(example.text), panels=panels, options=options, right=right)


def _task_text(name: str, example: ShownExample | None, words: Words) -> TaskText:
    task = all_tasks().get(name)
    return TaskText(
        name=name,
        title=words(task.title),
        prompt=words(task.prompt),
        instructions=words(task.instructions),
        controls=tuple(getattr(task, "controls", ())),
        example=example,
    )


def _save(out: Path, name: str, data: bytes) -> str:
    with whole_file(out / "images" / name) as temporary:
        temporary.write_bytes(data)
    return name


def digest(written: dict[str, Any], keys: dict[str, Any]) -> str:
    """Hash of all that the study is: texts, trials, design, rules, keys and, by name, pictures.

    Args:
        written: the content of study.json as it stands there, so that a study keeps its hash when
            a later version of this software knows more settings.
    """
    content = {name: value for name, value in written.items() if name != "hash"}
    plain = json.dumps([content, keys], sort_keys=True, ensure_ascii=False)
    return sha256(plain.encode()).hexdigest()[:16]


def _as_now(written: dict[str, Any]) -> dict[str, Any]:
    """study.json without what version 0.1 froze there and recruitment.toml holds since."""
    kept = {k: v for k, v in written.items() if k not in ("participants", "lease_minutes")}
    return kept | {"payment": {"text": kept["payment"]["text"]}} if "payment" in kept else kept


def load(folder: Path) -> tuple[Study, dict[str, Any]]:
    """A frozen study and its keys.

    Raises:
        ValueError: no study there, or one that was changed after it was frozen (which file).
    """
    try:
        written = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        study = Study.model_validate(_as_now(written))
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
