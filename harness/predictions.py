"""What the predictions on a few test images say about the order of the classes."""

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy  # loads its parts, which take half a second, only when they are used

from harness.text import join_names


def find_mistaken(
    classes: tuple[str, ...], outputs: list[int], labels: np.ndarray, predicted: np.ndarray
) -> dict[str, str]:
    """Return the classes whose images are all predicted as one other class, with this class."""
    name_of = {output: name for name, output in zip(classes, outputs, strict=True)}
    mistaken = {}
    for label, name in enumerate(classes):
        answers = predicted[labels == label]
        if len(answers) >= 3 and answers[0] != outputs[label] and (answers == answers[0]).all():
            mistaken[name] = name_of.get(int(answers[0]), f"output {answers[0]}")
    counts = Counter(mistaken.values())
    return {name: other for name, other in mistaken.items() if counts[other] == 1}


def note_predictions(rows: pd.DataFrame) -> Iterator[str]:
    """Yield a note for each series whose last checkpoint seems to have its classes in another
    order than the images, or predicts no better than chance (binomial test at the level .05)."""
    if "choices" not in rows:  # no checkpoint could be used
        return
    for series, sound in rows[rows["choices"] > 1].groupby("series"):
        (row,) = sound.tail(1).itertuples()
        place, mistaken = f"series {series!r}, epoch {row.epoch}", json.loads(str(row.mistaken))
        correct = round(row.accuracy * row.images)
        if len(mistaken) > 1:
            pairs = join_names((f"{name} as {other}" for name, other in mistaken.items()), 4)
            yield (
                f"{place}: of some classes, all images that were tried are predicted as one other "
                f"class each ({pairs}). If the network has its classes in another order than the "
                f"images (folders: sorted by name), accuracy, importance and ablation are those of "
                f"wrong classes: set class_outputs to the output of each class, or name the "
                f"classes in the file of class embeddings"
            )
        elif scipy.stats.binom.sf(correct - 1, row.images, 1 / row.choices) > 0.05:
            yield (
                f"{place}: of {row.images:.0f} test images {correct} are predicted correctly, not "
                f"significantly more than by chance (1 in {row.choices:.0f}): check that the "
                f"network is trained, that resize, crop, mean and std are as in its training, and "
                f"that its classes are in the order of those of the images (folders: sorted by "
                f"name; else set class_outputs, or name the classes in the file of class "
                f"embeddings)"
            )
