"""Image patches: parts of a neuron's stimuli around the position of its highest activation."""

import numpy as np
import pandas as pd
from PIL import Image

from harness.images.sets import ImageSet
from harness.images.view import View


def cut_patch(pixels: np.ndarray, peak_y: float, peak_x: float, side: float) -> np.ndarray:
    """Cut a square centred on the peak, shifted where needed to stay inside the image.

    Args:
        pixels: uint8 [height, width, 3].
        peak_y: row of the peak as a fraction of the height, in [0, 1].
        peak_x: column of the peak as a fraction of the width, in [0, 1].
        side: side of the crop as a fraction of the shorter side, in (0, 1].
    """
    height, width = pixels.shape[:2]
    size = max(1, min(round(side * min(height, width)), height, width))
    top = int(np.clip(round(peak_y * height - size / 2), 0, height - size))
    left = int(np.clip(round(peak_x * width - size / 2), 0, width - size))
    return pixels[top : top + size, left : left + size]


def cut_patches(
    stimuli: pd.DataFrame, images: ImageSet, view: View, side: float, count: int
) -> list[np.ndarray]:
    """Return the patches of a neuron's `count` strongest stimuli (its rows in any order)."""
    rows = stimuli.sort_values("rank").head(count)
    return [
        cut_patch(images.pixels(row.image_id, view), row.peak_y, row.peak_x, side)
        for row in rows.itertuples()
    ]


def make_grid(crops: list[np.ndarray], columns: int, tile: int, gap: int = 2) -> Image.Image:
    """Arrange crops, scaled to `tile` pixels, row by row on white; missing ones stay white."""
    rows = -(-len(crops) // columns)
    size = (columns * (tile + gap) - gap, rows * (tile + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    for position, crop in enumerate(crops):
        row, column = divmod(position, columns)
        image = Image.fromarray(crop).resize((tile, tile), Image.Resampling.BICUBIC)
        sheet.paste(image, (column * (tile + gap), row * (tile + gap)))
    return sheet
