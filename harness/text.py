"""Lists in messages."""

from __future__ import annotations

from collections.abc import Iterable


def listed(names: Iterable[object], most: int = 5) -> str:
    """The first names, and how many more there are: "a, b and 3 more"."""
    texts = list(map(str, names))
    more = len(texts) - most
    return ", ".join(texts[:most]) + f" and {more} more" * (more > 0)
