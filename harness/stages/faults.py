"""Find everything that is wrong with what a configuration names, in one pass before any work.

`faults` lists what the configuration names but does not exist. `file_faults` lists faults of
existing images and checkpoints: a run finds these in its first stages, and calls this function if
it cannot begin for another reason.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import starmap
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from harness.artifacts import Artifact, Run
from harness.concepts.naming import read_attributes
from harness.config import Config, FolderImagesSection, ReportSection
from harness.images import drawn
from harness.images.folders import image_remarks
from harness.images.sets import FileImages, image_index
from harness.networks.budget import use_resources
from harness.networks.recorded_source import RecordedSource
from harness.networks.sources import TrainedSource
from harness.registry import import_attribute
from harness.stages.check import CheckCheckpoint, describe_few_images, problems
from harness.stages.checkpoints import loadable_checkpoints
from harness.stages.images import (
    DrawImages,
    count_images,
    describe_faults,
    folder_split,
)
from harness.stages.probe import check_settings
from harness.stages.stage import Plan


def faults(config: Config, probes: bool = True) -> list[str]:
    """Return the folders, files, epochs, classes and functions that are named but do not exist;
    and, if the command `probes` images, whether there are too few of them."""
    checks = list(_checks(config))
    if probes:
        checks.append(partial(_check_probe_images, config))
    return list(dict.fromkeys(text for check in checks for text in _failures(check)))


def _failures(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except ValueError as error:
        yield str(error)


def file_faults(config: Config) -> list[str]:
    """Return faults of images and checkpoints, as far as `faults` allow; nothing is written."""
    part = _sound_part(config)
    if part is None:
        return []
    texts: list[str] = []
    with TemporaryDirectory() as folder:
        plan = Plan(part, Run(Path(folder)))
        for split in ("probe", "test"):
            texts += _list_images(plan, split)
        indices = [plan.run.table(Artifact("image_index", (s,))) for s in ("probe", "test")]
        if any(index.empty for index in indices):  # none can be read and shown to a network
            return texts
        with use_resources(plan.resources):
            works = starmap(CheckCheckpoint, loadable_checkpoints(part))
            tables = [table for work in works for table in work.do(plan.run, lambda steps: None)]
        return texts + problems(plan, pd.concat(tables))


def _sound_part(config: Config) -> Config | None:
    """Return the configuration without faulty parts and series that are yet to be trained; None
    if no images or no series remain."""
    section, classes = config.images, config.evolve.classes
    if isinstance(section, FolderImagesSection) and any(
        any(_failures(partial(folder_split, section, split))) for split in ("probe", "test")
    ):
        return None
    if any(_failures(partial(_check_classes, config))):
        classes = None
    series = tuple(
        source
        for source in config.series
        if not isinstance(source, TrainedSource) and not any(_failures(source.loadable_epochs))
    )
    part = config.model_copy(
        update={
            "series": series,
            "base": None,
            "probe": config.probe.model_copy(update={"k": 1}),  # `faults` reports a too large one
            "evolve": config.evolve.model_copy(update={"classes": classes, "pairs": {}}),
            "report": ReportSection(),
        }
    )
    return part if loadable_checkpoints(part) else None


def _list_images(plan: Plan, split: str) -> list[str]:
    """Save the index of a split's readable images for `plan`; return the faults of the others."""
    section, run = plan.config.images, plan.run
    if isinstance(section, FolderImagesSection):
        images = folder_split(section, split)
        faults = image_remarks(images)["fault"]
        text, readable = describe_faults(faults, split), np.flatnonzero(faults == "").tolist()
        # for a class without readable images, another image stands in: numbers of classes stay
        lost = sorted(set(images.labels) - set(images.labels[readable])) if readable else []
        paths = [images.paths[i] for i in [*readable, *readable[:1] * len(lost)]]
        labels = np.array([*images.labels[readable], *lost], dtype=np.int64)
        index = image_index(FileImages(tuple(paths), labels, images.classes))
        run.save(Artifact("image_index", (split,)), index, "")
        return [text] * bool(text)
    # a few represent all: one program draws them
    work = DrawImages(split, min(getattr(section, split), 24), plan.config.seed)
    for artifact, value in zip(work.makes, work.do(run, lambda steps: None), strict=True):
        run.save(artifact, value, "")
    return []


def _checks(config: Config) -> Iterator[Callable[[], object]]:
    section = config.images
    if isinstance(section, FolderImagesSection):
        yield from (partial(folder_split, section, split) for split in section.splits)
        if section.attributes is not None:
            yield partial(_check_attributes, section, section.attributes)
    yield partial(_check_classes, config)
    for source in config.series:
        yield partial(config.pairs, source)  # also lists the checkpoints
        if isinstance(source, TrainedSource):
            yield partial(_check_training, source, config)
        if isinstance(source, RecordedSource):
            yield partial(check_settings, source, config.probe)
    yield config.base_checkpoint
    for name in config.report.exhibits:
        yield partial(import_attribute, name, "exhibit")


def _check_attributes(section: FolderImagesSection, path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"images.attributes: {path} does not exist")
    if not any(_failures(partial(folder_split, section, "test"))):
        read_attributes(path, folder_split(section, "test"))


def _check_probe_images(config: Config) -> None:
    if text := describe_few_images(config.probe.k, count_images(config, "probe")):
        raise ValueError(text)


def _check_classes(config: Config) -> None:
    section, classes = config.images, drawn.CLASSES
    if isinstance(section, FolderImagesSection):
        classes = folder_split(section, "probe").classes
    if unknown := sorted(set(config.evolve.classes or ()) - set(classes)):
        raise ValueError(
            f"evolve.classes: no class {', '.join(unknown)}; there are {', '.join(classes)}"
        )


def _check_training(source: TrainedSource, config: Config) -> None:
    if getattr(config.images, "train", None) is None:
        raise ValueError(f"series {source.name!r} is to be trained: images.train is missing")
    count = count_images(config, "train")
    count = min(count, source.training.images or count)
    if source.training.batch_size > count:
        raise ValueError(
            f"series {source.name!r}: training.batch_size = {source.training.batch_size} is more "
            f"than the {count} training images: lower it, or add images"
        )
