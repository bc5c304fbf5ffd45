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
from scipy import stats
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


@dataclass(frozen=True, eq=False)
class Case:
    """One class and two checkpoints of one series: what all batches of its images have in common.

    Attributes:
        older, newer: the models t and t'.
        layers: the probed layers, the same in both.
        execution: of the newer model, open.
        batches: all images of the class that importance is measured on, [batch, 3, h, w] each.
        others: called for images of other classes, [batch, 3, h, w] each.
        output: index of the class's logit.
        path_steps: points on a path (midpoint rule).
        rng: for what is left to chance.
    """

    older: nn.Module
    newer: nn.Module
    layers: Sequence[Layer]
    execution: Execution
    batches: Sequence[Tensor]
    others: Callable[[], Sequence[Tensor]]
    output: int
    path_steps: int
    rng: np.random.Generator

    @cached_property
    def chance(self) -> dict[str, Tensor]:
        """Layer name -> a number by chance for every image and neuron, however they are batched:
        [images, channels]."""
        count = sum(len(batch) for batch in self.batches)
        return {
            layer.name: torch.from_numpy(self.rng.random((count, layer.channels)))
            for layer in self.layers
        }

    @cached_property
    def contexts(self) -> list[dict[str, Tensor]]:
        """CONTEXTS times, layer name -> which neurons are undone for which image, bool
        [images, channels]: each with chance CONTEXT_SHARE."""
        count = sum(len(batch) for batch in self.batches)
        return [
            {
                layer.name: torch.from_numpy(
                    self.rng.random((count, layer.channels)) < CONTEXT_SHARE
                )
                for layer in self.layers
            }
            for _ in range(CONTEXTS)
        ]

    @cached_property
    def concept_vectors(self) -> dict[str, Tensor]:
        """Layer name -> the class's concept activation vector in the newer model, [channels].

        The normal of a linear classifier between the class's images and random other images, on
        maps averaged over space; mean over CONCEPT_DRAWS random halves of the others, each vector
        of length one (TCAV; Kim et al., 2018, section 3).
        """
        mine, others = (
            [self._pooled(batch) for batch in batches] for batches in (self.batches, self.others())
        )
        if not others:
            raise ValueError("importance method tcav needs images of another class")
        return {
            layer.name: concept_vector(
                torch.cat([pooled[layer.name] for pooled in mine]).numpy(),
                torch.cat([pooled[layer.name] for pooled in others]).numpy(),
                self.rng,
            )
            for layer in self.layers
        }

    def _pooled(self, batch: Tensor) -> dict[str, Tensor]:
        with borrowed(self.newer), torch.no_grad():
            keep = ActivationRecorder(self.newer, self.layers, lambda maps, _: maps.mean(dim=2))
            with keep as record:
                self.newer(batch)
            return dict(record.kept)


class Change:
    """One batch of images of a case, seen by the older (t) and the newer model (t').

    Everything is computed when first asked for and kept, so that methods share passes.

    Attributes:
        case: what the batches have in common.
        images: which of the case's images these are.
        maps_from, maps_to: layer name -> [batch, channels, positions] under t and under t'.
    """

    def __init__(self, case: Case, batch: Tensor, first: int = 0) -> None:
        self.case = case
        self.layers = case.layers
        self.images = slice(first, first + len(batch))
        self._batch = batch

    @cached_property
    def _at_t(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return maps_and_gradients(self.case.older, self.layers, self._batch, self.case.output)

    @cached_property
    def _at_t1(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return maps_and_gradients(self.case.newer, self.layers, self._batch, self.case.output)

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
        return self.gradients_between(self.maps_from)

    @cached_property
    def gradients_from_zero(self) -> dict[str, Tensor]:
        """The mean of d h_c / dz on the straight path from no activation to z'."""
        return self.gradients_between(
            {name: torch.zeros_like(maps) for name, maps in self.maps_to.items()}
        )

    def gradients_between(self, starts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean gradient in t' on the straight paths from `starts` to its own maps, a layer at
        a time; layer -> [batch, channels, positions]."""
        running, steps = self.case.execution, self.case.path_steps
        running.start(self._batch)
        means = {}
        for layer in self.layers:
            start, end = starts[layer.name], self.maps_to[layer.name]
            total = torch.zeros_like(end)
            for step in range(steps):
                point = torch.lerp(start, end, (step + 0.5) / steps).requires_grad_()
                with torch.enable_grad():
                    logits = running.rerun({layer.name: partial(layer.like_output, point)})
                    own = logits[:, self.case.output].sum()
                    (gradient,) = torch.autograd.grad(own, point)
                total += gradient
            means[layer.name] = total / steps
        return means

    @cached_property
    def conductance(self) -> dict[str, Tensor]:
        """The part of h_c(x; t') that flows through each neuron on the straight path from an image
        of zeros (the mean colour) to x (Dhamdhere et al., 2019); layer -> [batch, channels].

        One pass a step serves all layers: sum over steps of the gradient times the difference to
        the next step's map.
        """
        steps = 2 * self.case.path_steps
        total: dict[str, Tensor] = {}
        last: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
        for step in range(steps + 1):
            point = self._batch * (step / steps)
            now = maps_and_gradients(self.case.newer, self.layers, point, self.case.output)
            if last is not None:
                for name, maps in now[0].items():
                    part = (last[1][name] * (maps - last[0][name])).sum(dim=2)
                    total[name] = total[name] + part if name in total else part
            last = now
        return total

    def undoing(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How the margin of the class in t' falls as more of a neuron is undone, where the neurons
        in `masks` are undone already, in all layers at once.

        With b the mask, a layer's output o goes on as o + b (z - o), z the older model's maps; this
        is -d m_c / db, one backward pass for all layers.

        Args:
            masks: layer name -> 0 or 1, [batch, channels].
        """
        running = self.case.execution
        parts = {name: mask.float().requires_grad_() for name, mask in masks.items()}

        def partly(layer: Layer, output: Tensor) -> Tensor:
            now, old = layer.channel_first(output), self.maps_from[layer.name]
            return layer.like_output(now + parts[layer.name][:, :, None] * (old - now), output)

        running.start(self._batch)
        with torch.enable_grad():
            logits = running.rerun({layer.name: partial(partly, layer) for layer in self.layers})
            gradients = torch.autograd.grad(
                margin(logits, self.case.output).sum(),
                list(parts.values()),
                allow_unused=True,
                materialize_grads=True,
            )
        return {name: -gradient for name, gradient in zip(parts, gradients, strict=True)}

    def along(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """s[x, n]: the gradient times the change, summed over space; layer -> [batch, channels]."""
        return {
            layer.name: (
                gradients[layer.name] * (self.maps_to[layer.name] - self.maps_from[layer.name])
            ).sum(dim=2)
            for layer in self.layers
        }

    def times_activation(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient times z(x; t'), summed over space; layer -> [batch, channels]."""
        return {
            name: (gradient * self.maps_to[name]).sum(dim=2) for name, gradient in gradients.items()
        }

    def size(self) -> dict[str, Tensor]:
        """||z(x; t') - z(x; t)|| of each neuron; layer -> [batch, channels]."""
        return {
            layer.name: (self.maps_to[layer.name] - self.maps_from[layer.name]).norm(dim=2)
            for layer in self.layers
        }


CONCEPT_DRAWS = 5
CONTEXTS = 16
CONTEXT_SHARE = 0.25  # of the neurons: as many as a quarter


def margin(logits: Tensor, output: int) -> Tensor:
    """log(p_c / (1 - p_c)): the class's logit less the logsumexp of the others, [batch]."""
    others = torch.cat([logits[:, :output], logits[:, output + 1 :]], dim=1)
    return logits[:, output] - others.logsumexp(dim=1)


def concept_vector(mine: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> Tensor:
    """The mean unit normal of linear classifiers of `mine` against random halves of `others`.

    Args:
        mine, others: pooled maps, float [images, channels].
        rng: draws the halves.

    Returns:
        float64 [channels].
    """
    from sklearn.linear_model import LogisticRegression

    normals = []
    for _ in range(CONCEPT_DRAWS):
        half = rng.choice(len(others), -(-len(others) // 2), replace=False)
        features = np.concatenate([mine, others[half]]).astype(np.float64)
        # one scale for all channels: the classifier must not see how the layer is scaled
        features /= max(float(features.std()), np.finfo(float).tiny)
        labels = np.repeat([1, 0], [len(mine), len(half)])
        normal = LogisticRegression(max_iter=200).fit(features, labels).coef_[0]
        normals.append(normal / max(float(np.linalg.norm(normal)), np.finfo(float).tiny))
    return torch.from_numpy(np.mean(normals, axis=0))


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
        linearises: the ablation (harness/ablation.py) to which the score is a first-order
            approximation, so that its success there says less than that of others; "" for none.
    """

    sensitivity: Callable[[Change], dict[str, Tensor]]
    share: bool = False
    linearises: str = ""


IMPORTANCE: Registry[ImportanceMethod] = Registry("importance method")


def importance_method(name: str) -> ImportanceMethod:
    """The method of that name; a plain function of the user's is a sensitivity scored by its mean.

    Raises:
        ValueError: unknown name, an import that fails, or something that cannot be called.
    """
    found = IMPORTANCE.get(name)
    if isinstance(found, ImportanceMethod):
        return found
    if callable(found):
        return ImportanceMethod(found)
    raise ValueError(f"importance method {name!r} is neither an ImportanceMethod nor a function")


def at_t(change: Change) -> dict[str, Tensor]:
    """The paper's: gradient in the older model times the change (METHOD section 2)."""
    return change.along(change.gradients_from)


def at_t1(change: Change) -> dict[str, Tensor]:
    """Gradient in the newer model times the change."""
    return change.along(change.gradients_to)


def on_path(change: Change) -> dict[str, Tensor]:
    """Integrated gradients with the older model's maps as baseline: the gradient averaged between
    the two activations times the change. Summed over neurons it is the whole difference of the
    logit (completeness; Sundararajan et al., 2017)."""
    return change.along(change.gradients_along)


def in_contexts(change: Change) -> dict[str, Tensor]:
    """Ours: how often, over random contexts, undoing a neuron lowers the class's margin, from -1
    (always raises it) to 1. A context undoes a random quarter of all neurons, so a neuron is asked
    about among other undone ones, as it will be in a set; sets that are tried are not looked at.
    Chosen on other networks and seeds than it was judged on (docs/benchmark.md)."""
    signs = [
        change.undoing({name: mask[change.images] for name, mask in context.items()})
        for context in change.case.contexts
    ]
    return {
        layer.name: torch.stack([s[layer.name].sign() for s in signs]).mean(dim=0)
        for layer in change.layers
    }


def times_activation(change: Change) -> dict[str, Tensor]:
    """Gradient times activation in the newer model: a neuron's use, whatever it evolved from."""
    return change.times_activation(change.gradients_to)


def from_zero(change: Change) -> dict[str, Tensor]:
    """Integrated gradients of the newer model's maps with no activation as baseline."""
    return change.times_activation(change.gradients_from_zero)


def conductance(change: Change) -> dict[str, Tensor]:
    """Layer conductance of the newer model (Dhamdhere et al., 2019)."""
    return change.conductance


def towards_concept(change: Change) -> dict[str, Tensor]:
    """A neuron's part of the derivative along the class's concept vector (TCAV) in the newer
    model: its gradient summed over space, times its entry of the vector."""
    vectors = change.case.concept_vectors
    return {
        name: gradient.sum(dim=2) * vectors[name] for name, gradient in change.gradients_to.items()
    }


def activation(change: Change) -> dict[str, Tensor]:
    """||z(x; t')||: how strongly the newer model uses a neuron."""
    return {name: maps.norm(dim=2) for name, maps in change.maps_to.items()}


def by_chance(change: Change) -> dict[str, Tensor]:
    """A number by chance for every image and neuron."""
    return {name: chance[change.images] for name, chance in change.case.chance.items()}


for _name, _method in {
    "sign_t": ImportanceMethod(at_t, share=True),
    "mean_t": ImportanceMethod(at_t),
    "sign_t1": ImportanceMethod(at_t1, share=True, linearises="revert"),
    "mean_t1": ImportanceMethod(at_t1, linearises="revert"),
    "sign_path": ImportanceMethod(on_path, share=True, linearises="revert"),
    "mean_path": ImportanceMethod(on_path, linearises="revert"),
    "contexts": ImportanceMethod(in_contexts, linearises="revert"),
    "change": ImportanceMethod(Change.size),
    "activation": ImportanceMethod(activation),
    "gradient_activation": ImportanceMethod(times_activation, linearises="zero"),
    "integrated": ImportanceMethod(from_zero, linearises="zero"),
    "conductance": ImportanceMethod(conductance),
    "tcav": ImportanceMethod(towards_concept, share=True),
    "random": ImportanceMethod(by_chance),
}.items():
    IMPORTANCE.add(_name)(_method)


def sensitivities(
    older: nn.Module,
    newer: nn.Module,
    layers: Sequence[Layer],
    batches: Sequence[Tensor],
    output: int,
    methods: Mapping[str, ImportanceMethod],
    rng: np.random.Generator,
    path_steps: int = 4,
    others: Callable[[], Sequence[Tensor]] = tuple,
) -> dict[tuple[str, str], np.ndarray]:
    """s[x, n] by every method: (method, layer) -> float64 [images, channels].

    Args: as `importance`; `methods` by name.
    """
    found: dict[tuple[str, str], list[Tensor]] = {
        (name, layer.name): [] for name in methods for layer in layers
    }
    with execution(newer, layers) as running, torch.no_grad():
        case = Case(older, newer, layers, running, batches, others, output, path_steps, rng)
        first = 0
        for batch in batches:
            change = Change(case, batch, first)
            first += len(batch)
            for name, method in methods.items():
                for layer, values in method.sensitivity(change).items():
                    found[name, layer].append(values)
    return {key: torch.cat(pieces).double().numpy() for key, pieces in found.items()}


def importance(
    older: nn.Module,
    newer: nn.Module,
    layers: Sequence[Layer],
    batches: Sequence[Tensor],
    output: int,
    parameters: ImportanceParameters,
    rng: np.random.Generator,
    others: Callable[[], Sequence[Tensor]] = tuple,
) -> pd.DataFrame:
    """Score every neuron's evolution from the older to the newer model for one class.

    Args:
        older, newer: the models t and t'.
        layers: the probed layers, the same in both.
        batches: images of the class, [batch, 3, h, w] each.
        output: index of the class's logit.
        parameters: methods and path steps.
        rng: for the methods `random` and `tcav`.
        others: called for images of other classes, [batch, 3, h, w] each; `tcav` needs them.

    Returns:
        layer, channel, method, score, stderr, images. For a share, stderr is that of Agresti and
        Coull (1998), which stays positive at 0 and 1; for a mean, s / sqrt(images), NaN for one
        image. The method `change` is always there: reversion's controls are matched on it.
    """
    methods = {name: importance_method(name) for name in (*parameters.methods, "change")}
    steps = parameters.path_steps
    found = sensitivities(older, newer, layers, batches, output, methods, rng, steps, others)
    frames = []
    for (name, layer), values in found.items():
        score, stderr = summarise(values, methods[name].share)
        frames.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "channel": np.arange(values.shape[1]),
                    "method": name,
                    "score": score,
                    "stderr": stderr,
                    "images": len(values),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def summarise(sensitivity: np.ndarray, share: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scores and standard errors, each [channels], of sensitivities [images, channels]."""
    count = len(sensitivity)
    if share:
        positive = (sensitivity > 0).sum(axis=0)
        adjusted = (positive + 2) / (count + 4)
        return positive / count, np.sqrt(adjusted * (1 - adjusted) / (count + 4))
    if count < 2:
        return sensitivity.mean(axis=0), np.full(sensitivity.shape[1], np.nan)
    return sensitivity.mean(axis=0), sensitivity.std(axis=0, ddof=1) / np.sqrt(count)


def split_half(
    sensitivity: np.ndarray, share: bool, rng: np.random.Generator, draws: int = 10
) -> pd.DataFrame:
    """How alike are the scores of two disjoint sets of images, and how many images that takes.

    Args:
        sensitivity: [images, channels] of one layer.
        share: as in ImportanceMethod.
        rng: draws the halves.
        draws: pairs of halves a size.

    Returns:
        images (in a half: 1, 2, 4, …, and half of all), rho (Spearman's, mean over the draws; NaN
        where a half has no two different scores), left_out (draws without a rho).
    """
    most = len(sensitivity) // 2
    sizes = sorted({*(2**power for power in range(most.bit_length()) if 2**power <= most), most})
    rows = []
    for size in (size for size in sizes if size):
        found = []
        for _ in range(draws):
            chosen = rng.permutation(len(sensitivity))
            halves = (chosen[:size], chosen[size : 2 * size])
            found.append(_spearman(*(summarise(sensitivity[half], share)[0] for half in halves)))
        valid = [rho for rho in found if not np.isnan(rho)]
        rho = float(np.mean(valid)) if valid else float("nan")
        rows.append({"images": size, "rho": rho, "left_out": draws - len(valid)})
    return pd.DataFrame(rows, columns=["images", "rho", "left_out"])


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    a, b = (stats.rankdata(values) for values in (first, second))
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
