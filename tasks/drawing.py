"""Draw the trials of a study from a run's evidence."""

from typing import Any

import numpy as np

from harness.records import Neuron
from harness.registry import call_user_code
from tasks.base import Draft, Field, NoTrial, Task, Trial, check_values
from tasks.evidence import Evidence
from tasks.kinds import all_tasks
from tasks.responses import LONGEST_CONDITION, LONGEST_TASK, Role
from tasks.sizing import Design, control_tasks, practice_counts

TRIES = 200  # draws of one trial before its form is declared impossible


def rehearse(name: str, trial: Trial, key: Any) -> None:
    """Take a trial through what a survey asks of its task, before the study is frozen.

    Raises:
        ValueError: a part of the task fails, or gives what the next one cannot take.
    """
    task, call, rng = all_tasks().get(name), f"task {name!r}", np.random.default_rng(0)
    fields = call_user_code(f"{call}: fields", task.fields, trial)
    if not isinstance(fields, tuple) or not all(isinstance(field, Field) for field in fields):
        raise ValueError(f"{call}: fields must return a tuple of Field, got {fields!r}")
    for knows in (True, False):
        simulated = call_user_code(f"{call}: simulate", task.simulate, trial, key, knows, rng)
        values = call_user_code(f"{call}: values", task.values, simulated)
        try:
            checked = check_values(fields, trial, values)
        except ValueError as error:
            raise ValueError(f"{call}: {values!r} does not fit its fields: {error}") from error
        answer = call_user_code(f"{call}: answer", task.answer, checked)
        call_user_code(f"{call}: score", task.score, key, answer)


class Drawing:
    """Draws trials such that no two trials of one participant share a neuron.

    Attributes:
        design: task -> condition -> number of trials per participant.
        drafts: all trials drawn: task, condition, role, draft.
        practice: indices of the practice trials among the drafts.
        forms: for each form, one block of indices per task.
    """

    def __init__(self, evidence: Evidence, design: Design, rng: np.random.Generator) -> None:
        self.evidence = evidence
        self.design = design
        self.rng = rng
        self.drafts: list[tuple[str, str, Role, Draft]] = []
        self.practice: list[int] = []
        self.forms: list[list[list[int]]] = []
        self.common_neurons: set[Neuron] = set()  # neurons of practice trials, which everyone sees
        self.neuron_sets: set[frozenset[Neuron]] = set()

    def _add_trial(self, name: str, condition: str, role: Role, used: set[Neuron]) -> int:
        """Draw a trial without the `used` neurons, add its own to them, and return its index."""
        task, call = all_tasks().get(name), f"task {name!r}: draw of condition {condition!r}"
        for _ in range(TRIES):
            draft = call_user_code(call, task.draw, self.evidence, condition, self.rng)
            if not isinstance(draft, Draft):
                raise ValueError(f"{call} must return a Draft, got {type(draft).__name__}")
            if used.isdisjoint(draft.neurons) and frozenset(draft.neurons) not in self.neuron_sets:
                used.update(draft.neurons)
                self.neuron_sets.add(frozenset(draft.neurons))
                self.drafts.append((name, condition, role, draft))
                return len(self.drafts) - 1
        raise NoTrial(
            f"task {name}, {condition} trials: too few neurons, as a participant must see no "
            f"neuron in two trials; ask for fewer trials or forms in study.toml, or lower "
            f"evidence.min_depth"
        )

    def choices(self, form: list[list[int]]) -> list[int]:
        """Return the number of options of each trial of a form that has a correct option."""
        drafts = (self.drafts[i] for block in form for i in block)
        trials = (draft for *_, role, draft in drafts if role == "trial")
        return [len(draft.options) for draft in trials if draft.options and draft.key is not None]

    def draw_practice(self, count: int) -> None:
        """Draw obvious trials of every task that has them, and one trial of each other task."""
        for name, number in practice_counts(self.design, count).items():
            task = all_tasks().get(name)
            condition = task.control or next(iter(task.conditions))
            for _ in range(number):
                trial = self._add_trial(name, condition, "practice", self.common_neurons)
                self.practice.append(trial)

    def draw_form(self, attention: int) -> list[list[int]]:
        """Draw a form: a block of trials per task, with attention trials if it has a control."""
        used = set(self.common_neurons)
        blocks = []
        controlled = control_tasks(self.design)
        for name, conditions in self.design.items():
            task: Task = all_tasks().get(name)
            if unknown := sorted(set(conditions) - set(task.conditions)):
                raise ValueError(
                    f"trials.{name}.{unknown[0]}: no such condition; "
                    f"{name} has {', '.join(task.conditions)}"
                )
            too_long = [n for n in conditions if len(n) > LONGEST_CONDITION]
            if too_long or len(name) > LONGEST_TASK:
                raise ValueError(
                    f"trials.{name}.{(too_long or list(conditions))[0]}: the survey's database "
                    f"holds {LONGEST_TASK} characters of a task's name and {LONGEST_CONDITION} of "
                    f"a condition's; choose shorter names"
                )
            block = [
                self._add_trial(name, condition, "trial", used)
                for condition, count in conditions.items()
                for _ in range(count)
            ]
            if name in controlled and task.control is not None:
                n = len(range(controlled.index(name), attention, len(controlled)))
                block += [self._add_trial(name, task.control, "attention", used) for _ in range(n)]
            blocks.append(block)
        self.forms.append(blocks)
        return blocks
