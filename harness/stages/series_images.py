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
        view: the view of images that the series' networks have.
        config: of the run; it decides how a class's test images are divided.
    """

    images: ImageSet
    view: View
    config: Config

    def batch(self, ids: Sequence[int] | np.ndarray) -> Tensor:
        """Return the images with these ids, [images, channels, height, width]."""
        return resources().device.batch(batch_of(self.images, ids, self.view))

    def few(self) -> Tensor:
        """Return the smallest batch that is run, for measuring the cost of one image."""
        return self.batch(np.arange(min(FEWEST, len(self.images))))

    def batches(self, ids: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ids and images, `size` at a time."""
        for some, batch in batches(self.images, ids, self.view, size):
            yield some, resources().device.batch(batch)

    @cached_property
    def parts(self) -> Callable[[int], dict[str, np.ndarray]]:
        """A function from a class id to the ids of the class's test images in the parts
        `importance` and `heldout`; see `split_images`."""
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
        """Return batches of the images of a class on which importance is measured."""
        ids = self.parts(class_id)["importance"]
        return [batch for _, batch in self.batches(ids, size)]

    def of_others(self, class_id: int, size: int) -> list[Tensor]:
        """Return batches of random importance images of other classes, at most twice as many as
        the importance images of this class."""
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
    """Return the images of one split of a run for the networks of a series."""
    return SeriesImages(open_images(run, split), view_of(run, source), config)
