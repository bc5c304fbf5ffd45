"""Commands that make studies; each is a function that the command line adds to its Typer app."""

from pathlib import Path
from typing import Annotated

import typer

from harness.terminal import console, note_outdated
from harness.text import pluralise

StudyFolder = Annotated[Path, typer.Argument(help="folder made by `conceptevo study build`")]


def build(
    run: Annotated[Path, typer.Argument(help="folder made by `conceptevo run`")],
    out: Annotated[Path, typer.Option(help="folder of the study")],
    settings: Annotated[
        Path | None,
        typer.Option(help="study.toml (`conceptevo study settings`)", show_default="the defaults"),
    ] = None,
) -> None:
    """Draw trials and controls from a run, and freeze them as a study with a hash."""
    from harness.artifacts import Run
    from tasks.build import build as build_study
    from tasks.false_exclusion import one_sided_rate
    from tasks.settings import load_settings

    study_settings = load_settings(settings)
    note_outdated(run)
    with console.status("drawing trials") as status:
        study = build_study(Run(run), study_settings, out, status.update, console.print)
    console.print(
        f"study {study.hash}: {pluralise(len(study.trials), 'trial')} in "
        f"{pluralise(len(study.forms), 'form')} for {study_settings.participants} participants, "
        f"{len(study.images())} pictures, in {out}",
    )
    if (threshold := study.exclusion.one_sided_above) is not None:
        trials = [study.by_id[name] for block in study.forms[0] for name in block]
        options = [len(t.options) for t in trials if t.role == "trial" and t.options]
        console.print(
            f"The rule one_sided_above = {threshold:g} would exclude "
            f"{100 * one_sided_rate(options, threshold):.1f} % of participants who favour no "
            "position by chance alone (simulated).",
        )


def check(study: StudyFolder) -> None:
    """Write a page of all trials with correct responses and those of the machine observer."""
    from tasks.contact_sheet import contact_sheet
    from tasks.study import load

    frozen, keys = load(study)
    console.print(
        f"study {frozen.hash} is as it was frozen; see {contact_sheet(frozen, keys, study)}"
    )


def settings(
    path: Annotated[Path, typer.Argument(help="file to write")] = Path("study.toml"),
    preset: Annotated[
        str, typer.Option(help="default, or conceptevo (the published human study)")
    ] = "default",
) -> None:
    """Write a commented study.toml to start from."""
    from harness.files import write_text
    from tasks.settings import PRESETS

    if preset not in PRESETS:
        raise ValueError(f"--preset {preset!r} must be one of {', '.join(PRESETS)}")
    if path.exists():
        raise ValueError(f"{path} exists; name another file, or remove it first")
    write_text(path, PRESETS[preset].read_text(encoding="utf-8"))
    console.print(f"wrote {path}")
