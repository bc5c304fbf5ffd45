"""Agreement: against Krippendorff's example, the krippendorff package, Fleiss, Dawid and Skene."""

from pathlib import Path

import krippendorff
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.inter_rater import fleiss_kappa

from analysis.statistics.agreement import (
    FleissKappa,
    FreeMarginalKappa,
    KrippendorffAlpha,
    dawid_skene,
)
from tests import oracles_statistics as plain

#: Krippendorff (2011), "Computing Krippendorff's alpha-reliability", example C: four observers,
#: twelve units, missing cells.
EXAMPLE = [
    "1 2 3 3 2 1 4 1 2 * * *",
    "1 2 3 3 2 2 4 1 2 5 * 3",
    "* 3 3 3 2 3 4 2 2 5 1 *",
    "1 2 3 3 2 4 4 1 2 5 1 *",
]


def long_form(rows: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"participant": observer, "trial": unit, "answer": float(value)}
            for observer, row in enumerate(rows)
            for unit, value in enumerate(row.split())
            if value != "*"
        ]
    )


@pytest.mark.parametrize(
    ("metric", "published"),
    [("nominal", 0.743), ("ordinal", 0.815)],
)
def test_krippendorffs_own_example(metric, published):
    estimate = KrippendorffAlpha(metric)(long_form(EXAMPLE))
    assert estimate.value == pytest.approx(published, abs=6e-4)
    assert estimate.n == 40  # pairable values
    assert estimate.left_out == 1  # the unit with one value
    assert estimate.low < estimate.value <= estimate.high


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["nominal", "ordinal"]))
def test_alpha_is_the_krippendorff_package(seed, metric):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 5, (5, 15)).astype(float)
    values[rng.random(values.shape) < 0.3] = np.nan
    frame = pd.DataFrame(values.T).melt(ignore_index=False, value_name="answer").reset_index()
    frame = frame.rename(columns={"index": "trial", "variable": "participant"})
    expected = krippendorff.alpha(values, level_of_measurement=metric)
    assert KrippendorffAlpha(metric)(frame).value == pytest.approx(expected, abs=1e-10)


def test_alpha_is_its_plain_twin():
    frame = long_form(EXAMPLE)
    units = [list(unit) for _, unit in frame.groupby("trial")["answer"]]
    expected = plain.krippendorff_nominal(units)
    assert KrippendorffAlpha()(frame).value == pytest.approx(expected)


@pytest.mark.parametrize("statistic", [KrippendorffAlpha("ordinal"), FleissKappa()])
def test_the_interval_leaves_out_people_units_and_ratings(statistic):
    rng = np.random.default_rng(0)
    trial, participant = (axis.ravel() for axis in np.indices((9, 7)))
    given_answers = np.where(rng.random(63) < 0.5, trial % 3, rng.integers(0, 3, 63))
    frame = pd.DataFrame({"trial": trial, "participant": participant, "answer": given_answers})
    estimate = statistic(frame)

    def value_of(rows: pd.DataFrame) -> float:
        units = [list(unit) for _, unit in rows.groupby("trial")["answer"]]
        if isinstance(statistic, FleissKappa):
            return plain.fleiss(units)
        return krippendorff.alpha(
            rows.pivot(index="participant", columns="trial", values="answer").to_numpy(float),
            level_of_measurement="ordinal",
        )

    def fisher(r: float) -> float:
        return np.log((1 + 6 * r) / (1 - r)) / 2  # seven ratings per trial

    def spread(groups) -> float:
        left = [fisher(value_of(frame.drop(rows))) - fisher(estimate.value) for rows in groups]
        return (len(left) - 1) / len(left) * float(np.square(left).sum())

    people, units = (
        spread(frame.groupby(name).groups.values()) for name in ("participant", "trial")
    )
    ratings = spread([[row] for row in frame.index])
    variance = max(people + units - ratings, ratings / 2)
    df = max(variance, ratings) ** 2 / (people**2 / 6 + units**2 / 8)
    half_width = max(
        stats.t.ppf(0.975, df) * np.sqrt(variance), stats.norm.ppf(0.975) * np.sqrt(ratings)
    )
    assert fisher(estimate.value) - fisher(estimate.low) == pytest.approx(half_width)
    assert fisher(estimate.high) - fisher(estimate.value) == pytest.approx(half_width)


def test_one_disagreement_has_an_interval():
    """Without it, agreement would be perfect: the coefficient is not transformed."""
    trial, participant = (axis.ravel() for axis in np.indices((8, 5)))
    answer = trial % 3 + (np.arange(40) == 0)
    frame = pd.DataFrame({"trial": trial, "participant": participant, "answer": answer})
    for statistic in (KrippendorffAlpha(), FleissKappa(), FreeMarginalKappa(1 / 3)):
        estimate = statistic(frame)
        assert 0.6 < estimate.low < estimate.value < estimate.high == 1 and not estimate.reason


def test_ratings_at_random_do_not_agree():
    """An interval over units alone excluded 0 in 18 % of such studies."""
    trial, participant = (axis.ravel() for axis in np.indices((8, 33)))
    excluded = []
    for seed in range(40):
        answer = np.random.default_rng(seed).integers(1, 5, 264)
        frame = pd.DataFrame({"trial": trial, "participant": participant, "answer": answer})
        estimate = KrippendorffAlpha("ordinal")(frame)
        excluded.append(not estimate.low <= 0 <= estimate.high)
    assert np.mean(excluded) < 0.13


def test_alpha_undefined_is_nan():
    same = pd.DataFrame({"participant": [1, 2] * 2, "trial": [1, 1, 2, 2], "answer": list("aaaa")})
    assert np.isnan(KrippendorffAlpha()(same).value)
    alone = KrippendorffAlpha()(same.assign(trial=range(4), answer=list("aabb")).head(2))
    assert np.isnan(alone.value) and alone.left_out == 2


#: Fleiss' kappa of ten subjects and fourteen raters: the worked example that Wikipedia's article
#: "Fleiss' kappa" goes through, κ = .210.
FOURTEEN = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def test_fleiss_worked_example_and_statsmodels():
    rows = [
        {"participant": participant, "trial": unit, "answer": category}
        for unit, row in enumerate(FOURTEEN)
        for participant, category in enumerate(np.repeat(range(5), row))
    ]
    estimate = FleissKappa()(pd.DataFrame(rows))
    assert estimate.value == pytest.approx(0.210, abs=5e-4)
    assert estimate.value == pytest.approx(fleiss_kappa(np.array(FOURTEEN)))
    assert estimate.n == 140
    free = FreeMarginalKappa(1 / 5)(pd.DataFrame(rows))
    assert free.value == pytest.approx(fleiss_kappa(np.array(FOURTEEN), method="randolph"))
    assert free.low < free.value < free.high and free.n == 140


def test_other_names_of_a_trials_options_change_alpha_and_not_the_free_marginal_kappa():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"participant": np.repeat(range(9), 6), "trial": np.tile(range(6), 9)})
    frame["answer"] = np.where(rng.random(54) < 0.6, 0, rng.integers(4, size=54))
    frame = frame.iloc[:-1]
    renamed = frame.assign(answer=(frame["answer"] + frame["trial"]) % 4)
    one, other = (FreeMarginalKappa(1 / 4)(f) for f in (frame, renamed))
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))
    assert KrippendorffAlpha()(renamed).value > KrippendorffAlpha()(frame).value + 0.1


def test_fleiss_refuses_incomplete_designs():
    with pytest.raises(ValueError, match=r"found 4 to 5: use Krippendorff's alpha"):
        FleissKappa()(long_form([EXAMPLE[0], *EXAMPLE]).query("trial < 9 and trial != 1"))


def anaesthetists() -> pd.DataFrame:
    """Dawid & Skene (1979), table 1: 45 patients, five anaesthetists, the first of them thrice."""
    wide = pd.read_csv(Path(__file__).parent / "data" / "dawid_skene_1979.csv")
    table = wide.melt("patient", var_name="observer", value_name="answer")
    return table.assign(participant=table["observer"].str[0], trial=table["patient"])


def test_dawid_and_skenes_own_data():
    fit = dawid_skene(anaesthetists())
    # Their estimates of the shares of the four classes, printed to two figures.
    np.testing.assert_allclose(fit.prior, [0.40, 0.42, 0.11, 0.07], atol=5e-3)
    # crowd-kit 1.4.2, DawidSkene(n_iter=10000, tol=1e-12).fit: its EM stops at the first fall of
    # its loss, a little before the maximum, hence the tolerance.
    np.testing.assert_allclose(fit.prior, [0.399732, 0.422382, 0.111219, 0.066667], atol=1e-3)
    crowd_kit_first = [
        [0.88937, 0.11063, 0, 0], [0.07026, 0.87673, 0.05301, 0],
        [0, 0.3355, 0.6645, 0], [0, 0, 0.55556, 0.44444],
    ]  # fmt: skip
    np.testing.assert_allclose(fit.confusion[0], crowd_kit_first, atol=5e-3)
    crowd_kit_labels = [
        1, 4, 2, 2, 2, 2, 1, 3, 2, 2, 4, 3, 1, 2, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 1, 1, 2, 1, 1, 1,
        1, 3, 1, 2, 2, 4, 2, 3, 3, 1, 1, 1, 2, 1, 2,
    ]  # fmt: skip
    assert list(fit.answers()["label"]) == crowd_kit_labels
    assert fit.converged


def test_dawid_skene_is_its_plain_twin():
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, 12)
    rows = [
        (item, person, int(truth[item]) if rng.random() < 0.7 else int(rng.integers(3)))
        for item in range(12)
        for person in range(5)
        if rng.random() < 0.8
    ]
    frame = pd.DataFrame(rows, columns=["trial", "participant", "answer"])
    fit = dawid_skene(frame, tolerance=-1, max_iterations=6)
    prior, confusion, posterior = plain.dawid_skene(rows, 6)
    np.testing.assert_allclose(fit.prior, list(prior.values()))
    for item in range(12):
        expected = [posterior[item, c] for c in range(3)]
        np.testing.assert_allclose(fit.posterior[item], expected, atol=1e-12)
    assert fit.confusion[1, 0, 0] == pytest.approx(confusion[1, 0, 0])


def test_dawid_skene_tells_good_from_bad():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 80)
    skill = np.array([0.95, 0.9, 0.85, 0.5, 0.5])
    right = rng.random((80, 5)) < skill
    given_answers = np.where(right, truth[:, None], 1 - truth[:, None])
    item, person = np.divmod(np.arange(400), 5)
    frame = pd.DataFrame({"trial": item, "participant": person, "answer": given_answers.ravel()})
    fit = dawid_skene(frame)
    quality = fit.quality()["accuracy"].to_numpy()
    assert quality[:3].min() > quality[3:].max()
    agreed = (fit.answers()["label"].to_numpy() == truth).mean()
    assert agreed > (given_answers.mean(1).round() == truth).mean() - 0.02
    tied = dawid_skene(pd.DataFrame({"trial": [1, 1], "participant": [0, 1], "answer": list("ab")}))
    assert list(tied.majority) == [""]
    seen = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2)]
    partial = pd.DataFrame(seen, columns=["participant", "trial"])
    partial["answer"] = np.where(partial["trial"] < 3, "a", "b")  # the last person saw no "b"
    assert dawid_skene(partial).quality()["accuracy"].tolist() == pytest.approx([1, 1, 1])


def test_perfect_agreement_says_why_it_has_no_interval():
    frame = pd.DataFrame(
        {"trial": np.repeat(np.arange(10), 4), "participant": np.tile(range(4), 10)}
    )
    frame["answer"] = frame["trial"] % 3
    for statistic in (KrippendorffAlpha(), FleissKappa(), FreeMarginalKappa(1 / 3)):
        estimate = statistic(frame)
        assert estimate.value == 1 and np.isnan(estimate.low) and "varies" in estimate.reason
