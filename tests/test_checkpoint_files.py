"""Checkpoint files as people have them load as the plain state dict does, or say why not."""

import argparse
import collections
import logging
import pathlib

import numpy as np
import pytest
import torch
from torch import nn

from harness.networks.checkpoint_files import CheckpointError, convert, fill, load_weights
from harness.networks.sources import FolderSource


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


class Wrapped(nn.Module):
    """A network whose own attribute is called as DataParallel's is."""

    def __init__(self):
        super().__init__()
        self.module = network(1)

    def forward(self, x):
        return self.module(x)


STATE = network().state_dict()


def under(prefix):
    return {prefix + name: tensor for name, tensor in STATE.items()}


PREFIXES = [
    *("module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module."),
    *("module.model.", "my_own_attribute.", "a.b.c."),
]
BESIDE = {
    "optimizer": {"state": {}, "param_groups": []},
    "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs"), classes=("a", "b")),
    "best": np.float64(0.5),
    "accuracy": np.float32(0.5),
    "history": collections.defaultdict(list, {"loss": [1.0]}),
    "counts": collections.Counter("ab"),
    "epoch": 3,
    "array": np.arange(3),
}
FILES = {
    "bare": STATE,
    "state_dict": {"state_dict": STATE, **BESIDE},
    "model": {"model": STATE, **BESIDE},
    "model_state_dict": {"model_state_dict": STATE},
    "the only one": {"epoch": 1, "generator": STATE},
    "nested": {"checkpoint": {"weights_of_it": STATE}},
    "lightning": {"state_dict": under("model."), "hyper_parameters": {"lr": 0.1}, "loops": {}},
    "lightning compiled": {"state_dict": under("model._orig_mod.")},
    "a part of clip": under("module.visual.") | {"module.logit_scale": torch.ones(1)},
    "a part of a model with a head": under("backbone.") | {"head.weight": torch.ones(2)},
    "averaged": {"n_averaged": torch.tensor(5), **under("module.")},
    "weights and ema": {"model": STATE, "model_ema": under("wrong.")},
    **{f"prefix {prefix}": under(prefix) for prefix in PREFIXES},
}


@pytest.mark.parametrize("name", FILES)
def test_it_loads_as_the_plain_state_dict(name, tmp_path):
    torch.save(FILES[name], tmp_path / "w.pth")
    loaded = load_weights(network(9), tmp_path / "w.pth").state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in STATE.items())


def test_keys_that_fit_are_taken_as_they_are(tmp_path):
    own = Wrapped()
    torch.save(own.state_dict(), tmp_path / "w.pth")
    loaded = load_weights(Wrapped(), tmp_path / "w.pth").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in own.state_dict().items())


def test_what_was_removed_is_said(caplog):
    with caplog.at_level(logging.INFO):
        fill(network(), {"state_dict": under("model._orig_mod.")}, "w.ckpt")
    assert "w.ckpt: state dict 'state_dict', prefix 'model._orig_mod.' removed" in caplog.text


def test_key_chooses_among_several(tmp_path):
    file = {"model": network(1).state_dict(), "ema": {"shadow": STATE}, "teacher": STATE}
    for key in ("ema.shadow", "teacher"):
        loaded = fill(network(9), file, "w", key).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in STATE.items())
    with pytest.raises(CheckpointError, match=r"key = 'emma'; there are: model, ema.shadow, teach"):
        fill(network(), file, "w", "emma")
    with pytest.raises(CheckpointError, match=r'several state dicts \(a, b\).*key = "a"'):
        fill(network(), {"a": STATE, "b": STATE}, "w")


def test_safetensors_and_folders_of_hugging_face(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "checkpoint-500").mkdir()
    save_file(STATE, tmp_path / "checkpoint-500" / "model.safetensors")
    for path in (tmp_path / "checkpoint-500", tmp_path / "checkpoint-500" / "model.safetensors"):
        loaded = load_weights(network(9), path).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in STATE.items())
    (tmp_path / "checkpoint-600").mkdir()
    with pytest.raises(CheckpointError, match=r"holds neither model.safetensors nor pytorch_model"):
        load_weights(network(), tmp_path / "checkpoint-600")


class Trainer:
    """An object that a training script saves."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": STATE, "trainer": Trainer()}, r"an object of class \S*Trainer .*convert"),
        (network(), r"an object of class torch.nn.\S+ .*convert .* --trust"),
        ({"state_dict": {"0.weight": 1}, "names": ["a"]}, r"holds no state dict but a dict of"),
        ([1, 2], r"holds no state dict but list"),
        ({}, r"holds no state dict"),
        (under("a.") | {"b.c": torch.ones(1)}, r"does not fit .* missing 0.weight"),
    ],
)
def test_what_cannot_be_loaded_says_why(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        load_weights(network(), tmp_path / "w.pth")


def test_torchscript_is_no_damaged_file(tmp_path):
    torch.jit.trace(network().eval(), torch.rand(1, 3, 8, 8)).save(str(tmp_path / "w.pt"))
    with pytest.raises(CheckpointError, match="is a TorchScript archive"):
        load_weights(network(), tmp_path / "w.pt")


def test_a_trusted_file_is_converted(tmp_path):
    torch.save({"net": network(), "trainer": Trainer()}, tmp_path / "w.pth")
    keys, tensors = convert(tmp_path / "w.pth", tmp_path / "clean.pth")
    assert keys == ["net"] and tensors == len(STATE)
    loaded = load_weights(network(9), tmp_path / "clean.pth").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in STATE.items())


def source(folder, pattern, **more):
    return FolderSource(
        name="net",
        source="folder",
        architecture="small_vgg",
        folder=folder,
        pattern=pattern,
        **more,
    )


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("model-{epoch}.pth", ["model-1.pth", "model-20.pth"]),
        ("epoch={epoch}-step=*.ckpt", ["epoch=1-step=80.ckpt", "epoch=20-step=1600.ckpt"]),
        ("checkpoint-{epoch}", ["checkpoint-1/model.safetensors", "checkpoint-20/x.bin"]),
        ("checkpoint-{epoch}/w.bin", ["checkpoint-1/w.bin", "checkpoint-20/w.bin"]),
        ("*_{epoch}.pt", ["a_1.pt", "b_20.pt"]),
        ("ck[{epoch}].pt", ["ck[1].pt", "ck[20].pt"]),
    ],
)  # fmt: skip
def test_patterns_find_the_epochs(pattern, names, tmp_path):
    for name in [*names, "other.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert source(tmp_path, pattern).epochs() == (1, 20)
    assert source(tmp_path, pattern, skip=(1,)).epochs() == (20,)


def test_a_pattern_without_files_shows_what_there_is(tmp_path, monkeypatch):
    (tmp_path / "epoch=1-step=80.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"\* for anything\); it holds epoch=1-step=80.ckpt"):
        source(tmp_path, "epoch={epoch}.ckpt").epochs()
    with pytest.raises(ValueError, match=r"skip names epochs \[7\]; there are \[1\]"):
        source(tmp_path, "epoch={epoch}-*.ckpt", skip=(7,)).epochs()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source("~", "epoch={epoch}-*.ckpt").epochs() == (1,)
