"""The specification curve: the main result under every exclusion rule that was tried."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.exhibits import shelf
from analysis.exhibits.figures import COLOURS, Figure
from analysis.exhibits.phrases import spaced
from analysis.study.results import Results
from analysis.study.thresholds import FROZEN

#: Maximum number of tests of the primary hypothesis that are drawn.
SHOWN = 6


@shelf.figure("study", "robustness")
def specification_curve(results: Results) -> Figure | None:
    """Plot estimates ordered by size, and below them the changed rule (Simonsohn et al. 2020).

    Returns None if no primary hypothesis with an estimate was frozen, or no other rule could be
    tried.
    """
    if not results.plan.primary:
        return None
    every = results.specifications
    every = every[~every["threshold"].str.endswith(FROZEN)]  # the same as all rules as frozen
    every, same = _different(every)
    long = every.dropna(subset=["what", "value"])
    tests = list(dict.fromkeys(long["what"]))
    shown = tests[:SHOWN]
    order = long.groupby("specification")["value"].mean().sort_values(kind="stable").index
    if not shown or len(order) < 2:
        return None
    choices = every.drop_duplicates("specification").set_index("specification")
    choices = choices.loc[sorted(order)]
    names = [_choice(row) for row in choices[["rule", "threshold"]].itertuples(index=False)]
    heights = [1.5] * len(shown) + [0.17 * len(names) + 0.3]
    canvas, axes = plt.subplots(
        len(heights), 1, figsize=(6.4, sum(heights) + 0.5), sharex=True, height_ratios=heights,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    places = {number: k for k, number in enumerate(order)}
    for axis, test in zip(axes[:-1, 0], shown, strict=True):
        _estimates(axis, long[long["what"] == test], places)
        axis.set_title(spaced(test), loc="left")
    _matrix(axes[-1, 0], [places[number] for number in choices.index], names)
    rest = len(tests) - len(shown)
    return Figure(
        "study_specification_curve",
        "Primary hypothesis under other exclusion rules",
        f"Estimates of the tests of the primary hypothesis with unadjusted {results.level} CIs "
        "(specification curve). Each column is one set of exclusion rules; the square below names "
        "the rule that differs from the frozen ones. Columns are ordered by the mean estimate. "
        "Filled: significant at the α allocated to the primary hypothesis alone, without the α "
        "that Holm's procedure passes on from other significant tests. Orange: frozen rules. "
        "Dashed: the null value."
        + (f" {same} other sets give the same estimates as the frozen rules." if same else "")
        + (f" {rest} further tests are in the table of thresholds." if rest else ""),
        canvas,
    )


def _different(every: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the specifications whose estimates differ from those of the frozen rules, and the
    number of others."""
    values = every.pivot_table(
        index="specification", columns="what", values=["value", "low", "high"], dropna=False
    )
    if 0 not in values.index:
        return every, 0
    alike = [n for n, row in values.iterrows() if n and row.equals(values.loc[0].rename(n))]
    return every[~every["specification"].isin(alike)], len(alike)


def _choice(row) -> str:
    """Return the changed rule in words."""
    if row.rule in ("all rules", "no rule"):
        return "as frozen" if row.rule == "all rules" else "no rule"
    return f"{row.rule}: {row.threshold}"


def _estimates(axis: Axes, rows: pd.DataFrame, places: dict[int, int]) -> None:
    """Draw one dot with its interval per specification."""
    for row in rows.itertuples(index=False):
        colour = COLOURS[2] if row.specification == 0 else COLOURS[0]
        x = places[row.specification]
        axis.plot([x, x], [row.low, row.high], color=colour, linewidth=1, zorder=2)
        axis.scatter(
            x, row.value, s=18, zorder=3, edgecolors=colour, c=colour if row.claimed else "white"
        )
    null = rows["null"].dropna()
    if len(null):
        axis.axhline(null.iloc[0], color="#777777", linestyle="--", zorder=0)
    axis.set_ylabel("estimate", fontsize=8)
    axis.grid(axis="x", visible=False)


def _matrix(axis: Axes, x: list[int], names: list[str]) -> None:
    """Mark the choice of each column."""
    y = np.arange(len(names))[::-1]
    colours = [COLOURS[2] if name == "as frozen" else COLOURS[0] for name in names]
    axis.scatter(x, y, s=12, c=colours, marker="s")
    axis.set_yticks(y, names, fontsize=7)
    xlabel = "sets of exclusion rules, ordered by the mean estimate"
    axis.set(ylim=(-0.6, len(names) - 0.4), xticks=[], xlabel=xlabel)
