"""What a study may claim: all its tests, corrected together.

Every family of tests held to 5 % for itself, a report of ten families would show something in a
third of the studies in which there is nothing. So all tests share one 5 %. The main question, which
was frozen before the first participant, holds most of it; the other tests share the rest evenly;
and Holm's procedure with weights hands on what a rejected test no longer needs. A test that cannot
be made keeps its part, so that leaving out a run, or losing a condition of the main question, makes
no other claim easier.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.statistics.clusters import holm

ALPHA = 0.05

#: Kinds of question (`tasks.settings.QUESTIONS`) as a reader calls them.
QUESTIONS = {
    "chance": "right answers told from guessing",
    "contrasts": "difference between conditions",
    "detection": "changes told from none",
    "labels": "the same neuron named alike",
    "ratings": "rated higher in one condition than in another",
    "learning": "change of accuracy over the session",
    "confidence": "surer when right than when wrong",
    "associations": "people and networks go together",
}
#: A test that only says whether the task works; never a main question.
CONTROL = "control"


def judge(tests: pd.DataFrame, primary: str, share: float) -> pd.DataFrame:
    """Correct all tests of a study together (Holm 1979, section 4, with weights).

    Args:
        tests: a row an estimate: question (task.kind, "" where nothing is tested), value, low,
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
    # A test that could not be made is not rejected.
    p = np.where(tested & np.isnan(alone), 1.0, alone)
    kept = share if primary and rest.any() and not main.any() else 0.0
    corrected = holm(p, weight, kept)
    # Where no interval can be given, as where all labels are alike, an exact p stands alone.
    inside = (tests["low"] <= tests["null"]) & (tests["high"] >= tests["null"])
    reason = tests.get("reason", pd.Series("", tests.index)).fillna("")
    unexplained = tested & np.isnan(alone) & (reason == "").to_numpy()
    return tests.assign(
        weight=np.where(tested, weight, np.nan),
        p_alone=alone,
        p=np.where(np.isnan(alone), np.nan, corrected),
        claimed=(corrected < ALPHA) & ~inside.to_numpy(),
        reason=reason.mask(unexplained, "the answers do not suffice"),
    )
