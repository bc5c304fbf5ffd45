"""Checkpoint files as people have them: what is in one, and how it fits an architecture.

Files are loaded with `weights_only=True`: nothing in them is run. A few harmless classes that
training scripts store beside the weights are allowed by name.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import pathlib
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

#: Under these keys other people's checkpoints keep their state dict, the likeliest first.
STATE_DICT_KEYS = ("model_state_dict", "state_dict", "model", "module", "net", "network", "weights")

#: Under these keys they keep another one: averaged weights, a teacher, a student.
OTHER_KEYS = (
    *("model_ema", "ema", "ema_model", "ema_state_dict", "state_dict_ema", "model_ema_state_dict"),
    *("teacher", "student"),
)

#: What a wrapper puts before every key: DataParallel and DDP, torch.compile, Lightning, averaging.
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "network.",
    "backbone.",
    "encoder.",
    "visual.",
)


def _without_default(*factory: object) -> dict:
    """A defaultdict as a plain one: safe loading fills no other kinds of dict."""
    return {}


#: Classes that training scripts store beside weights and that do nothing when loaded.
HARMLESS: list[Any] = [
    argparse.Namespace,
    (_without_default, "collections.defaultdict"),
    collections.OrderedDict,
    collections.Counter,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdU"),
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    *(dict, list, set, tuple, int, float, bool, str),
]


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, unsafe, or does not fit its architecture."""


def load_weights(model: nn.Module, path: Path, key: str | None = None) -> nn.Module:
    """Fill a model with the weights of a file, strictly.

    Args:
        model: the architecture.
        path: a file of `torch.save`, safetensors, or a folder that holds one (Hugging Face).
        key: which of the file's state dicts is meant, where it holds several.

    Raises:
        CheckpointError: no such file, damaged, holding more than tensors and plain values, or
            weights that are missing, unexpected or of the wrong shape (all listed).
    """
    return fill(model, read_file(path), str(path), key)


def read_file(path: Path) -> object:
    """What a checkpoint file holds: tensors and plain values. Raises CheckpointError."""
    if path.is_dir():
        path = _file_of_folder(path)
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if path.stat().st_size == 0:
        raise CheckpointError(f"checkpoint {path} is empty (0 bytes)")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if _is_torchscript(path):
        raise CheckpointError(
            f"checkpoint {path} is a TorchScript archive, which holds code as well as weights; "
            f"save `torch.jit.load(...).state_dict()` with torch.save"
        )
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged or cut off ({str(error).partition(chr(10))[0]})"
        ) from error


def _file_of_folder(folder: Path) -> Path:
    names = ("model.safetensors", "pytorch_model.bin")
    for name in names:
        if (folder / name).exists():
            return folder / name
    if any((folder / f"{name}.index.json").exists() for name in names):
        raise CheckpointError(f"checkpoint {folder} is split over several files; merge them first")
    raise CheckpointError(f"checkpoint folder {folder} holds neither {names[0]} nor {names[1]}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise CheckpointError(
            f"checkpoint {path} needs the package safetensors: pip install safetensors"
        ) from None
    try:
        return load_file(path)
    except Exception as error:  # its own error type is not part of its public interface
        raise CheckpointError(f"checkpoint {path} is damaged or cut off ({error})") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/", 1)[-1].startswith("code/") for name in archive.namelist())


def _refusal(path: Path, reason: str) -> str:
    """Why safe loading refused a file: the class in the way, and what to do."""
    match = re.search(r"(?:GLOBAL|global) (?:`?)([\w.]+)", reason)
    if match is None:
        first = reason.partition(chr(10))[0]
        return f"checkpoint {path} is damaged, or holds more than weights ({first})"
    return (
        f"checkpoint {path} holds an object of class {match.group(1)} beside or instead of "
        f"weights, and is not loaded, since loading it could run code. If you trust the file, "
        f"`conceptevo convert {path} --trust` writes one with its weights alone"
    )


def fill(model: nn.Module, content: object, origin: str, key: str | None = None) -> nn.Module:
    """Load a state dict into a model; every misfit is listed in one error.

    Keys that fit are taken as they are; otherwise a prefix that all keys have in common is removed
    if they then fit exactly. What was removed is logged.

    Args:
        model: the architecture; its uninitialised buffers and parameters are filled.
        content: of a checkpoint file.
        origin: names it in errors.
        key: which state dict of several is meant; dots lead inwards.
    """
    where, state = _state_dict(content, origin, key)
    wanted = model.state_dict()
    state, removed = _fitted(state, wanted)
    _say(origin, where, removed)
    problems = [
        *(f"missing {name}" for name in wanted if name not in state),
        *(f"unexpected {name}" for name in state if name not in wanted),
        *(
            f"{name} is {tuple(state[name].shape)}, should be {tuple(wanted[name].shape)}"
            for name in wanted
            if name in state and state[name].shape != wanted[name].shape
        ),
    ]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(
            f"checkpoint {origin} does not fit the architecture: {'; '.join(problems[:8])}{more}"
        )
    model.load_state_dict(state)
    return model


def _say(origin: str, where: str, removed: str) -> None:
    parts = [f"state dict {where!r}"] * bool(where) + [f"prefix {removed!r} removed"] * bool(
        removed
    )
    if parts:
        logger.info("checkpoint %s: %s", origin, ", ".join(parts))


def _state_dict(content: object, origin: str, key: str | None) -> tuple[str, dict[str, Tensor]]:
    """The state dict meant, and the key it stands under ("" for the file's own content)."""
    dicts = dict(_state_dicts(content))
    if key is not None:
        if key not in dicts:
            raise CheckpointError(
                f"checkpoint {origin} holds no state dict under key = {key!r}; there are: "
                f"{', '.join(name or '(the file itself)' for name in dicts) or 'none'}"
            )
        return key, dicts[key]
    for name in ("", *STATE_DICT_KEYS):
        if name in dicts:
            return name, dicts[name]
    if len(dicts) == 1:
        return next(iter(dicts.items()))
    if dicts:
        raise CheckpointError(
            f"checkpoint {origin} holds several state dicts ({', '.join(dicts)}): say which with "
            f'key = "{next(iter(dicts))}"'
        )
    held = type(content).__name__
    if isinstance(content, dict):
        held = f"a dict of {json.dumps([str(name) for name in content][:8])}"
    raise CheckpointError(
        f"checkpoint {origin} holds no state dict but {held}; expected a dict of tensors, bare or "
        f"under {', '.join(STATE_DICT_KEYS[:3])}"
    )


def _state_dicts(content: object, above: str = "", depth: int = 0) -> Iterator[tuple[str, dict]]:
    """(key, state dict) of all that a file holds, two levels deep."""
    if not isinstance(content, Mapping) or not content:
        return
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    # averaged models keep a counter beside their weights
    if tensors and all(isinstance(v, Tensor | int | float) for v in content.values()):
        yield above, {k: v for k, v in tensors.items() if k != "n_averaged"}
        return
    if depth == 2:
        return
    for name, value in content.items():
        if name not in ("optimizer", "optimizer_state_dict", "optimizer_states", "lr_scheduler"):
            yield from _state_dicts(value, f"{above}.{name}" if above else str(name), depth + 1)


def _fitted(state: dict[str, Tensor], wanted: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The state dict with the common prefix removed that makes it fit, and that prefix."""
    if set(state) == set(wanted):
        return state, ""
    removed, rest = "", state
    while rest:
        heads = {name.partition(".")[0] + "." for name in rest}
        if len(heads) != 1 or any("." not in name for name in rest):
            break
        head = heads.pop()
        rest = {name.removeprefix(head): tensor for name, tensor in rest.items()}
        removed += head
        if set(rest) == set(wanted):
            return rest, removed
    # a part of a larger model: what stands below a wrapper's usual name, if it fits exactly
    for prefix in _usual_prefixes(state):
        part = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        if set(part) == set(wanted):
            return part, prefix
    return state, ""


def _usual_prefixes(state: Mapping[str, Any]) -> list[str]:
    """Prefixes of some keys that consist of usual wrappers' names, the shortest first."""
    prefixes = set()
    for name in state:
        prefix = ""
        while part := next((p for p in PREFIXES if name[len(prefix) :].startswith(p)), ""):
            prefix += part
            prefixes.add(prefix)
    return sorted(prefixes, key=len)


def convert(path: Path, out: Path) -> tuple[list[str], int]:
    """Write a file's state dicts alone, loading it *unsafely*: code in the file is run.

    Args:
        path: a file that one trusts.
        out: the file to write.

    Returns:
        The keys of the state dicts, and how many tensors they hold.
    """
    content = torch.load(path, map_location="cpu", weights_only=False)
    if isinstance(content, nn.Module):
        content = {"state_dict": content.state_dict()}
    if isinstance(content, Mapping):
        content = {
            name: value.state_dict() if isinstance(value, nn.Module) else value
            for name, value in content.items()
        }
    dicts = dict(_state_dicts(content))
    if not dicts:
        raise CheckpointError(f"{path} holds no state dict and no module")
    torch.save(dicts[""] if set(dicts) == {""} else dicts, out)
    return list(dicts), sum(len(state) for state in dicts.values())
