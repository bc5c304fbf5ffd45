"""Sentences built from estimates, which never say more than the interval allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.claims import ALPHA, QUESTIONS
from analysis.study import Results, task_name
from analysis.tables import spaced


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """Rows with columns as attributes (pandas' stubs know nothing of their types)."""
    return iter(table.itertuples(index=False))


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def interval(low: float, high: float) -> str:
    return f"{100 * low:.0f}–{100 * high:.0f} %"


def p_text(p: float) -> str:
    """American style: p < .001, p = .032, p = 1; nothing is said of an undefined one."""
    if pd.isna(p):
        return "not tested"
    if p < 0.001:
        return "p < .001"
    return "p = 1" if p > 0.9995 else f"p = {p:.3f}".replace("0.", ".", 1)


def signed(value: float, form: str) -> str:
    """With its sign, as a true minus."""
    return format(value, f"+{form}").replace("-", "−")


def main_question(results: Results) -> Iterator[str]:
    """What was asked first of all, and how many of all tests may be claimed."""
    tests = results.claims.dropna(subset=["p"]) if len(results.claims) else results.claims
    if tests.empty:
        yield "Nothing could be tested."
        return
    plan = results.plan
    task, _, kind = plan.primary.rpartition(".")
    main = tests[tests["question"] == plan.primary]
    if not plan.primary:
        yield "No main question was frozen with the study, so that all tests weigh the same."
    elif main.empty:
        yield (
            f"The main question, {QUESTIONS[kind]} ({task_name(task)}), could not be tested, so "
            f"that all other tests weigh the same."
        )
    else:
        yield (
            f"The main question, frozen before the first participant: {QUESTIONS[kind]} "
            f"({task_name(task)}). {_counted(main)}."
        )
    yield (
        f"{_counted(tests)}, all corrected together. Where there is nothing to find, a report "
        f"with any claim in it, of whatever kind, comes out of {percent(ALPHA)} of studies at most."
    )


def _counted(tests: pd.DataFrame) -> str:
    """How many of some tests may be claimed, as the beginning of a sentence."""
    n = int(tests["claimed"].sum())
    one = "its one test" if len(tests) == 1 else f"{len(tests)} tests"
    return f"Of {one}, {n} may be claimed"


def against_chance(results: Results) -> Iterator[str]:
    """One sentence a condition of the tasks with a key."""
    for row in rows_of(results.accuracy):
        found = (
            f"In {row.task}, condition {spaced(row.condition)}, {percent(row.value)} of "
            f"{row.n} answers were right ({100 * row.level:g} % interval "
            f"{interval(row.low, row.high)})"
        )
        if pd.isna(row.p):
            yield f"{found}; chance ({percent(row.null)}) could not be tested."
        elif row.claimed:
            way = "more" if row.value > row.null else "less"
            yield f"{found}: {way} than the {percent(row.null)} of guessing ({p_text(row.p)})."
        else:
            yield (
                f"{found}: this study cannot tell it from guessing ({percent(row.null)}, "
                f"{p_text(row.p)})."
            )


def between_conditions(results: Results) -> Iterator[str]:
    """One sentence a pair."""
    table = results.contrasts
    if table.empty:
        return
    for row in rows_of(table[table["measure"] == "risk difference"]):
        first, second = spaced(row.first), spaced(row.second)
        size = f"{abs(100 * row.value):.0f} points"
        ends = (
            f"interval of this pair alone {signed(100 * row.low, '.0f')} to "
            f"{signed(100 * row.high, '.0f')} points"
        )
        if row.claimed:
            way = "more" if row.value > 0 else "fewer"
            yield (
                f"In {row.task}, {first} had {size} {way} right answers than {second} "
                f"({ends}; {p_text(row.p)})."
            )
        elif pd.notna(row.p):
            yield (
                f"In {row.task}, no difference between {first} and {second} is shown "
                f"({ends}; {p_text(row.p)}); that is not evidence that there is none."
            )


def detection(results: Results) -> Iterator[str]:
    """Whether people tell real changes from none."""
    if results.changed.empty:
        return
    rows: dict[str, Any] = {row["what"]: row for row in results.changed.to_dict("records")}
    if "d′" in rows:
        d = rows["d′"]
        size, low, high = (signed(d[name], ".2f") for name in ("value", "low", "high"))
        ends = f"d′ = {size}, interval {low} to {high}; {p_text(d['p'])}"
        hit, alarm = rows["hit rate"]["value"], rows["false-alarm rate"]["value"]
        rates = f"{percent(hit)} of false evolutions and {percent(alarm)} of unchanged stages"
        if d["claimed"] and d["value"] > 0:
            yield f"People told changes from none: {rates} were judged changed ({ends})."
        elif d["claimed"]:
            yield f"People called unchanged stages changed more often than changes ({ends})."
        else:
            yield f"It is not shown that people tell changes from none: {rates} ({ends})."
    if "evolution" in rows:
        row = rows["evolution"]
        yield (
            f"Real evolutions were judged changed in {percent(row['value'])} of answers (interval "
            f"{interval(row['low'], row['high'])})."
        )


def naming(results: Results) -> Iterator[str]:
    for row in rows_of(results.labels):
        what = f"{row.task}, {spaced(row.condition)}"
        if pd.isna(row.value):
            continue
        if row.claimed:
            yield (
                f"In {what}, labels of the same pictures were more alike ({row.value:.2f}) than "
                f"shuffled ones ({row.value - row.effect:.2f}; {p_text(row.p)})."
            )
        else:
            yield (
                f"In {what}, labels of the same pictures were not shown to be more alike than "
                f"shuffled ones ({row.value:.2f} against {row.value - row.effect:.2f}; "
                f"{p_text(row.p)})."
            )


def sessions(results: Results) -> Iterator[str]:
    """Learning and confidence."""
    for row in rows_of(results.behaviour):
        if pd.isna(row.p):
            continue
        if row.measure.startswith("change of accuracy"):
            ends = f"interval {signed(100 * row.low, '.1f')} to {signed(100 * row.high, '.1f')}"
            change = f"{signed(100 * row.value, '.1f')} points per ten trials, {ends}; "
            change += p_text(row.p)
            if row.claimed:
                verb = "improved" if row.value > 0 else "declined"
                yield f"In {row.task}, accuracy {verb} over the session ({change})."
            else:
                yield f"In {row.task}, no change of accuracy over the session is shown ({change})."
        elif row.measure.startswith("confidence"):
            ends = f"type-2 area {row.value:.2f}, interval {row.low:.2f} to {row.high:.2f}; "
            ends += p_text(row.p)
            if row.claimed and row.value < 0.5:
                yield f"In {row.task}, people were surer of wrong answers than of right ({ends})."
                continue
            told = "told" if row.claimed else "is not shown to tell"
            yield f"In {row.task}, confidence {told} right answers from wrong ones ({ends})."


def meetings(results: Results) -> Iterator[str]:
    """A sentence for each association that is shown, and one for all that are not."""
    names = {
        "importance": "the importance of the evolution",
        "drop": "the change of accuracy when the evolution is undone",
        "displacement": "displacement in the space",
        "observer_clarity": "clarity to the machine observer",
    }
    if results.associations.empty:
        return
    tested = results.associations.dropna(subset=["value"])
    for row in rows_of(tested[tested["claimed"]]):
        way = "rose" if row.value > 0 else "fell"
        yield (
            f"In {row.task}, people's rate {way} with {names[row.evidence]} (ρ = "
            f"{signed(row.value, '.2f')}, interval of this one alone {signed(row.low, '.2f')} to "
            f"{signed(row.high, '.2f')}; {p_text(row.p)})."
        )
    others = tested[~tested["claimed"]]
    if len(others):
        extremes = f"{signed(others['low'].min(), '.2f')} to {signed(others['high'].max(), '.2f')}"
        least = p_text(others["p"].min()) + (" or more" if others["p"].min() < 1 else "")
        yield (
            f"Of {len(tested)} associations of people's rate with what the networks know, "
            f"{len(others)} are not shown (ρ from {signed(others['value'].min(), '.2f')} to "
            f"{signed(others['value'].max(), '.2f')}; {least}). "
            f"That is not evidence that there are none: their intervals reach "
            f"from {extremes}."
        )
