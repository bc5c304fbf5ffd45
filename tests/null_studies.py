"""Simulate studies without effects, from their responses to their claims.

    python -m tests.null_studies [--studies 1000] [--seed 0] [--workers 2]

prints the share of studies with a claim: with and without a frozen primary hypothesis, and if the
tests of each kind, or none, were corrected. Participants and trials differ in accuracy, confidence,
ratings and labels; conditions have typical labels; a participant completes one of several forms.
In the last design, some conditions have effects, and only claims about the others are false.
"""

import tempfile
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.statistics.claims import ALPHA, judge
from analysis.statistics.clusters import holm
from analysis.study.association import EVIDENCE, join_measures
from analysis.study.frozen_study import FrozenStudy, read_study
from analysis.study.responses import select
from analysis.study.results import Results, Settings
from tests.simulated_studies import parse_arguments, run_seeds
from tests.synthetic_study import PLANTED, make_responses, make_study

CHANCE = {
    task: dict.fromkeys(conditions, 1 / 6 if task == "odd_one_out" else 1 / 2)
    for task, conditions in PLANTED.items()
}
#: Effects of some conditions; those at chance must not be claimed.
SOME = CHANCE | {
    "odd_one_out": CHANCE["odd_one_out"] | {"base": 0.6},
    "before_or_after": CHANCE["before_or_after"] | {"nine_references": 0.8},
}
#: The primary hypothesis that `make_study` freezes.
PRIMARY = "odd_one_out.chance"


@dataclass(frozen=True)
class Null:
    """A design: the numbers of participants, trials per condition and forms, and their variation.

    Attributes:
        spread: standard deviations of ability and difficulty, logit scale; 0 is pure guessing.
        habits: standard deviations of confidence and ratings, over participants and over trials.
        some: whether some conditions have effects.
        permutations: number of every permutation test; 9,999 if a p-value comes so close to the
            smallest possible one that more permutations could give a claim.
    """

    people: int
    trials: int
    forms: int = 1
    spread: tuple[float, float] = (0.5, 0.7)
    habits: tuple[float, float] = (0.6, 0.6)
    some: bool = False
    permutations: int = 1999


DESIGNS = {
    "as the default study": Null(120, 24, forms=8),
    "everybody sees all": Null(40, 10),
    "pure guessing": Null(40, 8, spread=(0.0, 0.0), habits=(0.0, 0.0)),
    "four trials a condition": Null(60, 4, forms=2),
    "some conditions have effects": Null(120, 24, forms=8, some=True),
}


@cache
def _study(trials: int, forms: int) -> tuple[FrozenStudy, Path]:
    folder = Path(tempfile.mkdtemp())
    make_study(folder, trials=trials, forms=forms)
    return read_study(folder), folder


def claims_of(design: Null, seed: int) -> pd.DataFrame:
    """Return all tests of one study."""
    frozen, folder = _study(design.trials, design.forms)
    answers = make_responses(
        folder, frozen.study, people=design.people, seed=seed,
        planted=SOME if design.some else CHANCE, spread=design.spread, naming=0, insight=False,
        habits=design.habits,
    )  # fmt: skip
    trials = frozen.trials.loc[frozen.trials["role"] == "trial", ["trial"]]
    rng = np.random.default_rng([seed, 1])
    network = trials.assign(**{name: rng.normal(size=len(trials)) for name in EVIDENCE})
    responses = select(frozen, *answers, "human", {})
    settings = Settings(replicates=199, permutations=design.permutations, seed=seed)
    return Results(responses, settings, join_measures(responses, network)).tests


def false(tests: pd.DataFrame, design: Null) -> pd.DataFrame:
    """Return the tests of effects that do not exist."""
    if not design.some:
        return tests
    effects = ("base", "nine_references")
    there = tests["what"].map(lambda what: any(name in what for name in effects))
    return tests[~there]


def outcome(design: Null, seed: int) -> dict[str, bool]:
    """Return whether a study makes a false claim, for each way of correcting."""
    tests = claims_of(design, seed)
    permuted = tests.index.get_level_values(0).isin(["labels", "associations"])
    if (tests.loc[permuted, "p_alone"] <= 0.002).any():
        tests = claims_of(replace(design, permutations=9999), seed)
    alone = tests["p_alone"]
    families = alone.groupby(tests["question"]).transform(lambda p: holm(p.to_numpy(float)))
    ways = {
        "together, main question frozen": tests["claimed"],
        "of it the main question": tests["claimed"] & (tests["question"] == PRIMARY),
        "together, none frozen": judge(tests.assign(p=alone), "", 0.8)["claimed"],
        "each kind of question alone": families < ALPHA,
        "no correction": alone < ALPHA,
    }
    known = false(tests, design).index
    return {way: bool(claimed[known].any()) for way, claimed in ways.items()}


def measure(design: Null, studies: int, seed: int = 0, workers: int = 1) -> pd.Series:
    """Return the share of studies with a false claim, by way of correcting."""
    return pd.DataFrame(run_seeds(partial(outcome, design), studies, seed, workers)).mean()


def main() -> None:
    given = parse_arguments(__doc__)
    for name, design in DESIGNS.items():
        print(f"\n{name}: {design}", flush=True)
        shares = measure(design, given.studies, given.seed, given.workers)
        errors = np.sqrt(shares * (1 - shares) / given.studies)
        table = 100 * pd.DataFrame({"share": shares, "standard error": errors})
        print(table.to_string(float_format="{:.1f} %".format), flush=True)


if __name__ == "__main__":
    main()
