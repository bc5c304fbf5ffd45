"""A checkpoint's network, ready to be recorded."""

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
        checkpoint: whose it is.
        model: on `device`.
        layers: those that are recorded.
        view: how it sees an image.
        device: where it computes.
    """

    checkpoint: Checkpoint
    model: nn.Module
    layers: Sequence[Layer]
    view: View
    device: Device = CPU
