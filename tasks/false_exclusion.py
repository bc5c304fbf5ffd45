"""Simulate, from the design, how often an exclusion rule excludes attentive participants by chance.

Such exclusions would select responses by their values. `study build` does not freeze a rule that
chance alone triggers, and the analysis does not apply one to a participant who gave too few
responses for it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from tasks.settings import Exclusion

#: Largest share of attentive participants that a rule may exclude.
LIMIT = 0.05
SIMULATIONS = 20_000
#: Thresholds that a message may recommend.
THRESHOLDS = (0.85, 0.9, 0.95)


def one_sided_rate(options: Sequence[int], threshold: float) -> float:
    """Return the share of participants who favour no screen position, but choose one more often
    than `threshold` by chance (simulated).

    Options are shown in random order, so that the choice of such a participant falls on every
    position of its trial with the same probability.

    Args:
        options: number of options of each trial that a participant answers.
        threshold: largest share of choices that may fall on one position.
    """
    return _one_sided_rate(tuple(sorted(options)), float(threshold))


@lru_cache(maxsize=4096)
def _one_sided_rate(options: tuple[int, ...], threshold: float) -> float:
    if not options:
        return 0.0
    rng = np.random.default_rng([len(options), *options])
    choice_counts = np.zeros((SIMULATIONS, max(options)), dtype=int)
    for size in sorted(set(options)):
        count = options.count(size)
        choice_counts[:, :size] += rng.multinomial(count, np.full(size, 1 / size), SIMULATIONS)
    return float((choice_counts.max(axis=1) / len(options) > threshold).mean())


def check_rules(rules: Exclusion, options: Sequence[int], say: Callable[[str], None]) -> Exclusion:
    """Return the rules that may be frozen: none that chance alone would trigger.

    A rule on one-sided choices that the researcher wrote is refused; the default is switched off,
    and that is said.

    Args:
        options: number of options of each trial with a right answer that a participant answers.

    Raises:
        ValueError: more than LIMIT of attentive participants would be excluded by chance.
    """
    threshold = rules.one_sided_above
    if threshold is None or not options:
        return rules
    rate = one_sided_rate(options, threshold)
    if rate <= LIMIT:
        return rules
    reason = (
        f"of participants who favour no position, {100 * rate:.0f} % would be excluded by chance "
        f"alone, because a participant of this design chooses only {len(options)} times "
        f"({SIMULATIONS:,} simulated participants); allowed: at most {100 * LIMIT:g} %"
    )
    if "one_sided_above" not in rules.model_fields_set:
        say(f"exclusion.one_sided_above, by default {threshold:g}, is switched off: {reason}")
        return rules.model_copy(update={"one_sided_above": None})
    allowed = [t for t in THRESHOLDS if t > threshold and one_sided_rate(options, t) <= LIMIT]
    remedy = f"raise it to {allowed[0]}, " if allowed else ""
    raise ValueError(
        f"exclusion.one_sided_above = {threshold:g}: {reason}; {remedy}ask for more trials, or "
        f"switch the rule off with one_sided_above = false"
    )
