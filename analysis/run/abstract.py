"""The structured abstract of a run's report, generated from its tables and records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from analysis.exhibits.phrases import joined, percent, points
from analysis.exhibits.tables import Table
from analysis.run.reversion import joint, main_method
from analysis.run.tables import base_checkpoint, named_concepts, series_of
from analysis.statistics.alignment import NAMED_OVERLAP
from analysis.statistics.claims import ALPHA
from analysis.statistics.classes import by_class, class_interval, quartiles
from harness.artifacts import Artifact, Run
from harness.text import pluralise

UNTRAINED = "untrained"


def of_run(run: Run, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield the paragraphs on design, results and limits that the run can support."""
    yield f"Design. {_design(run, tables['neurons'].frame)}"
    if (alignment := tables.get("alignment")) is not None:
        yield f"Concepts. {_concepts(run, tables['neurons'].frame)}"
        yield f"Semantic space. {_shared_concepts(run, alignment.frame)}"
    if (reversion := tables.get("reversion")) is not None:
        yield f"Importance. {_importance(run, reversion.frame)}"
    yield f"Limits. {_limits(run)}"


def _design(run: Run, neurons: pd.DataFrame) -> str:
    configuration = run.manifest()["configuration"]
    sections = {section["name"]: section for section in configuration["series"]}
    rows = []
    for series, section in sections.items():
        of = neurons[neurons["series"] == series]
        made = f"{section['architecture']}, " if section.get("architecture") else ""
        rows.append(
            f"{series} ({made}images of {section['crop']} × {section['crop']} pixels, "
            f"{int(of['neurons'].max())} probed neurons; epochs {', '.join(map(str, of['epoch']))})"
        )
    counts = []
    for split, name in (("train", "training"), ("probe", "probe"), ("test", "test")):
        artifact = Artifact("image_index", (split,))
        if run.path(artifact).exists():
            index = run.table(artifact)
            counts.append(f"{len(index):,} {name}")
            classes = index["class_name"].nunique()
    kind = "synthetic images" if is_synthetic(run) else "images"
    return (
        f"{pluralise(len(rows), 'network')}, one training run each: {'; '.join(rows)}. "
        f"{joined(counts)} {kind} of {classes} classes; seed {configuration['seed']}."
    )


def is_synthetic(run: Run) -> bool:
    return run.manifest()["configuration"]["images"]["source"] == "drawn"


def _concepts(run: Run, neurons: pd.DataFrame) -> str:
    """Describe the number of neurons with a true concept at the first and the last checkpoint of
    each series, and at that with the most."""
    named = named_concepts(run)
    assert named is not None
    parts = []
    for series in series_of(run):
        mine = neurons[neurons["series"] == series].sort_values("epoch")
        count = named[named["series"] == series].groupby("epoch").size()
        count = count.reindex(mine["epoch"], fill_value=0)
        most = int(count.idxmax())
        at = [
            f"{count[epoch]} at epoch {epoch}" + (" (the maximum)" if epoch == most else "")
            for epoch in sorted({mine["epoch"].iloc[0], most, mine["epoch"].iloc[-1]})
        ]
        parts.append(f"in {series} (of {mine['neurons'].max()} neurons) {joined(at)}")
    return (
        "The number of neurons with a true concept (the image part or attribute that overlaps most "
        f"with the neuron's activations; intersection over union at least {NAMED_OVERLAP}) was "
        f"{'; '.join(parts)}."
    )


def _shared_concepts(run: Run, alignment: pd.DataFrame) -> str:
    """Describe the share of neighbours with the same concept in the first space, for the most
    distant group of trained networks and for untrained networks."""
    method, base = alignment["method"].iloc[0], base_checkpoint(run)
    mine = alignment[alignment["method"] == method].set_index("group")
    of = {
        "base": "the base itself",
        "other epochs": f"other epochs of {base.series}",
        "other series": joined([name for name in series_of(run) if name != base.series]),
        UNTRAINED: "untrained networks",
    }
    farthest = [group for group in mine.index if group != UNTRAINED][-1:]
    parts = [
        f"{percent(row['share'])} in {of[group]} (95 % CI [{percent(row['low'])}, "
        f"{percent(row['high'])}]; chance {percent(row['chance'])}, largest possible share "
        f"{percent(row['ceiling'])})"
        for group, row in mine.loc[[*farthest, *mine.index.intersection([UNTRAINED])]].iterrows()
    ]
    return (
        f"Each neuron was compared with the five neurons of {base.series} at epoch {base.epoch} "
        f"(the base) that are nearest to it in the semantic space ({method}). The share of these "
        f"five that have its true concept is {joined(parts)}."
    )


def _importance(run: Run, reversion: pd.DataFrame) -> str:
    """Describe the mean changes in accuracy for the sets of the main score, over pairs."""
    method = main_method(run)
    records = joint(run)
    changes = by_class(records[records["method"] == method])
    wide = changes.groupby(["class_id", "arm"], observed=True)["change"].mean().unstack("arm")
    last = quartiles(list(wide.columns))[-1]
    arms = {
        "q1": f"the most important quarter (by the score {method})",
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
    count = len(mine)
    return (
        "For pairs of epochs, the activations of a set of neurons at the later epoch were replaced "
        "by those at the earlier one (reverted), in all layers at once. Accuracy on held-out "
        f"images then changed, in percentage points, by {joined(parts)} (means over "
        f"{count} pairs of epochs; 95 % CIs over {len(wide)} classes). The difference between the "
        "most important quarter and random sets was "
        f"{points(*map(float, ends.loc['difference']))}; it was significant in "
        f"{int((p < ALPHA).sum())} of {count} pairs. In {holds} of {count} pairs accuracy was "
        "lowest after the most important quarter was reverted, higher after random sets, and "
        "highest after the least important quarter."
    )


def _limits(run: Run) -> str:
    """Describe the limits of generalisation."""
    count = len(series_of(run))
    said = [
        f"One training run of {'each of ' * (count > 1)}{pluralise(count, 'network')}: the "
        "results are not shown to hold for other seeds or architectures."
    ]
    if is_synthetic(run):
        said.append("The images are synthetic.")
    if run.holds("concepts"):
        said.append(
            "Shares of neurons and of neighbours depend on the minimum overlap required for a true "
            f"concept ({NAMED_OVERLAP}), which is low."
        )
    return " ".join(said)
