"""Record while training: a plain loop, Lightning, Hugging Face; weights or evidence."""

import copy
import json
import shutil
import threading
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from rich.console import Console
from torch import nn

import conceptevo as ce
from harness.artifacts import Artifact, Run
from harness.concepts.probing import ProbeParameters
from harness.config import parse_config
from harness.files import ArtifactError, cache_listings, whole_file
from harness.images.folders import folder_images
from harness.images.sets import draw_arrays
from harness.networks.architectures import build
from harness.networks.recorded_source import EVIDENCE_KINDS, RecordedSource
from harness.stages.engine import Engine
from harness.stages.probe import recorded_activations
from harness.stages.run import STAGES, run_until
from harness.stages.stage import Plan
from harness.torchvision_import import call_with_torchvision

QUIET = Console(quiet=True)
SIZE = 16
K = ProbeParameters(k=4, responsive=3)


class Net(nn.Module):
    def __init__(self, classes=12):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(12, classes)

    def forward(self, x):
        return self.head(self.drop(self.body(x).mean(dim=(2, 3))))


def make(num_classes):
    return Net(num_classes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return forty-eight drawings in folders by class."""
    root = tmp_path_factory.mktemp("images")
    drawn = draw_arrays(1, 0, 48)
    for index, (pixels, label) in enumerate(zip(drawn["pixels"], drawn["labels"], strict=True)):
        place = root / f"class{label:02d}"
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index}.png")
    return root


def batch(seed=0):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(16, 3, SIZE, SIZE, generator=rng)
    return images, torch.randint(12, (16,), generator=rng)


def step(model, optimizer, seed):
    images, labels = batch(seed)
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train(recorders, epochs=4):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for epoch in range(epochs):
        for recorder in recorders:
            recorder.record(model, epoch)
        model.train()
        step(model, optimizer, epoch)
    for recorder in recorders:
        recorder.record(model, epochs, last=True)
    return model


def view():
    return ce.View(SIZE, SIZE)


@pytest.mark.parametrize(
    ("every", "schedule", "weights", "epochs"),
    [
        (1, "linear", (), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (5, "linear", (7,), [0, 5, 7, 10]),
        (1, "log", (), [0, 1, 2, 4, 8]),
        (3, "log", (), [0, 3, 6]),
    ],
)
def test_a_schedule_names_epochs(tmp_path, every, schedule, weights, epochs):
    recorder = ce.Recorder(tmp_path, every, schedule, weights=weights)
    assert [epoch for epoch in range(11) if recorder.wants(epoch)] == epochs


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        ce.Recorder(tmp_path, every=0)
    with pytest.raises(ValueError, match="schedule must be 'linear' or 'log', got 'exp'"):
        ce.Recorder(tmp_path, schedule="exp")


def test_training_goes_on_as_if_nothing_had_been_recorded(folder, tmp_path, caplog):
    evidence = ce.Evidence(folder, view(), K)
    recorded = train([ce.Recorder(tmp_path, evidence=evidence)], epochs=2)
    assert "images.test" not in caplog.text  # a folder that is nothing but the probe images
    plain = train([], epochs=2)
    for name, value in plain.state_dict().items():
        assert torch.equal(recorded.state_dict()[name], value), name
    assert recorded.training and not any(m._forward_hooks for m in recorded.modules())


def config_of(folder, series, k=4):
    return parse_config(
        {
            "workers": 0,
            "device": "cpu",
            "images": {"source": "folder", "probe": str(folder), "test": str(folder)},
            "series": [{"resize": SIZE, "crop": SIZE, "name": "net", **series}],
            "probe": {"k": k, "responsive": 3},
            "space": {"methods": ["ppmi", "correlation"], "dimension": 4},
            "evolve": {"methods": ["sign_t"], "images_per_class": 2},
            "revert": {"random_draws": 2, "importance_images": 2, "heldout_images": 2},
        }
    )


def placed(config, out):
    """Run up to the spaces, without the map."""
    plan = Plan(config, Run(out))
    with Engine(plan, 0, QUIET) as working:
        for stage in list(STAGES.values())[: list(STAGES).index("space") + 1]:
            working.run(stage(plan))
    return plan.run


def series_of(place):
    return {"source": "recorded", "folder": str(place)}


@pytest.fixture(scope="module")
def recorded(folder, tmp_path_factory):
    """Record one training three times: weights, evidence, and evidence with two epochs' weights."""
    root = tmp_path_factory.mktemp("recorded")
    evidence = ce.Evidence(folder, view(), K)
    recorders = [
        ce.Recorder(root / "weights", schedule="log"),
        ce.Recorder(root / "evidence", schedule="log", evidence=evidence),
        ce.Recorder(root / "both", schedule="log", evidence=evidence, weights=(2, 4)),
    ]
    train(recorders)
    return root


def test_evidence_alone_gives_the_same_stimuli_and_space_as_the_weights(recorded, folder, tmp_path):
    architecture = {"architecture": f"{__name__}:make"}
    runs = [
        placed(config_of(folder, series), tmp_path / name)
        for name, series in (
            ("weights", {"source": "folder", "folder": str(recorded / "weights"), **architecture}),
            ("evidence", series_of(recorded / "evidence")),
            ("both", {**series_of(recorded / "both"), **architecture}),
        )
    ]
    for epoch in (0, 1, 2, 4):
        for kind in ("stimuli", "responsive"):
            paths = [run.path(Artifact(kind, ("net", epoch))) for run in runs]
            assert len({path.read_bytes() for path in paths}) == 1, (kind, epoch)
    for method in ("ppmi", "correlation"):
        for kind in ("space", "space_neurons"):
            paths = [run.path(Artifact(kind, (method,))) for run in runs]
            assert len({path.read_bytes() for path in paths}) == 1, (method, kind)


@pytest.mark.slow
def test_a_run_of_both_undoes_what_has_weights(recorded, folder, tmp_path):
    series = {**series_of(recorded / "both"), "architecture": f"{__name__}:make"}
    config = config_of(folder, series)
    assert [(p.epoch_from, p.epoch_to) for p in config.pairs(config.series[0])] == [(2, 4)]
    run = run_until("revert", config, tmp_path / "run", QUIET)
    assert run.holds("records") and set(run.tables("stimuli")["epoch"]) == {0, 1, 2, 4}
    alone = config_of(folder, series_of(recorded / "evidence"))
    assert alone.pairs(alone.series[0]) == []
    with pytest.raises(ValueError, match="has no checkpoint of epoch 1; it has 2, 4"):
        wrong = config.model_copy(
            update={"evolve": config.evolve.model_copy(update={"pairs": {"net": ((1, 4),)}})}
        )
        wrong.pairs(wrong.series[0])


def test_evidence_of_other_images_or_parameters_is_refused(recorded, folder, tmp_path):
    place = series_of(recorded / "evidence")
    with pytest.raises(ValueError, match=r"recorded with probe\.k = 4, and .* has 5"):
        run_until("probe", config_of(folder, place, k=5), tmp_path / "k", QUIET)
    with pytest.raises(ValueError, match=r"recorded with resize = 16, and .* has 20"):
        run_until("check", config_of(folder, {**place, "resize": 20}), tmp_path / "v", QUIET)
    with pytest.raises(ValueError, match=r"mean = .* has .*; std = .* has .*; set the config"):
        other = {**place, "mean": [0.1, 0.1, 0.1], "std": [0.1, 0.1, 0.1]}
        run_until("check", config_of(folder, other), tmp_path / "n", QUIET)
    other = tmp_path / "images"
    paths = folder_images(folder).paths
    for path in paths[:-1]:
        (other / Path(path).parent.name).mkdir(parents=True, exist_ok=True)
        (other / Path(path).parent.name / Path(path).name).write_bytes(Path(path).read_bytes())
    with pytest.raises(ValueError, match="recorded on other images than the run's probe images"):
        run_until("probe", config_of(other, place), tmp_path / "i", QUIET)
    with pytest.raises(ValueError, match="holds neither weights .* nor evidence of a Recorder"):
        config_of(folder, series_of(tmp_path / "nothing")).series[0].epochs()
    with pytest.raises(ValueError, match="set `architecture`"):
        config_of(folder, series_of(recorded / "both"))


def test_images_that_were_replaced_after_the_evidence_was_recorded_are_refused(folder, tmp_path):
    images = shutil.copytree(folder, tmp_path / "images")
    evidence = ce.Evidence(images, view(), K)
    assert ce.Recorder(tmp_path / "evidence", evidence=evidence).record(Net(), 0)
    config = config_of(images, series_of(tmp_path / "evidence"))
    run_until("probe", config, tmp_path / "run", QUIET)
    for path in folder_images(images).paths:
        ImageOps.invert(Image.open(path)).save(path)
    with pytest.raises(ValueError, match="recorded on other images than the run's probe images"):
        run_until("probe", config, tmp_path / "run", QUIET)
    (tmp_path / "evidence/evidence/settings.json").unlink()
    with pytest.raises(ValueError, match="unknown with what it was recorded: delete .*evidence"):
        run_until("probe", config, tmp_path / "run", QUIET)


def test_images_in_memory_will_do(tmp_path):
    drawn = draw_arrays(1, 0, 24)
    images = ce.Images(drawn["pixels"], drawn["labels"], [f"c{n}" for n in range(12)])
    recorder = ce.Recorder(tmp_path, evidence=ce.Evidence(images, view(), K), weights=(0,))
    assert recorder.record(Net(), 0) and (tmp_path / "model-0.pth").exists()
    assert (tmp_path / "evidence/probe/recorded/stimuli-0000.parquet").exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("images", {"images": [1, 0]}),
        ("mean", {"view": ce.View(SIZE, SIZE, mean=0.4)}),
        ("layers", {"layers": ("body.1",)}),
        ("k", {"parameters": ProbeParameters(k=3, responsive=3)}),
    ],
)
def test_evidence_of_a_folder_has_the_same_settings(tmp_path, name, change):
    pixels = draw_arrays(1, 0, 24)["pixels"]
    given = {"images": [0, 1], "view": view(), "parameters": K}
    for epoch, now in enumerate((given, given, given | change)):
        order = np.concatenate([np.arange(24)[half::2] for half in now["images"]])
        images = ce.Images(pixels[order], np.arange(24) % 12, range(12))
        recorder = ce.Recorder(tmp_path, evidence=ce.Evidence(**{**now, "images": images}))
        if now is given:
            assert recorder.record(Net(), epoch)
    with pytest.raises(ValueError, match=rf"recorded with other settings \({name}\); use another"):
        recorder.record(Net(), epoch)


def test_settings_that_an_earlier_version_did_not_write_are_its_defaults(tmp_path):
    images = ce.Images(draw_arrays(1, 0, 24)["pixels"], np.arange(24) % 12, range(12))
    recorder = ce.Recorder(tmp_path, evidence=ce.Evidence(images, view(), K))
    assert recorder.record(Net(), 0)
    file = tmp_path / "evidence" / "settings.json"
    earlier = json.loads(file.read_text())
    assert earlier.pop("interpolation") == "bilinear"
    file.write_text(json.dumps(earlier))
    assert recorder.record(Net(), 1)


def test_evidence_of_a_network_whose_layers_change_is_refused(tmp_path):
    """The run would take the last network's layers for those of every epoch."""

    def network(width, *more):
        layers = [nn.Conv2d(3, width, 3), nn.ReLU(), *more]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 12))

    images = ce.Images(draw_arrays(1, 0, 24)["pixels"], np.arange(24) % 12, range(12))
    recorder = ce.Recorder(tmp_path, evidence=ce.Evidence(images, view(), K))
    assert recorder.record(network(4), 0)
    table = Run(tmp_path / "evidence").path(Artifact("layers", ("recorded",)))
    written = table.stat().st_mtime_ns
    for grown in (network(6), network(4, nn.Conv2d(4, 4, 3), nn.ReLU())):
        with pytest.raises(ValueError, match=r"layers differ .* \(1\): use another folder"):
            recorder.record(grown, 1)
    assert table.stat().st_mtime_ns == written  # not even for a moment are there other layers
    assert recorder.record(network(4), 2)
    assert list(Run(tmp_path / "evidence").tables("layers")["channels"]) == [4]
    names = {path.name for path in tmp_path.glob("evidence/probe/recorded/stimuli-*.parquet")}
    assert names == {"stimuli-0000.parquet", "stimuli-0002.parquet"}


def test_a_first_record_that_failed_determines_no_layers(tmp_path, monkeypatch):
    def fail(plan):
        raise OSError("the disk is full")

    images = ce.Images(draw_arrays(1, 0, 24)["pixels"], np.arange(24) % 12, range(12))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk is full"):
        patch.setattr("conceptevo.recorder.probe_steps", fail)
        ce.Recorder(tmp_path, evidence=ce.Evidence(images, view(), K)).record(Net(), 0)
    evidence = ce.Evidence(images, view(), K, layers=("body.1",))
    assert ce.Recorder(tmp_path, evidence=evidence).record(Net(), 0)


def memory_recorder(place, **changes):
    images = ce.Images(draw_arrays(1, 0, 24)["pixels"], np.arange(24) % 12, range(12))
    parameters = K.model_copy(update={"range_images": 16, **changes})
    return ce.Recorder(place, evidence=ce.Evidence(images, view(), parameters), weights=(9,))


def evidence_of(run, epoch):
    """Return the content of every artifact with the evidence of an epoch."""
    artifacts = [a for kind in EVIDENCE_KINDS for a in run.stored(kind, "recorded", epoch)]
    return [run.path(artifact).read_bytes() for artifact in artifacts]


class Stop(BaseException):
    """A kill: nothing catches it."""


def test_evidence_is_of_one_network_wherever_its_record_is_stopped(tmp_path, monkeypatch):
    nets, contents = [Net(), Net(), Net()], []
    for number, net in enumerate(nets):
        memory_recorder(tmp_path / str(number)).record(net, 1)
        contents.append(evidence_of(Run(tmp_path / str(number) / "evidence"), 1))
    recorder, calls = memory_recorder(tmp_path / "0"), [0]
    run = Run(tmp_path / "0" / "evidence")

    def stopping(change):
        def changed(self, *arguments):
            change(self, *arguments)
            calls[0] += 1
            if calls[0] == stop:
                raise Stop

        return changed

    for name in ("seal", "remove"):
        monkeypatch.setattr(Run, name, stopping(getattr(Run, name)))
    whole = 0
    for stop in range(1, 60, 3):
        calls[0] = 0
        try:
            recorder.record(nets[1 + stop % 2], 1)
        except Stop:
            if source_of(tmp_path / "0", 1):
                whole += 1
                assert evidence_of(run, 1) in contents
            continue
        break
    assert stop > 10 and whole and evidence_of(run, 1) == contents[1 + stop % 2]
    assert not run.stored("probe_part", "recorded", 1)


def source_of(place, epoch):
    """Return whether a run would read an epoch."""
    try:
        return epoch in RecordedSource(name="net", folder=place).epochs()
    except ValueError as error:
        assert "holds neither weights" in str(error)
        return False


def test_a_first_record_that_was_stopped_is_not_mixed_with_other_settings(tmp_path, monkeypatch):
    def stop(*_):
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr("conceptevo.recorder.write_text", stop)
        memory_recorder(tmp_path).record(Net(), 0)
    memory_recorder(tmp_path, k=2).record(Net(), 1)
    assert not source_of(tmp_path, 0) and source_of(tmp_path, 1)


def test_a_training_that_was_killed_leaves_no_half_written_weights(tmp_path):
    with pytest.raises(Stop), whole_file(tmp_path / "model-9.pth") as temporary:
        left = temporary.with_name(temporary.name.replace("-9", "-8"))
        left.touch()
        raise Stop
    memory_recorder(tmp_path).record(Net(), 9)
    assert (tmp_path / "model-9.pth").exists() and not left.exists()


def test_evidence_is_read_in_other_ranges_of_images_than_it_was_recorded(tmp_path):
    for epoch, images in enumerate((8, 12, 24)):
        memory_recorder(tmp_path, range_images=images).record(Net(), epoch)
        run = Run(tmp_path / "evidence")
        parts = [run.array(a) for a in run.stored("activations", "recorded", epoch)]
        assert len(parts) == 24 // images
        for images in (range(24), range(3, 20), range(8, 16)):
            values = recorded_activations(run, epoch, images)
            assert np.array_equal(values, np.concatenate(parts, axis=1)[:, images])
    run.remove(run.stored("activations", "recorded", 1)[0])
    with pytest.raises(ArtifactError, match="activations of epoch 1 on images 3 to 19: record"):
        recorded_activations(run, 1, range(3, 20))


def test_evidence_is_listed_once_while_a_command_lasts(tmp_path, monkeypatch):
    for epoch in (0, 1):
        memory_recorder(tmp_path).record(Net(), epoch)
    source, read, original = RecordedSource(name="net", folder=tmp_path), [], Run.sidecar
    monkeypatch.setattr(Run, "sidecar", lambda run, a: read.append(a) or original(run, a))
    with cache_listings():
        assert all(source.epochs() == (0, 1) for _ in range(3))
    assert read == [Artifact("responsive", ("recorded", epoch)) for epoch in (0, 1)]


@pytest.mark.parametrize("epoch", [-1, 1.0, "1", None])
def test_an_epoch_is_a_number_that_a_run_can_read(tmp_path, epoch):
    with pytest.raises(ValueError, match="epoch must be an integer of at least 0, got"):
        ce.Recorder(tmp_path).record(Net(), epoch)


def test_what_cannot_be_copied_is_named(tmp_path):
    images = ce.Images(draw_arrays(1, 0, 24)["pixels"], np.arange(24) % 12, range(12))
    evidence, net = ce.Evidence(images, view(), K), nn.Sequential(Net())
    net.lock = threading.Lock()
    with pytest.raises(
        ValueError, match="Sequential cannot be copied .*'_thread.lock'.*use the part"
    ):
        ce.Recorder(tmp_path, evidence=evidence).record(net, 0)
    part = ce.Recorder(tmp_path, evidence=evidence, network=lambda module: module[0])
    assert part.record(net, 0)


@pytest.mark.parametrize("recorders", [1, 2])
def test_records_of_an_earlier_longer_training_are_named(recorders, tmp_path, caplog):
    first, second = [ce.Recorder(tmp_path) for _ in range(recorders)] * (3 - recorders)
    for last, recorder in ((3, first), (1, second)):
        assert not caplog.text
        for epoch in range(last + 1):
            recorder.record(Net(), epoch, last=epoch == last)
    text = (
        "of epochs 2, 3, which were not made in the training from epoch 0 to 1: they are of another"
    )
    assert text in caplog.text
    (tmp_path / "model-best.pth").touch()
    source = RecordedSource(name="mine", folder=tmp_path, architecture="test_recorder:make")
    assert source.epochs() == (0, 1, 2, 3)


def test_records_of_another_schedule_are_named_between_those_of_the_training(tmp_path, caplog):
    for every in (1, 2):
        recorder = ce.Recorder(tmp_path, every)
        for epoch in range(5):
            recorder.record(Net(), epoch, last=epoch == 4)
        assert ("holds records of epochs 1, 3, which" in caplog.text) == (every == 2)
    resumed = ce.Recorder(tmp_path, 2)  # epochs before its first are of the training's first part
    caplog.clear()
    resumed.record(Net(), 4)
    resumed.record(Net(), 6, last=True)
    assert not caplog.text


def test_evidence_is_not_recorded_beside_weights_of_another_network(tmp_path):
    """A run would study the weights of this epoch, not what was recorded."""
    ce.Recorder(tmp_path).record(Net(), 4)
    recorder = memory_recorder(tmp_path)
    with pytest.raises(ValueError, match="model-4.pth holds weights of an earlier training, which"):
        recorder.record(Net(), 4, last=True)
    assert recorder.record(Net(), 3, last=True)
    named = memory_recorder(tmp_path)
    named.weights, net = (4,), Net()
    assert named.record(net, 4)
    assert holds(tmp_path / "model-4.pth", net.state_dict())


def lightning_library():
    call_with_torchvision(import_module, "torchvision")  # both libraries import it
    name = "lightning.pytorch"
    try:
        return pytest.importorskip(name, reason="pip install lightning")
    except pytest.skip.Exception:
        return pytest.importorskip("pytorch_lightning", reason="pip install lightning")


def lightning_module(lightning):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Module()


def test_lightning_counts_epochs(tmp_path):
    lightning = lightning_library()
    module = lightning_module(lightning)
    before = copy.deepcopy(module.net.state_dict())
    recorder = ce.Recorder(tmp_path, 2, network=lambda module: module.net)
    data = torch.utils.data.DataLoader(list(zip(*batch(), strict=True)), batch_size=8)
    lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[recorder.lightning_callback()],
    ).fit(module, data)  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"model-{n}.pth" for n in (0, 2, 3)]
    first, last = (torch.load(tmp_path / f"model-{n}.pth", weights_only=True) for n in (0, 3))
    assert all(torch.equal(first[name], before[name]) for name in before)
    now = module.net.state_dict()
    assert all(torch.equal(last[name], now[name]) for name in before)
    assert not torch.equal(first["head.weight"], last["head.weight"])


@pytest.mark.parametrize(
    ("restarting", "batches", "recorded"), [(False, 0, True), (False, 2, True), (True, 1, False)]
)
def test_a_training_that_lightning_resumes_within_an_epoch_keeps_the_record_of_its_start(
    restarting, batches, recorded, tmp_path
):
    lightning_library()
    progress = SimpleNamespace(current=SimpleNamespace(ready=batches))
    loop = SimpleNamespace(
        restarting=restarting, epoch_loop=SimpleNamespace(batch_progress=progress)
    )
    trainer = SimpleNamespace(is_global_zero=True, current_epoch=1, fit_loop=loop)
    ce.Recorder(tmp_path).lightning_callback().on_train_epoch_start(trainer, Net())
    assert (tmp_path / "model-1.pth").exists() == recorded


@pytest.mark.parametrize(("steps", "text"), [(3, "after 1 of 2 batches"), (4, "")])
def test_an_epoch_that_lightning_does_not_finish_is_named(steps, text, tmp_path, caplog):
    lightning = lightning_library()
    data = torch.utils.data.DataLoader(list(zip(*batch(), strict=True)), batch_size=8)
    assert len(data) == 2
    lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ce.Recorder(tmp_path).lightning_callback()],
    ).fit(lightning_module(lightning), data)  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"model-{n}.pth" for n in (0, 1, 2)]
    assert ("training ended" in caplog.text) == bool(text) and text in caplog.text


def trained_by_hugging_face(recorder, folder, **settings):
    """Train a network for some steps, and return it."""
    call_with_torchvision(import_module, "torchvision")
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    pytest.importorskip("accelerate", reason="pip install accelerate")

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, pixel_values, labels):
            logits = self.net(pixel_values)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    images, labels = batch()
    data = [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)]
    torch.manual_seed(0)
    model, states = Classifier(), {}

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            states[state.global_step] = copy.deepcopy(more["model"].net.state_dict())

    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, report_to=[], use_cpu=True,
        disable_tqdm=True, **settings,
    )  # fmt: skip
    transformers.Trainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=data[:4],
        callbacks=[recorder.hugging_face_callback(), Watch()],
    ).train()  # fmt: skip
    return model, states


def holds(path, state):
    stored = torch.load(path, weights_only=True)
    return all(torch.equal(stored[name], value) for name, value in state.items())


@pytest.mark.parametrize("schedule", ["linear", "log"])
def test_the_best_weights_of_hugging_face_are_not_taken_for_the_last(schedule, tmp_path, caplog):
    """With load_best_model_at_end, the Trainer loads earlier weights before training ends."""
    recorder = ce.Recorder(tmp_path / "r", 1, schedule, network=lambda model: model.net)
    # the greatest loss is that of the first evaluation
    model, states = trained_by_hugging_face(
        recorder, tmp_path / "hf", max_steps=3, learning_rate=0.05, eval_strategy="steps",
        eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="loss", greater_is_better=True,
    )  # fmt: skip
    best = next(n for n in (1, 2) if torch.equal(states[n]["head.weight"], model.net.head.weight))
    assert not torch.equal(states[best]["head.weight"], states[3]["head.weight"])
    assert holds(tmp_path / "r/model-2.pth", states[2])
    assert holds(tmp_path / "r/model-3.pth", states[3])


def test_a_last_step_that_hugging_face_has_replaced_is_not_recorded(tmp_path, caplog):
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    recorder = ce.Recorder(tmp_path, 5)
    callback, network = recorder.hugging_face_callback(), Net()
    state = transformers.TrainerState(global_step=3, best_model_checkpoint="checkpoint-2")
    settings = SimpleNamespace(load_best_model_at_end=True)
    callback.on_train_end(settings, state, None, model=network)
    assert not list(tmp_path.iterdir())
    assert "the last step, 3, is not recorded, because the Trainer has replaced" in caplog.text
    settings.load_best_model_at_end = False
    callback.on_train_end(settings, state, None, model=network)
    assert holds(tmp_path / "model-3.pth", network.state_dict())


@pytest.mark.parametrize("mark", ["FullyShardedDataParallel", "DTensor", "ds_shape"])
def test_a_network_split_between_processes_is_refused(mark, tmp_path):
    network = Net()
    if mark == "DTensor":
        network.head.weight.__class__ = type(mark, (nn.Parameter,), {})
    elif mark == "ds_shape":
        network.head.weight.ds_shape = (1,)
    else:
        network = type(mark, (nn.Sequential,), {})(network)
    with pytest.raises(ValueError, match=r"split between processes \(.*get_model_state_dict"):
        ce.Recorder(tmp_path).record(network, 0)
    assert not list(tmp_path.iterdir())


def test_hugging_face_counts_steps(tmp_path):
    recorder = ce.Recorder(tmp_path / "r", 1, "log", network=lambda model: model.net)
    model, _ = trained_by_hugging_face(
        recorder, tmp_path / "hf", max_steps=5, save_strategy="no"
    )  # fmt: skip
    names = sorted(p.name for p in (tmp_path / "r").iterdir())
    assert names == [f"model-{n}.pth" for n in (0, 1, 2, 4, 5)]
    last = torch.load(tmp_path / "r/model-5.pth", weights_only=True)
    assert all(torch.equal(last[n], v) for n, v in model.net.state_dict().items())


def test_a_recorded_network_is_read_as_a_folder_of_checkpoints(recorded):
    source = config_of(recorded, {"source": "folder", "folder": str(recorded / "weights"),
                                  "architecture": f"{__name__}:make"}).series[0]  # fmt: skip
    assert source.epochs() == (0, 1, 2, 4)
    assert isinstance(build(f"{__name__}:make", 12), Net)
    assert np.isfinite(source.load(4, 12, None).head.weight.detach().numpy()).all()
