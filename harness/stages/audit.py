"""Stage: check order and origin of each series' checkpoints by their weights, one by one."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import starmap

import numpy as np
import pandas as pd

from harness.artifacts import Artifact, Run
from harness.images.sets import open_images
from harness.networks.trajectory import LIMITS, Trajectory, detours, findings
from harness.networks.weight_sketch import DEAD, SAMPLE, sketch
from harness.stages.checkpoints import (
    CheckpointWork,
    declare_checkpoints,
    forget_failures,
    load_epoch,
    loadable_checkpoints,
)
from harness.stages.stage import Advance, Plan, Step, Value, Work

logger = logging.getLogger(__name__)

FINDING = ["series", "kind", "epochs", "layers", "value", "text"]


@dataclass(frozen=True)
class SketchCheckpoint(CheckpointWork):
    """Work that computes samples, norms, counts and digests of one checkpoint's weights."""

    kinds = ("audit_weights", "audit_layers")
    depends = (SAMPLE, DEAD)

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        try:
            classes = len(open_images(run, "test").classes)
            table, samples = sketch(load_epoch(self.source, self.epoch, classes, run))
        except ValueError as error:
            table, samples = pd.DataFrame({"layer": [""], "problem": [str(error)]}), []
        yield {str(number): sample for number, sample in enumerate(samples)}
        yield table


@dataclass(frozen=True)
class CompareCheckpoints(Work):
    """Work that compares the weights of all checkpoints of one series."""

    series: str
    epochs: tuple[int, ...]

    @property
    def makes(self) -> tuple[Artifact, ...]:
        kinds = ("audit_distances", "audit", "audit_steps", "audit_findings")
        return tuple(Artifact(kind, (self.series,)) for kind in kinds)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        kinds = ("audit_weights", "audit_layers")
        return tuple(Artifact(k, (self.series, epoch)) for k in kinds for epoch in self.epochs)

    @property
    def depends(self) -> object:
        return [self.epochs, *LIMITS]

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        tables = {
            epoch: run.table(Artifact("audit_layers", (self.series, epoch)))
            for epoch in self.epochs
        }
        unreadable = {e: str(t["problem"][0]) for e, t in tables.items() if "problem" in t}
        readable = {e: t for e, t in tables.items() if e not in unreadable}
        trajectory = read_trajectory(run, self.series, readable)
        yield {
            "epochs": np.array(trajectory.epochs),
            "distances": trajectory.total.astype(np.float32),
        }
        yield _checkpoint_table(self.series, trajectory)
        yield _layer_table(self.series, trajectory)
        rows = [
            (self.series, "unreadable", str(epoch), "", np.nan, f"Epoch {epoch}: {problem}.")
            for epoch, problem in unreadable.items()
        ]
        for finding in findings(trajectory):
            epochs = ", ".join(map(str, finding.epochs))
            layers = ", ".join(finding.layers)
            rows.append((self.series, finding.kind, epochs, layers, finding.value, finding.text))
        yield pd.DataFrame(rows, columns=FINDING).astype({"value": float})


def read_trajectory(run: Run, series: str, tables: dict[int, pd.DataFrame]) -> Trajectory:
    """Return the trajectory of a series. It is computed layer by layer, so that the weights of all
    layers are never in memory together.

    Only layers that all checkpoints have, with the same size, are compared.
    """
    epochs = tuple(tables)
    sizes = [dict(zip(table["layer"], table["size"], strict=True)) for table in tables.values()]
    first_sizes = sizes[0] if sizes else {}
    layers = [n for n, size in first_sizes.items() if all(later.get(n) == size for later in sizes)]
    archives = [run.path(Artifact("audit_weights", (series, epoch))) for epoch in epochs]
    distances = np.zeros((len(layers), len(epochs), len(epochs)))
    orders = [list(table["layer"]) for table in tables.values()]
    files = list(zip(archives, orders, strict=True))
    for number, name in enumerate(layers):
        sample = np.stack([_read_sample(path, order.index(name)) for path, order in files])
        distances[number] = _distances(sample) * np.sqrt(first_sizes[name] / sample.shape[1])

    def layer_values(name: str, kind: type) -> np.ndarray:
        by_layer = [t.set_index("layer")[name].reindex(layers).to_numpy() for t in tables.values()]
        shape = (len(layers), len(epochs))
        return np.stack(by_layer, axis=1).astype(kind) if by_layer else np.zeros(shape, kind)

    def first_values(name: str) -> np.ndarray:
        return np.array([t[name].iloc[0] if len(t) else "" for t in tables.values()])

    return Trajectory(
        epochs=epochs,
        layers=tuple(layers),
        distances=distances,
        digests=layer_values("digest", object),
        buffers=first_values("buffers"),
        non_finite=layer_values("non_finite", int),
        dead=layer_values("dead", int),
        units=layer_values("units", int),
        batches=first_values("batches"),
        norms=np.sqrt(layer_values("squared_norm", float)),
    )


def _read_sample(path, number: int) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        return file[str(number)].astype(np.float64)


def _distances(sample: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances [n, n] between the rows of `sample` [n, weights].
    Differences are squared, because the difference of large products would lose small distances."""
    with np.errstate(invalid="ignore"):  # `non_finite` counts these
        return np.array([np.sqrt(np.square(sample - row).sum(axis=1)) for row in sample])


def _checkpoint_table(series: str, trajectory: Trajectory) -> pd.DataFrame:
    """Return one row per checkpoint."""
    unchanged = (trajectory.digests[:, 1:] == trajectory.digests[:, :-1]).sum(axis=0)
    return pd.DataFrame(
        {
            "series": series,
            "epoch": trajectory.epochs,
            "norm": np.sqrt(np.square(trajectory.norms).sum(axis=0)),
            **_distances_along(trajectory.total),
            "unchanged_layers": [0, *unchanged][: len(trajectory.epochs)],
            "layers": len(trajectory.layers),
            **{column: counts.sum(axis=0) for column, counts in _counts(trajectory).items()},
        }
    )


def _counts(trajectory: Trajectory) -> dict[str, np.ndarray]:
    return {
        "dead_units": trajectory.dead,
        "units": trajectory.units,
        "non_finite": trajectory.non_finite,
    }


def _distances_along(distances: np.ndarray) -> dict[str, object]:
    """Return each checkpoint's distances to the previous, first and last one, and its detour."""
    n = len(distances)
    return {
        "step": [np.nan, *np.diagonal(distances, 1)][:n],
        "from_first": distances[0] if n else [],
        "to_last": distances[-1] if n else [],
        "detour": detours(distances),
    }


def _layer_table(series: str, trajectory: Trajectory) -> pd.DataFrame:
    """Return one row per layer and checkpoint."""
    frames = [
        pd.DataFrame(
            {
                "series": series,
                "layer": name,
                "epoch": trajectory.epochs,
                "norm": trajectory.norms[number],
                **_distances_along(trajectory.distances[number]),
                **{column: counts[number] for column, counts in _counts(trajectory).items()},
            }
        )
        for number, name in enumerate(trajectory.layers)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"series": []})


def steps(plan: Plan) -> Iterator[Step]:
    """Compare the weights of the checkpoints of every series, and log the findings as warnings."""
    declare_checkpoints(plan)
    sketches = list(starmap(SketchCheckpoint, loadable_checkpoints(plan.config)))
    epochs = {source.name: source.loadable_epochs() for source in plan.config.series}
    works = [CompareCheckpoints(name, loadable) for name, loadable in epochs.items() if loadable]
    forget_failures(plan, sketches, works)
    yield "reading weights", sketches
    yield "comparing weights", works
    if plan.dry_run:
        return
    for work in works:
        for row in plan.run.table(work.makes[-1]).itertuples():
            if row.kind != "unreadable":  # reported by the stage `check`
                logger.warning("series %r: %s", row.series, row.text)
