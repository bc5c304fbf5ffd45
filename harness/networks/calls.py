"""Activation functions that are called, not modules: made modules, so that they can be probed.

`F.relu(x)`, `x.relu()` and one `nn.ReLU` that is called several times have no output of their own
that a hook could see. Where the module that calls them can be traced, each such call becomes a
module. Blocks whose own output is a non-linearity's result (a ResNet's) are probed as a whole and
stay as they are; so are modules that are activation functions written out (`x * sigmoid(x)`).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

#: Functions that count as a block's non-linearity. Gates (sigmoid, softmax) do not.
NONLINEARITIES = {
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "elu", "elu_"),
    *("celu", "selu", "selu_", "gelu", "silu", "silu_", "mish", "mish_", "softplus"),
    *("hardswish", "hardswish_", "hardtanh", "hardtanh_", "tanh", "tanh_", "celu_", "rrelu_"),
    *("glu", "softsign", "softshrink", "hardshrink", "tanhshrink", "threshold", "threshold_"),
}

#: Of what activation functions are written out, number by number: what bends, and what does not.
_GATES = {"sigmoid", "hardsigmoid", "relu6", "clamp", "tanh", "erf", "softplus", "exp"}
_STEPS = _GATES | {"add", "add_", "sub", "mul", "mul_", "truediv", "div", "div_", "pow", "neg"}

#: The modules that do nothing but call one of them.
_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU),
    *(nn.SiLU, nn.Mish, nn.Softplus, nn.Hardswish, nn.Hardtanh, nn.Tanh),
)


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation function of someone's own, by what it does to numbers.

    Each number that it puts out depends on the number in the same place alone, is no linear
    function of it, and does not stay within [0, 1], as a gate does.
    """
    if isinstance(module, Gated):
        return True
    if not _has_own_code(module) or next(module.children(), None) is not None:
        return False
    if any(value.numel() > 1 for value in [*module.parameters(), *module.buffers()]):
        return False
    numbers = torch.linspace(-6, 6, 96)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    try:
        trial = copy.copy(module).eval()
        trial._buffers = copy.deepcopy(module._buffers)  # it may keep count of its calls

        def answer(values: Tensor) -> Tensor:
            return trial.forward(values.clone().view(2, 3, 4, 4)).reshape(96)

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            plain, mixed = answer(numbers), answer(numbers[order])
            half = answer(torch.where(numbers < 0, numbers, -0.5))[numbers < 0]
    except Exception:  # it takes other inputs than one tensor of any shape
        return False
    apart = torch.allclose(mixed, plain[order]) and torch.allclose(half, plain[numbers < 0])
    if not apart or bool(((plain >= 0) & (plain <= 1)).all()):
        return False
    return bool(torch.corrcoef(torch.stack([numbers, plain.float()]))[0, 1].abs() < 0.9995)


class Gated(nn.Module):
    """Stands where an activation function that is written out in a module's code has its result.

    Args:
        calls: how many activation functions it is written out of.
    """

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        return x


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
        torchs = isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
        if torchs and not isinstance(module.activation, nn.Module):  # a function that it holds
            module.activation = Call(module.activation, method=False)
        if is_activation(module):
            continue
        if name and _has_own_code(module) and (exposed := _exposed(module)) is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, exposed)
    top = _exposed(model) if _has_own_code(model) else None
    return model if top is None else top


def _has_own_code(module: nn.Module) -> bool:
    ours = type(module).__module__.startswith("torch.nn") or isinstance(module, Call | Gated)
    return not ours and not isinstance(module, fx.GraphModule)


def _exposed(module: nn.Module) -> nn.Module | None:
    try:
        graph = _Flat().trace(module)
    except (Exception, SystemExit):  # the user's code runs on proxies, and can fail in any way
        return None
    products = _gated_by_themselves(graph, module)
    within = set[fx.Node]().union(*products.values())
    nodes = [n for n in graph.nodes if _is_activation(n, module) and n not in within]
    calls: dict[Any, int] = {}
    for node in nodes:
        calls[node.target] = calls.get(node.target, 0) + 1
    bare = [node for node in nodes if node.op != "call_module" or calls[node.target] > 1]
    output = next(node for node in graph.nodes if node.op == "output")
    if not (bare or products) or output.args[0] in nodes:
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
    for count, node in enumerate(products, 1):
        inner = sum(_is_activation(step, module) for step in products[node])
        module.add_module(name := f"gated_call_{count}", Gated(inner))
        users = list(node.users)
        with graph.inserting_after(node):
            new = graph.call_module(name, (node,))
        for user in users:
            user.replace_input_with(node, new)
    exposed = fx.GraphModule(module, graph, class_name=type(module).__name__)
    exposed.training = module.training
    return exposed


def _stem(node: fx.Node) -> str:
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return str(target).replace(".", "_").rstrip("_") + "_call"


def _is_activation(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        called = module.get_submodule(str(node.target))
        return isinstance(called, _MODULES) or is_activation(called)
    return _function(node, module) in NONLINEARITIES


def _function(node: fx.Node, module: nn.Module) -> str:
    """The name of the function that a node calls; of a module, of its class."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__.lower()
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


def _gated_by_themselves(graph: fx.Graph, module: nn.Module) -> dict[fx.Node, set[fx.Node]]:
    """Products of a value and a gate of the same value, which are activation functions written out
    (x * sigmoid(x), x * relu6(x + 3), x * (1 + tanh(x))), and the nodes that each is made of."""
    products = {}
    for node in graph.nodes:
        if _function(node, module) in ("mul", "mul_") and len(node.all_input_nodes) == 2:
            origin, steps = _origin(node, module)
            if origin is not node and any(_function(step, module) in _GATES for step in steps):
                products[node] = steps
    return products


def _origin(node: fx.Node, module: nn.Module) -> tuple[fx.Node, set[fx.Node]]:
    """The one value of which a node is computed number by number, and the steps from there."""
    if _function(node, module) not in _STEPS or not node.all_input_nodes:
        return node, set()
    ways = [_origin(before, module) for before in node.all_input_nodes]
    if any(origin is not ways[0][0] for origin, _ in ways):
        return node, set()
    return ways[0][0], {node}.union(*(steps for _, steps in ways))
