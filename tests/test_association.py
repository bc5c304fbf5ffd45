"""Participants and networks on the same neurons; associations are compared with scipy."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.exhibits import shelf
from analysis.exhibits.tables import Table
from analysis.study import association
from analysis.study.association import EVIDENCE, Associations, partial_ranks
from analysis.study.frozen_study import read_study
from analysis.study.networks import compare_with_observer, observer
from analysis.study.pipeline import analyse_study
from analysis.study.release import rebuild, release
from analysis.study.responses import prepare
from analysis.study.results import Settings
from harness import results
from harness.artifacts import Artifact, Run
from harness.concepts.space import SemanticSpace
from harness.records import JOINT
from harness.results import REVERSION, write_about
from tasks.evidence import digest_stimuli
from tests.synthetic_study import make_responses, make_study, write

CHANNELS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    make_study(path, trials=6, tasks=("odd_one_out",))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return two epochs of one layer; importance and drops follow from the channel's number."""
    run = Run(tmp_path_factory.mktemp("run"))
    rng = np.random.default_rng(0)
    pair = {"series": "vgg", "epoch_from": 4, "epoch_to": 12}
    channels = np.arange(CHANNELS)
    scores = [
        pd.DataFrame({**pair, "layer": "features.5", "channel": channels, "class_id": c,
                      "method": method, "score": base, "stderr": 0.1, "images": 20})
        for c, base in ((0, channels / CHANNELS), (1, 0.5 * channels / CHANNELS))
        for method in ("sign_t", "change")
    ]  # fmt: skip
    parts = ("vgg", 4, 12)
    contents = {
        "importance": Artifact("importance", (*parts, "sign_t", "all")),
        "sets": Artifact("sets", (*parts, "sign_t", "reversion", "all")),
        "records": Artifact("records", (*parts, "revert", "sign_t", "reversion", "all", "all")),
    }
    run.save(contents["importance"], pd.concat(scores, ignore_index=True), "x")
    quarter = [f"q{4 - 4 * c // CHANNELS}" for c in channels]  # high channels are important
    sets = [
        pd.DataFrame({**pair, "layer": "features.5", "class_id": c, "method": "sign_t",
                      "arm": quarter, "draw": 0, "channel": channels})
        for c in (0, 1)
    ]  # fmt: skip
    run.save(contents["sets"], pd.concat(sets, ignore_index=True), "x")
    records = [
        {**pair, "ablation": "revert", "layer": layer, "method": "sign_t", "arm": arm, "draw": 0,
         "class_id": c, "image_id": i, "split": split, "correct_before": True,
         "correct_after": i >= fallen}
        for layer in ("features.5", JOINT)
        for split in ("heldout", "importance")
        for c in (0, 1)
        for arm, fallen in (("q1", 6 + c), ("q2", 3), ("q3", 1), ("q4", 0), ("random", 2),
                            ("matched", 1), ("all", 8), ("none", 0))
        for i in range(10)
    ]  # fmt: skip
    run.save(contents["records"], pd.DataFrame(records), "x")
    about = {"methods": {"sign_t": {}}, "pairs": [pair], "classes": [0, 1], "images_per_class": 25}
    write_about(run, REVERSION, about, {kind: [a] for kind, a in contents.items()})
    neurons = pd.DataFrame(
        {"series": "vgg", "epoch": np.repeat([4, 12], CHANNELS), "layer": "features.5",
         "channel": np.tile(channels, 2), "coverage": 1.0}
    )  # fmt: skip
    space = SemanticSpace("sgns", neurons, rng.normal(size=(2 * CHANNELS, 5)))
    run.save(Artifact("space_neurons", ("sgns",)), space.neurons, "x")
    run.save(Artifact("space", ("sgns",)), space.arrays(), "x")
    return run


@pytest.mark.parametrize("classes_at_once", [1, 20])
def test_evidence_is_joined_by_neuron(folder, run, classes_at_once, monkeypatch):
    monkeypatch.setattr(results, "CLASSES_AT_ONCE", classes_at_once)
    study = read_study(folder)
    table = association.network_measures(study, run, association.observe_trials(study, folder))
    data = study.trials[study.trials["role"] == "trial"]
    assert len(table) == 2 * len(data)  # each synthetic trial shows two neurons
    row = table.iloc[5]
    assert row["importance"] == pytest.approx(row["channel"] / CHANNELS)
    assert row["class_id"] == 0
    quarter = 4 - 4 * row["channel"] // CHANNELS
    expected = {1: -0.65, 2: -0.3, 3: -0.1, 4: 0.0}[quarter]  # q1: mean of −.6 and −.7
    assert row["drop"] == pytest.approx(expected)
    space = SemanticSpace.load(run, "sgns").displacement("vgg", 4, 12)
    moved = space.set_index("channel")["displacement"][row["channel"]]
    assert row["displacement"] == pytest.approx(moved)
    assert table["observer_correct"].isin([0, 1]).all()


def test_the_run_need_not_have_the_score_and_the_space_of_the_paper(
    folder, run, monkeypatch, caplog
):
    own = SemanticSpace.load(run, "sgns")
    vectors = np.random.default_rng(1).normal(size=own.vectors.shape)
    run.save(Artifact("space_neurons", ("own",)), own.neurons, "x")
    run.save(Artifact("space", ("own",)), replace(own, vectors=vectors).arrays(), "x")
    monkeypatch.setattr(association, "SCORE", "other")
    frozen = read_study(folder)
    study = replace(frozen, study=frozen.study.model_copy(update={"evidence": {"space": "own"}}))
    table = association.network_measures(study, run, association.observe_trials(study, folder))
    assert table[["importance", "drop"]].isna().all(axis=None)
    assert "no scores by other, so importance" in caplog.text
    row, moved = table.iloc[5], SemanticSpace.load(run, "own").displacement("vgg", 4, 12)
    assert row["displacement"] == moved.set_index("channel")["displacement"][row["channel"]]


def test_only_the_run_from_which_a_study_was_built_is_joined(folder, tmp_path, caplog):
    frozen, runs = read_study(folder), {}
    for name, first in (("own", 0), ("other", 1)):
        runs[name] = Run(tmp_path / name)
        runs[name].write_manifest({"checkpoints": {"vgg": [12]}})
        ranks = {"channel": np.repeat(range(CHANNELS), 3), "rank": np.tile(range(3), CHANNELS)}
        images = (first + np.arange(3 * CHANNELS)) % 50
        table = pd.DataFrame({"series": "vgg", "epoch": 12, "layer": "features.5", **ranks})
        runs[name].save(Artifact("stimuli", ("vgg", 12)), table.assign(image_id=images), "x")
    neurons = [neuron for shown in frozen.trials["neurons"] for neuron in shown]
    evidence = {"stimuli": digest_stimuli(runs["own"], reversed(neurons))}
    study = replace(frozen, study=frozen.study.model_copy(update={"evidence": evidence}))
    association.check_run(study, runs["own"])
    assert not caplog.text
    with pytest.raises(ValueError, match=f"not built from the run {tmp_path / 'other'}, as it is"):
        association.check_run(study, runs["other"])
    association.check_run(frozen, runs["other"])  # of an earlier version
    assert "does not record from which run it was built" in caplog.text


def test_joined_table_has_peoples_rates(folder, run):
    study = read_study(folder)
    responses = prepare(study, *make_responses(folder, study.study, people=10))
    network = association.network_measures(study, run, association.observe_trials(study, folder))
    table = association.join_measures(responses, network)
    trial = table["trial"].iloc[0]
    mine = responses.answers[responses.answers["trial"] == trial]
    assert table["rate"].iloc[0] == pytest.approx(mine["correct"].astype(float).mean())
    assert set(table["trial"]) == set(responses.answers["trial"])


@pytest.mark.slow
def test_a_runs_tables_go_along_and_a_pack_rebuilds_them_without_the_run(
    folder, run, tmp_path, monkeypatch
):
    """The alignment table as the run prints it; a run without concepts has none."""
    study = read_study(folder)
    answers = write(tmp_path, *make_responses(folder, study.study, people=12))
    frame = pd.DataFrame({"method": ["sgns"], "share": [0.1 + 0.2], "low": [0.25], "high": [0.375]})
    formats = dict.fromkeys(["share", "low", "high"], "{:.3f}")
    made = Table("alignment", "Neighbours", "Five of them.", frame, formats)
    results = tmp_path / "results"
    for table in (made, None):  # the second analysis leaves nothing of the first
        alignment = replace(
            shelf._exhibits["run", "table", "alignment"], make=lambda _, table=table: table
        )
        monkeypatch.setitem(shelf._exhibits, ("run", "table", "alignment"), alignment)
        analyse_study(folder, answers, results, Settings(replicates=99), run.root)
        written = results / "tables" / "alignment.csv"
        assert written.is_file() == (table is not None)
        if table is not None:
            assert written.read_text() == made.csv()
            assert "0.300 [0.250, 0.375]" in written.with_suffix(".md").read_text()
            pack = release(results, tmp_path / "pack.zip")
    monkeypatch.delitem(shelf._exhibits, ("run", "table", "alignment"))  # no run is asked
    assert rebuild(pack) == []


def test_published_values_beside_the_runs_are_those_of_the_file_and_marked_where_suspect(
    folder, run, tmp_path
):
    study = read_study(folder)
    answers = write(tmp_path, *make_responses(folder, study.study, people=12))
    analyse_study(folder, answers, tmp_path / "out", Settings(replicates=99), run.root)
    shown = pd.read_csv(tmp_path / "out" / "tables" / "reversion_published.csv")
    theirs = shown[shown["source"] == "Park et al. (2023)"].set_index(["series", "epoch_to"])
    assert theirs.loc[("ConvNeXt", 3), "q2"] == -0.0735  # as in the result files
    assert theirs["suspect"].dropna().index.tolist() == [("VGG16", 207)]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "the values of one published pair are suspect" in page
    assert "displacement in the sgns space" in page


def test_studies_without_neurons_are_refused(folder, run):
    study = read_study(folder)
    bare = replace(study, trials=study.trials.assign(neurons=[()] * len(study.trials)))
    with pytest.raises(ValueError, match="names no neurons"):
        association.network_measures(bare, run, pd.DataFrame())


def test_partial_ranks_are_spearmans_and_hold_conditions_constant():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 60))
    b += a
    one = np.zeros(60, dtype=int)
    assert partial_ranks(a, b, one) == pytest.approx(stats.spearmanr(a, b).statistic)
    strata = np.repeat([0, 1, 2], 20)
    # Conditions that shift both alike make no association of their own.
    noise = rng.normal(size=(2, 60))
    shifted = noise + 10 * strata
    assert stats.spearmanr(*shifted).statistic > 0.8
    assert abs(partial_ranks(*shifted, strata)) < 0.35
    # With dummies for strata, least squares on ranks gives the same partial correlation.
    dummies = np.eye(3)[strata]
    residuals = []
    for values in shifted:
        ranks = stats.rankdata(values)
        residuals.append(ranks - dummies @ np.linalg.lstsq(dummies, ranks, rcond=None)[0])
    expected = np.corrcoef(*residuals)[0, 1]
    assert partial_ranks(*shifted, strata) == pytest.approx(expected)
    assert np.isnan(partial_ranks(np.ones(60), b, one))


def trials_table(seed: int, strength: float) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {"trial": np.arange(60), "task": "odd_one_out", "condition": np.repeat(["a", "b"], 30)}
    )
    for name in association.EVIDENCE:
        table[name] = rng.normal(size=60)
    noise = rng.normal(size=60)
    table["rate"] = strength * table["importance"] + noise + (table["condition"] == "a")
    return table.assign(displacement=np.nan)


def test_planted_association_is_found_and_absent_ones_are_not():
    found = Associations(999, 999)(trials_table(1, 1.0))
    importance = found["odd_one_out", "importance"]
    assert importance.p == pytest.approx(1 / 1000)
    assert 0 < importance.low < importance.value < importance.high
    assert found["odd_one_out", "drop"].p > 0.01
    undefined = found["odd_one_out", "displacement"]
    assert np.isnan(undefined.value) and undefined.left_out == 60


def test_permutation_keeps_its_size():
    p = [
        Associations(199, 20)(trials_table(seed, 0.0))["odd_one_out", "importance"].p
        for seed in range(60)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.15
    assert np.mean(p) == pytest.approx(0.5, abs=0.13)


def test_means_that_are_equal_up_to_rounding_have_equal_ranks():
    """The order of a sum is no evidence: .1 + .2 + .3 and .3 + .2 + .1 differ in the last digit."""
    means = {f"t{k}": [k / 10] * 3 for k in range(6)}
    means |= {"t6": [0.1, 0.2, 0.3], "t7": [0.3, 0.2, 0.1]}
    assert len({sum(values) / 3 for values in (means["t6"], means["t7"])}) == 2
    rates = dict(zip(means, (0.1, 0.5, 0.2, 0.9, 0.3, 0.8, 0.4, 0.7), strict=True))
    rows = [
        {"task": "odd_one_out", "condition": "base", "trial": trial, "rate": rates[trial],
         **dict.fromkeys(EVIDENCE, value)}
        for trial, values in means.items()
        for value in values
    ]  # fmt: skip
    value = Associations(99, 99)(pd.DataFrame(rows))["odd_one_out", "drop"].value
    exact = [k / 10 for k in range(6)] + [0.2, 0.2]
    assert value == pytest.approx(stats.spearmanr(list(rates.values()), exact).statistic)


def test_sentences_on_the_observer_are_those_of_its_table():
    """Trial t0 has four responses, the others two: means over trials would be other numbers."""
    trials = pd.DataFrame(
        {"trial": ["t0", "t1", "t2", "t3"], "task": "odd_one_out",
         "condition": ["base"] * 3 + ["random"], "observer_correct": [1.0, 1.0, 1.0, 0.0]}
    )  # fmt: skip
    correct = {"t0": [1, 1, 1, 0], "t1": [0, 0], "t2": [1, None], "t3": [0, 1]}
    answers = pd.DataFrame([(t, c) for t, own in correct.items() for c in own])
    answers = answers.set_axis(["trial", "correct"], axis=1).astype({"correct": "boolean"})
    study = SimpleNamespace(chance=lambda task: {"base": 1 / 6, "random": 1 / 6})
    fake = SimpleNamespace(
        observed_trials=trials, choice_tasks=["odd_one_out"], name=lambda task: "odd one out",
        controls=lambda task: ("random",), responses=SimpleNamespace(answers=answers, study=study),
    )  # fmt: skip
    base, random = observer(fake).frame.to_dict("records")
    numbers = {"trials": 3, "participants": 4 / 7, "observer": 1.0, "solved": 4 / 7}
    assert {name: base[name] for name in numbers} == pytest.approx(numbers)
    assert np.isnan(base["not solved"]) and random["not solved"] == 0.5
    first, last = compare_with_observer(fake, {})
    assert first.endswith("[table:observer]) in base (100 % of 3 trials; participants 57 %).")
    assert last.startswith("Colours and edges suffice to solve more of these trials than guessing")
    fake.observed_trials = trials.assign(observer_correct=0.0)
    (only,) = compare_with_observer(fake, {})
    assert "not significantly above chance in base (0 % of 3 trials; participants 57 %)" in only
