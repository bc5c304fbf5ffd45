"""Coverage of intervals: a small version of the table in docs/simulations.md.

At night. With so few studies the bounds are those of the error of simulation (2.6 standard errors);
a slower test holds 1,000 studies to 93–97 % and 4–6 %.
"""

from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd
import pytest

from analysis.planning.designs import Design, as_frame, simulate
from analysis.planning.power import (
    TOGETHER,
    Plan,
    Sizes,
    calibrate,
    describe_smallest,
    power_curve,
    rejections,
    smallest_designs,
)
from analysis.statistics.claims import judge
from analysis.statistics.clusters import holm
from analysis.statistics.contrasts import ClusterContrasts
from analysis.statistics.shares import ClusteredShares
from tests.simulated_answers import KINDS, Answers, simulate_estimate
from tests.simulated_studies import (
    DESIGNS,
    RATES,
    SMALL,
    as_markdown,
    measure,
    run_seeds,
    simulate_study,
)

CLAIMS = ("cluster jackknife", "crossed effects")


@pytest.fixture(scope="module")
def null():
    design = Design({"a": 1 / 6, "b": 1 / 6}, participants=30, items=10)
    fast = measure(design, 150, ("cluster jackknife", "exact binomial"), seed=1)
    slow = measure(design, 50, ("crossed effects",), seed=1)  # a fit takes a tenth of a second
    return pd.concat([fast, slow]).set_index(["method", "what"])


@pytest.mark.slow
@pytest.mark.parametrize("method", CLAIMS)
def test_intervals_cover_and_nulls_are_kept(null, method):
    rows = null.loc[method]
    studies = rows["intervals"].min()
    error = 2.6 * np.sqrt(0.05 * 0.95 / studies)
    assert rows["coverage"].between(0.95 - error, 0.95 + error).all()
    assert rows["rejected"].dropna().between(0.05 - error, 0.05 + error).all()


@pytest.mark.slow
def test_independence_is_too_sure(null):
    """This is why no claim uses the binomial test: its nominal 5 % are about 30 %."""
    assert null.loc[("exact binomial", "accuracy"), "rejected"] > 0.15
    assert null.loc[("exact binomial", "accuracy"), "coverage"] < 0.85


@pytest.mark.slow
def test_power_is_what_the_planner_promised():
    """The same studies, analysed with contrasts as the primary hypothesis and one further test."""
    design = Design({"a": 0.4, "b": 0.65, "c": 0.55}, participants=60, items=12)
    promised = rejections(Plan(design, share=0.8), 100, seed=3).set_index("effect")["power"]
    found = []
    for child in np.random.SeedSequence(3).spawn(100):
        answers = as_frame(simulate(design, np.random.default_rng(child)))
        contrasts = ClusterContrasts()(answers)
        tests = pd.DataFrame(
            {" − ".join(key[:2]): asdict(e) for key, e in contrasts.items() if not np.isnan(e.p)}
        ).T
        tests = tests[["low", "high", "p"]].astype(float).assign(question="t.contrasts", null=0.0)
        tests.loc["another"] = {"low": 0, "high": 1, "p": 1, "question": "t.labels", "null": 0}
        claimed = judge(tests, "t.contrasts", 0.8)["claimed"].drop("another")
        found.append({**claimed, TOGETHER: claimed.all()})
    assert dict(pd.DataFrame(found).mean()) == pytest.approx(dict(promised))
    assert promised["a − b"] > promised[TOGETHER]


def test_power_against_chance_is_what_the_analysis_finds_where_nearly_all_are_right():
    """Studies without an error are tested as in the analysis, not counted as not significant."""
    design = Design({"a": 0.97, "b": 0.1667}, participants=10, items=5)
    promised = rejections(Plan(design, against_chance=True), 40, seed=3)
    assert promised["effect"].tolist() == ["a"]  # .1667 is chance
    studies = [
        ClusteredShares(1 / 6)(as_frame(simulate(design, np.random.default_rng(child))))
        for child in np.random.SeedSequence(3).spawn(40)
    ]
    found = [holm(np.array([e.p for e in study.values()]))[0] < 0.05 for study in studies]
    assert promised["power"].item() == np.mean(found) > 0.9
    equal = rejections(Plan(Design({"a": 0.9, "b": 0.2, "c": 0.2})), 20)
    assert set(equal["effect"]) == {"a − b", "a − c", TOGETHER}  # b and c are equal


def test_too_small_designs_are_given_no_interval_and_lopsided_ones_keep_their_size():
    few, lopsided = "3 participants, 8 trials", "4 of 60 participants in one condition"
    tables = {name: measure(SMALL[name], 60, CLAIMS[:1], seed=2) for name in (few, lopsided)}
    none = tables[few].set_index("what")
    assert (none["given"] == 0).all() and none["coverage"].isna().all()
    assert none.loc[["accuracy", "risk difference"], "rejected"].tolist() == [0, 0]
    some = tables[lopsided].set_index("what")
    assert (some["given"] == 1).all() and some.loc["risk difference", "rejected"] <= 0.15
    assert "| 3 participants, 8 trials | 0.0 % | – | 0.0 % | 0.0 % |" in as_markdown(tables)


def test_coverage_stands_with_the_error_of_simulation():
    """Intervals of one study are not independent: the error is that of means over studies."""
    design = Design({"a": 0.5, "b": 0.5}, participants=12, items=6)
    table = measure(design, 40, ("exact binomial",), seed=4)
    rows = run_seeds(partial(simulate_study, design, ("exact binomial",)), 40, seed=4)
    means = [np.mean([row["covered"] for row in study]) for study in rows]
    assert table["coverage"].item() == pytest.approx(np.mean(means))
    assert table["coverage error"].item() == pytest.approx(np.std(means) / np.sqrt(40))
    percent = f"{100 * np.mean(means):.1f} ± {100 * np.std(means) / np.sqrt(40):.1f} %"
    assert "| accuracy: coverage |" in (text := as_markdown({"x": table})) and percent in text


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_answers_are_analysed(kind):
    design = Answers(8, 6, 2.0)
    value = KINDS[kind].estimate(design, np.random.default_rng(0)).value
    covered, missed = (simulate_estimate(kind, design, truth, seed=0) for truth in (value, 2.0))
    assert covered["given"] and covered["covered"] and not missed["covered"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RATES))
def test_sensitivity_covers_and_keeps_its_size(name):
    table = measure(RATES[name], 600, ("d′",), seed=13)
    assert (table["coverage"] >= 0.93 - 0.027).all(), table
    assert (table.loc[table["null"], "rejected"] <= 0.062 + 0.027).all(), table


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_small_designs_cover_and_keep_their_size(name):
    table = measure(SMALL[name], 600, CLAIMS[:1], seed=12)
    given = table[table["given"] > 0]
    assert (given["coverage"] >= 0.932 - 0.027).all(), table
    # The worst design rejects 6.2 % (docs/simulations.md); 2.6 standard errors of 600 beside.
    assert (table["rejected"].dropna() <= 0.062 + 0.027).all(), table


@pytest.mark.slow
def test_the_table_holds():
    for name in set(DESIGNS) - {"pure guessing"}:  # where the crossed model is timid
        table = measure(DESIGNS[name], 1000, CLAIMS, seed=11, workers=2)
        assert table["coverage"].between(0.93, 0.97).all(), (name, table)
        # One standard error of 1,000 studies is .7 points: 4–6 % with that margin.
        nulls = table[table["null"]]["rejected"].dropna()
        assert nulls.between(0.033, 0.067).all(), (name, table)


def test_simulated_truth_is_the_planted_one():
    design = Design({"a": 0.3, "b": 0.8}, participants=400, items=400, sd_condition=0.4)
    share = as_frame(simulate(design, np.random.default_rng(0))).groupby("condition")["correct"]
    np.testing.assert_allclose(share.mean(), [0.3, 0.8], atol=0.02)


def test_every_item_is_answered_equally_often():
    design = Design({"a": 0.5}, participants=30, items=10, answered=4)
    frame = as_frame(simulate(design, np.random.default_rng(0)))
    assert set(frame.groupby("participant").size()) == {4}
    assert set(frame.groupby("trial").size()) == {12}


@pytest.mark.slow
def test_power_grows_with_people_and_items_and_is_size_without_effect():
    plan = Plan(Design({"a": 0.5, "b": 0.6}))
    table = power_curve(plan, Sizes([40, 160], [10], [10, 60]), studies=100, cost=2.5)
    power = table.set_index(["items", "participants"])["power"]
    assert power[60, 160] > power[60, 40] > 0 and power[60, 160] > power[10, 160]
    assert list(table["cost"].unique()) == [100, 400]
    assert list(table["raters"]) == pytest.approx([40, 160, 40 / 6, 160 / 6])
    nothing = rejections(Plan(Design({"a": 0.5, "b": 0.5})), 300)
    assert nothing["power"].iloc[0] == pytest.approx(0.05, abs=0.04)
    chance = rejections(Plan(Design({"a": 0.4, "b": 1 / 6}), against_chance=True), 60)
    assert list(chance["effect"]) == ["a"] and chance["power"].iloc[0] > 0.9


def test_raters_set_the_items():
    """Answers: participants × trials = items × raters, in every condition."""
    plan = Plan(Design({"a": 0.4, "b": 0.6}))
    table = power_curve(plan, Sizes([20, 40], [6], raters=[10, 30]), studies=10)
    assert (table["participants"] * table["trials"] == table["items"] * table["raters"]).all()
    rows = table[["participants", "items", "raters"]].to_numpy().tolist()
    assert rows == [[20, 12, 10], [40, 24, 10], [40, 8, 30]]  # 20 people cannot answer 30 times
    for wrong, text in (
        ({"items": [8], "raters": [8]}, "items or raters: each follows from the other"),
        ({"items": [4]}, r"trials \(6\) exceed items \(4\)"),
        ({"raters": [50]}, r"raters \(50\) exceed participants \(40\)"),
    ):
        with pytest.raises(ValueError, match=text):
            Sizes([20, 40], [6], **wrong)


def test_smallest_design_must_hold_from_there_on():
    table = pd.DataFrame(
        {"effect": "x", "design": "8 trials of 9", "items": 9, "trials": 8, "raters": 7.0,
         "participants": [50, 100, 150, 200], "power": [0.81, 0.79, 0.82, 0.9],
         "cost": [5.0, 10, 15, 20], "size": 0.4}
    )  # fmt: skip
    found = smallest_designs(table)
    assert list(found["participants"]) == [150]
    assert describe_smallest(found, 0.8, table).endswith(
        "150 participants, 8 trials per participant and condition, 9 items per condition, "
        "7 responses per item, at a cost of 15.00."
    )
    never = smallest_designs(table, 0.95)
    assert never["participants"].isna().all()
    said = describe_smallest(never, 0.95, table)
    assert said == "No design tried finds every effect with 95 % power."
    both = table.assign(effect=TOGETHER, power=[0.1, 0.2, 0.7, 0.85])
    found = smallest_designs(pd.concat([table, both]))
    assert found.set_index("effect")["participants"].to_dict() == {"x": 150, TOGETHER: 200}
    assert "80 % power: 200 participants" in describe_smallest(found, 0.8, table)
    table["size"] = [0.0, 1e-4, -1e-4, np.nan]
    said = describe_smallest(found, 0.8, table)
    assert said == "The conditions are expected to be equal: power is the rate of false positives."


def test_calibration_recovers_a_pilot():
    truth = Design(
        {"a": 0.3, "b": 0.7}, participants=120, items=30, sd_participant=0.9, sd_item=0.4,
        sd_condition=0.6,
    )  # fmt: skip
    pilot = as_frame(simulate(truth, np.random.default_rng(2)))
    design = calibrate(Design({"a": 0.5, "b": 0.5}), pilot)
    assert design.accuracy == pytest.approx(truth.accuracy, abs=0.05)
    assert design.sd_participant == pytest.approx(0.9, abs=0.15)
    assert design.sd_condition == pytest.approx(0.6, abs=0.12)
    assert design.sd_item == pytest.approx(0.4, abs=0.12)
    with pytest.raises(ValueError, match="mixes responses of human, pilot; export one --source"):
        calibrate(design, pilot.assign(source=["human", *["pilot"] * (len(pilot) - 1)]))
    two_tasks = pilot.assign(task=["odd", "even"] * (len(pilot) // 2))
    with pytest.raises(ValueError, match=r"a condition in several tasks \(even, odd\): keep one"):
        calibrate(design, two_tasks)
    assert calibrate(design, two_tasks.assign(task=pilot["condition"])) == calibrate(design, pilot)
    with pytest.raises(ValueError, match="no usable responses in the conditions z"):
        calibrate(Design({"z": 0.5}), pilot)


def test_designs_are_checked():
    for wrong, text in (
        ({"accuracy": {"a": 1.0}}, "accuracy of 'a' must lie between 0 and 1, got 1.0"),
        ({"accuracy": {"a": 0.5}, "participants": 1}, "at least 2 participants"),
        ({"accuracy": {"a": 0.5}, "answered": 99}, "answered must lie between 1 and items"),
    ):
        with pytest.raises(ValueError, match=text):
            Design(**wrong)
    with pytest.raises(ValueError, match="there is no effect"):
        rejections(Plan(Design({"a": 1 / 6}), against_chance=True), 5)
    with pytest.raises(ValueError, match="or, to test them against chance"):
        rejections(Plan(Design({"base": 0.6})), studies=2)  # one condition has no contrast


def test_a_planted_effect_comes_out_at_its_size():
    design = Design({"a": 0.7}, participants=200, items=80, sd_participant=0.4, sd_item=0.4)
    frame = as_frame(simulate(design, np.random.default_rng(5)))
    estimate = ClusteredShares(1 / 6)(frame)[("a",)]
    assert estimate.low < 0.7 < estimate.high
    assert estimate.high - estimate.low < 0.08
