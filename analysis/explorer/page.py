"""Write the explorer's page: an HTML file with styles, code and data that works offline."""

import base64
import hashlib
import html
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from analysis.explorer.ablations import ablation_columns
from analysis.explorer.columns import as_json
from analysis.explorer.data import Source, explorer_columns
from analysis.explorer.people import people_columns
from analysis.explorer.sprites import draw_sheets
from analysis.study.pipeline import check_results
from harness.artifacts import Run
from harness.files import whole_file, write_text

#: Largest size of the page, in bytes, with its sheets inside; otherwise they are in a folder.
LARGEST_FILE = 20e6
#: Largest side of an image, in pixels, in sheets inside the page and in a folder.
TILE_INSIDE, TILE_BESIDE = 112, 224
SHEET = "sheet-{}.webp"
CODE = ("columns.js", "state.js", "map.js", "pictures.js", "neuron.js", "classes.js", "models.js",
        "selection.js", "validity.js", "start.js")  # fmt: skip


def write_explorer(run: Run, out: Path, results: Path | None = None) -> tuple[Path | None, int]:
    """Write the explorer of a run.

    Args:
        out: the HTML file.
        results: folder written by `conceptevo analyse` for a study of this run.

    Returns:
        the folder of the sheets (None if they are in the page), and the size of all in bytes.

    Raises:
        ArtifactError: the run is incomplete. ValueError: the study is of another run, or a path
            is not what it should be.
    """
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name the HTML file to write")
    if results is not None:
        check_results(results)
    source = Source(run)
    data = explorer_columns(source) | ablation_columns(source)
    data["people"] = None if results is None else people_columns(source, results)
    sheets, folder, size_of_files = list(draw_sheets(source, TILE_INSIDE)), None, 0
    if sum(len(file) for _, file in sheets) * 4 / 3 > LARGEST_FILE - len(page(data)):
        sheets = list(draw_sheets(source, TILE_BESIDE))
        folder = out.with_name(f"{out.stem}-images")
        size_of_files = sum(len(file) for _, file in sheets)
    data["sheets"] = _place_sheets(sheets, folder)
    write_text(out, page(data, folder is not None))
    return folder, out.stat().st_size + size_of_files


def page(data: dict[str, Any], has_files: bool = False) -> str:
    """Return the HTML text with `explorer_columns`, `people` and `sheets`, which can be files."""
    scripts = {"library": get_plotlyjs(), "code": "\n".join(map(_read_page_file, CODE))}
    policies = [
        "default-src 'none'",
        "script-src " + " ".join(_policy_hash(text) for text in scripts.values()),
        "style-src 'unsafe-inline'",  # the library writes style elements and attributes
        "img-src data: blob:" + (" 'self' file:" if has_files else ""),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return Template(_read_page_file("page.html")).substitute(
        policy="; ".join(policies),
        title=html.escape(f"Concept evolution of {data['run']}"),
        style=_read_page_file("page.css"),
        data=as_json(data),
        **scripts,
    )


def _read_page_file(name: str) -> str:
    return (files("analysis") / "explorer" / "page" / name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _place_sheets(
    sheets: Iterable[tuple[dict[str, Any], bytes]], folder: Path | None
) -> list[dict[str, Any]]:
    """Return the page's data of each sheet; write the sheets into `folder` if it is given."""
    if folder is not None:  # which may also hold files of the user
        for earlier in folder.glob(SHEET.format("*")):
            earlier.unlink()
    records = []
    for number, (layout, file) in enumerate(sheets):
        if folder is None:
            address = "data:image/webp;base64," + base64.b64encode(file).decode("ascii")
        else:
            name = SHEET.format(f"{number:03d}")
            with whole_file(folder / name) as temporary:
                temporary.write_bytes(file)
            address = f"{folder.name}/{name}"
        records.append(layout | {"address": address})
    return records
