"""Devices and precision: models and batches are moved to a device only here."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "float16"]

#: Valid names of devices.
NAME = r"^(auto|cpu|mps|cuda(:\d+)?)$"


@dataclass(frozen=True)
class Device:
    """A device and a precision. Use `choose_device` to make one that is checked.

    Attributes:
        name: torch's name of the device: "cpu", "cuda:0", "mps".
        precision: of matrix products and convolutions. "float32" is full single precision on every
            device (no TF32). The others use torch's autocast; their results differ in the third
            digit, so ranks can change.
    """

    name: str = "cpu"
    precision: Precision = "float32"

    @property
    def place(self) -> torch.device:
        return torch.device(self.name)

    def model(self, model: nn.Module) -> nn.Module:
        """Move the model to this device (in place, as torch does) and return it."""
        return model.to(self.place)

    def batch(self, batch: Tensor) -> Tensor:
        """Move a batch to this device in its memory format; a copy to a GPU is asynchronous."""
        if self.name == "cpu":
            return batch
        if self.place.type == "cuda" and not batch.is_cuda:
            batch = batch.pin_memory()
        return batch.to(self.place, non_blocking=True)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute in this precision, with deterministic algorithms where the device has them."""
        with ExitStack() as settings:
            for owner, name, old, value in _exact() if self.place.type == "cuda" else ():
                settings.callback(setattr, owner, name, old)
                setattr(owner, name, value)
            if self.precision != "float32":
                dtype = getattr(torch, self.precision)
                settings.enter_context(torch.autocast(self.place.type, dtype))
            yield


def _exact() -> list[tuple[Any, str, object, object]]:
    """Return torch's settings of CUDA (owner, name, present value, value to set) for deterministic
    algorithms in full single precision."""
    cudnn: Any = torch.backends.cudnn  # torch's stubs lack `conv` and `rnn`
    matmul = torch.backends.cuda.matmul

    def settings(name: str, value: object, *owners: Any) -> list[tuple[Any, str, object, object]]:
        return [(owner, name, getattr(owner, name), value) for owner in owners]

    try:
        precision = settings("allow_tf32", False, cudnn, matmul)
    except RuntimeError:  # torch refuses these once a program has used the settings of torch 2.9
        precision = settings("fp32_precision", "ieee", matmul, cudnn.conv, cudnn.rnn)
    return [
        *precision,
        *settings("enabled", True, cudnn),
        *settings("deterministic", True, cudnn),
        *settings("benchmark", False, cudnn),
    ]


CPU = Device()


def choose_device(name: str = "auto", precision: Precision = "float32") -> Device:
    """Return a device of this machine by name.

    Args:
        name: "cpu", "cuda", "cuda:N", "mps", or "auto": the first CUDA GPU, else Apple's, else CPU.

    Raises:
        ValueError: an unknown name, or a device that this machine does not have.
    """
    if not re.fullmatch(NAME, name):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    available = devices()
    if name == "auto":
        return Device(available[0], precision)
    full_name = "cuda:0" if name == "cuda" else name
    if full_name not in available:
        raise ValueError(
            f"device {name!r} is not available: torch {torch.__version__} finds "
            f"{', '.join(available)}; choose one of these, or auto"
        )
    return Device(full_name, precision)


def devices() -> list[str]:
    """Return the names of the devices that torch sees, the fastest kind first."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]
