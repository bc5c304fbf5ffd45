"""Checkpoints of networks whose weights transformers renames when it writes its files."""

import pytest
import torch
from safetensors.torch import load_file

from harness.networks.checkpoint_files import load_weights
from harness.networks.state_dicts import CheckpointError
from harness.torchvision_import import call_with_torchvision


@pytest.fixture(scope="module")
def library():
    library = pytest.importorskip("transformers", minversion="5")
    call_with_torchvision(getattr, library, "ViTForImageClassification")  # imports it now
    return library


@pytest.fixture
def model(library):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "image_size": 16, "patch_size": 8}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    settings = library.ViTConfig(**sizes, **layers, num_labels=3)
    return library.ViTForImageClassification(settings)


def write(model, folder, **options):
    """Save as transformers does; return the tensors of the file, if there is one."""
    model.save_pretrained(folder, **options)
    file = folder / "model.safetensors"
    return load_file(file) if file.exists() else {}


def same(one, other):
    return all(torch.equal(t, other.state_dict()[n]) for n, t in one.state_dict().items())


def other(model):
    """Return a network with other weights."""
    return type(model)(model.config)


def test_files_of_transformers_load_by_the_names_of_the_network(library, model, tmp_path, caplog):
    caplog.set_level("INFO")
    logs = library.utils.logging
    before = logs.get_verbosity(), logs.is_progress_bar_enabled()
    stored = write(model, tmp_path / "whole")
    assert stored.keys() != model.state_dict().keys()  # else this tests nothing
    write(model, tmp_path / "shards", max_shard_size="5KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    random = torch.get_rng_state()
    for name in ("whole", "whole/model.safetensors", "shards"):
        caplog.clear()
        network = other(model)
        torch.set_rng_state(random)
        assert same(load_weights(network, tmp_path / name), model)
        assert torch.equal(torch.get_rng_state(), random)
        assert "converted from other names by the network's own code" in caplog.text
    assert before == (logs.get_verbosity(), logs.is_progress_bar_enabled())
    # as an earlier version of transformers named them, in a file of Lightning
    content = {"model." + name: tensor for name, tensor in stored.items()}
    torch.save({"state_dict": content | {"loss.weight": torch.ones(2)}}, tmp_path / "w.ckpt")
    assert same(load_weights(other(model), tmp_path / "w.ckpt"), model)
    assert "prefix 'model.' removed; other tensors not used: loss.weight" in caplog.text
    caplog.clear()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert same(load_weights(other(model), tmp_path / "w.pth"), model)
    assert "converted" not in caplog.text


def test_what_does_not_fit_has_the_names_of_the_network(model, tmp_path):
    stored = write(model, tmp_path)
    head = {"classifier.weight": torch.ones(9, 8), "classifier.bias": torch.ones(9)}
    body = {name: tensor for name, tensor in stored.items() if name not in head}
    for content, message in {
        "another head": (body | head, r"classifier.weight has shape \(9, 8\) .* outputs = 9 in"),
        "no head": (body, r"architecture: missing classifier.weight; missing classifier.bias\. If"),
        "more": (stored | {"aux": torch.ones(1)}, r"architecture: unexpected aux\."),
    }.values():
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match=message):
            load_weights(other(model), tmp_path / "w.pth")


def test_a_class_that_transformers_cannot_build_is_read_by_its_names_alone(
    library, model, tmp_path, caplog
):
    caplog.set_level("INFO")

    class Own(library.ViTForImageClassification):
        def __init__(self, config, more):
            super().__init__(config)

    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert same(load_weights(Own(model.config, 1), tmp_path / "w.pth"), model)
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"does not fit the architecture: missing vit\."):
        load_weights(Own(model.config, 1), tmp_path / "w.pth")
    assert "transformers cannot convert them (" in caplog.text and "'more'" in caplog.text
