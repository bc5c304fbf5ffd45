"""Simulated studies of correct and incorrect responses with known parameters, for the estimation of
power and of coverage."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import expit

from analysis.statistics import mixed_model
from analysis.statistics.clusters import CrossedData


@dataclass(frozen=True)
class Design:
    """A study of correct and incorrect responses: its size, and the true parameters.

    Attributes:
        accuracy: condition -> share of correct responses, averaged over participants and items.
        participants: number of participants.
        items: number of trials per condition; their difficulties are drawn anew for every study.
        answered: number of trials per participant and condition (a balanced random part of the
            items); by default all items.
        sd_participant, sd_item: standard deviations of ability and of difficulty, logit scale.
        sd_condition: standard deviation over participants of a condition's effect, logit scale.
        chance: probability of a correct response by guessing.
        answering: condition -> number of participants who respond to it; by default all.
        dropout: expected share of participants who respond to a random part of their trials only.
    """

    accuracy: dict[str, float]
    participants: int = 60
    items: int = 15
    answered: int | None = None
    sd_participant: float = 0.5
    sd_item: float = 0.7
    sd_condition: float = 0.0
    chance: float = 1 / 6
    answering: Mapping[str, int] = field(default_factory=dict)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, share in self.accuracy.items():
            if not 0 < share < 1:
                raise ValueError(f"accuracy of {name!r} must lie between 0 and 1, got {share}")
        if self.participants < 2 or self.items < 2:
            raise ValueError(
                f"a design needs at least 2 participants and 2 items per condition, got "
                f"{self.participants} and {self.items}"
            )
        if self.answered is not None and not 1 <= self.answered <= self.items:
            raise ValueError(
                f"answered must lie between 1 and items ({self.items}), got {self.answered}"
            )

    @property
    def standard_deviation(self) -> float:
        """Total standard deviation of a response's logit around that of its condition."""
        return float(np.linalg.norm([self.sd_participant, self.sd_item, self.sd_condition]))

    def log_odds(self) -> np.ndarray:
        """Return the logit for average ability and difficulty: [conditions]."""
        sd = self.standard_deviation
        return np.array([mixed_model.mean_logit(share, sd) for share in self.accuracy.values()])


def simulate(design: Design, rng: np.random.Generator) -> CrossedData:
    """Simulate the responses of one study, correct (1) or incorrect (0)."""
    conditions, people, items = len(design.accuracy), design.participants, design.items
    ability = rng.normal(0, design.sd_participant, people)[:, None, None]
    own = rng.normal(0, design.sd_condition, (people, conditions))[:, :, None]
    difficulty = rng.normal(0, design.sd_item, (conditions, items))[None]
    logits = design.log_odds()[None, :, None] + ability + own + difficulty
    right = rng.random(logits.shape) < expit(logits)
    shown = np.ones(right.shape, dtype=bool)
    if design.answered is not None and design.answered < items:
        # Participants take consecutive parts of shuffled items: every item receives equally many
        # responses, up to one.
        first = (np.arange(people) * design.answered)[:, None, None]
        slot = np.argsort(rng.random((conditions, items)), axis=1)[None]
        shown = (slot - first) % items < design.answered
    for name, number in design.answering.items():
        shown[number:, list(design.accuracy).index(name)] = False
    if design.dropout:
        leaves = rng.random(people) < design.dropout
        last = np.where(leaves, rng.random(people), 1.0)  # the completed part of the session
        shown &= rng.random(shown.shape) < last[:, None, None]
    person, condition, item = np.nonzero(shown)
    used, codes = np.unique(condition * items + item, return_inverse=True)
    return CrossedData(
        values=right[person, condition, item].astype(float),
        group=condition,
        participant=np.unique(person, return_inverse=True)[1],
        item=codes,
        groups=tuple(design.accuracy),
        stratum=used // items,
    )


def as_frame(data: CrossedData) -> pd.DataFrame:
    """Return the responses as a table: participant, trial, condition, correct."""
    return pd.DataFrame(
        {
            "participant": data.participant,
            "trial": data.item,
            "condition": np.array(data.groups)[data.group],
            "correct": data.values,
        }
    )
