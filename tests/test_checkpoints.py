import pickle
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from harness.artifacts import Run
from harness.files import cache_listings
from harness.networks.architectures import build
from harness.networks.sources import (
    SOURCES,
    CheckpointError,
    FolderSource,
    FunctionSource,
    load_weights,
    parse_source,
)
from harness.networks.torchvision_source import TorchvisionSource
from harness.records import Series
from harness.stages.checkpoints import load_epoch


@pytest.fixture
def network():
    return build("small_vgg", 4, seed=1)


def folder(path, **more):
    return FolderSource(name="mine", architecture="small_vgg", folder=path, **more)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_epochs_come_from_file_names_in_number_order(tmp_path, network):
    for epoch in (10, 2, 0):
        torch.save(network.state_dict(), tmp_path / f"model-{epoch}.pth")
    (tmp_path / "model-x.pth").write_text("not one")
    assert folder(tmp_path).series() == Series("mine", (0, 2, 10))
    assert same(folder(tmp_path).load(2, 4, Run(tmp_path)), network)
    assert folder(tmp_path, only=(2, 10)).epochs() == (2, 10)
    with pytest.raises(CheckpointError, match=r"epochs \[5\], for which .* has no checkpoint"):
        folder(tmp_path, only=(5,)).epochs()
    (tmp_path / "model-2.pth").unlink()  # as when a training deletes old ones during a run
    with pytest.raises(CheckpointError, match="held a checkpoint of epoch 2 when the command bega"):
        folder(tmp_path).load(2, 4, Run(tmp_path))


def test_two_files_of_one_epoch_are_refused(tmp_path):
    for name in ("model-3.pth", "model-03.pth"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="model-03.pth and .*model-3.pth are both epoch 3"):
        folder(tmp_path).epochs()
    for run in "ab":
        (tmp_path / run).mkdir()
        (tmp_path / run / "model-1.pth").touch()
    with pytest.raises(
        CheckpointError, match="a/model-1.pth and .*/b/model-1.pth are both epoch 1"
    ):
        folder(tmp_path, pattern="*/model-{epoch}.pth").epochs()


def test_no_matching_file_and_no_folder(tmp_path):
    with pytest.raises(CheckpointError, match="matches pattern = 'model-{epoch}.pth'"):
        folder(tmp_path).epochs()
    with pytest.raises(CheckpointError, match="does not exist"):
        folder(tmp_path / "none").epochs()
    with pytest.raises(ValidationError, match="pattern must contain {epoch} once"):
        folder(tmp_path, pattern="model.pth")


def test_misfits_are_listed_together(tmp_path, network):
    state = network.state_dict()
    del state["features.0.weight"]
    state["extra"] = torch.zeros(1)
    state["classifier.3.bias"] = torch.zeros(9)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        load_weights(network, tmp_path / "w.pth")
    text = str(error.value)
    assert "missing features.0.weight" in text
    assert "unexpected extra" in text
    assert "classifier.3.bias has shape (9,) instead of (4,)" in text


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path, network, capsys):
    torch.save({"model": network.state_dict(), "extra": Evil()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"class \S*print .*run code.*convert .* --trust"):
        load_weights(network, tmp_path / "w.pth")
    (tmp_path / "p.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        load_weights(network, tmp_path / "p.pth")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("keep", [0, 10, 1000, 0.5, 0.99])
def test_a_truncated_checkpoint_says_so(tmp_path, network, keep):
    path = tmp_path / "w.pth"
    torch.save(network.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(CheckpointError, match=r"damaged|is empty \(0 bytes\)"):
        load_weights(network, path)


def test_a_missing_file_and_a_file_without_state_dict(tmp_path, network):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_weights(network, tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_weights(network, tmp_path / "list.pth")


def test_identity_changes_with_the_file(tmp_path, network):
    path = tmp_path / "model-1.pth"
    torch.save(network.state_dict(), path)
    before = folder(tmp_path).identity(1)
    assert folder(tmp_path).identity(1) == before
    torch.save(build("small_vgg", 4, seed=2).state_dict(), path)
    assert folder(tmp_path).identity(1) != before


def test_torchvision_by_name():
    source = TorchvisionSource(name="r", architecture="resnet18", outputs=7)
    model = source.load(0, 3, Run(Path("none")))
    assert model.fc.out_features == 7
    assert same(model, source.load(0, 3, Run(Path("none"))))
    with pytest.raises(ValueError, match=r"unknown architecture 'resnet19'; known: small_vgg"):
        TorchvisionSource(name="r", architecture="resnet19").load(0, 3, Run(Path("none")))
    with pytest.raises(CheckpointError, match="no weights 'BEST' for resnet18"):
        TorchvisionSource(name="r", architecture="resnet18", checkpoints={1: "BEST"}).load(
            1, 3, Run(Path("none"))
        )


def test_random_weights_are_random_in_all_parts_of_a_torchvision_model(monkeypatch):
    """By default, torchvision downloads weights for the backbone of a segmentation network."""
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)
    first, second = (build("lraspp_mobilenet_v3_large", 3, seed) for seed in (0, 1))
    assert not torch.equal(*(next(model.backbone.parameters()) for model in (first, second)))
    with pytest.raises(ValueError, match="architecture 'raft_small' of torchvision failed: Type"):
        build("raft_small", 3)


def test_modules_whose_state_has_a_version_are_loaded(tmp_path):
    """MNASNet refuses a state dict without it, as files of safetensors have none."""
    model = build("mnasnet0_5", 3, 0)
    torch.save(dict(build("mnasnet0_5", 3, 1).state_dict()), tmp_path / "w.pth")
    assert same(load_weights(model, tmp_path / "w.pth"), build("mnasnet0_5", 3, 1))


@pytest.mark.parametrize(
    ("architecture", "changes", "told"),
    [
        ("resnet18", {}, []),
        ("vgg16", {"checkpoints": {0: "random"}, "resize": 64, "crop": 64}, []),
        ("inception_v3", {}, []),
        (
            "inception_v3",
            {"resize": 256, "crop": 224},
            ["settings: resize = 342, crop = 299, mean"],
        ),
        ("resnet18", {"mean": (0.5, 0.5, 0.5)}, ["mean = [0.485, 0.456, 0.406], std"]),
        ("efficientnet_b0", {"interpolation": "bilinear"}, ["interpolation = bicubic"]),
        ("resnet50", {"checkpoints": {5: "IMAGENET1K_V1", 90: "IMAGENET1K_V2"}}, ["V1 with other"]),
        ("fasterrcnn_resnet50_fpn", {"checkpoints": {0: "COCO_V1"}}, []),  # classifies no images
        ("resnet19", {}, []),  # cannot be loaded
    ],
)
def test_how_torchvision_evaluates_its_weights_is_told_if_it_differs(architecture, changes, told):
    values = {"checkpoints": {0: "random", 90: "IMAGENET1K_V1"}} | changes
    source = TorchvisionSource(name="r", architecture=architecture, **values)
    remarks = list(source.remarks())
    assert len(remarks) == len(told) and all(t in r for t, r in zip(told, remarks, strict=True))


@pytest.mark.parametrize(
    ("architecture", "changes", "expected"),
    [
        ("inception_v3", {}, (342, 299, "bilinear")),
        ("efficientnet_b0", {"mean": (0.5, 0.5, 0.5)}, (256, 224, "bicubic")),
        ("inception_v3", {"resize": 100, "crop": 99}, (100, 99, "bilinear")),
        (
            "resnet50",
            {"checkpoints": {5: "IMAGENET1K_V1", 90: "IMAGENET1K_V2"}},
            (232, 224, "bilin"),
        ),
        ("vit_b_16", {"checkpoints": {0: "random"}}, (256, 224, "bilinear")),
    ],
)
def test_torchvisions_weights_get_torchvisions_preparation(architecture, changes, expected):
    values = {"checkpoints": {0: "random", 90: "IMAGENET1K_V1"}} | changes
    view = TorchvisionSource(name="r", architecture=architecture, **values).view
    assert (view.resize, view.crop) == expected[:2] and view.interpolation.startswith(expected[2])
    assert view.mean == changes.get("mean", (0.485, 0.456, 0.406))


@pytest.mark.parametrize("checkpoints", [{}, 3, {"a": 4}, {0: None}, {0: ["x"]}])
def test_wrong_checkpoints_of_torchvision_are_refused(checkpoints):
    with pytest.raises(ValueError, match="checkpoints"):
        TorchvisionSource(name="r", architecture="resnet18", checkpoints=checkpoints).epochs()


def from_epoch(epoch):
    return build("small_vgg", 4, seed=epoch)


def not_a_model(epoch):
    return epoch


def test_the_users_own_function():
    own = FunctionSource(name="own", function="test_checkpoints:from_epoch", at=(5, 1))
    assert own.epochs() == (1, 5)
    assert same(own.load(5, 4, Run(Path("none"))), build("small_vgg", 4, seed=5))
    wrong = own.model_copy(
        update={"source": "function", "function": "test_checkpoints:not_a_model"}
    )
    text = "^series 'own', epoch 1: source 'test_checkpoints:not_a_model' must return a torch mod"
    with pytest.raises(ValueError, match=text):
        load_epoch(wrong, 1, 4, Run(Path("none")))
    missing = FunctionSource(name="own", function="no_such_module:f", at=(1,))
    with pytest.raises(ValueError, match="cannot be imported"):
        missing.load(1, 4, Run(Path("none")))


def test_sources_are_chosen_by_name_and_checked():
    assert set(SOURCES) >= {"train", "folder", "hub", "torchvision", "function"}
    assert parse_source({"name": "a", "source": "torchvision", "architecture": "vgg16"}).crop == 224
    with pytest.raises(ValueError, match="unknown source 'zoo'; known: train"):
        parse_source({"name": "a", "source": "zoo"})
    with pytest.raises(ValidationError, match="name"):
        parse_source({"name": "../up"})


def test_a_checkpoint_that_a_training_adds_is_used_by_the_next_command(tmp_path):
    source = folder(tmp_path)
    (tmp_path / "model-10.pth").touch()
    with cache_listings():
        assert source.epochs() == (10,)
        (tmp_path / "model-11.pth").touch()
        assert source.epochs() == (10,)
    assert source.epochs() == (10, 11)


def test_series_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="has no checkpoints"):
        Series("s", ())
    with pytest.raises(ValueError, match="must increase"):
        Series("s", (3, 1))
    with pytest.raises(ValueError, match="epochs must be at least 0, got -1"):
        Series("a", (-1, 2))
    with pytest.raises(
        ValueError, match="at most 9,007,199,254,740,992 .*, got 1000000000000000000"
    ):
        Series("a", (1, 10**20))
    series = Series("s", (0, 1, 5))
    assert [(p.epoch_from, p.epoch_to) for p in series.pairs()] == [(0, 1), (1, 5)]
    with pytest.raises(ValueError, match="no checkpoint of epoch 7; it has 0, 1, 5"):
        series.pairs([(1, 7)])
    with pytest.raises(ValueError, match="must go forward"):
        series.pairs([(5, 1)])


def hub(**more):
    revisions = {0: "step0", 1000: "step1000"}
    return parse_source(
        {"name": "suite", "source": "hub", "architecture": "small_vgg", "outputs": 4}
        | {"repository": "owner/suite", "revisions": revisions}
        | more
    )


def test_revisions_of_a_hub_repository(tmp_path, network, monkeypatch):
    asked = []

    def snapshot_download(repository, revision, cache_dir, allow_patterns):
        asked.append((repository, revision))
        if revision == "step0":
            raise OSError("404: no such revision\nmore")
        folder = tmp_path / revision
        folder.mkdir(exist_ok=True)
        torch.save(network.state_dict(), folder / "pytorch_model.bin")
        assert any(fnmatch("model.safetensors.index.json", p) for p in allow_patterns)
        assert any(fnmatch("pytorch_model-00001-of-00002.bin", p) for p in allow_patterns)
        return str(folder)

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download)
    )
    source = hub()
    assert source.epochs() == (0, 1000) and hub(skip=(0,)).epochs() == (1000,)
    assert same(source.load(1000, 4, Run(tmp_path)), network)
    assert asked == [("owner/suite", "step1000")]
    with pytest.raises(CheckpointError, match=r"revision 'step0' of owner/suite .*\(404: no such"):
        source.load(0, 4, Run(tmp_path))
    assert source.identity(0) != source.identity(1000)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
        source.load(1000, 4, Run(tmp_path))
    with pytest.raises(ValidationError, match="repository"):
        hub(repository="https://example.org/owner/suite")


def test_users_code_may_import_torchvision(tmp_path):
    """At its top or within the function; also where torchvision's own operators cannot load."""
    (tmp_path / "mynets.py").write_text(
        "def late(number):\n"
        "    import torchvision.models\n"
        "    return torchvision.models.squeezenet1_1(num_classes=number)\n",
        encoding="utf-8",
    )
    (tmp_path / "early.py").write_text(
        "from torchvision.models import squeezenet1_1\n"
        "def make(number):\n    return squeezenet1_1(num_classes=number)\n",
        encoding="utf-8",
    )
    code = (
        "import sys\nfrom harness.networks.architectures import build\n"
        "print(sum(p.numel() for p in build(sys.argv[1], 5, 0).parameters()))"
    )
    for name in ("mynets:late", "early:make"):
        command = [sys.executable, "-c", code, name]
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert answer.stdout.strip() == "725061", answer.stderr
