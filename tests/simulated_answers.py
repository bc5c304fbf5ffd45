"""Coverage and error rates of agreement, label similarity and confidence in simulated studies.

    python -m tests.simulated_answers [--studies 1000] [--seed 0] [--workers 1]

prints the table of agreement, labels and confidence in docs/simulations.md. The true value of each
estimate is that of one study of very many participants and trials.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pandas as pd
from scipy.special import expit

from analysis.exhibits.tables import markdown_table
from analysis.statistics.agreement import (
    FreeMarginalKappa,
    KrippendorffAlpha,
    _alpha,
    _kappa,
)
from analysis.statistics.behaviour import TypeTwo, _compare_confidence
from analysis.statistics.labels import LabelAgreement
from analysis.statistics.statistic import Estimate, alpha_of
from tests.simulated_studies import _format_percent, parse_arguments, run_seeds

OPTIONS = 6
#: Where the steps of a scale of five begin.
STEPS = [-1.5, -0.5, 0.5, 1.5]
#: The vocabulary of labels, and how similar its words are: pairs of synonyms share half.
WORDS = [f"{stem}{ending}" for stem in "abcdefgh" for ending in ("", "s")]
SIMILAR = np.kron(np.eye(len(WORDS) // 2), np.full((2, 2), 0.5)) + 0.5 * np.eye(len(WORDS))


@dataclass(frozen=True)
class Answers:
    """A study of one condition in which every participant answers every trial.

    Attributes:
        participants, trials: numbers of both.
        spread: standard deviation of the trials; 0 means that answers do not depend on the trial.
        habits: standard deviation of the participants.
    """

    participants: int
    trials: int
    spread: float
    habits: float = 0.7

    def normal(self, rng: np.random.Generator) -> np.ndarray:
        """Return a standard normal value plus those of trial and participant: [p, trials]."""
        people = rng.normal(0, self.habits, (self.participants, 1))
        noise = rng.normal(size=(self.participants, self.trials))
        return people + rng.normal(0, self.spread, self.trials) + noise


def _frame(**columns: np.ndarray) -> pd.DataFrame:
    """Return a table of responses from arrays [participants, trials]."""
    people, trials = next(iter(columns.values())).shape
    ids = {"participant": np.repeat(np.arange(people), trials),
           "trial": np.tile(np.arange(trials), people)}  # fmt: skip
    return pd.DataFrame(ids | {name: values.ravel() for name, values in columns.items()})


def _counts(answers: np.ndarray, values: int) -> np.ndarray:
    """Count answers [participants, trials]: [trials, values]."""
    return np.stack([(answers == value).sum(axis=0) for value in range(values)], axis=1)


def _ratings(design: Answers, rng: np.random.Generator) -> np.ndarray:
    return np.digitize(design.normal(rng), STEPS)


def _choices(design: Answers, rng: np.random.Generator) -> np.ndarray:
    """Return choices among OPTIONS; without variation of the trials all are equally frequent."""
    attraction = rng.normal(0, design.spread, (design.trials, OPTIONS))
    noise = rng.gumbel(size=(design.participants, design.trials, OPTIONS))
    return (attraction + noise).argmax(axis=2)


def _labels(design: Answers, rng: np.random.Generator) -> np.ndarray:
    """Return codes of labels: words differ in frequency between participants and between trials."""
    habits = rng.normal(0, design.habits, (design.participants, 1, len(WORDS)))
    typical = rng.normal(0, design.spread, (design.trials, len(WORDS)))
    noise = rng.gumbel(size=(design.participants, design.trials, len(WORDS)))
    return (habits + typical + noise).argmax(axis=2)


def _confidence(design: Answers, rng: np.random.Generator) -> pd.DataFrame:
    """Return responses with correctness and confidence (five steps). `spread` is the effect of
    correctness on confidence; both vary between participants and between trials."""
    ordinary = Answers(design.participants, design.trials, 0.7, design.habits)
    correct = rng.random((design.participants, design.trials)) < expit(ordinary.normal(rng))
    felt = ordinary.normal(rng) + design.spread * correct
    confidence = np.digitize(felt, STEPS)
    return _frame(correct=correct.astype(float), confidence=confidence).assign(condition="a")


def _alpha_of(metric: str, design: Answers, rng: np.random.Generator) -> Estimate:
    return KrippendorffAlpha(metric)(_frame(answer=_ratings(design, rng)))


def _kappa_of(design: Answers, rng: np.random.Generator) -> Estimate:
    return FreeMarginalKappa(1 / OPTIONS)(_frame(answer=_choices(design, rng)))


def _similarity_of(design: Answers, rng: np.random.Generator) -> Estimate:
    words = np.array(WORDS)[_labels(design, rng)]
    return LabelAgreement("tests.simulated_answers:similarity", 999)(_frame(label=words))


def _area_of(design: Answers, rng: np.random.Generator) -> Estimate:
    return TypeTwo()(_confidence(design, rng))["all conditions",]


def similarity(texts: list[str]) -> np.ndarray:
    codes = [WORDS.index(text) for text in texts]
    return SIMILAR[np.ix_(codes, codes)]


def _true_similarity(design: Answers, rng: np.random.Generator) -> float:
    counts = _counts(_labels(design, rng), len(WORDS))
    people = design.participants
    same = (counts @ SIMILAR * counts).sum(axis=1) - people
    return float((same / (people * (people - 1))).mean())


def _true_area(design: Answers, rng: np.random.Generator) -> float:
    wins, pairs = _compare_confidence(_confidence(design, rng))
    return float(wins.sum() / pairs.sum())


def _true_alpha(metric: str, design: Answers, rng: np.random.Generator) -> float:
    return _alpha(_counts(_ratings(design, rng), 5), metric)


def _true_kappa(design: Answers, rng: np.random.Generator) -> float:
    return _kappa(_counts(_choices(design, rng), OPTIONS), 1 / OPTIONS)


@dataclass(frozen=True)
class Kind:
    """A statistic of answers.

    Attributes:
        estimate: function of a design and a generator that simulates and analyses a study.
        truth: function of the design of a very large study that returns the value there.
        effect: `spread` of studies with an effect.
        null: value without an effect; None if `p` of the estimate tests it.
    """

    estimate: Callable[[Answers, np.random.Generator], Estimate]
    truth: Callable[[Answers, np.random.Generator], float]
    effect: float
    null: float | None


KINDS = {
    "α, ordinal": Kind(partial(_alpha_of, "ordinal"), partial(_true_alpha, "ordinal"), 0.7, 0.0),
    "α, nominal": Kind(partial(_alpha_of, "nominal"), partial(_true_alpha, "nominal"), 0.7, 0.0),
    "κ of choices": Kind(_kappa_of, _true_kappa, 1.0, 0.0),
    "similarity of labels": Kind(_similarity_of, _true_similarity, 1.0, None),
    "area of confidence": Kind(_area_of, _true_area, 0.7, 0.5),
}


@cache
def true_value(kind: str, spread: float) -> float:
    large = Answers(500, 3000, spread)
    return KINDS[kind].truth(large, np.random.default_rng(0))


def simulate_estimate(kind: str, design: Answers, truth: float, seed: int) -> dict[str, float]:
    """Simulate and analyse one study: whether the interval is given (0 or 1), covers the true
    value, and excludes that without an effect."""
    estimate, null = KINDS[kind].estimate(design, np.random.default_rng(seed)), KINDS[kind].null
    given = not np.isnan(estimate.low)
    if null is None:
        rejected = estimate.p < alpha_of(estimate.level)
    else:
        rejected = given and not estimate.low <= null <= estimate.high
    return {"given": given, "covered": estimate.low <= truth <= estimate.high if given else np.nan,
            "rejected": rejected}  # fmt: skip


SIZES = ((20, 4), (20, 6), (20, 10), (60, 16), (8, 24))


def main() -> None:
    options = parse_arguments(__doc__)
    lines = []
    for kind, parts in KINDS.items():
        for people, trials in SIZES:
            line = [kind if (people, trials) == SIZES[0] else ""]
            line.append(f"{people} participants, {trials} trials")
            for spread in (0.0, parts.effect):
                design = Answers(people, trials, spread)
                truth = true_value(kind, spread)
                job = partial(simulate_estimate, kind, design, truth)
                rows = pd.DataFrame(
                    run_seeds(job, options.studies, options.seed, options.workers)
                ).astype(float)
                errors = np.sqrt(rows.mean() * (1 - rows.mean()) / rows.count())
                shares = {name: _format_percent(rows[name].mean(), errors[name]) for name in rows}
                rejected = f"({shares['rejected']})" if spread else shares["rejected"]
                line += [f"{truth:.2f}", shares["given"], shares["covered"], rejected]
            print(line, flush=True)
            lines.append(line)
    head = ["no effect: true value", "given", "coverage", "rejected"]
    head += ["effect: true value", "given", "coverage", "rejected"]
    print(markdown_table(["estimate", "design", *head], lines))


if __name__ == "__main__":
    main()
