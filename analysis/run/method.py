"""The section on method: terms, measures, sets of neurons and tests."""

from __future__ import annotations

from analysis.run.published import SCORE, SPACE
from analysis.run.reversion import images_of, joint, reversion_records
from analysis.run.tables import base_checkpoint
from analysis.statistics.alignment import NAMED_OVERLAP
from harness.artifacts import Run
from harness.results import REVERSION, has_results, read_results


def of_run(run: Run) -> list[str]:
    """Return the paragraphs of the section on method."""
    manifest, base = run.manifest(), base_checkpoint(run)
    k = manifest["configuration"]["probe"]["k"]
    space, *others = manifest["space_methods"]
    paper = "the skip-gram embedding of the paper (Park et al., 2023)"
    paragraphs = [
        "Terms. A checkpoint is the state of a network at one epoch; the checkpoints of one "
        "training run form a series. A neuron is one channel of one probed layer, followed over "
        f"the checkpoints of its series. Its stimuli are the {k} probe images that activate it "
        "most; a neuron is dead at a checkpoint if its activation is positive on no probe image, "
        "or constant.",
        f"Semantic space. {space} is {paper if space == SPACE else 'defined below'}. In it, "
        f"neurons of the base checkpoint ({base.series}, epoch {base.epoch}) that share stimuli "
        "are embedded near each other, and the neurons of all other checkpoints are embedded in "
        "the same space through their stimuli."
        + " It is compared with the methods defined below."
        * bool(others),
    ]
    if run.holds("concepts"):
        paragraphs.append(
            "True concept. The true concept of a neuron is the image part or attribute whose mask "
            "overlaps most with the positions of the neuron's highest 0.5 % of activations over "
            "all images. For attributes without masks, the overlap is that between the images that "
            "have the attribute and the images that activate the neuron most. No human judgement "
            "is involved. A true concept counts only if its overlap (intersection over union) is "
            f"at least {NAMED_OVERLAP}, the threshold of Network Dissection (Bau et al., 2017). "
            "The measure of validity of a space is the share of a neuron's five nearest base "
            "neurons that have its true concept. It is compared with chance, with untrained "
            "networks, and with the ceiling: the largest possible share, which is below 1 for a "
            "concept that fewer than five base neurons have. It is computed for four groups of "
            f"neurons: base (the base checkpoint itself), other epochs of {base.series}, other "
            "series, and untrained (checkpoints at epoch 0). Intervals and tests are clustered by "
            "layer, as neurons of a layer are alike, and spaces are compared in pairs on the same "
            "neurons."
        )
    if has_results(run, REVERSION):
        paragraphs += _reversion(run)
    return paragraphs


def _reversion(run: Run) -> list[str]:
    results = read_results(run.root, REVERSION)
    about = results.about
    records = reversion_records(run)
    draws = records.loc[records["arm"] == "random", "draw"].nunique()
    bins = about["arms"]["bins"]
    part = "quarter" if bins == 4 else f"1/{bins}"
    return [
        "Importance. For a class and a pair of epochs, every neuron gets a score for the "
        f"importance of its change (its evolution), from {about['images_per_class']} test images "
        "of the class. "
        + f"{SCORE} is the score of the paper. " * (SCORE in results.methods)
        + " ".join(results.measured_on)
        + " What importance is measured on is called the objective.",
        "Reversion. The activations of a set of neurons in the later checkpoint are replaced by "
        "those of the earlier checkpoint for the same image, and the rest of the network is "
        f"computed as usual. The sets in each layer are q1 to q{bins}: from the most to the least "
        f"important {part} of the neurons; random: {draws} random sets as large as q1; matched: "
        "for each neuron of q1, one neuron outside q1 whose change has a similar size; and all: "
        f"all neurons. Accuracy is measured on {images_of(joint(run), 'held-out ')}: test images "
        "that were not used for importance. If a score is valid, reverting q1 should reduce "
        f"accuracy more than reverting random or matched sets or q{bins}.",
        f"Tests. The classes (n = {len(about['classes'])}) are treated as a random sample, the "
        "networks as fixed. Intervals are t intervals over classes; tests are exact Wilcoxon "
        "signed-rank tests over classes and Page's trend test over the quarters. An "
        "effect is claimed if its adjusted p-value is below .05 and the unadjusted 95 % CI "
        "excludes the null value.",
    ]
