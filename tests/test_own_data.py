"""A user's own images and checkpoints, through the public commands."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import say
from network_pairs import perturbed
from PIL import Image

from analysis.explorer.data import Source
from harness.artifacts import Run
from harness.images.patches import cut_patch
from harness.images.sets import draw_arrays
from harness.images.view import View
from harness.networks.architectures import build
from tasks.evidence import Evidence
from tasks.settings import EvidenceSettings

CLASSES = ("clock", "fish", "zebra")
CONFIG = """
workers = 0
[images]
source = "folder"
probe = "{0}/probe"
test = "{0}/test"
[[series]]
name = "mine"
source = "folder"
architecture = "small_resnet"
folder = "{0}/weights"
pattern = "net_{{epoch}}.pth"
resize = [40, 48]
crop = [32, 40]
interpolation = "bicubic"
[probe]
k = 18
[space]
methods = ["ppmi", "jaccard"]
[evolve]
methods = ["sign_t"]
images_per_class = 4
[revert]
random_draws = 2
heldout_images = 4
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Return three classes of images in several formats, and three DataParallel checkpoints."""
    root = tmp_path_factory.mktemp("own")
    for split, seed, each in (("probe", 1, 8), ("test", 2, 6)):
        arrays = draw_arrays(seed, 0, 12 * each)
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            of_class = arrays["pixels"][arrays["labels"] == (2, 6, 11)[label]]
            for number, pixels in enumerate(of_class):
                suffix = ("png", "jpg", "webp")[number % 3]
                Image.fromarray(pixels[:, 8:]).save(folder / f"{number}.{suffix}")
    (root / "weights").mkdir()
    model = build("small_resnet", 3, seed=0)
    for epoch in (1, 5, 20):
        model = perturbed(model, epoch, 0.2)
        state = {f"module.{name}": value for name, value in model.state_dict().items()}
        torch.save({"state_dict": state, "epoch": epoch}, root / "weights" / f"net_{epoch}.pth")
    return root


def run(out: Path, config: str, stage: str = "run", error: type[Exception] | None = None) -> str:
    path = out.with_suffix(".toml")
    path.write_text(config)
    return " ".join(say(stage, path, "--out", out, error=error).split())


@pytest.fixture(scope="module")
def finished(own, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    run(out, CONFIG.format(own))
    return out


def test_own_checkpoints_and_images_go_all_the_way(finished):
    page = (finished / "report" / "report.html").read_text(encoding="utf-8")
    assert "mine" in page and page.count("<img ") == 5  # none that needs true concepts
    assert "the class of most of a neuron" in page and "share concepts could not be tested" in page
    tables = {path.name for path in (finished / "report" / "tables").glob("*.csv")}
    assert {"neurons.csv", "identity.csv", "reversion.csv"} <= tables
    assert "alignment.csv" not in tables
    say("bench", finished, "--methods", "sign_t,random", "--workers", 0)
    board = pd.read_csv(finished / "bench" / "leaderboard.csv")
    assert set(board["method"]) == {"sign_t", "random"}


def test_pictures_show_what_the_network_sees(finished):
    view = View((40, 48), (32, 40), interpolation="bicubic")
    assert Source(Run(finished)).views == [view]
    evidence = Evidence(Run(finished), EvidenceSettings(space="ppmi", min_depth=0))
    neuron = evidence.neurons[evidence.usable[0]]
    stimulus = evidence.stimuli(neuron).iloc[0]
    with Image.open(evidence.images.paths[stimulus["image_id"]]) as image:
        assert image.size == (56, 64)
        pixels = view.apply(image)
    patch = evidence.run.tables("layers").set_index("layer")["patch"][neuron.layer]
    expected = cut_patch(pixels, stimulus["peak_y"], stimulus["peak_x"], patch)
    assert (evidence.crops(neuron, [0])[0] == expected).all()


@pytest.mark.slow
def test_attributes_of_ones_own_images_name_neurons_and_judge_spaces(own, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    rows = ["path,round,striped,real,odd"]
    for path in sorted((own / "test").rglob("*.*")):
        name = path.parent.name
        rows.append(f"{name}/{path.name},{int(name == 'clock')},{int(name == 'zebra')},1,0")
    rows.append("other/1.png,0,0,0,1")
    (own / "attributes.csv").write_text("\n".join(rows) + "\n")
    section = f'test = "{own}/test"'
    config = CONFIG.format(own).replace(section, f'{section}\nattributes = "{own}/attributes.csv"')
    said = " ".join(run(tmp_path / "run", config, "report").split())
    named = pd.read_parquet(tmp_path / "run" / "probe" / "mine" / "concepts-0020.parquet")
    assert set(named["concept"]) <= {"round", "striped"}
    # of n = N / 3 images none shared: (0 − c) / (1 − c) with c = n / (2 N − n)
    assert named["iou"].between(-1 / 4, 1).all()
    assert said.count(f"1 of {len(rows) - 1} rows are of no test image") == 1
    assert said.count("no test image, or every one, has real, odd: left out") == 1
    assert (tmp_path / "run" / "report" / "tables" / "alignment.csv").exists()
    (tmp_path / "named.toml").write_text(config)
    assert "naming" in say("run", tmp_path / "named.toml", "--out", tmp_path / "no", "--plan")
    alone = {row.rpartition("/")[2].partition(",")[0]: row.rpartition("/")[2] for row in rows}
    faults = {
        "have no row for": rows[:-2],
        "must have different names, got 'path', 'round', 'round'": ["path,round,round"],
        "must have different names, got 'path', 'round', ''": ["path,round,"],
        "no attribute differs between": [",".join(row.split(",")[::3]) for row in rows],
        "have several rows for": [*rows, rows[1]],
        "more of their paths": [rows[0], *[text for text in alone.values() if "." in text]],
        "column 'odd' holds something other than 0 and 1": [
            rows[0],
            *(row + "0" for row in rows[1:]),
        ],
    }
    for message, lines in faults.items():
        (own / "attributes.csv").write_text("\n".join(lines) + "\n")
        assert message in run(tmp_path / "new", config, "check", ValueError)


def broken_image(root):
    (root / "probe" / "fish" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    return CONFIG, "0.png: it is damaged, or of a format that Pillow"


def nothing_but_pointers(root):
    for path in (root / "test").rglob("*.*"):
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    return CONFIG, "0.png: it is a Git LFS pointer"


def empty_class(root):
    shutil.rmtree(root / "test" / "fish")
    (root / "test" / "fish").mkdir()
    return CONFIG, "fish holds no image"


def single_image(root):
    for path in sorted((root / "test" / "fish").iterdir())[1:]:
        path.unlink()
    return CONFIG, "importance and ablation need two images of a class; fish have fewer"


def cut_checkpoint(root):
    path = root / "weights" / "net_5.pth"
    path.write_bytes(path.read_bytes()[:3000])
    return CONFIG, "is damaged"


def another_architecture(root):
    return CONFIG.replace("small_resnet", "small_vgg"), "prefix 'module.'): missing"


def no_such_epoch(root):
    pairs = CONFIG + "[evolve.pairs]\nmine = [[1, 7]]\n"
    return pairs.replace("[revert]\nrandom_draws = 2\nheldout_images = 4\n", ""), (
        "has no checkpoint of epoch 7; it has 1, 5, 20"
    )


@pytest.mark.parametrize(
    "damage",
    [
        broken_image,
        nothing_but_pointers,
        empty_class,
        single_image,
        cut_checkpoint,
        another_architecture,
        no_such_epoch,
    ],
)
def test_what_is_wrong_is_named(own, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(own, copy)
    config, message = damage(copy)
    assert message in run(tmp_path / "run", config.format(copy), "revert", ValueError)
