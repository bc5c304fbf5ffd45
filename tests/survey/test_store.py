"""What must never happen (PROTOCOL.md), on SQLite and on a real PostgreSQL."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from conftest import FEW
from people import arrive, fill, go, look, open_service
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from survey_app.export import tables
from survey_app.flow import Stage
from survey_app.platforms import Visitor, make_open_link
from survey_app.schema import identities, metadata, participants, places, responses
from survey_app.service import NO_ANSWERS, BadAction, Service
from survey_app.store import Store, now


def count(service, table, **where) -> int:
    query = select(func.count()).select_from(table)
    for name, value in where.items():
        query = query.where(table.c[name] == value)
    with service.store.read() as connection:
        return connection.scalar(query)


def test_migrations_lead_to_the_schema(store):
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    store.migrate()  # a second time changes nothing


def test_a_whole_session_is_stored(service):
    person = arrive(service, "one")
    assert go(service, person)["stage"] == "finished"
    with service.store.read() as connection:
        row = service.store.row(connection, service.study.hash, person)
        stored = connection.execute(select(responses).where(responses.c.role != "practice")).all()
    assert [r.trial for r in sorted(stored, key=lambda r: r.position)] == [
        p["trial"] for p in row["plan"]
    ]
    assert all(r.source == "human" and r.milliseconds == 4000 for r in stored)
    assert all(r.answered_at >= r.shown_at for r in stored)
    tasks = len(service.study.tasks)  # introduced in practice and again in the trials
    assert row["instruction_seconds"] == 4.0 * (1 + 2 * tasks)


def test_a_window_that_is_too_narrow_is_refused_only_if_it_is_known(service):
    service.study = service.study.model_copy(update={"min_width": 800})
    for width, is_refused in ((None, False), (0, False), (799, True), (800, False)):
        page = look(service, arrive(service, f"is {width} wide"))
        action = fill(page) | {"device": {"width": width}}
        if is_refused:
            with pytest.raises(BadAction, match="narrower than 800 pixels"):
                service.act(page["token"], action)
            action["values"] = {"consent": "screen"}
            assert service.act(page["token"], action)[0]["stage"] == "screened_out"
        else:
            assert service.act(page["token"], action)[0]["stage"] == "instructions"
    _, people = tables(service.store, "human")
    assert people["viewport_width"].dropna().tolist() == [800] and not people["touch"].any()


def test_confidence_is_asked_stored_and_exported_where_an_answer_is_right_or_wrong(service):
    from survey_app.export import tables

    person = arrive(service, "one")
    page = go(service, person, Stage.TRIAL)
    while "How sure are you?" not in page["html"]:
        page, _ = service.act(page["token"], fill(page))
    for value in (None, "0", "5", 3, "very"):
        action = fill(page)
        action["values"] |= {"confidence": value}
        with pytest.raises(BadAction, match="How sure are you.*: please choose"):
            service.act(page["token"], action)
    go(service, person)
    answers, _ = tables(service.store, "human")
    told = answers.groupby("task")["confidence"].agg(lambda c: set(c.dropna()))
    for task in ("odd_one_out", "before_or_after"):
        assert told[task]
        assert told[task] <= {1.0, 2.0, 3.0, 4.0}
    assert not told["evolution_labelling"] | told["concept_agreement"]


def test_a_study_without_confidence_neither_asks_nor_takes_it(store, frozen):
    study, keys = frozen
    service = Service(store, study.model_copy(update={"confidence": False}), keys)
    page = go(service, arrive(service, "one"), Stage.TRIAL)
    assert "How sure are you?" not in page["html"]
    action = fill(page)
    action["values"] |= {"confidence": "1"}
    with pytest.raises(BadAction, match="unknown field 'confidence'"):
        service.act(page["token"], action)


def test_every_answer_is_committed_before_the_next_trial_shows(service, frozen, url):
    person = arrive(service, "one")
    page = go(service, person, Stage.TRIAL)
    following, _ = service.act(page["token"], fill(page))
    other = Service(Store(url), *frozen)  # another process would see the same
    assert count(other, responses, role="trial") == 1
    assert look(other, person)["html"] == following["html"]


def test_a_double_click_counts_once(service):
    page = go(service, arrive(service, "one"), Stage.TRIAL)
    first, done = service.act(page["token"], fill(page, 0))
    again, done_again = service.act(page["token"], fill(page, 1))
    assert (done, done_again) == (True, False)
    assert again["html"] == first["html"]
    assert count(service, responses, role="trial") == 1


def test_two_tabs_at_the_same_moment_count_once(service):
    page = go(service, arrive(service, "one"), Stage.TRIAL)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: service.act(page["token"], fill(page, n)), range(8)))
    assert sum(done for _, done in results) == 1
    assert count(service, responses, role="trial") == 1


def test_the_database_itself_refuses_a_second_row(service):
    go(service, arrive(service, "one"))
    with pytest.raises(IntegrityError), service.store.write() as connection:
        row = connection.execute(select(responses)).mappings().first()
        connection.execute(responses.insert().values(**row))


def test_the_same_person_is_one_participant_on_any_device(service):
    one, two = arrive(service, "one"), arrive(service, "one")
    assert one == two
    page = go(service, one, Stage.TRIAL)
    assert look(service, two)["version"] == page["version"]
    assert count(service, participants) == 1


def test_agreeing_at_the_same_moment_is_one_participant_with_one_place(service):
    person = arrive(service, "one")
    pages = [look(service, person) for _ in range(8)]  # eight tabs
    assert count(service, participants) == count(service, identities) == 0
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda p: service.act(p["token"], fill(p)), pages))
    assert sum(done for _, done in results) == 1
    assert {page["stage"] for page, _ in results} == {"instructions"}
    assert count(service, participants) == count(service, identities) == 1
    assert service.places.counts()["free"] == FEW - 1


def test_places_are_never_overshot(service):
    """More people than places, all consenting at once: each place once, the others turned away."""
    people = [arrive(service, f"p{n}") for n in range(14)]
    with ThreadPoolExecutor(14) as pool:
        pages = list(pool.map(lambda p: go(service, p, Stage.INSTRUCTIONS), people))
    taken = [p for p in pages if p["stage"] == "instructions"]
    assert len(taken) == FEW
    with service.store.read() as connection:
        holders = list(connection.scalars(select(places.c.participant)))
    assert len(set(holders)) == FEW
    away = [p["html"] for p in pages if p["stage"] != "instructions"]
    assert all("The study is full at the moment" in html for html in away)


def test_a_lease_expires_and_is_given_on(service):
    people = [arrive(service, f"p{n}") for n in range(FEW)]
    for person in people:
        go(service, person, Stage.INSTRUCTIONS)
    late = arrive(service, "late")
    waiting = look(service, late)
    service.store.clock = lambda: now() + timedelta(minutes=31)
    alive = look(service, people[1])
    service.act(alive["token"], fill(alive))  # a sign of life renews the lease
    before = look(service, people[0])
    page, _ = service.act(waiting["token"], fill(waiting))
    assert page["stage"] == "instructions"
    gone = [p for p in people if look(service, p)["stage"] == "expired"]
    assert len(gone) == 1
    assert gone != [people[1]]
    # The one who lost the place can do nothing more with an old page.
    if gone == [people[0]]:
        assert service.act(before["token"], fill(before))[1] is False
    with service.store.read() as connection:
        assert connection.scalar(select(func.count(places.c.participant))) == 6


def test_coming_back_late_to_a_free_place_goes_on(service):
    person = arrive(service, "slow")
    page = go(service, person, Stage.TRIAL)
    service.store.clock = lambda: now() + timedelta(days=2)
    assert service.places.counts()["expired"] == 1  # as on the dashboard; the place is held
    assert look(service, person)["stage"] == "trial"
    assert service.act(page["token"], fill(page))[1] is True
    assert service.places.counts()["active"] == 1 and "expired" not in service.places.counts()


def test_a_decline_leaves_nothing_but_a_count(service):
    """Nobody is stored before consent; a person who declined may think again."""
    person = arrive(service, Visitor("prolific", "PID7", details={"SESSION_ID": "S7"}))
    page = look(service, person)
    again, done = service.act(page["token"], {"values": {"consent": "no"}})
    assert (again["stage"], done) == ("screened_out", True)
    assert again["version"] > page["version"]  # or a tab that connects again shows consent
    assert "Nothing about you was stored" in again["html"] and "cc=NO" in again["html"]
    assert "finished" not in again["html"]
    assert service.act(page["token"], {"values": {"consent": "no"}})[1] is False  # counted once
    with service.store.read() as connection:
        everything = str([connection.execute(select(t)).all() for t in metadata.sorted_tables])
    assert "PID7" not in everything and "S7" not in everything and person not in everything
    assert service.places.counts()["turned away: declined"] == 1
    assert look(service, person)["stage"] == "consent"


def test_failing_practice_ends_with_thanks_a_code_and_a_free_place(service):
    """After the allowed attempts nobody is led through a study that will drop them."""
    service.study = service.study.model_copy(update={"practice_attempts": 2, "practice_pass": 1.0})
    person = arrive(service, "unlucky")
    page = go(service, person, Stage.PRACTICE)
    steps = 0
    while page["stage"] in ("practice", "feedback", "introduction"):
        action = fill(page)
        with service.store.read() as connection:
            row = service.store.row(connection, service.study.hash, person)
        if page["stage"] == "practice":
            trial = service.study.by_id[service.study.practice[row["practice_done"]]]
            if trial.options:
                key = service.keys[trial.id]
                action["values"]["choice"] = next(o.id for o in trial.options if o.id != key)
        page, _ = service.act(page["token"], action)
        steps += 1
        assert steps < 60
    assert page["stage"] == "screened_out" and "practice trials show" in page["html"]
    assert "cc=OUT" in page["html"]
    with service.store.read() as connection:
        row = service.store.row(connection, service.study.hash, person)
    assert (row["reason"], row["code"], row["practice_attempts"]) == ("practice", "OUT", 2)
    assert service.places.counts()["free"] == FEW
    assert look(service, person)["stage"] == "screened_out"  # a rejection survives a refresh


@pytest.mark.parametrize("stage", [Stage.INSTRUCTIONS, Stage.TRIAL, Stage.QUESTIONS])
def test_withdrawing_is_possible_on_every_page(service, stage):
    person = arrive(service, "leaves")
    page = go(service, person, stage)
    assert "Withdraw and delete my answers" in page["html"]
    if stage is not Stage.QUESTIONS:  # in another tab; the withdrawal holds all the same
        service.act(page["token"], fill(page))
    after, done = service.act(page["token"], {"values": {"withdraw": "yes"}})
    assert (after["stage"], done) == ("withdrawn", True)
    assert "cc=STOP" in after["html"]
    assert count(service, responses) == 0
    assert count(service, participants, status="withdrawn", reason="withdrew", code="STOP") == 1
    with service.store.read() as connection:
        row = service.store.row(connection, service.study.hash, person)
    assert {name: row[name] for name in NO_ANSWERS} == NO_ANSWERS and row["feedback"] is None
    assert service.places.counts()["free"] == FEW
    left, done = service.act(page["token"], fill(page))  # in a tab that was left open
    assert (left["stage"], done) == ("withdrawn", False) and count(service, responses) == 0


def test_completion_is_read_from_the_database(service):
    """The code shows only once the last answer is durable."""
    person = arrive(service, "one")
    page = go(service, person, Stage.QUESTIONS)
    codes = ("DONE", "complete?cc=")
    assert not any(code in page["html"] for code in codes)
    page, _ = service.act(page["token"], {"values": {}})
    assert all(code in page["html"] for code in codes)
    answered = count(service, responses)
    end, done = service.act(page["token"], {"values": {"withdraw": "yes"}})
    assert (end["stage"], done) == ("finished", False)  # only the researcher can delete now
    assert count(service, participants, status="finished") == 1
    assert count(service, responses) == answered > 0


def test_sources_have_their_own_places_and_rows(store, frozen):
    human, pilot = (Service(store, *frozen, source) for source in ("human", "pilot"))
    go(human, arrive(human, "x"))
    go(pilot, arrive(pilot, "x"))
    assert count(human, participants, source="human") == 1
    assert count(human, participants, source="pilot") == 1
    assert count(human, places, source="pilot") == human.recruitment.places


def test_platform_ids_lie_apart(service):
    person = arrive(service, Visitor("prolific", "SECRETPID", details={"SESSION_ID": "S1"}))
    go(service, person)
    with service.store.read() as connection:
        for table in metadata.sorted_tables:
            rows = str(connection.execute(select(table)).all())
            assert ("SECRETPID" in rows) == (table is identities)


def test_forgetting_deletes_a_person_and_frees_the_place(service):
    person = arrive(service, Visitor("prolific", "PID1"))
    go(service, person)
    other = arrive(service, "stays")
    go(service, other)
    assert service.store.forget("PID1") == 1
    assert service.store.forget("PID1") == 0
    for table in (participants, responses, identities):
        assert count(service, table, participant=person) == 0
        assert count(service, table, participant=other) > 0
    with service.store.read() as connection:
        assert connection.scalar(select(func.count(places.c.participant))) == 1


def test_who_came_by_an_open_link_is_forgotten_by_the_address(service):
    """It is all that the person can name; the signature in it is stored nowhere."""
    link = make_open_link(service.secret)
    go(service, arrive(service, service.identify({"p": link})))
    go(service, arrive(service, Visitor("prolific", link[:-16])))  # of the same name elsewhere
    assert service.store.forget(link) == 1
    assert count(service, identities) == count(service, identities, platform_id=link[:-16]) == 1


def test_a_clock_set_back_neither_loses_nor_doubles(service, tmp_path):
    from survey_app.export import tables

    person = arrive(service, "one")
    page = go(service, person, Stage.TRIAL)
    service.store.clock = lambda: now() - timedelta(hours=3)
    page, done = service.act(page["token"], fill(page))
    assert done
    assert go(service, person)["stage"] == "finished"
    answers, people = tables(service.store, "human")
    # The analysis refuses times that contradict each other.
    assert (answers["answered_at"] >= answers["shown_at"]).all()
    assert (answers["shown_at"] >= people["consented_at"].item()).all()
    assert people["finished_at"].item() >= people["consented_at"].item()
    assert people["total_seconds"].tolist() == [0.0]
    assert len(set(people["status"])) == 1


def test_a_full_disk_acknowledges_nothing(frozen, tmp_path):
    """SQLite refuses to grow: the action fails as a whole, and succeeds when there is room."""
    service = open_service(tmp_path / "full.sqlite", *frozen)
    with service.store.read() as connection:  # FULL: what is acknowledged survives a power failure
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    page = go(service, arrive(service, "one"), Stage.TRIAL)

    def limit(pages: int) -> None:
        service.store.engine.dispose()
        from sqlalchemy import event

        @event.listens_for(service.store.engine, "connect")
        def _limit(connection, _record):
            connection.execute(f"PRAGMA max_page_count={pages}")

    limit(1)
    long = fill(page) | {"values": fill(page)["values"]}
    failed = 0
    acknowledged = 0
    for _ in range(60):
        try:
            answered = page["stage"] == "trial"
            page, done = service.act(page["token"], long)
            acknowledged += done and answered
            long = fill(page)
        except OperationalError as error:
            assert "full" in str(error)
            failed += 1
            break
    stored = count(service, responses, role="trial") + count(service, responses, role="attention")
    assert failed == 1
    assert stored == acknowledged
    limit(1_000_000)
    assert service.act(page["token"], long)[1] is True


def test_leasing_by_many_threads_gives_distinct_places(store, frozen, few):
    service = Service(store, *frozen, "pilot", few)
    results: list[str] = []
    lock = threading.Lock()

    def one(number: int) -> None:
        page = go(service, arrive(service, f"q{number}"), Stage.INSTRUCTIONS)
        with lock:
            results.append(page["stage"])

    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["instructions"] * 6
    with service.store.read() as connection:
        assert (
            connection.execute(text("SELECT count(DISTINCT participant) FROM places")).scalar() == 6
        )


def test_a_silent_network_blocks_no_connection_for_long(postgres):
    """The system's own limit is 15 minutes, in which a worker could answer nobody."""
    store = Store(postgres())
    with store.engine.connect() as connection:
        set_to = connection.connection.driver_connection.info.get_parameters()
    assert (set_to["connect_timeout"], set_to["tcp_user_timeout"]) == ("10", "10000")
    store.engine.dispose()


def test_a_database_that_cannot_hold_every_text_is_refused(postgres):
    """Responses were stored, but could not be exported."""
    url = postgres()
    name = url.split("/")[3].split("?")[0]
    with Store(url).engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        locale = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        connection.exec_driver_sql(f"CREATE DATABASE {name}_ascii {locale}")
    with pytest.raises(ValueError, match="encoding SQL_ASCII, in which not .* --encoding UTF8"):
        Store(url.replace(name, f"{name}_ascii")).migrate()


def test_a_bad_url_says_what_is_expected():
    with pytest.raises(ValueError, match="name an SQLAlchemy URL such as sqlite:///"):
        Store("nonsense")
