"""Methods that compute the semantic space: the paper's, and others with the same interface."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy  # loads its parts, which take half a second, only when they are used
from pydantic import Field
from scipy import sparse

from harness.concepts.embedding import (
    SkipGram,
    mean_over_stimuli,
    ppmi_factors,
    skip_gram,
    solve_image_vectors,
)
from harness.concepts.sketch import Vectors, row_blocks, sketch_vectors, stack_rows
from harness.concepts.space import SemanticSpace, unit_rows
from harness.records import NEURON, Checkpoint
from harness.registry import Mark, Registry, uses
from harness.section import Section


class SpaceParameters(Section):
    """Parameters of the space methods.

    Attributes:
        dimension: number of dimensions of the vectors of neurons and images.
        epochs: passes of skip-gram over the groups of co-activated neurons.
        indirect_epochs: passes of skip-gram for images that are stimuli of no base neuron.
        negatives: R, number of uniformly drawn negatives per item of a pair.
        learning_rate: learning rate of skip-gram.
        profile_dimension: dimension of the method `profile`, at most the number of base neurons.
        profile_head: for `profile`, the share of the images over which the weight of a neuron's
            highest activations falls to 1/e.
        profile_order: for `profile`, the weight of the ranks of all images (the rest: the highest).
        dense: GiB, the largest matrix of neurons and images that `correlation` and `profile` hold;
            a larger one is sketched (see `sketch.py`), and the space records the error.
        sketch: dimension of a sketch.
    """

    dimension: int = Field(30, ge=1)
    epochs: int = Field(100, ge=1)
    indirect_epochs: int = Field(20, ge=0)
    negatives: int = Field(3, ge=1)
    learning_rate: float = Field(0.05, gt=0)
    profile_dimension: int = Field(300, ge=1)
    profile_head: float = Field(0.04, gt=0)
    profile_order: float = Field(0.5, ge=0, le=1)
    dense: float = Field(2.0, gt=0)
    sketch: int = Field(2048, ge=2)


@dataclass(frozen=True)
class Evidence:
    """The data of all checkpoints that space methods may use.

    Attributes:
        base: the checkpoint whose neurons define the space.
        neurons: series, epoch, layer, channel; one row per neuron that is not dead.
        incidence: 0/1 [neurons, probe images]; 1 if the image is a stimulus of the neuron.
        responsive: 0/1 [base neurons, probe images], rows as the base's rows in `neurons`; 1 if the
            neuron is among those that the image activates most.
        activations: function of rows of `neurons` that returns float32 [rows, probe images].
    """

    base: Checkpoint
    neurons: pd.DataFrame
    incidence: sparse.csr_array
    responsive: sparse.csr_array
    activations: Callable[[np.ndarray], np.ndarray]

    @property
    def base_rows(self) -> np.ndarray:
        return np.flatnonzero(self.base.mask(self.neurons))


#: Function of the evidence, the parameters, a generator and the method's own name.
SpaceMethod = Callable[[Evidence, SpaceParameters, np.random.Generator, str], SemanticSpace]
SPACES: Registry[SpaceMethod] = Registry("space method")

#: Seed of the projection of sketches, the same for all methods and runs.
SKETCH_SEED = 0


#: Decorator of a method that uses `Evidence.activations`, so that the probe keeps all activations.
reads_activations = Mark("reads_activations")


_SKIP_GRAM = ("dimension", "epochs", "indirect_epochs", "negatives", "learning_rate")


def gather_evidence(
    base: Checkpoint,
    stimuli: pd.DataFrame,
    responsive: pd.DataFrame,
    num_images: int,
    activations: Callable[[pd.DataFrame], np.ndarray],
) -> Evidence:
    """Make Evidence from the tables of the probe.

    Args:
        base: the checkpoint whose neurons define the space.
        stimuli: the stimuli of all checkpoints.
        responsive: the responsive neurons of the base.
        num_images: number of probe images.
        activations: function of rows of the table of neurons that returns [rows, images].

    Raises:
        ValueError: the base has fewer than two neurons that are not dead.
    """
    stimuli = stimuli.sort_values([*NEURON, "rank"], kind="stable")
    neurons = stimuli.drop_duplicates(NEURON)[NEURON].reset_index(drop=True)
    rows = stimuli.groupby(NEURON, sort=True).ngroup().to_numpy()
    shape = (len(neurons), num_images)
    ones = np.ones(len(stimuli))
    incidence = sparse.csr_array((ones, (rows, stimuli["image_id"].to_numpy())), shape=shape)
    bases = neurons[base.mask(neurons)]
    if len(bases) < 2:
        raise ValueError(
            f"series {base.series!r}, epoch {base.epoch}, the base of the semantic space: "
            f"{len(bases)} of its neurons are active and vary over the probe images, but a space "
            f"needs two or more: choose another base, or name more layers"
        )
    bases = bases.assign(base_row=np.arange(len(bases)))
    responses = responsive.merge(bases[["layer", "channel", "base_row"]], on=["layer", "channel"])
    places = responses["base_row"].to_numpy(), responses["image_id"].to_numpy()
    matrix = sparse.csr_array((np.ones(len(responses)), places), shape=(len(bases), num_images))
    return Evidence(base, neurons, incidence, matrix, lambda rows: activations(neurons.iloc[rows]))


@SPACES.add("sgns")
@uses(*_SKIP_GRAM)
def sgns(
    evidence: Evidence, parameters: SpaceParameters, rng: np.random.Generator, name: str
) -> SemanticSpace:
    """The method of the paper, as in its published code: skip-gram embedding of base neurons that
    share stimuli. Each update moves only the two neurons of a pair that shares stimuli. Other
    neurons are embedded through their stimuli."""
    return _skip_gram_space(evidence, parameters, rng, name, full=False)


@SPACES.add("sgns_full")
@uses(*_SKIP_GRAM)
def sgns_full(
    evidence: Evidence, parameters: SpaceParameters, rng: np.random.Generator, name: str
) -> SemanticSpace:
    """As sgns, but with the update of the objective stated in the paper, which also moves
    negatives."""
    return _skip_gram_space(evidence, parameters, rng, name, full=True)


def _skip_gram_space(
    evidence: Evidence, parameters: SpaceParameters, rng: np.random.Generator, name: str, full: bool
) -> SemanticSpace:
    incidence = evidence.incidence[evidence.base_rows]
    start = rng.uniform(-0.5, 0.5, (incidence.shape[0], parameters.dimension))
    learning = SkipGram(parameters.epochs, parameters.negatives, parameters.learning_rate, full)
    base = skip_gram(sparse.csr_array(incidence.T), start, rng, learning)
    return carry_over(evidence, base, parameters, rng, name, full)


@SPACES.add("ppmi")
@uses("dimension", "indirect_epochs", "negatives", "learning_rate")
def ppmi(
    evidence: Evidence, parameters: SpaceParameters, rng: np.random.Generator, name: str
) -> SemanticSpace:
    """Factorisation of the positive pointwise mutual information of base neurons, from their shared
    stimuli; other neurons are embedded through their stimuli."""
    base = ppmi_factors(evidence.incidence[evidence.base_rows], parameters.dimension)
    return carry_over(evidence, base, parameters, rng, name)


@SPACES.add("jaccard")
def jaccard(
    evidence: Evidence, parameters: SpaceParameters, rng: np.random.Generator, name: str
) -> SemanticSpace:
    """Jaccard similarity of the neurons' sets of stimuli; no embedding is learnt."""
    sets = evidence.incidence.astype(np.float32)
    return SemanticSpace(name, evidence.neurons.assign(coverage=1.0), sets, "jaccard")


@SPACES.add("correlation")
@uses("dense", "sketch")
@reads_activations
def correlation(
    evidence: Evidence, parameters: SpaceParameters, rng: np.random.Generator, name: str
) -> SemanticSpace:
    """Correlation of the neurons' activations over the probe images; no embedding is learnt."""

    def centre_rows(rows: np.ndarray) -> np.ndarray:
        activations = evidence.activations(rows)
        return activations - activations.mean(axis=1, keepdims=True)

    neurons, images = evidence.incidence.shape
    all_rows = np.arange(neurons)
    over_images, error = _sketch_if_large(centre_rows, all_rows, images, parameters)
    vectors = stack_rows(over_images, all_rows, images)
    return SemanticSpace(name, evidence.neurons.assign(coverage=1.0), vectors, error=error)


def _sketch_if_large(
    vectors: Vectors, rows: np.ndarray, images: int, parameters: SpaceParameters
) -> tuple[Vectors, float]:
    """Return the vectors over the images, sketched if those of all rows do not fit into `dense`,
    and the error of a cosine."""
    if 8 * len(rows) * images <= parameters.dense * 2**30:
        return vectors, 0.0
    return sketch_vectors(vectors, rows, images, parameters.sketch, SKETCH_SEED)


@SPACES.add("profile")
@uses("profile_dimension", "profile_head", "profile_order", "dense", "sketch")
@reads_activations
def profile(
    evidence: Evidence, parameters: SpaceParameters, rng: np.random.Generator, name: str
) -> SemanticSpace:
    """Ours: ranks of a neuron's activations over the probe images, with more weight on the highest.

    A neuron's vector is the sum of two unit vectors over the probe images: a head, which falls with
    the rank of the activation (it shows what the neuron detects), and the normal scores of the
    ranks (they distinguish the neuron from others). The mean of the base neurons is subtracted, and
    the rest is projected onto their principal axes, each divided by the cube root of its singular
    value.
    """
    head, order = parameters.profile_head, parameters.profile_order
    images, base_rows = evidence.incidence.shape[1], evidence.base_rows

    def profiles(rows: np.ndarray) -> np.ndarray:
        return rank_profiles(evidence.activations(rows), head, order)

    over_images, error = _sketch_if_large(profiles, base_rows, images, parameters)
    base = stack_rows(over_images, base_rows, images)
    base_mean = base.mean(axis=0)
    _, singular, axes = np.linalg.svd(unit_rows(base - base_mean), full_matrices=False)
    axis_count = min(parameters.profile_dimension, int((singular > 1e-6 * singular[0]).sum()))
    projection = axes[:axis_count].T / np.cbrt(singular[:axis_count])
    vectors = np.empty((len(evidence.neurons), axis_count), dtype=np.float32)
    for rows in row_blocks(np.arange(len(vectors)), images):
        vectors[rows] = (over_images(rows) - base_mean) @ projection
    return SemanticSpace(name, evidence.neurons.assign(coverage=1.0), vectors, error=error)


def rank_profiles(activations: np.ndarray, head: float, order: float) -> np.ndarray:
    """Compute a unit vector over the images for each neuron, from ranks alone (ties share a rank).

    Args:
        activations: [neurons, images].
        head: share of the images over which the weight of the head falls to 1/e.
        order: weight of the normal scores; 1 - order is that of the head.

    Returns:
        float [neurons, images].
    """
    ranks = scipy.stats.rankdata(activations, axis=1)
    ranks = (ranks - 0.5) / activations.shape[1]  # in (0, 1), highest last
    head_weights = unit_rows(np.exp((ranks - 1) / head))
    scores = unit_rows(scipy.special.ndtri(ranks))
    return unit_rows((1 - order) * head_weights + order * scores)


@SPACES.add("random")
@uses("dimension")
def random(
    evidence: Evidence, parameters: SpaceParameters, rng: np.random.Generator, name: str
) -> SemanticSpace:
    """A random vector for every neuron (baseline)."""
    vectors = rng.standard_normal((len(evidence.neurons), parameters.dimension))
    return SemanticSpace(name, evidence.neurons.assign(coverage=1.0), vectors)


def carry_over(
    evidence: Evidence,
    base_vectors: np.ndarray,
    parameters: SpaceParameters,
    rng: np.random.Generator,
    name: str,
    full: bool = True,
) -> SemanticSpace:
    """Compute vectors of images from those of base neurons, and of other neurons from images.

    Images that are stimuli of no base neuron get vectors by `indirect_vectors`. The vector of any
    other neuron is the mean of those of its stimuli (Park et al., 2023); coverage is the share of
    its stimuli that are also stimuli of a base neuron.

    Args:
        base_vectors: float [base neurons, dimension], rows as the base's rows in `neurons`.
        name: name of the space method.
        full: see `SkipGram`.
    """
    base_incidence = evidence.incidence[evidence.base_rows]
    is_direct = np.diff(sparse.csc_array(base_incidence).indptr) > 0
    images = solve_image_vectors(base_incidence, base_vectors)
    images[~is_direct] = np.nan
    images = indirect_vectors(evidence.responsive, images, parameters, rng, full)

    has_vector = np.asarray(np.isfinite(images).all(axis=1))
    usable = sparse.csr_array(evidence.incidence @ sparse.diags_array(has_vector.astype(float)))
    usable.eliminate_zeros()
    vectors = mean_over_stimuli(usable) @ np.where(has_vector[:, None], images, 0.0)
    vectors[np.diff(usable.indptr) == 0] = np.nan
    vectors[evidence.base_rows] = base_vectors
    coverage = mean_over_stimuli(evidence.incidence) @ is_direct.astype(float)
    return SemanticSpace(
        name, evidence.neurons.assign(coverage=coverage), vectors, "cosine", images
    )


def indirect_vectors(
    responsive: sparse.csr_array,
    images: np.ndarray,
    parameters: SpaceParameters,
    rng: np.random.Generator,
    full: bool = True,
) -> np.ndarray:
    """Compute vectors of images that are stimuli of no base neuron, by `skip_gram`.

    A group is the set of images among whose responsive neurons a base neuron is. The known vectors
    stay fixed.

    Args:
        responsive: 0/1 [base neurons, images], see `Evidence`.
        images: float [images, dimension]; NaN for the images without a vector.
        full: see `SkipGram`.

    Returns:
        float64 [images, dimension]; NaN for images that are in no group with another image.
    """
    has_vector = np.asarray(np.isfinite(images).all(axis=1))
    start = rng.uniform(-0.5, 0.5, images.shape)
    start[has_vector] = images[has_vector]
    groups = sparse.csr_array(responsive)
    epochs, negatives = parameters.indirect_epochs, parameters.negatives
    learning = SkipGram(epochs, negatives, parameters.learning_rate, full)
    result = skip_gram(groups, start, rng, learning, has_vector)
    shared = groups[np.diff(groups.indptr) > 1]
    is_reached = np.asarray(shared.sum(axis=0)).ravel() > 0
    if parameters.indirect_epochs == 0:
        is_reached[:] = False
    result[~(has_vector | is_reached)] = np.nan
    return result
