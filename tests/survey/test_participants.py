"""What a participant sees and does in a real browser: pictures, keys, guidance, window."""

import json
import re
import time

import pytest
from conftest import Survey, short
from PIL import Image
from visitors import (
    CHOICES,
    FIND,
    SUBMIT,
    Visitor,
    axe,
    link,
    needs_browser,
    on_the_way,
    rows_of,
    wide,
)

from survey_app.first_page import SECONDS, WAITING
from survey_app.schema import participants, responses
from tasks.build import build
from tasks.settings import Texts
from tasks.study import load

pytestmark = needs_browser

#: Sixteen seconds of retries in less than one.
HASTE = (
    "const later = setTimeout; "
    "window.setTimeout = (act, ms, ...rest) => later(act, ms / 20, ...rest)"
)
LAPTOP, SMALL = {"width": 1280, "height": 660}, {"width": 320, "height": 600}
QUESTIONS = """
[[question]]
name = "glasses"
kind = "choice"
label = "Do you wear glasses?"
choices = ["yes", "no", "sometimes"]
required = true
[[question]]
name = "when"
kind = "text"
label = "When?"
required = true
shown_if = { question = "glasses", answers = ["sometimes"] }
[[question]]
name = "tools"
kind = "several"
label = "Which did you use?"
choices = ["mouse", "keys", "Donaudampfschifffahrtsgesellschaftskapitän"]
[[question]]
name = "hard"
kind = "scale"
label = "How hard was it?"
points = 11
low = "easy"
high = "hard"
[[question]]
name = "hours"
kind = "number"
picture = "our lab.png"
label = "How many hours?"
limits = [0, 99]
[[question]]
name = "clear"
kind = "scale"
label = "It was clear."
choices = ["not at all", "hardly", "somewhat", "predominantly", "completely"]
"""


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """A study with one trial of each task, a picture in its consent, and own questions."""
    root = tmp_path_factory.mktemp("own")
    Image.new("RGB", (300, 100), "teal").save(root / "our lab.png")
    (root / "consent.md").write_text(
        "We are here: ![our lab](our%20lab.png) [our policy](healthz) " + "a" * 99
    )
    (root / "questions.toml").write_text(QUESTIONS)
    texts = Texts(consent=str(root / "consent.md"), questionnaire=str(root / "questions.toml"))
    settings = short(texts=texts, min_width=700)
    build(run, settings, root / "study", say=lambda text: None)
    return root / "study"


@pytest.fixture(scope="module")
def own(folder, tmp_path_factory):
    served = Survey(folder, f"sqlite:///{tmp_path_factory.mktemp('own-db') / 'answers.sqlite'}")
    yield served
    served.close()


@pytest.fixture(scope="module")
def known(folder):
    return load(folder)


def sight(visitor: Visitor, expression: str):
    """Evaluate an expression in the survey's own part of the page, which is `root`."""
    return visitor.page.evaluate(f"() => {{ const root = ({FIND})(); return {expression}; }}")


def person(survey, name: str, table=participants):
    """The rows of one person in a table."""
    return rows_of(survey.url, name, table)


def test_a_picture_of_the_researchers_is_shown_and_holds_nothing_up(browser, own):
    visitor = Visitor(browser, link(own, "reads"), LAPTOP)
    assert sight(visitor, "root.querySelector('.prose img').naturalWidth") == 300
    context = browser.new_context(viewport=LAPTOP)
    context.route("**/img/*", lambda route: route.fulfill(status=404))
    without = Visitor(browser, link(own, "refuses"), context=context)
    without.answer()
    assert without.stage == "instructions"


def test_a_link_of_the_researchers_opens_beside_the_page(browser, own):
    visitor = Visitor(browser, link(own, "reads"), LAPTOP)
    with visitor.context.expect_page() as beside:
        visitor.page.click("text=our policy")
    assert (beside.value.url, visitor.stage) == (f"{own.address}/healthz", "consent")


def test_a_picture_that_does_not_arrive_is_said_and_there_is_a_way_on(browser, own, known):
    visitor = Visitor(browser, on_the_way(own, known, "404"), LAPTOP)
    version, asked = visitor.version, []
    block = {"on": True}

    def answer(route):
        asked.append(route.request.url)
        return route.fulfill(status=404) if block["on"] else route.continue_()

    visitor.page.route("**/img/*", answer)
    visitor.page.add_init_script(HASTE)
    visitor.page.reload()
    visitor.page.wait_for_selector(".survey[data-armed=stuck]", timeout=60_000)
    assert "A picture could not be loaded" in visitor.page.locator(".survey .status").inner_text()
    assert len(asked) > len(set(asked)), "it was not fetched again"
    block["on"] = False
    visitor.page.click("text=Try again")
    visitor.armed()
    block["on"] = True
    visitor.page.reload()
    visitor.page.wait_for_selector(".survey[data-armed=stuck]", timeout=60_000)
    block["on"] = False
    visitor.page.click("text=Go on without this picture")
    visitor.moved(version)
    (row,) = [r for r in person(own, "404", responses) if r.role == "trial"]
    assert (row.missing, row.answer, row.correct) == ("picture", None, None)


def test_nobody_answers_a_question_before_its_picture_is_there_or_is_said_to_be_missing(
    browser, own, known
):
    """A plate of the colour check that did not load was one that the participant did not read."""
    visitor = Visitor(browser, on_the_way(own, known, "no-plate", "questions"), LAPTOP)
    visitor.page.route("**/img/*", lambda route: route.fulfill(status=404))
    visitor.page.add_init_script(HASTE)
    visitor.page.reload()
    visitor.page.wait_for_selector(".survey[data-armed=stuck]", timeout=60_000)
    visitor.page.click("text=sometimes")
    visitor.page.locator(".survey input[name=when]").fill("at night")
    visitor.page.locator(SUBMIT).click()
    assert "A picture could not be loaded" in visitor.page.locator(".survey .status").inner_text()
    visitor.page.click("text=Go on without this picture")
    visitor.armed()
    visitor.page.locator(SUBMIT).click()
    visitor.page.wait_for_selector(".survey[data-stage=finished]")
    (row,) = person(own, "no-plate")
    assert row.questionnaire == {"glasses": "sometimes", "when": "at night"}


def test_a_number_key_chooses_what_shows_it_until_the_page_is_sent(browser, own, known):
    visitor = Visitor(browser, on_the_way(own, known, "keys"), LAPTOP)
    while visitor.page.locator(".survey .tile").count() != 6:
        visitor.answer()
    shown = dict(
        sight(
            visitor,
            "[...root.querySelectorAll('form input[type=radio]')].map(i => "
            "[i.closest('label').querySelector('.key').textContent, i.name + i.value])",
        )
    )
    assert len(shown) == 6 + 4, "every answer has its own key, and shows it"

    def chosen():
        checked = "[...root.querySelectorAll('input:checked')]"
        return sight(visitor, f"{checked}.map(i => i.name + i.value)")

    visitor.page.keyboard.press("2")
    visitor.page.keyboard.press("5")  # another choice; not: how sure
    assert chosen() == [shown["5"]]
    visitor.page.keyboard.press("9")
    visitor.page.keyboard.press("1")
    assert set(chosen()) == {shown["1"], shown["9"]}
    before = visitor.version
    visitor.page.keyboard.press("Enter")
    visitor.moved(before)
    rows = person(own, "keys", responses)
    (row,) = [r for r in rows if (r.role, r.task) == ("trial", "odd_one_out")]
    assert (f"choice{row.answer}", row.confidence) == (shown["1"], 3.0)


def test_enter_held_through_a_page_skips_nothing(browser, own, known):
    visitor = Visitor(browser, on_the_way(own, known, "leans", "practice"), LAPTOP)
    before = visitor.version
    visitor.fill()
    visitor.page.locator(SUBMIT).focus()
    began = time.monotonic()
    while time.monotonic() - began < 4:
        visitor.page.keyboard.down("Enter")  # again and again without an up: a held key
        time.sleep(0.03)
    visitor.page.keyboard.up("Enter")
    assert (visitor.stage, visitor.version) == ("feedback", before + 1)
    visitor.page.keyboard.press("Enter")
    visitor.moved(before + 1)


@pytest.mark.parametrize("loading", [False, True])
def test_withdrawing_with_the_keyboard_answers_nothing(browser, own, known, loading):
    visitor = Visitor(browser, on_the_way(own, known, f"goes{loading}"), LAPTOP)
    before = visitor.version
    visitor.fill()
    if loading:  # the pictures do not arrive
        visitor.page.route("**/img/*", lambda route: None)
        visitor.page.reload()
    visitor.page.locator(".withdraw summary").focus()
    for key in ("Enter", "Tab", "Enter"):
        visitor.page.keyboard.press(key)
    visitor.moved(before)
    assert visitor.stage == "withdrawn"


def test_tasks_introduce_themselves_with_an_example_and_blocks_have_breaks(browser, own):
    visitor = Visitor(browser, link(own, "learns"), LAPTOP)
    titles, breaks = [], 0
    while visitor.stage != "questions":
        if visitor.stage == "introduction":
            titles.append(visitor.page.locator(".survey h1").inner_text())
            assert visitor.page.locator(".survey .example img").count()
            breaks += "You can take a break here" in visitor.page.locator(".survey").inner_text()
        if visitor.stage in ("practice", "trial"):
            visitor.page.click("text=Read the instructions again")
            assert visitor.page.locator(".survey details.again p").first.is_visible()
        visitor.answer()
    parts = [f"art {n} of 4: " for n in (1, 2, 3, 4)] * 2
    assert [part in title for part, title in zip(parts, titles, strict=True)] == [True] * 8
    assert breaks == 3


def test_feedback_shows_ones_own_choice_beside_the_right_one(browser, own, known):
    study, keys = known
    visitor = Visitor(browser, on_the_way(own, known, "wrong", "practice"), LAPTOP)
    trial = study.by_id[study.practice[0]]
    wrong = next(o.id for o in trial.options if o.id != keys[trial.id])
    visitor.page.locator(f".survey input[value={wrong}]").check(force=True)
    visitor.page.locator(".survey .scale label").first.click()
    visitor.page.locator(SUBMIT).click()
    visitor.page.wait_for_selector(".survey[data-stage=feedback][data-armed=yes]")
    images = {o.id: o.image for o in trial.options}
    sources = sight(visitor, "[...root.querySelectorAll('figure img')].map(i => i.src)")
    assert [s.split("/")[-1] for s in sources] == [images[wrong], images[keys[trial.id]]]
    text = visitor.page.locator(".survey").inner_text()
    assert "Your choice: number" in text and "The answer: number" in text


def test_what_was_entered_survives_a_refresh_of_the_tab_alone(browser, own, known):
    visitor = Visitor(browser, on_the_way(own, known, "types"), LAPTOP)
    while not visitor.page.locator(".survey .panel input[type=text]").count():
        visitor.answer()
    fields = visitor.page.locator(".survey .panel input[type=text]")
    stages = visitor.page.get_by_role("group", name=re.compile("Early|Middle|Late"))
    assert stages.get_by_role("textbox").count() == 3, "three fields of the same name"
    fields.nth(0).evaluate("e => e.dispatchEvent(new Event('paste', {bubbles: true}))")
    fields.nth(0).fill("red wheels")
    visitor.page.wait_for_timeout(2000)
    visitor.page.locator(".survey [data-none]").nth(1).check()
    visitor.page.keyboard.press("Tab")
    visitor.page.locator(".survey .scale label").nth(1).click()
    visitor.page.reload()
    visitor.armed()
    assert fields.nth(0).input_value() == "red wheels"
    assert (
        fields.nth(1).is_disabled()
        and visitor.page.locator(".survey [data-none]").nth(1).is_checked()
    )
    assert visitor.page.locator(".survey .scale input").nth(1).is_checked()
    fields.nth(2).fill("wheels")
    visitor.page.locator(CHOICES).nth(1).locator("label").first.click()
    before = visitor.version
    visitor.page.locator(SUBMIT).click()
    visitor.moved(before)
    assert visitor.page.evaluate("sessionStorage.length") == 0
    *_, row = sorted(person(own, "types", responses), key=lambda row: row.answered_at)
    assert (row.pastes, row.tab_leaves) == (1, 1) and row.milliseconds > 2000
    assert not visitor.trouble


def test_continue_is_in_view_and_pictures_are_sharp_in_every_task(browser, own, known):
    context = browser.new_context(viewport=LAPTOP, device_scale_factor=2)
    visitor = Visitor(browser, on_the_way(own, known, "laptop"), context=context)
    tasks = set()
    while visitor.stage in ("trial", "introduction"):
        if visitor.stage == "trial":
            tasks.add(visitor.page.locator(".survey h1").inner_text())
            box = visitor.page.locator(SUBMIT).bounding_box()
            assert box["y"] + box["height"] <= LAPTOP["height"], tasks
            shares = sight(
                visitor,
                "[...root.querySelectorAll('img[data-stimulus]')]"
                ".map(i => i.naturalWidth / (i.getBoundingClientRect().width * devicePixelRatio))",
            )
            assert min(shares) >= 0.99, "fewer pixels than the screen has"
        visitor.answer()
    assert len(tasks) == 4


def test_pictures_are_enlarged_by_click_and_by_key(browser, own, known):
    visitor = Visitor(browser, on_the_way(own, known, "near"), LAPTOP)
    size = "root.querySelector('dialog img')?.getBoundingClientRect().width ?? 0"
    visitor.page.locator(".survey .zoom").nth(2).click()
    assert sight(visitor, size) > 450
    first = sight(visitor, "root.querySelector('dialog img').src")
    assert axe(visitor.page) == []
    visitor.page.keyboard.press("ArrowRight")
    assert sight(visitor, "root.querySelector('dialog img').src") != first
    visitor.page.keyboard.press("Escape")
    visitor.page.wait_for_selector(".survey dialog", state="detached")
    assert sight(visitor, "root.querySelectorAll('input:checked').length") == 0
    visitor.page.keyboard.press("+")
    assert sight(visitor, size) > 450


@pytest.mark.parametrize("stage", ["consent", "questions"])
def test_long_words_and_addresses_stay_in_a_small_window(browser, own, known, stage):
    visitor = Visitor(browser, on_the_way(own, known, f"long-{stage}", stage), SMALL)
    assert wide(visitor) == []
    numbers = "[...root.querySelectorAll('.asks-scale:not(.verbal) .choice span:not(.key)')]"
    assert sight(visitor, f"{numbers}.filter(e => e.offsetHeight > 30).length") == 0, "broken"
    spilt = "[...root.querySelectorAll('.choice span')].filter(e => e.offsetWidth > e.parentElement"
    assert sight(visitor, f"{spilt}.clientWidth).map(e => e.textContent)") == []


def test_the_device_is_recorded_and_a_narrow_window_is_told_kindly(browser, own):
    visitor = Visitor(browser, link(own, "device"), {"width": 600, "height": 500})
    assert "at least 700 pixels wide" in visitor.page.locator(".survey").inner_text()
    assert not visitor.page.locator("button[value=yes]").is_visible()
    visitor.page.set_viewport_size({"width": 900, "height": 500})
    visitor.page.click("button[value=yes]")
    visitor.page.wait_for_selector(".survey[data-stage=instructions]")
    (row,) = person(own, "device")
    assert row.device == {
        "width": 900, "height": 500, "pixel_ratio": 1, "touch": False, "browser": "chrome",
    }  # fmt: skip
    leaves = Visitor(browser, link(own, "small"), {"width": 600, "height": 500})
    leaves.page.click("text=I have no larger screen")
    leaves.page.wait_for_selector("text=This study needs a larger screen")


def test_own_questions_appear_by_answers_and_are_stored(browser, own, known):
    visitor = Visitor(browser, on_the_way(own, known, "asks", "questions"), LAPTOP)
    assert axe(visitor.page) == []
    before, when = visitor.version, visitor.page.locator(".survey input[name=when]")
    visitor.page.click("text=mouse")
    visitor.page.locator(".survey .asks-scale label").nth(6).click()
    hours = visitor.page.locator(".survey input[name=hours]")
    hours.press_sequentially("3,5")  # a field of the browser's own kind for numbers made it 35
    hours.hover()
    visitor.page.mouse.wheel(0, 100)  # and the wheel changed it
    hours.press("ArrowUp")
    assert visitor.page.locator(".survey .optional").count() == 4
    visitor.page.click("text=hardly")  # taken back below
    visitor.page.locator(".survey button:visible", has_text="Clear my answer").last.click()
    assert visitor.page.locator(".survey button:visible", has_text="Clear my answer").count() == 1
    visitor.page.locator(SUBMIT).click()
    assert visitor.version == before, "a required question was left out"
    assert not when.is_visible()
    visitor.page.click("text=sometimes")
    when.fill("at night")
    visitor.page.locator(SUBMIT).click()
    visitor.page.wait_for_selector(".survey[data-stage=finished]")
    (row,) = person(own, "asks")
    assert row.questionnaire == {
        "glasses": "sometimes", "when": "at night", "tools": ["mouse"], "hard": "7",
        "hours": 3.5,
    }  # fmt: skip


def test_a_trial_of_limited_time_goes_on_without_an_answer_and_a_refresh_wins_none(
    browser, folder, known, tmp_path
):
    """The same study with a limit; what it is frozen as is written by hand."""
    import shutil

    from tasks.study import digest

    shutil.copytree(folder, tmp_path / "study")
    written = json.loads((folder / "study.json").read_text())
    written["seconds_per_trial"] = 12
    written["hash"] = digest(written, known[1])
    (tmp_path / "study" / "study.json").write_text(json.dumps(written))
    served = Survey(tmp_path / "study", f"sqlite:///{tmp_path / 'a.sqlite'}")

    def left() -> int:
        text = visitor.page.locator(".survey .clock").inner_text()
        return int(re.fullmatch(r"Seconds left: (\d+)", text)[1])

    try:
        sent: list[int] = []
        refused = Visitor(browser, on_the_way(served, load(tmp_path / "study"), "gone"), LAPTOP)
        refused.page.route("**/act", lambda route: (sent.append(1), route.fulfill(status=403)))
        visitor = Visitor(browser, on_the_way(served, load(tmp_path / "study"), "slow"), LAPTOP)
        before = visitor.version
        visitor.page.wait_for_timeout(3000)
        then = left()
        visitor.page.reload()
        visitor.armed()
        assert visitor.version == before and left() < then, "the refresh began the time anew"
        visitor.page.set_viewport_size(SMALL)
        visitor.page.locator(SUBMIT).scroll_into_view_if_needed()
        top = sight(visitor, "root.querySelector('.clock').getBoundingClientRect().top")
        assert 0 <= top < 40, "the time cannot be seen below the pictures"
        visitor.moved(before)
        (row,) = [r for r in person(served, "slow", responses) if r.role == "trial"]
        assert (row.missing, row.answer) == ("time", None)
        assert 11 < (row.answered_at - row.shown_at).total_seconds() < 17
        refused.page.get_by_text("This page is out of date").wait_for()
        refused.page.wait_for_timeout(500)
        assert len(sent) == 1, "what was refused is sent again and again"
    finally:
        served.close()


def hurry(page) -> None:
    """Speed animations up, so that what shows after SECONDS shows within half a second."""
    line = page.context.new_cdp_session(page)
    line.send("Animation.enable")
    line.send("Animation.setPlaybackRate", {"playbackRate": 2 * SECONDS})


def test_without_websocket_or_javascript_the_page_says_what_to_do(browser, own):
    context = browser.new_context(viewport=LAPTOP)
    page = context.new_page()
    page.route_web_socket("**", lambda socket: socket.close())
    page.goto(link(own, "blocked"))
    told = page.locator(f"#{WAITING}")
    assert not told.is_visible()
    hurry(page)
    visible = f"getComputedStyle(document.getElementById('{WAITING}')).visibility === 'visible'"
    page.wait_for_function(visible)
    assert "please wait a minute. Otherwise, your network may block it" in told.inner_text()
    plain = browser.new_context(viewport=LAPTOP, java_script_enabled=False).new_page()
    plain.goto(link(own, "blocked"))
    assert "This survey needs JavaScript" in plain.locator("noscript").inner_text()
    assert plain.title() == "What do these pictures have in common?"
    visitor = Visitor(browser, link(own, "connected"), LAPTOP)
    assert not visitor.page.locator(f"#{WAITING}").is_visible()
    hurry(visitor.page)
    time.sleep(1)
    assert not visitor.page.locator(f"#{WAITING}").is_visible()


@pytest.mark.parametrize("size", [pytest.param(LAPTOP, marks=pytest.mark.slow), SMALL])
def test_nothing_covers_a_stimulus(browser, own, known, size):
    """A lens over a corner hid half a patch of every group on a phone."""
    visitor = Visitor(browser, on_the_way(own, known, f"sees-{size['width']}"), size)
    over = (
        "[...root.querySelectorAll('img[data-stimulus]')].flatMap(image => "
        "[...root.querySelectorAll('.zoom, .tile .key')].filter(part => { "
        "const a = image.getBoundingClientRect(), b = part.getBoundingClientRect(); "
        "return b.left < a.right - 1 && b.right > a.left + 1 && b.top < a.bottom - 1 "
        "&& b.bottom > a.top + 1; })).length"
    )
    seen = set()
    while visitor.stage == "trial" or visitor.stage == "introduction":
        if visitor.stage == "trial":
            seen.add(visitor.page.locator(".survey h1").inner_text())
            assert sight(visitor, over) == 0
        visitor.answer()
    assert len(seen) == 4
