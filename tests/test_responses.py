"""Responses in: validation, sources, exclusions, flow."""

import numpy as np
import pandas as pd
import pytest

from analysis.study.frozen_study import read_study
from analysis.study.responses import EXCLUSIONS, ResponseError, prepare, read_tables
from tests.synthetic_study import make_responses, make_study, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    make_study(path, trials=3)
    return path


@pytest.fixture(scope="module")
def study(folder):
    return read_study(folder)


@pytest.fixture
def tables(folder, study):
    return make_responses(folder, study.study, people=6, careless=2)


def test_tables_survive_the_way_through_csv(folder, study, tables, tmp_path):
    loaded = prepare(study, *read_tables(write(tmp_path, *tables)))
    direct = prepare(study, *tables)
    pd.testing.assert_frame_equal(loaded.answers, direct.answers)
    assert loaded.source == "human"
    assert not loaded.simulated


def test_exclusions_and_flow(study, tables):
    responses = prepare(study, *tables)
    flow = responses.flow.set_index("step")["participants"]
    assert flow["arrived"] == flow["finished"] == 8
    assert flow["excluded: attention below 0.8"] == 2
    assert flow["analysed"] == 6
    assert set(responses.answers["participant"]) == {f"p{k:03d}" for k in range(6)}
    assert responses.answers["role"].eq("trial").all()
    analysed = responses.flow.iloc[-1]["answers"]
    assert analysed == len(responses.answers)


def test_each_rule():
    people = pd.DataFrame(
        {
            "attention": [0.5, 1, np.nan], "total_seconds": [10, 500, 9999],
            "instruction_seconds": [1, 30, 30], "practice_attempts": [9, 1, 1],
            "one_sided": [1, 0.3, np.nan], "choices": [(6,) * 20, (6,) * 20, np.nan],
            "identical": [1, 0, np.nan],
        }
    )  # fmt: skip
    thresholds = {
        "attention_below": 0.8, "total_seconds_outside": (135, 7200),
        "instruction_seconds_below": 5, "practice_attempts_above": 3, "one_sided_above": 0.8,
        "identical_above": 0.5,
    }  # fmt: skip
    assert list(EXCLUSIONS) == list(thresholds)
    for rule, threshold in thresholds.items():
        excluded = list(EXCLUSIONS.get(rule)(people, threshold))
        assert excluded == [True, False, rule == "total_seconds_outside"]


def test_unfinished_people_are_not_analysed(study, tables):
    answers, people = tables
    people.loc[0, "status"] = "active"
    responses = prepare(study, answers, people)
    assert "p000" not in set(responses.answers["participant"])
    assert responses.everyone.set_index("participant")["excluded"]["p000"] == "not finished"


def test_trials_without_an_answer_are_left_out_and_counted(study, tables):
    answers, people = tables
    first = (answers["participant"] == "p000") & (answers["role"] == "trial")
    gone = answers.index[first][:2]
    answers.loc[gone, ["answer", "correct", "confidence"]] = ["null", pd.NA, pd.NA]
    answers.loc[gone, "missing"] = ["time", "picture"]
    checks = answers.index[(answers["participant"] == "p001") & (answers["role"] == "attention")]
    answers.loc[checks, ["answer", "correct", "missing"]] = ["null", pd.NA, "time"]
    before = len(prepare(study, answers.drop(gone), people).answers)
    responses = prepare(study, answers, people)
    flow = responses.flow.set_index("step")
    for reason in ("time", "picture"):
        row = flow.loc[f"trials without an answer: {reason}"]
        assert (row["participants"], row["answers"]) == (1, 1)
    excluded = responses.everyone.set_index("participant")["excluded"]
    assert excluded["p001"] == "attention_below"  # the time of those trials passed
    assert len(responses.answers) == before
    answers.loc[gone[0], "answer"] = '"a"'
    with pytest.raises(ResponseError, match="of a trial without a response"):
        prepare(study, answers, people)


def test_scores_against_the_key_and_duplicates_are_refused(study, tables):
    answers, people = tables
    row = answers.index[answers["task"] == "before_or_after"][0]
    answers.loc[row, "correct"] = not answers.loc[row, "correct"]
    with pytest.raises(ResponseError, match=r"rows \(1\):\s.*against the key"):
        prepare(study, answers, people)
    doubled = pd.concat([tables[0], tables[0][:1]], ignore_index=True)
    with pytest.raises(ResponseError, match="more than once"):
        prepare(study, doubled, people)


def test_all_impossible_rows_are_listed_at_once(study, tables):
    answers, people = tables
    first, second = answers.index[answers["task"] == "odd_one_out"][:2]
    answers.loc[first, "milliseconds"] = -5
    answers.loc[second, "trial"] = "t9999"
    people.loc[0, "status"] = "vanished"
    with pytest.raises(ResponseError, match=r"^impossible rows \(3\):") as caught:
        prepare(study, answers, people)
    for text in (f"response row {first + 2}: took -5", f"response row {second + 2}: unknown trial",
                 "participant row 2: unknown status 'vanished'"):  # fmt: skip
        assert text in str(caught.value)


def test_sources_never_mix(folder, study, tables):
    pilot = make_responses(folder, study.study, people=2, source="pilot", seed=5)
    for table in pilot:
        table["participant"] = "q" + table["participant"]
    both = [pd.concat(pair, ignore_index=True) for pair in zip(tables, pilot, strict=True)]
    with pytest.raises(ValueError, match=r"several sources: human \(8\), pilot \(2\)"):
        prepare(study, *both)
    assert len(prepare(study, *both, source="pilot").everyone) == 2
    with pytest.raises(ValueError, match=r"--source 'simulated': the tables hold human \(8\)"):
        prepare(study, *both, source="simulated")


def test_a_changed_study_is_refused(folder, tmp_path):
    for name in ("study.json", "keys.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    (tmp_path / "keys.json").write_text("{}")
    with pytest.raises(ValueError, match="changed after the study was frozen"):
        read_study(tmp_path)


def test_chance_comes_from_the_options(study):
    assert study.choice_tasks == {"odd_one_out", "before_or_after"}
    assert study.chance("odd_one_out") == dict.fromkeys(("base", "other_series", "random"), 1 / 6)
    assert study.chance("before_or_after") == dict.fromkeys(
        ("nine_references", "one_reference"), 1 / 2
    )
    assert study.controls("odd_one_out") == ("hand_picked", "random")


def test_both_tables_are_needed(tmp_path, tables):
    path = write(tmp_path, *tables)
    (tmp_path / "responses-participants.csv").unlink()
    with pytest.raises(ValueError, match=r"responses-participants\.csv does not exist"):
        read_tables(path)
