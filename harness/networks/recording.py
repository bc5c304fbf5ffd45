"""Borrow a model: hooks, modes and gradient flags are restored afterwards."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from harness.networks.layer import Layer, Side
from harness.networks.running import network_name, run_network
from harness.registry import UserCodeError, call_user_code

T = TypeVar("T")


@contextmanager
def borrow(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the model in evaluation mode and without parameter gradients, then restore it.

    Meanwhile the transformer layers of `torch.nn` run module by module, because hooks are not
    called in their fused form, and parts compiled by `torch.compile` run as Python code, because
    their activation functions cannot be seen and their hooks not be changed.
    """
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    fused = torch.backends.mha.get_fastpath_enabled()
    _set_evaluation_mode(model)
    model.requires_grad_(False)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _run_compiled_parts_as_python():
            yield model
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


@contextmanager
def _run_compiled_parts_as_python() -> Iterator[None]:
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; importing it takes seconds
        yield
        return
    with (
        torch.compiler.set_stance("force_eager"),
        torch._dynamo.config.patch(error_on_nested_fx_trace=False),  # such code can be traced
    ):
        yield


def _set_evaluation_mode(model: nn.Module) -> None:
    """Raise UserCodeError if the network's own methods `train` and `eval` do something else."""
    name = network_name(model)
    call = (
        f"{name}{': ' * bool(name)}eval(), by which torch sets the evaluation mode (methods of "
        f"another purpose need other names than train and eval),"
    )
    call_user_code(call, model.eval)
    if model.training:
        raise UserCodeError(f"{call} leaves the network in training mode")


@contextmanager
def attach_hooks(
    model: nn.Module, hooks: Mapping[Layer, Callable[[Tensor], Tensor | None]]
) -> Iterator[None]:
    """Call a function with the value of each layer; what it returns replaces the value.

    Raises:
        ValueError: the model does not have a layer, or runs its module on some of the images only
            (mixture of experts), on parts of the batch, or not once in a pass.
    """
    modules = dict(model.named_modules())
    images, runs = 0, Counter[Layer]()

    def start(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal images
        images = len(inputs[0])
        runs.clear()

    def refuse_other_runs(module: nn.Module, inputs: Any, output: Any) -> None:
        for layer in hooks:  # a value would be that of earlier images, or of the last run alone
            if runs[layer] != 1:
                raise UserCodeError(
                    f"layer {layer.name!r} runs {runs[layer]} times on some images, and once on "
                    f"others, so it cannot be probed: name other layers, layers = [...]"
                )

    def apply(
        layer: Layer, action: Callable[[Tensor], Tensor | None], value: Tensor
    ) -> Tensor | None:
        if (count := value.shape[layer.sequence_first]) != images:
            raise UserCodeError(
                f"layer {layer.name!r} runs on {count} images where the network is given {images}, "
                f"so it cannot be probed: name other layers, layers = [...]"
            )
        runs[layer] += 1
        return action(value)

    with ExitStack() as lifetime:
        lifetime.enter_context(model.register_forward_pre_hook(start))
        lifetime.enter_context(model.register_forward_hook(refuse_other_runs))
        for layer, action in hooks.items():
            if layer.module not in modules:
                name = network_name(model) or "the model"
                raise ValueError(
                    f"{name} has no layer {layer.name!r}: all epochs of a series must have the "
                    f"layers of the last one"
                )
            handle = _hook(modules[layer.module], layer.side, partial(apply, layer, action))
            lifetime.enter_context(handle)
        yield


def replace_first(values: tuple | list, first: Any) -> Any:
    """Return a tuple, named tuple or list with another first element."""
    build = getattr(values, "_make", type(values))  # a named tuple takes its elements one by one
    return build([first, *values[1:]])


def _hook(module: nn.Module, side: Side, action: Callable[[Tensor], Tensor | None]):
    """Hook a module's first argument, or its output (if it returns several values, the first)."""

    def act(module: nn.Module, inputs: tuple[Any, ...], *outputs: Any) -> Any:
        values = outputs[0] if outputs else inputs
        if not isinstance(values, tuple | list):
            return action(values)
        replacement = action(values[0])
        return None if replacement is None else replace_first(values, replacement)

    if side == "input":
        return module.register_forward_pre_hook(act)
    return module.register_forward_hook(act)


@contextmanager
def record_maps(
    model: nn.Module,
    layers: Sequence[Layer],
    keep: Callable[[Tensor, Layer], T],
    shares_memory: bool = False,
    start_gradient: bool = False,
) -> Iterator[dict[str, T]]:
    """Keep a function of each layer's output at each forward pass in the block.

    Args:
        model: any module.
        layers: the layers to record.
        keep: function of a layer's map (as `Layer.channel_first` returns it, [batch, units,
            positions]) and the layer. Its result must not share memory with the map unless
            `shares_memory` is set.
        shares_memory: the kept value is (a view of) the map itself. The network then continues with
            a copy, so that later in-place operations do not change the kept value.
        start_gradient: let gradients start at the layers (for `torch.autograd.grad` with respect to
            the kept maps); for a borrowed model, whose parameters have no gradients.

    Yields:
        Layer name -> value kept at the last forward pass.

    Example:
        >>> with record_maps(model, layers, keep=lambda maps, layer: maps.amax(2)) as kept:
        ...     model(batch)
        >>> kept["features.3"].shape  # [batch, channels]
    """
    kept: dict[str, T] = {}

    def record(layer: Layer, output: Tensor) -> Tensor | None:
        if not shares_memory:  # of a part of the network under torch.enable_grad()
            output = output.detach()
        if start_gradient and not output.requires_grad:
            output = output.detach().requires_grad_()
        maps = layer.channel_first(output)
        kept[layer.name] = keep(maps, layer)
        # from `maps`, not from `output`: the logits must depend on the kept value
        return layer.like_output(maps, output).clone() if shares_memory else None

    with attach_hooks(model, {layer: partial(record, layer) for layer in layers}):
        yield kept


def record_layers(
    model: nn.Module,
    layers: Sequence[Layer],
    keep: Callable[[Tensor, Layer], T],
    batch: Tensor,
    purpose: str,
) -> dict[str, T]:
    """Run a model once, without gradients, and return layer name -> what is kept of its map (see
    `record_maps`). The purpose completes the message of an error."""
    with borrow(model), torch.no_grad(), record_maps(model, layers, keep) as kept:
        run_network(model, batch, purpose)
    return kept
