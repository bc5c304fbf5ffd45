"""A run that is killed in the middle of a checkpoint or pair ends with the same bytes."""

import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
from rich.console import Console
from small_runs import small
from test_run import artifacts_of

from harness.artifacts import Artifact, Run
from harness.config import parse_config
from harness.stages import ablate
from harness.stages.run import run_until

QUIET = Console(quiet=True)
CONFIG = small(
    probe={"range_images": 12},
    space={"methods": ["jaccard", "correlation"]},
    evolve={"classes": ["clock", "fish", "zebra"], "classes_per_file": 1},
)


@pytest.fixture(scope="module")
def config():
    return parse_config(CONFIG)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    return run_until("revert", config, tmp_path_factory.mktemp("whole") / "run", QUIET)


class Killed(BaseException):
    """An interruption that nothing catches."""


def test_stopped_before_and_after_any_piece_the_bytes_are_the_same(config, whole, tmp_path,
                                                                   monkeypatch):  # fmt: skip
    """Twenty stops, before or after a random artifact is saved, sealed or removed."""
    rng, calls, stop = np.random.default_rng(0), [0], [0, False]  # at which call; whether after it

    def stopping(change):
        def changed(self, *arguments):
            calls[0] += 1
            number = calls[0]
            if [number, False] == stop:
                raise Killed
            change(self, *arguments)
            if [number, True] == stop:
                raise Killed

        return changed

    stops = 0
    with monkeypatch.context() as patch:
        for name in ("save", "seal", "remove"):
            patch.setattr(Run, name, stopping(getattr(Run, name)))
        for _ in range(20):
            calls[0], stop[:] = 0, [int(rng.integers(1, 17)), bool(rng.random() < 0.5)]
            try:
                run_until("revert", config, tmp_path / "run", QUIET)
            except Killed:
                stops += 1
    run = run_until("revert", config, tmp_path / "run", QUIET)
    assert stops >= 8
    assert artifacts_of(run.root) == artifacts_of(whole.root)
    parts = sorted((whole.root / "probe").rglob("activations-*/*.npy"))
    assert len(parts) == 8  # two checkpoints of four ranges
    for part in parts:
        assert (run.root / part.relative_to(whole.root)).read_bytes() == part.read_bytes()


def test_what_a_stop_leaves_to_be_removed_is_removed_later(config, whole, tmp_path, monkeypatch):
    """Artifacts from which others are made, at a stop before each removal of the last one."""
    run, original, stops = Run(tmp_path / "run"), Run.remove, []

    def remove(self, artifact):
        if artifact not in stops:
            stops.append(artifact)
            raise Killed
        original(self, artifact)

    monkeypatch.setattr(Run, "remove", remove)
    for _ in range(100):
        try:
            run_until("probe", config, run.root, QUIET)
            break
        except Killed:
            assert run.path(stops[-1]).exists()
    kinds = {artifact.kind for artifact in stops}
    assert kinds == {"training_state", "probe_part", "responses_part"}
    assert not any(run.path(artifact).exists() for artifact in stops)
    files = artifacts_of(whole.root)
    assert artifacts_of(run.root).items() <= files.items()


def test_other_ranges_of_images_leave_nothing_behind(config, whole, tmp_path, monkeypatch):
    """Ranges of 24 images, stopped after the first one is recorded, and then 12 images again."""
    run = Run(shutil.copytree(whole.root, tmp_path / "run"))
    original = Run.seal

    def seal(self, artifact, *arguments):
        original(self, artifact, *arguments)
        if artifact.kind == "responses_part":
            raise Killed

    other = config.model_copy(
        update={"probe": config.probe.model_copy(update={"range_images": 24})}
    )
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "seal", seal)
        run_until("probe", other, run.root, QUIET)
    assert run.stored("responses_part", "vgg", 1) == [Artifact("responses_part", ("vgg", 1, 0, 24))]
    run_until("probe", config, run.root, QUIET)
    assert artifacts_of(run.root) == artifacts_of(whole.root)


def test_a_pair_resumes_after_its_last_class(config, whole, tmp_path, monkeypatch):
    original, ablated = ablate.ablate, []

    def interrupted(*arguments):
        if len(ablated) == 5:
            raise Killed
        ablated.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(ablate, "ablate", interrupted)
    with pytest.raises(Killed):
        run_until("revert", config, tmp_path / "run", QUIET)
    again = []
    monkeypatch.setattr(ablate, "ablate", lambda *a: again.append(a) or original(*a))
    run = run_until("revert", config, tmp_path / "run", QUIET)
    done = [call for call in (*ablated, *again) if call[1][0].labels != [("", "", 0)]]
    assert len(done) == 12  # three classes, controls and a method, two splits; others measure
    assert artifacts_of(run.root) == artifacts_of(whole.root)
    assert run.has(Artifact("map"), run.sidecar(Artifact("map"))["fingerprint"])


def _run(out, workers, cluster):
    one = parse_config({**CONFIG, "workers": workers})
    if cluster:
        os.environ["RAY_AUTH_MODE"] = "token"  # which a cluster of new versions of Ray asks for
    run_until("revert", one, out, QUIET, cluster)


@pytest.fixture(scope="module")
def processes():
    """Return processes that have loaded what a run needs, so that they begin at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.stages.run", "umap"])
    return context


@pytest.fixture
def cluster(request):
    """Return the address of a Ray cluster on this machine; None if no test needs one."""
    if not request.param:
        yield None
        return
    ray = pytest.importorskip("ray", reason="pip install -e '.[cluster]'; `make nightly` does")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "cluster"), [(0, False), (2, False), (2, True)], indirect=["cluster"]
)
def test_killed_at_random_moments_the_bytes_are_the_same(workers, cluster, whole, processes,
                                                         tmp_path):  # fmt: skip
    """Seven kills, spread over the artifacts that a run leaves."""
    rng, saved, kills = np.random.default_rng(workers), set(), 0
    arguments = (tmp_path / "run", workers, cluster)
    total = len(list(whole.root.rglob("*.json")))
    for moment in np.sort(rng.choice(total, 7, replace=False)):
        process = processes.Process(target=_run, args=arguments)
        process.start()
        while process.is_alive() and len(saved) <= moment:
            saved |= set((tmp_path / "run").rglob("*.json"))
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.2)))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    _run(*arguments)
    assert kills >= 6  # the last one may come too late
    assert artifacts_of(tmp_path / "run") == artifacts_of(whole.root)
