"""The consequences of a design, contradictions in it, and the preset of the published design."""

import re
from collections import Counter

import numpy as np
import pytest
from command_line import say
from hypothesis import given
from hypothesis import strategies as st

from tasks.build import build
from tasks.clusters import find_clusters
from tasks.evidence import Evidence
from tasks.kinds import all_tasks
from tasks.kinds.odd_one_out import COHERENT, SHARED_KINDS, OddOneOut
from tasks.questionnaire import BUILT_IN
from tasks.settings import (
    EPS,
    Attention,
    EvidenceSettings,
    Exclusion,
    Practice,
    StudySettings,
    load_settings,
)
from tasks.sizing import QUESTION, least_attention, seconds, size
from tasks.study import load

DEFAULT = {name: all_tasks().get(name).conditions for name in all_tasks()}
LABELLING = {"evolution_labelling": {"evolution": 2}}
QUESTIONS = len(BUILT_IN)


@given(st.floats(0, 0.99))
def test_one_lapse_excludes_nobody_and_no_trial_is_wasted(below):
    needed = least_attention(below)
    assert (needed - 1) / needed >= below - 1e-12
    assert needed == 2 or (needed - 2) / (needed - 1) < below + 1e-12


def test_the_default_design_fits_together():
    sized = size(DEFAULT, StudySettings(), QUESTIONS)
    assert sized.attention == 5  # four of five are 0.8
    assert (
        60 * sized.minutes
        >= seconds(DEFAULT, StudySettings(), 5, QUESTIONS)
        > 60 * (sized.minutes - 1)
    )
    assert 10 <= sized.minutes <= 25


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"attention": Attention(trials=3)}, "one error would exclude .* at least 5 attention"),
        ({"exclusion": Exclusion(attention_below=1.0)}, "excludes participants for a single error"),
        ({"minutes": 3}, "minutes = 3: this design takes about"),
        (
            {"exclusion": Exclusion(instruction_seconds_below=200)},
            "instruction_seconds_below = 200: all texts together take about 120 seconds",
        ),
        ({"exclusion": Exclusion(total_seconds_outside=(5000, 7200))}, "would exclude most people"),
        (
            {"practice": Practice(attempts=4)},
            "would answer all trials and then be excluded; allow at most 3",
        ),
    ],
)
def test_contradictions_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        size(DEFAULT, StudySettings(**settings), QUESTIONS)


def test_time_limits_and_all_questions_count_in_the_minutes():
    settings = StudySettings(exclusion=Exclusion(total_seconds_outside=None))
    design = {"concept_agreement": {"neighbours": 30}}
    hasty = settings.model_copy(update={"seconds_per_trial": 2})
    assert (
        size(design, settings, QUESTIONS).minutes > 8
        and size(design, hasty, QUESTIONS).minutes == 4
    )
    more = [seconds(design, settings, 0, questions) for questions in (0, 60)]
    assert more[1] - more[0] == 60 * QUESTION


def test_attention_trials_need_a_task_that_has_them():
    assert size(LABELLING, StudySettings(), QUESTIONS).attention == 0
    with pytest.raises(ValueError, match="none of evolution_labelling has trials with an obvious"):
        size(LABELLING, StudySettings(attention=Attention(trials=5)), QUESTIONS)


def test_consent_says_the_minutes_of_the_design(run, tmp_path):
    settings = StudySettings(forms=1, participants=1, trials={"odd_one_out": {"base": 1}})
    for language, word in (("en", "minutes"), ("de", "Minuten")):
        study = build(
            run, settings.model_copy(update={"language": language}), tmp_path / language,
            say=lambda text: None,
        )  # fmt: skip
        assert f"{study.minutes} {word}" in study.consent and "{minutes}" not in study.consent
    own = tmp_path / "consent.md"
    own.write_text("It takes {minutes} minutes.")
    texts = settings.texts.model_copy(update={"consent": str(own)})
    written = settings.model_copy(update={"minutes": 20, "texts": texts})
    study = build(run, written, tmp_path / "own", say=lambda text: None)
    assert (study.consent, study.minutes) == ("It takes 20 minutes.", 20)


def test_an_attention_trial_has_one_defensible_answer(evidence):
    """The intruder's pictures are of other classes than those of the five."""
    task, rng = OddOneOut(), np.random.default_rng(0)
    for _ in range(24):
        draft = task.draw(evidence, "obvious", rng)
        kinds = [evidence.class_shares(neuron) for neuron in draft.neurons]
        assert len(kinds) == 2
        assert np.minimum(*kinds).sum() <= SHARED_KINDS
        assert max(kind.max() for kind in kinds) >= COHERENT


def test_clusters_are_of_one_concept_and_of_different_channels(run):
    evidence = Evidence(run, EvidenceSettings(grouping="clusters", eps=dict.fromkeys(EPS, 0.35)))
    found = find_clusters(evidence, evidence.rows("a", 3), 0.35, 5)
    assert found
    for rows in found:
        channels = [(n.series, n.layer, n.channel) for n in (evidence.neurons[r] for r in rows)]
        assert len(channels) == len(set(channels)) >= 5
    rows = np.concatenate(find_clusters(evidence, evidence.rows("a"), 0.35, 5))
    epochs = Counter(evidence.neurons[row].epoch for row in rows)  # all of 0 to 3 have as many
    assert set(epochs) == {0, 1, 2, 3} and max(epochs.values()) < 0.4 * len(rows)
    narrow = EvidenceSettings(grouping="clusters", eps={"base": 1e-6})
    with pytest.raises(ValueError, match=r"raise evidence.eps.base in study.toml"):
        OddOneOut().draw(Evidence(run, narrow), "base", np.random.default_rng(0))


def test_the_published_design_is_a_preset(run, tmp_path):
    path = tmp_path / "study.toml"
    say("study", "settings", str(path), "--preset", "conceptevo")
    settings = load_settings(path)
    sets = {c: settings.forms * n for c, n in settings.trials["odd_one_out"].items()}
    assert {c: sets[c] for c in ("base", "same_series", "other_series", "random")} == {
        "base": 16, "same_series": 16, "other_series": 16, "random": 20,
    }  # fmt: skip
    assert settings.forms * settings.trials["evolution_labelling"]["evolution"] == 100
    assert (settings.participants, settings.evidence.grouping) == (260, "clusters")
    assert size(settings.trials, settings, QUESTIONS).attention == 5
    few = {"odd_one_out": {"base": 1, "same_series": 1, "other_series": 1, "random": 1}}
    small = settings.model_copy(
        update={"forms": 2, "trials": few, "evidence": EvidenceSettings(grouping="clusters"),
                "exclusion": Exclusion()}
    )  # fmt: skip
    build(run, small, tmp_path / "study", say=lambda text: None)
    study, _ = load(tmp_path / "study")
    assert Counter(t.condition for t in study.trials if t.role == "trial") == {
        "base": 2, "same_series": 2, "other_series": 2, "random": 2,
    }  # fmt: skip
    told = say("study", "settings", str(tmp_path / "x.toml"), "--preset", "x", error=ValueError)
    assert re.search("--preset 'x' must be one of default, conceptevo", told)
