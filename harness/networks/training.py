"""Train a network and save its weights at given epochs. Interrupted training resumes exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from harness.files import whole_file
from harness.images.batches import read_ahead
from harness.networks.architectures import build, channels_last, takes_channels_last
from harness.networks.devices import CPU, Device
from harness.section import Section

#: Columns of the log.
LOG = ["epoch", "train_loss", "train_accuracy", "test_accuracy"]


class TrainingParameters(Section):
    """Parameters of the training of a network; the defaults suit the synthetic images.

    Attributes:
        epochs: passes over the training images.
        save: epochs whose weights are saved; 0 is the untrained network.
        learning_rate: peak of the one-cycle schedule, or the constant rate.
        schedule: "onecycle" (Smith and Topin, 2019) or "constant".
        augment: random horizontal flip and shift by up to 4 pixels.
        images: number of training images to use, from the first on (all by default).
    """

    epochs: int = Field(12, ge=1)
    save: tuple[int, ...] = (0, 1, 4, 8, 12)
    learning_rate: float = Field(3e-3, gt=0)
    schedule: Literal["onecycle", "constant"] = "onecycle"
    batch_size: int = Field(64, ge=1)
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    dropout: bool = True
    augment: bool = True
    images: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _epochs_exist(self) -> TrainingParameters:
        if list(self.save) != sorted(set(self.save)) or not self.save:
            raise ValueError(f"save must be increasing epochs, got {list(self.save)}")
        if self.save[0] < 0 or self.save[-1] > self.epochs:
            raise ValueError(f"save must lie within 0 and epochs={self.epochs}, got {self.save}")
        return self


@dataclass(frozen=True)
class Examples:
    """Images that are read in batches (row numbers [batch] -> normalised images [batch, channels,
    h, w]), and their labels, int64 [n]."""

    read: Callable[[np.ndarray], Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TrainingData:
    """The images and the files of a training.

    Attributes:
        train: training images; two batches of them are in memory at once.
        test: images for the accuracy in the log.
        classes: number of classes and of the network's outputs.
        weights: function of an epoch that returns the file of its weights.
        state: the file from which an interrupted training resumes.
    """

    train: Examples
    test: Examples
    classes: int
    weights: Callable[[int], Path]
    state: Path


def train(
    architecture: str,
    data: TrainingData,
    parameters: TrainingParameters,
    seed: int,
    on_batch: Callable[[], None] = lambda: None,
    device: Device = CPU,
) -> pd.DataFrame:
    """Train from random weights, or resume an interrupted call with the same arguments.

    Args:
        architecture: a name for `architectures.build`.
        seed: of weights, order, augmentation and dropout.
        on_batch: called after every batch; on resuming, also for every batch already done.
        device: where to compute; always in float32.

    Returns:
        One row per epoch: epoch, train_loss, train_accuracy (NaN at epoch 0), test_accuracy.

    Raises:
        ValueError: there are fewer training images than one batch holds.
    """
    count = min(len(data.train), parameters.images or len(data.train))
    batches = count // parameters.batch_size
    if batches == 0:
        raise ValueError(
            f"batch_size={parameters.batch_size} needs at least as many training images, "
            f"got {count}"
        )
    parts, layout = _initialise(
        architecture, data, parameters, seed, parameters.epochs * batches, device
    )

    def run_epoch(epoch: int) -> tuple[float, float]:
        """Return the mean loss and the accuracy of an epoch of training."""
        # The order, the augmentation and dropout depend on (seed, epoch) alone, so resuming at the
        # start of an epoch gives the same weights as an uninterrupted training.
        rng = np.random.default_rng([seed, epoch])
        torch.manual_seed(int(rng.integers(2**62)))
        order = rng.permutation(count)[: batches * parameters.batch_size]
        augment = partial(flip_and_shift, rng=rng) if parameters.augment else lambda batch: batch
        total_loss, correct = 0.0, 0
        parts.model.train()
        for rows, batch in read_ahead(data.train.read, np.split(order, batches)):
            images = device.batch(augment(batch).contiguous(memory_format=layout))
            labels = device.batch(data.train.labels[torch.from_numpy(rows)])
            loss, logits = _step(parts, images, labels, parameters.label_smoothing)
            total_loss += loss.item()
            correct += int((logits.argmax(1) == labels).sum())
            on_batch()
        return total_loss / batches, correct / len(order)

    log: list[tuple[float, ...]] = []  # one row of LOG per epoch
    if state := _read_state(data, parameters, device):
        for name, part in parts._asdict().items():
            part.load_state_dict(state[name])
        log = state["log"]
        for _ in range(batches * (len(log) - 1)):
            on_batch()
    for epoch in range(len(log), parameters.epochs + 1):
        on_training = run_epoch(epoch) if epoch else (np.nan, np.nan)
        on_test = accuracy(parts.model, data.test, parameters.batch_size, device)
        log.append((epoch, *on_training, on_test))
        if epoch in parameters.save:
            save_weights(parts.model, data.weights(epoch))
        states = {name: part.state_dict() for name, part in parts._asdict().items()}
        _save({**states, "log": log}, data.state)
    return pd.DataFrame(log, columns=LOG).astype({"epoch": int})


class _Parts(NamedTuple):
    """What changes during a training, and is restored when it resumes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR


def _initialise(
    architecture: str, data: TrainingData, parameters: TrainingParameters, seed: int, steps: int,
    device: Device,
) -> tuple[_Parts, torch.memory_format]:  # fmt: skip
    """Return the start of a training from random weights, and the format of its batches."""
    model, layout = build(architecture, data.classes, seed), torch.contiguous_format
    if takes_channels_last(model, data.train.read(np.arange(2))):
        model, layout = channels_last(model), torch.channels_last
    model = device.model(model)
    if not parameters.dropout:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    optimizer = torch.optim.AdamW(
        model.parameters(), parameters.learning_rate, weight_decay=parameters.weight_decay
    )
    onecycle = parameters.schedule == "onecycle"
    factor = partial(_one_cycle, steps) if onecycle else lambda step: 1.0
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return _Parts(model, optimizer, scheduler), layout


def _step(
    parts: _Parts, images: Tensor, labels: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Change the weights by one batch; return its loss and its logits."""
    logits = parts.model(images)
    loss = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    parts.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parts.optimizer.step()
    parts.scheduler.step()
    return loss, logits


def _read_state(
    data: TrainingData, parameters: TrainingParameters, device: Device
) -> dict[str, Any] | None:
    """Return the state of an interrupted training; None if there is none, or if weights that it
    saved are missing, which only a new training can produce."""
    if not data.state.exists():
        return None
    state = torch.load(data.state, weights_only=True, map_location=device.place)
    epochs = [epoch for epoch in parameters.save if epoch < len(state["log"])]
    return state if all(data.weights(epoch).exists() for epoch in epochs) else None


def _one_cycle(steps: int, step: int) -> float:
    """Return the factor of the peak rate at a step: a linear rise from 4 % over the first 30 % of
    the steps, then a cosine decay to 0."""
    rise = max(1, round(0.3 * steps))
    if step < rise:
        return 0.04 + 0.96 * step / rise
    return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, steps - rise))))


def flip_and_shift(batch: Tensor, rng: np.random.Generator, reach: int = 4) -> Tensor:
    """Flip each image with probability .5 and shift it by up to `reach` pixels, repeating edges."""
    count, _, height, width = batch.shape
    flipped = torch.from_numpy(rng.random(count) < 0.5)
    batch = torch.where(flipped[:, None, None, None], batch.flip(3), batch)
    down, right = (torch.from_numpy(rng.integers(-reach, reach + 1, count)) for _ in range(2))
    rows = (torch.arange(height) + down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) + right[:, None]).clamp(0, width - 1)
    image = torch.arange(count)[:, None, None]
    return batch.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples, batch_size: int, device: Device = CPU) -> float:
    """Return the share of images whose largest logit is that of the label, in evaluation mode."""
    training = model.training
    model.eval()
    pieces = np.array_split(np.arange(len(examples)), -(-len(examples) // batch_size))
    try:
        correct = sum(
            int((model(device.batch(batch)).argmax(1).cpu() == examples.labels[piece]).sum())
            for piece, batch in read_ahead(examples.read, pieces)
        )
    finally:
        model.train(training)
    return correct / len(examples)


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict alone, loadable with `weights_only=True`; completely or not at all."""
    state = model.state_dict()  # keeps its metadata
    state.update({name: v.cpu() for name, v in state.items() if isinstance(v, Tensor)})
    _save(state, path)


def _save(value: Any, path: Path) -> None:
    # given a path instead of an open file, torch would write the temporary name into the file
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(value, file)
