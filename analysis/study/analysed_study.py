"""A study's responses and its frozen plan, which tests, tables and figures read."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import pandas as pd

from analysis.exhibits.tables import Table
from analysis.statistics import STATISTICS, Estimate, tabulate
from analysis.study.frozen_study import task_of
from analysis.study.responses import Responses
from tasks.base import order_of
from tasks.settings import Analysis


def stack(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate tables; without any, return an empty one."""
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@dataclass(frozen=True)
class Settings:
    """Settings of the analysis, which are written into the release pack.

    Attributes:
        replicates, permutations: of every bootstrap and of every permutation test, whose smallest
            unadjusted p-value is 1 / (permutations + 1).
        level: nominal coverage of all intervals.
        similarity: of labels, a name in `tasks.similarity.SIMILARITIES`; None: as frozen.
        reference: condition with which the others of its task are compared, "" for all pairs;
            None: as frozen.
        exhibits: the user's tables, figures and sentences, each `package.module:function`.
    """

    replicates: int = 1999
    permutations: int = 9999
    seed: int = 0
    level: float = 0.95
    similarity: str | None = None
    reference: str | None = None
    exhibits: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnalysedStudy:
    """A study's responses, its frozen plan, and the settings of the analysis.

    Attributes:
        responses: the validated responses, with the exclusion rules.
        joined_trials: the table of `association.join_measures`; None without a run.
        reversion: changes in accuracy by pair, split and arm of the run; None without a run.
        from_run: tables of the run that the study's report shows.
        demographics: the table of `participants.demographics_of`; None if nothing was asked.
        planned_sample: number of places in recruitment.toml; None without this file.
    """

    responses: Responses
    settings: Settings
    joined_trials: pd.DataFrame | None = None
    reversion: pd.DataFrame | None = None
    from_run: Sequence[Table] = ()
    demographics: pd.DataFrame | None = None
    planned_sample: int | None = None

    @property
    def plan(self) -> Analysis:
        """Return the frozen plan; without one, the defaults, with no primary hypothesis."""
        return self.responses.study.study.analysis or Analysis()

    @property
    def level(self) -> str:
        """Return the level of intervals for readers, e.g. "95 %"."""
        return f"{100 * self.settings.level:g} %"

    @property
    def similarity(self) -> str:
        setting = self.settings.similarity
        return self.plan.similarity if setting is None else setting

    @property
    def reference(self) -> str:
        """Return the reference condition. Raises ValueError if no task has it."""
        setting = self.settings.reference
        reference = self.plan.reference if setting is None else setting
        conditions = sorted(set(self.responses.study.data["condition"]))
        if reference and reference not in conditions:
            raise ValueError(
                f"reference condition {reference!r} is none of {', '.join(conditions)}; "
                f"give one of these, or '' for all pairs"
            )
        return reference

    @property
    def departures(self) -> list[str]:
        """Return settings that differ from the frozen plan, or without one from the defaults."""
        choices: dict[str, tuple[Any, Any]] = {
            "similarity of labels": (self.similarity, self.plan.similarity),
            "reference condition": (self.reference or "none", self.plan.reference or "none"),
        }
        for name in ("replicates", "permutations", "seed", "level"):
            choices[name] = getattr(self.settings, name), getattr(Settings(), name)
        return [f"{name} {a} instead of {b}" for name, (a, b) in choices.items() if a != b]

    def name(self, task: str) -> str:
        return self.responses.study.name(task)

    def controls(self, task: str) -> tuple[str, ...]:
        return self.responses.study.controls(task)

    @cached_property
    def tasks(self) -> list[str]:
        """Return the `planned_tasks` that have analysed responses."""
        answered_tasks = set(self.responses.answers["task"])
        return [task for task in self.planned_tasks if task in answered_tasks]

    @cached_property
    def planned_tasks(self) -> list[str]:
        """Return the tasks of the frozen study in the order shown; user-defined tasks are last."""
        tasks = set(self.responses.study.data["task"])
        return sorted(tasks, key=lambda task: (order_of(task_of(task)), task))

    @cached_property
    def answered_conditions(self) -> frozenset[tuple[str, str]]:
        """Return the pairs of task and condition with analysed responses."""
        answers = self.responses.answers
        return frozenset(zip(answers["task"], answers["condition"], strict=True))

    @property
    def trials_answered(self) -> pd.Series:
        """Return the number of trials with analysed responses (or 0) by task and condition."""
        keys = ["task", "condition"]
        frozen = self.responses.study.data.groupby(keys).size().index
        answers = self.responses.answers.groupby(keys)["trial"].nunique()
        return answers.reindex(frozen, fill_value=0)

    @property
    def choice_tasks(self) -> list[str]:
        return [task for task in self.tasks if task in self.responses.study.choice_tasks]

    @cached_property
    def answers(self) -> pd.DataFrame:
        """Return the analysed responses; response times that were not measured (0) are missing."""
        answers = self.responses.answers
        times = answers["milliseconds"]
        return answers.assign(milliseconds=times.where(times > 0))

    def answers_of(self, task: str, controls: bool = True) -> pd.DataFrame:
        """Return the analysed responses of a task, also to its control conditions unless `controls`
        is False, with columns `changed`, `clarity` and `rating`."""
        answers = self.answers[self.answers["task"] == task]
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
        """Apply a statistic to the responses of each task.

        Args:
            statistic: a name in STATISTICS.
            names: names of the columns of the estimates' keys.
            kind: kind of question that the tests belong to; "" if nothing is tested.
            controls: whether to include responses to control conditions.
            parameters: parameters of the statistic; a function is called with the task.

        Returns:
            question ("task.kind"), task (its name for readers), `names`, fields of Estimate.
        """
        frames = []
        for task in tasks:
            values = {k: v(task) if callable(v) else v for k, v in parameters.items()}
            apply = STATISTICS.get(statistic)(level=self.settings.level, **values)
            if estimates := apply(self.answers_of(task, controls)):
                table = tabulate(estimates, names)
                table.insert(0, "task", self.name(task))
                table.insert(0, "question", f"{task}.{kind}" if kind else "")
                frames.append(table)
        columns = ["question", "task", *names, *(f.name for f in fields(Estimate))]
        return stack(frames) if frames else pd.DataFrame(columns=columns)

    def labels_of(self, task: str) -> pd.DataFrame:
        """Return free-text labels: trial, stage, participant, condition, label."""
        rows: list[tuple[str, int, str, str, str | None]] = []
        for row in self.answers_of(task).itertuples(index=False):
            value = row.value
            if not isinstance(value, dict) or not {"label", "labels"} & set(value):
                continue
            for stage, label in enumerate(value.get("labels") or [value.get("label")]):
                rows.append((row.trial, stage, row.participant, row.condition, label))
        return pd.DataFrame(rows, columns=["trial", "stage", "participant", "condition", "label"])
