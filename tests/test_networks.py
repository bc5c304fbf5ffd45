"""Unusual networks run as in plain torch, or one message says what is wrong."""

import copy
import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from harness.artifacts import Artifact, Run
from harness.concepts.naming import dissect, label_masks
from harness.config import parse_config
from harness.images import drawn
from harness.images.sets import ArrayImages, draw_arrays, open_images
from harness.images.view import View
from harness.networks.architectures import build, takes_channels_last
from harness.networks.calls import expose_calls
from harness.networks.default_layers import token_grid
from harness.networks.layer import Network
from harness.networks.layers import find_layers, measure_patches
from harness.networks.running import choose_output, logits_of
from harness.networks.sources import FunctionSource
from harness.networks.watching import record_pass
from harness.records import Checkpoint, Pair
from harness.registry import UserCodeError
from harness.stages.check import CheckCheckpoint
from harness.stages.checkpoints import open_pair
from harness.stages.probe import FindLayers
from harness.stages.run import run_until

SMALL = torch.rand(2, 3, 16, 16)


class Functional(nn.Module):
    """A network that calls activation functions as functions and methods, and one module twice."""

    def __init__(self):
        super().__init__()
        widths = (3, 8, 10, 12, 14, 16)
        pairs = pairwise(widths)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.act, self.head = nn.ReLU(), nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.convs[0](x))
        x = self.convs[1](x).relu()
        x = F.gelu(self.convs[2](x))
        x = self.act(self.convs[3](x))
        x = self.act(self.convs[4](x))
        return self.head(x.mean((2, 3)))


class Branching(Functional):
    """A network that cannot be traced."""

    def forward(self, x):
        return super().forward(-x if x.sum() < 0 else x)


def test_every_call_of_an_activation_function_is_a_layer():
    torch.manual_seed(0)
    model = Functional().eval()
    images = torch.rand(2, 3, 16, 16)
    expected, state = model(images), set(model.state_dict())
    exposed = expose_calls(copy.deepcopy(model), images)
    assert torch.equal(exposed(images), expected) and set(exposed.state_dict()) == state
    layers = find_layers(exposed, View(16, 16))
    assert [layer.channels for layer in layers] == [8, 10, 12, 14, 16]
    assert all("call" in layer.name for layer in layers)
    assert [layer.channels for layer in find_layers(exposed, View(16, 16), ["gelu_call*"])] == [12]


def test_calls_that_cannot_be_exposed_are_counted(caplog):
    caplog.set_level("INFO")

    class Both(Branching):
        def forward(self, x):
            return nn.functional.relu(super().forward(x))

    model = expose_calls(nn.Sequential(Branching(), nn.ReLU()), SMALL)
    assert [layer.name for layer in find_layers(model, View(16, 16))] == ["1"]
    assert "5 of 6 calls of activation functions" in caplog.text and "relu" in caplog.text

    class Swish(Functional):
        def forward(self, x):
            x = self.convs[0](-x if x.sum() < 0 else x)
            return self.act(self.convs[1](x * torch.sigmoid(x)))

    caplog.clear()
    swish = expose_calls(Swish(), SMALL)
    assert [layer.name for layer in find_layers(swish, View(16, 16))] == ["act"]
    assert "1 of 2 calls" in caplog.text and "1 × written out, ending in mul" in caplog.text
    with pytest.raises(ValueError, match="name the layers to probe: layers = "):
        find_layers(expose_calls(Branching(), SMALL), View(16, 16))


@pytest.mark.parametrize("name", ["small_vgg", "small_resnet", "small_convnext"])
def test_our_own_networks_stay_as_they_are(name):
    model = build(name, 4, 0)
    names = dict(model.named_modules())
    assert expose_calls(model, torch.rand(2, 3, 64, 64)) is model
    assert dict(model.named_modules()) == names


def test_blocks_that_end_in_an_activation_are_probed_as_a_whole():
    model = expose_calls(build("resnet18", 4, 0), torch.rand(2, 3, 64, 64))
    names = [layer.name for layer in find_layers(model, View(64, 64))]
    assert names == ["relu", *(f"layer{i}.{j}" for i in range(1, 5) for j in range(2))]


class Flattens(nn.Module):
    """A network whose `view` needs the ordinary memory format."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Linear(512, 4)

    def forward(self, x):
        return self.head(self.act(self.conv(x)).view(x.size(0), -1))


class FlattensFrozen(Flattens):
    """A network that keeps a part in evaluation mode, and whose `train` returns nothing."""

    def train(self, mode=True):
        super().train(mode)
        self.act.eval()


def test_the_memory_format_falls_back_where_view_needs_it():
    images = torch.rand(2, 3, 16, 16)
    assert not takes_channels_last(Flattens(), images)
    assert not takes_channels_last(FlattensFrozen(), images)
    assert takes_channels_last(build("small_vgg", 4, 0), torch.rand(2, 3, 64, 64))


def test_one_channel_networks_are_probed_on_one_channel():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
    view = View(16, 16, mean=(0.5,), std=(0.25,))
    (layer,) = find_layers(model, view)
    assert layer.channels == 8 and measure_patches(model, [layer], view)[0].patch > 0
    with pytest.raises(UserCodeError, match=r"on images of shape \(2, 3, 16, 16\) failed"):
        find_layers(model, View(16, 16))


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.act, self.conv = nn.ReLU(), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        with torch.no_grad():
            x = self.body(x)
        return self.act(self.conv(x))


def test_a_part_without_gradients_gets_the_largest_patch():
    model = Frozen()
    layers = measure_patches(model, find_layers(model, View(32, 32)), View(32, 32))
    assert [layer.patch for layer in layers] == [0.625, 0.625]


class OneSize(nn.Module):
    """32 channels of 32 x 32: the shape does not show which dimension is the channel."""

    def __init__(self, last):
        super().__init__()
        self.conv, self.act, self.last = nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), last
        self.norm = nn.LayerNorm(32)

    def forward(self, x):
        assert x.shape[-2:] == (64, 64), "64 x 64 alone"
        x = self.conv(x)
        return self.act(self.norm(x.permute(0, 2, 3, 1)) if self.last else x)


@pytest.mark.parametrize("last", [False, True])
def test_a_network_of_one_size_tells_its_layout_by_what_made_the_map(last):
    (layer,) = find_layers(OneSize(last), View(64, 64))
    assert layer.channels_last is last


class Oblong(nn.Module):
    """As many channels as the map has rows or, if they come last, columns."""

    def __init__(self, last, one_size):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8 if last else 16, 3, 2, 1), nn.ReLU()
        self.last, self.one_size = last, one_size

    def forward(self, x):
        assert x.shape[-2:] == (32, 16) or not self.one_size
        x = self.conv(x)
        return self.act(x.permute(0, 2, 3, 1) if self.last else x)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("one_size", [False, True])
def test_as_many_channels_as_rows_or_columns_are_no_sides_of_a_map(last, one_size):
    (layer,) = find_layers(Oblong(last, one_size), View((32, 16), (32, 16)))
    assert (layer.channels, layer.height, layer.width) == (8 if last else 16, 16, 8)
    assert layer.channels_last is last


@pytest.mark.parametrize(
    ("tokens", "size", "grid"),
    [(17, 8, (4, 4, 1)), (16, 8, (4, 4, 0)), (197, 8, (14, 14, 1)), (198, 8, (14, 14, 2)),
     (201, 8, (201, 1, 0)), (3, 8, (3, 1, 0)), (10, 8, (10, 1, 0)), (33, (8, 4), (8, 4, 1)),
     (96, (8, 12), (8, 12, 0)), (16, (8, 4), (16, 1, 0))],
)  # fmt: skip
def test_tokens_of_unknown_origin_lie_as_the_image_where_they_plainly_do(tokens, size, grid):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.GELU()

        def forward(self, x):
            return self.act(torch.rand(len(x), tokens, 6))

    (layer,) = find_layers(Tokens(), View(size, size), ["act"])
    assert (layer.height, layer.width, layer.extra) == grid and layer.channels == 6


class Object:
    def __init__(self, logits):
        self.logits = logits


LOGITS, FEATURES = torch.rand(2, 4), torch.rand(2, 9, 3)


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (LOGITS, None),
        ({"logits": LOGITS, "features": FEATURES}, None),
        (Object(LOGITS), None),
        ({"scores": LOGITS}, "scores"),
        ((FEATURES, LOGITS), 1),
        ([LOGITS, FEATURES], 0),
        (Object(LOGITS), "logits"),
    ],
)
def test_logits_are_taken_out_of_what_a_network_returns(answer, output):
    assert logits_of(choose_output(nn.Identity(), output), answer) is LOGITS


@pytest.mark.parametrize(
    ("answer", "output", "message"),
    [
        ((LOGITS, FEATURES), None, r"a tuple of \(a tensor of shape \(2, 4\), .*output = 0"),
        ({"scores": LOGITS}, None, r"a dict of \{'scores': .*output = \"scores\""),
        ({"scores": LOGITS}, "score", r"got at output = 'score' a dict of .*output = \"scores\""),
        ({"features": FEATURES, "out": LOGITS}, None, r"output = \"out\""),
        ([FEATURES, LOGITS], None, r"output = 1"),
        (FEATURES, None, r"a tensor of shape \(2, 9, 3\)"),
        ((LOGITS,), 3, "output = 0"),
        ({"out": torch.ones(2, 4, 9, 9)}, None, "a number for each image and class"),
        (None, None, "an object of class NoneType; wrap it in .*, as a torch tensor"),
        (LOGITS.numpy(), None, "an object of class ndarray; wrap it in .*, as a torch tensor"),
        (SimpleNamespace(maps=FEATURES, scores=LOGITS), None, r"output = \"scores\""),
    ],
)
def test_what_holds_no_logits_is_asked_about(answer, output, message):
    with pytest.raises(ValueError, match=message):
        logits_of(choose_output(nn.Identity(), output), answer)


class Source:
    """A series that returns one model."""

    name, source, layers, channels_last, output, class_outputs = "mine", "mine", None, {}, None, {}
    objective = "logit"
    view = View(16, 16)

    def __init__(self, model, **changes):
        self.model = model
        vars(self).update(changes)

    def load(self, epoch, classes, run):
        return self.model


def small(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, outputs))  # fmt: skip


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    names = ["a", "b", "c"]
    index = pd.DataFrame({"image_id": range(6), "class_id": [0, 0, 1, 1, 2, 2], "path": ""})
    pixels = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), dtype=np.uint8)
    for split in ("probe", "test"):
        run.save(Artifact("image_index", (split,)),
                 index.assign(class_name=[names[i] for i in index["class_id"]]), "x")  # fmt: skip
        run.save(Artifact("images", (split,)), {"pixels": pixels}, "x")
    return run


def check(run, model, **changes):
    (table,) = CheckCheckpoint(Source(model, **changes), 1).do(run, lambda steps: None)
    return table.iloc[0]


@pytest.mark.parametrize(
    ("view", "note"),
    [
        (View(16, 16), ""),
        (View(20, 16), "resized to a shorter side of 20 px .* central 16 × 16 px .* are used$"),
        (View((12, 8), (12, 8)), "resized to 12 × 8 px by bilinear .* 12 × 8 px .* are used$"),
    ],
)
def test_arrays_of_another_size_than_the_input_are_reported(run, view, note):
    (text,) = check(run, small(), view=view)["notes"].splitlines() or [""]
    assert re.search(note or "^$", text)


def broken():
    model = small()
    with torch.no_grad():
        model[0].weight[0] = torch.nan
    return model


class Counts(nn.Module):
    """A network that changes a buffer in every pass, as observers of quantisation do."""

    def __init__(self):
        super().__init__()
        self.body = small()
        self.register_buffer("largest", torch.zeros(1))

    def forward(self, x):
        self.largest += 0.1
        return self.body(x) + self.largest


class Chance(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small()

    def forward(self, x):
        return F.dropout(self.body(x) + 1, 0.5, training=True)


PLANTED = {
    "nan": (broken, {}, "problem", r"NaN or infinite numbers \(0.weight\).*skip = \[1\]"),
    "one output": (lambda: small(1), {}, "problem", "one output for 3 classes: wrap .* 0 and its"),
    "collapsed": (lambda: Constant(), {}, "notes", "the same for all 6 .* not depend on them"),
    "four channels": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 16), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)),
        {},
        "problem",
        "to have 4 channels, .*; mean and std say how many colour channels images have",
    ),
    "films": (
        lambda: nn.Sequential(nn.Conv3d(3, 4, 16), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)),
        {},
        "problem",
        "the network takes videos or volumes: wrap it",
    ),
    "width": (lambda: small(64), {}, "problem", "64 outputs for 3 classes: say in class_outputs"),
    "unknown class": (
        small,
        {"class_outputs": {"A": 1}},
        "problem",
        "class_outputs names unknown classes: A; there are a, b, c",
    ),
    "beyond": (small, {"class_outputs": {"a": 3}}, "problem", "the network has outputs 0 to 2"),
    "raises": (lambda: Raises(), {}, "problem", "RuntimeError: only on Tuesdays"),
    "half": (lambda: small().half(), {}, "notes", "float16 are converted to float32"),
    "double": (lambda: small().double(), {}, "notes", "float64 are converted to float32"),
    "probabilities": (lambda: nn.Sequential(small(), nn.Softmax(1)), {}, "notes", "probabilities"),
    "chance": (Chance, {}, "problem", "two passes over the same images differ"),
    "state": (Counts, {}, "problem", "or the network changes its own state"),
}


class Constant(Chance):
    def forward(self, x):
        return self.body(0 * x)


class Raises(Chance):
    def forward(self, x):
        raise RuntimeError("only on Tuesdays")


@pytest.mark.parametrize("name", PLANTED)
def test_check_finds_what_is_planted(name, run):
    model, changes, column, message = PLANTED[name]
    assert pd.Series([check(run, model(), **changes)[column]]).str.contains(message).all()


def test_classes_that_share_an_output_are_noticed(run):
    row = check(run, small(), class_outputs={"a": 0, "b": 0, "c": 1})
    assert row["problem"] == "" and "same output to several classes (a = 0, b = 0)" in row["notes"]


def test_numbers_that_are_sorted_as_text_are_noticed(run):
    table = run.table(Artifact("image_index", ("test",)))
    run.save(
        Artifact("image_index", ("test",)),
        table.assign(class_name=table["class_name"].map({"a": "1", "b": "10", "c": "2"})),
        "x",
    )
    assert "if the network has them in the order 1, 2, 10, set" in check(run, small())["notes"]


class Parametric(nn.Module):
    """A network that calls one activation function with a weight twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 3, 3), nn.PReLU(3), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.act(self.conv(self.act(self.conv(x)))).mean((2, 3)))


SHARED = Parametric()


def load_into_one_module(epoch):
    SHARED.load_state_dict({n: t * 0 + epoch for n, t in Parametric().state_dict().items()})
    return nn.Sequential(SHARED) if epoch > 1 else SHARED


@pytest.mark.parametrize("epochs", [(0, 1), (2, 3)])
def test_epochs_that_are_loaded_into_one_module_keep_their_weights(epochs, run):
    """A function may load every state dict into the same network, or wrap the same one."""
    source = FunctionSource(
        name="mine", source="function", function="test_networks:load_into_one_module", at=epochs,
        resize=16, crop=16,
    )  # fmt: skip
    (table,) = FindLayers(source).do(run, lambda steps: None)
    assert [name.rpartition(".")[2] for name in table["layer"]] == ["act_call_1", "act_call_2"]
    run.save(Artifact("layers", ("mine",)), table, "x")
    models = open_pair(run, source, Pair("mine", *epochs))
    load_into_one_module(9)  # as for another pair
    for model, epoch in zip((models.older, models.newer), epochs, strict=True):
        assert all((p == epoch).all() for p in model.parameters())


class Cut(nn.Module):
    """A network whose outputs are all 0 for dark images."""

    def __init__(self):
        super().__init__()
        self.body = small()

    def forward(self, x):
        bright = x.mean((1, 2, 3), keepdim=True).flatten(1) > 0
        return self.body(x) * bright


def test_equal_outputs_of_several_classes_are_counted(run):
    dark = (run.arrays(Artifact("images", ("test",)))["pixels"].mean((1, 2, 3)) <= 127.5).sum()
    assert 0 < dark < 6
    row = check(run, Cut())
    assert f"share the largest score of {dark} of 6 images; such an image is" in row["notes"]
    assert "predicted to be of the first of them" in row["notes"]


def test_few_large_images_are_tried(run, monkeypatch):
    monkeypatch.setattr("harness.stages.check.IMAGE_BYTES", 5 * 3 * 4 * 16**2)
    assert check(run, small())["images"] == 5


def test_one_class_is_said_to_be_always_right(run):
    table = run.table(Artifact("image_index", ("test",)))
    run.save(Artifact("image_index", ("test",)), table.assign(class_id=0, class_name="a"), "x")
    row = check(run, small(1))
    assert (
        row["accuracy"] == 1 and "there is one class, and every image is predicted" in row["notes"]
    )
    assert "one class" not in check(run, small(5), class_outputs={"a": 4})["notes"]


def test_check_finds_nothing_in_a_sound_network(run):
    row = check(run, small())
    assert row["problem"] == "" and row["notes"] == ""
    assert (row["layers"], row["units"], row["outputs"], row["images"]) == (1, 4, 3, 6)
    wide = check(run, small(64), class_outputs={"a": 60, "b": 61, "c": 63})
    assert wide["problem"] == "" and wide["outputs"] == 64


class Patches(nn.Module):
    """A network that cuts an image into patches, adds tokens, and mixes tokens and channels."""

    def __init__(self, extra, mixes):
        super().__init__()
        self.cut, self.extra = nn.Conv2d(3, 24, (4, 5), (4, 5)), extra
        self.act, self.mixing, self.up = nn.GELU(), nn.GELU() if mixes else None, nn.Linear(24, 30)
        self.across = nn.Linear(12 + extra, 10)

    def forward(self, x):
        x = self.cut(x).flatten(2).transpose(1, 2)
        x = torch.cat([torch.zeros(len(x), self.extra, 24), x], dim=1)
        if self.mixing is not None:
            x = x + self.mixing(self.across(x.transpose(1, 2))).mean(dim=2)[:, None]
        return self.act(self.up(x)).mean(dim=1)


@pytest.mark.parametrize("extra", [0, 1, 5])
@pytest.mark.parametrize("mixes", [False, True])
def test_patches_of_a_convolution_say_where_tokens_lie(extra, mixes, caplog):
    caplog.set_level("INFO")
    (layer,) = find_layers(Patches(extra, mixes), View(16, 16))
    assert (layer.name, layer.channels) == ("act", 30)
    assert (layer.height, layer.width, layer.extra) == (4, 3, extra)
    assert ("mixes tokens): mixing" in caplog.text) is mixes


class Fire(nn.Module):
    """A network whose branches are joined before their activation function, or after it; or that
    joins one of them twice, as DenseNet does; or the images, one by one."""

    def __init__(self, how):
        super().__init__()
        self.how, self.first = how, nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.one, self.three = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x)
        if self.how == "images":
            x = torch.cat([self.three(image) for image in x.split(1)])
            return self.head(self.act(x).mean((2, 3)).repeat(1, 2))
        parts = [self.one(x), x if self.how == "after" else self.three(x)]
        joined = torch.cat(parts, 1)
        more = torch.cat([parts[0], x], 1).mean() if self.how == "twice" else 0
        return self.head(self.act(self.norm(joined)).mean((2, 3))) + more


@pytest.mark.parametrize("how", ["before", "after", "twice", "images"])
def test_branches_that_are_joined_once_are_neurons_of_their_own(how):
    names = [layer.name for layer in find_layers(Fire(how).eval(), View(16, 16))]
    assert names == ["first.1", *["act"] * (how in ("before", "images"))]


class Dense(nn.Module):
    """A DenseNet of four layers, each of which joins its output with its input."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        sizes = [4, 8, 12, 16]
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in sizes)
        self.acts = nn.ModuleList(nn.ReLU() for _ in sizes)
        self.convolutions = nn.ModuleList(nn.Conv2d(size, 4, 3, padding=1) for size in sizes)
        self.head = nn.Linear(20, 3)

    def forward(self, x):
        x = nn.functional.conv2d(x, self.first[0].weight)
        for norm, act, convolution in zip(self.norms, self.acts, self.convolutions, strict=True):
            x = torch.cat([convolution(act(norm(x))), x], 1)
        return self.head(x.mean((2, 3)))


class DualPath(Dense):
    """Layers that add to the first channels of their input and append others (as timm's DPN)."""

    def forward(self, x):
        x = nn.functional.conv2d(x, self.first[0].weight)
        for norm, act, convolution in zip(self.norms, self.acts, self.convolutions, strict=True):
            more = convolution(act(norm(x)))
            x = torch.cat([x[:, :4] + more, x[:, 4:], more], 1)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("kind", [Dense, DualPath])
def test_no_layer_that_joins_step_by_step_counts_again(kind):
    names = [layer.name for layer in find_layers(kind().eval(), View(16, 16))]
    assert names == ["acts.0"]


@pytest.mark.parametrize(
    ("name", "gone", "kept"),
    [
        ("vgg11", ["classifier.1", "classifier.4"], "features.19"),
        ("mobilenet_v3_small", ["features.1.block.1.activation", "classifier.1"], "features.12"),
        ("squeezenet1_1", ["classifier.2"], "features.12.expand3x3_activation"),
        ("densenet121", ["features.denseblock1.denselayer2.relu1"], "features.relu0"),
    ],
)
def test_layers_by_default_are_maps_of_concepts(name, gone, kept):
    model = expose_calls(build(name, 4, 0), torch.rand(2, 3, 64, 64))
    names = [layer.name for layer in find_layers(model, View(64, 64))]
    assert not set(gone) & set(names) and any(n.startswith(kept) for n in names)
    assert find_layers(model, View(64, 64), gone)  # named, they are probed


def test_networks_without_maps_keep_their_vectors():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, 4), nn.ReLU())
    assert [layer.channels for layer in find_layers(model, View(8, 8))] == [9, 4]


@pytest.mark.parametrize("extra", [0, 1])
def test_tokens_are_named_by_masks_and_vectors_are_not(extra):
    arrays = draw_arrays(0, 0, 12)
    images = ArrayImages(arrays["pixels"], arrays["labels"], tuple("abcdefghijkl"))
    masks = torch.rand(12, 3, 64, 64) > 0.5
    view = View(64, 64)
    torch.manual_seed(0)
    cut = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.Flatten(2))

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut, self.act = cut, nn.GELU()

        def forward(self, x):
            x = self.cut(x).transpose(1, 2)
            return self.act(torch.cat([x[:, :extra], x], dim=1)).mean(dim=1)

    model = Tokens()
    layers = find_layers(model, view)
    assert layers[0].extra == extra and layers[0].height == layers[0].width == 4
    network = Network(Checkpoint("net", 1), model, layers, view)
    table = dissect(network, images, masks, ["x", "y", "z"])
    assert len(table) == 8
    vectors = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 5), nn.ReLU())
    flat = Network(Checkpoint("net", 1), vectors, find_layers(vectors, view), view)
    none = dissect(flat, images, masks, ["x", "y", "z"])
    assert len(none) == 0 and "concept" in none


def untrained(epoch):
    return build("small_vgg", 12, seed=epoch)


def test_masks_are_cut_to_what_a_network_sees(tmp_path):
    series = {"name": "net", "source": "function", "function": "test_networks:untrained",
              "at": [1], "resize": 128, "crop": 64, "layers": ["features.8"]}  # fmt: skip
    drawn_images = {"source": "drawn", "train": 12, "probe": 24, "test": 24}
    config = parse_config({"images": drawn_images, "series": [series], "workers": 0,
                           "probe": {"k": 5}})  # fmt: skip
    run = run_until("probe", config, tmp_path / "run", Console(quiet=True))
    images, view = open_images(run, "test"), config.series[0].view
    arrays = run.arrays(Artifact("images", ("test",)))
    kinds = {"parts": drawn.PARTS, "colours": drawn.COLOURS}
    masks = [label_masks(arrays[name][:, 16:48, 16:48], len(all_)) for name, all_ in kinds.items()]
    layers = find_layers(model := untrained(1), view, ["features.8"])
    network = Network(Checkpoint("net", 1), model, layers, view)
    expected = dissect(network, images, torch.cat(masks, dim=1), [*drawn.PARTS, *drawn.COLOURS])
    table = run.table(Artifact("concepts", ("net", 1)))
    assert table["concept"].tolist() == expected["concept"].tolist()
    np.testing.assert_allclose(table["iou"], expected["iou"], rtol=1e-3)


@pytest.mark.parametrize(
    ("count", "grid"),
    [(48, (8, 6, 0)), (53, (8, 6, 5)), (12, (4, 3, 0)), (13, (4, 3, 1)), (30, None), (57, None),
     (4, None)],
)  # fmt: skip
def test_tokens_lie_as_a_convolution_has_cut_the_image_or_half_as_finely(count, grid):
    model = nn.Sequential(nn.Conv2d(3, 5, (2, 3), (2, 3)))
    assert token_grid(count, record_pass(model, torch.rand(2, 3, 16, 18))) == grid


@pytest.mark.parametrize(("count", "grid"), [(4, (2, 2, 0)), (5, (2, 2, 1)), (2, None)])
def test_a_convolution_may_cut_an_image_into_four_tokens(count, grid):
    model = nn.Sequential(nn.Conv2d(3, 5, (8, 9), (8, 9)))
    assert token_grid(count, record_pass(model, torch.rand(2, 3, 16, 18))) == grid


class PatchesOfPatches(nn.Module):
    """A network that cuts each patch of an image into patches of its own (TNT)."""

    def __init__(self):
        super().__init__()
        self.cut, self.norm = nn.Conv2d(3, 4, 4, 4), nn.LayerNorm(4)
        self.proj, self.act = nn.Linear(36, 9), nn.GELU()

    def forward(self, x):
        patches = nn.functional.unfold(x, 12, stride=12).transpose(1, 2).reshape(-1, 3, 12, 12)
        inner = self.norm(self.cut(patches).flatten(2).transpose(1, 2))
        return self.act(self.proj(inner.flatten(1)).view(len(x), -1, 9)).mean(dim=1)


def test_patches_of_patches_are_not_those_of_the_image():
    (layer,) = find_layers(PatchesOfPatches(), View((48, 60), (48, 60)))
    assert (layer.name, layer.height, layer.width) == ("act", 4, 5)


class Windows(nn.Module):
    """Attention within windows of 4 x 4, of a map of 8 x 8."""

    def __init__(self, merged):
        super().__init__()
        self.cut, self.act, self.merged = nn.Conv2d(3, 6, 4, 4), nn.GELU(), merged
        self.first = nn.ReLU()

    def forward(self, x):
        x = self.first(self.cut(x))
        windows = x.unflatten(3, (2, 4)).unflatten(2, (2, 4)).permute(0, 2, 4, 3, 5, 1)
        windows = windows.reshape(len(x), 4, 16, 6)
        return self.act(windows.flatten(0, 1) if self.merged else windows).flatten(1).mean(1)


@pytest.mark.parametrize(
    ("merged", "why"), [(True, "no batch dimension"), (False, "cut into windows")]
)
def test_windows_are_no_maps_of_the_image(merged, why, caplog):
    caplog.set_level("INFO")
    (layer,) = find_layers(Windows(merged), View(32, 32))
    assert layer.name == "first" and f"({why}): act" in caplog.text


@pytest.mark.parametrize(
    ("prepare", "text"),
    [
        (lambda x: x, ""),
        (lambda x: x.flip(3), "reaches only other parts of 1.1, 1.3"),
        (lambda x: x.flip(2), "reaches only other parts of 1.1, 1.3"),
        (
            lambda x: x[:, :, 4:-4, 4:-4],
            "changes nothing: the network seems to flip, shift or crop",
        ),
    ],
)
def test_networks_that_move_images_are_noticed(prepare, text, caplog):
    class Moves(nn.Module):
        def forward(self, x):
            return prepare(x)

    torch.manual_seed(0)
    maps = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 6, 3, 2), nn.ReLU())
    caplog.set_level("INFO")
    assert len(find_layers(nn.Sequential(Moves(), maps), View(32, 32))) == 2
    assert text in caplog.text and bool(text) == bool(caplog.text)


class Unfolded(nn.Module):
    """A map with rows of positions within patches and columns of patches (MobileViTv2)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU())
        self.mix, self.act = nn.Conv2d(6, 6, 1), nn.SiLU()

    def forward(self, x):
        x = self.first(x)
        patches = nn.functional.unfold(x, 2, stride=2).unflatten(1, (6, 4))
        return self.act(self.mix(patches)).mean((2, 3))


@pytest.mark.parametrize("side", [16, 32])
def test_patches_in_a_row_are_no_map_of_the_image(side, caplog):
    caplog.set_level("INFO")
    (layer,) = find_layers(Unfolded(), View(side, side))
    assert layer.name == "first.1" and "(cut into windows): act" in caplog.text


class Reordered(nn.Module):
    """A network whose tokens lie in windows of 2 x 2 (Hiera), by columns or by rows."""

    def __init__(self, order):
        super().__init__()
        torch.manual_seed(0)
        self.cut, self.order, self.act = nn.Conv2d(3, 6, 4, 4), order, nn.GELU()

    def forward(self, x):
        x = self.cut(x)  # 8 x 6 patches
        windows = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4)
        mixed = x + 1e-10 * x.sum(dim=(2, 3), keepdim=True)  # lost in the rounding of some tokens
        orders = {"windows": windows, "columns": x.transpose(2, 3), "rows": x, "mixed": mixed}
        return self.act(orders[self.order].flatten(2).transpose(1, 2)).mean(dim=1)


@pytest.mark.parametrize(
    ("order", "size"),
    [("windows", (48, 1)), ("columns", (48, 1)), ("rows", (8, 6)), ("mixed", (8, 6))],
)
def test_tokens_in_another_order_have_no_positions(order, size, caplog):
    caplog.set_level("INFO")
    view = View((32, 24), (32, 24))
    (layer,) = measure_patches(model := Reordered(order), find_layers(model, view), view)
    assert (layer.height, layer.width) == size and (layer.patch == 1) == (size == (48, 1))
    assert ("unknown positions" in caplog.text) == (size == (48, 1))


def test_tokens_may_come_before_images():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut, self.up, self.act = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 10), nn.GELU()

        def forward(self, x):
            x = self.cut(x).flatten(2).permute(2, 0, 1)
            return self.act(self.up(torch.cat([x[:1], x]))).mean(dim=0)

    model = First().eval()
    (layer,) = find_layers(model, View(32, 32))
    assert layer.sequence_first
    assert (layer.height, layer.width, layer.extra, layer.channels) == (8, 8, 1, 10)
    value = torch.rand(65, 3, 10)
    maps = layer.channel_first(value)
    assert torch.equal(maps, value.permute(1, 2, 0))
    assert torch.equal(layer.like_output(maps, value), value)


class Register(nn.Module):
    """A network with a class token before or after the patches; tokens are mixed afterwards."""

    def __init__(self, before, behind, pooled=False):
        super().__init__()
        torch.manual_seed(0)
        self.before, self.behind, self.pooled = before, behind, pooled
        self.cut, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.act, self.mix, self.head = (
            nn.GELU(),
            nn.Linear(16 + before + behind, 3),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        x = self.cut(x).flatten(2).transpose(1, 2)
        class_token = x.mean(1, keepdim=True) if self.pooled else torch.full((len(x), 1, 8), 0.5)
        x = torch.cat([*[class_token] * self.before, x, *[class_token] * self.behind], dim=1)
        x = self.act(self.norm(x))
        return self.head(self.mix(x.transpose(1, 2)).mean(2))


@pytest.mark.parametrize(
    ("before", "behind", "side", "text"),
    [(0, 4, 4, "as a map of 4 × 4 and 4 tokens without a position"),
     (12, 1, 2, "as a map of 2 × 2 and 13 tokens without a position"),
     (1, 0, 5, "as a map of 5 × 5 and 1 token without"), (0, 0, 5, "as a map of 5 × 5")],
)  # fmt: skip
def test_tokens_that_depend_on_the_image_are_a_square(before, behind, side, text, caplog):
    """Tokens cut by reshaping the image, with registers (timm's NaFlexViT, vit-pytorch)."""

    class Patches(Register):
        def forward(self, x):
            rows = x.unflatten(3, (side, 2)).unflatten(2, (side, 2)).permute(0, 2, 4, 3, 5, 1)
            x = rows.reshape(len(x), side**2, 12)[:, :, 4:]
            constant = torch.full((len(x), 1, 8), 0.5)
            x = torch.cat([constant.repeat(1, before, 1), x, constant.repeat(1, behind, 1)], dim=1)
            return self.act(self.norm(x + self.offsets(x))).mean(1)

    class Offsets(nn.Module):  # values that do not depend on the image
        def forward(self, x):
            return torch.ones_like(x)

    caplog.set_level("INFO")
    model = Patches(before, behind).eval()
    model.offsets = Offsets()
    (layer,) = find_layers(model, View(2 * side, 2 * side))
    extra = before + behind
    assert (layer.height, layer.width, layer.extra, layer.behind) == (side, side, extra, behind)
    expected = f"{side**2 + extra} tokens that no convolution has made are treated {text}"
    assert expected in caplog.text


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(("before", "behind"), [(1, 0), (0, 1), (5, 0), (1, 4), (0, 2)])
def test_tokens_without_a_place_may_stand_behind_those_of_the_image(before, behind, pooled):
    model = Register(before, behind, pooled).eval()
    (layer,) = find_layers(model, View(16, 16))
    assert (layer.height, layer.width, layer.extra, layer.behind) == (4, 4, before + behind, behind)
    images = torch.rand(2, 3, 16, 16)
    value = model.act(model.norm(model.cut(images).flatten(2).transpose(1, 2)))
    output = {}
    handle = model.act.register_forward_hook(lambda m, i, o: output.update(act=o))
    model(images)
    handle.remove()
    maps = layer.channel_first(output["act"])
    assert torch.equal(maps[:, :, layer.extra :], value.transpose(1, 2))
    assert torch.equal(layer.like_output(maps, output["act"]), output["act"])
