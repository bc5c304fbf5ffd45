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
from analysis.labels import LabelAgreement
from analysis.meeting import Associations
from analysis.responses import CHOICES, Responses
from analysis.statistics import STATISTICS, Estimates, corrected, tabulate
from analysis.tables import Table

#: How a task is called in tables, figures and sentences.
TASK_NAMES = {
    "odd_one_out": "odd one out",
    "before_or_after": "before or after",
    "evolution_labelling": "evolution labelling",
    "concept_agreement": "concept agreement",
}


@dataclass(frozen=True)
class Settings:
    """Choices of the analysis, written into the release pack.

    Attributes:
        replicates: of every bootstrap. seed: of all random numbers. level: of all intervals.
        similarity: of labels (`analysis.labels.SIMILARITIES`).
        reference: odd-one-out condition that others are compared with; all pairs by default.
    """

    replicates: int = 1999
    seed: int = 0
    level: float = 0.95
    similarity: str = "words"
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
        return [task for task in self.tasks if task in CHOICES]

    def _by_task(
        self,
        tasks: list[str],
        statistic: str,
        names: list[str],
        holm: bool = False,
        **parameters: Any,
    ) -> pd.DataFrame:
        """A statistic over each task's answers, as one table; p-values corrected within a task."""
        frames = []
        for task in tasks:
            found = STATISTICS.get(statistic)(level=self.settings.level, **parameters)(
                self.of(task)
            )
            if found:
                table = tabulate(corrected(found) if holm else found, names)
                table.insert(0, "task", TASK_NAMES.get(task, task))
                frames.append(table)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    @cached_property
    def accuracy(self) -> dict[str, pd.DataFrame]:
        """Shares of right answers by method: clustered (the claim), crossed, binomial.

        The claim's tests of chance are corrected by Holm over the conditions of a task, so that a
        study in which all are guessing claims something of a task in one of twenty cases.
        """
        chance = self.responses.study.chance()
        sampled = {"replicates": self.settings.replicates, "seed": self.settings.seed}
        return {
            "clustered": self._by_task(
                self.choice_tasks,
                "cluster_bootstrap",
                ["condition"],
                holm=True,
                chance=chance,
                **sampled,
            ),
            "crossed": self._by_task(
                self.choice_tasks, "crossed_effects", ["condition"], chance=chance
            ),
            "binomial": self._by_task(
                self.choice_tasks, "exact_binomial", ["condition"], chance=chance
            ),
        }

    @cached_property
    def contrasts(self) -> dict[str, pd.DataFrame]:
        """Contrasts of conditions within each task: clustered (the claim) and crossed."""
        names = ["first", "second", "measure"]
        found: dict[str, list[pd.DataFrame]] = {"clustered": [], "crossed": []}
        for task in self.choice_tasks:
            reference = self.settings.reference
            if reference is not None and reference not in set(self.of(task)["condition"]):
                reference = None
            sampled: dict[str, Any] = {
                "replicates": self.settings.replicates,
                "seed": self.settings.seed,
            }
            for method, statistic, parameters in (
                ("clustered", "cluster_contrasts", sampled),
                ("crossed", "crossed_contrasts", {}),
            ):
                table = self._by_task([task], statistic, names, reference=reference, **parameters)
                if len(table):
                    found[method].append(table)
        return {
            method: pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
            for method, frames in found.items()
        }

    @cached_property
    def behaviour(self) -> pd.DataFrame:
        """Learning, insight of confidence, and times: task, measure, condition, estimate."""
        parts = [
            ("learning", "change of accuracy per 10 trials", self.choice_tasks),
            ("type_two", "confidence, type-2 area", self.choice_tasks),
            ("time", "seconds per answer", self.tasks),
        ]
        frames = []
        for statistic, measure, tasks in parts:
            if statistic == "type_two":  # undefined only where somebody was asked
                tasks = [task for task in tasks if self.of(task)["confidence"].notna().any()]
            table = self._by_task(tasks, statistic, ["condition"])
            if len(table):
                table.insert(1, "measure", measure)
                frames.append(table)
        return pd.concat(frames, ignore_index=True)

    @cached_property
    def calibration(self) -> pd.DataFrame:
        return self._by_task(self.choice_tasks, "calibration", ["confidence"])

    @cached_property
    def changed(self) -> pd.DataFrame:
        """Share judged changed per condition, then hit and false-alarm rate, d′ and criterion."""
        if "evolution_labelling" not in self.tasks:
            return pd.DataFrame()
        tables = [self._by_task(["evolution_labelling"], "changed", ["what"])]
        if {"false_evolution", "same_stage"} <= set(self.of("evolution_labelling")["condition"]):
            tables.append(
                self._by_task(
                    ["evolution_labelling"], "detection", ["what"],
                    signal="false_evolution", noise="same_stage",
                )
            )  # fmt: skip
        return pd.concat(tables, ignore_index=True)

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
        """Free-text labels: group (trial and stage), participant, condition, label."""
        rows: list[tuple[str, str, str, str | None]] = []
        for row in self.of(task).itertuples(index=False):
            value = row.value
            if not isinstance(value, dict):
                continue
            for stage, label in enumerate(value.get("labels") or [value.get("label")]):
                rows.append((f"{row.trial}/{stage}", row.participant, row.condition, label))
        return pd.DataFrame(rows, columns=["group", "participant", "condition", "label"])

    @cached_property
    def labels(self) -> pd.DataFrame:
        """Agreement of labels within groups against shuffled ones, by task and condition."""
        statistic = LabelAgreement(
            self.settings.similarity, seed=self.settings.seed, level=self.settings.level
        )
        found: Estimates = {}
        for task in self.tasks:
            table = self.labels_of(task)
            for condition in sorted(set(table["condition"])):
                estimate = statistic(table, only=table["condition"] == condition)
                found[(TASK_NAMES.get(task, task), str(condition))] = estimate
        return tabulate(corrected(found), ["task", "condition"]) if found else pd.DataFrame()

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
                if (question == "choice") != (task in CHOICES) or answers[column].isna().all():
                    continue
                for condition, group in answers.groupby("condition"):
                    key = (TASK_NAMES.get(task, task), question, str(condition))
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
                        "task": TASK_NAMES.get(task, task), "question": question,
                        "participants": len(quality), "trials": len(table),
                        "mean accuracy": quality.mean(), "lowest": quality.min(),
                        "differs from majority": (differ & decided).sum() / max(decided.sum(), 1),
                        "ties": int((~decided).sum()), "converged": fit.converged,
                    }
                )  # fmt: skip
        return pd.DataFrame(rows)

    @cached_property
    def associations(self) -> pd.DataFrame:
        if self.meeting is None:
            return pd.DataFrame()
        statistic = Associations(
            self.settings.replicates, self.settings.replicates, self.settings.seed,
            self.settings.level,
        )  # fmt: skip
        table = tabulate(corrected(statistic(self.meeting)), ["task", "evidence"])
        return table.assign(task=table["task"].map(lambda t: TASK_NAMES.get(t, t)))

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
            keyed = answers[answers["task"].isin(CHOICES)]
            shares = keyed.groupby("condition")["correct"].mean()
            rows.append(
                {"rule": rule, "threshold": setting}
                | {"participants": int((responses.everyone["excluded"] == "").sum())}
                | {str(k): float(v) for k, v in shares.items()}
            )
        return pd.DataFrame(rows)


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
