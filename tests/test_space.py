import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from harness.concepts import embedding
from harness.concepts.embedding import (
    SkipGram,
    consecutive_pairs,
    ppmi_factors,
    skip_gram,
    solve_image_vectors,
)
from harness.concepts.gradient_steps import ascend
from harness.concepts.map import import_umap, project
from harness.concepts.space import SemanticSpace
from harness.concepts.space_methods import SPACES, SpaceParameters, gather_evidence, rank_profiles
from harness.records import Checkpoint
from harness.registry import is_used

seeds = st.integers(0, 2**32 - 1)


def random_incidence(rng, neurons, images, k):
    dense = np.zeros((neurons, images))
    for row in dense:
        row[rng.choice(images, k, replace=False)] = 1
    return dense


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_one_step_is_the_gradient_that_autograd_finds(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(6, 4))
    pair = rng.choice(6, 2, replace=False)[None, :]
    negatives = rng.integers(0, 6, (1, 2, 3))  # may repeat, and hit the pair itself
    frozen = rng.random(6) < 0.3
    at = torch.tensor(vectors, requires_grad=True)
    oracles.skip_gram_objective(at, tuple(pair[0]), negatives[0]).backward()
    expected = vectors + 0.1 * at.grad.numpy() * ~frozen[:, None]
    moved = vectors.copy()
    ascend(moved, pair, negatives, 0.1, frozen, True)
    np.testing.assert_allclose(moved, expected, rtol=1e-10, atol=1e-12)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_the_published_step_moves_the_pair_alone(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(6, 4))
    pairs = np.stack([rng.choice(6, 2, replace=False) for _ in range(5)])
    negatives = rng.integers(0, 6, (5, 2, 3))
    expected = vectors
    for pair, drawn in zip(pairs, negatives, strict=True):
        expected = oracles.published_step(expected, tuple(pair), drawn, 0.1)
    moved = vectors.copy()
    ascend(moved, pairs, negatives, 0.1, np.zeros(6, dtype=bool), False)
    np.testing.assert_allclose(moved, expected, rtol=1e-10, atol=1e-12)
    frozen = rng.random(6) < 0.5
    moved = vectors.copy()
    ascend(moved, pairs, negatives, 0.1, frozen, False)
    assert np.array_equal(moved[frozen], vectors[frozen])


@pytest.mark.parametrize("full", [True, False])
def test_skip_gram_does_not_depend_on_how_many_negatives_are_drawn_at_once(monkeypatch, full):
    groups = sparse.csr_array((np.random.default_rng(0).random((30, 12)) < 0.4).astype(float))
    start = np.random.default_rng(1).normal(size=(12, 4))
    found = []
    for size in (1, 7, 10**6):
        monkeypatch.setattr(embedding, "PAIRS_AT_ONCE", size)
        found.append(skip_gram(groups, start, np.random.default_rng(2), SkipGram(3, full=full)))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_consecutive_pairs_chain_each_group(seed):
    dense = np.random.default_rng(seed).random((5, 7)) < 0.5
    pairs = consecutive_pairs(sparse.csr_array(dense), np.random.default_rng(seed))
    expected = oracles.consecutive_pairs(dense, np.random.default_rng(seed))
    assert list(map(tuple, pairs.tolist())) == expected


def test_skip_gram_brings_co_occurring_items_together():
    groups = np.zeros((40, 10))
    groups[:20, :5] = 1
    groups[20:, 5:] = 1
    rng = np.random.default_rng(0)
    vectors = skip_gram(sparse.csr_array(groups), rng.uniform(-0.5, 0.5, (10, 8)), rng)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T
    within = np.concatenate([likeness[:5, :5].ravel(), likeness[5:, 5:].ravel()])
    assert within.min() > likeness[:5, 5:].max()


@given(seeds, st.integers(2, 12), st.integers(3, 20))
@settings(max_examples=60, deadline=None)
def test_image_vectors_equal_the_dense_pseudo_inverse(seed, neurons, images):
    rng = np.random.default_rng(seed)
    dense = random_incidence(rng, neurons, images, min(3, images))
    dense[-1] = dense[0]  # two neurons with the same stimuli contradict each other
    wanted = rng.normal(size=(neurons, 4))
    found = solve_image_vectors(sparse.csr_array(dense), wanted)
    np.testing.assert_allclose(found, oracles.image_vectors(dense, wanted), atol=1e-7)
    assert (found[dense.sum(axis=0) == 0] == 0).all()


def test_images_of_no_neuron_change_no_bit_of_the_others():
    rng = np.random.default_rng(0)
    dense = random_incidence(rng, 20, 60, 5)
    wanted = rng.normal(size=(20, 4))
    spread = np.zeros((20, 600))
    places = np.sort(rng.choice(600, 60, replace=False))
    spread[:, places] = dense
    found = solve_image_vectors(sparse.csr_array(spread), wanted)
    assert np.array_equal(found[places], solve_image_vectors(sparse.csr_array(dense), wanted))


def test_image_vectors_say_when_they_do_not_converge(monkeypatch):
    monkeypatch.setattr("harness.concepts.embedding.TOLERANCE", np.nan)  # which nothing reaches
    rng = np.random.default_rng(0)
    dense = random_incidence(rng, 10, 30, 5)
    with pytest.raises(ValueError, match=r"did not converge: choose other space\.methods"):
        solve_image_vectors(sparse.csr_array(dense), rng.normal(size=(10, 3)))


def test_ppmi_factors_reproduce_the_positive_part_they_can():
    rng = np.random.default_rng(1)
    dense = random_incidence(rng, 8, 15, 4)
    full = ppmi_factors(sparse.csr_array(dense), 8)
    expected = oracles.ppmi(dense)
    values, vectors = np.linalg.eigh(expected)
    absolute = vectors @ np.diag(np.abs(values)) @ vectors.T
    np.testing.assert_allclose(full @ full.T, absolute, atol=1e-9)
    assert ppmi_factors(sparse.csr_array(dense), 12).shape == (8, 12)


def test_sparse_and_dense_factors_are_the_same(monkeypatch):
    incidence = sparse.csr_array(random_incidence(np.random.default_rng(1), 60, 90, 8))
    dense = ppmi_factors(incidence, 7)
    monkeypatch.setattr(embedding, "DENSE_NEURONS", 10)
    monkeypatch.setattr(embedding, "ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(ppmi_factors(incidence, 7), dense, atol=1e-8)


@pytest.fixture
def evidence():
    """Return two checkpoints with two concepts; later neurons see the base's images."""
    rng = np.random.default_rng(3)
    rows, activations = [], {}
    for epoch in (1, 2):
        for channel in range(8):
            pool = np.arange(0, 20) if channel < 4 else np.arange(20, 40)
            strengths = rng.random(50) * 0.1
            strengths[pool] += 1 + rng.random(20)
            activations[epoch, channel] = strengths
            for rank, image in enumerate(np.argsort(-strengths)[:6]):
                rows.append(
                    ("net", epoch, "conv", channel, rank, image, strengths[image], 0.5, 0.5)
                )
    stimuli = pd.DataFrame(
        rows,
        columns=[
            *("series", "epoch", "layer", "channel"),
            *("rank", "image_id", "activation", "peak_y", "peak_x"),
        ],
    )
    base = np.stack([activations[2, channel] for channel in range(8)], axis=1)
    responsive = pd.DataFrame(
        [
            ("net", 2, image, rank, "conv", channel, base[image, channel])
            for image in range(45)  # the last five images excite nobody
            for rank, channel in enumerate(np.argsort(-base[image])[:3])
        ],
        columns=["series", "epoch", "image_id", "rank", "layer", "channel", "activation"],
    )
    return gather_evidence(
        Checkpoint("net", 2),
        stimuli,
        responsive,
        50,
        lambda neurons: np.stack(
            [activations[e, c] for e, c in neurons[["epoch", "channel"]].to_numpy()]
        ),
    )


@pytest.mark.parametrize(
    "method", ["sgns", "sgns_full", "ppmi", "jaccard", "correlation", "profile"]
)
def test_every_method_finds_planted_concepts_across_checkpoints(evidence, method):
    space = SPACES.get(method)(
        evidence, SpaceParameters(dimension=6), np.random.default_rng(0), method
    )
    early, base = space.rows(epoch=1), space.rows(epoch=2)
    near, _ = space.nearest(early, base, 4)
    concept = space.neurons["channel"].to_numpy() < 4
    assert (concept[near] == concept[early][:, None]).mean() > 0.9


@pytest.mark.parametrize("method", SPACES)
def test_a_method_says_which_parameters_it_uses(evidence, method):
    """Others are reported as unused. Nothing fits into `dense` here, so `sketch` is read, too."""
    read = set()

    class Recorded(SpaceParameters):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    parameters = Recorded(epochs=1, dense=1e-9, sketch=4)
    read.clear()
    SPACES.get(method)(evidence, parameters, np.random.default_rng(0), method)
    names = set(SpaceParameters.model_fields)
    assert read & names == {name for name in names if is_used(name, [SPACES.get(method)])}


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_rank_profiles_count_out_every_image_and_share_ties(seed):
    activations = np.random.default_rng(seed).integers(0, 6, (4, 12)).astype(float)
    activations[:, 0], activations[:, 1] = 0, 9  # alive
    found = rank_profiles(activations, 0.1, 0.4)
    expected = [oracles.rank_profile(row, 0.1, 0.4) for row in activations]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("dimension", [3, 300])
def test_profile_equals_its_plain_twin(evidence, dimension):
    parameters = SpaceParameters(profile_dimension=dimension, profile_head=0.1)
    space = SPACES.get("profile")(evidence, parameters, np.random.default_rng(0), "profile")
    everyone = np.arange(len(evidence.neurons))
    expected = oracles.profile_similarity(
        evidence.activations(everyone), evidence.base_rows.tolist(), dimension, 0.1, 0.5
    )
    assert space.vectors.shape[1] == min(dimension, 7)  # eight base neurons less their mean
    np.testing.assert_allclose(space.similarity(everyone, everyone), expected, atol=1e-4)


def test_profile_heeds_the_order_of_activations_alone(evidence):
    stretched = replace(evidence, activations=lambda rows: evidence.activations(rows) ** 3)
    spaces = [
        SPACES.get("profile")(each, SpaceParameters(), np.random.default_rng(0), "profile")
        for each in (evidence, stretched)
    ]
    np.testing.assert_allclose(spaces[0].vectors, spaces[1].vectors, atol=1e-6)


def test_random_space_knows_nothing_of_concepts(evidence):
    shares = []
    for seed in range(20):
        space = SPACES.get("random")(
            evidence, SpaceParameters(), np.random.default_rng(seed), "random"
        )
        near, _ = space.nearest(space.rows(epoch=1), space.rows(epoch=2), 4)
        concept = space.neurons["channel"].to_numpy() < 4
        shares.append((concept[near] == concept[space.rows(epoch=1)][:, None]).mean())
    assert abs(np.mean(shares) - 0.5) < 0.1


def test_base_neurons_are_the_mean_of_their_image_vectors(evidence):
    space = SPACES.get("ppmi")(
        evidence, SpaceParameters(dimension=6), np.random.default_rng(0), "ppmi"
    )
    rows = evidence.base_rows
    mean = evidence.incidence[rows].todense() / evidence.incidence[rows].sum(axis=1)[:, None]
    filled = np.nan_to_num(space.images)
    np.testing.assert_allclose(mean @ filled, space.vectors[rows], atol=1e-7)


def test_images_that_excite_nobody_stay_without_vector(evidence):
    space = SPACES.get("sgns")(evidence, SpaceParameters(), np.random.default_rng(0), "sgns")
    placed = ~np.isnan(space.images).any(axis=1)
    assert placed[:40].all()  # direct, or through a responsive neuron
    assert not placed[45:].any()
    assert space.neurons["coverage"].between(0, 1).all()


def make_space(vectors, metric="cosine"):
    neurons = pd.DataFrame(
        {"series": "s", "epoch": 1, "layer": "l", "channel": range(len(vectors)), "coverage": 1.0}
    )
    return SemanticSpace("test", neurons, np.asarray(vectors, dtype=float), metric)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_jaccard_equals_sets(seed):
    sets = (np.random.default_rng(seed).random((5, 9)) < 0.4).astype(float)
    space = make_space(sets, "jaccard")
    found = space.similarity(np.arange(5), np.arange(5))
    for a in range(5):
        for b in range(5):
            expected = oracles.jaccard(set(np.flatnonzero(sets[a])), set(np.flatnonzero(sets[b])))
            assert found[a, b] == pytest.approx(expected)


def test_nearest_leaves_out_itself_and_the_unplaced():
    space = make_space([[1, 0], [1, 0.1], [np.nan, np.nan], [-1, 0]])
    rows, values = space.nearest(np.array([0]), np.arange(4), 5)
    assert rows[0].tolist() == [1, 3, -1, -1, -1]
    assert values[0, 1] == pytest.approx(-1)
    assert np.isnan(values[0, 2:]).all()


def test_unknown_metric_is_named():
    with pytest.raises(ValueError, match="metric must be one of cosine, jaccard, got 'l2'"):
        make_space([[1, 0]], "l2")


def test_displacement_is_nought_for_what_stays():
    neurons = pd.DataFrame(
        {
            "series": "s",
            "epoch": [1, 1, 2, 2],
            "layer": "l",
            "channel": [0, 1, 0, 1],
            "coverage": 1.0,
        }
    )
    space = SemanticSpace("t", neurons, np.array([[1, 0], [0, 1], [2, 0], [0, -1]], dtype=float))
    moved = space.displacement("s", 1, 2).set_index("channel")["displacement"]
    assert moved[0] == pytest.approx(0)
    assert moved[1] == pytest.approx(2)


def test_a_base_without_living_neurons_is_refused(evidence):
    with pytest.raises(ValueError, match="epoch 9, the base of .*: 0 of its .* needs two or more"):
        gather_evidence(
            Checkpoint("net", 9),
            evidence.neurons.assign(rank=0, image_id=0),
            pd.DataFrame(columns=["image_id", "layer", "channel"]),
            50,
            lambda neurons: np.empty((0, 50)),
        )


@pytest.mark.parametrize(
    ("base", "others", "is_sparse"),
    [
        (300, 5000, False),
        (300, 5000, True),
        pytest.param(4200, 5000, True, marks=pytest.mark.slow),  # it is compiled for a minute
    ],
)
def test_maps_keep_alike_neurons_together(base, others, is_sparse):
    """Also where neurons are mapped in several parts, and without dense vectors of all images."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 6, base + others)
    vectors = (rng.random((base + others, 120)) < 0.5) * np.eye(6)[group].repeat(20, axis=1)
    neurons = pd.DataFrame(
        {"series": np.repeat(["b", "o"], [base, others]), "epoch": 1, "layer": "l",
         "channel": range(base + others), "coverage": 1.0}
    )  # fmt: skip
    if is_sparse:
        vectors = sparse.csr_array(vectors)
    space = SemanticSpace("mine", neurons, vectors, "jaccard" if is_sparse else "cosine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        places = project(space, Checkpoint("b", 1), seed=0)[["x", "y"]].to_numpy()
    nearest = NearestNeighbors(n_neighbors=11).fit(places).kneighbors(return_distance=False)
    assert (group[nearest] == group[:, None]).mean() > 0.9


def test_umap_loads_where_warnings_are_errors():
    code = "from harness.concepts.map import import_umap; import_umap()"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_what_numba_compiles_of_umap_is_kept_on_disk():
    import_umap()
    from umap import layouts, umap_

    slow = (
        umap_.fast_knn_indices,
        umap_.smooth_knn_dist,
        umap_.compute_membership_strengths,
        umap_.submatrix,
        layouts._nb_optimize_layout_euclidean_single_epoch,
    )
    assert all(function.stats.cache_path for function in slow)
