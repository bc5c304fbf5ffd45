"""The pictures of the explorer: sprite sheets of the images that activate the neurons.

The browser cuts patches from the sheets, so that each image is stored once per view.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from analysis.explorer.data import Source
from harness.images.sets import open_images

COLUMNS = 24
QUALITY = 82
#: Largest side of a sheet in pixels. WebP allows 16,383, but browsers decode smaller ones faster.
LONGEST = 4096


def draw_sheets(source: Source, largest: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield all sheets of a run: what the page needs to know of each (index of its view, height and
    width of an image in pixels, images per row, image ids in order), and the sheet as a WebP file.

    Args:
        largest: largest side of an image in pixels; larger views are reduced to it.
    """
    images = open_images(source.run, "probe")
    stimuli = source.stimuli.merge(source.layers[["series", "layer", "view"]])
    for index, view in enumerate(source.views):
        scale = min(1.0, largest / max(view.size))
        height, width = (max(1, round(scale * side)) for side in view.size)
        columns = max(1, min(COLUMNS, LONGEST // max(height, width)))
        layout = {"view": index, "height": height, "width": width, "columns": columns}
        ids = np.unique(stimuli.loc[stimuli["view"] == view, "image_id"]).astype(np.int32)
        for start in range(0, len(ids), columns**2):
            of_sheet = ids[start : start + columns**2]
            rows = -(-len(of_sheet) // columns)
            sheet = np.zeros((rows, height, columns, width, 3), dtype=np.uint8)
            pictures = (images.pixels(int(image), view) for image in of_sheet)
            _place(pictures, sheet)
            yield layout | {"images": of_sheet}, _as_webp(sheet)


def _place(pictures: Iterable[np.ndarray], sheet: np.ndarray) -> None:
    """Place pictures row by row, each reduced to its place: [rows, height, columns, width, 3]."""
    _, height, columns, width, _ = sheet.shape
    for position, pixels in enumerate(pictures):
        if pixels.shape[:2] != (height, width):
            reduced = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
            pixels = np.asarray(reduced)
        row, column = divmod(position, columns)
        sheet[row, :, column] = pixels


def _as_webp(sheet: np.ndarray) -> bytes:
    rows, height, columns, width, _ = sheet.shape
    buffer = io.BytesIO()
    picture = Image.fromarray(sheet.reshape(rows * height, columns * width, 3))
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()
