"""Properties of a study before data collection: its planned tests, and their power.

The family of tests and their weights are computed by the code of the analysis, applied to a study
without responses, so that the preregistered tests are those of the analysis.
"""

from dataclasses import dataclass

import pandas as pd

from analysis.exhibits.figures import Figure, styled
from analysis.planning.designs import Design
from analysis.planning.power import Plan, Sizes, draw_curves, power_curve
from analysis.statistics.claims import ALPHA
from analysis.study.family import RULED_OUT, is_ruled_out
from analysis.study.frozen_study import FrozenStudy
from analysis.study.responses import select
from analysis.study.results import Results, Settings
from analysis.study.sentences import list_tests
from harness.text import pluralise
from tasks.responses import PARTICIPANTS, RESPONSES, as_table

#: Differences of shares whose power is shown, besides a frozen smallest effect.
EFFECTS = (0.05, 0.1, 0.15, 0.2)
WANTED_POWER = 0.8


def results_without_responses(study: FrozenStudy) -> Results:
    """Return the results of a study without responses: every planned test, none computed."""
    nobody = as_table([], RESPONSES), as_table([], PARTICIPANTS)
    return Results(select(study, *nobody, "human", {}), Settings())


def describe_ruled_out(results: Results) -> str:
    """Name planned tests for which the frozen design is too small, and their share of α."""
    if (impossible := results.tests[is_ruled_out(results.tests)]).empty:
        return ""
    return (
        f"The design rules out {pluralise(len(impossible), 'planned test')}, and their share of α "
        f"({100 * impossible['weight'].sum():.1f} % of {ALPHA:g}) is lost, because it is not given "
        f"to other tests: {list_tests(impossible).replace(RULED_OUT, '')}."
    )


def planned_claims(results: Results) -> pd.DataFrame:
    """Return one row per planned test, those of the primary hypothesis first: kind, question,
    task, what, asked, margin, weight (sums to 1)."""
    table = results.tests.assign(kind=results.tests.index.get_level_values(0))
    table = table.reset_index(drop=True)
    is_other = (table["question"] != results.plan.primary).astype(int)
    table = table.reindex(columns=["kind", "question", "task", "what", "asked", "margin", "weight"])
    return table.fillna({"asked": ""}).iloc[is_other.argsort(kind="stable")].reset_index(drop=True)


@dataclass(frozen=True)
class Power:
    """Power of one test of the primary hypothesis, at its own share of α.

    Attributes:
        table: size (true difference of shares), participants, power, low, high (Wilson's interval
            of the simulation). text: what was assumed.
    """

    table: pd.DataFrame
    text: str

    @property
    def participants(self) -> int:
        """The largest number of participants of the curve."""
        return int(self.table["participants"].max())

    @property
    def detectable(self) -> float | None:
        """The smallest size with WANTED_POWER for the largest number of participants."""
        enough = self.table["power"] >= WANTED_POWER
        sizes = self.table.loc[enough & (self.table["participants"] == self.participants), "size"]
        return sizes.min() if len(sizes) else None

    @property
    def by_size(self) -> pd.DataFrame:
        """Power by participants (rows) and size (columns)."""
        wide = self.table.pivot(index="participants", columns="size", values="power")
        wide.columns = [f"difference {size:g}" for size in wide.columns]
        return wide.reset_index().astype({"participants": str})


def simulate_power(results: Results, studies: int = 200) -> Power | None:
    """Simulate the frozen design; None if the primary hypothesis is not about shares of correct
    responses against chance or between conditions."""
    study, plan = results.responses.study, results.plan
    task, _, kind = plan.primary.rpartition(".")
    tests = planned_claims(results)
    tests = tests[tests["question"] == plan.primary]
    if kind not in ("chance", "contrasts") or task not in study.choice_tasks or tests.empty:
        return None
    trials = study.trials_of(task)
    trials = trials[~trials["condition"].isin(study.controls(task))]
    items = int(trials["condition"].value_counts().min())
    answered = max(1, items // len(study.study.forms))
    chance = min(study.chance(task).values())
    baseline = chance if kind == "chance" else 0.5
    people = sorted({max(4, round(study.recruitment.places * k / 4)) for k in (1, 2, 3, 4)})
    frames = []
    for effect in sorted({*EFFECTS, plan.smallest_effect} - {0.0}):
        accuracy = {"condition": baseline + effect}
        if kind == "contrasts":
            accuracy = {"first": baseline + effect / 2, "second": baseline - effect / 2}
        if items < 2 or max(accuracy.values()) >= 1:
            continue
        design = Design(accuracy, chance=chance)
        test_plan = Plan(design, kind == "chance", share=float(tests["weight"].iloc[0]))
        simulated = power_curve(test_plan, Sizes(people, [answered], [items]), studies)
        frames.append(simulated[["participants", "power", "low", "high"]].assign(size=effect))
    if not frames:
        return None
    text = (
        f"For each point, {studies} studies were simulated, in which a participant answers "
        f"{answered} of the {items} trials of a condition. The standard error of the power is at "
        f"most {0.5 / studies**0.5:.2f}. The planned test was made at its initial share of α "
        f"({100 * ALPHA * tests['weight'].iloc[0]:.2f} %). Accuracy "
        f"{baseline:.3g} {'plus' if kind == 'chance' else 'plus and minus half of'} the "
        "difference; standard deviations of ability .5 and of difficulty .7 on the logit scale."
    )
    return Power(pd.concat(frames, ignore_index=True), text)


def power_figure(power: Power, participants: int) -> Figure:
    curves = {f"{size:g}": rows for size, rows in power.table.groupby("size")}
    with styled():
        canvas, axis = draw_curves(
            curves, WANTED_POWER, "power of one test", "true difference\nof shares"
        )
        axis.axvline(participants, color="#777777", linestyle=":", zorder=0)
    caption = (
        f"Dashed: {100 * WANTED_POWER:g} % power; dotted: the planned number of participants; "
        "bands: 95 % interval of the simulation."
    )
    return Figure("preregistration-power", "Power by number of participants", caption, canvas)
