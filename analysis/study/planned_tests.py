"""The planned tests of a study's responses: one function per kind of question.

p-values are unadjusted; `Results.claims` adjusts all of them together.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.exhibits.phrases import as_words
from analysis.statistics.claims import CONTROL
from analysis.statistics.labels import LabelAgreement
from analysis.statistics.statistic import FEWEST, STATISTICS, Estimate, Estimates, tabulate
from analysis.study.analysed_study import AnalysedStudy, stack
from analysis.study.association import EVIDENCE, Associations
from analysis.study.family import PLANNED, RULED_OUT, PlannedTest, TaskDesign, planned_tests
from harness.registry import Registry

#: Kind of question -> function(results) -> its table: question, task, what, value, low, high, null
#: (the tested value), p; question is "" in rows that describe and test nothing.
STUDY_TESTS: Registry[Callable[[AnalysedStudy], pd.DataFrame]] = Registry("kind of question")


PLANNED.add("chance")(lambda design: design.each() if design.choice else ())
PLANNED.add("contrasts")(lambda design: design.pairs() if design.choice else ())
PLANNED.add("labels")(
    lambda design: design.each(2) if any(f.startswith("label") for f in design.fields) else ()
)
PLANNED.add("learning")(lambda design: design.pooled_tests() if design.choice else ())
PLANNED.add("confidence")(
    lambda design: design.pooled_tests() if design.choice and design.confidence else ()
)


@STUDY_TESTS.add("chance")
def chance(results: AnalysedStudy) -> pd.DataFrame:
    """Test the share of correct responses against chance by condition."""
    frames = []
    for task in results.choice_tasks:
        levels = results.responses.study.chance(task)
        table = results.by_task([task], "cluster_bootstrap", ["condition"], "chance", chance=levels)
        control = table["condition"].isin(results.controls(task))
        table.loc[control, "question"] = f"{task}.{CONTROL}"
        frames.append(table.assign(null=table["condition"].map(levels), what=table["condition"]))
    return stack(frames)


@STUDY_TESTS.add("contrasts")
def contrasts(results: AnalysedStudy) -> pd.DataFrame:
    """Test differences of the share of correct responses, with odds ratios beside them."""
    if (table := _contrast_conditions(results, "cluster_contrasts")).empty:
        return table
    ratio = table["measure"] == "odds ratio"  # the same claim on another scale
    return table.assign(null=0.0, question=table["question"].where(~ratio, ""))


def crossed_contrasts(results: AnalysedStudy) -> pd.DataFrame:
    """Compute the odds ratios of the model with crossed random effects, for comparison."""
    return _contrast_conditions(results, "crossed_contrasts")


def _contrast_conditions(results: AnalysedStudy, statistic: str) -> pd.DataFrame:
    """Contrast the conditions of each task, with the reference if the task has it."""
    frames = []
    for task in results.choice_tasks:
        if not _has_reference_answers(results, task):
            continue
        names, reference = ["first", "second", "measure"], _task_reference(results, task)
        table = results.by_task([task], statistic, names, "contrasts", reference=reference)
        if len(table):
            frames.append(_order_pairs(table, task, results.controls(task)))
    return stack(frames)


def _task_reference(results: AnalysedStudy, task: str) -> str | None:
    """Return the reference condition if the frozen task has it, whether answered or not."""
    frozen_conditions = results.responses.study.conditions(task)
    return results.reference if results.reference in frozen_conditions else None


def _has_reference_answers(results: AnalysedStudy, task: str, asked: str = "correct") -> bool:
    answers, reference = results.answers_of(task), _task_reference(results, task)
    return reference is None or reference in set(answers.loc[answers[asked].notna(), "condition"])


def _order_pairs(table: pd.DataFrame, task: str, controls: tuple[str, ...]) -> pd.DataFrame:
    """Exchange the two conditions of a pair if only the first is a control; `what` names the
    pair, and a pair of two controls is a control."""
    swapped = table["first"].isin(controls) & ~table["second"].isin([*controls, ""])
    rows = table[swapped]
    ratio = rows["measure"] == "odds ratio" if "measure" in rows else pd.Series(False, rows.index)
    table = table.copy()
    for column, source in (("value", "value"), ("low", "high"), ("high", "low")):
        table.loc[swapped, column] = np.where(ratio, 1 / rows[source], -rows[source])
    table.loc[swapped, ["first", "second"]] = rows[["second", "first"]].to_numpy()
    both_controls = table["first"].isin(controls) & table["second"].isin(controls)
    table["question"] = table["question"].mask(both_controls, f"{task}.{CONTROL}")
    pair = table["first"] + " − " + table["second"]
    return table.assign(what=pair.where(table["second"] != "", table["first"]))


#: Condition with a real or false evolution -> whether it only checks that the task works.
SIGNALS = {"evolution": False, "false_evolution": True}


@PLANNED.add("detection")
def _planned_detection(design: TaskDesign) -> Iterator[PlannedTest]:
    for signal, control in SIGNALS.items():
        needs = (signal, "same_stage")
        if "changed" in design.fields and set(needs) <= set(design.conditions):
            reason = design.too_few(needs)
            yield PlannedTest(f"d′, {signal}", needs, control=control, ruled_out=reason)


@STUDY_TESTS.add("detection")
def detection(results: AnalysedStudy) -> pd.DataFrame:
    """Compute the share judged changed by condition and, for real and for false evolutions
    against unchanged stages, hit and false-alarm rate, d′ (tested) and criterion, under
    `measure` and `signal`.
    """
    task = "evolution_labelling"
    if task not in results.tasks:
        return pd.DataFrame()
    if (shares := results.by_task([task], "changed", ["what"])).empty:
        return shares
    tables = [shares.assign(measure="judged changed", signal="")]
    for signal, control in SIGNALS.items():
        kind = CONTROL if control else "detection"
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


#: Fields of tasks that are ratings on a scale.
SCALES = ("rating", "clarity")


@PLANNED.add("ratings")
def _planned_ratings(design: TaskDesign) -> Iterator[PlannedTest]:
    for asked in SCALES:
        if asked in design.fields:
            yield from design.pairs(asked)


@STUDY_TESTS.add("ratings")
def ratings(results: AnalysedStudy) -> pd.DataFrame:
    """Compute mean ratings by condition and test their differences."""
    frames = []
    for task in results.tasks:
        answers = results.answers_of(task)
        for asked in SCALES:
            if answers[asked].isna().all() or not _has_reference_answers(results, task, asked):
                continue
            table = results.by_task(
                [task], "ratings", ["first", "second"], "ratings", value=asked,
                reference=_task_reference(results, task),
                scale=results.responses.study.scale(task, asked),
            )  # fmt: skip
            table = _order_pairs(table, task, results.controls(task)).assign(asked=asked, null=0.0)
            mean = table["second"] == ""
            frames.append(table.assign(question=table["question"].where(~mean, "")))
    return stack(frames)


@STUDY_TESTS.add("labels")
def labels(results: AnalysedStudy) -> pd.DataFrame:
    """Test the similarity of labels of the same pictures, by permutations within conditions."""
    s = results.settings
    statistic = LabelAgreement(results.similarity, s.permutations, s.seed, s.level)
    estimates: Estimates = {}
    for task in results.tasks:
        table = results.labels_of(task)
        for condition, responses in table.groupby("condition"):
            kind = CONTROL if condition in results.controls(task) else "labels"
            estimates[(f"{task}.{kind}", results.name(task), str(condition))] = statistic(responses)
    if not estimates:
        return pd.DataFrame()
    table = tabulate(estimates, ["question", "task", "condition"])
    return table.assign(what=table["condition"], null=table["value"] - table["effect"])


@STUDY_TESTS.add("learning")
def learning(results: AnalysedStudy) -> pd.DataFrame:
    """Test the change of the share of correct responses over the session, without controls."""
    table = results.by_task(
        results.choice_tasks, "learning", ["condition"], "learning", controls=False
    )
    measure = "change of accuracy per 10 trials"
    return table.assign(measure=measure, what=table["condition"], null=0.0)


@STUDY_TESTS.add("confidence")
def confidence(results: AnalysedStudy) -> pd.DataFrame:
    """Test whether participants are more confident in correct responses, without controls."""
    study = results.responses.study.study
    tasks = [t for t in results.choice_tasks
             if study.confidence or results.answers_of(t)["confidence"].notna().any()]  # fmt: skip
    table = results.by_task(tasks, "type_two", ["condition"], "confidence", controls=False)
    return table.assign(measure="confidence, type-2 area", what=table["condition"], null=0.5)


@STUDY_TESTS.add("associations")
def associations(results: AnalysedStudy) -> pd.DataFrame:
    """Correlate participants' accuracy with each network measure, over trials, without controls.

    Without a run these tests are planned but not computed: whether a run is given must not change
    what else can be claimed.
    """
    study, s = results.responses.study, results.settings
    estimates, default = Estimates(), "no run was given"
    if (joined := results.joined_trials) is not None:
        mask = [c not in results.controls(t) for t, c in joined[["task", "condition"]].to_numpy()]
        statistic = Associations(s.permutations, s.replicates, s.seed, s.level)
        estimates, default = statistic(joined[mask]), "no answers to join with the run"
    rows: Estimates = {}
    for task in results.planned_tasks:
        is_rated = task in study.choice_tasks or task == "evolution_labelling"
        if is_rated and set(study.conditions(task)) - set(results.controls(task)):
            reason = _too_few_to_correlate(results, task) or default
            missing = Estimate(np.nan, level=s.level, reason=reason)
            for measure in EVIDENCE:
                key = (f"{task}.associations", results.name(task), measure)
                rows[key] = estimates.get((task, measure), missing)
    table = tabulate(rows, ["question", "task", "what"])
    return table.assign(evidence=table["what"], null=0.0) if rows else table


def _too_few_to_correlate(results: AnalysedStudy, task: str) -> str:
    """Explain why a task's frozen trials allow no correlation within conditions; "" if they do."""
    conditions = results.responses.study.trials_of(task)["condition"]
    trials = conditions[~conditions.isin(results.controls(task))].value_counts()
    if trials.sum() >= FEWEST and trials.max() > 1:
        return ""
    return f"{RULED_OUT}a correlation needs {FEWEST} trials, two of them of one condition"


@STUDY_TESTS.add("equivalence")
def equivalence(results: AnalysedStudy) -> pd.DataFrame:
    """Test each planned pair of conditions of interest, whoever answered; see `Equivalence`.

    Tests exist only if the study froze a smallest effect of interest (`[analysis] smallest_effect`,
    in shares of correct responses, and `smallest_rating`, in points of a rating). Pairs with a
    control condition are not tested, as controls are expected to differ.
    """
    plan = results.plan
    margins = {"contrasts": plan.smallest_effect, "ratings": plan.smallest_rating}
    rows = [
        _test_equivalence(results, task, test, margin)
        for kind, margin in margins.items()
        if margin > 0
        for task, test in planned_tests(results, kind)
        if not set(test.needs) & set(results.controls(task))
    ]
    return pd.DataFrame(rows)


def _test_equivalence(
    results: AnalysedStudy, task: str, test: PlannedTest, margin: float
) -> dict[str, Any]:
    """Return one planned pair with its estimate, or with the reason why there is none."""
    first, second = test.needs
    measure = test.asked or "correct"
    answers = results.answers_of(task)
    answers = answers[answers["condition"].isin([first, second])]
    description = {
        "question": f"{task}.equivalence", "task": results.name(task), "what": test.what,
        "asked": test.asked, "measured": measure, "margin": margin, "null": float("nan"),
        "participants": answers["participant"].nunique(), "trials": answers["trial"].nunique(),
    }  # fmt: skip
    answered_conditions = answers.loc[answers[measure].notna(), "condition"]
    missing = [name for name in (first, second) if name not in set(answered_conditions)]
    low, high = results.responses.study.scale(task, test.asked) or (0.0, 1.0)
    reason = f"no analysed responses of {', '.join(map(as_words, missing))}" if missing else ""
    if margin >= high - low:
        reason = f"{RULED_OUT}every difference on this scale is smaller than {margin:g}"
    reason = test.ruled_out or reason
    if reason:
        undefined = dict.fromkeys(["value", "low", "high", "p"], float("nan"))
        return description | undefined | {
            "n": 0, "left_out": 0, "level": 2 * results.settings.level - 1, "reason": reason,
        }  # fmt: skip
    statistic = STATISTICS.get("equivalence")(
        margin=margin, scale=(low, high), value=measure, reference=second,
        level=results.settings.level,
    )  # fmt: skip
    estimate = statistic(answers)[first, second]
    names = ("value", "low", "high", "n", "left_out", "p", "level", "reason")
    return description | {name: getattr(estimate, name) for name in names}
