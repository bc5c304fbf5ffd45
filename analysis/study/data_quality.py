"""Irregularities of responses that are not errors, and exclusion rules without data.

They are shown as a table and as sentences of the section on participants.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain

import pandas as pd
from scipy.stats import binom, chisquare

from analysis.exhibits import shelf
from analysis.exhibits.phrases import as_words
from analysis.exhibits.tables import Table
from analysis.study.frozen_study import task_of
from analysis.study.responses import NO_ANSWERS, NO_CONSENT, Responses
from analysis.study.results import Results
from harness.text import join_names, pluralise
from tasks.responses import LATE_AFTER, options_shown

#: Allowed difference between the browser's and the server's time of a response, in milliseconds.
CLOCKS = 2000
#: Duration of the simplest reaction to a visual stimulus, in milliseconds; a choice takes longer.
REACTION = 200


#: Exclusions that do not depend on the form make forms so unequal with less than this probability.
UNEQUAL = 0.01
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
    kinds = (_people, _incomplete, _confidence, _times, _order, _places, _durations, _forms,
             _unanswered, _rules, _unchecked)  # fmt: skip
    return [check for kind in kinds for check in kind(responses)]


def _people(responses: Responses) -> Iterator[Check]:
    people, pairs = responses.everyone, responses.identical
    continued = ~people["status"].isin(["arrived", "screened_out", "expired", "withdrawn"])
    count = int(((people["excluded"] == NO_CONSENT) & continued).sum())
    yield Check(
        "continued without stored consent",
        f"No consent is stored of {pluralise(count, 'participant')} who went on; their responses "
        "were neither analysed nor kept.",
        count,
    )
    texts = [
        f"{row.first} and {row.second} in {row.agreeing} of {pluralise(row.common, 'trial')}"
        for row in pairs.itertuples()
    ]
    treatment = (
        "One of each pair was excluded."
        if "identical_above" in responses.study.exclusions
        else "No frozen rule excludes them; the table of thresholds shows the results with one of "
        "each pair."
    )
    yield Check(
        "identical responses and times as another participant",
        "Participants with identical responses at identical times, as if the same person had taken "
        f"part twice: {pluralise(len(pairs), 'pair')} ({join_names(texts)}). {treatment}",
        len({*pairs["first"], *pairs["second"]}),
    )
    count = int((people["excluded"] == NO_ANSWERS).sum())
    yield Check(
        "finished without any response",
        f"{pluralise(count, 'participant')} finished without a response to any trial.",
        count,
    )


def _incomplete(responses: Responses) -> Iterator[Check]:
    """Yield analysed participants with trials missing from their form, or of several forms."""
    answers, study = responses.answers, responses.study.study
    condition = {
        t.id: f"{responses.study.name(t.task)}, {as_words(t.condition)}"
        for t in study.trials
        if t.role == "trial"
    }
    forms = [set(chain(*form)) & condition.keys() for form in study.forms]
    planned, missing = Counter[str](), Counter[str]()
    count, mixed_forms = 0, 0
    for _, answered in answers.groupby("participant")["trial"]:
        trials = set(answered)
        form = max(forms, key=lambda f: len(f & trials), default=set())
        mixed_forms += not trials <= form
        count += bool(form - trials)
        planned.update(condition[t] for t in form)
        missing.update(condition[t] for t in form - trials)
    order = sorted(missing, key=lambda name: (-missing[name] / planned[name], name))
    texts = [f"{name}: {missing[name]} of {planned[name]}" for name in order]
    yield Check(
        "fewer responses than the form has trials",
        f"{pluralise(count, 'analysed participant')} answered fewer trials than their form holds; "
        f"{pluralise(missing.total(), 'response is', 'responses are')} missing "
        f"({join_names(texts)}). If they are missing more often where the response would be "
        "incorrect, accuracy is too high.",
        count,
        missing.total(),
    )
    yield Check(
        "answered trials of more than one form",
        f"{pluralise(mixed_forms, 'analysed participant')} answered trials of several forms, which "
        "the survey never shows to one person.",
        mixed_forms,
    )


def _confidence(responses: Responses) -> Iterator[Check]:
    answers, study = responses.answers, responses.study.study
    tasks = [t for t in answers["task"].unique() if (task := task_of(t)) and task.confidence]
    is_planned = answers["task"].isin(tasks if study.confidence else [])
    missing = int((is_planned & answers["confidence"].isna()).sum())
    unplanned = int((~is_planned & answers["confidence"].notna()).sum())
    yield Check(
        "missing confidence ratings",
        f"Confidence is missing in {pluralise(missing, 'response')} of {int(is_planned.sum()):,} "
        "that the study asks it of; analyses of confidence leave them out.",
        answers=missing,
    )
    yield Check(
        "unexpected confidence ratings",
        f"{pluralise(unplanned, 'response')} came with a confidence that the study does not ask "
        "for.",
        answers=unplanned,
    )


def _times(responses: Responses) -> Iterator[Check]:
    answers = responses.answers
    browser_times = answers["milliseconds"].fillna(0)
    elapsed = (answers["answered_at"] - answers["shown_at"]).dt.total_seconds() * 1000
    missing = int((browser_times == 0).sum())
    too_long = int((browser_times > elapsed + CLOCKS).sum())
    yield Check(
        "missing response times",
        f"The browser gave no time, or 0, for {pluralise(missing, 'response')}; analyses of time "
        "leave them out.",
        answers=missing,
    )
    yield Check(
        "response time longer than the time that passed on the server",
        f"For {pluralise(too_long, 'response')} the browser gave a longer time than passed between "
        "showing the trial and storing the response; analyses of time include them.",
        answers=too_long,
    )
    too_fast = int((browser_times.gt(0) & (browser_times < REACTION)).sum())
    yield Check(
        f"response time below {REACTION} ms",
        f"{pluralise(too_fast, 'response')} came less than {REACTION} ms after the pictures were "
        "shown, faster than people can react. They are analysed like the others.",
        answers=too_fast,
    )
    late = int(answers["late"].sum())
    yield Check(
        "later than the time limit of the trial",
        f"{pluralise(late, 'response')} reached the server more than {LATE_AFTER} s after the time "
        "limit of the trial; they are analysed like the others.",
        answers=late,
    )


def _order(responses: Responses) -> Iterator[Check]:
    """Yield responses that overlap in time with the one before, which the survey does not allow."""
    answers = responses.answers.sort_values(["participant", "position"])
    previous = answers.groupby("participant")["answered_at"].shift()
    overlap = (previous - answers["shown_at"]).dt.total_seconds() * 1000 > CLOCKS
    count, participants = int(overlap.sum()), answers.loc[overlap, "participant"].nunique()
    yield Check(
        "positions that contradict the times",
        f"By position, {pluralise(count, 'trial')} of "
        f"{pluralise(participants, 'analysed participant')} {'was' if count == 1 else 'were'} "
        "shown before the previous response was stored, which the survey does not allow: positions "
        "or times were altered. The change over the session is estimated by the positions.",
        participants,
        count,
    )


def _durations(responses: Responses) -> Iterator[Check]:
    """Yield sessions whose duration, which exclusion rules use, contradicts start and end."""
    people = responses.everyone
    session_times = people["finished_at"] - people["consented_at"]
    differs = (people["total_seconds"] - session_times.dt.total_seconds()).abs() * 1000 > CLOCKS
    count = int(differs.sum())
    yield Check(
        "duration other than from consent to the end",
        f"For {pluralise(count, 'participant')}, total_seconds is not the time from consented_at "
        "to finished_at; the rules of exclusion go by total_seconds.",
        count,
    )
    no_end = int(((people["status"] == "finished") & people["finished_at"].isna()).sum())
    yield Check(
        "finished without a time of finishing",
        f"{pluralise(no_end, 'participant')} finished according to status, but finished_at is "
        "empty; they count as finished.",
        no_end,
    )
    end_times = responses.answers["participant"].map(people.set_index("participant")["finished_at"])
    is_after = responses.answers["answered_at"] > end_times
    participants = responses.answers.loc[is_after, "participant"].nunique()
    yield Check(
        "responses after the end of participation",
        f"{pluralise(int(is_after.sum()), 'response')} of "
        f"{pluralise(participants, 'analysed participant')} "
        f"{'was' if is_after.sum() == 1 else 'were'} stored after finished_at; they are analysed "
        "like the others.",
        participants,
        int(is_after.sum()),
    )


def _places(responses: Responses) -> Iterator[Check]:
    """Yield tasks whose correct option was at one screen position more often than random placement
    explains: participants who always choose this position then seem to recognise the concepts."""
    answers, study = responses.answers, responses.study
    texts, count = [], 0
    for task in sorted(set(answers["task"]) & set(study.choice_tasks)):
        rows = answers.loc[answers["task"] == task, ["trial", "options"]]
        option_lists = options_shown(rows)
        keys = [study.keys[trial] for trial in rows["trial"]]
        places = Counter(o.index(key) for o, key in zip(option_lists, keys, strict=True))
        largest, fewest = max(places.values()), min(map(len, option_lists))
        if fewest * binom.sf(largest - 1, len(rows), 1 / fewest) < UNSHUFFLED:
            texts.append(f"{study.name(task)}: {largest} of {len(rows)}")
            count += len(rows)
    yield Check(
        "correct option too often at one place on screen",
        "The correct option was shown at one place on screen more often than random placement "
        f"explains ({join_names(texts)}). Participants who prefer this place seem to recognise the "
        "concepts.",
        answers=count,
    )


def _forms(responses: Responses) -> Iterator[Check]:
    """Yield whether the numbers of participants differ more between forms than by chance; all
    forms have equally many places."""
    study = responses.study.study
    people = responses.answers.drop_duplicates("participant")
    counts = people["trial"].map(study.form_of).value_counts()
    counts = counts.reindex(range(len(study.forms)), fill_value=0)
    texts = [f"form {form}: {count}" for form, count in counts.sort_values(kind="stable").items()]
    differ = len(people) > 0 and chisquare(counts).pvalue < UNEQUAL
    yield Check(
        "difference in participants between forms",
        "The numbers of analysed participants of the forms differ more than by chance "
        f"({join_names(texts)}); trials of the less frequent forms have fewer responses.",
        int(counts.max() - counts.min()) if differ else 0,
    )


def _unanswered(responses: Responses) -> Iterator[Check]:
    trials = responses.study.data
    trials = trials[~trials["trial"].isin(responses.answers["trial"])]
    texts = [
        f"{responses.study.name(str(task))}, {as_words(str(condition))}: {len(rows)}"
        for (task, condition), rows in trials.groupby(["task", "condition"])
    ]
    yield Check(
        "trials without an analysed response",
        f"No analysed response was given to {pluralise(len(trials), 'trial')} of the study "
        f"({join_names(texts)}).",
        trials=len(trials),
    )


def _rules(responses: Responses) -> Iterator[Check]:
    flow = responses.flow.set_index("step")
    finished = int(flow.loc["finished", "participants"])
    for step, number in flow["not applicable"].dropna().items():
        rule = str(step).removeprefix("excluded: ")
        whom = (
            "anybody" if number == finished else f"{number} of {pluralise(finished, 'participant')}"
        )
        yield Check(
            f"rule could not be applied: {rule}",
            f"The frozen rule “{rule}” could not be applied to {whom} who finished: the data that "
            "the rule needs are missing or too few.",
            int(number),
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
        "that are not errors. Responses are those of analysed participants; consent, duration, "
        "time of finishing, identical responses and rules are checked for all participants. "
        "–: not applicable.",
        frame[["name", *counts]].rename(columns={"name": "check"}),
    )


@shelf.sentences("study", "people")
def data_quality_notes(results: Results, tables: Mapping[str, Table]) -> list[str]:
    if "data_quality" in tables:
        return notes(results.responses)
    n_checks = len(checks(results.responses))
    return [
        "All rows passed validation, and none of the "
        f"{n_checks} checks for other irregularities found one."
    ]
