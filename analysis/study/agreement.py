"""Tables of the agreement of participants and of the variance components of responses."""

import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.tables import Table
from analysis.statistics import Estimates, tabulate
from analysis.statistics.agreement import (
    FleissKappa,
    FreeMarginalKappa,
    KrippendorffAlpha,
    dawid_skene,
)
from analysis.study.planned_tests import SCALES
from analysis.study.results import Results
from analysis.study.tables import ESTIMATE, FORMATS, SHARE

#: Responses whose agreement is measured, other than choices -> their level of measurement.
METRICS = {"changed": "nominal", "clarity": "ordinal", "rating": "ordinal"}


@shelf.table("study", "agreement")
def agreement(results: Results) -> Table | None:
    level = results.settings.level
    rows: Estimates = {}
    for task in results.tasks:
        answers = results.answers_of(task)
        is_choice = task in results.choice_tasks
        metrics = {"choice": "nominal"} if is_choice else METRICS
        chances = results.responses.study.chance(task) if is_choice else {}
        for question, metric in metrics.items():
            column = "answer" if question == "choice" else question
            if answers[column].isna().all():
                continue
            alpha = KrippendorffAlpha(metric, level)
            for condition, group in answers.groupby("condition"):
                key = (results.name(task), question, str(condition))
                rows[(*key, f"Krippendorff's α, {metric}")] = alpha(group, value=column)
                ratings = group.dropna(subset=[column])["trial"].value_counts()
                if metric == "nominal" and ratings.nunique() == 1 and ratings.iloc[0] > 1:
                    rows[(*key, "Fleiss' κ")] = FleissKappa(level)(group, value=column)
                if is_choice:
                    kappa = FreeMarginalKappa(chances[str(condition)], level)
                    rows[(*key, "Brennan and Prediger's κ")] = kappa(group, value=column)
    if not rows:
        return None
    table = tabulate(rows, ["task", "question", "condition", "measure"])
    return Table(
        "agreement",
        "Agreement between participants",
        "1: perfect agreement; 0: agreement expected by chance, given how often each response "
        "occurs in the condition. Where nearly all responses of a condition are the same, the "
        "coefficients are near 0 even if participants agree. Of choices, α and Fleiss' κ depend on "
        "the names of options, which are arbitrary in each trial; Brennan and Prediger's κ, whose "
        "agreement by chance is 1 / number of options, does not. n: responses to trials with at "
        f"least two responses. Unadjusted {results.level} CIs, clustered by participants and "
        "trials.",
        table[["task", "question", "condition", "measure", "n", "left_out", *ESTIMATE]],
        FORMATS,
        hidden=("left_out",),
    )


@shelf.table("study", "agreement")
def annotators(results: Results) -> Table:
    rows = []
    for task in results.tasks:
        answers = results.answers_of(task)
        for question in ("changed", "rating"):
            given = answers.dropna(subset=[question])
            if not given.duplicated("trial").any():  # a single response always agrees with itself
                continue
            fit = dawid_skene(answers, value=question)
            table, quality = fit.answers(), fit.quality()["accuracy"]
            has_majority = table["majority"].astype(str) != ""
            differs = table["label"].astype(str) != table["majority"].astype(str)
            rows.append(
                {
                    "task": results.name(task), "question": question,
                    "participants": len(quality), "trials": len(table),
                    "mean accuracy": quality.mean(), "lowest": quality.min(),
                    "differs from majority": differs[has_majority].mean(),
                    "ties": int((~has_majority).sum()), "converged": fit.converged,
                }
            )  # fmt: skip
    return Table(
        "annotators",
        "Consistency of participants, by the model of Dawid and Skene",
        "The model estimates the most probable response to each trial; there need not be a correct "
        "one. Mean, lowest: estimated probability that a participant gives the most probable "
        "response (mean over participants; lowest participant). Differs from majority: share of "
        "the trials without a tie in which the most probable response is not that of the majority. "
        "Ties: trials with a tied majority. Control conditions are included.",
        pd.DataFrame(rows),
        {"mean accuracy": SHARE, "lowest": SHARE, "differs from majority": SHARE},
        hidden=("converged",),
        headings={"mean accuracy": "mean", "question": "scale"},
    )


@shelf.table("study", "agreement")
def variance_components(results: Results) -> Table:
    rows = []
    for task in results.tasks:
        answers = results.answers_of(task, controls=False)
        names = {"correct": "accuracy"} if task in results.choice_tasks else {}
        for value, name in (names | {scale: scale for scale in SCALES}).items():
            if answers[value].isna().all():
                continue
            table = results.by_task(
                [task], "variance_components", ["component"], controls=False, value=value
            ).set_index("component")
            if table.empty:
                continue
            rated = answers[answers[value].notna()]
            rows.append(
                {"task": results.name(task), "what": name,
                 "participants": rated["participant"].nunique(), "trials": rated["trial"].nunique(),
                 "answers": table["n"].iloc[0], **table["value"].add_prefix("ICC "),
                 **table["effect"].add_prefix("variance, "), "note": table["reason"].iloc[0]}
            )  # fmt: skip
    frame = pd.DataFrame(rows)
    variances = tuple(c for c in frame.columns if c.startswith("variance, "))
    shares = [c for c in frame.columns if c.startswith("ICC ")]
    return Table(
        "variance_components",
        "Variance components",
        "Intraclass correlations (ICC): shares of the variance within conditions that are due to "
        "participants, to the interaction of participant and condition, and to trials; the "
        "remainder is residual. Accuracy: logit scale, mixed logistic model. Ratings: original "
        "scale, minimum norm quadratic unbiased estimation (MINQUE(0); Rao, 1971). Control "
        "conditions excluded. No intervals are given; –: cannot be separated, or too few responses "
        "(see note).",
        frame,
        dict.fromkeys(shares, "{:.2f}") | dict.fromkeys(variances, "{:.3f}"),
        hidden=variances,
        headings={
            "what": "measure",
            "ICC participants in conditions": "ICC participant × condition",
        },
    )
