"""`conceptevo bench` end to end on a small run: resumed, in other batches, on other processes."""

import json
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from conceptevo import cli
from harness.artifacts import Run
from harness.config import parse_config
from harness.files import ArtifactError
from harness.records import CONTROLS, JOINT
from harness.results import REVERSION, read_results
from harness.stages.benchmark import Coverage, bench_config, bench_study
from harness.stages.engine import Engine
from harness.stages.run import STAGES, run_until, write_manifest
from harness.stages.sample import count_arms
from harness.stages.stage import Plan

ROOT = Path(__file__).parent.parent
CONFIG = """
seed = 5
[images]
source = "drawn"
train = 600
probe = 72
test = 192
[[series]]
name = "vgg"
architecture = "small_vgg"
training = { epochs = 5, save = [1, 5] }
[probe]
k = 8
[space]
epochs = 5
methods = ["sgns", "correlation"]
[evolve]
methods = ["sign_t"]
images_per_class = 6
classes = ["clock", "zebra", "fish"]
[revert]
random_draws = 2
importance_images = 2
heldout_images = 10
[bench]
random_draws = 3
steps = 4
methods = ["sign_t", "tcav", "random"]
space_seeds = 2
"""


#: What tells the records of a series and an ablation apart.
KEYS = ["layer", "method", "arm", "draw", "class_id", "image_id", "split", "epoch_from"]


def conceptevo_(*arguments: object) -> str:
    """Run a command in this process; return its output, also that of a user's mistake."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if isinstance(result.exception, ValueError):
        return f"error: {result.exception}"
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Return a run at the point where the benchmark starts: networks, probed neurons, spaces."""
    out = tmp_path_factory.mktemp("run") / "run"
    config = parse_config({**tomllib.loads(CONFIG), "workers": 0})
    plan = Plan(config, Run(out))
    with Engine(plan, 0, Console(quiet=True)) as working:
        write_manifest(config, plan.run)
        for stage in list(STAGES.values())[:6]:
            working.run(stage(plan))
    return out


@pytest.fixture(scope="module")
def benched(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("benched") / "run"
    shutil.copytree(run, out)
    conceptevo_("bench", out, "--workers", 2, "--ablation", "revert,zero,mean,resample")
    return out


def test_results_of_an_earlier_schema_are_refused(benched, tmp_path):
    about = json.loads((benched / "bench" / "about.json").read_text())
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "about.json").write_text(json.dumps(about | {"version": 1}))
    with pytest.raises(ArtifactError, match="schema version 1, this program reads 2; make it"):
        read_results(tmp_path)


def test_a_record_is_an_image_and_arm(benched):
    results = read_results(benched)
    records = results.records()
    assert not records.duplicated(["ablation", "series", *KEYS]).any()
    assert set(records["ablation"]) == {"revert", "zero", "mean", "resample"}
    assert set(records["method"]) == {CONTROLS, "sign_t", "tcav", "random"}
    joint = records[(records["layer"] == JOINT) & (records["method"] == "sign_t")]
    assert set(joint["arm"]) == {
        *("q1", "q2", "q3", "q4", "most", "least", "matched", "matched_activation", "other_class")
    }
    assert set(joint.loc[joint["arm"] == "most", "draw"]) == {1, 2, 3}
    plan = Plan(bench_config(results.run, Coverage()), results.run)
    study, layers = bench_study(plan, Coverage()), records["layer"].nunique() - 1
    one = records[(records["class_id"] == records["class_id"][0]) & (records["arm"] != "none")]
    for method, rows in one[one["ablation"] == "zero"].groupby("method"):
        counts = [count_arms(study, method, kind, layers) for kind in study.arm_kinds]
        assert len(rows.drop_duplicates(["layer", "arm", "draw"])) == np.sum(counts), method
    untouched = records[records["arm"] == "none"]
    assert (untouched["probability_before"] == untouched["probability_after"]).all()
    every = records[(records["arm"] == "all") & (records["layer"] == JOINT)]
    silent = every.loc[every["ablation"] == "zero", "probability_after"]
    assert silent.nunique() <= 3  # nothing of the image is left, whatever it was: a value a class


def test_everything_is_written_and_read(benched):
    names = {path.name for path in (benched / "bench" / "tables").glob("*.csv")}
    tables = "leaderboard separation bins ablations by_layer reliability images stability spaces"
    assert names >= {f"{name}.csv" for name in tables.split()}
    board = pd.read_csv(benched / "bench" / "leaderboard.csv")
    assert set(board["method"]) == {"sign_t", "tcav", "random"}
    assert (board["low"] < board["gap"]).all() and (board["gap"] < board["high"]).all()
    assert board["gap"].is_monotonic_decreasing
    page = (benched / "bench" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 5 and "http" not in page
    spaces = pd.read_csv(benched / "bench" / "tables" / "spaces.csv")
    stable = spaces[spaces["task"] == "stability"].set_index("method")["value"]
    assert stable["correlation"] == 1 and stable["sgns"] < 1


def test_workers_and_batches_change_no_record(run, benched, tmp_path):
    """Passes for records have five images or more: on some processors, four round otherwise."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["configuration"]["revert"]["batch_size"] = 8
    manifest["configuration"]["evolve"]["classes_per_file"] = 2
    manifest["configuration"]["evolve"]["batch_size"] = 5
    (out / "manifest.json").write_text(json.dumps(manifest))
    conceptevo_("bench", out, "--workers", 0, "--ablation", "revert,resample", "--methods", "tcav")
    for name in ("records", "sets", "importance"):
        mine, theirs = (getattr(read_results(folder), name)() for folder in (out, benched))
        for column in {"ablation", "method"} & set(mine):
            theirs = theirs[theirs[column].isin(mine[column])]
        order = [column for column in mine if not column.startswith(("prob", "correct", "top5"))]
        mine, theirs = (t.sort_values(order, ignore_index=True) for t in (mine, theirs))
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)


def test_after_the_reversion_study_no_arm_is_run_twice(run, benched, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    config = parse_config({**tomllib.loads(CONFIG), "workers": 0})
    run_until("revert", config, out, Console(quiet=True))
    made = {path: path.stat().st_mtime_ns for path in (out / "ablation").rglob("*.parquet")}
    output = conceptevo_("bench", out, "--workers", 0)
    assert made and all(path.stat().st_mtime_ns == then for path, then in made.items())
    assert "ablation: 2 done before, reused" in output
    records = read_results(out).records()
    both = read_results(out, REVERSION).records()
    assert not records.duplicated(KEYS).any()
    shared = both[both["split"] == "heldout"].merge(records, on=KEYS)
    assert len(shared) == (both["split"] == "heldout").sum()
    assert "Nothing is left to do." in conceptevo_("bench", out, "--plan")


@pytest.mark.slow  # the engine is that of a run, whose interruptions are tested each time
def test_a_killed_benchmark_goes_on_and_gives_the_same_bytes(run, benched, tmp_path):
    out, whole = tmp_path / "run", tmp_path / "whole"
    shutil.copytree(run, out)
    shutil.copytree(benched, whole)
    command = [sys.executable, "-m", "conceptevo", "bench", str(out), "--workers", "2"]
    command += ["--methods", "sign_t,random"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    pieces = out / "ablation"
    deadline = time.monotonic() + 200
    while not list(pieces.glob("*/*/revert/*/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "bench" / "about.json").exists(), "it was to be killed midway"
    assert "error" in conceptevo_("bench", out, "--leaderboard")
    scores = (out / "importance").rglob("scores-*.parquet")
    kept = {path: path.stat().st_mtime_ns for path in scores}
    conceptevo_("bench", out, "--workers", 2, "--methods", "sign_t,random")
    assert kept and all(path.stat().st_mtime_ns == then for path, then in kept.items())
    conceptevo_("bench", whole, "--workers", 0, "--methods", "sign_t,random")
    made = [path.relative_to(out) for path in out.rglob("*.parquet")]
    assert any(path.parts[0] == "ablation" for path in made)
    complete = Path("bench/about.json")  # names every artifact of the benchmark
    for path in (*made, complete, Path("bench/leaderboard.csv"), Path("bench/tables/bins.csv")):
        assert (out / path).read_bytes() == (whole / path).read_bytes(), path


def test_methods_are_added_without_doing_the_others_again(benched, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(benched, out)
    done = {path: path.stat().st_mtime_ns for path in (out / "ablation").rglob("*.parquet")}
    told = conceptevo_(
        "bench", out, "--workers", 0, "--methods", "sign_t,test_benchmark:own", "--layers",
        "features.*",
    )  # fmt: skip
    assert "test_benchmark:own" in told
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())
    board = pd.read_csv(out / "bench" / "leaderboard.csv")
    assert set(board["method"]) == {"sign_t", "test_benchmark:own"}


@pytest.mark.slow
def test_changed_code_of_ones_own_is_not_taken_for_the_old(run, tmp_path, monkeypatch):
    out, module = tmp_path / "run", tmp_path / "own_scores.py"
    shutil.copytree(run, out)
    monkeypatch.syspath_prepend(str(tmp_path))
    boards = []
    for sign in ("", "-"):
        module.write_text(
            "def mine(change):\n"
            f"    return {{n: {sign}v for n, v in change.along(change.gradients_to).items()}}\n"
        )
        sys.modules.pop("own_scores", None)
        conceptevo_("bench", out, "--workers", 0, "--methods", "own_scores:mine")
        boards.append(pd.read_csv(out / "bench" / "leaderboard.csv").loc[0, "gap"])
    assert boards[0] > 0 > boards[1]


def test_the_plan_is_shown_and_nothing_done(run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    told = conceptevo_("bench", out, "--plan", "--workers", 0)
    assert "Left to do: " in told and "revert" in told and "vgg" in told
    assert not (out / "bench").exists()


def test_one_class_and_a_dead_layer_are_undefined_not_a_crash(run, tmp_path):
    """A layer that does not change (its weights silenced) cannot be ranked; one class has no
    interval."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    for path in (out / "training" / "vgg").glob("epoch-*.pt"):
        state = torch.load(path, weights_only=True)
        for name in state:
            if name.startswith("features.1."):  # batch norm of the first block
                state[name] = torch.full_like(state[name], -1 if name.endswith("bias") else 0)
        torch.save(state, path)
    told = conceptevo_("bench", out, "--workers", 0, "--classes", "clock", "--methods", "sign_t")
    assert "no interval" in told and "no claim" in told
    assert "vgg features.2: in 1 of its classes and pairs no neuron changed" in " ".join(
        told.split()
    )
    board = pd.read_csv(out / "bench" / "leaderboard.csv")
    assert board["low"].isna().all() and board["p (Page)"].isna().all()
    layers = pd.read_csv(out / "bench" / "tables" / "by_layer.csv").set_index("layer")
    assert (
        np.isnan(layers.loc["features.2", "sign_t"]) and layers.loc["features.2", "left out"] == 1
    )


def test_two_benchmarks_are_laid_side_by_side(benched, tmp_path):
    told = " ".join(conceptevo_("bench", "compare", benched, benched, "--out", tmp_path).split())
    assert "Kendall's τ of the two rankings: 1.00 over 3 methods" in told
    table = pd.read_csv(tmp_path / "compare.csv")
    assert (table["B − A"] == 0).all() and (table["place A"] == table["place B"]).all()
    other = tmp_path / "other"
    shutil.copytree(benched, other)
    about = json.loads((other / "bench" / "about.json").read_text())
    fewer = about | {"methods": {m: v for m, v in about["methods"].items() if m != "tcav"}}
    (other / "bench" / "about.json").write_text(json.dumps(fewer))
    told = " ".join(conceptevo_("bench", "compare", benched, other).split())
    assert "Left out, as one of them lacks them: tcav." in told
    (other / "bench" / "about.json").write_text(json.dumps(about))
    third = tmp_path / "third"
    third.symlink_to(benched, target_is_directory=True)
    assert "the same run was given twice" in conceptevo_(
        "bench", "compare", benched, other, third
    )  # fmt: skip
    third.unlink()
    shutil.copytree(benched, third)
    told = conceptevo_("bench", "compare", benched, other, third, "--out", tmp_path / "many")
    assert "Benchmarks of 3 runs" in told and "1.00 at least" in " ".join(told.split())
    many = pd.read_csv(tmp_path / "many" / "compare.csv").set_index("method")
    board = pd.read_csv(benched / "bench" / "leaderboard.csv").set_index("method")
    np.testing.assert_allclose(many["mean"], board.loc[many.index, "gap"], atol=1e-6)
    assert (many["sd over runs"] < 1e-12).all() and (many["networks"] == 3).all()
    assert many["low"].isna().all() and (many["reason"] != "").all()  # three networks are too few
    about = json.loads((other / "bench" / "about.json").read_text())
    changed = about | {"images_per_class": 99}
    changed["methods"]["tcav"] = changed["methods"]["tcav"] | {"linearises": "zero"}
    (other / "bench" / "about.json").write_text(json.dumps(changed))
    for runs in ((benched, other), (benched, other, third)):
        told = " ".join(conceptevo_("bench", "compare", *runs, "--out", tmp_path / "x").split())
        assert "They differ in images per class and the definition of tcav." in told
    (other / "bench" / "about.json").write_text(json.dumps(about | {"version": 99}))
    with pytest.raises(ArtifactError, match="schema version 99, this program reads 2"):
        read_results(other)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--methods", "sing_t"], "unknown importance method 'sing_t'; known: sign_t"),
        (["--ablation", "undo"], "unknown ablation 'undo'; known: revert, zero, mean, resample"),
        (["--classes", "clok"], "no class clok; there are"),
        (["--pairs", "vgg:1"], "--pairs 'vgg:1' must be series:from-to, e.g. vgg:1-4"),
        (["--pairs", "net:1-5"], "no series 'net'; there are vgg"),
        (["--pairs", "vgg:1-9"], "series 'vgg' has no checkpoint of epoch 9; it has 1, 5"),
        (
            ["--layers", "conv*"],
            "--layers conv*: no probed layer of series 'vgg' matches; it has features.2",
        ),
        (["--memory", "0.000001"], "importance of series 'vgg' by sign_t: 4 images need"),
        (["--splits", "test"], "must be 'heldout' or 'importance'"),
    ],
)
def test_mistakes_are_told_before_anything_starts(run, arguments, told):
    assert told in conceptevo_("bench", run, *arguments)
    assert not (run / "bench").exists()


def test_a_folder_without_a_run_or_benchmark_says_what_to_do(tmp_path, run):
    assert "is not a run: it holds no manifest.json" in conceptevo_("bench", tmp_path)
    assert "holds no finished benchmark; run `conceptevo bench" in conceptevo_(
        "bench", run, "--leaderboard"
    )


def test_options_that_would_have_no_effect_are_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    faults = {
        ("--leaderboard", "--plan", "--methods", "sign_t"): "leave out --methods, --plan",
        ("--plan", "--cluster", "auto"): "is of the work on this machine: leave out --cluster",
    }
    for options, fault in faults.items():
        assert fault in conceptevo_("bench", tmp_path, *options)
    config = tmp_path / "one.toml"
    config.write_text(CONFIG)
    assert "leave out --cluster" in conceptevo_("run", config, "--plan", "--cluster", "auto")
    for memory in ("nan", "-1", "inf", "0"):
        result = CliRunner().invoke(cli.app, ["bench", str(tmp_path), "--memory", memory])
        assert "Invalid value for '--memory'" in result.output
