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
            rows.append({"group": f"g{group}", "participant": f"p{person}", "label": word})
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

    rows = list(frame[["group", "participant", "label"]].itertuples(index=False, name=None))
    assert estimate.value == pytest.approx(plain.label_agreement(rows, ratio))


def test_shared_labels_are_found_and_random_ones_are_not():
    found = LabelAgreement()(labels(0, 0.6))
    assert found.p == pytest.approx(1 / 1000)  # (0 + 1) / (999 + 1)
    assert found.effect > 0.2
    p_values = [LabelAgreement(shuffles=99)(labels(seed, 0.0)).p for seed in range(40)]
    assert np.mean(np.array(p_values) <= 0.05) < 0.2
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.15)


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
    nothing = LabelAgreement()(frame[:5])
    assert np.isnan(nothing.value) and nothing.left_out == 5
