"""Trials: the faults of the published generator are searched for in many draws by plain code."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.records import Checkpoint
from tasks.base import NoTrial, Option, Trial, check_values, clean_text
from tasks.build import build
from tasks.drawing import Drawing, rehearse
from tasks.evidence import Evidence, read_groups
from tasks.kinds import all_tasks
from tasks.kinds.before_or_after import BeforeOrAfter
from tasks.kinds.odd_one_out import OUTSIDE, SAME_DEPTH, nearest_neighbours
from tasks.settings import EvidenceSettings, StudySettings

ODD = all_tasks().get("odd_one_out")


def plain_similarity(evidence, a, b):
    """Return the cosine, computed from its definition."""
    u, v = evidence.space.vectors[a], evidence.space.vectors[b]
    return sum(x * y for x, y in zip(u, v, strict=True)) / (sum(u * u) * sum(v * v)) ** 0.5


def chosen(evidence, condition, seed):
    return ODD._choose(evidence, condition, np.random.default_rng(seed))


@pytest.mark.parametrize("condition", ["base", "same_series", "other_series"])
@pytest.mark.parametrize("seed", range(6))
def test_the_five_are_the_target_and_its_nearest_others(evidence, condition, seed):
    (target, *group), odd, _ = chosen(evidence, condition, seed)
    assert target not in group
    assert len({target, *group, odd}) == 6
    base = evidence.neurons[target]
    assert (base.series, base.epoch) == ("a", 3)
    pool = [
        row
        for row in evidence.usable
        if (condition == "other_series" or evidence.neurons[row].series == "a")
        and (condition != "base" or evidence.neurons[row].epoch == 3)
        and row != target
    ]
    near = sorted(pool, key=lambda row: -plain_similarity(evidence, target, row))
    channels = {(base.series, base.layer, base.channel)}
    expected = []
    for row in near:
        n = evidence.neurons[row]
        if (n.series, n.layer, n.channel) not in channels:
            channels.add((n.series, n.layer, n.channel))
            expected.append(row)
    assert group == expected[:4]
    assert odd not in near[: min(OUTSIDE, (len(pool) + 1) // 2)]
    assert abs(evidence.depth[odd] - evidence.depth[target]) < SAME_DEPTH


def test_early_layers_are_left_out_for_everyone(evidence, run, monkeypatch):
    assert {evidence.neurons[row].layer for row in evidence.usable} == {"middle", "deep"}
    monkeypatch.setattr(Evidence, "patches", 99)
    with pytest.raises(ValueError, match=r"with 198 stimuli; lower evidence.min_depth in study"):
        Evidence(run)


def test_the_random_condition_has_a_key_and_measures_chance(evidence):
    keys = [ODD.draw(evidence, "random", np.random.default_rng(s)).key for s in range(60)]
    assert set(keys) == set(range(6))
    guesses = [ODD.score(key, 0) for key in keys]
    assert 0.02 < np.mean(guesses) < 0.40


def test_the_key_stands_at_every_place(evidence):
    keys = {ODD.draw(evidence, "base", np.random.default_rng(s)).key for s in range(40)}
    assert keys == set(range(6))


def test_trials_begin_with_neurons_of_the_base_of_the_runs_space(run, monkeypatch):
    manifest = run.manifest() | {"base": {"series": "b", "epoch": 2}}
    monkeypatch.setattr(run, "manifest", lambda: manifest)
    evidence = Evidence(run)
    five, odd, _ = chosen(evidence, "base", 0)
    assert {(evidence.neurons[r].series, evidence.neurons[r].epoch) for r in [*five, odd]} == {
        ("b", 2)
    }
    assert Evidence(run, EvidenceSettings(base="a")).base == Checkpoint("a", 3)
    with pytest.raises(ValueError, match="base series 'c' is not in the run; it has a, b"):
        Evidence(run, EvidenceSettings(base="c"))
    with pytest.raises(ValueError, match="evidence.space = 'ppmi': the run .* it has sgns"):
        Evidence(run, EvidenceSettings(space="ppmi"))


def test_hand_picked_groups_come_from_a_file(run, tmp_path):
    path = tmp_path / "groups.toml"
    names = ", ".join(
        f"{{series='a', epoch=3, layer='deep', channel={c}}}" for c in (0, 12, 24, 2, 14)
    )
    path.write_text(f"[[group]]\nconcept = 'mine'\nneurons = [{names}]\n")
    evidence = Evidence(run, EvidenceSettings(groups=str(path)))
    five, odd, recipe = chosen(evidence, "hand_picked", 0)
    assert recipe == {"concept": "mine"}
    assert {evidence.neurons[row].channel for row in five} == {0, 2, 12, 14, 24}
    assert evidence.neurons[odd].layer == "deep"
    text = path.read_text()
    path.write_text(
        text.replace("epoch=3, layer='deep', channel=14", "epoch=9, layer='x', channel=14")
    )
    with pytest.raises(ValueError, match=r"groups.toml: .* of group 'mine' is not in the run, or"):
        Evidence(run, EvidenceSettings(groups=str(path)))
    path.write_text("[[group]]\nconcept = 'mine'\n")
    with pytest.raises(ValueError, match=r"groups file .* cannot be used .*\[\[group\]\] tables"):
        read_groups(path)


def test_neurons_with_little_overlap_are_in_no_group_and_no_intruder_has_the_concept(run):
    evidence = Evidence(run)
    names = {f"concept {number}" for number in range(0, 12, 2)}  # of the last epoch
    assert {group.concept for group in evidence.groups} == names

    def concept_of(row):
        n = evidence.neurons[row]
        return f"concept {(n.channel + (n.epoch if n.channel % 2 else 0)) % 12}"  # as planted

    vectors = np.random.default_rng(0).normal(size=evidence.space.vectors.shape)
    evidence.space = replace(evidence.space, vectors=vectors)  # distances do not tell concepts
    for seed in range(60):
        five, odd, recipe = chosen(evidence, "hand_picked", seed)
        assert {concept_of(row) for row in five} == {recipe["concept"]} != {concept_of(odd)}
    table = run.tables("concepts")
    is_most = (table["concept"] == "concept 4") & (table["channel"] > 1)
    for overlap, missing in ((0.039, {"concept 4"}), (0.04, set())):
        evidence = Evidence(run)
        evidence.concepts = table.assign(iou=table["iou"].mask(is_most, overlap))
        assert {group.concept for group in evidence.groups} == names - missing


def test_without_groups_the_condition_says_what_to_do(run, tmp_path):
    (tmp_path / "groups.toml").write_text("[[group]]\nconcept = 'few'\nneurons = []\n")
    evidence = Evidence(run, EvidenceSettings(groups=str(tmp_path / "groups.toml")))
    with pytest.raises(NoTrial, match="no hand-picked group of five .* or omit .* hand_picked = 0"):
        ODD.draw(evidence, "hand_picked", np.random.default_rng(0))


def test_neighbours_hold_each_channel_once(evidence):
    target = int(evidence.rows("a", 3)[0])
    rows = nearest_neighbours(evidence, target, evidence.rows(), 30)
    found = [evidence.neurons[row] for row in rows]
    assert len({(n.series, n.layer, n.channel) for n in found}) == 30


@pytest.mark.parametrize("name", list(all_tasks()))
def test_draws_are_seeded_and_answers_go_both_ways(evidence, name):
    task = all_tasks().get(name)
    for condition in [*task.conditions, *([task.control] if task.control else [])]:
        one, two = (task.draw(evidence, condition, np.random.default_rng(5)) for _ in range(2))
        assert (one.neurons, one.key) == (two.neurons, two.key)
        options = [{"id": "abcdef"[i], "image": f"{i}"} for i in range(len(one.options))]
        trial = Trial(
            id="t1",
            task=name,
            condition=condition,
            role="trial",
            options=options,
            neurons=one.neurons,
        )
        key = "abcdef"[one.key] if options else one.key
        for knows in (True, False):
            answer = task.simulate(trial, key, knows, np.random.default_rng(1))
            values = check_values(task.fields(trial), trial, task.values(answer))
            assert task.answer(values) == answer
            score = task.score(key, answer)
            assert score is None or isinstance(score, bool)
            assert key is None or not knows or score is True


def test_same_stage_controls_show_disjoint_stimuli_of_one_stage(evidence):
    task = all_tasks().get("evolution_labelling")
    same = task.draw(evidence, "same_stage", np.random.default_rng(2))
    assert len(same.neurons) == 1
    assert same.key is False
    false = task.draw(evidence, "false_evolution", np.random.default_rng(2))
    assert len({n.channel for n in false.neurons}) == 2
    assert len({n.layer for n in false.neurons}) == 1
    assert false.key is True
    real = task.draw(evidence, "evolution", np.random.default_rng(2))
    assert [n.epoch for n in real.neurons] == [1, 2, 3]
    assert real.key is None


def test_a_false_evolution_does_not_end_with_the_concept_with_which_it_begins(run):
    """Else "it stayed the same" would be true, but count as an error."""
    task, evidence = all_tasks().get("evolution_labelling"), Evidence(run)

    def concept_of(neuron):  # as planted
        return (neuron.channel + (neuron.epoch if neuron.channel % 2 else 0)) % 12

    for seed in range(200):
        early, middle, late = task.draw(
            evidence, "false_evolution", np.random.default_rng(seed)
        ).neurons
        assert (early.layer, middle.channel) == (late.layer, late.channel)
        assert early.channel != late.channel
        assert concept_of(early) != concept_of(late)

    def draw_with(concepts):
        evidence = Evidence(run)
        evidence.concepts = concepts
        return task.draw(evidence, "false_evolution", np.random.default_rng(0))

    table = run.tables("concepts")
    with pytest.raises(NoTrial, match="another true concept at the last stage"):
        draw_with(table.assign(concept="one"))
    is_one = (table["layer"] == "deep") | (table["channel"] != 5)
    some = draw_with(table.assign(concept=table["concept"].mask(is_one, "one"), iou=0.01)).neurons
    assert some[0].layer == "middle" and 5 in {neuron.channel for neuron in some}
    assert draw_with(table.iloc[:0]).key is True


def test_the_right_new_picture_drives_the_later_neuron_more(evidence):
    """By the definition of stimuli: in the top k of t' and not of t, and the other way round."""
    task = all_tasks().get("before_or_after")
    for seed in range(20):
        draft = task.draw(evidence, "nine_references", np.random.default_rng(seed))
        before, after = draft.neurons
        assert before.epoch < after.epoch
        assert before.channel == after.channel
        shown = [set(evidence.stimuli(n)["image_id"][:9]) for n in (before, after)]
        new = set(evidence.stimuli(after)["image_id"][9:]) - set(
            evidence.stimuli(before)["image_id"]
        )
        assert new - shown[0] - shown[1]


def test_images_that_saturate_a_neuron_are_not_told_apart(evidence, monkeypatch):
    """Other images can have the smallest activation, too, if several stimuli have it."""
    stimuli, task = Evidence.stimuli, BeforeOrAfter()

    def cut_off(at):
        def read(self, neuron):
            table = stimuli(self, neuron)
            return table.assign(activation=table["activation"].clip(lower=at))

        monkeypatch.setattr(Evidence, "stimuli", read)

    drawn = {}
    for least in (0, 7):  # activations fall from 20 by 1: with 7, ranks 13 to 19 have the smallest
        cut_off(least)
        found = [
            task._candidate(evidence, "nine_references", np.random.default_rng(seed))
            for seed in range(40)
        ]
        drawn[least] = {rank for *_, new, old in found for rank in (*new, *old)}
    assert drawn == {0: set(range(9, 20)), 7: set(range(9, 13))}
    cut_off(20)
    with pytest.raises(NoTrial, match="a further stimulus that is none at the other"):
        task.draw(evidence, "nine_references", np.random.default_rng(0))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ([], "an answer must be an object"),
        ({}, "please choose one of the answers shown"),
        ({"choice": "z"}, "please choose one of the answers shown"),
        ({"choice": ["a"]}, "please choose one of the answers shown"),
        ({"choice": "a", "more": 1}, "unknown field 'more'"),
    ],
)
def test_answers_that_do_not_fit_are_refused(raw, told):
    options = [{"id": i, "image": i} for i in "ab"]
    trial = Trial(id="t1", task="odd_one_out", condition="base", role="trial", options=options)
    with pytest.raises(ValueError, match=told):
        check_values(ODD.fields(trial), trial, raw)


def test_free_text_is_kept_as_one_plain_line():
    assert clean_text(" <b>red</b>\n\x00wheel\u2028 ") == "<b>red</b> wheel"
    assert len(clean_text("x" * 5000)) == 120
    assert clean_text("\ud800") == "?"
    assert clean_text("two words", 4) == "two"
    with pytest.raises(ValueError, match="a text was expected"):
        clean_text(3)


def test_a_users_own_task_is_one_file(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from tasks.kinds.odd_one_out import OddOneOut\n"
        "class Mine(OddOneOut):\n"
        "    name, title, conditions, control = 'mine', 'Mine', {'random': 1}, None\n"
        "TASK = Mine()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = StudySettings(forms=1, participants=1, trials={"mine:TASK": {"random": 2}})
    study = build(run, settings, tmp_path / "study", say=lambda text: None)
    assert [t.task for t in study.trials] == ["mine:TASK"] * 3


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("self, evidence, condition, rng): return None", "must return a Draft, got NoneType"),
        ("self, evidence, condition, rng): return {}[condition]", "failed: KeyError: 'catch' ("),
        ("self): return None", "failed: TypeError: Faulty.draw() takes 1 positional argument"),
    ],
)
def test_an_error_in_a_users_draw_names_its_task(evidence, tmp_path, monkeypatch, code, fault):
    (tmp_path / "faulty_task.py").write_text(
        "from tasks.kinds.before_or_after import BeforeOrAfter\n"
        f"class Faulty(BeforeOrAfter):\n    def draw({code}\ntask = Faulty()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "faulty_task", raising=False)
    drawing = Drawing(evidence, {"faulty_task:task": {}}, np.random.default_rng(0))
    with pytest.raises(ValueError) as error:
        drawing.draw_practice(1)
    message = str(error.value)
    assert message.startswith("task 'faulty_task:task': draw of condition 'catch' ")
    assert fault in message


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("fields = lambda self, trial: None", "fields must return a tuple of Field, got None"),
        ("simulate = lambda self, *given: {}[0]", "simulate failed: KeyError: 0"),
        ("values = lambda self, answer: {}", "{} does not fit its fields: "),
        ("answer = lambda self, values: values[0]", "answer failed: KeyError: 0"),
        ("score = lambda self, key: None", "score failed: TypeError: "),
    ],
)
def test_a_task_that_a_survey_cannot_show_is_not_frozen(evidence, monkeypatch, part, fault):
    class Faulty(BeforeOrAfter):
        exec(part)

    monkeypatch.setitem(all_tasks()._plugins, "faulty", Faulty())
    draft = Faulty().draw(evidence, "one_reference", np.random.default_rng(0))
    options = tuple(Option(id=letter, image="") for letter in "ab")
    trial = Trial(id="t1", task="faulty", condition="one_reference", role="trial", options=options)
    with pytest.raises(ValueError, match=f"^task 'faulty': {re.escape(fault)}"):
        rehearse("faulty", trial, "ab"[draft.key])
    rehearse("before_or_after", trial, "ab"[draft.key])


def test_a_new_built_in_task_is_one_file(tmp_path):
    """Put beside the others, it is offered, drawn, introduced and named in reports."""
    code = (
        "from tasks import kinds\n"
        f"kinds.__path__.append({str(tmp_path)!r})\n"
        "from tasks.kinds import all_tasks\n"
        "from analysis.study.frozen_study import task_of\n"
        "assert list(all_tasks())[:2] == ['odd_one_out', 'mine'], list(all_tasks())\n"
        "assert task_of('mine').label == 'my own' and task_of('mine').design\n"
    )
    (tmp_path / "mine.py").write_text(
        "from tasks.base import TASKS\n"
        "from tasks.kinds.odd_one_out import OddOneOut\n"
        "class Mine(OddOneOut):\n"
        "    name, order, label = 'mine', 1.5, 'my own'\n"
        "TASKS.add('mine')(Mine())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_no_file_outside_lists_the_tasks():
    root = Path(__file__).parents[2]
    for folder in ("tasks", "survey_app", "analysis"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            quoted = [name for name in all_tasks() if f'"{name}"' in text]
            assert path.parent.name == "kinds" or len(quoted) <= 1, (path, quoted)
