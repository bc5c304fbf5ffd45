"""Identities that all packages share, also on a survey's host: plain records, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

#: The columns that identify a neuron, and a pair of epochs, in every table of the project.
NEURON = ["series", "epoch", "layer", "channel"]
PAIR = ["series", "epoch_from", "epoch_to"]
#: The columns that identify an arm: a set of neurons that was ablated.
ARM = ["layer", "method", "arm", "draw"]

#: Smallest overlap at which a neuron counts as a detector of its concept (Network Dissection).
NAMED_OVERLAP = 0.04

#: Larger integers are not exact in JavaScript, whose numbers the explorer uses.
LARGEST_EPOCH = 2**53

#: The value of the column `layer` for ablations in all layers at once.
JOINT = "all layers"

#: The value of the column `method` for arms without a method: no neurons, all, random sets.
CONTROLS = "controls"


@dataclass(frozen=True, order=True)
class Checkpoint:
    """One model's weights at one epoch."""

    series: str
    epoch: int

    def mask(self, table: Any) -> Any:
        """Return which rows of a table (with columns series and epoch) are of this checkpoint."""
        return (table["series"] == self.series) & (table["epoch"] == self.epoch)


@dataclass(frozen=True, order=True)
class Neuron:
    """One channel of one probed layer of one checkpoint."""

    series: str
    epoch: int
    layer: str
    channel: int


@dataclass(frozen=True, order=True)
class Pair:
    """Two epochs of one series, the older first."""

    series: str
    epoch_from: int
    epoch_to: int


@dataclass(frozen=True)
class Series:
    """The checkpoints of one training run, in epoch order."""

    name: str
    epochs: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.epochs:
            raise ValueError(f"series {self.name!r} has no checkpoints")
        if unusable := [epoch for epoch in self.epochs if not isinstance(epoch, Integral)]:
            raise ValueError(f"series {self.name!r}: epochs must be integers, got {unusable[0]!r}")
        object.__setattr__(self, "epochs", tuple(map(int, self.epochs)))  # perhaps NumPy's
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError(
                f"series {self.name!r}: epochs must increase without repeats, got {self.epochs}"
            )
        if self.epochs[0] < 0:
            raise ValueError(
                f"series {self.name!r}: epochs must be at least 0, got {self.epochs[0]}"
            )
        if self.epochs[-1] > LARGEST_EPOCH:
            raise ValueError(
                f"series {self.name!r}: epochs must be at most {LARGEST_EPOCH:,} (2⁵³), got "
                f"{self.epochs[-1]}"
            )

    @property
    def last(self) -> Checkpoint:
        return Checkpoint(self.name, self.epochs[-1])

    def pairs(self, requested: Sequence[tuple[int, int]] | None = None) -> list[Pair]:
        """Return pairs of epochs: the wanted ones, or all consecutive ones.

        Raises:
            ValueError: a wanted epoch is not among the checkpoints, or a pair does not increase.
        """
        if requested is None:
            requested = list(zip(self.epochs[:-1], self.epochs[1:], strict=True))
        for start, end in requested:
            for epoch in (start, end):
                if epoch not in self.epochs:
                    raise ValueError(
                        f"series {self.name!r} has no checkpoint of epoch {epoch}; "
                        f"it has {', '.join(map(str, self.epochs))}"
                    )
            if start >= end:
                raise ValueError(f"pair {start} -> {end} of {self.name!r} must go forward in time")
        return [Pair(self.name, start, end) for start, end in requested]
