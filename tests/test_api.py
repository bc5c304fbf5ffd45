"""The Python interface: what the README shows, equal to what the commands compute."""

import copy
import functools
import html
import pickle
import subprocess
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from network_pairs import perturbed
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import TensorDataset

import conceptevo as ce
from conceptevo.inputs import register_plugin
from harness.concepts.space_methods import SPACES
from harness.evolutions.ablation import reads_donors
from harness.evolutions.arms import ReversionParameters
from harness.evolutions.importance import IMPORTANCE
from harness.images.folders import ORIENTATION
from harness.images.sets import draw_arrays
from harness.images.view import View
from harness.registry import Registry
from harness.stages.ablate import study_steps
from harness.stages.benchmark import Coverage, bench_study

MINE = (0, 1, 2)


def my_score(change):
    """A user's own importance method."""
    return {name: gradient.norm(dim=2) for name, gradient in change.gradients_from.items()}


@pytest.fixture(scope="module")
def images():
    arrays = draw_arrays(3, 0, 400)
    chosen = np.isin(arrays["labels"], MINE)
    return ce.Images(arrays["pixels"][chosen], arrays["labels"][chosen], classes=["r", "g", "b"])


@pytest.fixture(scope="module")
def series():
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3)]
    newer = nn.Sequential(*parts, *head)
    models = {1: perturbed(newer, 1), 4: newer}
    return ce.Series("mine", models, view=ce.View(32, 32, mean=0.5, std=0.25))


@pytest.fixture(scope="module")
def probed(series, images):
    return ce.probe(series, images, k=10, progress=False)


@pytest.fixture(scope="module")
def scores(series, images):
    yield ce.importance(
        series, images, (1, 4), ["sign_t", my_score], heldout_images=8, progress=False
    )
    del IMPORTANCE._plugins["my_score"]


@pytest.fixture(scope="module")
def undone(scores):
    return ce.ablate(scores, "revert", arms=ce.Arms(bins=4, random=19), progress=False)


def test_stimuli_are_a_table_and_a_strip(probed):
    stimuli = probed.to_pandas()
    assert set(stimuli["epoch"]) == {1, 4} and set(stimuli["layer"]) == {"1", "3"}
    assert stimuli.groupby(["epoch", "layer", "channel"]).size().max() == 10
    strip = probed.strip(ce.Neuron("mine", 4, "3", 5))
    assert strip.width > 2 * strip.height - 20
    with pytest.raises(ValueError, match="no series 'other'; there are 'mine'"):
        probed.strip(ce.Neuron("other", 4, "3", 5))
    for layer, channel in (("9", 5), ("3", 99)):
        with pytest.raises(ValueError, match=r"no neuron .*layers \(and their channels\) are '1'"):
            probed.strip(ce.Neuron("mine", 4, layer, channel))


def test_a_space_has_neighbours(probed):
    space = ce.space(probed, "ppmi", seed=0, dimension=5, progress=False)
    neurons = space.to_pandas()
    neuron = ce.Neuron(*neurons.loc[0, ["series", "epoch", "layer", "channel"]])
    near = space.nearest(neuron, k=5)
    assert len(near) == 5 and near["similarity"].is_monotonic_decreasing
    among = space.nearest(neuron, k=3, epoch=4)
    assert set(among["epoch"]) == {4}
    with pytest.raises(ValueError, match="has no place in the space"):
        space.nearest(ce.Neuron("mine", 4, "3", 99))
    with pytest.raises(ValueError, match="chosen by series, epoch, layer, channel, not 'epochs'"):
        space.nearest(neuron, epochs=4)
    with pytest.raises(ValueError, match="no neuron of the space has series = 'other', epoch = 4"):
        space.nearest(neuron, series="other", epoch=4)
    with pytest.raises(ValueError, match=r"epoch must be one value, got \[1, 4\]"):
        space.nearest(neuron, epoch=[1, 4])


@pytest.mark.parametrize("method", SPACES)
def test_every_space_is_a_table(probed, method):
    space = ce.space(probed, method, progress=False)
    assert len(space.to_pandas()) == len(space.space.neurons) and "rows" in space._repr_html_()


def test_a_space_and_an_ablation_may_be_functions(probed, scores, registries):
    def mine(evidence, parameters, rng, name):
        return SPACES.get("jaccard")(evidence, parameters, rng, name)

    def halved(maps, layer):
        return maps.newer(layer) / 2

    jaccard, own = (ce.space(probed, m, progress=False).to_pandas() for m in ("jaccard", mine))
    pd.testing.assert_frame_equal(jaccard, own)
    halves = ce.ablate(scores, halved, arms=ce.Arms(random=1), progress=False).to_pandas()
    assert set(halves["ablation"]) == {"halved"}


def test_the_callers_settings_of_torch_have_no_effect(series, images, probed):
    kind = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            again = ce.probe(series, images, k=10, progress=False)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(kind)
    pd.testing.assert_frame_equal(probed.to_pandas(), again.to_pandas())


def test_threads_compute_one_after_another(series, images, probed):
    with ThreadPoolExecutor(3) as pool:
        probing = [pool.submit(ce.probe, series, images, 10, progress=False) for _ in range(3)]
    for one in probing:
        pd.testing.assert_frame_equal(probed.to_pandas(), one.result().to_pandas())


def test_results_are_pickled_once_they_are_saved(probed, tmp_path, monkeypatch):
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match=r"Probed cannot be pickled .* use save\(folder\)"):
            copied(probed)
    monkeypatch.chdir(tmp_path)
    probed.save("kept")
    loaded = ce.load("kept")
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(loaded))
    pd.testing.assert_frame_equal(again.to_pandas(), probed.to_pandas())


def test_layers_can_be_one_pattern(series):
    one = ce.Series("mine", series.models, series.view, layers="features.*")
    assert one.source().layers == ("features.*",)


def test_scores_are_those_of_both_methods_for_all_classes(scores, series):
    table = scores.to_pandas()
    assert set(table["method"]) == {"sign_t", "my_score"} and set(table["class_id"]) == {0, 1, 2}
    assert len(table) == 2 * 3 * (8 + 12)
    assert not any(module._forward_hooks for module in series.models[4].modules())


def test_ablation_ends_in_a_leaderboard_and_figures(undone):
    records = undone.to_pandas()
    assert {"q1", "q4", "random", "most", "all", "none"} <= set(records["arm"])
    assert records.loc[records["arm"] == "random", "draw"].nunique() == 19
    board = undone.leaderboard().frame
    assert set(board["method"]) == {"sign_t", "my_score"} and board["gap"].notna().all()
    assert "data:image/png" in undone.figure("curves")._repr_html_()
    assert not plt.get_fignums()  # an open figure is shown twice in a notebook
    assert undone.leaderboard().caption in html.unescape(undone._repr_html_())


def test_ablating_again_adds_to_what_was_done(scores, undone):
    zero = ce.ablate(scores, "zero", arms=ce.Arms(random=19), progress=False)
    assert set(zero.to_pandas()["ablation"]) == {"zero"}
    with pytest.raises(ValueError, match="unknown ablation 'undo'; known: revert"):
        ce.ablate(scores, "undo")


@pytest.mark.parametrize("name", ["probed", "scores"])
def test_results_are_saved_and_loaded(name, request, tmp_path):
    result = request.getfixturevalue(name)
    result.save(tmp_path / "kept")
    with pytest.raises(ValueError, match="kept exists; name another, or remove it first"):
        result.save(tmp_path / "kept")
    again = ce.load(tmp_path / "kept")
    assert type(again) is type(result) and "rows" in again._repr_html_()
    assert repr(again) == repr(result)
    columns = list(result.to_pandas().columns)
    mine, theirs = (r.to_pandas().sort_values(columns) for r in (result, again))
    if name == "scores":
        theirs = theirs[theirs["method"].isin(mine["method"])]
    pd.testing.assert_frame_equal(
        mine.reset_index(drop=True), theirs.reset_index(drop=True), check_exact=True
    )
    with pytest.raises(ValueError, match="can be read, not computed with"):
        _ = again.session
    with pytest.raises(ValueError, match="holds no saved result"):
        ce.load(tmp_path)
    for text in ("{", "[]", '{"kind": "Other"}'):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(ValueError, match="is damaged: it names none of Probed, Space, Scores"):
            ce.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 4, 4, 3)), [0, 0], ["a"]), r"uint8 .* float64; .* \[0, 1\] by \(255 \* x\)"),
        ((np.full((2, 4, 4, 3), 254.9), [0, 0], ["a"]), r"float64; .* \[0, 255\] by \(x\)\.round"),
        (
            (np.full((2, 4, 4, 3), -2.0), [0, 0], ["a"]),
            "between -2 and -2; .* normalisation, which",
        ),
        ((np.full((2, 4, 4, 3), np.nan), [0, 0], ["a"]), "between nan and nan; "),
        ((np.zeros((2, 4, 4), bool), [0, 0], ["a"]), "got bool$"),
        ((torch.rand(2, 4, 4, 3, requires_grad=True), [0, 0], ["a"]), "uint8 .* got float32"),
        ((np.zeros((2, 4, 4), int), [0, 0], ["a"]), "got int64; convert integers in 0 to 255"),
        ((np.zeros((1, 0, 0, 3), np.uint8), [0], ["a"]), r"\[images, .* got shape \(1, 0, 0, 3\)"),
        (
            (TensorDataset(torch.zeros(2, 4)), [0, 0], ["a"]),
            "a list of images, got a TensorDataset",
        ),
        (("images/", [0, 0], ["a"]), "an array or a list of images, got a str; of a data set"),
        (([(torch.zeros(4, 4), 1)], [0], ["a"]), "an array or a Pillow image, got a tuple of Ten"),
        ((np.zeros((2, 4, 4), np.uint8), [0, 1], "ab"), "order of the labels, got a str"),
        ((np.zeros((2, 4, 4), np.uint8), [0, 1], None), "order of the labels, got a NoneType"),
        (
            (np.zeros((2, 4, 4), np.uint8), [0, 1], ["a", " "]),
            "differ and not be empty, got 'a', ' '",
        ),
        (
            (np.zeros((2, 3, 4, 4), np.uint8), [0, 0], ["a"]),
            r"\[images, height, .* by x\.transpose\(0, 2, 3, 1\)",
        ),
        ((np.zeros((2, 4, 4, 4), np.uint8), [0, 0], ["a"]), r"shape \(2, 4, 4, 4\)$"),
        (
            (torch.rand(2, 4, 4, 3).bfloat16(), [0, 0], ["a"]),
            "a tensor of torch.bfloat16 and .* NumPy",
        ),
        ((np.full((1, 4, 4), 999, np.uint16), [0], ["a"]), r"16 bits by .x / 257..round.."),
        ((np.zeros((1, 4, 4), np.uint8), ["a"], ["a"]), "1 integers, got <U1 .*classes.index"),
        ((np.zeros((2, 4, 4), np.uint8), [0], ["a"]), "labels must be 2 integers"),
        (
            (np.zeros((2, 4, 4), np.uint8), np.eye(2), ["a", "b"]),
            r"one-hot labels, x.argmax.axis=1",
        ),
        ((np.zeros((2, 4, 4), np.uint8), [0.0, 1.0], ["a", "b"]), r"by x\.astype\(int\)"),
        ((np.zeros((0, 4, 4), np.uint8), [], ["a"]), "which has no pixels"),
        (
            (np.ma.masked_equal(np.ones((2, 4, 4), np.uint8), 1), [0, 1], ["a", "b"]),
            r"32 numbers of an array of shape \(2, 4, 4\) are masked",
        ),
        ((np.zeros((2, 4, 4), np.uint8), [0, 1], ["a"]), r"labels must lie in 0 to 0 .1 classes"),
        ((np.zeros((2, 4, 4), np.uint8), [0, 2], [*"abc"]), "there is no image of the classes b: "),
        ((np.zeros((2, 4, 4), np.uint8), [0, 1], ["a", "a"]), "names of classes must differ"),
        ((np.zeros((2, 4, 4), np.uint8), [0, 1], {"b", "a"}), "order of the labels, got a set"),
        ((np.zeros((2, 4, 4), np.uint8), [0, 1], {"b": 1, "a": 0}), "of the labels, got a dict"),
        (
            ([np.zeros((4, 4)), np.zeros((4, 5))], [0, 1], ["a", "b"]),
            "the same shape, got .4, 4., .4",
        ),
    ],
)
def test_bad_images_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        ce.Images(*arguments)


def test_pillow_images_are_read_as_files_are():
    colours = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    first, second = map(Image.fromarray, colours)
    palette = first.quantize(16)
    turned = ImageOps.flip(second.convert("RGBA"))
    turned.getexif()[ORIENTATION] = 4
    images = ce.Images([palette, turned], [0, 1], ["a", "b"])
    np.testing.assert_array_equal(images.pixels, [np.asarray(palette.convert("RGB")), colours[1]])
    images = ce.Images(memoryview(colours), [0, 1], ["a", "b"])
    np.testing.assert_array_equal(images.pixels, colours)


def test_only_what_a_function_needs_is_required(images, caplog):
    """Stimuli need no second image of a class, and scores no neurons that span a space."""
    torch.manual_seed(0)
    newer = nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    one = ce.Series("one", {1: perturbed(newer, 1), 4: newer}, ce.View(8, 8))
    scores = ce.importance(one, images, (1, 4), ["change"], progress=False).to_pandas()
    assert len(scores) == 3
    few = ce.Images(images.pixels[:4], [0, 1, 2, 2], images.classes)
    assert ce.probe(one, few, k=4, progress=False).to_pandas()["channel"].eq(0).all()
    with pytest.raises(ValueError, match="need two images of a class; r, g have fewer"):
        ce.importance(one, few, (1, 4), ["change"], progress=False)
    for objective in ("logit", "prototype"):
        one = ce.Series("one", one.models, one.view, objective=objective)
        scores = ce.importance(one, few, (1, 4), ["change"], classes=["b"], progress=False)
        assert scores.to_pandas()["class_id"].eq(2).all()
    with pytest.raises(ValueError, match="there are 4 probe images"):
        ce.probe(one, few, progress=False)
    alone = ce.Series("one", {4: newer}, one.view, class_outputs={"a": 0})
    ce.probe(alone, ce.Images(images.pixels[:1], [0], ["a"]), k=1, progress=False)
    assert "no evolution is studied" not in caplog.text  # nothing was to be studied


def test_bad_series_are_named(images, series):
    with pytest.raises(ValueError, match="epoch 1: the network has 3 outputs|has 3 outputs for 2"):
        ce.probe(series, ce.Images(images.pixels, images.labels % 2, ["a", "b"]), progress=False)
    with pytest.raises(ValueError, match="no checkpoint of epoch 9; it has 1, 4"):
        ce.importance(series, images, (1, 9), progress=False)
    last = series.models[4]
    still = ce.Series("mine", {1: copy.deepcopy(last), 4: last}, series.view)
    with pytest.raises(ValueError, match="epochs 1 and 4 of series 'mine' have the same weights"):
        ce.importance(still, images, (1, 4), progress=False)
    for model, mask in zip(still.models.values(), (0.0, 1.0), strict=True):
        model.register_buffer("mask", torch.tensor(mask), persistent=False)
    source = still.source()
    assert source.identity(1) != source.identity(4)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (nn.Conv2d(3, 6, 3, 2), r"layer '1' has maps of 6 × 15 × 15, not 8 × 15 × 15"),
        (
            nn.Conv2d(3, 8, 3, 1, 1),
            r"layer '1' has maps of 8 × 32 × 32, .*layer '3' has maps of 12",
        ),
    ],
)
def test_a_network_that_changes_in_a_series_is_refused_before_work(first, message, images, series):
    second = nn.Conv2d(first.out_channels, 12, 3, 2)
    older = nn.Sequential(first, nn.ReLU(), second, *list(series.models[4])[3:])
    changing = ce.Series("mine", {1: older, 4: series.models[4]}, series.view)
    with pytest.raises(ValueError, match=rf"epoch 1: the network differs .*epoch 4 \({message}"):
        ce.importance(changing, images, (1, 4), ["change"], progress=False)


def test_a_layer_that_an_earlier_epoch_lacks_is_named(images, series):
    parts = dict(copy.deepcopy(series.models[4]).named_children())
    pooled = nn.Sequential(*[part for name, part in parts.items() if name != "3"])  # renames
    lacking = nn.Sequential(OrderedDict((n, part) for n, part in parts.items() if n != "3"))
    for older, message in {
        pooled: r"layer '3' has maps of 12 × 1 × 1, not 12 × 7 × 7",
        lacking: r"differs from that of epoch 4 \(no layer matches '3'; the model's are 0, 1, 2, 4",
    }.items():
        changing = ce.Series("mine", {1: older, 4: series.models[4]}, series.view)
        with pytest.raises(ValueError, match=message):
            ce.importance(changing, images, (1, 4), ["change"], progress=False)


def test_half_precision_models_and_devices(images, series):
    models = {epoch: copy.deepcopy(model).bfloat16() for epoch, model in series.models.items()}
    half = ce.Series("mine", models, series.view)
    found = ce.probe(half, images, k=3, device="cpu", progress=False).to_pandas()
    weights = {epoch: model.float() for epoch, model in models.items()}
    same = ce.probe(ce.Series("mine", weights, series.view), images, k=3, progress=False)
    pd.testing.assert_frame_equal(found, same.to_pandas())
    with pytest.raises(ValueError, match="device 'cuda:99' is not available: torch"):
        ce.probe(series, images, device="cuda:99")


def test_results_stay_those_of_their_own_call(probed, scores):
    """Results are read when they are first used, possibly after further calls."""
    first, again = (ce.space(probed, "random", seed=0, progress=False) for _ in range(2))
    ce.space(probed, "random", seed=1, progress=False)
    pd.testing.assert_frame_equal(first.to_pandas(), again.to_pandas())
    undone = ce.ablate(scores, "revert", arms=ce.Arms(random=5), progress=False)
    ce.ablate(scores, "zero", arms=ce.Arms(random=6), progress=False)
    assert set(undone.to_pandas()["ablation"]) == {"revert"}


def test_models_may_be_trained_on_after_a_result(images, series):
    models = copy.deepcopy(dict(series.models))
    mine = ce.Series("mine", models, series.view)
    scores = ce.importance(mine, images, (1, 4), ["change"], heldout_images=8, progress=False)
    before, after = (_undone(scores, models[4], grow) for grow in (0, 1))
    pd.testing.assert_frame_equal(before, after)


def _undone(scores, model, grow):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += grow
    return ce.ablate(scores, arms=ce.Arms(random=5), progress=False).to_pandas()


def test_a_function_takes_no_name_from_another():
    def change(change):
        """Compute a score; the function has the name of a built-in score."""

    registry = Registry("score", {"change": my_score})
    mine, other = lambda: 1, functools.partial(my_score)
    names = [register_plugin(registry, plugin) for plugin in (mine, other, my_score, mine, change)]
    assert names == ["<lambda>", "partial", "my_score", "<lambda>", "change-2"]
    assert registry.get("change") is my_score and registry.get("change-2") is change


def test_parameters_are_checked_and_of_any_kind_of_number(scores):
    for arms in (ce.Arms(bins=1), ce.Arms(random=0), ce.Arms(steps=1)):
        with pytest.raises(ValueError, match="^ablate: .*: must be at least"):
            ce.ablate(scores, arms=arms, progress=False)
    view = ce.View(8, 8, mean=np.array([0.1, 0.2, 0.3]), std=torch.tensor(0.5))
    assert view.numbers("mean") == (0.1, 0.2, 0.3) and view.numbers("std") == (0.5,) * 3
    finer = ce.View(8, 6, resize=(9, 7), interpolation="bicubic")
    assert ce.Series("s", {1: nn.Linear(1, 1)}, finer).source().view == View(
        (9, 7), (8, 6), interpolation="bicubic"
    )
    grey = ce.View(8, 8, mean=[0.5], std=torch.tensor([0.5]), channels=1)
    assert grey.numbers("std") == (0.5,)
    assert ce.Images(np.zeros((2, 4, 4), np.uint8), [0, 1], range(2)).classes == ("0", "1")
    assert ce.Images(np.zeros((1, 4, 4), np.uint8), [0], (c for c in "a")).classes == ("a",)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, i, p, c: ce.ablate(p), "ablate: scores must be Scores, got Probed"),
        (lambda s, i, p, c: ce.probe(i, s), "images must be Images, got Series"),
        (lambda s, i, p, c: ce.probe(s, i, k=0), "probe: k: must be at least 1"),
        (lambda s, i, p, c: ce.space(p, dimensions=3), "space: there is no parameter dimensions"),
        (
            lambda s, i, p, c: ce.importance(s, i, (1, 2, 4)),
            r"importance: pair must be tuple\[int, int\], got \(1, 2, 4\)",
        ),
        (
            lambda s, i, p, c: ce.importance(s, i, (1, 4), "sign_t"),
            r"methods must be Sequence\[str \| Callable\], got 'sign_t'",
        ),
        (lambda s, i, p, c: p.strip(3), "Probed.strip: neuron must be Neuron, got 3"),
        (lambda s, i, p, c: p.strip(ce.Neuron("mine", 1, "3", "5")), "no neuron .* '3' .12."),
        (
            lambda s, i, p, c: p.strip(ce.Neuron("mine", 1, "3", 5), 0),
            "side must be greater than 0",
        ),
        (
            lambda s, i, p, c: ce.View(0, 0),
            "View: height must be at least 1, got 0",
        ),
        (lambda s, i, p, c: ce.View(9999, 9999), "View: height must be at most 8192"),
        (lambda s, i, p, c: ce.View(8, 8, std=0), "View: std must be positive, got"),
        (
            lambda s, i, p, c: ce.View(8, 8, mean=np.array([0.5, np.nan, 0.5])),
            "View: .* got mean =",
        ),
        (lambda s, i, p, c: ce.View(8, 8, std=58.4), r"View: .* in \[0, 255\], divide both by 255"),
        (
            lambda s, i, p, c: ce.View(8, 8, mean=[0.5]),
            "View: mean must be .* 3 channels, got .0.5",
        ),
        (
            lambda s, i, p, c: ce.View(8, 8, std=[0.5] * 3, channels=1),
            "View: std must be one number, or one for each of 1 channels, got",
        ),
        (lambda s, i, p, c: ce.Recorder("r", weights="12"), r"weights must be Sequence\[int\]"),
        (lambda s, i, p, c: ce.Recorder("r", weights=[-1]), "weights must be epochs of at least 0"),
        (lambda s, i, p, c: ce.Recorder("r", weights=[1.5]), r"weights must be Sequence\[int\]"),
        (lambda s, i, p, c: ce.Recorder("r").record(s.models[1], True), "epoch must be an integer"),
        (
            lambda s, i, p, c: ce.probe(
                replace(s, models={1: nn.Conv2d(3, 1, 3, device="meta")}), i
            ),
            "series 'mine', epoch 1: its weights are on the meta device .weight, bias",
        ),
        (
            lambda s, i, p, c: ce.probe(replace(s, models={1: nn.LazyConv2d(3, 1)}), i),
            "series 'mine', epoch 1: its lazy modules have no weights yet",
        ),
        (
            lambda s, i, p, c: ce.Series("mine", {1: s.models[1].state_dict()}, s.view),
            r"Series: models must be Mapping\[int, nn.Module\], got OrderedDict",
        ),
        *(
            (
                lambda s, i, p, c, epoch=epoch: ce.Series("mine", {epoch: s.models[1]}, s.view),
                rf"Series: models must be Mapping\[int, nn.Module\], got {epoch!r}$",
            )
            for epoch in ("1", True)
        ),
        (
            lambda s, i, p, c: replace(s, class_outputs={"r": 0, "g": False}),
            r"Series: class_outputs must be Mapping\[str, int\], got False$",
        ),
        (lambda s, i, p, c: ce.Evidence(i.pixels, s.view), "images must be Images .*, got ndarray"),
        (lambda s, i, p, c: ce.Recorder("r", evidence=i), "Evidence | None, got Images"),
        (lambda s, i, p, c: ce.Recorder("r", every=True), "Recorder: every must be int, got True"),
        (lambda s, i, p, c: ce.Recorder("r", every="5"), "Recorder: every must be int, got '5'"),
        (
            lambda s, i, p, c: ce.importance(s, i, ("1", 4)),
            r"importance: pair must be tuple\[int, int\], got \('1', 4\)",
        ),
        (
            lambda s, i, p, c: p.strip(ce.Neuron("mine", 1, "features.2", 0), side=True),
            "Probed.strip: side must be int, got True",
        ),
        (
            lambda s, i, p, c: ce.probe(s, i, k="5", activations="no"),
            "^probe: k must be int, got '5'$",
        ),
        (
            lambda s, i, p, c: ce.space(p, "jaccard", dimension=5, dense=1.0),
            "^space: method 'jaccard' does not use dimension, dense$",
        ),
        (lambda s, i, p, c: ce.space(p, dimension="5"), "^space: dimension: must hold a number"),
        (lambda s, i, p, c: ce.View("32", 32), "^View: height must be int, got '32'$"),
        (
            lambda s, i, p, c: ce.View(8, 8, resize="9"),
            r"View: resize must be int .* None, got '9'",
        ),
        (
            lambda s, i, p, c: ce.View(8, 8, resize=7),
            "crop must be positive and at most resize, got",
        ),
        (
            lambda s, i, p, c: ce.View(8, 8, interpolation="cubic"),
            "View: interpolation must be 'nearest', 'box', .* or 'lanczos', got 'cubic'",
        ),
        (
            lambda s, i, p, c: ce.View(32, 32, std=True),
            r"^View: std must be float \| .*, got True$",
        ),
        (lambda s, i, p, c: ce.probe([1, 2], i), r"^probe: series must be .*, got \[1, 2\]$"),
        (lambda s, i, p, c: ce.Recorder("r").record({}, 1), "a torch module, got dict"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(series, images, probed, scores, call, message):
    with pytest.raises(ValueError, match=message):
        call(series, images, probed, scores)


@reads_donors
def halfway(maps, layer):
    return (maps.newer(layer) + maps.donor(layer)) / 2


@pytest.mark.parametrize("ablation", ["resample", halfway])
def test_resampling_needs_a_second_class_and_says_so_before_any_work(series, images, ablation,
                                                                        registries):  # fmt: skip
    of_one = images.labels == 0
    alone = ce.Images(images.pixels[of_one], images.labels[of_one], classes=["r"])
    outputs = {"class_outputs": {"r": 0}}
    one_class = ce.Series("mine", series.models, series.view, **outputs)
    scores = ce.importance(one_class, alone, (1, 4), ["change"], heldout_images=4, progress=False)
    text = r"bench\.ablations .* all test images are of class 'r': .* \(revert, zero, mean\)$"
    with pytest.raises(ValueError, match=text):
        ce.ablate(scores, ablation, progress=False)
    assert len(ce.ablate(scores, "zero", ce.Arms(2, 2, 2), progress=False).to_pandas())


def test_layers_that_are_too_small_for_the_bins_are_named(scores):
    plan, revert = scores.session.plan, {"revert": ReversionParameters(bins=9)}
    study = bench_study(plan, Coverage())
    study = replace(study, config=study.config.model_copy(update=revert), layers={"mine": ("1",)})
    text = r"series 'mine': its largest layer has 8 units, .* revert\.bins = 9 parts .* it to 8, or"
    with pytest.raises(ValueError, match=text):
        next(study_steps(study, plan))


def test_missing_arguments_are_named_with_their_function():
    with pytest.raises(TypeError, match="^Recorder: missing a required argument: 'folder'$"):
        ce.Recorder()


def test_arguments_may_be_of_any_kind_of_number_and_sequence(series, images, scores):
    pair, count = [np.int64(1), 4], np.int8(8)
    again = ce.importance(series, images, pair, ("sign_t",), heldout_images=count, progress=False)
    table = scores.to_pandas()
    expected = table[table["method"] == "sign_t"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.to_pandas(), expected)


def test_importing_changes_no_global_state():
    code = (
        "import matplotlib, torch, os; before = matplotlib.rcParams['backend'], "
        "torch.get_num_threads(), dict(os.environ); import conceptevo as ce; ce.probe; "
        "assert before == (matplotlib.rcParams['backend'], torch.get_num_threads(), "
        "dict(os.environ)), matplotlib.rcParams['backend']"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"MPLBACKEND": "svg", "PATH": ""})
    assert matplotlib.rcParams["backend"]
