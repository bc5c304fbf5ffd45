"""Write the explorer's page: an HTML file with styles, code and data that works offline."""

from __future__ import annotations

import base64
import hashlib
import html
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from analysis.explorer.columns import as_json
from analysis.explorer.data import Source, explorer_columns
from analysis.explorer.people import people_columns
from analysis.explorer.sprites import Sheet, sheets
from harness.artifacts import Run
from harness.files import whole_file, write_text
from harness.images.sets import View, open_images

#: Largest size of the page, in bytes, with its sheets inside; otherwise they are in a folder.
LARGEST_FILE = 20e6
#: Largest side of an image, in pixels, in sheets inside the page and in a folder.
TILE_INSIDE, TILE_BESIDE = 112, 224
CODE = ("columns.js", "state.js", "map.js", "pictures.js", "neuron.js", "classes.js", "models.js",
        "selection.js", "validity.js", "start.js")  # fmt: skip


@dataclass(frozen=True)
class Written:
    """The written page, the folder of sheets (None if they are in the page), the size in bytes."""

    page: Path
    folder: Path | None
    size: int


def write_explorer(run: Run, out: Path, results: Path | None = None) -> Written:
    """Write the explorer of a run.

    Args:
        out: the HTML file.
        results: folder written by `conceptevo analyse` for a study of this run.

    Raises:
        ArtifactError: the run is incomplete. ValueError: the study is of another run.
    """
    source = Source(run)
    data = explorer_columns(source)
    data["people"] = None if results is None else people_columns(source, results)
    pictures, folder, beside = _pictures(source, TILE_INSIDE), None, 0
    if sum(len(s.data) for s in pictures) * 4 / 3 > LARGEST_FILE - len(page(data)):
        pictures = _pictures(source, TILE_BESIDE)
        folder = out.with_name(f"{out.stem}-images")
        beside = sum(len(s.data) for s in pictures)
    data["sheets"] = _placed(pictures, folder)
    write_text(out, page(data, folder is not None))
    return Written(out, folder, out.stat().st_size + beside)


def page(data: dict[str, Any], beside: bool = False) -> str:
    """Return the HTML text.

    Args:
        data: `explorer_columns`, with `people` and `sheets`. beside: whether sheets are files.
    """
    scripts = {"library": get_plotlyjs(), "code": "\n".join(map(_own, CODE))}
    policy = [
        "default-src 'none'",
        "script-src " + " ".join(_hash(text) for text in scripts.values()),
        "style-src 'unsafe-inline'",  # the library writes style elements and attributes
        "img-src data: blob:" + (" 'self' file:" if beside else ""),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return Template(_own("page.html")).substitute(
        policy="; ".join(policy),
        title=html.escape(f"Concept evolution of {data['run']}"),
        style=_own("page.css"),
        data=as_json(data),
        **scripts,
    )


def _own(name: str) -> str:
    return (files("analysis") / "explorer" / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _pictures(source: Source, largest: int) -> list[Sheet]:
    images = open_images(source.run, "probe")
    views = source.layers[["resize", "crop"]].drop_duplicates()
    shown = source.stimuli.merge(
        source.layers[["series", "layer", "resize", "crop"]], on=["series", "layer"]
    )
    pictures: list[Sheet] = []
    for index, view in enumerate(views.itertuples(index=False)):
        of_view = shown[(shown["resize"] == view.resize) & (shown["crop"] == view.crop)]
        wanted = sorted(set(of_view["image_id"].tolist()))
        pictures += sheets(images, View(int(view.resize), int(view.crop)), index, wanted, largest)
    return pictures


def _placed(pictures: Sequence[Sheet], folder: Path | None) -> list[dict[str, Any]]:
    """Return the page's data of each sheet; write the sheets into `folder` if it is given."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    placed = []
    for number, sheet in enumerate(pictures):
        if folder is None:
            address = "data:image/webp;base64," + base64.b64encode(sheet.data).decode("ascii")
        else:
            name = f"sheet-{number:03d}.webp"
            with whole_file(folder / name) as temporary:
                temporary.write_bytes(sheet.data)
            address = f"{folder.name}/{name}"
        about = {"view": sheet.view, "tile": sheet.tile, "columns": sheet.columns}
        ids = np.array(sheet.images, dtype=np.int32)
        placed.append(about | {"images": ids, "address": address})
    return placed
