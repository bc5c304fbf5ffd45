"""Sections of text, figures and tables as one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pandas as pd

from analysis.exhibits.figures import Figure
from analysis.exhibits.phrases import spaced
from analysis.exhibits.tables import Table, sentence
from harness.artifacts import write_text

#: Tables with more rows than this are folded away in the report.
FOLDED_FROM = 17


@dataclass(frozen=True)
class Section:
    """A part of a report: paragraphs, what was found (built from the data), figures, tables."""

    title: str
    text: Sequence[str] = ()
    findings: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = field(default=())


def write_html(
    path: Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    footer: str,
    links: Mapping[str, str] | None = None,
) -> None:
    """Write the report; images are inside it, so that the one file can be sent to a colleague.

    Args:
        links: address -> text, shown below the lead.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["sentence"] = sentence
    environment.filters["whole"] = whole
    page = environment.get_template("report.html").render(
        title=title,
        lead=lead,
        footer=footer,
        links=links or {},
        sections=[
            {
                "title": section.title,
                "text": section.text,
                "findings": section.findings,
                "figures": [
                    {"uri": figure.data_uri(), "title": figure.title, "caption": figure.caption}
                    for figure in section.figures
                ],
                "tables": [_table(table) for table in section.tables],
            }
            for section in sections
        ],
    )
    write_text(path, page)


def whole(text: str) -> str:
    """The text with numbers and their signs on one line: 17 %, p = .03."""
    return re.sub(r"(?<=\d) (?=%)|(?<=\bp) (?=[<=])|(?<=[<=]) (?=[\d.])", "\u00a0", text)


def _table(table: Table) -> dict[str, object]:
    shown = table.shown()
    return {
        "title": table.title,
        "caption": table.caption,
        "columns": [
            (spaced(name), pd.api.types.is_numeric_dtype(table.frame[name]))
            for name in shown.columns
        ],
        "rows": shown.to_numpy().tolist(),
        "long": len(shown) > FOLDED_FROM,
    }
