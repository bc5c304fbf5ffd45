"""Tables: a frame with a caption and formats, written as CSV, Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.exhibits.latex import latex_table
from analysis.exhibits.phrases import as_printed, as_words, number_text, p_cell, without_noise
from harness.files import csv_text, write_text

#: The format of p-values, see `phrases.p_cell`.
P_VALUE = "p"

#: Column -> format of its values.
Formats = Mapping[str, str | Callable[[Any], str]]


@dataclass(frozen=True)
class Table:
    """A table with its title and caption.

    Attributes:
        name: file name without suffix, and LaTeX label.
        title: a short title.
        caption: what a row and the numbers are, and how intervals and tests were computed.
        frame: unrounded numbers and strings, as in the CSV file; a named index becomes columns.
        formats: column -> format of its numbers, e.g. "{:+.3f}", P_VALUE or a function; only a
            function changes strings. "{:+.1%}" prints a share in percentage points without "%",
            so that the caption must name the unit.
        hidden: columns that only the CSV file has.
        headings: column -> heading; by default its name with spaces.

    A column that is followed by "… low" and "… high" is shown with them: 0.767 [0.713, 0.814].
    """

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    formats: Formats = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    headings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frame = self.frame
        if any(name is not None for name in frame.index.names):
            frame = frame.reset_index()
        if (names := list(map(str, frame.columns))) != list(frame.columns):
            frame = frame.set_axis(names, axis=1)
        object.__setattr__(self, "frame", frame)

    def cells(self) -> pd.DataFrame:
        """Return the frame as strings, without hidden columns; missing values are "–"."""
        columns = {
            name: [self._text(name, value) for value in self.frame[name]] for name in self.frame
        }
        return pd.DataFrame(columns).drop(columns=list(self.hidden))

    def shown_cells(self) -> pd.DataFrame:
        """Return `cells` with intervals after their values, in one column."""
        cells = self.cells()
        names = list(cells.columns)
        for column, low, high in zip(names, names[1:], names[2:], strict=False):
            if low.split()[-1:] == ["low"] and high.split()[-1:] == ["high"]:
                ends = " [" + cells[low] + ", " + cells[high] + "]"
                cells[column] += ends.where(cells[low] != "–", "")
                cells = cells.drop(columns=[low, high])
        return cells

    def heads(self) -> list[tuple[str, bool]]:
        """Return the heading of each visible column, and whether it holds numbers."""
        numeric = pd.api.types.is_numeric_dtype
        names = list(self.shown_cells())
        return [(self.headings.get(c, as_words(c)), numeric(self.frame[c])) for c in names]

    def rows(self) -> list[list[str]]:
        return self.shown_cells().to_numpy().tolist()

    def _text(self, column: str, value: object) -> str:
        if pd.isna(value):  # type: ignore[call-overload]
            return "–"
        form = self.formats.get(column, "{}")
        if not isinstance(value, int | float):
            return str(value) if isinstance(form, str) else form(str(value))
        if form == P_VALUE:
            form = p_cell
        if isinstance(form, str) and form.startswith("{:") and form.endswith("%}"):
            return number_text(value, form[2:-2] + "f", 100)
        if isinstance(value, float):
            value = without_noise(value)
        return as_printed(form.format(value) if isinstance(form, str) else form(value))

    def to_json(self) -> str:
        """Return the whole table as JSON, which `from_json` reads."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "frame"}
        parts["frame"] = self.frame.to_dict(orient="split", index=False)
        return json.dumps(parts, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Table:
        parts = json.loads(text)
        return cls(**parts | {"frame": pd.DataFrame(**parts["frame"])})

    def csv(self) -> str:
        return csv_text(self.frame, float_format="%.6g")

    def markdown(self) -> str:
        grid = markdown_table([head for head, _ in self.heads()], self.rows())
        return f"**{as_sentence(self.title)}** {self.caption}\n\n{grid}\n"

    def _repr_html_(self) -> str:
        caption = html.escape(f"{as_sentence(self.title)} {self.caption}")
        return self._headed_cells().to_html(index=False) + f"<p>{caption}</p>"

    def __repr__(self) -> str:
        cells = self._headed_cells().to_string(index=False)
        return f"{as_sentence(self.title)}\n{cells}\n{self.caption}"

    def _headed_cells(self) -> pd.DataFrame:
        return self.shown_cells().set_axis([name for name, _ in self.heads()], axis=1)

    def latex(self) -> str:
        caption = f"{as_sentence(self.title)} {self.caption}"
        return latex_table(self.name, caption, self.heads(), self.rows())

    def write(self, folder: Path) -> None:
        texts = {".csv": self.csv(), ".md": self.markdown(), ".tex": self.latex()}
        for suffix, text in texts.items():
            write_text(folder / f"{self.name}{suffix}", text)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown without title and caption."""
    lines = [head, ["---"] * len(head), *rows]
    # A pipe ends a cell, a backslash escapes one, and what looks like an HTML tag is not shown.
    escape = partial(re.sub, r"([\\|]|<(?=[A-Za-z/!?]))", r"\\\1")
    return "\n".join(
        "| " + " | ".join(escape(str(cell)).replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def as_sentence(title: str) -> str:
    """Return a title as the first sentence of a caption."""
    return title if title.endswith("?") else f"{title}."
