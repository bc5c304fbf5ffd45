"""Checkpoints as the real libraries write them give the same probe as the plain state dict."""

import argparse
import copy
import os
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional

from harness.artifacts import Artifact
from harness.config import ConfigError, parse_config
from harness.networks.architectures import build
from harness.networks.checkpoint_files import load_weights
from harness.networks.state_dicts import CheckpointError
from harness.stages.run import run_until
from harness.torchvision_import import call_with_torchvision

pytestmark = pytest.mark.slow

call_with_torchvision(import_module, "torchvision")  # which the libraries import

CLASSES = 12  # of the drawn images


def network(num_classes=CLASSES, seed=0):
    """Return a small network whose normalisation has seen some images."""
    model = build("small_resnet", num_classes, seed=seed)
    torch.manual_seed(seed)
    model.train()
    for _ in range(3):
        model(torch.randn(8, 3, 64, 64))
    return model.eval()


def state():
    return {name: tensor.clone() for name, tensor in network().state_dict().items()}


# One function a library: it writes checkpoints into a folder and returns what the series says.


def torchvision_reference(folder):
    """As torchvision's references/classification/train.py does, by its own words."""
    from torch.optim.swa_utils import AveragedModel

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    model.load_state_dict(state())
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 30).state_dict(),
        "epoch": 1,
        "args": argparse.Namespace(model="resnet18", device="cpu", output_dir=Path(".")),
        "model_ema": AveragedModel(network(seed=1)).state_dict(),
    }
    torch.save(content, folder / "model_1.pth")
    return {"pattern": "model_{epoch}.pth"}


def timm_saver(folder, seed=0, averaged_seed=1):
    pytest.importorskip("timm")
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = network(seed=seed)
    saver = CheckpointSaver(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters()),
        args=argparse.Namespace(model="small_resnet", opt="adamw", class_map=None),
        model_ema=ModelEmaV3(network(seed=averaged_seed)),
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(1, metric=0.5)
    return {"pattern": "checkpoint-{epoch}.pth.tar"}


def timm_average(folder):
    return timm_saver(folder, 1, 0) | {"key": "state_dict_ema"}


def lightning_module(compiled):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self, rate=0.0):
            super().__init__()
            self.save_hyperparameters()
            self.model = torch.compile(network(), backend="eager") if compiled else network()
            self.loss_weights = nn.Parameter(torch.ones(2))

        def training_step(self, batch, index):
            self.model.eval()  # the weights stay as they are
            return functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.hparams.rate)

    return Module()


def examples():
    return torch.utils.data.TensorDataset(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3]))


def lightning_checkpoints(folder, compiled=False):
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, "{epoch}-{step}", save_top_k=-1, save_last=True)],
    )
    data = torch.utils.data.DataLoader(examples(), batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers
        trainer.fit(lightning_module(compiled), data)
    assert {path.name for path in folder.iterdir()} >= {"epoch=1-step=4.ckpt", "last.ckpt"}
    return {"pattern": "epoch={epoch}-step=*.ckpt", "only": [1]}


def lightning_compiled(folder):
    return lightning_checkpoints(folder, compiled=True)


def huggingface_model():
    import transformers

    class Settings(transformers.PretrainedConfig):
        model_type = "small"

    class Model(transformers.PreTrainedModel):
        config_class = Settings

        def __init__(self, config):
            super().__init__(config)
            self.backbone = network()
            self.post_init()

        def _init_weights(self, module):
            pass

        def forward(self, pixel_values, labels=None):
            self.backbone.eval()
            logits = self.backbone(pixel_values)
            return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    return Model(Settings())


def huggingface_pretrained(folder):
    pytest.importorskip("transformers")
    huggingface_model().save_pretrained(folder / "epoch-1")
    return {"pattern": "epoch-{epoch}"}


def huggingface_shards(folder):
    pytest.importorskip("transformers")
    huggingface_model().save_pretrained(folder / "epoch-1", max_shard_size="50KB")
    assert (folder / "epoch-1" / "model.safetensors.index.json").exists()
    return {"pattern": "epoch-{epoch}"}


def huggingface_trainer(folder):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    images, labels = examples().tensors
    data = [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)]
    settings = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        learning_rate=0.0,
        save_strategy="steps",
        save_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    transformers.Trainer(huggingface_model(), settings, train_dataset=data).train()
    return {"pattern": "checkpoint-{epoch}", "only": [1]}


def accelerate_state(folder):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.prepare(network(), torch.optim.AdamW(network().parameters()))
    accelerator.save_state(str(folder / "epoch_1"))
    return {"pattern": "epoch_{epoch}"}


def compiled(folder):
    torch.save(torch.compile(network(), backend="eager").state_dict(), folder / "model-1.pth")
    return {}


def compiled_in_part(folder):
    model = network()
    model.features = torch.compile(model.features, backend="eager")
    torch.save(model.state_dict(), folder / "model-1.pth")
    return {}


def distributed(folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(torch.compile(network(), backend="eager"))
        torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / "model-1.pth")
    finally:
        torch.distributed.destroy_process_group()
    return {}


def averaged(folder):
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = AveragedModel(network(), multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    model.update_parameters(network())
    torch.save({"model": None, "ema": model.state_dict()}, folder / "model-1.pth")
    return {}


def safetensors_file(folder):
    from safetensors.torch import save_model

    save_model(network(), str(folder / "model-1.safetensors"))
    return {"pattern": "model-{epoch}.safetensors"}


def scripted(folder):
    torch.jit.trace(network(), torch.rand(1, 3, 64, 64)).save(str(folder / "scripted.pt"))
    command = [sys.executable, "-m", "conceptevo", "convert", str(folder / "scripted.pt")]
    command += ["--trust", "--out", str(folder / "model-1.pth")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return {}


def in_pieces(folder):
    """Write a torch.distributed.checkpoint folder; join it by the command in the message."""
    torch.distributed.checkpoint.save(state(), checkpoint_id=folder / "pieces", no_dist=True)
    with pytest.raises(CheckpointError, match="format_utils dcp_to_torch") as error:
        load_weights(network(), folder / "pieces")
    command = str(error.value).partition("`python ")[2].partition("FILE`")[0].split()
    command = [sys.executable, *command, str(folder / "model-1.pth")]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env=os.environ)
    return {}


WRITERS = [
    *(torchvision_reference, timm_saver, timm_average, lightning_checkpoints, lightning_compiled),
    *(huggingface_pretrained, huggingface_shards, huggingface_trainer, accelerate_state),
    *(compiled, compiled_in_part, distributed, averaged, safetensors_file, scripted, in_pieces),
]


def probed(out, sections):
    """Run the series with these sections up to their stimuli."""
    images = {"source": "drawn", "train": 12, "probe": 24, "test": 24}
    defaults = {"source": "folder", "architecture": "small_resnet"}
    config = parse_config(
        {
            "images": images,
            "series": [defaults | section for section in sections],
            "probe": {"k": 3, "activations": False},
            "space": {"methods": ["jaccard"]},
            "workers": 0,
        }
    )
    return run_until("probe", config, out, Console(quiet=True))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return the stimuli of the plain state dict, and the run's folder."""
    folder = tmp_path_factory.mktemp("plain")
    torch.save(state(), folder / "model-1.pth")
    run = probed(folder / "run", [{"name": "plain", "folder": str(folder)}])
    return run.table(Artifact("stimuli", ("plain", 1))).drop(columns="series"), folder / "run"


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_it_gives_the_same_probe_as_the_plain_state_dict(write, plain, tmp_path):
    expected, out = plain
    name = write.__name__
    section = copy.copy(write(tmp_path)) | {"name": name, "folder": str(tmp_path)}
    run = probed(out, [section])
    found = run.table(Artifact("stimuli", (name, 1))).drop(columns="series", errors="ignore")
    assert found.equals(expected)
    notes = run.table(Artifact("check", (name, 1)))["notes"].iloc[0]
    plain_files = (safetensors_file, accelerate_state, in_pieces, scripted)
    assert ("weights: " in notes) == (write not in plain_files)


def test_check_says_of_lightning_and_huggingface_what_was_taken(plain, tmp_path):
    pytest.importorskip("lightning")
    pytest.importorskip("transformers")
    sections = []
    for name, write in (("light", lightning_checkpoints), ("hugging", huggingface_pretrained)):
        (tmp_path / name).mkdir()
        sections.append(write(tmp_path / name) | {"name": name, "folder": str(tmp_path / name)})
    run = probed(plain[1], sections)
    light, hugging = (
        run.table(Artifact("check", (name, 1)))["notes"].iloc[0] for name in ("light", "hugging")
    )
    assert "state dict 'state_dict'; prefix 'model.' removed" in light
    assert "other tensors not used: loss_weights" in light
    assert "prefix 'backbone.' removed" in hugging
    sections[0]["architecture"] = "small_vgg"
    with pytest.raises(ConfigError, match="does not fit the architecture .*prefix 'model.'"):
        probed(plain[1], sections)
