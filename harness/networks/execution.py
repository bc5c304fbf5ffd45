"""Run a model once, then repeatedly with the outputs of some layers changed.

Only the operations that depend on a change are computed again. The model is traced with `torch.fx`;
those values of the unperturbed run that descendants of probed layers read are kept, and a re-run
executes these descendants alone. A model that cannot be traced, or whose traced code gives another
output, is run completely, with hooks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from harness.networks.layer import Layer
from harness.networks.recording import attach_hooks, borrow
from harness.networks.running import WithGradients, explain_errors, logits_of, run_logits
from harness.networks.tracing import trace
from harness.registry import UserCodeError

#: Function that returns what replaces a layer's output, given in the network's own shape.
Change = Callable[[Tensor], Tensor]


class Execution:
    """A borrowed model on one batch; the output of its layers can be read or changed, and each
    re-run is a full forward pass. Use `execution` to make one."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self._model = model
        self._layers = {layer.name: layer for layer in layers}
        self._outputs: dict[str, Tensor] = {}

    def start(self, batch: Tensor) -> Tensor:
        """Run unchanged and return the logits [batch, classes]. Later calls use this batch."""
        self._batch = batch

        def keep(name: str, output: Tensor) -> Tensor:
            self._outputs[name] = output
            return output.clone()  # in-place operations must not change the kept value

        hooks = {layer: partial(keep, name) for name, layer in self._layers.items()}
        with attach_hooks(self._model, hooks):
            return run_logits(self._model, batch)

    def output(self, layer: str) -> Tensor:
        """Return a layer's unchanged output, in the network's own shape."""
        return self._outputs[layer]

    def rerun(self, changes: Mapping[str, Change]) -> Tensor:
        """Return the logits [batch, classes] after changing the output of each named layer."""
        hooks = {self._layers[name]: change for name, change in changes.items()}
        through = WithGradients() if torch.is_grad_enabled() else nullcontext()
        with attach_hooks(self._model, hooks), through:
            return run_logits(self._model, self._batch, f"with a changed {_format_layers(changes)}")

    def rerun_many(self, arms: Sequence[Mapping[str, Change]], together: int = 1) -> list[Tensor]:
        """Return `rerun` of each arm; up to `together` share one pass if the model allows it."""
        return [self.rerun(changes) for changes in arms]


@contextmanager
def execution(
    model: nn.Module, layers: Sequence[Layer], traced: bool = True
) -> Iterator[Execution]:
    """Borrow a model (evaluation mode, no parameter gradients) for repeated execution.

    Args:
        model: the network; it must return logits [batch, classes].
        layers: the layers whose output will be read or changed.
        traced: try `torch.fx`; if False, run the model completely, with hooks.
    """
    with borrow(model):
        graph = trace(model, layers) if traced else None
        yield Execution(model, layers) if graph is None else _Traced(model, layers, *graph)


@contextmanager
def _out_of_place(modules: Sequence[Any]) -> Iterator[None]:
    """Let modules that overwrite their input return a new tensor, because values are kept."""
    for module in modules:
        module.inplace = False
    try:
        yield
    finally:
        for module in modules:
            module.inplace = True


def _format_layers(changes: Mapping[str, Change]) -> str:
    names = list(changes)
    return f"layer {names[0]!r}" if len(names) == 1 else f"value in {len(names)} layers"


def _memory_format(value: Tensor) -> torch.memory_format:
    """Return channels-last if the value is, so that the same kernels run on a stacked batch."""
    if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


#: Model -> (traced code, shape of an image) -> whether the code gives the model's output. The
#: comparison takes one more pass, and a model is opened again for every class.
_COMPARED: WeakKeyDictionary[nn.Module, dict[tuple[str, torch.Size], bool]] = WeakKeyDictionary()


class _Traced(Execution):
    """A traced model; each re-run executes only the descendants of the changed layers."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        graph: fx.Graph,
        nodes: Mapping[str, fx.Node],
    ) -> None:
        super().__init__(model, layers)
        self._interpreter = fx.Interpreter(model, garbage_collect_values=False, graph=graph)
        self._inplace = [m for m in model.modules() if getattr(m, "inplace", False) is True]
        self._order = list(graph.nodes)
        self._nodes = nodes
        self._descendants = {name: _descendants(node) for name, node in nodes.items()}
        inputs = [node for node in self._order if node.op == "placeholder"]
        self._of_images = set(inputs).union(*map(_descendants, inputs))
        self._output = self._order[-1]
        self._read_nodes = {self._output, *nodes.values()}
        for nodes_after in self._descendants.values():
            inputs_after = {n for node in nodes_after for n in node.all_input_nodes}
            self._read_nodes |= inputs_after - nodes_after
        self._values: dict[fx.Node, Any] = {}
        self._code = str(graph)
        self._plans: dict[frozenset[str], tuple[list[fx.Node], dict[fx.Node, list[fx.Node]]]] = {}
        self._fits: bool | None = None  # whether the graph gives the model's output

    def start(self, batch: Tensor) -> Tensor:
        comparisons, case = _COMPARED.setdefault(self._model, {}), (self._code, batch.shape[1:])
        self._fits = comparisons.get(case)
        if self._fits:
            return self._start(batch)
        output = super().start(batch)
        if self._fits is None:
            with suppress(UserCodeError, ValueError):
                self._fits = torch.equal(self._start(batch), output)
            self._fits = comparisons[case] = bool(self._fits)
            if self._fits:
                self._outputs.clear()
        return output

    def _start(self, batch: Tensor) -> Tensor:
        self._values, self._batch = {}, batch
        values: dict[fx.Node, Any] = {}
        inputs = iter([batch])  # other arguments have a default, or are `*args` and `**kwargs`
        last_use = _last_uses(self._order)
        with explain_errors(self._model, batch), _out_of_place(self._inplace):
            for node in self._order:
                if node.op == "placeholder":
                    default: Any = {} if str(node.target).startswith("**") else ()
                    values[node] = next(inputs, node.args[0] if node.args else default)
                else:
                    values[node] = self._run(node, values)
                if node in self._read_nodes:
                    self._values[node] = values[node]
                for finished in last_use.get(node, ()):
                    del values[finished]
        return logits_of(self._model, values[self._output])

    def output(self, layer: str) -> Tensor:
        return self._values[self._nodes[layer]] if self._fits else super().output(layer)

    def rerun(self, changes: Mapping[str, Change]) -> Tensor:
        return self._rerun(changes, self._values) if self._fits else super().rerun(changes)

    def rerun_many(self, arms: Sequence[Mapping[str, Change]], together: int = 1) -> list[Tensor]:
        if not self._fits:
            return super().rerun_many(arms, together)
        results: list[Tensor] = []
        for layers, same_layers in groupby(arms, key=frozenset):
            pending = list(same_layers)
            size = together if layers and self._stackable(layers) else 1
            for start in range(0, len(pending), size):
                piece = pending[start : start + size]
                if len(piece) == 1:
                    results.append(self.rerun(piece[0]))
                else:
                    results += self._rerun_stacked(piece)
        return results

    def _rerun_stacked(self, arms: Sequence[Mapping[str, Change]]) -> list[Tensor]:
        """Re-run arms that change the same layers, stacked in one batch."""
        count = len(arms)
        inputs = self._inputs(frozenset(arms[0]))
        values = {
            node: value
            if node not in self._of_images
            else value.repeat(count, *[1] * (value.dim() - 1)).contiguous(
                memory_format=_memory_format(value)
            )
            for node, value in self._values.items()
            if node in inputs
        }

        def change(layer: str, output: Tensor) -> Tensor:
            pairs = zip(arms, output.chunk(count), strict=True)
            return torch.cat([changes[layer](part) for changes, part in pairs])

        changes = {layer: partial(change, layer) for layer in arms[0]}
        return list(self._rerun(changes, values).chunk(count))

    def _stackable(self, layers: frozenset[str]) -> bool:
        """Return whether each value that a re-run reads has a row per image, or ignores images."""
        if any(layer.sequence_first for layer in self._layers.values()):
            return False
        rows = len(self._batch)
        values = [self._values[n] for n in self._inputs(layers) if n in self._of_images]
        return all(isinstance(v, Tensor) and v.dim() and len(v) == rows for v in values)

    def _inputs(self, layers: frozenset[str]) -> set[fx.Node]:
        """Return the kept values that a re-run of these layers reads."""
        nodes, _ = self._plan(layers)
        inputs = {value for node in nodes for value in node.all_input_nodes} - set(nodes)
        # the output does not depend on every layer: it may be that of another head
        return inputs | {self._output, *(self._nodes[layer] for layer in layers)} - set(nodes)

    def _plan(self, layers: frozenset[str]) -> tuple[list[fx.Node], dict[fx.Node, list[fx.Node]]]:
        """Return the nodes that a change of these layers reaches, and what to free after each."""
        if layers not in self._plans:
            descendants = set().union(*(self._descendants[name] for name in layers))
            nodes = [node for node in self._order if node in descendants]
            self._plans[layers] = nodes, _last_uses(nodes)
        return self._plans[layers]

    def _rerun(self, changes: Mapping[str, Change], unchanged: Mapping[fx.Node, Any]) -> Tensor:
        nodes, last_use = self._plan(frozenset(changes))
        changes_by_node = {self._nodes[name]: change for name, change in changes.items()}
        values = dict(unchanged)
        for node in changes_by_node.keys() - set(nodes):
            values[node] = changes_by_node[node](values[node])
        purpose = f"with a changed {_format_layers(changes)}"
        with explain_errors(self._model, self._batch, purpose), _out_of_place(self._inplace):
            for node in nodes:
                values[node] = self._run(node, values)
                if node in changes_by_node:
                    values[node] = changes_by_node[node](values[node])
                for finished in last_use.get(node, ()):
                    del values[finished]
        return logits_of(self._model, values[self._output])

    def _run(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        args: Any = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        return getattr(self._interpreter, node.op)(node.target, *args)


def _descendants(node: fx.Node) -> set[fx.Node]:
    descendants, pending = set[fx.Node](), list(node.users)
    while pending:
        if (user := pending.pop()) not in descendants:
            descendants.add(user)
            pending += user.users
    return descendants


def _last_uses(nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Map each node to those of `nodes` that no later node needs."""
    members = set(nodes)
    last_user = {
        value: node for node in nodes for value in node.all_input_nodes if value in members
    }
    last_uses: dict[fx.Node, list[fx.Node]] = {}
    for value, node in last_user.items():
        last_uses.setdefault(node, []).append(value)
    return last_uses


@torch.no_grad()
def replace_channels(layer: Layer, channels: Tensor, source: Tensor) -> Change:
    """Return a change that copies the values of some units (int64 [set]) into the layer's output
    from `source`, its output for the same images in another model."""
    mask = layer.mask(channels, source)

    def change(output: Tensor) -> Tensor:
        # unlike `index_copy`, `where` keeps channels-last maps, on which later layers run faster
        return torch.where(mask, source, output)

    return change
