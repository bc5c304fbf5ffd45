"""Read responses, validate them against the frozen study, and apply the frozen exclusions."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import gt, lt
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.study.frozen_study import FrozenStudy
from analysis.study.identical import identical_pairs
from analysis.study.validation import find_problems
from harness.registry import Registry
from tasks.false_exclusion import LIMIT, one_sided_rate
from tasks.responses import (
    PARTICIPANTS,
    RESPONSES,
    SOURCES,
    TableError,
    is_lapse,
    options_shown,
    read_table,
    score_lapses,
)

#: Source of responses -> noun for those who gave them.
NOUNS = {"human": "participant", "pilot": "pilot participant", "simulated": "simulated participant"}
#: Source of responses -> addition to titles.
SOURCE_NOTES = {"human": "", "pilot": " (pilot data)", "simulated": " (simulated data)"}


class ResponseError(TableError):
    """Rows that contradict the study or one another; the message lists them."""


@dataclass(frozen=True)
class Responses:
    """The responses of one source, and the exclusion rules that select those to analyse.

    Attributes:
        study: the frozen study.
        source: human, pilot or simulated.
        collected: rows of role "trial" of all participants, sorted by participant and trial, with
            `value`, the parsed answer.
        unanswered: rows of trials without an answer, with the reason in `missing`.
        measures: the table of `participant_measures`.
        identical: the table of `identical_pairs`.
        rules: exclusion rule -> threshold. With `dataclasses.replace` the same responses are
            selected by other rules.
    """

    study: FrozenStudy
    source: str
    collected: pd.DataFrame
    unanswered: pd.DataFrame
    measures: pd.DataFrame
    identical: pd.DataFrame
    rules: Mapping[str, Any]

    @property
    def simulated(self) -> bool:
        return self.source == "simulated"

    @cached_property
    def everyone(self) -> pd.DataFrame:
        """Return the measures with `excluded`: why a participant is not analysed (no consent, not
        finished, no answers, or the first rule that applied); "" for analysed participants.

        Raises:
            ValueError: a rule is unknown.
        """
        people = self.measures
        excluded = pd.Series("", index=people.index, dtype=object)
        excluded[~people["consented"]] = NO_CONSENT
        excluded[(excluded == "") & (people["status"] != "finished")] = NOT_FINISHED
        excluded[(excluded == "") & (people["answers"] == 0)] = NO_ANSWERS
        for rule, threshold in self.rules.items():
            excluded[EXCLUSIONS.get(rule)(people, threshold) & (excluded == "")] = rule
        return people.assign(excluded=excluded)

    @cached_property
    def answers(self) -> pd.DataFrame:
        """Return the collected rows of the analysed participants."""
        included = self.everyone.loc[self.everyone["excluded"] == "", "participant"]
        is_included = self.collected["participant"].isin(included)
        return self.collected[is_included].reset_index(drop=True)

    @cached_property
    def flow(self) -> pd.DataFrame:
        """Return the CONSORT-like flow from arrival to analysis.

        Returns:
            step, participants, answers, not applicable (number of participants who finished and
            to whom the rule could not be applied; missing if the step is no rule).
        """
        everyone = self.everyone
        counts = self.collected["participant"].value_counts()
        answers = everyone["participant"].map(counts).fillna(0)

        def step(name: str, included: pd.Series, number: Any = pd.NA) -> dict[str, Any]:
            counts = {"participants": int(included.sum()), "answers": int(answers[included].sum())}
            return {"step": name, **counts, "not applicable": number}

        finished = everyone["consented"] & (everyone["status"] == "finished")
        rows = [
            step("arrived", everyone["participant"].notna()),
            step("gave consent", everyone["consented"]),
            step("finished", finished),
        ]
        for reason, trials in self.unanswered.groupby("missing"):
            counts = {"participants": trials["participant"].nunique(), "answers": len(trials)}
            step_name = f"trials without an answer: {reason}"
            rows.append({"step": step_name, **counts, "not applicable": pd.NA})
        if (is_empty := everyone["excluded"] == NO_ANSWERS).any():
            rows.append(step(f"excluded: {NO_ANSWERS}", is_empty))
        for rule, threshold in self.rules.items():
            n_unfit = finished & ~EXCLUSIONS.get(rule).applicable(everyone, threshold)
            name = f"excluded: {rule_name(rule, threshold)}"
            rows.append(step(name, everyone["excluded"] == rule, int(n_unfit.sum())))
        rows.append(step("analysed", everyone["excluded"] == ""))
        return pd.DataFrame(rows).astype({"not applicable": "Int64"})


def read_tables(responses: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the responses and, from the file beside them, the participants, in the survey's
    format.

    Args:
        responses: NAME.csv; the participants are read from NAME-participants.csv.

    Raises:
        ValueError: one of the two is missing or cannot be read.
        TableError: cells that are not of their column's type; those of both files are listed.
    """
    participants = responses.with_name(f"{responses.stem}-participants.csv")
    for path in (responses, participants):
        if not path.is_file():
            raise ValueError(
                f"{path} does not exist; `conceptevo responses export` writes both tables, "
                f"{responses.name} and {participants.name}"
            )
    tables, problems = [], []
    for path, columns in ((responses, RESPONSES), (participants, PARTICIPANTS)):
        try:
            tables.append(read_table(path, columns))
        except TableError as error:
            problems += error.problems
    if problems:
        raise TableError(problems)
    return tables[0], tables[1]


def prepare(
    study: FrozenStudy, table: pd.DataFrame, people: pd.DataFrame, source: str | None = None
) -> Responses:
    """Validate responses and select those to analyse by the frozen exclusion rules.

    Args:
        table, people: of `read_tables`. source: required if the tables hold several.

    Raises:
        ResponseError: rows contradict the study or one another; all are listed.
        ValueError: there are no participants, or several sources and none was chosen.
    """
    if people.empty:
        raise ValueError("the tables hold no participants, so that there is nothing to analyse")
    if problems := find_problems(study, table, people):
        raise ResponseError(problems)
    return select(study, table, people, _choose_source(people, source), study.exclusions)


def select(
    study: FrozenStudy,
    table: pd.DataFrame,
    people: pd.DataFrame,
    source: str,
    rules: Mapping[str, Any],
) -> Responses:
    """Select responses of one source by rules (name -> threshold), without validating them."""
    people = people[people["source"] == source].sort_values("participant").reset_index(drop=True)
    table, unanswered = _split_answered(table[table["source"] == source])
    data = table[table["role"] == "trial"]
    pairs = identical_pairs(data, people)
    data = data.sort_values(["participant", "trial"], kind="stable").reset_index(drop=True)
    data = data.assign(value=pd.Series(map(json.loads, data["answer"]), dtype=object))
    measures = participant_measures(study, table, people, pairs)
    return Responses(study, source, data, unanswered, measures, pairs, rules)


def _split_answered(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows with an answer, and those of trials without one.

    An attention trial that was not answered in time counts as answered incorrectly.
    """
    if "missing" not in table:
        return table, table.iloc[:0].assign(missing=pd.NA)
    table = score_lapses(table)
    answered = table["missing"].isna() | is_lapse(table)
    return table[answered], table[~answered & (table["role"] == "trial")]


#: Reasons other than a rule why a participant is not analysed; no rule has such a name.
NO_CONSENT, NOT_FINISHED, NO_ANSWERS = "no consent", "not finished", "no answers"


def _choose_source(people: pd.DataFrame, source: str | None) -> str:
    counts = people["source"].value_counts()
    if source is None and len(counts) == 1:
        return str(counts.index[0])
    sources = ", ".join(f"{name} ({counts[name]})" for name in SOURCES if name in counts)
    if source is None:
        raise ValueError(
            f"the tables hold participants of several sources: {sources}; they are never "
            f"analysed together: choose one with --source"
        )
    if source not in counts:
        raise ValueError(f"--source {source!r}: the tables hold {sources}")
    return source


def participant_measures(
    study: FrozenStudy, table: pd.DataFrame, people: pd.DataFrame, pairs: pd.DataFrame
) -> pd.DataFrame:
    """Return the measures that exclusion rules use, one row per participant.

    Args:
        pairs: the table of `identical_pairs`.

    Returns:
        participant, status, consented, answers (their number), attention (share of attention
        trials answered correctly), consented_at, finished_at, total_seconds, instruction_seconds,
        practice_attempts, one_sided (share of choices at the screen position chosen most often),
        choices (number of options of each choice), identical (largest share of trials that agree
        with those of a participant who is earlier by name); NaN where there are no data.
    """
    attention = table[table["role"] == "attention"].groupby("participant")["correct"].mean()
    data = table[(table["role"] == "trial") & table["task"].isin(study.choice_tasks)]
    offered = options_shown(data)
    choices = map(json.loads, data["answer"])
    positions = data[["participant"]].assign(
        options=list(map(len, offered)),
        place=[options.index(answer) for options, answer in zip(offered, choices, strict=True)],
    )
    shares = positions.groupby("participant")["place"].value_counts(normalize=True)
    one_sided = shares.groupby("participant").max()
    option_counts = positions.groupby("participant")["options"].agg(tuple)
    trials = table.loc[table["role"] == "trial", "participant"].value_counts()
    identical_shares = (pairs["agreeing"] / pairs["common"]).groupby(pairs["second"]).max()
    names = people["participant"]
    answers = names.map(trials).fillna(0).astype(int)
    identical = names.map(identical_shares).astype(float).fillna(0.0)
    numbers = ["total_seconds", "instruction_seconds", "practice_attempts"]
    columns = ["participant", "status", "consented_at", "finished_at", *numbers]
    return (
        people[columns]
        .astype(dict.fromkeys(numbers, float))
        .assign(
            consented=people["consented_at"].notna(),
            answers=answers,
            attention=names.map(attention).astype(float),
            one_sided=names.map(one_sided).astype(float),
            choices=names.map(option_counts),
            identical=identical.where(answers > 0),
        )
    )


@dataclass(frozen=True)
class Rule:
    """An exclusion rule: called with measures and a threshold, it returns who is excluded.

    Attributes:
        measure: the column of `participant_measures` that is compared with the threshold. If its
            value is missing, the rule cannot be applied and does not exclude the participant.
        excludes: (column, threshold) -> whether each participant is excluded.
        words: the rule in words, with {percent} or {0:g} for its threshold; by default its name.
        enough: (measures, threshold) -> whether each participant gave enough responses for the
            rule; by default all did.
    """

    measure: str
    excludes: Callable[[pd.Series, Any], pd.Series]
    words: str = ""
    enough: Callable[[pd.DataFrame, Any], pd.Series] | None = None

    def applicable(self, people: pd.DataFrame, threshold: Any) -> pd.Series:
        """Return, by participant, whether the rule has the data that it needs."""
        has_measure = people[self.measure].notna()
        return has_measure if self.enough is None else has_measure & self.enough(people, threshold)

    def __call__(self, people: pd.DataFrame, threshold: Any) -> pd.Series:
        return self.applicable(people, threshold) & self.excludes(people[self.measure], threshold)


def _enough_choices(people: pd.DataFrame, threshold: float) -> pd.Series:
    """Return whether choices are so many that chance alone would hardly trigger the rule."""
    is_enough = [
        isinstance(sizes, Sequence) and one_sided_rate(sizes, threshold) <= LIMIT
        for sizes in people["choices"]  # who made no choice has none
    ]
    return pd.Series(is_enough, people.index, dtype=bool)


EXCLUSIONS: Registry[Rule] = Registry(
    "exclusion rule",
    {
        "attention_below": Rule(
            "attention", lt, "less than {percent} of the attention trials correct"
        ),
        "total_seconds_outside": Rule(
            "total_seconds",
            lambda seconds, ends: (seconds < ends[0]) | (seconds > ends[1]),
            "less than {0:g} or more than {1:g} seconds from consent to the end",
        ),
        "instruction_seconds_below": Rule(
            "instruction_seconds",
            lt,
            "less than {0:g} seconds on the instructions and the introductions of the tasks",
        ),
        "practice_attempts_above": Rule(
            "practice_attempts", gt, "more than {0:g} rounds of practice"
        ),
        "one_sided_above": Rule(
            "one_sided",
            gt,
            "more than {percent} of all choices at one screen position (applied only to "
            "participants with so many choices that this would hardly happen by chance)",
            _enough_choices,
        ),
        # The first of the participants who agree, by name, is kept.
        "identical_above": Rule(
            "identical",
            gt,
            "response and time equal to those of another participant in more than {percent} of the "
            "trials; one of the participants is kept",
        ),
    },
)


def rule_in_words(rule: str, threshold: Any) -> str:
    """Return a rule in words for a sentence: "less than 80 % of the attention trials correct"."""
    ends = threshold if isinstance(threshold, list | tuple) else [threshold]
    if not (words := EXCLUSIONS.get(rule).words):
        return rule_name(rule, threshold)
    return words.format(*ends, percent=f"{100 * ends[0]:g} %")


def rules_in_words(study: FrozenStudy) -> dict[str, str]:
    """Return the frozen rules: name in tables -> words in sentences."""
    return {
        rule_name(rule, threshold): rule_in_words(rule, threshold)
        for rule, threshold in study.exclusions.items()
    }


def rule_name(rule: str, threshold: Any) -> str:
    """Return the name of an exclusion rule for readers: "total seconds outside 135–7200"."""
    ends = threshold if isinstance(threshold, list | tuple) else [threshold]
    return f"{rule.replace('_', ' ')} {'–'.join(f'{end:g}' for end in ends)}"
