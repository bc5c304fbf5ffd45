"""Which method finds the evolutions that matter: measures, intervals, tests, rankings.

Everything is paired: all methods are judged on the same images of the same classes. The sampled
units are classes; networks and pairs of epochs are taken as given, and an image's outcome is its
mean over pairs. Undefined is NaN, with a count of what was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from string import ascii_letters

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import cochrans_q, mcnemar

from analysis.statistics.classes import OUTCOMES, page_trend, quartiles, wilcoxon
from analysis.statistics.clusters import holm
from harness.records import CONTROLS, PAIR

UNIT = [*PAIR, "class_id", "image_id"]


def outcomes(records: pd.DataFrame, outcome: str = "accuracy") -> pd.DataFrame:
    """Records of one ablation, split and place as units (pair, class, image) x arms.

    Returns:
        float; columns (method, arm, draw), and (CONTROLS, "before", 0) for the untouched network.
    """
    column = OUTCOMES[outcome]
    wide = records.pivot(index=UNIT, columns=["method", "arm", "draw"], values=f"{column}_after")
    return wide.astype(float).rename(columns={"none": "before"}, level="arm")


def of_method(wide: pd.DataFrame, method: str) -> pd.DataFrame:
    """The arms of one method: columns (arm, draw); none where nothing of it could be run."""
    return wide.loc[:, wide.columns.get_level_values("method") == method].droplevel(
        "method", axis=1
    )


#: What a method is judged by, the larger the better: name -> function(its arms, controls)
#: -> one value a unit. A new measure is one entry.
Measure = Callable[[pd.DataFrame, pd.DataFrame], pd.Series]


def _arm(arms: pd.DataFrame, name: str) -> pd.Series:
    """The mean outcome over an arm's draws; NaN where the arm was not run."""
    if name not in arms.columns.get_level_values("arm"):
        return pd.Series(np.nan, index=arms.index)
    return arms.xs(name, axis=1, level="arm").mean(axis=1)


def gap(mine: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
    """Outcome after ablating the least important bin minus after ablating the most important."""
    bins = quartiles(list(mine.columns.get_level_values("arm").unique()))
    return _arm(mine, bins[-1] if bins else "") - _arm(mine, "q1")


def area(mine: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
    """Area between the curves of ablating more and more, least and most important first."""
    return _arm(mine, "least") - _arm(mine, "most")


def over_random(mine: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
    """How much more ablating q1 costs than ablating random sets."""
    return _arm(controls, "random") - _arm(mine, "q1")


def over_matched(mine: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
    """How much more than ablating others that changed as much."""
    return _arm(mine, "matched") - _arm(mine, "q1")


def over_active(mine: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
    """How much more than ablating others that are as active."""
    return _arm(mine, "matched_activation") - _arm(mine, "q1")


def over_other(mine: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
    """How much more than ablating another class's q1: is the ranking specific to the class?"""
    return _arm(mine, "other_class") - _arm(mine, "q1")


def lost(mine: pd.DataFrame, controls: pd.DataFrame) -> pd.Series:
    """Of what was right before, what ablating q1 takes; undefined for an image wrong before."""
    before = _arm(controls, "before")
    return (before - _arm(mine, "q1")).where(before > 0)


MEASURES: dict[str, Measure] = {
    "gap": gap,
    "area": area,
    "over random": over_random,
    "over matched": over_matched,
    "over active": over_active,
    "over other class": over_other,
    "lost": lost,
}


def measured(wide: pd.DataFrame, measure: Measure, methods: Sequence[str]) -> pd.DataFrame:
    """A measure of every method: (class, image) x methods, mean over pairs."""
    controls = of_method(wide, CONTROLS)
    columns = {name: measure(of_method(wide, name), controls) for name in methods}
    return pd.DataFrame(columns).groupby(["class_id", "image_id"]).mean()


@dataclass(frozen=True)
class Clustered:
    """Ratios Σ totals / Σ counts over clusters, with their standard errors.

    For classes a total is the class's mean and a count is 1, so that the ratio is the mean over
    classes; for neurons they are sums and numbers by layer.

    Attributes:
        totals, counts: [C, k]; both 0 where a cluster has no value.
    """

    totals: np.ndarray
    counts: np.ndarray

    @property
    def value(self) -> np.ndarray:
        """[k]; NaN where no cluster has a value."""
        return _ratio(self.totals, self.counts)

    @property
    def classes(self) -> np.ndarray:
        """[k], clusters with a value."""
        return (self.counts > 0).sum(axis=0)

    @property
    def left_out(self) -> np.ndarray:
        """[k], clusters without."""
        return (self.counts == 0).sum(axis=0)

    @property
    def error(self) -> np.ndarray:
        """[k], standard errors; NaN below two clusters."""
        return ratio_error(self.totals, self.counts)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """value ± t_{C − 1} standard errors; NaN below two clusters or where no cluster differs."""
        low, high, _ = t_test(self.value, self.error, self.classes, level)
        return low, high


def _ratio(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total, count = totals.sum(axis=-2), counts.sum(axis=-2)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def ratio_error(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Standard errors [k] of Σ totals / Σ counts over clusters [C, k] (Cochran 1977, eq. 2.46).

    √(C/(C − 1) Σ (t − R n)²) / Σ n; with counts of 1 it is s/√C. A closed form, so that no seed
    decides a comparison. NaN below two clusters.
    """
    clusters = (counts > 0).sum(axis=0)
    residual = totals - np.nan_to_num(_ratio(totals, counts)) * counts
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(clusters > 1, clusters / (clusters - 1.0), np.nan)
        error = np.sqrt(scale * np.square(residual).sum(axis=0)) / counts.sum(axis=0)
    # What remains of rounding is no variation.
    return np.where(error < 1e-12 * np.abs(totals).max(initial=1.0), 0.0, error)


def t_test(
    value: np.ndarray, error: np.ndarray, classes: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interval and two-sided p-value against 0 by t with classes − 1 degrees of freedom.

    All NaN below two classes and where no class differs from another: the standard error is then
    unknown, not 0.
    """
    freedom = np.where(classes > 1, classes - 1, np.nan)
    error = np.where(error > 0, error, np.nan)
    half = stats.t.ppf((1 + level) / 2, freedom) * error
    p = 2 * stats.t.sf(np.abs(value) / error, freedom)
    return value - half, value + half, p


def by_class(values: pd.DataFrame) -> Clustered:
    """Means over classes. A class counts by the mean of its images, which carries their noise.

    Args:
        values: rows x k, `class_id` a level of the index; NaN where undefined.
    """
    means = values.groupby(level="class_id").mean().to_numpy(float)
    known = np.isfinite(means)
    return Clustered(np.where(known, means, 0.0), known.astype(float))


def by_layer(values: pd.DataFrame) -> Clustered:
    """Means over neurons, clustered by layer: neurons of a layer are alike, and a channel occurs
    once an epoch.

    Args:
        values: neurons x k, no NaN; index level `layer` and, where there are several, `series`.
    """
    levels = [name for name in ("series", "layer") if name in values.index.names]
    groups = values.groupby(level=levels)
    totals = groups.sum().to_numpy(float)
    return Clustered(totals, np.broadcast_to(groups.size().to_numpy(float)[:, None], totals.shape))


def differences(found: Clustered, names: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """Every pair of columns over the clusters that both have: paired difference and its test.

    Returns:
        first, second (the first has the larger mean over all its clusters), classes (that both
        have), difference, low, high, p_alone (of this pair, which agrees with the interval), p
        (Holm-adjusted over the pairs) and reason: why a comparison could not be made; its p is
        then NaN, which means unknown, not "no difference".
    """
    columns = ["first", "second", "classes", "difference", "low", "high", "p_alone", "p", "reason"]
    order = np.argsort(-np.nan_to_num(found.value, nan=-np.inf), kind="stable")
    pairs = list(combinations(order, 2))
    if not pairs:
        return pd.DataFrame(columns=columns)
    a, b = np.array(pairs).T
    both = (found.counts[:, a] > 0) & (found.counts[:, b] > 0)
    counts = np.where(both, found.counts[:, a], 0.0)
    totals = np.where(both, found.totals[:, a] - found.totals[:, b], 0.0)
    value, classes = _ratio(totals, counts), both.sum(axis=0)
    low, high, p = t_test(value, ratio_error(totals, counts), classes, level)
    same = np.where(np.isnan(p), "the difference is the same in every cluster", "")
    # Equal in every cluster: no exchange of the two changes anything, so p is 1.
    equal = (classes > 1) & (np.abs(totals).max(axis=0, initial=0.0) == 0)
    p = np.where(equal, 1.0, p)
    reason = np.where(classes < 2, "fewer than two clusters have both", same)
    table = pd.DataFrame(
        {
            "first": [names[i] for i in a],
            "second": [names[i] for i in b],
            "classes": classes,
            "difference": value,
            "low": low,
            "high": high,
            "p_alone": p,
            "p": holm(p),  # a comparison that could not be made keeps its place in the family
            "reason": reason,
        }
    )
    return table[columns]


def letters(names: Sequence[str], pairs: pd.DataFrame, alpha: float = 0.05) -> dict[str, str]:
    """Compact letter display (Piepho, 2004): names that share a letter were compared and do not
    differ significantly. A comparison that could not be made (p is NaN) gives no common letter.

    Args:
        names: from best to worst.
        pairs: of `differences`.
    """
    groups = [list(names)]
    apart = pairs["p"].isna() | (pairs["p"] < alpha)
    for first, second in pairs.loc[apart, ["first", "second"]].to_numpy():
        for group in [g for g in groups if first in g and second in g]:  # insert …
            groups.remove(group)
            groups += [[n for n in group if n != first], [n for n in group if n != second]]
        groups = [  # … and absorb
            g
            for i, g in enumerate(groups)
            if not any(
                set(g) < set(other) or (set(g) == set(other) and j < i)
                for j, other in enumerate(groups)
                if j != i
            )
        ]
    position = {name: index for index, name in enumerate(names)}
    groups.sort(key=lambda group: [position[name] for name in group])
    return {
        name: "".join(ascii_letters[i % 52] for i, group in enumerate(groups) if name in group)
        for name in names
    }


def permutation(wide: pd.DataFrame, methods: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Is q1 unlike a random set of its size? Mean outcome over classes, against saved random sets.

    Returns:
        method -> (two-sided p = (b + 1) / (n + 1) with b the random sets at least as far from
        their common mean as q1 is, n of them).
    """

    def over_classes(columns: pd.DataFrame) -> pd.Series:
        return columns.groupby("class_id").mean().mean()

    controls = of_method(wide, CONTROLS)
    if "random" not in controls.columns.get_level_values("arm"):
        return {name: (float("nan"), 0) for name in methods}
    null = over_classes(controls.xs("random", axis=1, level="arm")).dropna().to_numpy()
    found = {}
    for name in methods:
        mine = _arm(of_method(wide, name), "q1").to_frame("q1")
        value = float(over_classes(mine)["q1"])
        if not len(null) or np.isnan(value):
            found[name] = (float("nan"), len(null))
            continue
        centre = np.append(null, value).mean()  # of all that are exchangeable
        beyond = np.abs(null - centre) >= abs(value - centre) - 1e-12
        found[name] = ((int(beyond.sum()) + 1) / (len(null) + 1), len(null))
    return found


def over_classes(wide: pd.DataFrame, method: str) -> pd.DataFrame:
    """classes x arms of one method (and `random`, `before`), mean over pairs and images."""
    mine = of_method(wide, method)
    controls = of_method(wide, CONTROLS)
    arms = {name: _arm(mine, name) for name in mine.columns.get_level_values("arm").unique()}
    arms |= {name: _arm(controls, name) for name in ("random", "before", "all")}
    units = pd.DataFrame(arms).groupby(["class_id", "image_id"]).mean()
    return units.groupby("class_id").mean()


def outcomes_before(wide: pd.DataFrame) -> pd.Series:
    """class -> mean outcome of the untouched network."""
    return wide[CONTROLS, "before", 0].groupby("class_id").mean()


def class_tests(wide: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Tests over classes, p-values corrected by Holm over the methods.

    Returns:
        method, page (the outcome rises from q1 to qB), random and matched (two-sided Wilcoxon of
        q1), classes.
    """
    rows = []
    for method in methods:
        classes = over_classes(wide, method)
        page, count = page_trend(classes)
        rows.append(
            {
                "method": method,
                "page": page,
                "random": _wilcoxon(classes, "q1", "random"),
                "matched": _wilcoxon(classes, "q1", "matched"),
                "classes": count,
            }
        )
    table = pd.DataFrame(rows)
    for test in ("page", "random", "matched"):
        table[test] = holm(table[test].to_numpy(float))
    return table


def _wilcoxon(classes: pd.DataFrame, first: str, second: str) -> float:
    if first not in classes or second not in classes:
        return float("nan")
    return wilcoxon(classes[first], classes[second])


def image_tests(wide: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Tests over images of one pair of epochs, paired: as if the images of a class were
    independent, which they are not, as they share their sets. Beside the tests over classes.

    Args:
        wide: of the outcome `accuracy`.

    Returns:
        series, epoch_from, epoch_to, method, images, cochran (do the bins differ?), mcnemar_last
        (q1 against the last bin) and mcnemar_matched, exact; p-values, 1 where all agree, NaN
        without images.
    """
    rows = []
    for key, group in wide.groupby(level=PAIR, sort=False):
        for method in methods:
            mine = of_method(group, method)
            arms = pd.DataFrame(
                {a: _arm(mine, a) for a in mine.columns.get_level_values("arm").unique()}
            )
            bins = quartiles(list(arms.columns))
            right = arms[bins].dropna().to_numpy() > 0.5
            varies = len(right) > 0 and (right.any(axis=1) & ~right.all(axis=1)).any()
            rows.append(
                dict(zip(PAIR, key, strict=True))
                | {
                    "method": method,
                    "images": len(right),
                    "cochran": float(cochrans_q(right.astype(int)).pvalue)
                    if varies
                    else (1.0 if right.size else float("nan")),
                    "mcnemar_last": _mcnemar(arms, "q1", bins[-1] if bins else ""),
                    "mcnemar_matched": _mcnemar(arms, "q1", "matched"),
                }
            )
    return pd.DataFrame(rows)


def _mcnemar(arms: pd.DataFrame, first: str, second: str) -> float:
    if first not in arms or second not in arms:
        return float("nan")
    both = arms[[first, second]].dropna() > 0.5
    table = [
        [int(((both[first] == a) & (both[second] == b)).sum()) for b in (True, False)]
        for a in (True, False)
    ]
    if both.empty:
        return float("nan")
    if table[0][1] + table[1][0] == 0:
        return 1.0  # no image says anything against equality
    return float(mcnemar(table, exact=True).pvalue)


def curve(wide: pd.DataFrame, method: str, steps: int) -> pd.DataFrame:
    """Outcome by the share of neurons ablated: share, most, least (first), mean over classes."""
    mine = of_method(wide, method)
    classes = over_classes(wide, method)
    rows = [{"share": 0.0, "most": classes["before"].mean(), "least": classes["before"].mean()}]
    for step in range(1, steps):
        at = {
            name: mine[name, step].groupby("class_id").mean().mean()
            if (name, step) in mine
            else float("nan")
            for name in ("most", "least")
        }
        rows.append({"share": step / steps, **at})
    rows.append({"share": 1.0, "most": classes["all"].mean(), "least": classes["all"].mean()})
    return pd.DataFrame(rows)


def ranks(names: Sequence[str], pairs: pd.DataFrame, alpha: float = 0.05) -> dict[str, str]:
    """Simultaneous confidence interval of each rank (Al Mohamad, Goeman & van Zwet, 2021): 1 + the
    number of methods that are significantly better, to all but those significantly worse.

    Args:
        names: of all methods.
        pairs: of `differences`; a comparison that could not be made (p is NaN) decides nothing.

    Returns:
        name -> "first–last"; it never contradicts the letters, which follow from the same tests.
    """
    apart = pairs[pairs["p"] < alpha]
    better, worse = apart["second"].value_counts(), apart["first"].value_counts()
    return {n: f"{1 + better.get(n, 0)}–{len(names) - worse.get(n, 0)}" for n in names}


def agreement(reference: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, int]:
    """Kendall's tau-b of two rankings of methods, and over how many methods."""
    common = [
        m for m in reference if m in other and np.isfinite(reference[m]) and np.isfinite(other[m])
    ]
    if len(common) < 2:
        return float("nan"), len(common)
    tau = stats.kendalltau([reference[m] for m in common], [other[m] for m in common]).statistic
    return float(tau), len(common)


def images_needed(rho: float, images: int, wanted: float = 0.9) -> float:
    """How many images a half needs for a split-half correlation (Spearman and Brown, 1910).

    Args:
        rho: what halves of `images` images reach. wanted: what is aimed at.
    """
    if not 0 < rho < 1:
        return float("nan")
    return images * wanted * (1 - rho) / ((1 - wanted) * rho)
