"""Which folder may import which: the contracts of import-linter in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_import_contracts_hold():
    """Without torch beyond the harness, and without circles."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "harness.images.sets",
        "harness.concepts.space",
        "harness.images.patches",
        "analysis.run.report",
        "conceptevo",
    ],
)
def test_no_torch_is_loaded_by(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
