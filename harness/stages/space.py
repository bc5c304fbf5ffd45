"""Stage: place all neurons in a semantic space by each method, and project one space onto a map."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import sparse

from harness.artifacts import Artifact, Run
from harness.concepts.map import project
from harness.concepts.space import SemanticSpace
from harness.concepts.space_methods import SPACES, Evidence, SpaceParameters, gather_evidence
from harness.concepts.stimuli import neurons_of
from harness.config import Config
from harness.images.sets import open_images
from harness.randomness import generator
from harness.records import NEURON, Checkpoint
from harness.registry import call_user_code, plugin_identity
from harness.stages.checkpoints import read_layers
from harness.stages.probe import activation_parts
from harness.stages.stage import Advance, Plan, Step, Value, Work

NEIGHBOURS = 5  # nearest base neurons by which two draws of a method are compared


@dataclass(frozen=True)
class PlaceNeurons(Work):
    """Work that places all neurons in a semantic space by one method."""

    method: str
    config: Config

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return Artifact("space_neurons", (self.method,)), Artifact("space", (self.method,))

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return tuple(map(_stimuli, self.config.checkpoints()))

    @property
    def depends(self) -> object:
        parameters = self.config.space.model_dump(exclude={"methods"})
        base = vars(self.config.base_checkpoint())
        return [plugin_identity(self.method), base, self.config.seed, parameters]

    def space(self, run: Run, *draw: int) -> SemanticSpace:
        """Return the space; if `draw` is given, with another draw of the method's randomness."""
        evidence = read_evidence(run, self.config)
        rng = generator(self.config.seed, "space", self.method, *draw)
        return place(self.method, evidence, self.config.space, rng)

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        space = self.space(run)
        yield space.neurons
        yield space.arrays()


@dataclass(frozen=True)
class PlaceAgain(PlaceNeurons):
    """Work that places all neurons with another draw of the method's randomness, and saves the
    nearest base neurons of each base neuron."""

    draw: int

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return (Artifact("neighbours", (self.method, self.draw)),)

    @property
    def depends(self) -> object:
        return [super().depends, self.draw]

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        base, space = self.config.base_checkpoint(), self.space(run, self.draw)
        rows = np.flatnonzero(base.mask(space.neurons))
        nearest, _ = space.nearest(rows, rows, NEIGHBOURS)
        names = [f"nearest_{rank}" for rank in range(1, NEIGHBOURS + 1)]
        keys = space.neurons.iloc[rows][["layer", "channel"]].reset_index(drop=True)
        table = pd.concat([keys, pd.DataFrame(nearest, columns=names)], axis=1)
        yield table.assign(method=self.method, seed=self.draw)


@dataclass(frozen=True)
class MapNeurons(Work):
    """Work that projects the space of the first method to two dimensions."""

    config: Config

    @property
    def method(self) -> str:
        return self.config.space.methods[0]

    @property
    def makes(self) -> tuple[Artifact, ...]:
        return (Artifact("map"),)

    @property
    def reads(self) -> tuple[Artifact, ...]:
        return (Artifact("space", (self.method,)),)

    @property
    def depends(self) -> object:
        return [vars(self.config.base_checkpoint()), self.config.seed]

    steps = 20  # about its seconds, so that it begins early and the progress bar does not jump

    def do(self, run: Run, advance: Advance) -> Iterator[Value]:
        space = SemanticSpace.load(run, self.method)
        yield project(space, self.config.base_checkpoint(), self.config.seed)


def place(
    name: str, evidence: Evidence, parameters: SpaceParameters, rng: np.random.Generator
) -> SemanticSpace:
    """Return the space of a method. Raises ValueError if it fails, or returns no such space."""
    arguments = evidence, parameters, rng, name
    space = call_user_code(f"space method {name!r}", SPACES.get(name), *arguments)
    return _check_space(name, space, evidence)


def _check_space(method: str, space: object, evidence: Evidence) -> SemanticSpace:
    """Return what a method returned. Raises ValueError if it is no space of the neurons."""
    if not isinstance(space, SemanticSpace):
        fault = f"a {type(space).__name__}"
    elif not np.array_equal(space.neurons.reindex(columns=NEURON), evidence.neurons):
        fault = f"{len(space.neurons)} rows, or rows in another order"
    elif "coverage" not in space.neurons:
        fault = "no column coverage"
    elif fault := _find_fault(space):
        fault = f"vectors that are {fault}"
    else:
        return space
    raise ValueError(
        f"space method {method!r} must return a SemanticSpace with the {len(evidence.neurons)} "
        f"rows of evidence.neurons, a column coverage, and an array of real numbers [neurons, "
        f"dimension] (sparse only for jaccard; NaN for neurons without a vector); got {fault}"
    )


def _find_fault(space: SemanticSpace) -> str:
    """Describe what is wrong with the vectors of a space; "" for nothing."""
    vectors, jaccard = space.vectors, space.metric == "jaccard"
    if not isinstance(vectors, np.ndarray):
        return "" if jaccard and isinstance(vectors, sparse.csr_array) else f"{type(vectors)}"
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        return f"{vectors.dtype} of shape {vectors.shape}"
    return "infinite" if np.isinf(vectors).any() else ""


def _stimuli(checkpoint: Checkpoint) -> Artifact:
    return Artifact("stimuli", (checkpoint.series, checkpoint.epoch))


def read_evidence(run: Run, config: Config) -> Evidence:
    """Return what the space methods may use of a run: the records of its probed checkpoints."""
    base = config.base_checkpoint()
    images = len(open_images(run, "probe"))

    @lru_cache(maxsize=1)
    def open_matrix(series: str, epoch: int) -> tuple[pd.Series, list[tuple[slice, np.ndarray]]]:
        """Return each neuron's row, and activations [neurons, images] per range of images."""
        neurons = pd.MultiIndex.from_frame(neurons_of(read_layers(run, series)))
        parts = activation_parts(run, config, series, epoch)
        arrays = [(slice(*part.parts[2:]), run.array(part)) for part in parts]
        return pd.Series(np.arange(len(neurons)), index=neurons), arrays

    def activations(neurons: pd.DataFrame) -> np.ndarray:
        values = np.empty((len(neurons), images), dtype=np.float32)
        table = neurons.reset_index(drop=True)
        for (series, epoch), group in table.groupby(["series", "epoch"], sort=False):
            rows, arrays = open_matrix(series, epoch)
            index = rows.reindex(pd.MultiIndex.from_frame(group[["layer", "channel"]])).to_numpy()
            for columns, array in arrays:
                values[group.index, columns] = array[index]
        return values

    return gather_evidence(
        base,
        pd.concat([run.table(_stimuli(c)) for c in config.checkpoints()], ignore_index=True),
        run.table(Artifact("responsive", (base.series, base.epoch))),
        images,
        activations,
    )


def steps(plan: Plan) -> Iterator[Step]:
    """Place all neurons by every configured method."""
    yield "semantic space", [PlaceNeurons(m, plan.config) for m in plan.config.space.methods]
