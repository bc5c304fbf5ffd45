"""The pictures of the explorer: sprite sheets of the images that activate the neurons.

The browser cuts patches from the sheets, so that each image is stored once per view.
"""

import io
from collections.abc import Iterator
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
            sheet = Image.new("RGB", (columns * width, -(-len(of_sheet) // columns) * height))
            for position, image in enumerate(of_sheet):
                picture = Image.fromarray(images.pixels(int(image), view))
                if picture.size != (width, height):
                    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
                row, column = divmod(position, columns)
                sheet.paste(picture, (column * width, row * height))
            buffer = io.BytesIO()
            sheet.save(buffer, "WEBP", quality=QUALITY, method=4)
            yield layout | {"images": of_sheet}, buffer.getvalue()
