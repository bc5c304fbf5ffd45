"""Activation functions that are called, not modules: made modules, so that they can be probed.

`F.relu(x)`, `x.relu()` and one `nn.ReLU` that is called several times have no output of their own
that a hook could see. Where the module that calls them can be traced, each such call becomes a
module. Blocks whose own output is a non-linearity's result (a ResNet's) are probed as a whole and
stay as they are.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

#: Functions that count as a block's non-linearity. Gates (sigmoid, softmax) do not.
NONLINEARITIES = {
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "elu", "elu_"),
    *("celu", "selu", "selu_", "gelu", "silu", "silu_", "mish", "mish_", "softplus"),
    *("hardswish", "hardswish_", "hardtanh", "hardtanh_", "tanh", "tanh_"),
}

#: The modules that do nothing but call one of them.
_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU),
    *(nn.SiLU, nn.Mish, nn.Softplus, nn.Hardswish, nn.Hardtanh, nn.Tanh),
)


class Call(nn.Module):
    """One call of an activation function."""

    def __init__(self, function: Any, method: bool) -> None:
        super().__init__()
        self._function, self._method = function, method

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._method:
            return getattr(x, self._function)(*args, **kwargs)
        return self._function(x, *args, **kwargs)


class _Flat(fx.Tracer):
    """Traces one module's own code; every child is a leaf."""

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return True


def expose_calls(model: nn.Module) -> nn.Module:
    """The model with a module for each call of an activation function that has none.

    Submodules, parameters and answers stay the same. A module whose own code cannot be traced, or
    whose output is the result of such a call, is left as it is.

    Returns:
        The model, changed, or a new module in its place where the calls are in its own code.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            _expose_activation(module)
        if name and _has_own_code(module) and (exposed := _exposed(module)) is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, exposed)
    top = _exposed(model) if _has_own_code(model) else None
    return model if top is None else top


def _expose_activation(layer: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> None:
    """The activation of torch's own transformer layers is a function that they hold."""
    if not isinstance(layer.activation, nn.Module):
        layer.activation = Call(layer.activation, method=False)


def _has_own_code(module: nn.Module) -> bool:
    ours = type(module).__module__.startswith("torch.nn") or isinstance(module, Call)
    return not ours and not isinstance(module, fx.GraphModule)


def _exposed(module: nn.Module) -> nn.Module | None:
    try:
        graph = _Flat().trace(module)
    except Exception:  # tracing runs the user's code on proxies, which can fail in any way
        return None
    nodes = [node for node in graph.nodes if _is_activation(node, module)]
    calls: dict[Any, int] = {}
    for node in nodes:
        calls[node.target] = calls.get(node.target, 0) + 1
    bare = [node for node in nodes if node.op != "call_module" or calls[node.target] > 1]
    output = next(node for node in graph.nodes if node.op == "output")
    if not bare or output.args[0] in nodes:
        return None
    taken = dict(module.named_children())
    for node in bare:
        count = 1 + sum(name.rpartition("_")[0] == _stem(node) for name in taken)
        name = f"{_stem(node)}_{count}"
        replacement: nn.Module
        if node.op == "call_module":
            replacement = Call(module.get_submodule(str(node.target)), method=False)
        else:
            replacement = Call(node.target, method=node.op == "call_method")
        taken[name] = replacement
        module.add_module(name, replacement)
        with graph.inserting_after(node):
            new = graph.call_module(name, node.args, node.kwargs)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    exposed = fx.GraphModule(module, graph, class_name=type(module).__name__)
    exposed.training = module.training
    return exposed


def _stem(node: fx.Node) -> str:
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return str(target).replace(".", "_").rstrip("_") + "_call"


def _is_activation(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), _MODULES)
    if node.op == "call_method":
        return node.target in NONLINEARITIES
    name = getattr(node.target, "__name__", "")
    return node.op == "call_function" and name in NONLINEARITIES
