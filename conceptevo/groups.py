"""The groups of commands. Commands in other folders are imported only when they run."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """A group with commands in other folders, imported when called or when help lists them."""

    lazy: ClassVar[dict[str, str]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        names: dict[str, Any] = dict.fromkeys(self.lazy)
        self.commands = {**self.commands, **names}  # for help, and "did you mean"

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, function = self.lazy[cmd_name].partition(":")
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(getattr(import_module(module), function))
        return typer.main.get_command(single)


class BenchGroup(LazyGroup):
    """A group in which `bench RUN …` means `bench run RUN …`; it has other commands, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not self._names_a_command(args):
            args.insert(0, "run")
        return super().parse_args(ctx, args)

    def _names_a_command(self, args: list[str]) -> bool:
        """Return whether the first word is a command, not a run's folder named run or compare."""
        names = [word for word in args[1:] if not word.startswith("-")]
        match args[0]:
            case "run":
                return bool(names) and not (Path("run").is_dir() and not Path(names[0]).is_dir())
            case "compare":
                return len(names) > 1 or not Path("compare").is_dir()
            case first:
                return first == "--help"


def given_options(context: typer.Context) -> set[str]:
    """Return the options, such as --plan, that are on the command line."""
    given = [
        parameter
        for parameter in context.command.params
        if getattr(context.get_parameter_source(str(parameter.name)), "name", "") == "COMMANDLINE"
    ]
    return {option for parameter in given for option in parameter.opts if option[:2] == "--"}


def refuse_cluster(plan: bool, cluster: str | None) -> None:
    """Raise ValueError if a plan, which is of this machine, is wanted for a cluster."""
    if plan and cluster is not None:
        raise ValueError("--plan is of the work on this machine: leave out --cluster")


def group(text: str, lazy: dict[str, str], kind: type[LazyGroup] = LazyGroup) -> typer.Typer:
    """Return a group of commands; `lazy` has `module:function` of those imported when called."""
    lazy_group = type(kind.__name__, (kind,), {"lazy": lazy})
    commands = typer.Typer(
        cls=lazy_group, help=text, no_args_is_help=True, pretty_exceptions_enable=False
    )
    commands.callback()(lambda: None)  # Typer requires it for a group without own commands
    return commands


#: The help of the command line.
ABOUT = (
    "Analyse which concepts the neurons of a network detect, how they change during training, "
    "and whether they matter for the predictions."
)

app = group(
    ABOUT,
    {
        "survey": "survey_app.commands:survey",
        "dashboard": "survey_app.commands:dashboard",
        "survey-password": "survey_app.commands:password",
        "analyse": "analysis.commands:analyse",
        "explore": "analysis.commands:explore",
        "power": "analysis.commands:power",
        "release": "analysis.commands:release",
        "rebuild": "analysis.commands:rebuild",
    },
)
study = group(
    "Build, check, preregister and manage a study.",
    {
        "build": "conceptevo.study:build",
        "check": "tasks.commands:check",
        "settings": "tasks.commands:settings",
        "preregister": "analysis.commands:preregister",
        "simulate": "survey_app.commands:simulate",
        "places": "survey_app.recruiting:places",
    },
)
responses = group(
    "Export and manage participants' responses.",
    {
        "export": "survey_app.commands:export",
        "submissions": "survey_app.commands:submissions",
        "forget": "survey_app.commands:forget",
        "forget-ids": "survey_app.commands:forget_ids",
        "move": "survey_app.move:move",
    },
)
bench = group(
    "Benchmark importance methods, by ablation, and semantic spaces: `bench RUN`, or "
    "`bench compare A B`.",
    {"compare": "analysis.commands:compare"},
    BenchGroup,
)
prolific = group(
    "Create and manage the study on Prolific through its API.",
    {
        "draft": "survey_app.recruiting:prolific_draft",
        "poll": "survey_app.recruiting:prolific_poll",
        "approve": "survey_app.recruiting:prolific_approve",
    },
)
_groups = {"study": study, "responses": responses, "bench": bench, "prolific": prolific}
for _name, _group in _groups.items():
    app.add_typer(_group, name=_name)
