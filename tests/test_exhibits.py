"""The shelf: an exhibit is one function; registered means written and shown."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from PIL import Image
from quick_figures import PUBLISHED

from analysis.exhibits import shelf
from analysis.exhibits.figures import (
    STYLE,
    Cell,
    Figure,
    draw_legend,
    draw_sheet,
    legend_columns,
    offset,
    panels,
    style_of,
    styled,
    wrap,
)
from analysis.exhibits.phrases import (
    ci_text,
    cis_over_classes,
    count_places,
    join,
    number_text,
    p_text,
    percent,
    points_text,
    share_ci_text,
    with_sign,
)
from analysis.exhibits.report import FOLDED_FROM, Section, write_html
from analysis.exhibits.tables import P_VALUE, Table
from analysis.run import figures as run_figures
from analysis.run import method, reversion
from analysis.run import report as run_report
from analysis.study import report as study_report


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Exhibits in a module outside the repository."""
    (tmp_path / "own_exhibits.py").write_text(
        "import pandas as pd\n"
        "from analysis.exhibits import shelf\n"
        "from analysis.exhibits.tables import Table\n"
        "FRAME = pd.DataFrame({'a': [1, 2]})\n"
        "@shelf.table('run', 'networks')\n"
        "def decorated(run):\n"
        "    return Table('decorated', 'A table of mine', 'Caption of mine.', FRAME)\n"
        "def plain(run):\n"
        "    return Table('plain', 'A plain one', 'Another caption.', FRAME)\n"
        "@shelf.sentences('run', 'networks')\n"
        "def words(run, tables):\n"
        "    return [f'{len(tables)} tables are shown.']\n"
        "@shelf.table('run', 'no such section')\n"
        "def elsewhere(run):\n"
        "    return Table('elsewhere', 'From elsewhere', 'Third caption.', FRAME)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(shelf._exhibits)
    yield
    shelf._exhibits.clear()
    shelf._exhibits.update(before)


def test_ones_own_exhibits_stand_where_their_decorators_say(own, monkeypatch):
    monkeypatch.setattr(shelf, "_exhibits", {})
    monkeypatch.setattr(shelf, "_headings", {})
    shelf.section("run", "networks", "The networks", ["An introduction."])
    shelf.section("run", "empty", "Nothing here")
    shelf.use("run", ["own_exhibits:decorated", "own_exhibits:plain", "own_exhibits:words"])
    shelf.use("run", ["own_exhibits:plain"])  # twice is once
    tables = shelf.tables_of("run", None)
    assert list(tables) == ["decorated", "elsewhere", "plain"]
    networks, others = shelf.sections_of("run", None, tables, {})
    assert [t.name for t in networks.tables] == ["decorated"]
    assert networks.text == ["An introduction."] and networks.findings == ["3 tables are shown."]
    assert [t.name for t in others.tables] == ["elsewhere", "plain"]
    assert others.title == "Exhibits of your own"


def test_an_exhibit_is_made_only_for_the_report_that_its_decorator_names(own, monkeypatch):
    monkeypatch.setattr(shelf, "_exhibits", {})
    monkeypatch.delitem(sys.modules, "own_exhibits", raising=False)  # its decorators run again
    names = ["own_exhibits:decorated", "own_exhibits:words", "own_exhibits:plain"]
    shelf.use("bench", names)  # a run and its benchmark have one list
    assert list(shelf.tables_of("bench", None)) == ["plain"]
    shelf.use("run", names)
    assert list(shelf.tables_of("run", None)) == ["decorated", "elsewhere", "plain"]
    with pytest.raises(ValueError, match="'own_exhibits:words': .* report run, not study"):
        shelf.use("study", names[1:])


def test_what_is_no_exhibit_is_refused_and_names_are_not_taken_twice(own, tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "_exhibits", {})
    (tmp_path / "more_exhibits.py").write_text(
        "import pandas as pd\n"
        "def plain(run):\n"
        "    return None\n"
        "def frame(run):\n"
        "    return pd.DataFrame({'a': [1]})\n"
    )
    shelf.use("run", ["own_exhibits:plain"])
    with pytest.raises(ValueError, match="the report has one named plain; rename yours"):
        shelf.use("run", ["more_exhibits:plain"])
    shelf.use("run", ["more_exhibits:frame"])
    with pytest.raises(ValueError, match=r"'frame' must return .* got pandas.*DataFrame"):
        shelf.figures_of("run", None)  # it was left out without a word


@pytest.mark.parametrize(
    ("name", "message"),
    [("../outside", "may contain letters, digits, .* got '../outside'"), ("plain", "rename yours")],
)
def test_a_table_of_ones_own_writes_no_file_of_another(own, monkeypatch, name, message):
    monkeypatch.setattr(shelf, "_exhibits", {})
    shelf.use("run", ["own_exhibits:plain"])
    shelf.table("run", shelf.OWN)(lambda run: Table(name, "", "", pd.DataFrame({"a": [1]})))
    with pytest.raises(ValueError, match=message):
        shelf.tables_of("run", None)


def test_a_table_shows_its_named_index_and_columns_that_are_numbers():
    counts = pd.DataFrame({"epoch": [1, 4, 4], "layer": list("aab")}).value_counts(["epoch"])
    table = Table("t", "T", "C", counts.reset_index(name=7))
    assert table.csv() == "epoch,7\n4,2\n1,1\n" and "| 4 | 2 |" in table.markdown()
    assert Table("t", "T", "C", counts.to_frame("n")).csv() == "epoch,n\n4,2\n1,1\n"


def test_an_error_in_ones_own_exhibit_names_it(monkeypatch):
    monkeypatch.setattr(shelf, "_exhibits", {})
    monkeypatch.setattr(shelf, "_headings", {})

    @shelf.table("run", "networks")
    def broken(run):
        return float("a")

    with pytest.raises(ValueError, match="exhibit 'broken' failed: ValueError: could not convert"):
        shelf.tables_of("run", None)


def test_the_method_section_names_the_spaces_of_its_run(tmp_path):
    def paragraph(*spaces):
        manifest = {"configuration": {"probe": {"k": 20}}, "space_methods": spaces,
                    "base": {"series": "net", "epoch": 9}}  # fmt: skip
        run = SimpleNamespace(manifest=lambda: manifest, holds=lambda kind: False, root=tmp_path)
        return method.method_of_run(run)[1]

    assert paragraph("sgns", "ppmi").startswith("Semantic space. sgns is the skip-gram embedding")
    assert "the paper" not in paragraph("ppmi") and "compared" not in paragraph("ppmi")
    assert paragraph("jaccard") == (
        "Semantic space. jaccard is defined below. The base checkpoint is that of net at epoch 9."
    )


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="report 'runs': there are run, bench, study"):
        shelf.table("runs", "networks")
    with pytest.raises(ValueError, match="exhibit 'no_such:thing' cannot be imported"):
        shelf.use("run", ["no_such:thing"])
    with pytest.raises(ValueError, match="unknown table 'x' of report 'run'; known: "):
        shelf.get("run", "table", "x")

    def other():
        @shelf.table("run", "networks", "twice")
        def first(run):
            return None

        @shelf.table("run", "networks", "twice")
        def second(run):
            return None

    with pytest.raises(ValueError, match="table 'twice' of report 'run' is registered twice"):
        other()
    del shelf._exhibits["run", "table", "twice"]


def test_empty_tables_are_not_shown(monkeypatch):
    monkeypatch.setattr(shelf, "_exhibits", {})
    for name, frame in (("empty", pd.DataFrame()), ("full", pd.DataFrame({"a": [1]}))):
        make = lambda run, name=name, frame=frame: Table(name, "", "", frame)  # noqa: E731
        shelf.table("run", "networks", name)(make)
    assert list(shelf.tables_of("run", None)) == ["full"]


def test_concepts_over_epochs_have_a_column_for_a_checkpoint_without_any(monkeypatch):
    neurons = pd.DataFrame(
        {"series": "net", "epoch": [0, 0, 1, 1], "channel": [0, 1, 0, 1], "layer": "l",
         "concept": "sky", "iou": [0.01, 0.02, 0.01, 0.3]}
    )  # fmt: skip
    monkeypatch.setattr(run_figures, "series_of", lambda run: ["net"])
    checkpoints = pd.MultiIndex.from_product([["net"], [0, 1, 2]], names=["series", "epoch"])
    monkeypatch.setattr(run_figures, "checkpoints_of", lambda run: checkpoints)
    monkeypatch.setattr(run_figures, "named_concepts", lambda run: neurons[3:])
    (axes,) = run_figures.emergence(None).canvas.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "2"]
    assert [text.get_text() for text in axes.texts] == ["0", "1", "0"]
    monkeypatch.setattr(run_figures, "named_concepts", lambda run: neurons[:0])
    assert run_figures.emergence(None) is None


def test_changes_of_shares_are_in_percentage_points_everywhere():
    assert points_text(-0.523, -0.58, -0.459) == "−52 [−58, −46]"
    assert points_text(0.04, 0.02, 0.06, 0.0137) == "+4 [+2, +6] (adjusted p = .014)"
    assert points_text(0.04, float("nan"), float("nan")) == "+4"
    assert [join(parts) for parts in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a", "a and b", "a, b and c"]  # fmt: skip
    frame = pd.DataFrame({"change": [-0.523, 0.0], "p": [0.0001, 0.032]})
    table = Table("t", "T", "C.", frame, {"change": "{:+.1%}", "p": P_VALUE})
    assert table.cells()["change"].tolist() == ["−52.3", "0.0"]
    assert Table.from_json(table.to_json()).cells().equals(table.cells())
    assert "0.523" in table.csv()


def test_reports_number_figures_and_tables_and_texts_refer_to_them(tmp_path):
    table = Table("one", "A", "B.", pd.DataFrame({"x_y": [1]}), headings={"x_y": "responses"})
    other = replace(table, name="other")
    sections = [
        Section("First", ["See [table:other]."], tables=[table]),
        Section("Second", findings=["As in [table:one]."], tables=[other]),
    ]
    write_html(tmp_path / "r.html", "T", "", sections, "")
    page = (tmp_path / "r.html").read_text().replace("\u00a0", " ")
    assert "See Table 2." in page and "As in Table 1." in page
    assert "<b>Table 1. A.</b>" in page and ">responses</th>" in page
    assert "x_y" in table.csv() and "responses" in table.markdown() and "responses" in table.latex()
    with pytest.raises(ValueError, match="refers to figure:none, which the report does not show"):
        write_html(tmp_path / "r.html", "T", "", [Section("S", ["[figure:none]"])], "")


def test_on_paper_no_table_is_cut_off_or_folded(browser, tmp_path):
    names = [f"quarter {number}" for number in range(8)]
    columns = [f"{name}{end}" for name in names for end in ("", " low", " high")]
    frame = pd.DataFrame({"series": ["resnet"] * FOLDED_FROM}).assign(
        **dict.fromkeys(columns, -5.32)
    )
    wide = Table("wide", "Wide", "Caption.", frame, dict.fromkeys(frame, "{:+.2f}"))
    long = replace(wide, name="long", frame=pd.concat([frame, frame]))
    write_html(tmp_path / "r.html", "T", "", [Section("S", tables=[wide, long])], "")
    page = browser.new_page(viewport={"width": 680, "height": 900})  # A4 at 96 pixels per inch
    page.goto((tmp_path / "r.html").as_uri())
    cut_off = """[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth > e.clientWidth
        && getComputedStyle(e).overflowX != 'visible')"""
    visible = "[...document.querySelectorAll('table')].map(table => table.checkVisibility())"
    assert page.evaluate(cut_off)[0] and page.evaluate(visible) == [True, False]
    page.emulate_media(media="print")
    assert page.evaluate(cut_off) == [False, False] and page.evaluate(visible) == [True, True]
    assert page.evaluate("document.querySelector('table').offsetWidth") <= 680
    page.close()


def test_sets_of_rules_that_repeat_the_frozen_ones_are_not_counted():
    frame = pd.DataFrame(
        {"rule": ["all rules", "no rule", "attention below"],
         "threshold": ["as frozen", "none", "0.8 (frozen)"], "participants": [9, 10, 9],
         "base": [0.6, 0.5, 0.6]}
    )  # fmt: skip
    tables = {"thresholds": Table("thresholds", "", "", frame)}
    [said] = study_report.stability(None, tables)
    assert said.startswith("Over the 2 different sets of exclusion rules, ")


def test_the_report_explains_where_a_part_does_more_harm_than_the_whole():
    run = SimpleNamespace(manifest=lambda: {"importance_methods": ["a"]})
    frame = pd.DataFrame(
        {"method": ["a", "a", "b"], "q1": [-0.6, -0.2, -0.9], "q4": 0.1, "all": -0.3}
    )
    tables = {
        "reversion": Table("", "", "", frame),
        "reversion_objective": Table("", "", "", frame.assign(q1=-3.0)),
    }
    assert run_report.compare_q1_with_all(run, tables) == [
        "Reverting q1 reduced accuracy more than reverting all neurons in 1 of 2 pairs (mean "
        "changes over all pairs: −40 and −30 percentage points). The mean change of the objective "
        "(see Method) was −3.0 when q1 was reverted, +0.1 for q4 and −0.3 for all neurons: on "
        "average, the changes in q1 increased the objective in training, and those in q4 "
        "decreased it. Reverting all neurons reverts both, so q1 is compared with sets of its own "
        "size."
    ]
    tiny = frame.assign(q1=-3e-4, q4=1.2e-4, all=0.6e-4)
    tiny = tables | {"reversion_objective": Table("", "", "", tiny)}
    text = "was −0.00030 when q1 was reverted, +0.00012 for q4 and +0.00006 for all neurons:"
    assert text in run_report.compare_q1_with_all(run, tiny)[0]
    # Without such changes of the objective, no reason is given.
    unknown = tables | {"reversion_objective": Table("", "", "", frame.assign(q1=0.1, all=0.2))}
    assert "objective" not in run_report.compare_q1_with_all(run, unknown)[0]
    frame["q1"] = -0.1
    assert run_report.compare_q1_with_all(run, tables) == []
    frame[["q1", "all"]] = 0.1, 0.3  # less of an increase is no reduction
    assert run_report.compare_q1_with_all(run, tables) == []


def test_comparisons_that_could_not_be_made_are_not_called_insignificant(monkeypatch):
    undefined = dict.fromkeys(["difference low", "difference high", "adjusted p"], np.nan)
    pairs = pd.DataFrame(
        {"group": ["base", "base"], "first": "a", "second": ["b", "c"], "difference": 0.1}
    ).assign(**undefined)
    tables = {"alignment": Table("", "", "", pd.DataFrame({"method": ["a"]})),
              "alignment_pairs": Table("", "", "", pairs)}  # fmt: skip
    run = SimpleNamespace(manifest=lambda: {"base": {"series": "net", "epoch": epoch}})
    epoch = 4
    (sentence,) = run_report._differences(run, tables)
    assert sentence.endswith("pairs of spaces in a group). 2 comparisons could not be tested.")
    pairs["adjusted p"] = [np.nan, 0.5]
    tables["alignment_pairs"] = Table("", "", "", pairs)
    (sentence,) = run_report._differences(run, tables)
    assert sentence.endswith("No difference is significant. 1 comparison could not be tested.")
    epoch = 0  # the base is not trained
    assert list(run_report._differences(run, tables)) == []

    changes = pd.DataFrame(
        [(c, m, a, k * v) for c in (0, 1) for k, m in enumerate("xyz", 1)
         for a, v in (("q1", -0.2 - 0.01 * c * (k == 3)), ("q4", 0.0))],
        columns=["class_id", "method", "arm", "change"],
    )  # fmt: skip
    monkeypatch.setattr(run_report, "has_results", lambda *_: True)
    monkeypatch.setattr(reversion, "joint_means", lambda run: changes)
    monkeypatch.setattr(run_report.classes, "class_changes", lambda means: means)
    (sentence,) = run_report.compare_scores(None, {})
    assert sentence.endswith("1 comparison could not be tested.")
    assert "Of 2 tested differences between scores, these were not significant: z and y" in sentence
    every, changes = changes, changes[changes["method"] != "x"]
    (sentence,) = run_report.compare_scores(None, {})
    assert sentence.endswith(" The difference was significant (paired over classes, Holm).")
    only = every[every["method"] == "y"]
    undefined = only.assign(method="w", change=np.nan)
    changes = pd.concat([only, only.assign(method="z"), undefined])
    (sentence,) = run_report.compare_scores(None, {})
    assert "was +40 for y and +40 for z (" in sentence
    assert "classes). It is undefined for w. The difference was not significant: " in sentence
    changes = every[every["class_id"] == 0]
    (sentence,) = run_report.compare_scores(None, {})
    assert "significant" not in sentence and "95 % CIs over 1 class (not estimable)" in sentence
    assert sentence.endswith(" 3 comparisons could not be tested.")


def test_a_share_of_one_layer_has_no_interval():
    row = pd.Series({"share": 0.31, "low": np.nan, "high": np.nan})
    assert share_ci_text(row, "95 %") == "no interval estimable"
    assert share_ci_text(row.fillna(0.256), "95 %") == "95 % CI [26 %, 26 %]"


def test_numbers_are_printed_as_they_are():
    """No −0, no hyphen for a minus, no "nan", and no p-value that is printed as another side of
    .05."""
    assert [number_text(v, ".2f") for v in (-0.001, -1.5, 0.001)] == ["0.00", "−1.50", "0.00"]
    noisy = (-0.185, np.nextafter(-0.185, -1), np.nextafter(-0.185, 0), 0.1 + 0.2 - 0.485)
    table = Table("", "", "", pd.DataFrame({"change": noisy}), {"change": "{:+.0%}"})
    assert table.rows() == [["−18"]] * 4  # as of 18.5 without the errors of arithmetic
    assert {number_text(100 * value, ".0f") for value in noisy} == {"−18"}
    assert [with_sign(v, ".0f") for v in (-0.4, 0.4, 3, -3)] == ["0", "0", "+3", "−3"]
    assert [number_text(np.nan, "+.1f"), percent(np.nan), percent(-0.001)] == [
        "undefined", "undefined", "0 %"
    ]  # fmt: skip
    shares = [k / n for n in range(1, 201) for k in range(n + 1)]  # 0.025 was 0.03, but 2 %
    assert all(percent(s) == f"{int(f'{s:.2f}'.replace('.', ''))} %" for s in shares)
    assert percent(0.1 + 0.625) == percent(0.725) == "72 %"  # .7250000000000001, and in tables .72
    forms = {"points": "{:+.0%}", "share": "{:.2f}", "tenths": "{:.1%}", "thousandths": "{:.3f}"}
    points = Table("", "", "", pd.DataFrame(dict.fromkeys(forms, shares)), forms)
    for share, (text, rounded, tenths, thousandths) in zip(shares, points.rows(), strict=True):
        assert text == points_text(share, np.nan, np.nan)
        assert (
            int(text) == int(rounded.replace(".", "")) and number_text(share, ".1f", 100) == tenths
        )
        assert int(tenths.replace(".", "")) == int(thousandths.replace(".", ""))
    assert number_text(-0.1385, "+.1f", 100) == "−13.9"  # and −0.139
    assert ci_text(SimpleNamespace(low=-0.001, high=np.nan), ".1f") == "not estimable"
    shown = [p_text(p) for p in (0.05, 0.0496, 0.049996, 0.0504, 0.0506, 0.0484)]
    assert shown == [f"p = .{p}" for p in ("050", "0496", "049996", "0504", "051", "048")]
    assert p_text(0.0009) == "p < .001" and p_text(np.nan) == "not tested"
    assert p_text(1) == p_text(0.9995) == "p = 1"
    values = [[3.6, 0.1], [0.14], [0.0035, np.nan], [-123.0], [np.inf, 0.02], [0.0], [np.nan]]
    assert [count_places(pd.Series(v)) for v in values] == [1, 2, 4, 1, 3, 1, 1]
    assert cis_over_classes(12) == cis_over_classes(12, 12) == "95 % CIs over 12 classes"
    assert cis_over_classes(12, 9) == "95 % CIs over 9 to 12 classes"


def test_the_report_says_in_how_many_sets_matched_is_the_second_quarter():
    run = SimpleNamespace(manifest=lambda: {"importance_methods": ["sign_t"]})
    means = {"method": ["sign_t", "change", "x"], "ratio": 0.9, "equal to q2": [0.1, 1.0, 0.75]}
    table = Table("matching", "", "", pd.DataFrame(means))
    _, every, most = run_report.matched_sets(run, {"matching": table})
    assert "scored by “change”, the matched set is q2 itself in all classes and layers" in every
    assert "scored by “x”, the matched set is q2 itself in 75 % of the classes and layers" in most


def test_labels_are_drawn_as_they_were_typed(monkeypatch):
    """Two dollar signs enclose a formula elsewhere; an impossible one ended the analysis."""
    picture = np.zeros((4, 4, 3))
    with styled():
        drawn = draw_sheet([[Cell(picture, "$^~$", r"$\frac$ of a $5 bill")]])
        (line,) = drawn.axes[0].plot([0, 1], label=r"class $\frac$")
        drawn.legend(handles=[line])
    assert Figure("f", "F", "C", drawn).png
    assert [text.get_text() for text in drawn.axes[0].texts] == [r"$\frac$ of a $5 bill"]
    monkeypatch.setattr(font_manager, "get_font_names", lambda: ["SimHei", "Noto Sans CJK SC"])
    with styled():
        assert plt.rcParams["font.family"] == ["DejaVu Sans", "Noto Sans CJK SC"]


def test_arabic_letters_are_joined_and_run_from_right_to_left():
    def draw(text):
        with styled():
            return Figure("f", "F", "C", draw_sheet([[Cell(np.zeros((4, 4, 3)), text)]])).png

    apart, left_to_right = "\u200c".join("عجلة"), "\u202d{}\u202c"
    assert draw("عجلة") != draw(apart)
    hebrew = "שלום"
    assert draw(hebrew) == draw(left_to_right.format(hebrew[::-1]))
    assert draw(hebrew) != draw(left_to_right.format(hebrew))


def test_long_names_in_a_legend_cover_no_data():
    with styled():
        canvas, axis = plt.subplots(figsize=(4.8, 2.7), layout="constrained")
        axis.plot([0, 1], label="Which of these pictures does not belong with the five others?")
        draw_legend(canvas, axis)
        canvas.canvas.draw()
    (legend,) = canvas.legends
    extent = legend.get_window_extent()
    assert not extent.overlaps(axis.get_window_extent()) and extent.x1 <= canvas.bbox.x1
    plt.close(canvas)


def test_figures_are_written_for_print(monkeypatch, tmp_path):
    """Publishers refuse fonts of type 3."""
    for name, value in PUBLISHED.items():
        monkeypatch.setitem(STYLE, name, value)
    with styled():
        canvas, _ = panels(1, 1, (3, 2))
        Figure("f", "F", "C", canvas).write(tmp_path)
    pdf = (tmp_path / "f.pdf").read_bytes()
    assert b"/CIDFontType2" in pdf and b"/Type3" not in pdf
    with Image.open(tmp_path / "f.png") as png:
        assert png.info["dpi"] == pytest.approx((160, 160), abs=0.1)


def test_letters_that_no_font_has_are_said_once(caplog, recwarn, tmp_path):
    for name in ("f", "g"):
        with styled():
            canvas, axes = panels(1, 1, (3, 2))
            axes[0, 0].set_title("Katze \U0001343a")  # an Egyptian hieroglyph
            Figure(name, "F", "C", canvas).write(tmp_path)
    [message] = [r.message for r in caplog.records if "empty boxes" in r.message]
    assert "characters \U0001343a, which no installed font has" in message
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_series_and_legends_of_any_number_and_length_can_be_read():
    # Twelve methods, thirty layers.
    assert len({tuple(style_of(k).values()) for k in range(64)}) == 64
    assert abs(offset(0, 12)) < 0.5 and offset(1, 3) == 0
    assert (
        legend_columns(["a", "b", "c"], 6) == 3 and legend_columns(["long " * 20, "b", "c"], 6) == 1
    )
    assert wrap("my_network-with.a_long-name, epoch 1", 1.95, 9.5).count("\n") == 1
