"""A preregistration made only from the frozen study, under the headings of the OSF form."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.exhibits.pdf import can_write_pdf, write_pdf
from analysis.exhibits.phrases import as_words
from analysis.exhibits.report import render
from analysis.exhibits.tables import markdown_table
from analysis.statistics.claims import ALPHA, is_control, name_kind
from analysis.study.association import name_measure
from analysis.study.before_collection import (
    WANTED_POWER,
    Power,
    describe_ruled_out,
    planned_claims,
    power_figure,
    results_without_responses,
    simulate_power,
)
from analysis.study.frozen_study import read_study
from analysis.study.responses import rule_in_words
from analysis.study.results import Results
from analysis.study.sentences import claim_rule
from harness.files import write_text
from tasks.study import Study

#: Text in place of what only the authors know.
AUTHORS = "*To be completed by the authors.*"

#: Kind of question -> the hypothesis of one test; all are two-sided unless they say otherwise.
HYPOTHESES = {
    "chance": "The share of correct responses differs from chance ({null}): {what}.",
    "contrasts": "The shares of correct responses differ between conditions: {what}.",
    "detection": "Sensitivity to change differs from 0: {what}.",
    "labels": "Labels of the same pictures are more similar than labels of different pictures of "
    "the condition (permutation test): {what}.",
    "ratings": "Mean ratings ({asked}) differ between conditions: {what}.",
    "learning": "Accuracy changes over the session ({what} except controls).",
    "confidence": "Confidence differs between correct and incorrect responses ({what} except "
    "controls).",
    "associations": "Over trials, participants' accuracy (or the share judged changed) correlates "
    "with: {what}.",
    "equivalence": "The difference between conditions is smaller than {margin:g}: {what} (two "
    "one-sided tests).",
}

#: Kind of question -> how it is tested.
MODELS = {
    "chance": "log odds of a correct response per condition, Student's t with the two-way cluster "
    "variance of participants and trials (delete-one jackknife)",
    "contrasts": "difference of shares, its interval from those of the two shares (log odds, same "
    "variance) and their correlation over participants and trials (Zou & Donner 2008)",
    "detection": "d′ with the log-linear correction, same variance",
    "labels": "mean similarity of labels ({similarity}), responses permuted over trials of the "
    "condition ({permutations:,} permutations)",
    "ratings": "difference of mean ratings, same variance",
    "learning": "change of accuracy per ten trials within participants",
    "confidence": "area under the type-2 ROC curve within conditions",
    "associations": "partial Spearman correlation over trials, given the condition; permutation "
    "test within conditions ({permutations:,} permutations)",
    "equivalence": "two one-sided tests with the intervals of the contrasts",
}
OWN_MODEL = "by a registered test of the researchers' own"


def preregistration(results: Results, power: Power | None, picture: str = "") -> str:
    """Return the document in Markdown; `picture` is the file name of the power curve."""
    frozen, plan = results.responses.study, results.plan
    tests = planned_claims(results)
    roles = frozen.trials["role"].value_counts()
    parameters = {"similarity": results.similarity, "permutations": results.settings.permutations}
    weights = pd.DataFrame(
        {
            "question": tests["question"], "test": tests["what"].map(name_measure),
            "scale": tests["asked"],
            "initial α": [f"{100 * ALPHA * weight:.3f} %" for weight in tests["weight"]],
        }
    )  # fmt: skip
    return render(
        "preregistration.md",
        {"grid": _format_grid},
        results=results,
        plan=plan,
        study=frozen.study,
        recruitment=frozen.recruitment,
        changes=frozen.shows_change,
        hypotheses=_hypotheses(results, tests),
        counts=_trial_counts(results),
        practice=roles.get("practice", 0),
        attention=roles.get("attention", 0) / len(frozen.study.forms),
        barriers=_participation_rules(frozen.study),
        power=power,
        picture=picture,
        wanted=WANTED_POWER,
        measured=_measured_variables(results),
        models=[
            f"{name_kind(kind)}: {MODELS.get(kind, OWN_MODEL).format_map(parameters)}."
            for kind in tests["kind"].unique()
        ],
        alpha=ALPHA,
        tests=weights,
        without_equivalence=_tasks_without_equivalence(results, set(tests["question"])),
        claims=f"{claim_rule(results.level)} {describe_ruled_out(results)}".rstrip(),
        exclusions=[rule_in_words(*rule) for rule in frozen.exclusions.items()],
        authors=AUTHORS,
    )


def _format_grid(frame: pd.DataFrame) -> str:
    cells = frame.map(lambda value: f"{value:g}" if isinstance(value, float) else value)
    return markdown_table(list(frame.columns), cells.to_numpy().tolist())


def _hypotheses(results: Results, tests: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return the roles of tests and their hypotheses; tests that differ only in `what` are one."""
    is_primary = tests["question"] == results.plan.primary
    control = is_control(tests)
    roles = {
        "Primary hypothesis": is_primary,
        "Other hypotheses": ~is_primary & ~control,
        "Control tests (checks of the tasks; nothing is claimed from them)": ~is_primary & control,
    }
    keys = ["question", "kind", "asked", "null"]
    tests = tests.assign(null=[_null(results, test) for test in tests.itertuples()])
    texts = {
        title: [
            _hypothesis(results, group)
            for _, group in tests[role].groupby(keys, sort=False, dropna=False)
        ]
        for title, role in roles.items()
    }
    return [(title, hypotheses) for title, hypotheses in texts.items() if hypotheses]


def _null(results: Results, test: Any) -> float:
    """Return the share that a test of accuracy against chance compares with; NaN for others."""
    if test.kind != "chance":
        return float("nan")
    task = test.question.rpartition(".")[0]
    return results.responses.study.chance(task).get(test.what, float("nan"))


def _hypothesis(results: Results, tests: pd.DataFrame) -> str:
    test = tests.iloc[0]
    names = "; ".join(map(name_measure, tests["what"]))
    text = HYPOTHESES[test["kind"]].format(
        what=names, asked=test["asked"], margin=test["margin"], null=f"{test['null']:.3g}"
    )
    return f"{test['task']}: {text}"


def _trial_counts(results: Results) -> pd.DataFrame:
    study = results.responses.study
    forms = len(study.study.forms)
    rows = [
        (
            results.name(str(task)), as_words(str(condition)), len(group), len(group) / forms,
            len(group["options"].iloc[0]) or "–",
            "control" if condition in study.controls(str(task)) else "planned",
        )
        for (task, condition), group in study.data.groupby(["task", "condition"], sort=False)
    ]  # fmt: skip
    names = ["task", "condition", "trials", "trials per participant", "options", "role"]
    return pd.DataFrame(rows, columns=names)


def _participation_rules(study: Study) -> list[str]:
    """Describe who cannot take part or go on."""
    rules = [f"a window of less than {study.min_width} pixels"] if study.min_width else []
    for q in study.questions:
        options = dict(q.choices)
        if q.screen_out:
            rules.append(f"“{q.label}”: {', '.join(options[value] for value in q.screen_out)}")
        if q.stay_within:
            rules.append(f"“{q.label}”: outside {q.stay_within[0]:g} to {q.stay_within[1]:g}")
    for check in study.checks:
        labels = [q.label for q in study.questions if q.check == check.name]
        if check.needed:
            has_attempts = check.attempts > 1
            rules.append(
                f"fewer than {check.needed} of {len(labels)} correct responses "
                f"({'; '.join(labels)})" + f" in each of {check.attempts} attempts" * has_attempts
            )
    if study.practice and study.practice_attempts:
        rules.append(f"practice not passed in {study.practice_attempts} attempts")
    return rules


def _measured_variables(results: Results) -> list[str]:
    study, variables = results.responses.study, []
    for task in results.planned_tasks:
        labels = [
            f.label + (f" ({', '.join(label for _, label in f.choices)})" if f.choices else "")
            for f in study.fields(task).values()
        ]
        variables.append(f"{results.name(task)}: {'; '.join(dict.fromkeys(labels))}")
    questions = [q.label + " (required)" * q.required for q in study.study.questions]
    if questions:
        variables.append(f"Questions beside the trials: {'; '.join(questions)}")
    return [*variables, "Time from the moment all pictures are visible to the response."]


def _tasks_without_equivalence(results: Results, questions: set[str]) -> list[str]:
    """Return the tasks that have contrasts, but only with control conditions."""
    return [
        results.name(task)
        for task in results.planned_tasks
        if results.plan.smallest_effect
        and f"{task}.contrasts" in questions
        and f"{task}.equivalence" not in questions
    ]


def write_preregistration(folder: Path, out: Path, studies: int = 200) -> list[Path]:
    """Write the document and its power curve, and the PDF if the extra is installed.

    Args:
        folder: of the frozen study. out: the Markdown file. studies: simulated for a point of the
            power curve.

    Returns:
        the files written, the Markdown file first.

    Raises:
        ValueError: no frozen study there, or one that was changed.
    """
    results = results_without_responses(read_study(folder))
    power = simulate_power(results, studies)
    paths, picture = [out], ""
    if power is not None:
        figure = power_figure(power, results.responses.study.recruitment.places)
        paths += figure.write(out.parent)
        picture = f"{figure.name}.png"
    text = preregistration(results, power, picture)
    write_text(out, text)
    if can_write_pdf():
        write_pdf(out.with_suffix(".pdf"), text)
        paths.append(out.with_suffix(".pdf"))
    return paths
