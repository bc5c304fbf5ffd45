"""The command line. Each command imports the code that it needs only when it runs."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from conceptevo import groups
from conceptevo.groups import ABOUT, app
from harness.terminal import console

if TYPE_CHECKING:
    from harness.artifacts import Run
    from harness.config import Config


ConfigFile = Annotated[Path, typer.Argument(help="configuration (TOML); see `conceptevo init`")]
RunFolder = Annotated[Path, typer.Argument(help="folder of the run")]


def _option(text: str, default: str = "as configured", **rules: Any) -> Any:
    """Return an option whose default depends on the configuration or the machine."""
    return typer.Option(help=text, show_default=default, **rules)


Out = Annotated[Path | None, _option("folder of the run", "runs/ and the name of CONFIG")]
Cluster = Annotated[
    str | None, typer.Option(help="address of a Ray cluster, or auto; see docs/cluster.md")
]
Device = Annotated[str | None, _option("auto, cpu, cuda, cuda:N or mps")]
Precision = Annotated[str | None, _option("float32, bfloat16 or float16")]
OnlyPlan = Annotated[
    bool, typer.Option("--plan", help="show the expected time, memory and disk space, and stop")
]


def _read_config(path: Path, **changes: object) -> Config:
    """Return the configuration; if it is faulty, report all its faults and those of its files."""
    from harness.config import ConfigError, load_config

    try:
        return load_config(path, **changes)
    except ConfigError as error:
        if error.rest is not None:
            from harness.stages.run import refuse_all

            refuse_all(error.rest, error.faults)
        raise


def _run_until(last: str, config: Config, out: Path, cluster: str | None = None) -> None:
    """Run every stage up to `last`, or all stages and the report; print the result."""
    from harness.stages.run import run_until, show_estimate

    run = run_until("revert" if last == "report" else last, config, out, console, cluster)
    if last == "report":
        from analysis.run.report import write_report

        _report(run, partial(write_report, run), "report")
    elif last == "audit":
        _audit(run)
    elif last == "check":
        _check(run)
        show_estimate(config, out, console)


def _check(run: Run) -> None:
    from analysis.run.audit import NUMBERS, checkpoints
    from analysis.run.report import plain_on_screen

    if table := checkpoints(run):
        console.print(plain_on_screen(table.frame[NUMBERS], table.title))
    console.print("Every checkpoint can be used.")


def _audit(run: Run) -> None:
    from analysis.run import audit
    from analysis.run.report import plain_on_screen

    if table := audit.audit(run):
        names = {"unchanged_layers": "unchanged", "dead_units": "dead", "non_finite": "NaN"}
        columns = ["series", "epoch", "norm", "step", "detour", *names]
        console.print(plain_on_screen(table.frame[columns].rename(columns=names), table.title))
    for sentence in audit.audit_sentences(run, {}):
        console.print(sentence)


def _report(run: Run, write: Callable[[], Any], title: str) -> None:
    with console.status(title):
        report = write()
        run.publish()
    for line in (report.summary, *report.sentences, *(f"  {path}" for path in report.paths)):
        console.print(line)


#: The commands that run every stage up to one, with their help.
STAGE_COMMANDS = {
    "check": "Check that every checkpoint and image can be used, and report every problem at once.",
    "train": 'Prepare the images and train the networks of the series with `source = "train"`.',
    "audit": "Audit the weights of each series: duplicates, wrong order, jumps, frozen layers, "
    "NaN.",
    "probe": "Record for every neuron of every checkpoint its stimuli (the images that activate it "
    "most), the positions of their maxima, and all activations.",
    "space": "Embed all neurons in one semantic space, by every configured method.",
    "evolve": "Score how important each neuron's evolution, its change between two checkpoints, is "
    "for each class.",
    "revert": "Revert sets of neurons to the earlier checkpoint and record how the predictions "
    "change.",
    "report": "Write the tables, figures and the HTML report.",
}


def _stage_command(stage: str) -> None:
    @app.command(
        stage,
        help=f"{STAGE_COMMANDS[stage]}\n\nThe stages that it needs are run first, unless their "
        f"results are up to date.",
    )
    def command(
        config: ConfigFile,
        out: Out = None,
        cluster: Cluster = None,
        device: Device = None,
        precision: Precision = None,
    ) -> None:
        configuration = _read_config(config, device=device, precision=precision)
        _run_until(stage, configuration, out or Path("runs") / config.stem, cluster)


for _stage in STAGE_COMMANDS:
    _stage_command(_stage)


@app.command()
def run(
    config: ConfigFile,
    out: Out = None,
    cluster: Cluster = None,
    device: Device = None,
    precision: Precision = None,
    plan: OnlyPlan = False,
) -> None:
    """Run all stages, from checkpoints and images to the report."""
    configuration = _read_config(config, device=device, precision=precision)
    folder = out or Path("runs") / config.stem
    groups.refuse_cluster(plan, cluster)
    if plan:
        from harness.stages.run import show_estimate

        show_estimate(configuration, folder, console)
    else:
        _run_until("report", configuration, folder, cluster)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("runs/demo"),
    seed: Annotated[
        int | None, _option("seed of images, initial weights and random draws", "0", min=0)
    ] = None,
    series: Annotated[
        str,
        typer.Option(
            help="separated by commas: vgg, resnet, convnext, vgg-large-rate, vgg-overfitted"
        ),
    ] = "vgg,resnet",
) -> None:
    """Run all stages and a simulated study on synthetic images and small networks."""
    from analysis.commands import explore
    from conceptevo.demo import demo_config, run_demo_study

    _run_until("report", demo_config(_split(series), seed), out)
    explore(out, run_demo_study(out))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _split_names(text: str, known_names: Sequence[str]) -> list[str]:
    """Split names at commas; of known names that contain commas, the longest match is taken."""
    rest, names = text.strip(), []
    while rest:
        matches = [n for n in known_names if rest == n or re.match(re.escape(n) + r"\s*,", rest)]
        name = max(matches, key=len, default=rest.partition(",")[0].strip())
        names.append(name)
        rest = rest[len(name) :].lstrip().removeprefix(",").strip()
    return [name for name in names if name]


@groups.bench.command("run")
def bench(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="folder of a run that has been probed")],
    methods: Annotated[
        str, _option("separated by commas: names, all, package.module:function")
    ] = "",
    ablation: Annotated[str, _option("separated by commas: revert, zero, mean, resample")] = "",
    classes: Annotated[str, _option("names, separated by commas")] = "",
    pairs: Annotated[str, _option("pairs of epochs, e.g. vgg:1-4,vgg:4-10")] = "",
    layers: Annotated[
        str, _option("names or patterns of layers, separated by commas", "all probed")
    ] = "",
    splits: Annotated[str, _option("separated by commas: heldout, importance")] = "",
    memory: Annotated[
        float | None,
        _option("GiB for all workers together", "70 % of the free memory", min=1e-6, max=1e6),
    ] = None,
    workers: Annotated[int | None, _option("number of processes", "one per core", min=0)] = None,
    cluster: Cluster = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    plan: OnlyPlan = False,
    leaderboard: Annotated[
        bool, typer.Option("--leaderboard", help="print earlier results, compute nothing")
    ] = False,
) -> None:
    """Compare importance methods by how predictions change when important neurons are ablated."""
    from harness.artifacts import Run

    results = Run(run)
    groups.refuse_cluster(plan, cluster)
    if leaderboard:
        if others := sorted(groups.given_options(context) - {"--leaderboard"}):
            raise ValueError(f"--leaderboard computes nothing: leave out {', '.join(others)}")
    else:
        from harness.images.sets import open_images
        from harness.stages.benchmark import Coverage
        from harness.stages.run import bench as run_bench
        from harness.text import normalise_name

        coverage = Coverage(
            _split(methods),
            _split_names(
                normalise_name(classes), open_images(results, "test").classes if classes else ()
            ),
            *map(_split, (pairs, layers, ablation, splits)),
        )
        machine = {"workers": workers, "memory": memory, "device": device}
        results = run_bench(results, console, coverage, cluster, only_plan=plan, **machine)
        if plan:
            return
    from analysis.benchmark.report import write_bench_report

    _report(results, partial(write_bench_report, run), "statistics")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="file to write")] = Path("conceptevo.toml"),
    preset: Annotated[
        str | None, typer.Option(help="paper: the published experiments, on your ImageNet")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="folder of ImageNet with train/ and val/ (--preset paper)")
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="folder of all series (--preset paper); default: checkpoints"),
    ] = None,
) -> None:
    """Write a commented configuration to start from."""
    from harness.files import write_text
    from harness.presets import CONFIGS, paper

    if path.exists():
        raise ValueError(f"{path} exists; name another file, or remove it first")
    if preset not in (None, "paper"):
        raise ValueError(f"--preset {preset!r} must be paper; without it, a template is written")
    if preset is None and (images or checkpoints):
        raise ValueError("--images and --checkpoints need --preset paper: add it, or omit them")
    if preset and images is None:
        raise ValueError("--preset paper needs --images, the folder of ImageNet's train/ and val/")
    if images is None:
        text = (CONFIGS / "template.toml").read_text(encoding="utf-8")
    else:
        text = paper(images, checkpoints or Path("checkpoints"))
    write_text(path, text)
    console.print(f"wrote {path}; edit it, then: conceptevo check {path}")


@app.command()
def status(run: RunFolder) -> None:
    """Count done, running, stale and missing pieces of work of a run; estimate when it will end."""
    from datetime import datetime

    from harness.artifacts import Run
    from harness.stages.run import status as status_of

    state = status_of(Run(run))
    minutes = (state.steps["seconds_left"] / 60).round(1)
    table = state.steps.drop(columns="seconds_left").assign(**{"minutes left": minutes})
    console.print(table.to_string(index=False, na_rep="?"))
    if state.unknown:
        console.print(f"Counted only after the steps above: {', '.join(state.unknown)}.")
    console.print(state.sentence(datetime.now()))


@app.command()
def verify(run: RunFolder) -> None:
    """Compare every file of a run with its recorded hash."""
    from harness.artifacts import Run
    from harness.artifacts import verify as findings_of
    from harness.store import open_run

    store = Run(run).manifest()["configuration"].get("store")
    counts = Counter[str]()
    for path, state, fault in findings_of(open_run(run, store)):
        counts[state] += 1
        if fault:
            console.print(f"{path.relative_to(run)} {fault}")
    damaged = counts["damaged"]
    console.print(
        f"{counts.total()} files: {counts['unchanged']} unchanged, {damaged} damaged or "
        f"missing, {counts['open']} unfinished or without a recorded hash"
    )
    if damaged:
        raise typer.Exit(1)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="checkpoint that safe loading refuses")],
    out: Annotated[Path | None, _option("file to write", "FILE-weights.pt")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="execute the code that the file may contain")
    ] = False,
) -> None:
    """Extract the weights of a checkpoint that safe loading refuses, executing code in the file."""
    from harness.networks.conversion import convert as write_weights

    output = out or file.with_name(f"{file.stem}-weights.pt")
    if not trust:
        raise ValueError(
            f"{file}: reading it runs the Python code that it may contain (pickle). If you trust "
            f"its author, add --trust; only its weights are then written to {output}"
        )
    if output.exists():
        raise ValueError(f"{output} exists; name another file with --out")
    console.print(f"loading {file} with pickle, which runs the code in it")
    keys, tensors = write_weights(file, output)
    names = ", ".join(key or "(the file itself)" for key in keys)
    console.print(f"wrote {output}: {tensors} tensors of {names}")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        console.print(f"conceptevo-harness {version('conceptevo-harness')}")
        raise typer.Exit


@app.callback(help=ABOUT)
def front(
    debug: Annotated[bool, typer.Option("--debug", help="show where an error was raised")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="show the version", is_eager=True, callback=_version)
    ] = False,
) -> None:
    global _debug
    _debug = debug
    handler = RichHandler(console=console, show_time=False, show_path=False, show_level=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)


_debug = False


def main() -> None:
    """Run the command line; errors that users can mend are shown as messages, without traceback."""
    os.environ.setdefault("MPLBACKEND", "Agg")  # figures are written to files
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its profiler warns at every estimate
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without Unicode shows ? for the rest
            stream.reconfigure(errors="replace")
    try:
        app()
    except (ValueError, OSError, MemoryError) as error:
        if _debug:
            raise
        text = f"[bold red]error:[/] {escape(str(error) or 'not enough memory')}"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # so Typer ends a command after Ctrl-C
            Console(stderr=True).print("\ninterrupted; run the same command again to continue")
        raise
