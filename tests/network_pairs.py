"""Pairs of checkpoints of small networks with features that caches and tracers may get wrong."""

import copy

import pytest
import torch
from torch import nn

from harness.images.view import View
from harness.networks.architectures import build

#: For tests that take seconds for each pair.
MOST_AT_NIGHT = [
    *("in_place", "data_dependent", "small_convnext"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("small_vgg", "small_resnet")),
]


def perturbed(model: nn.Module, seed: int, size: float = 0.3) -> nn.Module:
    """Return a copy with all weights and the batch norm statistics changed."""
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
    """A network with in-place operations, a skip connection and a reused module."""

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
    """A network that cannot be traced, because its path depends on values."""

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


def axes(layers):
    return {layer.name: -1 if layer.channels_last else 1 for layer in layers}
