import errno
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from harness.files import ArtifactError
from harness.images.batches import load_batch
from harness.images.sets import CachedImages, FileImages
from harness.images.view import View
from harness.networks.architectures import build
from harness.networks.training import (
    Examples,
    TrainingData,
    TrainingParameters,
    _one_cycle,
    accuracy,
    flip_and_shift,
    save_weights,
    train,
)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    images = torch.randn(48, 3, 16, 16, generator=generator) * 0.3
    images += labels[:, None, None, None].float() - 1  # the class is the brightness
    return Examples(lambda rows: images[torch.from_numpy(rows)], labels)


class Interrupt(Exception):
    pass


def run(folder, data, parameters, stop_after=None):
    done = [0]

    def on_batch():
        done[0] += 1
        if stop_after is not None and done[0] > stop_after:
            raise Interrupt

    return train(
        "small_vgg",
        TrainingData(data, data, 3, lambda epoch: folder / f"{epoch}.pt", folder / "state.pt"),
        parameters,
        seed=4,
        on_batch=on_batch,
    )


PARAMETERS = TrainingParameters(epochs=4, save=(0, 2, 4), batch_size=16, learning_rate=1e-2)


def test_it_learns_and_saves_at_the_named_epochs(tmp_path, data):
    log = run(tmp_path, data, PARAMETERS)
    assert log["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert log["test_accuracy"].iloc[-1] > 0.9 > log["test_accuracy"].iloc[0]
    assert log["train_loss"].isna().tolist() == [True, False, False, False, False]
    assert sorted(path.stem for path in tmp_path.glob("?.pt")) == ["0", "2", "4"]
    model = build("small_vgg", 3)
    model.load_state_dict(torch.load(tmp_path / "4.pt", weights_only=True))
    assert accuracy(model, data, 48) == log["test_accuracy"].iloc[-1]


@pytest.mark.parametrize("stop_after", [0, 4, 7, 11])
def test_interrupted_training_gives_the_same_weights(tmp_path, data, stop_after):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = run(whole, data, PARAMETERS)
    with pytest.raises(Interrupt):
        run(broken, data, PARAMETERS, stop_after)
    log = run(broken, data, PARAMETERS)
    pd.testing.assert_frame_equal(log, expected)
    for epoch in (0, 2, 4):
        first, second = (
            torch.load(folder / f"{epoch}.pt", weights_only=True) for folder in (whole, broken)
        )
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_that_are_gone_are_trained_again(tmp_path, data):
    run(tmp_path, data, PARAMETERS)
    first = (tmp_path / "2.pt").read_bytes()
    (tmp_path / "2.pt").unlink()
    run(tmp_path, data, PARAMETERS)
    assert (tmp_path / "2.pt").read_bytes() == first


def test_flips_and_shifts_keep_the_pixels():
    import numpy as np

    batch = torch.arange(2 * 1 * 6 * 6, dtype=torch.float32).reshape(2, 1, 6, 6)
    seen = flip_and_shift(batch, np.random.default_rng(0), reach=0)
    for image, original in zip(seen, batch, strict=True):
        assert torch.equal(image, original) or torch.equal(image, original.flip(2))


def test_one_cycle_rises_and_falls_to_nought():
    values = [_one_cycle(100, step) for step in range(101)]
    assert max(values) == pytest.approx(1) and values.index(max(values)) == 30
    assert values[-1] == pytest.approx(0, abs=1e-9)


def test_fewer_images_than_a_batch_is_refused(tmp_path, data):
    parameters = TrainingParameters(epochs=1, save=(1,), batch_size=64)
    with pytest.raises(ValueError, match=r"batch_size=64 needs at least as many .* got 48"):
        run(tmp_path, data, parameters)


def test_images_are_read_in_batches(tmp_path, data):
    largest = []

    def read(rows):
        largest.append(len(rows))
        return data.read(rows)

    parameters = TrainingParameters(epochs=2, save=(2,), batch_size=16)
    run(tmp_path, Examples(read, data.labels), parameters)
    assert largest == [2] + [16] * (3 + 2 * (3 + 3))  # a trial; test images; two epochs of both


def test_files_are_decoded_once_while_there_is_room(monkeypatch):
    read = []

    def pixels(self, index, view):
        read.append(index)
        return np.full((2, 2, 3), index, dtype=np.uint8)

    monkeypatch.setattr(FileImages, "pixels", pixels)
    kept = CachedImages((), np.zeros(3, dtype=int), ("a",), limit=24)  # two of three
    for _ in range(3):
        batch = load_batch(kept, np.arange(3), View(2, 2, (0.0,) * 3, (1.0,) * 3))
        assert (batch[:, 0, 0, 0] * 255).round().tolist() == [0, 1, 2]
    assert read == [0, 1, 2, 2, 2]


def test_a_full_disk_is_named_when_weights_are_saved(tmp_path, monkeypatch):
    """torch hides the error of a write if closing the file raises none."""
    opened = Path.open

    class File(BytesIO):
        def write(self, content):
            if len(content) > 1000:  # there is room for the end of the archive
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    def opening(path, mode="r", **options):
        return File() if mode == "wb" else opened(path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opening)
        with pytest.raises(ArtifactError, match=r"cannot write .*model\.pt: No space left on"):
            save_weights(build("small_vgg", 3, 0), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
