"""Runs in an object store, with moto's S3 server running on this machine."""

import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from types import BuiltinFunctionType, SimpleNamespace

import numpy as np
import pytest
from command_line import say
from rich.console import Console
from small_runs import small
from test_run import artifacts_of

from harness.artifacts import Artifact, verify
from harness.config import ConfigError, parse_config
from harness.files import ArtifactError
from harness.stages import engine
from harness.stages.run import run_until
from harness.store import StoredRun

boto3 = pytest.importorskip("boto3", reason="pip install -e '.[dev]'")
moto = pytest.importorskip("moto.server", reason="pip install -e '.[dev]'")

QUIET = Console(quiet=True)
VALUES = small(probe={"range_images": 24}, space={"methods": ["jaccard", "correlation"]})
URL = "s3://bucket/runs/mine"
PART = Artifact("images", ("part",))
BIG = {"values": np.zeros(2_000_000)}


@pytest.fixture(scope="module")
def server():
    """Moto's server, to which the environment sends pyarrow and boto3."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server
    server.stop()


@pytest.fixture
def bucket(server):
    bucket = boto3.resource("s3").Bucket("bucket")
    bucket.create()
    yield bucket
    bucket.objects.delete()
    bucket.delete()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A run in a folder alone."""
    return run_until("revert", parse_config(VALUES), tmp_path_factory.mktemp("run"), QUIET)


def stored(folder, cluster=None):
    return run_until("revert", parse_config({**VALUES, "store": URL}), folder, QUIET, cluster)


def compute_nothing(monkeypatch):
    def refuse(*_):
        raise AssertionError("what is in the store is computed again")

    monkeypatch.setattr(engine, "_do", refuse)


def test_a_second_machine_takes_the_whole_run_from_the_store(bucket, local, tmp_path, monkeypatch):
    first = stored(tmp_path / "first")
    assert artifacts_of(first.root) == artifacts_of(local.root)
    keys = {item.key.removeprefix("runs/mine/") for item in bucket.objects.all()}
    files = {str(path.relative_to(first.root)) for path in first.files()}
    beside = {".owner", "manifest.json", "reversion/about.json"}
    folders = {key for key in keys if key.endswith("/")}
    assert keys - folders == files | {f"{file}.json" for file in files} | beside
    compute_nothing(monkeypatch)
    second = stored(tmp_path / "second")
    assert artifacts_of(second.root) == artifacts_of(local.root)
    assert "All work is done." in say("status", second.root)
    assert "0 damaged" in say("verify", second.root)


@pytest.mark.slow
def test_machines_that_share_the_store_alone_make_the_same_run(
    bucket, local, tmp_path, monkeypatch
):
    """Each piece of work is done in an empty folder: all that it reads comes from the store."""

    def remote(task, *arguments):
        monkeypatch.setattr(tempfile, "tempdir", tempfile.mkdtemp(dir=tmp_path))
        return task(*arguments) or object()

    def of(task):
        return SimpleNamespace(remote=lambda *arguments: remote(task, *arguments))

    ray = SimpleNamespace(
        remote=lambda **_: of,
        wait=lambda running, **_: (running, []),
        get=id,
        cluster_resources=dict,
    )
    monkeypatch.setattr(engine, "_connect", lambda cluster: ray)
    assert artifacts_of(stored(tmp_path / "run", "auto").root) == artifacts_of(local.root)


@pytest.mark.slow
def test_a_cluster_that_shares_the_store_alone_loses_a_machine(bucket, local, tmp_path):
    """Ray's own processes of three machines, each with its own folder; one goes midway."""
    ray = pytest.importorskip("ray", reason="pip install -e '.[cluster]'; `make nightly` does")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    machines = [cluster.add_node(num_cpus=1, env_vars={"TMPDIR": str(f)}) for f in folders]

    def lose_one():
        while not list(bucket.objects.filter(Prefix="runs/mine/probe/vgg/parts-0001")):
            time.sleep(0.05)
        cluster.remove_node(machines[0], allow_graceful=False)

    losing = threading.Thread(target=lose_one)
    losing.start()
    try:
        run = stored(tmp_path / "run", cluster.address)
    finally:
        losing.join()
        ray.shutdown()
        cluster.shutdown()
    assert artifacts_of(run.root) == artifacts_of(local.root)
    assert all(list(folder.glob("conceptevo-*/*/images/*.npz")) for folder in folders[1:])
    assert isinstance(print, BuiltinFunctionType)  # numba cannot compile Ray's own


def test_a_run_that_had_no_store_is_uploaded(bucket, local, tmp_path, monkeypatch):
    compute_nothing(monkeypatch)
    shutil.copytree(local.root, tmp_path / "run")
    stored(tmp_path / "run")
    assert artifacts_of(stored(tmp_path / "other").root) == artifacts_of(local.root)


def kill_uploading(folder, then):
    """Kill another process, which saves an array, once it has sent some of it."""
    code = f"""
import os, numpy as np
from harness.artifacts import Artifact
from harness.store import StoredRun
def killed(self, name):
    {then}
    os.kill(os.getpid(), 9)
run = StoredRun({str(folder)!r}, {URL!r})
upload = StoredRun._upload
with run.locked():
    StoredRun._upload = killed
    run.save(Artifact("images", ("part",)), {{"values": np.ones(2_000_000)}}, "new")
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL


def test_half_an_upload_is_never_taken_for_a_result(bucket, tmp_path):
    first, second = StoredRun(tmp_path / "first", URL), StoredRun(tmp_path / "second", URL)
    with first.locked():
        first.save(PART, BIG, "old")
    content = first.path(PART).read_bytes()

    kill_uploading(
        tmp_path / "killed", "file = self._store.open_output_stream(name); file.write(bytes(2**23))"
    )
    with second.locked():  # the store still has the old one
        assert second.has(PART, "old") and second.path(PART).read_bytes() == content

    kill_uploading(tmp_path / "killed", "upload(self, name)")  # without the sidecar
    shutil.rmtree(second.root)
    with second.locked():
        assert second.sidecar(PART) is None and not second.path(PART).exists()

    bucket.Object("runs/mine/images/part.npz").put(Body=content[:1000])
    assert [path for path, _, fault in verify(first) if fault] == [first.root / "images/part.npz"]
    with second.locked():
        assert second.sidecar(PART) is None and not second.path(PART).exists()
        second.save(PART, BIG, "old")
    assert not any(fault for *_, fault in verify(second))


class StoppingStore:
    """A store of which a client is killed after some deletions."""

    def __init__(self, store, deletions):
        self.store, self.deletions = store, deletions

    def __getattr__(self, name):
        return getattr(self.store, name)

    def delete_file(self, path):
        self.store.delete_file(path)
        self.deletions -= 1
        if not self.deletions:
            raise KeyboardInterrupt


@pytest.mark.parametrize("deletions", [1, 2])
def test_a_removal_that_is_stopped_is_repeated(bucket, tmp_path, deletions):
    run = StoredRun(tmp_path, URL)
    with run.locked():
        run.save(PART, {"values": np.zeros(3)}, "f")
        store, run._store = run._store, StoppingStore(run._store, deletions)
        with pytest.raises(KeyboardInterrupt):
            run.remove(PART)
        run._store = store
    again = StoredRun(tmp_path, URL)
    with again.locked():
        assert again.has(PART, "f")  # so that a command finds what it has to remove
        again.remove(PART)
    assert not [item.key for item in bucket.objects.all() if "part" in item.key]
    assert again.files() == []


def test_of_two_commands_the_earlier_stops(bucket, tmp_path):
    first, second = StoredRun(tmp_path / "first", URL), StoredRun(tmp_path / "second", URL)
    with pytest.raises(ArtifactError, match="another command has begun"), first.locked():
        first.write_manifest({})
        first.save(PART, {"values": np.zeros(2)}, "one")
        with second.locked():
            second.save(PART, {"values": np.ones(2)}, "two")
            assert not first.has(PART, "two")
            save = partial(first.save, PART, {"values": np.zeros(2)}, "one")
            for step in (first.pull, partial(first.remove, PART), save):
                with pytest.raises(ArtifactError, match="another command has begun to work on s3:"):
                    step()
        first.publish()
    with second.locked():
        assert second.has(PART, "two")


def test_a_store_that_cannot_be_used_is_named(bucket, server, tmp_path):
    with (
        pytest.raises(ArtifactError, match=r"s3://no-such/mine cannot be used .*: its bucket must"),
        StoredRun(tmp_path / "run", "s3://no-such/mine").locked(),
    ):
        pass
    run = StoredRun(tmp_path / "run", URL)
    with (
        pytest.raises(ArtifactError, match=r"cannot be used .* finished work is kept: run"),
        run.locked(),
    ):
        run.save(PART, {"values": np.zeros(2)}, "one")
        server._port = server.get_host_and_port()[1]
        server.stop()
        try:
            run.save(Artifact("images", ("other",)), {"values": np.zeros(2)}, "one")
        finally:
            server.start()
    with run.locked():  # what could not be uploaded then is now
        pass
    assert bucket.Object("runs/mine/images/other.npz").content_length

    with pytest.raises(ConfigError, match=r"store: must be s3://BUCKET/FOLDER .*'s3://bucket'"):
        parse_config({**VALUES, "store": "s3://bucket"})
    with pytest.raises(ConfigError, match=r"store: must be .* without credentials"):
        parse_config({**VALUES, "store": "s3://key:secret@bucket/mine"})


def test_a_server_that_keeps_checksums_in_the_content_is_refused(bucket, tmp_path, monkeypatch):
    run, text = StoredRun(tmp_path, URL), StoredRun._text
    monkeypatch.setattr(StoredRun, "_text", lambda *a: b"20\r\n" + text(*a) + b"\r\n0\r\n")
    with pytest.raises(ArtifactError, match="AWS_REQUEST_CHECKSUM_CALCULATION"), run.locked():
        pass
