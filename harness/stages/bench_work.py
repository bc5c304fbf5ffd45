"""What a piece of work of the benchmark does, in a worker: read artifacts, compute, save them."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from harness.artifacts import Artifact, Run
from harness.bench_results import CONTROLS
from harness.concepts.space_methods import SPACES
from harness.config import Config
from harness.evolutions import arms as benchmark
from harness.evolutions.ablation import Images, ablate
from harness.evolutions.arms import BenchParameters
from harness.evolutions.importance import importance_method, sensitivities, split_half, summarise
from harness.evolutions.reversion import bins_of
from harness.images.batches import batch_of, batches
from harness.images.sets import ImageSet
from harness.networks.execution import execution
from harness.networks.layers import Layer
from harness.networks.sources import Source
from harness.records import ARM, PAIR, Checkpoint, Pair
from harness.stages.engine import Advance
from harness.stages.work import (
    evidence_of,
    image_parts,
    importance_batches,
    open_pair,
    other_batches,
    output_of,
)

#: Streams of chance, apart from those of `harness/stages/work.py`.
SCORES, RANKS, DRAWS, DONORS, SPACES_AGAIN = range(10, 15)

#: Scored beside every benchmark, as controls are matched on them: arm -> importance method.
MATCHED = {"matched": "change", "matched_activation": "activation"}

RECORD = [
    *PAIR,
    "ablation",
    *ARM,
    *("class_id", "image_id", "split", "correct_before", "correct_after"),
    *("top5_before", "top5_after", "probability_before", "probability_after"),
]


def place(pair: Pair, *more: str) -> tuple[str | int, ...]:
    """The parts that name a pair's artifacts."""
    # a user's own method has a colon in its name, which not every file system takes
    names = [name.replace(":", ".") for name in more]
    return (pair.series, pair.epoch_from, pair.epoch_to, *names)


def _rng(config: Config, pair: Pair, stream: int, class_id: int) -> np.random.Generator:
    """A stream for a class and pair: what is drawn for one pair says nothing of another."""
    place = zlib.crc32(f"{pair.series}:{pair.epoch_from}-{pair.epoch_to}".encode())
    return np.random.default_rng([config.seed, stream, class_id, place])


def score_method(
    run: Run,
    made_from: str,
    advance: Advance,
    source: Source,
    pair: Pair,
    config: Config,
    classes: list[int],
    name: str,
    batch_size: int,
) -> None:
    """Score and rank all neurons of one pair by one method, for every class."""
    images, older, newer, layers = open_pair(run, source, pair)
    method, size = importance_method(name), min(batch_size, config.evolve.batch_size)
    scores, reliability = [], []
    for class_id in classes:
        found = sensitivities(
            older,
            newer,
            layers,
            importance_batches(images, config, source, class_id, size),
            output_of(source, images, class_id),
            {name: method},
            _rng(config, pair, SCORES, class_id),
            config.evolve.path_steps,
            other_batches(images, config, source, class_id, size),
        )
        rng = _rng(config, pair, RANKS, class_id)
        frames = []
        for (_, layer), values in found.items():
            score, stderr = summarise(values, method.share)
            values_of = {"channel": np.arange(len(score)), "score": score, "stderr": stderr}
            frames.append(pd.DataFrame(values_of).assign(layer=layer, images=len(values)))
            halves = split_half(values, method.share, rng)
            reliability.append(halves.assign(layer=layer, class_id=class_id))
        table = pd.concat(frames, ignore_index=True)
        scores.append(table.assign(rank=benchmark.ranked(table, rng), class_id=class_id))
        advance(1)
    kept = {
        "bench_scores": (scores, ["channel", "class_id", "score", "stderr", "images", "rank"]),
        "bench_reliability": (reliability, ["class_id", "images", "rho", "left_out"]),
    }
    for kind, (tables, columns) in kept.items():
        table = pd.concat(tables, ignore_index=True).assign(**vars(pair), method=name)
        columns = [*PAIR, "layer", "method", *columns]
        run.save(Artifact(kind, place(pair, name)), table[columns], made_from)


def _scores(run: Run, pair: Pair, name: str) -> dict[int, pd.DataFrame]:
    """Class -> one method's scores and ranks on one pair, read once."""
    table = run.table(Artifact("bench_scores", place(pair, name)))
    return dict(list(table.groupby("class_id")))


def _changed(sizes: pd.DataFrame) -> dict[str, np.ndarray]:
    """Layer -> channels of the layers in which anything changed, by the scores of `change`."""
    return {
        str(layer): np.sort(group["channel"].to_numpy())
        for layer, group in sizes.groupby("layer", sort=False)
        if (group["score"] > 0).any()
    }


def _order(scores: pd.DataFrame, layers: Collection[str]) -> dict[str, np.ndarray]:
    return benchmark.by_rank(scores.dropna(subset="score"), layers)


def choose_controls(
    run: Run,
    made_from: str,
    advance: Advance,
    pair: Pair,
    config: Config,
    classes: list[int],
    name: str,
    parameters: BenchParameters,
) -> None:
    """Draw and save one method's controls (of CONTROLS: the random sets) for one pair."""
    sizes = {method: _scores(run, pair, method) for method in MATCHED.values()}
    scores = {} if name == CONTROLS else _scores(run, pair, name)
    tables = []
    for position, class_id in enumerate(classes):
        changed = _changed(sizes["change"][class_id])
        if name == CONTROLS:
            rng = _rng(config, pair, DRAWS, class_id)
            sets = benchmark.random_sets(changed, parameters.bins, parameters.random_draws, rng)
        else:
            order = _order(scores[class_id], changed)
            alike = {arm: sizes[method][class_id] for arm, method in MATCHED.items()}
            sets = benchmark.matched_sets(order, parameters.bins, alike)
            if len(classes) > 1:
                other = classes[(position + 1) % len(classes)]
                theirs = _order(scores[other], changed)
                sets["other_class", 0] = {
                    layer: bins_of(channels, parameters.bins)[0]
                    for layer, channels in theirs.items()
                }
        tables.append(benchmark.to_table(sets).assign(class_id=class_id))
    table = pd.concat(tables, ignore_index=True).assign(**vars(pair), method=name)
    columns = [*PAIR, "class_id", "method", "arm", "draw", "layer", "channel"]
    run.save(Artifact("bench_sets", place(pair, name)), table[columns], made_from)
    advance(1)


def run_arms(
    run: Run,
    made_from: str,
    advance: Advance,
    source: Source,
    pair: Pair,
    config: Config,
    classes: list[int],
    layers: list[Layer],
    ablation: str,
    name: str,
    parameters: BenchParameters,
    batch_size: int,
) -> None:
    """Run one method's arms by one ablation on one pair; a row an image and arm."""
    images, older, newer, _ = open_pair(run, source, pair)
    saved = run.table(Artifact("bench_sets", place(pair, name)))
    sizes = _scores(run, pair, "change")
    scores = {} if name == CONTROLS else _scores(run, pair, name)
    frames = []
    for class_id in classes:
        sets = benchmark.from_table(saved[saved["class_id"] == class_id])
        if name != CONTROLS:
            order = _order(scores[class_id], _changed(sizes[class_id]))
            sets = benchmark.rank_sets(order, parameters.bins, parameters.steps) | sets
        arms = benchmark.arms(sets, name, parameters.layer_draws, layers)
        parts = image_parts(config, images, class_id)
        for split in parameters.splits:
            shown = Images(
                batches(images, parts[split], source.view, batch_size),
                partial(importance_batches, images, config, source, class_id, batch_size),
                lambda ids: batch_of(images, donors(images, ids, config.seed), source.view),
            )
            output = output_of(source, images, class_id)
            rows = ablate(older, newer, layers, arms, shown, output, ablation, batch_size)
            frames.append(rows.assign(class_id=class_id, split=split))
        advance(1)
    table = pd.concat(frames, ignore_index=True).assign(**vars(pair), ablation=ablation)[RECORD]
    labels = ["series", "ablation", "layer", "method", "arm", "split"]
    run.save(
        Artifact("bench_records", place(pair, ablation, name)),
        table.astype({label: "category" for label in labels} | {"draw": "int16"}),
        made_from,
    )


def donors(images: ImageSet, ids: Tensor, seed: int) -> np.ndarray:
    """For each image one of another class, the same whatever batch it is in."""
    found = []
    for image in ids.tolist():
        others = np.flatnonzero(images.labels != images.labels[image])
        if not len(others):
            raise ValueError("ablation 'resample' needs images of a second class")
        found.append(np.random.default_rng([seed, DONORS, image]).choice(others))
    return np.array(found)


def footprint(run: Run, source: Source, pair: Pair, layers: Sequence[Layer]) -> float:
    """Bytes that one image takes in a worker: kept maps of both models, their replacements, and
    twice as much again for what a run in progress, or a graph for gradients, holds."""
    images, older, newer, _ = open_pair(run, source, pair)
    batch = batch_of(images, np.arange(min(4, len(images))), source.view)
    total = 0
    with torch.inference_mode():
        for model in (older, newer):
            with execution(model, layers) as running:
                running.start(batch)
                replaced = sum(running.output(layer.name).nbytes for layer in layers)
                total += running.kept_bytes() + replaced
    return 3 * total / len(batch)


def place_again(
    run: Run,
    made_from: str,
    advance: Advance,
    method: str,
    config: Config,
    base: Checkpoint,
    seed: int,
) -> None:
    """Place all neurons by one space method with another draw of its randomness."""
    rng = np.random.default_rng([config.seed, SPACES_AGAIN, seed])
    space = SPACES.get(method)(evidence_of(run, config, base), config.space, rng, method)
    rows = np.flatnonzero(
        (space.neurons["series"] == base.series) & (space.neurons["epoch"] == base.epoch)
    )
    near, _ = space.nearest(rows, rows, 5)
    table = pd.DataFrame(near, columns=[f"nearest_{rank}" for rank in range(1, 6)])
    keys = space.neurons.iloc[rows][["layer", "channel"]].reset_index(drop=True)
    run.save(
        Artifact("bench_neighbours", (method, seed)), pd.concat([keys, table], axis=1), made_from
    )
