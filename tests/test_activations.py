from types import SimpleNamespace

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_pass import probe
from torch import nn

from harness.concepts import naming
from harness.concepts.naming import attribute_overlaps, dissect
from harness.concepts.probing import ProbeParameters
from harness.images.batches import load_batch
from harness.images.sets import ArrayImages
from harness.images.view import View
from harness.networks.architectures import build
from harness.networks.layer import Network
from harness.networks.layers import Layer, find_layers, measure_patches
from harness.networks.recording import borrow, record_maps
from harness.networks.running import run_logits
from harness.networks.sources import TrainedSource
from harness.records import Checkpoint
from harness.stages.naming import layer_groups


class Tokens(nn.Module):
    """A network with a transformer's shape of output: [batch, tokens, channels]."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 5, 4, 4)
        self.act = nn.GELU()
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.act(self.cut(x).flatten(2).transpose(1, 2)).mean(dim=1))


class AsManyChannelsAsRows(nn.Module):
    """A network with 8 channels on an 8 x 8 map: the shape alone does not determine the layout."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.act = nn.ReLU()
        self.last = last

    def forward(self, x):
        x = self.conv(x)
        x = self.act(x.permute(0, 2, 3, 1) if self.last else x)
        return x.amax(dim=(1, 2) if self.last else (2, 3))


def names(name, size=64, patterns=None):
    return [layer.name for layer in find_layers(build(name, 5, 0), View(size, size), patterns)]


def test_thresholds_are_of_all_batches_and_a_constant_neuron_has_none():
    layer = SimpleNamespace(name="l", extra=0, strength=lambda maps: maps)
    thresholds = naming._Thresholds({"l": 2})
    batches = torch.tensor([[[[0.0, 1.0], [1.0, 1.0]]], [[[2.0, 3.0], [1.0, 1.0]]]])
    for maps in batches:  # [images, channels, positions]
        thresholds.keep(maps, layer)
    active = thresholds.active(batches[:, 0].transpose(0, 1).flatten(1), layer)
    assert active.tolist() == [[False, False, True, True], [False] * 4]
    assert thresholds.varies(layer).tolist() == [True, False]


def test_default_layers_are_block_non_linearities():
    assert names("small_vgg") == [f"features.{index}" for index in (2, 5, 9, 12, 16, 19)]
    assert names("resnet18")[:3] == ["relu", "layer1.0", "layer1.1"]
    assert names("convnext_tiny", 32)[0] == "features.1.0.block.4"
    assert len(names("vgg16", 32)) == 13  # its convolutions
    assert names("resnet18", 32)[-1] == "layer4.1"  # of one position, but the last
    inception = names("inception_v3", 96)
    assert inception[0] == "Conv2d_1a_3x3" and len(inception) == 94


def test_layouts():
    tokens = find_layers(Tokens(), View(16, 16))[0]
    assert (tokens.channels, tokens.height, tokens.width, tokens.channels_last) == (5, 4, 4, True)
    convnext = find_layers(build("small_convnext", 5, 0), View(64, 64))
    assert [layer.channels_last for layer in convnext] == [False, True, True, True]
    for last in (False, True):
        (layer,) = find_layers(AsManyChannelsAsRows(last), View(8, 8), ["act"])
        assert layer.channels_last is last
    vector = find_layers(build("vgg16", 5, 0), View(32, 32), ["classifier.*"])[0]
    assert (vector.channels, vector.height, vector.width) == (4096, 1, 1)


class Rows(nn.Module):
    """A network that reads images line by line; only of one size if `fixed`."""

    def __init__(self, fixed):
        super().__init__()
        self.conv, self.act, self.fixed = nn.Conv1d(3, 6, 5, 4, 2), nn.ReLU(), fixed
        self.head = nn.Linear(6 * 64 if fixed else 6, 2)

    def forward(self, x):
        x = self.act(self.conv(x.flatten(2)))
        return self.head(x.flatten(1) if self.fixed else x.mean(2))


@pytest.mark.parametrize("fixed", [False, True])
def test_maps_of_one_dimension_have_their_channels_first(fixed):
    model, images = Rows(fixed).eval(), torch.rand(3, 3, 16, 16)
    (layer,) = find_layers(model, View(16, 16))
    assert (layer.channels, layer.height, layer.width, layer.channels_last) == (6, 64, 1, False)
    with record_maps(model, [layer], lambda maps, _: maps.clone()) as kept:
        model(images)
    assert torch.equal(kept["act"], model.act(model.conv(images.flatten(2))))


def test_a_stated_layout_wins():
    (layer,) = find_layers(AsManyChannelsAsRows(False), View(8, 8), ["act"], {"act": True})
    assert layer.channels_last


def test_unknown_layer_names_some_that_there_are():
    model = nn.Sequential()
    model.add_module("all layers", nn.ReLU())
    with pytest.raises(ValueError, match="'all layers', which here means all layers at once"):
        find_layers(model, View(8, 8))
    with pytest.raises(ValueError, match=r"no layer matches 'nope'; the model's are features\.0"):
        names("small_vgg", patterns=["nope"])


def test_a_layer_that_runs_more_than_once_is_refused():
    with pytest.raises(ValueError, match="runs more than once per pass; name the block around it"):
        names("resnet18", patterns=["layer1.0.relu"])


def test_patches_grow_with_depth_within_their_limits():
    model = build("small_vgg", 5, 0)
    layers = measure_patches(model, find_layers(model, View(64, 64)), View(64, 64))
    sides = [layer.patch for layer in layers]
    assert sides == sorted(sides)
    assert sides[0] == 20 / 64 and sides[-1] == 0.625
    assert layers[0].depth == 0 and layers[-1].depth == 1


def test_recorded_maps_survive_in_place_operations_and_exceptions():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2)
    )
    model.train()
    layers = find_layers(model, View(8, 8), ["0"])
    image = torch.randn(2, 3, 8, 8)
    with (
        torch.no_grad(),
        record_maps(model, layers, lambda maps, _: maps, shares_memory=True) as kept,
    ):
        model(image)
    assert (kept["0"] < 0).any()  # as they were before the ReLU
    assert torch.equal(kept["0"], model[0](image).flatten(2))

    def fail(maps, layer):
        raise RuntimeError("inside the hook")

    with (
        pytest.raises(RuntimeError, match="inside the hook"),
        borrow(model),
        record_maps(model, layers, fail),
    ):
        model(image)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.fixture(scope="module")
def drawn_like():
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 255, (30, 32, 32, 3), dtype=np.uint8)
    return ArrayImages(arrays, np.arange(30) % 3, ("a", "b", "c"))


SOURCE = TrainedSource(name="net", resize=32, crop=32)


def probe_with(model, images, **parameters):
    layers = find_layers(model, View(32, 32))
    network = Network(Checkpoint("net", 1), model, layers, SOURCE.view)
    return probe(network, images, ProbeParameters(**parameters))


def test_stimuli_and_peaks_are_those_of_the_maps(drawn_like):
    model = build("small_vgg", 3, 0).eval()
    result = probe_with(model, drawn_like, k=4, batch_size=7)
    everything = torch.from_numpy(drawn_like.arrays).permute(0, 3, 1, 2).float() / 255
    name = "features.2"
    maps = oracles.output_of(model, name, (everything - 0.5) / 0.25).numpy()
    for channel in (0, 5):
        rows = result.stimuli[
            (result.stimuli["layer"] == name) & (result.stimuli["channel"] == channel)
        ]
        peaks = maps[:, channel].reshape(30, -1).max(axis=1)
        order = sorted(range(30), key=lambda image: (-peaks[image], image))[:4]
        assert rows["image_id"].tolist() == order
        np.testing.assert_allclose(rows["activation"], peaks[order], rtol=1e-5)
        at = np.unravel_index(maps[order[0], channel].argmax(), maps.shape[2:])
        assert rows["peak_y"].iloc[0] == (at[0] + 0.5) / maps.shape[2]
        assert rows["peak_x"].iloc[0] == (at[1] + 0.5) / maps.shape[3]


class UsesGradients(nn.Module):
    """A network that moves its images along the gradient of an energy."""

    def __init__(self):
        super().__init__()
        self.energy, self.conv = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 3)
        self.act, self.head = nn.ReLU(), nn.Linear(4, 3)

    @torch.enable_grad()
    def forward(self, x):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.energy(x).square().sum(), x)
        return self.head(self.act(self.conv(x - slope)).mean((2, 3)))


def test_networks_may_compute_gradients_themselves(drawn_like):
    torch.manual_seed(0)
    result = probe_with(model := UsesGradients(), drawn_like, k=1)
    images = (torch.from_numpy(drawn_like.arrays).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    peaks = oracles.output_of(model.eval(), "act", images).detach().amax((0, 2, 3))
    stimuli = result.stimuli.set_index("channel")["activation"]
    np.testing.assert_allclose(stimuli, peaks[stimuli.index.to_list()], rtol=1e-5)
    with torch.no_grad():
        assert not run_logits(model, images[:2]).requires_grad


def test_dead_neurons_are_left_out_and_counted(drawn_like):
    model = build("small_vgg", 3, 0)
    norm = model.features[1]
    with torch.no_grad():
        norm.bias[2] = -100.0  # its ReLU never opens
        norm.weight[3], norm.bias[3] = 0.0, 1.0  # always the same
    result = probe_with(model, drawn_like, k=3)
    dead = result.neurons[result.neurons["dead"]]
    assert {("features.2", 2), ("features.2", 3)} <= set(
        dead[["layer", "channel"]].itertuples(index=False, name=None)
    )
    living = set(result.stimuli[["layer", "channel"]].itertuples(index=False, name=None))
    assert ("features.2", 2) not in living and ("features.2", 3) not in living


def test_k_larger_than_the_image_set_is_refused(drawn_like):
    with pytest.raises(ValueError, match="k=31 stimuli cannot be found among 30 probe images"):
        probe_with(build("small_vgg", 3, 0), drawn_like, k=31)


def named(images, masks, batch_size=64):
    model = build("small_vgg", 3, 0)
    layers = find_layers(model, View(32, 32))
    network = Network(Checkpoint("net", 1), model, layers, SOURCE.view)
    table = dissect(network, images, masks, list("abcd"), batch_size)
    return network, table


@pytest.fixture(scope="module")
def masks():
    return torch.from_numpy(np.random.default_rng(0).random((30, 4, 32, 32)) < 0.3)


def test_naming_equals_the_plain_count(drawn_like, masks):
    network, table = named(drawn_like, masks)
    with record_maps(network.model, network.layers, lambda m, _: m.numpy(force=True)) as kept:
        network.model.eval()(load_batch(drawn_like, range(30), network.view))
    for layer in network.layers:
        size = layer.height, layer.width
        covered = torch.nn.functional.adaptive_avg_pool2d(masks.float(), size).flatten(2)
        of_layer = table[table["layer"] == layer.name].set_index("channel")
        cells = kept[layer.name].transpose(0, 2, 1).reshape(-1, layer.channels)
        expected = oracles.overlaps(
            cells, covered.transpose(1, 2).flatten(0, 1).numpy(), naming.TOP_SHARE
        )[of_layer.index]
        np.testing.assert_allclose(of_layer["iou"], expected.max(axis=1), rtol=1e-6)
        assert (of_layer["concept"] == np.array(list("abcd"))[expected.argmax(axis=1)]).all()


def test_the_names_are_the_same_whatever_the_batches(drawn_like, masks):
    _, whole = named(drawn_like, masks)
    for size in (4, 7):
        pd.testing.assert_frame_equal(named(drawn_like, masks, size)[1], whole, check_exact=True)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_cells_at_the_cut_count_but_for_a_sparse_neuron_s_zeros(seed, size):
    rng = np.random.default_rng(seed)
    maps = np.maximum(rng.integers(-3, 3, (6, 3, 9)), 0).astype(np.float32)  # ties, dead neurons
    layer = Layer("a", 3, 3, 3, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(naming, "TOP_SHARE", 0.1)
        cuts = naming._Thresholds({"a": naming.top_cells(layer, 6)})
    before = maps.copy()
    for start in range(0, 6, size):
        cuts.keep(torch.from_numpy(maps[start : start + size]), layer)
    assert np.array_equal(maps, before)  # the network goes on with them
    cells = maps.transpose(1, 0, 2).reshape(3, -1)
    least = np.sort(cells, axis=1)[:, -5:].min(axis=1, keepdims=True)
    expected = (cells >= least) & (cells > cells.min(axis=1, keepdims=True))
    assert np.array_equal(cuts.active(torch.from_numpy(cells), layer), expected)
    assert np.array_equal(cuts.varies(layer), cells.max(axis=1) > cells.min(axis=1))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 100))
def test_groups_of_layers_hold_each_once_and_fit(sizes, most):
    layers = [Layer(str(number), 1, 1, 1, False) for number in range(len(sizes))]
    groups = layer_groups(layers, sizes, most)
    assert [layer for group in groups for layer in group] == layers
    for group in groups:
        assert len(group) == 1 or sum(sizes[int(layer.name)] for layer in group) <= most


def test_attributes_in_blocks_of_neurons_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    activations = rng.integers(0, 4, (20, 9)).astype(np.float32)
    attributes = rng.random((20, 3)) < 0.3
    attributes[:, 1] = False
    whole = attribute_overlaps(activations, attributes)
    assert (whole[:, 1] == 0).all()
    for neuron in range(9):
        for index in (0, 2):
            plain = oracles.attribute_overlap(activations[:, neuron], attributes[:, index])
            assert whole[neuron, index] == pytest.approx(plain)
    monkeypatch.setattr(naming, "RANK_BYTES", 1)
    assert np.array_equal(attribute_overlaps(activations, attributes), whole)


def test_attributes_of_most_images_name_no_neuron_by_chance():
    rng = np.random.default_rng(0)
    attributes = rng.random((400, 5)) < [0.9, 0.5, 0.2, 0.05, 0.05]
    detector = attributes[:, 4] + 0.1 * rng.random(400)
    overlaps = attribute_overlaps(np.column_stack([detector, rng.random((400, 300))]), attributes)
    assert overlaps[0].argmax() == 4 and overlaps[0, 4] == 1
    assert np.abs(overlaps[1:].mean(axis=0)).max() < 0.02


def test_sparse_neurons_are_not_named_by_the_first_images():
    """Of the images on which a neuron is 0 none is stronger, whichever class comes first."""
    rng = np.random.default_rng(0)
    attributes = np.repeat(np.eye(4, dtype=bool), 100, axis=0)  # classes, in the order of folders
    activations = np.where(rng.random((400, 500)) < 0.1, rng.random((400, 500)), 0)
    overlaps = attribute_overlaps(activations, attributes)
    assert np.abs(overlaps.mean(axis=0)).max() < 0.02
    assert overlaps.max() < 0.2
    order = rng.permutation(400)
    other = attribute_overlaps(activations[order], attributes[order])
    np.testing.assert_allclose(overlaps, other, atol=1e-12)
