"""Two checkpoints of one series, loaded together, between which evolutions are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from harness.networks.layer import Layer


@dataclass(frozen=True, eq=False)
class ModelPair:
    """Two checkpoints of one series, t and t′, and the layers in which they are compared.

    Attributes:
        older, newer: the models t and t′, of one architecture.
        layers: the probed layers, the same in both.
    """

    older: nn.Module
    newer: nn.Module
    layers: Sequence[Layer]
