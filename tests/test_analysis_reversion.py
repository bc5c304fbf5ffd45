import math
from types import SimpleNamespace

import numpy as np
import oracles
import oracles_statistics
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import page_trend_test, rankdata

from analysis.exhibits.tables import Table
from analysis.run import abstract, figures, report, reversion
from analysis.statistics.alignment import (
    NORMALISED,
    alignment_differences,
    alignment_table,
    concept_sharing,
    normalised_share,
    self_ranks,
    shared_concepts,
    trained_steps,
)
from analysis.statistics.classes import (
    class_changes,
    class_intervals,
    closeness,
    find_bins,
    mean_closeness,
    mean_over_layers,
    page_p,
    page_trend,
    pivot_arms,
    summary,
    wilcoxon,
)
from analysis.statistics.clusters import holm
from harness.artifacts import Run
from harness.concepts.space import SemanticSpace
from harness.files import ArtifactError
from harness.records import PAIR, Checkpoint
from harness.results import mean_by_class

seeds = st.integers(0, 2**32 - 1)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
@settings(max_examples=40, deadline=None)
def test_wilcoxon_equals_scipys_enumeration_of_signs(differences):
    assume(sum(d != 0 for d in differences) > 1)  # scipy enumerates two observations or more
    found = wilcoxon(
        pd.Series(differences, dtype=float), pd.Series(0.0, index=range(len(differences)))
    )
    nonzero = np.array([d for d in differences if d], dtype=float)
    every = stats.PermutationMethod(n_resamples=np.inf)
    assert found == pytest.approx(stats.wilcoxon(nonzero, method=every).pvalue)


def test_wilcoxon_equals_the_exact_table_without_ties():
    differences = pd.Series([1.1, -2.3, 3.7, 4.9, 5.2, -6.8, 7.0, 8.4, 9.6, 10.3, 11.5, 12.2])
    assert wilcoxon(differences, 0 * differences) == pytest.approx(
        stats.wilcoxon(differences, method="exact").pvalue
    )


def test_wilcoxon_of_many_classes_is_near_its_normal_approximation():
    differences = pd.Series(np.random.default_rng(0).normal(0.06, 1, 1100))
    found = wilcoxon(differences, 0 * differences)
    normal = stats.wilcoxon(differences, method="approx", correction=True).pvalue
    assert found == pytest.approx(normal, rel=0.01) and 0.1 < found < 0.9


def test_wilcoxon_without_any_difference_is_one():
    same = pd.Series([0.5, 0.5])
    assert wilcoxon(same, same) == 1
    assert np.isnan(wilcoxon(same[:0], same[:0]))
    more = pd.Series([0.1, 0.2, 0.3])
    assert wilcoxon(more.reindex(range(4)), 0 * more) == wilcoxon(more, 0 * more) == 0.25


def test_page_trend_on_its_worked_example():
    """Page (1963) as in scipy's documentation: students rank three teaching methods."""
    table = pd.DataFrame(
        [[3, 4, 3], [2, 2, 4], [3, 3, 5], [1, 3, 2], [2, 3, 2], [2, 4, 5], [1, 2, 4], [3, 4, 4],
         [2, 4, 5], [1, 3, 4]],
        columns=["q1", "q2", "q3"],
    )  # fmt: skip
    p, classes = page_trend(table)
    # scipy's .00182 takes tied ranks for distinct; 400,000 random orders give .000383.
    assert p == pytest.approx(0.000384215, rel=1e-5) and classes == 10
    assert page_trend(table.iloc[:1])[1] == 1 and np.isnan(page_trend(table.iloc[:1])[0])
    assert page_trend(table.reindex(range(12))) == (p, 10)  # classes without a bin are left out


def records_of(effects, images=8, classes=6, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for class_id in range(classes):
        for image in range(images):
            before = rng.random() < 0.9
            for arm, drop in effects.items():
                for draw in range(3 if arm == "random" else 1):
                    after = before and rng.random() > drop
                    rows.append(
                        ("s", 1, 4, "revert", "all", "sign_t", arm, draw, class_id,
                         100 * class_id + image, "heldout", before, after, True, True, 0.8,
                         0.8 * (1 - drop))
                    )  # fmt: skip
    return pd.DataFrame(
        rows,
        columns=[
            *("series", "epoch_from", "epoch_to", "ablation", "layer", "method", "arm", "draw"),
            *("class_id", "image_id", "split", "correct_before", "correct_after"),
            *("top5_before", "top5_after"),
            *("probability_before", "probability_after"),
        ],
    )


EFFECTS = {
    "none": 0, "q1": 0.8, "q2": 0.4, "q3": 0.2, "q4": 0.0, "random": 0.3, "matched": 0.3, "all": 0.9
}  # fmt: skip


def test_the_summary_is_the_mean_over_classes_whatever_their_sizes():
    records = records_of(EFFECTS)
    records = records[~((records["class_id"] == 0) & (records["image_id"] > 1))]
    row = summary(mean_by_class(records, "correct")).iloc[0]
    for arm in ("q1", "random"):
        own = records[records["arm"] == arm]
        change = own["correct_after"].astype(int) - own["correct_before"].astype(int)
        assert row[arm] == pytest.approx(change.groupby(own["class_id"]).mean().mean())
    assert row["q1"] < row["random"] < row["q4"]
    assert row["page"] < 0.01 and row["wilcoxon"] <= 0.05
    probability = summary(mean_by_class(records, "probability")).iloc[0]
    assert probability["q1"] == pytest.approx(-0.64)


def test_p_values_are_adjusted_over_the_rows_of_a_split():
    means = [
        mean_by_class(records_of(EFFECTS, seed=k).assign(method=f"m{k}"), "correct")
        for k in range(3)
    ]
    tests = ["page", "wilcoxon", "matched_test"]
    alone = pd.concat([summary(m) for m in means])[tests].apply(lambda p: holm(p.to_numpy()))
    together = summary(pd.concat([*means, means[0].assign(split="importance")]))
    np.testing.assert_allclose(together[tests][:3], alone)
    np.testing.assert_allclose(together[tests][3:], summary(means[0])[tests])


def test_a_layer_with_fewer_neurons_than_bins_has_no_tests_of_the_first_bin():
    means = mean_by_class(records_of(EFFECTS), "correct")
    row = summary(means[~means["arm"].isin(["q1", "q4", "random", "matched"])]).iloc[0]
    assert row[["page", "wilcoxon", "matched_test"]].isna().all() and "q1" not in row
    assert row["q2"] == summary(means)["q2"][0]


def test_draws_of_a_random_arm_count_once():
    classes = class_changes(mean_by_class(records_of(EFFECTS), "correct"))
    assert len(classes) == 6 * len(EFFECTS)
    assert set(pivot_arms(classes).columns) == set(EFFECTS)


def test_over_layers_is_a_t_interval_over_classes():
    records = records_of(EFFECTS)
    other = records.assign(layer="another", correct_after=records["correct_before"])
    both = mean_by_class(pd.concat([records, other]), "correct")
    table = mean_over_layers(class_changes(both)).set_index("arm")
    changes = pivot_arms(class_changes(mean_by_class(records, "correct")))
    classes = changes["q1"] / 2  # nothing changes in the other layer
    row = table.loc["q1"]
    assert row["change"] == pytest.approx(classes.mean()) and row["classes"] == len(classes)
    low, high = stats.t.interval(0.95, len(classes) - 1, classes.mean(), stats.sem(classes))
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    first = records[records["arm"] == "q1"]
    before = first["correct_before"].astype(float).groupby(first["class_id"]).mean().mean()
    assert row["before"] == pytest.approx(before)


def test_bins_are_ordered_by_number():
    assert find_bins(["q10", "random", "q2", "q1"]) == ["q1", "q2", "q10"]


def test_class_interval_is_scipys():
    changes = pivot_arms(class_changes(mean_by_class(records_of(EFFECTS), "correct")))
    found = class_intervals(changes)
    for arm in changes:
        error, mean = stats.sem(changes[arm]), changes[arm].mean()
        if not error:  # all classes change alike: the spread is unknown, not 0
            low, high = np.nan, np.nan
        else:
            low, high = stats.t.interval(0.95, len(changes) - 1, mean, error)
        assert tuple(found.loc[arm]) == pytest.approx((mean, low, high), nan_ok=True)
    assert class_intervals(changes[:1])["low"].isna().all()


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_concept_sharing_equals_the_plain_count(seed):
    rng = np.random.default_rng(seed)
    neurons = pd.DataFrame(
        [("a", 0, c) for c in range(4)]
        + [("a", 9, c) for c in range(7)]
        + [("b", 9, c) for c in range(5)]
        + [("a", 5, c) for c in range(3)],
        columns=["series", "epoch", "channel"],
    ).assign(layer="l", coverage=1.0)
    space = SemanticSpace(
        "t", neurons[["series", "epoch", "layer", "channel", "coverage"]], rng.normal(size=(19, 3))
    )
    concepts = space.neurons.assign(concept=rng.choice(["x", "y"], 19)).drop(columns="coverage")
    untrained_base = concept_sharing(space, concepts, Checkpoint("a", 0), k=3)
    counts = {"base": 4, "other epochs": 10, "other series": 5}  # nor is it among other untrained
    assert untrained_base["group"].value_counts().to_dict() == counts
    found = concept_sharing(space, concepts, Checkpoint("a", 9), k=3)
    base = np.arange(4, 11)
    names = concepts["concept"].tolist()
    for group, rows in (
        ("base", base),
        ("other epochs", np.arange(16, 19)),
        ("other series", np.arange(11, 16)),
        ("untrained", np.arange(4)),
    ):
        same = rows[:, None] == base[None, :]
        expected = oracles.share_of_neighbours(
            space.similarity(rows, base),
            [names[r] for r in rows],
            [names[b] for b in base],
            same,
            3,
        )
        mine = found[found["group"] == group]
        assert mine["share"].tolist() == pytest.approx(expected)
        alike = [sum(names[b] == names[r] for b in base if b != r) for r in rows]
        assert mine["ceiling"].tolist() == pytest.approx([min(n, 3) / 3 for n in alike])
        totals = (~same).sum(axis=1)
        assert mine["chance"].tolist() == pytest.approx(alike / totals)


def test_identity_is_one_where_nothing_moves_and_chance_where_all_is_new():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(40, 8))
    neurons = pd.DataFrame(
        {"series": "s", "epoch": [1] * 40 + [2] * 40, "layer": "l", "channel": [*range(40)] * 2,
         "coverage": 1.0}
    )  # fmt: skip
    still = SemanticSpace("t", neurons, np.concatenate([first, first]))
    assert (self_ranks(still, "s", 1, 2)["reciprocal_rank"] == 1).all()
    two_series = pd.concat([neurons, neurons.assign(series="r")], ignore_index=True)
    both = SemanticSpace("t", two_series, np.concatenate([first, first, first, -first]))
    assert (self_ranks(both, "s", 1, 2)["reciprocal_rank"] == 1).all()
    fresh = SemanticSpace("t", neurons, np.concatenate([first, rng.normal(size=(40, 8))]))
    expected = np.mean(1 / np.arange(1, 41))
    assert self_ranks(fresh, "s", 1, 2)["reciprocal_rank"].mean() == pytest.approx(
        expected, abs=0.1
    )
    level = SemanticSpace("t", neurons, np.ones((80, 3)))
    assert self_ranks(level, "s", 1, 2)["reciprocal_rank"].mean() == pytest.approx(1 / 20.5)


def test_spaces_are_compared_on_the_same_neurons_clustered_by_layer():
    rng = np.random.default_rng(0)
    neurons = pd.DataFrame({"series": "s", "epoch": 1, "layer": np.repeat(list("abcd"), 10),
                            "channel": [*range(10)] * 4, "coverage": 1.0})  # fmt: skip
    vectors = rng.normal(size=(40, 3))
    spaces = [SemanticSpace("one", neurons, vectors), SemanticSpace("two", neurons, vectors**3),
              SemanticSpace("less", neurons[1:].reset_index(drop=True), vectors[1:])]  # fmt: skip
    concepts = neurons.assign(concept=rng.choice(["x", "y"], 40)).drop(columns="coverage")
    shared = shared_concepts(spaces, concepts, Checkpoint("s", 1))
    groups = alignment_table(pd.concat([shared, shared.assign(group="other epochs")]))
    assert groups["method"].tolist() == ["one"] * 2 + ["two"] * 2 + ["less"] * 2
    alone = SemanticSpace("one", neurons[:1], vectors[:1])  # has no neighbours
    assert concept_sharing(alone, concepts, Checkpoint("s", 1)).empty
    table = alignment_table(shared).set_index("method")
    assert (table["neurons"] == 39).all()  # those that all three place
    layers = {name: of["share"].groupby(of["layer"]).agg(["sum", "size"])
              for name, of in shared.groupby("method")}  # fmt: skip

    def ends(sums, sizes):
        """The mean over neurons and its t interval over layers, written out."""
        mean = sums.sum() / sizes.sum()
        error = np.sqrt(4 / 3 * ((sums - mean * sizes) ** 2).sum()) / sizes.sum()
        return [mean, *stats.t.interval(0.95, 3, mean, error)]

    for name, of in layers.items():
        assert table.loc[name, ["share", "low", "high"]].tolist() == pytest.approx(
            ends(of["sum"], of["size"])
        )
        rows = shared[shared["method"] == name].set_index("layer")
        gain = (rows["share"] - rows["chance"]).groupby("layer").sum()
        possible = (rows["ceiling"] - rows["chance"]).groupby("layer").sum()
        assert table.loc[name, NORMALISED].tolist() == pytest.approx(ends(gain, possible))
        assert table.loc[name, "chance"] == pytest.approx(rows["chance"].mean())
    for row in alignment_differences(shared).itertuples():
        first, second = layers[row.first], layers[row.second]
        expected = ends(first["sum"] - second["sum"], first["size"])
        assert [row.difference, row.low, row.high] == pytest.approx(expected)
        assert row.group == "base" and row.layers == 4
    assert normalised_share(shared.assign(ceiling=shared["chance"])).isna().all(axis=None)


def test_steps_are_between_consecutive_trained_epochs_of_a_series():
    neurons = pd.DataFrame({"series": list("aaaabb"), "epoch": [9, 0, 4, 4, 2, 3], "layer": "l",
                            "channel": range(6), "coverage": 1.0})  # fmt: skip
    space = SemanticSpace("t", neurons, np.ones((6, 2)))
    assert list(trained_steps(space)) == [("a", 4, 9), ("b", 2, 3)]


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=2, max_size=4))
@settings(max_examples=25, deadline=None)
def test_pages_exact_p_counts_ties(rows):
    """Against all orders of all rows, one by one."""
    ranks = np.apply_along_axis(rankdata, 1, np.array(rows, float))
    assert page_p(ranks) == pytest.approx(oracles_statistics.page_exact(ranks.tolist()))


def test_page_of_ten_bins_is_exact_without_listing_all_orders():
    """10! orders a row would take gigabytes; scipy's exact p knows no more than nine."""
    ranks = np.tile(np.arange(1.0, 11), (2, 1))
    assert page_p(ranks) == pytest.approx(1 / math.factorial(10) ** 2, rel=1e-9)
    few = np.array([[1.0] + [6.0] * 9])  # one value below nine tied ones: ten equal places
    assert page_p(few) == pytest.approx(0.1)
    assert page_p(few[:, ::-1]) == pytest.approx(1)


def test_page_without_ties_is_scipys_exact_p():
    table = np.random.default_rng(0).random((6, 4))
    ranks = np.apply_along_axis(rankdata, 1, table)
    assert page_p(ranks) == pytest.approx(page_trend_test(table, method="exact").pvalue)
    assert page_p(np.full((5, 4), 2.5)) == 1


def test_closeness_of_matched_sets_is_the_ratio_of_mean_sizes():
    neuron = {"series": "s", "epoch_from": 1, "epoch_to": 2, "class_id": 0, "layer": "l"}
    sizes = pd.DataFrame(
        [{**neuron, "channel": c, "score": s} for c, s in enumerate([4, 2, 3, 1, 4])]
    )
    members = [("one", "q1", 0), ("one", "q1", 4), ("one", "q2", 1), ("one", "matched", 2),
               ("two", "q1", 0), ("two", "q2", 2), ("two", "matched", 2)]  # fmt: skip
    sets = pd.DataFrame([{**neuron, "method": m, "arm": a, "channel": c} for m, a, c in members])
    table = mean_closeness(closeness(sets, sizes)).set_index("method")
    assert table["ratio"].tolist() == [0.75, 0.75] and table["sets"].tolist() == [1, 1]
    assert table["equal to q2"].tolist() == [0, 1] and table["within 10 %"].tolist() == [0, 0]
    dead = sizes.assign(layer="m", score=0.0)
    both = closeness(pd.concat([sets, sets.assign(layer="m")]), pd.concat([sizes, dead]))
    both = mean_closeness(both)
    pd.testing.assert_frame_equal(both, table.reset_index()[both.columns])  # 0/0 is no ratio
    equal = sizes.assign(layer="n", score=1.0)
    both = closeness(pd.concat([sets, sets.assign(layer="n")]), pd.concat([sizes, equal]))
    means = mean_closeness(both)[["ratio", "within 10 %", "equal to q2", "sets"]]
    assert means.to_numpy().tolist() == [[0.875, 0.5, 0, 2], [0.875, 0.5, 1, 2]]


def test_changes_of_an_objective_have_no_largest_value():
    records = records_of(EFFECTS)
    records["objective_before"], records["objective_after"] = 9.0, records["class_id"] * 2.0
    row = summary(mean_by_class(records, "objective"), largest=np.inf).iloc[0]
    assert row["q1 low"] < row["q1"] < row["q1 high"] and row["q1"] < -1
    changes = pd.DataFrame({"q1": [-0.9, 0.8]})
    assert class_intervals(changes).loc["q1", ["low", "high"]].tolist() == [-1, 1]


def test_a_pair_in_which_nothing_changed_is_left_out_and_named(monkeypatch, tmp_path):
    rows = [("net", 1, 4, "none"), ("net", 4, 9, "none"), ("net", 4, 9, "all"),
            ("net", 4, 9, "q1")]  # fmt: skip
    every = pd.DataFrame(rows, columns=[*PAIR, "arm"]).assign(split="heldout")
    about = {"pairs": [dict(zip(PAIR, row[:3], strict=True)) for row in rows]}
    calls = []
    results = SimpleNamespace(class_means=lambda *a, **__: calls.append(a) or every, about=about)
    monkeypatch.setattr(reversion, "read_results", lambda *_: results)
    monkeypatch.setattr(reversion, "has_results", lambda *_: True)
    run = Run(tmp_path)
    assert reversion.joint_means(run)["epoch_from"].tolist() == [4, 4, 4]
    (sentence,) = reversion.unchanged_pairs(run, {})
    assert len(calls) == 1, "means were computed again"
    assert sentence == "Left out, because no neuron changed: net 1 → 4."
    results.methods, every = ["tcav"], every[:3]
    with pytest.raises(
        ArtifactError, match="because the scores tcav are undefined for all classes"
    ):
        reversion.reversion_means(Run(tmp_path), "accuracy")
    every = every[:2]
    with pytest.raises(ArtifactError, match="in no pair of epochs did a neuron change"):
        reversion.reversion_means(Run(tmp_path), "accuracy")


def test_the_classes_of_a_gap_are_those_in_which_its_score_is_defined(monkeypatch):
    rows = [
        (class_id, method, arm, after)
        for class_id in range(4)
        for method in ("a", "b")
        for arm, after in (("q1", 0.1 * class_id), ("q2", 0.9))
        if method == "a" or class_id > 0  # in class 0 score b is undefined
    ]
    means = pd.DataFrame(rows, columns=["class_id", "method", "arm", "after"])
    means = means.assign(**dict(zip(PAIR, ("net", 1, 4), strict=True)), layer="all layers",
                         split="heldout", before=0.5)  # fmt: skip
    monkeypatch.setattr(report, "has_results", lambda *_: True)
    monkeypatch.setattr(reversion, "joint_means", lambda run: means)
    (text,) = report.compare_scores(None, {})
    half = 100 * stats.t.ppf(0.975, 3) * np.std([0.9, 0.8, 0.7, 0.6], ddof=1) / 2
    assert f"was +75 [+{75 - half:.0f}, +{75 + half:.0f}] for a and +70 [" in text
    assert "; 95 % CIs over 3 to 4 classes)." in text


def test_images_are_counted_by_class_and_epochs_are_one_column():
    means = pd.DataFrame({"class_id": [0, 0, 1], "images": [25, 25, 20]})
    assert reversion.count_images(means, "held-out ") == "45 held-out images (20 to 25 per class)"
    assert reversion.count_images(means[:2]) == "25 images (25 per class)"
    pair = pd.DataFrame({"series": ["s"], "epoch_from": [1], "epoch_to": [4], "ratio": [0.5]})
    assert reversion.merge_epochs(pair).to_dict("records") == [
        {"series": "s", "epochs": "1 → 4", "ratio": 0.5}
    ]


def test_equal_means_are_equal_whatever_their_rounding():
    """.1 + .2 + .3 is not .3 + .2 + .1: random sets would have reduced accuracy more than q1."""
    changes = pd.DataFrame({"q1": [-0.3, -0.2, -0.1], "random": [-0.1, -0.2, -0.3]})
    means = class_intervals(changes)["mean"]
    assert changes["q1"].mean() != changes["random"].mean()
    assert means["q1"] == means["random"] == -0.2
    nothing = class_intervals(pd.DataFrame({"q1": [-0.1 - 0.2, 0.3]}))["mean"]  # −3e-17
    assert str(nothing["q1"]) == "0.0"


@pytest.mark.parametrize(("count", "text"), [(6, "be below .031."), (12, "")])
def test_the_limit_of_an_adjusted_p_is_said_where_it_is_not_tiny(monkeypatch, count, text):
    rows = [
        (k, arm, after + 0.01 * k)
        for k in range(count)
        for arm, after in (("none", 0.5), ("q1", 0.1), ("q2", 0.4), ("random", 0.3), ("all", 0.2))
    ]
    means = pd.DataFrame(rows, columns=["class_id", "arm", "after"])
    means = means.assign(**dict(zip(PAIR, ("net", 1, 4), strict=True)), layer="all layers",
                         split="heldout", before=0.5, method="m", images=9, draw=0)  # fmt: skip
    monkeypatch.setattr(reversion, "has_results", lambda *_: True)
    monkeypatch.setattr(reversion, "joint_means", lambda *_: means)
    tiny = means.assign(before=2e-3, after=2e-3 - 1.1e-5 * means["after"])
    caption = reversion.scores_table(None, "reversion", "heldout", "accuracy").caption
    monkeypatch.setattr(reversion, "joint_means", lambda *_: tiny)
    table = reversion.scores_table(None, "reversion_objective", "heldout", "objective")
    assert table.cells()["before"].tolist() == ["0.0020000"]
    digits = {6: "−0.0000014", 12: "−0.0000017"}[count]  # of the mean change for q1
    assert table.cells()["q1"].tolist() == [digits]
    assert caption.endswith(text or "over the rows of the table.")
    assert ("cannot" in caption) == bool(text)


@pytest.mark.parametrize(
    ("crop", "classes", "text"),
    [(64, ["a", "b"], "64 × 64 pixels"), ([32, 48], ["a"], "32 × 48 pixels")],
)
def test_the_design_gives_height_and_width_of_images(monkeypatch, crop, classes, text):
    images = {"source": "folder"}
    configuration = {"seed": 3, "images": images, "series": [{"name": "net", "crop": crop}]}
    run = SimpleNamespace(manifest=lambda: {"configuration": configuration})
    index = pd.DataFrame({"class_name": classes})
    monkeypatch.setattr(abstract, "table_of_split", lambda run, kind, split: index)
    neurons = pd.DataFrame({"series": "net", "epoch": [1, 4], "neurons": 5})
    said = abstract._design(run, neurons)
    assert f"net (images of {text}, 5 probed neurons; epochs 1, 4)" in said
    assert said.endswith("images of 2 classes; seed 3." if crop == 64 else "of 1 class; seed 3.")


def test_a_report_says_that_its_main_score_is_undefined(monkeypatch):
    rows = [(k, arm, 0.5 - 0.1 * k) for k in (1, 2) for arm in ("none", "random", "all")]
    means = pd.DataFrame(rows, columns=["class_id", "arm", "after"])
    means = means.assign(**dict(zip(PAIR, ("net", 1, 4), strict=True)), layer="all layers",
                         split="heldout", before=0.5, method="tcav")  # fmt: skip
    monkeypatch.setattr(abstract, "joint_means", lambda run: means)
    monkeypatch.setattr(abstract, "main_method", lambda run: "tcav")
    said = abstract._importance(None, pd.DataFrame())
    assert said == "The score tcav is undefined for all classes and pairs of epochs."
    drawn = figures._mean_changes(means, ["q1", "random"])["mean"]
    assert drawn.tolist() == pytest.approx([np.nan, -15], nan_ok=True)
    run = SimpleNamespace(manifest=lambda: {"importance_methods": ["tcav"]})
    matching = Table(
        "matching", "", "", pd.DataFrame({"method": ["b"], "ratio": 1.0, "equal to q2": 0.0})
    )
    assert report.matched_sets(run, {"matching": matching}) == []
