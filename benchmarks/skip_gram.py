"""Compare the published skip-gram update with that of the stated objective on a finished run.

python benchmarks/skip_gram.py RUN [--seeds 5] [--epochs 20,100]
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table
from scipy import stats

from analysis.statistics.alignment import concept_sharing
from harness.artifacts import Run
from harness.concepts.space import SemanticSpace
from harness.concepts.space_methods import SPACES, Evidence
from harness.config import parse_config
from harness.randomness import generator
from harness.stages.engine import one_thread
from harness.stages.space import read_evidence

METHODS = ("sgns", "sgns_full")


def above(space: SemanticSpace, evidence: Evidence) -> float:
    """Return the probability that a co-activated pair is more similar than another; ties half."""
    rows = evidence.base_rows
    incidence = evidence.incidence[rows]
    together = (incidence @ incidence.T).toarray() > 0
    pairs = np.triu_indices(len(rows), 1)
    likeness, positive = space.similarity(rows, rows)[pairs], together[pairs]
    ranks = stats.rankdata(likeness)
    count = positive.sum()
    excess = ranks[positive].sum() - count * (count + 1) / 2
    return float(excess / (count * (~positive).sum()))


def main(
    run: Path,
    seeds: Annotated[int, typer.Option(min=2)] = 5,
    epochs: Annotated[str, typer.Option(help="passes of skip-gram")] = "20,100",
) -> None:
    """Print both methods' means over seeds, and their paired difference with a 95 % t interval."""
    opened = Run(run)
    config = parse_config(opened.manifest()["configuration"])
    evidence, concepts = read_evidence(opened, config), opened.tables("concepts")
    base = config.base_checkpoint()
    rows = []
    with one_thread():
        for passes in map(int, epochs.split(",")):
            parameters = config.space.model_copy(update={"epochs": passes})
            for seed in range(seeds):
                for method in METHODS:
                    rng = generator(seed, "skip-gram benchmark")  # the same draws for both methods
                    space = SPACES.get(method)(evidence, parameters, rng, method)
                    shares = concept_sharing(space, concepts, base)
                    trained = shares[shares["epoch"] > 0].groupby("group")["share"].mean()
                    values = {
                        "co-activated above others": above(space, evidence),
                        **{f"same concept: {group}": value for group, value in trained.items()},
                    }
                    rows += [(passes, seed, method, name, v) for name, v in values.items()]
    frame = pd.DataFrame(rows, columns=["epochs", "seed", "method", "measure", "value"])
    table = Table("passes", "measure", *METHODS, "difference [95 %]")
    for (passes, measure), part in frame.groupby(["epochs", "measure"], sort=False):
        wide = part.pivot(index="seed", columns="method", values="value")
        change = wide[METHODS[0]] - wide[METHODS[1]]
        half = stats.t.ppf(0.975, seeds - 1) * change.std(ddof=1) / np.sqrt(seeds)
        low, high = change.mean() - half, change.mean() + half
        means = [f"{wide[method].mean():.3f}" for method in METHODS]
        table.add_row(
            str(passes), measure, *means, f"{change.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    typer.run(main)
