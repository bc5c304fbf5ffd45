"""The versions of the software with which results are made."""

import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages; and the commit of this project if it is used from a git
    checkout, because many commits share its version number."""
    numbers = {name: version(name) for name in packages}
    commit = _commit(Path(__file__).parent.parent)
    return {**numbers, "commit": commit} if commit else numbers


@cache
def _commit(root: Path) -> str:
    """Return the commit of a checkout, with "-dirty" if files differ from it; "" if `root` is none
    or git is not installed."""
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run([*command, "--abbrev=40"], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()
