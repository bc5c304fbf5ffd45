"""Networks of torchvision and timm, untrained, at their native size: check, probe, evolve, revert.

Nightly (`pytest -m slow tests/test_families.py`).
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import conceptevo as ce
from benchmarks.networks import SIDES, TIMM, TORCHVISION, network, row

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parent.parent / "docs" / "networks.md"


def moved(model, seed):
    """Return a copy with all weights changed; statistics of normalisations stay.

    With their initial weights, the outputs of some networks do not depend on their layers: gMLP's
    head is zero, and CaiT's blocks have a factor of 1/100,000.
    """
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in other.parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor += 0.3 * noise * tensor.abs().mean().clamp(min=0.01)
    return other


@pytest.mark.parametrize("name", [*TORCHVISION, *TIMM])
def test_the_table_is_true(name):
    assert row(name) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*TORCHVISION, *TIMM])
def test_a_family_goes_all_the_way(name):
    side = SIDES.get(name, 224)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    images = ce.Images(pixels, np.arange(12) % 3, classes=["a", "b", "c"])
    model = network(name, 3)
    series = ce.Series("net", {1: moved(model, 1), 2: moved(model, 2)}, ce.View(side, side))
    probed = ce.probe(series, images, k=3, activations=False, progress=False)
    stimuli = probed.to_pandas()
    assert set(stimuli["epoch"]) == {1, 2} and set(stimuli["layer"]) == set(probed.layers["layer"])
    assert stimuli["peak_y"].between(0, 1).all() and stimuli["peak_x"].between(0, 1).all()
    scores = ce.importance(
        series, images, (1, 2), ["sign_t"], images_per_class=2, heldout_images=2, classes=["a"],
        progress=False,
    )  # fmt: skip
    table = scores.to_pandas()
    layers = probed.layers
    assert len(table) == layers["channels"].sum() and table["score"].between(0, 1).all()
    # the gradient reaches every layer: no score is 0 for all of a layer's neurons
    assert (table.groupby("layer")["score"].max() > 0).all()
    undone = ce.ablate(scores, arms=ce.Arms(bins=2, random=2, steps=2), progress=False)
    rows = undone.to_pandas()
    assert np.isfinite(rows["objective_after"]).all() and set(rows["image_id"]) <= {0, 3, 6, 9}
    changed = rows[rows["arm"] == "all"]
    assert (changed["objective_before"] != changed["objective_after"]).any()
