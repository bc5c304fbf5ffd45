"""Arms: every family of sets, its sizes, its controls, and what its draws depend on."""

from functools import partial

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.evolutions import arms
from harness.evolutions.arms import BenchParameters, Ranking, ReversionParameters
from harness.images.view import View
from harness.networks.architectures import build
from harness.networks.layers import find_layers
from harness.randomness import generator
from harness.records import CONTROLS, JOINT


def ranked(
    sizes, seed=0, pair=("vgg", 1, 4), revert=ReversionParameters(), bench=BenchParameters()
):
    """Return a random ranking of layers of some sizes, with scores of other methods."""
    rng = np.random.default_rng(seed)
    order = {name: rng.permutation(count) for name, count in sizes.items()}
    other = {name: rng.permutation(count) for name, count in sizes.items()}

    def scores_of(method):
        tables = [
            pd.DataFrame({"layer": name, "channel": range(count), "score": rng.random(count)})
            for name, count in sizes.items()
        ]
        return pd.concat(tables)

    def draws(purpose, draw):
        return generator(seed, purpose, *pair, draw)

    return Ranking(revert, bench, order, scores_of, other, draws)


def sets_of(ranking, control=False):
    families = [f for benchmark in (False, True) for f in arms.families(control, benchmark)]
    return {key: value for f in families for key, value in f.sets(ranking).items()}


@given(st.integers(1, 40), st.integers(3, 5), st.integers(2, 9), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_bins_part_a_layer_and_all_sets_have_the_sizes_they_should(count, bins, steps, seed):
    ranking = ranked(
        {"a": count, "b": 2 * count},
        seed,
        revert=ReversionParameters(bins=bins),
        bench=BenchParameters(steps=steps),
    )
    sets, controls = sets_of(ranking), sets_of(ranking, control=True)
    for layer, channels in ranking.order.items():
        parts = [sets[f"q{n}", 0][layer] for n in range(1, bins + 1)]
        assert np.concatenate(parts).tolist() == channels.tolist()
        size = len(parts[0])
        assert size == len(parts[-1]) == len(channels) // bins
        for step in range(1, steps):
            most, least = sets["most", step][layer], sets["least", step][layer]
            assert len(most) == len(least) == int(step * len(channels) / steps + 0.5)
            assert most.tolist() == channels[: len(most)].tolist()
            assert least.tolist() == channels[len(channels) - len(least) :].tolist()
        for arm in ("matched", "matched_activation"):
            alike = sets[arm, 0][layer]
            assert len(set(alike)) == len(alike) == min(size, len(channels) - size)
            assert not set(alike) & set(parts[0])
        assert len(sets["other_class", 0][layer]) == size
        assert sorted(controls["all", 0][layer]) == list(range(len(channels)))
        draws = [controls["random", draw][layer] for draw in range(39)]
        assert all(len(set(draw)) == size for draw in draws)


def test_matching_takes_neurons_of_the_nearest_size():
    size = pd.Series([1.0, 2.0, 4.0, 8.0, 1.1, 2.2, 3.9, 100.0, 0.0])
    partners = arms.match(np.array([0, 1, 2]), np.array([3, 4, 5, 6, 7, 8]), size)
    assert sorted(partners) == [4, 5, 6]
    ratios = pd.Series([10.0, 1.0, 25.0])  # 25 is the nearer by ratio, 1 by difference
    assert arms.match(np.array([0]), np.array([1, 2]), ratios) == [2]


def test_remainders_go_to_the_bins_nearest_the_middle():
    for count, sizes in ((11, [2, 2, 3, 2, 2]), (13, [2, 3, 3, 3, 2]), (14, [2, 3, 4, 3, 2])):
        assert [len(part) for part in arms.to_bins(np.arange(count), 5)] == sizes


def test_sets_that_coincide_are_run_once_and_recorded_for_each():
    model = build("small_vgg", 6, seed=0)
    layers = find_layers(model, View(32, 32))
    ranking = ranked({layer.name: layer.channels for layer in layers})
    families = (arms.FAMILIES.get("quarters"), arms.FAMILIES.get("cumulative"))
    sets = {key: value for f in families for key, value in f.sets(ranking).items()}
    run = arms.make_arms(sets, "mine", {"q1", "q2", "q3", "q4"}, layers, untouched=False)
    joint = [arm for arm in run if arm.layer == JOINT]
    assert sum(len(arm.labels) for arm in joint) == 4 + 2 * 7
    assert [("mine", "q1", 0), ("mine", "most", 2)] in [list(arm.labels) for arm in joint]
    assert [("mine", "q4", 0), ("mine", "least", 2)] in [list(arm.labels) for arm in joint]
    assert len(joint) == 4 + 2 * 7 - 2
    alone = {arm for a in run if a.layer != JOINT for _, arm, _ in a.labels}
    assert alone == {"q1", "q2", "q3", "q4"}


def test_ranks_are_whole_and_ties_are_left_to_chance():
    scores = pd.DataFrame(
        {
            "layer": ["a"] * 6 + ["b"] * 2,
            "channel": [*range(6), 0, 1],
            "score": [0, 1, 1, 1, 1, 2, 5, 4],
        }
    )
    orders = set()
    for seed in range(30):
        rank = arms.ranks(scores, np.random.default_rng(seed))
        order = arms.by_rank(scores.assign(rank=rank), ["a", "b"])
        assert order["a"][0] == 5 and order["a"][-1] == 0 and order["b"].tolist() == [0, 1]
        orders.add(tuple(order["a"][1:-1]))
    assert len(orders) > 10


def test_what_is_drawn_for_one_pair_class_or_draw_says_nothing_of_another():
    sizes = {"a": 64, "b": 48}
    one, same, other = (
        sets_of(ranked(sizes, pair=pair), control=True)
        for pair in (("vgg", 1, 4), ("vgg", 1, 4), ("vgg", 4, 10))
    )
    draws = [one["random", draw]["a"].tolist() for draw in range(39)]
    assert draws == [same["random", draw]["a"].tolist() for draw in range(39)]
    theirs = [other["random", draw]["a"].tolist() for draw in range(39)]
    assert len({tuple(sorted(draw)) for draw in draws + theirs}) == 78


def test_more_random_sets_leave_the_first_ones_as_they_are():
    two = ReversionParameters(random_draws=2)
    few, many = (
        sets_of(ranked({"a": 30}, revert=two, bench=BenchParameters(random_draws=n)), control=True)
        for n in (2, 9)
    )
    assert len(few) == 1 + 2 and len(many) == 1 + 9
    for key, sets in few.items():
        assert sets["a"].tolist() == many[key]["a"].tolist()


def test_sets_are_read_as_they_were_written():
    sets = sets_of(ranked({"a": 12, "b": 7}))
    again = arms.from_table(arms.to_table(sets, each_layer=True))
    assert {key: {n: np.sort(c).tolist() for n, c in v.items()} for key, v in sets.items()} == {
        key: {n: c.tolist() for n, c in v.items()} for key, v in again.items()
    }


def test_layers_in_which_nothing_changed_are_absent():
    scores = pd.DataFrame({"layer": ["a", "a", "b"], "channel": [1, 0, 0], "score": [0.5, 0, 0]})
    assert {k: v.tolist() for k, v in arms.changed_layers(scores).items()} == {"a": [0, 1]}


def test_a_family_of_ones_own_is_one_function():
    half = partial(lambda name, r: {(name, 0): {la: c[::2] for la, c in r.order.items()}}, "half")
    arms.FAMILIES.add("every second")(arms.Family(half))
    try:
        sets = sets_of(ranked({"a": 8}))
    finally:
        del arms.FAMILIES._plugins["every second"]
    assert len(sets["half", 0]["a"]) == 4


@pytest.mark.parametrize("method", ["mine", CONTROLS])
def test_only_the_controls_of_the_reversion_study_leave_the_network_alone(method):
    model = build("small_vgg", 6, seed=0)
    layers = find_layers(model, View(32, 32))[:1]
    sets = {("all", 0): {layers[0].name: np.arange(3)}, ("q1", 0): {layers[0].name: [2, 0, 1]}}
    run = arms.make_arms(sets, method, {"all"}, layers, untouched=method == CONTROLS)
    untouched = [arm.labels for arm in run if not arm.channels]
    assert untouched == [[(method, "none", 0)]] * 2 * (method == CONTROLS)
    assert run[0].labels == [(method, "all", 0), (method, "q1", 0)]  # equal but for the order


def test_a_pair_without_sets_can_be_read_with_others(tmp_path):
    """Of two checkpoints with the same weights; types were once null, which ended the report."""
    one = {("q1", 0): {"a": np.array([1])}}
    for number, sets in enumerate(({}, one)):
        arms.to_table(sets, each_layer=True).to_parquet(tmp_path / f"{number}.parquet")
    paths = sorted(map(str, tmp_path.iterdir()))
    read = ds.dataset(paths, format="parquet").to_table(filter=ds.field("arm") == "q1").to_pandas()
    assert list(read["channel"]) == [1] and arms.from_table(arms.to_table({}, True)) == {}
