"""Shares, contrasts and their uncertainty: against R, statsmodels and plain twins."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logit
from statsmodels.stats.multitest import multipletests

from analysis.planning.designs import Design, as_frame, simulate
from analysis.statistics import clusters
from analysis.statistics.contrasts import ClusterContrasts
from analysis.statistics.crossed_effects import CrossedContrasts, CrossedEffects, fit_conditions
from analysis.statistics.shares import ClusteredShares, ExactBinomial
from analysis.statistics.statistic import STATISTICS, tabulate
from tests import oracles_statistics as plain


def answers(seed=0, **kwargs) -> pd.DataFrame:
    design = Design(kwargs.pop("accuracy", {"a": 0.5, "b": 0.65}), **kwargs)
    return as_frame(simulate(design, np.random.default_rng(seed)))


def one_condition(right: int, n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "participant": np.arange(n) % 25,
            "trial": np.arange(n) // 25,
            "condition": "c",
            "correct": np.arange(n) < right,
        }
    )


def test_exact_binomial_is_rs_binom_test():
    """R's own example: binom.test(682, 925, p = 0.75) prints p = 0.3825, 0.7076683 0.7654066."""
    (estimate,) = ExactBinomial(0.75)(one_condition(682, 925)).values()
    assert estimate.p == pytest.approx(0.3825, abs=5e-5)
    assert (estimate.low, estimate.high) == pytest.approx((0.7076683, 0.7654066), abs=1e-7)
    assert estimate.n == 925


def test_one_way_parts_are_statsmodels_cluster_variances():
    """Each part is CR0 of statsmodels times n/(n − 1): exact for a mean in a complete design."""
    frame = answers(accuracy={"a": 0.6}, participants=20, items=12)
    data = clusters.code_responses(frame)
    result = clusters.two_way_jackknife(data, lambda total, count: total / count)
    parts = []
    for labels in (data.participant, data.item, np.arange(len(frame))):
        n = len(np.unique(labels))
        model = sm.OLS(data.values, np.ones(len(frame)))
        fitted = model.fit(cov_type="cluster", cov_kwds={"groups": labels, "use_correction": False})
        parts.append(float(np.asarray(fitted.cov_params())[0, 0]) * n / (n - 1))
    expected = max(parts[0] + parts[1] - parts[2], parts[2] / 2)
    assert result.variance[0] == pytest.approx(expected, rel=1e-9)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([None, 2]), st.booleans())
def test_jackknife_is_its_plain_twin(seed, answered, is_crossed):
    frame = answers(seed, participants=6, items=4, answered=answered)
    if is_crossed:  # the same four items in both conditions
        frame["trial"] %= 4

    def odds(rows: pd.DataFrame) -> float:
        share = rows.groupby("condition")["correct"].mean()
        return float(share["b"] - share["a"])

    result = clusters.two_way_jackknife(
        clusters.code_responses(frame),
        lambda total, count: (total / count)[..., [1]] - (total / count)[..., [0]],
    )
    assert result.variance[0] == pytest.approx(plain.two_way_jackknife(frame, odds), rel=1e-9)


def test_degrees_of_freedom_never_take_the_variance_for_less_than_independence():
    """Nobody differs by chance: parts of .6 cells each, a variance at its floor of half of them."""
    data = clusters.code_responses(answers(accuracy={"a": 0.5}, participants=20, items=10))
    cells = np.array([1.0])
    result = clusters.combine(data, np.zeros(1), 0.6 * cells, [0.6 * cells], cells)
    assert result.variance == pytest.approx(0.5)
    assert result.df == pytest.approx(1 / (0.36 / 19 + 0.36 / 9))
    large = clusters.combine(data, np.zeros(1), 3 * cells, [2 * cells], cells)
    assert large.df == pytest.approx(4**2 / (9 / 19 + 4 / 9))


def test_test_and_interval_agree():
    for seed in range(20):
        frame = answers(seed, accuracy={"a": 1 / 6}, participants=20, items=8)
        for method in (ClusteredShares(1 / 6), CrossedEffects(1 / 6)):
            (estimate,) = method(frame).values()
            assert (estimate.p < 0.05) == (not estimate.low <= 1 / 6 <= estimate.high)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 3))
def test_holm_is_statsmodels_and_keeps_nan(p_values, undefined):
    p = np.array(p_values + [np.nan] * undefined)
    corrected = clusters.holm(p)
    # A test that could not be made keeps its place, as if it were not rejected.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda: 0)  # what it does at every call takes half a second
        expected = multipletests(p_values + [1.0] * undefined, method="holm")[1]
    np.testing.assert_allclose(corrected[: len(p_values)], expected[: len(p_values)])
    assert np.isnan(corrected[len(p_values) :]).all()


@given(
    st.lists(st.tuples(st.floats(1e-6, 1), st.floats(0.01, 1)), min_size=1, max_size=6),
)
def test_weighted_holm_is_the_closed_test(tests):
    p, weights = map(list, zip(*tests, strict=True))
    expected = plain.closed_testing(p, weights)
    np.testing.assert_allclose(clusters.holm(np.array(p), np.array(weights)), expected)
    # Weight that is kept is that of one more test, which nothing rejects.
    held = plain.closed_testing([*p, 1.0], [*weights, 0.5])[:-1]
    np.testing.assert_allclose(clusters.holm(np.array(p), np.array(weights), 0.5), held)


def test_contrast_of_shares_and_odds():
    frame = answers(participants=50, items=20)
    found = ClusterContrasts()(frame)
    share = frame.groupby("condition")["correct"].mean()
    difference, ratio = found["a", "b", "risk difference"], found["a", "b", "odds ratio"]
    assert difference.value == pytest.approx(share["a"] - share["b"])
    table = sm.stats.Table2x2(
        np.array([[frame[frame["condition"] == c]["correct"].eq(v).sum() for v in (1, 0)]
                  for c in "ab"])
    )  # fmt: skip
    assert ratio.value == pytest.approx(table.oddsratio)
    assert np.isnan(ratio.p)  # one claim, one test
    assert difference.low < difference.value < difference.high


def test_independent_answers_give_statsmodels_interval():
    """With a participant and an item to each answer the clustered interval is the usual one."""
    rng = np.random.default_rng(3)
    n = 4000
    frame = pd.DataFrame(
        {
            "participant": np.arange(n), "trial": np.arange(n),
            "condition": np.where(np.arange(n) < n / 2, "a", "b"), "correct": rng.random(n) < 0.4,
        }
    )  # fmt: skip
    found = ClusterContrasts()(frame)["a", "b", "risk difference"]
    shares = frame.groupby("condition")["correct"].mean()
    error = np.sqrt(sum(p * (1 - p) / (n / 2) for p in shares))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.01)


def test_parameters_of_earlier_bootstraps_have_no_effect():
    frame = as_frame(simulate(Design({"a": 0.6, "b": 0.3}), np.random.default_rng(0)))
    for statistic, keys in (
        (ClusteredShares(0.5), ["condition"]),
        (ClusterContrasts(), ["first", "second", "measure"]),
    ):
        earlier = replace(statistic, replicates=99, seed=7)
        pd.testing.assert_frame_equal(
            tabulate(earlier(frame), keys), tabulate(statistic(frame), keys)
        )


def test_reference_condition():
    frame = answers(accuracy={"a": 0.5, "b": 0.6, "c": 0.7}, participants=20, items=8)
    assert [key[:2] for key in ClusterContrasts("c")(frame) if key[2] == "risk difference"] == [
        ("a", "c"), ("b", "c"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="reference condition 'x' is not among a, b, c"):
        ClusterContrasts("x")(frame)


def test_crossed_contrast_lets_people_differ_in_what_a_condition_does():
    """√(2 σ_v²/P) more error than people who differ in ability alone, whose ability cancels."""
    frame = answers(
        1, accuracy={"a": 0.5, "b": 0.5}, participants=60, items=20, sd_item=0.1, sd_condition=1.0
    )
    model = fit_conditions(frame)
    _, variance, df = model.combination(np.array([1.0, -1.0]))
    assert model.fit.sd[1] == pytest.approx(1.0, abs=0.2)
    sampling = 2 * 4 / (60 * 20)  # 1/(n p (1 − p)) of each mean
    assert variance == pytest.approx(2 * model.fit.sd[1] ** 2 / 60 + sampling, rel=0.25)
    assert 20 < df < 400
    ratio = CrossedContrasts()(frame)["a", "b", "odds ratio"]
    value, variance, df = model.combination(np.array([1.0, -1.0]))
    assert ratio.p == pytest.approx(2 * stats.t.sf(abs(value) / np.sqrt(variance), df))
    # Satterthwaite by hand: shares of 1/60 of each person and of 1/20 of each item in a condition.
    for weights, sums in (([1, -1], [0, 2 / 60, 2 / 20]), ([1, 0], [1 / 60, 1 / 60, 1 / 20])):
        _, variance, df = model.combination(np.array(weights, dtype=float))
        parts = model.fit.sd**2 * sums
        assert df == pytest.approx(variance**2 / (parts**2 / model.fit.df).sum())


def test_crossed_contrast_is_a_ratio_of_conditional_odds():
    frame = answers(accuracy={"a": 0.3, "b": 0.7}, participants=60, items=40)
    estimate = CrossedContrasts()(frame)["a", "b", "odds ratio"]
    raw = frame.groupby("condition")["correct"].mean()
    diluted = np.exp(logit(raw["a"]) - logit(raw["b"]))
    assert estimate.value < diluted < 1  # further from 1 than the ratio of averaged odds
    assert estimate.p < 0.001


def test_nothing_wrong_falls_back_on_clusters_as_trials():
    """All right: Clopper & Pearson with the scarcer clusters; .025^(1/8) for 8 items."""
    frame = answers(participants=20, items=8).assign(correct=1.0)
    estimate = ClusteredShares(0.5)(frame)[("a",)]
    assert estimate.value == estimate.high == 1
    assert estimate.low == pytest.approx(0.025 ** (1 / 8))
    assert estimate.p == pytest.approx(stats.binomtest(8, 8, 0.5).pvalue)
    model = CrossedEffects(0.5)(frame)[("a",)]
    assert np.isnan(model.value) and model.left_out == 160
    assert CrossedContrasts()(frame) == {}
    one = frame.assign(correct=np.where(frame["condition"] == "a", 1, np.arange(len(frame)) % 2))
    assert CrossedContrasts("a")(one) == {}  # the model has no odds of its reference


def test_missing_answers_are_counted():
    frame = answers(participants=20, items=8)
    frame.loc[:4, "correct"] = np.nan
    condition = frame["condition"].iloc[0]
    for method in (ExactBinomial(0.5), ClusteredShares(0.5), CrossedEffects(0.5)):
        assert method(frame)[(condition,)].left_out == 5


def test_chance_must_be_known():
    frame = answers(participants=10, items=5)
    with pytest.raises(ValueError, match="chance of condition 'b' must lie between 0 and 1"):
        ExactBinomial({"a": 0.5})(frame)
    for chance in (0, 1):
        with pytest.raises(ValueError, match=f"must lie between 0 and 1, got {chance}"):
            ClusteredShares(chance)(frame)
    with pytest.raises(ValueError, match="1 rows without 'correct': drop them first"):
        missing = frame["correct"].astype("boolean").mask(frame.index == 0)
        clusters.code_responses(frame.assign(correct=missing))
    with pytest.raises(ValueError, match="the table is empty"):
        ClusteredShares(0.5)(frame[:0])


def test_a_share_is_the_same_number_under_every_method():
    """69 of 120 were 0.58 by one method and 0.57 by another in the same row."""
    frame = answers(participants=20, items=6, accuracy={"a": 0.5})
    frame["correct"] = np.arange(len(frame)) % 120 < 69
    assert len(frame) == 120 and f"{69 / 120:.2f}" == "0.57"
    clustered, exact = (
        STATISTICS.get(n)(0.5)(frame) for n in ("cluster_bootstrap", "exact_binomial")
    )
    assert clustered[("a",)].value == exact[("a",)].value == 69 / 120


SHARES = {"exact_binomial": {"chance": 0.5}, "cluster_bootstrap": {"chance": 0.5},
          "crossed_effects": {"chance": 0.5}, "cluster_contrasts": {}, "crossed_contrasts": {},
          "learning": {}, "type_two": {}, "variance_components": {}}  # fmt: skip


@pytest.mark.parametrize("name", SHARES)
def test_rows_without_condition_and_scores_that_are_no_truth_values_are_refused(name):
    """Such rows were dropped, made the estimate NaN, or gave an accuracy of 125 %."""
    frame = answers(participants=10, items=5)
    frame = frame.assign(confidence=1.0, position=range(len(frame)))
    frame["correct"] = frame["correct"].astype(int)
    statistic = STATISTICS.get(name)(**SHARES[name])
    statistic(frame)
    with pytest.raises(ValueError, match="2 rows without 'condition': every response must have"):
        statistic(frame.assign(condition=frame["condition"].mask(frame.index < 2)))
    for wrong in (frame["correct"] * 2, frame["correct"].astype(str), frame["correct"] - 0.5):
        with pytest.raises(ValueError, match="'correct' must be True or False"):
            statistic(frame.assign(correct=wrong))


@pytest.mark.parametrize("name", ["exact_binomial", "cluster_bootstrap", "crossed_effects"])
def test_order_of_rows_changes_nothing(name):
    frame = answers(participants=20, items=8)
    statistic = STATISTICS.get(name)(1 / 6)
    shuffled = frame.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(
        tabulate(statistic(frame), ["condition"]),
        tabulate(statistic(shuffled), ["condition"]),
        rtol=1e-9,
    )
