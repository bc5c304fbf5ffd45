"""Kinds of networks that people have: measured as they are in plain torch, or refused in a sentence
that says which checkpoint, what was asked and what to do."""

import copy
from collections import namedtuple
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from test_networks import Source, check, run, small  # noqa: F401 - a fixture
from torch import nn
from torch.nn.utils import prune

from conceptevo.inputs import MemorySource
from harness.evolutions.sensitivity import maps_and_gradients
from harness.images.view import View
from harness.networks.architectures import build
from harness.networks.layers import find_layers, measure_patches
from harness.networks.running import name_network, run_network
from harness.networks.soundness import check_gradients, check_passes
from harness.networks.sources import FolderSource
from harness.networks.wrappers import unwrap
from harness.records import Checkpoint
from harness.registry import UserCodeError
from harness.stages.check import problems

VIEW = View(16, 16)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    """A network that contains the small one, and has two convolutions of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act = nn.Conv2d(3, 6, 3), nn.ReLU()
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                                  nn.Flatten(), nn.Linear(8, 3))  # fmt: skip

    def forward(self, x):
        return self.body(self.act(self.first(x)))


class TwoInputs(Around):
    def forward(self, x, mask):
        return super().forward(x * mask)


class TrainsItself(Around):
    def train(self, loader, epochs=3):
        for _ in range(epochs):
            list(loader)


class EvaluatesItself(Around):
    def eval(self, images=IMAGES):
        return self(images)


class Indexed(Around):
    """A network with integers and a mask among its parameters."""

    def __init__(self):
        super().__init__()
        self.order = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
        self.mask = nn.Parameter(torch.tensor([True, True, False]), requires_grad=False)

    def forward(self, x):
        return super().forward(x)[:, self.order] * self.mask


class OnlyVolumes(Around):
    def forward(self, x):
        return self.body[4](self.act(self.first(x)[:, :, None]).mean((2, 3, 4)).repeat(1, 2)[:, :8])


class Lists(Around):
    def forward(self, x):
        return [super().forward(x), x]


class Inference(Around):
    @torch.inference_mode()
    def forward(self, x):
        return super().forward(x)


class Detached(Around):
    def forward(self, x):
        return self.body(self.act(self.first(x)).detach())


class Oblong(nn.Module):
    """A network of images of 16 × 8 pixels only."""

    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU()
        self.last = nn.Linear(4 * 8 * 4, 3)

    def forward(self, x):
        return self.last(self.act(self.first(x)).flatten(1))


def test_images_need_not_be_square():
    view = View((16, 8), (16, 8))
    (layer,) = measure_patches(model := Oblong(), find_layers(model, view), view)
    assert (layer.channels, layer.height, layer.width, layer.channels_last) == (4, 8, 4, False)
    assert layer.patch == 1  # 20 pixels are more than the shorter side


class Squeezed(Around):
    def forward(self, x):
        return super().forward(x).squeeze()


class Infinite(Around):
    def forward(self, x):
        return super().forward(x) / 0


class Rooted(Around):
    """A network that pools by the root of squares, whose gradient at zero maps is NaN."""

    def forward(self, x):
        maps = self.act(self.first(x) - 9)
        return self.body(maps + maps.square().sum((2, 3), keepdim=True).sqrt())


class Frozen(Around):
    """Linear probing: all layers but the last run without gradients."""

    def forward(self, x):
        with torch.no_grad():
            x = self.body[:4](self.act(self.first(x)))
        return self.body[4](x)


class Spectral(Around):
    """A network with complex numbers inside and real outputs."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Identity()

    def forward(self, x):
        return super().forward(self.turn(torch.fft.fft2(x)).abs())


class Overwrites(Around):
    """A network that normalises its input images in place."""

    def forward(self, x):
        return super().forward(x.sub_(0.5).mul_(2))


class Volumes(Around):
    def __init__(self):
        super().__init__()
        self.volume, self.bend = nn.Conv3d(1, 2, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return super().forward(self.bend(self.volume(x.unsqueeze(1))).mean(1))


class OneByOne(Around):
    """A fully convolutional classifier."""

    def forward(self, x):
        return super().forward(x)[:, :, None, None]


class Sigmoid(Around):
    def forward(self, x):
        return super().forward(x).sigmoid().squeeze(1)


class Positive(Around):
    """A network whose logits happen to be within [0, 1]."""

    def forward(self, x):
        return super().forward(x) / 100 + 0.5


class Reentrant(Around):
    def forward(self, x):
        x = self.act(self.first(x))
        return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=True)


class GradMode(Around):
    def forward(self, x):
        return super().forward(x) * (2 if torch.is_grad_enabled() else 1)


class Delegates(Around):
    """A network that gives None for every attribute that it does not have."""

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return None


class Halves(Around):
    """A network whose code fixes the type of its input."""

    def __init__(self):
        super().__init__()
        self.half()

    def forward(self, x):
        return super().forward(x.half())


class OneSize(nn.Module):
    def forward(self, x):
        raise AssertionError


class Exits(Around):
    def forward(self, x):
        raise SystemExit("no licence")


class Masked(Around):
    """A network with an infinite buffer, a bfloat16 buffer, and a state without tensors."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.register_buffer("scale", torch.ones(1, dtype=torch.bfloat16))

    def get_extra_state(self):
        return {"step": 1}

    def set_extra_state(self, state):
        pass


class Cached(Around):
    """A network that keeps its first results in a dict and in attributes."""

    def __init__(self):
        super().__init__()
        self.cache, self.offset = {}, None

    def forward(self, x):
        if "half" not in self.cache:
            self.cache["half"] = x.new_full((1, 3, 1, 1), 0.5)
        if self.offset is None:
            self.offset = x.new_zeros(1)
        if not hasattr(self, "late"):
            self.late = x.new_ones(1)
        return super().forward(x * self.cache["half"] * self.late + self.offset)


Kind = namedtuple("Kind", "maps more")


class Returns(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        return Kind(x + self.conv(x).relu(), x.mean())


class Named(Around):
    """A network with a named tuple as output, and with pattern characters in module names."""

    def __init__(self):
        super().__init__()
        self.add_module("end[0]", nn.ReLU())
        self.add_module("re:lu", nn.ReLU())
        self.block = Returns()

    def forward(self, x):
        x = self.get_submodule("end[0]")(self.first(x))
        return self.body(self.get_submodule("re:lu")(self.block(x).maps))


class Quantisable(Around):
    """A network that could be quantised, but is not."""

    def __init__(self):
        super().__init__()
        self.add = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x):
        x = self.first(x)
        return self.body(self.add.add_relu(x, x))


def normalised(**changes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **changes), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))  # fmt: skip


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 3))  # fmt: skip


REFUSED = {
    "two inputs": (TwoInputs, "missing 1 required .* a network is given images alone: wrap it"),
    "own train": (
        TrainsItself,
        r"eval\(\), by which torch sets .* other names than train and eval\), failed: TypeError",
    ),
    "own eval": (EvaluatesItself, r"eval\(\), by which .* leaves the network in training mode"),
    "only volumes": (
        OnlyVolumes,
        r"no layer is probed by default: not act \(more dimensions than a map\); name the layers",
    ),
    "list": (Lists, r"a list of \(a tensor of shape .* output = 0"),
    "scripted": (lambda: torch.jit.script(small()), "a scripted module .* from its Python code"),
    "part scripted": (
        lambda: nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3)), small()),
        "its part '0' is a scripted module",
    ),
    "exported": (
        lambda: torch.export.export(small(), (torch.rand(2, 3, 16, 16),)).module(),
        "an exported program .* no inner modules: build it from its Python code",
    ),
    "lazy": (lazy, r"lazy modules have no weights yet \(0.weight, 0.bias\): run it on one batch"),
    "quantised": (
        lambda: torch.ao.quantization.quantize_dynamic(small(), {nn.Linear}),
        "the network is quantised .* use the weights from before it was quantised",
    ),
    "meta": (lambda: small().to("meta"), "on the meta device"),
    "inference": (Inference, r"under torch.inference_mode\(\), where nothing has a gradient"),
    "detached": (Detached, "no gradient of the output reaches act, on which it depends"),
    "batch statistics": (
        lambda: normalised(track_running_stats=False),
        r"depends on the other images of its batch \(normalisation without running statistics: 1\)",
    ),
    "squeezed": (Squeezed, r"batch of one image: `squeeze` also removes its dimension"),
    "infinite": (Infinite, "outputs are NaN or infinite"),
    "rooted": (Rooted, r"with respect to act are NaN .* small number there, as in sqrt"),
    "reentrant": (Reentrant, "use_reentrant.*; pass use_reentrant=False"),
    "grad mode": (GradMode, "outputs with gradients differ from those without"),
    "halves": (Halves, r"converted to float32, so .* must not convert images .*x.half\(\)"),
    "too small": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(20), nn.Flatten()),
        "utput size is too small.*; check that resize, crop, mean and std",
    ),
    "one size": (OneSize, "AssertionError .*; check that resize, crop, mean and std"),
    "exits": (Exits, "failed: SystemExit: no licence"),
    "a map of outputs": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)),
        "a number for each image and class",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_measured_is_refused(kind, run):  # noqa: F811
    make, message = REFUSED[kind]
    row = check(run, make())
    assert pd.Series([row["problem"]]).str.contains(message).all(), row["problem"]


MEASURED = {
    "list": (Lists, {"output": 0}, ""),
    "index": (Indexed, {}, ""),
    "parallel": (lambda: nn.DataParallel(small()), {}, "DataParallel is removed"),
    "averaged": (
        lambda: torch.optim.swa_utils.AveragedModel(small()),
        {},
        "AveragedModel is",
    ),
    "compiled": (lambda: torch.compile(small()), {}, "OptimizedModule is removed"),
    "nested": (lambda: nn.DataParallel(torch.compile(small())), {}, "DataParallel is removed"),
    "bfloat16": (lambda: small().bfloat16(), {}, "bfloat16 are converted to float32"),
    "frozen": (Frozen, {}, ""),
    "delegates": (Delegates, {}, ""),
    "training": (lambda: normalised().train(), {}, ""),
    "channels last": (lambda: small().to(memory_format=torch.channels_last), {}, ""),
    "complex inside": (Spectral, {}, ""),
    "overwrites its images": (Overwrites, {}, ""),
    "3-D convolution": (Volumes, {}, "(more dimensions than a map): bend"),
    "1 x 1 outputs": (OneByOne, {}, ""),
    "sigmoid": (Sigmoid, {}, "probabilities (a sigmoid's)"),
    "masked": (Masked, {}, ""),
    "cached": (Cached, {}, ""),
    "quantisable": (Quantisable, {}, ""),
    "named": (Named, {"layers": ("block:residual", "end[0]", "re:lu")}, ""),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MEASURED)
def test_what_can_be_measured_is(kind, run):  # noqa: F811
    make, changes, note = MEASURED[kind]
    row = check(run, make(), **changes)
    assert row["problem"] == "" and note in row["notes"], (row["problem"], row["notes"])
    assert row["layers"] >= 1 and row["outputs"] == 3


def test_logits_between_0_and_1_are_not_taken_for_probabilities(run):  # noqa: F811
    assert check(run, Positive())["notes"] == ""


def test_an_architecture_must_be_a_network():
    with pytest.raises(ValueError, match="returned NoneType; .*must return a torch.nn.Module"):
        build("test_kinds_of_networks:nothing", 3)


def nothing(num_classes):
    pass


def of_other_first(channels=1, n_classes=2):
    return nn.Linear(channels, n_classes)


def of_a_first_one(outputs):
    return nn.Linear(1, outputs)


def of_a_number(width=2, /):
    return nn.Linear(1, width)


def of_further_ones(pretrained=False, **options):
    assert pretrained is False
    return nn.Linear(1, **{"out_features": options.pop("num_classes")}, **options)


def of_none(pretrained=False):
    assert pretrained is False
    return nn.Linear(1, 3)


@pytest.mark.parametrize(
    "name",
    [
        *("of_other_first", "of_a_first_one", "of_a_number", "of_further_ones", "of_none"),
        "torchvision.models:squeezenet1_1",
    ],
)
def test_the_number_of_classes_goes_where_it_belongs(name):
    model = build(name if ":" in name else f"test_kinds_of_networks:{name}", 3)
    assert "out_features=3" in repr(model) or model.num_classes == 3


def test_a_part_under_no_grad_has_the_gradients_of_the_same_network_without():
    frozen, plain = Frozen().eval(), Around().eval()
    layers = find_layers(frozen, VIEW)
    assert [layer.name for layer in layers] == ["act", "body.1"]
    _, found = maps_and_gradients(frozen, layers, IMAGES, 1)
    _, expected = maps_and_gradients(plain, layers, IMAGES, 1)
    for layer in layers:
        assert found[layer.name].any()
        assert torch.equal(found[layer.name], expected[layer.name])
    assert not torch.is_grad_enabled() or frozen(IMAGES).requires_grad  # and it is as it was


def test_values_that_are_detached_are_noticed_where_they_matter():
    class Aside(Around):
        """What is detached does not reach the output at all."""

        def __init__(self):
            super().__init__()
            self.aside = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())

        def forward(self, x):
            self.aside(x)
            return super().forward(x)

    model = Aside().eval()
    check_gradients(model, find_layers(model, VIEW), IMAGES)
    with pytest.raises(ValueError, match="no gradient of the output reaches act"):
        model = Detached().eval()
        check_gradients(model, find_layers(model, VIEW), IMAGES)


def test_sound_networks_pass_and_outputs_are_theirs():
    model = Around().eval()
    with torch.no_grad():
        assert torch.equal(check_passes(model, IMAGES), model(IMAGES))


class Recurrent(Around):
    def __init__(self):
        super().__init__()
        self.cell = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())

    def forward(self, x):
        x = self.act(self.first(x))
        for _ in range(3):
            x = x + self.cell(x)
        return self.body(x)


def test_blocks_that_run_several_times_are_no_layers(caplog):
    caplog.set_level("INFO")
    model = Recurrent()
    assert [layer.name for layer in find_layers(model, VIEW)] == ["act", "body.1"]
    assert "3 × relu" in caplog.text
    with pytest.raises(ValueError, match="cell.1 runs more than once per pass; name the block"):
        find_layers(model, VIEW, ["cell.1"])


def test_a_module_under_two_names_is_one():
    class Shared(Around):
        def __init__(self):
            super().__init__()
            self.also_first = self.first

    model = Shared()
    assert [layer.name for layer in find_layers(model, VIEW)] == ["act", "body.1"]
    with pytest.raises(ValueError, match="no layer matches 'also_first'; the model's are first"):
        find_layers(model, VIEW, ["also_first"])


class InPlace(Around):
    def __init__(self, inplace):
        super().__init__()
        self.act, self.inplace = nn.ReLU(inplace), inplace

    def forward(self, x):
        x = self.act(self.first(x))
        x = x.add_(1) if self.inplace else x + 1
        return self.body(x)


def test_operations_in_place_change_nothing_that_is_measured():
    models = [InPlace(True).eval(), InPlace(False).eval()]
    layers = find_layers(models[0], VIEW)
    maps = [maps_and_gradients(model, layers, IMAGES, 1) for model in models]
    for layer in layers:
        for first, second in zip(*maps, strict=True):
            assert torch.equal(first[layer.name], second[layer.name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("turn", r"layer 'turn' returns torch.complex64; only real numbers can be used"),
        ("windows", r"layer 'windows' returns shape \(32, 3, 2, 8\) for 2 images, in which no d"),
    ],
)
def test_values_that_are_no_maps_of_images_are_refused(name, message):
    class Windows(Spectral):
        def __init__(self):
            super().__init__()
            self.windows = nn.Identity()

        def forward(self, x):
            self.windows(x.unflatten(3, (2, 8)).unflatten(2, (2, 8)).movedim(4, 2).movedim(4, 2)
                         .permute(0, 2, 3, 1, 4, 5).flatten(0, 2))  # fmt: skip
            return super().forward(x)

    with pytest.raises(ValueError, match=message):
        find_layers(Windows(), VIEW, [name])


def test_an_error_in_a_network_is_one_sentence():
    model = name_network(TwoInputs(), "series 'mine', epoch 4")
    with pytest.raises(UserCodeError) as failure:
        run_network(model, IMAGES, "to record its neurons")
    assert str(failure.value).startswith(
        "series 'mine', epoch 4: the network, run to record its neurons, on images of shape "
        "(4, 3, 16, 16) failed: TypeError: "
    )

    class Full(nn.Module):
        def forward(self, x):
            raise MemoryError

    with pytest.raises(MemoryError):  # lack of memory is dealt with where batches are made
        run_network(Full(), IMAGES)


def test_a_problem_names_its_checkpoint_once(run):  # noqa: F811
    table = pd.DataFrame([check(run, TwoInputs())])

    images = SimpleNamespace(classes=("a",), labels=[0, 0])
    config = SimpleNamespace(
        base_checkpoint=lambda: Checkpoint("mine", 2),
        probe=SimpleNamespace(k=1),
        evolve=SimpleNamespace(classes=None),
        series=[],
    )
    (text,) = problems(SimpleNamespace(test_images=images, config=config, run=run), table)
    assert text.count("series 'mine'") == 1 and text.startswith("series 'mine', epoch 1")


def test_what_is_wrong_with_all_files_is_said_once(run, tmp_path):  # noqa: F811
    for epoch in (1, 2):
        (tmp_path / f"model-{epoch}.pth").touch()
    source = FolderSource(name="mine", source="folder", architecture="small_vgg", folder=tmp_path)
    rows = [
        {"series": "mine", "epoch": epoch, "problem": f"checkpoint {path} is empty"}
        for epoch, path in source.files().items()
    ]
    images = SimpleNamespace(classes=("a",), labels=[0, 0])
    config = SimpleNamespace(
        base_checkpoint=lambda: Checkpoint("mine", 2),
        probe=SimpleNamespace(k=1),
        evolve=SimpleNamespace(classes=None),
        series=[source],
    )
    plan = SimpleNamespace(test_images=images, config=config, run=run)
    (text,) = problems(plan, pd.DataFrame(rows))
    assert text == f"series 'mine', epochs 1, 2: checkpoint {tmp_path}/model-1.pth is empty"


def test_models_in_memory_stay_as_they_are():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3)).half()
    kept = copy.deepcopy(model.state_dict())
    source = MemorySource(name="mine", models={1: model})
    loaded = unwrap(source.load(1, 3, None))
    loaded.float().requires_grad_(False)
    assert loaded is not model and all(p.requires_grad for p in model.parameters())
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float16 and torch.equal(value, kept[name])
    with pytest.raises(ValueError, match="epochs 1 and 4 are one and the same module: keep a copy"):
        MemorySource(name="mine", models={1: model, 4: model})
    with pytest.raises(ValueError, match="epochs 1 and 4 share all their weights: keep a copy"):
        MemorySource(name="mine", models={1: model, 4: nn.Sequential(model)})
    MemorySource(name="mine", models={1: model, 4: nn.Sequential(model, nn.Linear(3, 3))})
    MemorySource(name="mine", models={1: nn.ReLU(), 4: nn.ReLU()})  # they have no weights


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_computed_are_copied():
    image = torch.rand(2, 3)
    for compute in (
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    ):
        model = compute(nn.Linear(3, 3)).eval()
        answer = model(image)  # it now holds a weight with a history of gradients
        source = MemorySource(name="mine", models={1: model})
        before = source.identity(1)
        loaded = source.load(1, 3, None)
        assert torch.equal(loaded(image), answer)
        loaded.bias.data += 1
        assert torch.equal(model(image), answer) and source.identity(1) == before
