"""Find the state dict of a checkpoint that fits an architecture, and the prefix of its keys.

Keys that fit are used as they are; otherwise the tensors below one prefix are used, if their names
and shapes fit exactly and those below no other prefix do. What was done is logged.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from harness.text import join_names

logger = logging.getLogger(__name__)

#: Keys under which a checkpoint usually holds the trained weights, the likeliest first ("": not
#: nested). Others (averaged weights, a teacher) are used only if they alone fit, or by `key`.
MAIN_KEYS = ("", "model_state_dict", "state_dict", "model", "module", "net", "network", "weights")

#: Parts of names that wrappers insert: torch.compile, FSDP and activation checkpointing; and
#: DataParallel around a part of a network, which inserts `module`. A network may itself use this
#: name, so it is removed only if nothing else fits.
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
ANY_WRAPPERS = WRAPPERS | {"module"}

#: Counters beside the weights: of weight averaging, and of operations (the package thop).
COUNTERS = {"n_averaged", "total_ops", "total_params"}

#: A buffer of batch normalisation that evaluation does not use and some files lack.
UNUSED_IN_EVALUATION = "num_batches_tracked"

DEPTH = 3  # levels of nested dicts that are searched

Tensors = dict[str, Tensor]


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, unsafe, or does not fit its architecture."""


@dataclass(frozen=True)
class Part:
    """Tensors that fit: those below `prefix` in the state dict under `key` ("" for none).

    Attributes:
        tensors: by the architecture's names.
        unused: names of the other tensors of the state dict.
        wrappers: parts that were removed from within names.
    """

    key: str
    prefix: str
    tensors: Tensors
    unused: tuple[str, ...]
    wrappers: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The value of `key` in the configuration that chooses this part."""
        return ".".join(part for part in (self.key, self.prefix.rstrip(".")) if part)


def fill(model: nn.Module, content: object, origin: str, key: str | None = None) -> nn.Module:
    """Load weights into a model, strictly; one error lists everything that does not fit.

    Args:
        origin: names the file in errors.
        key: the state dict, or the part of one, to use; dots separate levels.

    Raises:
        CheckpointError: there is no state dict, none fits, or several different ones do.
    """
    own = model.state_dict()
    expected = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    dicts = dict(state_dicts(content))
    if not dicts:
        raise CheckpointError(f"checkpoint {origin} holds no state dict but {_describe(content)}")
    candidates = dicts if key is None else _select_key(dicts, key, origin)
    fitting = [
        part for name, state in candidates.items() for part in _find_parts(name, state, expected)
    ]
    if not fitting:
        numbered = [name for name, state in candidates.items() if all(n.isdigit() for n in state)]
        if numbered and len(numbered) == len(candidates):
            raise CheckpointError(
                f"checkpoint {origin} holds tensors without names"
                f"{f' ({join_names(numbered, 4)})' * any(numbered)}, as some libraries store "
                f"averaged weights; it is unknown which weights they are: copy them into the "
                f"model, and save its state_dict()"
            )
        raise CheckpointError(
            f"checkpoint {origin} does not fit the architecture{_misfit(candidates, expected)}"
        )
    part = _choose_part(fitting, origin, key)
    _log_choice(part, fitting, expected)
    if others := own.keys() - expected.keys():
        names = join_names(others)
        logger.info("weights: %s, which are no tensors, stay the architecture's", names)
    rest = {name: value for name, value in own.items() if name not in part.tensors}
    try:
        dense = {
            name: tensor if tensor.layout == own[name].layout else tensor.to_dense()
            for name, tensor in part.tensors.items()
        }
        model.load_state_dict(rest | dense)
    except (RuntimeError, NotImplementedError) as error:  # of tensors without numbers (meta)
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"checkpoint {origin} cannot be loaded: {reason}") from error
    return model


def state_dicts(content: object, key: str = "", depth: int = 0) -> Iterator[tuple[str, Tensors]]:
    """Yield (key, state dict) for all in a checkpoint except optimizers and schedulers; the key of
    the checkpoint itself is ""."""
    items = content.state_dict() if isinstance(content, nn.Module) else content
    items = dict(enumerate(items)) if isinstance(items, list | tuple) else items
    if not isinstance(items, Mapping) or _is_optimizer_state(items):
        return
    tensors = {
        str(name): torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in items.items()
        if isinstance(value, Tensor)
        or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")
    }
    if tensors:
        yield key, tensors
    if depth < DEPTH:
        for name, value in items.items():
            if not str(name).startswith(("optim", "lr_sched", "sched")):
                yield from state_dicts(value, f"{key}.{name}" if key else str(name), depth + 1)


def _is_optimizer_state(content: Mapping) -> bool:
    return "param_groups" in content and "state" in content


def _add_shared_names(state: Tensors, expected: Mapping[str, Tensor]) -> Tensors:
    """Add missing names of shared tensors of the architecture; safetensors store each once."""
    whole = dict(state)
    for names in _names_of_storage(expected).values():
        if present := [name for name in names if name in state]:
            whole |= {name: state[present[0]] for name in names if name not in state}
    return whole


def _names_of_storage(expected: Mapping[str, Tensor]) -> dict[tuple, list[str]]:
    """Return the names of each tensor of an architecture; several if it is shared."""
    names: dict[tuple, list[str]] = {}
    for name, tensor in expected.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        names.setdefault(place if tensor.numel() else (name,), []).append(name)
    return names


def _select_key(dicts: Mapping[str, Tensors], key: str, origin: str) -> dict[str, Tensors]:
    """Return the state dict under a key, or the parts of state dicts whose names begin with it."""
    if key in dicts:
        return {key: dicts[key]}
    parts = {}
    for name, state in dicts.items():
        prefix = (key.removeprefix(f"{name}.") if name else key) + "."
        tensors = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        if tensors:
            parts[f"{name}.{prefix}".strip(".")] = tensors
    if not parts:
        raise CheckpointError(
            f"checkpoint {origin} holds no state dict under key = {key!r}; there are: "
            f"{', '.join(name or '(the file itself)' for name in dicts)}"
        )
    return parts


def _find_parts(key: str, state: Tensors, expected: Tensors) -> list[Part]:
    """Return the parts of a state dict that fit exactly: all, or the tensors below a prefix."""
    for wrappers in (set[str](), WRAPPERS, ANY_WRAPPERS):
        names = {
            ".".join(part for part in name.split(".") if part not in wrappers): name
            for name in state
        }
        parts: list[Part] = []
        if len(names) < len(state):  # two names have become equal
            continue
        for prefix in reversed(_find_prefixes(names, expected)):
            others = tuple(part.prefix for part in parts)  # of other complete networks
            tensors = {
                name.removeprefix(prefix): state[original]
                for name, original in names.items()
                if name.startswith(prefix) and not name.startswith(others)
            }
            tensors = _add_shared_names(tensors, expected)
            if not any(_find_problems(tensors, expected)):
                unused = tuple(name for name in names if name.removeprefix(prefix) not in expected)
                own = {name: tensors[name] for name in tensors if name in expected}
                words = {word for name in names.keys() ^ state.keys() for word in name.split(".")}
                removed = tuple(sorted(words & wrappers))
                parts.insert(0, Part(key, prefix, own, unused, removed))
        if parts:
            return parts if parts[0].prefix else parts[:1]
    return []


def _find_prefixes(names: Mapping[str, str], expected: Tensors) -> list[str]:
    """Return all prefixes of one of the architecture's names, the shortest first."""
    unshared = [names[0] for names in _names_of_storage(expected).values() if len(names) == 1]
    candidates = [name for name in unshared or expected if UNUSED_IN_EVALUATION not in name]
    name = max(candidates, key=len, default="")
    if not name:
        return [""]
    prefixes = {n[: -len(name)] for n in names if f".{n}".endswith(f".{name}")}
    return sorted(prefixes, key=lambda prefix: (len(prefix), prefix))


def _find_problems(tensors: Tensors, expected: Tensors) -> Iterator[str]:
    """Yield the reasons why tensors do not fit an architecture."""
    for name in expected:
        if name not in tensors and not name.endswith(UNUSED_IN_EVALUATION):
            yield f"missing {name}"
    for name in tensors:
        if name not in expected and name.rpartition(".")[2] not in COUNTERS:
            yield f"unexpected {name}"
    pairs = [(name, tensors[name], value) for name, value in expected.items() if name in tensors]
    for name, tensor, value in pairs:
        if tensor.shape != value.shape:
            yield f"{name} has shape {tuple(tensor.shape)} instead of {tuple(value.shape)}"
    for name, tensor, value in pairs:
        if not name.endswith(UNUSED_IN_EVALUATION) and not _can_convert(tensor, value):
            yield f"{name} has type {tensor.dtype} instead of {value.dtype}"
    for names in _names_of_storage(expected).values():
        present = [tensors[name] for name in names if name in tensors]
        if names[0] in tensors and not all(torch.equal(other, present[0]) for other in present[1:]):
            joined = " and ".join(names)
            yield f"{joined} are one tensor in the architecture, but differ in the file"


def _can_convert(tensor: Tensor, expected: Tensor) -> bool:
    """Return whether numbers keep their meaning; integers as weights are codes (quantised)."""
    if tensor.is_floating_point() != expected.is_floating_point() or tensor.is_quantized:
        return False
    return expected.is_floating_point() or torch.can_cast(tensor.dtype, expected.dtype)


def _choose_part(fitting: list[Part], origin: str, key: str | None) -> Part:
    """Return the part to use. Raises CheckpointError if several likely parts differ."""
    candidates = fitting
    if key is None:
        by_key = ([part for part in fitting if part.key == name] for name in MAIN_KEYS)
        candidates = next(filter(None, by_key), fitting)
    first = candidates[0]
    if all(_are_equal(first, other) for other in candidates[1:]):  # one module under two names
        return first
    names = ", ".join(part.address for part in candidates)
    raise CheckpointError(
        f"checkpoint {origin} holds several state dicts ({names}) that fit and differ: choose one, "
        f'e.g. key = "{first.address}"'
    )


def _are_equal(one: Part, other: Part) -> bool:
    return all(
        name in other.tensors and torch.equal(tensor, other.tensors[name])
        for name, tensor in one.tensors.items()
    )


def _log_choice(part: Part, fitting: list[Part], expected: Tensors) -> None:
    remarks = []
    if part.key:
        remarks.append(f"state dict {part.key!r}")
    if part.prefix:
        remarks.append(f"prefix {part.prefix!r} removed")
    if part.wrappers:
        remarks.append(f"{', '.join(map(repr, part.wrappers))} removed within names")
    if part.unused:
        remarks.append(f"other tensors not used: {join_names(part.unused, 3)}")
    if others := [other.address for other in fitting if other is not part]:
        remarks.append(f"{join_names(others, 4)} would fit, too (choose by `key`)")
    if any(
        tensor.dtype == torch.float64 and expected[name].dtype == torch.float32
        for name, tensor in part.tensors.items()
    ):
        remarks.append("numbers of type float64 rounded to float32")
    if remarks:
        logger.info("weights: %s", "; ".join(remarks))


def _misfit(dicts: Mapping[str, Tensors], expected: Tensors) -> str:
    """Describe the misfits of the state dict and prefix that fit best."""
    matches = [_best_prefix(name, state, expected) for name, state in dicts.items()]
    _, name, prefix = max(matches, key=lambda match: match[0])
    tensors = {n.removeprefix(prefix): t for n, t in dicts[name].items() if n.startswith(prefix)}
    problems = list(_find_problems(tensors, expected))
    location = [f"state dict {name!r}"] * bool(name) + [f"prefix {prefix!r}"] * bool(prefix)
    where = f" ({', '.join(location)})" if location else ""
    more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
    others = [other or "(the file itself)" for other in dicts if other != name]
    also = f"; others do not fit, either: {join_names(others, 4)}" if others else ""
    return (
        f"{where}: {'; '.join(problems[:8])}{more}{also}{_hint(tensors, expected, len(problems))}"
    )


def _hint(tensors: Tensors, expected: Tensors, count: int) -> str:
    """Say what to do if only the head (at most a weight and a bias) has another size."""
    heads = {
        (tensors[name].shape[0], expected[name].shape[0])
        for name in expected
        if name in tensors
        and tensors[name].dim() > 0
        and tensors[name].shape != expected[name].shape
        and tensors[name].shape[1:] == expected[name].shape[1:]
    }
    if len(heads) != 1 or count > 2:
        return _remedy(tensors, expected)
    size, own_size = heads.pop()
    return (
        f". If this is the output layer, it was trained with {size} outputs, not {own_size}: set "
        f"outputs = {size} in the series, and class_outputs to the output of each class"
    )


#: Parts of names of tensors from which weights are computed, and of weights added to others.
_COMPUTED = ("weight_orig", "weight_mask", "weight_g", "weight_v", "parametrizations")
_ADDED = ("lora_", "adapter")


def _remedy(tensors: Tensors, expected: Tensors) -> str:
    """Say what to do if the names of a state dict differ from an architecture's."""
    unknown = [name for name in tensors if name not in expected]
    if any(part in name for name in unknown for part in _ADDED):
        return ". It holds an adapter's weights: merge them into the network, and save its weights"
    if any(part in name for name in unknown for part in _COMPUTED):
        return (
            ". Its weights are computed from others (pruning, weight or spectral norm): build the "
            "architecture with the same operations, or remove these before the weights are saved "
            "(prune.remove, remove_parametrizations)"
        )
    return (
        ". `architecture` must build the network that was trained, with the same names and sizes: "
        "no tensor may be missing or unexpected"
    )


def _best_prefix(key: str, state: Tensors, expected: Tensors) -> tuple[int, str, str]:
    """Return how many of the architecture's names a state dict holds below its best prefix, the
    state dict's key, and that prefix."""
    prefixes = Counter(
        name[: -len(own)] for name in state for own in expected if f".{name}".endswith(f".{own}")
    )
    if prefixes[""] == len(expected) or not prefixes:
        return prefixes[""], key, ""
    prefix, count = prefixes.most_common(1)[0]
    return count, key, prefix


def _describe(content: object) -> str:
    kind = type(content).__name__
    if isinstance(content, Mapping):
        names = [str(name) for name in content]
        kind = f"a dict of {json.dumps(names[:8])}" if names else "an empty dict"
        if _is_optimizer_state(content):
            kind = "the state of an optimizer, which some libraries write beside the weights' file"
    keys = ", ".join(MAIN_KEYS[1:4])
    return f"{kind}; expected a dict of tensors, itself or under one of the keys {keys}"
