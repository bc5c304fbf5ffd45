"""The pictures of the explorer: every image that activates a shown neuron, once, in sprite sheets.

The browser cuts patches from the sheets, so each image is stored once, however many neurons it
activates.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from harness.images.sets import ImageSet, View

COLUMNS = 24
QUALITY = 82
#: WebP allows no longer side than 16,383 pixels; browsers decode smaller sheets sooner.
LONGEST = 4096


@dataclass(frozen=True)
class Sheet:
    """Images side by side, row by row.

    Attributes:
        view: index of the view. tile: pixels of an image's side. columns: images a row.
        images: their ids, in the order of their places. data: WebP.
    """

    view: int
    tile: int
    columns: int
    images: tuple[int, ...]
    data: bytes


def sheets(
    images: ImageSet, view: View, index: int, wanted: Sequence[int], largest: int
) -> Iterator[Sheet]:
    """Yield all wanted images as sheets.

    Args:
        view: how the network sees them. index: of this view. wanted: image ids, sorted.
        largest: most pixels of an image's side; smaller views stay as they are.
    """
    tile = min(view.crop, largest)
    columns = max(1, min(COLUMNS, LONGEST // tile))
    each = columns * max(1, min(COLUMNS, LONGEST // tile))
    for start in range(0, len(wanted), each):
        chosen = tuple(int(i) for i in wanted[start : start + each])
        rows = -(-len(chosen) // columns)
        sheet = np.zeros((rows * tile, columns * tile, 3), dtype=np.uint8)
        for place, image in enumerate(chosen):
            row, column = divmod(place, columns)
            pixels = images.pixels(image, view)
            if tile < view.crop:
                small = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.LANCZOS)
                pixels = np.asarray(small)
            sheet[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile] = pixels
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "WEBP", quality=QUALITY, method=4)
        yield Sheet(index, tile, columns, chosen, buffer.getvalue())
