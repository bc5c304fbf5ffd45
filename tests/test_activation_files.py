"""Activations on disk are those in memory, whatever the parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.artifacts import ArtifactError
from harness.concepts.activations import Activations, mapped


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([np.float32, np.float16]))
@settings(max_examples=20, deadline=None)
def test_parts_on_disk_are_one_matrix(tmp_path_factory, seed, by_image, kind):
    rng = np.random.default_rng(seed)
    whole = rng.normal(size=(7, 20)).astype(kind)
    cuts = sorted(rng.choice(np.arange(1, 20), 3, replace=False).tolist())
    folder, parts = tmp_path_factory.mktemp("parts"), []
    for number, part in enumerate(np.split(whole, cuts, axis=1)):
        # neurons by images in memory, or images by neurons as `Probe.activations` is
        saved = np.ascontiguousarray(part.T) if by_image else np.ascontiguousarray(part).T
        path = folder / f"{number}.npz"
        np.savez(path, layer=np.array(["a", "bb"] * 3), activations=saved)
        assert mapped(path, "layer").tolist() == ["a", "bb"] * 3
        parts.append(mapped(path, "activations").T)
    made = Activations(parts)
    assert made.shape == (7, 20)
    rows = rng.permutation(7)[:4]
    assert made.rows(rows).dtype == np.float32
    assert np.array_equal(made.rows(rows), whole[rows].astype(np.float32))


def test_what_cannot_be_mapped_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "small.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"array 'a' of .* is compressed"):
        mapped(tmp_path / "small.npz", "a")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "small.npz").read_bytes()[:50])
    for name in ("cut.npz", "absent.npz"):
        with pytest.raises(ArtifactError, match="is absent or damaged"):
            mapped(tmp_path / name, "a")
    with pytest.raises(ValueError, match=r"holds no array 'b'; there are a"):
        mapped(tmp_path / "small.npz", "b")
