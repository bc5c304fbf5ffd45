"""Controls with results that they must not have are reported before all claims."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.study.abstract import abstract_of_study
from analysis.study.controls import count_outcomes, failed_controls
from analysis.study.sentences import against_chance, detection, main_findings
from analysis.study.tables import claims
from tests.synthetic_study import PLANTED, make_responses, make_study, results_of

LABELLING = {"evolution": 0.75, "same_stage": 0.25, "false_evolution": 0.85}


@pytest.fixture(scope="module")
def warnings_of(tmp_path_factory):
    """Return the warnings of a study with planted shares of correct responses and of "changed"."""
    folder = tmp_path_factory.mktemp("study")
    study = make_study(folder, trials=8, tasks=("odd_one_out", "evolution_labelling"))

    def warnings(**planted) -> list[str]:
        shares = PLANTED | {
            "odd_one_out": PLANTED["odd_one_out"] | {"random": planted.get("random", 1 / 6)},
            "evolution_labelling": LABELLING | {"false_evolution": planted.get("joined", 0.85)},
        }
        tables = make_responses(folder, study, people=40, planted=shares)
        results = results_of(folder, *tables)
        failed = failed_controls(results)
        told = [control.warning for control in failed]
        # First of all, in the abstract as well, and beside each claim of the task.
        assert list(main_findings(results))[: len(told)] == told
        assert list(abstract_of_study(results))[: len(told) + 1][-1].startswith("Question.")
        assert list(abstract_of_study(results))[: len(told)] == told
        table = claims(results).frame
        doubted = table["note"].str.contains("a control condition of this task")
        assert set(table.loc[doubted, "task"]) == {control.task for control in failed}
        return told

    return warnings


def test_leaving_a_control_out_does_not_silence_it(tmp_path):
    """Without its responses, the warning is still shown before the claims and beside them."""
    study = make_study(tmp_path, trials=8, tasks=("odd_one_out",))
    answers, people = make_responses(tmp_path, study, people=40)
    results = results_of(tmp_path, answers[answers["condition"] != "random"], people)
    [control] = failed_controls(results)
    assert control.warning.startswith(
        "Caution: controls of odd one out could not be tested: accuracy against chance, random (no "
        "analysed responses of"
    )
    notes = claims(results).frame["note"]
    assert notes.str.contains("a control condition of this task could not be tested").all()


def test_a_control_of_labels_that_could_not_be_tested_is_said(tmp_path):
    """Controls of every kind of test count, not only those of accuracy and detection."""
    study = make_study(tmp_path, trials=8, tasks=("concept_agreement",))
    answers, people = make_responses(tmp_path, study, people=40)
    results = results_of(tmp_path, answers[answers["condition"] != "random"], people, 999)
    [control] = failed_controls(results)
    assert "similarity of labels of the same pictures, random (no analysed" in control.warning
    # It is counted as a control, not as a planned test, and nothing is claimed from it.
    said = " ".join(main_findings(results))
    assert (
        "1 not tested" in said
        and "Tests that could not be computed: 1 control test (similarity of labels" in said
    )
    table = claims(results).frame
    assert set(table.loc[table["question"] == "control", "claimed"]) == {"not tested"}


def test_nothing_named_where_there_is_nothing_in_common_is_no_failure(tmp_path):
    study = make_study(tmp_path, trials=8, tasks=("concept_agreement",))
    answers, people = make_responses(tmp_path, study, people=40)
    random = answers["condition"] == "random"
    unnamed = [json.dumps(json.loads(text) | {"label": None}) for text in answers["answer"][random]]
    assert len(unnamed) > 40
    answers.loc[random, "answer"] = unnamed
    results = results_of(tmp_path, answers, people, 999)
    assert failed_controls(results) == []
    assert "Tests that could not be computed: 1 control test" in " ".join(main_findings(results))


def test_controls_that_work_say_nothing(warnings_of):
    assert warnings_of() == []


def test_a_random_condition_that_may_be_as_accurate_as_a_claimed_one_has_not_passed(tmp_path):
    """Nearly all of its responses are missing; those that remain do not show that it works."""
    study = make_study(tmp_path, trials=8, tasks=("odd_one_out",))
    answers, people = make_responses(tmp_path, study, people=40)
    few = answers["participant"].isin(people["participant"][:4])
    trials = answers.loc[answers["condition"] == "random", "trial"].unique()[:4]
    kept = answers[(answers["condition"] != "random") | (few & answers["trial"].isin(trials))]
    results = results_of(tmp_path, kept, people)
    rows = results.tests_of("chance").set_index("what")
    assert rows["high"]["random"] > rows["value"][["base", "other_series"]].min()
    [control] = failed_controls(results)
    assert control.warning.startswith(
        "Caution: the control condition random of odd one out is inconclusive: accuracy was "
    )
    assert "0 passed, 0 failed, 0 not tested, 1 inconclusive" in " ".join(
        abstract_of_study(results)
    )
    table = claims(results).frame
    assert list(table.loc[table["question"] == "control", "claimed"]) == ["inconclusive"]
    assert table["note"].str.contains("a control condition of this task is inconclusive").all()


def test_a_solved_random_condition_is_said_first(warnings_of):
    [told] = warnings_of(random=0.75)
    assert told.startswith("Caution: the control condition random of odd one out failed.")
    assert "no claim about this task can be trusted" in told


@pytest.mark.parametrize("joined", [0.25, 0.05])
def test_false_evolutions_that_nobody_notices_are_said_first(warnings_of, joined):
    [told] = warnings_of(joined=joined)
    assert "control condition false evolution of evolution labelling failed" in told


def test_random_passes_where_it_is_not_identified_and_the_others_where_they_are():
    tests = pd.DataFrame(
        [
            ("chance", "random", 0.17, 0.7, 1.0), ("chance", "random", 0.4, 0.01, 1.0),
            ("chance", "hand_picked", 0.8, 0.01, 0.01), ("chance", "hand_picked", 0.2, 0.3, 1.0),
            ("detection", "d′, false_evolution", 1.5, 0.01, 0.01), ("labels", "x", 0.5, 0.01, 0.01),
            ("labels", "random", np.nan, np.nan, np.nan),
        ],
        columns=["kind", "what", "value", "p_alone", "p"],
    ).set_index(["kind", "what"], drop=False)  # fmt: skip
    tests = tests.assign(
        question="task.control", null=0.17, task="task", claimed=tests["p"] < 0.05, high=0.9
    )
    assert count_outcomes(tests) == {"passed": 3, "failed": 2, "": 1, "not tested": 1}


def test_sentences_judge_control_tests_as_their_outcomes_do():
    """A control passes by its unadjusted p; its sentence must not say that it found nothing."""
    row = {"question": "t.control", "task": "t", "n": 80, "p_alone": 0.004, "p": 0.4,
           "claimed": False}  # fmt: skip
    share = row | {"condition": "hand_picked", "value": 0.5, "low": 0.3, "high": 0.7, "null": 0.17}
    changed = {"false_evolution": 0.6, "same_stage": 0.2}
    rates = [
        row | {"question": "", "signal": "", "what": w, "value": v} for w, v in changed.items()
    ]
    d = row | {"signal": "false_evolution", "value": 1.1, "low": 0.4, "high": 1.8}
    tables = {"chance": pd.DataFrame([share]), "detection": pd.DataFrame([*rates, d])}
    results = SimpleNamespace(tests_of=tables.__getitem__, level="95 %")
    [text] = against_chance(results, {})
    assert "significantly above chance" in text and text.endswith(
        "judged by the unadjusted p-value."
    )
    [text] = detection(results, {})
    assert text.startswith("Participants distinguished false evolutions (two neurons) from")
    assert "control test, judged by the unadjusted p-value; d′ = 1.10" in text
    untested = d | {"p": np.nan, "p_alone": np.nan, "reason": "a rate is 0 or 1"}
    tables["detection"] = pd.DataFrame([*rates, untested])
    [text] = detection(results, {})
    assert text.endswith("judged changed (a rate is 0 or 1).")
