"""The routes beside Streamlit's page, as a proxy or an attacker meets them."""

import pytest
from people import arrive, fill, go
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.testclient import TestClient

from survey_app import server
from survey_app.flow import Stage
from survey_app.store import Store
from survey_app.tokens import LONGEST
from tasks.base import TEXT_LIMIT
from tasks.questionnaire import TEXTS_OF_PAGE


@pytest.fixture
def client(study_folder, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    monkeypatch.setenv("CONCEPTEVO_STUDY", str(study_folder))
    monkeypatch.setenv("CONCEPTEVO_DATABASE", url)
    Store(url).migrate()
    server.open_survey.cache_clear()
    server.service.cache_clear()
    server.pictures.cache_clear()
    return TestClient(Starlette(routes=server.ROUTES), client=("127.0.0.1", 5))


def test_the_open_link_leads_to_an_address_with_an_id(client):
    """By a redirect, which no other person's browser may be answered with."""
    reply = client.get("/?lab=a%26b", follow_redirects=False)
    assert (reply.status_code, reply.headers["cache-control"]) == (307, "no-store")
    parameters = QueryParams(reply.headers["location"].removeprefix("?"))
    assert parameters["lab"] == "a&b"
    assert server.service().identify(parameters).platform == "open"
    for query in ("p=x", "PROLIFIC_PID=x", "assignmentId=x"):
        assert client.get(f"/?{query}", follow_redirects=False).status_code == 200


def test_an_action_is_acknowledged_with_the_next_page(client):
    service = server.service()
    page = go(service, arrive(service, "x"), Stage.TRIAL)
    action = {"token": page["token"], **fill(page)}
    replies = [client.post("/act", json=action) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200] * 3
    assert replies[0].json()["version"] == page["version"] + 1
    assert replies[0].json() == replies[1].json() == replies[2].json()
    assert replies[0].headers["cache-control"] == "no-store"
    counted = 'conceptevo_actions_total{outcome="repeat"} 2.0'
    assert counted in client.get("/metrics").text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b"\xff\xfe", 400),
        (b"[" * 9000, 400),
        (b'{"token": "' + b"x" * 70_000 + b'"}', 413),
        (b'{"token": "x.y"}', 403),
        (b'{"token": null}', 403),
    ],
)
def test_what_is_no_action_is_refused(client, body, status):
    assert client.post("/act", content=body).status_code == status


def test_a_page_of_a_hundred_long_texts_in_any_script_is_taken(client):
    assert TEXTS_OF_PAGE == 100 * TEXT_LIMIT
    assert 4 * TEXTS_OF_PAGE + LONGEST < server.LARGEST


def test_an_answer_that_does_not_fit_is_told(client):
    service = server.service()
    page = go(service, arrive(service, "x"), Stage.TRIAL)
    reply = client.post("/act", json={"token": page["token"], "values": {"choice": "z"}})
    assert reply.status_code == 422
    assert "please choose one of" in reply.json()["error"] or "unknown" in reply.json()["error"]


def test_a_database_that_fails_is_no_acknowledgement(client, monkeypatch, caplog):
    service = server.service()
    page = go(service, arrive(service, "x"), Stage.TRIAL)

    def fails(*_):
        raise OperationalError("UPDATE", {"answer": "private"}, Exception("disk full: secret/path"))

    monkeypatch.setattr(service, "act", fails)
    reply = client.post("/act", json={"token": page["token"], **fill(page)})
    assert (reply.status_code, reply.json()) == (503, {"error": "not stored"})
    assert "disk full" in caplog.text
    assert "private" not in caplog.text


def test_only_the_studys_pictures_are_served(client, study_folder):
    name = server.service().study.images()[0]
    reply = client.get(f"/img/{name}")
    assert reply.content == (study_folder / "images" / name).read_bytes()
    assert "immutable" in reply.headers["cache-control"]
    for other in ("keys.json", "..%2Fkeys.json", "../keys.json", "%00", name + "x"):
        assert client.get(f"/img/{other}").status_code == 404


def test_health_follows_the_database(client, monkeypatch):
    assert client.get("/healthz").text == "ok\n"

    def gone(*_):
        raise OperationalError("", {}, Exception("gone"))

    monkeypatch.setattr(server.service().store, "read", gone)
    assert client.get("/healthz").status_code == 503


def test_metrics_are_for_this_machine_only(client):
    assert client.get("/metrics").status_code == 200
    assert client.get("/metrics", headers={"X-Forwarded-For": "1.2.3.4"}).status_code == 404
    outside = TestClient(Starlette(routes=server.ROUTES), client=("10.1.2.3", 5))
    assert outside.get("/metrics").status_code == 404
