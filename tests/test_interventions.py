"""Importance and reversion against their plain twins, on small and on torchvision's networks."""

import copy

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness.evolutions.importance import IMPORTANCE, ImportanceParameters, importance
from harness.evolutions.reversion import (
    ReversionParameters,
    choose_sets,
    match_change,
    revert,
    split_images,
)
from harness.evolutions.sensitivity import maps_and_gradients
from harness.images.sets import View
from harness.networks.architectures import ARCHITECTURES, build
from harness.networks.execution import execution, replace_channels
from harness.networks.layers import find_layers
from harness.records import JOINT

METHODS = ("sign_t", "mean_t", "sign_t1", "mean_t1", "sign_path", "mean_path", "change", "random")


def perturbed(model: nn.Module, seed: int, size: float = 0.3) -> nn.Module:
    """A copy with every weight moved, and batch norm statistics that are not the initial ones."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.buffers()]:
            if tensor.is_floating_point() and tensor.dim() > 0:
                noise = torch.randn(tensor.shape, generator=generator)
                tensor += size * noise * tensor.abs().mean().clamp(min=0.05)
        for module in other.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.abs_().clamp_(min=0.1)
    return other


class InPlace(nn.Module):
    """What trips caches up: in-place non-linearities and additions, a skip, a reused module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.SiLU(inplace=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        skip = self.first(x)
        y = self.second(self.relu(skip.clone()))
        y += skip
        y = self.act(y)
        y = self.relu(y)
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(y, 1), 1))


class DataDependent(nn.Module):
    """Cannot be traced: its path depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        y = self.act(self.conv(x))
        if y.sum() < 0:
            y = -y
        return self.head(y.mean(dim=(2, 3)))


def make(name):
    torch.manual_seed(0)
    if name == "in_place":
        return InPlace(), View(12, 12), ["first", "second", "act"]
    if name == "data_dependent":
        return DataDependent(), View(12, 12), None
    return build(name, 6, seed=0), View(32, 32), None


NETWORKS = ["in_place", "data_dependent", *ARCHITECTURES]


@pytest.fixture(params=NETWORKS)
def pair(request):
    model, view, names = make(request.param)
    newer = perturbed(model, 1)
    older = perturbed(newer, 2)
    layers = find_layers(newer, view, names)
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(5, 3, view.crop, view.crop, generator=generator)
    return older.eval(), newer.eval(), layers, images


def axes(layers):
    return {layer.name: -1 if layer.channels_last else 1 for layer in layers}


def test_maps_and_gradients_equal_one_pass_an_image_and_layer(pair):
    older, newer, layers, images = pair
    axis = axes(layers)
    maps, gradients = maps_and_gradients(older, layers, images, 2)
    later, _ = maps_and_gradients(newer, layers, images, 2)
    for layer in layers:
        fast = (gradients[layer.name] * (later[layer.name] - maps[layer.name])).sum(dim=2)
        for index in range(len(images)):
            plain = oracles.sensitivity(
                older, newer, layer.name, images[index : index + 1], 2, axis[layer.name]
            )
            np.testing.assert_allclose(fast[index].numpy(), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("traced", [True, False])
def test_reverted_logits_equal_a_full_pass_with_copied_channels(pair, traced):
    older, newer, layers, images = pair
    rng = np.random.default_rng(0)
    single = [{layer.name: rng.choice(layer.channels, 3, replace=False)} for layer in layers]
    joint = {layer.name: rng.choice(layer.channels, 2, replace=False) for layer in layers}
    by_name = {layer.name: layer for layer in layers}
    with torch.no_grad(), execution(newer, layers, traced) as running:
        with execution(older, layers, traced) as before:
            before.start(images)
            old = {layer.name: before.output(layer.name) for layer in layers}
        running.start(images)
        for sets in [*single, joint, *single[::-1]]:
            found = running.rerun(
                {
                    name: replace_channels(by_name[name], torch.as_tensor(channels), old[name])
                    for name, channels in sets.items()
                }
            )
            plain = oracles.reverted_logits(older, newer, sets, images, axes(layers))
            assert torch.equal(found, plain)


def test_reverting_a_whole_layer_runs_the_newer_top_on_the_older_bottom():
    newer = build("small_vgg", 6, seed=0).eval()
    older = perturbed(newer, 5).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    layers = find_layers(newer, View(32, 32))
    with torch.no_grad():
        for layer in layers:
            depth = int(layer.name.split(".")[1]) + 1
            bottom, top = older.features[:depth], newer.features[depth:]
            expected = newer.classifier(top(bottom(images)))
            with execution(newer, layers) as running, execution(older, layers) as before:
                before.start(images)
                running.start(images)
                everything = torch.arange(layer.channels)
                change = replace_channels(layer, everything, before.output(layer.name))
                assert torch.equal(running.rerun({layer.name: change}), expected)


def test_the_average_gradient_on_the_path_accounts_for_the_whole_difference(pair):
    """Completeness of path attribution: sum_n s[x, n] = h(z') - h(z) in the newer top."""
    older, newer, layers, images = pair
    parameters = ImportanceParameters(methods=("mean_path",), path_steps=200)
    table = importance(older, newer, layers, [images], 2, parameters, np.random.default_rng(0))
    with torch.no_grad(), execution(newer, layers) as running, execution(older, layers) as before:
        before.start(images)
        full = running.start(images)[:, 2]
        for layer in layers:
            change = replace_channels(
                layer, torch.arange(layer.channels), before.output(layer.name)
            )
            expected = (full - running.rerun({layer.name: change})[:, 2]).mean()
            rows = table[(table["layer"] == layer.name) & (table["method"] == "mean_path")]
            assert rows["score"].sum() == pytest.approx(float(expected), abs=2e-3, rel=2e-2)


def test_batches_do_not_change_scores(pair):
    older, newer, layers, images = pair
    parameters = ImportanceParameters(methods=METHODS)
    tables = [
        importance(older, newer, layers, pieces, 1, parameters, np.random.default_rng(0))
        for pieces in ([images], list(images.split(2)))
    ]
    np.testing.assert_allclose(tables[0]["score"], tables[1]["score"], rtol=1e-4, atol=1e-6)
    shares = tables[0][tables[0]["method"].str.startswith("sign")]
    assert shares["score"].between(0, 1).all()
    assert (shares["stderr"] > 0).all()


def test_models_go_back_to_what_they_were(pair):
    older, newer, layers, images = pair
    newer.train()
    next(iter(newer.modules())).training = True
    flags = [p.requires_grad for p in newer.parameters()]
    modes = [m.training for m in newer.modules()]
    inplace = [getattr(m, "inplace", None) for m in newer.modules()]

    class Stop(Exception):
        pass

    with pytest.raises(Stop), execution(newer, layers) as running:
        running.start(images)
        raise Stop
    importance(older, newer, layers, [images], 0, ImportanceParameters(), np.random.default_rng(0))
    assert [p.requires_grad for p in newer.parameters()] == flags
    assert [m.training for m in newer.modules()] == modes
    assert [getattr(m, "inplace", None) for m in newer.modules()] == inplace
    assert not any(m._forward_hooks for m in newer.modules())


def scores_of(channels_by_layer, seed=0, methods=("sign_t", "change")):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            (
                layer,
                channel,
                method,
                float(rng.integers(0, 5) if method == "sign_t" else rng.random()),
            )
            for layer, count in channels_by_layer.items()
            for channel in range(count)
            for method in methods
        ],
        columns=["layer", "channel", "method", "score"],
    )


@given(st.integers(2, 30), st.integers(2, 6), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_every_neuron_is_in_exactly_one_bin_and_controls_have_q1s_size(count, bins, seed):
    scores = scores_of({"a": max(count, bins), "b": 2 * bins}, seed)
    parameters = ReversionParameters(bins=bins, random_draws=3)
    sets = choose_sets(scores, ["sign_t", "change"], parameters, np.random.default_rng(seed))
    for (layer, _), group in sets.groupby(["layer", "method"]):
        channels = scores.loc[scores["layer"] == layer, "channel"].unique()
        binned = group[group["arm"].str.fullmatch(r"q\d+")]
        assert sorted(binned["channel"]) == sorted(channels)
        size = (group["arm"] == "q1").sum()
        draws = group[group["arm"] == "random"].groupby("draw")["channel"]
        assert (draws.nunique() == size).all() and len(draws) == 3
        q1 = set(group.loc[group["arm"] == "q1", "channel"])
        matched = group.loc[group["arm"] == "matched", "channel"]
        assert matched.is_unique and not q1 & set(matched)
        assert len(matched) == min(size, len(channels) - size)
    means = scores[scores["method"] == "sign_t"].merge(sets[sets["method"] == "sign_t"])
    ranked = means[means["arm"].str.fullmatch(r"q\d+")].groupby(["layer", "arm"])["score"]
    lowest, highest = ranked.min().unstack(), ranked.max().unstack()
    for number in range(1, bins):
        assert (lowest[f"q{number}"] >= highest[f"q{number + 1}"]).all()


def test_matching_finds_neurons_that_changed_as_much():
    size = pd.Series([1.0, 2.0, 4.0, 8.0, 1.1, 2.2, 3.9, 100.0, 0.0])
    found = match_change(np.array([0, 1, 2]), np.array([3, 4, 5, 6, 7, 8]), size)
    assert sorted(found) == [4, 5, 6]


def test_random_sets_are_the_same_for_every_method():
    sets = choose_sets(
        scores_of({"a": 12}), ["sign_t", "change"], ReversionParameters(), np.random.default_rng(0)
    )
    random = sets[sets["arm"] == "random"]
    of = [g[["draw", "channel"]].to_numpy().tolist() for _, g in random.groupby("method")]
    assert of[0] == of[1]


def run_reversion(pair, sets=None, **keywords):
    older, newer, layers, images = pair
    scores = scores_of({layer.name: layer.channels for layer in layers})
    if sets is None:
        parameters = ReversionParameters(random_draws=2)
        sets = choose_sets(scores, ["sign_t"], parameters, np.random.default_rng(0))
    ids = torch.arange(len(images))
    return revert(older, newer, layers, sets, [(ids, images)], 2, **keywords), sets


def test_records_are_a_row_an_image_and_arm_and_equal_the_plain_pass(pair):
    older, newer, layers, images = pair
    records, sets = run_reversion(pair)
    arms = 4 + 1 + 1 + 2 + 1  # bins, matched, all, random draws, none
    assert len(records) == len(images) * arms * (len(layers) + 1)
    keys = ["layer", "method", "arm", "draw", "image_id"]
    assert not records.duplicated(keys).any()
    for (layer, arm, draw), rows in records.groupby(["layer", "arm", "draw"]):
        chosen = sets[(sets["arm"] == arm) & (sets["draw"] == draw)]
        if layer != JOINT:
            chosen = chosen[chosen["layer"] == layer]
        by_layer = {name: group["channel"].tolist() for name, group in chosen.groupby("layer")}
        with torch.no_grad():
            before = newer(images)
        after = oracles.reverted_logits(older, newer, by_layer, images, axes(layers))
        for name, logits in (("before", before), ("after", after)):
            rank = (logits > logits[:, 2:3]).sum(dim=1)
            assert rows[f"correct_{name}"].tolist() == (rank == 0).tolist()
            assert rows[f"top5_{name}"].tolist() == (rank < 5).tolist()
            probability = logits.double().softmax(1)[:, 2].float()
            assert rows[f"probability_{name}"].tolist() == probability.tolist()
    nothing = records[records["arm"] == "none"]
    assert (nothing["probability_before"] == nothing["probability_after"]).all()


def test_the_order_of_arms_and_tracing_change_no_record(pair):
    keys = ["layer", "method", "arm", "draw", "image_id"]
    records, sets = run_reversion(pair)
    shuffled, _ = run_reversion(pair, sets.sample(frac=1, random_state=1))
    hooked, _ = run_reversion(pair, sets, traced=False)
    expected = records.sort_values(keys).reset_index(drop=True)
    for other in (shuffled, hooked):
        pd.testing.assert_frame_equal(expected, other.sort_values(keys).reset_index(drop=True))


def test_splits_are_disjoint_and_shared_out_when_images_are_few():
    labels = np.array([0] * 9 + [1] * 30 + [2])
    many = split_images(labels, 1, 10, 10, seed=0)
    assert len(many["importance"]) == len(many["heldout"]) == 10
    assert not set(many["importance"]) & set(many["heldout"])
    few = split_images(labels, 0, 20, 10, seed=0)
    assert len(few["importance"]) == 6 and len(few["heldout"]) == 3
    with pytest.raises(ValueError, match="class 2 has 1 images; importance and reversion need one"):
        split_images(labels, 2, 10, 10, seed=0)


def test_a_model_without_logits_is_refused():
    class Tuple(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(x), x

    model = Tuple()
    layers = find_layers(model, View(8, 8), ["act"])
    with pytest.raises(ValueError, match="must return logits"), execution(model, layers) as running:
        running.start(torch.rand(1, 3, 8, 8))


def test_every_method_is_registered_and_marked():
    assert set(METHODS) <= set(IMPORTANCE)
    marked = {name: IMPORTANCE.get(name).linearises for name in IMPORTANCE}
    reverting = ["sign_t1", "mean_t1", "sign_path", "mean_path", "contexts"]
    assert [name for name, ablation in marked.items() if ablation == "revert"] == reverting
    silencing = ["gradient_activation", "integrated"]
    assert [name for name, ablation in marked.items() if ablation == "zero"] == silencing
