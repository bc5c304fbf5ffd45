"""Example patches of the neurons of a run, for its figures."""

import numpy as np
import pandas as pd

from analysis.run.tables import named_concepts
from harness.artifacts import Run
from harness.images.patches import cut_patches, make_grid
from harness.images.sets import ImageSet, open_images
from harness.images.view import with_views
from harness.records import NEURON


class Album:
    """Example patches and the true concept of any neuron of a run."""

    def __init__(self, run: Run) -> None:
        self._images: ImageSet = open_images(run, "probe")
        self._stimuli = run.tables("stimuli")
        # rows, not tables: those of 200,000 neurons would take a gigabyte
        self._rows = self._stimuli.groupby(NEURON).indices
        self._layers = with_views(run.tables("layers")).set_index(["series", "layer"])
        concepts = named_concepts(run)
        self._concepts = (
            {}
            if concepts is None
            else (concepts["concept"] + concepts["iou"].map(" {:.2f}".format))
            .set_axis(pd.MultiIndex.from_frame(concepts[NEURON]))
            .to_dict()
        )

    def depth(self, series: str, layer: str) -> float:
        return float(self._layers.loc[(series, layer), "depth"])

    def picture(
        self, neuron: tuple[str, int, str, int], side: int = 3, tile: int = 44
    ) -> np.ndarray:
        """Return the side x side patches that activate the neuron most as one RGB image [height,
        width, 3]; it is grey for a dead neuron."""
        size = side * (tile + 2) - 2
        if neuron not in self._rows:
            return np.full((size, size, 3), 235, dtype=np.uint8)
        row = self._layers.loc[(neuron[0], neuron[2])]
        crops = cut_patches(
            self._stimuli.iloc[self._rows[neuron]],
            self._images,
            row["view"],
            float(row["patch"]),
            side * side,
        )
        return np.asarray(make_grid(crops, side, tile))

    def concept(self, neuron: tuple[str, int, str, int]) -> str:
        """Return the true concept with its overlap, "dead", or "" if there is none."""
        if neuron not in self._rows:
            return "dead"
        return str(self._concepts.get(neuron, ""))
