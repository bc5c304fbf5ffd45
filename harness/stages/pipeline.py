"""The stages of a run: which pieces of work each has, what they depend on, how they are done."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version

from harness.artifacts import Artifact, Run, fingerprint
from harness.concepts.naming import read_attributes
from harness.config import Config, ConfigError, DrawnImagesSection
from harness.images.sets import FileImages, open_images
from harness.networks.sources import Source, TrainedSource
from harness.registry import plugin_identity
from harness.stages import work
from harness.stages.engine import Engine, Shard

#: Streams of drawings: a split's images are never another's.
DRAWN_STREAM = {"train": 0, "probe": 1, "test": 2}
MASKED_IMAGES = 600  # how many of the test images serve to name what neurons detect


def image_stage(config: Config, engine: Engine) -> None:
    """Draw the embedded images, or list the user's."""
    shards = []
    for split in DRAWN_STREAM:
        index, section = Artifact("image_index", (split,)), config.images
        if isinstance(section, DrawnImagesSection):
            count = getattr(section, split)
            stream = len(DRAWN_STREAM) * config.seed + DRAWN_STREAM[split]
            makes = (Artifact("images", (split,)), index)
            made_from = image_fingerprint(config, split)
            shards.append(Shard(makes, made_from, work.draw, (split, stream, count), count))
        elif getattr(section, split) is not None:
            made_from = image_fingerprint(config, split)
            shards.append(Shard((index,), made_from, work.list_files, (split, section)))
    engine.stage("images", shards)


def image_fingerprint(config: Config, split: str) -> str:
    """Of the pixels of a split: the drawn ones' seed and number, or the user's files by size and
    time of change."""
    if isinstance(config.images, DrawnImagesSection):
        return fingerprint(
            package_version(), "drawn", config.seed, split, getattr(config.images, split)
        )
    images = work.folder_split(config.images, split)
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in images.paths]
    return fingerprint(package_version(), "folder", stats)


def train_stage(config: Config, engine: Engine) -> None:
    """Train the series whose source is "train"."""
    shards = []
    for source in config.series:
        if not isinstance(source, TrainedSource):
            continue
        if not isinstance(config.images, DrawnImagesSection) and config.images.train is None:
            raise ConfigError(f"series {source.name!r} is to be trained: images.train is missing")
        count = source.training.images or getattr(config.images, "train", 0)
        batches_an_epoch = count // source.training.batch_size if isinstance(count, int) else 1
        makes = [Artifact("weights", (source.name, epoch)) for epoch in source.epochs()]
        shards.append(
            Shard(
                (*makes, Artifact("training_log", (source.name,))),
                fingerprint(
                    source.identity(-1), *(image_fingerprint(config, s) for s in ("train", "test"))
                ),
                work.train_series,
                (source,),
                source.training.epochs * batches_an_epoch,
            )
        )
    engine.stage("training", shards)


def checkpoint_fingerprint(config: Config, source: Source, epoch: int) -> str:
    """Of a checkpoint's weights and how its images are seen."""
    unseen = {"name", "source", "training", "only", "checkpoints", "at"}
    seen = source.model_dump(mode="json", exclude=unseen)
    parts = [package_version(), source.identity(epoch), seen]
    if isinstance(source, TrainedSource):
        parts += [image_fingerprint(config, "train"), image_fingerprint(config, "test")]
    return fingerprint(*parts)


def _probe_fingerprint(config: Config, source: Source, epoch: int) -> str:
    return fingerprint(
        checkpoint_fingerprint(config, source, epoch),
        image_fingerprint(config, "probe"),
        config.probe.model_dump(exclude={"batch_size"}),
    )


def probe_stage(config: Config, engine: Engine, run: Run) -> None:
    """Find the layers of every series, then record every checkpoint."""
    engine.stage(
        "layers",
        [
            Shard(
                (Artifact("layers", (source.name,)),),
                checkpoint_fingerprint(config, source, source.epochs()[-1]),
                work.find_series_layers,
                (source,),
            )
            for source in config.series
        ],
    )
    images = len(open_images(run, "probe"))
    kinds = ["stimuli", "responsive"] + ["activations"] * config.probe.activations
    engine.stage(
        "probing",
        [
            Shard(
                tuple(Artifact(kind, (source.name, epoch)) for kind in kinds),
                _probe_fingerprint(config, source, epoch),
                work.probe_checkpoint,
                (source, epoch, config),
                images,
            )
            for source in config.series
            for epoch in source.epochs()
        ],
    )
    engine.stage("naming concepts", _naming_shards(config, run))


def _naming_shards(config: Config, run: Run) -> list[Shard]:
    """Neurons are named by the drawn parts' masks or by the user's attributes, where there are."""
    if isinstance(config.images, DrawnImagesSection):
        steps = min(MASKED_IMAGES, config.images.test)
        known: object = steps
        name: Callable[..., None] = work.name_concepts
        argument: object = steps
    elif config.images.attributes is not None:
        argument, name = config.images.attributes, work.name_by_attributes
        test = open_images(run, "test")
        assert isinstance(test, FileImages)
        values, names = read_attributes(config.images.attributes, test)
        known, steps = [names, values.astype(int).tolist()], len(test)
    else:
        return []
    return [
        Shard(
            (Artifact("concepts", (source.name, epoch)),),
            fingerprint(
                checkpoint_fingerprint(config, source, epoch),
                image_fingerprint(config, "test"),
                known,
            ),
            name,
            (source, epoch, argument),
            steps,
        )
        for source in config.series
        for epoch in source.epochs()
    ]


def space_stage(config: Config, engine: Engine) -> None:
    """Place all neurons with every space method."""
    base = config.base_checkpoint()
    shards = [
        Shard(
            (Artifact("space", (method,)), Artifact("space_neurons", (method,))),
            space_fingerprint(config, method),
            work.place_neurons,
            (method, config, base),
        )
        for method in config.space.methods
    ]
    engine.stage("semantic space", shards)


def space_fingerprint(config: Config, method: str) -> str:
    """Of what one space method makes of all probed checkpoints."""
    probes = [
        _probe_fingerprint(config, source, epoch)
        for source in config.series
        for epoch in source.epochs()
    ]
    parameters = config.space.model_dump(exclude={"methods"})
    base = vars(config.base_checkpoint())
    return fingerprint(probes, base, config.seed, parameters, plugin_identity(method))


def _map_shard(config: Config) -> Shard:
    method = config.space.methods[0]
    arguments = (method, config.base_checkpoint(), config.seed)
    made_from = space_fingerprint(config, method)
    # as many steps as seconds, about, so that it is begun first and the bar does not jump
    return Shard((Artifact("map"),), made_from, work.map_neurons, arguments, steps=20)


def map_stage(config: Config, engine: Engine) -> None:
    """Lay out the first method's space in two dimensions."""
    engine.stage("map", [_map_shard(config)])


def chosen_classes(config: Config, run: Run) -> list[int]:
    """The ids of the configured classes. Raises ConfigError for a name that is not there."""
    images = open_images(run, "test")
    if config.evolve.classes is None:
        return list(range(len(images.classes)))
    if unknown := sorted(set(config.evolve.classes) - set(images.classes)):
        raise ConfigError(
            f"classes: no class {', '.join(unknown)}; there are {', '.join(images.classes)}"
        )
    return [images.classes.index(name) for name in config.evolve.classes]


def _pair_shards(
    config: Config,
    run: Run,
    kinds: tuple[str, ...],
    parts: tuple[object, ...],
    work: Callable[..., None],
) -> list[Shard]:
    """A shard a pair of epochs, whose artifacts depend on both checkpoints and the test images."""
    classes = chosen_classes(config, run)
    return [
        Shard(
            tuple(Artifact(kind, (pair.series, pair.epoch_from, pair.epoch_to)) for kind in kinds),
            fingerprint(
                checkpoint_fingerprint(config, source, pair.epoch_from),
                checkpoint_fingerprint(config, source, pair.epoch_to),
                image_fingerprint(config, "test"),
                config.seed,
                classes,
                config.evolve.model_dump(exclude={"batch_size", "classes", "pairs"}),
                *map(plugin_identity, config.evolve.methods),
                *parts,
            ),
            work,
            (source, pair, config, classes),
            len(classes),
        )
        for source in config.series
        for pair in config.pairs(source)
    ]


def evolve_stage(config: Config, engine: Engine, run: Run) -> None:
    """Score every evolution for every class; beside it, as they are independent, draw the map."""
    parts = (config.revert.heldout_images,)  # what a small class sets aside, importance lacks
    shards = _pair_shards(config, run, ("importance",), parts, work.score_evolutions)
    engine.stage("map and importance", [_map_shard(config), *shards])


def revert_stage(config: Config, engine: Engine, run: Run) -> None:
    """Choose sets, undo them, record a row an image and arm."""
    parts = (config.revert.model_dump(exclude={"batch_size"}),)
    engine.stage(
        "reversion", _pair_shards(config, run, ("sets", "reversion"), parts, work.revert_evolutions)
    )


def package_version() -> str:
    return version("conceptevo-harness")


def versions() -> dict[str, str]:
    """Of the packages on which numbers may depend."""
    packages = ("conceptevo-harness", "torch", "torchvision", "numpy", "scipy", "pandas")
    return {name: version(name) for name in packages}


def write_manifest(config: Config, run: Run) -> None:
    """What the run was made with: configuration and versions."""
    run.write_manifest(
        {
            "base": vars(config.base_checkpoint()),
            "space_methods": config.space.methods,
            "importance_methods": config.evolve.methods,
            "configuration": config.model_dump(
                mode="json", serialize_as_any=True, exclude={"workers"}
            ),
            "python": platform.python_version(),
            "versions": versions(),
        }
    )
