"""What a piece of work of each stage does, in a worker: read artifacts, compute, save them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from harness.artifacts import Artifact, Run
from harness.concepts.map import project
from harness.concepts.naming import (
    attribute_overlaps,
    dissect,
    label_masks,
    read_attributes,
)
from harness.concepts.probing import ProbeParameters, probe
from harness.concepts.space import SemanticSpace
from harness.concepts.space_methods import SPACES, Evidence, gather_evidence
from harness.config import Config, FolderImagesSection
from harness.evolutions.importance import importance
from harness.evolutions.reversion import choose_sets, revert, split_images
from harness.images import drawn
from harness.images.batches import batches
from harness.images.sets import (
    FileImages,
    ImageSet,
    drawn_arrays,
    folder_images,
    image_index,
    open_images,
)
from harness.networks.architectures import channels_last
from harness.networks.layers import Layer, find_layers
from harness.networks.receptive_field import with_patches
from harness.networks.sources import Source, TrainedSource
from harness.networks.training import train
from harness.records import EVOLUTION, NEURON, Checkpoint, Pair
from harness.stages.engine import Advance


def folder_split(section: FolderImagesSection, split: str) -> FileImages:
    """The files of a split; a label means the same class in every split."""
    classes = None if split == "probe" else folder_images(section.probe).classes
    return folder_images(getattr(section, split), classes)


def draw(run: Run, made_from: str, advance: Advance, split: str, stream: int, count: int) -> None:
    """Draw one split of the embedded images."""
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


def list_files(
    run: Run, made_from: str, advance: Advance, split: str, section: FolderImagesSection
) -> None:
    """List one split of the user's images."""
    run.save(
        Artifact("image_index", (split,)), image_index(folder_split(section, split)), made_from
    )


def train_series(run: Run, made_from: str, advance: Advance, source: TrainedSource) -> None:
    """Train one network, or go on with its interrupted training."""
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
    pieces = [batch for _, batch in batches(images, np.arange(len(images)), source.view, 256)]
    return torch.cat(pieces), torch.tensor(images.labels)


def find_series_layers(run: Run, made_from: str, advance: Advance, source: Source) -> None:
    """Find the probed layers of a series, on its last checkpoint."""
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


def probe_checkpoint(
    run: Run, made_from: str, advance: Advance, source: Source, epoch: int, config: Config
) -> None:
    """Record one checkpoint on the probe images."""
    result = probe(
        _load(run, source, epoch),
        read_layers(run, source.name),
        open_images(run, "probe"),
        source.view,
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


def name_concepts(
    run: Run, made_from: str, advance: Advance, source: Source, epoch: int, count: int
) -> None:
    """Dissect one checkpoint on the first `count` test images."""
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
        source.view,
        Checkpoint(source.name, epoch),
        on_image=advance,
    )
    run.save(Artifact("concepts", (source.name, epoch)), table, made_from)


def name_by_attributes(
    run: Run, made_from: str, advance: Advance, source: Source, epoch: int, path: Path
) -> None:
    """Name one checkpoint's neurons by the attributes of the user's test images."""
    images = open_images(run, "test")
    assert isinstance(images, FileImages)
    attributes, names = read_attributes(path, images)
    seen = probe(
        _load(run, source, epoch),
        read_layers(run, source.name),
        images,
        source.view,
        Checkpoint(source.name, epoch),
        ProbeParameters(k=1, responsive=1),
        advance,
    )
    overlap = attribute_overlaps(seen.activations, attributes)
    table = seen.neurons.assign(
        series=source.name,
        epoch=epoch,
        concept=[names[best] for best in overlap.argmax(axis=1)],
        iou=overlap.max(axis=1),
    )
    table = table.loc[~table["dead"], [*NEURON, "concept", "iou"]].reset_index(drop=True)
    run.save(Artifact("concepts", (source.name, epoch)), table, made_from)


def _first(images: ImageSet, count: int) -> ImageSet:
    from dataclasses import replace

    return replace(images, arrays=images.arrays[:count], labels=images.labels[:count])  # type: ignore


def evidence_of(run: Run, config: Config, base: Checkpoint) -> Evidence:
    """What the space methods may use of a run: its probed checkpoints."""
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

    return gather_evidence(
        base,
        pd.concat([run.table(Artifact("stimuli", place)) for place in epochs], ignore_index=True),
        run.table(Artifact("responsive", (base.series, base.epoch))),
        len(open_images(run, "probe")),
        activations,
    )


def place_neurons(
    run: Run, made_from: str, advance: Advance, method: str, config: Config, base: Checkpoint
) -> None:
    """Place all neurons by one space method."""
    rng = np.random.default_rng([config.seed, 1])
    evidence = evidence_of(run, config, base)
    SPACES.get(method)(evidence, config.space, rng, method).save(run, made_from)


def map_neurons(
    run: Run, made_from: str, advance: Advance, method: str, base: Checkpoint, seed: int
) -> None:
    """Lay out one space in two dimensions."""
    run.save(Artifact("map"), project(SemanticSpace.load(run, method), base, seed), made_from)


def _identified(table: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    return table.assign(**vars(pair))


def image_parts(config: Config, images: ImageSet, class_id: int) -> dict[str, np.ndarray]:
    """The test images of a class that importance is measured on, and those it never sees."""
    return split_images(
        images.labels,
        class_id,
        config.evolve.images_per_class,
        config.revert.heldout_images,
        config.seed,
    )


def importance_batches(
    images: ImageSet, config: Config, source: Source, class_id: int, batch_size: int
) -> Sequence[Tensor]:
    """The images of a class that importance is measured on."""
    chosen = image_parts(config, images, class_id)["importance"]
    return [batch for _, batch in batches(images, chosen, source.view, batch_size)]


def other_batches(
    images: ImageSet, config: Config, source: Source, class_id: int, batch_size: int
) -> Callable[[], Sequence[Tensor]]:
    """Random images of the other classes' importance splits, twice as many as the class has."""

    def load() -> Sequence[Tensor]:
        classes = [c for c in range(len(images.classes)) if c != class_id]
        counts = np.bincount(images.labels, minlength=len(images.classes))
        pool = [image_parts(config, images, c)["importance"] for c in classes if counts[c] > 1]
        if not pool:
            return ()
        every = np.concatenate(pool)
        mine = len(image_parts(config, images, class_id)["importance"])
        rng = np.random.default_rng([config.seed, 4, class_id])
        chosen = np.sort(rng.choice(every, min(2 * mine, len(every)), replace=False))
        return [batch for _, batch in batches(images, chosen, source.view, batch_size)]

    return load


def output_of(source: Source, images: ImageSet, class_id: int) -> int:
    """Where the network puts the logit of a class."""
    return source.class_outputs.get(images.classes[class_id], class_id)


def open_pair(
    run: Run, source: Source, pair: Pair
) -> tuple[ImageSet, nn.Module, nn.Module, list[Layer]]:
    """The test images, the older and the newer model, their layers."""
    older, newer = (_load(run, source, epoch) for epoch in (pair.epoch_from, pair.epoch_to))
    return open_images(run, "test"), older, newer, read_layers(run, source.name)


def score_evolutions(
    run: Run,
    made_from: str,
    advance: Advance,
    source: Source,
    pair: Pair,
    config: Config,
    classes: list[int],
) -> None:
    """Score every evolution of one pair of epochs for every class."""
    images, older, newer, layers = open_pair(run, source, pair)
    size, frames = config.evolve.batch_size, []
    for class_id in classes:
        pieces = importance_batches(images, config, source, class_id, size)
        rng = np.random.default_rng([config.seed, 2, class_id])
        output = output_of(source, images, class_id)
        others = other_batches(images, config, source, class_id, size)
        table = importance(older, newer, layers, pieces, output, config.evolve, rng, others)
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


def revert_evolutions(
    run: Run,
    made_from: str,
    advance: Advance,
    source: Source,
    pair: Pair,
    config: Config,
    classes: list[int],
) -> None:
    """Choose one pair's sets, undo them, record a row an image and arm."""
    images, older, newer, layers = open_pair(run, source, pair)
    place = (pair.series, pair.epoch_from, pair.epoch_to)
    scores = run.table(Artifact("importance", place))
    all_sets, records = [], []
    for class_id in classes:
        rng = np.random.default_rng([config.seed, 3, class_id])
        sets = choose_sets(
            scores[scores["class_id"] == class_id], config.evolve.methods, config.revert, rng
        )
        all_sets.append(sets.assign(class_id=class_id))
        parts = image_parts(config, images, class_id)
        parts["importance"] = parts["importance"][: config.revert.importance_images]
        for split, chosen in parts.items():
            rows = revert(
                older,
                newer,
                layers,
                sets,
                batches(images, chosen, source.view, config.revert.batch_size),
                output_of(source, images, class_id),
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
