"""A series of models in memory: the source that the Python interface uses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from pydantic import ConfigDict, Field, field_validator
from torch import Tensor, nn

from harness.artifacts import Run, fingerprint
from harness.networks.sources import Source
from harness.networks.state_dicts import CheckpointError
from harness.networks.wrappers import copied


class MemorySource(Source):
    """Models in memory, by epoch; copies of them are used."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    source: str = "memory"
    models: Mapping[int, nn.Module] = Field(exclude=True)  # `identity` represents them

    @field_validator("models")
    @classmethod
    def _copies(cls, models: Mapping[int, nn.Module]) -> Mapping[int, nn.Module]:
        """Copy the models, so that results stay the same when the originals are trained on."""
        first: dict[nn.Module, int] = {}
        for epoch, model in models.items():
            if first.setdefault(model, epoch) != epoch:
                raise ValueError(
                    f"epochs {first[model]} and {epoch} are one and the same module: keep a copy "
                    f"of each epoch, copy.deepcopy(model)"
                )
        try:
            return {epoch: copied(model) for epoch, model in models.items()}
        except Exception as error:  # a user's class may define how it is copied
            raise ValueError(
                f"a model cannot be copied ({type(error).__name__}: {error}), and the original "
                f"must not be changed; remove what prevents a copy (hooks with a state)"
            ) from error

    def epochs(self) -> tuple[int, ...]:
        return self._used(sorted(self.models))

    def load(self, epoch: int, num_classes: int, run: Run) -> nn.Module:
        if epoch not in self.models:
            raise CheckpointError(
                f"series {self.name!r} has no model of epoch {epoch}; it has {sorted(self.models)}"
            )
        return copied(self.models[epoch])

    def identity(self, epoch: int) -> str:
        """Return a hash of the weights and of the printed structure."""
        digest = hashlib.sha256(repr(self.models[epoch]).encode())
        for name, value in self.models[epoch].state_dict().items():
            digest.update(f"{name} {getattr(value, 'dtype', repr(value))}".encode())
            if isinstance(value, Tensor):  # as bytes, because NumPy has no bfloat16
                flat = value.detach().cpu().contiguous().flatten()
                digest.update(flat.view(torch.uint8).numpy().data)
        return fingerprint("memory", digest.hexdigest())
