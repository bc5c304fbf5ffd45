"""Equivalence: two one-sided tests against statsmodels, and "no difference" as a finding."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.weightstats import DescrStatsW

from analysis.planning.designs import Design, as_frame, simulate
from analysis.statistics import STATISTICS
from analysis.statistics.clusters import t_interval
from analysis.statistics.contrasts import ClusterContrasts
from analysis.statistics.equivalence import Equivalence, two_one_sided_p
from analysis.study.equivalence import equivalence_findings, equivalence_table
from analysis.study.family import RULED_OUT, PlannedTest
from analysis.study.planned_tests import _test_equivalence, equivalence
from analysis.study.results import Results
from analysis.study.tables import claims
from tasks.settings import Analysis
from tests.synthetic_study import PLANTED, make_responses, make_study, results_of


@pytest.mark.parametrize("margin", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.15])
def test_the_two_tests_are_those_of_statsmodels(margin, shift):
    """One sample of differences: Student's t, so `ttost_mean` is the outside implementation."""
    sample = np.random.default_rng(3).normal(shift, 0.5, 30)
    value, variance, df = sample.mean(), sample.var(ddof=1) / 30, 29
    p_low, p_high = (t_interval(value, variance, df, 0.9, end)[2] for end in (-margin, margin))
    expected = DescrStatsW(sample).ttost_mean(-margin, margin)[0]
    assert two_one_sided_p(value, margin, p_low, p_high) == pytest.approx(expected, rel=1e-9)


def frame(design: Design, seed: int) -> pd.DataFrame:
    return as_frame(simulate(design, np.random.default_rng(seed)))


@pytest.mark.parametrize("seed", range(6))
def test_p_is_below_five_per_cent_where_the_ninety_per_cent_interval_lies_inside(seed):
    """The interval is that of the contrast at level .90, and decides as p does."""
    answers = frame(Design({"a": 0.6, "b": 0.63}, participants=40, items=12), seed)
    contrast = ClusterContrasts(level=0.9)(answers)["a", "b", "risk difference"]
    for margin in (0.02, 0.05, 0.08, 0.1, 0.15, 0.25):
        found = Equivalence(margin)(answers)["a", "b"]
        assert (found.low, found.high) == pytest.approx((contrast.low, contrast.high))
        assert (found.p < 0.05) == (-margin < found.low and found.high < margin)


def test_false_findings_of_equivalence_are_rare_where_the_effect_is_the_smallest_of_interest():
    """The difference is exactly the margin, so that every finding is false: at most about 5 %."""
    design = Design({"a": 0.5, "b": 0.62}, participants=60, items=12)
    p = [Equivalence(0.12)(frame(design, seed))["a", "b"].p for seed in range(150)]
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 150)
    same = Design({"a": 0.6, "b": 0.6}, participants=150, items=30, sd_item=0.2)
    p = [Equivalence(0.12)(frame(same, seed))["a", "b"].p for seed in range(20)]
    assert np.mean(np.array(p) < 0.05) > 0.8


def test_undefined_is_said_and_a_margin_of_nothing_is_refused():
    answers = frame(Design({"a": 0.6, "b": 0.6}, participants=3, items=2), 0)
    found = Equivalence(0.1)(answers)["a", "b"]
    assert np.isnan(found.p) and np.isnan(found.low) and found.reason
    assert Equivalence(0.1)(answers.assign(correct=np.nan)) == {}
    for margin in (0, 1, 3):
        with pytest.raises(ValueError, match=f"margin must lie between 0 and 1, .*, got {margin}"):
            STATISTICS.get("equivalence")(margin=margin)
    with pytest.raises(ValueError, match="margin must lie between 0 and 3, .*, got 3"):
        STATISTICS.get("equivalence")(margin=3, scale=(1, 4))


def test_intervals_end_where_the_scale_ends():
    """Four people whose ratings are far apart know little, but no difference beyond the scale."""
    rng = np.random.default_rng(0)
    answers = frame(Design({"a": 0.6, "b": 0.5}, participants=4, items=4), 0)
    answers = answers.assign(rating=np.where(answers["participant"] < 2, 1, rng.integers(1, 5)))
    found = Equivalence(0.5, (1, 4), "rating")(answers)["a", "b"]
    assert -3 <= found.low <= found.value <= found.high <= 3


def test_a_smallest_effect_as_large_as_the_scale_tests_nothing(tmp_path):
    results = planned(tmp_path, Analysis(primary="odd_one_out.chance"), trials=4)
    pair = PlannedTest("neighbours − random", ("neighbours", "random"), "rating")
    row = _test_equivalence(results, "concept_agreement", pair, 3.0)
    assert np.isnan(row["p"])
    assert row["reason"] == RULED_OUT + "every difference on this scale is smaller than 3"
    assert np.isfinite(_test_equivalence(results, "concept_agreement", pair, 2.9)["p"])


ALIKE = PLANTED | {
    "odd_one_out": {"base": 0.7, "other_series": 0.7, "random": 1 / 6},
    "before_or_after": {"nine_references": 0.9, "one_reference": 0.6},
}


def planned(folder, plan: Analysis, drop: str = "", trials: int = 16) -> Results:
    study = make_study(folder, trials=trials, analysis=plan)
    answers, people = make_responses(folder, study, people=60, planted=ALIKE, spread=(0.3, 0.2))
    return results_of(folder, answers[answers["condition"] != drop], people)


def test_no_difference_can_be_a_finding_of_a_study(tmp_path):
    plan = Analysis(primary="odd_one_out.equivalence", smallest_effect=0.15)
    results = planned(tmp_path, plan)
    table = results.tests_of("equivalence").set_index("what")
    assert set(table.index) == {"base − other_series", "nine_references − one_reference"}
    assert table["claimed"].to_dict() == {
        "base − other_series": True, "nine_references − one_reference": False,
    }  # fmt: skip
    assert results.claims.loc["equivalence", "weight"].iloc[0] == pytest.approx(0.8)
    said = equivalence_findings(results, {})
    assert said[0].startswith("In odd one out, base and other series are equivalent in accuracy")
    assert "less than the smallest effect of interest, 15 percentage points" in said[0]
    assert "it is not shown that nine references and one reference differ in accuracy by" in said[1]
    shown = equivalence_table(results)
    assert shown is not None
    people = results.responses.answers["participant"].nunique()
    assert shown.frame["participants"].tolist() == [people, people]
    assert shown.frame["responses"].tolist() == [32 * people, 32 * people]
    assert shown.frame["trials"].tolist() == [32, 32]
    assert shown.frame["equivalent"].tolist() == ["yes", "not shown"]
    assert "d′ (detection)" in claims(results).caption and " 90 % CIs" in claims(results).caption
    other = replace(results, settings=replace(results.settings, level=0.9))
    assert " 80 % CIs" in claims(other).caption


def test_leaving_a_condition_out_changes_no_weight_and_is_said(tmp_path):
    plan = Analysis(primary="odd_one_out.chance", smallest_effect=0.15, smallest_rating=0.5)
    whole = planned(tmp_path / "whole", plan, trials=4)
    less = planned(tmp_path / "less", plan, "base", trials=4)
    weights = [r.claims.loc["equivalence"].set_index("what")["weight"] for r in (whole, less)]
    pd.testing.assert_series_equal(*weights)
    missing = less.tests_of("equivalence").set_index("what").loc["base − other_series"]
    assert np.isnan(missing["p"]) and missing["reason"] == "no analysed responses of base"
    assert (
        "could not be tested: no analysed responses of base." in equivalence_findings(less, {})[0]
    )


def test_without_a_smallest_effect_nothing_is_tested(tmp_path):
    results = planned(tmp_path, Analysis(primary="odd_one_out.chance"), trials=4)
    assert equivalence(results).empty
    assert "equivalence" not in results.claims.index.get_level_values(0)
    assert equivalence_table(results) is None
