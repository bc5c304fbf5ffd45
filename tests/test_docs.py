"""Every code block of README and docs runs; every command and every link in them exists."""

import itertools
import json
import re
import shlex
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from conceptevo import cli

pytestmark = pytest.mark.usefixtures("registries")
ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "recording.md"], ids=lambda page: page.name
)
def test_python_blocks_run(page):
    matplotlib.use("Agg")
    namespace = {"__name__": "__docs__"}
    if page.name == "extending.md":
        prelude = (
            "from harness.evolutions.ablation import ABLATIONS, Maps\n"
            "from harness.evolutions.importance import IMPORTANCE, ImportanceMethod\n"
            "from torch import Tensor\n"
        )
        exec(prelude, namespace)
    for number, code in enumerate(blocks(page, "python")):
        exec(compile(code, f"{page.name}, block {number + 1}", "exec"), namespace)
    if page.name == "extending.md":
        output = torch.tensor([[1.0, 4.0, 2.0]])
        assert namespace["OBJECTIVES"].get("lead").function(output, torch.tensor([2])).item() == -2


def test_what_is_recorded_is_read_by_the_configuration_beside_it(tmp_path, monkeypatch):
    page = ROOT / "docs" / "recording.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    network, *training = blocks(page, "python")
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "models.py").write_text(network, encoding="utf-8")
    rng = np.random.default_rng(0)
    for split, kind, number in itertools.product(("probe", "test"), ("cat", "dog"), range(20)):
        path = tmp_path / "images" / split / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    namespace = {}
    for code in training:
        exec(code, namespace)
    (configuration,) = blocks(page, "toml")
    (tmp_path / "mine.toml").write_text(configuration, encoding="utf-8")
    shown = CliRunner().invoke(cli.app, ["probe", "mine.toml", "--out", "run"])
    assert shown.exit_code == 0, shown.output
    names = [f"stimuli-{epoch:04}.parquet" for epoch in (0, 1, 2, 4, 8, 10)]
    assert sorted(p.name for p in Path("run/probe/mine").glob("stimuli-*.parquet")) == names


def test_the_notebook_runs():
    matplotlib.use("Agg")
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
    namespace = {"__name__": "__notebook__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {number + 1}", "exec"), namespace)
    assert len(namespace["ablation"].leaderboard().frame) == 2


def commands(page):
    """Return each `conceptevo …` of a page's blocks, as words; `a | b` are alternatives."""
    for text in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
        for line in re.sub(r"\\\n|\n {10,}", " ", text).split("\n"):
            line = re.sub(r"^[$>] ", "", line.strip().partition(" #")[0])
            if line.startswith("conceptevo "):
                for name in line.split(" | "):
                    words = re.sub(r"[\[\]…]|\.\.\.", " ", name.removeprefix("conceptevo "))
                    yield [word for word in shlex.split(words) if word]


def resolved(words):
    """Return the command and the rest of the words. Fails if there is no such command."""
    command, context = typer.main.get_command(cli.app), None
    while hasattr(command, "get_command"):
        if command.name == "bench" and words[0] not in ("compare", "run"):
            words = ["run", *words]
        if words[0].startswith("--"):
            words = words[1:]
            continue
        found = command.get_command(context, words[0])
        assert found is not None, f"no command {words[0]!r}"
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    for words in commands(page):
        command, rest = resolved(words)
        options = {name for parameter in command.params for name in parameter.opts}
        for word in rest:
            if word.startswith("--"):
                assert word.partition("=")[0] in options | {"--help"}, (words, word)


def headings(page):
    """Return level and text of each heading outside code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [(len(marks), words) for marks, words in re.findall(r"^(#+) (.*)$", text, re.M)]


def anchors(page):
    """Return the anchors that GitHub gives the headings of a page."""
    return {re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-") for _, words in headings(page)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`]*`", "", page.read_text(encoding="utf-8"))  # what is quoted is no link
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
        if not target.startswith(("http", "mailto:")):
            goal = page.parent / target if target else page
            assert goal.exists(), target
            assert not anchor or anchor in anchors(goal), (target, anchor)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_has_one_title_and_skips_no_level(page):
    levels = [level for level, _ in headings(page)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(len(words) <= 80 for _, words in headings(page)), "a paragraph in a heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_and_lists_are_whole(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    assert not re.search(r"^[^|\n]*[.;:,)] - [`*\[A-Za-z]", text, re.M), "two list items in one"
    for table in re.findall(r"(?:^\|.*\n(?:[^|\n].*\n)*)+", text, re.M):
        rows = re.sub(r"`[^`\n]*`", "", table).rstrip("\n").split("\n")
        assert {row.count("|") for row in rows} == {rows[0].count("|")}, rows[0]


def test_the_template_has_every_key_with_its_default():
    from harness.config import Config, FolderImagesSection, load_config
    from harness.networks.sources import SOURCES
    from harness.networks.training import TrainingParameters
    from harness.section import Section

    path = ROOT / "harness" / "configs" / "template.toml"
    config = load_config(path)
    defaults = Config(series=config.series)
    assert config == defaults
    assert config.series[0].training == TrainingParameters()

    text = path.read_text(encoding="utf-8")
    tables = {"": text}
    for name, body in re.findall(r"(?m)^(?:# )?\[+([\w.]+)\]+(.*\n(?:(?!(?:# )?\[).*\n)*)", text):
        tables[name] = tables.get(name, "") + body
    models = [(name, type(part)) for name, part in defaults if isinstance(part, Section)]
    models += [("images", FolderImagesSection), ("series.training", TrainingParameters)]
    models += [("series", SOURCES.get(name)) for name in SOURCES]
    for name, model in [("", Config), *models]:
        for key in model.model_fields:
            is_table = f"{name}.{key}".removeprefix(".") in tables
            assert is_table or re.search(rf"(?m)^(# )?{key} *=", tables[name]), (name, key)


def every_command(command=None, path=()):
    """Yield name and click command of everything that can be called."""
    command = command or typer.main.get_command(cli.app)
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    context = typer.Context(command)
    for name in command.list_commands(context):
        yield from every_command(command.get_command(context, name), (*path, name))


def test_every_command_is_described():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = {" ".join(path).replace("bench run", "bench") for path, _ in every_command()}
    assert not [name for name in names if not re.search(rf"conceptevo [^`\n]*\b{name}\b", text)]
    assert ["responses", "move"] in [words[:2] for words in commands(ROOT / "README.md")]


@pytest.mark.parametrize("path", [path for path, _ in every_command()], ids=" ".join)
def test_help_explains_every_parameter_and_shows_all_of_it(path, monkeypatch):
    """Rich takes `[…]` in a help text for markup and swallows it."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 400)
    shown = CliRunner().invoke(cli.app, [*path, "--help"]).output
    shown = " ".join(shown.replace("│", " ").split())
    command = dict(every_command())[path]
    assert " ".join(command.help.split()) in shown
    for parameter in command.params:
        if parameter.name != "help":
            assert parameter.help, f"{parameter.name} has no help"
            assert parameter.help in shown, parameter.name
            if isinstance(parameter.show_default, str):
                assert f"[default: ({parameter.show_default})]" in shown, parameter.name
