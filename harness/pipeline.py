"""The stages of a run: which pieces of work each has, what they depend on, how they are done."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from harness import drawn
from harness.artifacts import Artifact, Run, fingerprint
from harness.batches import batch_of, batches
from harness.checkpoints import Source, TrainedSource
from harness.config import Config, ConfigError, DrawnImagesSection, FolderImagesSection
from harness.dissection import dissect, label_masks
from harness.engine import Advance, Engine, Shard
from harness.images import (
    FileImages,
    ImageSet,
    drawn_arrays,
    folder_images,
    image_index,
    open_images,
)
from harness.importance import importance
from harness.layers import Layer, find_layers
from harness.networks import channels_last
from harness.probing import probe
from harness.projection import project
from harness.receptive_field import with_patches
from harness.records import EVOLUTION, NEURON, Checkpoint, Pair
from harness.reversion import choose_sets, revert, split_images
from harness.space import SemanticSpace
from harness.space_methods import SPACES, gather_evidence
from harness.training import train

#: Streams of drawings: a split's images are never another's.
DRAWN_STREAM = {"train": 0, "probe": 1, "test": 2}
MASKED_IMAGES = 600  # how many of the test images serve to name what neurons detect


def image_stage(config: Config, engine: Engine) -> None:
    """Draw the embedded images, or list the user's."""
    shards = []
    for split in DRAWN_STREAM:
        makes: tuple[Artifact, ...] = (Artifact("image_index", (split,)),)
        if isinstance(config.images, DrawnImagesSection):
            count = getattr(config.images, split)
            makes = (Artifact("images", (split,)), *makes)
            shards.append(
                Shard(
                    makes,
                    image_fingerprint(config, split),
                    _draw,
                    (split, config.seed, count),
                    count,
                )
            )
        elif getattr(config.images, split) is not None:
            shards.append(
                Shard(makes, image_fingerprint(config, split), _list, (split, config.images))
            )
    engine.stage("images", shards)


def image_fingerprint(config: Config, split: str) -> str:
    """Of the pixels of a split: the drawn ones' seed and number, or the user's files by size and
    time of change."""
    if isinstance(config.images, DrawnImagesSection):
        return fingerprint(_version(), "drawn", config.seed, split, getattr(config.images, split))
    images = _folder(config.images, split)
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in images.paths]
    return fingerprint(_version(), "folder", stats)


def _folder(section: FolderImagesSection, split: str) -> FileImages:
    """The files of a split; a label means the same class in every split."""
    classes = None if split == "probe" else folder_images(section.probe).classes
    return folder_images(getattr(section, split), classes)


def _draw(run: Run, made_from: str, advance: Advance, split: str, seed: int, count: int) -> None:
    stream = 3 * seed + DRAWN_STREAM[split]
    pieces = []
    for start in range(0, count, 100):
        pieces.append(drawn_arrays(stream, start, min(start + 100, count)))
        advance(len(pieces[-1]["labels"]))
    arrays = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    labels = arrays.pop("labels")
    if split != "test":  # only the test images serve to name concepts
        arrays = {"pixels": arrays["pixels"]}
    run.save(Artifact("images", (split,)), arrays, made_from)
    index = pd.DataFrame(
        {
            "image_id": np.arange(count),
            "class_id": labels,
            "class_name": [drawn.CLASSES[label] for label in labels],
            "path": "",
        }
    )
    run.save(Artifact("image_index", (split,)), index, made_from)


def _list(
    run: Run, made_from: str, advance: Advance, split: str, section: FolderImagesSection
) -> None:
    run.save(Artifact("image_index", (split,)), image_index(_folder(section, split)), made_from)


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
                _train,
                (source,),
                source.training.epochs * batches_an_epoch,
            )
        )
    engine.stage("training", shards)


def _train(run: Run, made_from: str, advance: Advance, source: TrainedSource) -> None:
    state = Artifact("training_state", (source.name,))
    if not run.has(state, made_from):  # left by another configuration
        run.path(state).unlink(missing_ok=True)
        run.seal(state, made_from)
    train_set, test_set = (_tensors(run, split, source) for split in ("train", "test"))
    log = train(
        source.architecture,
        train_set,
        test_set,
        len(open_images(run, "test").classes),
        source.training,
        source.seed,
        lambda epoch: run.path(Artifact("weights", (source.name, epoch))),
        run.path(state),
        lambda: advance(1),
    )
    for epoch in source.epochs():
        run.seal(Artifact("weights", (source.name, epoch)), made_from)
    log.insert(0, "series", source.name)
    run.save(Artifact("training_log", (source.name,)), log, made_from)


def _tensors(run: Run, split: str, source: Source) -> tuple[Tensor, Tensor]:
    images = open_images(run, split)
    pieces = [batch for _, batch in batches(images, np.arange(len(images)), source, 256)]
    return torch.cat(pieces), torch.tensor(images.labels)


def checkpoint_fingerprint(config: Config, source: Source, epoch: int) -> str:
    """Of a checkpoint's weights and how its images are seen."""
    seen = source.model_dump(mode="json", exclude={"name", "training", "only", "checkpoints", "at"})
    parts = [_version(), source.identity(epoch), seen]
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
                _find_layers,
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
                _probe,
                (source, epoch, config),
                images,
            )
            for source in config.series
            for epoch in source.epochs()
        ],
    )
    if isinstance(config.images, DrawnImagesSection):
        masked = min(MASKED_IMAGES, config.images.test)
        engine.stage(
            "naming concepts",
            [
                Shard(
                    (Artifact("concepts", (source.name, epoch)),),
                    fingerprint(
                        checkpoint_fingerprint(config, source, epoch),
                        image_fingerprint(config, "test"),
                        masked,
                    ),
                    _name_concepts,
                    (source, epoch, masked),
                    masked,
                )
                for source in config.series
                for epoch in source.epochs()
            ],
        )


def _find_layers(run: Run, made_from: str, advance: Advance, source: Source) -> None:
    model = _load(run, source, source.epochs()[-1])
    layers = find_layers(model, source.view, source.layers, source.channels_last)
    layers = with_patches(model, layers, source.view)
    table = pd.DataFrame([vars(layer) for layer in layers]).rename(columns={"name": "layer"})
    table.insert(0, "series", source.name)
    table = table.assign(resize=source.resize, crop=source.crop)
    run.save(Artifact("layers", (source.name,)), table, made_from)


def read_layers(run: Run, series: str) -> list[Layer]:
    """The probed layers of a series, as `probe_stage` found them."""
    table = run.table(Artifact("layers", (series,)))
    rows = table.drop(columns=["series", "resize", "crop"]).rename(columns={"layer": "name"})
    return [Layer(**row) for row in rows.to_dict("records")]


def _load(run: Run, source: Source, epoch: int) -> nn.Module:
    classes = len(open_images(run, "test").classes)
    return channels_last(source.load(epoch, classes, run))


def _probe(
    run: Run, made_from: str, advance: Advance, source: Source, epoch: int, config: Config
) -> None:
    result = probe(
        _load(run, source, epoch),
        read_layers(run, source.name),
        open_images(run, "probe"),
        source,
        Checkpoint(source.name, epoch),
        config.probe,
        advance,
    )
    place = (source.name, epoch)
    run.save(Artifact("stimuli", place), result.stimuli, made_from)
    run.save(Artifact("responsive", place), result.responsive, made_from)
    if config.probe.activations:
        arrays = {
            "activations": result.activations,
            "layer": result.neurons["layer"].to_numpy(dtype=str),
            "channel": result.neurons["channel"].to_numpy(),
        }
        run.save(Artifact("activations", place), arrays, made_from)


def _name_concepts(
    run: Run, made_from: str, advance: Advance, source: Source, epoch: int, count: int
) -> None:
    arrays = run.arrays(Artifact("images", ("test",)))
    masks = [
        label_masks(arrays[name][:count], total)
        for name, total in (("parts", len(drawn.PARTS)), ("colours", len(drawn.COLOURS)))
    ]
    table = dissect(
        _load(run, source, epoch),
        read_layers(run, source.name),
        _first(open_images(run, "test"), count),
        torch.cat(masks, dim=1),
        [*drawn.PARTS, *drawn.COLOURS],
        source,
        Checkpoint(source.name, epoch),
        on_image=advance,
    )
    run.save(Artifact("concepts", (source.name, epoch)), table, made_from)


def _first(images: ImageSet, count: int) -> ImageSet:
    from dataclasses import replace

    return replace(images, arrays=images.arrays[:count], labels=images.labels[:count])  # type: ignore


def space_stage(config: Config, engine: Engine) -> None:
    """Place all neurons with every space method, and map the first method's space."""
    probes = [
        _probe_fingerprint(config, source, epoch)
        for source in config.series
        for epoch in source.epochs()
    ]
    base = config.base_checkpoint()
    made_from = fingerprint(
        probes, vars(base), config.seed, config.space.model_dump(exclude={"methods"})
    )
    engine.stage(
        "semantic space",
        [
            Shard(
                (Artifact("space", (method,)), Artifact("space_neurons", (method,))),
                fingerprint(made_from, method),
                _place,
                (method, config, base),
            )
            for method in config.space.methods
        ],
    )
    first = config.space.methods[0]
    mapped = Shard(
        (Artifact("map"),), fingerprint(made_from, first), _map, (first, base, config.seed)
    )
    engine.stage("map", [mapped])


def _place(
    run: Run, made_from: str, advance: Advance, method: str, config: Config, base: Checkpoint
) -> None:
    epochs = [(source.name, epoch) for source in config.series for epoch in source.epochs()]

    @lru_cache(maxsize=1)
    def matrix(series: str, epoch: int) -> tuple[dict[tuple[str, int], int], np.ndarray]:
        arrays = run.arrays(Artifact("activations", (series, epoch)))
        keys = zip(arrays["layer"].tolist(), arrays["channel"].tolist(), strict=True)
        return {key: column for column, key in enumerate(keys)}, arrays["activations"]

    def activations(neurons: pd.DataFrame) -> np.ndarray:
        rows = []
        for series, epoch, layer, channel in neurons[NEURON].itertuples(index=False):
            columns, values = matrix(series, epoch)
            rows.append(values[:, columns[layer, channel]])
        return np.stack(rows)

    evidence = gather_evidence(
        base,
        pd.concat([run.table(Artifact("stimuli", place)) for place in epochs], ignore_index=True),
        run.table(Artifact("responsive", (base.series, base.epoch))),
        len(open_images(run, "probe")),
        activations,
    )
    rng = np.random.default_rng([config.seed, 1])
    SPACES.get(method)(evidence, config.space, rng, method).save(run, made_from)


def _map(
    run: Run, made_from: str, advance: Advance, method: str, base: Checkpoint, seed: int
) -> None:
    run.save(Artifact("map"), project(SemanticSpace.load(run, method), base, seed), made_from)


def _classes(config: Config, images: ImageSet) -> list[int]:
    if config.evolve.classes is None:
        return list(range(len(images.classes)))
    if unknown := sorted(set(config.evolve.classes) - set(images.classes)):
        raise ConfigError(
            f"evolve.classes: no class {', '.join(unknown)}; there are {', '.join(images.classes)}"
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
    classes = _classes(config, open_images(run, "test"))
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
    """Score every evolution for every class."""
    engine.stage("importance", _pair_shards(config, run, ("importance",), (), _evolve))


def revert_stage(config: Config, engine: Engine, run: Run) -> None:
    """Choose sets, undo them, record a row an image and arm."""
    parts = (config.revert.model_dump(exclude={"batch_size"}),)
    engine.stage("reversion", _pair_shards(config, run, ("sets", "reversion"), parts, _revert))


def _identified(table: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    return table.assign(**vars(pair))


def _image_parts(config: Config, images: ImageSet, class_id: int) -> dict[str, np.ndarray]:
    return split_images(
        images.labels,
        class_id,
        config.evolve.images_per_class,
        config.revert.heldout_images,
        config.seed,
    )


def _outputs(source: Source, images: ImageSet, class_id: int) -> tuple[int, int]:
    index = source.class_outputs.get(images.classes[class_id], class_id)
    return index, index


def _evolve(
    run: Run,
    made_from: str,
    advance: Advance,
    source: Source,
    pair: Pair,
    config: Config,
    classes: list[int],
) -> None:
    images = open_images(run, "test")
    older, newer = (_load(run, source, epoch) for epoch in (pair.epoch_from, pair.epoch_to))
    layers = read_layers(run, source.name)
    frames = []
    for class_id in classes:
        chosen = _image_parts(config, images, class_id)["importance"]
        size = config.evolve.batch_size
        pieces = [
            batch_of(images, chosen[start : start + size], source)
            for start in range(0, len(chosen), size)
        ]
        rng = np.random.default_rng([config.seed, 2, class_id])
        outputs = _outputs(source, images, class_id)
        table = importance(older, newer, layers, pieces, outputs, config.evolve, rng)
        frames.append(table.assign(class_id=class_id))
        advance(1)
    table = _identified(pd.concat(frames, ignore_index=True), pair)
    columns = [*EVOLUTION, "class_id", "method", "score", "stderr", "images"]
    run.save(
        Artifact("importance", (pair.series, pair.epoch_from, pair.epoch_to)),
        table[columns],
        made_from,
    )


_RECORD = [
    *("series", "epoch_from", "epoch_to", "layer", "method", "arm", "draw", "class_id"),
    *("image_id", "split", "correct_before", "correct_after", "top5_before", "top5_after"),
    *("probability_before", "probability_after"),
]


def _revert(
    run: Run,
    made_from: str,
    advance: Advance,
    source: Source,
    pair: Pair,
    config: Config,
    classes: list[int],
) -> None:
    images = open_images(run, "test")
    older, newer = (_load(run, source, epoch) for epoch in (pair.epoch_from, pair.epoch_to))
    layers = read_layers(run, source.name)
    place = (pair.series, pair.epoch_from, pair.epoch_to)
    scores = run.table(Artifact("importance", place))
    all_sets, records = [], []
    for class_id in classes:
        rng = np.random.default_rng([config.seed, 3, class_id])
        sets = choose_sets(
            scores[scores["class_id"] == class_id], config.evolve.methods, config.revert, rng
        )
        all_sets.append(sets.assign(class_id=class_id))
        parts = _image_parts(config, images, class_id)
        parts["importance"] = parts["importance"][: config.revert.importance_images]
        for split, chosen in parts.items():
            rows = revert(
                older,
                newer,
                layers,
                sets,
                batches(images, chosen, source, config.revert.batch_size),
                _outputs(source, images, class_id),
            )
            records.append(rows.assign(class_id=class_id, split=split))
        advance(1)
    sets = _identified(pd.concat(all_sets, ignore_index=True), pair)
    columns = [*EVOLUTION[:-1], "class_id", "method", "arm", "draw", "channel"]
    run.save(Artifact("sets", place), sets[columns], made_from)
    table = _identified(pd.concat(records, ignore_index=True), pair)[_RECORD]
    names = ["series", "layer", "method", "arm", "split"]
    run.save(
        Artifact("reversion", place), table.astype({name: "category" for name in names}), made_from
    )


def _version() -> str:
    return version("conceptevo-harness")


def write_manifest(config: Config, run: Run) -> None:
    """What the run was made with: configuration and versions."""
    packages = ("conceptevo-harness", "torch", "torchvision", "numpy", "scipy", "pandas")
    run.write_manifest(
        {
            "base": vars(config.base_checkpoint()),
            "space_methods": config.space.methods,
            "importance_methods": config.evolve.methods,
            "configuration": config.model_dump(
                mode="json", serialize_as_any=True, exclude={"workers"}
            ),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in packages},
        }
    )
