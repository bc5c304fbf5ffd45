"""Measure receptive fields: which pixels change the centre of a layer's map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from harness.images.sets import View
from harness.networks.layer import Layer
from harness.networks.recording import ActivationRecorder, borrowed
from harness.networks.running import explained, run_network, with_gradients

#: Limits of a patch: it must be large enough to be recognised, and smaller than the whole image.
SMALLEST_PATCH_PIXELS = 20
LARGEST_PATCH = 0.625
CONTEXT = 1.5


def with_patches(model: nn.Module, layers: Sequence[Layer], view: View) -> list[Layer]:
    """Return the layers with `patch` set: 1.5 times the receptive field, at least 20 pixels and at
    most 5/8 of the view.

    Vectors, which have no positions in the image, keep 1 (the whole view). If values are detached,
    the receptive field cannot be measured, and the largest patch is used.
    """
    image = torch.rand(
        2, view.channels, view.crop, view.crop, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    smallest = min(SMALLEST_PATCH_PIXELS / view.crop, 1.0)
    largest = max(LARGEST_PATCH, smallest)
    keep = ActivationRecorder(model, layers, lambda maps, _: maps, shares_memory=True)

    def patch(layer: Layer) -> float:
        if layer.width == 1:
            return 1.0
        centre = layer.extra + (layer.height // 2) * layer.width + layer.width // 2
        target = layer.strength(keep.kept[layer.name])[:, :, centre].sum()
        if not target.requires_grad:  # an earlier part of the network detaches its values
            return largest
        with explained(model, image, f"for what neurons of layer {layer.name!r} see"):
            (gradient,) = torch.autograd.grad(
                target, image, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        touched = (gradient != 0).any(dim=0).any(dim=0)
        extent = max(_extent(touched.any(dim=1)), _extent(touched.any(dim=0)))
        return min(max(CONTEXT * extent / view.crop, smallest), largest)

    with borrowed(model), torch.enable_grad(), keep:
        with with_gradients():
            run_network(model, image, "to measure what neurons see")
        return [replace(layer, patch=patch(layer)) for layer in layers]


def _extent(touched: torch.Tensor) -> int:
    places = touched.nonzero()
    return int(places.max() - places.min()) + 1 if len(places) else 0
