"""Commands of the analysis; each is a function that the command line adds to its Typer app.

To start quickly, each command imports what it needs when it runs.
"""

from pathlib import Path
from typing import Annotated

import typer

from harness.terminal import console, note_outdated
from harness.text import pluralise


def analyse(
    study: Annotated[Path, typer.Option(help="folder of the frozen study")],
    responses: Annotated[Path, typer.Option(help="CSV of responses, as exported")],
    out: Annotated[Path, typer.Option(help="folder for tables, figures and report")],
    run: Annotated[Path | None, typer.Option(help="run from which the study was built")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="responses to analyse: human, pilot or simulated",
            show_default="the only kind in the table",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="reference condition of contrasts, '' for all pairs", show_default="as frozen"
        ),
    ] = None,
    similarity: Annotated[
        str | None,
        typer.Option(
            help="similarity of labels: words, exact, trigrams, sequence or package.module:name",
            show_default="as frozen",
        ),
    ] = None,
    replicates: Annotated[int, typer.Option(min=99, help="bootstrap replicates")] = 1999,
    permutations: Annotated[int, typer.Option(min=99, help="permutations per test")] = 9999,
    seed: Annotated[int, typer.Option(min=0, help="seed of bootstraps and permutations")] = 0,
    exhibits: Annotated[
        list[str] | None,
        typer.Option(help="tables and figures of your own: package.module:name, …"),
    ] = None,
) -> None:
    """Analyse the responses of a study; write tables, figures and a report."""
    from analysis.study.pipeline import analyse_study
    from analysis.study.results import Settings
    from analysis.study.sentences import main_findings

    if run is not None:
        note_outdated(run)
    settings = Settings(
        replicates,
        permutations,
        seed,
        similarity=similarity,
        reference=reference,
        exhibits=tuple(name for names in exhibits or () for name in names.split(",")),
    )
    results = analyse_study(study, responses, out, settings, run, source)
    for sentence in main_findings(results):
        console.print(sentence)
    console.print(f"wrote {out / 'report.html'}, tables/, figures/, numbers.tex")


def explore(
    run: Annotated[Path, typer.Argument(help="folder of a finished run")],
    study: Annotated[
        Path | None,
        typer.Option(help="results of a study of this run (`conceptevo analyse --out`)"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML file", show_default="RUN/explore.html")
    ] = None,
) -> None:
    """Write an offline page to explore a run: neurons over epochs, importance, responses."""
    from analysis.explorer.page import write_explorer
    from harness.artifacts import Run

    note_outdated(run)
    with console.status("explorer"):
        page = out or run / "explore.html"
        folder, size = write_explorer(Run(run), page, study)
    console.print(f"wrote {page} ({size / 1e6:.1f} MB)")
    if folder is not None:
        console.print(f"keep this folder of pictures next to it: {folder}")


def preregister(
    study: Annotated[Path, typer.Argument(help="folder made by `conceptevo study build`")],
    out: Annotated[
        Path | None, typer.Option(help="Markdown file", show_default="STUDY/preregistration.md")
    ] = None,
    studies: Annotated[
        int, typer.Option(min=50, help="simulated studies per point of the power curve")
    ] = 200,
) -> None:
    """Write a preregistration from the frozen study, under the headings of the OSF form."""
    from analysis.exhibits.pdf import can_write_pdf
    from analysis.study.preregistration import AUTHORS, write_preregistration

    with console.status("simulating the power of the frozen design"):
        paths = write_preregistration(study, out or study / "preregistration.md", studies)
    for path in paths:
        console.print(f"wrote {path}")
    if not can_write_pdf():
        console.print("no PDF: it needs fpdf2 (pip install 'conceptevo-harness[pdf]')")
    missing = paths[0].read_text(encoding="utf-8").count(AUTHORS)
    console.print(f"{missing} parts are marked for the authors to complete")


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="folders of two or more runs with a benchmark")
    ],
    out: Annotated[Path | None, typer.Option(help="folder for the table")] = None,
) -> None:
    """Compare the benchmarks of two runs, or of several (seeds, data sets) in one table."""
    from analysis.benchmark.report import compare as side_by_side
    from analysis.benchmark.runs import compare_runs
    from analysis.run.report import plain_on_screen

    if len(runs) < 2:
        raise ValueError("compare needs two runs or more; give their folders")
    if len(runs) == 2:
        table = side_by_side(*runs)
        columns = ["method", "gap A", "place A", "gap B", "place B", "B − A", "p"]
    else:
        table = compare_runs(runs)
        columns = ["method", "mean", "low", "high", "sd over runs", "difference", "p"]
    console.print(plain_on_screen(table.frame[columns], table.title))
    console.print(table.caption)
    if out is not None:
        table.write(out)
        console.print(f"wrote {out}")


def release(
    results: Annotated[Path, typer.Argument(help="folder written by `conceptevo analyse`")],
    out: Annotated[Path, typer.Option(help="zip file to write")] = Path("release.zip"),
) -> None:
    """Pack a study for publication: anonymised responses, codebook, study, keys and tables."""
    from analysis.study import release as packing

    path = packing.release(results, out)
    console.print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def rebuild(
    pack: Annotated[Path, typer.Argument(help="a release pack")],
    out: Annotated[
        Path | None, typer.Option(help="folder for the recomputed tables, figures and report")
    ] = None,
) -> None:
    """Recompute all tables from a release pack and compare them byte by byte."""
    from analysis.study import release as packing

    if different := packing.rebuild(pack, out):
        raise ValueError(
            f"recomputed tables differ: {', '.join(different)}; compare versions.json in {pack} "
            f"with the installed packages"
        )
    console.print(f"all tables of {pack} rebuilt, byte for byte")
    if out is not None:
        console.print(f"wrote {out / 'report.html'}, tables/, figures/")


def power(
    conditions: Annotated[
        str, typer.Option(help="expected accuracy by condition, e.g. base=.6,random=.1667")
    ],
    trials: Annotated[
        str,
        typer.Option(help="per participant and condition: 8, or 8:16:4 (8 to 16 in steps of 4)"),
    ] = "8",
    participants: Annotated[str, typer.Option(help="numbers of participants")] = "50:300:50",
    items: Annotated[
        str | None,
        typer.Option(help="different trials per condition", show_default="as --trials"),
    ] = None,
    raters: Annotated[
        str | None,
        typer.Option(help="responses per trial, instead of --items: 30, or 20:60:20"),
    ] = None,
    cost: Annotated[float | None, typer.Option(min=0, max=1e6, help="cost per participant")] = None,
    chance: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=0.999,
            help="accuracy of guessing, for --against-chance",
            show_default="1/6",
        ),
    ] = None,
    against_chance: Annotated[bool, typer.Option(help="test conditions against chance")] = False,
    reference: Annotated[str | None, typer.Option(help="reference condition of contrasts")] = None,
    primary_share: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1,
            help="share of α = .05 for these tests: primary_share of study.toml, or 1 if there are "
            "no other tests",
        ),
    ] = 0.8,
    sd_participant: Annotated[
        float, typer.Option(min=0, max=10, help="SD of participants' ability (logit)")
    ] = 0.5,
    sd_condition: Annotated[
        float,
        typer.Option(
            min=0, max=10, help="SD of the effect of condition between participants (logit)"
        ),
    ] = 0.0,
    sd_item: Annotated[
        float, typer.Option(min=0, max=10, help="SD of trials' difficulty (logit)")
    ] = 0.7,
    wanted: Annotated[float, typer.Option(min=0.05, max=0.99, help="required power")] = 0.8,
    studies: Annotated[int, typer.Option(min=50, help="simulated studies per design")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="seed of the simulation")] = 0,
    pilot: Annotated[
        Path | None,
        typer.Option(
            help="CSV of a pilot's responses, whose accuracies and standard deviations are used "
            "instead"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for the table and the power curve")
    ] = None,
) -> None:
    """Estimate the power of a study by simulation, for numbers of participants and trials."""
    from analysis.exhibits.figures import styled
    from analysis.planning.designs import Design
    from analysis.planning.power import (
        Plan,
        Sizes,
        calibrate,
        describe_smallest,
        power_curve,
        power_tables,
        smallest_designs,
    )
    from analysis.run.report import on_screen
    from tasks.responses import RESPONSES, read_table

    if against_chance and reference is not None:
        raise ValueError("give --reference or --against-chance: contrasts or conditions are tested")
    if chance is not None and not against_chance:
        raise ValueError(
            "--chance is used only with --against-chance; contrasts do not depend on it"
        )
    design = Design(
        parse_conditions(conditions), sd_participant=sd_participant, sd_item=sd_item,
        sd_condition=sd_condition, chance=1 / 6 if chance is None else chance,
    )  # fmt: skip
    if pilot is not None:
        answers = read_table(pilot, RESPONSES).query("role == 'trial'")
        assumed, design = design.accuracy, calibrate(design, answers)
        texts = {name: f"{name} {share:.3f}" for name, share in design.accuracy.items()}
        kept = [
            texts.pop(name) for name, share in assumed.items() if design.accuracy[name] == share
        ]
        if kept:
            console.print(f"Not estimable from the pilot, as given: {', '.join(kept)}")
        console.print(
            f"From the pilot: {', '.join(texts.values())}; SD {design.sd_participant:.2f} "
            f"(participants), {design.sd_condition:.2f} (participants in conditions), "
            f"{design.sd_item:.2f} (trials)"
        )
    sizes = Sizes(
        parse_range(participants, "--participants"),
        parse_range(trials, "--trials"),
        parse_range(items, "--items") if items else (),
        parse_range(raters, "--raters") if raters else (),
    )
    if count := sizes.count_left_out():
        console.print(
            f"{pluralise(count, 'size')} with fewer participants than raters left out: nobody "
            f"answers an item twice"
        )
    plan = Plan(design, against_chance, reference, share=primary_share)
    table = power_curve(plan, sizes, studies, float("nan") if cost is None else cost, seed)
    designs = smallest_designs(table, wanted)
    tables, figure = power_tables(table, designs, wanted, primary_share)
    for one in tables:
        console.print(on_screen(one))
    console.print(describe_smallest(designs, wanted, table))
    if primary_share < 1:
        kind = "chance" if against_chance else "contrasts"
        console.print(
            f"These tests receive {100 * primary_share:g} % of α = .05 if they are the primary "
            f'hypothesis: in study.toml, [analysis] primary = "TASK.{kind}".',
        )
    if out is not None:
        for one in tables:
            one.write(out)
        with styled():
            figure.write(out)
        console.print(f"wrote {out}")


def parse_range(text: str, name: str) -> list[int]:
    """Parse "8" or "100:400:50" (both ends included) into numbers.

    Raises:
        ValueError: the text has neither form, or a number is not positive.
    """
    try:
        parts = [int(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1 and parts[0] > 0:
        return parts
    if len(parts) == 3 and 0 < parts[0] <= parts[1] and parts[2] > 0:
        return list(range(parts[0], parts[1] + 1, parts[2]))
    raise ValueError(f"{name} must be a number or first:last:step, got {text!r}")


def parse_conditions(text: str) -> dict[str, float]:
    """Parse "base=.6,random=.1667" into a dict; raise ValueError for another form."""
    accuracies = {}
    for part in text.split(","):
        name, _, share = (piece.strip() for piece in part.partition("="))
        try:
            accuracy = float(share if name else "")
        except ValueError:
            raise ValueError(
                f"--conditions must be name=share,…, e.g. base=.6,random=.1667; got {part!r}"
            ) from None
        if name in accuracies:
            raise ValueError(f"--conditions names {name!r} twice")
        accuracies[name] = accuracy
    return accuracies
