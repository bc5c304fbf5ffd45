"""The demo: small networks on synthetic images, and a study with simulated participants."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from analysis.study.pipeline import analyse_study
from analysis.study.results import Settings
from harness.artifacts import Run, fingerprint
from harness.config import Config, parse_config
from harness.presets import CONFIGS
from harness.terminal import console
from survey_app.commands import database_url, export, simulate
from tasks.commands import build


def demo_config(names: Sequence[str], seed: int | None) -> Config:
    """Return the demo's configuration with some of its series, and another seed of images, initial
    weights and random draws than that of demo.toml, if one is given.

    Raises:
        ValueError: the demo has no series of such a name.
    """
    values = tomllib.loads((CONFIGS / "demo.toml").read_text(encoding="utf-8"))
    all_names = [section["name"] for section in values["series"]]
    if unknown := sorted(set(names) - set(all_names)):
        raise ValueError(f"--series: the demo has {', '.join(all_names)}, not {', '.join(unknown)}")
    if seed is not None:
        values["seed"] = seed
    values["series"] = [
        section | {"seed": values["seed"]}
        for section in values["series"]
        if section["name"] in names
    ]
    pairs = values["evolve"]["pairs"]
    values["evolve"]["pairs"] = {name: pairs[name] for name in pairs if name in names}
    return parse_config(values, "the demo")


def run_demo_study(out: Path) -> Path:
    """Build a study from the run, add simulated participants and analyse it, unless done already.
    Return the folder of its results."""
    manifest = Run(out).manifest()
    manifest["versions"].pop("commit", None)  # another commit may reuse the study, as the run
    study = out / f"study-{fingerprint(manifest)[:8]}"
    if (study / "study.json").exists():
        console.print("study: exists already, reused", style="dim")
    else:
        build(out, study)
    simulate(study, participants=260)  # adds nobody who has taken part before
    results = study / "results"
    if not (results / "report.html").exists():
        answers = study / "responses.csv"
        export(answers, database_url(study, None), "simulated")
        with console.status("analysing the simulated responses"):
            analyse_study(study, answers, results, Settings(), out)
    console.print(f"Results of the simulated study: {results / 'report.html'}")
    console.print(f"\nServe the study with\n  conceptevo survey {study}")
    return results
