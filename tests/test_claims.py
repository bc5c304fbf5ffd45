"""A study of nothing claims nothing, in 19 of 20 cases at least; what is planted is claimed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.claims import QUESTIONS, judge
from tasks import settings
from tests.null_studies import DESIGNS, PRIMARY, Null, claims_of, measure


def table_of(p: list[float], main: int = 1) -> pd.DataFrame:
    """Tests of which the first `main` ask the main question; all intervals leave 0 out."""
    question = ["t.chance"] * main + ["t.labels"] * (len(p) - main)
    return pd.DataFrame({"question": question, "low": 0.1, "high": 0.2, "null": 0.0, "p": p})


def test_weights_and_what_is_handed_on():
    table = judge(table_of([0.03, 0.011, 0.3, np.nan]), "t.chance", 0.8)
    assert list(table["weight"][:3]) == pytest.approx([0.8, 0.1, 0.1])
    assert np.isnan(table["weight"].iloc[3])
    # .03 / .8 is below .05; then the two others share the whole: 2 · .011, and .3.
    assert list(table["p"][:3]) == pytest.approx([0.0375, 0.0375, 0.3])
    assert list(table["claimed"]) == [True, True, False, False]
    weak = judge(table_of([0.06, 0.011, 0.3]), "t.chance", 0.8)
    assert not weak["claimed"].any()  # .011 / .1 is above .05: the main question keeps its part


def test_without_a_main_question_all_weigh_the_same():
    for primary in ("", "t.other"):
        table = judge(table_of([0.01, 0.02, 0.3]), primary, 0.8)
        assert list(table["p"]) == pytest.approx([0.03, 0.04, 0.3])
    lone = judge(table_of([0.04], 1), "t.chance", 0.8)
    assert lone["p"].iloc[0] == 0.04  # nothing else was tested: nothing is kept for it
    undefined = judge(table_of([np.nan, 0.04]), "t.chance", 0.8)
    assert list(undefined["claimed"]) == [False, True]


def test_no_claim_against_its_own_interval():
    table = table_of([0.001, 0.001]).assign(low=[-0.1, 0.1])
    assert list(judge(table, "t.chance", 0.8)["claimed"]) == [False, True]


def test_kinds_of_questions_are_those_that_can_be_frozen():
    assert set(QUESTIONS) == set(settings.QUESTIONS)


def test_studies_of_nothing_claim_nothing():
    """40 small studies; the slow test and docs/analysis.md have 500 of each design."""
    shares = measure(replace(DESIGNS["few of both"], permutations=999), 40, seed=1)
    bound = stats.binom.ppf(0.995, 40, 0.05) / 40
    for way in ("together, main question frozen", "together, none frozen"):
        assert shares[way] <= bound, way
    assert shares["each family alone"] > 0.2  # what the one 5 % is for
    assert shares["no correction"] > 0.5


def test_every_kind_of_question_is_tested():
    tests = claims_of(Null(20, 4, (0.5, 0.5), 99), seed=0)
    asked = tests.loc[tests["p"].notna(), "question"]
    assert set(asked.str.rpartition(".")[2]) == set(QUESTIONS)
    assert PRIMARY in set(asked)


@pytest.mark.slow
@pytest.mark.parametrize("name", DESIGNS)
def test_the_table_of_nothing_holds(name):
    shares = measure(replace(DESIGNS[name], permutations=999), 500, seed=3, workers=2)
    bound = stats.binom.ppf(0.995, 500, 0.05) / 500
    assert shares["together, main question frozen"] <= bound, shares
