"""How good is a space? Neighbours that share the true concept, and identity over epochs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from harness.concepts.space import SemanticSpace
from harness.records import NEURON, Checkpoint

#: The overlap from which a neuron counts as a detector of its concept: Network Dissection's cut.
NAMED_OVERLAP = 0.04


def groups(
    checkpoints: list[Checkpoint], base: Checkpoint
) -> Iterator[tuple[str, list[Checkpoint]]]:
    """Whose neurons are asked about, by how far they are from the base checkpoint."""
    trained = [c for c in checkpoints if c.epoch > 0 and c != base]
    yield "base", [base]
    yield "other epochs", [c for c in trained if c.series == base.series]
    yield "other series", [c for c in trained if c.series != base.series]
    yield "untrained", [c for c in checkpoints if c.epoch == 0]


def concept_sharing(
    space: SemanticSpace, concepts: pd.DataFrame, base: Checkpoint, k: int = 5
) -> pd.DataFrame:
    """For every neuron, the share of its k nearest base neurons with its own true concept.

    Args:
        space: any.
        concepts: series, epoch, layer, channel, concept.
        base: the checkpoint among whose neurons neighbours are sought.
        k: how many.

    Returns:
        group, series, epoch, layer, channel, share, chance (the share of the base's neurons,
        itself left out, with that concept); neurons without place or concept are left out.
    """
    named = space.neurons[NEURON].merge(concepts, on=NEURON, how="left")["concept"]
    has_concept = named.notna().to_numpy() & space.placed
    concept = named.to_numpy()
    base_rows = np.array(
        [row for row in space.rows(series=base.series, epoch=base.epoch) if has_concept[row]]
    )
    checkpoints = sorted(
        {Checkpoint(*key) for key in space.neurons[["series", "epoch"]].itertuples(index=False)}
    )
    frames = []
    for group, members in groups(checkpoints, base):
        for member in members:
            rows = space.rows(series=member.series, epoch=member.epoch)
            rows = rows[has_concept[rows]]
            if not len(rows) or len(base_rows) < 2:
                continue
            near, _ = space.nearest(rows, base_rows, k)
            same = (concept[near] == concept[rows][:, None]) & (near >= 0)
            among = (concept[base_rows][None, :] == concept[rows][:, None]) & (
                base_rows[None, :] != rows[:, None]
            )
            others = (base_rows[None, :] != rows[:, None]).sum(axis=1)
            frames.append(
                space.neurons.iloc[rows][NEURON].assign(
                    group=group,
                    share=same.sum(axis=1) / (near >= 0).sum(axis=1),
                    chance=among.sum(axis=1) / others,
                )
            )
    if not frames:
        return pd.DataFrame(columns=["group", *NEURON, "share", "chance"])
    return pd.concat(frames, ignore_index=True)


def identity(space: SemanticSpace, series: str, epoch_from: int, epoch_to: int) -> pd.DataFrame:
    """Reciprocal rank of each channel's later self among the later checkpoint's neurons.

    1 where the same channel is the nearest of all later neurons of its series. Channels without
    a place at either epoch are left out. Ties count as the middle of the tied ranks.

    Returns:
        layer, channel, reciprocal_rank.
    """
    early = space.rows(series=series, epoch=epoch_from)
    late = space.rows(series=series, epoch=epoch_to)
    keys = ["layer", "channel"]
    position = {
        key: index
        for index, key in enumerate(space.neurons.iloc[late][keys].itertuples(index=False))
    }
    own = [position.get(key) for key in space.neurons.iloc[early][keys].itertuples(index=False)]
    both = [index for index, place in enumerate(own) if place is not None]
    if not both:
        return pd.DataFrame(columns=[*keys, "reciprocal_rank"])
    similarity = space.similarity(early[both], late)
    later_self = np.array([place for place in own if place is not None])
    self_similarity = similarity[np.arange(len(both)), later_self]
    above = (similarity > self_similarity[:, None]).sum(axis=1)
    level = (similarity == self_similarity[:, None]).sum(axis=1)
    channels = space.neurons.iloc[early[both]][keys].reset_index(drop=True)
    return channels.assign(reciprocal_rank=1.0 / (above + (level + 1) / 2))


def mean_interval(
    values: np.ndarray, rng: np.random.Generator, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean and its percentile bootstrap interval; NaN where there are no values."""
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    drawn = rng.integers(0, len(values), (resamples, len(values)))
    means = values[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def alignment_table(
    spaces: list[SemanticSpace],
    concepts: pd.DataFrame,
    base: Checkpoint,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Every space method by every group: share of like-minded neighbours with interval, chance.

    Returns:
        method, group, neurons, share, low, high, chance, coverage (mean over the group's neurons).
    """
    rows = []
    for space in spaces:
        shares = concept_sharing(space, concepts, base)
        covered = space.neurons[[*NEURON, "coverage"]]
        for group in dict.fromkeys(shares["group"]):
            of_group = shares[shares["group"] == group].merge(covered, on=NEURON)
            mean, low, high = mean_interval(of_group["share"].to_numpy(float), rng)
            rows.append(
                {
                    "method": space.method,
                    "group": group,
                    "neurons": len(of_group),
                    "share": mean,
                    "low": low,
                    "high": high,
                    "chance": of_group["chance"].mean(),
                    "coverage": of_group["coverage"].mean(),
                }
            )
    return pd.DataFrame(rows)
