"""Say how the tensors of a checkpoint differ from those of an architecture, and what to do."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]

#: Counters beside the weights: of weight averaging, and of operations (the package thop).
COUNTERS = {"n_averaged", "total_ops", "total_params"}

#: A buffer of batch normalisation that evaluation does not use and some files lack.
UNUSED_IN_EVALUATION = "num_batches_tracked"


def names_of_storage(expected: Mapping[str, Tensor]) -> dict[tuple, list[str]]:
    """Return the names of each tensor of an architecture; several if it is shared."""
    names: dict[tuple, list[str]] = {}
    for name, tensor in expected.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        names.setdefault(place if tensor.numel() else (name,), []).append(name)
    return names


def find_problems(tensors: Tensors, expected: Tensors) -> Iterator[str]:
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
        if is_composed(tensor):
            yield f"{name} is of class {type(tensor).__name__}"
        elif not name.endswith(UNUSED_IN_EVALUATION) and not _can_convert(tensor, value):
            yield f"{name} has type {tensor.dtype} instead of {value.dtype}"
    for names in names_of_storage(expected).values():
        present = [tensors[name] for name in names if name in tensors]
        if names[0] in tensors and not all(torch.equal(other, present[0]) for other in present[1:]):
            joined = " and ".join(names)
            yield f"{joined} are one tensor in the architecture, but differ in the file"


#: What to do about weights that are split between processes.
ADVICE_ON_PIECES = (
    "save the whole ones: torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True)), called in all processes, returns them"
)


def is_composed(tensor: Tensor) -> bool:
    """Return whether a tensor is computed from others (quantised) or a piece of one (FSDP)."""
    return type(tensor) not in (Tensor, nn.Parameter)


def _can_convert(tensor: Tensor, expected: Tensor) -> bool:
    """Return whether numbers keep their meaning; integers as weights are codes (quantised)."""
    if tensor.is_floating_point() != expected.is_floating_point() or tensor.is_quantized:
        return False
    return expected.is_floating_point() or torch.can_cast(tensor.dtype, expected.dtype)


def suggest_remedy(tensors: Tensors, expected: Tensors, count: int) -> str:
    """Say what to do about a number of problems; often only the head (at most a weight and a bias)
    has another size or is missing."""
    heads = {
        (tensors[name].shape[0], expected[name].shape[0])
        for name in expected
        if name in tensors
        and min(tensors[name].dim(), expected[name].dim()) > 0
        and tensors[name].shape != expected[name].shape
        and tensors[name].shape[1:] == expected[name].shape[1:]
    }
    missing = [name for name in expected if name not in tensors]
    if count <= 2 and count == len(missing) and len({n.rpartition(".")[0] for n in missing}) == 1:
        return (
            ". If this is the output layer, the file is of an encoder: let `architecture` build "
            "the network without it, and set an `objective` for encoders"
        )
    if missing and all(name.lower().startswith("aux") for name in missing):
        return (
            ". The network was trained without auxiliary classifiers: let `architecture` name a "
            "function of your own that builds it without them (in torchvision: aux_logits=False)"
        )
    if len(heads) != 1 or count > 2:
        return _remedy(tensors, expected)
    size, own_size = heads.pop()
    return (
        f". If this is the output layer, it was trained with {size} outputs, not {own_size}: set "
        f"outputs = {size} in the series, and class_outputs to the output of each class"
    )


#: Parts of names of tensors from which weights are computed, of those of quantised weights, and of
#: weights added to others.
_COMPUTED = ("weight_orig", "weight_mask", "weight_g", "weight_v", "parametrizations")
_QUANTISED = ("_packed_params", "zero_point", "weight_scale", "SCB", "absmax", "quant_state")
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
    if any(type(tensor).__name__ == "DTensor" for tensor in tensors.values()):
        return f". They are split between processes (FSDP): {ADVICE_ON_PIECES}"
    known = [(tensors[name], value) for name, value in expected.items() if name in tensors]
    if any(value.numel() and not tensor.numel() for tensor, value in known):
        return (
            ". Those of shape (0,) are split between processes (DeepSpeed): `python "
            "zero_to_fp32.py FOLDER FILE`, a script that DeepSpeed writes beside them, joins them"
        )
    are_codes = any(is_composed(pair[0]) or not _can_convert(*pair) for pair in known)
    if are_codes or any(part in name for name in unknown for part in _QUANTISED):
        return ". If its weights are quantised, use those from before they were"
    return (
        ". `architecture` must build the network that was trained, with the same names and sizes: "
        "no tensor may be missing or unexpected; files that need a conversion can be loaded by a "
        'function of your own, source = "function"'
    )
