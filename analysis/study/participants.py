"""The participants analysed, and the numbers of participants, trials and responses of each
estimate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.phrases import spaced
from analysis.exhibits.tables import Table
from analysis.study.analysed import stacked
from analysis.study.responses import Responses
from analysis.study.results import Results
from tasks.questionnaire import Question

NOT_ANSWERED, IN_WORDS = "not answered", "answered in own words"


def demographics_of(responses: Responses, people: pd.DataFrame) -> pd.DataFrame | None:
    """Summarise the answers of analysed participants to the frozen questionnaire.

    Questions with a right answer (understanding, colour plates) are left out: they are no
    demographics.

    Args:
        people: of `tasks.responses.PARTICIPANTS`, with their questionnaires.

    Returns:
        question, answer, participants, of (all analysed); None where the study asks nothing. A
        number is summed up as mean, standard deviation and range; texts are counted, not kept.
    """
    questions = [q for q in responses.study.study.questions if not q.check]
    if not questions:
        return None
    analysed = people[people["participant"].isin(responses.answers["participant"])]
    texts = analysed["questionnaire"]
    given = [json.loads(text) if isinstance(text, str) else {} for text in texts]
    rows = [
        (question.label, answer, count, len(given))
        for question in questions
        for answer, count in _counts(question, [answers.get(question.name) for answers in given])
    ]
    return pd.DataFrame(rows, columns=["question", "answer", "participants", "of"])


def _counts(question: Question, values: list[Any]) -> Iterator[tuple[str, int]]:
    """Yield each answer to a question with its number of participants, and last the number
    without an answer."""
    answered = [value for value in values if value not in (None, "", [])]
    chosen = [v for value in answered for v in (value if isinstance(value, list) else [value])]
    for choice, label in question.choices:
        yield label, chosen.count(choice)
    if question.kind == "number" and answered:
        numbers = np.array(answered, dtype=float)
        spread = f", SD {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else ""
        ends = f"range {numbers.min():g} to {numbers.max():g}"
        yield f"mean {numbers.mean():.1f}{spread}, {ends}", len(numbers)
    elif question.kind == "text":
        yield IN_WORDS, len(answered)
    yield NOT_ANSWERED, len(values) - len(answered)


@shelf.table("study", "people")
def demographics(results: Results) -> Table | None:
    if (table := results.demographics) is None:
        return None
    return Table(
        "demographics",
        "Responses to the questionnaire",
        "Number and share of the analysed participants; shares sum to more than 1 where several "
        "answers were allowed."
        + " Simulated participants choose options at random and write no comments."
        * results.responses.simulated,
        table.assign(share=table["participants"] / table["of"]).drop(columns="of"),
        {"share": "{:.3f}"},
    )


#: Measures of a response: column of `Results.of` -> name for readers.
MEASURED = {
    "correct": "accuracy", "confidence": "confidence", "milliseconds": "response time",
    "changed": "judged changed", "clarity": "clarity", "rating": "rating",
}  # fmt: skip


@shelf.table("study", "people")
def sample_sizes(results: Results) -> Table | None:
    """Return the sample sizes of every estimate, by measured value."""
    tables = []
    for task in results.tasks:
        answers, labels = results.of(task), results.labels_of(task)
        frames = {name: (answers, column) for column, name in MEASURED.items()}
        for measured, (every, column) in {**frames, "labels": (labels, "label")}.items():
            groups = every.dropna(subset=[column]).groupby("condition")
            table = groups[["participant", "trial"]].nunique().assign(responses=groups.size())
            whole = every["condition"].value_counts().reindex(table.index)
            table["left out"] = whole - table["responses"]
            tables.append(table.reset_index().assign(task=results.name(task), measured=measured))
    tables = [table for table in tables if len(table)]
    if not tables:
        return None
    table = stacked(tables).rename(columns={"participant": "participants", "trial": "trials"})
    columns = ["task", "condition", "measured", "participants", "trials", "responses", "left out"]
    return Table(
        "sample_sizes",
        "Sample size of every estimate",
        "Number of participants, trials and responses with a value, by condition and measure (for "
        "labels: number of labels, up to three per response); missing: responses (for labels: "
        "labels) without a value.",
        table[columns],
        {"condition": spaced},
        headings={"measured": "measure", "left out": "missing"},
    )
