"""The Bayesian hierarchical model, against statsmodels' and against its frequentist twin."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from statsmodels.genmod.bayes_mixed_glm import BinomialBayesMixedGLM

from analysis.planning.designs import Design, as_frame, simulate
from analysis.statistics import STATISTICS
from analysis.statistics import bayesian as kernel
from analysis.statistics.bayesian import Posterior, Prior, can_sample, sample
from analysis.study import bayesian as exhibit
from analysis.study.results import Results
from tasks.settings import Analysis
from tests.synthetic_study import make_responses, make_study, results_of

needs_numpyro = pytest.mark.skipif(
    not can_sample(), reason="numpyro, of the extra `bayes`, is not installed"
)


@cache
def frame() -> pd.DataFrame:
    design = Design({"a": 0.7, "b": 0.5}, participants=60, items=20, sd_participant=0.8)
    return as_frame(simulate(design, np.random.default_rng(5)))


@pytest.mark.slow
@needs_numpyro
def test_the_posterior_is_that_of_statsmodels_and_near_the_fitted_model():
    """Outside: `BinomialBayesMixedGLM` by variational Bayes, with the same normal prior of the
    fixed effects; its prior of the standard deviations is log-normal, and the data outweigh both.
    Inside: the crossed model fitted by Laplace's method, which was checked against lme4."""
    answers = frame()
    posterior = sample(answers, Prior(), seed=1)
    assert posterior.rhat < 1.05 and posterior.ess > 100 and posterior.divergences < 5
    assert posterior.beta.shape == (kernel.CHAINS * kernel.DRAWS, 2)
    dummies = [pd.get_dummies(answers[c]).to_numpy(float) for c in ("participant", "trial")]
    kinds = np.repeat([0, 1], [dummies[0].shape[1], dummies[1].shape[1]])
    x = pd.get_dummies(answers["condition"]).to_numpy(float)
    outside = BinomialBayesMixedGLM(
        answers["correct"].to_numpy(float), x, np.hstack(dummies), kinds, vcp_p=1.0, fe_p=1.5
    ).fit_vb()
    error = posterior.beta.std(axis=0)
    assert (np.abs(posterior.beta.mean(axis=0) - outside.fe_mean) < error).all()
    spread = posterior.sd.mean(axis=0)[[0, 2]]
    np.testing.assert_allclose(spread, np.exp(outside.vcp_mean), atol=0.2)
    fitted = STATISTICS.get("crossed_effects")(chance=0.5)(answers)
    for k, name in enumerate(posterior.names):
        draws, estimate = posterior.shares[:, k], fitted[(name,)]
        assert draws.mean() == pytest.approx(estimate.value, abs=0.02)
        low, high = np.quantile(draws, [0.025, 0.975])
        assert (low, high) == pytest.approx((estimate.low, estimate.high), abs=0.04)


@pytest.mark.slow
@needs_numpyro
def test_a_narrow_prior_rules_and_the_same_seed_gives_the_same_draws():
    few = frame().groupby("condition").head(30)
    wide, narrow = (sample(few, Prior(effect, 1.0), seed=2) for effect in (1.5, 0.05))
    assert np.abs(narrow.beta.mean(axis=0)).max() < 0.1 < np.abs(wide.beta.mean(axis=0)).max()
    np.testing.assert_array_equal(sample(few, Prior(0.05, 1.0), seed=2).beta, narrow.beta)


def fake(answers: pd.DataFrame, prior: Prior, seed: int) -> Posterior:
    """Return draws around the observed shares, instead of half a minute of sampling."""
    names = tuple(sorted(answers["condition"].unique()))
    means = answers.astype({"correct": float}).groupby("condition")["correct"].mean()[list(names)]
    rng = np.random.default_rng(seed)
    centre = np.log(means / (1 - means)).to_numpy()
    beta = centre + rng.normal(0, 0.1, (400, len(names)))
    return Posterior(names, beta, np.full((400, 3), 1e-6), 1.01, 300, 0)


def planned(folder, **plan) -> Results:
    analysis = Analysis(primary="odd_one_out.chance", **plan)
    study = make_study(folder, trials=4, analysis=analysis)
    return results_of(folder, *make_responses(folder, study, people=20))


def test_the_table_sums_up_the_posterior(tmp_path, monkeypatch):
    monkeypatch.setattr(exhibit, "can_sample", lambda: True)
    monkeypatch.setattr(exhibit, "sample", fake)
    results = planned(tmp_path, bayesian=True, smallest_effect=0.3)
    table = exhibit.bayesian(results)
    assert table is not None and "Normal(0, 1.5)" in table.caption
    frame = table.frame.set_index("what")
    answers = results.answers_of("odd_one_out")
    for name in ("base", "other_series", "random"):
        right = answers.loc[answers["condition"] == name, "correct"].mean()
        assert frame.loc[name, "value"] == pytest.approx(right, abs=0.02)
    difference = frame.loc["base − random"]
    shares = frame["value"]
    assert difference["value"] == pytest.approx(shares["base"] - shares["random"], abs=0.01)
    assert difference["P(above chance or 0)"] == 1 and difference["low"] > 0
    assert difference["P(within smallest effect)"] < 0.05
    said = exhibit.bayesian_findings(results, {"bayesian": table})
    assert any("odd one out, the posterior mean of base is 0." in text for text in said)
    for rhat in (1.4, np.nan):  # NaN: a chain did not move
        bad = table.frame.assign(**{"R̂": rhat})
        [warning] = exhibit.bayesian_findings(results, {"bayesian": type(table)("b", "", "", bad)})
        assert "did not converge" in warning and "do not use its numbers" in warning


def test_it_is_made_only_where_it_was_frozen_and_said_where_it_cannot_be(tmp_path, monkeypatch):
    results = planned(tmp_path / "a")
    assert exhibit.bayesian(results) is None
    assert exhibit.bayesian_findings(results, {}) == []
    monkeypatch.setattr(exhibit, "can_sample", lambda: False)
    asked = planned(tmp_path / "b", bayesian=True)
    assert exhibit.bayesian(asked) is None
    assert "numpyro is not installed" in exhibit.bayesian_findings(asked, {})[0]
