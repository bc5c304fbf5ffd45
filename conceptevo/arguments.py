"""Refuse wrong arguments of the Python interface in plain sentences."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from pydantic import ConfigDict, ValidationError, validate_call

from harness.config import explain_problem

P = ParamSpec("P")
R = TypeVar("R")


def check_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a function against its annotations when it is called.

    Raises:
        ValueError: an argument has another type, or a value that a section of the configuration
            does not allow; the message has a sentence for each.
        TypeError: an argument is missing, or there is no such parameter.
    """
    checked: Any = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature(function).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{_name(function)}: {error}") from None
        arguments = dict(zip(bound.arguments, bound.args, strict=False)) | bound.kwargs
        if misread := [n for n, v in arguments.items() if _is_boolean_for_number(function, n, v)]:
            raise ValueError("; ".join(_explain_type(function, n, arguments[n]) for n in misread))
        try:
            return checked(**arguments)  # by name, so that errors name the parameter
        except ValidationError as error:
            sentences = dict.fromkeys(_explain(function, arguments, error))
            raise ValueError("; ".join(sentences)) from error

    return call


def check_fields(cls: type[R]) -> type[R]:
    """Check the fields of a dataclass as `check_arguments` checks arguments."""
    cls.__init__ = check_arguments(cls.__init__)  # type: ignore[method-assign]
    return cls


def _name(function: Callable[..., Any]) -> str:
    return function.__qualname__.removesuffix(".__init__")


def _is_boolean_for_number(function: Callable[..., Any], parameter: str, value: object) -> bool:
    """Return whether true or false would be read as a number."""
    kind = str(function.__annotations__.get(parameter))
    return isinstance(value, bool) and kind.startswith(("int", "float"))


def _explain_type(function: Callable[..., Any], parameter: str, value: object, kind="") -> str:
    simple = isinstance(value, str | int | float | tuple | list | None)
    text = reprlib.repr(value) if simple else type(value).__name__
    kind = kind or function.__annotations__[parameter]
    return f"{_name(function)}: {parameter} must be {kind}, got {text}"


def _explain(
    function: Callable[..., Any], arguments: Mapping[str, Any], error: ValidationError
) -> Iterator[str]:
    for problem in error.errors():
        parameter = str(problem["loc"][0]) if problem["loc"] else ""
        if error.title in (function.__name__, function.__qualname__):
            kind = problem["ctx"]["expected"] if problem["type"] == "literal_error" else ""
            value = arguments[parameter]
            value = problem["input"] if isinstance(value, Mapping) else value
            yield _explain_type(function, parameter, value, kind)
        elif problem["type"] == "extra_forbidden":  # a section, whose fields are the arguments
            yield f"{_name(function)}: there is no parameter {parameter}"
        else:
            yield f"{_name(function)}: {explain_problem(problem)}"
