"""The objectives of importance: equal to a plain twin, checked before work, part of the results."""

import copy
import sys
from pathlib import Path

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from command_line import say
from network_pairs import perturbed
from test_networks import check, run  # noqa: F401 - a fixture
from torch import nn

import conceptevo as ce
from harness.artifacts import Artifact, Run
from harness.evolutions.ablation import Arm, Images, ablate
from harness.evolutions.sensitivity import maps_and_gradients
from harness.images.sets import draw_arrays
from harness.images.view import View
from harness.networks.layer import ModelPair
from harness.networks.layers import find_layers
from harness.networks.objectives import (
    OBJECTIVES,
    Target,
    choose_objective,
    objective_identity,
    read_embeddings,
)
from harness.results import REVERSION, read_results

WIDTH, CLASSES = 7, 3


def encoder(width=WIDTH, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, width))  # fmt: skip


@pytest.fixture
def prototypes():
    return torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(4))


def target_of(name, label, prototypes):
    objective = choose_objective(name)
    return Target(objective, label, CLASSES, prototypes if objective.prototypes else None)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_values_and_gradients_equal_the_definition(name, prototypes):
    model, images = encoder().eval(), torch.randn(4, 3, 16, 16)
    target = target_of(name, 2, prototypes)
    vectors = target.prototypes
    with torch.no_grad():
        outputs = model(images)
        plain = torch.stack([oracles.objective(name, row, 2, vectors) for row in outputs]).float()
        torch.testing.assert_close(target.value(outputs), plain)
    layers = find_layers(model, View(16, 16))
    _, gradients = maps_and_gradients(model, layers, images, target)
    for index in range(len(images)):
        features = model[:2](images[index : index + 1]).detach().requires_grad_()
        oracles.objective(name, model[2:](features)[0], 2, vectors).backward()
        torch.testing.assert_close(gradients["1"][index], features.grad[0].flatten(1),
                                   rtol=1e-4, atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("name", ["logit", "prototype"])
def test_a_prediction_is_the_class_with_the_largest_objective(name, prototypes):
    newer = encoder(CLASSES if name == "logit" else WIDTH)
    older, images = perturbed(newer, 2, 0.5).eval(), torch.randn(9, 3, 16, 16)
    newer = newer.eval()
    layers = find_layers(newer, View(16, 16))
    chosen = {"3": torch.tensor([0, 5, 6])}
    arms = [Arm("3", chosen, [("m", "q1", 0)])]
    target = target_of(name, 1, prototypes)
    rows = ablate(
        ModelPair(older, newer, layers), arms, Images([(torch.arange(9), images)]), target
    )
    with torch.no_grad():
        before = newer(images)
    after = oracles.reverted_logits(older, newer, {"3": [0, 5, 6]}, images, {"3": 1})
    for moment, outputs in (("before", before), ("after", after)):
        every = torch.stack(
            [
                torch.stack([oracles.objective(name, o, c, target.prototypes) for c in range(3)])
                for o in outputs
            ]
        )
        torch.testing.assert_close(torch.tensor(rows[f"objective_{moment}"]), every[:, 1])
        assert rows[f"correct_{moment}"].tolist() == (every.argmax(1) == 1).tolist()
        scale = 1 if name == "logit" else 100
        expected = (scale * every).softmax(1)[:, 1]
        torch.testing.assert_close(torch.tensor(rows[f"probability_{moment}"]), expected,
                                   rtol=1e-3, atol=1e-5)  # fmt: skip
    assert not (rows["objective_before"] == rows["objective_after"]).all()


NAMES = ("a", "b", "c")


def written(path, vectors):
    if path.suffix == ".npy":
        np.save(path, vectors)
    elif path.suffix == ".npz":
        np.savez(path, **dict(zip(NAMES, vectors, strict=True)))
    else:
        pd.DataFrame(vectors).assign(**{"class": NAMES}).iloc[::-1].to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_class_embeddings_are_read_by_the_name_of_the_class(suffix, tmp_path, prototypes):
    path = written(tmp_path / f"texts{suffix}", prototypes.numpy())
    assert np.allclose(read_embeddings(path, NAMES), prototypes)
    objective = choose_objective(str(path))
    assert objective.file == path and not objective.needs_images
    before = objective_identity(str(path))
    written(path, prototypes.numpy() + 1)
    assert objective_identity(str(path)) != before


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        (".npz", lambda v: v[:2], "lack the classes c; they have a, b"),
        (".npz", lambda v: v * np.array([[1], [0], [1]]), "zero or not finite for b"),
        (".csv", lambda v: v * np.nan, "zero or not finite for a, b, c"),
        (".npy", lambda v: v[:2], r"\[3 classes, width\] in the order of the classes, got shape"),
    ],
)
def test_class_embeddings_that_do_not_fit_are_refused(suffix, change, message, tmp_path):
    vectors = change(np.ones((3, 4)))
    path = tmp_path / f"texts{suffix}"
    if suffix == ".npz":
        np.savez(path, **dict(zip(NAMES, vectors, strict=False)))
    else:
        written(path, vectors)
    with pytest.raises(ValueError, match=message):
        read_embeddings(path, NAMES)


def test_a_table_of_embeddings_has_one_row_for_each_class(tmp_path, monkeypatch):
    path = tmp_path / "texts.csv"
    path.write_text("class,0,1\nNA,1,2\nnull,3,4\n")
    assert read_embeddings(path, ["null", "NA"]).tolist() == [[3, 4], [1, 2]]
    monkeypatch.setenv("TEXTS", str(tmp_path))
    assert choose_objective("$TEXTS/texts.csv").file == path
    path.write_text("class,0,1\na,1,2\na,3,4\n")
    with pytest.raises(ValueError, match="it has several rows for a"):
        read_embeddings(path, ["a"])


def test_names_that_stand_for_nothing_are_refused(tmp_path):
    for name, message in {
        "logits": "unknown objective 'logits'; known: logit, .* or a file of class embeddings",
        "no/texts.npz": "there is no such file of class embeddings",
        "torch:pi": "must be a function or Objective, got float",
        "torch:nothing": "has no 'nothing'",
    }.items():
        with pytest.raises(ValueError, match=message):
            choose_objective(name)


def good(output, labels):
    return output.square().sum(dim=1) * (labels + 1)


def summed(output, labels):
    return output.sum()


def detached(output, labels):
    return output.detach()[:, 0] + labels


def centred(output, labels):
    return (output - output.mean(dim=0))[:, 0] * (labels + 1)


def classless(output, labels):
    return output.sum(dim=1)


def broken(output, labels):
    raise KeyError("texts")


def refusals(tmp_path, prototypes):
    texts = written(tmp_path / "t.npz", prototypes.numpy()[:, :5])
    return {
        "test_objectives:summed": (
            "problem",
            r"one number per image, a tensor of shape \(6,\); got shape",
        ),
        "test_objectives:detached": ("problem", "has no gradient by the outputs"),
        "test_objectives:centred": ("problem", "depends on the other images of its batch"),
        "test_objectives:broken": ("problem", r"on outputs \(6, 7\) failed: KeyError: 'texts'"),
        "test_objectives:classless": ("notes", "is the same for all classes"),
        str(texts): ("problem", "the network has 7 outputs, and the class embeddings .* have 5"),
        "logit": (
            "problem",
            r'7 outputs for 3 classes: say in class_outputs .* objective = "prototype"',
        ),
    }


def test_check_refuses_what_an_objective_cannot_use(run, tmp_path, prototypes):  # noqa: F811
    for name, (column, message) in refusals(tmp_path, prototypes).items():
        row = check(run, encoder(), objective=name)
        assert pd.Series([row[column]]).str.contains(message).all(), (name, row[column])
    for name in ("prototype", "test_objectives:good"):
        row = check(run, encoder(), objective=name)
        assert row["problem"] == "" and row["notes"] == "" and row["outputs"] == WIDTH
        assert np.isnan(row["accuracy"]) == (name == "prototype")
    row = check(run, encoder(), objective="prototype", class_outputs={"a": 1})
    assert "knows classes by their number: leave it out" in row["problem"]


def test_a_class_without_an_output_of_its_own_is_refused(run):  # noqa: F811
    row = check(run, encoder(CLASSES), class_outputs={"a": 1})
    assert "class_outputs gives output 1 to a, and b, which it does not name, has" in row["problem"]
    swapped = check(run, encoder(CLASSES), class_outputs={"a": 1, "b": 0})
    assert swapped["problem"] == ""


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (nn.Softmax(1), "are probabilities \\(they add up to 1\\), not logits"),
        (nn.Sigmoid(), "are probabilities \\(a sigmoid's\\), not logits"),
        (nn.LogSoftmax(1), "logarithms of probabilities"),
    ],
)
def test_outputs_that_already_are_probabilities_are_noticed(last, message, run):  # noqa: F811
    row = check(run, nn.Sequential(encoder(CLASSES), last))
    assert row["problem"] == "" and pd.Series([row["notes"]]).str.contains(message).all()


SOURCE = """
import torch
from torch import nn


def load(epoch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                          nn.Linear(24, 9))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += epoch * 0.1 * torch.randn_like(parameter)
    return model


def second(output, labels):
    return output[:, 1] * labels
"""

CONFIG = """
[images]
source = "drawn"
train = 96
probe = 48
test = 72
[[series]]
name = "enc"
source = "function"
function = "my_encoders:load"
at = [1, 2]
resize = 32
crop = 32
{objective}
[probe]
k = 4
[space]
methods = ["ppmi"]
[evolve]
methods = ["sign_t", "contexts"]
classes = ["clock", "zebra"]
images_per_class = 3
[revert]
random_draws = 2
importance_images = 3
heldout_images = 3
"""


@pytest.fixture
def started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_encoders.py").write_text(SOURCE)
    sys.modules.pop("my_encoders", None)

    def start(objective, stage="run", error=None):
        (tmp_path / "c.toml").write_text("workers = 0\n" + CONFIG.format(objective=objective))
        return " ".join(say(stage, "c.toml", "--out", "out", error=error).split())

    return start


def test_an_encoder_is_refused_before_any_work(started):
    text = started("", "probe", ValueError)
    assert "the network has 9 outputs for 12 classes" in text and 'objective = "prototype"' in text
    assert not list(Path("out").glob("probe/*/stimuli*"))


@pytest.mark.slow
def test_an_encoder_goes_all_the_way_with_an_objective(started):
    started('objective = "prototype"')
    out = Path("out").resolve()
    results = read_results(out, REVERSION)
    (sentence,) = results.objective_sentences
    assert "mean of the outputs" in sentence and "at most 3 training images each" in sentence
    assert "class with the largest objective" in sentence
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "Importance is measured on the cosine similarity" in page
    assert (out / "report" / "tables" / "reversion_objective.csv").exists()
    # prototypes and nearest prototypes by hand
    sys.path.insert(0, str(out.parent))
    model = __import__("my_encoders").load(2).eval()
    made = Run(out).arrays(Artifact("prototypes", ("enc", 2)))
    assert set(made["images"]) == {3} and made["prototypes"].shape == (12, 9)
    records = results.records(method="controls", split="heldout")
    untouched = records[records["arm"] == "none"]
    pixels = Run(out).arrays(Artifact("images", ("test",)))["pixels"]
    for row in untouched.head(8).itertuples():
        image = torch.tensor(np.array(View(32, 32).apply(_picture(pixels[row.image_id]))))
        batch = (image.permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
        with torch.no_grad():
            cosines = torch.cosine_similarity(model(batch), torch.tensor(made["prototypes"]))
        assert row.objective_before == pytest.approx(float(cosines[row.class_id]), abs=1e-5)
        assert row.correct_before == bool(cosines[row.class_id] >= cosines.max() - 1e-6)
    # another objective: everything that follows from it is done again, and nothing else
    text = started('objective = "my_encoders:second"', "revert")
    assert "stimuli: 2 done before" in text and "class prototypes" not in text
    assert (
        read_results(out, REVERSION)
        .objective_sentences[0]
        .startswith("Importance is measured on the function my_encoders:second")
    )
    changed = read_results(out, REVERSION).records(method="controls")
    assert not np.allclose(changed["objective_before"].to_numpy()[:20],
                           records["objective_before"].to_numpy()[:20])  # fmt: skip


def _picture(pixels):
    from PIL import Image

    return Image.fromarray(pixels)


def test_a_prototype_is_the_mean_of_outputs_of_length_one():
    from harness.stages.prototypes import MakePrototypes  # noqa: F401 - the work that is checked

    outputs = torch.randn(5, WIDTH)
    plain = oracles.prototype(outputs)
    fast = nn.functional.normalize(nn.functional.normalize(outputs.double(), dim=1).mean(0), dim=0)
    torch.testing.assert_close(plain, fast.float())


@pytest.fixture(scope="module")
def images():
    arrays = draw_arrays(3, 0, 300)
    chosen = np.isin(arrays["labels"], (0, 1, 2))
    return ce.Images(arrays["pixels"][chosen], arrays["labels"][chosen], classes=["r", "g", "b"])


@pytest.mark.parametrize("objective", ["prototype", good])
def test_an_encoder_in_memory(images, objective):
    newer = encoder()
    models = {1: perturbed(newer, 1), 4: newer}
    kept = copy.deepcopy(newer.state_dict())
    series = ce.Series("mine", models, ce.View(32, 32), objective=objective)
    scores = ce.importance(series, images, (1, 4), ["sign_t"], heldout_images=8, progress=False)
    table = scores.to_pandas()
    assert set(table["class_id"]) == {0, 1, 2} and table["score"].between(0, 1).all()
    undone = ce.ablate(scores, arms=ce.Arms(random=19), progress=False)
    rows = undone.to_pandas()
    assert rows["objective_before"].notna().all()
    assert all(torch.equal(kept[name], value) for name, value in newer.state_dict().items())
    plain = ce.Series("mine", models, ce.View(32, 32))
    with pytest.raises(ValueError, match="7 outputs for 3 classes"):
        ce.importance(plain, images, (1, 4), ["sign_t"], progress=False)
