"""Objectives: one number per image, computed from the network's output and the class, on which
importance is measured.

The default is the logit of the class. For encoders, whose outputs are not classes, the similarity
to a class's prototype can be used. A new objective is one function in OBJECTIVES, or a user's.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from harness.files import file_hash
from harness.registry import Registry, call_user_code, plugin_identity
from harness.text import join_names

#: Files of class embeddings, by their suffix.
SUFFIXES = (".npy", ".npz", ".csv")


@dataclass(frozen=True)
class Objective:
    """One number per image, and how predictions follow from it.

    Attributes:
        function: (output [batch, width], labels int64 [batch]) -> [batch], with a gradient; with
            prototypes, (output, labels, prototypes [classes, width]) -> [batch].
        description: text that completes the sentence "importance is measured on …".
        classifies: whether the network returns one score per class. If so, labels are indices of
            outputs, and the prediction is the largest output. Otherwise labels are indices of
            classes, and the prediction is the class with the largest objective.
        prototypes: whether `function` takes one vector per class.
        file: of these vectors; None: they are the mean output over images of the class.
        scale: factor of the scores before a softmax turns them into probabilities.
    """

    function: Callable[..., Tensor]
    description: str
    classifies: bool = False
    prototypes: bool = False
    file: Path | None = None
    scale: float = 1.0

    @property
    def needs_images(self) -> bool:
        """Whether prototypes must be computed from the images of the class."""
        return self.prototypes and self.file is None


def logit(output: Tensor, labels: Tensor) -> Tensor:
    """Return the output of the class (ConceptEvo, section 3.2)."""
    return output.gather(1, labels[:, None])[:, 0]


def log_probability(output: Tensor, labels: Tensor) -> Tensor:
    """Return log p of the class: its logit minus the logsumexp of all logits."""
    return logit(output, labels) - output.logsumexp(dim=1)


def log_odds(output: Tensor, labels: Tensor) -> Tensor:
    """Return log(p / (1 − p)) of the class: its logit minus the logsumexp of the other logits."""
    own = functional.one_hot(labels, output.shape[1]).bool()
    return logit(output, labels) - output.masked_fill(own, -torch.inf).logsumexp(dim=1)


def similarity(output: Tensor, labels: Tensor, prototypes: Tensor) -> Tensor:
    """Return the cosine of the output and the prototype of the class; 0 if one of them is zero."""
    return functional.cosine_similarity(output, prototypes.to(output)[labels], dim=1)


#: Factor of cosines before a softmax: the largest that the training of CLIP allows (Radford et al.,
#: 2021, section 2.5). Only probabilities depend on it.
COSINE_SCALE = 100.0

OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    {
        "logit": Objective(logit, "the class's logit", classifies=True),
        "log_probability": Objective(
            log_probability, "the logarithm of the class's probability", classifies=True
        ),
        "log_odds": Objective(log_odds, "the log-odds of the class", classifies=True),
        "prototype": Objective(
            similarity,
            "the cosine similarity of the network's output to the class's prototype, the mean of "
            "the outputs (each of length one) over images of the class",
            prototypes=True,
            scale=COSINE_SCALE,
        ),
    },
    (Callable, Objective),
)


def choose_objective(name: str) -> Objective:
    """Return the objective of a name.

    Args:
        name: a name in OBJECTIVES, a file of class embeddings, or `package.module:name` of a
            function of (output, labels).

    Raises:
        ValueError: the name is unknown, the file does not exist, or the import fails or gives
            something that cannot be called.
    """
    if name.endswith(SUFFIXES):
        path = Path(os.path.expandvars(name)).expanduser()
        if not path.is_file():
            raise ValueError(f"objective {name!r}: there is no such file of class embeddings")
        text = f"the cosine similarity of the network's output to the class's embedding in {name}"
        return Objective(similarity, text, prototypes=True, file=path, scale=COSINE_SCALE)
    try:
        plugin = OBJECTIVES.get(name)
    except ValueError as error:
        if ":" in name:
            raise
        raise ValueError(
            f"{error}, or a file of class embeddings ({', '.join(SUFFIXES)})"
        ) from None
    if isinstance(plugin, Objective):
        return plugin
    return Objective(_wrap_function(name, plugin), f"the function {name}")


def objective_identity(name: str) -> str:
    """Return an objective's fingerprint: its name, and its source code or its file's content."""
    objective = choose_objective(name)
    return plugin_identity(name) if objective.file is None else f"file {file_hash(objective.file)}"


def _wrap_function(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wrap a user's function so that errors and unusable results become one sentence."""

    def objective(output: Tensor, labels: Tensor) -> Tensor:
        shape = tuple(output.shape)
        value = call_user_code(f"objective {name!r} on outputs {shape}", function, output, labels)
        if not isinstance(value, Tensor) or value.shape != labels.shape:
            kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value)
            raise ValueError(
                f"objective {name!r} must return one number per image, a tensor of shape "
                f"{tuple(labels.shape)}; got {kind} from outputs of shape {shape}"
            )
        return value

    return objective


def read_embeddings(path: Path, classes: Sequence[str]) -> np.ndarray:
    """Read class embeddings from a file: float32 [classes, width].

    Args:
        path: .npz with one array [width] per class, named after it; .csv with a column `class` and
            one column per dimension; .npy [classes, width] in the order of the classes.

    Raises:
        ValueError: the file cannot be read or lacks classes, or its vectors differ in length, are
            zero or are not finite.
    """
    try:
        vectors = _read(path, classes)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"class embeddings {path} cannot be read: {error}") from error
    if missing := [name for name in classes if name not in vectors]:
        raise ValueError(
            f"class embeddings {path} lack the classes {join_names(missing, 6)}; they have "
            f"{join_names(vectors, 6)}"
        )
    rows = [np.asarray(vectors[name], dtype=np.float32).ravel() for name in classes]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"class embeddings {path} are vectors of different lengths")
    table = np.stack(rows)
    norms = dict(zip(classes, np.linalg.norm(table, axis=1), strict=True))
    if zero := [name for name, norm in norms.items() if not 0 < norm < np.inf]:
        raise ValueError(
            f"class embeddings {path} are zero or not finite for {join_names(zero, 6)}"
        )
    return table


def _read(path: Path, classes: Sequence[str]) -> Mapping[str, np.ndarray]:
    if path.suffix == ".csv":
        # a class may be called NA
        table = pd.read_csv(path, dtype={"class": str}, keep_default_na=False, na_values=[""])
        if "class" not in table:
            raise ValueError("it has no column `class`")
        if repeated := list(table["class"][table["class"].duplicated()]):
            raise ValueError(f"it has several rows for {join_names(repeated)}")
        return dict(zip(table.pop("class"), table.to_numpy(dtype=np.float32), strict=True))
    arrays = np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        return dict(arrays)
    if arrays.ndim != 2 or len(arrays) != len(classes):
        raise ValueError(
            f"it must hold [{len(classes)} classes, width] in the order of the classes, got shape "
            f"{arrays.shape}; .npz and .csv name the classes"
        )
    return dict(zip(classes, arrays, strict=True))


@dataclass(frozen=True, eq=False)
class Target:
    """What is computed from a network's outputs for the images of one class.

    Attributes:
        objective: the function that is computed.
        label: index of the class's output if the objective `classifies`, otherwise of the class.
        classes: number of classes.
        prototypes: [classes, width] of this network; None if the objective has none.
    """

    objective: Objective
    label: int
    classes: int = 0
    prototypes: Tensor | None = None

    def value(self, output: Tensor, label: int | None = None) -> Tensor:
        """Return the objective, of its class or another: output [batch, width] -> [batch]."""
        prototypes = () if self.prototypes is None else (self.prototypes,)
        labels = self._labels(output, self.label if label is None else label)
        return self.objective.function(output, labels, *prototypes)

    def scores(self, output: Tensor) -> Tensor:
        """Return the scores compared for a prediction, [batch, columns]; the class's is `label`."""
        if self.objective.classifies:
            return output
        columns = [self.value(output, label) for label in range(self.classes)]
        return torch.stack(columns, dim=1) * self.objective.scale

    def margin(self, output: Tensor) -> Tensor:
        """Return log(p / (1 − p)), [batch]; p is the class's softmax probability by the scores."""
        return log_odds(self.scores(output), self._labels(output, self.label))

    @staticmethod
    def _labels(output: Tensor, label: int) -> Tensor:
        return torch.full((len(output),), label, dtype=torch.int64, device=output.device)


def as_target(target: Target | int) -> Target:
    """Return a target; a number stands for the logit at that index."""
    return target if isinstance(target, Target) else Target(OBJECTIVES.get("logit"), target)
