"""The frozen study for the analysis: trials as a table, chance levels, controls, names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.base import Field, Task
from tasks.kinds import all_tasks
from tasks.recruitment import Recruitment, load_recruitment
from tasks.study import Study
from tasks.study import load as load_study


@cache
def task_of(name: str) -> Task | None:
    """Return a task by its name; None for a user-defined task that cannot be imported here."""
    try:
        return all_tasks().get(name)
    except ValueError:
        return None


@dataclass(frozen=True)
class FrozenStudy:
    """A frozen study with its keys and trials.

    Attributes:
        study: the study as frozen.
        keys: trial -> answer key.
        trials: one row per trial: trial, task, condition, role, options (tuple of option ids),
            neurons (tuple of Neuron).
        exclusions: rule -> threshold, in the frozen order; rules that are switched off are absent.
        pictures: folder of the pictures shown; None if it is not available.
        recruitment: settings of recruitment, with the initial number of places.
    """

    study: Study
    keys: Mapping[str, Any]
    trials: pd.DataFrame
    exclusions: Mapping[str, Any]
    pictures: Path | None = None
    recruitment: Recruitment = field(default_factory=Recruitment)

    @cached_property
    def choice_tasks(self) -> frozenset[str]:
        """Return the tasks whose key is always one of the options shown, so that it can be
        checked."""
        trials = self.trials[["trial", "options"]].itertuples(index=False)
        keyed = pd.Series([self.keys.get(trial) in options for trial, options in trials])
        by_task = keyed.groupby(self.trials["task"]).all()
        return frozenset(by_task.index[by_task])

    @cached_property
    def data(self) -> pd.DataFrame:
        """Return the trials that are neither practice nor attention trials."""
        return self.trials[self.trials["role"] == "trial"]

    @cached_property
    def shows_change(self) -> bool:
        """Return whether a trial shows one neuron at several epochs, and no other neuron."""
        return any(
            len({n.epoch for n in neurons}) > 1
            and len({(n.series, n.layer, n.channel) for n in neurons}) == 1
            for neurons in self.data["neurons"]
        )

    def trials_of(self, task: str) -> pd.DataFrame:
        return self.data[self.data["task"] == task]

    def chance(self, task: str) -> dict[str, float]:
        """Return the probability of a correct guess for each condition of a choice task.

        Raises:
            ValueError: trials of one condition differ in their number of options.
        """
        levels = {}
        for condition, group in self.trials_of(task).groupby("condition"):
            sizes = {len(options) for options in group["options"]}
            if len(sizes) > 1:
                raise ValueError(
                    f"trials of {task}, condition {condition!r}, have {sorted(sizes)} options; one "
                    f"number is needed for a chance level"
                )
            levels[str(condition)] = 1 / sizes.pop()
        return levels

    def conditions(self, task: str) -> tuple[str, ...]:
        """Return the conditions of the task's trials, sorted."""
        return tuple(sorted(set(map(str, self.trials_of(task)["condition"]))))

    def fields(self, task: str) -> dict[str, Field]:
        """Return the fields of a task by name; none for a task that cannot be imported."""
        trials = (t for t in self.study.trials if t.task == task and t.role == "trial")
        try:
            return {f.name: f for t in islice(trials, 1) for f in self.study.fields(t)}
        except ValueError:
            return {}

    def scale(self, task: str, field: str) -> tuple[float, float] | None:
        """Return the lowest and highest step of a rating; None if the task cannot be imported."""
        rating = self.fields(task).get(field)
        steps = [float(value) for value, _ in rating.choices] if rating is not None else []
        return (min(steps), max(steps)) if steps else None

    def controls(self, task: str) -> tuple[str, ...]:
        """Return the frozen conditions that check whether the task works."""
        text = self.study.task_texts.get(task)
        return () if text is None else text.controls

    def name(self, task: str) -> str:
        """Return the name of a task for readers: its label, or for user-defined tasks the title,
        with the id if titles are equal."""
        text = self.study.task_texts.get(task)
        title = _task_label(task) or (task if text is None else text.title)
        other_names = [_task_label(t.name) or t.title for t in self.study.tasks if t.name != task]
        return f"{title} ({task})" if title in other_names else title


def _task_label(task: str) -> str:
    """Return the label of a task in tables, figures and sentences; "" if it has none."""
    return getattr(task_of(task), "label", "")


def read_study(folder: Path) -> FrozenStudy:
    """Read a frozen study. Raises ValueError if it is missing or was changed."""
    study, keys = load_study(folder)
    columns = ["trial", "task", "condition", "role", "options", "neurons"]
    rows = [
        (t.id, t.task, t.condition, t.role, tuple(o.id for o in t.options), t.neurons)
        for t in study.trials
    ]
    trials = pd.DataFrame(rows, columns=columns)
    rules = {k: v for k, v in study.exclusion.model_dump().items() if v is not None}
    return FrozenStudy(study, keys, trials, rules, folder / "images", load_recruitment(folder))
