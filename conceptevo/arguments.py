"""Refuse wrong arguments of the Python interface in plain sentences."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from harness.config import explain_problem
from harness.section import Section, describe_fault

P = ParamSpec("P")
R = TypeVar("R")


class _Arguments(Section):
    """The arguments of a call, checked like a section: no number is read from true or from text."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    keys_are_text = False


def check_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a function against its annotations when it is called.

    Messages show types as they are written, so the function's module imports `annotations` from
    `__future__`.

    Raises:
        ValueError: an argument has another type, or a value that a section of the configuration
            does not allow; the message has a sentence for each.
        TypeError: an argument is missing, or there is no such parameter.
    """
    parameters, kinds = signature(function), get_type_hints(function, include_extras=True)
    name = function.__qualname__.removesuffix(".__init__")
    types = {n: _name_type(kinds[n], text) for n, text in function.__annotations__.items()}
    # `bind` supplies the defaults; of `**parameters`, the function's own sections know the types
    fields: dict[str, Any] = {
        parameter.name: (kinds[parameter.name], None)
        for parameter in parameters.parameters.values()
        if parameter.name in kinds and parameter.kind != Parameter.VAR_KEYWORD
    }
    model = create_model(name, __base__=_Arguments, **fields)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = parameters.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        given = {n: value for n, value in bound.arguments.items() if n in fields}
        try:
            checked = model(**given)
        except ValidationError as error:
            texts = [_explain_type(types, given, problem) for problem in error.errors()]
            raise _refusal(name, texts) from error
        bound.arguments.update((n, getattr(checked, n)) for n in given)
        try:
            return function(*bound.args, **bound.kwargs)
        except ValidationError as error:  # of a section, whose fields are the arguments
            raise _refusal(name, [_explain_value(problem) for problem in error.errors()]) from error

    return call


def check_fields(cls: type[R]) -> type[R]:
    """Check the fields of a dataclass as `check_arguments` checks arguments."""
    cls.__init__ = check_arguments(cls.__init__)  # type: ignore[method-assign]
    return cls


def _refusal(name: str, texts: list[str]) -> ValueError:
    return ValueError("; ".join(dict.fromkeys(f"{name}: {text}" for text in texts)))


def _name_type(kind: Any, text: str) -> str:
    """Return a type as it is written, but that of a number without its limits."""
    if get_args(kind)[1:] == (type(None),):
        return _name_type(get_args(kind)[0], text.removesuffix(" | None")) + " | None"
    if get_origin(kind) is not Annotated:
        return text
    return getattr(kind.__origin__, "__name__", str(kind.__origin__))


def _explain_type(types: Mapping[str, str], given: Mapping[str, Any], problem: Any) -> str:
    parameter = problem["loc"][0]
    is_of_value = problem["type"].startswith(("literal", "greater", "less"))
    rule = describe_fault(problem) if is_of_value else f"must be {types[parameter]}"
    value = problem["input"] if isinstance(given[parameter], Mapping) else given[parameter]
    simple = isinstance(value, str | int | float | tuple | list | None)
    return f"{parameter} {rule}, got {reprlib.repr(value) if simple else type(value).__name__}"


def _explain_value(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return f"there is no parameter {problem['loc'][0]}"
    return explain_problem(problem)
