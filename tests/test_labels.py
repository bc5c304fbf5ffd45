"""Agreement of free-text labels against shuffled groups."""

import difflib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics.labels import LabelAgreement, normalise, shuffle
from tasks.similarity import SIMILARITIES
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


@pytest.mark.parametrize(
    ("one", "other"),
    [("cafe\u0301", "café"), ("ﾗｼﾞｵ", "ラジオ"), ("Straße", "STRASSE"), ("❤\ufe0f", "❤"),
     ("wheel\u200b", "wheel"), ("👩\u200d🚒", "👩🚒")],
)  # fmt: skip
def test_a_label_is_the_same_however_it_was_typed(one, other):
    assert normalise(one) == normalise(other) != ""


def test_letters_keep_their_marks_and_emoji_say_something():
    assert normalise("पहिया, पहिया") == "पहिया पहिया"
    assert normalise("🚒") == "🚒"


def test_value_is_its_plain_twin():
    frame = labels(0, 0.5, groups=4, people=4)
    estimate = LabelAgreement("sequence", shuffles=9)(frame)

    def ratio(a, b):
        match = difflib.SequenceMatcher
        return (match(None, a, b, False).ratio() + match(None, b, a, False).ratio()) / 2

    rows = list(frame[["trial", "participant", "label"]].itertuples(index=False, name=None))
    assert estimate.value == pytest.approx(plain.label_agreement(rows, ratio))
    trials = sorted({trial for trial, *_ in rows})
    left = [plain.label_agreement([r for r in rows if r[0] != t], ratio) for t in trials]
    error = np.sqrt(3 / 4 * np.square(np.array(left) - estimate.value).sum())
    assert estimate.high == pytest.approx(estimate.value + stats.t.ppf(0.975, 3) * error, rel=0.01)


def test_shared_labels_are_found_and_random_ones_are_not():
    found = LabelAgreement(shuffles=999)(labels(0, 0.6))
    assert found.p == pytest.approx(1 / 1000)  # (0 + 1) / (999 + 1)
    assert found.effect > 0.2
    p_values = [LabelAgreement(shuffles=99)(labels(seed, 0.0)).p for seed in range(40)]
    assert np.mean(np.array(p_values) <= 0.05) < 0.2
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.15)


def answers(seed: int, people=8, trials=6, stages=3) -> pd.DataFrame:
    """Return responses in which stages get the same labels in all trials; some are empty."""
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
    """Every shuffle's value by plain loops over the moved answers."""
    frame = answers(3, people=5, trials=4)
    frame = frame[~((frame["participant"] == "p4") & (frame["trial"] == "t0"))]  # one less
    found = LabelAgreement("exact", shuffles=30, seed=5)(frame)
    wide = frame.groupby(["participant", "trial"])["label"].agg(tuple)
    given_by = {person: list(own.droplevel(0).items()) for person, own in wide.groupby(level=0)}
    by_labels = sorted(given_by, key=given_by.__getitem__)
    rows = [(person, *given) for person in by_labels for given in given_by[person]]
    people = pd.factorize(np.array([person for person, *_ in rows]))[0]
    null = []
    for order in shuffle(people, 30, np.random.default_rng(5)):
        moved = [
            (person, trial, rows[source][2])
            for (person, trial, _), source in zip(rows, order, strict=True)
        ]
        null.append(plain.labels_by_stage(moved, lambda x, y: float(x == y)))
    assert found.effect == pytest.approx(found.value - np.mean(null))
    reached = (np.array(null) >= found.value - 1e-9).sum()
    assert found.p == pytest.approx((reached + 1) / 31)


def test_renamed_participants_change_nothing():
    frame = labels(3, 0.3)
    names = frame["participant"].unique()
    other = dict(zip(names, np.random.default_rng(0).permutation(names), strict=True))
    renamed = frame.assign(participant=frame["participant"].map(other))
    measure = LabelAgreement("words", shuffles=99)
    assert measure(renamed) == measure(frame) == measure(frame.sample(frac=1, random_state=0))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 99))
def test_whole_sets_of_answers_move(sizes, seed):
    people = np.repeat(np.arange(len(sizes)), sizes)
    for order in shuffle(people, 5, np.random.default_rng(seed)):
        assert sorted(order) == list(range(len(people)))
        givers = [set(people[order[people == person]]) for person in range(len(sizes))]
        assert all(len(giver) == 1 for giver in givers)  # all of one person's answers together
        assert [sizes[giver.pop()] for giver in givers] == sizes


def test_words_of_a_condition_are_no_agreement():
    """One trial a person, eight forms, everybody fond of one word: trials explain nothing."""
    p_values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        word = np.where(rng.random(48) < 0.6, "mixed", rng.choice(WORDS, 48))
        frame = pd.DataFrame(
            {"participant": [f"p{k:02}" for k in range(48)],
             "trial": [f"t{k % 8}" for k in range(48)], "label": word}
        )  # fmt: skip
        p_values.append(LabelAgreement(shuffles=99)(frame).p)
        told = LabelAgreement(shuffles=99)(frame.assign(label=frame["trial"]))
        assert told.p == 0.01  # names that follow the trial are found
    assert np.mean(np.array(p_values) <= 0.05) < 0.14


@pytest.mark.slow
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


def undefined(texts):
    return np.where(np.eye(len(texts)), 1, np.nan)


def too_large(texts):
    return 7 * constant(texts)


def of_words(texts):
    return [texts] * len(texts)


def of_pairs(first, second):
    return float(first == second)


def test_own_similarity():
    frame = labels(0, 0.3)
    assert LabelAgreement("tests.test_labels:constant", shuffles=9)(frame).p == 1
    for name, message in {
        "lopsided": "must give a symmetric matrix of .* got one of shape",
        "undefined": "must give a symmetric matrix of .* got one with NaN",
        "too_large": "of .* numbers in .0, 1., got numbers from 7 to 7",
        "of_words": "similarity 'tests.test_labels:of_words' must give .* got one of <U",
        "of_pairs": "similarity 'tests.test_labels:of_pairs' failed: TypeError: of_pairs.. missing",
    }.items():
        with pytest.raises(ValueError, match=message):
            LabelAgreement(f"tests.test_labels:{name}")(frame)


def test_empty_labels_are_left_out_and_counted():
    frame = labels(0, 0.6)
    frame.loc[:9, "label"] = [None, "", "!"] * 3 + [None]
    estimate = LabelAgreement(shuffles=9)(frame)
    assert estimate.left_out == 10 and estimate.n == 110
    stages = pd.concat([frame.assign(stage=0), labels(1, 0.6).assign(stage=1)])
    given = stages[stages["label"].notna()]  # a stage without a row is one without a label
    absent, empty = (LabelAgreement(shuffles=9)(rows) for rows in (given, stages))
    assert (absent.value, absent.n, absent.p) == (empty.value, empty.n, empty.p)
    few = LabelAgreement(shuffles=9)(frame[frame["trial"] < "g03"])
    assert np.isnan([few.low, few.high]).all() and few.p == 0.1
    nothing = LabelAgreement(shuffles=9)(frame[:5])
    assert np.isnan(nothing.value) and nothing.left_out == 5


def test_permutations_without_a_pair_of_labels_are_left_out():
    """Two people happened to write something about the same trial; everybody writes "mixed"."""
    frame = pd.DataFrame(
        {"participant": [f"p{k:02}" for k in range(41)],
         "trial": ["t00", *(f"t{k:02}" for k in range(40))], "label": ["mixed"] * 2 + [None] * 39}
    )  # fmt: skip
    found = LabelAgreement(shuffles=4000)(frame)
    assert (found.value, found.effect, found.p) == (1, 0, 1)
    # of 41 · 40 / 2 pairs of people one shares a trial: about 5 of 4,000 have a value
    undefined = int(found.reason.partition("; ")[2].split()[0])
    assert 4000 - 25 < undefined < 4000
    none = LabelAgreement(shuffles=1)(frame)
    assert none.value == 1 and np.isnan([none.effect, none.p]).all()
    assert none.reason.endswith("1 of 1 permutations have no pair of labels")
