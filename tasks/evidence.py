"""What a run provides for tasks: neurons with pictures, neighbours in a space, true concepts."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from harness.artifacts import Run, fingerprint
from harness.concepts.space import SemanticSpace
from harness.files import ArtifactError
from harness.images.patches import cut_patch, make_grid
from harness.images.sets import ImageSet, open_images
from harness.images.view import with_views
from harness.records import NAMED_OVERLAP, NEURON, Checkpoint, Neuron
from harness.section import read_toml
from tasks.observer import features
from tasks.settings import EPS, EvidenceSettings

#: Pixels of one patch in a composite, and between patches: pages show a composite at up to 236
#: pixels, so that it is sharp on a screen with two for each of them.
TILE, GAP = 156, 4
LOOK = 88  # pixels of one patch where only its statistics count


@dataclass(frozen=True)
class Group:
    """Neurons that a researcher considers to show one concept."""

    concept: str
    neurons: tuple[Neuron, ...]


class Evidence:
    """One run, read for drawing trials.

    Args:
        run: the run's folder.
        settings: what is drawn from, as study.toml has it.
    """

    patches = 9  # of a composite

    def __init__(self, run: Run, settings: EvidenceSettings = EvidenceSettings()) -> None:
        self.run = run
        # Condition -> largest distance in a cluster, where what belongs together is a cluster.
        by_cluster = settings.grouping == "clusters"
        self.eps = {**EPS, **settings.eps} if by_cluster else None
        self._own_groups = read_groups(Path(settings.groups)) if settings.groups else None
        patches, base, min_depth = self.patches, settings.base, settings.min_depth
        self.clusters: dict[str, list[np.ndarray]] = {}  # by condition, once drawn from
        if settings.space not in (methods := run.manifest()["space_methods"]):
            raise ValueError(
                f"evidence.space = {settings.space!r}: the run has no such space; it has "
                f"{', '.join(methods)}"
            )
        self.space = SemanticSpace.load(run, settings.space)
        layers = with_views(run.tables("layers")).set_index(["series", "layer"])
        self._layers = layers.to_dict("index")
        self._stimuli = run.tables("stimuli").sort_values([*NEURON, "rank"])
        rows = self._stimuli.groupby(NEURON, sort=False).indices
        self._rows_of = {Neuron(*key): own for key, own in rows.items()}
        table = self.space.neurons
        neurons = [Neuron(*row) for row in table[NEURON].itertuples(index=False)]
        self.depth = np.array([self._layers[n.series, n.layer]["depth"] for n in neurons])
        usable = [
            has_vector and depth >= min_depth and len(self._rows_of.get(n, ())) >= 2 * patches
            for n, has_vector, depth in zip(neurons, self.space.has_vector, self.depth, strict=True)
        ]
        self.neurons = neurons
        self.usable = np.flatnonzero(usable)
        if not len(self.usable):
            raise ValueError(
                f"{run.root} has no neuron of relative depth >= {min_depth} with {2 * patches} "
                f"stimuli; lower evidence.min_depth in study.toml, or run with a larger probe.k"
            )
        self.row = {neuron: row for row, neuron in enumerate(neurons)}
        for group in self._own_groups or ():
            for neuron in group.neurons:
                if neuron not in self.row or len(self._rows_of.get(neuron, ())) < patches:
                    raise ValueError(
                        f"groups file {settings.groups}: {neuron} of group {group.concept!r} is "
                        f"not in the run, or has fewer than {patches} stimuli"
                    )
        self.epochs = {
            str(series): sorted(map(int, set(rows)))
            for series, rows in table.groupby("series")["epoch"]
        }
        if base and base not in self.epochs:
            series_names = ", ".join(self.epochs)
            raise ValueError(f"base series {base!r} is not in the run; it has {series_names}")
        #: Where trials begin: by default, the checkpoint from which the space is built.
        self.base = Checkpoint(**run.manifest()["base"])
        if base:
            self.base = Checkpoint(base, self.epochs[base][-1])
        self._displacements: dict[str, pd.DataFrame] = {}
        self._feature_cache: dict[tuple[Neuron, tuple[int, ...], int], np.ndarray] = {}

    @cached_property
    def images(self) -> ImageSet:
        return open_images(self.run, "probe")

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Hand-picked groups: those of the researcher's file, or else made from true concepts."""
        return concept_groups(self) if self._own_groups is None else self._own_groups

    @cached_property
    def concepts(self) -> pd.DataFrame:
        """The neurons' true concepts: NEURON, concept, iou; no rows if the run has none."""
        try:
            return self.run.tables("concepts")
        except ArtifactError:
            return pd.DataFrame(columns=[*NEURON, "concept", "iou"])

    @cached_property
    def concept_of(self) -> dict[Neuron, str]:
        """The true concept of each neuron, however small its overlap."""
        rows = self.concepts[[*NEURON, "concept"]].itertuples(index=False)
        return {Neuron(*key): str(concept) for *key, concept in rows}

    @cached_property
    def rows_by_concept(self) -> dict[str, set[int]]:
        """The rows of all neurons that may show the concept of a hand-picked group: those of its
        groups and, unless these are the researcher's, all with this true concept."""
        members = [(group.concept, neuron) for group in self.groups for neuron in group.neurons]
        if self._own_groups is None:
            members += [(concept, neuron) for neuron, concept in self.concept_of.items()]
        rows: dict[str, set[int]] = {}
        for concept, neuron in members:
            if neuron in self.row:
                rows.setdefault(concept, set()).add(self.row[neuron])
        return rows

    def rows(self, series: str | None = None, epoch: int | None = None) -> np.ndarray:
        """Return usable rows of the space, optionally of one series and epoch."""
        values = {"series": series, "epoch": epoch}
        rows = self.space.rows(**{name: v for name, v in values.items() if v is not None})
        return np.intersect1d(rows, self.usable)

    def stimuli(self, neuron: Neuron) -> pd.DataFrame:
        """Return the neuron's stimuli, strongest first."""
        return self._stimuli.iloc[self._rows_of[neuron]]

    def crops(self, neuron: Neuron, ranks: Sequence[int], side: int = 0) -> list[np.ndarray]:
        """Return patches of some of the neuron's stimuli, by their rank.

        Args:
            side: pixels that a patch should have at least. It is then cut from the original image:
                the network's own view of it is often coarser than a screen.
        """
        layer = self._layers[neuron.series, neuron.layer]
        view = layer["view"]
        view = view.enlarged(max(1.0, side / (layer["patch"] * min(view.size))))
        stimuli = self.stimuli(neuron)
        images, ys, xs = (stimuli[n].to_numpy() for n in ("image_id", "peak_y", "peak_x"))
        return [
            cut_patch(self.images.pixels(int(images[r]), view), ys[r], xs[r], layer["patch"])
            for r in ranks
        ]

    def picture(
        self, neuron: Neuron, ranks: Sequence[int] | None = None, columns: int = 3
    ) -> Image.Image:
        """Return a composite of a neuron's patches (by default the strongest)."""
        return make_grid(self.crops(neuron, ranks or range(self.patches), TILE), columns, TILE, GAP)

    def features_of(
        self, neuron: Neuron, ranks: Sequence[int] | None = None, columns: int = 3
    ) -> np.ndarray:
        """Return the features of that composite, from a small version in the network's view."""
        key = neuron, tuple(ranks or range(self.patches)), columns
        if key not in self._feature_cache:
            sheet = make_grid(self.crops(neuron, key[1]), columns, LOOK, GAP)
            self._feature_cache[key] = features(sheet)
        return self._feature_cache[key]

    @cached_property
    def sampled_features(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a sample of usable rows [s] and the features of their pictures [s, features]."""
        size = min(200, len(self.usable))
        rows = np.random.default_rng(0).choice(self.usable, size, replace=False)
        return rows, np.stack([self.features_of(self.neurons[row]) for row in rows])

    def class_shares(self, neuron: Neuron) -> np.ndarray:
        """Return the share of each class among the neuron's stimuli [classes]."""
        labels = self.images.labels[self.stimuli(neuron)["image_id"].to_numpy()]
        return np.bincount(labels, minlength=len(self.images.classes)) / len(labels)

    def displacement(self, series: str) -> pd.DataFrame:
        """Return how far each usable channel moves from the first trained to the last epoch."""
        if series in self._displacements:
            return self._displacements[series]
        epochs = self.stages(series)
        distances = self.space.displacement(series, epochs[0], epochs[-1])
        usable = [
            all(self.row.get(Neuron(series, e, layer, channel), -1) in self._usable for e in epochs)
            for layer, channel in zip(distances["layer"], distances["channel"], strict=True)
        ]
        distances = distances[usable].dropna().sort_values("displacement", ascending=False)
        return self._displacements.setdefault(series, distances)

    @cached_property
    def _usable(self) -> frozenset[int]:
        return frozenset(map(int, self.usable))

    @cached_property
    def staged_series(self) -> list[str]:
        """Return the series with three trained epochs or more. Raises ValueError if none."""
        series_names = [s for s, epochs in self.epochs.items() if sum(e > 0 for e in epochs) >= 3]
        if not series_names:
            raise ValueError(
                f"{self.run.root} has no series with three trained epochs; leave "
                f"tasks on stages of training out of [trials] in study.toml"
            )
        return series_names

    def stages(self, series: str) -> list[int]:
        """Return an early, a middle and the last trained epoch; earlier changes are noise."""
        epochs = [e for e in self.epochs[series] if e > 0]
        return [epochs[0], epochs[len(epochs) // 2], epochs[-1]]


def channel_of(neuron: Neuron) -> tuple[str, str, int]:
    """Return the identity of a neuron that is the same at every epoch: series, layer, channel."""
    return neuron.series, neuron.layer, neuron.channel


def digest_stimuli(run: Run, neurons: Iterable[Neuron]) -> str:
    """Return a digest of the stimuli of neurons, which tells whether a study was built from a run.

    Neurons that the run lacks have no stimuli.
    """
    shown = pd.DataFrame(sorted({astuple(neuron) for neuron in neurons}), columns=NEURON)
    rows = shown.merge(run.tables("stimuli"), on=NEURON, how="left").sort_values([*NEURON, "rank"])
    return fingerprint(rows[[*NEURON, "image_id"]].to_csv(index=False))


def concept_groups(evidence: Evidence, minimum: int = 6, maximum: int = 12) -> tuple[Group, ...]:
    """Make groups from true concepts: the neurons of the last checkpoints with the largest
    overlaps.

    They stand for a researcher's own choice. Neurons whose overlap is below NAMED_OVERLAP have no
    concept; empty if the run has no concepts.
    """
    concepts = evidence.concepts[evidence.concepts["iou"] >= NAMED_OVERLAP]
    last_epochs = {series: epochs[-1] for series, epochs in evidence.epochs.items()}
    groups = []
    for concept, rows in concepts.sort_values("iou", ascending=False).groupby("concept"):
        neurons = [Neuron(*row) for row in rows[NEURON].itertuples(index=False)]
        usable = (n for n in neurons if evidence.row.get(n, -1) in evidence._usable)
        members = [n for n in usable if n.epoch == last_epochs[n.series]][:maximum]
        if len(members) >= minimum:
            groups.append(Group(str(concept), tuple(members)))
    return tuple(groups)


def read_groups(path: Path) -> tuple[Group, ...]:
    """Read hand-picked groups from a TOML file.

    Each is a table ``[[group]]`` with `concept` and `neurons`, a list of tables with series, epoch,
    layer and channel.

    Raises:
        ValueError: the file is not of that form.
    """
    try:
        entries = read_toml(path, "groups file")["group"]
        return tuple(
            Group(str(g["concept"]), tuple(Neuron(**neuron) for neuron in g["neurons"]))
            for g in entries
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"groups file {path} cannot be used ({error}); it needs [[group]] tables with "
            f"concept = '...' and neurons = "
            f"[{{series = '...', epoch = 1, layer = '...', channel = 0}}, ...]"
        ) from error
