from types import SimpleNamespace

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.concepts.stimuli import ProbePart, sort_keys, stimuli_table
from harness.records import Checkpoint

# few distinct values, so that ties are common
values = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 25), st.integers(1, 4)),
    elements=st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1.0, 3.0]),
)


def feed(top, matrix, order, sizes):
    start = 0
    for size in sizes:
        ids = order[start : start + size]
        if len(ids):
            top.update(
                torch.from_numpy(matrix[ids]),
                torch.from_numpy(np.tile(ids[:, None], matrix.shape[1])),
                torch.from_numpy(ids),
            )
        start += size


@given(values, st.integers(1, 8), st.data())
def test_equals_a_full_sort_whatever_the_batches_and_their_order(matrix, k, data):
    images, neurons = matrix.shape
    order = np.array(data.draw(st.permutations(range(images))), dtype=np.int64)
    sizes = data.draw(st.lists(st.integers(1, 7), max_size=images))
    top = ProbePart(neurons, k, range(images))
    feed(top, matrix, order, [*sizes, images])
    ids, found, positions = top.result()
    for neuron, expected in enumerate(oracles.top_k(matrix, k)):
        count = len(expected)
        assert ids[neuron, :count].tolist() == [image for image, _ in expected]
        assert found[neuron, :count].tolist() == [value for _, value in expected]
        assert positions[neuron, :count].tolist() == [image for image, _ in expected]
        assert (ids[neuron, count:] == -1).all()


@given(values, st.integers(1, 8), st.data())
def test_merged_shards_equal_one_pass(matrix, k, data):
    images, neurons = matrix.shape
    owner = np.array(data.draw(st.lists(st.integers(0, 2), min_size=images, max_size=images)))
    shards = [ProbePart(neurons, k, range(images)) for _ in range(3)]
    for number, shard in enumerate(shards):
        feed(shard, matrix, np.flatnonzero(owner == number), [images])
    merged = shards[2]
    merged.merge(shards[0])
    merged.merge(shards[1])
    whole = ProbePart(neurons, k, range(images))
    feed(whole, matrix, np.arange(images), [images])
    assert all(
        torch.equal(a, b) or (a.isnan() == b.isnan()).all()
        for a, b in zip(merged.result(), whole.result(), strict=True)
    )
    assert torch.equal(merged.result()[0], whole.result()[0])


@given(hnp.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False)))
def test_sortable_keeps_the_order_of_floats(floats):
    floats = np.concatenate([floats, np.nextafter(floats, np.float32(np.inf))])
    keys = sort_keys(torch.from_numpy(floats)).numpy()
    assert ((floats[:, None] < floats[None, :]) == (keys[:, None] < keys[None, :])).all()


def test_peaks_are_centres_of_positions_and_class_tokens_are_in_the_centre():
    layer = SimpleNamespace(name="t", channels=2, height=4, width=3, extra=1)
    part, values = ProbePart(2, 1, range(2)), torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    part.update(values, torch.tensor([[0, 5], [0, 0]]), torch.tensor([0, 1]))
    table = stimuli_table(part, [layer], Checkpoint("s", 1), 2)
    assert table[["peak_y", "peak_x"]].to_numpy().tolist() == [[0.5, 0.5], [1.5 / 4, 1.5 / 3]]


def test_nan_names_the_images():
    top = ProbePart(2, 3, range(8))
    with pytest.raises(ValueError, match=r"images \[7\] are NaN"):
        top.update(
            torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]),
            torch.zeros(2, 2, dtype=torch.int64),
            torch.tensor([3, 7]),
        )
