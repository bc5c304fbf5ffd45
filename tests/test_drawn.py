"""The synthetic images: reproducible, balanced, varied, and consistent with their ground truth."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.images.drawn import CLASSES, COLOURS, PARTS, SIZE, Drawing, draw

COUNT = 600
#: The part that each class cannot do without, and which is large in it.
HALLMARKS = {
    "ladybug": "body",
    "fire engine": "box",
    "clock": "disc",
    "butterfly": "wing",
    "traffic light": "box",
    "flower": "petal",
    "fish": "body",
    "house": "roof",
    "bicycle": "wheel",
    "face": "body",
    "leaf": "blade",
    "zebra": "stripe",
}


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return [draw(0, index) for index in range(COUNT)]


def same(a: Drawing, b: Drawing) -> bool:
    return a.label == b.label and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("image", "parts", "colours")
    )


def test_the_names() -> None:
    assert (len(CLASSES), len(PARTS), len(COLOURS)) == (12, 24, 10)
    assert len(set(CLASSES)) == 12 and len(set(PARTS)) == 24


def test_an_image_depends_on_seed_and_index_only(drawings: list[Drawing]) -> None:
    for index in (37, 5, 599, 0):  # out of order, after 600 others
        assert same(draw(0, index), drawings[index])
    code = (
        "import sys; from harness.images.drawn import draw; "
        "sys.stdout.buffer.write(draw(0, 37).image)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert other.stdout == drawings[37].image.tobytes()


def test_every_image_is_a_new_one(drawings: list[Drawing]) -> None:
    images = [drawing.image for drawing in drawings] + [draw(1, index).image for index in range(24)]
    assert len({image.tobytes() for image in images}) == len(images)


def test_labels_go_round(drawings: list[Drawing]) -> None:
    assert [drawing.label for drawing in drawings] == [index % 12 for index in range(COUNT)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**63), index=st.integers(0, 2**63))
def test_any_seed_and_index_give_a_well_formed_drawing(seed: int, index: int) -> None:
    drawing = draw(seed, index)
    assert drawing.label == index % 12
    assert drawing.image.shape == (SIZE, SIZE, 3) and drawing.image.dtype == np.uint8
    for truth, names in ((drawing.parts, PARTS), (drawing.colours, COLOURS)):
        assert truth.shape == (SIZE, SIZE) and truth.dtype == np.uint8
        assert truth.max() <= len(names)
    assert np.array_equal(drawing.parts == 0, drawing.colours == 0)
    assert drawing.image.std() > 5


def test_the_object_is_in_sight(drawings: list[Drawing]) -> None:
    for index, drawing in enumerate(drawings):
        hallmark = PARTS.index(HALLMARKS[CLASSES[drawing.label]]) + 1
        assert np.sum(drawing.parts == hallmark) > 30, f"image {index}"
        assert 0.05 < np.mean(drawing.parts > 0) < 0.95, f"image {index}"


def test_every_colour_and_every_part_occurs_in_every_class(drawings: list[Drawing]) -> None:
    """Because of clutter, the presence of a part or colour does not reveal the class."""
    for truths, count in (
        ([drawing.parts for drawing in drawings], len(PARTS)),
        ([drawing.colours for drawing in drawings], len(COLOURS)),
    ):
        shown = np.zeros((12, count + 1), dtype=bool)
        for index, truth in enumerate(truths):
            shown[index % 12, np.unique(truth)] = True
        assert shown.sum(axis=0).min() >= 11


def test_parts_are_built_into_several_classes(drawings: list[Drawing]) -> None:
    """A part that a class is built of is in most of its images; stray ones are in few."""
    built = {name: [0.0] * 12 for name in PARTS}
    for drawing in drawings:
        for number in np.unique(drawing.parts)[1:]:
            built[PARTS[number - 1]][drawing.label] += 12 / COUNT
    classes = {
        name: {CLASSES[k] for k, share in enumerate(shares) if share > 0.65}
        for name, shares in built.items()
    }
    assert classes["wheel"] == {"bicycle", "fire engine"}
    assert classes["dot"] == {"ladybug", "butterfly", "clock"}
    assert classes["eye"] == {"face", "fish", "ladybug", "zebra"}
    assert {"house", "fire engine"} <= classes["window"]
    assert {"fish", "zebra"} <= classes["stripe"]
    assert all(classes.values()), "every part belongs to some class"


def test_colours_are_typical_but_not_telling(drawings: list[Drawing]) -> None:
    red = list(COLOURS).index("red") + 1
    body = PARTS.index("body") + 1
    shells = [np.bincount(d.colours[d.parts == body]).argmax() for d in drawings[::12]]
    assert 0.4 < np.mean(np.array(shells) == red) < 0.85


def test_the_colour_map_names_the_colour_in_the_picture(drawings: list[Drawing]) -> None:
    """Red is strongest in the red channel and so on; white outshines black in any light."""

    def mean_rgb(drawing: Drawing, name: str) -> np.ndarray | None:
        shown = drawing.colours == list(COLOURS).index(name) + 1
        return drawing.image[shown].mean(axis=0) if shown.sum() > 40 else None

    for channel, name in enumerate(("red", "green", "blue")):
        means = [rgb for drawing in drawings if (rgb := mean_rgb(drawing, name)) is not None]
        assert len(means) > 100
        assert np.mean(np.argmax(means, axis=1) == channel) > 0.95
    for index, drawing in enumerate(drawings):
        black, white = mean_rgb(drawing, "black"), mean_rgb(drawing, "white")
        if black is not None and white is not None:
            assert white.mean() - black.mean() > 30, f"image {index}"
