"""How many people: studies are simulated before they are run, and analysed as they will be.

A power is the share of simulated studies in which the planned test rejects. The simulation knows
participants who differ, items that differ and guessing (`analysis.coverage.Design`); the analysis
is the clustered test of `analysis.statistics`, so that the power is that of the claim itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.special import logit

from analysis import mixed_model
from analysis.clusters import holm, t_interval, two_way_jackknife
from analysis.coverage import Design, simulate
from analysis.figures import COLOURS, MARKERS, Figure, styled
from analysis.statistics import _fit_conditions, _log_odds, _pairs, _shares
from analysis.tables import Table


@dataclass(frozen=True)
class Plan:
    """What is to be found.

    Attributes:
        design: the study; its number of participants is varied by `curve`.
        against_chance: test every condition whose accuracy differs from chance, otherwise the
            contrasts of conditions (Holm over the pairs).
        reference: compare all conditions with this one; all pairs by default.
        level: 1 − level is the size of the tests.
    """

    design: Design
    against_chance: bool = False
    reference: str | None = None
    level: float = 0.95


def rejections(plan: Plan, studies: int, seed: int = 0) -> pd.DataFrame:
    """Share of simulated studies in which each test rejects.

    Returns:
        effect (a condition, or "a − b"), size (true difference), power, low, high (Wilson's 95 %
        interval for the error of simulation), studies.
    """
    design = plan.design
    names = tuple(design.accuracy)
    accuracy = np.array([design.accuracy[name] for name in names])
    if plan.against_chance:
        tested = [g for g in range(len(names)) if accuracy[g] != design.chance]
        effects = [names[g] for g in tested]
        sizes = accuracy[tested] - design.chance
    else:
        pairs = _pairs(names, plan.reference)
        effects = [f"{names[a]} − {names[b]}" for a, b in pairs]
        sizes = np.array([accuracy[a] - accuracy[b] for a, b in pairs])
        first, second = np.array(pairs).reshape(-1, 2).T
    if not effects:
        raise ValueError("nothing to find: give conditions that differ from chance or each other")
    null = float(logit(design.chance)) if plan.against_chance else 0.0

    def function(total: np.ndarray, count: np.ndarray) -> np.ndarray:
        if plan.against_chance:
            return _log_odds(total, count)[..., tested]
        share = _shares(total, count)
        return share[..., first] - share[..., second]

    rejected = np.zeros(len(effects))
    for child in np.random.SeedSequence(seed).spawn(studies):
        data = simulate(design, np.random.default_rng(child))
        result = two_way_jackknife(data, function)
        p = np.array(
            [
                t_interval(value, variance, df, plan.level, null)[2]
                for value, variance, df in zip(
                    result.point, result.variance, result.df, strict=True
                )
            ]
        )
        if not plan.against_chance:
            p = holm(p)
        rejected += p < 1 - plan.level  # an undefined p does not reject
    power = rejected / studies
    low, high = _wilson(power, studies)
    return pd.DataFrame(
        {"effect": effects, "size": sizes, "power": power, "low": low, "high": high,
         "studies": studies}
    )  # fmt: skip


def _wilson(share: np.ndarray, n: int, z: float = 1.959964) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's (1927) interval for shares of n."""
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return middle - reach, middle + reach


def curve(
    plan: Plan,
    participants: Sequence[int],
    items: Sequence[int] | None = None,
    studies: int = 400,
    cost: float = np.nan,
    seed: int = 0,
) -> pd.DataFrame:
    """Power over numbers of participants and of items a condition.

    More people alone do not help where items differ: their spread is divided by the number of
    items only. So both are varied.

    Args:
        participants: numbers to try. items: likewise, those of the design by default; a design
            in which everyone answers a part of the items keeps the size of that part.
        cost: of one participant, in any currency.

    Returns:
        participants, items (a condition), trials (a participant), raters (answers an item), cost,
        and the columns of `rejections`.
    """
    frames = []
    for count in items or [plan.design.items]:
        for n in participants:
            design = replace(plan.design, participants=n, items=count)
            each = design.answered or count
            found = rejections(replace(plan, design=design), studies, seed)
            frames.append(
                found.assign(
                    participants=n,
                    items=count,
                    trials=each * len(design.accuracy),
                    raters=n * each / count,
                    cost=n * cost,
                )
            )
    table = pd.concat(frames, ignore_index=True)
    front = ["participants", "items", "trials", "raters", "cost"]
    return table[[*front, *(c for c in table.columns if c not in front)]]


def smallest(table: pd.DataFrame, wanted: float = 0.8) -> pd.DataFrame:
    """The fewest participants with which each effect has the wanted power, by number of items.

    Returns:
        effect, items, trials, participants, power, cost; participants is missing where no number
        tried suffices (more items may). The power must hold for that number and all larger ones,
        so that luck in one simulation does not count.
    """
    rows = []
    for (effect, items, trials), group in table.groupby(["effect", "items", "trials"], sort=False):
        group = group.sort_values("participants")
        enough = group["power"].to_numpy()[::-1] >= wanted
        run = len(enough) if enough.all() else int(np.argmin(enough))
        best = group.iloc[len(group) - run] if run else None
        rows.append(
            {
                "effect": effect,
                "items": items,
                "trials": trials,
                "participants": pd.NA if best is None else int(best["participants"]),
                "power": np.nan if best is None else best["power"],
                "cost": np.nan if best is None else best["cost"],
            }
        )
    return pd.DataFrame(rows).astype({"participants": "Int64"})


def calibrate(design: Design, pilot: pd.DataFrame) -> Design:
    """The design with accuracies and spreads taken from a pilot's answers.

    Args:
        design: its conditions that the pilot has take the pilot's (model-based) accuracies; chance,
            numbers of items and participants stay.
        pilot: participant, trial, condition, correct.

    Raises:
        ValueError: the pilot has none of the conditions, or says nothing (all right or all wrong).
    """
    known = pilot[pilot["condition"].isin(list(design.accuracy))]
    model = _fit_conditions(known) if len(known) else None
    if model is None:
        raise ValueError(
            f"the pilot has no usable answers of the conditions {', '.join(design.accuracy)}"
        )
    shares = mixed_model.marginal(model.fit.beta, model.spread)
    accuracy = design.accuracy | dict(zip(model.names, map(float, shares), strict=True))
    return replace(
        design,
        accuracy=accuracy,
        sd_participant=model.fit.sd[0],
        sd_condition=model.fit.sd[1],
        sd_item=model.fit.sd[2],
    )


def power_tables(
    table: pd.DataFrame, found: pd.DataFrame, wanted: float
) -> tuple[list[Table], Figure]:
    """The curve and the smallest designs as tables, and the curve as a figure."""
    number = {"size": "{:+.3f}", "power": "{:.3f}", "low": "{:.3f}", "high": "{:.3f}",
              "raters": "{:.0f}", "cost": "{:.2f}"}  # fmt: skip
    tables = [
        Table(
            "power",
            "Power by simulation",
            "Share of simulated studies in which the planned test (participants and items "
            "clustered, Holm over contrasts) rejects; low and high: Wilson's interval for the "
            "error of simulation. Raters: answers an item. Size: true difference of shares.",
            table,
            number,
        ),
        Table(
            "power_smallest",
            f"Fewest participants for {100 * wanted:g} % power",
            "A dash: no number tried suffices; more different items may.",
            found,
            number,
        ),
    ]
    with styled():
        canvas, axis = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
        for k, (design, group) in enumerate(
            table.groupby(["effect", "items", "trials"], sort=False)
        ):
            colour, people = COLOURS[k % len(COLOURS)], group["participants"]
            label = "{}, {} items, {} trials each".format(*design)
            axis.plot(
                people, group["power"], marker=MARKERS[k % len(MARKERS)], color=colour, label=label
            )
            axis.fill_between(
                people, group["low"], group["high"], alpha=0.12, color=colour, linewidth=0
            )
        axis.axhline(wanted, color="#777777", linestyle="--", zorder=0)
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("participants")
        axis.set_ylabel("power")
        canvas.legend(loc="outside right center")
    return tables, Figure("power", "Power by number of participants", tables[0].caption, canvas)
