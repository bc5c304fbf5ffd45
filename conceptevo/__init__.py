"""ConceptEvo Harness: which concepts neurons learn, how these evolve, and whether they matter.

    import conceptevo as ce

The names below import torch when they are first used, so that a survey's host does not need it.
"""
# ruff: noqa: F405 - the listed names are those of `conceptevo.api`

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conceptevo.api import *  # noqa: F403

__all__ = [
    "Ablated",
    "Arms",
    "Checkpoint",
    "Evidence",
    "Images",
    "Neuron",
    "Probed",
    "Recorder",
    "Result",
    "Scores",
    "Series",
    "Space",
    "View",
    "ablate",
    "importance",
    "load",
    "probe",
    "space",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'conceptevo' has no attribute {name!r}")
    try:
        return getattr(import_module("conceptevo.api"), name)
    except ModuleNotFoundError as error:
        if error.name in ("analysis", "tasks", "harness") or "analysis" in str(error):
            raise ModuleNotFoundError(
                f"{error}: a folder of yours named analysis, tasks or harness is imported instead "
                f"of ours; rename it, or start Python in another folder"
            ) from error
        raise


def __dir__() -> list[str]:
    return __all__
