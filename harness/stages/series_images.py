"""The images of a run in the view of one series, on the device in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
from torch import Tensor

from harness.artifacts import Run
from harness.config import Config
from harness.images.batches import batch_of, batches
from harness.images.sets import ImageSet, View, open_images
from harness.images.splits import split_images
from harness.networks.budget import FEWEST, resources
from harness.networks.sources import Source
from harness.randomness import generator
from harness.stages.checkpoints import view_of


@dataclass(frozen=True, eq=False)
class SeriesImages:
    """The images of one split, in batches for the networks of one series.

    Attributes:
        images: of the split.
        view: how the series sees them.
        config: of the run, which says how a class's test images are shared out.
    """

    images: ImageSet
    view: View
    config: Config

    def batch(self, ids: Sequence[int] | np.ndarray) -> Tensor:
        """[images, channels, h, w]."""
        return resources().device.batch(batch_of(self.images, ids, self.view))

    def few(self) -> Tensor:
        """Return as few images as are run together, for measuring the cost of one."""
        return self.batch(np.arange(min(FEWEST, len(self.images))))

    def batches(self, ids: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ids and images, `size` at a time."""
        for some, batch in batches(self.images, ids, self.view, size):
            yield some, resources().device.batch(batch)

    @cached_property
    def parts(self) -> Callable[[int], dict[str, np.ndarray]]:
        """Class id -> the ids of its test images that importance is measured on, and of those that
        it never sees. See `split_images`."""
        return cache(
            partial(
                split_images,
                self.images.labels,
                importance=self.config.evolve.images_per_class,
                heldout=self.config.revert.heldout_images,
                seed=self.config.seed,
            )
        )

    def of_importance(self, class_id: int, size: int) -> list[Tensor]:
        """The images of a class that importance is measured on."""
        ids = self.parts(class_id)["importance"]
        return [batch for _, batch in self.batches(ids, size)]

    def of_others(self, class_id: int, size: int) -> list[Tensor]:
        """Random images of the other classes' importance parts, twice as many as the class has."""
        counts = np.bincount(self.images.labels, minlength=len(self.images.classes))
        pool = [
            self.parts(other)["importance"]
            for other in range(len(self.images.classes))
            if other != class_id and counts[other] > 1
        ]
        if not pool:
            return []
        every = np.concatenate(pool)
        most = 2 * len(self.parts(class_id)["importance"])
        rng = generator(self.config.seed, "images of other classes", class_id)
        chosen = np.sort(rng.choice(every, min(most, len(every)), replace=False))
        return [batch for _, batch in self.batches(chosen, size)]


def series_images(run: Run, source: Source, config: Config, split: str = "test") -> SeriesImages:
    """The images of one split of a run for the networks of a series."""
    return SeriesImages(open_images(run, split), view_of(run, source), config)
