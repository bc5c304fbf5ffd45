"""Equivalence of conditions as a kind of question: one test per planned pair of conditions.

Tests exist only if the study froze a smallest effect of interest (`[analysis] smallest_effect`, in
shares of correct responses, and `smallest_rating`, in points of a rating). Pairs with a control
condition are not tested, as controls are expected to differ.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.exhibits.phrases import spaced
from analysis.statistics import STATISTICS
from analysis.study.analysed import Analysed
from analysis.study.family import RULED_OUT, Planned, planned
from analysis.study.planned_tests import STUDY_TESTS


def _margins(results: Analysed) -> dict[str, float]:
    """Return kind of comparison -> frozen smallest effect of interest, if there is one."""
    plan = results.plan
    margins = {"contrasts": plan.smallest_effect, "ratings": plan.smallest_rating}
    return {kind: margin for kind, margin in margins.items() if margin > 0}


@STUDY_TESTS.add("equivalence")
def equivalence(results: Analysed) -> pd.DataFrame:
    """Test each planned pair of conditions of interest, whoever answered; see `Equivalence`."""
    rows = [
        _tested(results, task, test, margin)
        for kind, margin in _margins(results).items()
        for task, test in planned(results, kind)
        if not set(test.needs) & set(results.controls(task))
    ]
    return pd.DataFrame(rows)


def _tested(results: Analysed, task: str, test: Planned, margin: float) -> dict[str, Any]:
    """Return one planned pair with its estimate, or with the reason why there is none."""
    first, second = test.needs
    measured = test.asked or "correct"
    answers = results.of(task)
    answers = answers[answers["condition"].isin([first, second])]
    whole = {
        "question": f"{task}.equivalence", "task": results.name(task), "what": test.what,
        "asked": test.asked, "measured": measured, "margin": margin, "null": float("nan"),
        "participants": answers["participant"].nunique(), "trials": answers["trial"].nunique(),
    }  # fmt: skip
    answered = answers.loc[answers[measured].notna(), "condition"]
    lacking = [name for name in (first, second) if name not in set(answered)]
    low, high = results.responses.study.scale(task, test.asked) or (0.0, 1.0)
    reason = f"no analysed responses of {', '.join(map(spaced, lacking))}" if lacking else ""
    if margin >= high - low:
        reason = f"{RULED_OUT}every difference on this scale is smaller than {margin:g}"
    reason = test.ruled_out or reason
    if reason:
        nothing = dict.fromkeys(["value", "low", "high", "p"], float("nan"))
        return whole | nothing | {
            "n": 0, "left_out": 0, "level": 2 * results.settings.level - 1, "reason": reason,
        }  # fmt: skip
    statistic = STATISTICS.get("equivalence")(
        margin=margin, scale=(low, high), value=measured, reference=second,
        level=results.settings.level,
    )  # fmt: skip
    estimate = statistic(answers)[first, second]
    names = ("value", "low", "high", "n", "left_out", "p", "level", "reason")
    return whole | {name: getattr(estimate, name) for name in names}
