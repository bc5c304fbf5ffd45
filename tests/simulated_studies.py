"""Coverage of intervals and error rates of tests in simulated studies with known parameters.

    python -m tests.simulated_studies [--studies 1000] [--seed 0] [--workers 1] [--small]

prints the three tables of docs/simulations.md: how often 95 % intervals contain the true value, how
often a true null hypothesis is rejected at α = 5 %, and the power, with the prediction of the
planner (`analysis.planning.power`); for small and unbalanced designs, and for d′, also how often an
interval can be estimated. Each number has its Monte Carlo standard error.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from analysis.exhibits.tables import markdown_table
from analysis.planning.designs import Design, as_frame, simulate
from analysis.planning.power import Plan, rejections
from analysis.statistics.behaviour import Detection
from analysis.statistics.contrasts import ClusterContrasts
from analysis.statistics.crossed_effects import CrossedContrasts, CrossedEffects, fit_conditions
from analysis.statistics.shares import ClusteredShares, ExactBinomial
from analysis.statistics.statistic import Estimates, alpha_of


def _estimate_clustered(frame: pd.DataFrame, chance: float) -> Estimates:
    return ClusteredShares(chance)(frame) | ClusterContrasts()(frame)


def _estimate_crossed(frame: pd.DataFrame, chance: float) -> Estimates:
    model = fit_conditions(frame)
    return CrossedEffects(chance).apply(model, frame) | CrossedContrasts().apply(model, frame)


def _detection(frame: pd.DataFrame, chance: float) -> Estimates:
    """Estimate d′ of the first condition (signal) against the second (noise), in alphabetical
    order; "correct" means judged as changed."""
    signal, noise = sorted(set(frame["condition"]))
    estimates = Detection(signal, noise)(frame.rename(columns={"correct": "changed"}))
    return {(signal, noise, "d′"): estimates["d′",]}


#: Estimates that are tested; without a p-value if there are too few responses.
TESTED = ("accuracy", "risk difference", "d′")
#: Method -> (responses, chance) -> shares by condition, and contrasts by pair and measure.
METHODS: dict[str, Callable[[pd.DataFrame, float], Estimates]] = {
    "exact binomial": lambda frame, chance: ExactBinomial(chance)(frame),
    "cluster jackknife": _estimate_clustered,
    "crossed effects": _estimate_crossed,
    "d′": _detection,
}


def simulate_study(design: Design, methods: tuple[str, ...], seed: int) -> list[dict[str, object]]:
    """Simulate and analyse one study.

    Returns:
        one row per estimate: study (the seed), method, what, null (whether its null hypothesis is
        true), given (whether there is an interval), covered (whether it contains the true value),
        rejected, tested, width (of the interval) and error (estimate minus true value).
    """
    frame = as_frame(simulate(design, np.random.default_rng(seed)))
    logits = dict(zip(design.accuracy, design.log_odds(), strict=True))
    rows: list[dict[str, object]] = []
    for method in methods:
        for key, estimate in METHODS[method](frame, design.chance).items():
            shares = [design.accuracy[name] for name in key[:2]]
            measure_name, is_null = key[-1], len(set(shares)) == 1
            if len(key) == 1:
                measure_name, is_null = "accuracy", bool(np.isclose(shares[0], design.chance))
                truth = shares[0]
            elif measure_name == "risk difference":
                truth = shares[0] - shares[1]
            elif measure_name == "d′":
                truth = float(norm.ppf(shares[0]) - norm.ppf(shares[1]))
            elif method == "crossed effects":
                truth = float(np.exp(logits[key[0]] - logits[key[1]]))
            else:
                truth = shares[0] / (1 - shares[0]) * (1 - shares[1]) / shares[1]
            rows.append(
                {"study": seed, "method": method, "what": measure_name, "null": is_null,
                 "given": not np.isnan(estimate.low),
                 "covered": estimate.low <= truth <= estimate.high,
                 "rejected": bool(estimate.p < alpha_of(estimate.level)),
                 "tested": estimate.test != "" or measure_name in TESTED,
                 "width": estimate.high - estimate.low, "error": estimate.value - truth}
            )  # fmt: skip
    return rows


def run_seeds(
    job: Callable[[int], Any], studies: int, seed: int = 0, workers: int = 1
) -> list[Any]:
    """Run a job for one seed per study and return the results in order."""
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(studies)]
    if workers == 1:
        return [job(s) for s in seeds]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(job, seeds, chunksize=10))


def parse_arguments(description: str | None, studies: int = 1000) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--studies", type=int, default=studies)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="small designs only, where it has any")
    return parser.parse_args()


def measure(
    design: Design,
    studies: int,
    methods: tuple[str, ...],
    seed: int = 0,
    workers: int = 1,
) -> pd.DataFrame:
    """Simulate and analyse many studies.

    Returns:
        method, what, null (whether the null hypothesis is true), intervals (number of estimates),
        given (share of estimates with an interval), coverage (share of these intervals that contain
        the true value), rejected (share of tests with p < .05, where a test that could not be
        computed does not reject; false positives if null, power otherwise), coverage error and
        rejected error (Monte Carlo standard errors), width and bias (means).
    """
    results = run_seeds(partial(simulate_study, design, methods), studies, seed, workers)
    rows = pd.DataFrame([row for result in results for row in result])
    rows["rejected"] = rows["rejected"].where(rows["tested"])
    rows["covered"] = rows["covered"].where(rows["given"])
    groups = rows.groupby(["method", "what", "null"], sort=False)
    return pd.DataFrame(
        {
            "intervals": groups.size(),
            "given": groups["given"].mean(),
            "coverage": groups["covered"].mean(),
            "coverage error": groups[["study", "covered"]].apply(_clustered_error),
            "rejected": groups["rejected"].mean(),
            "rejected error": groups[["study", "rejected"]].apply(_clustered_error),
            "width": groups["width"].mean(),
            "bias": groups["error"].mean(),
        }
    ).reset_index()


def _clustered_error(rows: pd.DataFrame) -> float:
    """Compute the standard error of the mean of the second column; rows are clustered by study,
    because the intervals of one study are not independent."""
    values = rows.iloc[:, 1].astype(float)
    sums = (values - values.mean()).groupby(rows["study"]).sum()
    return float(np.linalg.norm(sums) / max(values.notna().sum(), 1))


#: The designs of the first table, with one contrast each, which Holm's procedure does not change.
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


def _null(accuracy: float = 0.5, **parameters: Any) -> Design:
    """Return a design of two conditions whose accuracy is chance: every rejection is false."""
    return Design({"a": accuracy, "b": accuracy}, chance=accuracy, **parameters)


#: Small and unbalanced designs for the cluster jackknife, on which claims are based.
SMALL = {
    **{
        f"{n} participants, {items} trials": _null(participants=n, items=items)
        for items, numbers in ((8, (2, 3, 4, 6, 10)), (2, (10,)), (3, (10,)), (4, (10, 60)))
        for n in numbers
    },
    **{
        f"60 participants, 16 trials, each answers {n}": _null(items=16, answered=n) for n in (1, 4)
    },
    **{
        f"{n} of 60 participants in one condition": _null(items=16, answering={"b": n})
        for n in (3, 4)
    },
    "6 of 60 participants in one condition, differing widely": _null(
        items=16, answering={"b": 6}, sd_participant=1.2, sd_item=0.3
    ),
    # The designs with the most false positives among those tried when the method was chosen.
    **{
        f"{n} of 60 participants in one condition, differing widely; true accuracy 1/6": _null(
            1 / 6, items=16, answering={"b": n}, sd_participant=1.2, sd_item=0.3
        )
        for n in (4, 5, 8)
    },
    "60 participants, 8 trials; true accuracy 1/6": _null(1 / 6, participants=60, items=8),
    "60 participants, 4 trials; true accuracy 1/6": _null(1 / 6, participants=60, items=4),
    "24 participants, half of whom leave early": _null(participants=24, items=12, dropout=0.5),
    "20 participants; true accuracy 97 %": _null(0.97, participants=20, items=8),
    "20 participants; true accuracy 3 %": _null(0.03, participants=20, items=8),
    "20 participants; true accuracy 99.8 %": _null(0.998, participants=20, items=8),
    "10 guessing participants, 8 trials": _null(
        1 / 6, participants=10, items=8, sd_participant=0, sd_item=0
    ),
}


#: Yes–no judgements, tested by d′: small and large studies, rates of 1/2 and near 0 and 1.
RATES = {
    f"{participants} participants, {items} trials per condition; hits {hits:g}, "
    f"false alarms {alarms:g}": Design(
        {"signal": hits, "unchanged": alarms}, participants=participants, items=items
    )
    for participants, items in ((20, 8), (60, 8), (120, 24))
    for hits, alarms in ((0.5, 0.5), (0.9, 0.1), (0.97, 0.03), (0.97, 0.97), (0.03, 0.03))
}


def _format_percent(value: float, error: float = 0.0) -> str:
    """Format a share and its standard error (0 if unknown); "–" for NaN."""
    if np.isnan(value):
        return "–"
    return f"{100 * value:.1f}{f' ± {100 * error:.1f}' if error else ''} %"


def as_markdown(
    tables: dict[str, pd.DataFrame], measures: tuple[str, ...] = ("accuracy", "risk difference")
) -> str:
    """Format the results of `measure` by design as a Markdown table, with power in brackets.

    There is a column for the method only if there are several, and for the share of estimates with
    an interval only if it is not always 1.
    """
    all_given = all((table["given"] == 1).all() for table in tables.values())
    columns = ("coverage", "rejected") if all_given else ("given", "coverage", "rejected")
    has_methods = len({method for table in tables.values() for method in table["method"]}) > 1
    names = ["design"] + ["method"] * has_methods
    head = names + [f"{measure_name}: {name}" for measure_name in measures for name in columns]
    lines = []
    for name, table in tables.items():
        for method, rows in table.groupby("method", sort=False):
            row_by_measure = rows.set_index("what")
            cells = [name, str(method)][: len(names)]
            for measure_name in measures:
                if measure_name not in row_by_measure.index and measure_name != "accuracy":
                    measure_name = "odds ratio"  # the crossed model has no risk difference
                if measure_name not in row_by_measure.index:
                    cells += ["–"] * len(columns)
                    continue
                row = row_by_measure.loc[measure_name]
                texts = {c: _format_percent(row[c], row.get(f"{c} error", 0.0)) for c in columns}
                if not row["null"]:
                    texts["rejected"] = f"({texts['rejected']})"
                cells += texts.values()
            lines.append(cells)
            name = ""
    return markdown_table(head, lines)


def main() -> None:
    options = parse_arguments(__doc__)

    def table(designs: dict[str, Design], *methods: str) -> dict[str, pd.DataFrame]:
        return {
            name: measure(design, options.studies, methods, options.seed, options.workers)
            for name, design in designs.items()
        }

    if not options.small:
        methods = ("exact binomial", "cluster jackknife", "crossed effects")
        print(as_markdown(table(DESIGNS, *methods)), end="\n\n", flush=True)
        for name, design in DESIGNS.items():
            if len(set(design.accuracy.values())) > 1:
                planned_power = rejections(Plan(design), options.studies, options.seed + 1)
                print(f"{name}, planner:", planned_power.to_string(index=False, header=False))
    print(as_markdown(table(SMALL, "cluster jackknife")), end="\n\n", flush=True)
    print(as_markdown(table(RATES, "d′"), ("d′",)))


if __name__ == "__main__":
    main()
