"""Tables: a frame, what it shows, and how it is printed. One function each, registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from harness.artifacts import Run, write_text
from harness.registry import Registry


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: file name without ending, and LaTeX label.
        title: a few words.
        caption: what a row is, what the numbers are, how intervals and tests were made.
        frame: plain numbers and strings, in full; this is what the CSV holds.
        formats: column -> format of its numbers, e.g. "{:+.3f}"; others are printed as they are.
        hidden: columns that only the CSV shows.
    """

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    formats: dict[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()

    def shown(self) -> pd.DataFrame:
        """The frame as strings, as a reader sees it; undefined numbers are a dash."""
        visible = self.frame.drop(columns=list(self.hidden))
        columns = {
            name: [self._text(name, value) for value in visible[name]] for name in visible.columns
        }
        return pd.DataFrame(columns)

    def _text(self, column: str, value: object) -> str:
        if pd.isna(value):  # type: ignore[call-overload]
            return "–"
        return (
            self.formats.get(column, "{}").format(value).replace("-", "−")
            if (isinstance(value, int | float))
            else str(value)
        )

    def csv(self) -> str:
        return self.frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")

    def markdown(self) -> str:
        shown = self.shown()
        rows = [list(shown.columns), ["---"] * len(shown.columns), *shown.to_numpy().tolist()]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return f"**{sentence(self.title)}** {self.caption}\n\n" + "\n".join(lines) + "\n"

    def latex(self) -> str:
        """A booktabs table that compiles as it stands."""
        shown = self.shown()
        numeric = [pd.api.types.is_numeric_dtype(self.frame[name]) for name in shown.columns]
        align = "".join("r" if is_number else "l" for is_number in numeric)
        head = " & ".join(map(escape, shown.columns))
        body = [" & ".join(map(escape, row)) + r" \\" for row in shown.to_numpy().tolist()]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{escape(sentence(self.title))} {escape(self.caption)}}}",
                rf"\label{{tab:{self.name}}}",
                rf"\begin{{tabular}}{{{align}}}",
                r"\toprule",
                head + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    def write(self, folder: Path) -> list[Path]:
        """CSV, Markdown and LaTeX files; their paths."""
        texts = {".csv": self.csv(), ".md": self.markdown(), ".tex": self.latex()}
        for suffix, text in texts.items():
            write_text(folder / f"{self.name}{suffix}", text)
        return [folder / f"{self.name}{suffix}" for suffix in texts]


def sentence(title: str) -> str:
    """A title as the first sentence of a caption."""
    return title if title.endswith("?") else f"{title}."


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
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
    "α": r"$\alpha$",
    "κ": r"$\kappa$",
    "Δ": r"$\Delta$",
    "′": r"$'$",
}


def escape(text: str) -> str:
    """Text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


#: Tables of a run: name -> function(run) -> Table, or None where the run lacks what it needs.
RUN_TABLES: Registry[Callable[[Run], Table | None]] = Registry("table")
