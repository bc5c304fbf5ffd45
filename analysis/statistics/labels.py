"""Free-text labels: do participants give the same label to the same neuron?

The statistic is the mean similarity of pairs of labels within a group (one trial at one stage).
Its null distribution, if labels do not depend on the trial, is computed by permutations within a
condition: the responses of a participant are permuted, and whole sets of responses are exchanged
between participants with equally many. A participant's habit of writing "stripes" everywhere, or
the habit of all participants of writing "mixed" in a condition, is thus part of the null
distribution. A response is moved as a whole: the labels of a participant at three stages of one
neuron are similar for any neuron, and permuting single labels would count that as agreement (14 %
rejections of true null hypotheses at α = 5 %).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.statistic import FEWEST, Estimate, add_permutation_test
from harness.registry import call_user_code
from tasks.similarity import SIMILARITIES


def normalise(label: str) -> str:
    """Return a label in lower case, with only letters, their marks, digits, emoji and single
    spaces; "" if nothing remains.

    Different encodings of a text give the same result: full and half width, combining accents,
    invisible joiners and variants of emoji.
    """
    text = unicodedata.normalize("NFKC", label).casefold()
    return " ".join("".join(map(_replace_character, unicodedata.normalize("NFKC", text))).split())


def _replace_character(character: str) -> str:
    """Return what replaces a character of a label: itself, a space for a separator, or ""."""
    kind = unicodedata.category(character)
    if kind == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    return character if kind[0] in "LMN" or kind == "So" else " "


#: Number of permutations that are drawn at once, which limits the memory.
AT_ONCE = 64
#: Number of quantiles that represent the distribution of the value.
QUANTILES = 3999


@dataclass(frozen=True)
class LabelAgreement:
    """Mean similarity of labels within groups, compared with permuted groups.

    The value is the mean over groups of the mean similarity of the labels of two participants
    (groups with one label are left out and counted); p = (b + 1) / (n + 1), where b of n
    permutations reach the value (Phipson & Smyth 2010). Permutations in which no group has two
    labels have no value: they are left out, and `reason` says how many. The effect is the value
    minus the mean over permutations: the agreement beyond habits of naming. The interval is the
    percentile interval over resampled trials; see `add_permutation_test`.

    Attributes:
        similarity: a name in SIMILARITIES, or "package.module:attribute" of your own function.
        shuffles: number of permutations.
    """

    similarity: str = "words"
    shuffles: int = 9999
    seed: int = 0
    level: float = 0.95

    def __call__(self, frame: pd.DataFrame) -> Estimate:
        """Test the labels of one condition: trial, participant, label, and stage if a response has
        several labels. Empty labels are left out and counted.

        Raises:
            ValueError: the similarity is not a symmetric matrix over the labels.
        """
        text = frame["label"].fillna("").map(normalise)
        rows = frame.assign(text=text, stage=frame.get("stage", 0))
        responses = rows.pivot(index=["participant", "trial"], columns="stage", values="text")
        responses = responses.fillna("").sort_index()
        responses = responses.iloc[_order_by_labels(responses)]
        texts = sorted(set(responses.to_numpy().ravel()) - {""})
        similar = self._similarity(texts)
        # Empty labels have the last code, whose similarities are NaN.
        code = {label: k for k, label in enumerate([*texts, ""])}
        codes = responses.map(code.__getitem__).to_numpy()
        people, trials = (responses.index.get_level_values(k) for k in ("participant", "trial"))
        trial, names = pd.factorize(trials, sort=True)
        pairs = _Pairs.by_trial(trial, len(names))
        scores = pairs.scores(codes[None], similar)[0]
        used_labels = int(((codes < len(texts)) & ~np.isnan(scores[trial])).sum())
        left_out = len(frame) - used_labels
        if not used_labels:
            return Estimate(np.nan, left_out=left_out, level=self.level, clustered=("trial",),
                            reason="no trial has labels of two participants")  # fmt: skip
        value = float(np.nanmean(scores))
        if len(names) < 2:  # every permutation would give the observed value: p = 1
            return Estimate(value, n=used_labels, left_out=left_out, level=self.level,
                            clustered=("trial",), reason="only 1 trial: no others to compare with"
                            )  # fmt: skip
        shuffled = self._permute_labels(pd.factorize(people)[0], codes, pairs, similar)
        undefined = int(np.isnan(shuffled).sum())
        shuffled = shuffled[~np.isnan(shuffled)]
        paired = scores[~np.isnan(scores).all(axis=1)]
        is_small = len(paired) < FEWEST
        null_mean = float(shuffled.mean()) if len(shuffled) else np.nan
        reasons = [f"an interval needs {FEWEST} trials (here: {len(paired)})"] * is_small
        if undefined:
            reasons.append(f"{undefined} of {self.shuffles} permutations have no pair of labels")
        estimate = Estimate(
            value, n=used_labels, left_out=left_out, test="answers moved to other trials",
            effect=value - null_mean, level=self.level, clustered=("trial",),
            reason="; ".join(reasons),
        )  # fmt: skip
        if not len(shuffled):
            return estimate
        extreme = int((shuffled >= value - 1e-9).sum())
        return add_permutation_test(
            estimate, extreme, len(shuffled), null_mean,
            np.empty(0) if is_small else _spread_over_trials(paired),
        )  # fmt: skip

    def _similarity(self, texts: list[str]) -> np.ndarray:
        """Return the similarities of labels, with a last row and column of NaN for empty ones."""
        similar, n = SIMILARITIES.get(self.similarity), len(texts)
        subject = f"similarity {self.similarity!r}"
        returned = np.asarray(call_user_code(subject, similar, texts))
        is_number = returned.dtype.kind in "bfiu"
        matrix = returned.astype(float) if is_number else np.full(returned.shape, np.nan)
        is_symmetric = matrix.shape == (n, n) and np.allclose(matrix, matrix.T)
        if not is_symmetric or matrix.min(initial=0) < -1e-9 or matrix.max(initial=1) > 1 + 1e-9:
            form = f"one of shape {matrix.shape}"
            if not is_number:
                form = f"one of {returned.dtype}"
            elif np.isnan(matrix).any():
                form = "one with NaN"
            elif is_symmetric:
                form = f"numbers from {matrix.min():g} to {matrix.max():g}"
            raise ValueError(
                f"{subject} must give a symmetric matrix of {n} × {n} numbers in [0, 1], got {form}"
            )
        return np.pad(matrix, (0, 1), constant_values=np.nan)

    def _permute_labels(
        self, people: np.ndarray, codes: np.ndarray, pairs: _Pairs, similar: np.ndarray
    ) -> np.ndarray:
        """Return the value under each permutation [shuffles], NaN if no trial has a pair of labels,
        from codes of participants (`people`, ascending) and of labels [responses, stages]."""
        rng = np.random.default_rng(self.seed)
        values = np.empty(self.shuffles)
        for start in range(0, self.shuffles, AT_ONCE):
            order = shuffle(people, min(AT_ONCE, self.shuffles - start), rng)
            scores = pairs.scores(codes[order], similar).reshape(len(order), -1)
            filled = (~np.isnan(scores)).sum(axis=1)
            total = np.where(filled, np.nansum(scores, axis=1), np.nan)
            values[start : start + AT_ONCE] = total / np.maximum(filled, 1)
        return values


def _spread_over_trials(scores: np.ndarray) -> np.ndarray:
    """Return QUANTILES of the mean of scores [trials, stages] (NaN without a pair of labels) for
    other trials: of Student's distribution with the jackknife's standard error, within [0, 1]."""
    total, count, n = np.nansum(scores, axis=1), (~np.isnan(scores)).sum(axis=1), len(scores)
    value = total.sum() / count.sum()
    deviations = (total.sum() - total) / (count.sum() - count) - value
    error = np.sqrt((n - 1) / n * np.square(deviations).sum())
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return np.clip(value + error * stats.t.ppf(shares, n - 1), 0.0, 1.0)


def _order_by_labels(wide: pd.DataFrame) -> np.ndarray:
    """Return the rows in the order of the participants' trials and labels, so that the draws do not
    depend on their ids, which are pseudonyms from a random salt."""
    rows = wide.reset_index("trial")
    labels = {person: own.to_numpy().tolist() for person, own in rows.groupby(level=0)}
    order = {person: k for k, person in enumerate(sorted(labels, key=labels.__getitem__))}
    return np.argsort([order[person] for person in rows.index], kind="stable")


def shuffle(people: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return k permutations of responses, as indices of responses: [k, responses].

    The responses of each participant are permuted, then whole sets of responses are exchanged
    between participants with equally many.

    Args:
        people: code of each response's participant, ascending.
    """
    order = np.empty((k, len(people)), dtype=int)
    first = np.flatnonzero(np.diff(people, prepend=-1))
    sizes = np.diff(np.append(first, len(people)))
    for size in np.unique(sizes):
        rows = first[sizes == size][:, None] + np.arange(size)  # [people, answers of each]
        within = np.argsort(rng.random((k, *rows.shape)), axis=2)
        between = np.argsort(rng.random((k, len(rows))), axis=1)
        moved = np.take_along_axis(np.broadcast_to(rows, within.shape), within, axis=2)
        moved = np.take_along_axis(moved, between[:, :, None], axis=1)
        order[:, rows.ravel()] = moved.reshape(k, -1)
    return order


@dataclass(frozen=True)
class _Pairs:
    """All pairs of responses to one trial, sorted by trial.

    Attributes:
        first, second: rows of the two responses of each pair [pairs].
        starts, owner: first pair and code of each trial that has pairs. trials: number of trials.
    """

    first: np.ndarray
    second: np.ndarray
    starts: np.ndarray
    owner: np.ndarray
    trials: int

    @classmethod
    def by_trial(cls, trial: np.ndarray, trials: int) -> _Pairs:
        rows = [np.flatnonzero(trial == t) for t in range(trials)]
        upper = [r[np.array(np.triu_indices(len(r), 1))] for r in rows]
        sizes = np.array([pairs.shape[1] for pairs in upper])
        first, second = np.concatenate(upper, axis=1)
        owner = np.flatnonzero(sizes)
        starts = np.cumsum(sizes)[owner] - sizes[owner]
        return cls(first, second, starts, owner, trials)

    def scores(self, codes: np.ndarray, similar: np.ndarray) -> np.ndarray:
        """Return the mean similarity of the pairs of each trial and stage; NaN without pairs.

        Args:
            codes: codes of labels in k permutations [k, responses, stages].

        Returns:
            [k, trials, stages].
        """
        means = np.full((len(codes), self.trials, codes.shape[2]), np.nan)
        if not len(self.owner):
            return means
        filled = ~np.isnan(similar).ravel()
        values = np.where(filled, similar.ravel(), 0.0)
        for k, stage in np.ndindex(len(codes), codes.shape[2]):  # small arrays stay in the cache
            label = codes[k, :, stage]
            pair = label[self.first] * len(similar) + label[self.second]
            count = np.add.reduceat(filled.take(pair), self.starts, dtype=int)
            total = np.add.reduceat(values.take(pair), self.starts)
            means[k, self.owner, stage] = np.where(count, total, np.nan) / np.maximum(count, 1)
        return means
