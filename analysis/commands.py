"""Commands of the analysis: functions that the front door adds to its Typer app."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import pandas as pd
import typer
from rich.console import Console

from analysis import meeting
from analysis.figures import styled
from analysis.numbers import numbers_tex
from analysis.release import anonymised, copy_study, write_data
from analysis.responses import prepare, read_study
from analysis.reversion import by_class
from analysis.study import Results, Settings
from analysis.study_figures import study_figures
from analysis.study_report import write_study_report
from analysis.study_tables import study_tables
from harness.artifacts import Run, write_text
from harness.records import JOINT, PAIR
from tasks.responses import PARTICIPANTS, RESPONSES, read_table

console = Console()

#: Files of the evidence that a run adds, kept beside the answers so that the pack needs no run.
NETWORK, REVERSION = "network.csv", "reversion.csv"


def analyse(
    study: Annotated[Path, typer.Option(help="folder of the frozen study")],
    responses: Annotated[Path, typer.Option(help="CSV of answers; participants.csv beside it")],
    out: Annotated[Path, typer.Option(help="folder for tables, figures and report")],
    run: Annotated[Path | None, typer.Option(help="run whose neurons the study shows")] = None,
    source: Annotated[
        str | None, typer.Option(help="human, pilot or simulated, where the table holds several")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="condition to compare the others with [default: all pairs]")
    ] = None,
    similarity: Annotated[str, typer.Option(help="of labels: words, exact, trigrams, …")] = "words",
    replicates: Annotated[int, typer.Option(min=99, help="of the bootstraps")] = 1999,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Every table and figure of a study, and one report."""
    people_path = responses.with_name("participants.csv")
    for path in (responses, people_path):
        if not path.is_file():
            raise ValueError(f"{path} does not exist; export both tables from the survey")
    answers = read_table(responses, RESPONSES)
    people = read_table(people_path, PARTICIPANTS)
    frozen = read_study(study)
    chosen = prepare(frozen, answers, people, source)  # complains about the user's own rows
    mine = people["source"] == chosen.source
    data = anonymised(answers[answers["source"] == chosen.source], people[mine])
    write_data(out / "data", *data)
    copy_study(study, out / "study")
    for name in (NETWORK, REVERSION):
        (out / "data" / name).unlink(missing_ok=True)
    if run is not None:
        _write_network(out, study, chosen, Run(run))
    settings = Settings(replicates, seed, similarity=similarity, reference=reference)
    about = {
        "title": frozen.title,
        "hash": frozen.hash,
        "participants": int(chosen.answers["participant"].nunique()),
        "answers": len(chosen.answers),
    }
    text = {"source": chosen.source, "settings": asdict(settings), "about": about}
    write_text(out / "analysis.json", json.dumps(text, indent=1, ensure_ascii=False) + "\n")
    analyse_folder(out, out)
    console.print(f"wrote {out / 'report.html'}, tables/, figures/, numbers.tex", highlight=False)


def _write_network(out: Path, study: Path, chosen: Any, run: Run) -> None:
    """What the run knows of the neurons shown, and its reversion by bin."""
    observed = meeting.observe(chosen.study, study)
    table = meeting.evidence(chosen.study, run, observed)
    write_text(out / "data" / NETWORK, table.to_csv(index=False, lineterminator="\n"))
    if run.holds("reversion"):
        records = run.tables("reversion")
        records = records[(records["layer"] != JOINT) & (records["method"] == "sign_t")]
        table = over_layers(by_class(records))
        write_text(out / "data" / REVERSION, table.to_csv(index=False, lineterminator="\n"))


def over_layers(classes: pd.DataFrame) -> pd.DataFrame:
    """Changes of accuracy by pair, split and arm, mean over classes and then over layers.

    Args:
        classes: as `by_class` gives them, of one method.

    Returns:
        series, epoch_from, epoch_to, split, before, and a column an arm.
    """
    keys = [*PAIR, "split"]
    means = classes.groupby([*keys, "layer", "arm"])[["before", "change"]].mean()
    means = means.groupby([*keys, "arm"]).mean()
    table = means["change"].unstack("arm")
    table.insert(0, "before", means["before"].unstack("arm")["all"])
    return table.reset_index()


def analyse_folder(folder: Path, out: Path) -> Results:
    """Tables, figures, numbers and report from a results folder or an unpacked release pack."""
    frozen = read_study(folder / "study")
    config = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
    answers = read_table(folder / "data" / "responses.csv", RESPONSES)
    people = read_table(folder / "data" / "participants.csv", PARTICIPANTS)

    def reload(rules: dict[str, Any] | None):
        return prepare(frozen, answers, people, config["source"], rules, checked=True)

    responses = prepare(frozen, answers, people, config["source"])
    network, reversion = (
        pd.read_csv(path) if (path := folder / "data" / name).is_file() else None
        for name in (NETWORK, REVERSION)
    )
    joined = None if network is None else meeting.join(responses, network)
    results = Results(responses, Settings(**config["settings"]), reload, joined, reversion)
    tables = study_tables(results)
    for table in tables.values():
        table.write(out / "tables")
    write_text(out / "numbers.tex", numbers_tex(tables))
    figures = study_figures(results)
    with styled():
        for figure in figures.values():
            figure.write(out / "figures")
        write_study_report(out / "report.html", results, tables, figures)
    plt.close("all")
    return results


def release(
    results: Annotated[Path, typer.Argument(help="folder written by `conceptevo analyse`")],
    out: Annotated[Path, typer.Option(help="the pack")] = Path("release.zip"),
) -> None:
    """Pack what one publishes: anonymised answers, codebook, study, keys, tables, checksums."""
    from analysis import release as packing

    path = packing.release(results, out)
    console.print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)", highlight=False)


def rebuild(pack: Annotated[Path, typer.Argument(help="a release pack")]) -> None:
    """Rebuild all tables from a release pack alone and compare them byte for byte."""
    from analysis import release as packing

    if different := packing.rebuild(pack):
        raise ValueError(
            f"{', '.join(different)} came out differently; compare versions.json in {pack} with "
            f"the installed packages"
        )
    console.print(f"all tables of {pack} rebuilt, byte for byte")


def power(
    conditions: Annotated[
        str, typer.Option(help="expected accuracy by condition, e.g. base=.6,random=.1667")
    ],
    trials: Annotated[
        str, typer.Option(help="trials a participant and condition: 8, or 8:16:4")
    ] = "8",
    participants: Annotated[str, typer.Option(help="how many, e.g. 100:400:50")] = "50:300:50",
    items: Annotated[
        str | None, typer.Option(help="different trials a condition [default: as --trials]")
    ] = None,
    cost: Annotated[float, typer.Option(min=0, help="of one participant")] = float("nan"),
    chance: Annotated[float, typer.Option(min=0.001, max=0.999)] = 1 / 6,
    against_chance: Annotated[bool, typer.Option(help="test conditions against chance")] = False,
    reference: Annotated[str | None, typer.Option(help="compare all with this condition")] = None,
    sd_participant: Annotated[float, typer.Option(min=0, help="of ability, logit scale")] = 0.5,
    sd_item: Annotated[float, typer.Option(min=0, help="of difficulty, logit scale")] = 0.7,
    wanted: Annotated[float, typer.Option(min=0.05, max=0.99)] = 0.8,
    studies: Annotated[int, typer.Option(min=50, help="simulated for each point")] = 400,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    pilot: Annotated[Path | None, typer.Option(help="CSV of a pilot, to calibrate by")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for table and curve")] = None,
) -> None:
    """How many people (and trials) a study needs, before it is launched."""
    from analysis.coverage import Design
    from analysis.power import Plan, calibrate, curve, power_tables, smallest

    counts, people = parse_range(trials, "--trials"), parse_range(participants, "--participants")
    different = parse_range(items, "--items") if items else [None]
    accuracy = parse_conditions(conditions)
    frames = []
    for answered in counts:
        for number in different:
            size = number or answered
            if answered > size:
                raise ValueError(f"--trials {answered} exceeds --items {size}")
            design = Design(
                accuracy, people[0], size, answered, sd_participant, sd_item, chance=chance
            )
            if pilot is not None:
                design = calibrate(design, read_table(pilot, RESPONSES).query("role == 'trial'"))
            plan = Plan(design, against_chance, reference)
            frames.append(curve(plan, people, studies=studies, cost=cost, seed=seed))
    table = pd.concat(frames, ignore_index=True)
    found = smallest(table, wanted)
    tables, figure = power_tables(table, found, wanted)
    for one in tables:
        console.print(f"\n[bold]{one.title}[/]")
        console.print(one.shown().to_string(index=False), highlight=False)
    if out is not None:
        for one in tables:
            one.write(out)
        with styled():
            figure.write(out)
        console.print(f"wrote {out}")
    plt.close("all")


def parse_range(text: str, name: str) -> list[int]:
    """ "8" or "100:400:50" (both ends included) as numbers.

    Raises:
        ValueError: neither form, or not positive.
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
    """ "base=.6,random=.1667" as a dict. Raises ValueError for another form."""
    found = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            found[name.strip()] = float(share)
        except ValueError:
            raise ValueError(
                f"--conditions must be name=share,…, e.g. base=.6,random=.1667; got {part!r}"
            ) from None
    return found
