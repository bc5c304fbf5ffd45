"""The report of a study, to be read from top to bottom: question, method, data, results, limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analysis.exhibits import shelf
from analysis.exhibits.figures import Figure
from analysis.exhibits.report import write_html
from analysis.exhibits.tables import Table
from analysis.study import sentences
from analysis.study.results import Results
from analysis.study.tables import RULE, source_note

#: What each task asks, for a reader who has not seen it.
QUESTIONS = {
    "odd_one_out": "Six neurons are shown as grids of patches; five belong together. Which does "
    "not? Guessing is right in one of six.",
    "before_or_after": "References of one neuron before and after a change, and two new pictures: "
    "which fits the later neuron? Guessing is right in one of two.",
    "evolution_labelling": "One neuron at three stages of training: name what each shows, and say "
    "whether it changed.",
    "concept_agreement": "Do six neurons show one concept, and which? No answer is right or wrong.",
}


#: What a reader must know before the findings on networks.
NETWORKS = [
    "No person answers here. In the newer network, a set of neurons is set back to what it does in "
    "the older one on the same image, and the rest of the network runs on. If a score of "
    "importance "
    "is meaningful, the quarter scored most important must cost more than a random one, and the "
    "least important less."
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
        "pilot": "pilot participants; a pilot supports planning, not claims",
        "simulated": "simulated participants; nothing here says anything about people",
    }[results.responses.source]
    tasks = ", ".join(map(results.name, results.tasks))
    return (
        f"{answers['participant'].nunique()} {who}. {len(answers)} answers to "
        f"{answers['trial'].nunique()} trials of {tasks} were analysed."
    )


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _share(results: Results) -> str:
    if not results.plan.primary:
        return ""
    return f", of which the main question holds {sentences.percent(results.plan.primary_share)}"


def _departures(results: Results) -> list[str]:
    """Choices that were not planned, and what was left out."""
    planned = results.responses.study.study.analysis is not None
    plan = "what was frozen with the study" if planned else "the defaults"
    said = []
    if results.departures:
        said.append(f"The analysis departs from {plan}: {'; '.join(results.departures)}.")
    if results.meeting is None and len(results.tested("associations")):
        said.append("No run was given, so that people were not joined with the networks.")
    return said


def _asked(results: Results, task: str) -> str:
    """What a task asks; of a user's own task, what its participants read."""
    return QUESTIONS.get(task) or results.responses.study.study.task_texts[task].prompt


def _collected(results: Results) -> list[str]:
    steps = {row.step: row.participants for row in sentences.rows_of(results.responses.flow)}
    excluded = {k: n for k, n in steps.items() if k.startswith("excluded") and n}
    if excluded:
        by_rule = "; ".join(f"{k.removeprefix('excluded: ')}: {n}" for k, n in excluded.items())
    else:
        by_rule = "none"
    return [
        f"{steps['arrived']} people arrived, {steps['gave consent']} gave consent, "
        f"{steps['finished']} finished, {steps['analysed']} were analysed. Excluded by the frozen "
        f"rules: {by_rule}."
    ]


def _stability(grid: Table | None) -> list[str]:
    """How far the main result moves over the grid of thresholds."""
    if grid is None:
        return []
    frame = grid.frame
    moved = [
        f"{name} {frame[name].iloc[0]:.2f} as frozen, {frame[name].min():.2f} to "
        f"{frame[name].max():.2f} over the grid"
        for name in frame.columns
        if name not in RULE and frame[name].notna().any()
    ]
    if not moved:
        return []
    values = f"Under the thresholds tried: {'; '.join(moved)}."
    if "claimed" not in frame:
        return [values]
    claimed = frame["claimed"].dropna()
    others = [text for text in claimed.unique() if text != claimed.iloc[0]]
    elsewhere = f"elsewhere {', '.join(others)}" if others else "and everywhere else"
    said = f"as frozen {claimed.iloc[0]}, {elsewhere}"
    return [f"{values} Tests of the main question that would be claimed: {said}."]


def _method(results: Results) -> list[str]:
    return [
        "Do people recognise the concepts of neurons, and see them change while a network "
        "trains? The study was frozen before its first participant: trials, answer keys "
        f"and rules of exclusion carry the hash {results.responses.study.hash}.",
        *(f"{_upper(results.name(task))}. {_asked(results, task)}" for task in results.tasks),
        "A participant answers many trials, and many participants a trial, so answers are "
        "not independent. Shares, differences, d′, ratings and confidence are claimed by "
        f"intervals that let participants and trials vary together ({results.level}); a "
        "logistic model with crossed random effects stands beside shares. Learning lets "
        "participants vary; labels are compared with answers moved to other trials, "
        "associations with rates moved to other trials. All tests of people's answers "
        f"share one 5 %{_share(results)}. Nothing is claimed where the so corrected p is "
        "not below .05: an interval, which holds for its number alone, may then leave the "
        "tested value out all the same.",
        *_departures(results),
    ]


shelf.section("study", "method", "Question and method", _method)
for _name, _title in {
    "collected": "What was collected, and what was excluded",
    "claims": "What may be claimed",
    "accuracy": "Do people find the right answer?",
    "evolution": "Do people see that neurons change?",
    "naming": "Do people name the same thing, and agree?",
    "behaviour": "How people answered",
    "association": "Association between human accuracy and neuron importance",
}.items():
    shelf.section("study", _name, _title)
shelf.section(
    "study",
    "networks",
    "Do the evolutions matter to the networks?",
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
        f"The smallest condition has {int(trials.min())} trials. Intervals speak of other trials "
        "drawn in the same way from the same networks and images, and of other people recruited in "
        "the same way; not of other networks.",
        "p-values are corrected over all tests of people's answers, those of networks in their own "
        "tables; an interval holds for its number alone, and of many intervals some miss. What is "
        "not claimed is not shown to be absent.",
    ]
    if trials.min() < 8:
        limits.append(
            "A condition has fewer than eight trials: with so few, tests of nothing reject more "
            "often than they should (docs/analysis.md)."
        )
    if results.meeting is not None:
        limits.append(
            "Associations over trials are correlations: what makes a neuron easy to recognise may "
            "also make it important. A reversion undoes a whole bin of neurons."
        )
    if results.responses.simulated:
        limits.append("All answers are simulated: this report shows the machinery, not people.")
    return limits


shelf.section("study", "limits", "Limits", _limits)
