"""Lists and counts in sentences."""

from __future__ import annotations

from collections.abc import Iterable


def listed(names: Iterable[object], most: int = 5) -> str:
    """Join the first `most` names and the number of further ones: "a, b and 3 more"."""
    texts = list(map(str, names))
    more = len(texts) - most
    return ", ".join(texts[:most]) + f" and {more} more" * (more > 0)


def counted(number: int, one: str, several: str = "") -> str:
    """Join a number and its noun: 1 trial, 1,200 trials, 2 answers are."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"
