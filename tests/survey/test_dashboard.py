"""The researcher's page: behind its password, apart from the participants, and right."""

import socket
from html import escape

import pandas as pd
import pytest
from command_line import say
from conftest import SET, Survey
from oidc_provider import Provider
from people import arrive, fill, go, open_service
from streamlit.testing.v1 import AppTest
from visitors import needs_browser

import survey_app
from survey_app.export import tables
from survey_app.figures import (
    accuracy,
    agreement,
    people_flow,
    per_condition,
    per_form,
    per_trial,
    rates,
    written_answers,
)
from survey_app.flow import Stage
from survey_app.passwords import OIDC, VARIABLE, hash_password
from survey_app.places import Places
from survey_app.service import Service
from tasks.recruitment import load_recruitment
from tasks.responses import find_inattentive, read_table

pytestmark = needs_browser

EVIL = "<img src=x onerror=alert(1)>"


class Dashboard(Survey):
    command = "dashboard(Path(sys.argv[1]), sys.argv[2], 0, '127.0.0.1')"
    ready = "/_stcore/health"


@pytest.fixture
def filled(frozen, tmp_path) -> Service:
    """Two who finished (one with a comment in markup), one midway."""
    service = open_service(tmp_path / "a.sqlite", *frozen)
    for name in "ab":
        page = go(service, arrive(service, name), Stage.QUESTIONS)
        service.act(page["token"], fill(page) | {"values": {"comment": EVIL}})
    go(service, arrive(service, "c"), Stage.TRIAL)
    return service


def test_the_figures_by_hand(filled, frozen):
    study, _ = frozen
    answers, people = tables(filled.store, "human")
    flow = people_flow(people, [], 60).set_index("status")
    assert flow.loc["finished", "people"] == 2
    assert flow.loc["active", "people"] == 1
    assert written_answers(people, study) == [f"Do you have any comments? {EVIL}"] * 2
    conditions = per_condition(answers[answers["role"] != "practice"])
    assert (conditions["answers"].sum(), conditions["missing"].sum()) == (2 * SET, 0)
    trials = per_trial(answers, study, 60)
    assert trials["answers"].sum() == 2 * SET
    # A trial without a response was counted as a response, and its time in the median.
    (condition,) = answers.loc[answers["role"] == "trial", "condition"][:1]
    lost = (answers["condition"] == condition) & (answers["role"] == "trial")
    timed = answers.assign(milliseconds=answers["milliseconds"].mask(lost, 30_000))
    timed["missing"] = timed["missing"].mask(lost, "time")
    row = per_condition(timed[lost]).iloc[0]
    assert (row["answers"], row["missing"]) == (0, lost.sum()) and row["median seconds"] != 30
    assert per_trial(timed, study, 60)["answers"].sum() == 2 * SET - lost.sum()
    assert set(trials["quota"]) == {30}  # sixty places over two forms
    forms = per_form(answers, people, study, 61)
    assert forms.to_dict("list") == {  # the third has only practised
        "form": [0, 1], "started": [1, 1], "finished": [1, 1], "places": [31, 30],
    }  # fmt: skip
    correct = pd.Series([True] * 8 + [False] * 2)
    assert accuracy(correct) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)  # Wilson, by hand
    # Two people did different forms: no trial has two answers, so there are no pairs.
    assert agreement(answers) != agreement(answers)


def test_the_first_participant_has_figures_though_nobody_has_finished(frozen, tmp_path):
    """The median time of nobody ended the page with an error."""
    service = open_service(tmp_path / "a.sqlite", *frozen)
    go(service, arrive(service, "first"), Stage.INSTRUCTIONS)
    answers, people = tables(service.store, "human")
    figures = rates(answers, people)
    assert figures["value"].isna().all()
    assert per_form(answers, people, frozen[0], 60)["started"].tolist() == [0, 0]
    assert per_condition(answers).empty


def test_only_those_who_finished_are_counted_as_inattentive(filled):
    """Somebody midway may still pass; an attention trial not answered in time is incorrect."""
    answers, people = tables(filled.store, "human")
    checks = answers["role"] == "attention"
    lapsed = answers.assign(
        correct=answers["correct"].mask(checks, pd.NA),
        missing=answers["missing"].mask(checks, "time"),
    )
    assert find_inattentive(answers, 0.0) == []
    assert len(find_inattentive(lapsed, 0.8)) == 2 and find_inattentive(lapsed, None) == []
    flow = people_flow(people, list(people["participant"]), 60).set_index("status")
    assert flow.loc["finished, but inattentive", "people"] == 2


def test_a_dashboard_opened_before_the_survey_sets_no_places(frozen, study_folder, tmp_path):
    """It created 260 places, whatever recruitment.toml says, for which more people were paid."""
    from survey_app import server

    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    dashboard = ("dashboard", study_folder, "--database", url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, hash_password("secret"))
        assert "holds no survey" in say(*dashboard, error=ValueError)
        few = load_recruitment(study_folder).model_copy(update={"places": 3})
        pilot = open_service(url, *frozen, "pilot", few)
        for name, value in server.environment(study_folder, frozen[0].hash, url).items():
            patch.setenv(name, value)
        server.open_survey.cache_clear()
        store, study, _ = server.open_survey()
        assert Places(store, study.hash, "human").counts() == {"places": 0, "free": 0}
        human = Service(pilot.store, *frozen, "human", few)
        assert human.places.counts()["places"] == 3


def test_a_title_is_shown_as_it_is_frozen(filled, frozen, monkeypatch):
    """Streamlit's own title reads Markdown, in which this one is "Cats"."""
    title = "*Cats* & $x$ or :red[x] <b>"
    titled = frozen[0].model_copy(update={"title": title})
    monkeypatch.setattr("survey_app.server.open_survey", lambda: (filled.store, titled, {}))
    page = AppTest.from_file(survey_app.__path__[0] + "/dashboard.py", default_timeout=30)
    page.session_state["allowed"] = True
    page.run()
    assert not page.exception
    assert f"<h1>{escape(title)}</h1>" in [html.proto.body for html in page.get("html")]


def test_the_page_needs_its_password(browser, filled, study_folder, monkeypatch):
    monkeypatch.setenv(VARIABLE, hash_password("secret"))
    url = filled.store.engine.url.render_as_string(hide_password=False)
    served = Dashboard(study_folder, url)
    try:
        page = browser.new_page(viewport={"width": 1100, "height": 2200})
        page.goto(served.address)
        for typed in ("wrong", "secret"):
            page.locator("input[type=password]").fill(typed)
            page.get_by_role("button", name="Sign in").click()
            if typed == "wrong":
                page.get_by_text("That is not the password").wait_for()
                assert page.get_by_text("Responses per condition").count() == 0
        page.get_by_text("Responses per condition").wait_for()
        page.get_by_text(EVIL).first.wait_for()  # shown, not run
        assert page.locator("img[src=x]").count() == 0
        with page.expect_download() as download:
            page.get_by_role("button", name="Download responses").click()
        assert len(read_table(download.value.path())) == len(tables(filled.store, "human")[0])
    finally:
        served.close()


@pytest.mark.slow
def test_signing_in_by_oidc(browser, filled, study_folder, monkeypatch, tmp_path):
    """Only a named address that the provider has verified sees the study."""
    provider = Provider()
    with socket.socket() as probe:  # the provider sends people back here
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "secrets.toml").write_text(
        f'[auth]\nredirect_uri = "http://127.0.0.1:{port}/oauth2callback"\n'
        f'cookie_secret = "{"0" * 40}"\nclient_id = "client"\nclient_secret = "hush"\n'
        f'server_metadata_url = "{provider.address}/.well-known/openid-configuration"\n'
    )
    monkeypatch.setenv(OIDC, "alice@example.org, bob@example.org")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(Dashboard, "command", Dashboard.command.replace(" 0,", f" {port},"))
    url = filled.store.engine.url.render_as_string(hide_password=False)
    served = Dashboard(study_folder, url, cwd=tmp_path)
    try:
        for name, sees in (("mallory", False), ("typed", False), ("alice", True)):
            page = browser.new_context().new_page()
            page.goto(served.address)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("link", name=name).click()
            if sees:
                page.get_by_text("Responses per condition").wait_for()
            else:
                page.get_by_text("This account may not see the study").wait_for()
                assert page.get_by_text("Responses per condition").count() == 0
            page.context.close()
    finally:
        served.close()
        provider.close()


def test_participants_never_meet_it(browser, survey):
    page = browser.new_page()
    for path in ("/dashboard", "/?page=dashboard", "/~/+/dashboard"):
        page.goto(survey.address + path)
        page.wait_for_timeout(1500)
        assert page.locator("input[type=password]").count() == 0
        assert "Researcher" not in page.content()
