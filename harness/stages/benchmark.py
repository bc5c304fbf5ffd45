"""The benchmark: its coverage, checked against the run, and its steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from harness.artifacts import Run
from harness.config import Config, ConfigError, parse_config
from harness.evolutions.ablation import ABLATIONS, reads_donors
from harness.evolutions.importance import IMPORTANCE
from harness.networks.sources import Source
from harness.records import Pair
from harness.results import BENCH
from harness.stages.ablate import study_steps
from harness.stages.checkpoints import layer_names
from harness.stages.evolve import score_steps
from harness.stages.space import PlaceAgain
from harness.stages.stage import Plan, Step
from harness.stages.study import AblationStudy, select_classes


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


def bench_config(run: Run, coverage: Coverage) -> Config:
    """Return the configuration of a probed run, changed to what the benchmark covers.

    Raises:
        ConfigError: an invalid method, ablation or split; the message says what is allowed.
    """
    values = run.manifest()["configuration"]
    methods = [m for name in coverage.methods for m in (IMPORTANCE if name == "all" else [name])]
    fields = {"methods": methods, "ablations": coverage.ablations, "splits": coverage.splits}
    values["bench"] |= {name: list(dict.fromkeys(part)) for name, part in fields.items() if part}
    if coverage.classes:
        values["evolve"]["classes"] = list(dict.fromkeys(coverage.classes))
    return parse_config(values, f"the run {run.root}")


def bench_study(plan: Plan, coverage: Coverage) -> AblationStudy:
    """Return the benchmark of a run as a study.

    Args:
        plan: with the configuration that `bench_config` returns.
        coverage: only its pairs and layers are used.

    Raises:
        ConfigError: a series, class or layer is unknown, there is no pair, or an ablation needs
            images of another class where there is only one.
        ValueError: a pair's epochs are not epochs of its series, in increasing order.
    """
    config, pairs, layers = plan.config, coverage.pairs, coverage.layers
    all_pairs = [(source, pair) for source in config.series for pair in config.pairs(source)]
    selection = [_parse_pair(config, text) for text in dict.fromkeys(pairs)] if pairs else all_pairs
    if not selection:
        raise ConfigError(
            "no series has two trained checkpoints: there is no evolution to score; name --pairs, "
            "or add checkpoints"
        )
    labels, of_donors = plan.test_images.labels, list(filter(_needs_donors, config.bench.ablations))
    if of_donors and (labels == labels[0]).all():
        raise ConfigError(
            f"bench.ablations (--ablation): {of_donors[0]!r} uses the maps for an image of "
            f"another class, and all test images are of class "
            f"{plan.test_images.classes[labels[0]]!r}: add images of another class, or name other "
            f"ablations ({', '.join(name for name in ABLATIONS if not _needs_donors(name))})"
        )
    names = dict.fromkeys(source.name for source, _ in selection)
    return AblationStudy(
        name=BENCH,
        config=config,
        pairs=tuple(selection),
        classes=select_classes(plan),
        layers={name: _match_layers(plan.run, name, layers) for name in names} if layers else {},
        methods=config.bench.methods,
        ablations=config.bench.ablations,
        splits=config.bench.splits,
    )


def _needs_donors(ablation: str) -> bool:
    return reads_donors.is_on(ABLATIONS.get(ablation))


def _parse_pair(config: Config, text: str) -> tuple[Source, Pair]:
    name, _, epochs = text.partition(":")
    try:
        start, end = (int(epoch) for epoch in epochs.split("-"))
    except ValueError:
        raise ConfigError(f"--pairs {text!r} must be series:from-to, e.g. vgg:1-4") from None
    for source in config.series:
        if source.name == name:
            return source, source.series().pairs([(start, end)])[0]
    names = ", ".join(source.name for source in config.series)
    raise ConfigError(f"--pairs {text!r}: no series {name!r}; there are {names}")


def _match_layers(run: Run, series: str, patterns: Sequence[str]) -> tuple[str, ...]:
    names = layer_names(run, series)
    matches = tuple(name for name in names if any(fnmatchcase(name, p) for p in patterns))
    if not matches:
        raise ConfigError(
            f"--layers {', '.join(patterns)}: no probed layer of series {series!r} matches; "
            f"it has {', '.join(names)}"
        )
    return matches


def bench_steps(study: AblationStudy, plan: Plan) -> Iterator[Step]:
    """Do the work of the benchmark that neither the reversion study nor a benchmark has done."""
    config = study.config
    repeats = [
        PlaceAgain(method, config, draw)
        for method in config.space.methods
        for draw in range(config.bench.space_seeds)
    ]
    yield "spaces", repeats
    yield from score_steps(study)
    neighbours = [artifact for work in repeats for artifact in work.makes]
    yield from study_steps(study, plan, {"neighbours": neighbours})
