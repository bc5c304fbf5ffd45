"""Importance and reversion against their plain twins, on small and on torchvision's networks."""

import copy

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from torch import nn

from harness.evolutions.ablation import Arm, Images, ablate
from harness.evolutions.importance import (
    IMPORTANCE,
    importance_method,
    sensitivities,
    summarise,
)
from harness.evolutions.pair import ModelPair
from harness.evolutions.sensitivity import maps_and_gradients
from harness.images.sets import View
from harness.images.splits import split_images
from harness.networks.architectures import ARCHITECTURES, build
from harness.networks.execution import execution, replace_channels
from harness.networks.layers import Layer, find_layers
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


@pytest.mark.parametrize("channels_last", [False, True])
def test_replaced_channels_are_copied_and_the_memory_format_is_kept(channels_last):
    rng = np.random.default_rng(0)
    for shape, axis in [((3, 8, 5, 4), 1), ((3, 5, 4, 8), -1), ((3, 7, 8), -1), ((3, 8), 1)]:
        layer = Layer("x", channels=8, height=1, width=1, channels_last=axis == -1)
        output, source = (torch.from_numpy(rng.normal(size=shape)) for _ in range(2))
        spatial = channels_last and axis == 1 and len(shape) == 4
        wanted = torch.channels_last if spatial else torch.contiguous_format
        output, source = (part.contiguous(memory_format=wanted) for part in (output, source))
        channels = torch.from_numpy(rng.choice(8, 3, replace=False))
        plain = output.clone()
        for channel in channels:
            plain.select(axis, channel).copy_(source.select(axis, channel))
        changed = replace_channels(layer, channels, source)(output)
        assert torch.equal(changed, plain)
        assert changed.is_contiguous(memory_format=wanted)


@pytest.mark.parametrize("name", ["small_vgg", "small_convnext"])
def test_reverted_logits_in_channels_last_equal_a_full_pass(name):
    newer = perturbed(build(name, 6, seed=0), 1).to(memory_format=torch.channels_last).eval()
    older = perturbed(newer, 2).eval()
    layers = find_layers(newer, View(32, 32))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    images = images.contiguous(memory_format=torch.channels_last)
    channels = [0, 3, 4]
    with torch.no_grad(), execution(newer, layers) as running, execution(older, layers) as before:
        before.start(images)
        running.start(images)
        for layer in layers:
            change = replace_channels(layer, torch.tensor(channels), before.output(layer.name))
            plain = oracles.reverted_logits(
                older, newer, {layer.name: channels}, images, axes(layers)
            )
            assert torch.equal(running.rerun({layer.name: change}), plain)


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


def measured(pair, batches, target, methods, **more):
    older, newer, layers, _ = pair
    return sensitivities(
        ModelPair(older, newer, layers),
        batches,
        target,
        {name: importance_method(name) for name in methods},
        np.random.default_rng(0),
        **more,
    )


def test_the_average_gradient_on_the_path_accounts_for_the_whole_difference(pair):
    """Completeness of path attribution: sum_n s[x, n] = h(z') - h(z) in the newer top."""
    older, newer, layers, images = pair
    values = measured(pair, [images], 2, ["mean_path"], path_steps=200)
    with torch.no_grad(), execution(newer, layers) as running, execution(older, layers) as before:
        before.start(images)
        full = running.start(images)[:, 2]
        for layer in layers:
            change = replace_channels(
                layer, torch.arange(layer.channels), before.output(layer.name)
            )
            expected = (full - running.rerun({layer.name: change})[:, 2]).mean()
            total = values["mean_path", layer.name].mean(axis=0).sum()
            assert total == pytest.approx(float(expected), abs=2e-3, rel=2e-2)


def test_batches_do_not_change_scores(pair):
    images = pair[3]
    whole, parts = (
        measured(pair, pieces, 1, METHODS) for pieces in ([images], list(images.split(2)))
    )
    for key, values in whole.items():
        share = importance_method(key[0]).share
        (score, stderr), (other, _) = summarise(values, share), summarise(parts[key], share)
        np.testing.assert_allclose(score, other, rtol=1e-4, atol=1e-6)
        assert not share or ((score >= 0) & (score <= 1) & (stderr > 0)).all()


def test_models_go_back_to_what_they_were(pair):
    _, newer, layers, images = pair
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
    measured(pair, [images], 0, METHODS)
    assert [p.requires_grad for p in newer.parameters()] == flags
    assert [m.training for m in newer.modules()] == modes
    assert [getattr(m, "inplace", None) for m in newer.modules()] == inplace
    assert not any(m._forward_hooks for m in newer.modules())


def arms_on(layers):
    """Two sets in each layer and over all layers, and nothing."""
    rng = np.random.default_rng(0)
    chosen = [
        {la.name: torch.from_numpy(rng.permutation(la.channels)[:3].copy()) for la in layers}
        for _ in range(2)
    ]
    arms = [Arm(JOINT, {}, [("m", "none", 0)])]
    for number, by_layer in enumerate(chosen):
        arms.append(Arm(JOINT, by_layer, [("m", "set", number)]))
        arms += [Arm(name, {name: c}, [("m", "set", number)]) for name, c in by_layer.items()]
    return arms


def run_arms(pair, arms=None, **keywords):
    older, newer, layers, images = pair
    arms = arms_on(layers) if arms is None else arms
    ids = torch.arange(len(images))
    return ablate(
        ModelPair(older, newer, layers), arms, Images([(ids, images)]), 2, **keywords
    ), arms


def test_records_are_a_row_an_image_and_arm_and_equal_the_plain_pass(pair):
    older, newer, layers, images = pair
    records, arms = run_arms(pair)
    assert len(records) == len(images) * (2 * (len(layers) + 1) + 1)
    keys = ["layer", "method", "arm", "draw", "image_id"]
    assert not records.duplicated(keys).any()
    chosen = {(arm.layer, *arm.labels[0][1:]): arm.channels for arm in arms}
    for key, rows in records.groupby(["layer", "arm", "draw"]):
        by_layer = {name: channels.tolist() for name, channels in chosen[key].items()}
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
    records, arms = run_arms(pair)
    shuffled, _ = run_arms(pair, arms[::-1])
    hooked, _ = run_arms(pair, arms, traced=False)
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
