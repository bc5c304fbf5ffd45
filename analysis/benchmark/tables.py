"""The tables of a benchmark, one function each."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.benchmark import measures, significance
from analysis.benchmark.results import Bench
from analysis.exhibits import shelf
from analysis.exhibits.phrases import as_printed
from analysis.exhibits.tables import P_VALUE, Table
from analysis.run.reversion import merge_epochs, methods_table
from analysis.statistics import comparisons
from analysis.statistics.classes import find_bins
from harness.records import NAMED_OVERLAP, PAIR

_SIGNED = "{:+.3f}"
_HOW = (
    "95 % CIs: t over classes, each by the mean of its images; networks and pairs of epochs are "
    "fixed."
)


@shelf.table("bench", "leaderboard")
def leaderboard(bench: Bench) -> Table:
    outcomes = bench.outcomes(bench.main)
    tests = significance.class_tests(outcomes, bench.methods).set_index("method")
    permutation = significance.permute_sets(outcomes, bench.methods)
    other_measures = [name for name in measures.MEASURES if name != "gap"]
    main = bench.clustered_measure("gap").table(bench.methods).loc[bench.order]
    columns: dict[str, Mapping[str, Any] | pd.Series] = {
        "gap": main["value"],
        "low": main["low"],
        "high": main["high"],
        "group": comparisons.letters(bench.order, bench.gap_differences),
        "ranks": comparisons.ranks(bench.order, bench.gap_differences),
        **{name: bench.ranking(name) for name in other_measures},
        "gap, probability": bench.ranking(outcome="probability"),
        "p (Page)": tests["page"],
        "p (vs random)": tests["random"],
        "p (vs matched)": tests["matched"],
        "p (permutation)": {method: p for method, (p, _) in permutation.items()},
        "linearises": {method: bench.linearises(method) for method in bench.order},
        "classes": main["classes"],
        "left out": main["left out"],
    }
    table = pd.DataFrame({"method": bench.order}).assign(
        **{name: [values[method] for method in bench.order] for name, values in columns.items()}
    )
    draws, (part, parts) = max(n for _, n in permutation.values()), bench.parts
    signed_columns = ["gap", "low", "high", "gap, probability", *other_measures]
    return Table(
        "leaderboard",
        f"Importance methods by gap ({bench.main}, {bench.split_text})",
        f"Neurons of all layers are ablated at once, in {parts} by a method's importance. Gap: "
        f"accuracy after ablating the least important {part} minus after the most important one, "
        "mean over classes. Area: the same for cumulative sets, mean over all shares. Over random, "
        "matched, active, other class: accuracy after ablating random sets, sets matched in size "
        f"of change, sets matched in activation, or the most important {part} for another class, "
        f"minus accuracy after ablating the most important {part}. Lost: share of correct "
        "predictions that become errors. " + _HOW + " Group: methods that share a letter do not "
        "differ significantly (all pairs, Holm, 5 %); none if no comparison could be computed. "
        "Ranks: simultaneous 95 % CI from the same "
        "comparisons. p-values over classes, Holm-adjusted over methods: Page's trend test over "
        f"the {parts}, one-sided; Wilcoxon, two-sided. Permutation, two-sided, unadjusted: "
        f"against {draws} saved random sets. Linearises: the ablation whose effect the score "
        "approximates to first order; a large gap by this ablation is weaker evidence that the "
        "score measures importance. Left out: classes without a value.",
        table,
        dict.fromkeys(signed_columns, _SIGNED)
        | dict.fromkeys(
            ["p (Page)", "p (vs random)", "p (vs matched)", "p (permutation)"], P_VALUE
        ),
        hidden=("p (vs random)", "over active", "lost", "left out", "classes", "gap, probability"),
    )


@shelf.table("bench", "leaderboard")
def methods(bench: Bench) -> Table:
    return methods_table(bench.results)


@shelf.table("bench", "leaderboard")
def effects(bench: Bench) -> Table:
    frames = [
        bench.clustered_measure(name)
        .table(bench.methods)
        .loc[bench.order]
        .reset_index(names="method")
        .assign(measure=name)
        for name in measures.MEASURES
    ]
    table = pd.concat(frames, ignore_index=True)
    return Table(
        "effects",
        "All measures",
        "Defined as in the leaderboard. Left out: classes without a value. " + _HOW,
        table[["measure", *table.columns.drop("measure")]],
        dict.fromkeys(["value", "low", "high"], _SIGNED),
    )


@shelf.table("bench", "leaderboard")
def separation(bench: Bench) -> Table | None:
    if len(bench.methods) < 2:
        return None
    return Table(
        "separation",
        "Differences between methods",
        "Gap of the first method minus gap of the second, paired by class; p: Holm-adjusted over "
        "all pairs; p alone: unadjusted, as the interval. " + _HOW,
        bench.gap_differences,
        dict.fromkeys(["difference", "low", "high"], _SIGNED) | {"p_alone": P_VALUE, "p": P_VALUE},
    )


@shelf.table("bench", "leaderboard")
def bins(bench: Bench) -> Table:
    rows = []
    outcomes = bench.outcomes(bench.main)
    for key, group in outcomes.groupby(level=PAIR, sort=False):
        for method in bench.order:
            classes = measures.class_means(group, method)
            arms = [*find_bins(list(classes.columns)), "random", "matched", "matched_activation"]
            arms += ["other_class", "all"]
            before = classes["before"]
            rows.append(
                dict(zip(PAIR, key, strict=True))
                | {"method": method, "before": before.mean()}
                | {arm: (classes[arm] - before).mean() for arm in arms if arm in classes}
            )
    table = merge_epochs(pd.DataFrame(rows))
    return Table(
        "bins",
        f"Accuracy when {bench.parts[1]} are ablated, by pair ({bench.main}, {bench.split_text})",
        "Change in top-1 accuracy, mean over classes, when a set of neurons is ablated in all "
        f"layers at once: {bench.parts[1]} by importance (q1: the most important) and controls.",
        table,
        {"before": "{:.3f}"} | dict.fromkeys(table.columns[4:], _SIGNED),
    )


@shelf.table("bench", "stability")
def ablations(bench: Bench) -> Table | None:
    if len(bench.ablations) < 2:
        return None
    frame = pd.DataFrame({"method": bench.order})
    for ablation in bench.ablations:
        gaps = bench.clustered_measure("gap", ablation).table(bench.methods).loc[bench.order]
        frame[ablation] = gaps["value"].to_numpy()
        frame[f"{ablation}, 95 %"] = [
            # Adding 0 to −0.0 gives 0.0.
            ("–" if np.isnan(low) else f"{round(low, 2) + 0:+.2f} to {round(high, 2) + 0:+.2f}")
            + " *" * (bench.linearises(method) == ablation)
            for method, low, high in zip(bench.order, gaps["low"], gaps["high"], strict=True)
        ]
    return Table(
        "ablations",
        "Gap by ablation",
        "Activations are replaced by those of the earlier checkpoint for the same image (revert), "
        "by zero, by the mean over the class's images (mean) or by those for another image "
        "(resample). A star marks the ablation that a score approximates; –: no interval can be "
        "estimated. " + _HOW,
        frame,
        dict.fromkeys(bench.ablations, _SIGNED)
        | {f"{ablation}, 95 %": as_printed for ablation in bench.ablations},
    )


@shelf.table("bench", "stability")
def by_layer(bench: Bench) -> Table | None:
    rows = []
    for series, layer in bench.layers:
        outcomes = bench.layer_outcomes(series, layer)
        cells_planned = sum(p["series"] == series for p in bench.results.about["pairs"])
        cells_planned *= len(bench.classes)
        cells_ranked = len(outcomes.reset_index()[[*PAIR, "class_id"]].drop_duplicates())
        row = {"series": series, "layer": layer, "left out": cells_planned - cells_ranked}
        gaps = bench.ranking_of(outcomes)
        rows.append(row | {m: gaps[m] for m in bench.order})
    if not rows:
        return None
    return Table(
        "by_layer",
        f"Gap when one layer alone is ablated ({bench.main})",
        "Mean over classes and pairs. Left out: classes and pairs in which no neuron of the layer "
        "changed, so that there is nothing to rank.",
        pd.DataFrame(rows),
        dict.fromkeys(bench.methods, _SIGNED),
        headings=dict(zip(bench.methods, bench.methods, strict=True)),
    )


def images_needed(rho: float, images: int) -> float:
    """Return the number of images per half that a split-half correlation of .9 needs (Spearman and
    Brown, 1910); NaN if `rho` is not between 0 and 1.

    Args:
        rho: the correlation of two halves with `images` images each.
    """
    return images * 9 * (1 - rho) / rho if 0 < rho < 1 else float("nan")


@shelf.table("bench", "stability")
def reliability(bench: Bench) -> Table:
    rows = []
    splits = bench.results.reliability
    class_counts = splits.groupby("images")["class_id"].nunique()
    sizes = class_counts.index[class_counts == splits["class_id"].nunique()]
    for method in bench.order:
        method_rows = splits[splits["method"] == method]
        by_class = method_rows.groupby(["images", "class_id"])["rho"].mean().unstack("images")
        means = by_class.mean().reindex(sizes)
        images_for_nine = images_needed(means.iloc[-1], int(sizes[-1])) if len(sizes) else np.nan
        rows.append(
            {"method": method, **means.add_prefix("ρ, "), "images for .9": images_for_nine,
             "left out": int(method_rows["left_out"].sum())}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    return Table(
        "reliability",
        "Split-half reliability of importance",
        "Spearman correlation of the importance of a layer's neurons between two disjoint halves "
        "with the given number of images each, mean over layers, pairs and classes; images needed "
        "for a correlation of .9 by the Spearman–Brown formula from the largest half. Left out: "
        "draws in which all scores of a half are equal.",
        table,
        dict.fromkeys([c for c in table.columns if c.startswith("ρ")], "{:.2f}")
        | {"images for .9": "{:.0f}"},
    )


@shelf.table("bench", "leaderboard")
def images(bench: Bench) -> Table:
    table = merge_epochs(significance.image_tests(bench.outcomes(bench.main), bench.order))
    names = {
        "cochran": "p (Cochran's Q)",
        "mcnemar_last": "p (q1 vs last)",
        "mcnemar_matched": "p (q1 vs matched)",
    }
    return Table(
        "images",
        "Tests over images",
        f"Paired over images: Cochran's Q over the {bench.parts[1]}; exact McNemar tests of the "
        f"most important {bench.parts[0]} against the least important and against the set matched "
        "in size of "
        "change. They treat images of a class as independent although these share their sets, so "
        "claims are based on the tests over classes. Unadjusted p-values.",
        table.rename(columns=names),
        dict.fromkeys(names.values(), P_VALUE),
    )


@shelf.table("bench", "stability")
def stability(bench: Bench) -> Table | None:
    reference = bench.ranking()
    rows = []
    for factor, level, ranking in bench.levels():
        tau, count = comparisons.rank_agreement(reference, ranking)
        gaps = pd.Series(ranking, dtype=float)
        best = sorted(gaps.index[measures.places(gaps) == 1])
        rows.append(
            {"factor": factor, "level": level, "tau": tau, "methods": count,
             "best": ", ".join(best), "its gap": gaps.max()}
        )  # fmt: skip
    return Table(
        "stability",
        "Stability of the ranking",
        "Kendall's τ-b between the ranking of methods in the leaderboard and the ranking at each "
        "level of a factor, all else as in the leaderboard (1: identical, 0: unrelated). Best: the "
        "method ranked first (all, if several are equal), with its value. For seeds use "
        "`conceptevo bench compare`.",
        pd.DataFrame(rows),
        {"tau": "{:.2f}", "its gap": _SIGNED},
    )


@shelf.table("bench", "spaces")
def spaces(bench: Bench) -> Table | None:
    if not bench.space_values:
        return None
    coverage = {space.method: float(space.neurons["coverage"].mean()) for space in bench.spaces}
    frames = []
    for task, values in bench.space_values.items():
        if values.empty:
            continue
        by_layer, names = comparisons.clustered_by_layer(values), list(values.columns)
        frame = by_layer.table(names).sort_values("value", ascending=False, kind="stable")
        letters = comparisons.letters(list(frame.index), comparisons.differences(by_layer, names))
        frame = frame[["value", "low", "high"]].reset_index(names="method")
        group, coverages = (frame["method"].map(of) for of in (letters, coverage))
        frames.append(frame.assign(task=task, group=group, neurons=len(values), coverage=coverages))
    if not frames:
        return None
    table = pd.concat(frames, ignore_index=True)
    return Table(
        "spaces",
        "Semantic spaces: concepts, identity, stability",
        "Concept: share of a neuron's five nearest base neurons with the same true concept, for "
        "neurons of the base, other epochs, other series and untrained networks. Identity: all "
        "neurons of a series at the later epoch are ranked by their similarity to a neuron of the "
        "earlier epoch; mean of 1/rank of the same channel. Stability: share of the five nearest "
        "base neurons that are the same if the space is computed with another seed. Coverage: "
        "share of stimuli that have a vector. Over the neurons with a position in all spaces, "
        f"concepts with an overlap of at least {NAMED_OVERLAP:g}; 95 % CIs and groups (methods "
        "that share a letter do not differ significantly: all pairs, Holm, 5 %) are clustered by "
        "layer, as neurons of a layer, and a channel's epochs, are alike; the networks are fixed.",
        table[["task", *table.columns.drop("task")]],
        dict.fromkeys(["value", "low", "high"], "{:.3f}") | {"coverage": "{:.2f}"},
    )
