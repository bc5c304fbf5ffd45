"""The tables of a study, one registered function each; None if there is nothing to show."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.phrases import as_words
from analysis.exhibits.tables import P_VALUE, Formats, Table
from analysis.statistics.claims import is_control
from analysis.statistics.shares import AS_TRIALS
from analysis.study import thresholds as other_rules
from analysis.study.analysed_study import stack
from analysis.study.association import name_measure
from analysis.study.controls import control_outcome, failed_controls, lowest_claimed_accuracy
from analysis.study.planned_tests import crossed_contrasts
from analysis.study.responses import SOURCE_NOTES
from analysis.study.results import Results
from analysis.study.sentences import claim_rule, hypothesis

#: Tables and figures in which no participant's answer enters: their title names no source.
FROM_NETWORKS = {"reversion_published", "reversion"}

SHARE, SIGNED, POINTS, P = "{:.2f}", "{:+.2f}", "{:+.1%}", P_VALUE
ESTIMATE = ["value", "low", "high"]
#: Columns of names of the program.
NAMES: Formats = dict.fromkeys(["condition", "first", "second", "what", "evidence"], name_measure)
#: Formats of estimates, of p-values and of these names.
FORMATS: dict[str, Any] = {**dict.fromkeys(ESTIMATE, SHARE), "p": P, **NAMES}
#: Description of p-values in every caption.
CORRECTED = "adjusted p (weighted Holm procedure over all planned tests and control tests)"
#: Column -> heading for readers, where these differ.
HEADINGS = {
    "answers": "responses",
    "asked": "scale",
    "evidence": "network measure",
    "moved": "group by displacement",
    "p": "adjusted p",
    "p unadjusted": "unadjusted p",
    "what": "condition or contrast",
}


def study_tables(results: Results) -> dict[str, Table]:
    """Return all tables of the study by name, and those of the run."""
    tables = {
        name: replace(table, headings=HEADINGS | dict(table.headings))
        for name, table in shelf.tables_of("study", results).items()
    }
    return tables | {table.name: table for table in results.from_run}


def mark_source(table: Table, results: Results) -> Table:
    """Return a table for separate use: its title says whether its responses are simulated."""
    of_networks = table.name in FROM_NETWORKS | {t.name for t in results.from_run}
    return table if of_networks else replace(table, title=table.title + source_note(results))


def source_note(results: Results) -> str:
    """Return what a title adds if the responses are not those of participants."""
    return SOURCE_NOTES[results.responses.source]


@shelf.table("study", "people")
def flow(results: Results) -> Table:
    return Table(
        "flow",
        "Flow of participants and exclusions",
        "The frozen exclusion rules were applied in this order to the participants who finished; "
        "each is counted under the first rule that applied. One sided: the largest share of a "
        "participant's choices at one position on the screen. Arrived: all participants in the "
        "exported tables, which hold nobody who declined or for whom no place was free. "
        "Responses: to trials other than practice and attention trials. Not applicable: "
        "participants who finished, but whose data for the rule are missing or too few.",
        results.responses.flow,
    )


#: Kind of question -> the unit of its estimates.
UNITS = {
    "chance": "shares (chance)",
    "contrasts": "differences of shares (contrasts)",
    "learning": "change of the share per ten trials (learning)",
    "detection": "d′ (detection)",
    "ratings": "points of the scale (ratings)",
    "labels": "similarity (labels)",
    "associations": "ρ (associations)",
    "confidence": "for confidence the type-2 AUC, the probability that a correct response is given "
    "with more confidence than an incorrect one",
    "equivalence": "for equivalence those of the compared means",
}


@shelf.table("study", "tests")
def claims(results: Results) -> Table | None:
    if (tests := results.tests).empty:
        return None
    lowest, reason = lowest_claimed_accuracy(tests), tests["reason"]
    outcomes = [control_outcome(row.Index[0], row, lowest) or "–" for row in tests.itertuples()]
    claimed = np.where(tests["claimed"], "yes", np.where(tests["p"].isna(), "not tested", "no"))
    for failed in failed_controls(results):
        concerned = (tests["task"] == failed.task) & ~reason.str.contains(failed.note, regex=False)
        reason = reason.mask(concerned, (reason + "; " + failed.note).str.removeprefix("; "))
    is_primary = tests["question"] == results.plan.primary
    table = tests.assign(
        claimed=np.where(is_control(tests), outcomes, claimed),
        main=np.where(is_primary, "yes", "no"),
        question=tests["question"].str.rpartition(".")[2],
        reason=reason,
    )
    kinds = set(tests.index.get_level_values(0))
    units = "; ".join(text for kind, text in UNITS.items() if kind in kinds)
    units_text = f"Units: {units}. " if units else ""
    table = table[["claimed", "main", "task", "question", "what", *ESTIMATE, "null", "weight",
                   "p_alone", "p", "p_error", "reason"]]  # fmt: skip
    weights_text = "All tests have the same weight. "
    if results.plan.primary and not is_primary.all():
        weights_text = (
            f"{100 * results.plan.primary_share:g} % of α = .05 was allocated to the primary "
            f"hypothesis ({hypothesis(results)}). "
        )
    return Table(
        "claims",
        "All planned tests and control tests",
        "First column: whether an effect is claimed or, for control tests, the outcome by the rule "
        f"under Method (–: no criterion). Estimate with its unadjusted {results.level} "
        f"CI, and the value under the null hypothesis. {units_text}{weights_text}"
        "Weight: share of α of the test at the start; Holm's procedure passes the share of each "
        "rejected hypothesis on to the others. "
        f"{claim_rule(results.level)} Not tested: the test could not be computed (see note); its "
        f"weight is not redistributed. Permutation tests use {results.settings.permutations:,} "
        "permutations: the smallest unadjusted p is "
        f"{1 / (results.settings.permutations + 1):.1g}{_monte_carlo_note(tests)}."
        f"{_equivalence_note(results, tests)}",
        table.rename(columns={"p_alone": "p unadjusted", "null": "null value", "reason": "note"}),
        {**FORMATS, "null value": SHARE, "weight": "{:.4f}", "p unadjusted": P},
        hidden=("main", "p_error"),
        headings={"question": "test", "value": "estimate", "claimed": "outcome"},
    )  # fmt: skip


def _equivalence_note(results: Results, tests: pd.DataFrame) -> str:
    if not tests["question"].str.endswith(".equivalence").any():
        return ""
    return (
        f" Equivalence tests (two one-sided tests) show {200 * results.settings.level - 100:g} % "
        "CIs and have no single null value: equivalence is claimed if the interval lies within the "
        "smallest effect of interest."
    )


def _monte_carlo_note(tests: pd.DataFrame) -> str:
    """Return the Monte Carlo error of the p-values of permutation tests, to end a sentence."""
    largest = tests["p_error"].max()
    if pd.isna(largest):
        return ""
    return f", and the Monte Carlo standard error of p is at most {largest:.2g}"


#: Columns of the grid of thresholds that are no results.
RULE = ("rule", "threshold", "participants", "claimed")


@shelf.table("study", "people")
def thresholds(results: Results) -> Table | None:
    if not results.specifications["specification"].any():
        return None  # no rule was frozen, and none could be tried
    frame = other_rules.threshold_grid(results, results.specifications).rename(columns=as_words)
    return Table(
        "thresholds",
        "Primary hypothesis under other exclusion rules",
        "One rule is varied at a time and the others are as frozen, except in the row “no rule”. "
        + (
            "Claimed: number of tests of the primary hypothesis that are significant at the α "
            "allocated to it alone, without the α that Holm's procedure passes on from other "
            "significant tests. The next columns give the estimate of each test."
            if results.plan.primary
            else "No primary hypothesis was frozen; accuracy by condition is shown."
        ),
        frame,
        {name: SHARE for name in frame.columns if name not in RULE},
    )


@shelf.table("study", "accuracy")
def accuracy(results: Results) -> Table | None:
    if (chance_tests := results.tests_of("chance")).empty:
        return None
    answers = results.responses.answers
    keys = ["task", "condition"]
    sizes = answers.assign(task=answers["task"].map(results.name)).groupby(keys)
    sizes = sizes.agg(participants=("participant", "nunique"), trials=("trial", "nunique"))
    table = chance_tests[keys].join(sizes, on=keys)
    table = table.join(chance_tests[["n", "left_out", "null", *ESTIMATE, "p"]])
    table = table.rename(columns={"n": "responses", "value": "accuracy", "null": "chance"})
    for name in ("crossed", "binomial"):
        other_shares = results.other_shares[name].set_index(keys)[[*ESTIMATE, "p"]]
        table = table.join(_add_prefix(other_shares, name), on=keys)
    ends = [c for c in table.columns if c.split()[-1] in ("low", "high")]
    shares = ["chance", "accuracy", "crossed", "binomial", *ends]
    return Table(
        "accuracy",
        "Accuracy by condition",
        f"Share of correct responses with its unadjusted {results.level} CI and the test against "
        "chance, clustered by participants and trials (t test with Satterthwaite's degrees of "
        f"freedom); {CORRECTED}.{_exact_note(chance_tests)} Mixed model: logistic model with "
        "crossed random effects. "
        "Binomial: exact interval that treats responses as independent, which they are not; for "
        f"comparison only.{_fit_notes(results)}",
        table,
        FORMATS | dict.fromkeys(shares, SHARE),
        hidden=("left_out", "crossed p", "binomial p"),
        headings={"crossed": "mixed model"},
    )


def _exact_note(tests: pd.DataFrame) -> str:
    """Say for which conditions the clustered variance cannot be estimated, if there are any."""
    rows = tests[tests["reason"] == AS_TRIALS]
    names = "; ".join(f"{row.task}, {as_words(row.condition)}" for row in rows.itertuples())
    if not names:
        return ""
    return (
        f" In {names}, the variance cannot be estimated; the interval is Clopper–Pearson's and the "
        "test is the exact binomial test, with clusters as trials."
    )


def _add_prefix(estimates: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return estimates to stand beside others: `name` is their value, "name low" an end."""
    return estimates.rename(columns=lambda c: name if c == "value" else f"{name} {c}")


def _fit_notes(results: Results) -> str:
    """Return remarks on the fits of the crossed models, as a sentence of a caption."""
    table = results.other_shares["crossed"]
    notes = table[(table["reason"] != "") & table["low"].notna()]
    fit_texts = [f"“{r.task}” ({r.reason})" for r in notes.itertuples()]
    fit_list = "; ".join(dict.fromkeys(fit_texts))
    return f" Mixed models whose intervals may be too narrow: {fit_list}." if fit_texts else ""


@shelf.table("study", "contrasts")
def contrasts(results: Results) -> Table | None:
    if (table := results.tests_of("contrasts")).empty:
        return None
    keys = ["task", "first", "second"]
    risk = table[table["measure"] == "risk difference"][[*keys, *ESTIMATE, "p"]]
    risk = risk.rename(columns={"value": "difference"})
    for name, source in (("odds ratio", table), ("crossed", crossed_contrasts(results))):
        if len(source):
            odds = source[source["measure"] == "odds ratio"].set_index(keys)[ESTIMATE]
            risk = risk.join(_add_prefix(odds, name), on=keys)
    odds = [c for c in risk.columns if c.startswith(("odds", "crossed"))]
    odds_formats = dict.fromkeys(odds, lambda o: f"{o:.2f}" if o < 1000 else ">1000")
    sign_formats = dict.fromkeys(["difference", "low", "high"], POINTS)
    formats: Formats = {**sign_formats, **odds_formats, **NAMES, "p": P}
    return Table(
        "contrasts",
        "Differences between conditions",
        "Difference in accuracy (first minus second, percentage points) and marginal odds ratio, "
        f"clustered by participants and trials; conditional odds ratio (for a given participant "
        "and trial) from the mixed model with crossed random effects. All CIs are unadjusted "
        f"{results.level} CIs; {CORRECTED} of the difference.",
        risk,
        formats,
        headings={"crossed": "conditional odds ratio"},
    )


@shelf.table("study", "evolution")
def evolution(results: Results) -> Table | None:
    if (table := results.tests_of("detection")).empty:
        return None
    comparisons = table["signal"] + " against same stage"
    conditions = comparisons.where(table["signal"] != "", table["what"])
    table = table.assign(condition=conditions).rename(columns={"n": "responses"})
    table = table[["condition", "measure", "responses", "left_out", *ESTIMATE, "p"]]
    return Table(
        "evolution",
        "Sensitivity to concept evolution",
        "First: share of responses “It changed” by condition. Then: hit rate, false-alarm rate, "
        "sensitivity d′ and criterion for real evolutions and for false evolutions (stages of two "
        "neurons). False alarms are responses “It changed” in the condition same stage. For these "
        "rates .5 is added to each count and 1 to each total (log-linear correction), so that none "
        "is 0 or 1. They are pooled over participants; if some participants say “It changed” more "
        f"readily than others, this biases d′ towards 0. Unadjusted {results.level} CIs clustered "
        f"by participants and trials. Only d′ is tested; {CORRECTED}.",
        table,
        FORMATS,
        hidden=("left_out",),
    )


@shelf.table("study", "behaviour")
def behaviour(results: Results) -> Table:
    seconds = results.by_task(results.tasks, "time", ["condition"])
    seconds = seconds.assign(measure="response time (s)")
    parts = [results.tests_of("learning"), results.tests_of("confidence"), seconds]
    table = stack([part for part in parts if len(part)])
    table = table.reindex(columns=["task", "measure", "condition", "n", *ESTIMATE, "p"])
    return Table(
        "behaviour",
        "Learning, confidence and response times",
        "Learning: change in accuracy (share) per ten trials, within participants. Confidence: "
        "area under the type-2 ROC curve (type-2 AUC), the probability that a correct response "
        "was given with more confidence than an incorrect one by the same participant in the "
        "same condition (chance .5). Both exclude control conditions; “all conditions” means all "
        "except these. Response time: geometric mean. n: responses; for type-2 AUC, pairs of a "
        f"correct and an incorrect response. Unadjusted {results.level} CIs, clustered by "
        f"participants and, except for learning, by trials; {CORRECTED}.",
        table,
        FORMATS,
    )


def describe_scales(results: Results) -> str:
    """Return the questions of the ratings and the ends of their scales, in brackets."""
    study = results.responses.study
    scale_texts = []
    ids = {results.name(task): task for task in results.tasks}
    for task, name in results.tests_of("ratings")[["task", "asked"]].drop_duplicates().to_numpy():
        field, ends = study.fields(ids[task]).get(name), study.scale(ids[task], name)
        if field is not None and ends is not None:
            scale_texts.append(f"{name}: “{field.label}”, {ends[0]:g} to {ends[1]:g}")
    return f" ({'; '.join(scale_texts)})" if scale_texts else ""


@shelf.table("study", "naming")
def ratings(results: Results) -> Table | None:
    if (table := results.tests_of("ratings")).empty:
        return None
    table = table[["task", "asked", "what", "n", "left_out", *ESTIMATE, "p"]]
    return Table(
        "ratings",
        "Ratings by condition",
        f"Mean rating{describe_scales(results)}, then differences between means, with unadjusted "
        f"{results.level} CIs clustered by participants and trials. Only differences are tested; "
        f"{CORRECTED}.",
        table.rename(columns={"n": "responses"}),
        FORMATS,
        hidden=("left_out",),
    )


@shelf.table("study", "naming")
def labels(results: Results) -> Table | None:
    if (table := results.tests_of("labels")).empty:
        return None
    table = table[["task", "condition", "n", "left_out", *ESTIMATE, "effect", "p"]]
    return Table(
        "labels",
        "Similarity of labels of the same pictures",
        "Mean similarity of two participants' labels of the same pictures with its unadjusted "
        f"{results.level} CI over trials, and its difference from the mean after permuting "
        f"responses between trials of the condition; permutation test, {CORRECTED}. Left out: "
        "labels that are empty, or the only ones of their pictures. Similarity of two labels: "
        f"{results.similarity} (docs/analysis.md).",
        table.rename(columns={"n": "labels", "effect": "beyond"}),
        {**FORMATS, "beyond": SHARE},
        headings={"beyond": "difference from permuted"},
    )


@shelf.table("study", "trials")
def trials(results: Results) -> Table:
    table = results.answers.groupby(["task", "condition", "trial"]).agg(
        responses=("participant", "size"),
        accuracy=("correct", "mean"),
        seconds=("milliseconds", "mean"),
    )
    table = table.astype({"accuracy": float, "seconds": float})
    table = table.assign(seconds=table["seconds"] / 1000).rename(index=results.name, level="task")
    return Table(
        "trials",
        "All trials",
        "Number of responses, accuracy (trials with an answer key) and arithmetic mean of the "
        "measured response times in seconds.",
        table.reset_index(),
        {"accuracy": SHARE, "seconds": "{:.1f}", **NAMES},
    )
