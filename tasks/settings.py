"""The settings of study.toml with their defaults (texts/study.toml shows them with comments)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, StrictInt, field_validator, model_validator

from harness.section import Section
from tasks.language import N_, SOURCE, Words
from tasks.recruitment import LONGEST_LEASE, MOST_PLACES, Entry

TEXTS = Path(__file__).parent / "texts"
#: Settings to start from, by name.
PRESETS = {"default": TEXTS / "study.toml", "conceptevo": TEXTS / "conceptevo.toml"}


#: Largest distance of neighbours in a cluster, by condition (tasks/clusters.py).
EPS: Mapping[str, float] = {"base": 0.35, "same_series": 0.5, "other_series": 0.27}


class EvidenceSettings(Section):
    """The evidence from which trials are drawn.

    Attributes:
        space: name of the semantic space whose neighbours are tested.
        base: series whose last checkpoint is the base; by default the base of the run.
        groups: file of hand-picked groups; by default groups are made from true concepts.
        min_depth: layers of smaller relative depth (0: first, 1: last) are left out, because
            texture alone would distinguish their neurons from others.
        grouping: the five neurons of an odd-one-out trial: a neuron and its nearest neighbours, or
            a cluster of the space (tasks/clusters.py).
        eps: condition -> largest cosine distance within a cluster (EPS by default).
    """

    space: str = "sgns"
    base: str = ""
    min_depth: float = Field(default=0.3, ge=0, lt=1)
    groups: str = ""
    grouping: Literal["neighbours", "clusters"] = "neighbours"
    eps: dict[str, PositiveFloat] = Field(default_factory=dict)

    @field_validator("eps")
    @classmethod
    def _check_conditions(cls, eps: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(eps) - set(EPS)):
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(EPS)}")
        return eps

    @model_validator(mode="after")
    def _check_use(self) -> Self:
        if self.eps and self.grouping != "clusters":
            raise ValueError(
                f"eps is for grouping = 'clusters', and has no effect with {self.grouping!r}"
            )
        return self


class Practice(Section):
    """Practice trials, with feedback; a participant who fails `attempts` rounds is screened out."""

    trials: int = Field(default=2, ge=0, le=10)
    pass_share: float = Field(default=0.5, ge=0, le=1)
    attempts: int = Field(default=3, ge=1)


class Attention(Section):
    """Attention trials (with an obvious answer); None: as many as the exclusion rule needs."""

    trials: int | None = Field(default=None, ge=0, le=100)


class Exclusion(Section):
    """Exclusion rules that the analysis applies as frozen; None (`false` in study.toml) disables
    a rule.

    Attributes:
        attention_below: share of attention trials answered correctly.
        total_seconds_outside: limits of the time from consent to the end, in seconds.
        instruction_seconds_below: time on the instructions and the introductions of the tasks, in
            seconds.
        practice_attempts_above: number of rounds of practice.
        one_sided_above: share of all choices at one screen position.
        identical_above: share of trials in which answer and time agree with those of another
            participant; one of them is kept.
    """

    attention_below: float | None = Field(default=0.8, ge=0, le=1)
    total_seconds_outside: tuple[float, float] | None = (135, 7200)
    instruction_seconds_below: float | None = Field(default=5, ge=0)
    practice_attempts_above: int | None = Field(default=3, ge=1)
    one_sided_above: float | None = Field(default=0.8, gt=0, le=1)
    identical_above: float | None = Field(default=None, ge=0, lt=1)

    @field_validator("*", mode="before")
    @classmethod
    def _disable(cls, threshold: Any) -> Any:
        return None if threshold is False else threshold


#: Kinds of tests of a task; `primary` names one as "task.kind".
QUESTIONS = (
    "chance", "contrasts", "detection", "labels", "ratings", "learning", "confidence",
    "associations", "equivalence",
)  # fmt: skip


class Analysis(Section):
    """The planned analysis, fixed before data collection.

    Attributes:
        primary: the primary hypothesis, "task.kind" with a kind of QUESTIONS; by default the main
            one of the first task.
        primary_share: share of α = .05 that its tests receive.
        reference: condition with which the others are compared; all pairs by default.
        similarity: name of the similarity of labels.
        smallest_effect: smallest difference of interest in the share of correct responses, for
            equivalence tests (two one-sided tests); 0: none.
        smallest_rating: likewise in mean ratings, in points of the scale.
        bayesian: whether a Bayesian hierarchical model of correct responses is fitted, too.
        prior_effect: standard deviation of the normal prior of each condition's log odds.
        prior_spread: scale of the half-normal priors of the standard deviations.
    """

    primary: str = ""
    primary_share: float = Field(default=0.8, gt=0, lt=1)
    reference: str = ""
    similarity: str = "words"
    smallest_effect: float = Field(default=0, ge=0, lt=1)
    smallest_rating: float = Field(default=0, ge=0)
    bayesian: bool = False
    prior_effect: float = Field(default=1.5, gt=0)
    prior_spread: float = Field(default=1.0, gt=0)


class Payment(Section):
    text: str = N_("You are paid the amount shown on the platform, regardless of your answers.")


class Texts(Section):
    """The researcher's files; paths are relative to the folder of study.toml."""

    consent: str = ""
    instructions: str = ""
    debrief: str = ""
    questionnaire: str = ""


Count = Annotated[StrictInt, Field(ge=0, le=1000)]


class StudySettings(Section):
    """The contents of study.toml."""

    language: str = SOURCE
    title: str = N_("What do these pictures have in common?")
    seed: int = Field(default=0, ge=0)
    minutes: int = Field(default=0, ge=0)
    participants: int = Field(default=260, ge=1, le=MOST_PLACES)
    forms: int = Field(default=8, ge=1, le=500)
    lease_minutes: float = Field(default=60, ge=1, le=LONGEST_LEASE)
    questions: bool = True
    confidence: bool = True
    seconds_per_trial: float = Field(default=0, ge=0, le=3600)
    min_width: int = Field(default=0, ge=0, le=4000)
    evidence: EvidenceSettings = EvidenceSettings()
    trials: dict[str, dict[str, Count]] = Field(default_factory=dict)
    practice: Practice = Practice()
    attention: Attention = Attention()
    exclusion: Exclusion = Exclusion()
    analysis: Analysis = Analysis()
    payment: Payment = Payment()
    recruitment: Entry = Entry()
    texts: Texts = Texts()

    @field_validator("language")
    @classmethod
    def _check_language(cls, language: str) -> str:
        Words(language)
        return language

    @field_validator("title")
    @classmethod
    def _check_title(cls, title: str) -> str:
        if len(title.strip().splitlines()) != 1 or re.search(r"[\x00-\x1f\x7f]", title.strip()):
            raise ValueError("participants see the title on every page; give one, in one line")
        return title

    @field_validator("seconds_per_trial")
    @classmethod
    def _check_seconds(cls, seconds: float) -> float:
        if 0 < seconds < 1:  # a page takes input after 0.3 s
            raise ValueError("nobody can answer in time; give 1 second or more, or 0 for no limit")
        return seconds

    @model_validator(mode="after")
    def _check_lease(self) -> Self:
        if self.seconds_per_trial >= 60 * self.lease_minutes:
            raise ValueError(
                f"seconds_per_trial = {self.seconds_per_trial:g}, lease_minutes = "
                f"{self.lease_minutes:g}: a place could be given away before the time of a trial "
                f"is over; choose a longer lease"
            )
        return self

    @field_validator("trials")
    @classmethod
    def _check_trials(cls, trials: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        for name, conditions in trials.items():
            if not any(conditions.values()):
                raise ValueError(
                    f"task {name!r} has no trials; give its conditions, such as base = 4, or leave "
                    f"the task out"
                )
        return trials


def load_settings(path: Path | None) -> StudySettings:
    """Read study.toml, from whose folder relative paths begin; without a file, the defaults.

    Raises:
        ValueError: naming the parameter, its value and what is allowed.
    """
    if path is None:
        return StudySettings()
    settings = StudySettings.read(path, "settings")

    def resolve(file: str) -> str:
        return str(path.parent / file) if file else ""

    texts = {name: resolve(file) for name, file in settings.texts}
    evidence = settings.evidence.model_copy(update={"groups": resolve(settings.evidence.groups)})
    return settings.model_copy(update={"texts": Texts(**texts), "evidence": evidence})
