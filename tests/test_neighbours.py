"""Neighbours and sketches: bounded memory, and how well they approximate exact values."""

import tracemalloc

import numpy as np
import oracles
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from harness.artifacts import Artifact, Run
from harness.concepts import neighbours, sketch
from harness.concepts.neighbours import largest_columns, nearest_by_cosine, nearest_by_overlap
from harness.concepts.sketch import projection, row_blocks, sketch_vectors, stack_rows
from harness.concepts.space import SemanticSpace
from harness.concepts.space_methods import SPACES, SpaceParameters, gather_evidence
from harness.records import Checkpoint

seeds = st.integers(0, 2**32 - 1)


def rows_of(table):
    return [[c for c in row if c >= 0] for row in table.tolist()]


@given(seeds, st.integers(1, 30) | st.integers(500, 900), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_the_largest_go_by_value_then_column(seed, columns, k):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4 if columns < 500 else columns, (6, columns)).astype(float)
    values[rng.random(values.shape) < 0.2] = -np.inf
    expected = [sorted(range(columns), key=lambda c: (-row[c], c))[:k] for row in values]
    assert largest_columns(values, k).tolist() == expected


@given(seeds, st.integers(1, 9), st.integers(1, 10**4))
@settings(max_examples=60, deadline=None)
def test_cosine_neighbours_equal_a_full_sort_whatever_the_blocks(seed, k, size):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (12, 3)).astype(float)  # many ties
    vectors[rng.random(12) < 0.2] = np.nan
    own = np.where(rng.random(12) < 0.7, np.arange(12), -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK_BYTES", size)
        patch.setattr(neighbours, "BLOCK_ROWS", 1)
        columns, similarities = nearest_by_cosine(vectors, vectors, own, k)
    assert rows_of(columns) == oracles.nearest(vectors @ vectors.T, own, k)
    assert (np.isnan(similarities) == (columns < 0)).all()


@given(seeds, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_overlap_neighbours_equal_a_full_sort(seed, k):
    rng = np.random.default_rng(seed)
    sets = (rng.random((10, 15)) < 0.15).astype(np.float32)
    own = np.where(rng.random(10) < 0.7, np.arange(10), -1)
    likeness = np.array(
        [[oracles.jaccard(set(np.flatnonzero(a)), set(np.flatnonzero(b))) for b in sets]
         for a in sets]
    )  # fmt: skip
    near, values = nearest_by_overlap(sparse.csr_array(sets), sparse.csr_array(sets), own, k)
    assert rows_of(near) == oracles.nearest(likeness, own, k)
    for row, columns in enumerate(rows_of(near)):
        np.testing.assert_allclose(values[row, : len(columns)], likeness[row, columns])


def space_of(vectors, metric="cosine"):
    table = pd.DataFrame(
        {"series": "s", "epoch": 1, "layer": "l", "channel": range(vectors.shape[0]),
         "coverage": 1.0}
    )  # fmt: skip
    return SemanticSpace("test", table, vectors, metric)


@given(seeds, st.sampled_from(["cosine", "jaccard"]))
@settings(max_examples=40, deadline=None)
def test_nearest_takes_any_rows_as_candidates(seed, metric):
    rng = np.random.default_rng(seed)
    vectors = (rng.random((14, 6)) < 0.5).astype(np.float32)
    made = space_of(sparse.csr_array(vectors) if metric == "jaccard" else vectors, metric)
    queries, candidates = rng.permutation(14)[:5], rng.permutation(14)[:9]
    similarity = made.similarity(queries, candidates)
    position = {row: place for place, row in enumerate(candidates.tolist())}
    own = [position.get(row, -1) for row in queries.tolist()]
    rows, values = made.nearest(queries, candidates, 4)
    expected = oracles.nearest(similarity.round(6), own, 4)
    for line, columns in enumerate(expected):
        np.testing.assert_allclose(values[line, : len(columns)], similarity[line, columns])
        if metric == "jaccard":  # cosines of float32 have no exact ties
            assert rows[line, : len(columns)].tolist() == candidates[columns].tolist()


def test_paired_similarities_are_the_diagonal():
    vectors = (np.random.default_rng(0).random((8, 6)) < 0.5).astype(np.float32)
    a, b = np.arange(4), np.arange(4, 8)
    for made in (space_of(vectors), space_of(sparse.csr_array(vectors), "jaccard")):
        np.testing.assert_allclose(
            made.pair_similarities(a, b), np.diag(made.similarity(a, b)), rtol=1e-6
        )


@given(seeds, st.integers(2, 60))
@settings(max_examples=20, deadline=None)
def test_row_blocks_are_bounded_and_lose_nothing(seed, length):
    rows = np.random.default_rng(seed).permutation(500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch, "BLOCK_BYTES", 8 * 1000)
        blocks = list(row_blocks(rows, length))
    assert np.array_equal(np.concatenate(blocks), rows)
    assert max(map(len, blocks)) * length <= max(1000, length)


def test_a_sketch_keeps_inner_products_and_its_measured_error_is_the_true_one():
    rng = np.random.default_rng(0)
    common = rng.normal(size=3000)
    vectors = rng.normal(size=(200, 3000)) + rng.random((200, 1)) * common
    matrix = projection(3000, 512, 0)
    assert (np.abs(matrix.toarray()).sum(axis=1) == 1).all()
    short, error = sketch_vectors(lambda rows: vectors[rows], np.arange(200), 3000, 512, 0)
    made = stack_rows(short, np.arange(200), 3000)
    np.testing.assert_allclose(made, vectors @ matrix.toarray(), atol=1e-9)
    exact, rough = (space_of(part).similarity(*[np.arange(200)] * 2) for part in (vectors, made))
    pairs = np.triu_indices(200, 1)
    true = np.sqrt(np.mean((exact - rough)[pairs] ** 2))
    assert error == pytest.approx(true, rel=0.25)
    assert error < np.sqrt(2 / 512)


@pytest.fixture
def wide():
    """Return 100 neurons of five concepts on 2,000 images, at two checkpoints."""
    rng = np.random.default_rng(0)
    concepts = np.arange(50) % 5
    patterns = rng.random((5, 2000)) ** 8
    activations = {e: patterns[concepts] + 0.1 * rng.random((50, 2000)) for e in (1, 2)}
    rows = [
        ("net", epoch, "conv", channel, rank, image, values[channel, image], 0.5, 0.5)
        for epoch, values in activations.items()
        for channel in range(50)
        for rank, image in enumerate(np.argsort(-values[channel])[:8])
    ]
    columns = ["series", "epoch", "layer", "channel", "rank", "image_id", "activation",
               "peak_y", "peak_x"]  # fmt: skip
    responsive = pd.DataFrame({"image_id": [0], "layer": ["conv"], "channel": [0]})
    return gather_evidence(
        Checkpoint("net", 2),
        pd.DataFrame(rows, columns=columns),
        responsive,
        2000,
        lambda n: np.stack(
            [activations[e][c] for e, c in n[["epoch", "channel"]].to_numpy()]
        ).astype(np.float32),
    )


@pytest.mark.parametrize("method", ["correlation", "profile"])
def test_a_space_larger_than_allowed_is_sketched_and_says_with_what_error(wide, method):
    rng = np.random.default_rng(0)
    make = SPACES.get(method)
    exact = make(wide, SpaceParameters(), rng, method)
    rough = make(wide, SpaceParameters(dense=1e-6, sketch=512), rng, method)
    assert exact.error == 0
    assert 0 < rough.error < 0.1
    assert rough.vectors.shape[1] <= 512
    queries, base = rough.rows(epoch=1), rough.rows(epoch=2)
    near, _ = rough.nearest(queries, base, 5)
    concept = rough.neurons["channel"].to_numpy() % 5
    assert (concept[near] == concept[queries][:, None]).mean() > 0.95


def saved(space, run):
    run.save(Artifact("space_neurons", (space.method,)), space.neurons, "x")
    run.save(Artifact("space", (space.method,)), space.arrays(), "x")
    return SemanticSpace.load(run, space.method)


def test_overlap_of_stimuli_is_held_and_saved_sparse(wide, tmp_path):
    made = SPACES.get("jaccard")(wide, SpaceParameters(), np.random.default_rng(0), "jaccard")
    assert sparse.issparse(made.vectors)
    assert made.vectors.nnz == 100 * 8
    loaded = saved(made, Run(tmp_path))
    assert (loaded.vectors != made.vectors).nnz == 0
    assert loaded.metric == "jaccard"
    rows = np.arange(20)
    assert np.array_equal(loaded.nearest(rows, rows, 3)[0], made.nearest(rows, rows, 3)[0])


def test_the_error_of_a_sketch_is_saved(wide, tmp_path):
    parameters = SpaceParameters(dense=1e-6, sketch=512)
    made = SPACES.get("correlation")(wide, parameters, np.random.default_rng(0), "correlation")
    assert saved(made, Run(tmp_path)).error == made.error > 0


def test_memory_does_not_grow_with_the_candidates():
    rng = np.random.default_rng(0)
    queries, candidates = rng.standard_normal((200, 8)), rng.standard_normal((40_000, 8))
    tracemalloc.start()
    nearest_by_cosine(queries, candidates, np.full(200, -1), 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26
