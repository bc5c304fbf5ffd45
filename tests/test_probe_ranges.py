"""Probing in ranges of images: whatever the division, the tables are those of one pass."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_pass import probe
from torch import nn

from harness.concepts import probing
from harness.concepts.probing import (
    ProbeParameters,
    peaks,
    positions,
    probe_range,
    ranges,
    strongest,
)
from harness.concepts.stimuli import (
    ProbePart,
    merge,
    neurons_table,
    responsive_table,
    stimuli_table,
)
from harness.images.sets import ArrayImages
from harness.images.view import View
from harness.networks.architectures import build
from harness.networks.devices import Device
from harness.networks.layer import Network
from harness.networks.layers import Layer, find_layers
from harness.records import Checkpoint

CHECKPOINT = Checkpoint("net", 1)


class Colours(nn.Module):
    """Two layers of three neurons that are the image's own colours: exact, and with many ties."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.second(-self.first(x)).amax(dim=(2, 3)) + x.mean(dim=(2, 3))


COLOURS = [Layer("first", 3, 4, 4, False), Layer("second", 3, 4, 4, False)]
VIEW = View(4, 4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
NETWORK = Network(CHECKPOINT, Colours(), COLOURS, VIEW)


def few_colours(seed, count):
    rng = np.random.default_rng(seed)
    arrays = rng.choice(np.array([0, 127, 128, 200, 255], np.uint8), (count, 4, 4, 3))
    return ArrayImages(arrays, np.arange(count) % 2, ("a", "b"))


def in_ranges(model, layers, images, view, parameters, chosen, order=None):
    """Probe and save each range, merge the ranges in some order, and return the tables."""
    network = Network(CHECKPOINT, model, layers, view)
    records = [probe_range(network, images, r, parameters) for r in chosen]
    saved = [record.part.arrays() for record in records]
    order = range(len(saved)) if order is None else order
    part = merge(ProbePart.from_arrays(saved[number]) for number in order)
    return (
        stimuli_table(part, layers, CHECKPOINT, len(images)),
        pd.concat(
            [responsive_table(record.responses, layers, CHECKPOINT) for record in records],
            ignore_index=True,
        ),
        np.concatenate([record.activations for record in records], axis=1),
        neurons_table(part, layers),
    )


def assert_same(found, whole):
    stimuli, responsive, activations, neurons = found
    pd.testing.assert_frame_equal(stimuli, whole.stimuli, check_exact=True)
    pd.testing.assert_frame_equal(responsive, whole.responsive, check_exact=True)
    assert np.array_equal(activations, whole.activations.T)
    pd.testing.assert_frame_equal(neurons, whole.neurons)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(6, 20),
    st.integers(1, 6),
    st.integers(1, 7),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_any_ranges_in_any_order_equal_one_pass(seed, count, k, responsive, data):
    images = few_colours(seed, count)
    whole = probe(
        NETWORK, images, ProbeParameters(k=k, responsive=responsive, batch_size=count),
    )  # fmt: skip
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1), max_size=5)))
    chosen = [range(*pair) for pair in pairwise([0, *cuts, count])]
    order = data.draw(st.permutations(range(len(chosen))))
    batch = data.draw(st.integers(1, count))
    parameters = ProbeParameters(k=k, responsive=responsive, batch_size=batch)
    assert_same(in_ranges(Colours(), COLOURS, images, VIEW, parameters, chosen, order), whole)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_one_pass_equals_the_plain_twin(seed, k, responsive):
    images = few_colours(seed, 9)
    parameters = ProbeParameters(k=k, responsive=responsive, batch_size=4)
    found = probe(NETWORK, images, parameters)
    pixels = torch.from_numpy(images.arrays).permute(0, 3, 1, 2).float() / 255
    batch = (pixels - 0.5) / 0.25
    maps = np.concatenate(
        [oracles.output_of(Colours(), layer.name, batch).flatten(2).numpy() for layer in COLOURS],
        axis=1,
    )
    peaks = maps.max(axis=2)
    for neuron, strongest_images in enumerate(oracles.top_k(peaks, k)):
        layer, channel = COLOURS[neuron // 3], neuron % 3
        rows = found.stimuli[
            (found.stimuli["layer"] == layer.name) & (found.stimuli["channel"] == channel)
        ]
        alive = peaks[:, neuron].max() > max(0, peaks[:, neuron].min())
        expected = [(i, v) for i, v in strongest_images if v > 0 and alive]
        assert rows["image_id"].tolist() == [image for image, _ in expected]
        assert rows["activation"].tolist() == [np.float32(value) for _, value in expected]
        places = [int(maps[image, neuron].argmax()) for image, _ in expected]
        assert rows["peak_y"].tolist() == [(place // 4 + 0.5) / 4 for place in places]
        assert rows["peak_x"].tolist() == [(place % 4 + 0.5) / 4 for place in places]
    for image in range(9):
        order = sorted(range(6), key=lambda neuron: (-peaks[image, neuron], neuron))
        expected = [n for n in order[:responsive] if peaks[image, n] > 0]
        rows = found.responsive[found.responsive["image_id"] == image]
        assert rows["layer"].tolist() == [COLOURS[n // 3].name for n in expected]
        assert rows["channel"].tolist() == [n % 3 for n in expected]


@pytest.mark.parametrize("name", ["small_vgg", "small_resnet", "small_convnext"])
def test_a_network_s_bits_do_not_depend_on_the_ranges(name):
    rng = np.random.default_rng(0)
    images = ArrayImages(
        rng.integers(0, 255, (41, 32, 32, 3), dtype=np.uint8), np.arange(41) % 3, ("a", "b", "c")
    )
    model, view = build(name, 3, 0), View(32, 32)
    layers = find_layers(model, view)
    parameters = ProbeParameters(k=5, responsive=6, batch_size=16)
    whole = probe(Network(CHECKPOINT, model, layers, view), images, parameters)
    for cuts in ([0, 41], [0, 20, 41], [0, 5, 9, 25, 41]):
        chosen = [range(*pair) for pair in pairwise(cuts)]
        for size in (4, 9, 64):
            changed = parameters.model_copy(update={"batch_size": size})
            assert_same(in_ranges(model, layers, images, view, changed, chosen), whole)


@given(st.integers(0, 10**7), st.integers(0, 300_000), st.integers(4, 10**6))
@settings(max_examples=60, deadline=None)
def test_ranges_cover_all_images_once_and_their_activations_fit(images, neurons, most):
    parameters = ProbeParameters(range_images=most)
    found = ranges(images, neurons, parameters)
    assert [r.start for r in found[1:]] == [r.stop for r in found[:-1]]
    assert (found[0].start, found[-1].stop) == (0, images)
    largest = max(len(r) for r in found)
    assert largest - min(len(r) for r in found) <= 1
    assert largest <= most
    assert largest * neurons * 4 <= probing.RANGE_BYTES or largest <= 4
    half = ranges(images, neurons, ProbeParameters(range_images=most, activations_type="float16"))
    assert len(half) <= len(found)


def part_of(images, chosen):
    return probe_range(NETWORK, images, chosen, ProbeParameters(k=2)).part


def test_stimuli_need_every_image_once():
    images = few_colours(0, 12)
    first, second = part_of(images, range(6)), part_of(images, range(5, 12))
    with pytest.raises(ValueError, match="each once; recorded are 0 to 5, 5 to 11"):
        stimuli_table(merge([second, first]), COLOURS, CHECKPOINT, 12)
    with pytest.raises(ValueError, match="all 12 probe images, each once; recorded are 0 to 5"):
        stimuli_table(first, COLOURS, CHECKPOINT, 12)


def test_merging_leaves_its_parts_as_they_are():
    images = few_colours(1, 12)
    parts = [part_of(images, range(6)), part_of(images, range(6, 12))]
    before = [part.arrays()["keys"].copy() for part in parts]
    merge(parts)
    assert all(np.array_equal(p.arrays()["keys"], b) for p, b in zip(parts, before, strict=True))


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_equal_activations_of_an_image_go_by_their_column(seed, count):
    values = np.random.default_rng(seed).integers(0, 4, (5, 7)).astype(np.float32)
    largest, columns = strongest(torch.from_numpy(values), count)
    for row in range(5):
        order = sorted(range(7), key=lambda column: (-values[row, column], column))[:count]
        assert columns[row].tolist() == order
        assert largest[row].tolist() == values[row, order].tolist()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_needed_positions_are_the_first_maxima(seed, share):
    rng = np.random.default_rng(seed)
    maps = torch.from_numpy(rng.integers(0, 3, (4, 5, 6)).astype(np.float32))
    needed = torch.from_numpy(rng.random((4, 5)) < share)
    found = positions(maps, needed)
    assert torch.equal(found[needed], maps.argmax(dim=2)[needed])


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 24, 31, 32, 80]), st.integers(1, 99))
@settings(max_examples=60, deadline=None)
def test_peaks_are_the_maxima_in_either_memory_format(seed, channels, count):
    maps = torch.randn(2, channels, count, generator=torch.Generator().manual_seed(seed))
    maps[0, 0, seed % count] = torch.nan
    channels_last = maps.transpose(1, 2).contiguous().transpose(1, 2)
    for each in (maps, channels_last):
        assert torch.equal(peaks(each).nan_to_num(99), maps.amax(dim=2).nan_to_num(99))


def test_half_precision_activations_are_rounded_and_nothing_else_changes():
    images = few_colours(2, 12)
    whole, half = (
        probe_range(
            NETWORK, images, range(12), ProbeParameters(k=3, activations_type=kind),
        )
        for kind in ("float32", "float16")
    )  # fmt: skip
    assert half.activations.dtype == np.float16
    error = np.abs(half.activations.astype(np.float32) - whole.activations)
    assert (error <= np.abs(whole.activations) / 2048).all()
    assert np.array_equal(half.part.arrays()["keys"], whole.part.arrays()["keys"])
    pd.testing.assert_frame_equal(half.responses, whole.responses)


def test_an_activation_beyond_half_precision_is_refused():
    images = few_colours(2, 12)
    view = View(4, 4, (0.5,) * 3, (1e-6,) * 3)
    with pytest.raises(ValueError, match=r'beyond 65,504.*activations_type = "float32"'):
        probe_range(
            replace(NETWORK, view=view), images, range(12),
            ProbeParameters(k=3, activations_type="float16"),
        )  # fmt: skip


def test_a_range_that_runs_out_of_memory_is_done_again_with_half_the_batch(caplog):
    images = few_colours(3, 12)

    class Greedy(Colours):
        def forward(self, x):
            if len(x) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    parameters = ProbeParameters(k=3, batch_size=12)
    found = probe_range(replace(NETWORK, model=Greedy()), images, range(12), parameters)
    whole = probe_range(NETWORK, images, range(12), parameters)
    assert np.array_equal(found.part.arrays()["keys"], whole.part.arrays()["keys"])
    assert "probing images 0 to 11: out of memory; continuing with 6 images per pass" in caplog.text


def test_lower_precision_is_used_where_asked_for():
    model, view = build("small_vgg", 3, 0), View(32, 32)
    layers = find_layers(model, view)
    arrays = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    images = ArrayImages(arrays, np.arange(12) % 3, ("a", "b", "c"))
    full, low = (
        probe_range(
            Network(CHECKPOINT, model, layers, view, Device("cpu", precision)), images, range(12),
            ProbeParameters(k=3),
        ).activations
        for precision in ("float32", "bfloat16")
    )  # fmt: skip
    assert 0 < np.linalg.norm(low - full) < 2e-2 * np.linalg.norm(full)
