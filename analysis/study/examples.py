"""Single trials as participants saw them, with their responses, as figures made of pictures."""

from dataclasses import replace

import numpy as np
import pandas as pd
from PIL import Image

from analysis.exhibits import shelf
from analysis.exhibits.figures import Cell, Figure, draw_sheet
from analysis.exhibits.phrases import as_words, percent
from analysis.statistics.labels import normalise
from analysis.study.results import Results
from harness.text import pluralise
from tasks.base import Panel, Trial

#: Number of trials of a task from each end, and of the responses that a trial needs.
SHOWN, ENOUGH = 2, 5
EVOLUTIONS = 4


@shelf.figure("study", "trials")
def examples(results: Results) -> Figure | None:
    if results.responses.study.pictures is None:
        return None
    trials = results.responses.study.study.by_id
    rows = [
        _trial_cells(results, trials[trial], answers)
        for answers in (results.answers_of(task, controls=False) for task in results.choice_tasks)
        for trial in _easiest_and_hardest(answers.groupby("trial")["correct"])
    ]
    if not rows:
        return None
    return Figure(
        "study_examples",
        "The easiest and the hardest trials",
        f"For each task with an answer key, up to {SHOWN} trials with the highest and up to "
        f"{SHOWN} with the lowest accuracy (at least {ENOUGH} responses; control conditions "
        "excluded). Below each option: how many participants chose it. Framed: the correct option.",
        draw_sheet(rows),
    )


@shelf.figure("study", "evolution")
def evolutions(results: Results) -> Figure | None:
    if results.responses.study.pictures is None or "evolution_labelling" not in results.tasks:
        return None
    answers = results.answers_of("evolution_labelling")
    answers = answers[answers["condition"] == "evolution"]
    changed = answers.groupby("trial")["changed"].agg(["mean", "size"])
    rates = changed[changed["size"] >= ENOUGH].sort_values("mean", ascending=False, kind="stable")
    if rates.empty:
        return None
    labels = results.labels_of("evolution_labelling")
    labels = labels.assign(label=labels["label"].fillna("").map(normalise))
    by_stage = labels[labels["label"] != ""].groupby(["trial", "stage"])["label"]
    rows = []
    for trial, share in rates["mean"].head(EVOLUTIONS).items():
        cells = []
        for stage, panel in enumerate(results.responses.study.study.by_id[str(trial)].panels):
            texts = by_stage.get_group((trial, stage)) if (trial, stage) in by_stage.groups else ()
            caption = "no label"
            if len(texts):
                counts = pd.Series(texts).value_counts().sort_index(kind="stable")
                caption = f"“{counts.idxmax()}”, {counts.max()} of {len(texts)}"
            heading = f"{percent(share)} judged it changed\n" if stage == 0 else ""
            cells += _panel_cells(results, panel, heading, caption)
        if cells:
            rows.append(cells)
    if not rows:
        return None
    return Figure(
        "study_evolutions",
        "Labels given to real evolutions",
        f"The {pluralise(len(rows), 'real evolution')} most often judged changed (at least "
        f"{ENOUGH} responses). Below each stage: the most frequent label (of several, the first in "
        "the alphabet), the number of participants who gave it, and the number who gave any label. "
        "These are the clearest examples, not a random sample."
        + " Simulated labels are unrelated to the pictures."
        * results.responses.simulated,
        draw_sheet(rows, inch=1.7),
    )


def _easiest_and_hardest(correct: pd.core.groupby.SeriesGroupBy) -> list[str]:
    """Return trials with the largest and then with the smallest shares, no trial twice."""
    share = correct.mean().astype(float)[correct.count() >= ENOUGH]
    trials = [str(trial) for trial in share.sort_values(ascending=False, kind="stable").index]
    return trials[:SHOWN] + trials[max(SHOWN, len(trials) - SHOWN) :]


def _trial_cells(results: Results, trial: Trial, answers: pd.DataFrame) -> list[Cell]:
    """Return one trial with a key: its panels, then its options with the number of choices."""
    trial_answers = answers[answers["trial"] == trial.id]
    share = f"{percent(trial_answers['correct'].mean())} correct (n = {len(trial_answers)})"
    heading = f"{results.name(trial.task)}, {as_words(trial.condition)}:\n{share}"
    cells = [cell for panel in trial.panels for cell in _panel_cells(results, panel)]
    choice_counts = trial_answers["value"].value_counts()
    key = results.responses.study.keys[trial.id]
    for option in trial.options:
        count_text = f"{choice_counts.get(option.id, 0)} of {len(trial_answers)}"
        cells.append(Cell(_read_picture(results, option.image), "", count_text, option.id == key))
    return [replace(cells[0], above=f"{heading}\n{cells[0].above}"), *cells[1:]]


def _panel_cells(results: Results, panel: Panel, above: str = "", below: str = "") -> list[Cell]:
    """Return the pictures of a panel; its heading is above the first, `below` under it."""
    cells = [Cell(_read_picture(results, name)) for name in panel.images]
    if cells:
        cells[0] = replace(cells[0], above=above + panel.heading, below=below)
    return cells


def _read_picture(results: Results, name: str) -> np.ndarray:
    folder = results.responses.study.pictures
    assert folder is not None
    with Image.open(folder / name) as image:
        return np.asarray(image.convert("RGB"))
