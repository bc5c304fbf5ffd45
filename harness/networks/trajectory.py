"""Check from the weights whether the checkpoints of a series belong to one training, in order.

The weights of one training follow a trajectory: of three consecutive checkpoints, the middle one is
nearer to both others than they are to each other, or at least not much farther. This fails for a
checkpoint of another training, a damaged one, or one with a wrong epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby, pairwise

import numpy as np

from harness.text import join_names, pluralise

#: A checkpoint is off the trajectory if it is more than this many times as far from each neighbour
#: as they are from each other. The ratio is about 0.5 along trainings, and 1 between checkpoints
#: that differ by noise alone.
OFF_THE_WAY = 1.5

#: The same for single layers, whose ratios vary more because they have fewer weights.
LAYER_OFF_THE_WAY = 2.5

#: A step is a jump if it is more than this many times as long as the longer adjacent step.
JUMP = 3.0

#: An order is wrong if another reduces the length of the steps that it changes below this share.
SHORTER = 0.8

#: All limits on which findings depend.
LIMITS = (OFF_THE_WAY, LAYER_OFF_THE_WAY, JUMP, SHORTER)


@dataclass(frozen=True)
class Trajectory:
    """Distances and counts of the weights of a series.

    Attributes:
        epochs: [checkpoints], increasing.
        layers: names [layers].
        distances: [layers, checkpoints, checkpoints] Euclidean distances of a layer's weights.
        digests: [layers, checkpoints]; equal if the weights are bitwise equal.
        buffers: [checkpoints] digests of running statistics.
        non_finite, dead, units: [layers, checkpoints] numbers of weights that are NaN or infinite,
            of units whose incoming weights are all (nearly) zero, and of all units.
        batches: [checkpoints] batches counted by normalisation layers; -1 if none counts.
        norms: [layers, checkpoints] Euclidean norms of the weights.
    """

    epochs: tuple[int, ...]
    layers: tuple[str, ...]
    distances: np.ndarray
    digests: np.ndarray
    buffers: np.ndarray
    non_finite: np.ndarray
    dead: np.ndarray
    units: np.ndarray
    batches: np.ndarray
    norms: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Euclidean distances over all layers, [checkpoints, checkpoints]."""
        return np.sqrt(np.square(self.distances).sum(axis=0))


@dataclass(frozen=True)
class Finding:
    """One reason to doubt a series.

    Attributes:
        kind: "equal", "not finite", "off the way", "layer off the way", "order", "jump", "frozen",
            "dead units".
        epochs: the checkpoints concerned.
        text: a sentence.
        layers: the layers concerned; empty for all.
        value: the number on which the finding rests; NaN if there is none.
    """

    kind: str
    epochs: tuple[int, ...]
    text: str
    layers: tuple[str, ...] = ()
    value: float = field(default=float("nan"))


def findings(way: Trajectory) -> list[Finding]:
    """Return all reasons to doubt a series."""
    finite = np.asarray(way.non_finite).sum(axis=0) == 0
    equal = _groups([(*way.digests[:, i], way.buffers[i]) for i in range(len(way.epochs))])
    distinct = [group[0] for group in equal if finite[group[0]]]
    # if several checkpoints are equal, it is unknown to which epoch the weights belong
    single = [group[0] for group in equal if len(group) == 1 and finite[group[0]]]
    on_way, off = _off_the_way(way, single)
    order, wrong = _order(way, on_way)
    return [
        *_not_finite(way),
        *_equal(way, [group for group in equal if len(group) > 1]),
        *off,
        *wrong,
        *_counters(way, single),
        *(() if wrong else _jumps(way, order)),
        *(() if wrong else _layers_off_the_way(way, on_way)),
        *_frozen(way, distinct),
        *_dead(way, distinct),
    ]


def detours(distances: np.ndarray) -> np.ndarray:
    """Return how far each checkpoint lies off the trajectory of its neighbours, from the distances
    [n, n] between checkpoints in order.

    Returns:
        [n] min(d(before, it), d(it, after)) / d(before, after); NaN at both ends and where all
        three are equal, infinite where only the neighbours are.
    """
    values = np.full(len(distances), np.nan)
    for i in range(1, len(distances) - 1):
        across = distances[i - 1, i + 1]
        beside = min(distances[i - 1, i], distances[i, i + 1])
        if across > 0:
            values[i] = beside / across
        elif across == 0 and beside > 0:
            values[i] = np.inf
    return values


def _groups(keys: Sequence[object]) -> list[list[int]]:
    """Return the positions of each key, in order of first occurrence."""
    groups: dict[object, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return list(groups.values())


def _not_finite(way: Trajectory) -> Iterator[Finding]:
    for i, epoch in enumerate(way.epochs):
        broken = [name for name, n in zip(way.layers, way.non_finite[:, i], strict=True) if n]
        if broken:
            count, names = int(way.non_finite[:, i].sum()), join_names(broken, 3)
            text = f"Epoch {epoch} holds {count} weights that are NaN or infinite ({names})."
            yield Finding("not finite", (epoch,), text, tuple(broken), count)


def _equal(way: Trajectory, groups: Sequence[Sequence[int]]) -> Iterator[Finding]:
    for group in groups:
        epochs = tuple(way.epochs[i] for i in group)
        text = (
            f"{len(epochs)} of {len(way.epochs)} checkpoints hold the same weights: epochs "
            f"{join_names(epochs, 8)}."
        )
        yield Finding("equal", epochs, text, value=len(epochs))


def _off_the_way(way: Trajectory, places: Sequence[int]) -> tuple[list[int], list[Finding]]:
    """Return the positions of the checkpoints on the trajectory, and a finding for each other that
    also fits nowhere else on it."""
    rest, found = list(places), []
    while len(rest) > 2:
        ratios = detours(way.total[np.ix_(rest, rest)])
        candidates = [
            k for k in np.argsort(-np.nan_to_num(ratios), kind="stable") if ratios[k] > OFF_THE_WAY
        ]
        strange = next((k for k in candidates if not _fits_elsewhere(way.total, rest, k)), None)
        if strange is None:
            break
        epoch, before, after = (way.epochs[rest[k]] for k in (strange, strange - 1, strange + 1))
        ratio = float(ratios[strange])
        by_layer = {name: float(r[strange]) for name, r in _layer_detours(way, rest).items()}
        layers = [name for name, value in by_layer.items() if value > OFF_THE_WAY]
        some = 0 < len(layers) < len(by_layer)
        where = f" in {_layers(layers)}" if some else ""
        text = (
            f"The weights of epoch {epoch} do not lie between those of epochs {before} and {after}"
            f"{where}: their distance to the nearer ones is {ratio:.1f} times the distance between "
            f"these, as for a checkpoint of another training."
        )
        kind = "layer off the way" if some else "off the way"
        found.append(Finding(kind, (epoch,), text, tuple(layers) if some else (), ratio))
        del rest[strange]
    return rest, found


def _fits_elsewhere(total: np.ndarray, places: Sequence[int], k: int) -> bool:
    """Return whether a checkpoint fits between two consecutive others, or beyond an end."""
    it, rest = places[k], [p for p in places if p != places[k]]
    if any(max(total[p, it], total[it, q]) <= total[p, q] for p, q in pairwise(rest)):
        return True
    nearest = min(rest, key=lambda p: total[p, it])
    longest = max((total[p, q] for p, q in pairwise(rest)), default=0)
    return nearest in (rest[0], rest[-1]) and total[nearest, it] <= longest


def _order(way: Trajectory, places: Sequence[int]) -> tuple[list[int], list[Finding]]:
    """Return the order in which the trajectory is much shorter, and a finding that names the
    checkpoints which it moves (none if the present order is right)."""
    order = list(places)
    while better := _better(way.total, order):
        order = better
    if _inversions(order) > _inversions(order[::-1]):  # both directions are equally long
        order.reverse()
    strange = tuple(way.epochs[p] for p, q in zip(places, order, strict=True) if p != q)
    if not strange:
        return order, []
    ratio = _length(way.total, order) / _length(way.total, places)
    text = (
        f"Epochs {join_names(strange, 8)} seem to be in the wrong order: in the order "
        f"{join_names([way.epochs[p] for p in order], 12)} the sum of steps is {1 - ratio:.0%} "
        f"smaller."
    )
    return order, [Finding("order", strange, text, value=ratio)]


def _better(total: np.ndarray, order: list[int]) -> list[int] | None:
    """Return the best order after one change: a part reversed, a checkpoint moved, two exchanged,
    or all put in an order in which each is followed by the nearest of the rest.

    The best change minimises the length of its new steps as a share of the length of the steps that
    they replace. Returns None if no share is below SHORTER.
    """

    def taken(*steps: list[int]) -> np.ndarray:
        matrix = np.zeros(total.shape, dtype=bool)
        matrix[steps] = matrix[steps[::-1]] = True
        return matrix

    old = order[:-1], order[1:]
    before, best, better = taken(*old), SHORTER, None
    for moved in (*_moves(order), *(_nearest(total, order, first) for first in order)):
        new = moved[:-1], moved[1:]
        replaced = total[old][~taken(*new)[old]].sum()
        if replaced > 0 and (share := total[new][~before[new]].sum() / replaced) < best:
            best, better = share, moved
    return better


def _moves(order: list[int]) -> Iterator[list[int]]:
    for i, j in combinations(range(len(order)), 2):
        yield [*order[:i], *order[i : j + 1][::-1], *order[j + 1 :]]
        if j > i + 1:
            for k, m in ((i, j), (j, i)):
                rest = [*order[:k], *order[k + 1 :]]
                yield [*rest[:m], order[k], *rest[m:]]
        if j > i + 2:
            yield [*order[:i], order[j], *order[i + 1 : j], order[i], *order[j + 1 :]]


def _nearest(total: np.ndarray, order: list[int], first: int) -> list[int]:
    """Return an order from `first` in which the nearest of the rest follows each checkpoint."""
    path, rest = [first], [p for p in order if p != first]
    while rest:
        path.append(min(rest, key=total[path[-1]].__getitem__))
        rest.remove(path[-1])
    return path


def _inversions(order: Sequence[int]) -> int:
    return sum(p > q for p, q in combinations(order, 2))


def _length(total: np.ndarray, order: Sequence[int]) -> float:
    return float(sum(total[p, q] for p, q in pairwise(order)))


def _counters(way: Trajectory, places: Sequence[int]) -> Iterator[Finding]:
    for p, q in pairwise(places):
        before, after = int(way.batches[p]), int(way.batches[q])
        if before > after >= 0:
            a, b = way.epochs[p], way.epochs[q]
            text = (
                f"Epoch {b} has seen fewer batches than epoch {a}, by the counters of its "
                f"normalisation layers ({after} and {before}): their order is wrong, or training "
                f"was restarted between them."
            )
            yield Finding("order", (a, b), text, value=float(after - before))


def _jumps(way: Trajectory, places: Sequence[int]) -> Iterator[Finding]:
    """Find steps much longer than the adjacent ones, per epoch and per square root of epochs.

    The first step is skipped if the series begins at epoch 0: training may begin with a long one.
    """
    steps = list(pairwise(places))
    spans = np.array([way.epochs[q] - way.epochs[p] for p, q in steps], dtype=float)
    lengths = np.array([way.total[p, q] for p, q in steps])
    rates: tuple[Callable[[np.ndarray], np.ndarray], ...] = (lambda x: x, np.sqrt)
    begins_at_0 = bool(places) and way.epochs[places[0]] == 0
    for k in range(int(begins_at_0), len(steps)):
        beside = [j for j in (k - 1, k + 1) if 0 <= j < len(steps) and lengths[j] > 0]
        speeds = [lengths / rate(spans) for rate in rates]
        ratio = min((float(v[k] / v[beside].max()) for v in speeds if beside), default=0.0)
        if ratio > JUMP:
            a, b = (way.epochs[p] for p in steps[k])
            text = (
                f"Between epochs {a} and {b} the weights jump: the step is {ratio:.1f} times as "
                f"long as the longer adjacent one, as between checkpoints of different trainings."
            )
            yield Finding("jump", (a, b), text, value=ratio)


def _layers_off_the_way(way: Trajectory, places: Sequence[int]) -> Iterator[Finding]:
    """Find single layers that are off the trajectory although the checkpoint as a whole is not."""
    by_layer = _layer_detours(way, places)
    for place, epoch in ((k, way.epochs[p]) for k, p in enumerate(places)):
        ratios = {name: float(values[place]) for name, values in by_layer.items()}
        strange = [name for name, ratio in ratios.items() if ratio > LAYER_OFF_THE_WAY]
        if strange:
            largest = max(ratios[name] for name in strange)
            text = (
                f"The weights of epoch {epoch} do not lie between those of its neighbours in "
                f"{_layers(strange)}: their distance to the nearer ones is up to {largest:.1f} "
                f"times the distance between these."
            )
            yield Finding("layer off the way", (epoch,), text, tuple(strange), largest)


def _layer_detours(way: Trajectory, places: Sequence[int]) -> dict[str, np.ndarray]:
    """Return `detours` of each layer with units; others (scales, biases) have too few weights."""
    return {
        name: detours(way.distances[k][np.ix_(places, places)])
        for k, name in enumerate(way.layers)
        if way.units[k].any()
    }


def _frozen(way: Trajectory, places: Sequence[int]) -> Iterator[Finding]:
    """Find layers whose weights are bitwise equal at consecutive checkpoints."""
    spans: dict[tuple[int, int], list[str]] = {}
    for name, digests in zip(way.layers, way.digests, strict=True):
        for _, run in groupby(places, key=digests.__getitem__):
            same = list(run)
            if len(same) > 1:
                spans.setdefault((same[0], same[-1]), []).append(name)
    for (first, last), names in sorted(spans.items()):
        a, b = way.epochs[first], way.epochs[last]
        text = f"From epoch {a} to {b}, the weights of {_layers(names)} do not change."
        if len(names) == len(way.layers):
            text = f"From epoch {a} to {b}, no layer's weights change; only buffers do."
        yield Finding("frozen", (a, b), text, tuple(names), len(names))


def _dead(way: Trajectory, places: Sequence[int]) -> Iterator[Finding]:
    for p in places:
        dead = way.dead[:, p].copy()
        if p == places[0]:
            dead[dead == way.units[:, p]] = 0  # a layer may be initialised with zeros
        names = [name for name, count in zip(way.layers, dead, strict=True) if count]
        if names:
            epoch, total = way.epochs[p], int(way.units[:, p].sum())
            text = (
                f"At epoch {epoch}, all incoming weights of {int(dead.sum())} of {total} units are "
                f"zero ({join_names(names, 3)})."
            )
            yield Finding("dead units", (epoch,), text, tuple(names), float(dead.sum()))


def _layers(names: Sequence[str]) -> str:
    return f"{pluralise(len(names), 'layer')} ({join_names(names, 3)})"
