"""Remove wrappers around a network, and refuse networks that cannot be analysed."""

import copy
import logging
import re

import torch
from torch import Tensor, fx, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from harness.networks.misfits import ADVICE_ON_PIECES
from harness.text import join_names

logger = logging.getLogger(__name__)


def copy_network(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network, also if its weights are computed from others (pruning,
    weight and spectral norm), which `copy.deepcopy` alone refuses.

    Raises:
        ValueError: a part of it cannot be copied.
    """
    derived = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    try:
        return copy.deepcopy(model, {id(value): value.detach().clone() for value in derived})
    except Exception as error:  # a user's class may define how it is copied
        raise ValueError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}), and the "
            f"original must not be changed; remove what prevents a copy, such as locks, generators "
            f"or hooks with a state, or use the part of it that returns the logits"
        ) from error


def refuse_pieces(model: nn.Module) -> None:
    """Raise ValueError if the weights of a network are split between processes (FSDP, ZeRO)."""
    kinds = ("FullyShardedDataParallel", "DTensor")
    split = [
        name or "the network" for name, m in model.named_modules() if type(m).__name__ in kinds
    ]
    split += [
        name
        for name, value in model.named_parameters()
        if type(value).__name__ in kinds or hasattr(value, "ds_shape")
    ]
    if split:
        raise ValueError(
            f"its weights are split between processes ({join_names(split, 4)}): {ADVICE_ON_PIECES}"
        )


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network without wrappers of parallel training, averaging and `torch.compile`, on
    the CPU, where its layers are found.

    Raises:
        ValueError: the inner modules are not accessible, or the weights are missing or quantised;
            the message says what to do.
    """
    while (inner := _inner_module(model)) is not None:
        logger.info("%s is removed: the network inside it is used", type(model).__name__)
        model = inner
    scripted = [n for n, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        what = "the network is" if scripted[0] == "" else f"its part {scripted[0]!r} is"
        raise ValueError(
            f"{what} a scripted module (torch.jit), whose inner modules are not accessible: build "
            f"it from its Python code and load the weights, torch.jit.load(file).state_dict()"
        )
    if isinstance(model, fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in model.graph.nodes
    ):
        raise ValueError(
            "the network is an exported program (torch.export), which has no inner modules: build "
            "it from its Python code and load the weights, its state_dict()"
        )
    refuse_pieces(model)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if lazy := [name for name, value in tensors if nn.parameter.is_lazy(value)]:
        raise ValueError(
            f"its lazy modules have no weights yet ({', '.join(lazy[:4])}): run it on one batch "
            f"before its weights are saved or loaded"
        )
    quantised = [
        name
        for name, m in model.named_modules()
        if re.match(r"torch\b.*\.quantized\b", type(m).__module__)
        and not type(m).__name__.endswith("FloatFunctional")  # ordinary arithmetic, until converted
    ]
    quantised += [name for name, value in tensors if value.is_quantized]
    quantised += [
        name
        for name, value in model.named_parameters()
        if value.dtype in (torch.int8, torch.uint8)  # other integers are indices or masks
    ]
    if quantised:
        raise ValueError(
            f"the network is quantised ({', '.join(quantised[:4])}), so gradients cannot be "
            f"computed; use the weights from before it was quantised"
        )
    if meta := [name for name, value in tensors if value.is_meta]:
        raise ValueError(
            f"its weights are on the meta device ({', '.join(meta[:4])}), without values: load them"
        )
    return model.cpu()


def _inner_module(model: nn.Module) -> nn.Module | None:
    if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
        return model.module
    if type(model).__name__ == "OptimizedModule":  # torch.compile's; its class is private
        return getattr(model, "_orig_mod", None)
    return None
