"""Common checkpoint files load as the plain state dict does, or the error says why not."""

import argparse
import collections
import gzip
import json
import logging
import math
import pathlib
import pickle
import zipfile
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

from harness.networks.checkpoint_files import load_weights, read_checkpoint
from harness.networks.conversion import convert
from harness.networks.sources import FolderSource
from harness.networks.state_dicts import CheckpointError, fill
from harness.networks.training import save_weights
from harness.torchvision_import import call_with_torchvision


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


class Wrapped(nn.Module):
    """A network with an attribute of its own that has the name of DataParallel's."""

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
    "weights and ema in one": STATE
    | {f"ema.{name}": tensor for name, tensor in network(1).state_dict().items()},
    "weights and ema in one module": under("net.")
    | {f"net.ema.{name}": tensor for name, tensor in STATE.items()},
    "weights and ema": {"model": STATE, "model_ema": network(1).state_dict()},
    "timm": {"state_dict": STATE, "state_dict_ema": network(1).state_dict(), **BESIDE},
    "only ema fits": {"model": {"0.weight": torch.ones(1)}, "ema": STATE},
    "one of two parts": under("encoder.") | {"head.0.weight": torch.ones(2, 2)},
    "the same under two names": {"model": STATE, "net": {"state_dict": STATE}},
    **{
        f"a part in {wrapper}": {
            (name if name[0] == "0" else f"{name[0]}.{wrapper}{name[1:]}"): t
            for name, t in STATE.items()
        }
        for wrapper in ("module", "_orig_mod")
    },
    "without counts of batches": {n: t for n, t in STATE.items() if "tracked" not in n},
    "with counts of operations": STATE
    | {"total_ops": torch.ones(1), "1.total_params": torch.ones(1)},
    "arrays": {name: t.numpy() for name, t in STATE.items()},
    "in a list": [{"epoch": 1}, STATE],
    "sparse": STATE | {"0.weight": STATE["0.weight"].to_sparse()},
    "parameters": {name: nn.Parameter(t, False) for name, t in STATE.items()},
    **{f"prefix {prefix}": under(prefix) for prefix in PREFIXES},
}
STACKS = [
    *("model.module.", "_orig_mod.module.", "model._orig_mod.module.", "student.", "teacher."),
    *("module.encoder.", "_fsdp_wrapped_module.", "ema_model.module.", "trunk.visual."),
]
FILES |= {f"stack {prefix}": {"state_dict": under(prefix)} for prefix in STACKS}


@pytest.mark.parametrize("name", FILES)
def test_it_loads_as_the_plain_state_dict(name, tmp_path):
    torch.save(FILES[name], tmp_path / "w.pth")
    assert same(load_weights(network(9), tmp_path / "w.pth"))


def same(model, state=STATE):
    loaded = model.state_dict()
    return all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_keys_that_fit_are_taken_as_they_are(tmp_path):
    own = Wrapped()
    torch.save(own.state_dict(), tmp_path / "w.pth")
    assert same(load_weights(Wrapped(), tmp_path / "w.pth"), own.state_dict())


def test_what_was_removed_is_said(caplog):
    with caplog.at_level(logging.INFO):
        fill(network(), {"state_dict": under("model._orig_mod.")}, "w.ckpt")
    assert "weights: state dict 'state_dict'; prefix 'model._orig_mod.' removed" in caplog.text
    with caplog.at_level(logging.INFO):
        content = under("backbone.") | {"head.weight": torch.ones(2), "head.bias": torch.ones(2)}
        fill(network(), {"model": content, "ema": STATE}, "w.ckpt")
    assert "other tensors not used: head.weight, head.bias" in caplog.text
    assert "ema would fit, too (choose by `key`)" in caplog.text


def test_key_chooses_among_several(tmp_path):
    file = {"model": network(1).state_dict(), "ema": {"shadow": STATE}, "teacher": STATE}
    for key in ("ema.shadow", "teacher"):
        assert same(fill(network(9), file, "w", key))
    with pytest.raises(CheckpointError, match=r"key = 'emma'; there are: model, ema.shadow, teach"):
        fill(network(), file, "w", "emma")
    other = network(1).state_dict()
    with pytest.raises(CheckpointError, match=r'several state dicts \(a, b\).*key = "a"'):
        fill(network(), {"a": STATE, "b": other}, "w")
    two = {f"student.{n}": t for n, t in STATE.items()} | {f"teacher.{n}": other[n] for n in other}
    with pytest.raises(CheckpointError, match=r"several state dicts \(student, teacher\)"):
        fill(network(), two, "w")
    assert same(fill(network(9), two, "w", "student"))
    assert same(fill(network(9), {"state_dict": two}, "w", "state_dict.student"))
    assert same(fill(network(9), two, "w", "teacher"), other)
    dino = {
        "student": under("module.backbone."),
        "teacher": {f"backbone.{n}": other[n] for n in other},
    }
    assert same(fill(network(9), dino, "w", "teacher"), other)
    assert same(fill(network(9), dino, "w", "student"))


def test_safetensors_and_folders_of_hugging_face(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "checkpoint-500").mkdir()
    save_file(STATE, tmp_path / "checkpoint-500" / "model.safetensors")
    for path in (tmp_path / "checkpoint-500", tmp_path / "checkpoint-500" / "model.safetensors"):
        assert same(load_weights(network(9), path))
    (tmp_path / "checkpoint-600").mkdir()
    with pytest.raises(CheckpointError, match=r"holds neither model.safetensors nor pytorch_model"):
        load_weights(network(), tmp_path / "checkpoint-600")


def test_other_weights_of_a_folder_are_named(tmp_path, caplog):
    from safetensors.torch import save_file

    caplog.set_level("INFO")
    save_file(STATE, tmp_path / "model.safetensors")
    load_weights(network(9), tmp_path)
    assert "several files of weights" not in caplog.text
    torch.save({n: v + 1 for n, v in STATE.items()}, tmp_path / "pytorch_model.bin")
    # a second network of accelerate, and files that hold no weights
    for name in ("adapter_model.safetensors", "model_1.safetensors", "optimizer.bin", "model.txt"):
        (tmp_path / name).touch()
    assert same(load_weights(network(9), tmp_path))
    assert (
        "model.safetensors is read, but not adapter_model.safetensors, model_1.safetensors, "
        "pytorch_model.bin; to read another"
    ) in caplog.text


class Trainer:
    """An object that a training script saves."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": STATE, "trainer": Trainer()}, r"an object of class \S*Trainer .*convert"),
        (network(), r"classes torch.nn.\S+, .*convert .* --trust"),
        ({"state_dict": {"0.weight": 1}, "names": ["a"]}, r"holds no state dict but a dict of"),
        ([1, 2], r"holds no state dict but list"),
        ({}, r"holds no state dict"),
        (
            under("a.") | {"a.b": torch.ones(1)},
            r"does not fit .*prefix 'a.'\): unexpected b\. `arch",
        ),
        (
            STATE | {"3.weight_mask": torch.ones(2, 4, 1, 1)},
            r"computed from others \(pruning, .*prune.remove, remove_parametrizations\)$",
        ),
        ({"base.0.lora_A.weight": torch.ones(2)}, "an adapter's weights: merge them"),
        (list(STATE.values()), "holds tensors without names, as some libraries store"),
        (torch.optim.AdamW(network().parameters()).state_dict(), r"but the state of an optimizer"),
        (
            {"shadow_params": list(STATE.values()), "decay": 0.9},
            r"tensors without names \(shadow",
        ),
        (
            {n: t.to(torch.int8) for n, t in STATE.items()},
            r"0.weight has type torch.int8 inst.*quantised, use those from before they were$",
        ),
        (
            STATE | {"0.weight_scale_inv": torch.ones(1)},
            r"unexpected 0.weight_scale_inv\. If its weights are quantised, use those from before",
        ),
        (
            {n: t for n, t in STATE.items() if n[0] != "3"},
            r"missing 3.weight; missing 3.bias\. If this is the output layer, .*an encoder: let",
        ),
        ({n: t.to("meta") for n, t in STATE.items()}, r"cannot be loaded: .*meta"),
        (
            {"module": {n: torch.empty(0) for n in STATE}},
            r"has shape \(0,\) inst.* between processes \(DeepSpeed\): .python zero_to_fp32.py",
        ),
        (
            STATE | {"3.weight": torch.ones(7, 4, 1, 1), "3.bias": torch.ones(7)},
            r"3.weight has shape \(7, 4, 1, 1\) instead of \(2, 4, 1, 1\).*set outputs = 7 in",
        ),
        (
            {f"x{i}": torch.ones(1) for i in range(30)},
            r"missing .*; and 30 more\. `architecture` must build",
        ),
    ],
)
def test_what_cannot_be_loaded_says_why(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        load_weights(network(), tmp_path / "w.pth")


OTHER_FILES = {
    b"": r"is empty \(0 bytes\)",
    b"version https://git-lfs.github.com/spec/v1\noid": r"is a Git LFS pointer.*lfs pull",
    b"<!DOCTYPE html><html>Sign in</html>": r"is a web page \(HTML\)",
    b"\n <HTML>Sign in</HTML>": r"is a web page \(HTML\)",
    b"\x93NUMPY\x01\x00v\x00{}": r"is a NumPy array",
    b"\x1f\x8b\x08\x00": r"is compressed \(gzip\)",
    b'{"error": "not found", "code": 404}': r"is JSON or other text",
    b"model.pth".ljust(257, b"\0") + b"ustar": r"is a tar archive; unpack it first",
    b"not a checkpoint": r"not a file of torch.save or safetensors: it begins with b'not a ch",
    b"PK\x03\x04rest": r"damaged or truncated",
    pickle.dumps({"0.weight": np.ones(3)}): r"is a plain pickle, .*convert .* --trust",
    (100).to_bytes(8, "little") + b'{"a": ': r"damaged or truncated",
}


@pytest.mark.parametrize("content", OTHER_FILES, ids=str)
def test_other_files_are_named_for_what_they_are(content, tmp_path):
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=OTHER_FILES[content]) as error:
            load_weights(network(), tmp_path / name)
        assert name in str(error.value)


def test_other_archives_are_named_for_what_they_are(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    exported = torch.export.export(network().eval(), (torch.rand(1, 3, 8, 8),))
    torch.export.save(exported, tmp_path / "w.pt2")
    (tmp_path / "w.onnx").write_bytes(b"\x08\x0e:\x03\x12\x01gB\x02\x10\x1c")
    np.save(tmp_path / "w.npy", np.ones(2))
    for name, message in {
        "w.npz": r"is an archive of NumPy arrays \(a.npy\)",
        "w.zip": r"is an archive of other files \(readme.txt\)",
        "w.pt2": r"is an archive of torch.export",
        "w.onnx": r"is an ONNX model, whose .*; save the network's state_dict\(\) with torch.save",
        "w.npy": r"is a NumPy array, whose .*; save the network's state_dict\(\) with torch.save",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            load_weights(network(), tmp_path / name)


def test_torch_saves_old_format_and_another_suffix_load(tmp_path):
    torch.save(STATE, tmp_path / "w.safetensors", _use_new_zipfile_serialization=False)
    assert same(load_weights(network(9), tmp_path / "w.safetensors"))
    torch.save(STATE, tmp_path / "w 1 ä.bin")
    (tmp_path / "link.pth").symlink_to("w 1 ä.bin")
    assert same(load_weights(network(9), tmp_path / "link.pth"))
    (tmp_path / "broken.pth").symlink_to("nowhere.bin")
    with pytest.raises(CheckpointError, match=r"it is a broken link to nowhere.bin"):
        load_weights(network(9), tmp_path / "broken.pth")


@pytest.mark.parametrize("checksums", [True, False])
def test_a_weight_that_was_changed_in_the_file_is_noticed_by_its_checksum(checksums, tmp_path):
    try:
        torch.serialization.set_crc32_options(checksums)
        torch.save(STATE, path := tmp_path / "model-1.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(load_weights(network(9), path))
    content = bytearray(path.read_bytes())
    content[content.index(STATE["0.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    if not checksums:  # the file does not say what was saved
        assert not same(load_weights(network(9), path))
        return
    with pytest.raises(CheckpointError, match=r"damaged: its part model-1/data/0 differs from the"):
        load_weights(network(9), path)


PRECISIONS = ["float16", "bfloat16", "float64", "float8_e4m3fn"]


@pytest.mark.parametrize("name", PRECISIONS)
def test_other_precisions_are_converted_and_named(name, caplog):
    caplog.set_level("INFO")
    kind = getattr(torch, name)
    lower = {n: t.to(kind) if t.is_floating_point() else t for n, t in STATE.items()}
    loaded = fill(network(9), lower, "w").state_dict()
    assert f"weights: numbers of type {name} converted to float32" in caplog.text
    assert loaded["0.weight"].dtype == torch.float32
    assert torch.equal(loaded["0.weight"], STATE["0.weight"].to(kind).float())


def test_a_network_without_auxiliary_classifiers_says_what_to_do():
    parts = {name: nn.Linear(4, 3) for name in ("body", "aux1", "aux2")}
    saved = nn.ModuleDict({"body": parts["body"]}).state_dict()
    with pytest.raises(CheckpointError, match=r"missing aux2.weight.* of your own .*aux_logits=F"):
        fill(nn.ModuleDict(parts), saved, "a file")


def test_a_state_that_is_no_tensor_stays_the_architectures(tmp_path, caplog):
    class Scaled(nn.Linear):
        scale = 1

        def get_extra_state(self):
            return {"scale": self.scale}

        def set_extra_state(self, state):
            self.scale = state["scale"]

    trained = Scaled(2, 2)
    trained.scale = 3
    save_weights(trained, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        loaded = load_weights(Scaled(2, 2), tmp_path / "w.pth")
    assert torch.equal(loaded.weight, trained.weight) and loaded.scale == 1
    assert "_extra_state, which are no tensors, stay the architecture's" in caplog.text


def test_weights_in_several_files(tmp_path):
    from safetensors.torch import save_file

    names = list(STATE)
    shards = {"model-00001-of-00002": names[:3], "model-00002-of-00002": names[3:]}
    weight_map = {n: f"{shard}.safetensors" for shard, part in shards.items() for n in part}
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    for shard, part in shards.items():
        save_file({n: STATE[n] for n in part}, folder / f"{shard}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert same(load_weights(network(9), folder)) and same(load_weights(network(9), index))
    before = source(tmp_path, "checkpoint-{epoch}").identity(1)
    save_file({n: STATE[n] + 1 for n in names[3:]}, folder / "model-00002-of-00002.safetensors")
    assert source(tmp_path, "checkpoint-{epoch}").identity(1) != before
    save_file({n: STATE[n] for n in names[2:]}, folder / "model-00002-of-00002.safetensors")
    assert same(load_weights(network(9), folder))
    save_file({n: STATE[n] + 1 for n in names[2:]}, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=f"different values of {names[2]} in several of its"):
        load_weights(network(9), folder)
    parts = [{**STATE, "extra": torch.tensor([math.nan]), "epoch": 3, "best": {}} for _ in range(2)]
    parts[1]["best"] = {names[0]: STATE[names[0]]}
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "a.bin") | {"": "b.bin"}}))
    torch.save(parts[0], folder / "a.bin")
    torch.save(parts[1], folder / "b.bin")
    with pytest.raises(CheckpointError, match="different values of best in several of its"):
        read_checkpoint(index)
    torch.save(parts[0], folder / "b.bin")
    assert read_checkpoint(index)["epoch"] == 3
    index.write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="files that do not exist: model-00002-of-0000"):
        load_weights(network(9), folder)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="is damaged or no index of weights"):
        load_weights(network(9), folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((".metadata", "__0_0.distcp"), r"torch.distributed.checkpoint \(FSDP\).* dcp_to_torch "),
        (("global_step5/mp_rank_00_model_states.pt", "latest"), r"DeepSpeed.*zero_to_fp32.py"),
        (("checkpoint/zero_pp_rank_0_mp_rank_00_optim_states.pt",), r"DeepSpeed.*zero_to_fp32.py"),
        (("adapter_model.safetensors", "adapter_config.json"), r"an adapter's weights"),
        (("tf_model.h5", "config.json"), r"TensorFlow's weights"),
        (("flax_model.msgpack",), r"Flax's weights"),
        (("weights.bin", "notes.txt"), r"but notes.txt, weights.bin; .*name it in `pattern`"),
        ((), r"but nothing"),
    ],
)
def test_other_folders_are_named_for_what_they_are(files, message, tmp_path):
    for name in files:
        (tmp_path / "c" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / name).write_bytes(b"x")
    (tmp_path / "c").mkdir(exist_ok=True)
    with pytest.raises(CheckpointError, match=message):
        load_weights(network(), tmp_path / "c")


def test_one_tensor_under_two_names_is_stored_once(tmp_path):
    from safetensors.torch import save_model

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

    model = Tied()
    save_model(model, tmp_path / "w.safetensors")
    assert same(load_weights(Tied(), tmp_path / "w.safetensors"), model.state_dict())


def test_tensors_that_are_one_in_the_architecture_must_be_equal():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    apart = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model[1].weight = model[0].weight
    with pytest.raises(CheckpointError, match="0.weight and 1.weight are one tensor in the archit"):
        fill(model, apart, "w")
    fill(model, apart | {"1.weight": apart["0.weight"]}, "w")


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_names_that_a_networks_own_code_takes_fit(caplog):
    former = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)), nn.BatchNorm2d(3))
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
        call_with_torchvision(import_module, "torchvision.ops").FrozenBatchNorm2d(3),
    )
    state = {f"net.{name}": tensor for name, tensor in former.state_dict().items()}
    with caplog.at_level(logging.INFO):
        fill(model, state, "w")
    assert torch.equal(model[0].weight, former[0].weight)
    assert "converted from other names by the network's own code" in caplog.text
    for name, wrong in (("0.weight_g", torch.ones(2)), ("1.weight", torch.ones(3).int())):
        with pytest.raises(CheckpointError, match="does not fit the architecture"):
            fill(model, state | {f"net.{name}": wrong}, "w")


def test_torchscript_is_no_damaged_file(tmp_path):
    torch.jit.trace(network().eval(), torch.rand(1, 3, 8, 8)).save(str(tmp_path / "w.pt"))
    with pytest.raises(CheckpointError, match="is a TorchScript archive"):
        load_weights(network(), tmp_path / "w.pt")
    assert convert(tmp_path / "w.pt", tmp_path / "clean.pth") == ([""], len(STATE))
    assert same(load_weights(network(9), tmp_path / "clean.pth"))


def test_a_newer_pickle_protocol_is_converted(tmp_path):
    torch.save(STATE, tmp_path / "w.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match=r"\(protocol 4 or later\).*convert .* --trust"):
        load_weights(network(), tmp_path / "w.pth")
    convert(tmp_path / "w.pth", tmp_path / "clean.pth")
    assert same(load_weights(network(9), tmp_path / "clean.pth"))


def test_a_plain_pickle_is_converted(tmp_path):
    for content in (STATE, {"model": {n: t.numpy() for n, t in STATE.items()}}):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
        convert(tmp_path / "w.pkl", tmp_path / "clean.pth")
        assert same(load_weights(network(9), tmp_path / "clean.pth"))
    (tmp_path / "w.pkl").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"w.pkl cannot be loaded \("):
        convert(tmp_path / "w.pkl", tmp_path / "clean.pth")


class Pieces(torch.Tensor):
    """A tensor that is computed from others or is split between processes."""


def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path):
    content = STATE | {"0.weight": STATE["0.weight"].as_subclass(Pieces)}
    with pytest.raises(CheckpointError, match="0.weight is of class Pieces. If its weights are qu"):
        fill(network(), content, "w")
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds 0.weight as a Pieces, not as plain numbers"):
        convert(tmp_path / "w.pth", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
    Pieces.__name__ = "DTensor"
    try:
        with pytest.raises(CheckpointError, match="split between processes .*get_model_state_dict"):
            fill(network(), content, "w")
    finally:
        Pieces.__name__ = "Pieces"


def test_a_trusted_file_is_converted(tmp_path):
    torch.save({"net": network(), "trainer": Trainer()}, tmp_path / "w.pth")
    keys, tensors = convert(tmp_path / "w.pth", tmp_path / "clean.pth")
    assert keys == ["net"] and tensors == len(STATE)
    (tmp_path / "w.pkl.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(CheckpointError, match=r"is compressed \(gzip\); unpack it first"):
        convert(tmp_path / "w.pkl.gz", tmp_path / "clean.pth")
    assert same(load_weights(network(9), tmp_path / "clean.pth"))


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
        ("checkpoint-{epoch}/", ["checkpoint-1/model.safetensors", "checkpoint-20/x.bin"]),
        ("checkpoint-{epoch}/w.bin", ["checkpoint-1/w.bin", "checkpoint-20/w.bin"]),
        ("*_{epoch}.pt", ["a_1.pt", "b_20.pt"]),
        ("m{epoch}*.pt", ["m1.pt", "m20-loss0.3.pt"]),
        ("m*{epoch}/x.pt", ["m-1/x.pt", "mm20/x.pt"]),
        ("ck[{epoch}].pt", ["ck[1].pt", "ck[20].pt"]),
        ("what? {epoch} ü.pt", ["what? 1 ü.pt", "what? 20 ü.pt"]),
        ("**/e{epoch}.pt", ["e1.pt", "a/b/e20.pt"]),
        ("./run*/e{epoch}.pt", ["run1/e1.pt", "run 2/e20.pt"]),
    ],
)  # fmt: skip
def test_patterns_find_the_epochs(pattern, names, tmp_path):
    for name in [*names, "other.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert source(tmp_path, pattern).epochs() == (1, 20)
    assert source(tmp_path, pattern, skip=(1,)).epochs() == (20,)


def test_a_pattern_that_fits_several_numbers_is_refused(tmp_path):
    for name in ("net_5_acc_0.93.pth", "net_6_acc_0.95.pth"):
        (tmp_path / name).touch()

    def epochs(pattern):
        fields = {"name": "mine", "architecture": "a", "folder": tmp_path, "pattern": pattern}
        return FolderSource(**fields).epochs()

    assert epochs("net_{epoch}_*.pth") == epochs("*_{epoch}_acc*") == (5, 6)
    with pytest.raises(CheckpointError, match=r"epoch of net_5_acc_0.93.pth may be 5 or 93: write"):
        epochs("*{epoch}*.pth")


def test_files_without_an_epochs_number_are_counted(tmp_path):
    for name in ("model-1.pth", "model-best.pth", "model-1.5.pth", "model-last.pth", "notes.pth"):
        (tmp_path / name).write_bytes(b"x")
    mine = source(tmp_path, "model-{epoch}.pth")
    assert mine.epochs() == (1,)
    assert mine.files_without_epoch() == ["model-1.5.pth", "model-best.pth", "model-last.pth"]


def test_files_whose_names_differ_in_more_than_numbers_are_named(tmp_path):
    def remarks(names, pattern):
        folder = tmp_path / pattern.replace("*", "x").replace("/", "-")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        source = FolderSource(
            name="a", folder=folder, pattern=pattern, architecture="small_vgg", skip=()
        )
        return [text for text in source.remarks() if "more than numbers" in text]

    steps = ["epoch=1-val_loss=0.25.ckpt", "epoch=2-val_loss=1.5e-05.ckpt"]
    assert remarks(steps, "epoch={epoch}-val_loss=*.ckpt") == []
    (text,) = remarks(["a-1.pth", "a-3.pth", "b-2.pth"], "*-{epoch}.pth")
    assert "(a-1.pth, b-2.pth): if they are of several training runs, make each run a" in text
    assert remarks(["one/1.pth", "two/2.pth"], "**/{epoch}.pth")


@pytest.mark.parametrize("pattern", ["model-{epoch}*.pth", "model-*{epoch}.pth"])
def test_a_part_of_a_number_is_no_epoch(pattern, tmp_path):
    """Taken for 0, 1 and 2, or for 5, they would stand in a wrong order or for one another."""
    whole, parts = ["model-3.pth"], ["model-0.5.pth", "model-1.5.pth", "model-2,5.pth"]
    if pattern == "model-{epoch}*.pth":
        whole += ["model-4.best.pth", "model-5-acc0.9.pth", "model-6_m.pth", "model-7em.pth"]
        parts += ["model-1e3.pth", "model-10k.pth", "model-2M-x.pth"]
    for name in [*whole, *parts]:
        (tmp_path / name).touch()
    mine = source(tmp_path, pattern)
    assert [path.name for path in mine.files().values()] == whole
    assert mine.files_without_epoch() == sorted(parts)


def test_names_that_differ_in_capitals_are_named(tmp_path):
    for name in ("run/model-1.pth", "run/Model-2.pth", "Run/model-3.PTH"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    mine = source(tmp_path, "run/model-{epoch}.pth")
    assert mine.epochs() == (1,)
    assert mine.files_without_epoch() == ["Run/model-3.PTH", "run/Model-2.pth"]


def test_a_pattern_lies_below_its_folder(tmp_path, monkeypatch):
    for pattern in ("/a/{epoch}.pth", "../{epoch}.pth"):
        with pytest.raises(ValueError, match="pattern must be a path below folder"):
            source(tmp_path, pattern)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"folder none does not exist \(looked for in /"):
        source("none", "{epoch}.pth").epochs()
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"folder file is not a folder"):
        source("file", "{epoch}.pth").epochs()


def test_a_pattern_without_files_shows_what_there_is(tmp_path, monkeypatch):
    (tmp_path / "epoch=1-step=80.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"\* for anything\); it holds epoch=1-step=80.ckpt"):
        source(tmp_path, "epoch={epoch}.ckpt").epochs()
    with pytest.raises(ValueError, match=r"skip leaves out all epochs, \[1\]"):
        source(tmp_path, "epoch={epoch}-*.ckpt", skip=(1,)).epochs()
    with pytest.raises(ValueError, match=r"only\n.* at least 1 item"):
        source(tmp_path, "epoch={epoch}-*.ckpt", only=())
    with pytest.raises(ValueError, match=r"skip names epochs \[7\]; there are \[1\]"):
        source(tmp_path, "epoch={epoch}-*.ckpt", skip=(7,)).epochs()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source("~", "epoch={epoch}-*.ckpt").epochs() == (1,)
