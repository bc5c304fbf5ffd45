"""The tables of a study. One function each, registered; None where the study has nothing for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.tables import Formats, Table, p_value, spaced
from analysis.study import thresholds as other_rules
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
CORRECTED = "p corrected over all tests of the study (table “claims”)"


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
        "Exclusion rules as frozen with the study, applied in this order to those who finished; "
        "a participant counts under the first rule that applies. Answers are those of data trials. "
        "Not applicable: to how many who finished a rule could not be applied.",
        results.responses.flow,
    )


@shelf.table("study", "claims")
def claims(results: Results) -> Table | None:
    if results.claims.empty:
        return None
    tested = results.claims[results.claims["question"] != ""]
    table = tested[["task", "what", *ESTIMATE, "null", "weight", "p_alone", "p", "reason"]]
    table.insert(1, "question", tested["question"].str.rpartition(".")[2])
    table.insert(0, "claimed", tested["claimed"].map({True: "yes", False: "no"}))
    main = tested["question"] == results.plan.primary
    table.insert(1, "main", main.map({True: "yes", False: "no"}))
    share = f"{100 * results.plan.primary_share:g} % of the 5 %"
    said = "All tests weigh the same; "
    if results.plan.primary and not main.all():
        said = f"The main question, {results.plan.primary}, was frozen and holds {share}; "
    return Table(
        "claims",
        "Every test of the study",
        f"Value with its {results.level} interval, and what it is tested against. {said}weight "
        "is each test's part to begin with, and Holm's procedure hands on the weight of what is "
        "rejected. p: so corrected; a test is claimed where p < .05 and its interval leaves the "
        "tested value out. A dash: the test could not be made, for the reason under note, and "
        "keeps its weight. Question: as "
        "in study.toml; control: says whether the task works. Of studies of nothing, about 5 % "
        f"claim anything. Permutation tests: {results.settings.permutations:,} permutations.",
        table.rename(columns={"p_alone": "p alone", "null": "against", "reason": "note"}),
        {**dict.fromkeys([*ESTIMATE, "against"], SHARE), **NAMES, "weight": "{:.4f}",
         "p alone": P, "p": P},
        hidden=("main",),
    )  # fmt: skip


#: Columns of the grid of thresholds that are no results.
RULE = ("rule", "threshold", "participants", "claimed")


@shelf.table("study", "collected")
def thresholds(results: Results) -> Table:
    frame = other_rules.grid(results).rename(columns=spaced)
    return Table(
        "thresholds",
        "The main result under other exclusion thresholds",
        "One rule varied at a time, the others as frozen. "
        + (
            "Claimed: how many tests of the main question, as if no other test handed on its part. "
            "Then the value of each."
            if results.plan.primary
            else "Then shares of right answers; no main question was frozen."
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
    sizes = sizes.rename(columns={"participant": "people", "trial": "trials"})
    table = clustered[keys].merge(sizes, on=keys, how="left")
    table = table.join(clustered[["n", "left_out", "null", *ESTIMATE, "p"]])
    table = table.rename(columns={"n": "answers", "value": "right", "null": "chance"})
    for name in ("crossed", "binomial"):
        other = results.beside[name][[*keys, *ESTIMATE, "p"]]
        names = {c: f"{name} {c}" if c != "value" else name for c in [*ESTIMATE, "p"]}
        other = other.rename(columns=names)
        table = table.merge(other, on=keys, how="left")
    ends = [c for c in table.columns if c.split()[-1] in ("low", "high")]
    shares = ["chance", "right", "crossed", "binomial", *ends]
    return Table(
        "accuracy",
        "Right answers by condition",
        f"Share of right answers with its {results.level} interval and the p-value of chance, "
        "for other participants and other trials (two-way cluster bootstrap, t with "
        f"Satterthwaite's degrees of freedom); {CORRECTED}. Crossed: logistic model with "
        "crossed random effects. Binomial: exact, as if answers were independent, which they are "
        "not.",
        table,
        {**{c: SHARE for c in shares}, "p": P, **NAMES},
        hidden=("left_out", "crossed p", "binomial p"),
    )


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
        f"Difference of the shares of right answers (first less second), {results.level} "
        f"interval; {CORRECTED}; ratio of the odds with "
        "its interval. Participants and trials are clustered. Crossed: odds ratio of one person on "
        "one trial, by the model with crossed random effects.",
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
    table = table.rename(columns={"n": "answers", "signal": "condition"})
    return Table(
        "evolution",
        "Whether people see that a neuron changed",
        "Share judged changed by condition; then, of real evolutions and of false ones (two "
        "neurons joined), against the same stage shown twice: hit rate, false-alarm rate, "
        f"sensitivity d′ and criterion (log-linear rule, all people as one, which draws d′ towards "
        f"0 where they differ in criterion). All with {results.level} intervals, "
        f"participants and trials clustered; of d′, {CORRECTED}.",
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
        "Judged changed, by how far the neuron moved in the semantic space",
        "Real evolutions in thirds of their displacement (1 − similarity); share judged changed "
        f"with its {results.level} interval.",
        table.rename(columns={"n": "answers"}),
        {c: SHARE for c in ["displacement", *ESTIMATE]},
    )


@shelf.table("study", "behaviour")
def behaviour(results: Results) -> Table:
    seconds = results.seconds
    if len(seconds):
        seconds = seconds.assign(measure="seconds per answer")
    parts = [results.tested("learning"), results.tested("confidence"), seconds]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    table = table.reindex(columns=["task", "measure", "condition", "n", *ESTIMATE, "p"])
    return Table(
        "behaviour",
        "How people answered",
        "Learning: change of the share of right answers per ten trials, within participants. "
        "Type-2 area: probability that a right answer was given with more confidence than a wrong "
        "one by the same person in the same condition (.5 is no insight; n: such pairs). Both "
        "without control conditions. Seconds: geometric mean. "
        f"{results.level} intervals; {CORRECTED}.",
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
        "Right answers by confidence",
        f"Share of right answers at each level of confidence, {results.level} interval; without "
        "control conditions.",
        table.rename(columns={"n": "answers"}),
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
        "1 is perfect, 0 is what chance gives; n values in trials answered twice or more. "
        f"{results.level} bootstrap intervals over trials.",
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
        "Quality of participants, by Dawid and Skene",
        "Accuracy of participants against the classes that their joint answers make likeliest, "
        "and how often these differ from the raw majority.",
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
        "Mean rating (from 1 to 4: how clearly six neurons show one concept; how clearly a change "
        f"is seen or not), then differences of means, with {results.level} intervals, "
        f"participants and trials clustered; of differences, {CORRECTED}.",
        table.rename(columns={"n": "answers"}),
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
        "Whether people give the same neuron the same name",
        "Mean similarity of two people's labels of the same pictures "
        f"({results.similarity}), {results.level} interval over trials; beyond: less what "
        f"is left when answers move to other trials of the condition; by permutation, {CORRECTED}.",
        table.rename(columns={"n": "labels", "effect": "beyond"}),
        {**{c: SHARE for c in [*ESTIMATE, "beyond"]}, "p": P, **NAMES},
    )


@shelf.table("study", "limits")
def trials(results: Results) -> Table:
    answers = results.responses.answers
    keys = ["task", "condition", "trial"]
    table = answers.groupby(keys).agg(
        answers=("participant", "size"), right=("correct", "mean"), seconds=("milliseconds", "mean")
    )
    table = table.astype(float).assign(seconds=table["seconds"].astype(float) / 1000)
    table["answers"] = table["answers"].astype(int)
    table = table.rename(index=results.name, level="task")
    return Table(
        "trials",
        "Every trial",
        "Answers, share right (where there is a key) and mean time.",
        table.reset_index(),
        {"right": SHARE, "seconds": "{:.1f}", **NAMES},
    )


@shelf.table("study", "association")
def associations(results: Results) -> Table | None:
    table = results.tested("associations")
    if table.empty or results.meeting is None:
        return None
    table = table[["task", "evidence", "n", "left_out", *ESTIMATE, "p"]]
    return Table(
        "associations",
        "People and networks over the same neurons",
        "Spearman's rank correlation over trials, conditions held constant, between the share of "
        "right answers (of “changed” for labelling) and: importance of the evolution to its class; "
        "signed change of accuracy when its bin is undone (drop); displacement in the semantic "
        "space; clarity of the trial to a machine observer. By permutation within conditions, as "
        f"if trials that share a neuron were independent; without control conditions; {CORRECTED}.",
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
        right=trials_["trial"].map(people),
    )
    grouped = trials_.groupby(["task", "condition"])
    table = grouped.agg(
        trials=("trial", "size"), people=("right", "mean"), observer=("observer_correct", "mean")
    )
    seen = trials_["observer_correct"] == 1
    for name, mask in (("people where it is right", seen), ("people where it is wrong", ~seen)):
        table[name] = trials_[mask].groupby(["task", "condition"])["right"].mean()
    return Table(
        "observer",
        "People beside a machine observer",
        "The observer answers from colour and edge statistics of the pictures, without any "
        "network. Share right over trials with a key.",
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
        "Change of accuracy when evolutions are undone, beside the published figures",
        "q1 holds the most important neurons. Ours: all layers of the run averaged, mean over "
        "classes. Published: train images, 100 classes, five runs, averaged over layers, as in the "
        "result files of the published repository; other networks and images, so compare the "
        "order of the bins, not the digits.",
        table,
        {c: SIGNED for c in columns[3:-1]} | {"before": SHARE},
    )
