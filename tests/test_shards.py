"""Images inside larger files, written by the libraries whose files they are."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from harness.artifacts import Artifact
from harness.config import FolderImagesSection, parse_config
from harness.images.folders import count_unused, folder_images, image_remarks
from harness.images.sets import open_images
from harness.images.view import View
from harness.stages.images import ListImages
from harness.stages.run import run_until

VIEW = View(16, 16)
NAMES = ("cat", "dog", "emu")


@pytest.fixture(scope="module")
def drawn():
    """Return twelve images, as arrays and as the content of PNG files."""
    arrays = np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), dtype=np.uint8)
    files = []
    for array in arrays:
        Image.fromarray(array).save(file := io.BytesIO(), "png")
        files.append(file.getvalue())
    return arrays, files


def webdataset(folder, drawn, labels=lambda n: n % 3):
    wds = pytest.importorskip("webdataset")
    with wds.ShardWriter(str(folder / "part-%03d.tar"), maxcount=5, verbose=0) as sink:
        for number, file in enumerate(drawn[1]):
            image = "input.png" if number == 1 else "png"
            sink.write({"__key__": f"a/{number:04d}", image: file, "cls": labels(number)})
    return folder / "part-*.tar"


def dataset(drawn, names=NAMES):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(names))}
    )
    rows = {"picture": [{"bytes": f, "path": None} for f in drawn[1]], "kind": [0, 1, 2] * 4}
    return datasets.Dataset.from_dict(rows, features=features)


def parquet(folder, drawn, name="train.parquet", names=NAMES):
    dataset(drawn, names).to_parquet(folder / name, batch_size=5)
    return folder / name


def arrow(folder, drawn):
    dataset(drawn).save_to_disk(folder / "saved", num_shards=2)
    return folder / "saved"


@pytest.mark.parametrize(
    ("written", "names"), [(webdataset, ("0", "1", "2")), (parquet, NAMES), (arrow, NAMES)]
)
def test_files_of_the_real_libraries_give_the_images_and_their_classes(
    written, names, drawn, tmp_path
):
    place = written(tmp_path, drawn)
    images = folder_images(place)
    assert images.classes == names and images.labels.tolist() == [0, 1, 2] * 4
    for number in (7, 0, 11, 3):
        assert np.array_equal(images.pixels(number, VIEW), drawn[0][number])
    assert (image_remarks(images)[["remarks", "fault"]] == "").all(axis=None)
    with pytest.raises(ValueError, match=r"classes .*, and the probe images x: all splits must"):
        folder_images(place, ["x"])


def test_patterns_may_have_the_braces_of_webdataset(drawn, tmp_path):
    webdataset(tmp_path, drawn)
    images = folder_images(tmp_path / "part-{000..002}.tar")
    assert images.paths == folder_images(tmp_path / "part-*.tar").paths and len(images) == 12
    assert len(folder_images(tmp_path / "part-00{0,2}.tar")) == 7
    assert not count_unused(tmp_path / "part-{000..002}.tar")
    with pytest.raises(ValueError, match=r"of 5 names, 2 are not files of many images .*part-004"):
        folder_images(tmp_path / "part-{000..004}.tar")
    with pytest.raises(ValueError, match="brace"):
        folder_images(tmp_path / "part-{000..004.tar")


def test_a_run_reads_them_and_is_stale_when_a_file_changes(drawn, tmp_path):
    pattern = webdataset(tmp_path, drawn)
    values = {
        "images": {"source": "folder", **dict.fromkeys(("train", "probe", "test"), str(pattern))},
        "series": [{"name": "vgg", "training": {"batch_size": 4}}],
        "workers": 0,
    }
    run = run_until("images", parse_config(values), tmp_path / "run", Console(quiet=True))
    assert np.array_equal(open_images(run, "test").pixels(4, VIEW), drawn[0][4])
    paths = run.table(Artifact("image_index", ("test",)))["path"]
    assert paths[6] == str(tmp_path / "part-001.tar" / "a/0006.png")
    before = run.sidecar(Artifact("image_index", ("test",)))["fingerprint"]
    webdataset(tmp_path, drawn, lambda n: (n + 1) % 3)
    run_until("images", parse_config(values), tmp_path / "run", Console(quiet=True))
    assert run.sidecar(Artifact("image_index", ("test",)))["fingerprint"] != before
    assert open_images(run, "test").labels.tolist() == [1, 2, 0] * 4


def test_another_order_of_the_probe_classes_makes_the_test_labels_stale(drawn, tmp_path):
    test = parquet(tmp_path, drawn, "test.parquet")
    probes = [parquet(tmp_path, drawn, f"{n}.parquet", NAMES[::n]) for n in (1, -1)]
    listed = [
        ListImages("test", FolderImagesSection(source="folder", probe=probe, test=test)).depends
        for probe in (*probes, probes[0])
    ]
    assert listed[0] == listed[2] != listed[1]


def test_samples_of_an_archive_are_not_left_out_unsaid(drawn, tmp_path, caplog):
    def write(name, *members):
        with tarfile.open(tmp_path / name, "w") as archive:
            for path, content in members:
                member = tarfile.TarInfo(path)
                if isinstance(content, str):
                    member.type, member.linkname, content = tarfile.LNKTYPE, content, b""
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return tmp_path / name

    one, two = [("a.png", drawn[1][0]), ("a.cls", b"0")], [("b.cls", b"1")]
    images = folder_images(write("a.tar", *one, *two, ("b.avif", b"x")))
    assert len(images) == 1 and images.classes == ("0",)
    assert "left out 1 sample with a class but without an image" in caplog.text
    assert caplog.text.strip().endswith(": b")
    with pytest.raises(ValueError, match=r"member b.png is a link, .*--hard-dereference"):
        folder_images(write("b.tar", *one, *two, ("b.png", "a.png")))
    assert len(folder_images(write("c.tar", *one, ("c.json", "a.cls")))) == 1


def test_what_does_not_fit_is_said(drawn, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("one.png", "two.png"):
            member = tarfile.TarInfo(name)
            member.size = len(drawn[1][0])
            archive.addfile(member, io.BytesIO(drawn[1][0]))
    with pytest.raises(ValueError, match=r"a\.tar cannot be used as images: 2 of 2 .* one\.cls"):
        folder_images(tmp_path / "a.tar")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"b\.parquet cannot be used as images"):
        folder_images(tmp_path / "b.parquet")
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image": [{"bytes": None, "path": "x.png"}], "label": [0]})
    pq.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="0 cannot be read .*refers to an image elsewhere"):
        folder_images(tmp_path / "c.parquet").pixels(0, VIEW)
    for image, kind in (([[0, 255]], "list"), (None, "NoneType")):
        file = tmp_path / f"{kind}.parquet"
        pq.write_table(pa.table({"image": [image], "label": [0]}), file)
        with pytest.raises(ValueError, match=f"must be the bytes of an image file, got {kind}"):
            folder_images(file).pixels(0, VIEW)
    pq.write_table(table.rename_columns(["image", "class"]), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="ClassLabel or named 'label'; it has image"):
        folder_images(tmp_path / "d.parquet")
    pq.write_table(table.set_column(1, "label", [[[0]]]), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match=r"must be integers or names; one is \[0\]"):
        folder_images(tmp_path / "e.parquet")
    for labels, message in (
        ([0.0, 1.0], r"must be integers or names; one is 0\.0"),
        ([1, -1], "1 of 2 images have no label, e.g. row 1"),
        (["a", ""], "1 of 2 images have no label, e.g. row 1"),
    ):
        pq.write_table(pa.table({"image": [b"", b""], "label": labels}), tmp_path / "e.parquet")
        with pytest.raises(ValueError, match=message):
            folder_images(tmp_path / "e.parquet")
    both = pa.table({"image": [b"", b""], "label": ["\u00e9", "e\u0301"]})
    pq.write_table(both, tmp_path / "e.parquet")
    assert folder_images(tmp_path / "e.parquet").classes == ("\u00e9",)
    about = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}}
    some = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(some, tmp_path / "f.parquet")
    with pytest.raises(ValueError, match="hold no image of the classes b"):
        folder_images(tmp_path / "f.parquet")
    (tmp_path / "g.tar").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(ValueError, match=r"g\.tar cannot .* compressed \(gzip\); unpack it"):
        folder_images(tmp_path / "g.tar")
    with tarfile.open(tmp_path / "h.tar", "w"):
        pass
    with pytest.raises(ValueError, match=r"h\.tar hold no image; allowed: "):
        folder_images(tmp_path / "h.tar")
    (tmp_path / "notes.txt").touch()
    assert count_unused(tmp_path) == {"file outside the class folders": 1}
    (tmp_path / "data").mkdir()
    for name, labels in (("a", [0]), ("b", ["y", "z"])):
        features = {"label": {"_type": "ClassLabel", "names": ["x"]}} if name == "a" else {}
        info = {"huggingface": json.dumps({"info": {"features": features}})}
        part = pa.table({"image": [b""] * len(labels), "label": labels}).replace_schema_metadata(
            info
        )
        pq.write_table(part, tmp_path / "data" / f"{name}.parquet")
    with pytest.raises(
        ValueError, match="some files have the classes y, z, .* another file .*: x$"
    ):
        folder_images(tmp_path / "data")
    with pytest.raises(ValueError, match=r"; name the files of many images .* e.g. .*a\.parquet"):
        folder_images(tmp_path)
