"""Files whose names contain the epoch, found by a pattern."""

from __future__ import annotations

import re
from pathlib import Path

#: Parts of a pattern of paths -> regular expression.
_EXPRESSIONS = {"**/": "(?:.*/)?", "*": "[^/]*", "{epoch}": r"(?<!\d)(\d+)(?!\d)"}


def numbered(folder: Path, pattern: str) -> list[tuple[Path, int | None]]:
    """Return the paths below a folder that match a pattern (see `FolderSource`), sorted, each with
    its epoch; None if the path fits except for the number.

    Raises:
        ValueError: the pattern fits a name in several ways, with different epochs.
    """
    pattern = pattern.removeprefix("./")
    # brackets and question marks have no special meaning in `pattern`
    literal = re.sub(r"([\[\]?])", r"[\1]", pattern).replace("{epoch}", "*")
    parts = (part if part == "**" else re.sub(r"\*+", "*", part) for part in literal.split("/"))
    longest = "".join(
        _EXPRESSIONS.get(part, re.escape(part))
        for part in re.split(r"(\*\*/|\*|\{epoch\})", pattern)
    )
    shortest = longest.replace(_EXPRESSIONS["*"], _EXPRESSIONS["*"] + "?")
    matches: list[tuple[Path, int | None]] = []
    for path in sorted(folder.glob("/".join(parts))):
        name = path.relative_to(folder).as_posix()
        ways = [re.fullmatch(expression, name) for expression in (shortest, longest)]
        epoch, *others = dict.fromkeys(int(way.group(1)) if way else None for way in ways)
        if others:
            raise ValueError(
                f"by pattern {pattern!r}, the epoch of {name} may be "
                f"{' or '.join(map(str, (epoch, *others)))}: write what is before or after it"
            )
        matches.append((path, epoch))
    return matches
