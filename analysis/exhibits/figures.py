"""Figures with title and caption, in one style that is legible in greyscale."""

import base64
import html
import io
import logging
import re
import textwrap
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from harness.files import whole_file

log = logging.getLogger(__name__)

#: The palette of Okabe and Ito (2008), which colour-blind readers can distinguish; it is ordered so
#: that the lightness of successive colours differs.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def style_of(k: int) -> dict[str, Any]:
    """Return colour and marker of the k-th of several series, as keywords of matplotlib; no two of
    the first 64 series have both in common."""
    return {
        "color": COLOURS[k % len(COLOURS)],
        "marker": MARKERS[(k + k // len(COLOURS)) % len(MARKERS)],
    }


def offset(k: int, count: int) -> float:
    """Return the offset of the k-th of `count` series that are drawn beside each other at each
    position, which are 1 apart."""
    return (k - (count - 1) / 2) * min(0.14, 0.8 / count)


def legend_columns(names: Sequence[str], inches: float) -> int:
    """Return the number of columns of a legend with these names, in letters of 8 points, that is
    no wider than `inches`; at least 1."""
    widths = [(0.55 * len(name) + 4) * 8 / 72 for name in names]
    if sum(widths) <= inches:
        return max(1, len(names))
    return max(1, int(inches / max(widths)))


#: Width in inches of the names in a legend beside a figure.
LEGEND = 1.7


def wrap(text: str, inches: float, size: float = 8) -> str:
    """Return a text in lines no wider than `inches` in letters of `size` points."""
    return textwrap.fill(text, max(8, int(inches * 72 / (0.62 * size))), break_on_hyphens=False)


def draw_legend(canvas: Canvas, axes: Axes, title: str = "") -> None:
    """Draw the legend of axes to the right of a canvas, with long names in several lines."""
    handles, labels = axes.get_legend_handles_labels()
    lines = [wrap(label, LEGEND) for label in labels]
    canvas.legend(handles, lines, title=title, loc="outside right center")


def error_bars(table: pd.DataFrame, value: str = "value") -> np.ndarray:
    """Return the distances of a column's values from `low` and `high` for error bars: [2, rows]."""
    centre, low, high = (table[name].to_numpy(float) for name in (value, "low", "high"))
    return np.stack([centre - low, high - centre]).clip(min=0)


#: Matplotlib's own font, and common fonts with letters that it lacks, used where installed.
FONT = "DejaVu Sans"
FURTHER_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei",
    "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "Malgun Gothic",
    "Noto Sans Devanagari", "Noto Sans Thai", "Nirmala UI", "Leelawadee UI", "Arial Unicode MS",
)  # fmt: skip

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "figure.dpi": 130,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names and labels can hold dollars
}


@dataclass(frozen=True)
class Figure:
    """A figure with its title and caption.

    Attributes:
        name: file name without suffix.
        title: a short title. caption: what the figure shows, and which intervals.
        canvas: the matplotlib figure.
    """

    name: str
    title: str
    caption: str
    canvas: Canvas

    @cached_property
    def png(self) -> bytes:
        buffer = io.BytesIO()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.canvas.savefig(buffer, format="png", metadata={"Software": None})
        glyphs = [re.match(r"Glyph (\d+) ", str(w.message)) for w in caught]
        for warning, glyph in zip(caught, glyphs, strict=True):
            if glyph is None:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )
        _note_missing("".join(sorted({chr(int(glyph[1])) for glyph in glyphs if glyph})))
        return buffer.getvalue()

    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    def _repr_html_(self) -> str:
        """Show the picture in a notebook; the caption is in `caption`."""
        return f'<img src="{self.data_uri()}" alt="{html.escape(self.title)}">'

    def write(self, folder: Path) -> list[Path]:
        """Write PNG and PDF files and return their paths."""
        png, pdf = folder / f"{self.name}.png", folder / f"{self.name}.pdf"
        with whole_file(png) as temporary:
            temporary.write_bytes(self.png)
        with whole_file(pdf) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph ")  # as noted for the PNG file
            self.canvas.savefig(temporary, format="pdf", metadata={"CreationDate": None})
        return [png, pdf]


@cache  # said once, not for every figure
def _note_missing(characters: str) -> None:
    if characters:
        log.warning(
            "figures show empty boxes for the characters %s, which no installed font has: install "
            "one that does, such as Noto Sans CJK",
            " ".join(characters),
        )


def subplots(
    rows: int = 1,
    columns: int = 1,
    *,
    figsize: tuple[float, float],
    layout: Literal["constrained"] | None = None,
    **options: Any,
) -> tuple[Canvas, Any]:
    """Create a canvas and its axes as pyplot's function does, but not among pyplot's open figures:
    nothing needs to be closed, and a notebook shows a figure once.

    Args:
        figsize: width and height in inches.
        options: further options of `matplotlib.figure.Figure.subplots`.
    """
    canvas = Canvas(figsize=figsize, layout=layout)
    return canvas, canvas.subplots(rows, columns, **options)


def panels(
    count: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple[Canvas, np.ndarray]:
    """Create a canvas with `count` panels in rows; unused axes of the last row are hidden.

    Args:
        columns: largest number of panels per row. size: width and height of a panel in inches.
        options: further options of matplotlib's `subplots`.

    Returns:
        canvas, axes [rows, columns].
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    canvas, grid = subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False, **options
    )
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return canvas, grid


@dataclass(frozen=True)
class Cell:
    """A picture [height, width, 3] of a sheet, the texts above and below it, and its frame."""

    picture: np.ndarray
    above: str = ""
    below: str = ""
    framed: bool = False


def draw_sheet(rows: Sequence[Sequence[Cell]], inch: float = 1.3) -> Canvas:
    """Draw rows of pictures; each is `inch` inches wide."""
    columns = max(map(len, rows))
    shapes = [[cell.picture.shape for cell in line] for line in rows]
    heights = [inch * max(h / w for h, w, _ in line) + 0.62 for line in shapes]
    canvas, cells = subplots(
        len(rows), columns, figsize=(inch * columns, sum(heights)), height_ratios=heights,
        squeeze=False,
    )  # fmt: skip
    for line, row_axes in zip(rows, cells, strict=True):
        for axes in row_axes:
            axes.axis("off")
        for axes, cell in zip(row_axes, line, strict=False):
            axes.imshow(cell.picture)
            axes.set_title(cell.above, pad=2, fontsize=7)
            axes.text(
                0.5, -0.02, cell.below, transform=axes.transAxes, ha="center", va="top", fontsize=7
            )
            if cell.framed:
                axes.add_patch(
                    Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, linewidth=3)
                )
    canvas.subplots_adjust(wspace=0.06, hspace=0.5, left=0.01, right=0.99, top=0.95, bottom=0.03)
    return canvas


def styled() -> AbstractContextManager[None]:
    """Return a context in which figures have the project's style."""
    installed = set(font_manager.get_font_names())
    fonts = [FONT, *(name for name in FURTHER_FONTS if name in installed)]
    return rc_context(STYLE | {"font.family": fonts})
