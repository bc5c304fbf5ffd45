"""The benchmark's stages: what is asked for, what that will take, the pieces, the results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError

from harness.artifacts import Artifact, Run, fingerprint
from harness.bench_results import BENCH_VERSION, CONTROLS, write_results
from harness.config import Config, ConfigError, parse_config
from harness.evolutions.arms import BenchParameters
from harness.evolutions.importance import IMPORTANCE, importance_method, sensitivities
from harness.images.batches import batch_of
from harness.images.sets import open_images
from harness.networks.execution import execution
from harness.networks.layers import Layer
from harness.networks.sources import Source
from harness.records import Pair
from harness.registry import plugin_identity
from harness.stages import bench_work as work
from harness.stages.engine import Engine, Shard, one_thread
from harness.stages.pipeline import (
    checkpoint_fingerprint,
    chosen_classes,
    image_fingerprint,
    package_version,
    space_fingerprint,
    versions,
)
from harness.stages.work import image_parts, open_pair, read_layers

#: Fewer images a pass than this are computed by other kernels, which differ in the last bits.
FEWEST = 4


@dataclass(frozen=True)
class Wanted:
    """What a benchmark covers.

    Attributes:
        config: of the run; its `bench` section with what was asked for on top.
        pairs: series' sources with their pairs of epochs.
        classes: class ids.
        layers: series -> probed layers in which arms are run.
    """

    config: Config
    pairs: tuple[tuple[Source, Pair], ...]
    classes: tuple[int, ...]
    layers: dict[str, list[Layer]]

    @property
    def parameters(self) -> BenchParameters:
        return self.config.bench


def wanted(
    run: Run,
    methods: Sequence[str] = (),
    ablations: Sequence[str] = (),
    classes: Sequence[str] = (),
    pairs: Sequence[str] = (),
    layers: Sequence[str] = (),
    **more: object,
) -> Wanted:
    """Check what was asked for against the run; the run's own choices where nothing was.

    Args:
        run: a run that has been probed.
        methods: names; "all" stands for every registered one.
        ablations, classes: names.
        pairs: each "series:from-to".
        layers: module names or patterns.
        more: other fields of BenchParameters.

    Raises:
        ConfigError: what is not there, and what is.
    """
    config = parse_config(run.manifest()["configuration"], f"the run {run.root}")
    named = [m for name in methods for m in (IMPORTANCE if name == "all" else [name])]
    asked = dict(more)
    if named:
        asked["methods"] = tuple(dict.fromkeys(named))
    if ablations:
        asked["ablations"] = tuple(dict.fromkeys(ablations))
    try:
        parameters = BenchParameters(**{**config.bench.model_dump(), **asked})
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"bench: {told}") from error
    if classes:
        evolve = config.evolve.model_copy(update={"classes": tuple(dict.fromkeys(classes))})
        config = config.model_copy(update={"evolve": evolve})
    config = config.model_copy(update={"bench": parameters})
    everything = [(source, pair) for source in config.series for pair in config.pairs(source)]
    chosen = [_pair(config, text) for text in dict.fromkeys(pairs)] if pairs else everything
    if not chosen:
        raise ConfigError(
            "no series has two trained checkpoints: there is no evolution to judge; name --pairs, "
            "or add checkpoints"
        )
    names = dict.fromkeys(source.name for source, _ in chosen)
    return Wanted(
        config,
        tuple(chosen),
        tuple(chosen_classes(config, run)),
        {name: _layers(run, name, layers) for name in names},
    )


def _pair(config: Config, text: str) -> tuple[Source, Pair]:
    name, _, epochs = text.partition(":")
    try:
        start, end = (int(epoch) for epoch in epochs.split("-"))
    except ValueError:
        raise ConfigError(f"--pairs {text!r} must be series:from-to, e.g. vgg:1-4") from None
    for source in config.series:
        if source.name == name:
            return source, source.series().pairs([(start, end)])[0]
    known = ", ".join(source.name for source in config.series)
    raise ConfigError(f"--pairs {text!r}: no series {name!r}; there are {known}")


def _layers(run: Run, series: str, patterns: Sequence[str]) -> list[Layer]:
    layers = read_layers(run, series)
    if not patterns:
        return layers
    found = [layer for layer in layers if any(fnmatchcase(layer.name, p) for p in patterns)]
    if not found:
        known = ", ".join(layer.name for layer in layers)
        raise ConfigError(f"--layers {', '.join(patterns)}: series {series!r} has {known}")
    return found


def bench(asked: Wanted, run: Run, engine: Engine, bytes_an_image: Mapping[str, float]) -> None:
    """Do what is not done yet, then write the results."""
    sizes = batch_sizes(asked, bytes_an_image)
    engine.stage("scores", score_shards(asked, sizes))
    engine.stage("controls", control_shards(asked))
    engine.stage("arms", arm_shards(asked, sizes))
    engine.stage("spaces", space_shards(asked))
    write_results(run, _contents(asked), _about(asked))


def _images(asked: Wanted) -> list[object]:
    """Everything of the configuration that says which images a class has in which split."""
    config = asked.config
    evolve, reverted = config.evolve, config.revert
    parts = [evolve.images_per_class, reverted.heldout_images, asked.classes, config.seed]
    return [image_fingerprint(config, "test"), parts]


def _score_fingerprint(asked: Wanted, source: Source, pair: Pair, method: str) -> str:
    return fingerprint(
        package_version(),
        *(
            checkpoint_fingerprint(asked.config, source, epoch)
            for epoch in (pair.epoch_from, pair.epoch_to)
        ),
        _images(asked),
        asked.config.evolve.path_steps,
        plugin_identity(method),
    )


def _control_fingerprint(asked: Wanted, source: Source, pair: Pair, method: str) -> str:
    drawn = [asked.parameters.bins, asked.parameters.random_draws]
    return fingerprint(_score_fingerprint(asked, source, pair, method), drawn)


def _arm_fingerprint(asked: Wanted, source: Source, pair: Pair, method: str, ablation: str) -> str:
    p = asked.parameters
    layers = [layer.name for layer in asked.layers[source.name]]
    parts = [p.steps, p.layer_draws, p.splits, layers, plugin_identity(ablation)]
    return fingerprint(_control_fingerprint(asked, source, pair, method), parts)


def scored(asked: Wanted) -> list[str]:
    """The methods that are scored: those asked for, and those that controls are matched on."""
    return list(dict.fromkeys([*asked.parameters.methods, *work.MATCHED.values()]))


def score_shards(asked: Wanted, sizes: dict[str, int]) -> list[Shard]:
    kinds = ("bench_scores", "bench_reliability")
    return [
        Shard(
            tuple(Artifact(kind, work.place(pair, method)) for kind in kinds),
            _score_fingerprint(asked, source, pair, method),
            work.score_method,
            (source, pair, asked.config, list(asked.classes), method, sizes[source.name]),
            len(asked.classes),
        )
        for source, pair in asked.pairs
        for method in scored(asked)
    ]


def control_shards(asked: Wanted) -> list[Shard]:
    return [
        Shard(
            (Artifact("bench_sets", work.place(pair, method)),),
            _control_fingerprint(asked, source, pair, method),
            work.choose_controls,
            (pair, asked.config, list(asked.classes), method, asked.parameters),
        )
        for source, pair in asked.pairs
        for method in (CONTROLS, *asked.parameters.methods)
    ]


def arm_shards(asked: Wanted, sizes: dict[str, int]) -> list[Shard]:
    classes = list(asked.classes)
    return [
        Shard(
            (Artifact("bench_records", work.place(pair, ablation, method)),),
            _arm_fingerprint(asked, source, pair, method, ablation),
            work.run_arms,
            (
                *(source, pair, asked.config, classes, asked.layers[source.name]),
                *(ablation, method, asked.parameters, sizes[source.name]),
            ),
            len(classes),
        )
        for source, pair in asked.pairs
        for ablation in asked.parameters.ablations
        for method in (CONTROLS, *asked.parameters.methods)
    ]


def space_shards(asked: Wanted) -> list[Shard]:
    config = asked.config
    return [
        Shard(
            (Artifact("bench_neighbours", (method, seed)),),
            fingerprint(space_fingerprint(config, method), seed),
            work.place_again,
            (method, config, config.base_checkpoint(), seed),
        )
        for method in config.space.methods
        for seed in range(asked.parameters.space_seeds)
    ]


def footprints(asked: Wanted, run: Run) -> dict[str, float]:
    """Series -> bytes that one image takes in a worker."""
    one_each = {source.name: (source, pair) for source, pair in asked.pairs}
    return {
        name: work.footprint(run, source, pair, asked.layers[name])
        for name, (source, pair) in one_each.items()
    }


def batch_sizes(asked: Wanted, bytes_an_image: Mapping[str, float]) -> dict[str, int]:
    """Series -> images a pass, such that a worker's maps fit `memory`.

    Raises:
        ConfigError: not even FEWEST images fit.
    """
    sizes = {}
    for series, one in bytes_an_image.items():
        fit = int(asked.parameters.memory * 2**30 / one)
        if fit < FEWEST:
            raise ConfigError(
                f"bench.memory = {asked.parameters.memory:g} GiB holds {fit} images of series "
                f"{series!r}; {FEWEST} need {FEWEST * one / 2**30:.2f} GiB"
            )
        sizes[series] = min(fit, asked.parameters.batch_size)
    return sizes


def plan(
    asked: Wanted, run: Run, workers: int, bytes_an_image: Mapping[str, float]
) -> pd.DataFrame:
    """What will be run, how long it will take and how much memory, by timing one batch a series.

    Returns:
        series, pairs, images (a class, reverted), arms (a pair and class), GiB (a worker), minutes
        of scores and of arms that are not there yet, on so many workers.
    """
    sizes, rows = batch_sizes(asked, bytes_an_image), []
    shards = {"scores": score_shards(asked, sizes), "arms": arm_shards(asked, sizes)}
    p = asked.parameters
    seen, shown = _images_a_class(asked, run)
    for name, (source, pair) in {s.name: (s, pair) for s, pair in asked.pairs}.items():
        waiting = {
            what: [s for s in some if s.makes[0].parts[0] == name and not s.done(run)]
            for what, some in shards.items()
        }
        layers = asked.layers[name]
        joint = p.bins + 2 * (p.steps - 1) + len(work.MATCHED) + (len(asked.classes) > 1)
        alone = p.bins + len(work.MATCHED)
        row: dict[str, Any] = {
            "series": name,
            "pairs": sum(s.name == name for s, _ in asked.pairs),
            "images": shown,
            "arms": (joint + alone * len(layers)) * len(p.methods) * len(p.ablations),
            "GiB": sizes[name] * bytes_an_image[name] / 2**30,
            "scores, min": 0.0,
            "arms, min": 0.0,
        }
        if waiting["scores"] or waiting["arms"]:
            seconds = _seconds(asked, run, source, pair, sizes[name])
            classes, scale = len(asked.classes), max(workers, 1) * 60
            for shard in waiting["scores"]:
                row["scores, min"] += classes * seen * seconds[shard.arguments[-2]] / scale
            arms = joint * seconds["joint"] + alone * seconds["layers"]
            row["arms, min"] = len(waiting["arms"]) * classes * shown * arms / scale
        rows.append(row)
    return pd.DataFrame(rows)


def _images_a_class(asked: Wanted, run: Run) -> tuple[int, int]:
    """Images of a class that importance is measured on, and that arms are run on (the most)."""
    images = open_images(run, "test")
    parts = [image_parts(asked.config, images, class_id) for class_id in asked.classes]
    shown = [sum(len(part[split]) for split in asked.parameters.splits) for part in parts]
    return max(len(part["importance"]) for part in parts), max(shown)


def _seconds(asked: Wanted, run: Run, source: Source, pair: Pair, size: int) -> dict[str, float]:
    """Seconds an image: of each method, of a re-run over all layers, of one in each layer."""
    one_thread()
    images, older, newer, _ = open_pair(run, source, pair)
    layers = asked.layers[source.name]
    batch = batch_of(images, np.arange(min(size, 8, len(images))), source.view)
    found = {}
    for name in scored(asked):
        start = time.perf_counter()
        rng = np.random.default_rng(0)
        methods = {name: importance_method(name)}
        steps = asked.config.evolve.path_steps
        sensitivities(older, newer, layers, [batch], 0, methods, rng, steps, lambda: [batch])
        found[name] = (time.perf_counter() - start) / len(batch)
    with torch.inference_mode(), execution(newer, layers) as running:
        running.start(batch)
        same = {layer.name: (lambda output: output) for layer in layers}
        for what, arms in (
            ("joint", [same]),
            ("layers", [{name: change} for name, change in same.items()]),
        ):
            running.rerun_many(arms)
            start = time.perf_counter()
            running.rerun_many(arms)
            found[what] = (time.perf_counter() - start) / len(batch)
    return found


def _contents(asked: Wanted) -> dict[str, list[Artifact]]:
    """The pieces that this benchmark's results consist of."""
    methods = asked.parameters.methods
    pairs = [pair for _, pair in asked.pairs]
    return {
        "records": [
            Artifact("bench_records", work.place(pair, ablation, method))
            for pair in pairs
            for ablation in asked.parameters.ablations
            for method in (CONTROLS, *methods)
        ],
        "scores": [Artifact("bench_scores", work.place(p, m)) for p in pairs for m in methods],
        "reliability": [
            Artifact("bench_reliability", work.place(p, m)) for p in pairs for m in methods
        ],
        "sets": [
            Artifact("bench_sets", work.place(p, m)) for p in pairs for m in (CONTROLS, *methods)
        ],
        "neighbours": [
            Artifact("bench_neighbours", (method, seed))
            for method in asked.config.space.methods
            for seed in range(asked.parameters.space_seeds)
        ],
    }


def _about(asked: Wanted) -> dict[str, object]:
    """What the results say of themselves; see `bench_results`."""
    config = asked.config
    return {
        "version": BENCH_VERSION,
        "seed": config.seed,
        "methods": {
            name: {"linearises": importance_method(name).linearises}
            for name in asked.parameters.methods
        },
        "classes": list(asked.classes),
        "pairs": [vars(pair) for _, pair in asked.pairs],
        "layers": {name: [layer.name for layer in layers] for name, layers in asked.layers.items()},
        "parameters": asked.parameters.model_dump(
            mode="json", exclude={"methods", "batch_size", "memory"}
        ),
        "images_per_class": config.evolve.images_per_class,
        "heldout_images": config.revert.heldout_images,
        "versions": versions(),
    }
