"""Networks of torchvision and timm, untrained, at their native size: check, probe, evolve, revert.

Nightly (`pytest -m slow tests/test_families.py`); timm is an extra, without which its networks are
skipped.
"""

import numpy as np
import pytest
from test_interventions import perturbed

import conceptevo as ce
from benchmarks.networks import TIMM, TORCHVISION, network

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [*TORCHVISION, *TIMM])
def test_a_family_goes_all_the_way(name):
    if name in TIMM:
        pytest.importorskip("safetensors")
        pytest.importorskip("huggingface_hub", reason="timm is not there")
    side = (TORCHVISION | TIMM)[name]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    images = ce.Images(pixels, np.arange(12) % 3, classes=["a", "b", "c"])
    newer = network(name, 3)
    series = ce.Series("net", {1: perturbed(newer, 1), 2: newer}, ce.View(side, side))
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
