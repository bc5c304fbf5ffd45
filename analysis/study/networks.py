"""Exhibits that relate responses to networks: associations, machine observer, reversion."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from analysis.exhibits import shelf
from analysis.exhibits.figures import Figure, draw_legend, style_of, subplots
from analysis.exhibits.phrases import as_words, capitalise, join, p_text, percent, with_sign
from analysis.exhibits.tables import Table
from analysis.run.published import BINS, PUBLISHED, published_changes
from analysis.statistics import STATISTICS, tabulate
from analysis.statistics.claims import ALPHA
from analysis.study.association import EVIDENCE, MEASURES, space_of
from analysis.study.results import Results
from analysis.study.sentences import effect_text
from analysis.study.tables import CORRECTED, ESTIMATE, FORMATS, NAMES, POINTS, SHARE, SIGNED
from harness.records import PAIR
from harness.text import pluralise


@shelf.table("study", "association")
def associations(results: Results) -> Table | None:
    if (table := results.tests_of("associations")).empty or results.joined_trials is None:
        return None
    table = table[["task", "evidence", "n", "left_out", *ESTIMATE, "p"]]
    space = space_of(results.responses.study)
    return Table(
        "associations",
        "Association of participants' responses with network measures",
        "Partial Spearman correlation over trials, given the condition, of participants' "
        "accuracy (in evolution labelling, the share of “It changed”) with four measures. Three "
        "are averaged over the neurons of a trial: importance (the neuron's largest score over "
        "all classes, by sign_t; see the next section), change in the network's accuracy when "
        f"the {results.part} of the layer that contains the neuron is reverted, and displacement "
        f"in the {space} space. The fourth is the margin of the machine observer: how "
        "clearly it prefers its response. Permutation test within conditions; trials of different "
        "forms can share a neuron but are treated as independent, so p may be too small. Control "
        "conditions excluded. "
        f"Unadjusted {results.level} bootstrap CIs over trials; {CORRECTED}.",
        table.rename(columns={"n": "trials"}),
        FORMATS | dict.fromkeys(ESTIMATE, SIGNED),
        headings={"value": "ρ", "left_out": "trials without a value"},
    )


#: Columns by which the trials that the observer answered are grouped, and that of its score.
KEYS, OBSERVED = ["task", "condition"], "observer_correct"


@shelf.table("study", "association")
def observer(results: Results) -> Table | None:
    if (trials := results.observed_trials).empty:
        return None
    trials = trials.assign(task=trials["task"].map(results.name))[["trial", *KEYS, OBSERVED]]
    answers = results.responses.answers[["trial", "correct"]].dropna().astype({"correct": float})
    answers = answers.merge(trials, on="trial")
    sizes = trials.groupby(KEYS).agg(trials=("trial", "size"), observer=(OBSERVED, "mean"))
    sizes.insert(1, "participants", answers.groupby(KEYS)["correct"].mean())
    by_outcome = answers.groupby([*KEYS, OBSERVED])["correct"].mean().unstack(OBSERVED)
    names = {1.0: "solved", 0.0: "not solved"}
    table = sizes.join(by_outcome.reindex(columns=list(names)).rename(columns=names))
    return Table(
        "observer",
        "Accuracy of participants and of a machine observer",
        "The machine observer compares histograms of the colours and edges of the pictures and "
        "uses no neural network (docs/analysis.md). The last two columns give participants' "
        "accuracy on trials that the observer answers correctly and on those that it does not; the "
        "difference is not tested.",
        table.reset_index(),
        {**{c: SHARE for c in table.columns[1:]}, **NAMES},
        headings={
            "participants": "accuracy of participants",
            "observer": "accuracy of the observer",
            "solved": "participants, on trials that the observer solves",
            "not solved": "participants, on trials that it does not solve",
        },
    )


@shelf.table("study", "evolution")
def displacement(results: Results) -> Table | None:
    if results.joined_trials is None or "evolution_labelling" not in results.tasks:
        return None
    displacements = results.joined_trials.groupby("trial")["displacement"].max().dropna()
    answers = results.answers_of("evolution_labelling")
    answers = answers[answers["condition"] == "evolution"]
    answers = answers.assign(moved=answers["trial"].map(displacements)).dropna(subset=["moved"])
    trials = answers.drop_duplicates("trial").set_index("trial")["moved"]
    if len(trials) < 6:
        return None
    thirds = pd.qcut(trials.rank(method="first"), 3, labels=["least", "middle", "most"])
    answers = answers.assign(condition=answers["trial"].map(thirds).astype(str))
    table = tabulate(STATISTICS.get("changed")(level=results.settings.level)(answers), ["moved"])
    group_means = trials.groupby(thirds, observed=True).mean()
    table = table.assign(displacement=table["moved"].map(group_means).astype(float))
    space = space_of(results.responses.study)
    return Table(
        "displacement",
        f"Share judged changed by displacement in the {space} space",
        "Trials with real evolutions in three groups by displacement (1 − similarity; mean "
        "of the group), and the share of responses “It changed” with its unadjusted "
        f"{results.level} CI, clustered by participants and trials. No test compares these "
        "shares; the correlation between displacement "
        "and the share judged changed is tested over trials. All these neurons were drawn from "
        "the third with the largest displacement, so displacements differ little, and a relation "
        "with them is hard to see.",
        table[["moved", "displacement", "n", *ESTIMATE]].rename(columns={"n": "responses"}),
        {c: SHARE for c in ["displacement", *ESTIMATE]},
    )


_COMPARED = (
    f"{PUBLISHED}: training images, 100 classes, five runs, mean over layers, from the result "
    "files of the published repository; the row marked suspect has the same values there as the "
    "test images of another pair, which suggests a copying error. Networks and images differ, so "
    "only the order of the quarters is comparable."
)
_NOT_COMPARED = (
    f"The results of {PUBLISHED} are for quarters, so they cannot be compared with these and are "
    "left out."
)


@shelf.table("study", "networks")
def reversion_published(results: Results) -> Table | None:
    if results.reversion is None or results.reversion.empty:
        return None
    bins = results.bins
    columns = [*PAIR, *bins, "random", "matched", "before", "suspect"]
    by_arm = results.reversion.set_index([*PAIR, "split", "arm"])[["before", "change"]].unstack()
    own = by_arm["change"].assign(before=by_arm["before"].mean(axis=1)).reset_index()
    own = own.reindex(columns=["split", *columns]).assign(source="this run", suspect=False)
    table, comparison = own, _NOT_COMPARED
    if len(bins) == len(BINS):
        published = published_changes().reindex(columns=columns)
        table = pd.concat([own, published.assign(source=PUBLISHED, split="train")])
        comparison = _COMPARED
    table = table.reset_index(drop=True)[["source", "split", *columns]]
    table["suspect"] = table["suspect"].map({True: "suspect", False: ""})
    return Table(
        "reversion_published",
        "Change in accuracy when the evolutions of single layers are reverted, and published "
        "results",
        "Change in accuracy in percentage points when a set of neurons of one layer is reverted, "
        f"and accuracy before (share). q1: the most important {results.part} of the "
        "neurons by sign_t. This run: mean over layers and classes, on held-out images (split "
        "heldout) and on images on which importance was computed (split importance); the run "
        f"report says how many. {comparison}",
        table,
        dict.fromkeys(columns[3:-2], POINTS) | {"before": SHARE},
    )


#: Axes of the network measures, with their units.
AXES = {
    "importance": "importance\n(sign_t, share of images)",
    "drop": "change in accuracy when\nreverted (percentage points)",
    "displacement": "displacement\n(1 − similarity)",
    "observer_clarity": "margin of the observer\n(similarity, no unit)",
}


@shelf.figure("study", "association", "associations")
def associations_plot(results: Results) -> Figure | None:
    if (table := results.joined_trials) is None or not results.choice_tasks:
        return None
    task = results.choice_tasks[0]
    table = table[table["task"] == task]
    table = table[~table["condition"].isin(results.controls(task))]
    evidence = [name for name in EVIDENCE if table[name].notna().any()]
    if not evidence:
        return None
    trials_shown = table.groupby(["trial", "condition"])[["rate", *evidence]].mean().reset_index()
    canvas, axes = subplots(
        1, len(evidence), figsize=(2.3 * len(evidence) + 0.4, 2.6), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, name in zip(axes[0], evidence, strict=True):
        for k, (condition, condition_rows) in enumerate(trials_shown.groupby("condition")):
            x = condition_rows[name] * (100 if name == "drop" else 1)
            axis.plot(x, condition_rows["rate"], markersize=3.5, alpha=0.7, linestyle="none",
                      label=as_words(str(condition)), **style_of(k))  # fmt: skip
        axis.set_xlabel(AXES[name])
    axes[0, 0].set_ylabel("accuracy of participants")
    draw_legend(canvas, axes[0, 0])
    space = space_of(results.responses.study)
    return Figure(
        "study_associations",
        "Accuracy of participants and network measures by trial",
        f"{capitalise(results.name(task))}; each mark is a trial. Accuracy of participants against "
        f"network measures: importance, change in the network's accuracy when the {results.part} "
        f"that contains the neuron is reverted, displacement in the {space} space (each "
        "averaged over the neurons of the trial), and the margin of the machine observer. Control "
        "conditions excluded.",
        canvas,
    )


@shelf.sentences("study", "association")
def describe_associations(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield one sentence per significant association, and one for all others."""
    tests = results.tests_of("associations")
    if tests.empty or (tests := tests.dropna(subset=["value"])).empty:
        return
    choice_tasks = set(map(results.name, results.choice_tasks))
    for row in tests[tests["claimed"]].itertuples():
        response_name = "accuracy" if row.task in choice_tasks else "the share judged changed"
        yield (
            f"In {row.task}, {response_name} {'increased' if row.value > 0 else 'decreased'} with "
            f"{MEASURES[row.evidence]} (partial Spearman's ρ = {with_sign(row.value, '.2f')}, "
            f"{effect_text(results, row, '+.2f')})."
        )
    others = tests[~tests["claimed"]]
    if len(others):
        subject = (
            f"of the {pluralise(len(tests), 'partial Spearman correlation')} between participants' "
            "responses and network measures"
        )
        is_none, verb = len(others) == len(tests), "was" if len(others) == 1 else "were"
        least, most = (with_sign(others["value"].agg(end), ".2f") for end in ("min", "max"))
        texts = [
            f"from {with_sign(rows['low'].min(), '.2f')} to {with_sign(rows['high'].max(), '.2f')} "
            f"in {task}"
            for task, rows in others.dropna(subset=["low", "high"]).groupby("task", sort=False)
        ]
        note = f" Their unadjusted {results.level} CIs extend {join(texts)}." if texts else ""
        yield (
            (f"None {subject} was" if is_none else f"The other {len(others)} {subject} {verb} not")
            + f" significant after adjustment (ρ from {least} to {most}; smallest adjusted "
            f"{p_text(others['p'].min())}; [table:associations]).{note}"
        )


@shelf.sentences("study", "association")
def compare_with_observer(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield sentences on whether the machine observer, from colours and edges alone, responds
    correctly more often than chance."""
    trials = results.observed_trials
    answers, any_above = results.responses.answers, False
    for task in results.choice_tasks:
        chance = results.responses.study.chance(task)
        is_planned = ~trials["condition"].isin(results.controls(task))
        main_trials = trials[(trials["task"] == task) & is_planned]
        above, not_above = list[str](), list[str]()
        for condition, rows in main_trials.groupby("condition"):
            hits, n = int(rows["observer_correct"].sum()), len(rows)
            accuracy = answers.loc[answers["trial"].isin(rows["trial"]), "correct"].mean()
            test = stats.binomtest(hits, n, chance[str(condition)], alternative="greater")
            (above if test.pvalue < ALPHA else not_above).append(
                f"{as_words(str(condition))} ({percent(hits / n)} of {n} trials; participants "
                f"{percent(accuracy)})"
            )
        name = results.name(task)
        if above:
            yield (
                f"In {name}, the machine observer, which uses only colours and edges of the "
                "pictures, was significantly above chance (unadjusted exact binomial test, "
                f"p < .05; [table:observer]) in {join(above)}."
            )
            any_above = True
        if not_above:
            yield (
                f"In {name}, the machine observer was not significantly above chance in "
                f"{join(not_above)} ([table:observer])."
            )
    if any_above:
        yield (
            "Colours and edges suffice to solve more of these trials than guessing would, so "
            "accuracy above chance does not by itself show that participants recognised concepts."
        )


@shelf.sentences("study", "networks")
def describe_reversion(results: Results, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield a sentence on whether effects of reversion follow the order of importance."""
    table = results.held_out_changes
    if table is None:
        return
    bins = results.bins
    order = ["q1", "random", *bins[-1:]]
    changes = table.pivot(index=PAIR, columns="arm", values="change")
    if not set(order) <= set(changes.columns):
        return
    pairs, note = [(changes.dropna(subset=order), "epochs here")], ""
    if len(bins) == len(BINS):
        pairs.append((published_changes(), PUBLISHED))
        note = "; the values of one published pair are suspect, see [table:reversion_published]"
    counts = [
        f"{(np.diff(rows[order].astype(float)) > 0).all(axis=1).sum()} of "
        f"{pluralise(len(rows), 'pair')} of {source}"
        for rows, source in pairs
    ]
    yield (
        f"In {' and in '.join(counts)}, the order was as expected (means over layers; "
        f"[figure:study_reversion]{note}): accuracy decreased most when the most important "
        f"{results.part} of a layer was reverted, less for random sets, and least (or increased) "
        f"for the least important {results.part}."
    )
