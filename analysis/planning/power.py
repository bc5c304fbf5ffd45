"""Estimate the power of a study by simulating it and analysing it as planned.

A power is the share of simulated studies in which the planned test rejects. The simulation knows
participants who differ, items that differ and guessing (`designs.py`); the analysis is
the clustered test of `analysis.statistics.shares`, so that the power is that of the claim itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from statsmodels.stats.proportion import proportion_confint

from analysis.exhibits.figures import COLOURS, Figure, look, styled
from analysis.exhibits.tables import Table
from analysis.planning.designs import Design, simulate
from analysis.statistics import mixed_model
from analysis.statistics.clusters import Crossed, holm
from analysis.statistics.contrasts import condition_pairs, differences
from analysis.statistics.crossed_effects import fit_conditions
from analysis.statistics.estimate import size
from analysis.statistics.shares import clustered_shares

#: Named where a study has several effects: that all are found in one study.
TOGETHER = "all together"
#: Differences below this are none: shares are given with three or four digits, as in 1/6 = .1667.
NOTHING = 0.0005


@dataclass(frozen=True)
class Plan:
    """The design and the tests whose power is estimated.

    Attributes:
        design: the study; its number of participants is varied by `curve`.
        against_chance: test the conditions against chance and report those that differ from it,
            otherwise the contrasts of conditions.
        reference: compare all conditions with this one; all pairs by default.
        level: 1 − level is the size of all tests of the study together.
        share: what the tests planned here hold of it; as in the analysis (`claims.py`) the
            rest is handed on to them only if the other tests are rejected, which is not counted on.
    """

    design: Design
    against_chance: bool = False
    reference: str | None = None
    level: float = 0.95
    share: float = 1.0


def rejections(plan: Plan, studies: int, seed: int = 0) -> pd.DataFrame:
    """Estimate the share of simulated studies in which each test rejects.

    Returns:
        effect (a condition, or "a − b"; with several, TOGETHER: all are found in one study), size
        (true difference), power, low, high (Wilson's 95 % interval for the error of simulation),
        studies.
    """
    design = plan.design
    names = tuple(design.accuracy)
    accuracy = np.array([design.accuracy[name] for name in names])
    if plan.against_chance:
        effects, sizes = list(names), accuracy - design.chance
    else:
        pairs = condition_pairs(names, plan.reference)
        effects = [f"{names[a]} − {names[b]}" for a, b in pairs]
        sizes = np.array([accuracy[a] - accuracy[b] for a, b in pairs])
    # A control at chance, or two equal conditions, are tested, but there is nothing to be found.
    sought = np.abs(sizes) >= NOTHING
    if not sought.any():
        sought[:] = not plan.against_chance  # how often equal conditions are found to differ
    if not sought.any():
        raise ValueError("nothing to find: give conditions that differ from chance or each other")
    kept = len(effects) * (1 / plan.share - 1)  # the others' weight, each test here having one

    def tested(data: Crossed) -> list[float]:
        """The p-value of each test alone."""
        if plan.against_chance:
            chances = np.full(len(names), design.chance)
            return [e.p for e in clustered_shares(data, chances, plan.level)]
        return [d.interval(plan.level, 0.0)[2] for d in differences(data, pairs)]

    rejected = np.zeros((studies, int(sought.sum())), dtype=bool)
    for study, child in enumerate(np.random.SeedSequence(seed).spawn(studies)):
        data = simulate(design, np.random.default_rng(child))
        p = np.array(tested(data))
        # An undefined p does not reject.
        rejected[study] = (holm(p, kept=kept) < size(plan.level))[sought]
    power = rejected.mean(axis=0)
    names_found, sizes = [e for e, s in zip(effects, sought, strict=True) if s], sizes[sought]
    if len(power) > 1:
        power = np.append(power, rejected.all(axis=1).mean())
        names_found, sizes = [*names_found, TOGETHER], np.append(sizes, np.nan)
    low, high = proportion_confint(power * studies, studies, method="wilson")
    return pd.DataFrame(
        {"effect": names_found, "size": sizes, "power": power, "low": low, "high": high,
         "studies": studies}
    )  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Sizes of a study to try, in all combinations.

    Answers are participants × trials = items × raters in every condition, so that three of the four
    numbers say the fourth. More participants alone do not help where items differ: the
    variance between items is divided by the number of different items only.

    Attributes:
        participants: numbers to try. trials: likewise, a participant and condition.
        items: likewise, different trials a condition; as many as `trials` by default.
        raters: likewise, answers each trial gets (at least), which sets the items instead. Numbers
            of participants that cannot give so many are left out.

    Raises:
        ValueError: both items and raters, fewer items than trials, more raters than participants.
    """

    participants: Sequence[int]
    trials: Sequence[int]
    items: Sequence[int] = ()
    raters: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.items and self.raters:
            raise ValueError("give items or raters: each follows from the other")
        if self.items and min(self.items) < max(self.trials):
            raise ValueError(
                f"trials ({max(self.trials)}) exceed items ({min(self.items)}): nobody answers an "
                f"item twice"
            )
        if self.raters and min(self.raters) > max(self.participants):
            raise ValueError(
                f"raters ({min(self.raters)}) exceed participants ({max(self.participants)}): "
                f"nobody answers an item twice"
            )

    def __iter__(self) -> Iterator[tuple[str, int, int, int]]:
        """What is held while participants vary, participants, items and trials of each size."""
        held_at = self.raters or self.items or [0]
        for each, held, n in product(self.trials, held_at, self.participants):
            if self.raters and n < held:
                continue
            items = n * each // held if self.raters else held or each
            name = f"{each} trials, {held} raters" if self.raters else f"{each} trials of {items}"
            yield name, n, items, each


def curve(
    plan: Plan, sizes: Sizes, studies: int = 400, cost: float = np.nan, seed: int = 0
) -> pd.DataFrame:
    """Estimate power over sizes of the study.

    Args:
        cost: of one participant, in any currency.

    Returns:
        design (what is held while participants vary), participants, trials, items, raters, cost,
        and the columns of `rejections`.
    """
    frames = []
    for name, n, items, each in sizes:
        design = replace(plan.design, participants=n, items=items, answered=each)
        found = rejections(replace(plan, design=design), studies, seed)
        frames.append(
            found.assign(
                design=name, participants=n, trials=each, items=items, raters=n * each / items,
                cost=n * cost,
            )
        )  # fmt: skip
    table = pd.concat(frames, ignore_index=True)
    front = ["design", "participants", "trials", "items", "raters", "cost"]
    return table[[*front, *(c for c in table.columns if c not in front)]]


def smallest(table: pd.DataFrame, wanted: float = 0.8) -> pd.DataFrame:
    """Find the fewest participants with which each effect, and all together, have the wanted
    power.

    Returns:
        effect, design, participants, trials, items, raters, power, cost; missing where no number
        tried suffices (more items may). The power must hold for that number and all larger ones,
        so that luck in one simulation does not count. The last effect is all together (or the only
        one).
    """
    rows = []
    for (effect, design), group in table.groupby(["effect", "design"], sort=False):
        group = group.sort_values("participants")
        enough = group["power"].to_numpy()[::-1] >= wanted
        run = len(enough) if enough.all() else int(np.argmin(enough))
        best = group.iloc[len(group) - run] if run else pd.Series(dtype=float)
        columns = ["participants", "trials", "items", "raters", "power", "cost"]
        rows.append({"effect": effect, "design": design} | best.reindex(columns).to_dict())
    whole = dict.fromkeys(["participants", "trials", "items"], "Int64")
    return pd.DataFrame(rows).astype(whole)


def in_words(found: pd.DataFrame, wanted: float) -> str:
    """Describe the smallest design with the wanted power for all effects: fewest participants,
    trials, items."""
    every = found[(found["effect"] == found["effect"].iloc[-1]) & found["participants"].notna()]
    if every.empty:
        return f"No design tried finds every effect with {100 * wanted:g} % power."
    best = every.sort_values(["participants", "trials", "items"], kind="stable").iloc[0]
    cost = "" if np.isnan(best["cost"]) else f", at a cost of {best['cost']:.2f}"
    return (
        f"Smallest design tried that finds every effect with {100 * wanted:g} % power: "
        f"{best['participants']} participants, {best['trials']} trials each a condition, of "
        f"{best['items']} different ones with {best['raters']:.0f} answers each{cost}."
    )


def calibrate(design: Design, pilot: pd.DataFrame) -> Design:
    """Set the accuracies and standard deviations of a design from a pilot's responses.

    Args:
        design: its conditions that the pilot has take the pilot's (model-based) accuracies; chance,
            numbers of items and participants stay.
        pilot: participant, trial, condition, correct, and source where there is one.

    Raises:
        ValueError: the pilot has none of the conditions, or says nothing (all right or all wrong),
            or mixes sources.
    """
    if "source" in pilot and len(sources := sorted(set(pilot["source"]))) > 1:
        raise ValueError(f"the pilot mixes answers of {', '.join(sources)}; export one --source")
    known = pilot[pilot["condition"].isin(list(design.accuracy))]
    model = fit_conditions(known) if len(known) else None
    if model is None:
        raise ValueError(
            f"the pilot has no usable answers of the conditions {', '.join(design.accuracy)}"
        )
    shares = mixed_model.marginal(model.fit.beta, model.standard_deviation)
    accuracy = design.accuracy | dict(zip(model.names, map(float, shares), strict=True))
    people, within, items = map(float, model.fit.sd)
    return replace(
        design, accuracy=accuracy, sd_participant=people, sd_condition=within, sd_item=items
    )


def power_tables(
    table: pd.DataFrame, found: pd.DataFrame, wanted: float
) -> tuple[list[Table], Figure]:
    """Return the power curve and the smallest designs as tables, and the curve as a figure."""
    number = {"size": "{:+.3f}", "power": "{:.3f}", "low": "{:.3f}", "high": "{:.3f}",
              "raters": "{:.0f}", "cost": "{:.2f}"}  # fmt: skip
    meaning = (
        "Trials: a participant and condition. Items: different trials a condition. Raters: answers "
        "an item."
    )
    tables = [
        Table(
            "power",
            "Power by simulation",
            "Share of simulated studies in which the planned test (participants and items "
            "clustered, corrected by Holm) rejects, with Wilson's interval for the error of "
            f"simulation. {meaning} Size: true difference of shares.",
            table,
            number,
            hidden=("design", "studies"),
        ),
        Table(
            "power_smallest",
            f"Fewest participants for {100 * wanted:g} % power",
            f"{in_words(found, wanted)} {meaning} A dash: no number tried suffices; more different "
            "items may.",
            found,
            number,
            hidden=("design",),
        ),
    ]
    lines = table
    if len(table.groupby(["effect", "design"])) > len(COLOURS):  # too many to tell apart
        lines = table[table["effect"] == TOGETHER]
    curves = {", ".join(key): rows for key, rows in lines.groupby(["effect", "design"], sort=False)}
    with styled():
        canvas, _ = draw_curves(curves, wanted, "power")
    return tables, Figure("power", "Power by number of participants", tables[0].caption, canvas)


def draw_curves(
    curves: Mapping[str, pd.DataFrame], wanted: float, label: str, legend: str = ""
) -> tuple[Canvas, Axes]:
    """Draw power over participants, with the simulation error as a band.

    Args:
        curves: what the legend calls them -> participants, power, low, high.
        wanted: power at which a line is drawn. label: of the axis of power. legend: its title.
    """
    canvas, axis = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    for k, (name, rows) in enumerate(curves.items()):
        people, style = rows["participants"], look(k)
        axis.plot(people, rows["power"], label=name, **style)
        axis.fill_between(
            people, rows["low"], rows["high"], alpha=0.12, color=style["color"], linewidth=0
        )
    axis.axhline(wanted, color="#777777", linestyle="--", zorder=0)
    axis.set(xlabel="participants", ylabel=label, ylim=(0, 1.02))
    axis.locator_params(axis="x", integer=True)
    canvas.legend(title=legend, loc="outside right center")
    return canvas, axis
