"""People at a real browser, for tests: desktop and phone, mouse and keyboard.

Skipped, loudly, where there is no Chromium.
"""

import json
import os
from pathlib import Path

import pytest
from browsers import CHROMIUM, NO_BROWSER
from people import arrive, go
from sqlalchemy import select

from survey_app.flow import Stage
from survey_app.schema import identities, responses
from survey_app.service import Service
from survey_app.store import Store

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
SHOTS = os.environ.get("SURVEY_SHOTS")  # a folder, where pictures of the pages are wanted
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SUBMIT = ".survey form button[type=submit]"
CHOICES = ".survey fieldset:has(input[type=radio])"
TEXTS = ".survey :is(input[type=text], textarea)"
FIND = """() => { const walk = (n) => { for (const e of n.querySelectorAll('*')) {
  if (e.matches('.survey')) return e;
  const f = e.shadowRoot && walk(e.shadowRoot); if (f) return f; } };
  return walk(document); }"""


class Visitor:
    """A person at a browser."""

    def __init__(self, browser, address: str, size=DESKTOP, context=None) -> None:
        self.context = context or browser.new_context(viewport=size)
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.route("https://app.prolific.com/**", lambda route: route.fulfill(body="prolific"))
        self.page.goto(address)
        self.armed()

    def armed(self) -> None:
        self.page.wait_for_selector(".survey[data-armed=yes]", timeout=20_000)

    @property
    def stage(self) -> str:
        return self.page.locator(".survey").get_attribute("data-stage")

    @property
    def version(self) -> int:
        return int(self.page.locator(".survey").get_attribute("data-version"))

    def moved(self, version: int) -> None:
        self.page.wait_for_function(
            f"v => +({FIND})().dataset.version > v", arg=version, timeout=30_000
        )
        self.armed()

    def answer(self, move_on: bool = True) -> None:
        """Answer the page by mouse and go on."""
        before = self.version
        if self.stage == "consent":
            self.page.click("button[value=yes]")
        else:
            self.fill()
            self.page.locator(SUBMIT).click()
        if move_on:
            self.moved(before)

    def fill(self) -> None:
        for group in self.page.locator(CHOICES).all():
            group.locator("label").first.click()
        for box in self.page.locator(f"{TEXTS}:not([inputmode]):visible").all():
            box.fill("red <b>wheel</b>")

    def answer_by_keys(self) -> None:
        """Answer the page with the keyboard alone: digits, Tab, typing, Enter."""
        before, keyboard = self.version, self.page.keyboard
        if self.stage == "consent":
            for _ in range(12):
                keyboard.press("Tab")
                if self.focused("value") == "yes":
                    break
            keyboard.press("Enter")
        else:
            for _ in range(60 if self.page.locator(TEXTS).count() else 0):
                keyboard.press("Tab")
                kind = self.focused("type", True)
                if kind in ("text", "textarea") and not self.focused("value", True):
                    keyboard.type("stripes")
                if kind == "submit":
                    break
            for group in self.page.locator(CHOICES).all():
                keyboard.press(group.locator("input").nth(1).get_attribute("data-key"))
            keyboard.press("Enter")
        self.moved(before)

    def focused(self, name: str, own: bool = False):
        read = f"e.{name}" if own else f"e.getAttribute('{name}')"
        return self.page.evaluate(
            f"() => {{ let e = document.activeElement; "
            f"while (e.shadowRoot) e = e.shadowRoot.activeElement || "
            f"{{getAttribute: () => null}}; return {read}; }}"
        )

    def until(self, stage: str, by=None) -> None:
        for _ in range(120):
            if self.stage == stage:
                return
            (by or self.answer)()
        raise AssertionError(f"never came to {stage}")

    def shot(self, name: str) -> None:
        if SHOTS:
            self.page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


def link(survey, name: str) -> str:
    return f"{survey.address}/?PROLIFIC_PID={name}&STUDY_ID=s&SESSION_ID=t"


def on_the_way(survey, frozen, name: str, stage: str = "trial") -> str:
    """Return the link of a person who has reached a stage (without a browser, for speed)."""
    service = Service(Store(survey.url), *frozen)
    visitor = service.identify({"PROLIFIC_PID": name, "STUDY_ID": "s", "SESSION_ID": "t"})
    go(service, arrive(service, visitor), Stage(stage))
    service.store.engine.dispose()
    return link(survey, name)


def rows_of(survey_url: str, name: str, table) -> list:
    """Return a person's rows in a table, by the platform's id."""
    store = Store(survey_url)
    with store.read() as connection:
        rows = connection.execute(
            select(table)
            .join(identities, identities.c.participant == table.c.participant)
            .where(identities.c.platform_id == name)
        ).all()
    store.engine.dispose()
    return rows


def stored(survey_url: str, name: str) -> list:
    """Return a person's stored responses to trials, by the platform's id."""
    return [row for row in rows_of(survey_url, name, responses) if row.role != "practice"]


def wide(visitor: Visitor) -> list[str]:
    """Return the elements that extend beyond the window horizontally."""
    return visitor.page.evaluate(
        f"() => [...({FIND})().querySelectorAll('*')].filter(e => e.checkVisibility() "
        "&& e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.hidden'))"
        ".map(e => e.tagName + '.' + e.className).slice(0, 5)"
    )


def axe(page) -> list[str]:
    """Return the violations that axe-core finds in our component (not in Streamlit's own page)."""
    source = pytest.importorskip("axe_playwright_python")
    script = next(Path(source.__file__).parent.rglob("axe.min.js")).read_text(encoding="utf-8")
    page.evaluate(script)
    found = page.evaluate(
        f"async () => {{ const root = ({FIND})(); return (await axe.run(document)).violations.map("
        "v => ({id: v.id, nodes: v.nodes.map(n => n.target.flat().join(' ')), help: v.help})); }"
    )
    ours = [v for v in found if any(" " in t or ".survey" in t for t in v["nodes"])]
    return [json.dumps(v) for v in ours]
