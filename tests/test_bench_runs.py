"""Benchmarks of several runs as one table, compared with statsmodels and planted effects."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests

from analysis.benchmark.runs import differing_settings, reference_of, summarise_runs
from analysis.statistics.clusters import code_responses, two_way_jackknife

MEANS = {"better": 0.6, "sign_t": 0.5, "same": 0.5, "worse": 0.1}


def values(runs=3, series=2, classes=12, seed=0, sd=(0.05, 0.05, 0.03)) -> pd.DataFrame:
    """Return gaps that vary over networks and classes, with noise of each method."""
    rng = np.random.default_rng(seed)
    easy = rng.normal(0, sd[1], classes)
    rows = []
    for run in range(runs):
        for name in "ab"[:series]:
            level = rng.normal(0, sd[0])
            for k in range(classes):
                for method, mean in MEANS.items():
                    gap = mean + level + easy[k] + rng.normal(0, sd[2])
                    rows.append((f"r{run}", f"r{run} {name}", f"class {k}", method, gap))
    return pd.DataFrame(rows, columns=["run", "network", "class", "method", "gap"])


def test_the_standard_error_is_that_of_statsmodels_clustered_in_both_ways():
    """The mean's covariance of `OLS(gap ~ 1)` clustered by network and class (Cameron, Gelbach &
    Miller), with which the jackknife agrees on a balanced table."""
    table = values()
    for method, rows in table.groupby("method"):
        codes = np.stack([pd.factorize(rows[c])[0] for c in ("network", "class")], axis=1)
        fit = sm.OLS(rows["gap"].to_numpy(), np.ones(len(rows))).fit()
        both = sm.stats.sandwich_covariance.cov_cluster_2groups(
            fit, codes[:, 0], codes[:, 1], use_correction=True
        )
        error = float(np.sqrt(both[0][0, 0]))
        data = code_responses(rows, "gap", "method", "network", "class")
        ours = two_way_jackknife(data, lambda total, count: total / count)
        assert np.sqrt(ours.variance[0]) == pytest.approx(error, rel=1e-6), method
        row = summarise_runs(rows).iloc[0]
        assert row["mean"] == pytest.approx(rows["gap"].mean())
        assert (row["low"], row["high"]) == pytest.approx(ours.interval(0)[:2])


def test_copies_of_a_run_are_not_called_independent():
    names = ("classes", "pairs", "layers", "objectives", "images_per_class", "heldout_images")
    seeds = iter([0, 1, 2, 3, 4, 3])
    benches = [
        SimpleNamespace(results=SimpleNamespace(
            about=dict.fromkeys(names, 1),
            run=SimpleNamespace(manifest=lambda seed=seed: {"configuration": {"seed": seed}}),
        ))
        for seed in seeds
    ]  # fmt: skip
    assert differing_settings(benches[:5], []) == ""
    assert differing_settings(benches, []).endswith("one run, which are not independent.")


def test_means_spread_and_differences_are_the_plain_ones():
    table = values(seed=4)
    found = summarise_runs(table).set_index("method")
    assert found.index[0] == "better" and found.index[-1] == "worse"
    runs = table[table["method"] == "better"].groupby("run")["gap"].mean()
    assert found.loc["better", "sd over runs"] == pytest.approx(runs.std(ddof=1))
    assert found.loc["better", "lowest"] == pytest.approx(runs.min())
    assert found.loc["better", ["networks", "classes", "cells"]].tolist() == [6, 12, 72]
    assert reference_of(table) == "sign_t" and np.isnan(found.loc["sign_t", "difference"])
    assert found.loc["better", "difference"] == pytest.approx(0.1, abs=0.03)
    assert found.loc["better", "p"] < 0.05 and found.loc["worse", "p"] < 0.05
    assert found.loc["same", "p"] > 0.05
    others = found.drop("sign_t")
    alone, adjusted = others["p alone"].astype(float), others["p"].astype(float)
    assert np.isnan(found.loc["sign_t", "p"])  # nor does it count as one of the three tests
    assert adjusted.to_numpy() == pytest.approx(multipletests(alone, method="holm")[1])
    width = found["high"] - found["low"]
    own = found["difference high"] - found["difference low"]
    assert (own.dropna() < width[own.dropna().index]).all()  # paired: networks and classes cancel


@pytest.mark.slow
def test_intervals_hold_for_other_networks_and_classes():
    """200 benchmarks of six networks and twelve classes; classes alone would cover far less."""
    covered, naive = [], []
    for seed in range(200):
        table = values(seed=seed, sd=(0.08, 0.05, 0.03))
        row = summarise_runs(table).set_index("method").loc["same"]
        covered.append(row["low"] < MEANS["same"] < row["high"])
        by_class = table[table["method"] == "same"].groupby("class")["gap"].mean()
        naive.append(abs(by_class.mean() - 0.5) < 2.2 * by_class.std(ddof=1) / np.sqrt(12))
    assert 0.92 <= np.mean(covered) <= 0.99
    assert np.mean(naive) < 0.85


def test_what_is_missing_is_counted_and_too_few_networks_have_no_interval():
    table = values()
    table.loc[table.index[table["method"] == "worse"][:5], "gap"] = np.nan
    found = summarise_runs(table).set_index("method")
    assert found.loc["worse", ["cells", "left out"]].tolist() == [67, 5]
    few = summarise_runs(values(runs=3, series=1)).set_index("method")
    assert few["low"].isna().all() and (few["reason"] != "").all()
    assert few["sd over runs"].notna().all()
    without = summarise_runs(table[table["method"] != "sign_t"])
    assert np.isnan(without.set_index("method").loc["better", "difference"])


def test_a_difference_is_of_the_cells_that_both_have():
    """Two methods that are equal wherever both exist do not differ, whatever one has alone."""
    table = values()
    same = table["method"] == "same"
    table.loc[same, "gap"] = table.loc[table["method"] == "sign_t", "gap"].to_numpy()
    best = table.groupby("network")["gap"].mean().idxmax()
    table.loc[same & (table["network"] == best), "gap"] = np.nan
    row = summarise_runs(table).set_index("method").loc["same"]
    assert row["difference"] == 0 and row["p alone"] == 1 and row["left out"] == 12
    assert row["mean"] != summarise_runs(table).set_index("method").loc["sign_t", "mean"]
    # Paired: the noise of a cell that both share is in no difference.
    shared = values(sd=(0.05, 0.05, 0.0))
    shared["gap"] += np.repeat(np.random.default_rng(1).normal(0, 0.2, len(shared) // 4), 4)
    shared["gap"] += np.random.default_rng(2).normal(0, 0.01, len(shared))
    row = summarise_runs(shared).set_index("method").loc["better"]
    assert row["difference high"] - row["difference low"] < 0.02 < row["high"] - row["low"]


def test_reasons_speak_of_networks_and_classes_and_a_method_without_values_is_no_reference():
    few = summarise_runs(values(runs=1)).set_index("method").loc["better"]
    assert few["reason"] == "an interval needs 4 of each (here: 2 networks and 12 classes)"
    table = values()
    table.loc[table["method"] == "sign_t", "gap"] = np.nan
    found = summarise_runs(table)
    assert reference_of(table) == found["method"][0] == "better"
    assert "sign_t" not in set(found["method"])
    with pytest.raises(ValueError, match="no method has a gap in any of the runs"):
        summarise_runs(table.assign(gap=np.nan))
    apart = values()
    only = (apart["method"] == "same") & (apart["run"] != "r0")
    apart = apart[only | ((apart["method"] == "sign_t") & (apart["run"] == "r0"))]
    row = summarise_runs(apart).set_index("method").loc["same"]
    assert np.isnan(row["difference"]) and row["reason"].startswith("difference: an interval needs")
