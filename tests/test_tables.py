"""Tables as a reader sees them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.exhibits.latex import SIZES, escape
from analysis.exhibits.phrases import p_cell
from analysis.exhibits.tables import Table
from analysis.run.report import neurons_in_use, plain_on_screen
from analysis.run.tables import describe_training, neurons
from harness.artifacts import Artifact, Run
from harness.concepts.space import SemanticSpace

FRAME = pd.DataFrame(
    {"name": ["a_b", "c"], "right": [0.5, np.nan], "low": [-0.25, np.nan], "high": [0.75, np.nan],
     "odds": [2.0, 3.0], "odds low": [1.0, 2.0], "odds high": [4.0, 5.0], "p": [0.0001, 0.05]}
)  # fmt: skip
FORMATS = {"right": "{:.2f}", "low": "{:.2f}", "high": "{:.2f}", "p": p_cell}


def test_intervals_stand_behind_their_values_and_undefined_is_a_dash():
    table = Table("t", "T", "C", FRAME, FORMATS)
    shown = table.shown_cells()
    assert list(shown.columns) == ["name", "right", "odds", "p"]
    assert shown.iloc[0].tolist() == ["a_b", "0.50 [−0.25, 0.75]", "2.0 [1.0, 4.0]", "<.001"]
    assert shown.iloc[1].tolist() == ["c", "–", "3.0 [2.0, 5.0]", ".050"]
    assert "low" in table.csv().splitlines()[0]  # the data keep their columns


def test_hidden_columns_are_only_in_the_csv():
    table = Table("t", "T", "C", FRAME, FORMATS, hidden=("odds", "odds low", "odds high"))
    assert list(table.shown_cells().columns) == ["name", "right", "p"]
    assert "odds" in table.csv() and "odds" not in table.markdown()


def test_tables_survive_their_json():
    """To the last digit: 0.1 + 0.2 is not 0.3, and whole numbers stay whole."""
    frame = FRAME.assign(n=[1, 2], odds=[0.1 + 0.2, 1 / 3])
    table = Table("t", "T", "C", frame, {"right": "{:.2f}"}, ("low",))
    again = Table.from_json(table.to_json())
    pd.testing.assert_frame_equal(again.frame, frame, check_exact=True)
    assert again.to_json() == table.to_json()
    assert (again.csv(), again.latex()) == (table.csv(), table.latex())


@pytest.mark.parametrize(
    ("rows", "columns", "kind"),
    [
        (2, 3, "table"),
        (2, 20, "sidewaystable"),
        (SIZES[0].lines + 1, 3, "longtable"),
        (30, 9, "longtable"),
    ],
)
def test_latex_fits_the_page(rows, columns, kind):
    frame = pd.DataFrame({f"column_{k}": ["x & y"] * rows for k in range(columns)})
    text = Table("t", "50 %", "C", frame).latex()
    assert rf"\begin{{{kind}}}" in text and rf"\end{{{kind}}}" in text
    assert text.count(r"x \& y") == rows * columns
    assert r"50 \%" in text


def test_latex_breaks_the_lines_of_columns_that_do_not_fit_the_page():
    shown = {"task": ["odd one out"], "what": [" ".join(["shown"] * 60)]}
    text = Table("t", "T", "C", pd.DataFrame(shown)).latex()
    assert r"\begin{tabular}{l>{\raggedright\arraybackslash}p{" in text and "array" in text[:30]
    numbers = {name: [-52.5] for k in range(9) for name in (f"q{k}", f"q{k} low", f"q{k} high")}
    text = Table("t", "T", "C", pd.DataFrame(numbers)).latex()
    assert r"$-$52.5 [$-$52.5,~$-$52.5]" in text and text.count(r"\raggedleft") == 9


def test_latex_prints_what_data_contain():
    frame = pd.DataFrame({"class": ["[MASK]", "*", "a~b"], "b": ["ρ, λ", "甲", "x\ny"]})
    text = Table("t", "Kinds", "C", frame).latex()
    assert "\n{}[MASK] & " in text and "\n{}* & " in text  # not arguments of the row before
    assert escape("ρ, λ") == r"$\rho$, $\lambda$"
    paragraphs = Table("t", "Kinds", "One.\n\n    Two.", frame).latex()
    assert r"\caption{Kinds. One. Two.}\label{tab:t}" in paragraphs
    assert escape("P(a|b)") == r"P(a\textbar{}b)"  # the font of pdflatex has a dash there
    assert text.startswith("% needs booktabs; LuaLaTeX or XeLaTeX with a font")
    assert Table("t", "Kinds", "C", frame.iloc[:1]).latex().startswith("% needs booktabs\n")
    assert Table("t", "Kinds", "C", frame).markdown().endswith("| a~b | x y |\n")
    names = pd.DataFrame(
        {"class": ["<b>", "a|b", "a\\|b", "</i>"], "p": ["<.001", "2 < 3", "", ""]}
    )
    rows = Table("t", "Kinds", "C", names).markdown().splitlines()[-4:]
    assert rows[0] == r"| \<b> | <.001 |" and rows[1] == r"| a\|b | 2 < 3 |"
    assert rows[2] == r"| a\\\|b |  |" and rows[3] == r"| \</i> |  |"


def test_brackets_of_data_are_printed(capsys):
    """A title or a path with [brackets] is no markup (it was swallowed, or ended in an error)."""
    from harness.terminal import console

    screen = plain_on_screen(pd.DataFrame({"method": ["a[b]", "[/x]"]}), "[top]")
    console.print(screen)
    console.print("wrote /tmp/[dim]/x")
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("a[b]", "[/x]", "[top]", "/tmp/[dim]/x"))


def test_no_number_is_cut_off_where_names_are_long(capsys):
    from harness.terminal import console

    arms = {f"matched {k}": [-0.125 - k] for k in range(6)}
    frame = pd.DataFrame({"epochs": ["resnet10t 3 → 8"], "by": ["mymodule:my_score"], **arms})
    console.print(plain_on_screen(frame, "t"), width=80)
    printed = capsys.readouterr().out
    assert "…" not in printed and all(f"−{0.125 + k:.2f}" in printed for k in range(6))
    console.print(plain_on_screen(pd.DataFrame({"gap": [-0.001, 0.001]}), "t"), width=80)
    assert capsys.readouterr().out.count(" 0.00") == 2


def test_notebooks_and_consoles_show_a_table_as_a_report_does():
    frame = pd.DataFrame({"the_name": ["a & b"], "gap": [0.5], "gap low": [0.4], "gap high": [0.6]})
    formats = dict.fromkeys(["gap", "gap low", "gap high"], "{:.2f}")
    table = Table("t", "Title", "Caption.", frame, formats)
    lines = [" ".join(line.split()) for line in repr(table).splitlines()]
    assert lines == ["Title.", "the name gap", "a & b 0.50 [0.40, 0.60]", "Caption."]
    shown = table._repr_html_()
    assert "<th>the name</th>" in shown and "a &amp; b" in shown and "Title. Caption." in shown
    assert shown.count("<th>") == 2


def test_a_checkpoint_whose_neurons_are_all_dead_is_counted(tmp_path):
    """A training can collapse, as with too large a learning rate. No space has such neurons."""
    run = Run(tmp_path)
    series = [{"name": "net", "source": "folder"}]
    values = {"space_methods": ["jaccard"], "configuration": {"series": series}}
    run.write_manifest({**values, "checkpoints": {"net": [1, 2, 3]}})
    layers = pd.DataFrame({"series": "net", "layer": ["a", "b"], "channels": [3, 2], "depth": 1.0})
    run.save(Artifact("layers", ("net",)), layers, "x")
    keys = {"series": "net", "epoch": [1, 1, 3], "layer": ["a", "b", "a"], "channel": [2, 0, 1]}
    frame = pd.DataFrame({**keys, "coverage": [1.0, 0.5, 0.25]})
    run.save(Artifact("space_neurons", ("jaccard",)), frame, "x")
    space = SemanticSpace("jaccard", frame, np.eye(3))
    run.save(Artifact("space", ("jaccard",)), space.arrays(), "x")
    table = neurons(run).frame
    assert table["epoch"].tolist() == [1, 2, 3] and table["alive"].tolist() == [2, 0, 1]
    assert table["dead"].tolist() == [3, 5, 4]
    assert table["coverage"].tolist() == pytest.approx([0.75, np.nan, 0.25], nan_ok=True)


def test_captions_say_on_which_images_training_accuracy_is():
    sections = [{"name": "a", "source": "train", "training": {"augment": True}},
                {"name": "b", "source": "folder"}]  # fmt: skip
    run = SimpleNamespace(manifest=lambda: {"configuration": {"series": sections}})
    assert describe_training(run) == "augmented, averaged over the epoch"
    sections.append({"name": "c", "source": "train", "training": {"augment": False}})
    assert describe_training(run) == "augmented except in c, averaged over the epoch"
    del sections[0]
    assert describe_training(run) == "averaged over the epoch"


def test_a_report_counts_neurons_whose_stimuli_are_decided_by_the_order_of_images(tmp_path):
    """The first is saturated at 6, as by ReLU6; the third has a single stimulus."""
    run = Run(tmp_path)
    run.write_manifest({"checkpoints": {"vgg": [3]}})
    stimuli = {"channel": [0, 0, 0, 1, 1, 1, 2], "activation": [6.0, 6, 6, 6, 6, 5, 1]}
    frame = pd.DataFrame({"series": "vgg", "epoch": 3, "layer": "features.2", **stimuli})
    run.save(Artifact("stimuli", ("vgg", 3)), frame, "x")
    counts = pd.DataFrame({"series": ["vgg"], "epoch": [3], "neurons": [8], "dead": [5]})
    said = neurons_in_use(run, {"neurons": Table("neurons", "", "", counts)})
    assert said[0].endswith("5 cases of a neuron at a checkpoint (62 %) are dead and excluded.")
    (one, _) = neurons_in_use(run, {"neurons": Table("neurons", "", "", counts.assign(dead=1))})
    assert one.endswith(", 1 case of a neuron at a checkpoint (12 %) is dead and excluded.")
    assert said[1].startswith("In 1 case (12 %) all stimuli of a neuron have the same activation")
