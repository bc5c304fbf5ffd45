"""The study at Prolific: its draft, places given on, approvals; against a double of its API."""

import shutil

import pytest
from command_line import say
from people import arrive, fill, go, look, open_service
from prolific_double import TOKEN, Prolific

from survey_app import prolific
from survey_app.flow import Stage
from survey_app.platforms import Visitor
from survey_app.signed_links import API
from tasks.recruitment import load_recruitment, write_recruitment


@pytest.fixture
def double(monkeypatch):
    made = Prolific()
    monkeypatch.setenv(API, made.address)
    monkeypatch.setenv(prolific.TOKEN, TOKEN)
    yield made
    made.close()


@pytest.fixture
def folder(study_folder, tmp_path):
    copy = tmp_path / "study"
    shutil.copytree(study_folder, copy)
    return copy


DRAFT = ("--address", "https://survey.org/", "--reward", "300", "--description", "Look.")


def test_a_draft_has_this_studys_codes(double, folder, frozen):
    told = say("prolific", "draft", str(folder), *DRAFT)
    (made,) = double.studies
    assert made["id"] in told and load_recruitment(folder).studies == (made["id"],)
    sent = {code["code"]: code["actions"][0]["action"] for code in made["completion_codes"]}
    assert sent == {
        "DONE": "MANUALLY_REVIEW", "DONE-A": "MANUALLY_REVIEW", "OUT": "MANUALLY_REVIEW",
        "NO": "REQUEST_RETURN", "STOP": "REQUEST_RETURN", "FULL": "REQUEST_RETURN",
        "LATE": "REQUEST_RETURN",
    }  # fmt: skip
    assert made["external_study_url"].startswith("https://survey.org/?PROLIFIC_PID={{%PROLIFIC_PID")
    assert (made["total_available_places"], made["reward"]) == (60, 300)
    assert made["estimated_completion_time"] == frozen[0].minutes
    assert say("study", "check", str(folder))  # recruitment.toml is no part of the study


def test_mistakes_before_any_money(double, folder, monkeypatch):
    told = say("prolific", "poll", str(folder), error=ValueError)
    assert "studies is empty" in told
    assert "holds no readable study" in say("prolific", "poll", "nowhere", error=ValueError)
    told = say(
        "prolific", "draft", str(folder), "--address", "http://x.org", *DRAFT[2:], error=ValueError
    )
    assert "need an address with https://" in told
    signed = {"signed": True, "platforms": ("prolific",), "audience": "survey.example.org"}
    known = load_recruitment(folder)
    write_recruitment(folder, known.model_copy(update=signed))
    told = say("prolific", "draft", str(folder), *DRAFT, error=ValueError)
    assert "audience = 'survey.example.org'" in told and "every signed link" in told
    assert not double.studies
    write_recruitment(folder, known)
    monkeypatch.setenv(prolific.TOKEN, "wrong")
    told = say("prolific", "draft", str(folder), *DRAFT, error=ValueError)
    assert "Prolific refused POST /studies/ (401)" in told
    monkeypatch.delenv(prolific.TOKEN)
    told = say("prolific", "draft", str(folder), *DRAFT, error=ValueError)
    assert "needs a token" in told
    assert double.studies == []


def test_places_go_on_and_only_who_finished_is_approved(double, folder, frozen, tmp_path):
    say("prolific", "draft", str(folder), *DRAFT)
    study = double.studies[0]["id"]
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    service = open_service(url, *frozen, recruitment=load_recruitment(folder))

    def person(number: int, stage: Stage | None, status: str, code: str | None) -> None:
        pid, session = f"{number:024x}", f"5e{number:022x}"
        ids = {"PROLIFIC_PID": pid, "STUDY_ID": study, "SESSION_ID": session}
        if stage is not Stage.CONSENT:
            go(service, arrive(service, Visitor("prolific", pid, details=ids)), stage)
        double.submissions.append(
            {"id": session, "study": study, "status": status, "study_code": code}
        )

    person(1, None, "AWAITING REVIEW", "DONE")
    person(2, None, "AWAITING REVIEW", "FORGED")
    person(3, Stage.TRIAL, "RETURNED", None)
    person(4, Stage.TRIAL, "TIMED-OUT", None)
    person(5, Stage.TRIAL, "ACTIVE", None)
    person(6, Stage.CONSENT, "AWAITING REVIEW", "DONE")  # never took part
    person(7, None, "TIMED-OUT", None)
    assert service.places.counts()["free"] == 54
    for row in (1, 2, 7):  # they answered attention trials with chance
        with service.store.write() as connection:
            key = arrive(service, Visitor("prolific", f"{row:024x}"))
            service.store.update(connection, service.study.hash, key, code="DONE")
    told = say("prolific", "poll", str(folder), "--database", url)
    assert "places freed: 2" in told and "submissions that can be approved: 1" in told
    for part in (
        "came with code FORGED; its own is DONE",
        "awaits review with code DONE, but is unknown here",
        "finished here, but is TIMED-OUT there",
        "1  ACTIVE there, active here",
        "1  AWAITING REVIEW there, unknown here\n",
    ):
        assert part in told, part
    assert service.places.counts()["free"] == 56
    reasons = [row["detail"].split()[-1] for row in service.places.log()[1:]]
    assert sorted(reasons) == ["(returned)", "(timed_out)"]
    assert "places freed: 0" in say("prolific", "poll", str(folder), "--database", url)
    assert "approved 1" in say("prolific", "approve", str(folder), "--database", url, "--yes")
    approved = [s["id"] for s in double.submissions if s["status"] == "APPROVED"]
    assert approved == [f"5e{1:022x}"]
    # Whoever comes back by another study at Prolific gets the code again, but no second payment.
    again = {"PROLIFIC_PID": f"{1:024x}", "STUDY_ID": study, "SESSION_ID": "6e" * 12}
    page = look(service, arrive(service, Visitor("prolific", f"{1:024x}", details=again)))
    assert page["stage"] == "finished"
    person(1, None, "AWAITING REVIEW", "DONE")
    double.submissions[-1]["id"] = again["SESSION_ID"]
    told = say("prolific", "approve", str(folder), "--database", url, "--yes")
    assert (
        f"{again['SESSION_ID']} awaits review, but an earlier submission" in told
        and "approved 0" in told
    )
    page = look(service, arrive(service, Visitor("prolific", f"{9:024x}")))
    assert service.act(page["token"], fill(page))[0]["stage"] in ("instructions", "before")
