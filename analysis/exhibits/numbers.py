"""Write numbers.tex, with a LaTeX macro for every number of every table, so that authors need not
copy numbers by hand."""

import re
from collections.abc import Mapping

import pandas as pd

from analysis.exhibits.latex import escape
from analysis.exhibits.tables import Table

_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_GREEK = {"α": "alpha", "κ": "kappa", "′": "prime"}


def macro_name(*parts: object) -> str:
    r"""Return a name of letters only: "ceAccuracyBaseLow" for ("accuracy", "base", "low")."""
    words = []
    for part in parts:
        text = "".join(_GREEK.get(c, c) for c in str(part))
        text = re.sub(r"\d", lambda m: f" {_DIGITS[int(m.group())]} ", text)
        words += [word[:1].upper() + word[1:] for word in re.findall(r"[A-Za-z]+", text)]
    return "ce" + "".join(words)


def numbers_tex(tables: Mapping[str, Table]) -> str:
    r"""Return definitions \newcommand{\ceTableRowColumn}{number as shown in the table}.

    A row is named by its text columns, and by its position if these are not unique; likewise a
    column by its name. (Macros have only the Latin letters and digits of a name.)

    Raises:
        ValueError: two numbers would have the same name.
    """
    lines = ["% Written by conceptevo analyse; every number in the text should come from here."]
    sources: dict[str, str] = {}
    for name, table in tables.items():
        cells = table.cells()
        number_columns = [c for c in cells.columns if pd.api.types.is_numeric_dtype(table.frame[c])]
        text_columns = [c for c in cells.columns if c not in number_columns]
        keys = [" ".join(row) for row in cells[text_columns].to_numpy().tolist()]
        keys = [re.sub("−", " minus ", key) for key in keys]
        keys = _make_distinct(keys, always=not text_columns)
        headings = dict(zip(number_columns, _make_distinct(number_columns), strict=True))
        for key, row in zip(keys, cells.to_dict("records"), strict=True):
            for column, heading in headings.items():
                macro = macro_name(name, key, heading)
                if macro in sources:
                    raise ValueError(
                        f"{name}, {key!r}, {column!r} and {sources[macro]} would both be \\{macro}"
                    )
                sources[macro] = f"{name}, {key!r}, {column!r}"
                lines.append(rf"\newcommand{{\{macro}}}{{{escape(row[column])}}}")
    return "\n".join(lines) + "\n"


def _make_distinct(names: list[str], always: bool = False) -> list[str]:
    """Return names, each with its position if `always` or if two would be the same in macros."""
    if len({macro_name(name) for name in names}) == len(names) and not always:
        return names
    return [f"{name} {position}" for position, name in enumerate(names, 1)]
