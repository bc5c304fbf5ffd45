"""Everything that is computed of one study, once: tables, figures, report and pack read it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import pandas as pd

from analysis.exhibits.tables import Table
from analysis.statistics import behaviour  # noqa: F401 - registers its statistics
from analysis.statistics.agreement import FleissKappa, KrippendorffAlpha, dawid_skene
from analysis.statistics.claims import judge
from analysis.statistics.shares import STATISTICS, Estimates, tabulate
from analysis.study.frozen_study import TASK_NAMES
from analysis.study.responses import Responses
from harness.registry import Registry
from tasks.settings import Analysis


def stacked(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables under one another; of none, an empty one."""
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


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
        exhibits: tables, figures and sentences of one's own, each `package.module:function`.
    """

    replicates: int = 1999
    permutations: int = 9999
    seed: int = 0
    level: float = 0.95
    similarity: str | None = None
    reference: str | None = None
    exhibits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """A study's answers and what follows from them. All parts are computed when first asked for.

    Attributes:
        responses: validated, exclusions applied. settings: of the analysis.
        meeting: the joined table of people and networks, None where no run was given.
        reload: answers again, under other exclusion rules (for the grid of thresholds).
        reversion: changes of accuracy by pair, split and arm of a run, None where none was given.
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
    def level(self) -> str:
        """The level of intervals as readers see it."""
        return f"{100 * self.settings.level:g} %"

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
        """Choices that differ from the frozen plan, or from the defaults that stand for one."""
        usual = Settings()
        choices: list[tuple[str, Any, Any]] = [
            ("similarity of labels", self.similarity, self.plan.similarity),
            ("reference condition", self.reference or "none", self.plan.reference or "none"),
        ] + [
            (name, getattr(self.settings, name), getattr(usual, name))
            for name in ("replicates", "permutations", "seed", "level")
        ]
        return [
            f"{what} {chosen} instead of {frozen}"
            for what, chosen, frozen in choices
            if chosen != frozen
        ]

    def name(self, task: str) -> str:
        """A task as readers call it."""
        return self.responses.study.name(task)

    def controls(self, task: str) -> tuple[str, ...]:
        """Conditions that only say whether the task works."""
        return self.responses.study.controls(task)

    @property
    def tasks(self) -> list[str]:
        """Tasks with analysed answers, in the order of TASK_NAMES, users' own after them."""
        have = set(self.responses.answers["task"])
        known = [task for task in TASK_NAMES if task in have]
        return known + sorted(have - set(known))

    @property
    def choice_tasks(self) -> list[str]:
        return [task for task in self.tasks if task in self.responses.study.choice_tasks]

    def of(self, task: str, controls: bool = True) -> pd.DataFrame:
        """The analysed answers of a task, with columns `changed`, `clarity` and `rating`.

        Args:
            controls: whether to keep those of control conditions.
        """
        answers = self.responses.answers
        answers = answers[answers["task"] == task]
        if not controls:
            answers = answers[~answers["condition"].isin(self.controls(task))]
        answers = answers.reset_index(drop=True)
        parts = {
            name: [v.get(name) if isinstance(v, dict) else None for v in answers["value"]]
            for name in ("changed", "clarity", "rating")
        }
        return answers.assign(
            **{k: pd.to_numeric(pd.Series(v, dtype=object)) for k, v in parts.items()}
        )

    def by_task(
        self,
        tasks: Sequence[str],
        statistic: str,
        names: list[str],
        kind: str = "",
        controls: bool = True,
        **parameters: Any,
    ) -> pd.DataFrame:
        """A statistic over each task's answers, as one table: question, task, names, estimate.

        Args:
            kind: of the question that the statistic's tests ask; "" where it tests nothing.
            controls: whether answers of control conditions take part.
        """
        frames = []
        for task in tasks:
            made = STATISTICS.get(statistic)(level=self.settings.level, **parameters)
            if found := made(self.of(task, controls)):
                table = tabulate(found, names)
                table.insert(0, "task", self.name(task))
                table.insert(0, "question", f"{task}.{kind}" if kind else "")
                frames.append(table)
        return stacked(frames)

    @property
    def sampled(self) -> dict[str, Any]:
        """Parameters of statistics that resample."""
        return {"replicates": self.settings.replicates, "seed": self.settings.seed}

    @cached_property
    def _tests(self) -> dict[str, pd.DataFrame]:
        """The table of each kind of question, each test for itself."""
        tables = {kind: study_tests().get(kind)(self) for kind in study_tests()}
        return {kind: table for kind, table in tables.items() if len(table)}

    @cached_property
    def claims(self) -> pd.DataFrame:
        """Every estimate of `study_tests`, its tests corrected together (see `claims`)."""
        if not self._tests:
            return pd.DataFrame()
        return judge(pd.concat(self._tests), self.plan.primary, self.plan.primary_share)

    def tested(self, kind: str) -> pd.DataFrame:
        """The table of a kind of question: p as corrected over the study, p_alone, claimed."""
        if kind not in self._tests:
            return pd.DataFrame()
        judged = self.claims.loc[kind, ["p", "p_alone", "claimed"]]
        return self._tests[kind].drop(columns="p").join(judged)

    @cached_property
    def beside(self) -> dict[str, pd.DataFrame]:
        """What stands beside the shares of right answers, by method: crossed, binomial."""
        methods = {"crossed": "crossed_effects", "binomial": "exact_binomial"}
        found = {}
        for name, statistic in methods.items():
            tables = [
                self.by_task(
                    [task], statistic, ["condition"], chance=self.responses.study.chance(task)
                )
                for task in self.choice_tasks
            ]
            found[name] = stacked(tables)
        return found

    @cached_property
    def seconds(self) -> pd.DataFrame:
        return self.by_task(self.tasks, "time", ["condition"])

    @cached_property
    def calibration(self) -> pd.DataFrame:
        return self.by_task(self.choice_tasks, "calibration", ["confidence"], controls=False)

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
        table = tabulate(STATISTICS.get("changed")(level=self.settings.level)(answers), ["moved"])
        mean = trials.groupby(thirds, observed=True).mean()
        return table.assign(displacement=table["moved"].map(mean).astype(float))

    def labels_of(self, task: str) -> pd.DataFrame:
        """Free-text labels: trial, stage, participant, condition, label."""
        rows: list[tuple[str, int, str, str, str | None]] = []
        for row in self.of(task).itertuples(index=False):
            value = row.value
            if not isinstance(value, dict) or not {"label", "labels"} & set(value):
                continue
            for stage, label in enumerate(value.get("labels") or [value.get("label")]):
                rows.append((row.trial, stage, row.participant, row.condition, label))
        return pd.DataFrame(rows, columns=["trial", "stage", "participant", "condition", "label"])

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
                    key = (self.name(task), question, str(condition))
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
                        "task": self.name(task), "question": question,
                        "participants": len(quality), "trials": len(table),
                        "mean accuracy": quality.mean(), "lowest": quality.min(),
                        "differs from majority": (differ & decided).sum() / max(decided.sum(), 1),
                        "ties": int((~decided).sum()), "converged": fit.converged,
                    }
                )  # fmt: skip
        return pd.DataFrame(rows)


#: Kind of question -> function(results) -> its table: question, task, what, value, low, high, null
#: (the tested value), p; question is "" in rows that describe and test nothing.
STUDY_TESTS: Registry[Callable[[Results], pd.DataFrame]] = Registry("kind of question")


def study_tests() -> Registry[Callable[[Results], pd.DataFrame]]:
    """The registry, with every built-in kind in it."""
    import_module("analysis.study.planned_tests")
    return STUDY_TESTS


def held_out(results: Results) -> pd.DataFrame | None:
    """The run's changes of accuracy on images that importance has not seen, where it has any."""
    if results.reversion is None:
        return None
    table = results.reversion[results.reversion["split"] == "heldout"]
    return None if table.empty else table
