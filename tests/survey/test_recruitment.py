"""Who may begin, and who gets whose place; the study itself stays frozen."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from datetime import timedelta

import httpx
import pytest
from command_line import say
from conftest import FEW, SETTINGS
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from people import arrive, fill, go, look
from sqlalchemy import inspect, select, text

from survey_app import signed_links
from survey_app.export import tables
from survey_app.flow import Stage
from survey_app.participant_state import ParticipantState
from survey_app.platforms import BadAddress, Visitor, identify, is_open_link, make_open_link
from survey_app.schema import blocked, identities, participants
from survey_app.service import Service
from survey_app.store import Store, now
from survey_app.views import View
from tasks.build import build
from tasks.recruitment import Codes, Entry, Recruitment, load_recruitment, write_recruitment
from tasks.settings import Payment
from tasks.study import load

SECRET = "0" * 64
PID, STUDY, SESSION = "5f" * 12, "6a" * 12, "7b" * 12
PROLIFIC = {"PROLIFIC_PID": PID, "STUDY_ID": STUDY, "SESSION_ID": SESSION}


def fill_all_places(service) -> list:
    people = [arrive(service, f"p{n}") for n in range(FEW)]
    for person in people:
        assert go(service, person, Stage.TRIAL)["stage"] == "trial"
    return people


def begin(service, name: str) -> dict:
    page = look(service, arrive(service, name))
    return service.act(page["token"], fill(page))[0]


# Places


def test_full_is_not_final_and_a_released_place_goes_to_the_next(service):
    people = fill_all_places(service)
    page = begin(service, "next")
    assert page["stage"] == "screened_out"
    assert "try again later" in page["html"] and "cc=FULL" in page["html"]
    service.store.clock = lambda: now() + timedelta(minutes=3)  # long before any lease is over
    with pytest.raises(ValueError, match="no participant has the id 'p99', so nobody's place"):
        service.places.release("p2", "p99")
    assert service.places.counts()["free"] == 0  # all or none
    held = look(service, people[2])
    service.places.release("p2", "p2")  # named twice
    assert begin(service, "next")["stage"] == "instructions"
    gone = look(service, people[2])
    assert gone["stage"] == "expired" and "cc=LATE" in gone["html"]
    assert gone["version"] > held["version"]  # or a tab that connects again keeps the old page
    assert service.places.log()[-1]["detail"] == f"{people[2]} (released)"
    assert begin(service, "another")["stage"] == "screened_out"
    with pytest.raises(ValueError, match=r"holds no place that could be released \(status expired"):
        service.places.release("p2")


def test_a_session_of_the_platform_names_a_person_too(service):
    person = arrive(service, Visitor("prolific", PID, details=PROLIFIC))
    go(service, person, Stage.TRIAL)
    service.places.release(SESSION, reason="returned")
    again = Visitor("prolific", PID, details=PROLIFIC | {"SESSION_ID": "7c" * 12})
    page = service.welcome(again)  # places are free, but Prolific admits nobody again either
    assert page["stage"] == "expired" and "You returned your submission" in page["html"]


def test_who_has_finished_keeps_the_place(service):
    person = arrive(service, "done")
    go(service, person)
    with pytest.raises(ValueError, match="add places"):
        service.places.release("done")
    assert service.places.counts()["free"] == FEW - 1


def test_places_added_midway_leave_the_study_as_it_is(service, frozen, few):
    fill_all_places(service)
    assert begin(service, "late")["stage"] == "screened_out"
    assert service.places.add(2) == FEW + 2
    with pytest.raises(ValueError, match="99999: there would be 100,007 places"):
        service.places.add(99_999)
    assert begin(service, "late")["stage"] == "instructions"
    again = Service(service.store, *frozen, recruitment=few)  # served anew: nothing is lost
    assert again.study.hash == service.study.hash
    assert again.places.counts()["places"] == FEW + 2
    events = [(row["event"], row["detail"]) for row in service.places.log()]
    assert events == [("opened", f"{FEW} places"), ("places", f"+2, {FEW + 2} in all")]
    late = arrive(service, "late")
    go(service, late)
    answers, _ = tables(service.store, "human", service.study.hash)
    assert set(answers["study"]) == {service.study.hash}
    # The seventh place goes on with the plan of the first six.
    plans = {row.participant: row.plan for row in rows(service, participants)}
    assert sorted(p["trial"] for p in plans[late]) == sorted(
        p["trial"] for p in plans[arrive(service, "p0")]
    )


def rows(service, table) -> list:
    with service.store.read() as connection:
        return connection.execute(select(table)).all()


def test_a_pause_keeps_new_people_out_and_lets_the_others_go_on(service):
    person = arrive(service, "early")
    page = go(service, person, Stage.TRIAL)
    waiting = look(service, arrive(service, "waits"))  # read consent before the pause
    service.places.set_state("paused")
    assert "is paused at the moment" in look(service, arrive(service, "new"))["html"]
    assert "is paused at the moment" in service.act(waiting["token"], fill(waiting))[0]["html"]
    assert service.act(page["token"], fill(page))[1] is True
    assert service.places.counts()["turned away: paused"] == 2  # at once, and after the consent
    service.places.set_state("closed")
    assert "The study is closed" in look(service, arrive(service, "new"))["html"]
    service.places.set_state("open")
    assert begin(service, "new")["stage"] == "instructions"
    service.places.set_state("open")  # which is no change
    assert [row["event"] for row in service.places.log()][1:] == ["paused", "closed", "open"]


def test_only_what_participants_see_decides_the_hash(run, tmp_path):
    small = {"forms": 1, "trials": {"odd_one_out": {"base": 1}}, "payment": Payment(text="£3")}
    one = build(run, SETTINGS.model_copy(update=small), tmp_path / "a", lambda text: None)
    other = SETTINGS.model_copy(
        update=small | {"participants": 7, "lease_minutes": 5, "recruitment": Entry()}
    )
    two = build(run, other, tmp_path / "b", lambda text: None)
    assert one.hash == two.hash
    assert load_recruitment(tmp_path / "b").places == 7
    codes = [code for _, code in load_recruitment(tmp_path / "b").codes]
    assert len({*codes}) == len(codes) and all(len(code) == 8 for code in codes)  # drawn


def test_the_settings_survive_their_file(tmp_path):
    settings = Recruitment(
        places=3, platforms=("prolific", "mturk"), studies=(STUDY,), ids=r'"[a-z]\d{2}',
        audience="a.b", codes=Codes(completed="A-B"),
    )  # fmt: skip
    write_recruitment(tmp_path, settings)
    assert load_recruitment(tmp_path) == settings
    (tmp_path / "recruitment.toml").write_text("places = 0\n[codes]\nfull = 'X'\nexpired = 'X'")
    with pytest.raises(ValueError, match=r"codes = .*have the same code; .*\n.*places = 0: "):
        load_recruitment(tmp_path)


def test_a_changed_file_is_logged_when_it_is_served(service, frozen, few):
    edited = few.model_copy(update={"studies": (STUDY,), "codes": Codes(completed="OTHER")})
    again = Service(service.store, *frozen, recruitment=edited)
    assert again.recruitment == edited
    assert again.places.log()[-1]["detail"] == f"studies = ['{STUDY}'], codes"  # no code in a log


# Who may come in


def test_a_platforms_study_takes_nobody_else():
    entry = Entry(platforms=("prolific",), studies=(STUDY,))
    assert identify(PROLIFIC, SECRET, entry).platform_id == PID
    own_ids = Entry(platforms=("prolific",), ids="[a-z]{3}")
    assert identify(PROLIFIC | {"PROLIFIC_PID": "bob"}, SECRET, own_ids).platform_id == "bob"
    for parameters, told in (
        ({"p": make_open_link(SECRET)}, "cannot be opened by this link"),
        ({"assignmentId": "ASSIGNMENT_ID_NOT_AVAILABLE"}, "cannot be opened by this link"),
        (PROLIFIC | {"STUDY_ID": "8c" * 12}, "belongs to another study"),
        (PROLIFIC | {"PROLIFIC_PID": "bob"}, "PROLIFIC_PID is missing or malformed"),
        ({"PROLIFIC_PID": PID}, "STUDY_ID is missing"),
        ({"STUDY_ID": STUDY, "SESSION_ID": SESSION}, "PROLIFIC_PID is missing"),
        ({"PROLIFIC_PID": PID, "STUDY_ID": STUDY}, "SESSION_ID is missing"),
    ):
        with pytest.raises(BadAddress, match=told):
            identify(parameters, SECRET, entry)
    with pytest.raises(BadAddress, match="cannot be opened by this link"):
        identify(PROLIFIC, SECRET, Entry(platforms=("open",)))
    for parameters in ({"SESSION_ID": SESSION}, {"hitId": "H"}, {"p": ""}, {"prolific_token": ""}):
        assert not is_open_link(parameters)  # whoever forgot a parameter would lose the ids
    with pytest.raises(BadAddress, match="assignmentId is missing"):
        identify({"workerId": "A1B2C3", "hitId": "H"}, SECRET)


def test_made_up_ids_take_no_place(service):
    """Eight ids that nobody on the platform has, one of each kind of mistake."""
    service.recruitment = service.recruitment.model_copy(
        update={"platforms": ("prolific",), "ids": "", "studies": (STUDY,)}
    )
    for n in range(8):
        with pytest.raises(BadAddress):
            service.identify(PROLIFIC | {"PROLIFIC_PID": f"made-up-{n}"})
    assert service.places.counts()["free"] == FEW


@pytest.fixture
def prolific_keys(monkeypatch):
    """Return Prolific's signing key, and a forger's with the same name."""
    key, forged = (RSAKey.generate_key(2048, {"kid": "k1"}) for _ in range(2))
    monkeypatch.setattr(signed_links, "_keys", lambda refresh=False: KeySet([key]))

    def sign(by=key, **changes):
        claims = {"aud": "https://survey.org", "exp": time.time() + 60, "prolific": PROLIFIC}
        return jwt.encode({"alg": "RS256", "kid": "k1"}, claims | changes, by)

    return sign, forged


SIGNED = Entry(platforms=("prolific",), signed=True, audience="survey.org")


def test_signed_links_and_nothing_else(prolific_keys):
    sign, forged = prolific_keys
    found = identify({"prolific_token": sign()}, SECRET, SIGNED)
    assert (found.platform_id, found.outdated) == (PID, False)
    assert identify({"prolific_token": sign(exp=time.time() - 999)}, SECRET, SIGNED).outdated
    for parameters in (
        PROLIFIC,  # plain ids beside no signature
        {"prolific_token": ""},
        {"prolific_token": "e30.e30."},
        {"prolific_token": sign(by=forged)},
        {"prolific_token": sign(aud="https://other.org")},
        {"prolific_token": sign(exp="soon")},
        {"prolific_token": sign(prolific="x")},
    ):
        with pytest.raises(BadAddress, match="not signed by Prolific"):
            identify(parameters, SECRET, SIGNED)
    with pytest.raises(BadAddress, match="PROLIFIC_PID is missing"):
        identify({"prolific_token": sign(prolific={"STUDY_ID": STUDY})}, SECRET, SIGNED)


@pytest.mark.parametrize("critical", [None, 1, True, "x", [1], ["b64"]])
def test_a_forged_header_is_no_signature(prolific_keys, critical):
    """joserfc raises a TypeError for a `crit` that is no list."""
    token = prolific_keys[0]()
    header = json.dumps({"alg": "RS256", "kid": "k1", "crit": critical}).encode()
    forged = urlsafe_b64encode(header).rstrip(b"=").decode() + token[token.index(".") :]
    with pytest.raises(BadAddress, match="not signed by Prolific"):
        signed_links.read_link(forged, "survey.org")


@pytest.mark.parametrize(
    "reply", ["<html>sign in</html>", "null", "[]", "{}", '{"keys": 1}', '{"keys": [{}]}']
)
def test_without_prolifics_keys_nobody_is_called_a_forger(monkeypatch, reply):
    monkeypatch.setenv(signed_links.API, "https://prolific.test")
    request = httpx.Request("GET", "https://prolific.test")
    monkeypatch.setattr(
        signed_links.httpx, "get", lambda *_, **__: httpx.Response(200, text=reply, request=request)
    )
    with pytest.raises(BadAddress, match="cannot be checked at the moment"):
        signed_links.read_link("e30.e30.", "survey.org")


def test_an_error_of_the_software_is_no_bad_address(monkeypatch):
    def fail(refresh: bool = False) -> KeySet:
        raise TypeError("a mistake in the code")

    monkeypatch.setattr(signed_links, "_keys", fail)
    with pytest.raises(TypeError, match="a mistake in the code"):
        signed_links.read_link("e30.e30.", "survey.org")


def test_a_link_that_is_over_opens_only_what_has_begun(service, prolific_keys):
    sign, _ = prolific_keys
    service.recruitment = service.recruitment.model_copy(
        update={"platforms": ("prolific",), "signed": True, "audience": "survey.org"}
    )
    old = {"prolific_token": sign(exp=time.time() - 999)}
    with pytest.raises(BadAddress, match="This link has expired"):
        service.welcome(service.identify(old))
    page = service.welcome(service.identify({"prolific_token": sign()}))
    service.act(page["token"], fill(page))
    assert service.welcome(service.identify(old))["stage"] == "instructions"


def test_signing_needs_a_platform_that_signs():
    with pytest.raises(ValueError, match="signed = true needs platforms"):
        Entry(platforms=("open",), signed=True, audience="x")


def test_earlier_participants_are_blocked_by_hashes(service):
    assert service.places.block([PID, PID, "8c" * 12, "ids-may-be-so"]) == 3
    assert service.places.block([PID]) == 0
    strict = service.recruitment.model_copy(update={"ids": "", "platforms": ("prolific",)})
    with service.store.write() as connection:
        service.places.begin(connection, strict)
    for odd in (f'"{PID}"', PID.upper(), f"{PID},APPROVED", "Participant id"):
        with pytest.raises(
            ValueError, match=r"is not an id of a person at the platform \(1 such line\), so nobody"
        ):
            service.places.block(["7e" * 12, odd])
    assert service.places.block(["7e" * 12]) == 1
    with service.store.write() as connection:
        both = strict.model_copy(update={"platforms": ("prolific", "mturk")})
        service.places.begin(connection, both)
    assert service.places.block(["A1B2C3", "6f" * 12]) == 2
    page = look(service, arrive(service, PID))
    assert page["stage"] == "screened_out" and "earlier study" in page["html"]
    assert begin(service, "9d" * 12)["stage"] == "instructions"
    with pytest.raises(ValueError, match="and no pseudonyms"):  # they would block nobody
        service.places.block([arrive(service, "9d" * 12)])
    with service.store.read() as connection:
        for table in inspect(connection).get_table_names():
            held = connection.execute(text(f"SELECT * FROM {table}")).all()
            assert PID not in str(held), table
        digests = connection.scalars(select(blocked.c.digest)).all()
    texts = ("blocked:" + "7e" * 12).encode()
    assert hmac.new(service.salt.encode(), texts, "sha256").hexdigest() in digests


# Sessions


def test_a_later_session_of_the_same_person_is_the_one_that_counts(service):
    submit = "https://www.mturk.com/mturk/externalSubmit"
    first, second = (
        {"assignmentId": f"ASSIGN{n}", "hitId": "H", "workerId": "A1B2C3", "turkSubmitTo": submit}
        for n in (1, 2)
    )
    other = {"assignmentId": "ASSIGN3", "hitId": "H", "workerId": "A9", "turkSubmitTo": submit}
    go(service, arrive(service, Visitor("mturk", "A9", details=other)), Stage.TRIAL)
    person = arrive(service, Visitor("mturk", "A1B2C3", details=first))
    go(service, person, Stage.TRIAL)
    later = arrive(service, Visitor("mturk", "A1B2C3", details=second))
    assert later == person
    page = go(service, later)
    assert 'name="assignmentId" value="ASSIGN2"' in page["html"]
    held = sorted(rows(service, identities), key=lambda row: row.platform_id)
    assert [row.details for row in held] == [second | {"earlier": [first]}, other]
    for again in (later, person):  # nothing changes, not even by the first tab
        look(service, again)
        assert sorted(rows(service, identities), key=lambda row: row.platform_id) == held


# The command


def test_places_are_changed_by_command(study_folder, tmp_path, frozen, recruitment):
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    options = ("--database", url)
    told = say("study", "places", str(study_folder), *options, error=ValueError)
    assert "holds no survey" in told
    Store(url).migrate()
    told = say("study", "places", str(study_folder), *options, error=ValueError)
    assert "was never served for source 'human'" in told
    service = Service(Store(url), *frozen, recruitment=recruitment)
    go(service, arrive(service, "back"), Stage.TRIAL)
    told = say("study", "places", str(study_folder), "+40", *options)
    assert "   100  places\n    99  free\n     1  active" in told and "+40, 100 in all" in told
    for change in ("pause", "resume", "close"):
        told = say("study", "places", str(study_folder), change, *options)
    assert "closed" in told
    told = say("study", "places", str(study_folder), "release", "back", *options)
    assert "released" in told and "   100  free" in told
    (tmp_path / "ids.txt").write_text(f"{PID}\n\n")
    told = say("study", "places", str(study_folder), "block", str(tmp_path / "ids.txt"), *options)
    assert "ids newly blocked: 1" in told
    for wrong in (("-40",), ("40",), ("release",), ("pause", "x"), ("+0",), ("open",)):
        with pytest.raises(AssertionError):
            say("study", "places", str(study_folder), *wrong, *options)
    assert load(study_folder)[0].hash == frozen[0].hash


def test_a_study_that_says_nothing_of_payment_promises_none(frozen):
    study, _ = frozen
    silent = study.model_copy(update={"payment": Payment(text="")})
    failed = ParticipantState(Stage.SCREENED_OUT, reason="practice", code="OUT")
    assert study.payment.text in View(study, 60).page(failed)["html"]
    assert "paid" not in View(silent, 60).page(failed)["html"]


def test_codes_that_anybody_can_know_are_refused(study_folder, tmp_path, recruitment):
    import shutil

    folder = tmp_path / "study"
    shutil.copytree(study_folder, folder)
    codes = recruitment.codes.model_copy(update={"completed": "COMPLETED", "full": ""})
    write_recruitment(folder, recruitment.model_copy(update={"codes": codes}))
    told = say("survey", str(folder), error=ValueError)
    assert "completed = 'COMPLETED', full = '': these codes are empty or public" in told
    assert not (folder / "answers.sqlite").exists()


@pytest.mark.parametrize(
    "url", ["postgresql://nobody:hush@127.0.0.1:9/none", "sqlite:////nowhere/a"]
)
def test_a_database_that_cannot_be_reached_is_one_sentence(study_folder, url):
    for words in (
        ("survey", str(study_folder), "--database", url),
        ("study", "simulate", str(study_folder), "--database", url),
    ):
        told = say(*words, error=ValueError)
        assert "cannot be used: " in told and "\n" not in told and "hush" not in told


@pytest.mark.parametrize("platform", ["open", "prolific"])
def test_participants_of_the_open_link_are_asked_to_keep_its_address(service, platform):
    """By it they continue after a break, and the researchers find their answers later."""
    person = arrive(service, "x", platform)
    page = go(service, person, Stage.TRIAL)
    while "You can take a break here" not in page["html"]:
        page, _ = service.act(page["token"], fill(page))
    assert ("keep its address, so that you can continue" in page["html"]) is (platform == "open")
    end = go(service, person)
    assert ("Keep the address of this page" in end["html"]) is (platform == "open")
