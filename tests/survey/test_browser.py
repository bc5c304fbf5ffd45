"""A real browser on the real survey: desktop and phone, mouse and keyboard, faults, accessibility.

Skipped, loudly, where there is no Chromium.
"""

from __future__ import annotations

import time

import pytest
from conftest import SET, SETTINGS, TRIALS
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
    stored,
)

from survey_app.schema import participants, responses
from survey_app.store import Store
from tasks.build import build
from tasks.settings import Attention, Practice

pytestmark = needs_browser


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_whole_session_by_mouse(browser, survey, size):
    kind = "desktop" if size is DESKTOP else "phone"
    name = f"mouse{kind}"
    visitor = Visitor(browser, link(survey, name), size)
    seen = {}
    while visitor.stage != "finished":
        heading = visitor.page.locator(".survey h1").inner_text()
        if (visitor.stage, heading) not in seen:
            seen[visitor.stage, heading] = axe(visitor.page)
            visitor.shot(f"{kind}-{len(seen):02d}-{visitor.stage}")
            wide = visitor.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{visitor.stage} scrolls sideways by {wide} px"
        visitor.answer()
    visitor.shot(f"{kind}-{len(seen) + 1:02d}-finished")
    assert {page: found for page, found in seen.items() if found} == {}
    assert len([s for s, _ in seen if s == "trial"]) == 4
    assert len(stored(survey.url, name)) == SET
    time.sleep(1)  # the debrief waits for the reader
    visitor.page.get_by_role("link", name="Return to Prolific").click()
    visitor.page.wait_for_url("https://app.prolific.com/submissions/complete?cc=DONE*")
    assert visitor.trouble == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_whole_session_by_keyboard_alone(browser, survey, size):
    name = f"keyboard{size['width']}"
    visitor = Visitor(browser, link(survey, name), size)
    visitor.until("finished", visitor.answer_by_keys)
    assert len(stored(survey.url, name)) == SET


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
    assert len(stored(survey.url, "wanders")) == 2


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
    from conftest import Survey

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
    for word in (
        "hand_picked",
        "same_series",
        "obvious",
        "attention",
        "one_reference",
        "false_evolution",
    ):
        assert word not in sent
    assert not [t.id for t in study.trials if f'"{t.id}"' in sent]


LANGUAGES = {"de": ("Weiter", "ltr"), "zh": ("继续", "ltr"), "ar": ("متابعة", "rtl")}


@pytest.fixture(scope="module", params=LANGUAGES)
def foreign(request, run, tmp_path_factory):
    """A survey with a trial of every task, in a language other than English."""
    from conftest import Survey

    folder = tmp_path_factory.mktemp(request.param)
    trials = {name: {next(iter(conditions)): 1} for name, conditions in TRIALS.items()}
    settings = SETTINGS.model_copy(
        update={
            "language": request.param,
            "trials": trials,
            "forms": 1,
            "attention": Attention(trials=0),
            "practice": Practice(trials=1, pass_share=0),
        }
    )
    build(run, settings, folder / "study", say=lambda text: None)
    served = Survey(folder / "study", f"sqlite:///{folder / 'answers.sqlite'}")
    yield request.param, served
    served.close()


@pytest.mark.slow  # three languages, two sizes, by mouse and by keyboard
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_whole_session_in_another_language(browser, foreign, size, by):
    language, served = foreign
    button, direction = LANGUAGES[language]
    name = f"{language}{size['width']}{by}"
    visitor = Visitor(browser, link(served, name), size)
    root = visitor.page.locator(".survey")
    assert (root.get_attribute("lang"), root.get_attribute("dir")) == (language, direction)
    assert visitor.page.evaluate("document.documentElement.lang") == language
    seen: set[str] = set()
    for _ in range(60):
        label = visitor.page.locator(".survey h1").inner_text()
        if label not in seen:
            seen.add(label)
            assert axe(visitor.page) == []
            visitor.shot(f"{language}-{size['width']}-{by}-{len(seen):02}-{visitor.stage}")
            wide = visitor.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= size["width"], "the page is wider than the screen"
        if visitor.stage == "trial":
            assert visitor.page.locator(SUBMIT).inner_text() == button
        if visitor.stage == "finished":
            break
        (visitor.answer if by == "mouse" else visitor.answer_by_keys)()
    assert len(stored(served.url, name)) == len(TRIALS)
    assert visitor.trouble == []
