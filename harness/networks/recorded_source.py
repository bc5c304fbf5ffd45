"""A series that `conceptevo.Recorder` recorded during training: weights, evidence, or both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import model_validator
from torch import nn

from harness.artifacts import Run, fingerprint
from harness.files import cached_listing, file_hash
from harness.images.sets import UserPath
from harness.networks.architectures import build
from harness.networks.checkpoint_files import CheckpointError, load_weights, match_epochs
from harness.networks.sources import SOURCES, Source
from harness.registry import plugin_identity

#: In the folder of a `Recorder`: the weights of an epoch, and the folder of a run with evidence,
#: in which a file says with what images and settings it was recorded.
WEIGHTS = "model-{epoch}.pth"
EVIDENCE = "evidence"
SETTINGS = "settings.json"
#: The name of the series in that run.
RECORDED = "recorded"
#: Kinds of the artifacts that hold the evidence of an epoch, which is whole if it has the first.
EVIDENCE_KINDS = ("responsive", "stimuli", "activations")


def recorded_settings(evidence: Run) -> dict[str, Any]:
    """Return with what evidence was recorded: a hash of its images as "images", and the settings by
    name; nothing if the first record was stopped."""
    file = evidence.root / SETTINGS
    if not file.exists():
        return {}
    # what earlier versions did not write
    earlier = {"interpolation": RecordedSource.model_fields["interpolation"].default}
    return earlier | json.loads(file.read_text(encoding="utf-8"))


@SOURCES.add("recorded")
class RecordedSource(Source):
    """The contents of a `Recorder`'s folder.

    An epoch with weights is studied like any other. For an epoch with evidence alone, there are
    stimuli and vectors in the space, but no importance and no ablation.

    Attributes:
        folder: of the Recorder.
        architecture: as for the source "folder"; required if weights were recorded.
    """

    places = frozenset({"folder"})

    source: str = "recorded"
    folder: UserPath
    architecture: str | None = None

    @model_validator(mode="after")
    def _architecture_is_there(self) -> RecordedSource:
        if self.architecture is None and self._weights():
            raise ValueError(
                f"{self.folder} holds weights of epochs {sorted(self._weights())}: set "
                f"`architecture` to the name of their architecture"
            )
        return self

    @property
    def evidence(self) -> Run:
        return Run(self.folder / EVIDENCE)

    def _weights(self) -> dict[int, Path]:
        files = cached_listing((self.folder, WEIGHTS), lambda: match_epochs(self.folder, WEIGHTS))
        return {epoch: path for path, epoch in files if epoch is not None}

    def _with_evidence(self) -> set[int]:
        run, kind = self.evidence, EVIDENCE_KINDS[0]

        def whole() -> set[int]:
            artifacts = run.stored(kind, RECORDED)
            return {int(a.parts[1]) for a in artifacts if run.sidecar(a) is not None}

        return cached_listing((self.folder, EVIDENCE), whole)

    def epochs(self) -> tuple[int, ...]:
        epochs = sorted(self._with_evidence() | self._weights().keys())
        if not epochs:
            raise CheckpointError(
                f"series {self.name!r}: {self.folder} holds neither weights "
                f"({WEIGHTS.format(epoch='N')}) nor evidence of a Recorder"
            )
        return self._without_skipped(epochs)

    def loadable_epochs(self) -> tuple[int, ...]:
        return tuple(epoch for epoch in self.epochs() if epoch in self._weights())

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        if epoch not in self._weights():
            raise CheckpointError(
                f"series {self.name!r}: evidence but no weights were recorded at epoch {epoch}; "
                f"there are weights of epochs {sorted(self._weights())}"
            )
        assert self.architecture is not None
        return load_weights(
            build(self.architecture, self.outputs or num_classes), self._weights()[epoch]
        )

    def identity(self, epoch: int) -> str:
        if epoch in self._weights():
            assert self.architecture is not None
            content = file_hash(self._weights()[epoch])
            return fingerprint(plugin_identity(self.architecture), self.outputs, content)
        evidence = self.evidence
        artifacts = [
            a for kind in sorted(EVIDENCE_KINDS) for a in evidence.stored(kind, RECORDED, epoch)
        ]
        sidecars = filter(None, map(evidence.sidecar, artifacts))
        return fingerprint("evidence", [sidecar["sha256"] for sidecar in sidecars])
