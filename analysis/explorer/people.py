"""Participants' responses to trials with neurons of a run."""

import json
from pathlib import Path
from typing import Any

from analysis.explorer.data import Source
from analysis.study.association import people_by_trial
from analysis.study.pipeline import read_results
from analysis.study.responses import Responses

ANSWERS_SHOWN = 5


def people_columns(source: Source, results: Path) -> dict[str, Any]:
    """Return the trials of a study with their neurons and responses.

    Args:
        results: folder written by `conceptevo analyse`.

    Returns:
        source (human, pilot or simulated), tasks (name -> title), participants (their number),
        strangers (number of trials without a neuron of the run) and trials: id, task, condition,
        control (whether it only checks the task), answers (number of responses), right (share of
        correct responses of choice tasks), changed (share of responses "changed" of other tasks),
        chance, key, neurons (rows), given (the most frequent responses with their counts). None
        means not applicable.

    Raises:
        ValueError: the folder has no results, or no trial shows a neuron of the run.
    """
    responses = read_results(results).responses
    rates = people_by_trial(responses).set_index("trial")
    chances = {task: responses.study.chance(task) for task in responses.study.choice_tasks}
    response_counts = _response_counts(responses)
    trials, trials_elsewhere = [], 0
    for trial in responses.study.data.itertuples():
        neuron_keys = [(n.series, n.epoch, n.layer, n.channel) for n in trial.neurons]
        rows = [source.row_of[key] for key in neuron_keys if key in source.row_of]
        if not rows:
            trials_elsewhere += 1
            continue
        answers = response_counts.get(trial.trial, [])
        share = float(rates["rate"].get(trial.trial, float("nan")))
        has_key = trial.task in chances
        trials.append(
            {"id": trial.trial, "task": trial.task, "condition": trial.condition,
             "answers": sum(count for _, count in answers),
             "control": trial.condition in responses.study.controls(trial.task),
             "right": share if has_key else None, "changed": None if has_key else share,
             "chance": chances.get(trial.task, {}).get(trial.condition),
             "key": responses.study.keys.get(trial.trial), "neurons": rows,
             "given": answers[:ANSWERS_SHOWN]}
        )  # fmt: skip
    tasks = sorted(set(responses.study.trials["task"]))
    if not trials:
        raise ValueError(
            f"--study {results}: none of its trials shows a neuron of {source.run.root}; "
            f"give the results of a study that was built from this run"
        )
    return {
        "source": responses.source,
        "participants": int(responses.answers["participant"].nunique()),
        "tasks": {task: responses.study.name(task) for task in tasks},
        "strangers": trials_elsewhere,
        "trials": trials,
    }


def _response_counts(responses: Responses) -> dict[str, list[tuple[str, int]]]:
    """Return, for each trial, its different responses and their counts, the most frequent first."""
    texts = responses.answers["value"].map(_as_text)
    counts = texts.groupby(responses.answers["trial"]).value_counts()
    return {
        str(trial): list(trial_counts.droplevel("trial").items())
        for trial, trial_counts in counts.groupby(level="trial")
    }


def _as_text(value: Any) -> str:
    """Return a response as text: an option unchanged, the parts of a compound response joined."""
    if isinstance(value, dict):
        parts = [f"{name}: {part}" for name, part in value.items() if part not in ("", None)]
        return ", ".join(parts)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
