"""The synthetic image set: 12 classes of 64 × 64 images composed of 24 shared, nameable parts.

Every image has its ground truth: the part and the named colour that each pixel shows. An image is
a pure function of (seed, index), so nothing has to be stored.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from harness.images.canvas import COLOURS, PARTS, SHAPES, SIZE, Canvas, muted_colour

__all__ = ["CLASSES", "COLOURS", "PARTS", "SIZE", "Drawing", "draw"]


@dataclass(frozen=True)
class Drawing:
    """One image with its ground truth; arrays are uint8.

    Attributes:
        image: [64, 64, 3], RGB.
        label: index into CLASSES.
        parts: [64, 64]; 0 = no part, p + 1 = PARTS[p] is the topmost visible part.
        colours: [64, 64]; 0 = no part, c + 1 = the c-th name of COLOURS.
    """

    image: np.ndarray
    label: int
    parts: np.ndarray
    colours: np.ndarray


def _ladybug(canvas: Canvas) -> None:
    shell = canvas.pick("red", chance=0.6)
    spots = canvas.pick("black", chance=0.8, on=shell)
    for y in (-0.3, 0.1, 0.5):
        canvas.pair("leg", "black", (0.85, y), 0.1, 0.26, -1.5)
    canvas.pair("antenna", "black", (0.3, -1.0), 0.2)
    canvas.put("disc", "black", (0, -0.68), 0.42, 0.36)
    canvas.put("body", shell, (0, 0.12), 0.82)
    canvas.beam(spots, (0, -0.68), (0, 0.92), 0.035)
    places = ((0.38, -0.22), (0.5, 0.22), (0.24, 0.58), (0.2, 0.12))
    for place in places[: canvas.rng.integers(2, 5)]:
        canvas.pair("dot", spots, place, canvas.rng.uniform(0.12, 0.17))
    canvas.pair("eye", "black", (0.2, -0.8), 0.13)


def _fire_engine(canvas: Canvas) -> None:
    rng = canvas.rng
    paint = canvas.pick("red", chance=0.65)
    canvas.put("box", paint, (-0.3, 0.08), 0.7, 0.36)
    canvas.put("box", paint, (0.66, 0.14), 0.32, 0.42)
    trim = canvas.pick("white", "yellow", on=paint)
    canvas.put("stripe", trim, (-0.3, 0.2), 0.08, 0.66, np.pi / 2)
    pane = canvas.pick("blue", "white", "black", on=paint)
    canvas.put("window", pane, (0.7, 0.02), 0.2)
    for x in (-0.75, -0.3, 0.12)[: rng.integers(0, 4)]:
        canvas.put("window", pane, (x, -0.06), 0.14)
    rise = rng.uniform(0, 0.2)
    canvas.put("ladder", canvas.pick("white", "yellow"), (-0.3, -0.45 - rise), 0.75, 0.13, -rise)
    canvas.put("lamp", canvas.pick("blue", on=paint), (0.66, -0.4), 0.15)
    tyre = canvas.pick("black", chance=0.9)
    for x in ((-0.65, 0.6), (-0.75, -0.3, 0.6))[rng.integers(2)]:
        canvas.put("wheel", tyre, (x, 0.52), 0.25, turn=rng.random())


def _clock(canvas: Canvas) -> None:
    rng = canvas.rng
    rim = canvas.pick("brown", "blue", "red", "black")
    if rng.random() < 0.35:  # an alarm clock
        canvas.pair("leg", rim, (0.6, 0.9), 0.16, 0.25, -0.4)
        canvas.pair("lamp", canvas.pick("yellow"), (0.6, -0.8), 0.28)
    face = canvas.pick("white", "yellow", on=rim)
    canvas.put("disc", rim, (0, 0), 0.98)
    canvas.put("disc", face, (0, 0), 0.78)
    mark = canvas.pick("black", chance=0.85, on=face)
    hours = (4, 12)[rng.integers(2)]
    for turn in np.arange(hours) * 2 * np.pi / hours:
        canvas.put("dot", mark, (0.62 * np.sin(turn), 0.62 * np.cos(turn)), 0.12 - 0.005 * hours)
    for reach, half in ((0.46, 0.1), (0.62, 0.07)):
        turn = rng.uniform(0, 2 * np.pi)
        x, y = np.sin(turn) * reach / 2, -np.cos(turn) * reach / 2
        canvas.put("hand", mark, (x, y), half, reach / 2, turn)
    canvas.put("dot", mark, (0, 0), 0.1)


def _butterfly(canvas: Canvas) -> None:
    rng = canvas.rng
    upper = canvas.pick("orange", "blue", "yellow", "purple", chance=0.8)
    lower = upper if rng.random() < 0.6 else canvas.pick()
    canvas.pair("wing", lower, (0.42, 0.42), 0.4, -0.42)
    canvas.pair("wing", upper, (0.52, -0.4), 0.5)
    spots = canvas.pick("black", "white", on=upper)
    places = (((0.62, -0.55), 0.16), ((0.36, -0.2), 0.1), ((0.5, 0.5), 0.12))
    for place, size in places[: rng.integers(1, 4)]:
        canvas.pair("dot", spots, place, size)
    canvas.pair("antenna", "black", (0.2, -0.82), 0.17, 0.25)
    canvas.put("body", canvas.pick("black", "brown", chance=0.9, on=upper), (0, 0.02), 0.1, 0.65)


def _traffic_light(canvas: Canvas) -> None:
    case = canvas.pick("black", chance=0.65)
    canvas.put("bar", canvas.pick("black", "white"), (0, 0.8), 0.09, 0.4)
    canvas.put("box", case, (0, -0.2), 0.38, 0.85)
    for y, light in ((-0.74, "red"), (-0.2, "yellow"), (0.34, "green")):
        canvas.put("lamp", canvas.pick(light, chance=0.9, on=case), (0, y), 0.23)


def _flower(canvas: Canvas) -> None:
    rng = canvas.rng
    bloom = canvas.pick("pink", "red", "yellow", "purple", "white", chance=0.85)
    green = canvas.pick("green", chance=0.85)
    canvas.put("bar", green, (0, 0.55), 0.05, 0.5)
    for side in (-1, 1)[: rng.integers(1, 3)]:
        canvas.put("blade", green, (side * 0.32, 0.62), 0.17, 0.36, side * 0.9)
        rib = canvas.pick("white", "yellow", on=green)
        canvas.put("vein", rib, (side * 0.32, 0.62), 0.17, 0.36, side * 0.9)
    count = rng.integers(5, 9)
    for turn in np.arange(count) * 2 * np.pi / count + rng.random():
        x, y = 0.4 * np.sin(turn), -0.34 - 0.4 * np.cos(turn)
        canvas.put("petal", bloom, (x, y), 1.35 / count, 0.3, turn)
    canvas.put("disc", canvas.pick("yellow", "brown", on=bloom), (0, -0.34), 0.22)


def _fish(canvas: Canvas) -> None:
    rng = canvas.rng
    scales = canvas.pick("orange", "blue", "yellow", chance=0.65)
    fins = scales if rng.random() < 0.5 else canvas.pick()
    tall = rng.uniform(0.42, 0.6)
    canvas.put("fin", fins, (-0.7, 0), 0.34, 0.48)
    canvas.put("fin", fins, (0.02, -tall), 0.22, 0.36, 0.5)
    canvas.put("body", scales, (0.15, 0), 0.75, tall)
    mark = canvas.pick("white", "black", on=scales)
    for x in (-0.32, 0.0, 0.3)[: rng.integers(0, 4)]:
        chord = tall * np.sqrt(1 - ((x - 0.15) / 0.75) ** 2)
        canvas.put("stripe", mark, (x, 0), 0.08, 0.9 * chord)
    canvas.put("fin", fins, (0.02, 0.18), 0.2, 0.15, -0.4)
    canvas.put("eye", "black", (0.6, -0.14), 0.13)
    lips = canvas.pick("red", "black", on=scales)
    canvas.put("mouth", lips, (0.74, 0.16), 0.13, 0.08, -0.5)


def _house(canvas: Canvas) -> None:
    wall = canvas.pick("white", "yellow", "red", "brown")
    canvas.put("box", canvas.pick("brown", "red"), (0.5, -0.7), 0.13, 0.28)
    canvas.put("box", wall, (0, 0.38), 0.8, 0.58)
    if canvas.rng.random() < 0.7:
        stone = canvas.pick("brown", "red", "orange", on=wall)
        for y in (0.1, 0.62):
            canvas.put("brick", stone, (0, y), 0.22)
            canvas.pair("brick", stone, (0.58, y), 0.22)
    canvas.put("roof", canvas.pick("red", "brown", "black", on=wall), (0, -0.48), 1, 0.4)
    canvas.put("door", canvas.pick("brown", "blue", "green", on=wall), (0, 0.6), 0.18, 0.36)
    canvas.pair("window", canvas.pick("blue", "yellow", "black", on=wall), (0.5, 0.32), 0.2)


def _bicycle(canvas: Canvas) -> None:
    paint = canvas.pick("red", "blue", "green", "black")
    tyre = canvas.pick("black", chance=0.85)
    rear, front, crank = (-0.58, 0.35), (0.58, 0.35), (-0.05, 0.38)
    seat, head = (-0.24, -0.3), (0.4, -0.34)
    for hub in (rear, front):
        canvas.put("wheel", tyre, hub, 0.43, turn=canvas.rng.random())
    for start, end in ((rear, crank), (rear, seat), (crank, seat), (seat, head), (crank, head)):
        canvas.beam(paint, start, end)
    canvas.beam(paint, front, (0.36, -0.6))  # the fork
    canvas.beam(paint, seat, (-0.28, -0.5))
    canvas.beam(tyre, (0.25, -0.62), (0.55, -0.62))  # the handlebar
    canvas.put("disc", paint, crank, 0.12)
    canvas.put("body", tyre, (-0.3, -0.52), 0.2, 0.08)  # the saddle


def _face(canvas: Canvas) -> None:
    rng = canvas.rng
    skin = canvas.pick("pink", "brown", "yellow", "white", chance=0.85)
    locks = canvas.pick("brown", "black", "yellow", "orange", chance=0.85, on=skin)
    canvas.pair("disc", skin, (0.72, 0.1), 0.16, 0.2)
    canvas.put("body", skin, (0, 0.08), 0.72, 0.88)
    canvas.put("hair", locks, (0, -0.42), 0.78, rng.uniform(0.5, 0.75))
    iris = canvas.pick("black", "blue", "green", "brown", chance=1)
    canvas.pair("eye", iris, (0.3, 0.08), 0.16, 0.13)
    canvas.beam(locks, (0, 0.14), (0.05, 0.36), 0.04)
    smile = 0.12 if rng.random() < 0.75 else -0.12
    canvas.put("mouth", canvas.pick("red", on=skin), (0, 0.58), 0.3, smile)


def _leaf(canvas: Canvas) -> None:
    rng = canvas.rng
    flat = canvas.pick("green", chance=0.6)
    rib = canvas.pick("white", "yellow", "brown", on=flat)
    wide = rng.uniform(0.45, 0.75)
    canvas.beam(rib, (0, 0.6), (0.06, 1.15))
    canvas.put("blade", flat, (0, -0.15), wide, 0.9)
    canvas.put("vein", rib, (0, -0.15), wide, 0.86)
    spots = canvas.pick("brown", "black", on=flat)
    for place in ((0.3, 0.1), (-0.25, 0.3), (-0.3, -0.1))[: max(0, int(rng.integers(-4, 4)))]:
        canvas.put("dot", spots, place, 0.09)


def _zebra(canvas: Canvas) -> None:
    coat = canvas.pick("white", chance=0.7)
    mark = canvas.pick("black", chance=0.8, on=coat)
    for x in (-0.56, -0.38, 0.14, 0.32):
        canvas.put("leg", coat, (x, 0.6), 0.11, 0.4)
    canvas.beam(mark, (-0.65, -0.1), (-0.88, 0.35))  # the tail
    canvas.put("hair", mark, (0.34, -0.4), 0.42, 0.22, -0.95)
    canvas.put("body", coat, (0.42, -0.3), 0.22, 0.48, 0.45)
    canvas.put("body", coat, (-0.12, 0.1), 0.62, 0.34)
    canvas.put("blade", coat, (0.55, -0.86), 0.08, 0.18)  # an ear
    canvas.put("body", coat, (0.76, -0.58), 0.32, 0.18, 0.5)
    for x in (-0.58, -0.38, -0.18, 0.02, 0.22):
        chord = 0.34 * np.sqrt(1 - ((x + 0.12) / 0.62) ** 2)
        canvas.put("stripe", mark, (x, 0.08), 0.07, chord)
    for place in ((0.34, -0.16), (0.44, -0.36)):
        canvas.put("stripe", mark, place, 0.06, 0.2, -1.0)
    canvas.put("eye", "black", (0.7, -0.64), 0.08)
    canvas.put("mouth", mark, (0.94, -0.4), 0.1, 0.07, 0.4)


# The painter of each class, and the largest angle (radians) by which its object is rotated.
_CLASSES: dict[str, tuple[Callable[[Canvas], None], float]] = {
    "ladybug": (_ladybug, np.pi),
    "fire engine": (_fire_engine, 0.3),
    "clock": (_clock, 0.4),
    "butterfly": (_butterfly, 0.9),
    "traffic light": (_traffic_light, 0.4),
    "flower": (_flower, 0.5),
    "fish": (_fish, 0.5),
    "house": (_house, 0.25),
    "bicycle": (_bicycle, 0.35),
    "face": (_face, 0.4),
    "leaf": (_leaf, np.pi),
    "zebra": (_zebra, 0.25),
}
CLASSES = tuple(_CLASSES)


def _draw_ramp(rng: np.random.Generator) -> np.ndarray:
    """Return a linear ramp [64, 64], about -0.5 to 0.5, in a random direction."""
    turn = rng.uniform(0, 2 * np.pi)
    line = np.linspace(-0.5, 0.5, SIZE)
    return np.add.outer(np.sin(turn) * line, np.cos(turn) * line)


def _draw_background(rng: np.random.Generator) -> np.ndarray:
    """Return a plain, gradual, banded or cloudy mix of two muted colours, float [64, 64, 3]."""
    kind = rng.integers(4)
    mix = np.zeros((SIZE, SIZE))
    if kind == 1:
        mix = _draw_ramp(rng)
    elif kind == 2:
        mix = 0.5 * np.sin(_draw_ramp(rng) * rng.uniform(15, 60))
    elif kind == 3:
        coarse = rng.random((rng.integers(4, 25),) * 2).astype(np.float32)
        mix = np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    first, second = muted_colour(rng), muted_colour(rng)
    return first + mix[..., None] * (second - first)


def _paint_stray(canvas: Canvas, near: float, far: float) -> None:
    """Paint a single part at a distance in [near, far] from the centre (1 = half the image).

    It is any of the 24 parts, whatever the class, so it does not indicate the label.
    """
    rng = canvas.rng
    turn, distance = rng.uniform(0, 2 * np.pi), rng.uniform(near, far)
    size = rng.uniform(0.14, 0.34)
    name = PARTS[rng.integers(len(PARTS))]
    sx, sy = size * np.array(SHAPES[name].half) * rng.uniform(0.9, 1.1, 2)
    centre = distance * np.cos(turn), distance * np.sin(turn)
    canvas.put(name, canvas.pick(), centre, sx, sy, rng.uniform(0, 2 * np.pi))


def draw(seed: int, index: int) -> Drawing:
    """Draw the `index`-th image of the stream `seed`; its label is index % 12.

    The image depends on these two numbers only, not on earlier draws or the process.
    """
    rng = np.random.default_rng([seed, index])
    canvas = Canvas(rng)
    label = index % len(CLASSES)
    paint, lean = _CLASSES[CLASSES[label]]

    for _ in range(rng.integers(2, 7)):
        _paint_stray(canvas, 0.3, 1.2)
    size = rng.uniform(0.55, 0.88)
    # smaller objects may lie further from the centre, so that most of the object stays visible
    x, y = rng.uniform(-1, 1, 2) * (1.05 - size)
    sx, sy = size * rng.uniform(0.85, 1.1, 2) * (rng.choice((-1, 1)), 1)
    canvas.within((x, y), sx, sy, rng.uniform(-lean, lean), paint)
    for _ in range(rng.integers(0, 3)):
        _paint_stray(canvas, 0.8, 1.1)
    for _ in range(rng.integers(0, 3)):
        x, y = rng.uniform(-0.8, 0.8, 2)
        canvas.occlude((x, y), rng.uniform(0.08, 0.28), rng.uniform(0.08, 0.18), rng.uniform(0, 3))

    picture, parts, colours = canvas.develop(_draw_background(rng))
    light = 1 + rng.uniform(0, 0.4) * _draw_ramp(rng)[..., None]
    contrast, brightness = rng.uniform(0.5, 1.1), rng.uniform(-28, 28)
    picture = (picture * light - 128) * contrast + 128 + brightness
    picture += rng.normal(0, rng.uniform(1, 16), picture.shape)
    return Drawing(picture.clip(0, 255).astype(np.uint8), label, parts, colours)
