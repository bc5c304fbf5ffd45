"""The analysed participants, the sample size of each number, and the specification curve."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.exhibits.tables import Table
from analysis.study.abstract import abstract_of_study
from analysis.study.figures import reversion
from analysis.study.frozen_study import read_study
from analysis.study.networks import describe_reversion, reversion_published
from analysis.study.participants import (
    IN_WORDS,
    NOT_ANSWERED,
    demographics,
    sample_sizes,
)
from analysis.study.pipeline import analyse_study
from analysis.study.release import rebuild, release
from analysis.study.report import stability
from analysis.study.responses import prepare
from analysis.study.results import Results, Settings
from analysis.study.specification import specification_curve
from analysis.study.tables import accuracy, thresholds, trials
from analysis.study.thresholds import _rule_sets, threshold_grid
from harness.files import ArtifactError, lock
from harness.records import PAIR
from tasks.questionnaire import BUILT_IN, Condition, Question
from tests.synthetic_study import make_responses, make_study, results_of, write

QUESTIONS = (
    *BUILT_IN,
    Question(kind="number", name="years", label="Years of school?", limits=(0, 40)),
    Question(kind="several", name="devices", label="Devices?", choices=(("a", "A"), ("b", "None"))),
    Question(
        kind="text",
        name="other",
        label="Which other?",
        shown_if=Condition(question="devices", answers=("b",)),
    ),
    Question(kind="number", name="plate", label="Which number?", right=("12",), check="colour"),
)
AGES = ["18 to 29"] * 6 + ["30 to 44"] * 3 + [""] + ["60 or older"] * 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a study that asks about its participants: 10 attentive ones and 2 who are excluded."""
    folder = tmp_path_factory.mktemp("made")
    tasks = ("odd_one_out", "concept_agreement")
    study = make_study(folder / "study", trials=4, tasks=tasks, questions=QUESTIONS)
    answers, people = make_responses(folder / "study", study, people=10, careless=2)
    given = [
        {"age": age, "comment": "nice", "years": 10 + k, "devices": ["a", "b"][: 1 + k % 2]}
        if age
        else {}
        for k, age in enumerate(AGES)
    ]
    people["questionnaire"] = pd.array([json.dumps(g) for g in given], dtype="string")
    return folder, answers, people


@pytest.fixture(scope="module")
def results(made) -> Results:
    folder, answers, people = made
    return results_of(folder / "study", answers, people)


def test_demographics_are_counted_of_those_analysed_and_nobodys_own_is_kept(made, tmp_path):
    folder, answers, people = made
    path = write(tmp_path / "answers", answers, people)
    out = tmp_path / "results"
    results = analyse_study(folder / "study", path, out, Settings(99, 99))
    counts = pd.read_csv(out / "tables" / "demographics.csv", keep_default_na=False)
    counts = counts.set_index(["question", "answer"])
    age = counts.loc["How old are you?", "participants"]
    assert age.to_dict() == {
        "18 to 29": 6, "30 to 44": 3, "45 to 59": 0, "60 or older": 0, NOT_ANSWERED: 1,
    }  # fmt: skip
    assert counts.loc["How old are you?", "share"].sum() == pytest.approx(1)
    words = counts.loc["Do you have any comments?", "participants"]
    assert words.to_dict() == {IN_WORDS: 9, NOT_ANSWERED: 1}
    years = counts.loc["Years of school?", "participants"]
    values = np.arange(10, 19)  # the tenth participant did not answer
    assert years.to_dict() == {
        f"mean 14.0, SD {values.std(ddof=1):.1f}, range 10 to 18": 9, NOT_ANSWERED: 1,
    }  # fmt: skip
    devices = counts.loc["Devices?", "participants"]
    assert devices.to_dict() == {"A": 9, "None": 4, NOT_ANSWERED: 1}  # an answer, not a missing one
    other = counts.loc["Which other?"]  # whoever was not asked it did not fail to answer it
    assert other["participants"].to_dict() == {IN_WORDS: 0, NOT_ANSWERED: 4}
    assert other["share"].tolist() == [0, 1]
    assert "Which number?" not in counts.index.get_level_values(0)  # that is no demographics
    age = demographics(results).cells().iloc[0]
    assert age.tolist() == ["How old are you?", "18 to 29", "6", "0.600"]
    assert "nice" not in "".join(p.read_text() for p in (out / "data").glob("*.csv"))
    assert rebuild(release(out, tmp_path / "pack.zip")) == []


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"age": "17"}, "age is '17', but must be one of 18 to 29"),
        ({"years": 99}, "years is 99, but must be a number from 0 to 40"),
        ({"years": "many"}, "years is 'many', but must be a number"),
        ({"devices": ["a", "c"]}, r"devices is \['a', 'c'\], but must be a list of a, b"),
        ({"comment": 5}, "comment is 5, but must be a text"),
    ],
)
def test_answers_that_nobody_was_offered_are_refused(made, answer, text):
    folder, answers, people = made
    wrong = people.copy()
    wrong.loc[3, "questionnaire"] = json.dumps(answer)
    with pytest.raises(ValueError, match=f"participant row 5: questionnaire: {text}"):
        prepare(read_study(folder / "study"), answers, wrong)


def test_every_n_is_the_plain_count(results):
    table = sample_sizes(results)
    assert table is not None and demographics(results) is None
    answers = results.responses.answers
    for row in table.frame.to_dict("records"):
        mine = answers[answers["condition"] == row["condition"]]
        mine = mine[mine["task"].map(results.name) == row["task"]]
        if row["measured"] in ("accuracy", "response time", "rating"):
            assert row["responses"] == len(mine)
            assert row["participants"] == mine["participant"].nunique()
            assert row["trials"] == mine["trial"].nunique()
            assert row["left out"] == 0


def test_times_that_were_not_measured_are_in_no_mean_and_no_count(results):
    """A time of 0 is none: the mean over the others, and a missing response in the sizes."""
    collected = results.responses.collected
    times = collected["milliseconds"].where(np.arange(len(collected)) % 3 > 0, 0)
    responses = replace(results.responses, collected=collected.assign(milliseconds=times))
    other = replace(results, responses=responses)
    answers = responses.answers
    timed = answers[answers["milliseconds"] > 0]
    seconds = trials(other).frame.set_index("trial")["seconds"].dropna()
    plain = timed.groupby("trial")["milliseconds"].mean().astype(float) / 1000
    assert seconds.to_dict() == pytest.approx(plain.to_dict())
    sizes = sample_sizes(other).frame.query("measured == 'response time'")
    assert sizes["responses"].sum() == len(timed)
    assert sizes["left out"].sum() == len(answers) - len(timed) > 0


def test_the_caption_of_accuracy_names_conditions_with_another_interval(results):
    collected = results.responses.collected
    is_base = collected["condition"] == "base"
    solved = collected.assign(correct=collected["correct"].mask(is_base, True))
    other = replace(results, responses=replace(results.responses, collected=solved))
    text = "the variance cannot be estimated; the interval is Clopper–Pearson's and the test is the"
    assert (
        f"In {results.name('odd_one_out')}, base, {text} exact binomial" in accuracy(other).caption
    )
    assert text not in accuracy(results).caption


def test_a_run_with_fifths_shows_all_of_them_and_no_published_quarters(results):
    changes = {"q1": -0.5, "q2": -0.2, "q3": -0.1, "q4": 0.0, "q5": 0.1, "random": -0.15}
    rows = [("vgg", 1, 2, split, arm, 12, 0.9, change, change - 0.1, change + 0.1)
            for split in ("heldout", "importance") for arm, change in changes.items()]  # fmt: skip
    names = [*PAIR, "split", "arm", "classes", "before", "change", "low", "high"]
    other = replace(results, reversion=pd.DataFrame(rows, columns=names))
    table = reversion_published(other)
    assert set(table.frame["source"]) == {"this run"} and table.frame["q5"].tolist() == [0.1, 0.1]
    assert "the most important fifth of" in table.caption and "left out" in table.caption
    figure = reversion(other)
    assert len(figure.canvas.axes) == 1 and "Park" not in figure.caption
    quarters = other.reversion[other.reversion["arm"] != "q5"]
    figure = reversion(replace(other, reversion=quarters))
    ours, published = (
        [t.get_text() for t in axis.get_xticklabels()] for axis in figure.canvas.axes
    )
    assert ours == published == ["q1", "q2", "q3", "q4", "random"]
    (sentence,) = describe_reversion(other, {})
    assert sentence.startswith("In 1 of 1 pair of epochs here, the order was as expected")
    assert sentence.endswith("for the least important fifth.")
    (sentence,) = describe_reversion(
        replace(other, reversion=other.reversion.assign(change=0.0)), {}
    )
    assert sentence.startswith("In 0 of 1 pair of epochs here, ")  # equal changes have no order


def test_the_curve_shows_the_grid_in_order_with_the_intervals_of_each(results):
    long = results.specifications
    frozen = long[long["specification"] == 0].set_index("what")
    chance = results.tests_of("chance").set_index("what")
    for what in frozen.index:
        for column in ("value", "low", "high"):
            assert frozen.loc[what, column] == pytest.approx(chance.loc[what, column])
    table = threshold_grid(results, long)
    assert len(table) == long["specification"].nunique()
    assert table["participants"].iloc[:2].tolist() == [10, 12]  # as frozen, no rule
    figure = specification_curve(results)
    assert figure is not None
    *above, matrix = figure.canvas.axes
    estimates = long.pivot_table(
        index="specification", columns="what", values=["value", "low", "high"], dropna=False
    )
    alike = [n for n, row in estimates.iterrows() if n and list(row) == list(estimates.loc[0])]
    shown = ~table["threshold"].str.endswith("(frozen)") & ~table.index.isin(alike)
    assert len(matrix.get_yticks()) == shown.sum()
    assert [axis.get_title(loc="left") for axis in above] == ["base", "other series"]
    heights = np.array(
        [[dots.get_offsets()[0][1] for dots in axis.collections] for axis in above], dtype=float
    )
    order = np.array([[d.get_offsets()[0][0] for d in a.collections] for a in above], dtype=int)
    mean = np.take_along_axis(heights, order.argsort(axis=1), axis=1).mean(axis=0)
    assert (np.diff(mean) >= -1e-12).all()
    np.testing.assert_allclose(
        sorted(heights[0]), sorted(table.loc[shown, "base"].astype(float)), atol=1e-12
    )


def test_no_set_of_rules_is_tried_twice(results):
    """Without its only rule, a study has no rule."""
    sets = _rule_sets({"instruction_seconds_below": 5}, identical=False)
    named = [f"{rule}: {threshold}" for rule, threshold, _ in sets]
    own = [f"instruction seconds below: {text}" for text in ("5 (frozen)", "15", "30")]
    assert named == ["all rules: as frozen", "no rule: none", *own]
    assert _rule_sets({}, identical=False) == [("all rules", "as frozen", {})]
    none = replace(results, responses=replace(results.responses, rules={}))
    study = replace(none.responses.study, exclusions={})
    none = replace(none, responses=replace(none.responses, study=study))
    assert thresholds(none) is None and thresholds(results) is not None
    assert not any("exclusion rules" in text for text in abstract_of_study(none) if "Main" in text)


def test_without_a_primary_hypothesis_there_is_no_curve_of_it(results):
    study = results.responses.study
    none = replace(study, study=study.study.model_copy(update={"analysis": None}))
    assert (
        specification_curve(replace(results, responses=replace(results.responses, study=none)))
        is None
    )


def test_the_one_test_of_a_primary_hypothesis_is_one(results):
    rows = [("all rules", "as frozen", 10, "0 of 1", 0.5), ("no rule", "none", 12, "1 of 1", 0.6)]
    frame = pd.DataFrame(rows, columns=["rule", "threshold", "participants", "claimed", "base"])
    [said] = stability(results, {"thresholds": Table("thresholds", "", "", frame)})
    assert said.endswith(
        "0 of 1 test of the primary hypothesis was significant under the frozen rules; under "
        "others, 1 of 1 was."
    )


def test_two_analyses_do_not_share_a_folder(made, tmp_path):
    """The second one's data stood between the first one's writing and reading."""
    folder, answers, people = made
    path, out = write(tmp_path / "answers", answers, people), tmp_path / "results"
    with lock(out), pytest.raises(ArtifactError, match=f"command is working in {out}; wait"):
        analyse_study(folder / "study", path, out, Settings(99, 99))
    assert [file.name for file in out.iterdir()] == [".lock"]


def test_answers_without_consent_or_withdrawn_are_not_kept(made, tmp_path):
    folder, answers, people = made
    people = people.copy()
    people.loc[0, "consented_at"] = pd.NaT
    people.loc[1, "status"] = "withdrawn"
    path = write(tmp_path / "answers", answers, people)
    analyse_study(folder / "study", path, tmp_path / "results", Settings(99, 99))
    kept = pd.read_csv(tmp_path / "results" / "data" / "responses.csv")["participant"]
    assert not {"p0001", "p0002"} & set(kept) and kept.nunique() == 10
