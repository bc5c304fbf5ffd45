"""Work on a real Ray cluster of this machine: the same bytes as in one process."""

import pytest
from rich.console import Console

from harness.artifacts import Artifact, Run
from harness.stages.engine import Shard, engine

ray = pytest.importorskip("ray", reason="pip install -e '.[cluster]'; `make nightly` does")
pytestmark = pytest.mark.slow


def draw(run, made_from, advance, number):
    import numpy as np

    if number == 13:
        raise ValueError("thirteen is not drawn")
    values = np.random.default_rng(number).random(5)
    run.save(Artifact("images", (f"part{number}",)), {"values": values}, made_from)
    advance(1)


def shards(numbers):
    return [Shard((Artifact("images", (f"part{n}",)),), f"print{n}", draw, (n,)) for n in numbers]


@pytest.fixture
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield "auto"
    ray.shutdown()


def test_a_cluster_leaves_the_same_artifacts(cluster, tmp_path):
    console = Console(quiet=True)
    here, there = Run(tmp_path / "here"), Run(tmp_path / "there")
    with engine(here, 0, console) as working:
        working.stage("draw", shards(range(4)))
    with engine(there, 2, console, cluster) as working:
        working.stage("draw", shards(range(4)))
        working.stage("draw", shards(range(4)))  # reused
    for n in range(4):
        part = Artifact("images", (f"part{n}",))
        assert here.path(part).read_bytes() == there.path(part).read_bytes()
        assert there.has(part, f"print{n}")


def test_what_goes_wrong_there_is_told_here(cluster, tmp_path):
    console = Console(quiet=True)
    with (
        pytest.raises(ValueError, match="thirteen is not drawn"),
        engine(Run(tmp_path), 2, console, cluster) as working,
    ):
        working.stage("draw", shards([1, 13]))


def test_no_cluster_says_how_to_start_one(tmp_path):
    with (
        pytest.raises(ValueError, match=r"no Ray cluster there .*; start one with `ray start"),
        engine(Run(tmp_path), 2, Console(quiet=True), "127.0.0.1:1") as working,
    ):
        working.stage("draw", shards([1]))
