"""Find the calls that give an activation function's result, also if it is written as a formula.

The same rule serves traced graphs (`calls.py`) and recorded passes (`watching.py`).
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

#: Plain names of functions that count as a block's non-linearity; gates (sigmoid, softmax) do not.
NONLINEARITIES = {
    *("relu", "relu6", "leakyrelu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu"),
    *("mish", "softplus", "hardswish", "hardtanh", "tanh", "glu", "softsign", "softshrink"),
    *("hardshrink", "tanhshrink", "threshold", "logsigmoid", "maximum", "fmax"),
}

#: The elementwise functions of which activation functions are composed: non-linear ones (gates),
#: those that combine a value with its gated form (combinations), these and all others (steps), and
#: functions that return a part of a value (parts).
_PURE_GATES = {"sigmoid", "hardsigmoid", "specialexpit"}
_GATES = _PURE_GATES | {
    *("relu6", "clamp", "clip", "tanh", "erf", "softplus", "exp", "abs", "sign", "heaviside"),
    *("gt", "ge", "lt", "le"),
}
_COMBINATIONS = {
    *("mul", "imul", "div", "rdiv", "truediv", "itruediv", "where", "maskedfill", "setitem")
}
_STEPS = {
    *("add", "iadd", "sub", "isub", "rsub", "pow", "square", "neg", "float", "to", "typeas"),
    *("zeroslike", "clone", "contiguous", "max", "clampmin"),
    *(_GATES | _COMBINATIONS | NONLINEARITIES),
}
PARTS = {"getitem", "chunk", "split", "tensorsplit"}

#: Functions whose calls must be passed to `Derivations.follow`.
FOLLOWED = _STEPS | PARTS


class Derivation(NamedTuple):
    """The elementwise computation of a value from an earlier one, its origin.

    Attributes:
        origin: key of the earlier value.
        gate: name of a non-linear function that was applied to it; "" for none.
        activations: keys of those intermediate values that are an activation function's result.
    """

    origin: Hashable
    gate: str = ""
    activations: frozenset[Hashable] = frozenset()


class Derivations:
    """Decides, call by call, which values are an activation function's result.

    Values are identified by keys: nodes of a graph, or ids of tensors.
    """

    def __init__(self) -> None:
        self._derivations: dict[Hashable, Derivation] = {}
        self._wholes: dict[Hashable, Hashable] = {}

    def follow(
        self, value: Hashable, name: str, inputs: Sequence[Hashable], alone: bool
    ) -> frozenset[Hashable] | None:
        """Process a call and decide whether it gives an activation function's result.

        Args:
            value: key of the call's result.
            name: plain name of the function.
            inputs: keys of the arguments, without weights and constants.
            alone: whether the function is an activation function by itself.

        Returns:
            None if the value is not an activation function's result; otherwise the keys of such
            results that are part of it, e.g. the two in x * tanh(softplus(x)).
        """
        if name in PARTS and inputs:
            self._wholes[value] = inputs[0]
            return None
        derivations = [self._derivations.get(key, Derivation(key)) for key in inputs]
        gate = next((d.gate for d in derivations if d.gate), "")
        inner = frozenset[Hashable]().union(*(d.activations for d in derivations))
        origins = {d.origin for d in derivations}
        combines = name in _COMBINATIONS and len(derivations) > 1
        if len(origins) == 1 and name in _STEPS:
            is_formula = combines and bool(gate)
            result = {value} if alone or is_formula else set()
            gate = gate or (name if name in _GATES else "")
            self._derivations[value] = Derivation(origins.pop(), gate, inner | result)
        else:  # a * sigmoid(b) of two parts of one value
            wholes = {self._wholes.get(origin) for origin in origins}
            pure = any(d.gate in _PURE_GATES and not d.activations for d in derivations)
            is_formula = combines and pure and len(wholes) == 1 and None not in wholes
        return inner if is_formula else frozenset() if alone else None


def plain_name(function: object) -> str:
    """Return a name without underscores and capitals: F.leaky_relu_ and nn.LeakyReLU share it."""
    return str(getattr(function, "__name__", function)).replace("_", "").lower()


def is_activation_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a call computes an activation function by itself."""
    if name in ("clamp", "clampmin", "clip"):  # a limit above 0 only avoids division by zero
        limits = [v for v in (*args[1:], *kwargs.values()) if isinstance(v, int | float)]
        return bool(limits) and limits[0] <= 0
    if name == "max":  # the larger of two values, not the maximum over a dimension
        return len(args) > 1 and not isinstance(args[1], int)
    return name in NONLINEARITIES
