"""Find the state dict of a checkpoint that fits an architecture, and the prefix of its keys.

Keys that fit are used as they are; otherwise the tensors below one prefix are used, if their names
and shapes fit exactly and those below no other prefix do. What was done is logged.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from harness.networks.misfits import (
    UNUSED_IN_EVALUATION,
    Tensors,
    find_problems,
    names_of_storage,
    suggest_remedy,
)
from harness.networks.transformers_names import own_names
from harness.networks.wrappers import copy_network
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

DEPTH = 3  # levels of nested dicts that are searched


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
    stored = candidates = dicts if key is None else _select_key(dicts, key, origin)
    fitting = _find_all(candidates, expected)
    if not fitting:
        candidates = _rename(model, candidates, expected)
        if fitting := _find_all(candidates, expected):
            logger.info("weights: converted from other names by the network's own code")
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
    _log_choice(part, fitting, expected, stored[part.key])
    if others := own.keys() - expected.keys():
        names = join_names(others)
        logger.info("weights: %s, which are no tensors, stay the architecture's", names)
    try:
        dense = {
            name: tensor if tensor.layout == own[name].layout else tensor.to_dense()
            for name, tensor in part.tensors.items()
        }
        own.update(dense)  # it holds the versions of the modules, too, which some ask for
        model.load_state_dict(own)
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
    for names in names_of_storage(expected).values():
        if present := [name for name in names if name in state]:
            whole |= {name: state[present[0]] for name in names if name not in state}
    return whole


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


def _rename(
    model: nn.Module, candidates: Mapping[str, Tensors], expected: Tensors
) -> dict[str, Tensors]:
    """Return state dicts in which the tensors below the best prefix have the network's names."""
    renamed = {}
    for key, state in candidates.items():
        _, _, prefix = _best_prefix(key, state, expected)
        tensors = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        others = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
        values = _load_by_itself(model, own_names(model, tensors), expected)
        renamed[key] = others | {prefix + name: tensor for name, tensor in values.items()}
    return renamed


def _load_by_itself(model: nn.Module, state: Tensors, expected: Tensors) -> Tensors:
    """Return a state dict by the network's names if its own code takes other ones, such as those of
    the former weight norm in torch; else unchanged."""
    try:
        trial = copy_network(model)
        trial.load_state_dict(state)
    except Exception:  # raised by torch, or by the network's own code
        return state
    converted = {n: t for n, t in trial.state_dict().items() if isinstance(t, Tensor)}
    # torch converts types and takes shared tensors that differ; those are checked as in the file
    return converted | {name: tensor for name, tensor in state.items() if name in expected}


def _find_all(candidates: Mapping[str, Tensors], expected: Tensors) -> list[Part]:
    return [part for key, state in candidates.items() for part in _find_parts(key, state, expected)]


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
            if not any(find_problems(tensors, expected)):
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
    unshared = [names[0] for names in names_of_storage(expected).values() if len(names) == 1]
    candidates = [name for name in unshared or expected if UNUSED_IN_EVALUATION not in name]
    name = max(candidates, key=len, default="")
    if not name:
        return [""]
    prefixes = {n[: -len(name)] for n in names if f".{n}".endswith(f".{name}")}
    return sorted(prefixes, key=lambda prefix: (len(prefix), prefix))


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


def _float_types(tensors: Iterable[Tensor]) -> set[str]:
    return {str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()}


def _log_choice(part: Part, fitting: list[Part], expected: Tensors, state: Tensors) -> None:
    """Log how the weights were found; `state` is the state dict as it is in the file."""
    others = [other.address for other in fitting if other is not part]
    stored = _float_types(tensor for name, tensor in state.items() if name not in part.unused)
    own = _float_types(expected.values())
    types = (join_names(sorted(names)) for names in (stored - own, own))
    remarks = {
        f"state dict {part.key!r}": part.key,
        f"prefix {part.prefix!r} removed": part.prefix,
        f"{', '.join(map(repr, part.wrappers))} removed within names": part.wrappers,
        f"other tensors not used: {join_names(part.unused, 3)}": part.unused,
        f"{join_names(others, 4)} would fit, too (choose by `key`)": others,
        "numbers of type {} converted to {}".format(*types): stored - own,
    }
    if texts := [text for text, applies in remarks.items() if applies]:
        logger.info("weights: %s", "; ".join(texts))


def _misfit(dicts: Mapping[str, Tensors], expected: Tensors) -> str:
    """Describe the misfits of the state dict and prefix that fit best."""
    matches = [_best_prefix(name, state, expected) for name, state in dicts.items()]
    _, name, prefix = max(matches, key=lambda match: match[0])
    tensors = {n.removeprefix(prefix): t for n, t in dicts[name].items() if n.startswith(prefix)}
    problems = list(find_problems(tensors, expected))
    location = [f"state dict {name!r}"] * bool(name) + [f"prefix {prefix!r}"] * bool(prefix)
    where = f" ({', '.join(location)})" if location else ""
    more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
    others = [other or "(the file itself)" for other in dicts if other != name]
    also = f"; others do not fit, either: {join_names(others, 4)}" if others else ""
    remedy = suggest_remedy(tensors, expected, len(problems))
    return f"{where}: {'; '.join(problems[:8])}{more}{also}{remedy}"


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
