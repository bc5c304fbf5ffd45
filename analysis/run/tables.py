"""The tables of a run: training, neurons, semantic spaces, reversion."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.tables import Table
from analysis.statistics import classes as reversion
from analysis.statistics.alignment import NAMED_OVERLAP, alignment_table, identity, mean_interval
from harness.artifacts import Run
from harness.concepts.space import SemanticSpace
from harness.concepts.space_methods import SPACES
from harness.records import JOINT, Checkpoint
from harness.registry import description
from harness.results import REVERSION, Results, has_results, read_results

SEED = 0  # of the bootstraps: the same run gives the same tables to the byte


def spaces(run: Run) -> list[SemanticSpace]:
    """All spaces of the run, in the configured order."""
    return [SemanticSpace.load(run, name) for name in run.manifest()["space_methods"]]


def base_checkpoint(run: Run) -> Checkpoint:
    return Checkpoint(**run.manifest()["base"])


@lru_cache(maxsize=1)
def reversion_records(run: Run) -> pd.DataFrame:
    """All reversion records of the run, read once for all tables and figures."""
    return read_results(run.root, REVERSION).records(with_controls=True)


def concepts(run: Run) -> pd.DataFrame | None:
    """The true concepts of all neurons; None for images without masks or attributes."""
    return run.tables("concepts") if run.holds("concepts") else None


@shelf.table("run", "networks")
def training(run: Run) -> Table | None:
    if not run.holds("training_log"):
        return None
    log = run.tables("training_log")
    probed = run.tables("space_neurons")[["series", "epoch"]].drop_duplicates()
    kept = log.merge(probed, on=["series", "epoch"])
    columns = ["series", "epoch", "train_accuracy", "test_accuracy"]
    return Table(
        "training",
        "Accuracy of the checkpoints",
        "Share of images classified correctly: training images (augmented, during training) and "
        "test images, which are never used for training.",
        kept[columns],
        {"train_accuracy": "{:.3f}", "test_accuracy": "{:.3f}"},
    )


@shelf.table("run", "networks")
def neurons(run: Run) -> Table:
    layers = run.tables("layers").groupby("series")["channels"].sum()
    first = spaces(run)[0]
    living = first.neurons.groupby(["series", "epoch"]).agg(
        alive=("channel", "size"), coverage=("coverage", "mean")
    )
    table = living.reset_index()
    table.insert(2, "neurons", table["series"].map(layers))
    table.insert(4, "dead", table["neurons"] - table["alive"])
    return Table(
        "neurons",
        "Neurons of the checkpoints",
        "A dead neuron is active on no probe image and is excluded. Coverage: mean share of a "
        "neuron's stimuli that are also stimuli of a base neuron and therefore have their own "
        "vector in the semantic space.",
        table,
        {"coverage": "{:.3f}"},
    )


@shelf.table("run", "space")
@lru_cache(maxsize=1)
def alignment(run: Run) -> Table | None:
    named = concepts(run)
    if named is None:
        return None
    named = named[named["iou"] >= NAMED_OVERLAP]
    table = alignment_table(spaces(run), named, base_checkpoint(run), np.random.default_rng(SEED))
    if table.empty:
        return None
    number = "{:.3f}"
    return Table(
        "alignment",
        "Neighbours that share the true concept",
        "Share of a neuron's five nearest base neurons that have its true concept (by masks or "
        "attributes of the images), with 95 % bootstrap CIs over neurons; chance: the share of "
        "such neurons among all base neurons. Neurons whose overlap with their concept is below "
        f"{NAMED_OVERLAP} are excluded. Untrained: networks with random weights.",
        table,
        dict.fromkeys(["share", "low", "high", "chance", "coverage"], number),
    )


@shelf.table("run", "space", "identity")
def identities(run: Run) -> Table | None:
    rng = np.random.default_rng(SEED)
    rows = []
    for space in spaces(run):
        trained = space.neurons.loc[space.neurons["epoch"] > 0, ["series", "epoch"]]
        for series, group in trained.drop_duplicates().groupby("series", sort=True):
            epochs = sorted(group["epoch"])
            for start, end in pairwise(epochs):
                ranks = identity(space, series, start, end)["reciprocal_rank"].to_numpy(float)
                mean, low, high = mean_interval(ranks, rng)
                rows.append(
                    {
                        "method": space.method,
                        "series": series,
                        "epochs": f"{start} → {end}",
                        "neurons": len(ranks),
                        "mrr": mean,
                        "low": low,
                        "high": high,
                    }
                )
    if not rows:
        return None
    return Table(
        "identity",
        "Identity of channels over epochs",
        "Mean reciprocal rank of the same channel at the later epoch among all neurons of its "
        "series at that epoch (1: always nearest), with 95 % bootstrap CIs over neurons. A space "
        "that groups neurons by concept need not have a high value.",
        pd.DataFrame(rows),
        dict.fromkeys(["mrr", "low", "high"], "{:.3f}"),
    )


@shelf.table("run", "space")
def space_methods(run: Run) -> Table:
    names = run.manifest()["space_methods"]
    return Table(
        "space_methods",
        "Semantic spaces",
        "What each method computes.",
        pd.DataFrame({"method": names, "space": [description(SPACES.get(n)) for n in names]}),
    )


def methods_of(results: Results) -> Table:
    """The importance methods of an ablation study, each with what it computes."""
    about = results.about["methods"]
    rows = [
        {
            "method": name,
            "score of an image": of.get("description", ""),
            "over images": of.get("over images", ""),
            "linearises": of["linearises"],
        }
        for name, of in about.items()
    ]
    return Table(
        "methods",
        "Importance methods",
        "What each score computes for a neuron, a class and two checkpoints. Linearises: the "
        "ablation of which the score is a first-order approximation.",
        pd.DataFrame(rows),
    )


@shelf.table("run", "reversion")
def methods(run: Run) -> Table | None:
    return methods_of(read_results(run.root, REVERSION)) if has_results(run, REVERSION) else None


HELD_OUT = "held-out images"


def _reversion_table(
    run: Run, name: str, split: str, seen: str, outcome: str = "accuracy"
) -> Table | None:
    if not has_results(run, REVERSION):
        return None
    records = reversion_records(run)
    joint = records[(records["layer"] == JOINT) & (records["split"] == split)]
    table = reversion.summary(joint, outcome).drop(columns=["split"])
    epochs = table["epoch_from"].astype(str) + " → " + table["epoch_to"].astype(str)
    table.insert(1, "epochs", epochs)
    table = table.drop(columns=["epoch_from", "epoch_to"])
    table = table.rename(
        columns={
            "page": "p (Page)",
            "wilcoxon": "p (q1 vs random)",
            "matched_test": "p (q1 vs matched)",
        }
    )
    changes = [*reversion.quartiles(list(table.columns)), "random", "matched", "all"]
    measure = {
        "accuracy": "top-1 accuracy",
        "top-5": "top-5 accuracy",
        "probability": "the class's probability",
        "objective": "what importance is measured on",
    }[outcome]
    return Table(
        name,
        f"{outcome.capitalize()} when evolutions are reverted ({seen})",
        f"Change in {measure}, mean over classes, when the neurons of a set are reverted to the "
        "earlier checkpoint in all layers at once: quarters by importance (q1: the most "
        "important), random sets of that size, sets matched to q1 in size of change, and all "
        f"neurons. Measured on {seen}. Tests over classes: Page's trend test over the quarters and "
        "two-sided Wilcoxon tests, Holm-adjusted over the table's rows.",
        table,
        {"before": "{:.3f}"}
        | dict.fromkeys(changes, "{:+.3f}")
        | dict.fromkeys([c for c in table.columns if c.startswith("p (")], "{:.2g}"),
    )


@shelf.table("run", "reversion", "reversion")
def reversion_heldout(run: Run) -> Table | None:
    return _reversion_table(run, "reversion", "heldout", HELD_OUT)


@shelf.table("run", "reversion")
def reversion_top5(run: Run) -> Table | None:
    return _reversion_table(run, "reversion_top5", "heldout", HELD_OUT, "top-5")


@shelf.table("run", "reversion")
def reversion_probability(run: Run) -> Table | None:
    return _reversion_table(run, "reversion_probability", "heldout", HELD_OUT, "probability")


@shelf.table("run", "reversion")
def reversion_objective(run: Run) -> Table | None:
    if not has_results(run, REVERSION) or "objective_before" not in reversion_records(run):
        return None  # of a run that was made before there were objectives
    return _reversion_table(run, "reversion_objective", "heldout", HELD_OUT, "objective")


@shelf.table("run", "reversion")
def reversion_importance(run: Run) -> Table | None:
    seen = "the images on which importance was estimated"
    return _reversion_table(run, "reversion_importance", "importance", seen)


@shelf.table("run", "reversion")
def reversion_layers(run: Run) -> Table | None:
    if not has_results(run, REVERSION):
        return None
    records = reversion_records(run)
    depth = run.tables("layers").set_index(["series", "layer"])["depth"]
    held_out = records[(records["layer"] != JOINT) & (records["split"] == "heldout")]
    frames = []
    for (series, layer), group in held_out.groupby(["series", "layer"], observed=True):
        frames.append(reversion.summary(group).assign(layer=layer, depth=depth[series, layer]))
    table = pd.concat(frames, ignore_index=True)
    table["epochs"] = table["epoch_from"].astype(str) + " → " + table["epoch_to"].astype(str)
    arms = [*reversion.quartiles(list(table.columns)), "random", "matched", "all"]
    table = table.sort_values(["series", "epoch_from", "epoch_to", "method", "depth"])
    return Table(
        "reversion_layers",
        "Accuracy when evolutions of one layer are reverted",
        "As in the joint table, one layer at a time, on held-out images: change in top-1 accuracy, "
        "mean over classes.",
        table[["series", "epochs", "method", "layer", "before", *arms]].reset_index(drop=True),
        {"before": "{:.3f}"} | dict.fromkeys(arms, "{:+.3f}"),
    )


#: The first artifact of each stage's pieces of work -> what the stage does.
_STAGES = {
    "images": "draw images",
    "image_index": "list images",
    "weights": "train a series",
    "stimuli": "probe a checkpoint",
    "concepts": "name a checkpoint's concepts",
    "space": "place all neurons, by one method",
    "map": "draw the map",
    "importance": "score a pair's evolutions by one method",
    "records": "ablate one method's sets on a pair",
}


@shelf.table("run", "limits")
def times(run: Run) -> Table | None:
    """The one table that differs between runs of the same configuration."""
    found = run.seconds()
    rows = [
        {"work": what, "pieces": len(found[kind]), "total, s": sum(found[kind]),
         "longest, s": max(found[kind])}
        for kind, what in _STAGES.items()
        if kind in found
    ]  # fmt: skip
    if not rows:
        return None
    return Table(
        "times",
        "Run times",
        "Seconds per piece of work, each in one process with one thread; after an interruption, "
        "of the last attempt. They depend on the machine.",
        pd.DataFrame(rows),
        dict.fromkeys(["total, s", "longest, s"], "{:.1f}"),
    )
