"""The researcher's check page: every trial as shown, its key and the machine observer's answer."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.files import write_text
from tasks.base import Field, Trial
from tasks.files import render_markdown
from tasks.kinds import all_tasks
from tasks.language import Words, languages
from tasks.observer import features
from tasks.questionnaire import Question
from tasks.study import Study

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b2733; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
article { border: 1px solid #c9d2da; border-radius: 8px; padding: 1rem; margin: 1rem 0; }
.row { display: flex; flex-wrap: wrap; gap: .6rem; } figure { margin: 0; width: 150px; }
img { max-width: 100%; } figure img { width: 100%; border-radius: 4px;
  border: 4px solid transparent; }
.key img { border-color: #1c6b3a; } .flag { color: #8a1f11; font-weight: 600; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: left;
  border-bottom: 1px solid #dde5ec; } figcaption { font-size: 13px; }
"""


def observe(
    study: Study, keys: Mapping[str, Any], folder: Path
) -> dict[str, tuple[Any, float, bool | None]]:
    """Return the machine observer's answer to each trial, its margin, whether it is correct."""
    statistics: dict[str, np.ndarray] = {}
    for name in study.images():
        with Image.open(folder / "images" / name) as image:
            statistics[name] = features(image)
    answers = {}
    for trial in study.trials:
        task = all_tasks().get(trial.task)
        answer, margin = task.observe(trial, statistics)
        key = keys.get(trial.id)
        answers[trial.id] = (answer, margin, None if key is None else task.score(key, answer))
    return answers


def summary(study: Study, answers) -> list[tuple[str, str, str, int, float]]:
    """Return task, condition, role, number of trials and accuracy (NaN without a key)."""
    cells = defaultdict(list)
    for trial in study.trials:
        cells[trial.task, trial.condition, trial.role].append(answers[trial.id][2])
    return [
        (*cell, len(scores), float(np.mean([r for r in scores if r is not None] or [np.nan])))
        for cell, scores in sorted(cells.items())
    ]


def contact_sheet(study: Study, keys: dict[str, Any], folder: Path) -> Path:
    """Write check.html into the study's folder and return its path."""
    answers = observe(study, keys, folder)
    recipes = json.loads((folder / "recipes.json").read_text(encoding="utf-8"))
    rows = "".join(
        f"<tr><td>{task}</td><td>{condition}</td><td>{role}</td><td>{count}</td>"
        f"<td>{'–' if np.isnan(share) else f'{share:.2f}'}</td></tr>"
        for task, condition, role, count, share in summary(study, answers)
    )
    trials = sorted(study.trials, key=lambda t: (t.role != "practice", t.task, t.condition, t.id))
    articles = "".join(_article(study, t, keys[t.id], answers[t.id], recipes[t.id]) for t in trials)
    page = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(study.title)}</title>"
        f"<style>{_STYLE}</style><h1>{escape(study.title)}</h1><p>Study {study.hash}: "
        f"{len(study.trials)} trials in {len(study.forms)} forms. "
        f"<strong>Shows the keys: never give it to participants.</strong></p>"
        f"<h2>Machine observer</h2><p>Answers from colours and edges alone. Look twice at trials "
        f"it finds trivial (do they test the concept?) and at those it misses clearly (is there an "
        f"answer?).</p><table><tr><th>task</th><th>condition</th><th>role</th><th>trials</th>"
        f"<th>right</th></tr>{rows}</table><h2>What participants read</h2>"
        f"<p>The study is frozen in {study.words.name}; the other languages show what a study "
        f"built with <code>language</code> would say. Your own texts stay as you wrote them.</p>"
        f"{''.join(_texts(study, Words(name)) for name in languages())}"
        f"<h2>Trials</h2>{articles}</html>"
    )
    write_text(folder / "check.html", page)
    return folder / "check.html"


def _texts(study: Study, words: Words) -> str:
    """Return all texts of the study that participants read, in one language."""

    def translate(text: str) -> str:
        return render_markdown(study.words.translate_into(words, text), inline=True)

    def page(text: str, files: Mapping[str, str] | None = None) -> str:
        return render_markdown(study.words.translate_into(words, text), "images", files)

    consent, instructions, debrief = (
        page(getattr(study, name), study.files.get(name))
        for name in ("consent", "instructions", "debrief")
    )
    lines = [f"<h3>{translate(study.title)}</h3>", consent, page(study.payment.text), instructions]
    for text in study.tasks:
        trial = next((t for t in study.trials if t.task == text.name), None)
        fields = _list_fields(study.fields(trial) if trial else (), translate)
        lines += [f"<h4>{translate(text.title)}</h4>{page(text.instructions)}"]
        lines += [f"<p><em>{translate(text.prompt)}</em></p><ul>{fields}</ul>"]
        lines += [f"<p>{translate(text.example.text)}</p>"] if text.example else []
    lines += [f"<ul>{_list_fields(study.questions, translate)}</ul>", debrief]
    is_open = " open" if words.language == study.language else ""
    return (
        f"<details{is_open} lang='{words.tag}' dir='{words.direction}'>"
        f"<summary>{escape(words.name)}</summary>{''.join(lines)}</details>"
    )


def _list_fields(fields: Sequence[Field | Question], translate: Callable[[str], str]) -> str:
    """Return a list item per field: its label and the possible answers."""
    choices = {
        f.name: [*(label for _, label in f.choices), getattr(f, "none_label", "")] for f in fields
    }
    return "".join(
        f"<li>{translate(f.label)} {' · '.join(map(translate, filter(None, choices[f.name])))}</li>"
        for f in fields
    )


def _article(study: Study, trial: Trial, key: Any, observed, recipe: dict[str, Any]) -> str:
    answer, margin, right = observed
    flag = ""
    if trial.role == "trial" and margin > getattr(all_tasks().get(trial.task), "clear", np.inf):
        flag = {True: "trivial for the machine", False: "machine clearly elsewhere"}.get(right, "")
    figures = "".join(
        _figure(image, panel.heading, False) for panel in trial.panels for image in panel.images
    )
    figures += "".join(_figure(o.image, f"option {o.id}", o.id == key) for o in trial.options)
    prompt = study.task_texts[trial.task].prompt.replace("**", "")
    neurons = "; ".join(f"{n.series} {n.epoch} {n.layer} {n.channel}" for n in trial.neurons)
    return (
        f"<article><h3>{trial.id} · {trial.task} · {trial.condition} · {trial.role}</h3>"
        f"<p>{escape(prompt)}</p><div class='row'>{figures}</div>"
        f"<p>key: <strong>{escape(json.dumps(key))}</strong>"
        f" · machine: {escape(json.dumps(answer))} (margin {margin:.3f})"
        f" <span class='flag'>{flag}</span><br>{escape(neurons)}"
        f"<br>{escape(json.dumps(recipe)) if recipe else ''}</p></article>"
    )


def _figure(image: str, caption: str, key: bool) -> str:
    return (
        f"<figure class='{'key' if key else ''}'><img loading='lazy' src='images/{image}' "
        f"alt='{escape(caption)}'><figcaption>{escape(caption)}</figcaption></figure>"
    )
