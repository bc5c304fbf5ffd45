"""The Python interface, for models and arrays in memory, without configuration or checkpoint files.

Each function runs stages of the command line, with the same code, in a temporary folder that is
deleted together with its result. Results display themselves in a notebook and can be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from conceptevo.arguments import check_arguments
from conceptevo.inputs import Arms, Images, Series, register_plugin
from conceptevo.inputs import View as View
from conceptevo.recorder import Evidence as Evidence
from conceptevo.recorder import Recorder as Recorder
from conceptevo.results import Ablated, Probed, Scores, Space
from conceptevo.results import Result as Result
from conceptevo.results import load as load
from conceptevo.session import Session
from harness.artifacts import Artifact
from harness.concepts.probing import ProbeParameters
from harness.concepts.space_methods import SPACES, SpaceParameters, reads_activations
from harness.config import Config, EvolveSection, SpaceSection
from harness.evolutions.ablation import ABLATIONS
from harness.evolutions.arms import BenchParameters, ReversionParameters
from harness.evolutions.importance import IMPORTANCE, ImportanceParameters
from harness.networks.devices import choose_device
from harness.records import Checkpoint
from harness.records import Neuron as Neuron
from harness.registry import is_used
from harness.stages import check
from harness.stages.ablate import study_steps
from harness.stages.benchmark import Coverage, bench_study
from harness.stages.evolve import score_steps
from harness.stages.probe import probe_steps
from harness.stages.space import PlaceNeurons


@check_arguments
def probe(
    series: Series | Sequence[Series],
    images: Images,
    k: int = 20,
    responsive: int = 20,
    activations: bool = True,
    device: str = "auto",
    progress: bool = True,
) -> Probed:
    """Record for each neuron the k images that activate it most, its stimuli.

    Args:
        series: one series or several.
        images: the probe images.
        k: number of stimuli per neuron.
        responsive: number of neurons recorded per image, those that it activates most.
        activations: keep the activations of all images, which some spaces need.
        device: "cpu", "cuda", "cuda:N", "mps", or "auto" (a CUDA GPU, else Apple's, else CPU).
        progress: show progress bars.
    """
    methods = SpaceSection().methods
    if not activations:
        methods = tuple(m for m in methods if not reads_activations.is_on(SPACES.get(m)))
    session = _session(
        [series] if isinstance(series, Series) else series,
        images,
        device,
        space=SpaceSection(methods=methods),
        probe=ProbeParameters(k=k, responsive=responsive, activations=activations),
    )
    opening = session.opening(check.steps(session.plan, [check.check_probe_images]))
    session.do(chain(opening, probe_steps(session.plan)), progress)
    return Probed(session.run, session)


@check_arguments
def space(
    probed: Probed,
    method: str | Callable = "sgns",
    seed: int = 0,
    base: Checkpoint | None = None,
    progress: bool = True,
    **parameters: object,
) -> Space:
    """Embed all neurons in one semantic space.

    Args:
        probed: the result of `probe`.
        method: a name in SPACES, `package.module:function`, or a function.
        seed: seed of the method's random draws.
        base: the checkpoint whose neurons define the space; default: the last of the first series.
        progress: show progress bars.
        parameters: fields of SpaceParameters, e.g. dimension=30; one that the method does not use
            is refused.
    """
    method = register_plugin(SPACES, method)
    plugin, config = SPACES.get(method), probed.session.config
    base = config.base_checkpoint() if base is None else base
    section = SpaceSection(methods=(method,), **SpaceParameters(**parameters).model_dump())
    if unused := [name for name in parameters if not is_used(name, [plugin])]:
        raise ValueError(f"space: method {method!r} does not use {', '.join(unused)}")
    changes = {"seed": seed, "space": section, "base": vars(base)}
    session = Session.temporary(Config(**{**dict(config), **changes}), probed.run)
    work = PlaceNeurons(method, session.config)
    for artifact in work.reads:
        session.plan.declare(artifact, lambda: "probed")
    session.do([("semantic space", [work])], progress)
    return Space(session.run, session, method=method)


@check_arguments
def importance(
    series: Series,
    images: Images,
    pair: tuple[int, int],
    methods: Sequence[str | Callable] = ImportanceParameters().methods,
    images_per_class: int = 250,
    heldout_images: int = 250,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> Scores:
    """Score how important each neuron's evolution is for each class.

    Args:
        series: the series whose evolutions are scored.
        images: labelled images; those of a class are divided between importance and ablation.
        pair: the earlier and the later epoch.
        methods: names in IMPORTANCE, or functions of a `Change` that return, for each layer, a
            sensitivity [batch, channels], whose mean over images is the score.
        images_per_class, heldout_images: images per class for importance, and for later ablations.
        classes: names of classes; all by default.
        seed: seed of the random draws.
        device: "cpu", "cuda", "cuda:N", "mps", or "auto" (a CUDA GPU, else Apple's, else CPU).
        progress: show progress bars.

    Raises:
        ValueError: an argument is unsuitable, or both epochs have the same weights.
    """
    names = tuple(register_plugin(IMPORTANCE, method) for method in methods)
    session = _session(
        [series],
        images,
        device,
        seed=seed,
        evolve=EvolveSection(
            methods=names,
            images_per_class=images_per_class,
            pairs={series.name: (pair,)},
            classes=None if classes is None else tuple(classes),
        ),
        revert=ReversionParameters(heldout_images=heldout_images),
        bench=BenchParameters(methods=names),
    )
    session.do(session.opening(check.steps(session.plan, [check.check_class_images])), progress)
    checkpoints = [Artifact("checkpoint", (series.name, epoch)) for epoch in pair]
    if len(set(map(session.plan.fingerprint, checkpoints))) == 1:
        raise ValueError(
            f"importance: epochs {pair[0]} and {pair[1]} of series {series.name!r} have the same "
            f"weights, so no neuron changes between them: give copies, copy.deepcopy(model), made "
            f"at different moments of training"
        )
    session.do(score_steps(bench_study(session.plan, Coverage())), progress)
    return Scores(session.run, session, methods=names)


@check_arguments
def ablate(
    scores: Scores,
    ablation: str | Callable = "revert",
    arms: Arms = Arms(),
    progress: bool = True,
) -> Ablated:
    """Ablate sets of neurons by importance, and controls, on held-out images.

    Args:
        scores: the result of `importance`.
        ablation: a name in ABLATIONS, `package.module:function`, or a function of (maps, layer)
            that returns what replaces the layer's output.
        arms: sizes and numbers of the sets.
        progress: show progress bars.
    """
    ablation = register_plugin(ABLATIONS, ablation)
    ABLATIONS.get(ablation)
    config = scores.session.config
    each_layer = min(config.revert.random_draws, arms.random)
    revert = {"bins": arms.bins, "random_draws": each_layer}
    bench = {"steps": arms.steps, "random_draws": arms.random, "ablations": (ablation,)}
    changes = {
        "revert": ReversionParameters(**{**dict(config.revert), **revert}),
        "bench": BenchParameters(**{**dict(config.bench), **bench}),
    }
    session = Session.temporary(config.model_copy(update=changes), scores.run)
    study = bench_study(session.plan, Coverage())
    session.do(chain(score_steps(study), study_steps(study, session.plan)), progress)
    return Ablated(session.run, session)


def _session(series: Sequence[Series], images: Images, device: str, **sections: Any) -> Session:
    config = Config(
        workers=0,
        device=choose_device(device).name,
        images=images.section(),
        series=tuple(one.source() for one in series),
        **sections,
    )
    return Session.temporary(config)
