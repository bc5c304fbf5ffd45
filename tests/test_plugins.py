"""Everything that docs/extending.md promises: one file outside this repository is enough.

Each test writes a module into a folder of its own, names it as a user would, and finds it in what
the program writes. Exhibits are in test_exhibits.py, tasks in survey/test_tasks.py, families of
arms in test_arms.py, objectives in test_objectives.py.
"""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import say
from torch import nn

import conceptevo as ce
from analysis import commands
from harness.concepts.space import SemanticSpace
from harness.evolutions.importance import ImportanceMethod
from harness.images.sets import draw_arrays
from harness.networks.sources import Source, parse_source
from harness.registry import plugin_identity
from tasks.base import TASKS
from tests.synthetic_study import make_responses, make_study, write

NETWORKS = '''
from harness.concepts.space_methods import SPACES
from harness.networks.architectures import build
from harness.networks.sources import Source


class Fresh(Source):
    """Networks that never were in a file."""

    def epochs(self):
        return 1, 2

    def load(self, epoch, num_classes, run):
        return network(num_classes, epoch)

    def identity(self, epoch):
        return f"seed {epoch}"


def network(num_classes, seed=0):
    return build("small_vgg", num_classes, seed)


def gradient_size(change):
    """Size of the gradient. Of the earlier checkpoint."""
    return {name: g.norm(dim=2) for name, g in change.gradients_from.items()}


def scattered(evidence, parameters, rng, name):
    return SPACES.get("random")(evidence, parameters, rng, name)


def halved(maps, layer):
    return maps.newer(layer) / 2
'''

CONFIG = """
workers = 0
[images]
source = "drawn"
train = 24
probe = 36
test = 24
[[series]]
name = "fresh"
source = "toy_networks:Fresh"
resize = 32
crop = 32
[probe]
k = 4
[space]
methods = ["toy_networks:scattered"]
[evolve]
methods = ["toy_networks:gradient_size"]
images_per_class = 2
classes = ["clock", "zebra"]
[revert]
random_draws = 2
importance_images = 2
heldout_images = 2
"""

STUDY = """
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.exhibits.tables import Table
from analysis.statistics.statistic import Estimate
from analysis.statistics.statistic import STATISTICS
from analysis.study.results import STUDY_TESTS


@STATISTICS.add("toy_median")
@dataclass(frozen=True)
class Median:
    level: float = 0.95

    def __call__(self, frame):
        seconds = frame["milliseconds"].to_numpy(float) / 1000
        return {("median",): Estimate(float(np.median(seconds)), n=len(seconds))}


@STUDY_TESTS.add("toy_speed")
def toy_speed(results):
    table = results.by_task(results.choice_tasks, "toy_median", ["what"], "toy_speed")
    return table.assign(null=0.0, p=np.nan, reason="toys are too few")


def medians(results):
    frame = results.by_task(results.choice_tasks, "toy_median", ["what"])
    return Table("medians", "Median seconds", "By task.", frame[["task", "value"]])


def same_letter(labels):
    first = [label[:1] for label in labels]
    return np.array([[float(a == b) for a in first] for b in first])
"""


class Partial(Source):
    """A source that is not finished."""


@pytest.fixture
def outside(tmp_path, monkeypatch, registries):
    """A folder outside the repository with two modules, as the working folder."""
    (tmp_path / "toy_networks.py").write_text(NETWORKS)
    (tmp_path / "toy_study.py").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("toy_networks", "toy_study"):
        sys.modules.pop(name, None)


def test_a_source_a_space_a_score_and_an_ablation_go_all_the_way(outside):
    (outside / "own.toml").write_text(CONFIG)
    say("run", "own.toml", "--out", "RUN")
    tables = outside / "RUN" / "report" / "tables"
    assert set(pd.read_csv(tables / "neurons.csv")["series"]) == {"fresh"}
    assert set(pd.read_csv(tables / "identity.csv")["method"]) == {"toy_networks:scattered"}
    assert set(pd.read_csv(tables / "reversion.csv")["method"]) == {"toy_networks:gradient_size"}
    say(
        "bench", "RUN", "--methods", "toy_networks:gradient_size,random",
        "--ablation", "revert,toy_networks:halved", "--workers", 0,
    )  # fmt: skip
    tables = outside / "RUN" / "bench" / "tables"
    described = pd.read_csv(tables / "methods.csv").set_index("method")["score on one image"]
    assert described["toy_networks:gradient_size"] == "Size of the gradient."
    methods = set(pd.read_csv(tables / "leaderboard.csv")["method"])
    assert methods == {"toy_networks:gradient_size", "random"}
    assert "toy_networks:halved" in pd.read_csv(tables / "ablations.csv").columns


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("    def identity(self, epoch):\n        return None", "must return a text, got NoneType"),
        ("    def identity(self, epoch):\n        return {}[epoch]", "failed: KeyError: 1"),
        (
            "    def identity(self):\n        return 'x'",
            "failed: TypeError: Other.identity() ",
        ),
    ],
)
def test_the_identity_of_a_source_is_checked(outside, code, fault):
    (outside / "toy_networks.py").write_text(f"{NETWORKS}\n\nclass Other(Fresh):\n{code}\n")
    (outside / "own.toml").write_text(CONFIG.replace("toy_networks:Fresh", "toy_networks:Other"))
    message = say("check", "own.toml", "--out", "RUN", error=ValueError)
    assert "series 'fresh': identity(1) of source 'toy_networks:Other'" in message
    assert fault in message


def test_a_plug_in_of_a_wrong_kind_is_named_before_any_work(outside):
    """Also by `check`, so that no computation is wasted."""
    faults = {
        "scattered": "space method 'toy_networks:__name__' must be a function, got str",
        "gradient_size": "importance method 'toy_networks:__name__' must be a function or Imp",
        "Fresh": "source 'toy_networks:__name__' must be a class derived from Source; a function",
    }
    for name, fault in faults.items():
        config = CONFIG.replace(f"toy_networks:{name}", "toy_networks:__name__")
        (outside / "own.toml").write_text(config)
        assert fault in say("check", "own.toml", "--out", "RUN", error=ValueError)
    (outside / "own.toml").write_text(CONFIG + '[bench]\nablations = ["toy_networks:__name__"]\n')
    message = say("check", "own.toml", "--out", "RUN", error=ValueError)
    assert "ablation 'toy_networks:__name__' must be a function, got str" in message
    with pytest.raises(ValueError, match=r"task 'math:pi' \(float\) lacks name, title, .* 10 more"):
        TASKS.get("math:pi")
    with pytest.raises(ValueError, match="task 'tasks.base:PickOne' is a class; name an instance"):
        TASKS.get("tasks.base:PickOne")
    assert not (outside / "RUN").exists()


def test_a_space_method_that_fails_is_named_by_the_estimate(outside):
    code = NETWORKS.replace('return SPACES.get("random")', "return print")
    (outside / "toy_networks.py").write_text(code)
    (outside / "own.toml").write_text(CONFIG)
    message = say("run", "own.toml", "--out", "RUN", "--plan", error=ValueError)
    assert "space method 'toy_networks:scattered' must return a SemanticSpace" in message


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((3,), "has a function of a change, .* got 3 and False"),
        ((np.abs, "yes"), "share = True or False; got .* and 'yes'"),
        ((np.abs, False, "undo"), "unknown ablation 'undo'; known: revert"),
    ],
)
def test_parts_of_an_importance_method_are_checked(arguments, fault):
    with pytest.raises(ValueError, match=fault):
        ImportanceMethod(*arguments)


def test_a_source_is_a_class():
    with pytest.raises(ValueError, match="_plugins:Partial' lacks epochs, identity, load"):
        parse_source({"name": "net", "source": f"{__name__}:Partial"})
    with pytest.raises(ValueError, match='derived from Source; a function: source = "function"'):
        parse_source({"name": "net", "source": f"{__name__}:test_an_architecture_is_a_function"})


def test_what_a_source_returns_is_checked(outside):
    sources = """
class Weights(Fresh):
    def load(self, epoch, num_classes, run):
        return network(num_classes, epoch).state_dict()


class Broken(Fresh):
    def load(self, epoch, num_classes, run):
        return {}[epoch]
"""
    (outside / "toy_networks.py").write_text(NETWORKS + sources)
    faults = {
        "Weights": "Weights' must return a torch module, got OrderedDict",
        "Broken": "source 'toy_networks:Broken' failed: KeyError: ",
    }
    for name, fault in faults.items():
        config = CONFIG.replace("toy_networks:Fresh", f"toy_networks:{name}")
        (outside / "own.toml").write_text(config)
        for more in ((), ("--plan",)):
            message = say("run", "own.toml", "--out", name, *more, error=ValueError)
            assert "series 'fresh', epoch" in message and fault in message


@pytest.mark.parametrize(
    ("epochs", "fault"),
    [
        ('"1", "2"', "epochs must be integers, got '1'"),
        ("1, 1, 2", "epochs must increase without repeats, got (1, 1, 2)"),
        ("", "has no checkpoints"),
        ("-1, 2", "epochs must be at least 0, got -1"),
        ("{}[1]", "epochs() of source 'toy_networks:Fresh' failed: KeyError: 1"),
        ("1, 2", None),
    ],
)
def test_the_epochs_of_a_source_are_checked(outside, epochs, fault):
    returned = f"np.array([{epochs}])" if fault is None else f"[{epochs}]"
    code = "import numpy as np\n" + NETWORKS.replace("return 1, 2", f"return {returned}")
    (outside / "toy_networks.py").write_text(code)
    (outside / "own.toml").write_text(CONFIG)
    for command in (("check",), ("run", "--plan"), ("probe",)):
        message = say(
            command[0], "own.toml", "--out", "RUN", *command[1:], error=fault and ValueError
        )
        assert fault is None or ("series 'fresh'" in message and fault in message)


def test_an_error_in_an_installed_package_is_placed_in_the_users_own_file(outside):
    package = outside / "other/site-packages/shared_library.py"
    package.parent.mkdir(parents=True)
    package.write_text("def fail():\n    raise KeyError(1)\n")
    sys.path.insert(0, str(package.parent))
    code = NETWORKS.replace("return 1, 2", "import shared_library; shared_library.fail()")
    (outside / "toy_networks.py").write_text(code)
    (outside / "own.toml").write_text(CONFIG)
    try:
        message = say("probe", "own.toml", "--out", "RUN", error=ValueError)
    finally:
        sys.path.remove(str(package.parent))
    assert "failed: KeyError: 1 (" in message and "toy_networks.py, line 11)" in message


def test_what_a_space_method_returns_is_checked(registries):
    """Missing rows would be missing in every result; infinite vectors have no neighbour."""

    def returning(change):
        def method(evidence, parameters, rng, name):
            neurons = evidence.neurons.assign(coverage=1.0)
            return change(neurons, rng.standard_normal((len(neurons), 2)))

        return method

    faults = {
        "got a ndarray": lambda n, v: v,
        "got 3 rows, or": lambda n, v: SemanticSpace("", n[:3], v[:3]),
        "got 12 rows, or rows in another order": lambda n, v: SemanticSpace("", n[::-1], v),
        "got no column coverage": lambda n, v: SemanticSpace("", n.drop(columns="coverage"), v),
        "vectors that are float64 of shape .12,.": lambda n, v: SemanticSpace("", n, v[:, 0]),
        "vectors that are complex128": lambda n, v: SemanticSpace("", n, v.astype(complex)),
        "vectors that are infinite": lambda n, v: SemanticSpace("", n, v / 0),
        "Tensor": lambda n, v: SemanticSpace("", n, torch.from_numpy(v)),
        "space method 'method-9' failed: ZeroDivisionError": lambda n, v: 1 // 0,
    }
    images = ce.Images(draw_arrays(0, 0, 12)["pixels"], np.arange(12) % 2, ["a", "b"])
    network = nn.Sequential(nn.Conv2d(3, 12, 3), nn.Sigmoid(), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, 3, 8, 8))
    series = ce.Series("one", {1: network}, ce.View(8, 8), layers="1")
    probed = ce.probe(series, images, k=2, device="cpu", progress=False)
    for message, change in faults.items():
        with pytest.raises(ValueError, match=message), np.errstate(divide="ignore"):
            ce.space(probed, returning(change), progress=False)


def test_an_architecture_is_a_function(outside):
    training = (
        'architecture = "toy_networks:network"\n'
        "training = { epochs = 1, save = [0, 1], batch_size = 8 }"
    )
    config = CONFIG.replace('source = "toy_networks:Fresh"', training)
    (outside / "own.toml").write_text(config)
    say("probe", "own.toml", "--out", "RUN")


def test_a_statistic_a_kind_of_question_and_a_similarity_stand_in_the_report(outside):
    study = make_study(outside / "study", trials=3)
    answers = write(outside / "answers", *make_responses(outside / "study", study, people=8))
    commands.analyse(
        outside / "study", answers, outside / "results", None, None, None,
        "toy_study:same_letter", 99, 99, 0, ["toy_study:medians"],
    )  # fmt: skip
    tables = outside / "results" / "tables"
    medians = pd.read_csv(tables / "medians.csv")
    assert (medians["value"] > 0).all() and len(medians) == 2
    claims = pd.read_csv(tables / "claims.csv")
    toys = claims[claims["question"] == "toy_speed"]
    assert set(toys["value"]) == set(medians["value"])
    assert set(toys["note"]) == {"toys are too few"}
    page = (outside / "results" / "report.html").read_text()
    assert "Median seconds" in page and "toy_study:same_letter" in page


def test_a_plug_in_changes_with_the_modules_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_parts" / "deep").mkdir(parents=True)
    files = {
        "own_nets.py": "import numpy\nfrom own_parts.deep import blocks\nimport own_other\n"
        "def late():\n    from own_script import train\n",
        "own_script.py": "raise SystemExit('a script is read, not run')\n",
        "own_parts/deep/blocks.py": "from ..more import f\n",
        "own_parts/more.py": "f = 1\n",
        "own_other.py": "",
        "own_apart.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    before = plugin_identity("own_nets:make")
    for name, text in files.items():
        (tmp_path / name).write_text(text + "# changed\n")
        assert (plugin_identity("own_nets:make") == before) == (name == "own_apart.py"), name
        (tmp_path / name).write_text(text)
    assert plugin_identity("own_nets:make") == before
