"""Estimates where there is little: few people, few trials, everyone right, ratings all alike.

The rule: an interval that holds what it says, or none and a reason; never one without width, beyond
its scale, narrower than that of independent answers, or at odds with the p-value beside it.
"""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.planning.designs import Design, as_frame, simulate
from analysis.statistics import STATISTICS, Estimate
from analysis.statistics.agreement import FleissKappa, KrippendorffAlpha
from analysis.statistics.behaviour import AnswerTime, Learning, Ratings, TypeTwo
from analysis.statistics.clusters import (
    code_responses,
    count_clusters,
    t_interval,
    two_way_jackknife,
)
from analysis.statistics.contrasts import ClusterContrasts, _Share, differences
from analysis.statistics.crossed_effects import CrossedContrasts, CrossedEffects, fit_conditions
from analysis.statistics.labels import LabelAgreement
from analysis.statistics.shares import AS_TRIALS, ClusteredShares, log_odds, means
from analysis.statistics.statistic import FEWEST, add_permutation_test
from tests import oracles_statistics as plain


def answers(seed=0, accuracy=None, **kwargs) -> pd.DataFrame:
    design = Design(accuracy or {"a": 0.5, "b": 0.65}, **kwargs)
    return as_frame(simulate(design, np.random.default_rng(seed)))


def thinned(people: int, seed=0, **kwargs) -> pd.DataFrame:
    """Return responses in which only the first participants respond to condition b."""
    frame = answers(seed, participants=40, items=8, **kwargs)
    return frame[(frame["condition"] == "a") | (frame["participant"] < people)]


def test_too_few_clusters_give_no_interval_but_a_reason():
    found = ClusterContrasts()(thinned(FEWEST - 1))["a", "b", "risk difference"]
    assert np.isfinite(found.value) and np.isnan([found.low, found.high, found.p]).all()
    assert found.reason == "only 3 participants in a condition; at least 4 are needed"
    ratio = CrossedContrasts()(thinned(FEWEST - 1))["a", "b", "odds ratio"]
    assert np.isnan(ratio.p) and ratio.reason == found.reason
    shares = ClusteredShares(0.5)(thinned(FEWEST - 1))
    assert np.isfinite(shares[("a",)].p) and np.isnan(shares[("b",)].p)
    few_trials = answers(items=3)
    reason = ClusteredShares(0.5)(few_trials)[("a",)].reason
    assert reason == "only 3 trials in a condition; at least 4 are needed"


def test_a_condition_with_one_trial_does_not_change_the_others():
    """It has no variance over trials, which made that of every condition undefined."""
    frame = answers(accuracy={"a": 0.5, "b": 0.65, "c": 0.6}, participants=20, items=8)
    others = frame[frame["condition"] != "c"]
    in_c = frame[frame["condition"] == "c"]
    found = pd.concat([others, in_c[in_c["trial"] == in_c["trial"].min()]])
    for statistic in (ClusteredShares(0.5), ClusterContrasts()):
        estimates = statistic(found)
        for name, e in statistic(others).items():
            same = estimates[name]
            assert (same.low, same.high, same.p) == pytest.approx((e.low, e.high, e.p), nan_ok=True)
            assert same.reason == e.reason == ""
    reason = ClusteredShares(0.5)(found)[("c",)].reason
    assert reason == "only 1 trial in a condition; at least 4 are needed"


def test_equal_times_have_no_interval_of_rounding():
    found = AnswerTime()(answers(items=8).assign(milliseconds=5000))[("a",)]
    assert found.value == pytest.approx(5) and np.isnan([found.low, found.high]).all()
    assert found.reason == "nothing varies, so that no interval can be estimated"


@pytest.mark.parametrize("people", [1, 2, 3])
def test_no_statistic_tests_with_too_few_people(people):
    """Every registered statistic, on answers of one to three people: a value and no p."""
    rng = np.random.default_rng(0)
    frame = answers(accuracy={"signal": 0.6, "noise": 0.4}, participants=people + 1, items=12)
    frame = frame[frame["participant"] < people].assign(
        position=lambda f: np.arange(len(f)), confidence=lambda f: rng.integers(1, 5, len(f)),
        rating=lambda f: rng.integers(1, 5, len(f)), changed=lambda f: f["correct"],
        milliseconds=lambda f: rng.integers(1000, 9000, len(f)),
    )  # fmt: skip
    parameters = {
        "exact_binomial": {"chance": 0.5}, "cluster_bootstrap": {"chance": 0.5},
        "equivalence": {"margin": 0.1}, "crossed_effects": {"chance": 0.5},
        "detection": {"signal": "signal", "noise": "noise"},
    }  # fmt: skip
    independent = {"exact_binomial"}  # takes answers for independent, as its name says
    for name in STATISTICS:
        if name in independent:
            continue
        for key, estimate in STATISTICS.get(name)(**parameters.get(name, {}))(frame).items():
            ends = [estimate.low, estimate.high, estimate.p]
            assert np.isnan(ends).all(), (name, key, estimate)
            assert estimate.reason, (name, key)


def test_degrees_of_freedom_count_the_clusters_that_inform_the_estimate():
    """Welch and Satterthwaite by hand: 40 people in a, 5 in b, 8 trials each."""
    data = code_responses(thinned(5))
    count = count_clusters(data.participant, data.group, np.array([[1.0, -1.0], [1.0, 0.0]]))
    variances = np.array([1 / 40, 1 / 5])
    expected = variances.sum() ** 2 / (variances**2 / [39, 4]).sum()
    assert count.df == pytest.approx([expected, 39])
    assert list(count.fewest) == [5, 40] and count.effective == pytest.approx([5, 40])
    assert expected < 7
    uneven = np.repeat(np.arange(4), [10, 1, 1, 1])  # one person gave nearly all answers
    alone = count_clusters(uneven, np.zeros_like(uneven), np.ones((1, 1)))
    assert alone.effective[0] == pytest.approx(13**2 / 103) and alone.df[0] == 1
    # Ten people in both conditions are ten clusters, not twenty.
    crossed = np.tile(np.arange(10), 2), np.repeat([0, 1], 10)
    assert count_clusters(*crossed, np.array([[1.0, -1.0]])).df == pytest.approx([9])


@pytest.mark.parametrize("accuracy", [0.5, 1 / 6, 1 / 12])
def test_a_condition_of_few_people_is_tested_by_their_number(accuracy):
    """Rejected four times too often when the degrees of freedom counted all 60 people, and up to
    twice too often by Student's interval of the difference where little is right."""
    truth = {"a": accuracy, "b": accuracy}
    rejected = [
        ClusterContrasts()(thinned(4, seed, accuracy=truth, sd_participant=1.2, sd_item=0.3))[
            "a", "b", "risk difference"
        ].p
        < 0.05
        for seed in range(200)
    ]
    assert np.mean(rejected) <= stats.binom.ppf(0.5, 200, 0.05) / 200


def test_a_difference_is_put_together_from_its_shares():
    """Zou and Donner's interval by hand, with the correlation of people who are in both."""
    frame = thinned(9, sd_participant=1.0)
    data = code_responses(frame)
    found = ClusterContrasts()(frame)["a", "b", "risk difference"]
    odds, alone = two_way_jackknife(data, log_odds), two_way_jackknife(data, means)
    weights = np.array([[1.0, -1.0]])
    both = two_way_jackknife(data, lambda t, c: means(t, c) @ [[1.0], [-1.0]], weights)
    shares = []
    for g in range(2):
        ends = t_interval(
            odds.point[g], odds.variance[g], both.df[0], independent=odds.independent[g]
        )
        shares.append((alone.point[g], *(1 / (1 + np.exp(-np.array(ends[:2]))))))
    product = np.sqrt(alone.variance.prod())
    correlation = (alone.variance.sum() - both.variance[0]) / (2 * product)
    assert -1 < correlation < 1 and abs(correlation) > 0.01
    expected = plain.hybrid_difference(*shares, correlation)
    assert (found.low, found.high) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 12), st.sampled_from([0.05, 1 / 6, 0.5, 0.9]),
       st.sampled_from([0.8, 0.9, 0.95, 0.99]), st.floats(-0.5, 0.5))  # fmt: skip
def test_a_difference_and_its_p_never_contradict_each_other(seed, people, accuracy, level, null):
    frame = thinned(people, seed, accuracy={"a": accuracy, "b": accuracy}, sd_participant=1.0)
    [difference] = differences(code_responses(frame), [(0, 1)])
    low, high, p = difference.interval(level, null)
    assert -1 <= low <= difference.value <= high <= 1 and 0 < p <= 1
    if min(abs(low - null), abs(high - null)) > 1e-6:
        assert (p >= 1 - level) == (low <= null <= high)


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(0.01, 4), st.floats(1, 60), st.floats(0, 4))
def test_the_wider_interval_and_the_larger_p_go_together(point, variance, df, independent):
    low, high, p = t_interval(point, variance, df, 0.95, 0.0, independent)
    reach = max(
        stats.t.ppf(0.975, df) * np.sqrt(variance), stats.norm.ppf(0.975) * np.sqrt(independent)
    )
    assert (low, high) == pytest.approx((point - reach, point + reach))
    tail = stats.t.sf(abs(point) / np.sqrt(variance), df)
    if independent > 0:
        tail = max(tail, stats.norm.sf(abs(point) / np.sqrt(independent)))
    assert p == pytest.approx(2 * tail)
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (low > 0 or high < 0)


def test_no_interval_is_narrower_than_that_of_independent_answers():
    """Where nobody differs, the two-way variance comes out below that of independent answers."""
    narrower = 0
    for seed in range(40):
        frame = answers(seed, {"a": 0.3}, participants=30, items=10, sd_participant=0, sd_item=0)
        (found,) = ClusteredShares(0.3)(frame).values()
        share = frame["correct"].mean()
        error = 1 / np.sqrt(len(frame) * share * (1 - share))
        centre = np.log(share / (1 - share))
        low, high = 1 / (1 + np.exp(-(centre + 1.959964 * error * np.array([-1, 1]))))
        assert found.low <= low + 1e-3 and found.high >= high - 1e-3
        data = code_responses(frame)
        result = two_way_jackknife(data, lambda t, c: np.log(t / (c - t)))
        narrower += bool(result.variance[0] < result.independent[0])
        assert _Share(share, 1e-4, result.independent[0], 10).ends(0.05, 9) == pytest.approx(
            (low, high), abs=1e-3
        )
    assert narrower > 10  # it is the rule that keeps them wide


def test_a_difference_from_a_share_that_hangs_on_one_participant_has_the_exact_interval():
    frame = answers(accuracy={"a": 0.5, "b": 0.5}, participants=12, items=8)
    is_wrong = (frame["condition"] == "a") & (frame["participant"] == 0) & frame["correct"].eq(0)
    correct = frame["correct"].where(frame["condition"] == "b", ~is_wrong)
    assert 1 < is_wrong.sum() < 8
    found = ClusterContrasts()(frame.assign(correct=correct))["a", "b", "risk difference"]
    assert found.reason == AS_TRIALS and -1 < found.low < found.value < found.high < 1


def test_a_share_equal_to_chance_has_p_one():
    frame = answers(accuracy={"a": 0.5}, participants=6, items=6)
    even = frame.assign(correct=(frame["participant"] + frame["trial"]) % 2 == 0)
    assert ClusteredShares(0.5)(even)[("a",)].p == pytest.approx(1)
    # All right answers of one person, so that leaving that person out leaves none.
    one = frame.assign(correct=frame["participant"] == 0)
    found = ClusteredShares(1 / 6)(one)[("a",)]
    assert found.value == pytest.approx(1 / 6) and found.p == 1
    assert 0 <= found.low < 1 / 6 < found.high <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 6), st.integers(4, 9), st.floats(0.1, 0.9))
def test_clusters_as_trials_do_not_contradict_themselves(right, people, chance):
    frame = answers(accuracy={"a": 0.5}, participants=people, items=6)
    frame = frame.assign(correct=(frame["participant"] == 0) & (frame["trial"] < right))
    found = ClusteredShares(chance)(frame)[("a",)]
    if abs(found.p - 0.05) > 1e-9:
        assert (found.p < 0.05) == (not found.low <= chance <= found.high)
    assert found.low < found.high and found.low >= 0 and found.high <= 1


def test_everyone_right_in_one_condition():
    """The hybrid of the two shares' intervals, against its formula by hand; nothing is certain."""
    frame = answers(participants=12, items=8)
    frame.loc[frame["condition"] == "b", "correct"] = 1.0
    found = ClusterContrasts()(frame)["a", "b", "risk difference"]
    [difference] = differences(code_responses(frame), [(0, 1)])
    b = ClusteredShares(0.5)(frame)[("b",)]
    assert difference.second.ends(0.05, difference.df) == (b.low, b.high)
    shares = [
        (s.value, *s.ends(0.05, difference.df)) for s in (difference.first, difference.second)
    ]
    assert (found.low, found.high) == pytest.approx(plain.hybrid_difference(*shares))
    assert found.p < 0.05 and found.high < 0
    for correct, p in ((1.0, 1), (0.0, 1)):
        same = ClusterContrasts()(frame.assign(correct=correct))["a", "b", "risk difference"]
        assert same.value == 0 and same.p == p and same.low < 0 < same.high
    opposite = frame.assign(correct=(frame["condition"] == "a").astype(float))
    most = ClusterContrasts()(opposite)["a", "b", "risk difference"]
    assert most.value == most.high == 1 and 0 < most.low < 1 and 0 < most.p < 0.01


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([4, 6, 10]), st.sampled_from([0.06, 0.5, 0.95]))
def test_intervals_keep_to_their_scale_have_width_and_agree_with_p(seed, people, accuracy):
    frame = answers(seed, {"a": accuracy, "b": accuracy}, participants=people, items=4)
    rating = 1 + 3 * frame["correct"]
    found = {("shares", *k): (e, 0, 1, 0.5) for k, e in ClusteredShares(0.5)(frame).items()}
    for key, e in ClusterContrasts()(frame).items():
        if key[-1] == "risk difference":
            found["difference", *key] = (e, -1, 1, 0.0)
    for key, e in Ratings(scale=(1, 4))(frame.assign(rating=rating)).items():
        found["ratings", *key] = (e, 1, 4, np.nan) if not key[1] else (e, -3, 3, 0.0)
    for key, (e, low, high, null) in found.items():
        if np.isnan(e.low):
            assert e.reason and np.isnan(e.p), (key, e)
            continue
        assert low <= e.low < e.high <= high, (key, e)
        if np.isfinite(e.p) and abs(e.p - 0.05) > 1e-6:
            assert (e.p < 0.05) == (not e.low <= null <= e.high), (key, e)


def test_ratings_that_do_not_vary_have_no_interval():
    frame = answers().assign(rating=3.0)
    for estimate in Ratings()(frame).values():
        assert np.isnan([estimate.low, estimate.high]).all()
        assert estimate.reason == "nothing varies, so that no interval can be estimated"
    assert Ratings()(frame)["a", "b"].value == 0


def test_differences_of_ratings_end_where_the_scale_does():
    frame = answers(accuracy={"a": 0.9, "b": 0.1}, participants=5, items=5)
    found = Ratings(scale=(1, 4))(frame.assign(rating=1 + 3 * frame["correct"]))["a", "b"]
    assert found.low < found.value < found.high == 3


def test_an_interval_without_width_is_none():
    none = Estimate(1.0, 1.0, 1.0, p=0.003)
    assert np.isnan([none.low, none.high]).all() and none.p == 0.003 and none.reason


def test_why_learning_and_confidence_cannot_be_tested():
    frame = answers(participants=2, items=8).assign(position=0, confidence=2.0)
    learning = Learning()(frame)["all conditions",]
    assert learning.reason == "a slope needs 4 participants with several positions (here: 0)"
    sure = TypeTwo()(frame.assign(confidence=np.nan))["all conditions",]
    assert sure.reason.startswith("no participant has a right and a wrong answer")
    frame = answers(participants=20, items=8).assign(confidence=2.0)
    tied = TypeTwo()(frame)["all conditions",]
    assert tied.value == 0.5 and tied.reason.startswith("nothing varies, so that no interval")
    frame = frame.assign(confidence=frame["trial"] % 4 + 1.0)
    always_right = frame["participant"] > 1
    few = TypeTwo()(frame.assign(correct=frame["correct"].where(~always_right, True)))
    assert np.isnan(few["all conditions",].p)
    reason = few["all conditions",].reason
    assert reason.startswith("only 2 participants with correct and incorrect")


def test_singular_fits_are_said():
    frame = answers(accuracy={"a": 0.5}, participants=20, items=8)
    frame = frame.assign(correct=(frame["participant"] + frame["trial"]) % 2)  # all alike
    model = fit_conditions(frame)
    absent = [("participants", "trials")[k] for k in (0, 1) if model.fit.sd[2 * k] == 0]
    assert absent == ["participants", "trials"]
    split = frame.assign(correct=frame["participant"] % 2)  # abilities are infinitely different
    assert "variance of participants at its upper bound of 36" in fit_conditions(split).fit.note
    estimate = CrossedEffects(0.5)(frame)[("a",)]
    assert estimate.reason.startswith("singular fit: variance of ")
    assert all(name in estimate.reason for name in absent)
    varied = answers(0, {"a": 0.5}, participants=40, items=30, sd_participant=1, sd_item=1)
    assert CrossedEffects(0.5)(varied)[("a",)].reason == ""
    certain = CrossedEffects(0.5)(frame.assign(correct=1.0))[("a",)]
    assert certain.left_out == len(frame) and "no finite effect" in certain.reason


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 3), st.integers(0, 99))
@example(0, 2.0, 4)  # p is .05 exactly, and the interval ends just above zero
@example(0, 0.5, 0)  # only the interval holds zero
def test_a_permutation_test_and_its_bootstrap_interval_agree(seed, centre, reached):
    resampled = np.random.default_rng(seed).normal(centre, 1, 200)
    found = add_permutation_test(Estimate(centre), reached, 99, 0.0, resampled)
    assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
    assert found.p >= (reached + 1) / 100  # never more certain than the permutations
    low, high = np.quantile(resampled, [0.025, 0.975])
    if low <= 0 <= high and (reached + 1) / 100 < 0.05:
        tail = min(np.mean(resampled <= 0), np.mean(resampled >= 0))
        assert found.p == pytest.approx(max(2 * tail, 0.05))
    assert found.low <= low + 1e-9 and found.high >= high - 1e-9
    assert found.p_error == pytest.approx(np.sqrt((reached + 1) * (99 - reached) / 1e4 / 99))


def test_too_few_trials_of_labels_and_of_associations():
    words = pd.DataFrame(
        [(f"t{t}", f"p{p}", "wheel" if t else "stripes") for t in range(3) for p in range(8)],
        columns=["trial", "participant", "label"],
    )
    found = LabelAgreement(shuffles=99)(words)
    assert np.isnan(found.low) and found.reason == "an interval needs 4 trials (here: 3)"
    assert found.value == 1 and found.p < 0.05  # the permutation test is exact
    single = LabelAgreement(shuffles=99)(words[words["trial"] == "t0"])
    assert single.value == 1 and np.isnan(single.p) and single.reason.startswith("only 1 trial: no")
    alike = words.assign(label="wheel")
    assert LabelAgreement(shuffles=99)(alike).p == 1


def test_agreement_keeps_to_its_scale():
    ratings = pd.DataFrame(
        {"trial": np.repeat(np.arange(5), 4), "participant": np.tile(np.arange(4), 5),
         "answer": list("abaabbaabaaabaab") + ["a"] * 4}
    )  # fmt: skip
    for statistic in (KrippendorffAlpha(), FleissKappa()):
        found = statistic(ratings)
        assert -1 <= found.low < found.value < found.high <= 1
        few = statistic(ratings[ratings["trial"] < 3])
        assert np.isnan(few.low) and few.reason.startswith("only 3 trials in a condition")
        same = statistic(ratings.assign(answer="a"))
        assert np.isnan(same.value) and same.reason.startswith("all ratings are alike")
        other = (ratings["trial"] == 0) & (ratings["participant"] == 0)
        nearly = statistic(ratings.assign(answer=np.where(other, "b", "a")))
        assert np.isnan(nearly.low) and nearly.reason.startswith("without one participant or trial")
