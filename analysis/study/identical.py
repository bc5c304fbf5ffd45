"""Pairs of participants with equal responses and times: one person twice, or duplicated rows."""

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
    names, same = ["first", "second"], ["trial", "answer", "time"]
    frames = []
    for time in (browser_times, seconds.mask(is_shared)):
        rows = table[["participant", "trial", "answer"]].assign(time=time).dropna()
        rows = rows[rows.duplicated(same, keep=False)].rename(columns={"participant": "first"})
        both = rows.merge(rows.rename(columns={"first": "second"}), on=same)
        frames.append(both[both["first"] < both["second"]])
    agreeing = pd.concat(frames).drop_duplicates([*names, "trial"])
    pairs = agreeing.groupby(names).size().reset_index(name="agreeing")
    trials_of = {name: set(trials) for name, trials in table.groupby("participant")["trial"]}
    pairs["common"] = [len(trials_of[a] & trials_of[b]) for a, b in pairs[names].to_numpy()]
    is_reported = (pairs["agreeing"] >= TRIALS) & (pairs["agreeing"] > SHARE * pairs["common"])
    return pairs[is_reported].reset_index(drop=True)
