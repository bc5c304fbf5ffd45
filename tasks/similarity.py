"""Similarities of free-text labels, of which the frozen plan of a study names one."""

import difflib
from collections.abc import Callable, Sequence

import numpy as np

from harness.registry import Registry

#: A similarity of texts: distinct normalised labels [n] -> symmetric matrix in [0, 1]: [n, n].
Similarity = Callable[[Sequence[str]], np.ndarray]
SIMILARITIES: Registry[Similarity] = Registry("text similarity")


@SIMILARITIES.add("exact")
def exact(labels: Sequence[str]) -> np.ndarray:
    """Return 1 for equal labels, 0 for others."""
    return np.eye(len(labels))


@SIMILARITIES.add("words")
def words(labels: Sequence[str]) -> np.ndarray:
    """Compute the Jaccard overlap of the sets of words, ignoring a plural "s".

    In languages without spaces between words only equal labels overlap: use `trigrams` there.
    """
    sets = [{w.removesuffix("s") if len(w) > 3 else w for w in label.split()} for label in labels]
    return _overlap(sets)


@SIMILARITIES.add("trigrams")
def trigrams(labels: Sequence[str]) -> np.ndarray:
    """Compute the Jaccard overlap of three-letter sequences, which tolerates misspellings."""
    padded = [f"  {label} " for label in labels]
    return _overlap([{text[i : i + 3] for i in range(len(text) - 2)} for text in padded])


@SIMILARITIES.add("sequence")
def sequence(labels: Sequence[str]) -> np.ndarray:
    """Compute Ratcliff and Obershelp's ratio (difflib), averaged over both orders."""
    ratio = [[difflib.SequenceMatcher(None, a, b, False).ratio() for b in labels] for a in labels]
    matrix = np.array(ratio).reshape(len(labels), len(labels))
    return (matrix + matrix.T) / 2


def _overlap(sets: Sequence[set[str]]) -> np.ndarray:
    """Compute |A ∩ B| / |A ∪ B| of all pairs of sets: [n, n]; 0 if both are empty."""
    vocabulary = {piece: k for k, piece in enumerate(sorted(set().union(*sets)))}
    has = np.zeros((len(sets), len(vocabulary)))
    for row, pieces in enumerate(sets):
        has[row, [vocabulary[piece] for piece in pieces]] = 1
    shared = has @ has.T
    size = has.sum(axis=1)
    union = size[:, None] + size[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
