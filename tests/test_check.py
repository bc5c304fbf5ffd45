"""`check` finds all faults at once, and reports its findings if there is no fault."""

import os
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import say
from PIL import Image
from rich.console import Console
from torch import nn

from analysis.run.audit import NUMBERS, audit_sentences, checkpoints
from harness.artifacts import Artifact, Run
from harness.config import ConfigError, EvolveSection, parse_config
from harness.networks.architectures import build
from harness.predictions import find_mistaken, note_predictions
from harness.stages.check import note_unstudied, remarks
from harness.stages.run import run_until

IMAGES = {"source": "drawn", "train": 12, "probe": 12, "test": 24}


def state(outputs=12):
    return build("small_vgg", outputs, seed=1).state_dict()


def without_logits(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


def raises(num_classes):
    class Broken(nn.Module):
        def forward(self, x):
            raise KeyError("layer7")

    return nn.Sequential(nn.Conv2d(3, 4, 3), Broken())


def single(num_classes):
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, num_classes))
    return nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU(), pooled)


def not_finite():
    weights = state()
    weights["features.3.weight"][0, 0, 0, 0] = float("nan")
    return weights


#: series -> its checkpoints by epoch, and what its section says more
PLANTED = {
    "sound": ({1: state(), 2: state()}, {}),
    "damaged": ({1: state(), 2: b"PK\x03\x04rubbish"}, {}),
    "page": ({1: b"<!DOCTYPE html><html></html>"}, {}),
    "empty": ({1: b""}, {}),
    "diverged": ({1: not_finite()}, {}),
    "other": ({1: state()}, {"architecture": "small_resnet"}),
    "head": ({1: state(5)}, {}),
    "wide": ({1: state(20)}, {"outputs": 20}),
    "optimizer": ({1: torch.optim.SGD([torch.ones(1)]).state_dict()}, {}),
    "two": ({1: {"student": state(), "teacher": not_finite()}}, {}),
    "missing": ({1: state()}, {"architecture": "no_such_module:f"}),
    "maps": ({1: without_logits(1).state_dict()}, {"architecture": "test_check:without_logits"}),
    "raising": ({1: raises(1).state_dict()}, {"architecture": "test_check:raises"}),
    "twice": ({1: state(20), 2: state(20)}, {"outputs": 20}),
    "single": ({1: single(12).state_dict()}, {"architecture": "test_check:single"}),
    "layers": ({1: state()}, {"layers": ["nothing.*"]}),
}
MESSAGES = (
    "series 'damaged', epoch 2: checkpoint",
    "series 'page', epoch 1: checkpoint .*web page",
    "series 'empty', epoch 1: checkpoint .*is empty",
    "series 'diverged', epoch 1: its weights hold NaN .*skip = ",
    "series 'other', epoch 1: checkpoint .*does not fit the architecture",
    "series 'head', epoch 1: .*set outputs = 5 in the series",
    "series 'wide', epoch 1: the network has 20 outputs for 12 classes",
    "series 'optimizer', epoch 1: .*the state of an optimizer",
    "series 'two', epoch 1: .*several state dicts .student, teacher.",
    "series 'missing', epoch 1: .*cannot be imported",
    "series 'maps', epoch 1: .*must return logits",
    "series 'raising', epoch 1: .*KeyError",
    "series 'layers', epoch 1: .*nothing",
    "series 'twice', epochs 1, 2: the network has 20 outputs for 12 classes",
    "probe.k = 20: there are 12 probe images; lower it",
    "classes: no class unicorn; there are ladybug",
)


def planted(place, names):
    sections = []
    for name in names:
        checkpoints_, more = PLANTED[name]
        (place / name).mkdir()
        for epoch, content in checkpoints_.items():
            path = place / name / f"model-{epoch}.pth"
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                torch.save(content, path)
        section = {"name": name, "source": "folder", "architecture": "small_vgg"}
        sections.append(section | {"folder": str(place / name)} | more)
    probe = {"k": 20 if len(sections) > 1 else 4}
    return parse_config({"images": IMAGES, "probe": probe, "series": sections, "workers": 0})


@pytest.mark.parametrize("pairs", [{}, {"sound": [[1, 9]]}])
def test_every_planted_fault_is_found_at_once(tmp_path, pairs):
    config = planted(tmp_path, PLANTED)
    evolve = {"classes": ["unicorn"], "pairs": pairs}
    config = config.model_copy(update={"evolve": EvolveSection.model_validate(evolve)})
    with pytest.raises(ConfigError) as error:
        run_until("check", config, tmp_path / "run", Console(quiet=True))
    text = str(error.value)
    for message in MESSAGES:
        assert re.search(message, text), message
    assert "'sound', epoch" not in text and "Traceback" not in text


def test_what_the_images_lack_is_said_before_networks_are_trained(tmp_path):
    values = {"images": IMAGES, "series": [{"name": "vgg"}], "evolve": {"classes": ["unicorn"]}}
    text = r"probe\.k = 20: there are 12 probe images(.|\n)*"
    with pytest.raises(ConfigError, match=r"(?s)evolve\.classes: no class unicorn.*" + text):
        run_until("check", parse_config(values), tmp_path / "run", Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_series_of_one_unit_is_refused_before_work(tmp_path):
    config = planted(tmp_path, ["single"])
    with pytest.raises(ConfigError) as error:
        run_until("check", config, tmp_path / "run", Console(quiet=True))
    assert re.search("of its 1 units, 1 are active .* a space needs two", str(error.value))
    bins = "series 'single': its largest layer has 1 units, .* revert.bins = 4 parts .*name larger"
    assert re.search(bins, str(error.value))


def test_a_sound_series_is_shown(tmp_path):
    config = planted(tmp_path, ["sound"])
    run = run_until("check", config, tmp_path / "run", Console(quiet=True))
    table = checkpoints(run).frame
    assert list(table["epoch"]) == [1, 2] and list(table["units"]) == [312, 312]
    assert list(table.columns) == [*NUMBERS, "notes"]
    removed = pd.DataFrame([{"series": "sound", "epoch": 3, "problem": "damaged", "notes": ""}])
    run.save(Artifact("check", ("sound", 3)), removed, "an earlier configuration")
    assert " | 312 | 12 | 24 |" in checkpoints(run).markdown()  # not 312.00
    text = f'''
        images = {{ source = "drawn", train = 12, probe = 12, test = 24 }}
        workers = 0
        probe = {{ k = 4 }}
        [[series]]
        name = "sound"
        source = "folder"
        architecture = "small_vgg"
        folder = "{tmp_path / "sound"}"
    '''
    (tmp_path / "c.toml").write_text(text)
    said = " ".join(say("check", tmp_path / "c.toml", "--out", tmp_path / "run").split())
    assert "Every checkpoint can be used." in said
    defaults = "resize = 64, mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25]"
    assert f"series 'sound': not set, and therefore {defaults}; set what" in said
    assert re.search(r"pieces of work, about .* min with .* of memory per worker", said)
    chance = "of 24 test images 2 are predicted correctly, not significantly more than by chance"
    assert chance in said and chance in " ".join(audit_sentences(run, {}))


def test_classes_in_another_order_are_reported_for_the_last_checkpoint():
    labels = np.repeat([0, 1, 2, 3], 3)
    swapped = np.array([2, 2, 2, 1, 1, 1, 0, 0, 0, 3, 0, 1])
    outputs = [0, 1, 2, 3]
    mistaken = find_mistaken(("a", "b", "c", "d"), outputs, labels, swapped)
    assert mistaken == {"a": "c", "c": "a"}
    collapsed = np.full(12, 1)  # says nothing about the order
    assert find_mistaken(("a", "b", "c", "d"), outputs, labels, collapsed) == {}
    assert find_mistaken(("a", "b"), [0, 9], np.array([0, 0, 0]), np.array([5, 5, 5])) == {
        "a": "output 5"
    }

    def notes(correct, names="{}", choices=10):
        sound = {"series": "s", "problem": "", "images": 30, "choices": choices, "mistaken": names}
        rows = [
            sound | {"epoch": 0, "accuracy": 0.0},
            sound | {"epoch": 9, "accuracy": correct / 30},
        ]
        return list(note_predictions(pd.DataFrame(rows)))

    (note,) = notes(15, '{"a": "c", "c": "a"}')
    assert re.match(
        r"series 's', epoch 9: of some .*\(a as c, c as a\).*: set class_outputs",
        note,
    )
    (note,) = notes(5)  # P(5 or more of 30) = .175
    assert re.match(r"series 's', epoch 9: of 30 test images 5 .*by chance \(1 in 10\)", note)
    assert notes(7) == [] and notes(30, choices=1) == []
    assert notes(0, choices=0) == []  # the scores distinguish no classes


def test_the_first_epoch_of_lightning_is_not_the_untrained_network(tmp_path):
    for epoch in (0, 1):
        (tmp_path / f"epoch={epoch}-step=9.ckpt").touch()
    series = {"name": "x", "source": "folder", "architecture": "small_vgg", "resize": 64,
              "crop": 64, "mean": [0.5], "std": [0.5], "folder": str(tmp_path),
              "pattern": "epoch={epoch}-step=*.ckpt"}  # fmt: skip
    config = parse_config({"images": IMAGES, "series": [series]})
    (first,), (second,) = remarks(config, pd.DataFrame()), note_unstudied(config)
    assert "no evolution is studied; a pair that begins with epoch 0" in second
    assert "saves as epoch=0 what was trained for one epoch" in first
    skipped = parse_config({"images": IMAGES, "series": [{**series, "skip": [0]}]})
    assert not any("Lightning" in note for note in remarks(skipped, pd.DataFrame()))


def test_a_parameter_that_no_method_uses_is_reported():
    values = {
        "images": IMAGES, "series": [{"name": "vgg"}],
        "space": {"methods": ["jaccard", "random"], "dimension": 7, "epochs": 100, "dense": 1.0},
        "evolve": {"methods": ["sign_t"], "path_steps": 9}, "bench": {"methods": ["change"]},
    }  # fmt: skip
    assert remarks(parse_config(values), pd.DataFrame()) == [
        "evolve.path_steps = 9 changes nothing: no method uses it",
        "space.dense = 1.0 changes nothing: no method uses it",
    ]
    for section, method in (("evolve", "mean_path"), ("bench", "conductance")):
        used = {**values, section: {**values[section], "methods": [method]}}
        assert len(remarks(parse_config(used), pd.DataFrame())) == 1
    own = {**values, "space": {**values["space"], "methods": ["math:sqrt"]}}  # may use anything
    assert len(remarks(parse_config(own), pd.DataFrame())) == 1


def test_faults_of_the_file_its_names_its_images_and_checkpoints_come_at_once(tmp_path):
    for place, count in (("probe", 6), ("test", 3)):
        for name in "ab":
            (tmp_path / place / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (16, 16), (number, 0, 0))
                image.save(tmp_path / place / name / f"{number}.png")
    (tmp_path / "test" / "a" / "1.png").write_bytes(b"")
    (tmp_path / "weights").mkdir()
    torch.save(state(2), tmp_path / "weights" / "model-1.pth")
    (tmp_path / "weights" / "model-2.pth").write_bytes(b"")
    text = f"""
    workers = 0
    images = {{source = "folder", probe = "{tmp_path}/probe", test = "{tmp_path}/test"}}
    evolve = {{classes = ["c"], pairs = {{mine = [[1, 3]]}}}}
    probe = {{k = 4, batchsize = 3}}
    [[series]]
    name = "mine"
    source = "folder"
    architecture = "small_vgg"
    folder = "{tmp_path}/weights"
    [[series]]
    name = "new"
    """
    (tmp_path / "mine.toml").write_text(text)
    shown = say("check", tmp_path / "mine.toml", error=ConfigError)
    for part in (
        "mine.toml: probe.batchsize: unknown key",
        "evolve.classes: no class c; there are a, b",
        "evolve.pairs: series 'mine' has no checkpoint of epoch 3",
        "series 'new' is to be trained: images.train is missing",
        "images.test: 1 of 6 images cannot be read",
        "series 'mine', epoch 2: checkpoint",
    ):
        assert part in shown, part
    assert "epoch 1" not in shown
    text = text.replace(", batchsize = 3", "").replace('classes = ["c"]', 'classes = ["a"]')
    text = text.replace("3]]", "2]]").rpartition("[[series]]")[0]
    config = parse_config(tomllib.loads(text))
    with pytest.raises(ConfigError) as error:  # images and checkpoints alone
        run_until("check", config, tmp_path / "run", Console(quiet=True))
    assert "images.test: 1 of 6" in str(error.value) and "epoch 2: checkpoint" in str(error.value)


def test_more_images_a_batch_than_there_are_to_train_on_are_refused_before_work(tmp_path):
    config = parse_config({"images": IMAGES, "series": [{"name": "new"}]})
    with pytest.raises(
        ConfigError, match=r"training\.batch_size = 64 is more than the 12 training"
    ):
        run_until("check", config, tmp_path / "run", Console(quiet=True))


def test_a_series_that_could_not_be_used_is_not_trained(tmp_path):
    section = {"name": "new", "layers": ["no.such*"], "training": {"epochs": 1, "save": [1]}}
    images = {"source": "drawn", "train": 96, "probe": 48, "test": 48}
    config = parse_config({"images": images, "series": [section], "workers": 0})
    with pytest.raises(ValueError, match=r"no\.such"):
        run_until("train", config, tmp_path / "run", Console(quiet=True))
    assert not list((tmp_path / "run").rglob("*.pt"))


@pytest.mark.parametrize("classes", [None, ["a"], ["b"]])
def test_a_class_without_readable_images_changes_no_other_class(tmp_path, classes):
    for place in ("probe", "test"):
        for name in "abc":
            (tmp_path / place / name).mkdir(parents=True)
            for number in range(2):
                image = Image.new("RGB", (16, 16), (number, 0, 0))
                image.save(tmp_path / place / name / f"{number}.png")
    for number in range(2):
        (tmp_path / "test" / "a" / f"{number}.png").write_bytes(b"")
    torch.save(state(3), tmp_path / "model-1.pth")
    (tmp_path / "model-2.pth").write_bytes(b"")
    series = {"name": "mine", "source": "folder", "architecture": "small_vgg"}
    images = {split: str(tmp_path / split) for split in ("probe", "test")}
    values = {
        "workers": 0,
        "images": {"source": "folder", **images},
        "evolve": {} if classes is None else {"classes": classes},
        "probe": {"k": 4},
        "series": [series | {"folder": str(tmp_path)}],
    }
    with pytest.raises(ConfigError) as error:
        run_until("check", parse_config(values), tmp_path / "run", Console(quiet=True))
    text = str(error.value)
    assert "images.test: 2 of 6 images cannot be read" in text
    assert "epoch 2: checkpoint" in text and "epoch 1" not in text
    assert ("images of a class; a have fewer" in text) == (classes != ["b"])


def from_a_file(epoch):
    Path(os.environ["NEEDED"]).read_bytes()
    return build("small_vgg", 12, epoch)


def test_a_problem_is_looked_for_again_when_its_cause_is_gone(tmp_path, monkeypatch):
    """The file that a function reads is no input of the run, nor is a package that is missing."""
    monkeypatch.setenv("NEEDED", str(tmp_path / "needed"))
    series = {"name": "mine", "source": "function", "function": "test_check:from_a_file"}
    config = parse_config(
        {"images": IMAGES, "probe": {"k": 4}, "series": [series | {"at": [1, 2]}], "workers": 0}
    )
    with pytest.raises(ConfigError, match=r"from_a_file\(1\) failed: FileNotFoundError"):
        run_until("check", config, tmp_path / "run", Console(quiet=True))
    assert set(Run(tmp_path / "run").tables("audit_findings")["kind"]) == {"unreadable"}
    (tmp_path / "needed").touch()
    original, stops = Run.remove, []

    def remove(self, artifact):
        if artifact not in stops:
            stops.append(artifact)
            raise InterruptedError
        original(self, artifact)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "remove", remove)
        for _ in range(8):  # before each removal of what depends on the failure
            with pytest.raises(InterruptedError):
                run_until("audit", config, tmp_path / "run", Console(quiet=True))
    assert {artifact.kind for artifact in stops} >= {"audit_weights", "audit_findings"}
    run = run_until("check", config, tmp_path / "run", Console(quiet=True))
    assert (run.tables("check")["problem"] == "").all()
    assert "unreadable" not in set(run.tables("audit_findings")["kind"])
