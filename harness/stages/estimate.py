"""What a run would take before it starts: pieces of work, hours, memory and disk, by stage.

Nothing is written. A few images are read, two networks of each series are opened (untrained ones,
where the series is yet to be trained), and one batch of each kind of work is timed and measured, of
real arms among others; the rest is multiplication.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from harness.artifacts import Run
from harness.concepts.network import Network
from harness.concepts.probing import ProbeParameters, probe, ranges
from harness.config import Config, DrawnImagesSection, FolderImagesSection
from harness.evolutions.importance import importance_method, sensitivities
from harness.evolutions.pair import ModelPair
from harness.images import drawn
from harness.images.batches import batch_of
from harness.images.sets import ArrayImages, ImageSet, View, drawn_arrays
from harness.images.splits import split_images
from harness.networks.architectures import build, takes_channels_last
from harness.networks.budget import FEWEST, fitting, measure, resources
from harness.networks.layers import find_layers
from harness.networks.sources import Source, TrainedSource
from harness.records import CONTROLS, Checkpoint
from harness.stages.ablate import ablation_size, bytes_an_image
from harness.stages.benchmark import arms_a_class, seconds_an_image
from harness.stages.checkpoints import batch_there, prepared
from harness.stages.engine import one_thread
from harness.stages.estimate_space import seconds_of, space_cost
from harness.stages.images import STREAMS, folder_split
from harness.stages.naming import MASKED_IMAGES
from harness.stages.prototypes import sample_target
from harness.stages.study import AblationStudy

GIB = 2**30
#: Images that are read to time it, at most; fewer of a network whose passes are longer than this.
SAMPLE = 8
FORWARD_SECONDS = 1.0


@dataclass(frozen=True)
class Estimate:
    """Of one stage, or of one series in it.

    Attributes:
        stage, series: names; series "" for all together.
        pieces: of work.
        seconds: of one worker.
        memory: bytes of a worker.
        disk: bytes.
    """

    stage: str
    series: str
    pieces: int
    seconds: float
    memory: float
    disk: float


@dataclass(frozen=True)
class Material:
    """The images of a run, as far as they must be known.

    Attributes:
        counts: split -> images.
        labels: of the test images.
        classes: ids of those that are studied.
        names: of all classes.
        sample: SAMPLE images.
        make_seconds: to draw an image; 0 where the user has them.
    """

    counts: dict[str, int]
    labels: np.ndarray
    classes: tuple[int, ...]
    names: tuple[str, ...]
    sample: ImageSet
    make_seconds: float


def estimate(config: Config, run: Run, workers: int) -> pd.DataFrame:
    """What each stage would take.

    Args:
        config: of the run; its series' checkpoints must be there, but for those to be trained.
        run: its folder, which may be empty.
        workers: by which the hours are shared.

    Returns:
        stage, series, pieces, hours (with so many workers, at most one a piece), memory GiB (of
        a worker), disk GiB.
    """
    with one_thread():
        rows = list(_estimates(config, run))
    shared = [max(1, min(workers, row.pieces)) for row in rows]
    return pd.DataFrame(
        {
            "stage": [row.stage for row in rows],
            "series": [row.series for row in rows],
            "pieces": [row.pieces for row in rows],
            "hours": [row.seconds / 3600 / n for row, n in zip(rows, shared, strict=True)],
            "memory GiB": [row.memory / GIB for row in rows],
            "disk GiB": [row.disk / GIB for row in rows],
        }
    )


def _estimates(config: Config, run: Run) -> Iterator[Estimate]:
    material = _material(config)
    total = sum(material.counts.values())
    pixels = 64 * 64 * 3 * total if material.make_seconds else 100 * total
    yield Estimate("images", "", len(material.counts), total * material.make_seconds, 0, pixels)
    neurons = 0
    for source in config.series:
        opened = _Opened(source, config, run, material)
        if isinstance(source, TrainedSource):
            yield opened.training(source)
        yield opened.probing()
        if isinstance(config.images, DrawnImagesSection):
            yield opened.naming()
        neurons += opened.units * len(source.epochs())
        if config.pairs(source):
            yield opened.importance()
            yield opened.ablation()
    for method in config.space.methods:
        seconds, memory = space_cost(method, config, neurons, material.counts["probe"])
        disk = 4.0 * neurons * config.space.dimension
        yield Estimate(f"space: {method}", "", 1, seconds, memory, disk)


def _material(config: Config) -> Material:
    section = config.images
    if isinstance(section, FolderImagesSection):
        wanted = [split for split in STREAMS if getattr(section, split) is not None]
        sets = {split: folder_split(section, split) for split in wanted}
        test = sets["test"]
        names = test.classes
        labels, seconds = np.asarray(test.labels), 0.0
        sample: ImageSet = test
        counts = {split: len(images) for split, images in sets.items()}
    elif isinstance(section, DrawnImagesSection):
        start = time.perf_counter()
        arrays = drawn_arrays(0, 0, SAMPLE)
        seconds = (time.perf_counter() - start) / SAMPLE
        names = tuple(drawn.CLASSES)
        sample = ArrayImages(arrays["pixels"], arrays["labels"], names)
        labels = np.arange(section.test) % len(names)
        counts = {split: getattr(section, split) for split in STREAMS}
    else:
        raise ValueError("a plan needs images in folders, or drawn ones")
    chosen = names if config.evolve.classes is None else config.evolve.classes
    classes = tuple(names.index(name) for name in chosen)
    return Material(counts, labels, classes, names, sample, seconds)


class _Opened:
    """Two networks of a series, and what a batch of each kind of work takes.

    Args: as `estimate`; `material` says which images there are.
    """

    def __init__(self, source: Source, config: Config, run: Run, material: Material) -> None:
        self.source, self.config, self.material = source, config, material
        older, newer = (self._model(run, last) for last in (False, True))
        batch = batch_of(material.sample, [0, 1], source.view)
        fits = takes_channels_last(newer, batch)
        older, newer = (
            resources().device.model(prepared(model, source, fits)) for model in (older, newer)
        )
        self.view = View(
            source.view.resize, source.view.crop, source.view.mean, source.view.std, fits
        )
        layers = find_layers(newer, self.view, source.layers, source.channels_last)
        self.models = ModelPair(older, newer, layers)
        self.units = sum(layer.channels for layer in layers)
        with torch.inference_mode():
            one = seconds_of(partial(newer, self.batch(1)))
        #: Images that are computed to time it: few of a large network.
        self.few = int(np.clip(FORWARD_SECONDS / one, 1, SAMPLE))

    def _model(self, run: Run, last: bool) -> nn.Module:
        classes = len(self.material.names)
        if isinstance(self.source, TrainedSource):
            return build(self.source.architecture, classes, int(last))
        epochs = self.source.loadable()
        return self.source.load(epochs[-1] if last else epochs[0], classes, run)

    def batch(self, count: int) -> torch.Tensor:
        ids = np.arange(count) % len(self.material.sample)
        return batch_there(self.material.sample, ids, self.view)

    def training(self, source: TrainedSource) -> Estimate:
        """One step of training, timed."""
        parameters = source.training
        images = parameters.images or self.material.counts["train"]
        batch = self.batch(min(parameters.batch_size, 4 * self.few))
        model = resources().device.model(build(source.architecture, len(self.material.names), 0))
        labels = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)

        def step() -> None:
            functional.cross_entropy(model(batch), labels).backward()

        cost = measure(step, len(batch), resources().device)
        weights = sum(p.nbytes for p in model.parameters())
        memory = cost.bytes * parameters.batch_size + 4 * weights + self._bytes_of_images(images)
        disk = weights * (len(parameters.save) + 3)
        return Estimate(
            "train", source.name, 1, cost.seconds * images * parameters.epochs, memory, disk
        )

    def _bytes_of_images(self, count: int) -> float:
        return 4.0 * self.view.channels * self.view.crop**2 * count

    def probing(self) -> Estimate:
        """A few images recorded, with their decoding."""
        parameters, sample = self.config.probe, self.material.sample
        few = ArrayImages(
            np.stack([sample.pixels(i, self.view) for i in range(min(self.few, len(sample)))]),
            np.zeros(min(self.few, len(sample)), dtype=np.int64),
            ("",),
        )
        least = ProbeParameters(k=1, responsive=parameters.responsive, activations=False)
        newer, layers = self.models.newer, self.models.layers
        network = Network(Checkpoint("", 0), newer, layers, self.view, resources().device)
        record = partial(probe, network, few, least)
        cost = measure(record, len(few), resources().device)
        decoding = seconds_of(lambda: [sample.pixels(i, self.view) for i in range(len(few))])
        recorded = record()
        images, epochs = self.material.counts["probe"], len(self.source.epochs())
        divided = ranges(images, self.units, parameters)
        kept = np.dtype(parameters.activations_type).itemsize * self.units * images
        disk = (
            _bytes_a_row(recorded.stimuli) * self.units * parameters.k
            + _bytes_a_row(recorded.responsive) * images * parameters.responsive
            + kept * parameters.activations
        )
        memory = cost.bytes * parameters.batch_size + (
            kept / len(divided) if parameters.activations else 0
        )
        each = cost.seconds + decoding / len(few)
        return Estimate(
            *("probe", self.source.name, epochs * len(divided)),
            *(each * images * epochs, memory, disk * epochs),
        )

    def naming(self) -> Estimate:
        """As long as a pass over the images whose parts are known, and as much to compare."""
        images = min(MASKED_IMAGES, self.material.counts["test"])
        batch = self.batch(self.few)
        with torch.inference_mode():
            seconds = 2 * seconds_of(partial(self.models.newer, batch)) / len(batch) * images
        maps = sum(12 * la.channels * la.height * la.width for la in self.models.layers) * images
        epochs = len(self.source.loadable())
        memory = min(maps, resources().memory)
        return Estimate(
            *("probe: naming", self.source.name, epochs),
            *(seconds * epochs, memory, 64 * self.units * epochs),
        )

    @property
    def _study(self) -> AblationStudy:
        config = self.config
        return AblationStudy(
            name="reversion",
            config=config,
            pairs=tuple((self.source, pair) for pair in config.pairs(self.source)),
            classes=self.material.classes,
            layers=(),
            methods=config.evolve.methods,
            ablations=("revert",),
            splits=("heldout", "importance"),
            benchmark=False,
        )

    def _images(self, part: str) -> int:
        """Of all classes together."""
        evolve, revert = self.config.evolve, self.config.revert
        parts = (
            split_images(
                *(self.material.labels, class_id, evolve.images_per_class),
                *(revert.heldout_images, self.config.seed),
            )
            for class_id in self.material.classes
        )
        most = revert.importance_images if part == "importance arms" else None
        return sum(len(one[part.removesuffix(" arms")][:most]) for one in parts)

    def importance(self) -> Estimate:
        """A few images scored by each method."""
        study, batch = self._study, self.batch(min(self.few, FEWEST))
        target = sample_target(self.source, self.models.newer, self.material.sample, batch)
        seconds = memory = 0.0
        for name in study.scored:
            others = partial(tuple, [batch])
            score = partial(
                sensitivities, self.models, [batch], target,
                {name: importance_method(name)}, np.random.default_rng(0),
                self.config.evolve.path_steps, others,
            )  # fmt: skip
            cost = measure(score, len(batch), resources().device)
            what = f"importance of series {self.source.name!r} by {name}"
            size = fitting(cost, resources().memory, self.config.evolve.batch_size, what)
            memory = max(memory, cost.bytes * size)
            seconds += cost.seconds
        rows = self.units * len(study.classes) * len(study.pairs) * len(study.scored)
        pieces = len(study.pairs) * len(study.blocks) * len(study.scored)
        return Estimate(
            *("evolve", self.source.name, pieces),
            *(seconds * self._images("importance") * len(study.pairs), memory),
            _bytes_a_row(_scores(1000)) * rows,
        )

    def ablation(self) -> Estimate:
        """A batch of arms: all layers at once, and each layer alone."""
        study = self._study
        size = ablation_size(
            self.source.name, self.models, self.material.sample, self.view,
            self.config.revert.batch_size,
        )  # fmt: skip
        batch = self.batch(min(size, self.few))
        target = sample_target(self.source, self.models.newer, self.material.sample, batch)
        one = bytes_an_image(self.models, self.material.sample, self.view)
        seconds = seconds_an_image((), 1, self.models, batch, target)
        shown = self._images("heldout") + self._images("importance arms")
        arms = each = 0.0
        for method in (CONTROLS, *study.methods):
            joint, alone = arms_a_class(study, method, "reversion", len(self.models.layers))
            arms += joint + alone
            each += joint * seconds["joint"] + alone * seconds["layer"]
        pieces = len(study.pairs) * len(study.blocks) * (1 + len(study.methods))
        return Estimate(
            *("revert", self.source.name, pieces * (1 + len(study.splits))),
            *(each * shown * len(study.pairs), one * size),
            _bytes_a_row(_records(1000)) * arms * shown * len(study.pairs),
        )


def _bytes_a_row(table: pd.DataFrame) -> float:
    """Of a long table like this one, as it is stored."""
    if not len(table):
        return 0.0
    rng = np.random.default_rng(0)
    long = pd.concat([table] * max(1, 20_000 // len(table)), ignore_index=True)
    for name in long.select_dtypes("floating"):
        long[name] = (long[name] + rng.random(len(long))).astype(long[name].dtype)
    file = io.BytesIO()
    long.to_parquet(file, index=False)
    return len(file.getvalue()) / len(long)


def _scores(rows: int) -> pd.DataFrame:
    """A table with the columns of scores."""
    rng = np.random.default_rng(0)
    numbers = {"channel": np.arange(rows), "rank": np.arange(rows)}
    return pd.DataFrame({**numbers, "score": rng.random(rows), "stderr": rng.random(rows)})


def _records(rows: int) -> pd.DataFrame:
    """A table with the columns of records that are not the same in long stretches."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "image_id": np.arange(rows),
            **{name: rng.random(rows) < 0.5 for name in ("correct_after", "top5_after")},
            "probability_after": rng.random(rows).astype(np.float32),
        }
    )
