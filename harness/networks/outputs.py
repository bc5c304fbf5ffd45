"""Find the logits in what a network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_KEY = "_conceptevo_output"


def choose_output(model: nn.Module, output: str | int | None) -> nn.Module:
    """Store with a model which part of its output holds the logits (None: infer it)."""
    object.__setattr__(model, _KEY, output)
    return model


def logits_of(model: nn.Module, answer: Any) -> Tensor:
    """Return the logits [batch, outputs] from what the model returned.

    A tensor is used as it is; a map of one pixel, [batch, outputs, 1, 1], is flattened. Of several
    values, the one named by `choose_output` is used, otherwise the one called "logits".

    Raises:
        ValueError: there is no such part, or it is not a tensor [batch, outputs].
    """
    key = getattr(model, _KEY, None)
    if not isinstance(answer, Tensor):
        answer = _part(answer, "logits" if key is None else key)
    if isinstance(answer, Tensor) and answer.dim() > 2 and set(answer.shape[2:]) == {1}:
        answer = answer.flatten(1)
    if not isinstance(answer, Tensor) or answer.dim() != 2:
        raise ValueError(
            f"the model must return logits [batch, outputs], got {_described(answer)}; "
            f"{_remedy(answer)}"
        )
    return answer


def _remedy(answer: Any) -> str:
    if not isinstance(answer, Tensor):
        return (
            f"if it returns several values, name the one that holds the logits: output = "
            f"{_example(answer)}"
        )
    wrap = "wrap it in a module that returns a number for each image and class"
    if answer.dim() > 2:
        return f"{wrap}, such as the mean over the image of a map or a sequence of outputs"
    return f"{wrap}; for two classes, two numbers (0 and the logit, if it has only one)"


def _part(answer: Any, key: str | int) -> Any:
    if isinstance(answer, Mapping):
        return answer.get(key, answer)
    if isinstance(key, str):
        return getattr(answer, key, answer)
    if isinstance(answer, tuple | list) and -len(answer) <= key < len(answer):
        return answer[key]
    return answer


def _described(answer: Any) -> str:
    if isinstance(answer, Tensor):
        return f"a tensor of shape {tuple(answer.shape)}"
    if isinstance(answer, Mapping):
        parts = ", ".join(f"{name!r}: {_described(value)}" for name, value in answer.items())
        return f"a dict of {{{parts}}}"
    if isinstance(answer, tuple | list):
        return f"a {type(answer).__name__} of ({', '.join(map(_described, answer))})"
    return f"an object of class {type(answer).__name__}"


def _example(answer: Any) -> str:
    if isinstance(answer, Mapping) and answer:
        return f'"{next(iter(answer))}"'
    return "0"
