"""Real torchvision architectures through probe, evolve and revert: random weights, few images."""

from functools import lru_cache

import numpy as np
import oracles
import pytest
import torch
from network_pairs import perturbed
from rich.console import Console

from harness.config import parse_config
from harness.images.batches import load_batch
from harness.images.sets import open_images
from harness.networks.architectures import build, channels_last
from harness.networks.budget import FEWEST
from harness.networks.recording import borrow
from harness.records import JOINT
from harness.results import REVERSION, read_results
from harness.stages.checkpoints import read_layers
from harness.stages.run import run_until

#: name -> side of the images (pixels), layers probed (the default where None)
ARCHITECTURES = {
    "vgg16": (48, ["features.[0-9]", "features.1[0-9]", "features.2[0-9]"]),
    "vgg19": (48, ["features.[0-9]", "features.1[0-9]", "features.3[0-9]"]),
    "inception_v3": (96, None),
    "convnext_tiny": (64, None),
    "resnet50": (64, None),
}


@lru_cache(maxsize=3)
def checkpoint(name: str, epoch: int) -> torch.nn.Module:
    """Return the network with random weights, which change further with every epoch."""
    return perturbed(build(name, 12, seed=0), epoch, 0.05)


def vgg16(epoch):
    return checkpoint("vgg16", epoch)


def vgg19(epoch):
    return checkpoint("vgg19", epoch)


def inception_v3(epoch):
    return checkpoint("inception_v3", epoch)


def convnext_tiny(epoch):
    return checkpoint("convnext_tiny", epoch)


def resnet50(epoch):
    return checkpoint("resnet50", epoch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_goes_through_probe_evolve_and_revert(name, tmp_path):
    size, layers = ARCHITECTURES[name]
    config = parse_config(
        {
            "images": {"source": "drawn", "train": 12, "probe": 24, "test": 48},
            "series": [
                {
                    "name": name,
                    "source": "function",
                    "function": f"test_architectures:{name}",
                    "at": [1, 2],
                    "resize": size,
                    "crop": size,
                    "layers": layers,
                }
            ],
            "workers": 0,
            "probe": {"k": 5},
            "space": {"methods": ["random"]},
            "evolve": {
                "methods": ["sign_t"],
                "images_per_class": 2,
                "classes": ["clock"],
            },
            "revert": {"random_draws": 1, "importance_images": 1, "heldout_images": 2},
        }
    )
    run = run_until("revert", config, tmp_path, Console(quiet=True))
    found = read_layers(run, name)
    channels = sum(layer.channels for layer in found)
    results = read_results(run.root, REVERSION)
    scores = results.importance()
    assert len(scores) == channels and scores["score"].nunique() > 1
    records, sets = results.records(), results.sets()
    assert set(records["layer"]) == {JOINT, *(layer.name for layer in found)}
    assert (records["probability_before"] != records["probability_after"]).any()
    assert run.tables("stimuli").groupby("layer").size().min() > 0

    # one layer's q1 for one class, against a plain full pass with copied channels
    layer = found[len(found) // 2]
    own = {"layer": layer.name, "method": "sign_t", "arm": "q1", "class_id": 2}
    chosen = sets[np.logical_and.reduce([sets[k] == v for k, v in own.items()])]
    rows = records[np.logical_and.reduce([records[k] == v for k, v in own.items()])]
    rows = rows[rows["split"] == "heldout"]
    ids = np.resize(rows["image_id"], FEWEST)  # of fewer images, other kernels compute the outputs
    batch = load_batch(open_images(run, "test"), ids, config.series[0].view)
    older, newer = (channels_last(checkpoint(name, epoch)) for epoch in (1, 2))
    with borrow(older), borrow(newer):
        logits = oracles.reverted_logits(
            older,
            newer,
            {layer.name: chosen["channel"].tolist()},
            batch,
            {layer.name: -1 if layer.channels_last else 1},
        )
    expected = logits.double().softmax(1)[:, 2].float()
    assert rows["probability_after"].tolist() == expected[: len(rows)].tolist()
