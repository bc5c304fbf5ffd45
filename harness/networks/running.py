"""Run the user's network: the only place where an error in its code becomes a message.

The message names the checkpoint, the shape of the images, the purpose of the pass, what failed and
where, and, if known, what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.networks.budget import is_out_of_memory
from harness.registry import UserCodeError, failure

_NAME = "_conceptevo_name"

#: Advice on a network whose values have no gradients.
INFERENCE = (
    "the network runs under torch.inference_mode(), where nothing has a gradient: use "
    "torch.no_grad() in its place, or neither"
)

#: Advice on values that are NaN or infinite although the weights are not.
UNDEFINED = (
    "the network may divide by 0, or take the gradient of a square root or norm of 0: let it add a "
    "small number there, as in sqrt(x + 1e-8)"
)

#: Patterns of error messages, and advice on them.
_ADVICE = {
    r"missing \d+ required positional argument|takes \d+ positional argument": (
        "a network is given images alone: wrap it in a module that supplies its other inputs"
    ),
    r"[Ii]nference tensor": INFERENCE,
    r"modified by an inplace operation": (
        "the network overwrites values that gradients need: avoid in-place operations "
        "(x = x + y, not x += y)"
    ),
    r"use_reentrant": (
        "pass use_reentrant=False to torch.utils.checkpoint, or switch checkpointing off, which is "
        "useful in training only"
    ),
    r"uninitialized parameter": (
        "its lazy modules have no weights yet: run it once before its weights are saved or loaded"
    ),
    r"must match the size|size mismatch|shapes cannot be multiplied|Expected .* input": (
        "check that resize, crop, mean and std of the series are those with which it was trained"
    ),
}


class _Gradients(TorchFunctionMode):
    """Ignores changes of the gradient mode by the code that runs."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch._C._set_grad_enabled:
            return None
        return func(*args, **(kwargs or {}))


def with_gradients() -> TorchFunctionMode:
    """Return a block in which a network's own `torch.no_grad()` has no effect.

    Parts that were not trained (linear probing) then have gradients, too. Values do not change.
    """
    return _Gradients()


def name_network(model: nn.Module, name: str) -> nn.Module:
    """Store the name by which messages call a model, e.g. "series 'vgg', epoch 4"."""
    object.__setattr__(model, _NAME, name)
    return model


def network_name(model: nn.Module) -> str:
    """Return the name by which messages call a model; "" if it has none."""
    return getattr(model, _NAME, "")


def run_network(model: nn.Module, batch: Tensor, purpose: str = "") -> Any:
    """Run the network on a batch and return its output.

    Args:
        purpose: completes the message of an error, e.g. "to record its neurons".

    Raises:
        UserCodeError: the network's code failed for any reason other than lack of memory.
    """
    with explained(model, batch, purpose):
        return model(batch.clone())  # a network may overwrite its input


@contextmanager
def users_code(what: str, function: object) -> Iterator[None]:
    """Turn errors of a user's function, except ValueErrors, into one sentence that names it."""
    try:
        yield
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        name = getattr(function, "__name__", function)
        raise UserCodeError(failure(f"{what} {name!r}", error)) from error


@contextmanager
def explained(model: nn.Module, batch: Tensor, purpose: str = "") -> Iterator[None]:
    """Turn errors of the network's code into one sentence, as `run_network` does."""
    try:
        yield
    except UserCodeError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        advice = next((a for text, a in _ADVICE.items() if re.search(text, str(error))), "")
        name = network_name(model)
        what = f"{name}{': ' * bool(name)}the network{f', run {purpose},' * bool(purpose)}"
        text = failure(f"{what} on images of shape {tuple(batch.shape)}", error)
        raise UserCodeError(f"{text}{f'; {advice}' * bool(advice)}") from error
