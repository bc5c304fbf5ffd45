"""Check from the weights whether the checkpoints of a series belong to one training, in order.

The weights of one training follow a trajectory: of three consecutive checkpoints, the middle one is
nearer to both others than they are to each other, or at least not much farther. This fails for a
checkpoint of another training, a damaged one, or one with a wrong epoch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
        kind: "equal", "not finite", "outlier", "outlying layer", "order", "jump", "frozen",
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
    value: float = np.nan


def findings(trajectory: Trajectory) -> list[Finding]:
    """Return all reasons to doubt a series."""
    finite = np.asarray(trajectory.non_finite).sum(axis=0) == 0
    positions: dict[object, list[int]] = {}  # of the checkpoints with each state
    for i, buffers in enumerate(trajectory.buffers):
        positions.setdefault((*trajectory.digests[:, i], buffers), []).append(i)
    equal = list(positions.values())
    distinct = [group[0] for group in equal if finite[group[0]]]
    # if several checkpoints are equal, it is unknown to which epoch the weights belong
    single = [group[0] for group in equal if len(group) == 1 and finite[group[0]]]
    on_path, departures = _find_departures(trajectory, single)
    best_order, misordered = _find_order(trajectory, on_path)
    return [
        *_find_non_finite(trajectory),
        *_find_equal(trajectory, [group for group in equal if len(group) > 1]),
        *departures,
        *misordered,
        *_find_reset_counters(trajectory, single),
        *(() if misordered else _find_jumps(trajectory, best_order)),
        *(() if misordered else _find_layer_departures(trajectory, on_path)),
        *_find_frozen(trajectory, distinct),
        *_find_dead_units(trajectory, distinct),
    ]


def detours(distances: np.ndarray) -> np.ndarray:
    """Return how far each checkpoint lies off the trajectory of its neighbours, from the distances
    [n, n] between checkpoints in order.

    Returns:
        [n] min(d(before, it), d(it, after)) / d(before, after); NaN at both ends and where all
        three are equal, infinite where only the neighbours are.
    """
    values, steps = np.full(len(distances), np.nan), np.diagonal(distances, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        values[1:-1] = np.minimum(steps[:-1], steps[1:]) / np.diagonal(distances, 2)
    return values


def _find_non_finite(trajectory: Trajectory) -> Iterator[Finding]:
    for i, epoch in enumerate(trajectory.epochs):
        broken = [
            name
            for name, n in zip(trajectory.layers, trajectory.non_finite[:, i], strict=True)
            if n
        ]
        if broken:
            count, names = int(trajectory.non_finite[:, i].sum()), join_names(broken, 3)
            text = f"Epoch {epoch} holds {count} weights that are NaN or infinite ({names})."
            yield Finding("not finite", (epoch,), text, tuple(broken), count)


def _find_equal(trajectory: Trajectory, groups: Sequence[Sequence[int]]) -> Iterator[Finding]:
    for group in groups:
        epochs = tuple(trajectory.epochs[i] for i in group)
        text = (
            f"{len(epochs)} of {len(trajectory.epochs)} checkpoints hold the same weights: epochs "
            f"{join_names(epochs, 8)}."
        )
        yield Finding("equal", epochs, text, value=len(epochs))


def _find_departures(
    trajectory: Trajectory, positions: Sequence[int]
) -> tuple[list[int], list[Finding]]:
    """Return the positions of the checkpoints on the trajectory, and a finding for each other that
    also fits nowhere else on it."""
    rest, departures = list(positions), []
    while len(rest) > 2:
        ratios = detours(trajectory.total[np.ix_(rest, rest)])
        candidates = [
            k for k in np.argsort(-np.nan_to_num(ratios), kind="stable") if ratios[k] > OFF_THE_WAY
        ]
        strange = next(
            (k for k in candidates if not _fits_elsewhere(trajectory.total, rest, k)), None
        )
        if strange is None:
            break
        epoch, before, after = (
            trajectory.epochs[rest[k]] for k in (strange, strange - 1, strange + 1)
        )
        ratio = float(ratios[strange])
        by_layer = {name: float(r[strange]) for name, r in _layer_detours(trajectory, rest).items()}
        layers = [name for name, value in by_layer.items() if value > OFF_THE_WAY]
        partial = 0 < len(layers) < len(by_layer)
        where = f" in {_describe_layers(layers)}" if partial else ""
        text = (
            f"The weights of epoch {epoch} do not lie between those of epochs {before} and {after}"
            f"{where}: their distance to the nearer ones is {ratio:.1f} times the distance between "
            f"these, as for a checkpoint of another training."
        )
        kind = "outlying layer" if partial else "outlier"
        departures.append(Finding(kind, (epoch,), text, tuple(layers) if partial else (), ratio))
        del rest[strange]
    return rest, departures


def _fits_elsewhere(total: np.ndarray, positions: Sequence[int], k: int) -> bool:
    """Return whether a checkpoint fits between two consecutive others, or beyond an end."""
    point, others = positions[k], [p for p in positions if p != positions[k]]
    if any(max(total[p, point], total[point, q]) <= total[p, q] for p, q in pairwise(others)):
        return True
    nearest = min(others, key=lambda p: total[p, point])
    longest = max((total[p, q] for p, q in pairwise(others)), default=0)
    return nearest in (others[0], others[-1]) and total[nearest, point] <= longest


def _find_order(
    trajectory: Trajectory, positions: Sequence[int]
) -> tuple[list[int], list[Finding]]:
    """Return the order in which the trajectory is much shorter, and a finding that names the
    checkpoints which it moves (none if the present order is right)."""
    order = list(positions)
    while improvement := _improve_order(trajectory.total, order):
        order = improvement
    if _inversions(order) > _inversions(order[::-1]):  # both directions are equally long
        order.reverse()
    epochs = tuple(trajectory.epochs[p] for p, q in zip(positions, order, strict=True) if p != q)
    if not epochs:
        return order, []
    ratio = _length(trajectory.total, order) / _length(trajectory.total, positions)
    text = (
        f"Epochs {join_names(epochs, 8)} seem to be in the wrong order: in the order "
        f"{join_names([trajectory.epochs[p] for p in order], 12)} the sum of steps is "
        f"{1 - ratio:.0%} smaller."
    )
    return order, [Finding("order", epochs, text, value=ratio)]


def _improve_order(total: np.ndarray, order: list[int]) -> list[int] | None:
    """Return the best order after one change: a part reversed, a checkpoint moved, two exchanged,
    or all put in an order in which each is followed by the nearest of the rest.

    The best change minimises the length of its new steps as a share of the length of the steps that
    they replace. Returns None if no share is below SHORTER.
    """

    def mask_steps(*steps: list[int]) -> np.ndarray:
        matrix = np.zeros(total.shape, dtype=bool)
        matrix[steps] = matrix[steps[::-1]] = True
        return matrix

    old_steps = order[:-1], order[1:]
    old_mask, best_share, best_order = mask_steps(*old_steps), SHORTER, None
    for variant in (*_variants(order), *(_greedy_order(total, order, first) for first in order)):
        new_steps = variant[:-1], variant[1:]
        replaced = total[old_steps][~mask_steps(*new_steps)[old_steps]].sum()
        added = total[new_steps][~old_mask[new_steps]].sum()
        if replaced > 0 and added / replaced < best_share:
            best_share, best_order = added / replaced, variant
    return best_order


def _variants(order: list[int]) -> Iterator[list[int]]:
    for i, j in combinations(range(len(order)), 2):
        yield [*order[:i], *order[i : j + 1][::-1], *order[j + 1 :]]
        if j > i + 1:
            for source, target in ((i, j), (j, i)):
                rest = [*order[:source], *order[source + 1 :]]
                yield [*rest[:target], order[source], *rest[target:]]
        if j > i + 2:
            yield [*order[:i], order[j], *order[i + 1 : j], order[i], *order[j + 1 :]]


def _greedy_order(total: np.ndarray, order: list[int], first: int) -> list[int]:
    """Return an order from `first` in which the nearest of the rest follows each checkpoint."""
    greedy, rest = [first], [p for p in order if p != first]
    while rest:
        greedy.append(min(rest, key=total[greedy[-1]].__getitem__))
        rest.remove(greedy[-1])
    return greedy


def _inversions(order: Sequence[int]) -> int:
    return sum(p > q for p, q in combinations(order, 2))


def _length(total: np.ndarray, order: Sequence[int]) -> float:
    return float(sum(total[p, q] for p, q in pairwise(order)))


def _find_reset_counters(trajectory: Trajectory, positions: Sequence[int]) -> Iterator[Finding]:
    for p, q in pairwise(positions):
        before, after = int(trajectory.batches[p]), int(trajectory.batches[q])
        if before > after >= 0:
            earlier, later = trajectory.epochs[p], trajectory.epochs[q]
            text = (
                f"Epoch {later} has seen fewer batches than epoch {earlier}, by the counters of "
                f"its normalisation layers ({after} and {before}): their order is wrong, or "
                f"training was restarted between them."
            )
            yield Finding("order", (earlier, later), text, value=float(after - before))


def _find_jumps(trajectory: Trajectory, positions: Sequence[int]) -> Iterator[Finding]:
    """Find steps much longer than the adjacent ones, per epoch and per square root of epochs.

    The first step is skipped if the series begins at epoch 0: training may begin with a long one.
    """
    steps = list(pairwise(positions))
    spans = np.array([trajectory.epochs[q] - trajectory.epochs[p] for p, q in steps], dtype=float)
    lengths = np.array([trajectory.total[p, q] for p, q in steps])
    rates: tuple[Callable[[np.ndarray], np.ndarray], ...] = (lambda x: x, np.sqrt)
    begins_at_0 = bool(positions) and trajectory.epochs[positions[0]] == 0
    for k in range(int(begins_at_0), len(steps)):
        adjacent = [j for j in (k - 1, k + 1) if 0 <= j < len(steps) and lengths[j] > 0]
        speeds = [lengths / rate(spans) for rate in rates]
        ratio = min((float(v[k] / v[adjacent].max()) for v in speeds if adjacent), default=0.0)
        if ratio > JUMP:
            earlier, later = (trajectory.epochs[p] for p in steps[k])
            text = (
                f"Between epochs {earlier} and {later} the weights jump: the step is {ratio:.1f} "
                f"times as long as the longer adjacent one, as between checkpoints of different "
                f"trainings."
            )
            yield Finding("jump", (earlier, later), text, value=ratio)


def _find_layer_departures(trajectory: Trajectory, positions: Sequence[int]) -> Iterator[Finding]:
    """Find single layers that are off the trajectory although the checkpoint as a whole is not."""
    by_layer = _layer_detours(trajectory, positions)
    for k, epoch in enumerate(trajectory.epochs[p] for p in positions):
        ratios = {name: float(values[k]) for name, values in by_layer.items()}
        layers = [name for name, ratio in ratios.items() if ratio > LAYER_OFF_THE_WAY]
        if layers:
            largest = max(ratios[name] for name in layers)
            text = (
                f"The weights of epoch {epoch} do not lie between those of its neighbours in "
                f"{_describe_layers(layers)}: their distance to the nearer ones is up to "
                f"{largest:.1f} times the distance between these."
            )
            yield Finding("outlying layer", (epoch,), text, tuple(layers), largest)


def _layer_detours(trajectory: Trajectory, positions: Sequence[int]) -> dict[str, np.ndarray]:
    """Return `detours` of each layer with units; others (scales, biases) have too few weights."""
    return {
        name: detours(trajectory.distances[k][np.ix_(positions, positions)])
        for k, name in enumerate(trajectory.layers)
        if trajectory.units[k].any()
    }


def _find_frozen(trajectory: Trajectory, positions: Sequence[int]) -> Iterator[Finding]:
    """Find layers whose weights are bitwise equal at consecutive checkpoints."""
    spans: dict[tuple[int, int], list[str]] = {}
    for name, digests in zip(trajectory.layers, trajectory.digests, strict=True):
        for _, run in groupby(positions, key=digests.__getitem__):
            equal = list(run)
            if len(equal) > 1:
                spans.setdefault((equal[0], equal[-1]), []).append(name)
    for (first, last), names in sorted(spans.items()):
        start, end = trajectory.epochs[first], trajectory.epochs[last]
        text = (
            f"From epoch {start} to {end}, the weights of {_describe_layers(names)} do not change."
        )
        if len(names) == len(trajectory.layers):
            text = f"From epoch {start} to {end}, no layer's weights change; only buffers do."
        yield Finding("frozen", (start, end), text, tuple(names), len(names))


def _find_dead_units(trajectory: Trajectory, positions: Sequence[int]) -> Iterator[Finding]:
    for p in positions:
        counts = trajectory.dead[:, p].copy()
        if p == positions[0]:
            counts[counts == trajectory.units[:, p]] = 0  # a layer may be initialised with zeros
        names = [name for name, count in zip(trajectory.layers, counts, strict=True) if count]
        if names:
            epoch, total = trajectory.epochs[p], int(trajectory.units[:, p].sum())
            text = (
                f"At epoch {epoch}, all incoming weights of {int(counts.sum())} of {total} units "
                f"are zero ({join_names(names, 3)})."
            )
            yield Finding("dead units", (epoch,), text, tuple(names), float(counts.sum()))


def _describe_layers(names: Sequence[str]) -> str:
    return f"{pluralise(len(names), 'layer')} ({join_names(names, 3)})"
