"""Single trials as participants saw them, with their responses, as figures made of pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from PIL import Image

from analysis.exhibits import shelf
from analysis.exhibits.figures import Cell, Figure, sheet
from analysis.exhibits.phrases import percent, spaced
from analysis.statistics.labels import normalise
from analysis.study.results import Results
from tasks.base import Panel, Trial

#: Number of trials of a task from each end, and of the responses that a trial needs.
SHOWN, ENOUGH = 2, 5
EVOLUTIONS = 4


@shelf.figure("study", "trials")
def examples(results: Results) -> Figure | None:
    """Return the easiest and the hardest trials of the tasks with a key."""
    if results.responses.study.pictures is None:
        return None
    trials = results.responses.study.study.by_id
    rows = [
        _choice(results, trials[trial], answers)
        for answers in (results.of(task, controls=False) for task in results.choice_tasks)
        for trial in _from_both_ends(answers.groupby("trial")["correct"])
    ]
    if not rows:
        return None
    return Figure(
        "study_examples",
        "The easiest and the hardest trials",
        f"For each task with an answer key, up to {SHOWN} trials with the highest and up to "
        f"{SHOWN} with the lowest accuracy (at least {ENOUGH} responses; control conditions "
        "excluded). Below each option: how many participants chose it. Framed: the correct option.",
        sheet(rows),
    )


@shelf.figure("study", "evolution")
def evolutions(results: Results) -> Figure | None:
    """Return real evolutions that most participants judged changed, with their labels."""
    if results.responses.study.pictures is None or "evolution_labelling" not in results.tasks:
        return None
    answers = results.of("evolution_labelling")
    answers = answers[answers["condition"] == "evolution"]
    changed = answers.groupby("trial")["changed"].agg(["mean", "size"])
    seen = changed[changed["size"] >= ENOUGH].sort_values("mean", ascending=False, kind="stable")
    if seen.empty:
        return None
    labels = results.labels_of("evolution_labelling")
    labels = labels.assign(label=labels["label"].fillna("").map(normalise))
    by_stage = labels[labels["label"] != ""].groupby(["trial", "stage"])["label"]
    rows = []
    for trial, share in seen["mean"].head(EVOLUTIONS).items():
        cells = []
        for stage, panel in enumerate(results.responses.study.study.by_id[str(trial)].panels):
            named = by_stage.get_group((trial, stage)) if (trial, stage) in by_stage.groups else ()
            below = "no label"
            if len(named):
                counts = pd.Series(named).value_counts().sort_index(kind="stable")
                below = f"“{counts.idxmax()}”, {counts.max()} of {len(named)}"
            above = f"{percent(share)} judged it changed\n" if stage == 0 else ""
            cells += _panel(results, panel, above, below)
        if cells:
            rows.append(cells)
    if not rows:
        return None
    return Figure(
        "study_evolutions",
        "Labels given to real evolutions",
        f"The {len(rows)} real evolutions that were most often judged changed. Below each stage: "
        "the most frequent label, the number of participants who gave it, and the number who gave "
        "any label. These are the clearest examples, not a random sample."
        + " Simulated labels are unrelated to the pictures."
        * results.responses.simulated,
        sheet(rows, inch=1.7),
    )


def _from_both_ends(correct: pd.core.groupby.SeriesGroupBy) -> list[str]:
    """Return trials with the largest and then with the smallest shares, no trial twice."""
    share = correct.mean().astype(float)[correct.count() >= ENOUGH]
    ordered = [str(trial) for trial in share.sort_values(ascending=False, kind="stable").index]
    return ordered[:SHOWN] + ordered[max(SHOWN, len(ordered) - SHOWN) :]


def _choice(results: Results, trial: Trial, answers: pd.DataFrame) -> list[Cell]:
    """Return one trial with a key: its panels, then its options with the number of choices."""
    mine = answers[answers["trial"] == trial.id]
    share = f"{percent(mine['correct'].mean())} correct (n = {len(mine)})"
    above = f"{results.name(trial.task)}, {spaced(trial.condition)}:\n{share}"
    cells = [cell for panel in trial.panels for cell in _panel(results, panel)]
    chosen = mine["value"].value_counts()
    key = results.responses.study.keys[trial.id]
    for option in trial.options:
        below = f"{chosen.get(option.id, 0)} of {len(mine)}"
        cells.append(Cell(_picture(results, option.image), "", below, option.id == key))
    return [replace(cells[0], above=f"{above}\n{cells[0].above}"), *cells[1:]]


def _panel(results: Results, panel: Panel, above: str = "", below: str = "") -> list[Cell]:
    """Return the pictures of a panel; its heading is above the first, `below` under it."""
    cells = [Cell(_picture(results, name)) for name in panel.images]
    if cells:
        cells[0] = replace(cells[0], above=above + panel.heading, below=below)
    return cells


def _picture(results: Results, name: str) -> np.ndarray:
    folder = results.responses.study.pictures
    assert folder is not None
    with Image.open(folder / name) as image:
        return np.asarray(image.convert("RGB"))
