"""Variance components: compared with ANOVA, the logistic model, and known truth."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.anova import anova_lm

from analysis.planning.designs import Design, as_frame, simulate
from analysis.statistics.clusters import code_responses
from analysis.statistics.components import (
    COMPONENTS,
    INSEPARABLE,
    LOGISTIC,
    VarianceComponents,
    minque,
)
from analysis.statistics.crossed_effects import fit_conditions
from tests import oracles_statistics as plain


def ratings(seed, people=12, items=9, sd=(0.6, 0.0, 0.8, 0.5), conditions=1) -> pd.DataFrame:
    """Return ratings with planted standard deviations of COMPONENTS."""
    rng = np.random.default_rng(seed)
    person, item = (a.ravel() for a in np.indices((people, items)))
    group = item % conditions
    rating = (
        2.5 + 0.3 * group + rng.normal(0, sd[0], people)[person]
        + rng.normal(0, sd[1], (people, conditions))[person, group]
        + rng.normal(0, sd[2], items)[item] + rng.normal(0, sd[3], len(person))
    )  # fmt: skip
    return pd.DataFrame(
        {"participant": person, "trial": item, "condition": group, "rating": rating}
    )


def test_a_complete_design_is_the_analysis_of_variance():
    frame = ratings(0)
    table = anova_lm(smf.ols("rating ~ C(participant) + C(trial)", frame).fit())
    mean = table["sum_sq"] / table["df"]
    expected = [
        (mean["C(participant)"] - mean["Residual"]) / 9, np.nan,
        (mean["C(trial)"] - mean["Residual"]) / 12, mean["Residual"],
    ]  # fmt: skip
    assert minque(code_responses(frame, value="rating")) == pytest.approx(expected, nan_ok=True)
    found = VarianceComponents("rating")(frame)
    assert [found[name,].effect for name in COMPONENTS] == pytest.approx(expected, nan_ok=True)
    assert np.nansum([e.value for e in found.values()]) == pytest.approx(1)
    assert {e.reason for e in found.values()} == {INSEPARABLE}  # there is one condition


@pytest.mark.parametrize("value", ["rating", "correct"])
def test_what_participants_do_in_a_condition_is_undefined_where_each_is_in_one(value):
    frame = ratings(0, people=40, items=12, conditions=2)
    frame = frame[frame["participant"] % 2 == frame["condition"]]
    found = VarianceComponents(value)(frame.assign(correct=frame["rating"] > 2.7))
    assert np.isnan(found["participants in conditions",].value)
    assert found["participants",].value > 0.1 and found["trials",].reason.endswith(INSEPARABLE)
    assert np.nansum([e.value for e in found.values()]) == pytest.approx(1)


def test_an_incomplete_design_is_its_plain_twin_and_unbiased():
    sd, estimates = (0.6, 0.4, 0.8, 0.5), []
    for seed in range(150):
        frame = ratings(seed, sd=sd, conditions=3)
        frame = frame[np.random.default_rng([seed, 1]).random(len(frame)) < 0.6]
        data = code_responses(frame, value="rating")
        estimates.append(minque(data))
        if seed < 2:
            twin = plain.minque(data.values, data.group, data.participant, data.item)
            assert estimates[-1] == pytest.approx(twin, rel=1e-6, abs=1e-9)
    error = np.std(estimates, axis=0) / np.sqrt(len(estimates))
    assert (np.abs(np.mean(estimates, axis=0) - np.square(sd)) < 3.5 * error).all()


def test_right_answers_are_those_of_the_logistic_model():
    design = Design({"a": 0.5, "b": 0.6}, participants=80, items=30, sd_participant=1.0)
    frame = as_frame(simulate(design, np.random.default_rng(0)))
    found = VarianceComponents()(frame)
    fit = fit_conditions(frame).fit
    total = float(np.square(fit.sd).sum()) + LOGISTIC
    assert found["participants",].value == pytest.approx(fit.sd[0] ** 2 / total)
    truth = 1 / (1 + 0.7**2 + LOGISTIC)
    assert found["participants",].value == pytest.approx(truth, abs=0.06)


def test_what_is_below_zero_or_cannot_be_estimated_is_said():
    alike = ratings(0, sd=(0.0, 0.0, 0.0, 1.0), people=30, items=20)
    alike["rating"] -= alike.groupby("participant")["rating"].transform("mean")  # people alike
    found = VarianceComponents("rating")(alike)
    assert found["participants",].value == 0
    assert found["residual",].reason.startswith("estimated below 0, set to 0: participants")
    few = VarianceComponents("rating")(ratings(0, people=3))
    assert np.isnan(few["trials",].value)
    assert few["trials",].reason == "only 3 participants in a condition; at least 4 are needed"
    constant = VarianceComponents("rating")(alike.assign(rating=2.0))
    assert np.isnan(constant["trials",].value)
    assert constant["trials",].reason == "the answers of a condition do not vary"
