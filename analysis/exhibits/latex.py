"""Tables in LaTeX: booktabs tables that fit the page of an article."""

import re
import unicodedata
from collections.abc import Sequence
from functools import partial
from math import ceil
from typing import NamedTuple


class Size(NamedTuple):
    """A size of tables.

    Attributes:
        rotated: whether the table is turned by 90 degrees.
        commands: LaTeX commands that set the size of letters and the space between columns.
        page: width of the page, in em of these letters.
        space: width of the space of one column, in em.
        lines: number of lines on a page; a longer table is continued on further pages.
    """

    rotated: bool
    commands: str
    page: float
    space: float
    lines: int


#: From the largest; the widths are those of an article in 10 pt on letter paper, Computer Modern.
SIZES = (
    Size(False, r"\footnotesize\setlength{\tabcolsep}{4pt}", 40.0, 0.94, 40),
    Size(True, r"\footnotesize\setlength{\tabcolsep}{4pt}", 64.0, 0.94, 25),
    Size(True, r"\scriptsize\setlength{\tabcolsep}{4pt}", 68.0, 1.0, 28),
    Size(True, r"\tiny\setlength{\tabcolsep}{2.5pt}", 79.0, 0.74, 40),
)
#: Columns are broken into lines of at least this width in em, except in the smallest size.
NARROWEST = 20.0

_ESCAPED = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "|": r"\textbar{}",
    "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
    "−": r"$-$",
    "–": "--",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "<": r"$<$",
    ">": r"$>$",
    "Δ": r"$\Delta$",
    "′": r"$'$",
    "\u00a0": "~",
    "λ": r"$\lambda$",  # called "lamda" in Unicode
    **{letter: f"$\\{unicodedata.name(letter).split()[-1].lower()}$"
       for letter in "αβγδεζηθικμνξπρστφχψω"},
}  # fmt: skip
#: Characters beyond Latin-1 that pdflatex knows.
_PLAIN = "“”‘’—…"

#: Where the lines of a column may be broken.
_BREAK = re.compile(r" |(?<=_)")


def escape(text: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in text)


def latex_table(
    name: str, caption: str, heads: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]
) -> str:
    """Return a booktabs table; a wide one is rotated and its widest columns are broken into lines,
    a long one continues on further pages. Its first line names what it needs.

    Args:
        heads: the heading of each column, and whether it holds numbers.
    """
    caption = re.sub(r"\s*\n\s*", " ", caption)  # \caption takes one paragraph
    # An interval is not broken between its ends.
    tie = partial(re.sub, r"(\[[^][ ]+,) (?=[^][ ]+\])", "\\1\u00a0")
    grid = [list(map(tie, row)) for row in ([head for head, _ in heads], *rows)]
    size, widths = _layout(grid)
    align = "".join(
        _column_format("r" if number else "l", width)
        for (_, number), width in zip(heads, widths, strict=True)
    )
    label_text = rf"\caption{{{escape(caption)}}}\label{{tab:{name}}}"
    top, *body = [_row(row, widths) for row in grid]
    rules = [r"\toprule", top, r"\midrule"]
    requirements = "% needs booktabs" + ", array" * any(widths)
    if sum(_count_lines(row, widths) for row in grid[1:]) > size.lines:
        requirements += ", longtable" + ", lscape" * size.rotated
        opening = [r"\begin{landscape}"] * size.rotated
        opening += [rf"{{{size.commands}", rf"\begin{{longtable}}{{{align}}}", label_text + r"\\"]
        opening += [*rules, r"\endfirsthead", *rules, r"\endhead"]
        closing = [r"\end{longtable}}", *[r"\end{landscape}"] * size.rotated]
    else:
        kind = "sidewaystable" if size.rotated else "table"
        requirements += ", rotating" * size.rotated
        opening = [rf"\begin{{{kind}}}", rf"\centering{size.commands}"]
        opening += [label_text, rf"\begin{{tabular}}{{{align}}}", *rules]
        closing = [r"\end{tabular}", rf"\end{{{kind}}}"]
    text = "".join([caption, *(cell for row in grid for cell in row)])
    if any(ord(c) > 0xFF and c not in _ESCAPED and c not in _PLAIN for c in text):
        requirements += "; LuaLaTeX or XeLaTeX with a font that has all its letters"
    return "\n".join([requirements, *opening, *body, r"\bottomrule", *closing, ""])


def _row(cells: Sequence[str], widths: Sequence[float]) -> str:
    r"""Return a row. After \\ of the row before, [ and * would not be printed."""
    columns = zip(map(escape, cells), widths, strict=True)
    row = " & ".join(c.replace(r"\_", r"\_\allowbreak{}") if w else c for c, w in columns) + r" \\"
    return "{}" + row if row[0] in "[*" else row


def _count_lines(row: Sequence[str], widths: Sequence[float]) -> int:
    """Return about how many lines a row takes."""
    line_counts = (_em(cell) / width for cell, width in zip(row, widths, strict=True) if width)
    return ceil(max([1.0, *line_counts]))


def _column_format(side: str, width: float) -> str:
    ragged = {"l": "right", "r": "left"}[side]
    return rf">{{\ragged{ragged}\arraybackslash}}p{{{width:.1f}em}}" if width else side


def _layout(grid: Sequence[Sequence[str]]) -> tuple[Size, list[float]]:
    """Return the size of a table, and the widths in em of its columns; 0 for unbroken ones."""
    columns = list(zip(*grid, strict=True))
    full = [max(map(_em, column)) for column in columns]
    words = [max(_em(w) for cell in column for w in _BREAK.split(cell)) for column in columns]
    for size in SIZES:
        room, limit, widths = size.page - size.space * len(columns), max(full), full
        while sum(widths) > room and limit > 0:
            limit -= 0.5  # no column becomes narrower than its longest word
            widths = [max(word, min(w, limit)) for w, word in zip(full, words, strict=True)]
        if widths == full or (size.rotated and limit >= NARROWEST):
            break
    return size, [w if w < f else 0.0 for w, f in zip(widths, full, strict=True)]


def _em(text: str) -> float:
    """Return about the width of a text in em of Computer Modern."""
    return sum(map(_width, text))


def _width(character: str) -> float:
    if character in "ijlI.,:;'|![]":
        return 0.29
    if character in " \u00a0frst()-/":
        return 0.39
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    return 0.78 if character in "mwMW%@&−→×±≤≥<>=+" or character.isupper() else 0.54
