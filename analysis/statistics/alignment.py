"""Validity of a semantic space: do neighbouring neurons share their true concept, and is a neuron
close to itself at the next epoch?"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import pandas as pd

from analysis.statistics.comparisons import Clustered, clustered_by_layer, differences
from harness.concepts.space import SemanticSpace
from harness.records import NEURON, Checkpoint

#: The columns of `normalised_share`.
NORMALISED = ["normalised", "normalised low", "normalised high"]


def checkpoint_groups(
    checkpoints: list[Checkpoint], base: Checkpoint
) -> Iterator[tuple[str, list[Checkpoint]]]:
    """Yield the name and the checkpoints of each group: the base checkpoint, trained checkpoints of
    its series, trained checkpoints of other series, and other untrained checkpoints."""
    trained = [c for c in checkpoints if c.epoch > 0 and c != base]
    yield "base", [base]
    yield "other epochs", [c for c in trained if c.series == base.series]
    yield "other series", [c for c in trained if c.series != base.series]
    yield "untrained", [c for c in checkpoints if c.epoch == 0 and c != base]


def concept_sharing(
    space: SemanticSpace, concepts: pd.DataFrame, base: Checkpoint, k: int = 5
) -> pd.DataFrame:
    """Compute each neuron's share of nearest base neurons that have its true concept.

    Args:
        concepts: series, epoch, layer, channel, concept.
        base: the checkpoint whose neurons are the possible neighbours.

    Returns:
        group, series, epoch, layer, channel, share, chance (the share of the base's neurons with
        that concept, without the neuron itself), ceiling (the largest possible share, reached if
        these are the nearest). Neurons without a vector or a concept are left out.
    """
    concepts_of_rows = space.neurons[NEURON].merge(concepts, on=NEURON, how="left")["concept"]
    has_concept = concepts_of_rows.notna().to_numpy() & space.has_vector
    concept = concepts_of_rows.to_numpy()
    base_rows = np.array(
        [row for row in space.rows(series=base.series, epoch=base.epoch) if has_concept[row]]
    )
    checkpoints = sorted(
        {Checkpoint(*key) for key in space.neurons[["series", "epoch"]].itertuples(index=False)}
    )
    frames = []
    for group, members in checkpoint_groups(checkpoints, base):
        for checkpoint in members:
            rows = space.rows(series=checkpoint.series, epoch=checkpoint.epoch)
            rows = rows[has_concept[rows]]
            if not len(rows) or len(base_rows) < 2:
                continue
            nearest, _ = space.nearest(rows, base_rows, k)
            has_same = (concept[nearest] == concept[rows][:, None]) & (nearest >= 0)
            is_candidate = (concept[base_rows][None, :] == concept[rows][:, None]) & (
                base_rows[None, :] != rows[:, None]
            )
            matches = is_candidate.sum(axis=1)
            totals = (base_rows[None, :] != rows[:, None]).sum(axis=1)
            frames.append(
                space.neurons.iloc[rows][NEURON].assign(
                    group=group,
                    share=has_same.sum(axis=1) / (nearest >= 0).sum(axis=1),
                    chance=matches / totals,
                    ceiling=(matches / np.minimum(totals, k)).clip(max=1.0),
                )
            )
    if not frames:
        return pd.DataFrame(columns=["group", *NEURON, "share", "chance", "ceiling"])
    return pd.concat(frames, ignore_index=True)


def trained_steps(space: SemanticSpace) -> Iterator[tuple[str, int, int]]:
    """Yield series, epoch and next epoch for all consecutive trained epochs of a space."""
    trained = space.neurons.loc[space.neurons["epoch"] > 0, ["series", "epoch"]].drop_duplicates()
    for series, rows in trained.groupby("series"):
        for start, end in pairwise(sorted(rows["epoch"])):
            yield str(series), start, end


def self_ranks(space: SemanticSpace, series: str, epoch_from: int, epoch_to: int) -> pd.DataFrame:
    """Compute the reciprocal rank of each channel at the later epoch among all neurons of its
    series at that epoch, by their similarity to the same channel at the earlier epoch.

    It is 1 if the channel is most similar to itself. Channels that lack a vector at one of the
    epochs are left out. Ties have the mean of the tied ranks.

    Returns:
        layer, channel, reciprocal_rank.
    """
    keys = ["layer", "channel"]
    rows = [space.rows(series=series, epoch=epoch) for epoch in (epoch_from, epoch_to)]
    before, after = (space.neurons.iloc[r][keys].assign(row=r, place=range(len(r))) for r in rows)
    neurons = before.merge(after, on=keys, suffixes=("", "_later"))
    if neurons.empty:
        return pd.DataFrame(columns=[*keys, "reciprocal_rank"])
    similarity = space.similarity(neurons["row"].to_numpy(), rows[1])
    own = similarity[neurons.index, neurons["place_later"]][:, None]
    above, ties = (similarity > own).sum(axis=1), (similarity == own).sum(axis=1)
    return neurons[keys].assign(reciprocal_rank=1.0 / (above + (ties + 1) / 2))


def shared_concepts(
    spaces: Iterable[SemanticSpace], concepts: pd.DataFrame, base: Checkpoint
) -> pd.DataFrame:
    """Compute `concept_sharing` in every space, for the neurons that have a vector in all spaces.

    Returns:
        method, coverage (the share of the neuron's stimuli that have a vector) and the columns of
        `concept_sharing`; all methods have the same neurons, so that comparisons are paired.
    """
    frames = []
    for space in spaces:
        coverage = space.neurons[[*NEURON, "coverage"]]
        shares = concept_sharing(space, concepts, base).merge(coverage, on=NEURON)
        frames.append(shares.assign(method=space.method))
    all_shares = pd.concat(frames, ignore_index=True)
    method_counts = all_shares.groupby(["group", *NEURON])["method"].transform("nunique")
    return all_shares[method_counts == all_shares["method"].nunique()]


def neurons_by_methods(shared: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return, for each group, the shares of `shared_concepts` as a table of neurons x methods."""
    return {
        str(group): rows.pivot(index=NEURON, columns="method", values="share")[
            list(dict.fromkeys(rows["method"]))
        ]
        for group, rows in shared.groupby("group", sort=False)
    }


def alignment_table(shared: pd.DataFrame) -> pd.DataFrame:
    """Summarise the share of neighbours with the same concept by space method and group.

    Args:
        shared: the result of `shared_concepts`; at least one row.

    Returns:
        method, group, neurons (their number), share, low, high (95 % CI, t over layers), chance,
        ceiling, coverage (means over the group's neurons), and the columns of `normalised_share`.
    """
    averages = ["chance", "ceiling", "coverage"]
    columns = ["method", "group", "neurons", "share", "low", "high", *averages, *NORMALISED]
    frames = []
    for group, values in neurons_by_methods(shared).items():
        frame = clustered_by_layer(values).table(values.columns).rename(columns={"value": "share"})
        group_shares = shared[shared["group"] == group]
        frame = frame.join(group_shares.groupby("method")[averages].mean())
        frame = frame.join(normalised_share(group_shares)).rename_axis("method").reset_index()
        frames.append(frame.assign(group=group, neurons=len(values)))
    order, table = list(dict.fromkeys(shared["method"])), pd.concat(frames)
    return table.sort_values(
        "method", key=lambda names: names.map(order.index), kind="stable", ignore_index=True
    )[columns]


def normalised_share(shared: pd.DataFrame) -> pd.DataFrame:
    """Compute (share − chance) / (ceiling − chance): 0 at chance, 1 at the largest possible share.

    Args:
        shared: the rows of one group of `shared_concepts`.

    Returns:
        one row per method with the columns NORMALISED: the sum of share − chance over neurons
        divided by the sum of ceiling − chance, and its 95 % CI (t over layers; NaN if it cannot be
        estimated).
    """
    sums = (
        shared.assign(
            gain=shared["share"] - shared["chance"], possible=shared["ceiling"] - shared["chance"]
        )
        .groupby(["series", "layer", "method"])[["gain", "possible", "chance"]]
        .sum()
        .unstack("method")
    )
    gain, possible, chance = (sums[name] for name in ("gain", "possible", "chance"))
    total = float(possible.to_numpy().sum())
    lowest = -float(chance.to_numpy().sum()) / total if total else 0.0
    ratio = Clustered(gain.to_numpy(float), possible.to_numpy(float), (lowest, 1.0))
    table = ratio.table(list(gain.columns))[["value", "low", "high"]]
    return table.set_axis(NORMALISED, axis=1)


def alignment_differences(shared: pd.DataFrame) -> pd.DataFrame:
    """Compare all pairs of space methods on the same neurons, separately for each group.

    Returns:
        group and the columns of `comparisons.differences`, where `classes` is called `layers`
        because the clusters are layers.
    """
    frames = [
        differences(clustered_by_layer(values), list(values.columns)).assign(group=group)
        for group, values in neurons_by_methods(shared).items()
    ]
    table = pd.concat(frames, ignore_index=True).rename(columns={"classes": "layers"})
    return table[["group", *table.columns.drop("group")]]
