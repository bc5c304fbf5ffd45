"""Circumstances of participants: slow connections, small or dark screens, large letters."""

import io
from pathlib import Path

import pytest
from PIL import Image
from visitors import CHOICES, FIND, SUBMIT, Visitor, axe, needs_browser, on_the_way, stored, wide

import survey_app
from tasks.files import render_markdown

pytestmark = needs_browser

#: Windows that are easily forgotten.
WINDOWS = {
    "phone on its side": {"viewport": {"width": 844, "height": 390}, "has_touch": True},
    "laptop at 200 %": {"viewport": {"width": 640, "height": 360}, "device_scale_factor": 2},
    "laptop at 400 %": {"viewport": {"width": 320, "height": 256}, "device_scale_factor": 4},
}
STAGES = ("introduction", "practice", "feedback", "trial", "questions", "finished")


@pytest.mark.parametrize(
    "window",
    [  # the smallest by default, the others at night
        name if name == "laptop at 400 %" else pytest.param(name, marks=pytest.mark.slow)
        for name in WINDOWS
    ],
)
def test_every_page_fits_a_window(browser, survey, frozen, window):
    context = browser.new_context(**WINDOWS[window])
    for stage in STAGES:
        address = on_the_way(survey, frozen, f"{window.replace(' ', '')[:9]}-{stage}", stage)
        visitor = Visitor(browser, address, context=context)
        assert wide(visitor) == [], stage
        if stage not in ("finished",):
            visitor.answer()  # everything can be reached
        visitor.page.close()
    context.close()


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_each_paragraph_of_the_researcher_begins_at_the_side_of_its_script(browser, direction):
    """Persian has no catalogue, so that its texts stand in pages in English."""
    css = Path(survey_app.__file__).parent / "component" / "page.css"
    page = browser.new_page(viewport={"width": 700, "height": 400})
    page.set_content(
        f"<style>{css.read_text(encoding='utf-8')}</style><div dir={direction}><div class=prose>"
        f"{render_markdown('شرکت داوطلبانه است.')}{render_markdown('You may stop.')}</div></div>"
    )
    gaps = page.evaluate(
        """() => [...document.querySelectorAll("p")].map((p) => {
          const text = document.createRange();
          text.selectNodeContents(p);
          return text.getBoundingClientRect().left - p.getBoundingClientRect().left; })"""
    )
    page.close()
    assert gaps[0] > 100 and gaps[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("wish", [{"forced_colors": "active"}, {"color_scheme": "dark"}])
def test_pages_can_be_read_in_dark_and_in_forced_colours(browser, survey, frozen, wish):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, **wish)
    for stage in STAGES:
        name = f"{next(iter(wish.values()))}-{stage}"
        visitor = Visitor(browser, on_the_way(survey, frozen, name, stage), context=context)
        assert axe(visitor.page) == [], stage
        visitor.page.close()
    context.close()


def test_no_browser_darkens_the_surroundings_of_pictures(browser, survey, frozen):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="dark")
    visitor = Visitor(browser, on_the_way(survey, frozen, "at-night"), context=context)
    protocol = context.new_cdp_session(visitor.page)
    protocol.send("Emulation.setAutoDarkModeOverride", {"enabled": True})  # as phones do
    visitor.page.reload()
    visitor.armed()
    with Image.open(io.BytesIO(visitor.page.screenshot())) as shot:
        assert shot.convert("L").getpixel((5, 400)) == 255
    context.close()


def test_a_choice_shows_in_forced_colours(browser, survey, frozen):
    """Forced colours remove the shadows and border colours that normally mark a choice."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, forced_colors="active")
    visitor = Visitor(browser, on_the_way(survey, frozen, "contrast"), context=context)
    while not visitor.page.locator(".tile").count():
        visitor.answer()
    tiles = visitor.page.locator(".tile")
    tiles.first.click()
    visitor.page.mouse.move(0, 0)
    outlines = tiles.evaluate_all("all => all.map(e => getComputedStyle(e).outlineStyle)")
    assert outlines[0] == "solid" and set(outlines[1:]) == {"none"}
    context.close()


def test_nothing_moves_for_who_asked_for_that(browser, survey, frozen):
    context = browser.new_context(reduced_motion="reduce")
    visitor = Visitor(browser, on_the_way(survey, frozen, "calm"), context=context)
    moving = visitor.page.evaluate(
        f"() => [...({FIND})().querySelectorAll('*')].map(e => getComputedStyle(e)).filter(s => "
        "parseFloat(s.transitionDuration) > 0 || s.animationName != 'none').length"
    )
    assert moving == 0
    context.close()


@pytest.mark.parametrize("name", ["tunnel", "older-browser"])
def test_an_answer_outlives_a_lost_connection(browser, survey, frozen, name):
    context = browser.new_context(viewport={"width": 1280, "height": 560})
    if name == "older-browser":
        context.add_init_script("delete AbortSignal.timeout")
    visitor = Visitor(browser, on_the_way(survey, frozen, name), context=context)
    before = visitor.version
    visitor.fill()
    visitor.context.set_offline(True)
    visitor.page.locator(SUBMIT).click()
    message = visitor.page.get_by_text("Your answer is not stored yet")
    message.wait_for()
    assert message.bounding_box()["y"] < 560, "below the window"
    visitor.page.wait_for_timeout(700)
    assert stored(survey.url, name) == []
    visitor.context.set_offline(False)
    visitor.moved(before)
    assert len(stored(survey.url, name)) == 1 and visitor.version == before + 1


def test_who_waits_for_a_slow_server_reads_why_and_changes_no_answer(browser, survey, frozen):
    """What was changed after it was sent looked like the answer, but was not stored."""
    visitor, held = Visitor(browser, on_the_way(survey, frozen, "waits")), []
    before = visitor.version
    visitor.page.route("**/act", lambda route: held.append(route), times=1)
    visitor.answer(move_on=False)
    visitor.page.get_by_text("Your answer is being stored …").wait_for()
    sent, other = visitor.page.locator(CHOICES).last.locator("label input").all()[:2]
    visitor.page.locator(CHOICES).last.locator("label").nth(1).click()
    sent.focus()
    visitor.page.keyboard.press("ArrowDown")
    assert sent.is_checked() and not other.is_checked()
    held[0].continue_()
    visitor.moved(before)
    assert visitor.page.locator(".survey .status").inner_text() == ""


@pytest.mark.parametrize("body", ["<html>Please sign in</html>", '{"signed_in": false}'])
def test_a_reply_of_something_on_the_way_is_no_page(browser, survey, frozen, body):
    visitor = Visitor(browser, on_the_way(survey, frozen, f"portal{len(body)}"))
    visitor.page.route("**/act", lambda route: route.fulfill(body=body), times=1)
    visitor.answer()
    assert len(stored(survey.url, f"portal{len(body)}")) == 1


def test_a_lost_socket_covers_no_page(browser, survey, frozen):
    """Without its socket Streamlit shows an English message over the page, which blocks it."""
    context, sockets = browser.new_context(), []
    context.route_web_socket(
        "**/_stcore/stream", lambda socket: sockets.append((socket, socket.connect_to_server()))
    )
    visitor = Visitor(browser, on_the_way(survey, frozen, "cut-off"), context=context)
    visitor.page.route("**/_stcore/*", lambda route: route.abort())
    for socket, _ in sockets:
        socket.close()
    visitor.page.wait_for_timeout(6000)
    assert visitor.page.get_by_role("dialog").count() == 0
    visitor.answer()
    assert len(stored(survey.url, "cut-off")) == 1
