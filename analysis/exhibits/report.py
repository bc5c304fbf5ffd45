"""Write sections of text, figures and tables as one self-contained HTML file."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from analysis.exhibits.figures import Figure
from analysis.exhibits.tables import Table, as_sentence
from harness.files import write_text

#: Number of rows above which a table is folded in the report.
FOLDED_FROM = 17


@dataclass(frozen=True)
class Section:
    """A section of a report: paragraphs, findings (sentences from the data), figures and tables.

    [figure:NAME] and [table:NAME] in a text are replaced by the number of the figure or table.
    """

    title: str
    text: Sequence[str] = ()
    findings: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def write_html(
    path: Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    footer: str,
    links: Mapping[str, str] | None = None,
) -> None:
    """Write the report as one file that contains its images; `links` (address -> text) are shown
    below the lead."""
    numbers = _reference_numbers(sections)
    page = render(
        "report.html",
        {"sentence": as_sentence, "whole": tie, "numbered": partial(_refer, numbers=numbers)},
        title=title,
        lead=lead,
        footer=footer,
        links=links or {},
        sections=sections,
        numbers=numbers,
        folded_from=FOLDED_FROM,
    )
    write_text(path, page)


def render(template: str, functions: Mapping[str, Callable[[Any], str]], **values: object) -> str:
    """Return a template of this folder filled with values (in HTML, they are escaped); it may call
    the functions, also as filters, by their names."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=template.endswith(".md"),
    )
    environment.filters |= functions
    environment.globals |= functions
    return environment.get_template(template).render(values)


def paragraphs(template: str, **values: object) -> list[str]:
    """Return the paragraphs of a template filled with values; empty ones are left out."""
    texts = render(template, {}, **values).split("\n\n")
    return [text for text in map(str.strip, texts) if text]


def _reference_numbers(sections: Sequence[Section]) -> dict[str, str]:
    """Return the numbers ("Figure 2", "Table 1") of all figures and tables by reference."""
    figures = [figure.name for section in sections for figure in section.figures]
    tables = [table.name for section in sections for table in section.tables]
    return {
        f"{kind.lower()}:{name}": f"{kind} {number}"
        for kind, names in (("Figure", figures), ("Table", tables))
        for number, name in enumerate(names, 1)
    }


def _refer(text: str, numbers: Mapping[str, str]) -> str:
    """Replace the references in a text by numbers; raise ValueError if the report does not show
    what the text refers to."""

    def number(match: re.Match[str]) -> str:
        if match[1] not in numbers:
            raise ValueError(f"a text refers to {match[1]}, which the report does not show: {text}")
        return numbers[match[1]]

    return re.sub(r"\[((?:figure|table):\w+)\]", number, text)


def tie(text: str) -> str:
    """Insert no-break spaces in numbers with signs or units, as in 17 %, p = .03 and Table 1, and
    in intervals."""
    text = re.sub(
        r"(?<=\d) (?=%)|(?<=Figure) (?=\d)|(?<=Table) (?=\d)|(?<=\bp) (?=[<=])|(?<=[<=]) (?=[\d.])",
        "\u00a0",
        text,
    )
    return re.sub(r"(?<=\[)([^][ ]+,) ([^][ ]+)(?=\])", "\\1\u00a0\\2", text)
