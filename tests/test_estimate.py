"""`conceptevo run CONFIG --plan`: what a run would take, before it starts."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from command_line import say
from rich.console import Console
from small_runs import small, write_toml

from harness.config import parse_config
from harness.images.view import View
from harness.networks.budget import GIVEN_SHARE, WORKER_BYTES, Cost, Resources
from harness.networks.objectives import OBJECTIVES, Objective
from harness.networks.sources import TrainedSource
from harness.records import PAIR
from harness.results import REVERSION, read_results
from harness.stages.estimate import SPACE_SIZE, _space_cost
from harness.stages.run import run_until, show_estimate
from harness.stages.sample import Sample

QUIET = Console(quiet=True)
VALUES = small(
    space={"methods": ["jaccard", "ppmi", "profile", "correlation"]},
    memory=4.0, images={"probe": 96, "test": 96}, evolve={"images_per_class": 250},
    revert={"random_draws": 3, "importance_images": 250, "heldout_images": 250},
)  # fmt: skip
CONFIG = parse_config(VALUES)


def test_the_command_prints_every_stage_and_writes_nothing(tmp_path):
    config = write_toml(tmp_path / "one.toml", VALUES)
    out = tmp_path / "run"
    shown = say("run", config, "--out", out, "--plan")
    for stage in ("images", "train", "probe", "naming", "evolve", "revert", "space: jaccard"):
        assert stage in shown
    assert "pieces of work, about" in shown
    assert not out.exists()


@pytest.mark.slow
def test_arms_images_and_disk_are_those_of_the_run(tmp_path, monkeypatch):
    one = {"joint": 1.0, "layer": 1.0}  # seconds an arm and image
    monkeypatch.setattr("harness.stages.sample.arm_seconds", lambda *a: one)
    for stage in ("sample", "train"):
        monkeypatch.setattr(f"harness.stages.{stage}.measure_cost", lambda *a: Cost(1e6, 1.0))
    monkeypatch.setattr("harness.stages.sample.Sample._summary_seconds", lambda *a: 5.0)
    said = show_estimate(CONFIG, tmp_path / "run", QUIET).groupby("stage").sum(numeric_only=True)
    monkeypatch.setattr(
        "harness.stages.space.project", lambda *a: pd.DataFrame({"x": [0.0], "y": [0.0]})
    )
    run = run_until("revert", CONFIG, tmp_path / "run", QUIET)
    records = read_results(run.root, REVERSION).records()
    untouched = records["arm"] == "none"
    assert said.loc["revert", "hours"] * 3600 == pytest.approx((~untouched).sum(), rel=0.02)
    images = records.loc[records["split"] == "importance", "image_id"].nunique()
    scored = run.tables("importance")[["method", "class_id", *PAIR]].drop_duplicates()
    seconds = 2 * images + 5.0 * len(scored)  # by two methods; a summary of each class
    assert said.loc["evolve", "hours"] * 3600 == pytest.approx(seconds)
    assert said.loc["probe", "hours"] * 3600 == pytest.approx(2 * 96, rel=0.05)  # and decoding
    assert said.loc["train", "hours"] * 3600 == 2 * 64  # in whole batches
    folders = {"revert": "ablation", "evolve": "importance", "probe": "probe"}
    folders |= {f"space: {method}": f"space/{method}" for method in CONFIG.space.methods}
    for stage, folder in folders.items():
        files = [
            p for p in (run.root / folder).rglob("*.*") if p.suffix in (".parquet", ".npy", ".npz")
        ]
        size = sum(path.stat().st_size for path in files) / 2**30
        assert size / 12 < said.loc[stage, "disk GiB"] < 3 * size, stage  # small files have heads
    evolve = CONFIG.evolve.model_copy(update={"classes": None})
    left = show_estimate(CONFIG.model_copy(update={"evolve": evolve}), run.root, QUIET)
    assert set(left["stage"]) == {"evolve", "revert"}  # of other classes
    assert show_estimate(CONFIG, run.root, QUIET).empty


def test_pieces_are_those_of_the_run(tmp_path):
    table = show_estimate(CONFIG, tmp_path, QUIET)
    pieces = table.set_index("stage")["pieces"]
    assert pieces["probe"] == 2  # two checkpoints of one range
    assert pieces["evolve"] == 2  # a block of classes by sign_t, and by change, for matched sets
    assert pieces["revert"] == 6  # of controls and a method: the sets, and two splits


@pytest.mark.slow
def test_a_large_space_is_extrapolated_from_small_ones(monkeypatch):
    sizes = []

    def seconds(work):
        sizes.append(work.args[0].incidence.shape)
        return 1e-9 * np.prod(sizes[-1], dtype=float)

    monkeypatch.setattr("harness.stages.estimate.measure_seconds", seconds)
    seconds_of_all, memory, disk = _space_cost("correlation", CONFIG, 100_000, 1_000_000)
    assert np.max(sizes, axis=0).tolist() == list(SPACE_SIZE)
    assert seconds_of_all == pytest.approx(1e-9 * 100_000 * 1_000_000)
    assert memory == 2 * CONFIG.space.dense * 2**30  # it is sketched
    assert disk == 4 * 100_000 * CONFIG.space.sketch
    assert _space_cost("correlation", CONFIG, 2000, 5000)[2] == pytest.approx(4 * 2000 * 5000, 0.01)
    _, smaller, _ = _space_cost("sgns", CONFIG, 100_000, 500_000)
    _, memory, _ = _space_cost("sgns", CONFIG, 100_000, 1_000_000)
    assert memory == pytest.approx(2 * smaller, rel=0.2) and memory > 2**30


def test_a_memory_that_does_not_suffice_is_said(tmp_path):
    config = parse_config({**VALUES, "memory": 0.0001})
    with pytest.raises(ValueError, match="importance of series 'vgg' by .*: 4 images need"):
        show_estimate(config, tmp_path, QUIET)


@pytest.mark.parametrize("works", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_an_objective_takes_counts_when_importance_is_fitted_to_the_memory(
    tmp_path, registries, works
):
    def greedy(output, labels):
        return output[:, 0] + output.new_ones(len(output), 10**7).sum(dim=1)  # 40 MB an image

    OBJECTIVES.put("greedy", Objective(greedy, "something large"))
    values = {**VALUES, "memory": (0.1 + WORKER_BYTES / 2**30) / GIVEN_SHARE}
    show_estimate(parse_config(values), tmp_path / "run", QUIET)
    series = [{**VALUES["series"][0], "objective": "greedy"}]
    config = parse_config({**values, "series": series})
    message = "importance of series 'vgg' by .*: 4 images need 0.1[5-9] GiB per worker"
    with pytest.raises(ValueError, match=message):
        if works:
            run_until("evolve", config, tmp_path / "run", QUIET)
        else:
            show_estimate(config, tmp_path / "run", QUIET)


def test_a_training_keeps_images_in_a_quarter_of_the_memory_at_most(monkeypatch):
    monkeypatch.setattr("harness.stages.sample.training_cost", lambda *a: (Cost(1.0, 1.0), 0))
    work = SimpleNamespace(steps=1)
    plan = SimpleNamespace(
        remaining=lambda works: [work], test_images=SimpleNamespace(classes=("a",))
    )
    sample = SimpleNamespace(plan=plan, images=SimpleNamespace(view=View(64, 64)), sample_size=1)
    sample.batch, sample._estimate = (lambda count: None), (lambda *values: values[3])
    (few,) = Sample.training(sample, TrainedSource(name="a"), 100)
    (many,) = Sample.training(sample, TrainedSource(name="a"), 10**7)
    assert few == 64 + 100 * 3 * 64**2  # a batch, and a byte per number
    assert many == 64 + Resources().memory // 4
