"""The structured abstract of a study's report, made from its estimates alone."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.statistics.claims import QUESTIONS
from analysis.study.results import Results
from analysis.study.sentences import p_text, percent, rows_of, signed
from analysis.study.thresholds import main_result

#: Kinds of test whose value is a share or a difference of shares, shown in percent.
PERCENT = {"chance": "{:.0f} %", "contrasts": "{:+.1f} percentage points", "learning": "{:+.1f}"}


def of_study(results: Results) -> Iterator[str]:
    """Question, design, sample, main result, robustness and limits; one sentence or two each.

    A sentence says no more than its interval allows; nothing is said where nothing was estimated.
    """
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
        if pd.isna(row.p):
            parts.append(f"{row.what.replace('_', ' ')} not testable")
            continue
        times = 100 if kind in PERCENT else 1
        form = PERCENT.get(kind, "{:+.2f}")
        ends = (
            "no interval estimable"
            if pd.isna(row.low)
            else f"{results.level} CI [{_number(times * row.low, kind)}, "
            f"{_number(times * row.high, kind)}]"
        )
        value = form.format(times * row.value).replace("-", "−")
        against = f" against {percent(row.null)} expected by chance" if kind == "chance" else ""
        parts.append(
            f"{row.what.replace('_', ' ')} {value}{against} ({ends}; adjusted {p_text(row.p)})"
        )
    return f"{measure[:1].upper()}{measure[1:]}: {'; '.join(parts)}. {_robustness(results)}".strip()


def _number(value: float, kind: str) -> str:
    return (
        f"{value:.0f} %" if kind == "chance" else signed(value, ".1f" if kind in PERCENT else ".2f")
    )


def _robustness(results: Results) -> str:
    """How many tests of the primary hypothesis are significant without any exclusion."""
    everyone = results.reload({})
    found = main_result(Results(everyone, results.settings, results.reload, None))
    if found.empty or "claimed" not in found:
        return ""
    return (
        f"Without exclusions, {int(found['claimed'].sum())} of {_plural(len(found), 'test')} of it "
        "remain significant."
    )
