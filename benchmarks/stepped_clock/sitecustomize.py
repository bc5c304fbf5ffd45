"""Gives the store a clock that can be set, in every Python process with this folder on its path.

$STEPPED_CLOCK names a file that holds by how many seconds it is off (see survey_faults.Clock).
The store is the only part of the survey that asks for the time of day.
"""

import os
import sys
from datetime import datetime, timedelta
from importlib.abc import MetaPathFinder
from importlib.util import find_spec


class SteppedDatetime(datetime):
    @classmethod
    def now(cls, tz=None):
        with open(os.environ["STEPPED_CLOCK"], encoding="ascii") as file:
            return datetime.now(tz) + timedelta(seconds=float(file.read()))


class Hook(MetaPathFinder):
    """Changes the store's clock as soon as the store is imported."""

    def find_spec(self, name, path, target=None):
        if name != "survey_app.store":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module) -> None:
            execute(module)
            module.datetime = SteppedDatetime

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Hook())
