"""TOML files that researchers write, and their sections."""

import difflib
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from harness.text import normalise_name


class Section(BaseModel):
    """A section of a TOML file. Unknown keys are errors; values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    #: Whether a key that is a number may be text, as every key is in TOML.
    keys_are_text: ClassVar[bool] = True

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_misread(cls, raw: object, validate: ModelWrapValidatorHandler[Self]) -> Self:
        section = validate(raw)
        error = PydanticCustomError("number", "must hold a number, not true, false or text")
        faults = [
            InitErrorDetails(type=error, loc=(name,), input=wrong)
            for name, value in (raw.items() if isinstance(raw, dict) else ())
            for wrong in _misread(value, getattr(section, name), cls.keys_are_text)
        ]
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return section

    @classmethod
    def read(cls, path: Path, kind: str) -> Self:
        """Read a TOML file; `kind` says in messages what the file is.

        Raises:
            ValueError: the file cannot be read, or a line per parameter with its value and what is
                allowed.
        """
        try:
            return cls(**read_toml(path, kind))
        except ValidationError as error:
            lines = [f"{path}: {_explain(problem, cls)}" for problem in list_errors(error)]
            raise ValueError("\n".join(lines)) from error


def _misread(raw: object, value: object, keys_are_text: bool) -> Iterator[object]:
    """Yield what was read as a number and is true, false or text: a value, or parts of lists and
    tables."""
    pairs: list[tuple[object, object]] = []
    if isinstance(raw, dict) and isinstance(value, dict):
        pairs += zip(raw.values(), value.values(), strict=False)
        pairs += [] if keys_are_text else zip(raw, value, strict=False)
    elif isinstance(raw, list | tuple) and isinstance(value, list | tuple):
        pairs += zip(raw, value, strict=False)
    elif isinstance(raw, bool | str) and type(value) in (int, float):
        yield raw
    for part, read in pairs:
        yield from _misread(part, read, keys_are_text)


def check_each(check: Callable[[str], object]) -> AfterValidator:
    """Return a validator of a list of names: each must pass a check, which raises ValueError."""

    def check_names(names: tuple[str, ...]) -> tuple[str, ...]:
        faults = []
        for name in names:
            try:
                check(name)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("\n".join(faults))
        return names

    return AfterValidator(check_names)


def _refuse_repeats(values: tuple[object, ...]) -> tuple[object, ...]:
    for value, count in Counter(values).items():
        if count > 1:
            text = list(value) if isinstance(value, tuple) else value
            raise ValueError(f"{text!r} occurs {count} times")
    return values


#: The name of a class, in the form in which `folder_images` has it.
ClassName = Annotated[str, AfterValidator(normalise_name)]

#: Validator of a list in which no value may occur twice.
DISTINCT = AfterValidator(_refuse_repeats)


def list_errors(error: ValidationError) -> list[Any]:
    """Return pydantic's errors; if items of a list are wrong, it also reports that the list of the
    valid ones is too short, which is left out."""
    errors = error.errors()
    places = {e["loc"][:depth] for e in errors for depth in range(len(e["loc"]))}
    return [e for e in errors if e["type"] != "too_short" or e["loc"] not in places]


def _explain(problem: Any, section: type[Section]) -> str:
    """Describe a problem that pydantic reports: parameter, value, and what is allowed."""
    message = describe_fault(problem)
    if problem["type"] == "extra_forbidden":
        message = f"unknown key{suggest(str(problem['loc'][-1]), fields_of(section))}"
    place = ".".join(map(str, problem["loc"]))
    return f"{place} = {problem['input']!r}: {message}" if place else message


#: Patterns of pydantic's messages -> words that need no knowledge of programming.
_PLAIN_WORDS = {
    "Field required": "is missing",
    "a valid tuple": "a list",
    "a valid integer.*": "a whole number",
    "a valid number.*": "a number",
    "a valid string": "text in quotes",
    "a valid boolean.*": "true or false",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


def describe_fault(problem: Any) -> str:
    """Describe what is allowed by a problem that pydantic reports."""
    if problem["type"] in ("dict_type", "model_type", "model_attributes_type"):
        return "must be a table"
    message = problem["msg"].removeprefix("Value error, ").replace(" after validation", "")
    message = re.sub(r"^(Input|Tuple|List|Dictionary|String) should", "must", message)
    for pattern, words in _PLAIN_WORDS.items():
        message = re.sub(pattern, words, message)
    return message


def suggest(key: str, known: Mapping[str, str]) -> str:
    """Say where an unknown key belongs, or which known key resembles it; "" if there is none."""
    if key in known:
        table = "[series]" if known[key] == "series" else known[key]  # a list of tables
        return f"; it belongs in [{table}]." if table else "; it belongs before all tables."
    matches = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def fields_of(kind: Any, table: str = "") -> dict[str, str]:
    """Return the names of a section's fields and of the fields of its sub-sections, and the table
    of each ("" for the section itself)."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        parts = [fields_of(part, table) for part in get_args(kind)]
    else:
        subtables = {name: f"{table}.{name}".strip(".") for name in kind.model_fields}
        parts = [fields_of(f.annotation, subtables[n]) for n, f in kind.model_fields.items()]
        parts.append(dict.fromkeys(kind.model_fields, table))
    return {name: table for part in parts for name, table in part.items()}


def read_text(path: Path, kind: str) -> str:
    """Read a text file that a researcher wrote, with or without a byte order mark; `kind` says in
    messages what the file is.

    Raises:
        ValueError: it cannot be read, or is not in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{kind} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{kind} {path} cannot be read: byte {error.start + 1} is not UTF-8; save the file in "
            f"UTF-8"
        ) from error
    if "\0" in text:  # PostgreSQL cannot read it in a study's texts
        raise ValueError(
            f"{kind} {path} holds zero bytes, as files in UTF-16 do; save the file in UTF-8"
        )
    return text


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """Read a TOML file that a researcher wrote.

    Raises:
        ValueError: as `read_text`, or the file is not valid TOML.
    """
    try:
        return tomllib.loads(read_text(path, kind))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{kind} {path} cannot be read: not valid TOML: {error}") from error
