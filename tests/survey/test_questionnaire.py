"""A researcher's own questions and pictures: read, refused with a reason, asked, and acted upon."""

import io

import numpy as np
import pytest
from people import arrive, fill, go, open_service
from PIL import Image, ImageDraw, ImageFont
from sqlalchemy import select

from survey_app.flow import Stage
from survey_app.schema import participants, places
from survey_app.service import BadAction
from tasks.base import InvalidAnswer
from tasks.build import build
from tasks.drawings import PLATE, draw_plate
from tasks.language import Words
from tasks.questionnaire import (
    BUILT_IN,
    NUMBERS,
    Question,
    check_answers,
    is_screened_out,
    simulated_answers,
)
from tasks.questionnaire_file import PLATE_NUMBERS, read_questionnaire
from tasks.settings import Practice, StudySettings, Texts, load_settings
from tasks.study import load

FILE = """
[[question]]
name = "age"
kind = "number"
label = "How old are you?"
when = "before"
required = true
limits = [0, 120]
stay_within = [18, 99]
[[question]]
name = "pictures"
kind = "choice"
label = "What will you look at?"
when = "quiz"
choices = ["pictures", "films"]
right = "pictures"
[[question]]
name = "parts"
kind = "several"
label = "What may you do?"
when = "quiz"
choices = ["stop", "guess", "phone a friend"]
right = ["stop", "guess"]
[understanding]
attempts = 2
[colour_check]
plates = 3
needed = 2
"""


def read(tmp_path, text, language="en"):
    (tmp_path / "q.toml").write_text(text, encoding="utf-8")
    return read_questionnaire(tmp_path / "q.toml", Words(language), 0)


CHOICE = "[[question]]\nname = 'a'\nkind = 'choice'\nlabel = 'A'\nchoices = ['x', 'y']\n"
NUMBER = "[[question]]\nname = 'a'\nkind = 'number'\nlabel = 'A'\nwhen = 'quiz'\n"
TEXT = "[[question]]\nname = 't'\nkind = 'text'\nlabel = 'T'\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[question]]\nname = 'A b'\nkind = 'text'\nlabel = 'x'", r"question.0.name = 'A b'"),
        ("[[question]]\nname = 'a'\nkind = 'essay'\nlabel = 'x'", r"'choice', 'several'"),
        ("[[question]]\nname = 'a'\nkind = 'scale'\nlabel = 'x'", "two or more .*or points = 7"),
        (CHOICE + "right = 'x'", "right answers are for questions with when = 'quiz'"),
        (CHOICE + "when = 'quiz'\nright = 'z'", "'z' is none of its answers: x, y"),
        (
            CHOICE + "when = 'quiz'\nright = 'x'\nscreen_out = ['x']",
            "'x' is a right answer, but also in screen_out",
        ),
        (CHOICE + "screen_out = ['z']", "'z' is none of its answers: x, y"),
        (CHOICE + "stay_within = [1, 2]", "stay_within is for a number"),
        (CHOICE + CHOICE, "question 'a': the name is given twice"),
        (CHOICE + "picture = 'nothing.png'", r"picture .*nothing.png cannot be read"),
        (
            CHOICE + CHOICE.replace("'a'", "'b'") + "shown_if = {question='c', answers=['x']}",
            "shown_if names 'c', which is not asked before it: a",
        ),
        (
            CHOICE + CHOICE.replace("'a'", "'b'") + "shown_if = {question='a', answers=['z']}",
            "shown_if: 'z' is not an answer to 'a': x, y",
        ),
        (
            NUMBER.replace("quiz", "after")
            + CHOICE.replace("'a'", "'b'")
            + "shown_if = {question='a', answers=['5']}",
            "shown_if names 'a', a number, which has no choices to name",
        ),
        (CHOICE + "screen_out = ['x']", r"have answered all trials; ask it before .*'before'"),
        (NUMBER.replace("quiz", "after") + "stay_within = [1, 2]", "have answered all trials"),
        ("[understanding]\nattempts = 3", r"\[understanding\] has nothing to count"),
        (CHOICE + "points = 7", "give choices or points, not both"),
        (CHOICE + "limits = [0, 9]", "limits are for a number; a choice has none"),
        (CHOICE + "characters = 9", "characters are for a text; a choice has none"),
        (TEXT + "characters = 2001", "characters = 2001: must be at most 2000"),
        (
            "".join(TEXT.replace("'t'", f"'t{n}'") + "characters = 2000\n" for n in range(7)),
            "with when = 'after' may have 14,000 characters in all, .* can send 12,000",
        ),
        (CHOICE.replace("'A'", "' '"), "its label is empty"),
        (CHOICE.replace("'y'", "{ value = 'y', label = ' ' }"), "label of one .* is empty"),
        (CHOICE.replace("'y'", "{ value = 'y', label = 'x' }"), "have the same label"),
        (NUMBER + "low = 'never'", "low and high are for a scale"),
        (NUMBER + "right = '11'\nlimits = [0, 9]", "'11' cannot be answered: .* from 0 to 9"),
        (NUMBER + "right = '7.0'", "'7.0' is stored as 7 when it is answered; write that"),
        (NUMBER.replace("number", "text") + "right = ' seven'", "is stored as 'seven'"),
        ("[understanding]\nneeded = 1", "understanding.needed = 1: there are 0 such questions"),
        ("[colour_check]\nplates = 2\nneeded = 3", "colour_check.needed = 3: there are 2"),
        ("= 3", "cannot be read"),
        ("", "asks nothing; for no questions at all, set questions = false"),
        (CHOICE.replace("'x', 'y'", "1, 2"), r"choices.0 = 1: must be text in quotes, or \{value"),
        (CHOICE.replace("'x', 'y'", "{ value = 'x' }"), r"choices.0.label = .*: is missing"),
        (NUMBER + "right = 7", r"right = 7: must be a list"),
        (
            CHOICE + "when = 'before'\n" + CHOICE.replace("'a'", "'b'") + "when = 'quiz'\n"
            "right = 'x'\n"
            "shown_if = {question='a', answers=['x']}",
            "needed = 1: there are 0 such questions that everybody sees, as 'b' has shown_if",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_is_allowed(tmp_path, text, told):
    with pytest.raises(ValueError, match=told):
        read(tmp_path, text)


def test_kinds_take_what_they_ask_for_and_nothing_else():
    def asked(kind, **more):
        return Question(kind=kind, name="q", label="Q", **more)

    xy = (("x", "X"), ("y", "Y"))
    for question, raw, kept in [
        (asked("choice", choices=xy), "x", "x"),
        (asked("scale", choices=xy), "y", "y"),
        (asked("several", choices=xy), ["y", "x"], ["x", "y"]),
        (asked("number", limits=(0, 10)), " 3.5 ", 3.5),
        (asked("number", limits=(0, 20261231)), "20261231", 20261231),
        (asked("number", limits=(0, 10)), "7", 7),
        (asked("text"), " a\nb ", "a b"),
    ]:
        assert check_answers([question], {"q": raw}, {}) == {"q": kept}
        assert check_answers([question], {"q": ""}, {}) == {}
        with pytest.raises(ValueError, match="please answer this question"):
            check_answers([question.model_copy(update={"required": True})], {}, {})
    for question, raw in [
        (asked("choice", choices=xy), "z"),
        (asked("choice", choices=xy), ["x"]),
        (asked("several", choices=xy), ["x", 3]),
        (asked("number", limits=(0, 10)), "11"),
        (asked("number"), "1,000"),
        (asked("number"), "nan"),
        (asked("number"), {"a": 1}),
        (asked("text"), 3),
    ]:
        with pytest.raises(ValueError, match="“Q”: please"):
            check_answers([question], {"q": raw}, {})


@pytest.mark.parametrize(
    ("language", "text", "number"),
    [
        ("en", "3.5", 3.5), ("en", "3,5", 3.5), ("de", "3,5", 3.5), ("de", "3.5", 3.5),
        ("ar", "١٢", 12), ("ar", "٣٫٥", 3.5), ("zh", "１２", 12), ("en", " +7 ", 7),
        ("en", "−7", -7), ("en", "1e3", 1000), ("en", "0.125", .125), ("en", "0,125", .125),
        ("en", "1.250", 1.25), ("de", "1,250", 1.25),
        # Thousands or decimals? Such a number is asked for again.
        ("en", "1,250", None), ("de", "1.250", None), ("en", "1,250.5", None),
        ("en", "−1,250", None), ("ar", "١,٢٥٠", None), ("ar", "١٬٢٥٠", None), ("ar", "١٫٢٥٠", 1.25),
        ("en", "1 250", None), ("en", "1_250", None), ("en", "3,5,1", None), ("en", "0x10", None),
    ],
)  # fmt: skip
def test_a_number_is_read_as_people_write_it_or_asked_for_again(language, text, number):
    question, mark = Question(kind="number", name="q", label="Q"), Words(language).decimal_mark
    if number is not None:
        assert check_answers([question], {"q": text}, {}, mark) == {"q": number}
    else:
        with pytest.raises(ValueError, match="please enter a number"):
            check_answers([question], {"q": text}, {}, mark)


def test_a_long_text_is_stored_whole_in_one_line(tmp_path):
    (question,) = read(tmp_path, TEXT + "characters = 500").questions
    words = ["because"] * 60
    answer = {"t": "\n".join(words)}
    assert check_answers([question], answer, {}) == {"t": " ".join(words)}
    assert len(check_answers([question], {"t": 9 * answer["t"]}, {})["t"]) <= 500


def test_limits_are_written_as_in_the_language():
    question = Question(kind="number", name="q", label="Q", limits=(0.5, 12000))
    with pytest.raises(InvalidAnswer, match=r"a number from 0\.5 to 12000\.$") as refused:
        check_answers([question], {"q": "0"}, {})
    assert refused.value.message(Words("de")).endswith("0,5 bis 12000 ein.")


def test_hidden_questions_are_neither_required_nor_stored(tmp_path):
    text = CHOICE + (
        "[[question]]\nname = 'b'\nkind = 'text'\nlabel = 'B'\nrequired = true\n"
        "shown_if = { question = 'a', answers = ['y'] }\n"
    )
    questions = read(tmp_path, text).questions
    assert check_answers(questions, {"a": "x", "b": "sneaked"}, {}) == {"a": "x"}
    with pytest.raises(ValueError, match="“B”: please answer"):
        check_answers(questions, {"a": "y"}, {})
    strict = [q.model_copy(update={"screen_out": ("x",)}) for q in questions]
    assert is_screened_out(strict, {"a": "x"})


def test_simulated_people_pass_what_is_to_be_passed(tmp_path):
    questionnaire = read(tmp_path, FILE)
    rng = np.random.default_rng(0)
    for when in ("before", "quiz"):
        asked = [q for q in questionnaire.questions if q.when == when]
        for _ in range(20):
            answers = simulated_answers(asked, rng, {})
            assert set(check_answers(asked, answers, {})) == {q.name for q in asked}
            assert not is_screened_out(asked, answers)


@pytest.mark.parametrize(
    ("limits", "stay"),
    [
        ((1900, 2020), None),
        ((-10, -5), None),
        ((0.2, 0.4), None),
        (NUMBERS, None),
        (NUMBERS, (18, 1e9)),
        ((-1e9, 5), None),
        ((0, 40), (18, 99)),
        ((20, 120), (-1e9, 30)),
    ],
)
def test_a_simulated_number_lies_within_any_limits(limits, stay):
    """A year of birth outside 0 to 100 stopped the preview and the simulation of a study."""
    question = Question(kind="number", name="n", label="N", limits=limits, stay_within=stay)
    rng = np.random.default_rng(0)
    answers = [simulated_answers([question], rng, {}) for _ in range(40)]
    assert all(check_answers([question], answer, {}) == answer for answer in answers)
    assert not any(is_screened_out([question], answer) for answer in answers)
    numbers = [answer["n"] for answer in answers]
    assert max(numbers) - min(numbers) <= 100


@pytest.fixture(scope="module")
def asking(run, tmp_path_factory):
    """A study that asks FILE, in German, and its keys."""
    root = tmp_path_factory.mktemp("asking")
    (root / "q.toml").write_text(FILE)
    (root / "study.toml").write_text("[texts]\nquestionnaire = 'q.toml'\n")
    settings = load_settings(root / "study.toml")  # a path beside it
    update = {
        "forms": 1, "participants": 3, "language": "de", "practice": Practice(trials=0),
        "trials": {"concept_agreement": {"neighbours": 1}},
    }  # fmt: skip
    build(run, settings.model_copy(update=update), root / "study", say=lambda text: None)
    return load(root / "study")


@pytest.fixture
def service(asking, tmp_path):
    return open_service(tmp_path / "a.sqlite", *asking)


def before(service, **changed) -> dict:
    right = {q.name: q.right[0] for q in service.study.questions_at("before") if q.right}
    return {"values": {**right, "age": "40", **changed}}


QUIZ = {"values": {"pictures": "pictures", "parts": ["guess", "stop"]}}


def row_of(service, person):
    with service.store.read() as connection:
        held = select(places.c.place).where(places.c.participant == person)
        row = select(participants).where(participants.c.participant == person)
        return connection.execute(row).mappings().one(), connection.scalar(held)


def test_who_fits_and_understands_goes_on(service):
    person = arrive(service, "fits")
    page = go(service, person, Stage.BEFORE)
    assert page["html"].count("<img") == 3 and "Welche Zahl sehen Sie" in page["html"]
    for value in ("", "old", "130"):
        with pytest.raises(BadAction, match="Wie alt sind Sie"):
            service.act(page["token"], before(service, age=value))
    page, _ = service.act(page["token"], before(service, colour_2=""))
    assert page["stage"] == "instructions"
    page, _ = service.act(page["token"], fill(page))
    wrong = {"values": {"pictures": "pictures", "parts": ["stop"]}}
    page, _ = service.act(page["token"], wrong)
    assert page["stage"] == "instructions" and "noch einmal" in page["html"]
    page, _ = service.act(page["token"], fill(page))
    page, _ = service.act(page["token"], QUIZ)
    assert page["stage"] == "introduction"
    row, place = row_of(service, person)
    assert place is not None
    told = row["questionnaire"]
    assert (told["age"], told["colour_right"], told["understanding_right"]) == (40, 2, 2)


@pytest.mark.parametrize("reason", ["answers", "colour", "understanding"])
def test_who_does_not_leaves_with_a_reason_and_frees_the_place(service, reason):
    person = arrive(service, reason)
    page = go(service, person, Stage.BEFORE)
    changed = {"answers": {"age": "17"}, "colour": {"colour_1": "1", "colour_2": "1"}}
    page, _ = service.act(page["token"], before(service, **changed.get(reason, {})))
    for _ in range(2 if reason == "understanding" else 0):
        page, _ = service.act(page["token"], fill(page))
        page, _ = service.act(page["token"], {"values": {"pictures": "films"}})
    row, place = row_of(service, person)
    assert (page["stage"], row["reason"], place) == ("screened_out", reason, None)


def test_plates_differ_in_hue_and_not_in_brightness():
    """To somebody who sees brightness alone, the number is not there."""
    picture = draw_plate("74", np.random.default_rng(0))
    pixels = np.asarray(picture).astype(float)
    dots = (pixels.sum(axis=2) < 600) & (pixels.sum(axis=2) > 150)
    figure = dots & (pixels[..., 0] > pixels[..., 1] + 30)
    ground = dots & (pixels[..., 0] <= pixels[..., 1] + 30)
    light = pixels @ [0.299, 0.587, 0.114]
    gap = abs(light[figure].mean() - light[ground].mean())
    assert figure.sum() > 5000 and gap < 0.5 * light[ground].std()


def test_no_digit_of_the_plates_is_taken_for_another():
    """A 5 in dots was read as a 6, and a thin 4 as a 1, which counted as wrong."""
    digits = set("".join(map(str, PLATE_NUMBERS)))
    assert len(set(PLATE_NUMBERS)) == 12 and digits.isdisjoint("035689")

    def glyph(digit):
        image = Image.new("L", (PLATE, PLATE))
        for x in (0.31, 0.69):
            font = ImageFont.load_default(PLATE * 0.62)
            ImageDraw.Draw(image).text((PLATE * x, PLATE / 2), digit, 255, font, anchor="mm")
        return np.asarray(image) > 127

    for digit in digits:
        pixels = np.asarray(draw_plate(2 * digit, np.random.default_rng(0))).astype(int)
        figure = pixels[..., 0] > pixels[..., 1] + 30
        dots = figure | (pixels.sum(axis=2) < 600)
        assert figure[glyph(digit) & dots].mean() > 0.95
        for other in digits - {digit}:
            assert figure[glyph(other) & ~glyph(digit) & dots].mean() < 0.5, (digit, other)


def test_the_builtin_questions_are_asked_without_a_file(run, tmp_path):
    settings = StudySettings(
        forms=1, participants=1, practice=Practice(trials=0),
        trials={"concept_agreement": {"neighbours": 1}},
    )  # fmt: skip
    study = build(run, settings, tmp_path / "study", say=lambda text: None)
    assert study.questions == BUILT_IN and study.checks == ()


def own_text(run, tmp_path, text, out="study"):
    (tmp_path / "consent.md").write_text(text)
    settings = StudySettings(
        forms=1, participants=1, practice=Practice(trials=0),
        trials={"concept_agreement": {"neighbours": 1}},
        texts=Texts(consent=str(tmp_path / "consent.md")),
    )  # fmt: skip
    return build(run, settings, tmp_path / out, say=lambda text: None)


def test_pictures_of_the_researchers_are_copied_and_hashed(run, tmp_path):
    data = io.BytesIO()
    Image.new("RGB", (30, 10), "teal").save(data, "PNG")
    (tmp_path / "our lab.png").write_bytes(data.getvalue())
    study = own_text(run, tmp_path, "See ![lab](our%20lab.png) and [a link](x.png)")
    (name,) = study.own_files()
    kept = tmp_path / "study" / "images" / name
    assert kept.read_bytes() == data.getvalue() and name.endswith(".png")
    (tmp_path / "our lab.png").unlink()
    assert load(tmp_path / "study")[0].own_files() == (name,)
    kept.write_bytes(data.getvalue() + b"x")
    with pytest.raises(ValueError, match="was changed after the study was frozen"):
        load(tmp_path / "study")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("gone.png", r"gone.png cannot be read \(No such file"),
        ("text.png", r"text.png cannot be read \(not a picture\)"),
        ("picture.bmp", "is BMP, which not every browser shows"),
        ("https://example.org/a.png", "is an address: another server would learn who takes part"),
        ("//example.org/a.png", "is an address"),
    ],
)
def test_a_picture_that_cannot_be_shown_is_refused_at_build(run, tmp_path, source, told):
    (tmp_path / "text.png").write_text("no")
    Image.new("RGB", (3, 3)).save(tmp_path / "picture.bmp")
    with pytest.raises(ValueError, match=told):
        own_text(run, tmp_path, f"![x]({source})")
    assert not (tmp_path / "study").exists()


def test_simulated_people_give_no_answer_where_each_would_end_the_study():
    choices = (("left", "I have left"),)
    question = Question(
        kind="choice", name="stay", label="Stay?", choices=choices, screen_out=("left",)
    )
    assert simulated_answers([question], np.random.default_rng(0), {}) == {"stay": None}
