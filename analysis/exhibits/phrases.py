"""Format names, shares, intervals and p-values for sentences, captions and tables."""

from collections.abc import Sequence
from math import floor, inf, log10, nan
from typing import Any

import pandas as pd

from analysis.statistics.claims import ALPHA


def p_cell(p: float) -> str:
    """Format a p-value for a table: .032, <.001, 1; "not tested" for NaN."""
    return p_text(p).removeprefix("p ").removeprefix("= ").replace("< ", "<")


def as_words(name: str) -> str:
    """Return a name of the program as words: "same series" for same_series."""
    return name.replace("_", " ")


def capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def join(parts: Sequence[str]) -> str:
    """Join a list for a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


#: Names of one of 2 to 12 equal parts.
_PARTS = ("half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
          "eleventh", "twelfth")  # fmt: skip


def name_parts(number: int) -> tuple[str, str]:
    """Name one and several of 2 to 12 equal parts: ("quarter", "quarters") of four."""
    part = _PARTS[number - 2]
    return part, "halves" if number == 2 else f"{part}s"


def as_printed(number: str) -> str:
    """Return a formatted number with − for minus, and without a sign if it is rounded to zero."""
    return (number.lstrip("+-") if set(number) <= set("+-0.") else number).replace("-", "−")


def without_noise(number: float) -> float:
    """Remove errors of floating-point arithmetic, which decide how a 5 in the next place rounds."""
    return round(number, 11)


def number_text(value: float, form: str, times: int = 1) -> str:
    """Format a number by a specification such as ".2f", see `as_printed`; "undefined" for NaN.

    Args:
        times: 100 for a share in percentage points. It is rounded as the share itself, so that 57.5
            and .575 do not become 58 and .57.
    """
    if pd.isna(value):
        return "undefined"
    if times != 1:
        places = int(form[form.index(".") + 1 : -1]) + round(log10(times))
        value = times * float(format(without_noise(value), f".{places}f"))
    return as_printed(format(without_noise(value), form))


def with_sign(value: float, form: str, times: int = 1) -> str:
    """Format a number as `number_text` does, with its sign if it is above 0, too."""
    return number_text(value, f"+{form}", times)


def count_places(values: pd.Series, least: int = 1) -> int:
    """Return the number of decimal places that shows two digits of the largest finite value, or
    more."""
    largest = values.abs().replace(inf, nan).max()
    return max(least, 1 - floor(log10(largest))) if largest > 0 else least


def percent(share: float) -> str:
    """Return a share in percent; "undefined" for NaN."""
    return "undefined" if pd.isna(share) else number_text(share, ".0f", 100) + " %"


def p_text(p: float) -> str:
    """Format a p-value for a sentence: p < .001, p = .032, p = 1; "not tested" for NaN.

    A p-value that is not .05 has as many decimal places as distinguish it from .05.
    """
    if pd.isna(p):
        return "not tested"
    if p < 0.001:
        return "p < .001"
    if p >= 0.9995:
        return "p = 1"
    places = next((n for n in range(3, 12) if round(p, n) != ALPHA), 3)
    return f"p = {p:.{places}f}".replace("0.", ".", 1)


def ci_text(row: Any, form: str, times: int = 1) -> str:
    """Format the interval `low`, `high` of a row, multiplied by `times`, in brackets; "not
    estimable" if it is NaN."""
    if pd.isna(row.low) or pd.isna(row.high):
        return "not estimable"
    return f"[{number_text(row.low, form, times)}, {number_text(row.high, form, times)}]"


def share_ci_text(row: Any, level: str) -> str:
    """Format the interval of a share in percent: 95 % CI [12 %, 20 %]."""
    if pd.isna(row.low) or pd.isna(row.high):
        return "no interval estimable"
    return f"{level} CI [{percent(row.low)}, {percent(row.high)}]"


def cis_over_classes(most: int, least: int | None = None) -> str:
    """Return "95 % CIs over 12 classes", or "over 10 to 12 classes" if some intervals have fewer;
    with one class, that there are none."""
    if most == 1:
        return "95 % CIs over 1 class (not estimable)"
    count = f"{most:,}" if least in (None, most) else f"{least:,} to {most:,}"
    return f"95 % CIs over {count} classes"


def points_text(value: float, low: float, high: float, p: float = nan) -> str:
    """Format a change of a share in percentage points with its interval, −52 [−58, −46], and the
    adjusted p if there is one."""
    text, *ends = (with_sign(share, ".0f", 100) for share in (value, low, high))
    if not (pd.isna(low) or pd.isna(high)):
        text += f" [{', '.join(ends)}]"
    return text if pd.isna(p) else f"{text} (adjusted {p_text(p)})"
