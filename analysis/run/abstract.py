"""The structured abstract of a run's report, made from its tables and records alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from analysis.exhibits.phrases import joined, percent, points, rows_of
from analysis.exhibits.tables import Table
from analysis.run.reversion import joint, main_method
from analysis.run.tables import base_checkpoint, named_concepts, series_of
from analysis.statistics.alignment import NAMED_OVERLAP
from analysis.statistics.classes import by_class, class_interval, quartiles
from harness.artifacts import Artifact, Run

UNTRAINED, BASELINE = "untrained", "random"


def of_run(run: Run, tables: Mapping[str, Table]) -> Iterator[str]:
    """Design, results and limits; nothing is said of what the run does not have."""
    yield f"Design. {_design(run, tables['neurons'].frame)}"
    if (alignment := tables.get("alignment")) is not None:
        yield f"Concepts. {_concepts(run, tables['neurons'].frame)}"
        sentences = [shared_by_first(run, alignment.frame), *differences_from(tables)]
        yield f"Semantic space. {' '.join(sentences)}"
    if (reversion := tables.get("reversion")) is not None:
        yield f"Importance. {_importance(run, reversion.frame)}"
    yield f"Limits. {limits(run)}"


def _design(run: Run, neurons: pd.DataFrame) -> str:
    rows = []
    for series in series_of(run):
        of = neurons[neurons["series"] == series]
        count = int(of["neurons"].max())
        epochs = ", ".join(map(str, of["epoch"]))
        rows.append(f"{series} ({count} neurons; epochs {epochs})")
    counts = []
    for split, name in (("train", "training"), ("probe", "probe"), ("test", "test")):
        artifact = Artifact("image_index", (split,))
        if run.path(artifact).exists():
            index = run.table(artifact)
            counts.append(f"{len(index):,} {name}")
            classes = index["class_name"].nunique()
    kind = "synthetic images" if is_synthetic(run) else "images"
    seed = run.manifest()["configuration"]["seed"]
    return (
        f"{len(rows)} network{'s' * (len(rows) != 1)}, one training run each: {'; '.join(rows)}. "
        f"{joined(counts)} {kind} of {classes} classes; seed {seed}."
    )


def is_synthetic(run: Run) -> bool:
    return run.manifest()["configuration"]["images"]["source"] == "drawn"


def _concepts(run: Run, neurons: pd.DataFrame) -> str:
    """How many neurons and concepts the first and the last checkpoint of each series have."""
    named = named_concepts(run)
    assert named is not None
    parts = []
    for series in series_of(run):
        epochs = neurons.loc[neurons["series"] == series, "epoch"]
        of = named[named["series"] == series].groupby("epoch")["concept"]
        ends = [int(epochs.min()), int(epochs.max())]
        count, kinds = (f.reindex(ends, fill_value=0).tolist() for f in (of.size(), of.nunique()))
        parts.append(
            f"{count[0]} at epoch {ends[0]} and {count[1]} at epoch {ends[1]} in {series} "
            f"({kinds[0]} and {kinds[1]} different concepts)"
        )
    return (
        f"The number of neurons with a true concept (overlap of at least {NAMED_OVERLAP}) was "
        f"{joined(parts)}."
    )


def shared_by_first(run: Run, alignment: pd.DataFrame) -> str:
    """The share of the first space, for neurons of the most distant trained networks."""
    method = alignment["method"].iloc[0]
    row = alignment[(alignment["method"] == method) & (alignment["group"] != UNTRAINED)].iloc[-1]
    base = base_checkpoint(run)
    of = {
        "base": "of the base checkpoint",
        "other epochs": f"of other epochs of {base.series}",
        "other series": "of other networks",
    }
    return (
        f"In the {method} space, {percent(row['share'])} of the five nearest base neurons of a "
        f"neuron {of[row['group']]} had its true concept (95 % CI [{percent(row['low'])}, "
        f"{percent(row['high'])}]; chance {percent(row['chance'])})."
    )


def shared_by_untrained(alignment: pd.DataFrame) -> list[str]:
    """The baseline: the share in networks at epoch 0, and its chance."""
    rows = alignment[(alignment["group"] == UNTRAINED) & (alignment["method"] != BASELINE)]
    parts = [f"{percent(row.share)} in {row.method}" for row in rows_of(rows)]
    if not parts:
        return []
    return [
        f"In untrained networks the share was {joined(parts)} (chance "
        f"{percent(rows['chance'].mean())})."
    ]


def differences_from(tables: Mapping[str, Table]) -> Iterator[str]:
    """How other spaces, but random vectors, differ from the first one in trained networks."""
    if (table := tables.get("alignment_pairs")) is None:
        return
    method, pairs = tables["alignment"].frame["method"].iloc[0], table.frame
    sides = pairs[["first", "second"]]
    of = (sides == method).any(axis=1) & ~sides.isin({BASELINE} - {method}).any(axis=1)
    pairs = pairs[(pairs["group"] != UNTRAINED) & of]
    significant = pairs[pairs["adjusted p"] < 0.05]
    parts = []
    for row in significant.to_dict("records"):
        sign = 1 if row["second"] == method else -1
        other = row["first"] if sign == 1 else row["second"]
        low, high = sorted(sign * row[f"difference {end}"] for end in ("low", "high"))
        change = points(sign * row["difference"], low, high, row["adjusted p"])
        parts.append(f"{other} ({row['group']}) by {change}")
    compared = sorted({*pairs["first"], *pairs["second"]} - {method})
    if compared:
        yield (
            f"Of {len(compared) * len(set(pairs['group']))} paired comparisons with {method} in "
            f"trained networks ({joined(compared)}), {len(parts)} differed significantly"
            + (f" (percentage points, 95 % CI): {'; '.join(parts)}." if parts else ".")
        )


def _importance(run: Run, reversion: pd.DataFrame) -> str:
    """What the main score's sets cost, mean over pairs, with intervals over classes."""
    method = main_method(run)
    records = joint(run)
    changes = by_class(records[records["method"] == method])
    wide = changes.groupby(["class_id", "arm"], observed=True)["change"].mean().unstack("arm")
    last = quartiles(list(wide.columns))[-1]
    arms = {
        "q1": "the most important quarter",
        "random": "random sets",
        "matched": "sets matched in size of change",
        last: "the least important quarter",
    }
    wide = wide.assign(difference=wide["q1"] - wide["random"])
    ends = class_interval(wide)
    parts = [f"{points(*map(float, ends.loc[arm]))} for {name}" for arm, name in arms.items()]
    mine = reversion[reversion["method"] == method]
    holds = int(((mine["q1"] < mine["random"]) & (mine["random"] < mine[last])).sum())
    p = mine["adjusted p (q1 vs random)"]
    return (
        f"Reverting neurons to the earlier checkpoint in all layers (score {method}) changed "
        "accuracy on held-out images by (percentage points, mean over "
        f"{len(mine)} pairs of epochs, 95 % CIs over {len(wide)} classes) {joined(parts)}. The "
        "change by the most important quarter differed from that by random sets by "
        f"{points(*map(float, ends.loc['difference']))}; this difference was significant in "
        f"{int((p < 0.05).sum())} of {len(mine)} pairs. The order q1 < random < {last} held in "
        f"{holds} of {len(mine)} pairs."
    )


def limits(run: Run) -> str:
    """To what the results do not generalise."""
    count = len(series_of(run))
    said = [
        f"One training run of {'each of ' * (count > 1)}{count} network{'s' * (count > 1)}: "
        "nothing is known of other seeds or architectures."
    ]
    if is_synthetic(run):
        said.append("The images are synthetic.")
    if run.holds("concepts"):
        said.append(
            f"The overlap that counts as a true concept ({NAMED_OVERLAP}) is low, and other "
            "thresholds were not examined."
        )
    return " ".join(said)
