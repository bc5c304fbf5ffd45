"""A canvas on which nameable parts are painted in named colours, with its ground truth.

A `Canvas` holds one integer per supersampled pixel, the number of the topmost ink. Parts are
painted into this single map. Image, part map and colour map are obtained from the same integers, so
the ground truth always agrees with the image.

Coordinates are local: x to the right, y down; every part fills about [-1, 1] in its own frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64  # pixels
_SUPER = 2  # canvas pixels per image pixel, along each side: enough for antialiasing, and fast
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 36, 40),
    "orange": (242, 134, 30),
    "yellow": (245, 216, 52),
    "green": (62, 152, 66),
    "blue": (45, 98, 205),
    "purple": (132, 60, 168),
    "pink": (242, 152, 182),
    "brown": (122, 76, 44),
    "black": (24, 24, 28),
    "white": (242, 242, 238),
}
_NAMES = tuple(COLOURS)
_RGB = np.array(list(COLOURS.values()), dtype=np.float64)  # [10, 3]
# Colour -> colours that are visible on it (red on orange, for example, is not).
_LEGIBLE = {
    name: tuple(np.array(_NAMES)[np.linalg.norm(_RGB - rgb, axis=1) > 120].tolist())
    for name, rgb in COLOURS.items()
}
Point = tuple[float, float]
_ANGLES = np.linspace(0, 2 * np.pi, 25)
_DISK = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)  # [25, 2]
_BLOCK = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])


# For each part: its name, its usual half-width and half-height, and the colours that its details
# may have; then its strokes, the lowest first, as KIND SHADE POINTS. A shade multiplies the part's
# colour; * is the detail colour. fill: a polygon; line:WIDTH: a polyline; disk, rect: centre and
# half-sizes; ring: the unit disk without the concentric disk through the given point.
_PART_TEXT = """
wheel 1 1 white black
    line:.06 1 -.9,0 .9,0
    line:.06 1 -.45,-.78 .45,.78
    line:.06 1 -.45,.78 .45,-.78
    ring 1 .74,0
    disk * 0,0 .24,.24
eye 1 1 white
    disk * 0,0 1,1
    disk 1 .1,.1 .55,.55
stripe .25 1
    fill 1 0,-1 .8,-.5 1,0 .8,.5 0,1 -.7,.6 -.5,0 -.7,-.6
dot 1 1
    disk 1 0,0 1,1
petal .6 1
    fill 1 0,1 -.7,.1 -.9,-.4 -.5,-.9 0,-1 .5,-.9 .9,-.4 .7,.1
    line:.12 .7 0,.9 0,-.4
window 1 1 white brown
    rect * 0,0 1,1
    rect 1 0,0 .78,.78
    line:.16 * 0,-1 0,1
    line:.16 * -1,0 1,0
brick 1 1
    rect 1 -.5,-.5 .42,.34
    rect .85 .5,-.5 .42,.34
    rect 1.1 0,.5 .42,.34
    rect .9 -.78,.5 .22,.34
    rect 1 .78,.5 .22,.34
wing 1 1
    fill .55 -1,1 -.8,.1 -.3,-.7 .4,-1 1,-.9 1,-.4 .8,-.1 .85,.3 .5,.5 .3,.85 -.4,1
    fill 1 -.84,.84 -.68,.12 -.28,-.52 .28,-.76 .76,-.68 .76,-.28 .6,-.04 .64,.28 .36,.44 .2,.72
    line:.06 .55 -.9,.9 .1,-.6
    line:.06 .55 -.9,.9 .5,.1
lamp 1 1 white
    disk .6 0,0 1,1
    disk 1.1 0,0 .84,.84
    disk * -.3,-.35 .28,.28
disc 1 1
    disk .75 0,0 1,1
    disk 1 0,0 .88,.88
body 1 .7
    disk .85 0,0 1,1
    disk 1 0,-.12 .94,.84
hand .3 1
    fill 1 -.6,1 -.45,-.35 -1,-.35 0,-1 1,-.35 .45,-.35 .6,1
antenna .7 1
    line:.2 1 -1,1 -.7,0 0,-.6 .8,-.8
    disk 1 .8,-.8 .3,.3
leg .35 1
    fill 1 -.9,-1 .6,-1 .4,.65 -.5,.65 -.5,0
    fill .7 -.5,.65 .4,.65 1,1 -.5,1
box 1 .75
    rect .75 0,0 1,1
    rect 1 0,-.06 .94,.88
bar 1 .15
    rect 1 0,0 1,1
roof 1 .8
    fill 1 -.3,-1 .3,-1 1,1 -1,1
    line:.08 .65 -.5,-.4 .5,-.4
    line:.08 .65 -.68,.1 .68,.1
    line:.08 .65 -.86,.6 .86,.6
door .6 1 yellow black
    fill 1 -1,1 -1,-.6 -.6,-.9 0,-1 .6,-.9 1,-.6 1,1
    line:.1 .7 -.6,1 -.6,-.6 .6,-.6 .6,1
    disk * .6,.15 .24,.14
ladder 1 .25
    rect 1 0,-.8 1,.24
    rect 1 0,.8 1,.24
    rect 1 -.8,0 .05,.9
    rect 1 -.4,0 .05,.9
    rect 1 0,0 .05,.9
    rect 1 .4,0 .05,.9
    rect 1 .8,0 .05,.9
fin 1 1
    fill 1 1,-.2 -1,-1 -.7,-.4 -.55,0 -.7,.4 -1,1 1,.2
    line:.06 .65 .8,-.06 -.6,-.6
    line:.06 .65 .8,0 -.6,0
    line:.06 .65 .8,.06 -.6,.6
mouth 1 .45
    fill 1 -1,-1 -.87,0 -.5,.7 0,1 .5,.7 .87,0 1,-1 .7,-.5 .3,-.3 -.3,-.3 -.7,-.5
blade .65 1
    fill 1 0,-1 .45,-.6 .85,-.05 .95,.35 .65,.8 0,1
    fill .85 0,-1 -.45,-.6 -.85,-.05 -.95,.35 -.65,.8 0,1
vein .7 1
    line:.08 1 0,1 0,-.9
    line:.05 1 -.7,-.65 0,-.3 .7,-.65
    line:.05 1 -.7,-.25 0,.1 .7,-.25
    line:.05 1 -.7,.15 0,.5 .7,.15
hair 1 .75
    fill 1 -1,1 -1,0 -.75,-.65 0,-1 .75,-.65 1,0 1,1 .65,-.2 .4,.4 .15,-.2 -.15,.3 -.4,-.2 -.65,.4
"""


@dataclass(frozen=True)
class _Stroke:
    points: np.ndarray  # [n, 2]
    shade: float | None  # None: the detail colour
    width: float  # of a line; 0 = a filled polygon


@dataclass(frozen=True)
class Part:
    number: int  # its value in the part map
    half: tuple[float, float]  # usual half-width and half-height
    details: tuple[str, ...]  # colours that its details may have
    strokes: list[_Stroke] = field(default_factory=list)


def _read_parts(text: str) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for line in text.strip().splitlines():
        head, *rest = line.split()
        if not line.startswith(" "):
            half = float(rest[0]), float(rest[1])
            part = parts[head] = Part(len(parts) + 1, half, tuple(rest[2:]))
            continue
        kind, _, width = head.partition(":")
        points = np.array([point.split(",") for point in rest[1:]], dtype=np.float64)
        if kind in ("disk", "rect"):
            points = (_DISK if kind == "disk" else _BLOCK) * points[1] + points[0]
        elif kind == "ring":  # one polygon, outer circle then inner: the fill rule leaves a hole
            points = np.concatenate([_DISK, points[0, 0] * _DISK[::-1]])
        shade = None if rest[0] == "*" else float(rest[0])
        part.strokes.append(_Stroke(points, shade, float(width or 0)))
    return parts


SHAPES = _read_parts(_PART_TEXT)
PARTS = tuple(SHAPES)


@dataclass(frozen=True)
class _Frame:
    """Local coordinates: a point p lies at axes @ p + origin, in canvas pixels."""

    axes: np.ndarray  # [2, 2]
    origin: np.ndarray  # [2]

    def inside(self, centre: Point, sx: float, sy: float, turn: float) -> _Frame:
        """Return a frame within this one with half-sizes sx, sy, rotated by `turn` radians."""
        cos, sin = np.cos(turn), np.sin(turn)
        axes = self.axes @ np.array([(cos * sx, -sin * sy), (sin * sx, cos * sy)])
        return _Frame(axes, self.origin + self.axes @ centre)

    def at(self, points: np.ndarray) -> np.ndarray:
        return points @ self.axes.T + self.origin


class Canvas:
    """A supersampled map of ink numbers (0 = background), painted in a movable local frame."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        middle = SIZE * _SUPER / 2
        self._frame = _Frame(np.diag([middle, middle]), np.full(2, middle))
        self._map = Image.new("I", (SIZE * _SUPER, SIZE * _SUPER))
        self._pen = ImageDraw.Draw(self._map)
        self._inks = [(np.zeros(3), 0, 0)]  # RGB, value in the part map, value in the colour map
        self._palette = _RGB + rng.normal(0, 9, _RGB.shape)  # colours vary between images

    def within(
        self, centre: Point, sx: float, sy: float, turn: float, paint: Callable[[Canvas], None]
    ) -> None:
        """Paint in a frame with half-sizes sx, sy, rotated by `turn` radians."""
        outer, self._frame = self._frame, self._frame.inside(centre, sx, sy, turn)
        paint(self)
        self._frame = outer

    def put(
        self, name: str, colour: str, centre: Point, sx: float, sy: float = 0, turn: float = 0
    ) -> None:
        """Paint a part with half-sizes sx, sy (0: as sx), rotated by `turn` radians.

        A negative half-size mirrors the part.
        """
        part, frame = SHAPES[name], self._frame.inside(centre, sx, sy or sx, turn)
        scale = abs(np.linalg.det(frame.axes)) ** 0.5
        detail = self.pick(*part.details, chance=1, on=colour) if part.details else colour
        for stroke in part.strokes:
            ink = _NAMES.index(detail if stroke.shade is None else colour)
            rgb = self._palette[ink] * (1 if stroke.shade is None else stroke.shade)
            # at least one image pixel wide, as the maps would lack thinner lines
            width = stroke.width and max(_SUPER, round(stroke.width * scale))
            self._stroke(frame.at(stroke.points), width, rgb, part.number, ink + 1)

    def pair(
        self, name: str, colour: str, centre: Point, sx: float, sy: float = 0, turn: float = 0
    ) -> None:
        """Paint a part as `put` does, and its mirror image at −x."""
        for side in (1, -1):
            self.put(name, colour, (side * centre[0], centre[1]), side * sx, sy or sx, side * turn)

    def beam(self, colour: str, start: Point, end: Point, half: float = 0.05) -> None:
        """Paint a bar of half-width `half`."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        self.put("bar", colour, middle, np.hypot(dx, dy) / 2, half, np.arctan2(dy, dx))

    def occlude(self, centre: Point, sx: float, sy: float, turn: float) -> None:
        """Paint a plain muted shape that hides what is below it and is not a part."""
        shape = (_DISK, _BLOCK)[self.rng.integers(2)]
        points = self._frame.inside(centre, sx, sy, turn).at(shape)
        self._stroke(points, 0, muted_colour(self.rng), 0, 0)

    def pick(self, *typical: str, chance: float = 0.7, on: str | None = None) -> str:
        """Draw a typical colour with the given probability, otherwise any, visible on `on`."""
        allowed = _NAMES if on is None else _LEGIBLE[on]
        pool = tuple(name for name in typical if name in allowed)
        if not pool or self.rng.random() >= chance:
            pool = allowed
        return pool[self.rng.integers(len(pool))]

    def develop(self, background: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the image, float [64, 64, 3], on a background, and maps of parts and colours."""
        numbers = np.asarray(self._map)
        palette = np.array([rgb for rgb, _, _ in self._inks]).clip(0, 255)
        enlarged = background.repeat(_SUPER, axis=0).repeat(_SUPER, axis=1)
        pixels = np.where(numbers[..., None] == 0, enlarged, palette[numbers])
        picture = pixels.reshape(SIZE, _SUPER, SIZE, _SUPER, 3).mean(axis=(1, 3))
        nearest = numbers[::_SUPER, ::_SUPER]
        parts, colours = np.array([ink[1:] for ink in self._inks], dtype=np.uint8).T
        return picture, parts[nearest], colours[nearest]

    def _stroke(
        self, points: np.ndarray, width: float, rgb: np.ndarray, part: int, colour: int
    ) -> None:
        """Paint a line of a width in canvas pixels or, if the width is 0, a filled polygon."""
        self._inks.append((rgb, part, colour))
        flat, ink = points.ravel().tolist(), len(self._inks) - 1
        if width:
            self._pen.line(flat, fill=ink, width=int(width), joint="curve")
        else:
            self._pen.polygon(flat, fill=ink)


def muted_colour(rng: np.random.Generator) -> np.ndarray:
    """Draw an RGB colour [3] that cannot be taken for a named colour, black or white."""
    return rng.uniform(75, 185) + rng.uniform(-22, 22, 3)
