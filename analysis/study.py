"""Everything that is computed of one study, once: tables, figures, report and pack read it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis import behaviour  # noqa: F401 - registers its statistics
from analysis.agreement import FleissKappa, KrippendorffAlpha, dawid_skene
from analysis.claims import judge
from analysis.labels import LabelAgreement
from analysis.meeting import Associations
from analysis.responses import Responses
from analysis.statistics import STATISTICS, Estimates, tabulate
from analysis.tables import Table
from tasks.settings import Analysis

#: How a task is called in tables, figures and sentences.
TASK_NAMES = {
    "odd_one_out": "odd one out",
    "before_or_after": "before or after",
    "evolution_labelling": "evolution labelling",
    "concept_agreement": "concept agreement",
}


def task_name(task: str) -> str:
    """A task as readers call it; a user's own under its own name."""
    return TASK_NAMES.get(task, task)


@dataclass(frozen=True)
class Settings:
    """Choices of the analysis, written into the release pack.

    Attributes:
        replicates: of every bootstrap. permutations: of every permutation test; p-values go down to
            1 / (permutations + 1) before they are corrected. seed: of all random numbers.
        level: of all intervals.
        similarity: of labels (`analysis.labels.SIMILARITIES`); as frozen by default.
        reference: condition that others of its task are compared with, "" for all pairs; as frozen
            by default.
    """

    replicates: int = 1999
    permutations: int = 9999
    seed: int = 0
    level: float = 0.95
    similarity: str | None = None
    reference: str | None = None


@dataclass(frozen=True)
class Results:
    """A study's answers and what follows from them. All parts are computed when first asked for.

    Attributes:
        responses: validated, exclusions applied. settings: of the analysis.
        meeting: the joined table of people and networks, None where no run was given.
        reload: answers again, under other exclusion rules (for the grid of thresholds).
        reversion: changes of accuracy by class and arm of a run, None where none was given.
        from_run: tables of that run which stand among the study's.
    """

    responses: Responses
    settings: Settings
    reload: Callable[[Mapping[str, Any]], Responses]
    meeting: pd.DataFrame | None = None
    reversion: pd.DataFrame | None = None
    from_run: Sequence[Table] = ()

    @property
    def plan(self) -> Analysis:
        """What was frozen; for a study older than plans, no main question and all defaults."""
        return self.responses.study.study.analysis or Analysis()

    @property
    def similarity(self) -> str:
        chosen = self.settings.similarity
        return self.plan.similarity if chosen is None else chosen

    @property
    def reference(self) -> str:
        """Raises ValueError where no task has the condition."""
        chosen = self.settings.reference
        reference = self.plan.reference if chosen is None else chosen
        trials = self.responses.study.trials
        known = sorted(set(trials.loc[trials["role"] == "trial", "condition"]))
        if reference and reference not in known:
            raise ValueError(
                f"reference condition {reference!r} is none of {', '.join(known)}; "
                f"give one of these, or '' for all pairs"
            )
        return reference

    @property
    def departures(self) -> list[str]:
        """Choices that differ from the frozen plan, as "what: chosen instead of frozen"."""
        if self.responses.study.study.analysis is None:
            return []
        choices = [
            ("similarity of labels", self.similarity, self.plan.similarity),
            ("reference condition", self.reference or "none", self.plan.reference or "none"),
        ]
        return [
            f"{what}: {chosen} instead of {frozen}"
            for what, chosen, frozen in choices
            if chosen != frozen
        ]

    @property
    def tasks(self) -> list[str]:
        """Tasks with analysed answers, in the order of TASK_NAMES, users' own after them."""
        have = set(self.responses.answers["task"])
        known = [task for task in TASK_NAMES if task in have]
        return known + sorted(have - set(known))

    def of(self, task: str) -> pd.DataFrame:
        """The analysed answers of a task, with columns `changed`, `clarity` and `rating`."""
        answers = self.responses.answers
        answers = answers[answers["task"] == task].reset_index(drop=True)
        parts = {
            name: [v.get(name) if isinstance(v, dict) else None for v in answers["value"]]
            for name in ("changed", "clarity", "rating")
        }
        return answers.assign(**{k: pd.to_numeric(pd.Series(v)) for k, v in parts.items()})

    @property
    def choice_tasks(self) -> list[str]:
        return [task for task in self.tasks if task in self.responses.study.choice_tasks]

    def _by_task(
        self, tasks: list[str], statistic: str, names: list[str], kind: str = "", **parameters: Any
    ) -> pd.DataFrame:
        """A statistic over each task's answers, as one table: question, task, names, estimate.

        Args:
            kind: of the question that the statistic's tests ask.
        """
        frames = []
        for task in tasks:
            made = STATISTICS.get(statistic)(level=self.settings.level, **parameters)
            if found := made(self.of(task)):
                table = tabulate(found, names)
                table.insert(0, "task", task_name(task))
                table.insert(0, "question", f"{task}.{kind}")
                frames.append(table)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    @property
    def _sampled(self) -> dict[str, Any]:
        return {"replicates": self.settings.replicates, "seed": self.settings.seed}

    @cached_property
    def _tests(self) -> dict[str, pd.DataFrame]:
        """The tables whose rows are tests (or nothing with p undefined), each test for itself.

        All have question, task, what, value, low, high, null (the tested value) and p.
        """
        tables = {
            "accuracy": self._shares(),
            "contrasts": self._differences("cluster_contrasts", **self._sampled),
            "changed": self._changed(),
            "ratings": self._ratings(),
            "labels": self._labels(),
            "behaviour": self._behaviour(),
            "associations": self._associations(),
        }
        return {name: table for name, table in tables.items() if len(table)}

    @cached_property
    def claims(self) -> pd.DataFrame:
        """Every test of the study, corrected together: `analysis.claims.judge` of `_tests`."""
        if not self._tests:
            return pd.DataFrame()
        tests = pd.concat(self._tests)
        return judge(tests, self.plan.primary, self.plan.primary_share)

    def _corrected(self, name: str) -> pd.DataFrame:
        """A table of `_tests` with p as corrected over the study, p_alone and claimed."""
        if name not in self._tests:
            return pd.DataFrame()
        judged = self.claims.loc[name, ["p", "p_alone", "claimed"]]
        return self._tests[name].drop(columns="p").join(judged)

    @cached_property
    def accuracy(self) -> pd.DataFrame:
        """Share of right answers by condition against chance: the claim."""
        return self._corrected("accuracy")

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """Differences between conditions within each task: the claim."""
        return self._corrected("contrasts")

    @cached_property
    def changed(self) -> pd.DataFrame:
        """Share judged changed per condition; then for each kind of change, against unchanged
        stages, hit and false-alarm rate, d′ and criterion, under `measure` and `signal`."""
        return self._corrected("changed")

    @cached_property
    def ratings(self) -> pd.DataFrame:
        """Mean ratings on scales by condition, and their differences."""
        return self._corrected("ratings")

    @cached_property
    def labels(self) -> pd.DataFrame:
        """Agreement of labels within groups against shuffled ones, by task and condition."""
        return self._corrected("labels")

    @cached_property
    def behaviour(self) -> pd.DataFrame:
        """Learning, insight of confidence, and times: task, measure, condition, estimate."""
        return self._corrected("behaviour")

    @cached_property
    def associations(self) -> pd.DataFrame:
        """People against each piece of network evidence, over trials."""
        return self._corrected("associations")

    @cached_property
    def beside(self) -> dict[str, pd.DataFrame]:
        """What stands beside the claims, by method: shares (crossed, binomial), odds (crossed)."""
        chance = self.responses.study.chance()
        shares = {"crossed": "crossed_effects", "binomial": "exact_binomial"}
        found = {
            name: self._by_task(self.choice_tasks, statistic, ["condition"], chance=chance)
            for name, statistic in shares.items()
        }
        return found | {"odds": self._differences("crossed_contrasts")}

    def _shares(self) -> pd.DataFrame:
        chance = self.responses.study.chance()
        table = self._by_task(
            self.choice_tasks, "cluster_bootstrap", ["condition"], "chance", chance=chance,
            **self._sampled,
        )  # fmt: skip
        if table.empty:
            return table
        return table.assign(what=table["condition"], null=table["condition"].map(chance))

    def _differences(self, statistic: str, **parameters: Any) -> pd.DataFrame:
        """Contrasts of conditions within each task, with the reference where the task has it."""
        frames = []
        for task in self.choice_tasks:
            known = self.reference in set(self.of(task)["condition"])
            table = self._by_task(
                [task], statistic, ["first", "second", "measure"], "contrasts",
                reference=self.reference if known else None, **parameters,
            )  # fmt: skip
            if len(table):
                frames.append(table)
        if not frames:
            return pd.DataFrame()
        table = pd.concat(frames, ignore_index=True)
        return table.assign(what=table["first"] + " − " + table["second"], null=0.0)

    def _behaviour(self) -> pd.DataFrame:
        asked = [task for task in self.choice_tasks if self.of(task)["confidence"].notna().any()]
        parts = [
            ("learning", "learning", "change of accuracy per 10 trials", self.choice_tasks, 0.0),
            ("type_two", "confidence", "confidence, type-2 area", asked, 0.5),
            ("time", "time", "seconds per answer", self.tasks, np.nan),
        ]
        frames = []
        for statistic, kind, measure, tasks, null in parts:
            table = self._by_task(tasks, statistic, ["condition"], kind)
            if len(table):
                table.insert(2, "measure", measure)
                frames.append(table.assign(null=null))
        table = pd.concat(frames, ignore_index=True)
        return table.assign(what=table["condition"])

    @cached_property
    def calibration(self) -> pd.DataFrame:
        return self._by_task(self.choice_tasks, "calibration", ["confidence"])

    def _changed(self) -> pd.DataFrame:
        if "evolution_labelling" not in self.tasks:
            return pd.DataFrame()
        shares = self._by_task(["evolution_labelling"], "changed", ["what"])
        tables = [shares.assign(measure="judged changed", signal="")]
        for signal in ("evolution", "false_evolution"):
            if {signal, "same_stage"} <= set(shares["what"]):
                table = self._by_task(
                    ["evolution_labelling"], "detection", ["measure"], "detection",
                    signal=signal, noise="same_stage",
                )  # fmt: skip
                what = table["measure"] + ", " + signal
                tables.append(table.assign(what=what, signal=signal))
        return pd.concat(tables, ignore_index=True).assign(null=0.0)

    def _ratings(self) -> pd.DataFrame:
        frames = []
        for task in self.tasks:
            answers = self.of(task)
            known = self.reference in set(answers["condition"])
            for asked in ("rating", "clarity"):
                table = self._by_task(
                    [task] if answers[asked].notna().any() else [], "ratings",
                    ["first", "second"], "ratings", value=asked,
                    reference=self.reference if known else None,
                )  # fmt: skip
                if len(table):
                    frames.append(table.assign(asked=asked, null=0.0))
        if not frames:
            return pd.DataFrame()
        table = pd.concat(frames, ignore_index=True)
        pair = table["first"] + " − " + table["second"]
        return table.assign(what=pair.where(table["second"] != "", table["first"]))

    @cached_property
    def by_displacement(self) -> pd.DataFrame:
        """Share judged changed of real evolutions, by third of true displacement in the space."""
        if self.meeting is None or "evolution_labelling" not in self.tasks:
            return pd.DataFrame()
        moved = self.meeting.groupby("trial")["displacement"].max().dropna()
        answers = self.of("evolution_labelling")
        answers = answers[answers["condition"] == "evolution"]
        answers = answers.assign(moved=answers["trial"].map(moved)).dropna(subset=["moved"])
        trials = answers.drop_duplicates("trial").set_index("trial")["moved"]
        if len(trials) < 6:
            return pd.DataFrame()
        thirds = pd.qcut(trials.rank(method="first"), 3, labels=["least", "middle", "most"])
        answers = answers.assign(condition=answers["trial"].map(thirds).astype(str))
        table = tabulate(STATISTICS.get("changed")()(answers), ["moved"])
        mean = trials.groupby(thirds, observed=True).mean()
        return table.assign(displacement=table["moved"].map(mean).astype(float))

    def labels_of(self, task: str) -> pd.DataFrame:
        """Free-text labels: trial, stage, participant, condition, label."""
        rows: list[tuple[str, int, str, str, str | None]] = []
        for row in self.of(task).itertuples(index=False):
            value = row.value
            if not isinstance(value, dict):
                continue
            for stage, label in enumerate(value.get("labels") or [value.get("label")]):
                rows.append((row.trial, stage, row.participant, row.condition, label))
        return pd.DataFrame(rows, columns=["trial", "stage", "participant", "condition", "label"])

    def _labels(self) -> pd.DataFrame:
        statistic = LabelAgreement(
            self.similarity, self.settings.permutations, self.settings.replicates,
            self.settings.seed, self.settings.level,
        )  # fmt: skip
        found: Estimates = {}
        for task in self.tasks:
            table = self.labels_of(task)
            if len(table):
                for condition, estimate in statistic.by_condition(table).items():
                    found[(f"{task}.labels", task_name(task), condition)] = estimate
        if not found:
            return pd.DataFrame()
        table = tabulate(found, ["question", "task", "condition"])
        return table.assign(what=table["condition"], null=table["value"] - table["effect"])

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """Krippendorff's α, and Fleiss' κ where complete, by task, question and condition."""
        rows: Estimates = {}
        for task in self.tasks:
            answers = self.of(task)
            for question, metric in (
                ("choice", "nominal"), ("changed", "nominal"),
                ("clarity", "ordinal"), ("rating", "ordinal"),
            ):  # fmt: skip
                column = "answer" if question == "choice" else question
                choice = task in self.choice_tasks
                if (question == "choice") != choice or answers[column].isna().all():
                    continue
                for condition, group in answers.groupby("condition"):
                    key = (task_name(task), question, str(condition))
                    alpha = KrippendorffAlpha(
                        metric, self.settings.replicates, self.settings.seed, self.settings.level
                    )
                    rows[(*key, f"Krippendorff's α, {metric}")] = alpha(group, value=column)
                    ratings = group.dropna(subset=[column]).groupby("trial").size()
                    if metric == "nominal" and ratings.nunique() == 1 and ratings.iloc[0] > 1:
                        kappa = FleissKappa(
                            self.settings.replicates, self.settings.seed, self.settings.level
                        )
                        rows[(*key, "Fleiss' κ")] = kappa(group, value=column)
        names = ["task", "question", "condition", "measure"]
        return tabulate(rows, names) if rows else pd.DataFrame()

    @cached_property
    def annotators(self) -> pd.DataFrame:
        """Dawid and Skene beside the raw majority, where categories are shared by trials.

        Returns:
            task, question, participants, trials, accuracy of participants as estimated (mean,
            lowest), share of trials whose likeliest class is not the raw majority's, ties of the
            majority.
        """
        rows = []
        for task in self.tasks:
            answers = self.of(task)
            for question in ("changed", "rating"):
                if answers[question].isna().all():
                    continue
                fit = dawid_skene(answers, value=question)
                table, quality = fit.answers(), fit.quality()["accuracy"]
                decided = table["majority"].astype(str) != ""
                differ = table["label"].astype(str) != table["majority"].astype(str)
                rows.append(
                    {
                        "task": task_name(task), "question": question,
                        "participants": len(quality), "trials": len(table),
                        "mean accuracy": quality.mean(), "lowest": quality.min(),
                        "differs from majority": (differ & decided).sum() / max(decided.sum(), 1),
                        "ties": int((~decided).sum()), "converged": fit.converged,
                    }
                )  # fmt: skip
        return pd.DataFrame(rows)

    def _associations(self) -> pd.DataFrame:
        if self.meeting is None:
            return pd.DataFrame()
        statistic = Associations(
            self.settings.permutations, self.settings.replicates, self.settings.seed,
            self.settings.level,
        )  # fmt: skip
        table = tabulate(statistic(self.meeting), ["task", "evidence"])
        return table.assign(
            question=table["task"] + ".associations", task=table["task"].map(task_name),
            what=table["evidence"], null=0.0,
        )  # fmt: skip

    @cached_property
    def thresholds(self) -> pd.DataFrame:
        """The main result over a grid of exclusion thresholds, one rule at a time.

        Returns:
            rule, threshold ("frozen" rules are marked), participants, and one column a condition
            of the choice tasks: the share of right answers.
        """
        frozen = dict(self.responses.study.exclusions)
        rows = []
        for rule, setting, rules in _grid(frozen):
            responses = self.reload(rules)
            answers = responses.answers
            keyed = answers[answers["task"].isin(self.choice_tasks)]
            shares = keyed.groupby("condition")["correct"].mean()
            rows.append(
                {"rule": rule, "threshold": setting}
                | {"participants": int((responses.everyone["excluded"] == "").sum())}
                | {str(k): float(v) for k, v in shares.items()}
            )
        return pd.DataFrame(rows)


def held_out(results: Results) -> pd.DataFrame | None:
    """The run's changes of accuracy on images that importance has not seen, where it has any."""
    if results.reversion is None:
        return None
    table = results.reversion[results.reversion["split"] == "heldout"]
    return None if table.empty else table


def _grid(frozen: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Rules to try: as frozen, none, and each rule looser, stricter and off."""
    grid: list[tuple[str, str, dict[str, Any]]] = [
        ("all rules", "as frozen", frozen),
        ("no rule", "none", {}),
    ]
    tried: dict[str, list[Any]] = {
        "attention_below": [0.5, 0.67, 0.8, 1.0],
        "total_seconds_outside": [(60, 10_800), (135, 7200), (135, 2500), (300, 2500)],
        "instruction_seconds_below": [5, 15, 30],
        "practice_attempts_above": [1, 2, 3],
        "one_sided_above": [0.5, 0.8, 0.95],
    }
    for rule, thresholds in tried.items():
        if rule not in frozen:
            continue
        without = {k: v for k, v in frozen.items() if k != rule}
        grid.append((rule.replace("_", " "), "off", without))
        for value in thresholds:
            shown = " to ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
            same = np.array_equal(np.asarray(value, float), np.asarray(frozen[rule], float))
            label = f"{shown} (frozen)" if same else shown
            grid.append((rule.replace("_", " "), label, {**frozen, rule: value}))
    return grid
