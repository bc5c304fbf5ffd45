"""The tables of a study. One function each, registered; None where the study has nothing for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.phrases import p_value, spaced
from analysis.exhibits.tables import Formats, Table
from analysis.study import thresholds as other_rules
from analysis.study.controls import failed_controls
from analysis.study.planned_tests import crossed_contrasts
from analysis.study.published import REVERSION
from analysis.study.responses import NOTES
from analysis.study.results import Results

#: Tables and figures in which no participant's answer enters: their title names no source.
FROM_NETWORKS = {"reversion_published", "reversion"}

SHARE, SIGNED, P = "{:.3f}", "{:+.3f}", p_value
ESTIMATE = ["value", "low", "high"]
#: Columns of names of the program.
NAMES: dict[str, Callable[[str], str]] = dict.fromkeys(
    ["condition", "first", "second", "what", "evidence"], spaced
)
#: How every caption speaks of p-values.
CORRECTED = "p adjusted over all tests of the study (table “claims”)"


def study_tables(results: Results) -> dict[str, Table]:
    """All tables by name; those made from simulated or pilot answers say so in their titles."""
    tables = {}
    for name, table in shelf.tables_of("study", results).items():
        note = "" if name in FROM_NETWORKS else source_note(results)
        tables[name] = replace(table, title=table.title + note)
    return tables | {table.name: table for table in results.from_run}


def source_note(results: Results) -> str:
    """What a title adds where the answers are no participants'."""
    return NOTES[results.responses.source]


@shelf.table("study", "collected")
def flow(results: Results) -> Table:
    return Table(
        "flow",
        "Participants from arrival to analysis",
        "Exclusion rules as frozen with the study, applied in this order to participants who "
        "finished; each is counted under the first rule that applies. Responses: to data trials. "
        "Not applicable: participants who finished but have no data for the rule.",
        results.responses.flow,
    )


@shelf.table("study", "claims")
def claims(results: Results) -> Table | None:
    if results.claims.empty:
        return None
    tested = results.claims[results.claims["question"] != ""]
    table = tested[
        ["task", "what", *ESTIMATE, "null", "weight", "p_alone", "p", "p_error", "reason"]
    ]
    table.insert(1, "question", tested["question"].str.rpartition(".")[2])
    table.insert(0, "claimed", tested["claimed"].map({True: "yes", False: "no"}))
    for failed in failed_controls(results):
        table["reason"] = [
            f"{reason}; {failed.note}".removeprefix("; ")
            if task == failed.task and failed.note not in reason
            else reason
            for task, reason in zip(table["task"], table["reason"], strict=True)
        ]
    main = tested["question"] == results.plan.primary
    table.insert(1, "main", main.map({True: "yes", False: "no"}))
    said = "All tests have the same weight. "
    if results.plan.primary and not main.all():
        said = (
            f"{100 * results.plan.primary_share:g} % of α = .05 was allocated to the primary "
            f"hypothesis ({results.plan.primary}). "
        )
    return Table(
        "claims",
        "All planned tests",
        f"Estimate with its unadjusted {results.level} CI, and the value under the null "
        f"hypothesis. {said}Weight: share of α before Holm's procedure redistributes that of "
        "rejected tests. Claimed: adjusted p < .05 and the interval excludes the null value. A "
        "dash: the test could not be computed, for the reason under note, and its weight is not "
        "redistributed. Control: the "
        "test shows only whether the task works. The family-wise error rate is 5 %: about one "
        "null study in twenty yields any claim. Permutation tests: "
        f"{results.settings.permutations:,} permutations, so the smallest p is "
        f"{p_value(1 / (results.settings.permutations + 1))}{_monte_carlo(tested)}."
        f"{_equivalence(tested)}",
        table.rename(columns={"p_alone": "p unadjusted", "null": "null value", "reason": "note"}),
        {**dict.fromkeys([*ESTIMATE, "null value"], SHARE), **NAMES, "weight": "{:.4f}",
         "p unadjusted": P, "p": P},
        hidden=("main", "p_error"),
    )  # fmt: skip


def _equivalence(tests: pd.DataFrame) -> str:
    """How rows of equivalence tests are read, where there are any."""
    if not tests["question"].str.endswith(".equivalence").any():
        return ""
    return (
        " Equivalence tests (two one-sided tests) show 90 % CIs and have no single null value: "
        "equivalence is claimed if the interval lies within the smallest effect of interest."
    )


def _monte_carlo(tests: pd.DataFrame) -> str:
    """The error of simulation of the p-values that permutations give, as the end of a sentence."""
    largest = tests["p_error"].max()
    return (
        ""
        if pd.isna(largest)
        else f" and the Monte Carlo standard error of p is at most {largest:.4f}"
    )


#: Columns of the grid of thresholds that are no results.
RULE = ("rule", "threshold", "participants", "claimed")


@shelf.table("study", "collected")
def thresholds(results: Results) -> Table:
    frame = other_rules.grid(results, results.specifications).rename(columns=spaced)
    return Table(
        "thresholds",
        "Primary estimates under other exclusion thresholds",
        "One rule is varied at a time; the others are as frozen. "
        + (
            "Claimed: significant tests of the primary hypothesis, without redistribution of α "
            "from other tests; then the estimate of each."
            if results.plan.primary
            else "No primary hypothesis was frozen; accuracy by condition is shown."
        ),
        frame,
        {name: SHARE for name in frame.columns if name not in RULE},
    )


@shelf.table("study", "accuracy")
def accuracy(results: Results) -> Table | None:
    clustered = results.tested("chance")
    if clustered.empty:
        return None
    answers = results.responses.answers
    keys = ["task", "condition"]
    sizes = answers.assign(task=answers["task"].map(results.name))
    sizes = sizes.groupby(keys)[["participant", "trial"]].nunique().reset_index()
    sizes = sizes.rename(columns={"participant": "participants", "trial": "trials"})
    table = clustered[keys].merge(sizes, on=keys, how="left")
    table = table.join(clustered[["n", "left_out", "null", *ESTIMATE, "p"]])
    table = table.rename(columns={"n": "responses", "value": "accuracy", "null": "chance"})
    for name in ("crossed", "binomial"):
        other = results.beside[name][[*keys, *ESTIMATE, "p"]]
        names = {c: f"{name} {c}" if c != "value" else name for c in [*ESTIMATE, "p"]}
        other = other.rename(columns=names)
        table = table.merge(other, on=keys, how="left")
    ends = [c for c in table.columns if c.split()[-1] in ("low", "high")]
    shares = ["chance", "accuracy", "crossed", "binomial", *ends]
    return Table(
        "accuracy",
        "Accuracy by condition",
        f"Share of correct responses with its {results.level} CI and the p-value of the test "
        "against chance, clustered by participants and trials (t with Satterthwaite's degrees of "
        f"freedom); {CORRECTED}. Crossed: logistic model with crossed random effects. Binomial: "
        "exact interval under independence, for comparison; responses are not independent."
        f"{_fits(results)}",
        table,
        {**{c: SHARE for c in shares}, "p": P, **NAMES},
        hidden=("left_out", "crossed p", "binomial p"),
    )


def _fits(results: Results) -> str:
    """What a reader must know of the crossed models' fits, as a sentence of a caption."""
    table = results.beside["crossed"]
    notes = table[(table["reason"] != "") & table["low"].notna()].drop_duplicates(
        ["task", "reason"]
    )
    said = [f"{row.task}, {row.reason}" for row in notes.itertuples()]
    return f" Crossed models: {'; '.join(said)}." if said else ""


def _ratio(odds: float) -> str:
    """Two decimals; beyond a thousand the digits say nothing."""
    return f"{odds:.2f}" if odds < 1000 else ">1000"


@shelf.table("study", "accuracy")
def contrasts(results: Results) -> Table | None:
    table = results.tested("contrasts")
    if table.empty:
        return None
    keys = ["task", "first", "second"]
    risk = table[table["measure"] == "risk difference"][[*keys, *ESTIMATE, "p"]]
    risk = risk.rename(columns={"value": "difference"})
    for name, source in (("odds ratio", table), ("crossed", crossed_contrasts(results))):
        if source.empty:
            continue
        odds = source[source["measure"] == "odds ratio"][[*keys, *ESTIMATE]]
        names = {c: f"{name} {c}" if c != "value" else name for c in ESTIMATE}
        risk = risk.merge(odds.rename(columns=names), on=keys, how="left")
    odds = [c for c in risk.columns if c.startswith(("odds", "crossed"))]
    signs = dict.fromkeys(["difference", "low", "high"], SIGNED)
    formats: Formats = {**signs, **dict.fromkeys(odds, _ratio), **NAMES, "p": P}
    return Table(
        "contrasts",
        "Differences between conditions",
        f"Difference in accuracy (first minus second) with its unadjusted {results.level} CI; "
        f"{CORRECTED}; odds ratio with its CI. Clustered by participants and trials. Crossed: odds "
        "ratio for one participant on one trial, from the model with crossed random effects.",
        risk,
        formats,
    )


@shelf.table("study", "evolution")
def evolution(results: Results) -> Table | None:
    table = results.tested("detection")
    if table.empty:
        return None
    conditions = table["signal"].where(table["signal"] != "", table["what"])
    table = table[["signal", "measure", "n", "left_out", *ESTIMATE, "p"]]
    table = table.assign(signal=conditions)
    table = table.rename(columns={"n": "responses", "signal": "condition"})
    return Table(
        "evolution",
        "Sensitivity to concept evolution",
        "Share judged changed by condition; then, for real and for false evolutions (two neurons "
        "presented as one) compared with the same stage shown twice: hit rate, false-alarm rate, "
        "sensitivity d′ and criterion (log-linear correction, pooled over participants, which "
        f"biases d′ towards 0 where their criteria differ). {results.level} CIs clustered by "
        f"participants and trials; for d′, {CORRECTED}.",
        table,
        {**{c: SHARE for c in ESTIMATE}, "p": P, **NAMES},
        hidden=("left_out",),
    )


@shelf.table("study", "evolution")
def displacement(results: Results) -> Table | None:
    if results.by_displacement.empty:
        return None
    table = results.by_displacement[["moved", "displacement", "n", *ESTIMATE]]
    return Table(
        "displacement",
        "Share judged changed by displacement in the semantic space",
        "Real evolutions in thirds of their displacement (1 − cosine similarity); share judged "
        f"changed with its {results.level} CI.",
        table.rename(columns={"n": "responses"}),
        {c: SHARE for c in ["displacement", *ESTIMATE]},
    )


@shelf.table("study", "behaviour")
def behaviour(results: Results) -> Table:
    seconds = results.seconds
    if len(seconds):
        seconds = seconds.assign(measure="seconds per response")
    parts = [results.tested("learning"), results.tested("confidence"), seconds]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    table = table.reindex(columns=["task", "measure", "condition", "n", *ESTIMATE, "p"])
    return Table(
        "behaviour",
        "Learning, confidence and response times",
        "Learning: change in accuracy per ten trials, within participants. Type-2 AUC: probability "
        "that a correct response was given with more confidence than an incorrect one by the same "
        "participant in the same condition (chance .5; n: such pairs). Both without control "
        f"conditions. Seconds: geometric mean. {results.level} CIs; {CORRECTED}.",
        table,
        {**{c: SHARE for c in ESTIMATE}, "p": P, **NAMES},
    )


@shelf.table("study", "behaviour")
def calibration(results: Results) -> Table | None:
    if results.calibration.empty:
        return None
    table = results.calibration[["task", "confidence", "n", *ESTIMATE]]
    return Table(
        "calibration",
        "Accuracy by confidence",
        f"Share of correct responses at each level of confidence, {results.level} CI; without "
        "control conditions.",
        table.rename(columns={"n": "responses"}),
        {c: SHARE for c in ESTIMATE},
    )


@shelf.table("study", "naming")
def agreement(results: Results) -> Table | None:
    if results.agreement.empty:
        return None
    table = results.agreement[
        ["task", "question", "condition", "measure", "n", "left_out", *ESTIMATE]
    ]
    return Table(
        "agreement",
        "Agreement between participants",
        "1: perfect agreement; 0: agreement expected by chance; n: responses to trials with two or "
        f"more responses. {results.level} bootstrap CIs over trials.",
        table,
        {**{c: SHARE for c in ESTIMATE}, **NAMES},
        hidden=("left_out",),
    )


@shelf.table("study", "naming")
def annotators(results: Results) -> Table | None:
    if results.annotators.empty:
        return None
    return Table(
        "annotators",
        "Accuracy of participants, by the model of Dawid and Skene",
        "Accuracy of participants against the most probable class of each trial given all "
        "responses, and how often that class differs from the majority.",
        results.annotators,
        {"mean accuracy": SHARE, "lowest": SHARE, "differs from majority": SHARE},
        hidden=("converged",),
    )


@shelf.table("study", "naming")
def ratings(results: Results) -> Table | None:
    table = results.tested("ratings")
    if table.empty:
        return None
    table = table[["task", "asked", "what", "n", "left_out", *ESTIMATE, "p"]]
    return Table(
        "ratings",
        "Ratings by condition",
        "Mean rating (scale from 1 to 4: how clearly six neurons show one concept; how clearly a "
        f"change is visible), then differences between means, with {results.level} CIs clustered "
        f"by participants and trials; for differences, {CORRECTED}.",
        table.rename(columns={"n": "responses"}),
        {**{c: "{:.2f}" for c in ESTIMATE}, "p": P, **NAMES},
        hidden=("left_out",),
    )


@shelf.table("study", "naming")
def labels(results: Results) -> Table | None:
    table = results.tested("labels")
    if table.empty:
        return None
    table = table[["task", "condition", "n", "left_out", *ESTIMATE, "effect", "p"]]
    return Table(
        "labels",
        "Similarity of labels of the same pictures",
        "Mean similarity of two participants' labels of the same pictures "
        f"({results.similarity}), {results.level} CI over trials; beyond: minus the mean after "
        f"permuting responses between trials of the condition; permutation test, {CORRECTED}.",
        table.rename(columns={"n": "labels", "effect": "beyond"}),
        {**{c: SHARE for c in [*ESTIMATE, "beyond"]}, "p": P, **NAMES},
    )


@shelf.table("study", "limits")
def trials(results: Results) -> Table:
    answers = results.responses.answers
    keys = ["task", "condition", "trial"]
    table = answers.groupby(keys).agg(
        responses=("participant", "size"),
        accuracy=("correct", "mean"),
        seconds=("milliseconds", "mean"),
    )
    table = table.astype(float).assign(seconds=table["seconds"].astype(float) / 1000)
    table["responses"] = table["responses"].astype(int)
    table = table.rename(index=results.name, level="task")
    return Table(
        "trials",
        "All trials",
        "Responses, accuracy (where there is a key) and mean response time.",
        table.reset_index(),
        {"accuracy": SHARE, "seconds": "{:.1f}", **NAMES},
    )


@shelf.table("study", "association")
def associations(results: Results) -> Table | None:
    table = results.tested("associations")
    if table.empty or results.meeting is None:
        return None
    table = table[["task", "evidence", "n", "left_out", *ESTIMATE, "p"]]
    return Table(
        "associations",
        "Association between human accuracy and neuron importance",
        "Partial rank correlation (Spearman) over trials, given the condition, between accuracy "
        "(share judged changed for labelling) and: importance of the evolution to its class; "
        "change in accuracy when its bin is reverted (drop); displacement in the semantic space; "
        "clarity of the trial to a machine observer. Permutation within conditions, which treats "
        "trials that share a neuron as independent; without control conditions; "
        f"{CORRECTED}.",
        table.rename(columns={"n": "trials"}),
        {**{c: SIGNED for c in ESTIMATE}, "p": P, **NAMES},
    )


@shelf.table("study", "association")
def observer(results: Results) -> Table | None:
    if results.meeting is None or results.meeting["observer_correct"].isna().all():
        return None
    answers = results.responses.answers
    people = answers.dropna(subset=["correct"]).groupby("trial")["correct"].mean().astype(float)
    trials_ = results.meeting.drop_duplicates("trial").dropna(subset=["observer_correct"])
    trials_ = trials_.assign(
        task=trials_["task"].map(results.name),
        accuracy=trials_["trial"].map(people),
    )
    grouped = trials_.groupby(["task", "condition"])
    table = grouped.agg(
        trials=("trial", "size"),
        participants=("accuracy", "mean"),
        observer=("observer_correct", "mean"),
    )
    seen = trials_["observer_correct"] == 1
    for name, mask in (("observer correct", seen), ("observer incorrect", ~seen)):
        table[f"participants, {name}"] = (
            trials_[mask].groupby(["task", "condition"])["accuracy"].mean()
        )
    return Table(
        "observer",
        "Accuracy of participants and of a machine observer",
        "The observer responds from colour and edge statistics of the pictures, without any "
        "network. Accuracy over trials with a key; then accuracy of participants on the trials in "
        "which the observer is correct or incorrect.",
        table.reset_index(),
        {**{c: SHARE for c in table.columns[1:]}, **NAMES},
    )


@shelf.table("study", "networks")
def reversion_published(results: Results) -> Table | None:
    if results.reversion is None or results.reversion.empty:
        return None
    keys = ["series", "epoch_from", "epoch_to"]
    columns = [*keys, "q1", "q2", "q3", "q4", "random", "matched", "before"]
    by_arm = results.reversion.set_index([*keys, "split", "arm"])[["before", "change"]].unstack()
    ours = by_arm["change"].assign(before=by_arm["before"].mean(axis=1)).reset_index()
    ours = ours.reindex(columns=["split", *columns]).assign(source="ours")
    theirs = REVERSION.reindex(columns=columns).assign(source="published", split="train")
    table = pd.concat([ours, theirs], ignore_index=True)
    table = table[["source", "split", *columns]]
    return Table(
        "reversion_published",
        "Change in accuracy when evolutions are reverted, and published results",
        "q1: the most important quarter of neurons. Ours: mean over layers and classes. Published: "
        "training images, 100 classes, five runs, mean over layers, from the result files of the "
        "published repository. Networks and images differ, so only the order of the quarters is "
        "comparable.",
        table,
        {c: SIGNED for c in columns[3:-1]} | {"before": SHARE},
    )
