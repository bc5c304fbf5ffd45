"""Heads of attention, the residual stream and inputs of modules, probed and ablated as layers."""

import copy

import numpy as np
import oracles
import pytest
import torch
from network_pairs import perturbed
from one_pass import probe
from torch import nn

from harness.concepts.probing import ProbeParameters
from harness.evolutions.ablation import Arm, Images, ablate
from harness.evolutions.sensitivity import maps_and_gradients
from harness.images.sets import ArrayImages, draw_arrays
from harness.images.view import View
from harness.networks.execution import execution, replace_channels
from harness.networks.layer import ModelPair, Network
from harness.networks.layers import find_layers, measure_patches
from harness.networks.parts import OpenAttention, open_attention
from harness.records import Checkpoint

VIEW = View(32, 32)


class Attention(nn.Module):
    """Attention as libraries write it: one projection to queries, keys and values, one back."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        z = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(z.transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, width, heads, returns_tuple):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.tuple = Attention(width, heads), returns_tuple
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return (x, None) if self.tuple else x


class Transformer(nn.Module):
    """16 patches of a 32 px image after `extra` tokens without a position."""

    def __init__(self, extra=1, returns_tuple=False, width=12, heads=3):
        super().__init__()
        self.embed, self.extra = nn.Conv2d(3, width, 8, 8), extra
        self.blocks = nn.ModuleList(Block(width, heads, returns_tuple) for _ in range(2))
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.extra:
            x = torch.cat([x[:, : self.extra] * 0 + 0.3, x], dim=1)
        for block in self.blocks:
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        return self.head(x.mean(dim=1))


def pair_of(model):
    torch.manual_seed(0)
    newer = perturbed(model, 1)
    return perturbed(newer, 2, 0.3).eval(), newer.eval()


IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
NAMES = ["blocks.*.attn:heads", "blocks.?:residual", "blocks.*.norm2:input"]


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_parts_are_found_in_the_order_of_running(extra):
    layers = find_layers(Transformer(extra), VIEW, NAMES)
    assert [layer.name for layer in layers] == [
        "blocks.0.attn:heads", "blocks.0.norm2:input", "blocks.0:residual",
        "blocks.1.attn:heads", "blocks.1.norm2:input", "blocks.1:residual",
    ]  # fmt: skip
    heads, middle, residual = layers[:3]
    assert (heads.channels, heads.group, heads.module, heads.side) == (
        3,
        4,
        "blocks.0.attn.proj",
        "input",
    )
    assert (middle.channels, residual.channels) == (12, 12)
    assert {(la.height, la.width, la.extra) for la in layers} == {(4, 4, extra)}
    measured = measure_patches(Transformer(extra), layers, VIEW)
    assert all(layer.patch > 0 for layer in measured)


def value_of(model, layer, images):
    """Return what a hook sees at a layer, as the plain twin of recording."""
    caught = []
    module = model.get_submodule(layer.module)
    if layer.side == "input":
        handle = module.register_forward_pre_hook(lambda m, args: caught.append(args[0].clone()))
    else:
        handle = module.register_forward_hook(
            lambda m, i, out: caught.append((out[0] if isinstance(out, tuple) else out).clone())
        )
    with torch.no_grad():
        model(images)
    handle.remove()
    return caught[0]


def replaced_logits(newer, layer, units, values, images):
    """Return the logits of a full pass in which a unit's channels are overwritten one by one."""

    def overwrite(value):
        changed = value.clone()
        for unit in units:
            for channel in range(unit * layer.group, (unit + 1) * layer.group):
                changed[..., channel] = values[..., channel]
        return changed

    module = newer.get_submodule(layer.module)
    if layer.side == "input":
        handle = module.register_forward_pre_hook(lambda m, args: (overwrite(args[0]),))
    else:
        handle = module.register_forward_hook(
            lambda m, i, out: (
                (overwrite(out[0]), *out[1:]) if isinstance(out, tuple) else overwrite(out)
            )
        )
    with torch.no_grad():
        logits = newer(images)
    handle.remove()
    return logits


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("returns_tuple", [True, False])
def test_reverted_parts_equal_a_full_pass(traced, returns_tuple):
    older, newer = pair_of(Transformer(returns_tuple=returns_tuple))
    layers = find_layers(newer, VIEW, NAMES)
    with torch.no_grad(), execution(newer, layers, traced) as running:
        running.start(IMAGES)
        with execution(older, layers, traced) as before:
            before.start(IMAGES)
            old = {layer.name: before.output(layer.name) for layer in layers}
        for layer in layers:
            assert torch.equal(old[layer.name], value_of(older, layer, IMAGES))
            change = replace_channels(layer, torch.tensor([0, 2]), old[layer.name])
            plain = replaced_logits(newer, layer, [0, 2], old[layer.name], IMAGES)
            assert torch.equal(running.rerun({layer.name: change}), plain)
    arms = [Arm(la.name, {la.name: torch.tensor([1])}, [("m", "q1", 0)]) for la in layers]
    shown = Images([(torch.arange(4), IMAGES)])
    alone = ablate(ModelPair(older, newer, layers), arms, shown, 2, batch_size=1, traced=traced)
    stacked = ablate(ModelPair(older, newer, layers), arms, shown, 2, batch_size=64, traced=traced)
    for column in alone:
        assert (alone[column] == stacked[column]).all() or column.startswith(("prob", "obj"))


def test_gradients_of_heads_equal_plain_autograd():
    _, newer = pair_of(Transformer())
    layers = find_layers(newer, VIEW, NAMES)
    maps, gradients = maps_and_gradients(newer, layers, IMAGES, 2)
    for layer in layers:
        leaf = value_of(newer, layer, IMAGES).requires_grad_()
        module = newer.get_submodule(layer.module)
        if layer.side == "input":
            handle = module.register_forward_pre_hook(lambda m, args, leaf=leaf: (leaf,))
        else:
            handle = module.register_forward_hook(lambda m, i, out, leaf=leaf: leaf)
        (plain,) = torch.autograd.grad(newer(IMAGES)[:, 2].sum(), leaf)
        handle.remove()
        for unit in range(layer.channels):
            own = slice(unit * layer.group, (unit + 1) * layer.group)
            for fast, value in ((maps, leaf), (gradients, plain)):
                expected = value[..., own].detach().flatten(1).sort(dim=1).values
                found = fast[layer.name][:, unit].sort(dim=1).values
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(
            layer.like_output(maps[layer.name], leaf.detach()), leaf.detach()
        )  # there and back


def test_a_head_is_active_as_its_vector_is_long():
    model = Transformer().eval()
    (layer,) = find_layers(model, VIEW, ["blocks.1.attn:heads"])
    arrays = draw_arrays(0, 0, 6)
    view = View(32, 32)
    images = ArrayImages(arrays["pixels"], arrays["labels"], tuple("abcdefghijkl"))
    network = Network(Checkpoint("t", 1), model, [layer], view)
    recorded = probe(network, images, ProbeParameters(k=2))
    shown = torch.stack([torch.tensor(np.array(images.pixels(i, view))) for i in range(6)])
    batch = (shown.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    heads = value_of(model, layer, batch).unflatten(2, (3, 4)).square().sum(dim=3).sqrt()
    torch.testing.assert_close(
        torch.tensor(recorded.activations), heads.amax(dim=1), rtol=1e-4, atol=1e-5
    )
    best = recorded.stimuli.iloc[0]
    place = int(heads[int(best["image_id"]), :, 0].argmax()) - layer.extra
    if place >= 0:
        assert best["peak_y"] == pytest.approx((place // 4 + 0.5) / 4)
        assert best["peak_x"] == pytest.approx((place % 4 + 0.5) / 4)


@pytest.mark.parametrize("batch_first", [True, False])
def test_heads_of_torchs_own_attention(batch_first):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Conv2d(3, 12, 8, 8), nn.Linear(12, 4)
            self.layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=batch_first)

        def forward(self, x):
            x = self.embed(x).flatten(2).permute(*((0, 2, 1) if batch_first else (2, 0, 1)))
            return self.head(self.layer(x).mean(dim=1 if batch_first else 0))

    model = Own().eval()
    with pytest.raises(ValueError, match="out_proj is not run as a module"):
        find_layers(model, VIEW, ["layer.self_attn:heads"])
    opened = open_attention(copy.deepcopy(model), ("layer.self_attn:heads",))
    assert isinstance(opened.layer.self_attn, OpenAttention)
    torch.testing.assert_close(opened(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)
    heads, residual = find_layers(opened, VIEW, ["layer.self_attn:heads", "layer:residual"])
    assert (heads.channels, heads.group, heads.sequence_first) == (3, 4, False)
    assert residual.sequence_first is not batch_first
    assert (residual.height, residual.width, residual.channels) == (4, 4, 12)
    older, newer = pair_of(opened)
    maps, _ = maps_and_gradients(newer, [heads, residual], IMAGES, 1)
    assert maps[heads.name].shape == (4, 3, 16 * 4) and maps[residual.name].shape == (4, 12, 16)
    arms = [
        Arm(la.name, {la.name: torch.tensor([u])}, [("m", "q1", u)])
        for la in (heads, residual)
        for u in (0, 1)
    ]
    # as many images as tokens: no dimension may be taken for the other
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    shown = Images([(torch.arange(16), images)])
    stacked = ablate(ModelPair(older, newer, [heads, residual]), arms, shown, 2, batch_size=64)
    with execution(older, [heads, residual]) as before, torch.no_grad():
        before.start(images)
        for layer in (heads, residual):
            old = before.output(layer.name)
            plain = replaced_logits(newer, layer, [1], old, images).double().softmax(1)[:, 2]
            rows = stacked[(stacked["layer"] == layer.name) & (stacked["draw"] == 1)]
            np.testing.assert_allclose(rows["probability_after"], plain, rtol=1e-4)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("blocks.0:head", "the part must be one of input, residual, heads"),
        (
            "block.0:heads",
            "no module matches 'block.0' of 'block.0:heads'; there are embed, blocks",
        ),
        ("embed:heads", "no module has heads: embed: it has no number of heads"),
        ("embed:residual", r"the shape from \(2, 3, 32, 32\) to \(2, 12, 4, 4\), which a residual"),
    ],
)
def test_parts_that_are_not_there_are_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        find_layers(Transformer(), VIEW, [pattern])


def test_a_block_of_several_outputs_says_how_to_name_it():
    with pytest.raises(ValueError, match="returns several values; .* blocks.0:residual"):
        find_layers(Transformer(returns_tuple=True), VIEW, ["blocks.0"])


def test_no_part_is_advised_that_would_be_refused():
    recurrent = nn.Sequential(nn.Flatten(2), nn.GRU(1024, 8))
    with pytest.raises(ValueError, match="'1' returns several values; name a module .* after it$"):
        find_layers(recurrent, VIEW, ["1"])


def test_oracles_agree_on_whole_layers():
    older, newer = pair_of(Transformer())
    (layer,) = find_layers(newer, VIEW, ["blocks.0:residual"])
    plain = oracles.reverted_logits(older, newer, {"blocks.0": [3]}, IMAGES, {"blocks.0": -1})
    with torch.no_grad(), execution(newer, [layer]) as running:
        running.start(IMAGES)
        old = oracles.output_of(older, "blocks.0", IMAGES)
        change = replace_channels(layer, torch.tensor([3]), old)
        assert torch.equal(running.rerun({layer.name: change}), plain)
