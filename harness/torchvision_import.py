"""Import torchvision also beside a build of torch for which its C++ operators cannot be loaded."""

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

#: Keeps the objects that declare operators, as declarations end with them.
_LIBRARIES: list[Any] = []


def call_with_torchvision(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that imports torchvision, or a library that does (timm); return its result.

    A CPU build of torch beside the ordinary torchvision wheel cannot load torchvision's C++
    operators, and importing it fails on two operators that lack a schema. Models need neither,
    so the schemas alone are declared, and only when the plain import has failed; then the
    function is called again.
    """
    try:
        return function(*arguments)
    except Exception as error:
        # transformers imports its modules late, and raises another error from that of torchvision
        if _LIBRARIES or not any("operator torchvision::" in str(e) for e in _causes(error)):
            raise
        _declare_operators()
        return function(*arguments)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _declare_operators() -> None:
    torch: Any = sys.modules["torch"]  # torchvision has just imported it
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # modules that the failed import left incomplete
    library = torch.library.Library("torchvision", "DEF")
    boxes = "Tensor dets, Tensor scores, float iou_threshold"
    library.define(f"nms({boxes}) -> Tensor")
    library.define(f"qnms({boxes}) -> Tensor")
    _LIBRARIES.append(library)
