"""The main job end to end on a small scale: resumed, moved, and the same to the byte."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from conceptevo import cli
from harness.artifacts import Artifact, Run
from harness.concepts.space import SemanticSpace
from harness.records import JOINT
from harness.results import REVERSION, read_results

ROOT = Path(__file__).parent.parent
CONFIG = """
seed = 3
[images]
source = "drawn"
train = 192
probe = 72
test = 72
[[series]]
name = "vgg"
architecture = "small_vgg"
training = { epochs = 3, save = [0, 1, 3] }
[[series]]
name = "convnext"
architecture = "small_convnext"
training = { epochs = 2, save = [0, 1, 2] }
[probe]
k = 8
[space]
epochs = 5
[evolve]
methods = ["sign_t", "mean_path", "random"]
images_per_class = 3
classes = ["clock", "zebra", "fish"]
[revert]
random_draws = 2
importance_images = 3
heldout_images = 3
"""


def start(config: Path, out: Path, *stage: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "conceptevo",
        *(stage or ("run",)),
        str(config),
        "--out",
        str(out),
    ]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start(config, out))
    return out


def test_it_leaves_a_report_with_every_table_and_figure(finished):
    page = (finished / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 8
    assert "http://" not in page and "https://" not in page  # self-contained
    titles = ("Abstract", "Method", "Networks", "Concepts and their evolution", "Supplement")
    places = [page.index(f"<h2>{title}</h2>") for title in titles]
    assert places == sorted(places) and page.index("q1 to q4") < page.index("adjusted p (Page)")
    names = {path.name for path in (finished / "report" / "tables").iterdir()}
    for table in (
        "training",
        "neurons",
        "alignment",
        "alignment_pairs",
        "identity",
        "matching",
        "reversion",
        "reversion_effects",
        "reversion_layers",
    ):
        assert {f"{table}.csv", f"{table}.md", f"{table}.tex"} <= names


def test_records_have_the_named_columns_and_values(finished):
    records = read_results(finished, REVERSION).records(with_controls=True)
    assert list(records.columns) == [
        *("series", "epoch_from", "epoch_to", "ablation", "layer", "method", "arm", "draw"),
        "class_id",
        *("image_id", "split", "correct_before", "correct_after", "top5_before", "top5_after"),
        *("probability_before", "probability_after", "objective_before", "objective_after"),
    ]
    assert set(records["arm"]) == {"none", "q1", "q2", "q3", "q4", "random", "matched", "all"}
    assert set(records["split"]) == {"importance", "heldout"}
    assert set(records["method"]) == {"sign_t", "mean_path", "random"}
    keys = ["series", "epoch_to", "layer", "method", "arm", "draw", "split", "class_id", "image_id"]
    assert not records.duplicated(keys).any()
    held, seen = (
        set(records.loc[records["split"] == split, "image_id"])
        for split in ("heldout", "importance")
    )
    assert not held & seen


def test_the_page_of_records_names_every_column(finished):
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    names = {
        name for path in finished.rglob("*.parquet") for name in pq.ParquetFile(path).schema.names
    }
    assert "correct_after" in names
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_importance_is_not_empty_and_scores_every_neuron(finished):
    scores = read_results(finished, REVERSION).importance()
    layers = Run(finished).tables("layers").groupby("series")["channels"].sum()
    per_pair = scores.groupby(["series", "epoch_from", "class_id", "method"]).size()
    for (series, *_), count in per_pair.items():
        assert count == layers[series]
    shares = scores.loc[scores["method"] == "sign_t", "score"]
    assert shares.nunique() > 2


def test_spaces_and_map_cover_all_living_neurons(finished):
    run = Run(finished)
    living = run.tables("stimuli").drop_duplicates(["series", "epoch", "layer", "channel"])
    for method in run.manifest()["space_methods"]:
        assert len(SemanticSpace.load(run, method).neurons) == len(living)
    places = run.table(Artifact("map"))
    assert np.isfinite(places[["x", "y"]]).all().all()


def tables_of(folder: Path) -> dict[str, bytes]:
    """All tables but the run times."""
    report = folder / "report" / "tables"
    paths = [path for path in sorted(report.iterdir()) if path.stem != "times"]
    return {path.name: path.read_bytes() for path in paths}


def artifacts_of(folder: Path) -> dict[str, bytes]:
    """The content of every artifact, by its place."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Run(folder).files()}


def test_a_second_time_everything_is_reused(finished, config):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}
    output = finish(start(config, finished))
    assert "reused" in output
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}


def test_killed_again_and_again_it_gives_the_same_bytes(finished, config, tmp_path):
    out = tmp_path / "run"
    for seconds in (4, 6, 8, 10):
        process = start(config, out)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL if seconds != 8 else signal.SIGINT)
        process.communicate(timeout=60)
    finish(start(config, out))
    assert artifacts_of(out) == artifacts_of(finished)
    assert tables_of(out) == tables_of(finished)


def test_a_moved_run_gives_the_same_tables(finished, config, tmp_path):
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(finished, moved)
    expected = tables_of(moved)
    shutil.rmtree(moved / "report")
    finish(start(config, moved, "report"))
    assert tables_of(moved) == expected


def test_run_times_are_kept_with_the_artifacts(finished):
    table = pd.read_csv(finished / "report" / "tables" / "times.csv").set_index("work")
    assert table.loc["probe images with a checkpoint", "pieces"] == 6
    assert (table["total, s"] >= table["longest, s"]).all() and (table["longest, s"] > 0).all()


def test_two_commands_do_not_work_in_one_folder(finished, config):
    import fcntl

    with (finished / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = start(config, finished)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "another conceptevo command is working in" in " ".join(output.split())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("k = 8", "k = 80", "probe.k = 80: there are 72 probe images; lower it, or add images"),
        ('"zebra"', '"unicorn"', "no class unicorn; there are ladybug"),
        ('name = "vgg"', 'name = "vgg"\nlayers = ["nope"]', "no layer matches 'nope'"),
        ("random_draws", "random_drwas", r"revert.random_drwas: unknown key"),
    ],
)
def test_bad_input_is_told_clearly_and_loses_nothing(finished, config, tmp_path, old, new, message):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(CONFIG.replace(old, new))
    process = start(wrong, out)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert message in " ".join(output.split())
    assert "Traceback" not in output
    assert tables_of(out) == tables_of(finished)


def test_help_lists_every_stage():
    text = CliRunner().invoke(cli.app, ["--help"]).output
    for stage in ("train", "probe", "space", "evolve", "revert", "report", "run", "demo", "init"):
        assert stage in text


def test_a_killed_parent_leaves_no_worker(config, tmp_path):
    process = start(config, tmp_path / "run")
    for _ in range(300):  # until it works
        time.sleep(0.2)
        if (tmp_path / "run" / "images").exists():
            break
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    process.kill()
    process.communicate(timeout=60)
    time.sleep(2)
    for child in children:
        status = Path(f"/proc/{child}/status")
        assert not status.exists() or "Z (zombie)" in status.read_text()
    assert os.path.isdir(tmp_path / "run")


def test_a_row_of_the_main_table_is_the_mean_over_classes(finished):
    table = pd.read_csv(finished / "report" / "tables" / "reversion.csv")
    records = read_results(finished, REVERSION).records(with_controls=True)
    row = table.iloc[0]
    start_epoch, end_epoch = map(int, row["epochs"].split(" → "))
    chosen = records[
        (records["series"] == row["series"])
        & (records["epoch_from"] == start_epoch)
        & (records["epoch_to"] == end_epoch)
        & (records["method"] == row["method"])
        & (records["layer"] == JOINT)
        & (records["split"] == "heldout")
        & (records["arm"] == "q1")
    ]
    change = chosen["correct_after"].astype(int) - chosen["correct_before"].astype(int)
    expected = change.groupby(chosen["class_id"]).mean().mean()
    assert row["q1"] == pytest.approx(expected, abs=1e-5)
