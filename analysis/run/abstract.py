"""The structured abstract of a run's report, generated from its tables and records."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from analysis.exhibits.phrases import (
    cis_over_classes,
    join,
    name_parts,
    percent,
    points_text,
    share_ci_text,
)
from analysis.exhibits.tables import Table
from analysis.run.reversion import joint_means, main_method
from analysis.run.tables import (
    base_checkpoint,
    named_concepts,
    series_of,
    table_of_split,
    true_concepts,
)
from analysis.statistics.claims import ALPHA
from analysis.statistics.classes import class_changes, class_intervals, find_bins, smallest_wilcoxon
from harness.artifacts import Run
from harness.records import NAMED_OVERLAP
from harness.text import pluralise

UNTRAINED = "untrained"


def trained_groups(run: Run, groups: Iterable[str]) -> list[str]:
    """Return those groups of neurons that are of trained networks; the base can be of epoch 0."""
    untrained = {UNTRAINED} | ({"base"} if base_checkpoint(run).epoch == 0 else set())
    return [group for group in dict.fromkeys(groups) if group not in untrained]


def abstract_of_run(run: Run, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield the paragraphs on design, results and limits that the run can support."""
    yield f"Design. {_design(run, tables['neurons'].frame)}"
    if (alignment := tables.get("alignment")) is not None:
        yield f"Concepts. {_concepts(run, tables['neurons'].frame)}"
        yield f"Semantic space. {_shared_concepts(run, alignment.frame)}"
    if (reversion := tables.get("reversion")) is not None:
        yield f"Importance. {_importance(run, reversion.frame)}"
    yield f"Limits. {_limits(run)}"


def _design(run: Run, neurons: pd.DataFrame) -> str:
    configuration = run.manifest()["configuration"]
    sections = {section["name"]: section for section in configuration["series"]}
    series_texts = []
    for series, section in sections.items():
        series_rows = neurons[neurons["series"] == series]
        architecture = f"{section['architecture']}, " if section.get("architecture") else ""
        height, width = np.broadcast_to(section["crop"], 2)  # one side, or height and width
        series_texts.append(
            f"{series} ({architecture}images of {height} × {width} pixels, "
            f"{int(series_rows['neurons'].max())} probed neurons; epochs "
            f"{', '.join(map(str, series_rows['epoch']))})"
        )
    counts = []
    for split, name in (("train", "training"), ("probe", "probe"), ("test", "test")):
        if (index := table_of_split(run, "image_index", split)) is not None:
            counts.append(f"{len(index):,} {name}")
            classes = index["class_name"].nunique()
    kind = "images (synthetic)" if is_synthetic(run) else "images"
    return (
        f"{pluralise(len(sections), 'network')}, one training run{' each' * (len(sections) > 1)}: "
        f"{'; '.join(series_texts)}. {join(counts)} {kind} of "
        f"{pluralise(classes, 'class', 'classes')}; seed "
        f"{configuration['seed']}."
    )


def is_synthetic(run: Run) -> bool:
    return run.manifest()["configuration"]["images"]["source"] == "drawn"


def _concepts(run: Run, neurons: pd.DataFrame) -> str:
    """Describe the number of neurons with a true concept at the first and the last checkpoint of
    each series, and at that with the most."""
    concepts = named_concepts(run)
    assert concepts is not None
    parts = []
    for series in series_of(run):
        rows = neurons[neurons["series"] == series].sort_values("epoch")
        count = concepts[concepts["series"] == series].groupby("epoch").size()
        count = count.reindex(rows["epoch"], fill_value=0)
        peak = int(count.idxmax())
        counts = [
            f"{count[epoch]} at epoch {epoch}"
            + " (the maximum)" * bool(count[epoch] == count[peak])
            for epoch in sorted({rows["epoch"].iloc[0], peak, rows["epoch"].iloc[-1]})
        ]
        parts.append(f"in {series} ({rows['neurons'].max()} neurons), {join(counts)}")
    return (
        "The number of neurons with a true concept (the image part or attribute that overlaps most "
        f"with the neuron's activations; intersection over union at least {NAMED_OVERLAP}) was "
        f"as follows: {'; '.join(parts)}."
    )


def _shared_concepts(run: Run, alignment: pd.DataFrame) -> str:
    """Describe the share of neighbours with the same concept in the first space, for the most
    distant group of trained networks and for untrained networks."""
    method, base = alignment["method"].iloc[0], base_checkpoint(run)
    rows = alignment[alignment["method"] == method].set_index("group")
    group_names = {
        "base": "the base itself",
        "other epochs": f"other epochs of {base.series}",
        "other series": join([name for name in series_of(run) if name != base.series]),
        UNTRAINED: "untrained networks",
    }
    groups = [group for group in rows.index if group != UNTRAINED][-1:]
    parts = [
        f"{percent(row['share'])} in {group_names[group]} ({share_ci_text(row, '95 %')}; chance "
        f"{percent(row['chance'])}, largest possible share {percent(row['ceiling'])})"
        for group, row in rows.loc[[*groups, *rows.index.intersection([UNTRAINED])]].iterrows()
    ]
    return (
        f"Each neuron was compared with the five neurons of {base.series} at epoch {base.epoch} "
        f"(the base) that are nearest to it in the semantic space ({method}). The share of these "
        f"five that have its true concept is {join(parts)}."
    )


def _importance(run: Run, reversion: pd.DataFrame) -> str:
    """Describe the mean changes in accuracy for the sets of the main score, over pairs."""
    method = main_method(run)
    means = joint_means(run)
    changes = class_changes(means[means["method"] == method])
    means = changes.groupby(["class_id", "arm"], observed=True)["change"].mean().unstack("arm")
    if not (bins := find_bins(list(means.columns))):
        return f"The score {method} is undefined for all classes and pairs of epochs."
    last_bin, (part, _) = bins[-1], name_parts(len(bins))
    arms = {
        "q1": f"the most important {part} (by the score {method})",
        "random": "random sets",
        "matched": "sets matched in size of change",
        last_bin: f"the least important {part}",
    }
    means = means.assign(difference=means["q1"] - means["random"])
    ends = class_intervals(means)
    parts = [f"{points_text(*map(float, ends.loc[arm]))} for {name}" for arm, name in arms.items()]
    rows = reversion[reversion["method"] == method]
    n_ordered = int(((rows["q1"] < rows["random"]) & (rows["random"] < rows[last_bin])).sum())
    is_significant = rows["adjusted p (q1 vs random)"] < ALPHA
    opposite = int((is_significant & (rows["q1"] > rows["random"])).sum())
    opposite_text = f" (in {opposite} of them random sets reduced accuracy more)" * bool(opposite)
    is_powerless = smallest_wilcoxon(len(means), len(reversion)) >= ALPHA
    few_classes = pluralise(len(means), "class", "classes")
    powerless_text = f" (with {few_classes}, it cannot be significant)" * is_powerless
    pairs = pluralise(len(rows), "pair")
    return (
        "For pairs of epochs, the activations of a set of neurons at the later epoch were replaced "
        "by those at the earlier one (reverted), in all layers at once. Accuracy on held-out "
        f"images then changed, in percentage points, by {join(parts)} (means over "
        f"{pairs} of epochs; {cis_over_classes(len(means))}). The difference between the "
        f"most important {part} and random sets was "
        f"{points_text(*map(float, ends.loc['difference']))}; it was significant in "
        f"{int(is_significant.sum())} of {pairs}{opposite_text}{powerless_text}. "
        f"In {n_ordered} of {pairs} accuracy was lowest after the most important {part} was "
        f"reverted, higher after random sets, and highest after the least important {part}."
    )


def _limits(run: Run) -> str:
    count = len(series_of(run))
    sentences = [
        f"One training run of {'each of ' * (count > 1)}{pluralise(count, 'network')}: "
        "whether the results hold for other seeds or architectures was not tested."
    ]
    if is_synthetic(run):
        sentences.append("The images are synthetic.")
    if true_concepts(run) is not None:
        sentences.append(
            "Shares of neurons and of neighbours depend on the minimum overlap required for a true "
            f"concept ({NAMED_OVERLAP}), which is low."
        )
    return " ".join(sentences)
