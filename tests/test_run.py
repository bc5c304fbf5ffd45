"""A run from end to end on a small scale: resumed, moved, and equal to the byte."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_line import say
from small_runs import small, write_toml

from harness import results
from harness.artifacts import Artifact, Run
from harness.concepts.space import SemanticSpace
from harness.files import content_hash
from harness.records import JOINT
from harness.results import ARM_ON_CLASS, REVERSION, read_results

ROOT = Path(__file__).parent.parent
VGG = {"name": "vgg", "training": {"epochs": 3, "save": [0, 1, 3]}}
CONVNEXT = {
    "name": "convnext", "architecture": "small_convnext",
    "training": {"epochs": 2, "save": [1, 2]},
}  # fmt: skip
VALUES = small(
    seed=3,
    images={"train": 192, "probe": 72, "test": 72},
    series=[VGG, CONVNEXT],
    probe={"k": 8},
    space={"methods": ["sgns", "ppmi", "jaccard", "correlation", "profile", "random"],
           "epochs": 5},
    evolve={"methods": ["sign_t", "mean_path", "random"], "images_per_class": 9,
            "classes": ["clock", "zebra", "fish"]},  # a class has 6: 3 in each part
    revert={"importance_images": 3, "heldout_images": 9},
)  # fmt: skip


def start(config: Path, out: Path) -> subprocess.Popen:
    """Start the command as it is typed, in a process of its own."""
    command = [sys.executable, "-m", "conceptevo", "run", str(config), "--out", str(out)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_toml(tmp_path_factory.mktemp("config") / "tiny.toml", VALUES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    say("run", config, "--out", out)
    return out


def test_it_leaves_a_report_with_every_table_and_figure(finished):
    page = (finished / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 8
    assert "The gap, accuracy after reverting q4 minus accuracy after reverting q1, was " in page
    assert "from 3 test images of the class" in page and "9 held-out images (3 per class)" in page
    assert "http://" not in page and "https://" not in page  # self-contained
    assert "(with 3 classes, it cannot be significant)" in page  # 2^(1 - 3) is not below .05
    titles = ("Abstract", "Method", "Networks", "Concepts and their evolution", "Supplement")
    places = [page.index(f"<h2>{title}</h2>") for title in titles]
    assert places == sorted(places) and page.index("q1 to q4") < page.index("adjusted p (Page)")
    names = {path.name for path in (finished / "report" / "tables").iterdir()}
    for table in ("neurons", "alignment", "alignment_pairs", "identity", "matching",
                  "reversion", "reversion_layers"):  # fmt: skip
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


@pytest.mark.parametrize("outcome", ["correct", "probability"])
@pytest.mark.parametrize("rows", [1, 3000, 10**6])
def test_means_of_classes_do_not_depend_on_how_many_records_are_read_at_once(
    finished, outcome, rows, monkeypatch
):
    monkeypatch.setattr(results, "ROWS_AT_ONCE", rows)
    read = read_results(finished, REVERSION)
    means = read.class_means(outcome, with_controls=True, layer=JOINT).set_index(ARM_ON_CLASS)
    records = read.records(with_controls=True, layer=JOINT)
    groups = records.groupby(ARM_ON_CLASS)
    before, after = (groups[f"{outcome}_{end}"].mean() for end in ("before", "after"))
    assert means.index.is_unique and len(means) == len(before)
    assert means["images"].eq(groups.size()).all()
    assert means["after"].to_numpy() == pytest.approx(after.loc[means.index].to_numpy())
    change = (after - before).loc[means.index].to_numpy()
    assert means["change"].to_numpy() == pytest.approx(change, abs=1e-7)
    own = (
        records.loc[records["arm"] == "q1"]
        .groupby(ARM_ON_CLASS)
        .get_group(means.index[means.index.get_level_values("arm") == "q1"][0])
    )
    spread = (own[f"{outcome}_after"].astype(float) - own[f"{outcome}_before"]).sem()
    assert means["change_error"].loc[own.set_index(ARM_ON_CLASS).index[0]] == pytest.approx(spread)


def test_a_run_without_an_outcome_has_no_means_of_it(finished):
    assert read_results(finished, REVERSION).class_means("top50", with_controls=True).empty


def test_the_page_of_records_names_every_column(finished):
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    names = {name for path in finished.rglob("*.parquet") for name in pq.read_schema(path).names}
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
    """Return all tables except the run times."""
    report = folder / "report" / "tables"
    paths = [path for path in sorted(report.iterdir()) if path.stem != "times"]
    return {path.name: path.read_bytes() for path in paths}


def artifacts_of(folder: Path) -> dict[str, str]:
    """Return the hash of every artifact, by its path."""
    return {str(path.relative_to(folder)): content_hash(path) for path in Run(folder).files()}


def test_a_second_time_everything_is_reused(finished, config):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}
    assert "reused" in say("run", config, "--out", finished)
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}


@pytest.mark.slow
def test_with_another_configuration_it_reports_what_a_new_run_would(finished, tmp_path):
    """Fewer series, epochs, classes and images leave files of the earlier configuration behind."""
    values = {**VALUES, "series": [{**VGG, "skip": [0]}], "probe": {"k": 6}}
    evolve = {"methods": ["sign_t"], "images_per_class": 2, "classes": ["fish", "clock"]}
    config = write_toml(tmp_path / "other.toml", {**values, "evolve": evolve})
    runs = [tmp_path / when / "run" for when in ("before", "now")]  # reports say the folder's name
    shutil.copytree(finished, runs[0])
    reports = []
    for run in runs:
        say("run", config, "--out", run)
        say("explore", run)
        paths = [*run.glob("report/*/*.*"), run / "explore.html"]
        kept = [p for p in paths if p.suffix in (".csv", ".png", ".html") and p.stem != "times"]
        reports.append({path.relative_to(run): path.read_bytes() for path in kept})
    old, new = reports
    assert [name for name in {**old, **new} if old.get(name) != new.get(name)] == []


@pytest.mark.slow
def test_killed_it_leaves_no_worker_and_goes_on_to_the_same_bytes(tmp_path):
    """`test_interrupted.py` stops runs everywhere, and kills more of them at night."""
    out, whole = tmp_path / "killed" / "run", tmp_path / "whole" / "run"
    config = write_toml(tmp_path / "one.toml", small())
    process = start(write_toml(tmp_path / "two.toml", small(workers=2)), out)
    while not list(out.glob("probe/*/stimuli-*")):  # until it is in the middle of its work
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    listing = ["pgrep", "-P", str(process.pid)]
    children = subprocess.run(listing, capture_output=True, text=True).stdout.split()
    process.kill()
    process.communicate(timeout=60)
    for folder in (out, whole):
        say("run", config, "--out", folder)
    for child in children:
        status = Path(f"/proc/{child}/status")
        assert not status.exists() or "Z (zombie)" in status.read_text()
    assert children and artifacts_of(out) == artifacts_of(whole)
    assert tables_of(out) == tables_of(whole)


@pytest.mark.slow
def test_a_moved_run_gives_the_same_tables(finished, config, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(finished, moved)
    expected = tables_of(moved)
    shutil.rmtree(moved / "report")
    monkeypatch.setattr(results, "CLASSES_AT_ONCE", 1)  # their number changes nothing either
    own_figure = plt.figure()
    say("report", config, "--out", moved)
    assert tables_of(moved) == expected
    assert plt.get_fignums() == [own_figure.number]  # ours are no figures of pyplot
    plt.close(own_figure)


def test_run_times_are_kept_with_the_artifacts(finished):
    table = pd.read_csv(finished / "report" / "tables" / "times.csv").set_index("work")
    assert table.loc["probe images with a checkpoint", "pieces"] == 5
    assert (table["total, s"] >= table["longest, s"]).all() and (table["longest, s"] > 0).all()


def test_two_commands_do_not_work_in_one_folder(finished, config):
    import fcntl

    with (finished / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = start(config, finished)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in output
    assert "another conceptevo command is working in" in " ".join(output.split())


def test_bad_input_is_told_clearly_and_loses_nothing(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for change, message in (
        ({"probe": {"k": 80}}, "probe.k = 80: there are 72 probe images; lower it, or add images"),
        ({"evolve": {"classes": ["unicorn"]}}, "no class unicorn; there are ladybug"),
        ({"series": [{**VGG, "layers": ["nope"]}]}, "no layer matches 'nope'"),
        ({"revert": {"random_drwas": 2}}, "revert.random_drwas: unknown key"),
    ):
        wrong = write_toml(tmp_path / "wrong.toml", VALUES | change)
        assert message in say("run", wrong, "--out", out, error=ValueError)
    assert tables_of(out) == tables_of(finished)


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
