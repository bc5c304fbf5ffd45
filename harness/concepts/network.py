"""A checkpoint's network with the layers to record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from harness.images.sets import View
from harness.networks.devices import CPU, Device
from harness.networks.layer import Layer
from harness.records import Checkpoint


@dataclass(frozen=True, eq=False)
class Network:
    """A checkpoint's network and the layers to record.

    Attributes:
        checkpoint: identity of the checkpoint.
        model: the network, on `device`.
        layers: the layers to record.
        view: the network's preprocessing of images.
        device: where the network runs.
    """

    checkpoint: Checkpoint
    model: nn.Module
    layers: Sequence[Layer]
    view: View
    device: Device = CPU
