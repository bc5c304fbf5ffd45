"""Arms: named sets of neurons to ablate for a class and pair (quarters, cumulative sets, controls).

Every set is drawn once, with a seed that depends on the purpose of the draw, and saved; a method's
arms do not depend on other methods. A new family of arms is one entry in FAMILIES.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import scipy  # loads its parts, which take half a second, only when they are used
import torch
from pydantic import Field

from harness.evolutions.ablation import ABLATIONS, Arm
from harness.evolutions.importance import IMPORTANCE, Methods
from harness.networks.layer import Layer
from harness.records import JOINT
from harness.registry import Registry
from harness.section import DISTINCT, Section, check_each

#: (arm, draw) -> layer name -> channels
Sets = dict[tuple[str, int], dict[str, np.ndarray]]


class ReversionParameters(Section):
    """Parameters of the reversion study.

    Attributes:
        bins: B, number of equal parts into which a layer's neurons are divided by importance; at
            most twelve, because Page's exact test takes too long for more.
        random_draws: number of random sets, run in all layers at once and in each alone.
        importance_images: number of importance images per class on which sets are reverted, too.
        heldout_images: number of images per class that are not used for importance.
        batch_size: largest number of images per pass; some networks round differently with it.
    """

    bins: int = Field(4, ge=2, le=12)
    random_draws: int = Field(5, ge=1)
    importance_images: int = Field(250, ge=1)
    heldout_images: int = Field(250, ge=1)
    batch_size: int = Field(64, ge=1)


class BenchParameters(Section):
    """Parameters of the benchmark, in addition to the bins and images of the reversion study.

    Attributes:
        methods: importance methods, names in IMPORTANCE or `package.module:function`.
        ablations: names in ABLATIONS.
        steps: S; cumulative sets hold 1/S, 2/S, … of the neurons of each layer.
        random_draws: number of random sets in all layers at once, including those of the reversion
            study; the null distribution of the permutation test (p = .05 needs at least 19).
        splits: images on which arms are run: `heldout`, `importance` (those used for importance).
        space_seeds: number of seeds of each space method, for its stability.
    """

    methods: Methods = tuple(IMPORTANCE)
    ablations: Annotated[
        tuple[str, ...], Field(min_length=1), DISTINCT, check_each(ABLATIONS.get)
    ] = ("revert",)
    steps: int = Field(8, ge=2)
    random_draws: int = Field(39, ge=1)
    splits: Annotated[
        tuple[Literal["heldout", "importance"], ...], Field(min_length=1), DISTINCT
    ] = ("heldout",)
    space_seeds: int = Field(3, ge=1)


@dataclass(frozen=True)
class Ranking:
    """The input of a family of arms: one class and pair of epochs, ranked by one importance method.

    Layers in which no neuron changed are absent everywhere.

    Attributes:
        revert, bench: sizes and numbers of sets, of the reversion study and of the benchmark.
        order: layer -> its channels, most important first; for controls, all its channels.
        scores_of: function of a method's name that returns layer, channel, score of this case.
        order_of_other_class: `order` for another class; None if there is none.
        generator: function of a draw's purpose and number that returns its own generator.
    """

    revert: ReversionParameters
    bench: BenchParameters
    order: Mapping[str, np.ndarray]
    scores_of: Callable[[str], pd.DataFrame]
    order_of_other_class: Mapping[str, np.ndarray] | None
    generator: Callable[..., np.random.Generator]

    @cached_property
    def bins(self) -> dict[str, list[np.ndarray]]:
        """Layer -> its channels, divided into bins."""
        return {
            layer: to_bins(channels, self.revert.bins) for layer, channels in self.order.items()
        }


@dataclass(frozen=True)
class Family:
    """A kind of arms.

    Attributes:
        sets: function that returns the sets.
        control: the sets depend on no importance method; their method is CONTROLS.
        each_layer: the sets are also run in each layer alone.
        benchmark: the sets belong to the benchmark only, not to the reversion study.
        matched_on: importance methods whose scores the sets depend on.
        other_class: the sets depend on the ranking for another class.
    """

    sets: Callable[[Ranking], Sets]
    control: bool = False
    each_layer: bool = True
    benchmark: bool = False
    matched_on: tuple[str, ...] = ()
    other_class: bool = False


def _quarters(ranking: Ranking) -> Sets:
    """Return `q1` (most important) to `qB`; every neuron is in exactly one."""
    sets: Sets = {}
    for layer, parts in ranking.bins.items():
        for number, part in enumerate(parts, start=1):
            sets.setdefault((f"q{number}", 0), {})[layer] = part
    return sets


def _cumulative(ranking: Ranking) -> Sets:
    """Return `most` and `least`: set i holds the first, or the last, i/S of each layer."""
    sets: Sets = {}
    steps = ranking.bench.steps
    for layer, channels in ranking.order.items():
        for step in range(1, steps):
            count = int(step * len(channels) / steps + 0.5)
            sets.setdefault(("most", step), {})[layer] = channels[:count]
            sets.setdefault(("least", step), {})[layer] = channels[len(channels) - count :]
    return sets


def _match_neurons(arm: str, method: str, ranking: Ranking) -> Sets:
    """Match each neuron of `q1` with one of its layer, not in `q1`, of a similar score."""
    sizes = ranking.scores_of(method).set_index(["layer", "channel"])["score"]
    partners = {
        layer: match(parts[0], np.concatenate(parts[1:]), sizes[layer])
        for layer, parts in ranking.bins.items()
    }
    return {(arm, 0): partners}


def _other_class(ranking: Ranking) -> Sets:
    """Return the most important bin of another class: does the ranking depend on the class?"""
    if ranking.order_of_other_class is None:
        return {}
    first = {
        layer: to_bins(channels, ranking.revert.bins)[0]
        for layer, channels in ranking.order_of_other_class.items()
    }
    return {("other_class", 0): first}


def _random(ranking: Ranking, first: int, last: int) -> Sets:
    """Draw sets of the size of `q1` from all neurons of each layer; each draw has its own seed."""
    sets: Sets = {}
    for draw in range(first, last):
        rng = ranking.generator("random set", draw)
        sets["random", draw] = {
            layer: rng.choice(np.sort(channels), len(ranking.bins[layer][0]), replace=False)
            for layer, channels in ranking.order.items()
        }
    return sets


FAMILIES: Registry[Family] = Registry(
    "family of arms",
    {
        "quarters": Family(_quarters),
        "matched": Family(partial(_match_neurons, "matched", "change"), matched_on=("change",)),
        "cumulative": Family(_cumulative, each_layer=False, benchmark=True),
        "matched_activation": Family(
            partial(_match_neurons, "matched_activation", "activation"),
            benchmark=True,
            matched_on=("activation",),
        ),
        "other_class": Family(_other_class, each_layer=False, benchmark=True, other_class=True),
        "whole layers": Family(lambda ranking: {("all", 0): dict(ranking.order)}, control=True),
        "random": Family(lambda r: _random(r, 0, r.revert.random_draws), control=True),
        "more random": Family(
            lambda r: _random(r, r.revert.random_draws, r.bench.random_draws),
            control=True,
            each_layer=False,
            benchmark=True,
        ),
    },
)


def families(control: bool, benchmark: bool) -> list[Family]:
    """Return the families of importance methods, or of controls, in one of the two studies."""
    all_families = (FAMILIES.get(name) for name in FAMILIES)
    return [f for f in all_families if f.control == control and f.benchmark == benchmark]


def to_bins(channels: np.ndarray, bins: int) -> list[np.ndarray]:
    """Divide ranked channels into bins. Of three or more bins, the first and last have the same
    size, so that they can be compared; the middle bins take the remainder."""
    size, remainder = divmod(len(channels), bins)
    sizes = np.full(bins, size)
    middle = np.arange(1, bins - 1) if bins > 2 else np.arange(bins)
    middle_first = middle[np.argsort(np.abs(middle - (bins - 1) / 2), kind="stable")]
    for extra in range(remainder):
        sizes[middle_first[extra % len(middle_first)]] += 1
    return np.split(channels, np.cumsum(sizes)[:-1])


def match(channels: np.ndarray, candidates: np.ndarray, sizes: pd.Series) -> np.ndarray:
    """Assign to each chosen channel a different one of the others (disjoint) of a similar size.

    The sum of the differences in log size (channel -> size, >= 0) is minimised. There are as many
    partners as chosen channels, or all others if these are fewer.
    """
    floor = np.finfo(float).tiny  # so that neurons of size 0 can be matched, best with each other
    log_sizes, candidate_log_sizes = (
        np.log(np.maximum(sizes.loc[group].to_numpy(dtype=float), floor))
        for group in (channels, candidates)
    )
    costs = np.abs(log_sizes[:, None] - candidate_log_sizes[None, :])
    _, partner = scipy.optimize.linear_sum_assignment(costs)
    return candidates[partner]


def ranks(scores: pd.DataFrame, rng: np.random.Generator) -> pd.Series:
    """Rank neurons within their layer, 0 the most important, in the order of the rows; ties are
    broken at random. `scores` has layer, channel, score of one class and method."""
    order = np.lexsort((rng.random(len(scores)), -scores["score"].to_numpy()))
    by_importance = scores.iloc[order]
    return by_importance.groupby("layer").cumcount().reindex(scores.index)


def by_rank(scores: pd.DataFrame, layers: Collection[str]) -> dict[str, np.ndarray]:
    """Return layer -> its channels, most important first, from layer, channel, score, rank; neurons
    without a score and other layers are left out."""
    return {
        str(layer): group.sort_values("rank")["channel"].to_numpy()
        for layer, group in scores.dropna(subset="score").groupby("layer", observed=True)
        if layer in layers
    }


def changed_layers(sizes: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return layer -> channels, for the layers in which at least one neuron changed. `sizes` has
    layer, channel, score by the importance method `change`."""
    return {
        str(layer): np.sort(group["channel"].to_numpy())
        for layer, group in sizes.groupby("layer", sort=False)
        if (group["score"] > 0).any()
    }


def make_arms(
    sets: Sets, method: str, each_layer: Collection[str], layers: Sequence[Layer], untouched: bool
) -> list[Arm]:
    """Return each set as an arm in all layers at once, some also in each alone, equal ones as one.

    Args:
        method: its name, or CONTROLS.
        each_layer: names of the arms that are also run in each layer alone.
        layers: the layers in which arms are run.
        untouched: add the arm `none`, which ablates nothing.
    """
    arms: list[Arm] = []
    names = [layer.name for layer in layers]
    for layer in [JOINT, *names]:
        arm_of_set: dict[tuple[object, ...], Arm] = {}
        for (arm, draw), by_layer in sets.items():
            places = names if layer == JOINT else [layer]
            selection = {n: np.sort(by_layer[n]) for n in places if len(by_layer.get(n, ()))}
            if not selection or (layer != JOINT and arm not in each_layer):
                continue
            key = tuple((name, channels.tobytes()) for name, channels in selection.items())
            channels = {name: torch.from_numpy(group) for name, group in selection.items()}
            arm_of_set.setdefault(key, Arm(layer, channels, [])).labels.append((method, arm, draw))
        arms += arm_of_set.values()
        if untouched and (arm_of_set or layer == JOINT):
            arms.append(Arm(layer, {}, [(method, "none", 0)]))
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
    if not rows:  # of the same types, because tables of several pairs are read as one
        return pd.DataFrame({name: [""] for name in columns}).assign(draw=0, channel=0)[:0]
    return pd.concat(rows, ignore_index=True)[columns]


def from_table(table: pd.DataFrame) -> Sets:
    sets: Sets = {}
    for (arm, draw, layer), group in table.groupby(
        ["arm", "draw", "layer"], observed=True, sort=False
    ):
        by_layer = sets.setdefault((str(arm), int(draw)), {})
        by_layer[str(layer)] = group["channel"].to_numpy()
    return sets
