"""The figures of a benchmark; one function each."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.benchmark import measures
from analysis.benchmark.results import Bench
from analysis.exhibits import shelf
from analysis.exhibits.figures import Figure, panels, style_of, subplots
from analysis.exhibits.phrases import with_sign


def _table_frame(name: str, bench: Bench) -> pd.DataFrame:
    """Return the frame of a table; it is empty if the benchmark has no such table."""
    table = shelf.get("bench", "table", name)(bench)
    return pd.DataFrame() if table is None else table.frame


def _draw_interval(axis: Axes, y: int, row: pd.Series, value: str, **marker: Any) -> None:
    """Draw a value and its interval at height y, and the method's letters to the right."""
    axis.plot([row["low"], row["high"]], [y, y], color="black", linewidth=1.2)
    axis.plot(row[value], y, "o", color="black", clip_on=False, **marker)
    axis.text(1.02, y, row["group"], transform=axis.get_yaxis_transform(), va="center", fontsize=8)


@shelf.figure("bench", "leaderboard")
def leaderboard(bench: Bench) -> Figure:
    frame = _table_frame("leaderboard", bench).iloc[::-1].reset_index(drop=True)
    canvas, axis = subplots(figsize=(6.4, 0.32 * len(frame) + 1.1))
    for y, (_, row) in enumerate(frame.iterrows()):
        is_linear = row["linearises"] == bench.main
        _draw_interval(axis, y, row, "gap", markerfacecolor="white" if is_linear else "black")
    axis.axvline(0, color="#777777", linewidth=0.8)
    axis.set_yticks(range(len(frame)), frame["method"])
    part = bench.parts[0]
    axis.set_xlabel(f"gap: accuracy after {bench.verb} the least − the most important {part}")
    return Figure(
        "leaderboard",
        "Importance methods by gap",
        "Points: mean over classes; bars: 95 % CIs. Open points: scores that approximate the "
        "ablation by which they are evaluated. Methods that share a letter (right) do not differ "
        "significantly.",
        canvas,
    )


@shelf.figure("bench", "leaderboard")
def curves(bench: Bench) -> Figure:
    outcomes = bench.outcomes(bench.main)
    steps = bench.results.about["arms"]["steps"]
    canvas, axes = panels(len(bench.order), 4, (1.9, 1.85), sharex=True, sharey=True)
    for axis, method in zip(axes.flat, bench.order, strict=False):
        curve = measures.ablation_curve(outcomes, method, steps)
        axis.plot(curve["share"], curve["most"], "-o", color="black", markersize=3)
        axis.plot(curve["share"], curve["least"], "--s", color="#777777", markersize=3)
        axis.fill_between(
            *curve[["share", "most", "least"]].T.to_numpy(), color="#dddddd", zorder=0
        )
        axis.set_title(method)
    orders = ["most important first", "least important first"]
    canvas.legend(axes[0, 0].get_lines(), orders, loc="lower right", ncols=2)
    canvas.supxlabel("share of each layer's neurons", fontsize=9, x=0.3)
    canvas.supylabel("accuracy", fontsize=9)
    canvas.tight_layout()
    return Figure(
        "curves",
        f"Accuracy while {bench.verb} an increasing share of neurons",
        "Accuracy, mean over classes and pairs, when an increasing share of the neurons of every "
        "layer is ablated, most or least important first; the measure “area” is the mean distance "
        "between the two curves at the shares between 0 and 1.",
        canvas,
    )


@shelf.figure("bench", "stability")
def layers(bench: Bench) -> Figure | None:
    frame = _table_frame("by_layer", bench).reindex(columns=["series", "layer", *bench.order])
    frame = frame.dropna(how="all", subset=bench.order)
    if frame.empty:
        return None
    values, names = frame[bench.order].to_numpy(), frame["series"] + " " + frame["layer"]
    canvas, axis = subplots(figsize=(0.5 * len(bench.order) + 2.6, 0.3 * len(frame) + 1.6))
    limit = float(np.nanmax(np.abs(values))) or 1.0
    image = axis.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    axis.set_xticks(range(len(bench.order)), bench.order, rotation=60, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.grid(False)
    for (y, x), value in np.ndenumerate(values):
        is_dark = abs(value) > 0.6 * limit
        text = "" if np.isnan(value) else with_sign(value, ".2f").replace("0.", ".")
        axis.text(x, y, text, ha="center", va="center", fontsize=6.5,
                  color="white" if is_dark else "black")  # fmt: skip
    canvas.colorbar(image, ax=axis, label="gap", fraction=0.03)
    return Figure(
        "layers",
        "Gap by layer",
        "Gap when one layer alone is ablated, mean over classes and pairs; layers from the first "
        "(top) to the last of each series.",
        canvas,
    )


@shelf.figure("bench", "stability")
def reliability(bench: Bench) -> Figure | None:
    frame = _table_frame("reliability", bench)
    sizes = [c for c in frame.columns if c.startswith("ρ, ") and frame[c].notna().any()]
    if not sizes:  # there are too few images for two halves
        return None
    images = [int(size.removeprefix("ρ, ")) for size in sizes]
    canvas, axis = subplots(figsize=(5.6, 3.4))
    for method, values in frame.set_index("method")[sizes].iterrows():
        axis.plot(images, values, label=method, **style_of(bench.methods.index(method)))
    axis.axhline(0.9, color="#777777", linewidth=0.8, linestyle=":")
    axis.set_xscale("log", base=2)
    axis.set_xticks(images, map(str, images))
    axis.set(xlabel="images per half", ylabel="split-half ρ")
    axis.legend(bbox_to_anchor=(1.02, 1), loc="upper left")
    return Figure(
        "reliability",
        "Split-half reliability of importance",
        "Spearman correlation of importance between two disjoint halves, mean over layers, pairs "
        "and classes; dotted: .9.",
        canvas,
    )


@shelf.figure("bench", "spaces")
def spaces(bench: Bench) -> Figure | None:
    table = _table_frame("spaces", bench)
    if table.empty:
        return None
    tasks = list(dict.fromkeys(table["task"]))
    methods = [space.method for space in bench.spaces]
    canvas, axes = panels(len(tasks), 3, (2.6, 0.22 * len(methods) + 0.75), sharey=True)
    for axis, task in zip(axes.flat, tasks, strict=False):
        frame = table[table["task"] == task].set_index("method")
        for y, method in enumerate(reversed(methods)):
            if method not in frame.index:
                continue
            _draw_interval(axis, y, frame.loc[method], "value", markersize=4)
        axis.set_title(task)
        axis.set_yticks(range(len(methods)), list(reversed(methods)))
        axis.set(xlim=(0, None), ylim=(-0.5, len(methods) - 0.5))
    canvas.tight_layout()
    return Figure(
        "spaces",
        "Semantic spaces: concepts, identity, stability",
        "Value of each space method with 95 % CIs clustered by layer; methods that share a letter "
        "do not differ significantly.",
        canvas,
    )
