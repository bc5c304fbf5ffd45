"""The columns of a run for the explorer's page, computed deterministically and without torch.

Here, a *unit* is one channel of one layer of a series; a *neuron* is a unit at one checkpoint. Rows
of neurons are those of the run's first space, which has no dead neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from analysis.exhibits.phrases import name_parts
from analysis.exhibits.tables import Table
from analysis.explorer.columns import floats, ints
from analysis.run import tables as run_tables
from harness.artifacts import Artifact, Run
from harness.concepts.space import SemanticSpace
from harness.images.view import View, with_views
from harness.records import JOINT, NAMED_OVERLAP, NEURON, PAIR
from harness.results import ARM_ON_CLASS, BENCH, REVERSION, Results, has_results, read_results

PATCHES = 9
NEIGHBOURS = 5
UNIT = ["series", "layer", "channel"]
SET = [*PAIR, "method", "class_id", "arm", "draw"]
#: The split whose outcomes are shown: images on which no score was computed.
SPLIT = "heldout"


def _find_rows(table: pd.DataFrame, keys: pd.DataFrame) -> np.ndarray:
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
        """The different views of images that networks of the run have."""
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

    def unit_of(self, table: pd.DataFrame) -> np.ndarray:
        """Return the row of `units` for each row of a table with series, layer and channel."""
        return _find_rows(table, self.units[UNIT])

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
    """Return the page's data of a run, without pictures and responses; arrays are not packed."""
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
        **_ablations(source),
        **_space_validity(run, space.method),
    }


def _neurons(source: Source) -> dict[str, Any]:
    space = source.space
    table = space.neurons[[*NEURON, "coverage"]]
    positions = source.run.table(Artifact("map"))
    table = table.merge(positions, on=NEURON, how="left")
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
            "coverage": floats(table["coverage"]),
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


def _ablations(source: Source) -> dict[str, Any]:
    if not source.studies:
        return {"pairs": [], "methods": [], "part": "part", "importance": [], "bins": [],
                "outcomes": None}  # fmt: skip
    table = pd.concat([study.importance() for study in source.studies], ignore_index=True)
    table = table.drop_duplicates([*PAIR, "layer", "channel", "class_id", "method"])
    methods = list(dict.fromkeys(m for study in source.studies for m in study.methods))
    pairs = source.pairs
    importance = [
        {"pair": index, "method": methods.index(method), **_scores(source, rows)}
        for index, pair in enumerate(pairs)
        for method, rows in table[(table[PAIR] == pair).all(axis=1)].groupby(
            "method", observed=True
        )
        if method in methods
    ]
    outcomes = ablation_outcomes(source.studies)
    arms = sorted(set(outcomes["arm"]))
    names = {"arm": arms, "method": sorted(set(outcomes["method"])),
             "ablation": sorted(set(outcomes["ablation"]))}  # fmt: skip
    return {
        "pairs": [
            {"series": source.series.index(s), "from": int(start), "to": int(end)}
            for s, start, end in pairs
        ],
        "methods": methods,
        "part": name_parts(source.studies[0].about["arms"]["bins"])[0],
        "importance": importance,
        "steps": max((study.about["arms"].get("steps", 8) for study in source.studies), default=8),
        "outcomes": {"names": names, **_outcome_columns(source, outcomes, names)},
        "bins": _bins_of_units(source, methods),
    }


def _scores(source: Source, rows: pd.DataFrame) -> dict[str, Any]:
    """Return score, standard error and rank within the layer, classes x units; missing values are
    NaN, and −1 for ranks."""
    all_rows = pd.MultiIndex.from_product([range(len(source.classes)), range(len(source.units))])
    keys = [rows["class_id"].to_numpy(), source.unit_of(rows)]
    table = rows[["score", "stderr", "rank"]].set_index(keys).reindex(all_rows)
    return {"score": floats(table["score"]), "error": floats(table["stderr"]),
            "rank": ints(table["rank"].fillna(-1)),
            "images": int(rows["images"].max())}  # fmt: skip


def ablation_outcomes(studies: list[Results]) -> pd.DataFrame:
    """Summarise the effect of each ablation on held-out images, per set, layer, class, ablation.

    Returns:
        the columns SET, ablation, layer, images (their number), before (accuracy), change (of
        accuracy, after minus before), probability (change of the class's probability), change_error
        and probability_error (standard errors over images).
    """
    parts = []
    for study in studies:
        accuracy, probability = (
            study.class_means(outcome, split=SPLIT).set_index(ARM_ON_CLASS)
            for outcome in ("correct", "probability")
        )
        names = {"change": "probability", "change_error": "probability_error"}
        changes = probability[list(names)].rename(columns=names)
        parts.append(accuracy.join(changes).reset_index())
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    table = table.drop(columns=["split", "after"])
    return table.drop_duplicates(ARM_ON_CLASS[:-1]).reset_index(drop=True)


def _outcome_columns(
    source: Source, table: pd.DataFrame, names: Mapping[str, list[str]]
) -> dict[str, Any]:
    pairs = pd.DataFrame(source.pairs, columns=PAIR)
    layer_rows = np.full(len(table), -1)  # all layers together
    is_single = (table["layer"] != JOINT).to_numpy()
    layer_rows[is_single] = _find_rows(table[is_single], source.layers[["series", "layer"]])
    columns = {"pair": ints(_find_rows(table, pairs)), "class": ints(table["class_id"]),
               "draw": ints(table["draw"]), "layer": ints(layer_rows),
               "images": ints(table["images"])}  # fmt: skip
    columns |= {key: ints(pd.Categorical(table[key], names[key]).codes) for key in names}
    numbers = ("before", "change", "change_error", "probability", "probability_error")
    return columns | {name: floats(table[name]) for name in numbers}


def _bins_of_units(source: Source, methods: list[str]) -> list[dict[str, Any]]:
    """Return the bin of every unit, classes x units, for each pair and method: 1 is q1, 0 none."""
    table = pd.concat([study.sets() for study in source.studies], ignore_index=True)
    table = table[table["arm"].str.fullmatch(r"q\d+")]
    bins_by_pair = []
    for (*pair_key, method), rows in table.groupby([*PAIR, "method"], observed=True):
        bins = np.zeros((len(source.classes), len(source.units)), dtype=np.uint8)
        bins[rows["class_id"].to_numpy(), source.unit_of(rows)] = rows["arm"].str[1:].astype(int)
        pair = source.pairs.index(tuple(pair_key))
        bins_by_pair.append({"pair": pair, "method": methods.index(method), "bin": bins.ravel()})
    return bins_by_pair


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
