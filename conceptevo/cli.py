"""The front door: one sub-command a stage. Each room is imported only when its command runs."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from typer.core import TyperGroup

from harness.terminal import console

if TYPE_CHECKING:
    from harness.config import Config


class Rooms(TyperGroup):
    """Commands that live in other rooms, imported when called (or when help lists them)."""

    rooms: ClassVar[dict[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self.rooms]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.rooms:
            return super().get_command(ctx, cmd_name)
        module, _, function = self.rooms[cmd_name].partition(":")
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(getattr(import_module(module), function))
        return typer.main.get_command(single)


class Everything(Rooms):
    rooms: ClassVar = {
        "survey": "survey_app.commands:survey",
        "dashboard": "survey_app.commands:dashboard",
        "survey-password": "survey_app.commands:password",
        "analyse": "analysis.commands:analyse",
        "explore": "analysis.commands:explore",
        "power": "analysis.commands:power",
        "release": "analysis.commands:release",
        "rebuild": "analysis.commands:rebuild",
    }


class Bench(Rooms):
    """`bench RUN …` runs it; `bench compare A B` is a command of its own."""

    rooms: ClassVar = {"compare": "analysis.commands:compare"}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not self._names_a_command(args):
            args.insert(0, "run")
        return super().parse_args(ctx, args)

    def _names_a_command(self, args: list[str]) -> bool:
        """A run's folder may be called as a command is: `bench run`, `bench compare --plan`."""
        names = [word for word in args[1:] if not word.startswith("-")]
        match args[0]:
            case "run":
                return bool(names) and not (Path("run").is_dir() and not Path(names[0]).is_dir())
            case "compare":
                return len(names) > 1 or not Path("compare").is_dir()
            case first:
                return first == "--help"


class Study(Rooms):
    rooms: ClassVar = {
        "build": "tasks.commands:build",
        "check": "tasks.commands:check",
        "settings": "tasks.commands:settings",
        "preregister": "analysis.commands:preregister",
        "simulate": "survey_app.commands:simulate",
        "places": "survey_app.recruiting:places",
    }


class Responses(Rooms):
    rooms: ClassVar = {
        "export": "survey_app.commands:export",
        "submissions": "survey_app.commands:submissions",
        "forget": "survey_app.commands:forget",
        "forget-ids": "survey_app.commands:forget_ids",
    }


class AtProlific(Rooms):
    rooms: ClassVar = {
        "draft": "survey_app.recruiting:prolific_draft",
        "poll": "survey_app.recruiting:prolific_poll",
        "approve": "survey_app.recruiting:prolific_approve",
    }


#: The help of the command line.
ABOUT = (
    "Analyse which concepts the neurons of a network detect, how they change during training, "
    "and whether they matter for the predictions."
)

app = typer.Typer(
    cls=Everything,
    help=ABOUT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_study = typer.Typer(
    cls=Study, help="Build, check, preregister and manage a study.", no_args_is_help=True
)
_responses = typer.Typer(
    cls=Responses, help="Export and manage participants' responses.", no_args_is_help=True
)
_bench = typer.Typer(
    cls=Bench,
    help="Benchmark importance methods, by ablation, and semantic spaces: `bench RUN`, or "
    "`bench compare A B`.",
    no_args_is_help=True,
)
_prolific = typer.Typer(
    cls=AtProlific,
    help="Create and manage the study on Prolific through its API.",
    no_args_is_help=True,
)
_groups = {"study": _study, "responses": _responses, "bench": _bench, "prolific": _prolific}
for _name, _group in _groups.items():
    _group.callback()(lambda: None)  # a group without own commands needs one
    app.add_typer(_group, name=_name)

#: What stands for the default where the configuration decides.
CONFIGURED = "as configured"

ConfigFile = Annotated[Path, typer.Argument(help="configuration (TOML); see `conceptevo init`")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="folder of the run", show_default="runs/ and the name of CONFIG"),
]

Cluster = Annotated[
    str | None,
    typer.Option("--cluster", help="address of a Ray cluster that sees the run's folder, or auto"),
]

Device = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps", show_default=CONFIGURED),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="float32, bfloat16 or float16", show_default=CONFIGURED),
]

CONFIGS = files("harness") / "configs"


def _read(path: Path, **changes: object) -> Config:
    """The configuration; where it is wrong, what else can be seen to be wrong is said with it."""
    from harness.config import ConfigError, load_config

    try:
        return load_config(path, **changes)
    except ConfigError as error:
        if error.rest is not None:
            from harness.stages.run import refuse_all

            refuse_all(error.rest, error.faults)
        raise


def _run_until(last: str, config: Config, out: Path, cluster: str | None = None) -> None:
    """Do every stage up to `last`, or all and the report."""
    from harness.stages.run import run_until

    run = run_until("revert" if last == "report" else last, config, out, console, cluster)
    if last == "report":
        _report(run)
    if last == "audit":
        _audit(run)
    if last == "check":
        from harness.stages.run import show_estimate

        _check(run)
        show_estimate(config, out, console)


def _check(run) -> None:
    from analysis.run.checkpoints import NUMBERS, checkpoints
    from analysis.run.report import plain_on_screen

    if table := checkpoints(run):
        console.print(plain_on_screen(table.frame[NUMBERS], table.title))
    console.print("Every checkpoint can be used.")


def _audit(run) -> None:
    from analysis.run import audit
    from analysis.run.report import plain_on_screen

    if table := audit.audit(run):
        names = {"unchanged_layers": "unchanged", "dead_units": "dead", "non_finite": "NaN"}
        columns = ["series", "epoch", "norm", "step", "detour", *names]
        console.print(plain_on_screen(table.frame[columns].rename(columns=names), table.title))
    for sentence in audit.audit_sentences(run, {}):
        console.print(sentence)


def _report(run) -> None:
    from analysis.run.report import write_report

    with console.status("report"):
        written = write_report(run)
    console.print(written.summary)
    for path in written.paths:
        console.print(f"  {path}")


def _stage_command(stage: str, text: str) -> None:
    @app.command(stage, help=text)
    def command(
        config: ConfigFile,
        out: Out = None,
        cluster: Cluster = None,
        device: Device = None,
        precision: Precision = None,
    ) -> None:
        _run_until(
            stage,
            _read(config, device=device, precision=precision),
            out or Path("runs") / config.stem,
            cluster,
        )


_stage_command(
    "check", "Check that every checkpoint and image can be used, and report every problem at once."
)
_stage_command(
    "train", 'Prepare the images and train the networks of the series with `source = "train"`.'
)
_stage_command(
    "audit", "Audit the weights of each series: duplicates, wrong order, jumps, frozen layers, NaN."
)
_stage_command(
    "probe",
    "Record for every neuron of every checkpoint the images that activate it most (its stimuli), "
    "where, and all activations.",
)
_stage_command("space", "Embed all neurons in one semantic space, by every configured method.")
_stage_command(
    "evolve",
    "Score how important each neuron's evolution, its change between two checkpoints, is for each "
    "class.",
)
_stage_command(
    "revert",
    "Revert sets of neurons to the earlier checkpoint and record how the predictions change.",
)
_stage_command("report", "Write the tables, figures and the HTML report.")


@app.command()
def run(
    config: ConfigFile,
    out: Out = None,
    cluster: Cluster = None,
    device: Device = None,
    precision: Precision = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="show the expected time, memory and disk space, and stop")
    ] = False,
) -> None:
    """Run all stages, from checkpoints and images to the report."""
    read = _read(config, device=device, precision=precision)
    folder = out or Path("runs") / config.stem
    if plan:
        from harness.stages.run import show_estimate

        show_estimate(read, folder, console)
    else:
        _run_until("report", read, folder, cluster)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("runs/demo"),
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="of images, initial weights and random draws", show_default="0"),
    ] = None,
    series: Annotated[
        str,
        typer.Option(
            help="separated by commas: vgg, resnet, convnext, vgg-large-rate, vgg-overfitted"
        ),
    ] = "vgg,resnet",
) -> None:
    """Run all stages and a simulated study on synthetic images and small networks."""
    import tomllib

    from analysis.commands import explore
    from harness.config import parse_config

    values = tomllib.loads((CONFIGS / "demo.toml").read_text(encoding="utf-8"))
    known = [section["name"] for section in values["series"]]
    wanted = _list(series)
    if unknown := sorted(set(wanted) - set(known)):
        raise ValueError(f"--series: no {', '.join(unknown)}; there are {', '.join(known)}")
    if seed is not None:
        values["seed"] = seed
    values["series"] = [
        section | {"seed": values["seed"]}
        for section in values["series"]
        if section["name"] in wanted
    ]
    values["evolve"]["pairs"] = {
        name: pairs for name, pairs in values["evolve"]["pairs"].items() if name in wanted
    }
    _run_until("report", parse_config(values, "the demo"), out)
    results = _demo_study(out)
    explore(out, results)


def _demo_study(out: Path) -> Path:
    """Build a study out of the run, fill it with simulated participants and analyse it, once."""
    from analysis.study.pipeline import Inputs, analyse_study
    from analysis.study.results import Settings
    from harness.artifacts import Run, fingerprint
    from survey_app.commands import database_url, export, simulate
    from tasks.commands import build

    study = out / f"study-{fingerprint(Run(out).manifest())[:8]}"
    if (study / "study.json").exists():
        console.print("study: built before, reused", style="dim")
    else:
        build(out, study)
    simulate(study, participants=260)  # adds nobody who has taken part before
    results = study / "results"
    if not (results / "report.html").exists():
        answers = study / "responses.csv"
        export(database_url(study, None), answers, "simulated")
        with console.status("analysing the simulated answers"):
            analyse_study(Inputs(study, answers, out), Settings(), results)
    console.print(f"What people would have answered: {results / 'report.html'}")
    console.print(f"\nServe the study with\n  conceptevo survey {study}")
    return results


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _names(text: str, known: Sequence[str]) -> list[str]:
    """Names separated by commas, some of which may themselves hold commas: the longest first."""
    rest, names = text.strip(), []
    while rest:
        fitting = [n for n in known if rest == n or re.match(re.escape(n) + r"\s*,", rest)]
        name = max(fitting, key=len, default=rest.partition(",")[0].strip())
        names.append(name)
        rest = rest[len(name) :].lstrip().removeprefix(",").strip()
    return [name for name in names if name]


@_bench.command("run")
def bench(
    run: Annotated[Path, typer.Argument(help="folder of a run that has been probed")],
    methods: Annotated[
        str,
        typer.Option(
            help="separated by commas: names, all, package.module:function", show_default=CONFIGURED
        ),
    ] = "",
    ablation: Annotated[
        str,
        typer.Option(
            help="separated by commas: revert, zero, mean, resample", show_default=CONFIGURED
        ),
    ] = "",
    classes: Annotated[str, typer.Option(help="separated by commas", show_default=CONFIGURED)] = "",
    pairs: Annotated[str, typer.Option(help="e.g. vgg:1-4,vgg:4-10", show_default=CONFIGURED)] = "",
    layers: Annotated[
        str, typer.Option(help="module names or patterns", show_default="all probed")
    ] = "",
    splits: Annotated[
        str, typer.Option(help="separated by commas: heldout, importance", show_default=CONFIGURED)
    ] = "",
    memory: Annotated[
        float | None,
        typer.Option(help="GiB for all workers together", show_default="70 % of what is free"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="processes", show_default="the cores")
    ] = None,
    cluster: Cluster = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    plan: Annotated[
        bool, typer.Option("--plan", help="show the expected time, memory and disk space, and stop")
    ] = False,
    leaderboard: Annotated[
        bool, typer.Option("--leaderboard", help="print earlier results, compute nothing")
    ] = False,
) -> None:
    """Compare importance methods by how predictions change when important neurons are ablated."""
    if not leaderboard:
        from harness.artifacts import Run
        from harness.images.sets import open_images
        from harness.stages.benchmark import Coverage
        from harness.stages.run import bench as run_bench

        covered = Coverage(
            _list(methods),
            _names(classes, open_images(Run(run), "test").classes) if classes else [],
            *map(_list, (pairs, layers, ablation, splits)),
        )
        machine = {"workers": workers, "memory": memory, "device": device}
        run_bench(Run(run), console, covered, cluster, only_plan=plan, **machine)
        if plan:
            return
    from analysis.benchmark.report import write_bench_report

    with console.status("statistics"):
        written = write_bench_report(run)
    console.print(written.summary)
    for sentence in written.sentences:
        console.print(sentence)
    for path in written.paths:
        console.print(f"  {path}")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="file to write")] = Path("conceptevo.toml"),
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="paper: the published experiments, on your ImageNet"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="folder of ImageNet with train/ and val/ (--preset paper)"),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            "--checkpoints",
            help="folder with one sub-folder per series (--preset paper)",
            show_default="checkpoints",
        ),
    ] = None,
) -> None:
    """Write a commented configuration to start from."""
    from harness.artifacts import write_text
    from harness.presets import paper

    if path.exists():
        raise ValueError(f"{path} exists; name another file, or remove it first")
    if preset not in (None, "paper"):
        raise ValueError(f"--preset {preset!r}: there is paper; without one a template is written")
    if preset == "paper" and images is None:
        raise ValueError("--preset paper needs --images, the folder of ImageNet's train/ and val/")
    if images is None:
        text = (CONFIGS / "template.toml").read_text(encoding="utf-8")
    else:
        text = paper(images, checkpoints or Path("checkpoints"))
    write_text(path, text)
    console.print(f"wrote {path}; edit it, then: conceptevo run {path}")


RunFolder = Annotated[Path, typer.Argument(help="folder of the run")]


@app.command()
def status(run: RunFolder) -> None:
    """List finished, running, stale and missing results of a run, and when it will end."""
    from datetime import datetime

    from harness.artifacts import Run
    from harness.stages.status import status as status_of

    found = status_of(Run(run))
    table = found.table()
    table["minutes left"] = (table.pop("seconds_left") / 60).round(1)
    console.print(table.to_string(index=False, na_rep="?"))
    if found.unknown:
        console.print(f"Not known before what stands above is done: {', '.join(found.unknown)}.")
    console.print(found.sentence(datetime.now()))


@app.command()
def verify(run: RunFolder) -> None:
    """Compare every file of a run with its recorded hash."""
    from harness.artifacts import Run
    from harness.verify import verify as findings_of

    Run(run).manifest()  # says so where it is no run
    files, findings = 0, []
    for _, finding in findings_of(Run(run)):
        files += 1
        if finding is not None:
            findings.append(finding)
            console.print(f"{finding.path} {finding.text}")
    damaged = sum(finding.is_damage for finding in findings)
    console.print(
        f"{files} artifacts: {files - len(findings)} as they were written, {damaged} damaged or "
        f"missing, {len(findings) - damaged} of which nothing is known",
    )
    if damaged:
        raise typer.Exit(1)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="checkpoint that safe loading refuses")],
    out: Annotated[
        Path | None, typer.Option(help="file to write", show_default="FILE-weights.pt")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="execute the code that the file may contain")
    ] = False,
) -> None:
    """Extract the weights of a checkpoint that safe loading refuses, executing code in the file."""
    from harness.networks.checkpoint_files import convert as write_weights

    target = out or file.with_name(f"{file.stem}-weights.pt")
    if not trust:
        raise ValueError(
            f"{file}: to read it, the Python code that it may hold must be run (pickle). If you "
            f"trust whoever made it, say --trust; its weights alone are then written to {target}"
        )
    if target.exists():
        raise ValueError(f"{target} exists; name another file with --out")
    console.print(f"loading {file} with pickle: code in it is run now")
    keys, tensors = write_weights(file, target)
    listed = ", ".join(key or "(the file itself)" for key in keys)
    console.print(f"wrote {target}: {tensors} tensors of {listed}")


@app.callback(help=ABOUT)
def front(
    debug: Annotated[bool, typer.Option("--debug", help="show where an error was raised")] = False,
) -> None:
    global _debug
    _debug = debug
    handler = RichHandler(console=console, show_time=False, show_path=False, show_level=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)


_debug = False


def main() -> None:
    """Entry point: a user's mistake is one clear message, not a traceback."""
    os.environ.setdefault("MPLBACKEND", "Agg")  # figures are written, not shown
    try:
        app()
    except (ValueError, OSError) as error:
        if _debug:
            raise
        text = f"[bold red]error:[/] {escape(str(error))}"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("\ninterrupted; run the same command again to continue")
        sys.exit(130)


if __name__ == "__main__":
    main()
