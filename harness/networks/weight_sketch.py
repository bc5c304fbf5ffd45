"""Summaries of checkpoints' weights by which they are compared: digests, counts and samples.

Checkpoints are equal if their digests are equal. Distances are estimated from a sample of each
layer's weights, the same ones at every checkpoint, so that a series of any length fits in memory.
"""

import hashlib

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from harness.randomness import generator

#: Number of weights that are kept per layer. Smaller layers are kept whole, so their distances are
#: exact; other squared distances have a relative standard error of a few per cent.
SAMPLE = 8192

#: A unit is dead if no incoming weight exceeds this share of the layer's largest absolute weight.
DEAD = 1e-8


def sketch(model: nn.Module) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Summarise the weights of a model.

    Returns:
        One row per module that has parameters of its own, in the network's order; and the weights
        that are kept of each, float32 [min(size, SAMPLE)]. A module's parameters are joined in
        order, complex numbers as two real ones. The columns are layer (the module's name), size
        (number of weights), squared_norm (sum of the squared weights), non_finite (number of
        weights that are NaN or infinite), units (number of output units of a convolution or linear
        layer, of the projections of an attention layer, or of the gates of a recurrent one; 0 for
        other layers), dead (number of units whose incoming weights are all (nearly) zero), digest
        (of all weights; equal only if they are bitwise equal) and, equal in all rows, buffers
        (digest of the floating-point buffers, such as running means) and batches (number of batches
        that normalisation layers have counted; -1 if none counts).
    """
    rows, samples = [], []
    for name, module in model.named_modules():
        tensors = [_real(p.detach()) for _, p in module.named_parameters(recurse=False)]
        if not tensors:
            continue
        name = name or "(the network's own)"
        values = torch.cat([tensor.float().flatten() for tensor in tensors]).cpu().numpy()
        squared_norm = float(np.square(values, dtype=np.float64).sum())
        non_finite = int((~np.isfinite(values)).sum())
        numbers = len(values), squared_norm, non_finite, *_units(module)
        rows.append((name, *numbers, _digest(tensors)))
        if len(values) > SAMPLE:
            rng = generator(0, "sample of weights", name, len(values))
            values = values[np.sort(rng.choice(len(values), SAMPLE, replace=False))]
        samples.append(values)
    columns = ["layer", "size", "squared_norm", "non_finite", "units", "dead", "digest"]
    all_buffers = [_real(b) for _, b in sorted(model.named_buffers())]
    buffers = [b for b in all_buffers if b.is_floating_point()]
    counts = [int(b) for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(buffers=_digest(buffers), batches=max(counts, default=-1)), samples


def _real(tensor: Tensor) -> Tensor:
    """Return complex numbers as pairs of real ones, and other tensors as they are."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _units(module: nn.Module) -> tuple[int, int]:
    """Return the number of a layer's output units, and how many of them are dead."""
    weight = getattr(module, "weight", None)
    matrices: list[Tensor] = []
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        matrices += [p for p in module.parameters(recurse=False) if p.dim() == 2]
    elif isinstance(weight, Tensor) and weight.dim() > 1 and not isinstance(module, nn.Embedding):
        transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
        matrices.append(weight.transpose(0, 1) if isinstance(module, transposed) else weight)
    largest = [matrix.detach().abs().flatten(1).amax(dim=1) for matrix in matrices]
    dead = sum(int((values <= DEAD * values.max()).sum()) for values in largest)
    return sum(map(len, largest)), dead


def _digest(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
