"""What is wrong with a configuration beyond its own words: all of it in one go, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from harness.config import Config, FolderImagesSection
from harness.networks.sources import TrainedSource
from harness.registry import import_attribute
from harness.stages.images import STREAMS, folder_split


def faults(config: Config) -> list[str]:
    """Folders, files, epochs, classes and functions that are named and are not there."""
    checks = [*_images(config), *_series(config), *_report(config)]
    return list(dict.fromkeys(text for check in checks for text in _failures(check)))


def _failures(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except ValueError as error:
        yield str(error)


def _images(config: Config) -> Iterator[Callable[[], object]]:
    section = config.images
    if not isinstance(section, FolderImagesSection):
        return
    for split in STREAMS:
        if getattr(section, split) is not None:
            yield partial(folder_split, section, split)
    if section.attributes is not None:
        yield partial(_exists, section.attributes)
    if config.evolve.classes is not None:
        yield partial(_classes, config, section)


def _exists(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"images.attributes: {path} does not exist")


def _classes(config: Config, section: FolderImagesSection) -> None:
    classes = folder_split(section, "probe").classes
    if unknown := sorted(set(config.evolve.classes or ()) - set(classes)):
        raise ValueError(
            f"evolve.classes: no class {', '.join(unknown)}; there are {', '.join(classes)}"
        )


def _series(config: Config) -> Iterator[Callable[[], object]]:
    for source in config.series:
        yield partial(config.pairs, source)  # lists the checkpoints, too
        if isinstance(source, TrainedSource) and getattr(config.images, "train", None) is None:
            yield partial(_untrainable, source.name)
    yield config.base_checkpoint


def _untrainable(name: str) -> None:
    raise ValueError(f"series {name!r} is to be trained: images.train is missing")


def _report(config: Config) -> Iterator[Callable[[], object]]:
    for name in config.report.exhibits:
        yield partial(import_attribute, name, "exhibit")
