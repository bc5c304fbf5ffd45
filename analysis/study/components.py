"""The table of variance components of a study's answers."""

from __future__ import annotations

import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.tables import Table
from analysis.study.planned_tests import SCALES
from analysis.study.results import Results


@shelf.table("study", "agreement")
def variance_components(results: Results) -> Table | None:
    rows = []
    for task in results.tasks:
        answers = results.of(task, controls=False)
        choice = ("correct",) if task in results.choice_tasks else ()
        for value in (*choice, *SCALES):
            if answers[value].isna().all():
                continue
            table = results.by_task(
                [task], "variance_components", ["component"], controls=False, value=value
            )
            if table.empty:
                continue
            used = answers[answers[value].notna()]
            rows.append(
                {"task": results.name(task), "what": "accuracy" if choice else value,
                 "participants": used["participant"].nunique(), "trials": used["trial"].nunique(),
                 "answers": table["n"].iloc[0]}
                | dict(zip("ICC " + table["component"], table["value"], strict=True))
                | dict(zip("variance, " + table["component"], table["effect"], strict=True))
                | {"note": table["reason"].iloc[0]}
            )  # fmt: skip
    frame = pd.DataFrame(rows)
    if frame.empty:
        return None
    variances = tuple(c for c in frame.columns if c.startswith("variance, "))
    shares = [c for c in frame.columns if c.startswith("ICC ")]
    return Table(
        "variance_components",
        "Variance components",
        "Intraclass correlations (ICC): shares of the variance within conditions that are due to "
        "participants, to the interaction of participant and condition, and to trials; the "
        "remainder is residual. Accuracy: logit scale, mixed logistic model. Ratings: original "
        "scale, minimum norm quadratic unbiased estimation (MINQUE(0); Rao, 1971). Control "
        "conditions excluded. No intervals are given.",
        frame,
        dict.fromkeys(shares, "{:.2f}") | dict.fromkeys(variances, "{:.3f}"),
        hidden=variances,
        headings={
            "what": "measure",
            "ICC participants in conditions": "ICC participant × condition",
        },
    )
