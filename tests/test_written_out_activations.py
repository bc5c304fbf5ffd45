"""Activation functions that people write out themselves are probed as a whole, as torch's own."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.images.view import View
from harness.networks.calls import expose_calls, is_activation
from harness.networks.layers import find_layers
from harness.networks.recording import record_maps

VIEW = View(16, 16)
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def swish(x):
    return x * torch.sigmoid(x)


def hard_swish(x):
    return x * F.relu6(x + 3) / 6


def new_gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def mish(x):
    return x.mul(torch.tanh(F.softplus(x)))


def gelu(x):
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


class Backward(torch.autograd.Function):
    """A swish that saves memory, as in EfficientNet's implementations."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return swish(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return gradient * gate * (1 + x * (1 - gate))


#: form -> function of a map
FORMS = {
    **{f.__name__: f for f in (swish, hard_swish, new_gelu, mish, gelu)},
    "custom backward": Backward.apply,
    "scripted": torch.jit.script(swish),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "clamp": lambda x: x.clamp(min=0),
}


def setitem(x):
    x = x.clone()
    x[x < 0] = 0
    return x


def gated_half(x):
    a, b = x.chunk(2, 1)
    return a * b.sigmoid()


#: what else is called in a block's code -> whether it can be traced
CALLS = {
    **{f.__name__: (f, True) for f in (swish, hard_swish, new_gelu, mish, gelu, F.hardtanh)},
    "beta": (lambda x: x * torch.sigmoid(1.702 * x), True),
    "silu by exp": (lambda x: x / (1 + torch.exp(-x)), True),
    "where": (FORMS["where"], True),
    "clamp": (FORMS["clamp"], True),
    "clamp_": (lambda x: (x + 1).clamp_(0, 6), True),
    "maximum": (lambda x: torch.maximum(x, torch.zeros_like(x)), True),
    "max": (lambda x: torch.max(x, 0.1 * x), True),
    "mask": (lambda x: x * (x > 0), True),
    "masked_fill": (lambda x: x.masked_fill(x < 0, 0), True),
    "in place": (lambda x: F.relu(x, inplace=True), True),
    "mul_": (lambda x: x.mul_(x.sigmoid()), True),
    "threshold": (lambda x: F.threshold(x, 0, 0), True),
    "log_sigmoid": (F.logsigmoid, True),
    "glu": (gated_half, True),
    "setitem": (setitem, False),
}
#: no activation functions
NO_CALLS = {
    "norm": lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=1e-6),
    "rms": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),
    "gate of channels": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "gate": torch.sigmoid,
    "halves": lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1],
    "maximum over channels": lambda x: x + torch.max(x, 1, keepdim=True)[0],
}


class Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Network(nn.Module):
    """A convolution, an activation as a module or as a call, squeeze-and-excitation, a head."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu, self.second = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3)
        self.act, self.squeeze, self.head = function, nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = self.act(self.second(self.relu(self.first(x))))
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("name", FORMS)
def test_a_module_is_probed_as_torchs_own(name, caplog):
    caplog.set_level("INFO")
    model = Network(Module(FORMS[name])).eval()
    expected = model(IMAGES)
    exposed = expose_calls(model, IMAGES)
    assert torch.equal(exposed(IMAGES), expected)
    assert [layer.name for layer in find_layers(exposed, VIEW)] == ["relu", "act"]
    assert "activation functions are not probed" not in caplog.text


@pytest.mark.parametrize("name", ["swish", "hard_swish", "new_gelu", "mish", "gelu"])
def test_a_product_with_its_own_gate_is_a_layer(name, caplog):
    caplog.set_level("INFO")
    model = Network(FORMS[name]).eval()
    expected = model(IMAGES)
    exposed = expose_calls(copy.deepcopy(model), IMAGES)
    assert torch.equal(exposed(IMAGES), expected)
    layers = find_layers(exposed, VIEW)
    assert [layer.name for layer in layers] == ["relu", "gated_call_1"]  # the SE gate is no layer
    assert "activation functions are not probed" not in caplog.text
    with record_maps(exposed, layers, lambda maps, _: maps.clone()) as kept:
        exposed(IMAGES)
    product = 6 * FORMS[name](model.second(model.relu(model.first(IMAGES))))
    scale = 1 if name == "hard_swish" else 6  # it is divided behind the product
    torch.testing.assert_close(scale * kept["gated_call_1"], product.flatten(2))


class Branching(Network):
    """A network that cannot be traced; its activation may halve the number of channels."""

    def __init__(self, function):
        super().__init__(function)
        count = function(torch.ones(1, 8, 1, 1)).shape[1]
        self.squeeze, self.head = nn.Conv2d(count, count, 1), nn.Linear(count, 3)

    def forward(self, x):
        return super().forward(-x if x.sum() > 1e9 else x)


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_layers_or_counted(name, caplog):
    caplog.set_level("INFO")
    function, traced = CALLS[name]
    model = Branching(function).eval()
    assert [layer.name for layer in find_layers(expose_calls(model, IMAGES), VIEW)] == ["relu"]
    assert "1 of 2 calls of activation functions" in caplog.text
    straight = Branching(function).eval()
    straight.__class__ = Network
    expected, exposed = straight(IMAGES), expose_calls(straight, IMAGES)
    assert torch.equal(exposed(IMAGES), expected)
    assert len(find_layers(exposed, VIEW)) == 1 + traced


#: formulas with a weight per channel, whose shape or sign is computed
LEARNED = {
    "view": lambda x, slope: x * torch.sigmoid(slope.view(1, -1, 1, 1) * x),
    "softplus": lambda x, slope: x * torch.sigmoid(F.softplus(slope)[:, None, None] * x),
    "where": lambda x, slope: torch.where(x > 0, x, slope.view(-1, 1, 1).to(x.dtype) * x),
}


class Learned(nn.Module):
    def __init__(self, function, branches):
        super().__init__()
        self.function, self.branches = function, branches
        self.slope = nn.Parameter(torch.linspace(0.1, 1, 8))

    def forward(self, x):
        if self.branches and x.sum() > 1e9:
            x = -x
        return self.function(x, self.slope) + 1


@pytest.mark.parametrize("name", LEARNED)
def test_formulas_with_learned_weights_are_layers_or_counted(name, caplog):
    caplog.set_level("INFO")
    model = Network(Learned(LEARNED[name], branches=False)).eval()
    layers = find_layers(expose_calls(model, IMAGES), VIEW)
    assert [layer.name for layer in layers] == ["relu", "act.gated_call_1"]
    assert "activation functions are not probed" not in caplog.text
    model = Network(Learned(LEARNED[name], branches=True)).eval()
    assert [layer.name for layer in find_layers(expose_calls(model, IMAGES), VIEW)] == ["relu"]
    assert "1 of 2 calls of activation functions" in caplog.text


@pytest.mark.parametrize("name", NO_CALLS)
def test_other_calls_are_not_counted(name, caplog):
    caplog.set_level("INFO")
    for kind in (Branching, Network):
        model = Branching(NO_CALLS[name]).eval()
        model.__class__ = kind
        assert [one.name for one in find_layers(expose_calls(model, IMAGES), VIEW)] == ["relu"]
    assert "activation functions are not probed" not in caplog.text


class Channels(nn.Module):
    def forward(self, x):
        return x.roll(1, 1) * 2


NO_ACTIVATIONS = {
    "identity": Module(lambda x: x),
    "affine": Module(lambda x: 2 * x - 1),
    "gate": Module(torch.sigmoid),
    "hard gate": Module(lambda x: F.relu6(x + 3) / 6),
    "normalisation": Module(lambda x: x / x.norm(dim=1, keepdim=True)),
    "softmax": Module(lambda x: x.softmax(1)),
    "shuffle": Channels(),
    "pooling": Module(lambda x: F.max_pool2d(x, 2)),
    "chance": Module(lambda x: x + torch.randn_like(x)),
    "two inputs": Module(lambda x, y: x * y),
    "rounding": Module(lambda x: (x * 8).round() / 8),
}


@pytest.mark.parametrize("name", NO_ACTIVATIONS)
def test_other_modules_are_no_activation_functions(name):
    state = torch.random.get_rng_state()
    assert not is_activation(NO_ACTIVATIONS[name])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_is_tried_on_a_copy():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x.clamp(min=0)

    module = Counts()
    assert is_activation(module) and module.calls == 0
