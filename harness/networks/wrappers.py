"""Remove wrappers around a network, and refuse networks that cannot be analysed."""

from __future__ import annotations

import logging

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

logger = logging.getLogger(__name__)


def usable(model: nn.Module) -> nn.Module:
    """Return the network without wrappers of parallel training, averaging and `torch.compile`.

    Raises:
        ValueError: the inner modules are not accessible, or the weights are missing or quantised;
            the message says what to do.
    """
    while (inner := _inner(model)) is not None:
        logger.info("%s is removed: the network inside it is used", type(model).__name__)
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "the network is a scripted module (torch.jit), whose inner modules are not accessible: "
            "build it from its Python code and load the weights, torch.jit.load(file).state_dict()"
        )
    named = [*model.named_parameters(), *model.named_buffers()]
    if lazy := [name for name, value in named if nn.parameter.is_lazy(value)]:
        raise ValueError(
            f"its lazy modules have no weights yet ({', '.join(lazy[:4])}): run it on one batch "
            f"before its weights are saved or loaded"
        )
    quantised = [n for n, m in model.named_modules() if "quantized" in type(m).__module__]
    quantised += [name for name, value in named if value.is_quantized]
    quantised += [
        name
        for name, value in model.named_parameters()
        if not (value.is_floating_point() or value.is_complex())
    ]
    if quantised:
        raise ValueError(
            f"the network is quantised ({', '.join(quantised[:4])}), so gradients cannot be "
            f"computed; use the weights from before it was quantised"
        )
    if meta := [name for name, value in named if value.is_meta]:
        raise ValueError(
            f"its weights are on the meta device ({', '.join(meta[:4])}), without values: load them"
        )
    return model


def _inner(model: nn.Module) -> nn.Module | None:
    if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
        return model.module
    if type(model).__name__ == "OptimizedModule":  # torch.compile's; its class is private
        return getattr(model, "_orig_mod", None)
    return None
