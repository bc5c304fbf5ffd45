"""Watch a network run once: what every module takes in and puts out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.images.batches import random_images
from harness.images.sets import View
from harness.networks.calls import is_activation
from harness.networks.layer import Side
from harness.networks.recording import borrowed
from harness.networks.running import run_network
from harness.networks.written_out import (
    FOLLOWED,
    NONLINEARITIES,
    Ways,
    is_activation_call,
    plain_name,
)
from harness.registry import UserCodeError


@dataclass
class Seen:
    """One module, as it ran.

    Attributes:
        output: what it put out (of several things the first), where that is a tensor.
        input: what it took in, where that is a tensor.
        nonlinear: whether the output is the result of a non-linearity.
        calls: how often it ran.
        layout: whether its maps are channels-last by its kind; None where that cannot be told.
        joined: whether the output is a concatenation of earlier ones, or an activation of it.
        several: whether it put out several things.
    """

    output: Tensor | None
    input: Tensor | None
    nonlinear: bool
    calls: int
    layout: bool | None
    joined: bool
    several: bool


@dataclass(frozen=True)
class Site:
    """Where in a pass a value is read and changed.

    Attributes:
        module: whose call.
        side: its output (of several things the first) or its input.
        group: consecutive channels that make one unit, e.g. the size of a head.
    """

    module: str
    side: Side = "output"
    group: int = 1

    def value(self, seen: Seen) -> Tensor | None:
        return seen.output if self.side == "output" else seen.input


Shape = tuple[int, ...]
#: Module name -> shape of output and input; None where that is no tensor.
Shapes = Mapping[str, tuple[Shape | None, Shape | None]]


@dataclass
class Watched:
    """A pass.

    Attributes:
        modules: by name, in the order of finishing.
        passed_over: names of the activation functions whose result is no module's output.
        answer: of the network; None where it failed.
    """

    modules: dict[str, Seen] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)
    answer: Any = None

    def output(self, name: str) -> Tensor:
        """What a module put out of which that is known to be a tensor."""
        value = self.modules[name].output
        assert value is not None
        return value

    def shapes(self) -> Shapes:
        return {
            name: (_shape(seen.output), _shape(seen.input)) for name, seen in self.modules.items()
        }


def _shape(value: Tensor | None) -> Shape | None:
    return None if value is None else tuple(value.shape)


@dataclass(frozen=True)
class Passes:
    """What was seen of a network on three batches: two images, three images (of which values are
    rows an image?), and two tall ones (which dimensions follow the image?), as far as it got.

    Attributes:
        two: on two images.
        three, tall: shapes of what modules put out and took in.
        marked: what is seen on the two images with another upper left (False) or lower right
            (True) corner.
    """

    two: Watched
    three: Shapes
    tall: Shapes
    marked: Callable[[bool], Watched]

    def image_axis(self, site: Site) -> int | None:
        """Which dimension of a value counts the images; None where there is none."""
        two, three = site.value(self.two.modules[site.module]), shape_in(self.three, site)
        if two is None or three is None or two.dim() != len(three):
            return None
        follows = [i for i, (a, b) in enumerate(zip(two.shape, three, strict=True)) if a != b]
        return follows[0] if len(follows) == 1 and two.shape[follows[0]] == 2 else None


def shape_in(shapes: Shapes, site: Site) -> Shape | None:
    return shapes.get(site.module, (None, None))[site.side == "input"]


def run_passes(model: nn.Module, view: View) -> Passes:
    """Watch a network on random images of a view's size."""
    side = view.crop
    images, tall = random_images(view, 3), random_images(view, 2, side + side // 2)

    @cache
    def marked(last: bool) -> Watched:
        corner = slice(-max(1, side // 16), None) if last else slice(max(1, side // 16))
        other = images[:2].clone()
        other[:, :, corner, corner] += 1
        return watch(model, other)

    return Passes(
        watch(model, images[:2]),
        watch(model, images).shapes(),
        watch(model, tall, partly=True).shapes(),
        marked,
    )


class _Nonlinearities(TorchFunctionMode):
    """Remembers the tensors that activation functions return, and what these are called."""

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[Hashable, tuple[Tensor, str]] = {}  # by id
        self.joined: list[Tensor] = []  # concatenations, and what normalisations make of them
        self._ways = Ways()
        self._alive: list[object] = []  # so that ids stay unique

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = plain_name(func)
        maps = isinstance(result, Tensor) and result.dim() == 4  # joined by channel, not by token
        if maps and (
            name in ("cat", "concat", "concatenate")
            or (args and name in ("batchnorm", *NONLINEARITIES) and self.is_joined(args[0]))
        ):
            self.joined.append(result)
        inputs = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and _varies(v)]
        if name in FOLLOWED and inputs:
            values = result if isinstance(result, tuple | list) else [result]
            self._follow(name, is_activation_call(name, args, kwargs), inputs,
                         [args[0]] if name == "setitem" else values)  # fmt: skip
        return result

    def _follow(self, name: str, alone: bool, inputs: list[Tensor], values: Iterable[Any]) -> None:
        self._alive += [*inputs, *values]
        for value in values:
            within = self._ways.follow(id(value), name, [*map(id, inputs)], alone)
            if within is not None and isinstance(value, Tensor):
                self.add(value, name if alone else f"written out, ending in {name}", within)

    def add(self, result: Tensor, name: str, instead_of: Iterable[Hashable] = ()) -> None:
        """Remember a result; it takes the place of others."""
        for key in instead_of:
            self.results.pop(key, None)
        self.results[id(result)] = result, name

    def is_joined(self, value: object) -> bool:
        return any(value is joined for joined in self.joined[-8:])


def _varies(value: Tensor) -> bool:
    """Whether a value depends on the images, as far as it can be told: constants and weights do
    not."""
    return value.numel() > 1 and not isinstance(value, nn.Parameter)


def watch(model: nn.Module, images: Tensor, partly: bool = False) -> Watched:
    """Run the network once, in evaluation mode and without gradients.

    Args:
        images: [batch, channels, height, width].
        partly: return what was seen before an error of the network instead of raising it.

    Raises:
        UserCodeError: the network's code failed.
    """
    watched = Watched()
    mode = _Nonlinearities()

    def hook(name: str, written_out: bool):
        def record(module, inputs, output):
            if written_out and isinstance(output, Tensor):
                inner = list(mode.results)[started.pop() :]
                mode.add(output, type(module).__name__, inner)
            several = isinstance(output, tuple | list)
            output = output[0] if several and len(output) else output
            if name in watched.modules:
                watched.modules[name].calls += 1
                return
            watched.modules[name] = Seen(
                output=output if isinstance(output, Tensor) else None,
                input=inputs[0] if inputs and isinstance(inputs[0], Tensor) else None,
                nonlinear=not several and id(output) in mode.results,
                calls=1,
                layout=_layout(module),
                joined=mode.is_joined(output),
                several=several,
            )

        return record

    started: list[int] = []  # how many results there were when an activation function began
    handles = []
    for name, module in model.named_modules():
        if written_out := bool(name) and is_activation(module):
            begin = lambda *_: started.append(len(mode.results))  # noqa: E731
            handles.append(module.register_forward_pre_hook(begin))
        if name:
            handles.append(module.register_forward_hook(hook(name, written_out)))
    try:
        with borrowed(model), torch.no_grad(), mode:
            watched.answer = run_network(model, images, "to see which layers it has")
    except UserCodeError:
        if not partly:
            raise
    finally:
        for handle in handles:
            handle.remove()
    outputs = {id(s.output) for s in watched.modules.values() if s.nonlinear and s.calls == 1}
    results = mode.results.items()
    watched.passed_over = [name for key, (_, name) in results if key not in outputs]
    return watched


def _layout(module: nn.Module) -> bool | None:
    if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d | nn.AvgPool2d | nn.GroupNorm):
        return False
    if isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.MaxPool1d | nn.AvgPool1d):
        return False
    return True if isinstance(module, nn.Linear | nn.LayerNorm) else None


def innermost(names: list[str], modules: Mapping[str, Seen]) -> list[str]:
    """Of modules that put out the very same tensor, the one that finished first."""
    chosen: list[str] = []
    for name in names:
        if not any(modules[name].output is modules[other].output for other in chosen):
            chosen.append(name)
    return chosen
