"""Studies in which there is nothing to find, from their answers to their claims.

    python -m tests.null_studies [--studies 1000] [--seed 0] [--workers 2]

prints in how many of them something is claimed: with the main question frozen, without one, and if
each family of tests were corrected for itself (what the share of one 5 % is for).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.claims import ALPHA, judge
from analysis.clusters import holm
from analysis.meeting import EVIDENCE, join
from analysis.responses import FrozenStudy, prepare, read_study
from analysis.study import Results, Settings
from tests.synthetic_study import PLANTED, make_responses, make_study

CHANCE = {
    task: dict.fromkeys(conditions, 1 / 6 if task == "odd_one_out" else 1 / 2)
    for task, conditions in PLANTED.items()
}


@dataclass(frozen=True)
class Null:
    """A study of chance: how many answer how many trials a condition, and how much they differ.

    Attributes:
        spread: standard deviations of ability and difficulty, logit scale; 0 is pure guessing.
    """

    people: int
    trials: int
    spread: tuple[float, float]
    permutations: int = 9999


DESIGNS = {
    "people and items vary": Null(60, 10, (0.5, 0.7), 1999),
    "few of both": Null(24, 6, (0.5, 0.7)),
    "pure guessing": Null(40, 8, (0.0, 0.0), 1999),
}


@cache
def _study(trials: int) -> tuple[FrozenStudy, Path]:
    folder = Path(tempfile.mkdtemp())
    make_study(folder, trials=trials)
    return read_study(folder), folder


def claims_of(design: Null, seed: int) -> pd.DataFrame:
    """All tests of one study of nothing, as `Results.claims` has them."""
    frozen, folder = _study(design.trials)
    answers = make_responses(
        folder, frozen.study, people=design.people, seed=seed, planted=CHANCE,
        spread=design.spread, naming=0, insight=False,
    )  # fmt: skip
    trials = frozen.trials.loc[frozen.trials["role"] == "trial", ["trial"]]
    rng = np.random.default_rng([seed, 1])
    network = trials.assign(**{name: rng.normal(size=len(trials)) for name in EVIDENCE})
    responses = prepare(frozen, *answers, exclusions={})
    settings = Settings(replicates=199, permutations=design.permutations, seed=seed)
    results = Results(responses, settings, partial(prepare, frozen, *answers), None)
    return replace(results, meeting=join(responses, network)).claims


def outcome(design: Null, seed: int) -> dict[str, bool]:
    """Whether a study claims anything, under each way of correcting."""
    tests = claims_of(design, seed)
    alone = tests["p_alone"]
    families = alone.groupby(tests["question"]).transform(lambda p: holm(p.to_numpy(float)))
    without = judge(tests.assign(p=alone), "", 0.8)
    return {
        "together, main question frozen": bool(tests["claimed"].any()),
        "of it the main question": bool(tests[tests["question"] == PRIMARY]["claimed"].any()),
        "together, none frozen": bool(without["claimed"].any()),
        "each family alone": bool((families < ALPHA).any()),
        "no correction": bool((alone < ALPHA).any()),
    }


#: What `make_study` freezes as the main question.
PRIMARY = "odd_one_out.chance"


def measure(design: Null, studies: int, seed: int = 0, workers: int = 1) -> pd.Series:
    """Share of studies of nothing that claim something, by way of correcting."""
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(studies)]
    job = partial(outcome, design)
    if workers == 1:
        return pd.DataFrame([job(s) for s in seeds]).mean()
    with ProcessPoolExecutor(workers) as pool:
        return pd.DataFrame(list(pool.map(job, seeds, chunksize=5))).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    for name, design in DESIGNS.items():
        print(f"\n{name}: {design}", flush=True)
        shares = measure(design, arguments.studies, arguments.seed, arguments.workers)
        print((100 * shares).to_string(float_format="{:.1f} %".format), flush=True)


if __name__ == "__main__":
    main()
