"""The benchmark: what was asked for, checked against the run; its plan; its steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from torch import Tensor

from harness.artifacts import Run
from harness.config import Config, ConfigError, parse_config
from harness.evolutions import arms
from harness.evolutions.arms import BenchParameters
from harness.evolutions.importance import IMPORTANCE, importance_method, sensitivities
from harness.evolutions.pair import ModelPair
from harness.networks.budget import resources
from harness.networks.execution import execution, replace_channels
from harness.networks.objectives import Target
from harness.networks.sources import Source
from harness.records import CONTROLS, Pair
from harness.stages.ablate import (
    RunArms,
    ablation_size,
    arm_works,
    bytes_an_image,
    layer_names,
    set_works,
    study_steps,
)
from harness.stages.checkpoints import batch_there, image_parts, open_pair, read_layers, view_of
from harness.stages.engine import one_thread
from harness.stages.evolve import ScoreEvolutions, score_works
from harness.stages.prototypes import prototype_works, sample_target
from harness.stages.space import PlaceAgain
from harness.stages.stage import Plan, Step, Work
from harness.stages.study import AblationStudy, chosen_classes


@dataclass(frozen=True)
class Coverage:
    """What a benchmark covers; where nothing is named, the run's own choice.

    Attributes:
        methods: importance methods; "all" stands for every registered one.
        classes: names.
        pairs: each "series:from-to".
        layers: module names or patterns.
        ablations, splits: see BenchParameters.
    """

    methods: Sequence[str] = ()
    classes: Sequence[str] = ()
    pairs: Sequence[str] = ()
    layers: Sequence[str] = ()
    ablations: Sequence[str] = ()
    splits: Sequence[str] = ()


def bench_config(run: Run, covered: Coverage) -> Config:
    """The configuration of a run that has been probed, with the coverage on top.

    Raises:
        ConfigError: what is not there, and what is.
    """
    config = parse_config(run.manifest()["configuration"], f"the run {run.root}")
    named = [m for name in covered.methods for m in (IMPORTANCE if name == "all" else [name])]
    fields = {"methods": named, "ablations": covered.ablations, "splits": covered.splits}
    asked = {name: tuple(dict.fromkeys(values)) for name, values in fields.items() if values}
    try:
        parameters = BenchParameters(**{**config.bench.model_dump(), **asked})
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"bench: {'; '.join(problems)}") from error
    if covered.classes:
        classes = tuple(dict.fromkeys(covered.classes))
        evolve = config.evolve.model_copy(update={"classes": classes})
        config = config.model_copy(update={"evolve": evolve})
    return config.model_copy(update={"bench": parameters})


def bench_study(plan: Plan, covered: Coverage) -> AblationStudy:
    """The benchmark of a run as a study.

    Args:
        plan: with `bench_config`'s configuration.
        covered: its pairs and layers.

    Raises:
        ConfigError: what is not there, and what is.
    """
    config, pairs, layers = plan.config, covered.pairs, covered.layers
    everything = [(source, pair) for source in config.series for pair in config.pairs(source)]
    chosen = [_pair(config, text) for text in dict.fromkeys(pairs)] if pairs else everything
    if not chosen:
        raise ConfigError(
            "no series has two trained checkpoints: there is no evolution to judge; name --pairs, "
            "or add checkpoints"
        )
    names = dict.fromkeys(source.name for source, _ in chosen)
    return AblationStudy(
        name="bench",
        config=config,
        pairs=tuple(chosen),
        classes=chosen_classes(plan),
        layers=tuple((n, _layers(plan.run, n, layers)) for n in names) if layers else (),
        methods=config.bench.methods,
        ablations=config.bench.ablations,
        splits=config.bench.splits,
        benchmark=True,
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


def _layers(run: Run, series: str, patterns: Sequence[str]) -> tuple[str, ...]:
    names = [layer.name for layer in read_layers(run, series)]
    chosen = tuple(name for name in names if any(fnmatchcase(name, p) for p in patterns))
    if not chosen:
        raise ConfigError(
            f"--layers {', '.join(patterns)}: series {series!r} has {', '.join(names)}"
        )
    return chosen


def bench_steps(study: AblationStudy, plan: Plan) -> Iterator[Step]:
    """Do what neither the reversion study nor an earlier benchmark has done."""
    again = again_works(study)
    yield "spaces", again
    if works := prototype_works(study):
        yield "class prototypes", works
    yield "importance", score_works(study)
    neighbours = [artifact for work in again for artifact in work.makes]
    yield from study_steps(study, plan, {"neighbours": neighbours})


def again_works(study: AblationStudy) -> list[Work]:
    """Further draws of every space method."""
    config = study.config
    return [
        PlaceAgain(method, config, draw)
        for method in config.space.methods
        for draw in range(config.bench.space_seeds)
    ]


def plan_table(study: AblationStudy, plan: Plan, workers: int) -> pd.DataFrame:
    """What will be run, how long it will take and how much memory, by timing one batch a series.

    Returns:
        series, pairs, images (a class, ablated), arms (a class, still to be run), GiB (a worker),
        minutes of scores and of arms that are not there yet, on so many workers.
    """
    plan.add(prototype_works(study))
    scores = [w for w in plan.add(score_works(study)) if not plan.is_done(w)]
    plan.add(set_works(study))
    records = [w for w in plan.add(arm_works(study)) if not plan.is_done(w)]
    rows = []
    seen, shown = _images_a_class(study, plan)
    scale = max(workers, 1) * 60
    for name, (source, pair) in {s.name: (s, pair) for s, pair in study.pairs}.items():
        waiting_scores = [
            w for w in scores if isinstance(w, ScoreEvolutions) and w.source.name == name
        ]
        waiting_arms = [w for w in records if isinstance(w, RunArms) and w.source.name == name]
        layers = len(layer_names(study, plan.run, name))
        models, view = open_pair(plan.run, source, pair), view_of(plan.run, source)
        shown_images = models, plan.test_images, view
        size = ablation_size(name, *shown_images, study.config.revert.batch_size)
        counts = [arms_a_class(study, w.method, w.kind, layers) for w in waiting_arms]
        row: dict[str, Any] = {
            "series": name,
            "pairs": sum(s.name == name for s, _ in study.pairs),
            "images": shown,
            "arms": sum(
                (joint + alone) * len(work.classes)
                for (joint, alone), work in zip(counts, waiting_arms, strict=True)
            ),
            "GiB": size * bytes_an_image(*shown_images) / 2**30,
            "scores, min": 0.0,
            "arms, min": 0.0,
        }
        if waiting_scores or waiting_arms:
            some = np.arange(min(size, 8, len(plan.test_images)))
            batch = batch_there(plan.test_images, some, view)
            steps = study.config.evolve.path_steps
            with one_thread():
                target = sample_target(source, models.newer, plan.test_images, batch)
                seconds = seconds_an_image(study.scored, steps, models, batch, target)
            for work in waiting_scores:
                row["scores, min"] += len(work.classes) * seen * seconds[work.method] / scale
            for (joint, alone), arm_work in zip(counts, waiting_arms, strict=True):
                each = joint * seconds["joint"] + alone * seconds["layer"]
                row["arms, min"] += len(arm_work.classes) * shown * each / scale
        rows.append(row)
    return pd.DataFrame(rows)


def arms_a_class(study: AblationStudy, method: str, kind: str, layers: int) -> tuple[int, int]:
    """Arms a class of a method and kind: over all layers at once, and in single layers."""
    p = study.arm_parameters
    one = np.arange(max(p.bins, 2))
    ranked = arms.Ranked(
        p,
        {"layer": one},
        lambda _: pd.DataFrame({"layer": "layer", "channel": one, "score": 1.0}),
        {"layer": one},
        lambda *_: np.random.default_rng(0),
    )
    joint = alone = 0
    for family in arms.families(method == CONTROLS, kind == "benchmark"):
        number = len(family.sets(ranked))
        joint += number
        alone += number * layers * family.each_layer
    return joint, alone


def _images_a_class(study: AblationStudy, plan: Plan) -> tuple[int, int]:
    """Images of a class that importance is measured on, and that arms are run on (the most)."""
    parts = [image_parts(study.config, plan.test_images, c) for c in study.classes]
    shown = [sum(len(part[split]) for split in study.splits) for part in parts]
    return max(len(part["importance"]) for part in parts), max(shown)


def seconds_an_image(
    methods: Sequence[str], path_steps: int, models: ModelPair, batch: Tensor, target: Target
) -> dict[str, float]:
    """Seconds an image: of each method, of an arm over all layers ("joint"), of one in a layer
    ("layer", mean).

    Arms are timed as they are run: half of a layer's channels are replaced.
    """
    seconds = {}
    with resources().device.computing():
        for name in methods:
            start = time.perf_counter()
            rng, method = np.random.default_rng(0), {name: importance_method(name)}
            sensitivities(models, [batch], target, method, rng, path_steps, lambda: [batch])
            seconds[name] = (time.perf_counter() - start) / len(batch)
        with torch.inference_mode(), execution(models.newer, models.layers) as running:
            running.start(batch)
            changes = {
                layer.name: replace_channels(
                    layer, torch.arange(0, layer.channels, 2), running.output(layer.name)
                )
                for layer in models.layers
            }
            for what, several in (
                ("joint", [changes]),
                ("layer", [{name: change} for name, change in changes.items()]),
            ):
                running.rerun_many(several)
                start = time.perf_counter()
                for logits in running.rerun_many(several):
                    logits.sum().item()  # waits for a GPU
                each = (time.perf_counter() - start) / len(several)
                seconds[what] = each / len(batch)
    return seconds
