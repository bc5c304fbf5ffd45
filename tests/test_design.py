"""The rooms' doors: who may import whom, and that a survey's host needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "harness": {"harness"},
    "tasks": {"tasks", "harness"},
    "survey_app": {"survey_app", "tasks", "harness"},
    "analysis": {"analysis", "tasks", "harness"},
}
#: What a host without torch may use of the harness.
TORCH_FREE = (
    "harness.records",
    "harness.registry",
    "harness.artifacts",
    "harness.images.sets",
    "harness.images.drawn",
    "harness.images.patches",
    "harness.concepts.space",
    "harness.bench_results",
)


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_flow_one_way(room):
    for path in (ROOT / room).rglob("*.py"):
        rooms = {name.split(".")[0] for name in imported(path)} & set(MAY_IMPORT)
        assert rooms <= MAY_IMPORT[room], f"{path} imports {rooms - MAY_IMPORT[room]}"


@pytest.mark.parametrize("room", ["tasks", "survey_app", "analysis"])
def test_rooms_beyond_the_harness_use_its_torch_free_part_only(room):
    for path in (ROOT / room).rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            if top == "harness":
                assert name.startswith(TORCH_FREE), f"{path} imports {name}"
            assert top not in ("torch", "torchvision"), f"{path} imports {name}"


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
