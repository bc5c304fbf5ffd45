"""Simulated participants, who take the whole path through the real service; marked `simulated`.

They fill a study so that hosting, export and analysis can be tested before anyone is paid. The
effects are invented: the ease of conditions, the ability of persons, the difficulty of trials.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from survey_app.flow import ENDS, QUESTION_TIMES, Stage
from survey_app.participant_state import ParticipantState, derive_state
from survey_app.platforms import Visitor
from survey_app.service import Service
from tasks.base import CONFIDENCE, Trial
from tasks.kinds import all_tasks
from tasks.questionnaire import simulated_answers

EASE = 1.2  # log-odds that a typical person recognises what a trial shows
EASES = {"hand_picked": 2.0, "same_series": 1.0, "other_series": 0.7, "one_reference": 0.2}
OBVIOUS = 4.0  # the same, for attention and practice trials
PEOPLE, TRIALS = 0.8, 0.7  # standard deviations of ability and of difficulty, in log-odds
CARELESS, LEAVING = 0.05, 0.03  # shares of persons who answer at random, and who leave midway
INSIGHT = 0.5  # share of responses whose confidence depends on whether the person recognised it


class Person:
    """A simulated person.

    Args:
        shifts: trial -> log-odds that are added to its ease; 0 for a trial that is not named.
        able: the person is never careless and recognises everything except in random trials.
    """

    def __init__(
        self, rng: np.random.Generator, shifts: Mapping[str, float], able: bool = False
    ) -> None:
        self.rng, self.shifts = rng, shifts
        self.careless, self.ability = rng.random() < CARELESS, rng.normal(0, PEOPLE)
        if able:
            self.careless, self.ability = False, np.inf

    def reply(self, service: Service, state: ParticipantState) -> dict[str, Any]:
        """Return the action with which the person answers the current page."""
        seconds = float(self.rng.lognormal(np.log(2 if self.careless else 7), 0.4))
        values: dict[str, Any] = {}
        if state.stage in QUESTION_TIMES:
            questions = service.study.questions_at(QUESTION_TIMES[state.stage])
            values = simulated_answers(questions, self.rng, state.answers)
        elif state.stage is Stage.CONSENT:
            values = {"consent": "yes"}
        elif state.stage in (Stage.PRACTICE, Stage.TRIAL):
            values = self._answer(service, service.study.by_id[state.upcoming[0]["trial"]])
        return {"values": values, "milliseconds": seconds * 1000}

    def _answer(self, service: Service, trial: Trial) -> dict[str, Any]:
        task, rng = all_tasks().get(trial.task), self.rng
        ease = OBVIOUS if trial.role != "trial" else EASES.get(trial.condition, EASE)
        shift = self.shifts.get(trial.id, 0.0)
        probability = 1 / (1 + np.exp(-(ease + self.ability + shift)))
        knows = not self.careless and trial.condition != "random" and rng.random() < probability
        values = task.values(task.simulate(trial, service.keys[trial.id], knows, rng))
        if CONFIDENCE.name in {f.name for f in service.study.fields(trial)}:
            # Confidence is partly informative: it depends on `knows` in a share of the trials.
            fitting = (3, 4) if knows else (1, 2)
            levels = fitting if rng.random() < INSIGHT else (1, 2, 3, 4)
            values[CONFIDENCE.name] = str(rng.choice(levels))
        return values


def simulate(service: Service, participants: int, seed: int) -> Iterator[str]:
    """Let persons take part one after another; yield the status with which each ends, "left" for
    those who leave midway, or "turned away", e.g. if no place is free.

    Running it again with the same seed adds nobody, since the service knows the same persons.
    """
    moment = datetime.now(UTC)  # simulated time
    begin = moment - timedelta(days=2)
    service.store.clock = lambda: moment

    def think(seconds: float) -> None:
        nonlocal moment
        moment += timedelta(seconds=seconds)

    rng = np.random.default_rng([seed, 0])
    shifts = {trial: float(rng.normal(0, TRIALS)) for trial in service.study.by_id}
    for number in range(participants):
        moment = begin + timedelta(minutes=10 * number)
        rng = np.random.default_rng([seed, 1, number])
        person = Person(rng, shifts)
        leaves_at = int(rng.integers(5, 40)) if rng.random() < LEAVING else -1
        end = ""
        visitor = Visitor("simulation", f"{seed}-{number}")
        for page in session(service, visitor, person, think):
            # only a page of somebody who takes part can be answered
            end = page["stage"] if page["token"] else "turned away"
            if page["version"] == leaves_at and end not in ENDS:
                end = "left"
                break
        yield end


def session(
    service: Service,
    visitor: Visitor,
    person: Person,
    think: Callable[[float], None] = lambda seconds: None,
) -> Iterator[dict[str, Any]]:
    """Yield a person's pages from consent to the end; `think` advances the time by seconds."""
    page = service.welcome(visitor)
    yield page
    while page["stage"] not in ENDS:
        with service.store.read() as connection:
            row = service.store.row(connection, service.study.hash, service.pseudonym(visitor))
        state = ParticipantState(Stage.CONSENT)
        if row:
            state = derive_state(service.study, service.keys, row)
        action = person.reply(service, state)
        think(action["milliseconds"] / 1000)
        if state.stage is Stage.INSTRUCTIONS:
            action["milliseconds"] *= 5
        page, done = service.act(page["token"], action)
        assert done, "a simulated action was not carried out"
        yield page
