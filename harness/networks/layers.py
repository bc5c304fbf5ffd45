"""Which modules of a network are probed, and the shape of what they put out."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.images.sets import View
from harness.networks.calls import NONLINEARITIES
from harness.registry import UserCodeError, call_users

logger = logging.getLogger(__name__)

#: Tokens that may stand before those of the image: class, distillation, registers.
EXTRA_TOKENS = 8


@dataclass(frozen=True)
class Layer:
    """A probed module, whose output is a map of `channels` neurons.

    Attributes:
        name: qualified module name.
        channels: number of neurons.
        height, width: size of the map (1 x 1 for vectors; tokens lie in a square where they fill
            one, after at most EXTRA_TOKENS that have no place: class, distillation, registers).
        channels_last: whether the output's last dimension is the channel.
        depth: position among the probed layers, 0 (first) to 1 (last).
        patch: side of the image part that a neuron responds to, as a fraction of the view (1
            until `receptive_field.with_patches` has measured it).
        extra: tokens before the map's, which have no place in the image.
    """

    name: str
    channels: int
    height: int
    width: int
    channels_last: bool
    depth: float = 0.0
    patch: float = 1.0
    extra: int = 0

    def channel_first(self, output: Tensor) -> Tensor:
        """The output as [batch, channels, positions], a view where the memory allows."""
        if output.dim() == 2:
            return output.unsqueeze(2)
        if self.channels_last:
            output = output.movedim(-1, 1)
        return output.flatten(2)

    def like_output(self, maps: Tensor, output: Tensor) -> Tensor:
        """Maps [batch, channels, positions] back in the shape of `output`."""
        if output.dim() == 2:
            return maps.squeeze(2)
        if not self.channels_last:
            return maps.reshape(output.shape)
        spatial = output.shape[1:-1]
        return maps.reshape(*maps.shape[:2], *spatial).movedim(1, -1)


def find_layers(
    model: nn.Module,
    view: View,
    patterns: Sequence[str] | None = None,
    channels_last: Mapping[str, bool] | None = None,
) -> list[Layer]:
    """The layers to probe, in the order in which they run.

    By default, for each non-linearity call, the innermost module that runs once and whose output
    is the result of that call: the activation module itself where it has one call (VGG), else the
    block that ends in it (ResNet, whose blocks call one ReLU several times, and Inception, which
    calls a function).

    Args:
        model: the network; nothing of it changes.
        view: the size of its input.
        patterns: module names or shell patterns ("features.*") instead of the default.
        channels_last: by pattern, for layers whose layout cannot be told from the shape.

    Raises:
        ValueError: a pattern that matches no module, no non-linearity found, an output that is not
            a tensor of 2 to 4 dimensions, a layout that cannot be told.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.rand(2, view.channels, view.crop, view.crop)
        tall = torch.rand(2, view.channels, view.crop + view.crop // 2, view.crop)
    outputs, passed_over = _watch(model, image)
    if patterns is None:
        names = [name for name, seen in outputs.items() if seen.nonlinear and seen.calls == 1]
        names = _innermost(names, outputs)
        names, no_maps = _concept_maps(names, outputs, _watch(model, tall, partly=True)[0])
        for why, which in no_maps.items():
            logger.warning("%d layers are not probed by default (%s): %s", len(which), why,
                           ", ".join(which[:8]) + ", …" * (len(which) > 8))  # fmt: skip
        if not names:
            some = ", ".join(list(outputs)[:12])
            raise ValueError(
                f"no module of the model puts out a non-linearity's result; name the layers to "
                f"probe: layers = [...]; the model's modules are {some}, …"
            )
        if passed_over:
            logger.warning(
                "%d of %d calls of activation functions are inside a block that is probed as a "
                "whole or cannot be probed, and are passed over: %s",
                len(passed_over),
                len(passed_over) + len(names),
                _counted(passed_over),
            )
    else:
        names = []
        for pattern in patterns:
            matched = [name for name in outputs if fnmatchcase(name, pattern)]
            if not matched:
                some = ", ".join(list(outputs)[:12])
                raise ValueError(f"no layer matches {pattern!r}; the model's are {some}, ...")
            names += [name for name in matched if name not in names]
        names.sort(key=list(outputs).index)
        repeated = [name for name in names if outputs[name].calls > 1]
        if repeated:
            raise ValueError(
                f"{', '.join(repeated)} runs more than once a pass; name the block around it"
            )
    layers: list[Layer] = []
    for name in names:
        shape = outputs[name].shape
        if len(shape) not in (2, 3, 4):
            raise ValueError(
                f"layer {name!r} puts out shape {shape}; 2 to 4 dimensions can be used"
            )
        last = _stated(name, channels_last or {})
        if last is None:
            last = _is_channels_last(model, name, outputs, tall)
        channels, spatial = (shape[-1], shape[1:-1]) if last else (shape[1], shape[2:])
        height, width, extra = _grid(spatial, _patch_grid(outputs))
        depth = len(layers) / max(1, len(names) - 1)
        layers.append(Layer(name, channels, height, width, last, depth, extra=extra))
    return layers


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in Counter(names).most_common())


def _concept_maps(
    names: Sequence[str], outputs: Mapping[str, _Seen], larger: Mapping[str, _Seen]
) -> tuple[list[str], dict[str, list[str]]]:
    """Those of the layers that are maps of concepts, and why the others are not.

    - Where other layers have a place in the image, those that have none are left out: fully
      connected ones (the paper probes convolutions), and maps that have one position however
      large the image is (squeeze-and-excitation).
    - Where earlier outputs are concatenated, what comes is a copy of them, not new neurons.
    - Where the image is cut into patches, layers whose tokens are not these patches mix tokens
      (MLP-Mixer): their "positions" are channels.
    """
    shapes = {name: outputs[name].shape for name in names}
    placed = [n for n, shape in shapes.items() if len(shape) > 2 and math.prod(shape[2:]) > 1]
    patches = _patch_grid(outputs)
    tokens = range(0) if patches is None else _tokens_of(patches)
    kept: list[str] = []
    left: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        grown = larger[name].shape if name in larger else shape
        if placed and name not in placed and math.prod(grown[2:]) == 1:
            left.setdefault("no place in the image", []).append(name)
        elif outputs[name].joined:
            left.setdefault("a concatenation of earlier outputs", []).append(name)
        elif len(shape) == 3 and patches is not None and shape[1] not in tokens:
            left.setdefault("mixes tokens", []).append(name)
        else:
            kept.append(name)
    return kept, left


def _patch_grid(outputs: Mapping[str, _Seen]) -> tuple[int, int] | None:
    """Height and width of the patches into which a network cuts the image before it makes tokens of
    them: the map of the last convolution, where its positions are the tokens of a layer."""
    maps = [s.shape[2:] for s in outputs.values() if s.layout is False and len(s.shape) == 4]
    lengths = {s.shape[1] for s in outputs.values() if len(s.shape) == 3}
    fitting = [grid for grid in maps if lengths & set(_tokens_of((grid[0], grid[1])))]
    return (fitting[-1][0], fitting[-1][1]) if fitting else None


def _tokens_of(patches: tuple[int, int]) -> range:
    count = math.prod(patches)
    return range(count, count + EXTRA_TOKENS + 1)


def _grid(spatial: tuple[int, ...], patches: tuple[int, int] | None) -> tuple[int, int, int]:
    """Height and width of a map, and how many tokens before it have no place in the image."""
    if len(spatial) != 1:
        return (*spatial, 1, 1)[0], (*spatial, 1, 1)[1], 0
    if patches is not None and spatial[0] in _tokens_of(patches):
        return *patches, spatial[0] - math.prod(patches)
    # cut by other means than a convolution: a square, after a class token and perhaps another
    side = math.isqrt(spatial[0])
    extra = spatial[0] - side**2
    return (side, side, extra) if side > 3 and extra <= 2 else (spatial[0], 1, 0)


@dataclass
class _Seen:
    shape: tuple[int, ...]
    output: Tensor
    nonlinear: bool
    calls: int
    layout: bool | None
    joined: bool


class _Nonlinearities(TorchFunctionMode):
    """Remembers the tensors that non-linearities return, and the functions' names."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Tensor] = []  # kept alive, so that ids stay unique
        self.names: list[str] = []
        self.joined: list[Tensor] = []  # concatenations, and what normalisations make of them

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        maps = isinstance(result, Tensor) and result.dim() == 4  # joined by channel, not by token
        if maps and (
            name in ("cat", "concat", "concatenate")
            or (args and name in ("batch_norm", *NONLINEARITIES) and self.is_joined(args[0]))
        ):
            self.joined.append(result)
        if name in NONLINEARITIES and isinstance(result, Tensor):
            self.results.append(result)
            self.names.append(name.rstrip("_"))
        return result

    def is_joined(self, value: object) -> bool:
        return any(value is joined for joined in self.joined[-8:])


def _watch(
    model: nn.Module, image: Tensor, partly: bool = False
) -> tuple[dict[str, _Seen], list[str]]:
    """What each module puts out, in the order of finishing, and whether it is a non-linearity's.

    Args:
        partly: return what was seen before an error of the network instead of raising it.

    Returns:
        Module name -> what was seen, and the names of the activation functions whose result is no
        module's output.
    """
    seen: dict[str, _Seen] = {}
    mode = _Nonlinearities()

    def hook(name: str):
        def record(module, inputs, output):
            if not isinstance(output, Tensor):
                return
            if name in seen:
                seen[name].calls += 1
                return
            nonlinear = any(output is result for result in mode.results[-3:])
            joined = mode.is_joined(output)
            seen[name] = _Seen(tuple(output.shape), output, nonlinear, 1, _layout(module), joined)

        return record

    handles = [m.register_forward_hook(hook(name)) for name, m in model.named_modules() if name]
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), mode:
            call_users(f"the network on images of shape {tuple(image.shape)}", model, image)
    except UserCodeError:
        if not partly:
            raise
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in training.items():
            module.training = flag
    outputs = [one.output for one in seen.values() if one.calls == 1]
    passed_over = [
        name
        for name, result in zip(mode.names, mode.results, strict=True)
        if not any(result is output for output in outputs)
    ]
    return seen, passed_over


def _layout(module: nn.Module) -> bool | None:
    """Whether a module's maps are channels-last by its kind; None where that cannot be told."""
    if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d | nn.AvgPool2d | nn.GroupNorm):
        return False
    return True if isinstance(module, nn.Linear | nn.LayerNorm) else None


def _innermost(names: list[str], outputs: dict[str, _Seen]) -> list[str]:
    """Of modules that put out the very same tensor, the one that finished first."""
    chosen: list[str] = []
    for name in names:
        if not any(outputs[name].output is outputs[other].output for other in chosen):
            chosen.append(name)
    return chosen


def _stated(name: str, layouts: Mapping[str, bool]) -> bool | None:
    return next((last for pattern, last in layouts.items() if fnmatchcase(name, pattern)), None)


def _is_channels_last(
    model: nn.Module, name: str, outputs: Mapping[str, _Seen], tall: Tensor
) -> bool:
    """Tell the layout: the channel is the one dimension that does not follow the image's shape."""
    shape = outputs[name].shape
    if len(shape) == 3:
        return True  # tokens
    if len(shape) == 2:
        return False
    if shape[2] == shape[3] != shape[1]:
        return False
    if shape[1] == shape[2] != shape[3]:
        return True
    watched, _ = _watch(model, tall, partly=True)
    if name in watched:
        return watched[name].shape[1] != shape[1]
    # the network takes one size alone: what the layer's map was made by tells, too
    before = list(outputs)[: list(outputs).index(name) + 1]
    for earlier in reversed(before):
        if outputs[earlier].layout is not None and len(outputs[earlier].shape) == 4:
            return bool(outputs[earlier].layout)
    raise ValueError(
        f"layer {name!r} puts out shape {shape}: cannot tell which dimension holds its channels; "
        f'say it in the series: channels_last = {{ "{name}" = false }}'
    )
