"""Importance of each neuron's evolution for a class: the paper's score and alternatives.

All scores are computed from a sensitivity s[x, n] of the logit of image x's class to the change of
neuron n between two checkpoints, t and t′ (ConceptEvo, section 3.2), or of another objective
(`networks/objectives.py`). A method is a sensitivity and its aggregation over images, one entry in
IMPORTANCE.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pandas as pd
import scipy  # loads its parts, which take half a second, only when they are used
import torch
from pydantic import Field
from torch import Tensor

from harness.evolutions.ablation import ABLATIONS
from harness.evolutions.sensitivity import Case, Change
from harness.networks.execution import execution
from harness.networks.layer import Layer
from harness.networks.running import UNDEFINED
from harness.registry import Registry, call_user_code, description, uses
from harness.section import DISTINCT, Section, check_each


@dataclass(frozen=True)
class ImportanceMethod:
    """A sensitivity, and how it is aggregated over images.

    Attributes:
        sensitivity: function of a change that returns layer -> [batch, channels].
        share: the score is the share of images with a positive sensitivity, otherwise the mean.
        linearises: the ablation (see `ablation.py`) that the score approximates, so that good
            results by it are weaker evidence than by others; "" for none.
        name: name in messages; by default that of the sensitivity.
    """

    sensitivity: Callable[[Change], dict[str, Tensor]]
    share: bool = False
    linearises: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if not callable(self.sensitivity) or not isinstance(self.share, bool):
            raise ValueError(
                f"an ImportanceMethod has a function of a change, and share = True or False; got "
                f"{self.sensitivity!r} and {self.share!r}"
            )
        if self.linearises and ":" not in self.linearises:  # the user's own may not be imported yet
            ABLATIONS.get(self.linearises)
        if not self.name:
            name = getattr(self.sensitivity, "__name__", repr(self.sensitivity))
            object.__setattr__(self, "name", name)

    @property
    def about(self) -> dict[str, str]:
        """Description for results: sensitivity, aggregation over images, approximated ablation."""
        return {
            "description": description(self.sensitivity),
            "over images": "share of images where positive" if self.share else "mean",
            "linearises": self.linearises,
        }


def at_t(change: Change) -> dict[str, Tensor]:
    """The paper's sensitivity: gradient of the objective with respect to the earlier checkpoint's
    activations times the change in activation (Park et al., 2023, section 3.2)."""
    return change.along(change.gradients_from)


def at_t1(change: Change) -> dict[str, Tensor]:
    """Gradient with respect to the later checkpoint's activations times the change in
    activation."""
    return change.along(change.gradients_to)


@uses("path_steps")
def on_path(change: Change) -> dict[str, Tensor]:
    """Integrated gradients with the earlier checkpoint's activations as baseline: the gradient
    averaged between the two activations times the change. Its sum over the neurons of a layer is
    the difference of the objective (completeness; Sundararajan et al., 2017).
    """
    return change.along(change.gradients_along)


def in_contexts(change: Change) -> dict[str, Tensor]:
    """Ours: over random contexts, in each of which a random quarter of all neurons is reverted,
    the share in which reverting the neuron lowers the class's margin minus the share in which it
    raises it. A context is like a quarter of the benchmark, so the score simulates the ablation
    by which it is evaluated; it costs one backward pass per context. It was developed on other
    networks and seeds than those on which it was evaluated (docs/benchmark.md).
    """
    signs = [
        change.undoing({name: mask[change.images] for name, mask in context.items()})
        for context in change.case.contexts
    ]
    return {
        layer.name: torch.stack([s[layer.name].sign() for s in signs]).mean(dim=0)
        for layer in change.layers
    }


def times_activation(change: Change) -> dict[str, Tensor]:
    """Gradient times activation at the later checkpoint, which ignores the evolution."""
    return change.times_activation(change.gradients_to)


@uses("path_steps")
def from_zero(change: Change) -> dict[str, Tensor]:
    """Integrated gradients at the later checkpoint with zero activation as baseline."""
    zeros = {name: torch.zeros_like(maps) for name, maps in change.maps_to.items()}
    return change.times_activation(change.gradients_between(zeros))


def towards_concept(change: Change) -> dict[str, Tensor]:
    """Contribution of a neuron to the derivative along the class's concept vector at the later
    checkpoint (TCAV; Kim et al., 2018): its gradient summed over space times its entry of the
    vector."""
    vectors = change.case.concept_vectors
    return {
        name: gradient.sum(dim=2).cpu() * vectors[name]
        for name, gradient in change.gradients_to.items()
    }


def activation(change: Change) -> dict[str, Tensor]:
    """Norm of the neuron's activation at the later checkpoint, ||z(x; t')||."""
    return {name: maps.norm(dim=2) for name, maps in change.maps_to.items()}


def by_chance(change: Change) -> dict[str, Tensor]:
    """A random number for every image and neuron."""
    return {name: chance[change.images] for name, chance in change.case.chance.items()}


IMPORTANCE: Registry[ImportanceMethod] = Registry(
    "importance method",
    {
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
        "conductance": ImportanceMethod(Change.conductance),
        "tcav": ImportanceMethod(towards_concept, share=True),
        "random": ImportanceMethod(by_chance),
    },
    (Callable, ImportanceMethod),
)


def importance_method(name: str) -> ImportanceMethod:
    """Return the method of a name; a user's function is a sensitivity that is averaged over images.

    Raises:
        ValueError: unknown name, an import that fails, or something that cannot be called.
    """
    plugin = IMPORTANCE.get(name)
    method = plugin if isinstance(plugin, ImportanceMethod) else ImportanceMethod(plugin)
    return replace(method, name=name)


Methods = Annotated[tuple[str, ...], Field(min_length=1), DISTINCT, check_each(importance_method)]


class ImportanceParameters(Section):
    """Parameters of the measurement of importance.

    Attributes:
        methods: names in IMPORTANCE or `package.module:function`.
        images_per_class: number of importance images per class (250 in the paper).
        path_steps: number of points on the path between the two activations (midpoint rule).
        batch_size: number of images per pass.
        classes_per_file: number of classes whose results are saved together; interrupted work
            resumes after the last file. Results do not depend on it.
    """

    methods: Methods = ("sign_t", "sign_path", "change", "random")
    images_per_class: int = Field(250, ge=1)
    path_steps: int = Field(4, ge=1)
    batch_size: int = Field(32, ge=1)
    classes_per_file: int = Field(12, ge=1)


def sensitivities(case: Case, method: ImportanceMethod) -> dict[str, np.ndarray]:
    """Compute the sensitivities s[x, n] of images of one class.

    Returns:
        layer name -> float64 [images, channels]; all NaN if the method is undefined in a layer.

    Raises:
        ValueError: any other value is NaN or infinite.
    """
    models = case.models
    pieces: dict[str, list[Tensor]] = {layer.name: [] for layer in models.layers}
    with execution(models.newer, models.layers) as running, torch.no_grad():
        first = 0
        for batch in case.batches:
            change = Change(case, running, batch, first)
            first += len(batch)
            returned = call_user_code(
                f"importance method {method.name!r}", method.sensitivity, change
            )
            for layer in models.layers:
                pieces[layer.name].append(_layer_part(method, returned, layer, len(batch)))
    by_layer = {layer: torch.cat(values).cpu().double().numpy() for layer, values in pieces.items()}
    for name, values in by_layer.items():
        count = int((~np.isfinite(values)).sum())
        if count and not np.isnan(values).all():
            raise ValueError(
                f"{count} of {values.size} sensitivities of importance method {method.name!r} in "
                f"layer {name!r} are NaN or infinite; {UNDEFINED}"
            )
    return by_layer


def _layer_part(method: ImportanceMethod, returned: object, layer: Layer, images: int) -> Tensor:
    """Return a layer's part of what a method returned. Raises ValueError if it cannot be that."""
    values = returned.get(layer.name) if isinstance(returned, dict) else None
    shape = (images, layer.channels)
    if isinstance(values, Tensor) and values.shape == shape and not values.is_complex():
        return values.detach()
    type_name = type(returned if values is None else values).__name__
    actual = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type_name}"
    raise ValueError(
        f"importance method {method.name!r} must return a dict with a real tensor [batch, "
        f"channels] of each layer, for {layer.name!r} of shape {shape}; got {actual}"
    )


def summarise(sensitivity: np.ndarray, share: bool) -> tuple[np.ndarray, np.ndarray]:
    """Compute scores and standard errors, each [channels], from sensitivities [images, channels];
    NaN where undefined.

    The standard error of a share is that of Agresti and Coull (1998), which is positive also at 0
    and 1; that of a mean is s / sqrt(images), NaN for one image.
    """
    count, undefined = len(sensitivity), np.full(sensitivity.shape[1], np.nan)
    if np.isnan(sensitivity).all():
        return undefined, undefined
    if share:
        positive = (sensitivity > 0).sum(axis=0)
        adjusted = (positive + 2) / (count + 4)
        return positive / count, np.sqrt(adjusted * (1 - adjusted) / (count + 4))
    spread = sensitivity.std(axis=0, ddof=1) if count > 1 else undefined
    return sensitivity.mean(axis=0), spread / np.sqrt(count)


def split_half(
    sensitivity: np.ndarray, share: bool, rng: np.random.Generator, draws: int = 10
) -> pd.DataFrame:
    """Measure the agreement of scores from two disjoint sets of images, for several sizes of sets.

    Args:
        sensitivity: [images, channels] of one layer.
        share: as in ImportanceMethod.
        rng: draws the halves.
        draws: number of pairs of sets per size.

    Returns:
        images (in each set: 1, 2, 4, …, and half of all), rho (Spearman's, mean over the draws in
        which it is defined; NaN if there are none), left_out (number of draws without a rho,
        because all scores of a set are equal).
    """
    half = len(sensitivity) // 2
    sizes = sorted({*(2**power for power in range(half.bit_length())), half} - {0})
    values = (sensitivity > 0).astype(float) if share else sensitivity
    if np.isnan(sensitivity).all():  # undefined; `NaN > 0` would be a share of 0
        values = sensitivity
    # the scores of both halves of every draw
    scores = np.empty((2, len(sizes), draws, values.shape[1]))
    for row, size in enumerate(sizes):
        orders = np.stack([rng.permutation(len(values)) for _ in range(draws)])
        scores[0, row] = values[orders[:, :size]].mean(axis=1)
        scores[1, row] = values[orders[:, size : 2 * size]].mean(axis=1)
    rho = _spearman(*scores)
    means = [float(r[np.isfinite(r)].mean()) if np.isfinite(r).any() else np.nan for r in rho]
    return pd.DataFrame(
        {
            "images": np.array(sizes, dtype=int),
            "rho": np.array(means, dtype=float),
            "left_out": (~np.isfinite(rho)).sum(axis=1),
        }
    )


def _spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute Spearman's correlation along the last axis of two arrays; NaN where undefined."""
    ranks = [scipy.stats.rankdata(values, axis=-1) for values in (first, second)]  # NaN by any NaN
    a, b = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=-1) / np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
