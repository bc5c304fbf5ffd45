"""Make the three pictures of the README from a demo run: explorer, survey page, figure.

python docs/pictures.py runs/demo      # needs chromium; writes docs/pictures/*.webp
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from analysis.explorer.data import Source
from analysis.explorer.page import write_explorer
from harness.artifacts import Run
from harness.files import whole_file

FOLDER = Path(__file__).parent / "pictures"
WIDEST, LARGEST = 1280, 150_000  # pixels, bytes
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished `conceptevo demo`")
    run = Run(parser.parse_args().run)
    (study,) = [path.parent for path in run.root.glob("study-*/study.json")]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=FLAGS
        )
        save("explorer", explorer(browser, run, study / "results"))
        save("survey", survey(browser, study))
        browser.close()
    save("results", (study / "results" / "figures" / "study_accuracy.png").read_bytes())


def explorer(browser: Browser, run: Run, results: Path) -> bytes:
    """The neuron with a concept at the end that has the largest displacement, and its trail."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "explore.html"
        write_explorer(run, page, results)
        epoch = max(Source(run).space.neurons["epoch"])
        tab = browser.new_page(viewport={"width": 1280, "height": 860})
        tab.goto(f"{page.as_uri()}#epoch={epoch}")
        tab.wait_for_selector("body[data-ready=yes]")
        tab.evaluate(
            "change({unit: mostMoved().find(u => [STATE.epoch, DEFAULTS.epoch]"
            ".every(e => rowAt(u, e) >= 0 && conceptOf(rowAt(u, e)))), trails: 5})"
        )
        tab.wait_for_timeout(1500)
        return tab.screenshot()


def survey(browser: Browser, study: Path) -> bytes:
    """The first trial with pictures to choose from."""
    command = [sys.executable, "-m", "conceptevo", "survey", str(study), "--preview", "--port", "0"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
    )  # fmt: skip
    try:
        assert server.stdout is not None
        text = ""
        for line in server.stdout:
            text += line
            if address := re.search(r"http://[\d.]+:\d+", text):
                break
        else:
            raise RuntimeError(f"the survey did not start: {text}")
        tab = browser.new_page(viewport={"width": 1040, "height": 660})
        for number in range(1, 80):
            tab.goto(f"{address[0]}/?page=trial%20{number}")
            tab.wait_for_selector(".survey h1")
            if tab.locator(".survey label img").count():
                tab.wait_for_timeout(2000)
                return tab.screenshot()
        raise RuntimeError("no trial with pictures to choose from")
    finally:
        server.terminate()
        server.wait(timeout=30)


def save(name: str, picture: bytes) -> None:
    """Save as WebP, at most WIDEST pixels wide, in the highest quality below LARGEST bytes.

    Raises:
        ValueError: the file is too large at every quality.
    """
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    if image.width > WIDEST:
        height = round(image.height * WIDEST / image.width)
        image = image.resize((WIDEST, height), Image.Resampling.LANCZOS)
    for quality in (85, 70, 55, 40):
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality, method=6)
        if buffer.tell() < LARGEST:
            break
    else:
        raise ValueError(f"{name} is larger than {LARGEST} bytes at any quality")
    with whole_file(FOLDER / f"{name}.webp") as temporary:
        temporary.write_bytes(buffer.getvalue())
    print(f"{FOLDER / name}.webp: {image.width} x {image.height}, {buffer.tell() / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
