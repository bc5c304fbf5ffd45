"""A pilot study from start to end: built, previewed, served, recruited for, exported, analysed.

Thirty people come, of whom some return, time out, decline, withdraw, do not pass practice, come
twice or have forged ids; places are added midway, one person is forgotten. Counts add up at every
step; `pytest -s` shows them as one table.
"""

from collections import Counter
from datetime import timedelta

import pandas as pd
import pytest
from command_line import say
from conftest import SETTINGS
from people import Person, arrive, fill, go, look, open_service

from analysis.study.frozen_study import read_study
from analysis.study.responses import prepare, read_tables
from survey_app import preview
from survey_app.flow import Stage
from survey_app.platforms import BadAddress, Visitor
from survey_app.service import Service
from survey_app.store import now
from tasks.build import build
from tasks.recruitment import load_recruitment
from tasks.settings import Exclusion, Practice
from tasks.study import load

STUDY, PLACES, ADDED = "6a" * 12, 10, 8
#: How many people do what, in the order in which they come.
CAST = {
    "finishes": 8, "comes twice": 2, "returns": 3, "times out": 3, "declines": 4, "withdraws": 2,
    "fails practice": 2, "forged id": 4, "another study": 1, "bare link": 1,
}  # fmt: skip


class Pilot:
    """One study served to its people."""

    def __init__(self, service: Service) -> None:
        self.service, self.clock, self.number = service, now(), 0
        self.refused: Counter[str] = Counter()
        service.store.clock = lambda: self.clock

    def later(self, minutes: float) -> None:
        self.clock += timedelta(minutes=minutes)

    def comes(self, session: int = 1, number: int | None = None, **changes: str) -> Person | None:
        """Open the address as someone; return None if it is refused."""
        self.number += number is None
        ids = {"PROLIFIC_PID": f"{number or self.number:024x}", "STUDY_ID": STUDY}
        ids |= {"SESSION_ID": f"{session:08x}{number or self.number:016x}"} | changes
        try:
            visitor = self.service.identify(ids)
        except BadAddress as error:
            self.refused[str(error)] += 1
            return None
        return arrive(self.service, visitor or Visitor("open", "x"))

    def agrees(self, person: Person) -> str:
        page = look(self.service, person)
        return self.service.act(page["token"], fill(page))[0]["stage"]

    def act_out(self, what: str) -> None:
        self.later(1)
        match what:
            case "forged id":
                assert self.comes(PROLIFIC_PID=f"made-up-{self.number}") is None
            case "another study":
                assert self.comes(STUDY_ID="7b" * 12) is None
            case "bare link":
                with pytest.raises(BadAddress):
                    self.service.identify({})
                self.refused["bare"] += 1
            case "declines":
                page = look(self.service, self.comes())
                self.service.act(page["token"], {"values": {"consent": "no"}})
            case _:
                self._takes_part(what, self.comes())

    def _takes_part(self, what: str, person: Person) -> None:
        if self.agrees(person) == "screened_out":  # full: they come back when there is a place
            self.service.places.add(ADDED)
            assert self.agrees(person) != "screened_out"
        if what in ("finishes", "comes twice"):
            go(self.service, person, Stage.TRIAL)
            if what == "comes twice":
                again = self.comes(session=2, number=self.number)
                assert again == person
            assert go(self.service, person)["stage"] == "finished"
        elif what == "fails practice":
            self._fails(person)
        else:
            page = go(self.service, person, Stage.TRIAL)
            page, _ = self.service.act(page["token"], fill(page))
            if what == "withdraws":
                self.service.act(page["token"], {"values": {"withdraw": "yes"}})
            elif what == "returns":
                self.service.places.release(person, reason="returned")
            else:
                self.later(0)

    def _fails(self, person: Person) -> None:
        page = go(self.service, person, Stage.PRACTICE)
        while page["stage"] != "screened_out":
            action = fill(page)
            if page["stage"] == "practice":
                with self.service.store.read() as connection:
                    row = self.service.store.row(connection, self.service.study.hash, person)
                trial = self.service.study.practice[row["practice_done"]]
                options = self.service.study.by_id[trial].options
                wrong = [o.id for o in options if o.id != self.service.keys[trial]]
                action["values"] |= {"choice": wrong[0]} if wrong else {}
            page, _ = self.service.act(page["token"], action)


def test_a_whole_life_adds_up(run, tmp_path):
    folder, url = tmp_path / "study", f"sqlite:///{tmp_path / 'a.sqlite'}"
    entry = SETTINGS.recruitment.model_copy(
        update={"platforms": ("prolific",), "studies": (STUDY,), "ids": ""}
    )
    settings = SETTINGS.model_copy(
        update={
            "participants": PLACES,
            "recruitment": entry,
            "practice": Practice(attempts=2, pass_share=1.0),
            "exclusion": Exclusion(
                attention_below=None, total_seconds_outside=None, instruction_seconds_below=None,
                one_sided_above=None,
            ),
        }
    )  # fmt: skip
    build(run, settings, folder, say=lambda text: None)
    service = open_service(url, *load(folder), recruitment=load_recruitment(folder))
    assert len(preview.pages(service)) > 30 and service.places.counts() == {
        "places": PLACES, "free": PLACES,
    }  # fmt: skip

    pilot = Pilot(service)
    order = [what for what, times in CAST.items() for _ in range(times)]
    order = [order[(7 * n) % len(order)] for n in range(len(order))]  # all mixed
    assert Counter(order) == Counter(CAST) and len(order) == 30
    for what in order:
        pilot.act_out(what)
    counts = service.places.counts()
    finished = CAST["finishes"] + CAST["comes twice"]
    assert counts["places"] == PLACES + ADDED
    assert counts["free"] == PLACES + ADDED - finished - CAST["times out"]
    pilot.later(SETTINGS.lease_minutes + 1)  # the leases of those who left are over
    service.places.add(1)
    late = [pilot.comes() for _ in range(counts["free"] + 1 + CAST["times out"])]
    assert {pilot.agrees(person) for person in late} <= {"instructions", "before"}
    extra = pilot.comes()
    assert pilot.agrees(extra) == "screened_out"  # now it is full indeed
    for person in late:
        assert go(service, person)["stage"] == "finished"
    assert sum(pilot.refused.values()) == 6 and len(pilot.refused) == 3

    forgotten = f"{pilot.number - 1:024x}"  # the last who finished
    assert "deleted 1" in say("responses", "forget", forgotten, "--database", url)
    out = tmp_path / "r.csv"
    say("responses", "export", "--database", url, "--out", str(out), "--study", str(folder))
    say("responses", "submissions", "--database", url, "--out", str(tmp_path / "ids.csv"))
    answers, people = read_tables(out)
    listed = pd.read_csv(tmp_path / "ids.csv", dtype=str)
    frozen = read_study(folder)
    responses = prepare(frozen, answers, people, "human")
    flow = dict(responses.flow[["step", "participants"]].itertuples(index=False))

    whole = finished + len(late) - 1
    codes = {("finished", ""): "DONE", ("expired", "returned"): "LATE",
             ("expired", "timed_out"): "LATE", ("withdrawn", "withdrew"): "STOP",
             ("screened_out", "practice"): "OUT"}  # fmt: skip
    expected = {
        ("finished", ""): whole,
        ("expired", "returned"): CAST["returns"],
        ("expired", "timed_out"): CAST["times out"],
        ("withdrawn", "withdrew"): CAST["withdraws"],
        ("screened_out", "practice"): CAST["fails practice"],
    }
    state = people.assign(reason=people["reason"].fillna("")).groupby(["status", "reason"]).size()
    assert state.to_dict() == expected
    for key, group in people.assign(reason=people["reason"].fillna("")).groupby(
        ["status", "reason"]
    ):
        assert set(group["code"]) <= {codes[key], "DONE-A" if key[0] == "finished" else codes[key]}
    assert len(listed) == len(people) == sum(expected.values()) == flow["arrived"]
    assert flow["finished"] == flow["analysed"] == whole
    done = set(people.loc[people["status"] == "finished", "participant"])
    data = answers[answers["role"] != "practice"]
    assert data[data["participant"].isin(done)].groupby("participant").size().nunique() == 1
    withdrawn = people.loc[people["status"] == "withdrawn", "participant"]
    assert not answers["participant"].isin(withdrawn).any()
    after = service.places.counts()
    assert (after["places"], after["free"]) == (PLACES + ADDED + 1, 1)  # of whom was forgotten
    assert after["turned away: declined"] == CAST["declines"]
    assert after["turned away: full"] == 2
    assert set(answers["study"]) == {service.study.hash} == {frozen.study.hash}
    table = {
        "opened the address": pilot.number + 1,  # the bare link has no id
        "refused at the door": sum(pilot.refused.values()),
        "declined": after["turned away: declined"],
        "found no place": 1,
        "took part": sum(expected.values()) + 1,
        **{" ".join(filter(None, key)): n for key, n in expected.items()},
        "forgotten": 1,
        "exported": len(people),
        "analysed": flow["analysed"],
        "places": after["places"],
        "free places": after["free"],
    }
    print(pd.Series(table, name="people").to_string())
    assert table["opened the address"] == sum(
        table[name] for name in ("refused at the door", "declined", "found no place", "took part")
    )
