"""Estimate what is left to do, by stage, before it starts: pieces of work, hours, memory and disk.

Nothing is written. A few images are read, two networks of each series are opened (untrained ones if
the series is yet to be trained), and one batch of each kind of work, including real arms, is timed
and its memory measured. Totals are extrapolated from these batches.
"""

import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import partial

import numpy as np
import pandas as pd
from scipy import sparse

from harness.artifacts import Artifact
from harness.concepts.probing import ranges
from harness.concepts.space import SemanticSpace
from harness.concepts.space_methods import SPACES, Evidence, reads_activations
from harness.config import Config, DrawnImagesSection, FolderImagesSection, ImagesSection
from harness.images import drawn
from harness.images.sets import ArrayImages, ImageSet, draw_arrays
from harness.images.view import View
from harness.networks.architectures import build
from harness.networks.budget import cores, measure_seconds, resources
from harness.networks.layer import ModelPair
from harness.networks.layers import find_layers
from harness.networks.recorded_source import RECORDED, RecordedSource
from harness.networks.sources import Source, TrainedSource
from harness.networks.wrappers import unwrap
from harness.stages.checkpoints import (
    declare_checkpoints,
    fit_view,
    load_epoch,
    open_pair,
    prepare_model,
    read_view,
)
from harness.stages.engine import one_thread
from harness.stages.images import count_images, folder_split, image_works
from harness.stages.probe import FindLayers, range_works
from harness.stages.prototypes import prototype_works
from harness.stages.sample import SAMPLE, Estimate, Sample
from harness.stages.space import PlaceNeurons, place
from harness.stages.stage import Plan
from harness.stages.study import AblationStudy, reversion_study

GIB = 2**30
#: Most neurons and images of the spaces that are timed; larger spaces are extrapolated.
SPACE_SIZE = 1000, 4000


def estimate(plan: Plan) -> pd.DataFrame:
    """Estimate what is left of each stage of a run.

    Args:
        plan: of the run. Its folder may be empty; the checkpoints must exist, except those of
            series that are yet to be trained.

    Returns:
        stage, series, pieces, hours (with the plan's workers, at most one per piece), memory GiB
        (per worker), disk GiB; there is no row where nothing is left.
    """
    with one_thread():
        return _table(_run_estimates(plan), plan.workers)


def estimate_study(study: AblationStudy, plan: Plan) -> pd.DataFrame:
    """Estimate what is left of an ablation study of a probed run; see `estimate`."""
    plan.add(prototype_works(study))
    rows: list[Estimate] = []
    with one_thread():
        for source, pair in {source.name: (source, pair) for source, pair in study.pairs}.values():
            models, view = open_pair(plan.run, source, pair), read_view(plan.run, source)
            rows += Sample(plan, source, models, view, study).evolutions()
    return _table(rows, plan.workers)


def _table(rows: Iterable[Estimate], workers: int) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=[field.name for field in fields(Estimate)])
    shared = table["pieces"].clip(upper=min(max(workers, 1), cores()))
    return pd.DataFrame(
        {
            **table[["stage", "series", "pieces"]],
            "hours": table["seconds"] / 3600 / shared,
            "memory GiB": table["memory"] / GIB,
            "disk GiB": table["disk"] / GIB,
        }
    )


def _run_estimates(plan: Plan) -> Iterator[Estimate]:
    config = plan.config
    plan.test_images, seconds = _open_images(config.images)
    rest = plan.remaining(image_works(config))
    count = sum(count_images(config, str(work.makes[0].parts[0])) for work in rest)
    disk = count * (drawn.SIZE**2 * 3 if seconds else 100)
    if rest:
        yield Estimate("images", "", len(rest), count * seconds, 0, disk)
    probe_images = count_images(config, "probe")
    declare_checkpoints(plan)
    plan.add(map(FindLayers, config.series))
    study = reversion_study(plan)
    plan.add(prototype_works(study))
    neurons = 0
    for source in config.series:
        if not source.loadable_epochs():  # only evidence from training, which is copied quickly
            assert isinstance(source, RecordedSource)
            layers = source.evidence.table(Artifact("layers", (RECORDED,)))
            units = int(layers["channels"].sum())
            range_works(plan, source, ranges(probe_images, units, config.probe))
            neurons += units * len(source.series().epochs)
            continue
        sample = Sample(plan, source, *_open_networks(plan, source), study)
        neurons += sample.units * len(source.series().epochs)
        if isinstance(source, TrainedSource):
            images = source.training.images or count_images(config, "train")
            yield from sample.training(source, images)
        yield from sample.probing(probe_images)
        yield from sample.naming()
        yield from sample.evolutions()
    for method in config.space.methods:
        if rest := plan.remaining([PlaceNeurons(method, config)]):
            cost = _space_cost(method, config, neurons, probe_images)
            yield Estimate(f"space: {method}", "", len(rest), *cost)


def _open_images(section: ImagesSection) -> tuple[ImageSet, float]:
    """Return the test images (of synthetic images, a few that are repeated), and the seconds to
    draw one synthetic image (0 for users' images)."""
    if isinstance(section, FolderImagesSection):
        return folder_split(section, "test"), 0.0
    assert isinstance(section, DrawnImagesSection)  # commands have no images in memory
    drawing = partial(draw_arrays, 0, 0, SAMPLE)
    pixels, seconds = drawing()["pixels"], measure_seconds(drawing) / SAMPLE
    labels = np.arange(section.test) % len(drawn.CLASSES)
    return _Repeated(pixels, labels, drawn.CLASSES), seconds


class _Repeated(ArrayImages):
    """A few images, repeated."""

    def pixels(self, index: int, view: View) -> np.ndarray:
        return super().pixels(index % len(self.arrays), view)


def _open_networks(plan: Plan, source: Source) -> tuple[ModelPair, View]:
    """Return two networks of a series and their view of images."""
    classes, epochs = len(plan.test_images.classes), source.loadable_epochs()
    if isinstance(source, TrainedSource):
        models = [build(source.architecture, classes, seed) for seed in (0, 1)]
    else:
        ends = (epochs[0], epochs[-1])
        models = [unwrap(load_epoch(source, epoch, classes, plan.run)) for epoch in ends]
    view = fit_view(models[1], source, plan.test_images)
    older, newer = (prepare_model(model, source, view.channels_last) for model in models)
    layers = find_layers(newer, view, source.layers, source.channels_last)
    device = resources().device
    return ModelPair(device.model(older), device.model(newer), layers), view


def _space_cost(
    method: str, config: Config, neurons: int, images: int
) -> tuple[float, float, float]:
    """Return the seconds, bytes of memory and bytes on disk that a space needs, extrapolated as
    powers of the numbers of neurons and images from spaces of random stimuli: a small one, and a
    quarter of it by each."""
    share = 1 / len(config.checkpoints())
    function = SPACES.get(method)

    def place_neurons(evidence: Evidence) -> SemanticSpace:
        return place(method, evidence, config.space, np.random.default_rng(0))

    def cost(rows: int, columns: int) -> np.ndarray:
        evidence = partial(_evidence, config, rows, max(round(rows * share), 2), columns)
        tracemalloc.start()
        try:
            space = place_neurons(evidence())
            memory = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        seconds = measure_seconds(partial(place_neurons, evidence()))
        return np.array([seconds, memory, sum(a.nbytes for a in space.arrays().values())])

    size = np.minimum(SPACE_SIZE, (neurons, images))
    quarter = np.maximum(size // 4, 8)
    parts = np.stack([cost(quarter[0], size[1]), cost(size[0], quarter[1])])
    whole = cost(*size)
    powers = np.log(whole / parts) / np.log(4)
    growth = np.array([[neurons], [images]]) / size[:, None]
    # a vector has no more numbers if there are more neurons, or at most one for each image
    largest = np.array([2, 2, 1])
    seconds, memory, disk = whole * np.prod(growth ** np.clip(powers, 0, largest), axis=0)
    if reads_activations.is_on(function):  # a matrix larger than `dense` is sketched
        sketches = 8.0 * neurons * config.space.sketch
        memory = min(memory, max(whole[1], 2 * config.space.dense * GIB, sketches))
        if 8 * neurons * images > config.space.dense * GIB:
            disk = min(disk, sketches / 2)
    return float(seconds), float(memory), float(disk)


def _evidence(config: Config, neurons: int, base: int, images: int) -> Evidence:
    rng, k = np.random.default_rng(0), min(config.probe.k, images)

    def marks(rows: int, count: int) -> sparse.csr_array:
        entries = np.repeat(np.arange(rows), count), rng.integers(0, images, rows * count)
        matrix = sparse.csr_array((np.ones(rows * count), entries), shape=(rows, images))
        matrix.data[:] = 1.0  # also where an image was drawn twice
        return matrix

    checkpoint = config.base_checkpoint()
    table = pd.DataFrame({"series": checkpoint.series, "layer": "layer", "channel": range(neurons)})
    table["epoch"] = np.where(np.arange(neurons) < base, checkpoint.epoch, checkpoint.epoch + 1)
    count = max(1, round(config.probe.responsive * images / max(base, 1)))
    return Evidence(
        checkpoint,
        table[["series", "epoch", "layer", "channel"]],
        marks(neurons, k),
        marks(base, min(count, images)),
        lambda rows: rng.standard_normal((len(rows), images)).astype(np.float32),
    )
