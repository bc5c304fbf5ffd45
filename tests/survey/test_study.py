"""The frozen study: written once, whole, and without hints at its keys."""

import itertools
import json
import shutil
from collections import Counter

import pytest
from conftest import SETTINGS
from PIL import Image

from tasks.assignment import plan, practice_plan
from tasks.build import OBVIOUS, _disclosure, build
from tasks.contact_sheet import contact_sheet, observe, summary
from tasks.files import content_name
from tasks.kinds import all_tasks
from tasks.language import Words
from tasks.pictures import equal_files
from tasks.reading import read_texts
from tasks.recruitment import Entry
from tasks.settings import (
    Analysis,
    Attention,
    Exclusion,
    Payment,
    Practice,
    StudySettings,
    Texts,
    load_settings,
)
from tasks.study import digest, load


def test_no_two_trials_of_a_participant_share_a_neuron(frozen):
    study, _ = frozen
    for place in range(SETTINGS.participants):
        shown = [*study.practice, *(placed["trial"] for placed in plan(study, place))]
        neurons = [n for trial in shown for n in set(study.by_id[trial].neurons)]
        assert len(neurons) == len(set(neurons))


def test_what_was_set_is_frozen(frozen, recruitment):
    study, _ = frozen
    practice = (study.practice_attempts, study.practice_pass)
    assert practice == (SETTINGS.practice.attempts, SETTINGS.practice.pass_share)
    names = ("language", "seed", "confidence", "seconds_per_trial", "min_width", "exclusion")
    assert all(getattr(study, name) == getattr(SETTINGS, name) for name in names)
    places = (recruitment.places, recruitment.lease_minutes)
    assert places == (SETTINGS.participants, SETTINGS.lease_minutes)
    for text in study.tasks:
        example = text.example
        assert example is None or example.right in {"", *example.image_of}
        assert example is None or bool(example.options) == bool(example.right)


def test_every_place_holds_the_same_conditions(frozen):
    study, _ = frozen
    sets = [
        Counter(
            (t.task, t.condition, t.role) for t in (study.by_id[p["trial"]] for p in plan(study, s))
        )
        for s in range(SETTINGS.participants)
    ]
    assert all(one == sets[0] for one in sets)
    assert sum(n for (_, _, role), n in sets[0].items() if role == "attention") == 5


def test_positions_are_counterbalanced(frozen):
    """Over a full turn of rounds every option stands at every position equally often."""
    study, keys = frozen
    turns = [plan(study, round_ * len(study.forms)) for round_ in range(6)]
    for trial in (t for t in study.forms[0][0] if study.by_id[t].options):
        places = [
            next(p["options"].index(keys[trial]) for p in t if p["trial"] == trial) for t in turns
        ]
        assert Counter(places) == Counter(range(6))
    for block in study.forms[0]:
        data = [t for t in block if study.by_id[t].role == "trial"]
        turns = [plan(study, round_ * len(study.forms)) for round_ in range(len(data))]
        orders = [[p["trial"] for p in turn if p["trial"] in data] for turn in turns]
        for nth in range(len(data)):  # each trial stands at each place of its block once
            assert {order[nth] for order in orders} == set(data)


def test_attention_trials_come_neither_first_nor_all_together(frozen):
    study, _ = frozen
    for place in range(SETTINGS.participants):
        roles = [study.by_id[p["trial"]].role for p in plan(study, place)]
        assert roles[0] == "trial"
        assert ("attention", "attention") not in set(itertools.pairwise(roles))


def test_practice_turns_its_options(frozen):
    study, _ = frozen
    one, two = practice_plan(study, 1), practice_plan(study, 2)
    assert [p["trial"] for p in one] == [p["trial"] for p in two]
    assert [p["options"] for p in one if p["options"]] != [
        p["options"] for p in two if p["options"]
    ]


def test_a_study_is_refused_when_it_was_changed(frozen, study_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(study_folder, folder)
    assert load(folder)[0].hash == frozen[0].hash
    for name in ("study.json", "keys.json"):
        original = (folder / name).read_text()
        content = json.loads(original)
        first = next(iter(content)) if name == "keys.json" else "title"
        content[first] = "other"
        (folder / name).write_text(json.dumps(content))
        with pytest.raises(ValueError, match="was changed after the study was frozen"):
            load(folder)
        (folder / name).write_text(original)
    picture = folder / "images" / frozen[0].images()[0]
    picture.write_bytes(picture.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is missing or was changed after the study was frozen"):
        load(folder)


def test_a_study_of_an_older_version_keeps_its_hash(study_folder, tmp_path):
    """A setting that this version added is off in a study that was frozen without it."""
    folder = tmp_path / "copy"
    shutil.copytree(study_folder, folder)
    written = json.loads((folder / "study.json").read_text())
    keys = json.loads((folder / "keys.json").read_text())
    del written["confidence"], written["analysis"]
    written["hash"] = digest(written, keys)
    (folder / "study.json").write_text(json.dumps(written))
    older, _ = load(folder)
    assert (older.hash, older.confidence) == (written["hash"], False)
    assert older.analysis is None  # nothing was said, nothing is made up


def test_a_study_has_a_folder_of_its_own(run, study_folder):
    with pytest.raises(ValueError, match="holds a frozen study; build into another folder"):
        build(run, StudySettings(), study_folder)
    with pytest.raises(ValueError, match="holds a run; build into another folder"):
        build(run, StudySettings(), run.root)


def test_the_same_seed_gives_the_same_study(run, tmp_path):
    settings = StudySettings(forms=1, participants=2, trials={"odd_one_out": {"base": 1}})
    first, second = (build(run, settings, tmp_path / n, say=lambda text: None) for n in "ab")
    assert first.hash == second.hash


def test_files_tell_nothing(frozen, study_folder):
    """Names are hashes of contents, sizes are equal, and study.json holds no key."""
    study, _ = frozen
    files = sorted((study_folder / "images").iterdir())
    assert [f.name for f in files] == list(study.images())
    assert {len(f.read_bytes()) for f in files} == {files[0].stat().st_size}
    assert all(content_name(f.read_bytes()) == f.name for f in files)
    sizes = {Image.open(f).size for f in files}
    assert len(sizes) <= 4  # one per kind of picture, never per content
    for trial in study.trials:
        assert [o.id for o in trial.options] == list("abcdef"[: len(trial.options)])


def test_padded_pictures_are_the_same_pictures():
    import io

    pictures = [Image.effect_noise((90, 90), s).convert("RGB") for s in (1, 40, 90)]
    files = equal_files(pictures)
    assert len({len(data) for data in files}) == 1
    for picture, data in zip(pictures, files, strict=True):
        plain = io.BytesIO()
        picture.save(plain, "JPEG", quality=80, subsampling=0)
        assert list(Image.open(io.BytesIO(data)).getdata()) == list(Image.open(plain).getdata())


def test_the_machine_observer_finds_obvious_intruders(frozen, study_folder):
    study, keys = frozen
    observed = observe(study, keys, study_folder)
    right = {row[:3]: row[4] for row in summary(study, observed)}
    assert right["odd_one_out", "obvious", "attention"] >= 0.5
    sheet = contact_sheet(study, keys, study_folder).read_text()
    assert sheet.count("<article>") == len(study.trials)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("forms = 0", "forms = 0: must be at least 1"),
        ("[practice]\npass_share = 2", "practice.pass_share = 2: must be at most"),
        ("title = ''", "title = '': participants see the title on every page; give one"),
        ("colour = 'red'", "colour = 'red': unknown key"),
        ("langage = 'de'", r"langage = 'de': unknown key; did you mean language\?"),
        ("consent = 'Yes'", r"consent = 'Yes': unknown key; it belongs in \[texts\]"),
        ("[texts]\nseed = 1", r"texts\.seed = 1: unknown key; it belongs before all tables"),
        ("= 3", "not valid TOML"),
    ],
)
def test_settings_name_what_is_wrong(tmp_path, text, told):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ValueError, match=told):
        load_settings(tmp_path / "study.toml")


def test_the_commented_settings_are_the_defaults():
    from tasks.settings import TEXTS

    shown = load_settings(TEXTS / "study.toml")
    assert shown.model_copy(update={"trials": {}}) == StudySettings()
    assert shown.trials == {name: all_tasks().get(name).conditions for name in all_tasks()}


@pytest.mark.parametrize(
    ("task", "primary"),
    [
        ("odd_one_out", "odd_one_out.chance"),
        ("evolution_labelling", "evolution_labelling.detection"),
        ("concept_agreement", "concept_agreement.ratings"),
    ],
)
def test_the_main_question_is_frozen(run, tmp_path, task, primary):
    trials = {task: dict.fromkeys(all_tasks().get(task).conditions, 1)}
    settings = StudySettings(forms=1, participants=1, trials=trials)
    study = build(run, settings, tmp_path / "study", say=lambda text: None)
    assert study.analysis is not None and study.analysis.primary == primary
    assert load(tmp_path / "study")[0].analysis == study.analysis
    for asked, told in (
        (
            {"primary": "before_or_after.chance"},
            f"'before_or_after.chance': .* answer {primary}",
        ),
        ({"primary": f"{task}.luck"}, f"'{task}.luck': this design can answer {primary}"),
        ({"similarity": "wrods"}, "unknown text similarity 'wrods'; known: exact, words"),
        ({"reference": "rndm"}, "analysis.reference = 'rndm': no condition of the design; it has"),
    ):
        wrong = settings.model_copy(update={"analysis": Analysis(**asked)})
        with pytest.raises(ValueError, match=told):
            build(run, wrong, tmp_path / "other", say=lambda text: None)
        assert not (tmp_path / "other").exists()


def test_an_impossible_design_says_what_to_change(run, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.drawing.TRIES", 5)
    settings = StudySettings(forms=1, participants=1, trials={"odd_one_out": {"base": 60}})
    with pytest.raises(ValueError, match="ask for fewer trials or forms in"):
        build(run, settings, tmp_path, say=lambda text: None)
    with pytest.raises(ValueError, match=r"trials.odd_one_out.colour: no such condition"):
        wrong = settings.model_copy(update={"trials": {"odd_one_out": {"colour": 1}}})
        build(run, wrong, tmp_path, say=lambda text: None)


def test_a_rule_that_chance_alone_would_trip_is_refused(run, tmp_path):
    trials = {"before_or_after": {"nine_references": 6}}
    settings = StudySettings(forms=2, trials=trials)
    wrong = settings.model_copy(update={"exclusion": Exclusion(one_sided_above=0.8)})
    with pytest.raises(ValueError, match=r"exclusion\.one_sided_above = 0\.8: .*by chance alone"):
        build(run, wrong, tmp_path / "study", say=lambda text: None)
    assert not (tmp_path / "study").exists()
    notes: list[str] = []
    study = build(run, settings, tmp_path / "study", lambda text: None, notes.append)
    assert study.exclusion.one_sided_above is None
    assert "one_sided_above, by default 0.8, is switched off" in notes[-1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"questions": False, "texts": Texts(questionnaire="q.toml")}, "questions = false, but"),
        (
            {"trials": {"odd_one_out": {"base": 2, "random": 2}},
             "analysis": Analysis(smallest_effect=0.1)},
            "analysis.smallest_effect = 0.1: no task of this design has two or more",
        ),
    ],
)  # fmt: skip
def test_settings_that_would_have_no_effect_are_refused(run, tmp_path, changes, told):
    with pytest.raises(ValueError, match=told):
        build(run, StudySettings(**changes), tmp_path / "study", say=lambda text: None)


def test_forms_that_nobody_would_complete_are_noted(run, tmp_path):
    notes: list[str] = []
    settings = StudySettings(
        forms=2, participants=1, lease_minutes=118, trials={"concept_agreement": {"neighbours": 1}}
    )
    build(run, settings, tmp_path / "study", say=lambda text: None, note=notes.append)
    assert "participants = 1, forms = 2: each participant completes one form" in notes[0]
    assert "[135, 7200] counts pauses, too: " in notes[1] and "pause for 118 min" in notes[1]


def test_more_attention_trials_than_others_are_noted(run, tmp_path):
    for count, noted in ((1, True), (5, False)):
        notes: list[str] = []
        settings = StudySettings(forms=1, participants=1, trials={"odd_one_out": {"base": count}})
        build(run, settings, tmp_path / str(count), lambda text: None, notes.append)
        text = "each participant answers 5 attention trials, but only 1 other trial; ask for more"
        assert any(text in note for note in notes) is noted


@pytest.mark.parametrize(
    ("platform", "text", "noted"),
    [
        ("open", None, False),
        ("open", "", False),
        ("open", Payment().text, True),
        ("prolific", None, False),
    ],
)
def test_a_promise_of_a_platforms_payment_to_an_open_link_is_noted(
    run, tmp_path, platform, text, noted
):
    notes: list[str] = []
    settings = StudySettings(
        forms=1, participants=1, trials={"concept_agreement": {"neighbours": 1}},
        recruitment=Entry(platforms=(platform,)),
        payment=Payment() if text is None else Payment(text=text),
    )  # fmt: skip
    build(run, settings, tmp_path / "study", say=lambda text: None, note=notes.append)
    assert any("payment.text promises 'You are paid" in note for note in notes) is noted
    said = load(tmp_path / "study")[0].payment.text
    assert said == ("" if platform == "open" and not text else Payment().text)


def test_a_condition_whose_name_no_database_holds_is_refused(run, tmp_path, monkeypatch):
    """SQLite stored it, but PostgreSQL refused every answer, and browsers tried for ever."""
    task = all_tasks().get("odd_one_out")
    monkeypatch.setattr(task, "conditions", {"x" * 41: 1}, raising=False)
    monkeypatch.setattr(task, "draw", lambda evidence, condition, rng: pytest.fail("was drawn"))
    settings = StudySettings(
        trials={"odd_one_out": {"x" * 41: 1}}, practice=Practice(trials=0),
        attention=Attention(trials=0),
    )  # fmt: skip
    with pytest.raises(ValueError, match="120 characters of a task's name and 40 of a condition's"):
        build(run, settings, tmp_path / "study", say=lambda text: None)


def test_equivalence_can_be_the_main_question_where_a_smallest_effect_is_named(run, tmp_path):
    trials = {"odd_one_out": {"base": 1, "same_series": 1}}
    plan = Analysis(primary="odd_one_out.equivalence")
    settings = StudySettings(forms=1, participants=1, trials=trials, analysis=plan)
    with pytest.raises(ValueError, match=r"'odd_one_out\.equivalence': this design can answer"):
        build(run, settings, tmp_path / "study", say=lambda text: None)
    plan = Analysis(primary="odd_one_out.equivalence", smallest_effect=0.1)
    settings = settings.model_copy(update={"analysis": plan})
    study = build(run, settings, tmp_path / "study", say=lambda text: None)
    assert study.analysis == plan


@pytest.mark.parametrize("language", ["en", "de"])
def test_participants_are_told_which_trials_were_not_what_they_seemed(language):
    words = Words(language)
    disclosed = all_tasks().get("evolution_labelling").disclosed
    settings = StudySettings(language=language)
    design = {"evolution_labelling": {"evolution": 2, "false_evolution": 1, "same_stage": 0}}
    told = _disclosure(design, 0, settings)
    assert told == words(disclosed["false_evolution"])
    assert words(OBVIOUS) in _disclosure(design, 5, settings)
    debrief = read_texts(settings, {"disclosed": told}).texts["debrief"]
    assert told in debrief and "{" not in debrief


def test_reports_can_say_what_every_condition_is():
    for name in all_tasks():
        task = all_tasks().get(name)
        assert list(task.meanings) == list(task.conditions), name
