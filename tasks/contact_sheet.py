"""The researcher's check page: every trial as shown, its key and the machine observer's answer."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from harness.files import write_text
from tasks.base import Trial
from tasks.files import render_markdown
from tasks.kinds import all_tasks
from tasks.language import Words, languages
from tasks.observer import features
from tasks.study import Study

TEMPLATES = Path(__file__).parent / "templates"


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

    # As the survey shows them: Markdown in its texts and prompts, and nowhere else.
    def plain(text: str, words: Words) -> str:
        return study.words.translate_into(words, text)

    def line(text: str, words: Words) -> Markup:
        return render_markdown(plain(text, words), inline=True)

    def page(text: str, words: Words, files: Mapping[str, str] | None = None) -> Markup:
        return render_markdown(plain(text, words), "images", files)

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"plain": plain, "line": line, "page": page}
    html = environment.get_template("check.html").render(
        study=study,
        keys=keys,
        answers=answers,
        recipes=json.loads((folder / "recipes.json").read_text(encoding="utf-8")),
        summary=summary(study, answers),
        languages=[Words(name) for name in languages()],
        trials=sorted(
            study.trials, key=lambda t: (t.role != "practice", t.task, t.condition, t.id)
        ),
        json=json.dumps,
        flag=_flag,
    )
    write_text(folder / "check.html", html)
    return folder / "check.html"


def _flag(trial: Trial, margin: float, right: bool | None) -> str:
    """Return what is suspicious about the machine observer's answer to a trial, if anything."""
    is_clear = margin > getattr(all_tasks().get(trial.task), "clear", np.inf)
    if trial.role != "trial" or not is_clear or right is None:
        return ""
    return "trivial for the machine" if right else "the machine clearly prefers another option"
