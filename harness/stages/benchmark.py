"""The benchmark: its coverage, checked against the run, and its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic import ValidationError

from harness.artifacts import Run
from harness.config import Config, ConfigError, parse_config
from harness.evolutions.arms import BenchParameters
from harness.evolutions.importance import IMPORTANCE
from harness.networks.sources import Source
from harness.records import Pair
from harness.results import BENCH
from harness.section import explain
from harness.stages.ablate import study_steps
from harness.stages.checkpoints import layer_names
from harness.stages.evolve import score_steps
from harness.stages.space import PlaceAgain
from harness.stages.stage import Plan, Step
from harness.stages.study import AblationStudy, chosen_classes


@dataclass(frozen=True)
class Coverage:
    """What a benchmark covers. An empty field stands for what the run's configuration covers.

    Attributes:
        methods: importance methods; "all" stands for every registered one.
        classes: names of classes.
        pairs: each of the form "series:from-to".
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
    """Return the configuration of a probed run, changed to what the benchmark covers.

    Raises:
        ConfigError: an invalid method, ablation or split; the message says what is allowed.
    """
    config = parse_config(run.manifest()["configuration"], f"the run {run.root}")
    named = [m for name in covered.methods for m in (IMPORTANCE if name == "all" else [name])]
    fields = {"methods": named, "ablations": covered.ablations, "splits": covered.splits}
    changes = {name: tuple(dict.fromkeys(values)) for name, values in fields.items() if values}
    try:
        parameters = BenchParameters(**{**config.bench.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(explain("bench", error)) from error
    if covered.classes:
        classes = tuple(dict.fromkeys(covered.classes))
        evolve = config.evolve.model_copy(update={"classes": classes})
        config = config.model_copy(update={"evolve": evolve})
    return config.model_copy(update={"bench": parameters})


def bench_study(plan: Plan, covered: Coverage) -> AblationStudy:
    """Return the benchmark of a run as a study.

    Args:
        plan: with the configuration that `bench_config` returns.
        covered: only its pairs and layers are used.

    Raises:
        ConfigError: a series, class or layer is unknown, or there is no pair.
        ValueError: a pair's epochs are not epochs of its series, in increasing order.
    """
    config, pairs, layers = plan.config, covered.pairs, covered.layers
    everything = [(source, pair) for source in config.series for pair in config.pairs(source)]
    chosen = [_pair(config, text) for text in dict.fromkeys(pairs)] if pairs else everything
    if not chosen:
        raise ConfigError(
            "no series has two trained checkpoints: there is no evolution to score; name --pairs, "
            "or add checkpoints"
        )
    names = dict.fromkeys(source.name for source, _ in chosen)
    return AblationStudy(
        name=BENCH,
        config=config,
        pairs=tuple(chosen),
        classes=chosen_classes(plan),
        layers={name: _layers(plan.run, name, layers) for name in names} if layers else {},
        methods=config.bench.methods,
        ablations=config.bench.ablations,
        splits=config.bench.splits,
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
    names = layer_names(run, series)
    chosen = tuple(name for name in names if any(fnmatchcase(name, p) for p in patterns))
    if not chosen:
        raise ConfigError(
            f"--layers {', '.join(patterns)}: series {series!r} has {', '.join(names)}"
        )
    return chosen


def bench_steps(study: AblationStudy, plan: Plan) -> Iterator[Step]:
    """Do the work of the benchmark that neither the reversion study nor a benchmark has done."""
    config = study.config
    again = [
        PlaceAgain(method, config, draw)
        for method in config.space.methods
        for draw in range(config.bench.space_seeds)
    ]
    yield "spaces", again
    yield from score_steps(study)
    neighbours = [artifact for work in again for artifact in work.makes]
    yield from study_steps(study, plan, {"neighbours": neighbours})
