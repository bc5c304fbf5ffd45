import os
import struct
import unicodedata
import warnings
import zlib
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from rich.console import Console

from analysis.run.audit import images as images_table
from harness.artifacts import Artifact, Run
from harness.config import parse_config
from harness.images.batches import batches, use_readers
from harness.images.folders import count_unused, folder_images, image_remarks
from harness.images.patches import cut_patch, cut_patches, make_grid
from harness.images.sets import ArrayImages, FileImages, draw_arrays, image_index, open_images
from harness.images.view import Interpolation, View, to_rgb, with_views
from harness.stages.engine import Engine
from harness.stages.images import note_shared_images, steps
from harness.stages.stage import Plan
from harness.torchvision_import import call_with_torchvision


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (40, 30), colour).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_a_folder_a_class(folder):
    images = folder_images(folder)
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    pixels = images.pixels(4, View(24, 20))
    assert pixels.shape == (20, 20, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [0, 0, 255]


def test_an_empty_class_folder_a_missing_one_and_none(folder):
    (folder / "emu").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*emu holds no image; allowed: \.bmp"):
        folder_images(folder)
    with pytest.raises(ValueError, match="lacks the class folders owl"):
        folder_images(folder, ["cat", "owl"])
    with pytest.raises(ValueError, match="does not exist"):
        folder_images(folder / "none")
    with pytest.raises(ValueError, match="has no class folders"):
        folder_images(folder / "emu")


def test_view_must_fit():
    with pytest.raises(ValueError, match="crop must be positive and at most resize, got crop=9"):
        View(8, 9)
    with pytest.raises(ValueError, match=r"std must be positive, got \[0.2, 0.0, 0.2\]"):
        View(8, 8, std=(0.2, 0.0, 0.2))


@pytest.mark.parametrize("is_tall", [False, True])
def test_the_shorter_side_is_resized_and_the_middle_is_seen(is_tall):
    pixels = np.full((20, 40, 3), (0, 255, 0), np.uint8)  # the middle square is green
    pixels[:, :8], pixels[:, -8:] = (255, 0, 0), (0, 0, 255)
    image = Image.fromarray(pixels.transpose(1, 0, 2) if is_tall else pixels)
    assert (View(10, 10).apply(image) == (0, 255, 0)).all()
    assert (View(20, 12).apply(image) == (0, 255, 0)).all()


@settings(deadline=None)  # torchvision is imported in the first example
@given(
    st.integers(5, 60),
    st.integers(5, 60),
    st.integers(4, 40),
    st.integers(0, 3),
    st.none() | st.integers(4, 40),
    st.sampled_from(get_args(Interpolation)),
)
def test_an_image_is_seen_as_by_torchvision(width, height, size, margin, other, interpolation):
    transforms = call_with_torchvision(import_module, "torchvision.transforms")
    mode = transforms.InterpolationMode(interpolation)
    crop = size - margin if other is None else (size - margin, max(1, other - 2 * margin))
    prepare = transforms.Compose(
        [
            transforms.Resize(size if other is None else (size, other), mode),
            transforms.CenterCrop(crop),
            transforms.PILToTensor(),
        ]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = prepare(image).permute(1, 2, 0).numpy()
    resize = size if other is None else (size, other)
    view = View(resize, crop, interpolation=interpolation)
    np.testing.assert_array_equal(view.apply(image), expected)


def test_layers_have_the_views_with_which_they_were_recorded():
    layers = pd.DataFrame({"resize": [9, 8], "crop": [8, 8]})  # as of earlier versions
    assert with_views(layers)["view"].tolist() == [View(9, 8), View(8, 8)]
    views = [View(9, 8, interpolation="bicubic"), View((9, 9), (8, 7), interpolation="nearest")]
    layers = pd.DataFrame([view.columns() for view in views])
    assert with_views(layers)["view"].tolist() == views
    assert View(9, 8).enlarged(2.5) == View(22, (20, 20))
    assert View((9, 8), (6, 4)).enlarged(1.5) == View((14, 12), (9, 6))


def test_the_part_of_square_images_that_is_seen():
    pixels = np.arange(64 * 64).reshape(1, 64, 64)
    assert (View(32, 32).seen_part(pixels) == pixels).all()
    assert (View(256, 224).seen_part(pixels) == pixels[:, 4:60, 4:60]).all()
    assert (View((64, 32), (32, 32)).seen_part(pixels) == pixels[:, 16:48]).all()


def test_open_images_gives_back_what_a_run_used(tmp_path_factory, folder):
    run = Run(tmp_path_factory.mktemp("run"))
    arrays = draw_arrays(3, 0, 24)
    run.save(Artifact("images", ("probe",)), {"pixels": arrays["pixels"]}, "f")
    labels = arrays["labels"]
    index = pd.DataFrame(
        {
            "image_id": range(24),
            "class_id": labels,
            "class_name": [f"class {label:02}" for label in labels],
            "path": "",
        }
    )
    run.save(Artifact("image_index", ("probe",)), index, "f")
    images = open_images(run, "probe")
    assert isinstance(images, ArrayImages) and len(images) == 24 and len(images.classes) == 12
    assert np.array_equal(images.pixels(5, View(64, 64)), arrays["pixels"][5])
    run.save(Artifact("image_index", ("test",)), image_index(folder_images(folder)), "f")
    assert open_images(run, "test").pixels(0, View(20, 20))[0, 0].tolist() == [255, 0, 0]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 1))
def test_a_patch_is_square_inside_the_image_and_holds_its_peak(y, x, side):
    rows, columns = np.mgrid[0:40, 0:60]
    pixels = np.stack([rows, columns, 0 * rows], axis=2).astype(np.int64)
    cut = cut_patch(pixels, y, x, side)
    assert cut.shape[0] == cut.shape[1] == max(1, round(side * 40))
    assert cut[0, 0, 0] - 1 <= min(int(y * 40), 39) <= cut[-1, -1, 0] + 1
    assert cut[0, 0, 1] - 1 <= min(int(x * 60), 59) <= cut[-1, -1, 1] + 1


def test_patches_come_strongest_first_and_a_grid_leaves_gaps_white():
    arrays = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    arrays[1] = 200
    images = ArrayImages(arrays, np.zeros(2, dtype=np.int64), ("a",))
    stimuli = pd.DataFrame({"rank": [1, 0], "image_id": [0, 1], "peak_y": 0.5, "peak_x": 0.5})
    crops = cut_patches(stimuli, images, View(16, 16), 0.5, 9)
    assert [int(crop[0, 0, 0]) for crop in crops] == [200, 0]
    sheet = np.asarray(make_grid(crops, 3, 10, gap=2))
    assert sheet.shape == (10, 34, 3)
    assert sheet[5, 5, 0] == 200 and sheet[5, 17, 0] == 0 and sheet[5, 30, 0] == 255


def write(folder, name, image, **more):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **more)
    return path


RAMP = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RAMP.astype(np.uint16) * 257),
        Image.fromarray(RAMP.astype(np.int32) * 257),
        Image.fromarray((RAMP / 255).astype(np.float32)),
        Image.fromarray(RAMP).convert("P"),
        Image.fromarray(RAMP).convert("LA"),
        Image.fromarray(RAMP).convert("RGBA"),
        Image.fromarray(RAMP).convert("RGB"),
    ],
    ids=lambda image: image.mode,
)
def test_every_depth_and_mode_gives_the_same_pixels(image):
    seen = View(8, 8).apply(image)
    assert np.array_equal(seen, np.repeat(RAMP[:, :, None], 3, axis=2))


def test_brightness_is_rounded():
    assert to_rgb(Image.fromarray(np.float32([[0.999]]))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.fromarray(np.uint16([[65_400]]))).getpixel((0, 0)) == (254, 254, 254)


def test_pixels_of_unknown_range_are_refused(tmp_path):
    for values in (RAMP.astype(np.float32), RAMP.astype(np.int32) * 2**20, -RAMP.astype(np.int32)):
        write(tmp_path, "a/1.tif", Image.fromarray(values))
        with pytest.raises(ValueError, match=r"1.tif cannot be read .its pixels .*convert it"):
            folder_images(tmp_path).pixels(0, View(8, 8))


def test_transparency_is_shown_on_white_and_images_stand_upright(tmp_path):
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert (View(8, 8).apply(clear) == 255).all()
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert abs(int(View(8, 8).apply(half)[0, 0, 0]) - 127) <= 1
    lying = Image.new("RGB", (8, 8))
    lying.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = write(tmp_path, "a/1.png", lying, exif=exif)
    with Image.open(path) as image:
        assert View(8, 8).apply(image)[0, 7].tolist() == [255, 255, 255]


def test_all_kinds_of_files_are_read_and_what_is_left_out_is_counted(tmp_path):
    names = ["1.png", "2.TIF", "3.tiff", "4.pgm", "5.gif", "6.jfif", "sub/7.png", ".hidden.png"]
    for name in names:
        form = {".jfif": "JPEG", ".pgm": "PPM"}.get(Path(name).suffix)
        write(tmp_path / "data" / "a", name, Image.fromarray(RAMP), format=form)
    write(tmp_path / "data" / ".ipynb_checkpoints", "1.png", Image.fromarray(RAMP))
    write(tmp_path / "elsewhere", "8.png", Image.fromarray(RAMP))
    (tmp_path / "data" / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "loop").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "a" / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "data" / "a" / "self.png").symlink_to("self.png")
    (tmp_path / "data" / "a" / "notes.txt").write_text("x")
    (tmp_path / "data" / "Thumbs.db").write_text("x")
    images = folder_images(tmp_path / "data")
    assert images.classes == ("a",) and len(images) == 8
    assert all(images.pixels(index, View(8, 8)).shape == (8, 8, 3) for index in range(8))
    assert count_unused(tmp_path / "data") == {
        "hidden folder": 1,
        "hidden file": 1,
        "broken link": 2,
        "file outside the class folders": 1,
        ".txt": 1,
    }


def test_classes_that_one_split_lacks_are_refused_either_way(tmp_path):
    for split, names in (("probe", "ab"), ("test", "abc")):
        for name in names:
            write(tmp_path / split / name, "1.png", Image.fromarray(RAMP))
    with pytest.raises(ValueError, match=r"has the class folders c, which the probe images lack"):
        folder_images(tmp_path / "test", ("a", "b"))
    with pytest.raises(ValueError, match=r"lacks the class folders c"):
        folder_images(tmp_path / "probe", ("a", "b", "c"))


def jpeg_of_cmyk(path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(path, format="JPEG", quality=100)
    return (0, 255, 255)


def palette_with_transparency(path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.save(path, format="PNG", transparency=bytes([255, 0]))
    return (255, 255, 255)


def grey_with_a_transparent_value(path):
    Image.new("L", (8, 8), 7).save(path, format="PNG", transparency=7)
    return (255, 255, 255)


def animated(path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    return (255, 0, 0)


def many_pages(path):
    pages = [Image.fromarray(np.full((8, 8), v, np.uint16)) for v in (65535, 0)]
    pages[0].save(path, format="TIFF", save_all=True, append_images=pages[1:])
    return (255, 255, 255)


def sixteen_bits_a_colour(path):
    """Write 8 x 8 pixels of (0xFF80, 0x0080, 0x8080), which Pillow cannot write."""
    rows = (b"\0" + b"\xff\x80\x00\x80\x80\x80" * 8) * 8
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows),
              b"IEND": b""}  # fmt: skip
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks.items()
        )
    )
    return (255, 0, 128)


def of_twelve_bits(path):
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(path, format="PNG")
    return (16, 16, 16)


def of_another_profile(path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = profile.replace("sRGB".encode("utf-16-be"), "Wide".encode("utf-16-be"))
    Image.new("RGB", (8, 8), (9, 99, 199)).save(path, icc_profile=other.replace(b"sRGB", b"Wide"))
    return (9, 99, 199)


def of_this_profile(path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (8, 8), (9, 99, 199)).save(path, icc_profile=profile)
    return (9, 99, 199)


def two_colours(path):
    Image.new("1", (8, 8), 1).save(path, format="PNG")
    return (255, 255, 255)


@pytest.mark.parametrize(
    ("make", "suffix", "remark"),
    [
        (jpeg_of_cmyk, "JPG", "CMYK, converted to RGB"),
        (palette_with_transparency, "png", "transparent pixels, shown on white"),
        (grey_with_a_transparent_value, "jpg", "transparent pixels, shown on white"),
        (animated, "gif", "several frames or pages, only the first is used"),
        (animated, "webp", "several frames or pages, only the first is used"),
        (many_pages, "TIFF", "several frames or pages, only the first is used; 16 bits or "),
        (sixteen_bits_a_colour, "png", "16 bits or floating point, scaled to 8 bits"),
        (of_twelve_bits, "png", "16 bits or floating point, scaled to 8 bits; nearly black once "),
        (of_another_profile, "png", "a colour profile other than sRGB, ignored"),
        (of_this_profile, "jpg", ""),
        (two_colours, "png", ""),
    ],
)  # fmt: skip
def test_unusual_images_have_the_right_colour_and_are_remarked_on(make, suffix, remark, tmp_path):
    path = tmp_path / "a" / f"1 ä.{suffix}"
    path.parent.mkdir()
    colour = make(path)
    images = folder_images(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = images.pixels(0, View(8, 8))
    assert np.abs(pixels.astype(int) - np.array(colour)).max() <= 2
    (row,) = image_remarks(images).itertuples()
    assert row.fault == "" and row.remarks.startswith(remark) and bool(row.remarks) == bool(remark)


DAMAGED = {
    "empty.png": (b"", r"it is empty \(0 bytes\)"),
    "page.jpg": (b"<!DOCTYPE html><html></html>", r"it is a web page \(HTML\)"),
    "lfs.png": (b"version https://git-lfs.github.com/spec/v1\n", r"it is a Git LFS pointer"),
    "text.png": (b"hello world, I am no image", r"it is damaged, or of a format that Pillow"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_files_that_are_no_images_are_named_for_what_they_are(name, tmp_path):
    content, message = DAMAGED[name]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(content)
    images = folder_images(tmp_path)
    with pytest.raises(ValueError, match=rf"{name} cannot be read \({message}"):
        images.pixels(0, View(8, 8))
    (fault,) = image_remarks(images)["fault"]
    assert name in fault


def test_a_file_that_is_cut_off_is_named_before_work(tmp_path):
    (tmp_path / "a").mkdir()
    for form in ("jpg", "png", "webp", "tif"):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path := tmp_path / "a" / f"1.{form}")
        content = bytearray(path.read_bytes())
        path.write_bytes(content[:-400])
        if form == "jpg":  # an interrupted download into a file of the full size
            content[-400:] = bytes(400)
            path.with_name("2.jpg").write_bytes(content)
        if form == "png":  # a damaged part
            content[len(content) // 2] ^= 1
            path.with_name("2.png").write_bytes(content)
    images = folder_images(tmp_path)
    assert len(images) == 6 and (image_remarks(images)["fault"] != "").all()


def test_data_behind_the_end_of_an_image_are_no_damage(tmp_path):
    path = write(tmp_path, "a/1.jpg", Image.new("RGB", (64, 64)))
    path.write_bytes(path.read_bytes() + b"\xff\xda and a film")
    assert image_remarks(folder_images(tmp_path))["fault"].tolist() == [""]


def test_names_that_are_no_unicode_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    try:
        (tmp_path / "a" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes Unicode alone")
    with pytest.raises(ValueError, match=r"names that are not UTF-8: '\\udcff.png'"):
        folder_images(tmp_path)


@pytest.mark.parametrize("form", ["png", "jpg", "gif", "tif", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_images_are_refused_or_read_never_a_traceback(form, share, tmp_path):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8))
    path = write(tmp_path, f"a/1.{form}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=rf"1.{form} cannot be read \(.+\); replace or remove"):
        folder_images(tmp_path).pixels(0, View(8, 8))


def test_images_with_too_many_pixels_are_refused(tmp_path, monkeypatch):
    write(tmp_path, "a/1.png", Image.new("L", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"it has more than 2,000 pixels: make it smaller"):
        folder_images(tmp_path).pixels(0, View(8, 8))


def test_an_image_that_is_gone_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = FileImages(("data/a.png",), np.zeros(1, dtype=int), ("a",))
    with pytest.raises(ValueError, match=rf"data/a.png .*\(it no longer exists in {tmp_path}\);"):
        images.pixels(0, View(8, 8))


def test_copies_are_counted(tmp_path):
    for name, value in (("1.png", 0), ("2.png", 9), ("3.png", 0), ("sub/4.png", 0)):
        write(tmp_path / "a", name, Image.new("L", (8, 8), value))
    remarks = image_remarks(folder_images(tmp_path))["remarks"].tolist()
    assert remarks == ["", "", "copy of another image", "copy of another image"]


def test_class_names_are_taken_as_they_are(tmp_path):
    names = sorted(["001.ant, red", 'the "queen"', "it's", "Ärger", "蜂", "a b"])
    for name in names:
        write(tmp_path / name, "1.png", Image.new("L", (8, 8)))
    images = folder_images(tmp_path)
    assert images.classes == tuple(names)
    index = image_index(images)
    assert list(index["class_name"]) == names


def test_all_faults_of_a_folder_come_at_once(tmp_path):
    for name in ("a", "b", "d"):
        (tmp_path / name).mkdir()
    write(tmp_path, "a/1.png", Image.new("L", (8, 8)))
    with pytest.raises(ValueError) as error:
        folder_images(tmp_path, ("a", "b", "c"))
    text = str(error.value)
    assert "lacks the class folders c" in text and "has the class folders d" in text
    assert "b holds no image" in text and "c holds no image" not in text


def test_what_is_left_out_or_converted_is_in_the_report(tmp_path, caplog):
    for split in ("probe", "test"):
        for number in range(2):
            write(tmp_path / split / "a", f"{number}.png", Image.new("RGBA", (8, 8)))
        write(tmp_path / split / "b", "1.png", Image.new("RGB", (8, 8), (number, 0, 9)))
        (tmp_path / split / "b" / "notes.txt").write_text("x")
    section = {"source": "folder", "probe": str(tmp_path / "probe"), "test": str(tmp_path / "test")}
    series = [{"name": "x", "source": "torchvision", "architecture": "resnet18"}]
    config = parse_config({"images": section, "series": series})
    plan = Plan(config, Run(tmp_path / "run"))
    with Engine(plan, 0, Console(quiet=True)) as working:
        working.run(steps(plan))
    assert "images.probe: left out 1 × .txt" in caplog.text
    assert "images.test: 2 of 3 images: transparent pixels, shown on white" in caplog.text
    table = images_table(Run(tmp_path / "run")).frame
    assert list(table["split"]) == ["probe", "test"] and list(table["images"]) == [3, 3]
    assert list(table["smallest class"]) == [1, 1] and list(table["left out"]) == ["1 × .txt"] * 2
    converted = "2 × transparent pixels, shown on white; 1 × copy of another image"
    assert list(table["converted"]) == [converted, f"{converted}; 3 × also in images.probe"]
    assert "images.test: 3 of 3 images: also in images.probe" in caplog.text
    alone = config.model_copy(
        update={"images": config.images.model_copy(update={"test": config.images.probe})}
    )
    assert "images.probe and images.test are the same images" in " ".join(note_shared_images(alone))
    assert not list(note_shared_images(config))
    (tmp_path / "probe" / "b" / "2.png").write_bytes(b"")
    (tmp_path / "probe" / "b" / "3.png").write_bytes(b"rubbish, no image")
    plan = Plan(config, Run(tmp_path / "run"))
    with Engine(plan, 0, Console(quiet=True)) as working, pytest.raises(ValueError) as error:
        working.run(steps(plan))
    text = str(error.value)
    assert "images.probe: 2 of 5 images cannot be read" in text
    assert "2.png: it is empty" in text and "3.png: it is damaged" in text


@pytest.mark.parametrize("start", ["fork", "spawn"])  # as on Linux, as elsewhere
def test_reading_in_processes_gives_the_same_batches_and_errors(tmp_path, monkeypatch, start):
    monkeypatch.setattr("harness.images.batches.START", start)
    rng = np.random.default_rng(0)
    for number in range(7):
        pixels = rng.integers(0, 256, (12, 9, 3), dtype=np.uint8)
        write(tmp_path, f"a/{number}.png", Image.fromarray(pixels))
    images, view = folder_images(tmp_path), View(8, 8)
    plain = list(batches(images, np.arange(6), view, 2))
    (tmp_path / "a" / "6.png").write_bytes(b"no image")
    with use_readers(2):
        read = batches(images, np.arange(7), view, 2)
        for (ids, batch), (other_ids, other) in zip(plain, read, strict=False):
            assert torch.equal(ids, other_ids) and torch.equal(batch, other)
            assert batch.stride() == other.stride()
        with pytest.raises(ValueError, match=r"6\.png cannot be read"):
            next(read)


def test_an_image_in_two_classes_is_told_from_a_copy(tmp_path):
    for name in ("a/1", "a/2", "b/1"):
        write(tmp_path, f"{name}.png", Image.new("RGB", (8, 8), "red"))
    remarks = image_remarks(folder_images(tmp_path))["remarks"].tolist()
    assert remarks == ["", "copy of another image", "copy of an image of another class"]


def test_pixels_of_unknown_range_are_named_before_any_work(tmp_path):
    for number, top in enumerate((1, 255, np.nan)):
        write(tmp_path, f"a/{number}.tif", Image.fromarray(np.full((8, 8), top, np.float32)))
    faults = image_remarks(folder_images(tmp_path))["fault"].tolist()
    assert [fault.split(": ")[0][-5:] for fault in faults] == ["", "1.tif", "2.tif"]
    assert "range from 255 to 255; only integers in [0, 65535]" in faults[1]


def test_a_class_is_the_same_however_its_accents_are_stored(tmp_path, caplog):
    for split, form in (("probe", "NFC"), ("test", "NFD")):
        folder = tmp_path / split / unicodedata.normalize(form, "Käse")
        write(folder, "1.png", Image.new("RGB", (8, 8)))
    images = folder_images(tmp_path / "test", folder_images(tmp_path / "probe").classes)
    assert images.classes == ("Käse",) and len(images) == 1
    write(tmp_path / "test" / "Kind", "1.png", Image.new("RGB", (8, 8)))
    assert folder_images(tmp_path / "test").classes == ("Kind", "Käse")  # as if stored in NFC
    assert "torchvision's order is Käse, Kind: if the network was trained with" in caplog.text
    twice = tmp_path / "probe" / unicodedata.normalize("NFD", "Käse")
    twice.mkdir()
    with pytest.raises(ValueError, match="two class folders whose names look the same"):
        folder_images(tmp_path / "probe")


def test_splits_are_not_taken_for_classes(tmp_path):
    for split in ("train", "val"):
        write(tmp_path, f"{split}/a/1.png", Image.new("RGB", (8, 8)))
    with pytest.raises(ValueError, match=r"sub-folders train, val, which are splits, not classes"):
        folder_images(tmp_path)
