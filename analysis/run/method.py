"""The section on method: terms, measures, sets of neurons and tests."""

from analysis.exhibits.phrases import name_parts
from analysis.exhibits.report import paragraphs
from analysis.run.published import SCORE, SPACE
from analysis.run.reversion import count_images, describe_range, joint_means, reversion_study
from analysis.run.tables import base_checkpoint, true_concepts
from harness.artifacts import Run
from harness.records import NAMED_OVERLAP
from harness.results import REVERSION, has_results


def method_of_run(run: Run) -> list[str]:
    manifest = run.manifest()
    space, *others = manifest["space_methods"]
    reversion = {}
    if has_results(run, REVERSION):
        results, means = reversion_study(run), joint_means(run)
        reversion = {
            "results": results,
            "bins": results.about["arms"]["bins"],
            "parts": name_parts(results.about["arms"]["bins"]),
            "draws": means.loc[means["arm"] == "random", "draw"].nunique(),
            "held_out": count_images(means, "held-out "),
            "importance_images": describe_range(
                results.importance(["images"], method=results.methods[0])["images"]
            ),
        }
    return paragraphs(
        "run_method.md",
        k=manifest["configuration"]["probe"]["k"],
        base=base_checkpoint(run),
        space=space,
        others=others,
        paper_space=SPACE,
        paper_score=SCORE,
        has_concepts=true_concepts(run) is not None,
        named_overlap=NAMED_OVERLAP,
        **reversion,
    )
