"""A study of nothing claims nothing, in 19 of 20 cases at least; what is planted is claimed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics.claims import CONTROL, QUESTIONS, judge
from analysis.study.results import study_tests
from tasks import settings
from tasks.base import all_tasks
from tests.null_studies import DESIGNS, PRIMARY, Null, claims_of, measure


def table_of(p: list[float], main: int = 1) -> pd.DataFrame:
    """Tests of which the first `main` ask the main question; all intervals leave 0 out."""
    question = ["t.chance"] * main + ["t.labels"] * (len(p) - main)
    return pd.DataFrame({"question": question, "low": 0.1, "high": 0.2, "null": 0.0, "p": p})


def test_weights_and_what_is_handed_on():
    table = judge(table_of([0.03, 0.011, 0.3]), "t.chance", 0.8)
    assert list(table["weight"]) == pytest.approx([0.8, 0.1, 0.1])
    # .03 / .8 is below .05; then the two others share the whole: 2 · .011, and .3.
    assert list(table["p"]) == pytest.approx([0.0375, 0.0375, 0.3])
    assert list(table["claimed"]) == [True, True, False]
    weak = judge(table_of([0.06, 0.011, 0.3]), "t.chance", 0.8)
    assert not weak["claimed"].any()  # .011 / .1 is above .05: the main question keeps its part


def test_without_a_main_question_all_weigh_the_same():
    table = judge(table_of([0.01, 0.02, 0.3]), "", 0.8)
    assert list(table["p"]) == pytest.approx([0.03, 0.04, 0.3])
    # A main question without tests keeps its part all the same.
    table = judge(table_of([0.001, 0.02]), "t.other", 0.8)
    assert list(table["p"]) == pytest.approx([0.01, 0.18])
    lone = judge(table_of([0.04], 1), "t.chance", 0.8)
    assert lone["p"].iloc[0] == 0.04  # nothing else was tested: nothing is kept for it
    # A test that could not be made keeps its part: what is given by others changes no claim.
    undefined = judge(table_of([np.nan, 0.009, 0.011]), "t.chance", 0.8)
    assert list(undefined["claimed"]) == [False, False, False]
    assert undefined["p"].iloc[1] == pytest.approx(0.09)


def test_what_describes_is_no_test():
    table = pd.concat([table_of([0.04]), table_of([0.0, np.nan]).assign(question="")])
    judged = judge(table.reset_index(drop=True), "t.chance", 0.8)
    assert list(judged["p"][:1]) == [0.04] and judged["p"][1:].isna().all()
    assert list(judged["claimed"]) == [True, False, False]


def test_no_claim_against_its_own_interval():
    table = table_of([0.001, 0.001]).assign(low=[-0.1, 0.1])
    assert list(judge(table, "t.chance", 0.8)["claimed"]) == [False, True]


def test_kinds_of_questions_are_those_that_can_be_frozen():
    assert set(QUESTIONS) == set(settings.QUESTIONS) == set(study_tests())
    offered = {kind for name in all_tasks() for kind in all_tasks().get(name).questions}
    assert offered == set(settings.QUESTIONS)


def test_studies_of_nothing_claim_nothing():
    """40 studies; the slow test and docs/analysis.md have hundreds of each design."""
    shares = measure(replace(DESIGNS["everybody sees all"], permutations=499), 40, seed=1)
    bound = stats.binom.ppf(0.995, 40, 0.05) / 40
    for way in ("together, main question frozen", "together, none frozen"):
        assert shares[way] <= bound, way
    assert shares["each kind of question alone"] > 0.2  # what the one 5 % is for
    assert shares["no correction"] > 0.5


def test_every_kind_of_question_is_tested():
    tests = claims_of(Null(20, 4, permutations=99), seed=0)
    asked = tests.loc[tests["p"].notna(), "question"]
    assert set(asked.str.rpartition(".")[2]) == {*QUESTIONS, CONTROL}
    assert PRIMARY in set(asked)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(DESIGNS) - {"four trials a condition"}))  # too few
def test_the_table_of_nothing_holds(name):
    shares = measure(replace(DESIGNS[name], permutations=999), 300, seed=3, workers=2)
    bound = stats.binom.ppf(0.995, 300, 0.05) / 300
    assert shares["together, main question frozen"] <= bound, shares
