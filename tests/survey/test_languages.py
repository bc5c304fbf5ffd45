"""Every word that a participant reads comes from the catalogue, complete in every language."""

import re
import shutil
from html import escape, unescape
from pathlib import Path

import pytest
from people import arrive, fill, go, look, open_service

import survey_app
from survey_app.endings import REASONS
from survey_app.first_page import first_page
from survey_app.flow import Stage
from survey_app.participant_state import ParticipantState
from survey_app.views import View
from tasks.base import InvalidAnswer, check_values
from tasks.build import build
from tasks.catalogue import marked_texts
from tasks.contact_sheet import contact_sheet
from tasks.kinds import all_tasks
from tasks.language import LOCALES, SOURCE, Words, _translations, languages, read_catalogue
from tasks.settings import Attention, Payment, StudySettings
from tasks.study import load

TRANSLATED = [language for language in languages() if language != SOURCE]
ONE_EACH = {
    name: {next(iter(all_tasks().get(name).conditions)): 1} for name in ("odd_one_out",)
} | {name: dict.fromkeys(all_tasks().get(name).conditions, 1) for name in ("concept_agreement",)}


def test_the_promised_languages_are_there():
    assert set(languages()) == {"ar", "de", "en", "es", "zh"}
    assert Words("ar").direction == "rtl" and Words("de").direction == "ltr"
    with pytest.raises(ValueError, match="language 'xx'; choose one of ar, de, en, es, zh"):
        StudySettings(language="xx")


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_text_is_translated(language):
    catalogue = {str(m.id): m for m in read_catalogue(language) if m.id}
    assert sorted(catalogue) == marked_texts(), "run `python -m tasks.catalogue` and translate"
    for text, message in catalogue.items():
        assert message.string and not message.fuzzy, f"{language}.po lacks {text!r}"
        assert str(message.string).count("**") == text.count("**"), text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'msgid "Continue"\nContinuer\n', r"fr.po cannot be read: .* on 1"),
        (
            b'msgid "Yes"\nmsgstr "Oui"\n\nmsgid "No"\nmsgstr "Non"\n\nmsgid "Yes"\nmsgstr "Si"\n',
            "fr.po cannot be read: 'Yes' has two translations, the second on 7",
        ),
        ('msgid "Continue"\nmsgstr "Achevé"\n'.encode("latin-1"), "is not UTF-8; save the file"),
    ],
)
def test_a_catalogue_that_cannot_be_read_is_one_sentence(add_catalogue, tmp_path, content, told):
    (tmp_path / "locale" / "fr.po").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        Words("fr")
    (tmp_path / "locale" / "nl.po").write_bytes(b'\xef\xbb\xbfmsgid "Continue"\nmsgstr "Verder"\n')
    assert Words("nl")("Continue") == "Verder"


class Pseudo(Words):
    """A language in which every text of the catalogue is a row of x: other letters are literals."""

    def __init__(self, own: set[str]) -> None:
        super().__init__()
        self._texts = {text: _pseudo(text) for text in {*marked_texts(), *own}}

    def duration(self, number, unit):
        return _pseudo(super().duration(number, unit))


def _pseudo(text: str) -> str:
    return "".join(
        part if part.startswith("{") else re.sub(r"[^\W\d_]", "x", part)
        for part in re.split(r"(\{\w+\})", text)
    )


def literals(html: str) -> list[str]:
    """Return the readable texts and attributes of a page that are not in the catalogue."""
    attributes = re.findall(r'(?:alt|aria-label|title|placeholder)="([^"]*)"', html)
    texts = re.sub(r"<[^>]*>|\{\w+\}", " ", html)
    return [
        w
        for w in re.findall(r"[^\W\d_]+", unescape(" ".join([texts, *attributes])))
        if set(w) != {"x"}
    ]


@pytest.fixture
def pseudo(frozen, tmp_path):
    """A service whose study is all in pseudo-language; the researcher's texts are x as well."""
    study, keys = frozen
    written = study.model_dump(mode="json")
    kept = {"id", "name", "kind", "task", "condition", "role", "image", "images", "series", "layer"}

    def translate(value, name=""):
        if isinstance(value, dict):
            return {k: v if k in kept else translate(v, k) for k, v in value.items()}
        if name == "choices":
            return [(v, _pseudo(label)) for v, label in value]
        if isinstance(value, list):
            return [translate(v, name) for v in value]
        shown = {
            "title",
            "consent",
            "instructions",
            "debrief",
            "prompt",
            "heading",
            "text",
            "label",
            "low",
            "high",
        }
        return _pseudo(value) if isinstance(value, str) and name in shown else value

    questions = [
        {"kind": "number", "name": "years", "label": "Years?", "when": "before"},
        {"kind": "text", "name": "why", "label": "Why?", "when": "quiz"},
        *written["questions"],
    ]
    written |= {"questions": questions, "seconds_per_trial": 60, "min_width": 300}
    copy = type(study).model_validate(translate(written))
    copy.__dict__["words"] = Pseudo(set())
    made = open_service(tmp_path / "x.sqlite", copy, keys)
    made.view.words = copy.__dict__["words"]
    yield made
    made.store.engine.dispose()


def test_no_page_has_a_word_outside_the_catalogue(pseudo):
    pages = []
    person = arrive(pseudo, "reads")
    page = look(pseudo, person)
    while page["stage"] not in ("finished", "screened_out"):
        pages.append(page)
        page, _ = pseudo.act(page["token"], fill(page, len(pages)))
    pages += [page, pseudo.view.preview()]
    reasons = [(Stage.SCREENED_OUT, reason) for reason in REASONS]
    for stage, reason in [*reasons, (Stage.EXPIRED, ""), (Stage.WITHDRAWN, "")]:
        at = ParticipantState(stage=stage, reason=reason, platform="prolific", code="DONE")
        pages.append(pseudo.view.page(at))
    turk = {"assignmentId": "1", "turkSubmitTo": "https://www.mturk.com/mturk/externalSubmit"}
    pages.append(
        pseudo.view.page(ParticipantState(stage=Stage.FINISHED, platform="mturk", identity=turk))
    )
    allowed = {"DONE"}
    for page in pages:
        assert set(literals(page["html"])) <= allowed, page["stage"]
    assert {p["stage"] for p in pages} == set(Stage) | {"still"}
    assert not literals(" ".join(pseudo.view.browser().values()))
    first = first_page(pseudo.view.words, "x").partition("<body")[2]
    assert not literals(re.sub("<(style|script).*?</.*?>", "", first, flags=re.DOTALL))


def test_the_component_says_nothing_of_its_own(frozen):
    """What the script shows comes from the catalogue: `setStatus` gets a word of it, or nothing."""
    script = (Path(survey_app.__file__).parent / "component/page.js").read_text(encoding="utf-8")
    said = re.findall(r"\bsetStatus\((.*?)\);", script)
    assert said and not [a for a in said if a != '""' and a != "(await reply.json()).error"
                         and not re.fullmatch(r"words\.\w+", a)]  # fmt: skip
    used = set(re.findall(r"\bwords\.(\w+)", script))
    assert used == set(View(frozen[0], 60).browser())


@pytest.fixture
def add_catalogue(tmp_path, monkeypatch):
    """A function that adds a catalogue to copies of the others."""
    monkeypatch.setattr("tasks.language.LOCALES", tmp_path / "locale")
    shutil.copytree(LOCALES, tmp_path / "locale")

    def add(language: str, **texts: str) -> None:
        entries = [f'msgid "{text}"\nmsgstr "{said}"\n' for text, said in texts.items()]
        (tmp_path / "locale" / f"{language}.po").write_text("\n".join(entries))

    yield add
    _translations.cache_clear()


def test_a_catalogue_half_done_is_said_and_one_that_would_break_a_page_is_refused(
    add_catalogue, run, tmp_path
):
    add_catalogue("pt_BR", Continue="Continuar")
    said: list[str] = []
    settings = StudySettings(forms=1, participants=2, language="pt_BR", trials=ONE_EACH)
    build(run, settings, tmp_path / "study", say=said.append, note=said.append)
    assert f"{len(marked_texts()) - 1} texts will be shown in English" in said[0]
    page = first_page(Words("pt_BR"), "")
    assert '<html lang="pt-BR"' in page and '<p lang="pt-BR"' in page
    add_catalogue("sv", Continue=" ")
    assert Words("sv")("Continue") == "Continue" and "Continue" in Words("sv").untranslated()
    add_catalogue("fr", **{"Trial {number} of {total}": "Essai {numero} sur {total}"})
    with pytest.raises(ValueError, match="the names in braces must be those of 'Trial {number}"):
        Words("fr")
    add_catalogue("it", **{"Trial {number} of {total}": "Prova {number:d} di {total}"})
    with pytest.raises(ValueError, match="the names in braces must be those of 'Trial {number}"):
        Words("it")  # `:d` would fail when the page is shown
    for form in ('msgctxt "menu"\nmsgid "Continue"', 'msgid "Continue"\nmsgid_plural "Go on"'):
        (tmp_path / "locale" / "nb.po").write_text(f'{form}\nmsgstr "Fortsett"\n')
        with pytest.raises(ValueError, match="nb.po: .*Continue.* has msgid_plural or msgctxt"):
            Words("nb")
    for code in ("xx", "my language"):
        add_catalogue(code)
        with pytest.raises(ValueError, match="CLDR has no such language"):
            StudySettings(language=code)


def test_durations_have_the_form_that_their_number_requires():
    assert [Words("en").duration(n, "minute") for n in (1, 2.5)] == ["1 minute", "2.5 minutes"]
    assert Words("de").duration(2.5, "second") == "2,5 Sekunden"
    arabic = Words("ar")
    assert [arabic.duration(n, "minute") for n in (7, 15)] == ["7 دقائق", "15 دقيقة"]


@pytest.mark.slow
def test_where_words_are_not_separated_the_similarity_of_words_is_called_in_question(
    add_catalogue, run, tmp_path
):
    add_catalogue("zh_Hant")
    for language, told in (("zh", True), ("zh_Hant", True), ("de", False)):
        notes: list[str] = []
        settings = StudySettings(forms=1, participants=2, language=language, trials=ONE_EACH)
        build(run, settings, tmp_path / language, say=lambda text: None, note=notes.append)
        assert any("'words' counts only equal labels" in note for note in notes) is told


def test_a_study_is_frozen_in_its_language(run, tmp_path):
    settings = StudySettings(forms=1, participants=2, language="de", trials=ONE_EACH)
    build(run, settings, tmp_path / "study", say=lambda text: None)
    study, keys = load(tmp_path / "study")
    assert (study.language, study.title) == ("de", "Was haben diese Bilder gemeinsam?")
    assert "Teilnahme ist freiwillig" in study.consent
    service = open_service(tmp_path / "a.sqlite", study, keys)
    page = go(service, arrive(service, "liest"), Stage.TRIAL)
    assert "Weiter" in page["html"] and "Aufgabe 1 von" in page["html"]
    service.store.engine.dispose()


@pytest.mark.parametrize("frozen_in", ["en", "de"])
def test_the_contact_sheet_shows_a_study_in_each_language(run, tmp_path, frozen_in):
    trials = {"concept_agreement": {"neighbours": 1}}
    paid = Payment(text="You are paid *£3* & a_b_c.")
    settings = StudySettings(
        forms=1, participants=1, language=frozen_in, trials=trials, attention=Attention(trials=0),
        payment=paid,
    )  # fmt: skip
    build(run, settings, tmp_path / "study", say=lambda text: None)
    sheet = contact_sheet(*load(tmp_path / "study"), tmp_path / "study").read_text("utf-8")
    shown = dict(re.findall(r'<details[^>]* lang="(\w+)" dir="\w+">(.*?)</details>', sheet, re.S))
    assert set(shown) == set(languages())
    assert "**" not in sheet and "<strong>" in shown["de"]
    for language, text in shown.items():
        words = Words(language)
        assert "You are paid *£3* &amp; a_b_c." in text  # which participants read as it stands
        for source in ("What do these pictures have in common?", "How old are you?", "Clearly yes"):
            assert escape(words(source)) in text, (language, source)
    assert 'lang="ar" dir="rtl"' in sheet


def test_what_is_wrong_with_an_answer_is_said_in_plain_words_of_the_language(frozen):
    study, _ = frozen
    trial = next(t for t in study.trials if t.task == "evolution_labelling")
    fields = all_tasks().get(trial.task).fields(trial)
    with pytest.raises(InvalidAnswer) as error:
        check_values(fields, trial, {"label_0": " "})
    assert "label_0" not in str(error.value)
    german = "„In wenigen Wörtern“: Bitte schreiben Sie einige Wörter, oder kreuzen Sie"
    assert error.value.message(Words("de")).startswith(german)
