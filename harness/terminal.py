"""The console of all commands; [brackets] in data are not interpreted as markup."""

from pathlib import Path

from rich.console import Console

console = Console(markup=False, highlight=False)


def note_outdated(run: Path) -> None:
    """Print which results of a run may not belong to its configuration, if any."""
    from harness.artifacts import Run, describe_outdated  # pandas, which not every command needs

    if note := describe_outdated(Run(run)):
        console.print(note, style="yellow")
