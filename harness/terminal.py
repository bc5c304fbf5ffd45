"""The console of all commands; [brackets] in data are not interpreted as markup."""

from rich.console import Console

console = Console(markup=False, highlight=False)
