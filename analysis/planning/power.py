"""The power of a study, estimated by simulating and analysing it as planned.

Power is the share of simulated studies in which the planned test rejects. The simulation has
participants of different ability, items of different difficulty, and guessing (`designs.py`). The
tests are the clustered ones of the analysis (`analysis.statistics.shares` and `contrasts`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from statsmodels.stats.proportion import proportion_confint

from analysis.exhibits.figures import COLOURS, Figure, draw_legend, style_of, styled, subplots
from analysis.exhibits.tables import Table
from analysis.planning.designs import Design, simulate
from analysis.statistics import mixed_model
from analysis.statistics.claims import ALPHA
from analysis.statistics.clusters import CrossedData, holm
from analysis.statistics.contrasts import condition_pairs, differences
from analysis.statistics.crossed_effects import fit_conditions
from analysis.statistics.shares import clustered_shares

#: Name of the event that all of several effects are significant in one study.
TOGETHER = "all together"
#: Differences below this count as 0, because shares are given with few digits (1/6 as .1667).
NOTHING = 0.0005


@dataclass(frozen=True)
class Plan:
    """The design, whose size `power_curve` varies, and the tests whose power is estimated.

    Attributes:
        against_chance: test conditions against chance and report those that differ from it;
            otherwise test contrasts of conditions.
        reference: the condition with which all others are compared; by default all pairs.
        share: the part of α that these tests receive (`claims.py`). The rest would be redistributed
            to them if the other tests were rejected, which is not assumed here.
    """

    design: Design
    against_chance: bool = False
    reference: str | None = None
    share: float = 1.0


def rejections(plan: Plan, studies: int, seed: int = 0) -> pd.DataFrame:
    """Estimate the share of simulated studies in which each test rejects.

    Returns:
        effect (a condition, or "a − b"; TOGETHER for all effects in one study if there are
        several), size (true difference), power, low, high (Wilson's 95 % interval, which shows the
        error of simulation), studies.

    Raises:
        ValueError: the conditions do not differ from chance, so that there is no effect.
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
    # Tests of a true null hypothesis enter Holm's procedure, but their power is not reported.
    sought = np.abs(sizes) >= NOTHING
    if not sought.any():
        sought[:] = not plan.against_chance  # for equal conditions, the rate of false positives
    if not sought.any():
        raise ValueError(
            "there is no effect to find: give conditions that differ from each other or, to test "
            "them against chance (--against-chance), from chance"
        )
    kept = len(effects) * (1 / plan.share - 1)  # weight of the other tests; each test here has 1

    def p_values_of(data: CrossedData) -> list[float]:
        if plan.against_chance:
            chances = np.full(len(names), design.chance)
            return [e.p for e in clustered_shares(data, chances, 1 - ALPHA)]
        return [d.interval(1 - ALPHA, 0.0)[2] for d in differences(data, pairs)]

    rejected = np.zeros((studies, int(sought.sum())), dtype=bool)
    for study, child in enumerate(np.random.SeedSequence(seed).spawn(studies)):
        data = simulate(design, np.random.default_rng(child))
        p = np.array(p_values_of(data))
        # An undefined p does not reject.
        rejected[study] = (holm(p, reserved=kept) < ALPHA)[sought]
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
    """The sizes of a study for which power is estimated, in all combinations.

    The number of responses per condition is participants × trials = items × raters, so that three
    of the four numbers determine the fourth. If items differ, more participants alone do not
    suffice: the variance between items is divided by the number of different items only.

    Attributes:
        participants: numbers of participants.
        trials: numbers of trials per participant and condition.
        items: numbers of different trials per condition; by default the number of `trials`.
        raters: smallest numbers of responses per trial, which determine the number of items
            instead. Sizes with fewer participants than raters are left out.

    Raises:
        ValueError: both items and raters are given, there are fewer items than trials, or more
            raters than participants.
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

    def count_left_out(self) -> int:
        """Return the number of sizes that have fewer participants than raters."""
        pairs = product(self.raters, self.participants)
        return len(self.trials) * sum(people < number for number, people in pairs)

    def __iter__(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield the name of the design without its number of participants, and the numbers of
        participants, items and trials, for each size."""
        fixed = self.raters or self.items or [0]
        for trials, number, people in product(self.trials, fixed, self.participants):
            if self.raters and people < number:
                continue
            items = people * trials // number if self.raters else number or trials
            name = f"{trials} trials" + (f", {number} raters" if self.raters else f" of {items}")
            yield name, people, items, trials


def power_curve(
    plan: Plan, sizes: Sizes, studies: int = 400, cost: float = np.nan, seed: int = 0
) -> pd.DataFrame:
    """Estimate power for several sizes of the study.

    Args:
        studies: number of simulated studies per size. cost: cost of one participant, any currency.

    Returns:
        design (its name without the number of participants), participants, trials, items, raters,
        cost, and the columns of `rejections`.
    """
    frames = []
    for name, participants, items, trials in sizes:
        design = replace(plan.design, participants=participants, items=items, answered=trials)
        power = rejections(replace(plan, design=design), studies, seed)
        sizes_row = {"design": name, "participants": participants, "trials": trials, "items": items,
                 "raters": participants * trials / items, "cost": participants * cost}  # fmt: skip
        frames.append(power.assign(**sizes_row)[[*sizes_row, *power]])
    return pd.concat(frames, ignore_index=True)


def smallest_designs(table: pd.DataFrame, target: float = 0.8) -> pd.DataFrame:
    """Return the fewest participants with the wanted power, for each effect and for all together.

    Returns:
        effect, design, participants, trials, items, raters, power, cost; missing if no number of
        participants suffices. All larger numbers must also have the wanted power, so that one
        favourable simulation does not decide. The last effect is TOGETHER, or the only one.
    """
    rows = []
    for (effect, design), group in table.groupby(["effect", "design"], sort=False):
        group = group.sort_values("participants")
        suffices = group["power"].to_numpy()[::-1] >= target
        sufficient = len(suffices) if suffices.all() else int(np.argmin(suffices))
        best = group.iloc[len(group) - sufficient] if sufficient else pd.Series(dtype=float)
        columns = ["participants", "trials", "items", "raters", "power", "cost"]
        rows.append({"effect": effect, "design": design} | best.reindex(columns).to_dict())
    integer_columns = dict.fromkeys(["participants", "trials", "items"], "Int64")
    return pd.DataFrame(rows).astype(integer_columns)


def describe_smallest(designs: pd.DataFrame, target: float, table: pd.DataFrame) -> str:
    """Describe the smallest design with the wanted power for all effects: that with the fewest
    participants, then trials, then items; or say that all effects in `table` are 0."""
    if not (table["size"].abs() >= NOTHING).any():
        return "The conditions are expected to be equal: power is the rate of false positives."
    rows = designs[designs["effect"] == designs["effect"].iloc[-1]].dropna(subset="participants")
    if rows.empty:
        return f"No design tried finds every effect with {100 * target:g} % power."
    best = rows.sort_values(["participants", "trials", "items"], kind="stable").iloc[0]
    cost = "" if np.isnan(best["cost"]) else f", at a cost of {best['cost']:.2f}"
    return (
        f"Smallest design tried that finds every effect with {100 * target:g} % power: "
        f"{best['participants']} participants, {best['trials']} trials per participant and "
        f"condition, {best['items']} items per condition, {best['raters']:.0f} responses per item"
        f"{cost}."
    )


def calibrate(design: Design, pilot: pd.DataFrame) -> Design:
    """Set the accuracies and standard deviations of a design from a pilot's responses.

    Args:
        design: conditions that are in the pilot receive its model-based accuracies; chance and the
            numbers of items and participants do not change.
        pilot: participant, trial, condition, correct, and optionally source.

    Raises:
        ValueError: the pilot has none of the conditions, or no condition with both correct and
            incorrect responses, or it mixes sources, or tasks that share the name of a condition.
    """
    if "source" in pilot and len(sources := sorted(set(pilot["source"]))) > 1:
        raise ValueError(f"the pilot mixes responses of {', '.join(sources)}; export one --source")
    usable = pilot[pilot["condition"].isin(list(design.accuracy)) & pilot["correct"].notna()]
    if "task" in usable and (usable.groupby("condition")["task"].nunique() > 1).any():
        tasks = ", ".join(sorted(set(usable["task"])))
        raise ValueError(f"the pilot has a condition in several tasks ({tasks}): keep one task")
    model = fit_conditions(usable) if len(usable) else None
    if model is None:
        raise ValueError(
            f"the pilot has no usable responses in the conditions {', '.join(design.accuracy)}"
        )
    shares = mixed_model.marginal_share(model.fit.beta, model.standard_deviation)
    accuracy = design.accuracy | dict(zip(model.names, map(float, shares), strict=True))
    person, condition, item = map(float, model.fit.sd)
    return replace(
        design, accuracy=accuracy, sd_participant=person, sd_condition=condition, sd_item=item
    )


def power_tables(
    table: pd.DataFrame, designs: pd.DataFrame, target: float, share: float = 1.0
) -> tuple[list[Table], Figure]:
    """Return the power curve (`table`) and the smallest designs as tables, and the curve as a
    figure; `share` is that of `Plan`."""
    formats = dict.fromkeys(["power", "low", "high"], "{:.3f}")
    formats |= {"size": "{:+.3f}", "raters": "{:.0f}", "cost": "{:.2f}"}
    definitions = (
        "Trials: per participant and condition. Items: different trials per condition. Raters: "
        "responses per item."
    )
    tables = [
        Table(
            "power",
            "Power by simulation",
            "Share of simulated studies in which the planned test (participants and items "
            "clustered, corrected by Holm) rejects, with Wilson's interval for the error of "
            f"simulation. These tests receive {100 * share:g} % of α = {ALPHA:g}. {definitions} "
            "Size: true difference of shares.",
            table,
            formats,
            hidden=("design", "studies"),
        ),
        Table(
            "power_smallest",
            f"Fewest participants for {100 * target:g} % power",
            f"{describe_smallest(designs, target, table)} {definitions} A dash: no number of "
            "participants tried suffices; with more different items, one may.",
            designs,
            formats,
            hidden=("design",),
        ),
    ]
    lines = table
    if len(table.groupby(["effect", "design"])) > len(COLOURS):  # too many lines to distinguish
        lines = table[table["effect"] == TOGETHER]
    curves = {", ".join(key): rows for key, rows in lines.groupby(["effect", "design"], sort=False)}
    with styled():
        canvas, _ = draw_curves(curves, target, "power")
    return tables, Figure("power", "Power by number of participants", tables[0].caption, canvas)


def draw_curves(
    curves: Mapping[str, pd.DataFrame], target: float, label: str, legend: str = ""
) -> tuple[Canvas, Axes]:
    """Draw power over participants, with the simulation error as a band, and a line at `target`.

    Args:
        curves: name in the legend -> participants, power, low, high.
        label: of the axis of power. legend: its title.
    """
    canvas, axis = subplots(figsize=(7.2, 3.2), layout="constrained")
    for k, (name, rows) in enumerate(curves.items()):
        people, style = rows["participants"], style_of(k)
        axis.plot(people, rows["power"], label=name, **style)
        axis.fill_between(
            people, rows["low"], rows["high"], alpha=0.12, color=style["color"], linewidth=0
        )
    axis.axhline(target, color="#777777", linestyle="--", zorder=0)
    axis.set(xlabel="participants", ylabel=label, ylim=(0, 1.02))
    axis.locator_params(axis="x", integer=True)
    draw_legend(canvas, axis, legend)
    return canvas, axis
