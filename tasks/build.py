"""Build a study from a run: draw its trials, copy texts and pictures, freeze and hash it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
from PIL import Image

from harness.artifacts import Run
from harness.files import whole_file, write_text
from harness.text import pluralise
from tasks.base import Draft, Example, Option, Panel, Trial
from tasks.drawing import Drawing, rehearse
from tasks.evidence import Evidence, digest_stimuli
from tasks.false_exclusion import check_rules
from tasks.files import content_name
from tasks.kinds import all_tasks
from tasks.language import N_, Words
from tasks.pictures import equal_files
from tasks.questionnaire import Questionnaire
from tasks.reading import StudyTexts, read_questions, read_texts
from tasks.recruitment import Recruitment, write_recruitment
from tasks.settings import Analysis, Payment, StudySettings
from tasks.similarity import SIMILARITIES
from tasks.sizing import Design, Size, size
from tasks.study import FrozenExample, Study, TaskText, digest


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
        ValueError: the folder holds a study or a run already, or the run cannot fill the design.
    """
    for file, content in {"study.json": "frozen study", "manifest.json": "run"}.items():
        if (out / file).exists():
            raise ValueError(f"{out} holds a {content}; build into another folder")
    words = Words(settings.language)
    if texts := words.untranslated():
        note(
            f"language = {settings.language!r}: {pluralise(len(texts), 'text')} will be shown in "
            f"English, as the catalogue has no translation; the first is {texts[0]!r}"
        )
    if settings.participants < settings.forms:
        note(
            f"participants = {settings.participants}, forms = {settings.forms}: each participant "
            f"completes one form, so that some are shown to nobody unless places are added"
        )
    if settings.recruitment.platforms == ("open",) and settings.payment == Payment():
        if "text" in settings.payment.model_fields_set:
            note(
                f"platforms = ['open'], but payment.text promises {settings.payment.text!r}; say "
                f"how participants of the open link are paid, or set it to ''"
            )
        else:  # no platform pays them
            settings = settings.model_copy(update={"payment": Payment(text="")})
    evidence = Evidence(run, settings.evidence)
    design: Design = settings.trials or {
        name: all_tasks().get(name).conditions for name in all_tasks()
    }
    settings = settings.model_copy(update={"analysis": _complete_plan(settings, design)})
    labels = any("labels" in _kinds(name, design[name], settings) for name in design)
    is_unspaced = words.tag.partition("-")[0] in UNSPACED
    if labels and is_unspaced and settings.analysis.similarity == "words":
        note(
            f"language = {settings.language!r} has no spaces between words, so that "
            f"analysis.similarity = 'words' counts only equal labels as similar; 'trigrams' "
            f"compares their characters"
        )
    questionnaire = read_questions(settings)
    sizes = size(design, settings, len(questionnaire.questions))
    count = sum(sum(conditions.values()) for conditions in design.values())
    if sizes.attention > count:
        note(
            f"each participant answers {pluralise(sizes.attention, 'attention trial')}, but only "
            f"{pluralise(count, 'other trial')}; ask for more trials, or set attention.trials"
        )
    limits, lease = settings.exclusion.total_seconds_outside, settings.lease_minutes
    if limits is not None and 60 * (lease + sizes.minutes) > limits[1]:
        note(
            f"exclusion.total_seconds_outside = {list(limits)} counts pauses, too: participants "
            f"read that they may pause for {lease:g} minutes (lease_minutes), but a session of "
            f"{sizes.minutes} minutes with such a pause is excluded; raise the upper limit, or "
            f"choose a shorter lease"
        )
    values = {
        "minutes": sizes.minutes,
        "duration": words.duration(sizes.minutes, "minute"),
        "disclosed": _disclosure(design, sizes.attention, settings),
    }
    study_texts = read_texts(settings, values)
    drawing = Drawing(evidence, design, np.random.default_rng(settings.seed))
    drawing.draw_practice(settings.practice.trials)
    for number in range(settings.forms):
        form = drawing.draw_form(sizes.attention)
        say(f"form {number + 1} of {settings.forms}: {sum(map(len, form))} trials")
        if number == 0:  # all forms are of one design: refuse before the others are drawn
            rules = check_rules(settings.exclusion, drawing.choices(form), note)
            settings = settings.model_copy(update={"exclusion": rules})
    return _freeze(out, settings, drawing, study_texts, questionnaire, sizes)


#: Languages that are written without spaces between words.
UNSPACED = ("ja", "km", "lo", "my", "th", "zh")
#: Told at the end wherever attention trials are mixed in.
OBVIOUS = N_(
    "A few trials had an obvious answer: they show whether a participant looked at the pictures."
)


def _disclosure(design: Design, attention: int, settings: StudySettings) -> str:
    """Return what participants are told at the end about trials that were no usual ones."""
    words = Words(settings.language)
    texts = [
        text
        for name, conditions in design.items()
        for condition, text in getattr(all_tasks().get(name), "disclosed", {}).items()
        if conditions.get(condition)
    ]
    return " ".join(map(words, [*texts, *[OBVIOUS] * bool(attention)]))


def _complete_plan(settings: StudySettings, design: Design) -> Analysis:
    """Return the plan of the analysis with the primary hypothesis named, as it is frozen.

    Raises:
        ValueError: the design has no such task or condition, or cannot answer the question.
    """
    plan = settings.analysis
    kinds = [f"{name}.{kind}" for name in design for kind in _kinds(name, design[name], settings)]
    primary = plan.primary or (kinds[0] if kinds else "")
    if plan.primary and primary not in kinds:
        raise ValueError(
            f"analysis.primary = {primary!r}: this design can answer "
            f"{', '.join(kinds) or 'nothing'}"
        )
    for name in ("smallest_effect", "smallest_rating"):
        if getattr(plan, name) and not any(kind.endswith(".equivalence") for kind in kinds):
            raise ValueError(
                f"analysis.{name} = {getattr(plan, name)}: no task of this design has two or more "
                f"conditions, controls left out, that it applies to; leave it out, or add some"
            )
    SIMILARITIES.get(plan.similarity)  # refuses an unknown one
    conditions = {name for condition in design.values() for name in condition}
    if plan.reference and plan.reference not in conditions:
        raise ValueError(
            f"analysis.reference = {plan.reference!r}: no condition of the design; it has "
            f"{', '.join(sorted(conditions))}"
        )
    return plan.model_copy(update={"primary": primary})


def _kinds(name: str, conditions: Mapping[str, int], settings: StudySettings) -> list[str]:
    """Return the kinds of questions that the answers to a task allow, given its conditions."""
    task = all_tasks().get(name)
    test_conditions = set(conditions) - set(getattr(task, "controls", ()))
    possible = {
        **dict.fromkeys(("chance", "labels", "learning", "associations"), bool(test_conditions)),
        **dict.fromkeys(("contrasts", "ratings"), len(conditions) > 1),
        "detection": {"evolution", "same_stage"} <= set(conditions),
        "confidence": bool(test_conditions) and settings.confidence and task.confidence,
    }
    kinds = [kind for kind in getattr(task, "questions", ()) if possible.get(kind, True)]
    plan = settings.analysis
    smallest = {"contrasts": plan.smallest_effect, "ratings": plan.smallest_rating}
    if len(test_conditions) > 1 and any(smallest.get(kind, 0) > 0 for kind in kinds):
        kinds.append("equivalence")
    return kinds


def _freeze(
    out: Path,
    settings: StudySettings,
    drawing: Drawing,
    texts: StudyTexts,
    questionnaire: Questionnaire,
    sizes: Size,
) -> Study:
    """Write the folder of the study, which does not change afterwards."""
    words = Words(settings.language)
    # A task of one's own need not have an example.
    makers = {name: getattr(all_tasks().get(name), "example", None) for name in drawing.design}
    examples = {name: draw() if draw else None for name, draw in makers.items()}
    pictures = [picture for *_, draft in drawing.drafts for picture in _pictures(draft)]
    pictures += [picture for e in examples.values() if e for picture in _pictures(e)]
    names = (_save(out, content_name(data), data) for data in equal_files(pictures))
    # Ids follow a shuffled order: neither condition nor role can be read from them.
    numbers = drawing.rng.permutation(len(drawing.drafts))
    ids = [f"t{number:04d}" for number in numbers]
    trials, keys, recipes = _freeze_drafts(drawing, ids, names, words)
    for name in drawing.design:
        trial = next(trial for trial in trials if trial.task == name)
        rehearse(name, trial, keys.get(trial.id))
    tasks = tuple(_task_text(name, examples[name], names, words) for name in drawing.design)
    own_pictures = [p for files_of in texts.pictures.values() for p in files_of.values()]
    for picture in (*own_pictures, *questionnaire.pictures):
        _save(out, picture.name, picture.data)
    setting_names = (
        "language", "seed", "seconds_per_trial", "min_width", "confidence", "exclusion", "analysis",
    )  # fmt: skip
    study = Study(
        hash="",
        title=words(settings.title),
        **{name: getattr(settings, name) for name in setting_names},
        **texts.texts,
        files={
            name: {source: picture.name for source, picture in files_of.items()}
            for name, files_of in texts.pictures.items()
            if files_of
        },
        tasks=tasks,
        trials=tuple(sorted(trials, key=lambda t: t.id)),
        practice=tuple(ids[i] for i in drawing.practice),
        forms=tuple(
            tuple(tuple(ids[i] for i in block) for block in form) for form in drawing.forms
        ),
        practice_pass=settings.practice.pass_share,
        practice_attempts=settings.practice.attempts,
        minutes=sizes.minutes,
        questions=questionnaire.questions,
        checks=questionnaire.checks,
        payment=settings.payment.model_copy(update={"text": words(settings.payment.text)}),
        evidence={
            "space": drawing.evidence.space.method,
            "base": drawing.evidence.base.series,
            "base_epoch": drawing.evidence.base.epoch,
            "grouping": settings.evidence.grouping,
            "groups_file": settings.evidence.groups,
            "groups": [asdict(group) for group in drawing.evidence.groups],
            "stimuli": digest_stimuli(
                drawing.evidence.run, chain.from_iterable(trial.neurons for trial in trials)
            ),
        },
    )
    study = study.model_copy(update={"hash": digest(study.model_dump(mode="json"), keys)})
    write_text(out / "recipes.json", json.dumps(recipes, indent=1))
    write_text(out / "keys.json", json.dumps(keys, indent=1, sort_keys=True))
    entry = settings.recruitment
    recruitment = Recruitment(
        **entry.model_dump(exclude={"codes"}), codes=entry.codes.with_random_codes(),
        places=settings.participants, lease_minutes=settings.lease_minutes,
    )  # fmt: skip
    write_recruitment(out, recruitment)
    write_text(out / "study.json", study.model_dump_json(indent=1))
    return study


def _freeze_drafts(
    drawing: Drawing, ids: Sequence[str], names: Iterator[str], words: Words
) -> tuple[list[Trial], dict[str, Any], dict[str, Any]]:
    """Return the trials of the drafts, their answer keys, and how they were drawn, by id."""
    trials, keys, recipes = [], {}, {}
    for identifier, (name, condition, role, draft) in zip(ids, drawing.drafts, strict=True):
        panels, options = _freeze_pictures(draft, names, words)
        trials.append(
            Trial(id=identifier, task=name, condition=condition, role=role, panels=panels,
                  options=options, neurons=draft.neurons)
        )  # fmt: skip
        keys[identifier] = options[draft.key].id if options and draft.key is not None else draft.key
        recipes[identifier] = draft.recipe
    return trials, keys, recipes


def _pictures(draft: Draft | Example) -> list[Image.Image]:
    return [image for _, images in draft.panels for image in images] + list(draft.options)


def _freeze_pictures(
    draft: Draft | Example, names: Iterator[str], words: Words
) -> tuple[tuple[Panel, ...], tuple[Option, ...]]:
    """Return the panels and options of a draft, whose pictures have the next of the names."""
    panels = tuple(
        Panel(heading=words(heading), images=tuple(next(names) for _ in images))
        for heading, images in draft.panels
    )
    ids = ascii_lowercase[: len(draft.options)]
    options = tuple(Option(id=letter, image=next(names)) for letter in ids)
    return panels, options


def _task_text(name: str, example: Example | None, names: Iterator[str], words: Words) -> TaskText:
    task = all_tasks().get(name)
    frozen_example = None
    if example is not None:
        panels, options = _freeze_pictures(example, names, words)
        correct = "" if example.key is None else options[example.key].id
        text = words(example.text)
        frozen_example = FrozenExample(text=text, panels=panels, options=options, right=correct)
    texts = {part: words(getattr(task, part)) for part in ("title", "prompt", "instructions")}
    controls = tuple(getattr(task, "controls", ()))
    return TaskText(name=name, **texts, controls=controls, example=frozen_example)


def _save(out: Path, name: str, data: bytes) -> str:
    with whole_file(out / "images" / name) as temporary:
        temporary.write_bytes(data)
    return name
