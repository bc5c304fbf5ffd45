"""The built-in tasks: one file each; every file in this folder is registered."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from tasks.base import TASKS, Tasks


@cache
def all_tasks() -> Tasks:
    """Return the registry, with every task of this folder in it.

    A study may also name a user's own task, as 'package.module:attribute'.
    """
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return TASKS
