"""Synthetic pictures of the survey: examples of tasks, plates that test colour vision."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from harness.images.patches import make_grid

SIDE = 156  # pixels of one drawn tile
FINE = 3  # drawn this much larger, then reduced
COLOURS = {
    "red": "#c0392b", "blue": "#2467a8", "green": "#3b8a4c", "yellow": "#e0b02c",
    "violet": "#7d4fa0", "grey": "#8a8f94",
}  # fmt: skip
GROUNDS = ("#f3efe6", "#e6eef3", "#eef3e6", "#f3e8ee")


def draw_group(
    shapes: Sequence[str], colours: Sequence[str], seed: int, count: int = 9, columns: int = 3
) -> Image.Image:
    """Draw a composite of synthetic tiles, as the pictures of a neuron are shown.

    Args:
        shapes: circle, square, triangle or stripes; colours: of COLOURS; both are taken in turn.
    """
    rng = np.random.default_rng(seed)
    tiles = [
        np.asarray(_tile(shapes[i % len(shapes)], COLOURS[colours[i % len(colours)]], rng))
        for i in range(count)
    ]
    return make_grid(tiles, columns, SIDE if count > 1 else 3 * SIDE, 4)


def _tile(shape: str, colour: str, rng: np.random.Generator) -> Image.Image:
    side = SIDE * FINE
    image = Image.new("RGB", (side, side), GROUNDS[rng.integers(len(GROUNDS))])
    draw = ImageDraw.Draw(image)
    size = side * rng.uniform(0.28, 0.4)
    x, y = (side / 2 + side * rng.uniform(-0.08, 0.08) for _ in range(2))
    rotation = rng.uniform(0, 90)
    if shape == "circle":
        draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)
    elif shape == "stripes":
        step = side / 6
        for x0 in np.arange(-side, 2 * side, 2 * step):
            shift = side * np.tan(np.radians(rotation / 3))
            draw.polygon([(x0, 0), (x0 + step, 0), (x0 + step + shift, side), (x0 + shift, side)],
                         fill=colour)  # fmt: skip
    else:
        sides = {"triangle": 3, "square": 4}[shape]
        draw.regular_polygon((x, y, size), sides, rotation=rotation, fill=colour)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


PLATE = 480  # pixels
FIGURE = ((203, 116, 74), (216, 138, 92), (188, 100, 66), (224, 152, 108))
GROUND = ((140, 146, 76), (158, 164, 94), (124, 132, 66), (172, 176, 112))
PLAIN = ((122, 150, 178), (146, 170, 194), (104, 134, 164), (160, 182, 204))


def draw_plate(number: str, rng: np.random.Generator, plain: bool = False) -> Image.Image:
    """Draw dots in which people with normal colour vision see a number (after Ishihara 1917).

    The dots of figure and ground have the same sizes and the same range of brightness, so only the
    hue distinguishes them. The test is coarse, as screens differ, and is not a diagnosis.

    Args:
        number: of two digits.
        plain: draw on a blue ground, so that everybody who has understood the question sees the
            number.
    """
    mask = Image.new("L", (PLATE, PLATE), 0)
    font = ImageFont.load_default(PLATE * 0.62)
    for digit, x in zip(number, (0.31, 0.69), strict=True):
        centre = (PLATE * x, PLATE / 2)
        ImageDraw.Draw(mask).text(centre, digit, 255, font, anchor="mm", stroke_width=6)
    is_figure = np.asarray(mask) > 127
    image = Image.new("RGB", (PLATE * 2, PLATE * 2), "white")
    draw = ImageDraw.Draw(image)
    dots = np.zeros((0, 3))
    for radius in np.repeat([7.0, 5.5, 4.2, 3.0], [1500, 2500, 4000, 6000]):
        x, y = rng.uniform(radius, PLATE - radius, 2)
        if np.hypot(x - PLATE / 2, y - PLATE / 2) > PLATE / 2 - radius:
            continue
        if (np.hypot(dots[:, 0] - x, dots[:, 1] - y) < dots[:, 2] + radius + 1).any():
            continue
        dots = np.vstack([dots, [x, y, radius]])
        colours = FIGURE if is_figure[int(y), int(x)] else PLAIN if plain else GROUND
        colour = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.88, 1.08)
        fill = tuple(int(v) for v in colour.clip(0, 255))
        draw.ellipse([2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius)],
                     fill=fill)  # fmt: skip
    return image.resize((PLATE, PLATE), Image.Resampling.LANCZOS)
