"""Refuse wrong arguments of the Python interface in plain sentences."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
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
    """
    checked: Any = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature(function).bind(*args, **kwargs)
        named = dict(zip(bound.arguments, bound.args, strict=False)) | bound.kwargs
        try:
            return checked(**named)  # by name, so that errors name the parameter
        except ValidationError as error:
            sentences = dict.fromkeys(_explain(function, error))
            raise ValueError("; ".join(sentences)) from error

    return call


def check_fields(cls: type[R]) -> type[R]:
    """Check the fields of a dataclass as `check_arguments` checks arguments."""
    cls.__init__ = check_arguments(cls.__init__)  # type: ignore[method-assign]
    return cls


def _explain(function: Callable[..., Any], error: ValidationError) -> Iterator[str]:
    name = function.__qualname__.removesuffix(".__init__")
    for problem in error.errors():
        parameter = str(problem["loc"][0]) if problem["loc"] else ""
        if error.title in (function.__name__, function.__qualname__):
            value, kind = problem["input"], function.__annotations__[parameter]
            if problem["type"] == "literal_error":
                kind = problem["ctx"]["expected"]
            simple = isinstance(value, str | int | float | tuple | None)
            text = reprlib.repr(value) if simple else type(value).__name__
            yield f"{name}: {parameter} must be {kind}, got {text}"
        elif problem["type"] == "extra_forbidden":  # a section, whose fields are the arguments
            yield f"{name}: there is no parameter {parameter}"
        else:
            yield f"{name}: {explain_problem(problem)}"
