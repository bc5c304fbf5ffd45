"""The participants analysed, and the sample size of each estimate."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.phrases import as_words
from analysis.exhibits.tables import Table
from analysis.study.analysed_study import stack
from analysis.study.responses import Responses
from analysis.study.results import Results
from tasks.questionnaire import Question, is_shown

NOT_ANSWERED, IN_WORDS = "not answered", "answered in own words"


def demographics_of(responses: Responses, people: pd.DataFrame) -> pd.DataFrame | None:
    """Summarise the answers of analysed participants to the frozen questionnaire.

    Questions with a right answer (understanding, colour plates) are left out: they are no
    demographics.

    Args:
        people: of `tasks.responses.PARTICIPANTS`, with their questionnaires.

    Returns:
        question, answer, participants, of (those analysed to whom the question was shown); None
        where the study asks nothing. A number is summed up as mean, standard deviation and range;
        texts are counted, not kept.
    """
    questions = [q for q in responses.study.study.questions if not q.check]
    if not questions:
        return None
    analysed = people[people["participant"].isin(responses.answers["participant"])]
    texts = analysed["questionnaire"]
    forms = [json.loads(text) if isinstance(text, str) else {} for text in texts]
    rows = []
    for question in questions:
        values = [answers.get(question.name) for answers in forms if is_shown(question, answers)]
        rows += [(question.label, *count, len(values)) for count in _counts(question, values)]
    return pd.DataFrame(rows, columns=["question", "answer", "participants", "of"])


def _counts(question: Question, values: list[Any]) -> Iterator[tuple[str, int]]:
    """Yield each answer with its number of participants, and last the number without one."""
    given_values = [value for value in values if value not in (None, "", [])]
    choices = [v for value in given_values for v in (value if isinstance(value, list) else [value])]
    for choice, label in question.choices:
        yield label, choices.count(choice)
    if question.kind == "number" and given_values:
        numbers = np.array(given_values, dtype=float)
        deviation = f", SD {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else ""
        value_range = f"range {numbers.min():g} to {numbers.max():g}"
        yield f"mean {numbers.mean():.1f}{deviation}, {value_range}", len(numbers)
    elif question.kind == "text":
        yield IN_WORDS, len(given_values)
    yield NOT_ANSWERED, len(values) - len(given_values)


@shelf.table("study", "people")
def demographics(results: Results) -> Table | None:
    if (table := results.demographics) is None:
        return None
    return Table(
        "demographics",
        "Answers to the questionnaire",
        "Number of the analysed participants, and their share among those to whom the question was "
        "shown; shares sum to more than 1 where several answers were allowed."
        + " Simulated participants choose options at random and write no comments."
        * results.responses.simulated,
        table.assign(share=table["participants"] / table["of"]).drop(columns="of"),
        {"share": "{:.3f}"},
    )


#: Measures of a response: column of `Results.answers_of` -> name for readers.
MEASURED = {
    "correct": "accuracy", "confidence": "confidence", "milliseconds": "response time",
    "changed": "judged changed", "clarity": "clarity", "rating": "rating",
}  # fmt: skip


@shelf.table("study", "people")
def sample_sizes(results: Results) -> Table | None:
    tables = []
    for task in results.tasks:
        answers, labels = results.answers_of(task), results.labels_of(task)
        frames = {name: (answers, column) for column, name in MEASURED.items()}
        for measure, (measured_rows, column) in {**frames, "labels": (labels, "label")}.items():
            groups = measured_rows.dropna(subset=[column]).groupby("condition")
            table = groups[["participant", "trial"]].nunique().assign(responses=groups.size())
            all_counts = measured_rows["condition"].value_counts().reindex(table.index)
            table["left out"] = all_counts - table["responses"]
            tables.append(table.reset_index().assign(task=results.name(task), measured=measure))
    tables = [table for table in tables if len(table)]
    if not tables:
        return None
    table = stack(tables).rename(columns={"participant": "participants", "trial": "trials"})
    columns = ["task", "condition", "measured", "participants", "trials", "responses", "left out"]
    return Table(
        "sample_sizes",
        "Sample size of every estimate",
        "Number of participants, trials and responses with a value, by condition and measure (for "
        "labels: number of labels, up to three per response); missing: responses (for labels: "
        "labels) without a value.",
        table[columns],
        {"condition": as_words},
        headings={"measured": "measure", "left out": "missing"},
    )
