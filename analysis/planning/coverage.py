"""Are the intervals what they say? Simulated studies with known truth, analysed as real ones are.

    python -m analysis.planning.coverage [--studies 1000] [--seed 0] [--workers 2]

prints, for designs with participants and items that vary, how often 95 % intervals hold the truth,
how often a true null is rejected at 5 %, and how often a real difference is found beside what the
planner (`analysis.planning.power`) had promised.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.planning.designs import Design, as_frame, simulate
from analysis.planning.power import Plan, rejections
from analysis.statistics.shares import (
    ClusterBootstrap,
    ClusterContrasts,
    CrossedContrasts,
    CrossedEffects,
    Estimates,
    ExactBinomial,
    _fit_conditions,
)


def _clustered(frame: pd.DataFrame, chance: float, replicates: int, seed: int) -> Estimates:
    shares = ClusterBootstrap(chance, replicates, seed)(frame)
    return shares | ClusterContrasts(None, replicates, seed)(frame)


def _crossed(frame: pd.DataFrame, chance: float, seed: int) -> Estimates:
    model = _fit_conditions(frame)
    return CrossedEffects(chance).of(model, frame) | CrossedContrasts().of(model, frame)


#: Method -> (answers, chance, seed) -> shares by condition, and contrasts by pair and measure.
METHODS: dict[str, Callable[[pd.DataFrame, float, int], Estimates]] = {
    "exact binomial": lambda frame, chance, seed: ExactBinomial(chance)(frame),
    "cluster jackknife": lambda frame, chance, seed: _clustered(frame, chance, 0, seed),
    "cluster bootstrap": lambda frame, chance, seed: _clustered(frame, chance, 499, seed),
    "crossed effects": _crossed,
}


def one_study(design: Design, methods: tuple[str, ...], seed: int) -> list[dict[str, object]]:
    """A row an interval: method, what, whether it holds the truth, whether its test rejects."""
    frame = as_frame(simulate(design, np.random.default_rng(seed)))
    conditional = dict(zip(design.accuracy, design.log_odds(), strict=True))
    rows: list[dict[str, object]] = []
    for method in methods:
        for key, estimate in METHODS[method](frame, design.chance, seed).items():
            shares = [design.accuracy[name] for name in key[:2]]
            what, null = key[-1], len(set(shares)) == 1
            if len(key) == 1:
                what, null = "accuracy", bool(np.isclose(shares[0], design.chance))
                truth = shares[0]
            elif what == "risk difference":
                truth = shares[0] - shares[1]
            elif method == "crossed effects":
                truth = float(np.exp(conditional[key[0]] - conditional[key[1]]))
            else:
                truth = shares[0] / (1 - shares[0]) * (1 - shares[1]) / shares[1]
            rows.append(
                {
                    "method": method,
                    "what": what,
                    "null": null,
                    "covered": estimate.low <= truth <= estimate.high,
                    "rejected": bool(estimate.p < 1 - estimate.level),
                    "tested": not np.isnan(estimate.p),
                    "width": estimate.high - estimate.low,
                    "error": estimate.value - truth,
                }
            )
    return rows


def over_seeds(
    job: Callable[[int], Any], studies: int, seed: int = 0, workers: int = 1
) -> list[Any]:
    """What a job gives for as many seeds as there are studies, in their order."""
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(studies)]
    if workers == 1:
        return [job(s) for s in seeds]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(job, seeds, chunksize=10))


def arguments(description: str | None, studies: int = 1000) -> argparse.Namespace:
    """--studies, --seed and --workers of the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--studies", type=int, default=studies)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    return parser.parse_args()


def measure(
    design: Design,
    studies: int,
    methods: tuple[str, ...] = tuple(METHODS),
    seed: int = 0,
    workers: int = 1,
) -> pd.DataFrame:
    """Simulate and analyse many studies.

    Returns:
        method, what, null (whether the null hypothesis is true), intervals (how many), coverage,
        rejected (share of tests with p < .05; false positives where null, power elsewhere), width
        and bias (means).
    """
    results = over_seeds(partial(one_study, design, methods), studies, seed, workers)
    rows = pd.DataFrame([row for result in results for row in result])
    rows["rejected"] = rows["rejected"].where(rows["tested"])
    table = rows.groupby(["method", "what", "null"], sort=False).agg(
        intervals=("covered", "size"),
        coverage=("covered", "mean"),
        rejected=("rejected", "mean"),
        width=("width", "mean"),
        bias=("error", "mean"),
    )
    return table.reset_index()


#: The designs of the printed table. Two conditions keep Holm's correction out of false positives.
DESIGNS = {
    "paper-sized": Design({"a": 0.5, "b": 0.5}, participants=260, items=15, answered=8),
    "chance, people and items vary": Design({"a": 1 / 6, "b": 1 / 6}),
    "few and varied": Design(
        {"a": 0.5, "b": 0.65}, participants=40, items=10, sd_participant=0.8, sd_item=1.0
    ),
    "planned for 80 %": Design({"a": 0.45, "b": 0.61}, participants=100, items=16),
    "pure guessing": Design({"a": 1 / 6, "b": 1 / 6}, sd_participant=0, sd_item=0),
    "conditions help some more": Design(
        {"a": 0.5, "b": 0.5}, participants=120, items=10, sd_item=0.3, sd_condition=0.5
    ),
}


def main() -> None:
    given = arguments(__doc__)
    for name, design in DESIGNS.items():
        table = measure(design, given.studies, seed=given.seed, workers=given.workers)
        print(f"\n{name}: {design}")
        print(table.to_string(index=False, float_format="{:.3f}".format), flush=True)
        if len(set(design.accuracy.values())) > 1:
            promised = rejections(Plan(design), given.studies, given.seed + 1)
            print("planner:", promised.to_string(index=False, header=False), flush=True)


if __name__ == "__main__":
    main()
