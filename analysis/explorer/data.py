"""The columns of a run for the explorer's page, computed deterministically and without torch.

Here, a *unit* is one channel of one layer of a series; a *neuron* is a unit at one checkpoint. Rows
of neurons are those of the run's first space, which has no dead neurons.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from analysis.exhibits.tables import Table
from analysis.explorer.columns import floats, ints
from analysis.run import tables as run_tables
from harness.artifacts import Artifact, Run
from harness.concepts.space import SemanticSpace
from harness.images.view import View, with_views
from harness.records import NAMED_OVERLAP, NEURON
from harness.results import BENCH, REVERSION, Results, has_results, read_results

PATCHES = 9
NEIGHBOURS = 5
UNIT = ["series", "layer", "channel"]


def find_rows(table: pd.DataFrame, keys: pd.DataFrame) -> np.ndarray:
    """Return, for each row of a table, the row of `keys` that equals it in the columns of `keys`.

    Raises:
        ValueError: there is none.
    """
    index, wanted = (pd.MultiIndex.from_frame(frame[keys.columns]) for frame in (keys, table))
    rows = index.get_indexer(wanted)
    if (is_missing := rows < 0).any():
        first = dict(zip(keys.columns, wanted[is_missing][0], strict=True))
        raise ValueError(f"the results of the run do not fit together: {first} is not in all of it")
    return rows


@dataclass(frozen=True)
class Source:
    """The tables of a run; each is read once for all parts of the page."""

    run: Run

    @cached_property
    def space(self) -> SemanticSpace:
        return SemanticSpace.load(self.run, self.run.manifest()["space_methods"][0])

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per layer, by series in the order of the configuration, then by depth; with
        `view` and `side`, the side of a patch in pixels of the view."""
        by_depth = with_views(self.run.tables("layers")).sort_values("depth", kind="stable")
        layers = run_tables.sort_by_series(self.run, by_depth)
        sides = map(_patch_side, layers["patch"], layers["view"])
        return layers.assign(side=list(sides))

    @cached_property
    def views(self) -> list[View]:
        return list(dict.fromkeys(self.layers["view"]))

    @cached_property
    def series(self) -> list[str]:
        return list(self.layers["series"].unique())

    @cached_property
    def units(self) -> pd.DataFrame:
        """One row per unit: series, layer, layer_row (row of `layers`), channel."""
        rows = self.layers.index.repeat(self.layers["channels"])
        units = self.layers.loc[rows, ["series", "layer"]].assign(layer_row=rows)
        return units.assign(channel=units.groupby(level=0).cumcount()).reset_index(drop=True)

    @cached_property
    def units_of_series(self) -> dict[str, range]:
        rows = self.units.groupby("series", sort=False).indices
        return {str(series): range(own[0], own[-1] + 1) for series, own in rows.items()}

    def unit_of(self, table: pd.DataFrame) -> np.ndarray:
        """Return the row of `units` for each row of a table with series, layer and channel."""
        return find_rows(table, self.units[UNIT])

    @cached_property
    def row_of(self) -> dict[tuple[Any, ...], int]:
        """Row of each neuron (series, epoch, layer, channel) in the space."""
        keys = self.space.neurons[NEURON].itertuples(index=False, name=None)
        return {key: row for row, key in enumerate(keys)}

    @cached_property
    def classes(self) -> list[str]:
        index = self.run.table(Artifact("image_index", ("probe",)))
        return list(index.drop_duplicates("class_id").sort_values("class_id")["class_name"])

    @cached_property
    def studies(self) -> list[Results]:
        """The results of the reversion study and of the benchmark, if they were run."""
        return [
            read_results(self.run.root, study)
            for study in (REVERSION, BENCH)
            if has_results(self.run, study)
        ]

    @cached_property
    def pairs(self) -> list[tuple[str, int, int]]:
        pairs = [pair for study in self.studies for pair in study.about["pairs"]]
        return list(dict.fromkeys((p["series"], p["epoch_from"], p["epoch_to"]) for p in pairs))

    @cached_property
    def stimuli(self) -> pd.DataFrame:
        """The PATCHES strongest stimuli of every neuron, with the neuron's `row` and the stimulus'
        `place` among them, from 0."""
        table = self.run.tables("stimuli").sort_values([*NEURON, "rank"])
        table = table[table.groupby(NEURON).cumcount() < PATCHES]
        place = table.groupby(NEURON).cumcount().to_numpy()
        rows = self.space.neurons[NEURON].reset_index(names="row")
        return table.assign(place=place).merge(rows, on=NEURON)


def explorer_columns(source: Source) -> dict[str, Any]:
    """Return the page's data of a run, without ablations, pictures and responses; arrays are not
    packed."""
    run, space = source.run, source.space
    layers = source.layers
    return {
        "run": run.root.resolve().name,
        "base": run.manifest()["base"],
        "space": space.method,
        "overlap": NAMED_OVERLAP,
        "series": source.series,
        "epochs": {
            name: sorted({int(e) for e in rows["epoch"]})
            for name, rows in space.neurons.groupby("series")
        },
        "classes": source.classes,
        "views": [view.size for view in source.views],
        "layers": [
            {
                "series": source.series.index(layer.series),
                "name": layer.layer,
                "channels": layer.channels,
                "depth": round(float(layer.depth), 3),
                "side": layer.side,
                "view": source.views.index(layer.view),
            }
            for layer in layers.itertuples()
        ],
        "units": {
            "layer": ints(source.units["layer_row"]),
            "channel": ints(source.units["channel"]),
        },
        **_neurons(source),
        "neighbours": _neighbours(source),
        "stimuli": _stimuli(source),
        **_space_validity(run, space.method),
    }


def _neurons(source: Source) -> dict[str, Any]:
    space = source.space
    table = space.neurons[NEURON].merge(source.run.table(Artifact("map")), on=NEURON, how="left")
    concepts_found = run_tables.true_concepts(source.run)
    if concepts_found is None:
        table = table.assign(concept=None, iou=np.nan)
    else:
        table = table.merge(concepts_found[[*NEURON, "concept", "iou"]], on=NEURON, how="left")
    names = table["concept"].where(table["iou"] >= NAMED_OVERLAP)
    concepts = sorted(names.dropna().unique())
    return {
        "concepts": concepts,
        "hasConcepts": concepts_found is not None,
        "neurons": {
            "unit": ints(source.unit_of(table)),
            "epoch": ints(table["epoch"]),
            "x": floats(table["x"]),
            "y": floats(table["y"]),
            "concept": ints(names.map({c: i for i, c in enumerate(concepts)}).fillna(-1)),
            "overlap": floats(table["iou"]),
            "moved": floats(_displacements(source)),
        },
    }


def _displacements(source: Source) -> np.ndarray:
    """Return the displacement of each neuron since the previous checkpoint; NaN if undefined."""
    displacements = np.full(len(source.space.neurons), np.nan)
    for series, rows in source.space.neurons.groupby("series"):
        for start, end in pairwise(sorted(set(rows["epoch"]))):
            displacement = source.space.displacement(str(series), int(start), int(end))
            for layer, channel, distance in displacement.itertuples(index=False, name=None):
                displacements[source.row_of[series, end, layer, channel]] = distance
    return displacements


def _neighbours(source: Source) -> list[dict[str, Any]]:
    """Return, for each series, the neurons of its last checkpoint nearest to each neuron."""
    space, all_rows = source.space, np.arange(len(source.space.neurons))
    parts = []
    for series_name in source.series:
        epochs = space.neurons.loc[space.neurons["series"] == series_name, "epoch"]
        if epochs.empty:
            continue
        last_epoch = int(epochs.max())
        candidates = space.rows(series=series_name, epoch=last_epoch)
        rows, similarities = [], []
        for rows_of_block in np.array_split(all_rows, max(1, len(all_rows) // 2000)):
            nearest, similarity = space.nearest(rows_of_block, candidates, NEIGHBOURS)
            rows.append(nearest)
            similarities.append(similarity)
        parts.append({"series": source.series.index(series_name), "epoch": last_epoch,
                      "row": ints(np.concatenate(rows).ravel()),
                      "similarity": floats(np.concatenate(similarities).ravel())})  # fmt: skip
    return parts


def _patch_side(patch: float, view: View) -> int:
    """Return the side of a patch in pixels of the view, from its share of the shorter side."""
    shorter = min(view.size)
    return min(max(1, round(patch * shorter)), shorter)


def _stimuli(source: Source) -> dict[str, Any]:
    """Return image, corner of the patch in pixels of the view, and activation: PATCHES per neuron,
    −1 and NaN if there are fewer."""
    layers = source.layers[["series", "layer", "side", "view"]]
    table = source.stimuli.merge(layers, on=["series", "layer"])
    sizes, sides = np.array([view.size for view in table["view"]]), table["side"].to_numpy()
    shape = len(source.space.neurons), PATCHES
    image, top, left = (np.full(shape, -1) for _ in range(3))
    activation = np.full(shape, np.nan)
    positions = table["row"].to_numpy(), table["place"].to_numpy()
    image[positions], activation[positions] = table["image_id"], table["activation"]
    for corner, peak, length in ((top, "peak_y", sizes[:, 0]), (left, "peak_x", sizes[:, 1])):
        start = [round(v) for v in table[peak].to_numpy() * length - sides / 2]
        corner[positions] = np.clip(start, 0, length - sides)
    return {"each": PATCHES, "image": ints(image.ravel()), "top": ints(top.ravel()),
            "left": ints(left.ravel()), "activation": floats(activation.ravel())}  # fmt: skip


def _space_validity(run: Run, method: str) -> dict[str, Any]:
    """Return the validity of the space, dead neurons and accuracy, from the run's tables."""

    def of_method(table: Table | None) -> list[dict[str, Any]]:
        if table is None:
            return []
        return table.frame[table.frame["method"] == method].to_dict("records")

    return {
        "alignment": of_method(run_tables.alignment(run)),
        "identity": of_method(run_tables.identities(run)),
        "checkpoints": run_tables.neurons(run).frame.to_dict("records"),
    }
