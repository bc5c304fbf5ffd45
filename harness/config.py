"""The configuration file: one TOML file, checked as a whole before any work starts."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf, ValidationError, model_validator

import harness.networks.recorded_source
import harness.networks.torchvision_source  # noqa: F401 - with the line above, registers them
from harness.concepts.probing import ProbeParameters
from harness.concepts.space_methods import SPACES, SpaceParameters, reads_activations
from harness.evolutions.arms import BenchParameters, ReversionParameters
from harness.evolutions.importance import ImportanceParameters, importance_method
from harness.images.sets import ArrayImages, UserPath
from harness.networks.devices import NAME, Precision
from harness.networks.sources import SOURCES, Source, parse_source
from harness.records import Checkpoint, Pair, Series
from harness.registry import is_used
from harness.section import (
    DISTINCT,
    ClassName,
    Section,
    check_each,
    describe_fault,
    fields_of,
    list_errors,
    read_toml,
    suggest,
)


class ConfigError(ValueError):
    """The configuration cannot be used; the message names each setting and what is allowed.

    Attributes:
        faults: one line per error in a file.
        rest: the configuration without the wrong settings, if the rest is valid; None otherwise.
    """

    faults: tuple[str, ...] = ()
    rest: Config | None = None


def refuse(faults: Sequence[str]) -> None:
    """Raise a ConfigError that lists all faults, if there are any."""
    if faults:
        separator = "\n  " if len(faults) > 1 else " "
        raise ConfigError(separator.join(["the run cannot begin:", *faults]))


class DrawnImagesSection(Section):
    """The numbers of synthetic images in each split."""

    source: Literal["drawn"] = "drawn"
    train: int = Field(6000, ge=12)
    probe: int = Field(2400, ge=12)
    test: int = Field(1200, ge=24)


class FolderImagesSection(Section):
    """The user's images: one folder per split, with one sub-folder of files per class, or files
    of many images (see `harness/images/shards.py`).

    Attributes:
        probe: images from which the stimuli of neurons are selected.
        test: images on which importance and reversion are measured.
        train: images for series with `source = "train"`.
        attributes: CSV file of the test images' attributes: column `path`, then one column of 0 and
            1 per attribute. Neurons are named by them, and spaces are evaluated by these names.
    """

    source: Literal["folder"]
    probe: UserPath
    test: UserPath
    train: UserPath | None = None
    attributes: UserPath | None = None

    @property
    def splits(self) -> list[str]:
        return [*(["train"] if self.train else []), "probe", "test"]


class MemoryImagesSection(Section):
    """Images in memory, given through the Python interface."""

    source: Literal["memory"] = "memory"
    images: InstanceOf[ArrayImages] = Field(exclude=True)


ImagesSection = DrawnImagesSection | FolderImagesSection | MemoryImagesSection


class BaseSection(Section):
    """The checkpoint whose neurons define the space."""

    series: str
    epoch: int


class SpaceSection(SpaceParameters):
    """The space methods to compare, and their parameters; the first makes maps and pictures."""

    methods: Annotated[tuple[str, ...], DISTINCT, check_each(SPACES.get)] = Field(
        ("sgns", "ppmi", "jaccard", "correlation", "profile", "random"), min_length=1
    )


class EvolveSection(ImportanceParameters):
    """The evolutions that are scored.

    Attributes:
        pairs: series -> pairs of epochs; by default all consecutive ones except those from epoch 0
            (before training, there is nothing to which neurons could be reverted).
        classes: class names; all by default.
    """

    pairs: dict[str, Annotated[tuple[tuple[int, int], ...], DISTINCT]] = Field(default_factory=dict)
    classes: Annotated[tuple[ClassName, ...], Field(min_length=1), DISTINCT] | None = None


class ReportSection(Section):
    """Further exhibits of the reports: your own tables, figures and sentences, each as
    `package.module:function`."""

    exhibits: tuple[str, ...] = ()


class Config(Section):
    """All settings on which a run depends."""

    seed: int = Field(0, ge=0)
    workers: int | None = Field(None, ge=0)
    memory: float | None = Field(None, gt=0)  # GiB for all workers together
    device: Annotated[str, Field(pattern=NAME)] = "auto"
    precision: Precision = "float32"
    readers: int | None = Field(None, ge=0)  # processes that decode images for each worker
    # URL of the run in an object store, without credentials, which the environment holds
    store: Annotated[str, Field(pattern=r"^(s3|gs)://[^/@]+/.+")] | None = None
    images: Annotated[ImagesSection, Field(discriminator="source")] = DrawnImagesSection()
    series: tuple[Annotated[Source, BeforeValidator(parse_source)], ...] = Field(min_length=1)
    base: BaseSection | None = None
    probe: ProbeParameters = ProbeParameters()
    space: SpaceSection = SpaceSection()
    evolve: EvolveSection = EvolveSection()
    revert: ReversionParameters = ReversionParameters()
    bench: BenchParameters = BenchParameters()
    report: ReportSection = ReportSection()

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        if faults := list(self._faults()):
            raise ValueError("\n".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        """Yield contradictions between sections, each with its place."""
        names = [source.name for source in self.series]
        # some file systems do not tell a.pt from A.pt
        name_counts = Counter(name.lower() for name in names)
        if repeated := sorted({name for name in names if name_counts[name.lower()] > 1}):
            yield f"series: names must differ, not only in case; repeated: {', '.join(repeated)}"
        if self.base and self.base.series not in names:
            yield f"base.series {self.base.series!r} is not among {names}"
        if unknown := sorted(set(self.evolve.pairs) - set(names)):
            yield f"evolve.pairs names series {unknown}; there are {names}"
        for method in self.space.methods:
            if reads_activations.is_on(SPACES.get(method)) and not self.probe.activations:
                yield f"space.methods: {method!r} needs probe.activations = true"

    def checkpoints(self) -> list[Checkpoint]:
        """Return every checkpoint, also those that are yet to be trained."""
        return [Checkpoint(s.name, epoch) for s in self.series for epoch in s.series().epochs]

    def base_checkpoint(self) -> Checkpoint:
        """Return the configured base, or the last epoch of the first series."""
        if self.base is None:
            return self.series[0].series().last
        source = next(source for source in self.series if source.name == self.base.series)
        if self.base.epoch not in source.series().epochs:
            raise ConfigError(
                f"base.epoch {self.base.epoch}: series {source.name!r} has {source.series().epochs}"
            )
        return Checkpoint(self.base.series, self.base.epoch)

    def pairs(self, source: Source) -> list[Pair]:
        """Return the pairs of epochs of one series; by default consecutive trained ones."""
        if not source.loadable_epochs():  # without weights, nothing can be reverted
            return []
        series = Series(source.name, source.loadable_epochs())
        if source.name in self.evolve.pairs:
            try:
                return series.pairs(self.evolve.pairs[source.name])
            except ValueError as error:
                raise ConfigError(f"evolve.pairs: {error}") from error
        return [pair for pair in series.pairs() if pair.epoch_from > 0]

    def unused_parameters(self) -> Iterator[str]:
        """Yield a sentence on each parameter that was changed, but that no method uses."""
        scores = [importance_method(m) for m in (*self.evolve.methods, *self.bench.methods)]
        users: dict[str, tuple[Iterable[str], list[Any]]] = {
            "evolve": (["path_steps"], [score.sensitivity for score in scores]),
            "space": (SpaceParameters.model_fields, [SPACES.get(m) for m in self.space.methods]),
        }
        for section, (names, plugins) in users.items():
            settings = getattr(self, section)
            for name in names:
                value, default = getattr(settings, name), type(settings).model_fields[name].default
                if value != default and not is_used(name, plugins):
                    yield f"{section}.{name} = {value} changes nothing: no method uses it"


def load_config(path: Path, **changes: object) -> Config:
    """Read and check a configuration file; `changes` (not None) replace its top-level values.

    Raises:
        ConfigError: no such file, not TOML, or unknown keys and bad values, each with its place.
    """
    if not path.exists():
        raise ConfigError(f"configuration {path} does not exist; `conceptevo init` writes one")
    try:
        values = read_toml(path, "configuration")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    overrides = {name: value for name, value in changes.items() if value is not None}
    return parse_config({**values, **overrides}, str(path))


def parse_config(values: dict[str, Any], origin: str = "configuration") -> Config:
    """Check plain values. Raises ConfigError listing every problem."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = list_errors(error)
        for problem in problems:
            problem["series"] = _series_at(values, problem["loc"])
        conflicts, valid_rest = _find_conflicts(values, problems)
        lines = [
            line
            for problem in [*problems, *conflicts]
            for line in explain_problem(problem).splitlines()
        ]
        refusal = ConfigError("\n".join([f"{origin}:", *(f"  {line}" for line in lines)]))
        refusal.faults = tuple(f"{origin}: {line}" for line in lines)
        refusal.rest = valid_rest
        raise refusal from error


def _series_at(values: dict[str, Any], place: Sequence[Any]) -> dict[str, Any]:
    """Return the table of the series to which a place belongs; {} if there is none."""
    try:
        return dict(values["series"][place[1]])
    except (LookupError, TypeError, ValueError):
        return {}


def _find_conflicts(
    values: dict[str, Any], problems: Sequence[Any]
) -> tuple[list[Any], Config | None]:
    """Find contradictions between sections, which pydantic checks only once each section is valid.

    Wrong values are removed before. Returns the problems, and the configuration if the rest of it
    is valid and no whole section is removed, whose default would say nothing about the files.
    """
    if any(not problem["loc"] for problem in problems):
        return [], None
    rest = copy.deepcopy(values)
    for problem in problems:
        _remove(rest, problem["loc"])
    section_removed = any(len(p["loc"]) == 1 and isinstance(p["input"], dict) for p in problems)
    try:
        config = Config.model_validate(rest)
    except ValidationError as error:
        return [problem for problem in error.errors() if not problem["loc"]], None
    return [], None if section_removed else config


def _remove(values: Any, place: Sequence[str | int]) -> None:
    """Remove the value at a place, whose parts may be kinds of sections instead of keys."""
    for depth, part in enumerate(place):
        is_key = isinstance(values, dict) and part in values
        if is_key or (isinstance(values, list) and isinstance(part, int) and part < len(values)):
            if depth == len(place) - 1:
                del values[part]
                return
            values = values[part]


def explain_problem(problem: Any) -> str:
    """Describe a problem that pydantic reports: its place, what is allowed, the value."""
    parts = list(problem["loc"])
    if parts[:1] == ["images"] and len(parts) > 1:
        del parts[1]  # the kind of images, which is not a key
    place = ".".join(map(str, parts))
    series = problem.get("series", {})
    if parts[:1] == ["series"] and len(parts) > 1:
        name = repr(series["name"]) if "name" in series else f"number {parts[1] + 1}"
        place = ": ".join([f"series {name}", ".".join(map(str, parts[2:]))]).removesuffix(": ")
    match problem["type"]:
        case "union_tag_invalid" | "union_tag_not_found":
            value = problem["ctx"].get("tag")
            return (
                'images.source: must be "folder" for your own images in one folder per class, or '
                '"drawn" for synthetic images; ' + (f"got {value!r}" if value else "it is missing")
            )
        case "extra_forbidden":
            return f"{place}: {_explain_unknown_key(problem)}"
        case "too_long" | "missing" | "tuple_type" if place.startswith("evolve.pairs."):
            message = "must be a list of pairs of epochs, [[from, to], …]"
        case "tuple_type" | "list_type":
            alternative = ", or [[series]] for each series" if place == "series" else ""
            message = "must be a list: in brackets" + alternative
        case "dict_type" | "model_type" | "model_attributes_type":
            table = ".".join(part for part in parts if isinstance(part, str))
            message = f"must be a table: [{table}], or {{ … }}"
        case _ if place == "device":
            message = "must be auto, cpu, cuda, cuda:N or mps"
        case _ if place == "store":
            message = (
                "must be s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, without credentials, which are "
                "taken from the environment"
            )
        case "none_required":
            message = f"must not be set with source = {series.get('source', 'train')!r}"
        case "string_pattern_mismatch":
            message = (
                "may contain letters, digits, '.', '_', '-'; it must begin with a letter or digit"
            )
        case _:
            message = describe_fault(problem)
    if not place:  # these messages name their places themselves
        return message
    value = problem.get("input")
    note = "" if isinstance(value, dict | list | tuple) or value is None else f" (got {value!r})"
    return "\n".join(f"{place}: {line}{note}" for line in message.splitlines())


def _explain_unknown_key(problem: Any) -> str:
    """Say which kind of series has an unknown key, or which key may be meant."""
    place = problem["loc"]
    key = str(place[-1])
    kinds = [name for name in SOURCES if key in SOURCES.get(name).model_fields]
    if place[0] == "series" and len(place) == 3 and kinds:
        return (
            f"a series with source = {problem['series'].get('source', 'train')!r} has no such key, "
            f"but one with source = {' or '.join(map(repr, kinds))} has"
        )
    suggestion = suggest(key, _keys(place, problem["series"])) or ";"
    return f"unknown key{suggestion} `conceptevo init` writes a file with all keys"


def _keys(place: Sequence[str | int], series: Mapping[str, Any]) -> dict[str, str]:
    """Return the valid keys of the section of an unknown one and of its sub-sections, and the table
    of each; `series` is the section, if it is one of a series."""
    if len(place) == 1:
        return fields_of(Config)
    if place[0] == "series":
        return fields_of(SOURCES.get(series.get("source", "train")), "series")
    field = Config.model_fields.get(str(place[0]))
    return fields_of(field.annotation, str(place[0])) if field else {}
