import tomllib

import pytest
from command_line import say
from PIL import Image
from rich.console import Console

from harness.concepts.space_methods import SPACES, reads_activations
from harness.config import ConfigError, load_config, parse_config
from harness.files import ArtifactError
from harness.presets import CONFIGS
from harness.records import Checkpoint, Pair
from harness.stages.run import run_until

SERIES = [{"name": "a"}]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"series": [{"name": "a", "foo": 1}]}, r"series 'a': foo: unknown key"),
        (
            {"series": [{"name": "a", "training": {"epochs": -1}}]},
            r"training\.epochs: .*at least 1 \(got -1\)",
        ),
        ({"series": SERIES, "sed": 1}, r"sed: unknown key; did you mean seed\? .conceptevo init"),
        ({"series": SERIES, "bins": 5}, r"bins: unknown key; it belongs in \[revert\]\. .concept"),
        ({"series": SERIES, "probe": {"seed": 5}}, r"probe\.seed: unknown key; .conceptevo init"),
        ({"series": SERIES, "resize": 5}, r"resize: unknown key; it belongs in \[\[series\]\]\. "),
        (
            {"series": [{"name": "a", "source": "folder", "architekture": "vgg16"}]},
            r"series 'a': architekture: unknown key; did you mean architecture\?",
        ),
        (
            {"series": [{"name": "a", "source": "function", "function": "m:f", "epochs": [1]}]},
            r"series 'a': epochs: unknown key; .conceptevo init",
        ),
        (
            {"series": [{"name": "a", "training": {"epoch": 2}}]},
            r"series 'a': training\.epoch: unknown key; did you mean epochs\?",
        ),
        (
            {"series": SERIES, "images": {"source": "folder", "prob": "p", "test": "t"}},
            r"images\.prob: unknown key; did you mean probe\?",
        ),
        ({"series": {"name": "a"}}, r"series: must be a list: in brackets, or \[\[series\]\]"),
        (
            {"series": [{"name": "a", "layers": "f"}]},
            r"series 'a': layers: must be a list: in",
        ),
        ({"series": SERIES, "probe": 3}, r"probe: must be a table: \[probe\]"),
        (
            {"series": [{"name": "a", "resize": 64, "crop": 99}]},
            r"series 'a': crop must be .*crop=99",
        ),
        (
            {"series": [{"name": "a", "resize": 10**5, "crop": 10**5}]},
            r"series 'a': crop: must be at most 8192 \(got 100000\)",
        ),
        ({"series": [{"name": "a", "resize": 99}]}, r"series 'a': resize and crop must be set"),
        (
            {"series": [{"name": "a b/ü"}]},
            r"series 'a b/ü': name: may contain .*\(got 'a b/ü'\)",
        ),
        (
            {"series": [{"name": "a", "source": "function", "function": "m:f", "at": ["two"]}]},
            r"series 'a': at\.0: must be a whole number \(got 'two'\)",
        ),
        ({"series": SERIES, "probe": {"k": 0}}, r"probe\.k: .*\(got 0\)"),
        ({"series": SERIES, "probe": {"k": True}}, r"probe\.k: must hold a number, not true"),
        ({"series": SERIES, "probe": {"k": "5"}}, r"probe\.k: must hold a number, not .* or text"),
        (
            {"series": [{"name": "a", "skip": [1, True]}]},
            r"series 'a': skip: must hold a number.*\(got T",
        ),
        (
            {"series": [{"name": "a", "class_outputs": {"b": True}}]},
            r"class_outputs: must hold a number, .*\(got True\)",
        ),
        ({"series": [{"name": "a", "source": "zoo"}]}, "unknown source 'zoo'; known: train"),
        ({"series": []}, "series: .*at least 1"),
        (
            {"series": [*SERIES, *SERIES]},
            "series: names must differ, not only in case; repeated: a",
        ),
        ({"series": [*SERIES, {"name": "A"}]}, "not only in case; repeated: A, a"),
        ({"series": [{"name": "a" * 300}]}, r"series 'a+': name: must have at most 100 characters"),
        ({"series": SERIES, "memory": float("inf")}, r"memory: must be a finite number \(got inf"),
        (
            {
                "series": [
                    {"name": "a", "source": "function", "function": "m:f", "at": [1], "outputs": 6}
                ]
            },
            r"series 'a': outputs: must not be set with source = 'function' \(got 6\)",
        ),
        ({"series": SERIES, "space": {"methods": ["word2vec"]}}, "unknown space method 'word2vec'"),
        ({"series": SERIES, "evolve": {"methods": ["luck"]}}, "unknown importance method 'luck'"),
        ({"series": SERIES, "base": {"series": "b", "epoch": 1}}, "base.series 'b' is not among"),
        ({"series": SERIES, "evolve": {"pairs": {"b": [[1, 2]]}}}, "names series"),
        ({"series": SERIES, "images": {"source": "folder"}}, r"images\.probe: is missing"),
        ({"series": SERIES, "probe": {"activations": False}}, "needs probe.activations"),
        (
            {"series": SERIES, "images": {"probe": "p", "test": "t"}},
            r'images\.source: must be "folder" .* or "drawn" .*; it is missing',
        ),
        ({"series": SERIES, "images": {"source": "folders"}}, r"images\.source: .*got 'folders'"),
        (
            {"series": [{"name": "a", "folder": "w"}]},
            r"series 'a': folder: a series with source = 'train' has no such key, .*'folder'",
        ),
        ({}, r"series: is missing"),
        ({"series": SERIES, "memory": "8GB"}, r"memory: must be a number \(got '8GB'\)"),
        ({"series": [{"name": "a", "layers": []}]}, r"series 'a': layers: must have at least 1"),
        (
            {"series": [{"name": "a", "mean": [124, 116, 104], "std": [58, 57, 57]}]},
            r"of pixels in \[0, 1\], got mean = \[124.0, .*divide both by 255",
        ),
        ({"series": [{"name": "a", "mean": [0], "std": [255]}]}, r"std = \[255.0\]; if they are"),
        ({"series": SERIES, "space": {"methods": []}}, r"space\.methods: must have at least 1"),
        (
            {"series": SERIES, "evolve": {"pairs": {"a": [[1, 4], [1, 4]]}}},
            r"evolve\.pairs\.a: \[1, 4\] occurs 2 times",
        ),
        ({"series": SERIES, "evolve": {"classes": ["c", "c"]}}, "evolve.classes: 'c' occurs 2"),
        (
            {"series": SERIES, "evolve": {"classes": [], "methods": []}, "bench": {"splits": []}},
            r"evolve\.methods: must .*1 item.*\n.*evolve\.classes: .*1 item.*\n.*splits: .*1 item",
        ),
        (
            {"series": SERIES, "evolve": {"pairs": {"a": [[1, 4, 8]]}}},
            r"evolve\.pairs\.a\.0: must be a list of pairs of epochs, \[\[from, to\], …\]$",
        ),
        (
            {"series": [{"name": "a", "training": {"epochs": 2, "save": [1, 5]}}]},
            "save must lie within 0 and epochs=2",
        ),
        (
            {"series": SERIES, "bench": {"methods": ["change"] * 2, "splits": ["heldout"] * 2}},
            r"bench.methods: 'change' occurs 2 times\n.*bench.splits: 'heldout' occurs 2",
        ),
        ({"series": [{"name": "a", "outputs": 9}]}, "one output for each class, in their order"),
        (
            {"series": SERIES, "evolve": {"classes": [3]}, "bench": {"splits": ["test"]}},
            r"classes\.0: must be text in quotes \(got 3\)\n  bench\.splits\.0: .*'test'\)$",
        ),
    ],
)
def test_every_problem_is_named_with_its_place(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(values)


def test_the_default_of_a_misnamed_section_is_not_compared_with_files():
    """Checkpoints were once checked with the synthetic images."""
    for images in ({"Images": {"source": "drawn"}}, {"images": {"source": "foldr"}}):
        with pytest.raises(ConfigError) as error:
            parse_config({"series": SERIES, **images})
        assert error.value.rest is None
    with pytest.raises(ConfigError) as error:
        parse_config({"series": SERIES, "sed": 1})
    assert error.value.rest is not None


def test_names_and_paths_are_read_as_people_type_them():
    values = {"evolve": {"classes": ["Ka\u0308se"]}, "images": {"source": "folder", "test": "x"}}
    values["images"]["probe"] = "~no-such-user/x"
    read = parse_config({"series": [{"name": "a"}], **values})
    assert read.evolve.classes == ("K\u00e4se",) and str(read.images.probe) == "~no-such-user/x"
    source = {"name": "a", "source": "function", "function": "m:f", "at": [1]}
    (series,) = parse_config({"series": [{**source, "class_outputs": {"Ka\u0308se": 1}}]}).series
    assert series.class_outputs == {"K\u00e4se": 1}


def test_all_problems_come_at_once():
    with pytest.raises(ConfigError) as error:
        parse_config({"series": [{"name": "a", "foo": 1}], "sed": 1, "probe": {"k": 0}})
    assert all(word in str(error.value) for word in ("foo", "sed", "probe.k"))


def test_what_does_not_fit_between_sections_comes_at_once_too():
    with pytest.raises(ConfigError) as error:
        parse_config(
            {
                "series": [*SERIES, *SERIES],
                "sed": 1,
                "probe": {"k": 0},
                "base": {"series": "b", "epoch": 1},
                "evolve": {"pairs": {"c": [[1, 2]]}, "methods": ["luck"]},
                "space": {"methods": ["word2vec", "mind"]},
            }
        )
    lines = str(error.value).splitlines()[1:]
    assert sorted(line.split(":")[0].split(" ")[2] for line in lines) == [
        *("base.series", "evolve.methods", "evolve.pairs", "probe.k", "sed", "series"),
        *("space.methods", "space.methods"),
    ]


def test_what_the_configuration_names_and_is_not_there_comes_at_once(tmp_path):
    (tmp_path / "probe" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "probe" / "a" / "1.png")
    folder = {"source": "folder", "architecture": "small_vgg"}
    config = parse_config(
        {
            "images": {
                "source": "folder",
                "probe": str(tmp_path / "probe"),
                "test": str(tmp_path / "none"),
                "attributes": str(tmp_path / "attributes.csv"),
            },
            "series": [
                {"name": "x", "folder": str(tmp_path / "weights"), **folder},
                {"name": "y", "folder": str(tmp_path / "probe"), **folder},
                {"name": "z"},
            ],
            "evolve": {"classes": ["b"], "pairs": {"z": [[1, 3]]}},
            "report": {"exhibits": ["no_such_module:f"]},
        }
    )
    with pytest.raises(ConfigError) as error:
        run_until("check", config, tmp_path / "run", Console(quiet=True))
    for text in (
        "none does not exist",
        "images.attributes: ",
        "evolve.classes: no class b; there are a",
        "series 'x': folder",
        "series 'y': no file in",
        "has no checkpoint of epoch 3",
        "series 'z' is to be trained: images.train is missing",
        "exhibit 'no_such_module:f' cannot be imported",
    ):
        assert text in str(error.value), text
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_files_that_are_not_configurations(tmp_path):
    with pytest.raises(ConfigError, match=r"does not exist; `conceptevo init` writes one"):
        load_config(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = = 1")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(broken)
    broken.write_bytes("# ä\n[[series]]\nname = 'a'".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"byte 3 is not UTF-8; save"):
        load_config(broken)
    broken.write_text("[[series]]\nname = 'a'", encoding="utf-8-sig")
    assert load_config(broken).series[0].name == "a"
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_a_file_in_the_runs_place_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(ArtifactError, match="run cannot be written: File exists"):
        run_until("check", parse_config({"series": SERIES}), tmp_path / "run", Console(quiet=True))


def test_pairs_and_base_by_default_and_by_name():
    config = parse_config({"series": SERIES})
    assert config.pairs(config.series[0])[0] == Pair("a", 1, 4)  # not from the untrained network
    assert config.base_checkpoint() == Checkpoint("a", 12)
    chosen = parse_config(
        {
            "series": SERIES,
            "base": {"series": "a", "epoch": 4},
            "evolve": {"pairs": {"a": [[0, 12]]}},
        }
    )
    assert chosen.base_checkpoint() == Checkpoint("a", 4)
    assert chosen.pairs(chosen.series[0]) == [Pair("a", 0, 12)]
    with pytest.raises(ConfigError, match=r"base\.epoch 5"):
        parse_config({"series": SERIES, "base": {"series": "a", "epoch": 5}}).base_checkpoint()


@pytest.mark.parametrize("name", ["demo.toml", "template.toml"])
def test_shipped_configurations_are_valid(name):
    text = (CONFIGS / name).read_text(encoding="utf-8")
    parse_config(tomllib.loads(text))


def test_init_writes_a_configuration_and_never_overwrites(tmp_path):
    path = tmp_path / "mine.toml"
    say("init", path)
    load_config(path)
    assert "exists" in say("init", path, error=ValueError)


@pytest.mark.parametrize(
    "section",
    [
        {"name": "a", "architecture": "small_vgg", "training": {"epochs": 2, "save": [0, 2]}},
        {"name": "a", "source": "folder", "architecture": "vgg16", "folder": "w",
         "pattern": "m-{epoch}.pth"},
        {"name": "a", "source": "torchvision", "architecture": "vgg16",
         "checkpoints": {"0": "random"}},
        {"name": "a", "source": "function", "function": "package.models:load", "at": [1, 2]},
    ],
)  # fmt: skip
def test_what_a_manifest_holds_can_be_parsed_again(section):
    config = parse_config({"series": [section]})
    dumped = config.model_dump(mode="json", serialize_as_any=True)
    assert parse_config(dumped) == config


def test_a_space_method_says_itself_that_it_reads_activations(registries):
    SPACES.put("mine", reads_activations(lambda *arguments: None))
    values = {"series": SERIES, "space": {"methods": ["mine"]}}
    parse_config(values)
    with pytest.raises(ConfigError, match=r"'mine' needs probe\.activations = true"):
        parse_config({**values, "probe": {"activations": False}})
