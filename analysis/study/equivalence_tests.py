"""Equivalence of conditions as a kind of question: one test per planned pair of conditions.

Tests exist only if the study froze a smallest effect of interest (`[analysis] smallest_effect`, in
shares of correct responses, and `smallest_rating`, in points of a rating). Pairs with a control
condition are not tested, as controls are expected to differ.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.exhibits.phrases import as_words
from analysis.statistics import STATISTICS
from analysis.study.analysed_study import AnalysedStudy
from analysis.study.family import RULED_OUT, PlannedTest, planned_tests
from analysis.study.planned_tests import STUDY_TESTS


@STUDY_TESTS.add("equivalence")
def equivalence(results: AnalysedStudy) -> pd.DataFrame:
    """Test each planned pair of conditions of interest, whoever answered; see `Equivalence`."""
    plan = results.plan
    margins = {"contrasts": plan.smallest_effect, "ratings": plan.smallest_rating}
    rows = [
        _compare(results, task, test, margin)
        for kind, margin in margins.items()
        if margin > 0
        for task, test in planned_tests(results, kind)
        if not set(test.needs) & set(results.controls(task))
    ]
    return pd.DataFrame(rows)


def _compare(results: AnalysedStudy, task: str, test: PlannedTest, margin: float) -> dict[str, Any]:
    """Return one planned pair with its estimate, or with the reason why there is none."""
    first, second = test.needs
    measure = test.asked or "correct"
    answers = results.answers_of(task)
    answers = answers[answers["condition"].isin([first, second])]
    description = {
        "question": f"{task}.equivalence", "task": results.name(task), "what": test.what,
        "asked": test.asked, "measured": measure, "margin": margin, "null": float("nan"),
        "participants": answers["participant"].nunique(), "trials": answers["trial"].nunique(),
    }  # fmt: skip
    answered_conditions = answers.loc[answers[measure].notna(), "condition"]
    missing = [name for name in (first, second) if name not in set(answered_conditions)]
    low, high = results.responses.study.scale(task, test.asked) or (0.0, 1.0)
    reason = f"no analysed responses of {', '.join(map(as_words, missing))}" if missing else ""
    if margin >= high - low:
        reason = f"{RULED_OUT}every difference on this scale is smaller than {margin:g}"
    reason = test.ruled_out or reason
    if reason:
        undefined = dict.fromkeys(["value", "low", "high", "p"], float("nan"))
        return description | undefined | {
            "n": 0, "left_out": 0, "level": 2 * results.settings.level - 1, "reason": reason,
        }  # fmt: skip
    statistic = STATISTICS.get("equivalence")(
        margin=margin, scale=(low, high), value=measure, reference=second,
        level=results.settings.level,
    )  # fmt: skip
    estimate = statistic(answers)[first, second]
    names = ("value", "low", "high", "n", "left_out", "p", "level", "reason")
    return description | {name: getattr(estimate, name) for name in names}
