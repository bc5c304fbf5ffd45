"""The results of the Python interface: artifacts of a run, read as tables."""

from __future__ import annotations

import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import PositiveInt

from analysis.benchmark import figures as bench_figures  # noqa: F401 - registers them
from analysis.benchmark import tables as bench_tables  # noqa: F401 - registers them
from analysis.benchmark.results import Bench
from analysis.exhibits import shelf
from analysis.exhibits.figures import Figure, styled
from analysis.exhibits.tables import Table
from analysis.run.album import Album
from conceptevo.arguments import check_arguments
from conceptevo.session import Session
from harness.artifacts import Run
from harness.concepts.space import SemanticSpace
from harness.files import write_text
from harness.records import NEURON, Neuron
from harness.results import read_results


class Result:
    """A result of a function of this interface: a folder of artifacts, read as tables.

    Args:
        run: the folder.
        session: the session that computed the result; None if it was loaded.
        metadata: further values that are saved with the result.
    """

    def __init__(self, run: Run, session: Session | None = None, **metadata: Any) -> None:
        self.run, self._session, self._metadata = run, session, metadata

    def to_pandas(self) -> pd.DataFrame:
        """Return the result as one table."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        table = self.to_pandas()
        title = f"<p>{type(self).__name__}: {len(table)} rows</p>"
        return title + table.head(10).to_html(index=False)

    def __repr__(self) -> str:
        table = self.to_pandas()
        return f"{type(self).__name__}: {len(table)} rows\n{table}"

    def save(self, folder: str | Path) -> None:
        """Copy the result to a new folder, from which `load` can read it. Raises ValueError if the
        folder exists."""
        if Path(folder).exists():
            raise ValueError(f"folder {folder} exists; name another, or remove it first")
        shutil.copytree(self.run.root, folder)
        metadata = {"kind": type(self).__name__, **self._metadata}
        write_text(Path(folder) / "result.json", json.dumps(metadata) + "\n")

    def __reduce__(self) -> Any:
        if self._session is None:
            return super().__reduce__()
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied, as its temporary folder is "
            f"deleted together with it: use save(folder), and conceptevo.load(folder) elsewhere"
        )

    @property
    def session(self) -> Session:
        """The session with which further functions compute; a loaded result raises ValueError."""
        if self._session is None:
            raise ValueError(
                f"a loaded {type(self).__name__} can be read, not computed with, as the models "
                f"are not saved; compute it again from the models"
            )
        return self._session


class Probed(Result):
    """The stimuli of all neurons."""

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per stimulus: neuron, rank, image_id, activation, peak_y, peak_x (0-1)."""
        return self.run.tables("stimuli")

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per layer: series, layer, channels, height, width, depth, patch."""
        return self.run.tables("layers")

    @check_arguments
    def strip(self, neuron: Neuron, side: PositiveInt = 3, tile: PositiveInt = 64) -> Image.Image:
        """Return the neuron's side x side strongest patches at every epoch of its series."""
        album = Album(self.run)
        stimuli = self.run.tables("stimuli")
        epochs = sorted(stimuli.loc[stimuli["series"] == neuron.series, "epoch"].unique())
        if not epochs:
            choices = ", ".join(map(repr, stimuli["series"].unique()))
            raise ValueError(f"no series {neuron.series!r}; there are {choices}")
        layers = self.layers[self.layers["series"] == neuron.series].set_index("layer")["channels"]
        if neuron.channel not in range(layers.get(neuron.layer, 0)):
            choices = ", ".join(f"{name!r} ({count})" for name, count in layers.items())
            raise ValueError(f"no neuron {neuron}; layers (and their channels) are {choices}")
        key = (neuron.layer, neuron.channel)
        pictures = [album.picture((neuron.series, int(e), *key), side, tile) for e in epochs]
        gap = np.full((len(pictures[0]), tile // 4, 3), 255, dtype=np.uint8)
        parts = [part for picture in pictures for part in (picture, gap)]
        return Image.fromarray(np.concatenate(parts[:-1], axis=1))


class Space(Result):
    """All neurons in one semantic space."""

    @cached_property
    def space(self) -> SemanticSpace:
        return SemanticSpace.load(self.run, self._metadata["method"])

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per neuron: identity, coverage, vector (NaN if it is not in the space)."""
        vectors = self.space.vectors
        dense = vectors if isinstance(vectors, np.ndarray) else vectors.toarray()
        return pd.concat([self.space.neurons, pd.DataFrame(dense).add_prefix("v")], axis=1)

    @check_arguments
    def nearest(self, neuron: Neuron, k: PositiveInt = 5, **among: Any) -> pd.DataFrame:
        """Return the k neurons nearest to a neuron.

        Args:
            neuron: a neuron at one checkpoint.
            k: number of neighbours.
            among: values of columns that neighbours must have, e.g. series="resnet", epoch=10.

        Returns:
            series, epoch, layer, channel, similarity; the nearest first.
        """
        rows = self.space.rows(**vars(neuron))
        if not len(rows):
            raise ValueError(f"{neuron} has no place in the space: it is dead or does not exist")
        if unknown := sorted(set(among) - set(NEURON)):
            raise ValueError(f"neighbours are chosen by {', '.join(NEURON)}, not {unknown[0]!r}")
        if several := [name for name, value in among.items() if np.ndim(value)]:
            raise ValueError(f"{several[0]} must be one value, got {among[several[0]]!r}")
        if not len(candidates := self.space.rows(**among)):
            conditions = ", ".join(f"{name} = {value!r}" for name, value in among.items())
            raise ValueError(f"no neuron of the space has {conditions}")
        neighbours, similarity = self.space.nearest(rows, candidates, k)
        is_neighbour = neighbours[0] >= 0
        table = self.space.neurons.iloc[neighbours[0][is_neighbour]][NEURON].reset_index(drop=True)
        return table.assign(similarity=similarity[0][is_neighbour])


class Scores(Result):
    """The importance of every evolution."""

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per neuron, class and method: score, stderr, images, rank in the layer.

        The highest score has rank 0.
        """
        table = self.run.tables("importance")
        return table[table["method"].isin(self._metadata["methods"])].reset_index(drop=True)


class Ablated(Result):
    """The effects of the ablation of sets of neurons on the prediction for each image."""

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per image and arm."""
        return self._bench.results.records()

    @cached_property
    def _bench(self) -> Bench:
        return Bench(read_results(self.run.root))

    def table(self, name: str) -> Table | None:
        """Return a table of the benchmark by name; None if the data for it are missing."""
        return shelf.get("bench", "table", name)(self._bench)

    def leaderboard(self) -> Table:
        """Return the table that compares methods by the effect of ablating their top neurons."""
        table = self.table("leaderboard")
        assert table is not None
        return table

    def figure(self, name: str) -> Figure | None:
        """Return a figure of the benchmark by name: leaderboard, curves, layers, reliability."""
        with styled():
            return shelf.get("bench", "figure", name)(self._bench)

    def _repr_html_(self) -> str:
        return self.leaderboard()._repr_html_()

    def __repr__(self) -> str:
        return repr(self.leaderboard())


def load(folder: str | Path) -> Result:
    """Load a saved result, which can be read but not computed with.

    Raises:
        ValueError: the folder holds no saved result, or a damaged one.
    """
    path = Path(folder).absolute() / "result.json"
    if not path.exists():
        raise ValueError(f"{folder} holds no saved result")
    kinds = {kind.__name__: kind for kind in (Probed, Space, Scores, Ablated)}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        kind = kinds[metadata.pop("kind")]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: it names none of {', '.join(kinds)}") from error
    return kind(Run(path.parent), **metadata)
