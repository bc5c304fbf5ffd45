"""Agreement of free-text labels against shuffled groups."""

from __future__ import annotations

import difflib

import numpy as np
import pandas as pd
import pytest

from analysis.labels import SIMILARITIES, LabelAgreement, normalise
from tests import oracles_statistics as plain

WORDS = ["red wheel", "stripes", "blue dots", "round shape", "window", "fur"]


def labels(seed: int, agreement: float, groups=12, people=10) -> pd.DataFrame:
    """`agreement`: probability that a label is the group's word rather than any."""
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(groups):
        for person in range(people):
            known = rng.random() < agreement
            word = WORDS[group % len(WORDS)] if known else str(rng.choice(WORDS))
            rows.append({"trial": f"g{group:02}", "participant": f"p{person}", "label": word})
    return pd.DataFrame(rows)


def test_normalise():
    assert normalise("  Red-WHEELS, (big)! ") == "red wheels big"
    assert normalise("¿?") == ""


def test_value_is_its_plain_twin():
    frame = labels(0, 0.5, groups=4, people=4)
    estimate = LabelAgreement("sequence", shuffles=9)(frame)

    def ratio(a, b):
        match = difflib.SequenceMatcher
        return (match(None, a, b, False).ratio() + match(None, b, a, False).ratio()) / 2

    rows = list(frame[["trial", "participant", "label"]].itertuples(index=False, name=None))
    assert estimate.value == pytest.approx(plain.label_agreement(rows, ratio))


def test_shared_labels_are_found_and_random_ones_are_not():
    found = LabelAgreement(shuffles=999)(labels(0, 0.6))
    assert found.p == pytest.approx(1 / 1000)  # (0 + 1) / (999 + 1)
    assert found.effect > 0.2
    p_values = [LabelAgreement(shuffles=99)(labels(seed, 0.0)).p for seed in range(40)]
    assert np.mean(np.array(p_values) <= 0.05) < 0.2
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.15)


def answers(seed: int, people=8, trials=6, stages=3) -> pd.DataFrame:
    """Everybody names the stages of a trial alike, whatever the trial; some are left empty."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(people):
        for trial in range(trials):
            word = str(rng.choice(WORDS))
            for stage in range(stages):
                label = "" if rng.random() < 0.1 else word
                rows.append(
                    {"trial": f"t{trial}", "stage": stage, "participant": f"p{person}",
                     "condition": "ab"[trial % 2], "label": label}
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_shuffles_are_their_plain_twin():
    """Whole answers change places within a participant; every shuffle's value by plain loops."""
    frame = answers(3, people=4, trials=4)
    statistic = LabelAgreement("exact", shuffles=30, seed=5)
    found = statistic.by_condition(frame)
    wide = frame.groupby(["participant", "trial"])["label"].agg(tuple)
    plainly = [(person, trial, labels) for (person, trial), labels in wide.items()]
    draws = np.random.default_rng(5).random((30, len(plainly)))
    values = {"a": [], "b": []}
    for draw in draws:
        order = sorted(range(len(plainly)), key=lambda i, draw=draw: (plainly[i][0], draw[i]))
        for condition, group in values.items():
            keep = [i for i, (_, t, _) in enumerate(plainly) if "ab"[int(t[1]) % 2] == condition]
            part = [(plainly[i][0], plainly[i][1], plainly[order[i]][2]) for i in keep]
            group.append(plain.labels_by_stage(part, lambda x, y: float(x == y)))
    for condition, estimate in found.items():
        null = np.array(values[condition])
        assert estimate.effect == pytest.approx(estimate.value - null.mean())
        reached = (null >= estimate.value - 1e-9).sum()
        assert estimate.p == pytest.approx((reached + 1) / 31)


def test_stages_named_alike_are_no_agreement_between_people():
    """Equal labels of one answer are one piece of evidence, however many there are."""
    frames = [answers(seed, stages=8) for seed in range(120)]
    p_values = np.array([LabelAgreement(shuffles=99)(frame).p for frame in frames])
    assert np.mean(p_values <= 0.05) < 0.11
    # Shuffled one by one, as if each stage were an answer of its own, they would be found.
    singly = [frame.assign(trial=frame["trial"] + frame["stage"].astype(str)) for frame in frames]
    p_values = np.array([LabelAgreement(shuffles=99)(f.assign(stage=0)).p for f in singly])
    assert np.mean(p_values <= 0.05) > 0.15


def test_a_habit_of_naming_is_no_agreement():
    """Everybody writes one word everywhere, half of them the same: shuffling keeps that."""
    frame = labels(0, 0.0)
    habit = frame["participant"].map({f"p{k}": WORDS[k % 2] for k in range(10)})
    estimate = LabelAgreement(shuffles=99)(frame.assign(label=habit))
    assert estimate.p == 1.0
    assert estimate.effect == pytest.approx(0)


def test_similarities_are_similarities():
    texts = ["red wheel", "red wheels", "wheel", "sky"]
    for name in SIMILARITIES:
        matrix = SIMILARITIES.get(name)(texts)
        np.testing.assert_allclose(matrix, matrix.T)
        np.testing.assert_allclose(np.diag(matrix), 1)
        assert matrix.min() >= 0 and matrix.max() <= 1 and matrix[0, 3] < 0.3
    assert SIMILARITIES.get("words")(texts)[0, 1] == 1
    assert SIMILARITIES.get("trigrams")(texts)[0, 1] > 0.6


def constant(texts):
    return np.ones((len(texts), len(texts)))


def lopsided(texts):
    return np.triu(np.ones((len(texts), len(texts))))


def test_own_similarity():
    frame = labels(0, 0.3)
    assert LabelAgreement("tests.test_labels:constant", shuffles=9)(frame).p == 1
    with pytest.raises(ValueError, match="must give a symmetric matrix"):
        LabelAgreement("tests.test_labels:lopsided")(frame)


def test_empty_labels_are_left_out_and_counted():
    frame = labels(0, 0.6)
    frame.loc[:9, "label"] = [None, "", "!"] * 3 + [None]
    estimate = LabelAgreement(shuffles=9)(frame)
    assert estimate.left_out == 10 and estimate.n == 110
    nothing = LabelAgreement(shuffles=9)(frame[:5])
    assert np.isnan(nothing.value) and nothing.left_out == 5
