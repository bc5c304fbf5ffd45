"""The figures of a run: training, maps, evolutions, neighbours, alignment, reversion."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.exhibits import shelf
from analysis.exhibits.figures import (
    Cell,
    Figure,
    draw_sheet,
    error_bars,
    legend_columns,
    offset,
    panels,
    style_of,
    subplots,
    wrap,
)
from analysis.exhibits.phrases import cis_over_classes, number_text
from analysis.run.album import Album
from analysis.run.reversion import count_images, joint_means
from analysis.run.tables import (
    alignment,
    base_checkpoint,
    checkpoints_of,
    count_test_images,
    describe_training,
    named_concepts,
    series_of,
    sort_by_series,
    spaces,
    training_log,
)
from analysis.statistics import classes
from harness.artifacts import Artifact, Run
from harness.concepts.space import SemanticSpace
from harness.records import NEURON, PAIR
from harness.results import REVERSION, has_results

MAPPED_CONCEPTS = 7
STRIPS = 6
#: Smallest relative depth of neurons that are shown: concepts can be named from about a third on.
LEAST_DEPTH = 0.35


@shelf.figure("run", "networks")
def training(run: Run) -> Figure | None:
    if (log := training_log(run)) is None:
        return None
    canvas, axes = subplots(figsize=(4.6, 2.8))
    probed = checkpoints_of(run)
    for index, (series, rows) in enumerate(sort_by_series(run, log).groupby("series", sort=False)):
        style = style_of(index)
        for split, line in (("test", "-"), ("train", ":")):
            accuracy, label = rows[f"{split}_accuracy"], f"{series}, {split}"
            axes.plot(rows["epoch"], accuracy, line, color=style["color"], label=label)
        studied = rows[rows.set_index(["series", "epoch"]).index.isin(probed)]
        axes.plot(studied["epoch"], studied["test_accuracy"], linestyle="none", **style)
    axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
    axes.locator_params(axis="x", integer=True)
    axes.legend()
    return Figure(
        "training",
        "Training curves",
        f"Accuracy over epochs on training images (dotted; {describe_training(run)}) and "
        f"all {count_test_images(run):,} test images (solid). Markers: the checkpoints studied. In "
        "networks with batch normalisation, test accuracy can fall for some epochs because the "
        "running statistics lag behind the weights.",
        canvas,
    )


@shelf.figure("run", "concepts", "map")
def concept_map(run: Run) -> Figure | None:
    table = run.table(Artifact("map"))
    meaning = "the most frequent true concepts; dark grey: other or none"
    if (concept_table := named_concepts(run)) is None:
        concept_table = _classes_of_stimuli(run)
        meaning = "the class of most of a neuron's stimuli; dark grey: a class of fewer neurons"
    table = table.merge(concept_table[[*NEURON, "concept"]], on=NEURON, how="left")
    concepts = list(table["concept"].value_counts().index[:MAPPED_CONCEPTS])
    series = series_of(run)
    epochs = {name: sorted(table.loc[table["series"] == name, "epoch"].unique()) for name in series}
    columns = max(map(len, epochs.values()))
    canvas, grid_axes = subplots(
        len(series), columns, figsize=(1.95 * columns, 2.05 * len(series) + 0.5),
        squeeze=False, sharex=True, sharey=True,
    )  # fmt: skip
    base = base_checkpoint(run)
    background = table[(table["series"] == base.series) & (table["epoch"] == base.epoch)]
    for row, name in enumerate(series):
        for axes in grid_axes[row, len(epochs[name]) :]:
            axes.set_visible(False)
        for axes, epoch in zip(grid_axes[row], epochs[name], strict=False):
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            panel = table[(table["series"] == name) & (table["epoch"] == epoch)]
            axes.scatter(background["x"], background["y"], s=3, color="#e2e2e2", linewidths=0)
            rest = panel[~panel["concept"].isin(concepts)]
            axes.scatter(rest["x"], rest["y"], s=5, color="#9a9a9a", linewidths=0)
            for index, concept in enumerate(concepts):
                dots = panel[panel["concept"] == concept]
                axes.scatter(dots["x"], dots["y"], s=16, linewidths=0, **style_of(index))
            axes.set_title(wrap(f"{name}, epoch {epoch}", 1.95, 9.5))
    width = max(canvas.get_figwidth(), 4)
    labels = [wrap(str(concept), width) for concept in concepts]
    handles = [Line2D([], [], linestyle="", **style_of(k)) for k in range(len(concepts))]
    if concepts:
        canvas.legend(
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.05), fontsize=8,
            ncols=legend_columns(labels, width),
        )  # fmt: skip
    canvas.tight_layout(rect=(0, 0.05 if concepts else 0, 1, 1))
    return Figure(
        "map",
        "Map of neurons",
        f"UMAP layout of the {run.manifest()['space_methods'][0]} space, fitted to the base "
        f"checkpoint ({base.series}, epoch {base.epoch}; light dots, repeated in each panel); each "
        f"dot is one neuron. Colours and markers: {meaning}. The axes have no unit, and distances "
        "between clusters have no meaning. Dead neurons are not shown.",
        canvas,
    )


def _classes_of_stimuli(run: Run) -> pd.DataFrame:
    """Return the columns NEURON, and `concept`: the class of most of the neuron's stimuli."""
    index = run.table(Artifact("image_index", ("probe",)))[["image_id", "class_name"]]
    stimuli = run.tables("stimuli").merge(index, on="image_id")
    counts = stimuli.value_counts([*NEURON, "class_name"]).rename("images").reset_index()
    largest = counts.sort_values(["images", "class_name"]).drop_duplicates(NEURON, keep="last")
    return largest.rename(columns={"class_name": "concept"})


@shelf.figure("run", "concepts")
def emergence(run: Run) -> Figure | None:
    keys = ["series", "epoch"]
    if (concepts := named_concepts(run)) is None or concepts.empty:
        return None
    checkpoints = checkpoints_of(run)  # also those without any concept
    counts = concepts.groupby(["concept", *keys]).size().unstack(keys)
    counts = counts.reindex(columns=checkpoints).fillna(0).sort_index(axis=1)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False).index]
    epochs = checkpoints.get_level_values("series").value_counts()
    series = [name for name in series_of(run) if name in epochs]
    widths = epochs[series].tolist()
    canvas, grid = subplots(
        1, len(series), figsize=(1.2 + 0.5 * sum(widths), 0.6 + 0.19 * len(counts)),
        width_ratios=widths, sharey=True, squeeze=False,
    )  # fmt: skip
    for axes, name in zip(grid[0], series, strict=True):
        block = counts.xs(name, axis=1, level="series")
        axes.imshow(block, cmap="Greys", aspect="auto", vmin=0, vmax=counts.to_numpy().max())
        for (row, column), value in np.ndenumerate(block.to_numpy(dtype=int)):
            colour = "white" if value > 0.55 * counts.to_numpy().max() else "black"
            axes.text(column, row, value, ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(block.shape[1]), block.columns.tolist())
        axes.set_yticks(range(len(counts)), counts.index.tolist())
        axes.set(title=name, xlabel="epoch")
        axes.grid(False)
    grid[0, 0].set_ylabel("true concept")
    canvas.tight_layout()
    return Figure(
        "emergence",
        "Concepts over epochs",
        "One row per concept: the number of neurons whose true concept it is, by epoch; rows are "
        "ordered by their total.",
        canvas,
    )


@shelf.figure("run", "concepts")
def strips(run: Run) -> Figure | None:
    space, album = next(spaces(run)), Album(run)
    rows = []
    series_names = series_of(run)
    for series in series_names:
        epochs = sorted(space.neurons.loc[space.neurons["series"] == series, "epoch"].unique())
        trained = [epoch for epoch in epochs if epoch > 0]
        if len(trained) < 2:
            continue
        changes = space.displacement(series, trained[0], trained[-1])
        deep = [album.depth(series, layer) >= LEAST_DEPTH for layer in changes["layer"]]
        changes = changes[deep].sort_values("displacement", ascending=False, kind="stable")
        rows_per_series = STRIPS // len(series_names) or 1
        # at most two neurons per layer, so that one layer does not fill the figure
        for evolution in changes.groupby("layer").head(2).head(rows_per_series).itertuples():
            cells = []
            for epoch in epochs:
                neuron = (series, epoch, evolution.layer, evolution.channel)
                title = f"\nepoch {epoch}"
                if epoch == epochs[0]:
                    title = f"{series} {evolution.layer}:{evolution.channel}{title}"
                cells.append(Cell(album.picture(neuron), title, album.concept(neuron)))
            rows.append(cells)
    if not rows:
        return None
    return Figure(
        "strips",
        "Evolution of single neurons",
        "Each row shows one neuron (layer:channel) at all checkpoints of its series: the nine "
        "image patches that activate it most and, below, its true concept, if it has one, with the "
        "overlap (intersection over union). Shown: "
        f"the neurons with the largest displacement (1 − {_name_similarity(space)}) between the "
        "first trained and the last epoch, at most two per layer.",
        draw_sheet(rows),
    )


@shelf.figure("run", "concepts")
def neighbours(run: Run) -> Figure | None:
    space, album, base = next(spaces(run)), Album(run), base_checkpoint(run)
    last_rows = [
        space.rows(series=str(name), epoch=int(epochs.max()))
        for name, epochs in space.neurons.groupby("series", sort=False)["epoch"]
        if name != base.series
    ]
    own = space.rows(series=base.series, epoch=base.epoch)
    deep = [
        album.depth(base.series, layer) >= LEAST_DEPTH for layer in space.neurons["layer"].iloc[own]
    ]
    selection = _select_distant(space, own[np.array(deep, dtype=bool)], STRIPS)
    rows = []
    for row in selection:
        rows.append([_cell(space, album, row)])
        for candidates in (own, *last_rows):
            nearest, similarities = space.nearest(np.array([row]), candidates, 2)
            pairs = zip(nearest[0], similarities[0], strict=True)
            rows[-1] += [_cell(space, album, n, f" ({number_text(s, '.2f')})") for n, s in pairs]
    if not rows:
        return None
    return Figure(
        "neighbours",
        "Nearest neighbours within and across networks",
        f"First column: neurons of the base checkpoint ({base.series}, epoch {base.epoch}), chosen "
        "to be distant from each other. Next columns: the two nearest neighbours of each in the "
        "same checkpoint and in the last checkpoint of each other series. Below: true concept, if "
        f"any, with its overlap, and {_name_similarity(space)} in parentheses.",
        draw_sheet(rows),
    )


def _name_similarity(space: SemanticSpace) -> str:
    metric = {"cosine": "cosine", "jaccard": "Jaccard"}[space.metric]
    return f"{metric} similarity in the {space.method} space"


def _select_distant(space: SemanticSpace, rows: np.ndarray, count: int) -> list[int]:
    """Choose rows of a space by farthest-point sampling: each next neuron is the one least similar
    to those already chosen."""
    if not len(rows):
        return []
    selection = [int(rows[0])]
    while len(selection) < min(count, len(rows)):
        similarity = space.similarity(rows, np.array(selection)).max(axis=1)
        selection.append(int(rows[similarity.argmin()]))
    return selection


def _cell(space: SemanticSpace, album: Album, row: int, note: str = "") -> Cell:
    neuron = tuple(space.neurons[NEURON].iloc[row])
    series, _, layer, channel = neuron
    heading = "\n".join(wrap(line, 1.3, 7) for line in (series, f"{layer}:{channel}"))
    return Cell(album.picture(neuron), heading, album.concept(neuron) + note)


@shelf.figure("run", "space", "alignment")
def alignment_plot(run: Run) -> Figure | None:
    if (exhibit := alignment(run)) is None:
        return None
    table = exhibit.frame
    groups = list(dict.fromkeys(table["group"]))
    canvas, axes = subplots(figsize=(5.6, 2.9))
    methods = list(dict.fromkeys(table["method"]))
    for index, method in enumerate(methods):
        rows = table[table["method"] == method].set_index("group").reindex(groups)
        x = np.arange(len(groups)) + offset(index, len(methods))
        means = rows.rename(columns={"share": "mean"})
        _draw_means(axes, x, means, label=method, capsize=2, **style_of(index))
    for column, dashes in (("chance", ":"), ("ceiling", "--")):
        for position, value in enumerate(table.groupby("group", sort=False)[column].mean()):
            axes.hlines(value, position - 0.4, position + 0.4, color="#666666", linestyle=dashes)
    axes.set_xticks(range(len(groups)), groups)
    ylabel = "share of the five nearest base\nneurons with the same true concept"
    axes.set(ylabel=ylabel, ylim=(0, None))
    columns = legend_columns(methods, 6)
    axes.legend(ncols=columns, loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=1)
    return Figure(
        "alignment",
        "Neighbours with the same true concept",
        "Share of a neuron's five nearest base neurons with the same true concept, with 95 % CIs "
        "over layers; dotted: chance, dashed: ceiling (see the table). All spaces are evaluated on "
        "the same neurons, so overlapping CIs do not mean that there is no difference: see the "
        "table of differences.",
        canvas,
    )


@shelf.figure("run", "reversion", "reversion")
def reversion_plot(run: Run) -> Figure | None:
    if not has_results(run, REVERSION):
        return None
    outcomes = joint_means(run)
    pairs = list(outcomes.groupby(PAIR, observed=True, sort=False))
    bins = classes.find_bins(list(outcomes["arm"].unique()))
    arms = [*bins, "matched", "random", "all"]
    methods = list(dict.fromkeys(outcomes["method"]))
    canvas, grid = panels(len(pairs), 2, (3.9, 2.5), sharey=True)
    bar_style: dict[str, Any] = {"capsize": 1.5, "elinewidth": 0.9}
    for axes, (key, rows) in zip(grid.flat, pairs, strict=False):
        for index, method in enumerate(methods):
            x = np.arange(len(bins) + 1) + offset(index, len(methods))
            means = _mean_changes(rows[rows["method"] == method], [*bins, "matched"])
            style = style_of(index)
            axes.plot(x[:-1], means["mean"].iloc[:-1], color=style["color"], linewidth=0.9)
            _draw_means(axes, x, means, label=method, **bar_style, **style)
        control_style = {"color": "#777777", "marker": "o", "markerfacecolor": "white"}
        control_style["label"] = "independent of the score"
        means = _mean_changes(rows[rows["method"] == methods[0]], ["random", "all"])
        _draw_means(axes, np.arange(len(arms))[-2:], means, **bar_style, **control_style)
        axes.axhline(0, color="#444444", linewidth=0.8)
        axes.set_xticks(range(len(arms)), arms, fontsize=6.5)
        axes.set_title(wrap(f"{key[0]}, epochs {key[1]} → {key[2]}", 3.9, 9.5))
    for axes in grid[:, 0]:
        axes.set_ylabel("change in accuracy\n(percentage points)")
    bottom = 0.3 / (2.5 * len(grid))
    canvas.tight_layout(rect=(0, bottom, 1, 1))
    handles, labels = grid[0, 0].get_legend_handles_labels()
    columns = legend_columns(labels, canvas.get_figwidth())
    canvas.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, bottom), ncols=columns)
    return Figure(
        "reversion",
        "Change in accuracy when evolutions are reverted in all layers",
        f"Change in top-1 accuracy on {count_images(outcomes, 'held-out ')} when a set of neurons "
        "is reverted in all layers at once, by importance score, with unadjusted "
        f"{cis_over_classes(outcomes['class_id'].nunique())}. Sets are defined under Method. "
        "Below 0: predictions are worse without the changes of these neurons. Compare sets of the "
        "same size: reverting a part can do more harm than reverting all.",
        canvas,
    )


def _mean_changes(rows: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    """Return the mean change of accuracy by arm with its CI over classes, in percentage points."""
    changes = classes.pivot_arms(classes.class_changes(rows))
    return 100 * classes.class_intervals(changes.reindex(columns=arms))


def _draw_means(axes: Axes, x: np.ndarray, means: pd.DataFrame, **style: Any) -> None:
    """Draw means with their intervals at positions x, without connecting lines."""
    axes.errorbar(x, means["mean"], yerr=error_bars(means, "mean"), linestyle="none", **style)
