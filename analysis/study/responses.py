"""Responses in: validated against the frozen study, one source at a time, exclusions as frozen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.study.frozen_study import FrozenStudy
from harness.registry import Registry
from tasks.responses import PARTICIPANTS, RESPONSES, SOURCES, STATUSES, read_table

#: What a title adds where the answers are no participants'.
NOTES = {"human": "", "pilot": " (pilot answers)", "simulated": " (simulated answers)"}


class ResponseError(ValueError):
    """Rows that cannot be; the text lists them."""


@dataclass(frozen=True)
class Responses:
    """What is analysed, and how it came to be.

    Attributes:
        study: the study.
        source: human, pilot or simulated: one only.
        answers: rows of role "trial" of included participants, sorted by participant and trial,
            with `value`, the parsed answer.
        everyone: the measures by which exclusion was decided, a row a participant, with
            `excluded`: the first rule that applied, "" for none.
        flow: the CONSORT-like flow: step, participants, answers.
    """

    study: FrozenStudy
    source: str
    answers: pd.DataFrame
    everyone: pd.DataFrame
    flow: pd.DataFrame

    @property
    def simulated(self) -> bool:
        return self.source == "simulated"


def read_tables(responses: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The answers and, from the file beside them, the participants, as the survey exports them.

    Args:
        responses: NAME.csv; the participants are read from NAME-participants.csv.

    Raises:
        ValueError: one of the two is missing.
    """
    participants = responses.with_name(f"{responses.stem}-participants.csv")
    for path in (responses, participants):
        if not path.is_file():
            raise ValueError(f"{path} does not exist; `conceptevo responses export` writes both")
    return read_table(responses, RESPONSES), read_table(participants, PARTICIPANTS)


def prepare(
    study: FrozenStudy,
    table: pd.DataFrame,
    people: pd.DataFrame,
    source: str | None = None,
    exclusions: Mapping[str, Any] | None = None,
    checked: bool = False,
) -> Responses:
    """Validate, and apply the exclusions.

    Args:
        table, people: of `tasks.responses.RESPONSES` and PARTICIPANTS, see `read_tables`.
        source: which source to analyse; needed only where the tables hold several.
        exclusions: rule -> threshold instead of the frozen ones (for the grid of thresholds).
        checked: the tables were validated before.

    Raises:
        ResponseError: rows that contradict the study or one another; all are listed.
        ValueError: several sources and none chosen, an unknown rule.
    """
    if not checked and (problems := find_problems(study, table, people)):
        shown = "\n  ".join(problems[:50])
        more = f"\n  … and {len(problems) - 50} more" if len(problems) > 50 else ""
        raise ResponseError(f"impossible rows ({len(problems)}):\n  {shown}{more}")
    source = _one_source(people, source)
    people = people[people["source"] == source].sort_values("participant").reset_index(drop=True)
    table = table[table["source"] == source]
    rules = study.exclusions if exclusions is None else exclusions
    everyone = measures(study, table, people)
    excluded = pd.Series("", index=everyone.index, dtype=object)
    excluded[everyone["status"] != "finished"] = "not finished"
    for rule, threshold in rules.items():
        applies = EXCLUSIONS.get(rule)(everyone, threshold)
        excluded[applies & (excluded == "")] = rule
    everyone = everyone.assign(excluded=excluded)
    included = set(everyone.loc[excluded == "", "participant"])
    data = table[table["role"] == "trial"]
    answers = data[data["participant"].isin(included)]
    answers = answers.sort_values(["participant", "trial"], kind="stable").reset_index(drop=True)
    answers = answers.assign(value=[json.loads(text) for text in answers["answer"]])
    return Responses(study, source, answers, everyone, _flow(everyone, data, rules))


def _one_source(people: pd.DataFrame, wanted: str | None) -> str:
    counts = people["source"].value_counts()
    if wanted is None and len(counts) == 1:
        return str(counts.index[0])
    have = ", ".join(f"{name} ({counts[name]})" for name in SOURCES if name in counts)
    if wanted is None:
        raise ValueError(
            f"the tables hold participants of several sources: {have or 'none'}; they are never "
            f"analysed together: choose one with --source"
        )
    if wanted not in counts:
        raise ValueError(f"--source {wanted!r}: the tables hold {have or 'no participants'}")
    return wanted


def find_problems(study: FrozenStudy, table: pd.DataFrame, people: pd.DataFrame) -> list[str]:
    """Everything in the tables that cannot be, in words; empty where all is well."""
    problems: list[str] = []

    def report(rows: pd.Series, text: Callable[[Any], str], frame: pd.DataFrame = table) -> None:
        name = "response" if frame is table else "participant"
        for index in frame.index[rows.fillna(True).to_numpy(dtype=bool)]:
            problems.append(f"{name} row {index + 2}: {text(frame.loc[index])}")

    report(people["study"] != study.hash, lambda r: f"study {r['study']!r} is not this one", people)
    report(
        people["participant"].duplicated(keep=False) | people["participant"].isna(),
        lambda r: f"participant {r['participant']!r} is missing or listed twice",
        people,
    )
    report(~people["source"].isin(SOURCES), lambda r: f"unknown source {r['source']!r}", people)
    report(~people["status"].isin(STATUSES), lambda r: f"unknown status {r['status']!r}", people)

    report(table["study"] != study.hash, lambda r: f"study {r['study']!r} is not {study.hash!r}")
    sources = table["participant"].map(
        people.drop_duplicates("participant").set_index("participant")["source"]
    )
    report(sources.isna(), lambda r: f"unknown participant {r['participant']!r}")
    report(
        sources.notna() & (sources != table["source"]),
        lambda r: f"source {r['source']!r} is not that of participant {r['participant']!r}",
    )
    report(
        table.duplicated(["participant", "trial"], keep=False),
        lambda r: f"participant {r['participant']!r} answered trial {r['trial']!r} more than once",
    )
    frozen = study.trials.set_index("trial")
    plain = table["trial"].str.replace(r"@\d+$", "", regex=True)
    known = plain.isin(frozen.index)
    report(~known, lambda r: f"unknown trial {r['trial']!r}")
    for column in ("task", "condition", "role"):
        expected = plain.map(frozen[column])
        report(
            known & (expected != table[column]),
            partial(_mismatch, column),
        )
    report(
        known & table.duplicated(["participant", "role", "position"], keep=False)
        & (table["role"] != "practice"),
        lambda r: f"participant {r['participant']!r} has position {r['position']} twice",
    )  # fmt: skip
    report(table["position"].isna() | (table["position"] < 0), lambda _: "no position, or below 0")
    report(
        table["milliseconds"].notna() & (table["milliseconds"] < 0),
        lambda r: f"took {r['milliseconds']} ms",
    )
    report(
        table["answered_at"].notna() & (table["answered_at"] < table["shown_at"]),
        lambda r: "answered before it was shown",
    )
    trials = {t.trial: t for t in study.trials.itertuples(index=False)}
    columns = ["trial", "options", "answer", "correct"]
    for index, name, row in zip(
        table.index, plain, table[columns].itertuples(index=False), strict=True
    ):
        if name in trials:
            for text in _answer_problems(row, trials[name], study.keys.get(name)):
                problems.append(f"response row {index + 2}: {text}")
    return problems


def _mismatch(column: str, row: pd.Series) -> str:
    return f"{column} of trial {row['trial']!r} is not {row[column]!r}"


def _answer_problems(row: Any, trial: Any, key: Any) -> list[str]:
    """What is wrong with options, answer and score of one row."""
    try:
        options, answer = json.loads(row.options), json.loads(row.answer)
    except (json.JSONDecodeError, TypeError):
        return [f"options {row.options!r} or answer {row.answer!r} are not JSON"]
    found = []
    if sorted(options) != sorted(trial.options):
        found.append(f"options {options} are not those of trial {row.trial!r}")
    if isinstance(key, str) and key in trial.options:
        if answer not in trial.options:
            found.append(f"answer {answer!r} was not an option of trial {row.trial!r}")
        elif row.correct is pd.NA or row.correct != (answer == key):
            found.append(f"correct is {row.correct}, against the key of trial {row.trial!r}")
    return found


def measures(study: FrozenStudy, table: pd.DataFrame, people: pd.DataFrame) -> pd.DataFrame:
    """What exclusion rules go by, a row a participant.

    Returns:
        participant, status, consented, answers, attention (share right of the attention trials),
        total_seconds, instruction_seconds, practice_attempts, one_sided (share of choices at the
        place on screen chosen most often); NaN where there is nothing to go by.
    """
    attention = table[table["role"] == "attention"].groupby("participant")["correct"].mean()
    data = table[(table["role"] == "trial") & table["task"].isin(study.choice_tasks)]
    places = pd.DataFrame(
        {
            "participant": data["participant"],
            "place": [
                json.loads(options).index(json.loads(answer))
                for options, answer in zip(data["options"], data["answer"], strict=True)
            ],
        }
    )
    chosen = places.groupby(["participant", "place"]).size()
    most = chosen.groupby("participant").max() / chosen.groupby("participant").sum()
    trials = table.loc[table["role"] == "trial", "participant"].value_counts()
    name = people["participant"]
    return pd.DataFrame(
        {
            "participant": name,
            "status": people["status"],
            "consented": people["consented_at"].notna(),
            "answers": name.map(trials).fillna(0).astype(int),
            "attention": name.map(attention).astype(float),
            "total_seconds": people["total_seconds"].astype(float),
            "instruction_seconds": people["instruction_seconds"].astype(float),
            "practice_attempts": people["practice_attempts"].astype(float),
            "one_sided": name.map(most).astype(float),
        }
    )


#: Rules of exclusion: (measures, threshold) -> whom the rule excludes. NaN excludes nobody.
Rule = Callable[[pd.DataFrame, Any], pd.Series]
EXCLUSIONS: Registry[Rule] = Registry("exclusion rule")


@EXCLUSIONS.add("attention_below")
def attention_below(people: pd.DataFrame, threshold: float) -> pd.Series:
    """Too few of the attention trials right."""
    return people["attention"] < threshold


@EXCLUSIONS.add("total_seconds_outside")
def total_seconds_outside(people: pd.DataFrame, threshold: tuple[float, float]) -> pd.Series:
    """Too fast or too slow from consent to finish."""
    low, high = threshold
    return (people["total_seconds"] < low) | (people["total_seconds"] > high)


@EXCLUSIONS.add("instruction_seconds_below")
def instruction_seconds_below(people: pd.DataFrame, threshold: float) -> pd.Series:
    """Instructions hardly looked at."""
    return people["instruction_seconds"] < threshold


@EXCLUSIONS.add("practice_attempts_above")
def practice_attempts_above(people: pd.DataFrame, threshold: float) -> pd.Series:
    """Too many rounds of practice."""
    return people["practice_attempts"] > threshold


@EXCLUSIONS.add("one_sided_above")
def one_sided_above(people: pd.DataFrame, threshold: float) -> pd.Series:
    """The same place on screen chosen too often."""
    return people["one_sided"] > threshold


def _flow(everyone: pd.DataFrame, data: pd.DataFrame, rules: Mapping[str, Any]) -> pd.DataFrame:
    """From arrival to analysis: step, participants, answers of role "trial"."""
    answers = everyone["participant"].map(data["participant"].value_counts()).fillna(0)

    def step(name: str, who: pd.Series | np.ndarray) -> dict[str, Any]:
        return {"step": name, "participants": int(who.sum()), "answers": int(answers[who].sum())}

    rows = [
        step("arrived", np.ones(len(everyone), dtype=bool)),
        step("gave consent", everyone["consented"]),
        step("finished", everyone["status"] == "finished"),
    ]
    for rule, threshold in rules.items():
        ends = threshold if isinstance(threshold, list | tuple) else [threshold]
        bounds = "–".join(f"{end:g}" for end in ends)
        name = f"excluded: {rule.replace('_', ' ')} {bounds}"
        rows.append(step(name, everyone["excluded"] == rule))
    rows.append(step("analysed", everyone["excluded"] == ""))
    return pd.DataFrame(rows)
