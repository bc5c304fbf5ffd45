"""Importance and reversion against their plain twins, on small and on torchvision's networks."""

from functools import partial

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from network_pairs import MOST_AT_NIGHT, axes, perturbed
from torch import nn

from harness.evolutions import sensitivity
from harness.evolutions.ablation import ABLATIONS, Arm, Images, ablate
from harness.evolutions.importance import (
    IMPORTANCE,
    ImportanceMethod,
    importance_method,
    sensitivities,
)
from harness.evolutions.sensitivity import Case, maps_and_gradients
from harness.images.view import View
from harness.networks.architectures import build
from harness.networks.execution import execution, replace_channels
from harness.networks.layer import ModelPair
from harness.networks.layers import Layer, find_layers
from harness.stages.series_images import split_images

METHODS = ("sign_t", "mean_t", "sign_t1", "mean_t1", "sign_path", "mean_path", "change", "random")


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
    models = ModelPair(*pair[:3])
    values = {}
    for name in methods:
        method, rng = importance_method(name), np.random.default_rng(0)
        layers = sensitivities(Case(models, batches, target, rng, **more), method)
        values |= {(name, layer): sensitivity for layer, sensitivity in layers.items()}
    return values


@pytest.mark.parametrize(("method", "passes"), [("sign_t", 1), ("sign_t1", 1), ("change", 0)])
def test_a_checkpoint_of_which_maps_alone_are_asked_takes_no_backward_pass(
    pair, monkeypatch, method, passes
):
    older, newer, layers, images = pair
    backward, asked = sensitivity.maps_and_gradients, []
    monkeypatch.setattr(
        sensitivity,
        "maps_and_gradients",
        lambda model, *a: asked.append(model) or backward(model, *a),
    )
    values = measured(pair, [images], 2, [method])
    assert len(asked) == passes
    (of_older, by_older), (of_newer, by_newer) = (
        backward(m, layers, images, 2) for m in (older, newer)
    )
    for layer in (layer.name for layer in layers):
        change = of_newer[layer] - of_older[layer]
        gradient = {"sign_t": by_older, "sign_t1": by_newer}.get(method, {}).get(layer)
        expected = change.norm(dim=2) if gradient is None else (gradient * change).sum(dim=2)
        assert np.array_equal(values[method, layer], expected.double().numpy())


def test_gradients_of_maps_that_the_network_overwrites_are_those_of_a_copy():
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.ReLU(inplace=True)]
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    images = torch.randn(4, 3, 8, 8)
    layers = find_layers(model, View(8, 8), ["1", "3"])
    found = maps_and_gradients(model, layers, images, 1)
    parts[-1].inplace = False
    for ours, plain in zip(found, maps_and_gradients(model, layers, images, 1), strict=True):
        assert all(torch.equal(ours[name], plain[name]) for name in ("1", "3"))
    assert (found[0]["3"] < 0).any()  # as they were before the ReLU


@pytest.mark.parametrize("pair", MOST_AT_NIGHT, indirect=True)
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


class TokensOfMap(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), norm, nn.Linear(6, 4)

    def forward(self, x):
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(nn.functional.gelu(tokens)).mean(dim=1)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(6), nn.InstanceNorm2d(6, track_running_stats=True)]
)
def test_images_one_at_a_time_have_the_scores_of_a_batch(norm):
    """torch computes wrong gradients of these norms for a single image before tokens."""
    torch.manual_seed(0)
    newer = perturbed(TokensOfMap(norm), 1).eval()
    images = torch.randn(3, 3, 8, 8)
    pair = perturbed(newer, 2).eval(), newer, find_layers(newer, View(8, 8), ["conv"]), images
    methods = ["mean_t", "mean_t1", "mean_path", "contexts"]
    together, alone = (measured(pair, b, 2, methods) for b in ([images], list(images.split(1))))
    for key, values in together.items():
        np.testing.assert_allclose(alone[key], values, rtol=1e-4, atol=1e-6, err_msg=str(key))


def test_one_step_of_a_path_is_in_its_middle():
    newer = build("small_vgg", 6, seed=0).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pair = perturbed(newer, 1), newer, find_layers(newer, View(32, 32)), images
    older, newer, layers, _ = pair
    values = measured(pair, [images], 2, ["mean_path"], path_steps=1)
    (before, _), (after, _) = (maps_and_gradients(m, layers, images, 2) for m in (older, newer))
    with execution(newer, layers) as running:
        with torch.no_grad():
            running.start(images)
        for name, layer in ((layer.name, layer) for layer in layers):
            middle = ((before[name] + after[name]) / 2).requires_grad_()
            logits = running.rerun({name: partial(layer.like_output, middle)})
            (gradient,) = torch.autograd.grad(logits[:, 2].sum(), middle)
            expected = (gradient * (after[name] - before[name])).sum(dim=2)
            np.testing.assert_allclose(values["mean_path", name], expected, rtol=1e-4, atol=1e-6)


def test_gradients_of_a_layer_that_reaches_no_output_are_zero():
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.aside = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Tanh()

        def forward(self, x):
            y = self.relu(self.conv(x))
            self.aside(y)
            return y.mean(dim=(2, 3))

    model = Aside().eval()
    layers = find_layers(model, View(8, 8), ["relu", "aside"])
    maps, gradients = maps_and_gradients(model, layers, torch.randn(2, 3, 8, 8), 1)
    assert maps["aside"].any() and not gradients["aside"].any() and gradients["relu"].any()


def test_traced_code_is_compared_once_for_a_model_and_size_of_image():
    older, newer = (build("small_vgg", 6, seed=seed) for seed in (0, 1))
    layers, images, own = find_layers(newer, View(32, 32)), torch.randn(4, 3, 32, 32), []
    for model in (older, newer):
        model.register_forward_hook(lambda model, *_: own.append(model))

    def compared(model, batch):
        own.clear()
        with torch.no_grad(), execution(model, layers) as running:
            running.start(batch)
            running.start(batch)
            assert running._fits
        return own == [model]

    assert compared(newer, images) and compared(older, images)
    assert not compared(newer, images) and not compared(newer, images[:2])
    assert compared(newer, images[:, :, :-8])


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


def test_splits_are_disjoint_and_shared_out_when_images_are_few():
    labels = np.array([0] * 9 + [1] * 30 + [2])
    many = split_images(labels, 1, 10, 10, seed=0)
    assert len(many["importance"]) == len(many["heldout"]) == 10
    assert not set(many["importance"]) & set(many["heldout"])
    few = split_images(labels, 0, 20, 10, seed=0)
    assert len(few["importance"]) == 6 and len(few["heldout"]) == 3
    with pytest.raises(ValueError, match="class 2 has 1 images; importance and reversion need"):
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


@pytest.fixture
def case():
    """A pair of networks of one layer, an arm of all its channels, and four images."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(4, 3))  # fmt: skip
    pair = ModelPair(perturbed(model, 1), model, find_layers(model, View(8, 8)))
    images = torch.randn(4, 3, 8, 8)
    return pair, images


def rows(case, ablation, monkeypatch):
    """The records of two arms, each half of the channels, under a user's ablation."""
    pair, images = case
    arms = [Arm("1", {"1": torch.tensor(some)}, [("controls", f"{some}", 0)])
            for some in ([0, 1], [2, 3])]  # fmt: skip
    monkeypatch.setitem(ABLATIONS._plugins, "mine", ablation)
    return ablate(pair, arms, Images([(torch.arange(4), images)]), 1, "mine")


def test_an_ablation_that_writes_to_maps_leaves_other_arms_as_they_are(case, monkeypatch):
    silent = rows(case, lambda maps, layer: torch.zeros_like(maps.newer(layer)), monkeypatch)
    written = rows(case, lambda maps, layer: maps.newer(layer).zero_(), monkeypatch)
    pd.testing.assert_frame_equal(silent, written)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda maps: maps.mean(0), r"\(4, 6, 6\) of torch.float32"),
        (lambda maps: maps.double(), ".* of torch.float64"),
        (lambda maps: maps.numpy(), "ndarray"),
        (lambda maps: None, "NoneType"),
    ],
)
def test_what_an_ablation_returns_is_like_the_layers_output(change, got, case, monkeypatch):
    message = rf"must return a tensor like the output of layer '1', \(4, 4, 6, 6\) .*; got {got}"
    with pytest.raises(ValueError, match=message):
        rows(case, lambda maps, layer: change(maps.newer(layer)), monkeypatch)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda sizes: {"1": sizes["1"].T[:3]}, r"shape \(3, 4\)"),
        (lambda sizes: {"1": sizes["1"].mean(0, keepdim=True)}, r"shape \(1, 4\)"),
        (lambda sizes: {"1": sizes["1"].numpy()}, "a ndarray"),
        (lambda sizes: {}, "a dict"),
        (lambda sizes: None, "a NoneType"),
    ],
)
def test_what_a_score_returns_is_a_number_for_every_image_and_channel(change, got, case):
    pair, images = case
    mine = ImportanceMethod(lambda given: change(given.size()))
    with pytest.raises(ValueError, match=rf"for '1' of shape \(4, 4\); got {got}"):
        sensitivities(Case(pair, [images], 1, np.random.default_rng(0)), mine)


def test_an_error_in_a_users_score_or_ablation_names_it(case, monkeypatch):
    def scored(change):
        return change.no_such_thing

    def ablated(maps, layer):
        return {}[layer]

    def unequal(maps, layer):
        raise ValueError("lengths differ")

    with pytest.raises(ValueError, match="importance method 'scored' failed: AttributeError: "):
        sensitivities(
            Case(case[0], [case[1]], 1, np.random.default_rng()), ImportanceMethod(scored)
        )
    with pytest.raises(ValueError, match="ablation 'mine' failed: KeyError: '1'"):
        rows(case, ablated, monkeypatch)
    with pytest.raises(ValueError, match=r"'mine' failed: ValueError: lengths differ \(.*, line"):
        rows(case, unequal, monkeypatch)


def test_undefined_outputs_and_sensitivities_are_refused():
    """NaN is smaller than nothing, so it would count as correct and as not important."""

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 3)

        def forward(self, x):
            features = self.act(self.conv(x)).mean((2, 3))
            return self.head(features / features.norm(dim=1, keepdim=True))

    torch.manual_seed(0)
    model = Normalised()
    layers = find_layers(model, View(8, 8))
    pair = ModelPair(perturbed(model, 1), model, layers)
    arm = Arm("act", {"act": torch.arange(4)}, [("controls", "all", 0)])
    images = torch.randn(4, 3, 8, 8)
    shown = Images([(torch.arange(4), images)])
    with pytest.raises(ValueError, match="'zero' of all in act, .* NaN or infinite for 4 of 4"):
        ablate(pair, [arm], shown, 1, "zero")
    undefined = ImportanceMethod(lambda change: {"act": change.maps_to["act"].mean(2).log() / 0})
    with pytest.raises(ValueError, match="of importance method .* in layer 'act' are NaN"):
        sensitivities(Case(pair, [images], 1, np.random.default_rng(0)), undefined)
