"""Responses are checked against the study's fields; impossible values are refused by row."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.study.data_quality import checks, notes
from analysis.study.frozen_study import read_study
from analysis.study.identical import identical_pairs
from analysis.study.responses import ResponseError, prepare, read_tables
from tasks.false_exclusion import check_rules, one_sided_rate
from tasks.responses import TableError, read_table
from tasks.settings import Exclusion, load_settings
from tests.synthetic_study import make_responses, make_study, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    make_study(path, trials=3)
    return path


@pytest.fixture(scope="module")
def study(folder):
    return read_study(folder)


@pytest.fixture
def tables(folder, study):
    return make_responses(folder, study.study, people=6)


def checked(study, answers, people):
    """Return the checks by name."""
    return {check.name: check for check in checks(prepare(study, answers, people))}


def test_the_tables_of_the_synthetic_study_are_possible(study, tables):
    assert prepare(study, *tables).flow["participants"].iloc[-1] == 6


LABELS = {"labels": ["a", "b", "c"], "changed": True, "clarity": 2}


@pytest.mark.parametrize(
    ("task", "answer", "text"),
    [
        ("concept_agreement", {"rating": 99, "label": "a"}, "rating must be one of 1, 2, 3, 4"),
        ("concept_agreement", {"rating": 0, "label": "a"}, "rating must be one of 1, 2, 3, 4"),
        ("concept_agreement", {"rating": 2.5, "label": "a"}, "rating must be one of"),
        ("concept_agreement", {"rating": "2", "label": "a"}, r'it must be written {"rating": 2'),
        ("concept_agreement", {"rating": True, "label": "a"}, "rating must be one of"),
        ("concept_agreement", {"rating": None, "label": "a"}, "rating must be one of"),
        ("concept_agreement", {"rating": 2, "label": 7}, "a text was expected"),
        ("concept_agreement", {"rating": 2, "label": ""}, "label must be a text of 1 to 120"),
        ("concept_agreement", {"rating": 2}, "has not the form of concept_agreement"),
        ("concept_agreement", {"rating": 2, "label": "a", "more": 1}, "it must be written"),
        ("concept_agreement", [2, "a"], "has not the form of concept_agreement"),
        ("concept_agreement", "a", "has not the form of concept_agreement"),
        ("evolution_labelling", LABELS | {"labels": [1, 2, 3]}, "a text was expected"),
        ("evolution_labelling", LABELS | {"labels": ["a", "b"]}, "label_2|must be written"),
        ("evolution_labelling", LABELS | {"labels": ["a"] * 4}, "unknown field 'label_3'"),
        ("evolution_labelling", LABELS | {"changed": 7}, "it must be written .*true"),
        ("evolution_labelling", LABELS | {"changed": 1}, "it must be written .*true"),
        ("evolution_labelling", LABELS | {"changed": "maybe"}, "it must be written .*true"),
        ("evolution_labelling", LABELS | {"clarity": 17}, "clarity must be one of 1, 2, 3, 4"),
        ("odd_one_out", "q", "answer 'q' was not an option of trial"),
        ("odd_one_out", ["a"], r"answer \['a'\] was not an option of trial"),
        ("before_or_after", None, "answer None was not an option of trial"),
    ],
)  # fmt: skip
def test_answers_outside_the_fields_of_the_task_are_refused(study, tables, task, answer, text):
    answers, people = tables
    row = answers.index[(answers["task"] == task) & (answers["role"] == "trial")][0]
    answers.loc[row, "answer"] = json.dumps(answer)
    with pytest.raises(ResponseError, match=rf"response row {row + 2}: .*({text})"):
        prepare(study, answers, people)


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("study", "other", "study 'other' is not"),
        ("trial", "t9999", "unknown trial 't9999'"),
        ("participant", "nobody", "unknown participant 'nobody'"),
        ("condition", "base2", "condition of trial .* is not 'base2'"),
        ("options", '["x"]', "options .* are not those of trial"),
        ("answer", "{", "are not JSON"),
        ("position", -1, "no position, or below 0"),
        ("milliseconds", -5, "took -5 ms"),
        ("answered_at", pd.Timestamp("2020-01-01", tz="UTC"), "answered before it was shown"),
        ("source", "pilot", "source 'pilot' is not that of participant"),
        ("confidence", 17.0, "confidence is 17, but must be one of 1, 2, 3, 4, or empty"),
        ("confidence", 0.0, "confidence is 0"),
        ("confidence", 2.5, "confidence is 2.5"),
        ("answer", "NaN", "are not JSON"),
        ("options", "5", "options 5 are not those of trial"),
        ("options", '["a", 1]', "options .* are not those of trial"),
        ("options", pd.NA, "are not JSON"),
        ("pastes", -1, "pastes is -1, below 0"),
        ("shown_at", pd.NaT, "shown_at is empty"),
        ("answered_at", pd.NaT, "answered_at is empty"),
        ("answered_at", pd.Timestamp("2020-01-01", tz="UTC"), "before participant .* gave consent"),
        ("role", pd.NA, "role of trial .* is not <NA>"),
        ("position", pd.NA, "no position"),
        ("study", pd.NA, "study <NA> is not this one"),
        ("missing", "bored", "missing is 'bored', but must be time or picture, or empty"),
        ("position", 100, "position is 100, but a form has 33 trials, from 0"),
        ("answer", '{"a": 1, "a": 2}', "are not JSON"),
        ("shown_at", pd.Timestamp("2020-01-01", tz="UTC"), "shown at .* before participant"),
    ],
)
def test_values_outside_their_column_are_refused(study, tables, column, value, text):
    answers, people = tables
    row = answers.index[answers["task"] == "odd_one_out"][0]
    answers.loc[row, column] = value
    with pytest.raises(ResponseError, match=rf"response row {row + 2}: .*{text}"):
        prepare(study, answers, people)


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("participant", "p001", "participant 'p001' is missing or listed twice"),
        ("source", "robot", "unknown source 'robot'; there are human, pilot, simulated"),
        ("total_seconds", -1.0, "total_seconds is -1.0, below 0"),
        ("practice_attempts", -1, "practice_attempts is -1, below 0"),
        ("finished_at", pd.Timestamp("2020-01-01", tz="UTC"), "lies before consented_at"),
        ("questionnaire", "[]", "is not a JSON object"),
        ("questionnaire", "{", "is not a JSON object"),
    ],
)
def test_participants_that_cannot_be_are_refused(study, tables, column, value, text):
    answers, people = tables
    people.loc[0, column] = value
    with pytest.raises(ResponseError, match=f"participant row 2: .*{text}"):
        prepare(study, answers, people)


def test_a_score_where_there_is_no_key_is_refused(study, tables):
    answers, people = tables
    row = answers.index[answers["task"] == "concept_agreement"][0]
    answers.loc[row, "correct"] = True
    with pytest.raises(ResponseError, match=f"response row {row + 2}: correct is True, against"):
        prepare(study, answers, people)
    answers.loc[row, "correct"] = pd.NA
    row = answers.index[answers["condition"] == "same_stage"][0]
    answers.loc[row, "correct"] = not answers.loc[row, "correct"]
    with pytest.raises(ResponseError, match=f"response row {row + 2}: correct is .*against"):
        prepare(study, answers, people)


def edited(folder, tables, old: str, new: str):
    """Return the responses' file with the first `old` after the header replaced."""
    path = write(folder, *tables)
    head, _, body = path.read_text().partition("\n")
    assert re.search(old, body)
    path.write_text(head + "\n" + re.sub(old, new, body, count=1))
    return path


TIME = r"2026-03-01 09:00:00\+00:00"


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (TIME, "2026-03-01 09:00:00", "shown_at is '2026-03-01 09:00:00', but must be a moment "
         "with its time zone"),
        (TIME, "yesterday", "shown_at is 'yesterday'"),
        (TIME, "99999-01-01T00:00:00Z", "shown_at is '99999"),
        (",True,", ",1,", "correct is '1', but must be True, False or empty"),
        (r",(\d+),0\.1\.0", r",inf,0.1.0", "milliseconds is 'inf', but must be a whole number"),
        (r",(\d+),0\.1\.0", r",nan,0.1.0", "milliseconds is 'nan'"),
        (r",(\d+),0\.1\.0", r",12.5,0.1.0", "milliseconds is '12.5'"),
        (r",(\d+),0\.1\.0", r',"1,5",0.1.0', "milliseconds is '1,5'"),
        (r",(\d+),0\.1\.0", r",1e400,0.1.0", "milliseconds is '1e400'"),
        (r",0\.1\.0,0", r",0.1.0", "19 cells, but the header has 20"),
    ],
)  # fmt: skip
def test_cells_that_cannot_be_read_are_refused_by_row(folder, tmp_path, tables, old, new, text):
    path = edited(tmp_path, tables, old, new)
    with pytest.raises(TableError, match=rf"responses.csv, response row \d+: {text}"):
        read_tables(path)


def test_unreadable_cells_of_both_files_are_listed_at_once(tmp_path, tables):
    path = edited(tmp_path, tables, r",(\d+),0\.1\.0", ",soon,0.1.0")
    other = tmp_path / "responses-participants.csv"
    other.write_text(other.read_text().replace(",900.0,", ",900.0 s,", 1))
    with pytest.raises(TableError, match=r"^impossible rows \(2\):") as caught:
        read_tables(path)
    assert "responses-participants.csv, participant row 2: total_seconds is '900.0 s'" in str(
        caught.value
    )


def test_spreadsheets_ways_of_saving_are_read_or_refused_with_the_remedy(study, tmp_path, tables):
    path = write(tmp_path, *tables)
    plain = prepare(study, *read_tables(path)).answers
    text = path.read_text()
    path.write_text("\ufeff" + text.replace("True", "TRUE").replace("\n", "\r\n"), newline="")
    pd.testing.assert_frame_equal(prepare(study, *read_tables(path)).answers, plain)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.sample(frac=1, axis=1, random_state=1).assign(note="x").to_csv(path, index=False)
    again = read_tables(path)
    assert again[0].attrs["ignored"] == ["note"]
    pd.testing.assert_frame_equal(prepare(study, *again).answers, plain)
    frame.to_csv(path, index=False, sep=";", decimal=",")
    with pytest.raises(ValueError, match=r"responses\.csv is separated by semicolons; save it as"):
        read_tables(path)
    path.write_text(text, encoding="utf-16")
    with pytest.raises(ValueError, match=r"is not UTF-8 \(it looks like UTF-16\)"):
        read_tables(path)
    path.write_text(text, encoding="utf-16-le")
    with pytest.raises(ValueError, match=r"is not text in UTF-8 \(it holds zero bytes, like"):
        read_tables(path)
    path.write_text("")
    with pytest.raises(ValueError, match="is empty; its first row must name the columns"):
        read_tables(path)
    frame.drop(columns=["answer", "correct"]).to_csv(path, index=False)
    with pytest.raises(ValueError, match="columns 'answer', 'correct' are missing; a response"):
        read_tables(path)
    head, body = text.split("\n", 1)
    path.write_text(head.replace("tab_leaves", "pastes") + "\n" + body)
    with pytest.raises(ValueError, match="column 'pastes' occurs twice"):
        read_tables(path)
    for wrong, right in (("condition ", "condition"), ("Missing", "missing"), (" TASK", "task")):
        path.write_text(head.replace(right, wrong) + "\n" + body)
        with pytest.raises(ValueError, match=f"column {wrong!r} must be written {right!r}"):
            read_tables(path)
    path.write_text(head + "\n")
    other = tmp_path / "responses-participants.csv"
    other.write_text(other.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="the tables hold no participants"):
        prepare(study, *read_tables(path))


def test_rows_are_counted_as_a_spreadsheet_shows_them(study, tmp_path, tables):
    path = edited(tmp_path, tables, r",True,,,\d\.0,", ",True,,,9.0,")
    lines = path.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if ",True,,,9.0," in line)
    path.write_text("\n".join([lines[0], "", *lines[1:]]) + "\n")  # a blank row before all others
    with pytest.raises(ResponseError, match=f"responses.csv, response row {number + 2}: confid"):
        prepare(study, *read_tables(path))


def test_without_consent_nothing_is_analysed(study, tables):
    answers, people = tables
    people.loc[:1, "consented_at"] = pd.NaT
    responses = prepare(study, answers, people)
    flow = responses.flow.set_index("step")["participants"]
    assert flow["arrived"] == 6
    assert flow["gave consent"] == flow["finished"] == flow["analysed"] == 4
    assert not {"p000", "p001"} & set(responses.answers["participant"])
    assert any("No consent is stored of 2 participants who went on" in n for n in notes(responses))


def twins(answers, people, shift="0s", other=()):
    """Return the tables with a copy of the first participant under a second id, `shift` later."""
    twin = answers[answers["participant"] == "p000"].assign(participant="q000")
    for column in ("shown_at", "answered_at"):
        twin[column] = twin[column] + pd.Timedelta(shift)
    for column in other:
        twin[column] = twin[column] + 1
    person = people[:1].assign(participant="q000")
    person["consented_at"] = person["consented_at"] + pd.Timedelta(shift)
    person["finished_at"] = person["finished_at"] + pd.Timedelta(shift)
    both = (answers, twin), (people, person)
    return tuple(pd.concat(pair, ignore_index=True) for pair in both)


@pytest.mark.parametrize("changes", [{}, {"shift": "3 days"}, {"other": ["milliseconds"]}])
def test_one_person_under_two_ids_is_pointed_out(folder, study, tables, changes):
    plain = prepare(study, *tables)
    assert plain.identical.empty and not any("identical" in note for note in notes(plain))
    responses = prepare(study, *twins(*tables, **changes))
    trials = int((tables[0]["participant"] == "p000").sum()) - 3  # attention trials are no data
    assert responses.identical.to_numpy().tolist() == [["p000", "q000", trials, trials]]
    [note] = [note for note in notes(responses) if "identical" in note]
    assert f"1 pair (p000 and q000 in {trials} of {trials} trials)" in note
    assert responses.flow.iloc[-1]["participants"] == 7  # no frozen rule excludes them
    rules = {**study.exclusions, "identical_above": 0.5}
    again = replace(responses, rules=rules)
    assert again.everyone.set_index("participant")["excluded"]["q000"] == "identical_above"
    assert again.flow.iloc[-1]["participants"] == 6


def test_honest_people_who_answer_alike_are_not_called_identical(folder, study):
    """Everybody right everywhere: the answers agree, the times do not."""
    sure = {task: dict.fromkeys(c, 0.999) for task, c in {
        "odd_one_out": ("base", "other_series", "random"),
        "before_or_after": ("nine_references", "one_reference"),
        "evolution_labelling": ("evolution", "same_stage", "false_evolution"),
        "concept_agreement": ("neighbours", "random"),
    }.items()}  # fmt: skip
    tables = make_responses(folder, study.study, people=60, planted=sure, naming=1.0)
    assert prepare(study, *tables).identical.empty


def test_a_rule_without_data_says_so(study, tables):
    answers, people = tables
    people["total_seconds"] = np.nan
    people.loc[0, "instruction_seconds"] = np.nan
    responses = prepare(study, answers[answers["role"] != "attention"], people)
    unfit = responses.flow.set_index("step")["not applicable"]
    assert unfit["excluded: attention below 0.8"] == 6
    assert unfit["excluded: total seconds outside 135–7200"] == 6
    assert unfit["excluded: instruction seconds below 5"] == 1
    assert unfit["excluded: practice attempts above 3"] == 0
    assert unfit["excluded: one sided above 0.8"] == 0  # all made choices enough
    said = " ".join(notes(responses))
    assert "rule “attention below 0.8” could not be applied to anybody who finished" in said
    assert "“instruction seconds below 5” could not be applied to 1 of 6 participants" in said


def test_what_can_be_but_should_be_known_is_counted(study, tables):
    answers, people = tables
    mine = answers["participant"] == "p000"
    gone = answers["trial"] == answers.loc[(answers["role"] == "trial"), "trial"].iloc[0]
    answers = answers[~gone & ~mine]
    answers.loc[answers.index[0], "milliseconds"] = pd.NA
    found = checked(study, answers, people)
    assert found["finished without any response"].participants == 1
    fewer = found["fewer responses than the form has trials"]
    assert (fewer.participants, fewer.answers) == (5, 5)
    assert found["trials without an analysed response"].trials == 1
    assert found["missing response times"].answers == int(answers.iloc[0]["role"] == "trial")
    assert found["answered trials of more than one form"].participants == 0


@pytest.mark.parametrize("lost", ["no row", "time"])
def test_responses_missing_in_one_condition_are_named_by_condition(study, tables, lost):
    """Left out where they would be incorrect, they make accuracy 100 %."""
    answers, people = tables
    base = (answers["role"] == "trial") & (answers["condition"] == "base")
    wrong = base & ~answers["correct"].fillna(True)
    if lost == "time":
        answers.loc[wrong, ["answer", "correct", "confidence", "missing"]] = [
            "null", pd.NA, pd.NA, "time",
        ]  # fmt: skip
    else:
        answers = answers[~wrong]
    [note] = [n for n in notes(prepare(study, answers, people)) if "their form holds" in n]
    assert f"missing (odd one out, base: {wrong.sum()} of {base.sum()}). If they are" in note


def test_a_trial_without_an_answer_has_no_score(study, tables):
    answers, people = tables
    row = answers.index[answers["task"] == "odd_one_out"][0]
    empty = {"answer": "null", "correct": pd.NA, "confidence": pd.NA, "missing": "time"}
    answers.loc[row, list(empty)] = list(empty.values())
    prepare(study, answers, people)
    answers.loc[row, "correct"] = True
    with pytest.raises(ResponseError, match=f"row {row + 2}: correct is True of a trial without"):
        prepare(study, answers, people)


def test_a_duration_that_contradicts_the_moments_is_counted(study, tables):
    answers, people = tables
    name = "duration other than from consent to the end"
    assert checked(study, answers, people)[name].participants == 0
    people.loc[:1, "total_seconds"] = [700.0, 901.0]  # 900 passed; clocks may differ by seconds
    assert checked(study, answers, people)[name].participants == 1


def test_ends_that_contradict_status_and_responses_are_counted(study, tables):
    answers, people = tables

    def counts(name):
        check = checked(study, answers, people)[name]
        return check.participants, check.answers

    unended, after = (
        "finished without a time of finishing",
        "responses after the end of participation",
    )
    assert counts(unended) == (0, None) and counts(after) == (0, 0)
    people.loc[0, "finished_at"] = pd.NaT
    name = people.loc[1, "participant"]
    mine = answers[(answers["participant"] == name) & (answers["role"] == "trial")]
    people.loc[1, "finished_at"] = mine["answered_at"].nlargest(3).iloc[-1]
    assert counts(unended) == (1, None) and counts(after) == (1, 2)


def test_what_spreadsheets_add_is_named_or_left_out(tables, tmp_path):
    answers, _ = tables
    path = tmp_path / "responses.csv"
    text = answers.to_csv(index=False)
    header, *rows = text.splitlines()
    path.write_text("sep=,\n" + text)
    with pytest.raises(ValueError, match="row 1 is 'sep=,', a hint for Excel; delete it"):
        read_table(path)
    path.write_text("\n".join([header, *rows[:3], header, *rows[3:]]))
    with pytest.raises(TableError, match="response row 5: it repeats the header; delete it") as one:
        read_table(path)
    assert len(one.value.problems) == 1
    path.write_text(text + "," * header.count(",") + "\n")
    assert len(read_table(path)) == len(answers)


@pytest.mark.parametrize("moment", ["2999-01-01T00:00:00Z", "1600-01-01T00:00:00Z"])
def test_moments_beyond_the_calendar_are_refused_by_row(tables, tmp_path, moment):
    answers, _ = tables
    text = answers.astype({"shown_at": "string"})
    text.loc[4, "shown_at"] = moment
    text.to_csv(tmp_path / "responses.csv", index=False)
    with pytest.raises(TableError, match=f"response row 6: shown_at is '{moment}', but must be"):
        read_table(tmp_path / "responses.csv")


def test_what_all_rows_share_is_said_once(study, tables):
    answers, people = tables
    answers["study"] = people["study"] = "older"
    with pytest.raises(ResponseError) as error:
        prepare(study, answers, people)
    lines = str(error.value).splitlines()
    assert len(error.value.problems) == len(answers) + len(people)
    assert len(lines) == 1 + len(people) + 1
    assert lines[-1] == (
        f"  response row 2 and {len(answers) - 1} more rows: study 'older' is not this one, "
        f"'{study.study.hash}'"
    )


def test_times_that_the_browser_cannot_have_measured_are_counted(study, tables):
    answers, people = tables
    rows = answers.index[answers["role"] == "trial"]
    answers.loc[rows[0], "milliseconds"] = 0
    answers.loc[rows[1:4], "milliseconds"] = 5 * 3600 * 1000  # stored after six seconds
    found = checked(study, answers, people)
    none, longer = (found[name] for name in (
        "missing response times", "response time longer than the time that passed on the server"
    ))  # fmt: skip
    count = (prepare(study, answers, people).answers["milliseconds"] > 8000).sum()
    assert none.answers == 1 and longer.answers == count >= 3
    said = " ".join(notes(prepare(study, answers, people)))
    assert "The browser gave no time, or 0, for 1 response;" in said
    assert "longer time than passed between showing the trial and storing the response" in said


def test_responses_faster_than_people_react_are_counted(study, tables):
    answers, people = tables
    rows = answers.index[answers["role"] == "trial"]
    answers.loc[rows[:3], "milliseconds"] = [199, 200, 0]  # 0 is no time
    assert checked(study, answers, people)["response time below 200 ms"].answers == 1


def test_positions_that_contradict_the_times_are_counted(study, tables):
    answers, people = tables
    name = "positions that contradict the times"
    assert checked(study, answers, people)[name].answers == 0
    turned = answers.copy()
    last = turned.groupby("participant")["position"].transform("max")
    mine = turned["participant"] == "p000"
    turned.loc[mine, "position"] = (last - turned["position"])[mine]
    found = checked(study, turned, people)[name]
    count = int((mine & (turned["role"] == "trial")).sum()) - 1
    assert (found.participants, found.answers) == (1, count)
    assert "does not allow: positions or times were altered" in found.sentence


def test_ids_that_differ_only_in_spaces_or_case_are_one_person(study, tables):
    answers, people = tables
    again = people.assign(participant=people["participant"].replace("p001", "P000 "))
    answers = answers.assign(participant=answers["participant"].replace("p001", "P000 "))
    with pytest.raises(ResponseError, match=r"participant 'P000 ' is missing or listed twice \(sp"):
        prepare(study, answers, again)


def test_answers_after_the_time_limit_are_counted(study, tables):
    answers, people = tables
    name = "later than the time limit of the trial"
    rows = answers.index[answers["role"] == "trial"]
    for late in (0, 3):
        answers.loc[rows[:late], "late"] = True
        assert checked(study, answers, people)[name].answers == late
        said = f"{late} responses reached the server more than 15 s after the time limit"
        assert (said in " ".join(notes(prepare(study, answers, people)))) == bool(late)


def test_times_of_zero_make_nobody_identical(study, tables):
    """A browser that gives no time gives it to everybody."""
    answers, people = tables
    key = answers.groupby("trial")["answer"].transform("first")
    alike = answers.assign(milliseconds=0, answer=key, options=answers["options"])
    later = pd.to_timedelta(np.arange(len(alike)), unit="ms")
    alike = alike.assign(answered_at=alike["answered_at"] + later)
    assert identical_pairs(alike[alike["role"] == "trial"], people).empty
    assert len(identical_pairs(alike.assign(milliseconds=9), people))


def test_a_correct_option_at_one_place_is_pointed_out(folder, study):
    answers, people = make_responses(folder, study.study, people=24)
    said = "shown at one place on screen more often than random placement explains ("
    assert not any(said in note for note in notes(prepare(study, answers, people)))
    choice = (answers["task"] == "odd_one_out") & (answers["role"] == "trial")
    for row in answers[choice].itertuples():
        options, key = json.loads(row.options), study.keys[row.trial]
        shown = [key, *(o for o in options if o != key)]
        answers.loc[row.Index, "options"] = json.dumps(shown)
    responses = prepare(study, answers, people)
    [note] = [note for note in notes(responses) if said in note]
    count = (responses.answers["task"] == "odd_one_out").sum()
    assert f"(odd one out: {count} of {count})" in note


def test_one_moment_for_all_responses_of_a_session_makes_nobody_identical(folder, study):
    """An export whose moments are those of sessions says nothing on single responses."""
    answers, people = make_responses(folder, study.study, people=24)
    for column in ("shown_at", "answered_at"):
        answers[column] = answers.groupby("participant")["shown_at"].transform("min")
    assert identical_pairs(answers[answers["role"] == "trial"], people).empty


def test_answers_to_practice_alone_are_none_to_analyse(study, tables):
    answers, people = tables
    for few in (answers[:0], answers[answers["role"] != "trial"]):
        responses = prepare(study, few, people)
        assert responses.answers.empty
        assert (responses.everyone["excluded"] == "no answers").all()
        flow = responses.flow.set_index("step")["participants"]
        assert flow["excluded: no answers"] == len(people) and flow["analysed"] == 0
        assert responses.everyone["identical"].isna().all()


def test_the_rate_of_one_sided_choices_is_the_exact_one():
    """Six choices of two: five or six on one side. Twenty of six: scipy's binomial bounds it."""
    exact = 2 * stats.binom(6, 0.5).sf(4)
    assert one_sided_rate([2] * 6, 0.8) == pytest.approx(exact, abs=0.01)
    assert exact == pytest.approx(0.21875)
    assert one_sided_rate([6] * 14, 0.5) == pytest.approx(
        6 * stats.binom(14, 1 / 6).sf(7), abs=2e-3
    )
    assert one_sided_rate([2] * 10, 1.0) == 0
    assert one_sided_rate([], 0.8) == 0


def test_a_rule_that_chance_would_trip_is_refused_or_by_default_switched_off():
    said: list[str] = []
    with pytest.raises(ValueError, match=r"one_sided_above = 0\.8: .* 22 % would be excluded by"):
        check_rules(Exclusion(one_sided_above=0.8), [2] * 6, said.append)
    with pytest.raises(ValueError, match=r"raise it to 0\.85, ask for more trials, or switch"):
        check_rules(Exclusion(one_sided_above=0.7), [2] * 10 + [6] * 2, said.append)
    assert said == []
    assert check_rules(Exclusion(), [2] * 6, said.append).one_sided_above is None
    expected = "by default 0.8, is switched off: of participants who favour no position, 22 %"
    assert expected in said[0]
    for rules, options in (
        (Exclusion(), [6] * 14 + [2] * 6),  # the default design
        (Exclusion(one_sided_above=None), [2] * 6),
        (Exclusion(), []),
    ):
        assert check_rules(rules, options, said.append) == rules
    assert len(said) == 1


def test_with_few_choices_nobody_is_excluded_as_one_sided(folder, study):
    """Six honest choices of two each: 22 % of people would be excluded by chance."""
    answers, people = make_responses(folder, study.study, people=200, seed=2)
    kept = answers[(answers["task"] == "before_or_after") | (answers["role"] == "attention")]
    responses = prepare(study, kept, people)
    share = (responses.everyone["one_sided"] > 0.8).mean()
    assert share == pytest.approx(0.22, abs=0.08)
    flow = responses.flow.set_index("step")
    assert flow.loc["excluded: one sided above 0.8", "participants"] == 0
    assert flow.loc["excluded: one sided above 0.8", "not applicable"] == 200


def test_false_switches_a_rule_off_in_study_toml(tmp_path):
    (tmp_path / "study.toml").write_text("[exclusion]\none_sided_above = false\n")
    assert load_settings(tmp_path / "study.toml").exclusion.one_sided_above is None


def test_forms_answered_by_unequal_numbers_of_people_are_counted(tmp_path):
    make_study(tmp_path, trials=3, forms=2)
    study = read_study(tmp_path)
    answers, people = make_responses(tmp_path, study.study, people=24)
    name = "difference in participants between forms"

    def count(gone):
        kept = [table[~table["participant"].isin(gone)] for table in (answers, people)]
        responses = prepare(study, *kept)
        participants = {c.name: c.participants for c in checks(responses)}
        assert participants["fewer responses than the form has trials"] == 0
        assert participants["answered trials of more than one form"] == 0
        return participants[name], notes(responses)

    form_0 = [f"p{number:03}" for number in range(0, 20, 2)]
    assert count([])[0] == count(form_0[:4])[0] == 0  # as chance may exclude them
    assert count([*form_0, "p020", "p022"])[0] == 12  # a form that nobody has answered
    difference, sentences = count(form_0)
    assert difference == 10
    assert any("more than by chance (form 0: 2, form 1: 12); trials" in text for text in sentences)
