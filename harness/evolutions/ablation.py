"""Ablation of sets of neurons: replacement of their maps, and the effect on each prediction.

Every arm starts from the unmodified maps of the newer model t′, so the order of the arms has no
effect; one row per image and arm is kept. An ablation determines the maps that replace the original
ones; a new ablation is one function in ABLATIONS.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial, reduce

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from harness.networks.execution import Change, Execution, execution, replace_channels
from harness.networks.layer import Layer, ModelPair
from harness.networks.objectives import Target, as_target
from harness.networks.recording import record_layers
from harness.networks.running import UNDEFINED
from harness.records import ARM
from harness.registry import Mark, Registry, call_user_code


@dataclass(frozen=True, eq=False)
class Arm:
    """A set of neurons to ablate, in one layer or in all layers at once.

    Attributes:
        layer: name of the layer, or JOINT.
        channels: layer name -> int64 [set]; empty if nothing is ablated.
        labels: (method, arm, draw) of this set; several if equal sets have been merged.
    """

    layer: str
    channels: Mapping[str, Tensor]
    labels: list[tuple[str, str, int]]


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps with which an ablation may replace those of a layer, for one batch of images.

    Each is a function of a layer's name that returns outputs in the network's own shape.

    Attributes:
        newer: maps of the newer model.
        older: maps of the older model, which runs at the first call.
        donor: maps of the newer model for images of other classes, on which it runs at the first
            call; for ablations marked by `reads_donors`.
        mean: mean map of the newer model over other images of the class, [1, ...].
    """

    newer: Callable[[str], Tensor]
    older: Callable[[str], Tensor]
    donor: Callable[[str], Tensor]
    mean: Callable[[str], Tensor]


#: Function of the maps and a layer's name that returns the replacement of its output, [batch, ...]
Ablation = Callable[[Maps, str], Tensor]
ABLATIONS: Registry[Ablation] = Registry("ablation")


#: Decorator of an ablation that uses `Maps.donor`: it is refused if there is only one class.
reads_donors = Mark("reads_donors")


@ABLATIONS.add("revert")
def revert(maps: Maps, layer: str) -> Tensor:
    """Use the earlier checkpoint's maps for the same image: the evolution is reverted."""
    return maps.older(layer)


@ABLATIONS.add("zero")
def zero(maps: Maps, layer: str) -> Tensor:
    """Use zeros: the neuron is silenced."""
    return torch.zeros_like(maps.newer(layer))


@ABLATIONS.add("mean")
def mean(maps: Maps, layer: str) -> Tensor:
    """Use the newer model's mean map over the importance images of the class."""
    output = maps.newer(layer)
    return maps.mean(layer).expand_as(output).contiguous()


@ABLATIONS.add("resample")
@reads_donors
def resample(maps: Maps, layer: str) -> Tensor:
    """Use the newer model's maps for an image of another class."""
    return maps.donor(layer)


def _no_donors(ids: Tensor) -> Tensor:
    raise ValueError("an ablation that uses `Maps.donor` needs images of another class")


@dataclass(frozen=True)
class Images:
    """The images of one class on which arms are run, and other images that ablations use.

    Attributes:
        batches: (image ids int64 [batch], images [batch, 3, h, w]), all of the class.
        reference: function that returns batches of importance images of the class, for `mean`.
        donors: function of image ids that returns as many images of other classes (`Maps.donor`).
    """

    batches: Iterable[tuple[Tensor, Tensor]]
    reference: Callable[[], Sequence[Tensor]] = tuple
    donors: Callable[[Tensor], Tensor] = _no_donors


def ablate(
    models: ModelPair,
    arms: Sequence[Arm],
    images: Images,
    target: Target | int,
    ablation: str = "revert",
    batch_size: int = 1,
    traced: bool = True,
) -> pd.DataFrame:
    """Run every arm on the images of one class and record the predictions.

    Args:
        models: the two checkpoints and their probed layers.
        target: what is computed from the newer model's outputs; a number: the logit of this index.
        ablation: a name in ABLATIONS.
        batch_size: number of images per pass; if there are fewer, several arms share a pass.
        traced: compute only what depends on a change (see `execution`); the results are the same.

    Returns:
        layer, method, arm, draw, image_id, correct_before, correct_after, top5_before, top5_after,
        probability_before, probability_after, objective_before, objective_after. The prediction is
        the class with the largest score of the target; probability is the class's in their softmax.
    """
    newer, layers = models.newer, models.layers
    by_name = {layer.name: layer for layer in layers}
    ablated_arms = [arm for arm in arms if arm.channels]
    origins = ["without ablation"] + [
        f"after ablation {ablation!r} of {arm.labels[0][1]} in {arm.layer}" for arm in ablated_arms
    ]
    rows_of_batches: list[list[dict[str, np.ndarray]]] = []
    with ExitStack() as stack, torch.no_grad():
        running = stack.enter_context(execution(newer, layers, traced))
        executions: dict[str, Execution] = {}  # opened at first use; `zero` needs none

        def outputs(name: str, model: nn.Module, make: Callable[[Tensor], Tensor], value: Tensor):
            """Return a function from a layer to its output for the images `make(value)`; the model
            runs at the first call."""

            @cache
            def start() -> Execution:
                if name not in executions:
                    executions[name] = stack.enter_context(execution(model, layers, traced))
                executions[name].start(make(value))
                return executions[name]

            return lambda layer: start().output(layer)

        means = cache(lambda: _means(newer, layers, images.reference()))
        for ids, batch in images.batches:
            base_logits = running.start(batch)
            maps = Maps(  # copies, as a user's ablation may write to them
                lambda layer: running.output(layer).clone(),
                outputs("older", models.older, lambda images: images, batch),
                outputs("donors", newer, images.donors, ids),
                lambda layer: means()[layer].clone(),
            )
            replacement = cache(partial(_replacement, ablation, maps, running))
            changes: list[dict[str, Change]] = [
                {
                    name: replace_channels(by_name[name], channels, replacement(name))
                    for name, channels in arm.channels.items()
                }
                for arm in ablated_arms
            ]
            logits = running.rerun_many(changes, max(1, batch_size // len(batch)))
            before, *after = _outcomes([base_logits, *logits], as_target(target), origins)
            outcomes = dict(zip(ablated_arms, after, strict=True))
            rows_of_batches.append(
                [
                    _rows(ids, arm.layer, label, before, outcomes.get(arm, before))
                    for arm in arms
                    for label in arm.labels
                ]
            )
    no_outcome: Outcome = {name: np.empty(0, kind) for name, kind in OUTCOMES.items()}
    no_rows = _rows(torch.empty(0, dtype=torch.int64), "", ("", "", 0), no_outcome, no_outcome)
    # arm after arm, so that the order of the rows does not depend on the batches
    parts = [row for rows in zip(*rows_of_batches, strict=True) for row in rows] or [no_rows]
    return pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _replacement(ablation: str, maps: Maps, running: Execution, layer: str) -> Tensor:
    """Return what takes the place of a layer's output; its shape and type must be the same."""
    output, replace = running.output(layer), ABLATIONS.get(ablation)
    value = call_user_code(f"ablation {ablation!r}", replace, maps, layer)
    if isinstance(value, Tensor) and (value.shape, value.dtype) == (output.shape, output.dtype):
        return value
    kind = type(value).__name__
    if isinstance(value, Tensor):
        kind = f"{tuple(value.shape)} of {value.dtype}"
    raise ValueError(
        f"ablation {ablation!r} must return a tensor like the output of layer {layer!r}, "
        f"{tuple(output.shape)} of {output.dtype}; got {kind}"
    )


def _means(
    model: nn.Module, layers: Sequence[Layer], batches: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return layer name -> mean output over the images, [1, ...] in the network's own shape."""

    def sum_maps(maps: Tensor, _: Layer) -> Tensor:  # on the CPU: Apple's GPUs have no float64
        return maps.cpu().double().sum(dim=0, keepdim=True)

    sums = (record_layers(model, layers, sum_maps, b, "for its mean maps") for b in batches)
    total = reduce(lambda a, b: {name: a[name] + b[name] for name in a}, sums)
    outputs: dict[str, Tensor] = {}
    with execution(model, layers) as running:
        running.start(batches[0][:1])
        for layer in layers:
            output = running.output(layer.name)
            mean = total[layer.name] / sum(map(len, batches))
            outputs[layer.name] = layer.like_output(mean.to(output), output)
    return outputs


#: Version of the outcomes; where it differs, arms are run again. In version 1, a tie was correct.
OUTCOMES_VERSION = 2
#: What is recorded per image, before and after an ablation, and its type.
OUTCOMES = {"correct": bool, "top5": bool, "probability": np.float32, "objective": np.float32}
#: Name in OUTCOMES -> values, [batch].
Outcome = dict[str, np.ndarray]


def _outcomes(outputs: Sequence[Tensor], target: Target, origins: Sequence[str]) -> list[Outcome]:
    """Compute, for several outputs [batch, width], the values of OUTCOMES, each [batch]. `origins`
    says how each was computed, for messages.

    Of equal scores the first is ranked higher, as by `torch.argmax`. (If a tie were correct, a
    network whose outputs are all 0 would be correct on every image.) A GPU is synchronised only
    once.

    Raises:
        ValueError: an output or an objective is NaN or infinite.
    """
    stacked = torch.stack(list(outputs)).cpu()
    # in the precision of the outputs: a user's objective may hold tensors of its own
    value = target.value(stacked.flatten(0, 1)).view(stacked.shape[:2])
    is_defined = stacked.isfinite().all(dim=2) & value.isfinite()
    if not is_defined.all():
        first = int((~is_defined).any(dim=1).nonzero()[0])
        raise ValueError(
            f"{origins[first]}, the network's outputs or their objective are NaN or infinite "
            f"for {int((~is_defined[first]).sum())} of {is_defined.shape[1]} images; {UNDEFINED}"
        )
    scores = target.scores(stacked.flatten(0, 1)).view(*stacked.shape[:2], -1).double()
    own_score = scores[:, :, target.label, None]
    rank = (scores > own_score).sum(dim=2)
    rank += (scores[:, :, : target.label] == own_score).sum(dim=2)
    probability = scores.softmax(dim=2)[:, :, target.label].float()
    values = (rank < 1, rank < 5, probability, value.float())
    return [
        dict(zip(OUTCOMES, (column.numpy() for column in row), strict=True))
        for row in zip(*values, strict=True)
    ]


def _rows(
    ids: Tensor, layer: str, label: tuple[str, str, int], before: Outcome, after: Outcome
) -> dict[str, np.ndarray]:
    return {
        **{
            name: np.full(len(ids), value, dtype=None if name == "draw" else object)
            for name, value in zip(ARM, (layer, *label), strict=True)
        },
        "image_id": ids.numpy(),
        **{
            f"{name}_{when}": outcome[name]
            for name in OUTCOMES
            for when, outcome in (("before", before), ("after", after))
        },
    }
