"""The claims of a study: the p-values of all its tests, adjusted together.

If each of ten families of tests had its own error rate of 5 %, about 40 % of null studies would
yield a claim. Therefore the family-wise error rate over all tests is controlled at α = .05 by the
weighted Holm procedure. The primary hypothesis, frozen before data collection, receives most of α;
the other tests share the rest equally. The weight of a rejected test is redistributed; the weight
of a test that could not be computed is not, so that leaving out a run or a condition never makes
another claim easier.
"""

import numpy as np
import pandas as pd

from analysis.statistics.clusters import holm

ALPHA = 0.05

#: Kinds of question (`tasks.settings.QUESTIONS`) and their descriptions in reports.
QUESTIONS = {
    "chance": "accuracy against chance",
    "contrasts": "difference between conditions",
    "detection": "sensitivity to change",
    "labels": "similarity of labels of the same pictures",
    "ratings": "difference in ratings between conditions",
    "learning": "change in accuracy over the session",
    "confidence": "confidence in correct and incorrect responses",
    "associations": "association between human accuracy and measures of the networks",
    "equivalence": "differences smaller than the smallest effect of interest",
}


def name_kind(kind: str) -> str:
    """Return the description of a kind of question; of a registered one, its name in words."""
    return QUESTIONS.get(kind, kind.replace("_", " "))


#: Kind of a test that only checks whether the task works; it is never the primary hypothesis.
CONTROL = "control"


def is_control(tests: pd.DataFrame) -> pd.Series:
    """Return which tests only check whether a task works, by their column `question`."""
    return tests["question"].str.endswith(f".{CONTROL}")


def judge(tests: pd.DataFrame, primary: str, share: float) -> pd.DataFrame:
    """Adjust the p-values of all tests of a study together (Holm 1979, section 4, with weights).

    Args:
        tests: one row per estimate: question (task.kind, "" if nothing is tested), value, low,
            high, null (the tested value), p (unadjusted, NaN if it could not be computed).
        primary: the primary hypothesis, "" if none was frozen; all tests then have equal weights.
        share: the part of α that the tests of the primary hypothesis receive together.

    Returns:
        the same rows with weight (the part of α that the test receives at first), p_alone
        (unadjusted), p (adjusted), claimed (the adjusted p is below .05, and the interval, where
        there is one, excludes the tested value) and reason (why there is no test or no interval,
        or what else a reader must know).
    """
    tested = (tests["question"] != "").to_numpy()
    is_primary = tested & (tests["question"] == primary).to_numpy()
    others = tested & ~is_primary
    if primary and others.any():  # the primary hypothesis keeps its share even if it has no tests
        weight = np.where(is_primary, share / max(is_primary.sum(), 1), (1 - share) / others.sum())
    else:
        weight = np.full(len(tests), 1 / max(tested.sum(), 1))
    unadjusted = np.where(tested, tests["p"].to_numpy(dtype=float), np.nan)
    reserved = share if primary and not is_primary.any() else 0.0
    adjusted = holm(unadjusted, np.where(tested, weight, 0.0), reserved)
    # If there is no interval, for example because all labels are equal, the exact p decides alone.
    contains_null = (tests["low"] <= tests["null"]) & (tests["high"] >= tests["null"])
    reason = tests.get("reason", pd.Series("", tests.index)).fillna("")
    unexplained = tested & np.isnan(unadjusted) & (reason == "").to_numpy()
    return tests.assign(
        weight=np.where(tested, weight, np.nan),
        p_alone=unadjusted,
        p=adjusted,
        claimed=(adjusted < ALPHA) & ~contains_null.to_numpy(),
        p_error=tests.get("p_error", pd.Series(np.nan, tests.index)),
        reason=reason.mask(unexplained, "the answers do not suffice"),
    )
