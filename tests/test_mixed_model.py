"""The crossed logistic model against lme4 and glmmTMB.

The expected numbers were printed by R 4.2.2 with lme4 1.1-31 and glmmTMB 1.1.5 for the answers
below (y, condition g, participant p, item i in long form):

    glmer(y ~ 0 + factor(g) + (1 | p) + (1 | i), d, binomial, nAGQ = 0)
    glmer(..., devFunOnly = TRUE)(c(.8, .9, -.2, 1))      # Laplace deviance at parameters
    optim(fixef(m), function(b) devfun(c(theta, b)))      # β given those standard deviations
    glmmTMB(..., family = binomial, REML = TRUE)

and, where people differ in what a condition does for them, with (1 | p:g) added.
"""

import numpy as np
import pytest

from analysis.statistics import mixed_model

ANSWERS = [
    "01001100001111110000", "11000000001111000100", "11101010001111100111", "01110000111101110011",
    "10000100001110010001", "00000000000100101011", "10010000000111001110", "11101001101101110011",
    "00010000001110000000", "01010001010100000001", "00110000001110100101", "01111100101111110101",
    "01110100111111111001", "00010010001111011010", "01010100011110111000", "01111100111111011110",
    "01000100000000110001", "10111100101111011110", "10011000100101010101", "01000000000101101001",
    "01100000111111111010", "01010010001001111100", "01001000001111111111", "00010000011100101011",
]  # fmt: skip

#: Planted: standard deviations of .7 (people), .9 (people in conditions), .6 (items).
DIFFER = [
    "00100011001010110101", "00010101001101110101", "10000101011011111111", "10000101000110011011",
    "00000001100110111111", "00100111011101111111", "10000001110111110111", "11101010011111111101",
    "00000000001111110111", "00000000000010111111", "10100001100000011101", "11111011011111110111",
    "10001010000111100101", "11000101011101010110", "00100011000001010100", "00000000111010110101",
    "00000101011001111101", "00000001000001110001", "00001001100011101101", "11111111111001111111",
    "00100010011010000101", "10101111111111110111", "11101001000000000001", "01000100111111111111",
]  # fmt: skip


def long_form(answers=ANSWERS):
    y = np.array([[int(a) for a in row] for row in answers], dtype=float)
    participant, item = np.divmod(np.arange(y.size), y.shape[1])
    return y.ravel(), np.eye(2)[item // 10], participant, item


def test_joint_mode_is_lme4_with_nagq_0():
    y, x, participant, item = long_form()
    fit = mixed_model.fit(y, x, participant, item, reml=False)
    assert fit.converged
    assert fit.sd[0] == pytest.approx(0.62731844, abs=2e-4)
    assert fit.sd[2] == pytest.approx(0.60937223, abs=2e-4)
    assert fit.log_likelihood == pytest.approx(-300.9296934, abs=1e-3)
    expected = [[0.074516074, 0.016305879], [0.016305879, 0.072984004]]
    np.testing.assert_allclose(fit.covariance, expected, atol=4e-5)


def test_fixed_effects_maximise_lme4s_laplace_deviance():
    y, x, participant, item = long_form()
    fit = mixed_model.fit(y, x, participant, item, reml=False)
    np.testing.assert_allclose(fit.beta, [-0.79032170, 0.55494094], atol=5e-4)


def test_laplace_likelihood_is_lme4s_deviance_function():
    y, x, participant, item = long_form()
    problem = mixed_model._Problem(y, x, participant, item, np.zeros_like(item))
    log_likelihood = problem.laplace(np.array([0.8, 0, 0.9]), np.array([-0.2, 1.0]))
    assert -2 * log_likelihood == pytest.approx(608.50407364, abs=2e-3)


def test_reml_is_glmmtmbs():
    y, x, participant, item = long_form()
    fit = mixed_model.fit(y, x, participant, item)
    assert fit.sd[0] == pytest.approx(0.6483615, abs=2e-4)
    assert fit.sd[2] == pytest.approx(0.6630320, abs=2e-4)
    # glmmTMB's covariance adds the uncertainty of the standard deviations, ours is given them.
    expected = [[0.083198274, 0.017075677], [0.017075677, 0.081359110]]
    np.testing.assert_allclose(fit.covariance, expected, rtol=0.025)


def test_people_within_conditions_are_lme4s_and_glmmtmbs():
    y, x, participant, item = long_form(DIFFER)
    condition = item // 10
    fit = mixed_model.fit(y, x, participant, item, condition, reml=False)
    np.testing.assert_allclose(fit.sd, [0.63885426, 0.78500402, 0.73104509], atol=2e-4)
    np.testing.assert_allclose(fit.beta, [-0.59776158, 0.93737385], atol=1e-3)
    assert fit.log_likelihood == pytest.approx(-289.3446358, abs=1e-3)
    problem = mixed_model._Problem(y, x, participant, item, condition)
    log_likelihood = problem.laplace(np.array([0.8, 0.7, 0.9]), np.array([-0.2, 1.0]))
    assert -2 * log_likelihood == pytest.approx(580.81783964, abs=2e-3)
    restricted = mixed_model.fit(y, x, participant, item, condition)
    np.testing.assert_allclose(restricted.sd, [0.65640915, 0.81645892, 0.78147492], atol=2e-4)
    expected = [[0.12888046, 0.01750885], [0.01750885, 0.13205724]]
    np.testing.assert_allclose(restricted.covariance, expected, rtol=0.05)


def test_effects_within_conditions_need_several_answers_and_conditions():
    """With one answer a condition, or one condition a person, σ_v has no data: lme4 refuses."""
    y, x, participant, item = long_form(DIFFER)
    for condition in (item, np.zeros_like(item), participant % 2):
        fit = mixed_model.fit(y, x, participant, item, condition)
        assert fit.sd[1] == 0 and np.isinf(fit.df[1])


def test_absent_effects_are_found_absent():
    y, x, participant, item = long_form()
    assert mixed_model.fit(y, x, participant, item, item // 10).sd[1] == 0  # as lme4 finds
    alternating = (np.arange(len(y)) % 2).astype(float)
    fit = mixed_model.fit(alternating, x[:, :1] + x[:, 1:], participant, np.zeros_like(item))
    assert fit.sd[0] == 0
    assert fit.beta[0] == pytest.approx(0, abs=1e-6)
    assert np.isinf(fit.df[0])


def test_marginal_and_conditional_are_inverse():
    for probability in (0.05, 1 / 6, 0.5, 0.9):
        beta = mixed_model.mean_logit(probability, 1.3)
        assert mixed_model.marginal_share(beta, 1.3) == pytest.approx(probability, abs=1e-10)
    rng = np.random.default_rng(0)
    drawn = 1 / (1 + np.exp(-(-1.2 + 1.5 * rng.standard_normal(400_000))))
    assert mixed_model.marginal_share(-1.2, 1.5) == pytest.approx(drawn.mean(), abs=1e-3)


def test_unidentified_models_are_refused():
    y, x, participant, item = long_form()
    with pytest.raises(ValueError, match="depend linearly"):
        mixed_model.fit(y, np.hstack([x, x]), participant, item)
    with pytest.raises(ValueError, match="only right or only wrong"):
        mixed_model.fit(np.where(x[:, 0] == 1, 1, y), x, participant, item)
