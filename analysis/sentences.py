"""Sentences built from estimates, which never say more than the interval allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.claims import ALPHA, QUESTIONS
from analysis.published import REVERSION
from analysis.study import Results, held_out, task_name
from analysis.tables import spaced
from harness.records import PAIR


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
    """With its sign, as a true minus; what is rounded to zero has none."""
    text = format(value, f"+{form}")
    return (text[1:] if set(text[1:]) <= set("0.") else text).replace("-", "−")


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
    """Whether people tell changes from none: real ones, and such as must be seen."""
    if results.changed.empty:
        return
    rows: dict[str, Any] = {row["what"]: row for row in results.changed.to_dict("records")}
    seen = {"evolution": "real evolutions", "false_evolution": "false evolutions (two neurons)"}
    for signal, change in seen.items():
        if f"d′, {signal}" not in rows:
            continue
        d = rows[f"d′, {signal}"]
        size, low, high = (signed(d[name], ".2f") for name in ("value", "low", "high"))
        ends = f"d′ = {size}, interval {low} to {high}; {p_text(d['p'])}"
        hit, alarm = rows[signal]["value"], rows["same_stage"]["value"]
        rates = f"{percent(hit)} and {percent(alarm)} were judged changed"
        if d["claimed"] and d["value"] > 0:
            yield f"People told {change} from unchanged stages: {rates} ({ends})."
        elif d["claimed"]:
            yield f"People called unchanged stages changed more often than {change} ({ends})."
        else:
            yield (
                f"It is not shown that people tell {change} from unchanged stages: {rates} "
                f"({ends})."
            )
    if "evolution" in rows and "same_stage" not in rows:
        row = rows["evolution"]
        yield (
            f"Real evolutions were judged changed in {percent(row['value'])} of answers (interval "
            f"{interval(row['low'], row['high'])}); nothing without a change was shown beside them."
        )


def rated(results: Results) -> Iterator[str]:
    """One sentence a pair of conditions and scale."""
    if results.ratings.empty:
        return
    for row in rows_of(results.ratings[results.ratings["second"] != ""]):
        first, second = spaced(row.first), spaced(row.second)
        ends = f"interval {signed(row.low, '.2f')} to {signed(row.high, '.2f')}; {p_text(row.p)}"
        if row.claimed:
            way = "higher" if row.value > 0 else "lower"
            yield (
                f"In {row.task}, {row.asked} was {abs(row.value):.2f} {way} for {first} than for "
                f"{second}, on a scale from 1 to 4 ({ends})."
            )
        elif pd.notna(row.p):
            yield (
                f"In {row.task}, no difference of {row.asked} between {first} and {second} is "
                f"shown ({ends})."
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


def undone(results: Results) -> Iterator[str]:
    """What undoing evolutions does to predictions, pair by pair, and whether the order is known."""
    table = held_out(results)
    if table is None:
        return
    names = {"q1": "for the most important quarter", "random": "for a random one",
             "q4": "for the least important"}  # fmt: skip
    ordered, pairs = 0, 0
    for (series, start, end), rows in table.groupby(PAIR):
        changes = rows.set_index("arm")
        parts = [
            f"{signed(100 * changes['change'][arm], '.1f')} points (interval "
            f"{signed(100 * changes['low'][arm], '.1f')} to "
            f"{signed(100 * changes['high'][arm], '.1f')}) {name}"
            for arm, name in names.items()
            if arm in changes.index
        ]
        yield (
            f"{series}, epochs {start} → {end}: undoing the evolutions of one layer changed "
            f"accuracy by {', by '.join(parts)}."
        )
        if set(names) <= set(changes.index):
            pairs += 1
            ordered += changes["change"][list(names)].is_monotonic_increasing
    if pairs:
        theirs = sum(row[list(names)].is_monotonic_increasing for _, row in REVERSION.iterrows())
        yield (
            f"Most important, random, least important: that order of means, from the largest loss "
            f"to the smallest, holds in {ordered} of {pairs} pairs here and in {theirs} of "
            f"{len(REVERSION)} published ones."
        )


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
        of = f"of {len(tested)} associations of people's rate with what the networks know"
        none = len(others) == len(tested)
        yield (
            (f"None {of} is shown" if none else f"The other {len(others)} {of} are not shown")
            + f" (ρ from {signed(others['value'].min(), '.2f')} to "
            f"{signed(others['value'].max(), '.2f')}; {least}). "
            f"That is not evidence that there are none: their intervals reach from {extremes}."
        )
