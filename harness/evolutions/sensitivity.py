"""What importance methods may use: maps and gradients of a class's images at two checkpoints.

A `Case` is one class and one pair of checkpoints, a `Change` one batch of its images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from harness.networks.execution import Execution
from harness.networks.layer import Layer, ModelPair
from harness.networks.objectives import Target, as_target
from harness.networks.recording import borrow, record_layers, record_maps
from harness.networks.running import WithGradients, explain_errors, logits_of, run_network
from harness.registry import uses

CONCEPT_DRAWS = 5
CONTEXTS = 16
CONTEXT_SHARE = 0.25  # of the neurons, as in a quarter


@dataclass(frozen=True, eq=False)
class Case:
    """One class and two checkpoints of one series: what all batches of its images share.

    Attributes:
        models: the two checkpoints and their probed layers.
        batches: all importance images of the class, [batch, 3, h, w] each.
        target: what is computed from the outputs; a number is the index of the class's logit, two
            targets are the older and the newer model's.
        rng: for all random draws.
        path_steps: number of points on a path between two activations (midpoint rule).
        others: function that returns images of other classes, [batch, 3, h, w] each.
    """

    models: ModelPair
    batches: Sequence[Tensor]
    target: Target | int | tuple[Target, Target]
    rng: np.random.Generator
    path_steps: int = 4
    others: Callable[[], Sequence[Tensor]] = tuple

    @property
    def targets(self) -> tuple[Target, Target]:
        """What is computed from the outputs of the older and of the newer model."""
        return self.target if isinstance(self.target, tuple) else (as_target(self.target),) * 2

    def _draw(self) -> dict[str, Tensor]:
        """Draw numbers in [0, 1): layer name -> [images, channels], independent of the batches."""
        count = sum(len(batch) for batch in self.batches)
        return {
            layer.name: torch.from_numpy(self.rng.random((count, layer.channels)))
            for layer in self.models.layers
        }

    @cached_property
    def chance(self) -> dict[str, Tensor]:
        """Layer name -> random numbers [images, channels]."""
        return self._draw()

    @cached_property
    def contexts(self) -> list[dict[str, Tensor]]:
        """CONTEXTS random masks: layer name -> which neurons are reverted for which image, bool
        [images, channels], each with probability CONTEXT_SHARE."""
        return [
            {name: numbers < CONTEXT_SHARE for name, numbers in self._draw().items()}
            for _ in range(CONTEXTS)
        ]

    @cached_property
    def concept_vectors(self) -> dict[str, Tensor]:
        """Layer name -> the class's concept activation vector in the newer model, [channels].

        It is the normal of a linear classifier that separates the class's images from images of
        other classes by their maps averaged over space; mean over CONCEPT_DRAWS random halves of
        the other images, each normal of length one (TCAV; Kim et al., 2018, section 3). NaN if
        there are no other classes.
        """
        own, other = (
            [self._pool(batch) for batch in batches] for batches in (self.batches, self.others())
        )
        if not other:
            layers = self.models.layers
            return {layer.name: torch.full((layer.channels,), torch.nan) for layer in layers}
        return {
            layer.name: concept_vector(
                torch.cat([pooled[layer.name] for pooled in own]).cpu().numpy(),
                torch.cat([pooled[layer.name] for pooled in other]).cpu().numpy(),
                self.rng,
            )
            for layer in self.models.layers
        }

    def _pool(self, batch: Tensor) -> dict[str, Tensor]:
        model, layers = self.models.newer, self.models.layers
        purpose = "for the concept vectors of its layers"
        return record_layers(model, layers, lambda maps, _: maps.mean(dim=2), batch, purpose)


class Change:
    """One batch of images of a case at the older (t) and the newer checkpoint (t′).

    Everything is computed when it is first used, and kept.

    Attributes:
        case: what all batches share.
        layers: the probed layers.
        images: the positions of these images among those of the case.
        maps_from, maps_to: layer name -> [batch, channels, positions] at t and at t′.
    """

    def __init__(self, case: Case, running: Execution, batch: Tensor, first: int = 0) -> None:
        self.case = case
        self.layers = case.models.layers
        self.images = slice(first, first + len(batch))
        self._older_target, self._target = case.targets
        self._running, self._batch = running, batch

    @cached_property
    def maps_from(self) -> dict[str, Tensor]:
        return self._maps(self.case.models.older)

    @cached_property
    def maps_to(self) -> dict[str, Tensor]:
        return self._maps(self.case.models.newer)

    @cached_property
    def gradients_from(self) -> dict[str, Tensor]:
        """Gradient d h_c(x; t) / d z(x; t) of the objective h_c (by default the class's logit)."""
        return self._gradients("maps_from", self.case.models.older, self._older_target)

    @cached_property
    def gradients_to(self) -> dict[str, Tensor]:
        """Gradient d h_c(x; t′) / d z(x; t′)."""
        return self._gradients("maps_to", self.case.models.newer, self._target)

    def _maps(self, model: nn.Module) -> dict[str, Tensor]:
        # copies, because the network may overwrite its maps
        keep, purpose = lambda maps, _: maps.float().clone(), "for the maps of its layers"
        return record_layers(model, self.layers, keep, self._batch, purpose)

    def _gradients(self, maps_name: str, model: nn.Module, target: Target) -> dict[str, Tensor]:
        maps, gradients = maps_and_gradients(model, self.layers, self._batch, target)
        vars(self).setdefault(maps_name, maps)  # unless they have been computed
        return gradients

    @cached_property
    def gradients_along(self) -> dict[str, Tensor]:
        """Gradient at t′, averaged on the straight path z + a (z′ − z), 0 ≤ a ≤ 1 (midpoint rule).

        One layer at a time is changed, as when it is reverted.
        """
        return self.gradients_between(self.maps_from)

    def gradients_between(self, starts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Average the gradient at t′ on the straight paths from `starts` to the maps at t′, one
        layer at a time; layer -> [batch, channels, positions]."""
        running, steps, count = self._running, self.case.path_steps, len(self._batch)
        running.start(_at_least_two(self._batch))
        means = {}
        for layer in self.layers:
            start, end = starts[layer.name], self.maps_to[layer.name]
            total = torch.zeros_like(end)
            for step in range(steps):
                point = torch.lerp(start, end, (step + 0.5) / steps).requires_grad_()
                with torch.enable_grad():
                    changed = partial(layer.like_output, _at_least_two(point))
                    output = running.rerun({layer.name: changed})
                    objective = self._target.value(output)[:count].sum()
                    (gradient,) = torch.autograd.grad(objective, point)
                total += gradient
            means[layer.name] = total / steps
        return means

    @uses("path_steps")
    def conductance(self) -> dict[str, Tensor]:
        """Layer conductance at the later checkpoint (Dhamdhere et al., 2019).

        It is the part of h_c(x; t′) that flows through each neuron on the straight path from an
        image of zeros (the mean colour) to x: the sum over steps of the gradient times the
        difference to the map of the next step; layer -> [batch, channels].
        """
        steps, model = 2 * self.case.path_steps, self.case.models.newer
        points = (
            maps_and_gradients(model, self.layers, self._batch * (step / steps), self._target)
            for step in range(steps + 1)
        )
        total: dict[str, Tensor] = {}
        for (maps, gradients), (next_maps, _) in pairwise(points):
            for name, gradient in gradients.items():
                part = (gradient * (next_maps[name] - maps[name])).sum(dim=2)
                total[name] = total[name] + part if name in total else part
        return total

    def undoing(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the decrease of the class's margin m_c at t′ per unit of reversion of each
        neuron, with those in `masks` (layer name -> 0 or 1, [batch, channels]) reverted.

        With mask b, a layer's output o is replaced by o + b (z − o), z the older model's map; the
        result is −d m_c / db, from one backward pass for all layers.
        """
        running = self._running
        parts = {
            name: mask.to(self._batch.device).float().requires_grad_()
            for name, mask in masks.items()
        }

        def blend(layer: Layer, output: Tensor) -> Tensor:
            new, old = layer.channel_first(output), _at_least_two(self.maps_from[layer.name])
            part = _at_least_two(parts[layer.name])[:, :, None]
            return layer.like_output(new + part * (old - new), output)

        running.start(_at_least_two(self._batch))
        with torch.enable_grad():
            output = running.rerun({layer.name: partial(blend, layer) for layer in self.layers})
            gradients = torch.autograd.grad(
                self._target.margin(output)[: len(self._batch)].sum(),
                list(parts.values()),
                materialize_grads=True,  # zeros for layers that the output does not use
            )
        return {name: -gradient for name, gradient in zip(parts, gradients, strict=True)}

    def along(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum the gradient times the change over positions: layer -> s[x, n], [batch, channels]."""
        return {
            layer.name: (
                gradients[layer.name] * (self.maps_to[layer.name] - self.maps_from[layer.name])
            ).sum(dim=2)
            for layer in self.layers
        }

    def times_activation(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum the gradient times z(x; t′) over positions; layer -> [batch, channels]."""
        return {
            name: (gradient * self.maps_to[name]).sum(dim=2) for name, gradient in gradients.items()
        }

    def size(self) -> dict[str, Tensor]:
        """Norm of the change in activation between the two checkpoints.

        ||z(x; t′) − z(x; t)|| over positions; layer -> [batch, channels].
        """
        return {
            layer.name: (self.maps_to[layer.name] - self.maps_from[layer.name]).norm(dim=2)
            for layer in self.layers
        }


def concept_vector(members: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Average the unit normals of linear classifiers that separate `members` from random halves of
    `others` (maps averaged over space, float [images, channels]): float64 [channels]."""
    from sklearn.linear_model import LogisticRegression

    normals = []
    for _ in range(CONCEPT_DRAWS):
        half = rng.choice(len(others), -(-len(others) // 2), replace=False)
        features = np.concatenate([members, others[half]]).astype(np.float64)
        # one factor for all channels, so that the scale of the layer has no effect
        features /= max(float(features.std()), np.finfo(float).tiny)
        labels = np.repeat([1, 0], [len(members), len(half)])
        normal = LogisticRegression(max_iter=200).fit(features, labels).coef_[0]
        normals.append(normal / max(float(np.linalg.norm(normal)), np.finfo(float).tiny))
    return torch.from_numpy(np.mean(normals, axis=0))


def maps_and_gradients(
    model: nn.Module, layers: Sequence[Layer], batch: Tensor, target: Target | int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Compute the maps of all layers and the gradients of the objective with respect to them, in
    one backward pass. A number as target is the index of the class's logit.

    The objective is summed over the batch, because images do not mix in evaluation mode.

    Returns:
        Two dicts, layer name -> float32 [batch, channels, positions], both without graph.
    """
    purpose, count, batch = "for the gradients of its layers", len(batch), _at_least_two(batch)
    recording = record_maps(
        model, layers, lambda maps, _: maps, shares_memory=True, start_gradient=True
    )
    with borrow(model), torch.enable_grad(), recording as kept:
        with WithGradients():
            answer = run_network(model, batch, purpose)
        value = as_target(target).value(logits_of(model, answer))[:count].sum()
        maps = [kept[layer.name] for layer in layers]
        with explain_errors(model, batch, purpose):
            gradients = torch.autograd.grad(value, maps, materialize_grads=True)
    names = [layer.name for layer in layers]
    # float32 from here on, whatever the precision of the network
    maps_by_layer, gradients_by_layer = (
        {name: value[:count].detach().float() for name, value in zip(names, values, strict=True)}
        for values in (maps, gradients)
    )
    return maps_by_layer, gradients_by_layer


def _at_least_two(values: Tensor) -> Tensor:
    """Return those of one image twice: for a single image, torch (2.13, on the CPU) computes wrong
    gradients of batch and instance normalisation if the map's dimensions are in another order."""
    return values if len(values) > 1 else torch.cat([values, values])
