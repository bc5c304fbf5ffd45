"""Association between participants' accuracy and the importance of the neurons shown.

The joined table has one row per trial and neuron shown in it: participants' accuracy in the trial,
the importance of the neuron's evolution, the change in accuracy when evolutions of its bin are
reverted, its displacement in the semantic space, and the response of the machine observer.
"""

import logging
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.exhibits.phrases import as_words
from analysis.run.published import SCORE, SPACE
from analysis.statistics.statistic import FEWEST, Estimate, Estimates, add_permutation_test
from analysis.study.frozen_study import FrozenStudy
from analysis.study.responses import Responses
from harness.artifacts import Run
from harness.concepts.space import SemanticSpace
from harness.records import JOINT, NEURON, PAIR
from harness.results import REVERSION, has_results, read_results
from tasks.contact_sheet import observe as answers_of_observer
from tasks.evidence import digest_stimuli

log = logging.getLogger(__name__)

#: Network measures of a trial, as sentences, tables and axes call them.
MEASURES = {
    "importance": "importance",
    "drop": "change in accuracy when reverted",
    "displacement": "displacement",
    "observer_clarity": "margin of the machine observer",
}
EVIDENCE = tuple(MEASURES)
CHANNEL = [*PAIR, "layer", "channel"]
#: Columns that `people_by_trial` adds to the measures of networks.
OF_PEOPLE = ["task", "condition", "answers", "rate"]


def name_measure(name: str) -> str:
    """Return the name of a network measure, condition or pair of conditions for readers."""
    return MEASURES.get(name, as_words(name))


def people_by_trial(responses: Responses) -> pd.DataFrame:
    """Return participants' accuracy in each trial.

    Returns:
        trial, task, condition, answers, rate: the share of right answers, or of "changed" for
        evolution labelling (where most trials have no key).
    """
    answers = responses.answers
    values = answers["value"].map(lambda v: v.get("changed") if isinstance(v, dict) else None)
    outcome = answers["correct"].astype("Float64").to_numpy(float, na_value=np.nan)
    is_labelling = (answers["task"] == "evolution_labelling").to_numpy()
    outcome = np.where(is_labelling, values.astype(float), outcome)
    table = answers[["trial", "task", "condition"]].assign(outcome=outcome).dropna()
    return (
        table.groupby(["trial", "task", "condition"])["outcome"]
        .agg(answers="size", rate="mean")
        .reset_index()
    )


def importance_by_neuron(run: Run) -> pd.DataFrame:
    """Return the importance (SCORE) of each evolution to the class for which it is largest.

    Returns:
        series, epoch_from, epoch_to, layer, channel, class_id, importance.
    """
    results, columns = read_results(run.root, REVERSION), [*CHANNEL, "class_id", "score"]

    def most_important(table: pd.DataFrame) -> pd.DataFrame:
        ordered = table.dropna(subset=["score"]).sort_values(
            ["score", "class_id"], ascending=[False, True], kind="stable"
        )
        return ordered.drop_duplicates(CHANNEL)

    blocks = [
        most_important(results.importance(columns, method=SCORE, class_id=block))
        for block in results.class_blocks
    ]
    table = most_important(pd.concat(blocks, ignore_index=True))
    return table[columns].rename(columns={"score": "importance"})


def change_by_neuron(run: Run) -> pd.DataFrame:
    """Return the signed change of accuracy on held-out images when the bins (by SCORE) that
    contain a neuron are reverted, mean over classes.

    Every neuron is in one bin of its layer for every class. The whole bin is reverted, so the
    change is due to all its neurons, not to this one alone.

    Returns:
        series, epoch_from, epoch_to, layer, channel, drop (negative if accuracy decreases).
    """
    results = read_results(run.root, REVERSION)
    means = results.class_means("correct", method=SCORE, split="heldout")
    means = means[(means["layer"] != JOINT) & means["arm"].str.fullmatch(r"q\d+")]
    keys = [*PAIR, "layer", "arm", "class_id"]
    by_set = means[[*keys, "change"]].rename(columns={"change": "drop"})
    blocks = []
    for block in results.class_blocks:
        members = results.sets(method=SCORE, class_id=block).merge(by_set, on=keys)
        blocks.append(members.groupby(CHANNEL)["drop"].agg(["sum", "count"]))
    totals = pd.concat(blocks).groupby(CHANNEL).sum()
    return (totals["sum"] / totals["count"]).rename("drop").reset_index()


def space_of(study: FrozenStudy) -> str:
    """Return the name of the space in which displacements are measured."""
    return str(study.study.evidence.get("space", SPACE))


def displacement_by_neuron(run: Run, space: str) -> pd.DataFrame:
    """Return the displacement in a space of each neuron, for the pairs of the reversion study."""
    vectors = SemanticSpace.load(run, space)
    pairs = pd.DataFrame(read_results(run.root, REVERSION).about["pairs"])[PAIR]
    frames = [
        vectors.displacement(series, start, end).assign(
            series=series, epoch_from=start, epoch_to=end
        )
        for series, start, end in pairs.itertuples(index=False)
    ]
    return pd.concat(frames, ignore_index=True)[[*CHANNEL, "displacement"]]


def observe_trials(study: FrozenStudy, folder: Path) -> pd.DataFrame:
    """Return the machine observer's response to every data trial, from the pictures alone.

    Args:
        folder: of the study, with its images.

    Returns:
        trial, observer_correct (1, 0, or NaN where there is no key), observer_clarity.
    """
    observations = answers_of_observer(study.study, study.keys, folder)
    rows = [(trial, is_correct, margin) for trial, (_, margin, is_correct) in observations.items()]
    table = pd.DataFrame(rows, columns=["trial", "observer_correct", "observer_clarity"])
    table = table[table["trial"].isin(study.data["trial"])]
    return table.astype({"observer_correct": float}).reset_index(drop=True)


def check_run(study: FrozenStudy, run: Run) -> None:
    """Check that a study was built from a run: its neurons have the same stimuli there. Studies of
    earlier versions do not hold what is compared.

    Raises:
        ValueError: they do not.
    """
    neurons = chain.from_iterable(study.trials["neurons"].dropna())
    recorded = study.study.evidence.get("stimuli")
    if recorded is None:
        log.warning("this study does not record from which run it was built: check --run yourself")
    elif recorded != digest_stimuli(run, neurons):
        raise ValueError(
            f"the study was not built from the run {run.root}, as it is now: the neurons shown "
            f"have other stimuli there; give the run from which it was built, or no run"
        )


def network_measures(study: FrozenStudy, run: Run, observer: pd.DataFrame) -> pd.DataFrame:
    """Return all network measures of every neuron of every data trial.

    Args:
        observer: as `observe_trials` gives it.

    Returns:
        trial, series, epoch, layer, channel, epoch_from, epoch_to, class_id, importance, drop,
        displacement, observer_correct, observer_clarity. A neuron is joined with the evolution
        that ends at its epoch, or else with the one that starts there; what the run lacks is NaN.

    Raises:
        ValueError: the study names no neurons.
    """
    pairs = study.data[["trial", "neurons"]].explode("neurons").dropna().reset_index(drop=True)
    if pairs.empty:
        raise ValueError("the study names no neurons, so that no network can be joined")
    neurons = pd.DataFrame([asdict(neuron) for neuron in pairs["neurons"]])[NEURON]
    keys = pd.concat([pairs[["trial"]], neurons], axis=1)

    evolutions = importance_by_neuron(run)
    # studies of earlier versions do not record the space, which was that of the paper
    displacements = displacement_by_neuron(run, space_of(study))
    how: Literal["left", "right"] = "left" if len(evolutions) else "right"
    if evolutions.empty:
        log.warning(
            f"the run has no scores by {SCORE}, so importance and change in accuracy when reverted "
            f"cannot be related to responses; add {SCORE} to evolve.methods and run it again"
        )
    evolutions = evolutions.merge(displacements, on=CHANNEL, how=how)
    if has_results(run, REVERSION):
        evolutions = evolutions.merge(change_by_neuron(run), on=CHANNEL, how="left")
    else:
        evolutions = evolutions.assign(drop=np.nan)
    ends = evolutions.assign(epoch=evolutions["epoch_to"], rank=0)
    starts = evolutions.assign(epoch=evolutions["epoch_from"], rank=1)
    by_epoch = pd.concat([ends, starts]).sort_values(
        [*NEURON, "rank", "epoch_from", "epoch_to"], kind="stable"
    )
    by_epoch = by_epoch.drop_duplicates(NEURON).drop(columns="rank")
    table = keys.merge(by_epoch, on=NEURON, how="left").merge(observer, on="trial", how="left")
    return table.sort_values(["trial", *NEURON], kind="stable").reset_index(drop=True)


def join_measures(responses: Responses, network: pd.DataFrame) -> pd.DataFrame:
    """Join `people_by_trial` and `network_measures`: one row per trial and neuron."""
    return people_by_trial(responses).merge(network, on="trial")


@dataclass(frozen=True)
class Associations:
    """Rank correlation over trials between participants' accuracy and each network measure.

    The estimate is a partial Spearman's ρ, given the condition: ranks over all trials minus the
    mean rank of the trial's condition are correlated. The measure of a trial is the mean over its
    neurons. The two-sided test permutes the rates within conditions, p = (b + 1)/(n + 1); the
    interval is the percentile interval over resampled trials. ρ > 0: accuracy is higher in trials
    with larger values of the measure.
    """

    permutations: int = 1999
    replicates: int = 1999
    seed: int = 0
    level: float = 0.95

    def __call__(self, table: pd.DataFrame) -> Estimates:
        """Return estimates by (task, measure), from a table of `join_measures`; NaN for a measure
        that does not vary within conditions."""
        results: Estimates = {}
        for task, task_rows in table.groupby("task"):
            means = task_rows.groupby(["trial", "condition"])[["rate", *EVIDENCE]].mean()
            trials = means.round(12).reset_index()  # means that are equal have equal ranks
            for name in EVIDENCE:
                results[(str(task), name)] = self._one(trials, name)
        return results

    def _one(self, trials: pd.DataFrame, name: str) -> Estimate:
        usable = trials.dropna(subset=["rate", name])
        left_out = len(trials) - len(usable)
        strata = pd.factorize(usable["condition"], sort=True)[0]
        rate, evidence = usable["rate"].to_numpy(float), usable[name].to_numpy(float)
        too_few = len(usable) < FEWEST
        value = np.nan if too_few else float(partial_ranks(rate, evidence, strata))
        if np.isnan(value):
            reason = "the rates or the evidence do not vary within conditions"
            if too_few:
                reason = f"a correlation needs {FEWEST} trials (here: {len(usable)})"
            return Estimate(np.nan, left_out=len(trials), level=self.level, clustered=("trial",),
                            reason=reason)  # fmt: skip
        rng = np.random.default_rng(self.seed)
        # Ranks move with the rates, and a stratum keeps its mean: residuals are what is permuted.
        rates, scores = rank_residuals(rate, strata), rank_residuals(evidence, strata)
        by_stratum = np.argsort(strata, kind="stable")
        keys = rng.random((self.permutations, len(rate)))
        permutations_drawn = np.lexsort((keys, np.broadcast_to(strata, keys.shape)), axis=1)
        permuted_residuals = np.empty_like(keys)
        permuted_residuals[:, by_stratum] = rates[permutations_drawn]
        null_values = permuted_residuals @ scores / np.sqrt((rates @ rates) * (scores @ scores))
        extreme = int((np.abs(null_values) >= abs(value) - 1e-12).sum())
        draws = rng.integers(len(rate), size=(self.replicates, len(rate)))
        resampled = partial_ranks(rate[draws], evidence[draws], strata[draws])
        estimate = Estimate(
            value, n=len(usable), left_out=left_out, test="rates permuted within conditions",
            level=self.level, clustered=("trial",),
        )  # fmt: skip
        return add_permutation_test(estimate, extreme, self.permutations, 0.0, resampled)


def rank_residuals(values: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Subtract from ranks along the last axis the mean rank of each stratum (codes [..., n])."""
    ranks = stats.rankdata(values, axis=-1)
    for code in np.unique(strata):
        in_stratum = strata == code
        size = np.maximum(in_stratum.sum(axis=-1, keepdims=True), 1)
        mean = np.where(in_stratum, ranks, 0).sum(axis=-1, keepdims=True) / size
        ranks = np.where(in_stratum, ranks - mean, ranks)
    return ranks


def partial_ranks(first: np.ndarray, second: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Correlate rank residuals along the last axis; NaN if one of them is constant."""
    a, b = rank_residuals(first, strata), rank_residuals(second, strata)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 1e-9, (a * b).sum(axis=-1) / scale, np.nan)
