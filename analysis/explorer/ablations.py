"""The scores of evolutions and the outcomes of their ablations, for the explorer's page."""

import logging
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from analysis.exhibits.phrases import join, name_parts
from analysis.explorer.columns import floats, ints
from analysis.explorer.data import UNIT, Source, find_rows
from harness.records import CONTROLS, JOINT, PAIR
from harness.results import ARM_ON_CLASS, Results

logger = logging.getLogger(__name__)

SET = [*PAIR, "method", "class_id", "arm", "draw"]
#: Largest size of the scores in the page, in bytes: browsers do not open pages of a gigabyte.
LARGEST_SCORES = 200e6
#: Bytes of a unit's score for a class: score, standard error, rank and bin.
SCORE_BYTES = 4 + 4 + 2 + 1
SCORE_COLUMNS = [*UNIT, "class_id", "score", "stderr", "rank", "images"]
#: The split whose outcomes are shown: images on which no score was computed.
SPLIT = "heldout"


def ablation_columns(source: Source) -> dict[str, Any]:
    """Return the page's data on importance and ablations; arrays are not packed."""
    if not source.studies:
        return {"pairs": [], "methods": [], "part": "part", "scored": ints([]), "importance": [],
                "bins": [], "leftOut": "", "outcomes": None}  # fmt: skip
    methods, classes, left_out = _choose_scores(source)
    if left_out:
        logger.warning("%s", left_out)
    importance, bins = [], []
    for (index, (series, start, end)), (number, method) in product(
        enumerate(source.pairs), enumerate(methods)
    ):
        # read one by one: those of all networks and classes may not fit into the memory
        key = {"pair": index, "method": number}
        where: dict[str, Any] = {"series": series, "epoch_from": [start], "epoch_to": [end]}
        where |= {"method": method, "class_id": classes}
        tables = [study.importance(SCORE_COLUMNS, **where) for study in source.studies]
        if len(rows := pd.concat(tables).drop_duplicates(["layer", "channel", "class_id"])):
            importance.append(key | _scores(source, rows, classes))
        rows = pd.concat([study.sets(**where) for study in source.studies])
        if len(rows) and len(rows := rows[rows["arm"].str.fullmatch(r"q\d+")]):
            bins.append(key | _bins(source, rows, classes))
    outcomes = ablation_outcomes(source.studies)
    outcomes = outcomes[outcomes["method"].isin([*methods, CONTROLS])]
    arms = sorted(set(outcomes["arm"]))
    names = {"arm": arms, "method": sorted(set(outcomes["method"])),
             "ablation": sorted(set(outcomes["ablation"]))}  # fmt: skip
    return {
        "pairs": [
            {"series": source.series.index(s), "from": int(start), "to": int(end)}
            for s, start, end in source.pairs
        ],
        "methods": methods,
        "part": name_parts(source.studies[0].about["arms"]["bins"])[0],
        "scored": ints(classes),
        "importance": importance,
        "leftOut": left_out,
        "steps": max((study.about["arms"].get("steps", 8) for study in source.studies), default=8),
        "outcomes": {"names": names, **_outcome_columns(source, outcomes, names)},
        "bins": bins,
    }


def _choose_scores(source: Source) -> tuple[list[str], list[int], str]:
    """Return the methods and the class ids whose scores the page can hold, and a sentence on what
    is left out ("" if nothing is): the last methods, or else the last classes."""
    methods = list(dict.fromkeys(m for study in source.studies for m in study.methods))
    classes = sorted({c for study in source.studies for c in study.about["classes"]})
    units = sum(len(source.units_of_series[series]) for series, _, _ in source.pairs)
    fitting = max(int(LARGEST_SCORES / (SCORE_BYTES * units)), 1)  # classes, by one method
    kept_classes, kept_methods = classes[:fitting], methods[: max(fitting // len(classes), 1)]
    texts = [f"of the method {name}" for name in methods[len(kept_methods) :]]
    if missing := len(classes) - len(kept_classes):
        texts.append(f"for {missing:,} of {len(classes):,} classes")
    sentence = f"Left out, as browsers do not open larger pages: the scores {join(texts)}."
    return kept_methods, kept_classes, sentence * bool(texts)


def _scores(source: Source, rows: pd.DataFrame, classes: list[int]) -> dict[str, Any]:
    """Return score, standard error and rank within the layer of the units of one series, classes x
    units; missing values are NaN, and −1 for ranks."""
    block, place = _block(source, rows, classes)
    shape = len(classes), block["units"]
    score, error, rank = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, -1)
    score[place], error[place], rank[place] = rows["score"], rows["stderr"], rows["rank"]
    return block | {"score": floats(score.ravel()), "error": floats(error.ravel()),
                    "rank": ints(rank.ravel()), "images": int(rows["images"].max())}  # fmt: skip


def _bins(source: Source, rows: pd.DataFrame, classes: list[int]) -> dict[str, Any]:
    """Return the bin of every unit of one series, classes x units: 1 is q1, 0 none."""
    block, place = _block(source, rows, classes)
    bins = np.zeros((len(classes), block["units"]), dtype=np.uint8)
    bins[place] = rows["arm"].str[1:].astype(int)
    return block | {"bin": bins.ravel()}


def _block(
    source: Source, rows: pd.DataFrame, classes: list[int]
) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray]]:
    """Return the first unit and the number of units of the series of these rows, and the place of
    each row in an array classes x units."""
    units = source.units_of_series[str(rows["series"].iloc[0])]
    class_rows = pd.Index(classes).get_indexer(rows["class_id"].to_numpy())
    place = class_rows, source.unit_of(rows) - units.start
    return {"first": units.start, "units": len(units)}, place


def ablation_outcomes(studies: list[Results]) -> pd.DataFrame:
    """Summarise the effect of each ablation on held-out images, per set, layer, class, ablation.

    Returns:
        the columns SET, ablation, layer, images (their number), before (accuracy), change (of
        accuracy, after minus before), change_error (its standard error over images) and probability
        (change of the class's probability).
    """
    parts = []
    for study in studies:
        accuracy, probability = (
            study.class_means(outcome, split=SPLIT).set_index(ARM_ON_CLASS)
            for outcome in ("correct", "probability")
        )
        parts.append(accuracy.join(probability["change"].rename("probability")).reset_index())
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    table = table.drop(columns=["split", "after"])
    return table.drop_duplicates(ARM_ON_CLASS[:-1]).reset_index(drop=True)


def _outcome_columns(
    source: Source, table: pd.DataFrame, names: Mapping[str, list[str]]
) -> dict[str, Any]:
    pairs = pd.DataFrame(source.pairs, columns=PAIR)
    layer_rows = np.full(len(table), -1)  # all layers together
    is_single = (table["layer"] != JOINT).to_numpy()
    layer_rows[is_single] = find_rows(table[is_single], source.layers[["series", "layer"]])
    columns = {"pair": ints(find_rows(table, pairs)), "class": ints(table["class_id"]),
               "draw": ints(table["draw"]), "layer": ints(layer_rows),
               "images": ints(table["images"])}  # fmt: skip
    columns |= {key: ints(pd.Categorical(table[key], names[key]).codes) for key in names}
    numbers = ("before", "change", "change_error", "probability")
    return columns | {name: floats(table[name]) for name in numbers}
