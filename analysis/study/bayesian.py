"""The Bayesian hierarchical model, beside the frequentist analysis, if the study froze it."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.phrases import as_words
from analysis.exhibits.tables import Table
from analysis.statistics.bayesian import Posterior, Prior, can_sample, sample
from analysis.study.results import Results

#: A posterior is used where R̂ is below, and the effective sample size above.
RHAT, ESS = 1.05, 100


@shelf.table("study", "accuracy")
def bayesian(results: Results) -> Table | None:
    plan = results.plan
    if not plan.bayesian or not can_sample() or not results.choice_tasks:
        return None
    prior = Prior(plan.prior_effect, plan.prior_spread)
    rows = []
    for task in results.choice_tasks:
        answers = results.answers_of(task).dropna(subset=["correct"])
        posterior = sample(answers, prior, results.settings.seed)
        levels = results.responses.study.chance(task)
        rows += [
            {"task": results.name(task), "participants": answers["participant"].nunique(),
             "trials": answers["trial"].nunique(), "responses": len(answers), **row,
             "R̂": round(posterior.rhat, 3), "ESS": round(posterior.ess, 0),
             "divergences": posterior.divergences}
            for row in _rows(posterior, levels, plan.smallest_effect, results.settings.level)
        ]  # fmt: skip
    frame = pd.DataFrame(rows)
    if not plan.smallest_effect:
        frame = frame.drop(columns="P(within smallest effect)")
    return Table(
        "bayesian",
        "Bayesian hierarchical model",
        "Posterior mean of the share of correct responses by condition, then of differences of "
        f"shares, with the equal-tailed {results.level} credible interval; probability that the "
        "share is above chance, or the difference above 0"
        + f", and that the difference is smaller than {plan.smallest_effect:g} either way"
        * bool(plan.smallest_effect)
        + ". Logistic model with random effects of participants, of participants within conditions "
        f"and of trials; prior as frozen: log odds Normal(0, {prior.effect:g}), standard "
        f"deviations half-normal({prior.standard_deviation:g}). NUTS; R̂ and effective sample size "
        "(ESS) are those of the worst parameter. It is reported in addition to the planned tests; "
        "no claim is based on it.",
        frame,
        {**dict.fromkeys(["value", "low", "high", *frame.filter(like="P("), "R̂"], "{:.3f}"),
         "ESS": "{:.0f}", "what": as_words},
    )  # fmt: skip


def _rows(
    posterior: Posterior, chance: Mapping[str, float], smallest: float, level: float
) -> list[dict[str, Any]]:
    shares = posterior.shares
    tail = (1 - level) / 2

    def row(what: str, draws: np.ndarray, null: float, within: float) -> dict[str, Any]:
        low, high = np.quantile(draws, [tail, 1 - tail])
        return {
            "what": what, "value": round(float(draws.mean()), 4), "low": round(float(low), 4),
            "high": round(float(high), 4), "P(above chance or 0)": float((draws > null).mean()),
            "P(within smallest effect)": within,
        }  # fmt: skip

    names = posterior.names
    rows = [row(name, shares[:, k], chance[name], np.nan) for k, name in enumerate(names)]
    for a, b in combinations(range(len(names)), 2):
        difference = shares[:, a] - shares[:, b]
        within = float((np.abs(difference) < smallest).mean())
        rows.append(row(f"{names[a]} − {names[b]}", difference, 0.0, within))
    return rows


@shelf.sentences("study", "accuracy", "bayesian")
def bayesian_findings(results: Results, tables: Mapping[str, Table]) -> list[str]:
    if not results.plan.bayesian:
        return []
    if "bayesian" not in tables:
        reason = "no task has responses with a key"
        if not can_sample():
            reason = "numpyro is not installed (extra `bayes`)"
        return [
            "The frozen plan asks for the Bayesian hierarchical model, which was not computed: "
            f"{reason}."
        ]
    frame = tables["bayesian"].frame
    unconverged = frame[~((frame["R̂"] < RHAT) & (frame["ESS"] >= ESS))]
    if len(unconverged):
        return [
            "The Bayesian model did not converge in "
            f"{', '.join(dict.fromkeys(unconverged['task']))} (R̂ up to {frame['R̂'].max():.2f}, "
            f"ESS down to {frame['ESS'].min():.0f}): do not use its numbers."
        ]
    return [
        f"In the Bayesian hierarchical model of {row.task}, the posterior mean of "
        f"{as_words(row.what)} is {row.value:.3f} "
        f"({results.level} credible interval [{row.low:.3f}, {row.high:.3f}])."
        for row in frame.itertuples()
        if " − " not in row.what
    ]
