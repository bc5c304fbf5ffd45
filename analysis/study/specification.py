"""The specification curve: the main result under every exclusion rule that was tried."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.exhibits import shelf
from analysis.exhibits.figures import COLOURS, Figure, subplots
from analysis.exhibits.phrases import as_words
from analysis.study.results import Results
from analysis.study.thresholds import FROZEN, NO_RULE
from harness.text import pluralise

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
    sets = results.specifications
    sets = sets[~sets["threshold"].str.endswith(FROZEN)]  # the same as all rules as frozen
    sets, n_equal = _drop_unchanged(sets)
    estimates = sets.dropna(subset=["what", "value"])
    tests = list(dict.fromkeys(estimates["what"]))
    tests_shown = tests[:SHOWN]
    order = estimates.groupby("specification")["value"].mean().sort_values(kind="stable").index
    if not tests_shown or len(order) < 2:
        return None
    rule_sets = sets.drop_duplicates("specification").set_index("specification")
    rule_sets = rule_sets.loc[sorted(order)]
    names = [
        {"all rules": "as frozen", NO_RULE: NO_RULE}.get(row.rule, f"{row.rule}: {row.threshold}")
        for row in rule_sets.itertuples()
    ]
    heights = [1.5] * len(tests_shown) + [0.17 * len(names) + 0.3]
    canvas, axes = subplots(
        len(heights), 1, figsize=(6.4, sum(heights) + 0.5), sharex=True, height_ratios=heights,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    positions = {number: k for k, number in enumerate(order)}
    for axis, test in zip(axes[:-1, 0], tests_shown, strict=True):
        _draw_estimates(axis, estimates[estimates["what"] == test], positions)
        axis.set_title(as_words(test), loc="left")
    _draw_matrix(axes[-1, 0], [positions[number] for number in rule_sets.index], names)
    n_hidden = len(tests) - len(tests_shown)
    equal = pluralise(n_equal, "other set gives", "other sets give")
    hidden = pluralise(n_hidden, "further test is", "further tests are")
    return Figure(
        "study_specification_curve",
        "Primary hypothesis under other exclusion rules",
        f"Estimates of the tests of the primary hypothesis with unadjusted {results.level} CIs "
        "(specification curve). Each column is one set of exclusion rules; the square below names "
        "the rule that differs from the frozen ones. Columns are ordered by the mean estimate. "
        "Filled: significant at the α allocated to the primary hypothesis alone, without the α "
        "that Holm's procedure passes on from other significant tests. Orange: frozen rules. "
        "Dashed: the null value."
        + (f" {equal} the same estimates as the frozen rules." if n_equal else "")
        + (f" {hidden} in the table of thresholds." if n_hidden else ""),
        canvas,
    )


def _drop_unchanged(all_sets: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the sets whose estimates differ from those as frozen, and the number of others."""
    values = all_sets.pivot_table(
        index="specification", columns="what", values=["value", "low", "high"], dropna=False
    )
    if 0 not in values.index:
        return all_sets, 0
    equal_sets = [n for n, row in values.iterrows() if n and row.equals(values.loc[0].rename(n))]
    return all_sets[~all_sets["specification"].isin(equal_sets)], len(equal_sets)


def _draw_estimates(axis: Axes, rows: pd.DataFrame, positions: dict[int, int]) -> None:
    """Draw one dot with its interval per specification."""
    for row in rows.itertuples(index=False):
        colour = COLOURS[2] if row.specification == 0 else COLOURS[0]
        x = positions[row.specification]
        axis.plot([x, x], [row.low, row.high], color=colour, linewidth=1, zorder=2)
        axis.scatter(
            x, row.value, s=18, zorder=3, edgecolors=colour, c=colour if row.claimed else "white"
        )
    null = rows["null"].dropna()
    if len(null):
        axis.axhline(null.iloc[0], color="#777777", linestyle="--", zorder=0)
    axis.set_ylabel("estimate", fontsize=8)
    axis.grid(axis="x", visible=False)


def _draw_matrix(axis: Axes, x: list[int], names: list[str]) -> None:
    y = np.arange(len(names))[::-1]
    colours = [COLOURS[2] if name == "as frozen" else COLOURS[0] for name in names]
    axis.scatter(x, y, s=12, c=colours, marker="s")
    axis.set_yticks(y, names, fontsize=7)
    xlabel = "sets of exclusion rules, ordered by the mean estimate"
    axis.set(ylim=(-0.6, len(names) - 0.4), xticks=[], xlabel=xlabel)
