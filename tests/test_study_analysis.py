"""A study from its responses to its pack: effects found, no claim in null studies, same bytes."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import say
from matplotlib.collections import PathCollection

from analysis import commands
from analysis.exhibits import phrases
from analysis.exhibits.numbers import macro_name, numbers_tex
from analysis.exhibits.tables import Table
from analysis.statistics.statistic import STATISTICS
from analysis.study.abstract import abstract_of_study
from analysis.study.agreement import annotators, variance_components
from analysis.study.anonymise import anonymise
from analysis.study.figures import accuracy as draw_accuracy
from analysis.study.figures import contrasts as draw_contrasts
from analysis.study.figures import flow as draw_flow
from analysis.study.figures import learning, trials
from analysis.study.pipeline import read_results
from analysis.study.release import rebuild, release
from analysis.study.report import _method, conditions
from analysis.study.results import Results, Settings
from analysis.study.sentences import naming
from conceptevo import cli
from harness.text import pluralise
from tasks.recruitment import Recruitment, write_recruitment
from tasks.similarity import SIMILARITIES
from tests.null_studies import CHANCE
from tests.synthetic_study import PLANTED, make_responses, make_study, write

#: How a sentence begins to claim something, of whatever kind.
CLAIM = re.compile(
    r"significantly (above|below) chance|percentage points (higher|lower) for|"
    r"Participants (distinguished|judged unchanged)|were significantly more similar|"
    r"was [\d.]+ points (higher|lower) for|(increased|decreased) (significantly|with)|"
    r"confidence (discriminated|was higher for incorrect)"
)
#: Tables that count the excluded, too.
COUNTING = {"flow", "thresholds"}


def analyse(root: Path, study: Path, tables) -> Path:
    path = write(root / "answers", *tables)
    commands.analyse(study, path, root / "results", None, None, None, None, 199, 1999, 0)
    return root / "results"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a frozen study, its responses, and its results."""
    root = tmp_path_factory.mktemp("made")
    study = make_study(root / "study", trials=5)
    write_recruitment(root / "study", Recruitment(places=47))
    tables = make_responses(root / "study", study, people=30, careless=2)
    return root / "study", study, tables, analyse(root, root / "study", tables)


def with_responses(results: Results, **values: pd.DataFrame) -> Results:
    """Return results with other values of cached properties of the responses."""
    responses = replace(results.responses)
    vars(responses).update(values)
    return replace(results, responses=responses)


def page_of(results: Path) -> str:
    return (results / "report.html").read_text().replace("\u00a0", " ")


def claim_sentences(results: Path) -> list[str]:
    findings = re.findall(r'class="finding">(.*?)</li>', page_of(results))
    claims = [finding for finding in findings if CLAIM.search(finding)]
    # Conditions of a task that are all above chance are named in one sentence.
    return [c for c in claims for _ in range(c.count("adjusted p") if " chance (" in c else 1)]


def table_bytes(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((results / "tables").iterdir())}


def test_planted_shares_are_inside_their_intervals(made):
    *_, results = made
    accuracy = pd.read_csv(results / "tables" / "accuracy.csv").set_index("condition")
    for condition, share in (PLANTED["odd_one_out"] | PLANTED["before_or_after"]).items():
        row = accuracy.loc[condition]
        assert row["low"] < share < row["high"], condition
        # Clopper & Pearson's interval is the widest of those that take answers as independent.
        binomial = row["binomial high"] - row["binomial low"]
        assert row["high"] - row["low"] > 0.95 * binomial
    assert accuracy.loc["base", "p"] < 0.01
    assert accuracy.loc["random", "p"] > 0.05
    page = page_of(results)
    assert "significantly above chance (17 %) in the conditions base (" in page
    assert "in the control condition random (1" in page
    assert "not significantly different from chance (17 %" in page
    assert "distinguished false evolutions (two neurons) from unchanged stages: " in page
    assert "the mean rating was " in page and "points higher for neighbours than for random" in page
    assert (
        "<h2>Abstract</h2>" in page
        and "Main result. Accuracy against chance in odd one out" in page
    )
    kinds = {match.group() for match in CLAIM.finditer(page)}
    assert kinds >= {
        "significantly above chance",
        "Participants distinguished",
        "were significantly more similar",
        "confidence discriminated",
    }
    assert "{" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)  # no text unformatted
    claims = pd.read_csv(results / "tables" / "claims.csv")
    assert len(claim_sentences(results)) == (claims["p"] < 0.05).sum()
    main = claims[claims["main"] == "yes"]
    assert list(main["what"]) == ["base", "other_series"]  # a control is no part of it
    assert main["weight"].sum() == pytest.approx(0.8, abs=1e-4)
    assert claims["weight"].sum() == pytest.approx(1, abs=1e-4)
    assert "The primary hypothesis, frozen before data collection, concerns accuracy" in page


@pytest.mark.slow
def test_a_study_of_chance_says_so_and_simulated_answers_too(tmp_path, made):
    """`tests/test_claims.py` says how often a study of chance claims something nevertheless."""
    folder, study, *_ = made
    tables = make_responses(
        folder, study, people=20, planted=CHANCE, naming=0, insight=False, source="simulated"
    )
    results = analyse(tmp_path, folder, tables)
    claims = pd.read_csv(results / "tables" / "claims.csv")
    assert len(claim_sentences(results)) == (claims["p"] < 0.05).sum()
    page = page_of(results)
    findings = re.findall(r'class="finding">(.*?)</li>', page)
    assert any("not significantly different from chance (17 %" in finding for finding in findings)
    assert any(
        "did not significantly distinguish real evolutions" in finding for finding in findings
    )
    for path in (results / "tables").glob("*.md"):
        assert "(simulated data)" in path.read_text().splitlines()[0], path.name
    assert page.count("(simulated data)") == 2  # in the title, above the window and on the page
    assert "All responses are simulated" in page and "Responses were simulated. " in page


def test_moving_shuffling_and_excluded_people_change_no_byte(tmp_path, made):
    folder, study, (answers, people), results = made
    more = make_responses(folder, study, people=0, seed=9, careless=2)
    for table in more:
        table["participant"] = table["participant"].str.replace("z00", "a00")  # sorted first
    both = [pd.concat(pair) for pair in zip((answers, people), more, strict=True)]
    shuffled = [table.sample(frac=1, random_state=3).reset_index(drop=True) for table in both]
    moved = tmp_path / "elsewhere" / "study"
    shutil.copytree(folder, moved)
    own = tmp_path / "else" / "results" / "tables" / "mine.csv"
    own.parent.mkdir(parents=True)
    own.write_text("a\n")
    for suffix in (".csv", ".md", ".tex"):  # an exhibit that was named at an earlier analysis
        own.with_name(f"no_more{suffix}").write_text("a\n")
        own.with_suffix(suffix).write_text("a\n")
    own.parent.with_name(".tables").write_text("no_more")
    again = analyse(tmp_path / "else", moved, shuffled)
    before, after = table_bytes(results), table_bytes(again)
    for suffix in (".csv", ".md", ".tex"):  # only our own files are replaced
        assert after.pop(f"mine{suffix}") == b"a\n"
    assert before.keys() == after.keys()
    different = {name.split(".")[0] for name in before if before[name] != after[name]}
    assert different <= COUNTING
    assert "flow" in different  # two more people were excluded, and are counted


def test_figures_of_extreme_responses_are_whole_and_never_empty(made):
    """Marks at shares of 0 and 1 are not cut off; without two responses of a participant in a
    condition there is no course of a session."""
    results = read_results(made[-1])
    answers = results.responses.answers
    right = with_responses(results, answers=answers.assign(correct=True))
    for axis in draw_accuracy(right).canvas.axes:
        (dots,) = (part for part in axis.collections if isinstance(part, PathCollection))
        assert (dots.get_offsets()[:, 0] == 1).all() and axis.get_xlim()[1] > 1.02
    single = answers.drop_duplicates(["participant", "task", "condition"])
    assert learning(with_responses(results, answers=single)) is None
    assert learning(results) is not None


def test_names_beside_forests_are_as_long_as_they_are(made, monkeypatch):
    """Long titles of tasks take several lines, and the rows stand further apart."""
    results = read_results(made[-1])
    short = [draw(results).canvas.get_figheight() for draw in (draw_contrasts, trials)]
    long_name = "Which of these pictures does not belong with the five others that you see"
    monkeypatch.setattr(type(results.responses.study), "name", lambda study, task: long_name + task)
    results = read_results(made[-1])
    for draw, height in zip((draw_contrasts, trials), short, strict=True):
        canvas = draw(results).canvas
        canvas.canvas.draw()
        assert canvas.get_figheight() > height and canvas.axes[0].get_window_extent().width > 100
        boxes = [t.get_window_extent() for t in canvas.axes[0].get_yticklabels()]
        boxes = sorted(boxes, key=lambda box: box.y0)
        assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))


def test_consistency_is_not_told_of_single_responses(made):
    results = read_results(made[-1])
    single = results.responses.answers.drop_duplicates("trial")
    assert len(annotators(results).frame)
    assert annotators(with_responses(results, answers=single)).frame.empty


def test_without_a_majority_nothing_can_differ_from_it(made):
    results = read_results(made[-1])
    rows = results.responses.answers.query("task == 'concept_agreement'").groupby("trial").head(2)
    ratings = [{"rating": 1 + k % 2, "label": None} for k in rows.groupby("trial").cumcount()]
    tied = with_responses(results, answers=rows.assign(value=ratings))
    (row,) = annotators(tied).frame.to_dict("records")
    assert row["ties"] == row["trials"] > 0 and np.isnan(row["differs from majority"])


def test_components_are_of_the_measure_that_they_name(made):
    """A task can have a key and a rating; a single condition has no component of its own."""
    results = read_results(made[-1])
    answers = results.responses.answers.query("task == 'odd_one_out'")
    values = [{"rating": 1 + k * k % 4} for k in range(len(answers))]
    both = with_responses(results, answers=answers.assign(value=values))
    accuracy, rating = variance_components(both).frame.to_dict("records")
    assert (accuracy["what"], rating["what"]) == ("accuracy", "rating")
    assert accuracy["variance, residual"] == pytest.approx(np.pi**2 / 3)
    rows = variance_components(results).cells().query("task == 'concept agreement'")
    assert rows["ICC participants in conditions"].tolist() == ["–"]
    assert rows["note"].item().endswith("cannot be separated from participants or the residual")


def test_dots_do_not_depend_on_participants_pseudonyms(made):
    results = read_results(made[-1])
    answers = results.responses.answers
    names = sorted(set(answers["participant"]))
    other = answers["participant"].map(dict(zip(names, names[::-1], strict=True)))
    renamed = with_responses(results, answers=answers.assign(participant=other))
    assert trials(renamed).png == trials(results).png


def test_pack_rebuilds_its_tables_and_is_the_same_tomorrow(tmp_path, made):
    *_, results = made
    first = release(results, tmp_path / "one.zip")
    second = release(results, tmp_path / "two.zip")
    assert first.read_bytes() == second.read_bytes()
    assert rebuild(first, tmp_path / "again") == []
    page = page_of(tmp_path / "again")
    assert " finished (planned sample size: 47); the" in page
    # How many opened the study is unknown: the tables hold only those who agreed and got a place.
    assert "Of 32 participants in the tables, 32 gave" in page and "opened" not in page
    for path in [*(results / "figures").iterdir(), results / "report.html"]:
        assert (tmp_path / "again" / path.relative_to(results)).read_bytes() == path.read_bytes()
    with zipfile.ZipFile(first) as pack:
        names = set(pack.namelist())
        data = [
            pack.read(f"data/{name}.csv").decode()
            for name in ("responses-participants", "responses")
        ]
        readme = pack.read("README.md").decode()
        pack.extractall(tmp_path / "pack")
    assert {"codebook.md", "versions.json", "checksums.sha256", "study/keys.json"} <= names
    assert not any("sqlite" in name for name in names)
    for secret in ("I am number", "prolific", "2026-03-01", "p003,"):
        assert secret not in "".join(data)
    assert "1970-01-01T00:00:00" in data[0]
    assert re.search(r"\d+ participants analysed", readme)
    check = ["sha256sum", "--check", "--quiet", "checksums.sha256"]
    assert subprocess.run(check, cwd=tmp_path / "pack", check=False).returncode == 0


def test_nobody_left_to_analyse_is_said(tmp_path, made):
    folder, study, *_ = made
    answers, people = make_responses(folder, study, people=0, careless=3)
    people["status"] = "consented"
    people["finished_at"] = pd.NaT
    with pytest.raises(ValueError, match=r"no responses are left to analyse \(arrived: 3; .*ed: 0"):
        analyse(tmp_path, folder, (answers, people))


def test_the_design_is_told_as_frozen_whoever_answered(made):
    every = read_results(made[-1])
    answers = every.responses.answers.query("task == 'odd_one_out' and condition == 'base'")
    one = answers[answers["participant"] == answers["participant"].iloc[0]]
    few = with_responses(every, answers=one)

    def design(results):
        return next(text for text in abstract_of_study(results) if text.startswith("Design."))

    assert design(few) == design(every)
    assert "odd one out (3 conditions)" in design(few)
    pd.testing.assert_frame_equal(conditions(few).frame, conditions(every).frame)
    assert conditions(few).frame["trials"].sum() == len(every.responses.study.data)
    assert [pluralise(n, "trial") for n in (1, 0, 1200)] == ["1 trial", "0 trials", "1,200 trials"]


def test_the_method_names_the_other_trials_that_the_study_has(made):
    results = read_results(made[-1])  # without practice trials
    assert "the same 50 trials, in addition to attention trials (median" in _method(results)[0]
    frozen = results.responses.study
    frozen = replace(frozen, trials=frozen.trials[frozen.trials["role"] == "trial"])
    without = replace(results, responses=replace(results.responses, study=frozen))
    assert "the same 50 trials (median" in _method(without)[0]


def test_only_measures_of_the_study_are_explained(tmp_path, made):
    """Without evolution labelling and concept agreement there is neither d′ nor a label."""
    study = make_study(tmp_path / "study", trials=2, tasks=("odd_one_out", "before_or_after"))
    tables = make_responses(tmp_path / "study", study, people=8)
    page, every = page_of(analyse(tmp_path, tmp_path / "study", tables)), page_of(made[-1])
    for text in ("d′", "Similarity of labels", "control test of false evolutions"):
        assert text in every and text not in page
    assert "Tests of accuracies, differences and confidence therefore use" in page
    assert "Tests of accuracies, differences, d′, ratings and confidence therefore use" in every


def test_conditions_that_nobody_answered_count_as_such(made):
    """Only random neurons were answered: no empty legend is drawn, and the limits say so."""
    every = read_results(made[-1])
    answers = every.responses.answers.query("condition == 'random'")
    only = with_responses(every, answers=answers)
    assert only.trials_answered.min() == 0 and every.trials_answered.min() == 5
    limits = next(text for text in abstract_of_study(only) if text.startswith("Limits."))
    assert "The smallest condition has 0 trials with responses." in limits
    assert learning(only) is None and learning(every) is not None


def test_without_rules_too_is_said_only_of_what_is_significant_with_them(made):
    every = read_results(made[-1])
    main = next(text for text in abstract_of_study(every) if text.startswith("Main result."))
    assert "Without exclusion rules, these 2 tests are significant, too." in main
    answers = every.responses.answers.query("condition != 'base' or participant < 'p0004'")
    few = with_responses(every, answers=answers)
    main = next(text for text in abstract_of_study(few) if text.startswith("Main result."))
    assert "base not testable" in main
    assert "Without exclusion rules, these 2 tests are significant." in main


def test_labels_of_few_trials_say_why_they_have_no_interval(made):
    every = read_results(made[-1])
    answers = every.responses.answers.query("condition == 'neighbours'")
    answers = answers[answers["trial"].isin(answers["trial"].unique()[:2])]
    few = with_responses(every, answers=answers)
    (sentence,) = naming(few, {})
    assert "an interval needs 4 trials (here: 2); " in sentence


def test_trials_without_an_answer_are_no_step_of_the_flow(made):
    results = read_results(made[-1])
    flow = results.responses.flow.replace({32: 1032})
    unanswered = flow.iloc[[0]].assign(step="trials without an answer: time", participants=1)
    more = pd.concat([flow.iloc[:3], unanswered, flow.iloc[3:]], ignore_index=True)
    drawn = [
        [text.get_text() for text in draw_flow(some).canvas.axes[0].texts]
        for some in (with_responses(results, flow=rows) for rows in (flow, more))
    ]
    assert drawn[0] == drawn[1] and "1,032 arrived" in drawn[0]


def test_a_run_makes_no_claim_of_others(tmp_path, made):
    """Tests that could be made with a run keep their part where none is given."""
    *_, results = made
    claims = pd.read_csv(results / "tables" / "claims.csv")
    unmade = claims[claims["question"] == "associations"]
    assert len(unmade) == 12 and unmade["p"].isna().all() and (unmade["weight"] > 0).all()
    assert (
        "association between human accuracy and measures of the networks in odd one out, "
        "importance, change in accuracy when reverted" in page_of(results)
    )
    assert not (results / "tables" / "associations.csv").exists()


def test_departures_from_the_frozen_plan_are_said(tmp_path, made):
    folder, _, tables, results = made
    path, out = write(tmp_path / "answers", *tables), tmp_path / "results"
    commands.analyse(folder, path, out, None, None, "random", "exact", 99, 99, 0)
    page = page_of(out)
    assert (
        "departs from the plan frozen with the study: similarity of labels exact instead of "
        "words; reference condition random instead of none; replicates 99 instead of 1999; "
        "permutations 99 instead of 9999." in page
    )
    assert "other series − base" not in page and "base − random" in page
    assert "With 99 permutations, some tests cannot become significant" in page
    analysed = read_results(results)
    as_frozen = replace(analysed, settings=Settings(seed=3, reference="", similarity="words"))
    assert as_frozen.departures == ["seed 3 instead of 0"]
    with pytest.raises(ValueError, match=r"'rndm' is none of base, evolution, .* all pairs"):
        _ = replace(analysed, settings=Settings(reference="rndm")).departures


def test_a_pack_holds_only_what_the_analysis_wrote(tmp_path, made, caplog):
    *_, results = made
    whole = release(results, tmp_path / "whole.zip").read_bytes()
    shutil.copytree(results, tmp_path / "results")
    (tmp_path / "results" / "data" / "raw.csv").write_text("PROLIFIC_PID")
    (tmp_path / "results" / "tables" / ".accuracy.csv").touch()
    assert release(tmp_path / "results", tmp_path / "again.zip").read_bytes() == whole
    assert "data/raw.csv" in caplog.text and ".accuracy.csv" in caplog.text
    (tmp_path / "results" / "data" / "responses.csv").unlink()
    with pytest.raises(ValueError, match=r"holds no data/responses\.csv; give the --out"):
        release(tmp_path / "results", tmp_path / "x.zip")


def test_a_tampered_pack_is_noticed(tmp_path, made):
    *_, results = made
    pack = release(results, tmp_path / "pack.zip")
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(pack) as old, zipfile.ZipFile(broken, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data + b" " if name == "tables/accuracy.csv" else data)
    with pytest.raises(ValueError, match=r"damaged: tables/accuracy\.csv does not fit"):
        rebuild(broken)
    with pytest.raises(ValueError, match=r"holds no analysis\.json"):
        release(tmp_path, tmp_path / "x.zip")


def test_anonymising_keeps_the_order_of_people(made):
    _, _, (answers, people), _ = made
    telling = {"code": "C1", "browser": "firefox", "viewport_width": 1439, "touch": True}
    hidden, persons = anonymise(answers, people.assign(**telling))
    assert persons[list(telling)].isna().all(axis=None)
    assert list(persons["participant"]) == [f"p{n:04d}" for n in range(1, 33)]
    merged = answers.sort_values(["participant", "trial"])["answer"].tolist()
    assert hidden["answer"].tolist() == merged


def test_latex_compiles(tmp_path, made):
    """Every table as it stands, none of them wider than the page."""
    *_, results = made
    engine = shutil.which("pdflatex") or shutil.which("tectonic")
    if engine is None:
        pytest.skip("no pdflatex or tectonic on this machine")
    tables = sorted((results / "tables").glob("*.tex"))
    inputs = "".join(rf"\input{{{path.with_suffix('')}}}\clearpage{{}}" for path in tables)
    source = (
        r"\documentclass{article}\usepackage[utf8]{inputenc}"
        r"\usepackage{array,booktabs,longtable,lscape,rotating}"
        rf"\begin{{document}}\input{{{results / 'numbers'}}}{inputs}"
        r"Base: \ceAccuracyOddOneOutBaseAccuracy.\end{document}"
    )
    (tmp_path / "all.tex").write_text(source)
    options = ["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in engine else []
    done = subprocess.run(
        [engine, *options, "all.tex"], cwd=tmp_path, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
    assert "Overfull \\hbox" not in done.stdout, done.stdout


def test_numbers_are_the_tables(made):
    *_, results = made
    text = (results / "numbers.tex").read_text()
    accuracy = pd.read_csv(results / "tables" / "accuracy.csv").set_index("condition")
    right = f"{accuracy.loc['base', 'accuracy']:.2f}"
    assert rf"\newcommand{{\ceAccuracyOddOneOutBaseAccuracy}}{{{right}}}" in text
    assert len(set(re.findall(r"\\newcommand{(.*?)}", text))) == text.count("\\newcommand")
    assert macro_name("d′", 12, "α") == "ceDprimeOneTwoAlpha"
    for names in (("lr+0.1", "lr-0.1"), ("甲", "乙")):  # conditions of user-defined tasks
        frame = pd.DataFrame({"k": ["x"], names[0]: [1], names[1]: [2]})
        macros = re.findall(
            r"newcommand{(.*?)}{(.*?)}", numbers_tex({"t": Table("t", "", "", frame)})
        )
        assert [number for _, number in macros] == ["1", "2"] and len(dict(macros)) == 2
    clash = Table("t", "", "", pd.DataFrame({"k": ["x"], "a": [1]}))
    with pytest.raises(ValueError, match="would both be"):
        numbers_tex({"t": clash, "T": clash})


def test_every_table_and_figure_is_written_and_registered_once(made):
    *_, results = made
    written = {path.stem for path in (results / "tables").iterdir()}
    assert written == {
        "flow", "data_quality", "sample_sizes", "claims", "thresholds", "accuracy", "conditions",
        "contrasts", "evolution", "behaviour", "variance_components",
        "agreement", "annotators", "labels", "ratings", "trials",
    }  # fmt: skip
    assert len(list((results / "figures").glob("*.pdf"))) == 11
    assert len(list((results / "figures").glob("*.png"))) == 11


def test_settings_are_in_the_pack(made):
    *_, results = made
    config = json.loads((results / "analysis.json").read_text())
    assert config["settings"]["replicates"] == 199
    assert config["source"] == "human"


@pytest.mark.parametrize(
    ("text", "value"), [("8", [8]), ("100:400:150", [100, 250, 400]), ("5:5:1", [5])]
)
def test_ranges(text, value):
    assert commands.parse_range(text, "--x") == value


@pytest.mark.parametrize("text", ["", "a", "1:2", "5:1:1", "1:5:0", "0"])
def test_bad_ranges(text):
    with pytest.raises(ValueError, match="--x must be a number or first:last:step"):
        commands.parse_range(text, "--x")


def test_conditions():
    assert commands.parse_conditions("base=.6, random=.2") == {"base": 0.6, "random": 0.2}
    for wrong in ("base", "=.5", "a=.5,", "a="):
        with pytest.raises(ValueError, match="--conditions must be name=share"):
            commands.parse_conditions(wrong)
    with pytest.raises(ValueError, match="--conditions names 'a' twice"):
        commands.parse_conditions("a=.5,b=.2,a=.6")


def test_power_command_prints_and_writes(tmp_path):
    printed = say(
        "power", "--conditions=base=.6,random=.17", "--trials=4", "--participants=20:40:20",
        "--raters=10:40:30", "--cost=2", "--studies=50", f"--out={tmp_path}",
    )  # fmt: skip
    assert "Smallest design tried that finds every effect with 80 % power: 20" in printed
    assert "1 size with fewer participants than raters left out: nobody answers an" in printed
    table = pd.read_csv(tmp_path / "power.csv")
    assert table["effect"].unique().tolist() == ["base − random"]
    assert list(table["participants"]) == [20, 40, 40]
    assert list(table["items"]) == [8, 16, 4]
    assert list(table["cost"]) == [40, 80, 80]
    assert "receive 80 % of α = 0.05" in (tmp_path / "power.md").read_text()
    assert {p.suffix for p in tmp_path.iterdir()} == {".csv", ".md", ".tex", ".png", ".pdf"}
    assert "cost" in say("power", "--conditions=a=.6,b=.3", "--participants=20", "--studies=50")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reference=b", "--against-chance"], "give --reference or --against-chance"),
        (["--chance=.5"], "--chance is used only with --against-chance"),
        (["--participants=99999999999"], "Unable to allocate"),
    ],
)
def test_power_ignores_no_option(options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["conceptevo", "power", "--conditions=a=.6,b=.3", *options])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert f"error: {message}" in capsys.readouterr().err


def test_power_is_calibrated_by_a_pilot_from_its_file(tmp_path):
    """The accuracies and standard deviations of the pilot replace those on the command line."""
    study = make_study(tmp_path / "study", trials=25, tasks=("odd_one_out",))
    tables = make_responses(
        tmp_path / "study", study, people=150, source="pilot", spread=(0.9, 0.5)
    )
    pilot = write(tmp_path / "pilot", *tables)
    printed = say(
        "power", "--conditions=base=.2,other_series=.9,mine=.3", "--participants=40",
        "--studies=50", f"--pilot={pilot}", f"--out={tmp_path}",
    )  # fmt: skip
    found = re.search(r"From the pilot: base ([.\d]+), other_series ([.\d]+); SD ([.\d]+)", printed)
    assert "Not estimable from the pilot, as given: mine 0.300" in printed
    shares = tables[0].query("role == 'trial'").groupby("condition")["correct"].mean()
    base, other, spread = map(float, found.groups())
    assert base == pytest.approx(shares["base"], abs=0.01)
    assert other == pytest.approx(shares["other_series"], abs=0.01)
    assert spread == pytest.approx(0.9, abs=0.25)
    size = pd.read_csv(tmp_path / "power.csv")["size"].iloc[0]
    assert size == pytest.approx(base - other, abs=2e-3)


def test_sentences_never_outrun_the_interval():
    assert phrases.p_text(0.0004) == "p < .001"
    assert phrases.p_text(0.0321) == "p = .032"
    assert phrases.percent(np.float64(0.166)) == "17 %"


def test_every_plugin_is_documented():
    page = (Path(__file__).parent.parent / "docs" / "analysis.md").read_text()
    for name in [*STATISTICS, *SIMILARITIES]:
        assert f"`{name}`" in page, name


def test_commands_import_nothing_heavy():
    code = (
        "import sys, analysis.commands;"
        "heavy = {'pandas', 'matplotlib', 'statsmodels', 'torch', 'scipy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
