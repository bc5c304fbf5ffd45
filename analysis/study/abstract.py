"""The structured abstract of a study's report, made from its estimates alone."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.exhibits.phrases import p_text, percent, rows_of, signed, spaced, span
from analysis.statistics.claims import QUESTIONS
from analysis.study.controls import failed_controls
from analysis.study.results import Results
from analysis.study.sentences import shares
from analysis.study.thresholds import NO_RULE

#: Kinds of test, beside accuracy against chance, whose value is a difference of shares.
UNITS = {"contrasts": " percentage points", "learning": " percentage points per ten trials"}


def of_study(results: Results) -> Iterator[str]:
    """Question, design, sample, main result, robustness and limits; one sentence or two each.

    A sentence says no more than its interval allows; nothing is said where nothing was estimated.
    Warnings of failed controls come first.
    """
    yield from (failed.warning for failed in failed_controls(results))
    responses = results.responses
    answers, study = responses.answers, responses.study
    steps = {row.step: row.participants for row in rows_of(responses.flow)}
    yield (
        "Question. Do people recognise the concepts of neurons in "
        f"{_networks(results)}, and do they see these concepts change during training?"
    )
    conditions = answers.groupby("task")["condition"].nunique()
    tasks = [f"{results.name(task)} ({_plural(n, 'condition')})" for task, n in conditions.items()]
    yield (
        f"Design. {len(tasks)} within-participant task{'s' * (len(tasks) != 1)}: "
        f"{', '.join(tasks)}; {_plural(answers['trial'].nunique(), 'trial')}; trials, exclusion "
        f"rules and tests frozen before data collection (hash {study.hash})."
    )
    kind = {
        "human": "participants",
        "pilot": "pilot participants",
        "simulated": "simulated participants",
    }
    yield (
        f"Sample. {steps['analysed']} of {steps['arrived']} {kind[responses.source]} were "
        f"analysed ({len(answers):,} responses)."
    )
    yield f"Main result. {_main(results)}"
    tests = results.claims
    tests = tests[tests["question"] != ""] if len(tests) else tests
    if len(tests):
        yield (
            f"All tests. {int(tests['claimed'].sum())} of {len(tests)} planned tests were "
            f"significant after adjustment; {int(tests['p'].isna().sum())} could not be computed."
        )
    yield (
        f"Limits. "
        f"{_plural(int(answers.groupby(['task', 'condition'])['trial'].nunique().min()), 'trial')} "
        f"in the smallest condition; the results generalise to similar trials and participants, "
        "not to other networks."
        + {
            "human": "",
            "pilot": " A pilot supports planning, not claims.",
            "simulated": " All responses are simulated and say nothing about people.",
        }[responses.source]
    )


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _networks(results: Results) -> str:
    neurons = results.responses.study.trials["neurons"].explode().dropna()
    series = sorted({neuron.series for neuron in neurons})
    return " and ".join(series) if series else "the networks studied"


def _main(results: Results) -> str:
    """The primary hypothesis: every test of it with effect, interval and adjusted p."""
    tests = results.claims
    primary = results.plan.primary
    if not primary or tests.empty:
        return "No primary hypothesis was frozen with the study."
    task, _, kind = primary.rpartition(".")
    main = tests[tests["question"] == primary]
    measure = f"{QUESTIONS.get(kind, kind)} ({results.name(task)})"
    if main["p"].isna().all():
        return f"The primary hypothesis, {measure}, could not be tested."
    parts = []
    for row in rows_of(main):
        name = spaced(row.what)
        if pd.isna(row.p):
            parts.append(f"{name} not testable")
            continue
        if kind == "chance":
            value = f"{percent(row.value)} against {percent(row.null)} expected by chance"
            ends = shares(results, row)
        else:
            times, form = (100, ".1f") if kind in UNITS else (1, ".2f")
            value = f"{signed(times * row.value, form)}{UNITS.get(kind, '')}"
            ends = f"{results.level} CI {span(row, form, times)}"
        parts.append(f"{name} {value} ({ends}; adjusted {p_text(row.p)})")
    return f"{measure[:1].upper()}{measure[1:]}: {'; '.join(parts)}. {_robustness(results)}".strip()


def _robustness(results: Results) -> str:
    """How many tests of the primary hypothesis are significant without any exclusion."""
    every = results.specifications
    tests = every[every["rule"] == NO_RULE].dropna(subset=["what"])
    if tests.empty:
        return ""
    return (
        f"Without exclusions, {int(tests['claimed'].sum())} of {_plural(len(tests), 'test')} of it "
        "remain significant."
    )
