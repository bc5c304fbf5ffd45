"""The arms of the benchmark: sets by rank, cumulative sets and controls, all of known size.

METHOD section 3, what a fair version needs. Everything is drawn once, seeded, and saved; what a
method's arms are depends on no other method.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

from harness.bench_results import CONTROLS
from harness.evolutions.ablation import ABLATIONS, Arm
from harness.evolutions.importance import IMPORTANCE, importance_method
from harness.evolutions.reversion import bins_of, match_change
from harness.networks.layers import Layer
from harness.records import JOINT

#: (arm, draw) -> layer name -> channels
Sets = dict[tuple[str, int], dict[str, np.ndarray]]


class BenchParameters(BaseModel):
    """What the benchmark runs.

    Attributes:
        methods: importance methods, names in IMPORTANCE or `package.module:function`.
        ablations: names in ABLATIONS.
        bins: B, equal parts of a layer's neurons by importance.
        steps: S; cumulative sets hold 1/S, 2/S, … of every layer.
        random_draws: random sets over all layers (the permutation test's null: at least 19 for
            p = .05).
        layer_draws: of these, the ones that are run in each layer alone.
        splits: images on which arms are run: `heldout`, `importance` (those that importance saw).
        space_seeds: draws of each space method, for its stability.
        batch_size: most images a pass; no result depends on it.
        memory: gibibytes that a worker's kept maps may take; batches are made smaller to fit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: tuple[str, ...] = tuple(IMPORTANCE)
    ablations: tuple[str, ...] = ("revert",)
    bins: int = Field(4, ge=3)
    steps: int = Field(8, ge=2)
    random_draws: int = Field(39, ge=1)
    layer_draws: int = Field(5, ge=0)
    splits: tuple[str, ...] = ("heldout",)
    space_seeds: int = Field(3, ge=1)
    batch_size: int = Field(32, ge=8)
    memory: float = Field(2.0, gt=0)

    @field_validator("methods")
    @classmethod
    def _methods_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            importance_method(name)
        return names

    @field_validator("ablations")
    @classmethod
    def _ablations_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            ABLATIONS.get(name)
        return names

    @field_validator("splits")
    @classmethod
    def _splits_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in ("heldout", "importance"):
                raise ValueError(f"split {name!r}: known are heldout, importance")
        return names


def ranked(scores: pd.DataFrame, rng: np.random.Generator) -> pd.Series:
    """Rank of each neuron within its layer, 0 the most important; ties are broken by chance.

    Args:
        scores: layer, channel, score; one class and method.

    Returns:
        int, in the order of the rows.
    """
    order = np.lexsort((rng.random(len(scores)), -scores["score"].to_numpy()))
    by_importance = scores.iloc[order]
    return by_importance.groupby("layer").cumcount().reindex(scores.index)


def by_rank(scores: pd.DataFrame, layers: Collection[str]) -> dict[str, np.ndarray]:
    """Layer -> its channels, most important first; layers of which nothing is known are left out.

    Args:
        scores: layer, channel, rank.
        layers: those wanted.
    """
    return {
        layer: group.sort_values("rank")["channel"].to_numpy()
        for layer, group in scores.groupby("layer", observed=True)
        if layer in layers
    }


def rank_sets(order: Mapping[str, np.ndarray], bins: int, steps: int) -> Sets:
    """`q1` (most important) to `qB`, every neuron in exactly one; `most` and `least`, cumulative:
    draw i is the first, or as many of the last, i/S of each layer, rounded."""
    sets: Sets = {}
    for layer, channels in order.items():
        for number, part in enumerate(bins_of(channels, bins), start=1):
            sets.setdefault((f"q{number}", 0), {})[layer] = part
        for step in range(1, steps):
            count = int(step * len(channels) / steps + 0.5)
            sets.setdefault(("most", step), {})[layer] = channels[:count]
            sets.setdefault(("least", step), {})[layer] = channels[len(channels) - count :]
    return sets


def matched_sets(
    order: Mapping[str, np.ndarray],
    bins: int,
    sizes: Mapping[str, pd.DataFrame],
) -> Sets:
    """For each neuron of q1 another one of its layer, not in q1, that is as large in some respect.

    Args:
        order: of `by_rank`.
        sizes: name of the arm -> layer, channel, score (what is matched, ≥ 0).
    """
    sets: Sets = {}
    for arm, table in sizes.items():
        size = table.set_index(["layer", "channel"])["score"]
        for layer, channels in order.items():
            first, *rest = bins_of(channels, bins)
            partners = match_change(first, np.concatenate(rest), size.loc[layer])
            sets.setdefault((arm, 0), {})[layer] = np.sort(partners)
    return sets


def random_sets(
    channels: Mapping[str, np.ndarray], bins: int, draws: int, rng: np.random.Generator
) -> Sets:
    """`all`, and `random` sets of q1's size drawn from each whole layer."""
    sets: Sets = {("all", 0): {layer: np.sort(every) for layer, every in channels.items()}}
    for draw in range(draws):
        sets["random", draw] = {
            layer: np.sort(rng.choice(np.sort(every), len(bins_of(every, bins)[0]), replace=False))
            for layer, every in channels.items()
        }
    return sets


#: Arms that are also run in each layer alone (random ones: the first `layer_draws`).
_ALONE = re.compile(r"q\d+|matched|matched_activation|all|random")


def arms(sets: Sets, method: str, layer_draws: int, wanted: Sequence[Layer]) -> list[Arm]:
    """Every set over all layers at once, and those of _ALONE in each layer, each run once."""
    found: list[Arm] = []
    names = [layer.name for layer in wanted]
    for place in [JOINT, *names]:
        same: dict[tuple[tuple[str, bytes], ...], list[tuple[str, str, int]]] = {}
        channels_of: dict[tuple[tuple[str, bytes], ...], dict[str, torch.Tensor]] = {}
        for (arm, draw), by_layer in sets.items():
            alone = _ALONE.fullmatch(arm) and (arm != "random" or draw < layer_draws)
            places = names if place == JOINT else [place]
            where = [name for name in places if len(by_layer.get(name, ()))]
            if not where or (place != JOINT and not alone):
                continue
            chosen = {name: torch.from_numpy(np.sort(by_layer[name])) for name in where}
            key = tuple((name, channels.numpy().tobytes()) for name, channels in chosen.items())
            same.setdefault(key, []).append((method, arm, draw))
            channels_of[key] = chosen
        found += [Arm(place, channels_of[key], labels) for key, labels in same.items()]
        if method == CONTROLS and (same or place == JOINT):
            found.append(Arm(place, {}, [(method, "none", 0)]))
    return found


def to_table(sets: Sets) -> pd.DataFrame:
    """Sets as rows: arm, draw, layer, channel."""

    def rows() -> Iterator[pd.DataFrame]:
        for (arm, draw), by_layer in sets.items():
            for layer, channels in by_layer.items():
                yield pd.DataFrame({"arm": arm, "draw": draw, "layer": layer, "channel": channels})

    empty = pd.DataFrame({"arm": [], "draw": [], "layer": [], "channel": []})
    return pd.concat(list(rows()) or [empty], ignore_index=True)


def from_table(table: pd.DataFrame) -> Sets:
    """The sets that `to_table` wrote."""
    sets: Sets = {}
    for (arm, draw, layer), group in table.groupby(["arm", "draw", "layer"], observed=True):
        by_layer = sets.setdefault((str(arm), int(draw)), {})
        by_layer[str(layer)] = group["channel"].to_numpy()
    return sets
