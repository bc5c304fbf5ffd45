"""Sentences built from estimates, which never say more than the interval allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.exhibits.tables import spaced
from analysis.statistics.claims import ALPHA, CONTROL, QUESTIONS
from analysis.study.published import REVERSION
from analysis.study.results import Results, held_out
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


def span(row: Any, form: str, times: float = 1.0) -> str:
    """The ends of an interval, with their signs."""
    return f"{signed(times * row.low, form)} to {signed(times * row.high, form)}"


def control(row: Any) -> str:
    """Put before the name of a condition that only says whether the task works."""
    return "control " if row.question.endswith(CONTROL) else ""


def ps(row: Any) -> str:
    """The corrected p; where nothing may be claimed, the test's own before it."""
    if row.claimed or pd.isna(row.p_alone):
        return p_text(row.p)
    return f"{p_text(row.p_alone)} alone, {p_text(row.p)} corrected"


def main_question(results: Results) -> Iterator[str]:
    """What was asked first of all, and how many of all tests may be claimed."""
    tests = results.claims
    tests = tests[tests["question"] != ""] if len(tests) else tests
    if tests.empty:
        yield "Nothing could be tested."
        return
    plan = results.plan
    task, _, kind = plan.primary.rpartition(".")
    main = tests[tests["question"] == plan.primary]
    may = {
        "human": "may be claimed",
        "pilot": "would be claimed, were this not a pilot",
        "simulated": "would be claimed, had people given these answers",
    }[results.responses.source]
    if not plan.primary:
        yield "No main question was frozen with the study, so that all tests weigh the same."
    elif main["p"].isna().all():
        why = "; ".join(dict.fromkeys(main["reason"])) or "no analysed answers"
        yield (
            f"The main question, {QUESTIONS.get(kind, kind)} ({results.name(task)}), could not be "
            f"tested: {why}. Its part of the {percent(ALPHA)} is kept."
        )
    else:
        yield (
            f"The main question, frozen before the first participant: {QUESTIONS.get(kind, kind)} "
            f"({results.name(task)}). {_counted(main)} {may}."
        )
    yield (
        f"{_counted(tests)} {may}; all are corrected together, so that of studies in which there "
        f"is nothing to find about {percent(ALPHA)} claim anything."
    )
    unmade = tests[tests["p"].isna()]
    if len(unmade):
        kinds = [
            f"{rows['task'].iloc[0]}, {QUESTIONS.get(kind, kind)}: "
            f"{', '.join(map(spaced, rows['what']))} ({spaced(str(why))})"
            for (question, kind, why), rows in unmade.groupby(
                ["question", unmade.index.get_level_values(0), "reason"], sort=False
            )
        ]
        yield (
            f"Tests that could not be made, and keep their part of the {percent(ALPHA)}: "
            f"{'; '.join(kinds)}."
        )
    least = 1 / (results.settings.permutations + 1)
    permuted = tests[tests.index.get_level_values(0).isin(["labels", "associations"])]
    left = tests.loc[~tests["claimed"], "weight"].sum()
    weak = permuted[~permuted["claimed"] & permuted["p"].notna()]
    if len(weak) and (least * left / weak["weight"] >= ALPHA).any():
        yield (
            f"{results.settings.permutations} permutations are too few for some tests to be "
            f"claimed however strong they are: give analyse more."
        )


def _counted(tests: pd.DataFrame) -> str:
    """How many of some tests are claims, as the beginning of a sentence."""
    one = "its one test" if len(tests) == 1 else f"{len(tests)} tests"
    return f"Of {one}, {int(tests['claimed'].sum())}"


def against_chance(results: Results) -> Iterator[str]:
    """One sentence a condition of the tasks with a key; controls are called so."""
    for row in rows_of(results.tested("chance")):
        found = (
            f"In {row.task}, {control(row)}condition {spaced(row.condition)}, "
            f"{percent(row.value)} of {row.n} answers were right ({100 * row.level:g} % interval "
            f"{interval(row.low, row.high)})"
        )
        if pd.isna(row.p):
            yield f"{found}; chance ({percent(row.null)}) could not be tested."
        elif row.claimed:
            way = "more" if row.value > row.null else "less"
            yield f"{found}: {way} than the {percent(row.null)} of guessing ({ps(row)})."
        else:
            yield f"{found}: not told from the {percent(row.null)} of guessing ({ps(row)})."


#: Said once where tests are not claimed.
NO_PROOF = "That is no evidence that there is no difference"


def between_conditions(results: Results) -> Iterator[str]:
    """One sentence a pair that differs, and one for all that are not shown to."""
    table = results.tested("contrasts")
    if table.empty:
        return
    table = table[table["question"] != ""]
    for row in rows_of(table[table["claimed"]]):
        way = "more" if row.value > 0 else "fewer"
        yield (
            f"In {row.task}, {spaced(row.first)} had {abs(100 * row.value):.0f} points {way} right "
            f"answers than {spaced(row.second)} (interval of this pair alone "
            f"{span(row, '.0f', 100)}; {ps(row)})."
        )
    untested = [f"{row.task}, {spaced(row.what)}" for row in rows_of(table[table["p"].isna()])]
    table = table[table["p"].notna()]
    others = [
        f"{row.task}, {spaced(row.what)} ({signed(100 * row.value, '.0f')} points, "
        f"{span(row, '.0f', 100)}; {ps(row)})"
        for row in rows_of(table[~table["claimed"]])
    ]
    if others:
        yield f"Not shown to differ: {'; '.join(others)}. {NO_PROOF}."
    if untested:
        yield f"Differences that could not be tested: {'; '.join(untested)}."


def detection(results: Results) -> Iterator[str]:
    """Whether people tell changes from none: real ones, and (a control) such as must be seen."""
    table = results.tested("detection")
    if table.empty:
        return
    shares = table[table["signal"] == ""].set_index("what")["value"]
    seen = {"evolution": "real evolutions", "false_evolution": "false evolutions (two neurons)"}
    for row in rows_of(table[table["question"] != ""]):
        change = seen[row.signal]
        rates = f"{percent(shares[row.signal])} and {percent(shares['same_stage'])}"
        ends = f"d′ = {signed(row.value, '.2f')}"
        if pd.isna(row.p):
            yield (
                f"Whether people tell {change} from unchanged stages could not be tested: {rates} "
                f"were judged changed ({ends})."
            )
            continue
        ends += f", interval {span(row, '.2f')}; {ps(row)}"
        if row.claimed and row.value > 0:
            yield (
                f"People told {change} from unchanged stages: {rates} were judged changed ({ends})."
            )
        elif row.claimed:
            yield f"People called unchanged stages changed more often than {change} ({ends})."
        else:
            yield (
                f"It is not shown that people tell {change} from unchanged stages: {rates} were "
                f"judged changed ({ends})."
            )
    if "evolution" in shares and "same_stage" not in shares:
        row = table[table["what"] == "evolution"].iloc[0]
        yield (
            f"Real evolutions were judged changed in {percent(row['value'])} of answers (interval "
            f"{interval(row['low'], row['high'])}); nothing without a change was shown beside them."
        )


def rated(results: Results) -> Iterator[str]:
    """One sentence a pair of conditions and scale."""
    table = results.tested("ratings")
    if table.empty:
        return
    for row in rows_of(table[table["question"] != ""]):
        first, second = spaced(row.first), spaced(row.second)
        ends = f"interval {span(row, '.2f')}; {ps(row)}"
        if row.claimed:
            way = "higher" if row.value > 0 else "lower"
            yield (
                f"In {row.task}, {row.asked} was {abs(row.value):.2f} {way} for {first} than for "
                f"{second} ({ends})."
            )
        elif pd.notna(row.p):
            yield (
                f"In {row.task}, no difference of {row.asked} between {first} and {second} is "
                f"shown ({ends})."
            )


def naming(results: Results) -> Iterator[str]:
    for row in rows_of(results.tested("labels")):
        what = f"{row.task}, {control(row)}{spaced(row.condition)}"
        if pd.isna(row.value):
            continue
        if row.claimed:
            yield (
                f"In {what}, labels of the same pictures were more alike ({row.value:.2f}) than "
                f"those of other trials ({row.null:.2f}; {ps(row)})."
            )
        else:
            yield (
                f"In {what}, labels of the same pictures were not shown to be more alike than "
                f"those of other trials ({row.value:.2f} against {row.null:.2f}; {ps(row)})."
            )


def sessions(results: Results) -> Iterator[str]:
    """Learning and confidence."""
    for row in rows_of(results.tested("learning")):
        if pd.isna(row.p):
            continue
        change = (
            f"{signed(100 * row.value, '.1f')} points per ten trials, interval "
            f"{span(row, '.1f', 100)}; {ps(row)}"
        )
        if row.claimed:
            verb = "improved" if row.value > 0 else "declined"
            yield f"In {row.task}, accuracy {verb} over the session ({change})."
        else:
            yield f"In {row.task}, no change of accuracy over the session is shown ({change})."
    for row in rows_of(results.tested("confidence")):
        if pd.isna(row.p):
            continue
        ends = f"type-2 area {row.value:.2f}, interval {row.low:.2f} to {row.high:.2f}; {ps(row)}"
        if row.claimed and row.value < row.null:
            yield f"In {row.task}, people were surer of wrong answers than of right ({ends})."
        else:
            told = "told" if row.claimed else "is not shown to tell"
            yield f"In {row.task}, confidence {told} right answers from wrong ones ({ends})."


def undone(results: Results) -> Iterator[str]:
    """What undoing evolutions does to predictions, pair by pair, and whether the order is known."""
    table = held_out(results)
    if table is None:
        return
    names = {"q1": "for the most important quarter", "matched": "for one that changed as much",
             "random": "for a random one", "q4": "for the least important"}  # fmt: skip
    order = ["q1", "random", "q4"]
    ordered, pairs = 0, 0
    for (series, start, end), rows in table.groupby(PAIR):
        changes = rows.set_index("arm")
        parts = [
            f"{signed(100 * changes['change'][arm], '.1f')} points ({results.level} interval "
            f"{span(changes.loc[arm], '.1f', 100)}) {name}"
            for arm, name in names.items()
            if arm in changes.index
        ]
        yield (
            f"{series}, epochs {start} → {end}: undoing the evolutions of one layer changed "
            f"accuracy, on average over layers, by {', by '.join(parts)}."
        )
        if set(order) <= set(changes.index):
            pairs += 1
            ordered += changes["change"][order].is_monotonic_increasing
    if pairs:
        theirs = sum(row[order].is_monotonic_increasing for _, row in REVERSION.iterrows())
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
    tested = results.tested("associations")
    if tested.empty or (tested := tested.dropna(subset=["value"])).empty:
        return
    for row in rows_of(tested[tested["claimed"]]):
        way = "rose" if row.value > 0 else "fell"
        yield (
            f"In {row.task}, people's rate {way} with {names[row.evidence]} (ρ = "
            f"{signed(row.value, '.2f')}, interval of this one alone {span(row, '.2f')}; "
            f"{ps(row)})."
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
