"""Which evolutions are undone, on which images: sets by importance, controls, disjoint splits.

METHOD section 3. Sets are chosen once and saved. What undoing is, is in `ablation.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from harness.evolutions.ablation import Arm, Images, ablate
from harness.networks.layers import Layer
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

    Arms: `q1` (most important) to `qB`, every neuron of a layer in exactly one (see
    `bins_of`; ties are broken by chance, with `rng`); `random`, sets of the size of q1 drawn
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
        set_size = len(bins_of(channels, parameters.bins)[0])
        shared = [("all", 0, channels)]
        for draw in range(parameters.random_draws):
            shared.append(("random", draw, rng.choice(channels, set_size, replace=False)))
        for method in methods:
            ranked = of_layer[of_layer["method"] == method]
            order = np.lexsort((rng.random(len(ranked)), -ranked["score"].to_numpy()))
            parts = bins_of(ranked["channel"].to_numpy()[order], parameters.bins)
            rest = np.concatenate(parts[1:])
            sets = [(f"q{number}", 0, part) for number, part in enumerate(parts, start=1)]
            matched = match_change(parts[0], rest, size.loc[layer])
            for arm, draw, chosen in [*sets, ("matched", 0, matched), *shared]:
                rows += [(layer, method, arm, draw, channel) for channel in np.sort(chosen)]
    return pd.DataFrame(rows, columns=["layer", "method", "arm", "draw", "channel"])


def bins_of(channels: np.ndarray, bins: int) -> list[np.ndarray]:
    """Cut ranked channels into bins, the first and the last of one size; what is left over goes to
    those in the middle, so that the ends can be compared."""
    size, rest = divmod(len(channels), bins)
    sizes = np.full(bins, size)
    inner = np.arange(1, bins - 1) if bins > 2 else np.arange(bins)
    middle_first = inner[np.argsort(np.abs(inner - (bins - 1) / 2), kind="stable")]
    for extra in range(rest):
        sizes[middle_first[extra % len(middle_first)]] += 1
    return np.split(channels, np.cumsum(sizes)[:-1])


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
) -> pd.DataFrame:
    """Revert every set, in its layer and jointly over layers, on images of one class.

    Args:
        sets: of `choose_sets`.
        batches: (image ids int64 [batch], images [batch, 3, h, w]); all of the class.
        older, newer, layers, output, traced: as `ablate`.

    Returns:
        as `ablate`, with an arm `none` that changes nothing.
    """
    arms = arms_of(sets, layers)
    return ablate(older, newer, layers, arms, Images(batches), output, traced=traced)


def arms_of(sets: pd.DataFrame, layers: Sequence[Layer]) -> list[Arm]:
    """Every set in its layer, and the union of its like over all layers.

    Sets that several methods share are run once.
    """
    methods: list[str] = sets["method"].unique().tolist()
    chosen: dict[tuple[str, int, str, str], Tensor] = {}
    keys = ["method", "arm", "draw", "layer"]
    for (method, arm, draw, layer), rows in sets.groupby(keys, sort=False):
        chosen[str(method), int(draw), str(arm), str(layer)] = torch.tensor(
            rows["channel"].to_numpy()
        )
    named = list(dict.fromkeys((method, draw, arm) for method, draw, arm, _ in chosen))
    names = [layer.name for layer in layers]
    arms = []
    for place in [*names, JOINT]:
        arms.append(Arm(place, {}, [(method, "none", 0) for method in methods]))
        for method, draw, arm in named:
            if arm in SHARED_ARMS and method != methods[0]:
                continue
            serves: list[str] = methods if arm in SHARED_ARMS else [method]
            where = names if place == JOINT else [place]
            channels = {name: chosen[method, draw, arm, name] for name in where}
            arms.append(Arm(place, channels, [(each, arm, draw) for each in serves]))
    return arms


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
