"""Free-text labels: do people who saw the same neuron call it the same?

The statistic is the mean similarity of pairs of labels within a group (one neuron at one stage),
set against groups shuffled: labels change places within a participant, so that someone's habit of
writing "stripes" everywhere is in the null as in the data.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.estimate import Estimate
from harness.registry import Registry

#: A similarity of texts: distinct normalised labels [n] -> symmetric matrix in [0, 1]: [n, n].
Similarity = Callable[[Sequence[str]], np.ndarray]
SIMILARITIES: Registry[Similarity] = Registry("text similarity")


def normalise(label: str) -> str:
    """Lower case, letters and digits only, single spaces; "" says nothing."""
    return " ".join(re.findall(r"[^\W_]+", label.casefold()))


@SIMILARITIES.add("exact")
def exact(labels: Sequence[str]) -> np.ndarray:
    """1 for equal labels, 0 for others."""
    return np.eye(len(labels))


@SIMILARITIES.add("words")
def words(labels: Sequence[str]) -> np.ndarray:
    """Jaccard overlap of the sets of words, a plural "s" disregarded."""
    sets = [{w.removesuffix("s") if len(w) > 3 else w for w in label.split()} for label in labels]
    return _overlap(sets)


@SIMILARITIES.add("trigrams")
def trigrams(labels: Sequence[str]) -> np.ndarray:
    """Jaccard overlap of three-letter pieces: forgives endings and misspellings."""
    padded = [f"  {label} " for label in labels]
    return _overlap([{text[i : i + 3] for i in range(len(text) - 2)} for text in padded])


@SIMILARITIES.add("sequence")
def sequence(labels: Sequence[str]) -> np.ndarray:
    """Ratcliff and Obershelp's ratio of matching characters (difflib), the mean of both orders."""
    ratio = [[difflib.SequenceMatcher(None, a, b, False).ratio() for b in labels] for a in labels]
    matrix = np.array(ratio).reshape(len(labels), len(labels))
    return (matrix + matrix.T) / 2


def _overlap(sets: Sequence[set[str]]) -> np.ndarray:
    """|A ∩ B| / |A ∪ B| of all pairs: [n, n]."""
    vocabulary = {piece: k for k, piece in enumerate(sorted(set().union(*sets)))}
    has = np.zeros((len(sets), len(vocabulary)))
    for row, pieces in enumerate(sets):
        has[row, [vocabulary[piece] for piece in pieces]] = 1
    shared = has @ has.T
    size = has.sum(axis=1)
    union = size[:, None] + size[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


@dataclass(frozen=True)
class LabelAgreement:
    """Mean similarity of labels within groups, against shuffled groups.

    value: the mean over groups of the mean similarity of two labels of different people (groups of
    one label are left out and counted). p: (b + 1) / (n + 1), b the shuffles that reach the value
    (Phipson & Smyth 2010). effect: the value less the mean of the shuffles, i.e. what people share
    beyond the habits of naming. The interval resamples groups (percentiles).

    Attributes:
        similarity: a name of SIMILARITIES, or your own as "package.module:attribute".
        shuffles, replicates: permutations for the test, resamples for the interval.
    """

    similarity: str = "words"
    shuffles: int = 999
    replicates: int = 999
    seed: int = 0
    level: float = 0.95

    def __call__(
        self,
        frame: pd.DataFrame,
        group: str = "group",
        label: str = "label",
        participant: str = "participant",
        only: pd.Series | None = None,
    ) -> Estimate:
        """Test a table with a row a label; empty labels are left out and counted.

        Args:
            only: which rows' groups are reported on (bool, by the frame's index); the others only
                take part in the shuffling, so that a participant with one trial in a condition
                still has other labels to exchange. All by default.

        Raises:
            ValueError: the similarity is not a symmetric matrix over the labels.
        """
        text = frame[label].fillna("").map(normalise)
        reported = True if only is None else only
        frame = frame.assign(text=text, reported=reported)
        kept = frame[text != ""]
        sizes = kept.groupby(group)[participant].transform("size")
        kept = kept[sizes >= 2].sort_values([participant, group, "text"], kind="stable")
        left_out = int(frame["reported"].sum() - kept["reported"].sum())
        if not kept["reported"].any():
            return Estimate(np.nan, left_out=left_out, level=self.level, clustered=(group,))
        codes, texts = pd.factorize(kept["text"], sort=True)
        groups, names = pd.factorize(kept[group], sort=True)
        matrix = np.asarray(SIMILARITIES.get(self.similarity)(list(texts)), dtype=float)
        if matrix.shape != (len(texts), len(texts)) or not np.allclose(matrix, matrix.T):
            raise ValueError(
                f"similarity {self.similarity!r} must give a symmetric matrix of "
                f"{len(texts)} × {len(texts)}, got shape {matrix.shape}"
            )
        first, second, owner = _pairs(groups, kept[participant].to_numpy())
        size = np.bincount(owner, minlength=len(names))
        wanted = np.zeros(len(names), dtype=bool)
        wanted[groups[kept["reported"].to_numpy(dtype=bool)]] = True
        used = (size > 0) & wanted
        if not used.any():
            return Estimate(np.nan, left_out=left_out, level=self.level, clustered=(group,))

        def by_group(order: np.ndarray) -> np.ndarray:
            near = matrix[order[first], order[second]]
            return np.bincount(owner, near, len(names))[used] / size[used]

        scores = by_group(codes)
        rng = np.random.default_rng(self.seed)
        people = pd.factorize(kept[participant], sort=True)[0]  # already sorted: blocks
        null = np.empty(self.shuffles)
        for k in range(self.shuffles):
            # Sorting by (participant, random) permutes the labels within each participant.
            order = np.lexsort((rng.random(len(codes)), people))
            null[k] = by_group(codes[order]).mean()
        reached = int((null >= scores.mean() - 1e-12).sum())
        drawn = rng.integers(len(scores), size=(self.replicates, len(scores)))
        low, high = np.quantile(
            scores[drawn].mean(axis=1), [0.5 - self.level / 2, 0.5 + self.level / 2]
        )
        return Estimate(
            value=float(scores.mean()),
            low=float(low),
            high=float(high),
            n=int(kept["reported"].sum()),
            left_out=left_out,
            test="labels shuffled within participants",
            p=(reached + 1) / (self.shuffles + 1),
            effect=float(scores.mean() - null.mean()),
            effect_name="beyond shuffled groups",
            level=self.level,
            clustered=(group,),
        )


def _pairs(groups: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of rows of one group and different people: first row, second row, group."""
    first, second, owner = [], [], []
    for code in np.unique(groups):
        rows = np.flatnonzero(groups == code)
        a, b = np.triu_indices(len(rows), 1)
        different = people[rows[a]] != people[rows[b]]
        first.append(rows[a[different]])
        second.append(rows[b[different]])
        owner.append(np.full(int(different.sum()), code))
    return np.concatenate(first), np.concatenate(second), np.concatenate(owner)
