"""`conceptevo status` and `verify`: which results exist, and whether they are unchanged."""

import io
import json
import os
import re
import shutil
import sys
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import say
from PIL import Image
from rich.console import Console
from small_runs import small
from typer.testing import CliRunner

from analysis.run.tables import training_log, true_concepts
from conceptevo import cli
from harness.artifacts import Artifact, Run, describe_outdated, verify
from harness.config import parse_config
from harness.files import ArtifactError, lock, lock_time, write_text
from harness.results import (
    BENCH,
    REVERSION,
    discard_mixed,
    has_results,
    read_results,
    write_about,
)
from harness.stages import images as images_stage
from harness.stages.checkpoints import declare_checkpoints
from harness.stages.engine import Engine
from harness.stages.images import image_works
from harness.stages.naming import naming_steps
from harness.stages.probe import FindLayers, range_works
from harness.stages.run import STAGES, run_until, status, write_manifest
from harness.stages.stage import Plan

CONFIG = parse_config(small(probe={"k": 4, "activations": False, "range_images": 16}))
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_until("revert", CONFIG, tmp_path_factory.mktemp("s") / "run", QUIET)


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "run")
    return Run(tmp_path / "run")


def counts(run):
    return {s.step: (s.done, s.running, s.stale, s.missing) for s in status(run).steps.itertuples()}


def test_of_a_finished_run_everything_is_there(finished):
    found = status(finished)
    assert found.is_done and found.since is None
    assert found.sentence(datetime.now()) == "All work is done."
    assert counts(finished)["ablation"] == (4, 0, 0, 0)  # controls and a method, two splits
    assert counts(finished)["stimuli"] == (2, 0, 0, 0)


def test_results_of_two_configurations_are_named(run, monkeypatch):
    assert describe_outdated(run) == ""
    other = CONFIG.model_copy(update={"probe": CONFIG.probe.model_copy(update={"k": 3})})

    def stop(plan):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(STAGES, "probe", stop)
        run_until("revert", other, run.root, QUIET)
    assert run.manifest()["outdated"] == list(STAGES)
    run_until("probe", other, run.root, QUIET)
    assert run.manifest()["outdated"] == ["space", "evolve"]  # with the map
    assert "results of space, evolve may be of an earlier configuration" in say("explore", run.root)
    run_until("space", other, run.root, QUIET)
    assert describe_outdated(run) == ""


def test_a_later_checkpoint_and_another_place_leave_results_valid(run, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    for epoch in (1, 2):
        shutil.copy(run.root / f"training/vgg/epoch-000{epoch}.pt", weights / f"{epoch}.pt")

    def fingerprints(folder, is_planned=False, **changes):
        series = {"name": "vgg", "source": "folder", "architecture": "small_vgg",
                  "folder": str(folder), "pattern": "{epoch}.pt", **changes}  # fmt: skip
        config = parse_config(small(series=[series]))
        plan = Plan(config, run)
        declare_checkpoints(plan)
        steps = [("images", image_works(config)), ("layers", [FindLayers(config.series[0])])]
        with Engine(plan, 0, QUIET) as engine:
            for title, works in steps:
                plan.add(works) if is_planned else engine.step(title, works)
        _, joins = range_works(plan, config.series[0], [range(48)])
        return [plan.fingerprint(join.makes[0]) for join in joins]

    before = fingerprints(weights)
    state = torch.load(weights / "2.pt", weights_only=True)
    torch.save({name: value * 1.1 for name, value in state.items()}, weights / "3.pt")
    assert fingerprints(weights, is_planned=True)[:2] == before
    assert fingerprints(weights)[:2] == before
    moved = shutil.move(weights, tmp_path / "moved")
    assert fingerprints(moved)[:2] == before
    shutil.copy(moved / "3.pt", moved / "1.pt")
    assert [a == b for a, b in zip(fingerprints(moved), before, strict=False)] == [False, True]
    fewer = fingerprints(moved, layers=["features.2"])
    assert not set(fewer) & set(before)


def test_a_checkpoint_that_changes_while_a_command_works_is_noticed(run, tmp_path, monkeypatch,
                                                                   caplog):  # fmt: skip
    weights = tmp_path / "weights"
    shutil.copytree(run.root / "training" / "vgg", weights)
    series = {"name": "vgg", "source": "folder", "architecture": "small_vgg",
              "folder": str(weights), "pattern": "epoch-{epoch}.pt"}  # fmt: skip
    other, audit = parse_config(small(series=[series])), STAGES["audit"]

    def steps(plan):
        yield from audit(plan)
        shutil.copy(weights / "epoch-0002.pt", weights / "epoch-0001.pt")

    monkeypatch.setitem(STAGES, "audit", steps)
    run_until("audit", other, run.root, QUIET)
    assert "have changed since the command began" in caplog.text
    assert "audit" in run.manifest()["outdated"]
    monkeypatch.undo()
    caplog.clear()
    run_until("audit", other, run.root, QUIET)
    assert "have changed" not in caplog.text and "audit" not in run.manifest()["outdated"]


def test_a_study_some_results_of_which_were_made_again_is_refused(tmp_path):
    run, table = Run(tmp_path), pd.DataFrame({"score": [1.0]})
    scores = [Artifact("importance", ("vgg", 1, 2, "sign_t", name)) for name in ("a", "b")]
    for artifact in scores:
        run.save(artifact, table, "before")
    network = Artifact("audit_layers", ("vgg", 2))
    run.save(network, table, "before")
    about = {"methods": {}, "pairs": [{"series": "vgg", "epoch_from": 1, "epoch_to": 2}]}
    for study in (REVERSION, BENCH):
        write_about(run, study, about, {"sizes": scores[:1], "importance": scores[1:]})
    assert len(read_results(tmp_path, BENCH).sizes()) == 1 and discard_mixed(run) == []
    run.save(scores[0], table, "now")
    with pytest.raises(ArtifactError, match="missing, or they .* again .*: run `conceptevo ben"):
        read_results(tmp_path, BENCH)
    write_about(run, REVERSION, about, {"sizes": scores[:1]})
    (message,) = discard_mixed(run)
    assert "bench: some of its results" in message
    assert has_results(run, REVERSION) and not has_results(run, BENCH)
    run.save(network, table, "now")  # all results of the study are of an earlier network
    (message,) = discard_mixed(run)
    assert "they or its networks were made again" in message and not has_results(run, REVERSION)


def test_a_study_of_another_version_is_left_to_that_version(tmp_path):
    about = tmp_path / REVERSION / "about.json"
    write_text(about, '{"version": 1}')
    assert discard_mixed(Run(tmp_path)) == [] and about.exists()


def test_what_another_configuration_does_not_make_is_not_taken_for_its_results(run, tmp_path):
    """Own images have no masks and here no training images; checkpoint files have no log."""
    for name in CONFIG.evolve.classes:
        (tmp_path / "png" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "png" / name / "1.png")
    shutil.copytree(run.root / "training" / "vgg", tmp_path / "weights")
    series = {"name": "vgg", "source": "folder", "architecture": "small_vgg",
              "folder": str(tmp_path / "weights"), "pattern": "epoch-{epoch}.pt"}  # fmt: skip
    folder = str(tmp_path / "png")
    images = {"source": "folder", "probe": folder, "test": folder}
    other = parse_config({**small(), "images": images, "series": [series]})
    before = run.files()
    for dry_run in (True, False):
        assert run.files() == before
        assert set(training_log(run)["series"]) == {"vgg"} and true_concepts(run) is not None
        plan = Plan(other, run, dry_run=dry_run)
        next(images_stage.steps(plan))
        assert list(naming_steps(plan)) == []
    gone = {path.relative_to(run.root).as_posix() for path in set(before) - set(run.files())}
    concepts = {f"probe/vgg/concepts-000{epoch}.parquet" for epoch in (1, 2)}
    train = {"images/train.npz", "images/train.parquet"}
    assert gone == concepts | train | {f"images/{split}.npz" for split in ("probe", "test")}
    write_manifest(other, run)
    assert training_log(run) is None and true_concepts(run) is None


def test_what_is_missing_stale_or_running_is_counted(run):
    stimuli = Artifact("stimuli", ("vgg", 2))
    run.remove(stimuli)
    assert counts(run)["stimuli"] == (1, 0, 0, 1)
    assert counts(run)["probing"] == (0, 0, 0, 3)  # its ranges are to be done again
    manifest = run.manifest()
    manifest["configuration"]["revert"]["bins"] = 5
    run.write_manifest(manifest)
    assert counts(run)["sets of neurons"] == (0, 0, 2, 0)
    part = Artifact("probe_part", ("vgg", 2, 16, 32))
    with lock(run.root), run.working(part):
        assert counts(run)["probing"] == (0, 1, 0, 2)
        assert status(run).since is not None
    assert counts(run)["probing"] == (0, 0, 0, 3)
    marker = run.root / "probe/vgg/parts-0002/.00000016-00000032.npz.working"
    marker.touch()  # left behind by a killed command, also where the clock was set back
    os.utime(marker, (2**32, 2**32))
    with lock(run.root):
        assert counts(run)["probing"] == (0, 0, 0, 3)


def test_when_it_will_be_done_follows_from_what_is_done(run):
    record = sorted((run.root / "ablation").rglob("*heldout*.parquet"))[0]
    sidecar = record.with_name(record.name + ".json")
    for path in (run.root / "ablation").rglob("reversion-*.parquet.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 60.0}))
    sidecar.unlink()
    found = status(run)
    (ablation,) = [step for step in found.steps.itertuples() if step.step == "ablation"]
    assert (ablation.done, ablation.missing, ablation.seconds_left) == (3, 1, 60.0)
    assert found.seconds_left == pytest.approx(60.0 / found.workers)
    assert "No command is working here" in found.sentence(datetime.now())


def test_of_a_run_that_has_just_begun_what_cannot_be_known_is_said(tmp_path):
    run = run_until("images", CONFIG, tmp_path / "run", QUIET)
    found = status(run)
    assert "probe" in found.unknown
    assert counts(run)["training"] == (0, 0, 0, 1)
    with pytest.raises(ArtifactError, match="is not a run"):
        status(Run(tmp_path / "nowhere"))


def test_a_folder_nobody_works_in_says_so(tmp_path):
    assert lock_time(tmp_path) is None
    with lock(tmp_path):
        assert lock_time(tmp_path) is not None
    assert lock_time(tmp_path) is None


def test_who_may_only_read_a_folder_sees_whether_a_command_works_in_it(tmp_path, monkeypatch):
    def read_only(*_):
        raise PermissionError

    with lock(tmp_path):
        monkeypatch.setattr("filelock.FileLock._acquire", read_only)
        assert lock_time(tmp_path) is not None
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setitem(sys.modules, "fcntl", None)
        assert lock_time(tmp_path) is None
        monkeypatch.undo()
    assert lock_time(tmp_path) is None


def test_verify_refuses_a_folder_that_it_may_not_read(run, monkeypatch):
    listed = Path.iterdir

    def refusing(folder):
        if folder.name == "space":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refusing)
    with pytest.raises(PermissionError, match="space"):
        list(verify(run))


def test_verify_finds_a_flipped_byte_in_any_artifact(run):
    assert [path for path, state, _ in verify(run) if state == "damaged"] == []
    paths = [path for path, state, _ in verify(run) if state == "unchanged"]
    assert len(paths) > 20
    for path in paths:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
    damaged = [path for path, state, _ in verify(run) if state == "damaged"]
    assert damaged == paths


def test_verify_tells_missing_unfinished_and_unreadable_apart(run):
    stimuli, responsive, space = (
        run.path(artifact)
        for artifact in (
            Artifact("stimuli", ("vgg", 1)),
            Artifact("responsive", ("vgg", 1)),
            Artifact("space", ("jaccard",)),
        )
    )
    stimuli.unlink()
    responsive.with_name(responsive.name + ".json").unlink()
    space.with_name(space.name + ".json").write_text("{")
    run.seal(Artifact("training_state", ("vgg",)), "f")  # as training begins
    state = run.path(Artifact("training_state", ("vgg",)))
    found = {path: f"{state}: {fault}" for path, state, fault in verify(run)}
    assert "damaged: is missing" in found[stimuli]
    assert "open: was not finished" in found[responsive]
    assert "open: is yet to be written" in found[state]
    assert re.search("damaged: .*cannot be read", found[space])


def test_the_command_line_answers_on_any_terminal(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    shown = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "argv", ["conceptevo", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    assert shown.errors == "replace"  # → ends no command
    monkeypatch.setattr(sys, "argv", ["conceptevo", "check", "x.toml"])
    monkeypatch.setattr(cli, "_read_config", interrupted)
    with pytest.raises(SystemExit, match="130"):
        cli.main()
    assert "interrupted; run the same command again" in capsys.readouterr().err
    for words, name in ((["exlpore"], "explore"), (["study", "biuld"], "build")):
        result = CliRunner().invoke(cli.app, words)
        assert result.exit_code == 2 and f"Did you mean '{name}'" in result.output


def test_the_commands_say_it(run):
    assert "All work is done." in say("status", run.root)
    assert "0 damaged or missing" in say("verify", run.root)
    run.path(Artifact("map")).write_bytes(b"")
    with pytest.raises(AssertionError, match="space/map.parquet differs"):
        say("verify", run.root)


def test_what_is_damaged_is_deleted_and_made_again(finished, run):
    damaged = [
        run.path(Artifact("weights", ("vgg", 1))),
        run.path(Artifact("stimuli", ("vgg", 1))),
        run.path(Artifact("space", ("jaccard",))),
        *(run.root / "ablation").rglob("reversion-heldout-*.parquet"),
    ]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert [path for path, _, fault in verify(run) if fault] == sorted(damaged)
    for path in damaged:
        path.unlink()
    run_until("revert", CONFIG, run.root, QUIET)
    assert [fault for *_, fault in verify(run) if fault] == []
    for path in finished.files():
        assert (run.root / path.relative_to(finished.root)).read_bytes() == path.read_bytes()
    assert status(run).is_done


def test_what_has_not_been_timed_is_said(run):
    shutil.rmtree(run.root / "ablation")
    assert (
        status(run)
        .sentence(datetime.now())
        .endswith(
            "The time left cannot be estimated yet, as these steps have not been timed: sets of "
            "neurons, ablation."
        )
    )
