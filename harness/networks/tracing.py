"""Trace a model's code into a graph that has a node for the value of each probed layer."""

import inspect
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from harness.networks.layer import Layer
from harness.networks.recording import replace_first


def _identity(value: Any) -> Any:
    """Return a layer's value unchanged. As a node of its own, it lets a change reach the same
    operations as that of a hook."""
    return value


class _Tracer(fx.Tracer):
    """Traces the code that runs on images alone, with one node per layer's value."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.nodes: dict[str, fx.Node] = {}
        self._sites: dict[tuple[str, str], list[str]] = {}
        for layer in layers:
            self._sites.setdefault((layer.module, layer.side), []).append(layer.name)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        method: Any = self.root.forward
        forward = method.__func__  # may differ from that of the class
        concrete = {
            name: None
            for name, parameter in inspect.signature(forward).parameters.items()
            if parameter.default is None
        }
        return super().create_args_for_root(forward, is_module, concrete or None)

    def call_module(self, m, forward, args, kwargs):
        path = self.path_of_module(m)
        if args:
            args = (self._add_nodes(args[0], self._sites.get((path, "input"), [])), *args[1:])
        result = super().call_module(m, forward, args, kwargs)
        names = self._sites.get((path, "output"), [])
        if isinstance(result, tuple | list):
            return replace_first(result, self._add_nodes(result[0], names)) if result else result
        return self._add_nodes(result, names)

    def _add_nodes(self, value: Any, names: Sequence[str]) -> Any:
        for name in names:
            if isinstance(value, fx.Proxy):
                value = self.create_proxy("call_function", _identity, (value,), {})
                self.nodes[name] = value.node
        return value


@contextmanager
def restore_modules(model: nn.Module) -> Iterator[None]:
    """Take back what traced code stores in modules: caches and buffers that hold proxies."""
    attributes = [vars(module) for module in model.modules()]
    dicts = [*attributes, *(v for d in attributes for v in d.values() if isinstance(v, dict))]
    copies = [dict(d) for d in dicts]
    try:
        yield
    finally:
        for d, copy in zip(dicts, copies, strict=True):
            for name in [n for n, value in d.items() if isinstance(value, fx.Proxy)]:
                del d[name]
            d.update(copy)


#: In-place functions and their replacements.
_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def trace(model: nn.Module, layers: Sequence[Layer]) -> tuple[fx.Graph, dict[str, fx.Node]] | None:
    """Return a graph without in-place operations and the layers' nodes; None if not traceable."""
    tracer = _Tracer(layers)
    try:
        with restore_modules(model):
            graph = tracer.trace(model)
    except (Exception, SystemExit):  # user code can fail in any way when it runs on proxies
        return None
    if not all(layer.name in tracer.nodes for layer in layers):
        return None
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = _OUT_OF_PLACE.get(node.target, node.target)
            if node.kwargs.get("inplace"):
                node.update_kwarg("inplace", False)
        if _may_overwrite(node):
            return None
    return graph, tracer.nodes


def _may_overwrite(node: fx.Node) -> bool:
    name = str(getattr(node.target, "__name__", node.target))
    if node.op == "call_method":
        return name.endswith("_") or name.startswith("__i")
    if node.op == "call_function":
        return (name.endswith("_") and not name.endswith("__")) or name == "setitem"
    return False
