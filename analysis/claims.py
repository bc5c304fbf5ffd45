"""What a study may claim: all its tests, corrected together.

Every family of tests held to 5 % for itself, a report of ten families would show something in a
third of the studies in which there is nothing. So all tests share one 5 %. The main question, which
was frozen before the first participant, holds most of it; the other tests share the rest evenly;
and Holm's procedure with weights hands on what a rejected test no longer needs. Whoever reads any
claim in a report of nothing reads one of at most 5 % of such reports.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.clusters import holm

ALPHA = 0.05

#: Kinds of question (`tasks.settings.QUESTIONS`) as a reader calls them.
QUESTIONS = {
    "chance": "right more often than by guessing",
    "contrasts": "difference between conditions",
    "detection": "changes told from none",
    "labels": "the same neuron named alike",
    "ratings": "rated higher in one condition than in another",
    "learning": "change of accuracy over the session",
    "confidence": "surer when right than when wrong",
    "associations": "people and networks go together",
}


def judge(tests: pd.DataFrame, primary: str, share: float) -> pd.DataFrame:
    """Correct all tests of a study together (Holm 1979, section 4, with weights).

    Args:
        tests: a row a test: question (task.kind), value, low, high, null (the tested value), p (of
            this test alone; where it is undefined no test was made).
        primary: the main question, "" where none was frozen; then all tests weigh the same.
        share: of the 5 % that the main question's tests hold together.

    Returns:
        the same rows with weight (the part of the 5 % that the test holds to begin with), p_alone,
        p (corrected), and claimed: p below 5 % and an interval without the tested value.
    """
    tested = tests["p"].notna().to_numpy()
    main = tested & (tests["question"] == primary).to_numpy()
    rest = tested & ~main
    if main.any() and rest.any():
        weight = np.where(main, share / main.sum(), (1 - share) / rest.sum())
    else:
        weight = np.full(len(tests), 1 / max(tested.sum(), 1))
    alone = tests["p"].to_numpy(dtype=float)
    corrected = holm(alone, weight)
    outside = (tests["low"] > tests["null"]) | (tests["high"] < tests["null"])
    return tests.assign(
        weight=np.where(tested, weight, np.nan),
        p_alone=alone,
        p=corrected,
        claimed=(corrected < ALPHA) & outside,
    )
