"""The device, its precision and ranges of images, through the stages of a run."""

import logging
import shutil
from functools import partial

import pytest
from command_line import say
from rich.console import Console
from small_runs import small, write_toml

from harness.artifacts import Artifact, Run
from harness.config import load_config, parse_config
from harness.files import write_tables
from harness.networks import devices
from harness.networks.budget import GIVEN_SHARE, WORKER_BYTES, Resources, resources, use_resources
from harness.networks.devices import Device
from harness.stages.checkpoints import declare_checkpoints
from harness.stages.engine import Engine
from harness.stages.probe import activation_parts
from harness.stages.run import STAGES, run_until, worker_count, write_manifest
from harness.stages.stage import Plan

QUIET = Console(quiet=True)


def config_of(**changes):
    return parse_config(small(seed=3, space={"methods": ["correlation"]}, **changes))


def artifacts_of(folder, *kinds):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for kind in kinds
        for path in sorted((folder / kind).rglob("*"))
        if path.is_file() and "activations" not in str(path) and path.suffix != ".json"
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run, and how often each stage moved a model and a batch to the device."""
    models, batches, moved = [], [], {}
    plan = Plan(config_of(), Run(tmp_path_factory.mktemp("resources") / "run"))
    with pytest.MonkeyPatch.context() as patch, Engine(plan, 0, QUIET) as working:
        patch.setattr(Device, "model", lambda self, model: models.append(model) or model)
        patch.setattr(Device, "batch", lambda self, batch: batches.append(len(batch)) or batch)
        write_manifest(plan.config, plan.run)
        for name, stage in STAGES.items():
            models.clear()
            batches.clear()
            working.run(stage(plan))
            moved[name] = (len(models), len(batches))
    plan.run.moved = moved
    return plan.run


def test_every_stage_that_runs_a_network_computes_on_the_device(run):
    for name in ("train", "check", "probe", "evolve"):
        assert min(run.moved[name]) > 0, name
    assert run.moved["revert"][1] > 0  # its models are those that `evolve` has just moved


def test_the_device_is_no_part_of_a_fingerprint_and_the_precision_is(tmp_path):
    prints = []
    for changes in ({}, {"device": "auto"}, {"precision": "bfloat16"}):
        plan = Plan(config_of(**changes), Run(tmp_path))
        plan.declare(Artifact("weights", ("vgg", 1)), lambda: "weights")
        declare_checkpoints(plan)
        prints.append(plan.fingerprint(Artifact("checkpoint", ("vgg", 1))))
    assert prints[0] == prints[1] != prints[2]


def test_the_command_line_has_the_last_word(tmp_path):
    path = write_toml(tmp_path / "one.toml", small())
    assert load_config(path, device="cuda:1", precision=None).device == "cuda:1"
    assert load_config(path, device=None).device == "cpu"
    told = say("run", path, "--out", tmp_path / "r", "--device", "cuda:7", error=ValueError)
    assert "device 'cuda:7' is not available: torch" in told
    told = say("probe", path, "--device", "gpu", error=ValueError)
    assert "device: must be auto, cpu, cuda, cuda:N or mps (got 'gpu')" in told
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_lower_precision_changes_numbers_and_check_says_how_far(run, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        other = run_until("revert", config_of(precision="bfloat16"), tmp_path / "run", QUIET)
    assert "precision bfloat16: of 32 images" in caplog.text
    assert "of the units the same strongest image" in caplog.text
    for folder in ("probe", "importance", "ablation"):
        mine, theirs = (artifacts_of(one.root, folder) for one in (run, other))
        assert set(mine) == set(theirs) and mine != theirs
    assert artifacts_of(run.root, "training") == artifacts_of(other.root, "training")
    assert other.manifest()["configuration"]["precision"] == "bfloat16"


@pytest.mark.gpu
@pytest.mark.skipif(devices.devices() == ["cpu"], reason="torch sees no GPU on this machine")
def test_a_whole_run_on_a_gpu_gives_the_same_stimuli(run, tmp_path):
    # the same weights: training on another device rounds otherwise
    shutil.copytree(run.root / "training", tmp_path / "run" / "training")
    shutil.copytree(run.root / "images", tmp_path / "run" / "images")
    other = run_until("revert", config_of(device="auto"), tmp_path / "run", QUIET)
    mine, theirs = (one.tables("stimuli") for one in (run, other))
    same = (mine["image_id"].to_numpy() == theirs["image_id"].to_numpy()).mean()
    assert len(mine) == len(theirs) and same > 0.99


def test_workers_take_turns_at_the_gpus(monkeypatch):
    there = ["cuda:0", "cuda:1", "cpu"]
    for module in ("harness.networks.devices", "harness.stages.engine", "harness.stages.run"):
        monkeypatch.setattr(f"{module}.devices", lambda: there)
    monkeypatch.setattr("harness.networks.budget.free_bytes", lambda device: 8 * 2**30)
    config = config_of(device="auto", workers=None)
    plan = Plan(config, Run("unused"))
    assert worker_count(config, plan.device) == 2
    assert worker_count(config.model_copy(update={"device": "cuda:1"}), Device("cuda:1")) == 1
    assert worker_count(config.model_copy(update={"workers": 3}), plan.device) == 3
    plan.workers = 3
    granted = Engine(plan, 3, QUIET, None)._resources_of_workers()
    assert [one.device.name for one in granted] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [one.memory for one in granted] == [int(0.7 * 4 * 2**30)] * 3


def test_resources_end_with_their_block():
    before = resources()
    with use_resources(Resources(Device("cpu", "bfloat16"), 7)):
        assert resources().memory == 7
    assert resources() == before


def test_however_the_images_are_divided_the_bytes_are_the_same(run, tmp_path):
    other = run_until("space", config_of(probe={"range_images": 7}), tmp_path / "run", QUIET)
    mine, theirs = (artifacts_of(one.root, "probe", "space") for one in (run, other))
    theirs.pop("space/map.parquet")
    mine.pop("space/map.parquet", None)
    assert mine == theirs
    parts = activation_parts(other, config_of(probe={"range_images": 7}), "vgg", 1)
    assert len(parts) == 7 and all(other.path(part).exists() for part in parts)
    assert not list((other.root / "probe").rglob("parts-*/*"))  # joined, and gone


def test_ranges_that_are_there_are_not_recorded_again(tmp_path, monkeypatch):
    config = config_of(probe={"range_images": 16})
    out = tmp_path / "run"
    run_until("check", config, out, QUIET)
    recorded, full = [], "harness.stages.probe.probe_range"
    from harness.stages import probe as stage

    original = stage.probe_range

    def interrupted(*args, most=4):
        if len(args) > 4:  # else what a few images take is measured
            if len(recorded) == most:
                raise KeyboardInterrupt
            recorded.append(args[4])
        return original(*args)

    monkeypatch.setattr(full, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_until("probe", config, out, QUIET)
    monkeypatch.setattr(full, partial(interrupted, most=9))
    run_until("probe", config, out, QUIET)
    assert len(recorded) == 6  # two checkpoints of three ranges, each once


@pytest.mark.parametrize(
    ("made", "stage", "message"),
    [
        (
            "training/vgg/log.parquet",
            "train",
            "training of series 'vgg': a batch of 64 images needs",
        ),
        ("probe/vgg/check-*.parquet", "check", "checking series 'vgg': 32 images need"),
        ("probe/vgg/activations-0002/*", "probe", "probing series 'vgg': 4 images need"),
        ("probe/vgg/concepts-0002*", "probe", "naming neurons of series 'vgg': 4 images need"),
        ("importance/**/*.parquet", "evolve", "importance of series 'vgg' by .*: 4 images need"),
        ("ablation/**/*.parquet", "revert", "ablation of series 'vgg': 4 images need"),
    ],
)
def test_a_stage_says_in_one_sentence_that_its_least_piece_does_not_fit(
    run, tmp_path, made, stage, message
):
    shutil.copytree(run.root, tmp_path / "run")
    gone = list((tmp_path / "run").glob(made))
    assert gone
    for path in gone:
        path.unlink()
    memory = WORKER_BYTES + (2**24 if stage == "train" else 0)  # which checks the network first
    with pytest.raises(
        ValueError,
        match=message
        + r" (0\.\d\d GiB|\d{1,3}\.\d\d MiB) .* but only \d{1,2}\.\d\d MiB .*`memory`",
    ):
        run_until(stage, config_of(memory=memory / 2**30 / GIVEN_SHARE), tmp_path / "run", QUIET)


def test_a_table_in_pieces_has_the_bytes_of_one(tmp_path, monkeypatch, run):
    monkeypatch.setattr("harness.files.ROW_GROUP", 10)
    table = run.tables("responsive").head(37)
    whole, pieces = tmp_path / "whole.parquet", tmp_path / "pieces.parquet"
    write_tables(whole, [table])
    write_tables(pieces, [table[:3], table[3:3], table[3:25], table[25:]])
    assert whole.read_bytes() == pieces.read_bytes()
    again = Run(tmp_path)
    monkeypatch.setattr(Run, "path", lambda self, artifact: pieces)
    assert again.table(Artifact("responsive", ("vgg", 1))).equals(table)
