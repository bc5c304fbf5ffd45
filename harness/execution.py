"""Run a model once, then again and again with some layers' outputs changed.

Only what a change reaches is computed again: the model is traced with `torch.fx`, the values that
the unperturbed run had just before each probed layer's successors are kept, and the layer's
descendants alone are re-run. A model that cannot be traced is run in full with hooks, with the
same answers.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from harness.activations import borrowed, hooked
from harness.layers import Layer

#: Turns a layer's output, as the network has it at that moment, into what the network goes on with.
Change = Callable[[Tensor], Tensor]


class Execution(ABC):
    """A model on one batch. Use `execution` to make one."""

    @abstractmethod
    def start(self, batch: Tensor) -> Tensor:
        """Run unperturbed: logits [batch, classes]. Later calls refer to this batch."""

    @abstractmethod
    def output(self, layer: str) -> Tensor:
        """The layer's unperturbed output, in the network's own shape."""

    @abstractmethod
    def rerun(self, changes: Mapping[str, Change]) -> Tensor:
        """Logits [batch, classes] with each named layer's output changed."""


@contextmanager
def execution(
    model: nn.Module, layers: Sequence[Layer], traced: bool = True
) -> Iterator[Execution]:
    """Borrow a model (evaluation mode, no parameter gradients) for repeated execution.

    Args:
        model: the network; it must return logits [batch, classes].
        layers: those whose output will be asked for or changed.
        traced: try `torch.fx`; False runs in full with hooks.
    """
    names = [layer.name for layer in layers]
    with borrowed(model):
        graph = _trace(model, names) if traced else None
        if graph is None:
            yield _Hooked(model, names)
            return
        inplace: list[Any] = [m for m in model.modules() if getattr(m, "inplace", False) is True]
        for module in inplace:
            module.inplace = False  # the values kept must not be overwritten
        try:
            yield _Traced(model, *graph)
        finally:
            for module in inplace:
                module.inplace = True


def _logits(output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2:
        raise ValueError(
            f"the model must return logits [batch, classes], got "
            f"{tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__}"
        )
    return output


class _Hooked(Execution):
    """Every re-run is a full forward pass."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model = model
        self._names = names
        self._outputs: dict[str, Tensor] = {}

    def start(self, batch: Tensor) -> Tensor:
        self._batch = batch

        def keep(name: str) -> Change:
            def action(output: Tensor) -> Tensor:
                self._outputs[name] = output
                return output.clone()  # in-place operations must not reach what was kept

            return action

        with hooked(self._model, {name: keep(name) for name in self._names}):
            return _logits(self._model(batch))

    def output(self, layer: str) -> Tensor:
        return self._outputs[layer]

    def rerun(self, changes: Mapping[str, Change]) -> Tensor:
        with hooked(self._model, changes):
            return _logits(self._model(self._batch))


class _Tracer(fx.Tracer):
    """Traces, and notes the node that holds each module's output."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, fx.Node] = {}

    def call_module(self, m, forward, args, kwargs):
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.outputs[self.path_of_module(m)] = result.node
        return result


#: In-place functions and what stands for them.
_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def _trace(model: nn.Module, names: Sequence[str]) -> tuple[fx.Graph, dict[str, fx.Node]] | None:
    """The graph without in-place operations and each layer's node; None if not to be had."""
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception:  # tracing runs the user's code on proxies, which can fail in any way
        return None
    if not all(name in tracer.outputs for name in names):
        return None
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = _OUT_OF_PLACE.get(node.target, node.target)
            if node.kwargs.get("inplace"):
                node.update_kwarg("inplace", False)
        if _overwrites(node):
            return None
    return graph, {name: tracer.outputs[name] for name in names}


def _overwrites(node: fx.Node) -> bool:
    """Whether the node may still write to its input."""
    if node.op == "call_method":
        return str(node.target).endswith("_") or str(node.target).startswith("__i")
    if node.op == "call_function":
        name = str(getattr(node.target, "__name__", ""))
        return (name.endswith("_") and not name.endswith("__")) or name == "setitem"
    return False


class _Traced(Execution):
    """Every re-run executes the descendants of the changed layers only."""

    def __init__(self, model: nn.Module, graph: fx.Graph, layers: dict[str, fx.Node]) -> None:
        self._modules = dict(model.named_modules())
        self._model = model
        self._order = list(graph.nodes)
        self._layers = layers
        self._descendants = {name: _descendants(node) for name, node in layers.items()}
        self._kept_nodes = set(layers.values())
        for reached in self._descendants.values():
            for node in reached:
                self._kept_nodes |= set(node.all_input_nodes) - reached
        self._kept: dict[fx.Node, Any] = {}
        self._plans: dict[frozenset[str], tuple[list[fx.Node], dict[fx.Node, list[fx.Node]]]] = {}

    def start(self, batch: Tensor) -> Tensor:
        self._kept = {}
        values: dict[fx.Node, Any] = {}
        inputs = iter([batch])
        last_use = _last_use(self._order)
        for node in self._order:
            if node.op == "placeholder":
                values[node] = next(inputs, *node.args)
            else:
                values[node] = self._run(node, values)
            if node in self._kept_nodes:
                self._kept[node] = values[node]
            for done in last_use.get(node, ()):
                del values[done]
            if node.op == "output":
                return _logits(values[node])
        raise AssertionError("a graph ends in its output")

    def output(self, layer: str) -> Tensor:
        return self._kept[self._layers[layer]]

    def rerun(self, changes: Mapping[str, Change]) -> Tensor:
        key = frozenset(changes)
        if key not in self._plans:
            reached = set().union(*(self._descendants[name] for name in changes))
            nodes = [n for n in self._order if n in reached]
            self._plans[key] = nodes, _last_use(nodes)
        nodes, last_use = self._plans[key]
        changed = {self._layers[name]: change for name, change in changes.items()}
        values = dict(self._kept)
        for node, change in changed.items():
            if node not in nodes:
                values[node] = change(values[node])
        for node in nodes:
            values[node] = self._run(node, values)
            if node in changed:
                values[node] = changed[node](values[node])
            for done in last_use.get(node, ()):
                del values[done]
        return _logits(values[nodes[-1]])

    def _run(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        args = fx.node.map_arg(node.args, values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
        target: Any = node.target
        match node.op:
            case "call_module":
                return self._modules[target](*args, **kwargs)
            case "call_function":
                return target(*args, **kwargs)
            case "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            case "get_attr":
                return operator.attrgetter(target)(self._model)
            case _:  # output
                return args[0]


def _descendants(node: fx.Node) -> set[fx.Node]:
    reached: set[fx.Node] = set()
    waiting = list(node.users)
    while waiting:
        user = waiting.pop()
        if user not in reached:
            reached.add(user)
            waiting += user.users
    return reached


def _last_use(nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Node -> those of `nodes` that nobody needs once it has run."""
    inside = set(nodes)
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        for used in node.all_input_nodes:
            if used in inside:
                last[used] = node
    done: dict[fx.Node, list[fx.Node]] = {}
    for used, node in last.items():
        done.setdefault(node, []).append(used)
    return done


@torch.no_grad()
def replace_channels(layer: Layer, channels: Tensor, source: Tensor) -> Change:
    """A change that puts `source`'s values of some channels into the layer's output.

    Args:
        layer: the layer changed.
        channels: int64 [set], which of its neurons.
        source: an output of the same layer for the same images, from another model.
    """
    axis = -1 if layer.channels_last else 1

    def change(output: Tensor) -> Tensor:
        return output.index_copy(axis, channels, source.index_select(axis, channels))

    return change
