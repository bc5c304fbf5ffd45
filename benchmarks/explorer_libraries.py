"""Which library can draw the explorer's map? Size, frame time, and a policy without eval.

    python benchmarks/explorer_libraries.py     # needs: pip install plotly bokeh; chromium

For each candidate a page with 2,880 and with 100,000 points in five colours is opened in headless
Chromium (software rendering) under `script-src` with hashes alone, and once more with eval allowed
where that fails. Then 40 frames of panning are drawn, each waited for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
PAN = """
async function measured(draw) {
  const started = performance.now();
  for (let i = 0; i < 40; i++) {
    await draw(i / 400);
    await new Promise(requestAnimationFrame);
  }
  return (performance.now() - started) / 40;
}
"""
PLOTLY = """
const C = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"];
const ready = Plotly.newPlot("map", [{type: "scattergl", mode: "markers", x: X, y: Y,
  marker: {size: 5, color: K.map(k => C[k])}}], {width: 900, height: 700, dragmode: "pan"});
const draw = d => Plotly.relayout("map", {"xaxis.range": [d, 1 + d]});
"""
BOKEH = """
const C = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"];
const P = Bokeh.Plotting;
const p = P.figure({width: 900, height: 700, tools: "pan", output_backend: "BACKEND",
  x_range: new Bokeh.Range1d({start: 0, end: 1}), y_range: new Bokeh.Range1d({start: 0, end: 1})});
p.scatter({field: "x"}, {field: "y"}, {size: 5, color: {field: "c"}, line_color: null,
  source: new Bokeh.ColumnDataSource({data: {x: X, y: Y, c: K.map(k => C[k])}})});
const ready = P.show(p, "#map");
const draw = async d => { p.x_range.setv({start: d, end: 1 + d}); };
"""
CANVAS = """
const C = [[0,114,178],[230,159,0],[0,158,115],[213,94,0],[204,121,167]]
  .map(([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0);
const c = document.createElement("canvas"); c.width = 900; c.height = 700;
document.getElementById("map").append(c);
const ctx = c.getContext("2d"), image = ctx.createImageData(900, 700);
const pixels = new Uint32Array(image.data.buffer);
const draw = async d => {
  pixels.fill(0);
  for (let i = 0; i < X.length; i++) {
    const x = Math.round((X[i] - d) * 900), y = Math.round(Y[i] * 700);
    if (x < 2 || y < 2 || x > 897 || y > 697) continue;
    for (let dy = -1; dy < 2; dy++) for (let dx = -1; dx < 2; dx++)
      pixels[(y + dy) * 900 + x + dx] = C[K[i]];
  }
  ctx.putImageData(image, 0, 0);
};
const ready = draw(0);
"""


def library(name: str) -> str:
    if name == "plotly":
        import plotly

        return (Path(plotly.__file__).parent / "package_data/plotly.min.js").read_text("utf-8")
    if name.startswith("bokeh"):
        import bokeh

        folder = Path(bokeh.__file__).parent / "server/static/js"
        files = ["bokeh.min.js", "bokeh-api.min.js"] + ["bokeh-gl.min.js"] * (name == "bokeh webgl")
        return "\n".join((folder / file).read_text("utf-8") for file in files)
    return ""


def page(name: str, points: int, evaluate: bool) -> str:
    rng = np.random.default_rng(0)
    columns = {"X": rng.random(points).round(5), "Y": rng.random(points).round(5)}
    data = {name: column.tolist() for name, column in columns.items()}
    data["K"] = rng.integers(0, 5, points).tolist()
    values = "".join(f"const {key} = {json.dumps(value)};" for key, value in data.items())
    code = {"plotly": PLOTLY, "canvas": CANVAS}.get(
        name, BOKEH.replace("BACKEND", "webgl" if name == "bokeh webgl" else "canvas")
    )
    end = "window.result = (async () => { await ready; window.shown = performance.now(); })();"
    scripts = [library(name), values + code + PAN + end]
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'"
        for s in scripts
    )
    allowed = hashes + " 'unsafe-eval'" * evaluate
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    )
    body = "".join(f"<script>{s}</script>" for s in scripts)
    return (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><div id="map"></div>{body}'
    )


def measure(browser, path: Path) -> dict[str, object]:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    trouble: list[str] = []
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
    started = time.perf_counter()
    tab.goto(path.as_uri())
    try:
        tab.wait_for_function("window.shown", timeout=30_000)
        opened = time.perf_counter() - started
        frame = tab.evaluate("measured(draw)")
        return {"opens, s": round(opened, 2), "frame, ms": round(frame, 1), "trouble": trouble[:1]}
    except Exception as error:  # what a library throws is the result here
        return {"trouble": (trouble or [str(error)])[:1]}
    finally:
        tab.close()


def main() -> None:
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
                  "--enable-unsafe-swiftshader"],
        )  # fmt: skip
        for name in ("plotly", "bokeh canvas", "bokeh webgl", "canvas"):
            print(f"{name}: library {len(library(name)) / 1e6:.2f} MB", flush=True)
            for points in (2880, 100_000):
                for evaluate in (False, True):
                    path = Path(folder) / "page.html"
                    path.write_text(page(name, points, evaluate), encoding="utf-8")
                    result = measure(browser, path)
                    policy = "eval allowed" if evaluate else "strict policy"
                    print(f"  {points:>7,} points, {policy}: {result}", flush=True)
                    if "frame, ms" in result and not result["trouble"]:
                        break
        browser.close()


if __name__ == "__main__":
    main()
