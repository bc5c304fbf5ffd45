"""Pairs of participants with equal responses and times: one person twice, or duplicated rows."""

from __future__ import annotations

from itertools import combinations

import pandas as pd

#: A pair is reported if response and time agree in at least this many trials, and in more than this
#: share of the trials to which both responded. The times of two people agree to the millisecond in
#: about one trial of some thousands.
TRIALS, SHARE = 3, 0.5


def identical_pairs(table: pd.DataFrame, people: pd.DataFrame) -> pd.DataFrame:
    """Return pairs of participants with equal responses at equal times.

    Times are equal if the browser measured equal milliseconds (0 means not measured), or if equal
    times had passed since consent.

    Args:
        table, people: of `tasks.responses.RESPONSES` (role "trial" only) and PARTICIPANTS.

    Returns:
        first, second (in the order of their names), agreeing (trials), common (trials).
    """
    consented_at = people.set_index("participant")["consented_at"]
    consent = consented_at.reindex(table["participant"]).set_axis(table.index)
    browser_times = table["milliseconds"].where(table["milliseconds"] > 0)
    seconds = (table["answered_at"] - consent).dt.total_seconds()
    # Moments that several responses of a participant share are those of a session, not of each.
    is_shared = table.assign(passed=seconds).duplicated(["participant", "passed"], keep=False)
    times = browser_times, seconds.mask(is_shared)
    agreeing: dict[tuple[str, str], set[str]] = {}
    for time in times:
        rows = table.assign(time=time).dropna(subset=["time", "answer"])
        rows = rows[rows.duplicated(["trial", "answer", "time"], keep=False)]
        for key, names in rows.groupby(["trial", "answer", "time"])["participant"]:
            for pair in combinations(sorted(set(names)), 2):
                agreeing.setdefault(pair, set()).add(str(key[0]))
    answered_trials = {name: set(trials) for name, trials in table.groupby("participant")["trial"]}
    pairs = []
    for (first, second), trials in sorted(agreeing.items()):
        common = len(answered_trials[first] & answered_trials[second])
        if len(trials) >= TRIALS and len(trials) > SHARE * common:
            pairs.append((first, second, len(trials), common))
    return pd.DataFrame(pairs, columns=["first", "second", "agreeing", "common"])
