"""Actions that no page sends, and unusual use of links, tabs and time, are handled or refused."""

import http.client
import json
from datetime import timedelta

import pytest
from conftest import FEW
from hypothesis import given, settings
from hypothesis import strategies as st
from people import arrive, fill, go, look
from sqlalchemy import event, select, text
from test_commands import say

from survey_app import preview
from survey_app.export import tables
from survey_app.flow import ENDS, Stage
from survey_app.platforms import BadAddress, identify
from survey_app.schema import participants, responses
from survey_app.service import BadAction, Service
from survey_app.store import Store, now, open_engine
from survey_app.tokens import BadToken
from tasks.base import clean_text
from tasks.language import Words
from tasks.questionnaire import Question, check_answers
from tasks.recruitment import Codes, Entry, load_recruitment, write_recruitment
from tasks.responses import LATE_AFTER, read_table


def rows(service: Service, table=responses) -> list:
    with service.store.read() as connection:
        return connection.execute(select(table)).all()


# Actions that no page sends

NAMES = st.sampled_from(
    ["values", "milliseconds", "pastes", "tab_leaves", "device", "missing", "consent", "choice",
     "confidence", "label", "label_0", "rating", "changed", "clarity", "age", "comment", "width"]
)  # fmt: skip
ODD = st.sampled_from([10**400, -(10**400), float("nan"), float("inf"), "\ud800", "\0", "1" * 999])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=9,
)
STAGES = ("consent", "instructions", "introduction", "practice", "feedback", "trial", "questions")


@pytest.fixture(scope="module")
def service_(frozen, tmp_path_factory) -> Service:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('abuse') / 'a.sqlite'}", durable=False)
    store.migrate()
    return Service(store, *frozen)


@pytest.mark.parametrize("stage", STAGES)
def test_no_action_breaks_a_page(service_, stage):
    people = iter(range(10_000))

    @settings(max_examples=40, deadline=None)
    @given(st.dictionaries(NAMES, JSON, max_size=5))
    def send(action):
        if (page := current["page"])["stage"] != stage:
            person = arrive(service_, f"{stage}{next(people)}")
            page = look(service_, person) if stage == "consent" else go(service_, person, stage)
        try:
            current["page"], _ = service_.act(page["token"], action)
        except BadAction as error:
            assert len(str(error)) < 400
            current["page"] = page

    current = {"page": {"stage": ""}}
    send()


@pytest.mark.parametrize("odd", [float("nan"), float("-inf"), 10**400, True, "5", None, [1], {}])
def test_what_a_browser_reports_of_itself_is_stored_within_bounds(service_, odd):
    person = arrive(service_, f"reports {odd!r}"[:40])
    page = look(service_, person)
    page, _ = service_.act(page["token"], fill(page) | {"device": {"width": odd, "browser": odd}})
    page = go(service_, person, Stage.TRIAL)
    counts = dict.fromkeys(("milliseconds", "pastes", "tab_leaves"), odd)
    assert service_.act(page["token"], fill(page) | counts)[1] is True
    (row,) = [r for r in rows(service_) if (r.participant, r.role) == (person, "trial")]
    assert 0 <= row.milliseconds <= 86_400_000 and row.pastes in (0, 1000)


def test_an_answer_counts_for_the_trial_that_was_shown_and_for_no_other(service_):
    people = (arrive(service_, f"chooses{number}") for number in range(50))
    first = ((person, go(service_, person, Stage.TRIAL)) for person in people)
    # somebody whose first trial asks for a choice; the order of tasks is random
    person, page = next((p, page) for p, page in first if "choice" in fill(page)["values"])
    with service_.store.read() as connection:
        plan = service_.store.row(connection, service_.study.hash, person)["plan"]
    other = plan[5]["trial"]
    action = fill(page)
    for extra in ({"trial": other}, {"choice": other}, {"choice": "z"}, {"choice": ["a"]}):
        with pytest.raises(BadAction):
            service_.act(page["token"], action | {"values": action["values"] | extra})
    after, done = service_.act(page["token"], action | {"trial": other, "position": 5})
    assert done and after["version"] == page["version"] + 1
    changed = action | {"values": {name: "b" for name in action["values"]}}
    for late in (action, changed):  # the same page again, and with another answer
        again, done = service_.act(page["token"], late)
        assert (again["version"], done) == (after["version"], False)
    mine = [r for r in rows(service_) if r.participant == person and r.role != "practice"]
    assert [r.trial for r in mine] == [plan[0]["trial"]]
    assert mine[0].answer == action["values"]["choice"]


def ask(port: int, method: str, path: str, body=None, **headers) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_requests_that_are_no_action_are_refused_at_once(survey):
    token = b'{"token": "x", "values": '
    for status, body in (
        (413, b'{"token": "' + b"x" * 70_000 + b'"}'),
        (400, token + b"[" * 60_000),
        (400, b"\xff\xfe\xfd"),
        (400, b'"token"'),
        (400, b'{"token": 1' + b"0" * 5000 + b"}"),
        (403, token + b"{}}"),
        (403, b'{"token": "\\ud800"}'),
        (403, b'{"token": null, "milliseconds": NaN}'),
    ):
        assert ask(survey.port, "POST", "/act", body) == status, body[:40]
    assert ask(survey.port, "POST", "/act", iter([b"x" * 100] * 9)) == 413  # says no length
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        assert ask(survey.port, method, "/act") == 404
    for path in ("/img/..%2fkeys.json", "/img/%2e%2e/keys.json", "/static/..%2f..%2fkeys.json",
                 "/img//etc/passwd", "/../keys.json", "/%00"):  # fmt: skip
        assert ask(survey.port, "GET", path) in (400, 404), path
    assert [ask(survey.port, "HEAD", path) for path in ("/", "/?p=x")] == [307, 200]


# Addresses

PID = {"STUDY_ID": "6a" * 12, "SESSION_ID": "7b" * 12}


@pytest.mark.parametrize(
    "pid",
    ["5f" * 12 + " ", "5f" * 12 + "+", "5f" * 11 + "%2B", "５f" * 12, "5f" * 11 + "5а",
     "\u200b" + "5f" * 12, "5F" * 12, "{{%PROLIFIC_PID%}}", "5f" * 12 + "\n", "5f" * 500, ""],
)  # fmt: skip
def test_an_id_that_is_not_as_the_platform_sends_it_is_refused(pid):
    """An id that differs by a letter would be another person: nothing is guessed."""
    with pytest.raises(BadAddress, match="PROLIFIC_PID is missing or malformed"):
        identify({**PID, "PROLIFIC_PID": pid}, "0" * 64)


def test_an_expected_study_that_no_link_can_name_is_refused(study_folder, recruitment, tmp_path):
    for wrong in ({"studies": ("6a" * 12 + " ",)}, {"audience": "https://survey.example.org/"}):
        write_recruitment(tmp_path, recruitment.model_copy(update=wrong))
        with pytest.raises(ValueError, match=next(iter(wrong))):
            load_recruitment(tmp_path)
    assert Entry(platforms=("prolific",), signed=True, audience="survey.example.org:8443")


# People who change their mind, or whose study changes


def test_who_declines_and_agrees_after_all_is_counted_once(service):
    other = look(service, arrive(service, "declines"))
    page = look(service, arrive(service, "wavers"))
    declined, _ = service.act(page["token"], {"values": {"consent": "no"}})
    assert "Nothing about you was stored" in declined["html"]
    service.act(other["token"], {"values": {"consent": "no"}})
    assert service.places.counts() == {"places": FEW, "free": FEW, "turned away: declined": 2}
    agreed, done = service.act(page["token"], fill(page))  # by the browser's way back
    assert (agreed["stage"], done) == ("instructions", True)
    counts = {"places": FEW, "free": FEW - 1, "consented": 1, "turned away: declined": 1}
    assert service.places.counts() == counts


@pytest.mark.parametrize("choice", ["no", "screen"])
def test_who_agreed_in_one_window_and_declines_in_another_is_told_how_to_withdraw(service, choice):
    person = arrive(service, "wavers")
    other = look(service, person)
    page = go(service, person, Stage.TRIAL)
    with pytest.raises(BadAction, match="reload this page and choose “Withdraw”"):
        service.act(other["token"], {"values": {"consent": choice}})
    assert look(service, person)["html"] == page["html"]
    service.act(page["token"], {"values": {"withdraw": "yes"}})
    ended, done = service.act(other["token"], {"values": {"consent": choice}})
    assert (ended["stage"], done) == ("withdrawn", False)


def test_who_withdrew_and_comes_back_stays_out_with_the_same_code(service):
    person = arrive(service, "leaves")
    invitation = look(service, person)
    page = go(service, person, Stage.TRIAL)
    gone, _ = service.act(page["token"], {"values": {"withdraw": "yes"}})
    again, done = service.act(invitation["token"], fill(invitation))
    assert not done
    for shown in (gone, again, look(service, person)):
        assert shown["stage"] == "withdrawn" and "cc=STOP" in shown["html"]
    assert rows(service) == [] and service.places.counts()["free"] == FEW


def test_who_is_forgotten_midway_leaves_nothing_and_may_begin_anew(service):
    person = arrive(service, "is forgotten")
    page = go(service, person, Stage.TRIAL)
    page, _ = service.act(page["token"], fill(page))
    assert service.store.forget("is forgotten") == 1
    with pytest.raises(BadToken):
        service.act(page["token"], fill(page))
    assert rows(service) == rows(service, participants) == []
    assert service.places.counts() == {"places": FEW, "free": FEW}
    assert look(service, person)["stage"] == "consent"
    assert service.store.forget("") == service.store.forget("%") == 0


def test_a_page_of_before_one_began_anew_answers_no_other_trial(service):
    """After a restored backup or `forget`, an open tab has the version of another page."""
    person = arrive(service, "begins twice")
    page = go(service, person, Stage.TRIAL)
    service.store.forget("begins twice")
    go(service, arrive(service, "takes the place"), Stage.TRIAL)
    anew = go(service, person, Stage.TRIAL)
    assert anew["version"] == page["version"]
    shown, done = service.act(page["token"], fill(page))
    assert (shown["html"], done) == (anew["html"], False)
    assert service.act(anew["token"], fill(anew))[1] is True


def test_closing_and_fewer_places_take_nothing_from_who_is_inside(service, few, frozen):
    people = [arrive(service, f"inside{n}") for n in range(4)]
    for person in people:
        go(service, person, Stage.TRIAL)
    late = look(service, arrive(service, "reads consent"))
    service.places.set_state("closed")
    fewer = few.model_copy(update={"places": 2})
    anew = Service(service.store, *frozen, recruitment=fewer)
    assert "The study is closed" in anew.act(late["token"], fill(late))[0]["html"]
    assert {go(anew, person)["stage"] for person in people} == {"finished"}
    counts = {"places": FEW, "free": 2, "finished": 4, "turned away: closed": 1}
    assert anew.places.counts() == counts
    assert [row["detail"] for row in anew.places.log()][-1] == "places = 2"


def test_a_code_is_shown_at_the_end_and_never_before(service, few, frozen):
    codes = few.model_copy(update={"codes": Codes().with_random_codes()})
    service = Service(service.store, *frozen, recruitment=codes)
    secret = [code for _, code in codes.codes]
    person, pages = arrive(service, "looks for codes"), []
    page = look(service, person)
    while page["stage"] not in ENDS:
        pages.append(json.dumps(page))
        page, _ = service.act(page["token"], fill(page, len(pages)))
    assert not [code for code in secret for page in pages if code in page]
    for shown in (page, look(service, person), look(service, person)):  # the debrief, reloaded
        assert [code for code in secret if code in shown["html"]] == [
            code for code in (codes.codes.completed, codes.codes.attention) if code in page["html"]
        ]
        assert shown["version"] == page["version"]
    assert len(rows(service, participants)) == 1


@pytest.mark.parametrize("reason", ["time", "picture"])
def test_who_claims_that_every_trial_was_over_has_attended_to_none(store, frozen, few, reason):
    study, keys = frozen
    timed = Service(store, study.model_copy(update={"seconds_per_trial": 20}), keys, "human", few)
    page = go(timed, arrive(timed, "skips"), Stage.TRIAL)
    while page["stage"] != "questions":
        # The time of a trial goes on in a pause, which the page must not recommend without a word.
        assert ("while you pause" in page["html"]) == (page["stage"] == "trial")
        action = {"values": {}} if page["stage"] == "introduction" else {"missing": reason}
        page, _ = timed.act(page["token"], action)
    assert timed.act(page["token"], {"values": {}})[0]["html"].count(few.codes.attention) > 0
    data = [r for r in rows(timed) if r.role != "practice"]
    assert {(r.missing, r.answer, r.correct) for r in data} == {(reason, None, None)}
    untimed = Service(store, *frozen)
    page = go(untimed, arrive(untimed, "other"), Stage.TRIAL)
    assert "while you pause" not in page["html"]
    if reason == "time":
        with pytest.raises(BadAction):
            untimed.act(page["token"], {"missing": "time"})


# Time


def test_an_answer_after_the_time_limit_is_kept_marked_and_counted(store, frozen, tmp_path):
    study, keys = frozen
    limit = 20
    service = Service(store, study.model_copy(update={"seconds_per_trial": limit}), keys)
    taken = (3, limit + LATE_AFTER - 1, limit + LATE_AFTER + 1, 4000, -7200)  # the last: set back
    person = arrive(service, "is slow")
    page = go(service, person, Stage.TRIAL)
    moment, answered = now(), 0
    service.store.clock = lambda: moment
    while page["stage"] not in ENDS:
        with store.write() as connection:
            store.update(connection, service.study.hash, person, shown_at=moment)
        page = look(service, person)
        if page["stage"] == "trial" and answered < len(taken):
            moment += timedelta(seconds=taken[answered])
            answered += 1
        page, done = service.act(page["token"], fill(page))
        assert done
    table, people = tables(store, "human")
    data = table[table["role"] != "practice"].sort_values("position")
    assert data["late"].tolist()[:5] == [False, False, True, True, False]
    assert not data["late"].iloc[5:].any() and data["answer"].notna().all()
    assert (people["total_seconds"] >= 0).all()
    out = tmp_path / "r.csv"
    url = store.engine.url.render_as_string(hide_password=False)
    said = say("responses", "export", "--database", url, "--out", str(out))
    assert "came after the time limit (column `late`): 2" in said
    assert read_table(out)["late"].sum() == 2


def test_without_a_limit_no_answer_is_late(service):
    person = arrive(service, "has time")
    go(service, person)
    assert tables(service.store, "human")[0]["late"].isna().all()


# Export


def test_an_export_is_of_one_moment(service):
    """Someone responds between the reading of one table and the other."""
    person = arrive(service, "answers meanwhile")
    page = go(service, person, Stage.QUESTIONS)
    acted = []

    def meanwhile(connection, cursor, statement, parameters, context, executemany):
        if "FROM responses" in statement and not acted:
            acted.append(True)
            service.act(page["token"], fill(page))

    event.listen(service.store.engine, "after_cursor_execute", meanwhile)
    _, people = tables(service.store, "human")
    event.remove(service.store.engine, "after_cursor_execute", meanwhile)
    assert acted and people["status"].tolist() == ["active"]
    assert tables(service.store, "human")[1]["status"].tolist() == ["finished"]


# Free text


def test_a_text_that_nobody_sees_is_none_and_overrides_of_direction_are_taken_out():
    for empty in ("\u200b", "\u202e\u2066", "\u00ad \u200d", "\ufeff", "\u0301"):
        assert clean_text(empty) == ""
    assert clean_text("a\u202eb\u2069 c") == "a b c"
    for kept in ("👩‍🎨", "می‌خواهم", "نص עברית text", "…", "क्ष", "3 €"):
        assert clean_text(kept) == kept
    long = clean_text("word " * 100_000)
    assert len(long) <= 120 and clean_text(long) == long, "the analysis would refuse it"
    asked = Question(kind="text", name="why", label="Why?", required=True)
    with pytest.raises(ValueError, match="please answer this question"):
        check_answers([asked], {"why": "\u200b"}, {})
    number = Question(kind="number", name="n", label="How many?")
    for wrong in ("1_8", "nan", "inf", "0x10", "1e999", True, ["1"], {}):
        with pytest.raises(ValueError, match="enter a number"):
            check_answers([number], {"n": wrong}, {})


def test_a_field_for_text_takes_the_direction_of_what_is_written(service):
    page = go(service, arrive(service, "writes arabic"), Stage.QUESTIONS)
    assert '<textarea rows="4" dir="auto" name="comment"' in page["html"]
    assert Words(service.study.language).direction == "ltr"


# Databases and previews


def test_a_password_with_special_characters_is_taken_or_explained_and_never_shown():
    for secret in ("12/hush", "hush:9#?", "hu%zz/sh", "p%40s%2Fs"):
        engine = open_engine(f"postgresql://user:{secret}@127.0.0.1:9/none")
        assert engine.url.password == secret.replace("%40", "@").replace("%2F", "/")
        assert engine.url.host == "127.0.0.1"
    for wrong in ("user:p@ss@host/none", "user:pass@host:port/none"):
        with pytest.raises(ValueError, match="write @ as %40") as told:
            open_engine(f"postgresql://{wrong}")
        assert "ss" not in str(told.value).replace("password", "")


def test_a_database_in_memory_is_refused(study_folder):
    for url in ("sqlite://", "sqlite:///:memory:"):
        told = say("survey", str(study_folder), "--database", url, "--pilot", error=ValueError)
        assert "is lost when the command ends" in told


def test_a_database_of_another_version_is_one_sentence(store):
    with store.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ValueError, match="by another version of this software: .*9999"):
        store.migrate()


def test_a_preview_reflects_nothing_of_its_address(service):
    shown = preview.page(service, "<script>alert(1)</script>")["html"]
    assert "<script" not in shown and "alert" not in shown
