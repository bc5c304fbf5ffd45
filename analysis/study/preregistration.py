"""A preregistration made only from the frozen study, under the headings of the OSF form."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from analysis.exhibits.pdf import can_write_pdf, write_pdf
from analysis.exhibits.phrases import spaced
from analysis.exhibits.tables import markdown_grid
from analysis.statistics.claims import ALPHA, QUESTIONS, is_control
from analysis.study.association import MEASURES
from analysis.study.frozen_study import read_study
from analysis.study.responses import rule_in_words
from analysis.study.results import Results
from analysis.study.sentences import claim_rule
from analysis.study.unanswered import (
    WANTED,
    Power,
    planned_claims,
    power_figure,
    power_of,
    ruled_out,
    unanswered,
)
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
    "condition",
    "ratings": "difference of mean ratings, same variance",
    "learning": "change of accuracy per ten trials within participants",
    "confidence": "area under the type-2 ROC curve within conditions",
    "associations": "partial Spearman correlation over trials, given the condition; permutation "
    "test within conditions",
    "equivalence": "two one-sided tests with the intervals of the contrasts",
}


def preregistration(results: Results, power: Power | None, picture: str = "") -> str:
    """Return the document in Markdown.

    Args:
        picture: file name of the power curve, "" where there is none.
    """
    study, recruitment = results.responses.study.study, results.responses.study.recruitment
    tests = planned_claims(results)
    parts = [
        ("Study Information", [
            ("Title", study.title),
            ("Description", _description(results)),
            ("Hypotheses", _hypotheses(results, tests)),
        ]),
        ("Design Plan", [
            ("Study type", "Experiment: trials of several conditions, shown within participants."),
            ("Blinding", "Participants are not told the condition of a trial, and no name or file "
             "that they can see tells it. Responses are analysed by a program that was fixed "
             "before the first of them."),
            ("Study design", _design(results)),
            ("Randomization", f"{_forms(len(study.forms))} The order of the blocks, of the "
             "trials in a block and of the options in a trial is rotated, so that "
             "over all participants every trial stands at every position "
             f"about equally often. Trials were drawn with seed {study.seed}."),
        ]),
        ("Sampling Plan", [
            ("Existing data", AUTHORS),
            ("Data collection procedures", _procedure(results)),
            ("Sample size", f"{recruitment.places} participants who finish."),
            ("Sample size rationale", _rationale(results, power, picture)),
            ("Stopping rule", f"Collection stops when {recruitment.places} participants have "
             "finished. If a participant is inactive for "
             f"{recruitment.lease_minutes:g} minutes, the place may be given to the next one. No "
             "result is computed before."),
        ]),
        ("Variables", [
            ("Manipulated variables", _conditions(results)),
            ("Measured variables", _measured(results)),
        ]),
        ("Analysis Plan", [
            ("Statistical models", _models(results, tests)),
            ("Inference criteria", _criteria(results, tests)),
            ("Data exclusion", _exclusions(results)),
            ("Missing data", "A response without the measured value is left out of the analysis of "
             "that value and counted. A planned test that cannot be computed is reported with its "
             "reason; its share of α is not redistributed."),
            ("Bayesian analysis", _bayesian(results)),
            ("Exploratory analysis", "Everything that is reported without a row in the table of "
             "tests: the logistic model with crossed random effects, agreement of participants, "
             "response times, calibration, single trials, and the primary hypothesis under "
             "other exclusion rules."),
        ]),
        ("Other", [
            ("Frozen study", f"Trials, keys, rules and this plan carry the hash `{study.hash}`; "
             "the analysis refuses a study that was changed."),
            ("Authors, conflicts of interest, ethics approval", AUTHORS),
        ]),
    ]  # fmt: skip
    lines = [f"# Preregistration: {study.title}"]
    for heading, sections in parts:
        lines.append(f"## {heading}")
        lines += [f"### {title}\n\n{text}" for title, text in sections]
    return "\n\n".join(lines) + "\n"


def _description(results: Results) -> str:
    study = results.responses.study.study
    asked = "; ".join(
        f"*{results.name(t.name)}*: {t.prompt.replace('**', '')}" for t in study.tasks
    )
    return (
        "Do people recognise the concepts that neurons of an image classifier detect, and the "
        "change of these concepts during training? Trials show image patches that activate "
        f"neurons. {asked}"
    )


def _hypotheses(results: Results, tests: pd.DataFrame) -> str:
    main = tests[tests["question"] == results.plan.primary]
    others = tests[(tests["question"] != results.plan.primary)]
    control = is_control(others)
    said = []
    for title, rows in (
        ("Primary hypothesis", main),
        ("Other hypotheses", others[~control]),
        ("Control tests (checks of the tasks; nothing is claimed from them)", others[control]),
    ):
        if len(rows):
            groups = rows.groupby(["question", "kind", "asked"], sort=False, dropna=False)
            texts = _bullets(_hypothesis(results, group) for _, group in groups)
            said.append(f"**{title}**\n\n{texts}")
    return "\n\n".join(said)


def _bullets(texts) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _hypothesis(results: Results, tests: pd.DataFrame) -> str:
    """Return the hypotheses of tests that differ only in `what`, as one sentence."""
    study, first = results.responses.study, tests.iloc[0]
    task, kind = first["question"].rpartition(".")[0], first["kind"]
    null = study.chance(task).get(first["what"], np.nan) if kind == "chance" else np.nan
    what = "; ".join(MEASURES.get(name, spaced(name)) for name in tests["what"])
    text = HYPOTHESES[kind].format(
        what=what, asked=first["asked"], margin=first["margin"], null=f"{null:.3g}"
    )
    return f"{first['task']}: {text}"


def _forms(count: int) -> str:
    if count == 1:
        return "There is one form; every participant completes it."
    return f"Participants are assigned to {count} forms in turn; each completes one."


def _design(results: Results) -> str:
    table = _trial_counts(results)
    return (
        "All conditions vary within participants. A neuron can be in trials of different forms, "
        "but no participant sees a neuron in two trials.\n\n" + _markdown(table)
    )


def _trial_counts(results: Results) -> pd.DataFrame:
    study = results.responses.study
    forms = len(study.study.forms)
    rows = [
        (
            results.name(str(task)), spaced(str(condition)), len(group), len(group) / forms,
            len(group["options"].iloc[0]) or "–",
            "control" if condition in study.controls(str(task)) else "planned",
        )
        for (task, condition), group in study.data.groupby(["task", "condition"], sort=False)
    ]  # fmt: skip
    names = ["task", "condition", "trials", "trials per participant", "options", "role"]
    return pd.DataFrame(rows, columns=names)


def _markdown(frame: pd.DataFrame) -> str:
    """Return a plain Markdown table."""
    shown = frame.map(lambda value: f"{value:g}" if isinstance(value, float) else value)
    return markdown_grid(list(frame.columns), shown.to_numpy().tolist())


def _procedure(results: Results) -> str:
    study = results.responses.study
    roles = study.trials["role"].value_counts()
    attention = roles.get("attention", 0) / len(study.study.forms)
    practice = (
        f"{roles['practice']} practice trials with feedback (repeated until "
        f"{100 * study.study.practice_pass:.0f} % of those with a key are correct), "
        if "practice" in roles
        else "no practice trials, "
    )
    return (
        f"Online survey: consent, instructions, {practice}the trials with {attention:g} attention "
        "trials among them"
        + (", a few questions about the participant" if study.study.questions else "")
        + ", and a debriefing. " + AUTHORS.replace("To be", "Recruitment and payment: to be")
        + _screening(study.study)
    )  # fmt: skip


def _screening(study: Study) -> str:
    """Describe who cannot take part or go on, and the time limit of a trial."""
    rules = [f"a window of less than {study.min_width} pixels"] if study.min_width else []
    for q in study.questions:
        names = dict(q.choices)
        if q.screen_out:
            rules.append(f"“{q.label}”: {', '.join(names[value] for value in q.screen_out)}")
        if q.stay_within:
            rules.append(f"“{q.label}”: outside {q.stay_within[0]:g} to {q.stay_within[1]:g}")
    for check in study.checks:
        labels = [q.label for q in study.questions if q.check == check.name]
        if check.needed:
            several = check.attempts > 1
            rules.append(
                f"fewer than {check.needed} of {len(labels)} correct responses "
                f"({'; '.join(labels)})" + f" in each of {check.attempts} attempts" * several
            )
    if study.practice and study.practice_attempts:
        rules.append(f"practice not passed in {study.practice_attempts} attempts")
    limit = f"\n\nA trial ends after {study.seconds_per_trial:g} seconds, without a response."
    said = f"\n\nParticipants cannot take part, or go on, with:\n\n{_bullets(rules)}"
    return said * bool(rules) + limit * bool(study.seconds_per_trial)


def _rationale(results: Results, power: Power | None, picture: str) -> str:
    if power is None:
        why = (
            f"the planner simulates tests of correct responses against chance and between "
            f"conditions, not `{results.plan.primary}`"
            if results.plan.primary
            else "no primary hypothesis was frozen whose test could be simulated"
        )
        return f"No power curve is given: {why}. {AUTHORS}"
    table = power.table
    most = table["participants"].max()
    enough = table[(table["participants"] == most) & (table["power"] >= WANTED)]
    said = (
        f"With {most} participants, a test of the primary hypothesis has at least "
        f"{100 * WANTED:.0f} % power for true differences of {enough['size'].min():g} or more (of "
        "those tried)."
        if len(enough)
        else f"With {most} participants, none of the differences tried would be detected with "
        f"{100 * WANTED:.0f} % power."
    )
    wide = table.pivot(index="participants", columns="size", values="power").reset_index()
    wide.columns = ["participants", *(f"difference {size:g}" for size in wide.columns[1:])]
    wide["participants"] = wide["participants"].astype(str)
    shown = f"\n\n![Power by number of participants]({picture})" if picture else ""
    return f"{said} {power.text}{shown}\n\n{_markdown(wide)}"


def _conditions(results: Results) -> str:
    counts = _trial_counts(results)
    return _bullets(
        f"{task}: {', '.join(rows['condition'])}"
        for task, rows in counts.groupby("task", sort=False)
    )


def _measured(results: Results) -> str:
    study = results.responses.study
    fields = {
        results.name(task): [
            f.label + (f" ({', '.join(label for _, label in f.choices)})" if f.choices else "")
            for f in study.fields(task).values()
        ]
        for task in results.planned_tasks
    }
    said = [f"{task}: {'; '.join(dict.fromkeys(labels))}" for task, labels in fields.items()]
    questions = [q.label + " (required)" * q.required for q in study.study.questions]
    if questions:
        said.append(f"Questions beside the trials: {'; '.join(questions)}")
    return _bullets([*said, "Time from the moment all pictures are visible to the response."])


def _models(results: Results, tests: pd.DataFrame) -> str:
    kinds = list(dict.fromkeys(tests["kind"]))
    return (
        "A participant responds to many trials and many participants respond to a trial, so "
        "responses are not independent; the tests generalise to other participants and trials.\n\n"
        + _bullets(
            f"{QUESTIONS[kind]}: {MODELS[kind].format(similarity=results.similarity)}."
            for kind in kinds
        )
    )


def _criteria(results: Results, tests: pd.DataFrame) -> str:
    plan = results.plan
    share = (
        f" {100 * plan.primary_share:g} % of α is allocated to the tests of the primary "
        f"hypothesis, `{plan.primary}`; the others share the rest evenly."
        if plan.primary
        else " All tests have the same weight."
    )
    table = pd.DataFrame(
        {
            "question": tests["question"], "test": tests["what"].map(spaced),
            "scale": tests["asked"],
            "initial α": [f"{100 * ALPHA * weight:.3f} %" for weight in tests["weight"]],
        }
    )  # fmt: skip
    asked = set(tests["question"])
    for task in results.planned_tasks if plan.smallest_effect else ():
        if f"{task}.contrasts" in asked and f"{task}.equivalence" not in asked:
            share += (
                f" In {results.name(task)}, equivalence is not tested, because each planned "
                "comparison is with a control condition."
            )
    return (
        f"p-values of all {len(tests)} tests of participants' responses are adjusted together, for "
        f"a family-wise error rate of {100 * ALPHA:g} % (weighted Holm procedure).{share} "
        f"{claim_rule(results.level)} {ruled_out(results)}".rstrip()
        + "\n\n"
        + _markdown(table)
    )


def _bayesian(results: Results) -> str:
    plan = results.plan
    if not plan.bayesian:
        return "None."
    return (
        "A logistic model with random effects of participants, of participants within conditions "
        "and of trials is reported; nothing is claimed from it. Prior: log odds of each "
        f"condition Normal(0, {plan.prior_effect:g}), standard deviations "
        f"half-normal({plan.prior_spread:g})."
    )


def _exclusions(results: Results) -> str:
    rules = results.responses.study.exclusions
    said = [rule_in_words(rule, threshold) for rule, threshold in rules.items()]
    if not said:
        return "Only participants who gave consent and finished are analysed; no other rule."
    return (
        "Only participants who gave consent and finished are analysed. Excluded are participants "
        f"with:\n\n{_bullets(said)}\n\nThe tests of the primary hypothesis are repeated with "
        "each rule relaxed, tightened and omitted."
    )


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
    results = unanswered(read_study(folder))
    power = power_of(results, studies)
    written, picture = [out], ""
    if power is not None:
        figure = power_figure(power, results.responses.study.recruitment.places)
        written += figure.write(out.parent)
        plt.close(figure.canvas)
        picture = f"{figure.name}.png"
    text = preregistration(results, power, picture)
    write_text(out, text)
    if can_write_pdf():
        write_pdf(out.with_suffix(".pdf"), text)
        written.append(out.with_suffix(".pdf"))
    return written
