"""The report of a study: abstract, then method, data, results and limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analysis.exhibits import shelf
from analysis.exhibits.figures import Figure
from analysis.exhibits.report import write_html
from analysis.exhibits.tables import Table
from analysis.study import abstract, sentences
from analysis.study.frozen_study import task_of
from analysis.study.results import Results
from analysis.study.tables import RULE, source_note

#: What a reader must know before the findings on networks.
NETWORKS = [
    "No participant is involved here. The activations of a set of neurons in the later checkpoint "
    "are replaced by those of the earlier checkpoint for the same image, and the rest of the "
    "network is computed as usual. If the importance score is valid, reverting the quarter of "
    "neurons with the highest scores reduces accuracy more than reverting a random set, and "
    "reverting the quarter with the lowest scores reduces it less."
]


def write_study_report(
    path: Path, results: Results, tables: Mapping[str, Table], figures: Mapping[str, Figure]
) -> None:
    """Write the HTML file; everything it says of results is built from the estimates."""
    study = results.responses.study
    write_html(
        path,
        f"{study.title}{source_note(results)}",
        _lead(results),
        shelf.sections_of("study", results, tables, figures, {"networks": results.from_run}),
        f"Study {study.hash}. Made by conceptevo-harness from the answers beside it; every number "
        "here is in tables/ and numbers.tex.",
    )


def _lead(results: Results) -> str:
    answers = results.responses.answers
    who = {
        "human": "participants",
        "pilot": "pilot participants (a pilot supports planning, not claims)",
        "simulated": "simulated participants (these results are not evidence about people)",
    }[results.responses.source]
    tasks = ", ".join(map(results.name, results.tasks))
    return (
        f"{answers['participant'].nunique()} {who}, {answers['trial'].nunique()} trials of "
        f"{tasks}, {len(answers):,} analysed responses."
    )


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _share(results: Results) -> str:
    if not results.plan.primary:
        return ""
    share = sentences.percent(results.plan.primary_share)
    return f"; {share} of α was allocated to the primary hypothesis"


def _departures(results: Results) -> list[str]:
    """Choices that were not planned, and what was left out."""
    planned = results.responses.study.study.analysis is not None
    plan = "the plan frozen with the study" if planned else "the defaults"
    said = []
    if results.departures:
        said.append(f"The analysis departs from {plan}: {'; '.join(results.departures)}.")
    if results.meeting is None and len(results.tested("associations")):
        said.append("No run was given, so human responses could not be related to the networks.")
    return said


def _design(results: Results, task: str) -> str:
    """The design of a task; where it does not say, the prompt that participants read."""
    return (
        getattr(task_of(task), "design", "")
        or results.responses.study.study.task_texts[task].prompt
    )


def _collected(results: Results) -> list[str]:
    steps = {row.step: row.participants for row in sentences.rows_of(results.responses.flow)}
    excluded = {k: n for k, n in steps.items() if k.startswith("excluded") and n}
    if excluded:
        by_rule = "; ".join(f"{k.removeprefix('excluded: ')}: {n}" for k, n in excluded.items())
    elif results.responses.flow["not applicable"].fillna(0).astype(int).any():
        by_rule = "none, but some rules could not be applied to all participants (below)"
    else:
        by_rule = "none"
    return [
        f"Of {steps['arrived']} people who opened the study, {steps['gave consent']} gave consent, "
        f"{steps['finished']} finished and {steps['analysed']} were analysed. Exclusions under the "
        f"frozen rules: {by_rule}."
    ]


def _stability(grid: Table | None) -> list[str]:
    """How far the main result moves over the grid of thresholds."""
    if grid is None:
        return []
    frame = grid.frame
    moved = [
        f"{name} {frame[name].iloc[0]:.2f} (frozen rules), {frame[name].min():.2f} to "
        f"{frame[name].max():.2f} (all thresholds)"
        for name in frame.columns
        if name not in RULE and frame[name].notna().any()
    ]
    if not moved:
        return []
    values = f"Primary estimates under other exclusion thresholds: {'; '.join(moved)}."
    if "claimed" not in frame:
        return [values]
    claimed = frame["claimed"].dropna()
    others = [text for text in claimed.unique() if text != claimed.iloc[0]]
    elsewhere = f"under other thresholds {', '.join(others)}" if others else "and all others"
    return [
        f"{values} Significant tests of the primary hypothesis: {claimed.iloc[0]} under the frozen "
        f"rules, {elsewhere}."
    ]


def _method(results: Results) -> list[str]:
    return [
        "Trials, answer keys, exclusion rules and the plan of analysis were frozen before data "
        f"collection (hash {results.responses.study.hash}).",
        *(f"{_upper(results.name(task))}. {_design(results, task)}" for task in results.tasks),
        "Each participant answered many trials and each trial was answered by many participants, "
        "so responses are not independent. Inference on shares, differences, d′, ratings and "
        f"confidence is based on {results.level} confidence intervals clustered by participants "
        "and trials; a logistic model with crossed random effects is reported beside shares. "
        "Learning is clustered by participants. Labels and associations are tested by "
        "permutation: of responses between trials of one condition, and of trials within "
        "conditions. The family-wise error rate across all tests of participants' responses was "
        f"controlled at α = .05 (weighted Holm{_share(results)}). We claim an effect only if its "
        "adjusted p-value is below .05. The intervals are not adjusted for multiplicity, so an "
        "interval can exclude the null value although no effect is claimed.",
        *_departures(results),
    ]


shelf.section("study", "abstract", "Abstract", lambda results: list(abstract.of_study(results)))
shelf.section("study", "method", "Method", _method)
for _name, _title in {
    "collected": "Participants and exclusions",
    "claims": "Planned tests",
    "accuracy": "Accuracy by condition",
    "evolution": "Sensitivity to concept evolution",
    "naming": "Labels, ratings and agreement",
    "behaviour": "Learning, confidence and response times",
    "association": "Association between human accuracy and neuron importance",
}.items():
    shelf.section("study", _name, _title)
shelf.section(
    "study",
    "networks",
    "Effect of reverting evolutions on predictions",
    lambda results: NETWORKS * (results.reversion is not None or bool(results.from_run)),
)


@shelf.sentences("study", "collected")
def participants_analysed(results: Results, tables: Mapping[str, Table]) -> list[str]:
    return [*_collected(results), *_stability(tables.get("thresholds"))]


@shelf.sentences("study", "claims")
def main_question(results: Results, tables: Mapping[str, Table]) -> list[str]:
    return list(sentences.main_question(results))


@shelf.sentences("study", "accuracy")
def right_answers(results: Results, tables: Mapping[str, Table]) -> list[str]:
    return [*sentences.against_chance(results), *sentences.between_conditions(results)]


@shelf.sentences("study", "evolution")
def changes_seen(results: Results, tables: Mapping[str, Table]) -> list[str]:
    return list(sentences.detection(results))


@shelf.sentences("study", "naming")
def ratings_and_names(results: Results, tables: Mapping[str, Table]) -> list[str]:
    return [*sentences.rated(results), *sentences.naming(results)]


@shelf.sentences("study", "behaviour")
def sessions(results: Results, tables: Mapping[str, Table]) -> list[str]:
    return list(sentences.sessions(results))


@shelf.sentences("study", "association")
def associations(results: Results, tables: Mapping[str, Table]) -> list[str]:
    return list(sentences.meetings(results))


@shelf.sentences("study", "networks")
def ablations(results: Results, tables: Mapping[str, Table]) -> list[str]:
    return list(sentences.undone(results))


def _limits(results: Results) -> list[str]:
    answers = results.responses.answers
    trials = answers.groupby(["task", "condition"])["trial"].nunique()
    limits = [
        f"The smallest condition has {int(trials.min())} trials. Intervals generalise to trials "
        "drawn in the same way from the same networks and images, and to participants recruited in "
        "the same way; not to other networks.",
        "p-values are adjusted over all tests of participants' responses; those of networks are "
        "adjusted within their own tables. Intervals are not adjusted: of many 95 % intervals, "
        "about one in twenty misses its value. A non-significant effect is not shown to be absent.",
    ]
    if trials.min() < 8:
        limits.append(
            "A condition has fewer than eight trials; with so few, tests reject true null "
            "hypotheses more often than at the nominal level (docs/analysis.md)."
        )
    if results.meeting is not None:
        limits.append(
            "Associations over trials are correlational: what makes a neuron easy to recognise may "
            "also make it important. A reversion affects a whole bin of neurons, not one neuron."
        )
    if results.responses.simulated:
        limits.append(
            "All responses are simulated; the report illustrates the analysis and says nothing "
            "about people."
        )
    return limits


shelf.section("study", "limits", "Limits", _limits)
