"""`conceptevo init --preset paper`: the published study for a user's ImageNet; its figures."""

import numpy as np
import pandas as pd
import pytest
from command_line import say
from PIL import Image

from analysis.run.published import join_published, read_published
from harness.config import load_config
from harness.presets import published_classes
from harness.records import JOINT
from harness.results import mean_by_class


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    picture = root / "one.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(picture)
    (root / "train").mkdir()
    for number in range(1000):
        place = root / "val" / f"n{number:08d}"
        place.mkdir(parents=True)
        (place / "1.png").write_bytes(picture.read_bytes())
    return root


def test_the_preset_is_a_configuration_of_the_published_study(imagenet, tmp_path):
    path = tmp_path / "paper.toml"
    for name, epochs in (
        ("vgg16_0.01", (5, 21, 207)),
        ("inception_v3_0.5", (1, 11, 121)),
        ("convnext_0.004", (1, 3, 96)),
    ):
        (tmp_path / "c" / name).mkdir(parents=True)
        for epoch in epochs:
            (tmp_path / "c" / name / f"model-{epoch}.pth").touch()
    preset = ("init", path, "--preset", "paper")
    say(*preset, "--images", imagenet, "--checkpoints", tmp_path / "c")
    config = load_config(path)
    assert len(config.evolve.classes) == 100 == len(set(published_classes()))
    assert config.evolve.classes[:2] == ("n00000001", "n00000010")
    assert config.evolve.images_per_class == config.revert.heldout_images == 250
    assert (config.revert.bins, config.revert.random_draws) == (4, 5)
    ours = {
        (source.name, pair.epoch_from, pair.epoch_to)
        for source in config.series
        for pair in config.pairs(source)
    }
    theirs = read_published()[["series", "epoch_from", "epoch_to"]]
    assert ours == set(theirs.itertuples(index=False, name=None))


def test_what_is_not_imagenet_is_refused(imagenet, tmp_path):
    preset = ("init", tmp_path / "a", "--preset")
    assert "needs --images" in say(*preset, "paper", error=ValueError)
    assert "must be paper" in say(*preset, "mine", error=ValueError)
    for option in ("--images", "--checkpoints"):
        assert "need --preset paper" in say(*preset[:2], option, imagenet, error=ValueError)
    told = say(*preset, "paper", "--images", tmp_path, error=ValueError)
    assert "holds no folder train/" in told
    for split in ("train", "val"):
        (tmp_path / "few" / split / "cat").mkdir(parents=True)
        (tmp_path / "few" / split / "cat" / "1.png").write_bytes(b"")
    told = say(*preset, "paper", "--images", tmp_path / "few", error=ValueError)
    assert "1 class folders in val/" in told
    assert not (tmp_path / "a").exists()


def test_the_published_figures_are_marked_where_they_are_suspect():
    table = read_published()
    assert len(table) == 24 and set(table["outcome"]) == {"top1", "top5"}
    suspect = table[table["suspect"]]
    assert len(suspect) == 4
    top1 = suspect[suspect["outcome"] == "top1"][["q1", "q2", "q3", "q4"]].to_numpy()
    assert (top1[0] == top1[1]).all()  # the very reason


def test_ours_stand_beside_the_published_ones_of_the_same_pair():
    rows = []
    for layer in ("a", "b", JOINT):
        for arm, right in (("q1", [False, False]), ("q4", [True, False])):
            for image, after in enumerate(right):
                rows.append(("convnext_0.004", 1, 3, layer, "sign_t", arm, "heldout", image, after))
    names = ["series", "epoch_from", "epoch_to", "layer", "method", "arm", "split", "image_id"]
    records = pd.DataFrame(rows, columns=[*names, "correct_after"])
    records = records.assign(correct_before=True, top5_before=True, top5_after=True,
                             ablation="revert", draw=0, class_id=0)  # fmt: skip
    outcomes = {"top1": "correct", "top5": "top5"}
    means = {name: mean_by_class(records, column) for name, column in outcomes.items()}
    table = join_published(means)
    ours = table[(table["source"] == "ours") & (table["outcome"] == "top1")].iloc[0]
    assert (ours["q1"], ours["q4"], ours["before"], ours["images"]) == (-1.0, -0.5, 1.0, "test")
    assert set(table["source"]) == {"ours", "published"}
    assert set(table["series"]) == {"convnext_0.004"} and set(table["epoch_to"]) == {3}
    assert join_published({n: table.assign(series="mine") for n, table in means.items()}).empty
