"""Which calls of a pass give an activation function's result, also where it is written out.

The same rule serves a traced graph (`calls.py`) and a pass that is watched (`watching.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

#: Functions that count as a block's non-linearity, by their plain names. Gates (sigmoid, softmax)
#: do not.
NONLINEARITIES = {
    *("relu", "relu6", "leakyrelu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu"),
    *("mish", "softplus", "hardswish", "hardtanh", "tanh", "glu", "softsign", "softshrink"),
    *("hardshrink", "tanhshrink", "threshold", "logsigmoid", "maximum", "fmax"),
}

#: Of what activation functions are written out, number by number: what bends a value, where it
#: meets what was bent, what else there is, and what takes parts of a value.
_PURE_GATES = {"sigmoid", "hardsigmoid", "specialexpit"}
_GATES = _PURE_GATES | {
    *("relu6", "clamp", "clip", "tanh", "erf", "softplus", "exp", "abs", "sign", "heaviside"),
    *("gt", "ge", "lt", "le"),
}
_MEETINGS = {
    *("mul", "imul", "div", "rdiv", "truediv", "itruediv", "where", "maskedfill", "setitem"),
}
_STEPS = {
    *("add", "iadd", "sub", "isub", "rsub", "pow", "square", "neg", "float", "to", "typeas"),
    *("zeroslike", "clone", "contiguous", "max", "clampmin"),
    *(_GATES | _MEETINGS | NONLINEARITIES),
}
_PARTS = {"getitem", "chunk", "split", "tensorsplit"}

#: Functions whose calls must be taken in.
FOLLOWED = _STEPS | _PARTS


class Way(NamedTuple):
    """How a value was computed, number by number, of the one at its origin.

    Attributes:
        origin: that value.
        gate: a function that bent it on the way; "" for none.
        activations: which values on the way were an activation function's result.
    """

    origin: Hashable
    gate: str = ""
    activations: frozenset[Hashable] = frozenset()


class Ways:
    """Tells, of one call after another, which give an activation function's result.

    Values are told apart by keys: nodes of a graph, or ids of tensors.
    """

    def __init__(self) -> None:
        self._ways: dict[Hashable, Way] = {}
        self._wholes: dict[Hashable, Hashable] = {}

    def follow(
        self, value: Hashable, name: str, inputs: Sequence[Hashable], alone: bool
    ) -> frozenset[Hashable] | None:
        """Take in a call.

        Args:
            value: what it returns.
            name: of the function, plain.
            inputs: the values that it is given, without weights and constants.
            alone: whether it is an activation function by itself.

        Returns:
            None if the value is no activation function's result; else those that are part of it,
            as the two of x * tanh(softplus(x)).
        """
        if name in _PARTS and inputs:
            self._wholes[value] = inputs[0]
            return None
        ways = [self._ways.get(key, Way(key)) for key in inputs]
        gate = next((way.gate for way in ways if way.gate), "")
        within = frozenset[Hashable]().union(*(way.activations for way in ways))
        origins = {way.origin for way in ways}
        meets = name in _MEETINGS and len(ways) > 1
        if len(origins) == 1 and name in _STEPS:
            written = meets and bool(gate)
            own = {value} if alone or written else set()
            gate = gate or (name if name in _GATES else "")
            self._ways[value] = Way(origins.pop(), gate, within | own)
        else:  # a * sigmoid(b), the halves of one value
            wholes = {self._wholes.get(origin) for origin in origins}
            pure = any(way.gate in _PURE_GATES and not way.activations for way in ways)
            written = meets and pure and len(wholes) == 1 and None not in wholes
        return within if written else frozenset() if alone else None


def plain_name(function: object) -> str:
    """A name without underscores and capitals, the same for F.leaky_relu_ and nn.LeakyReLU."""
    return str(getattr(function, "__name__", function)).replace("_", "").lower()


def is_activation_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is that of an activation function by itself."""
    if name in ("clamp", "clampmin", "clip"):  # a limit above 0 keeps from dividing by it
        limits = [v for v in (*args[1:], *kwargs.values()) if isinstance(v, int | float)]
        return bool(limits) and limits[0] <= 0
    if name == "max":  # of two values, not over a dimension
        return len(args) > 1 and not isinstance(args[1], int)
    return name in NONLINEARITIES
