"""Compare every stage on a small VGG with plain code in the form of the published code."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from harness.concepts.embedding import (
    SkipGram,
    consecutive_pairs,
    skip_gram,
    solve_image_vectors,
)
from harness.concepts.probing import ProbeParameters, probe_range
from harness.concepts.stimuli import stimuli_table
from harness.evolutions.ablation import Arm, Images, ablate
from harness.evolutions.importance import importance_method, sensitivities
from harness.evolutions.sensitivity import Case
from harness.images.batches import batches
from harness.images.sets import ArrayImages
from harness.images.view import View
from harness.networks.architectures import build, channels_last
from harness.networks.layer import Layer, ModelPair, Network
from harness.networks.layers import find_layers
from harness.records import Checkpoint

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import oracles

PROBED = 2400
OF_CLASS = 64
BATCH = 32
K = 20
EPOCHS = 20
CLASS = 0
VIEW = View(64, 64)
PLAIN_VIEW = View(64, 64, channels_last=False)


def in_turn(repeats: int, **ways: Callable[[], Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Call functions in turn, `repeats` times; return smallest processor times and last results."""
    best, answers = dict.fromkeys(ways, float("inf")), {}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            answers[name] = way()
            best[name] = min(best[name], time.process_time() - start)
    return best, answers


def by_hand(model: nn.Module, layer: Layer) -> Callable[[Tensor], Tensor]:
    """Return a function of maps that calls the modules after a layer of a sequential network."""
    leaves = [(n, m) for n, m in model.named_modules() if next(m.children(), None) is None]
    behind = leaves[1 + [name for name, _ in leaves].index(layer.module) :]

    def run(maps: Tensor) -> Tensor:
        for _, module in behind:
            maps = module(maps.flatten(1) if isinstance(module, nn.Linear) else maps)
        return maps

    return run


def maps_by_hooks(
    model: nn.Module, layers: Sequence[Layer], batch: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the network's output, and each layer's output."""
    kept: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(layer.module).register_forward_hook(
            lambda module, inputs, output, name=layer.name: kept.update({name: output})
        )
        for layer in layers
    ]
    answer = model(batch)
    for handle in handles:
        handle.remove()
    return answer, kept


@torch.no_grad()
def plain_stimuli(model: nn.Module, layers: Sequence[Layer], images: ArrayImages) -> np.ndarray:
    """Return the image ids of the K images that activate each neuron most, where it is active.
    They are updated after each batch; each image's K strongest neurons are sorted, too."""
    values, ids = (np.empty((0, 0)) for _ in range(2))
    responsive = []
    for batch_ids, batch in batches(images, np.arange(len(images)), PLAIN_VIEW, BATCH):
        _, maps = maps_by_hooks(model, layers, batch)
        now = np.concatenate([maps[la.name].flatten(2).amax(2).numpy() for la in layers], axis=1)
        responsive.append(np.argsort(-now, axis=1, kind="stable")[:, :K])
        new = np.broadcast_to(batch_ids.numpy(), now.T.shape)
        if len(values):
            values, ids = np.hstack([values, now.T]), np.hstack([ids, new])
        else:
            values, ids = now.T, new
        order = np.argsort(-values, axis=1, kind="stable")[:, :K]
        values, ids = (np.take_along_axis(a, order, axis=1) for a in (values, ids))
    return ids[values > 0]


def plain_skip_gram(groups: sparse.csr_array, start: np.ndarray) -> np.ndarray:
    """Return the vectors after updates pair by pair, with the same random draws as `skip_gram`."""
    rng, vectors = np.random.default_rng(1), start
    for _ in range(EPOCHS):
        pairs = consecutive_pairs(groups, rng)
        drawn = rng.integers(0, len(start), (len(pairs), 2, SkipGram().negatives))
        for pair, negatives in zip(pairs, drawn, strict=True):
            vectors = oracles.published_step(vectors, pair, negatives, SkipGram().rate)
    return vectors


def plain_importance(
    older: nn.Module, newer: nn.Module, layers: Sequence[Layer], batches: Sequence[Tensor]
) -> dict[str, np.ndarray]:
    """Return the share of images with positive sensitivity, per layer [channels]. Each image and
    layer needs a backward pass through the graph of the whole batch."""
    signs: dict[str, list[np.ndarray]] = {layer.name: [] for layer in layers}
    for batch in batches:
        logits, before = maps_by_hooks(older, layers, batch)
        with torch.no_grad():
            _, after = maps_by_hooks(newer, layers, batch)
        for layer in layers:
            change = after[layer.name] - before[layer.name].detach()
            for image in range(len(batch)):
                (gradient,) = torch.autograd.grad(
                    logits[image, CLASS], before[layer.name], retain_graph=True
                )
                products = (gradient[image] * change[image]).sum(dim=(1, 2))
                signs[layer.name].append((products > 0).numpy())
    return {name: np.mean(rows, axis=0) for name, rows in signs.items()}


@torch.no_grad()
def plain_reversion(
    older: nn.Module, newer: nn.Module, arms: Sequence[Arm], batches: Sequence[Tensor]
) -> list[np.ndarray]:
    """Return whether each image is predicted correctly, per arm: channels of a layer's maps are
    replaced, and the modules after it are called."""
    by_name = {layer.name: layer for layer in find_layers(newer, PLAIN_VIEW)}
    layers, right = list(by_name.values()), [list[np.ndarray]() for _ in arms]
    behind = {name: by_hand(newer, layer) for name, layer in by_name.items()}
    for batch in batches:
        before, after = (maps_by_hooks(model, layers, batch)[1] for model in (older, newer))
        for arm, rows in zip(arms, right, strict=True):
            channels = arm.channels[arm.layer]
            maps = after[arm.layer].clone()
            maps[:, channels] = before[arm.layer][:, channels]
            logits = behind[arm.layer](maps)
            logits.softmax(dim=1)[:, CLASS].numpy()
            logits.topk(5).indices.numpy()
            rows.append((logits.argmax(dim=1) == CLASS).numpy())
    return [np.concatenate(rows) for rows in right]


def stages(repeats: int) -> list[list[str]]:
    """Return one table row per stage, and one for their sum."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (PROBED, 64, 64, 3), dtype=np.uint8)
    images = ArrayImages(pixels, np.zeros(PROBED, dtype=np.int64), ("noise",))
    plain_older, plain_newer = (build("small_vgg", 12, seed).eval() for seed in (1, 0))
    older, newer = (channels_last(build("small_vgg", 12, seed).eval()) for seed in (1, 0))
    layers = find_layers(newer, VIEW)
    rows, total = [], {"plain": 0.0, "ours": 0.0}

    def add(stage: str, same: Callable[[Any, Any], str], **ways: Callable[[], Any]) -> Any:
        best, answers = in_turn(repeats, **ways)
        for name, seconds in best.items():
            total[name] += seconds
        rows.append([stage, *_compared(best), same(answers["plain"], answers["ours"])])
        return answers["ours"]

    network = Network(Checkpoint("net", 1), newer, layers, VIEW)
    parameters = ProbeParameters(k=K, activations=False, batch_size=BATCH)
    recorded = add(
        f"stimuli of {PROBED} images",
        _equal_lists,
        plain=lambda: plain_stimuli(plain_newer, layers, images),
        ours=lambda: stimuli_table(
            probe_range(network, images, range(PROBED), parameters).part,
            *(layers, network.checkpoint, PROBED),
        ),
    )
    neuron = recorded.groupby(["layer", "channel"], sort=False).ngroup().to_numpy()
    ones = (np.ones(len(recorded)), (neuron, recorded["image_id"]))
    incidence = sparse.csr_array(ones, shape=(neuron.max() + 1, PROBED))
    incidence = sparse.csr_array(incidence[:, np.unique(incidence.indices)])
    start = rng.uniform(-0.5, 0.5, (incidence.shape[0], 30))
    groups, learning = sparse.csr_array(incidence.T), SkipGram(EPOCHS, full=False)
    vectors = add(
        f"vectors of {len(start)} neurons, {EPOCHS} epochs",
        _close,
        plain=lambda: plain_skip_gram(groups, start),
        ours=lambda: skip_gram(groups, start, np.random.default_rng(1), learning),
    )
    add(
        f"vectors of {incidence.shape[1]} images",
        _close,
        plain=lambda: oracles.image_vectors(incidence.toarray(), vectors),
        ours=lambda: solve_image_vectors(incidence, vectors),
    )
    of_class = np.arange(OF_CLASS)
    plain_batches = [batch for _, batch in batches(images, of_class, PLAIN_VIEW, BATCH)]
    ours_batches = list(batches(images, of_class, VIEW, BATCH))
    pair, method = ModelPair(older, newer, layers), importance_method("sign_t")
    measured = [batch for _, batch in ours_batches]
    add(
        f"importance, {OF_CLASS} images",
        _equal_shares,
        plain=lambda: plain_importance(plain_older, plain_newer, layers, plain_batches),
        ours=lambda: sensitivities(Case(pair, measured, CLASS, np.random.default_rng(0)), method),
    )
    arms = [
        Arm(layer.name, {layer.name: part}, [("m", str(number), 0)])
        for layer in layers
        for number, part in enumerate(
            [*torch.arange(layer.channels).chunk(4), torch.arange(0, layer.channels, 4)]
        )
    ]
    add(
        f"{len(arms)} arms, {OF_CLASS} images",
        _equal_rows,
        plain=lambda: plain_reversion(plain_older, plain_newer, arms, plain_batches),
        ours=lambda: ablate(pair, arms, Images(ours_batches), CLASS, batch_size=BATCH),
    )
    return [*rows, ["all", *_compared(total), ""]]


def _compared(seconds: Mapping[str, float]) -> list[str]:
    plain, ours = seconds["plain"], seconds["ours"]
    return [f"{plain:.2f}", f"{ours:.3f}", f"{plain / ours:.1f}"]


def _share(equal: np.ndarray) -> str:
    return f"{int(equal.sum())} of {equal.size}"


def _equal_lists(plain: np.ndarray, ours: pd.DataFrame) -> str:
    return _share(ours["image_id"].to_numpy() == plain)


def _close(plain: np.ndarray, ours: np.ndarray) -> str:
    return _share(np.isclose(plain, ours, rtol=1e-6, atol=1e-8).all(axis=1))


def _equal_shares(plain: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> str:
    equal = [np.isclose((ours[name] > 0).mean(axis=0), share) for name, share in plain.items()]
    return _share(np.concatenate(equal))


def _equal_rows(plain: list[np.ndarray], ours: pd.DataFrame) -> str:
    return _share(ours["correct_after"].to_numpy() == np.concatenate(plain))
