"""Assign to each place of a study its trials, their order and the order of their options.

The design is a set of F forms. Places are numbered; place s has form s mod F, in round s div F. So
all trials of a form get the same number of responses. The round rotates everything that could
favour a position: the order of the blocks, of the trials in a block, of the options in a trial.
Over a complete cycle, each trial and each option is at each position equally often.
"""

from typing import TypedDict

import numpy as np

from tasks.study import Study


class PlannedTrial(TypedDict):
    """One trial in a participant's plan with the order of its options, as stored."""

    trial: str
    options: list[str]


def _rotate(items: list, by: int) -> list:
    by = by % len(items) if items else 0
    return items[by:] + items[:by]


def _plan_trial(study: Study, trial: str, round_: int) -> PlannedTrial:
    ids = [o.id for o in study.by_id[trial].options]
    rng = np.random.default_rng([study.seed, int(trial[1:])])
    shuffled = [ids[i] for i in rng.permutation(len(ids))]
    return PlannedTrial(trial=trial, options=_rotate(shuffled, round_))


def plan(study: Study, place: int) -> list[PlannedTrial]:
    """Return the trials of a place; attention trials are evenly spaced and never first."""
    form, round_ = place % len(study.forms), place // len(study.forms)
    order: list[str] = []
    for number, block in _rotate(list(enumerate(study.forms[form])), round_):
        rng = np.random.default_rng([study.seed, form, number])
        shuffled = [block[i] for i in rng.permutation(len(block))]
        trials = _rotate([t for t in shuffled if study.by_id[t].role == "trial"], round_)
        checks = [t for t in shuffled if study.by_id[t].role == "attention"]
        for nth, check in enumerate(checks, 1):
            trials.insert(nth * len(trials) // (len(checks) + 1) + 1, check)
        order += trials
    return [_plan_trial(study, trial, round_) for trial in order]


def practice_plan(study: Study, attempt: int) -> list[PlannedTrial]:
    """Return the practice trials, with other positions of the options at each attempt."""
    return [_plan_trial(study, trial, attempt) for trial in study.practice]
