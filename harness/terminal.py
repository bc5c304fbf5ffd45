"""The terminal of all commands: text is shown as it is; [brackets] of data are no markup."""

from rich.console import Console

console = Console(markup=False, highlight=False)
