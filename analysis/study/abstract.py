"""The structured abstract of a study's report, made from its estimates alone."""

from collections.abc import Iterator

import pandas as pd

from analysis.exhibits.phrases import (
    as_words,
    capitalise,
    ci_text,
    join,
    number_text,
    p_text,
    percent,
    share_ci_text,
)
from analysis.study.controls import failed_controls
from analysis.study.responses import NOUNS
from analysis.study.results import Results
from analysis.study.sentences import division, hypothesis, summarise_tests
from analysis.study.thresholds import NO_RULE
from harness.text import pluralise

#: Kinds of test, beside accuracy against chance, whose value is a difference of shares.
UNITS = {"contrasts": " percentage points", "learning": " percentage points per ten trials"}


def abstract_of_study(results: Results) -> Iterator[str]:
    """Yield question, design, sample, main result, robustness and limits, one or two sentences
    each.

    A sentence says no more than its interval allows; nothing is said where nothing was estimated.
    Warnings of failed controls come first.
    """
    yield from (failed.warning for failed in failed_controls(results))
    responses = results.responses
    answers, study = responses.answers, responses.study
    steps = {row.step: row.participants for row in responses.flow.itertuples()}
    yield (
        "Question. Do people recognise the concepts that neurons of "
        f"{_series_names(results)} detect"
        + (", and do they see how these change during training?" if study.shows_change else "?")
    )
    tasks = [
        f"{results.name(task)} ({pluralise(len(study.conditions(task)), 'condition')})"
        for task in results.planned_tasks
    ]
    yield (
        f"Design. The {'task was' if len(tasks) == 1 else 'tasks were'} {join(tasks)}. All "
        f"conditions vary within participants, and {division(study)}. "
        "Trials, exclusion rules and tests were frozen before data collection."
    )
    yield (
        f"Sample. The analysis includes {steps['analysed']:,} of "
        f"{pluralise(steps['arrived'], NOUNS[responses.source])} "
        f"({pluralise(len(answers), 'response')})."
    )
    yield f"Main result. {_primary_result(results)}{_observer_result(results)}"
    if len(results.tests):
        yield f"All tests. {summarise_tests(results.tests)}."
    smallest = int(results.trials_answered.min())
    yield (
        f"Limits. The smallest condition has {pluralise(smallest, 'trial')} with responses."
        + {
            "human": " The results generalise to trials and participants sampled in the same way, "
            "not to other networks.",
            "pilot": " A pilot supports planning, not claims.",
            "simulated": " Simulated responses are no evidence about people.",
        }[responses.source]
    )


def _series_names(results: Results) -> str:
    neurons = results.responses.study.trials["neurons"].explode().dropna()
    series = sorted({neuron.series for neuron in neurons})
    return join(series) or "the networks studied"


def _primary_result(results: Results) -> str:
    """Return the primary hypothesis: every test of it with effect, interval and adjusted p."""
    primary = results.plan.primary
    if not primary:
        return "No primary hypothesis was frozen with the study."
    kind = primary.rpartition(".")[2]
    primary_tests = results.tests[results.tests["question"] == primary]
    measure = hypothesis(results)
    if primary_tests["p"].isna().all():
        return f"The primary hypothesis, {measure}, could not be tested."
    parts = []
    for row in primary_tests.itertuples():
        name = as_words(row.what)
        if pd.isna(row.p):
            parts.append(f"{name} not testable")
            continue
        if kind == "chance":
            value = f"{percent(row.value)} (chance {percent(row.null)}),"
            interval = share_ci_text(row, f"unadjusted {results.level}")
        else:
            factor, form = (100, "+.1f") if kind in UNITS else (1, "+.2f")
            value = f"{number_text(row.value, form, factor)}{UNITS.get(kind, '')},"
            interval = f"unadjusted {results.level} CI {ci_text(row, form, factor)}"
        parts.append(f"{name} {value} {interval}, adjusted {p_text(row.p)}")
    measure = f"{capitalise(measure)} (conditions are defined under Method)"
    robustness = _robustness(results, bool(primary_tests["claimed"].all()))
    return f"{measure}: {'; '.join(parts)}. {robustness}".strip()


def _observer_result(results: Results) -> str:
    """Return what colours and edges alone achieve in the conditions of the primary hypothesis."""
    task, _, kind = results.plan.primary.rpartition(".")
    if kind != "chance":
        return ""
    trials = results.observed_trials
    trials = trials[(trials["task"] == task) & ~trials["condition"].isin(results.controls(task))]
    shares = [
        f"{percent(rows.mean())} of the trials in {as_words(str(condition))}"
        for condition, rows in trials.groupby("condition")["observer_correct"]
    ]
    if not shares:
        return ""
    return (
        f" A machine observer that uses only colours and edges solved {join(shares)}. In "
        "conditions in which it is above chance, participants, too, can be above chance without "
        "recognising concepts."
    )


def _robustness(results: Results, all_claimed: bool) -> str:
    """Return how many tests of the primary hypothesis are significant without any exclusion, where
    all are (`all_claimed`), or not, under the frozen rules."""
    specifications = results.specifications
    tests = specifications[specifications["rule"] == NO_RULE].dropna(subset=["what"])
    if tests.empty:
        return ""
    significant = int(tests["claimed"].sum())
    if significant == len(tests):
        subject = "this test is" if significant == 1 else f"these {significant} tests are"
        return f"Without exclusion rules, {subject} significant{', too' if all_claimed else ''}."
    return (
        f"Without exclusion rules, {significant} of these {pluralise(len(tests), 'test')} "
        f"{'is' if significant == 1 else 'are'} significant."
    )
