"""The command `study build`: freeze a study and report planned tests that it cannot support."""

from __future__ import annotations

from functools import wraps
from importlib.util import find_spec
from pathlib import Path

from harness.terminal import console
from tasks import commands


@wraps(commands.build)
def build(run: Path, out: Path, settings: Path | None = None) -> None:
    commands.build(run, out, settings)
    if missing := [name for name in ("statsmodels", "matplotlib") if find_spec(name) is None]:
        console.print(
            f"Whether the design is large enough for all planned tests was not checked: "
            f"{missing[0]} is missing (pip install 'conceptevo-harness\\[analysis]')."
        )
        return
    from analysis.study.before_collection import describe_ruled_out, results_without_responses
    from analysis.study.frozen_study import read_study

    if warning := describe_ruled_out(results_without_responses(read_study(out))):
        console.print(warning, style="yellow")
