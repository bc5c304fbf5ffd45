"""Measure the explorer with many neurons: a synthetic run is opened, panned and moved in time.

    python benchmarks/explorer_scale.py [--neurons 100000] [--checkpoints 8] [--classes 10]

Uses headless Chromium with software rendering. Prints the file's size, the seconds until the page
is ready, the frames per second while panning, and the seconds for a step of the slider and for
another colour. The synthetic run has positions, concepts, overlaps, one stimulus per neuron, and
importance.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from analysis.explorer.columns import floats, ints
from analysis.explorer.page import page

CHANNELS = 500


def synthetic(units: int, checkpoints: int, class_count: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    layers, count = units // CHANNELS, units * checkpoints
    centres = rng.normal(size=(40, 2)) * 8
    concept = np.tile(rng.integers(0, 40, units), checkpoints)
    places = centres[concept] + rng.normal(size=(count, 2))
    classes = [f"class {i}" for i in range(class_count)]
    scores = rng.random(len(classes) * units)
    return {
        "run": f"synthetic {units} x {checkpoints}", "space": "sgns", "overlap": 0.04,
        "base": {"series": "a", "epoch": checkpoints - 1},
        "series": ["a"], "epochs": {"a": list(range(checkpoints))}, "classes": classes,
        "views": [(64, 64)],
        "layers": [
            {"series": 0, "name": f"layer.{i}", "channels": CHANNELS,
             "depth": i / max(1, layers - 1), "side": 32, "view": 0}
            for i in range(layers)
        ],
        "units": {"layer": ints(np.repeat(np.arange(layers), CHANNELS)),
                  "channel": ints(np.tile(np.arange(CHANNELS), layers))},
        "concepts": [f"concept {i:02d}" for i in range(40)], "hasConcepts": True,
        "neurons": {
            "unit": ints(np.tile(np.arange(units), checkpoints)),
            "epoch": ints(np.repeat(np.arange(checkpoints), units)),
            "x": floats(places[:, 0]), "y": floats(places[:, 1]), "concept": ints(concept),
            "overlap": floats(rng.random(count)), "coverage": floats(np.ones(count)),
            "moved": floats(rng.random(count)),
        },
        "neighbours": [],
        "stimuli": {"each": 1, "image": ints(np.zeros(count)), "top": ints(np.zeros(count)),
                    "left": ints(np.zeros(count)), "activation": floats(np.ones(count))},
        "pairs": [{"series": 0, "from": 1, "to": checkpoints - 1}], "methods": ["sign_t"],
        "scored": ints(range(len(classes))), "leftOut": "",
        "importance": [{"pair": 0, "method": 0, "first": 0, "units": units, "score": floats(scores),
                        "error": floats(scores / 9), "rank": ints(np.zeros(len(scores))),
                        "images": 25}],
        "steps": 8, "bins": [], "outcomes": None, "alignment": [], "identity": [],
        "checkpoints": [], "training": [], "people": None, "sheets": [],
    }  # fmt: skip


PAN = """async () => {
  const started = performance.now();
  for (let i = 1; i <= 40; i++) {
    await Plotly.relayout("map", {"xaxis.range": BOUNDS.x.map(v => v + i / 20)});
    await new Promise(requestAnimationFrame);
  }
  return 40000 / (performance.now() - started);
}"""
STEP = """async (values) => {
  const started = performance.now();
  change(values);
  await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame);
  return (performance.now() - started) / 1000;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neurons", type=int, default=100_000)
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="keep the page in this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = options.keep or Path(folder) / "page.html"
        data = synthetic(options.neurons, options.checkpoints, options.classes)
        path.write_text(page(data), encoding="utf-8")
        print(f"{options.neurons:,} neurons x {options.checkpoints}, {options.classes} classes: "
              f"{path.stat().st_size / 1e6:.1f} MB")  # fmt: skip
        browser = driver.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
                  "--enable-unsafe-swiftshader"],
        )  # fmt: skip
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.on("pageerror", lambda error: print("error:", error))
        started = time.perf_counter()
        tab.goto(path.resolve().as_uri())
        tab.wait_for_selector("body[data-ready=yes]", timeout=120_000)
        print(f"ready after {time.perf_counter() - started:.1f} s")
        print(f"panning: {tab.evaluate(PAN):.1f} frames per second")
        for name, values in {
            "a step in time": {"epoch": 2},
            "colour by displacement": {"colour": "moved"},
            "colour by importance": {"colour": "importance"},
            "a neuron": {"unit": 7},
        }.items():
            print(f"{name}: {tab.evaluate(STEP, values):.2f} s")
        browser.close()


if __name__ == "__main__":
    main()
