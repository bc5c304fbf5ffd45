"""Sentences built from estimates, which never say more than the interval allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.exhibits.phrases import p_text, percent, rows_of, signed, spaced, span
from analysis.statistics.claims import ALPHA, CONTROL, QUESTIONS
from analysis.study.controls import failed_controls
from analysis.study.published import REVERSION
from analysis.study.results import Results, held_out
from harness.records import PAIR


def shares(results: Results, row: Any) -> str:
    """The interval of a share, in percent."""
    if pd.isna(row.low) or pd.isna(row.high):
        return "no interval estimable"
    return f"{results.level} CI [{100 * row.low:.0f} %, {100 * row.high:.0f} %]"


def control(row: Any) -> str:
    """Put before the name of a condition that only says whether the task works."""
    return "control " if row.question.endswith(CONTROL) else ""


def ps(row: Any) -> str:
    """The adjusted p; where no effect is claimed, the unadjusted one before it."""
    if pd.isna(row.p):
        return "not tested"
    if row.claimed or pd.isna(row.p_alone):
        return f"adjusted {p_text(row.p)}"
    return f"unadjusted {p_text(row.p_alone)}, adjusted {p_text(row.p)}"


def effect(results: Results, row: Any, form: str, times: float = 1.0) -> str:
    """The interval of an effect, which is not adjusted for multiplicity, and its p-values."""
    return f"unadjusted {results.level} CI {span(row, form, times)}; {ps(row)}"


def sizes(results: Results, row: Any) -> str:
    """Responses, participants and trials behind an estimate of one condition of one task."""
    answers = results.responses.answers
    here = (answers["task"].map(results.name) == row.task) & (answers["condition"] == row.condition)
    part = answers[here]
    return (
        f"{row.n:,} responses, {part['participant'].nunique()} participants, "
        f"{part['trial'].nunique()} trials"
    )


def main_question(results: Results) -> Iterator[str]:
    """The primary hypothesis, and how many of all tests are significant after adjustment."""
    tests = results.claims
    tests = tests[tests["question"] != ""] if len(tests) else tests
    if tests.empty:
        yield "No test could be computed."
        return
    yield from (failed.warning for failed in failed_controls(results))
    plan = results.plan
    task, _, kind = plan.primary.rpartition(".")
    main = tests[tests["question"] == plan.primary]
    data = {"human": "", "pilot": "Pilot data: ", "simulated": "Simulated data: "}
    source = data[results.responses.source]
    hypothesis = f"{QUESTIONS.get(kind, kind)} ({results.name(task)})"
    if not plan.primary:
        yield "No primary hypothesis was frozen with the study; all tests have the same weight."
    elif main["p"].notna().any():
        yield (
            f"The primary hypothesis, frozen before data collection, concerns {hypothesis}. "
            f"{source}{_counted(main)} significant after adjustment."
        )
    else:
        why = "; ".join(dict.fromkeys(main["reason"])) or "no analysed responses"
        yield (
            f"The primary hypothesis, frozen before data collection, concerns {hypothesis}. It "
            f"could not be tested ({why}); its share of α is not redistributed."
        )
    yield (
        f"{source}{_counted(tests)} significant after adjustment. The family-wise error rate is "
        f"{percent(ALPHA)}: about one null study in twenty yields any claim."
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
            "Tests that could not be computed although planned; their share of α is not "
            "redistributed: "
            f"{'; '.join(kinds)}."
        )
    least = 1 / (results.settings.permutations + 1)
    permuted = tests[tests.index.get_level_values(0).isin(["labels", "associations"])]
    left = tests.loc[~tests["claimed"], "weight"].sum()
    weak = permuted[~permuted["claimed"] & permuted["p"].notna()]
    if len(weak) and (least * left / weak["weight"] >= ALPHA).any():
        yield (
            f"With {results.settings.permutations} permutations, some tests cannot become "
            "significant after adjustment, however strong the effect; increase "
            "`analyse --permutations`."
        )


def _counted(tests: pd.DataFrame) -> str:
    """How many of some tests are claims, as the beginning of a sentence."""
    claimed = int(tests["claimed"].sum())
    one = "one test" if len(tests) == 1 else f"{len(tests)} tests"
    return f"Of {one}, {claimed} {'was' if claimed == 1 else 'were'}"


def against_chance(results: Results) -> Iterator[str]:
    """One sentence a condition of the tasks with a key; controls are called so."""
    for row in rows_of(results.tested("chance")):
        accuracy = (
            f"In {row.task}, {control(row)}condition {spaced(row.condition)}, "
            f"{percent(row.value)} of responses were correct ({shares(results, row)}; "
            f"{sizes(results, row)})"
        )
        chance = f"chance ({percent(row.null)}; {ps(row)})"
        if pd.isna(row.p):
            yield f"{accuracy}; the difference from chance ({percent(row.null)}) was not testable."
        elif row.claimed:
            way = "above" if row.value > row.null else "below"
            yield f"{accuracy}, significantly {way} {chance}."
        else:
            yield f"{accuracy}, not significantly different from {chance}."


#: Said once where tests are not significant.
NO_PROOF = "A non-significant test is not evidence that there is no difference"


def between_conditions(results: Results) -> Iterator[str]:
    """One sentence a significant contrast, and one for all others."""
    table = results.tested("contrasts")
    if table.empty:
        return
    table = table[table["question"] != ""]
    for row in rows_of(table[table["claimed"]]):
        yield (
            f"In {row.task}, accuracy was {abs(100 * row.value):.1f} percentage points "
            f"{'higher' if row.value > 0 else 'lower'} for {spaced(row.first)} than for "
            f"{spaced(row.second)} ({effect(results, row, '.1f', 100)})."
        )
    untested = [f"{row.task}, {spaced(row.what)}" for row in rows_of(table[table["p"].isna()])]
    table = table[table["p"].notna()]
    others = [
        f"{row.task}, {spaced(row.what)} ({signed(100 * row.value, '.1f')} percentage points, "
        f"{effect(results, row, '.1f', 100)})"
        for row in rows_of(table[~table["claimed"]])
    ]
    if others:
        yield f"No significant difference in accuracy: {'; '.join(others)}. {NO_PROOF}."
    if untested:
        yield f"Differences in accuracy that could not be tested: {'; '.join(untested)}."


def detection(results: Results) -> Iterator[str]:
    """Sensitivity to changes: of real evolutions, and of false ones as a control."""
    table = results.tested("detection")
    if table.empty:
        return
    changed = table[table["signal"] == ""].set_index("what")["value"]
    names = {"evolution": "real evolutions", "false_evolution": "false evolutions (two neurons)"}
    for row in rows_of(table[table["question"] != ""]):
        change = names[row.signal]
        rates = (
            f"{percent(changed[row.signal])} and {percent(changed['same_stage'])} of responses, "
            "respectively, were “changed”"
        )
        ends = f"d′ = {signed(row.value, '.2f')}"
        if pd.isna(row.p):
            yield (
                f"Sensitivity to {change}, compared with unchanged stages, could not be tested: "
                f"{rates} ({ends})."
            )
            continue
        ends += f", {effect(results, row, '.2f')}"
        if row.claimed and row.value > 0:
            yield f"Participants distinguished {change} from unchanged stages: {rates} ({ends})."
        elif row.claimed:
            yield f"Participants judged unchanged stages changed more often than {change} ({ends})."
        else:
            yield (
                f"Participants did not significantly distinguish {change} from unchanged stages: "
                f"{rates} ({ends})."
            )
    if "evolution" in changed and "same_stage" not in changed:
        row = next(rows_of(table[table["what"] == "evolution"]))
        yield (
            f"Real evolutions were judged changed in {percent(row.value)} of responses "
            f"({shares(results, row)}); without unchanged stages for comparison, sensitivity "
            "cannot be estimated."
        )


def rated(results: Results) -> Iterator[str]:
    """One sentence a pair of conditions and scale."""
    table = results.tested("ratings")
    if table.empty:
        return
    for row in rows_of(table[table["question"] != ""]):
        first, second = spaced(row.first), spaced(row.second)
        rating = f"In {row.task}, the mean of “{row.asked}”"
        if row.claimed:
            yield (
                f"{rating} was {abs(row.value):.2f} {'higher' if row.value > 0 else 'lower'} for "
                f"{first} than for {second} ({effect(results, row, '.2f')})."
            )
        elif pd.notna(row.p):
            yield (
                f"{rating} did not differ significantly between {first} and {second} (difference "
                f"{signed(row.value, '.2f')}, {effect(results, row, '.2f')})."
            )


def naming(results: Results) -> Iterator[str]:
    """Similarity of labels of the same pictures, compared with labels of other trials."""
    for row in rows_of(results.tested("labels")):
        if pd.isna(row.value):
            continue
        more = "significantly" if row.claimed else "not significantly"
        yield (
            f"In {row.task}, {control(row)}{spaced(row.condition)}, labels of the same pictures "
            f"were {more} more similar than labels of different trials (mean similarity "
            f"{row.value:.2f} and {row.null:.2f}; {ps(row)})."
        )


def sessions(results: Results) -> Iterator[str]:
    """Learning and confidence."""
    for row in rows_of(results.tested("learning")):
        if pd.isna(row.p):
            continue
        change = (
            f"{signed(100 * row.value, '.1f')} percentage points per ten trials, "
            f"{effect(results, row, '.1f', 100)}"
        )
        if row.claimed:
            verb = "increased" if row.value > 0 else "decreased"
            yield f"In {row.task}, accuracy {verb} significantly over the session ({change})."
        else:
            yield (
                f"In {row.task}, accuracy did not change significantly over the session ({change})."
            )
    for row in rows_of(results.tested("confidence")):
        if pd.isna(row.p):
            continue
        ends = f"type-2 AUC = {row.value:.2f}, {effect(results, row, '.2f')}".replace("+", "")
        if row.claimed and row.value < row.null:
            yield (
                f"In {row.task}, confidence was higher for incorrect than for correct responses "
                f"({ends})."
            )
        elif row.claimed:
            yield (
                f"In {row.task}, confidence discriminated correct from incorrect responses "
                f"({ends})."
            )
        else:
            yield (
                f"In {row.task}, confidence did not significantly discriminate correct from "
                f"incorrect responses ({ends})."
            )


def undone(results: Results) -> Iterator[str]:
    """What reverting evolutions does to predictions, pair by pair, and whether the order holds."""
    table = held_out(results)
    if table is None:
        return
    names = {
        "q1": "for the most important quarter",
        "matched": "for sets matched in size of change",
        "random": "for random sets",
        "q4": "for the least important quarter",
    }
    order = ["q1", "random", "q4"]
    ordered, pairs = 0, 0
    for (series, start, end), rows in table.groupby(PAIR):
        changes = rows.set_index("arm")
        parts = [
            f"{signed(100 * changes['change'][arm], '.1f')} percentage points ({results.level} CI "
            f"{span(changes.loc[arm], '.1f', 100)}) {name}"
            for arm, name in names.items()
            if arm in changes.index
        ]
        yield (
            f"{series}, epochs {start} → {end}: reverting the evolutions of one layer changed "
            f"accuracy, on average over layers, by {', by '.join(parts)}."
        )
        if set(order) <= set(changes.index):
            pairs += 1
            ordered += changes["change"][order].is_monotonic_increasing
    if pairs:
        theirs = sum(row[order].is_monotonic_increasing for _, row in REVERSION.iterrows())
        yield (
            f"The loss is largest for the most important quarter, smaller for random sets and "
            f"smallest for the least important quarter in {ordered} of {pairs} pairs of epochs "
            f"here and in {theirs} of {len(REVERSION)} published ones (order of means)."
        )


def meetings(results: Results) -> Iterator[str]:
    """A sentence for each significant association, and one for all others."""
    names = {
        "importance": "the importance of the evolution",
        "drop": "the change in accuracy when the evolution is reverted",
        "displacement": "displacement in the semantic space",
        "observer_clarity": "clarity to the machine observer",
    }
    tested = results.tested("associations")
    if tested.empty or (tested := tested.dropna(subset=["value"])).empty:
        return
    with_key = set(map(results.name, results.choice_tasks))
    for row in rows_of(tested[tested["claimed"]]):
        rate = "accuracy" if row.task in with_key else "the share judged changed"
        yield (
            f"In {row.task}, {rate} {'increased' if row.value > 0 else 'decreased'} with "
            f"{names[row.evidence]} (Spearman's ρ = {signed(row.value, '.2f')}, "
            f"{effect(results, row, '.2f')})."
        )
    others = tested[~tested["claimed"]]
    if len(others):
        of = f"of {len(tested)} Spearman correlations between participants' answers and networks"
        none = len(others) == len(tested)
        least, most = signed(others["value"].min(), ".2f"), signed(others["value"].max(), ".2f")
        low, high = signed(others["low"].min(), ".2f"), signed(others["high"].max(), ".2f")
        yield (
            (f"None {of} was" if none else f"The other {len(others)} {of} were not")
            + f" significant after adjustment (ρ from {least} to {most}; smallest adjusted "
            f"{p_text(others['p'].min())}). Their {results.level} CIs reach from {low} to {high}, "
            "so associations of that size are not excluded."
        )
