"""Work on another device than the CPU: a simulated one, since tests must pass without a GPU.

test_devices.py runs these tests in a process of their own.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from second_device import NAME, PLACE, SecondDevice
from small_runs import small

import conceptevo as ce
from harness.artifacts import Run
from harness.concepts.probing import ProbeParameters
from harness.config import parse_config
from harness.evolutions.ablation import ABLATIONS, Arm, Images, ablate
from harness.evolutions.importance import IMPORTANCE, sensitivities
from harness.evolutions.sensitivity import Case
from harness.images.view import View
from harness.networks import devices
from harness.networks.architectures import build
from harness.networks.devices import CPU, Device
from harness.networks.layer import ModelPair
from harness.networks.layers import find_layers
from harness.records import JOINT
from harness.stages.run import run_until, show_estimate

QUIET = Console(quiet=True)
#: The networks of a user who moves them to the GPU where they are made.
LOADED = {"name": "loaded", "source": "function", "function": "on_second_device:loaded"}


@pytest.fixture
def second(monkeypatch):
    """The second device, as the one that `auto` takes."""
    monkeypatch.setattr(devices, "devices", lambda: [PLACE, "cpu"])
    # tensors of a subclass replace parameters instead of their data
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    with SecondDevice():
        yield Device(PLACE)
    torch.__future__.set_swap_module_params_on_conversion(swaps)


def loaded(epoch):
    return devices.choose_device("auto").model(build("small_vgg", 12, seed=epoch))


def config(device="auto"):
    series = [{**LOADED, "at": [1, 2], "resize": 32, "crop": 32}]
    return parse_config(small(series=series, device=device))


def test_it_refuses_what_a_gpu_refuses(second):
    here, there = torch.ones(3), torch.ones(3).to(PLACE)
    assert there.device == second.place and there.cpu().equal(here)
    assert (there + 1)[torch.tensor([0, 2])].tolist() == [2, 2]
    for mixed in (
        lambda: here + there,
        lambda: here[there.long()],
        lambda: torch.cat([here, there]),
    ):
        with pytest.raises(RuntimeError, match=f"one device, got \\['cpu', '{NAME}'\\]"):
            mixed()
    with pytest.raises(RuntimeError):
        there.numpy()
    with pytest.raises(TypeError, match="no float64"):
        there.double()


def tables(run: Run) -> dict[str, pd.DataFrame]:
    folders = ("probe", "importance", "ablation")
    return {
        str(path.relative_to(run.root)): pd.read_parquet(path)
        for folder in folders
        for path in sorted((run.root / folder).rglob("*.parquet"))
    }


def test_a_run_gives_the_same_results(second, tmp_path, monkeypatch):
    no_map = pd.DataFrame({"x": [0.0], "y": [0.0]})
    monkeypatch.setattr("harness.stages.space.project", lambda *_: no_map)
    there, here = (
        tables(run_until("revert", config(device), tmp_path / device, QUIET))
        for device in ("auto", "cpu")
    )
    assert set(there) == set(here) and len(there) > 10
    for name, table in there.items():
        pd.testing.assert_frame_equal(table, here[name], obj=name)


def test_every_importance_method_and_ablation_gives_the_same_results(second):
    images, others = torch.randn(2, 4, 3, 32, 32)
    ids = torch.arange(4)

    def results(device):
        nets = [build("small_vgg", 6, seed=seed).eval() for seed in (0, 1)]
        layers = find_layers(nets[1], View(32, 32))
        models = ModelPair(*map(device.model, nets), layers)
        mine, theirs = device.batch(images), device.batch(others)
        for name in IMPORTANCE:
            method, rng = IMPORTANCE.get(name), np.random.default_rng(0)
            yield sensitivities(Case(models, [mine], 2, rng, others=lambda: [theirs]), method)
        arm = Arm(JOINT, {layer.name: ids for layer in layers}, [("", "some", 0)])
        shown = Images([(ids, mine)], lambda: [theirs], lambda _: theirs)
        for name in ABLATIONS:
            yield ablate(models, [arm], shown, 2, name).to_dict()

    np.testing.assert_equal(list(results(second)), list(results(CPU)))


@pytest.mark.parametrize("source", ["loaded", "trained"])
def test_a_run_is_planned(second, tmp_path, source):
    trained = parse_config(small(device="auto"))
    table = show_estimate(config() if source == "loaded" else trained, tmp_path, QUIET)
    assert {"probe", "probe: naming", "evolve", "revert"} <= set(table["stage"])


def test_a_network_is_trained(second, tmp_path):
    logs = []
    for device in ("auto", "cpu"):
        run = run_until("train", parse_config(small(device=device)), tmp_path / device, QUIET)
        logs.append(pd.read_parquet(run.root / "training" / "vgg" / "log.parquet"))
    pd.testing.assert_frame_equal(*logs, rtol=1e-3)


def test_evidence_is_recorded(second, tmp_path):
    pixels = torch.randint(0, 255, (12, 32, 32, 3), dtype=torch.uint8).numpy()
    images = ce.Images(pixels, [0, 1] * 6, classes=["a", "b"])
    evidence = ce.Evidence(images, ce.View(32, 32), ProbeParameters(k=3))
    found = []
    for device in (CPU, second):
        model = device.model(build("small_vgg", 2, seed=0))
        ce.Recorder(tmp_path / device.name, evidence=evidence).record(model, 0)
        assert next(model.parameters()).device.type == device.place.type
        (path,) = Path(tmp_path / device.name).rglob("stimuli*.parquet")
        found.append(pd.read_parquet(path))
    pd.testing.assert_frame_equal(*found)
