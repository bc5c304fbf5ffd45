"""Lists, counts and sizes in sentences, forms of names."""

import unicodedata
from collections.abc import Iterable


def join_names(names: Iterable[object], limit: int = 5) -> str:
    """Join the first `limit` names and the number of further ones: "a, b and 3 more"."""
    texts = list(map(str, names))
    hidden = len(texts) - limit
    return ", ".join(texts[:limit]) + f" and {hidden} more" * (hidden > 0)


def pluralise(number: int, singular: str, plural: str = "") -> str:
    """Join a number and its noun: 1 trial, 1,200 trials, 2 answers are."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def format_bytes(number: float) -> str:
    """Return a number of bytes in GiB, small ones in MiB: 3.25 GiB, 0.40 MiB."""
    return f"{number / 2**30:.2f} GiB" if number >= 0.1 * 2**30 else f"{number / 2**20:.2f} MiB"


def normalise_name(name: str) -> str:
    """Return a name in the Unicode form (NFC) in which é is one character: some systems and
    keyboards write two."""
    return unicodedata.normalize("NFC", name)
