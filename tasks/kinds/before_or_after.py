"""Before or after: which of two new pictures activates the neuron more at the later checkpoint?

Two-alternative forced choice with references (Borowski et al. 2021; Zimmermann et al. 2021, 2023):
patches of one neuron at t and at t', then one new picture of the stimuli of each. The correct one
is among the stimuli at t' and not at t, so that it activates the later neuron more than the other
one does, which is a stimulus at t and not at t'. Chance is 1/2.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness.images.patches import make_grid
from harness.records import Neuron
from tasks.base import TASKS, TRIES, Draft, Example, NoTrial, PickOne, Trial
from tasks.drawings import draw_group
from tasks.evidence import GAP, TILE, Evidence
from tasks.language import N_
from tasks.observer import likeness

REFERENCES = {"nine_references": 9, "one_reference": 1, "catch": 9}
CLEAREST_OF = 12  # candidates of which a catch trial is the one that changed most visibly
SIDE = 3 * TILE + 2 * GAP  # pixels of one option: as large as a composite


def _preference(
    evidence: Evidence, before: Neuron, after: Neuron, neuron: Neuron, rank: int
) -> float:
    """Return how much more a stimulus of `neuron` resembles the later references."""
    features = evidence.features_of(neuron, [rank], columns=1)
    references = [evidence.features_of(n) for n in (before, after)]
    return likeness(features, references[1]) - likeness(features, references[0])


def _stronger(stimuli: pd.DataFrame) -> np.ndarray:
    """Return which stimuli activate the neuron more than every other image: bool [stimuli]. If
    several have the smallest activation (a saturated neuron), other images can have it, too."""
    activations = stimuli["activation"].to_numpy()
    is_smallest = activations == activations.min()
    return ~is_smallest | (is_smallest.sum() == 1)


class BeforeOrAfter(PickOne):
    name = "before_or_after"
    order = 3
    label = "before or after"
    design = (
        "Participants see reference patches of one neuron at an earlier and at a later "
        "checkpoint, and two new patches: one is among the neuron's strongest patches at the "
        "earlier checkpoint but not at the later one, the other at the later one but not at the "
        "earlier one. They choose the patch "
        "that fits the later checkpoint (chance: one in two)."
    )
    meanings: Mapping[str, str] = {
        "nine_references": "nine reference patches for each checkpoint",
        "one_reference": "one reference patch for each checkpoint",
    }
    clear = 0.05
    seconds = 12
    title = N_("Before or after")
    prompt = N_("Which of the two pictures below fits the **After** group better?")
    asked = N_("The picture that fits After")
    instructions = N_(
        "You will see two groups of small pictures, **Before** and **After**, and below them two "
        "new pictures. One new picture fits the *After* group, the other fits the *Before* group. "
        "**Pick the one that fits the After group.**"
    )

    def example(self) -> Example:
        before = draw_group(("stripes",), ("blue", "red", "green"), seed=1)
        after = draw_group(("circle",), ("yellow", "violet", "blue"), seed=2)
        new = (
            draw_group(("stripes",), ("violet",), 3, 1, 1),
            draw_group(("circle",), ("green",), 4, 1, 1),
        )
        text = N_(
            "In this example, picture 2 fits the After group: the After group shows circles, the "
            "Before group shows stripes."
        )
        panels = ((N_("Before"), (before,)), (N_("After"), (after,)))
        return Example(text, panels=panels, options=new, key=1)

    conditions: Mapping[str, int] = {"nine_references": 4, "one_reference": 2}
    control: str | None = "catch"

    def draw(self, evidence: Evidence, condition: str, rng: np.random.Generator) -> Draft:
        if condition == "catch":
            # An attention trial must be plain to everyone: the clearest of several.
            candidates = [self._candidate(evidence, condition, rng) for _ in range(CLEAREST_OF)]
            before, after, new, old = min(
                candidates, key=lambda c: likeness(*map(evidence.features_of, c[:2]))
            )
            new = [max(new, key=lambda r: _preference(evidence, before, after, after, r))]
            old = [min(old, key=lambda r: _preference(evidence, before, after, before, r))]
        else:
            before, after, new, old = self._candidate(evidence, condition, rng)
        count = REFERENCES[condition]
        answers = [(after, int(rng.choice(new))), (before, int(rng.choice(old)))]
        order = rng.permutation(2)
        options = tuple(
            make_grid(evidence.crops(answers[i][0], [answers[i][1]], SIDE), columns=1, tile=SIDE)
            for i in order
        )
        panels = tuple(
            (heading, (evidence.picture(neuron, range(count), columns=3 if count > 1 else 1),))
            for heading, neuron in ((N_("Before"), before), (N_("After"), after))
        )
        recipe = {"epochs": [before.epoch, after.epoch]}
        key = int(np.flatnonzero(order == 0)[0])
        return Draft((before, after), key, panels=panels, options=options, recipe=recipe)

    def _candidate(
        self, evidence: Evidence, condition: str, rng: np.random.Generator
    ) -> tuple[Neuron, Neuron, list[int], list[int]]:
        """Return a neuron at t and t', and the ranks of new stimuli at t' and at t."""
        for _ in range(TRIES):
            series = str(rng.choice(evidence.staged_series))
            moves = evidence.displacement(series)
            layer, channel = moves.iloc[rng.integers(len(moves))][["layer", "channel"]]
            stages = rng.choice(evidence.stages(series), 2, replace=False)
            before, after = (Neuron(series, int(e), layer, int(channel)) for e in sorted(stages))
            tables = [evidence.stimuli(neuron) for neuron in (before, after)]
            earlier, later = (table["image_id"].to_numpy() for table in tables)
            stronger_earlier, stronger_later = map(_stronger, tables)
            count = evidence.patches  # those before it are the references
            # Catch trials repeat a reference as the right option (Zimmermann et al. 2021).
            ranks = range(count) if condition == "catch" else range(count, len(later))
            new = [r for r in ranks if stronger_later[r] and later[r] not in earlier]
            ranks = range(count, len(earlier))
            old = [r for r in ranks if stronger_earlier[r] and earlier[r] not in later]
            if new and old:
                return before, after, new, old
        raise NoTrial(
            f"before_or_after {condition}: none of {TRIES} neurons drawn has, at each of two "
            f"epochs, a further stimulus that is none at the other; run with a larger probe.k, or "
            f"leave the task out of [trials] in study.toml"
        )

    def observe(self, trial: Trial, statistics: dict[str, np.ndarray]) -> tuple[Any, float]:
        """Choose the option that leans more to After than the other one."""
        before, after = (statistics[p.images[0]] for p in trial.panels)
        options = [statistics[option.image] for option in trial.options]
        leanings = [likeness(picture, after) - likeness(picture, before) for picture in options]
        return trial.options[int(np.argmax(leanings))].id, abs(leanings[0] - leanings[1])


TASKS.add("before_or_after")(BeforeOrAfter())
