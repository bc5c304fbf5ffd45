"""What is kept of a checkpoint's weights to compare it with others: digests, counts, and a sample.

Two checkpoints are equal where their digests are. Distances are computed from a sample of each
layer's weights, the same ones at every checkpoint, so that a series of any length fits in memory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from harness.randomness import generator

#: So many weights of a layer are kept; smaller layers are kept whole, so that their distances are
#: exact. The estimate of a squared distance has a relative standard error of a few per cent.
SAMPLE = 8192

#: A unit is dead if none of its incoming weights is larger than this share of the layer's largest.
DEAD = 1e-8


@dataclass(frozen=True)
class LayerSketch:
    """One module's own parameters (float32, joined in order), in short.

    Attributes:
        layer: the module's name.
        size: number of weights.
        squared_norm: sum of their squares.
        non_finite: how many are NaN or infinite.
        units: output units of a convolution or linear layer, else 0.
        dead: of these, the ones whose incoming weights are all (nearly) zero.
        digest: of all weights, to the bit.
        sample: [min(size, SAMPLE)] the weights that are kept.
    """

    layer: str
    size: int
    squared_norm: float
    non_finite: int
    units: int
    dead: int
    digest: str
    sample: np.ndarray


@dataclass(frozen=True)
class Sketch:
    """A checkpoint in short.

    Attributes:
        layers: those that have parameters of their own, in the network's order.
        buffers: digest of the floating-point buffers, such as running means.
        batches: how many batches normalisation layers have counted; -1 where none counts.
    """

    layers: tuple[LayerSketch, ...]
    buffers: str
    batches: int


def sketch(model: nn.Module) -> Sketch:
    """A checkpoint in short, from its model."""
    layers = []
    for name, module in model.named_modules():
        own = [p.detach() for _, p in module.named_parameters(recurse=False)]
        if own:
            layers.append(_layer(name or "(the network's own)", module, own))
    buffers = [b for _, b in sorted(model.named_buffers()) if b.is_floating_point()]
    counts = [int(b) for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    return Sketch(tuple(layers), _digest(buffers), max(counts, default=-1))


def _layer(name: str, module: nn.Module, own: list[Tensor]) -> LayerSketch:
    weights = torch.cat([parameter.float().flatten() for parameter in own])
    values = weights.cpu().numpy()
    kept = values
    if len(values) > SAMPLE:
        rng = generator(0, "sample of weights", name, len(values))
        kept = values[np.sort(rng.choice(len(values), SAMPLE, replace=False))]
    units, dead = _units(module)
    return LayerSketch(
        layer=name,
        size=len(values),
        squared_norm=float(np.square(values, dtype=np.float64).sum()),
        non_finite=int((~np.isfinite(values)).sum()),
        units=units,
        dead=dead,
        digest=_digest(own),
        sample=kept,
    )


def _units(module: nn.Module) -> tuple[int, int]:
    """How many output units a layer has, and how many of them are dead."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or isinstance(module, nn.Embedding):
        return 0, 0
    rows = weight.detach().abs()
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        rows = rows.transpose(0, 1)
    largest = rows.flatten(1).amax(dim=1)
    return len(largest), int((largest <= DEAD * largest.max()).sum())


def _digest(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
