"""Lists and counts in sentences, forms of names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def join_names(names: Iterable[object], most: int = 5) -> str:
    """Join the first `most` names and the number of further ones: "a, b and 3 more"."""
    texts = list(map(str, names))
    more = len(texts) - most
    return ", ".join(texts[:most]) + f" and {more} more" * (more > 0)


def pluralise(number: int, one: str, several: str = "") -> str:
    """Join a number and its noun: 1 trial, 1,200 trials, 2 answers are."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def normalise_name(name: str) -> str:
    """Return a name in the Unicode form (NFC) in which é is one character: some systems and
    keyboards write two."""
    return unicodedata.normalize("NFC", name)
