"""Arms: named sets of neurons to ablate for one class and pair of checkpoints (quarters, cumulative
sets, controls).

METHOD section 3: every set is drawn once, with a seed that depends on what it is drawn for, and
saved; a method's arms do not depend on other methods. A new family of arms is one function.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from harness.evolutions.ablation import ABLATIONS, Arm
from harness.evolutions.importance import IMPORTANCE, importance_method
from harness.networks.layer import Layer
from harness.records import JOINT
from harness.registry import Registry
from harness.section import Section, each

#: (arm, draw) -> layer name -> channels
Sets = dict[tuple[str, int], dict[str, np.ndarray]]


class ReversionParameters(Section):
    """Parameters of the reversion study.

    Attributes:
        bins: B, equal parts into which a layer's neurons are cut by importance; of more than
            twelve, Page's exact test would take too long.
        random_draws: random sets of a layer.
        importance_images: images a class of the importance split that are reverted, too.
        heldout_images: images a class that importance has not seen.
        batch_size: most images a pass; no result depends on it.
    """

    bins: int = Field(4, ge=2, le=12)
    random_draws: int = Field(5, ge=1)
    importance_images: int = Field(250, ge=1)
    heldout_images: int = Field(250, ge=1)
    batch_size: int = Field(64, ge=1)


class BenchParameters(Section):
    """Parameters that the benchmark adds to those of the reversion study, whose bins and images
    it shares.

    Attributes:
        methods: importance methods, names in IMPORTANCE or `package.module:function`.
        ablations: names in ABLATIONS.
        steps: S; cumulative sets hold 1/S, 2/S, … of every layer.
        random_draws: random sets over all layers, those of the reversion study among them (the
            permutation test's null: at least 19 for p = .05).
        splits: images on which arms are run: `heldout`, `importance` (those that importance saw).
        space_seeds: draws of each space method, for its stability.
    """

    methods: Annotated[tuple[str, ...], each(importance_method)] = tuple(IMPORTANCE)
    ablations: Annotated[tuple[str, ...], each(ABLATIONS.get)] = ("revert",)
    steps: int = Field(8, ge=2)
    random_draws: int = Field(39, ge=1)
    splits: tuple[Literal["heldout", "importance"], ...] = ("heldout",)
    space_seeds: int = Field(3, ge=1)


@dataclass(frozen=True)
class ArmParameters:
    """Parameters that determine the sizes and numbers of sets.

    Attributes:
        bins: equal parts of a layer by importance.
        steps: cumulative sets hold 1/steps, 2/steps, … of every layer.
        layer_draws: random sets that are run in each layer alone as well as over all layers.
        draws: random sets over all layers, `layer_draws` among them.
    """

    bins: int = 4
    steps: int = 8
    layer_draws: int = 5
    draws: int = 39


@dataclass(frozen=True)
class Ranked:
    """What a family of arms may use: one class and pair, ranked by one importance method.

    Layers in which no neuron changed are absent everywhere.

    Attributes:
        parameters: sizes and numbers of sets.
        order: layer -> its channels, most important first; for controls, all its channels.
        scores_of: importance method -> layer, channel, score of the same class and pair.
        order_of_other_class: `order` of another class; None where there is no other.
        generator: draw's purpose and number -> a generator of its own for this class and pair.
    """

    parameters: ArmParameters
    order: Mapping[str, np.ndarray]
    scores_of: Callable[[str], pd.DataFrame]
    order_of_other_class: Mapping[str, np.ndarray] | None
    generator: Callable[..., np.random.Generator]

    @cached_property
    def bins(self) -> dict[str, list[np.ndarray]]:
        """Return layer -> its channels, divided into bins."""
        return {
            layer: bins_of(channels, self.parameters.bins) for layer, channels in self.order.items()
        }


@dataclass(frozen=True)
class Family:
    """A kind of arms.

    Attributes:
        sets: draws them.
        control: they depend on no importance method and stand under the method CONTROLS.
        each_layer: they are also run in each layer alone.
        benchmark: they belong to the benchmark alone, not to the reversion study.
        matched_on: the importance methods whose scores they look at.
        other_class: they look at another class's ranking.
    """

    sets: Callable[[Ranked], Sets]
    control: bool = False
    each_layer: bool = True
    benchmark: bool = False
    matched_on: tuple[str, ...] = ()
    other_class: bool = False


def _quarters(ranked: Ranked) -> Sets:
    """`q1` (most important) to `qB`; every neuron in exactly one."""
    sets: Sets = {}
    for layer, parts in ranked.bins.items():
        for number, part in enumerate(parts, start=1):
            sets.setdefault((f"q{number}", 0), {})[layer] = part
    return sets


def _cumulative(ranked: Ranked) -> Sets:
    """Draw `most` and `least`: set i holds the first, or the last, i/S of each layer."""
    sets: Sets = {}
    steps = ranked.parameters.steps
    for layer, channels in ranked.order.items():
        for step in range(1, steps):
            count = int(step * len(channels) / steps + 0.5)
            sets.setdefault(("most", step), {})[layer] = channels[:count]
            sets.setdefault(("least", step), {})[layer] = channels[len(channels) - count :]
    return sets


def _matched(arm: str, method: str, ranked: Ranked) -> Sets:
    """Match each neuron of q1 with another neuron of its layer, not in q1, with the nearest
    score."""
    sizes = ranked.scores_of(method).set_index(["layer", "channel"])["score"]
    partners = {
        layer: match(parts[0], np.concatenate(parts[1:]), sizes[layer])
        for layer, parts in ranked.bins.items()
    }
    return {(arm, 0): partners}


def _other_class(ranked: Ranked) -> Sets:
    """Take the most important bin of another class: is a ranking specific to its class?"""
    if ranked.order_of_other_class is None:
        return {}
    bins = ranked.parameters.bins
    first = {
        layer: bins_of(channels, bins)[0] for layer, channels in ranked.order_of_other_class.items()
    }
    return {("other_class", 0): first}


def _whole_layers(ranked: Ranked) -> Sets:
    """Take `all` neurons of each layer."""
    return {("all", 0): dict(ranked.order)}


def _random(ranked: Ranked) -> Sets:
    """Draw the first `random` sets, which are also run in each layer alone."""
    return _random_sets(ranked, range(ranked.parameters.layer_draws))


def _more_random(ranked: Ranked) -> Sets:
    """Draw the other `random` sets."""
    parameters = ranked.parameters
    return _random_sets(ranked, range(parameters.layer_draws, parameters.draws))


def _random_sets(ranked: Ranked, draws: Iterable[int]) -> Sets:
    """Draw sets of q1's size from each whole layer; each draw has its own seed."""
    sets: Sets = {}
    for draw in draws:
        rng = ranked.generator("random set", draw)
        sets["random", draw] = {
            layer: rng.choice(np.sort(channels), len(ranked.bins[layer][0]), replace=False)
            for layer, channels in ranked.order.items()
        }
    return sets


FAMILIES: Registry[Family] = Registry(
    "family of arms",
    {
        "quarters": Family(_quarters),
        "matched": Family(partial(_matched, "matched", "change"), matched_on=("change",)),
        "cumulative": Family(_cumulative, each_layer=False, benchmark=True),
        "matched_activation": Family(
            partial(_matched, "matched_activation", "activation"),
            benchmark=True,
            matched_on=("activation",),
        ),
        "other_class": Family(_other_class, each_layer=False, benchmark=True, other_class=True),
        "whole layers": Family(_whole_layers, control=True),
        "random": Family(_random, control=True),
        "more random": Family(_more_random, control=True, each_layer=False, benchmark=True),
    },
)


def families(control: bool, benchmark: bool) -> list[Family]:
    """Return the families of one method, or of the controls, in one study."""
    every = (FAMILIES.get(name) for name in FAMILIES)
    return [f for f in every if f.control == control and f.benchmark == benchmark]


def bins_of(channels: np.ndarray, bins: int) -> list[np.ndarray]:
    """Divide ranked channels into bins; the first and last have the same size, so that they can
    be compared, and the middle bins take the remainder."""
    size, rest = divmod(len(channels), bins)
    sizes = np.full(bins, size)
    inner = np.arange(1, bins - 1) if bins > 2 else np.arange(bins)
    middle_first = inner[np.argsort(np.abs(inner - (bins - 1) / 2), kind="stable")]
    for extra in range(rest):
        sizes[middle_first[extra % len(middle_first)]] += 1
    return np.split(channels, np.cumsum(sizes)[:-1])


def match(chosen: np.ndarray, others: np.ndarray, size: pd.Series) -> np.ndarray:
    """Assign to each chosen channel a different other channel of the nearest size.

    An optimal assignment of log sizes.

    Args:
        chosen, others: channels, disjoint.
        size: channel -> size, >= 0.

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


def ranks(scores: pd.DataFrame, rng: np.random.Generator) -> pd.Series:
    """Rank neurons within their layer, 0 for the most important; ties are broken at random.

    Args:
        scores: layer, channel, score; one class and method.

    Returns:
        int, in the order of the rows.
    """
    order = np.lexsort((rng.random(len(scores)), -scores["score"].to_numpy()))
    by_importance = scores.iloc[order]
    return by_importance.groupby("layer").cumcount().reindex(scores.index)


def by_rank(scores: pd.DataFrame, layers: Collection[str]) -> dict[str, np.ndarray]:
    """Return layer -> its channels, most important first; neurons without a score are left out.

    Args:
        scores: layer, channel, score, rank.
        layers: those wanted.
    """
    return {
        str(layer): group.sort_values("rank")["channel"].to_numpy()
        for layer, group in scores.dropna(subset="score").groupby("layer", observed=True)
        if layer in layers
    }


def changed_layers(sizes: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return layer -> channels, for the layers in which any neuron changed.

    Args:
        sizes: layer, channel, score by the importance method `change`.
    """
    return {
        str(layer): np.sort(group["channel"].to_numpy())
        for layer, group in sizes.groupby("layer", sort=False)
        if (group["score"] > 0).any()
    }


def arms_of(
    sets: Sets, method: str, alone: Collection[str], layers: Sequence[Layer], untouched: bool
) -> list[Arm]:
    """Return every set over all layers at once, and some also in each layer alone; equal sets
    run once.

    Args:
        sets: the sets of one method.
        method: its name, or CONTROLS.
        alone: names of arms that are run in each layer, too.
        layers: those in which arms are run.
        untouched: add the arm `none`, which changes nothing.
    """
    arms: list[Arm] = []
    names = [layer.name for layer in layers]
    for place in [JOINT, *names]:
        same: dict[tuple[object, ...], Arm] = {}
        for (arm, draw), by_layer in sets.items():
            places = names if place == JOINT else [place]
            chosen = {name: np.sort(by_layer[name]) for name in places if name in by_layer}
            chosen = {name: channels for name, channels in chosen.items() if len(channels)}
            if not chosen or (place != JOINT and arm not in alone):
                continue
            key = tuple((name, channels.tobytes()) for name, channels in chosen.items())
            channels = {name: torch.from_numpy(some) for name, some in chosen.items()}
            same.setdefault(key, Arm(place, channels, [])).labels.append((method, arm, draw))
        arms += same.values()
        if untouched and (same or place == JOINT):
            arms.append(Arm(place, {}, [(method, "none", 0)]))
    return arms


def to_table(sets: Sets, each_layer: bool) -> pd.DataFrame:
    """Return sets as rows: arm, draw, each_layer, layer, channel."""
    columns = ["arm", "draw", "each_layer", "layer", "channel"]
    rows = [
        pd.DataFrame({"channel": np.sort(channels)}).assign(
            arm=arm, draw=draw, each_layer=each_layer, layer=layer
        )
        for (arm, draw), by_layer in sets.items()
        for layer, channels in by_layer.items()
    ]
    return pd.concat(rows or [pd.DataFrame(columns=columns)], ignore_index=True)[columns]


def from_table(table: pd.DataFrame) -> Sets:
    """Return the sets that `to_table` wrote."""
    sets: Sets = {}
    for (arm, draw, layer), group in table.groupby(
        ["arm", "draw", "layer"], observed=True, sort=False
    ):
        by_layer = sets.setdefault((str(arm), int(draw)), {})
        by_layer[str(layer)] = group["channel"].to_numpy()
    return sets
