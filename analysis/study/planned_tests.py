"""What is asked of a study's answers: one function a kind of question, each giving its tests.

Their p-values are for each test alone; `Results.claims` corrects all of them together.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.statistics.claims import CONTROL
from analysis.statistics.labels import LabelAgreement
from analysis.statistics.shares import Estimates, tabulate
from analysis.study.association import EVIDENCE, Associations
from analysis.study.results import STUDY_TESTS, Results, stacked


@STUDY_TESTS.add("chance")
def chance(results: Results) -> pd.DataFrame:
    """Share of right answers by condition against guessing."""
    frames = []
    for task in results.choice_tasks:
        levels = results.responses.study.chance(task)
        table = results.by_task(
            [task], "cluster_bootstrap", ["condition"], "chance", chance=levels, **results.sampled
        )
        control = table["condition"].isin(results.controls(task))
        table.loc[control, "question"] = f"{task}.{CONTROL}"
        frames.append(table.assign(null=table["condition"].map(levels)))
    table = stacked(frames)
    return table if table.empty else table.assign(what=table["condition"])


@STUDY_TESTS.add("contrasts")
def contrasts(results: Results) -> pd.DataFrame:
    """Differences of the share of right answers, and odds ratios beside them."""
    table = _differences(results, "cluster_contrasts", **results.sampled)
    if table.empty:
        return table
    ratio = table["measure"] == "odds ratio"  # the same claim on another scale
    return table.assign(null=0.0, question=table["question"].where(~ratio, ""))


def crossed_contrasts(results: Results) -> pd.DataFrame:
    """The odds ratios of the model with crossed random effects, to lay beside them."""
    return _differences(results, "crossed_contrasts")


def _differences(results: Results, statistic: str, **parameters) -> pd.DataFrame:
    """Contrasts of conditions within each task, with the reference where the task has it."""
    frames = []
    for task in results.choice_tasks:
        table = results.by_task(
            [task], statistic, ["first", "second", "measure"], "contrasts",
            reference=_reference(results, task), **parameters,
        )  # fmt: skip
        if len(table):
            frames.append(_pairs_of(table, task, results.controls(task)))
    return stacked(frames)


def _reference(results: Results, task: str) -> str | None:
    known = set(results.of(task)["condition"])
    return results.reference if results.reference in known else None


def _pairs_of(table: pd.DataFrame, task: str, controls: tuple[str, ...]) -> pd.DataFrame:
    """Pairs turned round where the first is a control and the second is not; `what` names them, and
    a pair of controls is a control."""
    turned = table["first"].isin(controls) & ~table["second"].isin([*controls, ""])
    old = table[turned]
    ratio = old["measure"] == "odds ratio" if "measure" in old else pd.Series(False, old.index)
    table = table.copy()
    for column, source in (("value", "value"), ("low", "high"), ("high", "low")):
        table.loc[turned, column] = np.where(ratio, 1 / old[source], -old[source])
    table.loc[turned, ["first", "second"]] = old[["second", "first"]].to_numpy()
    both = table["first"].isin(controls) & table["second"].isin(controls)
    table["question"] = table["question"].mask(both, f"{task}.{CONTROL}")
    pair = table["first"] + " − " + table["second"]
    return table.assign(what=pair.where(table["second"] != "", table["first"]))


@STUDY_TESTS.add("detection")
def detection(results: Results) -> pd.DataFrame:
    """Share judged changed by condition; then for real and for false evolutions, against unchanged
    stages, hit and false-alarm rate, d′ (tested) and criterion, under `measure` and `signal`."""
    task = "evolution_labelling"
    if task not in results.tasks:
        return pd.DataFrame()
    shares = results.by_task([task], "changed", ["what"])
    if shares.empty:
        return shares
    tables = [shares.assign(measure="judged changed", signal="")]
    for signal, kind in (("evolution", "detection"), ("false_evolution", CONTROL)):
        if {signal, "same_stage"} <= set(shares["what"]):
            table = results.by_task(
                [task], "detection", ["measure"], kind, signal=signal, noise="same_stage"
            )
            table = table.assign(
                question=table["question"].where(table["measure"] == "d′", ""),
                what=table["measure"] + ", " + signal, signal=signal,
            )  # fmt: skip
            tables.append(table)
    return pd.concat(tables, ignore_index=True).assign(null=0.0)


@STUDY_TESTS.add("ratings")
def ratings(results: Results) -> pd.DataFrame:
    """Mean ratings on scales by condition, then their differences (tested)."""
    frames = []
    for task in results.tasks:
        answers = results.of(task)
        for asked in ("rating", "clarity"):
            if answers[asked].isna().all():
                continue
            table = results.by_task(
                [task], "ratings", ["first", "second"], "ratings", value=asked,
                reference=_reference(results, task),
            )  # fmt: skip
            table = _pairs_of(table, task, results.controls(task)).assign(asked=asked, null=0.0)
            mean = table["second"] == ""
            frames.append(table.assign(question=table["question"].where(~mean, "")))
    return stacked(frames)


@STUDY_TESTS.add("labels")
def labels(results: Results) -> pd.DataFrame:
    """Agreement of labels of the same pictures, against answers shuffled within the condition."""
    statistic = LabelAgreement(
        results.similarity, results.settings.permutations, results.settings.replicates,
        results.settings.seed, results.settings.level,
    )  # fmt: skip
    found: Estimates = {}
    for task in results.tasks:
        table = results.labels_of(task)
        for condition, mine in table.groupby("condition"):
            kind = CONTROL if condition in results.controls(task) else "labels"
            found[(f"{task}.{kind}", results.name(task), str(condition))] = statistic(mine)
    if not found:
        return pd.DataFrame()
    table = tabulate(found, ["question", "task", "condition"])
    return table.assign(what=table["condition"], null=table["value"] - table["effect"])


@STUDY_TESTS.add("learning")
def learning(results: Results) -> pd.DataFrame:
    """Change of the share of right answers over the session, controls left out."""
    table = results.by_task(
        results.choice_tasks, "learning", ["condition"], "learning", controls=False
    )
    if table.empty:
        return table
    measure = "change of accuracy per 10 trials"
    return table.assign(measure=measure, what=table["condition"], null=0.0)


@STUDY_TESTS.add("confidence")
def confidence(results: Results) -> pd.DataFrame:
    """Whether people are surer where they are right, controls left out."""
    study = results.responses.study.study
    asked = [
        task
        for task in results.choice_tasks
        if study.confidence or results.of(task)["confidence"].notna().any()
    ]
    table = results.by_task(asked, "type_two", ["condition"], "confidence", controls=False)
    if table.empty:
        return table
    return table.assign(measure="confidence, type-2 area", what=table["condition"], null=0.5)


@STUDY_TESTS.add("associations")
def associations(results: Results) -> pd.DataFrame:
    """People against each piece of network evidence, over trials, controls left out.

    Without a run the tests stand there all the same, not made: whether one gives a run must not
    change what else may be claimed.
    """
    tasks = [t for t in results.tasks if t in results.choice_tasks or t == "evolution_labelling"]
    rows = pd.DataFrame(
        [(f"{t}.associations", results.name(t), t, e) for t in tasks for e in EVIDENCE],
        columns=["question", "task", "id", "what"],
    )
    if rows.empty:
        return rows
    found = pd.DataFrame(columns=["id", "what"])
    if results.meeting is not None:
        statistic = Associations(
            results.settings.permutations, results.settings.replicates, results.settings.seed,
            results.settings.level,
        )  # fmt: skip
        kept = [
            condition not in results.controls(task)
            for task, condition in results.meeting[["task", "condition"]].itertuples(index=False)
        ]
        found = tabulate(statistic(results.meeting[kept]), ["id", "what"])
    numbers = ["value", "low", "high", "n", "left_out", "p"]
    table = rows.merge(
        found.reindex(columns=["id", "what", *numbers]), on=["id", "what"], how="left"
    )
    table = table.astype(dict.fromkeys(numbers, float)).fillna({"n": 0, "left_out": 0})
    return table.astype({"n": int, "left_out": int}).assign(evidence=table["what"], null=0.0)
