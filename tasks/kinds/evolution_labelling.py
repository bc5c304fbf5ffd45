"""Evolution labelling: what does one neuron show at an early, a middle and a late stage of
training?

Controls: `same_stage` shows three disjoint sets of stimuli of one stage as if they were three (no
change is possible); `false_evolution` joins the early stage of one neuron to the middle and late
stages of another neuron of the same layer (a change that no neuron made). If the run has true
concepts, that of the first neuron at the early stage is not that of the other at the late stage, so
that a change is to be seen.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from harness.records import Neuron
from tasks.base import CLARITY, LABELS, TASKS, TRIES, Draft, Example, Field, NoTrial, Trial
from tasks.drawings import draw_group
from tasks.evidence import Evidence
from tasks.language import N_
from tasks.observer import likeness

STAGES = (N_("Early"), N_("Middle"), N_("Late"))
PATCHES = 6  # per stage: three disjoint sets fit into twenty stimuli
MOVED = 0.33  # real evolutions are drawn from this share of the channels that moved most
NO_CONCEPT = N_("No clear concept")
#: Likeness between first and last stage below which the machine observer says "changed"; midway
#: between repeated draws of one stage and different neurons on the drawn images.
CHANGED_BELOW = 0.94


def draw_false_evolution(
    evidence: Evidence, moves: pd.DataFrame, neurons: list[Neuron], rng: np.random.Generator
) -> list[Neuron]:
    """Join the first stage of a neuron to the other stages of another neuron of its layer, which
    at the last stage has another true concept than the first neuron at the first stage.

    Args:
        moves: the usable neurons: layer, channel.
        neurons: one neuron at every stage; another is drawn if none goes with it.

    Raises:
        NoTrial: none of TRIES neurons goes with another one.
    """
    concept_of = evidence.concept_of
    for _ in range(TRIES):
        first, *_, last = neurons
        concept = concept_of.get(first)
        channels = moves.loc[moves["layer"] == first.layer, "channel"].astype(int)
        others = [
            channel
            for channel in channels
            if channel != first.channel
            and (concept is None or concept_of.get(replace(last, channel=channel)) != concept)
        ]
        if others:
            other = others[rng.integers(len(others))]
            return [first, *(replace(neuron, channel=other) for neuron in neurons[1:])]
        layer, channel = moves.iloc[rng.integers(len(moves))][["layer", "channel"]]
        neurons = [replace(neuron, layer=layer, channel=int(channel)) for neuron in neurons]
    raise NoTrial(
        f"evolution_labelling: none of {TRIES} neurons of series {neurons[0].series} has another "
        f"usable neuron in its layer that shows another true concept at the last stage, and "
        f"false_evolution needs one; leave the condition out of [trials] in study.toml"
    )


class EvolutionLabelling:
    name = "evolution_labelling"
    order = 2
    label = "evolution labelling"
    design = (
        "Each trial shows the image patches that activate one neuron most, at three stages of "
        "training. "
        "Participants label each stage, judge whether what the pictures show changed from early to "
        "late, and rate how clearly they see that it changed or stayed the same (clarity). Only in "
        "the control conditions is a judgement correct or incorrect."
    )
    meanings: Mapping[str, str] = {
        "evolution": "one neuron at three checkpoints; the neuron is drawn from the third of "
        "neurons with the largest displacement (distance in the semantic space between the first "
        "and the last checkpoint)",
        "same_stage": "three disjoint sets of stimuli of one neuron at one checkpoint, shown as if "
        "they were the three stages (correct: it stayed the same)",
        "false_evolution": "the early stage of one neuron and the middle and late stages of "
        "another neuron of the same layer, whose true concept at the last stage, if known, is not "
        "that of the first neuron at the first stage (correct: it changed)",
    }
    disclosed: Mapping[str, str] = {
        "false_evolution": N_(
            "In some trials of “Name what changes” we combined pictures of two neurons, although "
            "the text spoke of one learning process: they show whether a real change would be "
            "noticed."
        ),
        "same_stage": N_(
            "In some trials of “Name what changes”, all pictures came from one stage: they show "
            "how often a change is seen where there is none."
        ),
    }
    seconds = 45
    title = N_("Name what changes")
    prompt = N_("What do the pictures of each stage have in common?")
    instructions = N_(
        "You will see groups of small pictures from **three stages** of a learning process: "
        "early, middle and late. For each stage **write in a few words what its pictures have in "
        "common** (for example *red wheels* or *stripes*), or tick *No clear concept*. Then say "
        "whether this changed from early to late, and how clearly you see that it changed or "
        "stayed the same."
    )

    def example(self) -> Example:
        looks = (
            (("square", "stripes", "triangle", "circle"), ("blue", "green", "red", "grey")),
            (("square", "triangle", "circle"), ("red",)),
            (("circle",), ("red",)),
        )
        panels = tuple(
            (stage, (draw_group(shapes, colours, seed, PATCHES),))
            for seed, (stage, (shapes, colours)) in enumerate(zip(STAGES, looks, strict=True))
        )
        text = N_(
            "In this example, you could tick “No clear concept” for Early, write “red shapes” "
            "for Middle and “red circles” for Late, and answer “It changed”."
        )
        return Example(text, panels=panels)

    conditions: Mapping[str, int] = {"evolution": 2, "same_stage": 1, "false_evolution": 1}
    control: str | None = None
    controls: tuple[str, ...] = ("same_stage", "false_evolution")
    questions: tuple[str, ...] = ("detection", "ratings", "labels", "associations")
    confidence = False  # it asks how clearly the change is seen

    def draw(self, evidence: Evidence, condition: str, rng: np.random.Generator) -> Draft:
        series = str(rng.choice(evidence.staged_series))
        stages = evidence.stages(series)
        moves = evidence.displacement(series)
        if len(moves) < 4:
            raise NoTrial(
                f"evolution_labelling: fewer than four neurons of series {series} are usable at "
                f"all three stages; lower evidence.min_depth in study.toml, or leave the task out "
                f"of [trials]"
            )
        if condition == "evolution":
            moves = moves.head(max(2, int(len(moves) * MOVED)))
        layer, channel = moves.iloc[rng.integers(len(moves))][["layer", "channel"]]
        ranks_by_stage = [range(PATCHES)] * 3
        neurons = [Neuron(series, epoch, layer, int(channel)) for epoch in stages]
        if condition == "same_stage":
            neurons = [neurons[rng.integers(3)]] * 3
            ranks_by_stage = [range(first, 3 * PATCHES, 3) for first in range(3)]
        elif condition == "false_evolution":
            neurons = draw_false_evolution(evidence, moves, neurons, rng)
        panels = tuple(
            (name, (evidence.picture(neuron, ranks),))
            for name, neuron, ranks in zip(STAGES, neurons, ranks_by_stage, strict=True)
        )
        key = {"same_stage": False, "false_evolution": True}.get(condition)
        return Draft(tuple(dict.fromkeys(neurons)), key, panels=panels, recipe={"series": series})

    def fields(self, trial: Trial) -> tuple[Field, ...]:
        few_words = N_("In a few words")
        texts = (
            Field(kind="text", name=f"label_{i}", label=few_words, none_label=NO_CONCEPT, panel=i)
            for i in range(len(STAGES))
        )
        return (
            *texts,
            Field(kind="scale", name="changed",
                  label=N_("Did what the pictures show change from early to late?"),
                  choices=(("yes", N_("It changed")), ("no", N_("It stayed the same")))),
            Field(kind="scale", name="clarity", choices=CLARITY,
                  label=N_("How clearly do you see that it changed or stayed the same?")),
        )  # fmt: skip

    def answer(self, values: dict[str, Any]) -> dict[str, Any]:
        return {
            "labels": [values[f"label_{i}"] for i in range(3)],
            "changed": values["changed"] == "yes",
            "clarity": int(values["clarity"]),
        }

    def values(self, answer: Any) -> dict[str, Any]:
        labels = {f"label_{i}": label for i, label in enumerate(answer["labels"])}
        changed = "yes" if answer["changed"] else "no"
        return {**labels, "changed": changed, "clarity": str(answer["clarity"])}

    def score(self, key: Any, answer: Any) -> bool | None:
        return None if key is None else answer["changed"] == key

    def observe(self, trial: Trial, statistics: dict[str, np.ndarray]) -> tuple[Any, float]:
        early, late = (statistics[trial.panels[i].images[0]] for i in (0, 2))
        similarity = likeness(early, late)
        answer = {"labels": [None] * 3, "changed": similarity < CHANGED_BELOW, "clarity": 1}
        return answer, abs(similarity - CHANGED_BELOW)

    def simulate(self, trial: Trial, key: Any, knows: bool, rng: np.random.Generator) -> Any:
        true_change = key if key is not None else bool(rng.random() < 0.8)
        changed = true_change if knows else bool(rng.random() < 0.5)
        # People who see the concept agree on its word; the word hangs on the neuron shown.
        stage_neurons = [trial.neurons[min(i, len(trial.neurons) - 1)] for i in range(3)]
        labels = [
            LABELS[(n.channel + n.epoch) % len(LABELS)] if knows else str(rng.choice(LABELS))
            for n in stage_neurons
        ]
        return {
            "labels": [label if rng.random() < 0.9 else None for label in labels],
            "changed": changed,
            "clarity": int(rng.integers(3, 5) if knows else rng.integers(1, 4)),
        }


TASKS.add("evolution_labelling")(EvolutionLabelling())
