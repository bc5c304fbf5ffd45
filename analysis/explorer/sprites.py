"""The pictures of the explorer: sprite sheets of the images that activate the neurons.

The browser cuts patches from the sheets, so that each image is stored once per view.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from harness.images.sets import ImageSet
from harness.images.view import View

COLUMNS = 24
QUALITY = 82
#: Largest side of a sheet in pixels. WebP allows 16,383, but browsers decode smaller ones faster.
LONGEST = 4096


@dataclass(frozen=True)
class Sheet:
    """Images side by side, row by row.

    Attributes:
        view: index of the view. height, width: of an image, pixels. columns: images per row.
        images: image ids in order. data: the sheet as a WebP file.
    """

    view: int
    height: int
    width: int
    columns: int
    images: tuple[int, ...]
    data: bytes


def draw_sheets(
    images: ImageSet, view: View, index: int, image_ids: Sequence[int], largest: int
) -> Iterator[Sheet]:
    """Yield sheets of all wanted images.

    Args:
        view: the network's view of the images. index: index of this view.
        image_ids: sorted image ids.
        largest: largest side of an image in pixels; larger views are reduced to it.
    """
    scale = min(1.0, largest / max(view.size))
    height, width = (max(1, round(scale * side)) for side in view.size)
    columns = max(1, min(COLUMNS, LONGEST // max(height, width)))
    per_sheet = columns**2
    for start in range(0, len(image_ids), per_sheet):
        sheet_ids = tuple(int(i) for i in image_ids[start : start + per_sheet])
        rows = -(-len(sheet_ids) // columns)
        sheet = np.zeros((rows * height, columns * width, 3), dtype=np.uint8)
        for position, image in enumerate(sheet_ids):
            row, column = divmod(position, columns)
            pixels = images.pixels(image, view)
            if scale < 1:
                reduced = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
                pixels = np.asarray(reduced)
            top, left = row * height, column * width
            sheet[top : top + height, left : left + width] = pixels
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "WEBP", quality=QUALITY, method=4)
        yield Sheet(index, height, width, columns, sheet_ids, buffer.getvalue())
