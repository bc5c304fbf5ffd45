"""The tables of a run's reversion study: how accuracy changes when evolutions are reverted."""

from collections.abc import Mapping
from functools import lru_cache, partial
from math import inf

import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.phrases import cis_over_classes, count_places, join, p_cell
from analysis.exhibits.tables import P_VALUE, Table
from analysis.run.tables import sort_by_series
from analysis.statistics import classes
from harness.artifacts import Run
from harness.files import ArtifactError
from harness.records import JOINT, PAIR
from harness.results import REVERSION, Results, has_results, read_results


@lru_cache(maxsize=8)
def reversion_study(run: Run) -> Results:
    """Return the run's reversion study (see `read_results`), read once for all tables."""
    return read_results(run.root, REVERSION)


@lru_cache(maxsize=8)
def reversion_means(run: Run, outcome: str, layer: str | None = JOINT) -> pd.DataFrame:
    """Return the means over the images of each class (`harness.results.mean_by_class`), for the
    pairs of epochs between which some neuron changed; no rows if the run lacks the outcome.

    Args:
        outcome: a key of `classes.OUTCOMES`. layer: None for all layers.

    Raises:
        ArtifactError: there is no such pair, or no score is defined.
    """
    criteria = {} if layer is None else {"layer": layer}
    means = reversion_study(run).class_means(
        classes.OUTCOMES[outcome], with_controls=True, **criteria
    )
    if means.empty:
        return means
    changed = means["arm"].eq("all").groupby([means[name] for name in PAIR]).transform("any")
    if not changed.any():
        raise ArtifactError(
            f"{run.root}: in no pair of epochs did a neuron change, so that nothing could be "
            f"reverted; leave out checkpoints with the same weights (`skip`), which `conceptevo "
            f"audit` names"
        )
    if not means["arm"].eq("q1").any():
        raise ArtifactError(
            f"{run.root}: no neuron could be ranked, because the scores "
            f"{', '.join(reversion_study(run).methods)} are undefined for all classes and pairs of "
            f"epochs; name others (evolve.methods)"
        )
    return means[changed]


@shelf.sentences("run", "reversion")
def unchanged_pairs(run: Run, tables: Mapping[str, Table]) -> list[str]:
    if not has_results(run, REVERSION):
        return []
    about = reversion_study(run).about["pairs"]
    pairs = {tuple(pair[name] for name in PAIR) for pair in about}
    changed = (
        reversion_means(run, "accuracy")[PAIR].drop_duplicates().itertuples(index=False, name=None)
    )
    unchanged = [f"{name} {start} → {end}" for name, start, end in sorted(pairs - set(changed))]
    return [f"Left out, because no neuron changed: {join(unchanged)}."] if unchanged else []


def methods_table(results: Results) -> Table:
    """Return the table of the importance scores of an ablation study and their definitions."""
    rows = [
        {"method": name, "score on one image": about.get("description", ""),
         "aggregation over images": about.get("over images", ""),
         "approximates": about["linearises"]}
        for name, about in results.about["methods"].items()
    ]  # fmt: skip
    return Table(
        "methods",
        "Definitions of the importance scores",
        "The score of a neuron for a class and two checkpoints. Approximates: the ablation "
        "(revert: activations are replaced by those of the earlier checkpoint) whose effect the "
        "score approximates to first order; empty if there is none. If scores are evaluated by "
        "this ablation, a good result is weaker evidence than for other scores.",
        pd.DataFrame(rows),
    )


@shelf.table("run", "method")
def methods(run: Run) -> Table | None:
    return methods_table(reversion_study(run)) if has_results(run, REVERSION) else None


#: Outcome -> its name in the title and in the caption of a table, and the format of a change.
_MEASURES = {
    "accuracy": ("accuracy", "top-1 accuracy (percentage points)", "{:+.0%}"),
    "top-5": ("top-5 accuracy", "top-5 accuracy (percentage points)", "{:+.0%}"),
    "probability": (
        "the class's probability",
        "the softmax probability of the image's class (percentage points)",
        "{:+.0%}",
    ),
    "objective": ("the objective", "the objective (see Method)", "{:+.2f}"),
}
#: Largest chance level (5 / outputs) at which top-5 accuracy is still informative and shown.
MOST_CHANCE = 0.3
_TESTS = {
    "page": "adjusted p (Page)",
    "wilcoxon": "adjusted p (q1 vs random)",
    "matched_test": "adjusted p (q1 vs matched)",
}


def joint_means(run: Run, split: str = "heldout", outcome: str = "accuracy") -> pd.DataFrame:
    """Return `reversion_means` of sets reverted in all layers at once, on one split's images."""
    means = reversion_means(run, outcome)
    return means[means["split"] == split]


def count_images(means: pd.DataFrame, kind: str = "") -> str:
    """Return the number of images in words: "300 held-out images (25 per class)"."""
    per_class = means.groupby("class_id")["images"].max()
    return f"{per_class.sum():,} {kind}images ({describe_range(per_class)} per class)"


def describe_range(counts: pd.Series) -> str:
    """Return the range of counts in words: "25", or "20 to 25"."""
    least, most = counts.min(), counts.max()
    return str(most) if least == most else f"{least} to {most}"


def arm_names(columns: pd.Index) -> list[str]:
    """Return the arms of a table in display order: quarters by importance, then controls."""
    return [*classes.find_bins(list(columns)), "random", "matched", "all"]


def scores_table(run: Run, name: str, split: str, outcome: str) -> Table | None:
    """Return the table of changes of one outcome on the images of one split, for every score, with
    tests; None if the run lacks them or the outcome is not informative."""
    if not has_results(run, REVERSION):
        return None
    means = joint_means(run, split, outcome)
    if means.empty:
        return None  # runs of older versions have no objectives
    if outcome == "top-5" and top5_chance(run) > MOST_CHANCE:
        return None
    is_share = outcome != "objective"
    table = merge_epochs(classes.summary(means, 1.0 if is_share else inf).drop(columns=["split"]))
    table = table.rename(columns=_TESTS)
    title_name, measure, form = _MEASURES[outcome]
    uses_importance_images = split == "importance"
    images_text = count_images(means, "" if uses_importance_images else "held-out ")
    images_text += " that were also used to compute importance" * uses_importance_images
    arms = arm_names(table.columns)
    if not is_share:  # its values can be tiny
        form = f"{{:+.{count_places(table.filter(arms).stack(), 2)}f}}"
    limit = classes.smallest_wilcoxon(table["classes"].max(), len(table))
    limit_text = f" The adjusted p-value of q1 against other sets cannot be below {p_cell(limit)}."
    return Table(
        name,
        f"Change in {title_name} when evolutions are reverted in all layers"
        + ", on images used for importance" * uses_importance_images,
        f"Change in {measure} on {images_text}: mean over classes, with unadjusted "
        f"{cis_over_classes(table['classes'].max(), table['classes'].min())}. Before: the value "
        "at the later checkpoint without reversion. Sets and tests are defined under Method; "
        "p-values are adjusted by Holm's method over the rows of the table."
        + (limit_text if limit >= 0.001 else ""),
        table,
        {"before": form.replace("+", "")}
        | {f"{arm}{end}": form for arm in arms for end in ("", " low", " high")}
        | dict.fromkeys(_TESTS.values(), P_VALUE),
        hidden=("classes",),
    )


def top5_chance(run: Run) -> float:
    """Return the top-5 accuracy of guessing, for the network of the run with the fewest outputs."""
    return min(1.0, 5 / float(run.tables("check")["outputs"].min()))


def merge_epochs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the two epochs of a pair as one column, after the series."""
    epochs = table["epoch_from"].astype(str) + " → " + table["epoch_to"].astype(str)
    table = table.drop(columns=["epoch_from", "epoch_to"])
    table.insert(1, "epochs", epochs)
    return table


def main_method(run: Run) -> str:
    """Return the score of the report's main results: the first configured one."""
    return str(run.manifest()["importance_methods"][0])


@shelf.table("run", "supplement", "matching")
def matching(run: Run) -> Table | None:
    if not has_results(run, REVERSION):
        return None
    results, parts = reversion_study(run), []
    for block in results.class_blocks:
        sets, sizes = results.sets(class_id=block), results.sizes(class_id=block)
        if sizes.empty:
            return None  # runs of older versions do not list them
        sets = sets[sets["arm"].isin(["q1", "q2", "matched"])]
        if "matched" in set(sets["arm"]):  # if nothing changed, nothing can be matched
            parts.append(classes.closeness(sets, sizes))
    if not parts:
        return None
    return Table(
        "matching",
        "How close matched sets are to q1 in size of change",
        "Size of change: norm of the change in a neuron's activation, as in the score “change”. "
        "Matched / q1: mean size of change in the matched set divided by that in q1, mean over "
        "classes and layers. Within 10 %: share of classes and layers with a ratio between 0.9 "
        "and 1.1. Equal to q2: share of classes and layers in which the matched set is q2. The "
        "score “change” ranks neurons by size of change, so its matched set is usually q2 itself "
        "and not a separate control. Layers in which no neuron of q1 changed are left out.",
        merge_epochs(classes.mean_closeness(pd.concat(parts))),
        {"ratio": "{:.2f}", "within 10 %": "{:.2f}", "equal to q2": "{:.2f}"},
        headings={"ratio": "size, matched / q1", "sets": "classes × layers"},
    )


#: The tables of all scores: name -> section, split of the images, outcome.
ALL_SCORES = {
    "reversion": ("reversion", "heldout", "accuracy"),
    "reversion_top5": ("supplement", "heldout", "top-5"),
    "reversion_probability": ("supplement", "heldout", "probability"),
    "reversion_objective": ("supplement", "heldout", "objective"),
    "reversion_importance": ("supplement", "importance", "accuracy"),
}
for _name, (_section, _split, _outcome) in ALL_SCORES.items():
    shelf.table("run", _section, _name)(
        partial(scores_table, name=_name, split=_split, outcome=_outcome)
    )


@shelf.table("run", "supplement")
def reversion_layers(run: Run) -> Table | None:
    if not has_results(run, REVERSION):
        return None
    means = reversion_means(run, "accuracy", None)
    depth = run.tables("layers").set_index(["series", "layer"])["depth"]
    held_out = means[(means["layer"] != JOINT) & (means["split"] == "heldout")]
    frames = [
        classes.summary(group).assign(layer=layer, depth=depth[series, layer])
        for (series, layer), group in held_out.groupby(["series", "layer"], observed=True)
    ]
    table = pd.concat(frames, ignore_index=True)
    arms = arm_names(table.columns)
    table = table.sort_values(["epoch_from", "epoch_to", "method", "depth"])
    table = merge_epochs(sort_by_series(run, table))
    return Table(
        "reversion_layers",
        "Change in accuracy when evolutions of one layer are reverted",
        "Change in top-1 accuracy (percentage points) on held-out images when a set is reverted in "
        "one layer only; mean over classes, layers in order of depth.",
        table[["series", "epochs", "method", "layer", "before", *arms]],
        {"before": "{:.0%}"} | dict.fromkeys(arms, "{:+.0%}"),
    )
