"""Nothing sent to a browser reveals a key, and nothing it sends changes another's trial."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from people import arrive, fill, go, look, open_service
from sqlalchemy import func, select

from survey_app import tokens
from survey_app.flow import Stage
from survey_app.platforms import BadAddress, Visitor, identify, make_open_link
from survey_app.schema import participants, responses
from survey_app.service import BadAction
from tasks.kinds import all_tasks
from tasks.recruitment import load_recruitment

SECRET = "0" * 64
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def sqlite_service(frozen, study_folder, tmp_path_factory):
    return open_service(
        tmp_path_factory.mktemp("db") / "x.sqlite",
        *frozen,
        recruitment=load_recruitment(study_folder),
    )


def pages(service, person):
    """Return all pages of a session, in order."""
    page = look(service, person)
    yield page
    while page["stage"] not in ("finished", "screened_out"):
        page, _ = service.act(page["token"], fill(page))
        yield page


def test_no_page_names_a_key_a_condition_a_role_or_a_neuron(sqlite_service, frozen):
    study, _ = frozen
    secret = {t.condition for t in study.trials} - {"random", "base", "evolution"}
    secret |= {t.id for t in study.trials} | {"attention", '"key"', '"correct"', "intruder"}
    secret |= {n.layer for t in study.trials for n in t.neurons} - {"middle"}
    for page in pages(sqlite_service, arrive(sqlite_service, "looks")):
        if page["stage"] in ("practice", "trial"):
            sent = json.dumps({k: v for k, v in page.items() if k != "token"})
            assert not [word for word in secret if word in sent]
            assert page["stage"] == "practice" or "correct" not in sent  # feedback names it


def test_pages_of_one_task_differ_only_in_pictures(sqlite_service):
    """Attention trials and controls look like any other trial, down to the length of the page."""
    shapes: dict[str, set[str]] = {}
    for page in pages(sqlite_service, arrive(sqlite_service, "shapes")):
        if page["stage"] == "trial":
            html = re.sub(r"img/[0-9a-f]{32}\.jpg|value=\"[a-f]\"", "X", page["html"])
            html = re.sub(r'<p class="count">.*?</div>', "", html, flags=re.DOTALL)
            prompt = re.search(r"<h1.*?</h1>", html)[0]
            shapes.setdefault(prompt, set()).add(html)
    assert len(shapes) == 4
    assert all(len(found) == 1 for found in shapes.values())


def test_what_comes_back_does_not_depend_on_the_answer_being_right(frozen, tmp_path):
    """Two people in the same place of the design, one always right, one always wrong."""
    study, keys = frozen
    told = []
    for right in (True, False):
        service = open_service(f"sqlite:///{tmp_path / str(right)}.sqlite", *frozen)
        page = go(service, arrive(service, "x"), Stage.TRIAL)
        seen = []
        while page["stage"] == "trial":
            with service.store.read() as connection:
                row = connection.execute(select(participants)).mappings().one()
            trial = study.by_id[row["plan"][row["done"]]["trial"]]
            action = fill(page)
            if trial.options:
                wrong = next(o.id for o in trial.options if o.id != keys[trial.id])
                action["values"]["choice"] = keys[trial.id] if right else wrong
            page, _ = service.act(page["token"], action)
            seen.append((page["html"], page["preload"]))
        told.append(seen)
    assert told[0] == told[1]


def test_a_token_is_for_one_person_and_one_page(sqlite_service):
    mine, theirs = arrive(sqlite_service, "mine"), arrive(sqlite_service, "theirs")
    page = go(sqlite_service, mine, Stage.TRIAL)
    before = look(sqlite_service, theirs)
    body, mac = page["token"].split(".")
    step = tokens.Step(theirs, before["version"], "")
    forged = tokens.sign(step, "another secret").split(".")[0]
    for token in (f"{forged}.{mac}", body, f"{body}.", f"{body}.{mac[:-1]}0", "", None, 7, "é.é"):
        if token == page["token"]:
            continue
        with pytest.raises(tokens.BadToken):
            sqlite_service.act(token, fill(page))
    assert look(sqlite_service, theirs)["version"] == before["version"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    action=st.dictionaries(st.sampled_from(["values", "milliseconds", "pastes", "x"]), json_values)
)
@pytest.mark.parametrize("stage", [Stage.CONSENT, Stage.TRIAL, Stage.QUESTIONS])
def test_no_form_field_breaks_the_service(sqlite_service, stage, action):
    person = arrive(sqlite_service, f"fuzz {stage}")
    page = go(sqlite_service, person, stage)
    try:
        after, done = sqlite_service.act(page["token"], action)
        assert done == (after["version"] == page["version"] + 1)
    except BadAction:
        assert look(sqlite_service, person)["version"] == page["version"]


@settings(max_examples=300, deadline=None)
@given(
    parameters=st.dictionaries(
        st.sampled_from(
            [
                "PROLIFIC_PID",
                "STUDY_ID",
                "SESSION_ID",
                "assignmentId",
                "workerId",
                "turkSubmitTo",
                "p",
            ]
        ),
        st.text(max_size=80)
        | st.sampled_from(["a", "https://x@www.mturk.com", "http://[", "\x00"]),
    )
)
def test_no_address_breaks_the_arrival(parameters):
    try:
        found = identify(parameters, SECRET)
    except BadAddress as error:
        assert "<" not in str(error)
        return
    assert found is None or found.platform in ("prolific", "mturk", "open")


def test_only_links_made_here_open(frozen):
    link = make_open_link(SECRET)
    assert re.fullmatch("[0-9a-f]{38}", link)  # "-" at its beginning is an option for commands
    assert identify({"p": link}, SECRET) == identify({"p": link, "more": "x"}, SECRET)
    for other in ("bob", link[:-1] + ("0" if link[-1] != "0" else "1"), "A" + link[1:] + "x"):
        with pytest.raises(BadAddress, match="This link is not complete"):
            identify({"p": other}, SECRET)


def test_prolific_and_mturk_are_read(frozen):
    prolific = {"PROLIFIC_PID": "5f" * 12, "STUDY_ID": "s", "SESSION_ID": "t"}
    for more in ({}, {"assignmentId": "ASSIGNMENT_ID_NOT_AVAILABLE"}):
        found = identify(prolific | more, SECRET)
        assert (found.platform, found.platform_id, found.preview) == ("prolific", "5f" * 12, False)
    with pytest.raises(BadAddress, match="does not accept Prolific's secured links"):
        identify({"prolific_token": "e.y.J"}, SECRET)
    turk = {"assignmentId": "A1", "hitId": "H1", "workerId": "A1B2C3"}
    good = identify({**turk, "turkSubmitTo": "https://workersandbox.mturk.com"}, SECRET)
    assert good.details["turkSubmitTo"] == "https://workersandbox.mturk.com/mturk/externalSubmit"
    for bad in (
        "http://www.mturk.com",
        "https://mturk.com.evil.org",
        "https://evil.org#.mturk.com",
        "https://x@www.mturk.com",
        "javascript:alert(1)",
        "https://www.mturk.com:99",
        "",
    ):
        with pytest.raises(BadAddress, match="turkSubmitTo"):
            identify({**turk, "turkSubmitTo": bad}, SECRET)


def test_a_preview_stores_nothing(sqlite_service):
    visitor = sqlite_service.identify({"assignmentId": "ASSIGNMENT_ID_NOT_AVAILABLE"})
    assert visitor.preview
    page = sqlite_service.view.preview()
    assert "<form" not in page["html"]
    with sqlite_service.store.read() as connection:
        platforms = connection.scalars(select(participants.c.platform)).all()
    assert "mturk" not in platforms


def test_mturk_gets_its_form_at_the_end(sqlite_service):
    details = {"assignmentId": "A1", "turkSubmitTo": "https://www.mturk.com/mturk/externalSubmit"}
    person, other = (
        arrive(sqlite_service, Visitor("mturk", worker, details=details)) for worker in ("W9", "W8")
    )
    consent = look(sqlite_service, other)
    declined, _ = sqlite_service.act(consent["token"], {"values": {"consent": "no"}})
    for html in (go(sqlite_service, person)["html"], declined["html"]):
        assert 'method="post" data-native action="https://www.mturk.com/mturk/external' in html
        assert '<input type="hidden" name="assignmentId" value="A1">' in html


def test_markup_shows_as_text(frozen, tmp_path):
    from survey_app.flow import Stage as S
    from survey_app.participant_state import ParticipantState
    from survey_app.views import View
    from tasks.files import render_markdown

    study, _ = frozen
    evil = "<img src=x onerror=alert(1)>"
    view = View(
        study.model_copy(update={"title": evil, "consent": evil + " [x](javascript:alert(1))"}), 60
    )
    html = view.page(ParticipantState(S.CONSENT))["html"]
    assert "<img" not in html
    assert "&lt;img" in html
    assert 'href="javascript' not in html
    assert "<b>" not in render_markdown("<b>bold</b>")


@pytest.mark.parametrize(
    ("missing", "code"), [(None, "DONE-A"), ("picture", "DONE"), ("right", "DONE")]
)
def test_failed_attention_gets_its_own_code(sqlite_service, missing, code):
    """A picture that could not be loaded is no failure, as in the analysis."""
    study, keys = sqlite_service.study, sqlite_service.keys
    person = arrive(sqlite_service, f"attends, {missing}")
    page = go(sqlite_service, person, Stage.TRIAL)
    while page["stage"] != "finished":
        action = fill(page)
        with sqlite_service.store.read() as connection:
            row = sqlite_service.store.row(connection, study.hash, person)
        trial = study.by_id[row["plan"][row["done"]]["trial"]] if page["stage"] == "trial" else None
        if trial is not None and trial.role == "attention":
            wrong = next(o.id for o in trial.options if o.id != keys[trial.id])
            action["values"]["choice"] = keys[trial.id] if missing == "right" else wrong
            action |= {"missing": missing}
        page, _ = sqlite_service.act(page["token"], action)
    with sqlite_service.store.read() as connection:
        row = sqlite_service.store.row(connection, study.hash, person)
    assert row["code"] == code
    checks = sum(study.by_id[planned["trial"]].role == "attention" for planned in row["plan"])
    assert row["attention_right"] == (checks if missing == "right" else 0)


def test_paste_and_leaving_are_recorded_and_bounded(sqlite_service):
    person = arrive(sqlite_service, "pastes")
    page = go(sqlite_service, person, Stage.TRIAL)
    extra = {"pastes": 2.4, "tab_leaves": 10**9, "milliseconds": -5}
    sqlite_service.act(page["token"], fill(page) | extra)
    with sqlite_service.store.read() as connection:
        row = connection.execute(
            select(responses).where(responses.c.participant == person, responses.c.role == "trial")
        ).one()
        assert connection.scalar(select(func.count()).select_from(responses)) > 0
    assert (row.pastes, row.tab_leaves, row.milliseconds) == (2, 1000, 0)


def test_views_know_no_task_by_name():
    root = Path(__file__).parents[2] / "survey_app"
    for path in [*root.glob("*.py"), *root.glob("component/*"), *root.glob("templates/*")]:
        for name in all_tasks():
            assert f'"{name}"' not in path.read_text(encoding="utf-8"), path
