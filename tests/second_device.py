"""A simulated second device, for machines without a GPU.

Its tensors are held in main memory, and every operation is that of the CPU. As on a GPU, operations
that mix its tensors with those of the CPU fail, and its tensors do not become numpy arrays. As on
Apple's GPUs, there is no double precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "simulated"  # torch adds methods of this name to tensors and modules
PLACE = f"{NAME}:0"
_aten = torch.ops.aten
#: Operations that copy from one device to another.
_COPYING = {_aten.copy_.default, _aten._to_copy.default}
#: Operations whose second argument, the indices, may be on the CPU.
_INDEXING = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}
_setup_privateuseone_for_python_backend(NAME)


class Held(Tensor):
    """A tensor on the second device; `raw` is its tensor in main memory."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Held:
        if raw.dtype == torch.float64:
            raise TypeError(f"{NAME} has no float64")
        held = Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(PLACE),
        )
        held.raw = raw
        return held

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def tolist(self) -> Any:
        return self.raw.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        twin = Held(self.raw.detach().clone()).requires_grad_(self.requires_grad)
        twin._is_param = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), twin)

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.raw.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """Makes new tensors on the second device where they are asked for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if _is_second(kwargs.get("device")) or any(issubclass(kind, Held) for kind in types):
            return _compute(function, args, kwargs)
        return function(*args, **kwargs)


def _is_second(place: Any) -> bool:
    return place is not None and torch.device(place).type == NAME


def _compute(function, args, kwargs):
    def raw(value):
        return value.raw if isinstance(value, Held) else value

    indexes = function in _INDEXING and isinstance(args[0], Held)
    bound = (args[0], args[2:]) if indexes else (args, kwargs)
    tensors = [value for value in tree_leaves(bound) if isinstance(value, Tensor)]
    places = {value.device.type for value in tensors if value.dim()}  # numbers go everywhere
    if len(places) > 1 and function not in _COPYING:
        raise RuntimeError(f"{function}: all tensors must be on one device, got {sorted(places)}")
    place = kwargs.get("device")
    moved = kwargs if place is None else {**kwargs, "device": torch.device("cpu")}
    result = function(*tree_map(raw, args), **tree_map(raw, moved))
    if place is not None and not _is_second(place):
        return result
    result = tree_map(lambda value: Held(value) if isinstance(value, Tensor) else value, result)
    return return_and_correct_aliasing(function, args, kwargs, result) if place is None else result
