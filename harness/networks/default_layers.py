"""Which outputs of non-linearities are probed by default: those that are maps of concepts."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.networks.watching import Passes, PassRecord, Shape, Site, shape_in

#: Version of the rules; where it differs, the layers of a run are found again.
RULES_VERSION = 7
#: Largest number of tokens without a position in the image: class, distillation, registers.
EXTRA_TOKENS = 8
#: Largest number of times that a network halves the grid of patches.
HALVINGS = 4


def _count_positions(shape: Shape) -> int:
    """Return the number of tokens, or of positions of a map, channels first or last."""
    if len(shape) < 4:
        return shape[1] if len(shape) == 3 else 1
    return min(math.prod(shape[2:]), math.prod(shape[1:-1]))


def _mixes_images(passes: Passes, name: str) -> bool:
    """Return whether no dimension counts the images (windows), or the values are no floats."""
    axis, output = passes.image_axis(Site(name)), passes.two.output(name)
    sequence = axis == 1 and output.dim() == 3
    return not (axis == 0 or sequence) or not output.is_floating_point()


def _has_more_dimensions(passes: Passes, name: str) -> bool:
    """Return whether a value is neither a map, tokens nor a vector (windows, volumes)."""
    return passes.two.output(name).dim() not in (2, 3, 4)


def _has_no_position(passes: Passes, name: str) -> bool:
    """Return whether a layer is fully connected or has one position for any image size
    (squeeze-and-excitation).

    Such layers are left out if other layers have positions; the paper probes convolutions.
    """
    shape = passes.two.output(name).shape
    tall = shape_in(passes.tall, Site(name)) or shape
    return _count_positions(shape) == _count_positions(tall) == 1


def _is_joined(passes: Passes, name: str) -> bool:
    """Return whether a layer only concatenates (and normalises or activates) values that occur
    elsewhere, too, which are not new neurons (DenseNet). Branches that are joined once before their
    activation function are."""
    return passes.two.modules[name].joined


def _mixes_tokens(passes: Passes, name: str) -> bool:
    """Return whether the tokens of a layer are not image patches although those of other layers are
    (MLP-Mixer). The "positions" of such a layer are channels."""
    shape, axis = passes.two.output(name).shape, passes.image_axis(Site(name))
    if len(shape) != 3 or token_grid(shape[0 if axis == 1 else 1], passes.two):
        return False
    outputs = (
        (record.output, passes.image_axis(Site(n))) for n, record in passes.two.modules.items()
    )
    counts = {o.shape[1 - i] for o, i in outputs if o is not None and o.dim() == 3 and i in (0, 1)}
    return any(token_grid(count, passes.two) for count in counts)


def _is_cut_into_windows(passes: Passes, name: str) -> bool:
    """Return whether a map was cut into windows (MaxViT): rows are windows, columns positions."""
    shape, tall = passes.two.output(name).shape, shape_in(passes.tall, Site(name))
    if len(shape) != 4:
        return False
    if tall is not None and tall[3] != shape[3]:  # the width or channels of a map do not change
        return True
    if shape[2] == shape[3] or shape[1] == shape[2]:
        return False
    return not {shape[2:], shape[1:3]} & map_sizes(passes.two)


def _is_class_scores(passes: Passes, name: str) -> bool:
    """Return whether the mean of a map over positions is the network's output (SqueezeNet)."""
    answer, output = passes.two.answer, passes.two.output(name)
    if not isinstance(answer, Tensor) or output.dim() != 4 or answer.dim() != 2:
        return False
    pooled = output.mean(dim=(2, 3))
    return pooled.shape == answer.shape and torch.allclose(pooled, answer, rtol=1e-3, atol=1e-5)


#: Reasons for which a layer is left out by default, in the order in which they are checked.
RULES: dict[str, Callable[[Passes, str], bool]] = {
    "no batch dimension": _mixes_images,
    "more dimensions than a map": _has_more_dimensions,
    "no position in the image": _has_no_position,
    "a concatenation of earlier outputs": _is_joined,
    "mixes tokens": _mixes_tokens,
    "cut into windows": _is_cut_into_windows,
    "class scores": _is_class_scores,
}


def split_layers(names: Sequence[str], passes: Passes) -> tuple[list[str], dict[str, list[str]]]:
    """Split layers (modules that return the result of a non-linearity) into maps of concepts and
    others, with the rule of RULES that leaves each out."""
    has_positions = any(_count_positions(passes.two.output(name).shape) > 1 for name in names)
    rules = {text: r for text, r in RULES.items() if has_positions or r is not _has_no_position}
    maps: list[str] = []
    others: dict[str, list[str]] = {}
    for name in names:
        reason = next((text for text, rule in rules.items() if rule(passes, name)), None)
        (maps if reason is None else others.setdefault(reason, [])).append(name)
    return maps, others


def map_sizes(pass_record: PassRecord) -> set[Shape]:
    """Return the heights and widths of the outputs of convolutions and poolings of whole images."""
    outputs = [record.output for record in pass_record.modules.values() if record.layout is False]
    maps = [output for output in outputs if output is not None and output.dim() == 4]
    # TNT cuts each patch of each image into patches of its own
    return {tuple(map_.shape[2:]) for map_ in maps if len(map_) <= pass_record.images}


def token_grid(count: int, pass_record: PassRecord) -> tuple[int, int, int] | None:
    """Arrange a number of tokens as a grid: height, width, number of leading tokens without a
    position; None if they are not image patches.

    Tokens are the positions of a map into which a convolution has cut the image, or of such a map
    halved (Swin, LeViT), after at most EXTRA_TOKENS others.
    """
    sizes = {(int(h), int(w)) for h, w in map_sizes(pass_record)}
    grids = set(sizes)
    for _ in range(HALVINGS):
        grids |= {(-(-h // 2), -(-w // 2)) for h, w in grids}
    candidates = [(count - h * w, h, w) for h, w in grids if 0 <= count - h * w <= EXTRA_TOKENS]
    # by chance, small numbers fit halved maps of two rows, and maps of one row (pooled ones)
    smallest = {size: 2 if size in sizes else 3 for size in grids}
    candidates = [grid for grid in candidates if min(grid[1:]) >= smallest[grid[1:]]]
    if not candidates:
        return None
    extra, height, width = min(candidates)
    return height, width, extra
