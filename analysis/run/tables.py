"""The tables of a run on networks, neurons and semantic spaces (on reversion: `reversion.py`)."""

from collections.abc import Iterator
from functools import lru_cache

import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.phrases import join
from analysis.exhibits.tables import P_VALUE, Table
from analysis.statistics.alignment import (
    NORMALISED,
    alignment_differences,
    alignment_table,
    self_ranks,
    shared_concepts,
    trained_steps,
)
from analysis.statistics.comparisons import clustered_by_layer
from harness.artifacts import Artifact, Run
from harness.concepts.space import SemanticSpace
from harness.concepts.space_methods import SPACES
from harness.records import NAMED_OVERLAP, NEURON, Checkpoint
from harness.registry import description


def spaces(run: Run) -> Iterator[SemanticSpace]:
    """Yield the spaces of a run, read one by one; the first is the main one."""
    return (SemanticSpace.load(run, name) for name in run.manifest()["space_methods"])


def series_of(run: Run) -> list[str]:
    """Return the names of the run's series, in the order of the configuration."""
    return [section["name"] for section in run.manifest()["configuration"]["series"]]


def sort_by_series(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """Sort the rows of a table by series, in the order of the configuration."""
    positions = {name: position for position, name in enumerate(series_of(run))}
    return table.sort_values(
        "series", key=lambda names: names.map(positions), kind="stable", ignore_index=True
    )


def base_checkpoint(run: Run) -> Checkpoint:
    return Checkpoint(**run.manifest()["base"])


def checkpoints_of(run: Run) -> pd.MultiIndex:
    """Return the series and epoch of every checkpoint, also of those whose neurons are all dead."""
    keys = next(spaces(run)).neurons[["series", "epoch"]].drop_duplicates()
    if (by_series := run.manifest().get("checkpoints")) is not None:
        rows = [(name, epoch) for name, epochs in by_series.items() for epoch in epochs]
        keys = pd.DataFrame(rows, columns=keys.columns)
    return pd.MultiIndex.from_frame(keys.sort_values(["series", "epoch"]))


def true_concepts(run: Run) -> pd.DataFrame | None:
    """Return the true concepts of all neurons; None for images without masks or attributes."""
    return _rows(run.tables("concepts")) if run.holds("concepts") else None


def training_log(run: Run) -> pd.DataFrame | None:
    """Return one row per epoch of each series that the run trained; None if it trained none."""
    if not run.holds("training_log"):
        return None
    series = run.manifest()["configuration"]["series"]
    trained = [section["name"] for section in series if section["source"] == "train"]
    log = run.tables("training_log")
    return _rows(log[log["series"].isin(trained)])


def describe_training(run: Run) -> str:
    """Say how training accuracy was computed, for captions."""
    sections = [s for s in run.manifest()["configuration"]["series"] if s["source"] == "train"]
    plain = [section["name"] for section in sections if not section["training"]["augment"]]
    augmented = "augmented" + f" except in {join(plain)}" * bool(plain) + ", "
    return augmented * (len(plain) < len(sections)) + "averaged over the epoch"


def _rows(table: pd.DataFrame) -> pd.DataFrame | None:
    """Return a table; None if it has no rows, as those of earlier configurations are left out."""
    return None if table.empty else table


def named_concepts(run: Run) -> pd.DataFrame | None:
    """Return the neurons with a true concept: those with an overlap ≥ NAMED_OVERLAP."""
    table = true_concepts(run)
    return None if table is None else table[table["iou"] >= NAMED_OVERLAP]


def table_of_split(run: Run, kind: str, split: str) -> pd.DataFrame | None:
    """Return a table of the images of one split; None if the run lacks it."""
    artifact = Artifact(kind, (split,))
    return run.table(artifact) if run.path(artifact).exists() else None


def count_test_images(run: Run) -> int:
    return len(run.table(Artifact("image_index", ("test",))))


def count_saturated(run: Run) -> int:
    """Return how many neurons, of all checkpoints, have the same activation for all their stimuli,
    if these are several: other images may have it, too."""
    activations = run.tables("stimuli").groupby(NEURON)["activation"].agg(["min", "max", "size"])
    return int(((activations["min"] == activations["max"]) & (activations["size"] > 1)).sum())


@shelf.table("run", "supplement")
def neurons(run: Run) -> Table:
    layers = run.tables("layers").groupby("series")["channels"].sum()
    first = next(spaces(run))
    alive = first.neurons.groupby(["series", "epoch"]).agg(
        alive=("channel", "size"), coverage=("coverage", "mean")
    )
    alive = alive.reindex(checkpoints_of(run)).fillna({"alive": 0}).astype({"alive": int})
    table = sort_by_series(run, alive.reset_index())
    table.insert(2, "neurons", table["series"].map(layers))
    table.insert(4, "dead", table["neurons"] - table["alive"])
    caption = (
        "Neurons of the probed layers. Dead neurons are defined under Method and excluded; the "
        "others are alive. Coverage: mean share of a neuron's stimuli that are used by the "
        f"{first.method} space."
    )
    accuracy = ["train_accuracy", "test_accuracy"]
    title = "Checkpoints: neurons"
    if (log := training_log(run)) is not None:
        title += " and accuracy"
        rows = log[["series", "epoch", *accuracy]]
        table = table.merge(rows, on=["series", "epoch"], how="left")
        caption += (
            f" Accuracy: on training images ({describe_training(run)}) and on all "
            f"{count_test_images(run):,} test images, which are not used for training."
        )
    formats = dict.fromkeys(["coverage", *accuracy], "{:.3f}")
    return Table("neurons", title, caption, table, formats)


@lru_cache(maxsize=1)
def _shared_concepts(run: Run) -> pd.DataFrame | None:
    """Return `shared_concepts` of the run; None if no neuron has a true concept."""
    if (concepts := named_concepts(run)) is None:
        return None
    shared = shared_concepts(spaces(run), concepts, base_checkpoint(run))
    return None if shared.empty else shared


@shelf.table("run", "space")
def alignment(run: Run) -> Table | None:
    if (shared := _shared_concepts(run)) is None:
        return None
    numbers = ["share", "low", "high", "chance", "ceiling", "coverage", *NORMALISED]
    return Table(
        "alignment",
        "Neighbours with the same true concept",
        "Share of a neuron's five nearest base neurons with the same true concept, with 95 % CIs "
        "(t over layers, as neurons of a layer are alike). Chance: the share of base neurons "
        "with that concept. Ceiling: the largest possible share, below 1 where fewer than five "
        "base neurons have the concept. Normalised: (share − chance) / (ceiling − chance), 0 at "
        "chance and 1 at the ceiling. Only neurons with a true concept (overlap of at least "
        f"{NAMED_OVERLAP}) and a position in all spaces are counted. Coverage: mean share of a "
        "neuron's stimuli that the space uses (sgns and ppmi: those that are also stimuli of a "
        "base neuron). Untrained: other checkpoints at epoch 0.",
        alignment_table(shared),
        dict.fromkeys(numbers, "{:.3f}"),
    )


@shelf.table("run", "space")
def alignment_pairs(run: Run) -> Table | None:
    if (shared := _shared_concepts(run)) is None:
        return None
    table = alignment_differences(shared)
    if table.empty:
        return None
    names = {"difference low": "low", "difference high": "high", "p": "p_alone", "adjusted p": "p"}
    return Table(
        "alignment_pairs",
        "Differences between spaces",
        "Share of neighbours with the same true concept in the first space minus that in the "
        "second, paired by neuron: 95 % CI and unadjusted p (t over layers), and p adjusted by "
        "Holm's method over all pairs of spaces in a group.",
        table.rename(columns={old: new for new, old in names.items()}),
        dict.fromkeys(["difference", "difference low", "difference high"], "{:+.3f}")
        | dict.fromkeys(["p", "adjusted p"], P_VALUE),
        hidden=("reason",),
    )


@shelf.table("run", "supplement", "identity")
def identities(run: Run) -> Table | None:
    rows = []
    for space in spaces(run):
        for series, start, end in trained_steps(space):
            ranks = self_ranks(space, series, start, end).set_index(["layer", "channel"])
            mean = clustered_by_layer(ranks).table(["mrr"]).iloc[0]
            rows.append(
                {"method": space.method, "series": series, "epochs": f"{start} → {end}",
                 "neurons": len(ranks), "mrr": mean["value"], "low": mean["low"],
                 "high": mean["high"]}
            )  # fmt: skip
    if not rows:
        return None
    table = sort_by_series(run, pd.DataFrame(rows))
    return Table(
        "identity",
        "Retrieval of the same channel at the later epoch",
        "For each neuron at the earlier epoch, all neurons of its series at the later epoch are "
        "ranked by their similarity to it. Mean reciprocal rank: mean of 1/rank of the same "
        "channel (1: it is always the nearest), with 95 % CIs (t over layers). A space that groups "
        "neurons by concept need not retrieve channels, so a low value is not a fault.",
        table,
        dict.fromkeys(["mrr", "low", "high"], "{:.3f}"),
        headings={"mrr": "mean reciprocal rank"},
    )


@shelf.table("run", "method")
def space_methods(run: Run) -> Table:
    names = run.manifest()["space_methods"]
    return Table(
        "space_methods",
        "Definitions of the semantic spaces",
        "What each method computes.",
        pd.DataFrame({"method": names, "space": [description(SPACES.get(n)) for n in names]}),
    )


#: The first artifact of each kind of work -> its description.
_STAGES = {
    "images": "generate images",
    "image_index": "list images",
    "weights": "train a series",
    "check": "check a checkpoint",
    "activations": "probe images with a checkpoint",
    "probe_part": "probe images with a checkpoint, without their activations",
    "stimuli": "select a checkpoint's stimuli",
    "concepts": "name a checkpoint's concepts",
    "space_neurons": "embed all neurons by one method",
    "map": "compute the map",
    "importance": "score a pair's evolutions by one method",
    "records": "ablate one method's sets on a pair",
}


@shelf.table("run", "supplement")
def times(run: Run) -> Table | None:
    """Show run times: the only table that differs between runs of the same configuration."""
    seconds_by_kind = run.seconds()
    rows = [
        {"work": work, "pieces": len(seconds_by_kind[kind]), "total, s": sum(seconds_by_kind[kind]),
         "longest, s": max(seconds_by_kind[kind])}
        for kind, work in _STAGES.items()
        if kind in seconds_by_kind
    ]  # fmt: skip
    if not rows:
        return None
    return Table(
        "times",
        "Run times",
        "Total time of all pieces and time of the longest one, in seconds, with one process and "
        "one thread. If a piece was interrupted, only its last attempt is counted. The times "
        "depend on the machine.",
        pd.DataFrame(rows),
        dict.fromkeys(["total, s", "longest, s"], "{:.1f}"),
    )
