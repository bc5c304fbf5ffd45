"""Work on a real Ray cluster of this machine: the same bytes as in one process."""

import os
import signal
from dataclasses import dataclass

import numpy as np
import pytest
from rich.console import Console

from harness.artifacts import Artifact, Run
from harness.config import parse_config
from harness.stages.engine import Engine
from harness.stages.run import run_until
from harness.stages.stage import Plan, Work

ray = pytest.importorskip("ray", reason="pip install -e '.[cluster]'; `make nightly` does")
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Draw(Work):
    """Five numbers. Thirteen fail; for 100 the worker is killed the first time, for 200 every
    time."""

    number: int

    @property
    def makes(self):
        return (Artifact("images", (f"part{self.number}",)),)

    @property
    def depends(self):
        return self.number

    def do(self, run, advance):
        if self.number == 13:
            raise ValueError("thirteen is not drawn")
        tried = run.root / "tried"
        if self.number == 200 or (self.number == 100 and not tried.exists()):
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"values": np.random.default_rng(self.number).random(5)}
        advance(1)


def plan(folder):
    config = parse_config({"series": [{"name": "vgg"}]})
    return Plan(config, Run(folder))


def draws(numbers):
    return [Draw(number) for number in numbers]


@pytest.fixture
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield "auto"
    ray.shutdown()


def test_a_cluster_leaves_the_same_artifacts(cluster, tmp_path):
    console = Console(quiet=True)
    here, there = plan(tmp_path / "here"), plan(tmp_path / "there")
    with Engine(here, 0, console) as working:
        working.step("draw", draws(range(4)))
    with Engine(there, 2, console, cluster) as working:
        working.step("draw", draws(range(4)))
        working.step("draw", draws(range(4)))  # reused
    for n in range(4):
        part = Artifact("images", (f"part{n}",))
        assert here.run.path(part).read_bytes() == there.run.path(part).read_bytes()
        assert there.run.has(part, here.fingerprint(part))


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (2, "cuda")])
def test_auto_takes_the_gpus_of_the_cluster(tmp_path, gpus, device):
    ray.init(num_cpus=1, num_gpus=gpus, include_dashboard=False, log_to_driver=False)
    try:
        assert Engine(plan(tmp_path), 1, Console(quiet=True), "auto")._cluster_device == device
    finally:
        ray.shutdown()


def test_what_goes_wrong_there_is_told_here(cluster, tmp_path):
    console = Console(quiet=True)
    with (
        pytest.raises(ValueError, match="thirteen is not drawn"),
        Engine(plan(tmp_path), 2, console, cluster) as working,
    ):
        working.step("draw", draws([1, 13]))


def test_a_killed_worker_costs_its_piece_of_work(cluster, tmp_path):
    here, there = plan(tmp_path / "here"), plan(tmp_path / "there")
    here.run.root.mkdir()
    (here.run.root / "tried").touch()
    for one, workers, where in ((here, 0, None), (there, 2, cluster)):
        with Engine(one, workers, Console(quiet=True), where) as working:
            working.step("draw", draws([1, 100, 2]))
    assert (there.run.root / "tried").exists()
    for path in here.run.files():
        other = there.run.root / path.relative_to(here.run.root)
        assert path.read_bytes() == other.read_bytes()


def test_a_worker_that_is_always_killed_ends_the_run_with_a_sentence(cluster, tmp_path):
    with (
        pytest.raises(ValueError, match="draw: a worker was killed, probably for lack of memory"),
        Engine(plan(tmp_path), 2, Console(quiet=True), cluster) as working,
    ):
        working.step("draw", draws([200]))


def test_no_cluster_says_how_to_start_one(tmp_path):
    with (
        pytest.raises(ValueError, match=r"no Ray cluster there .*; start one with `ray start"),
        Engine(plan(tmp_path), 2, Console(quiet=True), "127.0.0.1:1") as working,
    ):
        working.step("draw", draws([1]))


def test_the_machine_that_starts_a_run_needs_no_gpu(tmp_path):
    config = parse_config({"series": [{"name": "vgg"}], "device": "cuda:0"})
    with pytest.raises(ValueError, match=r"no Ray cluster there"):
        run_until("images", config, tmp_path / "run", Console(quiet=True), "127.0.0.1:1")
