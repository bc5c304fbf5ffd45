"""The values of one benchmark for its tables, figures and report; each is computed once."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.benchmark import measures
from analysis.exhibits.phrases import name_parts
from analysis.run import tables as run_tables
from analysis.statistics import comparisons
from analysis.statistics.alignment import (
    neurons_by_methods,
    self_ranks,
    shared_concepts,
    trained_steps,
)
from harness.concepts.space import SemanticSpace
from harness.images.sets import open_images
from harness.records import JOINT, NEURON, PAIR
from harness.results import Results


@dataclass(frozen=True, eq=False)
class Bench:
    """The results of one benchmark and the values computed from them."""

    results: Results

    @property
    def methods(self) -> list[str]:
        return self.results.methods

    @property
    def ablations(self) -> list[str]:
        return list(self.results.about["ablations"])

    @property
    def main(self) -> str:
        """The ablation of the main table: reversion if it was run, otherwise the first."""
        return "revert" if "revert" in self.ablations else self.ablations[0]

    @property
    def split(self) -> str:
        """The images of the main table: held-out images if arms were run on them."""
        splits = self.results.about["splits"]
        return "heldout" if "heldout" in splits else splits[0]

    @property
    def split_text(self) -> str:
        """The images of the main table, described in words."""
        return {"heldout": "held-out images", "importance": "the importance images"}[self.split]

    @property
    def verb(self) -> str:
        """The ablation as a verb form, as in "after … the most important quarter"."""
        return "reverting" if self.main == "revert" else "ablating"

    @property
    def parts(self) -> tuple[str, str]:
        """The name of one bin of a layer's neurons, and that of several (`name_parts`)."""
        return name_parts(self.results.about["arms"]["bins"])

    def linearises(self, method: str) -> str:
        return self.results.about["methods"][method]["linearises"]

    @property
    def layers(self) -> list[tuple[str, str]]:
        """The series and the names of the layers in which arms were run."""
        return [(s, name) for s, names in self.results.about["layers"].items() for name in names]

    @lru_cache(maxsize=32)  # noqa: B019 - there is one Bench per process
    def outcomes(
        self, ablation: str, layer: str = JOINT, outcome: str = "accuracy", split: str = ""
    ) -> pd.DataFrame:
        """Return `measures.pivot_outcomes` of one ablation, layer and split."""
        conditions = {"ablation": ablation, "layer": layer, "split": split or self.split}
        columns = [*measures.UNIT, *measures.COLUMNS, measures.value_column(outcome)]
        return measures.pivot_outcomes(self.results.records(False, columns, **conditions), outcome)

    @lru_cache(maxsize=64)  # noqa: B019
    def clustered_measure(
        self, measure: str, ablation: str = "", layer: str = JOINT, outcome: str = "accuracy",
        split: str = "",
    ) -> comparisons.Clustered:  # fmt: skip
        """Return a measure clustered by class; the columns are `methods`."""
        outcomes = self.outcomes(ablation or self.main, layer, outcome, split)
        values = measures.evaluate(outcomes, measures.MEASURES[measure], self.methods)
        return comparisons.clustered_by_class(values)

    def ranking(self, measure: str = "gap", **where: str) -> dict[str, float]:
        return dict(zip(self.methods, self.clustered_measure(measure, **where).value, strict=True))

    @cached_property
    def gap_differences(self) -> pd.DataFrame:
        """Comparisons of all pairs of methods by the gap (`comparisons.differences`)."""
        return comparisons.differences(self.clustered_measure("gap"), self.methods)

    @cached_property
    def order(self) -> list[str]:
        """The methods from best to worst by the gap."""
        value = self.ranking()
        return sorted(self.methods, key=lambda m: (-np.nan_to_num(value[m], nan=-9), m))

    @cached_property
    def classes(self) -> dict[int, str]:
        names = open_images(self.results.run, "test").classes
        return {class_id: names[class_id] for class_id in self.results.about["classes"]}

    def levels(self) -> Iterator[tuple[str, str, dict[str, float]]]:
        """Yield each factor, its level and the values of the methods at that level, which show how
        stable the ranking is."""
        for ablation in self.ablations:
            yield "ablation", ablation, self.ranking(ablation=ablation)
        for split in self.results.about["splits"]:
            yield "images", split, self.ranking(split=split)
        yield "outcome", "accuracy", self.ranking()
        yield "outcome", "probability", self.ranking(outcome="probability")
        for measure in ("gap", "area", "over random"):
            yield "measure", measure, self.ranking(measure)
        outcomes = self.outcomes(self.main)
        for series, group in outcomes.groupby(level="series"):
            if outcomes.index.get_level_values("series").nunique() > 1:
                yield "series", str(series), self.ranking_of(group)
        for (series, start, end), group in outcomes.groupby(level=PAIR):
            yield "pair", f"{series} {start} → {end}", self.ranking_of(group)
        for series, layer in self.layers:
            yield "layer", f"{series} {layer}", self.ranking_of(self.layer_outcomes(series, layer))

    def layer_outcomes(self, series: str, layer: str) -> pd.DataFrame:
        """Return `outcomes` of one layer of one series; no rows if none of its neurons changed."""
        outcomes = self.outcomes(self.main, layer)
        return outcomes[outcomes.index.get_level_values("series") == series]

    def ranking_of(self, outcomes: pd.DataFrame) -> dict[str, float]:
        """Return the gap of each method, mean over classes, for the rows of `outcomes`."""
        if outcomes.empty:
            return dict.fromkeys(self.methods, float("nan"))
        values = measures.evaluate(outcomes, measures.gap, self.methods)
        return values.groupby("class_id").mean().mean().to_dict()

    @cached_property
    def spaces(self) -> list[SemanticSpace]:
        """All spaces of the run, in the configured order; empty if none was computed. Raises
        ArtifactError if one of them is missing or damaged."""
        run = self.results.run
        return list(run_tables.spaces(run)) if run.holds("space") else []

    @cached_property
    def space_values(self) -> dict[str, pd.DataFrame]:
        """The values by which spaces are evaluated: task -> neurons x methods, for the neurons that
        have a vector in all spaces.

        The tasks are `concept: …`, the share of the five nearest base neurons with the same true
        concept, for neurons of the base, of other epochs, of other series and of untrained
        networks; `self_ranks`, the reciprocal rank of the same channel at the next epoch; and
        `stability`, the share of the five nearest base neurons that two draws of the method's
        randomness have in common.
        """
        by_task: dict[str, dict[str, pd.Series]] = {}
        run = self.results.run
        concepts, concept_shares = run_tables.named_concepts(run), {}
        if concepts is not None and self.spaces:
            shared = shared_concepts(self.spaces, concepts, run_tables.base_checkpoint(run))
            concept_shares = neurons_by_methods(shared)
        for space in self.spaces:
            by_task.setdefault("identity", {})[space.method] = _ranks_of_channels(space)
            stability = _shared_neighbours(self.results.neighbours, space.method)
            if stability is not None:
                by_task.setdefault("stability", {})[space.method] = stability
        others = {task: pd.DataFrame(columns).dropna() for task, columns in by_task.items()}
        return {f"concept: {group}": values for group, values in concept_shares.items()} | others


def _ranks_of_channels(space: SemanticSpace) -> pd.Series:
    """Return `self_ranks` for all consecutive trained epochs of all series, by neuron."""
    frames = [
        self_ranks(space, series, start, end).assign(series=series, epoch=end)
        for series, start, end in trained_steps(space)
    ]
    if not frames:
        return pd.Series(dtype=float)
    return pd.concat(frames).set_index(NEURON)["reciprocal_rank"]


def _shared_neighbours(neighbours: pd.DataFrame, method: str) -> pd.Series | None:
    """Return the share of nearest base neurons that two draws have in common, mean over all pairs
    of draws, per neuron; None with fewer than two draws."""
    draws_of_method = neighbours[neighbours["method"] == method]
    columns = [name for name in draws_of_method if str(name).startswith("nearest_")]
    draws_of_method = draws_of_method.set_index(["layer", "channel"]).sort_index()
    draws = [group[columns] for _, group in draws_of_method.groupby("seed")]
    if len(draws) < 2:
        return None
    shares = [
        [
            len({*x} & {*y} - {-1}) / (x >= 0).sum()  # a small base has fewer neighbours
            for x, y in zip(a.to_numpy(), b.to_numpy(), strict=True)
        ]
        for a, b in combinations(draws, 2)
    ]
    return pd.Series(np.mean(shares, axis=0), index=draws[0].index)
