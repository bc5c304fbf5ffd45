"""Stage: check order and origin of each series' checkpoints by their weights, one by one."""

from __future__ import annotations

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
from harness.stages.checkpoints import OfCheckpoint, give_checkpoints, loadable, loaded
from harness.stages.stage import Advance, Plan, Step, Value, Work

logger = logging.getLogger(__name__)

FINDING = ["series", "kind", "epochs", "layers", "value", "text"]


@dataclass(frozen=True)
class SketchCheckpoint(OfCheckpoint):
    """Work that computes samples, norms, counts and digests of one checkpoint's weights."""

    kinds = ("audit_weights", "audit_layers")
    depends = (SAMPLE, DEAD)

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        try:
            classes = len(open_images(run, "test").classes)
            table, samples = sketch(loaded(self.source, self.epoch, classes, run))
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
        way = trajectory(run, self.series, {e: t for e, t in tables.items() if e not in unreadable})
        yield {"epochs": np.array(way.epochs), "distances": way.total.astype(np.float32)}
        yield _by_checkpoint(self.series, way)
        yield _by_layer(self.series, way)
        rows = [
            (self.series, "unreadable", str(epoch), "", np.nan, f"Epoch {epoch}: {problem}.")
            for epoch, problem in unreadable.items()
        ]
        for one in findings(way):
            epochs = ", ".join(map(str, one.epochs))
            layers = ", ".join(one.layers)
            rows.append((self.series, one.kind, epochs, layers, one.value, one.text))
        yield pd.DataFrame(rows, columns=FINDING).astype({"value": float})


def trajectory(run: Run, series: str, tables: dict[int, pd.DataFrame]) -> Trajectory:
    """Return the trajectory of a series. It is computed layer by layer, so that the weights of all
    layers are never in memory together.

    Only layers that all checkpoints have, with the same size, are compared.
    """
    epochs = tuple(tables)
    sizes = [dict(zip(table["layer"], table["size"], strict=True)) for table in tables.values()]
    first_sizes = sizes[0] if sizes else {}
    layers = [n for n, size in first_sizes.items() if all(other.get(n) == size for other in sizes)]
    archives = [run.path(Artifact("audit_weights", (series, epoch))) for epoch in epochs]
    distances = np.zeros((len(layers), len(epochs), len(epochs)))
    order = [list(table["layer"]) for table in tables.values()]
    for k, name in enumerate(layers):
        sample = np.stack(
            [_read(path, names.index(name)) for path, names in zip(archives, order, strict=True)]
        )
        distances[k] = _distances(sample) * np.sqrt(first_sizes[name] / sample.shape[1])

    def column(name: str, kind: type) -> np.ndarray:
        by_layer = [t.set_index("layer")[name].reindex(layers).to_numpy() for t in tables.values()]
        shape = (len(layers), len(epochs))
        return np.stack(by_layer, axis=1).astype(kind) if by_layer else np.zeros(shape, kind)

    def first(name: str) -> np.ndarray:
        return np.array([t[name].iloc[0] if len(t) else "" for t in tables.values()])

    return Trajectory(
        epochs=epochs,
        layers=tuple(layers),
        distances=distances,
        digests=column("digest", object),
        buffers=first("buffers"),
        non_finite=column("non_finite", int),
        dead=column("dead", int),
        units=column("units", int),
        batches=first("batches"),
        norms=np.sqrt(column("squared_norm", float)),
    )


def _read(path, number: int) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        return file[str(number)].astype(np.float64)


def _distances(sample: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances [n, n] between the rows of `sample` [n, weights].
    Differences are squared, because the difference of large products would lose small distances."""
    with np.errstate(invalid="ignore"):  # `non_finite` counts these
        return np.array([np.sqrt(np.square(sample - row).sum(axis=1)) for row in sample])


def _by_checkpoint(series: str, way: Trajectory) -> pd.DataFrame:
    """Return one row per checkpoint."""
    unchanged = (way.digests[:, 1:] == way.digests[:, :-1]).sum(axis=0)
    return pd.DataFrame(
        {
            "series": series,
            "epoch": way.epochs,
            "norm": np.sqrt(np.square(way.norms).sum(axis=0)),
            **_distances_along(way.total),
            "unchanged_layers": [0, *unchanged][: len(way.epochs)],
            "layers": len(way.layers),
            **{column: counts.sum(axis=0) for column, counts in _counts(way).items()},
        }
    )


def _counts(way: Trajectory) -> dict[str, np.ndarray]:
    return {"dead_units": way.dead, "units": way.units, "non_finite": way.non_finite}


def _distances_along(distances: np.ndarray) -> dict[str, object]:
    """Return each checkpoint's distances to the previous, first and last one, and its detour."""
    n = len(distances)
    return {
        "step": [np.nan, *np.diagonal(distances, 1)][:n],
        "from_first": distances[0] if n else [],
        "to_last": distances[-1] if n else [],
        "detour": detours(distances),
    }


def _by_layer(series: str, way: Trajectory) -> pd.DataFrame:
    """Return one row per layer and checkpoint."""
    frames = [
        pd.DataFrame(
            {
                "series": series,
                "layer": name,
                "epoch": way.epochs,
                "norm": way.norms[k],
                **_distances_along(way.distances[k]),
                **{column: counts[k] for column, counts in _counts(way).items()},
            }
        )
        for k, name in enumerate(way.layers)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"series": []})


def steps(plan: Plan) -> Iterator[Step]:
    """Compare the weights of the checkpoints of every series, and log the findings as warnings."""
    give_checkpoints(plan)
    yield "reading weights", list(starmap(SketchCheckpoint, loadable(plan.config)))
    works = [CompareCheckpoints(s.name, s.loadable()) for s in plan.config.series if s.loadable()]
    yield "comparing weights", works
    if plan.looks_only:
        return
    for work in works:
        for row in plan.run.table(work.makes[-1]).itertuples():
            if row.kind != "unreadable":  # reported by the stage `check`
                logger.warning("series %r: %s", row.series, row.text)
