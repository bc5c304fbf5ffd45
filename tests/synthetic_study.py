"""A small frozen study and simulated participants with planted effects; no networks needed."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import expit

from analysis.statistics.mixed_model import mean_logit
from analysis.study.frozen_study import read_study
from analysis.study.responses import prepare
from analysis.study.results import Results, Settings
from harness.files import whole_file, write_text
from harness.records import Neuron
from tasks.base import Option, Panel, Trial
from tasks.files import content_name
from tasks.kinds import all_tasks
from tasks.recruitment import Recruitment, write_recruitment
from tasks.responses import PARTICIPANTS, RESPONSES, as_table
from tasks.settings import Analysis, Exclusion, Payment
from tasks.study import Study, TaskText, digest

#: Share of right answers (of "changed" for labelling) that is planted, by task and condition.
PLANTED = {
    "odd_one_out": {"base": 0.7, "other_series": 0.55, "random": 1 / 6},
    "before_or_after": {"nine_references": 0.85, "one_reference": 0.65},
    "evolution_labelling": {"evolution": 0.75, "same_stage": 0.25, "false_evolution": 0.85},
    "concept_agreement": {"neighbours": 0.8, "random": 0.2},
}
OPTIONS = {"odd_one_out": 6, "before_or_after": 2}
WORDS = ("red wheel", "stripes", "blue dots", "round shape", "window", "fur")


def _picture(folder: Path, number: int) -> str:
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(buffer, "JPEG")
    name = content_name(buffer.getvalue())
    with whole_file(folder / "images" / name) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return name


def make_study(
    folder: Path, trials: int = 8, tasks: tuple[str, ...] = tuple(PLANTED), forms: int = 1, **other
) -> Study:
    """Freeze a study: `trials` of every condition, split into `forms`, and attention trials; with
    `other` values of its fields."""
    rng = np.random.default_rng(1)
    made, keys = [], {}
    conditions = [
        (task, condition, "trial", trials) for task in tasks for condition in PLANTED[task]
    ] + [("odd_one_out", "obvious", "attention", 3)]
    channel = 0
    for task, condition, role, count in conditions:
        for _ in range(count):
            name = f"t{len(made):04d}"
            options: tuple[Option, ...] = ()
            panels: tuple[Panel, ...] = ()
            if task in OPTIONS:
                options = tuple(
                    Option(id="abcdef"[i], image=_picture(folder, 10 * len(made) + i))
                    for i in range(OPTIONS[task])
                )
                keys[name] = options[rng.integers(len(options))].id
            else:
                panels = tuple(
                    Panel(heading=f"Stage {i}", images=(_picture(folder, 10 * len(made) + i),))
                    for i in range(3 if task == "evolution_labelling" else 6)
                )
                keys[name] = {"same_stage": False, "false_evolution": True}.get(condition)
            neurons = tuple(Neuron("vgg", 12, "features.5", channel + i) for i in range(2))
            channel += 2
            made.append(
                Trial(id=name, task=task, condition=condition, role=role, panels=panels,
                      options=options, neurons=neurons)
            )  # fmt: skip
    study = Study(
        hash="", title="Do people see concepts?", consent="c", instructions="i", debrief="d",
        tasks=tuple(_text(task) for task in tasks), trials=tuple(made), practice=(),
        forms=tuple((tuple(t.id for t in made[k::forms]),) for k in range(forms)),
        seed=0, practice_pass=0.5, questions=(),
        confidence=True, exclusion=Exclusion(), payment=Payment(), evidence={},
        analysis=Analysis(primary=f"{tasks[0]}.{all_tasks().get(tasks[0]).questions[0]}"),
    )  # fmt: skip
    study = study.model_copy(update=other)
    study = study.model_copy(update={"hash": digest(study.model_dump(mode="json"), keys)})
    write_text(folder / "keys.json", json.dumps(keys))
    write_text(folder / "study.json", study.model_dump_json())
    write_recruitment(folder, Recruitment(places=100))
    return study


def _text(name: str) -> TaskText:
    task = all_tasks().get(name)
    return TaskText(
        name=name, title=task.title, prompt=task.prompt, instructions="", controls=task.controls
    )


def make_responses(
    folder: Path,
    study: Study,
    people: int = 40,
    seed: int = 0,
    source: str = "human",
    planted: dict = PLANTED,
    careless: int = 0,
    spread: tuple[float, float] = (0.5, 0.5),
    naming: float = 0.6,
    insight: bool = True,
    habits: tuple[float, float] = (0.0, 0.0),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Answers of `people` attentive and `careless` guessing participants, in the survey's tables.

    Args:
        spread: standard deviations of ability and difficulty, logit scale.
        naming: probability that a label is the trial's word rather than any.
        insight: whether people are surer where they are right.
        habits: standard deviations, over people and over trials, of how sure people are and how
            they rate; with any, people and conditions have favourite words, too.
    """
    rng = np.random.default_rng(seed)
    keys = json.loads((folder / "keys.json").read_text())
    difficulty = {t.id: rng.normal(0, spread[1]) for t in study.trials}
    liked = {t.id: rng.normal(0, habits[1]) for t in study.trials}
    favourites = {t.condition: str(rng.choice(WORDS)) for t in study.trials}
    logits = {
        share: mean_logit(share, float(np.linalg.norm(spread)))
        for share in {s for shares in planted.values() for s in shares.values()} | {0.98, 0.5}
    }
    start = pd.Timestamp("2026-03-01T09:00:00Z")
    rows, persons = [], []
    for number in range(people + careless):
        guesses = number >= people
        name = f"{'z' if guesses else 'p'}{number:03d}"
        ability = rng.normal(0, spread[0])
        own, favourite = rng.normal(0, habits[0]), str(rng.choice(WORDS))
        shown_trials = study.forms[number % len(study.forms)][0]
        began = start + pd.Timedelta(minutes=13 * number)
        for position, identifier in enumerate(rng.permutation(shown_trials)):
            trial = study.by_id[str(identifier)]
            share = planted[trial.task].get(trial.condition, 0.98)
            if guesses:
                knows = rng.random() < (1 / len(trial.options) if trial.options else 0.5)
            else:
                knows = rng.random() < expit(logits[share] + ability + difficulty[trial.id])
            options = [o.id for o in trial.options]
            shown = [options[i] for i in rng.permutation(len(options))]
            key = keys[trial.id]
            taste = own + liked[trial.id]
            answer, correct = _answer(trial, key, bool(knows), naming, taste, rng)
            if any(habits) and not trial.options and rng.random() > naming:
                word = rng.choice([favourite, favourites[trial.condition], *WORDS[:2]])
                answer |= (
                    {"labels": [str(word)] * 3} if "labels" in answer else {"label": str(word)}
                )
            sure = rng.integers(1, 4) + (insight and bool(correct)) + taste
            rows.append(
                {
                    "study": study.hash, "participant": name, "source": source, "trial": trial.id,
                    "task": trial.task, "condition": trial.condition, "role": trial.role,
                    "position": position, "options": json.dumps(shown),
                    "answer": json.dumps(answer), "correct": correct,
                    "confidence": float(np.clip(np.rint(sure), 1, 4)),
                    "shown_at": began + pd.Timedelta(seconds=8 * position),
                    "answered_at": began + pd.Timedelta(seconds=8 * position + 6),
                    "milliseconds": int(np.exp(rng.normal(8.5, 0.4))), "app_version": "0.1.0",
                    "pastes": 0, "tab_leaves": 0,
                }
            )  # fmt: skip
        persons.append(
            {
                "study": study.hash, "participant": name, "source": source, "platform": "prolific",
                "status": "finished", "consented_at": began,
                "finished_at": began + pd.Timedelta(seconds=900), "practice_attempts": 1,
                "instruction_seconds": 40.0, "total_seconds": 900.0,
                "questionnaire": json.dumps({"comment": f"I am number {number}"}),
            }
        )  # fmt: skip
    return as_table(rows, RESPONSES), as_table(persons, PARTICIPANTS)


def _answer(trial: Trial, key, knows: bool, naming: float, taste: float, rng: np.random.Generator):
    """Return the answer and its score; `knows` means correct, or "changed", or "one concept"."""
    if trial.options:
        wrong = [o.id for o in trial.options if o.id != key]
        answer = key if knows else str(rng.choice(wrong))
        return answer, answer == key
    word = WORDS[int(trial.id[1:]) % len(WORDS)]
    label = word if rng.random() < naming else str(rng.choice(WORDS))
    if trial.task == "concept_agreement":
        rating = (rng.integers(3, 5) if knows else rng.integers(1, 3)) + taste
        return {"rating": _scale(rating), "label": label}, None
    clarity = _scale(rng.integers(1, 5) + taste)
    answer = {"labels": [label] * 3, "changed": knows, "clarity": clarity}
    return answer, None if key is None else knows == key


def _scale(value: float) -> int:
    return int(np.clip(np.rint(value), 1, 4))


def results_of(
    folder: Path, answers: pd.DataFrame, people: pd.DataFrame, permutations: int = 99
) -> Results:
    """Return the results of the study in a folder, with few random draws."""
    responses = prepare(read_study(folder), answers, people)
    return Results(responses, Settings(replicates=99, permutations=permutations))


def write(folder: Path, responses: pd.DataFrame, people: pd.DataFrame) -> Path:
    """Write both tables as the survey exports them; return the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    responses.to_csv(folder / "responses.csv", index=False)
    people.to_csv(folder / "responses-participants.csv", index=False)
    return folder / "responses.csv"
