"""Turn calls of activation functions into modules, so that their results can be probed.

`F.relu(x)`, `x.relu()` and one `nn.ReLU` that is called several times have no output of their own
that a hook could record. Where the calling module can be traced, each such call becomes a module.
Blocks whose output is the result of a non-linearity (as in ResNet) are probed as a whole and stay
as they are. So do modules that are activation functions written as a formula (`x * sigmoid(x)`).
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import is_dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from harness.networks.recording import borrow
from harness.networks.running import run_network
from harness.networks.tracing import restore_modules
from harness.networks.written_out import NONLINEARITIES, Derivations, is_activation_call, plain_name
from harness.registry import UserCodeError

#: The positional and keyword arguments of a module's call, and its output.
_Call = tuple[Any, Any, Any]


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is a user-defined activation function, judged by its numbers.

    Each output number must depend only on the input number at the same position, not linearly, and
    must not stay within [0, 1], as that of a gate does.
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
        trial._buffers = copy.deepcopy(module._buffers)  # it may count its calls

        def answer(values: Tensor) -> Tensor:
            return trial.forward(values.clone().view(2, 3, 4, 4)).reshape(96)

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            plain, mixed = answer(numbers), answer(numbers[order])
            half = answer(torch.where(numbers < 0, numbers, -0.5))[numbers < 0]
    except Exception:  # it does not take a single tensor of any shape
        return False
    apart = torch.allclose(mixed, plain[order]) and torch.allclose(half, plain[numbers < 0])
    if not apart or bool(((plain >= 0) & (plain <= 1)).all()):
        return False
    return bool(torch.corrcoef(torch.stack([numbers, plain.float()]))[0, 1].abs() < 0.9995)


class Gated(nn.Identity):
    """Marks the result of an activation function that a module's code writes as a formula."""


class Call(nn.Module):
    """One call of an activation function."""

    _function: Any

    def __init__(self, function: Any, method: bool) -> None:
        super().__init__()
        # not as a child: the names of weights stay the network's, into which a user's code may load
        # those of the next epoch
        vars(self)["_function"] = function
        self._method = method

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._method:
            return getattr(x, self._function)(*args, **kwargs)
        return self._function(x, *args, **kwargs)


class _Flat(fx.Tracer):
    """Traces a module's own code; its children are not traced."""

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return True


def expose_calls(model: nn.Module, images: Tensor) -> nn.Module:
    """Give a module to each call of an activation function that has none.

    Other submodules, parameters and outputs stay the same. A module is left as it is if its code
    cannot be traced, if the traced code gives another output (a module may depend on the type of a
    value or on an argument that is not given), or if its own output is the result of such a call.

    Args:
        model: the network; it is changed.
        images: a batch that it takes, [batch, channels, height, width].

    Returns:
        The model.
    """
    for module in list(model.modules()):
        builtin = isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
        if builtin and not isinstance(module.activation, nn.Module):  # a plain function
            module.activation = Call(module.activation, method=False)
    with borrow(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        candidates = [m for m in model.modules() if _has_own_code(m) and not is_activation(m)]
        graphs = {m: graph for m in candidates if (graph := _trace_calls(m)) is not None}
        calls = _record_calls(model, list(graphs), images) if graphs else {}
        for module, records in calls.items():
            _replace_code(module, *graphs[module], records)
    return model


def _has_own_code(module: nn.Module) -> bool:
    is_known = type(module).__module__.startswith("torch.nn") or isinstance(module, Call | Gated)
    return not is_known and "forward" not in vars(module)


def _record_calls(
    model: nn.Module, modules: Sequence[nn.Module], images: Tensor
) -> dict[nn.Module, list[_Call]]:
    arguments = defaultdict[nn.Module, list[tuple[Any, Any]]](list)
    calls = defaultdict[nn.Module, list[_Call]](list)

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        arguments[module].append(_copy_tensors((args, kwargs)))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        calls[module].append((*arguments[module].pop(), _copy_tensors(output)))

    with ExitStack() as hooks, suppress(UserCodeError):  # reported when the network is studied
        for m in modules:
            hooks.enter_context(m.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            hooks.enter_context(m.register_forward_hook(after))
        run_network(model, images)
    return calls


def _copy_tensors(values: Any) -> Any:
    return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, values)


def _replace_code(
    module: nn.Module, graph: fx.Graph, children: Mapping[str, nn.Module], calls: Sequence[_Call]
) -> None:
    """Let a module run a graph in place of its code, if both give the same outputs."""
    for name, child in children.items():
        module.add_module(name, child)
    try:
        forward = type(fx.GraphModule(module, graph)).forward
        module.forward = MethodType(forward, module)
        for args, kwargs, output in calls:
            answer = module(*_copy_tensors(args), **_copy_tensors(kwargs))
            outputs = (vars(v) if is_dataclass(v) else v for v in (answer, output))
            torch.testing.assert_close(*outputs, rtol=0, atol=0, equal_nan=True)
    except Exception:  # the graph fails, or its outputs differ or cannot be compared
        vars(module).pop("forward", None)
        for name in children:
            delattr(module, name)


def _trace_calls(module: nn.Module) -> tuple[fx.Graph, dict[str, nn.Module]] | None:
    """Return a module's graph with a module for each call, and these modules by name; None if there
    is no such call or the code cannot be traced."""
    try:
        with restore_modules(module):
            graph = _Flat().trace(module)
    except (Exception, SystemExit):  # user code can fail in any way when it runs on proxies
        return None
    results = _find_results(graph, module)
    calls = Counter(node.target for node in results)
    bare_calls = [
        node
        for node, alone in results.items()
        if alone and (node.op != "call_module" or calls[node.target] > 1)
    ]
    formulas = [node for node, alone in results.items() if not alone]
    output = next(node for node in graph.nodes if node.op == "output")
    if not (bare_calls or formulas) or results.get(output.args[0], False):
        return None
    children: dict[str, nn.Module] = {}

    def add(stem: str, child: nn.Module) -> str:
        stems = [name.rpartition("_")[0] for name in (*dict(module.named_children()), *children)]
        name = f"{stem}_call_{1 + stems.count(f'{stem}_call')}"
        children[name] = child
        return name

    for node in bare_calls:
        if node.op == "call_module":
            child = Call(module.get_submodule(str(node.target)), method=False)
        else:
            child = Call(node.target, method=node.op == "call_method")
        target = getattr(node.target, "__name__", node.target)
        name = add(str(target).strip("_").replace(".", "_"), child)
        with graph.inserting_after(node):
            new = graph.call_module(name, node.args, node.kwargs)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    for node in formulas:
        users = list(node.users)
        with graph.inserting_after(node):
            new = graph.call_module(add("gated", Gated()), (node,))
        for user in users:
            user.replace_input_with(node, new)
    return graph, children


def _find_results(graph: fx.Graph, module: nn.Module) -> dict[fx.Node, bool]:
    """Return the nodes of activation functions' results, and whether one call computes each."""
    derivations, results = Derivations(), dict[fx.Node, bool]()
    constants = set[fx.Node]()  # weights, sizes and types, and what is computed from these alone
    for node in graph.nodes:
        inputs = [other for other in node.all_input_nodes if other not in constants]
        is_kind = node.target is getattr and node.args[1] in ("shape", "dtype", "device")
        if node.op == "get_attr" or is_kind or (node.all_input_nodes and not inputs):
            constants.add(node)
            continue
        alone = _is_activation(node, module)
        parts = derivations.follow(node, _called_name(node, module), inputs, alone)
        if parts is not None:
            results = {other: kind for other, kind in results.items() if other not in parts}
            results[node] = alone
    return results


def _is_activation(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        called = module.get_submodule(str(node.target))
        builtin = not _has_own_code(called) and _called_name(node, module) in NONLINEARITIES
        return builtin or is_activation(called)
    return is_activation_call(_called_name(node, module), node.args, node.kwargs)


def _called_name(node: fx.Node, module: nn.Module) -> str:
    """Return the plain name of the function, or the class of the module, that a node calls."""
    if node.op == "call_module":
        return plain_name(type(module.get_submodule(str(node.target))))
    return plain_name(node.target) if node.op in ("call_method", "call_function") else ""
