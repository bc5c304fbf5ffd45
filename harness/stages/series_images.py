"""The images of a run as one series sees them, and how a class's test images are divided."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
from torch import Tensor

from harness.artifacts import Run
from harness.config import Config
from harness.images.batches import batches, load_batch
from harness.images.sets import ImageSet, open_images
from harness.images.view import View
from harness.networks.budget import FEWEST, resources
from harness.networks.sources import Source
from harness.randomness import generator
from harness.stages.checkpoints import read_view


@dataclass(frozen=True, eq=False)
class SeriesImages:
    """The images of one split, in batches for the networks of one series, whose view they have.

    The run's configuration decides how a class's test images are divided.
    """

    images: ImageSet
    view: View
    config: Config

    @property
    def sample_ids(self) -> np.ndarray:
        """The ids of the few images on which the cost of a piece of work is measured."""
        return np.arange(min(FEWEST, len(self.images)))

    def batch(self, ids: Sequence[int] | np.ndarray) -> Tensor:
        """Return the images with these ids, [images, channels, height, width]."""
        return resources().device.batch(load_batch(self.images, ids, self.view))

    def batches(self, ids: np.ndarray, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ids and images, `batch_size` at a time."""
        for batch_ids, batch in batches(self.images, ids, self.view, batch_size):
            yield batch_ids, resources().device.batch(batch)

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

    def importance_batches(self, class_id: int, batch_size: int) -> list[Tensor]:
        """Return batches of the images of a class on which importance is measured."""
        ids = self.parts(class_id)["importance"]
        return [batch for _, batch in self.batches(ids, batch_size)]

    def other_class_batches(self, class_id: int, batch_size: int) -> list[Tensor]:
        """Return batches of random importance images of other classes, at most twice as many as
        the importance images of this class."""
        counts = np.bincount(self.images.labels, minlength=len(self.images.classes))
        ids_of_classes = [
            self.parts(other_class)["importance"]
            for other_class in range(len(self.images.classes))
            if other_class != class_id and counts[other_class] > 1
        ]
        if not ids_of_classes:
            return []
        all_ids = np.concatenate(ids_of_classes)
        limit = 2 * len(self.parts(class_id)["importance"])
        rng = generator(self.config.seed, "images of other classes", class_id)
        ids = np.sort(rng.choice(all_ids, min(limit, len(all_ids)), replace=False))
        return [batch for _, batch in self.batches(ids, batch_size)]


def series_images(run: Run, source: Source, config: Config, split: str = "test") -> SeriesImages:
    """Return the images of one split of a run for the networks of a series."""
    return SeriesImages(open_images(run, split), read_view(run, source), config)


def split_images(
    labels: np.ndarray, class_id: int, importance: int, heldout: int, seed: int
) -> dict[str, np.ndarray]:
    """Draw two disjoint random parts of a class's images, of the requested sizes; fewer images are
    divided in the same proportion. Return "importance" and "heldout" -> increasing image ids.

    Raises:
        ValueError: the class has fewer than two images.
    """
    image_ids = np.flatnonzero(labels == class_id)
    if len(image_ids) < 2:
        raise ValueError(
            f"class {class_id} has {len(image_ids)} images; importance and reversion need at least "
            f"one each"
        )
    image_ids = generator(seed, "split of a class's images", class_id).permutation(image_ids)
    if len(image_ids) < importance + heldout:
        share = importance / (importance + heldout)
        importance = int(np.clip(round(share * len(image_ids)), 1, len(image_ids) - 1))
        heldout = len(image_ids) - importance
    return {
        "importance": np.sort(image_ids[:importance]),
        "heldout": np.sort(image_ids[importance : importance + heldout]),
    }
