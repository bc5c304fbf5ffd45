"""The figures of the researcher's dashboard, computed from the exported tables."""

import json
from math import nan

import pandas as pd
from scipy.stats import binomtest

from tasks.responses import STATUSES
from tasks.study import Study


def people_flow(people: pd.DataFrame, inattentive: list[str], places: int) -> pd.DataFrame:
    """Count participants by status, beside the number wanted."""
    counts = people["status"].value_counts().reindex(STATUSES, fill_value=0)
    finished = people["participant"][people["status"] == "finished"]
    counts["finished, but inattentive"] = int(finished.isin(inattentive).sum())
    counts["wanted"] = places
    return counts.rename_axis("status").reset_index(name="people")


def accuracy(correct: pd.Series) -> tuple[float, float, float]:
    """Return the share of correct responses among those with a key, and Wilson's 95 % CI for
    independent responses; NaN if there are none."""
    scores = correct.dropna().astype(float)
    if scores.empty:
        return nan, nan, nan
    bounds = binomtest(int(scores.sum()), len(scores)).proportion_ci(method="wilson")
    return float(scores.mean()), bounds.low, bounds.high


def median(numbers: pd.Series) -> float:
    """Return the median; NaN if there are none."""
    return float(numbers.astype(float).median())


def per_condition(answers: pd.DataFrame) -> pd.DataFrame:
    """Return per condition the numbers of trials with and without a response, accuracy with 95 %
    CI, and the median seconds of the responses."""
    keys = ["task", "condition", "role"]
    columns = [*keys, "answers", "missing", "accuracy", "low", "high", "median seconds"]
    rows = []
    for names, group in answers.groupby(keys):
        times = group.loc[group["missing"].isna(), "milliseconds"]
        counts = len(times), len(group) - len(times)
        rows.append((*names, *counts, *accuracy(group["correct"]), median(times) / 1000))
    return pd.DataFrame(rows, columns=columns).round(3)


def per_trial(answers: pd.DataFrame, study: Study, places: int) -> pd.DataFrame:
    """Return the number of responses per trial beside its quota, fewest first."""
    counts = answers.loc[answers["missing"].isna(), "trial"].value_counts()
    quotas = _places_by_form(study, places)
    columns = ["trial", "task", "condition", "form", "answers", "quota"]
    trials = [(study.by_id[trial], form) for trial, form in study.form_of.items()]
    rows = [
        (trial.id, trial.task, trial.condition, form, counts.get(trial.id, 0), quotas[form])
        for trial, form in trials
    ]
    return pd.DataFrame(rows, columns=columns).sort_values("answers", ignore_index=True)


def _places_by_form(study: Study, places: int) -> list[int]:
    return [len(range(form, places, len(study.forms))) for form in range(len(study.forms))]


def per_form(
    answers: pd.DataFrame, people: pd.DataFrame, study: Study, places: int
) -> pd.DataFrame:
    """Return per form how many people answered its trials and finished, beside its places."""
    finished = people["participant"][people["status"] == "finished"]
    started = answers.assign(form=answers["trial"].map(study.form_of)).dropna(subset="form")
    started = started.drop_duplicates("participant").set_index("participant")["form"]
    columns = {"started": started, "finished": started[started.index.isin(finished)]}
    counts = pd.DataFrame({name: forms.value_counts() for name, forms in columns.items()})
    counts = counts.reindex(range(len(study.forms))).fillna(0).astype(int)
    counts["places"] = _places_by_form(study, places)
    return counts.rename_axis("form").reset_index()


def agreement(answers: pd.DataFrame) -> float:
    """Return the share of pairs of participants who chose the same option; NaN if no pairs.

    This is a preliminary figure; the analysis reports Krippendorff's alpha with its interval.
    """
    equal_pairs = pairs = 0
    trials = answers[(answers["role"] == "trial") & (answers["options"] != "[]")]
    for _, group in trials.groupby("trial"):
        counts = group["answer"].map(json.loads).value_counts()
        n = int(counts.sum())
        equal_pairs += int((counts * (counts - 1)).sum())
        pairs += n * (n - 1)
    return equal_pairs / pairs if pairs else nan


def rates(answers: pd.DataFrame, people: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy in attention trials, median times and pairwise agreement."""
    attention, low, high = accuracy(answers.loc[answers["role"] == "attention", "correct"])
    finished = people[people["status"] == "finished"]
    values = {
        "share of attention trials correct": attention,
        "– 95 % from": low,
        "– 95 % to": high,
        "median minutes from consent to end": median(finished["total_seconds"]) / 60,
        "median seconds with instructions and introductions": median(people["instruction_seconds"]),
        "share of pairs of participants who agree (trials with options)": agreement(answers),
    }
    return pd.DataFrame({"figure": list(values), "value": list(values.values())}).round(3)


def written_answers(people: pd.DataFrame, study: Study) -> list[str]:
    """Return the answers to questions that are answered in writing, after their questions."""
    labels = {q.name: q.label for q in study.questions if q.kind == "text"}
    questionnaires = map(json.loads, people["questionnaire"])
    return [
        f"{labels[name]} {answer}"
        for questionnaire in questionnaires
        for name, answer in questionnaire.items()
        if name in labels
    ]
