"""Concept agreement: do six neurons show one concept, and which? (The form of HIVE.)

Neighbours in the space are compared with random neurons; no answer is correct or incorrect.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.base import LABELS, TASKS, Draft, Example, Field, NoTrial, Trial
from tasks.drawings import COLOURS, draw_group
from tasks.evidence import Evidence
from tasks.kinds.odd_one_out import GROUPS, nearest_neighbours
from tasks.language import N_
from tasks.observer import likeness

NO_CONCEPT = N_("I cannot name it")
RATING = (("1", N_("Clearly not")), ("2", N_("Rather not")),
          ("3", N_("Rather yes")), ("4", N_("Clearly yes")))  # fmt: skip
#: Mean likeness of the six at which the machine observer goes up one point (quartiles over random
#: and neighbouring groups of the drawn images).
RISES = (0.92, 0.94, 0.96)


class ConceptAgreement:
    name = "concept_agreement"
    order = 4
    label = "concept agreement"
    design = (
        "Each trial shows the image patches of six neurons. Participants rate whether they show "
        "one common concept (from 1, clearly not, to 4, clearly yes) and label it; no "
        "response is correct or incorrect."
    )
    meanings: Mapping[str, str] = {
        "neighbours": "a neuron of the base checkpoint and its five nearest neighbours in the "
        "semantic space over all checkpoints of all series",
        "random": "six neurons drawn at random",
    }
    disclosed: Mapping[str, str] = {
        "random": N_(
            "In some trials of “One concept?” the groups were chosen at random: they show what is "
            "answered where there is no common concept."
        )
    }
    seconds = 25
    title = N_("One concept?")
    prompt = N_("What do these six groups of pictures show?")
    instructions = N_(
        "You will see **six groups of small pictures**. Judge whether they show **one common "
        "concept** (for example a colour, a shape, a pattern or a kind of object), and name it "
        "in a few words. There is no right or wrong answer."
    )

    def example(self) -> Example:
        colours = tuple(COLOURS)
        panels = tuple(
            ("", (draw_group(("triangle",), colours[i:] + colours[:i], seed=i),))
            for i in range(GROUPS)
        )
        text = N_(
            "In this example, all six groups show triangles. You could answer “Clearly yes” and "
            "write “triangles”."
        )
        return Example(text, panels=panels)

    conditions: Mapping[str, int] = {"neighbours": 2, "random": 1}
    control: str | None = None
    controls: tuple[str, ...] = ("random",)
    questions: tuple[str, ...] = ("ratings", "labels")
    confidence = False  # its response is a rating already

    def draw(self, evidence: Evidence, condition: str, rng: np.random.Generator) -> Draft:
        all_rows = evidence.rows()
        if condition == "random":
            rows = [int(r) for r in rng.choice(all_rows, GROUPS, replace=False)]
        else:
            base = evidence.base
            target = int(rng.choice(evidence.rows(base.series, base.epoch)))
            rows = [target, *nearest_neighbours(evidence, target, all_rows, GROUPS - 1)]
            if len(rows) < GROUPS:
                raise NoTrial(
                    f"concept_agreement: fewer than {GROUPS - 1} neighbours with a vector; lower "
                    f"evidence.min_depth in study.toml, or leave the task out of [trials]"
                )
        neurons = [evidence.neurons[rows[i]] for i in rng.permutation(GROUPS)]
        panels = tuple(("", (evidence.picture(n),)) for n in neurons)
        return Draft(tuple(neurons), None, panels=panels)

    def fields(self, trial: Trial) -> tuple[Field, ...]:
        return (
            Field(kind="scale", name="rating", label=N_("Do they show one common concept?"),
                  choices=RATING),
            Field(kind="text", name="label", label=N_("What they have in common, in a few words"),
                  none_label=NO_CONCEPT),
        )  # fmt: skip

    def answer(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"rating": int(values["rating"]), "label": values["label"]}

    def values(self, answer: Any) -> dict[str, Any]:
        return {"rating": str(answer["rating"]), "label": answer["label"]}

    def score(self, key: Any, answer: Any) -> bool | None:
        return None

    def observe(self, trial: Trial, statistics: dict[str, np.ndarray]) -> tuple[Any, float]:
        pictures = [statistics[p.images[0]] for p in trial.panels]
        similarities = [likeness(a, b) for i, a in enumerate(pictures) for b in pictures[:i]]
        similarity = float(np.mean(similarities))
        rating = 1 + int(np.searchsorted(RISES, similarity))
        return {"rating": rating, "label": None}, min(abs(similarity - rise) for rise in RISES)

    def simulate(self, trial: Trial, key: Any, knows: bool, rng: np.random.Generator) -> Any:
        if trial.condition == "random" or not knows:
            return {"rating": int(rng.integers(1, 4)), "label": None}
        word = LABELS[trial.neurons[0].channel % len(LABELS)]
        return {"rating": int(rng.integers(3, 5)), "label": word}


TASKS.add("concept_agreement")(ConceptAgreement())
