"""The wheel, installed in a fresh environment outside the tree, does what the README says."""

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = """
workers = 0
[images]
source = "drawn"
train = 192
probe = 96
test = 120
[[series]]
name = "vgg"
architecture = "small_vgg"
training = { epochs = 2, save = [0, 1, 2] }
[probe]
k = 20
[space]
methods = ["sgns", "random"]
dimension = 8
[evolve]
methods = ["sign_t"]
images_per_class = 4
[revert]
random_draws = 2
importance_images = 2
heldout_images = 4
"""
STUDY = """
participants = 2
forms = 1
[trials.concept_agreement]
random = 2
[practice]
trials = 0
[attention]
trials = 0
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, of a copy of the tracked files."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The commands of an environment that has the wheel, and its dependencies from this one."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(ours))
    (wheel,) = built.glob("*.whl")
    command = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--force-reinstall", wheel], check=True)
    return home / "bin"


def run(command, folder, **more):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True,
        env={**environment, "OMP_NUM_THREADS": "1"}, **more,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_and_sdist_hold_every_file_that_is_read(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "conceptevo", "harness", "tasks", "survey_app", "analysis"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    missing = {name for name in tracked if name not in names and (ROOT / name).is_file()}
    assert not missing
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "pyproject.toml", "harness/configs/demo.toml"} <= inside


def test_it_runs_to_a_study_and_a_page_of_the_survey(installed, tmp_path):
    tool = installed / "conceptevo"
    code = "import conceptevo, harness; print(conceptevo.__file__, harness.__file__)"
    where = run([installed / "python", "-c", code], tmp_path)
    assert str(ROOT) not in where
    run([tool, "init", "mine.toml"], tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)
    run([tool, "run", "tiny.toml", "--out", "run"], tmp_path, timeout=300)
    page = (tmp_path / "run" / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img ") >= 5
    run([tool, "study", "settings", "settings.toml"], tmp_path)
    assert "title = " in (tmp_path / "settings.toml").read_text(encoding="utf-8")
    (tmp_path / "study.toml").write_text(STUDY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run(
        [tool, "study", "build", "run", "--out", "study", "--settings", "study.toml"],
        tmp_path,
        timeout=300,
    )
    serving = subprocess.Popen(
        [tool, "survey", "study", "--port", str(port)], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except OSError:
                assert time.monotonic() < deadline and serving.poll() is None
                time.sleep(0.3)
        assert answer.status == 200 and b"<div id=" in answer.read()
    finally:
        serving.terminate()
        serving.wait(20)
