"""The codebook of a study: columns of its tables, questions, conditions and exclusion rules."""

from collections import Counter
from collections.abc import Sequence

from tasks.questionnaire import Question
from tasks.responses import codebook as columns
from tasks.study import Study

RULES = (
    "Participants are excluded below, above or outside these values: `attention`, share of correct "
    "attention trials; `total_seconds`, from consent to finish; `instruction_seconds`, on the "
    "instructions and the introductions of the tasks; `practice_attempts`, rounds of practice; "
    "`one_sided`, share of choices at one screen position; `identical`, share of trials with "
    "response and time equal to those of another participant."
)


def codebook(study: Study | None) -> str:
    """Return the columns of both files, then the design of the study, in Markdown."""
    if study is None:
        return columns()
    parts = [columns(), f"\n## Study {study.hash}: {study.title}\n"]
    parts += [_task(study, text.name) for text in study.tasks]
    if study.questions:
        parts.append("\n### Questionnaire\n\nThe keys of `questionnaire`.\n\n")
        parts += map(_question, study.questions)
    parts.append(f"\n### Exclusion rules, frozen with the study\n\n{RULES}\n\n")
    rules = study.exclusion.model_dump()
    parts += [f"- `{name}`: {'off' if v is None else v}\n" for name, v in rules.items()]
    return "".join(parts)


def _task(study: Study, name: str) -> str:
    trials = [trial for trial in study.trials if trial.task == name]
    counts = Counter((trial.role, trial.condition) for trial in trials)
    lines = [f"\n### {name}\n\n{study.task_texts[name].prompt}\n\n"]
    lines += ["| role | condition | trials |\n|---|---|---|\n"]
    lines += [f"| {' | '.join(cell)} | {n} |\n" for cell, n in sorted(counts.items())]
    lines.append("\n")
    for field in study.fields(trials[0]) if trials else ():
        choices = f"; {_choices(field.choices)}" if field.choices else ""
        lines.append(f"- `{field.name}` ({field.kind}): {field.label}{choices}\n")
    if trials:
        lines.append(
            f"\nTrial ids look like `{trials[0].id}`; a practice trial that is repeated in "
            f"a second round has `{trials[0].id}@2`.\n"
        )
    return "".join(lines)


def _question(question: Question) -> str:
    details = [_choices(question.choices)] if question.choices else []
    anchors = [end for end in (question.low, question.high) if end]
    details += [f"anchors: {' … '.join(anchors)}"] if anchors else []
    return f"- `{question.name}` ({question.kind}): {'; '.join([question.label, *details])}\n"


def _choices(choices: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{value} = {label}" for value, label in choices)
