"""Which folder may import which: the contracts of import-linter in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_import_contracts_hold():
    """Without torch beyond the harness, and without circles."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_surveys_host_and_the_analysis_need_no_torch():
    """Also where it is loaded by way of others, or within a function."""
    modules = (
        *("harness.images.sets", "harness.concepts.space", "harness.images.patches"),
        *("tasks.commands", "tasks.contact_sheet", "survey_app.commands", "survey_app.export"),
        *("survey_app.simulate", "survey_app.worker", "analysis.run.report"),
        *("analysis.study.pipeline", "analysis.planning.power", "conceptevo"),
    )
    code = (
        f"import sys, importlib\nfor name in {modules}:\n    importlib.import_module(name)\n"
        "    assert not {'torch', 'torchvision'} & set(sys.modules), name\n"
        "from tasks.kinds import all_tasks\nall_tasks()\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_what_loads_slowly_is_loaded_where_it_is_used():
    """Every command and every worker would start half a second later."""
    code = "import sys, harness.stages.run; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "torch" in loaded.split()
    assert not {"scipy.stats", "numba", "sklearn", "umap", "matplotlib"} & set(loaded.split())
