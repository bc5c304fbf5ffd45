"""If traced code differs from what a network computes, the network's own code is run."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.images.view import View
from harness.networks.calls import expose_calls
from harness.networks.execution import execution
from harness.networks.layers import find_layers
from harness.networks.recording import borrow, record_maps
from harness.networks.running import run_logits
from harness.networks.soundness import check_gradients

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
VIEW = View(16, 16)


class Block(nn.Module):
    """Two convolutions with a function call between them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3)

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


class KindOfValue(Block):
    def forward(self, x):
        return super().forward(3 * x + 1 if isinstance(x, torch.Tensor) else x)


class Attribute(Block):
    def forward(self, x):
        return super().forward(0 * x if hasattr(x, "tensors") else x)


class Optional(Block):
    def forward(self, x, more=None):
        x = F.relu(self.first(x))
        return self.second(x if more is None else self.second(x))


class Twice(Block):
    """A network whose trace would repeat the first call of the inner block in the second."""

    def __init__(self):
        super().__init__()
        self.inner = Optional()

    def forward(self, x):
        return self.inner(self.inner(x, x))


class Training(Block):
    def forward(self, x):
        x = F.relu(self.first(x))
        return self.second(F.dropout(2 * x if self.training else x, 0.5, self.training))


class Arguments(Block):
    def forward(self, *args):
        return super().forward(args[0])


class Attributes(Block):
    """A module whose parent reads attributes that its own code does not."""

    factor = 3


def hooked():
    block = Block()
    block.register_forward_hook(lambda module, inputs, output: 3 * output + 1)
    return block


def patched():
    block = Block()
    forward = block.forward
    block.forward = lambda x: 3 * forward(x) + 1
    return block


class Network(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 6, 3), nn.ReLU()
        self.block, self.last, self.head = block, nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        x = self.last(self.block(self.act(self.stem(x))) * getattr(self.block, "factor", 1))
        return self.head(x.mean((2, 3)))


class Whole(Network):
    """A network whose own code has a step that tracing leaves out."""

    def forward(self, x, labels=None):
        if isinstance(x, torch.Tensor) and labels is None:
            x = 2 * x + 1
        return super().forward(x)


BLOCKS = {
    **{b.__name__: b for b in (Block, KindOfValue, Attribute, Optional, Training, Arguments)},
    **{b.__name__: b for b in (Twice, Attributes, hooked, patched)},
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("kind", [Network, Whole])
def test_every_way_to_run_gives_the_networks_own_answer(kind, name):
    torch.manual_seed(0)
    model = kind(BLOCKS[name]())
    expected = model.eval()(IMAGES)
    model.train()  # as it is loaded
    exposed = expose_calls(model, IMAGES).eval()
    assert torch.equal(exposed(IMAGES), expected)
    layers = find_layers(exposed, VIEW)
    left = ("KindOfValue", "Attribute", "Optional", "Twice", "patched")
    inside = [] if name in left else ["block.relu_call_1"]
    assert [layer.name for layer in layers] == ["act", *inside, "last"]
    answers = []
    for traced in (True, False):
        with torch.no_grad(), execution(exposed, layers, traced) as running:
            assert torch.equal(running.start(IMAGES), expected)
            arms = [{layer.name: lambda value: 1.5 * value + 0.1} for layer in layers]
            answers.append(torch.stack(running.rerun_many(arms)))
    torch.testing.assert_close(*answers)


@dataclass
class Answer:
    logits: torch.Tensor


class Functional(Network):
    """A network that calls a function, and returns an object."""

    def forward(self, x):
        x = F.relu(self.block(self.stem(x)))
        return Answer(self.head(x.mean((2, 3))))


def test_calls_of_a_network_that_returns_an_object_are_layers():
    model = expose_calls(Functional(nn.Conv2d(6, 6, 3)), IMAGES)
    assert [layer.name for layer in find_layers(model, VIEW)] == ["relu_call_1"]


class Compiled(Functional):
    forward = torch.compile(Functional.forward, backend="eager")


def test_calls_in_code_that_torch_compiles_are_layers():
    model = expose_calls(Compiled(nn.Conv2d(6, 6, 3)), IMAGES)
    assert [layer.name for layer in find_layers(model, VIEW)] == ["relu_call_1"]


def test_parts_that_torch_compiles_run_as_python_code():
    part = nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU())
    model = Network(torch.compile(part, backend="eager")).eval()
    layers = find_layers(model, VIEW)
    assert [layer.name for layer in layers] == ["act", "block._orig_mod.1", "last"]
    for layer in layers:  # other hooks at each pass
        recording = record_maps(model, [layer], lambda maps, _: maps.clone())
        with borrow(model), torch.no_grad(), recording as kept:
            run_logits(model, IMAGES)
        assert list(kept) == [layer.name]


@torch.jit.script
def scripted_relu(x):
    return torch.relu(x)


class Scripted(Network):
    def forward(self, x):
        return self.head(scripted_relu(self.block(self.act(self.stem(x)))).mean((2, 3)))


class OnlyScripted(Network):
    def forward(self, x):
        return self.head(scripted_relu(self.stem(x)).mean((2, 3)))


def test_functions_compiled_by_torch_jit_are_named(caplog):
    caplog.set_level("INFO")
    assert [layer.name for layer in find_layers(Scripted(Block()), VIEW)] == ["act"]
    assert "torch.jit are not probed (1 × scripted_relu): set the environment" in caplog.text
    with pytest.raises(ValueError, match=r"non-linearity; activation functions .* PYTORCH_JIT=0"):
        find_layers(OnlyScripted(Block()), VIEW)


class OtherHead(Network):
    """A network with a second head, whose output it does not return."""

    def __init__(self, block):
        super().__init__(block)
        self.other, self.side = nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        x = self.act(self.stem(x))
        self.side(self.other(x).mean((2, 3)))
        return self.head(self.last(self.block(x)).mean((2, 3)))


def test_a_layer_of_another_head_changes_no_output():
    model = OtherHead(Block()).eval()
    layers = find_layers(model, VIEW, ["other", "last"])
    with torch.no_grad(), execution(model, layers) as running:
        unchanged = running.start(IMAGES)
        for together in (1, 2):
            arms = [{name: torch.zeros_like} for name in ("other", "other", "last", "last")]
            *of_other, _, of_last = running.rerun_many(arms, together)
            assert all(torch.equal(answer, unchanged) for answer in of_other[:2])
            assert not torch.equal(of_last, unchanged)


class InParts(Network):
    """A network that gives its block at most three images at a time."""

    def forward(self, x):
        x = self.act(self.stem(x))
        return self.head(torch.cat([self.last(self.block(p)) for p in x.split(3)]).mean((2, 3)))


def test_a_layer_that_runs_on_some_of_the_images_is_refused():
    model = InParts(Block())
    layers = find_layers(model, VIEW)
    with (
        pytest.raises(ValueError, match="'last' runs on 3 images where the network is given 4"),
        borrow(model),
        record_maps(model, layers, lambda maps, _: maps.amax(2)),
    ):
        run_logits(model, IMAGES)


class Adapts(Network):
    """A network that skips its last layer for dark images, and repeats it for bright ones."""

    def forward(self, x):
        runs = int(x.mean() > 0.2) + int(x.mean() > 2)
        x = self.act(self.stem(x))
        for _ in range(runs):
            x = self.last(self.block(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(("brightness", "runs"), [(0, 0), (99, 2)])
def test_a_layer_that_does_not_run_once_on_all_images_is_refused(brightness, runs):
    model = Adapts(Block()).eval()
    layers = find_layers(model, VIEW)
    with (
        pytest.raises(ValueError, match=f"'last' runs {runs} times on some images, and once on"),
        borrow(model),
        record_maps(model, layers, lambda maps, _: maps.amax(2)),
    ):
        run_logits(model, IMAGES)
        run_logits(model, brightness * torch.ones_like(IMAGES))


class Discards(Network):
    """A network whose activation overwrites its input, and whose code ignores what it returns."""

    def __init__(self, block):
        super().__init__(block)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.stem(x)
        self.act(x)
        return self.head(self.last(self.block(x)).mean((2, 3)))


class Skips(Discards):
    """A network in which the overwritten value is also that of a skip connection."""

    def forward(self, x):
        x = self.stem(x)
        out = self.act(x)
        return self.head((out + x).mean((2, 3)))


@pytest.mark.parametrize("kind", [Discards, Skips])
def test_an_activation_that_overwrites_its_input_keeps_doing_so(kind):
    model = kind(Block()).eval()
    expected = model(IMAGES).detach()
    with torch.no_grad(), execution(model, find_layers(model, VIEW)) as running:
        assert torch.equal(running.start(IMAGES), expected)


def test_layers_on_which_the_output_does_not_depend_are_named(caplog):
    caplog.set_level("INFO")
    model = Discards(Block()).eval()
    check_gradients(model, find_layers(model, VIEW), IMAGES)
    assert "the output does not depend on what act returns" in caplog.text
