"""Simulated participants: the whole path through the real service, marked `simulated`.

They fill a study so that hosting, export and analysis can be tried before anyone is paid. Their
effects are invented: how easy a condition is, how able a person, how hard a trial.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from survey_app import flow
from survey_app.flow import Stage
from survey_app.platforms import Arrival
from survey_app.service import ASKED, Service
from survey_app.store import course_of, current_trials, progress_of
from tasks.base import CONFIDENCE, Trial
from tasks.kinds import all_tasks
from tasks.questionnaire import simulated_answers

EASE = 1.2  # log-odds that a typical person sees what a trial shows
EASES = {"hand_picked": 2.0, "same_series": 1.0, "other_series": 0.7, "one_reference": 0.2}
OBVIOUS = 4.0  # of attention and practice trials
PEOPLE, TRIALS = 0.8, 0.7  # standard deviations of ability and of difficulty, in log-odds
CARELESS, LEAVING = 0.05, 0.03  # shares that click anything, and that leave midway
INSIGHT = 0.5  # share of answers whose confidence follows from what the person saw


class _Clock:
    """The simulation's own time."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.moment

    def think(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


def simulate(service: Service, participants: int, seed: int) -> Iterator[str]:
    """Let `participants` people take part, one after another; yields the status each ends with.

    Running it again with the same seed adds nobody: the same people are known already.
    """
    clock = _Clock()
    service.store.clock = clock
    hardness = dict.fromkeys(service.study.by_id, 0.0)
    rng = np.random.default_rng([seed, 0])
    for trial in hardness:
        hardness[trial] = float(rng.normal(0, TRIALS))
    begin = clock.moment - timedelta(days=2)
    for number in range(participants):
        clock.moment = begin + timedelta(minutes=10 * number)
        rng = np.random.default_rng([seed, 1, number])
        person = Arrival("simulation", f"{seed}-{number}")
        yield _take_part(service, clock, person, hardness, rng)


def _take_part(
    service: Service,
    clock: _Clock,
    visitor: Arrival,
    hardness: dict[str, float],
    rng: np.random.Generator,
) -> str:
    careless, ability = rng.random() < CARELESS, rng.normal(0, PEOPLE)
    leaves_at = int(rng.integers(5, 40)) if rng.random() < LEAVING else -1
    answers: dict[str, Any] = {}
    page, person = service.welcome(visitor), service.participant(visitor)
    while Stage(page["stage"]) not in flow.ENDS:
        if page["version"] == leaves_at:
            return "left"
        stage, trial = _standing(service, person)
        seconds = float(rng.lognormal(np.log(2 if careless else 7), 0.4))
        action: dict[str, Any] = {"values": {}, "milliseconds": seconds * 1000}
        if stage is Stage.INSTRUCTIONS:
            action["milliseconds"] *= 5
        if stage in ASKED:
            asked = service.study.asked(ASKED[stage])
            action["values"] = simulated_answers(asked, rng, answers)
            answers |= action["values"]
        if stage is Stage.CONSENT:
            action["values"] = {"consent": "yes"}
        elif trial is not None:
            ease = OBVIOUS if trial.role != "trial" else EASES.get(trial.condition, EASE)
            chance = 1 / (1 + np.exp(-(ease + ability + hardness[trial.id])))
            knows = not careless and trial.condition != "random" and rng.random() < chance
            answer = all_tasks().get(trial.task).simulate(trial, service.keys[trial.id], knows, rng)
            action["values"] = all_tasks().get(trial.task).values(answer)
            if CONFIDENCE.name in {f.name for f in service.study.fields(trial)}:
                # In part they say what they know, in part anything: insight, but not perfect.
                told = (3, 4) if knows else (1, 2)
                levels = told if rng.random() < INSIGHT else (1, 2, 3, 4)
                action["values"][CONFIDENCE.name] = str(rng.choice(levels))
        clock.think(seconds)
        page, done = service.act(page["token"], action)
        assert done, "a simulated action was not carried out"
    return page["stage"]


def _standing(service: Service, person: str) -> tuple[Stage, Trial | None]:
    """The stage a person is at, and its trial if it is one that takes an answer."""
    with service.store.read() as connection:
        row = service.store.row(connection, service.study.hash, person)
    if row is None:
        return Stage.CONSENT, None
    progress = progress_of(row)
    stage = flow.stage(progress, course_of(service.study, service.keys, row))
    if stage not in (Stage.PRACTICE, Stage.TRIAL):
        return stage, None
    position = progress.practice_done if stage is Stage.PRACTICE else progress.done
    return stage, service.study.by_id[current_trials(service.study, row)[position]["trial"]]
