"""The benchmark's statistics against hand counts, plain twins and outside implementations."""

from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.benchmark import measures, report, significance
from analysis.benchmark.results import Bench, _shared_neighbours
from analysis.benchmark.tables import ablations, images_needed, stability
from analysis.exhibits.tables import Table
from analysis.statistics import comparisons
from harness.artifacts import Artifact, Run
from harness.files import ArtifactError, write_text
from harness.records import CONTROLS


def records(accuracy, classes=6, images=10, draws=19, seed=0):
    """Records in which an arm keeps an image right with a given probability.

    Args:
        accuracy: method -> arm -> probability; of CONTROLS: `none` and `random`.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for class_id in range(classes):
        for image in range(images):
            before = rng.random() < accuracy[CONTROLS]["none"]
            for method, arms in accuracy.items():
                for arm, share in arms.items():
                    for draw in range(draws if arm == "random" else 1):
                        after = before if arm == "none" else rng.random() < share
                        rows.append((method, arm, draw, class_id, class_id * 100 + image, before,
                                     after))  # fmt: skip
    names = ["method", "arm", "draw", "class_id", "image_id", "correct_before", "correct_after"]
    return pd.DataFrame(rows, columns=names).assign(series="s", epoch_from=1, epoch_to=2)


GOOD = {"q1": 0.2, "q2": 0.5, "q3": 0.7, "q4": 0.95, "matched": 0.8}
NULL = {"q1": 0.6, "q2": 0.6, "q3": 0.6, "q4": 0.6, "matched": 0.6}
BASE = {CONTROLS: {"none": 0.9, "random": 0.6}}


@pytest.fixture(scope="module")
def wide():
    return measures.pivot_outcomes(records({**BASE, "good": GOOD, "null": NULL}))


def test_measures_are_what_their_names_say(wide):
    values = measures.evaluate(wide, measures.gap, ["good", "null"])
    by_hand = (wide["good", "q4", 0] - wide["good", "q1", 0]).groupby(["class_id", "image_id"])
    pd.testing.assert_series_equal(values["good"], by_hand.mean(), check_names=False)
    over = measures.evaluate(wide, measures.MEASURES["over random"], ["good"])["good"]
    random = wide[CONTROLS]["random"].mean(axis=1) - wide["good", "q1", 0]
    assert over.mean() == pytest.approx(random.mean())
    other = measures.evaluate(wide, measures.MEASURES["over other class"], ["good"])["good"]
    assert other.isna().all()  # never run


def test_area_is_the_mean_distance_of_the_curves_within_their_ends():
    """The arms `most` and `least` have one draw per share, here of four steps."""
    table = records({**BASE, "good": {"most": 0.3, "least": 0.8}})
    steps = [
        table.assign(draw=table["draw"].where(table["method"] != "good", k)) for k in (1, 2, 3)
    ]
    table = pd.concat(steps).drop_duplicates([*measures.UNIT, "method", "arm", "draw"])
    table.loc[(table["arm"] == "most") & (table["draw"] == 3), "correct_after"] = False
    table = pd.concat([table, table[table["arm"] == "none"].assign(arm="all")])
    outcomes = measures.pivot_outcomes(table)
    area = measures.evaluate(outcomes, measures.MEASURES["area"], ["good"])["good"]
    whole = measures.ablation_curve(outcomes, "good", 4)
    for row, arm, column in ((0, "none", "correct_before"), (-1, "all", "correct_after")):
        own = table[table["arm"] == arm].astype({column: float})
        mean = own.groupby("class_id")[column].mean().mean()
        assert whole.iloc[row].tolist()[1:] == pytest.approx([mean, mean])
    twice = measures.pivot_outcomes(pd.concat([table, table.assign(series="other")]))
    pd.testing.assert_frame_equal(measures.ablation_curve(twice, "good", 4), whole)
    curve = whole.iloc[1:-1]
    assert area.groupby("class_id").mean().mean() == pytest.approx(
        (curve["least"] - curve["most"]).mean()
    )


def test_a_gap_without_an_interval_has_none_in_the_table_of_ablations():
    gaps = comparisons.clustered_by_class(of_classes(a=[0.2], b=[0.1]))
    bench = SimpleNamespace(
        ablations=["revert", "zero"], order=["a", "b"], methods=["a", "b"],
        clustered_measure=lambda measure, ablation: gaps,
        linearises=lambda method: "revert" if method == "a" else "",
    )  # fmt: skip
    frame = ablations(bench).frame
    assert frame["revert, 95 %"].tolist() == ["– *", "–"]
    gaps = comparisons.clustered_by_class(of_classes(a=[0.2, 0.4], b=[0.1, 0.1]))
    assert ablations(bench).frame["zero, 95 %"].tolist() == ["-0.97 to +1.00", "–"]
    assert "−0.97 to +1.00" in ablations(bench).markdown()
    gaps = comparisons.clustered_by_class(of_classes(a=[0.001, 0.004], b=[-0.001, -0.001001]))
    assert ablations(bench).frame["zero, 95 %"].tolist() == ["-0.02 to +0.02", "+0.00 to +0.00"]


@pytest.mark.parametrize(
    ("bins", "names"), [(2, ("half", "halves")), (4, ("quarter", "quarters")),
                        (12, ("twelfth", "twelfths"))]
)  # fmt: skip
def test_bins_are_named_by_their_number(bins, names):
    assert Bench(SimpleNamespace(about={"arms": {"bins": bins}})).parts == names


def test_lost_is_undefined_where_nothing_was_right_before():
    table = records({**BASE, "good": GOOD})
    table.loc[table["class_id"] == 3, ["correct_before"]] = False
    table.loc[(table["class_id"] == 3) & (table["arm"] == "none"), "correct_after"] = False
    wide = measures.pivot_outcomes(table)
    values = measures.evaluate(wide, measures.lost_predictions, ["good"])
    assert values.loc[3, "good"].isna().all()
    found = comparisons.clustered_by_class(values)
    assert found.classes.tolist() == [5] and found.left_out.tolist() == [1]
    right = wide[CONTROLS, "before", 0] > 0
    lost = 1 - wide["good", "q1", 0][right]
    assert found.value[0] == pytest.approx(lost.groupby("class_id").mean().mean())
    assert measures.class_means(wide, "good")["before"][3] == 0


def drawn(between, rng, classes=12, images=25):
    """Return values of images of classes whose means vary, as (class, image) x 1."""
    groups = rng.normal(rng.normal(0, between, (classes, 1)), 1.0, (classes, images))
    index = pd.MultiIndex.from_product(
        [range(classes), range(images)], names=["class_id", "image_id"]
    )
    return pd.DataFrame({"a": groups.ravel()}, index=index)


def test_the_interval_is_the_plain_t_interval_over_classes():
    values = drawn(0.5, np.random.default_rng(0))
    found = comparisons.clustered_by_class(values)
    means = values["a"].groupby("class_id").mean()
    plain = stats.t.interval(0.95, 11, means.mean(), stats.sem(means))
    assert found.value[0] == pytest.approx(means.mean())
    assert [x[0] for x in found.interval()] == pytest.approx(plain)


def test_intervals_cover_what_they_say():
    """400 studies of known truth 0; a binomial standard error is 1.1 points."""
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(400):
        found = comparisons.clustered_by_class(drawn(0.1, rng))
        low, high = found.interval()
        covered.append(low[0] <= 0 <= high[0])
    assert 0.92 <= np.mean(covered) <= 0.985


def test_a_damaged_space_is_an_error_and_no_benchmark_without_spaces(tmp_path):
    run = Run(tmp_path)
    run.write_manifest({"space_methods": ["sgns"]})
    assert Bench(SimpleNamespace(run=run)).spaces == []  # none was computed
    write_text(run.path(Artifact("space", ("sgns",))), "damaged")
    with pytest.raises(ArtifactError, match="sgns"):
        _ = Bench(SimpleNamespace(run=run)).spaces


def test_spaces_are_clustered_by_layers():
    """Every channel of a layer alike: the interval is that of the layers, not of the neurons."""
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [["s"], [1, 2], [f"l{i}" for i in range(8)], range(30)],
        names=["series", "epoch", "layer", "channel"],
    )
    of_layer = pd.Series(rng.random(8), index=[f"l{i}" for i in range(8)])
    values = pd.DataFrame({"m": of_layer[index.get_level_values("layer")].to_numpy()}, index=index)
    found = comparisons.clustered_by_layer(values)
    plain = stats.t.interval(0.95, 7, of_layer.mean(), stats.sem(of_layer))
    assert found.classes.tolist() == [8]
    assert [x[0] for x in found.interval()] == pytest.approx(plain)


def test_one_class_gives_no_interval_and_no_p():
    wide = measures.pivot_outcomes(records({**BASE, "good": GOOD, "null": NULL}, classes=1))
    found = comparisons.clustered_by_class(measures.evaluate(wide, measures.gap, ["good", "null"]))
    assert np.isfinite(found.value).all() and np.isnan(found.interval()).all()
    pairs = comparisons.differences(found, ["good", "null"])
    assert pairs["p"].isna().all()
    assert comparisons.letters(["good", "null"], pairs) == {"good": "", "null": ""}
    assert comparisons.letters(["good"], pairs[:0]) == {"good": "a"}
    tests = significance.class_tests(wide, ["good"])
    assert tests["page"].isna().all()


def test_a_real_difference_is_separated_and_none_is_not(wide):
    names = ["good", "null"]
    found = comparisons.clustered_by_class(measures.evaluate(wide, measures.gap, names))
    pairs = comparisons.differences(found, names)
    assert pairs.loc[0, "first"] == "good" and pairs.loc[0, "p"] < 0.01
    assert pairs.loc[0, "low"] > 0
    assert comparisons.letters(["good", "null"], pairs) == {"good": "a", "null": "b"}
    same = measures.pivot_outcomes(records({**BASE, "one": NULL, "two": NULL}, seed=3))
    found = comparisons.clustered_by_class(measures.evaluate(same, measures.gap, ["one", "two"]))
    assert comparisons.differences(found, ["one", "two"])["p"][0] > 0.05


@given(st.integers(2, 7), st.data())
@settings(deadline=None, max_examples=80)
def test_letters_are_shared_by_just_those_that_are_not_separated(count, data):
    names = [f"m{i}" for i in range(count)]
    pairs = pd.DataFrame(
        [
            (a, b, data.draw(st.sampled_from([0.001, 0.5])))
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        ],
        columns=["first", "second", "p"],
    )
    found = comparisons.letters(names, pairs)
    for row in pairs.itertuples():
        assert bool(set(found[row.first]) & set(found[row.second])) == (row.p > 0.05)
    groups = [{n for n in names if letter in found[n]} for letter in set("".join(found.values()))]
    assert not any(a <= b for a, b in permutations(groups, 2))  # no letter says what another says


def test_letters_of_piephos_kind():
    """a > b > c in steps that only the ends separate: two overlapping groups."""
    pairs = pd.DataFrame(
        {"first": ["a", "a", "b"], "second": ["b", "c", "c"], "p": [0.2, 0.01, 0.3]}
    )
    assert comparisons.letters(["a", "b", "c"], pairs) == {"a": "a", "b": "ab", "c": "b"}


def test_the_permutation_test_counts_saved_sets(wide):
    found = significance.permute_sets(wide, ["good", "null"])
    assert found["good"] == (1 / 20, 19)  # (b + 1) / (n + 1) with b = 0
    assert found["null"][0] > 0.05
    without = wide.drop(columns=[c for c in wide.columns if c[1] == "random"])
    assert np.isnan(significance.permute_sets(without, ["good"])["good"][0])


def test_tests_over_classes_find_the_trend(wide):
    table = significance.class_tests(wide, ["good", "null"]).set_index("method")
    assert table.loc["good", "page"] < 0.001 and table.loc["good", "random"] < 0.1
    assert table.loc["null", "page"] > 0.05
    classes = measures.class_means(wide, "good")
    page = stats.page_trend_test(classes[["q1", "q2", "q3", "q4"]].to_numpy()).pvalue
    assert table.loc["good", "page"] == pytest.approx(2 * page)  # Holm over two methods


def test_tests_over_images_equal_the_textbook_ones(wide):
    row = significance.image_tests(wide, ["good"]).iloc[0]
    first, last = wide["good", "q1", 0] > 0, wide["good", "q4", 0] > 0
    b, c = int((first & ~last).sum()), int((~first & last).sum())
    assert row["mcnemar_last"] == pytest.approx(stats.binomtest(min(b, c), b + c).pvalue)
    right = wide["good"][[("q1", 0), ("q2", 0), ("q3", 0), ("q4", 0)]].to_numpy()
    k, columns, rows = 4, right.sum(axis=0), right.sum(axis=1)
    q = (
        (k - 1) * (k * (columns**2).sum() - columns.sum() ** 2) / (k * rows.sum() - (rows**2).sum())
    )  # Cochran (1950)
    assert row["cochran"] == pytest.approx(stats.chi2.sf(q, k - 1))
    agree = measures.pivot_outcomes(records({**BASE, "still": dict.fromkeys(GOOD, 1.0)}))
    blank = significance.image_tests(agree, ["still"]).iloc[0]
    assert blank["cochran"] == blank["mcnemar_last"] == 1  # no image says anything against equality


def test_agreement_is_kendalls_tau_over_what_both_rank():
    first = {"a": 3.0, "b": 2.0, "c": 1.0, "d": np.nan}
    assert comparisons.rank_agreement(first, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}) == (-1.0, 3)
    assert comparisons.rank_agreement(first, {"a": 5.0, "b": 2.0, "e": 9.0}) == (1.0, 2)
    assert np.isnan(comparisons.rank_agreement(first, {"a": 1.0})[0])
    tied = {"a": 0.1 + 0.2, "b": 0.3, "c": 0.1}  # a and b differ in the last digit
    assert comparisons.rank_agreement(first, tied)[0] == pytest.approx(2 / np.sqrt(6))


def test_images_needed_undoes_spearman_and_brown():
    """Ten images with rho = .5: 9 times as many give 9 * .5 / (1 + 8 * .5) = .9."""
    assert images_needed(0.5, 10) == pytest.approx(90)
    assert np.isnan(images_needed(0.0, 10)) and np.isnan(images_needed(1.0, 10))


def test_ranks_follow_from_the_comparisons_that_letters_follow_from():
    """a is better than c; b is unknown against c, and decides nothing."""
    pairs = pd.DataFrame(
        {"first": ["a", "a", "b"], "second": ["b", "c", "c"], "p": [0.2, 0.01, np.nan]}
    )
    assert comparisons.ranks(["a", "b", "c"], pairs) == {"a": "1–2", "b": "1–3", "c": "2–3"}


def of_classes(**columns):
    """Return one value per class: {method: values} as (class, image) x methods."""
    frame = pd.DataFrame(columns)
    frame.index = pd.MultiIndex.from_arrays(
        [range(len(frame)), [0] * len(frame)], names=["class_id", "image_id"]
    )
    return frame


def test_a_comparison_that_cannot_be_made_is_unknown_and_gives_no_common_letter():
    values = of_classes(A=[1.0] * 6, B=[0.0] * 6, C=[0.1, 0.9, 0.4, 0.5, 0.8, 0.2])
    pairs = comparisons.differences(comparisons.clustered_by_class(values), ["A", "B", "C"])
    row = pairs.set_index(["first", "second"]).loc[("A", "B")]
    assert np.isnan(row["p"]) and np.isnan(row["low"])
    assert row["reason"] == "the difference is the same in every cluster"
    letters = comparisons.letters(["A", "C", "B"], pairs)
    assert not set(letters["A"]) & set(letters["B"])
    # It keeps its place in the family: three comparisons, not two.
    alone = pairs["p_alone"].dropna().min()
    assert pairs["p"].min() == pytest.approx(min(1, 3 * alone))


def test_no_interval_goes_beyond_the_scale_with_two_classes():
    """With one degree of freedom t reaches 12.7 standard errors: a gap is no larger than 1 all the
    same, and two gaps differ by no more than 2."""
    found = comparisons.clustered_by_class(of_classes(A=[0.9, 0.3], B=[-0.2, 0.1]))
    assert [ends.tolist() for ends in found.interval()] == [[-1, -1], [1, 1]]
    row = comparisons.differences(found, ["A", "B"]).iloc[0]
    assert (row["low"], row["high"]) == (-2, 2) and row["p_alone"] > 0.05
    by_layer = of_classes(A=[0.9, 0.3]).rename_axis(index={"class_id": "layer"})
    assert [ends[0] for ends in comparisons.clustered_by_layer(by_layer).interval()] == [0, 1]


def test_pairs_are_compared_over_the_classes_that_both_have():
    a = np.array([0.1, 0.2, 0.3, 0.9, 0.8])
    b = np.array([0.11, 0.19, 0.3, np.nan, np.nan])
    pairs = comparisons.differences(
        comparisons.clustered_by_class(of_classes(A=a, B=b)), ["A", "B"]
    )
    row = pairs.iloc[0]
    assert row["classes"] == 3 and row["difference"] == pytest.approx(0)
    plain = stats.ttest_rel(a[:3], b[:3])
    assert row["p_alone"] == pytest.approx(plain.pvalue)
    interval = plain.confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    undefined = comparisons.clustered_by_class(of_classes(A=[np.nan, np.nan], B=[-0.1, -0.2]))
    row = comparisons.differences(undefined, ["A", "B"]).iloc[0]
    assert (row["first"], row["reason"]) == ("B", "fewer than two clusters have both")


def test_methods_equal_up_to_rounding_are_equal():
    pairs = comparisons.differences(
        comparisons.clustered_by_class(of_classes(a=[0.1 + 0.2, 0.2, 0.7], b=[0.3, 0.2, 0.7])), "ab"
    )
    assert pairs["p"].item() == 1 and comparisons.letters("ab", pairs) == {"a": "a", "b": "a"}


def test_more_groups_than_letters_of_the_alphabet_have_letters_of_their_own():
    names = [f"m{k}" for k in range(60)]
    pairs = pd.DataFrame([(a, b, 0.0) for a, b in combinations(names, 2)],
                         columns=["first", "second", "p"])  # fmt: skip
    shown = comparisons.letters(names, pairs)
    assert len(set(shown.values())) == 60 and set(map(len, shown.values())) == {1}


def test_methods_that_are_equal_everywhere_share_a_letter_by_a_p_of_one():
    values = of_classes(A=[0.2, 0.5, 0.9], B=[0.2, 0.5, 0.9], C=[0.1, 0.1, 0.1])
    pairs = comparisons.differences(comparisons.clustered_by_class(values), ["A", "B", "C"])
    row = pairs.set_index(["first", "second"]).loc[("A", "B")]
    assert row["p_alone"] == 1 and np.isnan(row["low"])
    assert row["reason"] == "the difference is the same in every cluster"
    letters = comparisons.letters(["A", "B", "C"], pairs)
    assert set(letters["A"]) & set(letters["B"])


def test_equal_gaps_share_a_place():
    """Also where rounding would part them."""
    gaps = pd.Series([0.2, np.nan, 0.3 + 4e-10, 0.3 + 6e-10, 0.1], list("abcde"))
    assert measures.places(gaps).fillna(0).tolist() == [3, 0, 1, 1, 4]


def test_methods_with_the_largest_gap_are_all_named_and_those_that_were_not_compared_too():
    known = pd.DataFrame(
        {"method": list("abcd"), "gap": [0.3, 0.3 - 1e-12, 0.2, 0.1], "group": ["x", "x", "xy", ""]}
    )
    assert report._largest_gap(report._find_leaders(known)) == "a and b have the largest gap"
    text = "; not significantly different: c; not compared: d."
    assert report._others(known, 2) == text
    assert report._others(known.assign(group=""), 2) == "; not compared: c, d."
    partly = known.assign(group=["x", "xy", "y", "z"])  # c differs from a only
    assert report._others(partly, 2) == "; not significantly different: c."
    apart = known.assign(group=["x", "x", "y", "y"])
    assert report._others(apart, 2) == ", significantly larger than the others."
    gap = pd.Series({"gap": 0.58, "low": -0.56, "high": 1.0, "classes": 2})
    assert report._gap_text(gap) == "58 percentage points (95 % CI over 2 classes: [−56, 100])"
    assert report._gap_text(gap.drop("low").reindex(gap.index)) == "58 percentage points"


def test_all_methods_with_the_largest_gap_are_the_best_at_a_level():
    ranking = {"c": 0.2, "b": 0.3 - 1e-12, "a": 0.3, "d": np.nan}
    levels = [("x", "1", ranking), ("x", "2", dict.fromkeys("ab", np.nan))]
    bench = SimpleNamespace(ranking=lambda: ranking, levels=lambda: levels)
    frame = stability(bench).frame
    assert frame["best"].tolist() == ["a, b", ""]
    assert frame["its gap"].tolist() == pytest.approx([0.3, np.nan], nan_ok=True)


def test_the_agreement_of_the_main_ranking_with_itself_is_not_counted():
    bench = SimpleNamespace(main="revert", split="heldout")
    rows = [
        ("ablation", "revert", 1), ("ablation", "zero", 0.2), ("ablation", "mean", 0.6),
        ("images", "heldout", 1), ("images", "importance", 1), ("outcome", "accuracy", 1),
        ("outcome", "probability", 0.8), ("measure", "gap", 1), ("measure", "area", np.nan),
        ("series", "a", 0.4), ("series", "b", 1),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["factor", "level", "tau"])
    tables = {"stability": Table("stability", "", "", frame)}
    assert report.agreement_of_rankings(bench, tables) == [
        "Across other levels of ablation, Kendall's τ with the main ranking is 0.20 to 0.60.",
        "Across other levels of outcome, Kendall's τ with the main ranking is 0.80.",
        "Across levels of series, Kendall's τ with the main ranking is 0.40 to 1.00.",
    ]


def test_methods_without_a_value_and_classes_that_are_never_recognised_are_named(monkeypatch):
    monkeypatch.setattr(report.shelf, "get", lambda *_: lambda bench: None)
    classes = pd.Index([0, 0, 1, 1], name="class_id")
    before = pd.DataFrame({("controls", "before", 0): [0.0, 0.0, 0.0, 1.0]}, classes)
    bench = SimpleNamespace(
        methods=["a", "b"], main="revert", classes={0: "cat", 1: "dog"},
        ranking=lambda: {"a": 0.1, "b": np.nan}, outcomes=lambda ablation: before,
    )  # fmt: skip
    undefined, never = report._undefined_values(bench)
    assert undefined == "No class has a value for b, which could not be ranked."
    assert never.startswith("No image of cat is classified correctly before ablation: for this")


def test_why_there_is_no_interval_is_said(monkeypatch):
    monkeypatch.setattr(report, "_undefined_values", lambda bench: [])
    row = {"method": ["a"], "gap": [0.0], "low": [np.nan], "high": [np.nan]}
    for classes, reason in ((2, "all classes have the same gap"), (1, "one class has a value")):
        board = Table("leaderboard", "", "", pd.DataFrame({**row, "classes": [classes]}))
        (sentence,) = report.findings(None, {"leaderboard": board})
        assert sentence.endswith(f"; {reason}, so that there is no interval, and no claim is made.")


def test_the_stability_of_a_small_base_is_over_the_neighbours_it_has():
    """Of three base neurons each has two neighbours; −1 stands for the others."""
    columns = [f"nearest_{rank}" for rank in range(1, 6)]
    first = [[1, 2, -1, -1, -1], [0, 2, -1, -1, -1], [0, 1, -1, -1, -1]]
    draws = [
        pd.DataFrame(rows, columns=columns).assign(layer="a", channel=range(3), method="m", seed=k)
        for k, rows in enumerate((first, [row[1::-1] + row[2:] for row in first]))
    ]
    assert list(_shared_neighbours(pd.concat(draws), "m")) == [1, 1, 1]
