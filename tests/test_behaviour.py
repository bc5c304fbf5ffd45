"""Learning, confidence, detection: against least squares, Mann–Whitney, published d′."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from scipy.special import expit, logit

from analysis.statistics.behaviour import (
    AnswerTime,
    Calibration,
    Changed,
    Detection,
    Learning,
    Ratings,
    TypeTwo,
)
from analysis.statistics.contrasts import ClusterContrasts
from tests import oracles_statistics as plain


def session(seed=0, people=30, trials=24, slope=0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), trials)
    trial = np.concatenate([rng.permutation(trials) for _ in range(people)])
    position = np.tile(np.arange(trials), people)
    ability = rng.normal(0, 0.15, people)[person]
    right = rng.random(len(person)) < np.clip(0.5 + ability + slope * (position - 12), 0, 1)
    return pd.DataFrame(
        {
            "participant": person, "trial": trial, "condition": np.where(trial % 2, "a", "b"),
            "position": position, "correct": right,
            "confidence": np.clip(right + rng.integers(1, 4, len(person)), 1, 4).astype(float),
        }
    )  # fmt: skip


def test_learning_is_least_squares_with_dummies():
    frame = session(slope=0.01)
    estimate = Learning()(frame)["all conditions",]
    data = frame.assign(y=frame["correct"].astype(float), x=frame["position"] / 10)
    data["cell"] = data["participant"].astype(str) + data["condition"]
    fitted = smf.ols("y ~ x + C(cell)", data).fit(
        cov_type="cluster", cov_kwds={"groups": data["participant"]}
    )
    assert estimate.value == pytest.approx(fitted.params["x"], rel=1e-9)
    error = (estimate.high - estimate.low) / 2 / stats.t.ppf(0.975, 29)
    # statsmodels' small-sample factor counts the 60 dummies; without it the two agree.
    plain_cr0 = fitted.bse["x"] / np.sqrt(30 / 29 * (len(data) - 1) / (len(data) - 61))
    assert error == pytest.approx(plain_cr0, rel=0.05)


def test_no_slope_is_steeper_than_answers_can_be():
    """Few answers leave the slope unknown: the interval ends where right and wrong answers end."""
    seen = [(p, x) for p in range(4) for x in (0, 1, 4)[: 2 + (p > 2)]]
    frame = pd.DataFrame(seen, columns=["participant", "position"])
    frame = frame.assign(condition="a", correct=[(p * x) % 3 == 0 for p, x in seen])
    estimate = Learning()(frame)["all conditions",]

    def slope(correct) -> float:
        return Learning()(frame.assign(correct=correct))["all conditions",].value

    steepest = max(map(slope, product([0.0, 1.0], repeat=len(frame))))
    assert (estimate.low, estimate.high) == pytest.approx((-steepest, steepest))
    assert estimate.p > 0.05


def test_learning_finds_a_planted_slope():
    estimate = Learning()(session(1, people=150, slope=0.01))["all conditions",]
    assert estimate.low < 0.1 < estimate.high
    assert estimate.p < 0.001


def test_ratings_are_least_squares_with_two_way_clusters():
    rng = np.random.default_rng(4)
    people, items = 60, 40
    person, item = (a.ravel() for a in np.indices((people, items)))
    condition = np.where(item % 2, "a", "b")
    taste, clear = rng.normal(0, 0.4, people)[person], rng.normal(0, 0.5, items)[item]
    noise = rng.normal(0, 0.6, len(person))
    raw = 2.5 + taste + clear + 0.4 * (condition == "a") + noise
    frame = pd.DataFrame(
        {"participant": person, "trial": item, "condition": condition,
         "rating": np.clip(np.rint(raw), 1, 4)}
    )  # fmt: skip
    frame.loc[:6, "rating"] = np.nan
    found = Ratings()(frame)
    kept = frame.dropna()
    means = kept.groupby("condition")["rating"].mean()
    assert found["a", ""].value == pytest.approx(means["a"])
    assert np.isnan(found["a", ""].p) and found["a", ""].left_out == 7
    estimate = found["a", "b"]
    fitted = smf.ols("rating ~ (condition == 'a')", kept.astype({"trial": int})).fit(
        cov_type="cluster", cov_kwds={"groups": kept[["participant", "trial"]].to_numpy()}
    )
    name = fitted.params.index[1]
    assert estimate.value == pytest.approx(fitted.params[name])
    assert stats.norm.isf(estimate.p / 2) == pytest.approx(
        abs(fitted.tvalues[name]), rel=0.1
    )  # t with few df against z
    assert estimate.low < 0.4 < estimate.high
    # On shares it is nearly the clustered contrast, whose ends are symmetric in log odds.
    shares = frame.assign(rating=frame["rating"] > 2, correct=frame["rating"] > 2)
    contrast = ClusterContrasts()(shares)["a", "b", "risk difference"]
    mean = Ratings()(shares)["a", "b"]
    assert mean.value == pytest.approx(contrast.value)
    assert (mean.low, mean.high) == pytest.approx((contrast.low, contrast.high), abs=0.02)
    assert set(Ratings(reference="a")(frame)) == {("a", ""), ("b", ""), ("b", "a")}


def plain_area(frame: pd.DataFrame) -> float:
    """Return the share of pairs won over all participants and conditions, by loops."""
    wins = pairs = 0.0
    for _, group in frame.groupby(["participant", "condition"]):
        won, counted = plain.type_two_area(list(group["confidence"]), list(group["correct"]))
        wins, pairs = wins + won, pairs + counted
    return wins / pairs


def test_type_two_area_is_its_plain_twin_and_mann_whitney():
    frame = session(people=5)
    assert TypeTwo()(frame)["all conditions",].value == pytest.approx(plain_area(frame))
    one = frame[(frame["participant"] == 0) & (frame["condition"] == "a")]
    right, wrong = (one[one["correct"] == ok]["confidence"] for ok in (True, False))
    expected = stats.mannwhitneyu(right, wrong).statistic / len(right) / len(wrong)
    both = pd.concat([one, one.assign(participant=1)])
    assert TypeTwo()(both)["all conditions",].value == pytest.approx(expected)


def test_type_two_variance_leaves_out_people_items_and_answers():
    frame = session(3, people=12, trials=12)
    estimate = TypeTwo()(frame)["all conditions",]
    point = logit(plain_area(frame))

    def spread(groups) -> float:
        left = [logit(plain_area(frame.drop(rows))) - point for rows in groups]
        return (len(left) - 1) / len(left) * float(np.square(left).sum())

    def freedom(rows, cluster) -> float:
        size = rows[cluster].value_counts().to_numpy()
        return size.sum() ** 2 / (size**2).sum() - 1

    correct = frame.groupby(["participant", "condition"])["correct"]
    paired = frame[correct.transform("nunique") > 1]  # the others are in no pair
    assert len(paired) < len(frame)
    people = spread(paired.groupby("participant").groups.values())
    parts = [part for _, part in paired.groupby("condition")]
    items = [spread(part.groupby("trial").groups.values()) for part in parts]
    cells = spread([[row] for row in paired.index])
    variance = max(people + sum(items) - cells, cells / 2)
    width = logit(estimate.high) - logit(estimate.low)
    terms = people**2 / freedom(paired, "participant") + sum(
        item**2 / freedom(part, "trial") for item, part in zip(items, parts, strict=True)
    )
    df = max(variance, cells) ** 2 / terms
    assert width / 2 / stats.t.ppf(0.975, df) == pytest.approx(np.sqrt(variance))


def test_perfect_insight_is_tested():
    """Nobody is ever surer of a wrong answer: the claim can be made, by Clopper and Pearson's test
    with the twelve trials as trials. (Half a pair more on each side gave too narrow intervals.)"""
    frame = session(1, people=20, trials=12)
    frame["confidence"] = np.where(frame["correct"], 4.0, 1.0)
    estimate = TypeTwo()(frame)["all conditions",]
    assert estimate.value == estimate.high == 1
    assert estimate.low == pytest.approx(0.025 ** (1 / 12), abs=0.02) and estimate.p < 0.001
    never = TypeTwo()(frame.assign(confidence=5 - frame["confidence"]))["all conditions",]
    assert never.value == never.low == 0
    assert never.high == pytest.approx(1 - estimate.low)


def test_sure_and_easy_trials_are_no_insight():
    """Trials differ in how sure people are and in how often they are right, independently."""
    rejected = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        person, item = (a.ravel() for a in np.indices((40, 16)))
        easy, sure = rng.normal(0, 0.8, (2, 16))
        confidence = 2.5 + sure[item] + rng.normal(0, 0.7, len(item))
        frame = pd.DataFrame(
            {"participant": person, "trial": item, "condition": "a",
             "correct": rng.random(len(item)) < expit(easy[item]),
             "confidence": np.clip(np.rint(confidence), 1, 4)}
        )  # fmt: skip
        estimate = TypeTwo()(frame)["all conditions",]
        assert 0 < estimate.low < estimate.high < 1
        rejected.append(estimate.p < 0.05)
    assert np.mean(rejected) < 0.14


def test_calibration_rises_with_confidence():
    found = Calibration()(session(people=60))
    shares = [estimate.value for estimate in found.values()]
    assert [key[0] for key in found] == ["1", "2", "3", "4"]
    assert shares[0] == 0 and shares[-1] > shares[1]


def detections(hits: int, alarms: int, each: int, people: int) -> pd.DataFrame:
    changed = np.r_[np.arange(each) < hits, np.arange(each) < alarms]
    return pd.DataFrame(
        {
            "participant": np.tile(np.arange(each) % people, 2), "trial": np.arange(2 * each) // 50,
            "condition": np.repeat(["false_evolution", "same_stage"], each), "changed": changed,
        }
    )  # fmt: skip


def test_d_prime_of_stanislaw_and_todorov():
    """Stanislaw & Todorov (1999, p. 142): H = .8, F = .4 give d' = 1.095, c = −.294.

    Their 25 trials a kind are taken a hundredfold, so that the log-linear rule hardly shows.
    """
    found = Detection("false_evolution", "same_stage")(detections(2000, 1000, 2500, 50))
    assert found["d′",].value == pytest.approx(1.095, abs=1.5e-3)
    assert found["criterion",].value == pytest.approx(-0.294, abs=1.5e-3)
    assert found["hit rate",].value == pytest.approx(0.8, abs=1e-3)


def test_log_linear_rule_of_hautus():
    """Hautus (1995): 10 of 10 and 0 of 10 count as 10.5/11 and .5/11."""
    found = Detection("false_evolution", "same_stage")(detections(10, 0, 10, 5))
    expected = stats.norm.ppf(10.5 / 11) - stats.norm.ppf(0.5 / 11)
    assert found["d′",].value == pytest.approx(expected)


def test_rates_of_no_alarm_are_no_narrower_than_independent_answers():
    found = Detection("false_evolution", "same_stage")(detections(280, 0, 400, 10))
    alarm, independent = found[("false-alarm rate",)], stats.beta.ppf(0.975, 1, 400)
    assert alarm.low == 0 and alarm.high > independent
    assert alarm.low <= alarm.value <= alarm.high and "Clopper–Pearson" in alarm.reason
    for estimate in (found["d′",], found["criterion",]):  # whose jackknife would say little
        assert np.isfinite(estimate.value) and "0 or 1" in estimate.reason
        assert np.isnan([estimate.low, estimate.high, estimate.p]).all()


def test_a_rate_that_hangs_on_one_participant_is_not_called_0():
    """Both alarms are of one participant: d′ has no test, but the rate is 2 of 400."""
    frame = detections(320, 0, 400, 10)
    noise = frame.index[frame["condition"] == "same_stage"]
    alarms = [i for i in noise if frame.loc[i, "participant"] == 3][:2]
    found = Detection("false_evolution", "same_stage")(
        frame.assign(changed=frame["changed"].mask(frame.index.isin(alarms), True))
    )
    assert found["d′",].reason.startswith("without one participant or trial a rate would be 0")
    assert np.isnan(found["d′",].p) and found["false-alarm rate",].value == pytest.approx(2.5 / 401)


def test_detection_needs_both_kinds():
    frame = detections(5, 5, 10, 5)
    with pytest.raises(ValueError, match="no responses in condition same_stage"):
        Detection("false_evolution", "same_stage")(frame[frame["condition"] != "same_stage"])


def test_share_changed():
    frame = detections(600, 300, 1000, 40)
    assert Changed()(frame)[("same_stage",)].value == pytest.approx(0.3)


def test_time_is_a_geometric_mean():
    frame = session(people=10)
    rng = np.random.default_rng(0)
    frame["milliseconds"] = np.exp(rng.normal(9, 0.5, len(frame)))
    frame.loc[0, "milliseconds"] = np.nan
    found = AnswerTime()(frame)
    a = frame[(frame["condition"] == "a") & frame["milliseconds"].notna()]["milliseconds"] / 1000
    assert found[("a",)].value == pytest.approx(stats.gmean(a))
    assert found[(frame["condition"][0],)].left_out == 1
