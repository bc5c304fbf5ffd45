"""Compute from a design the duration of a session and the number of attention trials.

Values that a researcher sets are checked against the design when a study is built: a study must not
exclude participants for one error, or state less time than it takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from tasks.kinds import all_tasks
from tasks.settings import StudySettings

Design = Mapping[str, Mapping[str, int]]

SECONDS = 20  # a trial of a task that does not say how long one takes
CONFIDENCE, FEEDBACK, QUESTION = 3, 5, 6  # seconds for each
READING = 120  # seconds for consent, instructions and debrief
LEAST_ATTENTION = 2  # platforms ask for several before anybody may be refused


@dataclass(frozen=True)
class Size:
    """Attention trials per participant, and the minutes stated in the consent form."""

    attention: int
    minutes: int


def least_attention(threshold: float | None) -> int:
    """Return the fewest attention trials of which one may be failed without falling below the
    rule.

    Raises:
        ValueError: with this threshold, one error excludes a participant for any number of trials.
    """
    if threshold is None:
        return LEAST_ATTENTION
    if threshold >= 1:
        raise ValueError(
            "exclusion.attention_below = 1.0 excludes participants for a single error, however "
            "many attention trials there are; choose less than 1, e.g. 0.8"
        )
    return next(n for n in range(LEAST_ATTENTION, 1002) if n - 1 >= threshold * n)


def size(design: Design, settings: StudySettings, questions: int) -> Size:
    """Return attention trials and minutes, as set or as they follow from the design.

    Args:
        questions: number of questions beside the trials.

    Raises:
        ValueError: what is set contradicts the rest; the text says what would fit.
    """
    attention = _attention(design, settings)
    estimate = seconds(design, settings, attention, questions) / 60
    minutes = settings.minutes or ceil(estimate)
    if minutes < estimate / 2:
        raise ValueError(
            f"minutes = {minutes}: this design takes about {ceil(estimate)} minutes; state this, "
            f"leave minutes out, or ask for fewer trials"
        )
    _check_rules(settings, minutes)
    return Size(attention, minutes)


def control_tasks(design: Design) -> list[str]:
    """Return the tasks with obvious trials, which serve as practice and attention trials."""
    return [name for name in design if all_tasks().get(name).control is not None]


def practice_counts(design: Design, count: int) -> dict[str, int]:
    """Return the number of practice trials of each task: one in a task without obvious trials."""
    obvious = control_tasks(design)
    return {name: count if name in obvious else min(count, 1) for name in design}


def _attention(design: Design, settings: StudySettings) -> int:
    requested, threshold = settings.attention.trials, settings.exclusion.attention_below
    if not control_tasks(design):
        if requested:
            raise ValueError(
                f"attention.trials = {requested}: none of {', '.join(design)} has trials with an "
                f"obvious answer; leave attention.trials out"
            )
        return 0
    minimum = least_attention(threshold)
    if requested is not None and 0 < requested < minimum:
        raise ValueError(
            f"attention.trials = {requested} with exclusion.attention_below = {threshold}: one "
            f"error would exclude a participant; ask for at least {minimum} attention trials (or "
            f"none), or lower the threshold"
        )
    return minimum if requested is None else requested


def _check_rules(settings: StudySettings, minutes: int) -> None:
    limits = settings.exclusion.total_seconds_outside
    if limits is not None and not limits[0] < 60 * minutes < limits[1]:
        raise ValueError(
            f"exclusion.total_seconds_outside = {list(limits)}: this study takes about "
            f"{60 * minutes} seconds and would exclude most people; choose limits around that"
        )
    reading = settings.exclusion.instruction_seconds_below
    if reading is not None and reading >= READING:
        raise ValueError(
            f"exclusion.instruction_seconds_below = {reading:g}: all texts together take about "
            f"{READING} seconds to read, so that this would exclude most people; choose less"
        )
    allowed = settings.exclusion.practice_attempts_above
    if allowed is not None and settings.practice.attempts > allowed:
        raise ValueError(
            f"practice.attempts = {settings.practice.attempts}: whoever needs more than "
            f"exclusion.practice_attempts_above = {allowed} would answer all trials and then be "
            f"excluded; allow at most {allowed}"
        )


def seconds(design: Design, settings: StudySettings, attention: int, questions: int) -> float:
    """Return the approximate duration of a session."""
    times = {name: _trial_seconds(name, settings) for name in design}
    trials = sum(times[name] * sum(conditions.values()) for name, conditions in design.items())
    controls = [times[name] for name in control_tasks(design)]
    checks = attention * sum(controls) / len(controls) if controls else 0
    counts = practice_counts(design, settings.practice.trials)
    practice = sum(n * (times[name] + FEEDBACK) for name, n in counts.items())
    return READING + practice + trials + checks + QUESTION * questions


def _trial_seconds(name: str, settings: StudySettings) -> float:
    task = all_tasks().get(name)
    confidence_seconds = CONFIDENCE if settings.confidence and task.confidence else 0
    duration = getattr(task, "seconds", SECONDS) + confidence_seconds
    return min(duration, settings.seconds_per_trial or duration)
