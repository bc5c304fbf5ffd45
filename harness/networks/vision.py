"""torchvision's models, also beside a torch build whose partner wheel does not fit."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def torchvision_models() -> ModuleType:
    """`torchvision.models`, imported.

    A CPU build of torch beside the ordinary torchvision wheel cannot load torchvision's C++
    operators, and importing it fails on two operators that lack a schema. Models need neither,
    so the schemas alone are declared, and only when the plain import has failed.
    """
    try:
        import torchvision.models
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare_operators()
        import torchvision.models
    return torchvision.models


#: Declarations live as long as the object that made them.
_LIBRARIES: list[Any] = []


def _declare_operators() -> None:
    import sys

    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left half made
    library = torch.library.Library("torchvision", "DEF")
    boxes = "Tensor dets, Tensor scores, float iou_threshold"
    library.define(f"nms({boxes}) -> Tensor")
    library.define(f"qnms({boxes}) -> Tensor")
    _LIBRARIES.append(library)
