"""Figures: one restrained style, readable in grey; what a figure shows stands beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure as Canvas

from harness.artifacts import Run, whole_file
from harness.registry import Registry

#: Okabe and Ito (2008): told apart by the colour-blind; ordered so that lightness differs, too.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

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
}


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: file name without ending.
        title: a few words.
        caption: what is seen, what the intervals are.
        canvas: the matplotlib figure.
    """

    name: str
    title: str
    caption: str
    canvas: Canvas

    @cached_property
    def png(self) -> bytes:
        buffer = io.BytesIO()
        self.canvas.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    def write(self, folder: Path) -> list[Path]:
        """PNG and PDF files; their paths."""
        png, pdf = folder / f"{self.name}.png", folder / f"{self.name}.pdf"
        with whole_file(png) as temporary:
            temporary.write_bytes(self.png)
        with whole_file(pdf) as temporary:
            self.canvas.savefig(temporary, format="pdf", metadata={"CreationDate": None})
        return [png, pdf]


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the project's style; figures made inside are closed by their writer."""
    with plt.rc_context(STYLE):
        yield


#: Figures of a run: name -> function(run) -> Figure, or None where the run lacks what it needs.
RUN_FIGURES: Registry[Callable[[Run], Figure | None]] = Registry("figure")
