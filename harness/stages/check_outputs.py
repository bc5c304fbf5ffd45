"""Check that importance and ablation can be measured on the outputs of a checkpoint."""

import json
import logging
from collections import Counter

import numpy as np
import torch
from torch import Tensor

from harness.artifacts import Run
from harness.images.sets import ImageSet
from harness.networks.objectives import choose_objective
from harness.networks.sources import Source
from harness.predictions import find_mistaken
from harness.stages.prototypes import load_targets
from harness.text import join_names

logger = logging.getLogger(__name__)


def check_outputs(source: Source, images: ImageSet, output: Tensor, sigmoid: bool) -> None:
    """Raise ValueError if importance cannot be measured on the outputs."""
    if output.is_complex() or not output.is_floating_point():
        raise ValueError(
            f"its outputs are of type {output.dtype}; they must be real floating point numbers"
        )
    if not torch.isfinite(output).all():
        raise ValueError(
            "its outputs are NaN or infinite on the test images: leave it out (`skip`)"
        )
    if len(output) > 1 and bool((output == output[:1]).all()):
        logger.warning(
            "the outputs are the same for all %d test images that were tried: the network does not "
            "depend on them, as after a training that has collapsed",
            len(output),
        )
    if choose_objective(source.objective).classifies:
        _check_class_outputs(source, images.classes, output.shape[1])
        _note_probabilities(output, sigmoid)
    elif source.class_outputs:
        raise ValueError(
            f"class_outputs says which output each class has, but importance is measured by "
            f"objective {source.objective!r}, which knows classes by their number: leave it out"
        )


def _check_class_outputs(source: Source, classes: tuple[str, ...], width: int) -> None:
    """Raise ValueError if it is not known which output each class has."""
    if unknown := sorted(set(source.class_outputs) - set(classes)):
        raise ValueError(
            f"class_outputs names unknown classes: {', '.join(unknown)}; there are "
            f"{', '.join(classes)}"
        )
    if too_large := {n: i for n, i in source.class_outputs.items() if i >= width}:
        raise ValueError(f"class_outputs {too_large}: the network has outputs 0 to {width - 1}")
    unnamed = [name for name in classes if name not in source.class_outputs]
    if width != len(classes) and unnamed:
        if width == 1 < len(classes):
            raise ValueError(
                f"the network has one output for {len(classes)} classes: wrap it in a module that "
                f"returns a number for each class; for two classes, 0 and its output, if it is "
                f"the logit of the second"
            )
        raise ValueError(
            f"the network has {width} outputs for {len(classes)} classes: say in class_outputs "
            f"which output each class has ({join_names(unnamed, 4)}); where its outputs are no "
            f"classes "
            f'(an encoder), say what importance is measured on: objective = "prototype" '
            f"(similarity to the mean output of a class), a file of class embeddings, or "
            f'"package.module:function"'
        )
    are_numbers = unnamed == list(classes) and all(name.isdecimal() for name in classes)
    if are_numbers and (by_number := sorted(classes, key=int)) != unnamed:
        logger.warning(
            "the classes are numbers in the order of their names as text (%s), as torchvision "
            "sorts folders; if the network has them in the order %s, set class_outputs",
            join_names(classes, 4),
            join_names(by_number, 4),
        )
    output_counts = Counter(source.class_outputs.values())
    if ambiguous := [name for name, i in source.class_outputs.items() if output_counts[i] > 1]:
        logger.warning(
            "class_outputs gives the same output to several classes (%s): the network cannot tell "
            "them apart",
            ", ".join(f"{name} = {source.class_outputs[name]}" for name in ambiguous[:6]),
        )
    owners = {i: n for n, i in source.class_outputs.items()}
    if clashes := [(n, owners[i]) for i, n in enumerate(classes) if n in unnamed and i in owners]:
        name, other = clashes[0]
        raise ValueError(
            f"class_outputs gives output {source.class_outputs[other]} to {other}, and {name}, "
            f"which it does not name, has the same output by its number: name all classes"
        )


def _note_probabilities(output: Tensor, sigmoid: bool) -> None:
    """Report outputs that are probabilities or their logarithms."""
    ones = torch.ones(len(output))
    is_softmax = bool((output >= 0).all()) and torch.allclose(output.sum(dim=1), ones)
    if is_softmax or sigmoid:
        logger.warning(
            "the outputs are probabilities (%s), not logits: gradients vanish where the network is "
            "sure; let it return what comes before its softmax or sigmoid",
            "they add up to 1" if is_softmax else "a sigmoid's",
        )
    elif torch.allclose(output.exp().sum(dim=1), ones):
        logger.warning(
            "the outputs are logarithms of probabilities (a log-softmax): importance is measured "
            "on the class's log-probability, not on its logit"
        )


def try_predictions(
    run: Run, source: Source, epoch: int, output: Tensor, images: ImageSet, labels: np.ndarray
) -> dict[str, object]:
    """Return the `accuracy`, the share of images whose class has the largest score (NaN if the
    scores need prototypes, which are computed later); `choices`, the number of scores (0 if they
    distinguish no classes); and `mistaken` (JSON), by class: the other class as which all its
    images are predicted, if there are at least three, and the images of no further class.

    Raises ValueError if the objective cannot be used on these outputs.
    """
    if choose_objective(source.objective).needs_images:
        return {"accuracy": float("nan"), "choices": 0, "mistaken": "{}"}
    target_of = load_targets(run, source, epoch)
    vectors = target_of(0).prototypes
    if vectors is not None and vectors.shape[1] != output.shape[1]:
        raise ValueError(
            f"the network has {output.shape[1]} outputs, and the class embeddings of objective "
            f"{source.objective!r} have {vectors.shape[1]}: they must come from one space"
        )
    leaf = output.clone().requires_grad_()
    with torch.enable_grad():
        value = target_of(int(labels[0])).value(leaf)
    if not value.requires_grad:
        raise ValueError(
            f"objective {source.objective!r} has no gradient by the outputs: it must be computed "
            f"by torch from the outputs, without detach, numpy or item()"
        )
    if not torch.isfinite(value).all():
        raise ValueError(
            f"objective {source.objective!r} is NaN or infinite: it must be finite for all "
            f"outputs, so without divisions by 0 or logarithms of 0"
        )
    single = target_of(int(labels[0])).value(output[:1])
    if not torch.allclose(single, value[:1].detach(), rtol=1e-3, atol=1e-6):
        raise ValueError(
            f"objective {source.objective!r} of an image depends on the other images of its batch: "
            f"it must be computed for each image alone"
        )
    scores = target_of(0).scores(output)
    ties = int(((scores == scores.amax(dim=1, keepdim=True)).sum(dim=1) > 1).sum())
    is_constant = bool((scores == scores[:, :1]).all())
    if scores.shape[1] == 1:
        logger.warning(
            "there is one class, and every image is predicted to be of it: accuracy is 1 whatever "
            "is ablated; look at the change of the objective instead"
        )
    elif is_constant:
        logger.warning(
            "objective %r is the same for all classes: it distinguishes no classes, so every image "
            "is predicted to be of the first; look at the change of the objective instead of "
            "accuracy",
            source.objective,
        )
    elif ties:
        logger.warning(
            "several classes share the largest score of %d of %d images; such an image is "
            "predicted to be of the first of them, also after ablation: the outputs should be "
            "logits, not rounded or cut off (by a ReLU)",
            ties,
            len(scores),
        )
    predicted = scores.argmax(dim=1).numpy()
    outputs = [target_of(label).label for label in range(len(images.classes))]
    return {
        "accuracy": float((predicted == np.array(outputs)[labels]).mean()),
        "choices": 0 if is_constant else scores.shape[1],
        "mistaken": json.dumps(find_mistaken(images.classes, outputs, labels, predicted)),
    }
