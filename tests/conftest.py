"""Fixtures that tests of several files share."""

import gc

import pytest

import analysis.benchmark.report
import analysis.study.pipeline  # noqa: F401
import conceptevo.api  # noqa: F401 - with those above, everything built in is registered
from analysis.exhibits import shelf
from harness.registry import Registry


@pytest.fixture
def registries():
    """What a test registers is gone after it, so that no other test finds it."""
    registries = [thing for thing in gc.get_objects() if type(thing) is Registry]
    shelves = [*(registry._plugins for registry in registries), shelf._exhibits]
    before = [dict(names) for names in shelves]
    yield
    for names, kept in zip(shelves, before, strict=True):
        names.clear()
        names.update(kept)
