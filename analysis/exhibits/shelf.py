"""One shelf of exhibits: tables, figures and sentences of runs, benchmarks and studies.

An exhibit is one function of a report's subject (a run, a benchmark, a study's results). Its
decorator says in which report and section it stands, and by that alone it is written as CSV,
Markdown, LaTeX, PNG and PDF and shown in the HTML report. A function returns None where the subject
lacks what it needs; a section without exhibits is not shown.

    @table("run", "networks")
    def parameters(run): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from analysis.exhibits.figures import Figure
from analysis.exhibits.report import Section
from analysis.exhibits.tables import Table
from harness.registry import import_attribute

F = TypeVar("F", bound=Callable[..., Any])

#: The reports: a run's, a benchmark's, a study's.
REPORTS = ("run", "bench", "study")

#: The section of exhibits of one's own, and of those whose section a report does not have.
OWN = "own"
#: The kind of an exhibit of one's own without a decorator.
EITHER = "table or figure"


@dataclass(frozen=True)
class Exhibit:
    """What stands on the shelf.

    Attributes:
        kind: "table", "figure", "sentences" or EITHER.
        report, section: where it stands.
        name: of its files.
        make: subject -> Table, Figure or None; of sentences, (subject, the report's tables) ->
            paragraphs.
    """

    kind: str
    report: str
    section: str
    name: str
    make: Callable[..., Any]


@dataclass(frozen=True)
class _Heading:
    title: str
    text: Callable[[Any], Sequence[str]]


_exhibits: dict[tuple[str, str, str], Exhibit] = {}
_headings: dict[tuple[str, str], _Heading] = {}


def section(
    report: str, name: str, title: str, text: Sequence[str] | Callable[[Any], Sequence[str]] = ()
) -> None:
    """Add a section to a report, after those it has.

    Args:
        report: one of REPORTS.
        name: by which exhibits name it.
        title: what readers see.
        text: paragraphs before its exhibits, or a function of the subject that gives them.
    """
    _headings[report, name] = _Heading(title, text if callable(text) else lambda _: text)


def table(report: str, section: str, name: str = "") -> Callable[[F], F]:
    """Register a function (subject) -> Table or None."""
    return _shelved("table", report, section, name)


def figure(report: str, section: str, name: str = "") -> Callable[[F], F]:
    """Register a function (subject) -> Figure or None."""
    return _shelved("figure", report, section, name)


def sentences(report: str, section: str, name: str = "") -> Callable[[F], F]:
    """Register a function (subject, tables by name) -> paragraphs that state findings."""
    return _shelved("sentences", report, section, name)


def _shelved(kind: str, report: str, section: str, name: str) -> Callable[[F], F]:
    if report not in REPORTS:
        raise ValueError(f"report {report!r}: there are {', '.join(REPORTS)}")

    def register(make: F) -> F:
        known = name or getattr(make, "__name__", "")
        key = (report, kind, known)
        if key in _exhibits and _origin(_exhibits[key].make) != _origin(make):
            raise ValueError(f"{kind} {known!r} of report {report!r} is registered twice")
        _exhibits[key] = Exhibit(kind, report, section, known, make)
        return make

    return register


def _origin(make: Callable[..., Any]) -> str:
    return f"{getattr(make, '__module__', '')}.{getattr(make, '__qualname__', '')}"


def use(report: str, names: Iterable[str]) -> None:
    """Add exhibits of one's own to a report.

    Args:
        report: one of REPORTS.
        names: each "package.module:function"; a function without a decorator is shown in a section
            of its own, as a table or figure by what it returns.

    Raises:
        ValueError: an import that fails.
    """
    for name in names:
        make = import_attribute(name, "exhibit")
        if not any(e.make is make and e.report == report for e in _exhibits.values()):
            own = name.partition(":")[2]
            _exhibits[report, EITHER, own] = Exhibit(EITHER, report, OWN, own, make)


def get(report: str, kind: str, name: str) -> Callable[..., Any]:
    """The function of an exhibit. Raises ValueError for an unknown name."""
    try:
        return _exhibits[report, kind, name].make
    except KeyError:
        known = ", ".join(names(report, kind))
        raise ValueError(f"unknown {kind} {name!r} of report {report!r}; known: {known}") from None


def names(report: str, kind: str) -> list[str]:
    """The names of a report's exhibits of one kind."""
    return [e.name for e in _exhibits.values() if e.report == report and e.kind == kind]


def tables_of(report: str, subject: Any) -> dict[str, Table]:
    """All tables of a report that its subject has."""
    made = _made(report, "table", Table, subject)
    return {name: value for name, value in made.items() if len(value.frame)}


def figures_of(report: str, subject: Any) -> dict[str, Figure]:
    """All figures of a report that its subject has."""
    return _made(report, "figure", Figure, subject)


def _made(report: str, kind: str, wanted: type, subject: Any) -> dict[str, Any]:
    """What the exhibits of a kind give, and those of one's own that turn out to be of it."""
    mine = [e for e in _exhibits.values() if e.report == report and e.kind in (kind, EITHER)]
    made = [(e, e.make(subject)) for e in mine]
    return {
        e.name: value
        for e, value in made
        if value is not None and (e.kind == kind or isinstance(value, wanted))
    }


def sections_of(
    report: str,
    subject: Any,
    tables: Mapping[str, Table],
    figures: Mapping[str, Figure],
) -> list[Section]:
    """The sections of a report, with its exhibits in the order in which they were registered.

    Args:
        report: one of REPORTS.
        subject: what it is about.
        tables, figures: made by `tables_of` and `figures_of`.
    """
    section(report, OWN, "Exhibits of your own")
    headings = {name: h for (of, name), h in _headings.items() if of == report}
    mine = [exhibit for exhibit in _exhibits.values() if exhibit.report == report]
    pools: tuple[Mapping[str, Any], Mapping[str, Any]] = (tables, figures)
    sections = []
    for name, heading in headings.items():
        here = [e for e in mine if (e.section if e.section in headings else OWN) == name]
        findings = [text for e in here if e.kind == "sentences" for text in e.make(subject, tables)]
        shown_tables, shown_figures = (
            [pool[e.name] for e in here if e.kind in (kind, EITHER) and e.name in pool]
            for kind, pool in zip(("table", "figure"), pools, strict=True)
        )
        text = list(heading.text(subject))
        if findings or shown_tables or shown_figures or (text and not here):
            sections.append(Section(heading.title, text, findings, shown_figures, shown_tables))
    return sections
