"""Sentences made from estimates, which state no more than the intervals allow."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.phrases import (
    as_words,
    ci_text,
    join,
    number_text,
    p_text,
    percent,
    share_ci_text,
    with_sign,
)
from analysis.exhibits.tables import Table
from analysis.statistics.claims import ALPHA, CONTROL, is_control, name_kind
from analysis.study.association import name_measure
from analysis.study.controls import count_outcomes, failed_controls
from analysis.study.frozen_study import FrozenStudy
from analysis.study.results import Results
from harness.text import pluralise


def p_texts(row: Any) -> str:
    """Return the adjusted p; if no effect is claimed, preceded by the unadjusted p."""
    if pd.isna(row.p):
        return "not tested"
    if row.claimed or pd.isna(row.p_alone):
        return f"adjusted {p_text(row.p)}"
    return f"unadjusted {p_text(row.p_alone)}, adjusted {p_text(row.p)}"


def effect_text(results: Results, row: Any, form: str, times: int = 1) -> str:
    """Return the interval of an effect, not adjusted for multiplicity, and its p-values."""
    return f"unadjusted {results.level} CI {ci_text(row, form, times)}; {p_texts(row)}"


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
    return (
        f"the {trials} are divided into {forms} forms, one of which was assigned to each "
        "participant"
    )


def hypothesis(results: Results) -> str:
    """Return the primary hypothesis in words, "" if none was frozen."""
    task, _, kind = results.plan.primary.rpartition(".")
    return f"{name_kind(kind)} in {results.name(task)}" if task else ""


def main_findings(results: Results) -> Iterator[str]:
    """Yield failed controls, the primary hypothesis, and how many of all tests are significant."""
    yield from (failed.warning for failed in failed_controls(results))
    yield from primary(results, {})
    if len(results.tests):
        yield f"{summarise_tests(results.tests)}."


@shelf.sentences("study", "claims")
def primary(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield the primary hypothesis, and which tests could not be computed."""
    tests = results.tests
    if tests.empty:
        yield "No test could be computed."
        return
    plan = results.plan
    primary_tests = tests[tests["question"] == plan.primary]
    prefixes = {"human": "", "pilot": "Pilot data: ", "simulated": "Simulated data: "}
    source = prefixes[results.responses.source]
    if plan.primary:
        reasons = (
            "; ".join(dict.fromkeys(map(as_words, primary_tests["reason"])))
            or "no analysed responses"
        )
        claimed, total = int(primary_tests["claimed"].sum()), len(primary_tests)
        subject = f"{claimed} of {total} tests {'was' if claimed == 1 else 'were'}"
        if total == 1:
            subject = f"The test was{'' if claimed else ' not'}"
        yield (
            f"The primary hypothesis, frozen before data collection, concerns "
            f"{hypothesis(results)}. "
            + (
                f"{source}{subject} significant after adjustment."
                if primary_tests["p"].notna().any()
                else f"It could not be tested ({reasons}); its share of α is not redistributed."
            )
        )
    else:
        yield "No primary hypothesis was frozen with the study; all tests have the same weight."
    control, is_untested = is_control(tests), tests["p"].isna()
    for noun, is_role in (("planned test", ~control), ("control test", control)):
        if len(untested := tests[is_role & is_untested]):
            yield (
                f"Tests that could not be computed: {pluralise(len(untested), noun)} "
                f"({list_tests(untested)}). {'Its' if len(untested) == 1 else 'Their'} share of α "
                "is not redistributed."
            )
    smallest_p = 1 / (results.settings.permutations + 1)
    permutation_tests = tests[tests.index.get_level_values(0).isin(["labels", "associations"])]
    remaining = tests.loc[~tests["claimed"], "weight"].sum()
    undecided = permutation_tests[~permutation_tests["claimed"] & permutation_tests["p"].notna()]
    if len(undecided) and (smallest_p * remaining / undecided["weight"] >= ALPHA).any():
        yield (
            f"With {results.settings.permutations} permutations, some tests cannot become "
            "significant after adjustment, however strong the effect; increase "
            "`analyse --permutations`."
        )
    if "claims" in tables:
        yield "All planned tests and control tests are in [table:claims]."


def list_tests(tests: pd.DataFrame) -> str:
    """Name tests (rows of `Results.claims`) by question, with the reasons why they are missing."""
    return "; ".join(
        f"{name_kind(kind)} in {rows['task'].iloc[0]}, "
        f"{join(list(map(name_measure, rows['what'])))} "
        f"[{as_words(str(why))}]"
        for (question, kind, why), rows in tests.groupby(
            ["question", tests.index.get_level_values(0), "reason"], sort=False
        )
    )


def summarise_tests(tests: pd.DataFrame) -> str:
    """Return how many planned tests are significant, and the outcomes of the control tests."""
    planned = tests[~is_control(tests)]
    claimed = int(planned["claimed"].sum())
    sentence = (
        f"{claimed} of {pluralise(len(planned), 'planned test')} "
        f"{'was' if 1 in (claimed, len(planned)) else 'were'} significant after adjustment"
    )
    if missing := int(planned["p"].isna().sum()):
        sentence += f"; {missing} could not be computed"
    if counts := count_outcomes(tests):
        names = ["passed", "failed", "not tested"]
        sentence += ". Control tests (see Method): "
        sentence += ", ".join(f"{counts.get(name, 0)} {name}" for name in names)
        if counts.get("inconclusive"):
            sentence += f", {counts['inconclusive']} inconclusive"
        if counts.get(""):
            sentence += f", {counts['']} without a criterion"
    return sentence


#: How control tests of accuracy and of d′ are judged (`controls.control_outcome`).
BY_UNADJUSTED = "judged by the unadjusted p-value"


def _is_significant(row: Any) -> bool:
    """Return whether a test of accuracy or d′ is significant, as claims and control outcomes are
    decided: a control test by its unadjusted p-value."""
    return row.p_alone < ALPHA if row.question.endswith(CONTROL) else row.claimed


def _compare_with_chance(row: Any) -> str:
    if pd.isna(row.p):
        return "not testable against chance"
    if not _is_significant(row):
        return "not significantly different from chance"
    return f"significantly {'above' if row.value > row.null else 'below'} chance"


@shelf.sentences("study", "accuracy")
def against_chance(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield one sentence for conditions of a task with the same verdict; controls separately."""
    if (table := results.tests_of("chance")).empty:
        return
    level = f"unadjusted {results.level}"
    verdicts = [_compare_with_chance(row) for row in table.itertuples()]
    table = table.assign(control=is_control(table), verdict=verdicts)
    for (task, control, null, verdict), rows in table.groupby(
        ["task", "control", "null", "verdict"], sort=False
    ):
        noun = "control condition" if control else "condition"
        texts = [
            f"{as_words(row.condition)} ({percent(row.value)}, {share_ci_text(row, level)}; "
            f"{p_texts(row)})"
            for row in rows.itertuples()
        ]
        yield (
            f"In {task}, accuracy was {verdict} ({percent(null)}) in the {noun}"
            f"{'s' * (len(rows) > 1)} {join(texts)}"
            f"{f', {BY_UNADJUSTED}' * bool(control and rows['p'].notna().all())}."
        )


#: Said once where tests are not significant.
NO_PROOF = "A non-significant test is not evidence that there is no difference"


@shelf.sentences("study", "contrasts")
def between_conditions(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield one sentence per significant contrast, and one for all others."""
    if (table := results.tests_of("contrasts")).empty:
        return
    table = table[table["question"] != ""]
    for row in table[table["claimed"]].itertuples():
        larger, smaller = row.first, row.second
        if row.value < 0:
            larger, smaller = smaller, larger
            row = row._replace(value=-row.value, low=-row.high, high=-row.low)
        yield (
            f"In {row.task}, accuracy was {number_text(row.value, '.1f', 100)} percentage points "
            f"higher for {as_words(larger)} than for {as_words(smaller)} "
            f"({'control test; ' * row.question.endswith(CONTROL)}"
            f"{effect_text(results, row, '+.1f', 100)})."
        )
    yield from _not_significant(table, "differences in accuracy between conditions", "contrasts")
    untested = table[table["p"].isna()]
    if len(untested):
        names = [f"{row.task}, {as_words(row.what)}" for row in untested.itertuples()]
        yield f"Differences in accuracy that could not be tested: {'; '.join(names)}."


def _not_significant(tests: pd.DataFrame, nouns: str, name: str) -> Iterator[str]:
    """Yield one sentence for the tests that are not significant, which refers to their table."""
    tested = tests[tests["p"].notna()]
    count = int((~tested["claimed"]).sum())
    if count == len(tested):
        several = f"None of the {count} {nouns} was"
        subject = several if count > 1 else f"The only tested one of the {nouns} was not"
    else:
        several = f"The other {count} {nouns} were not"
        subject = several if count > 1 else f"One other of the {nouns} was not"
    if count:
        yield f"{subject} significant after adjustment ([table:{name}]). {NO_PROOF}."


@shelf.sentences("study", "evolution")
def detection(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield the sensitivity to real evolutions, and to false ones as a control."""
    if (table := results.tests_of("detection")).empty:
        return
    changed_shares = table[table["signal"] == ""].set_index("what")["value"]
    names = {"evolution": "real evolutions", "false_evolution": "false evolutions (two neurons)"}
    for row in table[table["question"] != ""].itertuples():
        change = names[row.signal]
        rates = (
            f"{percent(changed_shares[row.signal])} of the former and "
            f"{percent(changed_shares['same_stage'])} of the latter were judged changed"
        )
        if pd.isna(row.p):  # d′ would depend on the correction of rates of 0 and 1
            yield (
                f"Sensitivity to {change}, compared with unchanged stages, could not be tested: "
                f"{rates} ({row.reason})."
            )
            continue
        statistics = f"d′ = {number_text(row.value, '.2f')}, {effect_text(results, row, '.2f')}"
        if row.question.endswith(CONTROL):
            statistics = f"control test, {BY_UNADJUSTED}; {statistics}"
        if _is_significant(row) and row.value < 0:
            yield (
                f"Participants judged unchanged stages changed more often than {change} "
                f"({statistics})."
            )
            continue
        verb = "distinguished" if _is_significant(row) else "did not significantly distinguish"
        yield f"Participants {verb} {change} from unchanged stages: {rates} ({statistics})."
    if "evolution" in changed_shares and "same_stage" not in changed_shares:
        row = next(table[table["what"] == "evolution"].itertuples())
        yield (
            f"Real evolutions were judged changed in {percent(row.value)} of responses "
            f"({share_ci_text(row, f'unadjusted {results.level}')}); without unchanged stages, "
            "sensitivity cannot be estimated."
        )


@shelf.sentences("study", "naming")
def compare_ratings(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield one sentence per significant difference of mean ratings, and one for all others."""
    if (table := results.tests_of("ratings")).empty:
        return
    table = table[table["question"] != ""]
    for row in table[table["claimed"]].itertuples():
        yield (
            f"In {row.task}, the mean {row.asked} was {number_text(abs(row.value), '.2f')} points "
            f"{'higher' if row.value > 0 else 'lower'} for {as_words(row.first)} than for "
            f"{as_words(row.second)} ({'control test; ' * row.question.endswith(CONTROL)}"
            f"{effect_text(results, row, '+.2f')})."
        )
    yield from _not_significant(table, "differences in mean ratings between conditions", "ratings")


@shelf.sentences("study", "naming")
def naming(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield the similarity of labels of the same pictures, compared with labels of other trials."""
    for row in results.tests_of("labels").itertuples():
        if pd.isna(row.p):
            continue
        significance = "significantly" if row.claimed else "not significantly"
        interval = f"unadjusted {results.level} CI {ci_text(row, '.2f')}"
        if pd.isna(row.low):
            interval = row.reason
        yield (
            f"In {row.task}, {'control ' * row.question.endswith(CONTROL)}condition "
            f"{as_words(row.condition)}, labels of the same pictures were {significance} more "
            f"similar than labels of different trials (mean similarity of two participants' labels "
            f"{number_text(row.value, '.2f')}, {interval}; {number_text(row.null, '.2f')} after "
            f"permuting responses between trials; {p_texts(row)})."
        )


@shelf.sentences("study", "behaviour")
def sessions(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    for row in results.tests_of("learning").itertuples():
        if pd.isna(row.p):
            continue
        change = (
            f"{with_sign(row.value, '.1f', 100)} percentage points per ten trials, "
            f"{effect_text(results, row, '+.1f', 100)}"
        )
        verb = (
            "did not change" if not row.claimed else ("increased" if row.value > 0 else "decreased")
        )
        yield f"In {row.task}, accuracy {verb} significantly over the session ({change})."
    for row in results.tests_of("confidence").itertuples():
        if pd.isna(row.p):
            continue
        statistics = (
            "type-2 AUC, the probability that a correct response was given with more confidence "
            f"than an incorrect one: {number_text(row.value, '.2f')}; chance .50; "
            f"{effect_text(results, row, '.2f')}"
        )
        finding = "did not significantly discriminate correct from incorrect responses"
        if row.claimed:
            finding = (
                "was higher for incorrect than for correct responses"
                if row.value < row.null
                else "discriminated correct from incorrect responses"
            )
        yield f"In {row.task}, confidence {finding} ({statistics})."
