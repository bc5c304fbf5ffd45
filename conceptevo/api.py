"""The Python interface: models and arrays in memory, no configuration file, no checkpoint files.

Each function does what the command of the same name does, with the same code, in a temporary folder
that lives as long as its result. Results show themselves in a notebook and can be saved.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console
from torch import nn

from analysis.benchmark import figures as bench_figures  # noqa: F401 - registers them
from analysis.benchmark import tables as bench_tables  # noqa: F401 - registers them
from analysis.benchmark.results import Bench
from analysis.exhibits import shelf
from analysis.exhibits.figures import Figure, styled
from analysis.exhibits.tables import Table
from analysis.run.album import Album
from harness.artifacts import Artifact, Run, write_text
from harness.concepts.probing import ProbeParameters
from harness.concepts.space import SemanticSpace
from harness.concepts.space_methods import SPACES, SpaceParameters, needs_activations
from harness.config import Config, EvolveSection, MemoryImagesSection, SpaceSection
from harness.evolutions.ablation import ABLATIONS
from harness.evolutions.arms import BenchParameters, ReversionParameters
from harness.evolutions.importance import IMPORTANCE
from harness.networks.memory import MemorySource
from harness.networks.objectives import OBJECTIVES
from harness.records import NEURON, Checkpoint, Neuron, Pair
from harness.registry import Registry
from harness.results import read_results
from harness.stages import check
from harness.stages.ablate import study_steps
from harness.stages.checkpoints import give_checkpoints
from harness.stages.engine import engine
from harness.stages.evolve import score_works
from harness.stages.images import KeepImages
from harness.stages.probe import FindLayers, probe_steps
from harness.stages.prototypes import prototype_works
from harness.stages.run import write_manifest
from harness.stages.space import PlaceNeurons
from harness.stages.stage import Plan, Step, Work
from harness.stages.study import AblationStudy, chosen_classes

METHODS = ("sign_t", "sign_path", "change", "random")


@dataclass(frozen=True)
class View:
    """How a network sees an image.

    Attributes:
        height, width: of its input, in pixels; square.
        mean, std: by which pixels in [0, 1] are normalised, a number or one a colour channel.
        channels: 3, or 1 for a network that takes greyscale images.
    """

    height: int
    width: int
    mean: float | Sequence[float] = 0.5
    std: float | Sequence[float] = 0.25
    channels: int = 3

    def __post_init__(self) -> None:
        if self.height != self.width:
            raise ValueError(f"View: the input must be square, got {self.height} x {self.width}")
        if self.channels not in (1, 3):
            raise ValueError(f"View: channels must be 1 or 3, got {self.channels}")

    def numbers(self, name: str) -> tuple[float, ...]:
        value = getattr(self, name)
        return tuple(value) if isinstance(value, Sequence) else (float(value),) * self.channels


@dataclass(frozen=True)
class Series:
    """The models of one training run.

    Attributes:
        name: of the series.
        models: epoch -> model that returns logits [batch, outputs]. Copies of them are used.
        view: how they see images.
        layers: module names or patterns to probe; the result of every non-linearity by default.
        class_outputs: class name -> output, where a class's output is not its own index.
        output: key, attribute or position of the logits where a model returns several things.
        objective: what importance is measured on: a name in OBJECTIVES ("logit", "prototype", …), a
            file of class embeddings, or a function (output, labels) -> [batch].
    """

    name: str
    models: Mapping[int, nn.Module]
    view: View
    layers: Sequence[str] | None = None
    class_outputs: Mapping[str, int] = field(default_factory=dict)
    output: str | int | None = None
    objective: str | Callable = "logit"

    def source(self) -> MemorySource:
        return MemorySource(
            name=self.name,
            models=dict(self.models),
            resize=self.view.height,
            crop=self.view.height,
            mean=self.view.numbers("mean"),
            std=self.view.numbers("std"),
            layers=None if self.layers is None else tuple(self.layers),
            class_outputs=dict(self.class_outputs),
            output=self.output,
            objective=_name(OBJECTIVES, self.objective),
        )


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in memory.

    Attributes:
        pixels: uint8 [images, height, width, 3], or [images, height, width] for greyscale.
        labels: int [images], indices into `classes`.
        classes: class names.
    """

    pixels: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]

    def __post_init__(self) -> None:
        pixels, labels = np.asarray(self.pixels), np.asarray(self.labels)
        if pixels.dtype != np.uint8:
            raise ValueError(
                f"Images: pixels must be uint8 (0 to 255), got {pixels.dtype}; of numbers in "
                f"[0, 1] make them by (255 * x).round().astype('uint8')"
            )
        if pixels.ndim == 3:
            pixels = np.repeat(pixels[..., None], 3, axis=3)
        if pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ValueError(
                f"Images: pixels must be [images, height, width, 3], got shape {pixels.shape}"
            )
        if labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"Images: labels must be {len(pixels)} integers, got {labels.dtype} {labels.shape}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(
                f"Images: labels must lie in 0 to {len(self.classes) - 1} ({len(self.classes)} "
                f"classes), got {labels.min()} to {labels.max()}"
            )
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "labels", labels.astype(np.int64))


@dataclass(frozen=True)
class Arms:
    """Which sets of neurons are ablated.

    Attributes:
        bins: equal parts of a layer by importance.
        random: random sets of the size of the first part.
        steps: cumulative sets hold 1/steps, 2/steps, … of every layer.
    """

    bins: int = 4
    random: int = 39
    steps: int = 8


class Result:
    """What a function of this interface returns: a folder with artifacts, read as tables."""

    def __init__(self, run: Run, config: Config | None = None, keeper: Keeper | None = None):
        self.run = run
        self._config = config
        self.keeper = keeper  # the temporary folder lives as long as a result that reads it

    def to_pandas(self) -> pd.DataFrame:
        """The result as one table."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        table = self.to_pandas()
        title = f"<p>{type(self).__name__}: {len(table)} rows</p>"
        return title + table.head(10).to_html(index=False)

    def save(self, folder: str | Path) -> None:
        """Copy the result into a new folder, from which `load` reads it."""
        shutil.copytree(self.run.root, folder)
        about = {"kind": type(self).__name__, **self._about()}
        write_text(Path(folder) / "result.json", json.dumps(about) + "\n")

    def _about(self) -> dict[str, Any]:
        return {}

    @property
    def config(self) -> Config:
        if self._config is None:
            raise ValueError(
                f"a loaded {type(self).__name__} can be read, not computed with: the models are "
                f"not saved; make it again from them"
            )
        return self._config


class Probed(Result):
    """The stimuli of all neurons."""

    def to_pandas(self) -> pd.DataFrame:
        """One row per stimulus: neuron, rank, image_id, activation, peak_y, peak_x (0 to 1)."""
        return self.run.tables("stimuli")

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per layer: series, layer, channels, height, width, depth, patch."""
        return self.run.tables("layers")

    def strip(self, neuron: Neuron, side: int = 3, tile: int = 64) -> Image.Image:
        """The neuron's strongest side x side patches at every epoch of its series, side by side."""
        album = Album(self.run)
        stimuli = self.run.tables("stimuli")
        epochs = sorted(stimuli.loc[stimuli["series"] == neuron.series, "epoch"].unique())
        if not epochs:
            raise ValueError(f"no series {neuron.series!r}; there are {_listed(stimuli['series'])}")
        key = (neuron.layer, neuron.channel)
        pictures = [album.picture((neuron.series, int(e), *key), side, tile) for e in epochs]
        gap = np.full((len(pictures[0]), tile // 4, 3), 255, dtype=np.uint8)
        parts = [part for picture in pictures for part in (picture, gap)]
        return Image.fromarray(np.concatenate(parts[:-1], axis=1))


class Space(Result):
    """All neurons in one semantic space."""

    def __init__(self, run: Run, config: Config | None, keeper: Keeper | None, method: str):
        super().__init__(run, config, keeper)
        self.method = method

    @cached_property
    def space(self) -> SemanticSpace:
        return SemanticSpace.load(self.run, self.method)

    def to_pandas(self) -> pd.DataFrame:
        """One row per neuron: its identity, coverage, and its vector (NaN: it has no place)."""
        vectors = pd.DataFrame(self.space.vectors).add_prefix("v")
        return pd.concat([self.space.neurons, vectors], axis=1)

    def nearest(self, neuron: Neuron, k: int = 5, **among: object) -> pd.DataFrame:
        """The k neurons nearest to one.

        Args:
            neuron: which.
            k: how many.
            among: columns that candidates must equal, e.g. series="resnet", epoch=10.

        Returns:
            series, epoch, layer, channel, similarity; the nearest first.
        """
        rows = self.space.rows(**vars(neuron))
        if not len(rows):
            raise ValueError(f"{neuron} has no place in the space: it is dead, or no such neuron")
        near, similarity = self.space.nearest(rows, self.space.rows(**among), k)
        kept = near[0] >= 0
        table = self.space.neurons.iloc[near[0][kept]][NEURON].reset_index(drop=True)
        return table.assign(similarity=similarity[0][kept])

    def _about(self) -> dict[str, Any]:
        return {"method": self.method}


class Scores(Result):
    """The importance of every evolution."""

    def __init__(
        self,
        run: Run,
        config: Config | None = None,
        keeper: Keeper | None = None,
        study: AblationStudy | None = None,
    ):
        super().__init__(run, config, keeper)
        self.study = study

    def to_pandas(self) -> pd.DataFrame:
        """One row per neuron, class and method: score, stderr, images, rank in its layer.

        The highest score has rank 0.
        """
        table = self.run.tables("importance")
        if self.study is None:
            return table
        return table[table["method"].isin(self.study.methods)].reset_index(drop=True)


class Ablated(Result):
    """What happened to each image's prediction when sets of neurons were ablated."""

    def to_pandas(self) -> pd.DataFrame:
        """One row per image and arm."""
        return self._bench.results.records()

    @cached_property
    def _bench(self) -> Bench:
        return Bench(read_results(self.run.root))

    def table(self, name: str) -> Table | None:
        """A table of the benchmark by name; None where it lacks what the table needs."""
        return shelf.get("bench", "table", name)(self._bench)

    def leaderboard(self) -> Table:
        """Which method finds the neurons whose ablation matters."""
        table = self.table("leaderboard")
        assert table is not None
        return table

    def figure(self, name: str) -> Figure | None:
        """A figure of the benchmark by name: leaderboard, curves, layers, reliability."""
        with styled():
            return shelf.get("bench", "figure", name)(self._bench)

    def _repr_html_(self) -> str:
        return self.leaderboard().frame.to_html(index=False)


def probe(
    series: Series | Sequence[Series],
    images: Images,
    k: int = 20,
    responsive: int = 20,
    activations: bool = True,
    progress: bool = True,
) -> Probed:
    """Record each neuron's k strongest images (METHOD, *stimuli*).

    Args:
        series: one or several.
        images: the probe images.
        k: stimuli a neuron.
        responsive: the most responsive neurons that are kept of an image.
        activations: keep the activations of all images, which some spaces need.
        progress: show progress bars.
    """
    methods = SpaceSection().methods
    fitting = [m for m in methods if activations or not needs_activations(SPACES.get(m))]
    config, plan, keeper = _session(
        series,
        images,
        space=SpaceSection(methods=tuple(fitting)),
        probe=ProbeParameters(k=k, responsive=responsive, activations=activations),
    )
    _do(plan, _opening(plan, images), progress)
    _do(plan, probe_steps(plan), progress)
    return Probed(plan.run, config, keeper)


def space(
    probed: Probed,
    method: str = "sgns",
    seed: int = 0,
    base: Checkpoint | None = None,
    progress: bool = True,
    **parameters: object,
) -> Space:
    """Place all neurons in one semantic space (METHOD section 1).

    Args:
        probed: of `probe`.
        method: a name in SPACES or `package.module:function`.
        seed: of its draws.
        base: the checkpoint whose neurons span the space; the last of the first series by default.
        progress: show progress bars.
        parameters: of SpaceParameters, e.g. dimension=30.
    """
    SPACES.get(method)
    base = probed.config.base_checkpoint() if base is None else base
    section = SpaceSection(methods=(method,), **SpaceParameters(**parameters).model_dump())
    config = probed.config.model_copy(update={"seed": seed, "space": section})
    config = Config(**{**dict(config), "base": vars(base)})
    plan = Plan(config, probed.run)
    for source in config.series:
        for epoch in source.epochs():
            plan.give(Artifact("stimuli", (source.name, epoch)), lambda: "probed")
    write_manifest(config, probed.run)
    _do(plan, [("semantic space", [PlaceNeurons(method, config)])], progress)
    return Space(probed.run, config, probed.keeper, method)


def importance(
    series: Series,
    images: Images,
    pair: tuple[int, int],
    methods: Sequence[str | Callable] = METHODS,
    images_per_class: int = 250,
    heldout_images: int = 250,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """Score how much each neuron's evolution matters to each class (METHOD section 2).

    Args:
        series: whose evolutions.
        images: labelled images; a class's are shared out between importance and ablation.
        pair: the older and the newer epoch.
        methods: names in IMPORTANCE, or functions of a `Change` that return, for each layer, a
            sensitivity [batch, channels], whose mean over images is the score.
        images_per_class, heldout_images: images a class on which importance is measured, and on
            which ablations will be.
        classes: names; all by default.
        seed: of the draws.
        progress: show progress bars.
    """
    names = tuple(_name(IMPORTANCE, method) for method in methods)
    config, plan, keeper = _session(
        series,
        images,
        seed=seed,
        evolve=EvolveSection(
            methods=names,
            images_per_class=images_per_class,
            pairs={series.name: (pair,)},
            classes=None if classes is None else tuple(classes),
        ),
        revert=ReversionParameters(heldout_images=heldout_images),
    )
    _do(plan, _opening(plan, images), progress)
    (source,) = config.series
    study = AblationStudy(
        name="bench",
        config=config,
        pairs=tuple((source, Pair(series.name, *p)) for p in config.evolve.pairs[series.name]),
        classes=chosen_classes(plan),
        layers=(),
        methods=names,
        ablations=("revert",),
        splits=("heldout",),
        benchmark=True,
    )
    source.series().pairs([pair])  # says which epochs there are
    _do(plan, _scoring(study), progress)
    return Scores(plan.run, config, keeper, study)


def ablate(
    scores: Scores,
    ablation: str = "revert",
    arms: Arms = Arms(),
    progress: bool = True,
) -> Ablated:
    """Ablate sets of neurons by importance, and controls, on held-out images (METHOD section 3).

    Args:
        scores: of `importance`.
        ablation: a name in ABLATIONS or `package.module:function`.
        arms: which sets.
        progress: show progress bars.
    """
    ABLATIONS.get(ablation)
    config = scores.config
    assert scores.study is not None and scores.keeper is not None
    each_layer = min(config.revert.random_draws, arms.random)
    revert = {"bins": arms.bins, "random_draws": each_layer}
    bench = BenchParameters(steps=arms.steps, random_draws=arms.random, ablations=(ablation,))
    config = config.model_copy(
        update={"revert": config.revert.model_copy(update=revert), "bench": bench}
    )
    study = replace(scores.study, config=config, ablations=(ablation,))
    plan = _plan(config, scores.run, scores.keeper.images)
    plan.add([*prototype_works(study), *score_works(study)])
    _do(plan, study_steps(study, plan), progress)
    return Ablated(scores.run, config, scores.keeper)


def load(folder: str | Path) -> Result:
    """A saved result, to be read.

    Raises:
        ValueError: the folder holds none.
    """
    path = Path(folder) / "result.json"
    if not path.exists():
        raise ValueError(f"{folder} holds no saved result")
    about = json.loads(path.read_text(encoding="utf-8"))
    run = Run(folder)
    match about["kind"]:
        case "Probed":
            return Probed(run)
        case "Space":
            return Space(run, None, None, about["method"])
        case "Scores":
            return Scores(run)
        case _:
            return Ablated(run)


class Keeper:
    """A temporary folder and the images in memory; the folder goes with the last result."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self._folder = tempfile.TemporaryDirectory(prefix="conceptevo-")

    @property
    def root(self) -> Path:
        return Path(self._folder.name)


def _session(
    series: Series | Sequence[Series], images: Images, **sections: Any
) -> tuple[Config, Plan, Keeper]:
    listed = [series] if isinstance(series, Series) else list(series)
    # what is not probed needs no more images than there are
    sections.setdefault("probe", ProbeParameters(k=min(20, max(1, len(images.labels)))))
    config = Config(
        workers=0,
        device="cpu",
        images=MemoryImagesSection(source="memory"),
        series=tuple(one.source() for one in listed),
        **sections,
    )
    keeper = Keeper(images)
    run = Run(keeper.root)
    write_manifest(config, run)
    return config, _plan(config, run, images), keeper


def _plan(config: Config, run: Run, images: Images) -> Plan:
    plan = Plan(config, run)
    plan.add(_keep(images))
    give_checkpoints(plan)
    plan.add(FindLayers(source) for source in config.series)
    return plan


def _keep(images: Images) -> list[KeepImages]:
    arrays = (images.pixels, images.labels, tuple(images.classes))
    return [KeepImages(split, *arrays) for split in ("probe", "test")]


def _opening(plan: Plan, images: Images) -> Iterator[Step]:
    """Write the images, check every model, find the layers."""
    yield "images", list[Work](_keep(images))
    yield from check.STAGE.steps(plan)
    yield "layers", [FindLayers(source) for source in plan.config.series]


def _scoring(study: AblationStudy) -> Iterator[Step]:
    if works := prototype_works(study):
        yield "class prototypes", works
    yield "importance", score_works(study)


def _do(plan: Plan, steps: Iterable[Step], progress: bool) -> None:
    with engine(plan, 0, Console(quiet=not progress)) as working:
        working.run(steps)


def _name(registry: Registry, plugin: str | Callable) -> str:
    """The name of a plug-in; a function is registered under its own."""
    if isinstance(plugin, str):
        return plugin
    registry.put(plugin.__name__, plugin)
    return plugin.__name__


def _listed(values: pd.Series) -> str:
    return ", ".join(map(repr, values.unique()))
