"""The benchmark's kernels: arms, ablations, scores, a planted truth."""

import copy

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from network_pairs import MOST_AT_NIGHT, axes, perturbed
from scipy import stats
from torch import nn

from harness.evolutions.ablation import ABLATIONS, Arm, Images, ablate
from harness.evolutions.arms import BenchParameters, by_rank, ranks
from harness.evolutions.importance import (
    IMPORTANCE,
    ImportanceMethod,
    importance_method,
    sensitivities,
    split_half,
    summarise,
)
from harness.evolutions.sensitivity import Case, Change, concept_vector
from harness.images.view import View
from harness.networks.architectures import ARCHITECTURES, build
from harness.networks.execution import execution, replace_channels
from harness.networks.layer import ModelPair
from harness.networks.layers import find_layers
from harness.records import CONTROLS, JOINT


def some_arms(layers, seed=0):
    rng = np.random.default_rng(seed)

    def draw(layer):
        return torch.from_numpy(np.sort(rng.choice(layer.channels, 2, replace=False)))

    alone = [Arm(la.name, {la.name: draw(la)}, [("m", f"alone {i}", 0)]) for i in range(3)
             for la in layers]  # fmt: skip
    joint = [Arm(JOINT, {la.name: draw(la) for la in layers}, [("m", f"joint {i}", 0)])
             for i in range(3)]  # fmt: skip
    return [Arm(JOINT, {}, [(CONTROLS, "none", 0)]), *alone, *joint]


def shown(images, size=6):
    ids = torch.arange(len(images))
    return Images(
        list(zip(ids.split(size), images.split(size), strict=True)),
        lambda: [images.flip(0)[:4], images.flip(0)[4:]],
        lambda wanted: images.roll(1, 0)[wanted],
    )


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_ablation_equals_a_plain_pass_with_overwritten_channels(pair, ablation):
    older, newer, layers, images = pair
    outputs = {
        "revert": lambda n: oracles.output_of(older, n, images),
        "zero": lambda n: torch.zeros_like(oracles.output_of(newer, n, images)),
        "mean": lambda n: (
            oracles.output_of(newer, n, images)
            .double()
            .mean(0, keepdim=True)
            .float()
            .expand_as(oracles.output_of(newer, n, images))
        ),
        "resample": lambda n: oracles.output_of(newer, n, images.roll(1, 0)),
    }
    replacement = {layer.name: outputs[ablation](layer.name) for layer in layers}
    some = some_arms(layers)
    records = ablate(ModelPair(older, newer, layers), some, shown(images), 2, ablation)
    assert len(records) == len(images) * len(some)
    before = oracles.ablated_logits(newer, {}, images, axes(layers), {})
    for arm in some:
        sets = {name: channels.tolist() for name, channels in arm.channels.items()}
        after = oracles.ablated_logits(newer, sets, images, axes(layers), replacement)
        rows = records[(records["arm"] == arm.labels[0][1]) & (records["layer"] == arm.layer)]
        for name, logits, exact in (
            ("before", before, True), ("after", after, ablation in ("revert", "zero")),
        ):  # fmt: skip
            expected = logits.double().softmax(1)[:, 2].float().numpy()
            found = rows[f"probability_{name}"]
            np.testing.assert_allclose(found, expected, rtol=0 if exact else 1e-5)
            rank = (logits.argsort(dim=1, descending=True, stable=True) == 2).nonzero()[:, 1]
            assert rows[f"correct_{name}"].tolist() == (rank == 0).tolist()
            assert rows[f"top5_{name}"].tolist() == (rank < 5).tolist()


def test_of_equal_outputs_the_first_class_is_predicted():
    """Without a bias all logits are 0 once all neurons are silenced: accuracy is that of chance."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 8, bias=False),
    )  # fmt: skip
    layers = find_layers(network, View(8, 8))
    arms = [Arm(JOINT, {layers[0].name: torch.arange(6)}, [("", "all", 0)])]
    images, models = shown(torch.rand(2, 3, 8, 8)), ModelPair(network, network, layers)
    records = [ablate(models, arms, images, label, "zero") for label in range(8)]
    assert [rows["correct_after"].mean() for rows in records] == [1, *[0] * 7]
    assert [rows["top5_after"].mean() for rows in records] == [*[1] * 5, *[0] * 3]
    assert all((rows["probability_after"] == 1 / 8).all() for rows in records)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_order_of_arms_stacking_and_tracing_change_no_record(pair, ablation):
    older, newer, layers, images = pair
    keys = ["layer", "method", "arm", "draw", "image_id"]
    some = some_arms(layers)

    def records(arms, **more):
        found = ablate(ModelPair(older, newer, layers), arms, shown(images), 2, ablation, **more)
        return found.sort_values(keys).reset_index(drop=True)

    expected = records(some)
    pd.testing.assert_frame_equal(expected, records(some[::-1]))
    pd.testing.assert_frame_equal(expected, records(some, traced=False))
    pd.testing.assert_frame_equal(expected, records(some, batch_size=24))  # four arms a pass


def test_stacked_arms_are_bit_equal_where_the_model_allows():
    newer = build("small_resnet", 6, seed=0).eval()
    older = perturbed(newer, 3).eval()
    layers = find_layers(newer, View(32, 32))
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), execution(newer, layers) as run, execution(older, layers) as old:
        old.start(images)
        run.start(images)
        changes = [
            {n: replace_channels(la, c, old.output(n)) for n, c in arm.channels.items()}
            for arm in some_arms(layers)[1:]
            for la in layers[:1]
            if la.name in arm.channels
            for n in [la.name]
        ]
        assert len(changes) > 4
        alone, together = run.rerun_many(changes), run.rerun_many(changes, 4)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def scored(older, newer, layers, batches, names, output=2, others=tuple, seed=0, steps=4):
    models, values = ModelPair(older, newer, layers), {}
    for name in names:
        method, rng = importance_method(name), np.random.default_rng(seed)
        of_layers = sensitivities(Case(models, batches, output, rng, steps, others), method)
        values |= {(name, layer): sensitivity for layer, sensitivity in of_layers.items()}
    return values


def test_gradient_times_activation_equals_one_pass_an_image_and_layer(pair):
    older, newer, layers, images = pair
    found = scored(older, newer, layers, [images], ["gradient_activation"])
    for layer in layers:
        for i in range(len(images)):
            image = images[i : i + 1]
            product = oracles.gradient_of(newer, layer.name, image, 2) * oracles.output_of(
                newer, layer.name, image
            )
            axis = axes(layers)[layer.name]
            plain = product.movedim(axis, 1).flatten(2).sum(dim=2)[0]
            np.testing.assert_allclose(
                found["gradient_activation", layer.name][i], plain, rtol=1e-4, atol=1e-6
            )


def test_undoing_in_a_context_equals_a_plain_pass_with_masks(pair):
    older, newer, layers, images = pair
    rng = np.random.default_rng(0)
    with torch.no_grad(), execution(newer, layers) as running:
        case = Case(ModelPair(older, newer, layers), [images], 2, rng)
        context = case.contexts[0]
        found = Change(case, running, images).undoing(context)
    drawn = torch.cat([mask.flatten() for mask in context.values()]).float().mean()
    assert drawn == pytest.approx(0.25, abs=0.1)
    for i in range(len(images)):
        masks = {name: mask[i] for name, mask in context.items()}
        plain = oracles.undoing(older, newer, masks, images[i : i + 1], 2, axes(layers))
        for name, expected in plain.items():
            scale = float(expected.abs().max())
            np.testing.assert_allclose(found[name][i], expected, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("pair", MOST_AT_NIGHT, indirect=True)
def test_integrated_gradients_account_for_the_difference_to_no_activation(pair):
    older, newer, layers, images = pair
    found = scored(older, newer, layers, [images], ["integrated"], steps=200)
    with torch.no_grad(), execution(newer, layers) as running:
        full = running.start(images)[:, 2]
        for layer in layers:
            nothing = running.rerun({layer.name: torch.zeros_like})[:, 2]
            total = found["integrated", layer.name].sum(axis=1)
            np.testing.assert_allclose(total, (full - nothing).numpy(), atol=3e-3, rtol=3e-2)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_conductance_equals_captums(name):
    from captum.attr import LayerConductance

    model = build(name, 6, seed=0).eval()
    layers = find_layers(model, View(32, 32))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = scored(model, model, layers, [images], ["conductance"], steps=3)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    for layer in layers:
        theirs = LayerConductance(model, model.get_submodule(layer.name)).attribute(
            images, target=2, n_steps=6, method="riemann_trapezoid"
        )
        plain = layer.channel_first(theirs.detach()).sum(dim=2).numpy()
        np.testing.assert_allclose(found["conductance", layer.name], plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pair", MOST_AT_NIGHT, indirect=True)
def test_batches_and_seeds_change_no_score(pair):
    older, newer, layers, images = pair
    names = [name for name in IMPORTANCE if name != "tcav"]
    whole = scored(older, newer, layers, [images], names)
    parts = scored(older, newer, layers, [images[:2], images[2:]], names)
    for key, values in whole.items():
        np.testing.assert_allclose(parts[key], values, rtol=1e-3, atol=1e-6)
        if importance_method(key[0]).share:
            score, stderr = summarise(values, share=True)
            assert ((score >= 0) & (score <= 1) & (stderr > 0)).all()


def test_a_concept_vector_parts_the_class_from_the_others():
    rng = np.random.default_rng(0)
    mine, others = rng.normal(size=(40, 5)), rng.normal(size=(80, 5))
    mine[:, 3] += 3
    vector = concept_vector(mine, others, np.random.default_rng(0)).numpy()
    assert np.argmax(vector) == 3 and vector[3] > 0.9
    assert np.linalg.norm(vector) <= 1 + 1e-9


def test_tcav_without_another_class_is_undefined(pair):
    older, newer, layers, images = pair
    values = scored(older, newer, layers, [images], ["tcav"])["tcav", layers[0].name]
    score, stderr = summarise(values, share=True)
    assert np.isnan(score).all() and np.isnan(stderr).all()
    assert split_half(values, True, np.random.default_rng(0))["rho"].isna().all()


def test_without_arms_there_are_no_rows_but_all_columns(pair):
    older, newer, layers, images = pair
    none = ablate(ModelPair(older, newer, layers), [], shown(images), 2)
    some = ablate(ModelPair(older, newer, layers), some_arms(layers), shown(images), 2)
    assert none.empty and list(none.columns) == list(some.columns)
    assert (none.dtypes == some.dtypes)[4:].all()  # those of numbers


def test_split_halves_equal_the_plain_correlation_and_nan_is_counted():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 9)) + np.arange(9) / 3
    table = split_half(values, False, np.random.default_rng(4), draws=1)
    assert table["images"].tolist() == [1, 2, 4, 6]
    again = np.random.default_rng(4)
    for row in table.itertuples():
        chosen = again.permutation(12)
        halves = (chosen[: row.images], chosen[row.images : 2 * row.images])
        scores = [summarise(values[half], False)[0] for half in halves]
        assert row.rho == pytest.approx(oracles.split_half(*scores))
        assert row.rho == pytest.approx(stats.spearmanr(*scores).statistic)
    np.testing.assert_allclose(summarise(values, False), [values.mean(axis=0), stats.sem(values)])
    partial = np.where(np.arange(12)[:, None] == 0, np.nan, values)
    assert split_half(partial, False, np.random.default_rng(0))["left_out"].tolist()[-1] == 10
    flat = split_half(np.zeros((8, 5)), True, np.random.default_rng(0), draws=3)
    assert flat["rho"].isna().all() and (flat["left_out"] == 3).all()
    assert split_half(np.zeros((1, 5)), True, np.random.default_rng(0)).empty


def own(change):
    """A user's own sensitivity."""
    return change.size()


def test_a_users_own_function_is_a_method_scored_by_its_mean(pair):
    older, newer, layers, images = pair
    name = f"{__name__}:own"
    method = importance_method(name)
    assert isinstance(method, ImportanceMethod) and not method.share and method.linearises == ""
    mine, theirs = (scored(older, newer, layers, [images], [n]) for n in (name, "change"))
    for layer in layers:
        assert (mine[name, layer.name] == theirs["change", layer.name]).all()
    with pytest.raises(ValueError, match="must be a function or ImportanceMethod, got int"):
        importance_method(f"{__name__}:NUMBER")


NUMBER = 3


class Planted(nn.Module):
    """A network of sixteen channels; the class's logit reads PLANTED and, more strongly, OLD."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean(dim=(2, 3)))


PLANTED, DECOYS, OLD = [1, 6, 10, 15], [0, 4, 7, 12], [2, 3, 5, 8, 9, 11, 13, 14]
CLASS = 2


def planted():
    """Return (older, newer): PLANTED's change matters; DECOYS change more, but are not read."""
    torch.manual_seed(0)
    older = Planted().eval()
    with torch.no_grad():
        older.conv.weight.mul_(0.5)
        older.head.weight.uniform_(0.1, 0.2)
        older.head.weight[CLASS, PLANTED] = 1.0
        older.conv.bias[OLD] = 1.0
        older.head.weight[CLASS, OLD] = 9.0
        older.head.weight[:, DECOYS] = 0.0
        typical = older(torch.full((1, 3, 8, 8), 0.5))[0]
        older.head.bias[CLASS] -= typical[CLASS]  # keep the class's probability off 0 and 1
        newer = copy.deepcopy(older)
        newer.conv.bias[PLANTED] += 1.0
        newer.conv.bias[DECOYS] += 5.0
    return older, newer


#: Of the four planted channels, how many are in a method's first four? Those that ask only what
#: changed, or only what is used, are led astray.
RECALL = {
    **dict.fromkeys(
        ["sign_t", "mean_t", "sign_t1", "mean_t1", "sign_path", "mean_path", "contexts"], 1.0
    ),
    **dict.fromkeys(["change", "activation"], 0.0),
    **dict.fromkeys(["gradient_activation", "integrated", "conductance"], 0.0),
}


def recall(name, seed=0):
    older, newer = planted()
    layers = find_layers(newer, View(8, 8), ["act"])
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(16, 3, 8, 8, generator=generator)
    others = torch.rand(32, 3, 8, 8, generator=generator) - 0.5
    values = scored(older, newer, layers, [images], [name], CLASS, lambda: [others], seed)
    score, _ = summarise(values[name, "act"], importance_method(name).share)
    table = pd.DataFrame({"layer": "act", "channel": range(16), "score": score})
    table["rank"] = ranks(table, np.random.default_rng(seed))
    return np.isin(by_rank(table, ["act"])["act"][:4], PLANTED).mean()


@pytest.mark.parametrize("name", RECALL)
def test_a_planted_truth_is_found_by_those_that_can(name):
    assert recall(name) == RECALL[name]


def test_chance_and_concepts_find_a_planted_truth_no_better_than_chance():
    assert set(RECALL) | {"random", "tcav"} == set(IMPORTANCE)
    assert np.mean([recall("random", seed) for seed in range(40)]) == pytest.approx(0.25, abs=0.1)
    assert recall("tcav") <= 0.5


def test_undoing_the_planted_channels_alone_changes_the_class():
    older, newer = planted()
    layers = find_layers(newer, View(8, 8), ["act"])
    images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    sets = {"planted": PLANTED, "decoys": DECOYS, "old": OLD[:4]}
    some = [Arm("act", {"act": torch.tensor(c)}, [("m", name, 0)]) for name, c in sets.items()]
    rows = ablate(ModelPair(older, newer, layers), some, shown(images, 16), CLASS)
    lost = (rows["probability_after"] - rows["probability_before"]).groupby(rows["arm"]).mean()
    assert lost["planted"] < -0.05 and lost["decoys"] == 0 and lost["old"] == 0


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"methods": ("sing_t",)}, "unknown importance method 'sing_t'; known: sign_t"),
        ({"ablations": ("undo",)}, "unknown ablation 'undo'; known: revert, zero, mean, resample"),
        ({"splits": ("test",)}, "Input should be 'heldout' or 'importance'"),
        ({"steps": 1}, "greater than or equal to 2"),
        ({"bins": 2}, "Extra inputs are not permitted"),
    ],
)
def test_bad_parameters_say_what_is_allowed(values, told):
    with pytest.raises(ValueError, match=told):
        BenchParameters(**values)
