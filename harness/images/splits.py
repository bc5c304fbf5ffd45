"""Division of the images of a class into importance images and held-out images."""

from __future__ import annotations

import numpy as np

from harness.randomness import generator


def split_images(
    labels: np.ndarray, class_id: int, importance: int, heldout: int, seed: int
) -> dict[str, np.ndarray]:
    """Draw two disjoint random parts of a class's images: `importance` and `heldout`.

    If there are fewer images than requested, they are divided in the same proportion.

    Args:
        labels: int [images].
        class_id: the class.
        importance, heldout: requested number of images in each part.
        seed: seed of the run.

    Returns:
        part -> image ids, int64, increasing.

    Raises:
        ValueError: the class has fewer than two images.
    """
    mine = np.flatnonzero(labels == class_id)
    if len(mine) < 2:
        raise ValueError(
            f"class {class_id} has {len(mine)} images; importance and reversion need at least one "
            f"each"
        )
    mine = generator(seed, "split of a class's images", class_id).permutation(mine)
    if len(mine) < importance + heldout:
        share = importance / (importance + heldout)
        importance = int(np.clip(round(share * len(mine)), 1, len(mine) - 1))
        heldout = len(mine) - importance
    return {
        "importance": np.sort(mine[:importance]),
        "heldout": np.sort(mine[importance : importance + heldout]),
    }
