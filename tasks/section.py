"""A section of a TOML file that a researcher writes, and what is said when it does not fit."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def explain(path: Path, error: ValidationError) -> str:
    """One line a fault: the parameter, its value, what is allowed."""
    return "\n".join(
        f"{path}: {'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}"
        for e in error.errors()
    )
