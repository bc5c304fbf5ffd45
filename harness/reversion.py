"""Undo evolutions and record what happens: METHOD section 3.

In the newer model t', the maps of a set of neurons are replaced by those of the older model t on
the same image; the rest of the network runs on. Sets are chosen once and saved; every arm starts
from the untouched maps, so that the order of arms cannot matter; a row an image and arm is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from harness.activations import borrowed
from harness.execution import Change, execution, replace_channels
from harness.layers import Layer
from harness.records import JOINT

SHARED_ARMS = ("none", "all", "random")  # the same for every method


class ReversionParameters(BaseModel):
    """How evolutions are undone.

    Attributes:
        bins: B, equal parts into which a layer's neurons are cut by importance.
        random_draws: random sets of a layer.
        importance_images: images a class of the importance split that are reverted, too.
        heldout_images: images a class that importance has not seen.
        batch_size: images a pass.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bins: int = Field(4, ge=2)
    random_draws: int = Field(5, ge=1)
    importance_images: int = Field(250, ge=1)
    heldout_images: int = Field(250, ge=1)
    batch_size: int = Field(64, ge=1)


def choose_sets(
    scores: pd.DataFrame,
    methods: Sequence[str],
    parameters: ReversionParameters,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """The sets of neurons to revert, for one class and pair.

    Arms: `q1` (most important) to `qB`, every neuron of a layer in exactly one (remainders go to
    the first bins; ties are broken by chance, with `rng`); `random`, sets of the size of q1 drawn
    from the whole layer; `matched`, for each neuron of q1 another one, not in q1, such that the
    sizes of change agree best (an optimal assignment of log sizes); `all`, the whole layer.
    Joint sets over all layers are the unions of the layers' sets.

    Args:
        scores: layer, channel, method, score; with the method `change`, the size of change.
        methods: those whose sets are wanted.
        parameters: bins and draws.
        rng: ties and random sets.

    Returns:
        layer, method, arm, draw, channel. Random sets and `all` are the same for every method.
    """
    size = scores[scores["method"] == "change"].set_index(["layer", "channel"])["score"]
    rows = []
    for layer, of_layer in scores.groupby("layer", sort=False):
        channels = np.sort(of_layer["channel"].unique())
        set_size = -(-len(channels) // parameters.bins)
        shared = [("all", 0, channels)]
        for draw in range(parameters.random_draws):
            shared.append(("random", draw, rng.choice(channels, set_size, replace=False)))
        for method in methods:
            ranked = of_layer[of_layer["method"] == method]
            order = np.lexsort((rng.random(len(ranked)), -ranked["score"].to_numpy()))
            parts = np.array_split(ranked["channel"].to_numpy()[order], parameters.bins)
            rest = np.concatenate(parts[1:])
            sets = [(f"q{number}", 0, part) for number, part in enumerate(parts, start=1)]
            matched = match_change(parts[0], rest, size.loc[layer])
            for arm, draw, chosen in [*sets, ("matched", 0, matched), *shared]:
                rows += [(layer, method, arm, draw, channel) for channel in np.sort(chosen)]
    return pd.DataFrame(rows, columns=["layer", "method", "arm", "draw", "channel"])


def match_change(chosen: np.ndarray, others: np.ndarray, size: pd.Series) -> np.ndarray:
    """For each chosen channel another one, without repeats, with the nearest size of change.

    Args:
        chosen, others: channels, disjoint.
        size: channel -> size of change, >= 0.

    Returns:
        As many channels of `others` as `chosen` has (all of `others` where they are fewer).
    """
    floor = np.finfo(float).tiny  # neurons that did not change match one another
    here, there = (
        np.log(np.maximum(size.loc[channels].to_numpy(dtype=float), floor))
        for channels in (chosen, others)
    )
    _, partner = linear_sum_assignment(np.abs(here[:, None] - there[None, :]))
    return others[partner]


def revert(
    older: nn.Module,
    newer: nn.Module,
    layers: Sequence[Layer],
    sets: pd.DataFrame,
    batches: Iterable[tuple[Tensor, Tensor]],
    output: int,
    traced: bool = True,
    on_image: Callable[[int], None] = lambda count: None,
) -> pd.DataFrame:
    """Revert every set, in its layer and jointly over layers, on images of one class.

    Args:
        older, newer: the models t and t'.
        layers: the probed layers.
        sets: of `choose_sets`.
        batches: (image ids int64 [batch], images [batch, 3, h, w]); all of the class.
        output: index of the class's logit.
        traced: re-run only what a change reaches (see `execution`); same results either way.
        on_image: called with the number of images done.

    Returns:
        layer (JOINT for all at once), method, arm, draw, image_id, correct_before, correct_after,
        top5_before, top5_after, probability_before, probability_after; with an arm `none` that
        changes nothing.
    """
    plans = _plans(sets, layers)
    by_name = {layer.name: layer for layer in layers}
    frames = []
    with (
        borrowed(older),
        execution(newer, layers, traced) as running,
        execution(older, layers, traced) as before,
        torch.inference_mode(),
    ):
        for ids, batch in batches:
            before.start(batch)
            untouched = _outcome(running.start(batch), output)
            old = {layer.name: before.output(layer.name) for layer in layers}
            for layer_name, chosen, labels in plans:
                changes: Mapping[str, Change] = {
                    name: replace_channels(by_name[name], channels, old[name])
                    for name, channels in chosen.items()
                }
                after = _outcome(running.rerun(changes), output) if changes else untouched
                for method, arm, draw in labels:
                    frames.append(_rows(ids, layer_name, method, arm, draw, untouched, after))
            on_image(len(ids))
    columns = {name: np.concatenate([f[name] for f in frames]) for name in frames[0]}
    return pd.DataFrame(columns)


def _plans(
    sets: pd.DataFrame, layers: Sequence[Layer]
) -> list[tuple[str, dict[str, Tensor], list[tuple[str, str, int]]]]:
    """(layer, channels to revert by layer, the (method, arm, draw) that this serves).

    Sets that several methods share are run once.
    """
    methods: list[str] = sets["method"].unique().tolist()
    chosen: dict[tuple[str, int, str, str], Tensor] = {}
    keys = ["method", "arm", "draw", "layer"]
    for (method, arm, draw, layer), rows in sets.groupby(keys, sort=False):
        chosen[str(method), int(draw), str(arm), str(layer)] = torch.tensor(
            rows["channel"].to_numpy()
        )
    arms = list(dict.fromkeys((method, draw, arm) for method, draw, arm, _ in chosen))
    names = [layer.name for layer in layers]
    plans: list[tuple[str, dict[str, Tensor], list[tuple[str, str, int]]]] = []
    for place in [*names, JOINT]:
        plans.append((place, {}, [(method, "none", 0) for method in methods]))
        for method, draw, arm in arms:
            if arm in SHARED_ARMS and method != methods[0]:
                continue
            serves: list[str] = methods if arm in SHARED_ARMS else [method]
            where = names if place == JOINT else [place]
            changes = {name: chosen[method, draw, arm, name] for name in where}
            plans.append((place, changes, [(each, arm, draw) for each in serves]))
    return plans


def _outcome(logits: Tensor, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether top-1 and top-5 hold the label, and its probability; each [batch].

    The label's rank is one plus the number of larger logits, so a tie counts as correct, whatever
    the order in which a sort would put it.
    """
    own = logits[:, label]
    larger = (logits > own[:, None]).sum(dim=1)
    probability = logits.double().softmax(dim=1)[:, label].float()
    return (larger < 1).numpy(), (larger < 5).numpy(), probability.numpy()


def _rows(
    ids: Tensor,
    layer: str,
    method: str,
    arm: str,
    draw: int,
    before: tuple[np.ndarray, ...],
    after: tuple[np.ndarray, ...],
) -> dict[str, np.ndarray]:
    count = len(ids)
    return {
        "layer": np.full(count, layer, dtype=object),
        "method": np.full(count, method, dtype=object),
        "arm": np.full(count, arm, dtype=object),
        "draw": np.full(count, draw),
        "image_id": ids.numpy(),
        "correct_before": before[0],
        "correct_after": after[0],
        "top5_before": before[1],
        "top5_after": after[1],
        "probability_before": before[2],
        "probability_after": after[2],
    }


def split_images(
    labels: np.ndarray, class_id: int, importance: int, heldout: int, seed: int
) -> dict[str, np.ndarray]:
    """Two disjoint random parts of a class's images: `importance` and `heldout`.

    Fewer images than asked for are shared out in the same proportion.

    Raises:
        ValueError: the class has fewer than two images.
    """
    mine = np.flatnonzero(labels == class_id)
    if len(mine) < 2:
        raise ValueError(
            f"class {class_id} has {len(mine)} images; importance and reversion need one each"
        )
    mine = np.random.default_rng([seed, class_id]).permutation(mine)
    if len(mine) < importance + heldout:
        share = importance / (importance + heldout)
        importance = int(np.clip(round(share * len(mine)), 1, len(mine) - 1))
        heldout = len(mine) - importance
    return {
        "importance": np.sort(mine[:importance]),
        "heldout": np.sort(mine[importance : importance + heldout]),
    }
