"""The registry of exhibits: tables, figures and sentences of runs, benchmarks and studies.

An exhibit is a function of a report's subject (a run, a benchmark, or the results of a study). Its
decorator names the report and section; a registered exhibit is written as CSV, Markdown, LaTeX, PNG
or PDF and shown in the HTML report. The function returns None if the subject lacks the data; a
section without exhibits is not shown.

    @table("run", "networks")
    def parameters(run): ...
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from analysis.exhibits.figures import Figure
from analysis.exhibits.report import Section
from analysis.exhibits.tables import Table
from harness.registry import call_user_code, import_attribute
from harness.text import join_names

F = TypeVar("F", bound=Callable[..., Any])

#: The reports: of a run, of a benchmark and of a study.
REPORTS = ("run", "bench", "study")

#: The section of users' exhibits, and of exhibits whose section does not exist in the report.
OWN = "own"
#: The kind of a user's exhibit without a decorator.
EITHER = "table or figure"


@dataclass(frozen=True)
class Exhibit:
    """A registered exhibit.

    Attributes:
        kind: "table", "figure", "sentences" or EITHER.
        report, section: the report and section in which it is shown.
        name: name of its files.
        make: function (subject) -> Table, Figure or None; for sentences, (subject, tables by name)
            -> paragraphs.
    """

    kind: str
    report: str
    section: str
    name: str
    make: Callable[..., Any]


#: (report, kind, name) -> exhibit.
_exhibits: dict[tuple[str, str, str], Exhibit] = {}
#: (report, section) -> title, and function of the subject that returns the first paragraphs.
_headings: dict[tuple[str, str], tuple[str, Callable[[Any], Iterable[str]]]] = {}


def section(
    report: str, name: str, title: str, text: Sequence[str] | Callable[[Any], Iterable[str]] = ()
) -> None:
    """Append a section to a report.

    Args:
        report: one of REPORTS.
        name: name that exhibits use. title: heading in the report.
        text: paragraphs before its exhibits, or a function of the subject that returns them.
    """
    _headings[report, name] = title, text if callable(text) else lambda _: text


def table(report: str, section: str, name: str = "") -> Callable[[F], F]:
    """Register a function (subject) -> Table or None."""
    return _register("table", report, section, name)


def figure(report: str, section: str, name: str = "") -> Callable[[F], F]:
    """Register a function (subject) -> Figure or None."""
    return _register("figure", report, section, name)


def sentences(report: str, section: str, name: str = "") -> Callable[[F], F]:
    """Register a function (subject, tables by name) -> paragraphs that state findings."""
    return _register("sentences", report, section, name)


def _register(kind: str, report: str, section: str, name: str) -> Callable[[F], F]:
    if report not in REPORTS:
        raise ValueError(f"report {report!r}: there are {', '.join(REPORTS)}")

    def register(make: F) -> F:
        key_name = name or getattr(make, "__name__", "")
        key = (report, kind, key_name)
        if key in _exhibits and _origin(_exhibits[key].make) != _origin(make):
            raise ValueError(f"{kind} {key_name!r} of report {report!r} is registered twice")
        _exhibits[key] = Exhibit(kind, report, section, key_name, make)
        return make

    return register


def _origin(make: Callable[..., Any]) -> str:
    return f"{getattr(make, '__module__', '')}.{getattr(make, '__qualname__', '')}"


def use(report: str, names: Iterable[str]) -> None:
    """Add a user's exhibits to a report.

    Args:
        report: one of REPORTS.
        names: each "package.module:function"; a function without a decorator may return a Table or
            a Figure and is shown in the last section, OWN. One whose decorator names the other
            report of a run's folder is left to that report, as both have one list in [report].

    Raises:
        ValueError: a function cannot be imported, has the name of another exhibit, or is decorated
            for another report only (a study, where this is a run's, or the reverse).
    """
    for name in names:
        make = import_attribute(name, "exhibit")
        decorated = {e.report for e in _exhibits.values() if e.make is make and e.kind != EITHER}
        sharing = {"study"} if report == "study" else {"run", "bench"}  # one list of names
        if decorated and not decorated & sharing:
            named = join_names(sorted(decorated))
            raise ValueError(
                f"exhibit {name!r}: its decorator names the report {named}, not {report}: leave it "
                f"out here, or change its decorator"
            )
        registered = [e for e in _exhibits.values() if e.report == report]
        if not decorated and not any(e.make is make for e in registered):
            own = name.partition(":")[2]
            same_name = (e.make for e in registered if e.name == own and e.kind != "sentences")
            if any(_origin(namesake) != _origin(make) for namesake in same_name):
                raise ValueError(f"exhibit {name!r}: the report has one named {own}; rename yours")
            _exhibits[report, EITHER, own] = Exhibit(EITHER, report, OWN, own, make)


def get(report: str, kind: str, name: str) -> Callable[..., Any]:
    """Return the function of an exhibit; raise ValueError for an unknown name."""
    try:
        return _exhibits[report, kind, name].make
    except KeyError:
        valid = ", ".join(names(report, kind))
        raise ValueError(f"unknown {kind} {name!r} of report {report!r}; known: {valid}") from None


def names(report: str, kind: str) -> list[str]:
    return [e.name for e in _exhibits.values() if e.report == report and e.kind == kind]


def tables_of(report: str, subject: Any) -> dict[str, Table]:
    """Make all tables of a report; without those that are None or have no rows."""
    tables = _make_all(report, "table", Table, subject)
    return {name: table_made for name, table_made in tables.items() if len(table_made.frame)}


def figures_of(report: str, subject: Any) -> dict[str, Figure]:
    """Make all figures of a report; without those that are None."""
    return _make_all(report, "figure", Figure, subject)


def _make(exhibit: Exhibit, *arguments: Any) -> Any:
    """Call an exhibit's function; an error in a user's becomes a message that names it."""
    if _origin(exhibit.make).startswith("analysis."):
        return exhibit.make(*arguments)
    return call_user_code(f"exhibit {exhibit.name!r}", exhibit.make, *arguments)


def _make_all(
    report: str, kind: str, result_type: type[Table | Figure], subject: Any
) -> dict[str, Any]:
    """Make the exhibits of a kind, and users' exhibits that return the type `result_type`."""
    exhibits: dict[str, Any] = {}
    for e in _exhibits.values():
        if e.report == report and e.kind in (kind, EITHER):
            value = _make(e, subject)
            if isinstance(value, result_type):
                _check_name(e, value.name, [other.name for other in exhibits.values()])
                exhibits[e.name] = value
            elif value is not None and (e.kind == kind or not isinstance(value, Table | Figure)):
                raise ValueError(
                    f"exhibit {e.name!r} must return a {e.kind} of analysis.exhibits (Table, "
                    f"Figure) or None, got {type(value).__module__}.{type(value).__name__}"
                )
    return exhibits


def _check_name(exhibit: Exhibit, name: str, names: Sequence[str]) -> None:
    """Raise ValueError if the name of a table or figure is no file name, or another one's."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(
            f"exhibit {exhibit.name!r}: the name of a table or figure may contain letters, digits, "
            f"'_', '.' and '-', got {name!r}"
        )
    if name in names:
        raise ValueError(
            f"exhibit {exhibit.name!r}: the report has a table or figure named {name!r}; rename "
            f"yours"
        )


def sections_of(
    report: str, subject: Any, tables: Mapping[str, Table], figures: Mapping[str, Figure]
) -> list[Section]:
    """Return the sections of a report, with exhibits in the order in which they were registered.

    Args:
        tables, figures: the results of `tables_of` and `figures_of`.
    """
    section(report, OWN, "Exhibits of your own")
    headings = {name: heading for (of, name), heading in _headings.items() if of == report}
    results: dict[str, Mapping[str, Any]] = {"table": tables, "figure": figures}
    sections = []
    for name, (title, introduction) in headings.items():
        members = [
            e
            for e in _exhibits.values()
            if e.report == report and (e.section if e.section in headings else OWN) == name
        ]
        findings = [
            text for e in members if e.kind == "sentences" for text in _make(e, subject, tables)
        ]
        by_kind = {
            kind: [values[e.name] for e in members if e.kind in (kind, EITHER) and e.name in values]
            for kind, values in results.items()
        }
        text = list(introduction(subject))
        if findings or any(by_kind.values()) or (text and not members):
            sections.append(Section(title, text, findings, by_kind["figure"], by_kind["table"]))
    return sections
