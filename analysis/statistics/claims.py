"""The claims of a study: the p-values of all its tests, adjusted together.

If each of ten families of tests were held to an error rate of 5 % separately, about 40 % of null
studies would yield a claim. Therefore the family-wise error rate over all tests is controlled at
α = .05 by the weighted Holm procedure. The primary hypothesis, frozen before data collection, is
allocated most of α; the other tests share the rest evenly. The weight of a rejected test is
redistributed; that of a test that could not be computed is not, so that leaving out a run or a
condition never makes another claim easier.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.statistics.clusters import holm

ALPHA = 0.05

#: Kinds of question (`tasks.settings.QUESTIONS`) as a reader calls them.
QUESTIONS = {
    "chance": "accuracy against chance",
    "contrasts": "difference between conditions",
    "detection": "sensitivity to change",
    "labels": "similarity of labels of the same pictures",
    "ratings": "difference in ratings between conditions",
    "learning": "change in accuracy over the session",
    "confidence": "confidence in correct and incorrect responses",
    "associations": "association between human accuracy and network evidence",
    "equivalence": "differences smaller than the smallest effect of interest",
}
#: A test that only says whether the task works; never a main question.
CONTROL = "control"


def is_control(tests: pd.DataFrame) -> pd.Series:
    """Return which tests only check a task, by their column `question`."""
    return tests["question"].str.endswith(f".{CONTROL}")


def judge(tests: pd.DataFrame, primary: str, share: float) -> pd.DataFrame:
    """Adjust the p-values of all tests of a study together (Holm 1979, section 4, with weights).

    Args:
        tests: one row per estimate: question (task.kind, "" where nothing is tested), value, low,
            high, null (the tested value), p (of this test alone, NaN if it could not be made).
        primary: the main question, "" where none was frozen; then all tests weigh the same.
        share: of the 5 % that the main question's tests hold together.

    Returns:
        the same rows with weight (the part of the 5 % that the test holds to begin with), p_alone,
        p (corrected), claimed: p below 5 % and no interval with the tested value in it, and reason:
        why there is no test or no interval, or what else a reader must know.
    """
    tested = (tests["question"] != "").to_numpy()
    main = tested & (tests["question"] == primary).to_numpy()
    rest = tested & ~main
    if primary and rest.any():  # what the main question holds is kept even where it has no tests
        weight = np.where(main, share / max(main.sum(), 1), (1 - share) / rest.sum())
    else:
        weight = np.full(len(tests), 1 / max(tested.sum(), 1))
    alone = np.where(tested, tests["p"].to_numpy(dtype=float), np.nan)
    kept = share if primary and rest.any() and not main.any() else 0.0
    corrected = holm(alone, np.where(tested, weight, 0.0), kept)
    # Where no interval can be given, as where all labels are alike, an exact p stands alone.
    inside = (tests["low"] <= tests["null"]) & (tests["high"] >= tests["null"])
    reason = tests.get("reason", pd.Series("", tests.index)).fillna("")
    unexplained = tested & np.isnan(alone) & (reason == "").to_numpy()
    return tests.assign(
        weight=np.where(tested, weight, np.nan),
        p_alone=alone,
        p=corrected,
        claimed=(corrected < ALPHA) & ~inside.to_numpy(),
        p_error=tests.get("p_error", pd.Series(np.nan, tests.index)),
        reason=reason.mask(unexplained, "the answers do not suffice"),
    )
