"""Comparison of a run with the published values of the paper (`init --preset paper`)."""

from collections.abc import Mapping
from importlib.resources import files

import numpy as np
import pandas as pd

from analysis.exhibits import shelf
from analysis.exhibits.tables import Table
from analysis.run.reversion import reversion_means, reversion_study
from harness.artifacts import Run
from harness.records import JOINT, PAIR
from harness.results import REVERSION, has_results

#: Names of the paper's space and importance score.
SPACE, SCORE = "sgns", "sign_t"
#: The name of the paper in figures and tables.
PUBLISHED = "Park et al. (2023)"
#: The networks of the published series, whose names end in the learning rate.
_NETWORKS = {"vgg16_0.01": "VGG16", "inception_v3_0.5": "InceptionV3", "convnext_0.004": "ConvNeXt"}
BINS = ["q1", "q2", "q3", "q4"]
COLUMNS = [*PAIR, "images", "outcome"]


def read_published() -> pd.DataFrame:
    """Return the published values: series, epoch_from, epoch_to, images (train: those used for
    importance; test), outcome (top1, top5), q1 to q4, random, before, suspect."""
    path = files("analysis") / "run" / "data" / "published_reversion.csv"
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file, comment="#")


def published_changes() -> pd.DataFrame:
    """Return the published changes of top-1 accuracy on train images, with names of networks."""
    rows = read_published().query("images == 'train' and outcome == 'top1'")
    return rows.replace({"series": _NETWORKS}).reset_index(drop=True)


def join_published(means: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Combine the published values with those of a run, for the pairs that both have.

    Args:
        means: outcome (top1, top5) -> `harness.results.mean_by_class` of a reversion study.

    Returns:
        the columns of `read_published` and source (published, ours); ours are means over layers,
        each the mean over images.
    """
    published = read_published()
    rows = []
    for outcome, table in means.items():
        single_layers = table[(table["layer"] != JOINT) & (table["method"] == SCORE)]
        for key, group in single_layers.groupby([*PAIR, "split"], observed=True):
            images = {"importance": "train", "heldout": "test"}[str(key[3])]
            by_layer = group.groupby(["arm", "layer"], observed=True)[["change", "images"]]
            changes = by_layer.apply(_mean_over_images, "change").groupby(level=0).mean()
            row = dict(zip(COLUMNS, (*key[:3], images, outcome), strict=True))
            row |= {arm: changes.get(arm) for arm in (*BINS, "random")}
            rows.append(row | {"before": _mean_over_images(group, "before"), "suspect": False})
    own_results = pd.DataFrame(rows, columns=published.columns)
    published = published.merge(own_results[PAIR].drop_duplicates(), on=PAIR)
    own_results = own_results.merge(published[PAIR].drop_duplicates(), on=PAIR)
    combined = pd.concat([own_results.assign(source="ours"), published.assign(source="published")])
    return combined.sort_values([*COLUMNS, "source"], kind="stable").reset_index(drop=True)


def _mean_over_images(means: pd.DataFrame, column: str) -> float:
    return float(np.average(means[column], weights=means["images"]))


@shelf.table("run", "reversion")
def reversion_published(run: Run) -> Table | None:
    if not has_results(run, REVERSION):
        return None
    pairs = pd.DataFrame(reversion_study(run).about["pairs"])
    if pairs.merge(read_published(), on=PAIR).empty:
        return None  # before the records are read
    outcomes = {"top1": "accuracy", "top5": "top-5"}
    table = join_published(
        {name: reversion_means(run, outcome, None) for name, outcome in outcomes.items()}
    )
    if table.empty:
        return None
    table["suspect"] = table["suspect"].map({True: "suspect", False: ""})
    return Table(
        "reversion_published",
        "Change in accuracy when single layers are reverted, and published values",
        "Percentage points, mean over layers and classes. Train: images on which importance was "
        "estimated; test: other images. Published: from the result files in the repository of Park "
        "et al. (2023). In rows marked suspect, the top-1 values of the test images of one pair "
        "equal those of the training images of another, which suggests a copying error; the top-5 "
        "values of these rows differ, but may be wrong too.",
        table[["source", *COLUMNS, *BINS, "random", "before", "suspect"]],
        {name: "{:+.1%}" for name in (*BINS, "random")} | {"before": "{:.1%}"},
    )
