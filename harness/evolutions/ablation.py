"""Replace the maps of sets of neurons and record the effect on each image's prediction.

METHOD section 3. Every arm starts from the unchanged maps of the newer model t', so the order of
arms has no effect; one row per image and arm is kept. An ablation determines the maps that replace
the original ones; a new ablation is one function in ABLATIONS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from harness.evolutions.pair import ModelPair
from harness.networks.execution import Change, Execution, execution, replace_channels
from harness.networks.layer import Layer
from harness.networks.objectives import Target, as_target
from harness.networks.recording import ActivationRecorder, borrowed
from harness.networks.running import UNDEFINED, run_network
from harness.records import ARM
from harness.registry import Registry


@dataclass(frozen=True, eq=False)
class Arm:
    """A set of neurons to ablate, in one layer or in several at once.

    Attributes:
        layer: where: a layer's name, or JOINT.
        channels: layer name -> int64 [set]; empty where nothing is changed.
        labels: the (method, arm, draw) that the set stands for; several where sets coincide.
    """

    layer: str
    channels: Mapping[str, Tensor]
    labels: list[tuple[str, str, int]]


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps that an ablation may use to replace those of a layer, for one batch of images.

    Each is called with a layer's name and returns outputs in the network's own shape, [batch, ...].

    Attributes:
        newer: of the newer model.
        older: of the older model, which is run when first asked for.
        donor: of the newer model for other images; it is run when first asked for.
        mean: the newer model's mean over other images of the class, [1, ...].
    """

    newer: Callable[[str], Tensor]
    older: Callable[[str], Tensor]
    donor: Callable[[str], Tensor]
    mean: Callable[[str], Tensor]


def _outputs(start: Callable[[], Execution]) -> Callable[[str], Tensor]:
    """Return a function of a layer's name that gives its output; the model runs at the first
    call."""
    started = cache(start)
    return lambda layer: started().output(layer)


#: name -> function(maps, layer name) -> what takes the place of the layer's output, [batch, ...]
Ablation = Callable[[Maps, str], Tensor]
ABLATIONS: Registry[Ablation] = Registry("ablation")


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
    """Use the newer model's mean map over the class's images of the importance split."""
    now = maps.newer(layer)
    return maps.mean(layer).expand_as(now).contiguous()


@ABLATIONS.add("resample")
def resample(maps: Maps, layer: str) -> Tensor:
    """Use the newer model's maps of an image of another class."""
    return maps.donor(layer)


@dataclass(frozen=True)
class Images:
    """The images of one class on which arms are run, and the other images that ablations use.

    Attributes:
        batches: (image ids int64 [batch], images [batch, 3, h, w]); all of the class.
        reference: called for images of the class that importance was measured on, for `mean`.
        donors: image ids -> as many images of other classes, for `resample`.
    """

    batches: Iterable[tuple[Tensor, Tensor]]
    reference: Callable[[], Sequence[Tensor]] = tuple
    donors: Callable[[Tensor], Tensor] | None = field(default=None)


def ablate(
    models: ModelPair,
    arms: Sequence[Arm],
    images: Images,
    target: Target | int,
    ablation: str = "revert",
    batch_size: int = 1,
    traced: bool = True,
) -> pd.DataFrame:
    """Run every arm on images of one class.

    Args:
        models: the two checkpoints and their probed layers.
        arms: the sets of neurons.
        images: of one class.
        target: what is measured of the newer model's outputs; a number is the place of the class's
            logit.
        ablation: a name in ABLATIONS.
        batch_size: rows a pass; where the images are fewer, several arms share a pass.
        traced: re-run only what a change reaches (see `execution`); same results either way.

    Returns:
        layer, method, arm, draw, image_id, correct_before, correct_after, top5_before, top5_after,
        probability_before, probability_after, objective_before, objective_after. A prediction is
        the largest score of the target; probability is the class's share of their softmax.
    """
    place = ABLATIONS.get(ablation)
    newer, layers = models.newer, models.layers
    by_name = {layer.name: layer for layer in layers}
    # a list for each arm and label, so that rows come in this order, whatever the batches
    frames: list[list[dict[str, np.ndarray]]] = [[] for arm in arms for _ in arm.labels]
    with ExitStack() as borrowing, torch.inference_mode():
        running = borrowing.enter_context(execution(newer, layers, traced))
        others: dict[str, Execution] = {}  # opened when first asked for: `zero` needs none

        def started(name: str, model: nn.Module, batch: Tensor) -> Execution:
            if name not in others:
                others[name] = borrowing.enter_context(execution(model, layers, traced))
            others[name].start(batch)
            return others[name]

        means = cache(lambda: _means(newer, layers, images.reference()))
        for ids, batch in images.batches:
            untouched = running.start(batch)
            maps = Maps(
                running.output,
                _outputs(partial(started, "older", models.older, batch)),
                _outputs(partial(_start_donors, started, newer, images, ids)),
                lambda layer: means()[layer],
            )
            replacement = cache(partial(place, maps))
            changes: list[dict[str, Change]] = [
                {
                    name: replace_channels(by_name[name], channels, replacement(name))
                    for name, channels in arm.channels.items()
                }
                for arm in arms
            ]
            together = max(1, batch_size // len(batch))
            logits = [untouched, *running.rerun_many([c for c in changes if c], together)]
            ways = [f"after ablation {ablation!r} of {a.labels[0][1]} in {a.layer}"
                    for a, change in zip(arms, changes, strict=True) if change]  # fmt: skip
            before, *rest = _outcomes(logits, as_target(target), ["without ablation", *ways])
            outcomes = iter(rest)
            rows = []
            for arm, change in zip(arms, changes, strict=True):
                after = next(outcomes) if change else before
                rows += [_rows(ids, arm.layer, label, before, after) for label in arm.labels]
            for frame, row in zip(frames, rows, strict=True):
                frame.append(row)
    nothing: Outcome = {name: np.empty(0, kind) for name, kind in OUTCOMES.items()}
    none = _rows(torch.empty(0, dtype=torch.int64), "", ("", "", 0), nothing, nothing)
    every = [row for frame in frames for row in frame] or [none]
    return pd.DataFrame({name: np.concatenate([row[name] for row in every]) for name in every[0]})


def _start_donors(
    started: Callable[[str, nn.Module, Tensor], Execution],
    newer: nn.Module,
    images: Images,
    ids: Tensor,
) -> Execution:
    if images.donors is None:
        raise ValueError("ablation 'resample' needs images of another class")
    return started("donors", newer, images.donors(ids))


def _means(
    model: nn.Module, layers: Sequence[Layer], batches: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return layer name -> mean output over images, [1, ...] in the network's own shape."""
    if not batches:
        raise ValueError("ablation 'mean' needs images of the class's importance split")
    total: dict[str, Tensor] = {}
    keep = ActivationRecorder(model, layers, lambda maps, _: maps.double().sum(dim=0, keepdim=True))
    outputs: dict[str, Tensor] = {}
    with borrowed(model), keep as record, torch.no_grad():
        for batch in batches:
            run_network(model, batch, "for its mean maps")
            for name, part in record.kept.items():
                total[name] = total[name] + part if name in total else part
    count = sum(len(batch) for batch in batches)
    with execution(model, layers) as running:
        running.start(batches[0][:1])
        for layer in layers:
            now = running.output(layer.name)
            outputs[layer.name] = layer.like_output((total[layer.name] / count).to(now.dtype), now)
    return outputs


#: What is recorded of an image, before and after, and its type.
OUTCOMES = {"correct": bool, "top5": bool, "probability": np.float32, "objective": np.float32}
#: name in OUTCOMES -> values of a batch, [batch]
Outcome = dict[str, np.ndarray]


def _outcomes(outputs: Sequence[Tensor], target: Target, ways: Sequence[str]) -> list[Outcome]:
    """Compute, for several outputs [batch, width]: whether top-1 and top-5 contain the class, its
    probability, and the objective; each [batch].

    The rank of the class is one plus the number of larger scores, so a tie counts as correct,
    whatever the order of equal scores in a sort. A GPU is synchronised once.

    Args:
        ways: how each of the outputs was computed, for messages.

    Raises:
        ValueError: an output or an objective is NaN or infinite.
    """
    together = torch.stack(list(outputs)).cpu()
    # in the precision of the outputs: a user's objective may hold tensors of its own
    value = target.value(together.flatten(0, 1)).view(together.shape[:2])
    defined = together.isfinite().all(dim=2) & value.isfinite()
    if not defined.all():
        first = int((~defined).any(dim=1).nonzero()[0])
        raise ValueError(
            f"{ways[first]}, the network's outputs or their objective are NaN or infinite for "
            f"{int((~defined[first]).sum())} of {defined.shape[1]} images; {UNDEFINED}"
        )
    scores = target.scores(together.flatten(0, 1)).view(*together.shape[:2], -1).double()
    own = scores[:, :, target.label]
    larger = (scores > own[:, :, None]).sum(dim=2)
    probability = scores.softmax(dim=2)[:, :, target.label].float()
    values = (larger < 1, larger < 5, probability, value.float())
    return [
        dict(zip(OUTCOMES, (of_all.numpy() for of_all in row), strict=True))
        for row in zip(*values, strict=True)
    ]


def _rows(
    ids: Tensor, layer: str, label: tuple[str, str, int], before: Outcome, after: Outcome
) -> dict[str, np.ndarray]:
    count = len(ids)
    method, arm, draw = label
    named = dict(zip(ARM, (layer, method, arm, draw), strict=True))
    return {
        **{
            name: np.full(count, value, dtype=None if name == "draw" else object)
            for name, value in named.items()
        },
        "image_id": ids.numpy(),
        **{
            f"{name}_{when}": outcome[name]
            for name in OUTCOMES
            for when, outcome in (("before", before), ("after", after))
        },
    }
