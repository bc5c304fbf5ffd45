"""The explorer: its figures are the run's, and a real browser can use it."""

import json
import re
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from small_runs import small

from analysis.explorer import ablations
from analysis.explorer.ablations import ablation_outcomes
from analysis.explorer.columns import as_json, floats, ints, pack
from analysis.explorer.data import Source, explorer_columns
from analysis.explorer.page import write_explorer
from analysis.explorer.people import people_columns
from analysis.study.anonymise import copy_study, write_data
from analysis.study.pipeline import read_results as analysed
from analysis.study.responses import read_tables
from harness.artifacts import Artifact, Run
from harness.config import parse_config
from harness.files import write_text
from harness.images.patches import cut_patch
from harness.images.sets import open_images
from harness.images.view import View, with_views
from harness.records import JOINT, NEURON
from harness.results import REVERSION, read_results
from harness.stages.run import run_until
from tasks.build import build
from tasks.evidence import read_groups
from tasks.settings import StudySettings

CONFIG = parse_config(
    small(
        seed=3,
        images={"train": 192, "probe": 120, "test": 72},
        series=[
            {"name": "vgg", "training": {"epochs": 2, "save": [0, 1, 2]}},
            {"name": "convnext", "architecture": "small_convnext",
             "training": {"epochs": 3, "save": [0, 1, 3]}},
        ],
        probe={"k": 20},
        space={"methods": ["ppmi"]},
        evolve={"images_per_class": 3, "classes": ["clock", "zebra"]},
        revert={"importance_images": 3, "heldout_images": 3},
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("explored")
    return run_until("revert", CONFIG, folder / "run", Console(quiet=True))


@pytest.fixture(scope="module")
def results(run, tmp_path_factory) -> Path:
    """Return what `conceptevo analyse` saves of simulated responses, without its statistics."""
    from survey_app.commands import database_url, export, simulate

    folder = tmp_path_factory.mktemp("asked")
    settings = StudySettings.model_validate(
        {
            "forms": 1,
            "participants": 8,
            "evidence": {"space": "ppmi", "min_depth": 0.0},
            "trials": {"odd_one_out": {"base": 2, "random": 1}, "concept_agreement": {"random": 1}},
            "exclusion": {"attention_below": 0.0, "total_seconds_outside": [0, 1e9]},
            "attention": {"trials": 0},  # networks of three epochs hold no obvious ones
            "practice": {"trials": 0},
        }
    )
    build(run, settings, folder / "study", say=lambda text: None)
    simulate(folder / "study", participants=8)
    export(folder / "responses.csv", database_url(folder / "study", None), "simulated")
    answers, people = read_tables(folder / "responses.csv")
    write_data(folder / "results" / "data", answers, people)
    copy_study(folder / "study", folder / "results" / "study")
    about = {"source": "simulated", "settings": {}, "about": {}}
    write_text(folder / "results" / "analysis.json", json.dumps(about))
    write_text(folder / "results" / "numbers.tex", "")
    return folder / "results"


@pytest.fixture(scope="module")
def page(run, results, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page") / "explore.html"
    folder, size = write_explorer(run, out, results)
    assert folder is None and size < 20e6
    return out


@pytest.fixture
def visit(browser, page):
    """Open the page at an address; the test fails on any error, refusal or request to a network."""
    trouble: list[str] = []
    contexts = []

    def go(address: str = "", size=(1280, 900), scheme: str = "light", path: Path = page):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme,
            accept_downloads=True, reduced_motion="reduce",
        )  # fmt: skip
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
        tab.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:"))
               else trouble.append(r.url))  # fmt: skip
        tab.goto(path.as_uri() + address)
        tab.wait_for_selector("body[data-ready=yes]", timeout=30_000)
        return tab

    yield go
    for context in contexts:
        context.close()
    assert trouble == []


# ---- columns


def test_packed_arrays_keep_their_values_and_a_script_element_cannot_be_closed():
    text = as_json(
        {"a": ints([1, -2]), "b": floats([0.5, np.nan]), "c": "</script><!--", "d": np.nan}
    )
    assert "<" not in text
    value = json.loads(text)
    assert value["a"] == {"type": "Int16Array", "bytes": "AQD+/w=="}
    assert value["c"] == "</script><!--" and value["d"] is None
    assert pack(ints([70_000]))["type"] == "Int32Array"
    with pytest.raises(ValueError, match="more than 32 bits"):
        ints([2**40])
    with pytest.raises(ValueError, match="int64 cannot be packed"):
        pack(np.array([1]))


@pytest.fixture(scope="module")
def columns(run):
    return explorer_columns(Source(run))


def test_corners_are_those_of_the_patches_that_people_see(run, columns):
    """Cut from the whole image at the corner, the crop is `cut_patch`'s to the pixel."""
    source, images, rng = Source(run), open_images(run, "probe"), np.random.default_rng(0)
    layers = with_views(run.tables("layers")).set_index(["series", "layer"])
    stimuli = columns["stimuli"]
    table = source.stimuli
    for line in rng.choice(len(table), 60, replace=False):
        one = table.iloc[line]
        layer = layers.loc[(one["series"], one["layer"])]
        pixels = images.pixels(int(one["image_id"]), layer["view"])
        expected = cut_patch(pixels, one["peak_y"], one["peak_x"], float(layer["patch"]))
        place = int(one["row"]) * stimuli["each"] + int(one["place"])
        top, left, side = int(stimuli["top"][place]), int(stimuli["left"][place]), len(expected)
        assert (pixels[top : top + side, left : left + side] == expected).all()
        assert stimuli["activation"][place] == one["activation"]


def test_outcomes_are_the_records_mean_and_standard_error(run):
    studies = [read_results(run.root, REVERSION)]
    table = ablation_outcomes(studies)
    records = studies[0].records(split="heldout")
    row = table[(table["layer"] == JOINT) & (table["arm"] == "q1")].iloc[0]
    same = np.ones(len(records), dtype=bool)
    for key in ("series", "epoch_from", "layer", "method", "arm", "draw", "class_id"):
        same &= (records[key] == row[key]).to_numpy()
    own = records[same]
    change = own["correct_after"].astype(int) - own["correct_before"].astype(int)
    assert row["images"] == len(own) == 3
    assert row["change"] == pytest.approx(change.mean())
    assert row["change_error"] == pytest.approx(change.std(ddof=1) / np.sqrt(3))


def test_scores_that_would_make_the_page_too_large_are_left_out_and_named(run, monkeypatch, caplog):
    source, table = Source(run), read_results(run.root, REVERSION).importance(method="sign_t")
    whole = ablations.ablation_columns(source)
    classes, methods = whole["scored"].tolist(), whole["methods"]
    assert classes == sorted(table["class_id"].unique()) and not whole["leftOut"]
    block = next(b for b in whole["importance"] if methods[b["method"]] == "sign_t")
    series, start, end = source.pairs[block["pair"]]
    own = table[(table[["series", "epoch_from", "epoch_to"]] == (series, start, end)).all(axis=1)]
    scores = block["score"].reshape(len(classes), block["units"])
    for row in own.sample(20, random_state=0).itertuples():
        found = scores[classes.index(row.class_id), source.unit_of(own.loc[[row.Index]])[0]
                       - block["first"]]  # fmt: skip
        assert found == np.float32(row.score)
    monkeypatch.setattr(ablations, "LARGEST_SCORES", ablations.SCORE_BYTES * len(source.units))
    least = ablations.ablation_columns(source)
    assert least["scored"].tolist() == classes[:1] and "for 1 of 2 classes" in least["leftOut"]
    for kind, name in (("importance", "score"), ("bins", "bin")):
        assert all(len(b[name]) == b["units"] for b in least[kind])
    assert least["leftOut"] in caplog.text


def test_the_last_methods_are_left_out_first(monkeypatch):
    about, series = {"classes": [7, 3, 9]}, {"s": range(10), "t": range(10, 40)}
    study = SimpleNamespace(methods=["a", "b", "c"], about=about)
    pairs = [("s", 0, 1), ("s", 1, 2), ("t", 0, 1)]  # 50 units by each method
    source = SimpleNamespace(studies=[study], units_of_series=series, pairs=pairs)
    for numbers, methods, classes, text in (
        (3 * 150, ["a", "b", "c"], [3, 7, 9], ""),
        (3 * 150 - 1, ["a", "b"], [3, 7, 9], "the scores of the method c."),
        (150, ["a"], [3, 7, 9], "the scores of the method b and of the method c."),
        (149, ["a"], [3, 7], "b, of the method c and for 1 of 3 classes."),
        (1, ["a"], [3], "for 2 of 3 classes."),
    ):
        monkeypatch.setattr(ablations, "LARGEST_SCORES", numbers * ablations.SCORE_BYTES)
        *found, sentence = ablations._choose_scores(source)
        assert (
            found == [methods, classes] and sentence.endswith(text) and bool(sentence) == bool(text)
        )
    study.methods, about["classes"] = ["a"], [7]
    assert ablations._choose_scores(source) == (["a"], [7], "")  # nothing can be left out


def test_people_are_counted_as_they_answered(run, results):
    people = people_columns(Source(run), results)
    answers = pd.read_csv(results / "data" / "responses.csv")
    everyone = analysed(results).responses.everyone
    included = everyone.loc[everyone["excluded"] == "", "participant"]
    answers = answers[answers["participant"].isin(included)]
    assert people["participants"] == len(included)
    for trial in people["trials"]:
        own = answers[answers["trial"] == trial["id"]]
        assert trial["answers"] == len(own)
        if trial["right"] is not None:
            assert trial["right"] == pytest.approx(own["correct"].astype(float).mean())
        assert trial["control"] == (trial["condition"] == "random")
    assert people["source"] == "simulated"


def test_a_study_of_another_run_is_refused(run, results, monkeypatch):
    source = Source(run)
    monkeypatch.setitem(source.__dict__, "row_of", {})
    with pytest.raises(ValueError, match="none of its trials shows a neuron of"):
        people_columns(source, results)


def test_the_same_run_gives_the_same_page(run, results, page, tmp_path):
    write_explorer(run, tmp_path / "again.html", results)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_the_page_asks_for_nothing_and_allows_no_eval(page):
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert "script-src 'sha256-" in policy and "'unsafe-inline'" not in policy.split(";")[1]
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", text[: text.index('id="data"')])
    assert not re.search(r'<[a-z]+[^>]* on[a-z]+="', text[: text.index('id="data"')])


# ---- in a browser


def test_figures_shown_are_those_of_the_tables(run, visit):
    """20 random neurons: concept, overlap, activations, importance with error, neighbours."""
    tab = visit()
    source, rng = Source(run), np.random.default_rng(1)
    neurons = source.space.neurons
    concepts = run.tables("concepts").set_index(NEURON)
    importance = read_results(run.root, REVERSION).importance(method="sign_t")
    stimuli = run.tables("stimuli").set_index(NEURON).sort_index()
    pairs = {s: (start, end) for s, start, end in source.pairs}
    for row in rng.choice(np.flatnonzero(source.space.has_vector), 20, replace=False):
        key = neurons.iloc[row][NEURON]
        series, epoch, layer, channel = key
        address = f"{series}/{layer}/{channel}"
        tab.evaluate(
            "([n, e]) => { location.hash = '#epoch=' + e + '&epochs=' + "
            "SPANS[SPANS.length - 1] + '&neuron=' + encodeURIComponent(n); }",
            [address, int(epoch)],
        )
        tab.wait_for_function("n => document.querySelector('#panel h2').textContent === n",
                              arg=f"{series} {layer}:{channel}")  # fmt: skip
        shown = tab.inner_text("#panel")
        cell = tab.inner_text("#panel .cell.now")
        concept = concepts.loc[tuple(key)]
        text = f"{concept['iou']:.2f}"
        name = concept["concept"] if concept["iou"] >= 0.04 else "no concept"
        assert f"{name} ({text})" in cell, address
        top = stimuli.loc[[tuple(key)]].sort_values("rank")["activation"].head(9)
        assert f"activation {top.iloc[0]:.2f} to {top.iloc[-1]:.2f}" in cell
        start, _ = pairs[series]
        own = importance[(importance["series"] == series) & (importance["layer"] == layer)
                         & (importance["channel"] == channel)
                         & (importance["epoch_from"] == start)]  # fmt: skip
        for line in own.itertuples():
            if not np.isnan(line.score):
                assert f"{line.score:.2f} ± {line.stderr:.2f} ({line.rank + 1})" in shown
        last = int(neurons.loc[neurons["series"] == series, "epoch"].max())
        near, similarity = source.space.nearest(
            np.array([row]), source.space.rows(series=series, epoch=last), 1
        )
        nearest = neurons.iloc[near[0, 0]]
        block = tab.locator(
            f"#panel [aria-label='neighbours in {series}'] .cell"
        ).first.inner_text()
        assert f"{nearest['layer']}:{nearest['channel']}" in block
        assert f"{similarity[0, 0]:.2f}".replace("-", "−") in block


def test_people_are_those_who_saw_the_neuron_at_that_epoch(run, results, visit):
    """The map's value is the share of right answers, trials weighted by their answers."""
    tab, people = visit(), people_columns(Source(run), results)
    rows = {row for trial in people["trials"] for row in trial["neurons"]}
    assert len(rows) > 5
    for row in rows:
        own = [t for t in people["trials"]
               if row in t["neurons"] and t["right"] is not None and not t["control"]]  # fmt: skip
        value = tab.evaluate("row => COLOURINGS.people.value(row)", row)
        if own:
            answers = [t["answers"] for t in own]
            assert value == pytest.approx(np.average([t["right"] for t in own], weights=answers))
        else:
            assert np.isnan(value)


def test_slider_play_and_the_address_hold_the_epoch(visit):
    tab = visit("#epoch=0")
    assert tab.inner_text("#epochShown") == "0"
    tab.focus("#epoch")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#epochShown") == "1" and "epoch=1" in tab.url
    tab.wait_for_function("() => document.getElementById('map').dataset.epoch === '1'")
    xs = tab.evaluate("document.getElementById('map').data[0].customdata.map(r => N.epoch[r])")
    assert set(xs) == {1}
    tab.click("#play")
    tab.wait_for_function(
        "() => document.getElementById('epochShown').textContent === '3'", timeout=9000
    )
    tab.wait_for_function(
        "() => document.getElementById('play').ariaPressed === 'false'", timeout=9000
    )


def test_enclosed_neurons_join_the_selection(visit):
    tab = visit()
    tab.click("#lasso")
    box = tab.locator("#map").bounding_box()
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.02)]
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in corners]
    tab.mouse.move(*points[0])
    tab.mouse.down()
    for point in points[1:]:
        tab.mouse.move(*point, steps=8)
    tab.mouse.up()
    tab.click("#enclosed button")
    shown = tab.evaluate("shownRows().length")
    assert tab.evaluate("STATE.chosen.length") == shown > 100


def test_search_finds_or_says_what_is_allowed(visit):
    tab = visit()

    def search(text):
        tab.fill("#query", text)
        tab.keyboard.press("Enter")

    for text, tab_name, heading in (
        ("vgg features.2:3", "Neuron", "vgg features.2:3"),
        ("zebra", "Class", "zebra, epochs 1 → 3"),
        ("VGG features.2:3 ", "Neuron", "vgg features.2:3"),
    ):
        search(text)
        assert tab.inner_text("[role=tab][aria-selected=true]") == tab_name
        assert tab.inner_text("#panel h2") == heading
    for text, message in (
        ("vgg features.2:9999", "has channels 0 to"),
        ("vgg nowhere:1", 'No layer is called "vgg nowhere"'),
        ("unicorn", 'Nothing is called "unicorn"'),
    ):
        search(text)
        assert message in tab.inner_text("#said")


def test_a_concept_is_found_and_laid_side_by_side(visit, columns):
    tab = visit()
    concept = next(c for c in columns["concepts"] if c not in columns["classes"])
    tab.fill("#query", concept)
    tab.keyboard.press("Enter")
    assert tab.locator("#panel h3", has_text=concept).count() == 2  # one a series
    tab.click("text=Show it on the map, side by side")
    assert "xaxis2" in tab.evaluate("Object.keys(document.getElementById('map').layout)")


def test_an_address_that_names_nothing_is_told(visit):
    tab = visit("#epoch=77&class=unicorn")
    assert "which this run does not have" in tab.inner_text("#said")


def test_a_click_on_the_map_opens_the_neuron(visit):
    tab = visit()
    tab.locator("#map .points path").first.wait_for()
    box = tab.locator("#map .points path").nth(5).bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector("#card:not([hidden])")
    named = tab.inner_text("#card b")
    tab.mouse.down()
    tab.mouse.up()
    tab.wait_for_function("n => document.querySelector('#panel h2').textContent === n", arg=named)


def test_class_view_ranks_by_importance(run, visit):
    tab = visit("#tab=Class&class=zebra&epochs=1-3")
    scores = read_results(run.root, REVERSION).importance(method="sign_t")
    klass = Source(run).classes.index("zebra")
    best = scores[(scores["series"] == "convnext") & (scores["class_id"] == klass)]["score"].max()
    first = tab.locator("#panel .evolution").first.inner_text()
    assert f"{best:.2f} ±" in first and first.startswith("1.")
    assert tab.locator("#panel .chart").count() == 1


def test_a_selection_becomes_groups_that_a_study_takes(run, visit, tmp_path):
    tab = visit("#layer=" + quote("vgg features.2") + "&tab=Selection&epoch=1")
    tab.click("text=/Add the .* shown neurons/")
    tab.fill("#groupName", 'stripes "fine" \\ é')
    tab.click("text=Name all so")
    with tab.expect_download() as waiting:
        tab.click("#saveGroups")
    waiting.value.save_as(tmp_path / "groups.toml")
    (group,) = read_groups(tmp_path / "groups.toml")
    living = Source(run).space.neurons.query("series == 'vgg' & layer == 'features.2' & epoch == 1")
    assert group.concept == 'stripes "fine" \\ é'
    assert sorted(n.channel for n in group.neurons) == sorted(living["channel"])
    assert {(n.series, n.epoch, n.layer) for n in group.neurons} == {("vgg", 1, "features.2")}
    settings = {"forms": 1, "participants": 1, "trials": {"odd_one_out": {"hand_picked": 1}},
                "attention": {"trials": 0}, "practice": {"trials": 0},
                "evidence": {"space": "ppmi", "min_depth": 0.0,
                             "groups": str(tmp_path / "groups.toml")}}  # fmt: skip
    study = build(
        run, StudySettings.model_validate(settings), tmp_path / "study", lambda text: None
    )
    assert any(trial.condition == "hand_picked" for trial in study.trials)
    command = tab.inner_text("[aria-label='benchmark command']")
    assert "--layers 'features.2'" in command and "--pairs 'vgg:1-2'" in command


def test_the_selection_travels_in_the_address(visit):
    tab = visit("#layer=" + quote("vgg features.2") + "&tab=Selection&epoch=1")
    tab.click("text=/Add the .* shown neurons/")
    heading = tab.inner_text("#panel h2")
    again = visit(tab.url[tab.url.index("#") :])
    assert again.inner_text("#panel h2") == heading != "Selection: 0 neurons"


def test_views_are_saved_as_svg_and_png(visit, tmp_path):
    tab = visit("#neuron=vgg/features.2/3&epoch=1")
    tab.wait_for_timeout(300)
    for press, start in (
        ("#mapSvg", b"<svg"),
        ("#mapPng", b"\x89PNG"),
        ("[aria-label='Save pictures as SVG']", b"<svg"),
        ("[aria-label='Save pictures as PNG']", b"\x89PNG"),
    ):
        with tab.expect_download() as waiting:
            tab.locator(press).first.click()
        waiting.value.save_as(tmp_path / "saved")
        assert (tmp_path / "saved").read_bytes().startswith(start)


def test_charts_are_saved_and_no_zero_is_negative(visit, tmp_path):
    tab = visit("#tab=Class&class=zebra&epochs=1-3")
    tab.locator("#panel .chart svg").first.wait_for()
    with tab.expect_download() as waiting:
        tab.click("[aria-label='Save sets as SVG']")
    waiting.value.save_as(tmp_path / "saved.svg")
    assert (tmp_path / "saved.svg").read_text(encoding="utf-8").startswith("<svg")
    values = "[number(-0.001), number(-0.25), signed(0.001), signed(0.02), number(NaN)]"
    assert tab.evaluate(values) == ["0.00", "−0.25", "0.00", "+0.02", "–"]


def test_patches_are_drawn_from_the_images(run, visit):
    """The first patch on the canvas has the mean colour of the crop, within compression."""
    tab = visit("#neuron=vgg/features.2/3&epoch=1")
    tab.wait_for_timeout(400)
    drawn = tab.evaluate("""() => {
      const c = document.querySelector('#panel .cell.now canvas'), t = c.width / 3;
      const d = c.getContext('2d').getImageData(1, 1, t - 2, t - 2).data, m = [0, 0, 0];
      for (let i = 0; i < d.length; i += 4) for (let k = 0; k < 3; k++) m[k] += d[i + k];
      return m.map(v => v / (d.length / 4)); }""")
    row = run.table(Artifact("stimuli", ("vgg", 1))).query("layer == 'features.2' & channel == 3")
    layer = run.tables("layers").query("series == 'vgg' & layer == 'features.2'").iloc[0]
    best = row.sort_values("rank").iloc[0]
    pixels = open_images(run, "probe").pixels(int(best["image_id"]), View(64, 64))
    expected = cut_patch(pixels, best["peak_y"], best["peak_x"], float(layer["patch"]))
    assert drawn == pytest.approx(expected.reshape(-1, 3).mean(axis=0), abs=8)


@pytest.mark.parametrize(
    ("scheme", "names"),
    [("light", ("Neuron", "Models", "Selection")), ("dark", ("Class", "Models", "Validity"))],
)
def test_it_is_accessible_and_fits_a_phone(visit, scheme, names):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab = visit("#neuron=vgg/features.2/3&epoch=1", size=(390, 844), scheme=scheme)
    for name in names:
        tab.evaluate("name => document.getElementById('tab-' + name).click()", name)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, name
        found = axe.Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
        assert [(name, v["id"], v["nodes"][0]["html"][:200]) for v in found] == []


def test_with_a_keyboard_alone_one_reaches_a_neuron(visit):
    tab = visit()
    tab.focus("#listed summary")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#list button")
    tab.keyboard.press("Tab")  # the table scrolls, so it takes focus
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert re.fullmatch(r"(vgg|convnext) \S+:\d+", tab.inner_text("#panel h2"))


def test_beyond_the_limit_the_pictures_lie_in_a_folder(run, visit, tmp_path, monkeypatch):
    from analysis.explorer import page as module

    monkeypatch.setattr(module, "LARGEST_FILE", 1e6)
    for name in ("mine.jpg", "sheet-099.webp"):
        write_text(tmp_path / "large-images" / name, "")
    folder, _ = write_explorer(run, tmp_path / "large.html")
    assert folder == tmp_path / "large-images"
    assert (folder / "mine.jpg").exists()
    assert not (folder / "sheet-099.webp").exists()
    tab = visit("#neuron=vgg/features.2/3&epoch=1", path=tmp_path / "large.html")
    tab.wait_for_function("() => SHEETS.some(s => s.picture && s.picture.naturalWidth > 0)")


def test_a_run_without_epoch_0_has_no_untrained_network(visit):
    sentence = """chance => firstSentence([{ first: [{ epoch: 1, all: 3, layer: 0, count: 2,
        concept: 0, series: 0, chance }] }], () => 1)"""
    tab = visit()
    assert "(2; the untrained network has 0)" in tab.evaluate(sentence, 0)
    assert "untrained" not in tab.evaluate(sentence, None)
    assert tab.evaluate("untrainedCount(0, 0)") == tab.evaluate("countAt(0, 0, 0).all")


def test_wrong_paths_are_named_before_any_work(run, tmp_path):
    with pytest.raises(ValueError, match="holds no analysis.json; give the --out of"):
        write_explorer(run, tmp_path / "page.html", results=run.root)
    with pytest.raises(ValueError, match="is a folder; name the HTML file to write"):
        write_explorer(run, tmp_path)


def test_the_groups_file_is_toml_for_any_name(visit):
    tab = visit()
    text = tab.evaluate(
        """() => { choose([0, 1], 'a"b\\\\c\\u007f\\n]]'); return groupsFile(); }"""
    )
    assert tomllib.loads(text)["group"][0]["concept"] == 'a"b\\c\x7f\n]]'


def test_a_run_without_concepts_and_ablations_is_shown_as_far_as_it_goes(run, visit, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(run.root, bare, ignore=shutil.ignore_patterns("reversion", "concepts-*"))
    write_explorer(Run(bare), tmp_path / "bare.html")
    tab = visit("#neuron=vgg/features.2/3&epoch=1", path=tmp_path / "bare.html")
    assert "No pair of epochs of this series was scored" in tab.inner_text("#panel")
    assert "the space could not be checked" in tab.inner_text("#honest")
    expected = {
        "Class": "No evolution was scored",
        "Models": "No true concepts",
        "Validity": "No true concepts are known",
        "Selection": "Selection: 0",
    }
    for name, text in expected.items():
        tab.click(f"#tab-{name}")
        assert text in tab.inner_text("#panel")
    tab.click("text=/Add the .* shown neurons/")
    assert tab.locator("#saveGroups").count() == 1
