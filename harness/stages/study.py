"""The coverage of an ablation study; the reversion study and the benchmark are two instances.

Both write records of the same form. The benchmark adds arms, methods and ablations to those of the
reversion study, and repeats none of its work.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property

import numpy as np

from harness.artifacts import Artifact
from harness.config import Config, ConfigError
from harness.evolutions.arms import families
from harness.evolutions.importance import importance_method
from harness.networks.sources import Source
from harness.randomness import generator
from harness.records import Pair
from harness.results import BENCH, REVERSION
from harness.stages.stage import Plan, Work


def describe_small_layers(series: str, largest: int, bins: int) -> list[str]:
    """Return a message if not even the largest layer, of `largest` units, can be divided into
    bins by importance."""
    if largest >= bins:
        return []
    remedy = f"lower it to {largest}, or " * (largest > 1) + "name larger layers"
    return [
        f"series {series!r}: its largest layer has {largest} units, which cannot be divided into "
        f"revert.bins = {bins} parts by importance: {remedy}"
    ]


@dataclass(frozen=True)
class AblationStudy:
    """An ablation study: which sets of neurons are ablated, how, and on which images.

    Attributes:
        name: REVERSION or BENCH, its results' folder; the benchmark also runs arms of its own.
        config: of the run.
        pairs: series' sources with their pairs of epochs.
        classes: class ids; the "other class" of a class is the next one in this order.
        layers: series -> names of the layers with arms; by default all probed layers.
        methods: importance methods.
        ablations: names in ABLATIONS.
        splits: parts of the test images.
    """

    name: str
    config: Config
    pairs: tuple[tuple[Source, Pair], ...]
    classes: tuple[int, ...]
    layers: Mapping[str, tuple[str, ...]]
    methods: tuple[str, ...]
    ablations: tuple[str, ...]
    splits: tuple[str, ...]

    @property
    def benchmark(self) -> bool:
        return self.name == BENCH

    @cached_property
    def blocks(self) -> list[tuple[int, ...]]:
        """The classes in blocks of `evolve.classes_per_file`."""
        size = self.config.evolve.classes_per_file
        return [self.classes[i : i + size] for i in range(0, len(self.classes), size)]

    @property
    def arm_kinds(self) -> list[str]:
        """The kinds of arms: those of the reversion study and, for a benchmark, its own."""
        return ["reversion", "benchmark"] if self.benchmark else ["reversion"]

    @property
    def scored_methods(self) -> list[str]:
        """The methods that are scored: the study's, "change", and those that match arms."""
        kinds = [f for benchmark in {False, self.benchmark} for f in families(False, benchmark)]
        matched_on = [name for family in kinds for name in family.matched_on]
        return list(dict.fromkeys([*self.methods, "change", *matched_on]))

    def other_class(self, class_id: int) -> int | None:
        """Return the "other class" of a class, whose ranking is compared; None if there is none."""
        position = self.classes.index(class_id)
        following = self.classes[(position + 1) % len(self.classes)]
        return None if following == class_id else following

    def block_of(self, class_id: int) -> tuple[int, ...]:
        return next(block for block in self.blocks if class_id in block)

    def scores(self, pair: Pair, method: str, block: tuple[int, ...]) -> Artifact:
        return Artifact("importance", (*astuple(pair), slug(method), scope(block)))

    def about(self, layers: dict[str, list[str]]) -> dict[str, object]:
        """Return the description that is saved with the results (see `harness/results.py`), with
        the names of the layers in which arms were run, by series."""
        config, revert, bench = self.config, self.config.revert, self.config.bench
        return {
            "seed": config.seed,
            "methods": {name: importance_method(name).about for name in self.methods},
            "ablations": list(self.ablations),
            "splits": list(self.splits),
            "classes": list(self.classes),
            "pairs": [vars(pair) for _, pair in self.pairs],
            "layers": layers,
            "arms": {
                "bins": revert.bins,
                "steps": bench.steps,
                "layer_draws": revert.random_draws,
                "draws": bench.random_draws,
            },
            "images_per_class": config.evolve.images_per_class,
            "heldout_images": revert.heldout_images,
        }


@dataclass(frozen=True)
class StudyWork(Work):
    """A piece of work on one pair of epochs, by one importance method (or CONTROLS), for some
    classes."""

    study: AblationStudy
    source: Source
    pair: Pair
    method: str
    classes: tuple[int, ...]

    @property
    def steps(self) -> int:
        return len(self.classes)

    def generator(self, purpose: str, *values: str | int) -> np.random.Generator:
        """Return the generator of a purpose, for this pair and some values."""
        return generator(self.study.config.seed, purpose, *astuple(self.pair), *values)


def slug(name: str) -> str:
    """Return a plug-in's name as part of a file name; some file systems do not allow colons."""
    return name.replace(":", ".")


def scope(block: Sequence[int], *restrictions: Sequence[object]) -> str:
    """Return a name for a block of classes, with a hash of all other restrictions of a file."""
    is_contiguous = list(block) == list(range(block[0], block[-1] + 1))
    name = f"{block[0]:04d}-{block[-1]:04d}"
    if is_contiguous and not any(restrictions):
        return name
    return f"{name}.{hashlib.sha256(json.dumps([block, restrictions]).encode()).hexdigest()[:8]}"


def select_classes(plan: Plan) -> tuple[int, ...]:
    """Return the ids of the configured classes. Raises ConfigError if a name is unknown."""
    images, names = plan.test_images, plan.config.evolve.classes
    if names is None:
        return tuple(range(len(images.classes)))
    if unknown := sorted(set(names) - set(images.classes)):
        raise ConfigError(
            f"classes: no class {', '.join(unknown)}; there are {', '.join(images.classes)}"
        )
    return tuple(images.classes.index(name) for name in names)


def reversion_study(plan: Plan) -> AblationStudy:
    config = plan.config
    return AblationStudy(
        name=REVERSION,
        config=config,
        pairs=tuple((source, pair) for source in config.series for pair in config.pairs(source)),
        classes=select_classes(plan),
        layers={},
        methods=config.evolve.methods,
        ablations=("revert",),
        splits=("heldout", "importance"),
    )
