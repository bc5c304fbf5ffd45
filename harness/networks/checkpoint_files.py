"""Checkpoint files in the formats that users have: torch.save, safetensors, Hugging Face folders.

Files are loaded with `weights_only=True`, so no code in them is run. A few harmless classes that
training scripts store beside the weights are allowed by name.
"""

import argparse
import datetime
import json
import logging
import os
import pathlib
import pickle
import re
import types
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.files import describe_format
from harness.networks.state_dicts import CheckpointError, fill
from harness.text import join_names

logger = logging.getLogger(__name__)


_NUMPY = (np._core.multiarray.scalar, np._core.multiarray._reconstruct)  # type: ignore[attr-defined]

#: Classes and functions that training scripts store beside weights and that are harmless to load;
#: some are listed under the names of other versions of Python and NumPy, too.
HARMLESS: list[Any] = [
    *(argparse.Namespace, types.SimpleNamespace),
    (lambda *factory: {}, "collections.defaultdict"),  # safe loading fills only plain dicts
    (lambda *arguments: [], "collections.deque"),  # and lists
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(
        (pathlib.PurePosixPath if "Posix" in name else pathlib.PureWindowsPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    ),
    *(np.dtype, np.ndarray),
    *(kind for name, kind in vars(np.dtypes).items() if name[0] != "_" and name != "ObjectDType"),
    *((f, f"numpy.{core}.multiarray.{f.__name__}") for f in _NUMPY for core in ("core", "_core")),
    *(dict, list, set, frozenset, tuple, int, float, complex, bool, str, range, slice),
]


#: Weight files of Hugging Face folders, the safer format first.
FOLDER_FILES = (
    *("model.safetensors", "pytorch_model.bin"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)

#: Names of files of weights in such folders: these, and further ones, such as those of a second
#: network (accelerate's `model_1.safetensors`) or of another precision (`model.fp16.safetensors`).
_MORE_WEIGHTS = re.compile(
    r"(open_clip_)?(pytorch_)?model(?!-\d+-of-)[\w.-]*\.(safetensors|bin)(\.index\.json)?"
)

#: Files that such folders may hold instead, and what to do.
OTHER_FOLDER_FILES = {
    "adapter_model.safetensors": "an adapter's weights, which are not the network's; merge it",
    "adapter_model.bin": "an adapter's weights, which are not the network's; merge it",
    "tf_model.h5": "TensorFlow's weights; load and save the model with PyTorch",
    "flax_model.msgpack": "Flax's weights; load and save the model with PyTorch",
    "saved_model.pb": "a TensorFlow model; PyTorch's weights are needed",
}

#: Beginnings of the files in which other programs save arrays (HDF5, NumPy), and what to do about
#: these.
_OTHER_ARRAYS = (b"\x89hdf", b"\x93numpy")
_EXPECTED = ", whose numbers have other names; save the network's state_dict() with torch.save"

#: The pickled number with which files of torch.save's old format begin.
LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def load_weights(model: nn.Module, path: Path, key: str | None = None) -> nn.Module:
    """Load the weights of a file into a model; all names and shapes must agree.

    Args:
        path: a file of `torch.save` or safetensors, or a Hugging Face folder that holds one.
        key: the state dict to use, if the file holds several.

    Raises:
        CheckpointError: the file is missing or damaged, holds more than tensors and plain values,
            or its weights are missing, unexpected or of the wrong shape (all are listed).
    """
    return fill(model, read_checkpoint(path), str(path), key)


def read_checkpoint(path: Path) -> object:
    """Read the tensors and plain values of a checkpoint. Raises CheckpointError."""
    files = weight_files(path)
    if path.is_dir():
        _log_unused(path)
    contents = [_read_file(file) for file in files]
    if len(contents) == 1:
        return contents[0]
    tensors: dict[object, Any] = {}
    for content in (content for content in contents if isinstance(content, Mapping)):
        if twice := [k for k in content if k in tensors and not _equal(content[k], tensors[k])]:
            raise CheckpointError(
                f"checkpoint {path} holds different values of {join_names(map(str, twice), 4)} in "
                f"several of its files ({join_names([file.name for file in files], 4)}), so it is "
                f"unknown which of them belong to it: save or download it again, into a new folder"
            )
        tensors |= content
    return tensors


def _equal(one: object, other: object) -> bool:
    """Return whether two values of files are equal; NaN equals NaN."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return repr(one) == repr(other)
    with suppress(AssertionError):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        return True
    return False


def weight_files(path: Path) -> tuple[Path, ...]:
    """Return the files of a checkpoint: the file itself, or those of a Hugging Face folder.

    Raises:
        CheckpointError: the file does not exist, or the folder holds no weights.
    """
    if path.name.endswith(".index.json"):
        return _shard_files(path)
    if not path.is_dir():
        if not path.exists():
            hint = f": it is a broken link to {os.readlink(path)}" if path.is_symlink() else ""
            raise CheckpointError(f"checkpoint {path} does not exist{hint}")
        return (path,)
    if name := _folder_weights(path):
        return weight_files(path / name)
    raise CheckpointError(f"checkpoint folder {path} {_describe_folder(path)}")


def _folder_weights(path: Path) -> str:
    """Return the file or index of weights in a folder that is used; "" if there is none."""
    names = [*FOLDER_FILES, *(f"{name}.index.json" for name in FOLDER_FILES)]
    return next((name for name in names if (path / name).exists()), "")


def _log_unused(path: Path) -> None:
    """Log which other weights a folder holds: they may differ from those that are read."""
    used = _folder_weights(path)
    others = [
        entry.name
        for entry in sorted(path.iterdir())
        if entry.name != used
        and (entry.name in OTHER_FOLDER_FILES or _MORE_WEIGHTS.fullmatch(entry.name))
    ]
    if others:
        logger.info(
            "the checkpoint's folder holds several files of weights: %s is read, but not %s; to "
            "read another, name it in `pattern`",
            used,
            join_names(others),
        )


def _shard_files(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names. Raises CheckpointError."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged or no index of weights ({error!r})") from error
    shards = tuple(index.parent / name for name in sorted(map(str, names)))
    if missing := [shard.name for shard in shards if not shard.exists()]:
        raise CheckpointError(f"{index} names files that do not exist: {', '.join(missing)}")
    return shards


def _describe_folder(path: Path) -> str:
    """Describe a folder that holds none of FOLDER_FILES, and say what to do."""
    names = sorted(entry.name for entry in path.iterdir())
    if ".metadata" in names:
        return (
            "was written by torch.distributed.checkpoint (FSDP), which splits tensors; "
            f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE` joins "
            "them in one file"
        )
    if any("zero_pp_rank" in file.name or "mp_rank" in file.name for file in path.rglob("*.pt")):
        return (
            f"was written by DeepSpeed, which splits tensors; `python zero_to_fp32.py {path} "
            f"FILE`, a script that DeepSpeed writes into the folder, joins them in one file"
        )
    for name, description in OTHER_FOLDER_FILES.items():
        if name in names:
            return f"holds {name}: {description}"
    return (
        f"holds neither {' nor '.join(FOLDER_FILES)}, but {join_names(names) or 'nothing'}; if one "
        f"of these files holds the weights, name it in `pattern`"
    )


def _read_file(path: Path) -> object:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error.strerror})") from error
    # safetensors begin with the length of their header in 8 bytes, and the header in JSON
    is_safetensors = head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000
    if not is_safetensors and (description := _describe_kind(path, head)):
        raise CheckpointError(f"checkpoint {path} {description}")
    try:
        if is_safetensors:
            return load_file(path)
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and old storages
            if zipfile.is_zipfile(path) and path.suffix != ".safetensors":
                if part := _damaged_part(path):
                    raise CheckpointError(
                        f"checkpoint {path} is damaged: its part {part} differs from the checksum "
                        f"that was saved with it; copy or download the file again"
                    )
                # unused parts, such as the optimizer's state, take no memory
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as file:  # given a path, torch.load would consider its suffix
                return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"checkpoint {path} {_explain_refusal(path, str(error))}") from error
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointError(f"checkpoint {path} is damaged or truncated ({reason})") from error


def _damaged_part(path: Path) -> str | None:
    """Return a part of an archive that differs from its checksum, which torch does not compare."""
    with zipfile.ZipFile(path) as archive:
        # all are 0 if `torch.serialization.set_crc32_options(False)` was called
        return archive.testzip() if any(part.CRC for part in archive.infolist()) else None


def _describe_kind(path: Path, head: bytes) -> str:
    """Describe a file that is not of torch.save, and say what to do; "" if it may be one."""
    if description := describe_format(head):
        return f"is {description}{_EXPECTED * head.lower().startswith(_OTHER_ARRAYS)}"
    if path.suffix.lower() == ".onnx":
        return f"is an ONNX model{_EXPECTED}"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it first"
    if head.startswith(b"PK"):
        return _describe_archive(path)
    if not head.startswith(b"\x80"):
        return (
            f"is damaged, or not a file of torch.save or safetensors: it begins with {head[:16]!r}"
        )
    if LEGACY in head[:64]:
        return ""
    return (
        f"is a plain pickle, not a file of torch.save; loading it could run code. {_advise(path)}"
    )


def _advise(path: Path) -> str:
    return f"If you trust it, `conceptevo convert {path} --trust` writes its weights alone"


def _describe_archive(path: Path) -> str:
    """Describe a zip archive that is not of torch.save, and say what to do; "" for an archive of
    torch.save and for a truncated one."""
    if not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        names = [name.split("/", 1)[-1] for name in archive.namelist()]
    if any(name.startswith("code/") for name in names):
        return f"is a TorchScript archive, which holds code as well as weights. {_advise(path)}"
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return (
            "is an archive of torch.export; load it with torch.export.load, and save its "
            "state_dict with torch.save"
        )
    if "data.pkl" in names:
        return ""
    kind = "NumPy arrays" if all(n.endswith(".npy") for n in names) and names else "other files"
    return (
        f"is an archive of {kind} ({join_names(names, 3)}), not of torch.save; unpack it if one of "
        f"them is the checkpoint, or save a state_dict() with torch.save"
    )


def _explain_refusal(path: Path, reason: str) -> str:
    """Say why safe loading refused a file: which classes it would run, and what to do."""
    if "Unsupported operand" in reason:
        return (
            f"was pickled in a way (protocol 4 or later) that safe loading does not read. "
            f"{_advise(path)}"
        )
    names: list[str] = []
    with suppress(Exception), torch.serialization.safe_globals(HARMLESS):
        # torch cannot scan files of older formats
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    names = names or re.findall(r"(?:GLOBAL |global |<class ')`?([\w.]+)", reason)[:1]
    if not names:
        lines = reason.rpartition("WeightsUnpickler error:")[2].strip().splitlines() or [reason]
        return f"is damaged, or holds more than weights ({lines[0]})"
    kind = "an object of class" if len(names) == 1 else "objects of the classes"
    return (
        f"holds {kind} {join_names(names)} beside or instead of weights, and is not loaded, since "
        f"loading it could run code. {_advise(path)}"
    )


#: Parts of a pattern of paths -> regular expression.
_EXPRESSIONS = {"**/": "(?:.*/)?", "*": "[^/]*", "{epoch}": r"(?<!\d)(\d+)(?!\d)"}
#: The text before and after digits that are no epoch: the rest of 1.5, 1e3 or 2k.
_BEFORE, _AFTER = r".*\d[.,]", r"[.,]\d|e\d|[kKmM](?![a-zA-Z])"


def match_epochs(folder: Path, pattern: str) -> list[tuple[Path, int | None]]:
    """Return the paths below a folder that match a pattern (see `FolderSource`), sorted, each with
    its epoch; None if it would match with a whole number as epoch, or in other capitals.

    Raises:
        ValueError: the pattern fits a name in several ways, with different epochs.
    """
    pattern = pattern.removeprefix("./").rstrip("/")
    # brackets and question marks have no special meaning in `pattern`, and capitals are compared
    # below, so that no file is left out unnoticed
    literal = re.sub(r"([\[\]?])", r"[\1]", pattern.replace("{epoch}", "*"))
    literal = re.sub("[a-zA-Z]", lambda m: f"[{m[0].lower()}{m[0].upper()}]", literal)
    parts = (part if part == "**" else re.sub(r"\*+", "*", part) for part in literal.split("/"))
    greedy = "".join(
        _EXPRESSIONS.get(part, re.escape(part))
        for part in re.split(r"(\*\*/|\*|\{epoch\})", pattern)
    )
    lazy = greedy.replace(_EXPRESSIONS["*"], _EXPRESSIONS["*"] + "?")
    results: list[tuple[Path, int | None]] = []
    for path in sorted(folder.glob("/".join(parts))):
        name = path.relative_to(folder).as_posix()
        matches = [re.fullmatch(expression, name) for expression in (lazy, greedy)]
        epoch, *others = dict.fromkeys(int(match[1]) if match else None for match in matches)
        if others:
            raise ValueError(
                f"by pattern {pattern!r}, the epoch of {name} may be "
                f"{' or '.join(map(str, (epoch, *others)))}: write what is before or after it"
            )
        is_whole = matches[0] and _is_whole(matches[0], pattern)
        results.append((path, epoch if is_whole else None))
    return results


def _is_whole(match: re.Match[str], pattern: str) -> bool:
    """Return whether the matched digits are a whole number, not a part of a longer one, the rest of
    which a `*` has matched."""
    name, (start, end) = match.string, match.span(1)
    is_rest = "*{epoch}" in pattern and re.fullmatch(_BEFORE, name[:start])
    goes_on = "{epoch}*" in pattern and re.match(_AFTER, name[end:])
    return not (is_rest or goes_on)
