"""At most 1 in 20 null studies claims an effect; planted effects are claimed."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import conceptevo.study
from analysis.statistics.claims import CONTROL, QUESTIONS, judge
from analysis.study.abstract import abstract_of_study
from analysis.study.before_collection import describe_ruled_out, results_without_responses
from analysis.study.family import is_ruled_out
from analysis.study.frozen_study import read_study
from analysis.study.planned_tests import STUDY_TESTS
from analysis.study.responses import prepare
from analysis.study.results import Results, Settings
from analysis.study.sentences import main_findings
from analysis.study.tables import claims
from tasks import settings
from tasks.kinds import all_tasks
from tests.null_studies import CHANCE, DESIGNS, PRIMARY, Null, claims_of, measure
from tests.synthetic_study import make_responses, make_study, results_of


def table_of(p: list[float], main: int = 1) -> pd.DataFrame:
    """Return tests, the first `main` of the primary hypothesis; all intervals exclude 0."""
    question = ["t.chance"] * main + ["t.labels"] * (len(p) - main)
    return pd.DataFrame({"question": question, "low": 0.1, "high": 0.2, "null": 0.0, "p": p})


def test_weights_and_what_is_handed_on():
    table = judge(table_of([0.03, 0.011, 0.3]), "t.chance", 0.8)
    assert list(table["weight"]) == pytest.approx([0.8, 0.1, 0.1])
    # .03 / .8 is below .05; then the two others share all of .05: 2 · .011, and .3.
    assert list(table["p"]) == pytest.approx([0.0375, 0.0375, 0.3])
    assert list(table["claimed"]) == [True, True, False]
    weak = judge(table_of([0.06, 0.011, 0.3]), "t.chance", 0.8)
    assert not weak["claimed"].any()  # .011 / .1 is above .05: the primary keeps its part


def test_without_a_main_question_all_weigh_the_same():
    table = judge(table_of([0.01, 0.02, 0.3]), "", 0.8)
    assert list(table["p"]) == pytest.approx([0.03, 0.04, 0.3])
    # A primary hypothesis without tests keeps its part all the same.
    table = judge(table_of([0.001, 0.02]), "t.other", 0.8)
    assert list(table["p"]) == pytest.approx([0.01, 0.18])
    lone = judge(table_of([0.04], 1), "t.chance", 0.8)
    # Without other tests, no part is kept for them.
    assert lone[["p", "weight"]].iloc[0].tolist() == [0.04, 1]
    # An undefined test keeps its part: the parts that others pass on change no claim.
    undefined = judge(table_of([np.nan, 0.009, 0.011]), "t.chance", 0.8)
    assert list(undefined["claimed"]) == [False, False, False]
    assert undefined["p"].iloc[1] == pytest.approx(0.09)


def test_what_describes_is_no_test():
    table = pd.concat([table_of([0.04]), table_of([0.0, np.nan]).assign(question="")])
    judged = judge(table.reset_index(drop=True), "t.chance", 0.8)
    assert list(judged["p"][:1]) == [0.04] and judged["p"][1:].isna().all()
    assert (judged["reason"] == "").all()
    assert list(judged["claimed"]) == [True, False, False]


def test_no_claim_against_its_own_interval():
    table = table_of([0.001, 0.001]).assign(low=[-0.1, 0.1])
    assert list(judge(table, "t.chance", 0.8)["claimed"]) == [False, True]


def test_an_exact_p_without_an_interval_may_be_claimed():
    """Where all labels are alike no interval can be given; the permutation p stands alone."""
    table = table_of([0.001, 0.2]).assign(low=[np.nan, 0.1], high=[np.nan, 0.2])
    assert list(judge(table, "t.chance", 0.8)["claimed"]) == [True, False]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Return a frozen study and its responses: claims of some of them."""
    folder = tmp_path_factory.mktemp("study")
    make_study(folder, trials=6)
    frozen = read_study(folder)
    table, people = make_responses(folder, frozen.study, people=14, planted=CHANCE)

    def claims(keep=lambda t: t["trial"] != "", **settings) -> pd.DataFrame:
        responses = replace(prepare(frozen, table[keep(table)], people), rules={})
        few = Settings(replicates=99, permutations=99, **settings)
        results = Results(responses, few)
        tests = results.tests
        return tests.assign(asked=tests.get("asked", pd.Series("", tests.index)).fillna(""))

    return claims


KEY = ["question", "what", "asked"]


@pytest.mark.parametrize("reference", ["", "base", "random"])
def test_the_planned_family_is_what_is_tested_where_all_is_answered(study, reference):
    tests = study(reference=reference)
    assert not tests.duplicated(KEY).any()
    unmade = tests[tests["p_alone"].isna()]
    assert set(unmade["reason"]) == {"no run was given"}
    assert set(unmade.index.get_level_values(0)) == {"associations"}


@pytest.mark.parametrize(
    ("leave", "reason"),
    [
        (lambda t: t["condition"] == "base", "no analysed responses of base"),
        (lambda t: t["condition"] == "same_stage", "no analysed responses of same_stage"),
        (
            lambda t: t["task"] == "before_or_after",
            "no analysed responses of nine_references, one_reference",
        ),
        (lambda t: t["task"] == "concept_agreement", "no analysed responses of neighbours"),
    ],
)
def test_answers_that_are_left_out_change_no_weight_and_are_named(study, leave, reason):
    whole, part = study(), study(lambda t: ~leave(t))
    columns = [*KEY, "weight"]
    pd.testing.assert_frame_equal(
        whole[columns].sort_values(columns).reset_index(drop=True),
        part[columns].sort_values(columns).reset_index(drop=True),
    )
    made = part.dropna(subset=["p_alone"])
    both = made.merge(whole, on=KEY, suffixes=("", " whole"))
    assert len(both) == len(made) < len(whole.dropna(subset=["p_alone"]))
    same = both["p_alone"] == both["p_alone whole"]  # those that no other condition enters
    assert same.sum() > 3
    assert reason in set(part.loc[part["p_alone"].isna(), "reason"])
    assert (part.loc[part["p_alone"].isna(), "reason"] != "").all()


def test_a_test_that_was_not_made_is_neither_claimed_nor_not(tmp_path):
    frozen = make_study(tmp_path, trials=4, tasks=("odd_one_out",))
    answers, people = make_responses(tmp_path, frozen, people=12)
    results = results_of(tmp_path, answers[answers["condition"] != "base"], people)
    table = claims(results).frame
    unmade = table["p"].isna()
    assert unmade.sum() > 4 and set(table.loc[unmade, "claimed"]) == {"not tested"}
    assert set(table.loc[~unmade, "claimed"]) <= {"yes", "no", "passed", "failed"}


@pytest.mark.parametrize(("trials", "forms"), [(1, 1), (8, 8), (2, 1), (3, 1), (4, 1)])
def test_what_the_design_rules_out_is_what_full_answers_do_not_allow(tmp_path, trials, forms):
    """Known before anybody responds, by the same names; everything else can be tested."""
    frozen = make_study(tmp_path, trials=trials, forms=forms)
    before = results_without_responses(read_study(tmp_path))
    results = results_of(tmp_path, *make_responses(tmp_path, frozen, people=64))
    after = replace(results, responses=replace(results.responses, rules={})).claims

    def keys(tests):
        kind = tests.index.get_level_values(0)
        tests = tests[(tests["question"] != "") & (kind != "associations")]
        return set(tests[["question", "what"]].fillna("").itertuples(index=False, name=None))

    ruled = before.claims[is_ruled_out(before.claims)]
    of_labels = after.index.get_level_values(0) == "labels"
    alike = of_labels & (after["p_alone"] == 1) & (trials == 1)
    assert keys(ruled) == keys(after[after["p_alone"].isna() | alike])
    text = describe_ruled_out(before)
    assert bool(text) == (trials // forms < 4)
    if (trials, forms) == (2, 1):
        assert "rules out 19 planned tests, and their share of α (90.0 %" in text
        assert "accuracy against chance in odd one out, base and other series [fewer than 4" in text
        assert "evolution labelling, importance, change in accuracy" in text  # 2 trials of interest
        assert "association between human accuracy and measures of the networks in odd" not in text


def test_study_build_names_the_tests_that_the_design_rules_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "tasks.commands.build", lambda run, out, settings: make_study(out, trials=2, forms=1)
    )
    conceptevo.study.build(tmp_path, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "The design rules out 19 planned tests" in said


def test_a_reference_that_nobody_answered_leaves_its_comparisons_untested(study):
    """Not all pairs instead, which would be other tests than those that were frozen."""
    tests = study(lambda t: t["condition"] != "base", reference="base")
    contrasts = tests.loc["contrasts"].set_index("what")
    odd = contrasts[contrasts["task"] == "odd one out"]
    assert set(odd.index) == {"other_series − base", "base − random"}
    assert odd["p_alone"].isna().all()
    assert (odd["reason"] == "no analysed responses of base").all()


def test_tests_without_confidence_keep_their_weight_and_say_why(study):
    def without(table):
        table["confidence"] = np.nan
        return table["trial"] != ""

    tests = study(without).loc["confidence"]
    assert tests["p_alone"].isna().all() and (tests["reason"] != "").all()


def test_a_study_that_plans_no_test_says_so(tmp_path, monkeypatch):
    """Its frozen hypothesis is not called absent, and no control is called failed."""
    for registry in ("PLANNED", "STUDY_TESTS"):
        monkeypatch.setattr(f"analysis.study.results.{registry}", {})
    study = make_study(tmp_path, trials=2, tasks=("odd_one_out",))
    results = results_of(tmp_path, *make_responses(tmp_path, study, people=8))
    assert results.claims.empty and claims(results) is None
    assert list(main_findings(results)) == ["No test could be computed."]
    (text,) = (text for text in abstract_of_study(results) if text.startswith("Main result."))
    assert "The primary hypothesis, accuracy against chance in odd one out, could not be" in text
    assert describe_ruled_out(results) == ""


def test_kinds_of_questions_are_those_that_can_be_frozen():
    assert set(QUESTIONS) == set(settings.QUESTIONS) == set(STUDY_TESTS)
    offered = {kind for name in all_tasks() for kind in all_tasks().get(name).questions}
    # Equivalence is offered with contrasts and ratings, once a smallest effect is named.
    assert offered | {"equivalence"} == set(settings.QUESTIONS)


@pytest.mark.slow
def test_studies_of_nothing_claim_nothing():
    """15 studies; the test below and docs/simulations.md have hundreds of each design."""
    shares = measure(replace(DESIGNS["everybody sees all"], permutations=199), 15, seed=1)
    bound = stats.binom.ppf(0.995, 15, 0.05) / 15
    for way in ("together, main question frozen", "together, none frozen"):
        assert shares[way] <= bound, way
    assert shares["each kind of question alone"] > 0.2  # what the one 5 % is for
    assert shares["no correction"] > 0.5


def test_every_kind_of_question_is_tested():
    tests = claims_of(Null(20, 4, permutations=99), seed=0)
    asked = tests.loc[tests["p"].notna(), "question"]
    assert set(asked.str.rpartition(".")[2]) == {*QUESTIONS, CONTROL} - {"equivalence"}
    assert PRIMARY in set(asked)
    tests["kind"] = tests["question"].str.rpartition(".")[2]
    nulls = tests.groupby("kind")["null"].unique()
    for kind in ("contrasts", "detection", "ratings", "learning", "confidence", "associations"):
        assert nulls[kind].tolist() == [0.5 if kind == "confidence" else 0], kind


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(DESIGNS) - {"four trials a condition"}))  # too few
def test_the_table_of_nothing_holds(name):
    shares = measure(replace(DESIGNS[name], permutations=999), 300, seed=3, workers=2)
    bound = stats.binom.ppf(0.995, 300, 0.05) / 300
    assert shares["together, main question frozen"] <= bound, shares
