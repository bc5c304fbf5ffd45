"""A real browser on the real survey: desktop and phone, mouse and keyboard, faults, accessibility.

Skipped, loudly, where there is no Chromium.
"""

import re
import time
from itertools import product
from pathlib import Path

import pytest
from conftest import TRIALS, Survey, short
from sqlalchemy import select
from visitors import (
    DESKTOP,
    FIND,
    PHONE,
    SUBMIT,
    Visitor,
    axe,
    link,
    needs_browser,
    on_the_way,
    rows_of,
    stored,
)

import survey_app
from survey_app.schema import participants, responses
from survey_app.store import Store
from tasks.build import build

pytestmark = needs_browser

LANGUAGES = {
    "en": ("Continue", "ltr"), "de": ("Weiter", "ltr"), "zh": ("继续", "ltr"),
    "es": ("Continuar", "ltr"), "ar": ("متابعة", "rtl"),
}  # fmt: skip
SIZES = {"desktop": DESKTOP, "phone": PHONE}
#: Whole sessions by day: both sizes, both hands. The other languages and combinations at night.
BY_DAY = {("en", "phone", "mouse"), ("en", "desktop", "keyboard")}
SESSIONS = [
    pytest.param(*session, marks=() if session in BY_DAY else pytest.mark.slow)
    for session in product(LANGUAGES, SIZES, ("mouse", "keyboard"))
]


@pytest.fixture(scope="module")
def spoken(request, run, tmp_path_factory):
    """A survey with a trial of every task, in a language."""
    folder = tmp_path_factory.mktemp(request.param)
    build(run, short(language=request.param), folder / "study", say=lambda text: None)
    served = Survey(folder / "study", f"sqlite:///{folder / 'answers.sqlite'}")
    yield request.param, served
    served.close()


@pytest.mark.parametrize(("spoken", "kind", "by"), SESSIONS, indirect=["spoken"])
def test_a_whole_session(browser, spoken, kind, by):
    language, served = spoken
    button, direction = LANGUAGES[language]
    name = f"{language}{kind}{by}"
    visitor = Visitor(browser, link(served, name), SIZES[kind])
    root = visitor.page.locator(".survey")
    assert (root.get_attribute("lang"), root.get_attribute("dir")) == (language, direction)
    assert visitor.page.evaluate("document.documentElement.lang") == language
    foreign = "[...document.querySelectorAll('a, button')].filter((e) => e.checkVisibility())"
    assert visitor.page.evaluate(f"{foreign}.map((e) => e.textContent)") == []  # of Streamlit
    seen: set[tuple[str, str]] = set()
    while True:
        page = (visitor.stage, visitor.page.locator(".survey h1").inner_text())
        if page not in seen and by == "mouse":
            assert axe(visitor.page) == []
            visitor.shot(f"{language}-{kind}-{len(seen):02}-{visitor.stage}")
        seen.add(page)
        wide = visitor.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{visitor.stage} scrolls sideways by {wide} px"
        if visitor.stage == "trial":
            assert visitor.page.locator(SUBMIT).inner_text() == button
        if visitor.stage == "finished":
            break
        (visitor.answer if by == "mouse" else visitor.answer_by_keys)()
    assert len(stored(served.url, name)) == len(TRIALS)
    (person,) = rows_of(served.url, name, participants)
    assert person.questionnaire["comment"] in ("red <b>wheel</b>", "stripes")
    time.sleep(1)  # the debrief waits for the reader
    visitor.page.locator(".survey a.primary").click()
    visitor.page.wait_for_url("https://app.prolific.com/submissions/complete?cc=DONE*")
    assert visitor.trouble == []


def test_refresh_back_second_tab_and_other_device_go_on(browser, survey, frozen):
    visitor = Visitor(browser, on_the_way(survey, frozen, "wanders"))
    visitor.answer()
    version, html = visitor.version, visitor.page.locator(".survey .view").inner_html()
    visitor.page.reload()
    visitor.armed()
    assert visitor.version == version
    assert visitor.page.locator(".survey .view").inner_html() == html
    visitor.page.goto("about:blank")
    visitor.page.go_back()
    visitor.armed()
    assert visitor.version == version
    tab = Visitor(browser, link(survey, "wanders"), context=visitor.context)
    phone = Visitor(browser, link(survey, "wanders"), PHONE)
    assert tab.version == phone.version == version
    phone.answer()
    tab.answer()  # answers a page that is over: nothing is stored, the current page shows
    assert tab.version == phone.version == version + 1
    assert len(stored(survey.url, "wanders")) == 2 and visitor.trouble == tab.trouble == []


def test_a_double_click_answers_one_trial(browser, survey, frozen):
    visitor = Visitor(browser, on_the_way(survey, frozen, "doubles"))
    version = visitor.version
    visitor.fill()
    button = visitor.page.locator(SUBMIT)
    button.dblclick()
    for pause in (0.05, 0.15, 0.2):  # and a late third, fourth and fifth click
        time.sleep(pause)
        button.click()
    visitor.moved(version)
    assert visitor.version == version + 1
    assert len(stored(survey.url, "doubles")) == 1


def test_the_clock_starts_when_the_pictures_are_visible(browser, survey, frozen):
    visitor = Visitor(browser, on_the_way(survey, frozen, "slow", "practice"))
    visitor.page.route("**/img/*", lambda route: (time.sleep(0.2), route.continue_()))
    began = time.monotonic()
    visitor.page.reload()
    visitor.page.wait_for_selector(".survey h1")
    assert visitor.page.locator(".survey").get_attribute("data-armed") == ""
    visitor.armed()
    loaded = visitor.page.evaluate(
        f"() => [...({FIND})().querySelectorAll('img')].every(i => i.complete && i.naturalWidth)"
    )
    assert loaded
    waited = 1000 * (time.monotonic() - began)
    time.sleep(0.5)
    visitor.page.unroute("**/img/*")
    visitor.answer()
    store = Store(survey.url)
    with store.read() as connection:
        row = connection.execute(
            select(responses).order_by(responses.c.answered_at.desc()).limit(1)
        ).one()
    # Six pictures took 1.2 s or more to come; none of that is in the time.
    assert row.milliseconds > 400
    assert waited > 1200


def test_a_killed_server_loses_nothing(browser, study_folder, frozen, tmp_path):
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    served = Survey(study_folder, url)
    try:
        visitor = Visitor(browser, on_the_way(served, frozen, "survivor"))
        for _ in range(2):
            version = visitor.version
            for worker in served.workers():
                worker.kill()
            visitor.answer(move_on=False)  # clicked while there is no server
            visitor.moved(version)
        assert len(stored(url, "survivor")) == 2
        visitor.answer()
        assert len(stored(url, "survivor")) == 3
    finally:
        served.close()


def test_an_open_link_keeps_its_id_in_the_address(browser, survey):
    visitor = Visitor(browser, survey.address)
    assert "p=" in visitor.page.url
    visitor.answer()
    visitor.page.reload()
    visitor.armed()
    assert visitor.stage == "instructions"
    again = Visitor(browser, visitor.page.url)
    assert again.stage == "instructions"
    visitor.page.go_back()
    assert visitor.page.url == "about:blank", "a page without the id would make a second person"


def test_declining_and_bad_addresses(browser, survey):
    visitor = Visitor(browser, link(survey, "declines"))
    visitor.page.click("button[value=no]")
    visitor.page.wait_for_selector("text=You chose not to take part")
    assert "cc=NO" in visitor.page.locator("a.primary").get_attribute("href")
    bad = Visitor(browser, f"{survey.address}/?PROLIFIC_PID=<script>alert(1)</script>")
    assert "The address is not complete" in bad.page.locator(".survey").inner_text()
    preview = Visitor(browser, f"{survey.address}/?assignmentId=ASSIGNMENT_ID_NOT_AVAILABLE")
    assert "This is a preview" in preview.page.locator(".survey").inner_text()
    store = Store(survey.url)
    with store.read() as connection:
        platforms = set(connection.scalars(select(participants.c.platform)))
    assert platforms <= {"prolific", "open"}


def test_the_network_never_carries_a_key(browser, survey, frozen):
    """All that the browser receives in a session, WebSocket frames included."""
    study, _ = frozen
    heard: list[str] = []
    visitor = Visitor(browser, on_the_way(survey, frozen, "listens"))
    visitor.page.on("response", lambda r: heard.append(r.text()) if "/act" in r.url else None)
    visitor.page.on(
        "websocket",
        lambda socket: socket.on("framereceived", lambda frame: heard.append(str(frame))),
    )
    visitor.page.reload()
    visitor.armed()
    for _ in range(4):
        visitor.answer()
    sent = "".join(heard)
    assert "option" in sent.lower() or "tile" in sent
    for word in ("hand_picked", "same_series", "obvious", "attention", "one_reference",
                 "false_evolution"):  # fmt: skip
        assert word not in sent
    assert not [t.id for t in study.trials if f'"{t.id}"' in sent]


def test_a_choice_shows_in_browsers_without_has(browser):
    style = (Path(survey_app.__file__).parent / "component" / "page.css").read_text()
    without = re.sub(r"[^{}]*:has\((?!\*)[^{}]*{[^{}]*}", "", style)
    assert without.count(":has(") == 1
    without = without.replace("@supports not selector(:has(*))", "@media all")
    tile = '<label class="tile"><input type="radio" name="x"><img></label>'
    page = browser.new_page()
    page.set_content(f"<style>{without}</style><div class=survey>{2 * tile}</div>")
    page.locator("input").nth(1).check(force=True)
    outlines = page.locator("img").evaluate_all("all => all.map(e => getComputedStyle(e).outline)")
    assert "solid" in outlines[1] and "none" in outlines[0]
    page.close()


def test_panels_of_several_pictures_and_of_a_timed_trial_fit(browser):
    """A lens covered the picture above its own; the clock moved the pictures out of view."""
    style = (Path(survey_app.__file__).parent / "component" / "page.css").read_text()
    picture = '<div class="picture"><img><button class="zoom"></button></div>'
    panels = f'<div class="panels n3">{f"<section class=panel>{2 * picture}</section>" * 3}</div>'
    page = browser.new_page(viewport={"width": 1280, "height": 560})
    widths = []
    for attribute in ("", "data-timed=9"):
        page.set_content(
            f"<style>{style}</style><div class=survey><form {attribute}>{panels}</form></div>"
        )
        page.add_style_tag(content="img { height: 80px !important }")
        upper, lens = page.locator("img").nth(0), page.locator(".zoom").nth(1)
        above, box = upper.bounding_box(), lens.bounding_box()
        assert above["y"] + above["height"] <= box["y"]
        widths.append(above["width"])
    assert widths[0] - widths[1] == pytest.approx(32, abs=0.5)  # 2rem, as the clock is high
    page.close()
