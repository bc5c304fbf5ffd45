"""Irregularities of responses that are not errors, and exclusion rules without data.

They are shown as a table and as sentences of the section on participants.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain

import pandas as pd
from scipy.stats import binom

from analysis.exhibits import shelf
from analysis.exhibits.phrases import spaced
from analysis.exhibits.tables import Table
from analysis.study.frozen_study import task_of
from analysis.study.responses import NO_ANSWERS, NO_CONSENT, Responses
from analysis.study.results import Results
from harness.text import pluralise
from tasks.responses import LATE_AFTER

#: Maximum number of pairs, rules or conditions that a sentence lists by name.
LISTED = 5
#: Allowed difference between the browser's and the server's time of a response, in milliseconds.
CLOCKS = 2000
#: Duration of the simplest reaction to a visual stimulus, in milliseconds; a choice takes longer.
REACTION = 200


#: Shuffled options put the correct one at one place so often with less than this probability.
UNSHUFFLED = 1e-6


@dataclass(frozen=True)
class Check:
    """One kind of irregularity that is checked.

    Attributes:
        name: in the table. sentence: for the report, unless all counts are 0.
        participants, answers, trials: how many; None where it is not counted.
    """

    name: str
    sentence: str
    participants: int | None = None
    answers: int | None = None
    trials: int | None = None


def checks(responses: Responses) -> list[Check]:
    """Return all checks, in the order of the table."""
    parts = (_people, _incomplete, _confidence, _times, _order, _places, _durations, _unanswered,
             _rules, _unchecked)  # fmt: skip
    return [check for part in parts for check in part(responses)]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _people(responses: Responses) -> Iterator[Check]:
    people, pairs = responses.everyone, responses.identical
    went_on = ~people["status"].isin(["arrived", "screened_out", "expired", "withdrawn"])
    count = int(((people["excluded"] == NO_CONSENT) & went_on).sum())
    yield Check(
        "continued without stored consent",
        f"No consent is stored of {pluralise(count, 'participant')} who went on; their responses "
        "were neither analysed nor kept.",
        count,
    )
    named = [
        f"{row.first} and {row.second} in {row.agreeing} of {pluralise(row.common, 'trial')}"
        for row in pairs.itertuples()
    ]
    kept = (
        "One of each pair was excluded."
        if "identical_above" in responses.study.exclusions
        else "No frozen rule excludes them; the table of thresholds shows the results with one of "
        "each pair."
    )
    yield Check(
        "identical responses and times as another participant",
        "Participants with identical responses at identical times, as if the same person had taken "
        f"part twice: {pluralise(len(pairs), 'pair')} ({_listed(named)}). {kept}",
        len({*pairs["first"], *pairs["second"]}),
    )
    count = int((people["excluded"] == NO_ANSWERS).sum())
    yield Check(
        "finished without any response",
        f"{pluralise(count, 'participant')} finished without a response to any trial.",
        count,
    )


def _incomplete(responses: Responses) -> Iterator[Check]:
    """Yield analysed participants with fewer trials than their form, or with trials of several
    forms."""
    answers, study = responses.answers, responses.study.study
    condition = {
        t.id: f"{responses.study.name(t.task)}, {spaced(t.condition)}"
        for t in study.trials
        if t.role == "trial"
    }
    forms = [set(chain(*form)) & condition.keys() for form in study.forms]
    shown, lost = Counter[str](), Counter[str]()
    count, strangers = 0, 0
    for _, given in answers.groupby("participant")["trial"]:
        trials = set(given)
        form = max(forms, key=lambda f: len(f & trials), default=set())
        strangers += not trials <= form
        count += bool(form - trials)
        shown.update(condition[t] for t in form)
        lost.update(condition[t] for t in form - trials)
    worst = sorted(lost, key=lambda name: (-lost[name] / shown[name], name))
    named = [f"{name}: {lost[name]} of {shown[name]}" for name in worst]
    yield Check(
        "fewer responses than the form has trials",
        f"{pluralise(count, 'analysed participant')} answered fewer trials than their form holds; "
        f"{pluralise(lost.total(), 'response is', 'responses are')} missing ({_listed(named)}). If "
        "they are missing more often where the answer would be incorrect, accuracy is too high.",
        count,
        lost.total(),
    )
    yield Check(
        "answered trials of more than one form",
        f"{pluralise(strangers, 'analysed participant')} answered trials of several forms, which "
        "the survey never shows to one person.",
        strangers,
    )


def _confidence(responses: Responses) -> Iterator[Check]:
    answers, study = responses.answers, responses.study.study
    tasks = [t for t in answers["task"].unique() if (task := task_of(t)) and task.confidence]
    wanted = answers["task"].isin(tasks if study.confidence else [])
    missing = int((wanted & answers["confidence"].isna()).sum())
    unasked = int((~wanted & answers["confidence"].notna()).sum())
    yield Check(
        "missing confidence ratings",
        f"Confidence is missing in {pluralise(missing, 'response')} of {int(wanted.sum()):,} that "
        "the study asks it of; analyses of confidence leave them out.",
        answers=missing,
    )
    yield Check(
        "unexpected confidence ratings",
        f"{pluralise(unasked, 'response')} came with a confidence that the study does not ask for.",
        answers=unasked,
    )


def _times(responses: Responses) -> Iterator[Check]:
    answers = responses.answers
    taken = answers["milliseconds"].fillna(0)
    passed = (answers["answered_at"] - answers["shown_at"]).dt.total_seconds() * 1000
    none, longer = int((taken == 0).sum()), int((taken > passed + CLOCKS).sum())
    yield Check(
        "missing response times",
        f"The browser gave no time, or 0, for {pluralise(none, 'response')}; analyses of time "
        "leave them out.",
        answers=none,
    )
    yield Check(
        "response time longer than the time that passed on the server",
        f"For {pluralise(longer, 'response')} the browser gave a longer time than passed between "
        "showing the trial and storing the response; analyses of time include them.",
        answers=longer,
    )
    fast = int((taken.gt(0) & (taken < REACTION)).sum())
    yield Check(
        f"response time below {REACTION} ms",
        f"{pluralise(fast, 'response')} came less than {REACTION} ms after the pictures were "
        "shown, faster than people can react. They are analysed like the others.",
        answers=fast,
    )
    late = int(answers["late"].sum())
    yield Check(
        "later than the time limit of the trial",
        f"{pluralise(late, 'response')} reached the server more than {LATE_AFTER} s after the time "
        "limit of the trial; they are analysed like the others.",
        answers=late,
    )


def _order(responses: Responses) -> Iterator[Check]:
    """Yield responses that overlap in time with the one before them, which the survey precludes."""
    answers = responses.answers.sort_values(["participant", "position"])
    before = answers.groupby("participant")["answered_at"].shift()
    overlap = (before - answers["shown_at"]).dt.total_seconds() * 1000 > CLOCKS
    count, who = int(overlap.sum()), answers.loc[overlap, "participant"].nunique()
    yield Check(
        "positions that contradict the times",
        f"By position, {pluralise(count, 'trial')} of {pluralise(who, 'analysed participant')} "
        f"{'was' if count == 1 else 'were'} shown before the previous response was stored, which "
        "the survey precludes: positions or times were altered. The change over the session "
        "follows the positions.",
        who,
        count,
    )


def _durations(responses: Responses) -> Iterator[Check]:
    """Yield sessions whose stored duration contradicts its start and end, which exclusion rules
    use."""
    people = responses.everyone
    moments = people["finished_at"] - people["consented_at"]
    apart = (people["total_seconds"] - moments.dt.total_seconds()).abs() * 1000 > CLOCKS
    count = int(apart.sum())
    yield Check(
        "duration other than from consent to the end",
        f"For {pluralise(count, 'participant')}, total_seconds is not the time from consented_at "
        "to finished_at; the rules of exclusion go by total_seconds.",
        count,
    )
    unended = int(((people["status"] == "finished") & people["finished_at"].isna()).sum())
    yield Check(
        "finished without a time of finishing",
        f"{pluralise(unended, 'participant')} finished according to status, but finished_at is "
        "empty; they count as finished.",
        unended,
    )
    ends = responses.answers["participant"].map(people.set_index("participant")["finished_at"])
    after = responses.answers["answered_at"] > ends
    late = responses.answers.loc[after, "participant"].nunique()
    yield Check(
        "responses after the end of participation",
        f"{pluralise(int(after.sum()), 'response')} of {pluralise(late, 'analysed participant')} "
        f"{'was' if after.sum() == 1 else 'were'} stored after finished_at; they are analysed like "
        "the others.",
        late,
        int(after.sum()),
    )


def _places(responses: Responses) -> Iterator[Check]:
    """Yield tasks whose correct option was at one place on screen more often than shuffling
    brings about: whoever always chooses that place then seems to know."""
    answers, study = responses.answers, responses.study
    named, count = [], 0
    for task in sorted(set(answers["task"]) & set(study.choice_tasks)):
        rows = answers.loc[answers["task"] == task, ["trial", "options"]]
        shown = [json.loads(options) for options in rows["options"]]
        keys = [study.keys[trial] for trial in rows["trial"]]
        places = Counter(o.index(key) for o, key in zip(shown, keys, strict=True))
        most, fewest = max(places.values()), min(map(len, shown))
        if fewest * binom.sf(most - 1, len(rows), 1 / fewest) < UNSHUFFLED:
            named.append(f"{study.name(task)}: {most} of {len(rows)}")
            count += len(rows)
    yield Check(
        "correct option too often at one place on screen",
        "The correct option was shown at one place on screen more often than random placement "
        f"explains ({_listed(named)}). Participants who prefer this place seem to recognise the "
        "concepts.",
        answers=count,
    )


def _unanswered(responses: Responses) -> Iterator[Check]:
    trials = responses.study.data
    trials = trials[~trials["trial"].isin(responses.answers["trial"])]
    named = [
        f"{responses.study.name(str(task))}, {spaced(str(condition))}: {len(rows)}"
        for (task, condition), rows in trials.groupby(["task", "condition"])
    ]
    yield Check(
        "trials without an analysed response",
        f"No analysed response was given to {pluralise(len(trials), 'trial')} of the study "
        f"({_listed(named)}).",
        trials=len(trials),
    )


def _rules(responses: Responses) -> Iterator[Check]:
    flow = responses.flow.set_index("step")
    finished = int(flow.loc["finished", "participants"])
    for step, unfit in flow["not applicable"].dropna().items():
        rule = str(step).removeprefix("excluded: ")
        whom = (
            "anybody" if unfit == finished else f"{unfit} of {pluralise(finished, 'participant')}"
        )
        yield Check(
            f"rule could not be applied: {rule}",
            f"The frozen rule “{rule}” could not be applied to {whom} who finished: the data that "
            "the rule needs are missing or too few.",
            int(unfit),
        )


def _unchecked(responses: Responses) -> Iterator[Check]:
    """Yield responses to user-defined tasks whose module cannot be imported here."""
    for task, count in responses.answers["task"].value_counts().items():
        if task_of(str(task)) is None:
            yield Check(
                f"responses to {task} not checked",
                f"The module of task {task} could not be imported; its responses were checked only "
                "against the options shown.",
                answers=int(count),
            )


def notes(responses: Responses) -> list[str]:
    """Return sentences on irregularities."""
    return [c.sentence for c in checks(responses) if any((c.participants, c.answers, c.trials))]


@shelf.table("study", "people")
def data_quality(results: Results) -> Table | None:
    counts = ["participants", "answers", "trials"]
    frame = pd.DataFrame(map(asdict, checks(results.responses)))
    frame = frame.astype(dict.fromkeys(counts, "Int64"))
    if not frame[counts].any(axis=None):
        return None
    return Table(
        "data_quality",
        "Data quality checks",
        "All rows passed validation against the frozen study. The table counts irregularities "
        "that are not errors. Counts are of analysed "
        "participants unless the row says otherwise. –: not applicable.",
        frame[["name", *counts]].rename(columns={"name": "check"}),
    )


@shelf.sentences("study", "people")
def data_quality_notes(results: Results, tables: Mapping[str, Table]) -> list[str]:
    if "data_quality" in tables:
        return notes(results.responses)
    looked_for = len(checks(results.responses))
    return [
        "All rows passed validation, and none of the "
        f"{looked_for} checks for other irregularities found one."
    ]
