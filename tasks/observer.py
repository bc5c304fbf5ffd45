"""The machine observer: answers trials by the similarity of the pictures, without any network.

It is a baseline for participants and a filter: a trial that is trivial for it may test colour
rather than concepts, and a trial of which it never finds the key may have no answer.
"""

import numpy as np
from PIL import Image

ENOUGH = 150  # pixels of the shorter side; more pixels only increase the time


def features(picture: Image.Image) -> np.ndarray:
    """Compute colour and edge statistics of one composite, of unit length: float [64 + 8].

    A 4×4×4 RGB histogram, and eight orientations of the brightness gradient weighted by strength,
    both as square roots of shares (so that a dot product is the Bhattacharyya coefficient).
    """
    if min(picture.size) > ENOUGH:
        picture = picture.reduce(min(picture.size) // ENOUGH)
    pixels = np.asarray(picture.convert("RGB"))
    bins = (pixels // 64).reshape(-1, 3).astype(int) @ np.array([16, 4, 1])
    colour = np.bincount(bins, minlength=64) / bins.size
    grey = pixels.astype(float).mean(axis=2)
    dy, dx = np.gradient(grey)
    turn = ((np.arctan2(dy, dx) % np.pi) / np.pi * 8).astype(int).clip(0, 7)
    strength = np.bincount(turn.ravel(), weights=np.hypot(dy, dx).ravel(), minlength=8)
    edges = strength / max(strength.sum(), 1e-9)
    return np.sqrt(np.concatenate([colour, edges]) / 2)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the Bhattacharyya coefficient of two pictures' statistics, in [0, 1]."""
    return float(a @ b)
