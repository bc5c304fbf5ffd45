"""The contract of a stage: fingerprints follow from what is declared, and are computed once."""

import copy
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from conceptevo import cli
from harness.artifacts import Artifact, Run
from harness.config import FolderImagesSection, parse_config
from harness.files import cache_listings
from harness.images import folders
from harness.stages.ablate import contents
from harness.stages.engine import Engine
from harness.stages.evolve import score_works
from harness.stages.images import ListImages
from harness.stages.run import STAGES
from harness.stages.stage import Plan, Work
from harness.stages.study import AblationStudy, scope
from harness.stages.train import TrainSeries

CONFIGS = Path(__file__).parent.parent / "harness" / "configs"


@dataclass(frozen=True)
class Sum(Work):
    """Work that makes a number from another artifact and a setting."""

    name: str
    setting: int
    inputs: tuple[Artifact, ...] = ()
    asked: list = None

    @property
    def makes(self):
        return (Artifact("images", (self.name,)),)

    @property
    def reads(self):
        return self.inputs

    @property
    def depends(self):
        self.asked.append(self.name)
        return self.setting

    def do(self, run, advance):
        yield {"values": [self.setting]}


def chain(run, first=1, second=2):
    asked = []
    a = Sum("a", first, (), asked)
    b = Sum("b", second, a.makes, asked)
    c = Sum("c", 3, b.makes, asked)
    plan = Plan(None, run)
    plan.add([a, b, c])
    return plan, (a, b, c), asked


def prints(plan, works):
    return [plan.fingerprint(work.makes[0]) for work in works]


def test_a_fingerprint_follows_from_settings_and_inputs(tmp_path):
    run = Run(tmp_path)
    plan, works, asked = chain(run)
    base = prints(plan, works)
    prints(plan, works)
    assert sorted(asked) == ["a", "b", "c"]  # each once a command
    assert prints(*chain(run)[:2]) == base
    assert [x == y for x, y in zip(prints(*chain(run, second=9)[:2]), base, strict=True)] == [
        True,
        False,
        False,
    ]
    assert not set(prints(*chain(run, first=9)[:2])) & set(base)


def test_what_is_given_counts_as_well(tmp_path):
    plan = Plan(None, Run(tmp_path))
    given, made = Artifact("checkpoint", ("net", 1)), Sum("a", 1, (), [])
    plan.declare(given, lambda: "weights", made.makes)
    plan.add([made])
    other = Plan(None, Run(tmp_path))
    other.declare(given, lambda: "other weights", made.makes)
    other.add([made])
    assert plan.fingerprint(given) != other.fingerprint(given)
    with pytest.raises(KeyError):
        plan.fingerprint(Artifact("checkpoint", ("net", 2)))


def test_every_stage_is_a_command_but_the_first():
    commands = {command.name for command in cli.app.registered_commands}
    assert set(STAGES) - {"images"} <= commands


def study(**changes):
    values = copy.deepcopy(tomllib.loads((CONFIGS / "demo.toml").read_text()))
    config = parse_config(values)
    pairs = tuple((s, pair) for s in config.series for pair in config.pairs(s))
    fields = {
        "name": "reversion",
        "config": config,
        "pairs": pairs,
        "classes": tuple(range(12)),
        "layers": {},
        "methods": ("sign_t", "change"),
        "ablations": ("revert",),
        "splits": ("heldout",),
    }
    return AblationStudy(**{**fields, **changes})


def test_a_benchmark_contains_the_pieces_of_the_reversion_study():
    small = contents(study())
    large = contents(study(name="bench", methods=("sign_t", "change", "tcav")))
    for kind in ("importance", "sets", "records"):
        assert set(small[kind]) < set(large[kind])
        assert len(set(large[kind])) == len(large[kind])


def test_other_classes_or_layers_leave_other_files():
    every = {a for some in contents(study()).values() for a in some}
    few = {a for some in contents(study(classes=(3, 5))).values() for a in some}
    assert not every & few
    layers = {source.name: ("features.2",) for source, _ in study().pairs}
    records = set(contents(study(layers=layers))["records"])
    assert not records & set(contents(study())["records"])
    assert scope((0, 1, 2)) == "0000-0002" and scope((0, 2)).startswith("0000-0002.")


def test_training_depends_on_the_view():
    def depends(**changes):
        (source,) = parse_config({"series": [{"name": "vgg", **changes}]}).series
        return TrainSeries(source, 1).depends

    assert depends() == depends()
    assert depends(mean=[0.4] * 3) != depends() != depends(resize=96, crop=64)


def test_one_file_holds_a_block_of_classes():
    works = score_works(study(classes=tuple(range(30))))
    blocks = {work.classes for work in works}
    assert blocks == {tuple(range(12)), tuple(range(12, 24)), tuple(range(24, 30))}


def test_a_users_images_are_listed_once_a_command(tmp_path, monkeypatch):
    from PIL import Image

    for split in ("probe", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "a" / "1.png")
    config = parse_config(
        {
            "images": {"source": "folder", "probe": tmp_path / "probe", "test": tmp_path / "test"},
            "series": [{"name": "vgg"}],
        }
    )
    work, plan = ListImages("test", config.images), Plan(config, Run(tmp_path / "run"))
    plan.add([work])
    before, depends = plan.fingerprint(work.makes[0]), work.depends
    Image.new("RGB", (9, 9)).save(tmp_path / "test" / "a" / "1.png")
    assert plan.fingerprint(work.makes[0]) == before
    assert ListImages("test", config.images).depends != depends  # by the next command


def test_folders_are_listed_once_while_a_command_lasts(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    section = FolderImagesSection(source="folder", probe=tmp_path, test=tmp_path)
    listed = []
    original = folders.walk
    monkeypatch.setattr(folders, "walk", lambda folder: listed.append(folder) or original(folder))
    with cache_listings():
        for _ in range(3):
            assert len(folders.folder_images(tmp_path)) == 1
        with cache_listings():  # a command within a command
            folders.folder_images(tmp_path)
        assert len(listed) == 1
        counts = ListImages("probe", section).depends
        monkeypatch.delattr("harness.stages.images.count_unused")
        assert ListImages("test", section).depends == counts
    (tmp_path / "a" / "2.png").touch()
    assert len(folders.folder_images(tmp_path)) == 2


def test_killed_before_its_sidecar_a_file_does_not_pass_for_an_earlier_one(tmp_path, monkeypatch):
    def made_with(setting):
        plan = Plan(parse_config({"series": [{"name": "vgg"}]}), Run(tmp_path))
        with Engine(plan, 0, Console(quiet=True)) as working:
            working.step("sum", [Sum("a", setting, (), [])])
        return plan.run.arrays(Artifact("images", ("a",)))["values"].tolist()

    assert made_with(1) == [1]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "seal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made_with(2)
    assert made_with(1) == [1]


@dataclass(frozen=True)
class Count(Work):
    """How many pieces of work have had the same run."""

    number: int

    depends = ()

    @property
    def makes(self):
        return (Artifact("images", (str(self.number),)),)

    def do(self, run, advance):
        run.pieces = getattr(run, "pieces", 0) + 1
        yield {"values": [run.pieces]}


def test_a_worker_keeps_its_run_so_that_a_pair_is_opened_once(tmp_path):
    plan = Plan(parse_config({"series": [{"name": "vgg"}], "device": "cpu"}), Run(tmp_path))
    works = [Count(number) for number in range(3)]
    with Engine(plan, 1, Console(quiet=True)) as working:
        working.step("count", works)
    assert [plan.run.arrays(work.makes[0])["values"][0] for work in works] == [1, 2, 3]
