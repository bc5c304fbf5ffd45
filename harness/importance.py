"""How much each neuron's evolution matters to a class: the paper's score and its rivals.

All scores start from a sensitivity s[x, n] of image x's class logit to neuron n's change between
two checkpoints, t and t' (METHOD section 2; ConceptEvo, section 3.2). A method is a sensitivity
and how images are summed up. A new one is one entry in IMPORTANCE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from harness.activations import ActivationRecorder, borrowed
from harness.execution import Execution, execution
from harness.layers import Layer
from harness.registry import Registry


class ImportanceParameters(BaseModel):
    """How importance is measured.

    Attributes:
        methods: names in IMPORTANCE.
        images_per_class: images of the class on which it is measured (250 in the paper).
        path_steps: points on the straight path between the two activations (midpoint rule).
        batch_size: images a pass.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: tuple[str, ...] = ("sign_t", "sign_path", "change", "random")
    images_per_class: int = Field(250, ge=1)
    path_steps: int = Field(4, ge=1)
    batch_size: int = Field(32, ge=1)


class Change:
    """One batch of images of one class, seen by the older (t) and the newer model (t').

    Everything is computed when first asked for and kept, so that methods share passes.

    Attributes:
        maps_from, maps_to: layer name -> [batch, channels, positions] under t and under t'.
        chance: layer name -> a number by chance for every neuron, the same for all batches.
    """

    def __init__(
        self,
        older: nn.Module,
        newer: nn.Module,
        newer_execution: Execution,
        layers: Sequence[Layer],
        batch: Tensor,
        output: int,
        path_steps: int,
        chance: Mapping[str, Tensor],
    ) -> None:
        self.layers = layers
        self.chance = chance
        self._older, self._newer, self._execution = older, newer, newer_execution
        self._batch, self._output, self._path_steps = batch, output, path_steps

    @cached_property
    def _at_t(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return maps_and_gradients(self._older, self.layers, self._batch, self._output)

    @cached_property
    def _at_t1(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return maps_and_gradients(self._newer, self.layers, self._batch, self._output)

    @property
    def maps_from(self) -> dict[str, Tensor]:
        return self._at_t[0]

    @property
    def maps_to(self) -> dict[str, Tensor]:
        return self._at_t1[0]

    @property
    def gradients_from(self) -> dict[str, Tensor]:
        """d h_c(x; t) / d z(x; t), with h_c the class's logit."""
        return self._at_t[1]

    @property
    def gradients_to(self) -> dict[str, Tensor]:
        """d h_c(x; t') / d z(x; t')."""
        return self._at_t1[1]

    @cached_property
    def gradients_along(self) -> dict[str, Tensor]:
        """The mean of d h_c / dz on the straight path z + a (z' - z), in what t' does with a layer.

        One layer at a time is moved, as when it is reverted; midpoint rule over a in [0, 1].
        """
        self._execution.start(self._batch)
        means = {}
        for layer in self.layers:
            start, end = self.maps_from[layer.name], self.maps_to[layer.name]
            total = torch.zeros_like(end)
            for step in range(self._path_steps):
                share = (step + 0.5) / self._path_steps
                point = torch.lerp(start, end, share).requires_grad_()
                with torch.enable_grad():
                    logits = self._execution.rerun({layer.name: partial(layer.like_output, point)})
                    (gradient,) = torch.autograd.grad(logits[:, self._output].sum(), point)
                total += gradient
            means[layer.name] = total / self._path_steps
        return means

    def along(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """s[x, n]: the gradient times the change, summed over space; layer -> [batch, channels]."""
        return {
            layer.name: (
                gradients[layer.name] * (self.maps_to[layer.name] - self.maps_from[layer.name])
            ).sum(dim=2)
            for layer in self.layers
        }

    def size(self) -> dict[str, Tensor]:
        """||z(x; t') - z(x; t)|| of each neuron; layer -> [batch, channels]."""
        return {
            layer.name: (self.maps_to[layer.name] - self.maps_from[layer.name]).norm(dim=2)
            for layer in self.layers
        }


def maps_and_gradients(
    model: nn.Module, layers: Sequence[Layer], batch: Tensor, output: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Maps of all layers and the gradients of one logit by them, in one backward pass.

    The logits of a batch are summed: in evaluation mode images do not mix.

    Returns:
        Two dicts, layer name -> [batch, channels, positions], both without graph.
    """
    with (
        borrowed(model),
        torch.enable_grad(),
        ActivationRecorder(
            model, layers, lambda maps, _: maps, shares_memory=True, start_gradient=True
        ) as record,
    ):
        logits = model(batch)
        maps = [record.kept[layer.name] for layer in layers]
        gradients = torch.autograd.grad(
            logits[:, output].sum(), maps, allow_unused=True, materialize_grads=True
        )
    names = [layer.name for layer in layers]
    detached = [value.detach() for value in maps]
    return dict(zip(names, detached, strict=True)), dict(zip(names, gradients, strict=True))


@dataclass(frozen=True)
class ImportanceMethod:
    """A sensitivity and how it is summed up over images.

    Attributes:
        sensitivity: change -> layer -> [batch, channels].
        share: score by the share of images with positive sensitivity, else by the mean.
        linearises: the score approximates the very intervention (reversion) it is judged by, so
            its success there says less than that of others.
    """

    sensitivity: Callable[[Change], dict[str, Tensor]]
    share: bool
    linearises: bool = False


IMPORTANCE: Registry[ImportanceMethod] = Registry("importance method")


def at_t(change: Change) -> dict[str, Tensor]:
    """The paper's: gradient in the older model times the change (METHOD section 2)."""
    return change.along(change.gradients_from)


def at_t1(change: Change) -> dict[str, Tensor]:
    """Gradient in the newer model times the change."""
    return change.along(change.gradients_to)


def on_path(change: Change) -> dict[str, Tensor]:
    """Gradient averaged between the two activations times the change: summed over neurons it is
    the whole difference of the logit (completeness; Sundararajan et al., 2017)."""
    return change.along(change.gradients_along)


def by_chance(change: Change) -> dict[str, Tensor]:
    """A number by chance for every neuron."""
    images = len(change.maps_to[change.layers[0].name])
    return {
        layer.name: change.chance[layer.name].expand(images, layer.channels)
        for layer in change.layers
    }


for _name, _method in {
    "sign_t": ImportanceMethod(at_t, share=True),
    "mean_t": ImportanceMethod(at_t, share=False),
    "sign_t1": ImportanceMethod(at_t1, share=True, linearises=True),
    "mean_t1": ImportanceMethod(at_t1, share=False, linearises=True),
    "sign_path": ImportanceMethod(on_path, share=True, linearises=True),
    "mean_path": ImportanceMethod(on_path, share=False, linearises=True),
    "change": ImportanceMethod(Change.size, share=False),
    "random": ImportanceMethod(by_chance, share=False),
}.items():
    IMPORTANCE.add(_name)(_method)


def importance(
    older: nn.Module,
    newer: nn.Module,
    layers: Sequence[Layer],
    batches: Sequence[Tensor],
    output: int,
    parameters: ImportanceParameters,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Score every neuron's evolution from the older to the newer model for one class.

    Args:
        older, newer: the models t and t'.
        layers: the probed layers, the same in both.
        batches: images of the class, [batch, 3, h, w] each.
        output: index of the class's logit.
        parameters: methods and path steps.
        rng: for the method `random`.

    Returns:
        layer, channel, method, score, stderr, images. For a share, stderr is that of Agresti and
        Coull (1998), which stays positive at 0 and 1; for a mean, s / sqrt(images), NaN for one
        image. The method `change` is always there: reversion's controls are matched on it.
    """
    methods = {name: IMPORTANCE.get(name) for name in (*parameters.methods, "change")}
    collected: dict[tuple[str, str], list[Tensor]] = {
        (name, layer.name): [] for name in methods for layer in layers
    }
    chance = {layer.name: torch.from_numpy(rng.random(layer.channels)) for layer in layers}
    with execution(newer, layers) as newer_execution, torch.no_grad():
        for batch in batches:
            change = Change(
                older, newer, newer_execution, layers, batch, output, parameters.path_steps, chance
            )
            for name, method in methods.items():
                for layer, values in method.sensitivity(change).items():
                    collected[name, layer].append(values)
    frames = []
    for (name, layer), pieces in collected.items():
        sensitivity = torch.cat(pieces).double().numpy()
        score, stderr = _summarise(sensitivity, methods[name].share)
        frames.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "channel": np.arange(sensitivity.shape[1]),
                    "method": name,
                    "score": score,
                    "stderr": stderr,
                    "images": len(sensitivity),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _summarise(sensitivity: np.ndarray, share: bool) -> tuple[np.ndarray, np.ndarray]:
    count = len(sensitivity)
    if share:
        positive = (sensitivity > 0).sum(axis=0)
        adjusted = (positive + 2) / (count + 4)
        return positive / count, np.sqrt(adjusted * (1 - adjusted) / (count + 4))
    if count < 2:
        return sensitivity.mean(axis=0), np.full(sensitivity.shape[1], np.nan)
    return sensitivity.mean(axis=0), sensitivity.std(axis=0, ddof=1) / np.sqrt(count)
