"""Run the user's network and find the logits in what it returns.

This is the only place where an error in its code becomes a message. The message names the
checkpoint, the shape of the images, the purpose of the pass, what failed, where and what to do.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.networks.budget import is_out_of_memory
from harness.registry import UserCodeError, describe_failure

#: Attributes of a model: its name in messages, and the part of its output that holds the logits.
_NAME, _OUTPUT = "_conceptevo_name", "_conceptevo_output"

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
    r"modified (by an )?in-?place": (
        "the network overwrites values that gradients need: avoid in-place operations "
        "(x = x + y, not x += y)"
    ),
    r"(Half|BFloat16|[dD]ouble).*(float|same)|float.*(Half|BFloat16|[dD]ouble)": (
        "weights are converted to float32, so the network's code must not convert images to "
        "another type (x.half(), x.double())"
    ),
    r"use_reentrant": (
        "pass use_reentrant=False to torch.utils.checkpoint, or switch checkpointing off, which is "
        "useful in training only"
    ),
    r"uninitialized parameter": (
        "its lazy modules have no weights yet: run it once before its weights are saved or loaded"
    ),
    r"weight of size \[\d+(, \d+){4}\]|expected 5, got 4": (
        "the network takes videos or volumes: wrap it in a module that makes them from images"
    ),
    r"to have \d+ channels, but got": (
        "mean and std say how many colour channels images have: lists of one number for greyscale "
        "images, of three for others; wrap a network of further channels in a module that makes "
        "them from these"
    ),
    r"must match the size|size mismatch|shapes cannot be multiplied|Expected .* input"
    r"|[Oo]utput size is too small|Kernel size can't be greater|invalid for input of size"
    r"|[Ii]mage (size|height|width)|doesn't match model|^$": (  # an assertion may have no text
        "check that resize, crop, mean and std of the series are those with which it was trained"
    ),
}


class WithGradients(TorchFunctionMode):
    """A block in which a network's own `torch.no_grad()` has no effect.

    Parts that were not trained (linear probing) then have gradients, too. Values do not change.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch._C._set_grad_enabled:
            return None
        return func(*args, **(kwargs or {}))


def name_network(model: nn.Module, name: str) -> nn.Module:
    """Store the name by which messages call a model, e.g. "series 'vgg', epoch 4"."""
    object.__setattr__(model, _NAME, name)
    return model


def network_name(model: nn.Module) -> str:
    """Return the name by which messages call a model; "" if it has none."""
    return getattr(model, _NAME, "")


def run_network(model: nn.Module, batch: Tensor, purpose: str = "") -> Any:
    """Run the network on a batch and return its output. The purpose completes the message of an
    error, e.g. "to record its neurons".

    Raises:
        UserCodeError: the network's code failed for any reason other than lack of memory.
    """
    with explain_errors(model, batch, purpose):
        return model(batch.clone())  # a network may overwrite its input


@contextmanager
def explain_errors(model: nn.Module, batch: Tensor, purpose: str = "") -> Iterator[None]:
    """Turn errors of the network's code into one sentence, as `run_network` does."""
    try:
        yield
    except UserCodeError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        advice = next((a for message, a in _ADVICE.items() if re.search(message, str(error))), "")
        name = network_name(model)
        subject = f"{name}{': ' * bool(name)}the network{f', run {purpose},' * bool(purpose)}"
        message = describe_failure(f"{subject} on images of shape {tuple(batch.shape)}", error)
        raise UserCodeError(f"{message}{f'; {advice}' * bool(advice)}") from error


def run_logits(model: nn.Module, batch: Tensor, purpose: str = "") -> Tensor:
    """Run the network as `run_network` does, and return its logits as `logits_of` does.

    A network may compute gradients itself, under `torch.enable_grad()`; where they are disabled
    outside of it, the logits have none.
    """
    logits = logits_of(model, run_network(model, batch, purpose))
    return logits if torch.is_grad_enabled() else logits.detach()


def choose_output(model: nn.Module, output: str | int | None) -> nn.Module:
    """Store with a model which part of its output holds the logits (None: infer it)."""
    object.__setattr__(model, _OUTPUT, output)
    return model


def logits_of(model: nn.Module, answer: Any) -> Tensor:
    """Return the logits [batch, outputs] from what the model returned.

    A tensor is used as it is; a map of one pixel, [batch, outputs, 1, 1], is flattened. Of several
    values, the one named by `choose_output` is used, otherwise the one called "logits".

    Raises:
        ValueError: there is no such part, or it is not a tensor [batch, outputs].
    """
    key = getattr(model, _OUTPUT, None)
    if not isinstance(answer, Tensor):
        answer = _output_part(answer, "logits" if key is None else key)
    if isinstance(answer, Tensor) and answer.dim() > 2 and set(answer.shape[2:]) == {1}:
        answer = answer.flatten(1)
    if not isinstance(answer, Tensor) or answer.dim() != 2:
        named = "" if key is None else f" at output = {key!r}"
        raise ValueError(
            f"the model must return logits [batch, outputs], got{named} {_describe(answer)}; "
            f"{_remedy(answer)}"
        )
    return answer


def _remedy(answer: Any) -> str:
    wrap = "wrap it in a module that returns a number for each image and class"
    if not isinstance(answer, Tensor):
        values = dict(enumerate(answer)) if isinstance(answer, tuple | list) else answer
        values = values if isinstance(values, Mapping) else getattr(answer, "__dict__", {})
        keys = [k for k, v in values.items() if isinstance(v, Tensor) and v.dim() == 2]
        shown = " or ".join(f'"{k}"' if isinstance(k, str) else str(k) for k in keys)
        several = "if it returns several values, name the one that holds the logits: output"
        return f"{several} = {shown}" if keys else f"{wrap}, as a torch tensor"
    if answer.dim() > 2:
        return f"{wrap}, such as the mean over the image of a map or a sequence of outputs"
    return f"{wrap}; for two classes, two numbers (0 and the logit, if it has only one)"


def _output_part(answer: Any, key: str | int) -> Any:
    if isinstance(answer, Mapping):
        return answer.get(key, answer)
    if isinstance(key, str):
        return getattr(answer, key, answer)
    if isinstance(answer, tuple | list) and -len(answer) <= key < len(answer):
        return answer[key]
    return answer


def _describe(answer: Any) -> str:
    if isinstance(answer, Tensor):
        return f"a tensor of shape {tuple(answer.shape)}"
    if isinstance(answer, Mapping):
        parts = ", ".join(f"{name!r}: {_describe(value)}" for name, value in answer.items())
        return f"a dict of {{{parts}}}"
    if isinstance(answer, tuple | list):
        return f"a {type(answer).__name__} of ({', '.join(map(_describe, answer))})"
    return f"an object of class {type(answer).__name__}"
