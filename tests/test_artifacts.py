import errno
import os
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import artifacts, files
from harness.artifacts import Artifact, Run, fingerprint
from harness.files import ArtifactError, file_hash, lock, whole_file, write_text
from harness.versions import _commit, versions

TABLE = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
STIMULI = Artifact("stimuli", ("vgg", 3))


def test_a_table_and_arrays_come_back(tmp_path):
    run = Run(tmp_path)
    run.save(STIMULI, TABLE, "f")
    pd.testing.assert_frame_equal(run.table(STIMULI), TABLE)
    run.save(Artifact("images", ("probe",)), {"pixels": np.arange(4)}, "f")
    assert run.arrays(Artifact("images", ("probe",)))["pixels"].tolist() == [0, 1, 2, 3]


def test_only_a_whole_file_of_the_same_inputs_counts(tmp_path):
    run = Run(tmp_path)
    assert not run.has(STIMULI, "f")
    run.save(STIMULI, TABLE, "f")
    assert run.has(STIMULI, "f")
    assert not run.has(STIMULI, "other")
    run.path(STIMULI).unlink()
    assert not run.has(STIMULI, "f")


def test_a_cut_sidecar_counts_as_absent(tmp_path):
    run = Run(tmp_path)
    run.save(STIMULI, TABLE, "f")
    sidecar = run.path(STIMULI).with_name(run.path(STIMULI).name + ".json")
    sidecar.write_text('{"finger')
    assert not run.has(STIMULI, "f")


def test_tables_of_a_kind_are_put_together(tmp_path):
    run = Run(tmp_path)
    run.write_manifest({})
    for epoch in (3, 12):
        run.save(Artifact("stimuli", ("vgg", epoch)), TABLE.assign(series="vgg", epoch=epoch), "f")
        run.save(Artifact("training_log", ("vgg",)), TABLE.assign(series="vgg", epoch=epoch), "f")
    assert run.tables("stimuli")["epoch"].tolist() == [3, 3, 12, 12]
    run.write_manifest({"checkpoints": {"vgg": [3, 4]}})  # of another configuration
    assert run.tables("stimuli")["epoch"].tolist() == [3, 3]
    assert run.tables("training_log")["epoch"].tolist() == [12, 12]
    run.write_manifest({"checkpoints": {"resnet": [3]}})
    assert run.tables("stimuli").empty and run.tables("training_log").empty
    assert run.holds("stimuli") and not run.holds("concepts")
    with pytest.raises(ArtifactError, match="holds no concepts tables"):
        run.tables("concepts")


@pytest.mark.parametrize("name", ["a-b-c", "0000-0003", "sets"])
def test_a_file_belongs_to_one_kind(name, tmp_path):
    for kind, place in artifacts.LAYOUT.items():
        fields = re.findall(r"\{\d+(:?)", place)  # those with a format are numbers
        Run(tmp_path).save(Artifact(kind, tuple(1 if f else name for f in fields)), TABLE, "f")
    for kind in artifacts.LAYOUT:
        (artifact,) = Run(tmp_path).stored(kind)
        assert Run(tmp_path).has(artifact, "f")
    assert len(Run(tmp_path).files()) == len(artifacts.LAYOUT)


def test_what_a_killed_command_left_half_written_is_no_artifact_and_goes(tmp_path):
    run, part = Run(tmp_path), Artifact("responses_part", ("vgg", 3, 0, 12))
    if not (child := os.fork()):
        with whole_file(run.path(part)) as temporary:
            temporary.write_text("half")
            os._exit(9)
    os.waitpid(child, 0)
    (left,) = run.path(part).parent.iterdir()
    assert list(run.files()) == [] and not run.holds("responses_part")
    with lock(tmp_path):
        assert not left.exists()


def test_a_file_replaced_by_one_of_the_same_size_and_time_has_another_hash(tmp_path):
    path, hashes = tmp_path / "file", set()
    for content in ("one", "two"):
        path.write_text(content)
        os.utime(path, (0, 0))
        hashes.add(file_hash(path))
        time.sleep(0.02)  # the clock of the file system is coarse
    assert len(hashes) == 2


def test_artifacts_of_one_checkpoint_are_found_without_a_listing_of_all(tmp_path, monkeypatch):
    run, part = Run(tmp_path), Artifact("probe_part", ("vgg", 3, 0, 8))
    for artifact in (STIMULI, part):
        run.save(artifact, TABLE, "f")
    listed, original = [], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(path) or original(path))
    assert run.stored("stimuli", "vgg", 3) == [STIMULI] and run.stored("stimuli", "vgg", 4) == []
    assert run.stored("probe_part", "vgg", 3) == [part] and run.stored("probe_part", "net", 3) == []
    assert listed == [run.path(part).parent]


def test_what_is_missing_or_damaged_is_named(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(ArtifactError, match=r"holds no stimuli vgg 3 .*conceptevo run"):
        run.table(STIMULI)
    run.save(STIMULI, TABLE, "f")
    content = run.path(STIMULI).read_bytes()
    run.path(STIMULI).write_bytes(content[: len(content) // 2])
    for read in (lambda: run.table(STIMULI), lambda: run.tables(STIMULI.kind)):
        with pytest.raises(ArtifactError, match="is damaged .* delete it and run again"):
            read()
    with pytest.raises(ArtifactError, match="is not a run"):
        run.manifest()
    for damaged in ('{"a"', "", "[]"):
        (tmp_path / "manifest.json").write_text(damaged)
        with pytest.raises(ArtifactError, match=r"manifest\.json is damaged; `conceptevo run`"):
            run.manifest()
    with pytest.raises(ArtifactError, match=r"cannot write .*/x: File exists"):
        write_text(tmp_path / "manifest.json" / "x", "new")


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ArtifactError, match="cannot write .*No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_really_full_device_is_reported(tmp_path):
    with (
        pytest.raises(ArtifactError, match="No space left on device"),
        whole_file(tmp_path / "x") as temporary,
        open("/dev/full", "w") as device,
    ):
        temporary.write_text("half")
        device.write("x" * 100_000)
    assert not list(tmp_path.iterdir())


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), whole_file(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@given(st.dictionaries(st.text(max_size=5), st.integers()))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(values):
    backwards = dict(reversed(list(values.items())))
    assert fingerprint(values) == fingerprint(backwards)
    assert fingerprint(values) != fingerprint(values, 1)


def test_of_a_checkout_the_commit_is_recorded_and_whether_files_differ_from_it(tmp_path):
    assert _commit.__wrapped__(tmp_path) == ""  # no checkout
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "code.py").write_text("a = 1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    assert re.fullmatch("[0-9a-f]{40}", commit := _commit.__wrapped__(tmp_path))
    (tmp_path / "code.py").write_text("a = 2\n")
    assert _commit.__wrapped__(tmp_path) == f"{commit}-dirty"
    software = versions(["numpy"])
    assert software["numpy"] == np.__version__
    assert software.get("commit", "") == _commit(Path(__file__).parent.parent)
