"""Coverage of intervals and error rates of tests in simulated studies with known parameters.

    python -m analysis.planning.coverage [--studies 1000] [--seed 0] [--workers 1] [--small]

prints the two tables of docs/analysis.md: for designs with participants and items that vary, how
often 95 % intervals contain the true value, how often a true null hypothesis is rejected at 5 %,
and the power beside the prediction of the planner (`analysis.planning.power`); and for small and
unbalanced designs, how often there is an interval, and the same of those that there are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.planning.designs import Design, as_frame, simulate
from analysis.planning.power import Plan, rejections
from analysis.statistics.contrasts import ClusterContrasts
from analysis.statistics.crossed_effects import CrossedContrasts, CrossedEffects, fit_conditions
from analysis.statistics.estimate import size
from analysis.statistics.shares import ClusteredShares, ExactBinomial
from analysis.statistics.statistic import Estimates


def _clustered(frame: pd.DataFrame, chance: float) -> Estimates:
    return ClusteredShares(chance)(frame) | ClusterContrasts()(frame)


def _crossed(frame: pd.DataFrame, chance: float) -> Estimates:
    model = fit_conditions(frame)
    return CrossedEffects(chance).of(model, frame) | CrossedContrasts().of(model, frame)


#: Estimates that are tests, with a p-value or without one for want of answers.
TESTED = ("accuracy", "risk difference")
#: Method -> (answers, chance) -> shares by condition, and contrasts by pair and measure.
METHODS: dict[str, Callable[[pd.DataFrame, float], Estimates]] = {
    "exact binomial": lambda frame, chance: ExactBinomial(chance)(frame),
    "cluster jackknife": _clustered,
    "crossed effects": _crossed,
}
#: The printed table takes a fifth of the studies for a method of which a fit takes long.
SLOW = ("crossed effects",)


def one_study(design: Design, methods: tuple[str, ...], seed: int) -> list[dict[str, object]]:
    """One row per interval: method, what, whether it holds the truth, whether its test rejects."""
    frame = as_frame(simulate(design, np.random.default_rng(seed)))
    conditional = dict(zip(design.accuracy, design.log_odds(), strict=True))
    rows: list[dict[str, object]] = []
    for method in methods:
        for key, estimate in METHODS[method](frame, design.chance).items():
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
                    "given": not np.isnan(estimate.low),
                    "covered": estimate.low <= truth <= estimate.high,
                    "rejected": bool(estimate.p < size(estimate.level)),
                    "tested": estimate.test != "" or what in TESTED,
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
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="small designs only, where it has any")
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
        method, what, null (whether the null hypothesis is true), intervals (how many), given (share
        that could be given), coverage (of these), rejected (share of tests with p < .05, those
        that could not be made among them; false positives where null, power elsewhere), width and
        bias (means).
    """
    results = over_seeds(partial(one_study, design, methods), studies, seed, workers)
    rows = pd.DataFrame([row for result in results for row in result])
    rows["rejected"] = rows["rejected"].where(rows["tested"])
    rows["covered"] = rows["covered"].where(rows["given"])
    table = rows.groupby(["method", "what", "null"], sort=False).agg(
        intervals=("given", "size"),
        given=("given", "mean"),
        coverage=("covered", "mean"),
        rejected=("rejected", "mean"),
        width=("width", "mean"),
        bias=("error", "mean"),
    )
    return table.reset_index()


#: The designs of the printed table. Two conditions keep Holm's correction out of false positives.
DESIGNS = {
    "size of the published study": Design(
        {"a": 0.5, "b": 0.5}, participants=260, items=15, answered=8
    ),
    "chance": Design({"a": 1 / 6, "b": 1 / 6}),
    "few and varied": Design(
        {"a": 0.5, "b": 0.65}, participants=40, items=10, sd_participant=0.8, sd_item=1.0
    ),
    "planned for 80 %": Design({"a": 0.45, "b": 0.61}, participants=100, items=16),
    "pure guessing": Design({"a": 1 / 6, "b": 1 / 6}, sd_participant=0, sd_item=0),
    "effects of conditions vary between participants": Design(
        {"a": 0.5, "b": 0.5}, participants=120, items=10, sd_item=0.3, sd_condition=0.5
    ),
}


def _small(accuracy: float = 0.5, **parameters: Any) -> Design:
    """Two conditions alike, tested against their true share: every rejection is false."""
    return Design({"a": accuracy, "b": accuracy}, chance=accuracy, **parameters)


#: Small and unbalanced designs, for the estimator of the claims, the cluster jackknife.
SMALL = {
    "2 participants, 8 trials": _small(participants=2, items=8),
    "3 participants, 8 trials": _small(participants=3, items=8),
    "4 participants, 8 trials": _small(participants=4, items=8),
    "6 participants, 8 trials": _small(participants=6, items=8),
    "10 participants, 8 trials": _small(participants=10, items=8),
    "10 participants, 2 trials": _small(participants=10, items=2),
    "10 participants, 3 trials": _small(participants=10, items=3),
    "10 participants, 4 trials": _small(participants=10, items=4),
    "60 participants, 4 trials": _small(participants=60, items=4),
    "60 participants, 16 trials, each answers 1": _small(participants=60, items=16, answered=1),
    "60 participants, 16 trials, each answers 4": _small(participants=60, items=16, answered=4),
    "3 of 60 participants in one condition": _small(items=16, answering={"b": 3}),
    "4 of 60 participants in one condition": _small(items=16, answering={"b": 4}),
    "6 of 60 participants in one condition, differing widely": _small(
        items=16, answering={"b": 6}, sd_participant=1.2, sd_item=0.3
    ),
    # The designs in which the procedure did worst while it was being chosen.
    **{
        f"{n} of 60 participants in one condition, differing widely; true accuracy 1/6": _small(
            1 / 6, items=16, answering={"b": n}, sd_participant=1.2, sd_item=0.3
        )
        for n in (4, 5, 8)
    },
    "60 participants, 8 trials; true accuracy 1/6": _small(1 / 6, participants=60, items=8),
    "60 participants, 4 trials; true accuracy 1/6": _small(1 / 6, participants=60, items=4),
    "24 participants, half of whom leave early": _small(participants=24, items=12, dropout=0.5),
    "20 participants; true accuracy 97 %": _small(0.97, participants=20, items=8),
    "20 participants; true accuracy 3 %": _small(0.03, participants=20, items=8),
    "20 participants; true accuracy 99.8 %": _small(0.998, participants=20, items=8),
    "10 guessing participants, 8 trials": _small(
        1 / 6, participants=10, items=8, sd_participant=0, sd_item=0
    ),
}


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f} %"


def as_markdown(tables: dict[str, pd.DataFrame]) -> str:
    """Tables of `measure` by design, as docs/analysis.md shows them; power is in brackets."""
    head = ("design", "method", "accuracy: given", "coverage", "rejected", "difference: given",
            "coverage", "rejected")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, table in tables.items():
        for method, rows in table.groupby("method", sort=False):
            by_what = rows.set_index("what")
            cells = [name, str(method)]
            for what in ("accuracy", "risk difference"):
                if what not in by_what.index and what != "accuracy":
                    what = "odds ratio"  # of the crossed model
                if what not in by_what.index:
                    cells += ["–"] * 3
                    continue
                row = by_what.loc[what]
                rejected = _percent(row["rejected"])
                shown = rejected if row["null"] else f"({rejected})"
                cells += [_percent(row["given"]), _percent(row["coverage"]), shown]
            lines.append("| " + " | ".join(cells) + " |")
            name = ""
    return "\n".join(lines)


def main() -> None:
    given = arguments(__doc__)
    if not given.small:
        tables = {}
        for name, design in DESIGNS.items():
            parts = [
                measure(design, given.studies // 5 if method in SLOW else given.studies,
                        (method,), given.seed, given.workers)
                for method in METHODS
            ]  # fmt: skip
            tables[name] = pd.concat(parts, ignore_index=True)
            if len(set(design.accuracy.values())) > 1:
                promised = rejections(Plan(design), given.studies, given.seed + 1)
                print(f"{name}, planner:", promised.to_string(index=False, header=False))
        print(as_markdown(tables), end="\n\n", flush=True)
    methods = ("cluster jackknife",)
    print(as_markdown({
        name: measure(design, given.studies, methods, given.seed, given.workers)
        for name, design in SMALL.items()
    }))  # fmt: skip


if __name__ == "__main__":
    main()
