"""Borrow a model: hooks, modes and gradient flags that go back to what they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from harness.networks.layers import Layer

T = TypeVar("T")


@contextmanager
def borrowed(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode and without parameter gradients, as it was afterwards."""
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    model.requires_grad_(False)
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


@contextmanager
def hooked(
    model: nn.Module, hooks: Mapping[str, Callable[[Tensor], Tensor | None]]
) -> Iterator[None]:
    """Call a function with the output of each named module; what it returns takes its place.

    Raises:
        ValueError: a module name that the model does not have.
    """
    modules = dict(model.named_modules())
    with ExitStack() as lifetime:
        for name, action in hooks.items():
            if name not in modules:
                raise ValueError(f"the model has no layer {name!r}; see `layers.find_layers`")
            handle = modules[name].register_forward_hook(
                lambda module, inputs, output, action=action: action(output)
            )
            lifetime.callback(handle.remove)
        yield


class ActivationRecorder(Generic[T]):
    """While open, keeps something of what each layer puts out at each forward pass.

    Args:
        model: any module.
        layers: the layers to record.
        keep: what to keep of a layer's map, given channel-first as [batch, channels, positions]
            and the layer. What it returns must not share memory with the map unless
            `shares_memory` says so.
        shares_memory: the kept value is (a view of) the map itself. The network then goes on with
            a copy, so that in-place operations behind the layer do not alter what was kept.
        start_gradient: let gradients start at the layers (for `torch.autograd.grad` towards the
            kept maps); meant for a `borrowed` model, whose parameters take none.

    Attributes:
        kept: layer name -> what was kept at the last forward pass.

    Example:
        >>> with ActivationRecorder(model, layers, keep=lambda maps, layer: maps.amax(2)) as record:
        ...     model(batch)
        >>> record.kept["features.3"].shape  # [batch, channels]
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        keep: Callable[[Tensor, Layer], T],
        shares_memory: bool = False,
        start_gradient: bool = False,
    ) -> None:
        self.kept: dict[str, T] = {}
        self._keep = keep
        self._shares_memory = shares_memory
        self._start_gradient = start_gradient
        self._lifetime = hooked(model, {layer.name: self._hook(layer) for layer in layers})

    def _hook(self, layer: Layer) -> Callable[[Tensor], Tensor | None]:
        def record(output: Tensor) -> Tensor | None:
            if self._start_gradient and not output.requires_grad:
                output = output.detach().requires_grad_()
            maps = layer.channel_first(output)
            self.kept[layer.name] = self._keep(maps, layer)
            # from `maps`, not from `output`: what was kept must lie on the way to the logits
            return layer.like_output(maps, output).clone() if self._shares_memory else None

        return record

    def __enter__(self) -> ActivationRecorder[T]:
        self._lifetime.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._lifetime.__exit__(*error)
