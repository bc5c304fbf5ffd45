"""Fixtures that tests of several files share."""

import gc

import pytest
import quick_figures  # noqa: F401 - from here on
import torch
from browsers import CHROMIUM, FLAGS, NO_BROWSER
from network_pairs import make, perturbed

import analysis.benchmark.report
import analysis.study.pipeline  # noqa: F401
import conceptevo.api  # noqa: F401 - with those above, everything built in is registered
from analysis.exhibits import shelf
from harness.networks.architectures import ARCHITECTURES
from harness.networks.layers import find_layers
from harness.registry import Registry


def pytest_collection_modifyitems(items):
    """Alternate the files of the survey, which often wait for a browser, with those that compute,
    so that the processes always use the cores."""
    files = dict.fromkeys(item.path for item in items)
    place = {}
    for folder in {path.parent for path in files}:
        own = [path for path in files if path.parent == folder]
        place |= {path: number / len(own) for number, path in enumerate(own)}
    items.sort(key=lambda item: place[item.path])


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip(NO_BROWSER)
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def registries():
    """Remove what a test registers after the test, so that no other test finds it."""
    registries = [thing for thing in gc.get_objects() if type(thing) is Registry]
    shelves = [*(registry._plugins for registry in registries), shelf._exhibits]
    before = [dict(names) for names in shelves]
    yield
    for names, kept in zip(shelves, before, strict=True):
        names.clear()
        names.update(kept)


@pytest.fixture(params=["in_place", "data_dependent", *ARCHITECTURES])
def pair(request):
    """Return the older and newer checkpoint of a network, its layers, and six images."""
    model, view, names = make(request.param)
    newer = perturbed(model, 1)
    older = perturbed(newer, 2)
    layers = find_layers(newer, view, names)
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(6, 3, view.crop, view.crop, generator=generator)
    return older.eval(), newer.eval(), layers, images
