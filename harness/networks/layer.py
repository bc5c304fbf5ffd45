"""Probed layers (where their values occur in a pass, their shape), and networks with these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from harness.images.view import View
from harness.networks.devices import CPU, Device
from harness.records import Checkpoint

#: The value of a module's call that is meant: its (first) output or its input.
Side = Literal["output", "input"]


@dataclass(frozen=True)
class Layer:
    """A value in a pass that is a map of `channels` units.

    A unit is a channel, or `group` channels that belong together (a head of an attention).

    Attributes:
        name: qualified name of the module, or of a part of it (see `parts.py`).
        channels: number of units.
        height, width: size of the map: 1 x 1 for vectors; for tokens, that of the grid of image
            patches (see `default_layers.token_grid`).
        channels_last: whether the last dimension of the value is the channel.
        depth: position among the probed layers, from 0 (first) to 1 (last).
        patch: side of the image patch to which a neuron responds, as a fraction of the view (1
            until `measure_patches` has measured it).
        extra: number of tokens without a position in the image (class, distillation, registers).
        module: name of the module whose call has the value; `name` by default.
        side: whether the value is the module's output or its input.
        group: number of consecutive channels that form a unit.
        sequence_first: whether the value is [tokens, batch, channels].
        behind: number of the `extra` tokens that follow those of the image in the value;
            `channel_first` moves them to the front.
    """

    name: str
    channels: int
    height: int
    width: int
    channels_last: bool
    depth: float = 0.0
    patch: float = 1.0
    extra: int = 0
    module: str = ""
    side: Side = "output"
    group: int = 1
    sequence_first: bool = False
    behind: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "module", self.module or self.name)

    def channel_first(self, output: Tensor) -> Tensor:
        """Return the value as [batch, units, positions], as a view where possible.

        The positions of a unit of several channels are those of one channel after the other.
        """
        if output.dim() == 2:
            maps = output.unsqueeze(2)
        else:
            maps = output.transpose(0, 1) if self.sequence_first else output
            maps = (maps.movedim(-1, 1) if self.channels_last else maps).flatten(2)
            maps = maps.roll(self.behind, 2) if self.behind else maps
        return maps if self.group == 1 else maps.unflatten(1, (-1, self.group)).flatten(2)

    def like_output(self, maps: Tensor, output: Tensor) -> Tensor:
        """Return maps [batch, units, positions] in the shape of `output`."""
        if self.group > 1:
            maps = maps.unflatten(2, (self.group, -1)).flatten(1, 2)
        if output.dim() == 2:
            return maps.squeeze(2)
        maps = maps.roll(-self.behind, 2) if self.behind else maps
        if not self.channels_last:
            return maps.reshape(output.shape)
        if self.sequence_first:
            return maps.permute(2, 0, 1)
        spatial = output.shape[1:-1]
        return maps.reshape(*maps.shape[:2], *spatial).movedim(1, -1)

    def strength(self, maps: Tensor) -> Tensor:
        """Return the activation of each unit at each position, [batch, units, positions].

        It is the value itself or, for a unit of several channels, the length of the vector of its
        channels. `maps` is a result of `channel_first`.
        """
        return maps if self.group == 1 else maps.unflatten(2, (self.group, -1)).norm(dim=2)

    def mask(self, units: Tensor, output: Tensor) -> Tensor:
        """Mark the entries of `output`, a value of this layer, that belong to some units (int64
        [set]): bool, broadcasts with it."""
        axis = -1 if self.channels_last else 1
        mask = torch.zeros(output.shape[axis] // self.group, dtype=torch.bool, device=output.device)
        mask[units] = True
        mask = mask.repeat_interleave(self.group)
        return mask if axis == -1 else mask.view(-1, *[1] * (output.dim() - 2))


@dataclass(frozen=True, eq=False)
class Network:
    """A checkpoint's network on a device, its view of images, and the layers to record."""

    checkpoint: Checkpoint
    model: nn.Module
    layers: Sequence[Layer]
    view: View
    device: Device = CPU


@dataclass(frozen=True, eq=False)
class ModelPair:
    """Two checkpoints t and t′ of one series, and the probed layers in which they are compared."""

    older: nn.Module
    newer: nn.Module
    layers: Sequence[Layer]
