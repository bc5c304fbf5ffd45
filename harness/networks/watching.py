"""Record the input and output of every module of a network in a pass."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.images.batches import random_images
from harness.images.view import View
from harness.networks.budget import profile_events
from harness.networks.calls import is_activation
from harness.networks.layer import Side
from harness.networks.recording import borrow
from harness.networks.running import run_network
from harness.networks.written_out import (
    FOLLOWED,
    NONLINEARITIES,
    PARTS,
    Derivations,
    is_activation_call,
    plain_name,
)
from harness.registry import UserCodeError


@dataclass
class ModuleRecord:
    """One module in a pass; if it ran several times, its first call.

    Attributes:
        output: its output (the first, if there are several); None if that is not a tensor.
        input: its first argument; None if that is not a tensor.
        nonlinear: whether the output is the result of a non-linearity.
        calls: number of calls.
        layout: whether modules of its kind use channels-last maps; None if unknown.
        several: whether it returned several values.
        joined: whether the output is a concatenation of values that occur elsewhere, too, or its
            normalisation or activation.
    """

    output: Tensor | None
    input: Tensor | None
    nonlinear: bool
    calls: int
    layout: bool | None
    several: bool
    joined: bool = False


@dataclass(frozen=True)
class Site:
    """The place in a pass at which a value is recorded or replaced.

    Attributes:
        module: name of the module.
        side: its output (the first, if there are several) or its input.
        group: number of consecutive channels that form one unit, e.g. the size of a head.
    """

    module: str
    side: Side = "output"
    group: int = 1

    def value(self, record: ModuleRecord) -> Tensor | None:
        return record.output if self.side == "output" else record.input


Shape = tuple[int, ...]
#: Module name -> shapes of its output and input; None for what is not a tensor.
Shapes = Mapping[str, tuple[Shape | None, Shape | None]]


@dataclass
class PassRecord:
    """The record of one pass.

    Attributes:
        images: number of images.
        modules: by name, in the order in which they finished.
        unprobed: names of activation functions whose result no module that runs once returns.
        answer: the network's output; None if the network failed.
    """

    images: int
    modules: dict[str, ModuleRecord] = field(default_factory=dict)
    unprobed: list[str] = field(default_factory=list)
    answer: Any = None

    def output(self, name: str) -> Tensor:
        """Return the output of a module that is known to return a tensor."""
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
    """Records of passes on three batches: two images, three images (they show which dimension
    counts the images), and two taller images (they show which dimensions are positions).

    Attributes:
        two: record of the pass on two images.
        three, tall: shapes on the other batches; `tall` ends where the network failed, if it did.
        scripted: names of the functions compiled by `torch.jit` that are called, once per call.
        variant: function that returns the record of the pass on the two images after a REGION of
            them was changed.
        size: height and width of the two and of the three images, pixels.
    """

    two: PassRecord
    three: Shapes
    tall: Shapes
    scripted: list[str]
    variant: Callable[[str], PassRecord]
    size: tuple[int, int]

    def image_axis(self, site: Site) -> int | None:
        """Return the dimension of a value that counts the images; None if there is none."""
        two, three = site.value(self.two.modules[site.module]), shape_in(self.three, site)
        if two is None or three is None or two.dim() != len(three):
            return None
        axes = [i for i, (a, b) in enumerate(zip(two.shape, three, strict=True)) if a != b]
        return axes[0] if len(axes) == 1 and two.shape[axes[0]] == 2 else None


def shape_in(shapes: Shapes, site: Site) -> Shape | None:
    return shapes.get(site.module, (None, None))[site.side == "input"]


#: Parts of an image, one of `height` and `width` pixels at a corner or along a margin.
REGIONS: dict[str, Callable[[int, int], tuple[slice, slice]]] = {
    "upper left": lambda height, width: (slice(height), slice(width)),
    "lower right": lambda height, width: (slice(-height, None), slice(-width, None)),
    "left": lambda height, width: (slice(None), slice(width)),
}

#: Number of the profiler for events that are functions compiled by `torch.jit`.
_SCRIPTED = 2


def run_passes(model: nn.Module, view: View) -> Passes:
    """Record a network's passes on random images of a view's size."""
    images, tall = random_images(view, 3), random_images(view, 2, 1.5)

    @cache
    def variant(region: str) -> PassRecord:
        changed = images[:2].clone()
        height, width = (max(1, side // 16) for side in view.size)
        changed[:, :, *REGIONS[region](height, width)] += 1
        return record_pass(model, changed)

    scripted: list[str] = []

    def run_profiled(*arguments: Any) -> Any:
        answer, events = profile_events(partial(run_network, *arguments))
        scripted.extend(event.name() for event in events if event.scope() == _SCRIPTED)
        return answer

    return Passes(
        record_pass(model, images[:2]),
        record_pass(model, images, run=run_profiled).shapes(),
        record_pass(model, tall, partly=True).shapes(),
        scripted,
        variant,
        view.size,
    )


#: Functions whose result, if they get a concatenation, repeats its values.
_OF_JOINED = {"batchnorm", *NONLINEARITIES, *PARTS}


class _Nonlinearities(TorchFunctionMode):
    """Records the tensors that activation functions return, and the functions' names."""

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[Hashable, tuple[Tensor, str]] = {}  # by id
        # by id: concatenations, and their normalisations, activations and parts (DPN), which occur
        # elsewhere, too -> the concatenation;
        # concatenation -> its parts; part -> the number of its concatenations
        self._joined: dict[Hashable, Hashable] = {}
        self._parts: dict[Hashable, list[Hashable]] = {}
        self._uses = Counter[Hashable]()
        self._derivations = Derivations()
        self._constants = set[Hashable]()  # by id: computed from weights alone
        self._alive: list[object] = []  # keeps tensors, so that ids stay unique

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = plain_name(func)
        values = list(result) if isinstance(result, tuple | list) else [result]
        is_map = isinstance(result, Tensor) and result.dim() == 4  # 3-D values are joined by token
        if is_map and name in ("cat", "concat", "concatenate"):
            parts = list(args[0] if args else kwargs["tensors"])
            self._alive += [result, *parts]
            self._joined[id(result)], self._parts[id(result)] = id(result), [*map(id, parts)]
            self._uses.update(self._joined.get(part, part) for part in self._parts[id(result)])
        elif name in _OF_JOINED and args and id(args[0]) in self._joined:
            self._alive += values
            self._joined |= {id(value): self._joined[id(args[0])] for value in values}
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        inputs = [v for v in tensors if self._may_vary(v)]
        if tensors and not inputs:
            self._alive += values
            self._constants |= set(map(id, values))
        elif name in FOLLOWED and inputs:
            values = [args[0]] if name == "setitem" else values
            self._follow(name, is_activation_call(name, args, kwargs), inputs, values)
        return result

    def _follow(self, name: str, alone: bool, inputs: list[Tensor], values: Iterable[Any]) -> None:
        self._alive += [*inputs, *values]
        for value in values:
            parts = self._derivations.follow(id(value), name, [*map(id, inputs)], alone)
            if parts is not None and isinstance(value, Tensor):
                self.add(value, name if alone else f"written out, ending in {name}", parts)

    def add(self, result: Tensor, name: str, instead_of: Iterable[Hashable] = ()) -> None:
        """Record a result, in place of those in `instead_of`."""
        for key in instead_of:
            self.results.pop(key, None)
        self.results[id(result)] = result, name

    def _may_vary(self, value: Tensor) -> bool:
        """Return whether a value may depend on the images; weights, what is computed from them
        alone, and single numbers do not."""
        is_weight = isinstance(value, nn.Parameter) or id(value) in self._constants
        return value.numel() > 1 and not is_weight

    def joins_known_values(self, value: object) -> bool:
        """Return whether a value is a concatenation that is joined with more values later, or one
        of whose parts is an activation function's result, is joined itself, or is also a part of
        another concatenation (DenseNet)."""
        if id(value) not in self._joined:
            return False
        concatenation = self._joined[id(value)]
        return self._uses[concatenation] > 0 or any(
            self._uses[part] > 1 or part in self._joined or part in self.results
            for part in self._parts[concatenation]
        )


def record_pass(
    model: nn.Module,
    images: Tensor,
    partly: bool = False,
    run: Callable[..., Any] = run_network,
) -> PassRecord:
    """Run the network once, in evaluation mode and without gradients, and return the record.

    Args:
        images: [batch, channels, height, width].
        partly: if the network fails, return the record up to the error instead of raising it.
        run: runs the network as `run_network` does.

    Raises:
        UserCodeError: the network's code failed.
    """
    pass_record = PassRecord(len(images))
    mode = _Nonlinearities()

    def hook(name: str, written_out: bool):
        def record(module, inputs, output):
            if written_out and isinstance(output, Tensor):
                inner = list(mode.results)[result_counts.pop() :]
                mode.add(output, type(module).__name__, inner)
            several = isinstance(output, tuple | list)
            output = output[0] if several and len(output) else output
            if name in pass_record.modules:
                pass_record.modules[name].calls += 1
                return
            pass_record.modules[name] = ModuleRecord(
                output=output if isinstance(output, Tensor) else None,
                input=inputs[0] if inputs and isinstance(inputs[0], Tensor) else None,
                nonlinear=not several and id(output) in mode.results,
                calls=1,
                layout=_layout(module),
                several=several,
            )

        return record

    # number of results when each activation function in progress began
    result_counts: list[int] = []
    with ExitStack() as hooks, suppress(UserCodeError) if partly else nullcontext():
        for name, module in model.named_modules():
            if not name:
                continue
            if written_out := is_activation(module):
                note_start = lambda *_: result_counts.append(len(mode.results))  # noqa: E731
                hooks.enter_context(module.register_forward_pre_hook(note_start))
            hooks.enter_context(module.register_forward_hook(hook(name, written_out)))
        with borrow(model), torch.no_grad(), mode:
            pass_record.answer = run(model, images, "to see which layers it has")
    for seen in pass_record.modules.values():  # only now are all uses known
        seen.joined = mode.joins_known_values(seen.output)
    outputs = {id(s.output) for s in pass_record.modules.values() if s.nonlinear and s.calls == 1}
    results = mode.results.items()
    pass_record.unprobed = [name for key, (_, name) in results if key not in outputs]
    return pass_record


def _layout(module: nn.Module) -> bool | None:
    flat = nn.Conv1d | nn.BatchNorm1d | nn.MaxPool1d | nn.AvgPool1d | nn.GroupNorm
    if isinstance(module, flat | nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d | nn.AvgPool2d):
        return False
    return True if isinstance(module, nn.Linear | nn.LayerNorm) else None


def innermost_modules(names: list[str], modules: Mapping[str, ModuleRecord]) -> list[str]:
    """Return, of modules that return the same tensor object, the one that finished first."""
    selection: list[str] = []
    for name in names:
        if not any(modules[name].output is modules[other].output for other in selection):
            selection.append(name)
    return selection
