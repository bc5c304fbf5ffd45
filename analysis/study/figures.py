"""The figures of a study; one registered function each, None if there is nothing to show."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from scipy import stats

from analysis.exhibits import shelf
from analysis.exhibits.figures import (
    COLOURS,
    Figure,
    draw_legend,
    error_bars,
    offset,
    style_of,
    styled,
    subplots,
    wrap,
)
from analysis.exhibits.phrases import as_words
from analysis.run.published import BINS, PUBLISHED, published_changes
from analysis.study.responses import rules_in_words
from analysis.study.results import Results
from analysis.study.tables import ESTIMATE, FROM_NETWORKS, describe_scales, source_note
from harness.records import PAIR
from harness.text import pluralise

#: The line at no difference: solid, because dashes over the grid's own line look like two lines.
ZERO: dict[str, Any] = {"color": "#777777", "linewidth": 0.8, "zorder": 1}
#: Limits of an axis of shares: marks at 0 and at 1 are not cut off.
SHARES = (-0.03, 1.03)
#: Inside of a mark that no test is about; filled and hollow ones say whether it is significant.
UNTESTED = "#999999"


def study_figures(results: Results) -> dict[str, Figure]:
    """Return all figures by name; those of simulated or pilot responses say so."""
    with styled():
        figures = shelf.figures_of("study", results)
        note = source_note(results).strip(" ()")
        for name, figure in figures.items():
            if note and name not in FROM_NETWORKS:
                # Below everything drawn: the saved picture grows to hold it.
                figure.canvas.text(1.0, -0.01, note, ha="right", va="top", fontsize=7,
                                   color="#777777")  # fmt: skip
    return figures


def _draw_forest(
    table: pd.DataFrame, labels: list[str], filled: pd.Series | None = None
) -> tuple[Canvas, Axes]:
    labels = [wrap(label, 4, 9) for label in labels]
    height = 0.36 + 0.15 * max(label.count("\n") for label in labels)
    canvas, axes = subplots(figsize=(5.6, height * len(table) + 1.0), layout="constrained")
    _draw_rows(axes, table, labels, filled)
    return canvas, axes


def _draw_rows(
    axes: Axes, table: pd.DataFrame, labels: list[str], filled: pd.Series | None = None
) -> None:
    """Draw one row per estimate, first row on top: a dot with its interval, hollow if not
    `filled`, grey if nothing is tested (`filled` is None)."""
    y = np.arange(len(table))[::-1]
    value = table["value"].to_numpy(float)
    axes.errorbar(value, y, xerr=error_bars(table), fmt="none", ecolor=COLOURS[0], capsize=2.5)
    face_colours = [UNTESTED] * len(y) if filled is None else np.where(filled, COLOURS[0], "white")
    axes.scatter(value, y, s=20, c=face_colours, edgecolors=COLOURS[0], zorder=3)
    axes.set_yticks(y, labels)
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.grid(axis="y", visible=False)


@shelf.figure("study", "collected")
def flow(results: Results) -> Figure:
    steps = {row.step: row for row in results.responses.flow.itertuples()}
    left = {"gave consent": "did not consent", "finished": "did not finish", "analysed": "excluded"}
    names = ["arrived", *left]
    rule_words = rules_in_words(results.responses.study)
    rules = {
        rule_words.get(rule, rule).split(" (")[0]: row.participants
        for step, row in steps.items()
        if row.participants and (rule := step.removeprefix("excluded: ")) != step
    }
    side_texts = [
        f"{steps[before].participants - steps[after].participants:,} {left[after]}"
        for before, after in pairwise(names)
    ]
    side_texts[-1] += "".join(
        f"\n{n:,}: {rule}" if len(rules) > 1 else f"\n{rule}" for rule, n in rules.items()
    )
    gaps = [0.75 + 0.17 * text.count("\n") for text in side_texts]
    y = -np.concatenate([[0.0], np.cumsum(gaps)])
    canvas, axis = subplots(figsize=(5.6, 0.6 - y[-1]), layout="constrained")
    axis.axis("off")
    axis.set(xlim=(0, 1), ylim=(y[-1] - 0.3, 0.3))
    arrow_style = {"arrowstyle": "->"}
    box_style = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": COLOURS[0]}
    for name, height in zip(names, y, strict=True):
        box_text = f"{steps[name].participants:,} {name}"
        if name == "analysed":
            box_text += f", {pluralise(steps[name].answers, 'response')}"
        axis.text(0.27, height, box_text, ha="center", va="center", bbox=box_style)
    for text, (top, bottom) in zip(side_texts, pairwise(y), strict=True):
        middle = (top + bottom) / 2
        axis.annotate("", (0.27, bottom + 0.15), (0.27, top - 0.15), arrowprops=arrow_style)
        axis.annotate("", (0.56, middle), (0.27, middle), arrowprops=arrow_style)
        axis.text(0.58, middle, text, ha="left", va="center", fontsize=8, bbox=box_style)
    return Figure(
        "study_flow",
        "Flow of participants",
        "Exclusions follow the frozen rules; each participant is counted under the first rule that "
        "applied.",
        canvas,
    )


@shelf.figure("study", "accuracy")
def accuracy(results: Results) -> Figure | None:
    if (table := results.tests_of("chance")).empty:
        return None
    tasks = dict(list(table.groupby("task", sort=False)))
    canvas, axes = subplots(
        len(tasks), 1, figsize=(5.6, 0.75 * len(tasks) + 0.36 * len(table) + 0.3), sharex=True,
        squeeze=False, height_ratios=[*map(len, tasks.values())], layout="constrained",
    )  # fmt: skip
    for axis, (task, task_rows) in zip(axes[:, 0], tasks.items(), strict=True):
        labels = [f"{as_words(row.condition)} (n = {row.n})" for row in task_rows.itertuples()]
        _draw_rows(axis, task_rows, labels, filled=task_rows["claimed"])
        places = np.arange(len(task_rows))[::-1]
        axis.vlines(
            task_rows["null"], places - 0.5, places + 0.5, color="#777777", linestyle="--", zorder=0
        )
        axis.set_title(task, loc="left")
    xlabel = "accuracy (share of correct responses); dashed: chance"
    axes[-1, 0].set(xlim=SHARES, xlabel=xlabel)
    return Figure(
        "study_accuracy",
        "Accuracy by condition",
        f"Share of correct responses with unadjusted {results.level} CIs clustered by participants "
        f"({results.responses.answers['participant'].nunique()} in all) and trials; n: responses. "
        "Conditions are defined under Method. Dashed: chance. Filled: significantly different from "
        "chance (adjusted p < .05); hollow: not significant.",
        canvas,
    )


@shelf.figure("study", "contrasts")
def contrasts(results: Results) -> Figure | None:
    if (table := results.tests_of("contrasts")).empty:
        return None
    table = table[table["measure"] == "risk difference"]
    table = table.assign(**100 * table[ESTIMATE])
    has_tasks = table["task"].nunique() > 1
    labels = [f"{row.task}: " * has_tasks + as_words(row.what) for row in table.itertuples()]
    canvas, axis = _draw_forest(table, labels, filled=table["claimed"])
    axis.axvline(0, **ZERO)
    axis.set_xlabel("difference in accuracy,\nfirst minus second (percentage points)")
    return Figure(
        "study_contrasts",
        "Differences between conditions",
        f"Accuracy in the first condition minus the second, with unadjusted {results.level} CIs. "
        "Filled: significant (adjusted p < .05); hollow: not significant, even if the "
        "interval excludes 0.",
        canvas,
    )


@shelf.figure("study", "trials")
def trials(results: Results) -> Figure | None:
    if not results.choice_tasks:
        return None
    answers = pd.concat([results.answers_of(task) for task in results.choice_tasks])
    keys = ["task", "condition"]
    groups = list(answers[keys].drop_duplicates().sort_values(keys).itertuples(index=False))[::-1]
    has_tasks = len({task for task, _ in groups}) > 1
    names = [wrap(f"{results.name(t)}: " * has_tasks + as_words(c), 4, 9) for t, c in groups]
    height = (0.4 + 0.15 * max(name.count("\n") for name in names)) * len(groups) + 1.2
    canvas, axes = subplots(1, 2, figsize=(7.2, height), sharey=True, layout="constrained")
    rng = np.random.default_rng(0)
    for axis, unit in zip(axes, ("trial", "participant"), strict=True):
        rates = answers.groupby([*keys, unit])["correct"].mean().astype(float)
        for y, group in enumerate(groups):
            values = rates[group].dropna().sort_values().to_numpy()  # whatever people are called
            axis.plot(values, y + rng.uniform(-0.18, 0.18, len(values)), "o", markersize=2.6,
                      alpha=0.55, color=COLOURS[0], markeredgewidth=0)  # fmt: skip
            axis.plot([values.mean()] * 2, [y - 0.33, y + 0.33], color=COLOURS[2], linewidth=2)
        axis.set(xlabel=f"accuracy, one dot per {unit}", xlim=SHARES)
        axis.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(groups)), names)
    return Figure(
        "study_trials",
        "Variation between trials and between participants",
        "Left: accuracy of each trial over its participants. Right: accuracy of each participant "
        "in each condition; a participant sees few trials of a condition, so few values are "
        "possible. Bars: means.",
        canvas,
    )


@shelf.figure("study", "behaviour")
def learning(results: Results) -> Figure | None:
    cell = ["participant", "condition"]
    task_answers = {}
    for task in results.choice_tasks:
        answers = results.answers_of(task, controls=False).dropna(subset=["correct"])
        # A single response is the participant's mean in the condition, whenever it is given.
        answers = answers[answers.duplicated(cell, keep=False)]
        if answers["position"].nunique() > 1:
            task_answers[task] = answers
    if not task_answers:
        return None
    canvas, axis = subplots(figsize=(4.8, 2.7), layout="constrained")
    for k, (task, answers) in enumerate(task_answers.items()):
        correct, position = (answers[name].astype(float) for name in ("correct", "position"))
        sixth = pd.qcut(position, 6, labels=False, duplicates="drop")
        # Within people and conditions, as the test is: neither looks like learning.
        deviations = correct - correct.groupby([answers[c] for c in cell]).transform("mean")
        person_means = deviations.groupby([sixth, answers["participant"]]).mean().groupby(level=0)
        t = stats.t.ppf(0.5 + results.settings.level / 2, person_means.size() - 1)
        axis.errorbar(
            position.groupby(sixth).mean() + 1 + 0.4 * k, 100 * person_means.mean(),
            yerr=100 * t * person_means.sem(),
            capsize=2.5, label=results.name(task), linestyle="none", **style_of(k),
        )  # fmt: skip
    axis.axhline(0, **ZERO)
    ylabel = "accuracy minus participant's\nmean (percentage points)"
    axis.set(xlabel="position of the trial in the session", ylabel=ylabel)
    draw_legend(canvas, axis)
    return Figure(
        "study_learning",
        "Accuracy over the session",
        "Accuracy minus the participant's mean in the condition, by position in the session "
        "(attention trials counted), in up to six groups with about equal numbers of responses. "
        "Participants' only responses in a condition are left out. Control conditions excluded. "
        f"Unadjusted {results.level} CIs over participants.",
        canvas,
    )


@shelf.figure("study", "behaviour")
def calibration(results: Results) -> Figure | None:
    table = results.by_task(results.choice_tasks, "calibration", ["confidence"], controls=False)
    if table.empty:
        return None
    canvas, axis = subplots(figsize=(5.0, 2.8), layout="constrained")
    for k, (task, task_rows) in enumerate(table.groupby("task", sort=False)):
        x = task_rows["confidence"].astype(float) + 0.05 * k
        style = {"label": str(task), "capsize": 2.5, **style_of(k)}
        axis.errorbar(x, task_rows["value"], yerr=error_bars(task_rows), **style)
    axis.set(
        xticks=sorted(set(table["confidence"].astype(float))), ylim=(-0.04, 1.04),
        xlabel="confidence (1: guessed, 4: very sure)", ylabel="accuracy (share correct)",
    )  # fmt: skip
    draw_legend(canvas, axis)
    return Figure(
        "study_calibration",
        "Accuracy by confidence",
        f"Accuracy at each level of confidence, with unadjusted {results.level} CIs clustered by "
        "participants and trials. Control conditions excluded.",
        canvas,
    )


@shelf.figure("study", "evolution")
def evolution(results: Results) -> Figure | None:
    if (table := results.tests_of("detection")).empty:
        return None
    shares = table[table["signal"] == ""]
    labels = [f"{as_words(row.what)} (n = {row.n})" for row in shares.itertuples()]
    canvas, axis = _draw_forest(shares, labels)
    axis.set(xlim=SHARES, xlabel="share judged changed")
    return Figure(
        "study_evolution",
        "Share judged changed by condition",
        "Share of responses “It changed” for real evolutions, false evolutions (stages of two "
        f"neurons shown as one) and unchanged stages (same stage), with unadjusted {results.level} "
        "CIs clustered by participants and trials; n: responses. Grey: these shares are not "
        "tested; the table has the test of d′.",
        canvas,
    )


@shelf.figure("study", "naming")
def ratings(results: Results) -> Figure | None:
    if (table := results.tests_of("ratings")).empty:
        return None
    table = table[table["second"] == ""]
    labels = [f"{row.task}, {row.asked}: {as_words(row.first)}" for row in table.itertuples()]
    canvas, axis = _draw_forest(table, labels)
    ends = [
        end
        for task in results.tasks
        for asked in set(table["asked"])
        for end in results.responses.study.scale(task, asked) or ()
    ]
    if ends:
        lowest, highest = min(ends), max(ends)
        axis.set(xlim=(lowest - 0.1, highest + 0.1), xticks=np.arange(lowest, highest + 1))
        axis.set_xlabel(f"mean rating ({lowest:g} to {highest:g})")
    return Figure(
        "study_ratings",
        "Ratings by condition",
        f"Mean ratings{describe_scales(results)}, with unadjusted {results.level} CIs clustered by "
        "participants and trials. Grey: means are not tested; the table has tests of differences.",
        canvas,
    )


@shelf.figure("study", "networks")
def reversion(results: Results) -> Figure | None:
    changes = results.held_out_changes
    if changes is None:
        return None
    bins = results.bins
    arms = [a for a in (*bins, "random", "matched") if a in set(changes["arm"])]
    is_compared = len(bins) == len(BINS)
    canvas, axes = subplots(
        1, 1 + is_compared, figsize=(7.2 if is_compared else 4.2, 3.5), sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for k, (pair, rows) in enumerate(changes.groupby(PAIR)):
        rows = rows.set_index("arm").reindex(arms)
        axes[0, 0].errorbar(
            np.arange(len(arms)) + offset(k, changes.groupby(PAIR).ngroups), 100 * rows["change"],
            yerr=100 * error_bars(rows, "change"), capsize=2, linestyle="none",
            label="{}, {} → {}".format(*pair), **style_of(k),
        )  # fmt: skip
    published = published_changes()
    published_arms = [arm for arm in arms if arm in published]
    for k, row in published.iterrows() if is_compared else ():
        axes[0, 1].plot(
            np.arange(len(published_arms)) + offset(k, len(published)),
            100 * row[published_arms].astype(float), linestyle="none", **style_of(k),
            label="{}, {} → {}".format(*row[PAIR]) + (" (suspect)" if row["suspect"] else ""),
        )  # fmt: skip
    titles = ((arms, "this run"), (published_arms, PUBLISHED))
    for axis, (names, title) in zip(axes[0], titles, strict=False):
        axis.axhline(0, **ZERO)
        axis.set_xticks(range(len(names)), names, fontsize=8)
        axis.set_title(title, loc="left")
        axis.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    axes[0, 0].set_ylabel("change in accuracy (percentage points)")
    comparison = (
        f" Right: results of {PUBLISHED} for other networks and training images; only the order is "
        "comparable. Suspect: possibly a copying error in the result files."
    )
    return Figure(
        "study_reversion",
        "Change in accuracy when the evolutions of single layers are reverted",
        "Change in accuracy when a set of neurons of one layer is reverted to the earlier "
        f"checkpoint; mean over layers. The set is a {results.part} by importance (sign_t; q1: the "
        "most important), a random set, or a set whose activations changed as much as those of q1 "
        f"(matched). {'Left: this' if is_compared else 'This'} run, held-out images, unadjusted "
        f"{results.level} CIs over classes.{comparison * is_compared}",
        canvas,
    )
