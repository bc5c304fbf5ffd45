"""The audit finds each fault planted in a series of checkpoints, and none in a sound one."""

from itertools import pairwise, permutations

import numpy as np
import oracles
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from analysis.run import audit as exhibits
from harness.artifacts import Artifact
from harness.config import parse_config
from harness.networks import trajectory
from harness.networks.trajectory import Trajectory, detours, findings
from harness.networks.weight_sketch import SAMPLE, sketch
from harness.stages.run import run_until

EPOCHS = (1, 2, 3, 5, 8, 13)
LAYERS = ("0", "1", "3")


def network(num_classes=12):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )


def series(seed=0, epochs=EPOCHS):
    """Return state dicts along a path like that of training: a direction, and noise."""
    torch.manual_seed(seed)
    state = network().state_dict()
    direction = {n: 0.002 * torch.randn_like(t) for n, t in state.items() if t.is_floating_point()}
    states, batches = {}, 0
    for epoch in range(max(epochs) + 1):
        if epoch in epochs:
            states[epoch] = {n: t.clone() for n, t in state.items()}
        batches += 10
        for name, tensor in state.items():
            if tensor.is_floating_point():
                tensor += direction[name] + 0.01 * torch.randn_like(tensor)
            else:
                tensor.fill_(batches)
    return states


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("audit")


def audited(place, states, name):
    """Return the findings of a series, by kind (epochs, layers), and the run."""
    folder = place / name
    folder.mkdir()
    for epoch, state in states.items():
        if isinstance(state, bytes):
            (folder / f"w-{epoch}.pth").write_bytes(state)
        else:
            torch.save(state, folder / f"w-{epoch}.pth")
    run = audit(place, name)
    found = {}
    for row in run.table(Artifact("audit_findings", (name,))).itertuples():
        found.setdefault(row.kind, []).append((row.epochs, row.layers))
    return found, run


def audit(place, name):
    section = {
        "name": name,
        "source": "folder",
        "architecture": "test_audit:network",
        "folder": str(place / name),
        "pattern": "w-{epoch}.pth",
    }
    images = {"source": "drawn", "train": 12, "probe": 12, "test": 24}
    config = parse_config({"images": images, "series": [section], "workers": 0})
    return run_until("audit", config, place / "run", Console(quiet=True))


def equal(states):
    states[3], states[5] = states[13], states[13]
    return {"equal": [("3, 5, 13", "")]}


def same_but_for_counters(states):
    states[5] = {n: t if t.is_floating_point() else t + 1 for n, t in states[3].items()}
    return {"equal": [("3, 5", "")]}


def of_another_training(states):
    states[5] = series(1)[5]
    return {"outlier": [("5", "")]}


def the_last_of_another_training(states):
    states[13] = series(1)[13]
    return {"jump": [("8, 13", "")]}


def the_first_of_another_training(states):
    states[1] = series(1)[1]
    return {"jump": [("1, 2", "")]}


def begun_anew(states):
    for epoch in (5, 8, 13):
        states[epoch] = series(1)[epoch]
    return {"jump": [("3, 5", "")]}


def a_layer_of_another_training(states):
    states[5] |= {"3.weight": series(1)[5]["3.weight"], "3.bias": series(1)[5]["3.bias"]}
    return {"outlying layer": [("5", "3")]}


def exchanged(states):
    for state in states.values():
        del state["1.num_batches_tracked"]
    states[3], states[5] = states[5], states[3]
    return {"order": [("3, 5", "")]}


def the_last_comes_first(states):
    for state in states.values():
        del state["1.num_batches_tracked"]
    values = [states[epoch] for epoch in EPOCHS]
    states |= dict(zip(EPOCHS, [values[-1], *values[:-1]], strict=True))
    return {"order": [("1, 2, 3, 5, 8, 13", "")]}


def backwards(states):
    values = [states[epoch] for epoch in EPOCHS]
    states |= dict(zip(EPOCHS, values[::-1], strict=True))
    return {"order": [(f"{a}, {b}", "") for a, b in pairwise(EPOCHS)]}


def frozen(states):
    for state in states.values():
        state |= {name: states[1][name] for name in ("0.weight", "0.bias")}
    return {"frozen": [("1, 13", "0")]}


def frozen_from_the_fifth_epoch(states):
    for epoch in (8, 13):
        states[epoch] |= {n: states[5][n] for n in ("0.weight", "0.bias", "1.weight", "1.bias")}
    return {"frozen": [("5, 13", "0, 1")]}


def only_running_statistics(states):
    names = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    states[8] = states[5] | {name: states[8][name] for name in names}
    return {"frozen": [("5, 8", "0, 1, 3, 7")]}


def not_finite(states):
    states[3]["3.weight"][0, 0, 0, 0] = float("nan")
    states[8]["7.bias"][2] = float("inf")
    return {"not finite": [("3", "3"), ("8", "7")]}


def dead(states):
    for epoch in (8, 13):
        states[epoch]["3.weight"][[2, 5]] = 0
    return {"dead units": [("8", "3"), ("13", "3")]}


def unreadable(states):
    states[3] = b"rubbish"
    return {"unreadable": [("3", "")]}


def nothing_readable(states):
    for epoch in states:
        states[epoch] = b"rubbish"
    return {"unreadable": [(str(epoch), "") for epoch in EPOCHS]}


def sound(states):
    return {}


FAULTS = [
    *(equal, same_but_for_counters, of_another_training, the_last_of_another_training),
    *(the_first_of_another_training, begun_anew, a_layer_of_another_training, exchanged),
    *(the_last_comes_first, backwards, frozen, frozen_from_the_fifth_epoch),
    *(only_running_statistics, not_finite, dead, unreadable, nothing_readable, sound),
]


@pytest.mark.parametrize("plant", FAULTS)
def test_each_planted_fault_is_found_and_nothing_else(plant, place):
    states = series()
    expected = plant(states)
    found, run = audited(place, states, plant.__name__)
    assert found == expected
    text = " ".join(exhibits.audit_sentences(run, {}))
    assert ("no anomaly in" in text) == (not expected)
    assert ("Not audited" in text) == (plant is nothing_readable)
    table = exhibits.audit(run).frame
    readable = [epoch for epoch, state in states.items() if isinstance(state, dict)]
    assert list(table["epoch"]) == readable
    assert (exhibits.audit_distances(run) is None) == (not readable)
    for name in ("audit", "audit_findings"):
        written = getattr(exhibits, name)(run)
        assert written.csv() and written.markdown() and written.latex()


def test_a_long_series_half_of_which_is_the_last_checkpoint(place):
    epochs = tuple(range(0, 60, 2))
    states = series(epochs=epochs)
    same = [epoch for epoch in epochs if epoch % 4] + [epochs[-1]]
    for epoch in same:
        states[epoch] = states[epochs[-1]]
    found, run = audited(place, states, "long")
    assert set(found) == {"equal"}
    assert found["equal"] == [(", ".join(map(str, sorted(set(same)))), "")]
    assert "15 of 30 checkpoints hold the same weights" in exhibits.audit_sentences(run, {})[0]


def test_a_jump_after_an_epoch_0_that_is_left_out(place):
    states = series() | {1: series(1)[1]}
    states = {0: states[13], **states}
    found, _ = audited(place, states, "left_out")
    assert found == {"equal": [("0, 13", "")], "jump": [("1, 2", "")]}


def test_of_two_checkpoints_no_order_is_claimed(place):
    """With one distance, there is no outlier, other order or jump."""
    _, run = audited(place, series(epochs=(1, 3)), "two")
    (text,) = exhibits.audit_sentences(run, {})
    assert "no anomaly in two: no duplicated checkpoints, frozen layers" in text
    assert "misordered, and jumps, cannot be tested with two checkpoints." in text


def test_distances_are_those_of_all_weights(place):
    states = series()
    _, run = audited(place, states, "distances")
    table = run.table(Artifact("audit", ("distances",)))
    names = [n for n, t in states[1].items() if t.is_floating_point() and "running" not in n]
    vectors = [np.concatenate([s[n].numpy().ravel() for n in names]) for s in states.values()]
    for i in range(len(vectors)):
        assert table["norm"][i] == pytest.approx(float(np.linalg.norm(vectors[i])), rel=1e-5)
        assert table["from_first"][i] == pytest.approx(
            oracles.euclidean(vectors[0], vectors[i]), rel=1e-5
        )
    steps = [oracles.euclidean(a, b) for a, b in pairwise(vectors)]
    assert list(table["step"][1:]) == pytest.approx(steps, rel=1e-5)
    assert (table["detour"][1:-1] < 1).all() and table["detour"].isna().sum() == 2
    by_layer = run.table(Artifact("audit_steps", ("distances",)))
    last = by_layer[(by_layer["layer"] == "7") & (by_layer["epoch"] == 13)].iloc[0]
    first, end = (
        np.concatenate([s["7.weight"].numpy().ravel(), s["7.bias"].numpy()])
        for s in (states[1], states[13])
    )
    assert last["from_first"] == pytest.approx(oracles.euclidean(first, end), rel=1e-5)


def test_large_layers_are_sampled_alike_at_every_checkpoint():
    torch.manual_seed(0)
    layer = nn.Linear(600, 600, bias=False)
    (before,), (old,) = (sketch(layer)[0].itertuples(), sketch(layer)[1])
    with torch.no_grad():
        layer.weight += 0.1 * torch.randn(600, 600)
    (after,), (new,) = (sketch(layer)[0].itertuples(), sketch(layer)[1])
    assert len(old) == SAMPLE and before.size == 360_000
    estimate = np.linalg.norm(new - old) * np.sqrt(before.size / SAMPLE)
    assert estimate == pytest.approx(60, rel=0.05)  # 0.1 · 600
    assert before.digest != after.digest and sketch(layer)[0]["digest"][0] == after.digest


def test_complex_weights_are_compared_with_their_imaginary_parts():
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.tensor([[3 + 4j, 1]]))
    (before,), (old,) = (sketch(layer)[0].itertuples(), sketch(layer)[1])
    with torch.no_grad():
        layer.weight[0] = torch.tensor([3 + 6j, complex(1, torch.nan)])
    (after,), (new,) = (sketch(layer)[0].itertuples(), sketch(layer)[1])
    assert (before.squared_norm, before.units, after.non_finite) == (26, 1, 1)
    assert old.tolist() == [3, 4, 1, 0] and new[1] == 6 and before.digest != after.digest


def test_dead_units_are_rows_of_zeros():
    layer = nn.Linear(3, 4)
    with torch.no_grad():
        layer.weight[1] = 0
        layer.weight[2] = 1e-12
    assert sketch(layer)[0][["units", "dead"]].values.tolist() == [[4, 2]]
    turned = nn.ConvTranspose2d(2, 5, 3)
    with torch.no_grad():
        turned.weight[:, 4] = 0
    assert sketch(turned)[0][["units", "dead"]].values.tolist() == [[5, 1]]
    assert sketch(nn.LayerNorm(4))[0]["units"].tolist() == [0]
    attention = nn.MultiheadAttention(8, 2)  # queries, keys and values; then the output
    with torch.no_grad():
        attention.in_proj_weight[[0, 9]] = 0
    assert sketch(attention)[0][["units", "dead"]].values.tolist() == [[24, 2], [8, 0]]
    apart = nn.MultiheadAttention(8, 2, kdim=3, vdim=5, add_bias_kv=True)
    assert sketch(apart)[0]["units"].tolist() == [24, 8]
    assert sketch(nn.LSTM(3, 4))[0]["units"].tolist() == [32]  # 4 gates, of input and of state


def way(points, epochs=None):
    """Return a trajectory of one layer from vectors [checkpoints, weights]."""
    n = len(points)
    nothing = np.zeros((1, n), dtype=int)
    return Trajectory(
        epochs=tuple(epochs or range(n)),
        layers=("layer",),
        distances=np.array([[oracles.euclidean(a, b) for a in points] for b in points])[None],
        digests=np.array([[str(i) for i in range(n)]], dtype=object),
        buffers=np.array([""] * n),
        non_finite=nothing,
        dead=nothing,
        units=nothing + 4,
        batches=np.full(n, -1),
        norms=np.linalg.norm(points, axis=1)[None],
    )


def test_detours_by_hand():
    points = np.array([[0.0], [1.0], [10.0], [2.0], [3.0]])
    distances = np.abs(points - points.T)
    assert detours(distances) == pytest.approx([np.nan, 0.1, 8.0, 1 / 7, np.nan], nan_ok=True)
    assert np.isinf(detours(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0.0]]))[1])
    assert np.isnan(detours(np.array([[0, 1, np.nan], [1, 0, 1], [np.nan, 1, 0.0]]))[1])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(3, 12),
    st.floats(0, 1),
    st.sampled_from([1.0, 0.8, 0.6]),
    st.integers(0, 1000),
)
def test_sound_trainings_raise_nothing(n, drift, decay, seed):
    rng = np.random.default_rng(seed)
    rates = decay ** np.arange(n)
    steps = rates[:, None] * (rng.normal(size=(n, 800)) + drift * rng.normal(size=800))
    assert findings(way(np.cumsum(steps, axis=0))) == []
    assert findings(way(rng.normal(size=(n, 800)))) == []  # all has been learned: noise alone


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 100))
@example([4, 1, 2, 0, 3], 34)  # no single part is out of place
def test_the_order_is_the_shortest_way(order, seed):
    points = np.cumsum(np.random.default_rng(seed).normal(size=(5, 800)), axis=0)[list(order)]
    total = way(points).total
    found, _ = trajectory._find_order(way(points), range(5))
    shortest = min(trajectory._length(total, other) for other in permutations(range(5)))
    assert trajectory._length(total, found) <= 1.1 * shortest


def test_an_audit_is_not_done_twice(place, monkeypatch):
    states = series()
    audited(place, states, "twice")
    read = []
    monkeypatch.setattr(
        "harness.stages.audit.sketch", lambda model: read.append(1) or sketch(model)
    )
    audit(place, "twice")
    assert read == []
    torch.save(series(2)[5], place / "twice" / "w-5.pth")
    run = audit(place, "twice")
    assert read == [1]  # the changed file alone
    assert list(run.table(Artifact("audit_findings", ("twice",)))["kind"]) == ["outlier"]
