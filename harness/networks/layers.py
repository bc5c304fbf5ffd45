"""Find the layers of a network to probe, the shapes of their maps, and their receptive fields."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from harness.images.batches import random_images
from harness.images.view import View
from harness.networks.default_layers import map_sizes, split_layers, token_grid
from harness.networks.layer import Layer
from harness.networks.parts import find_sites
from harness.networks.recording import borrow, record_maps
from harness.networks.running import WithGradients, explain_errors, run_network
from harness.networks.watching import (
    ModuleRecord,
    Passes,
    Shape,
    Site,
    innermost_modules,
    run_passes,
    shape_in,
)
from harness.records import JOINT
from harness.registry import UserCodeError
from harness.text import join_names, pluralise

logger = logging.getLogger(__name__)


def find_layers(
    model: nn.Module,
    view: View,
    patterns: Sequence[str] | None = None,
    channels_last: Mapping[str, bool] | None = None,
) -> list[Layer]:
    """Return the layers to probe, in the order in which they run.

    The default for each call of a non-linearity is the innermost module that runs once per pass and
    whose output is the result of that call: the activation module itself if it is called once
    (VGG), otherwise the block that ends in it (ResNet, whose blocks call one ReLU several times,
    and Inception, which calls a function). `default_layers.split_layers` leaves some of them out.

    Args:
        model: the network; it is not changed.
        patterns: names of modules or of their parts (`parts.py`), or shell patterns ("features.*",
            "blocks.*:heads"), instead of the default.
        channels_last: by pattern, for layers whose layout cannot be inferred from the shape.

    Raises:
        ValueError: a pattern matches no module, there is no non-linearity, a value is not a real
            tensor of 2 to 4 dimensions with one row per image, or a layout cannot be inferred.
    """
    passes = run_passes(model, view)
    if patterns is None:
        sites = {name: Site(name) for name in _find_default(passes)}
    else:
        sites = _match_sites(model, passes.two.modules, patterns)
    if JOINT in sites:
        raise ValueError(
            f"a module is called {JOINT!r}, which here means all layers at once: rename it, or "
            f"choose other `layers`"
        )
    layers: list[Layer] = []
    for name, site in sites.items():
        depth = len(layers) / max(1, len(sites) - 1)
        layers.append(_make_layer(name, site, passes, channels_last or {}, depth))
    _note_moved_images(layers, passes)
    return layers


def _note_moved_images(layers: Sequence[Layer], passes: Passes) -> None:
    """Log if the upper left corner of the images does not reach that of a map: the network flips
    or crops images itself, so that the patches of stimuli are not what its neurons see."""
    try:
        records = passes.two.modules, passes.variant("upper left").modules
    except UserCodeError:  # the network may take numbers in [0, 1] only
        return
    changed: dict[str, Tensor] = {}  # which positions differ after the corner of the images did
    for layer in layers:
        site, present = Site(layer.module, layer.side), layer.module in records[1]
        tensors = [site.value(record[layer.module]) for record in records if present]
        if layer.height > 1 and layer.width > 1 and len(tensors) == 2:
            one, other = (layer.strength(layer.channel_first(t)) for t in tensors if t is not None)
            positions = (one != other).flatten(0, 1).any(dim=0)[layer.extra :]
            changed[layer.name] = positions.view(layer.height, layer.width)
    moved = [
        name
        for name, map_ in changed.items()
        if map_.any() and not map_[: -(-len(map_) // 2), : -(-map_.shape[1] // 2)].any()
    ]
    unseen = bool(changed) and not any(bool(map_.any()) for map_ in changed.values())
    if moved or unseen:
        logger.info(
            "the upper left corner of an image %s: the network seems to flip, shift or crop images "
            "itself, so the patches of stimuli are not what its neurons see; let it take images "
            "as they are, and set resize and crop",
            "changes nothing" if unseen else f"reaches only other parts of {join_names(moved, 4)}",
        )


def _find_default(passes: Passes) -> list[str]:
    """Return the names of the modules that are probed by default; those left out are logged."""
    modules = passes.two.modules
    names = [name for name, record in modules.items() if record.nonlinear and record.calls == 1]
    names, others = split_layers(innermost_modules(names, modules), passes)
    for reason, names_of_rule in others.items():
        logger.info(
            "%s not probed by default (%s): %s",
            pluralise(len(names_of_rule), "layer is", "layers are"),
            reason,
            join_names(names_of_rule, 8),
        )
    notes = []
    if passes.scripted:
        notes.append(
            f"activation functions within functions compiled by torch.jit are not probed "
            f"({_tally(passes.scripted)}): set the environment variable PYTORCH_JIT=0, with "
            f"which these functions run as Python code"
        )
    if unprobed := passes.two.unprobed:
        notes.append(
            f"{len(unprobed)} of {len(unprobed) + len(names)} calls of activation functions are "
            f"not probed, because they are inside a block that is probed as a whole or cannot be "
            f"probed: {_tally(unprobed)}"
        )
    if not names:
        problem = "no module of the model returns the result of a non-linearity"
        remedy = "give each call a module of its own, or "
        if others:
            rules = (f"{join_names(left_out, 4)} ({rule})" for rule, left_out in others.items())
            problem, remedy = f"no layer is probed by default: not {', '.join(rules)}", ""
        remedy += (
            f"name the layers to probe: layers = [...]; the model's modules are "
            f"{join_names(modules, 12) or 'hidden'}"
        )
        raise ValueError("; ".join([problem, *notes, remedy]))
    for note in notes:
        logger.info("%s", note)
    return names


def _tally(names: Sequence[str]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in Counter(names).most_common())


def _match_sites(
    model: nn.Module, modules: Mapping[str, ModuleRecord], patterns: Sequence[str]
) -> dict[str, Site]:
    """Return the sites that match names or patterns, in the order in which they run."""
    sites: dict[str, Site] = {}
    for pattern in patterns:
        if ":" in pattern and pattern not in modules:
            sites |= find_sites(pattern, model, modules)
            continue
        exact = [pattern] if pattern in modules else []  # a name may hold brackets
        matches = exact or [name for name in modules if fnmatchcase(name, pattern)]
        if not matches:
            known = join_names(modules, 12)
            raise ValueError(f"no layer matches {pattern!r}; the model's are {known}")
        sites |= {name: Site(name) for name in matches}
    if repeated := [n for n, site in sites.items() if modules[site.module].calls > 1]:
        raise ValueError(
            f"{', '.join(repeated)} runs more than once per pass; name the block around it"
        )
    order = list(modules)
    return dict(sorted(sites.items(), key=lambda item: order.index(item[1].module)))


def _make_layer(
    name: str, site: Site, passes: Passes, layouts: Mapping[str, bool], depth: float
) -> Layer:
    record = passes.two.modules[site.module]
    value, axis = site.value(record), passes.image_axis(site)
    if value is None or (record.several and name == site.module):
        value_text = "several values" if record.several else "no tensor"
        shapes = {getattr(tensor, "shape", None) for tensor in (record.output, record.input)}
        is_block = record.several and len(shapes) == 1 and None not in shapes
        raise ValueError(
            f"layer {name!r} returns {value_text}; name a module inside it or after it"
            + f", or the first value: {name}:residual" * is_block
        )
    shape = tuple(value.shape)
    if not value.is_floating_point():
        raise ValueError(f"layer {name!r} returns {value.dtype}; only real numbers can be used")
    if len(shape) not in (2, 3, 4):
        raise ValueError(
            f"layer {name!r} returns shape {shape}; only 2 to 4 dimensions can be used: name other "
            f"layers, layers = [...]"
        )
    sequence_first = axis == 1 and len(shape) == 3
    if axis != 0 and not sequence_first:
        raise ValueError(
            f"layer {name!r} returns shape {shape} for 2 images, in which no dimension counts the "
            f"images: windows or tokens of several images are mixed; name the block around it"
        )
    if sequence_first:
        shape = (shape[1], shape[0], shape[2])
    last = next((last for pattern, last in layouts.items() if fnmatchcase(name, pattern)), None)
    if last is None:
        last = _is_channels_last(name, site, shape, passes)
    channels, spatial = (shape[-1], shape[1:-1]) if last else (shape[1], shape[2:])
    height, width, extra = _infer_grid(spatial, passes, last)
    behind = _count_tokens_behind(spatial[0], extra, passes) if extra else 0
    if len(spatial) == 1 and width > 1 and not _are_in_order(site.module, passes):
        logger.info(
            "tokens in another order than the patches of the image have unknown positions: they "
            "are treated as one column, in their order, and whole images are shown"
        )
        height, width, extra, behind = spatial[0], 1, 0, 0
    return Layer(
        name=name,
        channels=channels // site.group,
        height=height,
        width=width,
        channels_last=last,
        depth=depth,
        extra=extra,
        **vars(site),
        sequence_first=sequence_first,
        behind=behind,
    )


def _count_tokens_behind(tokens: int, extra: int, passes: Passes) -> int:
    """Return how many of the tokens without a position follow those of the image.

    Where tokens are not mixed yet, the last token of the image is the last one that depends only on
    its lower right corner.
    """
    for name, record in passes.two.modules.items():
        value, axis = record.output, 0 if passes.image_axis(Site(name)) == 1 else 1
        if value is None or value.dim() != 3 or value.shape[axis] != tokens:
            continue
        first, last = (  # which tokens differ: bool [tokens]
            _token_changes(name, corner, passes) > 0 for corner in ("upper left", "lower right")
        )
        if not (first.any() or last.any()):
            continue  # constants
        if first.all() or last.all() or not (last & ~first).any():
            return 0  # tokens are already mixed
        behind = tokens - 1 - int((last & ~first).nonzero().max())
        return behind if behind <= extra else 0
    return 0


def _token_changes(name: str, region: str, passes: Passes) -> Tensor:
    """Return the largest change of each token of a module's output after a region of the images was
    changed: [tokens]."""
    axis = 0 if passes.image_axis(Site(name)) == 1 else 1
    one, other = passes.two.output(name), passes.variant(region).output(name)
    changes = (one - other).abs() if one.is_floating_point() else (one != other).float()
    return changes.movedim(axis, 0).flatten(1).amax(dim=1)


def _are_in_order(name: str, passes: Passes) -> bool:
    """Return whether the tokens of a module are in the order of the image's patches; True where all
    tokens are mixed before.

    Of the latest tokens that are not all mixed, a change at the left margin of the image may change
    the first columns of their grid only. It changes others where windows follow one another (Hiera)
    or where columns are read before rows.
    """
    names = list(passes.two.modules)
    for earlier in reversed(names[: names.index(name) + 1]):
        value, axis = passes.two.modules[earlier].output, passes.image_axis(Site(earlier))
        if value is None or value.dim() != 3 or axis not in (0, 1):
            continue
        if (grid := token_grid(value.shape[1 - axis], passes.two)) is None:
            continue
        height, width, extra = grid
        behind = _count_tokens_behind(value.shape[1 - axis], extra, passes) if extra else 0
        changes = _token_changes(earlier, "left", passes).roll(behind)[extra:]
        if (changes > 0).any() and not (changes > 0).all():
            # some small effects of a mean over the image (FocalNet) are lost in rounding
            changed = changes > 0.01 * changes.max()
            columns = changed.view(height, width).any(dim=0).nonzero()
            # some tokens may not change, such as those of which a ReLU returns 0
            return (int(columns.max()) + 1) * height < 1.5 * int(changed.sum())
    return True


def _infer_grid(spatial: Shape, passes: Passes, tokens: bool) -> tuple[int, int, int]:
    """Return height and width of a map, and the number of tokens that have no position.

    The map of a one-dimensional convolution that is not a sequence of tokens is one column.
    """
    if len(spatial) != 1:
        height, width = (*spatial, 1, 1)[:2]
        return height, width, 0
    count = spatial[0]
    if (grid := token_grid(count, passes.two)) is not None:
        return grid
    if not tokens:
        return count, 1, 0
    # tokens not made by a convolution, but cut from the image by reshaping it: those that depend on
    # it, or all but at most two, are a map of its proportions
    of_image = _count_image_tokens(count, passes)
    rows, columns = (side // math.gcd(*passes.size) for side in passes.size)
    scale = math.isqrt(of_image // (rows * columns))
    height, width = scale * rows, scale * columns
    extra = count - height * width
    is_map = height * width == of_image < count or (min(height, width) > 3 and extra <= 2)
    shape = f"a map of {height} × {width}" if is_map else "one column, in their order"
    more = f" and {pluralise(extra, 'token')} without a position" * (is_map and extra > 0)
    logger.info("%d tokens that no convolution has made are treated as %s", count, shape + more)
    return (height, width, extra) if is_map else (count, 1, 0)


def _count_image_tokens(count: int, passes: Passes) -> int:
    """Return how many of a number of tokens depend on the image, where they are not mixed yet."""
    for name, record in passes.two.modules.items():
        value, axis = record.output, 0 if passes.image_axis(Site(name)) == 1 else 1
        if value is None or value.dim() != 3:
            continue
        if value.shape[axis] == count and value.shape[1 - axis] == 2:
            one, other = value.unbind(1 - axis)
            if number := int((one != other).any(dim=1).sum()):  # else they are constants
                return number
    return count


def _is_channels_last(name: str, site: Site, shape: Shape, passes: Passes) -> bool:
    """Infer the layout: the channel is the one dimension that the image's shape does not change."""
    if len(shape) == 2:
        return False
    tall = shape_in(passes.tall, site)
    if tall is not None and sorted(tall) != sorted(shape):
        return tall[1] != shape[1]
    # the network takes one image size only: use the sizes of its maps, or else the layout of the
    # latest module with a known one
    sizes = map_sizes(passes.two)
    if len(shape) == 4 and (shape[2:] in sizes) != (shape[1:3] in sizes):
        return shape[1:3] in sizes
    modules = passes.two.modules
    for earlier in reversed(list(modules)[: list(modules).index(site.module) + 1]):
        output = modules[earlier].output
        if modules[earlier].layout is None or output is None or output.dim() != len(shape):
            continue
        return bool(modules[earlier].layout)
    if len(shape) == 3:
        return True  # tokens
    raise ValueError(
        f"layer {name!r} returns shape {shape}, which does not show the dimension of the channels; "
        f'set it in the series: channels_last = {{ "{name}" = false }}'
    )


#: Limits of a patch: it must be large enough to be recognised, and smaller than the whole image.
SMALLEST_PATCH_PIXELS = 20
LARGEST_PATCH = 0.625
CONTEXT = 1.5


def measure_patches(model: nn.Module, layers: Sequence[Layer], view: View) -> list[Layer]:
    """Return the layers with `patch` set: 1.5 receptive fields, from 20 pixels to 5/8 of the view.

    Vectors, which have no positions in the image, keep 1 (the whole view). If values are detached,
    the receptive field cannot be measured, and the largest patch is used.
    """
    image = random_images(view, 2).requires_grad_()
    shorter = min(view.size)
    smallest = min(SMALLEST_PATCH_PIXELS / shorter, 1.0)
    largest = max(LARGEST_PATCH, smallest)
    recording = record_maps(model, layers, lambda maps, _: maps, shares_memory=True)

    def patch(layer: Layer) -> float:
        if layer.width == 1:
            return 1.0
        centre = layer.extra + (layer.height // 2) * layer.width + layer.width // 2
        target = layer.strength(maps[layer.name])[:, :, centre].sum()
        if not target.requires_grad:  # an earlier part of the network detaches its values
            return largest
        with explain_errors(model, image, f"for what neurons of layer {layer.name!r} see"):
            (gradient,) = torch.autograd.grad(
                target, image, retain_graph=True, materialize_grads=True
            )
        mask = (gradient != 0).any(dim=0).any(dim=0)
        extent = max(_extent(mask.any(dim=1)), _extent(mask.any(dim=0)))
        return min(max(CONTEXT * extent / shorter, smallest), largest)

    with borrow(model), torch.enable_grad(), recording as maps:
        with WithGradients():
            run_network(model, image, "to measure what neurons see")
        return [replace(layer, patch=patch(layer)) for layer in layers]


def _extent(mask: torch.Tensor) -> int:
    positions = mask.nonzero()
    return int(positions.max() - positions.min()) + 1 if len(positions) else 0
