"""Watch a network run once: what every module takes in and puts out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.networks.calls import NONLINEARITIES, is_activation
from harness.networks.recording import borrowed
from harness.networks.running import run_network
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

    def shapes(self) -> dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]]:
        """Module name -> shape of output and input; None where that is no tensor."""
        return {
            name: (_shape(seen.output), _shape(seen.input)) for name, seen in self.modules.items()
        }


def _shape(value: Tensor | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value.shape)


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
            self.add(result, name.rstrip("_"))
        return result

    def add(self, result: Tensor, name: str, instead_of: int = 0) -> None:
        """Remember a result; it takes the place of the last `instead_of` ones."""
        kept = len(self.results) - instead_of
        self.results[kept:], self.names[kept:] = [result], [name]

    def is_joined(self, value: object) -> bool:
        return any(value is joined for joined in self.joined[-8:])


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
                inner = len(mode.results) - started.pop()
                mode.add(output, type(module).__name__, getattr(module, "calls", inner))
            several = isinstance(output, tuple | list)
            output = output[0] if several and len(output) else output
            if name in watched.modules:
                watched.modules[name].calls += 1
                return
            watched.modules[name] = Seen(
                output=output if isinstance(output, Tensor) else None,
                input=inputs[0] if inputs and isinstance(inputs[0], Tensor) else None,
                nonlinear=not several and any(output is result for result in mode.results[-3:]),
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
    outputs = [seen.output for seen in watched.modules.values() if seen.calls == 1]
    watched.passed_over = [
        name
        for name, result in zip(mode.names, mode.results, strict=True)
        if not any(result is output for output in outputs)
    ]
    return watched


def _layout(module: nn.Module) -> bool | None:
    if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d | nn.AvgPool2d | nn.GroupNorm):
        return False
    return True if isinstance(module, nn.Linear | nn.LayerNorm) else None


def innermost(names: list[str], modules: Mapping[str, Seen]) -> list[str]:
    """Of modules that put out the very same tensor, the one that finished first."""
    chosen: list[str] = []
    for name in names:
        if not any(modules[name].output is modules[other].output for other in chosen):
            chosen.append(name)
    return chosen
