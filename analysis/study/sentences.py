"""Sentences made from estimates, which state no more than the intervals allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.phrases import joined, p_text, percent, rows_of, signed, spaced, span
from analysis.exhibits.tables import Table
from analysis.statistics.claims import ALPHA, CONTROL, QUESTIONS, is_control
from analysis.study.association import MEASURES
from analysis.study.controls import failed_controls, outcomes
from analysis.study.frozen_study import FrozenStudy
from analysis.study.results import Results
from harness.text import pluralise


def shares(results: Results, row: Any) -> str:
    """Return the interval of a share, in percent."""
    if pd.isna(row.low) or pd.isna(row.high):
        return "no interval estimable"
    return f"unadjusted {results.level} CI [{percent(row.low)}, {percent(row.high)}]"


def control(row: Any) -> str:
    """Return the words that precede the name of a control condition."""
    return "control " if row.question.endswith(CONTROL) else ""


def ps(row: Any) -> str:
    """Return the adjusted p; if no effect is claimed, preceded by the unadjusted p."""
    if pd.isna(row.p):
        return "not tested"
    if row.claimed or pd.isna(row.p_alone):
        return f"adjusted {p_text(row.p)}"
    return f"unadjusted {p_text(row.p_alone)}, adjusted {p_text(row.p)}"


def effect(results: Results, row: Any, form: str, times: float = 1.0) -> str:
    """Return the interval of an effect, which is not adjusted for multiplicity, and its
    p-values."""
    return f"unadjusted {results.level} CI {span(row, form, times)}; {ps(row)}"


def claim_rule(level: str) -> str:
    """Return the rule by which an effect is claimed, as stated everywhere."""
    return (
        "An effect is claimed if its adjusted p-value is below .05 and, where an interval can be "
        f"estimated, the unadjusted {level} CI excludes the null value."
    )


def division(study: FrozenStudy) -> str:
    """Return how the trials are divided among participants, as a clause."""
    trials, forms = pluralise(len(study.data), "trial"), len(study.study.forms)
    if forms < 2:
        return f"every participant was assigned the same {trials}"
    return f"the {trials} are divided into {forms} forms, of which a participant was assigned one"


def hypothesis(results: Results) -> str:
    """Return the primary hypothesis in words, "" if none was frozen."""
    task, _, kind = results.plan.primary.rpartition(".")
    return f"{QUESTIONS.get(kind, kind)} in {results.name(task)}" if task else ""


def main_question(results: Results) -> Iterator[str]:
    """Yield failed controls, the primary hypothesis, and how many of all tests are significant."""
    yield from (failed.warning for failed in failed_controls(results))
    yield from primary(results, {})
    if len(results.claims):
        yield f"{all_tests(results.claims)}."


@shelf.sentences("study", "claims")
def primary(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield the primary hypothesis, and which tests could not be computed."""
    tests = results.claims
    tests = tests[tests["question"] != ""] if len(tests) else tests
    if tests.empty:
        yield "No test could be computed."
        return
    plan = results.plan
    main = tests[tests["question"] == plan.primary]
    data = {"human": "", "pilot": "Pilot data: ", "simulated": "Simulated data: "}
    source = data[results.responses.source]
    if plan.primary:
        why = "; ".join(dict.fromkeys(main["reason"])) or "no analysed responses"
        yield (
            f"The primary hypothesis, frozen before data collection, concerns "
            f"{hypothesis(results)}. "
            + (
                f"{source}{_counted(main, 'test')} significant after adjustment."
                if main["p"].notna().any()
                else f"It could not be tested ({why}); its share of α is not redistributed."
            )
        )
    else:
        yield "No primary hypothesis was frozen with the study; all tests have the same weight."
    for noun, some in by_role(tests):
        unmade = some[some["p"].isna()]
        if unmade.empty:
            continue
        yield (
            f"Tests that could not be computed: {pluralise(len(unmade), noun)} ({named(unmade)}). "
            f"{'Its' if len(unmade) == 1 else 'Their'} share of α is not redistributed."
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
    if "claims" in tables:
        yield "All planned tests and control tests are in [table:claims]."


def named(tests: pd.DataFrame) -> str:
    """Name tests (rows of `Results.claims`) by question, with the reasons why they are not
    computed."""
    return "; ".join(
        f"{QUESTIONS.get(kind, kind)} in {rows['task'].iloc[0]}, "
        f"{joined([MEASURES.get(what, spaced(what)) for what in rows['what']])} "
        f"[{spaced(str(why))}]"
        for (question, kind, why), rows in tests.groupby(
            ["question", tests.index.get_level_values(0), "reason"], sort=False
        )
    )


def by_role(tests: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield planned tests and control tests, each with its noun; empty ones are skipped."""
    control = is_control(tests)
    for noun, some in (("planned test", tests[~control]), ("control test", tests[control])):
        if len(some):
            yield noun, some


def all_tests(tests: pd.DataFrame) -> str:
    """Return how many planned tests are significant, and the outcomes of the control tests."""
    tests = tests[tests["question"] != ""]
    planned = tests[~is_control(tests)]
    said = (
        f"{int(planned['claimed'].sum())} of {len(planned)} planned tests were significant after "
        "adjustment"
    )
    if missing := int(planned["p"].isna().sum()):
        said += f"; {missing} could not be computed"
    if counts := outcomes(tests):
        names = ["passed", "failed", "not tested"]
        said += ". Control tests (see Method): "
        said += ", ".join(f"{counts.get(name, 0)} {name}" for name in names)
        if counts.get("inconclusive"):
            said += f", {counts['inconclusive']} inconclusive"
        if counts.get(""):
            said += f", {counts['']} without a criterion"
    return said


def _counted(tests: pd.DataFrame, noun: str) -> str:
    """Return how many of some tests are claimed, as the beginning of a sentence."""
    claimed, every = int(tests["claimed"].sum()), len(tests)
    if every == 1:
        return f"The {noun} was{'' if claimed else ' not'}"
    return f"{claimed} of {every} {noun}s {'was' if claimed == 1 else 'were'}"


#: Claim about accuracy -> its comparison with chance in words.
VERDICTS = {
    "above": "significantly above chance",
    "below": "significantly below chance",
    "not": "not significantly different from chance",
    "untested": "not testable against chance",
}


def _verdict(row: Any) -> str:
    if pd.isna(row.p):
        return "untested"
    if not row.claimed:
        return "not"
    return "above" if row.value > row.null else "below"


@shelf.sentences("study", "accuracy")
def against_chance(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield one sentence for the conditions of a task with the same verdict; controls are
    separate."""
    if (table := results.tested("chance")).empty:
        return
    table = table.assign(control=is_control(table), verdict=[*map(_verdict, rows_of(table))])
    for (task, control, null, verdict), rows in table.groupby(
        ["task", "control", "null", "verdict"], sort=False
    ):
        where = "control condition" if control else "condition"
        named = [
            f"{spaced(row.condition)} ({percent(row.value)}, {shares(results, row)}; {ps(row)})"
            for row in rows_of(rows)
        ]
        yield (
            f"In {task}, accuracy was {VERDICTS[str(verdict)]} ({percent(null)}) in the "
            f"{where}{'s' * (len(rows) > 1)} {joined(named)}."
        )


#: Said once where tests are not significant.
NO_PROOF = "A non-significant test is not evidence that there is no difference"


@shelf.sentences("study", "contrasts")
def between_conditions(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield one sentence per significant contrast, and one for all others."""
    if (table := results.tested("contrasts")).empty:
        return
    table = table[table["question"] != ""]
    for row in rows_of(table[table["claimed"]]):
        larger, smaller = row.first, row.second
        if row.value < 0:
            larger, smaller = smaller, larger
            row = row._replace(value=-row.value, low=-row.high, high=-row.low)
        yield (
            f"In {row.task}, accuracy was {100 * row.value:.1f} percentage points higher for "
            f"{spaced(larger)} than for {spaced(smaller)} "
            f"({'control test; ' if control(row) else ''}{effect(results, row, '.1f', 100)})."
        )
    yield from _others(table, "differences in accuracy between conditions", "contrasts")
    untested = [f"{row.task}, {spaced(row.what)}" for row in rows_of(table[table["p"].isna()])]
    if untested:
        yield f"Differences in accuracy that could not be tested: {'; '.join(untested)}."


def _others(tests: pd.DataFrame, what: str, name: str) -> Iterator[str]:
    """Yield one sentence for the tests that are not significant, with a reference to their
    table."""
    tested = tests[tests["p"].notna()]
    others = int((~tested["claimed"]).sum())
    if others == len(tested):
        none = f"None of the {others} {what} was"
        subject = none if others > 1 else f"The only tested one of the {what} was not"
    else:
        rest = f"The other {others} {what} were not"
        subject = rest if others > 1 else f"One other of the {what} was not"
    if others:
        yield f"{subject} significant after adjustment ([table:{name}]). {NO_PROOF}."


@shelf.sentences("study", "evolution")
def detection(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield the sensitivity to real evolutions, and to false ones as a control."""
    if (table := results.tested("detection")).empty:
        return
    changed = table[table["signal"] == ""].set_index("what")["value"]
    names = {"evolution": "real evolutions", "false_evolution": "false evolutions (two neurons)"}
    for row in rows_of(table[table["question"] != ""]):
        change = names[row.signal]
        rates = (
            f"{percent(changed[row.signal])} of the former and {percent(changed['same_stage'])} of "
            "the latter were judged changed"
        )
        ends = f"d′ = {row.value:.2f}".replace("-", "−")
        if pd.isna(row.p):
            yield (
                f"Sensitivity to {change}, compared with unchanged stages, could not be tested: "
                f"{rates} ({ends})."
            )
            continue
        ends += f", {effect(results, row, '.2f')}".replace("+", "")
        if row.claimed and row.value < 0:
            yield f"Participants judged unchanged stages changed more often than {change} ({ends})."
            continue
        verb = "distinguished" if row.claimed else "did not significantly distinguish"
        yield f"Participants {verb} {change} from unchanged stages: {rates} ({ends})."
    if "evolution" in changed and "same_stage" not in changed:
        row = next(rows_of(table[table["what"] == "evolution"]))
        yield (
            f"Real evolutions were judged changed in {percent(row.value)} of responses "
            f"({shares(results, row)}); without unchanged stages for comparison, sensitivity "
            "cannot be estimated."
        )


@shelf.sentences("study", "naming")
def rated(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield one sentence per significant difference of mean ratings, and one for all others."""
    if (table := results.tested("ratings")).empty:
        return
    table = table[table["question"] != ""]
    for row in rows_of(table[table["claimed"]]):
        yield (
            f"In {row.task}, the mean {row.asked} was {abs(row.value):.2f} points "
            f"{'higher' if row.value > 0 else 'lower'} for {spaced(row.first)} than for "
            f"{spaced(row.second)} ({'control test; ' if control(row) else ''}"
            f"{effect(results, row, '.2f')})."
        )
    yield from _others(table, "differences in mean ratings between conditions", "ratings")


@shelf.sentences("study", "naming")
def naming(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield the similarity of labels of the same pictures, compared with labels of other trials."""
    for row in rows_of(results.tested("labels")):
        if pd.isna(row.value):
            continue
        more = "significantly" if row.claimed else "not significantly"
        ends = f"unadjusted {results.level} CI {span(row, '.2f')}".replace("+", "")
        if pd.isna(row.low):
            ends = row.reason
        yield (
            f"In {row.task}, {control(row)}condition {spaced(row.condition)}, labels of the same "
            f"pictures were {more} more similar than labels of different trials (mean similarity "
            f"of two participants' labels {row.value:.2f}, {ends}; {row.null:.2f} after permuting "
            f"responses between trials; {ps(row)})."
        )


@shelf.sentences("study", "behaviour")
def sessions(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield sentences on learning and confidence."""
    for row in rows_of(results.tested("learning")):
        if pd.isna(row.p):
            continue
        change = (
            f"{signed(100 * row.value, '.1f')} percentage points per ten trials, "
            f"{effect(results, row, '.1f', 100)}"
        )
        verb = (
            "did not change" if not row.claimed else ("increased" if row.value > 0 else "decreased")
        )
        yield f"In {row.task}, accuracy {verb} significantly over the session ({change})."
    for row in rows_of(results.tested("confidence")):
        if pd.isna(row.p):
            continue
        ends = (
            "type-2 AUC, the probability that a correct response was given with more confidence "
            f"than an incorrect one: {row.value:.2f}; chance .50; {effect(results, row, '.2f')}"
        ).replace("+", "")
        finding = "did not significantly discriminate correct from incorrect responses"
        if row.claimed:
            finding = (
                "was higher for incorrect than for correct responses"
                if row.value < row.null
                else "discriminated correct from incorrect responses"
            )
        yield f"In {row.task}, confidence {finding} ({ends})."
