"""Slow plain twins of the statistics: loops over rows, as one would compute by hand."""

import itertools

import numpy as np
import pandas as pd


def two_way_jackknife(frame: pd.DataFrame, function) -> np.ndarray:
    """Return V_participants + V_items − V_cells by leaving rows out; `function` takes a frame."""
    point = function(frame)

    def spread(parts: list[pd.DataFrame]) -> float:
        n = len(parts)
        return (n - 1) / n * sum((function(part) - point) ** 2 for part in parts)

    people = spread([frame[frame["participant"] != p] for p in frame["participant"].unique()])
    groups = [group for _, group in frame.groupby("condition")]
    cells = sum(spread([frame.drop(index=row) for row in group.index]) for group in groups)
    is_nested = frame.groupby("trial")["condition"].nunique().max() == 1
    items = sum(
        spread([frame[frame["trial"] != t] for t in stratum["trial"].unique()])
        for stratum in (groups if is_nested else [frame])
    )
    return max(people + items - cells, cells / 2)


def krippendorff_nominal(units: list[list]) -> float:
    """Return 1 − D_o / D_e by counting pairs of ratings."""
    units = [unit for unit in units if len(unit) >= 2]
    values = [value for unit in units for value in unit]
    n = len(values)
    observed = sum(
        sum(a != b for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in units
    )
    expected = sum(a != b for a, b in itertools.permutations(values, 2)) / (n - 1)
    return 1 - observed / expected


def fleiss(units: list[list]) -> float:
    """Return (P − P_e) / (1 − P_e) by counting pairs of ratings; units may differ in number."""
    ratings = [value for unit in units for value in unit]
    chance = sum((ratings.count(value) / len(ratings)) ** 2 for value in set(ratings))
    agreeing = [np.mean([a == b for a, b in itertools.permutations(unit, 2)]) for unit in units]
    return (float(np.mean(agreeing)) - chance) / (1 - chance)


def dawid_skene(answers: list[tuple], iterations: int) -> tuple[dict, dict, dict]:
    """Run EM in dictionaries: prior[c], confusion[participant, true, answer], posterior[item,
    c]."""
    items = sorted({item for item, _, _ in answers})
    people = sorted({person for _, person, _ in answers})
    classes = sorted({answer for _, _, answer in answers})
    posterior = {}
    for item in items:
        mine = [a for i, _, a in answers if i == item]
        for c in classes:
            posterior[item, c] = mine.count(c) / len(mine)
    for _ in range(iterations):
        prior = {c: sum(posterior[i, c] for i in items) / len(items) for c in classes}
        confusion = {}
        for person, true in itertools.product(people, classes):
            row = {
                said: sum(posterior[i, true] for i, p, a in answers if p == person and a == said)
                for said in classes
            }
            total = sum(row.values())
            for said in classes:
                confusion[person, true, said] = row[said] / total if total else 0.0
        for item in items:
            joint = {}
            for c in classes:
                joint[c] = prior[c]
                for i, p, a in answers:
                    if i == item:
                        joint[c] *= confusion[p, c, a]
            total = sum(joint.values())
            for c in classes:
                posterior[item, c] = joint[c] / total
    return prior, confusion, posterior


def label_agreement(labels: list[tuple[str, str, str]], similarity) -> float:
    """Return the mean over groups of the mean similarity of labels of different participants."""
    scores = []
    for group in sorted({g for g, _, _ in labels}):
        mine = [(p, text) for g, p, text in labels if g == group]
        pairs = [similarity(a, b) for (p, a), (q, b) in itertools.combinations(mine, 2) if p != q]
        if pairs:
            scores.append(np.mean(pairs))
    return float(np.mean(scores))


def closed_testing(p: list[float], weights: list[float]) -> list[float]:
    """Return adjusted p-values of the closed test with weighted Bonferroni tests.

    A hypothesis is rejected where all sets that hold it are (Marcus, Peritz & Gabriel 1976).
    """
    m = len(p)
    sets = [s for size in range(1, m + 1) for s in itertools.combinations(range(m), size)]
    level = {s: min(p[i] * sum(weights[j] for j in s) / weights[i] for i in s) for s in sets}
    return [min(1.0, max(level[s] for s in sets if i in s)) for i in range(m)]


def labels_by_stage(answers: list[tuple[str, str, tuple[str, ...]]], similarity) -> float:
    """Return `label_agreement` of (participant, trial, labels by stage); "" is no label."""
    flat = [
        (f"{trial}/{stage}", person, text)
        for person, trial, labels in answers
        for stage, text in enumerate(labels)
        if text
    ]
    return label_agreement(flat, similarity)


def type_two_area(confidence: list, correct: list) -> tuple[float, int]:
    """Return the wins and pairs of correct over incorrect responses of one participant."""
    right = [c for c, ok in zip(confidence, correct, strict=True) if ok]
    wrong = [c for c, ok in zip(confidence, correct, strict=True) if not ok]
    wins = sum((a > b) + 0.5 * (a == b) for a in right for b in wrong)
    return wins, len(right) * len(wrong)


def page_exact(rows: list[list[float]]) -> float:
    """Return Page's P(L ≥ observed) over every order of every row's ranks."""

    def statistic(table) -> float:
        return sum(place * rank for row in table for place, rank in enumerate(row, start=1))

    orders = list(itertools.product(*(list(itertools.permutations(row)) for row in rows)))
    return sum(statistic(table) >= statistic(rows) - 1e-9 for table in orders) / len(orders)


def hybrid_difference(
    first: tuple[float, float, float],
    second: tuple[float, float, float],
    correlation: float = 0.0,
) -> tuple[float, float]:
    """Return the interval of a difference of two shares (value, low, high): Newcombe (1998),
    method 10; with a correlation Zou & Donner (2008)."""
    (p, low, high), (q, below, above) = first, second
    down, up = (p - low, above - q), (high - p, q - below)
    ends = [(a**2 + b**2 - 2 * correlation * a * b) ** 0.5 for a, b in (down, up)]
    return p - q - ends[0], p - q + ends[1]


def minque(y, group, participant, item) -> np.ndarray:
    """Return MINQUE(0) with whole matrices: E y'MVₖMy = Σ σₗ² tr(MVₖMVₗ), V₄ = I."""
    n = len(y)
    same = [np.equal.outer(participant, participant)]
    same += [same[0] & np.equal.outer(group, group), np.equal.outer(item, item), np.eye(n)]
    kernels = [np.asarray(kernel, dtype=float) for kernel in same]
    x = np.equal.outer(group, np.unique(group)).astype(float)
    m = np.eye(n) - x @ np.linalg.inv(x.T @ x) @ x.T
    left = [[np.trace(m @ a @ m @ b) for b in kernels] for a in kernels]
    return np.linalg.solve(left, [y @ m @ a @ m @ y for a in kernels])
