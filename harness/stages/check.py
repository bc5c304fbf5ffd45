"""Stage: check that every checkpoint can be used; all problems are reported before work begins."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, starmap

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from harness.artifacts import Run
from harness.config import Config, ConfigError, refuse
from harness.images.batches import load_batch
from harness.images.sets import ArrayImages, ImageSet, open_images
from harness.networks.architectures import build, takes_channels_last
from harness.networks.budget import FEWEST, BatchWork, pass_memory, resources
from harness.networks.devices import Device
from harness.networks.layer import Layer
from harness.networks.layers import find_layers
from harness.networks.objectives import objective_identity
from harness.networks.recording import borrow, record_layers, record_maps
from harness.networks.running import name_network, run_logits, run_network
from harness.networks.soundness import check_gradients, check_passes, ends_in_sigmoid
from harness.networks.sources import FolderSource, Source, TrainedSource
from harness.networks.wrappers import unwrap
from harness.predictions import note_predictions
from harness.stages.check_outputs import check_outputs, try_predictions
from harness.stages.checkpoints import (
    CheckpointWork,
    declare_checkpoints,
    fit_batch_size,
    forget_failures,
    loadable_checkpoints,
    open_checkpoint,
    prepare_model,
)
from harness.stages.images import note_shared_images
from harness.stages.stage import Advance, Plan, Step, Value
from harness.stages.study import describe_small_layers, select_classes
from harness.text import join_names

logger = logging.getLogger(__name__)

VERSION = 5  # of columns and notes of a check; where it differs, checkpoints are checked again
IMAGES = 32  # largest number of test images on which a checkpoint is tried
IMAGE_BYTES = 2**30  # of these images; large ones are fewer


@dataclass(frozen=True)
class CheckCheckpoint(CheckpointWork):
    """Work that loads one checkpoint and tries it on a few test images."""

    kinds = ("check",)

    @property
    def depends(self) -> object:
        return [VERSION, IMAGES, objective_identity(self.source.objective)]

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        row: dict[str, object] = {"series": self.source.name, "epoch": self.epoch}
        with _collect_notes() as notes:
            try:
                model = open_checkpoint(run, self.source, self.epoch)
                row |= _try_model(model, self.source, self.epoch, run)
                row["problem"] = ""
            except ValueError as error:
                row["problem"] = str(error)
        yield pd.DataFrame([row | {"notes": "\n".join(dict.fromkeys(notes))}])


@contextmanager
def _collect_notes() -> Iterator[list[str]]:
    """Collect the messages that the block logs; they are not shown."""
    notes: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: notes.append(record.getMessage())  # type: ignore[method-assign]
    harness_logger = logging.getLogger("harness")
    level, propagates = harness_logger.level, harness_logger.propagate
    harness_logger.addHandler(handler)
    harness_logger.setLevel(logging.INFO)
    harness_logger.propagate = False
    try:
        yield notes
    finally:
        harness_logger.removeHandler(handler)
        harness_logger.setLevel(level)
        harness_logger.propagate = propagates


def check_untrained(source: TrainedSource, run: Run) -> None:
    """Raise ValueError if a series that is yet to be trained could not be used after training."""
    model = build(source.architecture, len(open_images(run, "test").classes), source.seed)
    with _collect_notes():  # reported when the trained checkpoints are checked
        model = name_network(unwrap(model), f"series {source.name!r}, untrained")
        _try_model(model, source, 0, run)


def _try_model(model: nn.Module, source: Source, epoch: int, run: Run) -> dict[str, object]:
    """Try a checkpoint on test images; return the numbers of layers, units, outputs and images,
    and what `try_predictions` returns. Raises ValueError with the problem."""
    images = open_images(run, "test")
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    broken = [name for name, value in tensors.items() if _is_broken(name, value)]
    if broken:
        raise ValueError(
            f"its weights hold NaN or infinite numbers ({join_names(broken, 4)}): the training "
            f"diverged, or the file is damaged; leave it out: skip = [{epoch}] in the series"
        )
    types = {v.dtype for v in model.parameters() if v.is_floating_point()} - {torch.float32}
    if types:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in types))
        logger.info("weights of type %s are converted to float32", names)
    height, width = source.view.size
    fitting = max(FEWEST, IMAGE_BYTES // (12 * height * width))  # 3 float32 a pixel
    rows = np.linspace(0, len(images) - 1, min(IMAGES, len(images), fitting), dtype=int)
    batch = load_batch(images, rows, source.view)
    channels_last = takes_channels_last(model, batch[:FEWEST])
    model = prepare_model(model, source, channels_last)
    layers = find_layers(model, source.view, source.layers, source.channels_last)
    if text := _describe_size(source, images):
        logger.info("%s", text)
    device = resources().device
    model = device.model(model)
    inputs = device.batch(batch if channels_last else batch.contiguous())
    do, count = partial(run_network, model, inputs[:FEWEST]), len(inputs)
    label = f"checking series {source.name!r}"
    work = BatchWork(label, do, len(inputs[:FEWEST]), largest=count, smallest=count)
    with borrow(model), torch.no_grad(), device.computing():
        fit_batch_size(run, work, pass_memory(model))
    with device.computing():
        output = check_passes(model, inputs)
        traced_output = check_gradients(model, layers, inputs[:FEWEST])
    logits = output.cpu()
    _report_precision(model, layers, inputs, logits, device)
    logits = logits.float() if logits.is_floating_point() else logits
    check_outputs(source, images, logits, ends_in_sigmoid(traced_output))
    predictions = try_predictions(run, source, epoch, logits, images, images.labels[rows])
    return predictions | {
        "layers": len(layers),
        "units": sum(layer.channels for layer in layers),
        "maps": json.dumps(_shapes(layers)),
        "active": _count_active(model, layers, inputs),
        "outputs": logits.shape[1],
        "images": len(rows),
    }


def _describe_size(source: Source, images: ImageSet) -> str:
    """Return how images are brought to the size of the input; "" if arrays remain as they are."""
    view = source.view
    height, width = view.size
    default = ""
    if isinstance(images, ArrayImages):
        if view.keeps(*images.arrays.shape[1:3]):
            return ""
    elif "crop" not in source.model_fields_set:
        default = " (the default; set resize and crop as in the network's training)"
    size = view.resize
    text = " × ".join(map(str, size)) if isinstance(size, tuple) else f"a shorter side of {size}"
    return (
        f"images are resized to {text} px by {view.interpolation} interpolation, of which the "
        f"central {height} × {width} px (height × width) are used{default}"
    )


def _report_precision(
    model: nn.Module, layers: Sequence[Layer], batch: Tensor, logits: Tensor, device: Device
) -> None:
    """Report how many predictions and strongest images a lower precision leaves unchanged."""
    if device.precision == "float32":
        return
    full_precision = replace(device, precision="float32")
    strongest = []
    for variant in (device, full_precision):
        recording = record_maps(
            model, layers, lambda maps, la: la.strength(maps).amax(dim=2).argmax(dim=0)
        )
        with borrow(model), torch.no_grad(), variant.computing(), recording as kept:
            answer = run_logits(model, batch)
        strongest.append(torch.cat([kept[layer.name] for layer in layers]))
    units = (strongest[0] == strongest[1]).float().mean()
    images = (logits.argmax(dim=1) == answer.cpu().argmax(dim=1)).sum()
    logger.warning(
        "precision %s: of %d images %d have the same prediction as in float32, and %.1f %% of the "
        "units the same strongest image",
        device.precision,
        len(batch),
        int(images),
        100 * float(units),
    )


def _count_active(model: nn.Module, layers: Sequence[Layer], batch: Tensor) -> int:
    """Count the units with a positive activation on any image."""
    with resources().device.computing():
        active = record_layers(
            model,
            layers,
            lambda maps, layer: int((layer.strength(maps).amax((0, 2)) > 0).sum()),
            batch,
            "to count its active units",
        )
    return sum(active.values())


def _is_broken(name: str, value: Tensor) -> bool:
    """Return whether a trained value is not finite, or a buffer NaN (masks may be infinite)."""
    if bool(torch.isfinite(value).all()):
        return False
    is_trained = isinstance(value, nn.Parameter) or "running_" in name
    return is_trained or bool(value.isnan().any())


def check_maps(plan: Plan, rows: pd.DataFrame) -> Iterator[str]:
    """Yield a message for checkpoints whose layers have other maps than those of the last one of
    their series: their neurons would not be the same ones."""
    sources = {source.name: source for source in plan.config.series}
    for series, sound in rows[rows["problem"] == ""].groupby("series"):
        *others, last = sound.itertuples()
        expected = json.loads(str(last.maps))
        epochs_of_text: dict[str, list[int]] = {}
        for row in others:
            maps = json.loads(str(row.maps))
            try:
                if not expected.keys() <= maps.keys():
                    maps = _measure_maps(plan, sources[series], row.epoch, tuple(expected))
                differences = [
                    f"layer {name!r} has maps of {_size(maps[name])}, not {_size(shape)}"
                    for name, shape in expected.items()
                    if maps[name] != shape
                ]
            except ValueError as error:
                differences = [str(error)]
            if differences:
                epochs_of_text.setdefault(join_names(differences, 2), []).append(row.epoch)
        for text, epochs in epochs_of_text.items():
            plural = "s" * (len(epochs) > 1)
            yield (
                f"series {series!r}, epoch{plural} {', '.join(map(str, epochs))}: the network "
                f"differs from that of epoch {last.epoch} ({text}); a neuron must exist at all "
                f"epochs: leave out one kind, e.g. skip = {epochs}, or make two series"
            )


def _measure_maps(
    plan: Plan, source: Source, epoch: int, names: tuple[str, ...]
) -> dict[str, list[int]]:
    """Return channels, height and width of the layers of these names in another checkpoint."""
    model = prepare_model(open_checkpoint(plan.run, source, epoch), source, False)
    view = replace(source.view, channels_last=False)
    return _shapes(find_layers(model, view, names, source.channels_last))


def _shapes(layers: Sequence[Layer]) -> dict[str, list[int]]:
    return {layer.name: [layer.channels, layer.height, layer.width] for layer in layers}


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def check_base(plan: Plan, rows: pd.DataFrame) -> Iterator[str]:
    """Yield a message if the base of the semantic space has too few active units."""
    base = plan.config.base_checkpoint()
    for row in rows[base.mask(rows)].itertuples():
        if row.problem == "" and row.active < 2:
            yield (
                f"series {base.series!r}, epoch {base.epoch}, the base of the semantic space: of "
                f"its {row.units:.0f} units, {row.active:.0f} are active on {row.images:.0f} test "
                f"images, and a space needs two: choose another base, or name more layers"
            )


def check_probe_images(plan: Plan, rows: pd.DataFrame) -> Iterator[str]:
    """Yield a message if there are fewer probe images than stimuli of a neuron."""
    if text := describe_few_images(plan.config.probe.k, len(open_images(plan.run, "probe"))):
        yield text


def describe_few_images(k: int, images: int) -> str:
    """Return a message if there are fewer probe images than stimuli of a neuron; "" if not."""
    return f"probe.k = {k}: there are {images} probe images; lower it, or add images" * (k > images)


def check_class_images(plan: Plan, rows: pd.DataFrame) -> Iterator[str]:
    """Yield a message if a studied class is unknown, or has too few images for importance and
    ablation."""
    images = plan.test_images
    try:
        selected = select_classes(plan)
    except ConfigError as error:  # reported with the other problems
        yield str(error)
        return
    counts = np.bincount(images.labels)
    too_small = [images.classes[class_id] for class_id in selected if counts[class_id] < 2]
    if too_small:
        yield (
            f"images.test: importance and ablation need two images of a class; "
            f"{', '.join(too_small)} have fewer: add images, or name the other classes in `classes`"
        )


def check_bins(plan: Plan, rows: pd.DataFrame) -> Iterator[str]:
    """Yield a message for each series no layer of which can be divided into the bins."""
    for series, sound in rows[rows["problem"] == ""].groupby("series"):
        maps = json.loads(str(sound["maps"].iloc[-1]))
        largest = max(channels for channels, *_ in maps.values())
        yield from describe_small_layers(str(series), largest, plan.config.revert.bins)


#: Function of the plan and the table of checks that yields what a part of a run lacks.
Need = Callable[[Plan, pd.DataFrame], Iterator[str]]
NEEDS: tuple[Need, ...] = (check_base, check_probe_images, check_class_images, check_bins)


def problems(plan: Plan, rows: pd.DataFrame, needs: Sequence[Need] = NEEDS) -> list[str]:
    """Return one message per problem that prevents the run, or the part of it with these needs."""
    texts = []
    files = {s.name: s for s in plan.config.series if isinstance(s, FolderSource)}
    epochs: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for row in rows[rows["problem"] != ""].itertuples():
        # errors in the user's network code already name their place
        place = f"series {row.series!r}, epoch {row.epoch}: "
        text = key = str(row.problem).removeprefix(place)
        if source := files.get(str(row.series)):  # a problem of many files is reported once
            key = text.replace(str(source.file(row.epoch)), "")
        epochs.setdefault((str(row.series), key), (text, []))[1].append(str(row.epoch))
    for (series, _), (text, epochs_of_text) in epochs.items():
        plural = "s" * (len(epochs_of_text) > 1)
        texts.append(f"series {series!r}, epoch{plural} {', '.join(epochs_of_text)}: {text}")
    return [*texts, *check_maps(plan, rows), *(text for need in needs for text in need(plan, rows))]


def remarks(config: Config, rows: pd.DataFrame) -> list[str]:
    """Return notes for the user on what does not prevent the run."""
    epochs_of_note: dict[str, list[str]] = {}
    for row in rows.itertuples():
        for note in str(row.notes).splitlines():
            epochs_of_note.setdefault(f"series {row.series!r}: {note}", []).append(str(row.epoch))
    notes = [f"{text} (epochs {', '.join(epochs)})" for text, epochs in epochs_of_note.items()]
    notes += [*note_shared_images(config), *config.unused_parameters()]
    for source in config.series:
        notes += [f"series {source.name!r}: {remark}" for remark in source.remarks()]
    return notes


def note_unstudied(config: Config) -> Iterator[str]:
    """Yield a note for each series of which no evolution is studied."""
    for source in config.series:
        if not config.pairs(source):
            epochs = ", ".join(map(str, source.series().epochs))
            yield (
                f"series {source.name!r} (epochs {epochs}): no evolution is studied; "
                f"{_explain_no_pair(config, source)}"
            )


def _explain_no_pair(config: Config, source: Source) -> str:
    epochs, loadable = source.series().epochs, source.loadable_epochs()
    if source.name in config.evolve.pairs:
        return "evolve.pairs has no pair of it"
    if len(loadable) < 2 < len(epochs):
        return f"it has weights of {len(loadable)} epochs, and evidence of others"
    if len(epochs) == 1:
        return "it has one checkpoint"
    return (
        f"a pair that begins with epoch 0, which usually is an untrained network, is left out; to "
        f"study it: [evolve.pairs] {source.name} = [[{epochs[0]}, {epochs[1]}]]"
    )


def steps(plan: Plan, needs: Sequence[Need] = NEEDS) -> Iterator[Step]:
    """Try every checkpoint, and raise ConfigError with all problems (see `problems`) if any."""
    declare_checkpoints(plan)
    works = list(starmap(CheckCheckpoint, loadable_checkpoints(plan.config)))
    forget_failures(plan, works)
    yield "checking checkpoints", works
    if plan.dry_run or not works:
        return
    rows = pd.concat([plan.run.table(work.makes[0]) for work in works], ignore_index=True)
    notes = note_unstudied(plan.config) if check_class_images in needs else ()
    for note in chain(remarks(plan.config, rows), note_predictions(rows), notes):
        logger.warning("%s", note)
    refuse(problems(plan, rows, needs))
