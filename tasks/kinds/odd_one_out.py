"""Odd one out: which of six neurons does not belong to the other five? (ConceptEvo's alignment
study.)

The five are a target and its four nearest neighbours; the target is shown but is never drawn as its
own neighbour. The intruder lies outside the target's nearest `OUTSIDE` and at the target's layer
depth, so that neither nearness nor texture gives it away. Where nothing belongs together (condition
`random`) one neuron is named the intruder beforehand, so that the condition measures chance: 1/6.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.base import TASKS, TRIES, Draft, Example, NoTrial, PickOne, Trial
from tasks.clusters import find_clusters
from tasks.drawings import COLOURS, draw_group
from tasks.evidence import Evidence, channel_of
from tasks.language import N_
from tasks.observer import likeness

GROUPS = 6
OUTSIDE = 100  # the intruder is not among this many nearest neighbours of the target
SAME_DEPTH = 0.1  # relative depths closer than this count as the same depth
#: Likeness below which an intruder is obvious; on the drawn images random neurons have .87 to .98.
OBVIOUS_BELOW = 0.87
#: Least share of one class among the stimuli of an attention trial's five, and the largest share
#: of classes that the intruder may have in common with them.
COHERENT, SHARED_KINDS = 0.5, 0.1


def nearest_neighbours(evidence: Evidence, target: int, pool: np.ndarray, count: int) -> list[int]:
    """Return the nearest rows of `pool` in order, at most one of each channel of a series.

    The same channel at another epoch shares most of its stimuli; it would make the trial a
    comparison of identical pictures.
    """
    order = evidence.space.nearest(np.array([target]), pool, len(pool))[0][0]
    channels = {channel_of(evidence.neurons[target])}
    rows: list[int] = []
    for row in order[order >= 0]:
        channel = channel_of(evidence.neurons[row])
        if channel not in channels:
            channels.add(channel)
            rows.append(int(row))
        if len(rows) == count:
            break
    return rows


def draw_intruder(
    evidence: Evidence, target: int, members: list[int], pool: np.ndarray, rng: np.random.Generator
) -> int:
    """Draw a row at the target's depth, outside its nearest OUTSIDE (at most half the pool)."""
    outside = min(OUTSIDE, len(pool) // 2)
    nearest = evidence.space.nearest(np.array([target]), pool, outside)[0][0]
    depth = np.abs(evidence.depth[pool] - evidence.depth[target]) < SAME_DEPTH
    channels = {channel_of(evidence.neurons[row]) for row in [target, *members]}
    candidates = [
        int(row)
        for row in pool[depth & ~np.isin(pool, nearest)]
        if channel_of(evidence.neurons[row]) not in channels
    ]
    if not candidates:
        raise NoTrial(
            f"no intruder at the relative depth of {evidence.neurons[target]}; leave the condition "
            f"out of [trials] in study.toml, or probe more layers"
        )
    return int(rng.choice(candidates))


class OddOneOut(PickOne):
    name = "odd_one_out"
    order = 1
    label = "odd one out"
    design = (
        "Each of six options shows the image patches that activate one neuron most. Five neurons "
        "belong together; the first of them is the target. The sixth, the intruder, has nearly "
        "the same relative depth in its network as the target and is not among the target's 100 "
        "nearest neighbours (with fewer than 200 neurons, it is among the more distant half of "
        "them). Participants choose the option that does not belong (chance: one in six)."
    )
    meanings: Mapping[str, str] = {
        "base": "all neurons are of the base checkpoint",
        "same_series": "the target is of the base checkpoint, the others of any checkpoint of the "
        "base series",
        "other_series": "the target is of the base checkpoint, the others of any checkpoint of any "
        "series, the base series included",
        "hand_picked": "the five are of one hand-picked group, the intruder is not of its concept",
        "random": "all six are drawn at random; one of them, drawn beforehand, counts as correct, "
        "so accuracy should equal chance",
    }
    disclosed: Mapping[str, str] = {
        "random": N_(
            "In some trials of “Odd one out” the groups were chosen at random, so that the answer "
            "could only be guessed: they measure guessing."
        )
    }
    clear = 0.03
    seconds = 15
    title = N_("Odd one out")
    prompt = N_(
        "Five of these six groups of pictures belong together. Which one does **not** belong?"
    )
    asked = N_("The group that does not belong")
    instructions = N_(
        "You will see **six groups of small pictures**. Five groups have something in common: a "
        "colour, a shape, a pattern, or a kind of object. **Choose the group that does not "
        "belong.** Some trials are easy and some are difficult. If you see no answer, follow "
        "your first impression."
    )

    def example(self) -> Example:
        groups = [draw_group(("circle",), tuple(COLOURS)[i:], seed=i) for i in range(GROUPS - 1)]
        groups.insert(3, draw_group(("stripes",), ("violet", "yellow", "grey"), seed=9))
        text = N_(
            "In this example, group 4 does not belong: it shows stripes, and all other groups "
            "show circles."
        )
        return Example(text, options=tuple(groups), key=3)

    conditions: Mapping[str, int] = {
        "base": 3, "same_series": 3, "other_series": 3, "hand_picked": 2, "random": 3,
    }  # fmt: skip
    control: str | None = "obvious"
    controls: tuple[str, ...] = ("hand_picked", "random")

    def draw(self, evidence: Evidence, condition: str, rng: np.random.Generator) -> Draft:
        for _ in range(TRIES):
            try:
                members, odd, recipe = self._choose(evidence, condition, rng)
                break
            except NoTrial as error:
                reason = error
        else:
            raise NoTrial(f"odd_one_out {condition}: {reason}")
        rows = [*members, odd]
        order = rng.permutation(GROUPS)
        neurons = [evidence.neurons[rows[i]] for i in order]
        ranks: list[list[int] | None] = [None] * GROUPS  # the strongest stimuli
        if condition == self.control:  # one neuron is shown five times
            numbers = (len(evidence.stimuli(neuron)) for neuron in neurons)
            ranks = [rng.permutation(n)[: evidence.patches].tolist() for n in numbers]
        pictures = tuple(map(evidence.picture, neurons, ranks))
        key = int(np.flatnonzero(order == GROUPS - 1)[0])
        return Draft(tuple(dict.fromkeys(neurons)), key, options=pictures, recipe=recipe)

    def _choose(
        self, evidence: Evidence, condition: str, rng: np.random.Generator
    ) -> tuple[list[int], int, dict[str, Any]]:
        """Draw five rows and the row of the intruder, with a description of how they were drawn."""
        base = evidence.base
        all_rows = evidence.rows()
        if condition == "random":
            rows = rng.choice(all_rows, GROUPS, replace=False)
            return list(map(int, rows[:-1])), int(rows[-1]), {}
        if condition == "hand_picked":
            return self._choose_hand_picked(evidence, all_rows, rng)
        if condition == "obvious":
            return self._choose_obvious(evidence, rng)
        pools = {
            "base": evidence.rows(base.series, base.epoch),
            "same_series": evidence.rows(base.series),
            "other_series": all_rows,
        }
        pool = pools[condition]
        if evidence.eps is not None:
            return self._choose_from_cluster(evidence, condition, pool, rng)
        target = int(rng.choice(pools["base"]))
        nearest = nearest_neighbours(evidence, target, pool, GROUPS - 2)
        if len(nearest) < GROUPS - 2:
            raise NoTrial(
                f"fewer than {GROUPS - 2} neighbours with a vector; lower evidence.min_depth in "
                f"study.toml, or leave the condition out of [trials]"
            )
        odd = draw_intruder(evidence, target, nearest, pool, rng)
        return [target, *nearest], odd, {"target": str(evidence.neurons[target])}

    def _choose_from_cluster(self, evidence, condition, pool, rng):
        """Draw five rows of one cluster of the space, and an intruder from outside it."""
        if condition not in evidence.clusters:
            eps = evidence.eps[condition]
            evidence.clusters[condition] = find_clusters(evidence, pool, eps, GROUPS - 1)
        cluster_list = evidence.clusters[condition]
        if not cluster_list:
            raise NoTrial(
                f"no cluster of {GROUPS - 1} neurons with eps = {evidence.eps[condition]}; raise "
                f"evidence.eps.{condition} in study.toml"
            )
        cluster = cluster_list[rng.integers(len(cluster_list))]
        members = [int(row) for row in rng.choice(cluster, GROUPS - 1, replace=False)]
        outside = pool[~np.isin(pool, cluster)]
        odd = draw_intruder(evidence, members[0], members, outside, rng)
        return members, odd, {"cluster": len(cluster)}

    def _choose_hand_picked(self, evidence, all_rows, rng):
        groups = [g for g in evidence.groups if len(g.neurons) >= GROUPS - 1]
        if not groups:
            raise NoTrial(
                "no hand-picked group of five neurons; in study.toml, name groups (groups = 'FILE',"
                " which the page of `conceptevo explore` writes), or omit them: hand_picked = 0;"
                " or run with [images] attributes, which name the neurons"
            )
        picked = groups[rng.integers(len(groups))]
        rows = [evidence.row[neuron] for neuron in picked.neurons]
        members = [int(r) for r in rng.choice(rows, GROUPS - 1, replace=False)]
        of_concept = list(evidence.rows_by_concept[picked.concept])
        pool = all_rows[~np.isin(all_rows, of_concept)]
        odd = draw_intruder(evidence, members[0], members, pool, rng)
        return members, odd, {"concept": picked.concept}

    def _choose_obvious(self, evidence, rng):
        """Draw one neuron five times (with different stimuli), and a neuron whose pictures differ
        in colours and edges and are of other classes.

        Different colours and edges alone are not enough: both neurons may show flowers.
        """
        rows, features = evidence.sampled_features
        target = int(rng.integers(len(rows)))
        shares = evidence.class_shares(evidence.neurons[rows[target]])
        if shares.max() < COHERENT:
            raise NoTrial(
                f"attention and practice trials need a neuron with at least {COHERENT:.0%} of its "
                "stimuli from one class; choose later epochs or deeper layers ([evidence] in "
                "study.toml), or set attention.trials = 0 and practice.trials = 0"
            )
        similarities = features @ features[target]
        for odd in np.argsort(similarities)[: int((similarities <= OBVIOUS_BELOW).sum())]:
            overlap = np.minimum(shares, evidence.class_shares(evidence.neurons[rows[odd]])).sum()
            if overlap <= SHARED_KINDS:
                recipe = {"likeness": float(similarities[odd]), "shared_kinds": float(overlap)}
                return [int(rows[target])] * (GROUPS - 1), int(rows[odd]), recipe
        raise NoTrial(
            "no neuron's pictures differ enough in colours and edges and are of other classes, as "
            "attention and practice trials need; set attention.trials = 0 and practice.trials = 0"
        )

    def observe(self, trial: Trial, statistics: dict[str, np.ndarray]) -> tuple[Any, float]:
        """Choose the option least similar to the others; margin: its distance to the second."""
        pictures = [statistics[o.image] for o in trial.options]
        similarities = [
            np.mean([likeness(a, b) for j, b in enumerate(pictures) if j != i])
            for i, a in enumerate(pictures)
        ]
        order = np.argsort(similarities)
        return trial.options[order[0]].id, float(similarities[order[1]] - similarities[order[0]])


TASKS.add("odd_one_out")(OddOneOut())
