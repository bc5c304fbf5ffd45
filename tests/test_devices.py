"""The device, its precision, and the memory budget."""

import logging
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness.artifacts import Run
from harness.config import parse_config
from harness.evolutions.sensitivity import maps_and_gradients
from harness.images.view import View
from harness.networks import budget, devices
from harness.networks.architectures import build
from harness.networks.budget import (
    BatchWork,
    measure_bytes,
    measure_cost,
    measure_seconds,
    run_halving,
    worker_bytes,
)
from harness.networks.devices import CPU, Device, choose_device
from harness.networks.layers import find_layers
from harness.registry import UserCodeError, call_user_code
from harness.stages.engine import WorkError, _name_work_in_errors
from harness.stages.stage import Plan

GPU = [name for name in devices.devices() if name != "cpu"]

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPU, reason="torch sees no GPU on this machine"),
]


def test_the_cpu_is_always_there_and_auto_takes_the_first(monkeypatch):
    assert choose_device("cpu") == CPU == Device("cpu", "float32")
    monkeypatch.setattr(devices, "devices", lambda: ["cuda:0", "cuda:1", "cpu"])
    assert choose_device("auto").name == "cuda:0"
    assert choose_device("cuda").name == "cuda:0"
    assert choose_device("cuda:1", "bfloat16") == Device("cuda:1", "bfloat16")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", r"device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
        ("cuda:7", r"device 'cuda:7' is not available: torch .* finds .*cpu; choose"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name, message):
    with pytest.raises(ValueError, match=message):
        choose_device(name)


@pytest.mark.parametrize(
    ("precision", "error"), [("float32", 0), ("bfloat16", 2e-2), ("float16", 2e-3)]
)
def test_a_lower_precision_moves_outputs_by_its_rounding(precision, error):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    batch = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        plain = model(batch)
        with Device("cpu", precision).computing():
            computed = model(batch).float()
        assert torch.equal(model(batch), plain)  # the precision ends with the block
    assert (computed - plain).norm() <= error * plain.norm()
    assert torch.equal(computed, plain) == (precision == "float32")


def test_processes_decode_the_files_for_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "devices", lambda: ["cuda:0", "cpu"])
    monkeypatch.setattr("harness.stages.stage.cores", lambda: 8)
    monkeypatch.setattr(budget, "free_bytes", lambda device: 2**30)
    files = {"source": "folder", "probe": "a", "test": "b"}
    for readers, images, more in (
        (4, files, {"device": "cuda"}),
        (3, files, {"device": "cuda", "readers": 3}),
        (0, files, {"device": "cpu"}),
        (0, {"source": "drawn"}, {"device": "cuda"}),  # in memory
    ):
        config = parse_config({"images": images, "series": [{"name": "a"}], **more})
        assert Plan(config, Run(tmp_path), workers=2).resources.readers == readers


@pytest.mark.parametrize(("name", "value"), [("allow_tf32", True), ("fp32_precision", "tf32")])
def test_a_gpu_computes_in_full_precision_whatever_the_program_has_set(name, value):
    """Once the second setting is made, torch refuses to read the first."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip(f"torch {torch.__version__} has the first setting only")
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        with Device("cuda:0").computing():
            assert matmul.fp32_precision == "ieee" and cudnn.conv.fp32_precision in ("ieee", "none")
            assert cudnn.deterministic and not cudnn.benchmark
        assert getattr(matmul, name) == value and not cudnn.deterministic
    finally:
        setattr(matmul, name, before)


@pytest.mark.parametrize("name", [pytest.param(name, marks=on_gpu) for name in GPU or ["cuda:0"]])
def test_a_gpu_gives_the_same_numbers(name):
    device = choose_device(name)
    model = build("small_vgg", 6, seed=0).eval()
    batch = torch.randn(8, 3, 64, 64)
    layers = find_layers(model, View(64, 64))
    maps, gradients = maps_and_gradients(model, layers, batch, 2)
    with device.computing():
        other = maps_and_gradients(device.model(model), layers, device.batch(batch), 2)
    for layer in layers:
        for mine, theirs in ((maps, other[0]), (gradients, other[1])):
            torch.testing.assert_close(
                theirs[layer.name].cpu(), mine[layer.name], rtol=1e-3, atol=1e-4
            )


@pytest.mark.slow
def test_a_simulated_second_device_gives_the_same_results():
    """In another process, because torch cannot forget a kind of device, and other tests see it."""
    tests = Path(__file__).with_name("on_second_device.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(tests)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


def test_measured_memory_is_what_is_held_at_the_worst_moment():
    runs = []

    def work():
        runs.append(1)
        first = torch.zeros(4, 1000)  # 16,000 bytes
        second = first + 1  # 16,000 more
        del first
        return second + 1  # and 16,000, when the first are gone

    assert measure_bytes(work, images=4) == pytest.approx(2 * 16_000 / 4, rel=1e-2)
    assert len(runs) == 1  # a run's size of batches needs no time
    cost = measure_cost(work, images=4)
    assert cost.bytes == measure_bytes(work, images=4)
    assert cost.seconds > 0


def test_the_time_of_work_does_not_depend_on_other_programs():
    assert 0 <= measure_seconds(lambda: time.sleep(0.05)) < 0.02


def test_measured_memory_grows_with_the_images_alone():
    model = build("small_vgg", 6, seed=0).eval()
    layers = find_layers(model, View(64, 64))
    few, many = (
        measure_cost(lambda b=b: maps_and_gradients(model, layers, b, 0), len(b)).bytes
        for b in (torch.randn(8, 3, 64, 64), torch.randn(32, 3, 64, 64))
    )
    assert many == pytest.approx(few, rel=0.1)
    maps, gradients = maps_and_gradients(model, layers, torch.randn(8, 3, 64, 64), 0)
    held = sum(part[layer.name].nbytes for part in (maps, gradients) for layer in layers) / 8
    assert few > held


def test_a_container_s_limit_counts(tmp_path):
    folder = tmp_path / "sys/fs/cgroup"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text("max\n")
    (folder / "memory.current").write_text("1000\n")
    unlimited = budget.free_bytes(root=tmp_path)
    assert unlimited > 2**20
    (folder / "memory.max").write_text("1048576\n")
    assert budget.free_bytes(root=tmp_path) == 1048576 - 1000


def test_workers_share_the_budget(monkeypatch):
    own = budget.WORKER_BYTES
    assert worker_bytes(6.0, 3) == int(0.85 * 2 * 2**30) - own
    assert worker_bytes(6.0, 0) == int(0.85 * 6 * 2**30) - own
    assert worker_bytes(0.5, 2) == 0
    assert worker_bytes(6.0, 3, Device("cuda:0")) == int(0.85 * 2 * 2**30)
    monkeypatch.setattr(budget, "free_bytes", lambda device: 10 * 2**30)
    assert worker_bytes(None, 2) == int(0.7 * 5 * 2**30) - own
    assert worker_bytes(None, 2, Device("cuda:0")) == int(0.7 * 5 * 2**30)


def test_batches_fit_the_budget_or_the_message_says_what_is_missing():
    cost = 253 * 2**20
    work = BatchWork("importance of vgg", lambda: None, 4, largest=32)
    assert work.batch_size(cost, 8 * 2**30) == 32
    assert work.batch_size(cost, 4 * 2**30) == 16
    with pytest.raises(ValueError, match=r"importance of vgg: 4 images need 0\.99 GiB per worker"):
        work.batch_size(cost, 2**29)
    assert replace(work, largest=2).batch_size(cost, 2**29) == 2
    with pytest.raises(ValueError, match=r"4 images need 12\.00 MiB .* only 0\.10 MiB are free"):
        work.batch_size(3 * 2**20, 100_000)


def memory_error_of_user_code():
    def allocate():
        raise MemoryError("numpy")

    with pytest.raises(
        UserCodeError, match="ablation 'mine' failed: MemoryError: numpy"
    ) as failure:
        call_user_code("ablation 'mine'", allocate)
    return failure.value


def test_lack_of_memory_in_users_code_is_not_called_a_fault_of_it():
    class Naming:
        makes = ("concepts of vgg",)

    error = memory_error_of_user_code()
    message = "^concepts of vgg: out of memory; decrease"
    with pytest.raises(WorkError, match=message), _name_work_in_errors(Naming()):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("numpy"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB, other allocations: 0 bytes)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        memory_error_of_user_code(),
    ],
)
def test_out_of_memory_halves_the_batch_and_says_so(error, caplog):
    tried = []

    def work(size):
        tried.append(size)
        if size > 7:
            raise error
        return size

    with caplog.at_level(logging.WARNING):
        assert run_halving(work, 25, "probing") == 7
    assert tried == [25, 13, 7]
    assert "probing: out of memory; continuing with 13 images per pass" in caplog.text
    with pytest.raises(MemoryError, match="one image per pass fits"):
        run_halving(lambda size: (_ for _ in ()).throw(error), 2, "probing")


def test_torch_s_own_message_is_recognised():
    with pytest.raises(MemoryError):
        run_halving(lambda size: torch.empty(2**55), 1, "probing")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape"):
        run_halving(lambda size: (_ for _ in ()).throw(RuntimeError("shape")), 4, "probing")


def test_an_array_is_what_it_was():  # batches stay as they are on the CPU
    batch = torch.from_numpy(np.zeros((2, 3, 4, 4), dtype=np.float32))
    assert CPU.batch(batch) is batch
