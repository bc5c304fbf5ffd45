"""Recording of a network during training: its weights, or evidence of what its neurons detect.

A plain loop calls `Recorder.record`; `lightning_callback` and `hugging_face_callback` do so for the
trainers of these libraries. A run reads weights as a series with `source = "folder"`, and evidence
(with or without weights) as a series with `source = "recorded"`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from pydantic import Field
from torch import nn

from conceptevo.arguments import check_fields
from conceptevo.inputs import Images, Series, View
from conceptevo.session import Session
from harness.artifacts import Artifact, Run
from harness.concepts.probing import ProbeParameters
from harness.config import Config, FolderImagesSection, MemoryImagesSection
from harness.files import remove_leftovers, write_text
from harness.images.sets import ImageSet, sample_digest
from harness.images.view import VIEW_SETTINGS
from harness.networks.recorded_source import (
    EVIDENCE,
    EVIDENCE_KINDS,
    RECORDED,
    SETTINGS,
    WEIGHTS,
    RecordedSource,
    recorded_settings,
)
from harness.networks.training import save_weights
from harness.networks.wrappers import copy_network, refuse_pieces
from harness.stages.images import folder_split
from harness.stages.images import steps as image_steps
from harness.stages.probe import FindLayers, ProbeWork, probe_steps
from harness.stages.stage import Advance, Value
from harness.text import join_names

logger = logging.getLogger(__name__)


@check_fields
@dataclass(frozen=True)
class Evidence:
    """What is recorded instead of weights: stimuli, peaks, responsive neurons, activations.

    Attributes:
        images: the probe images, in memory or as a folder with one sub-folder of files per class.
        view: the network's preprocessing of images.
        parameters: what is recorded; a run that reads the evidence must have the same parameters.
        layers, output: see `Series`.
    """

    images: Images | str | Path
    view: View
    parameters: ProbeParameters = field(default_factory=ProbeParameters)
    layers: str | Sequence[str] | None = None
    output: str | int | None = None


@dataclass(frozen=True, eq=False)
class FindSameLayers(FindLayers):
    """Work that finds the network's layers, and keeps the table of earlier records, if any.

    Raises ValueError if the layers differ from those of earlier records.
    """

    earlier: pd.DataFrame | None

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        (found,), shape = super().do(run, advance), ["layer", "channels", "height", "width"]
        assert isinstance(found, pd.DataFrame)
        if self.earlier is not None and not self.earlier[shape].equals(found[shape]):
            raise ValueError(
                f"Recorder: the network's layers differ from those of the evidence in {run.root} "
                f"({join_names(self.earlier['layer'])}): use another folder, or name `layers` that "
                f"stay the same"
            )
        yield found if self.earlier is None else self.earlier


@check_fields
@dataclass
class Recorder:
    """Records a network at some epochs of its training, or at steps if these are counted.

    The network is copied before it is run, so that training is identical, to the bit, to training
    without recording. In distributed training, only one process may record.

    Attributes:
        folder: the folder to write to; each series needs its own.
        every: number of epochs between records.
        schedule: "linear" records at 0, every, 2 every, …; "log" at 0, every, 2 every, 4 every,
            8 every, …, because most changes happen early.
        evidence: what to record by running the probe images at these epochs; None records weights.
        weights: epochs at which weights are recorded in addition to evidence; importance and
            ablation need both epochs of a pair.
        network: returns the network that gives logits, from the trained module (or a wrapper).

    Example:
        >>> recorder = Recorder("records/mine", schedule="log")
        >>> for epoch in range(100):
        ...     recorder.record(model, epoch)  # the state before this epoch of training
        ...     train(model)
        >>> recorder.record(model, 100, last=True)
    """

    folder: str | Path
    every: Annotated[int, Field(ge=1)] = 1
    schedule: Literal["linear", "log"] = "linear"
    evidence: Evidence | None = None
    weights: Sequence[int] | AbstractSet[int] = ()
    network: Callable[[nn.Module], nn.Module] = field(default=lambda module: module)
    _recorded: set[int] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.weights, default=0) < 0:
            raise ValueError(f"Recorder: weights must be epochs of at least 0, got {self.weights}")
        self.folder = Path(self.folder)

    def wants(self, epoch: int) -> bool:
        """Return whether an epoch is recorded, by the schedule or because of its weights."""
        count, rest = divmod(epoch, self.every)
        named = rest == 0 and (self.schedule == "linear" or count & (count - 1) == 0)
        return named or epoch in self.weights

    def record(self, model: nn.Module, epoch: int, last: bool = False) -> bool:
        """Record the network if the schedule says so; an existing record of the epoch is replaced.

        Args:
            model: the module that is trained.
            epoch: the number of epochs for which it has been trained.
            last: record regardless of the schedule.

        Returns:
            Whether the network was recorded.

        Raises:
            ValueError: the epoch is not an integer of at least 0, the network is no module, cannot
                be copied or is split between processes, or the folder holds evidence that was
                recorded with other images, layers or settings, or weights of this epoch that
                evidence would not replace.
        """
        if not isinstance(epoch, Integral) or isinstance(epoch, bool) or epoch < 0:
            raise ValueError(f"Recorder: epoch must be an integer of at least 0, got {epoch!r}")
        epoch = int(epoch)
        if not (last or self.wants(epoch)):
            return False
        network = self.network(model)
        if not isinstance(network, nn.Module):
            kind = type(network).__name__
            raise ValueError(f"Recorder: the network must be a torch module, got {kind}")
        refuse_pieces(network)
        weights_file = Path(self.folder) / WEIGHTS.format(epoch=epoch)
        if self.evidence is None or epoch in self.weights:
            remove_leftovers(Path(self.folder).glob(f".{WEIGHTS.format(epoch='*')}*"))
            save_weights(network, weights_file)
        elif weights_file.exists():
            raise ValueError(
                f"Recorder: {weights_file} holds weights of an earlier training, which a run would "
                f"study instead of the evidence of epoch {epoch}; use another folder, delete the "
                f"file, or name the epoch in `weights`"
            )
        if self.evidence is not None:
            devices = {p.device.index or 0 for p in network.parameters() if p.is_cuda}
            with torch.random.fork_rng(devices=devices):
                self._record_evidence(copy_network(network), epoch, self.evidence)
        # later epochs are of an earlier training, if the same Recorder begins again
        self._recorded = {e for e in self._recorded if e < epoch} | {epoch}
        if last:
            source = RecordedSource(name=RECORDED, folder=Path(self.folder), architecture="")
            first = min(self._recorded)
            kept = [e for e in source.series().epochs if e > first and e not in self._recorded]
            if kept:
                logger.warning(
                    "%s also holds records of epochs %s, which were not made in the training "
                    "from epoch %s to %s: they are of another one; delete them",
                    self.folder,
                    join_names(kept),
                    first,
                    epoch,
                )
        return True

    def _record_evidence(self, network: nn.Module, epoch: int, evidence: Evidence) -> None:
        """Probe a copy of the network by the same stages as a run."""
        network.zero_grad(set_to_none=True)
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        device_names = {"cuda": f"cuda:{device.index or 0}", "mps": "mps"}
        series = Series(
            RECORDED, {epoch: network}, evidence.view, evidence.layers, {}, evidence.output
        )
        section: MemoryImagesSection | FolderImagesSection
        images: ImageSet
        if isinstance(evidence.images, Images):
            section = evidence.images.section()
            images = section.images
        else:
            folder = Path(evidence.images)
            section = FolderImagesSection(source="folder", probe=folder, test=folder)
            images = folder_split(section, "probe")
        source = series.source()
        config = Config(
            workers=0,
            device=device_names.get(device.type, "cpu"),
            images=section,
            series=(source,),
            probe=evidence.parameters,
        )
        session = Session(config, Run(Path(self.folder) / EVIDENCE))
        series_fields = {*VIEW_SETTINGS, "layers", "output"}
        settings = {
            "images": sample_digest(images, source.view),
            **source.model_dump(mode="json", include=series_fields),
            **config.probe.model_dump(mode="json", exclude=ProbeWork.unused),
        }
        with session.run.locked():
            self._probe(session, epoch, settings)

    def _probe(self, session: Session, epoch: int, settings: dict[str, Any]) -> None:
        """Replace the evidence of an epoch. If this is stopped, the epoch has none."""
        (source,) = session.config.series
        earlier = None
        if recorded := recorded_settings(session.run):
            if differing := [name for name, value in settings.items() if recorded[name] != value]:
                raise ValueError(
                    f"Recorder: {self.folder} holds evidence that was recorded with other settings "
                    f"({join_names(differing)}); use another folder, or delete it"
                )
            earlier = session.run.table(Artifact("layers", (RECORDED,)))
        session.do(image_steps(session.plan), progress=False)
        session.do([("layers", [FindSameLayers(source, earlier)])], progress=False)
        # without settings, the first record was stopped, and its settings may have been others
        replaced = (RECORDED,) if earlier is None else (RECORDED, epoch)
        for kind in EVIDENCE_KINDS:
            for artifact in session.run.stored(kind, *replaced):
                session.run.remove(artifact)
        session.do(probe_steps(session.plan), progress=False)
        write_text(session.run.root / SETTINGS, json.dumps(settings) + "\n")

    def lightning_callback(self) -> Any:
        """Return a callback for the trainer of (PyTorch) Lightning, which records by epochs."""
        name = "lightning.pytorch" if find_spec("lightning") else "pytorch_lightning"
        Callback: Any = import_module(f"{name}.callbacks").Callback
        recorder = self

        class Record(Callback):  # type: ignore[misc, valid-type]
            batches = 0  # of the present epoch, after which the network was trained

            def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
                self.batches = 0
                loop = trainer.fit_loop
                # Lightning 2.4 begins the epoch again if it resumes in the middle of it
                resumes_within = loop.restarting and loop.epoch_loop.batch_progress.current.ready
                if trainer.is_global_zero and not resumes_within:
                    recorder.record(pl_module, trainer.current_epoch)

            def on_train_batch_end(self, *arguments: Any) -> None:
                self.batches = 1 + arguments[-1]

            def on_train_end(self, trainer: Any, pl_module: Any) -> None:
                if not trainer.is_global_zero:
                    return
                recorder.record(pl_module, trainer.current_epoch, last=True)
                if 0 < self.batches < trainer.num_training_batches < math.inf:
                    logger.warning(
                        "%s: training ended after %d of %d batches of its last epoch; what is "
                        "recorded as epoch %d is not the state after a whole epoch",
                        recorder.folder,
                        self.batches,
                        trainer.num_training_batches,
                        trainer.current_epoch,
                    )

        return Record()

    def hugging_face_callback(self) -> Any:
        """Return a callback for the Trainer of Hugging Face's transformers; records by steps."""
        from transformers import TrainerCallback

        recorder = self

        class Record(TrainerCallback):
            recorded = -1  # the last step that was

            def _record(self, state: Any, model: Any, last: bool) -> None:
                if state.is_world_process_zero and recorder.record(model, state.global_step, last):
                    self.recorded = state.global_step

            def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                self._record(state, more["model"], control.should_training_stop)

            on_step_end = on_train_begin

            def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                if self.recorded == state.global_step:
                    return
                if not (args.load_best_model_at_end and state.best_model_checkpoint):
                    self._record(state, more["model"], last=True)
                elif state.is_world_process_zero:
                    logger.warning(
                        "%s: the last step, %d, is not recorded, because the Trainer has replaced "
                        "its weights by those of %s (load_best_model_at_end)",
                        recorder.folder,
                        state.global_step,
                        state.best_model_checkpoint,
                    )

        return Record()
