"""A preregistration of the frozen study has the same tests and weights as the analysis."""

import re
from dataclasses import replace

import numpy as np
import pytest
from command_line import say

from analysis.exhibits import pdf
from analysis.planning.designs import Design
from analysis.planning.power import Plan, rejections
from analysis.statistics.claims import ALPHA
from analysis.study import preregistration as document
from analysis.study.abstract import abstract_of_study
from analysis.study.before_collection import (
    planned_claims,
    results_without_responses,
    simulate_power,
)
from analysis.study.frozen_study import read_study
from analysis.study.preregistration import AUTHORS, preregistration
from analysis.study.responses import EXCLUSIONS
from tasks.questionnaire import Check, Question
from tasks.settings import QUESTIONS, Analysis, Exclusion
from tests.synthetic_study import make_responses, make_study, results_of

#: Headings of OSF's form "OSF Preregistration" that a study of answers has something for.
OSF = (
    "Study Information", "Title", "Description", "Hypotheses", "Design Plan", "Study type",
    "Blinding", "Study design", "Randomization", "Sampling Plan", "Existing data",
    "Data collection procedures", "Sample size", "Sample size rationale", "Stopping rule",
    "Variables", "Manipulated variables", "Measured variables", "Analysis Plan",
    "Statistical models", "Inference criteria", "Data exclusion", "Missing data",
    "Exploratory analysis", "Other",
)  # fmt: skip


PLAN = Analysis(primary="odd_one_out.chance", smallest_effect=0.15, smallest_rating=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    make_study(path, trials=4, analysis=PLAN, exclusion=Exclusion(identical_above=0.5))
    return path


def test_the_tests_and_weights_are_those_of_the_analysis(folder):
    """The document is written before, the claims are judged after: both list the same tests."""
    frozen = read_study(folder)
    before = planned_claims(results_without_responses(frozen))
    tables = make_responses(folder, frozen.study, people=20)
    after = planned_claims(results_of(folder, *tables))
    keys = ["question", "what", "asked"]
    weights = [t.set_index(keys)["weight"].sort_index() for t in (before, after)]
    assert weights[0].index.equals(weights[1].index)
    np.testing.assert_allclose(*weights)
    assert weights[0].sum() == pytest.approx(1)
    assert weights[0]["odd_one_out.chance"].sum() == pytest.approx(0.8)
    assert before["question"].iloc[0] == "odd_one_out.chance"
    assert set(before["kind"]) <= set(QUESTIONS)


def test_change_is_asked_about_only_if_a_trial_shows_one_neuron_at_several_epochs(tmp_path):
    study = make_study(tmp_path, trials=4, tasks=("odd_one_out", "before_or_after"))
    frozen = read_study(tmp_path)
    results = results_of(tmp_path, *make_responses(tmp_path, study, people=8))
    neuron = frozen.data["neurons"].iloc[0][0]
    pairs = [(neuron, later) for later in (replace(neuron, epoch=20), replace(neuron, channel=9))]
    for pair, is_asked in zip(pairs, (True, False), strict=True):
        trials = frozen.trials.assign(neurons=[pair] * len(frozen.trials))
        responses = replace(results.responses, study=replace(frozen, trials=trials))
        asking = replace(results, responses=responses)
        question = next(text for text in abstract_of_study(asking) if text.startswith("Question"))
        assert ("change during training" in question) is is_asked
        document = preregistration(asking, None).partition("## Design Plan")[0]
        assert ("change of these concepts" in document) is is_asked


def test_it_has_the_headings_of_osf_and_says_what_was_frozen(folder):
    text = preregistration(results_without_responses(read_study(folder)), None)
    assert tuple(h for h in re.findall(r"^###? (.*)$", text, re.M) if h in OSF) == OSF
    for said in (
        "odd one out: The share of correct responses differs from chance (0.167): base; other",
        "The difference between conditions is smaller than 0.15: base − other series",
        "80 % of α is allocated to the tests of the primary hypothesis, `odd_one_out.chance`",
        "100 participants who finish.",
        "less than 80 % of the attention trials correct",
        "less than 135 or more than 7200 seconds from consent to the end",
        "less than 5 seconds on the instructions and the introductions of the tasks",
        "equal to those of another participant in more than 50 % of the trials",
        "responses permuted over trials of the condition (9,999 permutations).",
        "| odd_one_out.associations | change in accuracy when reverted |",  # as the hypotheses say
        read_study(folder).study.hash,
    ):
        assert said in text, said
    rows = re.findall(r"^\| odd_one_out\.chance \| .* \| (\S+) % \|$", text, re.M)
    assert (
        rows == [f"{100 * ALPHA * 0.8 / 2:.3f}"] * 2
    )  # base and other series; random is a control
    assert "{" not in text


def test_each_condition_is_compared_with_its_own_chance(folder):
    """Of six options in "base" and three in "other_series", 1/6 and 1/3 are hit by guessing."""
    frozen = read_study(folder)
    is_other = frozen.trials["condition"] == "other_series"
    options = frozen.trials["options"].where(~is_other, frozen.trials["options"].str[:3])
    keys = {**frozen.keys, **dict.fromkeys(frozen.trials.loc[is_other, "trial"], "a")}
    frozen = replace(frozen, keys=keys, trials=frozen.trials.assign(options=options))
    text = preregistration(results_without_responses(frozen), None)
    for chance, condition in (("0.167", "base"), ("0.333", "other series")):
        assert f"correct responses differs from chance ({chance}): {condition}.\n" in text


def test_it_says_who_cannot_take_part(folder):
    asked = {"kind": "number", "name": "age", "label": "How old?", "stay_within": (18, 99)}
    lenses = {"kind": "choice", "name": "g", "label": "Glasses?", "choices": (("y", "Yes"),)}
    quiz = {"kind": "text", "name": "q", "label": "What for?", "check": "understanding"}
    updates = {
        "questions": (
            Question(**asked, required=True), Question(**lenses, screen_out=("y",)),
            Question(**quiz, right=("a",)),
        ),
        "checks": (Check(name="understanding", needed=1, attempts=2),),
        "min_width": 900, "seconds_per_trial": 30,
    }  # fmt: skip
    frozen = read_study(folder)
    study = frozen.study.model_copy(update=updates)
    text = preregistration(results_without_responses(replace(frozen, study=study)), None)
    for said in (
        "- a window of less than 900 pixels", "- “How old?”: outside 18 to 99", "“Glasses?”: Yes",
        "fewer than 1 of 1 correct responses (What for?) in each of 2 attempts",
        "A trial ends after 30 seconds",
    ):  # fmt: skip
        assert said in text, said


def test_it_says_where_nothing_is_tested_for_equivalence(tmp_path):
    plan = Analysis(smallest_effect=0.15, reference="random")
    make_study(tmp_path, trials=4, analysis=plan)
    text = preregistration(results_without_responses(read_study(tmp_path)), None)
    assert "In odd one out, equivalence is not tested, because each planned comparison" in text


def test_every_kind_of_question_and_rule_has_words():
    assert set(document.HYPOTHESES) == set(document.MODELS) == set(QUESTIONS)
    worded = {name for name in EXCLUSIONS if EXCLUSIONS.get(name).words}
    assert worded == set(Exclusion.model_fields)


def test_the_power_is_that_of_the_planner(folder):
    """One condition, its own share of α: what `conceptevo power` gives for the same design."""
    power = simulate_power(results_without_responses(read_study(folder)), studies=50)
    assert power is not None
    assert sorted(set(power.table["size"])) == [0.05, 0.1, 0.15, 0.2]
    assert sorted(set(power.table["participants"])) == [25, 50, 75, 100]
    row = power.table.query("size == 0.2 and participants == 100").iloc[0]
    design = Design({"condition": 1 / 6 + 0.2}, participants=100, items=4, answered=4)
    found = rejections(Plan(design, True, share=0.4), 50)
    assert row["power"] == pytest.approx(found["power"].iloc[0])
    by_size = power.table[power.table["participants"] == 100].set_index("size")["power"]
    assert by_size[0.2] >= by_size[0.05]


@pytest.mark.parametrize("primary", ["concept_agreement.ratings", "odd_one_out.contrasts", ""])
def test_other_main_questions_and_none(tmp_path, primary):
    make_study(tmp_path, trials=4, analysis=Analysis(primary=primary))
    results = results_without_responses(read_study(tmp_path))
    power = simulate_power(results, studies=50)
    assert (power is None) == (primary != "odd_one_out.contrasts")
    text = preregistration(results, power)
    why = f"conditions, not `{primary}`" if primary else "no primary hypothesis was frozen"
    assert bool(re.search(f"No power curve is given: .*{why}", text)) == (power is None)
    assert ("All tests have the same weight." in text) == (primary == "")


def test_the_command_writes_markdown_curve_and_pdf_and_the_same_bytes_again(folder, tmp_path):
    for name in "ab":
        out = tmp_path / name / "preregistration.md"
        said = say("study", "preregister", folder, "--out", out, "--studies", 50)
        assert f"wrote {out}" in said.replace("\n", "")
    first, second = (
        {p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir())} for name in "ab"
    )
    assert first == second
    assert {"preregistration.md", "preregistration-power.png"} <= set(first)
    assert f"{first['preregistration.md'].decode().count(AUTHORS)} parts are marked" in said
    if not pdf.can_write_pdf():
        pytest.skip("fpdf2, of the extra `pdf`, is not installed")
    assert first["preregistration.pdf"].startswith(b"%PDF-")
